"""Where the errors of chains of detector, binarizer and classifier come from, as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = {
    "right": "#15803d",
    "verdict": "#b45309",
    "binarization": "#7c3aed",
    "map": "#0369a1",
    "classifier": "#be123c",
}
_WORDS = {
    "right": "right",
    "verdict": "lost to the verdict",
    "binarization": "lost to the binarization",
    "map": "lost to the map",
    "classifier": "lost to the classifier",
}
_MOST = 24


def lost_figure(summary: Sequence[Mapping[str, Any]], dark: bool = False) -> Figure:
    """One bar per row of `Swapped.summary`, at most 24: the share of right images, then what each stage loses.

    A stage that loses less than nothing has no bar of its own.
    """
    from matplotlib.figure import Figure

    ink = "#e4e4e7" if dark else "#18181b"
    rows = list(summary)[:_MOST]
    figure = Figure(figsize=(9.0, 1.3 + 0.42 * len(rows)), layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    start = [0.0] * len(rows)
    for name, color in _COLORS.items():
        values = [row["accuracy"][0] if name == "right" else row["lost"][name] for row in rows]
        widths = [max(0.0, value or 0.0) for value in values]
        if name == "right" or any(widths):
            axes.barh(range(len(rows)), widths, left=start, color=color, height=0.66, label=_WORDS[name])
        start = [left + width for left, width in zip(start, widths, strict=True)]
    for place, row in enumerate(rows):
        mean, spread = row["accuracy"]
        text = f"{100 * mean:.1f}" + (f" \u00b1 {100 * spread:.1f}" if spread is not None else "")
        axes.text(0.008, place, text, va="center", ha="left", color="#ffffff", fontsize=8)
    names = [" + ".join(row[key] for key in ("detector", "binarizer", "classifier")) for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8, color=ink, parse_math=False)
    axes.set_xlim(0, max(1.0, *start) if rows else 1.0)
    axes.set_xlabel("share of the test images", color=ink, fontsize=9)
    axes.tick_params(colors=ink, labelsize=8, length=0)
    axes.invert_yaxis()
    for side in axes.spines.values():
        side.set_visible(False)
    if rows:
        legend = figure.legend(loc="outside upper center", ncols=5, fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_color(ink)
    return figure


def write_lost(summary: Sequence[Mapping[str, Any]], path: Path) -> None:
    """`lost_figure` as a PNG on white."""
    lost_figure(summary).savefig(path, dpi=130, facecolor="white")
