"""Foregrounds: found where there is a background, the whole image where there is none, and said so."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from synthesis_helpers import disc, fabric

from anomalyhub.data import load_dataset
from anomalyhub.data.sample import draw
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.synthesis import Foreground, choose_method, foreground, preview


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("method", ["grabcut", "floodfill", "auto"])
@pytest.mark.parametrize("shape", [(48, 64), (90, 60), (300, 400)])  # the last is segmented at a third of its size
@pytest.mark.parametrize("hole", [0.0, 0.5])
def test_a_product_on_a_table(method, shape, hole):
    image, inside = disc(1, shape, hole)
    found = foreground(image, method)
    assert found.mask.dtype == bool and found.mask.shape == shape and found.notice == ""
    assert found.method == method if method != "auto" else found.method in ("grabcut", "floodfill")
    assert overlap(found.mask, inside) > 0.85
    assert not found.mask[shape[0] // 2, shape[1] // 2] or not hole  # the table that is seen through a ring


def test_a_product_that_touches_the_border_is_not_taken_for_background():
    image, inside = disc(2, (60, 80))
    image, inside = image[:, 30:], inside[:, 30:]  # cut at its left side
    assert inside[:, 0].sum() > 5
    assert overlap(foreground(image, "floodfill").mask, inside) > 0.85


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([disc(i)[0] for i in range(4)], {"grabcut", "floodfill"}),
        ([disc(i, (90, 60))[0] for i in range(20)], {"grabcut", "floodfill"}),  # of which it looks at eight
        ([fabric(i) for i in range(4)], {"whole"}),
        ([fabric(0), fabric(1), fabric(2), disc(0)[0]], {"whole"}),  # one that looks otherwise decides nothing
        ([np.full((40, 60, 3), 90, np.uint8)], {"whole"}),
        ([np.full((1, 5, 3), 90, np.uint8)], {"whole"}),
    ],
)
def test_the_method_is_chosen_per_product(images, expected):
    method, reason = choose_method(images)
    assert method in expected
    assert "finds a compact object" in reason and (method == "whole") == reason.startswith("neither")


@pytest.mark.parametrize(
    ("image", "method", "says"),
    [
        (np.full((40, 60, 3), 90, np.uint8), "grabcut", "nothing"),  # of one colour
        (np.full((40, 60, 3), 90, np.uint8), "floodfill", "nothing"),
        (np.zeros((3, 200, 3), np.uint8), "grabcut", "nothing"),  # too flat for a border
        (np.zeros((1, 1, 3), np.uint8), "floodfill", "nothing"),
    ],
)
def test_not_found_is_the_whole_image_and_said(image, method, says):
    found = foreground(image, method)
    assert found.mask.all() and found.mask.shape == image.shape[:2] and found.method == "whole"
    assert method in found.notice and says in found.notice and "whole image" in found.notice


def test_whole_and_automatic_on_a_texture_have_nothing_to_say():
    for method in ("whole", "auto"):
        found = foreground(fabric(0), method)
        assert found.mask.all() and found.method == "whole" and found.notice == ""


def test_the_same_image_gives_the_same_mask_whatever_opencv_did_before():
    image, _ = disc(3)
    first = foreground(image, "grabcut").mask
    cv2.setRNGSeed(99)
    foreground(disc(4)[0], "grabcut")
    assert np.array_equal(foreground(image, "grabcut").mask, first)


def test_unknown_method_and_no_images():
    with pytest.raises(InvalidArgumentError, match="'magic'.*auto, grabcut, floodfill, whole"):
        foreground(fabric(0), "magic")
    with pytest.raises(InvalidArgumentError, match="at least one"):
        choose_method([])


def test_preview_dims_the_background_and_draws_an_outline():
    image, inside = disc(5, (90, 120))
    shown = preview(image, Foreground(inside, "grabcut"))
    assert shown.shape == image.shape and shown.dtype == np.uint8
    deep = cv2.erode(inside.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    far = ~cv2.dilate(inside.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    assert np.array_equal(shown[deep], image[deep])
    assert (shown[far] == shown[far][:, :1]).all() and shown[far].mean() < 0.75 * image[far].mean()
    assert (shown == (60, 240, 120)).all(axis=-1).sum() > 100


def test_the_sample_products():
    rings = [draw("ring", "good", seed)[0] for seed in range(3)]
    method, _ = choose_method(rings)
    assert method != "whole"
    masks = {name: [foreground(ring, name).mask for ring in rings] for name in ("grabcut", "floodfill")}
    for one, other in zip(*masks.values(), strict=True):
        assert overlap(one, other) > 0.9 and 0.35 < one.mean() < 0.5  # both have left its middle out
    assert choose_method([draw("label", "good", seed)[0] for seed in range(2)])[0] != "whole"
    assert choose_method([draw("weave", "good", seed)[0] for seed in range(3)])[0] == "whole"


@pytest.mark.parametrize("product", ["leather", "mtd"])
def test_real_textures_are_whole(shared, product):
    train = load_dataset(shared / "data", product).train
    assert choose_method([train[int(i)].image for i in np.linspace(0, len(train) - 1, 6)])[0] == "whole"
