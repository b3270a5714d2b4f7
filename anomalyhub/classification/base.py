"""What all heads share: the support's checks, probabilities of regions and images, unknown kinds, saved folders."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from anomalyhub.backbones import create_backbone
from anomalyhub.classification.evidence import Evidence, owners_of
from anomalyhub.config import configure
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidModelError, NotFittedError
from anomalyhub.hub.pretrained import Pretrained
from anomalyhub.nn.confidence import Familiarity, calibration_temperature, softmax
from anomalyhub.protocols import Progress, part
from anomalyhub.regions.merge import Merge, MergedRegions, merge_regions, region_shares
from anomalyhub.registry import Registry
from anomalyhub.state import read_state, write_state
from anomalyhub.types import ANOMALOUS, UNKNOWN, ClassProbs

classifiers: Registry = Registry("classifier head")

#: Side of the kept pictures of examples, in pixels.
_PICTURE = 96
#: A class of at most so many examples' regions shares the limit of what is known with all others.
_FEW = 20


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings that all heads share."""

    residual: bool = True  # residuals of the detector rather than its features (liu2024, section 3.4)
    merge: Merge = "area"  # of regions to the image (Huang et al., table VII)
    merge_temperature: float = 100.0  # T of their weights, see `merge_regions`
    known: float = 0.95  # share of the examples within the limit of what is known (product option)

    def __post_init__(self):
        if not 0.0 < self.known <= 1.0:
            raise InvalidArgumentError(f"setting known is a share in (0, 1], got {self.known}")
        if not self.merge_temperature > 0:
            raise InvalidArgumentError(f"setting merge_temperature must be above 0, got {self.merge_temperature}")


class BaseClassifier(Pretrained, ABC):
    """The part of `anomalyhub.protocols.Classifier` that heads share.

    backbone  a Backbone, or a SPEC that is made on first use, for heads that look at pictures
    config    an instance of `config_class`
    seed      fixes everything random

    Pretrained: pretraining_, what `pretrain` did, as JSON values; None before it.
    Fitted: classes_ (K names, sorted), temperature_, familiarity_ (the limits of what is known), and of the R regions
    of the examples: example_pictures_ (R, 96, 96, 3) uint8, example_labels_ (R,) int64, example_images_ (R ids).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_class: ClassVar[type[ClassifierConfig]]
    default_backbone: ClassVar[str | None] = "embedded"  # None: this head looks at patches alone
    pretrains: ClassVar[bool] = True  # whether it can learn from synthetic defects

    def __init__(self, backbone: Any = None, config: Any = None, seed: int = 0):
        self.backbone = backbone or self.default_backbone
        self.config, self.seed = config or self.config_class(), seed
        self.pretraining_: dict[str, Any] | None = None

    @classmethod
    def create(cls, backbone: Any = None, *, seed: int = 0, settings: Mapping[str, Any] | None = None):
        """A classifier with some settings changed, see `anomalyhub.config.configure`."""
        return cls(backbone, configure(cls.config_class, settings or {}), seed)

    @property
    def reads_patches(self) -> bool:
        """Whether it needs the patches of a detector, `Evidence.residuals` or `.features`."""
        return True

    def pretrain(
        self, synthetic: Sequence[Evidence], progress: Progress | None = None, checkpoints: Path | None = None
    ):
        """Learn from synthetic defects, whose labels are pseudo-classes; `fit` then begins from there.

        checkpoints  a folder in which an interrupted pretraining leaves what it needs to go on to the same result
        Raises InvalidDatasetError for fewer than 2 pseudo-classes.
        """
        names, labels = _classes(synthetic, "pseudo-class", "synthetic defects")
        done = self._pretrain(synthetic, labels, part(progress, 0.0, 1.0), checkpoints)
        self.pretraining_ = {"images": len(synthetic), "pseudo_classes": len(names), **done}
        return self

    def fit(self, support: Sequence[Evidence], progress: Progress | None = None, checkpoints: Path | None = None):
        """Learn the classes of the labels from a few examples each, after `pretrain` or without.

        Raises InvalidDatasetError for fewer than 2 classes, an example without a label, or the same image in two
        classes.
        """
        names, labels = _classes(support, "class", "examples")
        if reserved := {UNKNOWN, ANOMALOUS} & set(names):
            raise InvalidDatasetError(
                f"a class cannot be called {reserved.pop()!r}, which is what is said of other regions: rename it"
            )
        _refuse_twins(support)
        fitted = copy.copy(self)  # so that a fit that ends early leaves the old one
        fitted.classes_ = names
        fitted._fit(support, labels, part(progress, 0.0, 0.9), checkpoints)
        fitted._remember(support, labels)
        fitted.temperature_ = fitted._temperature(support, labels, part(progress, 0.9, 1.0))
        vars(self).update(vars(fitted))
        return self

    def embed(self, evidence: Sequence[Evidence]) -> np.ndarray:
        """(R, E) float32 embeddings of all regions, image by image."""
        self._fitted()
        return self._embed(evidence)

    def predict(self, evidence: Sequence[Evidence], embeddings: np.ndarray | None = None) -> MergedRegions:
        """The kinds of all regions, image by image, and of the images, which are numbered from 0.

        embeddings  what `embed` gives for them, where that is known
        """
        embeddings = self.embed(evidence) if embeddings is None else embeddings
        regions = ClassProbs(softmax(self._logits(evidence, embeddings), self.temperature_), self.classes_)
        crops = [(image, crop) for image, one in enumerate(evidence) for crop in one.sub_images]
        return merge_regions(
            regions,
            self.familiarity_.novelty(embeddings) > 1,
            [image for image, _ in crops],
            [crop.area_px for _, crop in crops],
            [crop.score for _, crop in crops],
            merge=self.config.merge,
            temperature=self.config.merge_temperature,
        )

    def predict_proba(self, evidence: Sequence[Evidence]) -> ClassProbs:
        """Class probabilities (N, K) of the images."""
        return self.predict(evidence).image_probs

    def nearest_examples(self, evidence: Sequence[Evidence], embeddings: np.ndarray | None = None) -> np.ndarray:
        """(R,) int64: for each region, image by image, the row of the most similar region of the examples.

        embeddings  as for `predict`
        """
        embeddings = self.embed(evidence) if embeddings is None else embeddings
        squares = (self.familiarity_.bank**2).sum(1) - 2 * embeddings @ self.familiarity_.bank.T
        return squares.argmin(axis=1)

    def leave_one_out(
        self, support: Sequence[Evidence], progress: Progress | None = None
    ) -> tuple[np.ndarray, ClassProbs]:
        """Each example as the others would name it: rows (M,) into `support`, and their probabilities (M, K).

        The only example of a class cannot be left out, and is not among the rows. `self` is not changed.
        """
        names, labels = _classes(support, "class", "examples")
        rows = np.flatnonzero(np.bincount(labels)[labels] > 1)
        if not len(rows):
            return rows, ClassProbs(np.zeros((0, len(names)), np.float32), names)
        logits = self._left_out(support, labels, rows, part(progress, 0.0, 1.0))
        temperature = calibration_temperature(logits, labels[rows])
        return rows, ClassProbs(softmax(logits, temperature), names)

    def save(self, folder: Path) -> None:
        """Write config.json and state.safetensors into `folder`. Raises NotFittedError."""
        fitted = hasattr(self, "classes_")
        if not fitted and self.pretraining_ is None:
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit() or pretrain() first")
        config, arrays = self._state()
        if fitted:
            config |= {"classes": self.classes_, "temperature": self.temperature_, "images": self.example_images_}
            arrays |= {
                "example.embeddings": self.familiarity_.bank,
                "example.limits": self.familiarity_.limits,
                "example.labels": self.example_labels_,
                "example.pictures": self.example_pictures_,
            }
        backbone = None
        if self.backbone is not None:
            backbone = {"spec": self._backbone().spec, "fingerprint": self._backbone().fingerprint}
        stored = {
            "kind": "classifier",
            "classifier": self.name,
            "backbone": backbone,
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "pretraining": self.pretraining_,
        }
        write_state(folder, stored | config, arrays)

    @classmethod
    def load(cls, folder: Path, backbone: Any = None):
        """A pretrained or fitted classifier that goes on as the saved one. Raises InvalidModelError, BackboneError.

        backbone  replaces the stored SPEC; its weights must be the same
        """
        config, arrays = read_state(folder, "classifier")
        try:
            name, stored = config["classifier"], config["backbone"]
            self = cls(
                backbone or (stored and str(stored["spec"])),
                configure(cls.config_class, config["config"]),
                int(config["seed"]),
            )
            self.pretraining_ = config["pretraining"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _damaged(folder, error) from error
        if name != cls.name:
            raise InvalidModelError(f"{folder} holds a {name} head, not a {cls.name}: load it with load_classifier")
        if stored and self._backbone().fingerprint != stored["fingerprint"]:
            raise InvalidModelError(
                f"the weights of {self.backbone.spec} are not those that {folder} was fitted with: "
                "give the same weights with --backbone, or fit again"
            )
        try:
            self._restore(config, arrays)
            if "classes" in config:
                self.classes_, self.temperature_ = tuple(map(str, config["classes"])), float(config["temperature"])
                self.example_images_ = tuple(map(str, config["images"]))
                self.example_labels_, self.example_pictures_ = arrays["example.labels"], arrays["example.pictures"]
                counts = {len(self.example_images_), len(self.example_labels_), len(self.example_pictures_)}
                if len(counts) > 1 or not set(self.example_labels_.tolist()) <= set(range(len(self.classes_))):
                    raise ValueError("its examples are not of its classes")
                self.familiarity_ = Familiarity(
                    arrays["example.embeddings"], self.example_labels_, arrays["example.limits"]
                )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(folder, error) from error
        return self

    # What a head adds.

    @abstractmethod
    def _pretrain(
        self, synthetic: Sequence[Evidence], labels: np.ndarray, progress: Progress, checkpoints: Path | None
    ) -> dict[str, Any]:
        """Learn from pseudo-classes; returns JSON values that tell what was done, such as episodes and accuracy."""

    @abstractmethod
    def _fit(
        self, support: Sequence[Evidence], labels: np.ndarray, progress: Progress, checkpoints: Path | None
    ) -> None:
        """Learn the support's labels (N,), which index classes_."""

    @abstractmethod
    def _embed(self, evidence: Sequence[Evidence]) -> np.ndarray:
        """(R, E) float32, where near means alike; what tells one image from another alone is repeated per region."""

    @abstractmethod
    def _logits(self, evidence: Sequence[Evidence], embeddings: np.ndarray) -> np.ndarray:
        """(R, K) of all regions, whose `_embed` is given."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What was learned, pretrained alone or fitted too: JSON values and arrays."""

    @abstractmethod
    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `_state` gave."""

    def _left_out(
        self, support: Sequence[Evidence], labels: np.ndarray, rows: np.ndarray, progress: Progress
    ) -> np.ndarray:
        """(M, K) logits of the rows' images, each by a classifier that never saw it.

        Here by fitting anew, each time without one example of every class that has more than one.
        """
        logits = np.zeros((len(rows), labels.max() + 1), np.float32)
        order = np.array([np.count_nonzero(labels[:row] == labels[row]) for row in rows])
        folds = int(order.max()) + 1
        for fold in range(folds):
            other, left = copy.copy(self), rows[order == fold]
            other.classes_ = tuple(map(str, range(logits.shape[1])))
            kept = np.setdiff1d(np.arange(len(support)), left)
            tick = part(progress, fold / folds, (fold + 1) / folds)
            other._fit([support[row] for row in kept], labels[kept], tick, None)
            logits[order == fold] = other._image_logits([support[row] for row in left])
        return logits

    # What a head uses.

    def _fitted(self):
        if not hasattr(self, "classes_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit() first")
        return self

    def _backbone(self) -> Any:
        if isinstance(self.backbone, str):
            self.backbone = create_backbone(self.backbone)
        return self.backbone

    def _image_logits(self, evidence: Sequence[Evidence]) -> np.ndarray:
        """(N, K): the mean of the regions' logits, weighted as `merge_regions` does."""
        logits, owners = self._logits(evidence, self._embed(evidence)), owners_of(evidence)
        crops = [crop for one in evidence for crop in one.sub_images]
        areas, scores = [crop.area_px for crop in crops], [crop.score for crop in crops]
        shares = region_shares(owners, areas, scores, self.config.merge, self.config.merge_temperature)
        sums = np.zeros((len(evidence), logits.shape[1]))
        np.add.at(sums, owners, shares[:, None] * logits)
        return sums.astype(np.float32)

    def _temperature(self, support: Sequence[Evidence], labels: np.ndarray, progress: Progress) -> float:
        """What calibrates the probabilities; here 1, as the head's own loss has set the scale."""
        return 1.0

    def _remember(self, support: Sequence[Evidence], labels: np.ndarray) -> None:
        """Keep what shows why a region is named as it is, and the limits of what is known."""
        crops = [(row, crop) for row, one in enumerate(support) for crop in one.sub_images]
        owners = labels[[row for row, _ in crops]]
        self.example_images_ = tuple(support[row].id for row, _ in crops)
        self.example_labels_ = owners.astype(np.int64)
        self.example_pictures_ = np.stack([thumbnail(crop.image) for _, crop in crops])
        self.familiarity_ = Familiarity.of(
            self._embed(support), owners, len(self.classes_), self.config.known, _FEW, owners_of(support)
        )


def per_region(evidence: Sequence[Evidence], values: np.ndarray) -> np.ndarray:
    """(N, …) values of images to (R, …) of their regions."""
    return np.repeat(values, [len(one.sub_images) for one in evidence], axis=0)


def _classes(evidence: Sequence[Evidence], word: str, things: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Sorted class names and each one's index (N,)."""
    for one in evidence:
        if one.label is None:
            raise InvalidDatasetError(f"{one.id} has no {word}: give each of the {things} one, or leave it out")
    names = sorted({str(one.label) for one in evidence})
    if len(names) < 2:
        raise InvalidDatasetError(
            f"there are {things} of {len(names)} {word}{'es' if not names else ''} and telling kinds apart takes 2: "
            f"give {things} of another {word}"
        )
    return tuple(names), np.array([names.index(str(one.label)) for one in evidence], np.int64)


def _refuse_twins(support: Sequence[Evidence]) -> None:
    """Raise InvalidDatasetError when one image is an example of two classes, or twice one of the same."""
    seen: dict[bytes, Evidence] = {}
    for one in support:
        parts = (str(one.image.shape).encode(), np.ascontiguousarray(one.image).tobytes(), one.regions.bits.tobytes())
        key = hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()
        other = seen.setdefault(key, one)
        if other is not one:
            where = f"of both {other.label} and {one.label}" if other.label != one.label else f"of {one.label} twice"
            raise InvalidDatasetError(f"{other.id} and {one.id} are the same image and examples {where}: remove one")


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A square (S, S, 3) uint8 picture at the size of those that are kept of examples."""
    return cv2.resize(image, (_PICTURE, _PICTURE), interpolation=cv2.INTER_AREA)


def _damaged(folder: Path, error: Exception) -> InvalidModelError:
    return InvalidModelError(f"{folder} is damaged ({error}): copy the model folder again, or fit again")
