"""What all backbones share: preprocessing from the model's data config, and taps."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.types import Features

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class DataConfig:
    """A model's own preprocessing: square input size in pixels, RGB mean and std in [0, 1], interpolation."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"


#: Returns one (B, C, h, w) map per tapped layer, and class tokens (B, D) or None when they are not asked for.
Forward = Callable[[torch.Tensor, bool], tuple[Sequence[torch.Tensor], torch.Tensor | None]]


class TorchBackbone:
    """A frozen torch network with taps; see `anomalyhub.protocols.Backbone` for the attributes.

    fingerprint  identifies the weights, so that a saved model notices that they have changed
    """

    def __init__(
        self,
        spec: str,
        module: torch.nn.Module,
        forward: Forward,
        *,
        layers: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        data: DataConfig,
        fingerprint: str,
        device: Any = None,
    ):
        self.device = torch.device(device) if device is not None else _own_device()
        self.module = module.eval().requires_grad_(False).to(self.device)
        self.spec, self._taps = spec, forward
        self.layers, self.channels, self.strides = tuple(layers), tuple(channels), tuple(strides)
        self.data, self.size, self.fingerprint = data, data.size, fingerprint
        self._mean = torch.tensor(data.mean, device=self.device).mul(255.0)[:, None, None]
        self._std = torch.tensor(data.std, device=self.device).mul(255.0)[:, None, None]

    def preprocess(
        self, images: Sequence[np.ndarray], resize: int | None = None, crop: int | None = None
    ) -> torch.Tensor:
        """(H, W, 3) uint8 RGB images to one normalised float32 batch (B, 3, h, w) on the backbone's device.

        resize  without a crop: the side of the square that the image is resized to, None for the model's own size;
                with a crop: the length of the shorter edge after resizing
        crop    side of the centre crop; None crops nothing
        """
        resize = resize or self.size
        if crop is not None and crop > resize:
            raise InvalidArgumentError(
                f"the crop of {crop} pixels exceeds the resized image ({resize}): raise resize too"
            )
        arrays = [self._resized(image, resize, crop) for image in images]
        batch = torch.from_numpy(np.stack(arrays)).to(self.device).permute(0, 3, 1, 2)
        return batch.float().sub_(self._mean).div_(self._std)

    @torch.inference_mode()
    def feature_maps(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One (B, C_l, h_l, w_l) float32 tensor per tapped layer of a batch from `preprocess`."""
        return tuple(level.float() for level in self._forward(batch, False)[0])

    @torch.inference_mode()
    def extract(
        self, images: Sequence[np.ndarray], resize: int | None = None, crop: int | None = None
    ) -> list[Features]:
        """One Features per (H, W, 3) uint8 image."""
        if not len(images):
            return []
        levels, cls = self._forward(self.preprocess(images, resize, crop), True)
        maps = [level.float().cpu().numpy() for level in levels]
        tokens = None if cls is None else cls.float().cpu().numpy()
        return [
            Features(tuple(level[i].copy() for level in maps), None if tokens is None else tokens[i].copy())
            for i in range(len(images))
        ]

    def _forward(self, batch: torch.Tensor, want_cls: bool) -> tuple[Sequence[torch.Tensor], torch.Tensor | None]:
        try:
            return self._taps(batch, want_cls)
        except AssertionError as error:  # timm's way to say that a size does not suit the patches
            raise InvalidArgumentError(
                f"{self.spec} does not take images of {batch.shape[-1]} pixels ({error}): "
                f"resize to a multiple of {max(self.strides)}"
            ) from error

    def _resized(self, image: np.ndarray, resize: int, crop: int | None) -> np.ndarray:
        height, width = image.shape[:2]
        if crop is None:
            size = (resize, resize)
        else:
            scale = resize / min(height, width)
            size = (max(crop, round(width * scale)), max(crop, round(height * scale)))
        if (width, height) != size:
            image = np.asarray(Image.fromarray(image).resize(size, _INTERPOLATIONS[self.data.interpolation]))
        if crop is not None:
            left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
            image = image[top : top + crop, left : left + crop]
        return image


def choose_layers(
    wanted: Sequence[int] | None, default: Sequence[int], valid: Sequence[int], name: str
) -> tuple[int, ...]:
    """The wanted layers, ascending; raises InvalidArgumentError naming the valid ones."""
    layers = tuple(sorted(wanted)) if wanted is not None else tuple(default)
    bad = [layer for layer in layers if layer not in valid]
    if bad or not layers or len(set(layers)) != len(layers):
        raise InvalidArgumentError(
            f"layers {list(wanted or [])} do not exist in {name}: choose different ones from {valid[0]} to {valid[-1]}"
        )
    return layers


def even_layers(depth: int) -> list[int]:
    """Four of 1 to `depth` spread evenly, fewer where there are fewer."""
    return sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)})


def _own_device() -> torch.device:
    """This process's GPU when there is one, else the CPU."""
    if name := os.environ.get("ANOMALYHUB_DEVICE"):
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")
