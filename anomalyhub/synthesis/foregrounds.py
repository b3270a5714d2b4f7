"""Where the product is in its image: GrabCut or a flood fill, both of which take the image's border for background.

Industrial backgrounds are simple, so that these two suffice (liu2024). A texture fills its image and has
no background. Which of the three a product is, is decided once from a few of its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

from anomalyhub.errors import InvalidArgumentError

Method = Literal["grabcut", "floodfill", "whole"]
METHODS: tuple[Method, ...] = ("grabcut", "floodfill", "whole")
AUTO = "auto"

#: Longer side in pixels of the reduced image that is segmented: edges come out one part in 128 blurred.
_REDUCED = 128
#: Images of a product that `choose_method` looks at.
_LOOKED_AT = 8
#: A foreground of a smaller or larger share of the image is none.
_SHARES = (0.03, 0.95)
#: Parts that are smaller than this share of the largest, and holes than this share of the mask, are noise.
_SPECK, _HOLE = 0.1, 0.02
#: A part of the foreground that is larger than this share of it, and of the background's colours, is a hole.
_SEEN_THROUGH = 0.05
_ITERATIONS = 4


@dataclass(frozen=True, eq=False)
class Foreground:
    """Where a product is.

    mask    (H, W) bool, never empty
    method  the one that found it
    notice  a sentence for people where none was found and the whole image is taken, else empty
    """

    mask: np.ndarray
    method: Method
    notice: str = ""


class _Quality(NamedTuple):
    """How much a mask looks like a product on a background, each in [0, 1].

    share    of the image that is foreground
    touching share of a band along the border, past its outermost pixels, that is foreground
    solid    share of the convex hull of the foreground, holes filled, that is foreground
    apart    1 - overlap of the colour histograms inside and outside
    """

    share: float
    touching: float
    solid: float
    apart: float

    @property
    def good(self) -> bool:
        low, high = _SHARES
        return low < self.share < high and self.touching < 0.35 and self.solid > 0.6 and self.apart > 0.6

    @property
    def score(self) -> float:
        return (1 - self.touching) * self.solid * self.apart if self.good else 0.0


def foreground(image: np.ndarray, method: str = AUTO) -> Foreground:
    """The product's pixels in an image (H, W, 3) uint8.

    method  "grabcut"; "floodfill" from the border; "whole": all of it; "auto": what suits this image best

    Where nothing, or nearly nothing or everything, is found, the whole image is the foreground and `notice` says so.
    Equal images give equal masks; OpenCV's random state is set. Raises InvalidArgumentError for another method.
    """
    _check(method)
    notice = ""
    if method == AUTO:
        method, _ = choose_method([image])
    if method != "whole":
        small = reduced(image)
        mask = _segment(small, method)
        if _SHARES[0] < mask.mean() < _SHARES[1]:
            mask = cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
            return Foreground(mask, method)
        found = "nothing" if mask.mean() <= _SHARES[0] else "nearly everything"
        notice = (
            f"{method} took {found} for foreground, so the whole image is taken: choose another method if it is not"
        )
    return Foreground(np.ones(image.shape[:2], bool), "whole", notice)


def choose_method(images: Sequence[np.ndarray]) -> tuple[Method, str]:
    """What suits a product, from a few of its images (H, W, 3) uint8 of any size, and why, as a sentence.

    Each method's masks must be compact, away from the border, and of other colours than the rest in most images; the
    better one is taken, and "whole" where neither does, as with textures. Raises InvalidArgumentError without images.
    """
    if not len(images):
        raise InvalidArgumentError("there are no images to choose a foreground method from: give at least one")
    chosen = np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT).astype(int))
    smalls = [reduced(images[int(index)]) for index in chosen]
    found = {method: [_quality(small, _segment(small, method)) for small in smalls] for method in _WAYS}
    scores = {method: float(np.mean([quality.score for quality in of])) for method, of in found.items()}
    good = {method: sum(quality.good for quality in of) for method, of in found.items()}
    best = max(scores, key=lambda method: scores[method])
    if 2 * good[best] <= len(smalls):
        return "whole", (
            f"neither GrabCut nor flood fill finds a compact object of its own colours "
            f"({good['grabcut']} and {good['floodfill']} of {len(smalls)} images), so the product fills its images"
        )
    other = "floodfill" if best == "grabcut" else "grabcut"
    return best, (
        f"{best} finds a compact object in {good[best]} of {len(smalls)} images "
        f"(quality {scores[best]:.2f}, {other} {scores[other]:.2f})"
    )


def preview(image: np.ndarray, found: Foreground) -> np.ndarray:
    """The image (H, W, 3) uint8 with its background dimmed to grey and its foreground outlined."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shown = np.where(found.mask[..., None], image, (grey // 3 + 20)[..., None])
    outlines, _ = cv2.findContours(found.mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(image.shape) / 200))
    return cv2.drawContours(np.ascontiguousarray(shown), outlines, -1, (60, 240, 120), thickness)


def _check(method: str) -> None:
    if method not in (AUTO, *METHODS):
        raise InvalidArgumentError(f"unknown foreground method {method!r}: choose one of {', '.join((AUTO, *METHODS))}")


def reduced(image: np.ndarray, longest: int = _REDUCED) -> np.ndarray:
    """An image (H, W, 3) whose longer side is at most `longest` pixels, by area averaging."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _grabcut(image: np.ndarray) -> np.ndarray:
    """(h, w) bool; the outermost 2 pixels are background."""
    if min(image.shape[:2]) < 8:
        return np.zeros(image.shape[:2], bool)
    state = np.full(image.shape[:2], cv2.GC_PR_FGD, np.uint8)
    state[:2], state[-2:], state[:, :2], state[:, -2:] = (cv2.GC_BGD,) * 4
    cv2.setRNGSeed(0)  # its mixtures start from a random k-means
    models = np.zeros((2, 1, 65))
    try:
        cv2.grabCut(cv2.medianBlur(image, 3), state, None, *models, _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # an image of one colour leaves a mixture without pixels
        return np.zeros(image.shape[:2], bool)
    return (state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)


def _floodfill(image: np.ndarray) -> np.ndarray:
    """(h, w) bool: all that cannot be reached from the border's pixels through colours that are like theirs."""
    lab = cv2.cvtColor(cv2.medianBlur(image, 3), cv2.COLOR_RGB2LAB)
    height, width = lab.shape[:2]
    rows, columns = np.nonzero(_border(lab.shape[:2], 1))
    colours = lab[rows, columns].astype(np.float64)
    away = np.abs(colours - np.median(colours, axis=0))
    spread = 1.4826 * np.median(away, axis=0)  # that of a normal distribution
    tolerance = tuple(np.clip(2 * spread, 6, 16))
    usual = (away <= np.maximum(3 * spread, 12)).all(axis=1)  # a product that touches the border is no seed
    reached = np.zeros((height + 2, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (1 << 8)
    for row, column in zip(rows[usual].tolist(), columns[usual].tolist(), strict=True):
        if not reached[row + 1, column + 1]:
            cv2.floodFill(lab, reached, (column, row), 0, tolerance, tolerance, flags)
    return reached[1:-1, 1:-1] == 0


_WAYS = {"grabcut": _grabcut, "floodfill": _floodfill}


def _segment(image: np.ndarray, method: str) -> np.ndarray:
    """(h, w) bool of a reduced image; may be empty."""
    return _cleaned(_without_holes(image, _cleaned(_WAYS[method](image))))


def _cleaned(mask: np.ndarray) -> np.ndarray:
    """Without lines, specks and small holes; a large hole, such as a ring's, stays."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, parts, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].astype(float)
    areas[0] = 0
    kept = (areas >= max(1.0, _SPECK * areas.max()))[parts]
    _, parts, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
    filled = stats[:, cv2.CC_STAT_AREA] < _HOLE * kept.sum()
    filled[0] = False
    return kept | filled[parts]


def _without_holes(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask without its large parts in which colours of the background prevail, such as the inside of a ring."""
    if mask.all() or not mask.any():
        return mask
    bins, inside, outside = _histograms(image, mask)
    strange = (mask & (outside > 2 * inside)[bins]).astype(np.uint8)
    strange = cv2.morphologyEx(strange, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    strange = cv2.morphologyEx(strange, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    _, parts, stats, _ = cv2.connectedComponentsWithStats(strange, connectivity=4)
    holes = stats[:, cv2.CC_STAT_AREA] > _SEEN_THROUGH * mask.sum()
    holes[0] = False
    return mask & ~holes[parts]


def _histograms(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pixel's bin in the Lab space (h, w), and the bins' shares (4096,) inside and outside of the mask."""
    bins = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB) >> 4).astype(int) @ np.array([256, 16, 1])
    inside, outside = (np.bincount(bins[part], minlength=4096) / part.sum() for part in (mask, ~mask))
    return bins, inside, outside


def _quality(image: np.ndarray, mask: np.ndarray) -> _Quality:
    share = float(mask.mean())
    if not _SHARES[0] < share < _SHARES[1]:
        return _Quality(share, share, 0.0, 0.0)
    edge = max(2, round(0.03 * max(mask.shape)))
    band = _border(mask.shape, 2 * edge) & ~_border(mask.shape, edge)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, cv2.FILLED)
    hull = cv2.convexHull(np.vstack(outlines))
    hull_area = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), hull, 1).sum()
    _, inside, outside = _histograms(image, mask)
    overlap = float(np.minimum(inside, outside).sum())
    inner = float(mask[band].mean()) if band.any() else 1.0  # an image too small for a band tells nothing
    return _Quality(share, inner, float(filled.sum() / hull_area), 1 - overlap)


def _border(shape: tuple[int, int], width: int) -> np.ndarray:
    """(h, w) bool: the outermost pixels, `width` of them."""
    border = np.ones(shape, bool)
    border[width:-width, width:-width] = False
    return border
