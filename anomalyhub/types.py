"""The types that flow from images to inspections (numpy and the standard library only).

Arrays are in the frame of the original image unless a field says otherwise; boxes are half-open pixels, x0 y0 x1 y1.
All are frozen and compare by identity, because they hold arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Box = tuple[int, int, int, int]

#: The label of a normal image, of a defective one that nothing names, and of a kind unlike all that are known.
GOOD, ANOMALOUS, UNKNOWN = "good", "anomalous", "unknown"


def _check_array(name: str, array: np.ndarray, shape: str, ndim: int, dtype: type) -> None:
    """Raise ValueError unless `array` is an ndarray of `ndim` axes and `dtype`; `shape` is how to print it."""
    if not isinstance(array, np.ndarray) or array.ndim != ndim:
        got = array.shape if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} must have shape {shape}, got {got}")
    if array.dtype != np.dtype(dtype):
        raise ValueError(f"{name} must be {np.dtype(dtype).name}, got {array.dtype.name}")


def _check_box(box: Box) -> None:
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"box must be half-open pixels x0 y0 x1 y1 with x0 < x1 and y0 < y1, got {box}")


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded image with what is known about it.

    id     unique in its data set: the path below the data set's root, with forward slashes
    image  (H, W, 3) uint8 RGB, upright
    label  the defect class; "good" is normal; None is unknown
    mask   (H, W) bool, True where defective; None is unknown
    path   the file it came from, if any
    """

    id: str
    image: np.ndarray
    label: str | None = None
    mask: np.ndarray | None = None
    path: Path | None = None

    def __post_init__(self):
        _check_array("image", self.image, "(H, W, 3)", 3, np.uint8)
        if self.image.shape[2] != 3 or 0 in self.image.shape:
            raise ValueError(f"image must have shape (H, W, 3) and at least one pixel, got {self.image.shape}")
        if self.mask is not None:
            _check_array("mask", self.mask, "(H, W)", 2, np.bool_)
            if self.mask.shape != self.image.shape[:2]:
                raise ValueError(f"mask must have the image's shape {self.image.shape[:2]}, got {self.mask.shape}")


@dataclass(frozen=True, eq=False)
class Features:
    """What a backbone says about one image.

    maps  one (C_l, h_l, w_l) float32 array per layer
    cls   (D,) float32 class token, None for networks that have none
    """

    maps: tuple[np.ndarray, ...]
    cls: np.ndarray | None = None

    def __post_init__(self):
        for level, array in enumerate(self.maps):
            _check_array(f"maps[{level}]", array, "(C, h, w)", 3, np.float32)
        if self.cls is not None:
            _check_array("cls", self.cls, "(D,)", 1, np.float32)


@dataclass(frozen=True, eq=False)
class AnomalyMap:
    """How abnormal an image is, and where.

    scores       (H, W) float32, raw, higher is worse, in the original image's frame; finite
    image_score  raw score of the whole image, higher is worse; finite
    """

    scores: np.ndarray
    image_score: float

    def __post_init__(self):
        _check_array("scores", self.scores, "(H, W)", 2, np.float32)
        if not np.isfinite(self.scores).all():
            raise ValueError("scores must be finite, got NaN or infinity")
        if not math.isfinite(self.image_score):
            raise ValueError(f"image_score must be finite, got {self.image_score}")


@dataclass(frozen=True, eq=False)
class Region:
    """One connected anomalous region.

    mask     (H, W) bool in the image's frame
    box      half-open pixels x0 y0 x1 y1
    area_px  number of pixels of the mask
    peak     largest raw score inside
    """

    mask: np.ndarray
    box: Box
    area_px: int
    peak: float

    def __post_init__(self):
        _check_array("mask", self.mask, "(H, W)", 2, np.bool_)
        _check_box(self.box)
        if self.area_px < 1:
            raise ValueError(f"area_px must be at least 1, got {self.area_px}")


@dataclass(frozen=True, eq=False)
class SubImage:
    """A square crop around a region.

    image   (S, S, 3) uint8 RGB            mask    (S, S) bool, the anomalous pixels of the crop
    area_px pixels of the mask in the crop box     half-open pixels of the crop in the original image
    region  index of the region in its image       score   anomaly score in [0, 1]
    """

    image: np.ndarray
    mask: np.ndarray
    area_px: int
    box: Box
    region: int
    score: float

    def __post_init__(self):
        _check_array("image", self.image, "(S, S, 3)", 3, np.uint8)
        _check_array("mask", self.mask, "(S, S)", 2, np.bool_)
        if self.mask.shape != self.image.shape[:2]:
            raise ValueError(f"mask must have the image's shape {self.image.shape[:2]}, got {self.mask.shape}")
        _check_box(self.box)
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score must be in [0, 1], got {self.score}")


@dataclass(frozen=True, eq=False)
class ClassProbs:
    """Class probabilities of N samples.

    probs    (N, C) float32, rows sum to 1
    classes  C names
    """

    probs: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self):
        _check_array("probs", self.probs, "(N, C)", 2, np.float32)
        if self.probs.shape[1] != len(self.classes):
            raise ValueError(f"probs must have one column per class ({len(self.classes)}), got {self.probs.shape}")
        if len(self.probs) and not np.allclose(self.probs.sum(axis=1), 1.0, atol=1e-4):
            raise ValueError("rows of probs must sum to 1")


@dataclass(frozen=True, eq=False)
class Inspection:
    """The result for one image.

    id            the sample's id
    score         raw image score, higher is worse
    p_value       calibrated score in (0, 1]: the share of normal images that would score as high; None if uncalibrated
    is_anomalous  the verdict at the threshold in force
    map           the anomaly map
    regions       anomalous regions, largest first; empty for a normal image
    labels        one (name, probability) per region; empty without a classifier
    label         "good", the merged class of the regions, or "anomalous" without a classifier
    probs         (name, probability) of every kind for the whole image, which sum to 1; empty without a classifier
    """

    id: str
    score: float
    p_value: float | None
    is_anomalous: bool
    map: AnomalyMap
    regions: tuple[Region, ...] = ()
    labels: tuple[tuple[str, float], ...] = ()
    label: str = GOOD
    probs: tuple[tuple[str, float], ...] = ()
