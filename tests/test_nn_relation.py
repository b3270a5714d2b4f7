"""The relation and contrastive networks against the published layers, written out plainly pair by pair."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from anomalyhub.nn.relation import ContrastiveNetwork, RelationNetwork

P, D = 6, 5  # positions and channels


def maps(count: int, seed: int, positions: int = P, channels: int = D) -> torch.Tensor:
    """Maps with a mean and covariances, so that what leaves them out shows."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, positions, channels, generator=generator) @ torch.randn(
        channels, channels, generator=generator
    )
    return mixed + torch.randn(positions, channels, generator=generator)


def made(kind, seed: int = 0, positions: int = P, channels: int = D):
    torch.manual_seed(seed)
    network = kind(channels, positions)
    for name, value in network.named_parameters():  # normalisations start at 1 and 0, which hides their mistakes
        if "norm" in name:
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return network


def plain_relation(network: RelationNetwork, support: torch.Tensor, query: torch.Tensor, training: bool):
    """Concatenate, convolve, normalise: every pair by itself."""
    pairs = [torch.cat([s, q], 1) for q in query for s in support]
    x = torch.stack(pairs).transpose(1, 2)[..., None]  # (pairs, 2 D, P, 1)

    def norm(layer, values):
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
        return F.batch_norm(values, mean, var, layer.weight, layer.bias, training), mean, var

    x, *first = norm(network.first_norm, F.conv2d(x, network.first.weight[..., None, None], network.first.bias))
    x = F.conv2d(x.relu(), network.second.weight[..., None, None], network.second.bias)
    x, *second = norm(network.second_norm, x)
    x = x.relu()[..., 0].transpose(1, 2).flatten(1)
    x, *last = norm(network.last_norm, F.linear(x, network.last.weight, network.last.bias))
    x = F.linear(x.relu(), network.score.weight, network.score.bias)
    return x.reshape(len(query), len(support)), [*first, *second, *last]


def buffers(network):
    norms = (network.first_norm, network.second_norm, network.last_norm)
    return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]


def test_published_layers_have_so_many_parameters():
    """1024 channels on 28 x 28 patches: residuals of a ResNet-50 at 224 pixels."""
    counts = {}
    for kind in (RelationNetwork, ContrastiveNetwork):
        with torch.device("meta"):
            counts[kind] = sum(parameter.numel() for parameter in kind(1024, 28 * 28).parameters())
    fully_connected = 128 * 28 * 28 * 128 + 128
    assert counts[ContrastiveNetwork] == (1024 * 256 + 256) + (256 * 128 + 128) + fully_connected == 13_140_480
    assert counts[RelationNetwork] == (
        (2048 * 512 + 512 + 2 * 512) + (512 * 128 + 128 + 2 * 128) + (fully_connected + 2 * 128) + (128 + 1)
    )
    assert counts[RelationNetwork] == 13_961_601


@pytest.mark.parametrize("training", [True, False])
def test_relation_equals_the_plain_network(training):
    network, support, query = made(RelationNetwork).train(training), maps(3, 1), maps(4, 2)
    for buffer in buffers(network):
        buffer.uniform_(0.5, 1.5)
    expected, statistics = plain_relation(network, support, query, training)
    found = network(support, query)
    assert found.shape == (4, 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(buffers(network), statistics, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert int(network.first_norm.num_batches_tracked) == int(training)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_equal_those_of_the_plain_network(training):
    network, support, query = made(RelationNetwork).train(training), maps(3, 1), maps(2, 2)
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    parameters = dict(network.named_parameters())

    def gradients(logits):
        loss = F.binary_cross_entropy_with_logits(logits, targets)
        return torch.autograd.grad(loss, parameters.values())

    expected = gradients(plain_relation(network, support, query, training)[0])
    for name, one, other in zip(parameters, gradients(network(support, query)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_halves_of_evaluation_are_computed_apart():
    network, support, query = made(RelationNetwork).eval(), maps(3, 1), maps(5, 2)
    own, _ = network.halves(support, support[:0])
    _, other = network.halves(query[:0], query)
    torch.testing.assert_close(network.compare(own, other), network(support, query))
    assert network.compare(own, other[:0]).shape == (0, 3)


def test_relation_tells_support_from_query():
    network, one, other = made(RelationNetwork).eval(), maps(1, 1), maps(1, 2)
    assert not torch.allclose(network(one, other), network(other, one), atol=1e-4)


def test_contrastive_embeddings():
    network, x = made(ContrastiveNetwork), maps(3, 4)
    channels_first = x.transpose(1, 2)[..., None]
    y = F.conv2d(channels_first, network.first.weight[..., None, None], network.first.bias).relu()
    y = F.conv2d(y, network.second.weight[..., None, None], network.second.bias).relu()
    y = F.linear(y[..., 0].transpose(1, 2).flatten(1), network.last.weight, network.last.bias)
    expected = y / y.norm(dim=1, keepdim=True)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-6)
    assert network(x).shape == (3, 128)
    assert not torch.allclose(network(x.flip(1)), expected, atol=1e-3)  # where a patch lies matters
