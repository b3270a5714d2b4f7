"""Step 1 of the Leaderboard tab: the rows that there are, and those that are asked for. Callbacks without gradio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyhub.benchmark.leaderboard import ORIGINS, ranked, read_board, select, to_csv
from anomalyhub.benchmark.published import MEAN
from anomalyhub.benchmark.records import METRICS, TASKS
from anomalyhub.benchmark.rows import ABLATION, OURS, PUBLISHED, Row
from anomalyhub.benchmark.table import HEADLINE
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

if TYPE_CHECKING:
    from anomalyhub.benchmark.submission import Submission

#: Rows of one table; more of them want a filter.
MOST_ROWS = 150
#: What data sets are called; others by their names.
TITLES = {
    "mvtec_ad": "MVTec AD",
    "mvtec_3d_ad": "MVTec 3D-AD",
    "visa": "VisA",
    "mpdd": "MPDD",
    "mtd": "Magnetic tiles (MTD)",
    "aebad_s": "AeBAD-S",
    "sample": "Bundled sample",
    "leather": "Leather crops",
    "vand_test_set": "VAND test set",
}


@dataclass(frozen=True)
class Filter:
    """What is asked for; "" is any.

    shots    a number, or "all" for rows without shots
    metric   rows that have it, and only its column; "": the columns of the main ones; "*": of all
    product  one, or "mean"                               origins  of ORIGINS
    words    each of which is somewhere in a row          parts    rows that compare parts of a method, too
    sort     a column, "-" before it turns the order; "": the best first
    """

    task: str = "detection"
    dataset: str = ""
    shots: str = ""
    metric: str = ""
    product: str = MEAN
    origins: tuple[str, ...] = ORIGINS
    words: str = ""
    parts: bool = False
    sort: str = ""


@dataclass(eq=False)
class Visit:
    """What a visitor does on this tab.

    rows     of this machine and of the literature; None before they are read
    sources  folders of this machine that were read, for people; notices: what could not be
    pulled   rows of a repository; repo: its name, at: its store, for people
    asked    the filter in force; shown: its rows, in the order of the table
    checked  a submission that can be added; file: where it lies; name: what it was called; faults: what is wrong
    added    what became of it, or of a push
    """

    rows: tuple[Row, ...] | None = None
    sources: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    pulled: tuple[Row, ...] = ()
    repo: str = ""
    at: str = ""
    asked: Filter = field(default_factory=Filter)
    shown: tuple[Row, ...] = ()
    checked: Submission | None = None
    file: Path | None = None
    name: str = ""
    faults: tuple[str, ...] = ()
    added: str = ""

    @property
    def all(self) -> tuple[Row, ...]:
        """Rows of everywhere, those first that were measured or submitted."""
        rows = self.rows or ()
        own = tuple(row for row in rows if row.origin != PUBLISHED)
        known = {_key(row) for row in own}
        return (*own, *(row for row in self.pulled if _key(row) not in known), *rows[len(own) :])


def _key(row: Row) -> tuple:
    figures = {name: {metric: value.mean for metric, value in table.items()} for name, table in row.products.items()}
    return row.origin, row.task, row.dataset, row.protocol, row.method, row.variant, row.shots, str(figures)


# What there is.


def read(visit: Visit, work: Work, trusted: bool) -> str:
    """Read the results of this machine and the package's published figures; what cannot be read is a notice."""
    rows: list[Row] = []
    notices: list[str] = []
    sources = []
    for name, folder in named_folders(work, trusted).items():
        try:
            found = read_board([folder], published=False)
        except AnomalyHubError as error:
            notices.append(str(error).replace(str(folder), name))
            continue
        rows += found.rows
        notices += [text.replace(str(folder), name) for text in found.notices]
        sources.append(name)
    visit.rows = (*rows, *read_board().rows)
    visit.sources, visit.notices = tuple(sources), tuple(notices)
    return where_text(visit)


def named_folders(work: Work, trusted: bool) -> dict[str, Path]:
    """The results folders that the app was started with, by name: visitors from elsewhere see no paths."""
    named: dict[str, Path] = {}
    for text in work.results:
        path = Path(text)
        name = str(path) if trusted else path.name or "results"
        named[name if name not in named else f"{name} {len(named) + 1}"] = path
    return named


def where_text(visit: Visit) -> str:
    """Where the rows are from."""
    own = sum(row.origin == OURS for row in visit.all)
    places = [*(Path(name).name or name for name in visit.sources), *([visit.repo] if visit.repo else [])]
    if not places:
        return "The published figures alone"
    return f"{own} row{'s' * (own != 1)} of {', '.join(places)}"


# What is asked for.


def datasets(rows: Iterable[Row], task: str) -> list[str]:
    """Data sets of a task, first those with rows that are not published, then those with most rows."""
    own: Counter[str] = Counter()
    every: Counter[str] = Counter()
    for row in rows:
        if row.task == task:
            every[row.dataset] += 1
            own[row.dataset] += row.origin != PUBLISHED
    return sorted(every, key=lambda name: (not own[name], -every[name], name))


def shots(rows: Iterable[Row]) -> list[str]:
    """Values of `Filter.shots` that rows have, rows without shots last."""
    counts = {row.shots for row in rows}
    return [*map(str, sorted(counts - {None})), *(["all"] if None in counts else [])]


def metrics(rows: Sequence[Row], task: str, product: str = MEAN) -> list[str]:
    """Metrics of a task that some row has for a product, in their usual order."""
    return [name for name in METRICS[task] if any(name in row.products.get(product, {}) for row in rows)]


def products(rows: Sequence[Row]) -> list[str]:
    """Products of all rows, "mean" first."""
    return [MEAN, *sorted({name for row in rows for name in row.products} - {MEAN})]


def title(dataset: str) -> str:
    """A data set's name for people."""
    return TITLES.get(dataset, dataset)


def shots_text(task: str, text: str) -> str:
    """A number of shots for people: of normal images, or of examples of each class."""
    if text == "all":
        return "All normal images" if task == "detection" else "Without shots"
    what = "example" if task == "classification" else "normal image"
    return "Zero-shot" if text == "0" else f"{text} {what}{'s' * (text != '1')}"


def ask(visit: Visit, asked: Filter) -> None:
    """Show the rows that are asked for. What no row has, because another task was chosen, is any again."""
    if asked.task not in TASKS:
        raise InvalidArgumentError(f"there is no task {asked.task!r}: choose one of {', '.join(TASKS)}")
    of_task = [row for row in visit.all if row.task == asked.task]
    there = datasets(of_task, asked.task)
    former = visit.asked
    if asked.dataset not in ("*", *there):
        asked = replace(asked, dataset=there[0] if there else "*")
    rows = [row for row in of_task if asked.dataset in ("*", row.dataset)]
    asked = replace(
        asked,
        shots=asked.shots if asked.shots in shots(rows) else "",
        product=asked.product if asked.dataset != "*" and asked.product in products(rows) else MEAN,
        origins=tuple(name for name in ORIGINS if name in asked.origins),
    )
    if asked.metric not in ("*", *metrics(rows, asked.task, asked.product)):
        asked = replace(asked, metric="")
    if (asked.task, asked.metric) != (former.task, former.metric):
        asked = replace(asked, sort="")
    visit.asked = asked
    visit.shown = tuple(_ordered(rows, asked))


def _ordered(rows: Sequence[Row], asked: Filter) -> list[Row]:
    found = select(
        rows,
        shots=asked.shots or None,
        metric=one_metric(asked) or None,
        product=asked.product,
        search=asked.words,
        ablations=asked.parts,
    )
    found = [row for row in found if row.origin in asked.origins]
    return ranked(found, asked.sort or leading(found, asked), asked.product)


def leading(rows: Sequence[Row], asked: Filter) -> str:
    """The metric that rows are ranked and drawn by."""
    if one_metric(asked):
        return asked.metric
    there = metrics(rows, asked.task, asked.product)
    return next((name for name in HEADLINE[asked.task] if name in there), next(iter(there), HEADLINE[asked.task][0]))


def one_metric(asked: Filter) -> str:
    """The metric that a visitor has chosen; "" where it is several."""
    return "" if asked.metric == "*" else asked.metric


def columns(rows: Sequence[Row], asked: Filter) -> list[str]:
    """The metrics that a table of rows has columns of."""
    there = metrics(rows, asked.task, asked.product)
    if asked.metric == "*":
        return there
    return [asked.metric] if asked.metric else [name for name in HEADLINE[asked.task] if name in there] or there


def sort(visit: Visit, column: Any) -> None:
    """Sort by a column; by the same one again: the other way round. A page may send anything."""
    names = (*METRICS[visit.asked.task], "seconds", "method", "dataset", "shots", "source")
    if column not in names:
        raise InvalidArgumentError(f"the table has no column {str(column)!r}: load the page again")
    first = visit.asked.sort or leading(visit.shown, visit.asked)
    ask(visit, replace(visit.asked, sort=f"-{column}" if first == column else str(column)))


def headline(visit: Visit) -> str:
    """What step 1 holds."""
    asked, count = visit.asked, len(visit.shown)
    where = "all data sets" if asked.dataset == "*" else title(asked.dataset)
    return f"{count} row{'s' * (count != 1)}: {asked.task}, {where}"


def hidden_parts(visit: Visit) -> int:
    """Rows that compare parts of a method and would be shown, too."""
    if visit.asked.parts:
        return 0
    rows = [row for row in visit.all if row.task == visit.asked.task and visit.asked.dataset in ("*", row.dataset)]
    return sum(ABLATION in row.notes for row in _ordered(rows, replace(visit.asked, parts=True)))


def table_file(session: Session, visit: Visit) -> str:
    """Path of a CSV of all figures of the rows that are shown, with every product."""
    if not visit.shown:
        raise InvalidArgumentError("no row is shown: choose less in step 1")
    downloads = session.folder / "downloads"
    downloads.mkdir(exist_ok=True)
    path = downloads / "anomalyhub-leaderboard.csv"
    path.write_text(to_csv(visit.shown, None, one_metric(visit.asked) or None), encoding="utf-8")
    return str(path)
