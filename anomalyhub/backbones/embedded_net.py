"""The network behind `embedded`: a small convolutional trunk with a short vision transformer on top."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity (He et al., CVPR 2016)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + x)


class SelfAttention(nn.Module):
    """Multi-head self-attention; the names are timm's."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block; the names are timm's, so that what works on a timm ViT works on it."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), SelfAttention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class EmbeddedNet(nn.Module):
    """Feature maps at strides 8 and 16, a class token and a patch token per 16 x 16 pixels.

    The patch tokens start from the pixels and from the stride-8 map; the stride-16 map is not on their way.

    widths  channels at strides 2, 4, 8 and 16; a residual block at each of the last three
    dim, heads, blocks, mlp_ratio  the transformer
    grid    positions per side that the position embedding is made for; other sizes interpolate it
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (32, 64, 128, 256),
        dim: int = 192,
        heads: int = 3,
        blocks: int = 4,
        mlp_ratio: float = 4.0,
        grid: int = 14,
    ):
        super().__init__()
        first, *rest = widths
        self.channels, self.dim, self.grid = (widths[2], widths[3]), dim, grid
        self.stem = nn.Conv2d(3, first, 3, 2, 1)
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in zip(widths, rest, strict=False))
        self.stages = nn.ModuleList(ResidualBlock(width) for width in rest)
        self.patch_embed = nn.Conv2d(3, dim, 16, 16)
        self.patch_mix = nn.Conv2d(widths[2], dim, 3, 2, 1)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, mlp_ratio) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def feature_maps(self, images: torch.Tensor, stages: int = 3) -> list[torch.Tensor]:
        """(B, 3, H, W) normalised images to one map (B, C, H/s, W/s) per stage: s = 4, 8, 16."""
        x = F.relu(self.stem(images.contiguous(memory_format=torch.channels_last)))
        maps = []
        for down, stage in zip(self.downs[:stages], self.stages, strict=False):
            x = stage(F.relu(down(x)))
            maps.append(x)
        return maps

    def tokens(self, images: torch.Tensor, stride8: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Images and their stride-8 map to the transformer's input (B, 1 + h*w, D), class token first, and (h, w)."""
        right, bottom = -images.shape[-1] % 16, -images.shape[-2] % 16
        patches = self.patch_embed(F.pad(images, (0, right, 0, bottom))) + self.patch_mix(stride8)
        grid = tuple(patches.shape[-2:])
        position = self._position(grid)
        cls = (self.cls_token + position[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([cls, patches.flatten(2).transpose(1, 2) + position[:, 1:]], 1), grid

    def embed(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """(B, 3, H, W) normalised images to the input of `blocks` and the (h, w) of its patch grid."""
        return self.tokens(images, self.feature_maps(images, 2)[1])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised images to the normalised tokens (B, 1 + h*w, D) after the last block."""
        x, _ = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def _position(self, grid: tuple[int, int]) -> torch.Tensor:
        if grid == (self.grid, self.grid):
            return self.pos_embed
        square = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, self.dim, self.grid, self.grid)
        resized = F.interpolate(square, grid, mode="bicubic", align_corners=False, antialias=True)
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], 1)
