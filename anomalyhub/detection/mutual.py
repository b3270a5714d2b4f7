"""Distances between the patches of all pairs of images: each pair once, in tiles, within a byte budget.

Patches have length 1, so that one matrix product gives the similarities of many pairs; the largest of a tile's rows
and of its columns are the nearest patches in either direction.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.errors import OutputError
from anomalyhub.protocols import Progress, part

_BLOCK_BYTES = 2**25  # of patches, or of distances, that are in hand at a time
_TILE = 2**19  # similarities per product: 2 MiB, so that both maxima read them from the cache
_DEVICE_TILE = 2**26  # on a GPU, which wants large products
# Below it 2 - 2 s has lost too many digits of a float32 similarity, and the distance is computed in float64.
_NEAR = 0.03


class Scratch:
    """Arrays of which as many as fit the budget lie in memory, the others in temporary files without a name.

    The system frees such a file with its array, also when the process is killed.
    """

    def __init__(self, byte_budget: int):
        self.left = byte_budget

    def empty(self, *shape: int, dtype: Any = np.float32, reserve: int = 0) -> np.ndarray:
        """An uninitialised array; `reserve` bytes of the budget stay free for others. Raises OutputError."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size <= self.left - reserve:
            self.left -= size
            return np.empty(shape, dtype)
        try:
            with tempfile.TemporaryFile(prefix="anomalyhub-") as file:
                if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and a bus error on the first write
                    os.posix_fallocate(file.fileno(), 0, size)
                return np.memmap(file, dtype, "w+", shape=shape)
        except OSError as error:
            raise OutputError(
                f"no room for {size / 2**30:.1f} GiB of patch distances in {tempfile.gettempdir()} ({error.strerror}): "
                "free some space, set TMPDIR, raise byte_budget, or take fewer images"
            ) from error


def unit_patches(tokens: torch.Tensor, grid: tuple[int, int], r: int) -> torch.Tensor:
    """LNAMD: (B, P, C) tokens of a grid (h, w) to (B, P, C) neighbourhood features of length 1.

    Each image is normalised over its tokens and channels; each patch is then the mean of its r x r neighbourhood. That
    is the published adaptive pooling of the unfolded C r r values to C; zeros beyond the border count.
    """
    batch, patches, channels = tokens.shape
    maps = F.layer_norm(tokens, tokens.shape[1:]).reshape(batch, *grid, channels).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(maps, r, 1, r // 2).permute(0, 2, 3, 1)
    return F.normalize(pooled.reshape(batch, patches, channels), dim=2)


def fill_patches(tokens: np.ndarray, grid: tuple[int, int], r: int, out: np.ndarray, device: Any) -> np.ndarray:
    """`unit_patches` of (N, P, C) tokens of any float type, block by block, into `out`, which is returned."""
    for rows in _slices(len(tokens), tokens[0].size * 4):
        block = torch.tensor(np.asarray(tokens[rows], np.float32), device=device)
        out[rows] = unit_patches(block, grid, r).cpu().numpy()
    return out


def pair_bytes(n_images: int, n_patches: int, channels: int) -> int:
    """What `mutual_means` takes of a Scratch."""
    return 4 * n_images * n_patches * (n_images + channels)


def mutual_means(
    levels: Sequence[np.ndarray],
    grid: tuple[int, int],
    r_list: Sequence[int],
    top: float,
    scratch: Scratch,
    device: Any,
    progress: Progress | None = None,
) -> np.ndarray:
    """MSM: (N, P) float32 scores of N images by each other, from (N, P, C) tokens per layer.

    Per layer and r a patch's score is the mean of the lowest share `top` of its N - 1 distances to the nearest patch
    of each other image; the scores are averaged.
    """
    count, n_patches = levels[0].shape[:2]
    distances = scratch.empty(count, count, n_patches)
    buffer = scratch.empty(count * n_patches * max(level.shape[2] for level in levels))
    total = np.zeros((count, n_patches))
    steps = [(level, r) for r in r_list for level in levels]
    for number, (level, r) in enumerate(steps):
        patches = fill_patches(level, grid, r, buffer[: level.size].reshape(level.shape), device)
        mutual_distances(patches, distances, device, part(progress, number / len(steps), (number + 1) / len(steps)))
        for rows in _slices(count, distances[0].nbytes):
            total[rows] += lowest_mean(distances[rows], kept(top, count - 1), device)
    return (total / len(steps)).astype(np.float32)


def mutual_distances(patches: np.ndarray, out: np.ndarray, device: Any, progress: Progress) -> None:
    """out[i, j, p] = the least Euclidean distance of image i's patch p to image j's patches; infinite where i is j.

    patches  (N, P, C) float32 of length 1, or 0
    out      (N, N, P) float32
    """
    count, n_patches, _ = patches.shape
    blocks = _slices(count, max(patches[0].nbytes, math.isqrt(_BLOCK_BYTES * n_patches * 4)))
    n_pairs, done = len(blocks) * (len(blocks) + 1) // 2, 0
    for number, first in enumerate(blocks):
        one = torch.from_numpy(patches[first]).to(device)
        for second in blocks[number:]:
            same = first == second
            other = one if same else torch.from_numpy(patches[second]).to(device)
            forth = one.new_empty(len(one), len(other), n_patches)
            back = forth if same else one.new_empty(len(other), len(one), n_patches)
            _nearest(one, other, forth, back)
            out[first, second] = forth.cpu().numpy()
            if not same:
                out[second, first] = back.cpu().numpy()
            done += 1
            progress(done / n_pairs, "patch distances between all pairs of images")


def distances_to(queries: torch.Tensor, bank: np.ndarray) -> np.ndarray:
    """(Q, N, P) least distances of each of Q x P query patches to the patches of each of N bank images."""
    found = np.empty((len(queries), len(bank), queries.shape[1]), np.float32)
    for rows in _slices(len(bank), bank[0].nbytes):
        block = torch.from_numpy(bank[rows]).to(queries.device)
        forth = queries.new_empty(len(queries), len(block), queries.shape[1])
        _nearest(queries, block, forth, None)
        found[:, rows] = forth.cpu().numpy()
    return found


def kept(top: float, count: int) -> int:
    """How many of `count` distances the lowest share `top` is; at least one."""
    return max(1, int(top * count))


def lowest_mean(distances: np.ndarray, n_lowest: int, device: Any) -> np.ndarray:
    """(M, N, P) to (M, P): the mean of the lowest `n_lowest` of N values."""
    values = torch.from_numpy(distances).to(device).transpose(1, 2)
    return values.topk(n_lowest, largest=False, sorted=False).values.mean(2).cpu().numpy()


def _slices(count: int, item_bytes: int) -> list[slice]:
    step = max(1, _BLOCK_BYTES // item_bytes)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _nearest(one: torch.Tensor, other: torch.Tensor, forth: torch.Tensor, back: torch.Tensor | None) -> None:
    """Fill `forth` (A, B, P), and `back` (B, A, P), with the least distances between (A, P, C) and (B, P, C) patches.

    Where `back` is `forth` the images are the same ones: of each pair one order is computed, and i to i is infinite.
    """
    n_patches, same = one.shape[1], back is forth
    tile = (_TILE if one.device.type == "cpu" else _DEVICE_TILE) // n_patches**2
    wide = max(1, min(len(other), tile))
    high = max(1, min(len(one), tile // wide))
    buffer = one.new_empty(high * wide * n_patches**2)
    for a in range(0, len(one), high):
        left = one[a : a + high]
        for b in range(a + 1 if same else 0, len(other), wide):
            right = other[b : b + wide]
            product = buffer[: len(left) * len(right) * n_patches**2].view(len(left) * n_patches, -1)
            torch.mm(left.flatten(0, 1), right.flatten(0, 1).T, out=product)
            tiles = product.view(len(left), n_patches, len(right), n_patches)
            forth[a : a + high, b : b + wide] = tiles.amax(3).transpose(1, 2)
            if back is not None:
                back[b : b + wide, a : a + high] = tiles.amax(1).transpose(0, 1)
    if same:
        forth.diagonal(dim1=0, dim2=1).fill_(-math.inf)
    for similarity in (forth,) if same or back is None else (forth, back):
        similarity.mul_(-2).add_(2).clamp_(min=0).sqrt_()
    _recompute(one, other, forth, back)


def _recompute(one: torch.Tensor, other: torch.Tensor, forth: torch.Tensor, back: torch.Tensor | None) -> None:
    """Distances in float64 where float32 similarities do not give them: near 0, and to patches of length 0."""
    empty, others_empty = _has_empty(one), _has_empty(other)
    doubtful = (forth.amin(2) < _NEAR) | empty[:, None] | others_empty
    if back is forth:
        doubtful = doubtful.triu(1)
    for a, b in doubtful.nonzero().tolist():
        every = empty[a] | others_empty[b]
        rows = every | (forth[a, b] < _NEAR)
        # the nearest patch of a near one is itself near to that
        columns = every | (back[b, a] < _NEAR) if back is not None else torch.ones_like(rows)
        left, right = one[a, rows].double(), other[b, columns].double()
        squares = left.square().sum(1)[:, None] + right.square().sum(1) - 2 * left @ right.T
        exact = squares.clamp_(min=0).sqrt_().float()
        forth[a, b, rows] = exact.amin(1)
        if back is not None:
            back[b, a, columns] = exact.amin(0)


def _has_empty(patches: torch.Tensor) -> torch.Tensor:
    """(A,) bool: which images have a patch of length 0."""
    return (torch.linalg.vector_norm(patches, dim=2) < 0.5).any(1)
