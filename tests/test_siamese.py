"""The category-agnostic detector: against plain formulas, held-out scores, trained weights, places, budgets, errors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from core_helpers import bilinear, normals, photo, tiny_backbone, tiny_vit
from scipy.ndimage import gaussian_filter
from siamese_helpers import tiny_products, tiny_stages, tiny_trainer

from anomalyhub.backbones import create_backbone
from anomalyhub.backbones.base import DataConfig, TorchBackbone
from anomalyhub.detection import create_detector, load_detector
from anomalyhub.detection.siamese_training import Trained
from anomalyhub.detection.support import augmented
from anomalyhub.errors import AnomalyHubError, Cancelled, InvalidArgumentError, InvalidModelError
from anomalyhub.nn.siamese import SiameseNetwork, SpatialTransformer, stage_layers, warp_back


def detector(backbone=None, seed=0, **settings):
    return create_detector("siamese", backbone or tiny_backbone(size=64), seed=seed, settings=settings)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The folder of a network trained for two epochs."""
    folder = tmp_path_factory.mktemp("trained") / "weights"
    tiny_trainer().fit(tiny_products()).save(folder)
    return folder


# the formulas


def unit_patches(backbone, images):
    """Per level the (n, h, w, D) unit features of all images."""
    maps = backbone.feature_maps(backbone.preprocess(images))
    levels = [level.permute(0, 2, 3, 1).double().numpy() for level in maps]
    return [level / np.maximum(np.linalg.norm(level, axis=-1, keepdims=True), 1e-12) for level in levels]


def plain(image, supports, neighbours, sigma):
    """The map and the score of one image, patch by patch, against all patches of the supports."""
    backbone = tiny_backbone(size=64)
    frames, scores = [], []
    for bank, query in zip(unit_patches(backbone, supports), unit_patches(backbone, [image]), strict=True):
        bank, (height, width) = bank.reshape(-1, bank.shape[-1]), query.shape[1:3]
        query = query.reshape(-1, query.shape[-1])
        distances = 1 - query @ bank.T
        nearest = distances.min(1)
        frames.append(bilinear(nearest.reshape(height, width), 64, 64))
        worst = nearest.argmax()
        entry = bank[distances[worst].argmin()]
        around = np.argsort(1 - bank @ entry, kind="stable")[:neighbours]
        to_patch = distances[worst][around]
        scores.append(nearest[worst] * (1 - np.exp(nearest[worst]) / np.exp(to_patch).sum()))
    smooth = (
        gaussian_filter(np.max(frames, axis=0), sigma, mode="reflect", truncate=4.0) if sigma else np.max(frames, 0)
    )
    return bilinear(smooth, *image.shape[:2]), max(scores)


@pytest.mark.parametrize("augment", [False, True])
def test_against_the_plain_reference(augment):
    supports = normals(2)
    fitted = detector(augment=augment, coreset=1.0, bank_rows=10**5, sigma=2.0, reweight_neighbours=5).fit(supports)
    seen = [view for s in supports for view in (augmented(s.image) if augment else [s.image])]
    for unknown in (photo(7), photo(8, (60, 40), defect=True)):
        (result,) = fitted.predict([unknown])
        scores, score = plain(unknown.image, seen, 5, 2.0)
        np.testing.assert_allclose(result.scores, scores, atol=2e-4)
        assert result.image_score == pytest.approx(score, rel=2e-3, abs=1e-5)


def test_a_support_image_scores_zero():
    supports = normals(2)
    (result,) = detector(coreset=1.0, bank_rows=10**5).fit(supports).predict(supports[:1])
    assert result.image_score < 1e-5 and result.scores.max() < 1e-5


def test_the_bank_is_a_share_of_the_patches_and_at_most_so_many():
    fitted = detector(coreset=0.1, bank_rows=100).fit(normals(2))
    assert [len(bank.bank_) for bank in fitted.banks_] == [100, 100]
    fitted = detector(coreset=0.05).fit(normals(2))
    assert [len(bank.bank_) for bank in fitted.banks_] == [round(0.05 * 2 * 16 * 256), round(0.05 * 2 * 16 * 64)]
    assert all(np.allclose(np.linalg.norm(bank.bank_, axis=1), 1, atol=1e-5) for bank in fitted.banks_)


def test_one_bank_row_has_no_neighbourhood():
    (result,) = detector(coreset=1e-6).fit(normals(2)).predict([photo(8, defect=True)])
    assert result.image_score > 0


def test_many_normals_stream_through_a_small_budget():
    whole = normals(12)
    small = detector(byte_budget=10**6, bank_rows=200).fit(whole)
    assert all(len(bank.bank_) <= 200 for bank in small.banks_)
    stream = detector(byte_budget=10**6, bank_rows=200).fit(iter(whole))
    assert len(stream.held_out_scores_) == 0
    scores = [[r.image_score for r in small.predict([photo(80 + i, defect=bad) for i in range(4)])] for bad in (0, 1)]
    assert min(scores[1]) > max(scores[0])


# held out


def test_a_few_supports_are_each_held_out_alone():
    few = normals(4)
    fitted = detector().fit(few)
    alone = [detector().fit(few[:i] + few[i + 1 :]).predict([few[i]])[0] for i in range(4)]
    np.testing.assert_allclose(fitted.held_out_scores_, [result.image_score for result in alone], rtol=1e-3)
    np.testing.assert_allclose(fitted.held_out_peaks_, [result.scores.max() for result in alone], rtol=1e-3)
    assert fitted.held_out_scores_.dtype == fitted.held_out_peaks_.dtype == np.float32


@pytest.mark.parametrize(
    ("count", "at_most", "expected"),
    [(1, 200, 0), (2, 200, 2), (8, 200, 8), (9, 200, 9), (8, 0, 0), (20, 200, 20), (20, 10, 10)],
)
def test_how_many_are_held_out(count, at_most, expected):
    fitted = detector(augment=False, calibration_images=at_most).fit(normals(count))
    assert len(fitted.held_out_scores_) == len(fitted.held_out_peaks_) == expected


# the network


def timm_backbone(name, layers):
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=0).eval()

    def forward(batch, want_cls):
        return module.forward_intermediates(batch, indices=list(layers), intermediates_only=True), None

    data = DataConfig(64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return TorchBackbone(
        name, module, forward, layers=layers, channels=(0,) * 3, strides=(4, 8, 16), data=data, fingerprint=name
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm_backbone("resnet18", (1, 2, 3)),
        lambda: timm_backbone("convnext_atto", (0, 1, 2)),
        tiny_stages,
        lambda: create_backbone("embedded", (1, 2), "cpu"),
    ],
    ids=["resnet", "convnext", "tiny stages", "embedded"],
)
def test_an_untrained_network_says_what_the_trunk_says(make, rng):
    backbone = make()
    batch = backbone.preprocess([rng.integers(0, 256, (40, 64, 3)).astype(np.uint8)], 64)
    with torch.inference_mode():
        levels, matrices = SiameseNetwork(backbone).eval().encode(batch)
    expected = backbone.feature_maps(batch)
    for level, other in zip(levels[-len(expected) :], expected, strict=True):
        torch.testing.assert_close(level, other, atol=1e-4, rtol=1e-4)
    assert len(levels) == 3 and all(torch.equal(matrix, torch.eye(3)[None]) for matrix in matrices)


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        ("rotation", [0.5], [[np.cos(0.5), -np.sin(0.5), 0], [np.sin(0.5), np.cos(0.5), 0]]),
        ("scale", [0.2, -0.1], [[np.exp(0.2), 0, 0], [0, np.exp(-0.1), 0]]),
        ("affine", [0, 0, 0.3, 0, 0, -0.2], [[1, 0, 0.3], [0, 1, -0.2]]),  # a generator of translations alone
    ],
)
def test_transformers_turn_scale_and_move(kind, parameters, expected, rng):
    transformer = SpatialTransformer(2, kind)
    transformer.localisation[-1].bias.data = torch.tensor(parameters)
    x = torch.from_numpy(rng.normal(size=(1, 2, 12, 16)).astype(np.float32))
    result, matrix = transformer(x)
    np.testing.assert_allclose(matrix[0, :2].detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(matrix[0, 2].detach().numpy(), [0, 0, 1], atol=1e-6)
    # the value at a position of the result is that of x at the position which the matrix names
    row, column = 5, 9
    position = np.array([(column + 0.5) / 8 - 1, (row + 0.5) / 6 - 1, 1])
    across, down = (np.array(expected) @ position + 1) * [8, 6] - 0.5
    left, top = int(np.floor(across)), int(np.floor(down))
    a, b, corner = across - left, down - top, x[0, :, top : top + 2, left : left + 2].numpy()
    value = (1 - b) * ((1 - a) * corner[:, 0, 0] + a * corner[:, 0, 1]) + b * (
        (1 - a) * corner[:, 1, 0] + a * corner[:, 1, 1]
    )
    np.testing.assert_allclose(result[0, :, row, column].detach().numpy(), value, atol=1e-5)


def test_gradients_reach_the_transformer():
    transformer = SpatialTransformer(2, "affine")
    result, _ = transformer(torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)))
    result[..., 2:4, 2:4].square().sum().backward()
    assert transformer.localisation[-1].bias.grad.abs().max() > 0


def test_scores_go_back_to_where_their_patches_came_from():
    matrix = torch.tensor([[0.8, -0.3, 0.1], [0.2, 0.9, -0.1], [0, 0, 1.0]])[None]
    row, column = 10, 12  # on the transformed grid of 16 x 20
    scores = torch.zeros(1, 16, 20)
    scores[0, row, column] = 1.0
    x, y, _ = (matrix[0] @ torch.tensor([(column + 0.5) / 10 - 1, (row + 0.5) / 8 - 1, 1.0])).tolist()
    placed = warp_back(scores, matrix)[0]
    peak = divmod(int(placed.argmax()), 20)
    assert abs(peak[0] - ((y + 1) * 8 - 0.5)) <= 0.8 and abs(peak[1] - ((x + 1) * 10 - 0.5)) <= 0.8


def test_the_matrices_of_all_stages_lead_back_to_the_image():
    """Each stage passes on what it gets, an image of coordinates: its values name the places they came from."""
    network = SiameseNetwork(tiny_stages())
    network.stem, network.stages = torch.nn.Identity(), torch.nn.ModuleList([torch.nn.Identity()] * 3)
    network.encoders = torch.nn.ModuleList([torch.nn.Identity()] * 3)
    network.transformers = torch.nn.ModuleList(SpatialTransformer(3, "affine") for _ in range(3))
    for stage, transformer in enumerate(network.transformers):
        bias = 0.1 * torch.randn(6, generator=torch.Generator().manual_seed(stage))
        transformer.localisation[-1].bias.data = bias - torch.tensor([0.3, 0, 0, 0, 0.3, 0])  # looks inside the image
    y, x = torch.meshgrid((torch.arange(24) + 0.5) / 12 - 1, (torch.arange(32) + 0.5) / 16 - 1, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)])
    encodings, matrices = network.encode(places[None])
    for level, matrix in zip(encodings, matrices, strict=True):
        expected = torch.einsum("ij,jhw->ihw", matrix[0], places)
        inside = (expected[:2].abs() < 0.85).all(0)
        assert inside.float().mean() > 0.3
        torch.testing.assert_close(level[0][:, inside], expected[:, inside], atol=1e-3, rtol=0)


def test_transformed_stages_still_find_a_defect_where_it_is(tmp_path):
    """Every stage turns its input by a quarter; without the way back the defect would be found elsewhere."""
    trainer = tiny_trainer(epochs=1, transform="rotation").fit(tiny_products())
    for name, value in trainer.trained_.tensors.items():
        if name.endswith("localisation.8.bias"):
            value[:] = np.pi / 2
        elif name.endswith("localisation.8.weight"):
            value[:] = 0.0
    trainer.save(tmp_path / "turned")
    fitted = detector(tiny_stages(), weights=str(tmp_path / "turned"), sigma=0.0, resize=128).fit(normals(4))
    for i in (80, 81, 82, 83):
        sample = photo(i, (48, 48), defect=True)
        (result,) = fitted.predict([sample])
        rows, columns = np.nonzero(sample.mask)
        row, column = np.unravel_index(result.scores.argmax(), sample.mask.shape)
        assert abs(row - rows.mean()) <= 9 and abs(column - columns.mean()) <= 9  # half the defect, and a patch


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("resnet18", (1, 2, 3)),
        ("wide_resnet50_2@weights/convnext.safetensors", (1, 2, 3)),
        ("hf:timm/convnext_tiny.fb_in1k", (0, 1, 2)),
        ("embedded", None),
        ("vit_base_patch8_224.dino", None),
    ],
)
def test_stages_of_a_spec(spec, layers):
    assert stage_layers(spec) == layers
    assert detector(layers=(2,))._layers(spec) == (2,)


# trained weights


def test_a_trained_network_is_used_and_goes_into_the_model(weights, tmp_path):
    copied = shutil.copytree(weights, tmp_path / "weights")
    fitted = detector(tiny_stages(), weights=str(copied), resize=64).fit(normals(4))
    unknown = [photo(60), photo(61, (60, 40), defect=True)]
    results = fitted.predict(unknown)
    plain_results = detector(tiny_stages()).fit(normals(4)).predict(unknown)
    assert not np.allclose(results[0].scores, plain_results[0].scores, atol=1e-4)
    assert fitted.provenance_.products == ("other", "wave") and fitted.provenance_.knows(normals(5)[2].image)
    assert not fitted.provenance_.knows(unknown[0].image)

    fitted.save(tmp_path / "model")
    shutil.rmtree(copied)
    loaded = load_detector(tmp_path / "model", tiny_stages())
    for one, other in zip(loaded.predict(unknown), results, strict=True):
        assert np.array_equal(one.scores, other.scores) and one.image_score == other.image_score
    assert loaded.provenance_.products == fitted.provenance_.products
    loaded.save(tmp_path / "again")
    for path in (tmp_path / "model").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_one_image_equals_the_batch_and_the_seed_fixes_all(weights):
    def fitted():
        return detector(tiny_stages(), weights=str(weights)).fit(normals(3))

    unknown = [photo(60 + i, shape) for i, shape in enumerate([(36, 52), (60, 40), (25, 70)])]
    together = fitted().predict(unknown)
    for sample, result, again in zip(unknown, together, fitted().predict(unknown), strict=True):
        (alone,) = detector(tiny_stages(), weights=str(weights)).fit(normals(3)).predict([sample])
        np.testing.assert_allclose(alone.scores, result.scores, atol=1e-5)
        assert np.array_equal(again.scores, result.scores)


def test_the_weights_bring_their_input_size(weights):
    fitted = detector(tiny_stages(size=96), weights=str(weights)).fit(normals(2))
    assert fitted._scorer().side == 64 and detector(tiny_stages(size=96)).fit(normals(2))._scorer().side == 96


def test_without_weights_nothing_is_known_of_training():
    assert detector().fit(normals(2)).provenance_ is None


def rewritten(folder, target, change):
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    change(config)
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(trainer="april-gan"), "holds weights of april-gan, not of siamese"),
        (lambda config: config.update(kind="detector"), "holds a detector, not a pretrained"),
        (lambda config: config.pop("trained"), "is damaged"),
        (lambda config: config["backbone"].update(fingerprint="x"), "was trained on the backbone tiny-stages"),
        (lambda config: config["trained"].update(transform="rotation"), "does not fit tiny-stages"),
    ],
)
def test_foreign_weights(weights, tmp_path, change, message):
    folder = rewritten(weights, tmp_path / "foreign", change)
    wrong = detector(tiny_stages(), weights=str(folder))
    with pytest.raises(InvalidModelError, match=message):
        wrong.fit(normals(2))
    assert not [key for key in vars(wrong) if key.endswith("_")]


def test_other_backbones(weights, tmp_path):
    with pytest.raises(InvalidModelError, match="does not exist"):
        detector(tiny_stages(), weights=str(tmp_path / "nowhere")).fit(normals(2))
    for backbone in (tiny_vit(), tiny_backbone()):
        with pytest.raises(InvalidArgumentError, match="does not give three convolutional stages"):
            SiameseNetwork(backbone)
    pruned = timm_backbone("resnet18", (1, 2))
    pruned.module.prune_intermediate_layers([1, 2], prune_norm=False, prune_head=True)
    with pytest.raises(InvalidArgumentError, match="does not give three convolutional stages"):
        SiameseNetwork(pruned)
    trained = Trained.read(weights, "tiny-stages-0")
    with pytest.raises(InvalidModelError, match="does not fit embedded"):
        trained.network(create_backbone("embedded", device="cpu"))


def test_it_works_on_a_transformer_without_weights():
    fitted = detector(tiny_vit()).fit(normals(3))
    scores = [[r.image_score for r in fitted.predict([photo(80 + i, defect=bad) for i in range(3)])] for bad in (0, 1)]
    assert min(scores[1]) > max(scores[0])


# settings, cancelling


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coreset": 0.0}, "coreset is a share"),
        ({"coreset": 1.5}, "coreset is a share"),
        ({"bank_rows": 0}, "bank_rows must be between 1"),
        ({"resize": 8}, "resize must be between 32"),
        ({"batch_size": 0}, "batch_size must be between 1"),
        ({"sigma": -1.0}, "sigma must be between 0"),
        ({"reweight_neighbours": 0}, "reweight_neighbours must be between 1"),
        ({"calibration_images": -1}, "calibration_images must be between 0"),
        ({"weights": "folder", "layers": (1, 2)}, "leave one out"),
        ({"byte_budget": 1000}, "a byte budget of"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        detector(**settings).fit(normals(2))


@pytest.mark.parametrize("step", ["support image 2", "coreset", "fold 2"])
def test_cancelling_leaves_the_detector_as_it_was(step):
    def stop(share, text):
        if step in text:
            raise Cancelled("stopped; nothing was changed")

    fitted = detector().fit(normals(3))
    before = dict(vars(fitted))
    with pytest.raises(Cancelled):
        fitted.fit(normals(4, start=9), progress=stop)
    assert vars(fitted) == before


def test_damaged_models(tmp_path):
    detector().fit(normals(2)).save(tmp_path / "model")
    for number, change in enumerate((lambda config: config.update(layers=3), lambda config: config.pop("layers"))):
        folder = rewritten(tmp_path / "model", tmp_path / str(number), change)
        with pytest.raises(AnomalyHubError, match="is damaged"):
            load_detector(folder, tiny_backbone(size=64))
