"""anomalyhub.detection.calibration: the conformal promise by simulation, p-values, and the tail beyond the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyhub.detection.calibration import Calibration
from anomalyhub.errors import InvalidArgumentError


def calibrated(scores, rate=0.01):
    scores = np.asarray(scores, np.float32)
    return Calibration.from_normals(scores, 0.8 * scores, rate)


def gumbel_score(share):
    """The score that this share of normal images exceeds, when scores follow a Gumbel law at 5 with scale 0.5."""
    return 5.0 - 0.5 * np.log(-np.log1p(-np.asarray(share)))


@pytest.mark.parametrize(
    ("n", "rate"),
    [
        (99, 0.01),  # just resolvable: the largest score
        (120, 0.01),
        (200, 0.01),
        (200, 0.05),
        (19, 0.05),
        (9, 0.5),
        (30, 0.9),
    ],
)
def test_false_alarm_rate_by_simulation(n, rate):
    """Exchangeable normal images: the rate is kept on average, and not by much less than asked for."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(1500):
        exceeded = rng.random(n)  # the share of normal images above each held-out one: uniform, whatever the law
        calibration = calibrated(gumbel_score(exceeded), rate)
        assert calibration.resolvable
        shares.append(1 - math.exp(-math.exp(-(calibration.threshold - 5.0) / 0.5)))
    error = 4 * np.std(shares) / math.sqrt(len(shares))
    assert rate - 1 / (n + 1) - error <= np.mean(shares) <= rate + error


@pytest.mark.parametrize(("n", "rate"), [(50, 0.01), (30, 0.005), (12, 0.01), (80, 0.001)])
def test_beyond_the_largest_score_the_tail_is_a_gumbel(n, rate):
    """Too few images for the rate: right on average within a factor of 2, and far nearer than the largest score."""
    rng = np.random.default_rng(0)
    shares, largest = [], []
    for _ in range(1000):
        scores = gumbel_score(rng.random(n))
        calibration = calibrated(scores, rate)
        assert not calibration.resolvable and calibration.threshold > scores.max()
        shares.append(1 - math.exp(-math.exp(-(calibration.threshold - 5.0) / 0.5)))
        largest.append(1 - math.exp(-math.exp(-(scores.max() - 5.0) / 0.5)))
    assert 0.5 * rate < np.mean(shares) < 2 * rate
    assert np.mean(largest) > 1.5 * rate


def test_known_quantiles_of_many_scores():
    scores = gumbel_score(np.arange(1, 401) / 401)  # what is exceeded on average: the largest by 1 in 401
    for rate in (0.5, 0.1, 0.01, 0.002, 0.001, 0.0001):
        assert calibrated(scores, rate).threshold == pytest.approx(gumbel_score(rate), abs=0.03)


@pytest.mark.parametrize(
    ("n", "rate", "rank"),
    [
        (4, 0.5, 3),  # ceil(5 * 0.5)
        (4, 0.2, 4),
        (4, 0.6, 2),
        (99, 0.01, 99),  # 100 * 0.99 is 99 in spite of rounding
        (9, 0.1, 9),
        (2, 0.999, 1),
    ],
)
def test_threshold_is_a_conformal_quantile(n, rate, rank):
    assert calibrated(np.random.default_rng(0).permutation(n) + 1, rate).threshold == rank


def test_p_values_count_the_scores_above():
    calibration = calibrated([3, 1, 2, 2])
    assert [calibration.p_value(score) for score in (0, 1, 1.5, 2, 2.5, 3)] == [1, 1, 0.8, 0.8, 0.4, 0.4]
    assert 0 < calibration.p_value(3.01) <= 0.2


@given(
    scores=st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=50),
    rate=st.floats(0.0005, 0.95),
    others=st.lists(st.floats(-60, 200, width=32), max_size=20),
)
def test_p_values_and_threshold_agree(scores, rate, others):
    """p is in (0, 1], falls with the score, and is at most the rate just where the score exceeds the threshold."""
    calibration = calibrated(scores, rate)
    ordered = sorted({*scores, *others, *(float(np.float32(s)) for s in scores)})
    p = [calibration.p_value(score) for score in ordered]
    assert all(0 < value <= 1 for value in p)
    assert all(a >= b for a, b in zip(p, p[1:], strict=False))
    assert calibration.p_value(min(scores)) == 1
    for score, value in zip(ordered, p, strict=True):
        if abs(score - calibration.threshold) > 1e-6 * max(1, abs(score)) or score in scores:
            assert (value <= rate * (1 + 1e-9)) == (score > calibration.threshold)


@given(st.lists(st.floats(0.125, 50, width=32), min_size=2, max_size=50))
def test_p_value_goes_on_where_the_scores_end(scores):
    calibration, n = calibrated(scores), len(scores)
    largest = float(np.float32(max(scores)))
    spread = max(np.ptp(scores), 1e-3 * abs(largest))
    assert calibration.p_value(largest + 1e-9 * spread) == pytest.approx(1 / (n + 1), rel=1e-3)
    beyond = [calibration.p_value(largest + step * spread) for step in (0.1, 0.5, 1, 2)]
    assert beyond == sorted(beyond, reverse=True) and beyond[0] < 1 / (n + 1) and beyond[3] > 0
    assert len(set(beyond)) == 4 or beyond[3] == 1e-9
    assert 0 < calibration.p_value(1e30) <= 1e-9


@pytest.mark.parametrize(("value", "n"), [(2.5, 2), (2.5, 100), (0.0, 5), (1e-20, 5), (-3.0, 4)])
def test_constant_scores(value, n):
    """No spread to learn from: a narrow tail, and only what scores more is anomalous."""
    calibration = calibrated([value] * n)
    assert math.isfinite(calibration.threshold) and calibration.threshold >= np.float32(value)
    assert calibration.threshold == pytest.approx(value, rel=0.02, abs=1e-9)
    assert calibration.p_value(float(np.float32(value))) == 1
    assert calibration.p_value(value + 1) < 1e-6
    assert math.isfinite(calibration.map_ratio)


def test_two_images_are_enough():
    calibration = calibrated([1.0, 2.0])
    assert 2 < calibration.threshold < 20 and not calibration.resolvable
    assert calibration.p_value(calibration.threshold) == pytest.approx(0.01)


def test_map_ratio_follows_the_peaks():
    scores = np.random.default_rng(0).gamma(4, 1, 150).astype(np.float32)
    assert Calibration.from_normals(scores, 0.6 * scores).map_ratio == pytest.approx(0.6)
    shuffled = 0.6 * np.random.default_rng(1).permutation(scores)
    assert Calibration.from_normals(scores, shuffled, 0.2).map_ratio == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("n", "anomalous", "rate", "alarms", "found"),
    [  # as many false alarms as asked for, within what n images can tell, and the anomalies that stand out
        (600, 0.0, 0.05, (0.03, 0.08), 0.0),
        (600, 0.2, 0.05, (0.02, 0.08), 0.98),
        (600, 0.4, 0.01, (0.0, 0.03), 0.95),
        (60, 0.2, 0.05, (0.0, 0.15), 0.95),
        (10, 0.0, 0.01, (0.0, 0.06), 0.0),
    ],
)
def test_a_threshold_from_unlabelled_images(n, anomalous, rate, alarms, found):
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(20):
        normal = rng.gumbel(10, 1, n - int(anomalous * n))
        odd = 18 + rng.gumbel(0, 2, int(anomalous * n))
        scores = rng.permutation(np.concatenate([normal, odd]).astype(np.float32))
        made = Calibration.from_unlabelled(scores, 2 * scores, rate)
        shares.append([(normal > made.threshold).mean(), (odd > made.threshold).mean() if len(odd) else 0.0])
        assert made.map_ratio == pytest.approx(2.0, rel=0.05) and len(made.scores) == n
        assert made.resolvable == (n >= 99) or rate > 0.01
    false_alarms, caught = np.mean(shares, axis=0)
    assert alarms[0] <= false_alarms <= alarms[1] and caught >= found


@pytest.mark.parametrize(("n", "normal"), [(120, 0.3), (60, 0.4), (120, 0.5), (40, 0.8)])
def test_a_group_of_normal_images_is_found_though_it_is_small(n, normal):
    """Where the lowest scores stand apart from all others; a sample of one group is not split (see the rates above)."""
    rng = np.random.default_rng(5)
    caught, alarms = [], []
    for _ in range(20):
        good = rng.gumbel(10, 1, int(normal * n))
        odd = 28 + rng.gumbel(0, 4, n - len(good))
        made = Calibration.from_unlabelled(np.concatenate([odd, good]), np.concatenate([odd, good]), 0.01)
        caught.append((odd > made.threshold).mean())
        alarms.append((rng.gumbel(10, 1, 1000) > made.threshold).mean())
    assert np.mean(caught) > 0.95 and np.mean(alarms) < 0.05


def test_unlabelled_scores_stay_unlabelled():
    made = Calibration.from_unlabelled(np.arange(20.0), np.arange(20.0))
    assert (made.method, made.source) == ("unlabelled", "unlabelled")
    moved = made.at_rate(0.05)
    assert (moved.method, moved.source) == ("unlabelled", "unlabelled") and moved.threshold < made.threshold
    back = made.at_threshold(3.0).at_rate(0.01)
    assert made.at_threshold(3.0).method == "manual" and back.threshold == made.threshold
    with pytest.raises(InvalidArgumentError, match="at least 2 images, got 1"):
        Calibration.from_unlabelled(np.ones(1), np.ones(1))
    assert np.isfinite(Calibration.from_unlabelled(np.ones(2), np.ones(2)).threshold)


def test_maps_that_are_not_proportional_to_scores():
    scores = np.linspace(0.1, 0.3, 400)
    made = Calibration.from_normals(scores, 2.0 + 8.0 * scores)
    top = made.threshold
    assert made.map_threshold(top) == pytest.approx(2.0 + 8.0 * top, rel=1e-6)
    assert made.map_threshold(0.7 * top, slope=8.0) == pytest.approx(2.0 + 8.0 * 0.7 * top, rel=1e-6)
    assert made.map_threshold(0.7 * top) == pytest.approx(0.7 * (2.0 + 8.0 * top), rel=1e-6)


def test_moving_the_operating_point():
    scores = np.arange(1, 201, dtype=np.float32)
    first = calibrated(scores, 0.05)
    assert (first.threshold, first.method, first.false_alarm_rate) == (191, "normals", 0.05)
    assert first.at_rate(0.5).threshold == 101
    manual = first.at_threshold(7)
    assert manual.to_json() == {"threshold": 7.0, "false_alarm_rate": None, "method": "manual"}
    assert not manual.resolvable and manual.p_value(150) == first.p_value(150)
    assert first.at_threshold(7, "cost").method == "cost"
    again = Calibration(scores, scores, **first.to_json())
    assert again.to_json() == first.to_json() and first.threshold == 191


def test_the_order_of_the_scores_does_not_matter():
    scores = np.random.default_rng(0).random(37).astype(np.float32)
    before = scores.copy()
    one, other = calibrated(scores, 0.003), calibrated(scores[::-1], 0.003)
    assert one.threshold == other.threshold and one.p_value(1.2) == other.p_value(1.2)
    assert np.array_equal(scores, before)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: calibrated([]), "at least 2 held-out images, got 0"),
        (lambda: calibrated([1.0]), "at least 2 held-out images, got 1"),
        (lambda: Calibration(np.ones(3), np.ones(2), 1.0), "at least 2"),  # a peak is missing
        (lambda: Calibration(np.ones(3), np.ones(3), math.nan), "threshold must be a finite number, got nan"),
        (lambda: calibrated([1, 2]).at_threshold(math.inf), "finite number, got inf"),
        (lambda: calibrated([1, 2], 0.0), "false-alarm rate must lie between 0 and 1, got 0.0: 0.01 is 1 %"),
        (lambda: calibrated([1, 2], 1.0), "got 1.0"),
        (lambda: calibrated([1, 2], -0.1), "got -0.1"),
        (lambda: calibrated([1, 2], math.nan), "got nan"),
        (lambda: calibrated([1, 2]).at_rate(5), "got 5"),
    ],
)
def test_wrong_arguments(act, message):
    with pytest.raises(InvalidArgumentError, match=message):
        act()
