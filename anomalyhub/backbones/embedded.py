"""`embedded`: a small network with fixed filters that needs no download.

A stand-in until the trained one ships: a windowed scattering transform of two orders (Bruna and Mallat, TPAMI 2013)
on an opponent-colour pyramid. Nothing in it is learned, so it sees texture, edges and colour, but no objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anomalyhub.backbones.base import DataConfig, TorchBackbone, choose_layers

_ORIENTATIONS = 8
_SCALES = 4
_VERSION = "scattering-1"


class ScatteringNet(torch.nn.Module):
    """Maps (B, 3, h, w) images in [-2, 2] to two maps, at strides 8 and 16."""

    strides = (8, 16)

    def __init__(self):
        super().__init__()
        self.register_buffer("opponent", _opponent_colours())
        self.register_buffer("wavelets", _gabor_bank(_ORIENTATIONS, 7))
        self.register_buffer("coarse", _gabor_bank(4, 5))
        self.register_buffer("blur", _binomial())
        channels = 3 + _SCALES * (_ORIENTATIONS + 2) + 2 * 4 * _ORIENTATIONS
        self.channels = (channels, channels)
        for level in range(2):
            self.register_buffer(f"scale{level}", torch.ones(1, channels, 1, 1))
        self._standardise()

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self._maps(images, normalised=True)

    def _maps(self, images: torch.Tensor, normalised: bool) -> list[torch.Tensor]:
        pyramid = [F.conv2d(images, self.opponent)]
        while len(pyramid) < _SCALES + 1:
            pyramid.append(self._down(pyramid[-1]))
        # a modulus is smooth: half the resolution holds it, where the maps are finer than any output
        first = [self._first_order(level, stride=2 if scale < 3 else 1) for scale, level in enumerate(pyramid)]
        maps = [self._describe(pyramid, first, start) for start in (0, 1)]
        return [level / getattr(self, f"scale{i}") for i, level in enumerate(maps)] if normalised else maps

    def _first_order(self, level: torch.Tensor, stride: int) -> torch.Tensor:
        """Modulus of the oriented responses: 8 of the luminance, 1 of each chroma."""
        luminance = self._modulus(level[:, :1], self.wavelets, stride)
        chroma = [self._modulus(level[:, c : c + 1], self.coarse, stride).mean(1, keepdim=True) for c in (1, 2)]
        return torch.cat([luminance, *chroma], 1)

    def _describe(self, pyramid: list[torch.Tensor], first: list[torch.Tensor], start: int) -> torch.Tensor:
        """Low pass, four scales of first order and two of second order, at stride 8 * 2 ** start."""
        target = pyramid[min(3 + start, _SCALES)].shape[-2:]
        parts = [pyramid[3 + start]]
        for scale in range(start, start + _SCALES):
            parts.append(_pool_to(first[scale], target).sqrt())
        for scale in (start, start + 1):
            fine = first[scale][:, :_ORIENTATIONS]
            batch, channels, height, width = fine.shape
            second = self._modulus(fine.reshape(batch * channels, 1, height, width), self.coarse)
            parts.append(_pool_to(second.reshape(batch, -1, height, width), target).sqrt())
        return torch.cat(parts, 1)

    def _modulus(self, image: torch.Tensor, bank: torch.Tensor, stride: int = 1) -> torch.Tensor:
        pad = bank.shape[-1] // 2
        response = F.conv2d(F.pad(image, (pad,) * 4, mode="replicate"), bank, stride=stride)
        half = response.shape[1] // 2
        return (response[:, :half].square() + response[:, half:].square() + 1e-8).sqrt()

    def _down(self, image: torch.Tensor) -> torch.Tensor:
        kernel = self.blur.expand(image.shape[1], 1, -1, -1)
        return F.conv2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, stride=2, groups=image.shape[1])

    @torch.no_grad()
    def _standardise(self) -> None:
        """Divide each channel by its deviation on natural-looking (1/f) noise, so that no channel rules distances."""
        noise = torch.from_numpy(_pink_noise(4, 128))
        for level, maps in enumerate(self._maps(noise, normalised=False)):
            deviation = maps.std((0, 2, 3), keepdim=True).clamp_min(1e-3)
            setattr(self, f"scale{level}", deviation * math.sqrt(maps.shape[1]))


def create_embedded(layers: Sequence[int] | None, device: Any) -> TorchBackbone:
    """The fixed-filter network as a backbone: layer 1 has stride 8, layer 2 has stride 16."""
    chosen = choose_layers(layers, (1, 2), (1, 2), "embedded")
    module = ScatteringNet()

    def forward(batch: torch.Tensor, want_cls: bool) -> tuple[list[torch.Tensor], None]:
        maps = module(batch)
        return [maps[layer - 1] for layer in chosen], None

    return TorchBackbone(
        "embedded",
        module,
        forward,
        layers=chosen,
        channels=[module.channels[layer - 1] for layer in chosen],
        strides=[module.strides[layer - 1] for layer in chosen],
        data=DataConfig(224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear"),
        fingerprint=_VERSION,
        device=device,
    )


def _opponent_colours() -> torch.Tensor:
    rows = [[1 / 3, 1 / 3, 1 / 3], [0.5, -0.5, 0.0], [0.25, 0.25, -0.5]]
    return torch.tensor(rows)[:, :, None, None]


def _gabor_bank(orientations: int, size: int) -> torch.Tensor:
    """(2 * orientations, 1, size, size): real parts, then imaginary parts, of zero-mean Morlet wavelets."""
    half = size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    sigma, frequency = size / 6.0, 2.2 / (size / 3.0)
    real, imaginary = [], []
    for k in range(orientations):
        angle = math.pi * k / orientations
        along = x * math.cos(angle) + y * math.sin(angle)
        across = -x * math.sin(angle) + y * math.cos(angle)
        envelope = np.exp(-(along**2 + 0.5 * across**2) / (2 * sigma**2))
        wave = envelope * np.exp(1j * frequency * along)
        wave -= envelope * (wave.sum() / envelope.sum())
        wave /= np.abs(wave).sum()
        real.append(wave.real)
        imaginary.append(wave.imag)
    return torch.from_numpy(np.stack(real + imaginary)[:, None].astype(np.float32))


def _binomial() -> torch.Tensor:
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
    return torch.outer(row, row)[None, None]


def _pool_to(maps: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return F.adaptive_avg_pool2d(maps, size) if maps.shape[-2:] != size else maps


def _pink_noise(count: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]
    amplitude = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / size)
    spectrum = np.fft.fft2(rng.standard_normal((count, 3, size, size))) * amplitude
    noise = np.fft.ifft2(spectrum).real
    return (noise / noise.std((2, 3), keepdims=True)).astype(np.float32)
