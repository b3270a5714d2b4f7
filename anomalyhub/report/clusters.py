"""Pictures of regions: a crop with its outline, and a sheet of a cluster's crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomalyhub.errors import InvalidArgumentError, InvalidImageError
from anomalyhub.report.overlay import fit_within, outline
from anomalyhub.report.plots import shortened
from anomalyhub.types import SubImage

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

#: Crops below this longer side, in pixels, are enlarged to it.
SMALLEST = 96

# pixels of a sheet
_TILE, _GAP, _MARGIN, _CAPTION, _TITLE = 144, 10, 16, 20, 36


def crop_picture(sub: SubImage, image_shape: tuple[int, ...], side: int = 192) -> np.ndarray:
    """A crop for people: its region outlined, no black padding, its longer side between 96 and `side` pixels.

    image_shape  (H, W), or (H, W, C), of the image that the crop comes from

    Returns (h, w, 3) uint8 RGB with the proportions of the part inside the image. The region's own pixels stay
    visible, even a single one: the line runs around them. Raises InvalidArgumentError for a box outside the image.
    """
    x0, y0, x1, y1 = sub.box
    rows = slice(max(-y0, 0), min(y1, image_shape[0]) - y0)
    columns = slice(max(-x0, 0), min(x1, image_shape[1]) - x0)
    image, mask = sub.image[rows, columns], sub.mask[rows, columns]
    if not mask.size or rows.stop < 0 or columns.stop < 0:
        raise InvalidArgumentError(
            f"box {sub.box} lies outside its image of shape {tuple(image_shape[:2])}: give the shape of the image that "
            "the crop was cut from"
        )
    image, soft = fit_within(image, side), fit_within(mask.astype(np.float32), side)
    # reduction may not lose a region
    soft = _enlarged((soft > 0).astype(np.float32), min(SMALLEST, side))
    return outline(_enlarged(image, min(SMALLEST, side)), soft >= 0.5)


def cluster_sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    title: str,
    *,
    columns: int = 8,
    limit: int = 48,
    total: int | None = None,
    dark: bool = False,
) -> np.ndarray:
    """Pictures in rows under a title, each with a caption below; drawn without matplotlib, which takes seconds.

    pictures  (h, w, 3) uint8 RGB each, as `crop_picture` makes; their longer side becomes 144 pixels
    captions  as many; shortened in the middle to their picture's width
    limit     only so many are drawn; a last line, "and 9 more", counts the others
    total     how many the cluster has, where not all are given; counted in the last line

    Returns (H, W, 3) uint8 RGB.
    """
    if len(pictures) != len(captions) or min(columns, limit) < 1:
        raise InvalidArgumentError(
            f"a sheet needs one caption per picture, a column and a limit of 1 or more, got {len(pictures)} pictures, "
            f"{len(captions)} captions, {columns} columns and a limit of {limit}"
        )
    from PIL import Image, ImageDraw

    tiles = [_enlarged(fit_within(_checked(picture), _TILE), _TILE) for picture in pictures[:limit]]
    more = max(len(pictures), total or 0) - len(tiles)
    columns = min(columns, max(len(tiles), 4))  # a title needs some width
    rows = math.ceil(len(tiles) / columns)
    width = 2 * _MARGIN + columns * (_TILE + _GAP) - _GAP
    height = 2 * _MARGIN + _TITLE + rows * (_TILE + _CAPTION + _GAP) - _GAP + (_CAPTION + _GAP if more else 0)
    ground, ink, soft = ((24, 24, 27), (244, 244, 245), (161, 161, 170)) if dark else (
        (255, 255, 255), (24, 24, 27), (82, 82, 91))  # fmt: skip
    sheet = np.full((height, width, 3), ground, np.uint8)
    corners = [
        (_MARGIN + column * (_TILE + _GAP), _MARGIN + _TITLE + row * (_TILE + _CAPTION + _GAP))
        for row in range(rows)
        for column in range(columns)
    ]
    for tile, (left, top) in zip(tiles, corners, strict=False):
        h, w = tile.shape[:2]
        x, y = left + (_TILE - w) // 2, top + (_TILE - h) // 2
        sheet[y : y + h, x : x + w] = tile
    canvas = Image.fromarray(sheet)
    draw = ImageDraw.Draw(canvas)
    large, small = _font(18), _font(11)
    draw.text((_MARGIN, _MARGIN + 18), _fitted(title, large, width - 2 * _MARGIN), ink, large, anchor="ls")
    for caption, (left, top) in zip(captions[:limit], corners, strict=False):
        middle = left + _TILE / 2, top + _TILE + 14
        draw.text(middle, _fitted(caption, small, _TILE), soft, small, anchor="ms")
    if more:
        draw.text((_MARGIN, height - _MARGIN - 2), f"and {more} more", ink, _font(13), anchor="ls")
    return np.array(canvas)


def _enlarged(image: np.ndarray, longest: int) -> np.ndarray:
    """(H, W, 3) or (H, W) array, its longer side at least `longest` pixels."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale <= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def _checked(picture: np.ndarray) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape or picture.dtype != np.uint8:
        raise InvalidImageError(f"a picture must be (h, w, 3) uint8 RGB, got {picture.dtype} of shape {picture.shape}")
    return picture


def _font(size: int) -> FreeTypeFont:
    """Matplotlib's own font: Pillow's has no letters but those of English."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _fitted(text: str, font: FreeTypeFont, width: float) -> str:
    """The text, shortened in the middle to at most `width` pixels."""
    for longest in range(min(len(text), 200), 3, -1):
        if font.getlength(shortened(text, longest)) <= width:
            return shortened(text, longest)
    return shortened(text, 3)
