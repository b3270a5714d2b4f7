"""Heat maps over images. The colour scale is fixed at the threshold, so a good image never looks alarming.

A pixel's value is v = score / threshold. Below 0.5 it is transparent; from 0.5 to 1 a faint blue rises to cyan; at 1
the colour jumps to a strong yellow and goes through orange at 1.5 to red from 2 on. Blue against yellow is the contrast
that the common kinds of colour blindness keep, and the white outline carries the verdict without any colour.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from anomalyhub.errors import InvalidArgumentError, InvalidImageError
from anomalyhub.regions import as_scores
from anomalyhub.types import AnomalyMap

#: v, red, green, blue, opacity; two rows at 1 make the jump.
_STOPS = np.array(
    [
        (0.50, 38, 70, 160, 0.00),
        (0.75, 45, 110, 205, 0.25),
        (1.00, 90, 190, 225, 0.50),
        (1.00, 255, 226, 60, 0.85),
        (1.50, 250, 130, 25, 1.00),
        (2.00, 205, 15, 30, 1.00),
    ]
)
_STEPS = 512  # per unit of v
_V = (np.arange(2 * _STEPS) + 0.5) / _STEPS  # v in the middle of an entry: none sits on the jump
_RGB = np.stack([np.interp(_V, _STOPS[:, 0], c) for c in _STOPS.T[1:4]], axis=1).round().astype(np.uint8)
_OPACITY = np.interp(_V, _STOPS[:, 0], _STOPS[:, 4]).astype(np.float32)

#: Mixes 60 % of a pixel with 40 % of its luma.
_DESATURATE = (0.6 * np.eye(3) + 0.4 * np.array([0.299, 0.587, 0.114])).astype(np.float32)

WHITE = (255, 255, 255)
#: Colour of a ground truth's outline: not on the heat scale.
TRUTH = (60, 240, 120)


def heat_colors(scores: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Colours of raw scores on the scale that is fixed at the threshold.

    scores     any shape, raw, higher is worse, finite
    threshold  in the scores' units; at 0 or below, where no ratio exists, every score above it is red

    Returns uint8 RGB of shape (..., 3) and float32 opacity in [0, 1] of the scores' shape.
    """
    index = _index(scores, threshold)
    return _RGB[index], _OPACITY[index]


def _index(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Entries of the colour table, in the scores' shape."""
    if math.isnan(threshold):
        raise InvalidArgumentError("threshold is NaN: give a number in the scores' units")
    scores = np.asarray(scores, dtype=np.float32)
    above = scores > float(threshold)
    if threshold < 1e-30:
        return above * (2 * _STEPS - 1)
    with np.errstate(over="ignore"):
        index = np.clip(scores * np.float32(_STEPS / threshold), 0, 2 * _STEPS - 1).astype(np.int32)
    # rounding must not carry a score across the threshold
    return np.where(above, np.maximum(index, _STEPS), np.minimum(index, _STEPS - 1))


def fit_within(image: np.ndarray, longest: int) -> np.ndarray:
    """(H, W, 3) or (H, W) array, reduced by area averaging so that its longer side is at most `longest` pixels."""
    if longest < 1:
        raise InvalidArgumentError(f"longest must be at least 1 pixel, got {longest}")
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def outline(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Draw an anti-aliased line with a dark halo around the True pixels of a mask, on a copy.

    image  (H, W, 3) uint8 RGB
    mask   (H, W) bool

    The line runs outside the mask, so that even a single pixel stays visible, and is 1/260 of the longer side wide,
    at least 1.5 pixels. A mask of the whole frame has no boundary and draws nothing.
    """
    _check_image(image)
    if mask.shape != image.shape[:2]:
        raise InvalidImageError(f"mask must have the image's shape {image.shape[:2]}, got {mask.shape}")
    inside = np.ascontiguousarray(mask, dtype=np.uint8)
    drawn = image.copy()
    if inside.all() or not inside.any():
        return drawn
    width = max(1.5, max(image.shape) / 260)
    halo = 0.75 * width
    near = _around(inside, math.ceil(3.5 * width) + 3)  # as far as the line and its smoothing reach
    inside, window = inside[near], drawn[near]
    # signed distance to the boundary, which runs half a pixel from the nearest pixel's centre
    outer, inner = (cv2.distanceTransform(side, cv2.DIST_L2, 5) for side in (1 - inside, inside))
    distance = cv2.GaussianBlur(outer - inner + (0.5 - (outer > 0)), (0, 0), 0.35 * width)
    band = np.nonzero((distance > -0.5 * halo - 1) & (distance < width + halo + 1))
    distance, pixels = distance[band], window[band].astype(np.float32)
    for low, high, ink, opacity in ((-0.5 * halo, width + halo, (0, 0, 0), 0.55), (0.0, width, color, 1.0)):
        cover = opacity * np.clip((high - low) / 2 + 0.5 - np.abs(distance - (low + high) / 2), 0, 1)[:, None]
        pixels += cover * (np.float32(ink) - pixels)
    window[band] = pixels.round()
    return drawn


def _around(inside: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the non-zero pixels, with a margin."""
    ends = [np.flatnonzero(inside.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0)]
    rows, columns = (slice(max(0, first - margin), last + 1 + margin) for first, last in ends)
    return rows, columns


def overlay(
    image: np.ndarray,
    map: AnomalyMap | np.ndarray,
    threshold: float,
    *,
    mask: np.ndarray | None = None,
    alpha: float = 0.55,
    longest: int | None = None,
) -> np.ndarray:
    """Heat over a slightly greyed image, with the anomalous regions outlined in white.

    image      (H, W, 3) uint8 RGB
    map        anomaly map of the image, or its (H, W) raw scores
    threshold  in the map's units; fixes the colours
    mask       (H, W) bool, what to outline; default: the scores above the threshold
    alpha      opacity of the heat where it is strongest, in [0, 1]
    longest    reduce the result to this longer side in pixels first, which is quicker; regions never vanish by it

    Returns (H, W, 3) uint8 RGB, or its reduced size.
    """
    _check_image(image)
    scores = as_scores(map)
    if scores.shape != image.shape[:2]:
        raise InvalidImageError(f"map must have the image's shape {image.shape[:2]}, got {scores.shape}")
    if not 0 <= alpha <= 1:
        raise InvalidArgumentError(f"alpha must be in [0, 1], got {alpha}")
    mask = scores > float(threshold) if mask is None else mask
    if longest is not None:
        image, scores = fit_within(image, longest), fit_within(scores, longest)
        mask = fit_within(mask.astype(np.float32), longest) > 0
    index = _index(scores, threshold)
    opacity = np.repeat(alpha * _OPACITY[:, None], 3, axis=1)
    base = cv2.transform(image, _DESATURATE)
    heated = base * np.take(1 - opacity, index, axis=0) + np.take(opacity * _RGB, index, axis=0)
    return outline((heated + 0.5).astype(np.uint8), mask)


def side_by_side(image: np.ndarray, overlay: np.ndarray, truth: np.ndarray | None = None, gap: int = 8) -> np.ndarray:
    """The image, left, and its overlay, right, of one size, with a white gap of `gap` pixels.

    truth  (H, W) bool ground truth, outlined in green on the image
    """
    _check_image(image)
    if overlay.shape != image.shape:
        raise InvalidImageError(f"overlay must have the image's shape {image.shape}, got {overlay.shape}")
    left = image if truth is None else outline(image, truth, TRUTH)
    return np.hstack([left, np.full((len(image), gap, 3), 255, np.uint8), overlay])


def scale_legend(threshold: float, width: int = 480, *, dark: bool = False) -> np.ndarray:
    """The colour bar with its threshold, in raw scores, as an (h, w, 3) uint8 RGB picture of `width` pixels.

    dark  light text on a dark ground
    """
    from PIL import Image, ImageDraw, ImageFont

    ground, ink, soft = WHITE, (24, 24, 27), (113, 113, 122)
    if dark:
        ground, ink, soft = ink, (244, 244, 245), (161, 161, 170)
    unit = width / 480
    margin, bar, top = round(16 * unit), round(22 * unit), round(30 * unit)
    v = np.linspace(0, 2.25, width - 2 * margin, dtype=np.float32)
    colors, opacity = heat_colors(v, 1.0)
    neutral = np.float32(70 if dark else 225)
    strip = neutral + opacity[:, None] * (colors - neutral)
    picture = np.full((top + bar + round(30 * unit), width, 3), ground, np.uint8)
    picture[top : top + bar, margin : width - margin] = strip.round().astype(np.uint8)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(13 * unit), ImageFont.load_default(11 * unit)

    def x_of(value: float) -> float:
        return margin + (width - 2 * margin) * value / 2.25

    draw.text((x_of(0.5), top - 6 * unit), "normal", soft, font, anchor="ms")
    draw.text((x_of(1.625), top - 6 * unit), "anomalous", soft, font, anchor="ms")
    draw.text((x_of(1), top - 6 * unit), "threshold", ink, font, anchor="ms")
    draw.line([(x_of(1), top - 3 * unit), (x_of(1), top + bar + 4 * unit)], ink, max(1, round(2 * unit)))
    for value in (0, 0.5, 1, 1.5, 2):
        text = f"{value * threshold:.3g}"
        draw.text((x_of(value), top + bar + 18 * unit), text, ink if value == 1 else soft, small, anchor="ms")
    return np.array(canvas)


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise InvalidImageError(f"image must be (H, W, 3) uint8 RGB, got {image.dtype} of shape {image.shape}")
