"""What AnomalyNCD trains, and the frozen trunk in front of it, whose tokens can be kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anomalyhub.discovery.base import Embedder, batches, tensors
from anomalyhub.discovery.views import augmented_view
from anomalyhub.nn.heads import CosineHeads, ProjectionHead
from anomalyhub.nn.mgvit import MaskGuidedViT
from anomalyhub.types import SubImage


class Network(nn.Module):
    """Copies of the transformer's last blocks, the classification heads and the projection.

    blocks of the backbone itself are left as they are: others use it too. With `train_blocks` 0 the copy of the last
    block is frozen, and only what follows it trains.
    """

    def __init__(self, guided: MaskGuidedViT, train_blocks: int, n_classes: int, n_heads: int, hidden: int, out: int):
        super().__init__()
        self._guided = (guided,)  # in a tuple it is no submodule: neither trained nor saved
        self.blocks = last_blocks(guided, train_blocks)
        dim = self.blocks[-1].attn.proj.out_features
        self.heads = CosineHeads(dim, n_classes, n_heads)
        self.projection = ProjectionHead(dim, hidden, out)

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Trunk tokens (B, T, D) and inside (B, P) to logits (H, B, C) and unit projections (B, out)."""
        cls = self._guided[0].tail(x, inside, self.blocks).float()
        with torch.autocast(cls.device.type, enabled=False):  # a cosine over 0.1 needs more than 8 bits
            return self.heads(F.normalize(cls, dim=-1)), self.projection(cls)


def last_blocks(guided: MaskGuidedViT, train_blocks: int) -> nn.ModuleList:
    """A copy of the last `train_blocks` blocks that can be trained; of the last one, frozen, for 0."""
    blocks = guided.vit.blocks
    copies = copy.deepcopy(list(blocks)[len(blocks) - max(1, train_blocks) :])
    return nn.ModuleList(copies).requires_grad_(train_blocks > 0)


def class_tokens(guided: MaskGuidedViT, blocks: Sequence[nn.Module]) -> Embedder:
    """Unit class tokens with `blocks` in place of the last ones."""

    @torch.no_grad()
    def embed(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        x, grid = guided.embed(images)
        inside = guided.inside(masks, grid)
        x = guided.trunk(x, inside, len(guided.vit.blocks) - len(blocks))
        return F.normalize(guided.tail(x, inside, blocks).float(), dim=-1)

    return embed


class Trunk:
    """Tokens of augmented views after the frozen blocks.

    views_run  how many views it was run for so far
    """

    def __init__(self, backbone: Any, guided: MaskGuidedViT, stop: int, augmentations: Sequence[str]):
        self.backbone, self.guided, self.stop, self.augmentations = backbone, guided, stop, augmentations
        self.views_run = 0

    @torch.no_grad()
    def __call__(self, sub_images: Sequence[SubImage], keys: Sequence[tuple[int, ...]]):
        """One view per sub-image, drawn by its random key: tokens (B, T, D) float32 and inside (B, P) bool."""
        side = self.backbone.size
        views = [
            augmented_view(sub_image, side, self.augmentations, np.random.default_rng(key))
            for sub_image, key in zip(sub_images, keys, strict=True)
        ]
        images, masks = tensors(self.backbone, views)
        x, grid = self.guided.embed(images)
        inside = self.guided.inside(masks, grid)
        self.views_run += len(views)
        return self.guided.trunk(x, inside, self.stop), inside

    def bytes_per_view(self, sub_image: SubImage) -> int:
        """What a cache needs for one view."""
        x, inside = self([sub_image], [(0,)])
        self.views_run -= 1
        return 2 * x.numel() + inside.numel()


class TokenCache:
    """`slots` views of each sub-image through the trunk, float16, on the backbone's device.

    keys  the random key of slot s of sub-image i, which is (*key, i, s)
    """

    def __init__(
        self,
        trunk: Trunk,
        sub_images: Sequence[SubImage],
        own: np.ndarray,
        slots: int,
        key: tuple[int, ...],
        tick: Callable[[float], None],
        batch: int,
    ):
        self.slots = slots
        self.row = {int(item): index * slots for index, item in enumerate(own)}
        wanted = [(int(item), slot) for item in own for slot in range(slots)]
        tokens: torch.Tensor | None = None
        for run in batches(len(wanted), batch):
            tick(run.start / len(wanted))
            part = wanted[run.start : run.stop]
            x, inside = trunk([sub_images[item] for item, _ in part], [(*key, *pair) for pair in part])
            if tokens is None:
                tokens = x.new_empty((len(wanted), *x.shape[1:]), dtype=torch.float16)
                self.inside = inside.new_empty((len(wanted), *inside.shape[1:]))
            largest = torch.finfo(torch.float16).max
            tokens[run.start : run.stop] = x.clamp(-largest, largest)
            self.inside[run.start : run.stop] = inside
        self.tokens = tokens

    def __call__(self, items: Sequence[int], slots: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, T, D) float32 and inside (B, P) of one slot per item."""
        rows = [self.row[int(item)] + int(slot) for item, slot in zip(items, slots, strict=True)]
        return self.tokens[rows].float(), self.inside[rows]
