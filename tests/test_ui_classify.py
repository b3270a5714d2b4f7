"""The Classify tab without a browser: the detector, the examples, the job, and what the page says of the outcome."""

from __future__ import annotations

import base64
import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from discover_tab_helpers import done_job
from kinds_helpers import SHAPE, examples_json, images, job
from review_helpers import LEFT, RIGHT, mask_of

from anomalyhub.data import SampleRef, Split, read_mask
from anomalyhub.errors import (
    InvalidArgumentError,
    InvalidDatasetError,
    InvalidModelError,
    InvalidUploadError,
)
from anomalyhub.ui import classify, classify_tab, examples, examples_view, gathering, verdicts
from anomalyhub.ui.classify import Detector, Settings, Visit
from anomalyhub.ui.examples import Shelf
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


def refs(folder: Path, kinds: str, first: int = 0) -> list[SampleRef]:
    """An image of each kind in the text, which differs from all others."""
    paths = images(folder, len(kinds), first)
    return [SampleRef(f"test/{kind}/{path.name}", path, kind) for kind, path in zip(kinds, paths, strict=True)]


@pytest.fixture
def shelf(tmp_path) -> Shelf:
    shelf = Shelf()
    shelf.add(refs(tmp_path / "images", "aaabb"))
    return shelf


def held(shelf: Shelf) -> dict[str, list[int]]:
    return {kind: [one.number for one in found] for kind, found in shelf.kinds.items()}


START = {"a": [0, 1, 2], "b": [3, 4]}


# The examples.


DEEDS = [
    ([{"deed": "rename", "column": "a", "name": " hole "}], {"hole": [0, 1, 2], "b": [3, 4]}, "a is now called hole"),
    ([{"deed": "merge", "column": "b", "into": "a"}], {"a": [0, 1, 2, 3, 4]}, "b was merged into a"),
    ([{"deed": "move", "crops": [0, 4], "into": "b"}], {"b": [0, 3, 4], "a": [1, 2]}, "2 moved to b"),
    ([{"deed": "move", "crops": [1]}], {"a": [0, 2], "kind_1": [1], "b": [3, 4]}, "1 moved to kind_1"),
    ([{"deed": "move", "crops": [3, 4], "into": "a"}], {"a": [0, 1, 2, 3, 4]}, "2 moved to a"),  # b is empty: gone
    ([{"deed": "mark", "crops": [0], "mark": "remove"}], {"a": [1, 2], "b": [3, 4]}, "1 removed"),
    ([{"deed": "mark", "column": "a", "mark": "remove"}], {"b": [3, 4]}, "3 removed"),
    ([{"deed": "mark", "crops": [0], "mark": "remove"}, {"deed": "undo"}], START, "undone"),
    ([{"deed": "mark", "crops": [0], "mark": "remove"}, {"deed": "undo"}, {"deed": "redo"}],
     {"a": [1, 2], "b": [3, 4]}, "done again"),
    ([{"deed": "undo"}, {"deed": "undo"}], {}, "nothing to undo"),
    ([{"deed": "redo"}], START, "nothing to redo"),
    ([], START, ""),
]  # fmt: skip


@pytest.mark.parametrize(("deeds", "expected", "said"), DEEDS)
def test_deeds(shelf, deeds, expected, said):
    assert said in shelf.act(json.dumps(deeds))
    assert held(shelf) == expected


@pytest.mark.parametrize(
    "deeds",
    [
        "{",
        "5",
        "[1]",
        '{"deed": "undo"}',
        '[{"deed": "split", "column": "a"}]',
        '[{"deed": "rename", "column": "a"}]',
        '[{"deed": "rename", "column": "a", "name": "B"}]',  # one folder
        '[{"deed": "rename", "column": "a", "name": "OK"}]',  # normal
        '[{"deed": "rename", "column": "a", "name": "unknown"}]',
        '[{"deed": "rename", "column": "a", "name": " "}]',
        '[{"deed": "rename", "column": "x", "name": "y"}]',
        '[{"deed": "merge", "column": "a", "into": "x"}]',
        '[{"deed": "move", "crops": [9], "into": "a"}]',
        '[{"deed": "move", "crops": [], "into": "a"}]',
        '[{"deed": "move", "crops": "x", "into": "a"}]',
        '[{"deed": "move", "crops": [0], "into": {"a": 1}}]',
        '[{"deed": "mark", "crops": [0], "mark": "normal"}]',
        '[{"deed": "mark", "column": ["a"], "mark": "remove"}]',
    ],
)
def test_deeds_that_are_refused(shelf, deeds):
    with pytest.raises(InvalidArgumentError):
        shelf.act(deeds)
    assert held(shelf) == START


def test_an_image_is_an_example_once(shelf, tmp_path):
    again, other = refs(tmp_path / "again", "ab")[:1], refs(tmp_path / "new", "c", first=20)
    twin = SampleRef("copy.png", again[0].path, "b")  # the bytes of example 0, which is of a
    count, notices = shelf.add([again[0], twin, *other])
    assert count == 1 and held(shelf) == START | {"c": [5]}
    assert notices == [
        "left out: test/a/00.png is an example already",
        "left out: copy.png is an example of a: one image, one kind",
    ]
    with pytest.raises(InvalidDatasetError, match=r"no new example: left out: copy\.png is an example of a"):
        shelf.add([twin])
    mask = tmp_path / "mask.png"
    cv2.imwrite(str(mask), np.full(SHAPE, 255, np.uint8))
    assert shelf.add([SampleRef("copy.png", again[0].path, "b", (mask,))])[0] == 1  # another defect of that image
    _, notices = shelf.add([SampleRef("test/c/20.png", images(tmp_path / "more", 1, 40)[0], "c")])
    assert shelf.state[-1].ref.id == "test/c/20-2.png" and not notices  # ids are unique


def test_too_many_examples(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "MOST", 6)
    with pytest.raises(InvalidDatasetError, match="7 examples are more than 6: take 1 to 5 of each kind"):
        shelf.add(refs(tmp_path / "new", "cc", first=20))
    assert held(shelf) == START


@pytest.mark.parametrize(
    ("kinds", "message"),
    [("", "there are no examples, and telling kinds apart takes 2"), ("aa", "all 2 examples are of a, and telling")],
)
def test_two_kinds_are_needed(tmp_path, kinds, message):
    shelf = Shelf()
    if kinds:
        shelf.add(refs(tmp_path, kinds))
    with pytest.raises(InvalidArgumentError, match=message):
        shelf.check()


# Where they come from.


def zipped(path: Path, names: dict[str, Path]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, file in names.items():
            archive.write(file, name)
    return str(path)


def test_uploads(session, tmp_path):
    visit, files = Visit(), images(tmp_path / "files", 8)
    text, notices = gathering.add_uploads(session, visit, [str(path) for path in files[:2]], " scratch ")
    assert text == "2 examples added: 2 of 1 kinds. Next: examples of another kind." and not notices
    names = {
        "kinds/hole/x.png": files[2],
        "kinds/cut/x.png": files[3],
        "kinds/Good/x.png": files[4],
        "kinds/a.txt": files[5],
    }
    text, notices = gathering.add_uploads(session, visit, [zipped(tmp_path / "kinds.zip", names)], "")
    assert [(one.ref.id, one.ref.label) for one in visit.shelf.state[2:]] == [
        ("kinds/cut/x.png", "cut"), ("kinds/hole/x.png", "hole")
    ]  # fmt: skip
    assert "1 files that are no images" in notices[0] and "1 images of normal parts" in notices[1]
    assert text.endswith("4 of 3 kinds. Next: learn the kinds.")


@pytest.mark.parametrize(
    ("kind", "error", "reason"),
    [
        ("", InvalidUploadError, "nobody has said which kind 00.png is"),
        ("Normal", InvalidArgumentError, "Normal is for normal parts"),
        ("unknown", InvalidArgumentError, "unknown is what a defect unlike all kinds is called"),
        ("x" * 61, InvalidArgumentError, "1 to 60 characters"),
    ],
)
def test_uploads_that_are_refused(session, tmp_path, kind, error, reason):
    visit = Visit()
    with pytest.raises(error, match=reason):
        gathering.add_uploads(session, visit, [str(images(tmp_path / "files", 1)[0])], kind)
    with pytest.raises(InvalidUploadError, match="no image could be read"):
        gathering.add_uploads(session, visit, [], kind)
    assert not visit.shelf.state


def test_test_images_without_their_masks(tmp_path):
    found = refs(tmp_path / "tests", "ccaabg")
    found[5] = SampleRef("test/good/05.png", found[5].path, "good")
    found.append(SampleRef("loose.png", found[0].path))
    found = [SampleRef(one.id, one.path, one.label, (one.path,)) for one in found]  # a mask, which nobody may read
    visit = Visit(detector=Detector("cloth", "learned", "folder", tuple(found), lasting=True))
    text, notices = gathering.add_tests(visit, 1)
    assert [one.ref.id for one in visit.shelf.state] == ["test/a/02.png", "test/b/04.png", "test/c/00.png"]
    assert all(one.lasting and not one.ref.masks for one in visit.shelf.state) and "3 of 3 kinds" in text
    text, notices = gathering.add_tests(visit, 2)  # those that are there stay
    assert len(visit.shelf.state) == 5 and len(notices) == 3
    with pytest.raises(InvalidDatasetError, match="no test image of this detector has a kind"):
        gathering.add_tests(Visit(detector=Detector("cloth", "learned", "folder", tuple(found[5:]))), 3)
    with pytest.raises(InvalidArgumentError, match="choose one in step 1"):
        gathering.add_tests(Visit(), 3)


def test_the_discover_board(session, work, tmp_path):
    """Crops 0, 1: no region; 2, 4, 7: kind_2 in b/2, b/3, b/5; 3: kind_1 in b/2; 5, 6: kind_3; 8: unknown."""
    visit = Visit()
    with pytest.raises(InvalidArgumentError, match="press Discover on the Discover tab"):
        gathering.add_board(session, visit, work, 2)
    session.discover_job = done_job(work, tmp_path / "scratch")
    from anomalyhub.ui.discover import board_of

    opened = board_of(work.get(session.discover_job))
    opened.move([6], "kind_2")  # by hand, and so the first of its column
    opened.mark([5], "normal")
    text, notices = gathering.add_board(session, visit, work, 2)
    found = [(one.ref.id, one.ref.label) for one in visit.shelf.state]
    assert found == [("b/2.jpg", "kind_1"), ("b/4.png", "kind_2"), ("b/2-2.jpg", "kind_2")] and not notices
    masks = [read_mask(one.ref.masks, (60, 96)) for one in visit.shelf.state]
    for mask, box in zip(masks, (RIGHT, RIGHT, LEFT), strict=True):  # of one region each, of two in b/2.jpg
        assert np.array_equal(mask, mask_of(box))
    picture = examples_view.picture(visit.shelf.state[0], 100)
    assert picture.shape == (100, 100, 3) and np.ptp(picture) > 100  # the crop, outlined


def test_a_board_without_examples(session, work, tmp_path):
    session.discover_job = done_job(work, tmp_path / "scratch")
    from anomalyhub.ui.discover import board_of

    board_of(work.get(session.discover_job)).mark(range(9), "unsure")
    with pytest.raises(InvalidDatasetError, match="no column of the board has a crop with a defect"):
        gathering.add_board(session, Visit(), work, 5)


# The detector.


def detected(session: Session, work: Work, tmp_path: Path, name: str = "learning cloth") -> Path:
    """The Detect tab has learned cloth; the folder of its model."""
    normals = [[path.name, str(path)] for path in images(tmp_path / "normals", 3, 60)]
    tests = refs(tmp_path / "tests", "aabb", 30)
    session.fit_job = job(work, "fit", {"images": [*normals, ["gone.png", str(tmp_path / "gone.png")]]}, name=name)
    session.source = Source("cloth", Split(tests), Split(tests), "upload")
    return work.result_of(session.fit_job, "fit")


def test_the_detectors(session, work, tmp_path):
    visit = Visit()
    with pytest.raises(InvalidArgumentError, match="nothing has been learned on the Detect tab yet"):
        classify.use_detect(session, visit, work)
    with pytest.raises(InvalidArgumentError, match="nothing has been discovered yet"):
        classify.use_discover(session, visit, work)
    assert not classify.adopt(session, visit, work)
    folder = detected(session, work, tmp_path)
    assert classify.adopt(session, visit, work) and not classify.adopt(session, visit, work)
    assert visit.detector.folder == str(folder) and len(visit.detector.tests) == 4
    session.discover_job = done_job(work, tmp_path / "scratch")
    with pytest.raises(InvalidArgumentError, match="worked with maps or masks"):
        classify.use_discover(session, visit, work)
    pair = ["x/1.png", str(images(tmp_path / "x", 1)[0]), "hole"]
    session.discover_job = job(work, "discover", {"model": str(folder), "product": "ring", "images": [pair]})
    assert classify.use_discover(session, visit, work).startswith("ring, with which kinds were discovered")
    assert visit.detector.tests[0].label == "hole"
    assert not classify.adopt(session, visit, work)  # the visitor has chosen


def test_a_new_detector_is_not_adopted_under_examples(session, work, tmp_path, shelf):
    visit = Visit(shelf=shelf)
    detected(session, work, tmp_path)
    assert not classify.adopt(session, visit, work) and visit.detector is None


# The job.


@pytest.fixture
def submitted(work, monkeypatch) -> list[dict]:
    """What would be queued; each is a job that is done at once."""
    asked = []

    def submit(kind, config, *, name="", seed=0):
        asked.append({"kind": kind, "config": config, "name": name, "seed": seed})
        rows = [(one[0], one[2], one[2], 0.9) for one in config["examples"]]
        return work.store.get(job(work, kind, config, examples_json(rows), name))

    monkeypatch.setattr(work.store, "submit", submit)
    return asked


def test_what_is_asked_for(session, work, tmp_path, shelf, submitted):
    folder, visit = detected(session, work, tmp_path), Visit(shelf=shelf)
    mask = tmp_path / "mask.png"
    cv2.imwrite(str(mask), np.full(SHAPE, 255, np.uint8))
    lasting = refs(tmp_path / "data", "b", 50)
    shelf.add(lasting, lasting=True)
    shelf.add([SampleRef("board.png", images(tmp_path / "board", 1, 70)[0], "a", (mask,))])
    classify.use_detect(session, visit, work)
    text = classify.start(session, visit, Settings(seed=3), work, trusted=False)
    assert text == "Learning 2 kinds from 7 examples." and session.classify_jobs == [visit.job_id]
    (asked,) = submitted
    config = asked["config"]
    assert (asked["kind"], asked["name"], asked["seed"]) == ("classify", "learning the kinds of cloth", 3)
    assert (config["model"], config["head"], config["backbone"]) == (str(folder), "prototype", "embedded")
    assert [one[0] for one in config["normals"]] == ["60.png", "61.png", "62.png"]  # one has gone
    entries = {one[0]: one[1:] for one in config["examples"]}
    assert entries["test/b/50.png"] == [str(lasting[0].path), "b"]  # stays where it is
    path, label, kept_mask = entries["board.png"]
    assert label == "a" and work.holds(Path(path)) and work.holds(Path(kept_mask))
    assert Path(kept_mask).read_bytes() == mask.read_bytes()
    for one in shelf.state:
        assert Path(entries[one.ref.id][0]).read_bytes() == one.ref.path.read_bytes()
    from anomalyhub.config import configure
    from anomalyhub.pipeline.classify import ClassifyConfig

    configure(ClassifyConfig, config)  # takes all of it


def test_normals_are_those_that_somebody_has_called_so(session, work, tmp_path):
    folder = detected(session, work, tmp_path, name="comparing cloth")  # unlabelled photos
    assert classify.normals_of(str(folder), work) == []


def pretraining(work: Work, session: Session, head: str = "prototype", weights: str = "w") -> str:
    """A pretraining of a head on features of patchcore with these weights."""
    done = job(work, "pretrain", {"head": head, "model": "elsewhere"}, name="pretraining on cloth")
    features = {"detector": "patchcore", "weights": weights, "layers": None, "width": 1024}
    stored = {"pretraining": {"features": features}}
    (work.result_of(done, "pretrain") / "config.json").write_text(json.dumps(stored))
    session.pretrain_jobs.append(done)
    return done


def test_pretrained(session, work, tmp_path, shelf, submitted):
    folder, visit = detected(session, work, tmp_path), Visit(shelf=shelf)
    config = {"detector": "patchcore", "backbone": {"fingerprint": "w"}, "config": {"layers": None, "width": 1024}}
    (folder / "config.json").write_text(json.dumps(config))
    classify.use_detect(session, visit, work)
    fits, other = pretraining(work, session), pretraining(work, session, weights="v")
    relation = pretraining(work, session, "relation")
    session.pretrain_jobs.append(job(work, "pretrain", {}, status="failed"))
    assert classify.pretrained(session, visit, work) == [
        ("pretraining on cloth (prototype)", fits), ("pretraining on cloth (relation)", relation)
    ]  # fmt: skip
    for chosen, reason in ((other, "for other detectors"), (relation, "of the head relation, not"), ("x", "not there")):
        with pytest.raises(InvalidArgumentError, match=reason):
            classify.start(session, visit, Settings(pretrained=chosen), work, trusted=True)
    classify.start(session, visit, Settings(head="relation", pretrained=relation), work, trusted=True)
    assert submitted[0]["config"]["pretrained"] == str(work.result_of(relation, "pretrain"))
    assert "backbone" not in submitted[0]["config"]  # it looks at patches alone
    classify.start(session, visit, Settings(pretrained=fits), work, trusted=True)
    assert "backbone" not in submitted[1]["config"]  # it keeps the one that it was pretrained with


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Settings(head="golden"), "there is no head 'golden': choose one of prototype"),
        (Settings(backbone="resnet18@/etc/passwd"), "is not offered here"),
    ],
)
def test_settings_that_are_refused(session, work, tmp_path, shelf, settings, reason):
    detected(session, work, tmp_path)
    visit = Visit(shelf=shelf)
    classify.use_detect(session, visit, work)
    with pytest.raises(InvalidArgumentError, match=reason):
        classify.start(session, visit, settings, work, trusted=False)
    assert visit.job_id is None


def test_nothing_to_start_or_to_go_on_with(session, work, tmp_path, shelf):
    visit = Visit(shelf=shelf)
    with pytest.raises(InvalidArgumentError, match="choose one in step 1"):
        classify.start(session, visit, Settings(), work, trusted=True)
    folder = detected(session, work, tmp_path)
    classify.use_detect(session, visit, work)
    shutil.rmtree(folder.parent)
    with pytest.raises(InvalidModelError, match="the detector's folder has been deleted: learn it again"):
        classify.start(session, visit, Settings(), work, trusted=True)
    with pytest.raises(InvalidArgumentError, match="nothing to go on with"):
        classify.resume(visit, work)
    with pytest.raises(InvalidArgumentError, match="press Learn the kinds in step 3"):
        classify.inspector_file(session, visit, work)
    classify.cancel(visit, work)


# What came out.


ROWS = [("a/1", "a", "a", 0.9), ("a/2", "a", "b", 0.7), ("b/1", "b", "b", 0.8), ("b/2", "b", "a", 0.95)]


def finished(work: Work, session: Session, shelf: Shelf, rows=ROWS, **options) -> Visit:
    """A visit whose job is done."""
    entries = [[one.ref.id, str(one.ref.path), one.ref.label] for one in shelf.state]
    stored = examples_json(rows, **options)
    done = job(work, "classify", {"examples": entries, "product": "Woven <b>cloth</b>", "model": "gone"}, stored)
    visit = Visit()
    assert classify.recall(session, visit, {"job": done}, work)
    return visit


def test_the_outcome(session, work, shelf):
    visit = finished(work, session, shelf, alone=[("c/1", "c")], missed="b/1")
    outcome = classify.standing(visit, work).outcome
    assert (outcome.accuracy, outcome.n_examples, outcome.kinds) == (0.5, 5, ("a", "b", "c"))
    assert outcome.counts.tolist() == [[1, 1], [1, 1]] and outcome.unlocated == {"b/1": ((8, 4, 32, 28),)}
    assert [(one.id, one.predicted) for one in outcome.confused] == [("b/2", "a"), ("a/2", "b")]  # the surest first
    html = verdicts.summary(outcome, "cloth", stale=False)
    assert "<b>2</b> of 4 examples named rightly" in html and "50 % are right" in html
    assert "c has one example, so it cannot be checked" in html and "changed since" not in html
    assert "The examples have changed since" in verdicts.summary(outcome, "cloth", stale=True)


def test_no_kind_could_be_checked(session, work, shelf):
    visit = finished(work, session, shelf, rows=[], alone=[("a/1", "a"), ("b/1", "b"), ("c/1", "c"), ("d/1", "d")])
    outcome = classify.standing(visit, work).outcome
    assert outcome.accuracy is None and verdicts.details(outcome, shelf) == ""
    html = verdicts.summary(outcome, "cloth", stale=False)
    assert "How well they are told apart is not known" in html and "4 kinds have one example each" in html


def test_details_show_the_confused_and_those_that_were_not_found(session, work, tmp_path):
    shelf = Shelf()
    shelf.add([SampleRef(f"{NASTY}{i}", path, "ab"[i]) for i, path in enumerate(images(tmp_path / "nasty", 2))])
    rows = [(f"{NASTY}0", "a", NASTY, 0.9), (f"{NASTY}1", "b", "b", 0.8), ("removed", "b", "a", 0.7)]
    visit = finished(work, session, shelf, rows=rows, missed=f"{NASTY}1")
    html = verdicts.details(classify.standing(visit, work).outcome, visit.shelf)
    assert NASTY not in html and "90 % sure" in html and "Examples whose defect was not found" in html
    cards = html.split('<figure class="ah-c-card">')[1:]
    assert len(cards) == 3 and "<img" not in cards[1]  # of the one that was removed there is no picture
    box = pixels(cards[2])
    assert np.abs(box[4, 20].astype(int) - (255, 170, 40)).max() < 60  # drawn at its top edge
    figure = html.split('class="ah-on-light" src="data:image/png;base64,')[1].split('"')[0]
    assert cv2.imdecode(np.frombuffer(base64.b64decode(figure), np.uint8), 1) is not None


def pixels(html: str) -> np.ndarray:
    """The picture in a card, RGB."""
    data = base64.b64decode(html.split("base64,")[1].split('"')[0])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize(
    "stored", [{}, {"examples": 5, "leave_one_out": {}}, {"examples": [{}], "leave_one_out": {}}, []]
)
def test_a_damaged_result_says_so(session, work, shelf, stored):
    visit = finished(work, session, shelf)
    path = work.result_of(visit.job_id, "classify") / "examples.json"
    path.write_text(json.dumps(stored))
    at = classify.standing(visit, work)
    assert at.outcome is None and "examples.json" in at.problem and str(work.home) not in at.problem


def test_a_deleted_job_says_so(session, work, shelf):
    visit = finished(work, session, shelf)
    shutil.rmtree(work.get(visit.job_id).folder)
    at = classify.standing(visit, work)
    assert at.status == "" and "has been deleted" in at.problem
    assert "has been deleted" in shown(session, visit, work)["slot"]


def test_why_a_job_failed_names_no_path(session, work, shelf):
    visit = finished(work, session, shelf)
    folder, first = work.get(visit.job_id).folder, shelf.state[0].ref
    (folder / "result").rename(folder / "gone")
    (folder / "status.json").write_text(json.dumps({"status": "failed", "error": f"{first.path} is <i>damaged</i>"}))
    page = shown(session, visit, work)
    assert f"{first.id} is &lt;i&gt;damaged" in page["slot"] and page["resume"].visible and page["start"].interactive


# A page that comes back, and what it shows.


@pytest.mark.parametrize("memory", [None, "x", 5, [], {}, {"job": None}, {"job": 7}, {"job": "../.."}, {"job": ["x"]}])
def test_a_memory_that_is_none(session, work, memory):
    visit = Visit()
    assert not classify.recall(session, visit, memory, work)
    assert visit.job_id is None and classify.standing(visit, work).status == ""


def test_recall(session, work, shelf, tmp_path):
    visit = finished(work, session, shelf)
    assert classify.remembered(visit) == {"job": visit.job_id} and session.classify_jobs == [visit.job_id]
    assert held(visit.shelf) == START and visit.started == visit.shelf.state
    assert visit.detector.name == "Woven <b>cloth</b>" and visit.detector.tests == ()
    shelf.state[0].ref.path.unlink()
    other = Visit()
    assert classify.recall(session, other, {"job": visit.job_id}, work) and len(other.shelf.state) == 4
    assert session.classify_jobs == [visit.job_id]
    other = Visit()
    assert not classify.recall(session, other, {"job": job(work, "fit", {})}, work)


def shown(session: Session, visit: Visit, work: Work) -> dict[str, object]:
    """Values of the controls by name."""
    names = "timer detect discover sample tests board pretrained start resume stop slot saves stage results details"
    values = classify_tab._control_values(session, visit, work)
    return dict(zip([*names.split(), "panel", "head1", "head2", "head3", "summary", "shelf"], values, strict=True))


def test_the_page_of_a_new_visitor(session, work):
    page = shown(session, Visit(), work)
    assert "ah-current" in page["head1"] and "Which kind of defect is it?" in page["stage"].value
    assert not page["start"].interactive and not page["timer"].active and not page["panel"].visible


def test_the_page_on_the_way(session, work, tmp_path, submitted):
    detected(session, work, tmp_path)
    visit = Visit()
    classify.use_detect(session, visit, work)
    page = shown(session, visit, work)
    assert "ah-current" in page["head2"] and "Now show a few of each kind" in page["stage"].value
    visit.shelf.add(refs(tmp_path / "a", "a"))
    page = shown(session, visit, work)
    assert "1 of a: another kind is needed" in page["head2"] and not page["start"].interactive
    visit.shelf.add(refs(tmp_path / "b", "bb", 10))
    page = shown(session, visit, work)
    assert "3 examples of 2 kinds; 1 with one example cannot be checked" in page["head2"]
    assert "ah-current" in page["head3"] and page["start"].interactive and page["start"].variant == "primary"
    assert not page["results"].visible and page["panel"].visible and not page["stage"].visible
    classify.start(session, visit, Settings(), work, trusted=True)
    page = shown(session, visit, work)
    assert "3 of 3 examples named rightly" in page["head3"] and "ah-done" in page["head3"]
    assert page["saves"].visible and page["results"].visible and "changed since" not in page["summary"]
    visit.shelf.remove([0])
    page = shown(session, visit, work)
    assert "changed since" in page["summary"] and "ah-current" not in page["head3"]  # there is one kind left


def test_names_are_escaped(session, work, tmp_path):
    visit = Visit(detector=Detector(NASTY, "learned", "folder"))
    path = images(tmp_path, 2)
    visit.shelf.add([SampleRef(NASTY, path[0], "fish & 'chips'"), SampleRef("x", path[1], "b")])
    html = "".join(str(getattr(value, "value", value)) for value in classify_tab._control_values(session, visit, work))
    html += examples_view.look({"job": visit.shelf.token, "crop": 0})
    assert NASTY not in html and "fish & " not in html and html.count("fish &amp; &#x27;chips&#x27;") >= 5


def test_pictures_are_those_of_the_shelf_that_is_asked_for(shelf, tmp_path):
    asked = {"job": shelf.token, "crops": [0, 4, 99, -1]}
    found = examples_view.pictures(asked)
    assert list(found) == ["0", "4"] and found["0"].startswith("data:image/jpeg;base64,/9j/")
    assert "test/b/03.png" in examples_view.look({"job": shelf.token, "crop": 3})
    path = shelf.state[3].ref.path
    path.unlink()
    html = examples_view.look({"job": shelf.token, "crop": 3})
    assert "test/b/03.png" in html and str(path) not in html
    assert len(examples_view.pictures({"job": shelf.token, "crops": [3]})) == 1  # a grey tile


@pytest.mark.parametrize("asked", [None, 5, {}, {"job": "x", "crop": 0, "crops": [0]}, {"job": None}, {"crops": [0]}])
def test_requests_for_nothing(asked):
    assert examples_view.pictures(asked) == {}
    assert "not there any more" in examples_view.look(asked)


def test_the_inspector_as_a_zip(session, work, shelf):
    visit = finished(work, session, shelf)
    path = Path(classify.inspector_file(session, visit, work))
    assert path.name == "anomalyhub-woven-b-cloth-b-inspector.zip"
    assert zipfile.ZipFile(path).namelist() == ["examples.json"]
