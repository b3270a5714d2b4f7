"""A tiny transformer and drawn sub-images of a few kinds for the tests of discovery."""

from __future__ import annotations

import numpy as np
import timm
import torch

from anomalyhub.backbones.base import DataConfig, TorchBackbone
from anomalyhub.types import SubImage

#: Settings with which an AnomalyNCD of the tests trains in a second.
QUICK = {"epochs": 3, "batch_size": 4, "n_heads": 2, "projection_hidden": 16, "projection_out": 8, "embed_batch": 5}


def tiny_vit(seed: int = 0, depth: int = 4, **extra) -> torch.nn.Module:
    """Frozen random weights for 64 x 64 pixels, patches of 8, width 48."""
    torch.manual_seed(seed)
    shape = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": depth, "num_heads": 3, "num_classes": 0}
    module = timm.models.VisionTransformer(**shape, **extra)
    for block in module.blocks:  # timm starts with weights so small that all tokens would be alike
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.15)
        torch.nn.init.normal_(block.mlp.fc2.weight, std=0.1)
    return module.eval().requires_grad_(False)


def tiny_transformer(seed: int = 0, depth: int = 4) -> TorchBackbone:
    module = tiny_vit(seed, depth)

    def forward(batch, want_cls):
        return [], module.forward_features(batch)[:, 0]

    return TorchBackbone(
        "tiny-vit",
        module,
        forward,
        layers=(depth,),
        channels=(48,),
        strides=(8,),
        data=DataConfig(64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bicubic"),
        fingerprint=f"tiny-vit-{seed}",
        device="cpu",
    )


def sub_image(kind: str, seed: int, side: int = 48) -> SubImage:
    """One sub-image: "good" has an empty mask and a low score; the others an upright or lying bar of their colour."""
    rng = np.random.default_rng((len(kind), seed))
    y, x = np.mgrid[:side, :side]
    image = 110 + 12 * np.sin((x + 2 * y) / 5 + rng.uniform(0, 6))[..., None] + rng.normal(0, 3, (side, side, 3))
    mask = np.zeros((side, side), bool)
    if kind != "good":
        top, left = rng.integers(4, 12, 2)
        height, width = (30, 14) if kind == "burn" else (16, 30)
        mask[top : top + height, left : left + width] = True
        image[mask] = {"burn": (10, 0, 20), "paint": (250, 60, 10), "rust": (20, 250, 160)}[kind]
    score = rng.uniform(0.0, 0.2) if kind == "good" else rng.uniform(0.7, 1.0)
    pixels = image.clip(0, 255).astype(np.uint8)
    return SubImage(pixels, mask, int(mask.sum()), (0, 0, side, side), 0, float(score))


def drawn(each: int = 4, kinds: tuple[str, ...] = ("good", "burn", "paint"), start: int = 0) -> list[SubImage]:
    """`each` sub-images of every kind, of three sizes, kind after kind."""
    return [sub_image(kind, start + i, (40, 48, 73)[i % 3]) for kind in kinds for i in range(each)]
