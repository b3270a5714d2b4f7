"""Episodes: which image is asked about, beside which supports of each class. Lists of indices, no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Episode:
    """One query and what it is compared with.

    query     its row
    target    its class, a column of `supports`
    supports  (J, C) int64 rows: J sets of one support per class
    """

    query: int
    target: int
    supports: np.ndarray


def left_out_episodes(labels: np.ndarray) -> list[Episode]:
    """Algorithm 1 of liu2024: every row is the query once, class by class, and is taken out of its class.

    labels  (N,) int64 classes from 0, none empty

    Set j holds the j-th remaining row of every class, and there are as many sets as the query's class has rows left:
    S - 1 for S of each. Where another class has fewer, which the paper does not treat, its rows are taken again from
    the first. The only row of a class is no query.
    """
    rows = _rows_by_class(labels)
    episodes = []
    for target, own in enumerate(rows):
        for query in own:
            kept = [[row for row in members if row != query] for members in rows]
            sets = [[members[j % len(members)] for members in kept] for j in range(len(own) - 1)]
            if sets:
                episodes.append(Episode(query, target, np.array(sets, np.int64)))
    return episodes


def split_episodes(labels: np.ndarray, rng: np.random.Generator) -> list[Episode]:
    """Algorithm 2 of liu2024: one random row of each class is its support, all others are queries, class by class.

    labels  (N,) int64 classes from 0, none empty
    """
    rows = _rows_by_class(labels)
    supports = np.array([[rng.choice(members) for members in rows]], np.int64)
    return [
        Episode(query, target, supports)
        for target, members in enumerate(rows)
        for query in members
        if query != supports[0, target]
    ]


def drawn_episodes(labels: np.ndarray, n_classes: int, n_queries: int, rng: np.random.Generator) -> list[Episode]:
    """An episode of pretraining: random classes, and of each one random support and `n_queries` queries.

    labels     (N,) int64 classes from 0, none empty
    n_classes  at most; all, where there are fewer. Targets number the drawn classes in their order
    n_queries  at most; a class of n rows has n - 1
    """
    rows = _rows_by_class(labels)
    classes = np.sort(rng.choice(len(rows), min(n_classes, len(rows)), replace=False))
    drawn = [rng.permutation(rows[label])[: n_queries + 1].tolist() for label in classes]
    supports = np.array([[members[0] for members in drawn]], np.int64)
    return [Episode(query, target, supports) for target, members in enumerate(drawn) for query in members[1:]]


def steps(episodes: Sequence[Episode], per_step: int) -> list[list[Episode]]:
    """Batches of up to `per_step` episodes, in turn of each class, so that a batch has as many of each as can be."""
    seen: dict[int, int] = {}
    order = []
    for number, episode in enumerate(episodes):
        turn = seen.get(episode.target, 0)
        seen[episode.target] = turn + 1
        order.append((turn, episode.target, number))
    ordered = [episodes[number] for _, _, number in sorted(order)]
    return [ordered[start : start + per_step] for start in range(0, len(ordered), per_step)]


def _rows_by_class(labels: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(labels == label).tolist() for label in range(int(labels.max()) + 1)]
