"""Backbones to choose from: what each is good for, where its weights are, and whether they are here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_WEIGHTS = "model.safetensors"
_CLIP_FILES = ("config.json", "tokenizer.json", _WEIGHTS)


@dataclass(frozen=True)
class Recommended:
    """A backbone that goes well with the methods here.

    spec        the text that `create_backbone` takes
    repo_id     the Hub's id of its weights; None: they are in the package
    license     of the weights, by the Hub's identifier
    parameters  of the whole network, which its file holds
    size        bytes of the file's tensors
    good_for    in a few words
    files       what must be in the Hub's cache for use without a network
    """

    spec: str
    repo_id: str | None
    license: str
    parameters: int
    size: int
    good_for: str
    files: tuple[str, ...] = (_WEIGHTS,)

    @property
    def cached(self) -> bool:
        """Whether it can be used without a network."""
        from huggingface_hub import try_to_load_from_cache

        if self.repo_id is None:
            return True
        paths = [try_to_load_from_cache(self.repo_id, name) for name in self.files]
        return all(isinstance(path, str) and Path(path).is_file() for path in paths)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "files": list(self.files), "cached": self.cached}


CATALOGUE = (
    Recommended(
        "embedded",
        None,
        "apache-2.0",
        4_124_480,
        8_248_960,
        "a start, slow machines, no network: every method but WinCLIP and APRIL-GAN",
    ),
    Recommended(
        "vit_base_patch8_224.dino",
        "timm/vit_base_patch8_224.dino",
        "apache-2.0",
        85_807_872,
        343_231_488,
        "kinds of defects, by AnomalyNCD and clustering; small patches, so slow",
    ),
    Recommended(
        "vit_small_patch8_224.dino",
        "timm/vit_small_patch8_224.dino",
        "apache-2.0",
        21_670_272,
        86_681_088,
        "the same with a quarter of the parameters",
    ),
    Recommended(
        "vit_base_patch14_dinov2.lvd142m",
        "timm/vit_base_patch14_dinov2.lvd142m",
        "apache-2.0",
        86_579_712,
        346_318_848,
        "PatchCore from few normal images, MuSc, kinds of defects; large inputs, 518 pixels",
    ),
    Recommended(
        "wide_resnet50_2.tv_in1k",
        "timm/wide_resnet50_2.tv_in1k",
        "bsd-3-clause",
        68_883_240,
        275_806_280,
        "PatchCore as published",
    ),
    Recommended(
        "resnet50.tv_in1k",
        "timm/resnet50.tv_in1k",
        "bsd-3-clause",
        25_557_032,
        102_441_032,
        "PatchCore with a third of the parameters; the category-agnostic detector",
    ),
    Recommended(
        "resnet18.tv_in1k",
        "timm/resnet18.tv_in1k",
        "bsd-3-clause",
        11_689_512,
        46_796_608,
        "PatchCore on slow machines; the category-agnostic detector",
    ),
    Recommended(
        "convnext_tiny.fb_in1k",
        "timm/convnext_tiny.fb_in1k",
        "apache-2.0",
        28_589_128,
        114_356_512,
        "PatchCore and the category-agnostic detector, on a newer CNN",
    ),
    Recommended(
        "clip",
        "openai/clip-vit-large-patch14-336",
        "mit",  # of OpenAI's repository, github.com/openai/CLIP; the Hub's page names none
        427_944_193,
        1_711_776_772,
        "WinCLIP and APRIL-GAN, which read the product's name; MuSc",
        _CLIP_FILES,
    ),
)
