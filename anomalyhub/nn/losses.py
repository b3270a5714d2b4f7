"""Losses of contrastive, clustering and segmentation methods; 0, with zero gradients, for an empty batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def info_nce(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Self-supervised contrastive loss of two views (SimCLR: Chen et al., ICML 2020).

    first, second  unit vectors (N, D) of the same N images; each of the 2N views must find its other view among the
                   2N - 1 others
    """
    if not len(first):
        return first.sum() * 0
    views = torch.cat([first, second])
    logits = _without_self(views @ views.T / temperature)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(logits, partner)


def supervised_contrastive(first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor, temperature: float):
    """Contrastive loss with labels (Khosla et al., NeurIPS 2020): every view of the same class is a positive.

    first, second  unit vectors (N, D) of two views; labels  (N,) integers
    """
    if not len(first):
        return first.sum() * 0
    views, labels = torch.cat([first, second]), torch.cat([labels, labels])
    logits = _without_self(views @ views.T / temperature)
    log_probs = logits.log_softmax(-1)
    positive = labels[:, None] == labels
    positive.fill_diagonal_(False)
    per_view = log_probs.masked_fill(~positive, 0.0).sum(-1) / positive.sum(-1)
    return -per_view.mean()


def self_distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of each view with the other view's pseudo-label, per head (DINO: Caron et al., ICCV 2021).

    student  logits (H, 2, N, C); teacher  probabilities (H, 2, N, C), detached. Returns (H,).
    """
    if not student.shape[2]:
        return student.sum((1, 2, 3)) * 0
    log_probs = (student / temperature).log_softmax(-1)
    return -(teacher.flip(1) * log_probs).sum(-1).mean((1, 2))


def mean_entropy(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """log C minus the entropy of the mean prediction, at least 0: how unevenly the classes are used, per head.

    logits  (H, N, C). Returns (H,). Minimising it maximises the mean entropy (Assran et al., ECCV 2022).
    """
    if not logits.shape[1]:
        return logits.sum((1, 2)) * 0
    log_mean = (logits / temperature).log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])
    return math.log(logits.shape[-1]) + (log_mean.exp() * log_mean).sum(-1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Per head: logits (H, N, C) and labels (N,) to (H,)."""
    if not len(labels):
        return logits.sum((1, 2)) * 0
    log_probs = (logits / temperature).log_softmax(-1)
    return -log_probs.gather(-1, labels.expand(len(logits), -1)[..., None])[..., 0].mean(-1)


def focal(logits: torch.Tensor, targets: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """Mean of (1 - p)^gamma * -log p over all elements (Lin et al., ICCV 2017).

    logits   any shape; p is the probability that their sigmoid gives to the target
    targets  of that shape, bool
    """
    if not logits.numel():
        return logits.sum() * 0
    signed = torch.where(targets, logits, -logits)
    return ((-signed).sigmoid().pow(gamma) * -F.logsigmoid(signed)).mean()


def dice(probs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1), averaged over images (Milletari et al., 3DV 2016, without the squares).

    probs    (B, …) in [0, 1]
    targets  of that shape, bool; the ones make no probability in an empty mask perfect
    """
    if not len(probs):
        return probs.sum() * 0
    probs, targets = probs.flatten(1), targets.flatten(1).to(probs.dtype)
    overlap = 2 * (probs * targets).sum(1) + 1
    return (1 - overlap / (probs.sum(1) + targets.sum(1) + 1)).mean()


def _without_self(similarity: torch.Tensor) -> torch.Tensor:
    """A view is never compared with itself; a finite number, so that 0 times it is 0."""
    return similarity.masked_fill(torch.eye(len(similarity), dtype=torch.bool, device=similarity.device), -1e9)
