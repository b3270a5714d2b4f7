"""PatchCore: against a plain reference, its folds, append and undo, budgets, streams, saved folders, cancelling."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from core_helpers import bilinear, normals, photo, tiny_backbone
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.ndimage import gaussian_filter

from anomalyhub.detection import create_detector, load_detector
from anomalyhub.detection.cross_fit import folds_for
from anomalyhub.detection.patchcore import PatchCore, PatchCoreConfig
from anomalyhub.detection.patches import patch_features, upsample_scores
from anomalyhub.errors import AnomalyHubError, Cancelled, InvalidArgumentError, InvalidModelError, UnknownNameError
from anomalyhub.search import k_center_greedy


def detector(seed=0, backbone=None, **settings):
    return create_detector("patchcore", backbone or tiny_backbone(), seed=seed, settings=settings)


def images_of(samples):
    return [sample.image for sample in samples]


def window(level, y, x, size):
    """(C, size, size) around a position, zeros beyond the border."""
    half = size // 2
    padded = np.pad(level, ((0, 0), (half, half), (half, half)))
    return padded[:, y : y + size, x : x + size]


def pooled(values, width):
    """Adaptive average pooling of a vector."""
    n = len(values)
    return np.array([values[i * n // width : -(-(i + 1) * n // width)].mean() for i in range(width)])


def plain_patches(maps, aggregation, width, size):
    """(h, w, D) patch features of one image's (C, h, w) maps, position by position."""
    grid = maps[0].shape[1:]
    levels = []
    for level in maps:
        described = np.array(
            [
                [
                    window(level, y, x, size).mean((1, 2))
                    if aggregation == "mean"
                    else window(level, y, x, size).reshape(-1)
                    for x in range(level.shape[2])
                ]
                for y in range(level.shape[1])
            ]
        )
        levels.append(np.stack([bilinear(channel, *grid) for channel in np.moveaxis(described, 2, 0)], 2))
    if aggregation == "mean":
        return np.concatenate(levels, 2)
    rows = [
        [np.concatenate([pooled(level[y, x], width) for level in levels]) for x in range(grid[1])]
        for y in range(grid[0])
    ]
    return np.array([[pooled(row, width) for row in line] for line in rows])


def plain_map(distances, shape, frame, sigma):
    """(h, w) patch distances to an image's map, without a crop."""
    smooth = gaussian_filter(bilinear(distances, frame, frame), sigma, truncate=4, mode="reflect") if sigma else None
    return bilinear(bilinear(distances, frame, frame) if smooth is None else smooth, *shape)


@pytest.mark.parametrize("aggregation", ["mean", "adaptive"])
@pytest.mark.parametrize("neighbourhood", [1, 3, 5])
def test_patch_features_against_the_plain_reference(aggregation, neighbourhood):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, 6, 8, 5)), rng.normal(size=(2, 10, 4, 3)), rng.normal(size=(2, 3, 8, 5))]
    tensors = [torch.from_numpy(level.astype(np.float32)) for level in maps]
    got = patch_features(tensors, aggregation, 12, neighbourhood)
    assert got.shape == (2, 8, 5, 19 if aggregation == "mean" else 12)
    for i in range(2):
        expected = plain_patches([level[i] for level in maps], aggregation, 12, neighbourhood)
        np.testing.assert_allclose(got[i].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["mean", "adaptive"])
@pytest.mark.parametrize("reweight", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_against_the_plain_reference(aggregation, reweight, sigma):
    settings = {"aggregation": aggregation, "width": 20, "coreset": 1.0, "reweight": reweight, "sigma": sigma}
    backbone, train, unknown = tiny_backbone(), normals(4), [photo(40, defect=True), photo(41, (60, 40))]
    results = detector(**settings).fit(train).predict(unknown)
    patches = [
        plain_patches([level.astype(np.float64) for level in features.maps], aggregation, 20, 3)
        for features in backbone.extract(images_of(train + unknown))
    ]
    bank = np.concatenate([one.reshape(-1, one.shape[2]) for one in patches[:4]])
    for sample, result, one in zip(unknown, results, patches[4:], strict=True):
        pairs = np.linalg.norm(one[:, :, None] - bank, axis=3)
        np.testing.assert_allclose(result.scores, plain_map(pairs.min(2), sample.image.shape[:2], 32, sigma), atol=1e-4)
        score = pairs.min(2).max()
        if reweight:
            y, x = np.unravel_index(pairs.min(2).argmax(), pairs.shape[:2])
            nearest = pairs[y, x].argmin()
            around = np.linalg.norm(bank - bank[nearest], axis=1).argsort()[:9]
            assert nearest in around
            score *= 1 - np.exp(score) / np.exp(pairs[y, x, around]).sum()
        assert result.image_score == pytest.approx(score, abs=1e-4)


def test_the_bank_is_the_greedy_coreset_of_all_patches():
    train = normals(5)
    patchcore = detector(coreset=0.25, seed=3).fit(train)
    features = tiny_backbone().extract(images_of(train))
    rows = np.concatenate(
        [patch_features([torch.from_numpy(m)[None] for m in f.maps]).reshape(-1, 16).numpy() for f in features]
    )
    bank = patchcore.search_.bank_
    assert bank.shape == (80, 16) and bank.dtype == np.float32
    np.testing.assert_allclose(bank, rows[k_center_greedy(rows, 80, seed=3)], atol=1e-6)
    assert (patchcore.plan_.n_patches, patchcore.plan_.n_bank, patchcore.plan_.blockwise) == (320, 80, False)
    assert patchcore.segments_ == (80,)


@pytest.mark.parametrize("shape", [(50, 80), (80, 50), (64, 64), (33, 200)])
def test_the_crop_hides_the_border_and_keeps_the_place(shape):
    """Resize 40, crop 32: the central 80 % of the shorter edge is seen, the rest of the map is 0."""
    patchcore = detector(resize=40, crop=32, sigma=0, coreset=1.0).fit(normals(4))
    sample = photo(9, shape)
    image = sample.image.copy()
    height, width = shape
    image[height // 2 - 4 : height // 2 + 5, width // 2 - 4 : width // 2 + 5] = 255
    (result,) = patchcore.predict([type(sample)("x", image)])
    side = 0.8 * min(shape)
    top, left = (height - side) / 2, (width - side) / 2
    seen = np.zeros(shape, bool)
    seen[math.ceil(top) + 2 : math.floor(height - top) - 2, math.ceil(left) + 2 : math.floor(width - left) - 2] = True
    beyond = np.ones(shape, bool)
    beyond[math.floor(top) - 1 : math.ceil(height - top) + 1, math.floor(left) - 1 : math.ceil(width - left) + 1] = (
        False
    )
    assert result.scores.shape == shape and not result.scores[beyond].any() and result.scores[seen].all()
    row, column = np.unravel_index(result.scores.argmax(), shape)
    assert abs(row - height / 2) <= 8 and abs(column - width / 2) <= 8


def test_upsampling_maps_corners_to_corners():
    scores = np.zeros((4, 4), np.float32)
    scores[0, 3] = 1.0  # top right
    large = upsample_scores(scores, (30, 70), resize=16, sigma=1.0)
    assert large.shape == (30, 70) and large.dtype == np.float32
    row, column = np.unravel_index(large.argmax(), large.shape)
    assert row <= 2 and column >= 65 and large[20:, :30].max() < 1e-4
    flat = upsample_scores(np.full((7, 7), 2.5, np.float32), (30, 70), resize=28, sigma=4.0)
    np.testing.assert_allclose(flat, 2.5, rtol=1e-6)


@given(st.integers(0, 2000), st.integers(0, 400), st.integers(0, 5))
def test_folds_are_disjoint_and_at_most_so_many(n_images, at_most, seed):
    folds = folds_for(n_images, at_most, seed)
    assert folds == folds_for(n_images, at_most, seed)
    if n_images < 2 or at_most < 1:
        assert folds == []
        return
    held = [image for fold in folds for image in fold.images]
    assert 1 <= len(folds) <= 4 and [fold.number for fold in folds] == list(range(len(folds)))
    assert len(held) == len(set(held)) <= max(at_most, 1) and set(held) <= set(range(n_images))
    for fold in folds:
        assert 1 <= len(fold.images) <= max(1, math.ceil(n_images / 4)) and list(fold.images) == sorted(fold.images)
    if n_images <= at_most:
        assert len(held) == n_images  # a small set is held out completely
    else:
        assert len(held) >= min(at_most, n_images // 4) / 2  # and of a large one a fair share


@pytest.mark.parametrize("coreset", [1.0, 0.2])
@pytest.mark.parametrize(("count", "at_most"), [(2, 200), (3, 200), (7, 200), (9, 4), (9, 2)])
def test_held_out_scores_are_those_of_a_detector_that_never_saw_the_image(coreset, count, at_most):
    train = normals(count)
    patchcore = detector(coreset=coreset, calibration_images=at_most, seed=1).fit(train)
    scores, peaks = [], []
    for fold in folds_for(count, at_most, 1):
        others = [sample for i, sample in enumerate(train) if i not in fold.images]
        apart = detector(coreset=coreset, calibration_images=0, seed=1).fit(others)
        assert len(apart.held_out_scores_) == 0
        results = apart.predict([train[i] for i in fold.images])
        scores += [result.image_score for result in results]
        peaks += [result.scores.max() for result in results]
    assert patchcore.held_out_scores_.dtype == patchcore.held_out_peaks_.dtype == np.float32
    np.testing.assert_allclose(patchcore.held_out_scores_, scores, rtol=1e-4)
    np.testing.assert_allclose(patchcore.held_out_peaks_, peaks, rtol=1e-4)


def test_an_odd_normal_image_is_odd_to_the_others():
    """Its own patches are in the bank, but not in the bank that scores it."""
    odd = photo(99)
    odd = type(odd)("odd", 255 - odd.image // 2)
    patchcore = detector(coreset=1.0).fit([*normals(7), odd])
    held_out = np.sort(patchcore.held_out_scores_)
    assert len(held_out) == 8 and held_out[-1] > 2 * held_out[-2]
    assert patchcore.predict([odd])[0].image_score < 0.05 * held_out[-1]


def test_few_images_have_no_held_out_scores():
    one = detector().fit(normals(1))
    assert one.held_out_scores_.shape == one.held_out_peaks_.shape == (0,)
    assert one.predict([photo(3)])[0].image_score > 0


def test_a_stream_gives_the_bank_of_the_list():
    train = normals(6)

    class Counted:  # as a progress bar around a list: it has a length, but no items
        def __len__(self):
            return 6

        def __iter__(self):
            return iter(train)

    listed = detector().fit(train)
    for stream in (iter(train), (sample for sample in train), Counted()):
        streamed = detector().fit(stream)
        assert np.array_equal(streamed.search_.bank_, listed.search_.bank_)
        assert len(streamed.held_out_scores_) == 0 and len(listed.held_out_scores_) == 6
        assert streamed.plan_ == listed.plan_
    assert np.array_equal(detector().fit(tuple(train)).held_out_scores_, listed.held_out_scores_)


def test_an_error_while_reading_is_not_the_end_of_the_images():
    class Broken(list):
        def __getitem__(self, index):
            if index == 3:
                raise IndexError("the decoder's own")
            return super().__getitem__(index)

    with pytest.raises(IndexError, match="the decoder's own"):
        detector().fit(Broken(normals(6)))


def test_a_small_budget_selects_blockwise():
    train, unknown = normals(24), [photo(60 + i, defect=i > 2) for i in range(6)]
    whole = detector().fit(train)
    budget = 600 * (64 + 16 + 8 * 16 * 0.1)  # room for 600 of 1536 patches of 16 values
    small = detector(byte_budget=int(budget)).fit(train)
    assert small.plan_.blockwise and not whole.plan_.blockwise and small.plan_.buffer_bytes <= budget
    assert len(small.search_.bank_) == len(whole.search_.bank_) == 154
    assert len(small.held_out_scores_) == 24
    for detected in (small, whole):
        scores = [result.image_score for result in detected.predict(unknown)]
        assert min(scores[3:]) > max(scores[:3])
    with pytest.raises(
        InvalidArgumentError, match=r"byte budget of 1000 holds \d+ patches of 16 values: give at least"
    ):
        detector(byte_budget=1000).fit(train)


def test_the_plan_is_said_before_anything_else():
    seen = []
    detector(coreset=0.2).fit(normals(5), lambda share, text: seen.append(text))
    assert seen[0].startswith("320 patches x 16 -> bank of 64 (0 MiB), buffer 0 MiB, selected in one piece, about 1 s")
    assert any("features 5 of 5 images" in text for text in seen) and any("fold 3 of 3" in text for text in seen)
    assert seen[-1] == "bank of 64 patches"


def test_the_seed_fixes_the_coreset():
    banks = [detector(seed=seed).fit(normals(6)).search_.bank_ for seed in (0, 0, 1, 2, 3)]
    assert np.array_equal(banks[0], banks[1])
    assert any(not np.array_equal(banks[0], bank) for bank in banks[2:])


def test_append_covers_new_normals_and_can_be_undone(tmp_path):
    new = [photo(200 + i, defect=True) for i in range(4)]  # a blot is normal from now on
    patchcore = detector(coreset=0.2).fit(normals(6))
    bank, held_out = patchcore.search_.bank_.copy(), patchcore.held_out_scores_.copy()
    before = patchcore.predict(new)
    assert patchcore.append(new) is patchcore
    assert patchcore.segments_ == (77, 51) and len(patchcore.search_.bank_) == 128
    assert np.array_equal(patchcore.search_.bank_[:77], bank)
    after = patchcore.predict(new)
    for old, result in zip(before, after, strict=True):
        assert result.image_score < 0.6 * old.image_score and (result.scores <= old.scores + 1e-5).all()
    assert np.array_equal(patchcore.held_out_scores_, held_out)
    patchcore.append(normals(2, start=50))
    assert patchcore.segments_ == (77, 51, 26)
    patchcore.save(tmp_path / "m")
    for one in (load_detector(tmp_path / "m", tiny_backbone()), patchcore):
        assert one.segments_ == (77, 51, 26) and one.undo_append() is one and one.segments_ == (77, 51)
        assert all(np.array_equal(a.scores, b.scores) for a, b in zip(one.predict(new), after, strict=True))
        one.undo_append()
        assert np.array_equal(one.search_.bank_, bank) and one.segments_ == (77,)
        assert all(np.array_equal(a.scores, b.scores) for a, b in zip(one.predict(new), before, strict=True))
        with pytest.raises(InvalidArgumentError, match="no append to undo"):
            one.undo_append()
    with pytest.raises(InvalidArgumentError, match="append needs normal images and got none"):
        patchcore.append([])


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_inverted_file_saved_appended_and_undone(storage, tmp_path):
    settings = {"index": "ivf", "n_probe": 1, "storage": storage, "coreset": 0.5}
    unknown = [photo(60 + i, defect=i % 2 == 0) for i in range(4)]
    patchcore = detector(**settings).fit(normals(12))
    exact = detector(**{**settings, "index": "flat"}).fit(normals(12)).predict(unknown)
    before = patchcore.predict(unknown)
    for near, true in zip(before, exact, strict=True):
        assert near.image_score == pytest.approx(true.image_score, abs=1e-5)  # exact in spite of one cell
        assert (near.scores >= true.scores - 1e-5).all()
    assert any((near.scores > true.scores + 1e-4).any() for near, true in zip(before, exact, strict=True))
    patchcore.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / "state.safetensors")
    assert stored["bank"].dtype == storage and stored["centroids"].shape[1] == 16
    loaded = load_detector(tmp_path / "a", tiny_backbone())
    loaded.append(normals(3, start=70)).undo_append()
    for one in (load_detector(tmp_path / "a", tiny_backbone()), loaded):
        assert all(np.array_equal(a.scores, b.scores) for a, b in zip(one.predict(unknown), before, strict=True))


def test_residuals_point_from_the_nearest_bank_entry_to_the_patch():
    patchcore = detector(coreset=0.3).fit(normals(5))
    unknown = [photo(60, defect=True), photo(61, (60, 40))]
    bank = patchcore.search_.bank_
    results = list(patchcore.residual_features(iter(unknown)))
    assert len(results) == 2
    for features, residual in zip(tiny_backbone().extract(images_of(unknown)), results, strict=True):
        rows = patch_features([torch.from_numpy(level)[None] for level in features.maps])[0].numpy()
        pairs = np.linalg.norm(rows[:, :, None] - bank, axis=3)
        expected = rows - bank[pairs.argmin(2)]
        (got,) = residual.maps
        assert got.shape == (16, 8, 8) and residual.cls is None
        np.testing.assert_allclose(got, np.moveaxis(expected, 2, 0), atol=1e-5)
    assert list(patchcore.residual_features([])) == []


def test_fewer_bank_entries_than_neighbours():
    patchcore = detector(coreset=0.01, reweight=True, reweight_neighbours=50).fit(normals(2))
    assert len(patchcore.search_.bank_) == 1
    assert patchcore.predict([photo(5)])[0].image_score == 0.0  # one entry is its own neighbourhood: nothing to compare
    patchcore = detector(coreset=0.03, reweight=True, reweight_neighbours=50).fit(normals(2))
    assert len(patchcore.search_.bank_) == 4 and patchcore.predict([photo(5, defect=True)])[0].image_score > 0


def test_layers_are_a_setting_and_a_backbone_must_agree(tmp_path):
    patchcore = create_detector("patchcore", "embedded", settings={"layers": "2", "resize": "64"}).fit(normals(2))
    assert patchcore.backbone.layers == (2,) and patchcore.search_.bank_.shape[1] == patchcore.backbone.channels[0]
    with pytest.raises(InvalidArgumentError, match=r"setting layers is \[2\] and this backbone taps \[1, 2\]"):
        detector(layers=(2,)).fit(normals(2))
    fitted = detector(backbone=tiny_backbone(layers=(2,))).fit(normals(2))
    fitted.save(tmp_path / "m")
    with pytest.raises(InvalidModelError, match=r"was fitted on layers \[2\] and this backbone taps \[1, 2\]"):
        load_detector(tmp_path / "m", tiny_backbone())
    loaded = load_detector(tmp_path / "m", tiny_backbone(layers=(2,)))
    assert loaded.predict([photo(3)])[0].image_score == fitted.predict([photo(3)])[0].image_score


def test_the_layers_of_a_backbone_that_was_handed_over_are_kept(tmp_path):
    """Loading makes the backbone from its SPEC again: on the layers it had, not the default ones."""
    from anomalyhub.backbones import create_backbone

    fitted = detector(backbone=create_backbone("embedded", [1]), resize=64).fit(normals(2))
    fitted.save(tmp_path / "m")
    loaded = load_detector(tmp_path / "m")
    assert loaded.backbone.layers == (1,)
    assert np.array_equal(loaded.predict([photo(3)])[0].scores, fitted.predict([photo(3)])[0].scores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coreset": 0}, r"setting coreset is a share in \(0, 1\], got 0"),
        ({"coreset": "10"}, "setting coreset is a share.*0.1 keeps 10 %"),
        ({"coreset": "ten"}, "setting coreset='ten' is not a number"),
        ({"coreset": "nan"}, "setting coreset"),
        ({"resize": "0"}, "setting resize must be"),
        ({"resize": "-5"}, "setting resize must be"),
        ({"resize": "224.5"}, "setting resize='224.5' is not a whole number or none"),
        ({"crop": "0"}, "setting crop must be"),
        ({"crop": 256, "resize": 224}, r"crop \(256\) must not exceed resize \(224\)"),
        ({"aggregation": "median"}, "setting aggregation='median' is not one of mean, adaptive"),
        ({"aggregation": ""}, "setting aggregation"),
        ({"width": 0}, "setting width must be"),
        ({"neighbourhood": 2}, "setting neighbourhood must be odd"),
        ({"neighbourhood": -1}, "setting neighbourhood must be"),
        ({"projection": "none"}, "setting projection='none' is not a whole number"),
        ({"reweight": "maybe"}, "setting reweight='maybe' is not true or false"),
        ({"reweight_neighbours": 0}, "setting reweight_neighbours must be"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": "nan"}, "sigma"),
        ({"sigma": "inf"}, "sigma"),
        ({"byte_budget": 0}, "setting byte_budget must be"),
        ({"byte_budget": "1e400"}, "setting byte_budget='1e400' is not a whole number"),
        ({"index": "hnsw"}, "setting index='hnsw' is not one of auto, flat, ivf"),
        ({"n_probe": "0"}, "setting n_probe must be"),
        ({"storage": "float8"}, "setting storage='float8' is not one of float32, float16"),
        ({"batch_size": 0}, "setting batch_size must be"),
        ({"calibration_images": -1}, "calibration_images"),
        ({"layers": "a,b"}, "setting layers='a,b' is not a list of int such as 2,3 or none"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        create_detector("patchcore", "embedded", settings=settings)
    assert "\n" not in str(caught.value)


def test_unknown_settings_name_the_nearest():
    with pytest.raises(
        UnknownNameError, match="unknown setting 'coresett': did you mean 'coreset'.*choose one of.*sigma"
    ):
        detector(coresett=1)


@pytest.fixture
def saved(tmp_path):
    """A saved detector's folder, and a function that changes its config.json."""
    folder = tmp_path / "model"
    detector(index="ivf").fit(normals(4)).save(folder)

    def change(**values):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return folder, change


def arrays(folder, **changes):
    stored = {**load_file(folder / "state.safetensors"), **changes}
    save_file({key: value for key, value in stored.items() if value is not None}, folder / "state.safetensors")


DAMAGE = {
    "is not a model folder": lambda folder, change: (folder / "config.json").unlink(),
    "is not readable JSON": lambda folder, change: (folder / "config.json").write_text('{"kind": '),
    "is not readable JSON .*utf-8": lambda folder, change: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
    "must hold a JSON object": lambda folder, change: (folder / "config.json").write_text("[1]"),
    "holds a classifier, not a detector": lambda folder, change: change(kind="classifier"),
    "newer AnomalyHub .schema 99, this one reads up to 1.: upgrade": lambda folder, change: change(schema=99),
    "newer AnomalyHub .schema None": lambda folder, change: change(schema=None),
    "holds a detector 'padim', which this version": lambda folder, change: change(detector="padim"),
    "holds a detector None": lambda folder, change: change(detector=None),
    r"holds a detector \['patchcore'\]": lambda folder, change: change(detector=["patchcore"]),
    "has no state.safetensors": lambda folder, change: (folder / "state.safetensors").unlink(),
    "state.safetensors is damaged .*copy the model folder again": lambda folder, change: (
        folder / "state.safetensors"
    ).write_bytes((folder / "state.safetensors").read_bytes()[:-50]),
    "state.safetensors is damaged": lambda folder, change: (folder / "state.safetensors").write_bytes(b"x"),
    "damaged .*bank": lambda folder, change: arrays(folder, bank=None),
    "damaged .*shape": lambda folder, change: arrays(folder, bank=np.ones(5, np.float32)),
    "damaged .*scores": lambda folder, change: arrays(folder, scores=None),
    "damaged .*centroids": lambda folder, change: arrays(folder, centroids=np.ones((3, 5), np.float32)),
    "damaged .bank and segments differ": lambda folder, change: arrays(folder, bank=np.ones((5, 16), np.float32)),
    "damaged .bank and segments differ.": lambda folder, change: change(segments=[3]),
    "damaged .*int": lambda folder, change: change(segments=[None]),
    "damaged .*invalid literal": lambda folder, change: change(segments="x"),
    "damaged .*unknown setting": lambda folder, change: change(config={"no_such": 1}),
    "damaged .*coreset": lambda folder, change: change(config={"coreset": -1}),
    "damaged .*fingerprint": lambda folder, change: change(backbone={"spec": "tiny"}),
    "damaged .*": lambda folder, change: change(backbone=None),
    "damaged .*with base 10: 'x7'": lambda folder, change: change(seed="x7"),
    "damaged .*unexpected keyword": lambda folder, change: change(plan={"n_cakes": 1}),
    "the weights of tiny are not those": lambda folder, change: change(
        backbone={"spec": "tiny", "fingerprint": "other"}
    ),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_folders(message, saved):
    folder, change = saved
    DAMAGE[message](folder, change)
    with pytest.raises(InvalidModelError, match=message) as caught:
        load_detector(folder, tiny_backbone())
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_an_undamaged_folder_loads(saved):
    assert load_detector(saved[0], tiny_backbone()).predict([photo(1)])


def test_other_weights_are_refused(saved):
    with pytest.raises(
        InvalidModelError, match="the weights of tiny are not those that .* was fitted with: give the same"
    ):
        load_detector(saved[0], tiny_backbone(seed=1))
    with pytest.raises(InvalidModelError, match="the weights of embedded are not those"):
        load_detector(saved[0], "embedded")
    with pytest.raises(AnomalyHubError, match="unknown backbone 'tiny'"):
        load_detector(saved[0])  # the stored SPEC is looked up


STEPS = ["features 4", "coreset", "fold 1", "fold 2", "bank of"]


@pytest.mark.parametrize("step", STEPS)
def test_cancelling_leaves_the_detector_as_it_was(step):
    def stop(share, text):
        if step in text:
            raise Cancelled("stopped; nothing was changed")

    fresh = detector(batch_size=2)
    with pytest.raises(Cancelled):
        fresh.fit(normals(6), stop)
    if step != "bank of":  # by then all is done
        assert not [key for key in vars(fresh) if key.endswith("_")]
        fitted = detector(batch_size=2).fit(normals(5, start=30))
        before = dict(vars(fitted))
        with pytest.raises(Cancelled):
            fitted.fit(normals(6), stop)
        assert vars(fitted).keys() == before.keys() and all(vars(fitted)[key] is before[key] for key in before)


@pytest.mark.parametrize("step", ["features of batch 2", "coreset"])
def test_cancelling_an_append(step):
    def stop(share, text):
        if step in text:
            raise Cancelled("stopped; nothing was changed")

    fitted = detector(batch_size=2).fit(normals(5))
    before = dict(vars(fitted))
    with pytest.raises(Cancelled):
        fitted.append(normals(4, start=9), stop)
    assert all(vars(fitted)[key] is before[key] for key in before)


def test_defaults_are_those_of_the_paper():
    config = PatchCoreConfig()
    assert (config.neighbourhood, config.reweight_neighbours, config.sigma, config.width) == (3, 9, 4.0, 1024)
    assert config.coreset == 0.1 and config.projection == 128 and not config.reweight and config.crop is None
    assert PatchCore().config == config and PatchCore().backbone == "embedded"
