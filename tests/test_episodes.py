"""Episode lists of liu2024's algorithms 1 and 2, against lists written out by hand, and the losses on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalyhub.classification import create_classifier
from anomalyhub.classification.episodes import drawn_episodes, left_out_episodes, split_episodes, steps
from anomalyhub.errors import InvalidArgumentError


def plain(episodes):
    return [(episode.query, episode.target, episode.supports.tolist()) for episode in episodes]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # 2 classes, 3 shots, rows of the classes mixed: class 0 has rows 0 2 4, class 1 has 1 3 5
        (
            [0, 1, 0, 1, 0, 1],
            [
                (0, 0, [[2, 1], [4, 3]]),
                (2, 0, [[0, 1], [4, 3]]),
                (4, 0, [[0, 1], [2, 3]]),
                (1, 1, [[0, 3], [2, 5]]),
                (3, 1, [[0, 1], [2, 5]]),
                (5, 1, [[0, 1], [2, 3]]),
            ],
        ),
        # 3 classes, 2 shots
        (
            [0, 0, 1, 1, 2, 2],
            [
                (0, 0, [[1, 2, 4]]),
                (1, 0, [[0, 2, 4]]),
                (2, 1, [[0, 3, 4]]),
                (3, 1, [[0, 2, 4]]),
                (4, 2, [[0, 2, 5]]),
                (5, 2, [[0, 2, 4]]),
            ],
        ),
        # 3 shots and 1: the only row of a class is no query, and is taken again
        ([0, 0, 0, 1], [(0, 0, [[1, 3], [2, 3]]), (1, 0, [[0, 3], [2, 3]]), (2, 0, [[0, 3], [1, 3]])]),
        # 2 and 3
        (
            [1, 1, 1, 0, 0],
            [
                (3, 0, [[4, 0]]),
                (4, 0, [[3, 0]]),
                (0, 1, [[3, 1], [4, 2]]),
                (1, 1, [[3, 0], [4, 2]]),
                (2, 1, [[3, 0], [4, 1]]),
            ],
        ),
        # 1 shot: nothing to learn from
        ([0, 1, 2], []),
    ],
)
def test_algorithm_1(labels, expected):
    assert plain(left_out_episodes(np.array(labels))) == expected


class Last:
    """A generator whose choice is always the last."""

    def choice(self, members):
        return members[-1]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 0, 1, 0, 1], [(0, 0, [[4, 5]]), (2, 0, [[4, 5]]), (1, 1, [[4, 5]]), (3, 1, [[4, 5]])]),
        ([2, 0, 0, 1, 2], [(1, 0, [[2, 3, 4]]), (0, 2, [[2, 3, 4]])]),  # 2, 1 and 2 shots
        ([0, 1], []),
    ],
)
def test_algorithm_2(labels, expected):
    assert plain(split_episodes(np.array(labels), Last())) == expected


def test_algorithm_2_takes_every_row_for_a_support_in_turn():
    labels = np.repeat([0, 1, 2], 4)
    supports = set()
    for number in range(40):
        episodes = split_episodes(labels, np.random.default_rng((3, number)))
        assert len(episodes) == 9
        (chosen,) = {tuple(episode.supports[0].tolist()) for episode in episodes}
        assert labels[list(chosen)].tolist() == [0, 1, 2]
        assert sorted([episode.query for episode in episodes] + list(chosen)) == list(range(12))
        supports |= set(chosen)
    assert supports == set(range(12))
    again = [plain(split_episodes(labels, np.random.default_rng(7))) for _ in range(2)]
    assert again[0] == again[1]


def test_drawn_episodes():
    labels = np.repeat(np.arange(15), 4)
    seen = set()
    for number in range(30):
        episodes = drawn_episodes(labels, 10, 2, np.random.default_rng(number))
        supports = episodes[0].supports
        assert supports.shape == (1, 10) and len(episodes) == 20
        classes = labels[supports[0]]
        assert len(set(classes.tolist())) == 10
        for episode in episodes:
            assert np.array_equal(episode.supports, supports)
            assert labels[episode.query] == classes[episode.target] and episode.query != supports[0, episode.target]
        assert len({episode.query for episode in episodes}) == 20
        seen |= set(classes.tolist())
    assert seen == set(range(15))


def test_drawn_episodes_take_what_there_is():
    labels = np.array([0, 0, 1, 2, 2, 2, 2])
    episodes = drawn_episodes(labels, 10, 2, np.random.default_rng(0))
    assert episodes[0].supports.shape == (1, 3) and episodes[0].supports[0, 1] == 2
    assert [episode.target for episode in episodes] == [0, 2, 2]


def test_steps_take_the_classes_in_turn():
    episodes = left_out_episodes(np.array([0, 0, 0, 1, 1, 2, 2]))
    batches = steps(episodes, 3)
    assert [[episode.query for episode in batch] for batch in batches] == [[0, 3, 5], [1, 4, 6], [2]]
    assert [len(batch) for batch in steps(episodes, 5)] == [5, 2] and steps([], 4) == []


# What the heads make of them.


def head(name, **settings):
    return create_classifier(name, settings=settings)


def test_contrastive_loss_is_info_nce_of_each_query_and_set(rng):
    """Unequal shots, so that queries have different numbers of sets."""
    x = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(7, 128)).astype(np.float32)), dim=1)
    episodes = left_out_episodes(np.array([0, 0, 0, 1, 1, 2, 2]))
    losses, right = [], []
    for episode in episodes:
        cosines = np.array([[float(x[episode.query] @ x[row]) for row in one] for one in episode.supports])
        losses += [np.log(np.exp(row / 0.07).sum()) - row[episode.target] / 0.07 for row in cosines]
        right.append(cosines.mean(axis=0).argmax() == episode.target)
    loss, accuracy = head("contrastive")._loss(torch.nn.Identity(), lambda rows: x[rows], episodes)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-4) and float(accuracy) == pytest.approx(np.mean(right))


def test_relation_loss_weighs_positives_by_the_other_classes(rng):
    logits = torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32))
    episodes = split_episodes(np.array([0, 0, 1, 1, 1, 2, 2]), rng)

    def network(support, query):
        assert support.tolist() == episodes[0].supports[0].tolist()
        assert query.tolist() == [episode.query for episode in episodes]
        return logits

    scores, losses = 1 / (1 + np.exp(-logits.numpy().astype(np.float64))), []
    for row, episode in enumerate(episodes):
        for column in range(3):
            score = scores[row, column]
            losses.append(-2 * np.log(score) if column == episode.target else -np.log(1 - score))
    loss, accuracy = head("relation")._loss(network, torch.from_numpy, episodes)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    right = [scores[row].argmax() == episode.target for row, episode in enumerate(episodes)]
    assert float(accuracy) == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    ("name", "passes"),
    [("contrastive", {1: 0, 2: 45, 3: 25, 4: 15, 5: 15, 9: 15}), ("relation", {1: 0, 2: 45, 5: 45, 9: 45})],
)
def test_published_passes(name, passes):
    assert {shots: head(name)._passes(shots) for shots in passes} == passes


@pytest.mark.parametrize("name", ["contrastive", "relation"])
def test_maml_steps_down_the_gradient_first(name, rng):
    model = head(name, maml=True, maml_lr=0.1)
    network, values = model._new((4, 6)), torch.from_numpy(rng.normal(size=(6, 6, 4)).astype(np.float32))
    before = {key: value.clone() for key, value in network.named_parameters()}
    inner = split_episodes(np.array([0, 0, 1, 1, 2, 2]), rng)
    adapted = model._adapted(network, lambda rows: values[rows], inner)
    loss, _ = model._loss(adapted, lambda rows: values[rows], inner)
    loss.backward()
    plain = model._new((4, 6))
    model._loss(plain, lambda rows: values[rows], inner)[0].backward()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    expected, _ = model._loss(plain, lambda rows: values[rows], inner)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for (key, one), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
        assert torch.equal(one, before[key])  # the first step is undone


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "setting lr must be above 0"),
        ({"maml_lr": 2.0}, "setting maml_lr must be above 0 and at most 1, got 2.0"),
        ({"passes": -1}, "setting passes must be between 0 and 100000, got -1"),
        ({"queries_per_step": 0}, "setting queries_per_step must be between 1"),
        ({"pretrain_classes": 1}, "setting pretrain_classes must be between 2"),
        ({"pretrain_episodes": 0}, "setting pretrain_episodes must be between 1"),
        ({"pretrain_accuracy": 1.5}, "setting pretrain_accuracy must be between 0.0 and 1.0"),
        ({"temperature": 0.0}, "setting temperature must be above 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        head("contrastive", **settings)
    assert head("contrastive", passes="none", queries_per_step="4").config.queries_per_step == 4
