"""A corrected discovery saved as a data set that reads back, and as a model that knows the corrected kinds."""

from __future__ import annotations

import builtins
import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from discovery_helpers import drawn, sub_image, tiny_transformer
from PIL import Image
from review_helpers import CLASSES, IMAGES, LEFT, RIGHT, SHAPE, mask_of, pixels, write_embeddings, write_findings

from anomalyhub.data import list_products, load_dataset
from anomalyhub.discovery import create_discoverer, load_discoverer
from anomalyhub.errors import InvalidArgumentError, InvalidImageError, InvalidModelError, OutputError
from anomalyhub.hub.front_matter import read_front_matter
from anomalyhub.report.findings import Findings, FoundImage, FoundRegion
from anomalyhub.review import Board, class_counts, save_labelled, save_model
from anomalyhub.types import UNKNOWN, SubImage


@pytest.fixture
def board(tmp_path) -> Board:
    return Board.open(write_findings(tmp_path), tmp_path / "board.json")


@pytest.fixture
def corrected(board) -> Board:
    board.rename("kind_1", "Normal")
    board.rename("kind_2", "deep scratch")
    board.mark([7], "unsure")  # all that b/5.png has
    board.mark([5], "normal")  # the right half of b/3.png
    return board


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def entries(folder: Path) -> dict[str, dict]:
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["source"]: entry for entry in map(json.loads, lines)}


def test_counts(corrected):
    assert class_counts(corrected) == [
        ("good", 2, 4),
        ("deep scratch", 2, 2),
        ("kind_3", 1, 1),
        ("unknown", 1, 1),
        (None, 1, 1),
    ]


def test_the_saved_data_set_reads_back(corrected, tmp_path):
    out = tmp_path / "saved"
    assert save_labelled(corrected, out) == class_counts(corrected)
    assert files(out) == [
        "README.md",
        "metadata.jsonl",
        "part/ground_truth/deep scratch/b_2_mask.png",
        "part/ground_truth/deep scratch/b_3_mask.png",
        "part/ground_truth/kind_3/b_4_mask.png",
        "part/ground_truth/unknown/b_6_mask.png",
        "part/test/deep scratch/b_2.jpg",
        "part/test/deep scratch/b_3.png",
        "part/test/good/a_1.png",
        "part/test/good/b_1.png",
        "part/test/kind_3/b_4.png",
        "part/test/unknown/b_6.png",
    ]
    for path, product in ((out, None), (out, "part"), (out / "part", None)):
        dataset = load_dataset(path, product)
        assert dataset.layout == "mvtec" and dataset.product == "part" and not len(dataset.train)
        assert dataset.classes == ("good", "deep scratch", "kind_3", "unknown")
    expected = {
        "test/good/a_1.png": (0, "good", ()),
        "test/good/b_1.png": (1, "good", ()),
        "test/deep scratch/b_2.jpg": (2, "deep scratch", (LEFT,)),  # its right region is of the normal kind
        "test/deep scratch/b_3.png": (3, "deep scratch", (LEFT,)),
        "test/kind_3/b_4.png": (4, "kind_3", (RIGHT,)),
        "test/unknown/b_6.png": (6, "unknown", (RIGHT,)),
    }
    assert set(dataset.test.ids) == set(expected)
    for sample in dataset.labelled_test():
        index, label, boxes = expected[sample.id]
        assert sample.label == label and np.array_equal(sample.mask, mask_of(*boxes))
        assert sample.path.read_bytes() == Path(corrected.findings.images[index].path).read_bytes()
        if sample.id.endswith("png"):
            assert np.array_equal(sample.image, pixels(index))


def test_metadata(corrected, tmp_path):
    save_labelled(corrected, tmp_path / "saved")
    saved = entries(tmp_path / "saved")
    assert list(saved) == [name for name, _ in IMAGES if name != "b/5.png"]
    assert saved["a/1.png"] == {
        "file_name": "part/test/good/a_1.png",
        "mask_file_name": None,
        "label": "good",
        "corrected": False,
        "source": "a/1.png",
        "regions": [],
    }
    left, right = ({"box": [2, 2, 22, 22], "area": 96}, {"box": [67, 36, 87, 56], "area": 168})
    assert saved["b/3.png"] == {
        "file_name": "part/test/deep scratch/b_3.png",
        "mask_file_name": "part/ground_truth/deep scratch/b_3_mask.png",
        "label": "deep scratch",
        "corrected": True,
        "source": "b/3.png",
        "regions": [
            {**left, "label": "deep scratch", "probability": 0.7},
            {**right, "label": "good", "probability": 0.7},
        ],
    }
    assert [name for name, entry in saved.items() if entry["corrected"]] == ["b/3.png"]


def test_readme(corrected, tmp_path):
    save_labelled(corrected, tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert "\n# part\\: kinds of defect\n" in text and "\n6 images in kinds that" in text
    card = read_front_matter(text)
    assert card["configs"][0]["data_files"][0]["path"] == ["metadata.jsonl", "*/test/**", "*/ground_truth/**"]
    assert "product:part" in card["tags"]
    assert "1 of them have regions that a person put into another kind, and 1 more images are left out" in text
    assert "| deep scratch | 2 | 2 |" in text and "| None" not in text


@pytest.mark.parametrize(
    ("unsure", "boxes", "regions"),
    [([2], (RIGHT,), ["kind_1"]), ([3], (LEFT,), ["kind_2"]), ([], (LEFT, RIGHT), ["kind_2", "kind_1"])],
)
def test_unsure_regions_are_left_out_of_mask_and_metadata(board, tmp_path, unsure, boxes, regions):
    stored = json.loads((board.result / "findings.json").read_text())
    for row in (2, 3):
        stored["regions"][row]["weight"] = 0.8 if [row] != unsure else 0.2
    (board.result / "findings.json").write_text(json.dumps(stored))
    board = Board.open(board.result, board.file)
    if unsure:
        board.mark(unsure, "unsure")
    save_labelled(board, tmp_path / "saved")
    entry = entries(tmp_path / "saved")["b/2.jpg"]
    assert [region["label"] for region in entry["regions"]] == regions
    with Image.open(tmp_path / "saved" / entry["mask_file_name"]) as mask:
        assert mask.mode == "L" and np.array_equal(np.asarray(mask), mask_of(*boxes) * 255)


def test_parts_of_a_mask_go_with_the_nearest_region(board, tmp_path):
    """Where the boxes overlap, and a part lies in both."""
    one, other, loose = (30, 20, 36, 26), (38, 20, 44, 26), (90, 2, 94, 5)
    Image.fromarray(mask_of(one, other, loose).astype(np.uint8) * 255).save(board.result / "masks" / "3.png")
    stored = json.loads((board.result / "findings.json").read_text())
    stored["regions"][4]["box"], stored["regions"][5]["box"] = (23, 13, 45, 35), (30, 13, 52, 35)
    (board.result / "findings.json").write_text(json.dumps(stored))
    board = Board.open(board.result, board.file)
    board.mark([4], "normal")
    save_labelled(board, tmp_path / "saved")
    sample = {ref.path.name: ref for ref in load_dataset(tmp_path / "saved").test.refs}["b_3.png"].load()
    assert sample.label == "kind_3" and np.array_equal(sample.mask, mask_of(other, loose))


def test_a_defect_without_a_mask(board, tmp_path):
    board.rename("kind_1", "stain")  # whole images in which nothing was found
    save_labelled(board, tmp_path / "saved")
    assert entries(tmp_path / "saved")["a/1.png"]["mask_file_name"] is None
    (stain, *_) = [ref for ref in load_dataset(tmp_path / "saved").test.refs if ref.label == "stain"]
    assert stain.load().mask is None


@pytest.mark.parametrize(
    ("ids", "names"),  # of files with the suffixes .png, .png and .jpg
    [
        (("a/1.png", "b/1.png", "b/2.jpg"), ["a_1.png", "b_1.png", "b_2.jpg"]),
        (("x/y/a/1.png", "x/y/b/1.png", "x/y/b/2.jpg"), ["a_1.png", "b_1.png", "b_2.jpg"]),
        (("1.png", "2.png", "1.jpg"), ["1.png", "2.png", "1-2.jpg"]),
        (("1.png", "1_mask.png", "1_MASK.jpg"), ["1.png", "1_mask_image.png", "1_MASK_image-2.jpg"]),
        (("a_1.png", "a/1.png", "A/1.jpg"), ["a_1.png", "a_1-2.png", "A_1-3.jpg"]),
        (("/../a.png", "C:\\x\\b.png", ".png"), ["a.png", "C__x_b.png", "png.jpg"]),
        (("é" * 150 + "1.png", "{}/{0}.png", "%s.png"), ["é" * 99 + "1.png", "{}_{0}.png", "%s.jpg"]),
        (("", "/", "con.png"), ["image.png", "image-2.png", "_con.jpg"]),
    ],
)
def test_names_stay_apart(board, tmp_path, ids, names):
    """All in one folder, whatever the ids are."""
    found = board.findings
    images = [replace(image, id=name) for image, name in zip(found.images, ids, strict=False)]
    Findings("part", found.classes, tuple(images), found.regions[:4]).write(board.result)
    board = Board.open(board.result, board.file)
    board.mark(range(4), "normal")
    save_labelled(board, tmp_path / "saved")
    assert [Path(entries(tmp_path / "saved")[name]["file_name"]).name for name in ids] == names
    assert sorted(ref.path.name for ref in load_dataset(tmp_path / "saved").test.refs) == sorted(names)


@pytest.mark.parametrize(
    ("product", "folder"),
    [
        ("part", "part"),
        ("/data/metal nut/", "metal nut"),
        ("good", "good_product"),
        ("Test", "Test_product"),
        ("", "product"),
        ("n" * 61, "product"),
        ("a:b", "a_b"),
    ],
)
def test_any_product_reads_back(tmp_path, product, folder):
    board = Board.open(write_findings(tmp_path, product), tmp_path / "board.json")
    save_labelled(board, tmp_path / "saved")
    assert list_products(tmp_path / "saved") == (folder,)
    assert len(load_dataset(tmp_path / "saved").test) == 7


def test_a_defect_among_normal_regions_is_saved_as_one(board, tmp_path):
    """Though they weigh more; its mask is its own alone."""
    board.mark([2], "normal")  # 0.7 of b/2.jpg
    save_labelled(board, tmp_path / "saved")
    entry = entries(tmp_path / "saved")["b/2.jpg"]
    assert entry["label"] == "kind_1" and [one["label"] for one in entry["regions"]] == ["good", "kind_1"]
    with Image.open(tmp_path / "saved" / entry["mask_file_name"]) as mask:
        assert np.array_equal(np.asarray(mask), mask_of(RIGHT) * 255)


def test_a_vanished_image_is_named(board, tmp_path):
    Path(board.findings.images[4].path).unlink()
    with pytest.raises(InvalidImageError, match=r"b/4.png is not there any more \(No such file or directory\): put it"):
        save_labelled(board, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    assert not list(tmp_path.glob(".anomalyhub*"))
    board.mark([6], "unsure")  # what is not saved is not missed
    save_labelled(board, tmp_path / "saved")


def test_a_vanished_mask_is_named(board, tmp_path):
    (board.result / "masks" / "4.png").unlink()
    with pytest.raises(InvalidImageError, match="masks/4.png does not exist"):
        save_labelled(board, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_full_disk_leaves_nothing(board, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OutputError, match="saved: No space left on device; free some space"):
        save_labelled(board, tmp_path / "saved")
    assert not (tmp_path / "saved").exists() and not list(tmp_path.glob(".anomalyhub*"))


def test_what_is_there_is_not_overwritten(board, tmp_path):
    save_labelled(board, tmp_path / "saved")
    with pytest.raises(OutputError, match="is not empty"):
        save_labelled(board, tmp_path / "saved")
    with pytest.raises(OutputError, match="is not empty|which this run reads"):
        save_labelled(board, tmp_path)


def test_nothing_but_unsure_images(board, tmp_path):
    board.mark(range(9), "unsure")
    with pytest.raises(InvalidArgumentError, match="every image is unsure, so there is nothing to save"):
        save_labelled(board, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# The model.


@pytest.fixture(scope="module")
def discovery(tmp_path_factory) -> Path:
    """A result with a model fitted on 12 crops, of which 9 are on the board, and a crop of a kind that it never saw."""
    result = tmp_path_factory.mktemp("job") / "result"
    model = create_discoverer("clustering", tiny_transformer(), settings={"embed_batch": 6}).fit(drawn(), n_novel=3)
    model.save(result / "model")
    (result / "model" / "binarizer.json").write_text('{"method": "mebin"}')
    kinds = [*(model.classes_[label] for label in model.labels_[:9]), UNKNOWN]
    crops = [*drawn()[:9], RUST[0]]
    write_found(result, crops, kinds, [*range(9), None], np.concatenate([model.embeddings_[:9], model.embed(RUST[:1])]))
    return result


RUST = [sub_image("rust", seed) for seed in range(3)]


def write_found(result: Path, crops: list[SubImage], kinds: list[str], fitted: list, embeddings: np.ndarray) -> None:
    """Findings of one crop per image; `fitted` are rows of the fit or None."""
    images, regions = [], []
    for row, (crop, kind, place) in enumerate(zip(crops, kinds, fitted, strict=True)):
        images.append(FoundImage(f"{row}.png", f"/{row}.png", SHAPE, None, kind, 0.9))
        area, score, picture = crop.area_px, crop.score, f"crops/{row}.jpg"
        regions.append(FoundRegion(row, 0, (0, 0, 9, 9), area, score, 1.0, kind, 0.9, picture, place))
    Findings("part", CLASSES, tuple(images), tuple(regions)).write(result)
    write_embeddings(result, embeddings)


def applied_to(crops: list[SubImage], earlier: Path, folder: Path) -> Board:
    """The board of a discovery that has assigned crops to the kinds of an earlier one."""
    model = load_discoverer(earlier / "model", tiny_transformer())
    shutil.copytree(earlier / "model", folder / "applied" / "model")
    found = model.predict(crops, range(len(crops)))
    best = found.regions.probs.argmax(axis=1)
    kinds = [UNKNOWN if new else found.regions.classes[row] for row, new in zip(best, found.unknown, strict=True)]
    write_found(folder / "applied", crops, kinds, [None] * len(crops), model.embed(crops))
    return Board.open(folder / "applied", folder / "applied.json")


@pytest.fixture
def fitted(discovery, tmp_path) -> Board:
    return Board.open(discovery, tmp_path / "board.json")


def test_an_uncorrected_model_says_what_it_said(fitted, tmp_path):
    assert save_model(fitted, tmp_path / "model", tiny_transformer()) == CLASSES
    assert files(tmp_path / "model") == ["binarizer.json", "config.json", "state.safetensors"]
    before = load_discoverer(fitted.result / "model", tiny_transformer())
    after = load_discoverer(tmp_path / "model", tiny_transformer())
    new = drawn(3, start=40)
    np.testing.assert_allclose(after.predict_proba(new).probs, before.predict_proba(new).probs, atol=1e-5)


def test_the_corrected_kinds_are_those_of_the_saved_model(fitted, tmp_path):
    """Rows 0 to 3 of the fit are good, 4 to 7 burn, 8 to 11 paint; 9 to 11 are not on the board."""
    kind = {name: fitted.column_of(row) for name, row in (("good", 0), ("burn", 4), ("paint", 8))}
    assert len(set(kind.values())) == 3
    fitted.rename(kind["good"], "ok")
    fitted.rename(kind["burn"], "burn")
    fitted.rename(kind["paint"], "paint")
    fitted.move_to_new([8], "drip")
    fitted.mark([4], "unsure")
    fitted.move([9], "drip")  # it was not in the fit
    assert save_model(fitted, tmp_path / "model", tiny_transformer()) == ("good", "burn", "drip", "paint")
    model = load_discoverer(tmp_path / "model", tiny_transformer())
    assert [model.classes_[label] for label in model.labels_] == [
        *["good"] * 4,
        *["burn"] * 3,
        "drip",
        *["paint"] * 3,
        "drip",
    ]
    assert model.areas_[-1] == RUST[0].area_px and model.scores_[-1] == RUST[0].score
    found = model.predict_proba(drawn(3, start=40))
    names = [found.classes[row] for row in found.probs.argmax(axis=1)]
    assert names[:6] == ["good"] * 3 + ["burn"] * 3 and set(names[6:]) <= {"paint", "drip"}


def test_a_crop_that_was_not_in_the_fit_becomes_a_kind(fitted, tmp_path):
    old = load_discoverer(fitted.result / "model", tiny_transformer())
    fitted.rename(UNKNOWN, "rust")  # of one member
    assert save_model(fitted, tmp_path / "model", tiny_transformer()) == (*CLASSES, "rust")
    model = load_discoverer(tmp_path / "model", tiny_transformer())
    assert len(model.labels_) == 13 and np.array_equal(model.embeddings_[12], fitted.embeddings()[9])
    assert (model.predict_proba(RUST).probs.argmax(axis=1) == 3).all()
    assert model.novelty(RUST[:1]) < 0.01 < 1 < old.novelty(RUST[:1])


def test_an_applied_discovery_teaches_its_model(discovery, tmp_path):
    """None of its crops was in the fit, which goes on counting."""
    board = applied_to([*drawn(2, start=40), *RUST], discovery, tmp_path)
    good, burn, paint = (board.column_of(row) for row in (0, 2, 4))
    assert {good, burn, paint} == set(CLASSES)
    board.rename(good, "normal")
    board.rename(burn, "burn")
    board.rename(paint, "paint")
    board.move_to_new([6, 7], "rust")
    board.mark([8], "unsure")
    board.mark([4], "normal")
    assert save_model(board, tmp_path / "model", tiny_transformer()) == ("good", "burn", "paint", "rust")
    model = load_discoverer(tmp_path / "model", tiny_transformer())
    labels = [model.classes_[label] for label in model.labels_]
    assert labels[:12] == ["good"] * 4 + ["burn"] * 4 + ["paint"] * 4
    assert labels[12:] == ["good", "good", "burn", "burn", "good", "paint", "rust", "rust"]
    assert np.array_equal(model.embeddings_[12:], board.embeddings()[:8])
    found = model.predict_proba([*drawn(1, start=60), RUST[2]])
    assert [found.classes[row] for row in found.probs.argmax(axis=1)] == ["good", "burn", "paint", "rust"]
    assert (tmp_path / "model" / "binarizer.json").exists()


def test_crops_of_the_fit_that_come_again_count_once(discovery, tmp_path):
    """Or what is known would shrink to them, and a correction would only be half of one."""
    board = applied_to(drawn(), discovery, tmp_path)
    board.move_to_new([8, 9], "drip")
    board.mark([11], "unsure")
    save_model(board, tmp_path / "model", tiny_transformer())
    before = load_discoverer(discovery / "model", tiny_transformer())
    model = load_discoverer(tmp_path / "model", tiny_transformer())
    assert len(model.labels_) == 11
    assert [model.classes_[label] for label in model.labels_[8:]] == ["drip", "drip", board.column_of(10)]
    new = drawn(3, start=40)[:6]  # good and burn, which nobody has touched
    np.testing.assert_allclose(model.novelty(new), before.novelty(new), rtol=1e-3)


def test_unknown_is_no_kind(fitted, tmp_path):
    fitted.move(range(4), UNKNOWN)
    assert UNKNOWN not in save_model(fitted, tmp_path / "model", tiny_transformer())
    assert load_discoverer(tmp_path / "model", tiny_transformer()).labels_.shape == (8,)


def test_a_defect_that_only_a_person_saw_teaches_nothing(fitted, tmp_path):
    """Its mask is empty, like those of normal images."""
    found = fitted.findings
    regions = [replace(one, area=0 if row in (0, 1, 2, 3, 9) else one.area) for row, one in enumerate(found.regions)]
    shutil.copytree(fitted.result, tmp_path / "result")
    Findings("part", CLASSES, found.images, tuple(regions)).write(tmp_path / "result")
    board = Board.open(tmp_path / "result", tmp_path / "board.json")
    board.mark([0], "normal")
    board.move([1], board.column_of(4))
    board.move([9], board.column_of(4))
    save_model(board, tmp_path / "model", tiny_transformer())
    model = load_discoverer(tmp_path / "model", tiny_transformer())
    assert len(model.labels_) == 11 and model.classes_[model.labels_[0]] == "good"


def test_models_that_cannot_be_saved(fitted, board, tmp_path):
    with pytest.raises(InvalidModelError, match="model folder .* does not exist"):
        save_model(board, tmp_path / "model", tiny_transformer())
    shutil.copytree(fitted.result / "model", board.result / "model")
    with pytest.raises(InvalidModelError, match=r"embeddings.npy cannot be read \(.*No such file"):
        save_model(board, tmp_path / "model", tiny_transformer())
    write_embeddings(board.result, fitted.embeddings()[:8])
    with pytest.raises(InvalidModelError, match=r"embeddings.npy is not of these 9 regions \(shape \(8, 96\)\)"):
        save_model(board, tmp_path / "model", tiny_transformer())
    write_embeddings(board.result, np.zeros((9, 5)))
    with pytest.raises(InvalidModelError, match="is not the model of these findings"):
        save_model(board, tmp_path / "model", tiny_transformer())
    stored = json.loads((board.result / "findings.json").read_text())
    write_embeddings(board.result, fitted.embeddings()[:9])
    for row in (12, -1):
        stored["regions"][0]["fitted"] = row
        (board.result / "findings.json").write_text(json.dumps(stored))
        with pytest.raises(InvalidModelError, match="is not the model of these findings"):
            save_model(Board.open(board.result, board.file), tmp_path / "model", tiny_transformer())
    for column in fitted.columns():
        fitted.merge([column.name], UNKNOWN)
    with pytest.raises(InvalidArgumentError, match="no sub-image of the fit has a class"):
        save_model(fitted, tmp_path / "model", tiny_transformer())
    assert not (tmp_path / "model").exists()


def test_a_model_on_a_full_disk_leaves_nothing(fitted, tmp_path, monkeypatch):
    plain = builtins.open

    def full(file, mode="r", *arguments, **named):
        if "binarizer" in str(file) and "w" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(file, mode, *arguments, **named)

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        save_model(fitted, tmp_path / "model", tiny_transformer())
    assert not (tmp_path / "model").exists() and not list(tmp_path.glob(".anomalyhub*"))
