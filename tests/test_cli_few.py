"""The command line with no normal images or a few: fit with shots, train, and what it warns of."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from clip_helpers import tiny_clip_folder
from test_cli import run, table

from anomalyhub import cli
from anomalyhub.data.sample import write_sample

SMALL = "--set resize=64"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two products of the sample at 64 pixels, and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("few")
    counts = {"n_train": 6, "n_test_good": 3, "n_defect": 1}
    write_sample(folder / "data", products=("label", "ring"), size=64, **counts)
    tiny_clip_folder(folder / "clip")
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """An empty working folder with links to the data and the CLIP."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "clip"):
        (tmp_path / name).symlink_to(place / name)
    return tmp_path


def aloud(capfd, arguments: str) -> tuple[str, str]:
    """Run in this process, expecting success; returns standard output and standard error."""
    code = cli.run(shlex.split(arguments))
    out, err = capfd.readouterr()
    assert code == 0, err
    return out, err


def test_unlabelled_images_alone_or_as_a_reference(here, capfd):
    said = run(capfd, "fit musc --data data --product label --split test --out kept")
    assert re.search(r"fitted musc on \d+ test images of label: kept\nthreshold .* \(unlabelled, 1.00%", said)
    run(capfd, "fit musc --shots 0 --out none")
    run(capfd, "predict kept --data data --product label --out by_reference")
    run(capfd, "predict none --data data --product label --out together")
    kept, together = table(here / "by_reference"), table(here / "together")
    assert kept.keys() == together.keys()
    for name, row in kept.items():
        assert float(row["score"]) == pytest.approx(float(together[name]["score"]), abs=1e-4)
        assert row["is_anomalous"] == together[name]["is_anomalous"] and float(row["p_value"]) <= 1
    run(capfd, "evaluate none --data data --product label --json m.json")
    assert json.loads((here / "m.json").read_text())["operating_point"]["method"] == "unlabelled"


@pytest.mark.parametrize("method", ["patchcore --set augment=true", "siamese"])
def test_a_few_fixed_shots(here, capfd, method):
    fit = f"fit {method} --data data --product ring --shots 3"
    assert "on 3 normal images of ring: a\n" in run(capfd, f"{fit} --out a")
    run(capfd, f"{fit} --out b")
    run(capfd, f"{fit} --support-set 1 --out c")
    scores = []
    for model in "abc":
        run(capfd, f"predict {model} --data data --product ring --no-maps --out {model}_results")
        scores.append([row["score"] for row in table(here / f"{model}_results").values()])
    assert scores[0] == scores[1] != scores[2]


def test_nothing_but_a_name(here, capfd):
    said = run(capfd, f"fit winclip --shots 0 --product 'metal ring' --backbone clip@clip {SMALL} --out named")
    assert "fitted winclip on 0 normal images of metal ring" in said and "threshold 0.5000 (its scores' own" in said
    assert json.loads((here / "named" / "config.json").read_text())["config"]["product"] == "metal ring"
    run(capfd, "predict named --data data --product ring --out results")
    assert {row["p_value"] for row in table(here / "results").values()} == {""}


def test_what_the_prompts_call_a_folder(here, capfd):
    """Its own name where it is a product, --product where that is given, else an object."""
    (here / "good").symlink_to(here / "data" / "ring" / "train" / "good")
    fit = f"fit winclip --shots 2 --backbone clip@clip {SMALL}"
    for arguments, name in (
        ("--data good --product 'metal ring'", "metal ring"),
        ("--data good", "object"),
        ("--data data/ring", "ring"),
        ("--data data/ring --product 'metal_ring'", "metal ring"),
        ("--data data --product ring", "ring"),
        ("--data data --product ring --set product=washer", "washer"),
    ):
        run(capfd, f"{fit} {arguments} --overwrite --out m")
        assert json.loads((here / "m" / "config.json").read_text())["config"]["product"] == name


def test_a_batch_gets_its_threshold_as_it_was_asked_for(here, capfd):
    said = run(capfd, "fit musc --shots 0 --false-alarm-rate 0.3 --out none")
    assert "the threshold will come from the images that are judged together" in said
    run(capfd, "evaluate none --data data --product label --json m.json")
    point = json.loads((here / "m.json").read_text())
    assert point["operating_point"]["target_false_alarm_rate"] == 0.3
    assert point["seconds_per_image"] > 1e-3  # the comparison itself, before which nothing is there to predict
    run(capfd, "threshold none --value 0.9")
    run(capfd, "predict none --data data --product label --out r")
    assert {row["is_anomalous"] for row in table(here / "r").values()} == {"false"}


def test_train_and_use_the_weights_elsewhere(here, capfd):
    train = f"train april-gan --data data --product ring --backbone clip@clip {SMALL} --set epochs=2 --set lr=0.01"
    out, err = aloud(capfd, f"{train} --target data/label --out april")
    assert "images of ring: april" in out and err == ""
    first, last = map(float, re.search(r"loss ([\d.]+) in epoch 1, ([\d.]+) in epoch 2", out).groups())
    assert last < first
    run(capfd, f"fit april-gan --shots 0 --product label --backbone clip@clip {SMALL} --set weights=april --out label")
    out, err = aloud(capfd, "evaluate label --data data --product label --json m.json")
    assert err == "" and "warning" not in json.loads((here / "m.json").read_text())
    out, err = aloud(capfd, "evaluate label --data data --product ring")
    assert re.search(r"WARNING: \d+ of the \d+ images were among the training images of these weights \(ring\)", err)


def test_train_says_loudly_that_the_target_was_trained_on(here, capfd):
    train = "train siamese --data data --exclude label --set epochs=2 --set batch_size=4 --set size=64 --checkpoints c"
    out, err = aloud(capfd, f"{train} --target data --out weights")
    assert "trained siamese on 6 images of ring: weights" in out
    assert re.match(r"anomalyhub: WARNING: 6 of the \d+ images were among the training images", err)
    fit = f"fit siamese --data data --product label --shots 2 {SMALL} --set weights=weights --out m"
    assert "on 2 normal images of label" in run(capfd, fit)
    run(capfd, f"{train} --out again")  # from the checkpoint, which is the end of the first run
    weights = [(here / name / "state.safetensors").read_bytes() for name in ("weights", "again")]
    assert weights[0] == weights[1]
    run(capfd, "predict m --data data --product label --no-maps --out scored")
    assert np.isfinite([float(row["score"]) for row in table(here / "scored").values()]).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fit musc --data data --product ring --shots 1 --out o", ["at least 2", "got 1"]),  # one image for MuSc
        ("fit patchcore --data data --product ring --shots 7 --out o", ["7 support images", "there are 6"]),
        ("fit patchcore --shots 0 --out o", ["no normal images to fit on"]),
        ("fit winclip --shots 0 --product ring --out o", ["clip-vit-large-patch14-336", "HF_HUB_OFFLINE", "clip@"]),
        ("fit winclip --shots 0 --product ' ' --backbone clip@clip --out o", ["product"]),
        (f"fit winclip --shots 0 --product '{'ring ' * 300}' --backbone clip@clip --out o", ["tokens"]),
        ("fit winclip --shots 0 --backbone clip@clip --set layers=9 --out o", ["layers [9]", "1 to 4"]),
        ("fit winclip --shots 0 --product ring --backbone embedded --out o", ["embedded", "--backbone clip"]),
        ("fit april-gan --shots 0 --product ring --backbone clip@clip --out o", ["weights", "train april-gan"]),
        (
            "fit siamese --data data --product ring --set weights=data --out o",
            ["is not a model folder (no config.json)"],
        ),
        ("train siamese --data data --target nowhere --checkpoints c --out o", ["nowhere", "does not exist"]),
        ("train april-gan --data data --backbone embedded --out o", ["embedded", "clip"]),
        ("train siamese --data data --product all --exclude label --exclude ring --out o", ["every product"]),
    ],
)
def test_bad_input(here, capfd, arguments, words):
    assert cli.run(shlex.split(arguments)) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1 and not [word for word in words if word not in err], err
    assert not (here / "o").exists() and not (here / "c").exists() and out == ""
