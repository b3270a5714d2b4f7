"""What is checked of somebody's figures: whether there can be such, and whether their predictions give them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyhub.benchmark.counts import ImageCounts, image_counts, is_possible
from anomalyhub.benchmark.published import MEAN
from anomalyhub.benchmark.records import Predictions, recomputed
from anomalyhub.benchmark.rows import Value
from anomalyhub.errors import InvalidRecordError
from anomalyhub.types import GOOD

if TYPE_CHECKING:
    from anomalyhub.benchmark.submission import SubmittedRow

#: True labels of a product's test images by id; None where the data set is not at hand.
Truth = Callable[[str, str], Mapping[str, str] | None]
_MAX_PREDICTIONS = 32 << 20


def step_of(figure: Decimal) -> Decimal:
    """What the last digit of a figure stands for; a whole number is exact."""
    exponent = int(figure.as_tuple().exponent)
    return Decimal(1).scaleb(exponent) if exponent < 0 else Decimal(0)


def recheck(row: SubmittedRow, folder: Path, truth: Truth | None) -> tuple[SubmittedRow, str]:
    """The row with what its predictions give, and what their labels were compared with.

    Raises InvalidRecordError where a figure is not what the predictions give.
    """
    if not row.predictions:
        return row, ""
    labels = None if truth is None else truth(row.dataset, row.product)
    per_seed = []
    for name in row.predictions:
        try:
            path = folder / name
            if path.is_symlink() or path.stat().st_size > _MAX_PREDICTIONS:
                raise InvalidRecordError(f"{name} is a link, or larger than {_MAX_PREDICTIONS} bytes: give a table")
            table = Predictions.read(path)
        except OSError as error:
            raise InvalidRecordError(f"predictions {name} cannot be read ({error.strerror}): put it there") from error
        _check_images(row, name, table, labels)
        per_seed.append(recomputed(row.task, table))
    metrics, std = dict(row.metrics), dict(row.std)
    known = [metric for metric in per_seed[0] if all(one[metric] is not None for one in per_seed)]
    for metric in known:
        value = Value.over([one[metric] for one in per_seed])
        for kind, figures, found in (("mean", metrics, value.mean), ("std", std, value.std)):
            given = figures.get(metric)
            if given is not None and abs(float(given) - found) > float(step_of(given)) + 1e-9:
                raise InvalidRecordError(
                    f"{metric} ({kind}) is {given}, and the predictions give {found:.6f}: give what they give"
                )
            if given is None and found is not None:
                figures[metric] = Decimal(repr(round(found, 9)))
    compared = "labels as submitted" if labels is None else "labels of the data set"
    return dataclasses.replace(row, metrics=metrics, std=std, checked=tuple(known)), compared


def _check_images(row: SubmittedRow, name: str, table: Predictions, labels: Mapping[str, str] | None) -> None:
    """The images of predictions are test images, each once, and as many as there are."""
    ids, own = table.column("id"), table.column("label")
    if len(set(ids)) < len(ids) or not ids:
        raise InvalidRecordError(f"{name} has no image, or one twice: give each test image once")
    if labels is not None:
        for image, label in zip(ids, own, strict=True):
            if labels.get(image) != label:
                what = f"is {labels[image]!r}" if image in labels else "is no test image"
                raise InvalidRecordError(f"{name} calls {image} {label!r}, which {what} in {row.dataset}")
    counts = image_counts().get((row.dataset, row.product))
    if labels is not None:
        kinds = len({label for label in labels.values() if label != GOOD})
        good = sum(label == GOOD for label in labels.values())
        combined = sum(label == "combined" for label in labels.values())
        counts = ImageCounts(row.dataset, row.product, good, len(labels) - good, kinds, combined)
    if counts is None:
        return
    good = own.count(GOOD)
    found = (good, len(own) - good)
    if found not in _expected(row, counts):
        raise InvalidRecordError(
            f"{name} has {found[0]} good and {found[1]} defective images, and {row.dataset} {row.product} has "
            f"{counts.good} and {counts.defective} in its test: predict all of them"
        )


def _expected(row: SubmittedRow, counts: ImageCounts) -> set[tuple[int, int]]:
    """Good and defective images that a protocol may have, with and without "combined"."""
    kinds = {(counts.defective, counts.classes), (counts.defective - counts.combined, (counts.classes or 0) - 1)}
    found = {(counts.good, counts.defective), (counts.good, counts.defective - counts.combined)}
    if row.task == "classification" and counts.classes is not None:
        shots = row.shots or 0
        found = {
            (good, images - shots * (classes or 0)) for images, classes in kinds for good in (0, counts.good - shots)
        }
    elif row.task == "discovery":
        found |= {(0, images) for images, _ in kinds}
    return found


def check_possible(row: SubmittedRow) -> None:
    """Raise InvalidRecordError for a figure that the number of test images, or of runs, cannot give."""
    for name, deviation in row.std.items():
        low = -1 if name.endswith("ari") else 0
        mean = float(row.metrics[name])
        most = ((mean - low) * (1 - mean) * row.seeds / (row.seeds - 1)) ** 0.5 if row.seeds > 1 else 0.0
        if float(deviation) > most + float(step_of(deviation) + step_of(row.metrics[name])) + 1e-9:
            raise InvalidRecordError(
                f"std of {name} is {deviation}: {row.seeds} values with mean {mean:g} have at most {most:.4f}"
            )
    counts = image_counts().get((row.dataset, row.product))
    if counts is None or row.protocol == "inductive":
        return
    for name, figure in row.metrics.items():
        if not is_possible(Fraction(figure), Fraction(step_of(figure)), name, counts, row.shots or 0, row.seeds):
            raise InvalidRecordError(
                f"{name} is {figure}: {row.dataset} {row.product} has {counts.good} good and {counts.defective} "
                f"defective test images, and no {row.seeds} runs on them give that: check it, and the seeds and shots"
            )


def check_means(rows: Sequence[SubmittedRow]) -> None:
    """Raise InvalidRecordError for a mean that its rows do not give."""
    for mean in (row for row in rows if row.product == MEAN):
        parts = [row for row in rows if row.key == mean.key and row.product != MEAN]
        for name, figure in mean.metrics.items():
            values = [row.metrics[name] for row in parts if name in row.metrics]
            if not values:
                continue
            if len(values) < len(parts):
                raise InvalidRecordError(
                    f"{mean.name}: {name} is a mean, and some of its rows lack it: give all or none"
                )
            found = statistics.fmean(map(float, values))
            slack = step_of(figure) + max(map(step_of, values))
            if abs(float(figure) - found) > float(slack) + 1e-9:
                raise InvalidRecordError(
                    f"{mean.name}: {name} is {figure}, and its {len(values)} rows give {found:.5f}"
                )
