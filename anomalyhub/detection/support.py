"""A few normal images seen in many ways: the augmentations that make a support set of them.

Ejaz, category-agnostic few-shot anomaly detection, 2024, section 4.2. The thesis names the transformations and gives
no amounts; those below are this package's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import cv2
import numpy as np

from anomalyhub.types import Sample

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of grey, section 4.2.1
_MOVES = ((-0.1, 0.0), (0.1, 0.0), (0.0, -0.1), (0.0, 0.1))  # right and down, in shares of width and height
_ANGLES = (-22.5, -11.25, 11.25, 22.5)  # degrees, positive turns counter-clockwise
_FACTORS = (0.8, 1.2)  # of brightness and of contrast


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to its luma in all three channels."""
    return np.repeat(_as_uint8(image.astype(np.float32) @ _LUMA)[..., None], 3, axis=2)


def translated(image: np.ndarray, right: float, down: float) -> np.ndarray:
    """Moved by shares of the width and height; the border is mirrored, so that no edge appears that is none."""
    height, width = image.shape[:2]
    return _warped(image, np.float32([[1, 0, right * width], [0, 1, down * height]]))


def rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turned counter-clockwise about the centre; the border is mirrored."""
    height, width = image.shape[:2]
    return _warped(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0))


def brightened(image: np.ndarray, factor: float) -> np.ndarray:
    """All values times the factor, at most 255."""
    return _as_uint8(image.astype(np.float32) * factor)


def contrasted(image: np.ndarray, factor: float) -> np.ndarray:
    """Each value's distance to the image's mean times the factor, in 0 to 255."""
    mean = np.float32(image.mean())
    return _as_uint8((image.astype(np.float32) - mean) * factor + mean)


#: All ways that an image is seen, the image itself first; (H, W, 3) uint8 to the same.
VIEWS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda image: image,
    grey,
    lambda image: np.ascontiguousarray(image[:, ::-1]),
    lambda image: np.ascontiguousarray(image[::-1]),
    *(partial(translated, right=x, down=y) for x, y in _MOVES),
    *(partial(rotated, degrees=angle) for angle in _ANGLES),
    *(partial(brightened, factor=factor) for factor in _FACTORS),
    *(partial(contrasted, factor=factor) for factor in _FACTORS),
)


def augmented(image: np.ndarray) -> list[np.ndarray]:
    """An (H, W, 3) uint8 image under all of `VIEWS`: as it is, grey, flipped, moved, turned, darker and so on."""
    return [view(image) for view in VIEWS]


def one_augmented(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An (H, W, 3) uint8 image under one of `VIEWS`, drawn at random, the first excluded."""
    return VIEWS[rng.integers(1, len(VIEWS))](image)


def view_batches(samples: Iterable[Sample], size: int, augment: bool) -> Iterator[tuple[list[np.ndarray], list[int]]]:
    """Lists of at most `size` images, read as they are asked for, and which sample (from 0) each of them shows.

    augment  every sample under all of `VIEWS`, one after the other; else every sample as it is
    """
    images: list[np.ndarray] = []
    numbers: list[int] = []
    for number, sample in enumerate(samples):
        for view in VIEWS if augment else VIEWS[:1]:
            images.append(view(sample.image))
            numbers.append(number)
            if len(images) == size:
                yield images, numbers
                images, numbers = [], []
    if images:
        yield images, numbers


def _warped(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _as_uint8(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)
