"""Figures as matplotlib Figure objects: no pyplot, no global state. Save with `figure.savefig(file, dpi=…)`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.types import UNKNOWN

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

#: Twelve colours for the common kinds of colour blindness (Krzywinski, "Color palettes for color blindness", 2020), in
#: an order that puts unlike ones first. Beyond twelve, the marker changes.
PALETTE = ("#008df9", "#ff6e3a", "#009f81", "#8400cd", "#ffc33b", "#ff5aaf",
           "#a40122", "#00fccf", "#ffb2fd", "#00c2f9", "#9f0162", "#e20134")  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LEGEND = 24


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
        cell.set_title(shortened(title), fontsize=9, color=_colors(dark).ink, parse_math=False)
    return figure


def tsne_plot(
    embeddings: np.ndarray,
    clusters: Sequence[str],
    labels: Sequence[str] | None = None,
    *,
    seed: int = 0,
    dark: bool = False,
    facecolor: str | None = None,
    limit: int = 2000,
) -> Figure:
    """Embeddings in the plane (t-SNE, van der Maaten and Hinton 2008), coloured by cluster.

    embeddings  (N, D) finite; Euclidean distances count
    clusters    (N,) names; "unknown" is grey
    labels      (N,) names of the true classes: a second panel shows the same points by them, a class in the colour of
                its cluster after the one-to-one assignment that maximises matches, so that what differs is wrong
    limit       of more points, a random part of this size is drawn; at least 3

    Equal for equal arguments on one machine. Below three points the figure says that three are needed.
    """
    embeddings = np.asarray(embeddings, np.float64)
    kinds = [np.asarray(names, dtype=str) for names in (clusters, labels) if names is not None]
    if embeddings.ndim != 2 or any(names.shape != embeddings.shape[:1] for names in kinds) or limit < 3:
        raise InvalidArgumentError(
            "embeddings must have shape (N, D), clusters and labels one name per row, and the limit must be at least "
            f"3, got {embeddings.shape}, {' and '.join(str(names.shape) for names in kinds)} and {limit}"
        )
    if not np.isfinite(embeddings).all():
        raise InvalidArgumentError("embeddings must be finite, got NaN or infinity: leave out those rows")
    total = len(embeddings)
    if total > limit:
        drawn = np.sort(np.random.default_rng(seed).choice(total, limit, replace=False))
        embeddings, kinds = embeddings[drawn], [names[drawn] for names in kinds]
    names = [sorted(set(found.tolist()), key=_reading_order) for found in kinds]
    entries = min(max(map(len, names), default=0), _LEGEND + 1)
    size = (5.2 * len(kinds), 4.6 + 0.2 * math.ceil(entries / 3))
    figure, all_axes = _figure(*size, 1, dark, facecolor, len(kinds))
    styles = [{name: index for index, name in enumerate(name for name in names[0] if name != UNKNOWN)}]
    if labels is not None:
        styles.append(_matching_styles(kinds, names, styles[0]))
    points = _tsne(embeddings, seed)
    part = f"{len(embeddings)} of {total} regions, " if total > limit else ""
    for axes, found, named, style, by in zip(all_axes, kinds, names, styles, ("cluster", "true class"), strict=False):
        _bare(axes)
        axes.set_title(f"{part}by {by}", fontsize=11, color=_colors(dark).ink)
        if points is None:
            text = f"t-SNE needs at least 3 regions, got {total}"
            axes.text(0.5, 0.5, text, ha="center", va="center", color=_colors(dark).ink, transform=axes.transAxes)
        else:
            _scatter(axes, points, found, named, style, _colors(dark))
    return figure


def confusion_plot(
    matrix: np.ndarray,
    true_names: Sequence[str],
    cluster_names: Sequence[str],
    *,
    title: str = "",
    named: bool = False,
    dark: bool = False,
    facecolor: str | None = None,
) -> Figure:
    """How many samples of each true class are in each cluster, or were given each name.

    matrix  (T, P) counts; row: true class, column: cluster
    named   the columns are names that a classifier gives: they keep their order, and a class's own name is framed

    Columns of clusters are in the order of the one-to-one assignment that maximises matches (Hungarian), framed where
    assigned, then those without a class, largest first. A cell's colour is its share of its row. Empty input gives a
    figure that says so. Raises InvalidArgumentError if the names do not fit the matrix or a count is negative or NaN.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(true_names), len(cluster_names)) or not np.all(matrix >= 0):
        raise InvalidArgumentError(
            f"matrix must hold counts, 0 or more, of shape ({len(true_names)}, {len(cluster_names)}), one row per true "
            f"class and one column per cluster, got shape {matrix.shape} and values from {matrix.min(initial=0)}"
        )
    colors = _colors(dark)
    rows, columns = matrix.shape
    cell = max(0.2, min(0.62, 24 / max(rows, columns, 1)))
    width, height = 2.4 + cell * columns, 1.9 + cell * rows
    figure, (axes,) = _figure(max(width, 4.0), max(height, 2.6), 1, dark, facecolor)
    axes.grid(False)
    axes.set_title(shortened(title, 90), fontsize=11, color=colors.ink, parse_math=False)
    if not matrix.size:
        _bare(axes)
        text = "no labelled regions"
        axes.text(0.5, 0.5, text, ha="center", va="center", color=colors.ink, transform=axes.transAxes)
        return figure
    if named:
        order = list(range(columns))
        own = [(column, true_names.index(name)) for column, name in enumerate(cluster_names) if name in true_names]
    else:
        order, matched = _hungarian_order(matrix)
        own = list(enumerate(matched))
    matrix = matrix[:, order]
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    picture = np.dstack([np.broadcast_to(to_rgb(colors.normal), (rows, columns, 3)), 0.92 * share])
    axes.imshow(picture, interpolation="nearest", aspect="equal")
    strong, above = ("#18181b", 0.7) if dark else ("#ffffff", 0.88)  # where its contrast is the better one
    for row, column in np.argwhere(matrix > 0) if cell >= 0.3 else []:
        ink = strong if share[row, column] > above else colors.ink
        count = f"{matrix[row, column]:g}"
        axes.text(column, row, count, ha="center", va="center", color=ink, fontsize=8 if len(count) < 5 else 6)
    for column, row in own:
        corner = column - 0.5, row - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colors.ink, linewidth=1.4, clip_on=False))
    sums = [matrix.sum(axis=axis) for axis in (1, 0)]
    rows_text = [f"{shortened(name, 24)} ({n:g})" for name, n in zip(true_names, sums[0], strict=True)]
    columns_text = [f"{shortened(cluster_names[i], 24)} ({n:g})" for i, n in zip(order, sums[1], strict=True)]
    axes.set_yticks(range(rows), rows_text, parse_math=False)
    axes.set_xticks(range(columns), columns_text, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
    axes.tick_params(length=0, labelsize=9 if cell >= 0.3 else 6)
    axes.set_ylabel("true class")
    axes.set_xlabel("named as" if named else "cluster")
    return figure


def shortened(text: str, longest: int = 32) -> str:
    """The text on one line, its middle left out beyond `longest` characters; "?" for what cannot be printed."""
    # a file name may hold line breaks, or bytes that are not text
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    tail = max(longest, 3) // 2 + 1
    return text if len(text) <= longest else f"{text[: max(longest, 3) - 1 - tail]}…{text[-tail:]}"


def _tsne(embeddings: np.ndarray, seed: int) -> np.ndarray | None:
    """(N, 2) positions; None below three points."""
    if len(embeddings) < 3:
        return None
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # sums of several threads round differently from run to run
        u, s, _ = np.linalg.svd(embeddings - embeddings.mean(axis=0), full_matrices=False)
        components = (u * s)[:, :50]
        # scikit-learn's own start divides by a spread of 0 where all points are equal
        spread = components.std(axis=0).max(initial=0) or 1.0
        start = np.zeros((len(u), 2), np.float32)
        start[:, : components.shape[1]] = components[:, :2] / spread * 1e-4
        perplexity = min(30.0, max(1.0, (len(u) - 1) / 3))
        return TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(components.astype(np.float32))


def _scatter(
    axes: Axes, points: np.ndarray, found: np.ndarray, names: list[str], style: dict[str, int], colors: _Colors
) -> None:
    """Points with one colour and marker per name, and a legend below, which leaves out the smallest of many."""
    size = max(9.0, min(42.0, 6000 / len(points)))
    drawn = []
    for name in names:
        index = style.get(name)
        color = colors.unknown if index is None else PALETTE[index % len(PALETTE)]
        marker = "X" if index is None else _MARKERS[index // len(PALETTE) % len(_MARKERS)]
        x, y = points[found == name].T
        drawn.append(
            axes.scatter(x, y, s=size, color=color, marker=marker, edgecolors=colors.ink, linewidths=0.3, alpha=0.9)
        )
    texts = [f"{shortened(name, 22)} ({len(dots.get_offsets())})" for name, dots in zip(names, drawn, strict=True)]
    largest = sorted(range(len(names)), key=lambda i: -len(drawn[i].get_offsets()))[:_LEGEND]
    handles, texts = [drawn[i] for i in sorted(largest)], [texts[i] for i in sorted(largest)]
    if len(names) > _LEGEND:
        handles, texts = [*handles, axes.scatter([], [], color="none")], [*texts, f"and {len(names) - _LEGEND} more"]
    legend = axes.legend(
        handles, ["name"] * len(handles), loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=min(3, len(handles)),
        frameon=False, labelcolor=colors.ink, fontsize=8, handletextpad=0.2, columnspacing=1.0,
    )  # fmt: skip
    # afterwards, because a label may not begin with an underscore and mathematics must not be read in it
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set(text=text, parse_math=False)


def _matching_styles(kinds: list[np.ndarray], names: list[list[str]], style: dict[str, int]) -> dict[str, int]:
    """Styles of the true classes: their clusters', and new ones for those without."""
    clusters, classes = (np.array(named) for named in names)
    table = ((kinds[1] == classes[:, None])[:, None] & (kinds[0] == clusters[:, None])).sum(axis=2)
    order, matched = _hungarian_order(table)
    found = {names[1][row]: style.get(names[0][column]) for row, column in zip(matched, order, strict=False)}
    free = iter(range(len(style), len(style) + len(classes)))
    return {name: next(free) if found.get(name) is None else found[name] for name in names[1]}


def _hungarian_order(matrix: np.ndarray) -> tuple[list[int], list[int]]:
    """Columns, those that match a row in the order of the rows, then the others, largest first; those rows."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(matrix, maximize=True)
    matched = matrix[rows, columns] > 0
    rows, columns = rows[matched].tolist(), columns[matched].tolist()
    rest = sorted(set(range(matrix.shape[1])) - set(columns), key=lambda column: -matrix[:, column].sum())
    return columns + rest, rows


def _reading_order(name: str) -> list[tuple[bool, int, str]]:
    """kind_2 before kind_10, "unknown" last."""
    parts = [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in re.split(r"(\d+)", name)]
    return [(name == UNKNOWN, 0, ""), *parts]


def _bare(axes: Axes) -> None:
    """No ticks, no grid; a frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


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
