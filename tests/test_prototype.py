"""The prototype head against its formulas written out, and what it is for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from discovery_helpers import sub_image, tiny_transformer

from anomalyhub.classification import Evidence, create_classifier
from anomalyhub.classification.evidence import region_coverage
from anomalyhub.classification.prototype import (
    kernel_scores,
    pooled_residuals,
    region_weights,
    unit,
    within_class_map,
)
from anomalyhub.data import load_dataset
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.nn.confidence import calibration_temperature
from anomalyhub.regions import ImageRegions
from anomalyhub.types import GOOD

KINDS = ("burn", "paint", "rust")
GRID, CHANNELS = (4, 6), 5
SHAPE = (48, 72)  # not square


def evidence(kind: str, seed: int, noise: float = 0.3, boxes=((8, 6, 20, 26),), of_patches: str | None = None):
    """An image with boxes (top, left, bottom, right) that look like `kind` and whose patches are of `of_patches`."""
    rng = np.random.default_rng((KINDS.index(kind), seed, 5))
    image, mask = np.full((*SHAPE, 3), 110, np.uint8), np.zeros(SHAPE, bool)
    image += rng.integers(0, 12, image.shape, np.uint8)
    drawn = sub_image(kind, seed)
    for top, left, bottom, right in boxes:
        image[top:bottom, left:right] = drawn.image[drawn.mask].mean(axis=0).astype(np.uint8)
        mask[top:bottom, left:right] = True
    of_kind = np.random.default_rng(KINDS.index(of_patches or kind)).normal(size=CHANNELS)
    share = mask.reshape(GRID[0], SHAPE[0] // GRID[0], GRID[1], SHAPE[1] // GRID[1]).mean(axis=(1, 3))
    residuals = of_kind[:, None, None] * share + rng.normal(0, noise, (CHANNELS, *GRID))
    features = residuals + np.random.default_rng(9).normal(size=(CHANNELS, 1, 1))
    patches = {"features": features.astype(np.float16), "residuals": residuals.astype(np.float16)}
    return Evidence(f"{kind}/{seed:03}.png", image, ImageRegions.of(image, mask), label=kind, **patches)


def several(count: int, start: int = 0, **options) -> list[Evidence]:
    return [evidence(kind, start + i, **options) for i in range(count) for kind in KINDS]


def head(**settings):
    return create_classifier("prototype", tiny_transformer(), settings=settings)


def accuracy(model, images) -> float:
    probs = model.predict_proba(images)
    return float(
        np.mean([probs.classes[best] == one.label for best, one in zip(probs.probs.argmax(1), images, strict=True)])
    )


TWO = ((2, 2, 30, 20), (36, 50, 44, 66))  # a large box and a small one, far apart


def test_residuals_are_pooled_by_the_formula():
    one = evidence("burn", 1, boxes=TWO)
    covered, found = region_coverage(one, GRID), pooled_residuals(one)
    assert found.shape == (2, 2 * CHANNELS)
    for region in range(2):
        signed, absolute = np.zeros(CHANNELS), np.zeros(CHANNELS)
        for y in range(GRID[0]):
            for x in range(GRID[1]):
                residual = one.residuals[:, y, x].astype(float)
                signed += covered[region, y, x] * (residual**2).sum() * residual
                absolute += covered[region, y, x] * (residual**2).sum() * abs(residual)
        np.testing.assert_allclose(found[region, :CHANNELS], signed / np.linalg.norm(signed), rtol=1e-3)
        np.testing.assert_allclose(found[region, CHANNELS:], absolute / np.linalg.norm(absolute), rtol=1e-3)


def test_pooling_where_nothing_is_abnormal_or_covered():
    one = evidence("burn", 1)
    nothing = dataclasses.replace(one, residuals=np.zeros_like(one.residuals))
    assert not pooled_residuals(nothing).any()
    outside = dataclasses.replace(one, window=(0.6, 0.0, 1.0, 1.0))  # the grid does not reach the region
    empty = dataclasses.replace(one, regions=ImageRegions.of(one.image, np.zeros(SHAPE, bool)))
    residuals = one.residuals.astype(float)
    expected = ((residuals**2).sum(axis=0) * abs(residuals)).sum(axis=(1, 2))
    for case in (outside, empty):
        found = pooled_residuals(case)
        assert found.shape == (1, 2 * CHANNELS)
        np.testing.assert_allclose(found[0, CHANNELS:], expected / np.linalg.norm(expected), rtol=1e-3)


def test_kernel_scores_are_the_formula_and_its_limits():
    rng = np.random.default_rng(0)
    bank, queries = unit(rng.normal(size=(7, 4))), unit(rng.normal(size=(5, 4)))
    labels, weights = np.array([0, 1, 1, 2, 2, 2, 0]), rng.uniform(0.1, 1, 7)
    scores = kernel_scores(queries, bank, labels, weights, 3, 0.3)
    for row, query in enumerate(queries):
        for label in range(3):
            own = np.flatnonzero(labels == label)
            kernel = sum(weights[i] * math.exp((query @ bank[i] - 1) / 0.3) for i in own)
            assert scores[row, label] == pytest.approx(math.log(kernel / weights[own].sum()), rel=1e-4)
    wide = kernel_scores(queries, bank, labels, weights, 3, 1e4)
    prototypes = np.stack([np.average(bank[labels == k], axis=0, weights=weights[labels == k]) for k in range(3)])
    assert np.array_equal(wide.astype(np.float64).argsort(1)[:, -1], (queries @ prototypes.T).argmax(1))
    narrow = kernel_scores(queries, bank, labels, weights, 3, 0.005)
    assert np.array_equal(narrow.argmax(1), labels[(queries @ bank.T).argmax(1)])


def test_an_example_that_comes_twice_does_not_outweigh_the_other_class():
    bank = unit(np.array([[1.0, 0.2], [1.0, 0.2], [1.0, 0.2], [0.2, 1.0]]))
    labels = np.array([0, 0, 0, 1])
    halfway = unit(np.array([[1.0, 1.0]]))
    scores = kernel_scores(halfway, bank, labels, np.ones(4), 2, 0.3)
    assert scores[0, 0] == pytest.approx(scores[0, 1], abs=1e-5)


@pytest.mark.parametrize("ridge", [0.1, 1.0, 30.0])
def test_the_pretrained_map_whitens_what_varies_within_classes(ridge):
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(6), 50)
    scales = np.array([4.0, 1.0, 0.5, 0.1])
    rows = rng.normal(size=(6, 4))[labels] * 20 + rng.normal(size=(300, 4)) * scales
    found = within_class_map(rows, labels, ridge)
    inside = rows - np.stack([rows[labels == k].mean(0) for k in range(6)])[labels]
    covariance = inside.T @ inside
    shrunk = (covariance / (np.trace(covariance) / 4) + ridge * np.eye(4)) / (1 + ridge)
    np.testing.assert_allclose(found @ shrunk @ found, np.eye(4), atol=1e-4)
    np.testing.assert_allclose(found, found.T, atol=1e-6)


def test_no_variation_within_classes_maps_nothing():
    assert np.allclose(within_class_map(np.eye(3)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]), 1.0), np.sqrt(2) * np.eye(3))


def test_embeddings_join_centred_parts_of_length_1():
    support, new = several(2), several(1, start=40)
    model = head(crop_weight=1.0, residual_weight=3.0).fit(support)
    parts = model._parts(support)
    assert list(parts) == ["crop", "residual"] == list(model.centres_)
    for name, rows in parts.items():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        means = [
            np.mean([row for row, one in zip(rows, support, strict=True) if one.label == kind], axis=0)
            for kind in KINDS
        ]
        np.testing.assert_allclose(model.centres_[name], np.mean(means, axis=0), atol=1e-6)
    embeddings, fresh = model.embed(new), model._parts(new)
    width = fresh["crop"].shape[1]
    np.testing.assert_allclose(np.linalg.norm(embeddings[:, :width], axis=1), 0.5, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings[:, width:], axis=1), math.sqrt(0.75), atol=1e-5)
    centred = unit(fresh["residual"] - model.centres_["residual"])
    np.testing.assert_allclose(embeddings[:, width:], math.sqrt(0.75) * centred, atol=1e-6)


def test_the_centre_is_not_drawn_to_a_class_of_many_examples():
    many = several(1) + [evidence("burn", seed) for seed in range(50, 58)]
    model = head().fit(many)
    rows = model._parts(many)["residual"]
    means = [np.mean([row for row, one in zip(rows, many, strict=True) if one.label == kind], axis=0) for kind in KINDS]
    np.testing.assert_allclose(model.centres_["residual"], np.mean(means, axis=0), atol=1e-5)


def test_regions_weigh_as_in_the_merge():
    images = [evidence("burn", 1, boxes=TWO), evidence("rust", 2)]
    areas = [[crop.area_px for crop in one.sub_images] for one in images]
    big, small = (math.exp(math.sqrt(area) / 10) for area in areas[0])
    found = region_weights(images, 10.0)
    np.testing.assert_allclose(found, [big / (big + small), small / (big + small), 1.0])
    model = head(merge_temperature=10.0).fit([*images, evidence("rust", 3)])
    np.testing.assert_allclose(model.weights_[:2], found[:2])
    np.testing.assert_allclose(model.predict(images).weights[:2], found[:2])


def test_kinds_are_told_apart_by_each_part_alone():
    support, new = several(3, noise=0.1), several(5, start=20, noise=0.1)
    assert accuracy(head().fit(support), new) == 1.0
    for other in ("crop_weight", "residual_weight"):
        assert accuracy(head(**{other: 0.0}).fit(support), new) >= 0.9, other
    lying = [evidence("burn", seed, of_patches="paint") for seed in range(80, 84)]  # looks like one, patches of another
    looks = head(residual_weight=0.0).fit(support).predict_proba(lying)
    patches = head(crop_weight=0.0).fit(support).predict_proba(lying)
    assert set(looks.probs.argmax(1)) == {0} and set(patches.probs.argmax(1)) == {1}


def test_leaving_one_out_is_fitting_on_the_others():
    support = [*several(3, noise=0.8), evidence("rust", 90, boxes=TWO)]
    model = head().fit(support)
    labels = np.array([KINDS.index(one.label) for one in support])
    rows = np.array([0, 4, 9])
    logits = model._left_out(support, labels, rows, lambda share, text: None)
    for row, found in zip(rows, logits, strict=True):
        others = head().fit([one for index, one in enumerate(support) if index != row])
        alone = others._logits([support[row]], others.embed([support[row]]))
        np.testing.assert_allclose(found, region_weights([support[row]], 100.0) @ alone, atol=1e-5)


def test_the_temperature_is_that_of_examples_left_out():
    support = several(3, noise=1.5)
    model = head().fit(support)
    labels = np.array([KINDS.index(one.label) for one in support])
    logits = model._left_out(support, labels, np.arange(9), lambda share, text: None)
    assert model.temperature_ == pytest.approx(calibration_temperature(logits, labels))
    clear, vague = (head(crop_weight=0.0).fit(several(3, noise=noise)) for noise in (0.05, 8.0))
    sure, unsure = (model.predict_proba(several(5, 30, noise=0.05)).probs.max(axis=1) for model in (clear, vague))
    assert sure.mean() > unsure.mean() + 0.2


def test_one_example_each_gives_guarded_probabilities():
    model, new = head().fit(several(1, noise=1.0)), several(8, start=30, noise=1.0)
    rows, probs = model.leave_one_out(several(1))
    assert len(rows) == 0 and probs.probs.shape == (0, 3)
    sure = model.predict_proba(new).probs.max(axis=1)
    assert abs(sure.mean() - accuracy(model, new)) < 0.15 and sure.max() - sure.min() > 0.2


def test_without_residuals_no_patches_are_needed():
    bare = [dataclasses.replace(one, features=None, residuals=None) for one in several(3)]
    model = head(residual=False)
    assert not model.reads_patches and head().reads_patches and accuracy(model.fit(bare), bare) == 1.0
    with pytest.raises(InvalidArgumentError, match="or the head prototype with residual=false"):
        head().fit(bare)


def test_pretraining_makes_what_varies_within_kinds_count_less():
    def shaken(kind, seed):  # one direction of the residuals says nothing of the kind
        one = evidence(kind, seed, noise=0.05)
        inside = np.linalg.norm(one.residuals.astype(float), axis=0) > 0.5
        nuisance = np.random.default_rng(77).normal(size=(CHANNELS, 1, 1))
        shift = np.random.default_rng((3, seed, len(kind))).uniform(-2, 2) * nuisance * inside
        return dataclasses.replace(one, residuals=(one.residuals + shift).astype(np.float16))

    options = {"crop_weight": 0.0, "ridge": 0.01}
    plain = head(**options)
    pretrained = head(**options).pretrain([shaken(kind, seed) for seed in range(100, 140) for kind in KINDS])
    assert pretrained.pretraining_ == {"images": 120, "pseudo_classes": 3, "regions": 120}
    new = [shaken(kind, seed) for seed in range(20, 40) for kind in KINDS]
    gains = []
    for seed in range(1, 5):
        support = [shaken(kind, seed) for kind in KINDS]
        before = accuracy(plain.fit(support), new)
        gains.append(accuracy(pretrained.fit(support), new) - before)
    assert np.mean(gains) > 0.05


def test_pretraining_shrunk_to_nothing_changes_nothing():
    synthetic, support, new = several(4, start=60), several(2), several(2, start=30)
    ignored = head(ridge=1e6).pretrain(synthetic).fit(support)
    np.testing.assert_allclose(ignored.embed(new), head().fit(support).embed(new), atol=1e-4)


def test_each_region_takes_one_pass_of_the_transformer():
    model, seen = head().fit(several(2)), []
    module = model._backbone().module
    module.patch_embed.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    images = [evidence("burn", 1, boxes=TWO), *several(7)]
    model.predict(images)
    assert seen == [16, 7] and sum(len(one.sub_images) for one in images) == 23


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"crop_weight": -1.0}, "crop_weight must be between 0 and 1e6"),
        ({"residual_weight": 1e7}, "residual_weight must be between 0 and 1e6"),
        ({"crop_weight": 0.0, "residual": False}, "leave nothing to compare"),
        ({"crop_weight": 0.0, "residual_weight": 0.0}, "leave nothing to compare"),
        ({"width": 0.0}, "width must be above 0"),
        ({"ridge": "nan"}, "ridge='nan' is not a number"),
        ({"salience": -1.0}, "salience must be above 0"),
        ({"patch_blocks": "0"}, "patch_blocks counts from 1"),
        ({"mask_layers": -1}, "mask_layers must be between 0"),
        ({"mask_tokens": "some"}, "mask_tokens='some' is not one of"),
        ({"known": 0.0}, "known is a share"),
    ],
)
def test_settings_out_of_range(settings, reason):
    with pytest.raises(InvalidArgumentError, match=reason):
        head(**settings)


def test_pretraining_with_another_detector_is_refused():
    model = head().pretrain(several(2, start=60))
    other = [dataclasses.replace(one, residuals=np.repeat(one.residuals, 2, axis=0)) for one in several(2)]
    with pytest.raises(InvalidArgumentError, match="the patches have 10 channels, not the 5"):
        model.fit(other)
    assert accuracy(head().fit(several(2)).fit(other), other) == 1.0  # an earlier fit does not bind


def test_a_block_that_does_not_exist():
    with pytest.raises(InvalidArgumentError, match="block 9 does not exist: this transformer has blocks 1 to 4"):
        head(patch_blocks=(9,)).fit(several(1))


def test_kinds_of_leather_from_five_examples(shared):
    """Crops alone, at the data set's own masks: no detector is needed to see that the descriptor tells kinds apart."""
    images = [one for one in load_dataset(shared / "data/leather").split("test") if one.label != GOOD]
    found = [Evidence(one.id, one.image, ImageRegions.of(one.image, one.mask), label=one.label) for one in images]
    of_class: dict[str, list[Evidence]] = {}
    for one in sorted(found, key=lambda one: one.id):
        of_class.setdefault(one.label, []).append(one)
    support = [one for some in of_class.values() for one in some[:5]]
    new = [one for some in of_class.values() for one in some[5:]]
    model = create_classifier("prototype", settings={"residual": False}).fit(support)
    probs = model.predict_proba(new)
    right = np.array([probs.classes[best] == one.label for best, one in zip(probs.probs.argmax(1), new, strict=True)])
    assert len(new) == 66 and right.mean() > 0.6  # by chance 0.2
    assert abs(probs.probs.max(axis=1).mean() - right.mean()) < 0.15  # calibrated
