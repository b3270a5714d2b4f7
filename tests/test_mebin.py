"""MEBin against its published algorithm written out plainly, and the counting of components behind it."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

import anomalyhub
from anomalyhub.data import load_dataset
from anomalyhub.errors import InvalidArgumentError, InvalidModelError, NotFittedError, UnknownNameError
from anomalyhub.regions import Binarizer, FixedThreshold, MEBin, OtsuThreshold, components
from anomalyhub.regions.components import component_counts
from anomalyhub.regions.mebin import stable_interval
from anomalyhub.types import AnomalyMap

EIGHT = np.ones((3, 3))


def published(maps: list[np.ndarray], kernel: int = 6, step: int = 4, min_interval: int = 4) -> list[tuple]:
    """(mask, threshold, number of regions, thresholds of the interval) per 8-bit map, one threshold after another."""
    hi, lo = max(int(m.max()) for m in maps), min(int(m.max()) for m in maps)
    square, results = np.ones((kernel, kernel), np.uint8), []
    for m in maps:
        pixels = m.astype(np.float64)
        normalised = np.where(pixels < lo, 0, (pixels - lo) / (hi - lo) * 255)
        levels = list(range(255, 0, -step))
        counts = []
        for level in levels:
            mask = cv2.erode((normalised > level).astype(np.uint8), square)
            counts.append(ndimage.label(mask, EIGHT)[1])
        intervals: dict[int, list[tuple[int, int]]] = {}
        start = 0
        while start < len(counts):
            end = start
            while end + 1 < len(counts) and counts[end + 1] == counts[start]:
                end += 1
            if counts[start] != 0 and end - start + 1 >= min_interval:
                intervals.setdefault(counts[start], []).append((start, end))
            start = end + 1
        if not intervals:
            results.append((np.zeros(m.shape, bool), 255, 0, None))
            continue
        longest = {count: max(end - start for start, end in found) for count, found in intervals.items()}
        count = next(count for count in longest if longest[count] == max(longest.values()))
        start, end = [one for one in intervals[count] if one[1] - one[0] == longest[count]][-1]
        low, high = (int(levels[index] * (hi - lo) / 255 + lo) for index in (end, start))
        mask = cv2.erode((m > low).astype(np.uint8), square).astype(bool)
        results.append((mask, low, count, (low, high)))
    return results


def assert_published(maps: list[np.ndarray], **options: int) -> list[int]:
    """Equal in everything; returns the counts, so that a test can tell whether it saw any."""
    mebin = MEBin(**options).fit(iter(maps))
    counts = []
    for m, (mask, threshold, count, interval) in zip(maps, published(maps, **options), strict=True):
        found = mebin.binarize(m)
        assert found.mask.dtype == bool and np.array_equal(found.mask, mask)
        assert (found.threshold, found.n_regions, found.interval) == (threshold, count, interval)
        counts.append(count)
    return counts


def labelled(image: np.ndarray) -> list[int]:
    return [ndimage.label(image > threshold, EIGHT)[1] for threshold in range(256)]


def picture(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """An 8-bit map of a kind that is a trap."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, shape).astype(np.uint8)
    if kind == "constant":
        return np.full(shape, seed % 256, np.uint8)
    if kind == "noise":
        return noise
    if kind == "two values":
        return (noise > 128).astype(np.uint8) * np.uint8(seed % 255 + 1)
    if kind == "single pixel":
        image = np.full(shape, seed % 3, np.uint8)
        image[rng.integers(shape[0]), rng.integers(shape[1])] = 255
        return image
    if kind == "border":  # bright frames, open and closed
        image = np.zeros(shape, np.uint8)
        image[:, : shape[1] // 3], image[-(shape[0] // 3) :] = 90 + seed % 90, 60 + seed % 120
        image[0], image[:, -1] = 200, 255
        return image
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 4), mode="nearest")
    smooth = (smooth - smooth.min()) / (np.ptp(smooth) or 1) * rng.integers(1, 256)
    if kind == "plateaus":  # steps of many pixels, as nearest-neighbour upscaling makes them
        size = int(rng.integers(2, 9))
        return np.kron(smooth[:: size * 2, :: size * 2], np.ones((size, size))).astype(np.uint8)
    if kind == "terraces":
        return (smooth // 32 * 32).astype(np.uint8)
    return smooth.astype(np.uint8)


KINDS = ("smooth", "plateaus", "terraces", "noise", "two values", "single pixel", "border", "constant")
kinds, seeds, sides = st.sampled_from(KINDS), st.integers(0, 10_000), st.integers(1, 40)


# ---------------------------------------------------------------------------------------------------- counting


def assert_counts(image: np.ndarray) -> None:
    """By blocks of pixels and by single pixels, whichever the map would be counted by, those of labelling."""
    expected = labelled(image)
    for blocks_per_link in (1e-9, 1e9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(components, "_ROUGH", blocks_per_link)
            assert component_counts(image).tolist() == expected
    assert component_counts(image).tolist() == expected


@settings(max_examples=150)
@given(kind=kinds, height=sides, width=sides, seed=seeds, kernel=st.sampled_from([1, 2, 6]))
@example(kind="constant", height=1, width=1, seed=255, kernel=1)
@example(kind="noise", height=1, width=37, seed=0, kernel=1)
@example(kind="noise", height=37, width=1, seed=0, kernel=1)
@example(kind="two values", height=40, width=40, seed=1, kernel=1)
def test_counts_are_those_of_labelling(kind, height, width, seed, kernel):
    assert_counts(cv2.erode(picture(kind, (height, width), seed), np.ones((kernel, kernel), np.uint8)))


@pytest.mark.parametrize(
    "rows",
    [
        ("9..", "..8"),  # near, but not touching
        ("9..", ".8."),
        ("9...", "...8"),
        ("9.8", "999"),
        ("4.4.", ".9.9", "5.5."),
        ("9..9", ".22.", ".22.", "9..9"),  # joined at 2 by the middle
        ("9..9", "....", "9..9"),
        (".9..", "9...", "...8", "..8."),  # two diagonals with one step between
        ("3333", "3993", "3113", "3993"),
    ],
)
def test_counts_wherever_the_blocks_fall(rows):
    drawn = np.array([[int(c.replace(".", "0")) for c in row] for row in rows], np.uint8)
    for top, left in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for image in (drawn, drawn.T, drawn[:, ::-1]):
            assert_counts(np.pad(image, ((top, 0), (left, 0))))


def test_counts_of_every_other_column_of_a_larger_array():
    image = picture("smooth", (40, 114), 3)[:, ::2]
    assert not image.flags.c_contiguous and component_counts(image).tolist() == labelled(image)


def test_smooth_maps_are_counted_by_blocks():
    """What the speed rests on: hardly anything of an eroded map has to be listed."""
    for seed in range(4):
        image = cv2.erode((blobs(seed, [0.9, 0.7, 0.5]) * 200).astype(np.uint8), np.ones((6, 6), np.uint8))
        values, _, _, links = components._blocks(image)
        assert links.shape[1] < len(values) // 40


@pytest.mark.parametrize("lowest", [-1, 0, 31, 200, 255])
def test_counts_from_a_lowest_threshold_on(lowest):
    image = picture("smooth", (40, 57), 3)
    first = max(lowest, 0)
    assert component_counts(image, lowest)[first:].tolist() == labelled(image)[first:]


def test_counts_where_one_pixel_joins_four():
    """Corners touch the centre and nothing else; sides touch each other around it."""
    corners = np.array([[9, 0, 8], [0, 5, 0], [7, 0, 6]], np.uint8)
    assert component_counts(corners)[:10].tolist() == [1, 1, 1, 1, 1, 4, 3, 2, 1, 0]
    sides = np.array([[0, 9, 0], [8, 5, 7], [0, 6, 0]], np.uint8)
    assert component_counts(sides)[:10].tolist() == [1] * 9 + [0]


def test_counts_of_islands_in_holes():
    rings = np.zeros((11, 15), np.uint8)
    rings[1:10, 1:14] = 50
    rings[2:9, 2:13] = 10
    rings[4:7, 4:11] = 90
    rings[5, 6:9] = 20
    assert_counts(rings)
    assert component_counts(rings)[[5, 10, 50, 90]].tolist() == [1, 2, 1, 0]


def test_counts_on_a_path_of_thousands_of_steps():
    """A spiral that rises to its centre, entered from a second peak at its outer end."""
    image = np.zeros((61, 83), np.uint8)
    at, step, path = np.array([0, 0]), np.array([0, 1]), []
    shape = np.array(image.shape)
    free = np.ones(image.shape, bool)
    while True:
        path.append(tuple(at))
        free[tuple(at)] = False
        for _ in range(2):
            ahead, beyond = at + step, at + 2 * step
            inside = (ahead >= 0).all() and (ahead < shape).all()
            clear = (beyond < 0).any() or (beyond >= shape).any() or free[tuple(beyond)]
            if inside and free[tuple(ahead)] and clear:
                at = ahead
                break
            step = np.array([step[1], -step[0]])
        else:
            break
    assert len(path) > 2000
    for index, place in enumerate(path):
        image[place] = 55 + 200 * index // len(path)
    image[0, 0] = 255
    assert_counts(image)
    assert component_counts(image)[[0, 54, 100]].tolist() == [1, 1, 2]


# ---------------------------------------------------------------------------------------------------- the interval


@pytest.mark.parametrize(
    ("counts", "min_length", "expected"),
    [
        ([], 1, None),
        ([0, 0, 0, 0], 1, None),  # nothing is not a count
        ([0, 1, 1, 1, 0], 4, None),  # too short
        ([0, 1, 1, 1, 1], 4, (1, 4)),  # long enough, at the end
        ([2, 2, 1, 1, 1, 2, 2, 2, 2], 2, (5, 8)),  # the longest run
        ([1, 1, 0, 1, 1], 2, (3, 4)),  # of one count's equally long runs the last
        ([3, 3, 0, 1, 1], 2, (0, 1)),  # of equally long counts the first
        ([1, 1, 2, 2, 2, 1, 1, 1], 2, (5, 7)),  # 1 had a run before 2 had, though a shorter one
        ([1, 2, 2, 2, 1, 1, 1], 2, (1, 3)),  # a run below the minimum is none
    ],
)
def test_stable_interval(counts, min_length, expected):
    assert stable_interval(counts, min_length) == expected


# ---------------------------------------------------------------------------------------------------- whole results


@settings(max_examples=80)
@given(
    chosen=st.lists(st.tuples(kinds, sides, sides, seeds), min_size=2, max_size=4),
    kernel=st.sampled_from([1, 2, 3, 6]),
    step=st.sampled_from([1, 4, 7]),
    min_interval=st.integers(1, 8),
)
def test_results_are_the_published_ones(chosen, kernel, step, min_interval):
    maps = [picture(kind, (height, width), seed) for kind, height, width, seed in chosen]
    if len({m.max() for m in maps}) == 1:
        with pytest.raises(InvalidArgumentError, match="peak at about the same score|every score of the maps is"):
            MEBin(kernel=kernel, step=step, min_interval=min_interval).fit(maps)
    else:
        assert_published(maps, kernel=kernel, step=step, min_interval=min_interval)


def blobs(seed: int, peaks: list[float], shape: tuple[int, int] = (96, 130)) -> np.ndarray:
    """A low smooth ground with one round peak per entry, float64 in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    image = 0.1 * ndimage.gaussian_filter(rng.random(shape), 5)
    for peak in peaks:
        (y, x), size = rng.uniform((0, 0), shape), rng.uniform(6, 12)
        image += peak * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
    return image


def test_results_on_maps_with_defects_are_the_published_ones():
    maps = [blobs(seed, [0.9, 0.7, 0.5, 0.8][: seed % 5]) for seed in range(10)]
    top = max(m.max() for m in maps)
    counts = assert_published([(m / top * 255).astype(np.uint8) for m in maps])
    assert counts.count(0) >= 2 and max(counts) >= 2  # the two without a peak are found empty


def test_results_on_real_photographs_are_the_published_ones(shared):
    """Grey values of magnetic tiles instead of scores: structure at every scale, no two sizes alike."""
    test = load_dataset(shared / "data" / "mtd").test
    photos = [test[index].image[:, :, 0] for index in range(0, len(test), len(test) // 8)]
    maps = [cv2.GaussianBlur(photo, (0, 0), 4) for photo in photos] + photos[:2]
    assert max(assert_published(maps)) >= 1


def test_a_map_that_was_not_in_the_fit():
    maps = [blobs(0, []), blobs(1, [0.9])]
    maps = [(m / maps[1].max() * 255).astype(np.uint8) for m in maps]
    mebin = MEBin().fit(maps)
    assert mebin.binarize(maps[1]).n_regions == 1 == mebin.binarize(maps[1][:, ::-1].copy()).n_regions
    brighter = np.clip(maps[1].astype(int) * 2, 0, 255).astype(np.uint8)
    assert mebin.binarize(brighter).mask.sum() > mebin.binarize(maps[1]).mask.sum()
    assert mebin.binarize(np.full((7, 9), maps[0].max(), np.uint8)).n_regions == 0


@pytest.mark.parametrize("offset", [0.0, -0.5, 1000.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_maps_are_those_of_eight_bits_over_the_sets_range(offset, dtype):
    maps = [(blobs(seed, [0.9, 0.6][:seed]) + offset).astype(dtype) for seed in range(3)]
    low, high = np.float32(min(m.min() for m in maps)), np.float32(max(m.max() for m in maps))
    levels = [((m.astype(np.float32) - low) / (high - low) * 255).astype(np.uint8) for m in maps]
    assert {0, 255} == {min(m.min() for m in levels), max(m.max() for m in levels)}
    raw, eight = MEBin().fit(maps), MEBin().fit(levels)
    for m, level in zip(maps, levels, strict=True):
        found, expected = raw.binarize(m), eight.binarize(level)
        assert np.array_equal(found.mask, expected.mask) and found.n_regions == expected.n_regions
        assert np.allclose(raw.normalise(m), eight.normalise(level))
        # the threshold is in the map's own units, exactly
        above = cv2.erode((m.astype(np.float32) > found.threshold).astype(np.uint8), np.ones((6, 6), np.uint8))
        assert np.array_equal(above.astype(bool), found.mask)
        if found.interval:
            assert found.interval[0] == found.threshold <= found.interval[1] <= high
    assert [raw.binarize(m).n_regions for m in maps] == [0, 1, 2]
    assert raw.binarize(maps[0]).threshold == np.inf and eight.binarize(levels[0]).threshold == 255


def test_normalise_is_zero_below_the_lowest_peak_and_one_at_the_highest():
    maps = [np.array([[0, 50, 100]], np.uint8), np.array([[80, 200, 150], [0, 99, 101]], np.uint8)]
    scores = MEBin().fit(maps).normalise(maps[1])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [[0, 1, 0.5], [0, 0, 0.01]], rtol=1e-6)
    np.testing.assert_allclose(OtsuThreshold().fit(maps).normalise(maps[0]), [[0, 50 / 255, 100 / 255]], rtol=1e-6)


def test_fit_reads_once_keeps_nothing_and_takes_anomaly_maps():
    maps = [blobs(seed, [0.5 * seed]).astype(np.float32) for seed in range(3)]
    mebin = MEBin(kernel=3)
    assert mebin.fit(m for m in maps) is mebin
    wrapped = MEBin(kernel=3).fit([AnomalyMap(m, 0.0) for m in maps])
    assert wrapped.range_ == mebin.range_ and wrapped.config.kernel == 3
    assert not any(isinstance(value, np.ndarray) and value.size > 256 for value in vars(mebin).values())
    assert np.array_equal(wrapped.binarize(AnomalyMap(maps[2], 1.0)).mask, mebin.binarize(maps[2]).mask)


def test_the_public_name():
    assert anomalyhub.MEBin is MEBin


# ---------------------------------------------------------------------------------------------------- Otsu, fixed


def test_fixed_threshold_is_a_share_of_the_range():
    maps = [np.array([[-1, 0, 1, 2, 3]], np.float32), np.array([[0.5, 2.01]], np.float32)]
    found = FixedThreshold(value=0.75, kernel=1).fit(maps).binarize(maps[0])
    assert found.mask.tolist() == [[False, False, False, False, True]]
    assert found.threshold == pytest.approx(2, abs=4 / 255) and (found.n_regions, found.interval) == (1, None)
    assert FixedThreshold(value=1, kernel=1).fit(maps).binarize(maps[0]).n_regions == 0
    eight = FixedThreshold(kernel=1).fit([np.array([[0, 127, 128]], np.uint8)])
    assert eight.binarize(np.array([[127, 128]], np.uint8)).mask.tolist() == [[False, True]]


def test_otsu_splits_each_map_by_itself():
    rng = np.random.default_rng(0)
    dark, bright = (np.where(np.arange(60) < 20, a, b) + rng.normal(0, 2, (40, 60)) for a, b in ((60, 30), (200, 120)))
    maps = [dark.astype(np.uint8), bright.astype(np.uint8), np.full((40, 60), 77, np.uint8)]
    found = [OtsuThreshold(kernel=1).fit(maps).binarize(m) for m in maps]
    for one, m in zip(found[:2], maps[:2], strict=True):
        assert np.array_equal(one.mask, np.broadcast_to(np.arange(60) < 20, m.shape)) and one.n_regions == 1
    assert 30 < found[0].threshold < 60 and 120 < found[1].threshold < 200
    assert not found[2].mask.any() and found[2].n_regions == 0


def test_methods_erode_alike():
    maps = [np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)]
    maps[1][5:12, 5:12] = 255  # 7 x 7 keeps 2 x 2
    maps[1][5:10, 20:25] = 255  # 5 x 5 vanishes
    maps[0][3, 3] = 9
    for method in (MEBin, OtsuThreshold, FixedThreshold):
        found = method().fit(maps).binarize(maps[1])
        assert (found.mask.sum(), found.n_regions) == (4, 1)


# ---------------------------------------------------------------------------------------------------- bad input

FLAT, RISING = np.full((4, 6), 3, np.uint8), np.arange(24, dtype=np.uint8).reshape(4, 6)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([], "no anomaly maps to fit on"),
        ([FLAT, FLAT], "every score of the maps is 3: check the detector"),
        ([FLAT.astype(np.float32)], "every score of the maps is 3"),
        ([RISING], "peak at about the same score, 23.*maps of several images"),
        ([RISING, RISING[::-1]], "peak at about the same score.*not scaled one by one"),
        ([RISING * 1.0, np.full((2, 2), np.nan)], "NaN"),
        ([RISING * 1.0, np.full((2, 2), np.inf)], "infinity"),
        ([np.array([[-3e38, 3e38]])], "lies between -3e.38 and 3e.38"),
        ([RISING, RISING * 1.0], "map 1 has more than 8 bits, unlike those before it"),
        ([RISING * 1.0, RISING], "map 1 has 8 bits, unlike those before it"),
        ([np.zeros((3, 4, 5), np.uint8)], r"shape \(H, W\).*got \(3, 4, 5\)"),
        ([np.zeros((0, 5), np.uint8)], r"at least one pixel, got \(0, 5\)"),
    ],
)
def test_maps_that_cannot_be_fitted(maps, message):
    with pytest.raises(InvalidArgumentError, match=message):
        MEBin().fit(maps)


@pytest.mark.parametrize(
    ("settings_of", "error", "message"),
    [
        ({"kernel": 0}, InvalidArgumentError, "kernel must be between 1 and 255, got 0"),
        ({"step": 128}, InvalidArgumentError, "step must be between 1 and 127, got 128"),
        ({"min_interval": 65}, InvalidArgumentError, "min_interval must be between 1 and 64, got 65"),
        ({"min_interval": 5, "step": 64}, InvalidArgumentError, "min_interval must be between 1 and 4, got 5"),
        ({"kernel": 2.5}, InvalidArgumentError, "kernel=2.5 is not a whole number"),
        ({"kernal": 6}, UnknownNameError, "did you mean 'kernel'"),
    ],
)
def test_wrong_settings(settings_of, error, message):
    with pytest.raises(error, match=message):
        MEBin(**settings_of)


def test_one_map_at_a_time_is_checked_too():
    for method in (MEBin, OtsuThreshold, FixedThreshold):
        with pytest.raises(NotFittedError, match="call fit"):
            method().binarize(RISING)
        fitted = method().fit([RISING, FLAT])
        with pytest.raises(InvalidArgumentError, match="fitted on 8-bit maps, got other"):
            fitted.binarize(RISING * 1.0)
        with pytest.raises(InvalidArgumentError, match="NaN"):
            fitted.binarize(np.full((2, 2), np.nan))


@pytest.mark.parametrize("made", [MEBin(kernel=3, step=5), OtsuThreshold(kernel=2), FixedThreshold(value=0.3)])
def test_stored_as_json_and_back(made):
    maps = [(blobs(seed, [0.4 * seed]) * 7).astype(np.float32) for seed in range(3)]
    made.fit(maps)
    back = Binarizer.from_json(json.loads(json.dumps(made.to_json())))
    assert type(back) is type(made) and back.config == made.config and back.range_ == made.range_
    for m in maps:
        ours, theirs = made.binarize(m), back.binarize(m)
        assert np.array_equal(ours.mask, theirs.mask) and ours.threshold == theirs.threshold


@pytest.mark.parametrize(
    "change",
    [
        {"method": "maxbin"},
        {"config": {"kernel": 0}},
        {"config": {"colour": 1}},
        {"range": None},
        {"range": {"minimum": 0.0}},
        {"range": {"minimum": 5.0, "maximum": 1.0, "lowest_peak": 2.0, "eight_bit": True}},
        {"range": {"minimum": 0.0, "maximum": 1.0, "lowest_peak": 1.0, "eight_bit": False}},
    ],
)
def test_damaged_storage(change):
    stored = MEBin().fit([RISING, FLAT]).to_json()
    with pytest.raises(InvalidModelError, match="damaged.*fit again"):
        Binarizer.from_json({**stored, **change})
    with pytest.raises(InvalidModelError, match="damaged"):
        Binarizer.from_json({key: value for key, value in stored.items() if key not in change})
