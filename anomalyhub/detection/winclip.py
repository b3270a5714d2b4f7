"""WinCLIP: what CLIP says about an image and about its windows, and how these differ from a few normal images.

Jeong et al., WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation, CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.backbones.clip import ClipBackbone, require_clip
from anomalyhub.detection.base import BackboneDetector, batches, check_range, report
from anomalyhub.detection.prompts import PromptConfig, abnormal_probability, text_features
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress, part
from anomalyhub.registry import register_detector
from anomalyhub.types import AnomalyMap, Sample

_TEXT, _ENCODED = 0.1, 0.8  # where the progress bar stands when the texts are read, and the references
_TOKENS = 8192  # of windows that run through the blocks at a time


@dataclass(frozen=True)
class WinClipConfig(PromptConfig):
    """Settings of WinCLIP; defaults are those of Jeong et al. unless a comment says otherwise."""

    layers: tuple[int, ...] | None = None  # blocks whose patches meet the references'; None: the last but one
    resize: int | None = 518  # side of the square input (APRIL-GAN's; the paper has 240); None: the CLIP's own
    windows: tuple[int, ...] = (2, 3)  # sides of the square windows in patches, at stride 1
    scales: Literal["mean", "harmonic"] = "mean"  # how window sizes and image meet in one map; the paper: harmonic
    temperature: float = 0.01  # of the softmax over normal and abnormal: 100 * cosine
    batch_size: int = 8
    byte_budget: int = 2**30  # of the references' features (product default)

    def __post_init__(self):
        super().__post_init__()
        check_range("resize", self.resize, 1, 4096)
        check_range("temperature", self.temperature, 1e-4, 1e4)
        check_range("batch_size", self.batch_size, 1, 4096)
        check_range("byte_budget", self.byte_budget, 1, 2**50)
        if not self.windows or len(set(self.windows)) < len(self.windows):
            raise InvalidArgumentError(f"setting windows must hold different sides, such as 2,3, got {self.windows}")
        for side in self.windows:
            check_range("windows", side, 1, 64)


@register_detector
class WinClip(BackboneDetector):
    """Scores an image and its windows by their likeness to texts, and to a few normal images where there are any.

    backbone  a ClipBackbone, or its SPEC (`clip`, `clip@FOLDER`, `hf:OWNER/NAME`)
    config    see WinClipConfig; `product` is the word for what the images show
    seed      kept for the protocol: nothing is random

    Fitted: text_ (D, 2) float32; banks_, one (n, P, D) float32 per window size and then per layer, none without
    references; held_out_scores_ and held_out_peaks_ (n,) float32: image score and map maximum of each reference by the
    others' banks, empty for fewer than 2; natural_thresholds_: of image score and map, None where there are references.
    """

    name = "winclip"
    title = "WinCLIP"
    config_class = WinClipConfig
    default_backbone = "clip"
    needs = "nothing"
    transductive = False

    def fit(self, samples: Iterable[Sample], progress: Progress | None = None) -> WinClip:
        """Read the texts, and normal images as references; without any it works zero-shot.

        Masks and labels are not read. Raises InvalidArgumentError for a backbone that is no CLIP, for texts that it
        cannot read, and for more references than `byte_budget` holds.
        """
        config = self.config
        text = text_features(
            self._backbone(), config.product, config.normal_states, config.abnormal_states, config.templates
        )
        report(progress, _TEXT, "texts")
        references = self._references(samples, text, part(progress, _TEXT, _ENCODED))
        held_out = np.zeros((2, len(references) if len(references) > 1 else 0), np.float32)
        for i in range(held_out.shape[1]):
            others = zip(*(image.features for j, image in enumerate(references) if j != i), strict=True)
            result = self._judge(references[i], list(others))
            held_out[:, i] = result.image_score, result.scores.max()
            report(progress, _ENCODED + (1 - _ENCODED) * i / len(references), f"threshold: reference {i + 1}")
        levels = zip(*(image.features for image in references), strict=True)
        self._set(text.cpu().numpy(), tuple(torch.stack(level).cpu().numpy() for level in levels), *held_out)
        report(progress, 1.0, f"{len(references)} references" if references else "texts alone")
        return self

    def predict(self, samples: Iterable[Sample]) -> list[AnomalyMap]:
        """One map per sample, in the image's own frame.

        Zero-shot, map and image score are probabilities of abnormal. With references the map is that plus the distance
        to them, in [0, 2], and the image score half of the probability plus half of the largest distance, in [0, 1].
        """
        self._fitted()
        device = self._backbone().device
        text = torch.from_numpy(self.text_).to(device)
        banks = [torch.from_numpy(bank).to(device) for bank in self.banks_]
        return [
            self._judge(encoded, banks)
            for batch in batches(samples, self.config.batch_size)
            for encoded in self._encode([sample.image for sample in batch], text)
        ]

    def _references(self, samples: Iterable[Sample], text: torch.Tensor, progress: Progress) -> list[_Encoded]:
        """All references, encoded."""
        n_images = len(samples) if isinstance(samples, Sized) else None
        found: list[_Encoded] = []
        for batch in batches(samples, self.config.batch_size):
            found += self._encode([sample.image for sample in batch], text)
            per_image = sum(level.nbytes for level in found[0].features)
            if (n_images or len(found)) * per_image > self.config.byte_budget:
                raise InvalidArgumentError(
                    f"WinCLIP keeps {per_image:,} bytes of each reference and byte_budget is "
                    f"{self.config.byte_budget:,}: give at most {self.config.byte_budget // per_image} normal images, "
                    "or raise byte_budget"
                )
            progress(len(found) / n_images if n_images else 0.5, f"reference {len(found)}")
        return found

    @torch.inference_mode()
    def _encode(self, images: Sequence[np.ndarray], text: torch.Tensor) -> list[_Encoded]:
        backbone, config = self._backbone(), self.config
        x, grid = backbone.embed(backbone.preprocess(images, config.resize))
        if min(grid) < max(config.windows):
            raise InvalidArgumentError(
                f"windows of {max(config.windows)} patches do not fit a grid of {grid[0]} x {grid[1]}: "
                "raise resize, or set smaller windows"
            )
        layers = config.layers or (max(1, backbone.depth - 1),)
        last, tapped = backbone.run(x, layers)
        probability = abnormal_probability(backbone.project(last[:, 0]), text, config.temperature)
        windows = [window_embeddings(backbone, x, grid, size) for size in config.windows]
        maps = [
            spread(abnormal_probability(embeddings, text, config.temperature), grid, size)
            for embeddings, size in zip(windows, config.windows, strict=True)
        ]
        maps.append(probability[:, None, None].expand(-1, *grid))
        scales = torch.stack(maps)
        text_maps = scales.mean(0) if config.scales == "mean" else 1.0 / (1.0 / scales).mean(0)
        levels = [F.normalize(rows, dim=-1) for rows in (*windows, *(tapped[layer][:, 1:] for layer in layers))]
        return [
            _Encoded(image.shape[:2], float(probability[i]), text_maps[i], tuple(level[i].clone() for level in levels))
            for i, image in enumerate(images)
        ]

    @torch.inference_mode()
    def _judge(self, encoded: _Encoded, banks: Sequence[Iterable[torch.Tensor]]) -> AnomalyMap:
        """An image's map and score; `banks` holds the references' features per level, nothing for zero-shot."""
        scores, image_score, grid = encoded.text_map, encoded.probability, tuple(encoded.text_map.shape)
        if banks:
            sizes = (*self.config.windows, *[1] * (len(banks) - len(self.config.windows)))  # a patch is a window of 1
            distances = [
                spread(association(rows, bank)[None], grid, size)[0]
                for rows, bank, size in zip(encoded.features, banks, sizes, strict=True)
            ]
            distance = torch.stack(distances).mean(0)
            scores, image_score = scores + distance, 0.5 * (image_score + float(distance.max()))
        scores = F.interpolate(scores[None, None], encoded.shape, mode="bilinear", align_corners=False)[0, 0]
        return AnomalyMap(scores.cpu().numpy(), image_score)

    def _backbone(self) -> ClipBackbone:
        return require_clip(super()._backbone(), self.title)

    def _set(self, text: np.ndarray, banks: tuple[np.ndarray, ...], scores: np.ndarray, peaks: np.ndarray) -> None:
        self.text_, self.banks_ = text, banks
        self.held_out_scores_, self.held_out_peaks_ = scores.copy(), peaks.copy()
        self.natural_thresholds_ = None if banks else (0.5, 0.5)

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        banks = {f"bank{level}": bank for level, bank in enumerate(self.banks_)}
        return {}, {"text": self.text_, "scores": self.held_out_scores_, "peaks": self.held_out_peaks_, **banks}

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        count = len(arrays) - 3
        if count not in (0, len(self.config.windows) + len(self.config.layers or (0,))):
            raise ValueError("banks and settings differ")
        banks = tuple(arrays[f"bank{level}"] for level in range(count))
        self._set(arrays["text"], banks, arrays["scores"], arrays["peaks"])


@dataclass(frozen=True, eq=False)
class _Encoded:
    """One image as CLIP sees it.

    shape        (H, W) of the image             probability  of abnormal, of the whole image
    text_map     (h, w) probability of abnormal  features     unit rows (P_l, D_l) per window size, then per layer
    """

    shape: tuple[int, int]
    probability: float
    text_map: torch.Tensor
    features: tuple[torch.Tensor, ...]


def window_embeddings(backbone: ClipBackbone, x: torch.Tensor, grid: tuple[int, int], size: int) -> torch.Tensor:
    """Tokens (B, 1 + h * w, width) of `ClipBackbone.embed` to embeddings (B, n, D) of all windows, in rows.

    A window is `size` x `size` patches, n = (h - size + 1) * (w - size + 1). It is encoded by the class token and its
    own patches alone, which is the transformer with all others masked. Windows of 2 and 3 patches together take about
    eleven times the multiply-adds of one pass over the image.
    """
    height, width = grid
    patches = torch.arange(1, 1 + height * width, device=x.device).reshape(height, width)
    index = patches.unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size)
    index = F.pad(index, (1, 0))  # the class token is number 0
    step = max(1, _TOKENS // index.shape[1])
    rows = []
    for tokens in x:  # image by image, so that a batch gives what its images give alone
        runs = [backbone.run(tokens[part])[0][:, 0] for part in index.split(step)]
        rows.append(backbone.project(torch.cat(runs)))
    return torch.stack(rows)


def spread(scores: torch.Tensor, grid: tuple[int, int], size: int) -> torch.Tensor:
    """Scores (B, n) of windows, none negative, to (B, h, w): the harmonic mean over the windows that cover a patch."""
    height, width = grid[0] - size + 1, grid[1] - size + 1
    inverse = (1.0 / scores).reshape(-1, 1, height, width)  # infinite for a score of 0, whose harmonic mean is 0
    total, count = (
        F.avg_pool2d(F.pad(values, [size - 1] * 4), size, 1) for values in (inverse, torch.ones_like(inverse))
    )
    return (count / total)[:, 0]


def association(rows: torch.Tensor, bank: Iterable[torch.Tensor]) -> torch.Tensor:
    """Unit rows (P, D), and one (Q, D) per reference, to (P,) in [0, 1]: half of 1 - the largest cosine."""
    nearest = torch.stack([(rows @ reference.T).amax(1) for reference in bank]).amax(0)
    return ((1.0 - nearest) / 2).clamp(min=0.0)
