"""Normal and abnormal in words: the compositional prompt ensemble of WinCLIP (Jeong et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from anomalyhub.backbones.clip import ClipBackbone
from anomalyhub.errors import InvalidArgumentError

#: States of a product, as in APRIL-GAN's published configuration; {} is the product.
NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ABNORMAL_STATES = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")

#: CLIP's ImageNet templates that suit inspection, 35 as in APRIL-GAN's published configuration; {} is a state.
TEMPLATES = (
    *(
        f"a {kind} photo of {article} {{}}."
        for kind in (
            "cropped",
            "bright",
            "dark",
            "blurry",
            "close-up",
            "black and white",
            "jpeg corrupted",
            "low resolution",
            "good",
            "bad",
        )
        for article in ("a", "the")
    ),
    *(f"a photo of {article} {size} {{}}." for size in ("large", "small", "cool") for article in ("a", "the")),
    *(f"a photo of {article} {{}}." for article in ("a", "the", "my", "one")),
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


@dataclass(frozen=True)
class PromptConfig:
    """The settings of a detector that compares with texts; its own config dataclass derives from this one."""

    product: str = "object"  # what the images show, in English and in the singular; "object" serves any product
    normal_states: tuple[str, ...] = NORMAL_STATES
    abnormal_states: tuple[str, ...] = ABNORMAL_STATES
    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self):
        check_prompts(self.product, self.normal_states, self.abnormal_states, self.templates)


def check_prompts(
    product: str, normal_states: Sequence[str], abnormal_states: Sequence[str], templates: Sequence[str]
) -> None:
    """Raise InvalidArgumentError for an empty product or list, and for a state or template without {}."""
    if not product.strip():
        raise InvalidArgumentError(f"setting product is {product!r}: name what the images show, such as metal nut")
    for name, texts in (
        ("normal_states", normal_states),
        ("abnormal_states", abnormal_states),
        ("templates", templates),
    ):
        if not texts:
            raise InvalidArgumentError(f"setting {name} is empty: give at least one text with {{}}")
        for text in texts:
            if "{}" not in text:
                raise InvalidArgumentError(
                    f"setting {name} holds {text!r}, which has no {{}}: write {{}} where "
                    f"the {'state' if name == 'templates' else 'product'} goes"
                )


def prompts(product: str, states: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every state of the product in every template."""
    described = [state.replace("{}", product.strip()) for state in states]
    return [template.replace("{}", state) for state in described for template in templates]


def text_features(
    backbone: ClipBackbone,
    product: str,
    normal_states: Sequence[str] = NORMAL_STATES,
    abnormal_states: Sequence[str] = ABNORMAL_STATES,
    templates: Sequence[str] = TEMPLATES,
) -> torch.Tensor:
    """(D, 2) float32 on the backbone's device, columns normal and abnormal, of length 1.

    Each is the mean of the L2-normalised embeddings of its prompts, normalised again. Raises InvalidArgumentError for
    what `check_prompts` refuses, a product without a token and prompts that are longer than CLIP reads.
    """
    check_prompts(product, normal_states, abnormal_states, templates)
    backbone.token_ids([product])
    columns = [
        F.normalize(F.normalize(backbone.encode_text(prompts(product, states, templates)), dim=1).mean(0), dim=0)
        for states in (normal_states, abnormal_states)
    ]
    return torch.stack(columns, 1)


def abnormal_probability(embeddings: torch.Tensor, text: torch.Tensor, temperature: float = 0.01) -> torch.Tensor:
    """Image embeddings (..., D), of any length, and text features (D, 2) to probabilities (...) of abnormal.

    softmax(cosine / temperature) over the two states; the published methods use 100 * cosine.
    """
    return (F.normalize(embeddings, dim=-1) @ text / temperature).softmax(-1)[..., 1]
