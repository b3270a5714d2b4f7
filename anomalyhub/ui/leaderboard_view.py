"""What the Leaderboard tab shows, as HTML: table, one row large, and what has to be known. Names may be strangers'."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from anomalyhub.benchmark.counts import products_of
from anomalyhub.benchmark.published import MEAN, SOURCES
from anomalyhub.benchmark.rows import OURS, PUBLISHED, SUBMITTED, Beside, Row, Value, published_beside
from anomalyhub.benchmark.table import title as metric_title
from anomalyhub.ui import board_view, leaderboard
from anomalyhub.ui.leaderboard import MOST_ROWS, Visit
from anomalyhub.ui.views import notice_list

TITLES = ("Choose figures", "More results", "Submit yours")
ORIGINS = {OURS: "Measured", PUBLISHED: "Published", SUBMITTED: "Submitted"}
_TASKS = {"detection": "detection", "discovery": "discovery", "classification": "classification"}
_PROTOCOLS = {
    "full": "all normal images",
    "few-shot": "few-shot",
    "zero-shot": "zero-shot",
    "transductive": "transductive: all test images are seen, without labels",
    "inductive": "inductive: kinds of images that were not in the fit",
}
#: What adds results: a run of the benchmark, then the app with its folder.
COMMANDS = ("accelerate launch eval/run.py --config quick --out runs/quick", "anomalyhub demo --results runs")


def heads(visit: Visit) -> list[str]:
    """Head of each of the three steps."""
    submit = visit.added or (
        f"{visit.name}: nothing is wrong with it" if visit.checked else "Checked before it is added"
    )
    if visit.faults:
        submit = f"{visit.name}: {len(visit.faults)} fault{'s' * (len(visit.faults) != 1)}"
    texts = (leaderboard.headline(visit), leaderboard.where_text(visit), submit)
    own = bool(visit.sources or visit.repo)
    return board_view.step_heads((bool(visit.shown), own, bool(visit.added)), texts, TITLES)


def pill(row: Row) -> str:
    """Where a row is from, in a word and a colour."""
    text = f"{ORIGINS[row.origin]} ✓" if row.checked else ORIGINS[row.origin]
    hint = {
        OURS: "measured with AnomalyHub's benchmark",
        PUBLISHED: "printed in a paper",
        SUBMITTED: f"submitted: {row.checked}" if row.checked else "submitted, and not recomputed",
    }[row.origin]
    return f'<em class="ah-l-pill ah-l-{row.origin}" title="{escape(hint)}">{text}</em>'


def name_of(row: Row) -> str:
    """Method and variant, for people."""
    return f"{row.method}, {row.variant}" if row.variant else row.method


def figure(value: Value) -> str:
    """A figure in percent, with its deviation."""
    if value.mean is None:
        return f'<span class="ah-soft" title="{escape(value.why)}">n/a</span>' if value.why else ""
    spread = "" if value.std is None else f" <small>± {100 * value.std:.1f}</small>"
    return f"{100 * value.mean:.1f}{spread}"


def seconds(value: Value) -> str:
    """Seconds for people; empty where nobody says them."""
    if value.mean is None:
        return ""
    if value.mean >= 5400:
        return f"{value.mean / 3600:.1f} h"
    return f"{value.mean / 60:.1f} min" if value.mean >= 90 else f"{value.mean:.3g} s"


# The table.


def stage(visit: Visit) -> str:
    """What stands above the table while nothing has been measured on this machine, and what could not be read."""
    notices = notice_list(visit.notices)
    if visit.sources or visit.repo:
        return notices
    commands = "".join(f"<code>{escape(one)}</code>" for one in COMMANDS)
    return (
        '<div class="ah-l-hint"><p>These figures are printed in papers. To see your own beside them, measure, then '
        f"open the app with the results, or read a repository of results in step 2.</p>{commands}</div>{notices}"
    )


def table(visit: Visit) -> str:
    """The rows that are shown; a click on one asks for it, a click on a column's head sorts by that."""
    asked, rows = visit.asked, visit.shown
    if not rows:
        text = "No row has all that is asked for in step 1: take a word or a filter away."
        return f'<p class="ah-none" role="status">{text}</p>'
    columns = leaderboard.columns(rows, asked)
    timed = any(row.seconds.mean is not None for row in rows)
    best = {name: _best(rows, name, asked.product) for name in columns}
    body = "".join(_row(visit, number, row, columns, timed, best) for number, row in enumerate(rows[:MOST_ROWS]))
    more = len(rows) - MOST_ROWS
    rest = f'<p class="ah-soft">and {more} more rows: ask for less in step 1</p>' if more > 0 else ""
    return (
        f'<div class="ah-l-scroll"><table class="ah-l-table"><thead><tr>{_head(visit, columns, timed)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{rest}{_parts(visit)}"
    )


def _best(rows: Iterable[Row], metric: str, product: str) -> float | None:
    return max((mean for row in rows if (mean := row.value(product, metric).mean) is not None), default=None)


def _head(visit: Visit, columns: Sequence[str], timed: bool) -> str:
    asked = visit.asked
    names = [("method", "Method", "")]
    names += [("dataset", "Data set", "")] * (asked.dataset == "*")
    names += [("shots", "Shots", "ah-l-number")] * (asked.task != "discovery" and not asked.shots)
    names += [(name, metric_title(name), "ah-l-number") for name in columns]
    names += [("seconds", "Time", "ah-l-number")] * timed
    by = asked.sort or leaderboard.leading(visit.shown, asked)
    heads = "".join(_column(name, text, style, by) for name, text, style in names)
    return f'<th class="ah-l-rank">#</th><th class="ah-l-from"></th>{heads}'


def _column(name: str, text: str, style: str, by: str) -> str:
    falls = name not in ("method", "dataset", "shots", "source", "seconds")  # the best figures first
    turned = by.startswith("-")
    way = "" if by.removeprefix("-") != name else "descending" if falls != turned else "ascending"
    sign = {"descending": " ↓", "ascending": " ↑", "": ""}[way]
    text = text[:1].upper() + text[1:]
    state = f' aria-sort="{way}"' if way else ""
    return f'<th class="{style}"{state}><button type="button" data-sort="{name}">{escape(text)}{sign}</button></th>'


def _row(visit: Visit, number: int, row: Row, columns: Sequence[str], timed: bool, best: dict) -> str:
    asked, by = visit.asked, visit.asked.sort or leaderboard.leading(visit.shown, visit.asked)
    name, about = escape(name_of(row)), escape(_about(row))
    cells = [
        f'<td class="ah-l-rank">{number + 1}</td><td class="ah-l-from">{pill(row)}</td><td class="ah-l-method">'
        f'<button type="button" class="ah-l-entry" data-index="{number}" title="{name}"><b>{escape(row.method)}</b> '
        f"{escape(row.variant)}</button><small><em>{ORIGINS[row.origin]} · </em>{about}</small></td>"
    ]
    cells += [f"<td>{escape(leaderboard.title(row.dataset))}</td>"] * (asked.dataset == "*")
    shown = "all" if row.shots is None else str(row.shots)
    cells += [f'<td class="ah-l-number">{shown}</td>'] * (asked.task != "discovery" and not asked.shots)
    for metric in columns:
        value = row.value(asked.product, metric)
        top = value.mean is not None and value.mean == best[metric]
        bar = ""
        if metric == by.removeprefix("-") and value.mean is not None:
            bar = f'<i style="width:{100 * min(max(value.mean, 0.0), 1.0):.1f}%"></i>'
        style = "ah-l-number" + " ah-l-top" * top + " ah-l-by" * bool(bar)
        cells.append(f'<td class="{style}">{figure(value)}{bar}</td>')
    cells += [f'<td class="ah-l-number">{seconds(row.seconds)}</td>'] * timed
    return f'<tr class="ah-l-row ah-l-{row.origin}" data-index="{number}">{"".join(cells)}</tr>'


def _about(row: Row) -> str:
    """What tells a row from others, in a line."""
    seeds = f"{len(row.seeds)} seeds" if len(row.seeds) > 1 else ""
    missing = f"{len(row.missing)} units missing" if row.missing else ""
    return " · ".join(text for text in (row.source, seeds, some_products(row), missing) if text)


def some_products(row: Row) -> str:
    """How many products the mean of a measured row is over, where the data set has more; else empty."""
    mine, every = len(row.products.keys() - {MEAN}), len(products_of(row.dataset))
    return f"mean over {mine} of {every} products" if row.origin == OURS and mine < every else ""


def _parts(visit: Visit) -> str:
    count = leaderboard.hidden_parts(visit)
    if not count:
        return ""
    return f'<p class="ah-soft">{count} more rows compare parts of a method: see the filters in step 1.</p>'


def notes(visit: Visit) -> str:
    """What the figures that are shown are, and what has to be known to compare them."""
    rows = visit.shown
    told = []
    if any(row.origin == OURS for row in rows):
        told.append(
            "<dt>Measured</dt><dd>With this program: mean and sample deviation over seeds, of products the macro mean. "
            "Time is of one product and seed, fit and prediction, on the machine that measured it.</dd>"
        )
    keys = [key for key in SOURCES if any(row.origin == PUBLISHED and row.source.startswith(key) for row in rows)]
    for key in keys:
        source = SOURCES[key]
        mine = [row for row in rows if row.source.startswith(key)]
        scopes = {visit.asked.task, *(row.dataset for row in mine), *(name for row in mine for name in row.metrics)}
        about = source.about(*sorted(scopes)).removeprefix(f"{key}: ")
        told.append(
            f"<dt>{escape(key)}</dt><dd><cite>{escape(source.title)}</cite> ({escape(source.authors)}, {source.year})."
            f" {escape(about[:1].upper() + about[1:])}.</dd>"
        )
    if any(row.origin == SUBMITTED for row in rows):
        told.append(
            "<dt>Submitted</dt><dd>By whom the second line says. ✓: the figures were computed again from predictions "
            "that came along; the others are checked for what can be.</dd>"
        )
    if not told:
        return ""
    return (
        '<details class="ah-l-notes"><summary>How these figures were made, and what differs</summary>'
        f"<dl>{''.join(told)}</dl></details>"
    )


# One row.


def detail(visit: Visit, index: int) -> str:
    """One row large: what it is, and its figures of each product, ours with the published ones beside."""
    row = visit.shown[index]
    metric = leaderboard.leading([row], visit.asked)
    besides = {product: published_beside(row, product, metric) for product in row.products}
    name = escape(name_of(row))
    return (
        f'<div class="ah-veil" data-index="{index}"><div class="ah-detail ah-l-detail" role="dialog" aria-modal="true" '
        f'aria-label="{name}"><header>{pill(row)}<h2 title="{name}">{name}</h2>'
        '<button type="button" data-go="-1" aria-label="previous">‹</button>'
        '<button type="button" data-go="1" aria-label="next">›</button>'
        '<button type="button" data-close aria-label="close">✕</button></header>'
        f'<div class="ah-l-view"><div>{_facts(row)}{_known(row, besides)}</div>'
        f"<div>{_bars(row, metric, besides)}</div>{_products(row, metric, besides)}</div></div></div>"
    )


def _facts(row: Row) -> str:
    shots = {"discovery": ""}.get(row.task, leaderboard.shots_text(row.task, _shots(row)))
    told = [
        ("Task", f"{_TASKS[row.task]}, {leaderboard.title(row.dataset)}"),
        ("Protocol", ", ".join(dict.fromkeys(text for text in (_PROTOCOLS[row.protocol], shots.lower()) if text))),
        ("From", f"{row.source}{_paper(row)}"),
        ("Seeds", ", ".join(map(str, row.seeds))),
        ("Time", f"{seconds(row.seconds)} of a product and seed" if row.seconds.mean is not None else ""),
        ("Recomputed", row.checked),
    ]
    rows = "".join(f"<dt>{key}</dt><dd>{escape(text)}</dd>" for key, text in told if text)
    return f'<div class="ah-facts"><dl>{rows}</dl></div>'


def _shots(row: Row) -> str:
    return "all" if row.shots is None else str(row.shots)


def _paper(row: Row) -> str:
    source = SOURCES.get(row.source.partition(",")[0])
    return f": {source.title}, {source.year}" if row.origin == PUBLISHED and source else ""


def _known(row: Row, besides: dict[str, Beside | None]) -> str:
    """Notes of the row and of what it stands beside, what is missing, and settings."""
    told = [
        *filter(None, [some_products(row)]),
        *row.notes,
        *(note for one in besides.values() if one for note in one.notes),
    ]
    told = list(dict.fromkeys(told))
    notes = f'<h3>To know</h3><ul class="ah-l-known">{"".join(f"<li>{escape(text)}</li>" for text in told)}</ul>'
    missing = ""
    if row.missing:
        listed = "; ".join(row.missing[:12]) + ("; …" if len(row.missing) > 12 else "")
        missing = f'<p class="ah-problem">Not measured yet, and in no mean: {escape(listed)}</p>'
    settings = ""
    if row.settings:
        items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(text))}</dd>" for key, text in row.settings.items())
        settings = f'<details class="ah-l-notes"><summary>Settings</summary><dl>{items}</dl></details>'
    return f"{missing}{notes if told else ''}{settings}"


def _bars(row: Row, metric: str, besides: dict[str, Beside | None]) -> str:
    """The figure of each product as a bar, the published one as a mark on it."""
    order = [*(name for name in row.products if name != MEAN), *([MEAN] if MEAN in row.products else [])]
    order = [name for name in order if row.value(name, metric).mean is not None]
    if not order:
        return '<p class="ah-soft">No figure of a product.</p>'
    values = [row.value(name, metric).mean for name in order] + [one.value for one in besides.values() if one]
    low = math.floor(20 * min(values) - 0.5) / 20 if min(values) > 0.6 else 0.0
    lines = []
    for name in order:
        value, beside = row.value(name, metric), besides[name]
        mark = "" if beside is None else f'<b style="left:{_share(beside.value, low):.1f}%"></b>'
        lines.append(
            f'<tr class="{"ah-l-mean" * (name == MEAN)}"><th scope="row">{escape(name)}</th><td><div>'
            f'<span style="width:{_share(value.mean, low):.1f}%"></span>{mark}</div></td>'
            f'<td class="ah-l-number">{figure(value)}</td></tr>'
        )
    ends = f"<i>{100 * low:g}</i><i>{50 * (1 + low):g}</i><i>100</i>"
    lines.append(f'<tr class="ah-l-ends"><th></th><td><div>{ends}</div></td><td></td></tr>')
    legend = ""
    if first := next((one for one in besides.values() if one), None):
        legend = f'<p class="ah-soft ah-l-legend"><b></b>{escape(first.where)}</p>'
    title = metric_title(metric)
    return (
        f"<h3>{escape(title[:1].upper() + title[1:])} of each product, %</h3>{legend}"
        f'<table class="ah-l-bars ah-l-{row.origin}"><tbody>{"".join(lines)}</tbody></table>'
    )


def _share(value: float, low: float) -> float:
    """Where a fraction of 1 lies on a bar that begins at `low`, in percent."""
    return 100 * min(max((value - low) / (1.0 - low), 0.0), 1.0)


def _products(row: Row, metric: str, besides: dict[str, Beside | None]) -> str:
    """All figures of each product; of the metric that leads, the published one and the difference."""
    compared = any(besides.values())
    if len(row.metrics) < 2 and not compared:
        return ""
    head = "".join(f"<th>{escape(metric_title(name))}</th>" for name in row.metrics)
    head += f"<th>published {escape(metric_title(metric))}</th><th>difference</th>" * compared
    lines = []
    for name in row.products:
        cells = "".join(f"<td>{figure(row.value(name, one))}</td>" for one in row.metrics)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}{_compared(besides[name]) * compared}</tr>')
    return (
        '<details class="ah-l-notes ah-l-all"><summary>All figures, %</summary><div class="ah-l-scroll">'
        f'<table class="ah-l-figures"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        "</div></details>"
    )


def _compared(beside: Beside | None) -> str:
    if beside is None:
        return "<td></td><td></td>"
    there = "" if beside.difference is None else f"{100 * beside.difference:+.1f}"
    return f"<td>{figure(Value(beside.value, beside.std))}</td><td>{there}</td>"


# A submission.


def checked(visit: Visit) -> str:
    """What is wrong with a submission, one by one, or what it holds; empty without one."""
    if visit.faults:
        items = "".join(f"<li>{escape(text[:600])}</li>" for text in visit.faults)
        return (
            f'<div class="ah-problem" role="alert"><p>{escape(visit.name)} is not added, as:</p>'
            f'<ul class="ah-l-faults">{items}</ul></div>'
        )
    one = visit.checked
    if one is None:
        return ""
    recomputed = sum(bool(row.checked) for row in one.rows)
    what = f"{len(one.rows)} row{'s' * (len(one.rows) != 1)}, {recomputed} recomputed from predictions"
    against = f" ({one.against})" if one.against else ""
    return (
        f'<div class="ah-l-fine" role="status"><p><b>{escape(one.method)}</b> by {escape(one.by)}: '
        f"{escape(what + against)}. Nothing is wrong with it.</p></div>"
    )
