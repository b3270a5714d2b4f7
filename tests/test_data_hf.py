"""Data sets of the Hub, from a server on loopback: pulled, streamed, refused; and the verbs that take them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from hub_server import TOKEN, Fault, connected, environment, hub_server
from layout_trees import write_image
from PIL import Image
from synthesis_helpers import discs
from test_data_export import exported

from anomalyhub import cli
from anomalyhub.data import list_products, load_dataset
from anomalyhub.data.hf import parse_hub
from anomalyhub.data.sample import write_sample
from anomalyhub.errors import (
    InvalidArgumentError,
    InvalidDatasetError,
    StoreError,
    UnknownNameError,
    UnsafeRepositoryError,
)
from anomalyhub.pipeline.train import training_products
from anomalyhub.synthesis import SynthesisConfig, Synthesizer, Textures, read_synthetic, write_synthetic


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "home"))
    with hub_server() as hub, connected(hub, tmp_path / "hf"):
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(found, expected) -> bool:
    return found.labels == expected.labels and all(
        np.array_equal(one.image, other.image) and (one.mask is None) == (other.mask is None)
        for one, other in zip(found, expected, strict=True)
    )


PATHS = [
    ("hf:acme/rings", ("acme/rings", None)),
    ("hf:acme/rings@main", ("acme/rings", "main")),
    ("hf:acme/rings@refs/pr/1", ("acme/rings", "refs/pr/1")),
    (Path("hf:acme/rings@v1.0"), ("acme/rings", "v1.0")),
    ("hf://datasets/acme/rings/", ("acme/rings", None)),
    (Path("hf://datasets/acme/rings@v2"), ("acme/rings", "v2")),
    ("hf:", InvalidArgumentError),
    ("hf:rings", InvalidArgumentError),
    ("hf:acme/../x", InvalidArgumentError),
    ("hf:acme/rings/train", InvalidArgumentError),
    ("hf:acme/rings@", InvalidArgumentError),
]


@pytest.mark.parametrize(("path", "expected"), PATHS, ids=str)
def test_names_of_data_sets_on_the_hub(path, expected):
    if isinstance(expected, tuple):
        assert parse_hub(path) == expected
    else:
        with pytest.raises(expected, match="OWNER/NAME"):
            load_dataset(path)


@pytest.mark.parametrize("format", ["imagefolder", "parquet"])
def test_what_was_exported_and_pushed_comes_back(hub, tmp_path, format):
    dataset = load_dataset(trees.loco(tmp_path / "from"))
    out = exported(tmp_path / "to", dataset, format=format)
    hub.add("dataset", "acme/rings", contents(out))
    for path, product in (("hf:acme/rings", None), (Path("hf:acme/rings"), "part"), ("hf:acme/rings@main", "part")):
        again = load_dataset(path, product)
        assert again.product == "part" and again.notices == ()
        assert same(again.train, dataset.train) and same(again.test, dataset.test)
        assert again.root.is_relative_to(tmp_path / "home")
    assert list_products("hf:acme/rings") == ("part",)
    with pytest.raises(UnknownNameError, match="did you mean 'part'"):
        load_dataset("hf:acme/rings", "parts")


def test_a_data_set_of_one_product_goes_by_its_name(hub, tmp_path):
    hub.add("dataset", "acme/rings", {**contents(trees.mvtec(tmp_path)), "loader.py": b"import os"})
    for product in (None, "rings"):
        dataset = load_dataset("hf:acme/rings", product)
        assert (dataset.product, dataset.layout, len(dataset.test)) == ("rings", "mvtec", 3)
        assert len(dataset.notices) == 1 and "left out 'loader.py'" in dataset.notices[0]
    assert list_products("hf:acme/rings") == ()
    table = exported(tmp_path / "to", load_dataset(trees.mvtec(tmp_path / "x")), format="parquet")
    files = {f"data/{path.name}": path.read_bytes() for path in (table / "part").iterdir()}
    hub.add("dataset", "acme/tables", files)
    assert load_dataset("hf:acme/tables", "tables").product == "tables"
    assert load_dataset("hf:acme/tables").test.ids == load_dataset(trees.mvtec(tmp_path / "y")).test.ids


def test_revisions_are_told_apart_and_kept(hub, tmp_path):
    first = hub.add("dataset", "me/rings", contents(trees.flat(tmp_path))).head.id
    write_image(tmp_path / "part/new.png", 200)
    hub.add("dataset", "me/rings", contents(tmp_path / "part"))
    assert len(load_dataset("hf:me/rings").test) == 5
    assert len(load_dataset(f"hf:me/rings@{first}").test) == 4
    hub.faults.append(Fault(status=503))
    asked = len(hub.requests)
    assert len(load_dataset("hf:me/rings").test) == 5  # from the cache
    assert len(load_dataset(f"hf:me/rings@{first}").test) == 4 and len(hub.requests) > asked


@pytest.fixture
def streamed(hub, tmp_path):
    """Ten images of 120 kB to train, ten to test."""
    for number in range(20):
        part = "train/good" if number < 10 else "test/cut"
        image = np.random.default_rng(number).integers(0, 256, (160, 250, 3)).astype(np.uint8)
        path = tmp_path / "from/part" / part / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return load_dataset(tmp_path / "from/part")


def push(hub, dataset, tmp_path, monkeypatch) -> int:
    """Push it as parquet, in row groups of two; returns the bytes of the test images."""
    size = max(ref.path.stat().st_size for ref in dataset.split("all").refs)
    monkeypatch.setattr("anomalyhub.data.export_files.GROUP_BYTES", 2 * size)
    out = exported(tmp_path / "to", dataset, format="parquet")
    hub.add("dataset", "acme/rings", contents(out))
    return sum(ref.path.stat().st_size for ref in dataset.test.refs)


def test_streaming_fetches_labels_alone_and_images_when_they_are_asked_for(hub, streamed, tmp_path, monkeypatch):
    size = push(hub, streamed, tmp_path, monkeypatch)
    dataset = load_dataset("hf:acme/rings", stream=True)
    assert (dataset.product, dataset.layout) == ("part", "parquet")
    assert not (tmp_path / "home/pulled").is_dir() or not list((tmp_path / "home/pulled").rglob("*.parquet"))
    assert dataset.test.ids == streamed.test.ids and dataset.test.labels == streamed.test.labels
    assert hub.sent < size / 4, "labels came with images"
    before, asked = hub.sent, len(hub.requests)
    for found, expected in zip(dataset.test, streamed.test, strict=True):
        assert found.id == expected.id and np.array_equal(found.image, expected.image)
    assert size <= hub.sent - before < 1.2 * size, "each row group comes once"
    ranges = [one for one in hub.requests[asked:] if "/cdn/" in one]
    assert len(ranges) == 10, "a row group comes in two pieces, images and masks"
    assert not [one for one in hub.requests[asked:] if "/api/" in one], "it asks again what it knows"
    before = hub.sent
    assert np.array_equal(dataset.test[9].image, streamed.test[9].image) and hub.sent == before  # in memory
    assert dataset.test.refs[0].path.read_bytes() == streamed.test.refs[0].path.read_bytes()
    assert dataset.test.refs[0].path.is_relative_to(tmp_path / "home")


def test_what_is_streamed_stays_of_one_commit(hub, streamed, tmp_path, monkeypatch):
    push(hub, streamed, tmp_path, monkeypatch)
    dataset = load_dataset("hf:acme/rings", stream=True)
    name = "part/test-00000-of-00001.parquet"
    hub.add("dataset", "acme/rings", {name: b"something else"})
    assert np.array_equal(dataset.test[3].image, streamed.test[3].image)
    with pytest.raises(InvalidDatasetError, match=re.escape(f"acme/rings/{name} is not a parquet file")):
        load_dataset("hf:acme/rings", stream=True)


def test_a_connection_that_breaks_is_said(hub, streamed, tmp_path, monkeypatch):
    push(hub, streamed, tmp_path, monkeypatch)
    dataset = load_dataset("hf:acme/rings", stream=True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # the client's patience
    hub.faults.append(Fault("GET", status=404))
    with pytest.raises(StoreError, match="cannot read 'part/test-00000-of-00001.parquet' of acme/rings"):
        dataset.test[0]
    hub.faults.clear()
    assert np.array_equal(dataset.test[0].image, streamed.test[0].image)  # and it goes on


def test_large_data_sets_are_streamed_or_refused_unasked(hub, tmp_path, monkeypatch):
    dataset = load_dataset(trees.mvtec(tmp_path / "from"))
    hub.add("dataset", "acme/tables", contents(exported(tmp_path / "tables", dataset, format="parquet")))
    hub.add("dataset", "acme/files", contents(exported(tmp_path / "files", dataset)))
    with pytest.raises(InvalidDatasetError, match="acme/files has no parquet files, and others cannot be streamed"):
        load_dataset("hf:acme/files", stream=True)
    monkeypatch.setenv("ANOMALYHUB_STREAM_ABOVE", "100")
    assert list_products("hf:acme/tables") == ("part",)
    large = load_dataset("hf:acme/tables")
    assert same(large.train, dataset.train) and same(large.test, dataset.test)
    assert not list((tmp_path / "home/pulled").rglob("*.parquet"))
    with pytest.raises(InvalidDatasetError, match="files that cannot be streamed: pull it into a folder with anomalyh"):
        load_dataset("hf:acme/files")
    assert same(load_dataset("hf:acme/files", stream=False).test, dataset.test)
    monkeypatch.setenv("ANOMALYHUB_STREAM_ABOVE", "much")
    with pytest.raises(InvalidArgumentError, match="ANOMALYHUB_STREAM_ABOVE is 'much', which is no number"):
        load_dataset("hf:acme/tables")


def test_repositories_that_are_refused(hub, tmp_path):
    files = contents(trees.flat(tmp_path))
    hub.add("dataset", "me/private", files, private=True)
    with pytest.raises(StoreError, match="no such repository that this login may read"):
        load_dataset("hf:me/private")
    with connected(hub, tmp_path / "login", TOKEN):
        assert len(load_dataset("hf:me/private").test) == 4
    hub.add("dataset", "me/evil", files)
    hub.repo("me/evil", "dataset").planted.append({"type": "file", "path": "../evil.png", "size": 1, "oid": "0" * 40})
    for stream in (None, True):
        with pytest.raises(UnsafeRepositoryError, match="climbs out of its folder"):
            load_dataset("hf:me/evil", stream=stream)
    with pytest.raises(StoreError, match="no such revision"):
        load_dataset("hf:me/evil@v9")
    with pytest.raises(StoreError, match="me/absent"):
        list_products("hf:me/absent")


@pytest.fixture
def ring(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "sample"
    write_sample(folder, products="ring", size=64, n_train=6, n_test_good=2, n_defect=2)
    return folder


def run(arguments: str, capsys) -> str:
    code = cli.run(arguments.split())
    out, err = capsys.readouterr()
    assert code == 0, err
    return out + err


def test_fit_evaluate_and_discover_take_a_data_set_of_the_hub(hub, ring, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset(ring)
    out = exported(tmp_path / "to", dataset, format="parquet")
    hub.add("dataset", "acme/rings", {**contents(out), "run.sh": b"#!/bin/sh"})
    assert "left out 'run.sh'" in run("fit patchcore --data hf:acme/rings --product ring --out there", capsys)
    run(f"fit patchcore --data {ring} --product ring --out here", capsys)
    for name in ("here", "there"):
        run(f"evaluate {name} --data hf:acme/rings --json {name}.json", capsys)
    run(f"evaluate here --data {ring} --json local.json", capsys)
    here, there, local = (json.loads(Path(f"{name}.json").read_text("utf-8")) for name in ("here", "there", "local"))
    assert there["config"]["product"] == "ring" and here["image_auroc"] == there["image_auroc"] == local["image_auroc"]
    assert here["aupro"] == there["aupro"] == local["aupro"]
    run("discover --data hf:acme/rings --masks ground-truth --classes 2 --out kinds", capsys)
    found = json.loads(Path("kinds/findings.json").read_text("utf-8"))
    assert [image["id"] for image in found["images"]] == list(dataset.test.ids)
    assert all(Path(image["path"]).is_file() for image in found["images"])
    run("predict there --data hf:acme/rings@main --out results", capsys)
    run("inspect there --data hf:acme/rings --split train --out inspection", capsys)
    monkeypatch.setenv("ANOMALYHUB_STREAM_ABOVE", "100")
    run("evaluate there --data hf:acme/rings --json streamed.json", capsys)
    assert json.loads(Path("streamed.json").read_text("utf-8"))["aupro"] == local["aupro"]
    run("synthesize --data hf:acme/rings --count 2 --out painted", capsys)
    run("classify fit --model there --data hf:acme/rings --shots 1 --no-check --out named", capsys)
    run("classify predict named --data hf:acme/rings --out names", capsys)
    run("append there --data hf:acme/rings", capsys)
    assert {name: len(split) for name, split in training_products(["hf:acme/rings"], "test").items()} == {
        "ring": len(dataset.test)
    }
    assert "holds 1" not in run("export --data hf:acme/rings --out again", capsys)
    assert same(load_dataset("again").test, dataset.test)


READ = """
import json, os, sys, datasets
datasets.disable_progress_bars()
pictures = ("image", "mask", "clean")
found = {}
for repo, split in zip(sys.argv[1::2], sys.argv[2::2]):
    for streaming in (False, True):
        found[f"{repo} {streaming}"] = [
            [row["label"], [row[name] and row[name].tobytes().hex() for name in pictures if name in row]]
            for row in datasets.load_dataset(repo, split=split, streaming=streaming)
        ]
print(json.dumps(found), flush=True)
os._exit(0)  # a thread that streamed would abort the interpreter's end
"""


def test_hugging_face_datasets_reads_it_from_there(hub, tmp_path):
    """Ours in both formats, and synthetic defects, with masks, which lie in another folder than the images."""
    dataset = load_dataset(trees.loco(tmp_path / "from"))
    for format in ("imagefolder", "parquet"):
        hub.add("dataset", f"acme/{format}", contents(exported(tmp_path / format, dataset, format=format)))
    colours = Textures(("red", "blue"), lambda i: (np.eye(3)[[i]] * 240)[None].astype(np.uint8), "plain")
    (tmp_path / "painted").mkdir()
    write_synthetic(tmp_path / "painted", "disc", Synthesizer(discs(2), colours, SynthesisConfig("perlin"), 0), 2)
    hub.add("dataset", "acme/painted", contents(tmp_path / "painted"))
    asked = ["acme/imagefolder", "test", "acme/parquet", "test", "acme/painted", "train"]
    done = subprocess.run(
        [sys.executable, "-c", READ, *asked],
        env=environment(hub, tmp_path / "theirs"),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr

    def mask(sample) -> str | None:
        return None if sample.label == "good" else (sample.mask.astype(np.uint8) * 255).tobytes().hex()

    ours = [[dataset.classes.index(one.label), [one.image.tobytes().hex(), mask(one)]] for one in dataset.test]
    painted = [
        [one.label, [one.image.tobytes().hex(), mask(one), one.clean.tobytes().hex()]]
        for one in read_synthetic(tmp_path / "painted")
    ]
    assert json.loads(done.stdout) == {
        f"acme/{name} {streaming}": rows
        for name, rows in (("imagefolder", ours), ("parquet", ours), ("painted", painted))
        for streaming in (False, True)
    }
