"""anomalyhub.nn.views: image and mask share their geometry, everything follows from the random generator."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from anomalyhub.nn.views import Augmentation, augmented_view, plain_view, symmetric_views
from anomalyhub.types import SubImage

ALL = typing.get_args(Augmentation)
GEOMETRY = ("crop", "flip", "rotate")
SIDE, RESIZED = 56, 64  # 64 = 56 * 256 / 224: nothing is interpolated


def patterned(side: int = RESIZED) -> SubImage:
    """An L with a tail, unlike all of its mirror images and turns; the image is the mask in red."""
    mask = np.zeros((side, side), bool)
    unit = side // 16
    mask[2 * unit : 12 * unit, 3 * unit : 6 * unit] = True
    mask[9 * unit : 12 * unit, 3 * unit : 13 * unit] = True
    image = np.full((side, side, 3), 60, np.uint8)
    image[mask, 0] = 200
    return SubImage(image, mask, int(mask.sum()), (0, 0, side, side), 0, 1.0)


def views(augmentations, count=40, sub_image=None):
    sub_image = sub_image or patterned()
    return [augmented_view(sub_image, SIDE, augmentations, np.random.default_rng((5, i))) for i in range(count)]


def test_plain_view_is_the_middle_or_the_whole():
    sub_image = patterned()
    image, mask = plain_view(sub_image, SIDE)
    assert np.array_equal(image, sub_image.image[4:60, 4:60]) and np.array_equal(mask, sub_image.mask[4:60, 4:60])
    image, mask = plain_view(sub_image, RESIZED, centre_crop=False)
    assert np.array_equal(image, sub_image.image) and np.array_equal(mask, sub_image.mask)
    image, mask = plain_view(sub_image, 32, centre_crop=False)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8 and mask.shape == (32, 32) and mask.dtype == bool
    assert (mask == (image[..., 0] > 130)).mean() > 0.97


def test_without_augmentations_a_view_is_the_plain_one():
    image, mask = views((), count=1)[0]
    expected = plain_view(patterned(), SIDE)
    assert np.array_equal(image, expected[0]) and np.array_equal(mask, expected[1])


@pytest.mark.parametrize("augmentations", [("crop",), ("flip",), ("rotate",), GEOMETRY])
def test_image_and_mask_share_their_geometry(augmentations):
    drawn = views(augmentations)
    for image, mask in drawn:
        assert image.shape == (SIDE, SIDE, 3) and mask.shape == (SIDE, SIDE)
        assert np.array_equal(mask, image[..., 0] == 200)
    different = len({mask.tobytes() for _, mask in drawn})
    assert different >= {("crop",): 25, ("flip",): 4, ("rotate",): 4, GEOMETRY: 35}[augmentations]


@pytest.mark.parametrize("augmentation", [name for name in ALL if name not in GEOMETRY])
def test_appearance_leaves_the_mask_alone(augmentation):
    rng = np.random.default_rng(0)
    sub_image = patterned()
    noisy = (sub_image.image + rng.integers(0, 50, sub_image.image.shape)).astype(np.uint8)
    sub_image = SubImage(noisy, sub_image.mask, sub_image.area_px, sub_image.box, 0, 1.0)
    plain = plain_view(sub_image, SIDE)
    drawn = views((augmentation,), sub_image=sub_image)
    assert all(np.array_equal(mask, plain[1]) for _, mask in drawn)
    changed = sum(not np.array_equal(image, plain[0]) for image, _ in drawn)
    assert 8 <= changed < 40  # each leaves some views as they are


def test_a_view_follows_from_its_generator():
    first, second = views(ALL), views(ALL)
    assert all(
        np.array_equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert len({image.tobytes() for image, _ in first}) == len(first)


@pytest.mark.parametrize("side", [30, 64, 97])
def test_any_size_comes_out_at_the_wanted_one(side):
    image, mask = views(ALL, 1, patterned(side))[0]
    assert image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8 and mask.dtype == bool and mask.any()


def test_read_only_images_are_not_changed():
    sub_image = patterned()
    before = sub_image.image.copy()
    sub_image.image.setflags(write=False)
    sub_image.mask.setflags(write=False)
    views(ALL, sub_image=sub_image)
    assert np.array_equal(sub_image.image, before)


def test_symmetric_views():
    view = plain_view(patterned(), SIDE)
    eight = symmetric_views(view, 8)
    assert np.array_equal(eight[0][0], view[0]) and np.array_equal(eight[0][1], view[1])
    assert len({mask.tobytes() for _, mask in eight}) == 8
    assert all(np.array_equal(mask, image[..., 0] == 200) for image, mask in eight)
    assert [len(symmetric_views(view, count)) for count in (1, 4)] == [1, 4]
