"""The category-agnostic few-shot detector: an image against a bank of a few normal ones, stage by stage.

Ejaz, category-agnostic few-shot visual anomaly detection (2024), chapters 4 and 5. The network is trained once on
normal images of many products (`siamese_training`); a new product needs a few normal images and no training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.detection.base import BackboneDetector, batches, check_range, report
from anomalyhub.detection.cross_fit import Fold, folds_for
from anomalyhub.detection.patches import upsample_scores
from anomalyhub.detection.siamese_training import Trained
from anomalyhub.detection.support import view_batches
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.siamese import SiameseNetwork, stage_layers, warp_back
from anomalyhub.protocols import Progress, part
from anomalyhub.registry import register_detector
from anomalyhub.search import NearestNeighbours, StreamingCoreset
from anomalyhub.types import AnomalyMap, Sample

_ENCODED, _SELECTED = 0.6, 0.8  # where the progress bar stands when the supports are encoded, and the bank is chosen
_FEW = 8  # up to so many supports are each held out alone


@dataclass(frozen=True)
class SiameseConfig:
    """Settings of the category-agnostic detector; defaults are Ejaz' unless a comment says otherwise."""

    weights: str | None = None  # folder of `train siamese`; None: the backbone's own features, nothing trained
    layers: tuple[int, ...] | None = None  # None: stages 1 to 3 (section 4.4); of a ViT four blocks. Not with weights
    resize: int | None = None  # side of the square input; None: what the weights were trained at, else the backbone's
    augment: bool = True  # supports under every view of `support.VIEWS` (section 4.3)
    coreset: float = 0.1  # share of the patches kept, as in PatchCore; the thesis gives no figure
    bank_rows: int = 1024  # at most so many per layer, 10 % of stage 1 of 2 images: search stays fast (product choice)
    projection: int = 128  # of the selection's distances, as in PatchCore
    reweight_neighbours: int = 9  # b of section 4.3, as in PatchCore
    sigma: float = 4.0  # of the map's smoothing, in pixels of the resized frame, section 4.3
    byte_budget: int = 2**30  # of the buffers while fitting (product default)
    batch_size: int = 8
    calibration_images: int = 200  # at most so many normals are held out in turn for the threshold; 0: none

    def __post_init__(self):
        check_range("resize", self.resize, 32, 4096)
        check_range("bank_rows", self.bank_rows, 1, 2**20)
        check_range("projection", self.projection, 1, 16384)
        check_range("reweight_neighbours", self.reweight_neighbours, 1, 1000)
        check_range("sigma", self.sigma, 0.0, 100.0)
        check_range("byte_budget", self.byte_budget, 1, 2**50)
        check_range("batch_size", self.batch_size, 1, 4096)
        check_range("calibration_images", self.calibration_images, 0, 2**31)
        if not 0.0 < self.coreset <= 1.0:
            raise InvalidArgumentError(f"setting coreset is a share in (0, 1], got {self.coreset}: 0.1 keeps 10 %")
        if self.weights is not None and self.layers is not None:
            raise InvalidArgumentError("setting layers has no say with weights, which use stages 1 to 3: leave one out")


@register_detector
class Siamese(BackboneDetector):
    """Scores a patch by its cosine distance to the nearest patch of a few normal images, layer by layer.

    backbone  a Backbone, or a SPEC that is made on first use; with weights the one that they were trained on
    config    see SiameseConfig
    seed      fixes coresets and folds

    Fitted: banks_ (one NearestNeighbours over unit rows per layer), trained_ (the network, or None), provenance_ (what
    it was trained on, or None), held_out_scores_ and held_out_peaks_ (n,) float32: image score and map maximum of
    normal images scored by banks that have never seen them; up to 8 images one at a time, more by folds; empty when
    fitted on a stream of unknown length or on one image.
    """

    name = "siamese"
    title = "Category-agnostic"
    config_class = SiameseConfig
    needs = "normals"
    transductive = False
    _network: SiameseNetwork | None = None  # made of trained_ on first use

    def fit(self, samples: Iterable[Sample], progress: Progress | None = None) -> Siamese:
        """Build the banks from normal images; masks and labels are not read.

        `samples` is read once as a stream; a sequence is read again in part, to score held-out images.
        Raises InvalidArgumentError when there is no image, InvalidModelError for weights that are none or were trained
        on another backbone.
        """
        config, backbone = self.config, self._backbone()
        trained = Trained.read(config.weights, backbone.fingerprint) if config.weights is not None else None
        scorer = _Scorer(config, backbone, trained.network(backbone) if trained else None, trained)
        n_images = len(samples) if isinstance(samples, Sized) and hasattr(samples, "__getitem__") else None
        folds = _folds(n_images or 0, config.calibration_images, self.seed)
        fold_of = {image: fold.number for fold in folds for image in fold.images}
        coresets: list[StreamingCoreset] = []
        for images, numbers in view_batches(samples, config.batch_size, config.augment):
            levels, _ = scorer.encode(images)
            coresets = coresets or self._coresets(levels)
            for coreset, level in zip(coresets, levels, strict=True):
                groups = np.repeat([fold_of.get(number, -1) for number in numbers], level.shape[1] * level.shape[2])
                coreset.add(level.reshape(-1, level.shape[-1]), groups)
            share, of_all = (numbers[-1] / n_images, f" of {n_images}") if n_images else (0.5, "")
            report(progress, _ENCODED * share, f"support image {numbers[-1] + 1}{of_all}")
        if not coresets:
            raise InvalidArgumentError(f"{self.title} needs normal images and got none: give 2 to 8, or more")
        banks = _banks(coresets, None, part(progress, _ENCODED, _SELECTED))
        scores, peaks = _cross_fit(samples, folds, coresets, scorer, part(progress, _SELECTED, 1.0))
        self.banks_, self.trained_, self._network = banks, trained, scorer.network
        self.provenance_ = trained.provenance if trained else None
        self.held_out_scores_, self.held_out_peaks_ = scores, peaks
        report(progress, 1.0, f"bank of {sum(len(bank.bank_) for bank in banks):,} patches")
        return self

    def predict(self, samples: Iterable[Sample]) -> list[AnomalyMap]:
        """One map of cosine distances in [0, 2] per sample, in the image's own frame."""
        self._fitted()
        scorer = self._scorer()
        return [
            result
            for batch in batches(samples, self.config.batch_size)
            for result in scorer([sample.image for sample in batch], self.banks_)
        ]

    def _scorer(self) -> _Scorer:
        if self.trained_ is not None and self._network is None:
            self._network = self.trained_.network(self._backbone())
        return _Scorer(self.config, self._backbone(), self._network, self.trained_)

    def _layers(self, spec: str) -> Sequence[int] | None:
        return self.config.layers or stage_layers(spec)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {f"bank.{level}": bank.bank_ for level, bank in enumerate(self.banks_)}
        arrays |= {"scores": self.held_out_scores_, "peaks": self.held_out_peaks_}
        extra, tensors = self.trained_.state() if self.trained_ else (None, {})
        return {"layers": len(self.banks_), "trained": extra}, {**arrays, **tensors}

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.banks_ = [_index(arrays[f"bank.{level}"]) for level in range(int(config["layers"]))]
        self.trained_ = Trained.restore(config["trained"], arrays) if config["trained"] else None
        self.provenance_ = self.trained_.provenance if self.trained_ else None
        self.held_out_scores_, self.held_out_peaks_ = arrays["scores"], arrays["peaks"]

    def _coresets(self, levels: Sequence[np.ndarray]) -> list[StreamingCoreset]:
        """One per layer of encodings (B, h, w, D); they share the budget as their sizes are."""
        config, total = self.config, sum(level[0].size for level in levels)
        return [
            StreamingCoreset(
                level.shape[-1],
                fraction=config.coreset,
                byte_budget=config.byte_budget * level[0].size // total,
                projection=config.projection,
                largest=config.bank_rows,
                seed=self.seed,
                device=self._backbone().device,
            )
            for level in levels
        ]


class _Scorer:
    """Images to encodings, and with banks to maps."""

    def __init__(self, config: SiameseConfig, backbone: Any, network: SiameseNetwork | None, trained: Trained | None):
        self.config, self.backbone, self.network = config, backbone, network
        self.side = config.resize or (trained.size if trained else backbone.size)

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[torch.Tensor] | None]:
        """Unit encodings (B, h_l, w_l, D_l) float32 per layer, and the matrices that `warp_back` needs."""
        batch = self.backbone.preprocess(images, self.side)
        levels, matrices = self.network.encode(batch) if self.network else (self.backbone.feature_maps(batch), None)
        units = [F.normalize(level.float(), dim=1).permute(0, 2, 3, 1) for level in levels]
        return [unit.cpu().numpy() for unit in units], matrices

    def __call__(self, images: Sequence[np.ndarray], banks: Sequence[NearestNeighbours]) -> list[AnomalyMap]:
        levels, matrices = self.encode(images)
        scores, frames = np.zeros(len(images)), np.zeros((len(images), self.side, self.side), np.float32)
        for number, (level, bank) in enumerate(zip(levels, banks, strict=True)):
            distances, peaks = self._distances(level, bank)
            scores = np.maximum(scores, peaks)
            if matrices is not None:
                placed = warp_back(torch.from_numpy(distances).to(self.backbone.device), matrices[number])
                distances = placed.cpu().numpy()
            for frame, patches in zip(frames, distances, strict=True):
                wide = cv2.resize(patches, (self.side, self.side), interpolation=cv2.INTER_LINEAR)
                np.maximum(frame, wide, out=frame)
        maps = [
            upsample_scores(frame, image.shape[:2], resize=self.side, sigma=self.config.sigma)
            for frame, image in zip(frames, images, strict=True)
        ]
        return [AnomalyMap(scores, float(score)) for scores, score in zip(maps, scores, strict=True)]

    def _distances(self, level: np.ndarray, bank: NearestNeighbours) -> tuple[np.ndarray, np.ndarray]:
        """Cosine distances (B, h, w) of one layer's patches, and the reweighted largest one per image (B,)."""
        count, height, width, dim = level.shape
        rows = level.reshape(count, height * width, dim)
        distances = bank.query(rows.reshape(-1, dim))[0][:, 0].reshape(count, -1)
        peaks = np.empty(count)
        for i in range(count):
            best, distance = bank.farthest(rows[i], distances[i])
            peaks[i] = _cosine(distance) * self._weight(rows[i, best], bank)
        return _cosine(distances).reshape(count, height, width), peaks

    def _weight(self, patch: np.ndarray, bank: NearestNeighbours) -> float:
        """1 - softmax of the distance over the neighbourhood of the nearest bank entry (section 4.3)."""
        distance, nearest = bank.query_exact(patch[None])
        _, around = bank.query_exact(bank.bank_[nearest[0]], self.config.reweight_neighbours)
        if around.shape[1] < 2:
            return 1.0  # no neighbourhood
        to_patch = _cosine(np.linalg.norm(bank.bank_[around[0]] - patch, axis=1))
        return float(1.0 - 1.0 / max(np.exp(to_patch - _cosine(distance[0, 0])).sum(), 1.0))


def _cosine(distance: Any) -> Any:
    """1 - cosine of unit vectors at a Euclidean distance."""
    return distance * distance / 2


def _index(rows: np.ndarray) -> NearestNeighbours:
    return NearestNeighbours().fit(rows)


def _banks(coresets: Sequence[StreamingCoreset], without: int | None, progress: Progress) -> list[NearestNeighbours]:
    """One bank per layer, selected from all patches or from all but one fold's."""
    banks = []
    for level, coreset in enumerate(coresets):
        steps = part(progress, level / len(coresets), (level + 1) / len(coresets))
        banks.append(_index(coreset.select(without=without, progress=steps)))
    return banks


def _folds(n_images: int, at_most: int, seed: int) -> list[Fold]:
    """A few images one at a time, since a bank of a few misses each of them; more as PatchCore holds them out."""
    if 2 <= n_images <= min(_FEW, at_most):
        return [Fold(image, (image,)) for image in range(n_images)]
    return folds_for(n_images, at_most, seed)


def _cross_fit(
    samples: Any, folds: Sequence[Fold], coresets: Sequence[StreamingCoreset], scorer: _Scorer, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and map maxima of held-out images, each by banks selected without its fold."""
    values: list[tuple[float, float]] = []
    for fold in folds:
        start, end = fold.number / len(folds), (fold.number + 1) / len(folds)
        progress(start, f"threshold: fold {fold.number + 1} of {len(folds)}")
        banks = _banks(coresets, fold.number, part(progress, start, (start + end) / 2))
        for batch in batches((samples[image] for image in fold.images), scorer.config.batch_size):
            maps = scorer([sample.image for sample in batch], banks)
            values += [(result.image_score, float(result.scores.max())) for result in maps]
    table = np.array(values, np.float32).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()
