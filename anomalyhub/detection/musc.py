"""MuSc: images without labels that judge each other; normal patches recur in the other images, abnormal ones do not.

Li et al., MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring of the Unlabeled
Images, ICLR 2024.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.detection.base import BackboneDetector, batches, check_range, report
from anomalyhub.detection.mutual import (
    Scratch,
    distances_to,
    fill_patches,
    kept,
    lowest_mean,
    mutual_means,
    unit_patches,
)
from anomalyhub.detection.provenance import digest
from anomalyhub.detection.token_set import TokenSet, read_tokens, tokens_of
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress, part
from anomalyhub.registry import register_detector
from anomalyhub.types import AnomalyMap, Sample

_EMBEDDED_BLOCKS = (3, 4, 5, 6)  # the transformer's; the layers before them lie on another grid
_READ = 0.2  # where the progress bar stands when the features are in


def mutual_scores(
    tokens: Sequence[np.ndarray],
    grid: tuple[int, int],
    r_list: Sequence[int] = (1, 3, 5),
    top: float = 0.3,
    *,
    byte_budget: int = 2**30,
    device: Any = "cpu",
    progress: Progress | None = None,
) -> np.ndarray:
    """(N, P) float32 scores of the patches of N images that judge each other (LNAMD and MSM).

    tokens       one (N, P, C) array of raw patch tokens per layer, P = h w, row by row; widths may differ
    grid         (h, w)
    r_list       odd neighbourhood sides
    top          share of the other images, those nearest to a patch, whose distances count
    byte_budget  of the working arrays; beyond it they lie in temporary files
    Raises InvalidArgumentError for fewer than 2 images, shapes that do not fit, or values that are not finite.
    """
    levels = [np.asarray(level) for level in tokens]
    shapes = [level.shape for level in levels]
    if not levels or any(len(shape) != 3 or shape[:2] != (shapes[0][0], grid[0] * grid[1]) for shape in shapes):
        raise InvalidArgumentError(f"tokens must be (N, {grid[0] * grid[1]}, C) for a grid of {grid}, got {shapes}")
    _check_count(len(levels[0]))
    _check_neighbourhoods("r_list", r_list, top)
    scores = mutual_means(levels, grid, r_list, top, Scratch(byte_budget), device, progress)
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).all(1).argmax())
        raise InvalidArgumentError(f"tokens of image {bad} hold NaN or infinity: check the backbone and its input")
    return scores


def rscin(scores: np.ndarray, class_tokens: np.ndarray, k_list: Sequence[int] = (1, 2, 3)) -> np.ndarray:
    """(N,) float32 image scores, min-maxed and averaged over images alike (RsCIN).

    scores        (N,)
    class_tokens  (N, D); alike is what has the largest cosine similarity
    k_list        for each k an image's score becomes the mean over the k images most like it, itself included,
                  weighted by similarity; the results are averaged. More than N count as N.
    """
    scores, class_tokens = np.asarray(scores, np.float64), np.asarray(class_tokens)
    if scores.ndim != 1 or class_tokens.ndim != 2 or len(scores) != len(class_tokens) or not len(scores):
        raise InvalidArgumentError(
            f"scores must be (N,) and class_tokens (N, D), got {scores.shape} and {class_tokens.shape}"
        )
    _check_counts("k_list", k_list)
    low, high = scores.min(), scores.max()
    scaled = (scores - low) / (high - low) if high > low else np.zeros_like(scores)
    unit = _unit(class_tokens)
    means = []
    for start in range(0, len(unit), 512):
        similarity = unit[start : start + 512] @ unit.T
        similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = 1.0  # of a zero token too
        means.append(_means_of_alike(similarity, scaled, k_list))
    return np.concatenate(means).astype(np.float32)


@dataclass(frozen=True)
class MuScConfig:
    """Settings of MuSc; defaults are those of Li et al. unless a comment says otherwise."""

    layers: tuple[int, ...] | None = None  # None: four blocks of a ViT spread evenly; embedded: its blocks
    resize: int | None = None  # side of the square input; None: the backbone's own. The paper: 518
    r_list: tuple[int, ...] = (1, 3, 5)  # LNAMD
    top: float = 0.3  # of the other images, those nearest to a patch
    k_list: tuple[int, ...] = (1, 2, 3)  # RsCIN
    byte_budget: int = 2**30  # of tokens, patches and distances; beyond it temporary files (product default)
    batch_size: int = 8
    storage: Literal["float32", "float16"] = "float32"  # of tokens; float16 halves memory and model
    max_reference: int | None = None  # at most so many images are kept by `fit`, drawn at random; None: all

    def __post_init__(self):
        for name, largest in {"resize": 4096, "byte_budget": 2**50, "batch_size": 4096}.items():
            check_range(name, getattr(self, name), 1, largest)
        check_range("max_reference", self.max_reference, 2, 2**31)
        _check_neighbourhoods("r_list", self.r_list, self.top)
        _check_counts("k_list", self.k_list)


@register_detector
class MuSc(BackboneDetector):
    """Scores patches by how far they are from the nearest patches of other images, none of which has a label.

    Without a reference (fitted on no image) `predict` judges the given images by each other. Fitted on two images or
    more it keeps those as the reference and judges each image by it; one that is in the reference, pixel for pixel, has
    been judged by the others and gets that score again.

    Image scores are in units of the map. They are smoothed over images alike (RsCIN) where the backbone has class
    tokens.

    Fitted: reference_ (a TokenSet or None); of its images among each other patch_scores_ (N, P), held_out_scores_ and
    held_out_peaks_ (N,) float32 (image scores, map maxima); unlabelled_ says that these may hold defects.
    """

    name = "musc"
    title = "MuSc"
    config_class = MuScConfig
    needs = "nothing"
    transductive: bool = True  # False with a reference

    def fit(self, samples: Iterable[Sample] = (), progress: Progress | None = None) -> MuSc:
        """Keep images, normal or not, as the reference; none at all: `predict` judges what it is given as a whole.

        `samples` is read once as a stream. Raises InvalidArgumentError for a single image, and for layers of several
        grids.
        """
        scratch = Scratch(self.config.byte_budget)
        tokens = self._read(*self._drawn(samples), scratch, part(progress, 0.0, _READ))
        peaks = scores = np.zeros(0, np.float32)
        patch_scores = np.zeros((0, 0), np.float32)
        if tokens is not None:
            patch_scores = self._mutual(tokens, scratch, part(progress, _READ, 0.99))
            peaks = np.array([one.max() for one in _maps(patch_scores, tokens)])
            scores = self._image_scores(peaks, tokens.cls)
        self._set(tokens, patch_scores, scores, peaks)
        report(progress, 1.0, f"reference of {len(scores)} images" if len(scores) else "no reference")
        return self

    def predict(self, samples: Iterable[Sample]) -> list[AnomalyMap]:
        """One map per sample, in the image's own frame; its values are mean distances in [0, 2].

        Without a reference raises InvalidArgumentError for a single image.
        """
        self._fitted()
        return self._among_each_other(samples) if self.reference_ is None else self._by_reference(samples)

    def _among_each_other(self, samples: Iterable[Sample]) -> list[AnomalyMap]:
        scratch = Scratch(self.config.byte_budget)
        tokens = self._read(samples, len(samples) if isinstance(samples, Sized) else 0, scratch)
        if tokens is None:
            return []
        maps = list(_maps(self._mutual(tokens, scratch), tokens))
        scores = self._image_scores(np.array([one.max() for one in maps]), tokens.cls)
        return [AnomalyMap(one, float(score)) for one, score in zip(maps, scores, strict=True)]

    def _by_reference(self, samples: Iterable[Sample]) -> list[AnomalyMap]:
        results = []
        for batch in batches(samples, self.config.batch_size):
            places = [self._places.get(digest(sample.image)) for sample in batch]
            unknown = [sample.image for sample, place in zip(batch, places, strict=True) if place is None]
            compared = iter(self._compared(unknown))
            for sample, place in zip(batch, places, strict=True):
                results.append(next(compared) if place is None else self._kept(place, sample.image.shape[:2]))
        return results

    def _kept(self, place: int, shape: tuple[int, int]) -> AnomalyMap:
        """What an image of the reference scored among the others."""
        scores = _map(self.patch_scores_[place], self.reference_.grid, shape)
        return AnomalyMap(scores, float(self.held_out_scores_[place]))

    def _compared(self, images: Sequence[np.ndarray]) -> list[AnomalyMap]:
        """Images that are not in the reference, by the reference."""
        if not images:
            return []
        if self._patches is None:
            self._patches = self._reference_patches()
        tokens = tokens_of(self._backbone(), images, self.config.resize, self.config.storage)
        device = self._backbone().device
        total = np.zeros(tokens.levels[0].shape[:2])
        for (r, level), patches in self._patches.items():
            queries = torch.tensor(np.asarray(tokens.levels[level], np.float32), device=device)
            distances = distances_to(unit_patches(queries, tokens.grid, r), patches)
            total += lowest_mean(distances, kept(self.config.top, len(patches)), device)
        patch_scores = (total / len(self._patches)).astype(np.float32)
        maps = [_map(row, tokens.grid, shape) for row, shape in zip(patch_scores, tokens.shapes, strict=True)]
        classes = [None] * len(maps) if tokens.cls is None else tokens.cls
        return [AnomalyMap(one, self._smoothed(float(one.max()), cls)) for one, cls in zip(maps, classes, strict=True)]

    def _smoothed(self, score: float, cls: np.ndarray | None) -> float:
        """RsCIN of one image among the reference, where there are class tokens."""
        peaks = self.held_out_peaks_.astype(np.float64)
        low, high = peaks.min(), peaks.max()
        if cls is None or high <= low:
            return score
        similarity = np.append(1.0, _unit(self.reference_.cls) @ _unit(cls[None])[0])
        scaled = (np.append(score, peaks) - low) / (high - low)
        return float(low + (high - low) * _means_of_alike(similarity[None], scaled, self.config.k_list)[0])

    def _image_scores(self, peaks: np.ndarray, cls: np.ndarray | None) -> np.ndarray:
        """RsCIN of images among each other, back in units of the map."""
        if cls is None:
            return peaks
        low, high = float(peaks.min()), float(peaks.max())
        return (low + (high - low) * rscin(peaks, cls, self.config.k_list)).astype(np.float32)

    def _mutual(self, tokens: TokenSet, scratch: Scratch, progress: Progress | None = None) -> np.ndarray:
        """(N, P) patch scores of images that judge each other."""
        _check_count(len(tokens))
        config, device = self.config, self._backbone().device
        return mutual_means(tokens.levels, tokens.grid, config.r_list, config.top, scratch, device, progress)

    def _reference_patches(self) -> dict[tuple[int, int], np.ndarray]:
        """(N, P, C) neighbourhood features of the reference, by (r, layer)."""
        scratch, reference, device = Scratch(self.config.byte_budget), self.reference_, self._backbone().device
        return {
            (r, number): fill_patches(level, reference.grid, r, scratch.empty(*level.shape), device)
            for r in self.config.r_list
            for number, level in enumerate(reference.levels)
        }

    def _drawn(self, samples: Iterable[Sample]) -> tuple[Iterable[Sample], int]:
        """The images to keep, and how many they are (0: unknown); of a stream the first ones."""
        count, limit = len(samples) if isinstance(samples, Sized) else 0, self.config.max_reference
        if limit is None or 0 < count <= limit:
            return samples, count
        if not hasattr(samples, "__getitem__"):
            return itertools.islice(samples, limit), min(count, limit)
        indices = np.sort(np.random.default_rng(self.seed).choice(count, min(count, limit), replace=False))
        return (samples[int(i)] for i in indices), len(indices)

    def _read(
        self, samples: Iterable[Sample], count: int, scratch: Scratch, progress: Progress | None = None
    ) -> TokenSet | None:
        config = self.config
        return read_tokens(
            self._backbone(),
            samples,
            count,
            scratch,
            resize=config.resize,
            storage=config.storage,
            batch_size=config.batch_size,
            progress=progress,
        )

    def _layers(self, spec: str) -> Sequence[int] | None:
        return _EMBEDDED_BLOCKS if self.config.layers is None and spec.strip() == "embedded" else self.config.layers

    def _set(self, reference: TokenSet | None, patch_scores: np.ndarray, scores: np.ndarray, peaks: np.ndarray) -> None:
        self.reference_, self.patch_scores_ = reference, patch_scores
        self.held_out_scores_, self.held_out_peaks_ = scores, peaks
        self.unlabelled_ = True
        self.transductive = reference is None
        self._patches: dict[tuple[int, int], np.ndarray] | None = None  # made when first needed
        known = [] if reference is None else reference.digests.tolist()
        self._places = {key: place for place, key in enumerate(known)}

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {"patch_scores": self.patch_scores_, "scores": self.held_out_scores_, "peaks": self.held_out_peaks_}
        if self.reference_ is None:
            return {"grid": None}, arrays
        arrays |= {f"tokens{number}": level for number, level in enumerate(self.reference_.levels)}
        arrays |= {"digests": self.reference_.digests}
        arrays |= {} if self.reference_.cls is None else {"class_tokens": self.reference_.cls}
        return {"grid": self.reference_.grid}, arrays

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        reference = None
        if config["grid"] is not None:
            height, width = map(int, config["grid"])
            names = sorted((name for name in arrays if name.startswith("tokens")), key=lambda name: int(name[6:]))
            levels, cls = tuple(arrays[name] for name in names), arrays.get("class_tokens")
            reference = TokenSet((height, width), levels, cls, arrays["digests"])
            expected = (len(arrays["peaks"]), height * width)
            sizes = {len(arrays["peaks"]), len(arrays["scores"]), len(reference), *([] if cls is None else [len(cls)])}
            shapes = {arrays["patch_scores"].shape, *(level.shape[:2] for level in levels)}
            if not levels or len(sizes) > 1 or shapes != {expected}:
                raise ValueError("tokens, scores and digests differ in length")
        self._set(reference, arrays["patch_scores"], arrays["scores"], arrays["peaks"])


def _maps(patch_scores: np.ndarray, tokens: TokenSet) -> Iterator[np.ndarray]:
    return (_map(row, tokens.grid, shape) for row, shape in zip(patch_scores, tokens.shapes, strict=True))


def _map(patch_scores: np.ndarray, grid: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """(P,) patch scores to the (H, W) map of an image: bilinear with the corners aligned, not smoothed."""
    scores = torch.from_numpy(patch_scores).reshape(1, 1, *grid)
    return F.interpolate(scores, shape, mode="bilinear", align_corners=True)[0, 0].numpy()


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _means_of_alike(similarity: np.ndarray, values: np.ndarray, k_list: Sequence[int]) -> np.ndarray:
    """(Q,) mean over k of the means of (M,) values at the k largest of each row of (Q, M), weighted by these."""
    order = np.argsort(-similarity, axis=1, kind="stable")[:, : max(k_list)]
    weights, nearest = np.take_along_axis(similarity, order, 1), values[order]
    sums, totals = np.cumsum(weights * nearest, axis=1), np.cumsum(weights, axis=1)
    # opposite class tokens may cancel out: such an image keeps its own score
    means = np.where(np.abs(totals) > 1e-9, sums / np.where(totals == 0, 1.0, totals), nearest[:, :1])
    return np.mean([means[:, min(k, means.shape[1]) - 1] for k in k_list], axis=0)


def _check_count(count: int) -> None:
    if count < 2:
        raise InvalidArgumentError(
            f"MuSc compares images with each other and needs at least 2, got {count}: "
            "give more images at once, or fit it on a reference first"
        )


def _check_counts(name: str, values: Sequence[int]) -> None:
    if not values or min(values) < 1:
        raise InvalidArgumentError(f"setting {name} must be whole numbers from 1, got {tuple(values)}: try 1,2,3")


def _check_neighbourhoods(name: str, r_list: Sequence[int], top: float) -> None:
    if not r_list or any(r % 2 == 0 or not 1 <= r <= 31 for r in r_list):
        raise InvalidArgumentError(f"setting {name} must be odd numbers from 1 to 31, got {tuple(r_list)}: try 1,3,5")
    if not 0.0 < top <= 1.0:
        raise InvalidArgumentError(f"setting top is a share in (0, 1], got {top}: 0.3 is the nearest 30 %")
