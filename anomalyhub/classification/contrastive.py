"""The contrastive head: examples of a class lie close together in an embedding of patches (liu2024, section 3.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.classification.base import classifiers, per_region
from anomalyhub.classification.episodes import Episode, left_out_episodes
from anomalyhub.classification.episodic import EpisodicClassifier, EpisodicConfig, Maps
from anomalyhub.classification.evidence import Evidence
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.relation import ContrastiveNetwork

_PASSES = {1: 0, 2: 45, 3: 25}  # by shots; 15 for more (liu2024, section 4.1.3)


@dataclass(frozen=True)
class ContrastiveConfig(EpisodicConfig):
    """Settings of the contrastive head."""

    temperature: float = 0.07  # of InfoNCE (published code of liu2024)

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 < self.temperature <= 10.0:
            raise InvalidArgumentError(f"setting temperature must be above 0 and at most 10, got {self.temperature}")


@classifiers.register
class ContrastiveClassifier(EpisodicClassifier):
    """The class whose examples are on average most similar, by the cosine of embeddings.

    Fine-tuning takes one query of each class per step of Adam; the paper does not say how many. With one example of
    each class there is none, and the pretrained network, or a random one, is taken as it is.

    Fitted, besides: support_ (N, 128) float32, unit embeddings of the examples.
    """

    name = "contrastive"
    title = "Contrastive"
    config_class = ContrastiveConfig
    config: ContrastiveConfig
    network_class = ContrastiveNetwork
    queries_of_each = 1

    def _episodes(self, labels: np.ndarray, rng: np.random.Generator) -> list[Episode]:
        return left_out_episodes(labels)

    def _passes(self, shots: int) -> int:
        return _PASSES.get(shots, 15)

    def _loss(self, network: Any, maps: Maps, episodes: Sequence[Episode]) -> tuple[torch.Tensor, torch.Tensor]:
        """InfoNCE of each query with each of its sets of supports."""
        queries = np.array([episode.query for episode in episodes])
        counts = [len(episode.supports) for episode in episodes]
        supports = np.concatenate([episode.supports for episode in episodes])
        rows = np.unique(np.concatenate([queries, supports.ravel()]))
        embeddings = network(maps(rows))
        cosines = embeddings @ embeddings.T
        of_set = np.searchsorted(rows, queries.repeat(counts))
        logits = cosines[of_set[:, None], np.searchsorted(rows, supports)] / self.config.temperature
        targets = torch.tensor([episode.target for episode in episodes], device=logits.device)
        repeats = torch.tensor(counts, device=logits.device)
        loss = F.cross_entropy(logits, targets.repeat_interleave(repeats))
        means = torch.stack([one.mean(0) for one in logits.detach().split(counts)])
        return loss, (means.argmax(1) == targets).float().mean()

    def _keep(self, maps: Maps, count: int) -> None:
        self.support_ = np.concatenate([self.network_(maps(np.array([row]))).cpu().numpy() for row in range(count)])

    def _embed(self, evidence: Sequence[Evidence]) -> np.ndarray:
        """(R, 128) unit vectors, one of each image for all its regions."""
        return per_region(evidence, self._mapped(evidence, self.network_, 128))

    def _logits(self, evidence: Sequence[Evidence], embeddings: np.ndarray) -> np.ndarray:
        one_hot = np.eye(int(self.support_labels_.max()) + 1, dtype=np.float32)[self.support_labels_]
        return embeddings @ self.support_.T @ (one_hot / one_hot.sum(0)) / np.float32(self.config.temperature)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        config, arrays = super()._state()
        return config, arrays | ({"support.embeddings": self.support_} if hasattr(self, "support_") else {})

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        super()._restore(config, arrays)
        if "support.embeddings" in arrays:
            self.support_ = arrays["support.embeddings"]
