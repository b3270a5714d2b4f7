"""AnomalyNCD: kinds of defect by mask-guided contrastive learning (Huang et al., 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from anomalyhub.discovery.base import (
    BaseDiscoverer,
    DiscoveryConfig,
    check_input,
    discoverers,
    report,
)
from anomalyhub.discovery.clustering import ClusteringConfig
from anomalyhub.discovery.grouping import k_means, order_by_score
from anomalyhub.discovery.network import (
    Adapter,
    Front,
    LastBlocks,
    Network,
    Trunk,
    descriptor_front,
    unit_features,
)
from anomalyhub.discovery.objective import Objective
from anomalyhub.discovery.training import Training
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.descriptor import (
    Descriptor,
    Embedder,
    linear_arrays,
    linear_from,
    mapped,
    views_to_compare,
    whitening,
)
from anomalyhub.protocols import Progress
from anomalyhub.types import SubImage

# Where the progress bar stands when sub-images are described, views compared, the training started and ended.
_DESCRIBED, _COMPARED, _TRAIN, _TRAINED = 0.05, 0.15, 0.2, 0.9


@dataclass(frozen=True)
class AnomalyNCDConfig(DiscoveryConfig):
    """Settings of AnomalyNCD; defaults are those of Huang et al. (section IV-A2) unless a comment says otherwise.

    The loss is balance * (supervised contrastive + cross-entropy) + (1 - balance) * (InfoNCE + self-distillation + mean
    entropy), each times its weight; a weight of 0 switches a term off.
    """

    calibrate: bool = False  # probabilities at the student's temperature
    use_base: bool = True  # table IX
    descriptor: Literal["class_token", "salient"] = "class_token"  # what is classified: see `AnomalyNCD`
    train_blocks: int = 1  # blocks at the end that train; with "salient", 0 freezes the linear map
    n_heads: int = 4  # published code
    head_init: Literal["random", "kmeans"] = "random"  # "kmeans": novel prototypes start at cluster centres
    projection_hidden: int = 2048  # published code
    projection_out: int = 256  # published code
    balance: float = 0.3  # lambda of equation 9
    weight_supervised_contrastive: float = 1.0
    weight_cross_entropy: float = 1.0
    weight_info_nce: float = 1.0
    weight_self_distillation: float = 1.0
    weight_mean_entropy: float = 4.0  # mu of equation 9
    temperature_info_nce: float = 1.0  # published code, which made the tables; the text says 0.07
    temperature_supervised: float = 0.07  # published code, which made the tables; the text says 1.0
    temperature_student: float = 0.1
    temperature_teacher: float = 0.07
    temperature_teacher_last: float = 0.04
    teacher_epochs: int = 40  # until the last temperature
    teacher_step: int = 4  # epochs between its changes
    correct_pseudo_labels: bool = True  # equation 4, table VIII
    epochs: int = 50
    batch_size: int = 32  # over all processes
    base_share: float = 0.5  # chance that a sub-image is drawn from the base set (published code: balanced)
    samples_per_epoch: int | None = None  # None: as many as there are sub-images
    lr: float = 0.003
    lr_last: float = 1e-3  # published code: cosine to this share of lr
    momentum: float = 0.9  # published code
    weight_decay: float = 5e-5  # published code
    cache_views: int = 0  # views per sub-image that go through the trunk at a time; 0: every view of every step does
    cache_epochs: int = 25  # until other views are drawn
    cache_bytes: int = 2**31  # of tokens held; where they do not fit, fewer sub-images are, and changed more often

    def __post_init__(self):
        super().__post_init__()
        for name in ("n_heads", "projection_hidden", "projection_out", "teacher_epochs", "teacher_step", "epochs"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"setting {name} must be at least 1, got {getattr(self, name)}")
        for name in ("batch_size", "cache_epochs", "cache_bytes"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"setting {name} must be at least 1, got {getattr(self, name)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("temperature_") and not value > 0:
                raise InvalidArgumentError(f"setting {field.name} must be above 0, got {value}")
            if field.name.startswith("weight_") and not value >= 0:
                raise InvalidArgumentError(f"setting {field.name} must not be negative, got {value}")
        for name in ("balance", "base_share", "lr_last", "momentum"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidArgumentError(f"setting {name} must be between 0 and 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise InvalidArgumentError(f"setting lr must be above 0, got {self.lr}")
        if self.train_blocks < 0 or self.cache_views < 0 or self.cache_views == 1:
            raise InvalidArgumentError("settings train_blocks and cache_views must be 0 or more, cache_views not 1")
        if self.samples_per_epoch is not None and self.samples_per_epoch < 1:
            raise InvalidArgumentError(f"setting samples_per_epoch must be at least 1, got {self.samples_per_epoch}")


@discoverers.register
class AnomalyNCD(BaseDiscoverer):
    """Trains the last block of a mask-guided transformer and several classifiers on views of the sub-images.

    The kind with the first name collects sub-images with low anomaly scores, so it is the normal one if there is one.
    See `BaseDiscoverer` for the arguments and for the rest of what is fitted.

    With `descriptor` "class_token", the method: the class token after the last block, which trains. With "salient", the
    default here: what `Clustering` describes frozen (see ClusteringConfig), whitened by views with `whiten_views`, and
    then a linear map, which trains.

    Fitted: tail_ (the trained last blocks or the linear map), whitening_ (the frozen map before it, or None), history_
    (losses and views per epoch), head_losses_ (H,) and head_ (the head with the smallest clustering loss in the last
    epoch, which predicts), base_classes_ (names).
    """

    name = "anomalyncd"
    config_class = AnomalyNCDConfig
    presets = {
        "paper": {},
        "default": {
            "descriptor": "salient",
            "centre_crop": False,
            "whiten_views": 1024,
            "head_init": "kmeans",  # random ones do not get anywhere in 50 epochs at this learning rate
            "projection_hidden": 512,
            "weight_mean_entropy": 0.1,  # 4 makes classes equally large, which they are not
            "cache_views": 4,
            "cache_epochs": 50,
            "calibrate": True,
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
        checkpoints: Path | None = None,
    ) -> AnomalyNCD:
        """Discover `n_novel` kinds among the unlabelled sub-images; normal is one of them if it occurs.

        base, base_labels  sub-images of other products' defects and their classes; None trains without
        checkpoints        a folder that is written every epoch and read first: an interrupted fit with the same
                           arguments goes on from it to the same result
        Under `accelerate launch` each process trains on its share of the sub-images, and all end with the same model.
        Raises InvalidArgumentError (input, divergence), InvalidModelError (a foreign checkpoint), and what `progress`
        raises; a fit that raises changes nothing of what was fitted before.
        """
        check_input("AnomalyNCD", unlabelled, n_novel)
        base, labels, base_classes = self._base(base, base_labels)
        accelerator = self._accelerator()
        guided = self._guided()
        if self.config.train_blocks > len(guided.vit.blocks):
            raise InvalidArgumentError(
                f"setting train_blocks is {self.config.train_blocks} and this transformer has "
                f"{len(guided.vit.blocks)} blocks: give at most as many"
            )
        front, tail, linear = self._front(unlabelled, guided, accelerator, progress)
        n_novel, curve, network = self._start(
            unlabelled, n_novel, len(base_classes), front, tail, accelerator, progress
        )
        training = Training(
            network,
            Trunk(self._backbone(), front, self.config.augmentations or ()),
            Objective(self.config, len(base_classes)),
            self.config,
            self.seed,
            [*unlabelled, *base],
            np.concatenate([np.full(len(unlabelled), -1), labels]).astype(np.int64),
            accelerator,
            None if checkpoints is None else Path(checkpoints),
            {**dataclasses.asdict(self.config), "n_novel": n_novel, "weights": self._backbone().fingerprint},
        )
        training.run(lambda done, text: report(progress, _TRAIN + (_TRAINED - _TRAIN) * done, text))
        embedder = unit_features(front, tail)
        embeddings = self._shared(accelerator, embedder, unlabelled, None, progress, (_TRAINED, 0.95))
        augmented = None
        if self.config.calibrate:
            augmented = self._shared(accelerator, embedder, unlabelled, range(len(unlabelled)), progress, (0.95, 1.0))
        head = int(np.argmin(training.head_losses))
        prototypes = network.heads.prototypes[head, len(base_classes) :].detach().cpu().numpy()
        report(progress, 1.0, f"{n_novel} kinds among {len(unlabelled)} sub-images")  # the last that may raise
        self.tail_, self.whitening_ = tail.requires_grad_(False), linear
        self.history_, self.head_, self.head_losses_ = training.history, head, training.head_losses
        self.base_classes_ = base_classes
        labels = (embeddings @ prototypes.T).argmax(axis=1)
        self._finish(unlabelled, embeddings, labels, prototypes, augmented, self.config.temperature_student, curve)
        return self

    def _base(self, base: Sequence[SubImage] | None, names: Sequence[str] | None):
        """Base sub-images, their classes (N,) int64 and the classes' names; nothing where they are not used."""
        base, names = list(base or ()), list(names or ())
        if len(base) != len(names):
            raise InvalidArgumentError(f"base has {len(base)} sub-images and base_labels {len(names)}: give one each")
        if not base or not self.config.use_base:
            return [], np.zeros(0, np.int64), ()
        classes, labels = np.unique(names, return_inverse=True)
        return base, labels, tuple(map(str, classes))

    def _accelerator(self):
        from accelerate import Accelerator

        return Accelerator(cpu=self._backbone().device.type == "cpu")

    def _front(self, unlabelled, guided, accelerator, progress) -> tuple[Front, Adapter | LastBlocks, Any]:
        """What comes before what trains, what trains of the features, and the whitening (or None)."""
        config = self.config
        if config.descriptor == "class_token":
            tail = LastBlocks(guided, config.train_blocks).to(self._backbone().device)
            return tail.front(), tail, None
        describe, linear = Descriptor(guided, ClusteringConfig()), None
        embeddings = self._shared(
            accelerator, describe, unlabelled[: None if config.whiten_views else 1], None, progress, (0.0, _DESCRIBED)
        )
        if config.whiten_views:
            rows, keys = views_to_compare(len(unlabelled), config.whiten_views, self.seed)
            shown = [unlabelled[row] for row in rows]
            views = self._shared(accelerator, describe, shown, keys, progress, (_DESCRIBED, _COMPARED))
            linear = whitening(embeddings, rows, views).to(self._backbone().device)
        tail = Adapter(embeddings.shape[1], config.train_blocks).to(self._backbone().device)
        return self._described(guided, linear), tail, linear

    def _described(self, guided, linear) -> Front:
        describe = Descriptor(guided, ClusteringConfig())
        return descriptor_front(describe if linear is None else mapped(describe, linear))

    def _start(self, unlabelled, n_novel, n_base: int, front, tail, accelerator, progress):
        """The number of novel classes, the curve it was read from, and the network before training."""
        config, curve, tokens = self.config, {}, None
        if n_novel == "auto" or config.head_init == "kmeans":
            tokens = self._shared(
                accelerator, unit_features(front, tail), unlabelled, None, progress, (_COMPARED, _TRAIN)
            )
            n_novel, curve = self._count(n_novel, tokens, unlabelled)
        n_novel = int(n_novel)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = Network(
                tail, n_base + n_novel, config.n_heads, config.projection_hidden, config.projection_out
            ).to(self._backbone().device)
        if config.head_init == "kmeans":
            for head in range(config.n_heads):
                labels = order_by_score(k_means(tokens, n_novel, self.seed + head), unlabelled)
                centres = np.stack([tokens[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
                with torch.no_grad():
                    network.heads.weight[head, n_base : n_base + len(centres)] = torch.from_numpy(centres)
        return n_novel, curve, network

    def _shared(self, accelerator, embedder, sub_images, keys, progress, span: tuple[float, float]):
        """`_embed` of the plain views, or with `keys` of random ones, each process its part."""
        count, world = len(sub_images), accelerator.num_processes
        own = [index % count for index in range(accelerator.process_index, -(-count // world) * world, world)]
        text = "describing sub-images" if keys is None else "comparing views"
        part = self._embed(
            embedder,
            [sub_images[index] for index in own],
            keys=None if keys is None else [keys[index] for index in own],
            tick=lambda done: report(progress, span[0] + (span[1] - span[0]) * done, text),
        )
        if world == 1:
            return part
        rows = accelerator.gather(torch.from_numpy(part).to(accelerator.device)).cpu().numpy()
        return np.ascontiguousarray(
            rows.reshape(world, -1, rows.shape[1]).transpose(1, 0, 2).reshape(-1, rows.shape[1])[:count]
        )

    def _embedder(self) -> Embedder:
        return unit_features(self._before(), self.tail_)

    def _before(self) -> Front:
        if isinstance(self.tail_, LastBlocks):
            return self.tail_.front()
        return self._described(self._guided(), self.whitening_)

    def _extra_config(self) -> dict[str, Any]:
        return {
            "history": self.history_,
            "head": self.head_,
            "head_losses": self.head_losses_,
            "base_classes": self.base_classes_,
        }

    def _extra_arrays(self) -> dict[str, np.ndarray]:
        tail = {f"tail.{name}": value.cpu().numpy() for name, value in self.tail_.state_dict().items()}
        return tail | linear_arrays("whitening", self.whitening_)

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.history_, self.head_ = config["history"], int(config["head"])
        self.head_losses_, self.base_classes_ = config["head_losses"], tuple(config["base_classes"])
        state = {name[5:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("tail.")}
        device = self._backbone().device
        if self.config.descriptor == "class_token":
            tail: LastBlocks | Adapter = LastBlocks(self._guided(), self.config.train_blocks)
        else:
            tail = Adapter(len(state["weight"]), self.config.train_blocks)
        tail.load_state_dict(state)
        self.tail_ = tail.requires_grad_(False).to(device)
        self.whitening_ = linear_from("whitening", arrays, device)
