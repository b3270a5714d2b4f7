"""Clustering without training: the groups are found, new sub-images join them, strange ones are noticed."""

from __future__ import annotations

import numpy as np
import pytest
from discovery_helpers import drawn, tiny_transformer

from anomalyhub.discovery import create_discoverer
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.metrics import clustering_metrics

KINDS = ("good", "burn", "paint")
TRUTH = np.repeat(KINDS, 6)
DESCRIPTORS = [
    {},
    {"descriptor": "tokens", "class_blocks": "2,3", "patch_blocks": "1,2"},
    {"descriptor": "class_token"},
    {"descriptor": "tokens", "weights": "coverage"},
    {"preset": "anomaly_clustering"},
]


def fit(settings, subs=None, n_novel=3, **changes):
    model = create_discoverer("clustering", tiny_transformer(), settings={**settings, **changes})
    return model.fit(subs or drawn(6, KINDS), n_novel=n_novel)


@pytest.mark.parametrize("algorithm", ["kmeans", "agglomerative"])
@pytest.mark.parametrize("settings", DESCRIPTORS[:2])
def test_drawn_kinds_are_told_apart(settings, algorithm):
    model = fit(settings, algorithm=algorithm)
    assert clustering_metrics(TRUTH, model.labels_)["f1"] == 1.0
    assert model.labels_[:6].tolist() == [0] * 6  # the lowest scores come first
    new = model.predict_proba(drawn(4, KINDS, start=100)).probs.argmax(axis=1)
    assert new.tolist() == np.repeat([0, model.labels_[6], model.labels_[12]], 4).tolist()


@pytest.mark.parametrize("settings", DESCRIPTORS[2:])
def test_the_weighted_averages_group_too(settings):
    model = fit(settings)
    assert clustering_metrics(TRUTH[6:], model.labels_[6:])["f1"] >= 0.75
    assert (model.references_ is not None) == ("preset" in settings)


def test_a_kind_that_was_not_there_is_unknown():
    model = fit({})
    novelty = model.novelty([*drawn(4, KINDS, start=100), *drawn(4, ("rust",), start=100)])
    assert (novelty[12:] > 1).mean() >= 0.75 and np.median(novelty[12:]) > 2 * np.median(novelty[4:12])


def test_each_cluster_has_its_centre_and_labels_follow_it():
    model = fit({})
    for label in range(3):
        members = model.embeddings_[model.labels_ == label]
        np.testing.assert_allclose(model.prototypes_[label], members.mean(axis=0), atol=1e-6)
    distances = np.linalg.norm(model.embeddings_[:, None] - model.prototypes_, axis=2)
    assert distances.argmin(axis=1).tolist() == model.labels_.tolist()


def test_base_classes_change_nothing():
    plain, with_base = fit({}), create_discoverer("clustering", tiny_transformer())
    with_base.fit(drawn(6, KINDS), drawn(2, ("rust",)), ["rust", "rust"], 3)
    assert np.array_equal(plain.labels_, with_base.labels_)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_blocks": "0"}, "count from 1"),
        ({"weight_temperature": 0.0}, "weight_temperature must be above 0"),
        ({"references": 0}, "references must be at least 1"),
        ({"descriptor": "pixels"}, "is not one of salient, class_token, tokens"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        create_discoverer("clustering", tiny_transformer(), settings=settings)
