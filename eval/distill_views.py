"""Training views for distillation: random crops, colours and blur of a pool of images, with drawn defects and masks.

Everything about a view follows from (seed, step, rank): a resumed run sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

#: Images of the pool are kept at this side, views are made at this size, in pixels.
POOL_SIDE, VIEW_SIDE = 256, 224


@dataclass(frozen=True)
class Views:
    """images (B, 3, S, S) float32 in [0, 1]; defects and masks (B, 1, S, S) float32: drawn, and for the class token."""

    images: torch.Tensor
    defects: torch.Tensor
    masks: torch.Tensor


def draw_views(pool: torch.Tensor, chances: np.ndarray, count: int, key: tuple[int, ...]) -> Views:
    """Make `count` views of a pool (N, 3, 256, 256) uint8, image i with chance `chances[i]`, by the random key."""
    rng = np.random.default_rng(key)
    chosen = rng.choice(len(pool), count, p=chances)
    images = _crop(pool[torch.from_numpy(chosen)].float() / 255.0, rng)
    images = _colours(images, rng)
    images, defects = _add_defects(images, rng)
    images = _degrade(images, rng)
    return Views(images.clamp_(0, 1), defects, _masks(defects, rng))


def _crop(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Half of the views show the whole image, half a square of it; flips, quarter turns and a few small rotations."""
    transforms = np.zeros((len(images), 2, 3), np.float32)
    for matrix in transforms:
        scale = 1.0 if rng.random() < 0.5 else np.exp(rng.uniform(np.log(0.4), 0.0))
        turn = rng.integers(4) * np.pi / 2 + (rng.normal(0, 0.1) if rng.random() < 0.3 else 0.0)
        aspect = np.exp(rng.normal(0, 0.1)) if rng.random() < 0.3 else 1.0
        flip = rng.choice((-1.0, 1.0))
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix[:, :2] = scale * rotation @ np.diag([flip * aspect, 1.0 / aspect])
        matrix[:, 2] = rng.uniform(-1, 1, 2) * (1.0 - scale)
    grid = F.affine_grid(torch.from_numpy(transforms), [len(images), 3, VIEW_SIDE, VIEW_SIDE], align_corners=False)
    return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)


def _colours(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Per-channel gain, brightness, contrast, saturation; a quarter grey, a few inverted."""
    count = len(images)
    column = lambda values: torch.from_numpy(np.asarray(values, np.float32))[:, None, None, None]  # noqa: E731
    strong = rng.random(count) < 0.6
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.08, (count, 3)) * strong[:, None]).astype(np.float32))
    images = images * gain[:, :, None, None]
    grey = images.mean(1, keepdim=True)
    saturation = np.where(rng.random(count) < 0.25, 0.0, np.exp(rng.normal(0, 0.3, count) * strong))
    images = grey + (images - grey) * column(saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = np.exp(rng.normal(0, 0.25, count) * strong)
    images = mean + (images - mean) * column(contrast) + column(rng.normal(0, 0.08, count) * strong)
    inverted = column(rng.random(count) < 0.03)
    return (images + inverted * (1 - 2 * images)).clamp(0, 1)


def _degrade(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Gaussian blur of a sixth of the views, noise on a quarter."""
    blurred = np.flatnonzero(rng.random(len(images)) < 1 / 6)
    if len(blurred):
        sigma = rng.uniform(0.5, 2.0)
        x = torch.arange(-6.0, 7.0)
        kernel = torch.exp(-(x**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
        some = F.pad(images[blurred], (6, 6, 6, 6), mode="reflect")
        images[blurred] = F.conv2d(F.conv2d(some, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    noisy = np.flatnonzero(rng.random(len(images)) < 0.25)
    for index in noisy:
        channels = 1 if rng.random() < 0.5 else 3
        noise = rng.standard_normal((channels, VIEW_SIDE, VIEW_SIDE), np.float32) * rng.uniform(0.005, 0.06)
        images[index] += torch.from_numpy(noise)
    return images


def _add_defects(images: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Scratches, spots, stains and patches of another view on half of the views, with their opacity (B, 1, S, S)."""
    count, side = len(images), VIEW_SIDE
    opacity = np.zeros((count, side, side), np.float32)
    out = images.clone()
    for index in np.flatnonzero(rng.random(count) < 0.5):
        for _ in range(rng.integers(1, 4)):
            shape = _DEFECTS[rng.integers(len(_DEFECTS))](rng)
            shape = cv2.GaussianBlur(shape, (0, 0), rng.uniform(0.4, 1.2)) * rng.uniform(0.3, 1.0)
            alpha = torch.from_numpy(shape)[None]
            out[index] += alpha * (_paint(out[index], images, shape, rng) - out[index])
            opacity[index] = np.maximum(opacity[index], shape)
    return out, torch.from_numpy(opacity)[:, None]


def _paint(image: torch.Tensor, others: torch.Tensor, shape: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """What shows through the defect: a darker or lighter surface, a flat colour, another view, or its own blur."""
    kind = rng.random()
    if kind < 0.45:
        return (image + rng.choice((-1, 1)) * rng.uniform(0.05, 0.5)).clamp(0, 1)
    if kind < 0.65:
        return torch.from_numpy(rng.uniform(0, 1, (3, 1, 1)).astype(np.float32)).expand_as(image)
    if kind < 0.9:
        return others[rng.integers(len(others))]
    return F.avg_pool2d(image, 9, 1, 4)


def _scratch(rng: np.random.Generator) -> np.ndarray:
    """A bent line of 1 to 4 pixels."""
    canvas = np.zeros((VIEW_SIDE, VIEW_SIDE), np.float32)
    steps = rng.integers(2, 12)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.uniform(0, 0.7), steps))
    length = rng.uniform(4, 25)
    walk = np.cumsum(length * np.stack([np.cos(heading), np.sin(heading)], 1), 0) + rng.uniform(0, VIEW_SIDE, 2)
    points = np.round(walk * 16).astype(np.int32)
    cv2.polylines(canvas, [points], False, 1.0, int(rng.integers(1, 5)), cv2.LINE_AA, 4)
    return canvas


def _spot(rng: np.random.Generator) -> np.ndarray:
    """One or a few ellipses."""
    canvas = np.zeros((VIEW_SIDE, VIEW_SIDE), np.float32)
    for _ in range(rng.integers(1, 5)):
        centre = rng.integers(0, VIEW_SIDE, 2).tolist()
        axes = np.exp(rng.uniform(np.log(1.5), np.log(18), 2)).round().astype(int).tolist()
        cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA)
    return canvas


def _stain(rng: np.random.Generator) -> np.ndarray:
    """A blob from thresholded smooth noise, cut out by an ellipse."""
    cells = int(rng.integers(4, 24))
    noise = cv2.resize(rng.random((cells, cells), np.float32), (VIEW_SIDE, VIEW_SIDE), interpolation=cv2.INTER_CUBIC)
    window = np.zeros((VIEW_SIDE, VIEW_SIDE), np.float32)
    axes = rng.integers(10, 60, 2).tolist()
    cv2.ellipse(window, rng.integers(0, VIEW_SIDE, 2).tolist(), axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    return window * (noise > rng.uniform(0.4, 0.7))


def _rectangle(rng: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((VIEW_SIDE, VIEW_SIDE), np.float32)
    x, y = rng.integers(0, VIEW_SIDE - 8, 2)
    width, height = np.exp(rng.uniform(np.log(4), np.log(60), 2)).astype(int)
    canvas[y : y + height, x : x + width] = 1.0
    return canvas


_DEFECTS = (_scratch, _spot, _stain, _rectangle)


def _masks(defects: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Where the class token may look: everywhere for half of the views, else a dilated defect or a random region."""
    masks = torch.ones_like(defects)
    for index in np.flatnonzero(rng.random(len(defects)) < 0.5):
        drawn = defects[index, 0].numpy() > 0.1
        if rng.random() < 0.04:
            region = np.zeros((VIEW_SIDE, VIEW_SIDE), np.float32)
        elif drawn.any() and rng.random() < 0.7:
            side = int(rng.integers(9, 40))
            region = cv2.dilate(drawn.astype(np.float32), np.ones((side, side), np.uint8))
        else:
            region = np.maximum(_stain(rng), _rectangle(rng))
            region = cv2.dilate(region, np.ones((25, 25), np.uint8))
        masks[index, 0] = torch.from_numpy(region)
    return masks
