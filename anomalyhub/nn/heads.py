"""Heads on top of an embedding: prototype classifiers on the unit sphere, and the MLP of contrastive learning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class CosineHeads(nn.Module):
    """Several independent linear classifiers, weight-normalised with norm 1 and without bias: logits are cosines.

    weight  (H, C, D); each row counts by its direction alone
    """

    def __init__(self, dim: int, n_classes: int, n_heads: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_heads, n_classes, dim).uniform_(-(dim**-0.5), dim**-0.5))

    @property
    def prototypes(self) -> torch.Tensor:
        """Unit vectors (H, C, D)."""
        return F.normalize(self.weight, dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, D) to logits (H, B, C) in [-1, 1]."""
        return x @ self.prototypes.transpose(1, 2)


class ProjectionHead(nn.Sequential):
    """An MLP with GELU to unit vectors (B, out) for contrastive losses; `depth` linear layers."""

    def __init__(self, dim: int, hidden: int = 2048, out: int = 256, depth: int = 3):
        widths = [dim, *[hidden] * (depth - 1), out]
        layers: list[nn.Module] = []
        for wide, narrow in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(wide, narrow), nn.GELU()]
        super().__init__(*layers[:-1])
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(super().forward(x), dim=-1)
