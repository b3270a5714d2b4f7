"""How many test images the public data sets have, and which figures such counts can give at all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

#: Nothing is said about grids of more values than this: no decimal that people print would miss one.
_FINEST = 10**9


@dataclass(frozen=True)
class ImageCounts:
    """Test images of one product of a public data set, in its official split.

    classes   of defects, "combined" among them; None where defects are not sorted into classes
    combined  defective images of the class "combined", each with several defects; 0 where there is none
    """

    dataset: str
    product: str
    good: int
    defective: int
    classes: int | None
    combined: int


@lru_cache(maxsize=1)
def image_counts() -> Mapping[tuple[str, str], ImageCounts]:
    """By AnomalyHub's names of data set and product."""
    text = (resources.files("anomalyhub.benchmark") / "counts.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(io.StringIO(text)):
        dataset, product = row["dataset"], row["product"]
        classes = int(row["classes"]) if row["classes"] else None
        combined = int(row["combined"] or 0)
        found[dataset, product] = ImageCounts(
            dataset, product, int(row["good"]), int(row["defective"]), classes, combined
        )
    return MappingProxyType(found)


def products_of(dataset: str) -> tuple[str, ...]:
    """The products of a public data set, () for another one."""
    return tuple(product for name, product in image_counts() if name == dataset)


def is_possible(value: Fraction, step: Fraction, metric: str, counts: ImageCounts, shots: int, n_seeds: int) -> bool:
    """Whether the mean of a metric over seeds can be `value`, given how many images there are.

    value, step  a fraction of 1, and what its last digit stands for: up to one of them is put down to rounding
    shots        examples of each class that are no test images, for accuracy

    Accuracy is a whole number of hits divided by test images and seeds, all of which are defective ones
    (with the classes as they are, or without "combined") or all images with good ones as one class more. AUROC counts
    pairs and half pairs. F1 at its best threshold is not below that of calling everything defective. True where the
    counts say nothing.
    """
    slack = step * Fraction(1_000_001, 1_000_000)
    if metric == "image_f1_max":
        fewest = counts.defective - counts.combined
        return value >= Fraction(2 * fewest, 2 * fewest + counts.good) - slack
    for total in _totals(metric, counts, shots):
        if total <= 0 or total * n_seeds > _FINEST:
            return True
        low, high = ((value + sign * slack) * total * n_seeds for sign in (-1, 1))
        if math.floor(high) >= math.ceil(low):
            return True
    return not _totals(metric, counts, shots)


def _totals(metric: str, counts: ImageCounts, shots: int) -> tuple[int, ...]:
    """What a metric of one run may be a multiple of, one divided by each; () where that is not known."""
    if metric == "image_auroc":
        return tuple(2 * counts.good * images for images in {counts.defective, counts.defective - counts.combined})
    if counts.classes is None:
        return ()
    without = (counts.defective - counts.combined, counts.classes - bool(counts.combined))
    kinds = {(counts.defective, counts.classes), without}
    with_good = {(images + counts.good, classes + 1) for images, classes in kinds}
    if metric == "accuracy":
        return tuple(images - shots * classes for images, classes in sorted(kinds | with_good))
    return tuple(images for images, _ in sorted(kinds | with_good)) if metric == "f1" else ()
