"""Plain references, tiny backbones and tiny products for the tests of search, backbones and detectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from anomalyhub.backbones.base import DataConfig, TorchBackbone
from anomalyhub.types import Sample


def plain_greedy(points, n_select, first=None, initial=None, allowed=None):
    """Greedy k-center as the textbook has it, in float64: the picks, and the radius before each of them."""
    points = np.asarray(points, np.float64)
    nearest = np.full(len(points), np.inf)
    for centre in () if initial is None else np.asarray(initial, np.float64):
        nearest = np.minimum(nearest, np.linalg.norm(points - centre, axis=1))
    usable = np.ones(len(points), bool) if allowed is None else np.array(allowed)
    picks, radii = [], []
    while len(picks) < n_select:
        pick = first if first is not None and not picks else int(np.where(usable, nearest, -np.inf).argmax())
        picks.append(pick)
        radii.append(nearest[pick])
        usable[pick] = False
        nearest = np.minimum(nearest, np.linalg.norm(points - points[pick], axis=1))
    return np.array(picks), np.array(radii)


def assert_greedy(points, picks, initial=None, allowed=None):
    """Each pick is distinct, allowed, and, but for float32 rounding, the farthest point that was left."""
    points = np.asarray(points, np.float64)
    usable = np.ones(len(points), bool) if allowed is None else np.array(allowed)
    slack = 3e-6 * max(1e-12, ((points - points[usable].mean(0)) ** 2).sum(1).max())
    nearest = np.full(len(points), np.inf)
    for centre in () if initial is None else np.asarray(initial, np.float64):
        nearest = np.minimum(nearest, ((points - centre) ** 2).sum(1))
    for step, pick in enumerate(picks):
        assert usable[pick], f"pick {step} is not allowed, or was picked before"
        if np.isfinite(nearest[pick]):  # the first one follows a rule of its own
            assert nearest[pick] >= nearest[usable].max() - slack, f"pick {step} is not the farthest"
        usable[pick] = False
        nearest = np.minimum(nearest, ((points - points[pick]) ** 2).sum(1))


def tiny_backbone(seed: int = 0, size: int = 32, layers: Sequence[int] = (1, 2)) -> TorchBackbone:
    """Two random convolutions with strides 4 and 8, 6 and 10 channels."""
    torch.manual_seed(seed)
    first, second = torch.nn.Conv2d(3, 6, 5, 4, 2), torch.nn.Conv2d(6, 10, 3, 2, 1)
    module = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU())

    def forward(batch, want_cls):
        fine = module[:2](batch)
        maps = {1: fine, 2: module[2:](fine)}
        return [maps[layer] for layer in layers], None

    return TorchBackbone(
        "tiny",
        module,
        forward,
        layers=layers,
        channels=[{1: 6, 2: 10}[layer] for layer in layers],
        strides=[{1: 4, 2: 8}[layer] for layer in layers],
        data=DataConfig(size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear"),
        fingerprint=f"tiny-{seed}",
        device="cpu",
    )


def tiny_vit(seed: int = 0, size: int = 64) -> TorchBackbone:
    """A random transformer: patches of 4 pixels, width 16, two blocks that are both tapped, a class token."""
    torch.manual_seed(seed)
    embedding, first = torch.nn.Conv2d(3, 16, 4, 4), torch.nn.Parameter(torch.randn(1, 1, 16))
    blocks = [torch.nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True) for _ in range(2)]
    module = torch.nn.ModuleList([embedding, *blocks])
    module.register_parameter("class_token", first)

    def forward(batch, want_cls):
        patches = embedding(batch)
        tokens = torch.cat([module.class_token.expand(len(batch), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        levels = []
        for block in blocks:
            tokens = block(tokens)
            levels.append(tokens[:, 1:].transpose(1, 2).reshape(patches.shape))
        return levels, tokens[:, 0] if want_cls else None

    return TorchBackbone(
        "tiny-vit",
        module,
        forward,
        layers=(1, 2),
        channels=(16, 16),
        strides=(4, 4),
        data=DataConfig(size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear"),
        fingerprint=f"tiny-vit-{seed}",
        device="cpu",
    )


def photo(seed: int, shape: tuple[int, int] = (36, 52), defect: bool = False) -> Sample:
    """A smooth texture with noise; a defective one has a bright square of a quarter of the height, and a mask."""
    rng = np.random.default_rng(seed)
    height, width = shape
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 2 * np.pi, 3)
    wave = np.stack([np.sin(x / 5 + p) + np.sin(y / 3 + p / 2) for p in phase], axis=-1)
    image = 110 + 25 * wave + rng.normal(0, 2, wave.shape)
    mask = np.zeros(shape, bool)
    if defect:
        side = height // 4
        top, left = rng.integers(0, height - side), rng.integers(0, width - side)
        mask[top : top + side, left : left + side] = True
        image[mask] = 250
    label = "blot" if defect else "good"
    return Sample(f"{label}/{seed:03}.png", image.clip(0, 255).astype(np.uint8), label, mask)


def normals(count: int, start: int = 0) -> list[Sample]:
    """Normal photos of two sizes, neither of them square."""
    return [photo(start + i, (36, 52) if i % 3 else (60, 40)) for i in range(count)]


def rows_in(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which rows occur, bit for bit, among the others."""
    known = {row.tobytes() for row in np.ascontiguousarray(others)}
    return np.array([row.tobytes() in known for row in np.ascontiguousarray(rows)])


def bilinear(array, height, width):
    """(h, w) to (height, width), pixel centres at half, clamped at the border."""

    def weights(old, new):
        at = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        low = np.minimum(at.astype(int), max(old - 2, 0))
        matrix = np.zeros((new, old))
        matrix[np.arange(new), low] += 1 - (at - low)
        matrix[np.arange(new), np.minimum(low + 1, old - 1)] += at - low
        return matrix

    return weights(array.shape[0], height) @ array @ weights(array.shape[1], width).T
