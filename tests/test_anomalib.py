"""anomalib's exported and trained models as a detector: what the contract asks, thresholds, refusals."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import sys
import warnings

import numpy as np
import pytest
import torch
from anomalib_helpers import FakeExports, RealExports, Tiny, expected_map, fake_anomalib, fake_openvino
from core_helpers import normals, photo

from anomalyhub.detection import create_detector, load_detector
from anomalyhub.detection.anomalib_models import AnomalibDetector
from anomalyhub.errors import (
    AnomalyHubError,
    BackboneError,
    Cancelled,
    InvalidArgumentError,
    InvalidModelError,
    NotFittedError,
    UnknownNameError,
)
from anomalyhub.pipeline import Inspector, evaluate
from anomalyhub.protocols import Detector

SHAPES = [(36, 52), (60, 40), (25, 70), (128, 33)]
MISSING = r'not installed \({}\): pip install "anomalyhub\[anomalib\]"'


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.fixture
def unknown():
    return [photo(50 + i, shape, defect=i % 2 == 1) for i, shape in enumerate(SHAPES)]


@pytest.fixture(params=["fake", "real"])
def exports(request, monkeypatch):
    if request.param == "fake":
        monkeypatch.setitem(sys.modules, "openvino", fake_openvino())
        return FakeExports()
    if not installed("openvino"):
        pytest.skip('openvino is not installed: pip install "anomalyhub[anomalib]"')
    return RealExports()


@pytest.fixture
def fakes(monkeypatch):
    """Only the fake anomalib, lightning and openvino."""
    for name, module in {**fake_anomalib(), "openvino": fake_openvino()}.items():
        monkeypatch.setitem(sys.modules, name, module)


def exported(path, **settings) -> AnomalibDetector:
    return create_detector("anomalib", settings={"exported": str(path), **settings})


def trained(model="Tiny", seed=0, **settings) -> AnomalibDetector:
    return create_detector(
        "anomalib", seed=seed, settings={"model": model, "epochs": "2", "batch_size": "3", **settings}
    )


def assert_same(results, others):
    assert len(results) == len(others)
    for one, other in zip(results, others, strict=True):
        assert np.array_equal(one.scores, other.scores) and one.image_score == other.image_score


def assert_saved_the_same(fitted, folder, unknown):
    """Saved twice with the same bytes; loaded, with and without a backbone, with the same maps."""
    results = fitted.predict(unknown)
    fitted.save(folder / "model")
    assert sorted(path.name for path in (folder / "model").iterdir()) == ["config.json", "state.safetensors"]
    for backbone in (None, "no_such_backbone"):
        loaded = load_detector(folder / "model", backbone)
        assert type(loaded) is AnomalibDetector and (loaded.config, loaded.seed) == (fitted.config, fitted.seed)
        assert_same(loaded.predict(unknown), results)
        assert np.array_equal(loaded.held_out_scores_, fitted.held_out_scores_)
        assert np.array_equal(loaded.held_out_peaks_, fitted.held_out_peaks_)
        assert loaded.natural_thresholds_ == fitted.natural_thresholds_
    loaded.save(folder / "again")
    for path in (folder / "model").iterdir():
        assert (folder / "again" / path.name).read_bytes() == path.read_bytes()


# the protocol


def test_the_members_and_the_constructor():
    made = create_detector("anomalib", "no_such_backbone", seed=7, settings={"model": "Padim"})
    assert isinstance(made, Detector) and (made.backbone, made.seed) == ("no_such_backbone", 7)
    assert (made.needs, AnomalibDetector.needs, made.transductive) == ("normals", "nothing", False)
    assert exported("model.xml").needs == "nothing"
    assert not [key for key in vars(made) if key.endswith("_")]


def test_unfitted_raises(tmp_path):
    with pytest.raises(NotFittedError, match=r"not fitted: call fit\(\) first"):
        trained().predict([photo(0)])
    with pytest.raises(NotFittedError):
        trained().save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exported": "a.xml", "model": "Padim"}, "exclude each other"),
        ({"model": "Padim", "arguments": "backbone"}, "not a JSON object: write for example"),
        ({"model": "Padim", "arguments": "[1]"}, "not a JSON object"),
        ({"model": "Padim", "epochs": "0"}, "setting epochs must be between 1 and"),
        ({"model": "Padim", "batch_size": "0"}, "setting batch_size must be"),
        ({"model": "Padim", "hold_out": "0.6"}, "setting hold_out must be between 0.0 and 0.5"),
        ({}, "neither setting exported nor setting model is given"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        create_detector("anomalib", settings=settings).fit(normals(3))


@pytest.mark.parametrize(
    ("absent", "settings"), [("openvino", {"exported": "model.xml"}), ("anomalib", {"model": "Padim"})]
)
def test_what_is_not_installed_is_named(monkeypatch, tmp_path, absent, settings):
    for name in (absent, f"{absent}.models"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    FakeExports().write_any(tmp_path, [], [])
    with pytest.raises(InvalidArgumentError, match=MISSING.format(absent)):
        create_detector("anomalib", settings=settings).fit(normals(4))


# exported models


@pytest.mark.parametrize("normalised", [True, False])
def test_an_exported_model_gives_its_own_maps(exports, tmp_path, unknown, normalised):
    fitted = exported(exports.write(tmp_path, normalised=normalised)).fit([])
    results = fitted.predict(iter(unknown))
    for sample, result in zip(unknown, results, strict=True):
        expected = expected_map(sample.image, normalised)
        np.testing.assert_allclose(result.scores, expected, atol=1e-5)
        assert result.image_score == pytest.approx(expected.max(), abs=1e-5)
    assert_same([fitted.predict([one])[0] for one in unknown], results)
    assert_same(fitted.predict(unknown[::-1])[::-1], results)
    assert fitted.predict([]) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"normalised": True}, (0.5, 0.5)),
        ({"normalised": False}, None),  # never validated: anomalib compares raw scores with 0.5, which says nothing
        ({"form": "clamp"}, (0.5, 0.5)),
        ({"form": "plain", "normalised": False}, None),
        ({"decisions": False}, None),  # exported without its post-processor
    ],
)
def test_thresholds_of_normalised_models(exports, tmp_path, options, expected):
    fitted = exported(exports.write(tmp_path, **options)).fit([])
    assert fitted.natural_thresholds_ == expected
    assert fitted.held_out_scores_.shape == fitted.held_out_peaks_.shape == (0,)


def test_a_model_of_fixed_size_sees_the_whole_image(exports, tmp_path):
    """Halves of two greys: the border between them stays in the middle of the image's frame."""
    sample = photo(0, (40, 60))
    image = np.full((40, 60, 3), 128, np.uint8)
    image[:, 30:] = 255
    fitted = exported(exports.write(tmp_path, size=(16, 24), normalised=False)).fit([])
    (result,) = fitted.predict([type(sample)("a.png", image)])
    assert result.scores.shape == (40, 60)
    np.testing.assert_allclose(result.scores[:, :25], 0.5 / 255, atol=1e-3)
    np.testing.assert_allclose(result.scores[:, 35:], 0.5, atol=1e-3)


def test_normals_are_scored_by_an_exported_model(exports, tmp_path):
    samples, seen = normals(5), []
    fitted = exported(exports.write(tmp_path))
    assert fitted.fit(iter(samples), progress=lambda share, text: seen.append((share, text))) is fitted
    expected = [expected_map(sample.image, True).max() for sample in samples]
    np.testing.assert_allclose(fitted.held_out_scores_, expected, atol=1e-5)
    np.testing.assert_allclose(fitted.held_out_peaks_, expected, atol=1e-5)
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and all(text for _, text in seen)
    assert len(fitted.fit(samples[:1]).held_out_scores_) == 0


def test_a_saved_exported_model_needs_no_other_file(exports, tmp_path, monkeypatch, unknown):
    monkeypatch.chdir(tmp_path)
    exports.write(tmp_path / "export", normalised=True)
    fitted = exported("export/model.xml").fit(normals(3))
    shutil.rmtree(tmp_path / "export")
    assert_saved_the_same(fitted, tmp_path, unknown)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "model"]  # openvino's cache is not used


@pytest.mark.parametrize("batch", [1, 2])
def test_a_model_of_fixed_batch_size(exports, tmp_path, unknown, batch):
    """anomalib 2.7 exports some classes, such as Patchcore, for two images at a time."""
    fitted = exported(exports.write(tmp_path, batch=batch)).fit([])
    for sample, result in zip(unknown, fitted.predict(unknown), strict=True):
        np.testing.assert_allclose(result.scores, expected_map(sample.image, True), atol=1e-5)
        assert result.image_score == pytest.approx(expected_map(sample.image, True).max(), abs=1e-5)


def test_the_bin_file_names_the_model_too(exports, tmp_path, unknown):
    path = exports.write(tmp_path)
    assert_same(exported(path.with_suffix(".bin")).fit([]).predict(unknown), exported(path).fit([]).predict(unknown))


def test_an_onnx_file(fakes, tmp_path, unknown):
    path = FakeExports().write_any(tmp_path, [[1, 3, None, None]], ["anomaly_map"], onnx=True)
    fitted = exported(path).fit([])
    np.testing.assert_allclose(fitted.predict(unknown)[0].scores, expected_map(unknown[0].image, True), atol=1e-6)
    assert_saved_the_same(fitted, tmp_path, unknown)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".PT"])
def test_pickled_files_are_not_opened(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidArgumentError, match="pickled.*anomalib export --model .* --export_type openvino"):
        exported(path).fit([])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.txt", "model.txt is no exported model: give an OpenVINO .xml or an .onnx"),
        ("nowhere.xml", "nowhere.xml does not exist"),
        ("nowhere.onnx", "nowhere.onnx does not exist"),
        ("lonely.xml", "lonely.bin does not exist.*give both"),
        ("text.xml", "not an OpenVINO .xml file"),
        ("damaged.xml", "damaged .*export it again"),
        ("damaged.onnx", "cannot be read .*export it again"),
    ],
)
def test_files_that_are_no_export(exports, tmp_path, name, message):
    for known in ("model.txt", "lonely.xml", "text.xml", "text.bin", "damaged.bin", "damaged.onnx"):
        (tmp_path / known).write_text("some text")
    (tmp_path / "damaged.xml").write_text('<net name="x"')
    with pytest.raises(AnomalyHubError, match=message):
        exported(tmp_path / name).fit([])


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([[None, 3, None, None]], ["pred_score"], "gives pred_score and no anomaly_map"),
        ([[None, 3, None, None]], [], "gives nothing and no anomaly_map"),
        ([[None, 1, None, None]], ["anomaly_map"], "not one image"),
        ([[None, 3]], ["anomaly_map"], "not one image"),
        ([[None, 3, None, None]] * 2, ["anomaly_map"], "not one image"),
        ([], ["anomaly_map"], "takes nothing and not one image"),
    ],
)
def test_exports_of_another_kind(fakes, tmp_path, inputs, outputs, message):
    with pytest.raises(InvalidModelError, match=message):
        exported(FakeExports().write_any(tmp_path, inputs, outputs)).fit([])


def test_scores_that_are_not_finite(exports, tmp_path):
    fitted = exported(exports.write(tmp_path, nan=True, normalised=False)).fit([])
    with pytest.raises(InvalidModelError, match="gives good/000.png scores that are NaN or infinite"):
        fitted.predict([photo(0)])


def test_an_exported_model_judges_and_is_measured(exports, tmp_path, unknown):
    """Without a normal image by the model's own threshold, with some by theirs."""
    fitted = exported(exports.write(tmp_path)).fit([])
    alone = Inspector(fitted)
    assert alone.threshold == 0.5 and alone.map_threshold() == 0.5
    scores = [expected_map(sample.image, True).max() for sample in unknown]
    assert [result.is_anomalous for result in alone.inspect(unknown)] == [score > 0.5 for score in scores]
    inspector = Inspector.fit(exported(exports.write(tmp_path)), normals(6))
    inspector.save(tmp_path / "model")
    metrics = evaluate(Inspector.load(tmp_path / "model"), unknown)
    assert metrics["n_images"] == 4 and metrics["image_auroc"] == 1.0
    assert metrics["operating_point"]["threshold"] == inspector.threshold > scores[0]


# models trained here


def by_hand(samples, scale):
    """The fake model's map of each sample, after training on the others."""
    mean, std = 0.5, 0.25

    def prepared(sample):
        tensor = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float() / 255
        small = torch.nn.functional.interpolate(tensor, (16, 24), mode="bilinear", antialias=True)
        return (small - mean) / std

    centre = torch.cat([prepared(sample) for sample in samples]).mean(0)
    return lambda sample: ((prepared(sample) - centre).abs().mean(1)[0] * scale).numpy()


def test_training_is_the_class_s_own(fakes, unknown):
    """The map is the class's, of the whole image, after training on what was not held out."""
    samples = normals(9)
    fitted = trained(hold_out="0.25").fit(samples)
    order = np.random.default_rng(0).permutation(9)
    held, kept = sorted(order[:2]), sorted(order[2:])
    scored = by_hand([samples[i] for i in kept], fitted.model_.module.model.scale.item())
    for sample, result in zip(unknown, fitted.predict(unknown), strict=True):
        assert result.scores.shape == sample.image.shape[:2]
        small = scored(sample)
        assert result.image_score == pytest.approx(small.max(), abs=1e-4)
        assert small.min() - 1e-4 <= result.scores.min() <= result.scores.max() <= small.max() + 1e-4
    np.testing.assert_allclose(fitted.held_out_scores_, [scored(samples[i]).max() for i in held], atol=1e-4)
    assert fitted.natural_thresholds_ is None


@pytest.mark.parametrize(
    ("count", "hold_out", "expected"), [(2, "0.2", 0), (3, "0.2", 0), (4, "0.2", 2), (20, "0.2", 4), (9, "0", 0)]
)
def test_how_many_are_held_out(fakes, count, hold_out, expected):
    fitted = trained(hold_out=hold_out).fit(normals(count))
    assert len(fitted.held_out_scores_) == len(fitted.held_out_peaks_) == expected
    assert Tiny.last.count == 2 * (count - expected)  # in two epochs


def test_the_same_seed_gives_the_same_and_leaves_the_generators_alone(fakes, unknown):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    results = trained().fit(normals(6)).predict(unknown)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected
    assert_same(trained().fit(iter(normals(6))).predict(unknown), results)
    assert trained(seed=1).fit(normals(6)).predict(unknown)[0].image_score != results[0].image_score


def test_progress_and_cancelling(fakes):
    seen = []
    trained().fit(normals(10), progress=lambda share, text: seen.append((share, text)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert "epoch 2, batch 3" in [text for _, text in seen] and seen[-1][1] == "threshold from 2 normal images"

    def stop(share, text):
        if text.startswith("epoch 2"):
            raise Cancelled("stopped")

    detector = trained()
    with pytest.raises(Cancelled):
        detector.fit(normals(9), progress=stop)
    with pytest.raises(NotFittedError):
        detector.predict([photo(0)])


def test_a_saved_trained_model_holds_tensors_and_arguments(fakes, tmp_path, unknown):
    fitted = trained(arguments='{"backbone": "large", "layers": ["b", "c"]}').fit(normals(6))
    assert_saved_the_same(fitted, tmp_path, unknown)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["anomalib"] == {
        "model": "Tiny",
        "arguments": {"backbone": "large", "layers": ["b", "c"]},
        "transform": {"size": [16, 24], "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    module = load_detector(tmp_path / "model").model_.module
    assert module.hparams == {"backbone": "large", "layers": ["b", "c"], "pre_trained": False}  # no download


def test_crops_are_left_out_of_a_training(fakes):
    """The map covers the image: a bright left edge, which the class's own crop would cut off, shows there."""
    fitted = trained("Cropper", hold_out="0").fit(normals(5))
    assert fitted.model_.transform == {"size": [16, 24], "interpolation": "bilinear", "mean": None, "std": None}
    sample = photo(0, (64, 96))
    image = sample.image.copy()
    image[:, :6] = 255
    before, after = fitted.predict([sample, type(sample)("a.png", image)])
    change = (after.scores - before.scores).mean(axis=0)
    assert change[:4].min() > 5 * np.abs(change[12:]).max()


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        ("Tinny", "{}", UnknownNameError, "unknown anomalib model 'Tinny': did you mean 'Tiny'"),
        ("get_model", "{}", UnknownNameError, "unknown anomalib model 'get_model'"),
        ("os.system", "{}", UnknownNameError, "unknown anomalib model"),
        ("Tiny", '{"bogus": 1}', InvalidArgumentError, "cannot be made with .*bogus.*change setting arguments"),
        ("Tiny", '{"backbone": "hf-hub:x"}', InvalidArgumentError, "a path or an address: give a name"),
        ("Tiny", '{"layers": ["a", {"b": "../x"}]}', InvalidArgumentError, "a path or an address"),
        ("Scores", "{}", InvalidArgumentError, "Scores gives no anomaly map: choose a model that locates"),
        ("Keeper", "{}", InvalidArgumentError, "Keeper of anomalib is more than its weights.*to_openvino"),
        ("Failing", "{}", InvalidArgumentError, "could not train Failing on 4 images .*val_dataloader"),
        ("Offline", "{}", BackboneError, "could not get the weights of Offline .*connect to the network$"),
        ("Lacking", "{}", InvalidArgumentError, "Lacking needs what is not installed: open_clip"),
    ],
)
def test_models_that_cannot_be_trained(fakes, model, arguments, error, message):
    detector = trained(model, arguments=arguments)
    with pytest.raises(error, match=message):
        detector.fit(normals(6))
    with pytest.raises(NotFittedError):
        detector.predict([photo(0)])


def test_training_on_nothing_raises(fakes):
    for nothing in ([], iter([])):
        with pytest.raises(InvalidArgumentError, match="needs normal images and got none"):
            trained().fit(nothing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["anomalib"].update(model="Nothing"), "unknown anomalib model"),
        (lambda config: config["anomalib"].update(arguments={"backbone": "/tmp/x"}), "a path or an address"),
        (lambda config: config.update(source="pickle"), "damaged"),
        (lambda config: config.pop("anomalib"), "damaged"),
    ],
)
def test_a_model_folder_of_somebody_else(fakes, tmp_path, change, message):
    trained().fit(normals(4)).save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(InvalidModelError, match=message):
        load_detector(tmp_path)


def test_other_weights_than_the_saved_ones(fakes, tmp_path, monkeypatch):
    trained().fit(normals(4)).save(tmp_path)

    def more(self, **options):
        Tiny.__init__(self, **options)
        self.extra = torch.nn.Linear(1, 1)

    newer = type("Tiny", (Tiny,), {"__init__": more})
    monkeypatch.setattr(sys.modules["anomalib.models"], "Tiny", newer)
    with pytest.raises(InvalidModelError, match="has other weights than the one that was saved: install the version"):
        load_detector(tmp_path)


# modules of the caller's


def module_of(cls=Tiny, **arguments):
    module = cls(**arguments)
    module.model.mean = torch.full((3, 16, 24), 0.5)
    return module


def test_a_module_of_the_caller_s_is_wrapped(fakes, tmp_path, unknown):
    module = module_of(backbone="large")
    fitted = AnomalibDetector.from_model(module, held_out=normals(3))
    tensor = torch.from_numpy(unknown[0].image).permute(2, 0, 1)[None].float() / 255
    expected = module.model(module.pre_processor.transform(tensor)).pred_score.item()
    assert fitted.predict(unknown)[0].image_score == pytest.approx(expected, abs=1e-5)
    assert len(fitted.held_out_scores_) == 3 and fitted.config.keywords() == {"backbone": "large"}
    assert len(AnomalibDetector.from_model(module).held_out_scores_) == 0
    assert_saved_the_same(fitted, tmp_path, unknown)


def test_a_module_that_cannot_be_saved_still_predicts(fakes, tmp_path, unknown):
    module = module_of(layers=torch.zeros(2))
    fitted = AnomalibDetector.from_model(module)
    assert len(fitted.predict(unknown)) == len(unknown)
    with pytest.raises(InvalidArgumentError, match="more than its weights and plain arguments, and cannot be saved"):
        fitted.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_module_that_crops_is_refused(fakes):
    from anomalib.models import Cropper

    with pytest.raises(InvalidArgumentError, match="Cropper has the step CenterCrop.*Resize and Normalize alone"):
        AnomalibDetector.from_model(module_of(Cropper))
    module = module_of()
    module.pre_processor = None
    with pytest.raises(InvalidArgumentError, match="no pre-processor that resizes images"):
        AnomalibDetector.from_model(module)


# the real thing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["Padim", "Patchcore"])
def test_the_real_anomalib(tmp_path, unknown, model):
    """Trained, saved, wrapped and exported; exported raw scores agree with those of the trained module."""
    if not (installed("anomalib") and installed("openvino")):
        pytest.skip('anomalib is not installed: pip install "anomalyhub[anomalib]"')
    arguments = {"Padim": {"n_features": 10}, "Patchcore": {"layers": ["layer2"], "coreset_sampling_ratio": 0.02}}
    arguments = json.dumps({"backbone": "resnet18", "pre_trained": False, **arguments[model]})
    fitted = trained(model, arguments=arguments).fit(normals(6))
    results = fitted.predict(unknown)
    assert min(results[1].image_score, results[3].image_score) > max(results[0].image_score, results[2].image_score)
    assert_saved_the_same(fitted, tmp_path, unknown)
    module = fitted.model_.module
    assert_same(AnomalibDetector.from_model(module).predict(unknown), results)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = module.to_openvino(tmp_path / "export")
    from_file = exported(path).fit([])
    assert from_file.natural_thresholds_ is None
    for one, other in zip(from_file.predict(unknown), results, strict=True):
        assert one.image_score == pytest.approx(other.image_score, rel=0.02)
