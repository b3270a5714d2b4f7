"""The parts of APRIL-GAN that its detector and its training share: linear layers, maps, and files of weights.

Chen et al., A Zero-/Few-Shot Anomaly Classification and Segmentation Method, CVPR 2023 workshop VAND.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from anomalyhub.backbones.clip import ClipBackbone
from anomalyhub.detection.provenance import Provenance
from anomalyhub.errors import InvalidArgumentError, InvalidModelError
from anomalyhub.state import read_state

#: The trainer's name in the folder that it saves.
TRAINER = "april-gan"
_KEY = re.compile(r"^(?:(.*)\.)?(fc\.(\d+)\.(?:weight|bias))$")
_MAKE = "train some with `anomalyhub train april-gan`"


class LinearLayers(torch.nn.Module):
    """One linear layer per tapped block of a CLIP, named as in published weights: fc.0.weight, fc.0.bias, …"""

    def __init__(self, widths: Sequence[int], embed_dim: int):
        super().__init__()
        self.fc = torch.nn.ModuleList(torch.nn.Linear(width, embed_dim) for width in widths)

    def forward(self, maps: Sequence[torch.Tensor], text: torch.Tensor) -> list[torch.Tensor]:
        """Margins (B, h, w) per layer (see `margins`) of patch tokens (B, width, h, w); text (D, 2) or (B, D, 2)."""
        return [
            margins(linear(level.flatten(2).transpose(1, 2)), text).unflatten(1, level.shape[2:])
            for linear, level in zip(self.fc, maps, strict=True)
        ]


def margins(vectors: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """100 times (cosine to the abnormal text - cosine to the normal text), whose sigmoid is the softmax over the two.

    vectors  (…, D) of any length, or (B, P, D) for a text of each image
    text     (D, 2) or (B, D, 2), unit columns normal, abnormal
    Always float32: 100 times a cosine of lower precision has errors of whole units.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        direction = text[..., 1:] - text[..., :1]
        return 100.0 * (F.normalize(vectors.float(), dim=-1) @ direction)[..., 0]


def upsample(levels: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(B, h, w) to (B, *shape), bilinear, corners on corners."""
    return F.interpolate(levels[:, None], shape, mode="bilinear", align_corners=True)[:, 0]


def text_maps(levels: Sequence[torch.Tensor], shape: tuple[int, int]) -> torch.Tensor:
    """Equation 3: the probability of the abnormal text, summed over layers; (B, *shape) in [0, n_layers].

    levels  margins (B, h, w) per layer; to upsample the difference of two similarities is to upsample both
    """
    total = upsample(levels[0], shape).sigmoid_()
    for level in levels[1:]:
        total += upsample(level, shape).sigmoid_()
    return total


def unit_tokens(maps: torch.Tensor) -> torch.Tensor:
    """Patch tokens (B, width, h, w) of one layer to unit vectors (B, P, width), row by row."""
    return F.normalize(maps.flatten(2).transpose(1, 2), dim=-1)


def reference_distances(
    tokens: Sequence[torch.Tensor], banks: Sequence[torch.Tensor], without: int | None = None
) -> torch.Tensor:
    """Equation 4: 1 - the largest cosine to a token of the references, summed over layers; (B, P) in [0, 2 n_layers].

    tokens   unit tokens (B, P, width) per layer, not projected
    banks    those of the references (N, P, width) per layer
    without  a reference to leave out
    """
    total = torch.zeros(tokens[0].shape[:2], device=tokens[0].device)
    for level, bank in zip(tokens, banks, strict=True):
        # one reference at a time, which bounds the memory: P x P similarities per image
        nearest = [(level @ reference.T).amax(-1) for number, reference in enumerate(bank) if number != without]
        total += 1.0 - torch.stack(nearest).amax(0)
    return total


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """What a weights setting names.

    tensors      float32 state of LinearLayers
    layers       the CLIP's blocks that they were trained on, fingerprint  the CLIP's weights; None where nothing says
    provenance   what they were trained on, None where nothing says
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    layers: tuple[int, ...] | None = None
    fingerprint: str | None = None
    provenance: Provenance | None = None

    def module_for(self, backbone: ClipBackbone) -> LinearLayers:
        """The layers on the backbone's device. Raises InvalidArgumentError where they do not belong to it."""
        if self.fingerprint not in (None, backbone.fingerprint):
            raise InvalidArgumentError(
                f"the layers of {self.path} were trained on another CLIP than {backbone.spec}: "
                f"give the same --backbone, or {_MAKE} on this one"
            )
        if self.layers not in (None, tuple(backbone.layers)):
            raise InvalidArgumentError(
                f"the layers of {self.path} were trained on blocks {list(self.layers or ())} and this backbone taps "
                f"{list(backbone.layers)}: set layers={','.join(map(str, self.layers or ()))}"
            )
        module = LinearLayers(backbone.channels, backbone.embed_dim)
        expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in self.tensors.items()}
        if len(found) != len(expected):
            raise InvalidArgumentError(
                f"{self.path} holds {len(found) // 2} linear layers and {backbone.spec} is tapped at "
                f"{len(backbone.layers)} blocks: set layers to the {len(found) // 2} blocks that they were trained on"
            )
        for name, shape in expected.items():
            if found[name] != shape:
                raise InvalidArgumentError(
                    f"{name} of {self.path} has shape {found[name]} and {backbone.spec} needs {shape}: "
                    f"give the CLIP that it was trained on, or {_MAKE} on this one"
                )
        module.load_state_dict(self.tensors)
        return module.to(backbone.device).eval().requires_grad_(False)


def read_layers(path: str | None) -> LayerWeights:
    """The folder of a training, or a .safetensors file with keys fc.0.weight, fc.0.bias, … after any one prefix.

    Raises InvalidArgumentError for anything else and InvalidModelError for a damaged folder.
    """
    if not path:
        raise InvalidArgumentError(
            "APRIL-GAN needs trained linear layers and setting weights names none: "
            f"{_MAKE} and give its folder, or give a .safetensors file of published ones"
        )
    file = Path(path).expanduser()
    if file.is_dir():
        config, arrays = read_state(file, "pretrained")
        if config.get("trainer") != TRAINER:
            raise InvalidArgumentError(f"{file} holds weights of {config.get('trainer')!r}, not april-gan: {_MAKE}")
        try:
            stored = config["backbone"]
            layers, fingerprint = tuple(int(layer) for layer in stored["layers"]), str(stored["fingerprint"])
            return LayerWeights(
                file, layer_state(arrays, file), layers, fingerprint, Provenance.restore(config, arrays)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(f"{file} is damaged ({error}): copy the folder again, or train again") from error
    if not file.exists():
        raise InvalidArgumentError(f"weights {file} does not exist: check the path, or {_MAKE}")
    if file.suffix != ".safetensors":
        raise InvalidArgumentError(
            f"weights {file} is not a .safetensors file: convert it (pickled checkpoints are not opened)"
        )
    return LayerWeights(file, layer_state(_tensors(file), file))


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InvalidArgumentError(f"weights {file} cannot be read ({error}): copy the file again") from error


def layer_state(tensors: Mapping[str, Any], file: Any) -> dict[str, torch.Tensor]:
    """The linear layers among tensors or arrays, float32, without their prefix: the state of LinearLayers.

    Raises InvalidArgumentError, naming `file`, unless they are numbered from 0 with weight and bias each.
    """
    found = [(match, value) for name, value in tensors.items() if (match := _KEY.match(name))]
    prefixes = sorted({match[1] or "" for match, _ in found})
    numbers = {int(match[3]) for match, _ in found}
    if not found or len(prefixes) > 1 or numbers != set(range(len(numbers))) or len(found) != 2 * len(numbers):
        what = f"layers under several prefixes ({', '.join(prefixes)})" if len(prefixes) > 1 else "other keys"
        raise InvalidArgumentError(
            f"{file} must hold fc.0.weight, fc.0.bias, fc.1.weight and so on and holds {what}: give the linear layers"
        )
    return {match[2]: torch.as_tensor(value).float() for match, value in found}
