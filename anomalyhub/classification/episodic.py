"""What the relation and the contrastive head share: pretraining and fine-tuning in episodes (liu2024, section 4.1)."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.func import functional_call

from anomalyhub.classification.base import BaseClassifier, ClassifierConfig
from anomalyhub.classification.episodes import Episode, drawn_episodes, steps
from anomalyhub.classification.evidence import Evidence, patch_batch
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError
from anomalyhub.nn.training import make_accelerator, train_epochs
from anomalyhub.protocols import Progress

_DRAW, _TUNE = 1, 2  # the second number of the random keys
_SAVE_EPISODES, _SAVE_PASSES = 10, 5  # from one checkpoint to the next; one is 150 MB at 28 x 28 patches
_BATCH = 16  # images that are read at once in prediction

#: Rows to their maps (n, P, D) on the network's device.
Maps = Callable[[np.ndarray], torch.Tensor]


@dataclass(frozen=True)
class EpisodicConfig(ClassifierConfig):
    """Settings of heads that learn in episodes; defaults are those of liu2024 unless a comment says otherwise."""

    lr: float = 1e-4  # of Adam, in pretraining and fine-tuning
    passes: int | None = None  # of fine-tuning over the examples; None: the published number, by head and shots
    queries_per_step: int | None = None  # of fine-tuning, per step of Adam (not given); None: see the head
    pretrain_classes: int = 10  # random pseudo-classes of an episode
    pretrain_episodes: int = 1000
    pretrain_accuracy: float = 0.4  # an episode above it is the last
    pretrain_queries: int = 2  # of each class of an episode, beside one support (not given)
    maml: bool = False  # a gradient step on one episode before that on another (appendix G)
    maml_lr: float = 0.01  # of the first of them (not given)

    def __post_init__(self):
        super().__post_init__()
        for name, low, high in (
            ("passes", 0, 100_000),
            ("queries_per_step", 1, 100_000),
            ("pretrain_classes", 2, 10_000),
            ("pretrain_episodes", 1, 1_000_000),
            ("pretrain_queries", 1, 1000),
            ("pretrain_accuracy", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidArgumentError(f"setting {name} must be between {low} and {high}, got {value}")
        for name in ("lr", "maml_lr"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise InvalidArgumentError(f"setting {name} must be above 0 and at most 1, got {getattr(self, name)}")


class EpisodicClassifier(BaseClassifier):
    """A network on maps of patches that is trained in episodes; regions of one image share its class.

    Pretrained: pretrained_, the network. Fitted: network_ and, of the N examples, support_labels_ (N,) int64.
    """

    default_backbone = None
    config: EpisodicConfig
    network_class: ClassVar[type[torch.nn.Module]]
    queries_of_each: ClassVar[int]  # of each class per step of fine-tuning, unless the settings say it
    pretrained_: torch.nn.Module | None = None

    # What a head adds.

    @abstractmethod
    def _episodes(self, labels: np.ndarray, rng: np.random.Generator) -> list[Episode]:
        """A pass over examples of classes (N,); none where no class has two."""

    @abstractmethod
    def _passes(self, shots: int) -> int:
        """The published number of them for so many examples of a class."""

    @abstractmethod
    def _loss(self, network: Any, maps: Maps, episodes: Sequence[Episode]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of episodes with the same number of classes, and the share of queries that are told right."""

    @abstractmethod
    def _keep(self, maps: Maps, count: int) -> None:
        """Keep what prediction needs of the `count` examples, with network_ in evaluation mode."""

    # Training.

    def _pretrain(
        self, synthetic: Sequence[Evidence], labels: np.ndarray, progress: Progress, checkpoints: Path | None
    ) -> dict[str, Any]:
        if len(labels) == len(np.unique(labels)):
            raise InvalidDatasetError(
                "every pseudo-class has one synthetic defect and an episode takes 2: generate more of each"
            )
        config, network = self.config, self._new(_shape(synthetic[0], self.config.residual))

        def draw(episode: int, which: int) -> list[Episode]:
            rng = np.random.default_rng((self.seed, _DRAW, episode, which))
            found: list[Episode] = []
            while not found:  # classes of one image each have no query
                found = drawn_episodes(labels, config.pretrain_classes, config.pretrain_queries, rng)
            return found

        history = self._train(
            network,
            lambda rows: stacked([synthetic[row] for row in rows], config.residual),
            epochs=config.pretrain_episodes,
            batches=lambda episode: [[draw(episode, which) for which in range(1 + config.maml)]],
            until=lambda entry: entry["accuracy"] > config.pretrain_accuracy,
            checkpoints=checkpoints and checkpoints / "pretrain",
            save_every=_SAVE_EPISODES,
            settings=lambda: {"task": "pretrain", "images": _digest(synthetic, labels, config.residual)},
            progress=progress,
            text=_episode_text,
        )
        self.pretrained_ = network
        return {"episodes": len(history), "accuracy": history[-1]["accuracy"], "loss": history[-1]["loss"]}

    def _fit(
        self, support: Sequence[Evidence], labels: np.ndarray, progress: Progress, checkpoints: Path | None
    ) -> None:
        config, shots = self.config, int(np.bincount(labels).max())
        network = self._start(_shape(support[0], config.residual))
        values = stacked(support, config.residual)
        per_step = config.queries_per_step or self.queries_of_each * (int(labels.max()) + 1)
        passes = self._passes(shots) if config.passes is None else config.passes

        def batches(number: int) -> list[list[list[Episode]]]:
            rng = np.random.default_rng((self.seed, _TUNE, number))
            return [[batch] for batch in steps(self._episodes(labels, rng), per_step)]

        if passes and shots > 1:
            self._train(
                network,
                lambda rows: values if np.array_equal(rows, np.arange(len(values))) else values[rows],
                epochs=passes,
                batches=batches,
                checkpoints=checkpoints and checkpoints / "fit",
                save_every=_SAVE_PASSES,
                settings=lambda: {
                    "task": "fit",
                    "images": _digest(support, labels, config.residual),
                    "start": _weights_digest(self.pretrained_),
                },
                progress=progress,
                text=lambda number, total, _: f"fine-tuning pass {number + 1} of {total}",
            )
        self.network_, self.support_labels_ = network, labels
        with torch.inference_mode():
            self._keep(lambda rows: values[rows].to(_device_of(network)), len(labels))

    def _train(self, network: torch.nn.Module, maps: Callable, settings: Callable, **options: Any):
        """`train_epochs` with Adam; a batch is a list of episodes, or two such lists for MAML."""
        accelerator = make_accelerator(mixed_precision=False)

        def read(rows: np.ndarray) -> torch.Tensor:
            return maps(rows).to(accelerator.device)

        def step(model: Any, batch: list[list[Episode]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            if len(batch) > 1:
                model = self._adapted(network, read, batch[0])
            loss, accuracy = self._loss(model, read, batch[-1])
            return loss, {"accuracy": accuracy}

        identity: dict[str, Any] = {}
        if options["checkpoints"] is not None:
            identity = {"head": self.name, "seed": self.seed, "config": dataclasses.asdict(self.config), **settings()}
        optimizer = torch.optim.Adam(network.parameters(), self.config.lr, fused=True)
        return train_epochs(network, optimizer, accelerator, step=step, settings=identity, **options)

    def _adapted(self, network: torch.nn.Module, maps: Maps, episodes: Sequence[Episode]) -> Callable:
        """The network after one gradient step on `episodes`; first-order, as its gradient is taken for a constant."""
        names, parameters = zip(*network.named_parameters(), strict=True)
        gradients = torch.autograd.grad(self._loss(network, maps, episodes)[0], parameters)
        adapted = {
            name: parameter - self.config.maml_lr * gradient
            for name, parameter, gradient in zip(names, parameters, gradients, strict=True)
        }
        return lambda *inputs: functional_call(network, adapted, inputs)

    def _new(self, shape: tuple[int, int]) -> torch.nn.Module:
        """A network for maps of (D, P) with the seed's random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.network_class(*shape).eval()

    def _start(self, shape: tuple[int, int]) -> torch.nn.Module:
        """What fine-tuning begins with. Raises InvalidArgumentError when that was pretrained on other patches."""
        if self.pretrained_ is None:
            return self._new(shape)
        expected = (self.pretrained_.channels, self.pretrained_.positions)
        _check_shape(shape, expected, "was pretrained on", "pretrain with the detector of the examples")
        return copy.deepcopy(self.pretrained_)

    # Prediction.

    def _mapped(self, evidence: Sequence[Evidence], function: Callable, width: int) -> np.ndarray:
        """`function` of maps (n, P, D), image by image in batches: (N, width) float32."""
        network, found = self.network_, [np.zeros((0, width), np.float32)]
        for start in range(0, len(evidence), _BATCH):
            values = stacked(evidence[start : start + _BATCH], self.config.residual)
            shape, expected = (values.shape[2], values.shape[1]), (network.channels, network.positions)
            _check_shape(shape, expected, "was fitted on", "use the detector of the examples")
            with torch.inference_mode():
                found.append(function(values.to(_device_of(network))).float().cpu().numpy())
        return np.concatenate(found)

    # Saved folders.

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        config, arrays = {}, {}
        for name in ("pretrained", "network"):
            network = getattr(self, f"{name}_", None)
            if network is not None:
                config[name] = [network.channels, network.positions]
                arrays |= {f"{name}.{key}": value.cpu().numpy() for key, value in network.state_dict().items()}
        if "network" in config:
            arrays["support.labels"] = self.support_labels_
        return {"networks": config}, arrays

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for name, (channels, positions) in config["networks"].items():
            network, prefix = self.network_class(int(channels), int(positions)), f"{name}."
            network.load_state_dict(
                {k[len(prefix) :]: torch.from_numpy(np.array(v)) for k, v in arrays.items() if k.startswith(prefix)}
            )
            setattr(self, f"{name}_", network.eval().to(device))
        if "network" in config["networks"]:
            self.support_labels_ = arrays["support.labels"]


def stacked(evidence: Sequence[Evidence], residual: bool) -> torch.Tensor:
    """Maps (N, P, D) float32. Raises InvalidArgumentError where patches are missing or differ in shape."""
    batch = patch_batch(evidence, residual)
    return torch.from_numpy(np.ascontiguousarray(batch.reshape(*batch.shape[:2], -1).transpose(0, 2, 1)))


def _shape(one: Evidence, residual: bool) -> tuple[int, int]:
    channels, height, width = one.patches(residual).shape
    return channels, height * width


def _check_shape(found: tuple[int, int], expected: tuple[int, int], did: str, remedy: str) -> None:
    if found != expected:
        raise InvalidArgumentError(
            f"the classifier {did} {expected[1]} patches of {expected[0]} channels and these images have {found[1]} of "
            f"{found[0]}: {remedy}"
        )


def _device_of(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


def _digest(evidence: Sequence[Evidence], labels: np.ndarray, residual: bool) -> str:
    """Of all patches and labels: a checkpoint belongs to them."""
    digest = hashlib.blake2b(labels.tobytes(), digest_size=16)
    for one in evidence:
        digest.update(np.ascontiguousarray(one.patches(residual)).data)
    return digest.hexdigest()


def _weights_digest(network: torch.nn.Module | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in () if network is None else network.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _episode_text(episode: int, _: int, history: list[dict[str, float]]) -> str:
    text = f"pretraining episode {episode + 1}"
    return f"{text}: accuracy {history[-1]['accuracy']:.2f}" if history else text
