"""anomalyhub.detection.winclip against its formulas in loops: masked attention, windows, references one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_helpers import DIM, PATCH, WIDTH, tiny_clip
from core_helpers import normals, photo, tiny_backbone

from anomalyhub.backbones import create_backbone
from anomalyhub.detection import create_detector, load_detector
from anomalyhub.detection.prompts import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES, text_features
from anomalyhub.detection.winclip import WinClip, WinClipConfig, association, spread, window_embeddings
from anomalyhub.errors import InvalidArgumentError, InvalidModelError
from anomalyhub.types import Sample

SIZE = 40  # a grid of 5 x 5 patches, which is not the one that the positions were made for


def masked_class_token(backbone, batch, visible):
    """The class token's embedding (D,) of one image by softmax attention over all tokens, `visible` ones unmasked."""
    x, _ = backbone.embed(batch)
    mask = torch.full((x.shape[1], x.shape[1]), -math.inf)
    mask[:, sorted(visible)] = 0.0
    for block in backbone.module.vision_model.encoder.layers:
        attn, normed = block.self_attn, block.layer_norm1(x)[0]
        q, k, v = attn.q_proj(normed), attn.k_proj(normed), attn.v_proj(normed)
        wide, heads = WIDTH // attn.num_heads, []
        for head in range(attn.num_heads):
            part = slice(head * wide, (head + 1) * wide)
            logits = q[:, part] @ k[:, part].T / math.sqrt(wide) + mask
            heads.append(logits.softmax(-1) @ v[:, part])
        x = x + attn.out_proj(torch.cat(heads, 1))
        x = x + block.mlp(block.layer_norm2(x))
    model = backbone.module
    return model.visual_projection(model.vision_model.post_layernorm(x[0, 0]))


def windows_of(grid, size):
    """Patch numbers of each window, row by row."""
    height, width = grid
    return [
        [(top + y) * width + left + x for y in range(size) for x in range(size)]
        for top in range(height - size + 1)
        for left in range(width - size + 1)
    ]


def harmonic(scores, grid, size):
    """(h, w) harmonic means over the windows that cover each patch."""
    found = np.zeros(grid)
    for patch in range(grid[0] * grid[1]):
        covering = [score for score, window in zip(scores, windows_of(grid, size), strict=True) if patch in window]
        zero = any(score == 0 for score in covering)
        found.flat[patch] = 0.0 if zero else len(covering) / sum(1 / score for score in covering)
    return found


def probability(embedding, text, temperature):
    cosine = [float(F.cosine_similarity(embedding, text[:, state], dim=0)) / temperature for state in (0, 1)]
    return 1 / (1 + math.exp(cosine[0] - cosine[1]))


class ByLoops:
    """WinCLIP of a tiny CLIP, image by image and window by window."""

    def __init__(self, backbone, temperature, layer, references=(), scales="mean"):
        self.backbone, self.temperature, self.layer, self.scales = backbone, temperature, layer, scales
        self.text = text_features(backbone, "object", NORMAL_STATES, ABNORMAL_STATES, TEMPLATES)
        self.banks = [self.features(sample)[1:] for sample in references]

    @torch.no_grad()
    def features(self, sample):
        """The image's embedding, those of its 2 x 2 windows, of its 3 x 3 windows, and the patches of a layer."""
        batch, grid = self.backbone.preprocess([sample.image], SIZE), (SIZE // PATCH, SIZE // PATCH)
        whole = self.backbone.encode(batch)[1][0]
        windows = [
            [
                masked_class_token(self.backbone, batch, {0, *(1 + patch for patch in window)})
                for window in windows_of(grid, k)
            ]
            for k in (2, 3)
        ]
        tapped = self.backbone.run(self.backbone.embed(batch)[0], [self.layer])[1][self.layer]
        return whole, *windows, list(tapped[0, 1:])

    def __call__(self, sample):
        grid = (SIZE // PATCH, SIZE // PATCH)
        whole, *levels = self.features(sample)
        score = probability(whole, self.text, self.temperature)
        maps = [
            harmonic([probability(row, self.text, self.temperature) for row in level], grid, k)
            for level, k in zip(levels, (2, 3), strict=False)
        ]
        if self.scales == "mean":
            result = (maps[0] + maps[1] + score) / 3
        else:
            result = 3 / (1 / maps[0] + 1 / maps[1] + 1 / score)
        if self.banks:
            distances = []
            for number, level in enumerate(levels):
                own = []
                for row in level:
                    cosines = [
                        float(F.cosine_similarity(row, other, dim=0)) for bank in self.banks for other in bank[number]
                    ]
                    own.append(max(0.0, (1 - max(cosines)) / 2))
                distances.append(harmonic(own, grid, number + 2) if number < 2 else np.array(own).reshape(grid))
            distance = sum(distances) / 3
            result, score = result + distance, (score + distance.max()) / 2
        shape = sample.image.shape[:2]
        tensor = torch.tensor(result, dtype=torch.float64)[None, None]
        return F.interpolate(tensor, shape, mode="bilinear", align_corners=False)[0, 0].numpy(), score


def detector(references=(), backbone=None, **settings):
    settings = {"resize": SIZE, "temperature": 0.1, **settings}
    return create_detector("winclip", backbone or tiny_clip(), settings=settings).fit(references)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_windows_are_the_masked_transformer(size):
    """A grid of 3 x 5, so that a transpose shows."""
    backbone = tiny_clip(seed=4)
    batch = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x, grid = backbone.embed(batch)
        found = window_embeddings(backbone, x, grid, size)
        windows = windows_of((3, 5), size)
        assert grid == (3, 5) and found.shape == (2, len(windows), DIM)
        for image in range(2):
            for number, window in enumerate(windows):
                own = masked_class_token(backbone, batch[image : image + 1], {0, *(1 + patch for patch in window)})
                torch.testing.assert_close(found[image, number], own, atol=1e-4, rtol=1e-4)
        alone = window_embeddings(backbone, x[1:], grid, size)
    assert torch.equal(alone[0], found[1])


def test_many_windows_run_in_parts(monkeypatch):
    backbone, batch = tiny_clip(), torch.randn(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x, grid = backbone.embed(batch)
        whole = window_embeddings(backbone, x, grid, 2)
        monkeypatch.setattr("anomalyhub.detection.winclip._TOKENS", 16)
        torch.testing.assert_close(window_embeddings(backbone, x, grid, 2), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_harmonic_spreading_by_loops(size):
    rng, grid = np.random.default_rng(size), (4, 6)
    scores = rng.uniform(0.01, 1, (2, (5 - size) * (7 - size))).astype(np.float32)
    scores[1, 3] = 0.0
    found = spread(torch.from_numpy(scores), grid, size).numpy()
    for image in range(2):
        np.testing.assert_allclose(found[image], harmonic(scores[image].tolist(), grid, size), rtol=1e-4)
    assert (found[1] == 0).sum() == size**2


def test_association_by_loops():
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(5, 7, generator=generator), dim=1)
    bank = F.normalize(torch.randn(3, 4, 7, generator=generator), dim=2)
    expected = [min((1 - float(row @ other)) / 2 for image in bank for other in image) for row in rows]
    np.testing.assert_allclose(association(rows, bank).numpy(), expected, atol=1e-6)
    assert association(rows, [rows]).max() < 1e-6 and association(rows, [-rows[:1]])[0] == pytest.approx(1.0)


@pytest.mark.parametrize("scales", ["mean", "harmonic"])
def test_zero_shot_by_loops(scales):
    sample = photo(3, (36, 52), defect=True)
    own = detector(scales=scales)
    (found,) = own.predict([sample])
    scores, score = ByLoops(tiny_clip(), 0.1, 3, scales=scales)(sample)
    assert found.image_score == pytest.approx(score, abs=1e-4) and 0.01 < abs(score - 0.5)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    assert found.scores.std() > 1e-3
    assert own.natural_thresholds_ == (0.5, 0.5) and own.banks_ == () and not len(own.held_out_scores_)


@pytest.mark.parametrize("layer", [None, 2])
def test_few_shot_by_loops(layer):
    """None is the last but one of four blocks."""
    references, sample = [photo(0, (36, 52)), photo(1, (60, 40))], photo(3, (36, 52), defect=True)
    folder = tiny_clip().spec
    settings = {} if layer is None else {"layers": (layer,), "backbone": create_backbone(folder, [layer], "cpu")}
    own = detector(references, **settings)
    (found,) = own.predict([sample])
    scores, score = ByLoops(tiny_clip(), 0.1, layer or 3, references)(sample)
    assert found.image_score == pytest.approx(score, abs=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    assert own.natural_thresholds_ is None
    assert [bank.shape for bank in own.banks_] == [(2, 16, DIM), (2, 9, DIM), (2, 25, WIDTH)]


def test_every_window_size_and_layer_is_one_map_of_the_mean():
    """The windows' share w = w2 + w3 follows from the means of other choices in two ways."""
    spec, sample = tiny_clip().spec, photo(3, defect=True)

    def distance(windows, layers):
        settings = {"windows": windows, "layers": layers, "backbone": create_backbone(spec, layers, "cpu")}
        both, text = (detector(some, **settings).predict([sample])[0].scores for some in (normals(2), ()))
        return both.astype(float) - text

    usual = distance((2, 3), (3,))
    layer3 = 2 * distance((2,), (3,)) + 2 * distance((3,), (3,)) - 3 * usual
    windows = 3 * (distance((2, 3), (1,)) + usual) - 4 * distance((2, 3), (1, 3))
    np.testing.assert_allclose(3 * usual - layer3, windows, atol=1e-5)
    assert windows.min() > 1e-3 and layer3.min() > 1e-4


def test_each_reference_is_held_out_by_the_others():
    references = [photo(i, shape) for i, shape in enumerate([(36, 52), (60, 40), (25, 70)])]
    own = detector(references)
    for i, reference in enumerate(references):
        (alone,) = detector(references[:i] + references[i + 1 :]).predict([reference])
        assert own.held_out_scores_[i] == pytest.approx(alone.image_score, abs=1e-6)
        assert own.held_out_peaks_[i] == pytest.approx(alone.scores.max(), abs=1e-6)
    assert own.held_out_scores_.dtype == own.held_out_peaks_.dtype == np.float32
    one = detector(references[:1])
    assert one.held_out_scores_.shape == one.held_out_peaks_.shape == (0,) and one.natural_thresholds_ is None


def test_a_reference_is_at_no_distance_from_itself():
    references = normals(3)
    text, both = detector().predict(references), detector(references).predict(references)
    for one, other in zip(text, both, strict=True):
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-5)
        assert other.image_score == pytest.approx(one.image_score / 2, abs=1e-5)


def test_words_change_the_verdict_and_their_order_turns_it():
    sample = photo(0)
    usual = detector().predict([sample])[0].image_score
    assert abs(detector(product="nut").predict([sample])[0].image_score - usual) > 1e-4
    turned = detector(normal_states=ABNORMAL_STATES, abnormal_states=NORMAL_STATES).predict([sample])[0].image_score
    assert turned == pytest.approx(1 - usual, abs=1e-4)


def test_zero_shot_is_saved_without_references(tmp_path):
    own = detector(product="nut")
    own.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")  # the stored SPEC finds the folder again
    sample = photo(1)
    assert np.array_equal(loaded.predict([sample])[0].scores, own.predict([sample])[0].scores)
    assert loaded.natural_thresholds_ == (0.5, 0.5) and loaded.config.product == "nut"


def test_banks_of_other_settings_are_refused(tmp_path):
    detector(normals(2)).save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    text = file.read_text(encoding="utf-8").replace('"windows": [\n      2,\n      3\n    ]', '"windows": [2]')
    assert '"windows": [2]' in text
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidModelError, match="is damaged .banks and settings differ."):
        load_detector(tmp_path / "model")


BAD = [
    # settings, what is said
    ({"windows": ()}, "windows must hold different sides, such as 2,3"),
    ({"windows": (2, 2)}, "windows must hold different sides"),
    ({"windows": (0, 2)}, "setting windows must be between 1 and 64, got 0"),
    ({"windows": (99,)}, "setting windows must be between 1 and 64, got 99"),
    ({"temperature": 0.0}, "setting temperature must be between"),
    ({"resize": 0}, "setting resize must be between 1 and 4096"),
    ({"batch_size": 0}, "setting batch_size must be between"),
    ({"scales": "median"}, "setting scales='median' is not one of mean, harmonic"),
    ({"product": "  "}, "setting product is '  ': name what the images show"),
    ({"templates": "a photo"}, "setting templates holds 'a photo', which has no {}"),
]


@pytest.mark.parametrize("settings, message", BAD)
def test_bad_settings(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        create_detector("winclip", "clip", settings=settings)


FAILING = [
    # settings of a detector that is fitted on two normal images, what is said
    ({"resize": 16}, "windows of 3 patches do not fit a grid of 2 x 2: raise resize, or set smaller windows"),
    ({"resize": 7}, "images of 7 x 7 pixels are smaller than a patch"),
    (
        {"byte_budget": 3000},
        r"keeps 4,400 bytes of each .* byte_budget is 3,000: give at most 0 normal images, or raise",
    ),
    ({"byte_budget": 8000}, "give at most 1 normal images, or raise byte_budget"),
    ({"product": "nut " * 300}, "the text 'nut nut .*' has .* tokens and clip@.* reads 120: shorten it"),
    ({"layers": (3,)}, "setting layers is .3. and this backbone taps .1, 2, 3, 4.: give a backbone with those layers"),
    ({"backbone": tiny_backbone()}, "WinCLIP compares images with texts and tiny reads no texts: give --backbone clip"),
    ({"backbone": "embedded"}, "WinCLIP compares images with texts and embedded reads no texts"),
]


@pytest.mark.parametrize("settings, message", FAILING)
def test_what_cannot_be_fitted(settings, message):
    for references in (normals(2), iter(normals(2))):
        with pytest.raises(InvalidArgumentError, match=message):
            detector(references, **settings)


def test_a_failed_fit_leaves_the_old_one():
    own = detector(normals(2))
    before = own.predict([photo(5)])[0]
    with pytest.raises(InvalidArgumentError):
        WinClip(own.backbone, WinClipConfig(resize=SIZE, byte_budget=1000)).fit(normals(2))
    own.config = WinClipConfig(resize=SIZE, temperature=0.1, byte_budget=1000)
    with pytest.raises(InvalidArgumentError):
        own.fit(normals(2))
    assert np.array_equal(own.predict([photo(5)])[0].scores, before.scores)


def test_images_of_very_different_sizes_in_one_batch():
    samples = [Sample("a", np.full((1, 300, 3), 90, np.uint8)), photo(1, (200, 30)), photo(2, (8, 9))]
    for sample, result in zip(samples, detector(normals(2)).predict(samples), strict=True):
        assert result.scores.shape == sample.image.shape[:2] and result.scores.min() >= 0 and result.scores.max() <= 2
        assert 0 <= result.image_score <= 1
