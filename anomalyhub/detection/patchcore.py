"""PatchCore: distance of each patch to a coreset of normal patches.

Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from anomalyhub.detection.base import BackboneDetector, batches, report
from anomalyhub.detection.cross_fit import Fold, folds_for
from anomalyhub.detection.distributed import World
from anomalyhub.detection.patches import Aggregation, patch_features, upsample_scores
from anomalyhub.detection.support import VIEWS, view_batches
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress, part
from anomalyhub.registry import register_detector
from anomalyhub.search import CoresetPlan, NearestNeighbours, StreamingCoreset
from anomalyhub.types import AnomalyMap, Features, Sample

_FIT, _SELECTED = 0.5, 0.75  # where the progress bar stands when the patches are in, and when the bank is chosen

#: Whole-number settings from 1 to these.
_LARGEST = {
    "resize": 4096,
    "crop": 4096,
    "width": 16384,
    "projection": 16384,
    "reweight_neighbours": 1000,
    "byte_budget": 2**50,
    "batch_size": 4096,
    "n_probe": 2**20,
}


@dataclass(frozen=True)
class PatchCoreConfig:
    """Settings of PatchCore; defaults are those of Roth et al. unless a comment says otherwise."""

    layers: tuple[int, ...] | None = None  # None: strides 8 and 16, layers 2 and 3 of a ResNet (section 4.1)
    resize: int | None = None  # side of the square input; None: the backbone's own. The paper: 256 with crop 224
    crop: int | None = None  # None: no crop, which would hide the border (product default)
    aggregation: Aggregation = "mean"  # product default; "adaptive" is the published code's pooling
    width: int = 1024  # of an adaptive patch feature (published code)
    neighbourhood: int = 3  # p = 3, section 4.4.1
    coreset: float = 0.1  # share of the patches kept; liu2024 uses 10 %
    projection: int = 128  # d* of the random projection, section 3.2
    reweight: bool = False  # equation 7; published code leaves it out
    reweight_neighbours: int = 9  # b of equation 7
    sigma: float = 4.0  # of the map's smoothing, in pixels of the resized frame, section 3.3
    byte_budget: int = 2**30  # of buffer, bank and index while fitting (product default)
    index: Literal["auto", "flat", "ivf"] = "auto"  # "flat" is exact everywhere, "auto" exact up to 4096 bank rows
    n_probe: int | None = None  # cells of an inverted file that are searched
    storage: Literal["float32", "float16"] = "float32"
    augment: bool = False  # each normal image also grey, flipped, moved, turned, darker … (for a few; `support.VIEWS`)
    batch_size: int = 8
    calibration_images: int = 200  # at most so many normals are held out in turn for the threshold; 0: none

    def __post_init__(self):
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= largest:
                raise InvalidArgumentError(f"setting {name} must be between 1 and {largest}, got {value}")
        if not 0.0 < self.coreset <= 1.0:
            raise InvalidArgumentError(f"setting coreset is a share in (0, 1], got {self.coreset}: 0.1 keeps 10 %")
        if not 1 <= self.neighbourhood <= 15 or self.neighbourhood % 2 == 0:
            raise InvalidArgumentError(f"setting neighbourhood must be odd, from 1 to 15, got {self.neighbourhood}")
        if not 0.0 <= self.sigma <= 100.0:
            raise InvalidArgumentError(f"setting sigma must be between 0 and 100 pixels, got {self.sigma}")
        if self.calibration_images < 0:
            raise InvalidArgumentError(
                f"setting calibration_images must not be negative, got {self.calibration_images}"
            )
        if self.crop is not None and self.resize is not None and self.crop > self.resize:
            raise InvalidArgumentError(f"setting crop ({self.crop}) must not exceed resize ({self.resize})")


@register_detector
class PatchCore(BackboneDetector):
    """Scores an image by its patch farthest from a bank of normal patches.

    backbone  a Backbone, or a SPEC that is made on first use
    config    see PatchCoreConfig
    seed      fixes projection, coreset, folds and index

    Fitted: search_ (the bank and its index), segments_ (bank rows from `fit`, then from each `append`), plan_ (what the
    selection took), held_out_scores_ and held_out_peaks_ (n,) float32: image score and map maximum of normal images
    scored by banks that have never seen them; empty when fitted on a stream of unknown length or on one image.
    """

    name = "patchcore"
    title = "PatchCore"
    config_class = PatchCoreConfig
    needs = "normals"
    transductive = False
    plans = True  # what `fit` reports first says what the work will take

    def fit(self, samples: Iterable[Sample], progress: Progress | None = None) -> PatchCore:
        """Build the bank from normal images; masks and labels are not read.

        `samples` is read once as a stream; a sequence is read again in part, to score held-out images. Under
        `accelerate launch` or torchrun each process takes its share of a sequence and all end with the same bank.
        Raises InvalidArgumentError when there is no image, or when the budget is too small for a bank.
        """
        world = World()
        n_images = len(samples) if isinstance(samples, Sized) and hasattr(samples, "__getitem__") else None
        if world.size > 1 and n_images is None:
            raise InvalidArgumentError("several processes need a sequence of samples, not a stream: pass a list")
        if n_images and n_images < world.size:
            raise InvalidArgumentError(
                f"{n_images} images do not keep {world.size} processes busy: start at most one process per image"
            )
        folds = folds_for(n_images, self.config.calibration_images, self.seed) if n_images else []
        fold_of = {image: fold.number for fold in folds for image in fold.images}
        coreset: StreamingCoreset | None = None
        plan = None
        own = samples if n_images is None else _Share(samples, range(world.rank, n_images, world.size))
        for images, numbers in view_batches(own, self.config.batch_size, self.config.augment):
            rows = self._patches(images)
            if coreset is None:
                coreset = self._coreset(rows.shape[-1])
                per_view = rows.shape[1] * rows.shape[2]
                per_image = per_view * (len(VIEWS) if self.config.augment else 1)
                plan = coreset.plan(per_image * (n_images or 1))
                if n_images:
                    coreset.reserve(per_image * len(own))
                    report(progress, 0.0, str(plan))
            groups = [fold_of.get(world.rank + number * world.size, -1) for number in numbers]
            coreset.add(rows.reshape(-1, rows.shape[-1]), np.repeat(groups, per_view))
            done = numbers[-1] + 1
            share = done / len(own) if n_images else 0.5
            report(progress, _FIT * share, f"features {done}" + (f" of {len(own)} images" if n_images else " images"))
        if coreset is None:
            raise InvalidArgumentError("PatchCore needs normal images and got none: give at least 2")
        coreset = self._united(coreset, world)
        bank = coreset.select(progress=part(progress, _FIT, _SELECTED))
        scores, peaks = self._cross_fit(samples, folds, coreset, world, part(progress, _SELECTED, 1.0))
        self.search_ = self._index(bank)
        self.segments_: tuple[int, ...] = (len(bank),)
        self.plan_: CoresetPlan | None = plan if n_images else coreset.plan(coreset.n_seen)
        self.held_out_scores_, self.held_out_peaks_ = scores, peaks
        report(progress, 1.0, f"bank of {len(bank):,} patches")
        return self

    def predict(self, samples: Iterable[Sample]) -> list[AnomalyMap]:
        """One map per sample, in the image's own frame; the score is the largest patch distance (Euclidean)."""
        self._fitted()
        return [
            result
            for batch in batches(samples, self.config.batch_size)
            for result in self._score([sample.image for sample in batch], self.search_)
        ]

    def append(self, samples: Iterable[Sample], progress: Progress | None = None) -> PatchCore:
        """Add normal images to the bank: of their patches the share that is farthest from it.

        The threshold's held-out scores stay as they are: a larger bank can only lower the scores of normal images.
        """
        self._fitted()
        coreset = self._coreset(self.search_.bank_.shape[1])
        for done, (images, _) in enumerate(view_batches(samples, self.config.batch_size, self.config.augment)):
            rows = self._patches(images)
            coreset.add(rows.reshape(-1, rows.shape[-1]))
            report(progress, 0.5, f"features of batch {done + 1}")
        if coreset.n_seen == 0:
            raise InvalidArgumentError("append needs normal images and got none: give at least 1")
        bank = self.search_.bank_.astype(np.float32)
        new = coreset.select(initial=bank, progress=part(progress, 0.5, 1.0))
        self.search_ = self._index(np.concatenate([bank, new]), self.search_.centroids_)
        self.segments_ = (*self.segments_, len(new))
        return self

    def undo_append(self) -> PatchCore:
        """Take the last append back; the bank is then what it was. Raises InvalidArgumentError without one."""
        self._fitted()
        if len(self.segments_) < 2:
            raise InvalidArgumentError("there is no append to undo: this bank is as it was fitted")
        *kept, _ = self.segments_
        bank = self.search_.bank_[: sum(kept)].astype(np.float32)
        self.search_ = self._index(bank, self.search_.centroids_)
        self.segments_ = tuple(kept)
        return self

    def residual_features(
        self, samples: Iterable[Sample], clean: Iterable[np.ndarray] | None = None
    ) -> Iterator[Features]:
        """Per sample one (D, h, w) map of residuals (liu2024, section 3.2), see `examine`."""
        return (residual for _, _, residual in self.examine(samples, clean))

    def examine(
        self, samples: Iterable[Sample], clean: Iterable[np.ndarray] | None = None
    ) -> Iterator[tuple[AnomalyMap, Features, Features]]:
        """`predict` with what led to it, in one pass: per sample its map, patch features and residuals, (D, h, w) each.

        A residual is a patch minus its nearest bank entry.
        clean  per sample the image it was made from, (H, W, 3) uint8: residuals are then the differences to its patches
               at the same places (published code of liu2024, for synthetic defects)
        """
        self._fitted()
        clean = None if clean is None else iter(clean)
        for batch in batches(samples, self.config.batch_size):
            images = [sample.image for sample in batch]
            patches = self._patches(images)
            found, nearest = self._maps(images, patches, self.search_)
            normal = self.search_.bank_[nearest] if clean is None else self._patches([next(clean) for _ in batch])
            for result, level, residual in zip(found, patches, patches - normal.reshape(patches.shape), strict=True):
                yield result, _features(level), _features(residual)

    def window(self, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
        """x0 y0 x1 y1, as shares of an (H, W) image, of what the network sees: all of it without the setting `crop`."""
        config, (height, width) = self.config, shape[:2]
        if config.crop is None:
            return 0.0, 0.0, 1.0, 1.0
        scale = (config.resize or self._backbone().size) / min(height, width)
        x, y = (min(1.0, config.crop / (scale * side)) / 2 for side in (width, height))
        return 0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {"bank": self.search_.bank_, "scores": self.held_out_scores_, "peaks": self.held_out_peaks_}
        if self.search_.centroids_ is not None:
            arrays["centroids"] = self.search_.centroids_
        plan = dataclasses.asdict(self.plan_) if self.plan_ else None
        return {"segments": self.segments_, "plan": plan}, arrays

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.search_ = self._index(arrays["bank"].astype(np.float32), arrays.get("centroids"))
        self.segments_ = tuple(int(rows) for rows in config["segments"])
        if sum(self.segments_) != len(self.search_.bank_):
            raise ValueError("bank and segments differ")
        self.plan_ = CoresetPlan(**config["plan"]) if config.get("plan") else None
        self.held_out_scores_, self.held_out_peaks_ = arrays["scores"], arrays["peaks"]

    def _coreset(self, dim: int) -> StreamingCoreset:
        return StreamingCoreset(
            dim,
            fraction=self.config.coreset,
            byte_budget=self.config.byte_budget,
            projection=self.config.projection,
            seed=self.seed,
            device=self._backbone().device,
        )

    def _index(self, bank: np.ndarray, centroids: np.ndarray | None = None) -> NearestNeighbours:
        search = NearestNeighbours(
            self.config.index, n_probe=self.config.n_probe, storage=self.config.storage, seed=self.seed
        )
        return search.fit(bank, centroids)

    @torch.inference_mode()
    def _patches(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(B, h, w, D) float32 patch features."""
        backbone, config = self._backbone(), self.config
        maps = backbone.feature_maps(backbone.preprocess(images, config.resize, config.crop))
        return patch_features(maps, config.aggregation, config.width, config.neighbourhood).cpu().numpy()

    def _score(self, images: Sequence[np.ndarray], search: NearestNeighbours) -> list[AnomalyMap]:
        return self._maps(images, self._patches(images), search)[0]

    def _maps(
        self, images: Sequence[np.ndarray], patches: np.ndarray, search: NearestNeighbours
    ) -> tuple[list[AnomalyMap], np.ndarray]:
        """Maps of the images, and the bank row (B, P) nearest to each of their patches (B, h, w, D)."""
        count, height, width, dim = patches.shape
        rows = patches.reshape(count, height * width, dim)
        distances, nearest = search.query(rows.reshape(-1, dim))
        distances, nearest = distances[:, 0].reshape(count, -1), nearest[:, 0].reshape(count, -1)
        results = []
        for i, image in enumerate(images):
            best, score = search.farthest(rows[i], distances[i])
            if self.config.reweight:
                score *= self._weight(rows[i, best], search)
            scores = upsample_scores(
                distances[i].reshape(height, width),
                image.shape[:2],
                resize=self.config.resize or self._backbone().size,
                crop=self.config.crop,
                sigma=self.config.sigma,
            )
            results.append(AnomalyMap(scores, score))
        return results, nearest

    def _weight(self, patch: np.ndarray, search: NearestNeighbours) -> float:
        """1 - softmax of the distance over the neighbourhood of the nearest bank entry (equation 7)."""
        distance, nearest = search.query_exact(patch[None])
        _, around = search.query_exact(search.bank_[nearest[0]].astype(np.float32), self.config.reweight_neighbours)
        to_patch = np.linalg.norm(search.bank_[around[0]].astype(np.float32) - patch, axis=1)
        return float(1.0 - 1.0 / max(np.exp(to_patch - distance[0, 0]).sum(), 1.0))

    def _united(self, coreset: StreamingCoreset, world: World) -> StreamingCoreset:
        """The coreset of all processes: each reduces its own, the union is selected from once more."""
        if world.size == 1:
            return coreset
        rows, groups, seen = coreset.compact()
        united = self._coreset(rows.shape[1])
        for share in zip(world.gather(rows), world.gather(groups), world.gather_counts(seen), strict=True):
            united.merge(*share)
        return united

    def _cross_fit(
        self,
        samples: Iterable[Sample],
        folds: Sequence[Fold],
        coreset: StreamingCoreset,
        world: World,
        progress: Progress,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and map maxima of held-out images, each by a bank selected without their fold."""
        values: list[tuple[float, float]] = []
        for fold in folds:
            start, end = fold.number / len(folds), (fold.number + 1) / len(folds)
            progress(start, f"threshold: fold {fold.number + 1} of {len(folds)}")
            steps = part(progress, start, (start + end) / 2)  # so that a long selection can be cancelled
            search = self._index(coreset.select(without=fold.number, progress=steps))
            own = _Share(samples, fold.images[world.rank :: world.size])
            for done, batch in enumerate(batches(own, self.config.batch_size)):
                maps = self._score([sample.image for sample in batch], search)
                values += [(result.image_score, float(result.scores.max())) for result in maps]
                share = min(1.0, (done + 1) * self.config.batch_size / len(own))
                progress(start + (end - start) * (0.5 + 0.5 * share), f"threshold: fold {fold.number + 1}")
        table = np.array(values, np.float32).reshape(-1, 2)
        table = np.concatenate(world.gather(table)) if world.size > 1 else table
        return table[:, 0].copy(), table[:, 1].copy()


def _features(level: np.ndarray) -> Features:
    """(h, w, D) patches as Features."""
    return Features((np.ascontiguousarray(level.transpose(2, 0, 1), np.float32),))


class _Share(Sequence):
    """Some items of a sequence, in the given order, read when they are asked for."""

    def __init__(self, items: Any, indices: Sequence[int]):
        self.items, self.indices = items, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index):
        return self.items[self.indices[index]]

    def __iter__(self):
        return (self.items[index] for index in self.indices)  # the mixin's takes an item's IndexError for the end
