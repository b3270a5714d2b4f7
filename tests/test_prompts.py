"""anomalyhub.detection.prompts: the ensemble of states and templates, its mean in the joint space, and bad words."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from clip_helpers import DIM, tiny_clip

from anomalyhub.config import configure
from anomalyhub.detection.prompts import (
    ABNORMAL_STATES,
    NORMAL_STATES,
    TEMPLATES,
    PromptConfig,
    abnormal_probability,
    prompts,
    text_features,
)
from anomalyhub.errors import InvalidArgumentError


def test_the_published_ensemble():
    assert (len(NORMAL_STATES), len(ABNORMAL_STATES), len(TEMPLATES)) == (7, 5, 35)
    assert len({*TEMPLATES}) == 35 and all(text.count("{}") == 1 for text in (*TEMPLATES, *NORMAL_STATES))
    for text in (
        "a cropped photo of the {}.",
        "a photo of a cool {}.",
        "a photo of my {}.",
        "this is one {} in the scene.",
    ):
        assert text in TEMPLATES
    assert prompts(" metal nut ", ("{}", "{} without flaw"), ("a bad photo of a {}.", "the {}.")) == [
        "a bad photo of a metal nut.",
        "the metal nut.",
        "a bad photo of a metal nut without flaw.",
        "the metal nut without flaw.",
    ]


@pytest.mark.parametrize("product", ["metal nut", "{}", "a {0} {name} %s", "Schraube ø 4"])
def test_features_by_loops(product):
    backbone, columns = tiny_clip(), []
    for states in (NORMAL_STATES, ABNORMAL_STATES):
        total = np.zeros(DIM)
        for state in states:
            for template in TEMPLATES:
                text = template.split("{}")[0] + state.split("{}")[0] + product
                text += state.split("{}")[1] + template.split("{}")[1]
                embedding = backbone.encode_text([text])[0].double().numpy()
                total += embedding / np.sqrt((embedding**2).sum())
        mean = total / (len(states) * len(TEMPLATES))
        columns.append(mean / np.sqrt((mean**2).sum()))
    found = text_features(backbone, product)
    assert found.shape == (DIM, 2) and found.dtype == torch.float32 and found.device == backbone.device
    np.testing.assert_allclose(found.numpy(), np.stack(columns, 1), atol=1e-5)


def test_states_and_templates_of_ones_own():
    backbone = tiny_clip()
    found = text_features(backbone, "nut", ("whole {}",), ("{} in two", "{} in three"), ("{}",))
    unit = torch.nn.functional.normalize(backbone.encode_text(["whole nut", "nut in two", "nut in three"]), dim=1)
    torch.testing.assert_close(found[:, 0], unit[0])
    torch.testing.assert_close(found[:, 1], torch.nn.functional.normalize(unit[1] + unit[2], dim=0))


def test_probability_by_hand():
    """Cosines 1 and 0 with normal and abnormal, then 0.6 and 0.8; the length of an embedding says nothing."""
    text = torch.eye(3)[:, :2]
    embeddings = torch.tensor([[[5.0, 0.0, 0.0], [0.3, 0.4, 0.0]], [[0.0, 7.0, 0.0], [0.0, 0.0, 2.0]]])
    expected = [[1 / (1 + np.e**10), 1 / (1 + np.e**-2)], [1 / (1 + np.e**-10), 0.5]]
    np.testing.assert_allclose(abnormal_probability(embeddings, text, 0.1).numpy(), expected, rtol=1e-4)
    assert abnormal_probability(embeddings, text)[0, 1] == pytest.approx(1 / (1 + np.exp(-20)))


BAD = [
    # settings, what is said
    ({"product": ""}, "setting product is '': name what the images show"),
    ({"product": " \t\n"}, ": name what the images show"),
    ({"normal_states": ()}, "setting normal_states is empty: give at least one text with {}"),
    (
        {"abnormal_states": ("damaged",)},
        "abnormal_states holds 'damaged', which has no {}: write {} where the prod",
    ),
    (
        {"templates": ("a photo of a {}", "a photo")},
        "templates holds 'a photo', which has no {}: write {} where",
    ),
    ({"templates": ("a photo of a {0}",)}, "templates holds 'a photo of a {0}', which has no {}"),
]


@pytest.mark.parametrize("settings, message", BAD)
def test_bad_settings(settings, message):
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        configure(PromptConfig, settings)
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        text_features(tiny_clip(), **{"product": "nut", **settings})


def test_words_that_this_clip_cannot_read():
    with pytest.raises(
        InvalidArgumentError, match="the text 'nut .*…' has .* tokens and clip@.* reads 120: shorten it"
    ):
        text_features(tiny_clip(), "nut " * 300)
    with pytest.raises(InvalidArgumentError, match="the text 'a cropped .*' has .* tokens"):  # it fits alone
        text_features(tiny_clip(), "x " * 100)


def test_from_the_command_line():
    config = configure(PromptConfig, {"product": "hex nut", "normal_states": "{}, whole {}"})
    assert config.normal_states == ("{}", "whole {}") and config.templates == TEMPLATES
