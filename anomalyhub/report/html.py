"""Pieces of an HTML page that is one file: pictures as data URLs, charts as SVG, no script, nothing fetched.

Every function takes plain texts and escapes them, but for parameters called `html`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from anomalyhub.report.plots import shortened

_CSS = Path(__file__).with_name("report.css")
# The page may not load or run anything, whatever a name in it says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Bar(NamedTuple):
    """A bar of a Pareto chart; `color` is any CSS colour."""

    name: str
    count: int
    color: str


class Lane(NamedTuple):
    """A row of a histogram: what it shows, its values, and the CSS classes of bars up to the threshold and above."""

    name: str
    values: np.ndarray
    below: str
    above: str


def text(value: object, longest: int = 80) -> str:
    """A text from outside: on one line, shortened in the middle, unprintable characters as "?", escaped."""
    return escape(shortened(str(value), longest))


def picture_url(image: np.ndarray, quality: int = 80) -> str:
    """An (H, W, 3) uint8 RGB image as a JPEG in a data URL."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def picture(image: np.ndarray | str, alt: str, quality: int = 80) -> str:
    """An <img> of an image, or of a data URL."""
    url = image if isinstance(image, str) else picture_url(image, quality)
    return f'<img src="{url}" alt="{text(alt, 200)}">'


def page(title: str, html: str) -> str:
    """A whole document in English, light or dark as the reader prefers, light on paper."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>\n{_CSS.read_text(encoding='utf-8')}</style></head>\n"
        f"<body><main>{html}</main></body></html>\n"
    )


def section(title: str, html: str) -> str:
    """A part of the page under a heading."""
    return f"\n<section><h2>{escape(title)}</h2>{html}</section>"


def table(head: Sequence[str], html_rows: Iterable[Sequence[str]], caption: str | None = None) -> str:
    """A table; its cells are HTML. The first column is its rows' header."""
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in html_rows)
    titles = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{said}<thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>'


def details(summary: str, html: str) -> str:
    """What is folded away on a screen, and printed."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def definitions(rows: Iterable[tuple[str, str]], kind: str = "model") -> str:
    """Names and texts side by side."""
    return f'<dl class="{kind}">{"".join(f"<dt>{escape(a)}</dt><dd>{text(b, 400)}</dd>" for a, b in rows)}</dl>'


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{text(line, 600)}</li>' for line in lines)}</ul>"


def pareto(bars: Sequence[Bar], total: int, unit: str) -> str:
    """Bars as shares of `total`, in the order given, and the line of their sums; bars and line have one scale."""
    width, row = 440, 38
    sums = np.cumsum([bar.count for bar in bars]) / max(total, 1)
    shapes, names, dots = [], [], []
    for number, (bar, reached) in enumerate(zip(bars, sums, strict=True)):
        y = row * number
        share = bar.count / max(total, 1)
        shapes.append(f'<rect class="track" x="0" y="{y + 18}" width="{width}" height="12" rx="3"/>')
        long = max(2.0, width * share)
        shapes.append(f'<rect x="0" y="{y + 18}" width="{long:.1f}" height="12" rx="3" fill="{escape(bar.color)}"/>')
        count = f"{bar.count:,} ({percent(share)})"
        names.append(
            f'<text class="halo" x="0" y="{y + 13}">{text(bar.name, 40)} <tspan class="faint">{count}</tspan></text>'
        )
        dots.append((width * float(reached), y + 24))
    line = " ".join(f"{x:.1f},{y}" for x, y in dots)
    marks = "".join(f'<circle class="cumulative" cx="{x:.1f}" cy="{y}" r="3.5"/>' for x, y in dots)
    foot = row * len(bars) + 4
    axis = "".join(
        f'<text class="faint" x="{width * at}" y="{foot + 14}" text-anchor="{anchor}">{round(100 * at)} %</text>'
        for at, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    label = f"Pareto chart of {unit} by kind: " + ", ".join(f"{bar.name} {bar.count}" for bar in bars)
    return (
        f'<figure><svg viewBox="0 -2 {width} {foot + 20}" role="img" aria-label="{text(label, 600)}">{"".join(shapes)}'
        f'<polyline class="cumulative" points="{line}"/>{"".join(names)}{marks}{axis}</svg>'
        f'<figcaption class="legend">Bars: share of {total:,} {escape(unit)}. '
        "Line: the kinds so far, added up.</figcaption></figure>"
    )


def histogram(lanes: Sequence[Lane], threshold: float, bins: int = 48) -> str:
    """Values as bars, a row per lane that has some, on one axis with the threshold."""
    lanes = [lane for lane in lanes if len(lane.values)]
    everything = np.concatenate([lane.values for lane in lanes] + [np.array([threshold])]).astype(np.float64)
    low, high = float(everything.min()), float(everything.max())
    pad = 0.03 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - pad, high + pad
    width, tall, top = 480, 74, 20
    edges = np.linspace(low, high, bins + 1)
    shapes, names, foot = [], [], top + tall * len(lanes)
    for number, lane in enumerate(lanes):
        base = top + tall * (number + 1)
        shapes += _bars(lane, edges, threshold, base, width, tall)
        shapes.append(f'<path class="axis" d="M0 {base}H{width}"/>')
        names.append(f'<text class="halo faint" x="0" y="{base - tall + 16}">{text(lane.name, 60)}</text>')
    at = width * (threshold - low) / (high - low)
    anchor = "start" if at < width / 2 else "end"
    marks = "".join(
        f'<text class="faint" x="{width * (tick - low) / (high - low):.1f}" y="{foot + 16}" text-anchor="middle">'
        f"{tick:.4g}</text>"
        for tick in _ticks(low, high)
    )
    label = f"Histogram of anomaly scores with the threshold at {threshold:.4g}; the table below has its figures"
    return (
        f'<figure><svg viewBox="0 0 {width} {foot + 22}" role="img" aria-label="{label}">{"".join(shapes)}'
        f'<path class="threshold" d="M{at:.1f} 4V{foot}"/>{"".join(names)}'
        f'<text class="halo" x="{at + (6 if anchor == "start" else -6):.1f}" y="13" text-anchor="{anchor}">'
        f"threshold {threshold:.4g}</text>{marks}</svg></figure>"
    )


def _bars(lane: Lane, edges: np.ndarray, threshold: float, base: int, width: int, tall: int) -> list[str]:
    """Stacked: a bin that the threshold cuts has both colours."""
    over = lane.values > threshold
    counts = [np.histogram(lane.values[part], edges)[0] for part in (~over, over)]
    unit = (tall - 26) / max(1, int(sum(counts).max()))
    bin_width = width / (len(edges) - 1)
    bars = []
    for index in np.flatnonzero(sum(counts)):
        y = float(base)
        for count, kind in zip(counts, (lane.below, lane.above), strict=True):
            high = max(1.5, unit * int(count[index])) if count[index] else 0.0
            y -= high
            if high:
                bars.append(
                    f'<rect class="{kind}" x="{bin_width * index:.1f}" y="{y:.1f}" width="{bin_width - 1:.1f}" '
                    f'height="{high:.1f}"/>'
                )
    return bars


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers inside."""
    rough = (high - low) / 5
    step = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
    first = math.ceil((low + 0.02 * (high - low)) / step)
    last = math.floor((high - 0.02 * (high - low)) / step)
    return [number * step for number in range(first, last + 1)]


def percent(share: float) -> str:
    """A share in [0, 1] for people: "0.4 %", "37 %"."""
    value = 100 * share
    return (
        f"{value:.0f} %"
        if value >= 9.95 or value == round(value)
        else f"{value:.1f} %"
        if value >= 0.05
        else "under 0.1 %"
    )
