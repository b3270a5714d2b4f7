"""Ranking of all pixels of a test set, read image by image within a byte budget: exact if it fits, else a histogram."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.metrics.ranking import Ranking, rank

#: Scores of good pixels are sorted in blocks of at most this many: two threads do it while the next one is being read.
BLOCK = 1 << 24
#: What the exact mode holds per defective pixel at its peak: scores, weights, order, ranks, temporaries.
BYTES_PER_POSITIVE = 96
#: The same per bin of the histogram.
BYTES_PER_BIN = 96
#: Pixels whose keys are computed together, so that the temporaries stay in the cache.
CHUNK = 1 << 17


class Pixels:
    """Masks and maps of a test set, checked while they are read; iterating yields (mask (H, W) bool, scores (H*W,)).

    Scores are float32, or float64 if the map's type needs it. Images without a mask are left out.
    """

    def __init__(self, masks: Sequence[Any], maps: Sequence[Any], names: Sequence[str] | None = None):
        for what, value in (("masks", masks), ("maps", maps)):
            if not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
                kind = type(value).__name__
                raise InvalidArgumentError(f"{what} must be a sequence of (H, W) arrays, got {kind}: pass a list")
        if len(masks) != len(maps):
            raise InvalidArgumentError(
                f"masks and maps must have one entry per image, got {len(masks)} masks and {len(maps)} maps"
            )
        if names is not None and len(names) != len(maps):
            raise InvalidArgumentError(f"names must have one entry per map ({len(maps)}), got {len(names)}")
        self.masks, self.maps, self.names = masks, maps, names
        self.n_skipped = 0

    def __len__(self) -> int:
        return len(self.maps)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.n_skipped = 0
        for index in range(len(self.maps)):
            scores, mask = self._scores(index), self.masks[index]
            if mask is None:
                self.n_skipped += 1
                continue
            mask = np.asarray(mask)
            if mask.shape != scores.shape:
                raise InvalidArgumentError(
                    f"{self._where('masks', index)} must have the shape {scores.shape} of its map, got {mask.shape}: "
                    "resize the map to the mask's size"
                )
            yield (mask if mask.dtype == bool else mask != 0), scores.ravel()

    def _where(self, what: str, index: int) -> str:
        return f"{what}[{index}]" + (f" ({self.names[index]})" if self.names is not None else "")

    def _scores(self, index: int) -> np.ndarray:
        scores = np.asarray(self.maps[index])
        if scores.ndim != 2 or scores.dtype.kind not in "fiub":
            raise InvalidArgumentError(
                f"{self._where('maps', index)} must be an (H, W) array of numbers, got {scores.dtype} {scores.shape}"
            )
        if scores.dtype not in (np.float32, np.float64):
            wide = np.result_type(scores.dtype, np.float32).itemsize > 4
            scores = scores.astype(np.float64 if wide else np.float32)
        if not np.isfinite(scores).all():
            raise InvalidArgumentError(
                f"{self._where('maps', index)} holds NaN or infinity: predict that image again or leave it out"
            )
        return scores


def component_weights(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """1 / size of its 8-connected component for each True pixel of an (H, W) mask, row by row; number of components."""
    from scipy import ndimage  # here because importing it takes a quarter of a second

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    labels, n_components = ndimage.label(box, np.ones((3, 3)))
    component = labels[box] - 1
    return (1.0 / np.bincount(component))[component], n_components


class _SortedBlocks:
    """Good scores in blocks that a pool sorts as they fill up."""

    def __init__(self, pool: ThreadPoolExecutor, dtype: np.dtype, capacity: int):
        self.pool, self.dtype, self.capacity = pool, dtype, capacity
        self.blocks: list[np.ndarray] = []
        self.jobs: list = []
        self.used = self.nbytes = 0

    def add(self, scores: np.ndarray, byte_budget: int) -> bool:
        """Append scores; False, with nothing done, if the blocks would then exceed the budget."""
        full = not self.blocks or self.used + len(scores) > len(self.blocks[-1])
        size = max(self.capacity, len(scores)) if full else 0
        if self.nbytes + size * self.dtype.itemsize > byte_budget:
            return False
        if full:
            self._sort_last()
            self.blocks.append(np.empty(size, self.dtype))
            self.nbytes += self.blocks[-1].nbytes
            self.used = 0
        self.blocks[-1][self.used : self.used + len(scores)] = scores
        self.used += len(scores)
        return True

    def _sort_last(self) -> None:
        if self.blocks:
            self.blocks[-1] = self.blocks[-1][: self.used]
            self.jobs.append(self.pool.submit(self.blocks[-1].sort))

    def finish(self) -> list[np.ndarray]:
        self._sort_last()
        for job in self.jobs:
            job.result()
        return self.blocks


def rank_exactly(pixels: Pixels, byte_budget: int, components: bool) -> Ranking | None:
    """Exact ranking in one pass over the images; None if the scores do not fit the budget."""
    positives: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    n_components = n_positives = 0
    with ThreadPoolExecutor(2) as pool:
        negatives = None
        for mask, scores in pixels:
            if negatives is None:
                size = min(scores.size * len(pixels), BLOCK, byte_budget // (8 * scores.itemsize))
                negatives = _SortedBlocks(pool, scores.dtype, size)
            with np.errstate(over="ignore"):  # a float64 map after a float32 one
                scores = scores.astype(negatives.dtype, copy=False)
            if mask.any():
                flat = mask.ravel()
                positives.append(scores[flat])
                n_positives += len(positives[-1])
                scores = scores[~flat]
                if components:
                    share, count = component_weights(mask)
                    weights.append(share)
                    n_components += count
            if not negatives.add(scores, byte_budget - BYTES_PER_POSITIVE * n_positives):
                return None
        blocks = negatives.finish() if negatives else []
        defective = np.concatenate(positives) if positives else np.empty(0, np.float32)
        positives.clear()
        shares = None
        if components:
            shares = np.concatenate(weights) / n_components if weights else np.empty(0)
            weights.clear()
        return rank(defective, blocks, shares, run=pool.map)


def order_key(scores: np.ndarray) -> np.ndarray:
    """int32 keys of float32 scores in the same order and with the same ties (0.0 equals -0.0)."""
    bits = (scores + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


class _Bins:
    """Order-preserving bins of float32 scores: 65,536 coarse ones (a key's top half), each cut into 2**bits parts."""

    def __init__(self, bits: np.ndarray):
        self.shift = (16 - bits).astype(np.int32)
        count = np.left_shift(1, bits.astype(np.int64))
        self.offset = np.cumsum(count) - count
        self.n = int(count.sum())
        #: (n,) bool: the bin holds more than one float32 value
        self.coarse = np.repeat(bits < 16, count)

    def index(self, scores: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinity, a bin like any other
            key = order_key(scores.astype(np.float32, copy=False))
        top = (key >> 16) + 32768
        return self.offset[top] + ((key & 0xFFFF) >> self.shift[top])

    def add(self, counts: np.ndarray, scores: np.ndarray) -> None:
        """Count scores into their bins, in place."""
        for start in range(0, len(scores), CHUNK):
            np.add.at(counts, self.index(scores[start : start + CHUNK]), 1)


def _split(hits: np.ndarray, total: np.ndarray, n_bins: int) -> np.ndarray:
    """(65536,) bits per coarse bin, at most n_bins parts in all, so that the error bounds get small together.

    A bin's bound is about its defective share times the change of the false-positive rate and of the precision inside
    it, and halves with each bit: parts in proportion to the root of that product minimise the sum.
    """
    bits, mixed = np.zeros(len(total), np.int64), np.flatnonzero(hits)
    negatives, above = total - hits, np.cumsum(total[::-1])[::-1]
    doubt = hits / max(hits.sum(), 1) * (negatives / max(negatives.sum(), 1) + total / np.maximum(above, 1))
    wish = np.log2(doubt[mixed]) / 2
    for scale in np.arange(64.0, 0.0, -0.25):
        bits[mixed] = np.clip(np.floor(wish + scale), 0, 16)
        if np.left_shift(1, bits[mixed]).sum() <= n_bins - len(bits) + len(mixed):
            return bits
    return np.zeros_like(bits)


def rank_by_histogram(pixels: Pixels, byte_budget: int, components: bool) -> Ranking:
    """Ranking from two passes: one finds where defective and good scores meet, one counts finely there."""
    top = _Bins(np.zeros(65536, np.int64))
    hits, total = np.zeros(top.n, np.int64), np.zeros(top.n, np.int64)
    single = True
    for mask, scores in pixels:
        top.add(total, scores)
        top.add(hits, scores[mask.ravel()])
        single &= scores.dtype == np.float32
    bins = _Bins(_split(hits, total, top.n + byte_budget // BYTES_PER_BIN))
    hits, total = np.zeros(bins.n, np.int64), np.zeros(bins.n, np.int64)
    weight = np.zeros(bins.n) if components else None
    n_components = 0
    for mask, scores in pixels:
        bins.add(total, scores)
        if not mask.any():
            continue
        index = bins.index(scores[mask.ravel()])
        np.add.at(hits, index, 1)
        if components:
            share, count = component_weights(mask)
            np.add.at(weight, index, share)
            n_components += count
    total -= hits
    kept = np.flatnonzero(hits)[::-1]
    upto = np.cumsum(total[::-1])[::-1]
    n_negatives = int(total.sum())
    hits, upto, above = hits[kept], upto[kept], upto[kept] - total[kept]
    # float64 scores are counted by their nearest float32, so even a bin of one float32 value may hide an order
    coarse = bins.coarse[kept] if single else np.ones(len(kept), bool)
    return Ranking(hits, above, upto, n_negatives, weight[kept] / n_components if components else None, coarse)


def rank_pixels(pixels: Pixels, byte_budget: int, components: bool) -> Ranking:
    """Exact if the scores fit `byte_budget`, else from a histogram; `Ranking.coarse` tells which."""
    if byte_budget < 1:
        raise InvalidArgumentError(f"byte_budget must be a positive number of bytes, got {byte_budget}")
    ranking = rank_exactly(pixels, byte_budget, components)
    return ranking if ranking is not None else rank_by_histogram(pixels, byte_budget, components)
