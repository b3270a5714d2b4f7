"""What all discoverers share: from embeddings to probabilities, unknown sub-images, merged images and saved folders."""

from __future__ import annotations

import copy
import dataclasses
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anomalyhub.backbones import create_backbone
from anomalyhub.config import configure
from anomalyhub.discovery.grouping import estimate_n_classes
from anomalyhub.errors import InvalidArgumentError, InvalidModelError, NotFittedError, UnknownNameError
from anomalyhub.hub.pretrained import Pretrained
from anomalyhub.nn.confidence import Familiarity, agreement_temperature, softmax
from anomalyhub.nn.descriptor import Embedder, tensors
from anomalyhub.nn.mgvit import MaskGuidedViT, MaskTokens
from anomalyhub.nn.views import Augmentation, View, augmented_view, plain_view, symmetric_views
from anomalyhub.protocols import Progress
from anomalyhub.regions.merge import Merge, merge_regions
from anomalyhub.regions.merge import MergedRegions as Discovery
from anomalyhub.registry import Registry
from anomalyhub.state import read_state, write_state
from anomalyhub.types import GOOD, ClassProbs, SubImage

discoverers: Registry = Registry("discoverer")

_CALIBRATION = 1  # the first number of its random key


@dataclass(frozen=True)
class DiscoveryConfig:
    """Settings that all discoverers share; defaults are those of Huang et al. unless a comment says otherwise."""

    mask_layers: int = 9  # guided blocks at the end, table V
    mask_tokens: MaskTokens = "class"  # table IV
    inside: float = 0.5  # share of a patch that the mask must cover, equation 3
    centre_crop: bool = True  # predict on the middle 224 of 256 pixels (published code)
    whiten_views: int = 0  # augmented views that teach which differences do not count, see `whitening` (product option)
    symmetries: int = 1  # embeddings are averaged over so many of a square's 8 (product option)
    merge: Merge = "area"  # table VII
    merge_temperature: float = 100.0  # T of equation 10: 100 for MVTec AD, 50 for MTD
    augmentations: tuple[Augmentation, ...] | None = typing.get_args(Augmentation)  # section IV-A2; None: none
    calibrate: bool = True  # probabilities by the agreement of views (product option)
    known: float = 0.99  # share of the fit's own sub-images within the limit of what is known (product option)
    max_classes: int = 12  # largest number of classes that "auto" tries (product option)
    embed_batch: int = 16  # sub-images at a time

    def __post_init__(self):
        for name in ("mask_layers", "whiten_views"):
            if getattr(self, name) < 0:
                raise InvalidArgumentError(f"setting {name} must not be negative, got {getattr(self, name)}")
        for name in ("inside", "known"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise InvalidArgumentError(f"setting {name} is a share in (0, 1], got {getattr(self, name)}")
        for name, lowest, highest in (("symmetries", 1, 8), ("max_classes", 2, 1000), ("embed_batch", 1, 4096)):
            if not lowest <= getattr(self, name) <= highest:
                raise InvalidArgumentError(
                    f"setting {name} must be between {lowest} and {highest}, got {getattr(self, name)}"
                )
        if not self.merge_temperature > 0:
            raise InvalidArgumentError(f"setting merge_temperature must be above 0, got {self.merge_temperature}")


class BaseDiscoverer(Pretrained, ABC):
    """The part of `anomalyhub.protocols.Discoverer` that follows from embeddings and one prototype per class.

    backbone  a Backbone over a transformer with a class token, or a SPEC that is made on first use
    config    an instance of `config_class`
    seed      fixes everything random

    Fitted: classes_ (K names), labels_ (N,) int64 and embeddings_ (N, D) float32 of the fit's sub-images, prototypes_
    (K, D) float32, temperature_, familiarity_ (the limits of what is known), areas_ and scores_ (N,) of the sub-images,
    n_classes_curve_ (what "auto" saw, {} otherwise).
    """

    name: ClassVar[str]
    config_class: ClassVar[type[DiscoveryConfig]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]  # settings by name, among them "default"

    def __init__(self, backbone: Any = "embedded", config: Any = None, seed: int = 0):
        self.backbone, self.config, self.seed = backbone, config or self.config_class(), seed

    @classmethod
    def create(cls, backbone: Any, *, seed: int, settings: Mapping[str, Any]):
        """A discoverer of a preset, "default" unless settings name another, with the other settings changed.

        See `anomalyhub.config.configure`.
        """
        settings = dict(settings)
        preset = settings.pop("preset", "default")
        if preset not in cls.presets:
            raise UnknownNameError("preset", str(preset), cls.presets)
        return cls(backbone, configure(cls.config_class, {**cls.presets[preset], **settings}), seed)

    def embed(self, sub_images: Sequence[SubImage]) -> np.ndarray:
        """(N, D) float32 embeddings of any sub-images."""
        self._fitted()
        return self._embed(self._embedder(), sub_images)

    def predict_proba(self, sub_images: Sequence[SubImage]) -> ClassProbs:
        """Probabilities over the discovered kinds, of sub-images that need not have been in the fit."""
        return ClassProbs(softmax(self._logits(self.embed(sub_images)), self.temperature_), self.classes_)

    def novelty(self, sub_images: Sequence[SubImage]) -> np.ndarray:
        """(N,) float32; above 1 a sub-image is unlike any known kind: see `Familiarity`."""
        return self._fitted().familiarity_.novelty(self.embed(sub_images))

    def predict(self, sub_images: Sequence[SubImage], images: Sequence[Hashable]) -> Discovery:
        """Regions and images, which need not have been in the fit; `images` has the id of each sub-image's image."""
        return self.predict_embedded(self.embed(sub_images), sub_images, images)

    def predict_embedded(
        self, embeddings: np.ndarray, sub_images: Sequence[SubImage], images: Sequence[Hashable]
    ) -> Discovery:
        """`predict` for sub-images whose `embed` (N, D) is known."""
        self._fitted()
        regions = ClassProbs(softmax(self._logits(embeddings), self.temperature_), self.classes_)
        areas, scores = _areas_and_scores(sub_images)
        return self._merged(regions, self.familiarity_.novelty(embeddings) > 1, images, areas, scores)

    def fitted_result(self, images: Sequence[Hashable]) -> Discovery:
        """`predict` for the fit's own sub-images, of which none is unknown, without running the network again.

        The most probable class of a region is labels_'s; where agglomerative clustering put it elsewhere than to the
        nearest centre, the two probabilities are exchanged.
        """
        self._fitted()
        probs = softmax(self._logits(self.embeddings_), self.temperature_)
        rows, best = np.arange(len(probs)), probs.argmax(axis=1)
        largest, own = probs[rows, best], probs[rows, self.labels_]
        probs[rows, best], probs[rows, self.labels_] = own, largest
        regions = ClassProbs(probs, self.classes_)
        return self._merged(regions, np.zeros(len(probs), bool), images, self.areas_, self.scores_)

    def relabelled(
        self,
        labels: Sequence[str | None],
        more: tuple[np.ndarray, Sequence[float], Sequence[float]] | None = None,
    ) -> BaseDiscoverer:
        """A fitted copy that knows the classes which a person gave to the fit's sub-images; nothing is trained.

        labels  the class of each row of embeddings_, and then of `more`; None leaves it out
        more    embeddings (M, D), areas and scores of other sub-images; one of the fit that comes again replaces it
        classes_ are "good" where it is there and then the others by name, prototypes_ their mean embeddings, of length
        1 where the method's are. The limits of what is known are found anew, the temperature is kept.
        Raises InvalidArgumentError for another number of labels, or when all are None.
        """
        self._fitted()
        known = self.embeddings_, self.areas_, self.scores_
        if more is not None:
            known = tuple(np.concatenate(pair) for pair in zip(known, more, strict=True))
        if len(labels) != len(known[0]):
            raise InvalidArgumentError(f"labels must have one entry per sub-image ({len(known[0])}), got {len(labels)}")
        if more is not None:  # a distance of 0 to itself would be the limit of what is known
            again = _repeated((self.embeddings_, self.areas_, self.scores_), more)
            labels = [None if row in again else label for row, label in enumerate(labels)]
        kept = [row for row, label in enumerate(labels) if label is not None]
        names = sorted({labels[row] for row in kept}, key=lambda name: (name != GOOD, name))
        if not names:
            raise InvalidArgumentError("no sub-image of the fit has a class: give at least one of them one")
        rows, embeddings = np.array([names.index(labels[row]) for row in kept], np.int64), known[0][kept]
        prototypes = np.stack([embeddings[rows == number].mean(axis=0) for number in range(len(names))])
        if np.allclose(np.linalg.norm(self.prototypes_, axis=1), 1.0, atol=1e-4):  # its temperature is for cosines
            prototypes /= np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-12)
        copied = copy.copy(self)
        copied.classes_, copied.labels_, copied.embeddings_ = tuple(names), rows, embeddings
        copied.prototypes_ = prototypes
        copied.areas_, copied.scores_ = known[1][kept], known[2][kept]
        copied.familiarity_ = Familiarity.of(embeddings, rows, len(names), self.config.known)
        return copied

    def save(self, folder: Path) -> None:
        """Write config.json and state.safetensors into `folder`."""
        self._fitted()
        backbone = self._backbone()
        config = {
            "kind": "discoverer",
            "discoverer": self.name,
            "backbone": {"spec": backbone.spec, "fingerprint": backbone.fingerprint},
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "classes": self.classes_,
            "temperature": self.temperature_,
            "n_classes_curve": self.n_classes_curve_,
            **self._extra_config(),
        }
        arrays = {
            "embeddings": self.embeddings_,
            "labels": self.labels_,
            "prototypes": self.prototypes_,
            "limits": self.familiarity_.limits,
            "areas": self.areas_,
            "scores": self.scores_,
        }
        write_state(folder, config, {**arrays, **self._extra_arrays()})

    @classmethod
    def load(cls, folder: Path, backbone: Any = None):
        """A fitted discoverer that predicts as the saved one did. Raises InvalidModelError, BackboneError.

        backbone  replaces the stored SPEC; its weights must be the same
        """
        config, arrays = read_state(folder, "discoverer")
        try:
            name, spec = config["discoverer"], str(config["backbone"]["spec"])
            weights = config["backbone"]["fingerprint"]
            self = cls(backbone or spec, configure(cls.config_class, config["config"]), int(config["seed"]))
            self.classes_, self.temperature_ = tuple(map(str, config["classes"])), float(config["temperature"])
            self.n_classes_curve_ = {int(k): value for k, value in config["n_classes_curve"].items()}
            self.embeddings_, self.labels_ = arrays["embeddings"], arrays["labels"]
            self.areas_, self.scores_ = arrays["areas"], arrays["scores"]
            self.familiarity_ = Familiarity(self.embeddings_, self.labels_, arrays["limits"])
            self.prototypes_ = arrays["prototypes"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _damaged(folder, error) from error
        if name != cls.name:
            raise InvalidModelError(f"{folder} holds a {name}, not a {cls.name}: load it with load_discoverer")
        if self._backbone().fingerprint != weights:
            raise InvalidModelError(
                f"the weights of {self.backbone.spec} are not those that {folder} was fitted with: "
                "give the same weights with --backbone, or fit again"
            )
        try:
            self._restore(config, arrays)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(folder, error) from error
        return self

    # What a method adds.

    @abstractmethod
    def _embedder(self) -> Embedder:
        """The fitted embedding."""

    def _extra_config(self) -> dict[str, Any]:
        return {}

    def _extra_arrays(self) -> dict[str, np.ndarray]:
        return {}

    @abstractmethod
    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what `_extra_config` and `_extra_arrays` gave."""

    # What a method uses.

    def _fitted(self):
        if not hasattr(self, "prototypes_"):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit() first")
        return self

    def _backbone(self):
        if isinstance(self.backbone, str):
            self.backbone = create_backbone(self.backbone)
        return self.backbone

    def _guided(self) -> MaskGuidedViT:
        config = self.config
        return MaskGuidedViT(self._backbone(), config.mask_layers, config.mask_tokens, config.inside)

    def _embed(
        self,
        embedder: Embedder,
        sub_images: Sequence[SubImage],
        *,
        keys: Sequence[int] | None = None,
        tick: Callable[[float], None] = lambda share: None,
    ) -> np.ndarray:
        """Embeddings (N, D) of the plain views, or with `keys` of a random view by each key; `tick` hears the share."""
        backbone, config, rows = self._backbone(), self.config, []
        for batch in batches(len(sub_images), config.embed_batch):
            tick(batch.start / len(sub_images))
            views = [self._view(sub_images[index], None if keys is None else keys[index]) for index in batch]
            turned = zip(*(symmetric_views(view, config.symmetries) for view in views), strict=True)
            total = sum(embedder(*tensors(backbone, same)).float() for same in turned)
            rows.append((total / config.symmetries).cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.prototypes_.shape[1]), np.float32)

    def _view(self, sub_image: SubImage, key: int | None) -> View:
        if key is None:
            return plain_view(sub_image, self._backbone().size, self.config.centre_crop)
        rng = np.random.default_rng((self.seed, _CALIBRATION, key))
        return augmented_view(sub_image, self._backbone().size, self.config.augmentations or (), rng)

    def _count(
        self, n_novel: int | str, embeddings: np.ndarray, sub_images: Sequence[SubImage]
    ) -> tuple[int, dict[int, float]]:
        """The number of classes and, for "auto", the curve that it was read from.

        Sub-images with an empty mask are one class, the normal one, and do not hide the others' structure.
        """
        if n_novel != "auto":
            return int(n_novel), {}
        marked = np.array([sub_image.area_px > 0 for sub_image in sub_images])
        normal = 0 if marked.all() or marked.sum() < 3 else 1
        if normal:
            embeddings = embeddings[marked]
        count, curve = estimate_n_classes(embeddings, max(2, self.config.max_classes - normal), seed=self.seed)
        return count + normal, {k + normal: value for k, value in curve.items()}

    def _logits(self, embeddings: np.ndarray) -> np.ndarray:
        """Minus half the squared distances to the prototypes (N, K); for unit vectors, cosines minus 1."""
        squares = (embeddings**2).sum(1)[:, None] + (self.prototypes_**2).sum(1) - 2 * embeddings @ self.prototypes_.T
        return -0.5 * squares

    def _finish(
        self,
        sub_images: Sequence[SubImage],
        embeddings: np.ndarray,
        labels: np.ndarray,
        prototypes: np.ndarray,
        augmented: np.ndarray | None,
        temperature: float,
        curve: dict[int, float],
    ) -> None:
        """Set what is fitted; `augmented` are embeddings of other views, None keeps `temperature`."""
        self.embeddings_, self.labels_, self.prototypes_ = embeddings, labels.astype(np.int64), prototypes
        self.classes_ = tuple(f"kind_{number}" for number in range(1, len(prototypes) + 1))
        self.areas_, self.scores_ = _areas_and_scores(sub_images)
        self.n_classes_curve_ = curve
        self.familiarity_ = Familiarity.of(embeddings, labels, len(prototypes), self.config.known)
        self.temperature_ = temperature
        if augmented is not None:
            self.temperature_ = agreement_temperature(self._logits(embeddings), self._logits(augmented))

    def _merged(self, regions: ClassProbs, unknown, images, areas, scores) -> Discovery:
        config = self.config
        return merge_regions(
            regions, unknown, images, areas, scores, merge=config.merge, temperature=config.merge_temperature
        )


def check_input(name: str, sub_images: Sequence[SubImage], n_novel: int | str) -> None:
    """Raise InvalidArgumentError unless there are sub-images, and at least as many as classes."""
    if not len(sub_images):
        raise InvalidArgumentError(f"{name} needs sub-images and got none: there is no region in any image")
    if n_novel == "auto":
        if len(sub_images) < 3:
            raise InvalidArgumentError(
                f"the number of classes cannot be estimated from {len(sub_images)} sub-images: give n_novel"
            )
    elif not isinstance(n_novel, (int, np.integer)) or n_novel < 1:
        raise InvalidArgumentError(f"n_novel must be 'auto' or a number of classes from 1, got {n_novel!r}")
    elif n_novel > len(sub_images):
        raise InvalidArgumentError(
            f"{n_novel} classes were asked for and there are only {len(sub_images)} sub-images: give fewer classes"
        )


def _areas_and_scores(sub_images: Sequence[SubImage]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([sub_image.area_px for sub_image in sub_images], np.float64),
        np.array([sub_image.score for sub_image in sub_images], np.float64),
    )


def _repeated(known: Sequence[np.ndarray], more: Sequence[Sequence]) -> set[int]:
    """Rows of `known` (embeddings, areas, scores) that `more` has too, one for each of its own."""
    embeddings, areas, scores = known
    rounding, found = 1e-3 * float(np.linalg.norm(embeddings, axis=1).max()), set()
    for embedding, area, score in zip(*more, strict=True):
        alike = np.flatnonzero((areas == area) & np.isclose(scores, score, rtol=0, atol=1e-3))
        alike = [row for row in alike.tolist() if row not in found]
        apart = np.linalg.norm(embeddings[alike] - embedding, axis=1)
        if alike and apart.min() <= rounding:
            found.add(alike[int(apart.argmin())])
    return found


def _damaged(folder: Path, error: Exception) -> InvalidModelError:
    return InvalidModelError(f"{folder} is damaged ({error}): copy the model folder again, or fit again")


def batches(count: int, size: int) -> Iterator[range]:
    """0 to `count` in runs of `size`."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def report(progress: Progress | None, fraction: float, text: str) -> None:
    if progress is not None:
        progress(fraction, text)
