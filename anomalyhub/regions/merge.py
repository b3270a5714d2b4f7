"""From the regions' classes to the image's, keeping both (Huang et al., AnomalyNCD, section III-D)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.types import ClassProbs

#: What weighs a region (table VII): "area" is the method, "score" its anomaly score, "mean" gives all the same weight.
Merge = Literal["area", "score", "mean"]


@dataclass(frozen=True, eq=False)
class MergedRegions:
    """The kinds of N regions and of the M images they belong to.

    regions        probabilities (N, K), in the order of the sub-images
    unknown        (N,) bool: unlike every sub-image that is known
    weights        (N,) float64: share of the region in its image; those of an image sum to 1
    images         the M image ids in the order of their first region
    image_probs    probabilities (M, K): the regions' weighted mean
    image_unknown  (M,) bool: unknown regions carry more than half of the weight
    """

    regions: ClassProbs
    unknown: np.ndarray
    weights: np.ndarray
    images: tuple[Hashable, ...]
    image_probs: ClassProbs
    image_unknown: np.ndarray


def merge_regions(
    regions: ClassProbs,
    unknown: np.ndarray,
    images: Sequence[Hashable],
    areas: Sequence[float],
    scores: Sequence[float],
    *,
    merge: Merge = "area",
    temperature: float = 100.0,
) -> MergedRegions:
    """Merge N regions into their images.

    images       the id of each region's image
    areas        pixels of each region's mask
    scores       anomaly score of each region in [0, 1]
    temperature  T of the weights softmax(sqrt(area) / T); 100 for MVTec AD, 50 for MTD in the paper
    Raises InvalidArgumentError if the lengths differ.
    """
    lengths = [len(regions.probs), len(unknown), len(images), len(areas), len(scores)]
    if len(set(lengths)) != 1:
        raise InvalidArgumentError(
            f"regions, unknown, images, areas and scores must have one entry per sub-image, got {lengths}"
        )
    ids = tuple(dict.fromkeys(images))
    position = {name: index for index, name in enumerate(ids)}
    owner = np.array([position[name] for name in images], np.int64)
    weights = region_shares(owner, areas, scores, merge, temperature)
    merged = np.zeros((len(ids), regions.probs.shape[1]))
    np.add.at(merged, owner, weights[:, None] * regions.probs)
    image_unknown = np.bincount(owner, weights * np.asarray(unknown), len(ids)) > 0.5
    image_probs = ClassProbs(merged.astype(np.float32), regions.classes)
    return MergedRegions(regions, np.asarray(unknown, bool), weights, ids, image_probs, image_unknown)


def region_shares(
    owner: np.ndarray,
    areas: Sequence[float],
    scores: Sequence[float],
    merge: Merge = "area",
    temperature: float = 100.0,
) -> np.ndarray:
    """(N,) float64: the share of each region in its image, whose number from 0 is `owner` (N,); see `merge_regions`."""
    raw = _raw_weights(merge, owner, np.asarray(areas, np.float64), np.asarray(scores, np.float64), temperature)
    totals, counts = np.bincount(owner, raw), np.bincount(owner)
    return np.where(totals[owner] > 0, raw / np.where(totals > 0, totals, 1.0)[owner], 1.0 / counts[owner])


def _raw_weights(merge: Merge, owner: np.ndarray, areas: np.ndarray, scores: np.ndarray, temperature: float):
    """(N,) weights, not yet divided by their sum over an image."""
    if merge != "area":
        return scores if merge == "score" else np.ones(len(owner))
    exponents = np.sqrt(areas) / temperature
    largest = np.full(owner.max(initial=-1) + 1, -np.inf)
    np.maximum.at(largest, owner, exponents)
    return np.exp(exponents - largest[owner])
