"""k-means, the order of its clusters, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.types import SubImage

_ROWS, _COMPONENTS = 1000, 16  # what an estimate of the number of classes looks at
_EACH = 4  # embeddings of a class, on average at least
_ROUNDS, _STARTS = 20, 3  # how often it halves the rows, starts of each of its k-means


def estimate_n_classes(tokens: np.ndarray, k_max: int = 12, *, seed: int = 0) -> tuple[int, dict[int, float]]:
    """The number of classes among embeddings (N, D), at least 2 if they differ, and the score of every k tried.

    The score is the stability of k-means (Tibshirani and Walther, 2005; Lange et al., 2004), in [-1, 1]: the rows are
    halved 20 times, each half is clustered, and the one half's centres sort the other half too; the adjusted Rand index
    compares the two groupings of it. A k above the true one splits some class differently in each half. The curve
    peaks at every level of structure (families of kinds, kinds): the largest k wins that is within a standard error of
    the best, or a later peak that regains half of what was lost since the best. At most 1000 random rows count, in
    their first 16 principal components; a class has 4 of them or more on average, so fewer than 8 embeddings are 2
    classes unless they are all the same, which is one, both with an empty curve.
    Raises InvalidArgumentError for fewer than 3 embeddings.
    """
    tokens = np.asarray(tokens, np.float64)
    if tokens.ndim != 2 or len(tokens) < 3:
        raise InvalidArgumentError(f"tokens must have shape (N, D) with N at least 3, got {tokens.shape}")
    if k_max < 2:
        raise InvalidArgumentError(f"k_max must be at least 2, got {k_max}")
    rng = np.random.default_rng(seed)
    tokens = tokens[np.sort(rng.permutation(len(tokens))[:_ROWS])]
    distinct = len(np.unique(tokens, axis=0))
    tried = range(2, min(k_max, len(tokens) // _EACH, distinct) + 1)
    if not tried:
        return min(2, distinct), {}
    axes = np.linalg.svd(tokens - tokens.mean(axis=0), full_matrices=False)[2][:_COMPONENTS]
    reduced = (tokens - tokens.mean(axis=0)) @ axes.T
    scores = np.empty((_ROUNDS, len(tried)))
    for round_ in range(_ROUNDS):
        order = rng.permutation(len(reduced))
        halves = reduced[order[: len(order) // 2]], reduced[order[len(order) // 2 :]]
        scores[round_] = [_agreement(*halves, k, seed + round_) for k in tried]
    means, errors = scores.mean(axis=0), scores.std(axis=0) / np.sqrt(_ROUNDS)
    return tried[_finest_peak(means, errors)], dict(zip(tried, means.tolist(), strict=True))


def _finest_peak(means: np.ndarray, errors: np.ndarray) -> int:
    """Position of the last score that is as good as the best, or a peak that regains half of what was lost on the way.

    Noise makes small peaks; those of another level of structure are nearly as high as the first.
    """
    best = int(means.argmax())
    for place in range(len(means) - 1, best, -1):
        valley = best + int(means[best:place].argmin())
        rise, fall = means[place] - means[valley], means[best] - means[valley]
        falls_after = place + 1 == len(means) or means[place] > means[place + 1]
        as_good = means[best] - means[place] <= errors[place]
        if as_good or (falls_after and rise > max(fall / 2, np.hypot(errors[place], errors[valley]))):
            return place
    return best


def _agreement(one: np.ndarray, other: np.ndarray, count: int, seed: int) -> float:
    """Adjusted Rand index of `other`'s own k-means clusters and of those by the centres of `one`."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    fits = [
        KMeans(min(count, len(np.unique(half, axis=0))), n_init=_STARTS, random_state=seed).fit(half)
        for half in (one, other)
    ]
    return float(adjusted_rand_score(fits[0].predict(other), fits[1].labels_))


def k_means(embeddings: np.ndarray, count: int, seed: int, n_init: int = 10) -> np.ndarray:
    """(N,) labels from 0; fewer than `count` of them where fewer embeddings differ."""
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(embeddings, axis=0)))
    return KMeans(count, n_init=n_init, random_state=seed).fit_predict(embeddings.astype(np.float64))


def order_by_score(labels: np.ndarray, sub_images: Sequence[SubImage]) -> np.ndarray:
    """The same clusters, numbered by ascending mean anomaly score, larger ones first where equal."""
    found, labels = np.unique(labels, return_inverse=True)
    counts = np.bincount(labels)
    means = np.bincount(labels, [sub_image.score for sub_image in sub_images]) / counts
    order = np.lexsort((-counts, np.round(means, 6)))
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    return rank[labels]
