"""Networks that compare maps of patch features: the relation network and the contrastive one (liu2024, figures 3, 5).

A map is (P, D): D channels at P = h * w positions, row by row. A 1x1 convolution is a linear layer on the channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

_QUERIES = 2  # that are compared at once in evaluation; one with 25 supports of 28 x 28 patches takes 10 MB


class ContrastiveNetwork(nn.Module):
    """Maps to unit vectors: 1x1 convolutions to 256 and 128 channels, then one linear layer to 128.

    channels   D
    positions  P; the last layer has weights for each position

    The paper names the layers alone. Here a ReLU follows each convolution, without which all would be one linear map,
    and the vectors have length 1, as is usual with the temperature of 0.07 (SimCLR, MoCo).
    """

    def __init__(self, channels: int, positions: int):
        super().__init__()
        self.channels, self.positions = channels, positions
        self.first, self.second = nn.Linear(channels, 256), nn.Linear(256, 128)
        self.last = nn.Linear(128 * positions, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, P, D) to unit vectors (N, 128)."""
        x = F.relu(self.second(F.relu(self.first(x), inplace=True)), inplace=True)
        return F.normalize(self.last(x.flatten(1)), dim=-1)


class RelationNetwork(nn.Module):
    """How much each query is like each support: a classifier over the two maps, concatenated.

    1x1 convolution of 2 D channels to 512 and another to 128, linear layer to 128, each with batch normalisation and
    ReLU; linear layer to 1, whose sigmoid is the relation score.

    channels   D
    positions  P; the linear layer has weights for each position

    It compares all supports with all queries. The first convolution is the sum of one of the support and one of the
    query, computed once for each, and what its normalisation needs of the pairs follows from their covariance.
    """

    def __init__(self, channels: int, positions: int):
        super().__init__()
        self.channels, self.positions = channels, positions
        self.first, self.first_norm = nn.Linear(2 * channels, 512), nn.BatchNorm1d(512)
        self.second, self.second_norm = nn.Linear(512, 128), nn.BatchNorm2d(128)
        self.last, self.last_norm = nn.Linear(128 * positions, 128), nn.BatchNorm1d(128)
        self.score = nn.Linear(128, 1)

    def forward(self, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """(M, P, D) and (Q, P, D) to the logits (Q, M) of the relation scores of all pairs."""
        if not self.training:
            return self.compare(*self.halves(support, query))
        x = _PairLayer.apply(*self.halves(support, query), self.second.weight, self.second.bias)
        x = self.second_norm(x.flatten(0, 1)[:, :, None].permute(0, 3, 1, 2))  # a view: channels last, one column
        x = F.relu(x.permute(0, 2, 3, 1)).flatten(1)
        return self.score(F.relu(self.last_norm(self.last(x)))).reshape(len(query), len(support))

    def halves(self, support: torch.Tensor, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalised first convolution as two summands: (M, P, 512) of supports and (Q, P, 512) of queries."""
        norm, channels = self.first_norm, support.shape[2]
        mean, var = norm.running_mean, norm.running_var
        if self.training:
            mean, var = self._moments(support, query)
            norm.running_mean.lerp_(mean.detach(), norm.momentum)
            count = len(support) * len(query) * support.shape[1]
            norm.running_var.lerp_(var.detach() * (count / max(1, count - 1)), norm.momentum)
            norm.num_batches_tracked += 1
        scale = norm.weight * (var + norm.eps).rsqrt()
        weight = self.first.weight * scale[:, None]
        bias = (self.first.bias - mean) * scale + norm.bias
        return F.linear(support, weight[:, :channels]), F.linear(query, weight[:, channels:], bias)

    def compare(self, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """`forward` of evaluation from `halves`: (M, P, 512) and (Q, P, 512) to logits (Q, M)."""
        norm = self.second_norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = self.second.weight * scale[:, None], (self.second.bias - norm.running_mean) * scale + norm.bias
        found = [query.new_zeros(0, len(support))]
        for some in query.split(_QUERIES):
            x = F.relu(_PairLayer.apply(support, some, weight, bias), inplace=True)
            x = self.score(F.relu(self.last_norm(self.last(x.flatten(2).flatten(0, 1)))))
            found.append(x.reshape(len(some), len(support)))
        return torch.cat(found)

    def _moments(self, support: torch.Tensor, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance (512,) of the first convolution over all pairs and positions."""
        with torch.no_grad():
            means = [maps.mean((0, 1)) for maps in (support, query)]
            centred = [maps - mean for maps, mean in zip((support, query), means, strict=True)]
            own = [rows.T @ rows / len(rows) for rows in (maps.flatten(0, 1) for maps in centred)]
            across = centred[0].mean(0).T @ centred[1].mean(0) / support.shape[1]  # positions are what pairs share
            covariance = torch.cat([torch.cat([own[0], across], 1), torch.cat([across.T, own[1]], 1)])
        weight = self.first.weight
        return self.first(torch.cat(means)), ((weight @ covariance) * weight).sum(1).clamp_min(0)


class _PairLayer(torch.autograd.Function):
    """relu(support + query) of all pairs through a linear layer: pair by pair, so that it stays in the cache.

    (M, P, C) and (Q, P, C), weight (E, C), bias (E,) to (Q, M, P, E); 28 x 28 positions of 512 channels are 1.6 MB for
    every pair, and would be written and read several times by way of the memory.
    """

    @staticmethod
    def forward(ctx, support, query, weight, bias):
        ctx.save_for_backward(support, query, weight)
        out = query.new_empty(len(query), len(support), support.shape[1], len(weight))
        x = torch.empty_like(support[0])
        for q in range(len(query)):
            for m in range(len(support)):
                torch.add(query[q], support[m], out=x).relu_()
                torch.addmm(bias, x, weight.T, out=out[q, m])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        support, query, weight = ctx.saved_tensors
        grads = [torch.zeros_like(tensor) for tensor in (support, query, weight)]
        x, slope = torch.empty_like(support[0]), torch.empty_like(support[0])
        for q in range(len(query)):
            for m in range(len(support)):
                torch.add(query[q], support[m], out=x).relu_()
                grads[2].addmm_(grad[q, m].T, x)
                torch.mm(grad[q, m], weight, out=slope).mul_(x.sign_())
                grads[0][m] += slope
                grads[1][q] += slope
        return *grads, grad.sum((0, 1, 2))
