"""A threshold that needs no defects: what held-out normal images score, and how often they would score more."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from anomalyhub.errors import InvalidArgumentError

Method = Literal["normals", "unlabelled", "f1_max", "cost", "manual"]
_EULER = 0.5772156649015329
# The upper tail is taken 1 + _CAUTION / n times as wide as n unlabelled images show it: on simulated Gumbel samples, a
# chosen rate of 1 % then comes out as 2 % with 10 images and 1.4 % with 20.
_CAUTION = 8.0
# A quantile plot is less straight than 1 - _UNLIKE / n for one in a hundred simulated samples of a single Gumbel.
_UNLIKE = 6.5


@dataclass(frozen=True, eq=False)
class Calibration:
    """Image scores of held-out normal images and the operating point chosen from them, or given.

    scores            (n,) float32 image scores of normal images by a detector that had not seen them, n at least 2
    peaks             (n,) float32 maxima of their maps
    threshold         an image is anomalous when its score exceeds it
    false_alarm_rate  the rate that the threshold was chosen for; None when it was chosen otherwise
    method            "normals": conformal quantile of the scores; "unlabelled": the same of what most images score;
                      "f1_max", "cost": from labelled defects; "manual"
    source            what the scores are of, "normals" or "unlabelled": see `from_unlabelled`

    Conformal prediction (Vovk et al., 2005; Bates et al., Annals of Statistics 2023): among exchangeable normal images
    at most `false_alarm_rate` score above the k-th smallest held-out score, k = ceil((n + 1)(1 - rate)). Rates below
    1 / (n + 1) lie beyond the largest held-out score; there the tail of a Gumbel distribution, the law of maxima such
    as an image's largest patch distance, fitted by L-moments (Hosking, 1990), continues it.
    """

    scores: np.ndarray
    peaks: np.ndarray
    threshold: float
    false_alarm_rate: float | None = 0.01
    method: Method = "normals"
    source: Literal["normals", "unlabelled"] = "normals"

    def __post_init__(self):
        if len(self.scores) < 2 or len(self.scores) != len(self.peaks):
            raise InvalidArgumentError(f"a calibration needs at least 2 held-out images, got {len(self.scores)}")
        if not math.isfinite(self.threshold):
            raise InvalidArgumentError(
                f"the threshold must be a finite number, got {self.threshold}: give an image score"
            )

    @classmethod
    def from_normals(cls, scores: np.ndarray, peaks: np.ndarray, false_alarm_rate: float = 0.01) -> Calibration:
        """The operating point at a false-alarm rate in (0, 1)."""
        threshold = _quantile(np.sort(scores), false_alarm_rate) if len(scores) >= 2 else math.nan
        return cls(np.asarray(scores), np.asarray(peaks), threshold, false_alarm_rate, "normals")

    @classmethod
    def from_unlabelled(cls, scores: np.ndarray, peaks: np.ndarray, false_alarm_rate: float = 0.01) -> Calibration:
        """The same where nobody has said which images are normal; at least half of them should be.

        A Gumbel distribution is fitted to the lower half of the scores by its quantiles, the share of normal images
        is taken to be what it explains, and the fit repeated with that share until it stays (an empirical null: Efron,
        JASA 2004). Its quantiles then stand for the scores of normal images. Where it does not fit, and the lowest
        scores form a group of their own, the normal images are taken to be that group.
        """
        if len(scores) < 2:
            raise InvalidArgumentError(f"a threshold needs at least 2 images, got {len(scores)}")
        made = cls.from_normals(_normal_part(scores), _normal_part(peaks), false_alarm_rate)
        return replace(made, method="unlabelled", source="unlabelled")

    def at_rate(self, false_alarm_rate: float) -> Calibration:
        """The same held-out scores at another false-alarm rate."""
        made = Calibration.from_normals(self.scores, self.peaks, false_alarm_rate)
        return replace(made, method=self.source, source=self.source)

    def at_threshold(self, threshold: float, method: Method = "manual") -> Calibration:
        """The same held-out scores with a threshold chosen otherwise."""
        return replace(self, threshold=float(threshold), false_alarm_rate=None, method=method)

    def p_value(self, score: float) -> float:
        """In (0, 1]: about the share of normal images that score at least as high."""
        ordered = np.sort(self.scores)
        n = len(ordered)
        above = n - int(np.searchsorted(ordered, score, side="left"))
        if above:
            return (1 + above) / (n + 1)
        location, scale = _gumbel(ordered)
        # beyond the largest: 1 / (n + 1) there, falling as the fitted tail does; never 0
        ratio = _tail((score - location) / scale) / _tail((ordered[-1] - location) / scale)
        return max(ratio / (n + 1), 1e-9)

    @property
    def resolvable(self) -> bool:
        """Whether there are enough held-out images for the rate, so that no tail had to be assumed."""
        return self.false_alarm_rate is not None and (len(self.scores) + 1) * self.false_alarm_rate >= 1

    @property
    def map_ratio(self) -> float:
        """Threshold for map pixels divided by the one for image scores.

        Smoothing lowers a map's maximum below the image score; the ratio keeps false regions as rare as false alarms.
        """
        return _quantile(np.sort(self.peaks), 0.01) / max(_quantile(np.sort(self.scores), 0.01), 1e-12)

    def map_threshold(self, threshold: float, slope: float | None = None) -> float:
        """The map value that belongs to an image threshold: proportional, or with the `slope` of map over score."""
        if slope is None:
            return threshold * self.map_ratio
        offset = threshold - _quantile(np.sort(self.scores), 0.01)
        return _quantile(np.sort(self.peaks), 0.01) + slope * offset

    def to_json(self) -> dict[str, Any]:
        """What a saved inspector keeps beside the detector's own scores."""
        return {"threshold": self.threshold, "false_alarm_rate": self.false_alarm_rate, "method": self.method}


def _quantile(ordered: np.ndarray, rate: float) -> float:
    if not 0.0 < rate < 1.0:
        raise InvalidArgumentError(f"the false-alarm rate must lie between 0 and 1, got {rate}: 0.01 is 1 %")
    n = len(ordered)
    rank = math.ceil((n + 1) * (1.0 - rate) - 1e-9)
    if rank <= n:
        return float(ordered[max(rank, 1) - 1])
    location, scale = _gumbel(ordered)
    beyond = rate * (n + 1) * _tail((float(ordered[-1]) - location) / scale)
    return float(location - scale * math.log(-math.log1p(-beyond)))


def _normal_part(values: np.ndarray) -> np.ndarray:
    """(n,) float32 evenly spaced quantiles of a Gumbel distribution fitted to the lower scores among n `values`."""
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    location, scale, likeness = _lower_fit(ordered, 1.0, 0.5)
    if likeness < 1.0 - _UNLIKE / n:  # most images cannot be normal: is the lowest group one of its own?
        group = _lower_fit(ordered, 0.25, 0.0)
        location, scale, _ = max((location, scale, likeness), group, key=lambda fit: fit[2])
    ranks = np.arange(1, n + 1) / (n + 1)
    spread = -np.log(-np.log(ranks))
    wider = np.where(spread > 0, 1 + _CAUTION / n, 1.0)
    return (location + scale * wider * spread).astype(np.float32)


def _lower_fit(ordered: np.ndarray, share: float, least: float) -> tuple[float, float, float]:
    """Location and scale of a Gumbel distribution, and how straight its quantile plot is (squared correlation).

    share  of the images that are normal, to begin with; the lower half of these is fitted, and the share becomes what
           that explains, at least `least`, until it stays
    """
    n = len(ordered)
    for _ in range(20):
        lower = ordered[: max(2, math.ceil(share * n / 2))]
        ranks = (np.arange(len(lower)) + 0.56) / (share * n + 0.12)  # Gringorten's plotting positions
        spread = -np.log(-np.log(ranks))
        scale, location = np.polyfit(spread, lower, 1)
        residual, total = lower - location - scale * spread, lower - lower.mean()
        likeness = 1.0 - float(residual @ residual) / max(float(total @ total), 1e-24)
        scale = max(float(scale), 1e-3 * abs(float(ordered.mean())), 1e-12)
        explained = float(np.mean(ordered <= location - scale * math.log(-math.log(0.99)))) / 0.99
        share, before = min(1.0, max(least, explained)), share
        if abs(share - before) < 0.5 / n:
            break
    return float(location), scale, likeness


def _gumbel(ordered: np.ndarray) -> tuple[float, float]:
    """Location and scale by L-moments; a constant sample gets a narrow tail."""
    values = ordered.astype(np.float64)
    n = len(values)
    second = float((2.0 * np.arange(n) - n + 1.0) @ values) / (n * (n - 1))
    scale = max(second / math.log(2.0), 1e-3 * abs(float(values.mean())), 1e-12)
    return float(values.mean()) - _EULER * scale, scale


def _tail(standardised: float) -> float:
    """1 - exp(-exp(-x)), the share of a Gumbel distribution above x, without cancellation."""
    return -math.expm1(-math.exp(-min(max(standardised, -30.0), 700.0)))
