"""Tables of images that others wrote: their columns, splits and cards; hostile ones; and how they are read."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_trees import BLOCK, SHAPE, write_image
from PIL import Image

from anomalyhub.data import SampleRef, list_products, load_dataset
from anomalyhub.data import configs as configs_module
from anomalyhub.data import rows as rows_module
from anomalyhub.data.configs import files_of
from anomalyhub.data.rows import RowRef
from anomalyhub.errors import AnomalyHubError, InvalidDatasetError, UnknownNameError
from anomalyhub.types import GOOD

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def png(value: int, array: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*SHAPE, 3), value, np.uint8) if array is None else array).save(file, "PNG")
    return file.getvalue()


MASK = png(0, BLOCK.astype(np.uint8) * 255)


def pictures(count: int, path: str | None = None, start: int = 0) -> pa.Array:
    """Uniform images of the values `start`, `start` + 1, …"""
    return pa.array([{"bytes": png(start + n), "path": path and path.format(n)} for n in range(count)], PICTURE)


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, **options)
    return path


def class_label(*names: str) -> dict[str, Any]:
    return {"label": {"names": list(names), "_type": "ClassLabel"}}


def card(*configs: dict[str, Any], **more: Any) -> str:
    return f"---\n{json.dumps({'configs': list(configs), **more})}\n---\ntext\n"


# columns of a table of four rows, features: labels
LABELS = [
    ("names", {"label": ["good", "cut", "good", "dent"]}, None, ["good", "cut", "good", "dent"]),
    ("normal has other names", {"label": ["OK", "cut", "Normal", None]}, None, ["good", "cut", "good", None]),
    ("numbers with names", {"label": [1, 0, 1, 2]}, class_label("cut", "good", "dent"),
     ["good", "cut", "good", "dent"]),
    ("-1 and null are none", {"label": [1, -1, None, 0]}, class_label("cut", "good"), ["good", None, None, "cut"]),
    ("0 and 1", {"labels": [0, 1, 0, 1]}, None, ["good", "anomalous", "good", "anomalous"]),
    ("numbers", {"label": [0, 1, 2, 0]}, None, ["0", "1", "2", "0"]),
    ("a flag", {"is_anomaly": [False, True, False, True]}, None, ["good", "anomalous", "good", "anomalous"]),
    ("a flag of numbers", {"anomaly": [0, 1, 0, 2]}, None, ["good", "anomalous", "good", "anomalous"]),
    ("names before flags", {"anomaly": [0, 1, 0, 1], "defect": list("abcd")}, None, list("abcd")),
    ("a label that is no name", {"label": [0.5, 1.5, 2.5, 3.5]}, None, [None] * 4),
    ("an empty name is none", {"label": ["good", "", "cut", "cut"]}, None, ["good", None, "cut", "cut"]),
    ("none", {}, None, [None] * 4),
]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "features", "expected"), [row[1:] for row in LABELS], ids=[row[0] for row in LABELS]
)
def test_labels(tmp_path, columns, features, expected):
    write(tmp_path / "x/test.parquet", {"image": pictures(4), **columns}, features)
    dataset = load_dataset(tmp_path / "x")
    assert (dataset.product, dataset.layout) == ("x", "parquet")
    assert list(dataset.test.labels) == expected
    assert [sample.image[0, 0, 0] for sample in dataset.test] == [0, 1, 2, 3]


# columns: the values of the images that are read
IMAGES = {
    "bytes themselves": {"image": pa.array([png(0), png(1)])},
    "large bytes": {"img": pa.array([png(0), png(1)], pa.large_binary())},
    "another name": {"photograph": pictures(2)},
    "a struct without a path": {"picture": pa.array([{"bytes": png(0)}, {"bytes": png(1)}])},
    "not the mask": {"mask": pictures(2, start=7), "thing": pictures(2)},
    "a column that looks nested": {"image": pictures(2), "image.bytes": ["a", "b"]},
}


@pytest.mark.parametrize("columns", IMAGES.values(), ids=IMAGES)
def test_images(tmp_path, columns):
    write(tmp_path / "train.parquet", columns)
    assert [sample.image[0, 0, 0] for sample in load_dataset(tmp_path).train] == [0, 1]


# ids of two rows, and what becomes of them
IDS = [
    (["a/b.png", "c"], ["a/b.png", "c"]),
    ([7, 8], ["7", "8"]),
    (["same", "same"], ["test/0000", "test/0001"]),
    (["../a", "b"], ["test/0000", "test/0001"]),
    (["/etc/passwd", "b"], ["test/0000", "test/0001"]),
    (["a\\..\\b", "b"], ["test/0000", "test/0001"]),
    (["\x1b[2J", "b"], ["test/0000", "test/0001"]),
    (["", "b"], ["test/0000", "test/0001"]),
    ([None, "b"], ["test/0000", "test/0001"]),
]  # fmt: skip


@pytest.mark.parametrize(("ids", "expected"), IDS, ids=str)
def test_ids_are_plain_relative_paths(tmp_path, ids, expected):
    write(tmp_path / "a/test.parquet", {"image": pictures(2), "file_name": ids, "label": ["x", "y"]})
    assert list(load_dataset(tmp_path / "a").test.ids) == expected
    if isinstance(ids[0], str):  # the name beside an image's bytes serves as well
        images = [{"bytes": png(0), "path": one} for one in ids]
        write(tmp_path / "b/test.parquet", {"image": pa.array(images, PICTURE), "label": ["x", "y"]})
        assert list(load_dataset(tmp_path / "b").test.ids) == expected


def test_masks_are_read_where_something_is_defective(tmp_path):
    masks = pa.array([{"bytes": MASK}, {"bytes": MASK}, None, {"bytes": None}], pa.struct({"bytes": pa.binary()}))
    write(tmp_path / "test.parquet", {"image": pictures(4), "gt": masks, "label": ["good", "cut", "cut", "cut"]})
    samples = list(load_dataset(tmp_path).test)
    assert not samples[0].mask.any() and np.array_equal(samples[1].mask, BLOCK)
    assert samples[2].mask is None and samples[3].mask is None


def labelled(*labels: str | None, start: int = 0) -> dict[str, Any]:
    return {"image": pictures(len(labels), start=start), "label": pa.array(labels, pa.string())}


def unlabelled(count: int, start: int = 0, masks: bool = False) -> dict[str, Any]:
    more = {"mask": pa.array([{"bytes": MASK, "path": None}] * count, PICTURE)} if masks else {}
    return {"image": pictures(count, start=start), **more}


# files: values of the first pixel of train, and of test
SPLITS = [
    (
        "train and test; defects do not train, and validation is left out",
        {"train-00000-of-00001": labelled("good", "cut", "good"),
         "test-00000-of-00001": labelled("good", "cut", start=10),
         "validation-00000-of-00001": labelled("good", start=20)},
        [0, 2], [10, 11],
    ),
    (
        "shards in their order, in a folder called data",
        {"data/train-00001-of-00002": labelled("good", start=5), "data/train-00000-of-00002": labelled("good", start=4),
         "data/test-00000-of-00001": labelled("cut", start=9)},
        [4, 5], [9],
    ),
    ("folders", {"train/0000": labelled("good"), "test/0000": labelled("cut", start=3)}, [0], [3]),
    ("validation where there is no test", {"train": labelled("good"), "valid": labelled("cut", start=9)}, [0], [9]),
    ("test alone", {"test": labelled("good", "cut")}, [], [0, 1]),
    ("one split is parted", {"train": labelled(*["good"] * 5, "cut")}, [0, 2, 3, 4], [1, 5]),
    ("splits of other names", {"x-train": labelled("good"), "unseen_test": labelled("cut", start=7)}, [0], [7]),
    ("nothing is labelled", {"train": unlabelled(2)}, [0, 1], [0, 1]),
    ("nothing to train is labelled", {"train": unlabelled(2), "test": labelled("cut", start=5)}, [], [5]),
    ("normal ones without labels", {"train": unlabelled(2), "test": unlabelled(1, start=5)}, [0, 1], [5]),
    ("masks may mean defects", {"train": unlabelled(2, masks=True), "test": unlabelled(1, 5, True)},
     [0, 1, 5], [0, 1, 5]),
]  # fmt: skip


@pytest.mark.parametrize(("files", "train", "test"), [row[1:] for row in SPLITS], ids=[row[0] for row in SPLITS])
def test_splits(tmp_path, files, train, test):
    for name, columns in files.items():
        write(tmp_path / f"{name}.parquet", columns)
    dataset = load_dataset(tmp_path)
    assert [int(sample.image[0, 0, 0]) for sample in dataset.train] == train
    assert [int(sample.image[0, 0, 0]) for sample in dataset.test] == test
    assert len(set(dataset.train.ids) | set(dataset.test.ids)) == len({*train, *test})


CARDS = [
    ("a pattern", [{"config_name": "a", "data_files": "one*.parquet"}], {"a": [0, 1]}),
    ("a list", [{"config_name": "a", "data_files": ["./one-0.parquet", "deep/**"]}], {"a": [0, 4]}),
    (
        "splits",
        [{"config_name": "a", "data_files": [{"split": "test", "path": "**/two.parquet"}]}, {"config_name": "b",
         "data_files": [{"split": "train", "path": ["one-[0].parquet"]}, {"split": "test", "path": "one-?.parquet"}]}],
        {"a": [4], "b": [0, 0, 1]},
    ),
    ("a folder", [{"config_name": "a", "data_dir": "deep"}], {"a": [4]}),
    ("a pattern in a folder", [{"config_name": "a", "data_dir": "deep", "data_files": "*.parquet"}], {"a": [4]}),
    ("no files: by their names", [{"config_name": "a", "data_files": "../*.parquet"}],
     {"default": [0, 1], "deep": [4]}),
    ("no list", "x", {"default": [0, 1], "deep": [4]}),
    ("odd entries", [3, {"data_files": 4}, {"config_name": "a", "data_files": [5, {"split": "x"}]},
                     {"config_name": ["n"], "data_files": "deep/*"}], {"['n']": [4]}),
]  # fmt: skip


@pytest.mark.parametrize(("configs", "expected"), [row[1:] for row in CARDS], ids=[row[0] for row in CARDS])
def test_cards(tmp_path, configs, expected):
    write(tmp_path / "one-0.parquet", labelled("good"))
    write(tmp_path / "one-1.parquet", labelled("good", start=1))
    write(tmp_path / "deep/two.parquet", labelled("good", start=4))
    (tmp_path / "README.md").write_text(card(configs=configs).replace('"configs": [], ', ""), encoding="utf-8")
    assert list_products(tmp_path) == tuple(sorted(set(expected) - {"default"}))
    for name, values in expected.items():
        dataset = load_dataset(tmp_path, tmp_path.name if name == "default" else name)
        found = [*dataset.train, *(one for one in dataset.test if one.id not in dataset.train.ids)]
        assert sorted(int(sample.image[0, 0, 0]) for sample in found) == sorted(values)


def test_names_of_labels_may_be_in_the_card(tmp_path):
    write(tmp_path / "test.parquet", {"image": pictures(2), "label": [0, 1]})
    for names in (["cut", "good"], {"0": "cut", "1": "good"}):
        feature = {"name": "label", "dtype": {"class_label": {"names": names}}}
        files = [{"split": "test", "path": "*"}]
        text = card(
            {"config_name": "x", "data_files": files}, dataset_info=[{"config_name": "x", "features": [feature]}]
        )
        (tmp_path / "README.md").write_text(text, encoding="utf-8")
        assert load_dataset(tmp_path).test.labels == ("cut", "good")


def test_products_are_configs(tmp_path):
    for name in ("screw", "bottle"):
        write(tmp_path / name / "train-00000-of-00001.parquet", labelled("good"))
    assert list_products(tmp_path) == ("bottle", "screw")
    assert load_dataset(tmp_path, "screw").product == "screw" == load_dataset(tmp_path / "screw").product
    with pytest.raises(InvalidDatasetError, match="holds 2 products: name one of bottle, screw with --product"):
        load_dataset(tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'bottle'"):
        load_dataset(tmp_path, "botle")


def test_a_table_beside_images_is_none_of_theirs(tmp_path):
    write(tmp_path / "results.parquet", labelled("good"))
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "cut/b.png")
    assert load_dataset(tmp_path).layout == "classes"


# --- what others can do to us ---


def png_of(width: int, height: int) -> bytes:
    """A file that says it has so many pixels."""
    data = bytearray(png(0))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def fields(**values: Any) -> pa.Array:
    return pa.array([{"bytes": None, "path": None, **values}], PICTURE)


BAD_TABLES = [
    # columns of one row, features, fragment of the message; on opening
    ("no images", {"text": ["a"]}, None, "has no column of encoded images, but text: store the bytes"),
    ("images elsewhere", {"image": ["/etc/passwd"]}, None, "has no column of encoded images"),
    ("pixels", {"image": [[[1, 2], [3, 4]]]}, None, "has no column of encoded images"),
    ("a name of controls", {"\x1b[2J": ["a"]}, None, "but \\\\x1b[2J: store"),
    ("a label without a name", {"image": [png(0)], "label": [3]}, class_label("a", "b"), "label 3 and names for 2"),
    ("a label of controls", {"image": [png(0)], "label": ["\x1b[2J"]}, None, "the label \\x1b[2J, which is no name"),
    ("a label of much text", {"image": [png(0)], "label": ["x" * 300]}, None, "which is no name: rename it"),
    ("an id of much text", {"image": [png(0)], "id": ["x" * 5000]}, None, "a text of 5000 bytes where a name is"),
    ("no rows", {"image": pa.array([], pa.binary())}, None, "tables without rows"),
]


@pytest.mark.parametrize(
    ("columns", "features", "fragment"), [row[1:] for row in BAD_TABLES], ids=[row[0] for row in BAD_TABLES]
)
def test_bad_tables_are_refused_in_a_sentence(tmp_path, columns, features, fragment):
    write(tmp_path / "test.parquet", columns, features)
    with pytest.raises(InvalidDatasetError) as caught:
        load_dataset(tmp_path)
    assert fragment.replace("\\\\", "\\") in str(caught.value) and str(caught.value).isprintable()


BAD_IMAGES = {
    # an image: fragment of the message
    "no image": (fields(bytes=b"MZ\x90"), "is not an image of a supported kind"),
    "empty": (fields(bytes=b""), "is empty"),
    "only a path": (fields(path="/etc/passwd"), "has no bytes, only a name or nothing"),
    "a path that climbs": (fields(path="../../../etc/passwd"), "has no bytes, only a name or nothing"),
    "nothing": (pa.array([None], PICTURE), "has no bytes, only a name or nothing"),
    "cut off": (fields(bytes=png(0, np.arange(162, dtype=np.uint8).reshape(6, 9, 3))[:55]), "is truncated or damaged"),
    "a bomb": (fields(bytes=png_of(60000, 60000)), "too many pixels, the limit is 100 million"),
}


@pytest.mark.parametrize(("image", "fragment"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images_are_left_out_by_name(tmp_path, image, fragment):
    images = pa.concat_arrays([pictures(1), image, pictures(1, start=2)])
    write(tmp_path / "test.parquet", {"image": images, "label": ["a", "b", "c"], "id": ["a", "b", "c"]})
    test = load_dataset(tmp_path).test
    ((name, reason),) = test.unreadable()
    assert name == "b" and fragment in reason and "row 1 of" in reason and reason.isprintable()
    assert [sample.image[0, 0, 0] for sample in test.without("b")] == [0, 2]


BAD_FILES = {
    "garbage": b"PAR1" + b"\xff" * 100 + b"PAR1",
    "a large footer": b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
    "empty": b"",
    "html": b"<html></html>",
}


@pytest.mark.parametrize("data", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused(tmp_path, data):
    (tmp_path / "train.parquet").write_bytes(data)
    with pytest.raises(InvalidDatasetError, match="train.parquet is not a parquet file or is damaged"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("name", ["train.parquet", "README.md"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    write(tmp_path / "test.parquet", labelled("good"))
    os.mkfifo(tmp_path / name)
    with pytest.raises(InvalidDatasetError, match=f"{name} is not a regular file"):
        load_dataset(tmp_path)


def test_files_cut_off_anywhere_and_with_changed_bytes_raise_our_errors_only(tmp_path):
    whole = write(tmp_path / "whole", {**labelled("good", "cut", "cut"), "id": ["a", "b", "c"]}).read_bytes()
    generator = np.random.default_rng(0)
    path, failures = tmp_path / "set/test.parquet", 0
    path.parent.mkdir()
    for number in range(120):
        data = bytearray(whole)
        if number % 3 == 0:
            data = data[: generator.integers(len(data))]
        else:
            # the first bytes of the footer and of pages are what readers follow
            for at in generator.integers(0, len(data), 1 + number % 5):
                data[at] = generator.integers(256)
        path.write_bytes(data)
        try:
            list(load_dataset(path.parent).test)
        except AnomalyHubError as error:
            failures += 1
            assert str(error).isprintable(), error
    assert failures > 40


@pytest.mark.parametrize(("glob", "words"), [("*a" * 100 + "b", None), ("*a" * 200, "shorten it")])
def test_a_pattern_takes_no_longer_than_its_length(tmp_path, glob, words):
    name = "a" * 200 + ".parquet"
    write(tmp_path / name, labelled("good"))
    configs = {"config_name": "x", "data_files": glob}, {"config_name": "y", "data_files": "a*.parquet"}
    (tmp_path / "README.md").write_text(card(*configs), encoding="utf-8")
    if words is None:
        assert list_products(tmp_path) == ("y",)
        return
    with pytest.raises(InvalidDatasetError, match=words):
        load_dataset(tmp_path)


def test_too_many_patterns_for_so_many_files_are_refused():
    matching, names = configs_module._Matching(), [f"data/{'a' * 90}-{number}.parquet" for number in range(1000)]
    assert matching(["data/*-7.parquet"], names) == [names[7]]
    with pytest.raises(InvalidDatasetError, match="too many patterns"):
        for _ in range(10_000):
            matching(["*b"], names)


def test_patterns_mean_what_regular_expressions_say():
    rng = np.random.default_rng(0)
    pieces = ["a", "b", "/", "*", "**", "**/", "?", "[ab]", "[!a]", "[a-c]", "."]
    meant = {"*": "[^/]*", "**": ".*", "**/": "(?:.*/)?", "?": "[^/]", "[!a]": "[^a/]", ".": r"\."}
    for _ in range(4000):
        glob = [pieces[piece] for piece in rng.integers(0, len(pieces), rng.integers(1, 7))]
        pairs = set(itertools.pairwise(glob))
        if any({"*", "**", "**/"} >= {*pair} or pair == ("**", "/") for pair in pairs):  # which read as one piece
            continue
        name = "".join("ab/.c"[letter] for letter in rng.integers(0, 5, rng.integers(1, 8)))
        expected = re.fullmatch("".join(meant.get(piece, piece) for piece in glob), name)
        assert configs_module._matcher("".join(glob))(name) == bool(expected), (glob, name)


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    write(tmp_path / "elsewhere/train.parquet", labelled("good"))
    write(tmp_path / "here/test.parquet", labelled("cut"))
    (tmp_path / "here/loop").symlink_to(tmp_path, target_is_directory=True)
    assert files_of(tmp_path / "here").names == ["test.parquet"]


# --- how rows are read ---


class Counted:
    """Counts what passes over a file: the row groups that are begun."""

    def __init__(self, monkeypatch):
        self.groups: list[tuple[int, int]] = []
        iterate = rows_module.Rows._iterate

        def counted(rows, shard, group):
            self.groups.append((shard, group))
            return iterate(rows, shard, group)

        monkeypatch.setattr(rows_module.Rows, "_iterate", counted)


@pytest.fixture
def many(tmp_path):
    """Twelve rows in two files, in row groups of three."""
    for number in range(2):
        columns = labelled(*["good", "cut"] * 3, start=6 * number)
        write(tmp_path / f"many/test-0000{number}-of-00002.parquet", columns, row_group_size=3)
    return load_dataset(tmp_path / "many").test


def test_a_pass_reads_each_row_group_once_and_listing_none(many, monkeypatch):
    counted = Counted(monkeypatch)
    assert len(many) == 12 and many.labels == ("good", "cut") * 6 and many.ids[0] == "test/0000"
    many.select([3, 1])[:1].without([]), repr(many)
    assert counted.groups == []
    assert [sample.image[0, 0, 0] for sample in many] == list(range(12))
    assert counted.groups == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [many[index].image[0, 0, 0] for index in (7, 0, 11, 5)] == [7, 0, 11, 5]
    assert len(counted.groups) == 4  # they are still in memory


def test_little_is_held_and_what_is_gone_is_read_again(many, monkeypatch):
    counted, size = Counted(monkeypatch), len(png(0))
    monkeypatch.setattr(rows_module, "WINDOW", 4 * size + size // 2)
    rows = many.refs[0].rows
    for index in (0, 11, 4, 5, 3, 0, 2, 1, 6):
        assert many[index].image[0, 0, 0] == index
        assert rows._kept_bytes <= rows_module.WINDOW
        assert rows._kept_bytes == sum(len(image) for image, _ in rows._kept.values()) > 0
    # 5 follows 4, 3 was passed on the way to 4, and 0 was dropped for 9, 10 and 11; so 0 was for 1 when 2 came
    assert counted.groups[:4] == [(0, 0), (1, 1), (0, 1), (0, 0)]
    assert set(counted.groups[4:-1]) <= {(0, 0)} and counted.groups[-1] == (1, 0)


def test_a_small_file_that_means_much_memory_is_read_a_row_at_a_time(tmp_path, monkeypatch):
    """A dictionary holds an image once, and every row names it."""
    noise = png(0, np.random.default_rng(0).integers(0, 256, (400, 600, 3)).astype(np.uint8))
    images = pa.array([noise] * 300)
    write(tmp_path / "test.parquet", {"image": images, "id": [str(n) for n in range(300)]}, row_group_size=300)
    assert (tmp_path / "test.parquet").stat().st_size < 2 * len(noise)
    del images
    monkeypatch.setattr(rows_module, "WINDOW", 3 * len(noise))
    test = load_dataset(tmp_path).test
    before = pa.default_memory_pool().bytes_allocated()
    most = 0
    for index in (0, 100, 299):
        assert test[index].image.shape == (400, 600, 3)
        most = max(most, pa.default_memory_pool().bytes_allocated() - before)
    assert most < 20 * len(noise)
    assert test.refs[0].rows._kept_bytes <= rows_module.WINDOW


def test_an_image_of_too_many_bytes_costs_no_other(tmp_path, monkeypatch):
    noise = png(0, np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8))
    images = pa.array([png(0), noise, png(2)])
    masks = pa.array([MASK, MASK, noise])
    write(tmp_path / "test.parquet", {"image": images, "mask": masks, "label": ["a"] * 3, "id": ["a", "b", "c"]})
    monkeypatch.setattr(rows_module, "MAX_IMAGE_BYTES", 500)
    test = load_dataset(tmp_path).test
    reasons = dict(test.unreadable())
    assert reasons.keys() == {"b", "c"} and "row 1 of" in reasons["b"]
    assert all("has 0 MiB, the limit is 0: store a smaller image" in reason for reason in reasons.values())


def test_tables_of_too_many_rows_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "test-0.parquet", labelled("cut", "cut"))
    write(tmp_path / "test-1.parquet", labelled("cut"))
    monkeypatch.setattr("anomalyhub.data.tables.MAX_ROWS", 2)
    with pytest.raises(InvalidDatasetError, match="the split test has over 2 rows: give a part of it"):
        load_dataset(tmp_path)
    monkeypatch.setattr(rows_module, "MAX_ROWS", 1)
    with pytest.raises(InvalidDatasetError, match="test-0.parquet says that it has 2 rows, and at most 1 are read"):
        load_dataset(tmp_path)


def test_rows_behave_as_files_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "home"))
    masks = pa.array([{"bytes": None}, {"bytes": MASK}], pa.struct({"bytes": pa.binary()}))
    folder = tmp_path / "set"
    write(folder / "test.parquet", {"image": pictures(2), "mask": masks, "label": ["good", "cut"], "id": ["a", "b"]})
    good, cut = load_dataset(folder).test.refs
    assert isinstance(cut, RowRef) and cut.load().path is None
    assert not (tmp_path / "home").exists()
    assert cut.path.read_bytes() == png(1) and cut.path.suffix == ".png" and cut.path.is_relative_to(tmp_path / "home")
    assert [path.read_bytes() for path in cut.masks] == [MASK] and good.masks == ()
    file = dataclasses.replace(cut, label="dent")
    assert type(file) is SampleRef and file == SampleRef("b", cut.path, "dent", cut.masks)
    assert np.array_equal(file.load().mask, cut.load().mask) and np.array_equal(file.load().image, cut.load().image)
    assert cut == load_dataset(folder).test.refs[1].__class__("b", "cut", rows=cut.rows, at=(0, 1)) != good
    assert len({good, cut}) == 2 and "id" not in repr(cut) and "'b'" in repr(cut)
    assert cut.lies_in(folder) and not cut.lies_in(tmp_path / "home")
    written = cut.path.stat().st_mtime_ns
    assert cut.path.stat().st_mtime_ns == written
    write(folder / "test.parquet", {"image": pictures(2, start=9), "label": ["good", "cut"], "id": ["a", "b"]})
    assert load_dataset(folder).test.refs[1].path.read_bytes() == png(10)  # another table has other files


def test_all_images_in_the_order_of_their_rows(tmp_path):
    write(tmp_path / "train.parquet", {**labelled("good", "good"), "id": ["z", "y"]})
    write(tmp_path / "test.parquet", {**labelled(GOOD, "cut"), "id": ["c", "b"]})
    assert load_dataset(tmp_path).split("all").ids == ("z", "y", "c", "b")


def test_shards_of_one_split_must_agree(tmp_path):
    write(tmp_path / "train-0.parquet", {"image": pictures(1)})
    write(tmp_path / "train-1.parquet", {"img": pictures(1)})
    with pytest.raises(InvalidDatasetError, match="train-1.parquet has other columns than .*train-0.parquet"):
        load_dataset(tmp_path)
