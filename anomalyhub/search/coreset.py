"""A coreset of a stream of patch features within a byte budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress
from anomalyhub.search.k_center import k_center_greedy
from anomalyhub.search.thinning import thin

_KEEP = 0.75  # share of its capacity that a full buffer is thinned to
_COMPACT = 4.0  # a process hands over this multiple of its share of the bank, so that the last selection can choose


@dataclass(frozen=True)
class CoresetPlan:
    """What a selection will take, said before it starts.

    n_patches       patches that will be seen               dim          width of a patch feature
    n_bank          patches that will be kept               bank_bytes   their size
    buffer_bytes    size of the largest buffer              blockwise    whether the buffer is thinned on the way
    multiply_adds   upper bound for one selection           seconds      rough expectation for a few CPU cores
    """

    n_patches: int
    dim: int
    n_bank: int
    bank_bytes: int
    buffer_bytes: int
    blockwise: bool
    multiply_adds: float
    seconds: float

    def __str__(self) -> str:
        way = "blockwise" if self.blockwise else "in one piece"
        return (
            f"{self.n_patches:,} patches x {self.dim} -> bank of {self.n_bank:,} ({self.bank_bytes / 2**20:.0f} MiB), "
            f"buffer {self.buffer_bytes / 2**20:.0f} MiB, selected {way}, about {max(1, round(self.seconds))} s"
        )


class StreamingCoreset:
    """Collects patch features, keeps what covers them, and never holds more than the budget.

    While all patches fit, the selection is exactly greedy k-center of all of them (Sener and Savarese, ICLR 2018). A
    full buffer is thinned by a quarter: blocks of near neighbours leave out those that the others cover best (see
    `thin`), and the last selection runs over what was kept, with a bank of at most half the capacity. Its covering
    radius exceeds that of exact greedy by at most the radii at which patches were left out.

    Patches carry a group number. Groups are thinned separately, so that `select(without=g)` is a selection in which the
    patches of group g played no part: that is what cross-fitting needs.

    fraction     share of the patches that is kept, in (0, 1]
    byte_budget  bytes for buffer, projections and the selected rows
    largest      at most so many rows are selected; None: no more than the fraction
    projection   width of the random linear projection that distances are measured in (Johnson-Lindenstrauss); a
                 narrower feature, or None, is not projected
    """

    def __init__(
        self,
        dim: int,
        *,
        fraction: float,
        byte_budget: int = 2**30,
        projection: int | None = 128,
        largest: int | None = None,
        seed: int = 0,
        device: Any = "cpu",
    ):
        if not 0.0 < fraction <= 1.0:
            raise InvalidArgumentError(f"the coreset fraction must be in (0, 1], got {fraction}")
        self.dim, self.fraction, self.seed, self.device, self.largest = dim, fraction, seed, device, largest
        self.projection = projection if projection is not None and projection < dim else None
        self.capacity = int(byte_budget // self._bytes_per_row())
        if self.capacity < 64:
            need = int(64 * self._bytes_per_row()) + 1
            raise InvalidArgumentError(
                f"a byte budget of {byte_budget} holds {self.capacity} patches of {dim} values: "
                f"give at least {need} bytes"
            )
        self.n_seen = 0
        self.blockwise = False
        self._seen_by_group: dict[int, int] = {}
        self._used = 0
        self._rows = np.empty((0, dim), np.float32)
        self._groups = np.empty(0, np.int32)
        if self.projection:
            matrix = np.random.default_rng(seed).standard_normal((dim, self.projection), dtype=np.float32)
            self._matrix = matrix / np.sqrt(self.projection, dtype=np.float32)
            self._projected = np.empty((0, self.projection), np.float32)

    def _bytes_per_row(self) -> float:
        # the row, its projection, group and distance; then the selected rows, once here and once in the search index
        width = 4 * self.dim + (4 * self.projection if self.projection else 0)
        return width + 16 + 8 * self.dim * self.fraction

    def plan(self, n_patches: int, *, multiply_adds_per_second: float = 1e11) -> CoresetPlan:
        """What selecting from `n_patches` takes; the time is a rough expectation for a few CPU cores."""
        blockwise = n_patches > self.capacity
        n_bank = self._target(n_patches)
        width = self.projection or self.dim
        work = float(min(n_patches, self.capacity)) * n_bank * width
        return CoresetPlan(
            n_patches=n_patches,
            dim=self.dim,
            n_bank=n_bank,
            bank_bytes=4 * self.dim * n_bank,
            buffer_bytes=int(min(n_patches, self.capacity) * self._bytes_per_row()),
            blockwise=blockwise,
            multiply_adds=work,
            seconds=work / multiply_adds_per_second,
        )

    def reserve(self, n_patches: int) -> None:
        """Allocate for `n_patches` more at once, up to the capacity; without it the buffer grows by doubling."""
        self._grow(min(self._used + n_patches, self.capacity))

    def add(self, rows: np.ndarray, groups: np.ndarray | int = -1) -> None:
        """Take (n, D) float32 rows with one group number each; thins the buffer when it is full."""
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise InvalidArgumentError(f"rows must have shape (n, {self.dim}), got {rows.shape}")
        groups = np.broadcast_to(np.asarray(groups, np.int32), len(rows))
        for group, count in zip(*np.unique(groups, return_counts=True), strict=True):
            self._seen_by_group[int(group)] = self._seen_by_group.get(int(group), 0) + int(count)
        self.n_seen += len(rows)
        done = 0
        while done < len(rows):
            if self._used == self.capacity:
                self._reduce()
            take = min(len(rows) - done, self.capacity - self._used)
            self._append(rows[done : done + take], groups[done : done + take])
            done += take

    def select(
        self, *, without: int | None = None, initial: np.ndarray | None = None, progress: Progress | None = None
    ) -> np.ndarray:
        """(M, D) float32 rows of the coreset, of all groups or of all but one, in the order of picking.

        `initial` (m, D) rows are covered already: what is picked is farthest from them.
        """
        allowed = None if without is None else self._groups[: self._used] != without
        seen = self.n_seen - (0 if without is None else self._seen_by_group.get(without, 0))
        usable = self._used if allowed is None else int(np.count_nonzero(allowed))
        if usable == 0:
            raise InvalidArgumentError("a coreset needs at least one patch: add some first")
        centres = initial @ self._matrix if initial is not None and self.projection else initial
        picks = self._pick(min(self._target(seen), usable), allowed, progress, centres)
        return self._rows[picks]

    def _target(self, n_patches: int) -> int:
        """The bank's size: the fraction of the patches, at most what the budget leaves room to choose from."""
        share = round(self.fraction * n_patches)
        return max(1, min(share, self.largest or share, int(self.capacity * max(self.fraction, 0.5))))

    def compact(self) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
        """What another coreset needs to `merge` this one: thinned rows, their groups, patches seen per group."""
        self._reduce(min(self.capacity, int(np.ceil(_COMPACT * self.fraction * self.n_seen))))
        return self._rows[: self._used], self._groups[: self._used], dict(self._seen_by_group)

    def merge(self, rows: np.ndarray, groups: np.ndarray, seen: dict[int, int]) -> None:
        """Take the rows of a compacted coreset, which stand for `seen` patches."""
        before = self.n_seen, dict(self._seen_by_group)
        self.add(rows, groups)
        self.n_seen = before[0] + sum(seen.values())
        self._seen_by_group = {g: before[1].get(g, 0) + seen.get(g, 0) for g in before[1].keys() | seen.keys()}
        self.blockwise = True

    def _pick(
        self, count: int, allowed: np.ndarray | None, progress: Progress | None, initial: np.ndarray | None = None
    ) -> np.ndarray:
        space = (self._projected if self.projection else self._rows)[: self._used]
        return k_center_greedy(
            space, count, seed=self.seed, initial=initial, allowed=allowed, device=self.device, progress=progress
        )

    def _reduce(self, room: int | None = None) -> None:
        """Thin the buffer to three quarters, or to `room` rows; every group gives its share of the patches seen."""
        self.blockwise = True
        room = int(_KEEP * self.capacity) if room is None else room
        space = self._projected if self.projection else self._rows
        kept = []
        for group, seen in sorted(self._seen_by_group.items()):
            members = np.flatnonzero(self._groups[: self._used] == group)
            if len(members):
                kept.append(thin(space, members, max(1, room * seen // self.n_seen), seed=self.seed))
        order = np.sort(np.concatenate(kept))
        for array in [self._rows, self._groups] + ([self._projected] if self.projection else []):
            for start in range(0, len(order), 4096):  # in place: a kept row never moves up
                chunk = order[start : start + 4096]
                array[start : start + len(chunk)] = array[chunk]
        self._used = len(order)

    def _append(self, rows: np.ndarray, groups: np.ndarray) -> None:
        end = self._used + len(rows)
        if end > len(self._groups):
            # the last step is a long one, so that the old and the new array never exceed half more than the capacity
            double = 2 * len(self._groups)
            self._grow(self.capacity if 2 * double > self.capacity else max(end, double))
        self._rows[self._used : end] = rows
        self._groups[self._used : end] = groups
        if self.projection:
            np.matmul(rows, self._matrix, out=self._projected[self._used : end])
        self._used = end

    def _grow(self, size: int) -> None:
        def grown(array: np.ndarray) -> np.ndarray:
            larger = np.empty((size, *array.shape[1:]), array.dtype)
            larger[: self._used] = array[: self._used]
            return larger

        if size > len(self._groups):
            self._rows, self._groups = grown(self._rows), grown(self._groups)
            if self.projection:
                self._projected = grown(self._projected)
