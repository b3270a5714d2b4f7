"""Tiny random CLIPs with a real, tiny CLIP tokenizer."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from anomalyhub.backbones import create_backbone
from anomalyhub.backbones.clip import ClipBackbone

PATCH, WIDTH, DIM, CONTEXT = 8, 24, 20, 120


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def tiny_tokenizer():
    """CLIP's tokenizer with a vocabulary of bytes, bytes that end a word, three merged tokens, and start and end."""
    from transformers import CLIPTokenizerFast

    merges = [("o", "b"), ("i", "t"), ("it", "h</w>")]
    tokens = byte_alphabet() + [f"{byte}</w>" for byte in byte_alphabet()] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizerFast(vocab=vocab, merges=merges)


def tiny_model(seed: int = 0, size: int = 32, layers: int = 4):
    """A random CLIPModel with patches of 8 px, width 24 and 20 joint dimensions; texts are read by other widths."""
    from transformers import CLIPConfig, CLIPModel

    end = len(tiny_tokenizer()) - 1
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": end + 1, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    vision = {"hidden_size": WIDTH, "intermediate_size": 40, "num_hidden_layers": layers, "num_attention_heads": 3}
    vision |= {"image_size": size, "patch_size": PATCH}
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(
            text_config={**text, "max_position_embeddings": CONTEXT, "projection_dim": DIM},
            vision_config={**vision, "projection_dim": DIM},
            projection_dim=DIM,
        )
    )
    with torch.no_grad():
        for name, value in model.named_parameters():  # the usual 0.02 would leave every token nearly as it came
            if value.ndim > 1 and "embedding" not in name:
                value.normal_(0, 0.5 / value.shape[1] ** 0.5)
            elif name.endswith("bias"):
                value.normal_(0, 0.03)
        vision, text = model.vision_model.embeddings, model.text_model.embeddings
        text.token_embedding.weight.normal_(0, 0.2)
        text.position_embedding.weight.normal_(0, 0.2)
        # places outweigh what smooth patches hold, so that the norm that follows keeps bright ones apart from these
        vision.position_embedding.weight.normal_(0, 1.0)
        vision.patch_embedding.weight.normal_(0, 0.05)
    return model.eval()


def tiny_clip_folder(folder: Path, seed: int = 0, size: int = 32, layers: int = 4) -> Path:
    """Write config.json, model.safetensors and the tokenizer's files into `folder`, as save_pretrained does."""
    tiny_model(seed, size, layers).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return Path(folder)


@lru_cache(maxsize=8)
def _folder(seed: int, size: int, layers: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-clip-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return tiny_clip_folder(folder, seed, size, layers)


def tiny_clip(seed: int = 0, size: int = 32, layers: int = 4) -> ClipBackbone:
    """A new backbone on the CPU of `layers` vision blocks; `size` is its own input size in pixels."""
    return create_backbone(f"clip@{_folder(seed, size, layers)}", device="cpu")


def layer_tensors(count: int = 4, width: int = WIDTH, dim: int = DIM, prefix: str = "") -> dict[str, torch.Tensor]:
    """Random linear layers of APRIL-GAN under their published names."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for number in range(count):
        tensors[f"{prefix}fc.{number}.weight"] = torch.randn(dim, width, generator=generator)
        tensors[f"{prefix}fc.{number}.bias"] = 0.5 * torch.randn(dim, generator=generator)
    return tensors


@lru_cache(maxsize=1)
def layer_file() -> str:
    """A .safetensors file of them, which lives as long as the process."""
    from safetensors.torch import save_file

    folder = Path(tempfile.mkdtemp(prefix="tiny-layers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_file(layer_tensors(), folder / "layers.safetensors")
    return str(folder / "layers.safetensors")
