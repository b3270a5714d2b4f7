"""anomalyhub.nn.mgvit: mask-guided attention against a plain implementation with full attention matrices."""

from __future__ import annotations

import pytest
import timm
import torch

from anomalyhub import create_backbone
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.mgvit import MaskGuidedViT


@pytest.fixture(scope="module", params=["vit", "qk_norm_and_layer_scale", "registers", "embedded"])
def vit(request):
    """A small transformer in evaluation mode that takes images of 96 x 160."""
    if request.param == "embedded":
        return create_backbone("embedded", (3, 6), "cpu").module
    torch.manual_seed(0)
    extra = {
        "vit": {},
        "qk_norm_and_layer_scale": {"qk_norm": True, "init_values": 0.3},
        "registers": {"reg_tokens": 2},
    }[request.param]
    size = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 5, "num_heads": 3, "num_classes": 0}
    model = timm.models.VisionTransformer(**size, dynamic_img_size=True, **extra)
    return model.eval().requires_grad_(False)


def images_and_masks():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 96, 160, generator=generator)
    masks = torch.zeros(4, 1, 96, 160)
    masks[0, :, 10:60, 90:] = 1  # part of the image
    masks[1] = 1
    masks[3, :, 0:16, 0:7] = 1  # less than half of one patch: nothing is inside
    return images, masks


def plain(vit, images, masks, layers):
    """All rows with an additive mask of T x T, as the paper writes it."""
    x, (h, w) = MaskGuidedViT(vit, 0).embed(images)
    assert (h, w) == (6, 10)
    tokens = x.shape[1]
    inside = torch.nn.functional.avg_pool2d(masks, 16).flatten(1) >= 0.5
    bias = torch.zeros(len(x), 1, tokens, tokens)
    bias[:, :, 0, 1:] = -torch.inf
    bias[:, 0, 0, -h * w :][inside] = 0
    for number, block in enumerate(vit.blocks):
        attn, y = block.attn, block.norm1(x)
        q, k, v = attn.qkv(y).reshape(len(x), tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        if hasattr(attn, "q_norm"):
            q, k = attn.q_norm(q), attn.k_norm(k)
        weights = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = (weights + bias if number >= len(vit.blocks) - layers else weights).softmax(-1)
        y = attn.proj((weights @ v).transpose(1, 2).reshape(x.shape))
        x = x + (block.ls1(y) if hasattr(block, "ls1") else y)
        y = block.mlp(block.norm2(x))
        x = x + (block.ls2(y) if hasattr(block, "ls2") else y)
    return vit.norm(x)[:, 0]


@pytest.mark.parametrize("layers", [0, 1, 3, 9])
def test_equals_the_plain_form(vit, layers):
    images, masks = images_and_masks()
    tokens = MaskGuidedViT(vit, layers)(images, masks)
    torch.testing.assert_close(tokens, plain(vit, images, masks, layers), atol=2e-4, rtol=2e-4)


def test_a_full_mask_changes_nothing(vit):
    images, masks = images_and_masks()
    whole = vit(images)[:, 0] if hasattr(vit, "embed") else vit.forward_features(images)[:, 0]
    same = torch.allclose(MaskGuidedViT(vit)(images, torch.ones_like(masks)), whole, atol=2e-4, rtol=2e-4)
    assert same != bool(getattr(vit, "num_reg_tokens", 0))  # a guided class token sees no register tokens


def test_the_last_block_sees_only_the_mask(vit):
    """With one guided block, a change outside the mask reaches the class token through the earlier blocks alone."""
    images, masks = images_and_masks()
    guided = MaskGuidedViT(vit, 1)
    x, grid = guided.embed(images)
    inside = guided.inside(masks, grid)
    assert inside.sum(1).tolist() == [12, 60, 0, 0]
    block = guided.vit.blocks[-1]
    changed = x.clone()
    patches = changed[:, -inside.shape[1] :]
    slope = torch.linspace(-1, 1, x.shape[-1])
    patches[~inside] += slope
    before, after = (guided.guided_block(block, tokens, inside)[:, 0] for tokens in (x, changed))
    assert torch.equal(before, after)
    patches[0, inside[0]] += slope
    assert not torch.allclose(guided.guided_block(block, changed, inside)[0, 0], before[0])


def test_without_anything_inside_only_itself_is_seen(vit):
    """Then the last block's class token depends on nothing but the class token before it."""
    images, masks = images_and_masks()
    guided = MaskGuidedViT(vit, 100)
    tokens = guided(images[2:], masks[2:])
    torch.testing.assert_close(tokens[0], tokens[1], atol=1e-5, rtol=1e-5)  # two images, both without a region
    assert torch.isfinite(tokens).all()


def test_taps_and_gradients(vit):
    images, masks = images_and_masks()
    guided = MaskGuidedViT(vit, 2)
    x, grid = guided.embed(images)
    inside = guided.inside(masks, grid)
    depth = len(vit.blocks)
    last, (first, tapped) = guided.guided(x, inside, (1, depth))
    torch.testing.assert_close(vit.norm(tapped), last)
    torch.testing.assert_close(first, vit.blocks[0](x), atol=1e-4, rtol=1e-4)
    vit.blocks[-1].requires_grad_(True)
    guided(images, masks).sum().backward()
    assert vit.blocks[-1].mlp.fc1.weight.grad.abs().sum() > 0 and vit.blocks[0].mlp.fc1.weight.grad is None
    vit.zero_grad(set_to_none=True)
    vit.requires_grad_(False)


def test_refused():
    cnn = timm.create_model("test_resnet", pretrained=False)
    with pytest.raises(InvalidArgumentError, match="ResNet has no class token to guide: choose `embedded` or"):
        MaskGuidedViT(cnn)
    averaging = timm.models.VisionTransformer(embed_dim=16, depth=1, num_heads=1, class_token=False, global_pool="avg")
    with pytest.raises(InvalidArgumentError, match="no class token"):
        MaskGuidedViT(averaging)
    with pytest.raises(InvalidArgumentError, match="mask_layers is -1"):
        MaskGuidedViT(create_backbone("embedded"), -1)
