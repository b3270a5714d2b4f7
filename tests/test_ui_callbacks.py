"""The app without a browser: callbacks, what they refuse, what the page shows, and two users at once."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import csv
import gc
import json
import socket
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from job_helpers import LONG, end_all
from PIL import Image
from ui_helpers import learn, photo, save
from ui_server import serve

from anomalyhub.data import Split
from anomalyhub.errors import (
    AnomalyHubError,
    Cancelled,
    InvalidArgumentError,
    InvalidDatasetError,
    InvalidUploadError,
    UnknownNameError,
)
from anomalyhub.ui import __main__ as entry
from anomalyhub.ui import build_app, detect, detect_tab, guide, learning, sources, views
from anomalyhub.ui.session import Job, Session, Source, plain_words
from anomalyhub.ui.work import MAX_ACTIVE, Work

NASTY = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root: two products, a folder without normal images, a flat folder, and a link that leads out of it."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for product in ("cloth", "set/wood"):
        for i in range(10):
            save(folder / product / "train" / "good" / f"{i}.png", photo(rng))
        for i in range(2):
            save(folder / product / "test" / "good" / f"{i}.png", photo(rng))
            save(folder / product / "test" / "spot" / f"{i}.png", photo(rng, spot=True))
    save(folder / "cloth" / "test" / "spot" / NASTY, photo(rng, spot=True))
    (folder / "cloth" / "test" / "spot" / "damaged.png").write_bytes(b"no image")
    (folder / "cloth" / "train" / "good" / "damaged.png").write_bytes(b"no image")
    save(folder / "textures" / "banded" / "0.png", photo(rng))
    for i in range(3):
        save(folder / "flat" / f"{i}.png", photo(rng))
    outside = tmp_path_factory.mktemp("outside")
    for i in range(3):
        save(outside / "good" / f"{i}.png", photo(rng))
    (folder / "way_out").symlink_to(outside)
    (folder / "cloth" / "train" / "good" / "linked.png").symlink_to(outside / "good" / "0.png")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The jobs of the module's sessions, which end with it."""
    work = Work(tmp_path_factory.mktemp("home"))
    yield work
    end_all(work.store)


@pytest.fixture(scope="module")
def learned(root, work) -> Session:
    """A session that has learned cloth; not to be changed."""
    session = Session()
    detect.use_dataset(session, root, "cloth")
    seen = learn(session, work)
    assert seen[0] == (0.0, "Starting: a few seconds")
    assert [fraction for fraction, _ in seen] == sorted(fraction for fraction, _ in seen)
    return session


@pytest.fixture
def session(learned) -> Session:
    """A session of the test's own that has learned cloth."""
    return copy.copy(learned)


@pytest.fixture(scope="module")
def checked_once(learned) -> Session:
    session = copy.copy(learned)
    detect.check(session, "tests")
    return session


@pytest.fixture
def checked(checked_once) -> Session:
    """A session of the test's own that has checked cloth's test images."""
    return copy.copy(checked_once)


def test_dataset_is_read_without_what_lies_outside_or_is_damaged(root, learned):
    source = learned.source
    assert (len(source.normals), len(source.tests), source.kind) == (10, 6, "dataset")
    assert any("train/good/damaged.png is not an image" in text for text in source.notices)
    assert any("1 links to files outside" in text for text in source.notices)
    assert not any(str(root) in text for text in source.notices)


def test_choices_below_the_data_root(root):
    assert sources.dataset_choices(root) == ["cloth", "flat", "set/wood"]
    assert sources.dataset_choices(root / "cloth") == ["."]
    assert sources.dataset_source(root / "cloth", ".", Job(Session())).name == "cloth"


def test_check_gives_the_inspectors_scores_and_verdicts(checked):
    expected = {
        r.id: r for r in checked.inspector.inspect(s for s in checked.source.tests.without(["test/spot/damaged.png"]))
    }
    assert {one.ref.id for one in checked.checked} == set(expected)
    for one in checked.checked:
        assert one.map.image_score == expected[one.ref.id].score
        assert one.p_value == expected[one.ref.id].p_value
        assert detect.is_defective(checked, one) == expected[one.ref.id].is_anomalous
        assert one.picture.shape == (48, 72, 3) and one.map.scores.shape == (48, 72)
    assert [one.ref.id.split("/")[1] for one in checked.checked] == ["spot"] * 3 + ["good"] * 2
    assert detect.headline(checked) == "3 of 5 look defective"
    assert any("test/spot/damaged.png is not an image" in text for text in checked.notices)


def test_table(checked):
    rows = detect.table(checked)
    assert [row[3:] for row in rows] == [["defective", "spot"]] * 3 + [["normal", "normal"]] * 2
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)


def test_moving_the_threshold_predicts_nothing(checked, monkeypatch):
    monkeypatch.setattr(type(checked.inspector.detector), "predict", lambda *_: pytest.fail("predicted again"))
    scores = [one.map.image_score for one in checked.checked]
    pictures = views.gallery(checked)
    for threshold, defective in ((0.0, 5), (scores[0], 0), ((scores[0] + scores[1]) / 2, 1)):
        detect.set_threshold(checked, threshold)
        assert detect.counts(checked) == (defective, 5)
        assert f"<b>{defective}</b> of 5" in views.summary(checked)
    assert views.gallery(checked) != pictures  # overlays follow the threshold too


def test_false_alarm_rate_moves_the_default(checked):
    before = checked.threshold
    detect.set_false_alarm_rate(checked, 0.2)
    assert checked.threshold == checked.inspector.threshold < before


def test_large_images_are_kept_small_and_come_back_large(session, tmp_path, rng):
    wide = np.asarray(Image.fromarray(photo(rng, spot=True)).resize((1440, 960)))
    detect.take_unknown(session, [save(tmp_path / "wide.png", wide)])
    detect.check(session, "uploads")
    (one,) = session.checked
    assert one.picture.shape == (213, 320, 3) and one.size == (960, 1440)
    exact = next(iter(session.inspector.inspect([one.ref.load()])))
    full = detect.judge(session, one, full=True)
    assert full.map.scores.shape == (960, 1440)
    assert np.abs(full.map.scores - exact.map.scores).max() < 0.03 * exact.map.scores.max()
    box, expected = full.regions[0].box, exact.regions[0].box
    assert np.abs(np.subtract(box, expected)).max() < 12


def test_a_new_source_forgets_model_and_results(checked, root, work):
    ticket = checked.ticket
    steps = learning.learn(checked, learning.Settings(), True, work)
    next(steps)
    job = checked.learning
    detect.use_dataset(checked, root, "set/wood")
    assert checked.source.name == "set/wood"
    assert (checked.inspector, checked.checked, checked.unknown) == (None, (), None)
    assert checked.ticket != ticket  # work on the former one stops
    assert job.wait(LONG) == "cancelled" and learning.remembered(checked) == {}
    with pytest.raises(Cancelled):
        list(steps)


def test_what_a_visitor_learns_is_what_a_fit_gives(root, learned):
    from anomalyhub.pipeline import Inspector

    normals = learned.source.normals
    settings = {"backbone": "embedded", "product": "cloth", "seed": 0, "settings": {"coreset": 0.1}}
    expected = Inspector.fit("patchcore", normals, **settings)
    assert learned.threshold == learned.inspector.threshold == pytest.approx(expected.threshold, rel=1e-5)
    assert learned.inspector.product == "cloth" and learned.busy == "" and learned.learning is None


@pytest.mark.parametrize("after", [0.0, 0.1])  # at once, and in the middle
def test_cancelled_learning_leaves_the_former_model(checked, work, after):
    refs = checked.source.normals.refs
    many = Split(replace(ref, id=f"{n}/{ref.id}") for n in range(40) for ref in refs)  # so that there is a middle
    checked.source = replace(checked.source, normals=many)
    checked.busy = "learn"
    before = (checked.inspector, checked.checked, checked.threshold, checked.fit_job)
    steps = learning.learn(checked, learning.Settings(seed=1), True, work)
    next(fraction for fraction, _ in steps if fraction >= after)
    job = checked.learning
    learning.stop(checked)
    with pytest.raises(Cancelled, match="as it was before"):
        list(steps)
    assert (checked.inspector, checked.checked, checked.threshold, checked.fit_job) == before
    assert checked.busy == "" and checked.learning is None
    assert job.wait(LONG) == "cancelled"


def test_cancelled_while_the_job_is_submitted(session, work, monkeypatch):
    submit, jobs = work.submit, []

    def meanwhile(*arguments, **options):
        jobs.append(submit(*arguments, **options))
        learning.stop(session)
        return jobs[0]

    monkeypatch.setattr(work, "submit", meanwhile)
    with pytest.raises(Cancelled):
        learn(session, work)
    assert jobs[0].wait(LONG) == "cancelled" and session.learning is None


def test_cancel_is_faster_than_what_was_begun(session, work):
    """The press of Learn, Cancel, and only then the work reach the app."""
    session.press("learn")
    learning.stop(session)
    before = len(work.store.list())
    with pytest.raises(Cancelled):
        learn(session, work)
    assert len(work.store.list()) == before
    session.press("check")
    session.cancel()
    with pytest.raises(Cancelled):
        detect.check(session, "tests")
    detect.check(session, "tests")  # the next press counts
    assert session.busy == ""


def cancelling(session: Session, at: float):
    """A progress callback during which the visitor presses Cancel."""

    def show(fraction: float, text: str) -> None:
        if fraction >= at:
            session.cancel()

    return show


def test_cancelled_check_leaves_the_former_results(checked):
    before = checked.checked
    with pytest.raises(Cancelled):
        detect.check(checked, "tests", cancelling(checked, 0.4))
    assert checked.checked is before


def test_why_learning_failed_is_told(work, tmp_path, rng):
    session = Session()
    detect.use_uploads(session, [save(tmp_path / f"{i}.png", photo(rng)) for i in range(3)])
    steps = learning.learn(session, learning.Settings(), True, work)
    next(steps)
    kept = session.source.normals.refs[1].path
    kept.unlink()
    kept.write_bytes(b"no image")  # a disk goes bad
    with pytest.raises(AnomalyHubError, match="learning failed: 1.png is not an image") as caught:
        list(steps)
    assert str(work.home) not in str(caught.value)
    assert (session.busy, session.learning, session.fit_job, session.inspector) == ("", None, None, None)
    assert learning.remembered(session) == {}


def test_a_page_that_leaves_and_its_return(work, tmp_path, rng):
    """Uploads last although their session ends; another page sees the job through."""
    session = Session()
    files = [save(tmp_path / f"{i}.png", photo(rng)) for i in range(6)]
    detect.use_uploads(session, files)
    steps = learning.learn(session, learning.Settings(), True, work)
    next(steps)
    memory = json.loads(json.dumps(learning.remembered(session)))
    chosen = {"kind": "upload", "key": "", "have": "many", "method": "patchcore"}
    assert memory == chosen | {"model": None, "learning": session.learning.id}
    session.cancel()  # the page leaves
    with pytest.raises(Cancelled):
        list(steps)
    session.close()
    for path in files:
        path.unlink()

    later = Session()
    learning.recall(later, memory, None, work)
    assert later.busy == "learn" and later.learning.id == memory["learning"]
    assert "Learning what is normal" in guide.stage(later) and "6 normal images" in guide.step_heads(later)[0]
    list(learning.go_on(later, work))
    assert later.fit_job == memory["learning"] and later.inspector is not None and later.busy == ""
    assert guide.stage(later).count("<img") == 6

    detect.take_unknown(later, [save(tmp_path / "bad.png", photo(rng, True)), save(tmp_path / "good.png", photo(rng))])
    assert detect.check(later, "uploads") == "1 of 2 looks defective"
    known = learning.remembered(later)
    assert known == memory | {"model": memory["learning"], "learning": None}

    third = Session()
    learning.recall(third, known, None, Work(work.home))  # the app too was started again
    assert third.busy == "load" and third.inspector is None
    assert list(learning.go_on(third, work)) == [(1.0, "Bringing back what was learned")]
    assert third.threshold == later.inspector.threshold and third.busy == ""


def test_test_images_come_back_with_the_model(learned, work, root):
    memory = learning.remembered(learned)
    session = Session()
    learning.recall(session, memory, root, work)
    list(learning.go_on(session, work))
    assert (session.source.kind, session.source.key, session.source.name) == ("dataset", "cloth", "cloth")
    assert session.source.normals.ids == learned.source.normals.ids
    assert session.source.tests.ids == learned.source.tests.ids
    assert session.threshold == learned.threshold
    detect.check(session, "tests")
    assert detect.counts(session) == (3, 5)


NOT_RECALLED = [
    None,
    [],
    "job",
    {},
    {"model": None, "learning": None},
    {"model": 7, "learning": ["a"]},
    {"model": "../..", "learning": "20260101-000000-00000000"},
    {"kind": "dataset", "key": "../..", "model": ""},
]


@pytest.mark.parametrize("memory", NOT_RECALLED)
def test_what_else_a_browser_may_send(memory, root, work):
    session = Session()
    learning.recall(session, memory, root, work)
    assert (session.source, session.busy, list(learning.go_on(session, work))) == (None, "", [])


@pytest.mark.parametrize(
    ("kind", "key"), [("dataset", ".."), ("dataset", 3), ("sample", ["x"]), ("sample", "../weave"), (1, 2)]
)
def test_a_source_that_is_not_there_any_more_brings_no_tests(kind, key, learned, root, work):
    session = Session()
    learning.recall(session, learning.remembered(learned) | {"kind": kind, "key": key}, root, work)
    assert (session.source.kind, len(session.source.normals), len(session.source.tests)) == ("upload", 10, 0)


def test_nothing_outside_the_open_data_folder_is_recalled(learned, root, work):
    for open_now in (None, root / "set"):
        session = Session()
        learning.recall(session, learning.remembered(learned), open_now, work)
        assert session.source is None


def test_a_damaged_model_is_forgotten(learned, root, work, monkeypatch):
    from anomalyhub.errors import InvalidModelError
    from anomalyhub.pipeline import Inspector

    def damaged(_):
        raise InvalidModelError("the model is damaged: learn again")

    session = Session()
    learning.recall(session, learning.remembered(learned), root, work)
    monkeypatch.setattr(Inspector, "load", damaged)
    with pytest.raises(InvalidModelError):
        list(learning.go_on(session, work))
    assert learning.remembered(session) == {} and session.source is not None and session.busy == ""


def test_a_page_that_is_in_use_is_not_overwritten(session, root, work, learned):
    before = session.source
    learning.recall(session, learning.remembered(learned), root, work)
    assert session.source is before and session.busy == ""


def test_a_failed_job_does_not_leave_the_buttons_disabled(work):
    session = Session(busy="learn")
    with pytest.raises(InvalidArgumentError):
        learn(session, work)
    assert session.busy == ""


def test_an_old_job_does_not_end_a_new_one():
    session = Session(busy="learn")
    with Job(session):
        session.cancel()
        session.busy = "learn"  # pressed again while the cancelled job is still winding down
    assert session.busy == "learn"


def hostile_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "hostile.zip", "w") as archive:
        archive.writestr("../../evil.png", b"x")
    return folder / "hostile.zip"


def test_uploads(tmp_path, rng):
    session = Session()
    files = [save(tmp_path / folder / "a.png", photo(rng)) for folder in ("1", "2")]
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(files[0], "sub/b.png")
        archive.writestr("notes.txt", "hello")
    (tmp_path / "broken.png").write_bytes(b"x")
    text = detect.use_uploads(session, [*files, tmp_path / "more.zip", tmp_path / "broken.png"])
    assert text.startswith("3 normal images")
    assert session.source.normals.ids == ("a-2.png", "a.png", "sub/b.png")
    assert len(session.source.notices) == 2 and "broken.png" in " ".join(session.source.notices)
    for path in files:
        path.unlink()  # the app's own copies last as long as the session
    assert session.source.normals[0].image.shape == (48, 72, 3)
    assert all(ref.path.is_relative_to(session.folder) for ref in session.source.normals.refs)


def test_uploaded_unknown_images(session, tmp_path, rng):
    detect.take_unknown(
        session, [save(tmp_path / "good.png", photo(rng)), save(tmp_path / "bad.png", photo(rng, True))]
    )
    assert detect.check(session, "uploads") == "1 of 2 looks defective"
    assert [one.ref.label for one in session.checked] == [None, None]
    assert "By the labels" not in views.summary(session)


def test_at_most_200_test_images(tmp_path, rng):
    path = save(tmp_path / "x.png", photo(rng))
    tests = sources.Split(sources.SampleRef(str(i), path) for i in range(501))
    some, notice = sources.some_tests(tests)
    assert len(some) == 200 and some.ids[0] == "0" and some.ids[-1] == "500" and "200 of the 501" in notice
    assert sources.some_tests(some) == (some, None)


REFUSED = [
    # what is done, the error, what its message says
    (lambda s, r, t: learn(s, Work(t / "home")), InvalidArgumentError, "step 1"),
    (lambda s, r, t: detect.check(s, "tests"), InvalidArgumentError, "press Learn"),
    (lambda s, r, t: detect.set_threshold(s, 1.0), InvalidArgumentError, "step 3"),
    (lambda s, r, t: detect.csv_file(s), InvalidArgumentError, "step 3"),
    (lambda s, r, t: detect.overlays_file(s), InvalidArgumentError, "step 3"),
    (lambda s, r, t: detect.model_file(s), InvalidArgumentError, "press Learn"),
    (lambda s, r, t: detect.use_sample(s, "weave/../x"), UnknownNameError, "choose one of"),
    (lambda s, r, t: detect.use_dataset(s, None, "cloth"), InvalidArgumentError, "--data-root"),
    (lambda s, r, t: detect.use_dataset(s, r, "cloths"), InvalidDatasetError, "'cloths' is no data set below"),
    (lambda s, r, t: detect.use_dataset(s, r, ".."), InvalidDatasetError, "no data set below"),
    (lambda s, r, t: detect.use_dataset(s, r, "cloth/../../outside0"), InvalidDatasetError, "no data set below"),
    (lambda s, r, t: detect.use_dataset(s, r, "/"), InvalidDatasetError, "no data set below"),  # an absolute path
    (lambda s, r, t: detect.use_dataset(s, r, "way_out"), InvalidDatasetError, "no data set below"),  # a link
    (lambda s, r, t: detect.use_dataset(s, r, "a\0b"), InvalidDatasetError, "no data set below"),
    (lambda s, r, t: detect.use_dataset(s, r, None), InvalidDatasetError, "no data set below"),  # nothing chosen
    (lambda s, r, t: detect.use_dataset(s, r, "textures"), InvalidDatasetError, "0 readable normal images"),
    (lambda s, r, t: detect.use_uploads(s, []), InvalidUploadError, "no image could be read"),
    (lambda s, r, t: detect.use_uploads(s, [hostile_zip(t)]), InvalidUploadError, "climbs out of the zip"),
    (lambda s, r, t: detect.use_uploads(s, [r / "flat" / "0.png"]), InvalidUploadError, "only 1 image could be read"),
    (lambda s, r, t: detect.take_unknown(s, [r / "cloth/test/spot/damaged.png"]), InvalidUploadError, "damaged.png"),
]


@pytest.mark.parametrize(("act", "error", "message"), REFUSED)
def test_refused(root, tmp_path, act, error, message):
    session = Session()
    with pytest.raises(error, match=message) as caught:
        act(session, root, tmp_path)
    assert str(session.folder) not in str(caught.value)  # visitors see no path of the machine
    assert (session.source, session.inspector, session.checked) == (None, None, ())
    assert session.busy == "" and session.learning is None
    assert list(session.folder.glob("upload-*/*.png")) == []


@pytest.mark.parametrize("backbone", ["resnet50", "hf:a/b", "resnet18@/etc/x.safetensors"])
def test_visitors_from_elsewhere_name_no_backbones(session, work, backbone):
    with pytest.raises(InvalidArgumentError, match="is not offered here"):
        learn(session, work, trusted=False, backbone=backbone)


def test_too_many_uploads(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(sources, "NORMALS", sources.Limits(max_files=2))
    session = Session()
    with pytest.raises(InvalidUploadError, match="the limit is 2"):
        detect.use_uploads(session, [save(tmp_path / f"{i}.png", photo(rng)) for i in range(3)])
    assert list(session.folder.iterdir()) == []


def test_downloads(checked, tmp_path):
    detect.set_threshold(checked, (checked.checked[0].map.image_score + checked.checked[1].map.image_score) / 2)
    with open(detect.csv_file(checked), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "score", "p_value", "is_anomalous", "label"]
    assert [row["is_anomalous"] for row in rows] == ["true"] + ["false"] * 4
    with zipfile.ZipFile(detect.overlays_file(checked)) as archive:
        names = archive.namelist()
        archive.extract("overlays/test/good/0.png", tmp_path)
    assert {"predictions.csv", "regions.coco.json"} < set(names)
    assert sum(name.endswith(".png") for name in names) == 5
    with Image.open(tmp_path / "overlays/test/good/0.png") as picture:
        assert picture.size == (72, 48)
    with zipfile.ZipFile(detect.model_file(checked)) as archive:
        archive.extractall(tmp_path)
    from anomalyhub.pipeline import Inspector

    loaded = Inspector.load(tmp_path / "anomalyhub-cloth-model")
    assert loaded.threshold == checked.threshold and loaded.product == "cloth"


def test_names_are_escaped(checked):
    index = next(i for i, one in enumerate(checked.checked) if one.ref.id.endswith(NASTY))
    pages = [views.gallery(checked), views.detail(checked, index), views.notice_list([NASTY])]
    source = Source(NASTY, checked.source.normals, sources.Split(), "upload")
    pages += [*guide.step_heads(Session(source=source)), guide.stage(Session(source=source))]
    for page in pages:
        assert "<img src=x" not in page
    assert "&lt;img src=x" in pages[0] and "&lt;img src=x" in pages[1]


def test_gallery_pages_and_kinds(checked, monkeypatch):
    monkeypatch.setattr(views, "PAGE", 2)
    assert [views.n_pages(checked, shown) for shown in views.SHOWN] == [3, 2, 1]
    assert views.gallery(checked, "all", 3).count("ah-card") == 1
    assert views.gallery(checked, "all", 99) == views.gallery(checked, "all", 3)
    assert views.gallery(checked, "normal", 1).count("ah-is-normal") == 2
    detect.set_threshold(checked, 0.0)
    assert "No image looks normal" in views.gallery(checked, "normal")


def test_detail_shows_regions_and_facts(checked):
    page = views.detail(checked, 0)
    assert page.count("<img") == 2 and "72 x 48 pixels" in page and "<th>Region</th>" in page
    assert "No region stands out" in views.detail(checked, 4)


def test_slider_holds_every_score_and_both_thresholds(checked):
    low, high, step = views.slider_range(checked)
    scores = [one.map.image_score for one in checked.checked]
    assert low <= min(scores) and max(scores) <= high and low <= checked.inspector.threshold <= high
    assert 100 <= (high - low) / step <= 3000
    detect.set_threshold(checked, high * 2)
    assert views.slider_range(checked)[1] >= high * 2


def test_empty_states_say_what_to_do(learned, root):
    assert "Choose a sample product" in guide.stage(Session())
    chosen = Session()
    detect.use_dataset(chosen, root, "flat")
    assert "Now press Learn" in guide.stage(chosen)
    assert guide.stage(chosen).count("<img") == 3
    assert "press Check" in guide.stage(learned)


@pytest.mark.parametrize(
    ("state", "steps"),
    [("new", ["current", "todo", "todo"]), ("learned", ["done", "done", "current"]), ("checked", ["done"] * 3)],
)
def test_the_next_step_is_highlighted(state, steps, learned, checked):
    heads = guide.step_heads({"new": Session(), "learned": learned, "checked": checked}[state])
    assert [next(s for s in ("done", "current", "todo") if f"ah-{s}" in head) for head in heads] == steps


@pytest.mark.parametrize(
    ("p_value", "text"), [(1e-9, "< 0.001"), (0.001, "0.001"), (0.0456, "0.046"), (0.456, "0.46"), (1.0, "1.00")]
)
def test_p_text(p_value, text):
    assert detect.p_text(p_value) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("features 8 of 24 images", "Looking at photos: 8 of 24"),
        ("threshold: fold 1 of 4", "Setting the threshold with parts held out: round 1"),
        ("waiting for 2 other jobs on this device", "Waiting for 2 other jobs to end"),
        ("something new", "Something new"),  # a stage that nobody translated
    ],
)
def test_plain_words(text, words):
    assert plain_words(text) == words


def test_sessions_are_separate_and_leave_no_files():
    first = Session()
    second = copy.deepcopy(first)  # as gradio does for every visitor
    folder, other = first.folder, second.folder
    (folder / "x").write_text("x")
    assert folder != other and folder.is_dir()
    first.close()
    assert not folder.exists() and other.is_dir() and first.source is None
    del second
    gc.collect()
    assert not other.exists()


def test_expected_errors_are_shown_and_others_logged(caplog):
    with pytest.raises(gr.Error, match="do this"), detect_tab.errors_shown():
        raise AnomalyHubError("do this")
    assert not caplog.records
    with pytest.raises(gr.Error, match="the log of the app has the details"), detect_tab.errors_shown():
        raise ZeroDivisionError("secret")
    assert "secret" in caplog.text


def built(*arguments, **options) -> gr.Blocks:
    """An app; gradio leaves event loops unclosed when it is built while none runs."""

    async def build() -> gr.Blocks:
        return build_app(*arguments, **options)

    return asyncio.run(build())


@pytest.fixture(scope="module")
def app(root):
    return built(root, trusted=True)


def test_every_event_has_a_name(app):
    names = [f.api_name for f in app.fns.values() if f.fn is not None and f.api_visibility != "private"]
    assert len(names) > 20 and all(isinstance(name, str) and name for name in names)
    assert len(names) == len(set(names))
    listed = {f.api_name for f in app.fns.values() if f.api_visibility == "public"}
    assert {"use_sample", "upload_normals", "use_dataset", "learn", "check", "set_threshold", "download_csv"} <= listed


def test_what_visitors_from_elsewhere_are_offered(app, root):
    """No method that wants files of this machine, and a sentence that says why."""

    def offered(blocks: gr.Blocks) -> tuple[list[str], bool]:
        parts = [part["props"] for part in blocks.get_config_file()["components"]]
        (radio,) = (one for one in parts if one.get("elem_id") == "ah-method-none")
        return [key for _, key in radio["choices"]], any(
            "run the app yourself" in str(one.get("value")) for one in parts
        )

    assert offered(app) == (["musc", "winclip", "april-gan"], False)
    assert offered(built(root)) == (["musc", "winclip"], True)


def test_heavy_events_share_one_queue_and_light_ones_wait_for_nobody(app):
    by_name = {f.api_name: f for f in app.fns.values()}
    heavy = [by_name[name] for name in ("check", "download_overlays", "download_model")]
    assert {(f.concurrency_id, f.concurrency_limit) for f in heavy} == {("work", 1)}
    watchers = [by_name[name] for name in ("learn", "go_on")]  # the work is a job's
    assert {f.concurrency_id for f in watchers} == {"follow"}
    assert all(f.concurrency_limit > MAX_ACTIVE for f in watchers)
    for name in ("set_threshold", "reset_threshold", "cancel_learn", "cancel_check", "show_page"):
        assert by_name[name].queue is False
    for name in ("show_image", "download_csv"):  # these may fail, and the page shows errors of queued events only
        assert by_name[name].queue is not False and by_name[name].concurrency_limit is None


def test_another_tab_is_one_line(monkeypatch):
    def build_other_tab(session, data_root, trusted, work):
        gr.Markdown("hello")

    monkeypatch.setattr("anomalyhub.ui.TABS", [("Other", build_other_tab)])
    labels = [c["props"].get("label") for c in built().get_config_file()["components"] if c["type"] == "tabitem"]
    assert labels == ["Other"]


def test_data_root_must_be_a_folder(tmp_path):
    with pytest.raises(InvalidDatasetError, match="is not a folder"):
        built(tmp_path / "none")


def test_wrong_options_are_one_line_and_code_2(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wrong = [
            (["--port", str(port)], f"port {port} is taken"),
            (["--port", "99999"], "port 99999 does not exist"),
            (["--host", "203.0.113.7"], "203.0.113.7 is no address of this computer"),  # an address of nobody
            (["--host", "no such host"], "is no address of this computer"),
            (["--data-root", str(tmp_path / "none")], "is not a folder"),
        ]
        for options, message in wrong:
            assert entry.main(["--no-browser", *options]) == 2
            error = capsys.readouterr().err
            assert error.startswith("error: ") and error.count("\n") == 1 and message in error


@pytest.fixture(scope="module")
def url(root, tmp_path_factory):
    """The address of the app, served with the data root."""
    temporary = tmp_path_factory.mktemp("server")
    with serve(temporary, "--data-root", str(root), "--home", str(temporary / "jobs are here")) as address:
        yield address
    assert (temporary / "jobs are here" / "jobs").is_dir() and not (temporary / "home").exists()
    left = [path.name for path in temporary.iterdir() if path.name.startswith("anomalyhub")]
    assert left == []  # uploads, sessions and the sample are gone with the server


@pytest.fixture
def client(url, tmp_path):
    """Makes clients, each with a session of its own."""
    from gradio_client import Client

    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Client(url, verbose=False, download_files=str(tmp_path))))


def test_a_client_drives_the_sample_and_another_its_own_data(client):
    one, two = client(), client()
    assert "24 normal images of Woven fabric" in one.predict("weave", api_name="/use_sample")
    assert "10 normal images of cloth" in two.predict("cloth", api_name="/use_dataset")
    slow = one.submit("embedded", 10, 1, 0, api_name="/learn")
    quick = two.submit("embedded", 10, 1, 0, api_name="/learn")  # waits its turn
    said, memory = slow.result(timeout=120)
    assert "Learned what Woven fabric" in said and memory["key"] == "weave" and memory["model"]
    assert "Learned what cloth" in quick.result(timeout=120)[0]
    shown = [text for text, _ in [*slow.outputs(), *quick.outputs()]]
    assert any('role="progressbar"' in text and "Waiting for 1 other job" in text for text in shown)
    for who, total in ((one, 18), (two, 5)):
        said, slider, table = who.predict("tests", api_name="/check")
        assert f"of {total} look" in said and len(table["data"]) == total
        assert table["headers"] == ["image", "score", "p-value", "verdict", "label"]
    highest = one.predict("all", 1, api_name="/results")[-1]["data"][0][1]
    summary, *_ = one.predict(highest + 0.001, "all", 1, api_name="/set_threshold")
    assert "<b>0</b> of 18" in summary
    assert "<b>3</b> of 5" in two.predict("all", 1, api_name="/results")[0]  # the other's threshold stays
    assert "<b>0</b> of 18" not in one.predict("all", 1, api_name="/reset_threshold")[0]
    assert "Original" in two.predict(0, api_name="/show_image")
    rows = Path(two.predict(api_name="/download_csv")).read_text(encoding="utf-8").splitlines()
    assert rows[0] == "path,score,p_value,is_anomalous,label" and len(rows) == 6


def test_a_client_cancels_and_goes_on(client):
    who = client()
    who.predict("weave", api_name="/use_sample")
    job = who.submit("embedded", 10, 1, 0, api_name="/learn")
    while not job.done() and not job.outputs():
        time.sleep(0.05)
    start = time.monotonic()
    said = who.predict("tests", api_name="/cancel_learn")
    assert "Stopped" in said[0]
    with pytest.raises(Exception, match="as it was before"):
        job.result(timeout=60)
    assert time.monotonic() - start < 5
    with pytest.raises(Exception, match="press Learn"):
        who.predict("tests", api_name="/check")  # the former state: nothing learned


def test_a_client_uploads(client, tmp_path, rng):
    from gradio_client import handle_file

    who = client()
    files = [handle_file(save(tmp_path / f"{i}.png", photo(rng))) for i in range(3)]
    assert "3 normal images of your product" in who.predict(files, api_name="/upload_normals")
    with pytest.raises(Exception, match="climbs out"):
        who.predict([handle_file(hostile_zip(tmp_path))], api_name="/upload_normals")
    with pytest.raises(Exception):  # noqa: B017  a path that was never uploaded
        who.predict([{"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}], api_name="/upload_normals")


def test_a_client_says_what_it_has(client, tmp_path, rng):
    """Without a method it gets the default for what it has; clients that know of no choice go on as before."""
    from gradio_client import handle_file

    who = client()
    files = [handle_file(save(tmp_path / f"{i}.png", photo(rng, spot=i == 4))) for i in range(5)]
    assert "5 photos of your product are ready" in who.predict(files, "none", api_name="/upload_normals")
    said, memory = who.predict("embedded", 10, 1, 0, api_name="/learn")
    assert "5 photos of your product are ready. Next: check" in said
    assert (memory["have"], memory["method"]) == ("none", "musc")
    _, _, table = who.predict("tests", api_name="/check")
    assert table["data"][0][0] == "4.png"
    assert "4 normal images" in who.predict(files[:4], have="few", api_name="/upload_normals")
    with pytest.raises(Exception, match="needs trained weights"):
        who.predict(few_method="april-gan", api_name="/learn")
