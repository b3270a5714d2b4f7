"""Leaving out the most redundant points of a large set, at a small part of the cost of selecting from it."""

from __future__ import annotations

import faiss
import numpy as np

_CELL = 768  # points per cell: pairwise distances of one cell stay in the cache
_LARGEST_CELL = 1024
_CHUNK = 65536


def thin(points: np.ndarray, members: np.ndarray, keep: int, *, seed: int = 0) -> np.ndarray:
    """Keep the `keep` of the member points that cover the others best, cell by cell.

    The points are split by k-means into cells of about 768. Greedy k-center inside a cell orders its points by the
    radius at which each would be picked; the points with the largest radii over all cells are kept, so that every
    point left out lies within one common radius of a kept point of its cell.

    points   (N, D) float32
    members  (n,) indices of the points that take part
    Returns sorted indices, (keep,) int64. Working memory: about 10 MiB. Cost: n * (n / 768 + 768) * D multiply-adds,
    against n * keep * D for greedy.
    """
    if keep >= len(members):
        return np.sort(members)
    radii = np.empty(len(members), np.float32)
    for cell in _cells(points, members, seed):
        radii[cell] = _picking_radii(points[members[cell]])
    return np.sort(members[np.argsort(-radii, kind="stable")[:keep]])


def _cells(points: np.ndarray, members: np.ndarray, seed: int) -> list[np.ndarray]:
    """Positions in `members`, by nearest of about n / 768 centroids; a cell of more than 1024 is split again."""
    count = -(-len(members) // _CELL)
    sample = np.random.default_rng(seed).permutation(len(members))[: 40 * count]
    k_means = faiss.Kmeans(points.shape[1], count, niter=4, seed=seed, min_points_per_centroid=1)
    k_means.train(np.ascontiguousarray(points[members[np.sort(sample)]]))
    chunks = [members[start : start + _CHUNK] for start in range(0, len(members), _CHUNK)]
    nearest = np.concatenate([k_means.index.search(points[chunk], 1)[1][:, 0] for chunk in chunks])
    order = np.argsort(nearest, kind="stable")
    cells = []
    for cell in np.split(order, np.flatnonzero(np.diff(nearest[order])) + 1):
        if len(cell) <= _LARGEST_CELL:
            cells.append(cell)
        elif len(cell) < len(members):
            cells += [cell[part] for part in _cells(points, members[cell], seed)]
        else:  # points that k-means cannot tell apart
            cells += np.array_split(cell, -(-len(cell) // _LARGEST_CELL))
    return cells


def _picking_radii(points: np.ndarray) -> np.ndarray:
    """Squared distance of each point to those that greedy k-center picks before it; infinite for the first."""
    points = points - points.mean(0)
    norms = np.einsum("ij,ij->i", points, points)
    pairwise = points @ points.T
    pairwise *= -2.0
    pairwise += norms
    pairwise += norms[:, None]
    distances = pairwise[int(norms.argmax())].copy()
    radii = np.empty(len(points), np.float32)
    best = int(norms.argmax())
    radii[best], distances[best] = np.inf, -np.inf
    for _ in range(len(points) - 1):
        best = int(distances.argmax())
        radii[best] = distances[best]
        np.minimum(distances, pairwise[best], out=distances)
        distances[best] = -np.inf
    return radii
