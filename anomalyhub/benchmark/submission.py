"""Results of other people: a JSON that is checked hard, and recomputed where predictions come with it.

`EXAMPLE` is one: who has it, the method (with a variant that tells it from others of its name, an address of a paper or
code, and notes, if there are any), and a row for each product of a task, data set, protocol and number of shots.

Figures are fractions of 1, rounded as is meant; one with fewer digits than most is taken to end in zeros. Tasks,
protocols, shots and metrics are those of records.
The product "mean" is the macro mean over the products of its other rows. `seeds` counts the runs that a figure is the
mean of, `std` is their sample deviation, `seconds` one run's fit and prediction. `predictions` are tables as a
benchmark leaves them beside its records, one for each seed, in the folder of the JSON: columns id, label (the true one;
"good" is normal), and score for detection, predicted for the others. Keys without a value may be left out.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from anomalyhub.benchmark.counts import image_counts, products_of
from anomalyhub.benchmark.published import MEAN, dataset_name
from anomalyhub.benchmark.recheck import Truth, check_means, check_possible, recheck
from anomalyhub.benchmark.records import METRICS, PROTOCOLS, TASKS, digest
from anomalyhub.benchmark.rows import SUBMITTED, Row, Value
from anomalyhub.errors import AnomalyHubError, InvalidRecordError, UnknownNameError

SCHEMA, KIND = 1, "benchmark-submission"

#: A submission: five runs that are right in 194 of 240 cases, and one run with its predictions in a file.
EXAMPLE: Mapping[str, Any] = {
    "schema": SCHEMA,
    "kind": KIND,
    "by": "Ada Lovelace",
    "method": "My method",
    "variant": "backbone=resnet50",
    "url": "https://example.org/paper",
    "notes": "What a reader has to know to compare it.",
    "rows": [
        {
            "task": "classification",
            "dataset": "mvtec_ad",
            "product": "bottle",
            "protocol": "few-shot",
            "shots": 5,
            "seeds": 5,
            "metrics": {"accuracy": 0.8083},
            "std": {"accuracy": 0.0349},
            "seconds": 3.2,
        },
        {
            "task": "detection",
            "dataset": "mtd",
            "product": "mtd",
            "protocol": "full",
            "seeds": 1,
            "metrics": {"image_auroc": 0.9763, "pixel_auroc": 0.8217},
            "predictions": ["mtd.csv"],
        },
    ],
}

_MAX_BYTES, _MAX_ROWS, _MAX_SEEDS, _MAX_DIGITS = 1 << 20, 2000, 1000, 20
_MAX_NAME, _MAX_NOTES = 120, 1000
_KEYS = ("schema", "kind", "by", "method", "variant", "url", "notes", "rows")
_ROW_KEYS = ("task", "dataset", "product", "protocol", "shots", "seeds", "metrics", "std", "seconds", "predictions")
_SAMPLE = "sample"


@dataclass(frozen=True)
class SubmittedRow:
    """One product's figures under one protocol, or their mean over products.

    metrics, std  fractions of 1 with the digits that were written        seeds  runs that they are over
    predictions   file names, one per seed                                checked  metrics that were recomputed
    """

    task: str
    dataset: str
    product: str
    protocol: str
    shots: int | None
    seeds: int
    metrics: Mapping[str, Decimal]
    std: Mapping[str, Decimal] = field(default_factory=dict)
    seconds: float | None = None
    predictions: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, int | None]:
        """What rows of one mean share."""
        return self.task, self.dataset, self.protocol, self.shots

    @property
    def name(self) -> str:
        shots = "" if self.shots is None else f", {self.shots} shots"
        return f"{self.task} of {self.dataset} {self.product}, {self.protocol}{shots}"


@dataclass(frozen=True)
class Submission:
    """A checked submission.

    id       16 hex digits of its content         against  what the labels of its predictions were compared with
    """

    by: str
    method: str
    variant: str
    url: str
    notes: str
    rows: tuple[SubmittedRow, ...]
    id: str
    against: str = ""


def read_submission(path: str | Path, truth: Truth | None = None) -> Submission:
    """Read a submission and check all of it.

    truth  the data sets that are at hand; the labels and images of predictions must be theirs
    Raises InvalidRecordError, which names the file and the row.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidRecordError(f"it has more than {_MAX_BYTES} bytes: leave out what is no figure")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
        return _parse(content, path.parent, truth)
    except (OSError, ValueError, RecursionError, AnomalyHubError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRecordError(f"{path} is refused: {reason}") from error


def _parse(content: Any, folder: Path, truth: Truth | None) -> Submission:
    _check_keys(content, _KEYS, "submission")
    if content.get("kind") != KIND or content.get("schema") != SCHEMA or isinstance(content["schema"], bool):
        raise InvalidRecordError(
            f'it is not of "kind": "{KIND}", "schema": {SCHEMA}: see what anomalyhub leaderboard submit --form prints'
        )
    texts = {
        name: _text(content.get(name, ""), name, _MAX_NOTES if name == "notes" else _MAX_NAME)
        for name in ("by", "method", "variant", "url", "notes")
    }
    for name in ("by", "method"):
        if not texts[name]:
            raise InvalidRecordError(f"{name} is empty: say it")
    if texts["url"] and not texts["url"].startswith(("https://", "http://")):
        raise InvalidRecordError(f"url is {texts['url']!r}: begin it with https://")
    listed = content.get("rows")
    if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_ROWS:
        raise InvalidRecordError(f"rows is no list of 1 to {_MAX_ROWS} rows: give the figures there")
    rows = [_at(number, lambda value=value: _row(value)) for number, value in enumerate(listed, 1)]
    rows, against, seen = _padded(rows), set(), {}
    for number, row in enumerate(rows, 1):
        if (where := seen.setdefault((*row.key, row.product), number)) != number:
            raise InvalidRecordError(f"row {number}: {row.name} is row {where} too: give it once")
        rows[number - 1], compared = _at(number, lambda row=row: _checked(row, folder, truth))
        against |= {compared} if compared else set()
    check_means(rows)
    plain = json.loads(json.dumps([content, [row.metrics for row in rows]], default=str))
    return Submission(**texts, rows=tuple(rows), id=digest(plain)[:16], against=", ".join(sorted(against)))


T = TypeVar("T")


def _at(number: int, step: Callable[[], T]) -> T:
    """What a step gives; its errors name the row."""
    try:
        return step()
    except AnomalyHubError as error:
        raise InvalidRecordError(f"row {number}: {error}") from error


def _checked(row: SubmittedRow, folder: Path, truth: Truth | None) -> tuple[SubmittedRow, str]:
    row, compared = recheck(row, folder, truth)
    check_possible(row)
    return row, compared


def _padded(rows: list[SubmittedRow]) -> list[SubmittedRow]:
    """The rows with all figures as long as most are: JSON has no zeros at the end of a number."""
    for name in ("metrics", "std"):
        lengths = [_digits(figure) for row in rows for figure in getattr(row, name).values()]
        usual = statistics.mode(lengths) if lengths else 0
        rows = [
            dataclasses.replace(row, **{name: {key: _pad(figure, usual) for key, figure in getattr(row, name).items()}})
            for row in rows
        ]
    return rows


def _digits(figure: Decimal) -> int:
    return max(0, -int(figure.as_tuple().exponent))


def _pad(figure: Decimal, digits: int) -> Decimal:
    """A whole number stays exact."""
    return figure.quantize(Decimal(1).scaleb(-digits)) if 0 < _digits(figure) < digits else figure


def _row(value: Any) -> SubmittedRow:
    _check_keys(value, _ROW_KEYS, "row")
    task = _one_of(value.get("task"), "task", TASKS)
    protocol = _one_of(value.get("protocol"), "protocol", PROTOCOLS)
    dataset = dataset_name(_text(value.get("dataset", ""), "dataset", _MAX_NAME))
    known = sorted({name for name, _ in image_counts()} | {_SAMPLE})
    if dataset not in known:
        raise UnknownNameError("data set", dataset, known)
    product = _text(value.get("product", ""), "product", _MAX_NAME)
    products = _products(dataset)
    if product not in (*products, MEAN):
        raise UnknownNameError(f"product of {dataset}", product, {*products, MEAN})
    shots = value.get("shots")
    if shots is not None:
        shots = _whole(shots, "shots", 0, 10_000)
    _check_shots(task, protocol, shots)
    seeds = _whole(value.get("seeds"), "seeds", 1, _MAX_SEEDS)
    metrics = _figures(value.get("metrics"), task, "metrics")
    std = _figures(value.get("std"), task, "std")
    for name, deviation in std.items():
        if name not in metrics:
            raise InvalidRecordError(f"std has {name} and metrics has not: give both")
        if seeds == 1:
            raise InvalidRecordError(f"std of {name} is {deviation}, and seeds is 1: one run has no deviation")
    seconds = value.get("seconds")
    if seconds is not None and not (_is_number(seconds) and 0 <= seconds < 10**9):
        raise InvalidRecordError(f"seconds is {seconds}: it is a number from 0")
    predictions = _file_names(value.get("predictions"), seeds)
    if predictions and product == MEAN:
        raise InvalidRecordError("predictions are of a product, not of a mean: give them in its rows")
    if not metrics and not predictions:
        raise InvalidRecordError("it has neither metrics nor predictions: give one of them")
    seconds = None if seconds is None else float(seconds)
    return SubmittedRow(task, dataset, product, protocol, shots, seeds, metrics, std, seconds, predictions)


def _products(dataset: str) -> tuple[str, ...]:
    if dataset != _SAMPLE:
        return products_of(dataset)
    from anomalyhub.data.sample import PRODUCTS

    return tuple(PRODUCTS)


def _check_shots(task: str, protocol: str, shots: int | None) -> None:
    fits = {
        "full": shots is None,
        "few-shot": shots is not None and shots >= 1,
        "zero-shot": shots == 0,
        "transductive": shots is None,
        "inductive": shots is None,
    }
    allowed = {"detection": ("full", "few-shot", "zero-shot"), "classification": ("few-shot",)}
    if protocol not in allowed.get(task, ("transductive", "inductive")):
        raise InvalidRecordError(f"{task} has no protocol {protocol}")
    if not fits[protocol]:
        given = "null" if shots is None else shots
        raise InvalidRecordError(f"shots is {given}, which is not {protocol}: few-shot from 1, zero-shot 0, else null")


def _figures(value: Any, task: str, where: str) -> dict[str, Decimal]:
    """Figures by metric, within their range."""
    if not isinstance(value or {}, dict):
        raise InvalidRecordError(f"{where} is no object: give the figures by their metrics")
    found = {}
    for name, figure in (value or {}).items():
        if name not in METRICS[task]:
            raise UnknownNameError(f"metric of {task}", name, METRICS[task])
        low = -1 if name.endswith("ari") and where == "metrics" else 0
        if not _is_number(figure) or not low <= figure <= 1:
            raise InvalidRecordError(
                f"{name} of {where} is {figure}: it lies between {low} and 1 (a fraction, no percent)"
            )
        found[name] = Decimal(figure)
        if _digits(found[name]) > _MAX_DIGITS:
            raise InvalidRecordError(f"{name} of {where} has more than {_MAX_DIGITS} digits: round it")
    return found


def submitted_rows(submission: Submission) -> list[Row]:
    """What a leaderboard shows of a submission."""
    groups: dict[tuple, list[SubmittedRow]] = {}
    for row in submission.rows:
        groups.setdefault(row.key, []).append(row)
    return [_shown(submission, rows) for rows in groups.values()]


def _shown(submission: Submission, rows: list[SubmittedRow]) -> Row:
    first, products = rows[0], {}
    for row in rows:
        products[row.product] = {
            name: Value(float(mean), float(row.std[name]) if name in row.std else None, row.seeds)
            for name, mean in row.metrics.items()
        }
    notes = [submission.notes, submission.url]
    if MEAN not in products:
        products[MEAN] = _mean_of(products, first.dataset)
    elif len(products) == 1:
        notes.append("only the mean over products is given")
    seconds = [row.seconds for row in rows if row.seconds is not None]
    checked = sorted({name for row in rows for name in row.checked})
    return Row(
        SUBMITTED,
        *(first.task, first.dataset, first.protocol, submission.method, submission.variant, first.shots),
        products=products,
        seconds=Value(statistics.fmean(seconds), None, first.seeds) if seconds else Value(None),
        source=submission.by,
        notes=tuple(note for note in notes if note),
        checked=f"{', '.join(checked)} recomputed, {submission.against}" if checked else "",
    )


def _mean_of(products: Mapping[str, Mapping[str, Value]], dataset: str) -> dict[str, Value]:
    """The macro mean where all products of the data set are there."""
    lacking = sorted(set(_products(dataset)) - products.keys())
    names = dict.fromkeys(name for table in products.values() for name in table)
    means = {}
    for name in names:
        values = [table[name].mean for table in products.values() if name in table]
        whole = not lacking and len(values) == len(products)
        why = f"not over all products: without {', '.join(lacking)}" if lacking else "not of all products"
        means[name] = Value(statistics.fmean(values)) if whole else Value(None, None, 0, why)
    return means


def _check_keys(value: Any, known: tuple[str, ...], what: str) -> None:
    if not isinstance(value, dict):
        raise InvalidRecordError(f"the {what} is no object: see what anomalyhub leaderboard submit --form prints")
    for key in value:
        if key not in known:
            raise UnknownNameError(f"key of a {what}", key, known)


def _text(value: Any, name: str, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise InvalidRecordError(f"{name} is no line of at most {most} letters: shorten it")
    return value.strip()


def _one_of(value: Any, kind: str, valid: tuple[str, ...]) -> str:
    if value not in valid:
        raise UnknownNameError(kind, str(value), valid)
    return value


def _whole(value: Any, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidRecordError(f"{name} is {value}: it is a whole number from {low} to {high}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def _file_names(value: Any, seeds: int) -> tuple[str, ...]:
    names = [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidRecordError("predictions is no list of file names: give one for each seed")
    for name in names:
        if Path(name).name != name or not name.endswith(".csv") or "\\" in name or not name.isprintable():
            raise InvalidRecordError(f"predictions has {name!r}: name a .csv file beside the JSON")
    if names and (len(names) != seeds or len(set(names)) < len(names)):
        raise InvalidRecordError(f"predictions has {len(names)} files and seeds is {seeds}: give one for each seed")
    return tuple(names)


def _no_constant(name: str) -> None:
    raise InvalidRecordError(f"it holds {name}, which JSON does not have: leave the figure out")
