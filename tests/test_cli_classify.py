"""`anomalyhub pretrain` and `classify`, and the other verbs on the inspector that comes of it."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import files, run

from anomalyhub import Inspector, cli, load_dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder that holds `data` (the label, which is not square), a detector, an inspector and synthetic defects."""
    place = tmp_path_factory.mktemp("cli_classify")
    commands = [
        f"sample --out {place}/data --product label --train 8 --test 2 --defects 3 --size 64",
        f"fit patchcore --data {place}/data --out {place}/model",
        f"classify fit --model {place}/model --data {place}/data --shots 2 --out {place}/named",
        f"synthesize --data {place}/data --count 96 --set size=64 --out {place}/synthetic",
        f"pretrain --synthetic {place}/synthetic --model {place}/model --out {place}/pretrained",
    ]
    for command in commands:
        assert cli.run(shlex.split(command)) == 0
    return place


@pytest.fixture
def here(place, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "model", "synthetic", "pretrained"):
        (tmp_path / name).symlink_to(place / name)
    shutil.copytree(place / "named", tmp_path / "named")
    return tmp_path


def fit(capfd, arguments: str) -> str:
    """`classify fit`, which may say on standard error whose defect is not found, and nothing else."""
    assert cli.run(shlex.split(f"classify fit {arguments}")) == 0
    out, err = capfd.readouterr()
    assert all(line.startswith("anomalyhub: notice: the detector finds nothing") for line in err.splitlines())
    return out


def test_fit_writes_an_inspector(here):
    kinds = load_dataset("data").classes[1:]
    assert Inspector.load(here / "named").kinds == kinds
    known = json.loads((here / "named" / "examples.json").read_text())
    assert [one["label"] for one in known["examples"]] == [kind for kind in kinds for _ in range(2)]
    assert known["leave_one_out"]["n"] == 2 * len(kinds)


def test_what_fit_says(here, capfd):
    kinds = load_dataset("data").classes[1:]
    said = fit(capfd, "--model model --data data --shots 1 --no-check --out one")
    assert said == f"{len(kinds)} kinds from {len(kinds)} examples ({', '.join(kinds)}): one\n"
    assert json.loads((here / "one" / "examples.json").read_text())["leave_one_out"] == {}
    said = fit(capfd, f"--model model --data data --shots 1 --class {kinds[0]} --class {kinds[1]} --out two")
    assert said.startswith(f"2 kinds from 2 examples ({kinds[0]}, {kinds[1]}): two\n")
    assert f"{kinds[0]} has one example and could not be checked: give another" in said


def test_predict_names_and_measures(here, capfd):
    said = run(capfd, "classify predict named --data data --out found")
    with open("found/classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = load_dataset("data").classes[1:]
    assert list(rows[0]) == ["path", "label", "probability", *kinds] and len(rows) == 3 * len(kinds)
    metrics = json.loads(Path("found/metrics.json").read_text())
    assert metrics["n"] == len(kinds) and metrics["n_examples_left_out"] == 2 * len(kinds)
    assert f"accuracy {metrics['accuracy']:.1%} on {len(kinds)} images that were no examples" in said
    run(capfd, "classify predict named --data data --with-normal --out all")
    assert len(Path("all/classes.csv").read_text().splitlines()) == 1 + 3 * len(kinds) + 2


def test_pretrained_then_fit(here, capfd):
    told = json.loads(Path("pretrained/config.json").read_text())["pretraining"]
    assert told["images"] == 96 and told["product"] == "label" and told["against"] == "bank"
    fit(capfd, "--model model --data data --shots 2 --pretrained pretrained --out named2")
    assert Inspector.load(here / "named2").classifier.pretraining_ == told
    settings = "--set pretrain_episodes=2 --set passes=1 --checkpoints run"
    said = run(capfd, f"pretrain --synthetic synthetic --model model --head contrastive {settings} --out quick")
    assert said == "pretrained contrastive on 96 images of 48 pseudo-classes: quick\n"
    assert (here / "run" / "evidence" / "residuals.npy").exists()


def test_a_threshold_and_more_images_for_an_inspector(here, capfd):
    """Its folders are exchanged with the rest, and it names as before."""
    before = files(here / "named")
    run(capfd, "threshold named --value 0.9")
    after = files(here / "named")
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {"inspector.json"}
    run(capfd, "append named --data data/label/train/good")
    run(capfd, "append named --undo")
    assert files(here / "named").keys() == before.keys()
    again = Inspector.load(here / "named")
    assert again.kinds == Inspector.load(here / "named").kinds and again.threshold == pytest.approx(0.9)


def test_kinds_with_a_detector_that_has_no_patches(here, capfd):
    """MuSc judges a batch by itself, and the crops are named all the same."""
    run(capfd, "fit musc --data data --split test --out musc")
    settings = "--set residual=false --no-check"
    fit(capfd, f"--model musc --data data --shots 2 {settings} --out musc_named")
    run(capfd, "inspect musc_named --data data --out report")
    kinds = {*load_dataset("data").classes, "unknown"}
    with open("report/inspections.csv", encoding="utf-8", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} <= kinds


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ("classify fit --model model --data data --shots 0 --out x", "at least 1 example per class, got 0"),
        ("classify fit --model model --data data --shots few --out x", "shots='few' is not a whole number"),
        ("classify fit --model model --out x", "give --data or --kinds"),
        ("classify fit --model nowhere --data data --out x", "nowhere does not exist"),
        ("classify fit --model model --data data --head prototyp --out x", "did you mean 'prototype'"),
        ("classify fit --model model --data data --class nothing --out x", "class nothing has no example"),
        ("classify fit --model model --data data --pretrained model --out x", "not a classifier"),
        (
            "classify fit --model model --data data --head direct --pretrained pretrained --out x",
            "give --head prototype",
        ),
        ("classify fit --model model --data data --set wdith=1 --out x", "did you mean 'width'"),
        ("classify fit --model model --data data --binarizer mebn --out x", "did you mean 'mebin'"),
        ("classify fit --model model --data data --masks painted --out x", "masks"),
        ("classify fit --model model --data unknown --out x", "a class cannot be called 'unknown'"),
        ("classify fit --model model --data twins --out x", "are the same image and examples of both"),
        ("classify fit --model model --data one --out x", "of 1 class and telling kinds apart takes 2"),
        ("classify fit --model model --data data/label/train --out x", "has no labelled defects"),
        ("classify predict model --data data --out x", "this model knows no kinds"),
        ("classify predict pretrained --data data --out x", "not a detector"),
        ("classify predict named --data data/label/train/good --exclude good --out x", ""),
        ("pretrain --synthetic data --model model --out x", "data"),
        ("pretrain --synthetic synthetic --model named/classifier --out x", "not a detector"),
        ("pretrain --synthetic synthetic --model model --head direct --out x", "learns nothing from synthetic defects"),
        ("pretrain --synthetic synthetic --model model --against cleen --out x", "against"),
    ],
)
def test_bad_input_is_one_sentence(here, capfd, arguments, reason):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    for number, (folder, kind) in enumerate([("unknown", "unknown"), ("unknown", "b"), ("twins", "a"), ("twins", "b")]):
        at = here / folder / kind
        at.mkdir(parents=True)
        Image.fromarray(pixels if folder == "twins" else np.roll(pixels, number, 0)).save(at / "1.png")
    (here / "one" / "a").mkdir(parents=True)
    Image.fromarray(pixels).save(here / "one" / "a" / "1.png")
    code = cli.run(shlex.split(arguments))
    out, err = capfd.readouterr()
    if not reason:
        assert code == 0  # a flat folder has no labels, so nothing is left out
        return
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("anomalyhub: ") and reason in last and "Traceback" not in err
    assert not (here / "x").exists() and not list(here.glob(".anomalyhub-*"))
