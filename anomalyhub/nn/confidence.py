"""How sure a grouping is, without labels: calibrated probabilities, and sub-images unlike everything seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomalyhub.search import NearestNeighbours

_COLDEST, _WARMEST = 1e-3, 1e2


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Rows of (N, K) logits to probabilities, float32."""
    scaled = (logits - logits.max(axis=1, keepdims=True)) / temperature
    exponents = np.exp(scaled.astype(np.float64))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def calibration_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that calibrates the probabilities of (N, K) logits against classes (N,) that they did not see.

    It minimises the cross-entropy of softmax(logits / T) with the classes, so "0.9" comes to mean that 9 of 10 are
    right (Guo et al., ICML 2017). Of N one more is taken to be wrong (the rule of succession), without which perfect
    agreement would make every probability 1.
    """
    from scipy.optimize import minimize_scalar

    count, n_classes = logits.shape
    if n_classes < 2 or count == 0:
        return 1.0
    target = np.full((count, n_classes), 1.0 / (count + 1) / n_classes)
    target[np.arange(count), labels] += count / (count + 1)

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - (target * scaled).sum(axis=1)))

    found = minimize_scalar(cross_entropy, bounds=(np.log(_COLDEST), np.log(_WARMEST)), method="bounded")
    return float(np.exp(found.x))


def agreement_temperature(logits: np.ndarray, other: np.ndarray) -> float:
    """The temperature that calibrates a view's probabilities against the class of another view of the same thing.

    logits  (N, K) of the plain views, as they will be used
    other   (N, K) of independently augmented views

    "0.9" comes to mean that 9 of 10 augmented views fall into the same class. This bounds the confidence in the
    grouping's own terms; whether a group is one kind of defect, no unlabelled image can tell.
    """
    return calibration_temperature(logits, other.argmax(axis=1))


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How far a sub-image may lie from the nearest one of the fit and still count as known.

    bank    (N, D) float32 embeddings of the fit's sub-images      labels  (N,) int64, their classes
    limits  (K,) float32: per class, a quantile of its members' own distances to their nearest neighbour

    The nearest neighbour's distance is a strong score of novelty (Sun et al., ICML 2022). A class of few members takes
    the limit of all, as a handful of distances tells no quantile.
    """

    bank: np.ndarray
    labels: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(
        cls,
        bank: np.ndarray,
        labels: np.ndarray,
        n_classes: int,
        quantile: float,
        few: int = 1,
        images: np.ndarray | None = None,
    ) -> Familiarity:
        """Limits from the bank's own distances, each row left out of its own search.

        few     a class of at most so many members takes the limit of all
        images  (N,) the image of each row: the others of its image are left out too. Distances are then all computed,
                which suits a few hundred rows
        """
        bank, labels = np.ascontiguousarray(bank, np.float32), np.asarray(labels, np.int64)
        if len(bank) < 2 or (images is not None and len(set(images.tolist())) < 2):
            return cls(bank, labels, np.full(n_classes, np.inf, np.float32))
        distances = _to_others(bank, images)
        limits = np.full(n_classes, np.quantile(distances, quantile, method="higher"), np.float32)
        for label in range(n_classes):
            if (labels == label).sum() > few:
                limits[label] = np.quantile(distances[labels == label], quantile, method="higher")
        return cls(bank, labels, limits)

    def novelty(self, embeddings: np.ndarray) -> np.ndarray:
        """(N, D) to (N,) float32: distance over the limit of the nearest one's class; above 1 is unknown."""
        if not len(embeddings):
            return np.zeros(0, np.float32)
        distances, rows = NearestNeighbours("flat").fit(self.bank).query(embeddings)
        limits = self.limits[self.labels[rows[:, 0]]]
        floor = max(1e-3 * float(np.linalg.norm(self.bank, axis=1).max()), 1e-12)  # below it distances are rounding
        return (distances[:, 0] / np.maximum(limits, floor)).astype(np.float32)


def _to_others(bank: np.ndarray, images: np.ndarray | None) -> np.ndarray:
    """(N,) distance of each row to its nearest other one, of another image where these are given."""
    if images is None:
        return NearestNeighbours("flat").fit(bank).query(bank, 2)[0][:, 1]
    squares = (bank**2).sum(1)
    table = squares[:, None] + squares - 2 * bank @ bank.T
    table[images[:, None] == images] = np.inf
    return np.sqrt(np.maximum(table.min(axis=1), 0.0))
