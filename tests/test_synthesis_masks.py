"""Random masks: fields against their definitions, and areas that are met in the first attempt."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from anomalyhub.synthesis import masks

SHAPE = (40, 60)


def plain_perlin(shape, rows, columns, angle):
    """Perlin noise pixel by pixel, with gradients at the corners of rows x columns cells."""

    def fade(t):
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    field = np.zeros(shape)
    for r in range(shape[0]):
        for c in range(shape[1]):
            y, x = (r + 0.5) * rows / shape[0], (c + 0.5) * columns / shape[1]
            top, left = int(y), int(x)
            dots = {}
            for i in (0, 1):
                for j in (0, 1):
                    turn = angle[top + i, left + j]
                    dots[i, j] = math.cos(turn) * (x - left - j) + math.sin(turn) * (y - top - i)
            right, down = fade(x - left), fade(y - top)
            upper = dots[0, 0] + right * (dots[0, 1] - dots[0, 0])
            lower = dots[1, 0] + right * (dots[1, 1] - dots[1, 0])
            field[r, c] = math.sqrt(2) * (upper + down * (lower - upper))
    return field


@pytest.mark.parametrize("seed", range(6))
def test_perlin_is_its_definition(seed):
    field = masks.perlin_field(SHAPE, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    rows, columns = 2 ** rng.integers(0, 6, 2)
    expected = plain_perlin(SHAPE, rows, columns, rng.uniform(0, 2 * math.pi, (rows + 1, columns + 1)))
    assert field.dtype == np.float32 and field.shape == SHAPE
    assert np.abs(field - expected).max() < 1e-5 and expected.std() > 0.05


def test_perlin_above_the_published_threshold_is_a_defects_size():
    """Two thirds or more of the fields need no other threshold to cover 10 to 40 %."""
    shares = np.array([(masks.perlin_field((64, 64), np.random.default_rng(i)) > 0.35).mean() for i in range(100)])
    assert ((shares >= 0.1) & (shares <= 0.4)).mean() > 2 / 3


def test_poisson_makes_blobs_of_counts():
    field = masks.poisson_field((120, 180), np.random.default_rng(1))
    assert field.dtype == np.float32 and field.shape == (120, 180)
    assert abs(field.mean() - 2) < 0.2  # the expected count
    blobs, _ = cv2.connectedComponents((field > np.quantile(field, 0.8)).astype(np.uint8))
    assert 5 < blobs < 400  # single pixels of noise would be thousands
    neighbours = np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1]
    assert neighbours > 0.8


@pytest.mark.parametrize("sides", [3, 4, 5, 6])
@pytest.mark.parametrize("seed", range(3))
def test_polygons_are_regular_and_of_the_set_size(sides, seed):
    foreground, area = np.ones((150, 220), bool), 0.1
    radius, room = masks.circumradius(area * foreground.sum(), sides), masks.room_in(foreground)
    rng = np.random.default_rng(seed)
    mask = masks.highest(masks.polygon_field(room, radius, sides, rng), foreground, (area, area), None, rng)
    rng = np.random.default_rng(seed)
    centres = np.argwhere(room >= radius)  # from which it reaches no edge
    centre = centres[rng.integers(len(centres))] + rng.uniform(-0.5, 0.5, 2)
    turn = rng.uniform(0, 2 * math.pi / sides)
    angles = turn + (np.arange(sides + 1) + 0.5) * 2 * math.pi / sides
    corners = centre + radius * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    inside = np.ones(mask.shape, bool)
    y, x = np.mgrid[:150, :220]
    for (y0, x0), (y1, x1) in zip(corners[:-1], corners[1:], strict=True):  # on the same side of every edge
        inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
    assert (mask & inside).sum() / (mask | inside).sum() > 0.98
    assert mask.sum() == 3300 and not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_polygons_are_all_over_the_place():
    foreground = np.ones(SHAPE, bool)
    room, places, turns = masks.room_in(foreground), [], set()
    for seed in range(30):
        field = masks.polygon_field(room, 8.0, 4, np.random.default_rng(seed))
        places.append(np.unravel_index(field.argmax(), SHAPE))
        turns.add(round(float(field.min()), 2))
    assert np.ptp(places, axis=0).min() > 10 and len(turns) > 20


def test_a_polygon_that_fits_nowhere_is_cut_by_the_foreground():
    foreground = np.zeros(SHAPE, bool)
    foreground[18:22] = True  # a wire
    rng = np.random.default_rng(0)
    field = masks.polygon_field(masks.room_in(foreground), 20.0, 3, rng)
    mask = masks.highest(field, foreground, (0.25, 0.25), None, rng)
    assert not mask[~foreground].any() and mask.sum() == 60


@pytest.mark.parametrize(
    ("area", "threshold", "least", "most"),
    [
        ((0.1, 0.4), None, 80, 320),  # somewhere between
        ((0.1, 0.4), 0.7, 240, 240),  # 30 % are above it
        ((0.1, 0.4), 0.0, 320, 320),  # too many are: the 40 % highest
        ((0.1, 0.4), 2.0, 80, 80),  # none is: the 10 % highest
        ((1e-9, 1e-9), None, 1, 1),  # never empty
        ((1.0, 1.0), None, 800, 800),
    ],
)
def test_the_highest_part_has_the_area_that_is_asked_for(area, threshold, least, most):
    rng = np.random.default_rng(0)
    foreground = np.zeros(SHAPE, bool)
    foreground[10:30, 5:45] = True  # 800 pixels
    field = np.full(SHAPE, 9.0, np.float32)  # outside it is highest
    field[foreground] = rng.permutation(800) / 799
    counts = set()
    for seed in range(20):
        mask = masks.highest(field, foreground, area, threshold, np.random.default_rng(seed))
        assert mask.dtype == bool and not mask[~foreground].any()
        assert field[mask].min() > field[foreground & ~mask].max(initial=-1)
        counts.add(int(mask.sum()))
    assert least <= min(counts) and max(counts) <= most
    assert len(counts) > 10 or least == most


def test_room_is_the_distance_from_the_background_and_the_edge():
    foreground = np.ones((9, 15), bool)
    assert masks.room_in(foreground)[4, 7] == pytest.approx(5, abs=0.1)
    foreground[4, 0] = False
    assert masks.room_in(foreground)[4, 3] == pytest.approx(3, abs=0.1)
