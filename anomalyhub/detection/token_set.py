"""Patch and class tokens of many images from one pass over them, within a byte budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.detection.base import batches, report
from anomalyhub.detection.mutual import Scratch, pair_bytes
from anomalyhub.detection.provenance import digest
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress
from anomalyhub.types import Sample


@dataclass(frozen=True, eq=False)
class TokenSet:
    """N images as a vision transformer sees them.

    grid     (h, w), P = h w
    levels   one (N, P, C) float array per layer, each image layer-normalised over its tokens and channels
    cls      (N, D) float32 class tokens, None where the backbone has none
    digests  (N,) uint64, of the pixels
    shapes   (H, W) of each image; empty when read from a saved model
    """

    grid: tuple[int, int]
    levels: tuple[np.ndarray, ...]
    cls: np.ndarray | None
    digests: np.ndarray
    shapes: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.digests)


def tokens_of(backbone: Any, images: Sequence[np.ndarray], resize: int | None, storage: str) -> TokenSet:
    """The tokens of one batch of (H, W, 3) uint8 images; `storage` is the type of the levels.

    Raises InvalidArgumentError where the tapped layers lie on several grids.
    """
    features = backbone.extract(images, resize)
    grids = [level.shape[1:] for level in features[0].maps]
    if len(set(grids)) > 1:
        raise InvalidArgumentError(
            f"MuSc needs layers of one grid, and layers {list(backbone.layers)} of {backbone.spec} have "
            f"{' and '.join(f'{h} x {w}' for h, w in dict.fromkeys(grids))}: tap blocks of a ViT, such as layers "
            "3,4,5,6 of embedded, or a single layer"
        )
    levels = []
    for number in range(len(grids)):
        maps = torch.from_numpy(np.stack([one.maps[number] for one in features]))
        tokens = maps.flatten(2).transpose(1, 2)
        levels.append(F.layer_norm(tokens, tokens.shape[1:]).numpy().astype(storage))
    cls = None if features[0].cls is None else np.stack([one.cls for one in features])
    digests = np.array([digest(image) for image in images], np.uint64)
    return TokenSet(grids[0], tuple(levels), cls, digests, tuple(image.shape[:2] for image in images))


def read_tokens(
    backbone: Any,
    samples: Iterable[Sample],
    count: int,
    scratch: Scratch,
    *,
    resize: int | None,
    storage: str,
    batch_size: int,
    progress: Progress | None = None,
) -> TokenSet | None:
    """The tokens of a stream of images, None where there is no image; `count` is how many, 0 if unknown.

    Levels for which the budget has no room beside the pair distances, which are written to and fro, lie in files.
    """
    levels: list[np.ndarray] = []
    classes, digests, shapes = [], [], []
    for batch in batches(samples, batch_size):
        new = tokens_of(backbone, [sample.image for sample in batch], resize, storage)
        start, end = len(shapes), len(shapes) + len(batch)
        levels = [
            _with_room(level, start, end, count, part, scratch)
            for level, part in zip(levels or [None] * len(new.levels), new.levels, strict=True)
        ]
        for level, part in zip(levels, new.levels, strict=True):
            level[start:end] = part
        shapes += new.shapes
        classes.append(new.cls)
        digests.append(new.digests)
        grid = new.grid
        done = f"features {end}" + (f" of {count} images" if count else " images")
        report(progress, min(1.0, end / count) if count else 0.5, done)
    if not shapes:
        return None
    cls = None if classes[0] is None else np.concatenate(classes)
    return TokenSet(grid, tuple(level[: len(shapes)] for level in levels), cls, np.concatenate(digests), tuple(shapes))


def _with_room(
    level: np.ndarray | None, start: int, end: int, count: int, part: np.ndarray, scratch: Scratch
) -> np.ndarray:
    """`level`, or a larger one with its first `start` images and room for `end`, or for all of `count`."""
    if level is not None and len(level) >= end:
        return level
    room = max(count, end) if level is None else 2 * end  # a stream of unknown length
    _, n_patches, channels = part.shape
    larger = scratch.empty(room, n_patches, channels, dtype=part.dtype, reserve=pair_bytes(room, n_patches, channels))
    if level is not None:
        larger[:start] = level[:start]
    return larger
