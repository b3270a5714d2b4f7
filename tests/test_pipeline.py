"""anomalyhub.pipeline: the inspector from images to verdicts and back from disk, and evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from core_helpers import normals, photo, tiny_backbone, tiny_vit

import anomalyhub
from anomalyhub.detection.calibration import Calibration
from anomalyhub.detection.provenance import Provenance
from anomalyhub.errors import (
    InvalidArgumentError,
    InvalidDatasetError,
    InvalidModelError,
    OutputError,
    UnknownNameError,
)
from anomalyhub.metrics import image_metrics, pixel_metrics
from anomalyhub.pipeline import ANOMALOUS, Inspector, evaluate
from anomalyhub.pipeline.inspector import with_product
from anomalyhub.types import AnomalyMap, Sample

KEYS = (
    "image_auroc image_ap image_f1_max pixel_auroc pixel_ap pixel_f1_max aupro n_images n_anomalous seconds_per_image"
)


def fit(samples=None, **options):
    samples = normals(12) if samples is None else samples
    return Inspector.fit("patchcore", samples, backbone=tiny_backbone(size=64), **options)


@pytest.fixture(scope="module")
def inspector():
    return fit(product="tile", false_alarm_rate=0.05)


@pytest.fixture(scope="module")
def test_set():
    return [photo(60 + i, (36, 52) if i % 3 else (60, 40), defect=i % 2 == 1) for i in range(12)]


@pytest.fixture(scope="module")
def results(inspector, test_set):
    return list(inspector.inspect(test_set))


def test_verdicts(inspector, test_set, results):
    assert [result.id for result in results] == [sample.id for sample in test_set]
    for sample, result in zip(test_set, results, strict=True):
        assert result.is_anomalous == (result.score > inspector.threshold) == (result.label == ANOMALOUS)
        assert result.map.scores.shape == sample.image.shape[:2] and result.score == result.map.image_score
        assert 0 < result.p_value <= 1 and (result.p_value <= 0.05) == result.is_anomalous
    assert all(result.is_anomalous for result in results[1::2])
    assert sum(result.is_anomalous for result in results[::2]) <= 1


def test_anomalous_images_have_regions_and_good_ones_none(test_set, results):
    for sample, result in zip(test_set, results, strict=True):
        assert bool(result.regions) == result.is_anomalous
        areas = [region.area_px for region in result.regions]
        assert areas == sorted(areas, reverse=True)
        for region in result.regions:
            assert region.mask.shape == sample.image.shape[:2]
    found = [(s, r) for s, r in zip(test_set, results, strict=True) if s.mask.any()]
    assert sum((r.regions[0].mask & s.mask).any() for s, r in found) >= len(found) - 1


def test_inspecting_is_lazy_and_reports_progress(inspector, test_set):
    read, seen = [], []

    def stream():
        for sample in test_set:
            read.append(sample.id)
            yield sample

    inspections = inspector.inspect(stream(), progress=lambda share, text: seen.append((share, text)))
    assert read == []
    first = next(inspections)
    assert first.id == test_set[0].id and len(read) < len(test_set)
    assert len(list(inspections)) == len(test_set) - 1 and seen[-1] == (0.5, "12 images")
    seen.clear()
    assert len(list(inspector.inspect(test_set, progress=lambda share, text: seen.append((share, text))))) == 12
    assert seen[-1] == (1.0, "12 of 12 images")
    assert list(inspector.inspect([])) == []
    pairs = list(inspector.inspect_with_samples(test_set))
    assert all(sample is wanted for (sample, _), wanted in zip(pairs, test_set, strict=True))


@pytest.mark.parametrize("factor", [0.2, 0.9, 1.0, 1.3, 100])
def test_moving_the_threshold_equals_predicting_again(inspector, test_set, results, factor):
    threshold = factor * inspector.threshold
    again = list(inspector.inspect(test_set, threshold=threshold))
    for result, other in zip(results, again, strict=True):
        judged = inspector.judge(result.id, result.map, threshold)
        assert judged.is_anomalous == other.is_anomalous == (result.score > threshold)
        assert (judged.label, judged.p_value, judged.score) == (other.label, other.p_value, other.score)
        assert [r.box for r in judged.regions] == [r.box for r in other.regions]
        assert bool(judged.regions) == judged.is_anomalous
        assert np.array_equal(judged.map.scores, other.map.scores)


def test_a_score_at_the_threshold_is_good(inspector):
    flat = AnomalyMap(np.full((5, 9), 0.01, np.float32), inspector.threshold)
    assert not inspector.judge("x", flat).is_anomalous
    above = AnomalyMap(flat.scores, float(np.nextafter(inspector.threshold, np.inf)))
    judged = inspector.judge("x", above)
    assert judged.is_anomalous and judged.regions[0].area_px == 45  # the map stays low: its peak is shown all the same


def test_the_map_threshold_follows_the_image_threshold(inspector):
    ratio = inspector.map_threshold() / inspector.threshold
    assert 0 < ratio < 1  # smoothing lowers a peak
    assert inspector.map_threshold(7.0) == pytest.approx(7.0 * ratio)


def test_saved_and_loaded(inspector, test_set, results, tmp_path):
    inspector.save(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "inspector.json", "state.safetensors"}
    loaded = Inspector.load(tmp_path / "model", backbone=tiny_backbone(size=64))
    assert loaded.product == "tile" and loaded.threshold == inspector.threshold
    assert loaded.calibration.to_json() == inspector.calibration.to_json()
    for result, other in zip(results, loaded.inspect(test_set), strict=True):
        assert np.array_equal(result.map.scores, other.map.scores)
        assert (result.score, result.p_value, result.is_anomalous) == (other.score, other.p_value, other.is_anomalous)
    with pytest.raises(OutputError, match="is not empty"):
        inspector.save(tmp_path / "model")
    moved = Inspector(inspector.detector, inspector.calibration.at_threshold(1.5), "other")
    moved.save(tmp_path / "model", overwrite=True)
    loaded = Inspector.load(tmp_path / "model", backbone=tiny_backbone(size=64))
    assert (loaded.threshold, loaded.calibration.method, loaded.product) == (1.5, "manual", "other")
    assert len(loaded.calibration.scores) == 12  # p-values are kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no inspector.json"),
        ("{", "is not readable JSON"),
        ("{}", "is damaged"),
        ('{"calibration": 3}', "is damaged"),
        ('{"calibration": {"threshold": null}}', "is damaged"),
        ('{"calibration": {"threshold": "high"}}', "is damaged"),
        ('{"calibration": {"threshold": 1.0, "colour": 2}}', "is damaged"),
    ],
)
def test_damaged_inspectors(inspector, tmp_path, text, message):
    inspector.write(tmp_path)
    path = tmp_path / "inspector.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InvalidModelError, match=message) as caught:
        Inspector.load(tmp_path, backbone=tiny_backbone(size=64))
    assert str(tmp_path) in str(caught.value)


def test_one_image_gives_scores_but_no_verdict(tmp_path, test_set):
    single = fit(normals(1))
    assert single.calibration is None
    with pytest.raises(InvalidArgumentError, match="this model has no threshold.*--threshold"):
        next(single.inspect(test_set))
    results = list(single.inspect(test_set, threshold=0.1))
    assert all(result.p_value is None and result.is_anomalous == (result.score > 0.1) for result in results)
    chosen, report = single.choose_threshold([True, False], [1.0, 0.0])
    assert 0.0 <= chosen.threshold < 1.0 and report["f1"] == 1.0 and single.operating_point is None
    chosen.save(tmp_path / "m")
    loaded = Inspector.load(tmp_path / "m", backbone=tiny_backbone(size=64))
    assert loaded.calibration is None and loaded.threshold == chosen.threshold
    metrics = evaluate(single, test_set)
    assert metrics["image_auroc"] == 1.0 and "operating_point" not in metrics


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": []}, InvalidDatasetError, "there are no normal images to fit on: put them into train/good"),
        ({"false_alarm_rate": 0.0}, InvalidArgumentError, "must lie between 0 and 1, got 0.0"),
        ({"false_alarm_rate": 1.0}, InvalidArgumentError, "got 1.0"),
        ({"false_alarm_rate": float("nan")}, InvalidArgumentError, "got nan"),
        ({"settings": {"corest": "1"}}, UnknownNameError, "unknown setting 'corest'"),
    ],
)
def test_fits_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        fit(**options)
    with pytest.raises(UnknownNameError, match="unknown detector 'padim'"):
        Inspector.fit("padim", normals(2))


def test_fit_takes_a_detector_and_settings(inspector):
    detector = anomalyhub.create_detector("patchcore", tiny_backbone(size=64))
    ready = Inspector.fit(detector, normals(12), false_alarm_rate=0.05)
    assert ready.detector is detector and ready.threshold == inspector.threshold and ready.product is None
    assert fit(normals(4), settings={"coreset": "0.5"}, seed=3).detector.config.coreset == 0.5


def test_the_false_alarm_rate_moves_the_threshold(inspector):
    loose, strict = (fit(false_alarm_rate=rate).threshold for rate in (0.5, 0.001))
    assert loose < inspector.threshold < strict


def test_evaluation(inspector, test_set, results):
    seen = []
    metrics = evaluate(inspector, test_set, lambda share, text: seen.append(share))
    assert set(KEYS.split()) <= metrics.keys()
    labels = np.array([sample.label != "good" for sample in test_set])
    expected = image_metrics(labels, np.array([result.score for result in results], np.float32))
    expected |= pixel_metrics([sample.mask for sample in test_set], [result.map.scores for result in results])
    for key, value in expected.items():
        assert metrics[key] == pytest.approx(value, abs=1e-6), key
    assert 0.5 < metrics["aupro"] <= 1 and metrics["image_auroc"] == 1.0
    assert (metrics["n_images"], metrics["n_anomalous"]) == (12, 6) and metrics["seconds_per_image"] > 0
    point = metrics["operating_point"]
    assert point["threshold"] == inspector.threshold and point["target_false_alarm_rate"] == 0.05
    assert point["tp"] + point["fn"] == 6 and point["fp"] + point["tn"] == 6 and point["escape_rate"] == 0
    assert point["method"] == "normals" and json.dumps(metrics)
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_evaluation_of_one_class_says_what_is_missing(inspector, test_set):
    for subset, why in ((test_set[::2], "only good images"), (test_set[1::2], "only defective images")):
        metrics = evaluate(inspector, subset)
        for key in ("image_auroc", "image_ap", "image_f1_max"):
            assert metrics[key] is None and why in metrics["why"][key]
        assert metrics["n_images"] == 6
    metrics = evaluate(inspector, test_set[::2])
    assert metrics["aupro"] is None and "no mask marks a defective pixel" in metrics["why"]["aupro"]


def test_images_without_masks_count_for_the_image_metrics_only(inspector, test_set):
    bare = [
        Sample(s.id, s.image, s.label, s.mask if s.label == "good" or i < 6 else None) for i, s in enumerate(test_set)
    ]
    metrics = evaluate(inspector, bare)
    assert metrics["n_images"] == 12 and metrics["image_auroc"] == 1.0
    assert "3 of 12 images have no mask" in metrics["notes"][0]
    rest = [s for s in bare if s.mask is not None]
    assert metrics["pixel_ap"] == pytest.approx(evaluate(inspector, rest)["pixel_ap"])


class Split(list):
    """A sequence that knows its labels before anything is decoded, as `anomalyhub.data.Split`."""

    labels = ("good", None)

    def __getitem__(self, index):
        raise AssertionError("decoded although a label is missing")

    __iter__ = __getitem__


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [photo(1), Sample("x", photo(2).image)],  # the second has no label
        Split(normals(2)),
    ],
)
def test_unlabelled_images_are_refused(inspector, samples):
    with pytest.raises(InvalidDatasetError, match="evaluation needs labelled images: give a data set with test/CLASS"):
        evaluate(inspector, samples)


LABELS = [False, False, False, True, True]
SCORES = [1.0, 2.0, 6.0, 5.0, 8.0]


@pytest.mark.parametrize(
    ("costs", "threshold", "method", "report"),
    [
        (None, 3.5, "f1_max", {"f1": 0.8, "tp": 2, "fp": 1, "fn": 0, "tn": 2}),
        ((100.0, 1.0), 3.5, "cost", {"cost": 1.0, "escape_rate": 0.0}),  # an escape is dear
        ((1.0, 100.0), 7.0, "cost", {"cost": 1.0, "false_alarm_rate": 0.0, "fn": 1}),  # a false alarm is
    ],
)
def test_thresholds_from_labelled_images(inspector, costs, threshold, method, report):
    chosen, achieved = inspector.choose_threshold(LABELS, SCORES, costs=costs)
    assert chosen.threshold == threshold and chosen.calibration.method == achieved["method"] == method
    assert chosen.calibration.false_alarm_rate is None
    for key, value in report.items():
        assert achieved[key] == pytest.approx(value)
    assert chosen.detector is inspector.detector and chosen.product == "tile"
    assert inspector.calibration.method == "normals"  # it stays as it was
    assert np.array_equal(chosen.calibration.scores, inspector.calibration.scores)
    with pytest.raises(InvalidArgumentError, match="needs good and defective images"):
        inspector.choose_threshold([True, True], [1.0, 2.0], costs=costs)


def test_the_calibration_is_that_of_the_held_out_scores(inspector):
    detector = inspector.detector
    expected = Calibration.from_normals(detector.held_out_scores_, detector.held_out_peaks_, 0.05)
    assert inspector.threshold == expected.threshold and len(expected.scores) == 12


class Odds:
    """A detector that needs no image: the share of bright pixels, and four times that on its maps."""

    name, needs, transductive, config = "odds", "nothing", False, None
    natural_thresholds_ = (0.02, 0.5)

    def fit(self, samples, progress=None):
        return self

    def predict(self, samples):
        bright = [(sample.image > 220).all(-1) for sample in samples]
        return [AnomalyMap(4 * mask.astype(np.float32), float(mask.mean())) for mask in bright]


def test_a_natural_threshold_where_no_image_was_given(test_set):
    inspector = Inspector.fit(Odds(), [])
    assert inspector.calibration is None and (inspector.threshold, inspector.map_threshold()) == (0.02, 0.5)
    assert inspector.map_threshold(0.04) == 1.0
    results = list(inspector.inspect(test_set))
    assert [result.is_anomalous for result in results] == [sample.label != "good" for sample in test_set]
    assert all(result.p_value is None and bool(result.regions) == result.is_anomalous for result in results)
    assert inspector.operating_point == {"threshold": 0.02, "false_alarm_rate": None, "method": "natural"}
    moved = inspector.with_threshold(1.5)
    assert moved.operating_point["method"] == "manual" and not any(r.is_anomalous for r in moved.inspect(test_set))
    assert evaluate(inspector, test_set)["operating_point"]["escape_rate"] == 0.0
    assert evaluate(moved, test_set)["operating_point"]["escape_rate"] == 1.0
    with pytest.raises(InvalidDatasetError, match="no normal images to fit on"):
        Inspector.fit("patchcore", [], backbone=tiny_backbone())


def test_images_that_are_judged_together(inspector, test_set):
    assert inspector.for_batch(test_set) is inspector
    alone = Inspector.fit("musc", [], backbone=tiny_vit())
    with pytest.raises(InvalidArgumentError, match=r"gets its threshold from them: take for_batch\(images\)"):
        next(alone.inspect(test_set))
    together = alone.for_batch(test_set)
    assert together.calibration.method == "unlabelled" and alone.calibration is None
    expected = alone.detector.predict(test_set)
    for one, result in zip(expected, together.inspect(test_set), strict=True):
        assert result.score == pytest.approx(one.image_score, abs=1e-5)
        np.testing.assert_allclose(result.map.scores, one.scores, atol=1e-5)


@pytest.mark.parametrize(("product", "known", "said"), [("cup", 3, "3 of the 12 images"), ("tile", 0, "named tile")])
def test_measuring_what_was_trained_on_is_said(test_set, product, known, said):
    detector = Odds()
    detector.provenance_ = Provenance.of({"tile": [*test_set[:known], photo(999)]})
    assert said in evaluate(Inspector(detector), test_set, product=product)["warning"]
    detector.provenance_ = Provenance.of({"tile": [photo(999)]})
    assert "warning" not in evaluate(Inspector(detector), test_set, product="cup")


def test_the_product_names_the_prompts():
    assert with_product("patchcore", {}, "metal_nut") == {}
    assert with_product("winclip", {}, "metal_nut") == {"product": "metal nut"}
    assert with_product("winclip", {"product": "hex nut"}, "metal_nut") == {"product": "hex nut"}
    assert with_product("winclip", {"windows": (2,)}, None) == {"windows": (2,)}


def test_public_names():
    assert anomalyhub.Inspector is Inspector and anomalyhub.evaluate is evaluate
    assert set(dir(anomalyhub)) >= {"load_dataset", "create_backbone", "create_detector", "load_detector"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        anomalyhub.nonsense  # noqa: B018
