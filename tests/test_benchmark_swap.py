"""The swap bench: chains of detector, binarizer and classifier, and the stages that their errors come from."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from anomalyhub import cli
from anomalyhub.benchmark.chains import BEST, CHAIN, TRUE, _attributed, _drawn, best_threshold_mask
from anomalyhub.benchmark.swap import STAGES, SwapConfig, swap, swap_to
from anomalyhub.data.sample import write_sample
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidDatasetError

QUICK = "patchcore,coreset=0.1,resize=64,crop=64,calibration_images=4"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("swap") / "data"
    write_sample(folder, products=["ring"], n_train=6, n_test_good=3, n_defect=3, size=64)
    return str(folder)


def config(data: str, **changes) -> SwapConfig:
    return SwapConfig(
        data, **{"detectors": (QUICK,), "classifiers": ("prototype",), "shots": 2, "seeds": (0, 1), **changes}
    )


@pytest.fixture(scope="module")
def swapped(data):
    return swap(config(data))


def test_every_chain_has_a_row_and_its_parts_add_up(swapped):
    assert [(row["binarizer"], row["seed"]) for row in swapped.rows] == [
        ("mebin", 0),
        ("mebin", 1),
        ("otsu", 0),
        ("otsu", 1),
    ]
    for row in swapped.rows:
        assert row["accuracy"] + sum(row["lost"].values()) == pytest.approx(1.0)
        assert 0.0 <= row["image_auroc"] <= 1.0 and row["n"] == 3 + row["n_defective"]
        assert row["n_defective"] == 4  # one of the three images of each of four kinds is left to test


def test_the_best_chain_comes_first_with_mean_and_sample_deviation(swapped):
    summary = swapped.summary()
    means = [row["accuracy"][0] for row in summary]
    assert means == sorted(means, reverse=True) and [row["seeds"] for row in summary] == [2, 2]
    values = [row["accuracy"] for row in swapped.rows if row["binarizer"] == summary[0]["binarizer"]]
    assert summary[0]["accuracy"] == pytest.approx((np.mean(values), np.std(values, ddof=1)))


def test_the_same_seeds_give_the_same_rows_and_an_interrupted_run_goes_on(data, swapped, tmp_path):
    class Stopped(Exception):
        pass

    def stop(fraction: float, text: str) -> None:
        if "otsu" in text:
            raise Stopped

    with pytest.raises(Stopped):
        swap(config(data), progress=stop, checkpoints=tmp_path)
    (kept,) = tmp_path.iterdir()
    lines = kept.read_text().splitlines()
    assert len(lines) == 2  # what was asked for, and the row that was finished
    kept.write_text(kept.read_text() + lines[1][:20])  # as a kill in the middle of a line leaves it
    looked_at = []
    again = swap(config(data), progress=lambda fraction, text: looked_at.append(text), checkpoints=tmp_path)
    assert again.rows == swapped.rows
    assert not any("mebin, prototype, seed 0" in text for text in looked_at)
    other = swap(config(data, shots=1), checkpoints=tmp_path)  # another question: nothing of the kept rows serves
    assert other.rows != swapped.rows and other.rows[0]["n_defective"] == 8


def test_what_a_detector_cannot_show_is_said(data):
    made = swap(
        config(data, detectors=("musc",), binarizers=("otsu",), classifiers=("prototype", "relation"), seeds=(0,))
    )
    assert [row["classifier"] for row in made.rows] == ["prototype"]
    assert any("relation" in notice and "left out" in notice for notice in made.notices)
    with pytest.raises(InvalidArgumentError, match="patchcore"):
        swap(config(data, detectors=("musc",), classifiers=("relation",)))


def test_without_masks_only_the_verdict_is_attributed(data, tmp_path):
    import shutil

    shutil.copytree(f"{data}/ring", tmp_path / "ring")
    shutil.rmtree(tmp_path / "ring" / "ground_truth")
    (row,) = swap(config(str(tmp_path / "ring"), binarizers=("mebin",), seeds=(0,))).rows
    assert row["lost"]["verdict"] is not None and row["lost"]["map"] is None
    made = swap_to(tmp_path, config(str(tmp_path / "ring"), binarizers=("mebin",), seeds=(0,)))
    assert made.summary()[0]["lost"]["classifier"] is None
    assert (tmp_path / "lost.png").stat().st_size > 1000


def test_attribution_by_hand():
    right = {
        CHAIN: np.array([1, 1, 0, 0], bool),
        BEST: np.array([1, 1, 1, 0], bool),
        TRUE: np.array([1, 1, 1, 1], bool),
    }
    found = _attributed(right, verdicts=np.array([1, 0, 1, 1], bool), right_goods=5, n_goods=6)
    # right as it is: 5 good ones and the first defective one, of 10
    assert found["accuracy"] == 0.6 and found["kind_accuracy"] == 0.5
    assert [found["lost"][stage] for stage in STAGES] == pytest.approx([0.2, 0.1, 0.1, 0.0])


def test_best_threshold_is_the_best_of_all(seed=3):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (7, 5)).astype(np.float32)  # with ties
    mask = rng.random((7, 5)) < 0.3
    chosen = best_threshold_mask(scores, mask)

    def iou(found):
        return (found & mask).sum() / (found | mask).sum()

    assert iou(chosen) == max(iou(scores >= level) for level in np.unique(scores))
    assert any((chosen == (scores >= level)).all() for level in np.unique(scores))


def test_examples_leave_a_test_image_of_each_kind():
    labels = np.array(["a"] * 5 + ["b"] * 2, object)
    drawn = [_drawn(labels, 3, seed) for seed in range(20)]
    assert all(chosen[:5].sum() == 3 and chosen[5:].sum() == 1 for chosen in drawn)
    assert len({tuple(chosen) for chosen in drawn}) > 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"detectors": ("patchcor",)}, "patchcore"),
        ({"binarizers": ("otso",)}, "otsu"),
        ({"classifiers": ("prototype,nothing=1",)}, "nothing"),
        ({"binarizers": ("mebin", "mebin")}, "twice"),
        ({"seeds": ()}, "empty"),
        ({"shots": 0}, "at least 1"),
        ({"exclude": ("chip", "dent", "scratch")}, "two kinds"),
        ({"product": "rong"}, "ring"),
    ],
)
def test_bad_input_is_said_before_the_work(data, changes, words):
    with pytest.raises(AnomalyHubError, match=words):
        swap(config(data, **changes), progress=lambda fraction, text: pytest.fail(text))


def test_a_kind_with_one_image_is_left_out_with_a_notice(data, tmp_path):
    import shutil

    shutil.copytree(f"{data}/ring", tmp_path / "ring")
    kinds = sorted(path for path in (tmp_path / "ring" / "test").iterdir() if path.name != "good")
    for image in sorted(kinds[0].iterdir())[1:]:
        image.unlink()
    made = swap(config(str(tmp_path / "ring"), binarizers=("mebin",), seeds=(0,)))
    assert any(kinds[0].name in notice for notice in made.notices) and made.rows[0]["n_defective"] == 3
    shutil.rmtree(tmp_path / "ring" / "test" / kinds[1].name)
    shutil.rmtree(tmp_path / "ring" / "test" / kinds[2].name)
    with pytest.raises(InvalidDatasetError, match="two kinds"):
        swap(config(str(tmp_path / "ring")))


def test_the_verb_writes_a_table_a_picture_and_json(data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["swap", "--data", data, "--detector", QUICK, "--binarizer", "otsu", "--classifier", "prototype"]
    assert cli.run([*arguments, "--shots", "2", "--seeds", "1", "--out", str(out)]) == 0
    assert "% right" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["lost.png", "swap.csv", "swap.json"]
    (row,) = csv.DictReader((out / "swap.csv").read_text().splitlines())
    stored = json.loads((out / "swap.json").read_text())
    assert float(row["accuracy"]) == pytest.approx(stored["rows"][0]["accuracy"], abs=1e-5)
    assert row["accuracy_std"] == "" and stored["kind"] == "swap"
    assert cli.run([*arguments, "--false-alarm-rate", "2", "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
