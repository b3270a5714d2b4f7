"""Pixel metrics within a byte budget: one pass if exact, a histogram whose error stays within the bound it returns."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyhub.metrics import aupro, detection_metrics, pixel_metrics
from anomalyhub.metrics.pixels import BYTES_PER_BIN, Pixels, _Bins, order_key, rank_by_histogram, rank_exactly

KEYS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
MIB = 2**20


class Lazy:
    """A sequence that makes its items when asked and counts how often."""

    def __init__(self, make, n):
        self.make, self.n, self.reads = make, n, 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        self.reads += 1
        return self.make(index)


def image(index, shape=(96, 160)):
    """A mask with one or two blobs, none in every third image, and a noisy map that sees them."""
    rng = np.random.default_rng(index)
    mask = np.zeros(shape, bool)
    for _ in range(index % 3):
        y, x = rng.integers(0, shape[0] - 20), rng.integers(0, shape[1] - 20)
        mask[y : y + rng.integers(3, 20), x : x + rng.integers(3, 20)] = True
    return mask, (rng.normal(size=shape) + 1.5 * mask).astype(np.float32)


def pair(n, shape=(96, 160)):
    return Lazy(lambda i: image(i, shape)[0], n), Lazy(lambda i: image(i, shape)[1], n)


def evaluate(masks, maps, **options):
    return detection_metrics(np.arange(len(maps)) % 2 == 0, np.arange(len(maps)), masks, maps, **options)


def assert_within_bound(report, exact):
    for key in KEYS:
        assert abs(report[key] - exact[key]) <= report["error_bound"][key] + 1e-12, key


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.2, 0.9),  # share of defective pixels
    st.floats(-1.0, 2.0),  # how well they are found
    st.sampled_from((0.001, 0.01, 0.1)),  # spread of the scores: above 1 a coarse bin is 1/128 wide
    st.sampled_from((1, 8 * BYTES_PER_BIN, 60 * BYTES_PER_BIN)),
    st.sampled_from((0.1, 0.3, 1.0)),
)
def test_error_is_within_the_bound(seed, share, signal, spread, budget, max_fpr):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 12, 20)) < share
    maps = (1 + spread * np.round(rng.normal(size=masks.shape) + signal * masks, 1)).astype(np.float32)
    exact = evaluate(masks, maps, max_fpr=max_fpr)
    report = evaluate(masks, maps, max_fpr=max_fpr, byte_budget=budget)
    assert_within_bound(report, exact)
    assert aupro(masks, maps, max_fpr=max_fpr, byte_budget=budget) == report["aupro"]


@pytest.mark.parametrize("worst", [False, True], ids=["defective first", "good first"])
def test_bound_covers_both_orders_inside_a_bin(worst):
    """All scores in one bin: the exact values are as far from the tie as they can get, so a bound too small shows."""
    mask = np.zeros((4, 10), bool)
    mask.flat[:6] = True
    rank = np.arange(40) if worst else -np.arange(40)
    scores = (1.001 + rank * 1e-6).astype(np.float32).reshape(4, 10)
    exact = evaluate([mask] * 2, [scores] * 2)
    report = evaluate([mask] * 2, [scores] * 2, byte_budget=1)
    assert_within_bound(report, exact)
    assert report["pixel_auroc"] == 0.5 and report["error_bound"]["pixel_auroc"] == 0.5
    assert exact["pixel_auroc"] == float(not worst)


def test_bound_shrinks_with_the_budget():
    masks, maps = map(list, (part for part in pair(12)))
    exact = evaluate(masks, maps)
    bounds = []
    for budget in (1, 2**17, 2**19):
        report = evaluate(masks, maps, byte_budget=budget)
        assert_within_bound(report, exact)
        bounds.append([report["error_bound"][key] for key in KEYS])
    bounds = np.array(bounds)
    assert (bounds[0] > bounds[1]).all() and (bounds[1] > bounds[2]).all()
    assert bounds[2].max() < 1e-3


def test_scores_of_few_levels_are_exact_in_the_histogram_too():
    masks, maps = map(list, pair(6))
    maps = [np.round(m * 4).astype(np.float16) for m in maps]
    report, exact = evaluate(masks, maps, byte_budget=2**19), evaluate(masks, maps)
    # each level has its bin; the true ties of a level that is not resolved to one float32 count as doubt, never less
    assert [report[key] for key in KEYS] == pytest.approx([exact[key] for key in KEYS], abs=1e-12)


def metrics_of(ranking):
    return [ranking.auroc(), ranking.average_precision(), ranking.f1_max(), ranking.aupro(0.3)]


def test_resolved_bins_have_no_doubt():
    mask, score = np.array([[1, 0, 1], [0, 0, 1]], bool), np.array([[2, 1, 1], [1, 2, 1]], np.float32)
    pixels = Pixels([mask], [score])
    histogram = rank_by_histogram(pixels, 3 * 65536 * BYTES_PER_BIN, True)
    assert metrics_of(histogram) == [(value, 0.0) for value, _ in metrics_of(rank_exactly(pixels, 2**30, True))]
    # as float64, other values may have been rounded to the same float32: doubt remains
    histogram = rank_by_histogram(Pixels([mask], [score.astype(float)]), 3 * 65536 * BYTES_PER_BIN, True)
    assert all(bound > 0 for _, bound in metrics_of(histogram))


@pytest.mark.parametrize(("bits", "together"), [(16, False), (15, True), (0, True)])
def test_a_bin_is_coarse_if_it_holds_two_float32(bits, together):
    one = np.float32(1)
    split = np.zeros(65536, np.int64)
    split[(order_key(np.array([one]))[0] >> 16) + 32768] = bits
    bins = _Bins(split)
    first, second = bins.index(np.array([one, np.nextafter(one, np.float32(2))]))
    assert (first == second) == together == bins.coarse[first]
    assert first <= second < bins.n


def test_bound_covers_defective_scores_alone_in_a_bin():
    """The good scores lie in a higher bin, and precision grows from one defective score to the next."""
    mask = np.zeros((4, 10), bool)
    mask.flat[:6] = True
    scores = np.where(mask, 1.001 + np.arange(40).reshape(4, 10) * 1e-6, 2.0).astype(np.float32)
    exact, report = evaluate([mask] * 2, [scores] * 2), evaluate([mask] * 2, [scores] * 2, byte_budget=1)
    assert exact["pixel_ap"] < report["pixel_ap"] == pytest.approx(0.15)
    assert_within_bound(report, exact)


def test_bound_covers_float64_scores_that_one_float32_holds():
    mask = np.array([[True, False, True], [False, True, False]])
    score = 1.0 + 1e-12 * np.array([[3.0, 2.0, 5.0], [1.0, 6.0, 4.0]])
    exact = evaluate([mask] * 2, [score] * 2)
    report = evaluate([mask] * 2, [score] * 2, byte_budget=1)
    assert report["pixel_auroc"] == 0.5 < exact["pixel_auroc"]
    assert_within_bound(report, exact)


def test_float64_beyond_float32_is_ranked():
    mask, score = np.array([[True, False, False]]), np.array([[1e300, 0.0, -1e300]])
    assert pixel_metrics([mask], [score])["pixel_auroc"] == 1.0
    assert pixel_metrics([mask], [score], byte_budget=1)["pixel_auroc"] == 1.0


def test_keys_keep_the_order_of_float32():
    tiny = np.finfo(np.float32).smallest_subnormal
    values = np.array([-np.inf, -3e38, -1, -tiny, -0.0, 0.0, tiny, 1, np.nextafter(np.float32(1), 2), 3e38], np.float32)
    keys = order_key(values).astype(np.int64)
    assert (np.sign(np.diff(keys)) == np.sign(np.diff(values.astype(np.float64)))).all()


def test_exact_reads_each_image_once_and_the_histogram_twice_more():
    masks, maps = pair(9)
    exact = evaluate(masks, maps)
    assert (masks.reads, maps.reads) == (9, 9) and "error_bound" not in exact
    masks.reads = maps.reads = 0
    report = evaluate(masks, maps, byte_budget=9 * 96 * 160 * 2)  # half of what the scores need
    assert maps.reads <= 3 * 9 and masks.reads <= 3 * 9
    assert_within_bound(report, exact)


def peak_bytes(masks, maps, budget):
    evaluate(*pair(2))  # imports and caches
    tracemalloc.start()
    try:
        report = evaluate(masks, maps, byte_budget=budget)
        return tracemalloc.get_traced_memory()[1], report
    finally:
        tracemalloc.stop()


SHAPE = (256, 384)
ONE_IMAGE = 256 * 384 * (4 + 1)


@pytest.mark.parametrize(
    ("budget", "exact", "allowed"),
    [
        (2**30, True, 96 * 256 * 384 * 5 + 6 * ONE_IMAGE),  # ample: about the scores themselves, never float64 copies
        (56 * MIB, True, 56 * MIB + 6 * ONE_IMAGE),  # just enough
        (16 * MIB, False, 16 * MIB + 8 * MIB + 6 * ONE_IMAGE),  # histogram: the budget and the stated fixed part
        (1, False, 8 * MIB + 6 * ONE_IMAGE),  # the fixed part alone
    ],
)
def test_memory_stays_within_the_budget(budget, exact, allowed):
    masks, maps = pair(96, SHAPE)  # 9.4 million pixels: 36 MiB as float32, 2 % defective
    peak, report = peak_bytes(masks, maps, budget)
    assert ("error_bound" not in report) == exact
    assert peak <= allowed


@pytest.mark.parametrize(("budget", "exact"), [(64 * MIB, True), (48 * MIB, False), (24 * MIB, False)])
def test_memory_with_mostly_defective_pixels_stays_within_the_budget(budget, exact):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(200, 300)).astype(np.float32) for _ in range(12)]
    masks = [m > -1 for m in maps]  # 0.56 million defective pixels: far more than their scores must be counted
    masks[0] = ~masks[0]
    peak, report = peak_bytes(masks, maps, budget)
    assert ("error_bound" not in report) == exact
    assert peak <= budget
