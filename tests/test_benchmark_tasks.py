"""What a unit measures: the protocols of the three tasks, and what none of them may read."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from benchmark_trees import mvtec

from anomalyhub.benchmark.config import parse_config
from anomalyhub.benchmark.records import recomputed
from anomalyhub.benchmark.sources import Sources
from anomalyhub.benchmark.tasks import examples, measure
from anomalyhub.benchmark.units import make_plan
from anomalyhub.benchmark.work import Work
from anomalyhub.data import load_dataset, support_sets
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError
from anomalyhub.pipeline import Inspector, evaluate

DETECTION = {"task": "detection", "method": "patchcore", "settings": {"resize": 64, "batch_size": 2}}
DETECTOR = {"method": "patchcore", "settings": {"resize": 64}}
CLASSES = {"task": "classification", "method": "contrastive", "detector": DETECTOR, "shots": [1]}
DISCOVERY = {"task": "discovery", "method": "clustering", "settings": {"whiten_views": 0, "calibrate": False}}


@pytest.fixture(scope="module")
def part(tmp_path_factory) -> Path:
    return mvtec(tmp_path_factory.mktemp("data") / "part", kinds=("blot", "combined", "stain"))


@pytest.fixture
def work(tmp_path, part) -> Work:
    return Work(tmp_path / "work", Sources(part.parent, {}, None))


def planned(work: Work, value: dict, data: Path | None = None) -> list:
    sources = work.sources if data is None else Sources(None, {"part": str(data)}, None)
    return make_plan(parse_config({"dataset": "part", **value}, "mine", "mine.yaml"), sources)


def test_detection_is_what_the_pipeline_measures(work, part):
    (one,) = planned(work, {**DETECTION, "seeds": [3]})
    found = measure(one, work)
    data = load_dataset(part)
    inspector = Inspector.fit("patchcore", data.train, product="part", seed=3, settings=DETECTION["settings"])
    expected = evaluate(inspector, data.test)
    assert found.metrics == {name: expected[name] for name in found.metrics} and len(found.metrics) == 7
    assert found.n_images == len(data.test) and [row[0] for row in found.predictions.rows] == list(data.test.ids)
    assert recomputed("detection", found.predictions) == {name: found.metrics[name] for name in list(found.metrics)[:3]}
    assert set(found.seconds) == {"fit", "predict", "metrics"} and min(found.seconds.values()) > 0


@pytest.mark.parametrize(("shots", "expected"), [(None, 3), (2, 2), (0, 0)])
def test_shots_choose_the_normal_images_that_are_fitted_on(work, monkeypatch, part, shots, expected):
    fitted = []
    original = Inspector.fit.__func__

    def fit(cls, detector, samples, **options):
        fitted.append([sample.id for sample in samples])
        return original(cls, detector, samples, **options)

    monkeypatch.setattr(Inspector, "fit", classmethod(fit))
    method = "musc" if shots == 0 else "patchcore"
    value = {**DETECTION, "method": method, "settings": {"resize": 64}, "seeds": [11], "metrics": ["image_auroc"]}
    (one,) = planned(work, {**value, **({} if shots is None else {"shots": [shots]})})
    assert set(measure(one, work).metrics) == {"image_auroc"}
    train = load_dataset(part).train
    chosen = support_sets(3, shots, 12)[11] if shots else range(expected)
    assert fitted == [[train.ids[index] for index in chosen]]


def test_classes_that_are_left_out_are_not_measured(work):
    (one,) = planned(work, {**DETECTION, "exclude_classes": ["combined", "not-there"]})
    found = measure(one, work)
    assert {row[1] for row in found.predictions.rows} == {"good", "blot", "stain"} and found.n_images == 9
    (kinds,) = planned(work, {**DISCOVERY, "masks": "ground-truth", "exclude_classes": ["combined", "not-there"]})
    found = measure(kinds, work)
    assert found.n_images == 9 and len(found.predictions.columns) == 3 + 3  # as many kinds as there are classes


def test_discovery_with_ground_truth_masks_and_with_a_detector(work):
    rows = [{"masks": "ground-truth", "variant": "oracle"}, {"detector": DETECTOR}]
    oracle, whole = (measure(one, work) for one in planned(work, {**DISCOVERY, "rows": rows}))
    assert oracle.metrics["nmi"] > 0.6  # white and blue squares are told apart
    for found in (oracle, whole):
        image = recomputed("discovery", found.predictions)
        assert image == {name: found.metrics[name] for name in ("nmi", "ari", "f1")}
        assert {"region_nmi", "region_ari", "region_f1"} < set(found.metrics)
    assert "detector" in whole.seconds and "detector" not in oracle.seconds


def test_held_out_images_are_measured_alone(work):
    (one,) = planned(work, {**DISCOVERY, "masks": "ground-truth", "holdout": 0.5, "classes": 3})
    found = measure(one, work)
    assert one.unit.protocol == "inductive" and found.n_images == 6 == len(found.predictions.rows)


def test_examples_are_the_first_of_each_class_and_the_rest_the_test():
    labels = ["b", "a", "b", "a", "b", "c"]
    assert examples(labels, 2) == ([1, 3, 0, 2, 5], [4])
    assert examples(labels, 1) == ([1, 0, 5], [2, 3, 4])


def test_classification_shows_the_labels_of_the_examples_alone(work, monkeypatch):
    from anomalyhub.classification.contrastive import ContrastiveClassifier

    shown, asked = [], []
    fit, predict = ContrastiveClassifier.fit, ContrastiveClassifier.predict
    monkeypatch.setattr(ContrastiveClassifier, "fit", lambda self, seen: shown.extend(seen) or fit(self, seen))
    monkeypatch.setattr(ContrastiveClassifier, "predict", lambda self, seen: asked.extend(seen) or predict(self, seen))
    (one,) = planned(work, CLASSES)
    found = measure(one, work)
    kinds = ("blot", "combined", "stain")
    assert [(one.id, one.label) for one in shown] == [(f"test/{kind}/000.png", kind) for kind in kinds]
    assert [one.id for one in asked] == [f"test/{kind}/{number:03d}.png" for kind in kinds for number in (1, 2)]
    assert {one.label for one in asked} == {None}
    assert recomputed("classification", found.predictions) == dict(found.metrics) and found.n_images == 6
    (with_good,) = planned(work, {**CLASSES, "normal_class": True})
    assert {row[1] for row in measure(with_good, work).predictions.rows} == {*kinds, "good"}


def test_no_prediction_depends_on_masks_or_on_labels_of_the_test(work, part, tmp_path):
    """Other masks and other names of classes: scores, kinds and probabilities are the same, bit for bit."""
    other = tmp_path / "part"
    shutil.copytree(part, other)
    for path in other.rglob("*_mask.png"):
        cv2.imwrite(str(path), np.roll(cv2.imread(str(path), 0), 9, axis=1))
    for before, after in (("blot", "ant"), ("stain", "zebra")):  # their order stays
        for folder in ("test", "ground_truth"):
            (other / folder / before).rename(other / folder / after)
    rows = [DETECTION, {**DISCOVERY, "detector": DETECTOR}, CLASSES]
    here = [measure(one, work) for one in planned(work, {"rows": rows})]
    there = [
        measure(one, Work(tmp_path / "other", Sources(None, {"part": str(other)}, None)))
        for one in planned(work, {"rows": rows}, other)
    ]
    renamed = {"blot": "ant", "stain": "zebra"}
    for one, moved in zip(here, there, strict=True):
        first = [[renamed.get(cell, cell) for cell in row[2:]] for row in one.predictions.rows]
        assert first == [list(row[2:]) for row in moved.predictions.rows]


def test_pretraining_and_auxiliary_weights_are_made_once(work, part, tmp_path, monkeypatch):
    from anomalyhub.pipeline import pretrain as stage
    from anomalyhub.pipeline import train as other_stage

    made = []
    pretrain, train = stage.pretrain, other_stage.train
    monkeypatch.setattr(stage, "pretrain", lambda *a, **k: made.append("pretrain") or pretrain(*a, **k))
    monkeypatch.setattr(other_stage, "train", lambda *a, **k: made.append("train") or train(*a, **k))
    value = {**CLASSES, "settings": {"pretrain_episodes": 2, "pretrain_classes": 2, "passes": 1}, "shots": [1, 2]}
    value["pretraining"] = {"count": 96, "synthesis": {"size": 48}}
    found = [measure(one, work) for one in planned(work, value)]
    assert made == ["pretrain"] and all(one.seconds["pretrain"] > 0 for one in found)
    auxiliary = {"trainer": "siamese", "datasets": ["others"], "settings": {"epochs": 1, "size": 64, "batch_size": 2}}
    mvtec(tmp_path / "data" / "others" / "wood")
    sources = Sources(tmp_path / "data", {"part": str(part)}, None)
    row = {"task": "detection", "method": "siamese", "shots": [1], "seeds": [0, 1], "settings": {"resize": 64}}
    config = {"dataset": "part", **row, "backbone": "embedded", "auxiliary": auxiliary}
    plan = make_plan(parse_config(config, "mine", "mine.yaml"), sources)
    shop = Work(tmp_path / "shop", sources)
    assert len([measure(one, shop) for one in plan]) == 2 and made == ["pretrain", "train"]


def test_weights_that_have_seen_the_images_are_refused(work, part, tmp_path):
    value = {"task": "detection", "method": "siamese", "backbone": "embedded", "shots": [1], "settings": {"resize": 64}}
    value["auxiliary"] = {"trainer": "siamese", "datasets": ["part"]}
    value["auxiliary"]["settings"] = {"epochs": 1, "size": 64, "batch_size": 2}
    (one,) = planned(work, value)
    with pytest.raises(InvalidArgumentError, match="take weights trained on other products"):
        measure(one, work)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({**CLASSES, "shots": [3]}, "leaves no image to test: give fewer shots"),
        ({**DETECTION, "shots": [4]}, "4 support images were asked for and there are 3"),
        ({**DETECTION, "exclude_classes": ["good", "blot", "combined", "stain"]}, "evaluation needs labelled images"),
    ],
)
def test_a_unit_that_cannot_be_measured_says_why(work, value, message):
    (one,) = planned(work, value)
    with pytest.raises((InvalidDatasetError, InvalidArgumentError), match=message):
        measure(one, work)
