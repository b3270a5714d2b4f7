"""Operating points: optimal over every possible threshold, placed between scores, deterministic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.metrics import confusion, cost_threshold, f1_max_threshold, image_metrics


@st.composite
def labelled(draw):
    rows = draw(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=12))
    labels, scores = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], np.float32)
    labels[:2] = True, False
    return labels, scores


def counts_at_every_threshold(labels, scores):
    for t in (scores.min() - 1, *scores):
        yield confusion(labels, scores, t)


@given(labelled())
def test_f1_is_the_largest_and_is_reached(case):
    labels, scores = case
    threshold, f1 = f1_max_threshold(labels, scores)
    found = confusion(labels, scores, threshold)
    assert f1 == pytest.approx(2 * found["tp"] / (2 * found["tp"] + found["fp"] + found["fn"]))
    assert f1 == pytest.approx(image_metrics(labels, scores)["image_f1_max"])
    every = [2 * c["tp"] / (2 * c["tp"] + c["fp"] + c["fn"]) for c in counts_at_every_threshold(labels, scores)]
    assert f1 == pytest.approx(max(every))


@given(labelled(), st.sampled_from(((1, 1), (10, 1), (1, 25), (0, 1), (1, 0), (0.5, 0.25))))
def test_cost_is_the_smallest_and_is_reached(case, costs):
    labels, scores = case
    threshold, cost = cost_threshold(labels, scores, *costs)
    found = confusion(labels, scores, threshold)
    assert cost == pytest.approx(costs[0] * found["fn"] + costs[1] * found["fp"])
    every = [costs[0] * c["fn"] + costs[1] * c["fp"] for c in counts_at_every_threshold(labels, scores)]
    assert cost == pytest.approx(min(every))


@pytest.mark.parametrize(
    ("labels", "scores", "threshold", "f1"),
    [
        ([False, False, True, True], [1.0, 2.0, 4.0, 5.0], 3.0, 1.0),  # midway
        ([False, True, False, True], [1.0, 2.0, 3.0, 4.0], 1.5, 0.8),
        ([True, False], [5.0, 5.0], np.nextafter(5.0, 0), 2 / 3),  # all tied: everything is called defective
        ([True, False, True, True, False], [0.0, 1.0, 2.0, 3.0, 4.0], np.nextafter(0.0, -1), 0.75),
        # equal F1 of 2/3 below the lowest and above 3: the lowest, which misses nothing
        ([True, False, False, True], [1.0, 2.0, 3.0, 4.0], np.nextafter(1.0, 0), 2 / 3),
    ],
)
def test_f1_table(labels, scores, threshold, f1):
    assert f1_max_threshold(labels, scores) == (threshold, pytest.approx(f1))


@pytest.mark.parametrize(
    ("costs", "threshold", "cost"),
    [
        ((100, 1), 1.5, 1),  # an escape is dear: alarm from 2 on
        ((1, 100), 3.5, 1),  # a false alarm is dear: alarm from 4 on
        ((1, 1), 1.5, 1),  # equal cost at 1.5 and 3.5: the lower one misses nothing
        ((0, 1), 3.5, 0),  # 3.5 and 4 cost nothing: the lower one
    ],
)
def test_cost_table(costs, threshold, cost):
    assert cost_threshold([False, True, False, True], [1.0, 2.0, 3.0, 4.0], *costs) == (threshold, cost)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [1.0, -1.0, 0.0, 3e38])
@pytest.mark.parametrize("odd", [False, True])  # rounding to even moves the middle down or up
def test_neighbouring_numbers_are_separated(dtype, start, odd):
    low = np.nextafter(dtype(start), dtype(np.inf)) if odd else dtype(start)
    scores = np.array([low, np.nextafter(low, dtype(np.inf))], dtype)
    threshold, f1 = f1_max_threshold([False, True], scores)
    assert f1 == 1.0 and (scores > threshold).tolist() == [False, True]


def test_far_scores_do_not_overflow():
    threshold, _ = f1_max_threshold([False, True], [-1.7e308, 1.7e308])
    assert threshold == 0.0


def test_confusion():
    labels, scores = [True, True, False, False, False], [3.0, 1.0, 2.0, 1.0, 0.0]
    assert confusion(labels, scores, 1.0) == {
        "tp": 1,
        "fp": 1,
        "tn": 2,
        "fn": 1,
        "escape_rate": 0.5,
        "false_alarm_rate": pytest.approx(1 / 3),
    }


@pytest.mark.parametrize(
    ("labels", "undefined"),
    [
        ([True, True], {"false_alarm_rate": "there is no good image"}),
        ([False, False], {"escape_rate": "there is no defective image"}),
    ],
)
def test_rates_of_an_absent_class_are_undefined(labels, undefined):
    report = confusion(labels, [1.0, 2.0], 1.5)
    assert report["why"] == undefined
    assert all(report[key] is None for key in undefined)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f1_max_threshold([False, False], [1.0, 2.0]), "needs good and defective images, got 2 good and 0"),
        (lambda: f1_max_threshold([True], [1.0]), "got 0 good and 1 defective"),
        (lambda: cost_threshold([], [], 1, 1), "got 0 good and 0 defective"),
        (lambda: cost_threshold([True, False], [1.0, 2.0], -1, 1), "costs must be finite"),
        (lambda: cost_threshold([True, False], [1.0, 2.0], math.inf, 1), "costs must be finite"),
        (lambda: cost_threshold([True, False], [1.0, 2.0], 0, 0), "not both 0"),
        (lambda: f1_max_threshold([True, False], [1.0, math.nan]), r"scores\[1\] is nan"),
        (lambda: confusion([True, False], [1.0, 2.0], math.nan), "threshold must be a number"),
        (lambda: confusion([True], [1.0, 2.0], 0.0), "same shape"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
