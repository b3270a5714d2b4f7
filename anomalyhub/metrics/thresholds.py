"""Operating points from labelled images: a score above the threshold is defective."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.metrics.detection import check_labels_scores


def _candidates(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Thresholds (T,) ascending, with the good and the defective scores above each, and the number of defective ones.

    They are: just below the lowest score, midway between neighbouring distinct scores, and the highest score.
    """
    labels, scores = check_labels_scores(labels, scores)
    if labels.all() or not labels.any():
        raise InvalidArgumentError(
            "choosing a threshold needs good and defective images, "
            f"got {int((~labels).sum())} good and {int(labels.sum())} defective: "
            "add labelled images or use the threshold from normal images"
        )
    distinct, group = np.unique(scores, return_inverse=True)
    low, high = distinct[:-1], distinct[1:]
    middle = low / 2 + high / 2
    # between two neighbouring floating-point numbers there is no middle: the lower one separates them too
    middle = np.where((low <= middle) & (middle < high), middle, low)
    thresholds = np.concatenate(([np.nextafter(distinct[0], -np.inf, dtype=scores.dtype)], middle, distinct[-1:]))
    good, defective = (np.bincount(group[kind], minlength=len(distinct)) for kind in (~labels, labels))
    false_alarms, found = (np.append(np.cumsum(count[::-1])[::-1], 0) for count in (good, defective))
    return thresholds, false_alarms, found, int(labels.sum())


def f1_max_threshold(labels: Any, scores: Any) -> tuple[float, float]:
    """The threshold with the largest F1 on labels (N,) bool and scores (N,), and that F1.

    "score > threshold" is defective; the threshold lies midway between neighbouring scores. Of equally good ones the
    lowest is taken, which lets the fewest defects escape. Raises InvalidArgumentError unless both classes are given.
    """
    thresholds, false_alarms, found, n_defective = _candidates(labels, scores)
    f1 = 2 * found / (n_defective + found + false_alarms)
    best = int(np.argmax(f1))
    return float(thresholds[best]), float(f1[best])


def cost_threshold(labels: Any, scores: Any, cost_escape: float, cost_false_alarm: float) -> tuple[float, float]:
    """The threshold with the smallest cost on labels (N,) bool and scores (N,), and that cost in all.

    The cost is `cost_escape` per defective image called good plus `cost_false_alarm` per good image called defective.
    Placement, ties and errors are as in `f1_max_threshold`; a negative or infinite cost, or two zeros, raise too.
    """
    costs = (cost_escape, cost_false_alarm)
    if not all(math.isfinite(cost) and cost >= 0 for cost in costs) or not any(costs):
        raise InvalidArgumentError(f"costs must be finite, at least 0 and not both 0, got {costs}")
    thresholds, false_alarms, found, n_defective = _candidates(labels, scores)
    cost = cost_escape * (n_defective - found) + cost_false_alarm * false_alarms
    best = int(np.argmin(cost))
    return float(thresholds[best]), float(cost[best])


def confusion(labels: Any, scores: Any, threshold: float) -> dict[str, Any]:
    """Counts tp, fp, tn, fn of "score > threshold" as defective, with escape_rate and false_alarm_rate in [0, 1].

    escape_rate is fn / (tp + fn), false_alarm_rate is fp / (fp + tn); without such images it is None and "why" says so.
    Raises InvalidArgumentError on shapes that differ, NaN scores or a NaN threshold.
    """
    labels, scores = check_labels_scores(labels, scores)
    if math.isnan(threshold):
        raise InvalidArgumentError("threshold must be a number, got nan")
    called = scores > threshold
    tp, fp = int((called & labels).sum()), int((called & ~labels).sum())
    fn, tn = int(labels.sum()) - tp, int((~labels).sum()) - fp
    report: dict[str, Any] = {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
    report["escape_rate"] = fn / (tp + fn) if tp + fn else None
    report["false_alarm_rate"] = fp / (fp + tn) if fp + tn else None
    why = {"escape_rate": "there is no defective image", "false_alarm_rate": "there is no good image"}
    why = {key: reason for key, reason in why.items() if report[key] is None}
    return {**report, "why": why} if why else report
