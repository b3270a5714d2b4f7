"""Box-level errors of a binarization: regions that are no defects, and defects that no region meets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anomalyhub.errors import InvalidArgumentError


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union in [0, 1] of boxes (n, 4) and (m, 4), half-open x0 y0 x1 y1: (n, m) float64."""
    a, b = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(axis=-1)
    return shared / ((a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared)


def box_rates(true: Sequence[Any], found: Sequence[Any], *, min_iou: float = 0.1) -> dict[str, Any]:
    """How many found boxes are no defects, and how many defects are missed, over all images together.

    true, found  one (n, 4) array of boxes per image, n may be 0; half-open x0 y0 x1 y1 of positive area

    A defect counts as detected when its IoU with a found box exceeds `min_iou`, 0.1 in section IV-C of Huang et al.
    (AnomalyNCD, 2024). The paper does not say what its rates are shares of; here ``fpr`` is the share of the found
    boxes that meet no defect so, and ``fnr`` the share of the defects that no found box meets. Both are None, with the
    reason under "why", where there are no such boxes. ``n_true`` and ``n_found`` count the boxes.

    Raises InvalidArgumentError when the numbers of images differ.
    """
    if len(true) != len(found):
        raise InvalidArgumentError(
            f"boxes must be given for the same images, got {len(true)} true and {len(found)} found"
        )
    n_true = n_found = missed = wrong = 0
    for true_boxes, found_boxes in zip(true, found, strict=True):
        meets = box_iou(true_boxes, found_boxes) > min_iou
        n_true, n_found = n_true + meets.shape[0], n_found + meets.shape[1]
        missed += int((~meets.any(axis=1)).sum())
        wrong += int((~meets.any(axis=0)).sum())
    report: dict[str, Any] = {"n_true": n_true, "n_found": n_found}
    report |= {"fpr": wrong / n_found if n_found else None, "fnr": missed / n_true if n_true else None}
    why = {"fpr": "no box was found", "fnr": "there is no defect"}
    why = {key: reason for key, reason in why.items() if report[key] is None}
    return {**report, "why": why} if why else report
