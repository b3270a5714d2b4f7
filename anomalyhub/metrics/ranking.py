"""How the defective scores rank among the good ones, and the threshold metrics that follow from it in closed form.

A threshold metric only needs, for each distinct defective score, how many good scores lie above it and how many
tie with it. So the good scores are sorted alone, nothing is sampled, and no curve is ever drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ranking:
    """Groups of tied defective scores, from the highest score down (arrays of shape (G,)).

    hits         number of defective scores in the group
    above        number of good scores above the group
    upto         number of good scores above the group or tied with it
    n_negatives  number of good scores in all
    weight       the group's share of the mean recall per component, in all 1; None if components are not asked for
    coarse       True where the order inside the group is unknown (a bin of a histogram); None if all are true ties

    Each metric returns (value, bound): the exact value lies within value ± bound; bound is 0.0 without coarse groups.
    At least one defective and one good score are required: the caller reports degenerate input.
    """

    hits: np.ndarray
    above: np.ndarray
    upto: np.ndarray
    n_negatives: int
    weight: np.ndarray | None = None
    coarse: np.ndarray | None = None

    @property
    def n_positives(self) -> int:
        return int(self.hits.sum())

    def auroc(self) -> tuple[float, float]:
        """Chance that a defective score exceeds a good one, a tie counting half. Bound: half the coarse tie mass."""
        pairs = 2.0 * self.n_positives * self.n_negatives
        hits = self.hits.astype(np.float64)
        value = 1.0 - hits @ (self.above + self.upto) / pairs
        if self.coarse is None:
            return float(value), 0.0
        return float(value), float(hits @ ((self.upto - self.above) * self.coarse) / pairs)

    def average_precision(self) -> tuple[float, float]:
        """Precision averaged over the defective scores, each at its own threshold (scikit-learn's definition).

        Bound: inside a coarse group, precision is at most that with all its defective scores before all its good ones;
        at least, with all its good ones first, it is concave in the rank, so its mean exceeds the mean of its two ends.
        """
        total = np.cumsum(self.hits)
        precision = total / (total + self.upto)
        value = float(self.hits @ precision / total[-1])
        if self.coarse is None:
            return value, 0.0
        hits, first = self.hits * self.coarse, total - self.hits + 1
        up = hits @ (total / (total + self.above) - precision)
        down = hits @ (precision - first / (first + self.upto)) / 2
        return value, float(max(up, down) / total[-1])

    def f1_max(self) -> tuple[float, float]:
        """Largest F1 over all thresholds. Bound: a coarse group with all its defective scores above its good ones."""
        total = np.cumsum(self.hits)
        value = float((2 * total / (total[-1] + total + self.upto)).max())
        if self.coarse is None or not self.coarse.any():
            return value, 0.0
        best = (2 * total / (total[-1] + total + self.above))[self.coarse].max()
        return value, float(max(best - value, 0.0))

    def aupro(self, max_fpr: float) -> tuple[float, float]:
        """Mean recall per component, integrated over the false-positive rate from 0 to `max_fpr`, divided by `max_fpr`.

        The curve is a sum of one ramp per group, from `above` to `upto` false positives, whose area up to the limit is
        known; ties make the ramp, the limit cuts it at the interpolated point. Bound: coarse ramps as steps at their
        start; steps at their end are no farther, as a ramp cut short has less than half its area.
        """
        limit = max_fpr * self.n_negatives
        width = self.upto - self.above
        inside = np.clip(limit - self.above, 0.0, width)
        area = inside**2 / (2.0 * np.maximum(width, 1)) + np.maximum(limit - self.upto, 0.0)
        value = min(float(self.weight @ area / limit), 1.0)
        if self.coarse is None:
            return value, 0.0
        bound = (self.weight * self.coarse) @ (np.maximum(limit - self.above, 0.0) - area)
        return value, float(bound / limit)


def count_below(blocks: Sequence[np.ndarray], queries: np.ndarray, side: str) -> np.ndarray:
    """(Q,) int64: how many values of all sorted blocks are below each query ("left") or not above it ("right")."""
    count = np.zeros(len(queries), np.int64)
    for block in blocks:
        count += np.searchsorted(block, queries, side=side)
    return count


def rank(positives: np.ndarray, blocks: Sequence[np.ndarray], weights: np.ndarray | None = None, run=map) -> Ranking:
    """Exact ranking of defective scores (P,) among good scores given as sorted blocks.

    `weights` (P,) are the shares described in Ranking. `run` maps over both sides of the ties, as `map` or a pool does.
    """
    if weights is None:
        ordered = np.sort(positives)
    else:
        order = np.argsort(positives)
        ordered, weights = positives[order], weights[order]
        del order
    first = np.concatenate((np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]))
    starts = np.flatnonzero(first)
    hits = np.diff(starts, append=len(ordered))
    if weights is not None and len(starts):
        weights = np.add.reduceat(weights, starts)[::-1]
    distinct = ordered[starts]
    del first, starts, ordered
    n_negatives = sum(len(block) for block in blocks)
    left, right = run(lambda side: count_below(blocks, distinct, side), ("left", "right"))
    return Ranking(hits[::-1], (n_negatives - right)[::-1], (n_negatives - left)[::-1], n_negatives, weights)
