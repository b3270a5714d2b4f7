"""Mask-guided attention (Huang et al., AnomalyNCD, 2024): the class token sees only what the mask covers."""

from __future__ import annotations

import typing
from collections.abc import Collection, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from anomalyhub.errors import InvalidArgumentError

#: Which rows of the attention the mask guides (table IV); "class" is the method.
MaskTokens = Literal["class", "patches", "all", "none"]


class MaskGuidedViT(nn.Module):
    """Class tokens of a vision transformer that look only at the masked part of each image.

    In the last `mask_layers` blocks the class token's attention to patches outside the mask is minus infinity before
    the softmax; it always sees itself, and where no patch is inside it sees nothing else. Register tokens, which gather
    from all patches, are hidden from it too. Patch and register tokens attend as ever.

    backbone     a Backbone over a timm ViT or `embedded`, or such a torch module
    mask_layers  blocks at the end that are guided, 0 to all; more than the transformer has means all
    mask_tokens  for the ablation: "patches" guides the rows of patch and register tokens instead (they see the class
                 token and the patches inside), "all" every row, "none" no row
    threshold    share of a patch in (0, 1] that the mask must cover for it to count as inside

    Raises InvalidArgumentError for a backbone without a class token. Gradients flow; freeze what is not to be trained.
    """

    def __init__(self, backbone, mask_layers: int = 9, mask_tokens: MaskTokens = "class", threshold: float = 0.5):
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
        if mask_tokens not in typing.get_args(MaskTokens):
            raise InvalidArgumentError(f"mask_tokens is {mask_tokens!r}: give class, patches, all or none")
        if not 0.0 < threshold <= 1.0:
            raise InvalidArgumentError(f"threshold is {threshold}: give a share in (0, 1], such as 0.5")
        self.mask_layers = 0 if mask_tokens == "none" else mask_layers
        self.mask_tokens, self.threshold = mask_tokens, threshold

    def forward(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, H, W), masks (B, 1, H, W) in [0, 1] to class tokens (B, D) after the last norm."""
        x, grid = self.embed(images)
        return self.guided(x, self.inside(masks, grid))[:, 0]

    def embed(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Normalised images (B, 3, H, W) to the first block's input (B, T, D), and the patch grid (h, w)."""
        vit = self.vit
        if hasattr(vit, "embed"):
            return vit.embed(images)
        patches = vit.patch_embed(images)
        grid = tuple(patches.shape[1:3]) if patches.ndim == 4 else tuple(vit.patch_embed.grid_size)
        return vit.norm_pre(vit.patch_drop(vit._pos_embed(patches))), grid

    def coverage(self, masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Masks (B, 1, H, W) to the share (B, h*w) of each patch that is covered, in [0, 1]."""
        return F.adaptive_avg_pool2d(masks.float(), grid).flatten(1)

    def inside(self, masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Masks (B, 1, H, W) to (B, h*w) bool: patches that the mask covers at least to the threshold."""
        return self.coverage(masks, grid) >= self.threshold

    def guided(self, x: torch.Tensor, inside: torch.Tensor, taps: tuple[int, ...] = ()):
        """Run all blocks on tokens (B, T, D); with `taps`, also return the tokens after those 1-based blocks."""
        blocks, tapped = self.vit.blocks, []
        for index, block in enumerate(blocks):
            x = self._block(index, block, x, inside)
            if index + 1 in taps:
                tapped.append(x)
        x = self.vit.norm(x)
        return (x, tapped) if taps else x

    def tapped(self, x: torch.Tensor, inside: torch.Tensor, taps: Collection[int]) -> dict[int, torch.Tensor]:
        """Tokens (B, T, D) after each of the 1-based blocks `taps`; blocks after the last of them are not run."""
        found = {}
        for index in range(max(taps)):
            x = self._block(index, self.vit.blocks[index], x, inside)
            if index + 1 in taps:
                found[index + 1] = x
        return found

    def trunk(self, x: torch.Tensor, inside: torch.Tensor, stop: int) -> torch.Tensor:
        """Tokens (B, T, D) after the first `stop` blocks, the input of `tail` with the rest of them."""
        for index in range(stop):
            x = self._block(index, self.vit.blocks[index], x, inside)
        return x

    def tail(self, x: torch.Tensor, inside: torch.Tensor, blocks: Sequence[nn.Module]) -> torch.Tensor:
        """Class tokens (B, D) after `blocks`, which stand in for as many at the end, and the last norm.

        Of the last block only the class token's row is computed: a sixth of its multiply-adds.
        """
        first = len(self.vit.blocks) - len(blocks)
        for index, block in enumerate(blocks[:-1], first):
            x = self._block(index, block, x, inside)
        block = blocks[-1]
        attended = self._class_row(block.attn, block.norm1(x), inside if self.mask_layers else None)
        return self.vit.norm(_rest_of_block(block, x[:, :1], attended))[:, 0]

    def _block(self, index: int, block: nn.Module, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        return block(x) if index < len(self.vit.blocks) - self.mask_layers else self.guided_block(block, x, inside)

    def guided_block(self, block: nn.Module, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """One block on tokens (B, T, D), its class token guided by `inside` (B, h*w) bool."""
        return _rest_of_block(block, x, self._attend(block.attn, block.norm1(x), inside))

    def _attend(self, attn: nn.Module, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Self-attention whose class-token row, or others, are masked."""
        q, k, v = _heads(attn, F.linear(x, attn.qkv.weight, attn.qkv.bias), 3)
        q, k = _part(attn, "q_norm", q), _part(attn, "k_norm", k)
        allowed = _allowed(inside, x.shape[1])
        cls_mask = allowed if self.mask_tokens in ("class", "all") else None
        patch_mask = allowed if self.mask_tokens in ("patches", "all") else None
        cls = F.scaled_dot_product_attention(q[:, :, :1], k, v, attn_mask=cls_mask)
        rest = F.scaled_dot_product_attention(q[:, :, 1:], k, v, attn_mask=patch_mask)
        return _projected(attn, torch.cat([cls, rest], 2))

    def _class_row(self, attn: nn.Module, x: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
        """The class token's row (B, 1, D) of `_attend`; None leaves it unmasked."""
        weight, bias = attn.qkv.weight, attn.qkv.bias
        split = len(weight) // 3
        (q,) = _heads(attn, F.linear(x[:, :1], weight[:split], None if bias is None else bias[:split]), 1)
        k, v = _heads(attn, F.linear(x, weight[split:], None if bias is None else bias[split:]), 2)
        q, k = _part(attn, "q_norm", q), _part(attn, "k_norm", k)
        masked = inside is not None and self.mask_tokens in ("class", "all")
        mask = _allowed(inside, x.shape[1]) if masked else None
        return _projected(attn, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def _allowed(inside: torch.Tensor, tokens: int) -> torch.Tensor:
    """(B, 1, 1, T) bool: the class token and the patches inside, which are last of the T tokens."""
    allowed = inside.new_zeros(len(inside), tokens)
    allowed[:, 0] = True
    allowed[:, tokens - inside.shape[1] :] = inside
    return allowed[:, None, None]


def _heads(attn: nn.Module, x: torch.Tensor, count: int) -> torch.Tensor:
    """(B, T, count * D) to (count, B, heads, T, D / heads)."""
    batch, tokens, _ = x.shape
    return x.reshape(batch, tokens, count, attn.num_heads, -1).permute(2, 0, 3, 1, 4)


def _projected(attn: nn.Module, out: torch.Tensor) -> torch.Tensor:
    batch, _, tokens, _ = out.shape
    return attn.proj(_part(attn, "norm", out.transpose(1, 2).reshape(batch, tokens, -1)))


def _rest_of_block(block: nn.Module, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """Both residual branches of a pre-norm block, given what its attention says."""
    x = x + _part(block, "drop_path1", _part(block, "ls1", attended))
    return x + _part(block, "drop_path2", _part(block, "ls2", block.mlp(block.norm2(x))))


def _part(module: nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    """An optional part of a timm module (layer scale, query norm), the identity where it has none."""
    part = getattr(module, name, None)
    return x if part is None else part(x)
