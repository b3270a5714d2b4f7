"""Figures as matplotlib Figure objects: no pyplot, no global state. Save with `figure.savefig(file, dpi=…)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from anomalyhub.errors import InvalidArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Colors(NamedTuple):
    ink: str
    line: str
    normal: str
    unknown: str
    defective: str


#: Normal against defective stays apart for the common kinds of colour blindness (Okabe and Ito, 2008).
_LIGHT = _Colors(ink="#27272a", line="#a1a1aa", normal="#0072b2", unknown="#7a7a85", defective="#d55e00")
_DARK = _Colors(ink="#f4f4f5", line="#71717a", normal="#56b4e9", unknown="#a1a1aa", defective="#ff8c42")


def score_histogram(
    held_out_normal_scores: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None,
    threshold: float,
    *,
    dark: bool = False,
    facecolor: str | None = None,
) -> Figure:
    """Image scores of held-out normal images against those of inspected ones, each as a share of its group.

    held_out_normal_scores  (M,) raw scores of normal images that the detector did not see; may be empty
    scores                  (N,) raw scores of the inspected images; may be empty
    labels                  (N,) bool, True where defective; None when unknown
    threshold               drawn as a line, in the scores' units
    dark, facecolor         light text; the ground's colour, transparent when None
    """
    held_out, scores = np.ravel(held_out_normal_scores), np.ravel(scores)
    colors = _colors(dark)
    groups = [("held-out normal", held_out, colors.normal, "step")]
    if labels is None:
        groups.append(("inspected", scores, colors.unknown, "bar"))
    else:
        defective = _flags(labels, scores)
        groups += [("good", scores[~defective], colors.normal, "bar")]
        groups += [("defective", scores[defective], colors.defective, "bar")]
    figure, (axes,) = _figure(6.4, 3.4, 1, dark, facecolor)
    everything = np.concatenate([held_out, scores, [threshold]])
    low, high = float(everything.min()), float(everything.max())
    pad = 0.02 * (high - low) or 0.05 * abs(high) or 1.0
    bins = np.linspace(low - pad, high + pad, 41)
    for name, values, color, kind in groups:
        if len(values):
            share, _ = np.histogram(values, bins)
            share = share / len(values)
            style = {"fill": True, "alpha": 0.55} if kind == "bar" else {"linewidth": 1.6}
            axes.stairs(share, bins, color=color, label=f"{name} ({len(values)})", **style)
    line = {"color": colors.ink, "linewidth": 1.4, "linestyle": (0, (4, 2))}
    axes.axvline(threshold, label=f"threshold {threshold:.4g}", **line)
    axes.set_xlim(bins[0], bins[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("anomaly score")
    axes.set_ylabel("share of images")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.legend(frameon=False, labelcolor=colors.ink)
    return figure


def roc_curve_plot(
    labels: np.ndarray, scores: np.ndarray, *, dark: bool = False, facecolor: str | None = None
) -> Figure:
    """Detection rate over false-alarm rate of image scores, with the area under it.

    labels  (N,) bool, True where defective        scores  (N,) raw, higher is worse

    With one class only, the curve is undefined and the figure says so.
    """
    scores = np.ravel(scores)
    defective = _flags(labels, scores)
    colors = _colors(dark)
    figure, (axes,) = _figure(4.2, 4.0, 1, dark, facecolor)
    axes.plot([0, 1], [0, 1], color=colors.line, linewidth=1, linestyle=(0, (4, 3)))
    if defective.any() and not defective.all():
        order = np.argsort(-scores, kind="stable")
        # tied scores are one threshold
        last = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
        hits = np.r_[0, np.cumsum(defective[order])[last]] / defective.sum()
        alarms = np.r_[0, np.cumsum(~defective[order])[last]] / (~defective).sum()
        area = float(np.sum(np.diff(alarms) * (hits[1:] + hits[:-1]) / 2))
        axes.fill_between(alarms, hits, color=colors.normal, alpha=0.12, linewidth=0)
        axes.plot(alarms, hits, color=colors.normal, linewidth=2)
        text = f"AUROC {area:.4f}"
    else:
        text = "AUROC n/a: only one class" if len(scores) else "AUROC n/a: no images"
    axes.text(0.97, 0.05, text, ha="right", color=colors.ink, fontsize=11, transform=axes.transAxes)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xlabel("false alarms among good images")
    axes.set_ylabel("found among defective images")
    return figure


def contact_sheet(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int = 4,
    *,
    dark: bool = False,
    facecolor: str | None = None,
) -> Figure:
    """Images in rows of `columns`, each with a title (shortened in the middle); images may differ in size.

    images  (H, W, 3) uint8 RGB each        titles  as many
    """
    if len(images) != len(titles) or columns < 1:
        raise InvalidArgumentError(
            f"a contact sheet needs one title per image and a column, got {len(images)} images, "
            f"{len(titles)} titles and {columns} columns"
        )
    columns = max(1, min(columns, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    tallest = max((image.shape[0] / image.shape[1] for image in images), default=1.0)
    height = 2.3 * min(max(tallest, 0.3), 2.0) + 0.35
    figure, cells = _figure(2.4 * columns, height * rows, rows, dark, facecolor, columns)
    for cell in cells:
        cell.axis("off")
    for cell, image, title in zip(cells, images, titles, strict=False):
        cell.imshow(image, interpolation="antialiased")
        short = title if len(title) <= 32 else f"{title[:14]}…{title[-17:]}"
        # a name may hold a dollar sign or bytes that are not text
        readable = short.encode("utf-8", "replace").decode()
        cell.set_title(readable, fontsize=9, color=_colors(dark).ink, parse_math=False)
    return figure


def _flags(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    labels = np.ravel(labels).astype(bool)
    if len(labels) != len(scores):
        raise InvalidArgumentError(f"labels must have one entry per score ({len(scores)}), got {len(labels)}")
    return labels


def _colors(dark: bool) -> _Colors:
    return _DARK if dark else _LIGHT


def _figure(
    width: float, height: float, rows: int, dark: bool, facecolor: str | None, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure in inches and its axes, row by row."""
    from matplotlib.figure import Figure  # half a second that `anomalyhub --help` need not wait

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=facecolor or "none")
    ink, line = _colors(dark)[:2]
    all_axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axes in all_axes:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(line)
        axes.tick_params(color=line, labelcolor=ink, labelsize=9)
        axes.xaxis.label.set_color(ink)
        axes.yaxis.label.set_color(ink)
        axes.grid(axis="y", color=line, alpha=0.25, linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, all_axes
