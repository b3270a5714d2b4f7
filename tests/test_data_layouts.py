"""Every layout is recognised and read from tiny trees, with the traps that real folders hold."""

from __future__ import annotations

import os
import time
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import BLOCK, SHAPE, write_image, write_mask
from PIL import Image

from anomalyhub.data import list_products, load_dataset
from anomalyhub.data.folders import images_below

NO_MASK, NONE = np.zeros(SHAPE, bool), None

# tree: layout, training ids, {test id: (label, mask)}
LAYOUTS = {
    trees.mvtec: (
        "mvtec",
        ["train/good/000.png", "train/good/001.png"],
        {
            "test/cut/000.png": ("cut", BLOCK),
            "test/cut/001.png": ("cut", BLOCK),
            "test/good/000.png": ("good", NO_MASK),
        },
    ),
    trees.visa_1cls: (
        "mvtec",
        ["train/good/0000.JPG"],
        {"test/bad/000.JPG": ("bad", BLOCK), "test/good/0001.JPG": ("good", NO_MASK)},
    ),
    trees.btad: (
        "mvtec",
        ["train/ok/0.bmp"],
        {"test/ko/2.bmp": ("ko", BLOCK), "test/ok/1.bmp": ("good", NO_MASK)},
    ),
    trees.loco: (
        "loco",
        ["train/good/000.png"],
        {
            "test/good/000.png": ("good", NO_MASK),
            "test/logical_anomalies/000.png": ("logical_anomalies", BLOCK | np.roll(BLOCK, 2, axis=0)),
            "test/structural_anomalies/000.png": ("structural_anomalies", BLOCK),
        },
    ),
    trees.mvtec3d: (
        "mvtec3d",
        ["train/good/rgb/000.png"],
        {"test/good/rgb/000.png": ("good", NO_MASK), "test/hole/rgb/000.png": ("hole", BLOCK)},
    ),
    trees.aebad: (
        "aebad",
        ["train/good/same/0.png", "train/good/view/0.png"],
        {
            "test/good/same/0.png": ("good", NO_MASK),
            "test/good/view/0.png": ("good", NO_MASK),
            "test/groove/same/0.png": ("groove", BLOCK),
            "test/groove/view/0.png": ("groove", np.roll(BLOCK, 1, axis=0)),
        },
    ),
    trees.visa: (
        "visa",
        ["Data/Images/Normal/001.JPG"],
        {"Data/Images/Anomaly/000.JPG": ("anomaly", BLOCK), "Data/Images/Normal/000.JPG": ("good", NO_MASK)},
    ),
    trees.mtd: (
        "mtd",
        ["MT_Free/Imgs/a.jpg", "MT_Free/Imgs/c.jpg"],
        {"MT_Crack/Imgs/a.jpg": ("crack", BLOCK), "MT_Free/Imgs/b.jpg": ("good", NO_MASK)},
    ),
    trees.unnamed_classes: (
        "classes",
        [],
        {"dent/a.png": ("dent", NONE), "rust/a.png": ("rust", NONE), "rust/b.png": ("rust", NONE)},
    ),
    trees.flat: (
        "flat",
        ["a.jpg", "b.png", "c.bmp", "d.tif"],
        dict.fromkeys(["a.jpg", "b.png", "c.bmp", "d.tif"], (None, NONE)),
    ),
}


@pytest.mark.parametrize("tree", LAYOUTS, ids=lambda tree: tree.__name__)
def test_layout(tmp_path, tree):
    product = tree(tmp_path)
    layout, train, test = LAYOUTS[tree]
    dataset = load_dataset(product)
    assert (dataset.layout, dataset.product, dataset.root) == (layout, "part", product)
    assert list(dataset.train.ids) == train
    assert list(dataset.test.ids) == sorted(test)
    for sample in dataset.test:
        label, mask = test[sample.id]
        assert sample.label == label and sample.path == product / sample.id
        assert sample.image.shape == (*SHAPE, 3)
        np.testing.assert_array_equal(sample.mask, mask)
    assert {sample.label for sample in dataset.train} <= ({None} if layout == "flat" else {"good"})


@pytest.mark.parametrize("tree", [tree for tree in LAYOUTS if tree not in (trees.flat, trees.unnamed_classes)])
def test_a_product_of_a_root_equals_the_product_by_itself(tmp_path, tree):
    product = tree(tmp_path)
    write_image(tmp_path / "notes/whiteboard.jpg")  # whatever lies beside is ignored
    write_image(tmp_path / "figure.png")
    assert list_products(tmp_path) == ("part",) and list_products(product) == ()
    alone = load_dataset(product)
    for dataset in (load_dataset(tmp_path, "part"), load_dataset(tmp_path), load_dataset(product, "part")):
        assert dataset.train.refs == alone.train.refs and dataset.test.refs == alone.test.refs


def test_class_folders_train_on_four_fifths_of_the_normal_images_drawn_by_seed(tmp_path):
    product = trees.classes(tmp_path)
    draws = {load_dataset(product, seed=seed).train.ids for seed in range(8)}
    assert len(draws) > 1 and all(len(ids) == 4 for ids in draws)
    dataset = load_dataset(product, seed=3)
    assert dataset.train.ids == load_dataset(product, seed=3).train.ids
    assert set(dataset.train.labels) == {"good"} and dataset.classes == ("good", "dent", "rust")
    assert dataset.test.ids[-3:] == ("dent/a.png", "dent/deep/a.png", "rust/a.jpeg")
    everything = {*dataset.train.ids, *dataset.test.ids}
    assert len(everything) == len(dataset.train) + len(dataset.test) == 8


def test_class_folders_use_masks_that_stand_beside_them(tmp_path):
    product = trees.classes(tmp_path)
    write_mask(product / "ground_truth/dent/deep/a_mask.png")
    samples = {sample.id: sample for sample in load_dataset(product).test}
    np.testing.assert_array_equal(samples["dent/deep/a.png"].mask, BLOCK)
    assert samples["dent/a.png"].mask is None and not any(name.startswith("ground_truth") for name in samples)


def test_images_beside_class_folders_have_no_label(tmp_path):
    write_image(trees.classes(tmp_path) / "new.png")
    dataset = load_dataset(tmp_path / "part")
    assert dict(zip(dataset.test.ids, dataset.test.labels, strict=True))["new.png"] is None
    assert dataset.classes == ("good", "dent", "rust")


@pytest.mark.parametrize("tree", [trees.mtd, trees.visa])
def test_without_its_split_file_the_normal_images_are_drawn(tmp_path, tree):
    dataset = load_dataset(tree(tmp_path, table=False))
    normals = 3 if tree is trees.mtd else 2
    assert set(dataset.train.labels) == {"good"} and len(dataset.train) == int(0.8 * normals)
    assert len(dataset.test) == normals - len(dataset.train) + 1
    defect = next(sample for sample in dataset.test if sample.label != "good")
    np.testing.assert_array_equal(defect.mask, BLOCK)


def test_one_image_file_is_a_flat_set_of_one(tmp_path):
    path = write_image(tmp_path / "only.png")
    dataset = load_dataset(path)
    assert (dataset.layout, dataset.product, dataset.test.ids) == ("flat", "only", ("only.png",))
    assert dataset.test[0].path == path and list_products(path) == ()


def test_a_folder_without_training_images_has_an_empty_train_split(tmp_path):
    write_image(tmp_path / "steel/test/patches/0.png")
    write_mask(tmp_path / "steel/ground_truth/patches/0_mask.png")
    dataset = load_dataset(tmp_path / "steel")
    assert (dataset.layout, len(dataset.train), dataset.classes) == ("mvtec", 0, ("patches",))
    assert list_products(tmp_path) == ("steel",)


def test_normal_images_of_a_test_folder_do_not_make_it_a_product(tmp_path):
    for name in ("test/good/0.png", "test/dent/0.png"):
        write_image(tmp_path / "part" / name)
    dataset = load_dataset(tmp_path / "part")
    assert (dataset.product, dataset.layout, len(dataset.train)) == ("part", "mvtec", 0)
    assert dataset.test.ids == ("test/dent/0.png", "test/good/0.png") and list_products(tmp_path / "part") == ()


def test_folders_inside_class_folders_do_not_make_them_products(tmp_path):
    for name in ("good/train/0.png", "good/test/1.png", "dent/test/2.png"):
        write_image(tmp_path / "part" / name)
    dataset = load_dataset(tmp_path / "part")
    assert (dataset.layout, dataset.classes) == ("classes", ("good", "dent")) and len(dataset.train) == 1
    assert list_products(tmp_path / "part") == ()
    (tmp_path / "part/good/test/1.png").unlink()
    assert load_dataset(tmp_path / "part").train.ids == ("good/train/0.png",)  # the only one trains


def test_defects_and_loose_images_under_train(tmp_path):
    """Only normal images train; images directly in train/ count as normal, directly in test/ as unknown."""
    for name in ("train/good/0.png", "train/dent/0.png", "train/1.png", "test/2.png"):
        write_image(tmp_path / "part" / name)
    dataset = load_dataset(tmp_path / "part")
    assert dataset.train.ids == ("train/1.png", "train/good/0.png") and set(dataset.train.labels) == {"good"}
    assert dataset.test.ids == ("test/2.png",) and dataset.test.labels == (None,)


# --- traps ---


def test_junk_is_never_read_as_an_image(tmp_path):
    product = trees.mvtec(tmp_path)
    before = load_dataset(product)
    for name in (".DS_Store", "._000.png", "Thumbs.db", "desktop.ini", "notes.txt", "000.png.tmp", "000"):
        for part in ("", "train/good", "test/cut", "test", "ground_truth/cut"):
            (product / part / name).write_bytes(b"junk")
    for name in ("test/__MACOSX", "test/good/@eaDir", "test/.cache", "train/good/.ipynb_checkpoints"):
        write_image(product / name / "0.png")
    (product / "test" / "empty").mkdir()
    after = load_dataset(product)
    assert after.train.refs == before.train.refs and after.test.refs == before.test.refs


def test_every_suffix_is_listed_in_any_case(tmp_path):
    names = [f"x.{suffix}" for suffix in "JPG jpeg JPEG jpe jfif PNG png tif TIFF bmp BMP webp pgm ppm".split()]
    for name in names:
        (tmp_path / name).write_bytes(b"never decoded while listing")
    assert load_dataset(tmp_path).test.ids == tuple(sorted(names))


def test_masks_are_found_without_their_usual_names(tmp_path):
    product = tmp_path / "part"
    write_image(product / "train/good/0.png")
    for name in ("a.JPG", "b.png", "c.png", "d.png", "e.x.png"):
        write_image(product / "test/cut" / name)
    shifted = np.roll(BLOCK, 1, axis=1)
    write_mask(product / "ground_truth/cut/a.bmp")  # no _mask, another suffix
    write_mask(product / "ground_truth/cut/b_mask.png")  # wins over b.png
    write_mask(product / "ground_truth/cut/b.png", block=shifted)
    write_mask(product / "ground_truth/cut/c_mask.png", block=BLOCK.repeat(2, 0).repeat(2, 1))  # twice the size
    write_mask(product / "ground_truth/cut/e.x_mask.TIF")  # a dot in the stem
    samples = {Path(sample.id).name: sample for sample in load_dataset(product).test}
    for name in ("a.JPG", "b.png", "c.png", "e.x.png"):
        np.testing.assert_array_equal(samples[name].mask, BLOCK, err_msg=name)
    assert samples["d.png"].mask is None


def test_one_name_in_two_classes_keeps_the_masks_apart(tmp_path):
    product = trees.mvtec(tmp_path)
    write_image(product / "test/hole/000.png")
    other = np.roll(BLOCK, 3, axis=0)
    write_mask(product / "ground_truth/hole/000_mask.png", block=other)
    samples = {sample.id: sample for sample in load_dataset(product).test}
    np.testing.assert_array_equal(samples["test/cut/000.png"].mask, BLOCK)
    np.testing.assert_array_equal(samples["test/hole/000.png"].mask, other)


def test_a_png_beside_a_jpg_is_a_mask_in_mtd_only(tmp_path):
    for name in ("x.jpg", "x.png"):
        write_image(tmp_path / "flat" / name)
    assert load_dataset(tmp_path / "flat").test.ids == ("x.jpg", "x.png")
    assert all(name.endswith(".jpg") for name in load_dataset(trees.mtd(tmp_path)).test.ids)


def test_loops_of_links_end_and_linked_folders_are_read(tmp_path):
    product = trees.classes(tmp_path)
    (product / "dent/loop").symlink_to(product)
    (product / "dent/self").symlink_to("self")
    (product / "OK/up").symlink_to("..")
    store = trees.unnamed_classes(tmp_path / "store")
    (product / "pit").symlink_to(store / "rust")
    dataset = load_dataset(product)
    ids = dataset.train.ids + dataset.test.ids
    assert "pit/a.png" in ids and len(ids) == len(set(ids)) == 10


def test_a_link_to_a_product_keeps_its_own_name(tmp_path):
    (tmp_path / "alias").symlink_to(trees.visa(tmp_path))
    assert load_dataset(tmp_path / "alias").product == "alias"


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    product = trees.mvtec(tmp_path)
    expected = load_dataset(product)
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Reversed)
    dataset = load_dataset(product)
    assert dataset.train.ids == expected.train.ids and dataset.test.ids == expected.test.ids


def test_listings_are_sorted_by_the_whole_path(tmp_path):
    names = ["a-.png", "a.png", "a/b.png", "a/b/0.png", "a0.png", "b.png"]
    for name in names:
        write_image(tmp_path / name)
    assert images_below(tmp_path) == sorted(names)


def test_relative_paths_name_the_product(tmp_path, monkeypatch):
    monkeypatch.chdir(trees.visa(tmp_path))
    assert load_dataset(".").product == "part" and load_dataset("../part/").layout == "visa"
    assert load_dataset(".").train.ids == ("Data/Images/Normal/001.JPG",)  # the table above was found


def test_listing_ten_thousand_files_is_quick_and_decodes_nothing(tmp_path):
    for part in ("train/good", "test/good", "test/cut", "ground_truth/cut"):
        (tmp_path / "part" / part).mkdir(parents=True)
        for number in range(2500):
            suffix = "_mask.png" if part.startswith("ground") else ".png"
            (tmp_path / "part" / part / f"{number:05d}{suffix}").touch()
    start = time.perf_counter()
    dataset = load_dataset(tmp_path, "part")
    assert time.perf_counter() - start < 3  # takes 0.1 s on an idle core
    assert (len(dataset.train), len(dataset.test)) == (2500, 5000)
    assert all(len(ref.masks) == (ref.label == "cut") for ref in dataset.test.refs)


# --- real data ---


def test_real_mtd(shared):
    dataset = load_dataset(shared / "data/mtd")
    assert dataset.layout == "mtd" and len(dataset.train) == 761
    counts = {label: dataset.test.labels.count(label) for label in dataset.classes}
    assert counts == {"good": 191, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103}
    assert not set(dataset.train.ids) & set(dataset.test.ids)
    for ref in dataset.test.refs[::12]:  # half of the maximum equals the published threshold of 128
        if ref.label != "good":
            np.testing.assert_array_equal(ref.load().mask, np.asarray(Image.open(ref.masks[0])) >= 128)


def test_real_products(shared):
    assert {"leather", "mtd", "steel"} <= set(list_products(shared / "data"))
    leather, steel = load_dataset(shared / "data", "leather"), load_dataset(shared / "data", "steel")
    assert (leather.layout, len(leather.train), len(leather.test)) == ("mvtec", 96, 123)
    assert leather.classes == ("good", "color", "cut", "fold", "glue", "poke")
    assert (steel.layout, len(steel.train), steel.classes) == ("mvtec", 0, ("inclusion", "patches", "scratches"))
    for dataset in (leather, steel):
        sample = dataset.test.select([0])[0]
        assert sample.label != "good" and sample.mask.any() and not sample.mask.all()
        assert all(len(ref.masks) == (ref.label != "good") for ref in dataset.test.refs)
