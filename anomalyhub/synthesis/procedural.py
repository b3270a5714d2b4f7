"""Textures that the package draws: sixteen families in three scales, each with colours of its own.

They take the place of the 47 textures of DTD (Cimpoi et al., CVPR 2014), of which liu2024 uses one image per class.
All repeat seamlessly after `SIZE` pixels, and are the same on every call.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np

#: Height and width in pixels of a texture.
SIZE = 256
_GOLDEN = (math.sqrt(5) - 1) / 2
_SEED = 47

_V, _U = np.meshgrid(*[(np.arange(SIZE) + 0.5) / SIZE] * 2, indexing="ij")


def draw_texture(index: int) -> np.ndarray:
    """Texture number `index` of `NAMES`: (SIZE, SIZE, 3) uint8."""
    family, scale = divmod(index, _SCALES)
    rng = np.random.default_rng((_SEED, index))
    values = _FAMILIES[family](scale, rng).clip(0, 1)[..., None]
    low, high = _colours(index)
    return (low + (high - low) * values + rng.normal(0, 3, (SIZE, SIZE, 3))).round().clip(0, 255).astype(np.uint8)


def _colours(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A dark and a bright colour (3,) in [0, 255]; multiples of the golden ratio keep neighbours apart."""
    hue, other = index * _GOLDEN % 1, (index * _GOLDEN + 0.15 + 0.7 * (index * _GOLDEN**2 % 1)) % 1
    dark = colorsys.hsv_to_rgb(hue, 0.25 + 0.7 * (index * 0.37 % 1), 0.08 + 0.4 * (index * 0.73 % 1))
    bright = colorsys.hsv_to_rgb(other, 0.1 + 0.75 * (index * 0.53 % 1), 0.65 + 0.33 * (index * 0.29 % 1))
    return 255 * np.array(dark), 255 * np.array(bright)


def _wave(columns: int, rows: int) -> np.ndarray:
    """A sine in [0, 1] with so many periods across and down."""
    return 0.5 + 0.5 * np.sin(2 * math.pi * (columns * _U + rows * _V))


def _sharp(values: np.ndarray, at: float = 0.5, by: float = 12.0) -> np.ndarray:
    """A soft step at a value."""
    return 0.5 + (by * (values - at)).clip(-0.5, 0.5)


def _noise(across: float, down: float, rng: np.random.Generator) -> np.ndarray:
    """Noise whose details are so many pixels wide and high, of mean 0 and deviation 1, periodic."""
    y, x = np.fft.fftfreq(SIZE)[:, None] * down, np.fft.rfftfreq(SIZE) * across
    filtered = np.fft.rfft2(rng.normal(size=(SIZE, SIZE))) * np.exp(-2 * math.pi**2 * (x * x + y * y) / 4)
    filtered[0, 0] = 0
    values = np.fft.irfft2(filtered, (SIZE, SIZE))
    return values / values.std()


def _nearest(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's distances from the nearest and the second of `count` random points, in mean spacings."""
    from scipy.spatial import cKDTree

    tree = cKDTree(rng.random((count, 2)), boxsize=1)
    distances, _ = tree.query(np.stack([_U.ravel(), _V.ravel()], axis=1), k=2)
    first, second = (distances * math.sqrt(count)).T.reshape(2, SIZE, SIZE)
    return first, second


def _lattice(columns: int, rows: int, shift: float = 0.5) -> np.ndarray:
    """Distance from the nearest point of a lattice whose odd rows are shifted, in row spacings."""
    row = _V * rows - 0.5
    found = np.full((SIZE, SIZE), np.inf)
    for near in (np.floor(row), np.floor(row) + 1):
        x = _U * columns - 0.5 - shift * (near % 2)
        found = np.minimum(found, np.hypot((x - np.round(x)) * rows / columns, row - near))
    return found


def _stripes(scale: int, rng: np.random.Generator) -> np.ndarray:
    return _sharp(_wave(*((5, 3), (0, 16), (24, -20))[scale]), (0.5, 0.65, 0.4)[scale], 6)


def _gratings(scale: int, rng: np.random.Generator) -> np.ndarray:
    return _wave(*((8, 0), (14, 14), (36, 0))[scale]) * (0.7 + 0.3 * _wave(0, 2))


def _checks(scale: int, rng: np.random.Generator) -> np.ndarray:
    across, down = ((3, 3), (8, 6), (16, 20))[scale]
    return _sharp(0.5 + 2 * (_wave(across, 0) - 0.5) * (_wave(0, down) - 0.5))


def _dots(scale: int, rng: np.random.Generator) -> np.ndarray:
    return _sharp(-_lattice(*((6, 6), (12, 12), (22, 22))[scale]), (-0.34, -0.22, -0.3)[scale], 8)


def _bubbles(scale: int, rng: np.random.Generator) -> np.ndarray:
    first, _ = _nearest((25, 90, 350)[scale], rng)
    return _sharp(-np.abs(first - 0.42), -0.1, 9)


def _noises(scale: int, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.22 * _noise(*((3, 3), (9, 9), (30, 30))[scale], rng)


def _fibres(scale: int, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.24 * _noise(*((90, 3), (4, 70), (220, 10))[scale], rng)


def _blotches(scale: int, rng: np.random.Generator) -> np.ndarray:
    return _sharp(_noise(*[(44, 22, 11)[scale]] * 2, rng), (0.2, 0.7, 0.0)[scale], 4)


def _marble(scale: int, rng: np.random.Generator) -> np.ndarray:
    turns = (2, 4, 8)[scale]
    return 1 - np.abs(np.sin(math.pi * (turns * (_U + _V) + (0.9, 1.2, 0.8)[scale] * _noise(40, 40, rng)))) ** 0.5


def _cracks(scale: int, rng: np.random.Generator) -> np.ndarray:
    first, second = _nearest((12, 45, 160)[scale], rng)
    return _sharp(second - first, (0.08, 0.1, 0.14)[scale], 10) * (0.85 + 0.05 * _noise(20, 20, rng))


def _pebbles(scale: int, rng: np.random.Generator) -> np.ndarray:
    first, second = _nearest((30, 110, 400)[scale], rng)
    return np.sqrt((second - first).clip(0, 1)) * (1.1 - first)


def _scales(scale: int, rng: np.random.Generator) -> np.ndarray:
    rows = (8, 16, 30)[scale]
    down = _V * rows
    found = np.zeros((SIZE, SIZE))
    for step in (1, 0):  # the upper row lies on the lower one
        row = np.floor(down) - step
        x = _U * (rows / 2) - 0.5 * (row % 2)
        distance = np.hypot(2 * (x - np.round(x)), (down - row) / 2 * 1.6)
        found = np.where(distance < 1.05, 1 - 0.9 * distance**3, found)
    return found


def _weave(scale: int, rng: np.random.Generator) -> np.ndarray:
    threads = (10, 20, 36)[scale]
    x, y = _U * threads, _V * threads
    over = (np.floor(x) + np.floor(y)) % 2
    across, along = np.sin(math.pi * (y % 1)), np.sin(math.pi * (x % 1))
    return np.where(over, across * (0.55 + 0.45 * along), 0.6 * along * (0.55 + 0.45 * across))


def _rings(scale: int, rng: np.random.Generator) -> np.ndarray:
    cells, turns = ((1, 9), (2, 6), (4, 3))[scale]
    return 0.5 + 0.5 * np.cos(2 * math.pi * turns * 1.4 * _lattice(cells, cells, 0.0))


def _bricks(scale: int, rng: np.random.Generator) -> np.ndarray:
    columns, rows = ((3, 8), (6, 14), (16, 20))[scale]
    y = _V * rows
    x = _U * columns + 0.5 * (np.floor(y) % 2)
    joint = np.maximum(np.abs(x % 1 - 0.5) * 2, 1 - (1 - np.abs(y % 1 - 0.5) * 2) * columns / rows * 1.6)
    shade = rng.uniform(0.55, 1.0, (rows, columns))[np.floor(y).astype(int) % rows, np.floor(x).astype(int) % columns]
    return shade * _sharp(-joint, -0.9, 12)


def _zigzag(scale: int, rng: np.random.Generator) -> np.ndarray:
    columns, rows = ((4, 6), (8, 16), (20, 26))[scale]
    bent = _V * rows + np.abs(_U * columns % 1 - 0.5) * (2, 2, 1.5)[scale]
    return _sharp(np.abs(bent % 1 - 0.5) * 2, 0.5, 5)


_FAMILIES: tuple[Callable[[int, np.random.Generator], np.ndarray], ...] = (
    _stripes,
    _gratings,
    _checks,
    _dots,
    _bubbles,
    _noises,
    _fibres,
    _blotches,
    _marble,
    _cracks,
    _pebbles,
    _scales,
    _weave,
    _rings,
    _bricks,
    _zigzag,
)
_SCALES = 3
#: Names of the textures: the family, and the scale from 1, the coarsest, to 3.
NAMES = tuple(f"{family.__name__[1:]}-{scale + 1}" for family in _FAMILIES for scale in range(_SCALES))
