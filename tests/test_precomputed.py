"""Maps of another program as a detector: what the contract asks, matching, scores, thresholds, saved folders."""

from __future__ import annotations

import csv
import json
import os

import cv2
import numpy as np
import pytest
from core_helpers import photo

from anomalyhub.detection import create_detector, load_detector
from anomalyhub.detection.precomputed import Precomputed
from anomalyhub.errors import (
    InvalidArgumentError,
    InvalidDatasetError,
    InvalidImageError,
    InvalidModelError,
    NotFittedError,
)
from anomalyhub.pipeline import Inspector, evaluate
from anomalyhub.protocols import Detector
from anomalyhub.types import Sample


def known(sample: Sample) -> np.ndarray:
    """The map that a program might give: brightness over the mean, of the sample's own shape."""
    return np.abs(sample.image.astype(np.float32) - 110).mean(axis=2)


def named(sample: Sample, name: str) -> Sample:
    return Sample(name, sample.image, sample.label, sample.mask)


def write(folder, maps: dict[str, np.ndarray]):
    for name, array in maps.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return folder


def rows(path, lines):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


@pytest.fixture
def normals():
    return [named(photo(i, (36, 52) if i % 2 else (60, 40)), f"train/good/{i:03}.png") for i in range(5)]


@pytest.fixture
def unknown():
    return [
        named(photo(50 + i, (25, 70), defect=i % 2 == 1), f"test/{'blot' if i % 2 else 'good'}/{i:03}.png")
        for i in range(4)
    ]


@pytest.fixture
def maps(tmp_path, normals, unknown):
    every = {sample.id.replace(".png", ".npy"): known(sample) for sample in normals + unknown}
    return write(tmp_path / "maps", every)


def detector(maps, **settings) -> Precomputed:
    return create_detector("precomputed", settings={"maps": str(maps), **settings})


def assert_same(results, others):
    assert len(results) == len(others)
    for one, other in zip(results, others, strict=True):
        assert np.array_equal(one.scores, other.scores) and one.image_score == other.image_score


def test_the_members_and_the_constructor(maps):
    made = create_detector("precomputed", "no_such_backbone", seed=7, settings={"maps": str(maps)})
    assert isinstance(made, Detector) and (made.backbone, made.seed) == ("no_such_backbone", 7)
    assert (made.needs, made.transductive) == ("nothing", False)
    assert not [key for key in vars(made) if key.endswith("_")]
    assert made.fit([]) is made and made.backbone == "no_such_backbone"  # never made


def test_unfitted_raises(maps, tmp_path):
    with pytest.raises(NotFittedError, match=r"not fitted: call fit\(\) first"):
        detector(maps).predict([photo(0)])
    with pytest.raises(NotFittedError):
        detector(maps).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_each_sample_gets_its_map_in_order(maps, normals, unknown):
    fitted = detector(maps).fit([])
    for samples in (normals + unknown, (normals + unknown)[::-1], iter(unknown)):
        samples = list(samples)
        results = fitted.predict(iter(samples))
        for sample, result in zip(samples, results, strict=True):
            assert np.array_equal(result.scores, known(sample))
            assert result.image_score == pytest.approx(known(sample).max())
    assert fitted.predict([]) == []
    assert_same([fitted.predict([one])[0] for one in unknown], fitted.predict(unknown))


def test_labels_and_masks_are_not_read(maps, normals, unknown):
    absurd = [Sample(s.id, s.image, "crack", np.ones(s.image.shape[:2], bool)) for s in normals]
    one, other = detector(maps).fit(normals), detector(maps).fit(absurd)
    assert_same(one.predict(unknown), other.predict([Sample(s.id, s.image) for s in unknown]))
    assert np.array_equal(one.held_out_scores_, other.held_out_scores_)


def test_a_map_of_another_size_is_resized_to_the_image(tmp_path):
    """Bilinear with half-pixel centres; the image score stays the one of the map as it was saved."""
    sample = photo(0, (36, 52))
    small = np.random.default_rng(0).random((9, 26)).astype(np.float32)
    write(tmp_path / "maps", {"good/000.npy": small})
    (result,) = detector(tmp_path / "maps").fit([]).predict([sample])
    rows_at, columns_at = (np.arange(36) + 0.5) / 4 - 0.5, (np.arange(52) + 0.5) / 2 - 0.5
    along = np.stack([np.interp(columns_at, np.arange(26), row) for row in small])
    expected = np.stack([np.interp(rows_at, np.arange(9), column) for column in along.T], axis=1)
    np.testing.assert_allclose(result.scores, expected, atol=1e-5)
    assert result.image_score == pytest.approx(float(small.max()))


def test_pictures_are_maps_too(tmp_path):
    grey = (np.arange(36 * 52) % 256).astype(np.uint8).reshape(36, 52)
    (tmp_path / "good").mkdir()
    cv2.imwrite(str(tmp_path / "good" / "000.png"), grey)
    (result,) = detector(tmp_path).fit([]).predict([photo(0)])
    assert np.array_equal(result.scores, grey.astype(np.float32)) and result.image_score == 255.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 99.0),
        ({"score": "max"}, 99.0),
        ({"score": "mean-top", "top": "0.05"}, np.mean([99, 98, 97, 96, 95])),
        ({"score": "mean-top", "top": "0.001"}, 99.0),  # at least one pixel
        ({"score": "mean-top", "top": "1"}, 49.5),
    ],
)
def test_image_scores_of_a_map(tmp_path, settings, expected):
    values = np.random.default_rng(0).permutation(100).reshape(5, 20).astype(np.float32)
    write(tmp_path / "maps", {"good/000.npy": values})
    (result,) = detector(tmp_path / "maps", **settings).fit([]).predict([photo(0, (5, 20))])
    assert result.image_score == pytest.approx(expected)


def test_image_scores_of_a_table(maps, tmp_path, normals, unknown):
    """Paths are matched as maps are: below another root, with another suffix; further columns and rows are left."""
    table = [["label", "path", "score"], ["x", "elsewhere.png", "9"]]
    table += [["x", f"/data/set/{sample.id.replace('.png', '.jpg')}", str(i / 8)] for i, sample in enumerate(unknown)]
    table += [["x", sample.id.replace("/", "\\"), str(-i)] for i, sample in enumerate(normals)]
    scores = rows(tmp_path / "scores.csv", table)
    fitted = detector(maps, scores=str(scores)).fit(normals)
    assert [result.image_score for result in fitted.predict(unknown)] == [0.0, 0.125, 0.25, 0.375]
    assert fitted.held_out_scores_.tolist() == [0, -1, -2, -3, -4]
    np.testing.assert_allclose(fitted.held_out_peaks_, [known(sample).max() for sample in normals])
    with pytest.raises(InvalidDatasetError, match=r"scores.csv has no score for test/good/900.png: add a row"):
        write(maps, {"test/good/900.npy": np.ones((3, 4))})
        detector(maps, scores=str(scores)).fit([]).predict([named(photo(1), "test/good/900.png")])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([["path", "value"], ["a.png", "1"]], "has no column score"),
        ([], "has no column path and no column score"),
        ([["path", "score"], ["a.png", "1"], ["b.png", "high"]], "the score 'high' in line 3"),
        ([["path", "score"], ["a.png", "nan"]], "the score 'nan' in line 2"),
        ([["path", "score"], ["a.png"]], "the score None in line 2"),
        ([["path", "score"], [".", "1"]], "the path '.'"),
        ([["path", "score"], ["a.png", "1"], ["a.jpg", "2"]], "has 2 rows for a: keep one"),
    ],
)
def test_tables_that_are_none(maps, tmp_path, lines, message):
    table = rows(tmp_path / "scores.csv", lines)
    with pytest.raises(InvalidDatasetError, match="scores.csv .*" + message):
        detector(maps, scores=str(table)).fit([])


def test_a_table_that_cannot_be_read(maps, tmp_path):
    (tmp_path / "scores.csv").write_bytes(b"path,score\n\xff\xfe,1\n")
    for path in ("scores.csv", "missing.csv", "maps"):
        with pytest.raises(InvalidDatasetError, match=rf"{path} is not a readable table of scores .*write a CSV"):
            detector(maps, scores=str(tmp_path / path)).fit([])


def test_normals_with_a_map_give_held_out_scores(maps, normals, unknown):
    fitted = detector(maps).fit(iter(normals))
    expected = [known(sample).max() for sample in normals]
    np.testing.assert_allclose(fitted.held_out_scores_, expected)
    np.testing.assert_allclose(fitted.held_out_peaks_, expected)
    assert fitted.held_out_scores_.dtype == fitted.held_out_peaks_.dtype == np.float32
    for few in ([], normals[:1]):
        fitted.fit(few)
        assert fitted.held_out_scores_.shape == fitted.held_out_peaks_.shape == (0,)


def test_normals_without_a_map_are_left_out(tmp_path, normals, unknown):
    """Most programs write the maps of the test images alone; a test image of the same number is not a normal one's."""
    write(tmp_path, {sample.id.replace(".png", ".npy"): known(sample) for sample in unknown + normals[:2]})
    fitted = detector(tmp_path).fit(normals)
    assert len(fitted.held_out_scores_) == 2
    for path in tmp_path.glob("train/good/*"):
        path.unlink()
    assert len(detector(tmp_path).fit(normals).held_out_scores_) == 0


def test_a_map_is_given_to_one_image_only(tmp_path, normals, unknown):
    """A bare name fits an image of each folder when these come one by one: also across calls, and after loading."""
    write(tmp_path / "maps", {f"{i:03}.npy": np.full((4, 6), i, np.float32) for i in range(5)})
    fitted = detector(tmp_path / "maps").fit(normals)
    conflict = r"000.npy could belong to train/good/000.png and test/good/000.png: put the maps into folders"
    with pytest.raises(InvalidDatasetError, match=conflict):
        fitted.predict(unknown[:1])
    fitted.save(tmp_path / "model")
    loaded = load_detector(tmp_path / "model")
    with pytest.raises(InvalidDatasetError, match=conflict):
        loaded.predict(unknown[:1])
    again = named(normals[0], "elsewhere/000.png")  # the same pixels by another name: the data set has moved
    assert_same(loaded.predict([again]), fitted.predict(normals[:1]))
    retouched = named(photo(99), "train/good/000.png")  # other pixels by the same name
    assert_same(loaded.predict([retouched]), fitted.predict([retouched]))
    alone = detector(tmp_path / "maps").fit([])
    alone.predict(unknown[:1])
    with pytest.raises(InvalidDatasetError, match="could belong to"):
        alone.predict(normals[:1])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, InvalidArgumentError, "setting maps names no folder: give one with --set maps=FOLDER"),
        ({"maps": "nowhere"}, InvalidDatasetError, "nowhere does not exist"),
        ({"maps": "empty"}, InvalidDatasetError, "empty holds no anomaly maps"),
        ({"maps": "empty", "top": "0"}, InvalidArgumentError, "setting top is a share"),
        ({"maps": "empty", "score": "median"}, InvalidArgumentError, "one of max, mean-top"),
    ],
)
def test_settings_that_cannot_be(tmp_path, monkeypatch, settings, error, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        create_detector("precomputed", settings=settings).fit([])


def test_images_without_a_usable_map(maps, unknown):
    fitted = detector(maps).fit([])
    with pytest.raises(InvalidDatasetError, match=r"maps has no map for test/good/777.png: name each map like"):
        fitted.predict([named(unknown[0], "test/good/777.png")])
    np.save(maps / "test/good/000.npy", np.full((3, 4), np.nan, np.float32))
    with pytest.raises(InvalidImageError, match="12 of 12 scores that are NaN"):
        fitted.predict(unknown[:1])


def test_progress(maps, normals):
    for samples in (normals, iter(normals), []):
        seen = []
        detector(maps).fit(samples, progress=lambda share, text, seen=seen: seen.append((share, text)))
        shares = [share for share, _ in seen]
        assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0
    assert seen[-1][1] == "9 maps, 0 of them of normal images"


def test_save_then_load_gives_the_same(maps, tmp_path, monkeypatch, normals, unknown):
    """A relative path is one of the working folder in which the model was fitted."""
    monkeypatch.chdir(tmp_path)
    fitted = detector("maps", score="mean-top").fit(normals)
    results = fitted.predict(unknown)
    fitted.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "state.safetensors"]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["config"]["maps"] == str(maps)
    monkeypatch.chdir("/")
    for backbone in (None, "no_such_backbone"):
        loaded = load_detector(tmp_path / "model", backbone)
        assert type(loaded) is Precomputed and loaded.config == fitted.config and loaded.seed == fitted.seed
        assert_same(loaded.predict(unknown), results)
        assert np.array_equal(loaded.held_out_scores_, fitted.held_out_scores_)
        assert np.array_equal(loaded.held_out_peaks_, fitted.held_out_peaks_)
    loaded.save(tmp_path / "again")
    for path in (tmp_path / "model").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def _change(maps):
    path = next(maps.rglob("*.npy"))
    np.save(path, np.load(path) * 2)  # of the very same size
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change, "maps has changed since this model was fitted on it: fit again"),
        (lambda maps: next(maps.rglob("*.npy")).unlink(), "has changed"),
        (lambda maps: np.save(maps / "new.npy", np.ones((2, 3))), "has changed"),
        (lambda maps: maps.rename(maps.with_name("moved")), "does not exist.*: put them back, or fit again"),
    ],
)
def test_maps_that_have_changed_are_noticed(maps, tmp_path, normals, change, message):
    detector(maps).fit(normals).save(tmp_path / "model")
    load_detector(tmp_path / "model")
    change(maps)
    with pytest.raises(InvalidModelError, match=message):
        load_detector(tmp_path / "model")


@pytest.mark.parametrize("key", ["fingerprint", "normals", "config", "seed"])
def test_a_damaged_folder(maps, tmp_path, normals, key):
    detector(maps).fit(normals).save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
    with pytest.raises(InvalidModelError, match=f"model is damaged .*{key}.*: copy the model folder again"):
        load_detector(tmp_path / "model")


def test_inspector_sets_a_threshold_and_measures(maps, tmp_path, normals, unknown):
    """Maps get a verdict, regions, and the figures of `evaluate`, also through a saved inspector."""
    inspector = Inspector.fit(detector(maps), normals)
    assert inspector.threshold >= max(known(sample).max() for sample in normals)
    verdicts = [result.is_anomalous for result in inspector.inspect(unknown)]
    assert verdicts == [False, True, False, True]
    inspector.save(tmp_path / "model")
    metrics = evaluate(Inspector.load(tmp_path / "model"), unknown)
    assert metrics["image_auroc"] == 1.0 and metrics["pixel_auroc"] > 0.9 and metrics["n_images"] == 4
    assert metrics["operating_point"]["threshold"] == inspector.threshold
