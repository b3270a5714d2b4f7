"""Anomaly-centred crops: where the boxes lie, what is in them, and their order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.regions import crop_boxes, sub_images

SHAPE = (100, 160)  # longer edge 160: the smallest square is 32 wide, squares nearer than 1.6 merge


def mask_of(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([], []),
        ([(20, 40, 30, 46)], [(9, 27, 41, 59)]),  # the smallest square, centred
        ([(60, 20, 110, 30)], [(57, 0, 112, 55)]),  # 1.1 times the longer side; shifted down into the image
        ([(60, 30, 111, 60)], [(57, 16, 114, 73)]),  # 56.1 is rounded up
        ([(0, 0, 4, 4)], [(0, 0, 32, 32)]),  # shifted from the corner into the image
        ([(156, 96, 160, 100)], [(128, 68, 160, 100)]),
        ([(30, 50, 130, 53)], [(25, 0, 135, 110)]),  # wider than the image is high: leaves it at the bottom
        ([(0, 0, 160, 100)], [(0, 0, 160, 160)]),  # at most the longer edge
        ([(20, 20, 24, 24), (53, 20, 57, 24)], [(6, 0, 71, 65)]),  # squares 1 apart become the square around both
        (
            [(20, 20, 24, 24), (54, 20, 58, 24)],
            [(40, 6, 72, 38), (6, 6, 38, 38)],
        ),  # 2 apart; bottom up, so right to left
        ([(20, 20, 24, 24), (54, 54, 58, 58)], [(40, 40, 72, 72), (6, 6, 38, 38)]),  # 2 apart diagonally
        ([(20, 20, 24, 24), (53, 53, 57, 57)], [(6, 6, 71, 71)]),  # 1 apart diagonally
        ([(20, 20, 24, 24), (54, 20, 58, 53)], [(6, 0, 74, 68)]),  # overlapping squares
        ([(20, 20, 24, 24), (53, 20, 57, 24), (20, 80, 24, 84)], [(0, 0, 98, 98)]),  # the third joins their square only
        ([(20, 20, 24, 24), (100, 20, 140, 60)], [(98, 18, 142, 62), (6, 6, 38, 38)]),  # largest first
    ],
)
def test_boxes(regions, expected):
    assert crop_boxes(mask_of(*regions), SHAPE) == expected
    turned = crop_boxes(mask_of(*regions).T, SHAPE[::-1])  # only ties may change their order
    assert sorted(turned) == sorted((y0, x0, y1, x1) for x0, y0, x1, y1 in expected)


@pytest.mark.parametrize(("n_regions", "kept"), [(None, 4), (5, 4), (3, 4), (2, 3), (1, 2), (0, 1)])
def test_at_most_one_more_than_estimated(n_regions, kept):
    regions = [(10, 10, 14, 14), (100, 10, 150, 50), (10, 80, 14, 84), (60, 80, 64, 84)]
    every = [(97, 2, 152, 57), (46, 66, 78, 98), (0, 66, 32, 98), (0, 0, 32, 32)]  # equal ones from the bottom up
    assert crop_boxes(mask_of(*regions), SHAPE, n_regions) == every[:kept]


def test_an_island_in_a_hole_is_part_of_what_is_around_it():
    mask = mask_of((40, 30, 90, 70))
    mask[40:60, 50:80] = False
    mask[48:52, 60:70] = True
    assert crop_boxes(mask, SHAPE) == [(37, 22, 92, 77)]


def test_diagonal_pixels_are_one_region():
    mask = mask_of((40, 40, 41, 41), (41, 41, 42, 42))
    assert crop_boxes(mask, SHAPE) == [(25, 25, 57, 57)]


def test_mask_of_another_size():
    half = mask_of((10, 20, 15, 23), shape=(50, 80))
    assert crop_boxes(half, SHAPE) == crop_boxes(mask_of((20, 40, 30, 46)), SHAPE)
    double = mask_of((40, 80, 60, 92), shape=(200, 320))
    assert crop_boxes(double, (*SHAPE, 3)) == crop_boxes(mask_of((20, 40, 30, 46)), SHAPE)
    # centres decide: 3 columns on 7 are 2, 3 and 2 wide
    (only,) = sub_images(np.zeros((7, 7, 3), np.uint8), np.array([[False, True, False]]))
    assert only.mask.sum(axis=0).max() == 7 and only.area_px == only.mask.sum() == 3 * 7


@settings(max_examples=60)
@given(st.integers(2, 90), st.integers(2, 90), st.integers(0, 10_000), st.floats(0.0005, 0.2))
def test_every_region_is_in_a_square(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    edge, boxes = max(height, width), crop_boxes(mask, (height, width))
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        assert x1 - x0 == y1 - y0 <= edge and x1 - x0 >= min(edge, 0.2 * edge)
        assert 0 <= x0 and 0 <= y0 and x1 <= max(width, x1 - x0) and y1 <= max(height, y1 - y0)
        covered[y0:y1, x0:x1] = True
    assert covered[mask].all() and len(boxes) > 0 or not mask.any()
    sides = [x1 - x0 for x0, _, x1, _ in boxes]
    assert sides == sorted(sides, reverse=True)
    for i, a in enumerate(boxes):  # what is left is far apart
        for b in boxes[:i]:
            assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= 0.01 * edge


# ---------------------------------------------------------------------------------------------------- sub-images


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(1, 256, (*SHAPE, 3)).astype(np.uint8)


def test_what_is_in_a_crop(image):
    mask = mask_of((60, 30, 111, 60), (4, 4, 8, 8))
    scores = np.linspace(0, 1, mask.size, dtype=np.float32).reshape(SHAPE)
    first, second = sub_images(image, mask, 2, scores)
    assert (first.box, second.box) == ((57, 16, 114, 73), (0, 0, 32, 32))
    assert np.array_equal(first.image, image[16:73, 57:114]) and np.array_equal(first.mask, mask[16:73, 57:114])
    assert (first.area_px, second.area_px) == (51 * 30, 16)
    assert (first.region, second.region) == (0, 1)
    assert first.score == scores[72, 113] and second.score == scores[31, 31]


def test_a_crop_that_leaves_the_image_is_black_there(image):
    mask = mask_of((30, 50, 130, 53))
    (crop,) = sub_images(image, mask, 1, np.ones(SHAPE, np.float32))
    assert crop.box == (25, 0, 135, 110) and crop.image.shape == (110, 110, 3)
    assert np.array_equal(crop.image[:100], image[:, 25:135]) and not crop.image[100:].any()
    assert np.array_equal(crop.mask[:100], mask[:, 25:135]) and not crop.mask[100:].any()
    assert crop.score == 1


def test_other_regions_in_the_box_count(image):
    mask = mask_of((60, 30, 111, 60), (100, 64, 104, 68))  # the second one's square touches the first one's
    (crop,) = sub_images(image, mask)
    assert crop.area_px == mask.sum() and crop.score == 1


@pytest.mark.parametrize(("scores", "score"), [(None, 0.0), (np.array([[0.25, 0.5]], np.float32), 0.5)])
@pytest.mark.parametrize("turned", [False, True])
def test_no_region_is_the_whole_image(image, scores, score, turned):
    picture = image.swapaxes(0, 1) if turned else image
    (whole,) = sub_images(picture, np.zeros((5, 8), bool), 0, scores)
    assert whole.box == (0, 0, 160, 160) and whole.image.shape == (160, 160, 3)
    height, width = picture.shape[:2]
    assert np.array_equal(whole.image[:height, :width], picture)
    assert int(whole.image.sum()) == int(picture.sum())  # nothing but black around it
    assert not whole.mask.any() and (whole.area_px, whole.region, whole.score) == (0, 0, score)


def test_scores_of_another_size(image):
    scores = np.zeros((10, 16), np.float32)  # each 10 x 10 pixels
    scores[5, 4], scores[5, 3], scores[6, 4] = 0.75, 0.5, 0.9
    (crop,) = sub_images(image, mask_of((20, 40, 30, 46)), 1, scores)
    assert crop.box == (9, 27, 41, 59) and crop.score == 0.75
    (crop,) = sub_images(image, mask_of((18, 40, 28, 46)), 1, scores)
    assert crop.box == (7, 27, 39, 59) and crop.score == 0.5


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.zeros((4, 5, 1), bool), {}, r"mask must have shape \(H, W\).*got \(4, 5, 1\)"),
        (np.zeros((0, 5), bool), {}, r"at least one pixel, got \(0, 5\)"),
        (mask_of((1, 1, 9, 9)), {"n_regions": -1}, "n_regions must not be negative, got -1"),
        (mask_of((1, 1, 9, 9)), {"scores": np.zeros(4)}, r"scores must have shape \(H, W\).*got \(4,\)"),
        (mask_of((1, 1, 9, 9)), {"scores": np.full(SHAPE, 1.5)}, r"score must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_arguments(image, mask, options, message):
    with pytest.raises((InvalidArgumentError, ValueError), match=message):
        sub_images(image, mask, **options)
