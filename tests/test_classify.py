"""anomalyhub.pipeline.classify and pretrain: from examples to an inspector, and what it says of other images."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from classify_helpers import MeanHead, registered
from PIL import Image

from anomalyhub.config import configure
from anomalyhub.data import load_dataset
from anomalyhub.data.sample import write_sample
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidModelError
from anomalyhub.metrics import classification_metrics
from anomalyhub.pipeline import Inspector
from anomalyhub.pipeline.classify import ClassifyConfig, classify, classify_to, predict_to, read_examples
from anomalyhub.pipeline.pretrain import PretrainConfig, pretrain, pretrain_to
from anomalyhub.pipeline.synthesize import SynthesizeConfig, synthesize_to


@pytest.fixture(scope="module", autouse=True)
def mean_head():
    with registered(MeanHead):
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A sample product on disk, a detector of it, and synthetic defects."""
    root = tmp_path_factory.mktemp("classify")
    write_sample(root / "data", products=["ring"], n_train=10, n_test_good=2, n_defect=3, size=96, seed=3)
    dataset = load_dataset(root / "data", "ring")
    Inspector.fit("patchcore", dataset.train, product="ring", settings={"coreset": 0.05}).save(root / "model")
    (root / "synthetic").mkdir()
    drawn = SynthesizeConfig(data=str(root / "data"), product="ring", count=8, settings={"size": 96})
    synthesize_to(root / "synthetic", drawn, seed=1)
    return root


def config(world, **changes):
    given = {"model": str(world / "model"), "data": str(world / "data"), "product": "ring", "shots": 2, "head": "mean"}
    return configure(ClassifyConfig, given | changes)


@pytest.fixture(scope="module")
def made(world):
    (world / "inspector").mkdir()
    return classify_to(world / "inspector", config(world))


def test_the_first_images_of_each_class_by_name_are_the_examples(world, made):
    dataset = load_dataset(world / "data", "ring")
    expected = [ref.id for kind in dataset.classes[1:] for ref in dataset.test.refs if ref.label == kind]
    expected = [name for number, name in enumerate(expected) if number % 3 < 2]
    assert [one["id"] for one in made.examples] == expected and made.inspector.kinds == dataset.classes[1:]
    assert len(made.inspector.naming.references) == 10 and made.check["n"] == len(expected)
    assert {row["id"] for row in made.check["rows"]} == set(expected) and made.check["unchecked"] == []


def test_what_is_written_is_read_again(world, made):
    stored = read_examples(world / "inspector")
    assert stored["examples"] == list(made.examples) and stored["leave_one_out"]["accuracy"] == made.check["accuracy"]
    loaded = Inspector.load(world / "inspector")
    samples = load_dataset(world / "data", "ring").test
    for one, other in zip(loaded.inspect(samples), made.inspector.inspect(samples), strict=True):
        assert (one.score, one.labels, one.label, one.probs) == (other.score, other.labels, other.label, other.probs)


def test_same_seed_same_result(world, made):
    again = classify(config(world))
    np.testing.assert_array_equal(again.inspector.classifier.means_, made.inspector.classifier.means_)


def test_predict_takes_all_images_for_defective(world, made, tmp_path):
    samples = load_dataset(world / "data", "ring").test
    known = [one["digest"] for one in made.examples]
    metrics = predict_to(tmp_path, made.inspector, samples, known=known)
    with open(tmp_path / "classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(samples.ids) and list(rows[0])[3:] == list(made.inspector.kinds)
    for row in rows:
        probs = {kind: float(row[kind]) for kind in made.inspector.kinds}
        assert sum(probs.values()) == pytest.approx(1, abs=1e-4) and float(row["probability"]) == max(probs.values())
        assert row["label"] in (max(probs, key=probs.get), "unknown")
    assert metrics["n_examples_left_out"] == len(known) and metrics["n"] == len(samples) - len(known)
    named = {row["path"]: max(made.inspector.kinds, key=lambda kind: float(row[kind])) for row in rows}
    left = [ref for ref in samples.refs if ref.id not in {one["id"] for one in made.examples}]
    right = sum(named[ref.id] == ref.label for ref in left)
    assert metrics["accuracy"] == pytest.approx(right / len(left))
    assert json.loads((tmp_path / "metrics.json").read_text())["confusion"] == metrics["confusion"]


def test_examples_of_a_person(world, tmp_path):
    """One image twice, with its defects marked apart; another without a mark."""
    dataset = load_dataset(world / "data", "ring")
    refs = [ref for ref in dataset.test.refs if ref.label == dataset.classes[1]]
    size = refs[0].load().image.shape[:2]
    for name, rows in (("top", slice(0, 20)), ("bottom", slice(60, 96))):
        mask = np.zeros(size, np.uint8)
        mask[rows, 10:50] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    path = str(refs[0].path)
    marked = [("a", path, "top", str(tmp_path / "top.png")), ("a", path, "bottom", str(tmp_path / "bottom.png"))]
    plain = [("b", str(refs[1].path), "top", None), ("c", str(refs[2].path), "bottom")]
    found = classify(config(world, data=None, product=None, examples=(*marked, *plain)))
    boxes = [one["regions"][0]["box"] for one in found.examples]
    assert [one["label"] for one in found.examples] == ["bottom", "bottom", "top", "top"]
    areas = {one["label"]: one["regions"][0]["area"] for one in found.examples if one["id"] == "a"}
    assert areas == {"top": 800, "bottom": 1440} and boxes[0] != boxes[2]
    assert found.inspector.naming.references == ()


def test_an_example_in_which_nothing_is_found_is_named(world):
    dataset = load_dataset(world / "data", "ring")
    good = [ref for ref in dataset.test.refs if ref.label == "good"]
    bad = [ref for ref in dataset.test.refs if ref.label != "good"]
    examples = [(ref.id, str(ref.path), "fine") for ref in good] + [(ref.id, str(ref.path), "bad") for ref in bad[:2]]
    found = classify(config(world, data=None, product=None, examples=tuple(examples)))
    named = {one["id"] for one in found.examples if not one["located"]}
    assert named & {ref.id for ref in good} and len(found.notices) == len(named)
    assert all(any(name in text for text in found.notices) for name in named)
    assert all("the detector finds nothing abnormal in" in text and "mark the defect" in text for text in found.notices)


@pytest.mark.parametrize(
    "changes, error, reason",
    [
        ({"shots": 0}, InvalidArgumentError, "at least 1 example"),
        ({"data": None}, InvalidArgumentError, "give --data or --kinds"),
        ({"kinds": "x"}, InvalidArgumentError, "give --data or --kinds"),
        ({"classes": ("dent", "nothing")}, InvalidDatasetError, "class .* has no example: give at least one"),
        ({"model": "nowhere"}, InvalidModelError, "does not exist"),
        ({"head": "menn"}, InvalidArgumentError, "did you mean 'mean'"),
        ({"pretrained": "nowhere"}, InvalidModelError, "does not exist"),
        ({"split": "train"}, InvalidDatasetError, "has no labelled defects"),
        ({"data": None, "product": None, "examples": (("a", "b"),)}, InvalidArgumentError, "class\\) or with a mask"),
    ],
)
def test_bad_input(world, changes, error, reason):
    with pytest.raises(error, match=reason):
        classify(config(world, **changes))


def test_fewer_examples_than_shots(world):
    found = classify(config(world, shots=9))
    few = [text for text in found.notices if "has 3 of the 9 examples asked for: all are taken" in text]
    assert len(few) == len(found.inspector.kinds) and len(found.examples) == 3 * len(few)


class TestPretrain:
    def asked(self, world, **changes):
        given = {"synthetic": str(world / "synthetic"), "model": str(world / "model"), "head": "mean"}
        return configure(PretrainConfig, given | changes)

    def test_then_fit(self, world, tmp_path):
        (tmp_path / "p").mkdir()
        done = pretrain_to(tmp_path / "p", self.asked(world), checkpoints=tmp_path)
        assert done.pretraining_["images"] == 8 and done.pretraining_["product"] == "ring"
        assert (tmp_path / "evidence" / "residuals.npy").exists()
        found = classify(config(world, pretrained=str(tmp_path / "p")))
        np.testing.assert_array_equal(found.inspector.classifier.centre_, done.centre_)
        with pytest.raises(InvalidArgumentError, match="keeps its settings"):
            classify(config(world, pretrained=str(tmp_path / "p"), settings={"known": 0.5}))

    def test_residuals_against_the_bank_or_the_clean_image(self, world):
        bank, clean = pretrain(self.asked(world)), pretrain(self.asked(world, against="clean"))
        assert np.abs(bank.centre_ - clean.centre_).max() > 0.01 and clean.pretraining_["against"] == "clean"

    def test_features_of_another_detector_are_refused(self, world, tmp_path):
        (tmp_path / "p").mkdir()
        dataset = load_dataset(world / "data", "ring")
        settings = {"coreset": 0.05, "resize": 96}
        Inspector.fit("patchcore", dataset.train, settings=settings).save(tmp_path / "other")
        pretrain_to(tmp_path / "p", self.asked(world))
        with pytest.raises(InvalidModelError, match="pretrained on features of another detector"):
            classify(config(world, pretrained=str(tmp_path / "p"), model=str(tmp_path / "other")))

    @pytest.mark.parametrize(
        "changes, reason",
        [({"synthetic": "nowhere"}, "nowhere"), ({"against": "bnk"}, "against"), ({"masks": "own"}, "masks")],
    )
    def test_bad_input(self, world, changes, reason):
        with pytest.raises((InvalidArgumentError, InvalidDatasetError), match=reason):
            pretrain(self.asked(world, **changes))


def test_classification_metrics():
    true, named = ["a", "a", "a", "b", "c", "c"], ["a", "b", "a", "b", "a", "unknown"]
    found = classification_metrics(true, named)
    assert found["accuracy"] == 0.5 and found["recall"] == {"a": 2 / 3, "b": 1.0, "c": 0.0}
    assert found["balanced_accuracy"] == pytest.approx(5 / 9) and found["n"] == 6
    assert found["confusion"]["classes"] == ["a", "b", "c", "unknown"]
    assert found["confusion"]["counts"] == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    empty = classification_metrics([], [])
    assert empty["accuracy"] is None and "no sample" in empty["why"]["accuracy"]
    with pytest.raises(InvalidArgumentError, match="equally many, got 1 and 2"):
        classification_metrics(["a"], ["a", "b"])
