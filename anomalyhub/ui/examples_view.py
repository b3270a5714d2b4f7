"""The examples of the Classify tab as a board of columns, on which board.js works as on the one of kinds."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

from anomalyhub.data import read_image, read_mask
from anomalyhub.errors import AnomalyHubError, InvalidImageError
from anomalyhub.regions import crop_boxes
from anomalyhub.report.kinds import kind_color
from anomalyhub.report.overlay import fit_within, outline
from anomalyhub.ui.board_view import BATCH, message, picture_dialog
from anomalyhub.ui.examples import Example, Shelf, shelf_of
from anomalyhub.ui.views import picture_url

_SIDE, _LARGE = 176, 760


def shelf_html(shelf: Shelf, said: str = "", version: int = 0) -> str:
    """The toolbar and a column per kind; said and version as those of `board_view.board_html`."""
    kinds = shelf.kinds
    columns = "".join(_column(kind, examples, list(kinds)) for kind, examples in kinds.items())
    return (
        f'<div class="ah-board" data-job="{shelf.token}" data-version="{version}">'
        f'<p class="ah-heard" role="status">{escape(said)}</p>{_toolbar(shelf, list(kinds))}'
        f'<div class="ah-columns">{columns}{_NEW}</div></div>'
    )


_NEW = (
    '<section class="ah-column ah-new" data-new aria-label="new kind"><button type="button" data-deed="new" disabled>'
    "<b>＋</b>New kind<span>drop examples here, or select some and press</span></button></section>"
)
_TOOLS = "".join(
    f'<button type="button" data-deed="{deed}" title="{title}" disabled>{text}</button>'
    for deed, title, text in (
        ('mark" data-mark="remove', "these are no examples", "Remove"),
        ("look", "double click, or Enter", "Look closer"),
        ("none", "select nothing", "Clear"),
    )
)


def _toolbar(shelf: Shelf, kinds: Sequence[str]) -> str:
    undo, redo = "" if shelf.can_undo else " disabled", "" if shelf.can_redo else " disabled"
    options = "".join(f'<option value="{escape(kind)}">{escape(kind)}</option>' for kind in kinds)
    return (
        '<div class="ah-toolbar" role="toolbar" aria-label="examples">'
        f'<button type="button" data-deed="undo" title="Ctrl+Z"{undo}>↶ Undo</button>'
        f'<button type="button" data-deed="redo" title="Ctrl+Y"{redo}>↷ Redo</button>'
        '<span class="ah-count" aria-live="polite"></span><span class="ah-selected">'
        '<select data-deed="move" aria-label="move the selected examples to" disabled>'
        f'<option value="">Move to …</option>{options}<option value="" data-new>＋ new kind</option></select>'
        f"{_TOOLS}</span></div>"
    )


def _column(kind: str, examples: Sequence[Example], kinds: Sequence[str]) -> str:
    name, color = escape(kind), kind_color(kind, sorted(kinds))
    others = "".join(f'<option value="{escape(one)}">{escape(one)}</option>' for one in kinds if one != kind)
    merge = f'<select data-deed="merge" aria-label="merge into"><option value="">Merge into …</option>{others}</select>'
    menu = (
        '<details class="ah-menu"><summary aria-label="what to do with this kind" title="more">⋯</summary><div>'
        f'{merge if others else ""}<button type="button" data-deed="all">Select all</button>'
        '<button type="button" data-deed="markall" data-mark="remove">Remove this kind</button></div></details>'
    )
    facts = "1 example: one more, and it can be checked" if len(examples) == 1 else f"{len(examples)} examples"
    return (
        f'<section class="ah-column" data-column="{name}" aria-label="{name}, {facts}">'
        f'<header><i class="ah-dot" style="background:{color};border-color:{color}"></i>'
        f'<input value="{name}" maxlength="60" spellcheck="false" aria-label="name of this kind" '
        f'title="click to rename"><b>{len(examples)}</b>{menu}</header>'
        f'<p class="ah-soft">{facts}</p><ul class="ah-crops" role="listbox" aria-multiselectable="true" '
        f'aria-label="examples of {name}">{"".join(map(_tile, examples))}</ul></section>'
    )


def _tile(one: Example) -> str:
    name = escape(one.ref.id)
    return (
        '<li class="ah-crop" role="option" aria-selected="false" draggable="true" tabindex="-1" '
        f'data-crop="{one.number}" data-mark="" title="{name}" aria-label="{name}">'
        f'<img data-picture="{one.number}" alt="" draggable="false"></li>'
    )


def pictures(asked: Any) -> dict[str, str]:
    """Examples to data URLs; asked is {"job": the shelf's token, "crops": [...]}, and anything else gives nothing."""
    try:
        shelf, wanted = shelf_of(asked["job"]), {int(number) for number in asked["crops"][:BATCH]}
    except (KeyError, TypeError, ValueError):
        return {}
    examples = [one for one in shelf.state if one.number in wanted] if shelf else ()
    return {str(one.number): picture_url(picture(one, _SIDE)) for one in examples}


def picture(one: Example, side: int) -> np.ndarray:
    """The image, or where a board has marked its defect the crop around that; one that has gone is grey."""
    try:
        image = read_image(one.ref.path)
        if one.ref.masks:
            mask = read_mask(one.ref.masks, image.shape[:2])
            x0, y0, x1, y1 = crop_boxes(mask, image.shape)[0]
            image, mask = image[y0:y1, x0:x1], mask[y0:y1, x0:x1]
            scale = side / max(image.shape[:2])
            size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
            mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            return outline(image, mask)
        return fit_within(image, side)
    except (InvalidImageError, IndexError):
        return np.full((side, side, 3), 128, np.uint8)


def look(asked: Any) -> str:
    """A dialog with one example, large: {"job": the shelf's token, "crop": number}."""
    try:
        one = shelf_of(asked["job"]).find(int(asked["crop"]))
        image = read_image(one.ref.path)
        shown = fit_within(image, _LARGE)
        if one.ref.masks:
            mask = read_mask(one.ref.masks, image.shape[:2]).astype(np.float32)
            shown = outline(shown, fit_within(mask, _LARGE) > 0)
        rows = [
            ("Kind", escape(str(one.ref.label))),
            ("Image", f"{image.shape[1]} x {image.shape[0]} pixels"),
            ("Defect", "marked on the Discover board" if one.ref.masks else "where the detector finds it"),
        ]
        return picture_dialog(one.ref.id, shown, rows)
    except InvalidImageError as error:
        return message(str(error).replace(str(one.ref.path), one.ref.id))
    except (AnomalyHubError, AttributeError, KeyError, TypeError, ValueError):
        return message("It is not there any more: load the page again.")
