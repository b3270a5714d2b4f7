"""Greedy k-center selection, exact, at the cost of matrix products.

Plain greedy updates every point's distance after every pick: N x M vector products that stream the whole matrix from
memory M times. Here the picks of one round are found inside a small pool of the farthest points, which is safe for as
long as the pool's best is at least as far as an upper bound of everything outside; all picks of the round then reach
the other points in one matrix product. Distances only ever fall, so a point whose last known distance is below the
bound needs no update until the bound has come down to it: points that are covered early are never touched again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress

_ROWS, _COLUMNS = 1024, 512  # one product gives 2 MiB of distances, which stay in a core's cache
_BLOCK = _ROWS * _COLUMNS  # few columns leave room for more rows: fewer, larger steps
_POOL = 1024
_PICKED = -1.0  # the squared distance that marks points which may not be picked


def k_center_greedy(
    features: np.ndarray,
    n_select: int,
    *,
    seed: int = 0,
    initial: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
    pool_size: int = _POOL,
    device: Any = "cpu",
    progress: Progress | None = None,
) -> np.ndarray:
    """Pick points that cover all the others: each next pick is the point farthest from all picks so far.

    The first pick is the point with the largest mean distance to 10 random ones, as in PatchCore's published code
    (Roth et al., CVPR 2022; Sener and Savarese, ICLR 2018). Euclidean distance. Up to rounding and exact ties the
    picks, and their order, are those of plain greedy k-center with the same first pick.

    features  (N, D) float32, finite; not changed, and copied only if read-only or not contiguous
    n_select  1 to N (or to the number of allowed points)
    initial   (m, D) float32 centres that are already there: picks are the farthest from these, and from each other
    allowed   (N,) bool, False for points that are neither picked nor covered
    pool_size points considered per round; changes the speed, not the picks
    device    torch device that holds the distances
    Returns (n_select,) int64 indices in the order of picking. Working memory: 8 bytes per point, the picks' rows,
    and about 30 MiB.
    Raises InvalidArgumentError on a wrong shape, NaN or infinity, and n_select outside its range.
    """
    points = _as_points("features", features)
    if allowed is not None and np.shape(allowed) != (len(points),):
        raise InvalidArgumentError(f"allowed must have shape ({len(points)},), got {np.shape(allowed)}")
    usable = len(points) if allowed is None else int(np.count_nonzero(allowed))
    if not 1 <= n_select <= usable:
        raise InvalidArgumentError(f"n_select must be between 1 and the number of points ({usable}), got {n_select}")
    state = _Distances(torch.from_numpy(points).to(device), n_select, allowed)
    if initial is not None and len(initial):
        state.lower_by(torch.from_numpy(_as_points("initial", initial, points.shape[1])).to(device))
    else:
        state.commit(np.array([_first_pick(state, seed)]))
        state.refresh(np.flatnonzero(state.distances != _PICKED))
    survival = 1.0
    while state.n_picked < n_select:
        level, stale = state.candidates(int(1.25 * pool_size / survival))
        state.refresh(stale)
        distances = state.distances[stale]
        fresh = stale[distances >= level]
        survival = min(1.0, max(len(fresh) / len(stale), 0.02))
        if not len(fresh):
            continue
        if len(fresh) > pool_size:
            order = np.argpartition(-state.distances[fresh], pool_size)
            level = max(level, float(state.distances[fresh[order[pool_size]]]))
            fresh = np.sort(fresh[order[:pool_size]])
        picks, lowered = _greedy_in_pool(state, fresh, level, n_select - state.n_picked)
        state.commit(picks)
        state.set_fresh(fresh, lowered)
        if progress is not None:
            progress(state.n_picked / n_select, f"coreset {state.n_picked}/{n_select}")
    return state.picks.copy()


def covering_radius(features: np.ndarray, centres: np.ndarray) -> float:
    """Largest Euclidean distance from any of the (N, D) features to its nearest of the (M, D) centres."""
    points = _as_points("features", features)
    state = _Distances(torch.from_numpy(points), 1, None)
    state.lower_by(torch.from_numpy(_as_points("centres", centres, points.shape[1])))
    return float(np.sqrt(state.distances.max()))


def _as_points(name: str, array: np.ndarray, dim: int | None = None) -> np.ndarray:
    if np.ndim(array) != 2 or 0 in np.shape(array) or (dim and dim != np.shape(array)[1]):
        raise InvalidArgumentError(
            f"{name} must have shape (N, {dim or 'D'}) with N and D at least 1, got {np.shape(array)}"
        )
    array = np.ascontiguousarray(array, dtype=np.float32)
    low, high, limit = float(array.min()), float(array.max()), 1e18 / array.shape[1] ** 0.5
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidArgumentError(f"{name} must be finite, got NaN or infinity")
    if max(-low, high) > limit:
        raise InvalidArgumentError(f"{name} must not exceed {limit:.0e}, whose square float32 holds: scale them down")
    return array if array.flags.writeable else array.copy()  # torch takes no read-only memory


class _Distances:
    """Squared distance of every point to the picks it has been compared with, which bounds the true one from above."""

    def __init__(self, points: torch.Tensor, capacity: int, allowed: np.ndarray | None):
        self.points = points
        self.distances = np.full(len(points), np.inf, np.float32)
        if allowed is not None:
            self.distances[~np.asarray(allowed, bool)] = _PICKED
        # against cancellation far from the origin; of the allowed points alone, as the others must play no part
        usable = np.flatnonzero(self.distances != _PICKED)
        self.offset = points[torch.from_numpy(usable[:: max(1, len(usable) // 4096)]).to(points.device)].mean(0)
        self.seen = np.zeros(len(points), np.int32)  # how many of the picks each point has been compared with
        self.picks = np.zeros(capacity, np.int64)
        self.n_picked = 0
        self._rows = points.new_empty(capacity, points.shape[1])  # the picks' rows, centred
        self._norms = points.new_empty(capacity)

    def rows(self, indices: np.ndarray) -> torch.Tensor:
        return self.points[torch.from_numpy(indices).to(self.points.device)] - self.offset

    def candidates(self, count: int) -> tuple[float, np.ndarray]:
        """A level, and all points whose distance may reach it: about `count` of the farthest."""
        if count < len(self.distances):
            level = float(np.partition(self.distances, len(self.distances) - count)[len(self.distances) - count])
        else:
            level = 0.0
        level = max(level, 0.0)
        return level, np.flatnonzero(self.distances >= level)

    def refresh(self, indices: np.ndarray) -> None:
        """Compare the points with all the picks that they have missed."""
        seen = self.seen[indices]
        for start in np.unique(seen):
            if start < self.n_picked:
                group = indices[seen == start]
                self._lower(group, self._rows[start : self.n_picked], self._norms[start : self.n_picked])
        self.seen[indices] = self.n_picked

    def lower_by(self, centres: torch.Tensor) -> None:
        """Compare all points with centres that are not among them."""
        centres = centres - self.offset
        self._lower(np.flatnonzero(self.distances != _PICKED), centres, (centres * centres).sum(1))

    def commit(self, picks: np.ndarray) -> None:
        end = self.n_picked + len(picks)
        rows = self.rows(picks)
        self.picks[self.n_picked : end] = picks
        self._rows[self.n_picked : end] = rows
        self._norms[self.n_picked : end] = (rows * rows).sum(1)
        self.distances[picks] = _PICKED
        self.n_picked = end

    def set_fresh(self, indices: np.ndarray, distances: np.ndarray) -> None:
        self.distances[indices] = distances
        self.seen[indices] = self.n_picked

    def _lower(self, indices: np.ndarray, centres: torch.Tensor, norms: torch.Tensor) -> None:
        step = max(_ROWS, min(_BLOCK // min(len(centres), _COLUMNS), _BLOCK // centres.shape[1]))
        for start in range(0, len(indices), step):
            chunk = indices[start : start + step]
            rows = self.rows(chunk)
            nearest = rows.new_full((len(chunk),), np.inf)
            for column in range(0, len(centres), _COLUMNS):
                block = slice(column, column + _COLUMNS)
                partial = torch.addmm(norms[block], rows, centres[block].T, alpha=-2.0)
                torch.minimum(nearest, partial.amin(1), out=nearest)
            squared = (nearest + (rows * rows).sum(1)).clamp_(min=0.0).cpu().numpy()
            self.distances[chunk] = np.minimum(self.distances[chunk], squared)


def _first_pick(state: _Distances, seed: int) -> int:
    allowed = np.flatnonzero(state.distances != _PICKED)
    anchors = state.rows(np.random.default_rng(seed).choice(allowed, size=min(10, len(allowed)), replace=False))
    best, best_distance = int(allowed[0]), -1.0
    for start in range(0, len(allowed), _ROWS):
        chunk = allowed[start : start + _ROWS]
        mean = torch.cdist(state.rows(chunk), anchors).mean(1)
        farthest = int(mean.argmax())
        if float(mean[farthest]) > best_distance:
            best, best_distance = int(chunk[farthest]), float(mean[farthest])
    return best


def _greedy_in_pool(state: _Distances, pool: np.ndarray, level: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Plain greedy inside the pool while its best is at least `level`. Returns the picks and the pool's distances."""
    rows = state.rows(pool)
    norms = (rows * rows).sum(1)
    pairwise = torch.addmm(norms, rows, rows.T, alpha=-2.0).add_(norms[:, None]).clamp_(min=0.0).cpu().numpy()
    distances = state.distances[pool].copy()
    picks: list[int] = []
    while len(picks) < limit:
        best = int(distances.argmax())
        if distances[best] < level:
            break
        picks.append(best)
        np.minimum(distances, pairwise[best], out=distances)
        distances[best] = _PICKED
    return pool[picks], distances
