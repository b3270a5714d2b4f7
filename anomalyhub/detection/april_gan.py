"""APRIL-GAN: patches that CLIP's text calls abnormal, through trained linear layers, and that no reference resembles.

Chen et al., A Zero-/Few-Shot Anomaly Classification and Segmentation Method, CVPR 2023 workshop VAND.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from anomalyhub.backbones.clip import ClipBackbone, require_clip
from anomalyhub.detection.april_gan_layers import (
    LinearLayers,
    layer_state,
    read_layers,
    reference_distances,
    text_maps,
    unit_tokens,
    upsample,
)
from anomalyhub.detection.base import BackboneDetector, batches, check_range, report
from anomalyhub.detection.prompts import PromptConfig, abnormal_probability, text_features
from anomalyhub.detection.provenance import Provenance
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress
from anomalyhub.registry import register_detector
from anomalyhub.types import AnomalyMap, Sample


@dataclass(frozen=True)
class AprilGanConfig(PromptConfig):
    """Settings of APRIL-GAN; defaults are those of Chen et al. unless a comment says otherwise."""

    weights: str | None = None  # the folder of `anomalyhub train april-gan`, or a .safetensors file of linear layers
    layers: tuple[int, ...] | None = None  # None: the weights' own, else four spread evenly; 6, 12, 18, 24 of a ViT-L
    resize: int = 518  # side of the square input, section 3.1
    # With references: "stored" judges every image alone; "transductive" scales the maps' maxima by the smallest and
    # largest of the given images, as the published code does over a test set
    score: Literal["stored", "transductive"] = "stored"
    batch_size: int = 8
    byte_budget: int = 2**30  # of the references' tokens: 47 images of a ViT-L at 518 px (product default)

    def __post_init__(self):
        super().__post_init__()
        check_range("resize", self.resize, 1, 4096)
        check_range("batch_size", self.batch_size, 1, 4096)
        check_range("byte_budget", self.byte_budget, 1, 2**50)


def image_scores(probabilities: np.ndarray, maxima: np.ndarray, low: float, high: float) -> np.ndarray:
    """(n,) 0.5 * (probability + (maximum - low) / (high - low)); the second term is 0 where low equals high."""
    return 0.5 * (probabilities + (maxima - low) / (high - low if high > low else np.inf))


@dataclass(frozen=True, eq=False)
class _Encoded:
    """A batch as CLIP sees it: text probabilities (B,); margins (B, h, w) and unit tokens (B, P, width) per layer."""

    probabilities: np.ndarray
    levels: list[torch.Tensor]
    tokens: list[torch.Tensor]


@register_detector
class AprilGan(BackboneDetector):
    """Compares CLIP's view of an image with prompts, and its patches with prompts and with a few normal references.

    backbone  a ClipBackbone, or a SPEC such as "clip" that is made on first use
    config    see AprilGanConfig
    seed      nothing here is random

    The map sums over the layers the probability of the abnormal prompts and, with references, 1 - the largest cosine to
    one of their patches. The image score is the probability of the abnormal prompts; with references, the mean of it
    and of the map's maximum m scaled to (m - low) / (high - low). Published code takes low and high from the test set.
    Normal references show only the lower end, and how little they differ says nothing of defects, so that `low` is
    their smallest maximum, each scored without itself, and `high` lies one per layer above it, as far as the text part
    reaches. Scores are not clipped: a defect may pass `high`.

    Fitted: tensors_ (the linear layers), text_ (D, 2), banks_ (per layer (n, P, width) unit tokens of n references),
    range_ (low, high), held_out_scores_ and held_out_peaks_ (n,) float32 (each reference against the others; empty for
    fewer than two, and for transductive scores), natural_thresholds_ (image score, map value) where the probabilities
    are one half (None for transductive scores), map_slope_ (by how much the map threshold moves with the image
    threshold), provenance_ (what the layers were trained on, None where the weights do not say).
    """

    name = "april-gan"
    title = "APRIL-GAN"
    config_class = AprilGanConfig
    default_backbone = "clip"
    needs = "auxiliary"
    transductive = False

    def __init__(self, backbone: Any = None, config: AprilGanConfig | None = None, seed: int = 0):
        super().__init__(backbone, config, seed)
        self.transductive = self.config.score == "transductive"

    @torch.inference_mode()
    def fit(self, samples: Iterable[Sample] = (), progress: Progress | None = None) -> AprilGan:
        """Read the linear layers, encode the prompts and, if there are any, the normal references.

        Masks and labels are not read. Raises InvalidArgumentError where the setting `weights` is missing or belongs to
        another backbone, for a backbone that is no CLIP, unusable prompts, and more references than `byte_budget`.
        """
        config = self.config
        weights = read_layers(config.weights)
        backbone = self._backbone()
        linear = weights.module_for(backbone)
        report(progress, 0.0, "prompts")
        text = text_features(backbone, config.product, config.normal_states, config.abnormal_states, config.templates)
        probabilities, maxima, banks = self._references(samples, linear, text, progress)
        low = float(maxima.min()) if len(maxima) else 0.0
        self.tensors_ = {name: value.cpu().numpy() for name, value in linear.state_dict().items()}
        self.text_ = text.cpu().numpy()
        self.banks_ = [bank.cpu().numpy() for bank in banks]
        self.range_ = (low, low + len(linear.fc))
        self.provenance_: Provenance | None = weights.provenance
        # scaled by the images at hand, a score has no threshold that holds for other images
        held_out = len(maxima) if len(maxima) > 1 and not self.transductive else 0
        self._set_scales()
        self.held_out_scores_ = image_scores(probabilities, maxima, *self.range_)[:held_out].astype(np.float32)
        self.held_out_peaks_ = maxima[:held_out].astype(np.float32)
        report(progress, 1.0, f"references: {len(maxima)}")
        return self

    @torch.inference_mode()
    def predict(self, samples: Iterable[Sample]) -> list[AnomalyMap]:
        """One map per sample, in the image's own frame: [0, n_layers], with references up to three times that."""
        self._fitted()
        device = self._backbone().device
        linear, text = self._linear().to(device), torch.from_numpy(self.text_).to(device)
        banks = [torch.from_numpy(bank).to(device) for bank in self.banks_]
        maps: list[np.ndarray] = []
        probabilities: list[float] = []
        for batch in batches(samples, self.config.batch_size):
            seen = self._encode([sample.image for sample in batch], linear, text)
            distances = reference_distances(seen.tokens, banks) if banks else None
            maps += [_map(seen.levels, distances, i, sample.image.shape[:2]) for i, sample in enumerate(batch)]
            probabilities += seen.probabilities.tolist()
        scores = np.array(probabilities)
        if banks and maps:
            maxima = np.array([array.max() for array in maps], np.float64)
            low, high = (maxima.min(), maxima.max()) if self.transductive else self.range_
            scores = image_scores(scores, maxima, low, high)
        return [AnomalyMap(array, float(score)) for array, score in zip(maps, scores, strict=True)]

    def _set_scales(self) -> None:
        low, high = self.range_
        few = bool(self.banks_)
        self.natural_thresholds_ = None if few and self.transductive else (0.5, (low + high) / 2)
        self.map_slope_ = 2 * (high - low) if few else high - low

    def _backbone(self) -> ClipBackbone:
        return require_clip(super()._backbone(), self.title)

    def _layers(self, spec: str) -> Sequence[int] | None:
        return self.config.layers or read_layers(self.config.weights).layers

    def _linear(self) -> LinearLayers:
        widths = [value.shape[1] for name, value in self.tensors_.items() if name.endswith("weight")]
        linear = LinearLayers(widths, len(self.text_))
        linear.load_state_dict({name: torch.from_numpy(value) for name, value in self.tensors_.items()})
        return linear.eval().requires_grad_(False)

    def _encode(self, images: Sequence[np.ndarray], linear: LinearLayers, text: torch.Tensor) -> _Encoded:
        backbone = self._backbone()
        maps, embedding = backbone.encode(backbone.preprocess(images, self.config.resize))
        probabilities = abnormal_probability(embedding, text).cpu().numpy().astype(np.float64)
        return _Encoded(probabilities, linear(maps, text), [unit_tokens(level) for level in maps])

    def _references(
        self, samples: Iterable[Sample], linear: LinearLayers, text: torch.Tensor, progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray, list[torch.Tensor]]:
        """Of n references: probabilities (n,), maxima (n,) of their maps, banks (n, P, width) per layer.

        Each is compared with the others; the maximum of a single one is that of its text part.
        """
        seen: list[_Encoded] = []
        shapes: list[tuple[int, int]] = []
        for batch in batches(samples, self.config.batch_size):
            seen.append(self._encode([sample.image for sample in batch], linear, text))
            shapes += [sample.image.shape[:2] for sample in batch]
            self._check_budget(len(shapes), seen[0].tokens)
            report(progress, 0.4, f"features of {len(shapes)} references")
        if not seen:
            return np.zeros(0), np.zeros(0), []
        levels = [torch.cat(parts) for parts in zip(*(batch.levels for batch in seen), strict=True)]
        banks = [torch.cat(parts) for parts in zip(*(batch.tokens for batch in seen), strict=True)]
        maxima = np.zeros(len(shapes))
        for i, shape in enumerate(shapes):
            tokens = [bank[i : i + 1] for bank in banks]
            distances = reference_distances(tokens, banks, without=i) if len(shapes) > 1 else None
            maxima[i] = _map([level[i : i + 1] for level in levels], distances, 0, shape).max()
            report(progress, 0.5 + 0.5 * i / len(shapes), f"threshold: reference {i + 1} of {len(shapes)}")
        return np.concatenate([batch.probabilities for batch in seen]), maxima, banks

    def _check_budget(self, count: int, tokens: Sequence[torch.Tensor]) -> None:
        """Raise InvalidArgumentError where the tokens of so many references exceed the budget."""
        per_image = sum(level[0].numel() * level.element_size() for level in tokens)
        if count * per_image > self.config.byte_budget:
            raise InvalidArgumentError(
                f"{count} references of {per_image:,} bytes exceed the setting byte_budget "
                f"({self.config.byte_budget:,}): give at most {self.config.byte_budget // per_image}, or raise it"
            )

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        config, arrays = self.provenance_.state() if self.provenance_ else ({}, {})
        arrays = arrays | self.tensors_ | {f"bank.{i}": bank for i, bank in enumerate(self.banks_)}
        arrays |= {"text": self.text_, "scores": self.held_out_scores_, "peaks": self.held_out_peaks_}
        return {**config, "range": self.range_}, arrays

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.tensors_ = {name: value.numpy() for name, value in layer_state(arrays, "the state").items()}
        self.text_, self.held_out_scores_, self.held_out_peaks_ = arrays["text"], arrays["scores"], arrays["peaks"]
        n_banks = len(self.tensors_) // 2 if "bank.0" in arrays else 0
        self.banks_ = [arrays[f"bank.{i}"] for i in range(n_banks)]
        low, high = config["range"]
        self.range_ = (float(low), float(high))
        self._set_scales()
        self.provenance_ = Provenance.restore(config, arrays)


def _map(
    levels: Sequence[torch.Tensor], distances: torch.Tensor | None, index: int, shape: tuple[int, int]
) -> np.ndarray:
    """The (H, W) map of one image of a batch; distances (B, P) to references, or None."""
    scores = text_maps([level[index : index + 1] for level in levels], shape)
    if distances is not None:
        scores += upsample(distances[index : index + 1].unflatten(1, levels[0].shape[1:]), shape)
    return scores[0].cpu().numpy()
