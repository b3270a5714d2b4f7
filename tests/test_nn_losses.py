"""anomalyhub.nn.losses and heads against loops that follow the formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from anomalyhub.nn.heads import CosineHeads, ProjectionHead
from anomalyhub.nn.losses import cross_entropy, info_nce, mean_entropy, self_distillation, supervised_contrastive

HEADS, COUNT, CLASSES, DIM = 3, 5, 4, 7


@pytest.fixture
def views():
    torch.manual_seed(0)
    return tuple(F.normalize(torch.randn(COUNT, DIM), dim=-1) for _ in range(2))


@pytest.fixture
def logits():
    torch.manual_seed(1)
    return torch.randn(HEADS, 2, COUNT, CLASSES)


def plain_contrastive(first, second, positives, temperature):
    """Mean over the anchors of the mean over their positives of -log(exp(s_p) / sum over all others of exp(s))."""
    views = torch.cat([first, second])
    losses = []
    for anchor in range(len(views)):
        others = [i for i in range(len(views)) if i != anchor]
        similarity = {i: float(views[anchor] @ views[i]) / temperature for i in others}
        total = math.log(sum(math.exp(value) for value in similarity.values()))
        chosen = positives(anchor, others)
        losses.append(sum(total - similarity[i] for i in chosen) / len(chosen))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce(views, temperature):
    expected = plain_contrastive(*views, lambda anchor, others: [(anchor + COUNT) % (2 * COUNT)], temperature)
    assert float(info_nce(*views, temperature)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1], [3, 3, 3, 3, 3], [0, 1, 2, 3, 4]])
def test_supervised_contrastive(views, labels):
    both = labels * 2
    expected = plain_contrastive(*views, lambda anchor, others: [i for i in others if both[i] == both[anchor]], 0.5)
    value = supervised_contrastive(*views, torch.tensor(labels), 0.5)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    if labels == [0, 1, 2, 3, 4]:  # without a second image of a class, only the other view is a positive
        assert float(value) == pytest.approx(float(info_nce(*views, 0.5)), rel=1e-6)


def test_one_image_has_nothing_to_be_told_from(views):
    assert float(info_nce(views[0][:1], views[1][:1], 0.1)) == 0.0
    assert float(supervised_contrastive(views[0][:1], views[1][:1], torch.tensor([2]), 0.1)) == 0.0


def test_self_distillation(logits):
    teacher = (logits * 3).softmax(-1)
    values = self_distillation(logits, teacher, 0.1)
    for head in range(HEADS):
        expected = 0.0
        for view in (0, 1):
            for i in range(COUNT):
                p = (logits[head, view, i] / 0.1).softmax(-1)
                expected -= float((teacher[head, 1 - view, i] * p.log()).sum()) / (2 * COUNT)
        assert float(values[head]) == pytest.approx(expected, rel=1e-4)


def test_mean_entropy(logits):
    flat = logits.flatten(1, 2)
    values = mean_entropy(flat, 0.1)
    mean = (flat / 0.1).softmax(-1).mean(1)
    expected = math.log(CLASSES) + (mean * mean.log()).sum(-1)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-6)
    assert (values >= 0).all()
    balanced = 50 * torch.eye(CLASSES)[None]  # each class is predicted once
    assert float(mean_entropy(balanced, 1.0)) == pytest.approx(0.0, abs=1e-6)
    one_class = torch.zeros(1, COUNT, CLASSES)
    one_class[..., 2] = 50
    assert float(mean_entropy(one_class, 1.0)) == pytest.approx(math.log(CLASSES), rel=1e-5)


def test_cross_entropy(logits):
    flat, labels = logits[:, 0], torch.tensor([0, 3, 1, 1, 2])
    expected = torch.stack([F.cross_entropy(head / 0.1, labels) for head in flat])
    torch.testing.assert_close(cross_entropy(flat, labels, 0.1), expected)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: info_nce(x[0, 0, :0], x[0, 1, :0], 0.1),
        lambda x: supervised_contrastive(x[0, 0, :0], x[0, 1, :0], torch.zeros(0, dtype=torch.int64), 0.1),
        lambda x: self_distillation(x[:, :, :0], x[:, :, :0].detach(), 0.1).sum(),
        lambda x: mean_entropy(x[:, 0, :0], 0.1).sum(),
        lambda x: cross_entropy(x[:, 0, :0], torch.zeros(0, dtype=torch.int64), 0.1).sum(),
    ],
)
def test_an_empty_batch_costs_nothing(logits, loss):
    """And still has gradients, which processes that wait for each other's need."""
    logits.requires_grad_(True)
    value = loss(logits)
    value.backward()
    assert float(value.detach()) == 0.0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_cosine_heads():
    torch.manual_seed(0)
    heads = CosineHeads(DIM, CLASSES, HEADS)
    x = F.normalize(torch.randn(COUNT, DIM), dim=-1)
    logits = heads(x)
    assert logits.shape == (HEADS, COUNT, CLASSES) and logits.abs().max() <= 1 + 1e-6
    for head in range(HEADS):
        for label in range(CLASSES):
            row = heads.weight[head, label]
            torch.testing.assert_close(logits[head, :, label], x @ row / row.norm())
    with torch.no_grad():
        heads.weight *= 7
    torch.testing.assert_close(heads(x), logits)
    torch.testing.assert_close(heads.prototypes.norm(dim=-1), torch.ones(HEADS, CLASSES))


def test_projection_head():
    head = ProjectionHead(DIM, hidden=11, out=6)
    linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(DIM, 11), (11, 11), (11, 6)]
    assert isinstance(head[-1], torch.nn.Linear)
    torch.testing.assert_close(head(torch.randn(COUNT, DIM)).norm(dim=-1), torch.ones(COUNT))
