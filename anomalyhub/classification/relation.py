"""The relation head, the vanilla baseline: a network tells whether two images are alike (liu2024, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.classification.base import classifiers, per_region
from anomalyhub.classification.episodes import Episode, split_episodes
from anomalyhub.classification.episodic import EpisodicClassifier, EpisodicConfig, Maps
from anomalyhub.classification.evidence import Evidence
from anomalyhub.nn.relation import RelationNetwork


@classifiers.register
class RelationClassifier(EpisodicClassifier):
    """The class whose examples have on average the largest relation score with the image.

    Fine-tuning takes two queries of each class per step of Adam; the paper does not say how many. With one example of
    each class there is none, and the pretrained network, or a random one, is taken as it is.

    Fitted, besides: support_ (N, P, D) float16, the examples' maps, and support_half_, the first layer of them.
    """

    name = "relation"
    title = "Relation network"
    config_class = EpisodicConfig
    network_class = RelationNetwork
    queries_of_each = 2

    def _episodes(self, labels: np.ndarray, rng: np.random.Generator) -> list[Episode]:
        return split_episodes(labels, rng)

    def _passes(self, shots: int) -> int:
        return 45 if shots > 1 else 0

    def _loss(self, network: Any, maps: Maps, episodes: Sequence[Episode]) -> tuple[torch.Tensor, torch.Tensor]:
        """Binary cross-entropy of all pairs; pairs of one class weigh as much as all others of their query (eq. 1)."""
        supports = episodes[0].supports[0]  # the same for all
        logits = network(maps(supports), maps(np.array([episode.query for episode in episodes])))
        targets = torch.tensor([episode.target for episode in episodes], device=logits.device)
        same = F.one_hot(targets, len(supports)).to(logits)
        weight = torch.full((), len(supports) - 1.0, device=logits.device)
        loss = F.binary_cross_entropy_with_logits(logits, same, pos_weight=weight)
        return loss, (logits.argmax(1) == targets).float().mean()

    def _keep(self, maps: Maps, count: int) -> None:
        self.support_ = maps(np.arange(count)).cpu().numpy().astype(np.float16)
        self._prepare()

    def _prepare(self) -> None:
        with torch.inference_mode():
            support = torch.from_numpy(self.support_).float().to(self.network_.first.weight.device)
            self.support_half_ = self.network_.halves(support, support[:0])[0]

    def _embed(self, evidence: Sequence[Evidence]) -> np.ndarray:
        """(R, 512): the query's half of the first layer, mean over the patches; an image's regions share it."""

        def pooled(query: torch.Tensor) -> torch.Tensor:
            return F.relu(self.network_.halves(query[:0], query)[1]).mean(1)

        return per_region(evidence, self._mapped(evidence, pooled, 512))

    def _logits(self, evidence: Sequence[Evidence], embeddings: np.ndarray) -> np.ndarray:
        """Log of the probability that each class's mean score stands for, with the weight of positives undone."""

        def scores(query: torch.Tensor) -> torch.Tensor:
            return self.network_.compare(self.support_half_, self.network_.halves(query[:0], query)[1]).sigmoid()

        one_hot = np.eye(int(self.support_labels_.max()) + 1)[self.support_labels_]
        mean = self._mapped(evidence, scores, len(one_hot)).astype(np.float64) @ (one_hot / one_hot.sum(0))
        mean = mean.clip(1e-12, 1.0)
        weighted = mean + (one_hot.shape[1] - 1) * (1 - mean)
        return per_region(evidence, np.log(mean / weighted).astype(np.float32))

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        config, arrays = super()._state()
        return config, arrays | ({"support.patches": self.support_} if hasattr(self, "support_") else {})

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        super()._restore(config, arrays)
        if "support.patches" in arrays:
            self.support_ = arrays["support.patches"]
            self._prepare()
