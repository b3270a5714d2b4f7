"""Tables of a benchmark's results: over seeds and products, beside the published figures, as Markdown, CSV or LaTeX."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomalyhub.benchmark.published import MEAN, dataset_name
from anomalyhub.benchmark.records import FAILED, METRICS, PROTOCOLS, TASKS, UNITS, Record, Unit, read_records
from anomalyhub.benchmark.rows import Row, aggregate, published_beside
from anomalyhub.benchmark.units import PLAN
from anomalyhub.errors import AnomalyHubError, InvalidRecordError, UnknownNameError
from anomalyhub.fsio import atomic_file

#: Metrics that a table shows unless others are asked for.
HEADLINE: Mapping[str, tuple[str, ...]] = {
    "detection": ("image_auroc", "pixel_auroc", "aupro"),
    "discovery": ("nmi", "ari", "f1"),
    "classification": ("accuracy",),
}
FORMATS = ("markdown", "csv", "latex")
_WORDS = {"auroc": "AUROC", "aupro": "AUPRO", "ap": "AP", "nmi": "NMI", "ari": "ARI", "f1": "F1"}
_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "<": "$<$"}
_LATEX |= {">": "$>$"}


def title(metric: str) -> str:
    """ "image_auroc" as people write it: image AUROC."""
    return " ".join(_WORDS.get(word, word) for word in metric.replace("f1_max", "F1-max").split("_"))


@dataclass
class _Notes:
    """Footnotes, numbered in the order in which they are first needed."""

    texts: list[str] = field(default_factory=list)

    def marks(self, texts: Iterable[str]) -> str:
        numbers = []
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
            numbers.append(self.texts.index(text) + 1)
        return ",".join(map(str, sorted(set(numbers))))


@dataclass(frozen=True)
class _Cell:
    text: str
    marks: str = ""


@dataclass(frozen=True)
class _Grid:
    """A table before it is Markdown or LaTeX; below are lines of text under it."""

    title: str
    head: Sequence[str]
    body: Sequence[Sequence[_Cell]]
    notes: Sequence[str]
    below: Sequence[str]
    last_is_mean: bool


def load(folders: Sequence[str | Path]) -> list[Row]:
    """The rows of runs, or of folders that hold several; units of their plans that are not there are missing.

    Raises InvalidRecordError for a folder without records and for one that is damaged, InvalidArgumentError for units
    of one row with different settings.
    """
    records: dict[str, Record] = {}
    planned: dict[Unit, str] = {}
    for folder in map(Path, folders):
        runs = sorted(path for path in folder.rglob(UNITS) if path.is_dir()) or [folder]
        found = [(path, record) for path in runs for record in read_records(path)]
        if not found:
            raise InvalidRecordError(f"{folder} has no record of a benchmark: give the --out folder of eval/run.py")
        for path, record in found:
            if records.setdefault(record.id, record).metrics != record.metrics:
                raise InvalidRecordError(
                    f"{path / record.id}.json and another run's file of that unit have different figures: "
                    "give the folder of one of the runs"
                )
        for path in runs:
            planned |= _planned(path.parent)
    measured = {record.unit for record in records.values()}
    return aggregate(records.values(), {unit: why for unit, why in planned.items() if unit not in measured})


def _planned(run: Path) -> dict[Unit, str]:
    """Units of a run's plan, and why they have failed; a folder of mere records has no plan."""
    try:
        plan = json.loads((run / PLAN).read_text(encoding="utf-8"))
        units = {Path(one["id"]).name: _checked(Unit(**one["unit"])) for one in plan["units"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRecordError(f"{run / PLAN} is no plan of a run ({error}): remove it, or run again") from error
    return {unit: _failure(run / FAILED / f"{name}.json") for name, unit in units.items()}


def _checked(unit: Unit) -> Unit:
    """Raises InvalidRecordError for one that no record can have."""
    return Record(unit, {}, {METRICS[unit.task][0]: 0.0}, 1).unit


def _failure(path: Path) -> str:
    try:
        return f"failed: {json.loads(path.read_text(encoding='utf-8'))['reason']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def rendered(
    rows: Sequence[Row],
    form: str = "markdown",
    *,
    metrics: Mapping[str, Sequence[str]] = HEADLINE,
    decimals: int = 1,
    overview: bool = False,
) -> str:
    """Tables of rows, by task, data set and protocol: means over products, then each method's products.

    form      markdown or latex; figures are percent with `decimals` digits. csv: one line per figure, in fractions of
              1, with all metrics
    metrics   by task                  overview  only the means
    """
    if form not in FORMATS:
        raise UnknownNameError("format", form, FORMATS)
    if form == "csv":
        return _csv(rows)
    grids = []
    rows = sorted(rows, key=lambda row: (TASKS.index(row.task), row.dataset, PROTOCOLS.index(row.protocol)))
    for (task, dataset, protocol), part in _grouped(rows, lambda row: (row.task, row.dataset, row.protocol)).items():
        name = f"{task}, {dataset}, {protocol}"
        methods = _grouped(part, lambda row: (row.method, row.variant))
        asked = metrics[task]
        lines = [(_label(*key), {row.shots: row for row in one}, MEAN) for key, one in methods.items()]
        grids.append(_grid(name, "method", lines, asked, decimals, summary=True))
        for key, one in methods.items():
            products = dict.fromkeys(product for row in one for product in row.products if product != MEAN)
            if len(products) > 1 and not overview:
                by_shots = {row.shots: row for row in one}
                lines = [(product, by_shots, product) for product in (*products, MEAN)]
                grids.append(_grid(f"{name}: {_label(*key)}", "product", lines, asked, decimals, summary=False))
    write = _markdown if form == "markdown" else _latex
    return "\n\n".join(map(write, grids)) + "\n"


def _grouped(rows: Iterable[Row], key) -> dict:
    groups: dict = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _label(method: str, variant: str) -> str:
    return f"{method}, {variant}" if variant else method


def _grid(
    name: str,
    first: str,
    lines: Sequence[tuple[str, Mapping[int | None, Row], str]],
    metrics: Sequence[str],
    decimals: int,
    summary: bool,
) -> _Grid:
    """lines: a label, the rows by number of shots, and the product whose figures they give."""
    notes, below = _Notes(), []
    shots = sorted({count for _, rows, _ in lines for count in rows}, key=lambda count: (count is None, count or 0))
    columns = [
        (count, metric)
        for count in shots
        for metric in metrics
        if any(metric in rows[count].metrics for _, rows, _ in lines if count in rows)
    ]
    beside = {
        (label, column): published_beside(rows[column[0]], product, column[1])
        for label, rows, product in lines
        for column in columns
        if column[0] in rows
    }
    published = [column for column in columns if any(beside.get((label, column)) for label, _, _ in lines)]
    head = [first, *(["products", "seeds"] if summary else [])]
    for column in columns:
        count, metric = column
        named = title(metric) if len(shots) == 1 and not count else f"{title(metric)}, {_shots(count)}"
        head += [named, "published", "difference"] if column in published else [named]
    head += ["seconds"] if summary else []
    body = []
    for label, rows, product in lines:
        seeds = max(len(row.seeds) for row in rows.values())
        cells = [_Cell(label)]
        if summary:
            counts = [sum(name != MEAN for name in row.products) for row in rows.values()]
            cells += [_Cell(str(max(counts))), _Cell(str(seeds))]
        for column in columns:
            row = rows.get(column[0])
            cells.append(_ours(row, product, column[1], seeds, decimals, notes))
            if column in published:
                cells += _published(row, product, column[1], beside.get((label, column)), decimals, notes)
        if summary:
            cells.append(_Cell(_seconds(rows.values())))
        body.append(cells)
        if summary:
            below += [
                f"Missing of {_label(row.method, row.variant)}{'' if count is None else ', ' + _shots(count)}: "
                f"{'; '.join(row.missing)}."
                for count, row in rows.items()
                if row.missing
            ]
    return _Grid(name, head, body, notes.texts, below, not summary)


def _shots(count: int | None) -> str:
    return "all images" if count is None else "zero-shot" if count == 0 else f"{count} shot{'s' * (count > 1)}"


def _ours(row: Row | None, product: str, metric: str, seeds: int, decimals: int, notes: _Notes) -> _Cell:
    if row is None or product not in row.products:
        return _Cell("")
    value = row.value(product, metric)
    if value.mean is None:
        return _Cell("n/a", notes.marks([f"n/a: {value.why}"] if value.why else []))
    fewer = f" (n = {value.n})" if value.n != seeds else ""
    return _Cell(_spread(value.mean, value.std, decimals) + fewer)


def _published(row, product, metric, beside, decimals: int, notes: _Notes) -> list[_Cell]:
    if beside is None:
        return [_Cell(""), _Cell("")]
    printed = min(decimals, max(0, round(-math.log10(beside.step * 100))))
    shown = _Cell(_spread(beside.value, beside.std, printed), notes.marks(beside.notes))
    return [shown, _Cell("" if beside.difference is None else f"{100 * beside.difference:+.{decimals}f}")]


def _spread(mean: float, std: float | None, decimals: int) -> str:
    return f"{100 * mean:.{decimals}f}" + ("" if std is None else f" ± {100 * std:.{decimals}f}")


def _seconds(rows: Iterable[Row]) -> str:
    known = [row.seconds.mean for row in rows if row.seconds.mean is not None]
    return f"{sum(known) / len(known):.1f}" if known else ""


def _markdown(grid: _Grid) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    lines = [f"**{grid.title}** (%)", "", line(map(_cell, grid.head)), "|" + "---|" * len(grid.head)]
    for cells in grid.body:
        lines.append(line(_cell(cell.text) + (f"<sup>{cell.marks}</sup>" if cell.marks else "") for cell in cells))
    for number, text in enumerate(grid.notes, 1):
        lines += ["", f"{number}. {_cell(text)}"] if number == 1 else [f"{number}. {_cell(text)}"]
    return "\n".join([*lines, *(f"\n{_cell(text)}" for text in grid.below)])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _latex(grid: _Grid) -> str:
    """A table environment that needs no package."""
    lines = [r"\begin{table}", rf"\caption{{{_tex(grid.title)} (\%)}}", r"\centering"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}", r"\hline"]
    lines += [" & ".join(map(_tex, grid.head)) + r" \\", r"\hline"]
    for number, cells in enumerate(grid.body):
        if grid.last_is_mean and number == len(grid.body) - 1:
            lines.append(r"\hline")
        texts = (_tex(cell.text) + (rf"\textsuperscript{{{cell.marks}}}" if cell.marks else "") for cell in cells)
        lines.append(" & ".join(texts) + r" \\")
    lines += [r"\hline", r"\end{tabular}"]
    notes = [rf"\textsuperscript{{{number}}} {_tex(text)}" for number, text in enumerate(grid.notes, 1)]
    for text in (*notes, *map(_tex, grid.below)):
        lines.append(rf"\par\footnotesize {text}")
    return "\n".join([*lines, r"\end{table}"])


def _tex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _csv(rows: Sequence[Row]) -> str:
    """One line per figure."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    head = "task,dataset,protocol,method,variant,shots,product,metric,mean,std,seeds,seconds"
    writer.writerow([*head.split(","), "published", "published_std", "published_in", "difference", "missing", "notes"])
    for row in rows:
        first = [row.task, row.dataset, row.protocol, row.method, row.variant, _text(row.shots)]
        for product in row.products:
            for metric in row.metrics:
                value, beside = row.value(product, metric), published_beside(row, product, metric)
                if value.mean is None and not value.why:
                    continue
                notes = [*([f"n/a: {value.why}"] if value.why else []), *(beside.notes if beside else ())]
                other = ["", "", "", ""]
                if beside:
                    other = [_text(beside.value), _text(beside.std), beside.where, _text(beside.difference)]
                figures = [_text(value.mean), _text(value.std), value.n, _text(row.seconds.mean)]
                writer.writerow([*first, product, metric, *figures, *other, "; ".join(row.missing), "; ".join(notes)])
    return target.getvalue()


def _text(value: float | int | None) -> str:
    return "" if value is None else f"{value:.6g}"


def main(arguments: list[str] | None = None) -> int:
    """The command line of eval/table.py; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="--out folders of eval/run.py, or folders that hold some"
    )
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--dataset", help="only this one, such as mtd")
    parser.add_argument("--metrics", metavar="A,B", help="of the task, or all; default: the main ones")
    parser.add_argument("--decimals", type=int, default=1, choices=range(5))
    parser.add_argument("--overview", action="store_true", help="only the means over products")
    parser.add_argument("--format", choices=FORMATS, default="markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    asked = parser.parse_args(arguments)
    try:
        rows = load(asked.runs)
        wanted = dataset_name(asked.dataset) if asked.dataset else None
        names = {row.dataset for row in rows}
        if wanted and wanted not in names:
            raise UnknownNameError("data set of these runs", asked.dataset, names)
        rows = [row for row in rows if asked.task in (None, row.task) and wanted in (None, row.dataset)]
        text = rendered(
            rows,
            asked.format,
            metrics=_metrics(asked.metrics),
            decimals=asked.decimals,
            overview=asked.overview,
        )
        if asked.out is None:
            sys.stdout.write(text)
        else:
            with atomic_file(asked.out) as staged:
                staged.write_text(text, encoding="utf-8")
    except AnomalyHubError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _metrics(text: str | None) -> Mapping[str, Sequence[str]]:
    if text is None or text == "all":
        return HEADLINE if text is None else METRICS
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not any(name in metrics for metrics in METRICS.values()):
            raise UnknownNameError("metric", name, {name for metrics in METRICS.values() for name in metrics})
    return {task: [name for name in names if name in metrics] for task, metrics in METRICS.items()}
