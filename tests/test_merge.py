"""anomalyhub.regions.merge: regions to images, against the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anomalyhub.discovery import merge_regions
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.types import ClassProbs

PROBS = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]], np.float32)
IMAGES = ["b", "a", "b", "c", "b"]
AREAS = [400, 0, 10_000, 25, 2_500]
SCORES = [0.2, 0.9, 0.0, 0.0, 0.6]
UNKNOWN = np.array([True, False, False, True, False])


def merge(**options):
    return merge_regions(ClassProbs(PROBS, ("x", "y", "z")), UNKNOWN, IMAGES, AREAS, SCORES, **options)


def test_area_weights_are_those_of_the_paper():
    result = merge(temperature=50.0)
    assert result.images == ("b", "a", "c")  # in the order in which they appear
    exponents = [math.exp(math.sqrt(AREAS[i]) / 50.0) for i in (0, 2, 4)]
    weights = np.array(exponents) / sum(exponents)
    np.testing.assert_allclose(result.weights[[0, 2, 4]], weights)
    np.testing.assert_allclose(result.image_probs.probs[0], weights @ PROBS[[0, 2, 4]], rtol=1e-6)
    np.testing.assert_allclose(result.image_probs.probs[1:], PROBS[[1, 3]], rtol=1e-6)
    assert result.image_probs.classes == ("x", "y", "z") and result.image_probs.probs.dtype == np.float32
    assert np.array_equal(result.regions.probs, PROBS)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("mean", [1 / 3, 1.0, 1 / 3, 1.0, 1 / 3]),
        ("score", [0.25, 1.0, 0.0, 1.0, 0.75]),  # c has no score at all: its regions share the weight
    ],
)
def test_other_strategies(strategy, expected):
    np.testing.assert_allclose(merge(merge=strategy).weights, expected)


def test_an_image_is_unknown_by_the_weight_of_its_regions():
    assert merge(temperature=50.0).image_unknown.tolist() == [False, False, True]
    tiny = merge_regions(
        ClassProbs(PROBS[:3], ("x", "y", "z")), UNKNOWN[:3], "qqq", [900, 0, 1], SCORES[:3], temperature=1
    )
    assert tiny.image_unknown.tolist() == [True]


def test_large_areas_do_not_overflow():
    result = merge_regions(
        ClassProbs(PROBS[:2], ("x", "y", "z")), UNKNOWN[:2], [7, 7], [1e12, 1e12 - 1], [1, 1], temperature=1e-3
    )
    assert np.isfinite(result.weights).all() and result.weights.sum() == pytest.approx(1.0)


def test_nothing_gives_nothing():
    none = merge_regions(ClassProbs(np.zeros((0, 2), np.float32), ("x", "y")), np.zeros(0, bool), [], [], [])
    assert none.images == () and none.image_probs.probs.shape == (0, 2) and none.image_unknown.shape == (0,)


def test_lengths_must_agree():
    with pytest.raises(InvalidArgumentError, match=r"one entry per sub-image, got \[5, 5, 4, 5, 5\]"):
        merge_regions(ClassProbs(PROBS, ("x", "y", "z")), UNKNOWN, IMAGES[:4], AREAS, SCORES)
