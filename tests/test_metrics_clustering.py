"""Clustering metrics against scikit-learn and against every assignment of clusters to classes."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.metrics import clustering_metrics

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=20).map(lambda p: np.array(p).T)


@given(pairs.filter(lambda p: len(set(p[0])) > 1))
def test_definitions(case):
    labels, clusters = case
    report = clustering_metrics(labels, clusters)
    assert report["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-12)
    assert report["ari"] == pytest.approx(adjusted_rand_score(labels, clusters), abs=1e-12)
    # four names on either side: every one-to-one assignment is a permutation
    best = max((np.take(order, clusters) == labels).mean() for order in permutations(range(4)))
    assert report["f1"] == pytest.approx(best, abs=1e-12)


@given(pairs, st.permutations(range(4)))
def test_names_of_clusters_do_not_matter(case, order):
    labels, clusters = case
    plain = clustering_metrics(labels, clusters)
    renamed = clustering_metrics(labels, np.array(["d", "a", "c", "b"])[np.take(order, clusters)])
    assert renamed.pop("why", None) == plain.pop("why", None)
    assert renamed == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "clusters", "expected"),
    [
        (["a", "a", "b", "b"], [7, 7, -1, -1], {"nmi": 1.0, "ari": 1.0, "f1": 1.0}),  # perfect, other names
        (["a", "a", "b", "b"], [0, 0, 0, 0], {"nmi": 0.0, "ari": 0.0, "f1": 0.5}),  # one cluster says nothing
        (["a", "a", "a", "b"], [0, 1, 2, 3], {"f1": 0.5}),  # two of four clusters have no class left: wrong
        (["a", "b", "c", "c"], [0, 0, 1, 1], {"f1": 0.75}),  # fewer clusters than classes
        (["a", "b"], [0, 1], {"nmi": 1.0, "ari": 1.0, "f1": 1.0}),  # singletons
        (["a", "a"], [0, 1], {"nmi": None, "ari": None, "f1": 0.5}),  # one true class
        (["a"], [0], {"nmi": None, "ari": None, "f1": 1.0}),
        ([], [], {"nmi": None, "ari": None, "f1": None}),
    ],
)
def test_table(labels, clusters, expected):
    report = clustering_metrics(labels, clusters)
    assert {key: report[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert set(report.get("why", ())) == {key for key in ("nmi", "ari", "f1") if report[key] is None}


@pytest.mark.parametrize(("labels", "clusters"), [([0, 1], [0]), ([[0], [1]], [[0], [1]])])
def test_shapes_must_agree(labels, clusters):
    with pytest.raises(InvalidArgumentError, match=r"labels and clusters must both have shape \(N,\)"):
        clustering_metrics(labels, clusters)
