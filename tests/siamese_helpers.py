"""A tiny backbone with convolutional stages, and a network trained on next to nothing."""

from __future__ import annotations

import torch
from core_helpers import normals

from anomalyhub.backbones.base import DataConfig, TorchBackbone
from anomalyhub.backbones.embedded_net import EmbeddedNet
from anomalyhub.detection.siamese_training import SiameseTrainer


def tiny_stages(seed: int = 0, size: int = 64) -> TorchBackbone:
    """The architecture of `embedded` with random weights: stages of strides 4, 8 and 16, 6 to 10 channels."""
    torch.manual_seed(seed)
    module = EmbeddedNet(widths=(4, 6, 8, 10), dim=4, heads=1, blocks=1, grid=4)

    def forward(batch, want_cls):
        return module.feature_maps(batch), None

    return TorchBackbone(
        "tiny-stages",
        module,
        forward,
        layers=(1, 2, 3),
        channels=(6, 8, 10),
        strides=(4, 8, 16),
        data=DataConfig(size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear"),
        fingerprint=f"tiny-stages-{seed}",
        device="cpu",
    )


def tiny_trainer(seed: int = 0, backbone: TorchBackbone | None = None, **settings) -> SiameseTrainer:
    settings = {"epochs": 2, "batch_size": 4, "size": 64, "lr": 0.01, **settings}
    return SiameseTrainer.create(backbone or tiny_stages(), seed=seed, settings=settings)


def tiny_products() -> dict:
    return {"wave": normals(5), "other": normals(4, start=30)}
