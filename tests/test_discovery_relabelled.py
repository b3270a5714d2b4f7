"""`relabelled`: a fitted discoverer that takes the classes a person gave, without training."""

from __future__ import annotations

import numpy as np
import pytest
from discovery_helpers import QUICK, drawn, tiny_transformer

from anomalyhub.discovery import create_discoverer, load_discoverer
from anomalyhub.errors import InvalidArgumentError, NotFittedError

SETTINGS = {"anomalyncd": {**QUICK, "epochs": 1, "cache_views": 2}, "clustering": {"embed_batch": 6}}
TRUTH = ["good"] * 4 + ["burn"] * 4 + ["paint"] * 4  # of drawn()


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def fitted(request):
    return create_discoverer(request.param, tiny_transformer(), settings=SETTINGS[request.param]).fit(
        drawn(), n_novel=2
    )


def state(model) -> dict:
    return {key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in vars(model).items()}


def test_it_knows_the_given_classes(fitted):
    model = fitted.relabelled(TRUTH)
    assert model.classes_ == ("good", "burn", "paint") and type(model) is type(fitted)
    assert [model.classes_[label] for label in model.labels_] == TRUTH and model.labels_.dtype == np.int64
    assert model.temperature_ == fitted.temperature_ and model.config == fitted.config
    probs = model.predict_proba(drawn(3, start=40))
    assert probs.classes == model.classes_ and probs.probs.shape == (9, 3)
    assert (probs.probs.argmax(axis=1) == np.repeat([0, 1, 2], 3)).mean() > 0.7


def test_prototypes_are_the_means(fitted):
    model = fitted.relabelled(TRUTH)
    means = np.stack([fitted.embeddings_[start : start + 4].mean(axis=0) for start in (0, 4, 8)])
    if fitted.name == "anomalyncd":  # cosines, at a temperature that was trained for them
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(model.prototypes_, means, rtol=1e-5)
    assert model.prototypes_.dtype == np.float32


def test_rows_without_a_label_are_left_out(fitted):
    model = fitted.relabelled([None, *TRUTH[1:4], "b", *TRUTH[5:11], None])
    assert model.classes_ == ("good", "b", "burn", "paint")
    for name in ("embeddings_", "areas_", "scores_"):
        assert np.array_equal(getattr(model, name), getattr(fitted, name)[1:11])
    assert model.labels_.tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3, 3]
    assert model.fitted_result(range(10)).regions.probs.argmax(axis=1).tolist() == model.labels_.tolist()


def test_what_is_known_is_found_anew(fitted):
    model, rest = fitted.relabelled([*TRUTH[:8], None, None, None, None]), drawn()[8:]
    assert model.familiarity_.limits.shape == (2,) and model.familiarity_.bank.shape == model.embeddings_.shape
    assert (fitted.novelty(rest) <= 1.01).all()
    assert model.novelty(rest).min() > fitted.novelty(rest).max()


def test_the_original_is_unchanged(fitted):
    before = state(fitted)
    model = fitted.relabelled(TRUTH)
    model.embeddings_[:] = 0
    after = state(fitted)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert np.array_equal(value, after[name]) if isinstance(value, np.ndarray) else value is after[name]


def test_it_is_saved_and_loaded(fitted, tmp_path):
    model, new = fitted.relabelled([*TRUTH[:11], None]), drawn(2, start=40)
    model.save(tmp_path)
    loaded = load_discoverer(tmp_path, tiny_transformer())
    assert loaded.classes_ == model.classes_
    assert np.array_equal(loaded.predict_proba(new).probs, model.predict_proba(new).probs)
    assert np.array_equal(loaded.novelty(new), model.novelty(new))
    assert loaded.relabelled(["x"] * 11).classes_ == ("x",)


def more_of(model, crops) -> tuple:
    """What `relabelled` takes of sub-images that were not in the fit."""
    return model.embed(crops), [crop.area_px for crop in crops], [crop.score for crop in crops]


def test_more_sub_images_teach(fitted):
    new = drawn(3, ("rust",))
    more = more_of(fitted, new)
    model = fitted.relabelled([*TRUTH[:11], None, "rust", None, "rust"], more)
    assert model.classes_ == ("good", "burn", "paint", "rust")
    assert [model.classes_[label] for label in model.labels_] == [*TRUTH[:11], "rust", "rust"]
    for name, added in zip(("embeddings_", "areas_", "scores_"), more, strict=True):
        of_fit, joined = getattr(fitted, name), getattr(model, name)
        assert joined.dtype == of_fit.dtype and np.array_equal(joined[:11], of_fit[:11])
        assert np.array_equal(joined[11:], np.asarray(added)[[0, 2]])
    mean = more[0][[0, 2]].mean(axis=0)
    cosine = mean @ model.prototypes_[3] / np.linalg.norm(mean) / np.linalg.norm(model.prototypes_[3])
    assert cosine == pytest.approx(1) and model.familiarity_.limits.shape == (4,)
    assert model.novelty(new[:1]) < 0.01 < fitted.novelty(new[:1])
    assert np.array_equal(model.fitted_result(range(13)).regions.probs.argmax(axis=1), model.labels_)


def test_more_sub_images_alone(fitted):
    new = drawn(2, ("rust",))
    model = fitted.relabelled([None] * 12 + ["rust", "rust"], more_of(fitted, new))
    assert model.classes_ == ("rust",) and len(model.embeddings_) == 2


def test_none_more_is_as_without(fitted):
    some, none = fitted.relabelled(TRUTH, more_of(fitted, [])), fitted.relabelled(TRUTH)
    assert state(some).keys() == state(none).keys()
    for name in ("embeddings_", "labels_", "prototypes_", "areas_", "scores_"):
        assert np.array_equal(getattr(some, name), getattr(none, name))


def test_sub_images_of_the_fit_that_come_again_count_once(fitted):
    """By the later label, also when that is none."""
    more = more_of(fitted, drawn()[4:8])
    model = fitted.relabelled([*TRUTH, "burn", "drip", None, "burn"], more)
    assert [model.classes_[label] for label in model.labels_] == ["good"] * 4 + ["paint"] * 4 + ["burn", "drip", "burn"]
    assert np.array_equal(model.embeddings_[8:], more[0][[0, 1, 3]])


def test_another_sub_image_that_looks_the_same_is_not_one_that_comes_again(fitted):
    """Empty masks can have one embedding; each of `more` stands for one of the fit at most, of its area and score."""
    crops = drawn()[:4]
    embeddings, areas, scores = more_of(fitted, crops[:1])
    other = fitted.relabelled([*TRUTH, None], (embeddings, areas, [scores[0] + 0.1]))
    assert len(other.labels_) == 12
    larger = fitted.relabelled([*TRUTH, None], (embeddings, [areas[0] + 1], scores))
    assert len(larger.labels_) == 12
    same = fitted.relabelled([*TRUTH, None], (embeddings, areas, scores))
    assert len(same.labels_) == 11 and np.array_equal(same.embeddings_, fitted.embeddings_[1:])


def test_one_class_and_one_member(fitted):
    model = fitted.relabelled([None] * 11 + ["drip"])
    assert np.array_equal(model.predict_proba(drawn(1)).probs, np.ones((3, 1)))
    assert np.isfinite(model.novelty(drawn(1))).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (TRUTH[:11], r"labels must have one entry per sub-image \(12\), got 11"),
        ([None] * 12, "no sub-image of the fit has a class: give at least one of them one"),
    ],
)
def test_labels_that_will_not_do(fitted, labels, message):
    with pytest.raises(InvalidArgumentError, match=message):
        fitted.relabelled(labels)


def test_labels_are_those_of_more_too(fitted):
    with pytest.raises(InvalidArgumentError, match=r"per sub-image \(14\), got 12"):
        fitted.relabelled(TRUTH, more_of(fitted, drawn(2, ("rust",))))


def test_it_needs_a_fit():
    with pytest.raises(NotFittedError):
        create_discoverer("clustering", tiny_transformer()).relabelled([])
