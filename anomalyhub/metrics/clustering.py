"""Agreement of clusters with known classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from anomalyhub.errors import InvalidArgumentError


def clustering_metrics(labels: Any, clusters: Any) -> dict[str, Any]:
    """nmi, ari and f1 of clusters (N,) against true classes (N,), both of any comparable values.

    nmi  mutual information divided by the arithmetic mean of both entropies, in [0, 1]
    ari  Rand index adjusted for chance (Hubert and Arabie 1985), at most 1 and 0 for chance
    f1   micro-averaged after the one-to-one assignment of clusters to classes that maximises matches (Hungarian):
         the accuracy after assignment, in [0, 1]; samples of unmatched clusters count as wrong

    Without samples all are None; with one true class nmi and ari are. "why" then gives the reason per key.
    Raises InvalidArgumentError if the shapes differ.
    """
    labels, clusters = np.asarray(labels), np.asarray(clusters)
    if labels.ndim != 1 or labels.shape != clusters.shape:
        raise InvalidArgumentError(
            f"labels and clusters must both have shape (N,), got {labels.shape} and {clusters.shape}"
        )
    if not len(labels):
        return {"nmi": None, "ari": None, "f1": None, "why": dict.fromkeys(("nmi", "ari", "f1"), "there is no sample")}
    # here because importing them takes a second
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    (classes, row), (found, column) = (np.unique(values, return_inverse=True) for values in (labels, clusters))
    table = np.zeros((len(classes), len(found)), np.int64)
    np.add.at(table, (row, column), 1)
    f1 = float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))
    if len(classes) == 1:
        reason = "only one true class: two are needed"
        return {"nmi": None, "ari": None, "f1": f1, "why": {"nmi": reason, "ari": reason}}
    nmi, ari = normalized_mutual_info_score(row, column), adjusted_rand_score(row, column)
    return {"nmi": float(nmi), "ari": float(ari), "f1": f1}
