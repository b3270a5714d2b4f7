"""Data sets as objects: folders that are refused, and lazy splits."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import write_image, write_mask

from anomalyhub.data import Dataset, SampleRef, Split, list_products, load_dataset
from anomalyhub.errors import (
    AnomalyHubError,
    InvalidArgumentError,
    InvalidDatasetError,
    InvalidImageError,
    UnknownNameError,
)

# --- bad folders ---


def emptied(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def visa_with_table(root: Path, text: str) -> Path:
    product = trees.visa(root)
    (root / "split_csv/1cls.csv").write_text(text, encoding="utf-8")
    return product


def mtd_with_list(root: Path, text: str) -> Path:
    product = trees.mtd(root)
    (product / "mtd_train_filenames.txt").write_text(text, encoding="utf-8")
    return product


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def two_products(root: Path) -> Path:
    for name in ("screw", "bottle"):
        write_image(root / name / "train/good/0.png")
    return root


VISA_HEAD = "object,split,label,image,mask\n"
BAD_FOLDERS = [
    # case, maker, product, exception, fragment of the message
    ("missing folder", lambda p: p / "no", None, InvalidDatasetError, "no does not exist"),
    ("an empty name", lambda p: "a\0b", None, InvalidDatasetError, "check the path"),
    ("a name too long", lambda p: p / ("x" * 300), None, InvalidDatasetError, "cannot be opened"),
    ("an unknown home", lambda p: "~nobody_of_that_name/x", None, InvalidDatasetError, "cannot be opened"),
    ("no name on the Hub", lambda p: "hf:data", None, InvalidArgumentError, "'data' is not a repository: write OWNER/"),
    ("an empty folder", lambda p: emptied(p / "x"), None, InvalidDatasetError, "x holds no images"),
    ("empty folders", lambda p: emptied(p / "x/y/z").parents[1], None, InvalidDatasetError, "x holds no images"),
    ("only masks", lambda p: write_mask(p / "ground_truth/cut/0.png").parents[2], None, InvalidDatasetError,
     "holds no images"),
    ("a text file", lambda p: written(p / "x.txt", b"1"), None, InvalidDatasetError, "x.txt is a file, neither"),
    ("a zip", lambda p: written(p / "x.zip", b"PK"), None, InvalidDatasetError,
     "x.zip is a file, neither a folder nor an image: unpack it and give the folder"),
    ("one image and a product", lambda p: write_image(p / "x.png"), "y", InvalidDatasetError, "holds no product 'y'"),
    ("which product", two_products, None, InvalidDatasetError, "holds 2 products: name one of bottle, screw"),
    ("a misspelt product", two_products, "botle", UnknownNameError,
     "did you mean 'bottle'? choose one of bottle, screw"),
    ("a product that climbs out", two_products, "../x", UnknownNameError, "choose one of bottle, screw"),
    ("an unknown class", trees.unnamed_classes, "rusty", UnknownNameError, "did you mean 'rust'?"),
    ("a product of a product", trees.mvtec, "train", InvalidDatasetError, "part is itself one product (mvtec layout)"),
    ("a product of a flat folder", trees.flat, "a", InvalidDatasetError, "part is itself one product (flat layout)"),
    ("the folder above the root", lambda p: two_products(p / "sets").parent, None, InvalidDatasetError,
     "sets holds the products bottle, screw: give that folder"),
    ("VisA's table without columns", lambda p: visa_with_table(p, "a,b\n1,2\n"), None, InvalidDatasetError,
     "1cls.csv is not VisA's split table (KeyError('object'))"),
    ("VisA's table, a cut row", lambda p: visa_with_table(p, VISA_HEAD + "part,train,normal\n"), None,
     InvalidDatasetError, "is not VisA's split table"),
    ("VisA's table, an unknown split", lambda p: visa_with_table(p, VISA_HEAD + "part,val,normal,part/x.JPG,\n"), None,
     InvalidDatasetError, "KeyError('val')"),
    ("VisA's table climbs out", lambda p: visa_with_table(p, VISA_HEAD + "part,test,normal,part/../../x.JPG,\n"), None,
     InvalidDatasetError, "leaves the folder"),
    ("VisA's table, another product", lambda p: visa_with_table(p, VISA_HEAD + "part,test,normal,other/x.JPG,\n"), None,
     InvalidDatasetError, "is not VisA's split table"),
    ("VisA's table is no text", lambda p: (visa_with_table(p, ""), written(p / "split_csv/1cls.csv", b"\xff\xfe\0"))[0],
     None, InvalidDatasetError, "is not VisA's split table"),
    ("VisA's table, missing images", lambda p: visa_with_table(p, VISA_HEAD + "part,test,normal,part/x.JPG,\n"), None,
     InvalidDatasetError, "names 1 images that are not there, such as x.JPG"),
    ("MTD's list, missing images", lambda p: mtd_with_list(p, "a.jpg\nz.jpg\n"), None, InvalidDatasetError,
     "mtd_train_filenames.txt names 1 images that are not there, such as z.jpg"),
    ("MTD without images", lambda p: emptied(p / "mtd/MT_Free/Imgs").parents[1], None, InvalidDatasetError,
     "looks like the mtd layout but holds no images"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "product", "exception", "fragment"), [row[1:] for row in BAD_FOLDERS], ids=[row[0] for row in BAD_FOLDERS]
)
def test_bad_folders_name_the_path_the_reason_and_the_remedy(tmp_path, make, product, exception, fragment):
    with pytest.raises(AnomalyHubError) as caught:
        load_dataset(make(tmp_path), product)
    assert caught.type is exception
    assert fragment in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_listed_is_said(tmp_path, monkeypatch):
    product = trees.mvtec(tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InvalidDatasetError, match="part cannot be listed, Permission denied: .* read access"):
        load_dataset(product)


def test_listing_the_products_of_nothing_is_an_error(tmp_path):
    with pytest.raises(InvalidDatasetError, match="does not exist"):
        list_products(tmp_path / "no")


# --- splits ---


@pytest.fixture
def split(tmp_path) -> Split:
    for number in range(5):
        write_image(tmp_path / f"{number}.png", value=40 * number)
    return Split(SampleRef(f"{n}.png", tmp_path / f"{n}.png", "good" if n else None) for n in range(5))


def test_a_split_indexes_like_a_sequence(split):
    assert len(split) == 5 and split.labels == (None, "good", "good", "good", "good")
    assert split[1].id == "1.png" and split[-1].id == "4.png" and split[np.int64(2)].image[0, 0, 0] == 80
    assert isinstance(split[1:3], Split) and split[1:3].ids == ("1.png", "2.png")
    assert split[::-2].ids == ("4.png", "2.png", "0.png")
    assert split.select(np.array([3, 0])).ids == ("3.png", "0.png")
    assert split.without({"1.png", "4.png"}).ids == ("0.png", "2.png", "3.png")
    assert repr(split) == "Split(5 images: 4 good, 1 unlabelled)"
    assert [sample.image[0, 0, 0] for sample in split] == [0, 40, 80, 120, 160]
    assert len(Split()) == 0 and not Split()
    with pytest.raises(IndexError):
        split[5]
    with pytest.raises(TypeError):
        split[1.0]


def test_a_split_decodes_one_sample_at_a_time_and_keeps_none(split, monkeypatch):
    loaded = []
    load = SampleRef.load
    monkeypatch.setattr(SampleRef, "load", lambda ref: loaded.append(ref.id) or load(ref))
    split.select([1, 2])[:1].without([]), split.labels, split.ids, repr(split)
    assert loaded == []
    samples = iter(split)
    first = weakref.ref(next(samples))
    assert loaded == ["0.png"]
    gc.collect()
    assert first() is None
    assert split[1] is not split[1]


def test_unreadable_samples_are_named_and_can_be_left_out(split, tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "3.png").unlink()
    bad_mask = SampleRef("m", tmp_path / "2.png", "cut", (write_mask(tmp_path / "m.png", block=np.ones((9, 6))),))
    checked = Split([*split.refs, bad_mask])
    failures = dict(checked.unreadable())
    assert list(failures) == ["1.png", "3.png", "m"]
    assert "is empty" in failures["1.png"] and "does not exist" in failures["3.png"]
    assert "another aspect ratio" in failures["m"]
    assert checked.without(failures).unreadable() == []
    with pytest.raises(InvalidImageError, match="1.png is empty"):
        split[1]


def test_classes_start_with_good(tmp_path):
    refs = [SampleRef(str(n), tmp_path, label) for n, label in enumerate(["pit", "Dent", "good", None, "pit"])]
    assert Dataset(tmp_path, "x", "classes", Split(), Split(refs)).classes == ("good", "Dent", "pit")
    assert Dataset(tmp_path, "x", "classes", Split(), Split(refs[:1])).classes == ("pit",)
