"""The mask-guided variants of the ablation, the tail that is trained, the trunk's cache, and the frozen descriptors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from discovery_helpers import drawn, tiny_transformer, tiny_vit
from torch.utils.flop_counter import FlopCounterMode

from anomalyhub.discovery import ClusteringConfig
from anomalyhub.discovery.base import tensors
from anomalyhub.discovery.network import (
    Adapter,
    LastBlocks,
    Network,
    TokenCache,
    Trunk,
    descriptor_front,
    unit_features,
)
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.descriptor import Descriptor, after, patch_novelty, salience, views_to_compare, whitening
from anomalyhub.nn.mgvit import MaskGuidedViT
from anomalyhub.nn.views import plain_view

VARIANTS = ("class", "patches", "all", "none")


@pytest.fixture(
    scope="module", params=[{}, {"reg_tokens": 2, "qk_norm": True, "init_values": 0.3}], ids=["plain", "parts"]
)
def vit(request):
    return tiny_vit(**request.param)


@pytest.fixture(scope="module")
def batch():
    """Three images: a mask of part of it, an empty one, a full one."""
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(3, 1, 64, 64)
    masks[0, :, 8:50, 30:] = 1
    masks[2] = 1
    return images, masks


def plain(vit, images, masks, layers, variant, threshold=0.5):
    """All rows with an additive matrix of T x T; tokens after every block, and after the last norm."""
    x, (h, w) = MaskGuidedViT(vit, 0).embed(images)
    tokens = x.shape[1]
    inside = F.avg_pool2d(masks, 8).flatten(1) >= threshold
    keys = torch.full((len(x), tokens), -torch.inf)
    keys[:, 0] = 0
    keys[:, -h * w :][inside] = 0
    bias = torch.zeros(len(x), 1, tokens, tokens)
    rows = {"class": slice(0, 1), "patches": slice(1, None), "all": slice(None), "none": slice(0, 0)}[variant]
    bias[:, :, rows] = keys[:, None, None]
    after = []
    for number, block in enumerate(vit.blocks):
        attn, y = block.attn, block.norm1(x)
        q, k, v = attn.qkv(y).reshape(len(x), tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = attn.q_norm(q), attn.k_norm(k)
        weights = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = (weights + bias if number >= len(vit.blocks) - layers else weights).softmax(-1)
        x = x + block.ls1(attn.proj((weights @ v).transpose(1, 2).reshape(x.shape)))
        x = x + block.ls2(block.mlp(block.norm2(x)))
        after.append(x)
    return after, vit.norm(x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layers", [0, 1, 3, 12])
def test_variants_equal_the_plain_form(vit, batch, variant, layers):
    after, last = plain(vit, *batch, layers, variant)
    guided = MaskGuidedViT(vit, layers, variant)
    torch.testing.assert_close(guided(*batch), last[:, 0], atol=2e-4, rtol=2e-4)
    x, grid = guided.embed(batch[0])
    inside = guided.inside(batch[1], grid)
    for count in (1, 2, 4):
        found = guided.tail(guided.trunk(x, inside, 4 - count), inside, LastBlocks(guided, count).blocks)
        torch.testing.assert_close(found, last[:, 0], atol=2e-4, rtol=2e-4)
    tapped = guided.tapped(x, inside, {1, 3})
    assert sorted(tapped) == [1, 3]
    for number, tokens in tapped.items():
        torch.testing.assert_close(tokens, after[number - 1], atol=2e-4, rtol=2e-4)


def test_the_variants_differ(vit, batch):
    found = [MaskGuidedViT(vit, 3, variant)(*batch)[0] for variant in VARIANTS]
    assert all((one - other).abs().max() > 1e-3 for i, one in enumerate(found) for other in found[:i])


def test_threshold(vit, batch):
    images, _ = batch
    masks = torch.zeros(3, 1, 64, 64)
    masks[:, :, 10:12, 8:56] = 1  # a line that covers a quarter of six patches
    found = [
        MaskGuidedViT(vit, 4, threshold=threshold).inside(masks, (8, 8)).sum(1).tolist() for threshold in (0.5, 0.25)
    ]
    assert found == [[0] * 3, [6] * 3]
    _, last = plain(vit, images, masks, 4, "class", 0.25)
    torch.testing.assert_close(MaskGuidedViT(vit, 4, threshold=0.25)(images, masks), last[:, 0], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("options", [{"mask_tokens": "some"}, {"threshold": 0.0}, {"threshold": 1.5}])
def test_refused(vit, options):
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        MaskGuidedViT(vit, **options)


@pytest.mark.parametrize("train_blocks", [0, 1, 2])
def test_only_what_should_train_gets_gradients(vit, batch, train_blocks):
    guided = MaskGuidedViT(vit)
    tail = LastBlocks(guided, train_blocks)
    network = Network(tail, 5, 2, 16, 8)
    x, inside = tail.front()(*batch)
    logits, projected = network(x, inside)
    assert logits.shape == (2, 3, 5) and projected.shape == (3, 8)
    (logits.sum() + projected[:, 0].sum()).backward()
    assert len(tail.blocks) == max(1, train_blocks)
    assert all((p.grad is not None) == (train_blocks > 0) for p in tail.parameters())
    assert all(p.grad is not None for part in (network.heads, network.projection) for p in part.parameters())
    assert all(p.grad is None and not p.requires_grad for p in vit.parameters())
    assert {name.split(".")[0] for name in network.state_dict()} == {"tail", "heads", "projection"}


@pytest.mark.parametrize("train_blocks", [0, 1])
def test_the_adapter_starts_as_the_descriptor(batch, train_blocks):
    describe = Descriptor(MaskGuidedViT(tiny_vit()), ClusteringConfig())
    front, tail = descriptor_front(describe), Adapter(96, train_blocks)
    x, inside = front(*batch)
    assert x.shape == (3, 1, 96) and inside.shape == (3, 0)
    torch.testing.assert_close(unit_features(front, tail)(*batch), describe(*batch))
    Network(tail, 5, 2, 16, 8)(x, inside)[0][..., 0].sum().backward()
    assert (tail.weight.grad is not None) == (train_blocks > 0)


def test_the_class_tokens_row_alone_costs_a_fraction_of_the_block():
    vit = tiny_vit()
    guided = MaskGuidedViT(vit)
    x, inside = torch.randn(2, 65, 48), torch.ones(2, 64, dtype=torch.bool)
    costs = []
    for run in (
        lambda: guided.guided_block(vit.blocks[-1], x, inside),
        lambda: guided.tail(x, inside, vit.blocks[-1:]),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        costs.append(counter.get_total_flops())
    assert costs[1] < costs[0] / 4


@pytest.fixture(scope="module")
def trunk():
    backbone = tiny_transformer()
    return Trunk(backbone, LastBlocks(MaskGuidedViT(backbone), 1).front(), ("crop", "flip", "rotate", "colour"))


def test_the_cache_holds_the_trunks_tokens(trunk):
    """Each slot is what the trunk says of the view with its key, with the view's own mask; float16 rounds."""
    subs, own = drawn(2), np.array([4, 1, 0])
    ticks = []
    cache = TokenCache(trunk, subs, own, 3, (0, 5, 2), ticks.append, 4)
    assert ticks[0] == 0 and ticks == sorted(ticks) and ticks[-1] < 1 and len(ticks) == 3
    items, slots = [0, 4, 4, 1], [2, 0, 1, 1]
    x, inside = cache(items, slots)
    fresh, fresh_inside = trunk([subs[i] for i in items], [(0, 5, 2, i, s) for i, s in zip(items, slots, strict=True)])
    assert x.dtype == torch.float32 and cache.tokens.dtype == torch.float16 and torch.equal(inside, fresh_inside)
    torch.testing.assert_close(x, fresh, atol=2e-3, rtol=2e-3)
    assert not torch.equal(x[1], x[2]) and not inside[0].any() and inside[1].any()
    network = Network(LastBlocks(MaskGuidedViT(trunk.backbone), 1), 4, 2, 16, 8).eval()
    for kept, computed in zip(network(x, inside), network(fresh, fresh_inside), strict=True):
        torch.testing.assert_close(kept, computed, atol=5e-3, rtol=5e-3)
    expected = cache.tokens[0].numel() * 2 + cache.inside[0].numel()
    assert trunk.bytes_per_view(subs[0]) == expected


def test_huge_activations_stay_finite_in_the_cache(trunk, monkeypatch):
    monkeypatch.setattr(
        Trunk,
        "__call__",
        lambda self, subs, keys: (torch.full((len(subs), 2, 3), 1e6), torch.ones(len(subs), 1, dtype=bool)),
    )
    assert torch.isfinite(TokenCache(trunk, drawn(1), np.arange(3), 2, (0,), lambda done: None, 4).tokens).all()


def test_class_tokens_are_those_of_the_whole_network():
    backbone = tiny_transformer()
    guided = MaskGuidedViT(backbone)
    images, masks = tensors(backbone, [plain_view(sub, 64) for sub in drawn(1)])
    assert (
        images.shape == (3, 3, 64, 64) and masks.shape == (3, 1, 64, 64) and set(masks.unique().tolist()) == {0.0, 1.0}
    )
    tail = LastBlocks(guided, 2)
    found = unit_features(tail.front(), tail)(images, masks)
    torch.testing.assert_close(found, F.normalize(guided(images, masks), dim=-1), atol=1e-4, rtol=1e-4)


# descriptors


@pytest.mark.parametrize("blocks", [((1, 3), (2,)), (None, (4,)), ((4,), None), (None, None)])
def test_descriptors_are_concatenated_unit_parts(batch, blocks):
    vit = tiny_vit()
    class_blocks, patch_blocks = blocks
    config = ClusteringConfig(descriptor="tokens", class_blocks=class_blocks, patch_blocks=patch_blocks)
    found = Descriptor(MaskGuidedViT(vit), config)(*batch)
    after, _ = plain(vit, *batch, 9, "class")
    coverage = F.avg_pool2d(batch[1], 8).flatten(1)
    if blocks == (None, None):
        patch_blocks = (2,)  # the middle
    for i in range(3):
        parts = [after[block - 1][i, 0] for block in class_blocks or ()]
        for block in patch_blocks or ():
            weights = coverage[i] / max(float(coverage[i].sum()), 1e-6)
            parts.append((weights[:, None] * after[block - 1][i, 1:]).sum(0))
        expected = torch.cat([F.normalize(part, dim=-1) for part in parts])
        torch.testing.assert_close(found[i], F.normalize(expected, dim=-1), atol=2e-4, rtol=2e-4)


def test_class_token_descriptor(batch):
    guided = MaskGuidedViT(tiny_vit(), 2)
    found = Descriptor(guided, ClusteringConfig(descriptor="class_token"))(*batch)
    torch.testing.assert_close(found, F.normalize(guided(*batch), dim=-1))


@pytest.mark.parametrize(("depth", "blocks"), [(12, (8, 6)), (4, (3, 2)), (1, (1, 1))])
def test_salient_descriptor_taps_two_thirds_and_half_of_the_depth(batch, depth, blocks):
    guided = MaskGuidedViT(tiny_vit(depth=depth), 1)
    named = ClusteringConfig(descriptor="tokens", class_blocks=blocks[:1], patch_blocks=blocks[1:], weights="salience")
    found, expected = (Descriptor(guided, config)(*batch) for config in (ClusteringConfig(), named))
    assert torch.equal(found, expected) and found.shape == (3, 96)


def test_salience_is_the_distance_to_what_is_most_alike_outside():
    rng = np.random.default_rng(0)
    patches = torch.from_numpy(rng.normal(size=(1, 12, 5)).astype(np.float32))
    coverage = torch.tensor([[1.0, 0.1, 0.6] + [0.0] * 9])
    patches[0, 2] = 3 * patches[0, 7]  # covered, and just what is outside
    found = salience(patches, coverage, power=2.0)
    unit = (patches / patches.norm(dim=-1, keepdim=True))[0].numpy()
    for patch in (0, 1):
        expected = (1 - (unit[patch] @ unit[3:].T).max()) ** 2
        assert float(found[0, patch]) == pytest.approx(expected, rel=1e-4), "however little of it is covered"
    assert float(found[0, 2]) == pytest.approx(0, abs=1e-9)
    assert not found[0, 3:].any()


def test_salience_falls_back_to_the_coverage():
    patches = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 8, 5)).astype(np.float32))
    coverage = torch.full((3, 8), 0.5)
    coverage[0, :4] = 0.0  # too few outside to tell what is usual
    coverage[1] = 0.0  # no region
    patches[2], coverage[2, 2:] = 1.0, 0.0  # all alike: nothing differs
    assert torch.equal(salience(patches, coverage), coverage)


# whitening


def test_views_to_compare_are_spread_evenly():
    rows, keys = views_to_compare(5, 12, seed=0)
    assert sorted(np.bincount(rows, minlength=5)) == [2, 2, 2, 3, 3] and len(set(keys)) == 12 and min(keys) >= 5
    assert [key % 5 for key in keys] == rows.tolist()
    assert np.bincount(views_to_compare(5, 1000, seed=0)[0]).tolist() == [8] * 5  # at most 8 of each


def test_whitening_damps_what_differs_between_views():
    """Two kinds differ along the second axis; views differ along the first, ten times as much."""
    rng = np.random.default_rng(0)
    kinds = np.repeat([0.0, 0.3], 40)
    plain_ones = np.stack([rng.normal(0, 1, 80), kinds + rng.normal(0, 0.02, 80), rng.normal(0, 0.02, 80)], axis=1)
    rows = np.arange(160) % 80
    views = plain_ones[rows] + rng.normal(0, [1, 0.02, 0.02], (160, 3))
    linear = whitening(plain_ones, rows, views)
    white = after(linear, plain_ones.astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1, atol=1e-5)
    mapped_views = linear(torch.from_numpy((views - plain_ones[rows]).astype(np.float32))) - linear(torch.zeros(1, 3))
    spread = mapped_views.std(0)
    assert float(spread.max() / spread.min()) < 50 / 3  # it was 50
    np.testing.assert_allclose(linear(torch.from_numpy(plain_ones.astype(np.float32))).mean(0), 0, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in linear.parameters())


def test_whitening_of_equal_views_only_centres():
    embeddings = np.array([[1.0, 0.0], [0.0, 3.0]], np.float32)
    linear = whitening(embeddings, np.array([0, 1]), embeddings)
    moved = linear(torch.from_numpy(embeddings)).numpy()
    scale = moved[0, 0] / 0.5
    np.testing.assert_allclose(moved, scale * (embeddings - embeddings.mean(axis=0)), atol=1e-5)


def test_weights_by_coverage_and_by_distance(batch):
    guided = MaskGuidedViT(tiny_vit(), 0)
    sharp = Descriptor(guided, ClusteringConfig(descriptor="tokens", weights="coverage", weight_temperature=1e-3))
    by_mask = Descriptor(guided, ClusteringConfig(descriptor="tokens"))
    masks = torch.zeros(3, 1, 64, 64)
    masks[:, :, 8:48, 32:] = 1  # patches are inside or outside, none in part
    torch.testing.assert_close(sharp(batch[0], masks), by_mask(batch[0], masks), atol=1e-3, rtol=1e-3)
    config = ClusteringConfig(descriptor="tokens", weights="distance", weight_temperature=1e-3)
    first = Descriptor(guided, config)
    assert first.needs_references and not by_mask.needs_references
    references = first.collect([batch, batch])
    assert references.shape == (1, 6, 64, 48) and references.dtype == np.float16
    changed = batch[0].clone()
    changed[0, :, 16:24, 40:48] = 5.0  # one patch unlike any other
    bank = torch.from_numpy(references.astype(np.float32))
    found = Descriptor(guided, config, bank)(changed, batch[1])
    x, _ = guided.embed(changed)
    odd = guided.tapped(x, torch.ones(3, 64, dtype=torch.bool), {2})[2][0, 1 + 2 * 8 + 5]
    assert float(found[0] @ F.normalize(odd, dim=-1)) > 0.99


def test_patch_novelty_is_the_mean_over_references():
    torch.manual_seed(0)
    patches, references = torch.randn(2, 5, 4), F.normalize(torch.randn(3, 6, 4), dim=-1)
    expected = torch.stack(
        [torch.cdist(F.normalize(patches, dim=-1), r[None].expand(2, -1, -1)).amin(-1) for r in references]
    ).mean(0)
    torch.testing.assert_close(patch_novelty(patches, references), expected, atol=1e-4, rtol=1e-4)


def test_a_block_that_does_not_exist_is_named():
    with pytest.raises(InvalidArgumentError, match="block 9 does not exist: this transformer has blocks 1 to 4"):
        Descriptor(MaskGuidedViT(tiny_vit()), ClusteringConfig(descriptor="tokens", patch_blocks=(2, 9)))
