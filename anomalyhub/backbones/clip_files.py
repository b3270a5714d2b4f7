"""The files of a CLIP, in a folder or on the Hub: where they are, and what is in them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from anomalyhub.backbones.base import DataConfig
from anomalyhub.backbones.spec import BackboneSpec, hub_file, optional_hub_file
from anomalyhub.errors import BackboneError

#: What the SPEC `clip` stands for.
CLIP_REPO = "openai/clip-vit-large-patch14-336"

_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_PREPROCESSOR = "preprocessor_config.json"
_FOLDER = "pass a folder as clip@FOLDER"
# RGB statistics that OpenAI's CLIP and its successors share
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipFiles:
    """Paths of one CLIP; without a preprocessor's the statistics are CLIP's own."""

    config: Path
    weights: Path
    tokenizer: Path
    preprocessor: Path | None = None


def is_clip(spec: BackboneSpec) -> bool:
    """Whether a SPEC names a CLIP; the config.json of a Hub id is downloaded for that."""
    if spec.repo_id is None:
        return spec.name == "clip"
    path = hub_file(spec.repo_id, _CONFIG, spec.name)
    try:
        return _json(path).get("model_type") == "clip"
    except BackboneError:  # whatever it is, it is no CLIP: timm says the rest
        return False


def locate(spec: BackboneSpec) -> ClipFiles:
    """The files of `clip`, `clip@FOLDER` or `hf:OWNER/NAME[@FILE]`. Raises BackboneError naming a missing one."""
    if spec.folder:
        for name in (_CONFIG, _WEIGHTS, _TOKENIZER):
            if not (spec.folder / name).is_file():
                raise BackboneError(f"{spec.folder} has no {name}: {_make_folder('NAME')}")
        found = {name: spec.folder / name for name in (_CONFIG, _WEIGHTS, _TOKENIZER)}
        preprocessor = spec.folder / _PREPROCESSOR
        return ClipFiles(*found.values(), preprocessor if preprocessor.is_file() else None)
    tokenizer, config = _from_hub(spec, _TOKENIZER), _from_hub(spec, _CONFIG)
    preprocessor = optional_hub_file(spec.repo_id or CLIP_REPO, _PREPROCESSOR, spec.name, _FOLDER)
    return ClipFiles(config, spec.file or _from_hub(spec, _WEIGHTS), tokenizer, preprocessor)  # the large one last


def _from_hub(spec: BackboneSpec, name: str) -> Path:
    repo_id = spec.repo_id or CLIP_REPO
    path = optional_hub_file(repo_id, name, spec.name, _FOLDER)
    if path is None:
        raise BackboneError(f"{repo_id} has no {name} on its main branch: {_make_folder(repo_id)}")
    return path


def _make_folder(name: str) -> str:
    return (
        f"make a folder once with transformers, CLIPModel.from_pretrained({name!r}).save_pretrained(FOLDER) and "
        f"CLIPTokenizerFast.from_pretrained({name!r}).save_pretrained(FOLDER), and give clip@FOLDER"
    )


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises BackboneError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path} is not readable JSON ({_reason(error)}): copy the model again") from error
    return value if isinstance(value, dict) else {}


def _config(path: Path) -> Any:
    from transformers import CLIPConfig

    values = _json(path)
    if values.get("model_type") != "clip":
        raise BackboneError(
            f"{path} is not of a CLIP (its model_type is {values.get('model_type')!r}): give a model of transformers' "
            "CLIPModel"
        )
    try:
        config = CLIPConfig.from_dict(values)
        config._attn_implementation = "sdpa"
        vision, text = config.vision_config, config.text_config
        sizes = (vision.image_size, vision.patch_size, vision.num_hidden_layers, text.max_position_embeddings)
        if not all(isinstance(size, int) and size > 0 for size in sizes) or vision.image_size < vision.patch_size:
            raise ValueError("sizes must be whole numbers, and an image larger than a patch")
    except Exception as error:  # transformers checks with errors of its own, which change
        raise BackboneError(f"{path} describes no CLIP ({_reason(error)}): copy the model again") from error
    return config


def load_clip(config_file: Path, file: Path) -> torch.nn.Module:
    """transformers' CLIPModel with the weights of a file, in float32. Raises BackboneError."""
    from transformers import CLIPModel

    config = _config(config_file)
    try:
        with torch.device("meta"):  # random initial weights would take longer than loading
            module = CLIPModel(config)
        weights = {key: value.to(torch.float32, copy=True) for key, value in load_file(file).items()}
        result = module.load_state_dict(weights, strict=False, assign=True)
    except (SafetensorError, OSError) as error:
        raise BackboneError(f"{file} is not a readable safetensors file ({error}): download it again") from error
    except (RuntimeError, ValueError) as error:
        raise BackboneError(
            f"{file} does not fit its {_CONFIG} ({_reason(error)}): copy both from one model"
        ) from error
    if result.missing_keys:
        raise BackboneError(
            f"{file} lacks {len(result.missing_keys)} tensors of its {_CONFIG}, first {result.missing_keys[0]!r}: "
            "give the weights of transformers' CLIPModel"
        )
    for embeddings in (module.text_model.embeddings, module.vision_model.embeddings):
        embeddings.position_ids = torch.arange(embeddings.position_ids.shape[-1])[None]  # not in the file
    return module


def load_tokenizer(path: Path) -> Any:
    """The tokenizers.Tokenizer in a file. Raises BackboneError."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the bare Exception of a Rust library
        raise BackboneError(f"{path} is not a readable tokenizer ({_reason(error)}): copy it again") from error


def data_config(path: Path | None, size: int) -> DataConfig:
    """Mean and std as a preprocessor_config.json has them, CLIP's where there is none. Raises BackboneError."""
    values = _json(path) if path else {}
    try:
        mean, std = (
            tuple(float(part) for part in values.get(key, default))
            for key, default in (("image_mean", _MEAN), ("image_std", _STD))
        )
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean)) or not min(std) > 0:
            raise ValueError("image_mean and image_std must be three numbers")
    except (TypeError, ValueError) as error:
        raise BackboneError(f"{path} is damaged ({_reason(error)}): copy it again, or delete it") from error
    return DataConfig(size, mean, std, "bicubic")


def _reason(error: Exception) -> str:
    """What a foreign error says, in a line: torch names the tensor in its second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[1] if isinstance(error, RuntimeError) and len(lines) > 1 else lines[0]
