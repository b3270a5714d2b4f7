"""What holds for every registered discoverer: a new one is held to it by being registered."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from discovery_helpers import QUICK, drawn, sub_image, tiny_transformer

from anomalyhub.config import configure
from anomalyhub.discovery import create_discoverer, discoverers, load_discoverer
from anomalyhub.errors import Cancelled, InvalidArgumentError, InvalidModelError, NotFittedError, UnknownNameError
from anomalyhub.protocols import Discoverer
from anomalyhub.state import jsonable
from anomalyhub.types import SubImage

# What makes each quick, and variants that are to keep the contract too.
SETTINGS = {
    "anomalyncd": {**QUICK, "cache_views": 2},
    "anomalyncd paper": {**QUICK, "preset": "paper"},
    "clustering": {"embed_batch": 5},
    "clustering not whitened": {"embed_batch": 5, "whiten_views": 0},
    "clustering anomaly_clustering": {"preset": "anomaly_clustering", "references": 4},
}


def unfitted(name, seed=0, **changes):
    return create_discoverer(
        name.split()[0], tiny_transformer(), seed=seed, settings={**SETTINGS.get(name, {}), **changes}
    )


@pytest.fixture(scope="module", params=sorted({*discoverers.names(), *SETTINGS}))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name):
    return unfitted(name).fit(drawn(), n_novel=3)


@pytest.fixture(scope="module")
def new():
    return drawn(2, ("good", "burn", "paint", "rust"), start=50)


def test_it_has_the_members_of_the_protocol(name):
    assert isinstance(unfitted(name), Discoverer) and unfitted(name).name == name.split()[0]


def test_the_constructor_only_stores(name):
    model = discoverers[name.split()[0]].create("no_such_backbone", seed=7, settings={})
    assert model.backbone == "no_such_backbone" and model.seed == 7
    assert not [key for key in vars(model) if key.endswith("_")]
    with pytest.raises(UnknownNameError):
        model.fit(drawn(1), n_novel=2)
    assert not [key for key in vars(model) if key.endswith("_")]


def test_unfitted_raises(name, tmp_path):
    model, subs = unfitted(name), drawn(1)
    for call in (
        lambda: model.embed(subs),
        lambda: model.predict_proba(subs),
        lambda: model.novelty(subs),
        lambda: model.predict(subs, [0, 1, 2]),
        lambda: model.fitted_result([0, 1, 2]),
        lambda: model.save(tmp_path),
    ):
        with pytest.raises(NotFittedError, match=r"is not fitted: call fit\(\) first"):
            call()
    assert not list(tmp_path.iterdir())


def test_fit_returns_self_and_reports_progress(name):
    seen, model = [], unfitted(name)
    assert model.fit(drawn(2), n_novel=2, progress=lambda share, text: seen.append((share, text))) is model
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0 and shares[0] >= 0
    assert all(isinstance(text, str) and text for _, text in seen)


def test_shapes_names_and_sums(fitted, new):
    probs = fitted.predict_proba(new)
    assert probs.probs.shape == (8, 3) and probs.classes == fitted.classes_ == ("kind_1", "kind_2", "kind_3")
    np.testing.assert_allclose(probs.probs.sum(axis=1), 1, atol=1e-5)
    embeddings = fitted.embed(new)
    assert embeddings.dtype == np.float32 and embeddings.shape == (8, fitted.prototypes_.shape[1])
    assert fitted.labels_.shape == (12,) and set(fitted.labels_.tolist()) <= {0, 1, 2} and fitted.temperature_ > 0


def test_the_fitted_result_is_that_of_labels(fitted):
    """And, but for agglomerative clusters, what predicting the same sub-images again says."""
    images = [i // 2 for i in range(12)]
    result = fitted.fitted_result(images)
    assert result.regions.probs.argmax(axis=1).tolist() == fitted.labels_.tolist()
    assert result.images == tuple(range(6)) and result.image_probs.probs.shape == (6, 3) and not result.unknown.any()
    again = fitted.predict(drawn(), images)
    np.testing.assert_allclose(np.sort(again.regions.probs), np.sort(result.regions.probs), atol=1e-5)
    if getattr(fitted.config, "algorithm", "") != "agglomerative":
        np.testing.assert_allclose(again.image_probs.probs, result.image_probs.probs, atol=1e-5)
    assert again.unknown.mean() <= 0.1


def test_order_and_batches_do_not_matter(fitted, new):
    together = fitted.predict_proba(new).probs
    np.testing.assert_allclose(fitted.predict_proba(new[::-1]).probs[::-1], together, atol=1e-4)
    for sub, row in zip(new, together, strict=True):
        np.testing.assert_allclose(fitted.predict_proba([sub]).probs[0], row, atol=1e-4)


def test_twice_gives_the_very_same(name, fitted, new):
    probs = fitted.predict_proba(new).probs
    assert np.array_equal(fitted.predict_proba(new).probs, probs)
    model = unfitted(name).fit(drawn(), n_novel=3)
    assert np.array_equal(model.predict_proba(new).probs, probs) and np.array_equal(model.labels_, fitted.labels_)
    model.fit(drawn(2, start=30), n_novel=2)
    assert np.array_equal(model.fit(drawn(), n_novel=3).predict_proba(new).probs, probs)


def test_nothing_gives_nothing(fitted):
    assert fitted.predict_proba([]).probs.shape == (0, 3) and fitted.predict([], []).images == ()
    assert fitted.novelty([]).shape == (0,)


def test_save_then_load_gives_the_same(fitted, new, tmp_path):
    fitted.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "state.safetensors"]
    loaded = load_discoverer(tmp_path / "model", tiny_transformer())
    assert type(loaded) is type(fitted) and loaded.config == fitted.config and loaded.seed == fitted.seed
    assert np.array_equal(loaded.predict_proba(new).probs, fitted.predict_proba(new).probs)
    assert np.array_equal(loaded.novelty(new), fitted.novelty(new)) and loaded.classes_ == fitted.classes_
    images = list(range(12))
    assert np.array_equal(
        loaded.fitted_result(images).image_probs.probs, fitted.fitted_result(images).image_probs.probs
    )
    loaded.save(tmp_path / "again")
    for path in (tmp_path / "model").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("classes"), "is damaged"),
        (
            lambda config: config.update(discoverer="kmeans9"),
            "holds a discoverer 'kmeans9', which this version does not",
        ),
        (lambda config: config.update(kind="detector"), "holds a detector, not a discoverer"),
    ],
)
def test_a_damaged_folder_is_named(fitted, tmp_path, change, message):
    fitted.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidModelError, match=message):
        load_discoverer(tmp_path, tiny_transformer())


def test_other_weights_or_another_class_are_refused(name, fitted, tmp_path):
    fitted.save(tmp_path)
    with pytest.raises(InvalidModelError, match="the weights of tiny-vit are not those"):
        load_discoverer(tmp_path, tiny_transformer(seed=1))
    (other,) = {"anomalyncd", "clustering"} - {name.split()[0]}
    with pytest.raises(InvalidModelError):
        discoverers[other].load(tmp_path, tiny_transformer())


@pytest.mark.parametrize(
    ("subs", "n_novel", "message"),
    [
        ([], 2, "needs sub-images and got none: there is no region in any image"),
        ([], "auto", "needs sub-images and got none"),
        (drawn(1), 4, "4 classes were asked for and there are only 3 sub-images: give fewer classes"),
        (drawn(1)[:1], 2, "2 classes were asked for and there are only 1 sub-images"),
        (drawn(1)[:2], "auto", "cannot be estimated from 2 sub-images: give n_novel"),
        (drawn(1), 0, "n_novel must be 'auto' or a number of classes from 1, got 0"),
        (drawn(1), "many", "n_novel must be 'auto' or a number"),
        (drawn(1), 2.5, "n_novel must be 'auto' or a number"),
    ],
)
def test_bad_input(name, subs, n_novel, message):
    model = unfitted(name)
    with pytest.raises(InvalidArgumentError, match=message):
        model.fit(subs, n_novel=n_novel)
    assert not [key for key in vars(model) if key.endswith("_")]


def with_masks(full: bool) -> list[SubImage]:
    return [
        SubImage(s.image, np.full_like(s.mask, full), s.mask.size * full, s.box, s.region, s.score)
        for s in drawn(2, ("burn", "paint"))
    ]


@pytest.mark.parametrize("subs", [with_masks(False), with_masks(True), drawn(1)[1:2]], ids=["empty", "full", "one"])
def test_unusual_sets_work(name, subs):
    """No mask anywhere, masks of everything, and a single sub-image."""
    count = min(2, len(subs))
    model = unfitted(name).fit(subs, n_novel=count)
    probs = model.predict_proba(subs).probs
    assert probs.shape[0] == len(subs) and 1 <= probs.shape[1] <= count and np.isfinite(probs).all()
    assert np.isfinite(model.novelty(subs)).all()


def test_the_number_of_classes_is_estimated(name):
    """Empty masks are one class, of which the estimate sees nothing."""
    model = unfitted(name, max_classes=5).fit(drawn(6, ("good", "burn", "paint", "rust")), n_novel="auto")
    assert 3 <= len(model.classes_) <= 5 and sorted(model.n_classes_curve_) == [3, 4, 5]
    model = unfitted(name, max_classes=5).fit(drawn(10, ("burn", "paint")), n_novel="auto")
    assert 2 <= len(model.classes_) <= 5 and sorted(model.n_classes_curve_) == [2, 3, 4, 5]


def test_a_cancelled_fit_leaves_the_old_one(name, fitted, new):
    before = fitted.predict_proba(new).probs

    def stop(share, text):
        if share > 0.5:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        fitted.fit(drawn(2, start=9), n_novel=2, progress=stop)
    assert np.array_equal(fitted.predict_proba(new).probs, before)


def test_the_backbone_is_left_as_it_was(name):
    backbone = tiny_transformer()
    before = {key: value.clone() for key, value in backbone.module.state_dict().items()}
    model = discoverers[name.split()[0]].create(backbone, seed=0, settings=SETTINGS[name])
    model.fit(drawn(2), n_novel=2)
    after = backbone.module.state_dict()
    assert all((after[key] == value).all() for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


def test_config_is_frozen_and_goes_through_json(name):
    config = unfitted(name).config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.mask_layers = 3
    texts = json.loads(json.dumps(jsonable(dataclasses.asdict(config))))
    assert configure(type(config), texts) == config
    with pytest.raises(UnknownNameError, match="unknown setting 'no_such_setting'"):
        unfitted(name, no_such_setting=1)
    with pytest.raises(UnknownNameError, match="unknown preset 'defualt': did you mean 'default'"):
        unfitted(name, preset="defualt")


def test_settings_come_as_texts(name):
    config = unfitted(name, augmentations="crop,flip", mask_tokens="all", calibrate="no", known="0.9").config
    assert config.augmentations == ("crop", "flip") and config.mask_tokens == "all"
    assert config.calibrate is False and config.known == 0.9
    assert unfitted(name, augmentations="none").config.augmentations is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_layers": -1}, "mask_layers must not be negative"),
        ({"inside": 0.0}, r"inside is a share in \(0, 1\]"),
        ({"known": 1.1}, r"known is a share in \(0, 1\]"),
        ({"symmetries": 9}, "symmetries must be between 1 and 8"),
        ({"merge_temperature": 0.0}, "merge_temperature must be above 0"),
        ({"max_classes": 1}, "max_classes must be between 2 and 1000"),
        ({"merge": "largest"}, "setting merge='largest' is not one of area, score, mean"),
        ({"augmentations": "crop,rain"}, "setting augmentations='crop,rain'"),
    ],
)
def test_settings_out_of_range(name, settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        unfitted(name, **settings)


def test_symmetries_make_the_embedding_blind_to_turns(name):
    model = unfitted(name, symmetries=8, centre_crop=False).fit(drawn(2), n_novel=2)
    sub = sub_image("burn", 3, 64)
    turned = SubImage(np.rot90(sub.image, 3).copy(), np.rot90(sub.mask, 3).copy(), sub.area_px, sub.box, 0, 1.0)
    one, other = model.embed([sub, turned])
    np.testing.assert_allclose(one, other, atol=1e-4)
