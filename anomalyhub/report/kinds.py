"""Kinds of defect in pictures: a colour for each, and an image with its regions outlined and named."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anomalyhub.report.clusters import _fitted, _font
from anomalyhub.report.coco import UNNAMED
from anomalyhub.report.overlay import fit_within, outline
from anomalyhub.report.plots import PALETTE
from anomalyhub.types import UNKNOWN, Box, Inspection, Region

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

# The others are too dark to be seen around a region of a dark part.
_COLORS = tuple(color for color in PALETTE if color not in ("#8400cd", "#a40122", "#9f0162"))
_FIXED = {UNKNOWN: "#a6abb8", UNNAMED: "#ff6e3a"}
_MAX_TAGS = 12


def kind_color(kind: str, kinds: Sequence[str] = ()) -> str:
    """The colour "#rrggbb" of a kind: by its place in `kinds`, all of a model's, so that every run has the same.

    Nine colours repeat; "unknown" is grey.
    """
    if kind in _FIXED:
        return _FIXED[kind]
    place = kinds.index(kind) if kind in kinds else zlib.crc32(kind.encode("utf-8", "surrogateescape"))
    return _COLORS[place % len(_COLORS)]


def region_kinds(result: Inspection) -> list[tuple[str, float | None]]:
    """(kind, probability) of each region; "anomalous" and None where no classifier has named them."""
    return list(result.labels) if result.labels else [(UNNAMED, None)] * len(result.regions)


def kind_masks(result: Inspection) -> dict[str, np.ndarray]:
    """(H, W) bool per kind: the pixels of its regions, in the order of the largest."""
    masks: dict[str, np.ndarray] = {}
    for region, (kind, _) in zip(result.regions, region_kinds(result), strict=True):
        x0, y0, x1, y1 = region.box
        mask = masks.setdefault(kind, np.zeros(region.mask.shape, bool))
        mask[y0:y1, x0:x1] |= region.mask[y0:y1, x0:x1]
    return masks


def kind_overlay(
    image: np.ndarray,
    result: Inspection,
    kinds: Sequence[str] = (),
    *,
    texts: Sequence[str] | None = None,
    longest: int | None = None,
) -> np.ndarray:
    """An image with its regions outlined in their kinds' colours, each with a tag.

    image    (H, W, 3) uint8 RGB
    kinds    all of the model's, which gives the colours, see `kind_color`
    texts    the tags, one per region; default: the kinds' names
    longest  reduce the result to this longer side in pixels first; regions never vanish by it

    Returns (H, W, 3) uint8 RGB, or its reduced size.
    """
    names = [kind for kind, _ in region_kinds(result)]
    picture = image if longest is None else fit_within(image, longest)
    for kind, mask in kind_masks(result).items():
        shrunk = mask if longest is None else fit_within(mask.astype(np.float32), longest) > 0
        picture = outline(picture, shrunk, _rgb(kind_color(kind, kinds)))
    if not names:
        return picture
    scale = max(picture.shape[:2]) / max(image.shape[:2])
    colors = [kind_color(kind, kinds) for kind in names]
    regions = zip(result.regions[:_MAX_TAGS], texts or names, colors, strict=False)
    return _tagged(picture, [(_ends(region, scale), text, color) for region, text, color in regions])


def _ends(region: Region, scale: float) -> Box:
    """x and y of a region's highest and lowest pixels, times `scale`."""
    x0, y0, x1, y1 = region.box
    inside = region.mask[y0:y1, x0:x1]
    rows = np.flatnonzero(inside.any(axis=1))[[0, -1]]
    columns = [float(np.flatnonzero(inside[row]).mean()) for row in rows]
    ends = (x0 + columns[0], y0 + rows[0], x0 + columns[1], y0 + rows[1] + 1)
    return tuple(round(float(end) * scale) for end in ends)


def _tagged(picture: np.ndarray, tags: Sequence[tuple[Box, str, str]]) -> np.ndarray:
    """Tags with their texts and colours at the ends of regions, where they hide no other tag if there is room."""
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    font = _font(max(10, round(max(height, width) / 36)))
    pad = max(2, font.size // 4)
    canvas = Image.fromarray(picture)
    draw: ImageDraw = ImageDraw.Draw(canvas)
    taken: list[Box] = []
    for ends, text, color in tags:
        text = _fitted(text, font, width - 2 * pad)
        size = round(font.getlength(text)) + 2 * pad, font.size + 2 * pad
        place = _free_place(ends, size, (width, height), taken)
        taken.append(place)
        draw.rounded_rectangle(place, pad, fill=(20, 20, 24), outline=color)
        draw.text((place[0] + pad, (place[1] + place[3]) / 2), text, (255, 255, 255), font, anchor="lm")
    return np.array(canvas)


def _free_place(ends: Box, size: tuple[int, int], frame: tuple[int, int], taken: Sequence[Box]) -> Box:
    """Above the upper end or below the lower one, or else over the upper one; inside the frame."""
    wide, tall = size
    lowest, rightmost = max(0, frame[1] - tall - 1), max(0, frame[0] - wide - 1)
    corners = [(ends[0], ends[1] - tall - 4), (ends[2], ends[3] + 4)]
    corners = [(x, top) for x, top in corners if 0 <= top <= lowest]
    corners.append((ends[0], max(0, min(ends[1], lowest))))
    clamped = [(max(0, min(x - wide // 2, rightmost)), top) for x, top in corners]
    places = [(left, top, left + wide, top + tall) for left, top in clamped]
    free = [one for one in places if not any(_overlap(one, other) for other in taken)]
    return (free or places)[0]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
