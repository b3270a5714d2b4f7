"""The leaderboard: what was measured here, what is published and what others have submitted, each marked as such.

A results folder, or a repository of one in a store, holds runs of the benchmark anywhere in it and submissions:

    RUN/units/ID.json, RUN/units/ID.predictions.csv
    submissions/ID/submission.json, submissions/ID/*.csv
"""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from anomalyhub.benchmark.published import MEAN, dataset_name
from anomalyhub.benchmark.recheck import Truth
from anomalyhub.benchmark.records import (
    METRICS,
    PREDICTIONS,
    TASKS,
    UNITS,
    Predictions,
    read_records,
    recomputed,
)
from anomalyhub.benchmark.rows import ABLATION, OURS, PUBLISHED, SUBMITTED, Row, Value, published_rows
from anomalyhub.benchmark.submission import Submission, read_submission, submitted_rows
from anomalyhub.benchmark.table import HEADLINE, load
from anomalyhub.errors import (
    AnomalyHubError,
    InvalidArgumentError,
    InvalidDatasetError,
    InvalidRecordError,
    StoreError,
    UnknownNameError,
)
from anomalyhub.fsio import atomic_folder
from anomalyhub.hub import BaseStore, create_store
from anomalyhub.protocols import Progress
from anomalyhub.report.tables import safe_label

SUBMISSIONS, SUBMISSION = "submissions", "submission.json"
ORIGINS = (OURS, PUBLISHED, SUBMITTED)
#: What can be sorted by besides metrics.
TEXTS = ("method", "dataset", "shots", "source")
_HUB = "hf:"
_MAX_SUBMISSIONS = 10_000
_SAME = 1e-6


@dataclass(frozen=True)
class Board:
    """All rows, and what could not be read and is left out, a sentence for each."""

    rows: tuple[Row, ...]
    notices: tuple[str, ...] = ()


def read_board(
    results: Sequence[str | Path] = (),
    *,
    published: bool = True,
    store: str | BaseStore = "hub",
    truth: Truth | None = None,
    progress: Progress | None = None,
) -> Board:
    """Rows of results folders, of runs of the benchmark, and of the literature.

    results  folders, or hf:OWNER/NAME for a repository in `store`
    truth    the data sets that are at hand, for labels of submissions: see `read_submission`
    A submission that is not valid is left out with a notice; so is a run of a repository, where its predictions are
    computed again too. Raises InvalidRecordError for a folder that holds neither
    results nor submissions, StoreError.
    """
    rows: list[Row] = []
    notices: list[str] = []
    for one in results:
        folder = results_folder(one, store, progress)
        found, more = read_results(folder, str(one), truth)
        rows += found
        notices += more
    return Board((*rows, *(_published() if published else ())), tuple(notices))


def read_results(folder: Path, name: str, truth: Truth | None = None) -> tuple[list[Row], list[str]]:
    """Rows of a folder, and what was left out. What is from a store ("hf:…" as its name) is somebody else's: it says
    so, and a run that is damaged is left out. Raises InvalidRecordError."""
    if not folder.is_dir():
        raise InvalidRecordError(f"{name} is no folder: give a run's, one of several, or hf:OWNER/NAME")
    rows: list[Row] = []
    notices: list[str] = []
    runs = sorted({path.parent for path in folder.rglob(UNITS) if path.is_dir()})
    submissions = _submissions(folder)
    if not runs and not submissions:
        raise InvalidRecordError(f"{name} has no results and no submissions: give the --out folder of eval/run.py")
    for run in runs:  # one by one: two runs may have other settings
        if not name.startswith(_HUB):
            rows += load([run])
            continue
        try:
            check_predictions(run)
            rows += [replace(row, source=f"{row.source}, {name}".lstrip(", ")) for row in load([run])]
        except AnomalyHubError as error:
            notices.append(f"left out: {error}")
    for path in submissions[:_MAX_SUBMISSIONS]:
        try:
            rows += submitted_rows(read_submission(path, truth))
        except AnomalyHubError as error:
            notices.append(f"left out: {error}")
    return rows, notices


def check_predictions(run: Path) -> None:
    """Raise InvalidRecordError where a record's figures are not what the predictions beside it give."""
    for record in read_records(run):
        path = run / UNITS / f"{record.id}{PREDICTIONS}"
        if path.is_file():
            for metric, found in recomputed(record.unit.task, Predictions.read(path)).items():
                given = record.metrics.get(metric)
                if given is not None and (found is None or abs(given - found) > _SAME):
                    raise InvalidRecordError(f"{path} gives {metric} {found}, and its record has {given}: run it again")


def _submissions(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"**/{SUBMISSIONS}/*/{SUBMISSION}"))


@lru_cache(maxsize=1)
def _published() -> tuple[Row, ...]:
    return tuple(row for row in published_rows() if row.metrics)


def results_folder(results: str | Path, store: str | BaseStore = "hub", progress: Progress | None = None) -> Path:
    """A local folder of results; a repository's newest revision is pulled into the cache. Raises StoreError."""
    text = str(results)
    if not text.startswith(_HUB):
        return Path(results).expanduser()
    return create_store(store).pull(text.removeprefix(_HUB), "dataset", progress=progress).folder


def select(
    rows: Iterable[Row],
    *,
    task: str | None = None,
    dataset: str | None = None,
    shots: int | str | None = None,
    metric: str | None = None,
    product: str = MEAN,
    origin: str | None = None,
    search: str = "",
    ablations: bool = True,
) -> list[Row]:
    """The rows that have all of this.

    dataset  however it is written                   shots    a number, or "all": no shots
    metric   one that the row has for `product`      product  one that the row has
    search   words, each of which is somewhere in the row's names, source and notes, whatever their case
    ablations  rows that compare parts of a method, too
    Raises UnknownNameError for a name that no row has, and for a task, metric or origin that there is not.
    """
    rows, words = list(rows), search.lower().split()
    wanted = None if dataset is None else dataset_name(dataset)
    for kind, name, valid in (
        ("task", task, TASKS),
        ("metric", metric, {name for names in METRICS.values() for name in names}),
        ("origin", origin, ORIGINS),
        ("data set of the leaderboard", wanted, {row.dataset for row in rows}),
        ("product of the leaderboard", product, {MEAN, *(name for row in rows for name in row.products)}),
    ):
        if name is not None and name not in valid:
            raise UnknownNameError(kind, name, valid)
    count = _shots(shots)
    return [
        row
        for row in rows
        if task in (None, row.task)
        and wanted in (None, row.dataset)
        and origin in (None, row.origin)
        and (shots is None or row.shots == count)
        and product in row.products
        and (metric is None or metric in row.products[product])
        and all(word in _searched(row) for word in words)
        and (ablations or ABLATION not in row.notes)
    ]


def _shots(shots: int | str | None) -> int | None:
    if shots in (None, "all"):
        return None
    try:
        return int(shots)  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidArgumentError(f"shots is {shots!r}: give a number, or all") from error


def _searched(row: Row) -> str:
    names = (row.method, row.variant, row.dataset, row.task, row.protocol, row.origin, row.source, *row.notes)
    return " ".join(names).lower()


def ranked(rows: Iterable[Row], sort: str | None = None, product: str = MEAN) -> list[Row]:
    """Rows by a metric, the best first; those without a figure come last.

    sort  a metric, "seconds" (the fastest first), or one of "method", "dataset", "shots" and "source"; a leading "-"
          turns the order; None: the first headline metric of each row's task, by task and data set
    Raises UnknownNameError.
    """
    rows = list(rows)
    if sort is None:
        order = {task: number for number, task in enumerate(TASKS)}
        keys = {
            id(row): (order[row.task], row.dataset, *_best_first(row, HEADLINE[row.task][0], product)) for row in rows
        }
        return sorted(rows, key=lambda row: keys[id(row)])
    name, turned = sort.removeprefix("-"), sort.startswith("-")
    metrics = {metric for names in METRICS.values() for metric in names}
    if name in TEXTS:
        return sorted(rows, key=lambda row: _text(row, name), reverse=turned)
    if name != "seconds" and name not in metrics:
        raise UnknownNameError("column", name, {*metrics, *TEXTS, "seconds"})
    sign = (-1 if turned else 1) * (-1 if name == "seconds" else 1)
    return sorted(rows, key=lambda row: _best_first(row, name, product, sign))


def _best_first(row: Row, metric: str, product: str, sign: int = 1) -> tuple[bool, float]:
    value = row.seconds.mean if metric == "seconds" else row.value(product, metric).mean
    return value is None, -sign * (value or 0.0)


def _text(row: Row, name: str) -> Any:
    value = getattr(row, name)
    return (value is None, value or 0) if name == "shots" else str(value).lower()


def to_json(row: Row) -> dict[str, Any]:
    """A row as JSON has it, with the figures of all products."""
    named = {key: getattr(row, key) for key in ("origin", "task", "dataset", "protocol", "method", "variant", "shots")}
    figures = {
        product: {name: _value(value) for name, value in table.items()} for product, table in row.products.items()
    }
    rest = {"source": row.source, "notes": list(row.notes), "missing": list(row.missing), "checked": row.checked}
    return {**named, "seeds": _seeds(row), "seconds": row.seconds.mean, "products": figures, **rest}


def _value(value: Value) -> dict[str, Any]:
    found = {"mean": value.mean, "std": value.std, "seeds": value.n or None}
    return {**found, "why": value.why} if value.mean is None else found


def _seeds(row: Row) -> int | None:
    return (
        len(row.seeds)
        or max((value.n for table in row.products.values() for value in table.values()), default=0)
        or None
    )


def to_csv(rows: Iterable[Row], products: Collection[str] | None = (MEAN,), metric: str | None = None) -> str:
    """One line per figure of these products and this metric, None for all: fractions of 1.

    A text that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    names = ["origin", "task", "dataset", "protocol", "method", "variant", "shots"]
    writer.writerow([*names, "product", "metric", "mean", "std", "seeds", "seconds", "source", "checked", "notes"])
    for row in rows:
        first = [safe_label(value) if isinstance(value := getattr(row, name), str) else value for name in names]
        last = [row.seconds.mean, *map(safe_label, (row.source, row.checked, "; ".join((*row.notes, *row.missing))))]
        for product, table in row.products.items():
            for name, value in table.items():
                if (products is None or product in products) and metric in (None, name):
                    writer.writerow([*first, product, name, value.mean, value.std, value.n or None, *last])
    return target.getvalue()


def truth_of(data: Sequence[str], data_root: str | Path | None = None) -> Truth:
    """Labels of the test images of the data sets that are at hand, by their ids.

    data  texts NAME=PATH        data_root  a folder of data sets
    Raises InvalidArgumentError for a text of another form, or a folder that is not there.
    """
    from anomalyhub.benchmark.sources import Sources
    from anomalyhub.data import list_products, load_dataset

    sources = Sources.of(None if data_root is None else str(data_root), list(data), None)

    def truth(dataset: str, product: str) -> Mapping[str, str] | None:
        try:
            root = sources.root(dataset)
        except InvalidDatasetError:  # it is not among those that are here
            return None
        test = load_dataset(root, product if list_products(root) else None).labelled_test()
        return {ref.id: str(ref.label) for ref in test.refs}

    return truth


def submit(
    path: str | Path,
    results: str | Path,
    *,
    store: str | BaseStore = "hub",
    truth: Truth | None = None,
    progress: Progress | None = None,
) -> tuple[Submission, str]:
    """Check a submission and put it, with its predictions, into a results folder or a repository of one.

    results  a folder, which is made if need be, or hf:OWNER/NAME, whose newest revision is taken, added to and pushed
    Returns the submission and where it is now. Raises InvalidRecordError for one that is refused, or is there already;
    StoreError where there is no such repository, or somebody else has pushed meanwhile.
    """
    submission = read_submission(path, truth)
    text = str(results)
    if not text.startswith(_HUB):
        return submission, str(_add(Path(path), submission, Path(results).expanduser()))
    from anomalyhub.hub.share import share

    repository, kept = text.removeprefix(_HUB), create_store(store)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "results"
        pulled = kept.pull(repository, "dataset", out=folder)
        if pulled.notices:
            raise StoreError(
                f"{repository} has files that are no results, which a push would remove ({pulled.notices[0]}): "
                "remove them there, or add the submission by hand"
            )
        _add(Path(path), submission, folder)
        if kept.files(repository, "dataset").revision != pulled.revision:
            raise StoreError(f"somebody else has pushed to {repository} meanwhile: submit again")
        tags = [] if (folder / "README.md").exists() else ["benchmark"]
        message = f"Submission of {submission.method}"
        pushed = share(folder, repository, "dataset", store=kept, message=message, tags=tags, progress=progress)
    return submission, pushed.url


def _add(path: Path, submission: Submission, folder: Path) -> Path:
    """Copy a submission into a results folder. Raises InvalidRecordError where its rows are there already."""
    mine = _claims(submission)
    for other in _submissions(folder):
        try:
            there = read_submission(other)
        except AnomalyHubError:
            continue
        if there.id == submission.id:
            raise InvalidRecordError(f"{path} is there already, in {other.parent.name}: submit something new")
        if twice := sorted(mine & _claims(there)):
            raise InvalidRecordError(
                f"{path} has figures of {submission.method} by {submission.by} that {other.parent.name} has too, of "
                f"{' '.join(map(str, twice[0][3:]))}: tell them apart by variant, or have the former removed"
            )
    target = folder / SUBMISSIONS / submission.id
    with atomic_folder(target) as staged:
        shutil.copyfile(path, staged / SUBMISSION)
        for name in {name for row in submission.rows for name in row.predictions}:
            shutil.copyfile(path.parent / name, staged / name)
    return target


def _claims(submission: Submission) -> set[tuple]:
    who = (submission.by.lower(), submission.method.lower(), submission.variant.lower())
    return {(*who, *map(str, row.key), row.product) for row in submission.rows}
