"""A head of a few lines, and tiny examples of two kinds, for tests of what surrounds the heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from core_helpers import normals, photo, tiny_backbone

from anomalyhub.classification import BaseClassifier, ClassifierConfig, Evidence, classifiers
from anomalyhub.classification.base import per_region
from anomalyhub.pipeline import Inspector
from anomalyhub.types import Sample


class MeanHead(BaseClassifier):
    """The class whose examples' mean residual is nearest; it learns nothing of pseudo-classes but their mean."""

    name = "mean"
    title = "Mean residual"
    config_class = ClassifierConfig
    default_backbone = None

    def _pretrain(self, synthetic, labels, progress, checkpoints):
        self.centre_ = self._means(synthetic).mean(axis=0)
        progress(1.0, "pretrained")
        return {"episodes": 1}

    def _fit(self, support, labels, progress, checkpoints):
        self.centre_ = getattr(self, "centre_", np.zeros(self._means(support).shape[1], np.float32))
        means = self._means(support)
        self.means_ = np.stack([means[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
        progress(1.0, "fitted")

    def _embed(self, evidence):
        return per_region(evidence, self._means(evidence))

    def _logits(self, evidence, embeddings):
        return -((embeddings[:, None] - self.means_[None]) ** 2).sum(axis=2)

    def _state(self):
        return {}, {"centre": self.centre_, **({"means": self.means_} if hasattr(self, "means_") else {})}

    def _restore(self, config, arrays):
        self.centre_ = arrays["centre"]
        if "means" in arrays:
            self.means_ = arrays["means"]

    def _means(self, evidence: list[Evidence]) -> np.ndarray:
        rows = [np.abs(one.patches(self.config.residual).astype(np.float32)).max(axis=(1, 2)) for one in evidence]
        return np.stack(rows) if rows else np.zeros((0, len(self.centre_)), np.float32)


@contextmanager
def registered(head: type) -> Iterator[type]:
    """The head under its name for a while."""
    classifiers.register(head)
    try:
        yield head
    finally:
        del classifiers._classes[head.name]


def dark(seed: int, shape: tuple[int, int] = (36, 52)) -> Sample:
    """A photo with a dark square in place of a bright one."""
    one = photo(seed, shape, defect=True)
    image = one.image.copy()
    image[one.mask] = 5
    return Sample(f"dark/{seed:03}.png", image, "dark", one.mask)


def examples(count: int, start: int = 0) -> list[Sample]:
    """`count` photos of each of two kinds, in turn."""
    return [make(start + i) for i in range(count) for make in (lambda seed: photo(seed, defect=True), dark)]


def tiny_inspector(**options) -> Inspector:
    """PatchCore over two random convolutions."""
    return Inspector.fit("patchcore", normals(12), backbone=tiny_backbone(size=64), false_alarm_rate=0.05, **options)
