"""Detection metrics against their definitions written out plainly, on tiny maps with ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.metrics import aupro, detection_metrics, image_metrics, pixel_metrics

# Definitions, one threshold at a time: "score >= t" is defective for every distinct score t.


def brute_auroc(labels, scores):
    defective, good = scores[labels].astype(np.float64), scores[~labels].astype(np.float64)
    wins = [(d > g) + 0.5 * (d == g) for d in defective for g in good]
    return sum(wins) / len(wins)


def brute_ap(labels, scores):
    total, previous = 0.0, 0.0
    for t in sorted(set(scores.tolist()), reverse=True):
        called = scores >= t
        recall = (called & labels).sum() / labels.sum()
        total += (recall - previous) * (called & labels).sum() / called.sum()
        previous = recall
    return total


def brute_f1(labels, scores):
    return max(2 * (labels & (scores >= t)).sum() / (labels.sum() + (scores >= t).sum()) for t in scores)


def components(masks):
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        for component in range(1, count + 1):
            yield index, labels == component


def brute_aupro(masks, maps, max_fpr):
    scores, regions = np.concatenate([m.ravel() for m in maps]), list(components(masks))
    n_good = sum((~m).sum() for m in masks)
    curve = [(0.0, 0.0)]
    for t in sorted(set(scores.tolist()), reverse=True):
        rate = sum(((s >= t) & ~m).sum() for m, s in zip(masks, maps, strict=True)) / n_good
        curve.append((rate, np.mean([(maps[i][region] >= t).mean() for i, region in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(curve, curve[1:], strict=False):
        if x0 < max_fpr and x1 > x0:
            end = min(x1, max_fpr)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / max_fpr


def sampled_aupro(masks, maps, steps, max_fpr=0.3):
    """The loop over thresholds of the published code, in plain words."""
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    regions, good = list(components(masks)), np.concatenate([s[~m] for m, s in zip(masks, maps, strict=True)])
    points = []
    for t in np.arange(low, high, (high - low) / steps):
        rate = (good > t).mean()
        if rate < max_fpr:
            points.append((rate, np.mean([(maps[i][region] > t).mean() for i, region in regions])))
    x, y = np.array(points[::-1]).T
    x = (x - x.min()) / (x.max() - x.min())
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())


def scene(n=6, shape=(24, 40), seed=0, dtype=np.float32):
    """Smooth maps and blob masks, non-square; the last third of the images is good."""
    rng = np.random.default_rng(seed)
    masks = [ndimage.gaussian_filter(rng.normal(size=shape), 3) > 0.13 for _ in range(n)]
    for mask in masks[-(n // 3) :]:
        mask[:] = False
    maps = [ndimage.gaussian_filter(rng.normal(size=shape), 1.5) + 0.2 * mask for mask in masks]
    return masks, [m.astype(dtype) for m in maps]


# levels: few distinct scores, so nearly everything ties; floats: nearly nothing does
levels = st.integers(-2, 3).map(np.float32)
floats = st.floats(-4, 4, width=32).map(np.float32)


@st.composite
def labelled(draw):
    n = draw(st.integers(2, 12))
    labels = draw(arrays.arrays(bool, n).filter(lambda a: a.any() and not a.all()))
    return labels, draw(arrays.arrays(np.float32, n, elements=draw(st.sampled_from((levels, floats)))))


@st.composite
def maps_and_masks(draw, elements=None):
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=3))
    elements = elements or draw(st.sampled_from((levels, floats)))
    masks = [draw(arrays.arrays(bool, shape)) for shape in shapes]
    maps = [draw(arrays.arrays(np.float32, shape, elements=elements)) for shape in shapes]
    flat = np.concatenate([m.ravel() for m in masks])
    return masks, maps, bool(flat.any() and not flat.all())


class TestAgainstDefinitions:
    @given(labelled())
    def test_image(self, case):
        labels, scores = case
        report = image_metrics(labels, scores)
        assert report == pytest.approx(
            {
                "image_auroc": brute_auroc(labels, scores),
                "image_ap": brute_ap(labels, scores),
                "image_f1_max": brute_f1(labels, scores),
            },
            abs=1e-12,
        )

    @settings(max_examples=150, deadline=None)
    @given(maps_and_masks(), st.sampled_from((0.05, 0.3, 1.0)))
    def test_pixels_and_aupro(self, case, max_fpr):
        masks, maps, defined = case
        report = pixel_metrics(masks, maps)
        if not defined:
            assert report["pixel_auroc"] is None and math.isnan(aupro(masks, maps, max_fpr=max_fpr))
            return
        labels, scores = (np.concatenate([a.ravel() for a in part]) for part in (masks, maps))
        assert report["pixel_auroc"] == pytest.approx(brute_auroc(labels, scores), abs=1e-12)
        assert report["pixel_ap"] == pytest.approx(brute_ap(labels, scores), abs=1e-12)
        assert report["pixel_f1_max"] == pytest.approx(brute_f1(labels, scores), abs=1e-12)
        assert aupro(masks, maps, max_fpr=max_fpr) == pytest.approx(brute_aupro(masks, maps, max_fpr), abs=1e-12)

    @pytest.mark.parametrize("max_fpr", [0.01, 0.3, 1.0])
    def test_aupro_of_a_scene(self, max_fpr):
        masks, maps = scene()
        assert aupro(masks, maps, max_fpr=max_fpr) == pytest.approx(brute_aupro(masks, maps, max_fpr), abs=1e-12)

    def test_components_are_8_connected(self):
        mask = np.zeros((4, 6), bool)
        mask[0, 0] = mask[1, 1] = mask[3, 5] = True  # two touch by a corner: one component of 2, one of 1
        score = np.zeros((4, 6), np.float32)
        score[3, 5] = 1.0
        assert aupro([mask], [score]) == pytest.approx(brute_aupro([mask], [score], 0.3))
        # found alone, the single pixel is half the components; 0.5 + the ramp of the ties up to 0.3
        assert aupro([mask], [score]) == pytest.approx(0.5 + 0.5 * 0.3 / 2)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("steps", [7, 200])
    def test_steps_repeat_the_published_loop(self, steps, dtype):
        masks, maps = scene(dtype=dtype)
        assert aupro(masks, maps, steps=steps) == pytest.approx(sampled_aupro(masks, maps, steps), abs=1e-12)

    def test_steps_at_ties(self):
        """Thresholds that equal scores, and a false-positive rate of exactly the limit, which does not count."""
        mask = np.array([[True] * 5 + [False] * 10])
        score = np.array([[4, 3, 3, 2, 1, 4, 3, 3, 2, 2, 1, 1, 1, 0, 0]], np.float32)
        value = aupro([mask], [score], steps=4)  # above 0, 1, 2, 3: 8, 5, 3, 1 of 10 good pixels
        assert math.isnan(value)  # one point below 0.3 spans no area
        value = aupro([mask], [score], steps=4, max_fpr=0.8)
        assert value == pytest.approx(sampled_aupro([mask], [score], 4, 0.8), abs=1e-12)
        assert value == pytest.approx(((0.2 + 0.6) / 2 * 0.2 + (0.6 + 0.8) / 2 * 0.2) / 0.4)

    def test_many_steps_approach_the_exact_value(self):
        masks, maps = scene(20)
        assert aupro(masks, maps, steps=20_000) == pytest.approx(aupro(masks, maps), abs=2e-3)

    def test_scikit_learn_agrees(self):
        masks, maps = scene(30)
        labels, scores = (np.concatenate([a.ravel() for a in part]) for part in (masks, maps))
        precision, recall, _ = precision_recall_curve(labels, scores)
        report = pixel_metrics(masks, maps)
        assert report["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert report["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
        with np.errstate(invalid="ignore"):
            f1 = np.nanmax(2 * precision * recall / (precision + recall))
        assert report["pixel_f1_max"] == pytest.approx(f1, abs=1e-12)


class TestInvariances:
    @pytest.mark.parametrize("change", [lambda s: 2 * s - 7, np.exp, lambda s: s**3], ids=["affine", "exp", "cube"])
    def test_monotone_transforms_change_nothing(self, change):
        masks, maps = scene(dtype=np.float64)
        labels, scores = [m.any() for m in masks], [m.max() for m in maps]
        plain = detection_metrics(labels, scores, masks, maps)
        assert detection_metrics(labels, change(np.array(scores)), masks, [change(m) for m in maps]) == plain

    def test_order_of_images_and_containers_change_nothing(self):
        masks, maps = scene()
        plain = detection_metrics([m.any() for m in masks], [m.max() for m in maps], masks, maps)
        stacked = np.stack(masks)[::-1], np.stack(maps)[::-1]
        turned = detection_metrics(stacked[0].any(axis=(1, 2)), stacked[1].max(axis=(1, 2)), *stacked)
        assert turned == pytest.approx(plain, abs=1e-12)

    def test_one_call_equals_three(self):
        masks, maps = scene()
        labels, scores = [m.any() for m in masks], [m.max() for m in maps]
        together = detection_metrics(labels, scores, masks, maps, max_fpr=0.1)
        apart = {
            **image_metrics(labels, scores),
            **pixel_metrics(masks, maps),
            "aupro": aupro(masks, maps, max_fpr=0.1),
        }
        assert together == apart

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64, bool])
    def test_types_of_maps(self, dtype):
        masks, maps = scene()
        maps = [np.round(4 * m + 4).clip(0, 9).astype(dtype) for m in maps]
        labels, scores = (np.concatenate([a.ravel() for a in part]) for part in (masks, maps))
        assert pixel_metrics(masks, maps)["pixel_auroc"] == pytest.approx(brute_pairs(labels, scores), abs=1e-12)
        assert pixel_metrics([m * np.uint8(255) for m in masks], maps) == pixel_metrics(masks, maps)

    def test_float64_order_is_kept(self):
        mask = np.array([[True, False]])
        assert pixel_metrics([mask], [np.array([[1.0 + 1e-12, 1.0]])])["pixel_auroc"] == 1.0

    def test_negative_zero_ties_with_zero(self):
        mask, score = np.array([[True, False]]), np.array([[-0.0, 0.0]], np.float32)
        assert pixel_metrics([mask], [score])["pixel_auroc"] == 0.5
        assert pixel_metrics([mask], [score], byte_budget=1)["pixel_auroc"] == 0.5

    def test_constant_scores_are_defined(self):
        masks = [np.eye(3, 5, dtype=bool)]
        report = detection_metrics([True, False], [2.0, 2.0], [*masks, ~masks[0]], [np.ones((3, 5))] * 2)
        assert report["image_auroc"] == report["pixel_auroc"] == 0.5
        assert report["image_f1_max"] == pytest.approx(2 / 3)
        assert report["aupro"] == pytest.approx(0.15)

    def test_inputs_are_left_alone(self):
        masks, maps = scene()
        before = [m.copy() for m in masks], [m.copy() for m in maps]
        for array in (*masks, *maps):
            array.flags.writeable = False
        detection_metrics([m.any() for m in masks], range(6), masks, maps)
        pixel_metrics(masks, maps, byte_budget=1)
        assert all(
            np.array_equal(a, b) for part in (0, 1) for a, b in zip(before[part], (masks, maps)[part], strict=True)
        )


def brute_pairs(labels, scores):
    defective, good = scores[labels].astype(float), scores[~labels].astype(float)
    return ((defective[:, None] > good).mean() + (defective[:, None] >= good).mean()) / 2


ZERO, ONE, MIX = np.zeros((2, 3), bool), np.ones((2, 3), bool), np.array([[True, False, False], [False, True, True]])
MAP = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("labels", "masks", "image", "pixel"),
    [
        ([], [], "there is no image", "there is no image"),
        ([False, False], [ZERO, ZERO], "only good images", "no mask marks a defective pixel"),
        ([True, True], [ONE, ONE], "only defective images", "the masks mark every pixel"),
        ([True, False], [ZERO, ZERO], None, "no mask marks a defective pixel"),
        ([True, True], [MIX, MIX], "only defective images", None),
        ([True, False], [None, None], None, "no image has a mask"),
    ],
)
def test_degenerate_input_is_undefined_with_a_reason(labels, masks, image, pixel):
    maps, scores = [MAP] * len(masks), np.arange(len(masks))
    for budget in (2**30, 1):
        report = detection_metrics(labels, scores, masks, maps, byte_budget=budget)
        reasons = {"image_auroc": image, "image_ap": image, "image_f1_max": image}
        reasons |= {"pixel_auroc": pixel, "pixel_ap": pixel, "pixel_f1_max": pixel, "aupro": pixel}
        for key, reason in reasons.items():
            assert (report[key] is None) == (reason is not None)
            assert reason is None or report["why"][key].startswith(reason)
        assert set(report.get("why", ())) == {key for key, reason in reasons.items() if reason}
        assert math.isnan(aupro(masks, maps, byte_budget=budget)) == (pixel is not None)
        assert pixel is None or math.isnan(aupro(masks, maps, steps=200))


def test_images_without_a_mask_are_left_out_and_named_in_the_notes():
    masks, maps = scene()
    some = [None, masks[1], None, *masks[3:]]
    report = pixel_metrics(some, maps)
    assert report.pop("notes") == ["2 of 6 images have no mask and are left out of the pixel metrics"]
    kept = [1, 3, 4, 5]
    assert report == pixel_metrics([masks[i] for i in kept], [maps[i] for i in kept])
    assert "notes" not in pixel_metrics(masks, maps)


def spoiled(value, at=(1, 2)):
    bad = MAP.copy()
    bad[at] = value
    return bad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # NaN and infinity name the image, whichever metric is asked for, masked or not
        (lambda: pixel_metrics([MIX, MIX], [MAP, spoiled(np.nan)]), r"maps\[1\] holds NaN or infinity"),
        (lambda: pixel_metrics([MIX, MIX], [MAP, spoiled(np.inf)], names=["a", "b.png"]), r"maps\[1\] \(b.png\)"),
        (lambda: pixel_metrics([MIX, MIX], [spoiled(-np.inf), MAP], byte_budget=1), r"maps\[0\] holds NaN"),
        (lambda: aupro([MIX, None], [MAP, spoiled(np.nan)]), r"maps\[1\] holds NaN"),
        (lambda: aupro([MIX], [spoiled(np.nan)], steps=200), r"maps\[0\] holds NaN"),
        (lambda: detection_metrics([True], [1.0], [MIX], [spoiled(np.nan)], names=["x"]), r"maps\[0\] \(x\)"),
        (lambda: image_metrics([True, False], [0.0, np.nan], names=["a", "b"]), r"scores\[1\] \(b\) is nan"),
        (lambda: image_metrics([True, False], [np.inf, 0.0]), r"scores\[0\] is inf"),
        # shapes and lengths
        (lambda: pixel_metrics([MIX, MIX.T], [MAP, MAP]), r"masks\[1\] must have the shape \(2, 3\)"),
        (lambda: pixel_metrics([MIX], [MAP[None]]), r"maps\[0\] must be an \(H, W\) array"),
        (lambda: pixel_metrics([MIX], [MAP, MAP]), "got 1 masks and 2 maps"),
        (lambda: pixel_metrics([MIX], [MAP], names=[]), r"one entry per map \(1\), got 0"),
        (lambda: pixel_metrics((m for m in [MIX]), [MAP]), "masks must be a sequence"),
        (lambda: pixel_metrics([MIX], [np.full((2, 3), "a")]), r"maps\[0\] must be an \(H, W\) array of numbers"),
        (lambda: detection_metrics([True], [1.0], [MIX, MIX], [MAP, MAP]), "one entry per image, got 1, 2"),
        (lambda: image_metrics([True], [1.0, 2.0]), r"same shape \(N,\), got \(1,\), \(2,\)"),
        (lambda: image_metrics([True, False], [1.0, math.nan], names=["a"]), r"one entry per score \(2\), got 1"),
        (lambda: image_metrics([[True]], [[1.0]]), r"same shape \(N,\)"),
        # values
        (lambda: image_metrics([2, 0], [1.0, 2.0]), "labels must be True"),
        (lambda: image_metrics(["good", "bad"], [1.0, 2.0]), "labels must be True"),
        (lambda: image_metrics([True, False], ["a", "b"]), "scores must be numbers"),
        (lambda: aupro([MIX], [MAP], max_fpr=0.0), r"max_fpr must be in \(0, 1\]"),
        (lambda: aupro([MIX], [MAP], max_fpr=math.nan), r"max_fpr must be in \(0, 1\]"),
        (lambda: detection_metrics([True], [1.0], [MIX], [MAP], max_fpr=30), r"max_fpr must be in \(0, 1\]"),
        (lambda: aupro([MIX], [MAP], steps=1), "steps must be at least 2"),
        (lambda: pixel_metrics([MIX], [MAP], byte_budget=0), "byte_budget must be"),
    ],
)
def test_bad_input_names_the_image_and_the_reason(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
