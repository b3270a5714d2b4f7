"""k-means, the order of its clusters, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.types import SubImage

_ROWS, _COMPONENTS = 2000, 16  # what an estimate of the number of classes looks at


def estimate_n_classes(tokens: np.ndarray, k_max: int = 12, *, seed: int = 0) -> tuple[int, dict[int, float]]:
    """The number of classes among embeddings (N, D), and the score of every k from 2 to `k_max`.

    k-means with each k in the first 16 principal components, on at most 2000 random rows, scored by the mean silhouette
    (Rousseeuw, 1987). The smallest k within half a standard error of the best wins. Where that is 2 and the score falls
    and then rises again by a standard error, the two are normal images and all defects, which lie so far apart that
    they hide the kinds: the rule is then applied from 3 on. At most N - 1 classes are tried; identical embeddings are
    one class, with an empty curve. Raises InvalidArgumentError for fewer than 3 embeddings.
    """
    from sklearn.metrics import silhouette_samples

    tokens = np.asarray(tokens, np.float64)
    if tokens.ndim != 2 or len(tokens) < 3:
        raise InvalidArgumentError(f"tokens must have shape (N, D) with N at least 3, got {tokens.shape}")
    if k_max < 2:
        raise InvalidArgumentError(f"k_max must be at least 2, got {k_max}")
    tokens = tokens[np.sort(np.random.default_rng(seed).permutation(len(tokens))[:_ROWS])]
    distinct = len(np.unique(tokens, axis=0))
    axes = np.linalg.svd(tokens - tokens.mean(axis=0), full_matrices=False)[2][:_COMPONENTS]
    reduced = (tokens - tokens.mean(axis=0)) @ axes.T
    curve, errors = {}, {}
    for k in range(2, min(k_max, len(tokens) - 1, distinct) + 1):
        values = silhouette_samples(reduced, k_means(reduced, k, seed))
        curve[k], errors[k] = float(values.mean()), float(values.std() / np.sqrt(len(values)))
    if not curve:
        return 1, curve
    found = _smallest_good(curve, errors)
    finer = {k: value for k, value in curve.items() if k > 2}
    if found == 2 and finer:
        best = max(finer, key=finer.get)
        if finer[best] - min(value for k, value in finer.items() if k <= best) > errors[best]:
            found = _smallest_good(finer, errors)
    return found, curve


def _smallest_good(curve: dict[int, float], errors: dict[int, float]) -> int:
    best = max(curve, key=curve.get)
    return min(k for k, value in curve.items() if value >= curve[best] - errors[best] / 2)


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
