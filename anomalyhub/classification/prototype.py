"""The project's own head: class prototypes over what a frozen transformer and a detector's patches say of a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from anomalyhub.classification.base import BaseClassifier, ClassifierConfig, classifiers
from anomalyhub.classification.evidence import Evidence, owners_of, region_coverage
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.confidence import calibration_temperature
from anomalyhub.nn.descriptor import Descriptor, tensors
from anomalyhub.nn.mgvit import MaskGuidedViT, MaskTokens
from anomalyhub.nn.views import plain_view
from anomalyhub.protocols import Progress
from anomalyhub.regions.merge import Merge, region_shares

_BATCH = 16  # crops that the transformer sees at once
#: The temperature where no class has two examples, so that none can be left out: the best one on MTD and on leather.
_ONE_SHOT = 0.5


@dataclass(frozen=True)
class PrototypeConfig(ClassifierConfig):
    """Settings of the prototype head; all are product options.

    residual         the detector's residuals too, and not the crops alone
    crop_weight      of the crop's descriptor and residual_weight of the residuals under the region, in squared
                     distances; 0 leaves a part out
    width            of the kernel exp(cosine / width) in which examples of a class are averaged: a large one gives each
                     class one prototype, a small one asks for the nearest example
    salience         power of the crop's weights, see `anomalyhub.nn.descriptor.salience`
    patch_blocks     1-based blocks of the transformer whose patches describe the crop; None: the middle one
    ridge            what shrinks the covariance within pseudo-classes towards the identity, in shares of its mean
                     eigenvalue; a large one ignores pretraining. Textures that are painted vary otherwise than defects
                     do, so that it has to be large
    """

    crop_weight: float = 1.0
    residual_weight: float = 2.0
    width: float = 0.3
    salience: float = 3.0
    patch_blocks: tuple[int, ...] | None = None
    ridge: float = 10.0
    mask_layers: int = 9  # Huang et al., table V
    mask_tokens: MaskTokens = "class"  # Huang et al., table IV
    # What else `Descriptor` reads.
    descriptor: ClassVar[str] = "tokens"
    weights: ClassVar[str] = "salience"
    class_blocks: ClassVar[None] = None
    weight_temperature: ClassVar[float] = 1.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("crop_weight", "residual_weight", "mask_layers"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise InvalidArgumentError(f"setting {name} must be between 0 and 1e6, got {getattr(self, name)}")
        for name in ("width", "salience", "ridge"):
            if not 0 < getattr(self, name) <= 1e6:
                raise InvalidArgumentError(f"setting {name} must be above 0 and at most 1e6, got {getattr(self, name)}")
        if min(self.patch_blocks or (1,)) < 1:
            raise InvalidArgumentError("setting patch_blocks counts from 1: give for example 6")
        if not self.parts:
            raise InvalidArgumentError(
                "settings residual, crop_weight and residual_weight leave nothing to compare: raise one of the weights"
            )

    @property
    def parts(self) -> dict[str, float]:
        """Weights above 0 by the name of the part, in order."""
        weights = {"crop": self.crop_weight, "residual": self.residual_weight * self.residual}
        return {name: float(weight) for name, weight in weights.items() if weight > 0}


@classifiers.register
class PrototypeClassifier(BaseClassifier):
    """Kernel prototypes of unit vectors that join two views of a region.

    crop      patch tokens of the crop from a frozen vision transformer, averaged by how much each differs from all that
              lies outside of the region (`Descriptor`, "salience")
    residual  residuals of the detector's patches under the region, averaged by their squared norm: the average, which
              says what is there instead of the normal, beside that of absolute values, in which opposite changes within
              a defect do not cancel

    Each part is scaled to length 1, mapped by what `pretrain` learned, centred between the classes and scaled again.
    The score of a class is the logarithm of the mean over its examples of exp(cosine / width), regions weighted by
    their share in their image: the inner product with the class's mean in the kernel's space, as a logarithm.
    `pretrain` estimates the covariance within pseudo-classes; its shrunk inverse makes differences between defects of
    one kind count less (within-class covariance normalisation: Hatch et al., Interspeech 2006).

    Pretrained: maps_, by part (D, D) float32.
    Fitted: centres_, by part (D,) float32, and weights_ (R,) of the examples' regions.
    """

    name = "prototype"
    title = "Prototype"
    config_class = PrototypeConfig
    config: PrototypeConfig
    maps_: Mapping[str, np.ndarray] = MappingProxyType({})

    @property
    def reads_patches(self) -> bool:
        return "residual" in self.config.parts

    def _pretrain(
        self, synthetic: Sequence[Evidence], labels: np.ndarray, progress: Progress, checkpoints: Path | None
    ) -> dict[str, Any]:
        parts, owners = self._parts(synthetic, progress), owners_of(synthetic)
        self.maps_ = {name: within_class_map(rows, labels[owners], self.config.ridge) for name, rows in parts.items()}
        return {"regions": len(owners)}

    def _fit(
        self, support: Sequence[Evidence], labels: np.ndarray, progress: Progress, checkpoints: Path | None
    ) -> None:
        parts, owners = self._parts(support, progress), owners_of(support)
        self.weights_ = region_weights(support, self.config.merge_temperature, self.config.merge)
        self.centres_ = _centres(parts, labels[owners], self.weights_)

    def _embed(self, evidence: Sequence[Evidence]) -> np.ndarray:
        if not evidence:
            return np.zeros((0, self.familiarity_.bank.shape[1]), np.float32)
        if self.reads_patches:
            _check_patches(evidence, len(self.centres_["residual"]) // 2)
        return self._joined(self._parts(evidence), self.centres_)

    def _logits(self, evidence: Sequence[Evidence], embeddings: np.ndarray) -> np.ndarray:
        bank, labels = self.familiarity_.bank, self.example_labels_
        return kernel_scores(embeddings, bank, labels, self.weights_, len(self.classes_), self.config.width)

    def _left_out(
        self, support: Sequence[Evidence], labels: np.ndarray, rows: np.ndarray, progress: Progress
    ) -> np.ndarray:
        parts, owners = self._parts(support, progress), owners_of(support)
        weights, own = region_weights(support, self.config.merge_temperature, self.config.merge), labels[owners]
        found = np.zeros((len(rows), labels.max() + 1), np.float32)
        for number, row in enumerate(rows):
            kept = owners != row
            centres = _centres({name: part[kept] for name, part in parts.items()}, own[kept], weights[kept])
            joined = self._joined(parts, centres)
            scores = kernel_scores(
                joined[~kept], joined[kept], own[kept], weights[kept], found.shape[1], self.config.width
            )
            found[number] = weights[~kept] @ scores
        return found

    def _temperature(self, support: Sequence[Evidence], labels: np.ndarray, progress: Progress) -> float:
        """By leaving out each example that is not the only one of its class."""
        rows = np.flatnonzero(np.bincount(labels)[labels] > 1)
        if not len(rows):
            return _ONE_SHOT
        return calibration_temperature(self._left_out(support, labels, rows, progress), labels[rows])

    def _parts(self, evidence: Sequence[Evidence], progress: Progress | None = None) -> dict[str, np.ndarray]:
        """By part (R, D) float32 unit vectors of all regions, mapped by what was pretrained."""
        found: dict[str, np.ndarray] = {}
        if "crop" in self.config.parts:
            found["crop"] = self._crops(evidence, progress)
        if self.reads_patches:
            _check_patches(evidence, len(self.maps_["residual"]) // 2 if "residual" in self.maps_ else None)
            found["residual"] = np.concatenate([pooled_residuals(one) for one in evidence])
        found = {name: unit(rows) for name, rows in found.items()}
        return {name: rows @ self.maps_[name] if name in self.maps_ else rows for name, rows in found.items()}

    def _crops(self, evidence: Sequence[Evidence], progress: Progress | None) -> np.ndarray:
        """(R, D): one pass of the transformer per region."""
        backbone = self._backbone()
        guided = MaskGuidedViT(backbone, self.config.mask_layers, self.config.mask_tokens)
        descriptor = Descriptor(guided, self.config)
        views = [plain_view(crop, backbone.size, False) for one in evidence for crop in one.sub_images]
        rows = []
        for start in range(0, len(views), _BATCH):
            rows.append(descriptor(*tensors(backbone, views[start : start + _BATCH])).float().cpu().numpy())
            if progress is not None:
                progress(min(1.0, (start + _BATCH) / len(views)), f"describing {len(views)} regions")
        return np.concatenate(rows)

    def _joined(self, parts: Mapping[str, np.ndarray], centres: Mapping[str, np.ndarray]) -> np.ndarray:
        """(R, E) float32 unit vectors, unless a part is its centre."""
        total = sum(self.config.parts.values())
        scaled = [
            unit(parts[name] - centres[name]) * np.float32(np.sqrt(weight / total))
            for name, weight in self.config.parts.items()
        ]
        return np.concatenate(scaled, axis=1).astype(np.float32)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {f"map.{name}": value for name, value in self.maps_.items()}
        if hasattr(self, "centres_"):
            arrays |= {f"centre.{name}": value for name, value in self.centres_.items()} | {"weights": self.weights_}
        return {}, arrays

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.maps_ = {name[4:]: value for name, value in arrays.items() if name.startswith("map.")}
        if "weights" in arrays:
            self.weights_ = arrays["weights"]
            self.centres_ = {name: arrays[f"centre.{name}"] for name in self.config.parts}


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of (N, D) at length 1; zeros stay zeros."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def pooled_residuals(evidence: Evidence) -> np.ndarray:
    """(R, 2 D) float32 of one image: per region the average residual and the average absolute one, each at length 1.

    Patches weigh by the share that the region covers times their residual's squared norm. A region beyond the grid (a
    detector's centre crop hides it) takes the whole grid.
    """
    residuals = evidence.patches(True).astype(np.float32)
    covered = region_coverage(evidence, residuals.shape[1:]).reshape(len(evidence.sub_images), -1)
    covered[~covered.any(axis=1)] = 1.0
    rows = residuals.reshape(len(residuals), -1)
    weights = covered * (rows**2).sum(axis=0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    return np.concatenate([unit(weights @ rows.T), unit(weights @ np.abs(rows).T)], axis=1)


def _check_patches(evidence: Sequence[Evidence], channels: int | None) -> None:
    """Raise InvalidArgumentError for patches that are missing, differ in shape, or are not of so many channels."""
    shapes = sorted({one.patches(True).shape for one in evidence})
    if len(shapes) > 1:
        raise InvalidArgumentError(f"patch features differ in shape ({shapes[0]}, {shapes[1]}): use one detector")
    if channels is not None and shapes[0][0] != channels:
        raise InvalidArgumentError(
            f"the patches have {shapes[0][0]} channels, not the {channels} that the classifier has learned from: "
            "use the detector that it was fitted with, or fit again"
        )


def within_class_map(rows: np.ndarray, labels: np.ndarray, ridge: float) -> np.ndarray:
    """(D, D) float32 symmetric map that makes the shrunk covariance within classes of rows (N, D) the identity.

    The covariance, in shares of its mean eigenvalue, and the identity are averaged with weights 1 and `ridge`.
    """
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    inside = (rows - means[labels]).astype(np.float64)
    covariance = inside.T @ inside
    mean = np.trace(covariance) / len(covariance) or 1.0
    values, axes = np.linalg.eigh((covariance / mean + ridge * np.eye(len(covariance))) / (1 + ridge))
    return ((axes / np.sqrt(values)) @ axes.T).astype(np.float32)


def kernel_scores(
    embeddings: np.ndarray, bank: np.ndarray, labels: np.ndarray, weights: np.ndarray, n_classes: int, width: float
) -> np.ndarray:
    """(R, K) float32: log of the weighted mean of exp(cosine / width) over each class's examples.

    embeddings (R, E) and bank (B, E) are unit vectors; labels (B,) and weights (B,) are the bank's.
    """
    exponents = np.exp((embeddings @ bank.T - 1.0).astype(np.float64) / width)
    shares = np.eye(n_classes)[labels] * weights[:, None]
    return np.log(exponents @ (shares / shares.sum(axis=0)) + 1e-300).astype(np.float32)


def region_weights(evidence: Sequence[Evidence], temperature: float, merge: Merge = "area") -> np.ndarray:
    """(R,) float64: the share of each region in its image, as `merge_regions` has it; 1 per image."""
    crops = [crop for one in evidence for crop in one.sub_images]
    owners = owners_of(evidence)
    return region_shares(owners, [one.area_px for one in crops], [one.score for one in crops], merge, temperature)


def _centres(parts: Mapping[str, np.ndarray], labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """By part (D,) float32: the mean of the classes' means, so that a class of many examples does not draw it."""
    shares = np.eye(labels.max() + 1)[labels] * weights[:, None]
    shares = (shares / np.maximum(shares.sum(axis=0), 1e-12)).mean(axis=1)
    return {name: (shares @ rows / shares.sum()).astype(np.float32) for name, rows in parts.items()}
