"""What frozen transformers say of a masked region, without any training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.mgvit import MaskGuidedViT


class Descriptor:
    """Unit vectors (B, D) of images and masks, by the fields of a ClusteringConfig.

    references  unit patch tokens (blocks, R, P, D) of other images for the weights by distance, see `collect`

    Raises InvalidArgumentError for a block that does not exist.
    """

    def __init__(self, guided: MaskGuidedViT, config: Any, references: torch.Tensor | None = None):
        self.guided, self.config, self.references = guided, config, references
        depth = len(guided.vit.blocks)
        self.class_blocks = config.class_blocks or ()
        self.patch_blocks = config.patch_blocks or (() if self.class_blocks else (depth // 2 or 1,))
        if config.descriptor == "middle":
            self.class_blocks, self.patch_blocks = (depth // 2 or 1,), (depth // 3 or 1,)
        self.taps = {*self.class_blocks, *self.patch_blocks}
        if max(self.taps) > depth:
            raise InvalidArgumentError(
                f"block {max(self.taps)} does not exist: this transformer has blocks 1 to {depth}"
            )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, S, S) and masks (B, 1, S, S) to (B, D); zeros where nothing is averaged."""
        x, grid = self.guided.embed(images)
        coverage = self.guided.coverage(masks, grid)
        inside = coverage >= self.guided.threshold
        if self.config.descriptor == "class_token":
            return F.normalize(self.guided.guided(x, inside)[:, 0].float(), dim=-1)
        tokens = self.guided.tapped(x, inside, self.taps)
        parts = [tokens[block][:, 0] for block in self.class_blocks]
        for number, block in enumerate(self.patch_blocks):
            patches = tokens[block][:, -coverage.shape[1] :]
            parts.append((self._weights(patches, coverage, number)[..., None] * patches).sum(1))
        return F.normalize(torch.cat([F.normalize(part.float(), dim=-1) for part in parts], -1), dim=-1)

    @property
    def needs_references(self) -> bool:
        return self.config.descriptor == "tokens" and self.config.weights == "distance" and bool(self.patch_blocks)

    @torch.no_grad()
    def collect(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
        """References from images and masks: unit patch tokens (blocks, R, P, D) float16."""
        found = []
        for images, masks in batches:
            x, grid = self.guided.embed(images)
            tokens = self.guided.tapped(x, self.guided.inside(masks, grid), self.taps)
            patches = torch.stack([tokens[block][:, -grid[0] * grid[1] :] for block in self.patch_blocks])
            found.append(F.normalize(patches.float(), dim=-1).half().cpu().numpy())
        return np.concatenate(found, axis=1)

    def _weights(self, patches: torch.Tensor, coverage: torch.Tensor, number: int) -> torch.Tensor:
        """Weights (B, P) of patch tokens (B, P, D); they sum to 1, or to 0 for an empty mask with "mask"."""
        if self.config.weights == "mask":
            return coverage / coverage.sum(1, keepdim=True).clamp_min(1e-6)
        novelty = coverage if self.references is None else patch_novelty(patches, self.references[number])
        return (novelty / self.config.weight_temperature).softmax(-1)


def patch_novelty(patches: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """(B, P, D) patch tokens and unit tokens (R, P', D) to (B, P): mean over references of the nearest one's distance.

    Distances are between unit vectors, in [0, 2]. Where an image is its own reference, all its patches lose the same.
    """
    unit = F.normalize(patches.float(), dim=-1).flatten(0, 1)
    nearest = [(unit @ reference.T).amax(-1) for reference in references]
    distances = (2 - 2 * torch.stack(nearest)).clamp_min(0).sqrt()
    return distances.mean(0).reshape(patches.shape[:2])
