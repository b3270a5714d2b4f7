"""Tiny products for the tests of synthesis: a disc on a plain table, and a texture that fills its image."""

from __future__ import annotations

import numpy as np

from anomalyhub.types import Sample

SHAPE = (48, 64)


def disc(number: int, shape: tuple[int, int] = SHAPE, hole: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on a grey table with light from one side, (H, W, 3) uint8, and its pixels (H, W) bool.

    hole  radius of the hole in its middle through which the table is seen, as a share of its own
    """
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: shape[0], : shape[1]]
    radius = 0.34 * min(shape)
    centre = np.array(shape) / 2 + rng.uniform(-2, 2, 2)
    distance = np.hypot(y - centre[0], x - centre[1])
    inside = (distance < radius) & (distance >= hole * radius)
    table = 90 + 30 * x / shape[1]
    image = np.where(inside[..., None], (200, 60, 50), table[..., None]) + rng.normal(0, 2, (*shape, 3))
    return image.clip(0, 255).round().astype(np.uint8), inside


def fabric(number: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Crossing waves with noise, (H, W, 3) uint8."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = np.sin(x / 2 + rng.uniform(0, 6)) + np.sin(y / 1.5 + rng.uniform(0, 6))
    return (120 + 25 * wave[..., None] + rng.normal(0, 6, (*shape, 3))).clip(0, 255).round().astype(np.uint8)


def discs(count: int = 4, shape: tuple[int, int] = SHAPE) -> list[Sample]:
    return [Sample(f"train/good/{i:03}.png", disc(i, shape)[0], "good") for i in range(count)]
