"""What detectors share behind which another program stands."""

from __future__ import annotations

import cv2
import numpy as np

from anomalyhub.detection.base import BackboneDetector
from anomalyhub.types import AnomalyMap


class Adapter(BackboneDetector):
    """A detector behind which another program stands: a backbone may be given, and is neither loaded nor kept."""

    uses_backbone = False


def in_frame(scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) scores of a whole image as (H, W) float32 in its own frame, bilinear."""
    scores = np.ascontiguousarray(scores, np.float32)
    if scores.shape != shape:
        scores = cv2.resize(scores, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return scores


def score_table(results: list[AnomalyMap]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) image scores and (n,) map maxima, float32; empty for fewer than two, which calibrate nothing."""
    results = results if len(results) > 1 else []
    scores = np.array([result.image_score for result in results], np.float32)
    return scores, np.array([result.scores.max() for result in results], np.float32)
