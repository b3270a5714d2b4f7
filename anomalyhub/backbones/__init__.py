"""Backbones: `create_backbone("resnet18")`, `"resnet18@weights.safetensors"`, `"hf:OWNER/NAME"`, `"clip"`, …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anomalyhub.backbones.base import TorchBackbone
from anomalyhub.backbones.spec import parse_spec

#: The backbone that needs no download.
DEFAULT_BACKBONE = "embedded"


def create_backbone(
    spec: str = DEFAULT_BACKBONE, layers: Sequence[int] | None = None, device: Any = None
) -> TorchBackbone:
    """Make a backbone with its pretrained weights, frozen and in evaluation mode.

    spec    `embedded` (in the package), a timm name such as `wide_resnet50_2` or `vit_base_patch8_224.dino`, or a Hub
            id `hf:OWNER/NAME` of a timm model; `@FILE.safetensors` after any of the latter two takes the weights from
            a local file in timm's naming, of which only the tapped layers need be there; `clip` (OpenAI's ViT-L/14 at
            336 pixels), `clip@FOLDER` (a folder that transformers' save_pretrained wrote, model and tokenizer) or the
            Hub id of a CLIP of transformers gives a ClipBackbone
    layers  stages of a CNN as in timm's feature_info (2 and 3 of a ResNet are layer2 and layer3), 1-based blocks of a
            ViT; of `embedded` 1 and 2 are the maps at strides 8 and 16, 3 to 6 the blocks on top of them; None taps
            the strides 8 and 16 of a CNN and of `embedded`, four blocks spread evenly of a ViT
    device  torch device; None takes the process's own GPU when there is one, else the CPU

    Raises UnknownNameError, InvalidArgumentError (layers) and BackboneError (weights).
    """
    parsed = parse_spec(spec)
    if parsed.name == "embedded":
        from anomalyhub.backbones.embedded import create_embedded

        return create_embedded(layers, device)
    from anomalyhub.backbones.clip_files import is_clip

    if is_clip(parsed):
        from anomalyhub.backbones.clip import create_clip

        return create_clip(parsed, layers, device)
    from anomalyhub.backbones.timm_models import create_timm

    return create_timm(parsed, layers, device)


__all__ = ["DEFAULT_BACKBONE", "TorchBackbone", "create_backbone"]
