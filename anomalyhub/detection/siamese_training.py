"""Training the network of the category-agnostic detector on normal images of many products (Ejaz, 2024, chapter 4)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anomalyhub.detection.base import Trainer, check_range
from anomalyhub.detection.provenance import Provenance
from anomalyhub.detection.support import one_augmented
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidModelError, NotFittedError
from anomalyhub.nn.siamese import SiameseNetwork, Transform, stage_layers
from anomalyhub.nn.training import make_accelerator, train_epochs
from anomalyhub.protocols import Progress, part
from anomalyhub.registry import trainers
from anomalyhub.state import read_state, write_state
from anomalyhub.types import Sample

_KIND, _NAME = "pretrained", "siamese"
_PREFIX = "network."  # before the names of the network's tensors
_CACHE_BYTES = 2**30  # of resized images that are kept; further ones are read again in every epoch
_READ = 0.05  # where the progress bar stands when the training images have been looked at


@dataclass(frozen=True)
class SiameseTrainingConfig:
    """Settings of the training; defaults are those of section 5.3 unless a comment says otherwise."""

    transform: Transform = "affine"  # of the spatial transformers; the thesis names rotation and scaling
    epochs: int = 50
    batch_size: int = 32  # pairs, over all processes
    lr: float = 1e-4  # falls along a cosine to zero
    momentum: float = 0.9  # the thesis says momentum SGD and gives no figure
    weight_decay: float = 0.0  # not given
    size: int = 224  # side of the square input in pixels

    def __post_init__(self):
        check_range("epochs", self.epochs, 1, 100_000)
        check_range("batch_size", self.batch_size, 1, 4096)
        check_range("momentum", self.momentum, 0.0, 0.999)
        check_range("weight_decay", self.weight_decay, 0.0, 1.0)
        check_range("size", self.size, 32, 1024)
        if not 0.0 < self.lr <= 10.0:
            raise InvalidArgumentError(f"setting lr must be above 0 and at most 10, got {self.lr}")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network without its predictors, which only training needs.

    tensors     float32 arrays by the names of `SiameseNetwork`
    transform   kind of its spatial transformers
    size        side of the square input that it was trained at
    provenance  its training images
    """

    tensors: Mapping[str, np.ndarray]
    transform: Transform
    size: int
    provenance: Provenance

    @classmethod
    def of(cls, network: SiameseNetwork, transform: Transform, size: int, provenance: Provenance) -> Trained:
        """What a detector needs of a network."""
        state = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items() if _kept(name)}
        return cls(state, transform, size, provenance)

    @classmethod
    def read(cls, folder: str | Path, fingerprint: str) -> Trained:
        """From a folder of `train siamese`. Raises InvalidModelError, also for weights of another backbone."""
        config, arrays = read_state(Path(folder), _KIND)
        if config.get("trainer") != _NAME:
            raise InvalidModelError(
                f"{folder} holds weights of {config.get('trainer')}, not of {_NAME}: give the folder of train {_NAME}"
            )
        try:
            spec, trained_on = config["backbone"]["spec"], config["backbone"]["fingerprint"]
            trained = cls.restore(config["trained"], arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(f"{folder} is damaged ({error}): copy it again, or train again") from error
        if trained_on != fingerprint:
            raise InvalidModelError(f"{folder} was trained on the backbone {spec}: give that one with --backbone")
        return trained

    def network(self, backbone: Any) -> SiameseNetwork:
        """The network on the backbone's device, in evaluation mode. Raises InvalidModelError where it does not fit."""
        network = SiameseNetwork(backbone, self.transform)
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in self.tensors.items()}
        try:
            result = network.load_state_dict(tensors, strict=False)
        except RuntimeError as error:
            raise InvalidModelError(f"the trained network does not fit {backbone.spec}: train again") from error
        missing = [name for name in result.missing_keys if _kept(name)] + result.unexpected_keys
        if missing:
            raise InvalidModelError(f"the trained network does not fit {backbone.spec} ({missing[0]}): train again")
        return network.eval().requires_grad_(False).to(backbone.device)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON values and arrays for a saved folder."""
        extra, arrays = self.provenance.state()
        tensors = {_PREFIX + name: value for name, value in self.tensors.items()}
        return {"transform": self.transform, "size": self.size, **extra}, {**arrays, **tensors}

    @classmethod
    def restore(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Trained:
        """From what `state` gave; KeyError, TypeError and ValueError mean damage."""
        tensors = {name[len(_PREFIX) :]: value for name, value in arrays.items() if name.startswith(_PREFIX)}
        provenance = Provenance.restore(config, arrays)
        if provenance is None:
            raise ValueError("trained_on is missing")
        return cls(tensors, config["transform"], int(config["size"]), provenance)


@trainers.register
class SiameseTrainer(Trainer):
    """Trains trunk, spatial transformers, encoders and predictors (algorithm 1) on pairs of normal images.

    backbone  a Backbone, or a SPEC that is made on first use: a ResNet or ConvNeXt of timm, or embedded
    config    see SiameseTrainingConfig
    seed      fixes initial weights, pairs and augmentations

    Fitted: trained_, history_ (one entry per epoch: loss, spread, which near 0 means collapse, lr), provenance_,
    origin_.
    """

    name = _NAME
    title = "Category-agnostic"
    split = "train"
    config_class = SiameseTrainingConfig

    def fit(
        self,
        products: Mapping[str, Sequence[Sample]],
        progress: Progress | None = None,
        checkpoints: Path | None = None,
    ) -> SiameseTrainer:
        """Train on normal images by product, at least two of each; masks and labels are not read.

        checkpoints  folder from which an interrupted fit goes on to the same result; None keeps nothing
        Raises InvalidDatasetError when a product has fewer than two images.
        """
        _check(products)
        backbone, config, accelerator = self._backbone(), self.config, make_accelerator()
        part(progress, 0.0, _READ)(0.0, "looking at the training images")
        provenance = Provenance.of(products)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = SiameseNetwork(backbone, config.transform)
        optimizer = torch.optim.SGD(
            network.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        images = _Images(products, config.size)
        world = (accelerator.process_index, accelerator.num_processes)

        def step(model: Any, pairs: tuple[list[np.ndarray], list[np.ndarray]]):
            query, support = (backbone.preprocess(side, config.size).to(accelerator.device) for side in pairs)
            loss, spread = model(query, support)
            return loss, {"spread": spread}

        self.history_ = train_epochs(
            network,
            optimizer,
            accelerator,
            epochs=config.epochs,
            batches=lambda epoch: _Pairs(images, config.batch_size, self.seed, epoch, *world),
            step=step,
            learning_rate=lambda epoch: config.lr * 0.5 * (1.0 + math.cos(math.pi * epoch / config.epochs)),
            checkpoints=checkpoints,
            settings={
                "trainer": self.name,
                "seed": self.seed,
                "config": dataclasses.asdict(config),
                "backbone": backbone.fingerprint,
                "products": {name: len(samples) for name, samples in products.items()},
                "images": provenance.digests.tolist(),
            },
            progress=part(progress, _READ, 1.0),
        )
        self.provenance_, self.origin_ = provenance, self._origin()
        self.trained_ = Trained.of(network, config.transform, config.size, provenance)
        return self

    def save(self, folder: Path) -> None:
        """Write the folder that the detector takes as its setting `weights`."""
        if not hasattr(self, "trained_"):
            raise NotFittedError(f"{self.title} is not trained: call fit() first")
        extra, arrays = self.trained_.state()
        config = {
            "kind": _KIND,
            "trainer": self.name,
            "backbone": self.origin_,
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "trained": extra,
            "history": self.history_,
        }
        write_state(folder, config, arrays)

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.trained_ = Trained.restore(config["trained"], arrays)
        self.provenance_ = self.trained_.provenance

    def _layers(self, spec: str) -> Sequence[int] | None:
        return stage_layers(spec)


def _check(products: Mapping[str, Sequence[Sample]]) -> None:
    if not products:
        raise InvalidDatasetError("there is no product to train on: name at least one with --product")
    for product, samples in products.items():
        if len(samples) < 2:
            raise InvalidDatasetError(
                f"{product} has {len(samples)} normal images and pairs need 2: add some, or leave it out"
            )


class _Images:
    """All training images, resized and numbered product by product; as many as the budget allows stay in memory."""

    def __init__(self, products: Mapping[str, Sequence[Sample]], size: int):
        self.size, self.kept, self.room = size, {}, _CACHE_BYTES // (3 * size * size)
        self.places = [(samples, i) for samples in products.values() for i in range(len(samples))]
        counts = [len(samples) for samples in products.values()]
        self.starts = np.repeat(np.cumsum([0, *counts[:-1]]), counts)  # number of the first image of each one's product
        self.counts = np.repeat(counts, counts)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> np.ndarray:
        if number in self.kept:
            return self.kept[number]
        samples, i = self.places[number]
        size = (self.size, self.size)
        image = np.asarray(Image.fromarray(samples[i].image).resize(size, Image.Resampling.BILINEAR))
        if len(self.kept) < self.room:
            self.kept[number] = image
        return image

    def partner(self, number: int, rng: np.random.Generator) -> int:
        """Another image of the same product."""
        start, count = self.starts[number], self.counts[number]
        return int(start + (number - start + rng.integers(1, count)) % count)


@dataclass(frozen=True)
class _Pairs:
    """One process's batches of an epoch: every image once as the query, beside another of its product, augmented."""

    images: _Images
    batch_size: int
    seed: int
    epoch: int
    rank: int
    world: int

    def __len__(self) -> int:
        return -(-(len(self.images) // self.world) // self._batch)

    def __iter__(self) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.images))
        own = order[self.rank :: self.world][: len(order) // self.world]  # the same number in every process
        for start in range(0, len(own), self._batch):
            queries, supports = [], []
            for number in own[start : start + self._batch].tolist():
                rng = np.random.default_rng((self.seed, self.epoch, number))
                queries.append(self.images[number])
                supports.append(one_augmented(self.images[self.images.partner(number, rng)], rng))
            yield queries, supports

    @property
    def _batch(self) -> int:
        return max(1, self.batch_size // self.world)


def _kept(name: str) -> bool:
    """Whether detection needs a tensor of the network."""
    return not name.startswith("predictors.") and not name.endswith("num_batches_tracked")
