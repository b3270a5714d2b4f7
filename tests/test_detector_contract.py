"""What holds for every registered detector: a new one is held to it by being registered."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from clip_helpers import layer_file, tiny_clip
from core_helpers import normals, photo, tiny_backbone, tiny_vit

from anomalyhub.config import configure
from anomalyhub.detection import create_detector, detectors, load_detector
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, NotFittedError, UnknownNameError
from anomalyhub.protocols import Detector
from anomalyhub.registry import Registry
from anomalyhub.state import jsonable
from anomalyhub.types import AnomalyMap, Sample

# Settings that a detector needs to run on 64 px and two layers; most need none.
SETTINGS: dict[str, dict] = {
    # both states in the same words: texts of random weights say nothing
    "april-gan": {"weights": layer_file(), "resize": 64, "normal_states": ("{}",), "abnormal_states": ("{}",)},
    "winclip": {"resize": 64, "temperature": 100.0},  # texts of random weights say nothing
    "siamese": {"resize": 128},  # the coarse layer has a say of its own: patches smaller than the defect
}

# What a detector runs on; the others take two convolutions.
BACKBONES = {"april-gan": tiny_clip, "winclip": tiny_clip, "musc": tiny_vit}

# Where maps start at about: the text part of a language model with random weights, of one map or of four layers.
OFFSET = {"april-gan": 4 * 0.5, "winclip": 0.5}

# Other programs' maps and models cannot be had here; tests/test_precomputed.py and test_anomalib.py ask them the same.
ADAPTERS = {"precomputed", "anomalib"}

SHAPES = [(36, 52), (60, 40), (36, 52), (25, 70), (128, 33)]


def backbone_of(name):
    return BACKBONES.get(name, tiny_backbone)(size=64)


def unfitted(name, seed=0):
    return create_detector(name, backbone_of(name), seed=seed, settings=SETTINGS.get(name))


@pytest.fixture(scope="module", params=sorted(set(detectors.names()) - ADAPTERS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name):
    return unfitted(name).fit(normals(9))


@pytest.fixture(scope="module")
def unknown():
    """Unseen photos of several shapes, good and defective."""
    return [photo(50 + i, shape, defect=i % 2 == 1) for i, shape in enumerate(SHAPES)]


def assert_same_maps(results, others):
    assert len(results) == len(others)
    for one, other in zip(results, others, strict=True):
        assert np.array_equal(one.scores, other.scores) and one.image_score == other.image_score


def test_it_has_the_members_of_the_protocol(name):
    detector = unfitted(name)
    assert isinstance(detector, Detector) and detector.name == name
    assert detector.needs in ("nothing", "normals", "auxiliary") and isinstance(detector.transductive, bool)


def test_the_constructor_only_stores(name):
    """Nothing is loaded or computed before fit: a backbone that does not exist is no error yet."""
    detector = detectors[name].create("no_such_backbone", seed=7, settings=SETTINGS.get(name, {}))
    assert detector.backbone == "no_such_backbone" and detector.seed == 7
    assert not [key for key in vars(detector) if key.endswith("_")]
    with pytest.raises(UnknownNameError):
        detector.fit(normals(3))
    assert not [key for key in vars(detector) if key.endswith("_")]


def test_unfitted_raises(name, tmp_path):
    with pytest.raises(NotFittedError, match=r"not fitted: call fit\(\) first"):
        unfitted(name).predict([photo(0)])
    with pytest.raises(NotFittedError):
        unfitted(name).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_fit_returns_self_and_reports_progress(name):
    seen, detector = [], unfitted(name)
    assert detector.fit(normals(5), progress=lambda share, text: seen.append((share, text))) is detector
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0 and min(shares) >= 0
    assert all(isinstance(text, str) and text for _, text in seen)


def test_maps_have_the_order_and_shape_of_the_images(fitted, unknown):
    results = fitted.predict(unknown)
    for sample, result in zip(unknown, results, strict=True):
        assert isinstance(result, AnomalyMap) and result.scores.shape == sample.image.shape[:2]
        assert np.isfinite(result.scores).all() and isinstance(result.image_score, float)
    if not fitted.transductive:
        for one, other in zip(fitted.predict(unknown[::-1])[::-1], results, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_twice_gives_the_very_same(name, fitted, unknown):
    """Predicting again, fitting again with the same seed, and fitting the same object again."""
    results = fitted.predict(unknown)
    assert_same_maps(fitted.predict(unknown), results)
    detector = unfitted(name).fit(normals(9))
    assert_same_maps(detector.predict(unknown), results)
    detector.fit(normals(4, start=20))
    assert_same_maps(detector.fit(normals(9)).predict(unknown), results)


def test_one_image_equals_the_batch(fitted, unknown):
    if fitted.transductive:
        pytest.skip("judges images against each other")
    for sample, together in zip(unknown, fitted.predict(unknown), strict=True):
        (alone,) = fitted.predict([sample])
        np.testing.assert_allclose(alone.scores, together.scores, atol=1e-5)
        assert alone.image_score == pytest.approx(together.image_score, abs=1e-5)


def test_predicting_takes_any_iterable_and_nothing(fitted, unknown):
    assert fitted.predict([]) == []
    assert_same_maps(fitted.predict(iter(unknown)), fitted.predict(unknown))


def test_fitting_on_nothing_raises(name):
    detector = unfitted(name)
    if detector.needs != "normals":
        detector.fit([])
        return
    for nothing in ([], iter([])):
        with pytest.raises(InvalidArgumentError, match="needs normal images and got none"):
            detector.fit(nothing)
    with pytest.raises(NotFittedError):
        detector.predict([photo(0)])


def test_defects_score_higher(fitted):
    scores = [
        [result.image_score for result in fitted.predict([photo(80 + i, defect=defect) for i in range(6)])]
        for defect in (False, True)
    ]
    assert min(scores[1]) > max(scores[0])


def test_defects_are_found_where_they_are(name, fitted):
    for i, result in enumerate(fitted.predict(samples := [photo(80 + i, defect=True) for i in range(6)])):
        mask, offset = samples[i].mask, OFFSET.get(name, 0.0)
        assert (result.scores[mask] - offset).mean() > 1.5 * (result.scores[~mask] - offset).mean()
        row, column = np.unravel_index(result.scores.argmax(), mask.shape)
        rows, columns = np.nonzero(mask)
        assert abs(row - rows.mean()) <= 6 and abs(column - columns.mean()) <= 6  # half of the square, and half a patch


def test_labels_and_masks_are_not_read(name, fitted, unknown):
    def absurd(sample):
        return Sample("x", sample.image, "crack", np.ones(sample.image.shape[:2], bool))

    detector = unfitted(name).fit([absurd(sample) for sample in normals(9)])
    assert_same_maps(detector.predict([absurd(sample) for sample in unknown]), fitted.predict(unknown))


def test_images_are_not_changed(name):
    samples = normals(4)
    before = [sample.image.copy() for sample in samples]
    for sample in samples:
        sample.image.setflags(write=False)
    unfitted(name).fit(samples).predict(samples)
    assert all(np.array_equal(sample.image, image) for sample, image in zip(samples, before, strict=True))


def test_save_then_load_gives_the_same(name, fitted, unknown, tmp_path):
    fitted.save(tmp_path / "model")
    assert {path.suffix for path in (tmp_path / "model").iterdir()} <= {".json", ".safetensors", ".faiss"}
    results = fitted.predict(unknown)
    for loaded in (
        load_detector(tmp_path / "model", backbone_of(name)),
        detectors[name].load(tmp_path / "model", backbone=backbone_of(name)),
    ):
        assert type(loaded) is type(fitted) and loaded.config == fitted.config and loaded.seed == fitted.seed
        assert_same_maps(loaded.predict(unknown), results)
    loaded.save(tmp_path / "again")
    for path in (tmp_path / "model").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_loading_another_folder_raises(name, tmp_path):
    with pytest.raises(AnomalyHubError, match="does not exist"):
        detectors[name].load(tmp_path / "nowhere")
    with pytest.raises(AnomalyHubError, match="is not a model folder"):
        detectors[name].load(tmp_path)


def test_config_is_frozen_and_goes_through_json(name):
    config = unfitted(name).config
    assert dataclasses.is_dataclass(config)
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, getattr(config, field))
    texts = json.loads(json.dumps(jsonable(dataclasses.asdict(config))))
    assert configure(type(config), texts) == config
    assert configure(type(config), {key: str(value) for key, value in texts.items() if value is None}) == type(config)()
    with pytest.raises(UnknownNameError, match="unknown setting 'no_such_setting'"):
        detectors[name].create("embedded", seed=0, settings={"no_such_setting": "1"})


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown detector 'patchcor': did you mean 'patchcore'.*choose one of"):
        create_detector("patchcor")


def test_registry_refuses_a_name_twice():
    registry = Registry("thing")

    @registry.register
    class One:
        name = "one"

    assert registry.register(One) is One and registry["one"] is One and registry.names() == ("one",)
    with pytest.raises(ValueError, match="thing 'one' is registered twice"):
        registry.register(type("Two", (), {"name": "one"}))
    assert registry["one"] is One
    with pytest.raises(UnknownNameError, match="unknown thing 'uno': choose one of one"):
        registry["uno"]
