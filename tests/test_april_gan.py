"""APRIL-GAN on a tiny random CLIP, against the formulas of the paper written out in loops."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from clip_helpers import DIM, WIDTH, layer_file, layer_tensors, tiny_clip, tiny_clip_folder
from core_helpers import normals, photo, tiny_backbone
from safetensors.torch import save_file

from anomalyhub.detection import create_detector, load_detector
from anomalyhub.detection.april_gan import AprilGan, AprilGanConfig
from anomalyhub.detection.april_gan_layers import read_layers
from anomalyhub.detection.prompts import text_features
from anomalyhub.detection.provenance import Provenance
from anomalyhub.errors import InvalidArgumentError, InvalidModelError
from anomalyhub.pipeline import Inspector
from anomalyhub.state import write_state

N_LAYERS, SIDE = 4, 40  # 5 x 5 patches, where the CLIP's own size gives 4 x 4
PROMPTS = {"product": "ring", "normal_states": ("{}", "perfect {}"), "abnormal_states": ("broken {}",)}
PROMPTS |= {"templates": ("a photo of a {}.", "the {}.")}


@pytest.fixture(scope="module")
def weights():
    return layer_file()


def detector(weights, **settings):
    return create_detector(
        "april-gan", tiny_clip(), settings={"weights": str(weights), "resize": SIDE, **PROMPTS, **settings}
    )


def bilinear(grid, shape):
    """Corners on corners: output pixel i of n lies at i (m - 1) / (n - 1) of m inputs."""
    (rows, columns), result = grid.shape, np.zeros(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            y, x = i * (rows - 1) / (shape[0] - 1), j * (columns - 1) / (shape[1] - 1)
            top, left = min(int(y), rows - 2), min(int(x), columns - 2)
            dy, dx = y - top, x - left
            upper = (1 - dx) * grid[top, left] + dx * grid[top, left + 1]
            lower = (1 - dx) * grid[top + 1, left] + dx * grid[top + 1, left + 1]
            result[i, j] = (1 - dy) * upper + dy * lower
    return result


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class Plain:
    """The method in float64, patch by patch; CLIP's tokens and text features are given."""

    def __init__(self, references=()):
        self.clip = tiny_clip()
        states = (PROMPTS["normal_states"], PROMPTS["abnormal_states"], PROMPTS["templates"])
        self.text = text_features(self.clip, PROMPTS["product"], *states).double().numpy()
        self.linear = {name: value.double().numpy() for name, value in layer_tensors().items()}
        self.references = [self.tokens(sample)[0] for sample in references]

    def tokens(self, sample):
        """Per layer (h, w, width), and the image embedding."""
        maps, embedding = self.clip.encode(self.clip.preprocess([sample.image], SIDE))
        return [level[0].permute(1, 2, 0).double().numpy() for level in maps], embedding[0].double().numpy()

    def probability(self, sample):
        logits = 100 * unit(self.tokens(sample)[1]) @ self.text
        return np.exp(logits[1]) / np.exp(logits).sum()

    def map(self, sample, without=None):
        shape, total = sample.image.shape[:2], 0.0
        for number, level in enumerate(self.tokens(sample)[0]):
            projected = level @ self.linear[f"fc.{number}.weight"].T + self.linear[f"fc.{number}.bias"]
            logits = 100 * unit(projected) @ self.text
            normal, abnormal = (np.exp(bilinear(logits[..., state], shape) - 50) for state in (0, 1))
            total = total + abnormal / (normal + abnormal)
            banks = [tokens[number] for i, tokens in enumerate(self.references) if i != without]
            if banks:
                bank = unit(np.concatenate([tokens.reshape(-1, WIDTH) for tokens in banks]))
                distances = np.array([[min(1 - bank @ unit(token)) for token in row] for row in level])
                total = total + bilinear(distances, shape)
        return total


@pytest.fixture(scope="module")
def images():
    return [photo(70, (36, 52), defect=True), photo(71, (61, 40))]


def test_zero_shot_follows_the_formula(weights, images):
    fitted, plain = detector(weights).fit([]), Plain()
    for sample, result in zip(images, fitted.predict(images), strict=True):
        np.testing.assert_allclose(result.scores, plain.map(sample), atol=1e-4)
        assert result.image_score == pytest.approx(plain.probability(sample), abs=1e-4)
    assert np.ptp(plain.map(images[0])) > 0.1
    assert fitted.natural_thresholds_ == (0.5, 2.0) and len(fitted.held_out_scores_) == 0


def test_few_shot_follows_the_formula(weights, images):
    references = normals(3)
    fitted, plain = detector(weights, batch_size=2).fit(references), Plain(references)
    peaks = np.array([plain.map(sample, without=i).max() for i, sample in enumerate(references)])
    np.testing.assert_allclose(fitted.held_out_peaks_, peaks, atol=1e-4)
    held_out = [0.5 * (plain.probability(sample) + (peaks[i] - min(peaks)) / 4) for i, sample in enumerate(references)]
    np.testing.assert_allclose(fitted.held_out_scores_, held_out, atol=1e-4)
    for sample, result in zip(images, fitted.predict(images), strict=True):
        expected = plain.map(sample)
        np.testing.assert_allclose(result.scores, expected, atol=1e-4)
        scaled = (expected.max() - min(peaks)) / 4
        assert result.image_score == pytest.approx(0.5 * (plain.probability(sample) + scaled), abs=1e-4)
    assert fitted.natural_thresholds_ == (0.5, pytest.approx(min(peaks) + 2, abs=1e-4))


def test_transductive_scores_scale_the_maxima_of_the_given_images(weights, images):
    references, given = normals(2), [*images, photo(72, (40, 40), defect=True)]
    fitted, plain = detector(weights, score="transductive").fit(references), Plain(references)
    assert fitted.transductive and not detector(weights).transductive
    results = fitted.predict(given)
    peaks = np.array([plain.map(sample).max() for sample in given])
    expected = 0.5 * (np.array([plain.probability(s) for s in given]) + (peaks - min(peaks)) / np.ptp(peaks))
    np.testing.assert_allclose([result.image_score for result in results], expected, atol=1e-4)
    (alone,) = fitted.predict(given[:1])  # smallest and largest are one
    assert alone.image_score == pytest.approx(0.5 * plain.probability(given[0]), abs=1e-4)
    np.testing.assert_allclose(alone.scores, results[0].scores, atol=1e-5)
    assert fitted.predict([]) == []


def test_one_reference_cannot_be_held_out(weights, images):
    reference = normals(1)
    fitted, plain = detector(weights).fit(reference), Plain(reference)
    assert len(fitted.held_out_scores_) == len(fitted.held_out_peaks_) == 0
    assert fitted.range_[0] == pytest.approx(Plain().map(reference[0]).max(), abs=1e-4)  # its text part alone
    np.testing.assert_allclose(fitted.predict(images)[1].scores, plain.map(images[1]), atol=1e-4)
    (own,) = fitted.predict(reference)
    assert own.scores.max() == pytest.approx(fitted.range_[0], abs=1e-4)  # nothing is nearer to it than itself


def test_prompts_change_the_result(weights, images):
    results = {product: detector(weights, product=product).fit([]).predict(images) for product in ("ring", "label")}
    assert not np.allclose(results["ring"][0].scores, results["label"][0].scores, atol=1e-3)


@pytest.mark.parametrize(
    ("prefix", "dtype"),
    [("", torch.float32), ("module.", torch.float32), ("trainable_linearlayer.", torch.float16)],
)
def test_published_names_load(prefix, dtype, tmp_path):
    tensors = {name: value.to(dtype) for name, value in layer_tensors(prefix=prefix).items()}
    tensors[f"{prefix}logit_scale"] = torch.ones(1)  # whatever else is in the file
    save_file(tensors, tmp_path / "layers.safetensors")
    found = read_layers(str(tmp_path / "layers.safetensors")).tensors
    expected = layer_tensors()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], value.to(dtype).float())


def test_a_file_of_layers_says_nothing_of_its_origin(weights):
    assert detector(weights).fit([]).provenance_ is None


def test_without_weights_the_remedy_is_named():
    for settings in ({}, {"weights": ""}):
        with pytest.raises(InvalidArgumentError, match="train some with `anomalyhub train april-gan`.*published"):
            create_detector("april-gan", tiny_clip(), settings=settings).fit([])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (layer_tensors(count=3), r"holds 3 linear layers and clip.* is tapped at 4 blocks: set layers"),
        (layer_tensors(width=WIDTH + 1), rf"fc.0.weight of .* has shape \({DIM}, {WIDTH + 1}\) and .* needs"),
        (layer_tensors(dim=DIM - 1), rf"needs \({DIM}, {WIDTH}\): give the CLIP that it was trained on"),
        ({**layer_tensors(prefix="a."), **layer_tensors(prefix="b.")}, r"layers under several prefixes \(a, b\)"),
        ({k: v for k, v in layer_tensors().items() if k != "fc.2.bias"}, "must hold fc.0.weight, fc.0.bias"),
        ({k: v for k, v in layer_tensors().items() if "fc.1" not in k}, "must hold fc.0.weight, fc.0.bias"),
        ({"decoder.weight": torch.ones(3)}, "holds other keys: give the linear layers"),
    ],
)
def test_files_that_do_not_fit_are_refused(tensors, message, tmp_path):
    save_file(tensors, tmp_path / "layers.safetensors")
    unfitted = detector(tmp_path / "layers.safetensors")
    with pytest.raises(InvalidArgumentError, match=message):
        unfitted.fit([])
    assert not [name for name in vars(unfitted) if name.endswith("_")]


def pretrained(folder, trainer="april-gan", layers=(1, 2, 3, 4), fingerprint=None, arrays=None, **extra):
    """What the trainer saves."""
    backbone = {"spec": "clip@x", "fingerprint": fingerprint or tiny_clip().fingerprint, "layers": layers}
    config = {"kind": "pretrained", "trainer": trainer, "backbone": backbone, **extra}
    tensors = {name: value.numpy() for name, value in layer_tensors(len(layers)).items()}
    write_state(folder, config, {**tensors, **(arrays or {})})
    return folder


def no_folder(folder):
    return folder / "nowhere"


def not_safetensors(folder):
    (folder / "layers.pt").write_bytes(b"PK")
    return folder / "layers.pt"


def broken_file(folder):
    (folder / "layers.safetensors").write_bytes(b"{}")
    return folder / "layers.safetensors"


def without_backbone(folder):
    pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["backbone"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_folder, "does not exist: check the path"),
        (not_safetensors, "is not a .safetensors file: convert it"),
        (broken_file, "cannot be read"),
        (lambda folder: folder, "is not a model folder"),
        (lambda folder: pretrained(folder, trainer="siamese"), "weights of 'siamese', not april-gan"),
        (lambda folder: pretrained(folder, fingerprint="other"), "were trained on another CLIP than clip@"),
        (lambda folder: pretrained(folder, layers=(1, 3)), r"trained on blocks \[1, 3\] .*: set layers=1,3"),
        (without_backbone, "is damaged"),
    ],
)
def test_places_that_hold_no_weights_are_refused(make, message, tmp_path):
    with pytest.raises((InvalidArgumentError, InvalidModelError), match=message):
        detector(make(tmp_path)).fit([])


def test_the_blocks_of_the_training_are_tapped(tmp_path):
    spec = f"clip@{tiny_clip_folder(tmp_path / 'clip')}"
    weights = pretrained(tmp_path / "weights", layers=(2, 4))
    fitted = AprilGan(spec, AprilGanConfig(weights=str(weights), resize=SIDE)).fit([])
    assert fitted.backbone.layers == (2, 4) and fitted.natural_thresholds_ == (0.5, 1.0)


@pytest.mark.parametrize(("score", "held_out"), [("stored", 2), ("transductive", 0)])
def test_a_saved_model_needs_no_other_file(tmp_path, images, score, held_out):
    clip = tiny_clip_folder(tmp_path / "clip")
    origin = Provenance.of({"weave": normals(2)})
    config, arrays = origin.state()
    folder = pretrained(tmp_path / "weights", arrays=arrays, **config)
    settings = {"weights": str(folder), "resize": SIDE, "score": score}
    fitted = create_detector("april-gan", f"clip@{clip}", settings=settings).fit(normals(2, start=5))
    fitted.save(tmp_path / "model")
    shutil.rmtree(folder)
    loaded = load_detector(tmp_path / "model")
    assert loaded.transductive == (score == "transductive") and loaded.config == fitted.config
    for one, other in zip(loaded.predict(images), fitted.predict(images), strict=True):
        assert np.array_equal(one.scores, other.scores) and one.image_score == other.image_score
    assert loaded.provenance_.products == ("weave",) and loaded.provenance_.knows(normals(2)[1].image)
    assert not loaded.provenance_.knows(images[0].image)
    for name in ("held_out_scores_", "held_out_peaks_"):
        assert np.array_equal(getattr(loaded, name), getattr(fitted, name)) and len(getattr(loaded, name)) == held_out
    assert loaded.range_ == fitted.range_ and loaded.natural_thresholds_ == fitted.natural_thresholds_
    assert loaded.map_slope_ == fitted.map_slope_ == 2 * N_LAYERS
    if score == "transductive":  # scaled by the images at hand, no threshold holds for others
        with pytest.raises(InvalidArgumentError, match="this model has no threshold"):
            next(Inspector.load(_inspected(fitted, tmp_path)).inspect(images))


def _inspected(detector, folder):
    Inspector(detector).save(folder / "inspector")
    return folder / "inspector"


def test_a_backbone_without_texts_is_refused(weights):
    with pytest.raises(InvalidArgumentError, match="APRIL-GAN compares images with texts and tiny reads no texts"):
        create_detector("april-gan", tiny_backbone(), settings={"weights": str(weights)}).fit([])


def test_too_many_references_are_refused(weights):
    per_image = 25 * WIDTH * N_LAYERS * 4
    assert len(detector(weights, byte_budget=3 * per_image).fit(normals(3)).held_out_scores_) == 3
    for budget, batch_size in ((3 * per_image, 2), (4 * per_image - 1, 8)):
        unfitted = detector(weights, byte_budget=budget, batch_size=batch_size)
        with pytest.raises(InvalidArgumentError, match=r"exceed the setting byte_budget \(.*\): give at most 3, or"):
            unfitted.fit(iter(normals(4)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": "0"}, "setting resize must be between 1 and 4096"),
        ({"batch_size": "0"}, "setting batch_size must be between"),
        ({"byte_budget": "0"}, "setting byte_budget must be between"),
        ({"score": "best"}, "one of stored, transductive"),
        ({"product": "  "}, "setting product"),
        ({"templates": "a photo"}, "has no {}"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        create_detector("april-gan", "clip", settings=settings)
