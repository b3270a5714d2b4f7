"""`anomalyhub binarize` on maps as `predict` writes them: masks, table, the fitted range for later, and bad input."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from test_cli import run
from test_readme import parse

from anomalyhub import MEBin, cli
from anomalyhub.regions import FixedThreshold, OtsuThreshold
from anomalyhub.report.results import write_results
from anomalyhub.types import AnomalyMap, Inspection, Sample

COLUMNS = ["path", "threshold", "n_regions", "interval_low", "interval_high", "area_px"]


def scores_of(peak: float, place: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """A gentle slope with one round peak."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    distance = (rows - place[0]) ** 2 + (columns - place[1]) ** 2
    return (0.001 * columns + peak * np.exp(-distance / 128)).astype(np.float32)


MAPS = {
    "test/good/1.png": scores_of(0.0, (0, 0), (48, 64)),
    "test/bent/1.png": scores_of(1.0, (20, 30), (48, 64)),
    "test/bent/2.png": scores_of(0.6, (30, 12), (60, 40)),
    "=test/1.png": scores_of(0.8, (24, 24), (48, 64)),  # what a spreadsheet would run
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A predict's --out folder, by the writer that predict uses."""
    folder = tmp_path_factory.mktemp("predicted") / "results"
    folder.mkdir()
    pairs = []
    for name, scores in MAPS.items():
        peak = float(scores.max())
        sample = Sample(name, np.zeros((*scores.shape, 3), np.uint8))
        pairs.append((sample, Inspection(name, peak, None, peak > 0.5, AnomalyMap(scores, peak))))
    write_results(folder, pairs, 0.5)
    return folder


@pytest.fixture
def here(results, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(results)
    return tmp_path


def table(folder: str) -> dict[str, dict[str, str]]:
    with open(Path(folder, "thresholds.csv"), encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return {row["path"]: row for row in reader}


def mask(folder: str, name: str) -> np.ndarray:
    with Image.open(Path(folder, "masks", f"{name}.png")) as image:
        values = np.asarray(image)
    assert image.mode == "L" and set(np.unique(values)) <= {0, 255}
    return values == 255


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("options", "binarizer"),
    [
        ("", MEBin()),
        ("--kernel 3 --step 2 --min-interval 9", MEBin(kernel=3, step=2, min_interval=9)),
        ("--method otsu", OtsuThreshold()),
        ("--method fixed --value 0.4 --kernel 1", FixedThreshold(value=0.4, kernel=1)),
    ],
)
def test_masks_and_table(here, capfd, options, binarizer):
    out = run(capfd, f"binarize results/maps --out masks {options}")
    binarizer.fit(MAPS.values())
    rows, n_found = table("masks"), 0
    assert list(rows) == ["./=test/1.npy", "test/bent/1.npy", "test/bent/2.npy", "test/good/1.npy"]
    for name, scores in MAPS.items():
        name = name.removesuffix(".png")
        expected, row = binarizer.binarize(scores), rows["./" * name.startswith("=") + name + ".npy"]
        assert np.array_equal(mask("masks", name), expected.mask)
        assert np.float32(row["threshold"]) == np.float32(expected.threshold)  # to the last bit
        interval = tuple(float(row[end]) for end in ("interval_low", "interval_high") if row[end])
        assert interval == pytest.approx(expected.interval or ())
        assert (int(row["n_regions"]), int(row["area_px"])) == (expected.n_regions, expected.mask.sum())
        n_found += expected.n_regions > 0
    assert out == f"{n_found} of 4 maps have anomalous regions: masks/thresholds.csv\n" and n_found >= 3
    stored = json.loads(Path("masks/binarizer.json").read_text())
    assert stored == json.loads(json.dumps(binarizer.to_json()))
    assert set(files(Path("masks"))) == {"thresholds.csv", "binarizer.json"} | {
        f"masks/{name}" for name in MAPS
    }  # and nothing else


def test_one_map_later(here, capfd):
    """The range of the first run serves a single map, which has none of its own."""
    run(capfd, "binarize results/maps --out first --kernel 3")
    assert run(capfd, "binarize results/maps/test/bent/2.npy --fitted first --out later").startswith("1 of 1 maps")
    assert table("later")["2.npy"] == {**table("first")["test/bent/2.npy"], "path": "2.npy"}
    assert np.array_equal(mask("later", "2"), mask("first", "test/bent/2"))
    assert cli.run("binarize results/maps/test/bent/2.npy --out alone".split()) == 2
    assert "maps of several images" in capfd.readouterr().err and not Path("alone").exists()


def test_maps_of_eight_bits_keep_their_values(here, capfd):
    for name, scores in MAPS.items():
        path = Path("eight", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((scores * 200).astype(np.uint8)).save(path)
    run(capfd, "binarize eight --out masks")
    expected = MEBin().fit([(scores * 200).astype(np.uint8) for scores in MAPS.values()])
    found = expected.binarize((MAPS["test/bent/1.png"] * 200).astype(np.uint8))
    row = table("masks")["test/bent/1.png"]
    assert row["threshold"] == f"{found.threshold:.0f}" and np.array_equal(mask("masks", "test/bent/1"), found.mask)
    assert table("masks")["test/good/1.png"] == {
        **{"path": "test/good/1.png", "threshold": "255", "n_regions": "0"},
        **{"interval_low": "", "interval_high": "", "area_px": "0"},
    }


def test_overwrite(here, capfd):
    run(capfd, "binarize results/maps --out masks --method otsu")
    before = files(Path("masks"))
    assert cli.run("binarize results/maps --out masks".split()) == 2
    assert "--overwrite" in capfd.readouterr().err and files(Path("masks")) == before
    run(capfd, "binarize results/maps --out masks --overwrite")
    run(capfd, "binarize results/maps --out again")
    assert files(Path("masks")) == files(Path("again")) != before


def test_help(capfd):
    assert cli.run(["binarize", "--help"]) == 0
    out, err = capfd.readouterr()
    assert err == "" and typer.main.get_command(cli.app).commands["binarize"].help
    examples = [line.strip() for line in out.split("Example:")[1].splitlines() if line.strip()]
    assert len(examples) == 3
    for line in examples:
        parse(line.removeprefix("anomalyhub "))


@pytest.fixture
def damaged(here) -> Path:
    for folder in ("empty", "nan", "cube", "mixed", "flat", "colour", "full", "broken"):
        Path(folder).mkdir()
    good, bad = MAPS["test/bent/1.png"], np.full((3, 4), np.nan)
    np.save("nan/1.npy", good)
    np.save("nan/2.npy", bad)
    np.save("cube/1.npy", np.zeros((3, 4, 5)))
    np.save("mixed/1.npy", good)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save("mixed/2.png")
    np.save("flat/1.npy", np.ones((3, 4)))
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3)).save("colour/1.png")
    Path("full/mine.txt").write_text("mine")
    Path("broken/binarizer.json").write_text('{"method": "mebin", "config": {}, "range": {}}')
    return here


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ("nowhere --out o", ["nowhere", "does not exist", "check the path"]),
        ("empty --out o", ["empty", "holds no anomaly maps", "give a folder"]),
        ("nan --out o", ["nan/2.npy", "12 of 12 scores that are NaN", "leave it out"]),
        ("cube --out o", ["cube/1.npy", "shape (3, 4, 5)", "save each image's scores"]),
        ("mixed --out o", ["2.png has 8 bits", "unlike those before it", "give maps of one kind"]),
        ("flat --out o", ["every score of the maps is 1", "check the detector"]),
        ("colour --out o", ["colour/1.png", "coloured picture", "give the raw scores"]),
        ("results --out o", ["overlays", "coloured picture", "raw scores"]),  # the folder above maps/
        ("results/maps --out full", ["full", "not empty", "--overwrite"]),
        ("results/maps --out results --overwrite", ["results", "which this run reads", "choose another --out"]),
        ("results/maps --out results/maps/masks", ["inside", "read as maps", "choose an --out outside"]),
        ("results/maps --out o --method best", ["'best'", "unknown binarization method", "fixed, mebin, otsu"]),
        ("results/maps --out o --method otsu --step 4", ["unknown setting 'step'", "choose one of kernel"]),
        ("results/maps --out o --value 0.5", ["unknown setting 'value'", "kernel, min_interval, step"]),
        ("results/maps --out o --method fixed --value 2", ["value must be between 0.0 and 1.0", "got 2.0"]),
        ("results/maps --out o --kernel 0", ["kernel must be between 1 and 255", "got 0"]),
        ("results/maps --out o --kernel big", ["--kernel", "anomalyhub binarize --help"]),
        ("results/maps --out o --fitted empty", ["empty", "binarizer.json", "--out folder"]),
        ("results/maps --out o --fitted broken", ["the stored binarization is damaged", "fit again"]),
        ("results/maps --out o --fitted broken --kernel 3", ["--fitted brings its own", "leave out"]),
        ("results/maps", ["--out", "Missing option"]),
    ],
)
def test_bad_input(damaged, capfd, arguments, fragments):
    before = files(damaged)
    assert cli.run(["binarize", *shlex.split(arguments)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("anomalyhub: ") and err.count("\n") == 1
    assert [fragment for fragment in fragments if fragment not in err] == [], err
    assert files(damaged) == before and not Path("o").exists()
