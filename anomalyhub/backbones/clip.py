"""CLIP through transformers: patch tokens of its vision blocks, image embeddings and text embeddings.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from anomalyhub.backbones.base import DataConfig, TorchBackbone, choose_layers, even_layers
from anomalyhub.backbones.clip_files import data_config, load_clip, load_tokenizer, locate
from anomalyhub.backbones.spec import BackboneSpec, fingerprint
from anomalyhub.errors import BackboneError, InvalidArgumentError

_TEXTS = 64  # encoded at a time


class ClipBackbone(TorchBackbone):
    """A frozen CLIP; layers are 1-based vision blocks, their maps the patch tokens after the block, unnormalised.

    module     transformers' CLIPModel
    tokenizer  a tokenizers.Tokenizer that adds the start and end tokens
    layers     None: four spread evenly

    Images of any size from one patch: position embeddings are interpolated, and what does not fill a patch on the right
    and at the bottom is not seen. `Features.cls` is the projected image embedding.

    depth       vision blocks
    patch_size  pixels
    embed_dim   D, of image and text embeddings
    context     tokens that a text may have, start and end included
    """

    def __init__(
        self,
        spec: str,
        module: torch.nn.Module,
        tokenizer: Any,
        *,
        layers: Sequence[int] | None = None,
        data: DataConfig,
        fingerprint: str,
        device: Any = None,
    ):
        vision = module.config.vision_config
        self.depth, self.patch_size = vision.num_hidden_layers, vision.patch_size
        self.embed_dim = module.visual_projection.out_features
        self.context = module.config.text_config.max_position_embeddings
        chosen = choose_layers(layers, even_layers(self.depth), range(1, self.depth + 1), spec)
        super().__init__(
            spec,
            module,
            self._outputs,
            layers=chosen,
            channels=[vision.hidden_size] * len(chosen),
            strides=[self.patch_size] * len(chosen),
            data=data,
            fingerprint=fingerprint,
            device=device,
        )
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()  # a text that is cut off would go unnoticed

    @torch.no_grad()  # not inference_mode: layers are trained on these maps
    def encode(self, batch: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """The maps of `feature_maps` and the projected image embeddings (B, D), not normalised, of a batch."""
        maps, embedding = self._outputs(batch, True)
        return tuple(level.float() for level in maps), embedding.float()

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Projected embeddings (N, D) float32 on the backbone's device, not normalised; errors as `token_ids`."""
        rows, ids = [torch.empty(0, self.embed_dim, device=self.device)], self.token_ids(texts)
        for start in range(0, len(ids), _TEXTS):
            part = ids[start : start + _TEXTS]
            length = max(map(len, part))
            # attention is causal, so what follows the end token changes nothing
            padded = torch.tensor([row + row[-1:] * (length - len(row)) for row in part], device=self.device)
            pooled = self.module.text_model(input_ids=padded).pooler_output
            rows.append(self.module.text_projection(pooled).float())
        return torch.cat(rows)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, start and end included.

        Raises InvalidArgumentError for a text without a token of its own or with more tokens than CLIP reads, and
        BackboneError for a tokenizer of another model.
        """
        found = []
        for text in texts:
            ids, own = self.tokenizer.encode(text).ids, self.tokenizer.encode(text, add_special_tokens=False).ids
            shown = repr(textwrap.shorten(text, 60, placeholder="…"))
            if not own:
                raise InvalidArgumentError(f"the text {shown} has no token that {self.spec} knows: write a word")
            if len(ids) > self.context:
                raise InvalidArgumentError(
                    f"the text {shown} has {len(ids)} tokens and {self.spec} reads {self.context}: shorten it"
                )
            if len(ids) < len(own) + 2:
                raise BackboneError(f"the tokenizer.json of {self.spec} adds no start and end: save CLIP's own with it")
            if max(ids) >= self.module.config.text_config.vocab_size:
                raise BackboneError(f"the tokenizer.json of {self.spec} belongs to another model: save both from one")
            found.append(ids)
        return found

    def embed(self, batch: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Images (B, 3, H, W) to the first block's input (B, 1 + h * w, width), class token first, and the grid (h, w).

        Raises InvalidArgumentError for images smaller than a patch.
        """
        height, width = batch.shape[-2:]
        if min(height, width) < self.patch_size:
            raise InvalidArgumentError(
                f"images of {width} x {height} pixels are smaller than a patch of {self.spec}: "
                f"resize to {self.patch_size} or more"
            )
        vision = self.module.vision_model
        patches = vision.embeddings.patch_embedding(batch)
        grid = (patches.shape[2], patches.shape[3])
        cls = vision.embeddings.class_embedding.expand(len(batch), 1, -1)
        tokens = torch.cat([cls, patches.flatten(2).transpose(1, 2)], 1)
        return vision.pre_layrnorm(tokens + self._positions(grid)), grid

    def run(
        self, x: torch.Tensor, taps: Collection[int] = (), stop: int | None = None
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Tokens (B, T, width) after block `stop` (None: the last) and after each block of `taps`."""
        tapped = {}
        for number, block in enumerate(self.module.vision_model.encoder.layers[:stop], 1):
            x = _block(block, x)
            if number in taps:
                tapped[number] = x
        return x, tapped

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (..., width) after the last block to embeddings (..., D): the last norm and the visual projection."""
        return self.module.visual_projection(self.module.vision_model.post_layernorm(tokens))

    def _outputs(self, batch: torch.Tensor, want_cls: bool) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        x, grid = self.embed(batch)
        last, tapped = self.run(x, self.layers, None if want_cls else max(self.layers))
        maps = [tapped[layer][:, 1:].transpose(1, 2).reshape(len(batch), -1, *grid) for layer in self.layers]
        return maps, self.project(last[:, 0]) if want_cls else None

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """Position embeddings (1 + h * w, width) of a grid, bicubic from the model's own square one."""
        table = self.module.vision_model.embeddings.position_embedding.weight
        side = math.isqrt(len(table) - 1)
        if grid == (side, side):
            return table
        square = table[1:].T.reshape(1, -1, side, side)
        patches = F.interpolate(square, grid, mode="bicubic", align_corners=False)
        return torch.cat([table[:1], patches[0].flatten(1).T])


def _block(block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One block on (B, T, width), from its parts: what its own forward takes and returns varies with the version."""
    attn, normed = block.self_attn, block.layer_norm1(x)
    projections = (attn.q_proj, attn.k_proj, attn.v_proj)
    q, k, v = (proj(normed).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for proj in projections)
    x = x + attn.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return x + block.mlp(block.layer_norm2(x))


def require_clip(backbone: Any, title: str) -> ClipBackbone:
    """The backbone, where it is a CLIP. Raises InvalidArgumentError for a method `title` that needs one."""
    if not isinstance(backbone, ClipBackbone):
        raise InvalidArgumentError(
            f"{title} compares images with texts and {backbone.spec} reads no texts: "
            "give --backbone clip, clip@FOLDER or the Hub id of a CLIP"
        )
    return backbone


def create_clip(spec: BackboneSpec, layers: Sequence[int] | None, device: Any) -> ClipBackbone:
    """Make the CLIP of a folder or a Hub repository. Raises BackboneError naming the file, InvalidArgumentError."""
    files = locate(spec)
    local = spec.folder or spec.file  # absolute: a saved model may be used from elsewhere
    module = load_clip(files.config, files.weights)
    return ClipBackbone(
        f"{spec.name}@{local}" if local else spec.text,
        module,
        load_tokenizer(files.tokenizer),
        layers=layers,
        data=data_config(files.preprocessor, module.config.vision_config.image_size),
        fingerprint=fingerprint(files.weights),
        device=device,
    )
