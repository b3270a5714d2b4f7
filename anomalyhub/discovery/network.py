"""What AnomalyNCD trains, and the frozen trunk in front of it, whose tokens can be kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anomalyhub.discovery.base import batches
from anomalyhub.nn.descriptor import Embedder, tensors
from anomalyhub.nn.heads import CosineHeads, ProjectionHead
from anomalyhub.nn.mgvit import MaskGuidedViT
from anomalyhub.nn.views import augmented_view
from anomalyhub.types import SubImage

#: Normalised images (B, 3, S, S) and masks (B, 1, S, S) to what the trained part starts from: x (B, T, D) and
#: inside (B, P).
Front = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class LastBlocks(nn.Module):
    """Copies of the transformer's last blocks: from the tokens before them to class tokens.

    The blocks of the backbone itself are left as they are: others use it too. With `train_blocks` 0 the copy of the
    last block is frozen.
    """

    def __init__(self, guided: MaskGuidedViT, train_blocks: int):
        super().__init__()
        self._guided = (guided,)  # in a tuple it is no submodule: neither trained nor saved
        blocks = guided.vit.blocks
        copies = copy.deepcopy(list(blocks)[len(blocks) - max(1, train_blocks) :])
        self.blocks = nn.ModuleList(copies).requires_grad_(train_blocks > 0)
        self.dim = self.blocks[-1].attn.proj.out_features

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Trunk tokens (B, T, D) and inside (B, P) to class tokens (B, D)."""
        return self._guided[0].tail(x, inside, self.blocks)

    def front(self) -> Front:
        """The frozen blocks before these."""
        guided = self._guided[0]
        stop = len(guided.vit.blocks) - len(self.blocks)

        def tokens(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x, grid = guided.embed(images)
            inside = guided.inside(masks, grid)
            return guided.trunk(x, inside, stop), inside

        return tokens


class Adapter(nn.Linear):
    """A linear map of frozen descriptors that starts as the identity; with `train_blocks` 0 it stays that."""

    def __init__(self, dim: int, train_blocks: int):
        super().__init__(dim, dim, bias=False)
        self.dim = dim
        nn.init.eye_(self.weight)
        self.requires_grad_(train_blocks > 0)

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Descriptors (B, 1, D) to (B, D)."""
        return super().forward(x[:, 0])


def descriptor_front(describe: Embedder) -> Front:
    """What an Adapter starts from."""

    def described(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = describe(images, masks)[:, None]
        return x, torch.zeros(len(x), 0, dtype=torch.bool, device=x.device)

    return described


class Network(nn.Module):
    """What trains: the tail (LastBlocks or Adapter), the classification heads and the projection."""

    def __init__(self, tail: LastBlocks | Adapter, n_classes: int, n_heads: int, hidden: int, out: int):
        super().__init__()
        self.tail = tail
        self.heads = CosineHeads(tail.dim, n_classes, n_heads)
        self.projection = ProjectionHead(tail.dim, hidden, out)

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a Front gives to logits (H, B, C) and unit projections (B, out)."""
        features = self.tail(x, inside).float()
        with torch.autocast(features.device.type, enabled=False):  # a cosine over 0.1 needs more than 8 bits
            return self.heads(F.normalize(features, dim=-1)), self.projection(features)


def unit_features(front: Front, tail: LastBlocks | Adapter) -> Embedder:
    """Both together, as unit vectors."""

    @torch.no_grad()
    def embed(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return F.normalize(tail(*front(images, masks)).float(), dim=-1)

    return embed


class Trunk:
    """Augmented views after the frozen front.

    views_run  how many views it was run for so far
    """

    def __init__(self, backbone: Any, front: Front, augmentations: Sequence[str]):
        self.backbone, self.front, self.augmentations = backbone, front, augmentations
        self.views_run = 0

    @torch.no_grad()
    def __call__(self, sub_images: Sequence[SubImage], keys: Sequence[tuple[int, ...]]):
        """One view per sub-image, drawn by its random key: tokens (B, T, D) float32 and inside (B, P) bool."""
        side = self.backbone.size
        views = [
            augmented_view(sub_image, side, self.augmentations, np.random.default_rng(key))
            for sub_image, key in zip(sub_images, keys, strict=True)
        ]
        self.views_run += len(views)
        return self.front(*tensors(self.backbone, views))

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
