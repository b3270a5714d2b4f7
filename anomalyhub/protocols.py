"""What a contributor implements. Nothing here is inherited: a class with these members is one of these things."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from anomalyhub.types import AnomalyMap, ClassProbs, Features, Sample, SubImage

#: Called with the done fraction in [0, 1] and a short text; it may raise `Cancelled` to stop the call.
Progress = Callable[[float, str], None]


def part(progress: Progress | None, start: float, end: float) -> Progress:
    """A Progress whose 0 to 1 is `start` to `end` of another's; it is silent where that is None."""
    if progress is None:
        return lambda fraction, text: None
    return lambda fraction, text: progress(start + (end - start) * fraction, text)


@runtime_checkable
class Backbone(Protocol):
    """A network that turns images into feature maps, whatever it is made of.

    spec      the text that `create_backbone` makes it from
    layers    the tapped layers: stages of a CNN (timm's feature_info index), 1-based blocks of a ViT
    channels  one width per layer
    strides   input pixels per feature position, one per layer
    size      the square input size in pixels that the model's data config asks for
    module    the torch module behind it
    device    the torch device that it runs on
    fingerprint  identifies the weights, so that a saved model notices that they have changed
    """

    spec: str
    layers: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size: int
    module: Any
    device: Any
    fingerprint: str

    def preprocess(self, images: Sequence[np.ndarray], resize: int | None = None, crop: int | None = None) -> Any:
        """(H, W, 3) uint8 images to one normalised float32 torch batch (B, 3, h, w)."""

    def feature_maps(self, batch: Any) -> tuple[Any, ...]:
        """A batch from `preprocess` to one (B, C_l, h_l, w_l) float32 torch tensor per layer, without gradients."""

    def extract(self, images: Sequence[np.ndarray]) -> list[Features]:
        """(H, W, 3) uint8 images to one Features each."""


@runtime_checkable
class Detector(Protocol):
    """Finds what is abnormal. Registered with `@register_detector`; held to tests/test_detector_contract.py."""

    name: str
    needs: Literal["nothing", "normals", "auxiliary"]
    transductive: bool
    config: Any

    def fit(self, samples: Iterable[Sample], progress: Progress | None = None) -> Detector: ...

    def predict(self, samples: Sequence[Sample]) -> list[AnomalyMap]: ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Detector: ...


@runtime_checkable
class Classifier(Protocol):
    """Names the kind of defect from a handful of examples. Registered with `@classifiers.register`.

    It is shown `anomalyhub.classification.Evidence`: an image with the regions and patch features that a detector sees
    in it, and in `pretrain` and `fit` a label. `checkpoints` is a folder in which an interrupted call leaves what it
    needs to go on to the same result. `predict` gives a `MergedRegions`: kinds of regions and of images.
    """

    name: str
    config: Any

    def pretrain(
        self, synthetic: Sequence[Any], progress: Progress | None = None, checkpoints: Path | None = None
    ) -> Classifier: ...

    def fit(
        self, support: Sequence[Any], progress: Progress | None = None, checkpoints: Path | None = None
    ) -> Classifier: ...

    def predict(self, evidence: Sequence[Any]) -> Any: ...

    def predict_proba(self, evidence: Sequence[Any]) -> ClassProbs: ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Classifier: ...


@runtime_checkable
class Discoverer(Protocol):
    """Groups defects into kinds nobody has named. Registered with `@discoverers.register` in anomalyhub/discovery.

    A normal image is one sub-image, the whole of it with an empty mask. `base` are sub-images of other products'
    defects with their classes, or None; a method may leave them unused. `checkpoints` is a folder in which an
    interrupted fit leaves what it needs to go on to the same result.
    """

    name: str
    config: Any

    def fit(
        self,
        unlabelled: Sequence[SubImage],
        base: Sequence[SubImage] | None = None,
        base_labels: Sequence[str] | None = None,
        n_novel: int | Literal["auto"] = "auto",
        *,
        progress: Progress | None = None,
        checkpoints: Path | None = None,
    ) -> Discoverer: ...

    def embed(self, sub_images: Sequence[SubImage]) -> np.ndarray: ...

    def predict_proba(self, sub_images: Sequence[SubImage]) -> ClassProbs: ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Discoverer: ...


@runtime_checkable
class Store(Protocol):
    """Moves folders: a plain folder or the Hugging Face Hub. `anomalyhub.hub.BaseStore` has what every store does.

    `push` gives a `Pushed`, `pull` a `Pulled`, `list` `RepoInfo`s, which all know the revision.
    """

    spec: str

    def push(self, folder: Path, repo_id: str, kind: str = "model", message: str = "") -> Any: ...

    def pull(self, repo_id: str, kind: str = "model", revision: str | None = None) -> Any: ...

    def list(self, kind: str = "model") -> list[Any]: ...
