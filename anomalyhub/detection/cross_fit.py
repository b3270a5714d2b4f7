"""Which normal images are held out together, so that a threshold needs no defects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FOLDS = 4


@dataclass(frozen=True)
class Fold:
    """Images that are scored by a detector which has not seen them."""

    number: int
    images: tuple[int, ...]


def folds_for(n_images: int, at_most: int, seed: int) -> list[Fold]:
    """Disjoint random folds over up to `at_most` of `n_images` images.

    A quarter of the images is left out at a time, at most `at_most`: small sets are held out completely in four turns
    (fewer images than four: one at a time), large ones in one or two, because each fold costs one more selection.
    """
    if n_images < 2 or at_most < 1:
        return []
    size = min(at_most, int(np.ceil(n_images / _FOLDS)))
    count = min(_FOLDS, n_images // size, max(1, round(at_most / size)))
    size = min(size, at_most // count)
    order = np.random.default_rng(seed).permutation(n_images)
    if count * size < n_images <= at_most:  # n_images is not a multiple of the size: the last fold takes what is left
        count += n_images > count * size
    folds = [order[i * size : (i + 1) * size] for i in range(count)]
    return [Fold(i, tuple(int(image) for image in sorted(fold))) for i, fold in enumerate(folds)]
