"""What the Discover tab shows, as HTML. Every name that comes from outside is escaped.

The board carries no pictures: board.js asks for those of the crops in sight (`pictures`) and keeps them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalyhub.data import SampleRef, read_image, read_mask
from anomalyhub.errors import InvalidImageError
from anomalyhub.report.clusters import cluster_sheet
from anomalyhub.report.overlay import fit_within, outline
from anomalyhub.review import Board, Column, class_counts
from anomalyhub.types import GOOD, UNKNOWN
from anomalyhub.ui.views import picture_url

PAGE = 60  #: crops of a column before "Show more"
#: Pictures that one request may ask for.
BATCH = 60
_LARGE = 760  # longer side in pixels of the picture of a whole image
_SHEET = 48  # crops on a contact sheet
_COLORS = 12  # of style.css, those of the t-SNE plot
_REGION = (255, 170, 40)  # the box of the region that was asked for
_TITLES = ("Choose images", "Find the kinds", "Correct and save")

_METRICS = {
    "nmi": ("NMI", "what the found kinds tell about the true ones: 0 nothing, 1 everything"),
    "ari": ("ARI", "pairs that are rightly together or apart, beyond chance: 0 chance, 1 all"),
    "f1": ("F1", "share in the right kind, after the best one-to-one naming of the kinds"),
}


def step_heads(done: Sequence[bool], texts: Sequence[str], titles: Sequence[str] = _TITLES) -> list[str]:
    """Head of each of the three steps: done, current or still to do, and what it holds."""
    current = list(done).index(False) if False in done else -1
    states = ["done" if one else "current" if i == current else "todo" for i, one in enumerate(done)]
    return [
        f'<div class="ah-head ah-{state}"><span class="ah-number">{"✓" if state == "done" else i + 1}</span>'
        f"<div><h2>{titles[i]}</h2><p>{escape(texts[i])}</p></div></div>"
        for i, state in enumerate(states)
    ]


def empty(title: str, text: str, picture: str = "") -> str:
    """The stage while there is no board: what there is and what to do next."""
    picture = picture or _PICTOGRAM
    return f'<div class="ah-empty">{picture}<h2>{escape(title)}</h2><p>{escape(text)}</p></div>'


_PICTOGRAM = (
    '<svg class="ah-pictogram" viewBox="0 0 232 84" role="img" aria-label="defects, sorted into kinds">'
    '<rect x="2" y="2" width="80" height="80" rx="10" class="ah-tile"/>'
    '<path d="M96 42h34m-9-8 9 8-9 8" class="ah-arrow"/>'
    + "".join(
        f'<circle cx="{x}" cy="{y}" r="7" class="ah-k{kind}"/>'
        for x, y, kind in ((20, 24, 0), (60, 20, 1), (38, 44, 2), (22, 64, 1), (64, 58, 0), (46, 68, 2))
    )
    + "".join(
        f'<rect x="{148 + 29 * kind}" y="2" width="24" height="80" rx="7" class="ah-tile"/>'
        + "".join(f'<circle cx="{160 + 29 * kind}" cy="{y}" r="7" class="ah-k{kind}"/>' for y in (18, 40))
        for kind in range(3)
    )
    + "</svg>"
)


def sample_pictures(refs: Sequence[SampleRef], count: int = 8) -> str:
    """Some of the images, evenly spaced."""
    chosen = sorted({round(i) for i in np.linspace(0, len(refs) - 1, min(count, len(refs)))})
    pictures = []
    for ref in (refs[index] for index in chosen):
        try:
            pictures.append(f'<img src="{picture_url(fit_within(read_image(ref.path), 200))}" alt="{escape(ref.id)}">')
        except InvalidImageError:  # gone since it was read
            continue
    return f'<div class="ah-normals">{"".join(pictures)}</div>' if pictures else ""


def summary(board: Board) -> str:
    """What was found, large, and what it has become."""
    images = {one.label: one.images for one in class_counts(board) if one.images}
    kinds = [label for label in images if label not in (None, GOOD, UNKNOWN)]
    regions = sum(region.area > 0 for region in board.findings.regions)
    apart = {GOOD: "normal", UNKNOWN: "unknown", None: "unsure"}
    parts = [f"{_counted(sum(images[kind] for kind in kinds), 'image')} in kinds"]
    parts += [f"{images[label]:,} {word}" for label, word in apart.items() if label in images]
    text = f"{_counted(regions, 'region')} in {_counted(len(board.findings.images), 'image')}; {', '.join(parts)}"
    text += f"; {_counted(board.n_steps, 'correction')} so far" if board.n_steps else ""
    return (
        f'<div class="ah-summary" role="status"><p class="ah-verdict"><b>{len(kinds)}</b> '
        f"{'kind' if len(kinds) == 1 else 'kinds'} in {escape(board.findings.product)}</p><p>{text}.</p></div>"
    )


def board_html(board: Board, job_id: str, shown: Mapping[str, int], said: str = "", version: int = 0) -> str:
    """The toolbar and the columns.

    shown    how many crops of a column are shown, where it is not PAGE
    said     what was done last, for screen readers
    version  a number that differs from that of the last rendering, so that the page takes back what was refused
    """
    columns, marks, colors = board.columns(), board.marks, _colors(board)
    names = [column.name for column in columns]
    parts = [_column(board, column, names, marks, colors, shown.get(column.name, PAGE)) for column in columns]
    return (
        f'<div class="ah-board" data-job="{escape(job_id)}" data-version="{version}">'
        f'<p class="ah-heard" role="status">{escape(said)}</p>{_toolbar(board, names)}'
        f'<div class="ah-columns">{"".join(parts)}{_NEW}</div></div>'
    )


_NEW = (
    '<section class="ah-column ah-new" data-new aria-label="new kind"><button type="button" data-deed="new" disabled>'
    "<b>＋</b>New kind<span>drop crops here, or select some and press</span></button></section>"
)


def _toolbar(board: Board, names: Sequence[str]) -> str:
    undo, redo = "" if board.can_undo else " disabled", "" if board.can_redo else " disabled"
    options = "".join(f'<option value="{escape(name)}">{escape(_shown(name))}</option>' for name in names)
    return (
        '<div class="ah-toolbar" role="toolbar" aria-label="board">'
        f'<button type="button" data-deed="undo" title="Ctrl+Z"{undo}>↶ Undo</button>'
        f'<button type="button" data-deed="redo" title="Ctrl+Y"{redo}>↷ Redo</button>'
        '<button type="button" data-deed="wide" aria-pressed="false" title="hide the steps">⇔ Wide</button>'
        '<span class="ah-count" aria-live="polite"></span><span class="ah-selected">'
        f'<select data-deed="move" aria-label="move the selected crops to" disabled><option value="">Move to …</option>'
        f'{options}<option value="" data-new>＋ new kind</option></select>{_TOOLS}</span></div>'
    )


_TOOLS = "".join(
    f'<button type="button" data-deed="{deed}" title="{title}" disabled>{text}</button>'
    for deed, title, text in (
        ('mark" data-mark="normal', "no defect after all", "Normal"),
        ('mark" data-mark="unsure', "kept out of what is saved", "Unsure"),
        ("look", "double click, or Enter", "Look closer"),
        ("none", "select nothing", "Clear"),
    )
)


def _shown(name: str) -> str:
    return {GOOD: "good (normal)"}.get(name, name)


def _colors(board: Board) -> dict[str, int]:
    """Columns to the numbers of the colours that their kinds have in the t-SNE plot."""
    found = {region.cluster for region in board.findings.regions}
    kinds = [kind for kind in board.findings.classes if kind in found]
    return {board.name_of(kind): number % _COLORS for number, kind in reversed(list(enumerate(kinds)))}


def _column(board, column: Column, names, marks: Mapping[int, str], colors: Mapping[str, int], limit: int) -> str:
    name = escape(column.name)
    crops = "".join(_crop(board, crop, column.name, marks.get(crop)) for crop in column.crops[:limit])
    more = len(column.crops) - limit
    button = f'<button type="button" class="ah-more" data-deed="more">Show {min(more, PAGE)} more of {more}</button>'
    facts = f"{_counted(column.n_images, 'image')} · {100 * column.probability:.0f} % sure"
    facts = {UNKNOWN: "unlike every known kind", GOOD: f"normal · {facts}"}.get(column.name, facts)
    plain = column.name != GOOD and not any(board.findings.regions[crop].area for crop in column.crops)
    hint = _PLAIN if plain and column.crops and column.mark != "normal" else ""
    color = f" ah-k{colors[column.name]}" if column.name in colors else ""
    return (
        f'<section class="ah-column" data-column="{name}" aria-label="{name}, {_counted(len(column.crops), "crop")}">'
        f'<header><i class="ah-dot{color}"></i><input value="{name}" maxlength="60" spellcheck="false" '
        f'aria-label="name of this kind" title="click to rename"><b>{len(column.crops)}</b>'
        f"{_menu(column, names)}</header>"
        f'<p class="ah-soft">{facts}</p>{hint}<ul class="ah-crops" role="listbox" aria-multiselectable="true" '
        f'aria-label="crops of {name}">{crops}</ul>{button if more > 0 else ""}</section>'
    )


_PLAIN = (
    '<button type="button" class="ah-hint" data-deed="markall" data-mark="normal">'
    "Nothing stands out in these: mark all normal</button>"
)


def _menu(column: Column, names: Sequence[str]) -> str:
    others = "".join(
        f'<option value="{escape(name)}">{escape(_shown(name))}</option>' for name in names if name != column.name
    )
    merge = f'<select data-deed="merge" aria-label="merge into"><option value="">Merge into …</option>{others}</select>'
    marks = [("All normal", "normal"), ("All unsure", "unsure")] + [("Clear marks", "")] * bool(column.mark)
    buttons = "".join(f'<button type="button" data-deed="markall" data-mark="{mark}">{t}</button>' for t, mark in marks)
    return (
        '<details class="ah-menu"><summary aria-label="what to do with this kind" title="more">⋯</summary><div>'
        f'{merge if others else ""}<button type="button" data-deed="split">Split in two</button>'
        f'<button type="button" data-deed="all">Select all shown</button>{buttons}'
        '<button type="button" data-deed="sheet">Contact sheet</button></div></details>'
    )


def _crop(board: Board, crop: int, column: str, mark: str | None) -> str:
    region = board.findings.regions[crop]
    name = board.findings.images[region.image].id
    what = f"region of {region.area:,} pixels" if region.area else "no region: the whole image"
    text = escape(f"{name}: {what}, {100 * region.probability:.0f} % sure" + f", marked {mark}" * bool(mark))
    badge = {"normal": "<em>normal</em>", "unsure": "<em>?</em>"}.get(mark or "", "")
    return (
        f'<li class="ah-crop" role="option" aria-selected="false" draggable="true" tabindex="-1" data-crop="{crop}" '
        f'data-mark="{mark or ""}" title="{text}" aria-label="{text}">'
        f'<img data-picture="{crop}" alt="" draggable="false">'
        f'{badge}<i style="width:{100 * region.probability:.0f}%"></i></li>'
    )


def pictures(board: Board, crops: Iterable[int]) -> dict[str, str]:
    """Crops to data URLs of their pictures; those that are not there, or beyond BATCH, are left out."""
    found = {}
    for crop in list(crops)[:BATCH]:
        data = _picture_bytes(board, crop) if 0 <= crop < len(board.findings.regions) else None
        if data is not None:
            found[str(crop)] = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return found


def _picture_bytes(board: Board, crop: int) -> bytes | None:
    try:
        return (board.result / board.findings.regions[crop].crop).read_bytes()
    except OSError:
        return None


def look(board: Board, crop: int) -> str:
    """The whole image of a crop with all its regions outlined, the crop itself, and what is known of it."""
    region = board.findings.regions[crop]
    image = board.findings.images[region.image]
    label = board.image_labels()[region.image]
    box = region.box
    rows = [
        ("Kind", f"{escape(_shown(board.column_of(crop)))}, {100 * region.probability:.1f} % sure when it was found"),
        ("Region", f"{region.area:,} pixels, score {region.score:.2f}" if region.area else "none: the whole image"),
        ("Crop", f"{box[2] - box[0]} x {box[3] - box[1]} pixels at {box[0]}, {box[1]}"),
        ("Image", f"{image.size[1]} x {image.size[0]} pixels, {escape(_shown(label) if label else 'unsure')}"),
    ]
    facts = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows)
    data = _picture_bytes(board, crop)
    url = "data:image/jpeg;base64," + base64.b64encode(data).decode() if data else ""
    return _dialog(
        escape(image.id),
        f'<div class="ah-pair"><figure>{_whole(board, crop)}<figcaption>Whole image</figcaption></figure>'
        f'<figure><img src="{url}" alt="crop"><figcaption>Crop</figcaption></figure></div>'
        f'<div class="ah-facts"><dl>{facts}</dl></div>',
        arrows=True,
    )


def _whole(board: Board, crop: int) -> str:
    region = board.findings.regions[crop]
    image = board.findings.images[region.image]
    try:
        pixels = read_image(Path(image.path))
        picture = fit_within(pixels, _LARGE)
        scale = picture.shape[1] / pixels.shape[1]
        if image.mask is not None:
            mask = read_mask([board.result / image.mask], pixels.shape[:2]).astype(np.float32)
            picture = outline(picture, fit_within(mask, _LARGE) > 0)
    except InvalidImageError as error:
        return f'<p class="ah-none">{escape(str(error).replace(image.path, image.id))}</p>'
    if region.area:
        x0, y0, x1, y1 = (round(scale * value) for value in region.box)
        picture = cv2.rectangle(np.ascontiguousarray(picture), (x0, y0), (x1 - 1, y1 - 1), _REGION, 2)
    return f'<img src="{picture_url(picture, 90)}" alt="{escape(image.id)} with its regions">'


def sheet(board: Board, name: str) -> str:
    """The crops of a column on one sheet, the most probable first."""
    column = next(column for column in board.columns() if column.name == name)
    crops = column.crops[:_SHEET]
    captions = [board.findings.images[board.findings.regions[crop].image].id for crop in crops]
    tiles = [_tile(board, crop) for crop in crops]
    made = [
        cluster_sheet(
            tiles, captions, f"{name}: {_counted(len(column.crops), 'crop')}", total=len(column.crops), dark=dark
        )
        for dark in (False, True)
    ]
    images = "".join(
        f'<img class="ah-on-{mode}" src="{picture_url(drawn, 88)}" alt="crops of {escape(name)}">'
        for mode, drawn in zip(("light", "dark"), made, strict=True)
    )
    return _dialog(escape(_shown(name)), f'<div class="ah-sheet">{images}</div>')


def _tile(board: Board, crop: int) -> np.ndarray:
    try:
        return read_image(board.result / board.findings.regions[crop].crop)
    except InvalidImageError:
        return np.full((96, 96, 3), 128, np.uint8)


def _dialog(title: str, content: str, arrows: bool = False) -> str:
    turn = (
        '<button type="button" data-go="-1" aria-label="previous">‹</button>'
        '<button type="button" data-go="1" aria-label="next">›</button>'
    )
    return (
        f'<div class="ah-detail"><header><h2>{title}</h2>{turn if arrows else ""}'
        f'<button type="button" data-close aria-label="close">✕</button></header>{content}</div>'
    )


def picture_dialog(title: str, picture: np.ndarray, rows: Sequence[tuple[str, str]]) -> str:
    """A dialog with one (H, W, 3) picture and facts about it, whose texts are HTML."""
    facts = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows)
    return _dialog(
        escape(title),
        f'<div class="ah-alone"><figure><img src="{picture_url(picture, 90)}" alt="{escape(title)}"></figure></div>'
        f'<div class="ah-facts"><dl>{facts}</dl></div>',
        arrows=True,
    )


def message(text: str) -> str:
    """A dialog that says why there is nothing else in it."""
    return _dialog("Not to be shown", f'<p class="ah-none">{escape(text)}</p>')


def sizes(board: Board) -> str:
    """How many images have each label, as bars; what is unsure last."""
    counts, colors = class_counts(board), _colors(board)
    largest = max((one.images for one in counts), default=0) or 1
    rows = []
    for one in counts:
        color = f"ah-k{colors[one.label]}" if one.label in colors else "ah-plain"
        name = "unsure, not saved" if one.label is None else _shown(one.label)
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td><span class="{color}" '
            f'style="width:{100 * one.images / largest:.1f}%"></span></td><td>{one.images}</td></tr>'
        )
    return f'<h3>Images of each kind</h3><table class="ah-sizes"><tbody>{"".join(rows)}</tbody></table>'


def plots(result: Path, metrics: Mapping[str, Any]) -> str:
    """Agreement with the labels where there are any, and the pictures that the discovery drew."""
    pictures = {
        "tsne": "Crops by likeness (t-SNE), as they were found",
        "confusion_image": "Images",
        "confusion_region": "Crops",
    }
    figures = []
    for name, title in pictures.items():
        try:
            data = base64.b64encode((result / "plots" / f"{name}.png").read_bytes()).decode()
        except OSError:
            continue
        figures.append(
            f'<figure class="ah-plot"><img src="data:image/png;base64,{data}" alt="{title}">'
            f"<figcaption>{title}</figcaption></figure>"
        )
    return f'{_agreement(metrics)}<div class="ah-plots">{"".join(figures)}</div>'


def _agreement(metrics: Mapping[str, Any]) -> str:
    found = {"Images": metrics.get("image"), "Crops": metrics.get("region")}
    rows = "".join(
        f'<tr><th scope="row">{level}</th>'
        + "".join(f"<td>{_figure(values.get(key))}</td>" for key in _METRICS)
        + "</tr>"
        for level, values in found.items()
        if isinstance(values, Mapping)
    )
    if not rows:
        return ""
    heads = "".join(f'<th scope="col"><abbr title="{hint}">{name}</abbr></th>' for name, hint in _METRICS.values())
    hints = "".join(f"<li><b>{name}</b> {hint}</li>" for name, hint in _METRICS.values())
    return (
        "<h3>Agreement with the labels, before any correction</h3>"
        f'<table class="ah-metrics"><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f'<ul class="ah-hints">{hints}</ul>'
    )


def _figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "n/a"


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
