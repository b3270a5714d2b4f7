"""`anomalyhub synthesize` on tiny discs: what it writes and prints, the preview, and bad input."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthesis_helpers import disc, fabric
from test_cli import run

from anomalyhub import cli
from anomalyhub.data import load_dataset
from anomalyhub.pipeline.synthesize import SynthesizeConfig, synthesize_to
from anomalyhub.synthesis import read_synthetic


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """data/disc in the MVTec layout, textures/CLASS/*.png, a folder without images, and one with something in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("train/good/0", "train/good/1", "train/good/2", "test/bent/7"):
        save(Path("data/disc", f"{name}.png"), disc(int(name[-1]))[0])
    for number, name in enumerate(("rust", "paint", "paint")):
        save(Path("textures", name, f"{number}.png"), fabric(number, (30, 40)))
    save(Path("torn/train/good/0.png"), disc(0)[0])
    Path("torn/train/good/1.png").write_bytes(Path("torn/train/good/0.png").read_bytes()[:500])
    save(Path("tested/test/bent/0.png"), disc(0)[0])
    for folder in ("empty", "full"):
        Path(folder).mkdir()
    Path("full/keep.txt").write_text("mine")
    return tmp_path


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def contents(folder: str | Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_it_writes_a_data_set(here, capfd):
    words = "--data data --product disc --textures textures --mask polygon --count 9 --set beta=0.7 --seed 3"
    out = run(capfd, f"synthesize {words} --out painted")
    assert out.splitlines()[0] == "9 images of 8 pseudo-classes: painted" and "foreground: " in out.splitlines()[1]
    found = read_synthetic("painted")
    assert found.labels[:5] == ("paint_x_3", "paint_x_4", "paint_x_5", "paint_x_6", "rust_x_3")
    assert {ref.parameters["beta"] for ref in found.refs} == {0.7}
    assert load_dataset("painted").product == "disc"
    settings = {"mask": "polygon", "beta": "0.7"}
    Path("expected").mkdir()
    synthesize_to(Path("expected"), SynthesizeConfig("data", "disc", None, "textures", 9, settings), seed=3)
    assert contents("painted") == contents("expected")


def test_without_textures_they_are_drawn(here, capfd):
    out = run(capfd, "synthesize --data data/disc --count 50 --mask poisson --out painted")
    assert out.startswith("50 images of 48 pseudo-classes: painted\n")
    again = run(capfd, "synthesize --data data/disc --count 50 --mask poisson --out painted --overwrite")
    assert again == out and len(load_dataset("painted").test) == 50


def test_a_preview_writes_its_picture_and_nothing_else(here, capfd):
    before = set(contents("."))
    out = run(capfd, "synthesize --data data --product disc --out painted --preview pictures/look.png")
    assert out == "foreground, mask and result of a few images: pictures/look.png\n"
    assert set(contents(".")) - before == {"pictures/look.png"}
    with Image.open("pictures/look.png") as image:
        assert image.size == (6 * 192, 3 * 192)


def test_what_was_left_out_or_not_found_is_said(here, capfd):
    save(Path("torn/train/good/2.png"), np.full((40, 60, 3), 80, np.uint8))
    words = "synthesize --data torn --out painted --count 8 --set foreground=grabcut --skip-unreadable"
    assert cli.run(words.split()) == 0
    out, err = capfd.readouterr()
    assert out.startswith("8 images of 8 pseudo-classes")
    notice, skipped = err.splitlines()
    assert notice.startswith("anomalyhub: grabcut found no foreground in 1 of 2 images") and "good/1.png" in skipped


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--data data --product disc", "give --out, or --preview"),
        ("--data data --product disk --out o", "did you mean 'disc'"),
        ("--data missing --out o", "does not exist"),
        ("--data empty --out o", "holds no images"),
        ("--data tested --out o", "no normal images"),
        ("--data torn --out o", "1.png is truncated"),
        ("--data data/disc --textures empty --out o", "textures folder empty holds no images: give a folder"),
        ("--data data/disc --textures nowhere --out o", "textures folder nowhere does not exist"),
        ("--data data/disc --mask circle --out o", "setting mask='circle' is not one of perlin, poisson, polygon"),
        ("--data data/disc --mask perlin --set mask=poisson --out o", "given twice"),
        ("--data data/disc --set beta=2 --out o", "beta must be"),
        ("--data data/disc --set betta=2 --out o", "did you mean 'beta'"),
        ("--data data/disc --count 0 --out o", "--count"),
        ("--data data/disc --count many --out o", "--count"),
        ("--data data/disc --out full", "full is not empty"),
        ("--data data/disc --out data/disc/painted", "inside"),
        ("--data data/disc --textures textures --out textures --overwrite", "textures"),
        ("--data data/disc --preview look.gif", "look.gif is no .png or .jpg file"),
        ("--data data/disc --preview full/keep.txt/look.png", "is a file, not a folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(here, capfd, words, says):
    before = contents(".")
    assert cli.run(["synthesize", *shlex.split(words)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("anomalyhub: ") and err.count("\n") == 1 and says in err
    assert contents(".") == before and not Path("o").exists()


def test_a_full_disk(here, capfd, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    before = contents(".")
    monkeypatch.setattr(Path, "write_bytes", full)
    assert cli.run("synthesize --data data/disc --out new/painted".split()) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "No space left on device; free some space" in err
    assert contents(".") == before and not Path("new").exists()


def test_only_the_first_process_writes(here, capfd, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run(capfd, "synthesize --data data/disc --count 3 --out painted") == ""
    assert not Path("painted").exists()
