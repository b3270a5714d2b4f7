"""Patch features from feature maps, and anomaly maps from patch distances: the geometry that detectors share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F

Aggregation = Literal["mean", "adaptive"]


def patch_features(
    maps: Sequence[torch.Tensor], aggregation: Aggregation = "mean", width: int = 1024, neighbourhood: int = 3
) -> torch.Tensor:
    """Locally aware patch features of a batch (Roth et al., CVPR 2022, section 3.1).

    maps  one (B, C_l, h_l, w_l) tensor per layer; all are resampled bilinearly to the first one's grid
    mean      average of the neighbourhood per channel: (B, h, w, sum of C_l)
              Zeros beyond the border count, as in the usual average pool with padding 1: they shrink the patches
              there, whose features the network's own padding makes erratic.
    adaptive  the neighbourhood's C_l * k * k values pooled to `width` per layer, then the layers pooled to `width`, as
              in the paper's published code: (B, h, w, width)
    """
    grid = maps[0].shape[-2:]
    if aggregation == "mean":
        pooled = [F.avg_pool2d(level, neighbourhood, 1, neighbourhood // 2) for level in maps]
        return torch.cat([_resample(level, grid) for level in pooled], 1).permute(0, 2, 3, 1).contiguous()
    levels = []
    for level in maps:
        batch, channels, height, wide = level.shape
        unfolded = F.unfold(level, neighbourhood, padding=neighbourhood // 2)
        unfolded = unfolded.reshape(batch, channels * neighbourhood**2, height, wide)
        rows = _resample(unfolded, grid).permute(0, 2, 3, 1).flatten(0, 2)
        levels.append(F.adaptive_avg_pool1d(rows[:, None], width)[:, 0])
    rows = F.adaptive_avg_pool1d(torch.cat(levels, 1)[:, None], width)[:, 0]
    return rows.reshape(maps[0].shape[0], *grid, width)


def _resample(level: torch.Tensor, grid: torch.Size) -> torch.Tensor:
    return level if level.shape[-2:] == grid else F.interpolate(level, grid, mode="bilinear", align_corners=False)


def upsample_scores(
    patch_scores: np.ndarray, shape: tuple[int, int], *, resize: int, crop: int | None = None, sigma: float = 4.0
) -> np.ndarray:
    """(h, w) patch scores to an (H, W) float32 map of an image of that shape.

    Bilinear to the resized frame, smoothed there by a Gaussian of `sigma` pixels, then bilinear to the image. With a
    centre crop the border that the network did not see scores 0. `resize` and `crop` as in `Backbone.preprocess`.
    """
    height, width = shape
    side = crop or resize
    frame = cv2.resize(np.ascontiguousarray(patch_scores, np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    if sigma > 0:
        frame = cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    if crop is not None:
        scale = resize / min(height, width)
        wide, high = max(crop, round(width * scale)), max(crop, round(height * scale))
        canvas = np.zeros((high, wide), np.float32)
        top, left = (high - crop) // 2, (wide - crop) // 2
        canvas[top : top + crop, left : left + crop] = frame
        frame = canvas
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
