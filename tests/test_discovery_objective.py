"""anomalyhub.discovery.objective: pseudo-labels, schedules, and the weighted sum of the terms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anomalyhub.discovery import AnomalyNCDConfig
from anomalyhub.discovery.objective import TERMS, Objective, learning_rate, pseudo_labels, teacher_temperature

PAPER = AnomalyNCDConfig()
N_BASE, N_NOVEL, BATCH, HEADS = 2, 3, 6, 2


@pytest.fixture
def batch():
    """Logits, projections, labels and scores of six sub-images, of which two are base."""
    torch.manual_seed(0)
    logits = torch.rand(HEADS, 2, BATCH, N_BASE + N_NOVEL) * 2 - 1
    projected = F.normalize(torch.randn(2, BATCH, 7), dim=-1)
    labels = torch.tensor([-1, 1, -1, 0, -1, -1])
    scores = torch.tensor([0.0, 0.9, 0.3, 0.1, 0.5, 1.0])
    return logits.requires_grad_(), projected.requires_grad_(), labels, scores


def test_pseudo_labels_follow_equation_4(batch):
    logits, _, labels, scores = batch
    novel = labels < 0
    found = pseudo_labels(logits[:, :, novel].detach(), N_BASE, 0.05, scores[novel])
    assert torch.equal(found[..., :N_BASE], torch.zeros(HEADS, 2, 4, N_BASE))
    for i, index in enumerate(torch.nonzero(novel)[:, 0]):
        w = max(0.5 - float(scores[index]), 0.0)
        q = (logits[:, :, index, N_BASE:] / 0.05).softmax(-1)
        expected = (1 - w) * q + w * torch.tensor([1.0, 0.0, 0.0])
        torch.testing.assert_close(found[:, :, i, N_BASE:], expected)
    raw = pseudo_labels(logits[:, :, novel].detach(), N_BASE, 0.05, None)
    torch.testing.assert_close(raw[..., N_BASE:], (logits[:, :, novel, N_BASE:] / 0.05).softmax(-1).detach())
    torch.testing.assert_close(found.sum(-1), torch.ones(HEADS, 2, 4))


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.07),
        (3, 0.07),
        (4, 0.07 - 0.03 / 9),
        (7, 0.07 - 0.03 / 9),
        (35, 0.07 - 0.03 * 8 / 9),
        (36, 0.04),
        (49, 0.04),
    ],
)
def test_the_teacher_gets_sharper(epoch, expected):
    assert teacher_temperature(PAPER, epoch) == pytest.approx(expected)


def test_the_learning_rate_falls_to_a_thousandth():
    rates = [learning_rate(PAPER, epoch) for epoch in range(51)]
    assert rates[0] == pytest.approx(0.003) and rates[50] == pytest.approx(3e-6) and rates == sorted(rates)[::-1]
    assert rates[25] == pytest.approx((0.003 + 3e-6) / 2)


def test_the_loss_is_the_weighted_sum(batch):
    logits, projected, labels, scores = batch
    loss, terms = Objective(PAPER, N_BASE)(logits, projected, labels, scores, 0.05)
    assert set(terms) == set(TERMS)
    assert all(
        terms[name].shape == (() if name in ("supervised_contrastive", "info_nce") else (HEADS,)) for name in TERMS
    )
    value = {name: float(term.detach().mean()) for name, term in terms.items()}
    supervised = value["supervised_contrastive"] + value["cross_entropy"]
    rest = value["info_nce"] + value["self_distillation"] + 4 * value["mean_entropy"]
    assert float(loss.detach()) == pytest.approx(0.3 * supervised + 0.7 * rest, rel=1e-5)
    expected = terms["self_distillation"] + 4 * terms["mean_entropy"]
    torch.testing.assert_close(Objective(PAPER, N_BASE).clustering(terms), expected)
    labelled = torch.cat([logits[0, 0, labels >= 0], logits[0, 1, labels >= 0]]) / 0.1
    expected = F.cross_entropy(labelled, torch.tensor([1, 0, 1, 0]))
    torch.testing.assert_close(terms["cross_entropy"][0], expected)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_can_be_switched_off_and_weighed(batch, term):
    logits, projected, labels, scores = batch
    losses = []
    for weight in (0.0, 1.0, 2.0):
        config = dataclasses.replace(PAPER, **{f"weight_{term}": weight})
        losses.append(float(Objective(config, N_BASE)(logits, projected, labels, scores, 0.05)[0].detach()))
    assert losses[1] > losses[0] and losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_temperatures_and_correction_are_settings(batch):
    logits, projected, labels, scores = batch
    terms = {}
    for name, changes in {
        "code": {},
        "text": {"temperature_info_nce": 0.07, "temperature_supervised": 1.0},
        "uncorrected": {"correct_pseudo_labels": False},
    }.items():
        objective = Objective(dataclasses.replace(PAPER, **changes), N_BASE)
        terms[name] = {
            key: float(x.detach().mean()) for key, x in objective(logits, projected, labels, scores, 0.05)[1].items()
        }
    assert terms["text"]["info_nce"] != pytest.approx(terms["code"]["info_nce"])
    assert terms["text"]["supervised_contrastive"] != pytest.approx(terms["code"]["supervised_contrastive"])
    assert terms["uncorrected"]["self_distillation"] != pytest.approx(terms["code"]["self_distillation"])


@pytest.mark.parametrize("labels", [[-1] * BATCH, [0] * BATCH, [1, 0, 1, 0, 1, 0]])
def test_batches_of_one_sort(batch, labels):
    """A batch may by chance hold base sub-images alone, or none; all parameters still get gradients."""
    logits, projected, _, scores = batch
    loss, terms = Objective(PAPER, N_BASE)(logits, projected, torch.tensor(labels), scores, 0.05)
    loss.backward()
    assert torch.isfinite(loss.detach()) and torch.isfinite(logits.grad).all() and torch.isfinite(projected.grad).all()
    absent = ("supervised_contrastive", "cross_entropy") if labels[0] < 0 else ("self_distillation", "mean_entropy")
    assert all(float(terms[name].detach().abs().sum()) == 0 for name in absent)


def test_no_gradient_passes_through_the_teacher(batch):
    logits, projected, _, scores = batch
    config = dataclasses.replace(PAPER, weight_info_nce=0.0, weight_mean_entropy=0.0)
    loss, _ = Objective(config, 0)(logits, projected, torch.full((BATCH,), -1), scores, 0.05)
    loss.backward()
    student = (logits.detach() / 0.1).softmax(-1)
    teacher = pseudo_labels(logits.detach(), 0, 0.05, scores).flip(1)
    expected = 0.7 * (student - teacher) / 0.1 / (2 * BATCH) / HEADS
    np.testing.assert_allclose(logits.grad, expected, atol=1e-6)
