"""The direct head, the baseline: the last layer of an image classifier trained on the examples (liu2024, table 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.classification.base import BaseClassifier, ClassifierConfig, classifiers, per_region
from anomalyhub.classification.evidence import Evidence
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress, part

_BATCH = 16
_TOLD = 50  # passes from one report of the progress to the next


@dataclass(frozen=True)
class DirectConfig(ClassifierConfig):
    """Settings of the direct head; `residual` has no effect on it."""

    lr: float = 1e-4  # of Adam (liu2024, section 4.1.3)
    passes: int = 1000  # over the examples, all in one step (not given)

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 < self.lr <= 1.0:
            raise InvalidArgumentError(f"setting lr must be above 0 and at most 1, got {self.lr}")
        if not 1 <= self.passes <= 1_000_000:
            raise InvalidArgumentError(f"setting passes must be between 1 and 1000000, got {self.passes}")


@classifiers.register
class DirectClassifier(BaseClassifier):
    """A linear layer on the mean over positions of the trunk's last map; it sees the pictures, and no residuals.

    The layer starts from zeros: the problem is convex. Regions of one image share its class.

    Fitted, besides: weight_ (K, D) and bias_ (K,) float32.
    """

    name = "direct"
    title = "Direct"
    config_class = DirectConfig
    config: DirectConfig
    pretrains = False

    @property
    def reads_patches(self) -> bool:
        return False

    def _pretrain(
        self, synthetic: Sequence[Evidence], labels: np.ndarray, progress: Progress, checkpoints: Path | None
    ) -> dict[str, Any]:
        raise InvalidArgumentError(
            "the head direct has nothing to pretrain, as its one layer belongs to the classes: pretrain relation, "
            "contrastive or prototype, or fit direct without pretraining"
        )

    def _fit(
        self, support: Sequence[Evidence], labels: np.ndarray, progress: Progress, checkpoints: Path | None
    ) -> None:
        progress(0.0, f"features of {len(support)} examples")
        self.weight_, self.bias_ = self._trained(self._features(support), labels, progress)

    def _left_out(
        self, support: Sequence[Evidence], labels: np.ndarray, rows: np.ndarray, progress: Progress
    ) -> np.ndarray:
        features, logits = self._features(support), []
        for number, row in enumerate(rows):
            tick = part(progress, number / len(rows), (number + 1) / len(rows))
            weight, bias = self._trained(np.delete(features, row, 0), np.delete(labels, row), tick)
            logits.append(features[row] @ weight.T + bias)
        return np.stack(logits)

    def _trained(self, features: np.ndarray, labels: np.ndarray, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        """Weight (K, D) and bias (K,) after all passes over features (N, D); classes weigh alike."""
        layer = torch.nn.Linear(features.shape[1], int(labels.max()) + 1)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
        optimizer = torch.optim.Adam(layer.parameters(), self.config.lr)
        x, y = torch.from_numpy(features), torch.from_numpy(labels)
        weight = torch.from_numpy(1.0 / np.bincount(labels).astype(np.float32))
        for number in range(self.config.passes):
            if number % _TOLD == 0:
                progress(number / self.config.passes, f"fine-tuning pass {number + 1} of {self.config.passes}")
            optimizer.zero_grad()
            F.cross_entropy(layer(x), y, weight).backward()
            optimizer.step()
        return layer.weight.detach().numpy(), layer.bias.detach().numpy()

    def _features(self, evidence: Sequence[Evidence]) -> np.ndarray:
        """(N, D) float32 of images."""
        backbone = self._backbone()
        found = [np.zeros((0, backbone.channels[-1]), np.float32)]
        for start in range(0, len(evidence), _BATCH):
            batch = backbone.preprocess([one.image for one in evidence[start : start + _BATCH]])
            found.append(backbone.feature_maps(batch)[-1].mean((2, 3)).cpu().numpy())
        return np.concatenate(found)

    def _embed(self, evidence: Sequence[Evidence]) -> np.ndarray:
        """(R, D): the trunk's features, one of each image for all its regions."""
        return per_region(evidence, self._features(evidence))

    def _logits(self, evidence: Sequence[Evidence], embeddings: np.ndarray) -> np.ndarray:
        return embeddings @ self.weight_.T + self.bias_

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {"weight": self.weight_, "bias": self.bias_} if hasattr(self, "weight_") else {}

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        if "weight" in arrays:
            self.weight_, self.bias_ = arrays["weight"], arrays["bias"]
