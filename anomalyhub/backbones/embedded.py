"""`embedded`: a small trained network that comes with the package and needs no download.

A convolutional trunk with a short vision transformer on top, distilled from an ImageNet ResNet-18 and a ViT-Tiny; how
it was made, what it reaches and where it ends is in EMBEDDED.md beside this file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import torch

from anomalyhub.backbones.base import DataConfig, TorchBackbone, choose_layers
from anomalyhub.backbones.embedded_net import EmbeddedNet
from anomalyhub.errors import BackboneError

_FILE = "embedded.safetensors"
_SHA256 = "9aab460ec9fed13744d1722ddb4c0b5320de21eaca396830758bc6f5593748f3"
_TRUNK = (1, 2)  # the maps at strides 8 and 16; the transformer's blocks follow


def create_embedded(layers: Sequence[int] | None, device: Any) -> TorchBackbone:
    """The shipped network: layers 1 and 2 are the trunk's maps at strides 8 and 16, 3 to 6 the transformer's blocks.

    Blocks that no layer taps run only where class tokens are asked for.
    """
    module = EmbeddedNet()
    depth = len(_TRUNK) + len(module.blocks)
    chosen = choose_layers(layers, _TRUNK, range(1, depth + 1), "embedded")
    module.load_state_dict(_weights())
    module = module.to(memory_format=torch.channels_last)

    def forward(batch: torch.Tensor, want_cls: bool) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        levels: dict[int, torch.Tensor] = dict(enumerate(module.feature_maps(batch, 3 if 2 in chosen else 2)))
        last, cls = depth if want_cls else max(chosen), None
        if last > 2:
            x, grid = module.tokens(batch, levels[1])
            for number in range(3, last + 1):
                x = module.blocks[number - 3](x)
                levels[number] = x[:, 1:].transpose(1, 2).reshape(len(x), -1, *grid)
            cls = module.norm(x[:, 0]) if want_cls else None
        return [levels[layer] for layer in chosen], cls

    widths = (*module.channels, *[module.dim] * len(module.blocks))
    return TorchBackbone(
        "embedded",
        module,
        forward,
        layers=chosen,
        channels=[widths[layer - 1] for layer in chosen],
        strides=[8 if layer == 1 else 16 for layer in chosen],
        data=DataConfig(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear"),
        fingerprint=_SHA256,
        device=device,
    )


def _weights() -> dict[str, torch.Tensor]:
    """The float16 weights of the package as float32. Raises BackboneError when the file is not the one that shipped."""
    from safetensors.torch import load

    try:
        data = resources.files(__package__).joinpath(_FILE).read_bytes()
    except OSError as error:
        raise BackboneError(f"{_FILE} is missing from the package ({error}): install anomalyhub again") from error
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise BackboneError(f"{_FILE} in the package is damaged (its checksum is wrong): install anomalyhub again")
    return {name: value.float() for name, value in load(data).items()}
