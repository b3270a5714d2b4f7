"""`anomalyhub inspect` on the bundled sample: by a detector alone, with kinds from examples, and with a discovery's."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from test_cli import run
from test_report_inspection import read

from anomalyhub import cli
from anomalyhub.report.tables import read_predictions_csv

FILES = {"predictions.csv", "inspections.csv", "regions.csv", "regions.coco.json", "report.html", "summary.json"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder that holds `data` (the label, which is not square), a detector, an inspector and a discovery."""
    place = tmp_path_factory.mktemp("inspect")
    commands = [
        f"sample --out {place}/data --product label --train 8 --test 2 --defects 3 --size 64",
        f"fit patchcore --data {place}/data --out {place}/model",
        f"threshold {place}/model --value 1.2",
        f"classify fit --model {place}/model --data {place}/data --shots 2 --out {place}/named",
        f"discover --data {place}/data --model {place}/model --classes 3 --out {place}/found",
    ]
    for command in commands:
        assert cli.run(shlex.split(command)) == 0
    return place


@pytest.fixture
def here(place, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "model", "named", "found"):
        (tmp_path / name).symlink_to(place / name)
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check(out: Path, said: str) -> tuple[dict, Counter[str]]:
    """What holds of every inspection; its summary, and its images by label."""
    summary = json.loads((out / "summary.json").read_text())
    images, regions = rows(out / "inspections.csv"), rows(out / "regions.csv")
    predictions = read_predictions_csv(out / "predictions.csv")
    assert [row["path"] for row in images] == [row.path for row in predictions]
    assert [row["label"] for row in images] == [row.label for row in predictions]
    labels = Counter(row.label for row in predictions)
    found = len(predictions) - labels["good"]
    assert said.splitlines()[0] == f"{found} of {len(predictions)} images look defective: {out.name}/report.html"
    assert (summary["n_images"], summary["n_defective"]) == (len(predictions), found)
    assert {kind: one["images"] for kind, one in summary["kinds"].items() if one["images"]} == labels - Counter(
        good=labels["good"]
    )
    counts = Counter(row["path"] for row in regions)
    assert {row["path"]: int(row["n_regions"]) for row in images if row["n_regions"] != "0"} == counts
    assert all((row["n_regions"] != "0") == (row["is_anomalous"] == "true") for row in images)
    coco = json.loads((out / "regions.coco.json").read_text())
    names = {one["id"]: one["name"] for one in coco["categories"]}
    assert [names[one["category_id"]] for one in coco["annotations"]] == [row["kind"] for row in regions]
    for row in images:
        with Image.open(out / "overlays" / Path(row["path"]).with_suffix(".png")) as overlay:
            assert overlay.size == (80, 64)
    return summary, labels


def test_a_detector_alone(here, capfd):
    said = run(capfd, "inspect model --data data --out out")
    assert {path.name for path in (here / "out").iterdir()} == FILES | {"maps", "overlays"}
    summary, labels = check(here / "out", said)
    assert set(labels) == {"good", "anomalous"} and summary["model"]["kinds"] == []
    assert summary["model"]["name"] == "model" and summary["data"] == "label" and summary["threshold"]["value"] == 1.2
    run(capfd, "predict model --data data --out predicted")
    assert (here / "predicted" / "predictions.csv").read_bytes() == (here / "out" / "predictions.csv").read_bytes()
    assert "Inspection of label" in read((here / "out" / "report.html").read_text(encoding="utf-8")).text


def test_kinds_from_examples(here, capfd):
    said = run(capfd, "inspect named --data data --out out --no-maps")
    assert {path.name for path in (here / "out").iterdir()} == FILES | {"overlays"}
    summary, labels = check(here / "out", said)
    kinds = summary["model"]["kinds"]
    assert (
        len(kinds) >= 2 and set(labels) <= {"good", "unknown", *kinds} and summary["model"]["named_by"] == "prototype"
    )
    assert summary["model"]["examples"] == dict.fromkeys(kinds, 2)
    assert summary["model"]["leave_one_out"]["n"] == 2 * len(kinds)
    for row in rows(here / "out" / "inspections.csv"):
        assert (row["probability"] == "") == (row["label"] == "good")
        assert row["label"] == "good" or 0 < float(row["probability"]) <= 1
    text = read((here / "out" / "report.html").read_text(encoding="utf-8")).text
    assert "most similar normal patch, of train/" in text and "most similar example:" in text
    assert "were named rightly by a model of the others" in text


def test_kinds_of_a_discovery(here, capfd):
    said = run(capfd, "inspect model --data data --kinds found/model --out out --threshold 1.1")
    summary, labels = check(here / "out", said)
    assert summary["model"]["named_by"] == "clustering" and summary["threshold"]["method"] == "manual"
    assert set(labels) <= {"good", "unknown", *summary["model"]["kinds"]} and len(labels) > 1
    assert "Kinds were discovered without labels" in (here / "out" / "report.html").read_text(encoding="utf-8")
    run(capfd, "inspect model --data data --kinds found --out again --threshold 1.1")  # the folder above will do
    assert (here / "again" / "regions.csv").read_bytes() == (here / "out" / "regions.csv").read_bytes()


def test_damaged_images_are_named(here, capfd):
    (here / "data").unlink()
    shutil.copytree((here / "model").resolve().parent / "data", here / "data")
    broken = next((here / "data" / "label" / "test" / "good").glob("*.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    assert cli.run(shlex.split("inspect model --data data --out out")) == 2
    assert broken.name in capfd.readouterr().err and not (here / "out").exists()
    assert cli.run(shlex.split("inspect model --data data --out out --skip-unreadable")) == 0
    summary = json.loads((here / "out" / "summary.json").read_text())
    assert len(summary["skipped"]) == 1 and broken.name in summary["skipped"][0]
    assert broken.name in read((here / "out" / "report.html").read_text(encoding="utf-8")).text


def test_overwrite(here, capfd):
    (here / "out").mkdir()
    (here / "out" / "mine.txt").write_text("kept")
    assert cli.run(shlex.split("inspect model --data data --out out")) == 2
    assert "--overwrite" in capfd.readouterr().err and (here / "out" / "mine.txt").exists()
    run(capfd, "inspect model --data data --out out --overwrite")
    assert not (here / "out" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "named", "remedy"),
    [
        ("nowhere --data data", "nowhere", "give the --out folder of a fit"),
        ("data --data data", "data", "give"),
        ("model --data nowhere", "nowhere", "check the path"),
        ("model --data data --threshold nan", "nan", "give a score"),
        ("model --data data --split some", "some", "choose one of them"),
        ("model --data data --kinds model", "model", "discoverer"),
        ("model --data data --kinds nowhere", "nowhere", "does not exist"),
    ],
)
def test_bad_input(here, capfd, arguments, named, remedy):
    assert cli.run(shlex.split(f"inspect {arguments} --out out")) == 2
    error = capfd.readouterr().err.strip()
    assert named in error and remedy in error and "\n" not in error
    assert not (here / "out").exists()


def test_writing_over_the_model_is_refused(here, capfd):
    assert cli.run(shlex.split("inspect model --data data --out model --overwrite")) == 2
    assert "which this run reads" in capfd.readouterr().err and (here / "model" / "config.json").exists()
