"""How often kinds are named rightly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anomalyhub.errors import InvalidArgumentError


def classification_metrics(labels: Sequence[str], predicted: Sequence[str]) -> dict[str, Any]:
    """Of N true and predicted names: accuracy, balanced_accuracy, recall by class, and the confusion matrix.

    accuracy           share of samples that are named rightly (liu2024, section 4.1.2)
    balanced_accuracy  mean of the recalls; recall  per true class the share that is named so
    confusion          {"classes": all names, true ones first, "counts": rows of true, columns of predicted classes}

    A name that no sample truly has, such as "unknown", is wrong. Without samples, values are None with "why".
    Raises InvalidArgumentError if the lengths differ.
    """
    if len(labels) != len(predicted):
        raise InvalidArgumentError(
            f"labels and predictions must be equally many, got {len(labels)} and {len(predicted)}"
        )
    true = sorted(set(labels))
    names = true + sorted(set(predicted) - set(true))
    counts = np.zeros((len(names), len(names)), np.int64)
    for label, name in zip(labels, predicted, strict=True):
        counts[names.index(label), names.index(name)] += 1
    totals = counts.sum(axis=1)
    recall = {name: float(counts[row, row] / totals[row]) for row, name in enumerate(true)}
    undefined = ("accuracy", "balanced_accuracy")
    return {
        "accuracy": float(counts.trace() / counts.sum()) if len(labels) else None,
        "balanced_accuracy": float(np.mean(list(recall.values()))) if recall else None,
        "recall": recall,
        "confusion": {"classes": names, "counts": counts.tolist()},
        "n": len(labels),
        **({} if len(labels) else {"why": dict.fromkeys(undefined, "there is no sample")}),
    }
