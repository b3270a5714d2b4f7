"""What detectors on a backbone share: how they are made, saved and loaded, and how they read images in batches."""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anomalyhub.backbones import create_backbone
from anomalyhub.config import configure
from anomalyhub.errors import InvalidArgumentError, InvalidModelError, NotFittedError
from anomalyhub.hub.pretrained import Pretrained
from anomalyhub.protocols import Progress
from anomalyhub.state import read_state, write_state
from anomalyhub.types import Sample


class OnBackbone(Pretrained):
    """Construction of what works on a backbone: detectors, and trainers of their weights.

    A subclass sets `config_class`, a frozen dataclass, maybe with a field `layers`.

    backbone  a Backbone, or a SPEC that is made on first use; None: `default_backbone`
    config    an instance of `config_class`
    seed      fixes whatever is random
    """

    name: ClassVar[str]
    title: ClassVar[str]  # as people write it, for messages
    config_class: ClassVar[type]
    default_backbone: ClassVar[str] = "embedded"

    def __init__(self, backbone: Any = None, config: Any = None, seed: int = 0):
        self.backbone = self.default_backbone if backbone is None else backbone
        self.config, self.seed = self.config_class() if config is None else config, seed

    @classmethod
    def create(cls, backbone: Any = None, *, seed: int = 0, settings: Mapping[str, Any] | None = None):
        """One with some settings changed; see `anomalyhub.config.configure`."""
        return cls(backbone, configure(cls.config_class, settings or {}), seed)

    def _layers(self, spec: str) -> Sequence[int] | None:
        """The layers to tap of the backbone of that SPEC; None leaves them to it."""
        return getattr(self.config, "layers", None)

    def _backbone(self) -> Any:
        """The backbone, made on first use. Raises InvalidArgumentError where a given one taps other layers."""
        layers = getattr(self.config, "layers", None)
        if isinstance(self.backbone, str):
            self.backbone = create_backbone(self.backbone, self._layers(self.backbone))
        elif layers is not None and sorted(layers) != sorted(self.backbone.layers):
            raise InvalidArgumentError(
                f"setting layers is {list(layers)} and this backbone taps {list(self.backbone.layers)}: "
                "give a backbone with those layers, or its SPEC"
            )
        return self.backbone


class Trainer(OnBackbone, ABC):
    """Trains weights that detectors take by their setting `weights`; a subclass adds split, fit, save and `_restore`.

    Fitted: history_ (a dictionary per epoch), origin_ (spec, fingerprint and layers of the backbone).
    """

    split: ClassVar[str]

    @classmethod
    def load(cls, folder: str | Path, backbone: Any = None):
        """One that was trained and saves the same folder again. Raises InvalidModelError.

        backbone  replaces the stored SPEC; it is made, and its weights matter, when `fit` trains anew
        """
        config, arrays = read_state(Path(folder), "pretrained")
        if config.get("trainer") != cls.name:
            raise InvalidModelError(
                f"{folder} holds weights of {config.get('trainer')!r}, not of {cls.name}: "
                f"give the folder of train {cls.name}"
            )
        try:
            spec = config["backbone"].get("spec")
            self = cls(backbone or spec, configure(cls.config_class, config["config"]), int(config["seed"]))
            self._restore(config, arrays)
            self.history_, self.origin_ = list(config["history"]), dict(config["backbone"])
        except InvalidModelError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(f"{folder} is damaged ({error}): copy it again, or train again") from error
        return self

    def _origin(self) -> dict[str, Any]:
        """What `origin_` becomes by a fit."""
        made = self._backbone()
        return {"spec": made.spec, "fingerprint": made.fingerprint, "layers": made.layers}

    @abstractmethod
    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Set the fitted attributes from what `save` wrote; KeyError, TypeError and ValueError mean damage."""


class BackboneDetector(OnBackbone, ABC):
    """A detector's saved folder; a subclass adds name, needs, transductive, title, fit and predict.

    It implements `_state`, what `save` writes besides, and `_restore`, which sets the fitted attributes from it.
    """

    uses_backbone: ClassVar[bool] = True

    def save(self, folder: Path) -> None:
        """Write config.json and state.safetensors into `folder`."""
        self._fitted()
        origin = {}
        if self.uses_backbone:
            made = self._backbone()
            origin["backbone"] = {"spec": made.spec, "fingerprint": made.fingerprint, "layers": made.layers}
        extra, arrays = self._state()
        config = {
            "kind": "detector",
            "detector": self.name,
            **origin,
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            **extra,
        }
        write_state(folder, config, arrays)

    @classmethod
    def load(cls, folder: Path, backbone: Any = None):
        """A fitted detector that gives the very maps of the saved one. Raises InvalidModelError, BackboneError.

        backbone  replaces the stored SPEC, for example when the weights file has moved; the weights must be the same
        """
        config, arrays = read_state(folder, "detector")
        try:
            origin = config["backbone"] if cls.uses_backbone else {"spec": None, "fingerprint": None}
            spec, layers, weights = origin["spec"], origin.get("layers"), origin["fingerprint"]
            if cls.uses_backbone and not isinstance(spec, str):
                raise TypeError(f"a backbone has a SPEC, not {spec!r}")
            if layers is not None and not all(type(layer) is int for layer in layers):
                raise TypeError(f"layers are numbers, not {layers!r}")
            self = cls(backbone or spec, configure(cls.config_class, config["config"]), int(config["seed"]))
            self._restore(config, arrays)
        except InvalidModelError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(
                f"{folder} is damaged ({error}): copy the model folder again, or fit again"
            ) from error
        if cls.uses_backbone:
            self._attach(folder, layers, weights)
        return self

    def _attach(self, folder: Path, layers: Sequence[int] | None, weights: str) -> None:
        """Make the backbone of a loaded detector, or check the one that is given."""
        if isinstance(self.backbone, str):
            self.backbone = create_backbone(self.backbone, layers)
        elif layers is not None and list(self.backbone.layers) != layers:
            raise InvalidModelError(
                f"{folder} was fitted on layers {layers} and this backbone taps {list(self.backbone.layers)}: "
                "give one with those layers"
            )
        if self.backbone.fingerprint != weights:
            raise InvalidModelError(
                f"the weights of {self.backbone.spec} are not those that {folder} was fitted with: "
                "give the same weights with --backbone, or fit again"
            )

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `save` writes besides: JSON values, and arrays."""

    @abstractmethod
    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Set the fitted attributes from what `_state` gave; KeyError, TypeError and ValueError mean damage."""

    def _fitted(self) -> None:
        """Raise NotFittedError before `fit`."""
        if not any(name.endswith("_") for name in vars(self)):
            raise NotFittedError(f"{self.title} is not fitted: call fit() first")


def batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Lists of at most `size` samples, in order, read as they are asked for."""
    iterator = iter(samples)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def report(progress: Progress | None, fraction: float, text: str) -> None:
    """Tell a Progress that may be None."""
    if progress is not None:
        progress(fraction, text)


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """Raise InvalidArgumentError where a setting lies outside [low, high]; None is allowed."""
    if value is not None and not low <= value <= high:
        raise InvalidArgumentError(f"setting {name} must be between {low} and {high}, got {value}")
