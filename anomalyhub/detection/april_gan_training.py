"""Training of APRIL-GAN's linear layers on other products' defects and their masks.

Chen et al., A Zero-/Few-Shot Anomaly Classification and Segmentation Method, CVPR 2023 workshop VAND, section 3.1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anomalyhub.backbones.clip import ClipBackbone, require_clip
from anomalyhub.detection.april_gan_layers import TRAINER, LinearLayers, layer_state, upsample
from anomalyhub.detection.base import Trainer, check_range
from anomalyhub.detection.prompts import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES, check_prompts, text_features
from anomalyhub.detection.provenance import Provenance, digest
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, NotFittedError
from anomalyhub.nn.losses import dice, focal
from anomalyhub.nn.training import make_accelerator, train_epochs
from anomalyhub.protocols import Progress, part
from anomalyhub.registry import trainers
from anomalyhub.state import write_state
from anomalyhub.types import GOOD, Sample

_ORDER, _MOSAIC = 1, 2  # the second number of the random keys
_BETAS = (0.5, 0.999)  # published code
_READ = 0.1  # where the progress bar stands when the training images have been looked at


@dataclass(frozen=True)
class AprilGanTrainingConfig:
    """Settings of the training; defaults are those of section 3.1 unless a comment says otherwise."""

    layers: tuple[int, ...] | None = None  # None: four spread evenly; 6, 12, 18, 24 of a ViT-L
    resize: int = 518  # side of the square input and of the masks
    epochs: int = 3  # on MVTec AD; 15 on VisA
    batch_size: int = 16  # over all processes
    lr: float = 1e-3
    mosaic: float = 0.2  # share of the images that four of the product replace, two by two
    mixed_precision: bool = True  # where the device has it (product default)
    normal_states: tuple[str, ...] = NORMAL_STATES
    abnormal_states: tuple[str, ...] = ABNORMAL_STATES
    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self):
        check_range("resize", self.resize, 2, 4096)
        check_range("epochs", self.epochs, 1, 100_000)
        check_range("batch_size", self.batch_size, 1, 4096)
        check_range("mosaic", self.mosaic, 0.0, 1.0)
        check_prompts("object", self.normal_states, self.abnormal_states, self.templates)
        if not 0.0 < self.lr <= 10.0:
            raise InvalidArgumentError(f"setting lr must be above 0 and at most 10, got {self.lr}")


@trainers.register
class AprilGanTrainer(Trainer):
    """Trains one linear layer per tapped block of a frozen CLIP so that patches resemble the right prompts.

    backbone  a ClipBackbone, or a SPEC such as "clip" that is made on first use
    config    see AprilGanTrainingConfig
    seed      fixes initial weights, order and mosaics

    Fitted: tensors_ (the linear layers), history_ (one entry per epoch: loss, focal, dice, lr), provenance_, left_out_
    (PRODUCT/ID of images without a mask that are not known to be good).
    """

    name = TRAINER
    title = "APRIL-GAN"
    split = "test"
    config_class = AprilGanTrainingConfig
    default_backbone = "clip"

    def fit(
        self,
        products: Mapping[str, Sequence[Sample]],
        progress: Progress | None = None,
        checkpoints: Path | None = None,
    ) -> AprilGanTrainer:
        """Train on good and defective images by product, which the prompts name with spaces for underscores.

        A good image needs no mask; a defective one without a mask is left out. Every image is decoded once beforehand
        and once or, for a mosaic, four times per epoch.
        checkpoints  folder from which an interrupted fit goes on to the same result; None keeps nothing
        Raises InvalidDatasetError when no defect with a mask is left, InvalidArgumentError for a backbone that is no
        CLIP, for a product name that CLIP cannot read, and for more processes than a batch has images.
        """
        config, backbone = self.config, self._backbone()
        texts = {
            product: text_features(
                backbone, product.replace("_", " "), config.normal_states, config.abnormal_states, config.templates
            )
            for product in products
        }
        source = _Source.of(products, part(progress, 0.0, _READ))
        accelerator = make_accelerator(config.mixed_precision)
        rank, world = accelerator.process_index, accelerator.num_processes
        if min(map(len, _split(source.items, config.batch_size))) < world:
            raise InvalidArgumentError(
                f"batches of {config.batch_size} of {len(source.items)} images do not keep {world} processes busy: "
                "raise batch_size, or start fewer"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = LinearLayers(backbone.channels, backbone.embed_dim)

        def step(model: Any, batch: list[tuple[int, int]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            examples = [self._example(source, epoch, item) for epoch, item in batch]
            maps, _ = backbone.encode(backbone.preprocess([image for image, _ in examples], config.resize))
            text = torch.stack([texts[source.items[item][0]] for _, item in batch])
            masks = torch.from_numpy(np.stack([mask for _, mask in examples]))
            device = accelerator.device
            return objective(model([level.to(device) for level in maps], text.to(device)), masks.to(device))

        history = train_epochs(
            module,
            torch.optim.Adam(module.parameters(), config.lr, betas=_BETAS),
            accelerator,
            epochs=config.epochs,
            batches=lambda epoch: [
                [(epoch, item) for item in batch[rank::world].tolist()]
                for batch in _split(self._rng(_ORDER, epoch).permutation(len(source.items)), config.batch_size)
            ],
            step=step,
            checkpoints=checkpoints,
            settings={**self._settings(self._origin()), "data": source.digest},
            progress=part(progress, _READ, 1.0),
        )
        self.tensors_ = {name: value.cpu().numpy() for name, value in module.state_dict().items()}
        self.history_, self.provenance_, self.left_out_ = history, source.provenance, source.left_out
        self.origin_ = self._origin()
        return self

    def save(self, folder: Path) -> None:
        """Write the folder that the detector takes as its setting `weights`."""
        if not hasattr(self, "tensors_"):
            raise NotFittedError(f"{self.title} is not trained: call fit() first")
        extra, arrays = self.provenance_.state()
        settings = {**self._settings(self.origin_), "backbone": self.origin_}
        config = {"kind": "pretrained", **settings, "history": self.history_, "left_out": self.left_out_}
        write_state(folder, {**config, **extra}, {**arrays, **self.tensors_})

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.tensors_ = {name: value.numpy() for name, value in layer_state(arrays, "the state").items()}
        provenance = Provenance.restore(config, arrays)
        if provenance is None:
            raise ValueError("trained_on is missing")
        self.provenance_, self.left_out_ = provenance, list(config["left_out"])

    def _settings(self, origin: Mapping[str, Any]) -> dict[str, Any]:
        """What the result depends on besides the images."""
        return {
            "trainer": self.name,
            "backbone": {"fingerprint": origin["fingerprint"], "layers": origin["layers"]},
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
        }

    def _backbone(self) -> ClipBackbone:
        return require_clip(super()._backbone(), self.title)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *key))

    def _example(self, source: _Source, epoch: int, item: int) -> tuple[np.ndarray, np.ndarray]:
        """The image, or the mosaic that it becomes in this epoch, and its mask (resize, resize)."""
        rng, side = self._rng(_MOSAIC, epoch, item), self.config.resize
        image, mask = source.load(item)
        if rng.random() >= self.config.mosaic:
            return image, resized_mask(mask, side, side)
        others = rng.choice(source.same_product(item), 3)
        images, masks = zip((image, mask), *map(source.load, others), strict=True)
        return mosaic(images, masks, side)


@dataclass(frozen=True, eq=False)
class _Source:
    """The usable training images.

    items     (product, position in it) of each       left_out  PRODUCT/ID of those without a mask
    digest    of products, images and masks
    """

    products: Mapping[str, Sequence[Sample]]
    items: list[tuple[str, int]]
    left_out: list[str]
    provenance: Provenance
    digest: str

    @classmethod
    def of(cls, products: Mapping[str, Sequence[Sample]], progress: Progress) -> _Source:
        """Decodes every image once. Raises InvalidDatasetError when there is no defect to learn from."""
        items, left_out, digests, hashed, defects = [], [], set(), hashlib.sha256(), 0
        total = sum(map(len, products.values()))
        for product, samples in products.items():
            for position, sample in enumerate(samples):
                mask = _mask_of(sample)
                if mask is None:
                    left_out.append(f"{product}/{sample.id}")
                else:
                    items.append((product, position))
                    digests.add(digest(sample.image))
                    defects += bool(mask.any())
                    hashed.update(f"{product} {digest(sample.image)}".encode() + np.packbits(mask).tobytes())
                note = f", {len(left_out)} without a mask left out" if left_out else ""
                progress((len(items) + len(left_out)) / total, f"images {len(items)} of {total}{note}")
        if not defects:
            raise InvalidDatasetError(
                f"none of the {total} images of {', '.join(products) or 'no product'} has a defect with a mask: "
                "train on products with ground-truth masks"
            )
        names = tuple(sorted({product for product, _ in items}))
        provenance = Provenance(names, np.array(sorted(digests), np.uint64))
        return cls(products, items, left_out, provenance, hashed.hexdigest())

    def load(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) and mask (H, W)."""
        product, position = self.items[item]
        sample = self.products[product][position]
        return sample.image, _mask_of(sample)

    def same_product(self, item: int) -> list[int]:
        """All items of its product, itself included."""
        return [number for number, (product, _) in enumerate(self.items) if product == self.items[item][0]]


def objective(margins: Sequence[torch.Tensor], masks: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Focal (gamma 2) plus dice loss of the abnormal probability at the masks' size, summed over layers; and the two.

    margins  (B, h, w) per layer, the logits of that probability; masks (B, H, W) bool
    """
    logits = [upsample(level, masks.shape[1:]) for level in margins]
    terms = {
        "focal": sum(focal(level, masks) for level in logits),
        "dice": sum(dice(level.sigmoid(), masks) for level in logits),
    }
    return terms["focal"] + terms["dice"], terms


def mosaic(images: Sequence[np.ndarray], masks: Sequence[np.ndarray], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Four images (H, W, 3) uint8 and masks (H, W) bool, row by row in 2 x 2, as one of side x side pixels."""
    image, mask = np.empty((side, side, 3), np.uint8), np.empty((side, side), bool)
    halves = (slice(0, side // 2), slice(side // 2, side))
    for (rows, columns), one, own in zip(itertools.product(halves, halves), images, masks, strict=True):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        image[rows, columns] = np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC))
        mask[rows, columns] = resized_mask(own, width, height)
    return image, mask


def resized_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W) bool to (height, width) bool, nearest."""
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _mask_of(sample: Sample) -> np.ndarray | None:
    """The mask, all False for a good image without one; None where nobody knows."""
    if sample.mask is None and sample.label == GOOD:
        return np.zeros(sample.image.shape[:2], bool)
    return sample.mask


def _split(order: Sequence, batch_size: int) -> list[np.ndarray]:
    """Batches of nearly equal size, at most `batch_size`: a last one of two images would pull as hard as a full one."""
    return np.array_split(order, math.ceil(len(order) / batch_size))
