"""Anomaly-centred crops: from a mask to square sub-images (Huang et al., AnomalyNCD, 2024, section III-B)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import cv2
import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.types import Box, SubImage

# The paper: 10 % padding. Published code: the smallest crop's half side is 10 % of the longer edge, and squares nearer
# than 1 % of it become one.
_PADDING, _SMALLEST, _NEAR = 0.1, 0.1, 0.01


@dataclass(frozen=True, eq=False)
class ImageRegions:
    """What is known of one image's regions, small enough to keep those of a whole data set.

    size        (H, W) of the image
    bits        its mask, packed to one bit per pixel
    sub_images  its crops, in the order of `sub_images`
    """

    size: tuple[int, int]
    bits: np.ndarray
    sub_images: tuple[SubImage, ...]

    @classmethod
    def of(
        cls,
        image: np.ndarray,
        mask: np.ndarray,
        n_regions: int | None = None,
        scores: np.ndarray | None = None,
        longest: int = 512,
    ) -> ImageRegions:
        """The regions of an image, with the arguments of `sub_images`; crops wider than `longest` pixels are shrunk."""
        fitted = fit_mask(mask, image.shape[:2])
        made = tuple(_reduced(one, longest) for one in sub_images(image, fitted, n_regions, scores))
        return cls(image.shape[:2], np.packbits(fitted), made)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        height, width = self.size
        return np.unpackbits(self.bits, count=height * width).reshape(height, width).astype(bool)

    @property
    def is_empty(self) -> bool:
        """Whether there is no region."""
        return not self.bits.any()


def crop_boxes(mask: np.ndarray, image_shape: tuple[int, ...], n_regions: int | None = None) -> list[Box]:
    """Square boxes around the regions of a mask, largest first, in pixels of the image; empty for an empty mask.

    mask         (h, w) bool; fitted to the image by nearest neighbour
    image_shape  (H, W), or (H, W, C)
    n_regions    at most one box more than this is kept; None keeps all

    Each outer contour gets a square with its box's centre. The side is 1.1 times the box's longer side, at least 20 %
    and at most 100 % of the image's longer edge, rounded up. It is shifted into the image, or to its start where it is
    wider than the image, and then ends outside. Squares of which both gaps are below 1 % of the longer edge are
    replaced by the square around them all, until none are so near. Equally large ones come from the bottom up, as
    OpenCV lists contours. Regions inside another's hole have no outer contour.

    Raises InvalidArgumentError for a mask that is not (h, w) or a negative `n_regions`.
    """
    height, width = image_shape[:2]
    if n_regions is not None and n_regions < 0:
        raise InvalidArgumentError(f"n_regions must not be negative, got {n_regions}: give 0 or more")
    edge = max(height, width)
    boxes = [
        _square(box, edge, height, width, _PADDING, 2 * _SMALLEST) for box in _contours(fit_mask(mask, (height, width)))
    ]
    while len(groups := _groups(boxes, _NEAR * edge)) < len(boxes):
        hulls = [np.concatenate([group[:, :2].min(axis=0), group[:, 2:].max(axis=0)]).tolist() for group in groups]
        boxes = [_square(hull, edge, height, width) for hull in hulls]
    boxes.sort(key=lambda box: box[0] - box[2])  # sides, largest first; stable
    return boxes if n_regions is None else boxes[: n_regions + 1]


def sub_images(
    image: np.ndarray, mask: np.ndarray, n_regions: int | None = None, scores: np.ndarray | None = None
) -> list[SubImage]:
    """The crops of one image, at its own resolution; outside of the image they are black, as PIL's are.

    image      (H, W, 3) uint8 RGB
    mask       (h, w) bool, such as a Binarization's, with its n_regions; the ground truth needs none
    scores     (h, w) in [0, 1], such as `MEBin.normalise` gives; a crop's score is the largest inside its box. Without
               them it is 1 for a crop of a region

    An empty mask gives one sub-image with an empty mask, the whole image in a square from its top left corner, so that
    it can be called normal; its score is the largest of the image, or 0 without scores.
    """
    fitted = fit_mask(mask, image.shape[:2])
    edge = max(image.shape[:2])
    boxes = crop_boxes(fitted, image.shape, n_regions) or [(0, 0, edge, edge)]
    if scores is not None and (scores.ndim != 2 or not scores.size):
        raise InvalidArgumentError(f"scores must have shape (H, W) and at least one pixel, got {scores.shape}")
    made = []
    for index, box in enumerate(boxes):
        inside = _cut(fitted, box)
        area = int(np.count_nonzero(inside))
        score = float(area > 0) if scores is None else float(_window(scores, box, image.shape).max())
        made.append(SubImage(_cut(image, box), inside, area, box, index, score))
    return made


def _reduced(sub_image: SubImage, longest: int) -> SubImage:
    """At most `longest` pixels wide; box and area stay those of the original."""
    if len(sub_image.image) <= longest:
        return sub_image
    size = (longest, longest)
    return dataclasses.replace(
        sub_image,
        image=cv2.resize(sub_image.image, size, interpolation=cv2.INTER_AREA),
        mask=fit_mask(sub_image.mask, size),
    )


def fit_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool at another size, (H, W) bool, by nearest neighbour. Raises InvalidArgumentError on another shape."""
    if mask.ndim != 2 or not mask.size:
        raise InvalidArgumentError(f"mask must have shape (H, W) and at least one pixel, got {mask.shape}")
    mask = mask.astype(bool, copy=False)
    if mask.shape == tuple(shape):
        return mask
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(shape, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)]


def _contours(mask: np.ndarray) -> list[list[int]]:
    """Boxes of the outer contours, from the bottom up by their first pixel in reading order."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    points = [contour.reshape(-1, 2) for contour in found]
    points.sort(key=lambda p: tuple(p[np.lexsort(p.T)[0], ::-1]), reverse=True)
    return [[*p.min(axis=0).tolist(), *(p.max(axis=0) + 1).tolist()] for p in points]


def _square(box: list[int], edge: int, height: int, width: int, padding: float = 0.0, smallest: float = 0.0) -> Box:
    x0, y0, x1, y1 = box
    side = max((1 + padding) * max(x1 - x0, y1 - y0), smallest * edge)
    side = min(math.ceil(side - 1e-6), edge)
    left, top = (
        max(min((start + end - side) // 2, size - side), 0) for start, end, size in ((x0, x1, width), (y0, y1, height))
    )
    return left, top, left + side, top + side


def _groups(boxes: list[Box], margin: float) -> list[np.ndarray]:
    """Boxes of which each is nearer than `margin`, in x and in y, to another of its group; in order of their firsts."""
    corners = np.array(boxes).reshape(-1, 4)
    group_of = np.full(len(corners), -1)
    for first in range(len(corners)):
        if group_of[first] >= 0:
            continue
        group_of[first], frontier = first, [first]
        while frontier:
            x0, y0, x1, y1 = corners[frontier.pop()]
            near = (corners[:, 0] - x1 < margin) & (x0 - corners[:, 2] < margin)
            near &= (corners[:, 1] - y1 < margin) & (y0 - corners[:, 3] < margin)
            near &= group_of < 0
            group_of[near] = first
            frontier.extend(np.flatnonzero(near).tolist())
    return [corners[group_of == first] for first in np.unique(group_of)]


def _cut(array: np.ndarray, box: Box) -> np.ndarray:
    """array[y0:y1, x0:x1] with zeros outside; boxes start inside the image."""
    x0, y0, x1, y1 = box
    cut = np.zeros((y1 - y0, x1 - x0, *array.shape[2:]), array.dtype)
    part = array[y0:y1, x0:x1]
    cut[: part.shape[0], : part.shape[1]] = part
    return cut


def _window(scores: np.ndarray, box: Box, image_shape: tuple[int, ...]) -> np.ndarray:
    """The part of a map of any size under a box of the image."""
    (height, width), (rows, columns) = image_shape[:2], scores.shape
    x0, y0, x1, y1 = box
    window = scores[y0 * rows // height : -(-y1 * rows // height), x0 * columns // width : -(-x1 * columns // width)]
    return window
