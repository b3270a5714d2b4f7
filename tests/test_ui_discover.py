"""The Discover tab without a browser: choosing, the job, the board, what is refused, and what the page shows."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from discover_tab_helpers import done_job
from PIL import Image

from anomalyhub.data import SampleRef, Split
from anomalyhub.errors import (
    AnomalyHubError,
    InvalidArgumentError,
    InvalidDatasetError,
    InvalidModelError,
    InvalidUploadError,
)
from anomalyhub.locks import open_lock
from anomalyhub.ui import board, board_view, discover, discover_tab, sources
from anomalyhub.ui.discover import Settings, Visit
from anomalyhub.ui.session import Session, Source
from anomalyhub.ui.work import Work

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path / "home")


@pytest.fixture
def session():
    session = Session()
    yield session
    session.close()


@pytest.fixture
def visit(work, tmp_path) -> Visit:
    """A visit whose discovery is done; see START."""
    visit = Visit()
    discover.recall(visit, {"job": done_job(work, tmp_path / "scratch")}, work)
    return visit


START = {"kind_1": [0, 1, 3], "kind_2": [2, 4, 7], "kind_3": [6, 5], "unknown": [8]}


def held(visit: Visit, work: Work) -> dict[str, list[int]]:
    return {column.name: column.crops for column in board.opened(visit, work).columns()}


def photos(folder: Path, count: int = 4, maps: bool = False) -> list[str]:
    """Files of (40, 56) images, or of their maps as arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(0), []
    for i in range(count):
        path = folder / f"{i}.{'npy' if maps else 'png'}"
        if maps:
            scores = rng.random((80, 112), np.float32) / 10
            scores[20:52, 16 + 4 * i : 48 + 4 * i] += 1
            np.save(path, scores)
        else:
            Image.fromarray(rng.integers(90, 140, (40, 56, 3), np.uint8)).save(path)
        paths.append(str(path))
    return paths


def submitted(work: Work, monkeypatch, kind: str = "discover", status: str = "done") -> list[dict]:
    """What would be queued, instead of queuing it: each is a job of that kind that has ended at once."""
    asked = []

    def submit(wanted, config, *, name="", seed=0):
        asked.append({"kind": wanted, "config": config, "name": name, "seed": seed})
        job = work.store.get(done_job(work, work.home / f"other-{len(asked)}", number=100 + len(asked)))
        (job.folder / "config.json").write_text(json.dumps({"kind": kind, "config": config}))
        if status != "done":
            (job.folder / "result").rename(job.folder / "gone")
            (job.folder / "status.json").write_text(json.dumps({"status": status, "error": "out of order"}))
        return job

    monkeypatch.setattr(work.store, "submit", submit)
    return asked


def learned(session: Session, work: Work, tmp_path: Path) -> Path:
    """The session has learned "cloth"; the folder of its model."""
    folder = work.store.root / "20260101-000000-0000000f"
    (folder / "result").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"kind": "fit", "config": {}}))
    (folder / "status.json").write_text(json.dumps({"status": "done"}))
    refs = [SampleRef(f"test/{Path(path).name}", Path(path), "hole") for path in photos(tmp_path / "tests")]
    session.source, session.fit_job = Source("cloth", Split(refs), Split(refs), "upload"), folder.name
    return folder / "result"


# Step 1.


def test_images_of_the_detect_tab(session, work, tmp_path, monkeypatch):
    visit = Visit()
    with pytest.raises(InvalidArgumentError, match="nothing has been learned on the Detect tab yet"):
        discover.use_detect(session, visit, work)
    model = learned(session, work, tmp_path)
    assert discover.use_detect(session, visit, work).startswith("4 images of cloth; defects found by the Detect tab")
    asked = submitted(work, monkeypatch)
    discover.start(visit, Settings(classes="3", seed=7), work, trusted=True)
    config = asked[0]["config"]
    assert (asked[0]["kind"], asked[0]["name"], asked[0]["seed"]) == ("discover", "kinds of cloth", 7)
    assert config["model"] == str(model) and config["classes"] == 3 and config["product"] == "cloth"
    assert [one[0] for one in config["images"]] == [f"test/{i}.png" for i in range(4)]
    assert {one[2] for one in config["images"]} == {"hole"}  # for the metrics alone
    assert all(work.holds(Path(one[1])) for one in config["images"])
    session.unknown = Split([SampleRef(f"{i}.png", Path(path)) for i, path in enumerate(photos(tmp_path / "new", 3))])
    discover.use_detect(session, visit, work)
    discover.start(visit, Settings(), work, trusted=True)
    assert [len(one) for one in asked[1]["config"]["images"]] == [2, 2, 2]  # the visitor's own have no labels


def test_uploaded_images_and_maps(session, work, tmp_path, monkeypatch):
    visit = Visit()
    images, maps = photos(tmp_path / "images"), photos(tmp_path / "maps", maps=True)
    assert discover.add_images(session, visit, images) == "4 images are here. Next: their anomaly maps."
    with pytest.raises(InvalidDatasetError, match=r"your upload has no map for 3\.png"):
        discover.add_maps(session, visit, maps[:3])
    assert visit.chosen is None
    archive = tmp_path / "maps.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in maps:
            file.write(path, f"out/{Path(path).name}")
    assert "defects found by your anomaly maps" in discover.add_maps(session, visit, [str(archive)])
    asked = submitted(work, monkeypatch)
    discover.start(visit, Settings(method="anomalyncd", binarizer="otsu"), work, trusted=False)
    config = asked[0]["config"]
    kept = sorted(path.name for path in Path(config["maps"]).rglob("*.npy"))
    assert kept == ["0.npy", "1.npy", "2.npy", "3.npy"] and work.holds(Path(config["maps"]))
    assert (config["discoverer"], config["binarizer"], config["classes"]) == ("anomalyncd", "otsu", "auto")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no map", "none of these is an anomaly map: left out"),
        (b"PK\x03\x04 no zip", "none of these is an anomaly map: left out"),
    ],
)
def test_maps_that_are_none(session, tmp_path, content, reason):
    path = tmp_path / "0.npy"
    path.write_bytes(content)
    with pytest.raises(InvalidDatasetError, match=reason) as caught:
        discover.add_maps(session, Visit(), [str(path)])
    assert str(tmp_path) not in str(caught.value)


def test_uploads_that_are_refused(session, tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(InvalidUploadError, match=r"bad\.zip is not a zip"):
        discover.add_maps(session, Visit(), [str(tmp_path / "bad.zip")])
    with pytest.raises(InvalidUploadError, match="no image could be read"):
        discover.add_images(session, Visit(), [])
    visit = Visit()
    discover.add_maps(session, visit, photos(tmp_path / "maps", 2, maps=True))
    with pytest.raises(InvalidDatasetError, match="2 images cannot be grouped"):
        discover.add_images(session, visit, photos(tmp_path / "images", 2))


@pytest.fixture
def root(tmp_path) -> Path:
    """A data root with a labelled product with masks, one without, and one whose mask lies elsewhere."""
    root = tmp_path / "data"
    for product in ("cloth", "plain", "linked"):
        for i in range(2):
            (root / product / "train" / "good").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 56, 3), 99 + i, np.uint8)).save(root / product / "train" / "good" / f"{i}.png")
        photos(root / product / "test" / "hole", 3)
        masks = root / product / "ground_truth" / "hole"
        for i in range(0 if product == "plain" else 3):
            masks.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 56), 255, np.uint8)).save(masks / f"{i}_mask.png")
    (masks / "0_mask.png").rename(tmp_path / "outside.png")
    if product == "linked":
        (masks / "0_mask.png").symlink_to(tmp_path / "outside.png")
    return root


def test_a_data_set(session, work, root, tmp_path):
    visit = Visit()
    assert sources.dataset_choices(root, "test") == ["cloth", "linked", "plain"]
    assert "3 images of cloth; defects where its own masks say" in discover.use_dataset(
        session, visit, root, "cloth", "masks", work
    )
    assert visit.chosen.about == {"data": str(root / "cloth"), "masks": "ground-truth"}
    with pytest.raises(InvalidArgumentError, match="has not learned plain yet"):
        discover.use_dataset(session, visit, root, "plain", "model", work)
    model = learned(session, work, tmp_path)
    discover.use_dataset(session, visit, root, "cloth", "model", work)
    assert visit.chosen.about == {"model": str(model)} and {ref.label for ref in visit.chosen.refs} == {"hole"}


@pytest.mark.parametrize(
    ("name", "defects", "error", "reason"),
    [
        ("plain", "masks", InvalidDatasetError, "plain has no masks"),
        ("linked", "masks", InvalidDatasetError, "links to files outside"),
        ("../scratch", "masks", InvalidDatasetError, "no data set below the data folder"),
        ("None", "masks", InvalidDatasetError, "no data set below the data folder"),
    ],
)
def test_data_sets_that_are_refused(session, work, root, name, defects, error, reason):
    visit = Visit()
    with pytest.raises(error, match=reason):
        discover.use_dataset(session, visit, root, name, defects, work)
    assert visit.chosen is None


@pytest.fixture
def few_drawn(monkeypatch, tmp_path):
    """The sample is small, and drawn for this test."""
    monkeypatch.setattr(discover, "_SAMPLE_COUNTS", {"n_train": 2, "n_test_good": 1, "n_defect": 1, "size": 64})
    monkeypatch.setattr(discover, "_sample_root", lambda: SimpleNamespace(name=str(tmp_path / "drawn")))


def test_a_sample_is_learned_unless_the_detect_tab_has_learned_it(session, work, tmp_path, monkeypatch, few_drawn):
    asked, visit = submitted(work, monkeypatch, kind="fit"), Visit()
    assert [text for _, text in discover.use_sample(session, visit, "weave", work)] == ["Drawing the sample"]
    assert asked[0]["kind"] == "fit" and len(asked[0]["config"]["images"]) == 2
    assert discover.chosen_text(visit.chosen) == "5 images of Woven fabric; defects found by a detector of normal parts"
    assert visit.chosen.about == {"model": str(work.get(visit.fits["weave"]).result)}
    list(discover.use_sample(session, visit, "weave", work))  # learned already
    model = learned(session, work, tmp_path)
    session.source = dataclasses.replace(session.source, kind="sample", key="weave")
    other = Visit()
    list(discover.use_sample(session, other, "weave", work))
    assert len(asked) == 1 and other.chosen.about == {"model": str(model)}
    with pytest.raises(InvalidArgumentError, match="there is no sample 'gold': choose one of weave"):
        list(discover.use_sample(session, other, "gold", work))


def test_a_sample_that_could_not_be_learned(session, work, monkeypatch, few_drawn):
    submitted(work, monkeypatch, kind="fit", status="failed")
    visit = Visit()
    with pytest.raises(InvalidModelError, match="the sample was not learned: out of order"):
        list(discover.use_sample(session, visit, "weave", work))
    assert visit.chosen is None


# Step 2.


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Settings(classes="none"), "number of kinds must be auto or a whole number"),
        (Settings(classes="0"), "number of kinds"),
        (Settings(classes="2.5"), "number of kinds"),
        (Settings(backbone="resnet18@/etc/passwd"), "is not offered here"),
        (Settings(seed=-1), "seed must be 0 or more"),
    ],
)
def test_settings_that_are_refused(session, work, tmp_path, settings, reason):
    visit = Visit()
    discover.add_images(session, visit, photos(tmp_path / "images"))
    discover.add_maps(session, visit, photos(tmp_path / "maps", maps=True))
    with pytest.raises(InvalidArgumentError, match=reason):
        discover.start(visit, settings, work, trusted=False)
    assert visit.job_id is None and not any(work.store.list())


def test_nothing_to_start_or_to_go_on_with(work):
    with pytest.raises(InvalidArgumentError, match="choose some in step 1"):
        discover.start(Visit(), Settings(), work, trusted=True)
    with pytest.raises(InvalidArgumentError, match="nothing to go on with"):
        discover.resume(Visit(), work)
    with pytest.raises(InvalidArgumentError, match="press Discover in step 2"):
        board.opened(Visit(), work)
    discover.cancel(Visit(), work)  # nothing runs: nothing happens


@pytest.mark.parametrize("memory", [None, "x", 5, [], {}, {"job": None}, {"job": 7}, {"job": "../.."}, {"job": ["x"]}])
def test_a_memory_that_is_none(work, memory):
    visit = Visit()
    discover.recall(visit, memory, work)
    assert visit.job_id is None and discover.standing(visit, work).status == ""


def test_a_job_of_another_kind_is_not_recalled(session, work, tmp_path):
    learned(session, work, tmp_path)
    visit = Visit()
    discover.recall(visit, {"job": session.fit_job}, work)
    assert visit.job_id is None


def test_recall_knows_what_it_was_about(visit, work):
    assert discover.chosen_text(visit.chosen) == "2 images of part; defects found by your anomaly maps"
    assert discover.remembered(visit) == {"job": visit.job_id}
    again, other = Visit(), Visit()
    discover.recall(again, discover.remembered(visit), work)
    discover.recall(other, None, work)
    assert held(again, work) == START and other.job_id is None
    discover.recall(visit, {"job": "20260101-000000-0000000f"}, work)  # not over what is there
    assert held(visit, work) == START


def set_status(visit: Visit, work: Work, **state) -> Path:
    folder = work.get(visit.job_id).folder
    if state["status"] != "done":
        (folder / "result").rename(folder / "gone")
    (folder / "status.json").write_text(json.dumps({"attempt": 1, **state}))
    return folder


def shown(visit: Visit, work: Work) -> dict[str, object]:
    """Values of the controls by name."""
    names = "timer head1 head2 use_detect use_sample use_dataset start resume stop slot saves stage results"
    values = discover_tab._control_values(visit, work)
    return dict(zip([*names.split(), "plots", "summary", "board", "sizes", "head3"], values, strict=True))


def test_the_page_of_a_new_visitor(work):
    page = shown(Visit(), work)
    assert "ah-current" in page["head1"] and "Which kinds of defect are there?" in page["stage"].value
    assert not page["start"].interactive and not page["timer"].active and not page["results"].visible


def test_the_page_while_it_runs_and_after_it_failed(visit, work):
    folder = set_status(visit, work, status="running")
    (folder / "progress.json").write_text('{"fraction": 0.25, "text": "epoch 3 of 9: loss 1.2 <b>"}')
    lock = open_lock(folder / "log.txt")
    try:
        page = shown(visit, work)
        assert "25 %" in page["slot"] and "loss 1.2 &lt;b&gt;" in page["slot"] and page["timer"].active
        assert page["stop"].visible and not page["start"].interactive and not page["resume"].visible
    finally:
        os.close(lock)
    (folder / "status.json").write_text(json.dumps({"status": "failed", "error": f"{folder}/x is <i>damaged</i>"}))
    page = shown(visit, work)
    assert "&lt;i&gt;damaged" in page["slot"] and str(work.home) not in page["slot"]
    assert page["resume"].visible and page["resume"].value == "Try again" and page["start"].interactive
    assert not page["timer"].active and not page["saves"].visible


def test_the_page_of_a_board(visit, work):
    page = shown(visit, work)
    assert page["saves"].visible and not page["stage"].visible
    assert "3 found among 9 crops" in page["head2"] and "ah-current" in page["head3"]
    assert re.search(r"<b>3</b> kinds in part.*7 images? in kinds|<b>3</b>", page["summary"])
    assert "0.750" in page["plots"] and "n/a" in page["plots"] and "data:image/png" in page["plots"]
    assert discover_tab._control_values(visit, work)[-3] != page["board"]  # drawn anew, the page takes it


def test_a_damaged_board_says_so_and_can_be_left(visit, work):
    folder = work.get(visit.job_id).folder
    (folder / "board.json").write_text("{")
    page = shown(visit, work)
    assert "board.json is not a board" in page["slot"] and str(work.home) not in page["slot"]
    assert page["start"].interactive and not page["results"].visible


# The board.


KIND3 = {"kind_1": [1, 3], "kind_2": [2, 7], "kind_3": [6, 0, 4, 5]}
DEEDS = [
    ([{"deed": "rename", "column": "kind_2", "name": " hole "}], {"kind_2": None, "hole": [2, 4, 7]}, "called hole"),
    ([{"deed": "merge", "column": "kind_3", "into": "kind_1"}], {"kind_3": None, "kind_1": [6, 0, 1, 5, 3]}, "merged"),
    ([{"deed": "split", "column": "kind_2"}], {"kind_2": [2, 7], "kind_2 2": [4]}, "into kind_2 and kind_2 2"),
    ([{"deed": "move", "crops": [0, 4], "into": "kind_3"}], KIND3, "2 moved to kind_3"),
    ([{"deed": "move", "crops": [0]}], {"kind_1": [1, 3], "kind_4": [0]}, "1 moved to kind_4"),
    ([{"deed": "mark", "crops": [0], "mark": "unsure"}, {"deed": "undo"}, {"deed": "redo"}], {}, "done again"),
    ([{"deed": "undo"}], {}, "nothing to undo"),
    ([], {}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("deeds", "expected", "said"), DEEDS)
def test_deeds(visit, work, deeds, expected, said):
    assert said in board.act(visit, work, json.dumps(deeds))
    now = START | expected
    assert held(visit, work) == {name: crops for name, crops in now.items() if crops}


def test_marks(visit, work):
    board.act(visit, work, '[{"deed": "mark", "crops": [8], "mark": "unsure"}]')
    board.act(visit, work, '[{"deed": "mark", "column": "kind_3", "mark": "normal"}]')
    assert board.opened(visit, work).marks == {8: "unsure", 5: "normal", 6: "normal"}
    board.act(visit, work, '[{"deed": "mark", "crops": [8], "mark": ""}]')
    assert board.opened(visit, work).marks == {5: "normal", 6: "normal"}


@pytest.mark.parametrize(
    "deeds",
    [
        "{",
        "5",
        '{"deed": "undo"}',
        "[1]",
        '[{"deed": "format"}]',
        '[{"deed": "rename", "column": "kind_1"}]',
        '[{"deed": "rename", "column": "no such", "name": "x"}]',
        '[{"deed": "rename", "column": "kind_1", "name": "kind_2"}]',
        '[{"deed": "move", "crops": ["x"], "into": "kind_1"}]',
        '[{"deed": "move", "crops": [99], "into": "kind_1"}]',
        '[{"deed": "move", "crops": 3, "into": "kind_1"}]',
        '[{"deed": "move", "crops": [0], "into": {"a": 1}}]',
        '[{"deed": "mark", "crops": [0], "mark": "golden"}]',
        '[{"deed": "mark", "mark": "unsure"}]',
        '[{"deed": "split", "column": ["kind_1"]}]',
    ],
)
def test_deeds_that_are_refused(visit, work, deeds):
    with pytest.raises(InvalidArgumentError):
        board.act(visit, work, deeds)
    assert held(visit, work) == START and board.opened(visit, work).n_steps == 0


def test_a_problem_with_the_files_names_no_path(visit, work):
    (work.get(visit.job_id).result / "embeddings.npy").unlink()
    with pytest.raises(AnomalyHubError, match=f"job {visit.job_id}") as caught:
        board.act(visit, work, '[{"deed": "split", "column": "kind_2"}]')
    assert str(work.home) not in str(caught.value)


def test_names_are_escaped_wherever_they_show(visit, work, session):
    opened = board.opened(visit, work)
    object.__setattr__(opened.findings.images[0], "id", NASTY)
    object.__setattr__(opened.findings, "product", NASTY)
    name = opened.move_to_new([0], "fish & 'chips'")
    html = [board_view.board_html(opened, visit.job_id, {}, NASTY), board_view.sizes(opened), board_view.message(NASTY)]
    html = "".join([*html, board_view.look(opened, 0), board_view.sheet(opened, name), board_view.summary(opened)])
    assert NASTY not in html and html.count("&lt;img src=x onerror=alert(1)&gt;") >= 6
    assert "fish & " not in html and html.count("fish &amp; &#x27;chips&#x27;") >= 6


def test_a_long_column_is_shown_page_by_page(visit, work, monkeypatch):
    monkeypatch.setattr(board_view, "PAGE", 2)
    opened = board.opened(visit, work)
    page = board_view.board_html(opened, visit.job_id, visit.shown)
    assert page.count("data-picture") == 2 + 2 + 2 + 1 and page.count("Show 1 more of 1") == 2
    board.act(visit, work, '[{"deed": "more", "column": "kind_1"}]')
    assert board_view.board_html(opened, visit.job_id, visit.shown).count("data-picture") == 8


def test_images_without_a_region_can_be_called_normal_at_once(visit, work):
    board.act(
        visit, work, '[{"deed": "move", "crops": [3], "into": "kind_2"}]'
    )  # of kind_1, the only one with a region
    html = board_view.board_html(board.opened(visit, work), visit.job_id, {})
    assert html.count("mark all normal") == 1
    board.act(visit, work, '[{"deed": "mark", "column": "kind_1", "mark": "normal"}]')
    assert "mark all normal" not in board_view.board_html(board.opened(visit, work), visit.job_id, {})


def test_pictures_and_dialogs_are_those_of_the_job_that_is_asked_for(visit, work):
    asked = {"job": visit.job_id, "crops": [0, 8, 99, -1]}
    found = board.pictures(work, asked)
    assert list(found) == ["0", "8"] and found["0"].startswith("data:image/jpeg;base64,/9j/")
    assert len(board.pictures(work, asked | {"crops": [0] * 1000})) == 1
    assert "b/1.png" in board.look(work, {"job": visit.job_id, "crop": 1})
    assert "crops of kind_2" in board.look(work, {"job": visit.job_id, "sheet": "kind_2"})


@pytest.mark.parametrize(
    "asked", [None, 5, {}, {"job": "x", "crop": 0, "crops": [0]}, {"job": None}, {"crops": [0]}, ["20260101"]]
)
def test_requests_for_nothing(work, visit, asked):
    assert board.pictures(work, asked) == {}
    assert "not there any more" in board.look(work, asked)


@pytest.mark.parametrize("more", [{"crop": 99}, {"crop": -99}, {"crop": "x"}, {"sheet": "no such"}, {}])
def test_dialogs_of_nothing(work, visit, more):
    assert "not there any more" in board.look(work, {"job": visit.job_id, **more})


def test_an_image_that_has_vanished(visit, work, tmp_path):
    path = tmp_path / "scratch" / "images" / "b" / "1.png"
    path.unlink()
    html = board.look(work, {"job": visit.job_id, "crop": 1})
    assert "b/1.png" in html and str(tmp_path) not in html and "does not exist" in html


# Step 3.


def test_table(visit, work, session):
    board.act(visit, work, '[{"deed": "rename", "column": "kind_2", "name": "=1+1"}]')
    board.act(
        visit,
        work,
        '[{"deed": "mark", "crops": [8], "mark": "unsure"}, {"deed": "move", "crops": [3], "into": "kind_3"}]',
    )
    path = Path(board.table_file(session, visit, work))
    assert path.name == "anomalyhub-part-kinds.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 + 9 and sum(row["region"] == "" for row in rows) == 7
    images = {row["path"]: row["kind"] for row in rows if row["region"] == ""}
    assert images == {
        "a/1.png": "kind_1", "b/1.png": "kind_1", "b/2.jpg": "'=1+1", "b/3.png": "'=1+1", "b/4.png": "kind_3",
        "b/5.png": "'=1+1", "b/6.png": "unsure",
    }  # fmt: skip
    changed = [(row["path"], row["region"]) for row in rows if row["corrected"] == "true"]
    assert changed == [("b/2.jpg", ""), ("b/2.jpg", "1"), ("b/6.png", ""), ("b/6.png", "0")]


def test_labelled_data_set(visit, work, session):
    board.act(visit, work, '[{"deed": "mark", "column": "kind_1", "mark": "normal"}]')
    with zipfile.ZipFile(board.labelled_file(session, visit, work)) as file:
        names = file.namelist()
    assert "metadata.jsonl" in names and "README.md" in names
    assert sum("/test/good/" in name and name.endswith(("png", "jpg")) for name in names) == 2
    assert list(session.folder.iterdir()) == [session.folder / "downloads"]  # nothing else is left


@pytest.mark.slow
def test_from_uploads_to_a_model(session, work, tmp_path):
    """A real discovery of tiny images, corrected, and the model that knows the corrected kinds."""
    visit = Visit()
    discover.add_images(session, visit, photos(tmp_path / "images", 6))
    discover.add_maps(session, visit, photos(tmp_path / "maps", 6, maps=True))
    discover.start(visit, Settings(classes="2", binarizer="fixed"), work, trusted=True)
    job = work.get(visit.job_id)
    with pytest.raises(InvalidArgumentError, match="still runs"):
        discover.start(visit, Settings(), work, trusted=True)
    assert job.wait(240) == "done", work.reason(job)
    first = next(iter(held(visit, work)))
    board.act(visit, work, json.dumps([{"deed": "rename", "column": first, "name": "spot"}]))
    with zipfile.ZipFile(board.model_file(session, visit, work)) as file:
        config = next(name for name in file.namelist() if name.endswith("config.json"))
        assert "spot" in json.loads(file.read(config))["classes"]
