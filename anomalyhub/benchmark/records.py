"""Records: one JSON file per measured unit, with all that its figures depend on, and the predictions behind them."""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from anomalyhub.errors import InvalidRecordError, UnknownNameError
from anomalyhub.fsio import atomic_file
from anomalyhub.state import jsonable

#: Raised when the meaning of a record changes.
SCHEMA = 1
KIND, FAILURE = "benchmark-unit", "benchmark-failure"
#: Folders of a run: records with their predictions, and reasons of failures.
UNITS, FAILED = "units", "failed"
PREDICTIONS = ".predictions.csv"

_IMAGE = ("image_auroc", "image_ap", "image_f1_max")
_PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
_CLUSTERS = ("nmi", "ari", "f1")
#: Metrics of a task, those of tables first. All lie in [0, 1], but the adjusted Rand index, which starts at -1.
METRICS: Mapping[str, tuple[str, ...]] = {
    "detection": (*_IMAGE, *_PIXEL),
    "discovery": (*_CLUSTERS, *(f"region_{name}" for name in _CLUSTERS)),
    "classification": ("accuracy", "balanced_accuracy"),
}
TASKS = tuple(METRICS)
PROTOCOLS = ("full", "few-shot", "zero-shot", "transductive", "inductive")

_MAX_BYTES, _MAX_TEXT, _MAX_SHOTS = 1 << 20, 300, 100_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Unit:
    """What was measured.

    task      detection, discovery or classification
    method    a registered detector, discoverer or classifier head
    variant   what tells two rows of one method apart, such as "backbone=resnet18" or "masks=ground-truth"; may be ""
    dataset   snake case: mvtec_ad, visa, mtd …, or hf:OWNER/NAME
    product   one of the data set's; the data set's own name where it has but one
    protocol  full (all normal images), few-shot, zero-shot; of discoveries transductive, or inductive: kinds of images
              that were not in the fit
    shots     detection: normal images, 0 is zero-shot, None all; classification: examples of each class; else None
    seed      fixes whatever is random; of few-shot detection also which images are the shots
    """

    task: str
    method: str
    variant: str
    dataset: str
    product: str
    protocol: str
    shots: int | None
    seed: int

    @property
    def name(self) -> str:
        """What people read: one line."""
        words = [self.task, self.method, self.variant, self.dataset, self.product]
        words += [self.protocol if self.shots is None else f"{self.shots} shots", f"seed {self.seed}"]
        return " ".join(word for word in words if word)

    def id(self, settings: Mapping[str, Any]) -> str:
        """A readable name and 8 hex digits of a digest of this and of everything else that the result depends on."""
        words = [self.task, self.method, self.variant, self.dataset, self.product, self.protocol]
        words += [f"{self.shots}shots" if self.shots is not None else "", f"seed{self.seed}"]
        slug = "-".join(re.sub(r"[^a-z0-9_.+]+", "-", word.lower()).strip("-.") for word in words if word)
        hashed = digest({"unit": asdict(self), "settings": settings})[:8]
        return f"{slug[:180]}-{hashed}"


@dataclass(frozen=True)
class Record:
    """One measured unit.

    settings   everything that the result depends on, the digest of the images' list among it
    metrics    by name of METRICS[unit.task]; None is undefined, and `why` says why
    config     name of the config file
    published  the row of a paper beside which it stands: source, table, method, variant; None where there is none
    seconds    total, and of each stage; "wall" is what this run spent, less where stages were shared with other units
    peak_gib   of resident memory               n_images   images behind the metrics
    commit     of the code's git repository, "" for an installed package
    date       ISO 8601, UTC                    command    what gives it again
    """

    unit: Unit
    settings: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    n_images: int
    config: str = ""
    published: Mapping[str, str] | None = None
    why: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_gib: float | None = None
    commit: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""
    command: str = ""

    def __post_init__(self):
        _check_unit(self.unit)
        _check_metrics(self.unit.task, self.metrics, self.why)
        if not _whole(self.n_images, 1, 10**9):
            raise InvalidRecordError(f"n_images is {self.n_images!r}: it counts the images, from 1")
        for name, value in {**self.seconds, "peak_gib": self.peak_gib}.items():
            if value is not None and not (_number(value) and 0 <= value < 1e9):
                raise InvalidRecordError(f"{name} is {value!r}: it is a number from 0")
        _check_texts(self.published or {}, "published", {"source", "table", "method", "variant"})
        texts = {"config": self.config, "commit": self.commit, "command": self.command}
        _check_texts(texts, "the record", set(texts))
        if self.date:
            try:
                datetime.datetime.fromisoformat(self.date.replace("Z", "+00:00"))
            except (AttributeError, ValueError) as error:
                raise InvalidRecordError(f"date is {self.date!r}: write it as 2026-01-31T12:00:00+00:00") from error

    @property
    def id(self) -> str:
        return self.unit.id(self.settings)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "kind": KIND, **jsonable(asdict(self))}

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """A checked record. Raises InvalidRecordError for another schema, unknown keys and impossible figures."""
        if not isinstance(value, dict) or value.get("kind") != KIND:
            found = value.get("kind") if isinstance(value, dict) else type(value).__name__
            raise InvalidRecordError(f"it holds a {found}, not a {KIND}: give a file of a run's {UNITS} folder")
        if value.get("schema") != SCHEMA or isinstance(value["schema"], bool):
            raise InvalidRecordError(
                f"its schema is {value.get('schema')!r} and this version reads {SCHEMA}: "
                "run it again, or upgrade with pip install -U anomalyhub"
            )
        content = {key: item for key, item in value.items() if key not in ("schema", "kind")}
        try:
            unit = Unit(**_known(Unit, content.pop("unit", None)))
            for key in ("settings", "metrics", "why", "seconds", "versions", "hardware"):
                if not isinstance(content.get(key, {}), dict):
                    raise InvalidRecordError(f"{key} is {content[key]!r}: it is an object")
            return cls(unit, **_known(cls, content))
        except TypeError as error:  # a key is missing
            raise InvalidRecordError(f"it is not complete ({error}): run it again") from error


def read_record(path: str | Path) -> Record:
    """The record in a file. Raises InvalidRecordError, which names the file."""
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidRecordError(f"it has more than {_MAX_BYTES} bytes: a record has a few thousand")
        return Record.from_json(json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRecordError(f"{path} is no record of a benchmark: {reason}") from error


def read_records(folder: str | Path) -> list[Record]:
    """All records of a run, or of a folder of records, by the names of their files. Raises InvalidRecordError."""
    folder = Path(folder)
    inner = folder / UNITS if (folder / UNITS).is_dir() else folder
    if not inner.is_dir():
        raise InvalidRecordError(f"{folder} is no folder: give the --out folder of a run")
    # a hidden one is being written, or was when its process was killed
    return [read_record(path) for path in sorted(inner.glob("*.json")) if not path.name.startswith(".")]


def write_record(folder: Path, record: Record, predictions: Predictions) -> Path:
    """Write FOLDER/ID.json, and before it ID.predictions.csv: where there is the one, there is the other."""
    with atomic_file(folder / f"{record.id}{PREDICTIONS}") as staged:
        predictions.write(staged)
    with atomic_file(folder / f"{record.id}.json") as staged:
        text = json.dumps(record.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        staged.write_text(text + "\n", encoding="utf-8")
    return folder / f"{record.id}.json"


@dataclass(frozen=True)
class Predictions:
    """What a method said of each image.

    columns  "id", "label" (the true one), then "score" of a detector, or "predicted" and a probability for each of
             "p:NAME"
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    def write(self, path: Path) -> None:
        """A CSV; numbers with all of their digits, so that metrics computed from it are the record's."""
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(self.rows)

    @classmethod
    def read(cls, path: str | Path) -> Predictions:
        """Rows of texts. Raises InvalidRecordError."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                columns, *rows = csv.reader(file)
        except (OSError, ValueError, csv.Error) as error:
            raise InvalidRecordError(f"{path} is no table of predictions: {error}") from error
        for number, row in enumerate(rows, 2):
            if len(row) != len(columns):
                raise InvalidRecordError(
                    f"{path}, line {number} has {len(row)} cells, not {len(columns)}: write it again"
                )
        return cls(tuple(columns), rows)

    def column(self, name: str) -> list[Any]:
        """Raises InvalidRecordError where there is none of this name."""
        if name not in self.columns:
            raise InvalidRecordError(f"the predictions have no column {name!r}: they have {', '.join(self.columns)}")
        return [row[self.columns.index(name)] for row in self.rows]


def recomputed(task: str, predictions: Predictions) -> dict[str, float | None]:
    """The image-level metrics of METRICS[task] that predictions give; pixels and regions are not among them."""
    from anomalyhub.metrics import classification_metrics, clustering_metrics, image_metrics
    from anomalyhub.types import GOOD

    labels = predictions.column("label")
    if task == "detection":
        try:
            scores = [float(score) for score in predictions.column("score")]
        except ValueError as error:
            raise InvalidRecordError(f"a score is not a number ({error}): write the predictions again") from error
        found = image_metrics([label != GOOD for label in labels], scores)
    else:
        measure = clustering_metrics if task == "discovery" else classification_metrics
        found = measure(labels, predictions.column("predicted"))
    return {name: found[name] for name in METRICS[task] if name in found}


def digest(value: Any) -> str:
    """32 hex digits that identify JSON values."""
    text = json.dumps(jsonable(value), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _known(cls: type, value: Any) -> dict[str, Any]:
    """The object, whose keys are all fields of a dataclass."""
    if not isinstance(value, dict):
        raise InvalidRecordError(f"its {cls.__name__.lower()} is {value!r}: it is an object")
    names = [one.name for one in fields(cls)]
    for key in value:
        if key not in names:
            raise InvalidRecordError(f"{UnknownNameError('key', str(key), names)}")
    return value


def _check_unit(unit: Unit) -> None:
    for name, valid in (("task", TASKS), ("protocol", PROTOCOLS)):
        if getattr(unit, name) not in valid:
            raise InvalidRecordError(str(UnknownNameError(name, str(getattr(unit, name)), valid)))
    texts = {name: getattr(unit, name) for name in ("method", "variant", "dataset", "product")}
    _check_texts(texts, "unit", set(texts))
    for name in ("method", "dataset", "product"):
        if not texts[name].strip():
            raise InvalidRecordError(f"unit.{name} is empty: name it")
    if not _whole(unit.seed, 0, 2**63):
        raise InvalidRecordError(f"unit.seed is {unit.seed!r}: it is a whole number from 0")
    if unit.shots is not None and not _whole(unit.shots, 0, _MAX_SHOTS):
        raise InvalidRecordError(f"unit.shots is {unit.shots!r}: it is a whole number up to {_MAX_SHOTS}, or null")


def _check_metrics(task: str, metrics: Mapping[str, float | None], why: Mapping[str, str]) -> None:
    if not metrics:
        raise InvalidRecordError(f"it has no metrics: give some of {', '.join(METRICS[task])}")
    for name, value in metrics.items():
        if name not in METRICS[task]:
            raise InvalidRecordError(str(UnknownNameError(f"metric of {task}", str(name), METRICS[task])))
        low = -1.0 if name.endswith("ari") else 0.0
        if value is None:
            if not why.get(name):
                raise InvalidRecordError(f"{name} is null and why says nothing of it: give the reason there")
        elif not _number(value) or not low <= value <= 1.0:
            raise InvalidRecordError(
                f"{name} is {value!r}: it lies between {low:g} and 1 (give fractions, not percent)"
            )
    _check_texts(why, "why", set(metrics))


def _check_texts(values: Mapping[str, Any], where: str, names: set[str]) -> None:
    for name, text in values.items():
        if name not in names:
            raise InvalidRecordError(str(UnknownNameError(f"key of {where}", str(name), names)))
        if not isinstance(text, str) or len(text) > _MAX_TEXT or _CONTROL.search(text):
            raise InvalidRecordError(f"{name} of {where} is {str(text)[:40]!r}: it is one line of at most {_MAX_TEXT}")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _no_constant(name: str) -> None:
    raise InvalidRecordError(f"it holds {name}, which JSON does not have: write null, and the reason under why")
