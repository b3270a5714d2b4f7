"""From anomaly maps to masks: what all methods share, and the two plain ones, Otsu's and a fixed threshold.

    binarizer = MEBin().fit(maps)              # only the range of the scores; one map is held at a time
    found = binarizer.binarize(maps[0])        # or a map that came later

Maps of 8 bits are taken as they are. All others are mapped to 0 ... 255 by the smallest and the largest score of the
set, as published MEBin does before it starts, and truncated; a score outside that range counts as its end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import cv2
import numpy as np

from anomalyhub.config import configure
from anomalyhub.errors import InvalidArgumentError, InvalidModelError, NotFittedError
from anomalyhub.protocols import Progress
from anomalyhub.regions.threshold import as_scores
from anomalyhub.registry import Registry
from anomalyhub.types import AnomalyMap

Map = AnomalyMap | np.ndarray
B = TypeVar("B", bound="Binarizer")

binarizers: Registry = Registry("binarization method")


@dataclass(frozen=True, eq=False)
class Binarization:
    """The anomalous pixels of one map.

    mask       (H, W) bool, at the map's size: the pixels above the threshold, eroded once
    threshold  in the map's units; where MEBin finds no region, 255 for 8-bit maps and infinity for others
    n_regions  connected regions; MEBin's is its estimate, from which the regions of its mask may differ
    interval   MEBin: lowest and highest threshold with that many regions, in the map's units; None without a region
    """

    mask: np.ndarray
    threshold: float
    n_regions: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class MapRange:
    """The scores of a set of maps.

    minimum, maximum  of all maps        lowest_peak  smallest of the maps' maxima
    eight_bit         the maps are uint8 and keep their values
    """

    minimum: float
    maximum: float
    lowest_peak: float
    eight_bit: bool

    def __post_init__(self):
        if not -math.inf < self.minimum <= self.lowest_peak <= self.maximum < math.inf:
            raise InvalidArgumentError(f"minimum, lowest peak and maximum must be finite and in this order, got {self}")

    @classmethod
    def of(cls, maps: Iterable[Map], progress: Progress | None = None) -> MapRange:
        """The range of a set; errors as `Binarizer.fit` says."""
        minimum, maximum, lowest_peak, eight_bit = math.inf, -math.inf, math.inf, None
        files, total = getattr(maps, "files", None), len(maps) if isinstance(maps, Sized) else None
        for index, map in enumerate(maps):
            scores = as_array(map)
            if eight_bit not in (None, scores.dtype == np.uint8):
                which, bits = files[index] if files else f"map {index}", "more than 8" if eight_bit else "8"
                raise InvalidArgumentError(
                    f"{which} has {bits} bits, unlike those before it, so their scores cannot be compared: "
                    "give maps of one kind"
                )
            eight_bit = scores.dtype == np.uint8
            peak = float(scores.max())
            minimum, maximum = min(minimum, float(scores.min())), max(maximum, peak)
            lowest_peak = min(lowest_peak, peak)
            if progress is not None and total:
                progress((index + 1) / total, f"range of {index + 1} of {total} maps")
        if eight_bit is None:
            raise InvalidArgumentError("there are no anomaly maps to fit on: give those of the product's images")
        if minimum == maximum or maximum - minimum > float(np.finfo(np.float32).max):
            what = f"is {minimum:g}" if minimum == maximum else f"lies between {minimum:g} and {maximum:g}"
            raise InvalidArgumentError(f"every score of the maps {what}: check the detector that made them")
        return cls(minimum, maximum, lowest_peak, bool(eight_bit))

    def quantise(self, scores: np.ndarray) -> np.ndarray:
        """uint8 levels of scores as `as_array` gives them. Raises InvalidArgumentError for the other kind of map."""
        if (scores.dtype == np.uint8) != self.eight_bit:
            kinds = ("8-bit", "other")
            fitted, given = kinds if self.eight_bit else kinds[::-1]
            raise InvalidArgumentError(f"fitted on {fitted} maps, got {given}: fit on maps of the same kind")
        if self.eight_bit:
            return scores
        low, high = np.float32(self.minimum), np.float32(self.maximum)
        scaled = (scores - low) / (high - low) * np.float32(255)  # dividing first: the maximum becomes 255, not 254.99
        return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)

    def level(self, score: float) -> int:
        """The level of one score of the set."""
        return int(self.quantise(np.array([score], np.uint8 if self.eight_bit else np.float32))[0])

    def score(self, level: int) -> float:
        """The largest score whose level is not above `level`: ``scores > score(t)`` is where the levels are above t."""
        if self.eight_bit:
            return float(level)
        if level >= 255:
            return math.inf
        half, span = np.float32(0.5), np.float32(self.maximum) - np.float32(self.minimum)
        inside, above = low, _ = np.float32(self.minimum), np.float32(self.maximum)
        while inside < (middle := half * inside + half * above) < above:  # to neighbouring floats: rounding included
            if (middle - low) / span * np.float32(255) < np.float32(level + 1):
                inside = middle
            else:
                above = middle
        return float(inside)


def as_array(map: Map) -> np.ndarray:
    """(H, W) scores: uint8 as they are, anything else as float32. Raises InvalidArgumentError on NaN or infinity."""
    if isinstance(map, np.ndarray) and map.dtype == np.uint8 and map.ndim == 2 and map.size:
        return map
    scores = as_scores(map)
    if not np.isfinite(scores).all():
        raise InvalidArgumentError("scores hold infinity: leave out the image that caused it")
    return scores


def erode(image: np.ndarray, side: int) -> np.ndarray:
    """Minimum over a square of `side` pixels, uint8; what lies outside the frame does not count."""
    return cv2.erode(image, np.ones((side, side), np.uint8))


def check_between(name: str, value: float, smallest: float, largest: float) -> None:
    """Raise InvalidArgumentError unless a setting lies in a closed range."""
    if not smallest <= value <= largest:
        raise InvalidArgumentError(f"setting {name} must be between {smallest} and {largest}, got {value}")


class Binarizer:
    """Base of the methods, which add `binarize`. `fit` stores the range of a set of maps, as `range_`.

    Settings are the fields of `config_class`; sizes in pixels are pixels of the map, so that what survives erosion
    depends on the map's size.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]

    def __init__(self, **settings: Any):
        self.config = configure(self.config_class, settings)

    def fit(self: B, maps: Iterable[Map], progress: Progress | None = None) -> B:
        """Store the range of the maps, (H, W) arrays or AnomalyMaps of any sizes, read once and not kept.

        Raises InvalidArgumentError when there are no maps, one holds NaN or infinity, some but not all are of 8 bits,
        or all scores are equal; MEBin also when all maps have the same maximum.
        """
        self._set(MapRange.of(maps, progress))
        return self

    def _set(self, fitted: MapRange) -> None:
        self.range_ = fitted

    def normalise(self, map: Map) -> np.ndarray:
        """(H, W) float32 scores in [0, 1] over the range of the set, in steps of its 256 levels."""
        return self._levels(map) / np.float32(255)

    def _levels(self, map: Map) -> np.ndarray:
        if not hasattr(self, "range_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit() with the maps of the product first")
        return self.range_.quantise(as_array(map))

    def _at(self, level: int, levels: np.ndarray) -> Binarization:
        mask = erode(levels, self.config.kernel) > level
        count = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[0] - 1
        return Binarization(mask, self.range_.score(level), count)

    def to_json(self) -> dict[str, Any]:
        """Method, settings and fitted range."""
        fitted = dataclasses.asdict(self.range_)
        return {"method": self.name, "config": dataclasses.asdict(self.config), "range": fitted}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Binarizer:
        """The fitted binarizer of any method that `to_json` describes. Raises InvalidModelError."""
        try:
            binarizer = binarizers[value["method"]](**value["config"])
            binarizer._set(configure(MapRange, value["range"]))
            return binarizer
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidModelError(f"the stored binarization is damaged ({error}): fit again") from error


@dataclass(frozen=True)
class OtsuConfig:
    """Settings of Otsu's threshold."""

    kernel: int = 6  # side of the eroding square; as MEBin, so that only the thresholds are compared

    def __post_init__(self):
        check_between("kernel", self.kernel, 1, 255)


@dataclass(frozen=True)
class FixedConfig:
    """Settings of the fixed threshold."""

    value: float = 0.5  # share of the set's range: the best of 0.1, 0.3, ... 0.9 in table III of the AnomalyNCD paper
    kernel: int = 6  # side of the eroding square; as MEBin

    def __post_init__(self):
        check_between("value", self.value, 0.0, 1.0)
        check_between("kernel", self.kernel, 1, 255)


@binarizers.register
class OtsuThreshold(Binarizer):
    """Splits each map's own histogram in two (Otsu, 1979); a map of one value has no pixel above its threshold."""

    name = "otsu"
    config_class = OtsuConfig

    def binarize(self, map: Map) -> Binarization:
        """Binarize one map. Raises NotFittedError, and InvalidArgumentError as `fit` does."""
        levels = self._levels(map)
        level = int(levels.max())
        if levels.min() < level:
            level = int(cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0])
        return self._at(level, levels)


@binarizers.register
class FixedThreshold(Binarizer):
    """One threshold for all maps, at a share of the set's range."""

    name = "fixed"
    config_class = FixedConfig

    def binarize(self, map: Map) -> Binarization:
        """Binarize one map. Raises NotFittedError, and InvalidArgumentError as `fit` does."""
        return self._at(int(self.config.value * 255), self._levels(map))
