"""Mask-guided attention (Huang et al., AnomalyNCD 2024, section III-C): the class token sees only what the mask covers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from anomalyhub.errors import InvalidArgumentError


class MaskGuidedViT(nn.Module):
    """Class tokens of a vision transformer that look only at the masked part of each image.

    In the last `mask_layers` blocks the class token's attention to patches outside the mask is minus infinity before
    the softmax; it always sees itself, and where no patch is inside it sees nothing else. Register tokens, which gather
    from all patches, are hidden from it too. Patch and register tokens attend as ever.

    backbone     a Backbone over a timm ViT or `embedded`, or such a torch module
    mask_layers  blocks at the end that are guided, 0 to all; more than the transformer has means all

    Raises InvalidArgumentError for a backbone without a class token. Gradients flow; freeze what is not to be trained.
    """

    def __init__(self, backbone, mask_layers: int = 9):
        super().__init__()
        self.vit = getattr(backbone, "module", backbone)
        if not hasattr(self.vit, "blocks") or not getattr(self.vit, "num_prefix_tokens", 0):
            name = getattr(backbone, "spec", type(self.vit).__name__)
            raise InvalidArgumentError(
                f"{name} has no class token to guide: choose `embedded` or a vision transformer such as "
                "vit_base_patch8_224.dino"
            )
        if mask_layers < 0:
            raise InvalidArgumentError(f"mask_layers is {mask_layers}: give 0 or more")
        self.mask_layers = mask_layers

    def forward(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, H, W) and masks (B, 1, H, W) in [0, 1] to class tokens (B, D) after the last norm."""
        x, grid = self.embed(images)
        return self.guided(x, self.inside(masks, grid))[:, 0]

    def embed(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Normalised images (B, 3, H, W) to the input (B, T, D) of the first block and the (h, w) of the patch grid."""
        vit = self.vit
        if hasattr(vit, "embed"):
            return vit.embed(images)
        patches = vit.patch_embed(images)
        grid = tuple(patches.shape[1:3]) if patches.ndim == 4 else tuple(vit.patch_embed.grid_size)
        return vit.norm_pre(vit.patch_drop(vit._pos_embed(patches))), grid

    def inside(self, masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Masks (B, 1, H, W) to (B, h*w) bool: patches that the mask covers at least half."""
        return F.adaptive_avg_pool2d(masks.float(), grid).flatten(1) >= 0.5

    def guided(self, x: torch.Tensor, inside: torch.Tensor, taps: tuple[int, ...] = ()):
        """Run all blocks on tokens (B, T, D); with `taps`, also return the tokens after those 1-based blocks."""
        blocks, tapped = self.vit.blocks, []
        first = len(blocks) - self.mask_layers
        for index, block in enumerate(blocks):
            x = block(x) if index < first else self._guided_block(block, x, inside)
            if index + 1 in taps:
                tapped.append(x)
        x = self.vit.norm(x)
        return (x, tapped) if taps else x

    def _guided_block(self, block: nn.Module, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        x = x + _part(block, "drop_path1", _part(block, "ls1", self._attend(block.attn, block.norm1(x), inside)))
        return x + _part(block, "drop_path2", _part(block, "ls2", block.mlp(block.norm2(x))))

    def _attend(self, attn: nn.Module, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Self-attention whose class-token row is masked: all rows unmasked, then that one row again."""
        batch, tokens, _ = x.shape
        q, k, v = attn.qkv(x).reshape(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = _part(attn, "q_norm", q), _part(attn, "k_norm", k)
        prefix = tokens - inside.shape[1]
        allowed = inside.new_zeros(batch, tokens)
        allowed[:, 0] = True
        allowed[:, prefix:] = inside
        cls = F.scaled_dot_product_attention(q[:, :, :1], k, v, attn_mask=allowed[:, None, None])
        rest = F.scaled_dot_product_attention(q[:, :, 1:], k, v)
        out = torch.cat([cls, rest], 2).transpose(1, 2).reshape(batch, tokens, -1)
        return attn.proj(_part(attn, "norm", out))


def _part(module: nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    """An optional part of a timm module (layer scale, query norm), the identity where it has none."""
    part = getattr(module, name, None)
    return x if part is None else part(x)
