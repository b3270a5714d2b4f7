"""The verb `export`: what it writes, says and refuses."""

from __future__ import annotations

import subprocess
import sys

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import write_image

from anomalyhub import cli
from anomalyhub.data import list_products, load_dataset
from anomalyhub.data.sample import write_sample
from anomalyhub.hub.front_matter import read_front_matter


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "sample", products=("ring", "label"), size=64, n_train=3, n_test_good=1, n_defect=1)
    return tmp_path


def run(arguments: str, capsys) -> tuple[int, str, str]:
    code = cli.run(arguments.split())
    return code, *capsys.readouterr()


@pytest.mark.parametrize("format", ["imagefolder", "parquet"])
def test_one_product_or_all_of_them(here, capsys, format):
    code, out, _ = run(f"export --data sample --product ring --license cc-by-4.0 --format {format} --out one", capsys)
    dataset = load_dataset(here / "sample/ring")
    assert code == 0 and f"ring: 3 train, {len(dataset.test)} test images" in out and "wrote one" in out
    again = sorted(load_dataset(here / "one").split("all"), key=lambda sample: sample.id)
    for found, expected in zip(again, dataset.split("all"), strict=True):
        assert (found.id, found.label) == (expected.id, expected.label)
        assert np.array_equal(found.image, expected.image) and np.array_equal(found.mask, expected.mask)
    assert read_front_matter((here / "one/README.md").read_text("utf-8"))["license"] == "cc-by-4.0"
    assert run(f"export --data sample --format {format} --out all", capsys)[0] == 0
    assert list_products(here / "all") == ("label", "ring")
    code, out, _ = run(f"export --data one --format {format} --out again", capsys)  # and from one format to the other
    assert code == 0 and load_dataset(here / "again").test.ids == dataset.test.ids


def test_a_folder_of_images(here, capsys):
    trees.flat(here)
    (here / "part/damaged.png").write_bytes(b"")
    code, _, err = run("export --data part --out out", capsys)
    assert code == 2 and "damaged.png is empty" in err and not (here / "out").exists()
    code, out, err = run("export --data part --skip-unreadable --out out", capsys)
    assert code == 0 and "skipped: " in err and "part: 4 train images" in out
    assert load_dataset(here / "out").train.ids == ("a.jpg", "b.png", "c.bmp", "d.tif")


REFUSED = [
    ("--data sample --product rings --out out", "did you mean 'ring'"),
    ("--data sample --format zip --out out", "unknown format 'zip': choose one of imagefolder, parquet"),
    ("--data nowhere --out out", "nowhere does not exist"),
    ("--data sample --out sample", "which this run reads"),
    ("--data sample --out sample --overwrite", "which this run reads"),
    ("--data sample/ring --out sample/ring/test/out", "lies inside"),
    ("--data sample --license what,ever --out out", "licen"),
    ("--data hf:nowhere --out out", "OWNER/NAME"),
]


@pytest.mark.parametrize(("arguments", "fragment"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_refused(here, capsys, arguments, fragment):
    code, _, err = run(f"export {arguments}", capsys)
    assert code == 2 and fragment in err and err.count("\n") == 1
    assert not (here / "out").exists() and len(load_dataset(here / "sample/ring").test) > 0


def test_twice_is_the_same(here, capsys):
    for name in ("a", "b"):
        assert run(f"export --data sample --format parquet --out {name}", capsys)[0] == 0
    files = [path.relative_to(here / "a") for path in (here / "a").rglob("*") if path.is_file()]
    assert len(files) == 5
    assert all((here / "a" / file).read_bytes() == (here / "b" / file).read_bytes() for file in files)


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path):
    write_image(tmp_path / "train/good/a.png")
    code = (
        "import sys; from anomalyhub import cli; cli.run(['export', '--help'])\n"
        "from anomalyhub.data import load_dataset; load_dataset(sys.argv[1])\n"
        "heavy = {'pyarrow', 'datasets', 'pandas', 'torch', 'huggingface_hub', 'yaml'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
