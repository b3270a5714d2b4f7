"""MuSc against its formulas written out plainly; tiles, files and the budget; the reference; what is refused."""

from __future__ import annotations

import dataclasses
import errno
import tracemalloc

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from clip_helpers import tiny_clip
from core_helpers import normals, photo, tiny_backbone, tiny_vit
from safetensors.torch import save_file

from anomalyhub import load_dataset
from anomalyhub.backbones import create_backbone
from anomalyhub.detection import create_detector, load_detector, mutual
from anomalyhub.detection.musc import MuScConfig, mutual_scores, rscin
from anomalyhub.errors import Cancelled, InvalidArgumentError, InvalidModelError, NotFittedError, OutputError
from anomalyhub.metrics import image_metrics
from anomalyhub.state import read_state, write_state
from anomalyhub.types import GOOD, Sample


def plain_patches(tokens, grid, r):
    """LNAMD as published, in float64: normalise over (C, h, w), unfold, pool C r r values to C, length 1."""
    tokens = torch.tensor(np.asarray(tokens)).double()
    count, n_patches, channels = tokens.shape
    maps = tokens.transpose(1, 2).reshape(count, channels, *grid)
    maps = F.layer_norm(maps, [channels, *grid])
    rows = F.unfold(maps, r, padding=(r - 1) // 2).transpose(1, 2).reshape(count * n_patches, 1, -1)
    rows = F.adaptive_avg_pool1d(rows, channels)[:, 0]
    return F.normalize(rows, dim=1).reshape(count, n_patches, channels).numpy()


def plain_scores(tokens, grid, r_list=(1, 3, 5), top=0.3):
    """MSM: per layer and r, patch by patch and image by image."""
    over_r = []
    for r in r_list:
        over_layers = []
        for level in tokens:
            patches = plain_patches(level, grid, r)
            scores = np.zeros(patches.shape[:2])
            for i, p in np.ndindex(scores.shape):
                others = [j for j in range(len(patches)) if j != i]
                nearest = sorted(np.linalg.norm(patches[j] - patches[i, p], axis=1).min() for j in others)
                scores[i, p] = np.mean(nearest[: max(1, int(top * len(nearest)))])
            over_layers.append(scores)
        over_r.append(np.mean(over_layers, axis=0))
    return np.mean(over_r, axis=0)


def plain_rscin(scores, class_tokens, k_list=(1, 2, 3)):
    scaled = (scores - scores.min()) / (scores.max() - scores.min())
    out = np.zeros(len(scores))
    for i in range(len(scores)):
        cosines = class_tokens @ class_tokens[i] / np.linalg.norm(class_tokens, axis=1)
        cosines /= np.linalg.norm(class_tokens[i])
        for k in k_list:
            weights = np.where(cosines >= np.sort(cosines)[::-1][min(k, len(cosines)) - 1], cosines, 0.0)
            out[i] += np.sum(weights / weights.sum() * scaled) / len(k_list)
    return out


def plain_map(scores, shape):
    """Bilinear with aligned corners: pixel 0 and the last one lie on the grid's ends."""
    (h, w), (height, width) = scores.shape, shape
    rows = np.array([np.interp(np.linspace(0, w - 1, width), np.arange(w), row) for row in scores])
    columns = [np.interp(np.linspace(0, h - 1, height), np.arange(h), column) for column in rows.T]
    return np.stack(columns, axis=1)


def random_tokens(rng, count, grid, widths):
    return [rng.normal(1.0, 3.0, (count, grid[0] * grid[1], width)).astype(np.float32) for width in widths]


def sets(count=7, defects=3):
    """Unlabelled photos of two sizes, the last ones defective."""
    return normals(count) + [photo(80 + i, defect=True) for i in range(defects)]


def musc(backbone=None, **settings):
    return create_detector("musc", backbone or tiny_vit(), settings=settings)


def assert_close(results, others, atol=1e-5):
    assert len(results) == len(others)
    for one, other in zip(results, others, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=atol)
        assert one.image_score == pytest.approx(other.image_score, abs=atol)


CASES = [
    (2, (1, 1), (6,), (1, 3, 5), 0.3),  # one patch, one other image
    (5, (3, 4), (7, 7), (1, 3, 5), 0.3),  # int(0.3 * 4) = 1 is kept
    (12, (5, 2), (16, 9), (3,), 0.5),  # layers of two widths
    (9, (2, 6), (12,), (5, 1), 1.0),  # all are kept, neighbourhoods wider than the grid
    (8, (4, 3), (5,), (1, 3), 1e-6),  # the nearest alone
]


@pytest.mark.parametrize("count, grid, widths, r_list, top", CASES)
def test_patch_scores_are_the_formulas(rng, count, grid, widths, r_list, top):
    tokens = random_tokens(rng, count, grid, widths)
    scores = mutual_scores(tokens, grid, r_list, top)
    assert scores.dtype == np.float32 and scores.shape == (count, grid[0] * grid[1])
    np.testing.assert_allclose(scores, plain_scores(tokens, grid, r_list, top), atol=1e-6)


@pytest.mark.parametrize("r", [1, 3, 5, 7])
def test_neighbourhood_features_are_the_published_pooling(rng, r):
    (tokens,) = random_tokens(rng, 3, (4, 5), (6,))
    ours = mutual.unit_patches(torch.from_numpy(tokens), (4, 5), r)
    np.testing.assert_allclose(ours, plain_patches(tokens, (4, 5), r), atol=1e-6)


@pytest.mark.parametrize("block_bytes, tile", [(1, 1), (300, 40), (4000, 10**6), (2**25, 100)])
def test_tiles_do_not_matter(rng, monkeypatch, block_bytes, tile):
    tokens = random_tokens(rng, 11, (2, 3), (5, 8))
    expected = plain_scores(tokens, (2, 3))
    monkeypatch.setattr(mutual, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(mutual, "_TILE", tile)
    np.testing.assert_allclose(mutual_scores(tokens, (2, 3)), expected, atol=1e-6)


@pytest.mark.parametrize("block_bytes", [600, 2**25])
def test_each_pair_is_multiplied_once(rng, monkeypatch, block_bytes):
    tokens, product, seen = random_tokens(rng, 13, (2, 3), (5, 5)), torch.mm, []

    def counting(left, right, out):
        seen.append(left.shape[0] * right.shape[1])
        return product(left, right, out=out)

    monkeypatch.setattr(torch, "mm", counting)
    monkeypatch.setattr(mutual, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(mutual, "_TILE", 4 * 36)  # four pairs at a time
    mutual_scores(tokens, (2, 3), (1, 3))
    assert sum(seen) == 13 * 12 // 2 * 36 * 4  # pairs, patches of each, layers and neighbourhoods


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-5, 1e-3, 1e-1])
def test_near_duplicates_keep_their_digits(rng, noise):
    """2 - 2 s alone would be off by up to 5e-4 there."""
    (base,) = random_tokens(rng, 6, (3, 4), (32,))
    tokens = np.concatenate([base, base[:4] + noise * rng.normal(size=base[:4].shape)]).astype(np.float32)
    expected = plain_scores([tokens], (3, 4), top=0.1)
    np.testing.assert_allclose(mutual_scores([tokens], (3, 4), top=0.1), expected, atol=5e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-3])
def test_a_new_images_near_duplicate_keeps_its_digits(rng, noise):
    """Half of its patches are near ones of another place, the others near none."""
    (tokens,) = random_tokens(rng, 5, (3, 4), (32,))
    bank = mutual.unit_patches(torch.from_numpy(tokens), (3, 4), 1).numpy()
    queries = np.concatenate([bank[1:3, 6:], rng.normal(size=(2, 6, 32))], 1, dtype=np.float32)
    queries += noise * rng.normal(size=(2, 12, 32)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=2, keepdims=True)
    apart = queries[:, None, :, None].astype(float) - bank[None, :, None]
    expected = np.linalg.norm(apart, axis=4).min(3)
    np.testing.assert_allclose(mutual.distances_to(torch.from_numpy(queries), bank), expected, atol=1e-6)


def test_patches_without_a_direction_are_at_distance_one(rng):
    tokens = random_tokens(rng, 6, (3, 4), (8, 8))
    tokens[0][2] = 0.5  # a constant image: nothing is left of it after normalisation
    tokens[0][4] = 0.0
    np.testing.assert_allclose(mutual_scores(tokens, (3, 4)), plain_scores(tokens, (3, 4)), atol=1e-6)


def test_the_order_of_images_does_not_matter(rng):
    tokens, order = random_tokens(rng, 9, (2, 3), (8,)), rng.permutation(9)
    scores = mutual_scores(tokens, (2, 3))
    np.testing.assert_allclose(mutual_scores([level[order] for level in tokens], (2, 3)), scores[order], atol=1e-6)


@pytest.mark.parametrize(
    "shape, grid, r_list, top, why",
    [
        ((1, 6, 4), (2, 3), (1,), 0.3, "needs at least 2, got 1"),
        ((0, 6, 4), (2, 3), (1,), 0.3, "needs at least 2, got 0"),
        ((4, 6, 4), (2, 4), (1,), 0.3, r"tokens must be \(N, 8, C\)"),
        ((4, 6), (2, 3), (1,), 0.3, r"tokens must be \(N, 6, C\)"),
        ((4, 6, 4), (2, 3), (2,), 0.3, "must be odd"),
        ((4, 6, 4), (2, 3), (), 0.3, "must be odd"),
        ((4, 6, 4), (2, 3), (1,), 0.0, "top is a share"),
        ((4, 6, 4), (2, 3), (1,), 1.5, "top is a share"),
    ],
)
def test_wrong_tokens_are_refused(shape, grid, r_list, top, why):
    with pytest.raises(InvalidArgumentError, match=why):
        mutual_scores([np.ones(shape, np.float32)], grid, r_list, top)


def test_other_wrong_tokens_are_refused(rng):
    tokens = random_tokens(rng, 4, (2, 3), (4, 4))
    with pytest.raises(InvalidArgumentError, match="tokens must be"):
        mutual_scores([], (2, 3))
    with pytest.raises(InvalidArgumentError, match="tokens must be"):
        mutual_scores([tokens[0], tokens[1][:3]], (2, 3))
    tokens[1][2, 5, 0] = np.nan
    with pytest.raises(InvalidArgumentError, match="image 2 hold NaN"):
        mutual_scores(tokens, (2, 3))


@pytest.mark.parametrize("count, k_list", [(9, (1, 2, 3)), (9, (1, 8, 9)), (2, (1, 2, 3)), (600, (3,)), (6, (4, 50))])
def test_rscin_is_the_formula(rng, count, k_list):
    scores, tokens = rng.random(count).astype(np.float32), rng.normal(0.3, 1.0, (count, 5)).astype(np.float32)
    ours = rscin(scores, tokens, k_list)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, plain_rscin(scores.astype(float), tokens.astype(float), k_list), atol=1e-5)


def test_rscin_of_degenerate_input():
    alike = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(rscin(np.array([2.0, 2.0, 2.0]), alike), np.zeros(3))  # no range to scale by
    np.testing.assert_allclose(rscin(np.array([0.0, 1.0, 2.0]), alike, (3,)), 0.5)
    np.testing.assert_allclose(rscin(np.array([0.0, 1.0]), np.array([[1.0], [-1.0]]), (2,)), [0.0, 1.0])  # cancel out
    np.testing.assert_allclose(rscin(np.array([0.0, 1.0, 5.0]), np.zeros((3, 4)), (1, 2)), [0.0, 0.2, 1.0])
    for scores, tokens in ((np.ones(3), alike[:2]), (np.ones((3, 1)), alike), (np.ones(0), alike[:0])):
        with pytest.raises(InvalidArgumentError, match="class_tokens"):
            rscin(scores, tokens)
    with pytest.raises(InvalidArgumentError, match="k_list must be whole numbers from 1"):
        rscin(np.ones(3), alike, (0, 1))


def test_what_does_not_fit_the_budget_lies_in_files(rng, tmp_path, monkeypatch):
    """The same scores whatever the budget; numpy's memory stays near it, and no file is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(mutual, "_BLOCK_BYTES", 2**16)
    tokens = random_tokens(rng, 150, (5, 6), (8,))  # 2.6 MiB of distances, 0.14 MiB of patches
    expected, peaks, maps = mutual_scores(tokens, (5, 6), (1, 3)), [], []
    mapping = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *args, **named: maps.append(named["shape"]) or mapping(*args, **named))
    for budget, mapped in ((2**30, []), (2**20, [(150, 150, 30)]), (1, [(150, 150, 30), (150 * 30 * 8,)])):
        maps.clear()
        tracemalloc.start()
        scores = mutual_scores(tokens, (5, 6), (1, 3), byte_budget=budget)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        np.testing.assert_array_equal(scores, expected)
        assert maps == mapped and not list(tmp_path.iterdir())
    assert peaks[0] > 2.6 * 2**20 and peaks[1] < 2**20 and peaks[2] < peaks[1]


def test_a_full_disk_is_an_error(rng, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mutual.os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match=r"no room for .* GiB .*No space left on device.*set TMPDIR"):
        mutual_scores(random_tokens(rng, 4, (2, 3), (4,)), (2, 3), byte_budget=1)


def test_images_among_each_other_are_the_formulas():
    """Tokens of the backbone to maps and image scores, with images of several shapes."""
    samples, backbone = sets(), tiny_vit(size=32)
    results = musc(backbone).fit([]).predict(samples)
    features = backbone.extract([sample.image for sample in samples])
    tokens = [np.stack([one.maps[i].reshape(16, -1).T for one in features]) for i in range(2)]
    patch_scores = plain_scores(tokens, (8, 8))
    maps = [plain_map(row.reshape(8, 8), s.image.shape[:2]) for row, s in zip(patch_scores, samples, strict=True)]
    for ours, expected in zip(results, maps, strict=True):
        np.testing.assert_allclose(ours.scores, expected, atol=1e-5)
    peaks = np.array([one.max() for one in maps])
    smoothed = plain_rscin(peaks, np.stack([one.cls for one in features]).astype(float))
    expected = peaks.min() + (peaks.max() - peaks.min()) * smoothed
    np.testing.assert_allclose([one.image_score for one in results], expected, atol=1e-5)
    # and it is good for something: three of ten are defective, and found, though nobody said which are normal
    assert sorted(np.argsort(expected)[-3:]) == [7, 8, 9]


def test_without_class_tokens_the_score_is_the_maps_maximum():
    detector = musc(tiny_backbone(size=64, layers=(2,))).fit([])
    assert all(one.image_score == one.scores.max() for one in detector.predict(sets()))
    fitted = musc(tiny_backbone(size=64, layers=(2,))).fit(normals(5))
    assert all(one.image_score == one.scores.max() for one in fitted.predict(sets()))


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_the_reference_scores_as_it_did_among_itself(storage, tmp_path):
    """Also an image that is in it twice, and after saving and loading."""
    samples = sets()
    samples.append(Sample("again", samples[2].image.copy()))
    among = musc(storage=storage).fit([]).predict(samples)
    detector = musc(storage=storage)
    assert detector.transductive
    detector.fit(samples)
    assert not detector.transductive and detector.unlabelled_
    assert_close(detector.predict(samples), among)
    np.testing.assert_allclose(detector.held_out_scores_, [one.image_score for one in among], atol=1e-6)
    np.testing.assert_allclose(detector.held_out_peaks_, [one.scores.max() for one in among], atol=1e-6)
    detector.save(tmp_path)
    loaded = load_detector(tmp_path, tiny_vit())
    assert not loaded.transductive and loaded.unlabelled_ and loaded.reference_.levels[0].dtype == storage
    assert_close(loaded.predict(samples), among)
    detector.fit([])
    assert detector.transductive and not len(detector.held_out_scores_) and detector.reference_ is None


def test_a_new_image_scores_as_if_it_were_judged_last():
    """Against N images as in a batch of N + 1: its map is the same, since all it meets are those N."""
    new, backbone = photo(91, (25, 70), defect=True), tiny_vit(size=32)
    for samples in (sets(), sets(1, 1), sets(20, 4)):
        among = musc(backbone).fit([]).predict([*samples, new])[-1]
        np.testing.assert_allclose(musc(backbone).fit(samples).predict([new])[0].scores, among.scores, atol=1e-5)


def test_rscin_of_a_new_image_is_the_formula():
    samples, new, backbone = sets(), photo(91, defect=True), tiny_vit()
    detector = musc(backbone).fit(samples)
    (result,) = detector.predict([new])
    peaks = detector.held_out_peaks_.astype(float)
    low, span = peaks.min(), peaks.max() - peaks.min()
    scaled = (np.append(peaks, result.scores.max()) - low) / span
    cls = np.stack([one.cls for one in backbone.extract([s.image for s in [*samples, new]])]).astype(float)
    cosines = cls @ cls[-1] / np.linalg.norm(cls, axis=1) / np.linalg.norm(cls[-1])
    order, expected = np.argsort(-cosines), 0.0
    assert order[0] == len(samples)  # itself
    for k in (1, 2, 3):
        expected += (cosines[order[:k]] * scaled[order[:k]]).sum() / cosines[order[:k]].sum() / 3
    assert result.image_score == pytest.approx(low + span * expected, abs=1e-5)


def test_half_precision_halves_the_model_and_hardly_moves_the_scores(tmp_path):
    results, sizes = [], []
    for storage in ("float32", "float16"):
        detector = musc(storage=storage).fit(sets())
        detector.save(tmp_path / storage)
        sizes.append((tmp_path / storage / "state.safetensors").stat().st_size)
        results.append(detector.predict([photo(90 + i, defect=i == 1) for i in range(3)]))
    assert sizes[1] < 0.6 * sizes[0]
    assert_close(*results, atol=2e-3)
    assert any(not np.array_equal(a.scores, b.scores) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("settings", [{"batch_size": 5}, {"batch_size": 1, "byte_budget": 1}, {"byte_budget": 10**5}])
def test_streams_budgets_and_batches_do_not_matter(settings, tmp_path):
    samples, backbone = sets(), tiny_vit(size=32)
    expected = musc(backbone).fit([]).predict(samples)
    assert_close(musc(backbone, **settings).fit(iter([])).predict(iter(samples)), expected)
    fitted = musc(backbone, **settings).fit(sample for sample in samples)
    assert_close(fitted.predict(samples), expected)
    fitted.save(tmp_path)
    assert_close(load_detector(tmp_path, backbone).predict(samples), expected)


def test_tokens_leave_room_for_the_pairs(monkeypatch):
    """With room for one layer besides the pairs' distances, the second goes to a file, and the distances do not."""
    samples, maps, mapping = sets(), [], np.memmap
    monkeypatch.setattr(np, "memmap", lambda *args, **named: maps.append(named["shape"]) or mapping(*args, **named))
    budget = mutual.pair_bytes(10, 64, 16) + 4 * 10 * 64 * 16
    musc(tiny_vit(size=32), byte_budget=budget).fit([]).predict(samples)
    assert maps == [(10, 64, 16)]


def test_at_most_so_many_reference_images():
    samples = sets(20)
    drawn = musc(max_reference=6).fit(samples)
    assert len(drawn.reference_) == 6 and len(drawn.held_out_scores_) == 6
    known = {sample.image.tobytes() for sample in samples[:6]}
    first = musc(max_reference=6).fit(iter(samples))  # a stream cannot be drawn from before it ends
    assert len(known) == 6 and first.reference_.digests.tolist() == musc().fit(samples[:6]).reference_.digests.tolist()
    assert drawn.reference_.digests.tolist() != first.reference_.digests.tolist()
    assert len(musc(max_reference=60).fit(samples).reference_) == len(samples)


def test_too_few_images_and_layers_of_two_grids():
    with pytest.raises(InvalidArgumentError, match="needs at least 2, got 1: give more images"):
        musc().fit([]).predict([photo(0)])
    detector = musc()
    with pytest.raises(InvalidArgumentError, match="needs at least 2, got 1"):
        detector.fit([photo(0)])
    with pytest.raises(NotFittedError, match=r"MuSc is not fitted: call fit\(\) first"):
        detector.predict([photo(0)])
    with pytest.raises(
        InvalidArgumentError, match=r"layers \[1, 2\] of tiny have 16 x 16 and 8 x 8: tap blocks of a ViT"
    ):
        musc(tiny_backbone(size=64)).fit([]).predict(sets())


def test_the_embedded_backbone_taps_its_blocks():
    detector = create_detector("musc").fit(normals(2))
    assert detector.backbone.layers == (3, 4, 5, 6) and detector.reference_.grid == (14, 14)
    assert detector.reference_.cls.shape == (2, detector.reference_.levels[0].shape[2])
    with pytest.raises(InvalidArgumentError, match="28 x 28 and 14 x 14"):
        musc(create_backbone("embedded")).fit(normals(2))  # made by somebody else, with its own default
    assert create_detector("musc", settings={"layers": (4, 6)}).fit(normals(2)).backbone.layers == (4, 6)


def test_a_timm_vit_and_an_input_size_that_it_does_not_take(tmp_path):
    """timm's own tiny transformer with random weights: 5 blocks at 160 pixels, patches of 16."""
    torch.manual_seed(0)
    file = tmp_path / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), file)
    detector = create_detector("musc", f"test_vit@{file}").fit(normals(3))
    assert detector.reference_.grid == (10, 10) and len(detector.reference_.levels) == 4
    assert detector.reference_.cls is not None and len(detector.predict(normals(2, start=9))) == 2
    smaller = create_detector("musc", f"test_vit@{file}", settings={"resize": 96}).fit(normals(3))
    assert smaller.reference_.grid == (6, 6)
    with pytest.raises(InvalidArgumentError, match="does not take images of 100 pixels .*: resize to a multiple of 16"):
        create_detector("musc", f"test_vit@{file}", settings={"resize": 100}).fit(normals(3))


def test_a_clip():
    backbone, samples = tiny_clip(), sets()
    among = musc(backbone).fit([]).predict(samples)
    detector = musc(backbone).fit(samples)
    assert detector.reference_.cls.shape == (len(samples), backbone.embed_dim)
    assert_close(detector.predict(samples), among)


def test_images_of_very_different_sizes():
    samples = [photo(i, shape) for i, shape in enumerate([(8, 9), (300, 40), (20, 500), (36, 52)])]
    results = musc().fit([]).predict(samples)
    assert [one.scores.shape for one in results] == [(8, 9), (300, 40), (20, 500), (36, 52)]


def test_cancelling_leaves_it_unfitted():
    def stop(fraction, text):
        if "pairs" in text:
            raise Cancelled("stopped")

    detector = musc()
    with pytest.raises(Cancelled):
        detector.fit(sets(), stop)
    assert not [key for key in vars(detector) if key.endswith("_")]


def test_saving_without_a_reference(tmp_path):
    detector = musc(top=0.5).fit([])
    detector.save(tmp_path)
    loaded = load_detector(tmp_path, tiny_vit())
    assert loaded.transductive and loaded.reference_ is None and loaded.config.top == 0.5
    assert_close(loaded.predict(sets()), detector.predict(sets()), atol=0)


@pytest.mark.parametrize("lost", ["tokens1", "digests", "peaks", "scores"])
def test_a_damaged_model_is_refused(tmp_path, lost):
    musc().fit(sets()).save(tmp_path)
    config, arrays = read_state(tmp_path, "detector")
    write_state(tmp_path, config, {**arrays, lost: arrays[lost][:-1]})
    with pytest.raises(InvalidModelError, match="is damaged"):
        load_detector(tmp_path, tiny_vit())


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"r_list": "1,4"}, "r_list must be odd"),
        ({"r_list": (33,)}, "r_list must be odd"),
        ({"top": "0"}, "top is a share"),
        ({"k_list": "0"}, "k_list must be whole numbers"),
        ({"byte_budget": 0}, "byte_budget must be between"),
        ({"resize": 5000}, "resize must be between"),
        ({"max_reference": 1}, "max_reference must be between 2"),
        ({"storage": "int8"}, "one of float32, float16"),
    ],
)
def test_settings_are_checked(settings, why):
    with pytest.raises(InvalidArgumentError, match=why):
        musc(**settings)


def test_the_defaults_are_the_papers():
    config = dataclasses.asdict(MuScConfig())
    assert (config["r_list"], config["top"], config["k_list"]) == ((1, 3, 5), 0.3, (1, 2, 3))


def test_leather_without_any_label(shared):
    """22 images of which nobody says that 14 are normal."""
    test = load_dataset(shared / "data" / "leather").test
    labels = np.array([label != GOOD for label in test.labels])
    chosen = [*np.flatnonzero(~labels)[:14], *np.flatnonzero(labels)[::12]]
    results = create_detector("musc").fit([]).predict([test[int(i)] for i in chosen])
    scores = np.array([one.image_score for one in results])
    assert image_metrics(labels[chosen], scores)["image_auroc"] > 0.95
