"""The plainest way from an anomaly map to regions: one threshold for all images."""

from __future__ import annotations

import math

import cv2
import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.types import AnomalyMap, Region


def as_scores(map: AnomalyMap | np.ndarray) -> np.ndarray:
    """The (H, W) float32 scores of a map or of an array. Raises InvalidArgumentError on another shape or on NaN."""
    if isinstance(map, AnomalyMap):
        return map.scores
    scores = np.asarray(map, dtype=np.float32)
    if scores.ndim != 2 or 0 in scores.shape:
        raise InvalidArgumentError(f"scores must have shape (H, W) and at least one pixel, got {scores.shape}")
    if np.isnan(scores).any():
        raise InvalidArgumentError("scores hold NaN: fit the detector again or leave out the image that caused it")
    return scores


def threshold_regions(
    map: AnomalyMap | np.ndarray, threshold: float, *, min_area: int = 1, byte_budget: int = 2**30
) -> tuple[np.ndarray, list[Region]]:
    """The anomalous pixels of a map and their 8-connected regions.

    map          anomaly map, or its (H, W) raw scores
    threshold    in the map's units; a pixel is anomalous when its score is larger
    min_area     regions of fewer pixels are dropped, from the mask too
    byte_budget  bound on the regions' masks of H * W bytes each; the smallest regions beyond it (the 1025th on, in
                 a map of 1024 x 1024) stay in the mask but are not listed

    Returns the (H, W) bool mask and the regions, largest first, ties in reading order; both may be empty.
    """
    scores = as_scores(map)
    if math.isnan(threshold):
        raise InvalidArgumentError("threshold is NaN: give a number in the scores' units")
    if min_area < 1:
        raise InvalidArgumentError(f"min_area must be at least 1 pixel, got {min_area}")
    mask = scores > float(threshold)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    x, y, width, height, area = stats.T
    keep = area >= min_area
    keep[0] = False  # the background
    if min_area > 1:
        mask = keep[labels]
    order = [i for i in np.lexsort((x, y, -area)).tolist() if keep[i]][: max(1, byte_budget // scores.size)]
    boxes = np.stack([x, y, x + width, y + height], axis=1).tolist()
    return mask, [_region(scores, labels, i, tuple(boxes[i]), int(area[i])) for i in order]


def _region(scores: np.ndarray, labels: np.ndarray, index: int, box: tuple[int, int, int, int], area: int) -> Region:
    x0, y0, x1, y1 = box
    inside = labels[y0:y1, x0:x1] == index
    # zeros come from the system lazily and only the box is written: many full-frame masks stay cheap
    mask = np.zeros(scores.shape, dtype=bool)
    mask[y0:y1, x0:x1] = inside
    return Region(mask=mask, box=box, area_px=area, peak=float(scores[y0:y1, x0:x1][inside].max()))
