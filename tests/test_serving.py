"""The app's API, as the README shows it: its own lines run against a running app."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from ui_helpers import photo, save
from ui_server import ROOT, serve

from anomalyhub.errors import InvalidArgumentError, InvalidUploadError
from anomalyhub.jobs import JobStore
from anomalyhub.ui.serving import Models, inspect_images
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

ADDRESS = "http://127.0.0.1:7860"
README = ROOT / "README.md"


def example() -> str:
    """The README's Python blocks that use the client, as one program."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    return "\n".join(block for block in blocks if "handle_file" in block)


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A working folder with normal photos, and new ones of which the last has a spot; not square."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(8):
        save(tmp_path / "normal" / f"{number}.png", photo(rng))
    for name, spot in (("a", False), ("b", False), ("c", True)):
        save(tmp_path / "new" / f"{name}.png", photo(rng, spot))
    return tmp_path


def test_the_example_of_the_readme(photos):
    program = example()
    assert program.count(ADDRESS) == 2 and "/inspect_images" in program
    with serve(photos) as address:
        names, said = {}, io.StringIO()
        with redirect_stdout(said):
            exec(compile(program.replace(ADDRESS, address.rstrip("/")), "README.md", "exec"), names)
        answer = names["answer"]
        with pytest.raises(Exception, match="there is no model 'nothing' in this app"):
            names["line"].predict(images=names["files"], model="nothing", api_name="/inspect_images")
    images = {one["image"]: one for one in answer["images"]}
    assert {name: one["verdict"] for name, one in images.items()} == {
        "a.png": "normal",
        "b.png": "normal",
        "c.png": "defective",
    }
    x0, y0, x1, y1 = images["c.png"]["regions"][0]["box"]
    assert (
        x0 < 64
        and x1 > 44
        and y0 < 34
        and y1 > 14
        and (images["c.png"]["width"], images["c.png"]["height"]) == (72, 48)
    )
    assert answer["left_out"] == [] and answer["model"]["detector"] == "patchcore"
    table = {row[0]: row for row in names["table"]["data"]}
    assert {name: row[3] for name, row in table.items()} == {name: one["verdict"] for name, one in images.items()}
    for name, one in images.items():
        assert table[name][1] == pytest.approx(one["score"], abs=1e-3)
        assert f"{name}: {one['verdict']}, score {table[name][1]}" in said.getvalue()
    path = re.search(r"all of it: (.*)", said.getvalue())[1]
    with open(path, encoding="utf-8", newline="") as file:
        assert {row["path"]: row["is_anomalous"] for row in csv.DictReader(file)} == {
            name: "true" if one["verdict"] == "defective" else "false" for name, one in images.items()
        }


# --------------------------------------------------------------------------------------------- without a server


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Models, str]:
    """The models of an app that has learned one, and its id."""
    from ui_helpers import learn

    from anomalyhub.ui import detect

    place = tmp_path_factory.mktemp("serving")
    rng = np.random.default_rng(0)
    paths = [save(place / f"{number}.png", photo(rng)) for number in range(6)]
    session, work = Session(), Work(place / "home")
    detect.use_uploads(session, [str(path) for path in paths])
    learn(session, work)
    return Models(work), session.fit_job


def test_what_cannot_be_read_is_said(models, tmp_path):
    good = save(tmp_path / "good.png", photo(np.random.default_rng(5)))
    (tmp_path / "bad.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "notes.txt").write_text("no image")
    paths = [str(tmp_path / name) for name in ("good.png", "bad.png", "notes.txt")]
    answer = inspect_images(models[0], paths, models[1])
    assert [one["image"] for one in answer["images"] if one["verdict"]] == ["good.png"]
    said = json.dumps(answer)
    assert "bad.png" in said and "notes.txt" in said and str(tmp_path) not in said
    with pytest.raises(InvalidUploadError):
        inspect_images(models[0], paths[2:], models[1])


def test_verdicts_do_not_depend_on_the_company(models, tmp_path):
    rng = np.random.default_rng(7)
    paths = [str(save(tmp_path / f"{n}.png", photo(rng, spot=n == 1))) for n in range(3)]
    together = inspect_images(models[0], paths, models[1])["images"]
    alone = [inspect_images(models[0], [path], models[1])["images"][0] for path in paths]
    assert [one["score"] for one in alone] == pytest.approx([one["score"] for one in together], rel=1e-5)
    assert [one["verdict"] for one in together] == ["normal", "defective", "normal"]


@pytest.mark.parametrize("job_id", ["", "none", "../../etc", None, 3, {"model": 1}])
def test_ids_that_are_none(models, tmp_path, job_id):
    with pytest.raises(InvalidArgumentError, match="there is no model"):
        models[0][job_id]


def test_models_stay_loaded_but_not_all(models, monkeypatch):
    known, job_id = models
    first = known[job_id]
    assert known[job_id] is first
    monkeypatch.setattr("anomalyhub.ui.serving._LOADED", 0)
    assert known[job_id] is first and not known._loaded
    assert known[job_id] is not first


def test_a_model_of_another_app_is_not_reached(models, tmp_path):
    with pytest.raises(InvalidArgumentError, match="there is no model"):
        Models(Work(tmp_path / "other"))[models[1]]
    assert JobStore(models[0].work.home / "jobs").get(models[1]).result is not None


def test_a_detector_that_compares_images_is_refused(models, monkeypatch):
    known, job_id = models
    monkeypatch.setattr(known[job_id].detector, "transductive", True)
    known._loaded.clear()
    from anomalyhub.pipeline import Inspector

    plain = Inspector.load

    def load(folder):
        inspector = plain(folder)
        inspector.detector.transductive = True
        return inspector

    monkeypatch.setattr(Inspector, "load", load)
    with pytest.raises(InvalidArgumentError, match="judges images by each other"):
        known[job_id]
