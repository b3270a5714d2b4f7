"""Detection metrics of images and of pixels: AUROC, average precision, F1-max, AUPRO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.metrics.pixels import Pixels, component_weights, rank_pixels
from anomalyhub.metrics.ranking import Ranking, rank

BYTE_BUDGET = 2**30


def check_labels_scores(labels: Any, scores: Any, names: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """labels (N,) bool and scores (N,) float32 or float64; raises InvalidArgumentError on any other input."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise InvalidArgumentError(
            f"labels and scores must have the same shape (N,), got {labels.shape}, {scores.shape}"
        )
    if names is not None and len(names) != len(scores):
        raise InvalidArgumentError(f"names must have one entry per score ({len(scores)}), got {len(names)}")
    if labels.dtype != bool:
        if len(labels) and not np.isin(labels, (0, 1)).all():
            raise InvalidArgumentError("labels must be True for defective and False for good, got other values")
        labels = labels.astype(bool)
    if scores.dtype.kind not in "fiub":
        raise InvalidArgumentError(f"scores must be numbers, got {scores.dtype}")
    scores = scores.astype(np.float32 if scores.dtype in (np.float32, np.float16) else np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        name = f" ({names[bad[0]]})" if names is not None else ""
        raise InvalidArgumentError(
            f"scores[{bad[0]}]{name} is {scores[bad[0]]}: predict that image again or leave it out"
        )
    return labels, scores


def _report(prefix: str, ranking: Ranking, missing: str | None, max_fpr: float | None = None) -> dict[str, Any]:
    """The metrics of a ranking, with aupro if `max_fpr` is given; each is None if `missing` says why."""
    metrics = {
        f"{prefix}_auroc": Ranking.auroc,
        f"{prefix}_ap": Ranking.average_precision,
        f"{prefix}_f1_max": Ranking.f1_max,
    }
    if max_fpr is not None:
        metrics["aupro"] = lambda ranking: ranking.aupro(max_fpr)
    if missing:
        return {**dict.fromkeys(metrics), "why": dict.fromkeys(metrics, missing)}
    values = {key: metric(ranking) for key, metric in metrics.items()}
    report: dict[str, Any] = {key: value for key, (value, _) in values.items()}
    if ranking.coarse is not None:
        report["error_bound"] = {key: bound for key, (_, bound) in values.items()}
    return report


def _missing_images(ranking: Ranking) -> str | None:
    if not len(ranking.hits):
        return "only good images: a defective one is needed" if ranking.n_negatives else "there is no image"
    return None if ranking.n_negatives else "only defective images: a good one is needed"


def _missing_pixels(ranking: Ranking, pixels: Pixels) -> str | None:
    if not len(pixels):
        return "there is no image"
    if pixels.n_skipped == len(pixels):
        return "no image has a mask"
    if not len(ranking.hits):
        return "no mask marks a defective pixel"
    return None if ranking.n_negatives else "the masks mark every pixel as defective"


def _pixel_report(pixels: Pixels, byte_budget: int, max_fpr: float | None = None) -> dict[str, Any]:
    ranking = rank_pixels(pixels, byte_budget, components=max_fpr is not None)
    report = _report("pixel", ranking, _missing_pixels(ranking, pixels), max_fpr)
    if pixels.n_skipped:
        left_out = f"{pixels.n_skipped} of {len(pixels)} images have no mask"
        report["notes"] = [f"{left_out} and are left out of the pixel metrics"]
    return report


def image_metrics(labels: Any, scores: Any, *, names: Sequence[str] | None = None) -> dict[str, Any]:
    """image_auroc, image_ap and image_f1_max, each in [0, 1].

    labels  (N,) bool, True is defective
    scores  (N,) finite numbers, higher is worse; tied scores are one threshold
    names   (N,) what to call an image in an error

    With one class only each value is None, and "why" says so per key.
    Raises InvalidArgumentError on other shapes, NaN and infinity.
    """
    labels, scores = check_labels_scores(labels, scores, names)
    ranking = rank(scores[labels], [np.sort(scores[~labels])])
    return _report("image", ranking, _missing_images(ranking))


def pixel_metrics(
    masks: Sequence[Any], maps: Sequence[Any], *, byte_budget: int = BYTE_BUDGET, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """pixel_auroc, pixel_ap and pixel_f1_max over all pixels of all images together, each in [0, 1].

    masks  N arrays (H, W), non-zero where defective; sizes may differ; None leaves the image out, which "notes" says
    maps   N arrays (H, W) of finite scores, higher is worse; either may be a lazy sequence, read one image at a time
    byte_budget  bytes that may be allocated, on top of about 8 MiB and a few copies of one image

    Exact, in one pass, if the scores fit the budget: as float32, or as float64 if the type of the first map needs it.
    Otherwise the images are read twice more, scores are counted in a histogram as float32, and "error_bound" holds a
    bound per key: the exact value is within value ± bound, whatever the order of the scores that share a bin.
    Undefined values are None, with the reason in "why".
    Raises InvalidArgumentError on NaN, infinity or shapes that differ, with the index (and name) of the image.
    """
    return _pixel_report(Pixels(masks, maps, names), byte_budget)


def _check_max_fpr(max_fpr: float) -> None:
    if not 0.0 < max_fpr <= 1.0:
        raise InvalidArgumentError(f"max_fpr must be in (0, 1], got {max_fpr}")


def aupro(
    masks: Sequence[Any],
    maps: Sequence[Any],
    *,
    max_fpr: float = 0.3,
    steps: int | None = None,
    byte_budget: int = BYTE_BUDGET,
    names: Sequence[str] | None = None,
) -> float:
    """Area under the per-region overlap curve (Bergmann et al., MVTec AD, IJCV 2021), in [0, 1]; nan if undefined.

    The recall of each 8-connected component of the masks, averaged over all components, is integrated over the
    false-positive rate of the pixels up to `max_fpr` (trapezoids, with the interpolated point at the limit) and divided
    by `max_fpr`. It is exact over all thresholds. Arguments and errors are those of `pixel_metrics`.

    `steps`, at least 2, gives instead what published code that samples thresholds reports (as CFlow-AD, whose function
    others copied): `steps` even thresholds from the smallest score to the largest, only the points with a rate below
    `max_fpr`, and their rates rescaled to [0, 1]. The images are then read twice and one is in memory at a time.
    """
    _check_max_fpr(max_fpr)
    pixels = Pixels(masks, maps, names)
    if steps is not None:
        return _sampled_aupro(pixels, max_fpr, steps)
    ranking = rank_pixels(pixels, byte_budget, components=True)
    return math.nan if _missing_pixels(ranking, pixels) else ranking.aupro(max_fpr)[0]


def _sampled_aupro(pixels: Pixels, max_fpr: float, steps: int) -> float:
    """Two passes, one image in memory: the range of the scores, then the counts above each threshold."""
    if steps < 2:
        raise InvalidArgumentError(f"steps must be at least 2, got {steps}")
    low, high = math.inf, -math.inf
    for _, scores in pixels:
        if scores.size:
            low, high = min(low, scores.min()), max(high, scores.max())
    if not low < high:
        return math.nan
    thresholds = np.arange(low, high, (high - low) / steps)
    below = np.zeros(len(thresholds), np.int64)
    recall = np.zeros(len(thresholds) + 1)
    n_negatives = n_components = 0
    for mask, scores in pixels:
        if mask.any():
            flat = mask.ravel()
            share, count = component_weights(mask)
            passed = np.searchsorted(thresholds, scores[flat], side="left")
            recall += np.bincount(passed, weights=share, minlength=len(recall))
            n_components += count
            scores = scores[~flat]
        below += np.searchsorted(np.sort(scores), thresholds, side="right")
        n_negatives += len(scores)
    if not n_components or not n_negatives:
        return math.nan
    rate = (n_negatives - below) / n_negatives
    recall = np.cumsum(recall[::-1])[::-1][1:] / n_components
    kept = rate < max_fpr
    rate, recall = rate[kept], recall[kept]
    if not len(rate) or rate[0] == rate[-1]:
        return math.nan
    return float(-np.diff(rate) @ (recall[1:] + recall[:-1]) / 2 / (rate[0] - rate[-1]))


def detection_metrics(
    labels: Any,
    scores: Any,
    masks: Sequence[Any],
    maps: Sequence[Any],
    *,
    max_fpr: float = 0.3,
    byte_budget: int = BYTE_BUDGET,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """All of `image_metrics`, `pixel_metrics` and `aupro` (key "aupro") with one sort and one reading of the maps.

    Arguments, undefined values, notes, bounds and errors are those of the three; all have one entry per image.
    """
    _check_max_fpr(max_fpr)
    report = image_metrics(labels, scores, names=names)
    pixels = Pixels(masks, maps, names)
    if len(pixels) != len(labels):
        raise InvalidArgumentError(f"labels and maps must have one entry per image, got {len(labels)}, {len(pixels)}")
    pixel_report = _pixel_report(pixels, byte_budget, max_fpr)
    why = {**report.pop("why", {}), **pixel_report.pop("why", {})}
    return {**report, **pixel_report, **({"why": why} if why else {})}
