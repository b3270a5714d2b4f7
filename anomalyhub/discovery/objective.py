"""The loss of AnomalyNCD (Huang et al., 2024, section III-C): contrastive terms and one classifier per head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from anomalyhub.nn.losses import cross_entropy, info_nce, mean_entropy, self_distillation, supervised_contrastive

TERMS = ("supervised_contrastive", "cross_entropy", "info_nce", "self_distillation", "mean_entropy")


@dataclass(frozen=True, eq=False)
class Objective:
    """The weighted sum of the five terms.

    config  an AnomalyNCDConfig: weights and temperatures
    n_base  base classes, which are the first of the heads' outputs
    """

    config: Any
    n_base: int

    def __call__(
        self,
        logits: torch.Tensor,
        projected: torch.Tensor,
        labels: torch.Tensor,
        scores: torch.Tensor,
        teacher_temperature: float,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and its terms: scalars for the contrastive ones, (H,) for those of the heads.

        logits (H, 2, B, C) and unit projections (2, B, D) of two views; labels (B,), -1 for what is unlabelled; anomaly
        scores (B,) in [0, 1].
        """
        config, base = self.config, labels >= 0
        novel_logits, novel_scores = logits[:, :, ~base], scores[~base]
        correct = novel_scores if config.correct_pseudo_labels else None
        teacher = pseudo_labels(novel_logits.detach(), self.n_base, teacher_temperature, correct)
        terms = {
            "supervised_contrastive": supervised_contrastive(
                *projected[:, base], labels[base], config.temperature_supervised
            ),
            "cross_entropy": cross_entropy(
                logits[:, :, base].flatten(1, 2), labels[base].repeat(2), config.temperature_student
            ),
            "info_nce": info_nce(*projected, config.temperature_info_nce),
            "self_distillation": self_distillation(novel_logits, teacher, config.temperature_student),
            "mean_entropy": mean_entropy(novel_logits.flatten(1, 2), config.temperature_student),
        }
        weighted = {name: getattr(config, f"weight_{name}") * terms[name].mean() for name in TERMS}
        supervised = weighted["supervised_contrastive"] + weighted["cross_entropy"]
        discovered = weighted["info_nce"] + weighted["self_distillation"] + weighted["mean_entropy"]
        return config.balance * supervised + (1 - config.balance) * discovered, terms

    def clustering(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """(H,): the part of the loss by which the head is chosen."""
        config = self.config
        return (
            config.weight_self_distillation * terms["self_distillation"]
            + config.weight_mean_entropy * terms["mean_entropy"]
        )


def pseudo_labels(logits: torch.Tensor, n_base: int, temperature: float, scores: torch.Tensor | None) -> torch.Tensor:
    """What the teacher says of logits (..., N, C): sharpened probabilities (..., N, C) over the novel classes alone.

    scores  (N,) anomaly scores in [0, 1]: below 0.5 a sub-image is drawn to the first novel class, which so collects
            normal ones (equation 4); None corrects nothing
    """
    logits = logits / temperature
    logits[..., :n_base] = -math.inf
    probs = logits.softmax(-1)
    if scores is None:
        return probs
    normal = (0.5 - scores).clamp_min(0)[:, None]
    probs = (1 - normal) * probs
    probs[..., n_base] += normal[:, 0]
    return probs


def teacher_temperature(config: Any, epoch: int) -> float:
    """Falls in equal steps from the first to the last value over `teacher_epochs`, then stays."""
    steps = math.ceil(config.teacher_epochs / config.teacher_step)
    share = min(epoch // config.teacher_step / max(1, steps - 1), 1.0)
    return config.temperature_teacher + share * (config.temperature_teacher_last - config.temperature_teacher)


def learning_rate(config: Any, epoch: int) -> float:
    """Cosine from `lr` to `lr_last` times it over the epochs."""
    return config.lr * (config.lr_last + (1 - config.lr_last) * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs)))
