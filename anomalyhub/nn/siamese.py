"""A Siamese network over the stages of a CNN: spatial transformers, encoders, predictors (Ejaz, 2024, chapters 4, 5).

Spatial transformers: Jaderberg et al., NeurIPS 2015. Loss: SimSiam, Chen and He, CVPR 2021.
"""

from __future__ import annotations

import copy
import typing
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from anomalyhub.errors import InvalidArgumentError

Transform = Literal["rotation", "scale", "affine"]

#: How many stages of the trunk are used (section 4.4).
STAGES = 3


def stage_layers(spec: str) -> tuple[int, ...] | None:
    """The layers of a SPEC's backbone that are its stages 1 to 3; None where that is no ResNet or ConvNeXt of timm."""
    name = spec.partition("@")[0].lower()
    if "convnext" in name:
        return (0, 1, 2)
    return (1, 2, 3) if "resne" in name else None


class SpatialTransformer(nn.Module):
    """Resamples a feature map by a transformation that a small network reads from the map itself.

    The transformation is the matrix exponential of a generator that is zero at the start: the identity then, and
    invertible always.

    kind  "rotation" (1 parameter), "scale" (one per axis) or "affine" (6)
    """

    def __init__(self, channels: int, kind: Transform, hidden: int = 32, grid: int = 4):
        super().__init__()
        if kind not in typing.get_args(Transform):
            raise InvalidArgumentError(f"transform is {kind!r}: give rotation, scale or affine")
        self.register_buffer("basis", _basis(kind), persistent=False)
        self.localisation = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(grid),
            nn.Flatten(),
            nn.Linear(hidden * grid * grid, hidden),
            nn.ReLU(),
            nn.Linear(hidden, len(self.basis)),
        )
        nn.init.zeros_(self.localisation[-1].weight)
        nn.init.zeros_(self.localisation[-1].bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, h, w) to the resampled (B, C, h, w) and the matrices (B, 3, 3).

        A matrix takes a position of the result to the position of `x` that it shows; -1 and 1 are the borders.
        """
        parameters = self.localisation(x).float()
        matrices = torch.matrix_exp(torch.einsum("bp,pij->bij", parameters, self.basis))
        return _resampled(x, matrices), matrices


class Encoder(nn.Module):
    """Three 1x1 convolutions with ReLU between them, added to their input: the identity at the start."""

    def __init__(self, width: int):
        super().__init__()
        first, second, last = (nn.Conv2d(width, width, 1) for _ in range(3))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class SiameseNetwork(nn.Module):
    """Stages of a trunk, each followed by a spatial transformer and encoded; predictors are there for training.

    backbone   a Backbone over a timm ResNet or ConvNeXt, or `embedded`; its stages are copied
    transform  kind of the spatial transformers

    All weights are trained (algorithm 1, line 8). Transformers and encoders start as the identity, because the
    published steps are small: training moves on from the trunk's own features. Predictors do not: with an identity
    there, images are pulled together at once, and what tells a defect goes with the rest. The trunk's normalisation
    keeps its statistics.
    Raises InvalidArgumentError for a backbone without three convolutional stages.
    """

    def __init__(self, backbone: Any, transform: Transform = "affine"):
        super().__init__()
        stem, stages = _stages(backbone)
        widths = _widths(stem, stages)
        self.stem, self.stages = stem.requires_grad_(True), nn.ModuleList(stages).requires_grad_(True)
        self.transformers = nn.ModuleList(SpatialTransformer(width, transform) for width in widths)
        self.encoders = nn.ModuleList(Encoder(width) for width in widths)
        self.predictors = nn.ModuleList(_predictor(width) for width in widths)

    def train(self, mode: bool = True) -> SiameseNetwork:
        super().train(mode)
        self.stem.eval()  # small batches of few products would move the statistics away from ImageNet's
        self.stages.eval()
        return self

    def encode(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Normalised images (B, 3, H, W) to one encoding (B, C_l, h_l, w_l) and one matrix (B, 3, 3) per stage.

        The matrices take positions of an encoding to positions of the image (-1 and 1 are the borders); what the
        transformers of the stages before did is in them.
        """
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        encodings: list[torch.Tensor] = []
        matrices: list[torch.Tensor] = []
        for stage, transformer, encoder in zip(self.stages, self.transformers, self.encoders, strict=True):
            x, matrix = transformer(stage(x))
            encodings.append(encoder(x))
            matrices.append(matrices[-1] @ matrix if matrices else matrix)
        return encodings, matrices

    def forward(self, query: torch.Tensor, support: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two batches (B, 3, H, W) of normalised images, pair by pair of one product, to the loss and the spread.

        loss    negative cosine similarity of each position's prediction with the other image's encoding, which gets
                no gradient; symmetrised; mean over positions and stages; -1 is best
        spread  1 where the encodings' directions are evenly spread, 0 where all are one (collapse)
        """
        encodings, _ = self.encode(torch.cat([query, support]))
        losses, spreads = [], []
        for z, predictor in zip(encodings, self.predictors, strict=True):
            z = z.float()
            swapped = z.detach().roll(len(query), 0)
            losses.append(-F.cosine_similarity(predictor(z).float(), swapped, dim=1).mean())
            unit = F.normalize(z.detach(), dim=1)
            spreads.append((unit.var((0, 2, 3), correction=0).sum()).sqrt())
        return torch.stack(losses).mean(), torch.stack(spreads).mean()


def warp_back(scores: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """(B, h, w) scores of encodings to the frame of the images; `matrices` (B, 3, 3) are those of `encode`."""
    return _resampled(scores[:, None], torch.linalg.inv(matrices))[:, 0]


def _resampled(x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(matrices[:, :2], list(x.shape), align_corners=False)
    return F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def _basis(kind: Transform) -> torch.Tensor:
    """(P, 3, 3) generators."""

    def entry(*places: tuple[int, int, float]) -> torch.Tensor:
        matrix = torch.zeros(3, 3)
        for row, column, value in places:
            matrix[row, column] = value
        return matrix

    if kind == "rotation":
        return entry((0, 1, -1.0), (1, 0, 1.0))[None]
    if kind == "scale":
        return torch.stack([entry((0, 0, 1.0)), entry((1, 1, 1.0))])
    return torch.stack([entry((row, column, 1.0)) for row in (0, 1) for column in (0, 1, 2)])


def _predictor(width: int) -> nn.Sequential:
    """Two 1x1 convolutions, with SimSiam's normalisation between them."""
    hidden = nn.Conv2d(width, width, 1, bias=False)
    return nn.Sequential(hidden, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1))


def _stages(backbone: Any) -> tuple[nn.Module, list[nn.Module]]:
    """Copies of a trunk's stem and of its first three stages."""
    net = backbone.module
    stem, stages = None, []
    if all(hasattr(net, name) for name in ("conv1", "bn1", "act1", "maxpool", "layer3")):  # timm's ResNet
        stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool)
        stages = [stage for stage in (net.layer1, net.layer2, net.layer3) if len(stage)]  # pruned ones are empty
    elif hasattr(net, "downs"):  # embedded
        stem = nn.Sequential(net.stem, nn.ReLU())
        stages = [nn.Sequential(down, nn.ReLU(), stage) for down, stage in zip(net.downs, net.stages, strict=True)]
    elif hasattr(net, "stem") and hasattr(net, "stages"):  # timm's ConvNeXt
        stem, stages = net.stem, list(net.stages)
    if stem is None or len(stages) < STAGES:
        raise InvalidArgumentError(
            f"{backbone.spec} does not give three convolutional stages: choose a ResNet or ConvNeXt with its stages "
            "1 to 3, such as resnet18 or convnext_tiny, or embedded"
        )
    return copy.deepcopy(stem), [copy.deepcopy(stage) for stage in stages[:STAGES]]


@torch.no_grad()
def _widths(stem: nn.Module, stages: Sequence[nn.Module]) -> list[int]:
    parameter = next(stem.parameters())
    x = stem(torch.zeros(1, 3, 64, 64, device=parameter.device, dtype=parameter.dtype))
    widths = []
    for stage in stages:
        x = stage(x)
        widths.append(x.shape[1])
    return widths
