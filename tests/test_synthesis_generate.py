"""Synthetic defects: the blend, what depends on what, and that the settings are met."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from synthesis_helpers import SHAPE, disc, discs, fabric

from anomalyhub.config import configure
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidImageError
from anomalyhub.synthesis import SynthesisConfig, Synthesizer, SyntheticSample, Textures, load_textures, synthesize
from anomalyhub.synthesis.generate import MASKS
from anomalyhub.types import Sample

#: One plain colour per class, so that the texture's part of every pixel is known.
COLOURS = ((250, 10, 10), (10, 250, 10), (20, 20, 240))


def plain_textures() -> Textures:
    return Textures("abc", lambda index: np.full((7, 9, 3), COLOURS[index], np.uint8), "plain")


def same(one: SyntheticSample, other: SyntheticSample) -> bool:
    arrays = ("image", "mask", "clean")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays) and (
        (one.label, one.parameters) == (other.label, other.parameters)
    )


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("beta", [(0.3,), (1.0,), (0.2, 0.9)])
def test_the_blend_is_the_formula(mask, beta):
    samples = discs(3)
    for index, drawn in enumerate(synthesize(samples, plain_textures(), SynthesisConfig(mask, beta), 12, seed=4)):
        (source,) = [sample for sample in samples if sample.id == drawn.parameters["source"]]
        assert np.array_equal(drawn.clean, source.image)
        ratio, kind = drawn.parameters["beta"], "abc".index(drawn.parameters["texture"])
        assert beta[0] <= ratio <= beta[-1]
        blend = ratio * np.array(COLOURS[kind]) + (1 - ratio) * drawn.clean.astype(float)
        expected = np.where(drawn.mask[..., None], blend, drawn.clean)
        assert drawn.image.dtype == np.uint8 and np.abs(drawn.image - expected).max() <= 0.5 + 1e-3
        assert np.array_equal(drawn.image[~drawn.mask], drawn.clean[~drawn.mask])
        assert drawn.parameters["index"] == index and drawn.parameters["seed"] == 4


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("area", "share"), [((0.1, 0.4), 0.15), ((0.02, 0.03), 0.02), ((0.7, 0.7), 0.6)])
def test_the_defect_covers_its_share_of_the_product(mask, area, share):
    inside = {sample.id: disc(i)[1] for i, sample in enumerate(discs(4))}
    synthesizer = Synthesizer(discs(4), None, SynthesisConfig(mask, area=area, polygon_area=share), seed=1)
    low, high = (share, share) if mask == "polygon" else area
    found = []
    for index in range(20):
        drawn = synthesizer.draw(index)
        _, foreground, notice = synthesizer.foreground_of(synthesizer.source_of(index))
        assert notice == "" and not drawn.mask[~foreground].any()
        truth = inside[drawn.parameters["source"]]
        assert drawn.mask[truth].sum() > 0.85 * drawn.mask.sum()  # on the disc, as far as its edge was found
        found.append(drawn.mask.sum() / foreground.sum())
        assert drawn.parameters["area"] == pytest.approx(found[-1])
    slack = 1.5 / foreground.sum()
    assert low - slack <= min(found) and max(found) <= high + slack
    assert np.ptp(found) > 0.05 or high - low < 0.1


@pytest.mark.parametrize("mask", MASKS)
def test_number_i_depends_on_the_seed_and_i_alone(mask):
    config = SynthesisConfig(mask)
    first = list(synthesize(discs(), None, config, 9, seed=2))
    other = Synthesizer(discs(), None, config, seed=2)
    assert all(same(other.draw(index), first[index]) for index in (7, 0, 8, 3))  # in another order, by another object
    assert all(same(*pair) for pair in zip(synthesize(discs(), None, config, 30, seed=2), first, strict=False))
    for changed in (Synthesizer(discs(), None, config, seed=3), Synthesizer(discs(5), None, config, seed=2)):
        assert not all(same(changed.draw(index), first[index]) for index in range(9))
    masks = {drawn.mask.tobytes() for drawn in first}
    assert len(masks) == len(first)


def test_classes_are_balanced_and_named_after_the_textures():
    labels = [drawn.label for drawn in synthesize(discs(2), plain_textures(), None, 10)]
    assert labels == list("abcabcabca")
    synthesizer = Synthesizer(discs(2), plain_textures(), SynthesisConfig("polygon"))
    assert len(synthesizer.classes) == 12 and synthesizer.classes[:5] == ("a_x_3", "a_x_4", "a_x_5", "a_x_6", "b_x_3")
    drawn = [synthesizer.draw(index) for index in range(24)]
    assert set(Counter(one.label for one in drawn).values()) == {2}
    assert all(one.label == f"{one.parameters['texture']}_x_{one.parameters['sides']}" for one in drawn)
    assert len(Synthesizer(discs(1), None, SynthesisConfig("polygon")).classes) >= 188  # liu2024's 47 x 4


def test_all_sources_are_used_and_they_stay_as_they_are():
    samples = discs(4)
    before = [sample.image.copy() for sample in samples]
    drawn = list(synthesize(samples, None, None, 40))
    assert {one.parameters["source"] for one in drawn} == {sample.id for sample in samples}
    assert all(np.array_equal(sample.image, image) for sample, image in zip(samples, before, strict=True))
    drawn[0].clean[:] = 0  # a caller's own copy
    assert same(Synthesizer(samples).draw(1), drawn[1])


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((48, 64), 256, (48, 64)), ((48, 64), 32, (24, 32)), ((300, 100), 60, (60, 20)), ((64, 65), 64, (63, 64))],
)
def test_large_images_are_reduced_and_keep_their_aspect(shape, size, expected):
    drawn = Synthesizer([Sample("a", fabric(0, shape), "good")], None, SynthesisConfig(size=size)).draw(0)
    assert drawn.image.shape == (*expected, 3) and drawn.mask.shape == expected
    assert abs(drawn.clean.mean() - fabric(0, shape).mean()) < 1


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 3), (700, 20)])
def test_images_of_any_shape(mask, shape):
    drawn = Synthesizer([Sample("a", fabric(0, shape), "good")], None, SynthesisConfig(mask)).draw(5)
    assert drawn.mask.any() and drawn.image.shape[2] == 3


def test_the_foreground_method_is_the_products():
    """One is chosen for all; an image in which it finds nothing is painted all over, and that is known."""
    samples = [*discs(5), Sample("empty", np.full((*SHAPE, 3), 100, np.uint8), "good")]
    synthesizer = Synthesizer(samples)
    method, reason = synthesizer.choice
    assert method in ("grabcut", "floodfill") and "5 of 6 images" in reason
    used = {synthesizer.draw(i).parameters["source"]: synthesizer.draw(i).parameters["foreground"] for i in range(40)}
    assert used.pop("empty") == "whole" and set(used.values()) == {method}
    _, foreground, notice = synthesizer.foreground_of(5)
    assert foreground.all() and "whole image" in notice
    textured = Synthesizer([Sample(str(i), fabric(i), "good") for i in range(3)])
    assert textured.choice[0] == "whole" and textured.foreground_of(0)[2] == ""
    assert Synthesizer(samples, None, SynthesisConfig(foreground="whole")).choice == ("whole", "as asked for")


def test_textures_are_not_changed():
    """With beta 1 and a mask of everything, an image is a piece of its texture."""
    textures = load_textures()
    config = SynthesisConfig(beta=(1.0,), area=(1.0, 1.0), foreground="whole")
    drawn = Synthesizer(discs(1), textures, config).draw(2)
    tiled = np.tile(textures.image(2), (2, 2, 1))
    height, width = drawn.mask.shape
    starts = np.argwhere((tiled[:256, :256] == drawn.image[0, 0]).all(axis=-1))
    assert drawn.mask.all()
    assert any(np.array_equal(tiled[r : r + height, c : c + width], drawn.image) for r, c in starts)


def test_progress_is_told_and_may_stop_it():
    told = []
    list(synthesize(discs(2), None, None, 4, progress=lambda *args: told.append(args)))
    assert [fraction for fraction, _ in told] == [0.25, 0.5, 0.75, 1.0] and told[0][1] == "1 of 4 images"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": "circle"}, "perlin"),
        ({"foreground": "magic"}, "grabcut"),
        ({"beta": "0"}, "beta must be"),
        ({"beta": "0.5,0.2"}, "beta must be"),
        ({"beta": "0.1,0.2,0.3"}, "beta must be"),
        ({"beta": "1.1"}, "beta must be"),
        ({"beta": ""}, "beta"),
        ({"area": "0.1"}, "area must be"),
        ({"area": "0.4,0.1"}, "area must be"),
        ({"area": "0,0.1"}, "area must be"),
        ({"polygon_area": "1"}, "polygon_area must be"),
        ({"size": "15"}, "at least 16"),
        ({"sise": "15"}, "did you mean 'size'"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(AnomalyHubError, match=message):
        configure(SynthesisConfig, settings)


def test_settings_as_they_are_typed():
    settings = {"beta": "0.5", "area": "0.2,0.3", "size": "128", "mask": "polygon", "foreground": "whole"}
    assert configure(SynthesisConfig, settings) == SynthesisConfig("polygon", (0.5,), (0.2, 0.3), 0.15, "whole", 128)
    for kind in SynthesisConfig(mask="poisson"), SynthesisConfig(foreground="grabcut"):
        assert kind != SynthesisConfig()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Synthesizer([]), "at least one"),
        (lambda: Synthesizer(discs(1), seed=-1), "seed must be 0 or more"),
        (lambda: Synthesizer(discs(1)).draw(-1), "numbered from 0"),
        (lambda: SynthesisConfig(mask="circle"), "perlin, poisson, polygon"),
        (lambda: SynthesisConfig(foreground="magic"), "auto, grabcut"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_a_texture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InvalidImageError, match="torn.jpg"):
        Synthesizer(discs(1), load_textures(tmp_path)).draw(0)


def test_parts_of_one_sample_fit_together():
    image, mask = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), bool)
    for parts in ((image, mask.T, image), (image, mask, image[:3])):
        with pytest.raises(ValueError, match="one size"):
            SyntheticSample(*parts, "a", {})
    assert math.isclose(SyntheticSample(image, mask, image, "a", {}).image.mean(), 0)
