"""anomalyhub.nn.confidence and grouping: temperature, limits of the known, order and number of clusters."""

from __future__ import annotations

import numpy as np
import pytest
from discovery_helpers import sub_image

from anomalyhub.discovery import estimate_n_classes
from anomalyhub.discovery.grouping import _finest_peak, k_means, order_by_score
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.confidence import Familiarity, agreement_temperature, softmax


def test_softmax_of_large_logits():
    probs = softmax(np.array([[1e5, 0.0, -1e5], [3.0, 3.0, 3.0]]), 0.1)
    np.testing.assert_allclose(probs, [[1, 0, 0], [1 / 3] * 3], atol=1e-7)
    assert probs.dtype == np.float32


@pytest.mark.parametrize("true", [0.05, 1.0])
def test_the_temperature_makes_probabilities_agree_with_the_other_view(rng, true):
    """Where the other view's class is drawn from softmax(logits / T), T is found."""
    logits = rng.normal(0, 2 * true, (4000, 5))
    cumulated = softmax(logits, true).cumsum(axis=1)
    other = np.eye(5)[(rng.random((4000, 1)) > cumulated[:, :-1]).sum(axis=1)]
    assert agreement_temperature(logits, other) == pytest.approx(true, rel=0.1)


def test_perfect_agreement_does_not_make_certain(rng):
    logits = rng.normal(0, 0.1, (20, 3)) + 2 * np.eye(3)[rng.integers(3, size=20)]
    probs = softmax(logits, agreement_temperature(logits, logits))
    assert 0.9 < probs.max(axis=1).mean() < 0.999
    assert agreement_temperature(logits[:, :1], logits[:, :1]) == 1.0  # one class: nothing to calibrate


def plain_limits(bank, labels, n_classes, quantile):
    distances = np.linalg.norm(bank[:, None] - bank, axis=2)
    np.fill_diagonal(distances, np.inf)
    own = distances.min(axis=1)
    return [
        np.quantile(own[labels == c] if (labels == c).sum() > 1 else own, quantile, method="higher")
        for c in range(n_classes)
    ]


def test_limits_are_quantiles_of_own_distances(rng):
    bank = rng.normal(size=(40, 6)).astype(np.float32)
    labels = rng.integers(3, size=40)
    labels[labels == 2] = 1
    labels[7] = 2  # a class of one
    limits = Familiarity.of(bank, labels, 4, 0.8).limits  # and one of none
    np.testing.assert_allclose(limits, plain_limits(bank, labels, 4, 0.8), rtol=1e-3)


def test_novelty(rng):
    centres = np.array([[0, 0, 0, 9], [9, 0, 0, 0]], np.float32)
    labels = np.repeat([0, 1], 30)
    noise = rng.normal(size=(60, 4)) * np.array([0.1, 1.0])[labels][:, None]  # the first class is tight
    known = Familiarity.of(centres[labels] + noise, labels, 2, 1.0)
    new = centres[np.repeat([0, 1], 5)] + rng.normal(size=(10, 4)) * np.repeat([0.05, 0.5], 5)[:, None]
    assert (known.novelty(new.astype(np.float32)) < 1).mean() >= 0.9
    assert (known.novelty(known.bank) < 0.1).all()
    beside = known.novelty(np.array([[0, 1.2, 0, 9], [9, 1.2, 0, 0], [0, 0, 9, 0]], np.float32))
    assert beside[0] > 1 and beside[1] < 1 and beside[2] > 1  # the same step, but the second class is wide
    assert known.novelty(np.zeros((0, 4), np.float32)).shape == (0,)


def test_equal_embeddings_are_known_and_others_not():
    same = Familiarity.of(np.ones((5, 3), np.float32), np.zeros(5, np.int64), 1, 0.99)
    novelty = same.novelty(np.array([[1, 1, 1], [1, 1, 2]], np.float32))
    assert novelty[0] < 1 < novelty[1]
    one = Familiarity.of(np.ones((1, 3), np.float32), np.zeros(1, np.int64), 1, 0.99)
    assert one.novelty(np.zeros((1, 3), np.float32))[0] < 1  # of one sub-image nothing is known: all may be like it


def blobs(rng, sizes, spread, dim=24):
    centres = rng.normal(size=(len(sizes), dim))
    return np.concatenate([c + rng.normal(size=(n, dim)) * s for c, n, s in zip(centres, sizes, spread, strict=True)])


@pytest.mark.parametrize("k", [2, 4, 6])
def test_the_number_of_separate_groups_is_found(rng, k):
    tokens = blobs(rng, [30] * k, [0.2] * k)
    found, curve = estimate_n_classes(tokens, 9, seed=0)
    assert found == k and sorted(curve) == list(range(2, 10)) and curve[k] == max(curve.values())
    assert estimate_n_classes(tokens, 9, seed=0) == (found, curve)


def test_groups_of_other_sizes_and_widths_are_found(rng):
    tokens = blobs(rng, [120, 25, 25, 40, 15], [0.1, 0.3, 0.2, 0.3, 0.2])
    found, curve = estimate_n_classes(tokens, 9)
    assert abs(found - 5) <= 1 and all(-1 <= value <= 1 for value in curve.values())


def test_a_coarse_split_does_not_hide_the_finer_one():
    """Two families far apart, of two and of three kinds: two is as stable as five."""
    rng = np.random.default_rng(3)
    kinds = np.concatenate([rng.normal(size=(2, 24)), 4 + rng.normal(size=(3, 24))])
    found, curve = estimate_n_classes(np.repeat(kinds, 30, axis=0) + 0.2 * rng.normal(size=(150, 24)), 9)
    assert found == 5 and curve[2] == max(curve.values())


@pytest.mark.parametrize(
    ("means", "found"),
    [
        ([0.9, 0.5, 0.8, 0.6, 0.62], 2),  # the peak regains three quarters; the later one is noise
        ([1.0, 0.5, 0.6, 0.5, 0.6], 0),  # no peak regains half
        ([0.3, 0.5, 0.8, 0.79, 0.6], 3),  # as good as the best
        ([0.7, 0.7, 0.7, 0.7, 0.7], 4),
    ],
)
def test_the_finest_peak(means, found):
    assert _finest_peak(np.array(means), np.full(5, 0.02)) == found


def test_many_embeddings_are_thinned(rng, monkeypatch):
    """So that counting takes seconds, however many there are."""
    seen = []
    monkeypatch.setattr(
        "anomalyhub.discovery.grouping._agreement", lambda one, other, *_: seen.append(len(one) + len(other)) or 0.5
    )
    estimate_n_classes(blobs(rng, [3000, 2000, 1000], [0.2] * 3), 6)
    assert set(seen) == {1000}


def test_a_class_has_four_embeddings_on_average(rng):
    """Few embeddings, each apart from the others, would otherwise be a kind each."""
    assert max(estimate_n_classes(rng.normal(size=(26, 8)), 12)[1]) == 6


@pytest.mark.parametrize(
    ("tokens", "k_max", "found"),
    [
        (np.ones((6, 3)), 5, 1),  # all the same
        (np.repeat(np.eye(2), 3, axis=0), 5, 2),  # two distinct ones
        (np.array([[0.0], [1.0], [5.0]]), 12, 2),  # too few to halve
    ],
)
def test_few_distinct_embeddings(tokens, k_max, found):
    assert estimate_n_classes(tokens, k_max)[0] == found


@pytest.mark.parametrize(
    ("tokens", "k_max", "message"),
    [
        (np.zeros((2, 4)), 5, r"N at least 3, got \(2, 4\)"),
        (np.zeros(8), 5, r"shape \(N, D\)"),
        (np.zeros((8, 2)), 1, "k_max must be at least 2"),
    ],
)
def test_what_cannot_be_counted_is_refused(tokens, k_max, message):
    with pytest.raises(InvalidArgumentError, match=message):
        estimate_n_classes(tokens, k_max)


def test_clusters_are_numbered_by_score_then_size():
    scores = {5: 0.9, 2: 0.1, 7: 0.5}
    labels = np.array([5, 5, 2, 7, 7, 7, 5])
    subs = [sub_image("burn", i) for i in range(7)]
    for label, sub in zip(labels, subs, strict=True):
        object.__setattr__(sub, "score", scores[label])
    assert order_by_score(labels, subs).tolist() == [2, 2, 0, 1, 1, 1, 2]
    for sub in subs:
        object.__setattr__(sub, "score", 0.5)
    assert np.bincount(order_by_score(np.array([0, 0, 1, 1, 1, 1, 2]), subs)).tolist() == [4, 2, 1]


def test_k_means_makes_no_empty_clusters(rng):
    tokens = np.repeat(rng.normal(size=(3, 4)), 4, axis=0).astype(np.float32)
    assert len(np.unique(k_means(tokens, 5, seed=0))) == 3


def test_classes_of_few_members_share_one_limit():
    bank = np.array([[0.0], [1.0], [10.0], [10.2], [10.4], [10.6]], np.float32)
    labels = np.array([0, 0, 1, 1, 1, 1])
    own = Familiarity.of(bank, labels, 2, 1.0)
    np.testing.assert_allclose(own.limits, [1.0, 0.2], atol=1e-5)
    shared = Familiarity.of(bank, labels, 2, 1.0, few=2)  # the first class has 2, the second more
    np.testing.assert_allclose(shared.limits, [1.0, 0.2], atol=1e-5)
    shared = Familiarity.of(bank, labels, 2, 1.0, few=4)
    np.testing.assert_allclose(shared.limits, [1.0, 1.0], atol=1e-5)
    np.testing.assert_array_equal(shared.novelty(np.array([[11.5], [11.7]], np.float32)) > 1, [False, True])
