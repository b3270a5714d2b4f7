"""timm models as backbones: CNN stages and ViT blocks behind one protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from anomalyhub.backbones.base import DataConfig, TorchBackbone, choose_layers, even_layers
from anomalyhub.backbones.spec import BackboneSpec, fingerprint, hub_file
from anomalyhub.errors import BackboneError, UnknownNameError

_WEIGHTS = "model.safetensors"
# arguments of timm.create_model that load files or are set here: a config.json from the Hub has no say in them
_NOT_SHAPE = {"checkpoint_path", "cache_dir", "num_classes", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}


def create_timm(spec: BackboneSpec, layers: Sequence[int] | None, device: Any) -> TorchBackbone:
    """Make the model, load the weights that the tapped layers need, and drop the rest of the network."""
    if spec.repo_id:
        config = _hub_config(spec)
        name, arguments = config["architecture"], config.get("model_args") or {}
        data, repo_id = _data_config(config.get("pretrained_cfg") or config), spec.repo_id
    else:
        _check_name(spec.name)
        pretrained = timm.get_pretrained_cfg(spec.name)
        name, arguments = spec.name, {}
        data = _data_config(pretrained.to_dict() if pretrained else {})
        repo_id = pretrained.hf_hub_id if pretrained else None
    file = spec.file or _hub_weights(repo_id, spec)  # first: of a network without them nothing need be made
    module = _create(name, arguments, spec.text)
    tokens = getattr(module, "num_prefix_tokens", None)
    info = module.feature_info
    offset = 0 if tokens is None else 1
    valid = range(offset, len(info) + offset)
    strides = [level["reduction"] for level in info]
    chosen = choose_layers(layers, _default_layers(strides, tokens is not None), valid, name)
    indices = [layer - offset for layer in chosen]
    module.prune_intermediate_layers(indices, prune_norm=False, prune_head=True)
    _load(module, file, name)
    if tokens is None:
        module = module.to(memory_format=torch.channels_last)  # a quarter faster on CPUs

    def forward(batch: torch.Tensor, want_cls: bool) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        if tokens is None:
            batch = batch.contiguous(memory_format=torch.channels_last)
            return module.forward_intermediates(batch, indices=indices, stop_early=True, intermediates_only=True), None
        if not want_cls or tokens == 0:
            return module.forward_intermediates(batch, indices=indices, stop_early=True, intermediates_only=True), None
        last, maps = module.forward_intermediates(batch, indices=indices, stop_early=True)
        return maps, last[:, 0]

    return TorchBackbone(
        f"{spec.name}@{spec.file}" if spec.file else spec.text,  # absolute: a saved model may be used from elsewhere
        module,
        forward,
        layers=chosen,
        channels=[info[index]["num_chs"] for index in indices],
        strides=[strides[index] for index in indices],
        data=data,
        fingerprint=fingerprint(file),
        device=device,
    )


def _hub_config(spec: BackboneSpec) -> dict[str, Any]:
    """config.json of a timm model on the Hub; only what shapes the network is kept of its model_args."""
    try:
        config = json.loads(hub_file(spec.repo_id, "config.json", spec.name).read_text(encoding="utf-8"))
        known = timm.is_model(config["architecture"])
        arguments = {key: value for key, value in (config.get("model_args") or {}).items() if key not in _NOT_SHAPE}
    except (ValueError, TypeError, KeyError, AttributeError):
        known = False
    if not known:
        raise BackboneError(
            f"{spec.repo_id} is not a model that timm {timm.__version__} knows (its config.json names none): "
            "choose a timm model, or upgrade timm"
        )
    return {**config, "model_args": arguments}


def _check_name(name: str) -> None:
    if name != "embedded" and not timm.is_model(name):
        raise UnknownNameError("backbone", name, ["embedded", *_near(name)])
    tag = name.partition(".")[2]
    tags = [full.partition(".")[2] for full in timm.list_pretrained(name.partition(".")[0])]
    if tag and tag not in tags:
        raise UnknownNameError("backbone", name, [f"{name.partition('.')[0]}.{known}" for known in tags])


def _near(name: str) -> list[str]:
    """A few timm names like this one: all 1,300 would not help."""
    import difflib

    return difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5) or ["resnet18", "wide_resnet50_2"]


def _create(name: str, arguments: dict[str, Any], spec: str) -> torch.nn.Module:
    # a ViT takes any input size when its position embeddings are interpolated; other models do not know the argument
    for extra in ({"dynamic_img_size": True}, {}):
        try:
            module = timm.create_model(name, pretrained=False, num_classes=0, **arguments, **extra)
        except TypeError:
            continue
        except RuntimeError as error:
            raise BackboneError(f"timm cannot make {spec!r}: {str(error).splitlines()[0]}; upgrade timm") from error
        break
    else:
        raise BackboneError(f"timm cannot make {spec!r} with the arguments of its config.json: upgrade timm")
    if not hasattr(module, "forward_intermediates") or not hasattr(module, "prune_intermediate_layers"):
        raise BackboneError(f"timm's {name} gives no intermediate features: choose a ResNet, ConvNeXt, Swin or ViT")
    return module


def _default_layers(strides: Sequence[int], is_vit: bool) -> list[int]:
    if is_vit:
        return even_layers(len(strides))
    last = {stride: level for level, stride in enumerate(strides)}
    return [last[stride] for stride in (8, 16) if stride in last] or [len(strides) - 1]


def _data_config(config: dict[str, Any]) -> DataConfig:
    resolved = timm.data.resolve_data_config({}, pretrained_cfg=config)
    return DataConfig(resolved["input_size"][-1], resolved["mean"], resolved["std"], resolved["interpolation"])


def _hub_weights(repo_id: str | None, spec: BackboneSpec):
    if not repo_id:
        raise BackboneError(
            f"timm knows no pretrained weights for {spec.name!r}: pass a local file as {spec.name}@FILE.safetensors"
        )
    return hub_file(repo_id, _WEIGHTS, spec.name)


def _load(module: torch.nn.Module, file, name: str) -> None:
    try:
        state = load_file(file)
        result = module.load_state_dict(state, strict=False)
    except (SafetensorError, OSError) as error:
        raise BackboneError(f"{file} is not a readable safetensors file ({error}): download it again") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise BackboneError(f"{file} does not fit {name} ({reason}): give weights of this architecture") from error
    # the norm and head that only the end of the network uses may be absent from a trunk file
    unused = {"norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias"}
    missing = [key for key in result.missing_keys if key not in unused and not key.startswith("head.")]
    if missing:
        raise BackboneError(
            f"{file} lacks {len(missing)} tensors that the tapped layers of {name} need, first {missing[0]!r}: "
            "give weights of this architecture in timm's naming"
        )
