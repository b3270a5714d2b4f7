"""Support sets: the few normal images that a few-shot method is given."""

from __future__ import annotations

import numpy as np

from anomalyhub.errors import InvalidArgumentError

#: Support sets per number of shots in few-shot evaluations (RegAD: Huang et al., ECCV 2022; ejaz2024).
SUPPORT_SETS = 10


def support_sets(n_images: int, shots: int, count: int = SUPPORT_SETS) -> tuple[tuple[int, ...], ...]:
    """`count` fixed sets of `shots` distinct indices below `n_images`, ascending: the same for everybody, always.

    A set of fewer shots is part of the set of the same number with more. Raises InvalidArgumentError when there are
    fewer images than shots.
    """
    if shots < 1 or count < 1:
        raise InvalidArgumentError(f"a support set has at least 1 image, got {shots} shots: give 2, 4 or 8")
    if shots > n_images:
        raise InvalidArgumentError(
            f"{shots} support images were asked for and there are {n_images}: lower the shots, or add images"
        )
    orders = (np.random.default_rng((2022, number)).permutation(n_images) for number in range(count))
    return tuple(tuple(sorted(int(index) for index in order[:shots])) for order in orders)
