"""Exported products: pixels, masks, labels and ids exactly as they were, for AnomalyHub and for `datasets`."""

from __future__ import annotations

import os
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import SHAPE, write_image, write_mask
from PIL import Image, ImageOps

from anomalyhub.data import Dataset, SampleRef, Split, list_products, load_dataset
from anomalyhub.data.export import FORMATS, export
from anomalyhub.data.export_rows import folder_name, folder_names, unique
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidImageError
from anomalyhub.hub.contents import gather
from anomalyhub.hub.front_matter import read_front_matter
from anomalyhub.types import GOOD

EXIF_ORIENTATION = 0x0112


def noise(seed: int, channels: int = 3, high: int = 256, dtype=np.uint8) -> np.ndarray:
    shape = SHAPE if channels == 1 else (*SHAPE, channels)
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def saved(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


def kinds_of_files(root: Path) -> Path:
    """A product with every kind of file that is read, and names that collide or mean something elsewhere."""
    product = root / "part"
    bent = product / "test/bent"
    saved(product / "train/good/grey.png", Image.fromarray(noise(1, 1)))
    saved(product / "train/good/deep.png", Image.fromarray(noise(2, 1, 65536, np.uint16)))
    saved(product / "train/good/deep.tiff", Image.fromarray(noise(2, 1, 65536, np.uint16)))
    saved(product / "train/good/float.tif", Image.fromarray(np.random.default_rng(3).random(SHAPE, np.float32)))
    saved(product / "train/good/palette.png", Image.fromarray(noise(4)).quantize(8))
    saved(product / "train/good/one bit.bmp", Image.fromarray(noise(4, 1) > 100))
    saved(bent / "alpha.png", Image.fromarray(noise(5, 4)))
    saved(bent / "turned.jpg", Image.fromarray(noise(6)), exif=rotated(6))
    write_mask(product / "ground_truth/bent/turned_mask.png", block=trees.BLOCK.T[::-1])
    saved(bent / "mirrored.webp", Image.fromarray(noise(7)), exif=rotated(2), lossless=True)
    saved(bent / "broken metadata.webp", Image.fromarray(noise(8)), lossless=True, exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    saved(bent / "PNG IN TRUTH.JPG", Image.fromarray(noise(9)), format="PNG")
    write_mask(product / "ground_truth/bent/PNG IN TRUTH.bmp", 3)
    for name in ("a/000.png", "b/000.png", "000.png", "000.jpg", "000_mask.png", "con.png", "Ä \t#%[1]*?{x}.png"):
        saved(bent / name, Image.fromarray(noise(len(name))))
    saved(product / "test/odd : name?/-dash.png", Image.fromarray(noise(10)))
    saved(product / "test/Odd _ name_/x.png", Image.fromarray(noise(11)))
    saved(product / "test/loose.png", Image.fromarray(noise(12)))
    return product


def several_masks(root: Path) -> Path:
    """One image with two masks that overlap, one with a mask of zeros, one without any, and masks of another size."""
    product = root / "part"
    for name in ("two", "zeros", "none", "small"):
        write_image(product / f"test/cut/{name}.png", shape=(12, 18))
    write_image(product / "train/good/0.png", shape=(12, 18))
    block = np.kron(trees.BLOCK, np.ones((2, 2), bool))
    write_mask(product / "ground_truth/cut/two/0.png", block=block)
    write_mask(product / "ground_truth/cut/two/1.png", 200, np.roll(block, (5, 4), (0, 1)))
    write_mask(product / "ground_truth/cut/zeros_mask.png", 0, block)
    write_mask(product / "ground_truth/cut/small_mask.png")
    return product


PRODUCTS = [
    *(trees.mvtec, trees.visa_1cls, trees.btad, trees.loco, trees.mvtec3d, trees.aebad, trees.visa, trees.mtd),
    *(trees.classes, trees.unnamed_classes, trees.flat, kinds_of_files, several_masks),
]


def exported(folder: Path, *datasets: Dataset, **options) -> Path:
    folder.mkdir(parents=True)
    export(datasets, folder, **options)
    return folder


def same(one, other) -> bool:
    return (one is None) == (other is None) and (one is None or np.array_equal(one, other))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("make", PRODUCTS, ids=lambda make: make.__name__)
def test_it_is_read_back_as_it_was(tmp_path, make, format):
    dataset = load_dataset(make(tmp_path / "from"))
    out = exported(tmp_path / "to", dataset, format=format)
    again = load_dataset(out)
    assert again.product == "part" and list_products(out) == ("part",)
    assert load_dataset(out, "part").test.labels == dataset.test.labels
    for split, expected in ((again.train, dataset.train), (again.test, dataset.test)):
        assert split.ids == tuple(name.replace("\t", "_") for name in expected.ids)
        assert split.labels == expected.labels
        for sample, wanted in zip(split, expected, strict=True):
            assert np.array_equal(sample.image, wanted.image) and same(sample.mask, wanted.mask), sample.id
    assert gather(out)  # every name may be pushed


@pytest.mark.filterwarnings("ignore")  # of a library that only reads here
@pytest.mark.parametrize("make", PRODUCTS, ids=lambda make: make.__name__)
def test_hugging_face_datasets_reads_the_same(tmp_path, make):
    import datasets

    dataset = load_dataset(make(tmp_path / "from"))
    originals = {ref.id.replace("\t", "_"): ref for ref in (*dataset.train.refs, *dataset.test.refs)}
    both = dataset.train.refs == dataset.test.refs
    for format in FORMATS:
        out = exported(tmp_path / format, dataset, format=format)
        tables = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache" / format))
        splits = {"train": dataset.train} if both else {"train": dataset.train, "test": dataset.test}
        assert {name: table["id"][:] for name, table in tables.items()} == {
            name: [one.replace("\t", "_") for one in split.ids] for name, split in splits.items() if len(split)
        }
        for table in tables.values():
            assert set(table.column_names) == {"id", "image", "mask", "boxes", "label"}
            names = table.features["label"].names
            assert names == [GOOD, *(one for one in dataset.classes if one != GOOD)]
            for row in table:
                ref = originals[row["id"]]
                sample = ref.load()
                label = None if row["label"] is None else names[row["label"]]
                mask = None if row["mask"] is None else np.asarray(row["mask"])
                assert label == ref.label
                assert same(mask, None if label == GOOD or sample.mask is None else sample.mask.astype(np.uint8) * 255)
                assert row["boxes"] == boxes_of(sample.mask)
                if "broken" in row["id"]:  # which the library cannot read as it is
                    assert np.array_equal(np.asarray(row["image"].convert("RGB")), sample.image)
                    continue
                with Image.open(ref.path) as original:
                    upright = ImageOps.exif_transpose(original)
                    assert row["image"].mode == upright.mode
                    assert np.array_equal(np.asarray(row["image"]), np.asarray(upright))


def boxes_of(mask: np.ndarray | None) -> list[list[int]] | None:
    """Boxes of 8-connected parts by flooding, in the order in which a reader of lines meets them."""
    if mask is None:
        return None
    left, boxes = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}, []
    while left:
        part, pending = set(), [min(left)]
        while pending:
            y, x = pending.pop()
            if (y, x) in left:
                left.remove((y, x))
                part.add((y, x))
                pending += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        ys, xs = [y for y, _ in part], [x for _, x in part]
        boxes.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    return boxes


def test_files_are_kept_byte_for_byte_unless_they_must_not(tmp_path):
    product = kinds_of_files(tmp_path)
    several_masks(tmp_path / "other")
    out = exported(tmp_path / "to", load_dataset(product))
    found = {ref.id: ref for split in ("train", "test") for ref in load_dataset(out).split(split).refs}
    changed = [
        ref.id
        for ref in load_dataset(product).split("all").refs
        if ref.path.read_bytes() != found[ref.id.replace("\t", "_")].path.read_bytes()
    ]
    assert changed == ["test/bent/broken metadata.webp"]
    assert found["test/bent/PNG IN TRUTH.JPG"].path.suffix == ".jpg"
    mvtec = load_dataset(trees.mvtec(tmp_path / "plain"))
    out = exported(tmp_path / "again", mvtec)
    for ref in mvtec.split("all").refs:
        assert (out / "part" / ref.id).read_bytes() == ref.path.read_bytes()
        for mask in ref.masks:
            assert (out / "part/ground_truth/cut" / mask.name).read_bytes() == mask.read_bytes()


def test_products_are_configs_with_a_card(tmp_path):
    root = tmp_path / "from"
    for name in ("ring: one", "ring? one", "train"):
        trees.mvtec(root / "x").rename(root / name)
    names = folder_names(["ring: one", "ring? one", "train"])
    assert names == ["ring_ one", "ring_ one-2", "train_product"]
    for format in FORMATS:
        products = [load_dataset(root / name) for name in ("ring: one", "ring? one", "train")]
        out = exported(tmp_path / format, *products, format=format, license="cc-by-4.0", title="Rings | and more")
        assert list_products(out) == tuple(names)
        with pytest.raises(InvalidDatasetError, match="holds 3 products: name one of ring_ one, ring_ one-2, train_p"):
            load_dataset(out)
        assert len(load_dataset(out, "ring_ one-2").test) == 3
        text = (out / "README.md").read_text(encoding="utf-8")
        card = read_front_matter(text)
        assert card["license"] == "cc-by-4.0" and [one["config_name"] for one in card["configs"]] == names
        assert [info["config_name"] for info in card["dataset_info"]] == names
        splits = {split["name"]: split["num_examples"] for split in card["dataset_info"][0]["splits"]}
        assert splits == {"train": 2, "test": 3}
        sizes = sum(split["num_bytes"] for split in card["dataset_info"][0]["splits"])
        files = [ref.path.stat().st_size for ref in products[0].split("all").refs]
        masks = [mask.stat().st_size for ref in products[0].test.refs for mask in ref.masks]
        assert sizes == sum(files) + sum(masks)
        assert "\n# Rings \\| and more\n" in text


def test_large_products_are_split_into_shards_and_row_groups(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    product = tmp_path / "from/part"
    for number in range(7):
        saved(product / f"train/good/{number}.bmp", Image.fromarray(noise(number)))
    size = (product / "train/good/0.bmp").stat().st_size
    monkeypatch.setattr("anomalyhub.data.export_files.GROUP_BYTES", 2 * size)
    out = exported(tmp_path / "to", load_dataset(product), format="parquet", shard_bytes=5 * size)
    names = [f"train-0000{number}-of-00002.parquet" for number in range(2)]
    assert sorted(path.name for path in (out / "part").iterdir()) == names
    groups = [pq.ParquetFile(out / "part" / name).metadata for name in names]
    assert [[one.row_group(i).num_rows for i in range(one.num_row_groups)] for one in groups] == [[2, 2, 1], [2]]
    again = load_dataset(out)
    assert again.train.ids == load_dataset(product).train.ids
    assert all(np.array_equal(a.image, b.image) for a, b in zip(again.train, load_dataset(product).train, strict=True))
    twice = exported(tmp_path / "twice", load_dataset(product), format="parquet", shard_bytes=5 * size)
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert (twice / path.relative_to(out)).read_bytes() == path.read_bytes()


def test_names_that_are_no_text_are_exported(tmp_path):
    product = trees.mvtec(tmp_path)
    try:
        os.rename(product / "test/cut", os.fsencode(product / "test") + b"/\xff")
        os.rename(os.fsencode(product / "test") + b"/\xff/000.png", os.fsencode(product / "test") + b"/\xff/\xfe.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    dataset = load_dataset(product)
    for format in FORMATS:
        again = load_dataset(exported(tmp_path / format, dataset, format=format))
        assert again.classes == (GOOD, "_") and set(again.test.ids) == {
            "test/good/000.png",
            "test/_/001.png",
            "test/_/_.png",
        }


def test_images_that_come_later_count_as_well(tmp_path):
    out = exported(tmp_path / "to", load_dataset(trees.visa(tmp_path / "from")))
    write_image(out / "part/train/good/new.png")
    write_image(out / "part/test/scratch/new.png")
    again = load_dataset(out)
    assert again.train.ids == ("Data/Images/Normal/001.JPG", "train/good/new.png")
    assert again.classes == (GOOD, "anomaly", "scratch")


@pytest.mark.parametrize(
    ("column", "value"), [("file_name", "../x.png"), ("mask_file_name", "/etc/passwd"), ("label", 7)], ids=str
)
def test_a_table_that_leads_elsewhere_is_refused(tmp_path, column, value):
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = exported(tmp_path / "to", load_dataset(trees.mvtec(tmp_path / "from")))
    path = out / "part/metadata.parquet"
    table = pq.read_table(path)
    values = [value, *table[column].to_pylist()[1:]]
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), path)
    with pytest.raises(InvalidDatasetError, match="metadata.parquet (names|has the label)"):
        load_dataset(out)


def test_what_cannot_be_exported_is_said(tmp_path):
    product = trees.mvtec(tmp_path)
    (product / "test/cut/000.png").write_bytes(b"")
    with pytest.raises(InvalidImageError, match="000.png is empty"):
        exported(tmp_path / "to", load_dataset(product))
    with pytest.raises(InvalidArgumentError, match="unknown format 'zip': choose one of imagefolder, parquet"):
        exported(tmp_path / "zip", load_dataset(product), format="zip")
    with pytest.raises(InvalidArgumentError, match="nothing to export"):
        exported(tmp_path / "none")
    with pytest.raises(InvalidArgumentError, match="licen[cs]e"):
        exported(tmp_path / "license", load_dataset(trees.flat(tmp_path / "x")), license="no such licence\n")


def test_an_unlabelled_image_with_a_mask_keeps_it(tmp_path):
    image, mask = write_image(tmp_path / "a.png"), write_mask(tmp_path / "m.png")
    normal = SampleRef("n.png", write_image(tmp_path / "n.png"), GOOD)
    dataset = Dataset(tmp_path, "part", "x", Split([normal]), Split([SampleRef("a.png", image, None, (mask,))]))
    for format in FORMATS:
        sample = load_dataset(exported(tmp_path / format, dataset, format=format)).test[0]
        assert sample.label is None and np.array_equal(sample.mask, trees.BLOCK)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ring", "ring"),
        ("a/b\\c", "a_b_c"),
        ("..", "_"),
        (" . ", "_"),
        ("CON.png", "_CON.png"),
        ("__pycache__", "_pycache__"),
        ("[x]*?{y}", "_x_y_"),
        ("é", "é"),
        ("\ud800", "_"),
        ("x" * 300, "x" * 100),
    ],
)
def test_folder_names_mean_the_same_everywhere(name, expected):
    assert folder_name(name) == expected


def test_unique_names_differ_in_more_than_case():
    assert unique(["a", "A", "a-2", "b"], ["B"]) == ["a", "A-2", "a-2-2", "b-2"]
