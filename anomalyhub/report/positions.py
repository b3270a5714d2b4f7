"""Where on the part defects lie: regions averaged over images, in shares of the images' width and height."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from anomalyhub.report.overlay import fit_within

_CELLS, _LONGEST = 48, 240  # cells of a map per side, longer side of a picture in pixels
_WEAK, _STRONG = np.array([255, 176, 0]), np.array([200, 30, 20])


@dataclass(frozen=True, eq=False)
class Positions:
    """Where the regions of some kind lie.

    images   images that have one
    share    (48, 48): share of those images whose region covers the cell
    picture  (h, w, 3) uint8 RGB: the share as heat over the mean picture, strongest where the share is largest
    """

    images: int
    share: np.ndarray
    picture: np.ndarray

    @property
    def peak(self) -> tuple[float, float, float]:
        """x and y of the most frequent place as shares of width and height, and how frequent it is; of several places
        that are equally frequent, the largest.
        """
        top = float(self.share.max())
        places = (self.share >= top - 1e-6).astype(np.uint8)
        _, _, stats, centres = cv2.connectedComponentsWithStats(places, connectivity=8)
        column, row = centres[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
        return float(column + 0.5) / _CELLS, float(row + 0.5) / _CELLS, top

    @property
    def covered(self) -> float:
        """Mean share of the image that the regions cover."""
        return float(self.share.mean())


class PositionMaps:
    """Collects regions image by image; keeps one small map per kind and two mean pictures."""

    def __init__(self):
        self._sums: dict[str | None, np.ndarray] = {}
        self._counts: dict[str | None, int] = {}
        self._pictures: dict[bool, tuple[np.ndarray, int]] = {}
        self._size: tuple[int, int] | None = None
        self._shapes: set[tuple[int, ...]] = set()

    def add(self, image: np.ndarray, is_anomalous: bool, masks: Mapping[str, np.ndarray]) -> None:
        """One (H, W, 3) uint8 image with an (H, W) bool mask per kind."""
        self._shapes = self._shapes if len(self._shapes) > 1 else self._shapes | {image.shape}
        if self._size is None:
            self._size = fit_within(image, _LONGEST).shape[1::-1]
        total, count = self._pictures.get(is_anomalous, (np.zeros((*self._size[::-1], 3)), 0))
        self._pictures[is_anomalous] = (total + cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), count + 1)
        if masks:
            named: dict[str | None, np.ndarray] = {None: np.logical_or.reduce(list(masks.values())), **masks}
            for kind, mask in named.items():
                cells = cv2.resize(mask.astype(np.float32), (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
                self._sums[kind] = self._sums.get(kind, 0.0) + cells
                self._counts[kind] = self._counts.get(kind, 0) + 1

    @property
    def sizes_differ(self) -> bool:
        """Whether the images had more than one size."""
        return len(self._shapes) > 1

    def of(self, kind: str | None = None) -> Positions | None:
        """The regions of a kind, or of all; None where there is none."""
        if kind not in self._counts:
            return None
        share = self._sums[kind] / self._counts[kind]
        return Positions(self._counts[kind], share, self._drawn(share))

    def _drawn(self, share: np.ndarray) -> np.ndarray:
        total, count = self._pictures.get(False) or self._pictures[True]  # normal images, if there were any
        luma = (total / count) @ [0.299, 0.587, 0.114]
        smooth = cv2.GaussianBlur(share.astype(np.float32), (0, 0), 0.8)
        heat = cv2.resize(smooth / max(float(smooth.max()), 1e-9), self._size)[..., None].clip(0, 1)
        color = _WEAK + heat * (_STRONG - _WEAK)
        opacity = 0.9 * np.sqrt(heat)
        return (luma[..., None] * (1 - opacity) + color * opacity).round().astype(np.uint8)
