"""Random shapes of defects: a field over the image, of which the highest part inside the foreground is the defect.

Thresholds are quantiles of the field inside the foreground, so that a defect has the area that is asked of it in the
first attempt, and lies inside. Fields are (H, W) float32 and depend on the generator alone.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

#: Of Perlin noise in [-1, 1], published code takes what is above (liu2024).
PERLIN_THRESHOLD = 0.35
#: Cells of the Perlin noise along a side are a power of two up to this one (DRAEM, Zavrtanik et al., ICCV 2021).
_MAX_OCTAVE = 5
#: Longer side of the grid on which Poisson noise is drawn, its expected count, and the blur that makes it blobs.
_POISSON_GRID, _POISSON_RATE, _POISSON_BLUR = (24, 96), 2.0, 1.5


def perlin_field(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Perlin noise, mostly in [-1, 1], with 1 to 32 cells along either side.

    With h the smooth step of a pixel's place in its cell, the noise is the sum over the cell's corners of h-weighted
    products of a gradient and the pixel's offset from the corner. Weights and offsets are separable, so that it is
    Y G_x X'^T + Y' G_y X^T, where a row of X has a pixel's two weights and one of X' its two weights times offsets.
    """
    rows, columns = (1 << int(octave) for octave in rng.integers(0, _MAX_OCTAVE + 1, 2))
    angle = rng.uniform(0, 2 * math.pi, (rows + 1, columns + 1))
    (weight_y, offset_y), (weight_x, offset_x) = _basis(shape[0], rows), _basis(shape[1], columns)
    across = weight_y @ np.cos(angle).astype(np.float32) @ offset_x.T
    down = offset_y @ np.sin(angle).astype(np.float32) @ weight_x.T
    return math.sqrt(2) * (across + down)


@lru_cache(maxsize=128)
def _basis(length: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and weighted offsets (length, cells + 1) float32 of pixels at each corner along one axis."""
    place = (np.arange(length) + 0.5) * cells / length
    offset = place[:, None] - np.arange(cells + 1)
    near = np.clip(1 - np.abs(offset), 0, 1)
    weight = near**3 * (near * (6 * near - 15) + 10)
    return weight.astype(np.float32), (weight * offset).astype(np.float32)


def poisson_field(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Poisson counts on a grid that is 24 to 96 cells long, smoothed to blobs."""
    longest = int(rng.integers(*_POISSON_GRID, endpoint=True))
    grid = [max(2, round(longest * side / max(shape))) for side in shape]
    counts = cv2.GaussianBlur(rng.poisson(_POISSON_RATE, grid).astype(np.float32), (0, 0), _POISSON_BLUR)
    return cv2.resize(counts, shape[::-1], interpolation=cv2.INTER_CUBIC)


def polygon_field(room: np.ndarray, radius: float, sides: int, rng: np.random.Generator) -> np.ndarray:
    """Minus the size of the regular polygon around a random centre, turned by a random angle, that reaches a pixel.

    room    (H, W) float32, each pixel's distance from the background: the centre has room for `radius` pixels, or is
            one of those with the most room
    """
    places = np.flatnonzero(room >= min(radius, 0.95 * float(room.max())))
    row, column = np.divmod(places[rng.integers(len(places))], room.shape[1]) + rng.uniform(-0.5, 0.5, 2)
    turn = rng.uniform(0, 2 * math.pi / sides)
    size = np.full(room.shape, -np.inf, np.float32)
    y = np.arange(room.shape[0], dtype=np.float32)[:, None] - np.float32(row)
    x = np.arange(room.shape[1], dtype=np.float32) - np.float32(column)
    for side in range(sides):  # the polygon is where all half-planes are
        angle = turn + 2 * math.pi * side / sides
        np.maximum(size, x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle)), out=size)
    return -size


def circumradius(area: float, sides: int) -> float:
    """Of a regular polygon of `area`."""
    return math.sqrt(2 * area / (sides * math.sin(2 * math.pi / sides)))


def room_in(foreground: np.ndarray) -> np.ndarray:
    """(H, W) float32: each pixel's distance from the background and the image's edge, in pixels."""
    padded = cv2.copyMakeBorder(foreground.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]


def highest(
    field: np.ndarray,
    foreground: np.ndarray,
    area: tuple[float, float],
    threshold: float | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """(H, W) bool: where the field is highest inside the foreground.

    area       least and most share of the foreground's pixels, in (0, 1]; at least one pixel is taken
    threshold  what is above it is taken if its share lies within `area`, or else the nearest share that does; None: a
               share drawn from `area`
    """
    inside = field[foreground]
    low, high = (min(len(inside), max(1, round(share * len(inside)))) for share in area)
    if threshold is None:
        count = round(rng.uniform(*area) * len(inside))
    else:
        count = int(np.count_nonzero(inside > threshold))
    count = min(max(count, low), high)
    place = len(inside) - count
    return foreground & (field >= np.partition(inside, place)[place])
