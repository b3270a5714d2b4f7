"""MEBin, main element binarization: the threshold below which the number of regions stays the same for longest.

Huang et al., AnomalyNCD: Towards Novel Anomaly Class Discovery in Industrial Scenarios, 2024, section III-B; where the
paper leaves something open, its published code decides. Results on 8-bit maps are those of that code.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.regions.binarizer import Binarization, Binarizer, Map, MapRange, binarizers, check_between, erode
from anomalyhub.regions.components import component_counts


@dataclass(frozen=True)
class MEBinConfig:
    """Settings of MEBin; the paper gives no numbers, the defaults are those of its published code."""

    kernel: int = 6  # side of the eroding square, in pixels of the map; 1 erodes nothing
    step: int = 4  # between two of the thresholds 255, 251, ... > 0, which makes 64 of them
    min_interval: int = 4  # tau: a count is stable when so many thresholds in a row give it

    def __post_init__(self):
        check_between("kernel", self.kernel, 1, 255)
        check_between("step", self.step, 1, 127)
        check_between("min_interval", self.min_interval, 1, len(self.levels))

    @property
    def levels(self) -> range:
        """The thresholds of the search, from the highest down, on the scale of 0 to 255 between the peaks."""
        return range(255, 0, -self.step)


@binarizers.register
class MEBin(Binarizer):
    """Finds each map's own threshold between the lowest and the highest peak of the set.

    At each of the thresholds the 8-connected regions of the eroded mask are counted. The count that stays for the most
    thresholds in a row is the number of regions, and the lowest of those thresholds is taken, which segments them as
    completely as is possible. A map without a stable count holds no anomaly.

    The counts come from one erosion and one pass: eroding a mask is thresholding the eroded map.

    >>> mebin = MEBin(kernel=3).fit(maps)                                 # doctest: +SKIP
    >>> found = mebin.binarize(maps[0])                                   # doctest: +SKIP
    """

    name = "mebin"
    config_class = MEBinConfig

    def _set(self, fitted: MapRange) -> None:
        low, high = fitted.level(fitted.lowest_peak), fitted.level(fitted.maximum)
        if low == high:
            raise InvalidArgumentError(
                f"all maps peak at about the same score, {fitted.maximum:g}, so MEBin has no thresholds to try: give "
                "maps of several images, not scaled one by one, or choose an Otsu or fixed threshold"
            )
        super()._set(fitted)
        self._peaks = low, high
        values = np.arange(256)
        # what published code computes for each pixel, in the same order of operations
        self._scaled = np.where(values < low, 0, np.minimum((values - low) / (high - low) * 255, 255))
        # scaled > threshold is level > cut
        self._cuts = np.searchsorted(self._scaled, self.config.levels, side="right") - 1

    def binarize(self, map: Map) -> Binarization:
        """Binarize one map. Raises NotFittedError, and InvalidArgumentError as `fit` does."""
        eroded = erode(self._levels(map), self.config.kernel)
        counts = component_counts(eroded, lowest=int(self._cuts[-1]))[self._cuts]
        found = stable_interval(counts.tolist(), self.config.min_interval)
        if found is None:
            return Binarization(np.zeros(eroded.shape, bool), self.range_.score(255), 0)
        highest, lowest = (self._level_at(self.config.levels[index]) for index in found)
        scores = self.range_.score(lowest), self.range_.score(highest)
        return Binarization(eroded > lowest, scores[0], int(counts[found[0]]), scores)

    def normalise(self, map: Map) -> np.ndarray:
        """(H, W) float32 in [0, 1]: 0 below the lowest peak of the set, 1 at the highest."""
        return (self._scaled / 255).astype(np.float32)[self._levels(map)]

    def _level_at(self, threshold: int) -> int:
        low, high = self._peaks
        return int(threshold * (high - low) / 255 + low)


def stable_interval(counts: Sequence[int], min_length: int) -> tuple[int, int] | None:
    """First and last index of the run of equal, non-zero counts that decides; None when none has `min_length`.

    Runs shorter than `min_length` do not count. The count whose longest run is longest wins; of equally long ones the
    count that had a run first. Of its longest runs the last is taken.
    """
    runs: dict[int, list[tuple[int, int]]] = {}
    start = 0
    for count, equal in itertools.groupby(counts):
        end = start + len(list(equal))
        if count and end - start >= min_length:
            runs.setdefault(count, []).append((end - start, start))
        start = end
    if not runs:
        return None
    length, start = max(max(runs.values(), key=lambda of_count: max(of_count)[0]))
    return start, start + length - 1
