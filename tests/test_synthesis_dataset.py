"""Synthetic data sets on disk: read as MVTec AD, by `datasets` and by read_synthetic; resumed to the same bytes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthesis_helpers import disc, discs, fabric

from anomalyhub.data import load_dataset
from anomalyhub.errors import Cancelled, InvalidArgumentError, InvalidDatasetError, InvalidImageError, OutputError
from anomalyhub.fsio import atomic_folder
from anomalyhub.pipeline.synthesize import SynthesizeConfig, preview_sheet, synthesize_to
from anomalyhub.synthesis import SynthesisConfig, Synthesizer, Textures, read_synthetic, write_synthetic
from anomalyhub.types import GOOD

COUNT = 14


def synthesizer(mask: str = "perlin", seed: int = 5) -> Synthesizer:
    colours = Textures(("red", "Ö blue", "lime"), lambda i: (np.eye(3)[[i]] * 240)[None].astype(np.uint8), "plain")
    return Synthesizer(discs(4), colours, SynthesisConfig(mask), seed)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=["perlin", "polygon"])
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    info = write_synthetic(folder, "disc", synthesizer(request.param), COUNT)
    return folder, info, synthesizer(request.param)


def test_it_is_read_back_as_it_was_drawn(written):
    folder, info, drawn = written
    found = read_synthetic(folder)
    assert len(found) == COUNT and found.product == "disc" and found.info == json.loads(json.dumps(info))
    assert found.labels == tuple(drawn.classes[i % len(drawn.classes)] for i in range(COUNT))
    assert found.classes == tuple(sorted(set(found.labels)))
    for index, sample in enumerate(found):
        expected = drawn.draw(index)
        for name in ("image", "mask", "clean"):
            assert np.array_equal(getattr(sample, name), getattr(expected, name)), name
        assert (sample.label, sample.parameters) == (expected.label, expected.parameters)
    assert [ref.id for ref in found[2:4].refs] == [found.refs[2].id, found.refs[3].id]
    assert found.select([5, 1]).labels == (found.labels[5], found.labels[1])
    assert np.array_equal(found[-1].image, found[COUNT - 1].image)


def test_it_says_what_it_is(written):
    folder, info, drawn = written
    assert sum(info["classes"].values()) == info["count"] == COUNT and info["seed"] == 5
    assert info["config"]["mask"] == drawn.config.mask and info["textures"]["names"] == list(drawn.textures.names)
    assert info["foreground"]["method"] == drawn.choice[0] and info["foreground"]["not_found_in"] == 0
    assert info["foreground"]["clean_images"] == len(list((folder / "disc/train/good").iterdir())) <= 4
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{COUNT} synthetic defects" in card and drawn.config.mask in card


def test_it_is_a_product_in_the_mvtec_layout(written):
    folder, _, drawn = written
    dataset = load_dataset(folder)
    assert (dataset.layout, dataset.product) == ("mvtec", "disc")
    found = read_synthetic(folder)
    assert dict(zip(dataset.test.ids, dataset.test.labels, strict=True)) == {
        ref.id.removeprefix("disc/"): ref.label for ref in found.refs
    }
    by_id = {ref.id.removeprefix("disc/"): ref for ref in found.refs}
    for sample in dataset.test:
        expected = by_id[sample.id].load()
        assert np.array_equal(sample.image, expected.image) and np.array_equal(sample.mask, expected.mask)
    normal = {ref.clean for ref in found.refs}
    assert {ref.path for ref in dataset.train.refs} == normal and set(dataset.train.labels) == {GOOD}


@pytest.mark.filterwarnings("ignore")  # of a library that only reads here
def test_hugging_face_datasets_reads_it(written, tmp_path):
    import datasets

    folder, _, drawn = written
    options = {"cache_dir": str(tmp_path)}
    by_card = datasets.load_dataset(str(folder), **options)["train"]
    files = {"train": ["metadata.jsonl"]}
    by_name = datasets.load_dataset("imagefolder", data_dir=str(folder), data_files=files, **options)["train"]
    for table in (by_card, by_name):
        assert table.column_names == ["image", "mask", "clean", "label", "parameters"] and len(table) == COUNT
        for index, row in enumerate(table):
            expected = drawn.draw(index)
            assert np.array_equal(np.asarray(row["image"]), expected.image)
            assert np.array_equal(np.asarray(row["clean"]), expected.clean)
            assert np.array_equal(np.asarray(row["mask"]), expected.mask.astype(np.uint8) * 255)
            assert (row["label"], row["parameters"]) == (expected.label, expected.parameters)


class _Stop:
    """A progress that stops the call after some images."""

    def __init__(self, after: int):
        self.left = after

    def __call__(self, fraction: float, text: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled("stopped")


def test_interrupted_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    whole, parts, checkpoints = (tmp_path / name for name in ("whole", "parts", "checkpoints"))
    whole.mkdir()
    write_synthetic(whole, "disc", synthesizer(), COUNT)
    drawn = []
    draw = Synthesizer.draw
    monkeypatch.setattr(Synthesizer, "draw", lambda self, index: drawn.append(index) or draw(self, index))
    for after in (4, 5):
        with pytest.raises(Cancelled):
            write_synthetic(parts, "disc", synthesizer(), COUNT, progress=_Stop(after), checkpoints=checkpoints)
        assert not parts.exists()
    assert drawn == [0, 1, 2, 3, 4, 5]
    done = checkpoints / "done.jsonl"
    for torn in (done.read_bytes()[:-20], done.read_bytes()[:-1]):  # killed while it wrote the last line
        done.write_bytes(torn)
        (checkpoints / "images/disc/test/lime/001.png").write_bytes(b"half")
        parts.mkdir()
        write_synthetic(parts, "disc", synthesizer(), COUNT, checkpoints=checkpoints)
        assert contents(parts) == contents(whole)
        assert drawn[6:] == list(range(5, COUNT))
        shutil.rmtree(parts)
        del drawn[6:]
        done.write_bytes(b"".join(done.read_bytes().splitlines(keepends=True)[:6]))


def test_checkpoints_of_something_else_are_not_taken(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    for seed, count in ((5, COUNT), (6, COUNT), (6, COUNT - 1)):
        folders = [tmp_path / f"{seed}-{count}-{name}" for name in ("plain", "resumed")]
        for folder, kept in zip(folders, (None, checkpoints), strict=True):
            folder.mkdir()
            write_synthetic(folder, "disc", synthesizer(seed=seed), count, checkpoints=kept)
        assert contents(folders[0]) == contents(folders[1])


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, checkpointed):
    write, written = Path.write_bytes, []

    def full(self, data):
        if len(written) == 9:
            write(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        written.append(self)
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    checkpoints = tmp_path / "checkpoints" if checkpointed else None
    with pytest.raises(OutputError, match="No space left on device; free some space") as caught:
        with atomic_folder(tmp_path / "out") as staged:
            write_synthetic(staged, "disc", synthesizer(), COUNT, checkpoints=checkpoints)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"] * checkpointed
    monkeypatch.undo()
    if checkpointed:  # with space again, it goes on behind what was complete
        assert len((checkpoints / "done.jsonl").read_text(encoding="utf-8").splitlines()) >= 2
        for name, kept in (("resumed", checkpoints), ("whole", None)):
            (tmp_path / name).mkdir()
            write_synthetic(tmp_path / name, "disc", synthesizer(), COUNT, checkpoints=kept)
        assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_a_checkpoint_folder_that_is_removed_meanwhile_does_not_come_back(tmp_path):
    folder, checkpoints = tmp_path / "out", tmp_path / "job" / "checkpoints"
    folder.mkdir()

    def remove(fraction: float, text: str) -> None:
        shutil.rmtree(tmp_path / "job", ignore_errors=True)

    with pytest.raises(OutputError, match="removed its folder meanwhile: start again"):
        write_synthetic(folder, "disc", synthesizer(), COUNT, progress=remove, checkpoints=checkpoints)
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "is not a synthetic data set"),
        (lambda folder: (folder / "synthetic.json").unlink(), "synthetic.json: No such file"),
        (lambda folder: (folder / "metadata.jsonl").unlink(), "metadata.jsonl: No such file"),
        (lambda folder: (folder / "synthetic.json").write_text("{"), "synthetic.json: damaged"),
        (lambda folder: (folder / "synthetic.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "synthetic.json").write_text('{"schema": 99}'), "newer AnomalyHub"),
        (lambda folder: (folder / "metadata.jsonl").write_text("{}\n"), "line 1 of .*damaged"),
        (lambda folder: replace(folder, "disc/test/red/001.png", "../../etc/x.png"), "line 4 of .*leaves the folder"),
        (lambda folder: replace(folder, "disc/test/red/001.png", "/etc/x.png"), "line 4 of .*leaves the folder"),
        (lambda folder: replace(folder, '"label": "lime"', '"lable": "lime"'), "line 3 of .*label"),
    ],
)
def test_what_is_not_one_is_refused(tmp_path, change, message):
    folder = tmp_path / "set"
    folder.mkdir()
    write_synthetic(folder, "disc", synthesizer(), 6)
    assert len(read_synthetic(folder)) == 6
    change(folder)
    with pytest.raises(InvalidDatasetError, match=message):
        read_synthetic(folder)


def replace(folder: Path, old: str, new: str) -> None:
    path = folder / "metadata.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def test_a_missing_image_is_named(tmp_path):
    write_synthetic(tmp_path, "disc", synthesizer(), 3)
    found = read_synthetic(tmp_path)
    found.refs[1].clean.unlink()
    with pytest.raises(InvalidImageError, match="train/good/"):
        list(found)


@pytest.fixture(scope="module")
def product(tmp_path_factory) -> Path:
    """Four normal discs, a defective one and a normal one in the test split, and one that is no image."""
    root = tmp_path_factory.mktemp("data") / "disc"
    names = [f"train/good/{i}.png" for i in range(4)] + ["test/good/8.png", "test/bent/9.png"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(disc(int(Path(name).stem))[0]).save(root / name)
    return root


def test_only_normal_training_images_are_painted_on(product, tmp_path):
    made = synthesize_to(tmp_path, SynthesizeConfig(str(product), settings={"size": "40"}, count=60))
    sources = {entry.parameters["source"] for entry in read_synthetic(tmp_path).refs}
    assert sources == {f"train/good/{i}.png" for i in range(4)} and made.notices == () == made.skipped
    assert made.info["product"] == "disc" and read_synthetic(tmp_path)[0].image.shape == (30, 40, 3)


def test_a_list_of_images_and_a_foreground_that_is_not_found(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(fabric(i)).save(path)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    images = tuple((path.stem, str(path)) for path in (*paths, tmp_path / "torn.png"))
    settings = {"mask": "poisson", "foreground": "grabcut"}
    config = SynthesizeConfig(images=images, product="a/b", count=12, settings=settings, skip_unreadable=True)
    made = synthesize_to((tmp_path / "out").mkdir() or tmp_path / "out", config, seed=1)
    assert len(made.skipped) == 1 and "torn.png" in made.skipped[0]
    assert made.info["foreground"]["not_found_in"] == 3 == made.info["foreground"]["clean_images"]
    assert "no foreground in 3 of 3 images" in made.notices[0]
    assert load_dataset(tmp_path / "out").product == "a_b" and len(read_synthetic(tmp_path / "out")) == 12


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either data"),
        ({"data": "x", "images": ()}, "either data"),
        ({"images": (("a",),)}, "pairs of two texts"),
        ({"data": "x", "count": 0}, "at least 1"),
        ({"data": "x", "settings": {"mask": "circle"}}, "perlin"),
        ({"data": "x", "settings": {"colour": "red"}}, "unknown setting 'colour'"),
    ],
)
def test_bad_configs_are_refused_before_anything_is_read(values, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SynthesizeConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": ()}, "no normal images"),
        ({"images": (("a", "missing.png"),), "skip_unreadable": True}, "none of the 1 images"),
    ],
)
def test_no_images_are_an_error(tmp_path, values, message):
    with pytest.raises(InvalidDatasetError, match=message):
        synthesize_to(tmp_path, SynthesizeConfig(**values))
    assert not any(tmp_path.iterdir())


def test_the_preview_shows_foreground_mask_and_result(product):
    config = SynthesizeConfig(str(product), count=60)
    sheet = preview_sheet(config, seed=2, columns=3)
    assert sheet.shape == (3 * 192, 3 * 192, 3) and sheet.dtype == np.uint8
    assert np.array_equal(sheet, preview_sheet(config, seed=2, columns=3))
    middle = sheet[192 + 30 : 2 * 192 - 30, 4:188]  # a mask is black and white, and has both
    assert set(np.unique(middle)) == {0, 255}
    assert preview_sheet(SynthesizeConfig(str(product), count=2)).shape == (3 * 192, 2 * 192, 3)
