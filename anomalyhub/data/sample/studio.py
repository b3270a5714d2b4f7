"""What the drawn products share: pose, light, noise textures, brushes and the camera.

Lengths are in units of 1/256 of the image height, so that a larger image shows the same picture with more pixels.
Radiance is linear; the camera's tone curve and square root come last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

UNITS = 256.0
#: Light reaching the camera that its tone curve maps to white.
_WHITE = 2.6


@dataclass(frozen=True, eq=False)
class Shot:
    """One photograph's geometry and light, the same for a good product and for its defective twin.

    shape    (H, W) in pixels               scale    pixels per unit
    shift    (x, y) of the product's origin from the image centre, in units
    angle    rotation of the product in radians             zoom   magnification of the product
    azimuth  direction the light comes from, in radians, x right and y down, in the image's frame
    height   elevation of the light in radians
    exposure overall gain     tint     gains of red, green and blue     falloff  light lost across the image, 0 to 1
    """

    shape: tuple[int, int]
    scale: float
    shift: tuple[float, float]
    angle: float
    zoom: float
    azimuth: float
    height: float
    exposure: float
    tint: tuple[float, float, float]
    falloff: float

    @cached_property
    def matrix(self) -> np.ndarray:
        """(2, 3) affine map from the product's units to pixel centres."""
        c, s = math.cos(self.angle) * self.zoom, math.sin(self.angle) * self.zoom
        h, w = self.shape
        linear = np.array([[c, -s], [s, c]]) * self.scale
        origin = np.array(self.shift) * self.scale + ((w - 1) / 2, (h - 1) / 2)
        return np.column_stack([linear, origin])

    @cached_property
    def xy(self) -> tuple[np.ndarray, np.ndarray]:
        """Product coordinates in units of every pixel: x and y, each (H, W) float32."""
        inverse = cv2.invertAffineTransform(self.matrix)
        cols = np.arange(self.shape[1], dtype=np.float32)[None]
        rows = np.arange(self.shape[0], dtype=np.float32)[:, None]
        (a, b, tx), (c, d, ty) = inverse.astype(np.float32)
        return a * cols + b * rows + tx, c * cols + d * rows + ty

    @property
    def light(self) -> tuple[float, float, float]:
        """Unit vector towards the light, z towards the camera."""
        flat = math.cos(self.height)
        return flat * math.cos(self.azimuth), flat * math.sin(self.azimuth), math.sin(self.height)

    @property
    def pixel(self) -> float:
        """Size of one pixel in the product's units."""
        return 1.0 / (self.scale * self.zoom)

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) product coordinates to (N, 2) pixel coordinates."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth ramp between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mix(a, b, alpha: np.ndarray) -> np.ndarray:
    """`a` where the (H, W) `alpha` is 0, `b` where it is 1; a and b are (H, W, 3), or colours."""
    return a + (b - a) * alpha[..., None]


def colour(red: float, green: float, blue: float) -> np.ndarray:
    """Linear colour as a (3,) float32 array."""
    return np.array([red, green, blue], np.float32)


def clouds(rng: np.random.Generator, shot: Shot, cell: float) -> np.ndarray:
    """Smooth noise in the image's frame, mean 0 and standard deviation about 1, with features of `cell` units."""
    h, w = shot.shape
    grid = max(3, round(h / (cell * shot.scale)) + 3), max(3, round(w / (cell * shot.scale)) + 3)
    coarse = rng.standard_normal(grid, dtype=np.float32)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC) * 1.35


def rough(rng: np.random.Generator, shot: Shot, cell: float) -> np.ndarray:
    """Fractal noise: four octaves of `clouds`, standard deviation about 1."""
    return 0.75 * sum(clouds(rng, shot, cell / 2**k) / 1.7**k for k in range(4))


def speckle(rng: np.random.Generator, shot: Shot, along: float, across: float, angle: float = 0.0) -> np.ndarray:
    """Fine grain stretched along `angle` (radians): fibres or brushing, standard deviation about 1."""
    h, w = shot.shape
    white = rng.standard_normal((h, w), dtype=np.float32)
    if angle:
        turn = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), -math.degrees(angle), 1.0)
        blurred = cv2.GaussianBlur(white, (0, 0), along * shot.scale, sigmaY=across * shot.scale)
        blurred = cv2.warpAffine(blurred, turn, (w, h), borderMode=cv2.BORDER_REFLECT)
    else:
        blurred = cv2.GaussianBlur(white, (0, 0), along * shot.scale, sigmaY=across * shot.scale)
    return blurred / max(float(blurred.std()), 1e-6)


def wander(rng: np.random.Generator, start, angle: float, length: float, bend: float, steps: int = 24) -> np.ndarray:
    """A smooth random curve: (steps, 2) points from `start`, heading `angle`, turning by about `bend` radians."""
    turns = np.cumsum(rng.standard_normal(steps)) * bend / math.sqrt(steps) + angle
    turns = np.convolve(np.pad(turns, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    path = np.cumsum(np.column_stack([np.cos(turns), np.sin(turns)]), axis=0) * (length / steps)
    return path - path[0] + start


def stroke(shot: Shot, points: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Coverage in [0, 1], (H, W) float32, of a brush drawn along (N, 2) product points; width in units, or (N,)."""
    h, w = shot.shape
    over, frac = 4, 3
    at = (shot.to_pixels(np.asarray(points, float)) + 0.5) * over - 0.5
    thick = np.broadcast_to(np.asarray(width, float) / shot.pixel * over, len(at))
    low = np.floor((at.min(axis=0) - thick.max()) / over).astype(int).clip(0, (w, h))
    high = (np.ceil((at.max(axis=0) + thick.max()) / over).astype(int) + 1).clip(0, (w, h))
    alpha = np.zeros((h, w), np.float32)
    cols, rows = (high - low).tolist()
    if cols < 1 or rows < 1:
        return alpha
    canvas = np.zeros((rows * over, cols * over), np.uint8)
    fixed = np.rint((at - low * over) * 2**frac).astype(int)
    for a, b, t in zip(fixed[:-1], fixed[1:], thick, strict=False):
        cv2.line(canvas, a.tolist(), b.tolist(), 255, max(1, round(t)), cv2.LINE_8, frac)
    small = cv2.resize(canvas, (cols, rows), interpolation=cv2.INTER_AREA)
    thin = min(1.0, float(thick.max()))
    alpha[low[1] : high[1], low[0] : high[0]] = small * np.float32(thin / 255.0)
    return alpha


def blob(shot: Shot, rng: np.random.Generator, centre, radii, angle: float, ragged: float) -> np.ndarray:
    """Signed shape of an irregular spot, (H, W) float32: positive inside, 1 at the centre, 0 on its ragged edge."""
    x, y = shot.xy
    dx, dy = x - float(centre[0]), y - float(centre[1])
    c, s = math.cos(angle), math.sin(angle)
    far = np.sqrt(((dx * c + dy * s) / radii[0]) ** 2 + ((dy * c - dx * s) / radii[1]) ** 2)
    return 1.0 - far + ragged * np.clip(rough(rng, shot, 1.1 * min(radii)), -2.0, 2.0) * np.minimum(far * 2.0, 1.0)


def slopes(relief: np.ndarray, shot: Shot) -> tuple[np.ndarray, np.ndarray]:
    """Surface gradient (d/dx, d/dy) in the image's frame of a (H, W) relief given in units."""
    gain = shot.scale / 8.0
    dx = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=gain)
    return dx, cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=gain)


def expose(radiance: np.ndarray, shot: Shot) -> np.ndarray:
    """Lens, uneven light, colour cast and tone curve: linear (H, W, 3) to camera values in [0, 1], without noise."""
    h, w = shot.shape
    cols = np.linspace(-1, 1, w, dtype=np.float32)[None]
    rows = np.linspace(-h / w, h / w, h, dtype=np.float32)[:, None]
    ramp = cols * math.cos(shot.azimuth) + rows * math.sin(shot.azimuth)
    field = shot.exposure * (1.0 + 0.5 * shot.falloff * ramp) * (1.0 - 0.13 * (cols**2 + rows**2))
    light = radiance * field[..., None] * np.asarray(shot.tint, np.float32)
    light = cv2.GaussianBlur(light, (0, 0), 0.55 * max(shot.scale, 0.6))
    np.maximum(light, 0.0, out=light)
    return np.sqrt(np.minimum(light * (1.0 + light / _WHITE**2) / (1.0 + light), 1.0))


def sense(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sensor noise and rounding: camera values in [0, 1] to (H, W, 3) uint8.

    Shot noise is uniform after the square root, so plain Gaussian noise does; it is shared a little between the
    colours and the neighbours, as after demosaicing.
    """
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (3, 3), 0.45)
    noise += 0.5 * noise.mean(axis=2, keepdims=True)
    values = values * 255.0 + noise * rng.uniform(1.6, 2.8)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
