"""The verbs `leaderboard` and `leaderboard submit`: figures of ours, of the literature and of others, side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyhub.cli.pushing import Store
from anomalyhub.cli.support import bar
from anomalyhub.cli.verbs import _example, app
from anomalyhub.errors import InvalidArgumentError

if TYPE_CHECKING:
    from anomalyhub.benchmark.rows import Row, Value

leaderboard = typer.Typer(
    name="leaderboard",
    help="Show measured, published and submitted figures together, each marked as such.",
    epilog=_example(
        "anomalyhub leaderboard --task classification --dataset mvtec_ad --shots 5",
        "anomalyhub leaderboard --results runs/mtd --dataset mtd --search anomalyncd --sort ari",
        "anomalyhub leaderboard --dataset visa --product candle --metric image_auroc --csv",
        "anomalyhub leaderboard --results hf:acme/anomaly-results --search patchcore --detail",
        "anomalyhub leaderboard submit submission.json --results hf:acme/anomaly-results",
    ),
)
app.add_typer(leaderboard)

_NAME_WIDTH = 44
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="NAME=PATH", help="A data set that is here: labels of predictions are compared."),
]
DataRoot = Annotated[Path | None, typer.Option("--data-root", help="A folder of data sets, as --data.")]


@leaderboard.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    results: Annotated[
        list[str] | None,
        typer.Option(help="A run of the benchmark, a folder of several, or hf:OWNER/NAME; may be repeated."),
    ] = None,
    store: Store = "hub",
    task: Annotated[str | None, typer.Option(help="detection, discovery or classification.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Such as mvtec_ad, visa, mtd.")] = None,
    shots: Annotated[
        str | None, typer.Option(metavar="K|all", help="Number of shots; all: rows without shots.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Only rows with this metric, and only its column.")] = None,
    product: Annotated[str, typer.Option(help="One product's figures.  [their mean]")] = "mean",
    origin: Annotated[str | None, typer.Option(help="ours, published or submitted.")] = None,
    search: Annotated[str, typer.Option(help="Words that the method, source or notes hold.")] = "",
    sort: Annotated[
        str | None, typer.Option(help="A metric, seconds, method, dataset, shots or source; -NAME turns the order.")
    ] = None,
    top: Annotated[int, typer.Option(help="Rows of each task and data set.", min=1)] = 15,
    ablations: Annotated[bool, typer.Option("--ablations", help="Rows that compare parts of a method, too.")] = False,
    detail: Annotated[bool, typer.Option("--detail", help="Each product of each row, and the notes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything about all chosen rows, as JSON.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="All chosen figures, as CSV; with --detail all products.")
    ] = False,
    data: DataOption = None,
    data_root: DataRoot = None,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from anomalyhub.benchmark import leaderboard as board

    if as_json and as_csv:
        raise InvalidArgumentError("--json and --csv are given: give one of them")
    with bar("leaderboard") as progress:
        found = board.read_board(results or (), store=store, truth=_truth(data, data_root), progress=progress)
    for notice in found.notices:
        print(f"anomalyhub: notice: {notice}", file=sys.stderr)
    rows = board.select(
        found.rows,
        task=task,
        dataset=dataset,
        shots=shots,
        metric=metric,
        product=product,
        origin=origin,
        search=search,
        ablations=ablations,
    )
    rows = board.ranked(rows, sort or metric, product)
    if as_json:
        typer.echo(json.dumps([board.to_json(row) for row in rows], indent=1, ensure_ascii=False))
    elif as_csv:
        typer.echo(board.to_csv(rows, None if detail else (product,), metric), nl=False)
    else:
        typer.echo("\n".join(_shown(rows, metric, product, top, detail)))


@leaderboard.command(
    epilog=_example(
        "anomalyhub leaderboard submit --form",
        "anomalyhub leaderboard submit submission.json",
        "anomalyhub leaderboard submit submission.json --data mtd=MTD --results shared/results",
        "anomalyhub leaderboard submit submission.json --results hf:acme/results --store folder:/share",
    )
)
def submit(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A submission, with its predictions beside it.")
    ] = None,
    results: Annotated[
        str | None, typer.Option(help="A folder of results, or hf:OWNER/NAME.  [none: only check]")
    ] = None,
    store: Store = "hub",
    data: DataOption = None,
    data_root: DataRoot = None,
    form: Annotated[bool, typer.Option("--form", help="Print an example of a submission.")] = False,
) -> None:
    """Check a submission, compute its figures from its predictions, and add it to the results."""
    from anomalyhub.benchmark.leaderboard import submit as add
    from anomalyhub.benchmark.submission import EXAMPLE, read_submission

    if form:
        typer.echo(json.dumps(EXAMPLE, indent=1))
        return
    if file is None:
        raise InvalidArgumentError("there is no FILE: give a submission, or --form to see one")
    truth = _truth(data, data_root)
    if results is None:
        submission, where = read_submission(file, truth), "nothing is wrong with it; add it with --results"
    else:
        with bar("submit") as progress:
            submission, where = add(file, results, store=store, truth=truth, progress=progress)
    recomputed = sum(bool(row.checked) for row in submission.rows)
    against = f", {submission.against}" if submission.against else ""
    count = f"{len(submission.rows)} rows, {recomputed} of them recomputed from predictions{against}"
    typer.echo(f"{submission.method} by {submission.by}: {count}: {where}")


def _truth(data: list[str] | None, data_root: Path | None):
    """Labels of the data sets that are at hand; None without any."""
    if not data and data_root is None:
        return None
    from anomalyhub.benchmark.leaderboard import truth_of

    return truth_of(data or [], data_root)


def _shown(rows: list[Row], metric: str | None, product: str, top: int, detail: bool) -> list[str]:
    """A table for each task and data set, of the order that the rows have."""
    from anomalyhub.benchmark.table import HEADLINE

    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.dataset), []).append(row)
    lines: list[str] = [] if rows else ["no row: choose less"]
    for (task, dataset), part in groups.items():
        metrics = [metric] if metric else list(HEADLINE[task])
        of = "" if product == "mean" else f", {product}"
        lines += [f"{task} of {dataset}{of}, %", *_table(part[:top], metrics, product, detail)]
        if len(part) > top:
            lines.append(f"and {len(part) - top} more: --top {len(part)} shows them")
        lines.append("")
    return lines[:-1] if groups else lines


def _table(rows: list[Row], metrics: list[str], product: str, detail: bool) -> list[str]:
    from anomalyhub.benchmark.table import title

    head = ["", "method", "shots", *map(title, metrics), "seconds", "from"]
    body = []
    for row in rows:
        mark = "submitted, recomputed" if row.checked else row.origin
        name = f"{row.method}, {row.variant}" if row.variant else row.method
        name = name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
        shots = "all" if row.shots is None else str(row.shots)
        seconds = "" if row.seconds.mean is None else f"{row.seconds.mean:.1f}"
        cells = [
            mark,
            name,
            "" if row.task == "discovery" else shots,
            *_figures(row, metrics, product),
            seconds,
            row.source,
        ]
        body.append(cells)
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = [_line(head, widths), _line(["-" * width for width in widths], widths)]
    for row, cells in zip(rows, body, strict=True):
        lines.append(_line(cells, widths))
        if detail:
            lines += _details(row, metrics, widths)
    return lines


def _details(row: Row, metrics: list[str], widths: list[int]) -> list[str]:
    """A row's products, what is missing of it, and what has to be known of it."""
    lines = [
        _line(["", f"  {name}", "", *_figures(row, metrics, name), "", ""], widths)
        for name in row.products
        if name != "mean"
    ]
    lines += [f"  missing: {'; '.join(row.missing)}"] if row.missing else []
    why = {value.why for value in row.products["mean"].values() if value.why} if "mean" in row.products else set()
    return lines + [f"  {note}" for note in (*sorted(why), *row.notes, *([row.checked] if row.checked else []))]


def _figures(row: Row, metrics: list[str], product: str) -> list[str]:
    return [_figure(row.value(product, name)) for name in metrics]


def _figure(value: Value) -> str:
    if value.mean is None:
        return "n/a" if value.why else ""
    return f"{100 * value.mean:.1f}" + ("" if value.std is None else f" ± {100 * value.std:.1f}")


def _line(cells: list[str], widths: list[int]) -> str:
    """The first two columns and the last to the left, figures to the right."""
    last = len(cells) - 1
    parts = [
        cell.ljust(width) if number in (0, 1, last) else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()
