"""Plots of the Leaderboard tab as HTML, so that texts keep their size on every width: places are shares of the plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from anomalyhub.benchmark.published import MEAN
from anomalyhub.benchmark.rows import PUBLISHED, Row
from anomalyhub.benchmark.table import title as metric_title
from anomalyhub.ui import leaderboard
from anomalyhub.ui.leaderboard import Visit
from anomalyhub.ui.leaderboard_view import figure, name_of, pill, seconds

_POINTS = 24  # numbered points that can be told apart
_SERIES = 3
#: Seconds at which an axis of time has a tick.
_TIMES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1200, 3600, 7200, 18000, 36000, 86400)


def times(visit: Visit) -> str:
    """Accuracy against time of the rows whose time is known, numbered as in the list below; a click asks for a row."""
    asked, rows = visit.asked, visit.shown
    metric = leaderboard.leading(rows, asked)
    points = [
        (number, row, row.seconds.mean, row.value(asked.product, metric).mean)
        for number, row in enumerate(rows)
        if row.seconds.mean and row.value(asked.product, metric).mean is not None
    ][:_POINTS]
    if not points:
        text = (
            "No row here says how long it took: papers rarely do. Measure some with the benchmark, and they are drawn "
            "by their time."
        )
        return f'<p class="ah-none">{text}</p>'
    points.sort(key=lambda one: -one[3])
    best = max(
        (
            (mean, row)
            for row in rows
            if row.origin == PUBLISHED and (mean := row.value(asked.product, metric).mean) is not None
        ),
        key=lambda one: one[0],
        default=None,
    )
    low, high, ticks = _linear([one[3] for one in points] + ([best[0]] if best else []))
    left, right, marks = _decades([one[2] for one in points])
    drawn = []
    for place, (number, row, spent, value) in enumerate(points, 1):
        x, y = _share(math.log10(spent), left, right), 100 - _share(value, low, high)
        text = escape(f"{_label(row)}: {100 * value:.1f}, {seconds(row.seconds)}")
        drawn.append(
            f'<button type="button" class="ah-l-point ah-l-{row.origin}" data-index="{number}" '
            f'style="left:{x:.1f}%;top:{y:.1f}%" title="{text}" aria-label="{text}">{place}</button>'
        )
    lines = [f'<i style="top:{100 - _share(tick, low, high):.1f}%"><span>{100 * tick:g}</span></i>' for tick in ticks]
    feet = [f'<u style="left:{_share(tick, left, right):.1f}%"><span>{_tick(tick)}</span></u>' for tick in marks]
    rule = ""
    if best:
        where = f"best published: {100 * best[0]:.1f}, {_label(best[1])}"
        rule = f'<s style="top:{100 - _share(best[0], low, high):.1f}%"><span>{escape(where)}</span></s>'
    title = metric_title(metric)
    return (
        f"<h3>{escape(title[:1].upper() + title[1:])}, %, against the time of a product and seed</h3>"
        f'<div class="ah-l-plot"><div>{"".join((*lines, *feet))}{rule}{"".join(drawn)}</div></div>'
        f"{_list(visit, metric, points)}"
        '<p class="ah-soft">Times are of the machines that measured them, and compare where these are alike.</p>'
    )


def _list(visit: Visit, metric: str, points: Sequence[tuple]) -> str:
    items = "".join(
        f'<li><button type="button" data-index="{number}"><b>{place}</b><span>{escape(_label(row))}</span>'
        f"{pill(row)}</button><span>{figure(row.value(visit.asked.product, metric))}</span>"
        f"<span>{seconds(row.seconds)}</span></li>"
        for place, (number, row, _, _) in enumerate(points, 1)
    )
    return f'<ol class="ah-l-list">{items}</ol>'


def _label(row: Row) -> str:
    """A row's name, with what tells it from others of that name."""
    shots = "" if row.shots is None else f", {row.shots} shot{'s' * (row.shots != 1)}"
    return name_of(row) + shots


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between two, in percent."""
    return 100 * (value - low) / (high - low)


def _linear(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends and ticks of an axis of fractions of 1, some of it free on both sides."""
    spread = max(max(values) - min(values), 0.04)
    low, high = min(values) - 0.2 * spread, max(values) + 0.2 * spread
    step = next(one for one in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / one <= 6)
    ticks = [round(step * number, 6) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return low, high, ticks


def _decades(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends and ticks of an axis of seconds, as powers of ten."""
    left, right = math.log10(min(values)), math.log10(max(values))
    pad = max(0.12 * (right - left), 0.18)
    left, right = left - pad, right + pad
    ticks = [math.log10(one) for one in _TIMES if left <= math.log10(one) <= right]
    return left, right, ticks[:: 1 + len(ticks) // 9]


def _tick(power: float) -> str:
    spent = round(10**power, 2)
    return f"{spent:g} s" if spent < 60 else f"{spent / 60:g} min" if spent < 3600 else f"{spent / 3600:g} h"


def products(visit: Visit) -> str:
    """The leading metric of each product: of the best row of each origin, and of the best others."""
    asked = visit.asked
    if asked.dataset == "*":
        return '<p class="ah-none">Choose one data set in step 1, and its products are compared here.</p>'
    metric = leaderboard.leading(visit.shown, asked)
    able = [
        (number, row)
        for number, row in enumerate(visit.shown)
        if sum(row.value(name, metric).mean is not None for name in row.products if name != MEAN) > 1
    ]
    if not able:
        return '<p class="ah-none">No row here has figures of more than one product.</p>'
    able.sort(key=lambda one: -(one[1].value(MEAN, metric).mean or 0.0))
    first = list({row.origin: (number, row) for number, row in reversed(able)}.values())
    others = {row.method: (number, row) for number, row in reversed(able)}  # the best row of each method
    known = {row.method for _, row in first}
    more = sorted((one for name, one in others.items() if name not in known), key=lambda one: able.index(one))
    series = (first + more)[:_SERIES]
    series.sort(key=lambda one: -(one[1].value(MEAN, metric).mean or 0.0))
    names = [name for name in leaderboard.products([row for _, row in series]) if name != MEAN] + [MEAN]
    values = [row.value(name, metric).mean for _, row in series for name in names]
    low, high, ticks = _linear([value for value in values if value is not None])
    low, high = max(low, min(0.0, low)), min(high, 1.0) if high > 1.0 else high
    lines = "".join(_line(name, series, metric, low, high) for name in names)
    axis = "".join(
        f'<i style="left:{_share(tick, low, high):.1f}%">{100 * tick:g}</i>' for tick in ticks if low <= tick <= high
    )
    legend = "".join(
        f'<li><button type="button" data-index="{number}"><b class="ah-l-s{place}"></b>'
        f"<span>{escape(_label(row))}</span>{pill(row)}</button><span>{figure(row.value(MEAN, metric))}</span></li>"
        for place, (number, row) in enumerate(series)
    )
    title = metric_title(metric)
    return (
        f"<h3>{escape(title[:1].upper() + title[1:])} of each product, %</h3>"
        f'<ol class="ah-l-list ah-l-keys">{legend}</ol>'
        f'<table class="ah-l-dots"><tbody>{lines}<tr class="ah-l-axis"><th></th><td><div>{axis}</div></td></tr></tbody>'
        "</table>"
    )


def _line(name: str, series: Sequence[tuple[int, Row]], metric: str, low: float, high: float) -> str:
    dots = []
    for place, (_, row) in enumerate(series):
        value = row.value(name, metric).mean
        if value is not None:
            text = escape(f"{_label(row)}: {100 * value:.1f}")
            left = min(max(_share(value, low, high), 0.0), 100.0)
            dots.append(f'<b class="ah-l-s{place}" style="left:{left:.1f}%" title="{text}"></b>')
    return (
        f'<tr class="{"ah-l-mean" * (name == MEAN)}"><th scope="row">{escape(name)}</th>'
        f"<td><div>{''.join(dots)}</div></td></tr>"
    )
