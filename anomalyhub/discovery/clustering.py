"""Grouping without training: k-means or agglomerative clustering of frozen, mask-guided descriptors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from anomalyhub.discovery.base import (
    BaseDiscoverer,
    DiscoveryConfig,
    batches,
    check_input,
    discoverers,
    report,
)
from anomalyhub.discovery.grouping import k_means, order_by_score
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.descriptor import (
    Descriptor,
    Embedder,
    after,
    linear_arrays,
    linear_from,
    mapped,
    tensors,
    views_to_compare,
    whitening,
)
from anomalyhub.protocols import Progress
from anomalyhub.types import SubImage


@dataclass(frozen=True)
class ClusteringConfig(DiscoveryConfig):
    """Settings of Clustering.

    descriptor  "salient": the class token after two thirds of the blocks and the patches after half of them, by their
                "salience"; "class_token": of the last block, after the norm, as the published AnomalyNCD uses it;
                "tokens": what `class_blocks` and `patch_blocks` name (the middle block's patches if neither does).
                Each part is scaled to length 1, concatenated and scaled again
    weights     of the patches in their average: "mask" is the share of the patch that the mask covers; "salience" how
                much it differs from every patch outside of the mask, see `salience`; "distance" and "coverage" are a
                softmax at `weight_temperature` over how abnormal a patch is, by its mean distance to the nearest patch
                of each reference sub-image (Sohn et al., WACV 2023, without labels), or by that share. An empty mask
                averages to zero with "mask" and "salience", to all patches with the others
    """

    algorithm: Literal["kmeans", "agglomerative"] = "kmeans"  # the latter with Ward's linkage
    descriptor: Literal["salient", "class_token", "tokens"] = "salient"
    class_blocks: tuple[int, ...] | None = None  # 1-based blocks whose class tokens are taken
    patch_blocks: tuple[int, ...] | None = None  # 1-based blocks whose patch tokens are averaged
    weights: Literal["mask", "salience", "coverage", "distance"] = "mask"
    salience: float = 3.0  # power of what the weights by salience are
    weight_temperature: float = 0.1
    references: int = 32  # sub-images that "distance" compares with
    n_init: int = 10  # starts of k-means

    def __post_init__(self):
        super().__post_init__()
        if min((*(self.class_blocks or ()), *(self.patch_blocks or ())), default=1) < 1:
            raise InvalidArgumentError("settings class_blocks and patch_blocks count from 1: give for example 3,6")
        if not self.salience > 0:
            raise InvalidArgumentError(f"setting salience must be above 0, got {self.salience}")
        if not self.weight_temperature > 0:
            raise InvalidArgumentError(f"setting weight_temperature must be above 0, got {self.weight_temperature}")
        for name in ("references", "n_init"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"setting {name} must be at least 1, got {getattr(self, name)}")


@discoverers.register
class Clustering(BaseDiscoverer):
    """Clusters frozen descriptors of the sub-images; nothing is trained and base classes are not used.

    New sub-images go to the nearest cluster centre. Probabilities are a softmax of minus half the squared distances to
    the centres, at a temperature that makes them agree with augmented views (`agreement_temperature`).
    See `BaseDiscoverer` for the arguments and for what is fitted. The preset "anomaly_clustering" is the baseline of
    Sohn et al. (WACV 2023): Ward's linkage over averages of all patches, weighted by how abnormal they are.
    """

    name = "clustering"
    config_class = ClusteringConfig
    presets = {
        "default": {"centre_crop": False, "whiten_views": 1024},
        "anomaly_clustering": {
            "algorithm": "agglomerative",
            "descriptor": "tokens",
            "weights": "distance",
            "mask_tokens": "none",
        },
    }

    def fit(
        self,
        unlabelled: Sequence[SubImage],
        base: Sequence[SubImage] | None = None,
        base_labels: Sequence[str] | None = None,
        n_novel: int | Literal["auto"] = "auto",
        *,
        progress: Progress | None = None,
        checkpoints: Any = None,
    ) -> Clustering:
        """Group the sub-images into `n_novel` kinds, of which normal is one if normal images are among them.

        base, base_labels, checkpoints  are not used: nothing is trained, nothing takes long
        Where fewer sub-images differ than classes are asked for, there are fewer classes.
        Raises InvalidArgumentError for no sub-images, or fewer than classes.
        """
        check_input("Clustering", unlabelled, n_novel)
        descriptor = Descriptor(self._guided(), self.config)
        references = self._references(descriptor, unlabelled) if descriptor.needs_references else None
        descriptor = self._descriptor(references)
        half = 0.5 if self.config.calibrate else 0.9
        embedder, linear, embeddings = self._described(descriptor, unlabelled, half, progress)
        report(progress, half, "clustering")
        count, curve = self._count(n_novel, embeddings, unlabelled)
        labels = order_by_score(self._cluster(embeddings, count), unlabelled)
        centres = np.stack([embeddings[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
        augmented = None
        if self.config.calibrate:
            augmented = self._embed(
                embedder,
                unlabelled,
                keys=range(len(unlabelled)),
                tick=lambda share: report(progress, half + (1 - half) * share, "comparing views"),
            )
        report(progress, 1.0, f"{len(centres)} kinds among {len(labels)} sub-images")  # the last that may raise
        self.references_, self.whitening_ = references, linear
        self._finish(unlabelled, embeddings, labels, centres, augmented, 1.0, curve)
        return self

    def _described(
        self, descriptor: Descriptor, sub_images: Sequence[SubImage], end: float, progress: Progress | None
    ) -> tuple[Embedder, torch.nn.Linear | None, np.ndarray]:
        """The embedder with its whitening, the whitening itself (or None), and the sub-images' embeddings."""
        middle = end / 2 if self.config.whiten_views else end
        embeddings = self._embed(
            descriptor, sub_images, tick=lambda share: report(progress, middle * share, "describing sub-images")
        )
        if not self.config.whiten_views:
            return descriptor, None, embeddings
        rows, keys = views_to_compare(len(sub_images), self.config.whiten_views, self.seed)
        views = self._embed(
            descriptor,
            [sub_images[row] for row in rows],
            keys=keys,
            tick=lambda share: report(progress, middle + (end - middle) * share, "comparing views"),
        )
        linear = whitening(embeddings, rows, views).to(self._backbone().device)
        return mapped(descriptor, linear), linear, after(linear, embeddings)

    def _cluster(self, embeddings: np.ndarray, count: int) -> np.ndarray:
        """(N,) labels from 0."""
        if self.config.algorithm == "kmeans" or count == 1:
            return k_means(embeddings, count, self.seed, self.config.n_init)
        from sklearn.cluster import AgglomerativeClustering

        return AgglomerativeClustering(count, linkage="ward").fit_predict(embeddings)

    def _references(self, descriptor: Descriptor, sub_images: Sequence[SubImage]) -> np.ndarray:
        """Patch tokens of random sub-images."""
        chosen = np.random.default_rng(self.seed).permutation(len(sub_images))[: self.config.references]
        views = [self._view(sub_images[index], None) for index in np.sort(chosen)]
        runs = batches(len(views), self.config.embed_batch)
        return descriptor.collect(tensors(self._backbone(), views[run.start : run.stop]) for run in runs)

    def _descriptor(self, references: np.ndarray | None) -> Descriptor:
        bank = None
        if references is not None:
            bank = torch.from_numpy(references.astype(np.float32)).to(self._backbone().device)
        return Descriptor(self._guided(), self.config, bank)

    def _embedder(self) -> Embedder:
        descriptor = self._descriptor(self.references_)
        return descriptor if self.whitening_ is None else mapped(descriptor, self.whitening_)

    def _extra_arrays(self) -> dict[str, np.ndarray]:
        references = {} if self.references_ is None else {"references": self.references_}
        return references | linear_arrays("whitening", self.whitening_)

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.references_ = arrays.get("references")
        self.whitening_ = linear_from("whitening", arrays, self._backbone().device)
