"""Box-level rates against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.metrics.boxes import box_iou, box_rates

NONE = np.zeros((0, 4), int)


def boxes_of(seed: int, n: int) -> np.ndarray:
    corners = np.random.default_rng(seed).integers(0, 9, (n, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1)


@given(st.integers(0, 1000), st.integers(0, 4), st.integers(0, 4))
def test_iou_counts_pixels(seed, n, m):
    a, b = boxes_of(seed, n), boxes_of(seed + 1, m)
    expected = np.zeros((n, m))
    for i, j in np.ndindex(n, m):
        frames = np.zeros((2, 10, 10), bool)
        for frame, (x0, y0, x1, y1) in zip(frames, (a[i], b[j]), strict=True):
            frame[y0:y1, x0:x1] = True
        expected[i, j] = frames.all(axis=0).sum() / frames.any(axis=0).sum()
    np.testing.assert_allclose(box_iou(a, b), expected)


@pytest.mark.parametrize(
    ("true", "found", "expected"),
    [
        ([[(0, 0, 10, 10)]], [[(0, 0, 10, 10)]], (0, 0)),
        ([[(0, 0, 10, 10)]], [[(20, 0, 30, 10)]], (1, 1)),
        ([[(0, 0, 10, 10)]], [[(0, 0, 10, 1)]], (1, 1)),  # IoU of exactly 0.1 does not exceed it
        ([[(0, 0, 10, 10)]], [[(0, 0, 10, 1), (0, 0, 11, 1), (0, 0, 10, 2)]], (2 / 3, 0)),
        ([[(0, 0, 10, 10), (20, 0, 24, 4)], []], [[(0, 0, 9, 9)], [(5, 5, 7, 7)]], (0.5, 0.5)),  # over all images
        ([[(0, 0, 4, 4), (4, 0, 8, 4)]], [[(0, 0, 8, 4)]], (0, 0)),  # one box may meet several defects
        ([[]], [[(0, 0, 1, 1)]], (1, None)),
        ([[(0, 0, 1, 1)]], [[]], (None, 1)),
        ([], [], (None, None)),
    ],
)
def test_rates(true, found, expected):
    report = box_rates(true, found)
    assert (report["fpr"], report["fnr"]) == expected
    assert (report["n_true"], report["n_found"]) == (sum(map(len, true)), sum(map(len, found)))
    assert set(report.get("why", {})) == {key for key in ("fpr", "fnr") if report[key] is None}


def test_the_limit_and_the_number_of_images():
    true, found = [[(0, 0, 10, 10)]], [[(0, 0, 10, 5)]]
    assert box_rates(true, found, min_iou=0.5)["fnr"] == 1 and box_rates(true, found, min_iou=0.4)["fnr"] == 0
    with pytest.raises(InvalidArgumentError, match="same images, got 1 true and 0 found"):
        box_rates(true, [])
    assert box_rates([NONE], [NONE])["n_true"] == 0
