"""anomalyhub.regions.threshold: masks and connected regions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.regions import threshold_regions
from anomalyhub.types import AnomalyMap


def scores_of(*rows: str) -> np.ndarray:
    """One digit per pixel, a dot is 0."""
    return np.array([[int(c.replace(".", "0")) for c in row] for row in rows], np.float32)


def test_regions_of_a_drawn_map():
    scores = scores_of(
        "......9.",
        ".5...6..",  # 6 and 9 touch at a corner: one region
        ".55.....",
        "........",
        "3......7",
    )
    mask, regions = threshold_regions(scores, 3)  # 3 is not above 3
    assert np.array_equal(mask, scores > 3)
    assert [(r.box, r.area_px, r.peak) for r in regions] == [
        ((1, 1, 3, 3), 3, 5.0),
        ((5, 0, 7, 2), 2, 9.0),
        ((7, 4, 8, 5), 1, 7.0),
    ]
    assert np.array_equal(regions[0].mask, scores == 5)
    mask, regions = threshold_regions(scores, 3, min_area=2)
    assert [r.area_px for r in regions] == [3, 2]
    assert mask.sum() == 5 and not mask[4, 7]


def test_nested_boxes_do_not_share_pixels():
    scores = scores_of("1111111", "1.....1", "1..2..1", "1.....1", "1111111")
    _, (ring, dot) = threshold_regions(scores, 0.5)
    assert ring.box == (0, 0, 7, 5) and ring.area_px == 20 and ring.peak == 1
    assert dot.box == (3, 2, 4, 3) and not (ring.mask & dot.mask).any()


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_agrees_with_scipy(threshold):
    scores = np.random.default_rng(0).random((48, 31), dtype=np.float32)
    mask, regions = threshold_regions(scores, threshold)
    labels, count = ndimage.label(scores > threshold, np.ones((3, 3)))
    assert len(regions) == count
    assert {r.mask.tobytes() for r in regions} == {(labels == i + 1).tobytes() for i in range(count)}
    assert np.array_equal(np.any([r.mask for r in regions], axis=0), mask)
    for region in regions:
        rows, columns = np.nonzero(region.mask)
        assert region.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert region.area_px == len(rows) and region.peak == scores[region.mask].max()
    areas = [r.area_px for r in regions]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize(
    ("threshold", "count", "area"),
    [
        (9, 0, 0),  # nothing above: empty is a value
        (float("inf"), 0, 0),
        (-1, 1, 35),  # everything above: one region of the whole frame
        (float("-inf"), 1, 35),
    ],
)
def test_extreme_thresholds(threshold, count, area):
    mask, regions = threshold_regions(np.full((5, 7), 2, np.float32), threshold)
    assert mask.shape == (5, 7) and mask.dtype == bool
    assert mask.sum() == area and len(regions) == count


def test_takes_an_anomaly_map_and_other_precisions():
    scores = np.random.default_rng(0).random((9, 14), dtype=np.float32)
    expected = [r.box for r in threshold_regions(scores, 0.7)[1]]
    for same in (AnomalyMap(scores, 1.0), scores.astype(np.float64), np.asfortranarray(scores)):
        assert [r.box for r in threshold_regions(same, 0.7)[1]] == expected


def test_the_byte_budget_bounds_the_list_but_not_the_mask():
    scores = np.zeros((40, 60), np.float32)
    scores[::2, ::2] = 1
    scores[10, 20:23] = 1
    mask, regions = threshold_regions(scores, 0.5, byte_budget=5 * 40 * 60)
    assert mask.sum() == 601 and len(regions) == 5
    assert regions[0].box == (20, 10, 23, 11)  # the largest is kept


@pytest.mark.parametrize(
    ("scores", "threshold", "options", "message"),
    [
        (np.zeros((3, 4, 5)), 1, {}, r"shape \(H, W\).*got \(3, 4, 5\)"),
        (np.zeros((0, 4)), 1, {}, r"at least one pixel, got \(0, 4\)"),
        (np.full((2, 3), np.nan), 1, {}, "NaN"),
        (np.zeros((2, 3)), float("nan"), {}, "threshold is NaN"),
        (np.zeros((2, 3)), 1, {"min_area": 0}, "min_area must be at least 1 pixel, got 0"),
    ],
)
def test_wrong_arguments(scores, threshold, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        threshold_regions(scores, threshold, **options)
