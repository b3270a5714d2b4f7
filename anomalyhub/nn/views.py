"""Views of a sub-image and its mask: the plain one for prediction, augmented ones for training.

Everything about an augmented view follows from its random generator. Image and mask share their geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from anomalyhub.types import SubImage

#: (side, side, 3) uint8 and (side, side) bool.
View = tuple[np.ndarray, np.ndarray]
Augmentation = Literal["crop", "flip", "rotate", "colour", "sharpness", "blur", "posterize"]

#: Side of the resized sub-image over the side of what the network sees (published code: 256 and 224 pixels).
RESIZE = 256 / 224
#: Largest relative change of brightness, contrast and saturation, and largest shift of the hue's circle; the chance
#: of the colour jitter (Grill et al., BYOL, NeurIPS 2020, table 6) and of each of sharpness, blur and posterize.
_JITTER, _HUE, _COLOUR_CHANCE, _CHANCE = (0.4, 0.4, 0.2), 0.1, 0.8, 0.5


def plain_view(sub_image: SubImage, side: int, centre_crop: bool = True) -> View:
    """The whole sub-image at `side` pixels, or with `centre_crop` its middle after resizing by 256 / 224."""
    resized = round(side * RESIZE) if centre_crop else side
    offset = (resized - side) // 2
    return _crop(*_resized(sub_image, resized), offset, offset, side)


def symmetric_views(view: View, count: int) -> list[View]:
    """The first `count`, at most 8, of the square's symmetries: quarter turns, then those of the mirror image."""
    mirrored = tuple(array[:, ::-1] for array in view)
    turned = [tuple(np.rot90(array, turn) for array in side) for side in (view, mirrored) for turn in range(4)]
    return [(np.ascontiguousarray(image), np.ascontiguousarray(mask)) for image, mask in turned[:count]]


def augmented_view(
    sub_image: SubImage, side: int, augmentations: Sequence[Augmentation], rng: np.random.Generator
) -> View:
    """A random view at `side` pixels: resized by 256 / 224, cropped, then what `augmentations` names.

    crop       a random position; the middle without it
    flip       left to right and upside down, each in half of the views
    rotate     0 to 3 quarter turns
    colour     brightness, contrast, saturation and hue, in four of five views
    sharpness  factor 0.1 to 1.9; blur: Gaussian with kernels of 9 to 33 pixels and a sigma of 0.1 to 2; posterize: 5 to
               8 bits; each in half of the views
    """
    resized = round(side * RESIZE)
    spare = resized - side
    top, left = rng.integers(0, spare + 1, 2) if "crop" in augmentations else (spare // 2, spare // 2)
    image, mask = _crop(*_resized(sub_image, resized), int(top), int(left), side)
    if "flip" in augmentations:
        rows, columns = (slice(None, None, int(step)) for step in rng.choice((-1, 1), 2))
        image, mask = image[rows, columns], mask[rows, columns]
    if "rotate" in augmentations:
        turns = int(rng.integers(4))
        image, mask = np.rot90(image, turns), np.rot90(mask, turns)
    return _appearance(np.ascontiguousarray(image), augmentations, rng), np.ascontiguousarray(mask)


def _appearance(image: np.ndarray, augmentations: Sequence[Augmentation], rng: np.random.Generator) -> np.ndarray:
    picture = Image.fromarray(image)
    if "colour" in augmentations and rng.random() < _COLOUR_CHANCE:
        picture = _colours(picture, rng)
    if "sharpness" in augmentations and rng.random() < _CHANCE:
        picture = ImageEnhance.Sharpness(picture).enhance(rng.uniform(0.1, 1.9))
    if "posterize" in augmentations and rng.random() < _CHANCE:
        picture = ImageOps.posterize(picture, int(rng.integers(5, 9)))
    image = np.array(picture)
    if "blur" in augmentations and rng.random() < _CHANCE:
        kernel = 2 * int(rng.integers(4, 17)) + 1
        image = cv2.GaussianBlur(image, (kernel, kernel), rng.uniform(0.1, 2.0), borderType=cv2.BORDER_REFLECT_101)
    return image


def _colours(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for index in rng.permutation(3):
        picture = enhancers[index](picture).enhance(1.0 + rng.uniform(-_JITTER[index], _JITTER[index]))
    hue, *others = picture.convert("HSV").split()
    shift = round(256 * rng.uniform(-_HUE, _HUE))
    return Image.merge("HSV", [hue.point([(value + shift) % 256 for value in range(256)]), *others]).convert("RGB")


def _resized(sub_image: SubImage, side: int) -> tuple[np.ndarray, np.ndarray]:
    if sub_image.image.shape[:2] == (side, side):
        return sub_image.image, sub_image.mask
    image = Image.fromarray(sub_image.image).resize((side, side), Image.Resampling.BICUBIC)
    mask = Image.fromarray(sub_image.mask).resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(mask)


def _crop(image: np.ndarray, mask: np.ndarray, top: int, left: int, side: int) -> View:
    window = slice(top, top + side), slice(left, left + side)
    return image[window], mask[window]
