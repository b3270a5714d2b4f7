"""The Synthesize tab without a browser: choosing, the preview, the jobs, what is refused, and what the page shows."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from anomalyhub.config import configure
from anomalyhub.data import SampleRef, Split, load_dataset
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidUploadError, OutputError
from anomalyhub.jobs import kinds
from anomalyhub.locks import open_lock
from anomalyhub.pipeline.synthesize import SynthesizeConfig, synthesize_to
from anomalyhub.synthesis import read_synthetic
from anomalyhub.ui import synthesize, synthesize_layout, synthesize_tab, synthesize_view, views
from anomalyhub.ui import synthesize_jobs as jobs
from anomalyhub.ui.session import Session, Source
from anomalyhub.ui.synthesize import Form, Visit
from anomalyhub.ui.synthesize_jobs import State, Training
from anomalyhub.ui.work import Work

NASTY = "<img src=x onerror=alert(1)>"
FEW = Form(each=2)
JOB = "20260101-000000-{:08x}"


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path / "home")


@pytest.fixture
def session():
    session = Session()
    yield session
    session.close()


def parts(folder: Path, count: int = 4, flat: bool = False) -> list[str]:
    """Files of (40, 56) images of a bright disc before a dark ground; flat ones have nothing in them at all."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(3), []
    y, x = np.mgrid[:40, :56]
    for number in range(count):
        image = rng.normal(40, 2, (40, 56, 3))
        image[(y - 20) ** 2 + (x - 28) ** 2 < 14**2] += 150
        image = np.full((40, 56, 3), 90) if flat else image
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        paths.append(str(folder / f"{number}.png"))
    return paths


@pytest.fixture
def visit(session, tmp_path) -> Visit:
    """A visit in which four parts have been uploaded."""
    visit = Visit()
    synthesize.use_uploads(session, visit, parts(tmp_path / "parts"))
    return visit


class Submitted(list):
    """What would have been queued; each becomes a job that waits, without a process."""

    def __init__(self, work: Work, monkeypatch):
        super().__init__()
        self._work = work
        monkeypatch.setattr(work.store, "submit", self._submit)

    def _submit(self, kind, config, *, name="", seed=0):
        if kind in kinds.names():
            configure(kinds[kind].config_class, config)  # refuses what the kind's config refuses
        self.append({"kind": kind, "config": dict(config), "name": name, "seed": seed})
        folder = self._work.store.root / JOB.format(len(self))
        folder.mkdir()
        asked = json.dumps(self[-1] | {"submitted_at": float(len(self))})
        (folder / "config.json").write_text(asked)
        (folder / "log.txt").touch()
        set_status(self._work, folder.name, "queued")
        self.locks = [*getattr(self, "locks", ()), open_lock(folder / "log.txt")]
        return self._work.get(folder.name)

    def close(self):
        for lock in getattr(self, "locks", ()):
            os.close(lock)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """What FEW paints on the four parts."""
    folder = tmp_path_factory.mktemp("few")
    images = [[Path(path).name, path] for path in parts(folder / "parts")]
    (folder / "result").mkdir()
    config = SynthesizeConfig(images=tuple(images), product="your product", count=96, settings=FEW.settings)
    synthesize_to(folder / "result", config)
    return folder / "result"


@pytest.fixture
def asked(work, monkeypatch, few):
    work.few = few
    submitted = Submitted(work, monkeypatch)
    yield submitted
    submitted.close()


def set_status(work: Work, job_id: str, status: str, **more) -> Path:
    folder = work.store.root / job_id
    (folder / "status.json").write_text(json.dumps({"status": status, "attempt": 1, **more}))
    return folder


def finish(work: Work, job_id: str) -> Path:
    """Do what the job would have done, for painting; other jobs get an empty result."""
    job = work.get(job_id)
    config, result = job.asked["config"], job.folder / "result"
    if job.kind != "synthesize":
        result.mkdir()
    elif (config["settings"], config["count"], job.asked["seed"]) == (FEW.settings, 96, 0):
        shutil.copytree(work.few, result)  # it would be the same
    else:
        result.mkdir()
        synthesize_to(result, SynthesizeConfig(**config), seed=job.asked["seed"])
    set_status(work, job_id, "done")
    return result


def painted(visit: Visit, work: Work, form: Form = FEW) -> Path:
    """Paint for real, in this process."""
    jobs.paint(visit, form, work)
    return finish(work, visit.paint_job)


# Step 1.


def test_images_of_the_detect_tab(session, work, tmp_path):
    visit = Visit()
    with pytest.raises(InvalidArgumentError, match="the Detect tab has no normal images yet"):
        synthesize.use_detect(session, visit)
    refs = [SampleRef(f"{i}.png", Path(path)) for i, path in enumerate(parts(tmp_path / "parts"))]
    session.source = Source("cloth", Split(), Split(refs), "upload", have="none")
    with pytest.raises(InvalidArgumentError, match="no normal images"):  # nobody has said which are normal
        synthesize.use_detect(session, visit)
    session.source = Source("cloth", Split(refs), Split(), "upload")
    assert synthesize.use_detect(session, visit).startswith("4 normal images of cloth. Next:")
    assert not visit.chosen.lasting and visit.chosen.kind == "upload"


def test_a_data_set(session, tmp_path):
    root = tmp_path / "data"
    parts(root / "disc" / "train" / "good", 3)
    parts(root / "disc" / "test" / "hole", 2)
    visit = Visit()
    with pytest.raises(InvalidArgumentError, match="--data-root"):
        synthesize.use_dataset(session, visit, None, "disc")
    with pytest.raises(InvalidDatasetError, match="no data set below the data folder"):
        synthesize.use_dataset(session, visit, root, "../..")
    assert "3 normal images of disc" in synthesize.use_dataset(session, visit, root, "disc")
    assert visit.chosen.lasting and {ref.id.partition("/")[0] for ref in visit.chosen.refs} == {"train"}


def test_uploads_that_are_refused(session, tmp_path):
    visit = Visit()
    with pytest.raises(InvalidUploadError, match="only 1 image could be read"):
        synthesize.use_uploads(session, visit, parts(tmp_path / "one", 1))
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(InvalidUploadError, match=r"bad\.zip is not a zip"):
        synthesize.use_uploads(session, visit, [str(tmp_path / "bad.zip")])
    assert visit.chosen is None


# Step 2.


def test_the_preview_is_what_will_be_painted(session, work, visit, asked):
    form = Form(each=2, beta=(90.0, 60.0), seed=4)
    shown = synthesize.look(visit, form)
    assert (shown.kinds, shown.lost, len(shown.painted), shown.looked) == (48, 0, 6, 4)
    assert shown.method in ("grabcut", "floodfill") and shown.reason
    result = read_synthetic(painted(visit, work, form))
    by_index = {sample.parameters["index"]: sample for sample in result}
    for one in shown.painted:
        assert 0.6 <= one.parameters["beta"] <= 0.9 and one.image.shape == (40, 56, 3)
        made = by_index[one.parameters["index"]]
        assert made.label == one.label and made.parameters == one.parameters
        np.testing.assert_array_equal(made.image, one.image)
    assert asked[0]["config"]["settings"]["foreground"] == "auto" and asked[0]["seed"] == 4


def test_the_preview_follows_the_form_and_the_turn(visit):
    first = synthesize.look(visit, Form())
    assert len({one.label for one in first.painted}) == 6
    again = synthesize.look(visit, Form())
    for one, other in zip(first.painted, again.painted, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    assert synthesize.look(visit, Form(seed=1)).painted[0].parameters != first.painted[0].parameters
    polygons = synthesize.look(visit, Form(mask="polygon"))
    assert polygons.kinds == 192 and {one.parameters["sides"] for one in polygons.painted} == {3, 4, 5, 6}
    numbers = []
    for turn in range(9):
        visit.turn = turn
        numbers += [one.parameters["index"] for one in synthesize.look(visit, Form()).painted]
    assert len(set(numbers)) == len(numbers) == 54


@pytest.mark.parametrize(("kinds", "number"), [(2, 2), (3, 3), (6, 6), (8, 6), (12, 6), (48, 6), (192, 6)])
def test_the_preview_shows_every_defect_once(kinds, number):
    turns = [synthesize._numbers(turn, kinds) for turn in range(20)]
    assert all(len(turn) == number for turn in turns)
    assert all(len({index % kinds for index in turn}) == number for turn in turns)  # as many kinds
    assert len({index for turn in turns for index in turn}) == 20 * number


def test_a_foreground_that_is_not_found(session, tmp_path):
    visit = Visit()
    synthesize.use_uploads(session, visit, parts(tmp_path / "flat", flat=True))
    shown = synthesize.look(visit, Form(foreground="grabcut"))
    assert shown.lost == shown.looked == 4 and shown.reason == ""
    html = synthesize_view.preview(shown)
    assert "Foreground not found: the whole image is used. If that is wrong, choose another way" in html
    whole = synthesize.look(visit, Form(foreground="whole"))
    assert whole.lost == 0 and "Defects may lie anywhere" in synthesize_view.preview(whole)
    some = synthesize_view.preview(replace(shown, lost=1))
    assert "Foreground not found in 1 of the 4 images that were looked at: the whole image is used" in some


def test_images_that_are_gone(visit):
    for ref in visit.chosen.refs[:1]:
        ref.path.unlink()
    assert synthesize.look(visit, Form()).looked == 3
    visit.looked = ()
    for ref in visit.chosen.refs[1:]:
        ref.path.unlink()
    with pytest.raises(InvalidDatasetError, match="cannot be read any more: choose them again in step 1"):
        synthesize.look(visit, Form())
    with pytest.raises(InvalidArgumentError, match="no normal images yet"):
        synthesize.look(Visit(), Form())


def textures_zip(folder: Path, names: tuple[str, ...] = ("dtd/images/dotted/1.png", "dtd/images/lined/7.png")) -> str:
    folder.mkdir(exist_ok=True)
    (one, *_) = parts(folder, 1)
    with zipfile.ZipFile(folder / "textures.zip", "w") as file:
        for name in names:
            file.write(one, name)
    return str(folder / "textures.zip")


def test_textures_of_ones_own(session, work, visit, asked, tmp_path):
    with pytest.raises(InvalidArgumentError, match="there are no textures yet: upload some"):
        synthesize.look(visit, Form(own=True))
    names = ("dtd/images/dotted/1.png", "dtd/images/lined/7.png", "dtd/notes.txt")
    text = synthesize.take_textures(session, visit, [textures_zip(tmp_path / "t", names)], work)
    assert text == "2 textures are here: dotted, lined" and work.holds(visit.textures)
    assert "notes.txt" in visit.left_out[0]
    shown = synthesize.look(visit, Form(own=True, mask="polygon"))
    assert shown.kinds == 8 and {one.parameters["texture"] for one in shown.painted} == {"dotted", "lined"}
    jobs.paint(visit, Form(own=True, each=3), work)
    assert asked[0]["config"]["textures"] == str(visit.textures) and asked[0]["config"]["count"] == 6
    shutil.rmtree(visit.textures)
    with pytest.raises(InvalidArgumentError, match="the textures were removed, as nothing used them: upload them"):
        synthesize.look(visit, Form(own=True))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: [], "no image could be read"),  # an empty folder
        (lambda folder: parts(folder, 1), "there is 1 texture, and kinds want 2 or more"),
        (lambda folder: [textures_zip(folder, ("a.txt",))], "no image could be read"),
    ],
)
def test_textures_that_are_refused(session, work, visit, tmp_path, make, reason):
    with pytest.raises(InvalidUploadError, match=reason):
        synthesize.take_textures(session, visit, make(tmp_path / "t"), work)
    assert visit.textures is None


def test_what_is_asked_of_the_painting(session, work, visit, asked):
    assert jobs.paint(visit, Form(mask="poisson", area=(30.0, 20.0)), work) == "Painting 480 defects on your product."
    config = asked[0]["config"]
    assert asked[0]["kind"] == "synthesize" and config["product"] == "your product"
    assert config["settings"] == {
        "mask": "poisson", "beta": [0.2, 1.0], "area": [0.2, 0.3], "polygon_area": 0.15, "foreground": "auto",
    }  # fmt: skip
    assert [name for name, _ in config["images"]] == ["0.png", "1.png", "2.png", "3.png"]
    assert all(work.holds(Path(path)) for _, path in config["images"])
    with pytest.raises(InvalidArgumentError, match="painting defects on your product still runs"):
        jobs.paint(visit, Form(), work)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Form(each=1), "choose 2 or more of each, and at most 10,000"),
        (Form(each=300), "300 images of each of 48 kinds are 14,400"),
        (Form(mask="rings"), "mask"),
        (Form(beta=(0.0, 50.0)), "beta must be"),
        (Form(foreground="magic"), "foreground"),
        (Form(own=True), "there are no textures yet"),
    ],
)
def test_forms_that_are_refused(work, visit, asked, form, reason):
    with pytest.raises(InvalidArgumentError, match=reason):
        jobs.paint(visit, form, work)
    assert asked == [] and visit.paint_job is None


def test_nothing_to_begin_with(session, work):
    with pytest.raises(InvalidArgumentError, match="choose some in step 1"):
        jobs.paint(Visit(), Form(), work)
    with pytest.raises(InvalidArgumentError, match="press Generate in step 2"):
        jobs.pretrain(session, Visit(), Training(), work, trusted=True)
    for take in (jobs.painted_file, jobs.pretrained_file):
        with pytest.raises(InvalidArgumentError, match="yet: press"):
            take(session, Visit(), work)
    with pytest.raises(InvalidArgumentError, match="nothing to go on with"):
        jobs.resume(Visit(), work, 2)
    jobs.cancel(Visit(), work, 3)  # nothing runs: nothing happens


def test_a_full_disk(session, work, visit, asked, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        for module, name in ((os, "link"), (shutil, "copyfile")):
            patched.setattr(module, name, full)
        with pytest.raises(OutputError, match=r"cannot keep what it needs \(No space left on device\)") as caught:
            jobs.paint(visit, Form(), work)
    assert str(work.home) not in str(caught.value) and visit.paint_job is None
    painted(visit, work)
    monkeypatch.setattr(shutil, "make_archive", full)
    with pytest.raises(OutputError, match="the zip cannot be written .No space left on device.: free some space"):
        jobs.painted_file(session, visit, work)


def test_the_painted_data_set(session, work, visit, asked):
    painted(visit, work)
    state = jobs.painting(visit, work)
    assert state.status == "done" and not state.problem
    made = jobs.painted_set(visit, work)
    html = synthesize_view.gallery(made, 1) + synthesize_view.gallery(made, 3)
    assert len(made) == 96 and synthesize_view.n_pages(made) == 3
    assert html.count("<figure") == 32 and html.count("<img") == 64
    path = jobs.painted_file(session, visit, work)
    assert Path(path).name == "anomalyhub-your-product-synthetic.zip"
    shutil.unpack_archive(path, session.folder / "unpacked")
    read = load_dataset(session.folder / "unpacked")
    assert (read.product, len(read.test), len(read_synthetic(session.folder / "unpacked"))) == ("your product", 96, 96)


# Step 3.


def learned(session: Session, work: Work, visit: Visit, detector: str = "patchcore", **changes) -> Path:
    """The Detect tab has learned what was chosen."""
    folder = work.store.root / JOB.format(255)
    (folder / "result").mkdir(parents=True, exist_ok=True)
    asked = {"kind": "fit", "config": {"detector": detector, "images": []}}
    (folder / "config.json").write_text(json.dumps(asked))
    set_status(work, folder.name, "done")
    chosen = visit.chosen
    source = Source(chosen.name, Split(chosen.refs), Split(), chosen.kind)
    session.source, session.fit_job = replace(source, **changes), folder.name
    return folder / "result"


def test_pretraining_with_the_detect_tabs_model(session, work, visit, asked):
    result = painted(visit, work)
    model = learned(session, work, visit)
    assert jobs.detect_model(session, visit.chosen, work) == model
    jobs.pretrain(session, visit, Training(detector="detect", against="clean", seed=3), work, trusted=True)
    assert [one["kind"] for one in asked] == ["synthesize", "pretrain"] and asked[1]["seed"] == 3
    assert asked[1]["config"] == {
        "synthetic": str(result), "model": str(model), "head": "prototype", "against": "clean", "backbone": "embedded",
    }  # fmt: skip
    assert session.pretrain_jobs == [visit.pretrain_job] and visit.fit_job is None


CASES = ["other detector", "other images", "other names", "fewer images", "gone", "no source", "no job", "no result"]


@pytest.mark.parametrize("case", CASES)
def test_models_of_the_detect_tab_that_do_not_fit(session, work, visit, asked, tmp_path, case):
    painted(visit, work)
    model = learned(session, work, visit, "musc" if case == "other detector" else "patchcore")
    others = [SampleRef(Path(path).name, Path(path)) for path in parts(tmp_path / "others", flat=True)]
    named = [replace(ref, id=f"my {ref.id}") for ref in visit.chosen.refs]
    if case in ("other images", "other names", "fewer images"):
        refs = {"other images": others, "other names": named, "fewer images": visit.chosen.refs[:2]}[case]
        session.source = replace(session.source, normals=Split(refs))
    elif case == "gone":
        visit.chosen.refs[0].path.unlink()
    elif case == "no source":
        session.source = None
    elif case == "no job":
        session.fit_job = None
    elif case == "no result":
        model.rmdir()
    assert jobs.detect_model(session, visit.chosen, work) is None
    with pytest.raises(InvalidArgumentError, match="no PatchCore of these images: press Learn there, or let this tab"):
        jobs.pretrain(session, visit, Training(detector="detect"), work, trusted=True)
    assert len(asked) == 1


def test_copies_of_the_images_are_the_same_product(session, work, visit, asked, tmp_path):
    copies = [SampleRef(Path(path).name, Path(path)) for path in parts(tmp_path / "copy")]
    model = learned(session, work, visit, normals=Split(copies))  # each tab keeps files of its own
    assert jobs.detect_model(session, visit.chosen, work) == model


def test_pretraining_waits_for_what_it_learns_itself(session, work, visit, asked):
    painted(visit, work)
    jobs.pretrain(session, visit, Training(head="contrastive"), work, trusted=False)
    assert [one["kind"] for one in asked] == ["synthesize", "fit", "pretrain"]
    assert asked[1]["config"]["images"] == asked[0]["config"]["images"]  # kept once
    fit = work.get(visit.fit_job, "fit")
    assert asked[2]["config"]["model"] == str(fit.folder / "result") and "backbone" not in asked[2]["config"]
    with pytest.raises(InvalidArgumentError, match="pretraining on your product still runs"):
        jobs.pretrain(session, visit, Training(), work, trusted=False)

    (fit.folder / "progress.json").write_text('{"fraction": 0.5, "text": "features 2 of 4 images"}')
    state = jobs.pretraining(visit, work)
    assert (state.status, round(state.fraction, 3), state.text) == ("queued", 0.15, "Looking at photos: 2 of 4")
    finish(work, visit.fit_job)
    pretraining = work.get(visit.pretrain_job).folder
    set_status(work, visit.pretrain_job, "running")
    (pretraining / "progress.json").write_text('{"fraction": 0.5, "text": "episode 3: accuracy 0.25"}')
    state = jobs.pretraining(visit, work)
    assert (state.status, round(state.fraction, 3)) == ("running", 0.65) and "ccuracy 0.25" in state.text
    finish(work, visit.pretrain_job)
    assert jobs.pretraining(visit, work).result == pretraining / "result"

    jobs.pretrain(session, visit, Training(), work, trusted=False)  # what is normal is known by now
    assert [one["kind"] for one in asked[3:]] == ["pretrain"] and session.pretrain_jobs[-1] == visit.pretrain_job


def test_what_is_normal_could_not_be_learned(session, work, visit, asked):
    painted(visit, work)
    jobs.pretrain(session, visit, Training(), work, trusted=False)
    set_status(work, visit.fit_job, "failed", error="the images are of one colour: take others")
    set_status(work, visit.pretrain_job, "failed", error="model folder x does not exist")
    state = jobs.pretraining(visit, work)
    assert state.problem == "what is normal could not be learned: the images are of one colour: take others"
    resumed = []
    for name in (visit.fit_job, visit.pretrain_job):
        work.get(name)  # both are there
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(work.get(visit.fit_job)), "resume", lambda job: resumed.append(job.kind))
        jobs.resume(visit, work, 3)
    assert resumed == ["fit", "pretrain"]  # in the order in which they run


def test_cancelling_stops_both(session, work, visit, asked):
    painted(visit, work)
    jobs.pretrain(session, visit, Training(), work, trusted=False)
    jobs.cancel(visit, work, 3)
    assert work.get(visit.fit_job).stopping and work.get(visit.pretrain_job).stopping
    assert "Stopping" in synthesize_view.job_slot(jobs.pretraining(visit, work), "Pretrain")
    assert not work.get(visit.paint_job).stopping


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Training(head="direct"), "there is no head 'direct': choose one of prototype"),
        (Training(backbone="resnet18@/etc/passwd"), "is not offered here: choose one of embedded"),
    ],
)
def test_pretrainings_that_are_refused(session, work, visit, asked, form, reason):
    painted(visit, work)
    with pytest.raises(InvalidArgumentError, match=reason):
        jobs.pretrain(session, visit, form, work, trusted=False)
    assert len(asked) == 1 and session.pretrain_jobs == []


def test_what_is_offered_is_there():
    from anomalyhub.classification import classifiers

    assert set(jobs.HEADS) <= set(classifiers.names()) and next(iter(jobs.HEADS)) == "prototype"


def test_painting_anew_or_another_product_makes_the_pretraining_obsolete(session, work, visit, asked, tmp_path):
    painted(visit, work)
    jobs.pretrain(session, visit, Training(), work, trusted=False)
    for name in (visit.fit_job, visit.pretrain_job):
        finish(work, name)
    before = visit.pretrain_job
    painted(visit, work, Form(each=2, seed=1))
    assert jobs.pretraining(visit, work) == State() and session.pretrain_jobs == [before]
    assert jobs.painting(visit, work).result is not None
    synthesize.use_uploads(session, visit, parts(tmp_path / "others"))
    assert jobs.painting(visit, work) == State() == jobs.pretraining(visit, work)


# Jobs that are lost or damaged.


@pytest.mark.parametrize("running", [True, False])
def test_a_job_folder_that_was_deleted(session, work, visit, asked, running):
    painted(visit, work)
    jobs.pretrain(session, visit, Training(), work, trusted=False)
    set_status(work, visit.pretrain_job, "running" if running else "cancelled")
    shutil.rmtree(work.store.root / visit.pretrain_job)
    assert "has been deleted: start it again" in jobs.pretraining(visit, work).problem
    shutil.rmtree(work.store.root / visit.paint_job)
    state = jobs.painting(visit, work)
    assert "has been deleted" in state.problem and "has been deleted" in synthesize_view.job_slot(state, "Generate")
    shown = page(session, visit, work)
    assert shown["start"].interactive and not shown["start3"].interactive and not shown["timer"].active
    jobs.paint(visit, Form(), work)  # and it can be begun anew


def test_a_damaged_result(session, work, visit, asked):
    result = painted(visit, work)
    (result / "metadata.jsonl").write_text("{")
    state = jobs.painting(visit, work)
    assert "line 1" in state.problem and str(work.home) not in state.problem and "Generate again" in state.problem
    assert not page(session, visit, work)["start3"].interactive


def test_pictures_that_are_gone(session, work, visit, asked):
    result = painted(visit, work)
    for path in (result / "your product" / "test").rglob("000.png"):
        path.unlink()
    html = synthesize_view.gallery(jobs.painted_set(visit, work))
    assert html.count("<figure") == 16 and html.count("<img") == 16


# What the page shows.


def page(session: Session, visit: Visit, work: Work) -> dict[str, object]:
    """Values of the controls by name."""
    names = "timer head1 head2 head3 use_detect use_sample use_dataset start resume stop slot2 download detector"
    names += " start3 resume3 stop3 slot3 download3 stage results summary tabs gallery page"
    values = synthesize_tab._control_values(session, visit, work, Form())
    return dict(zip(names.split(), values, strict=True))


def test_the_page_of_a_new_visitor(session, work):
    shown = page(session, Visit(), work)
    assert "ah-current" in shown["head1"] and "Practice defects" in synthesize_view.empty()
    assert not shown["start"].interactive and not shown["results"].visible and shown["stage"].visible
    assert not shown["detector"].visible and not shown["timer"].active
    assert synthesize_tab._drawn(Visit(), Form()) == ""


def test_the_page_on_its_way(session, work, visit, asked):
    shown = page(session, visit, work)
    assert shown["start"].interactive and shown["start"].variant == "primary" and not shown["start3"].interactive
    assert "10 of each of 48 kinds: 480 images" in shown["head2"] and shown["results"].visible
    jobs.paint(visit, Form(each=2), work)
    folder = set_status(work, visit.paint_job, "running")
    (folder / "progress.json").write_text('{"fraction": 0.25, "text": "24 of 96 images <b>"}')
    shown = page(session, visit, work)
    assert "25 %" in shown["slot2"] and "Painted 24 of 96 images &lt;b&gt;" in shown["slot2"] and shown["timer"].active
    assert shown["stop"].visible and not shown["start"].interactive and not shown["resume"].visible
    set_status(work, visit.paint_job, "failed", error=f"{folder}/x is <i>full</i>")
    shown = page(session, visit, work)
    assert "&lt;i&gt;full" in shown["slot2"] and str(work.home) not in shown["slot2"]
    assert shown["resume"].visible and shown["resume"].value == "Try again"
    set_status(work, visit.paint_job, "cancelled")
    assert "Stopped" in page(session, visit, work)["slot2"]
    finish(work, visit.paint_job)
    shown = page(session, visit, work)
    assert "<b>96</b> painted defects of your product" in shown["summary"].value and shown["download"].visible
    assert shown["start3"].interactive and shown["start3"].variant == "primary" and "ah-current" in shown["head3"]
    assert shown["page"].maximum == 3


def test_the_detect_tabs_model_is_offered_once_it_is_there(session, work, visit, asked):
    assert not page(session, visit, work)["detector"].visible
    learned(session, work, visit)
    offered = page(session, visit, work)["detector"]
    assert offered.visible and offered.value == "detect"
    again = page(session, visit, work)["detector"]  # what the visitor has chosen since stays
    assert again.visible and again.value is None
    session.source = None
    gone = page(session, visit, work)["detector"]
    assert not gone.visible and gone.value == "own"


def test_how_the_pretraining_went(session, work, visit, asked):
    painted(visit, work)
    jobs.pretrain(session, visit, Training(), work, trusted=False)
    finish(work, visit.fit_job)
    result = finish(work, visit.pretrain_job)
    shown = page(session, visit, work)
    assert "open the Classify tab" in shown["summary"].value and shown["download3"].visible
    assert "Practised" not in shown["summary"].value  # its folder says nothing
    known = {"images": 96, "pseudo_classes": 48, "episodes": 120, "accuracy": 0.419}
    stored = {"schema": 1, "kind": "classifier", "pretraining": known}
    (result / "config.json").write_text(json.dumps(stored))
    text = page(session, visit, work)["summary"].value
    assert "Practised on 48 kinds, 96 images, 120 rounds, 42 % right in the last round." in text
    path = Path(jobs.pretrained_file(session, visit, work))
    assert path.name == "anomalyhub-your-product-pretrained.zip" and zipfile.ZipFile(path).namelist() == ["config.json"]


def test_names_are_escaped_wherever_they_show(session, work, visit, asked):
    painted(visit, work)
    visit.chosen = visit.started = replace(visit.chosen, name=NASTY)
    made = jobs.painted_set(visit, work)
    refs = [replace(ref, label=NASTY, id=NASTY) for ref in made.refs]
    shown = synthesize.look(visit, Form())
    shown = replace(shown, painted=tuple(replace(one, label=NASTY) for one in shown.painted), reason=NASTY)
    state = jobs.painting(visit, work)
    html = [*synthesize_view.heads(visit, state, State(), Form()), synthesize_view.summary(visit, state, State())]
    html += [synthesize_view.gallery(type(made)(made.folder, made.info, refs)), synthesize_view.preview(shown)]
    html += [views.problem(NASTY), views.said(NASTY, [NASTY])]
    html = "".join(html)
    assert NASTY not in html and html.count("&lt;img src=x onerror=alert(1)&gt;") >= 12


@pytest.mark.parametrize(
    ("label", "title"),
    [("stripes-1_x_3", "stripes-1, triangle"), ("a_x_b_x_6", "a x b, hexagon"), ("fish_scale", "fish scale")],
)
def test_titles(label, title):
    assert synthesize_view._title(label) == title


# The page comes back.


def test_recall(session, work, visit, asked, tmp_path):
    synthesize.take_textures(session, visit, [textures_zip(tmp_path / "t")], work)
    form = Form("poisson", True, (30.0, 60.0), (5.0, 25.0), 20.0, "whole", 7, 5)
    jobs.paint(visit, form, work)
    finish(work, visit.paint_job)
    jobs.pretrain(session, visit, Training(), work, trusted=False)
    memory = json.loads(json.dumps(jobs.remembered(session, visit)))
    again, other = Visit(), Session()
    assert jobs.recall(other, again, memory, work) == form
    assert (again.paint_job, again.fit_job, again.pretrain_job) == (visit.paint_job, visit.fit_job, visit.pretrain_job)
    assert other.pretrain_jobs == [visit.pretrain_job] and again.chosen.name == "your product"
    assert jobs.painting(again, work).result is not None and jobs.pretraining(again, work).active
    assert synthesize.look(again, form).kinds == 2  # its images and textures are there
    assert jobs.recall(other, again, {"paint": "x"}, work) is None and again.paint_job == visit.paint_job
    assert jobs.remembered(other, again) == memory


@pytest.mark.parametrize(
    "memory",
    [None, "x", 5, [], {}, {"paint": None}, {"paint": 7}, {"paint": "../.."}, {"paint": ["x"]}, {"pretrained": 5},
     {"pretrained": [None, "..", 4]}],
)  # fmt: skip
def test_a_memory_that_is_none(session, work, memory):
    visit = Visit()
    assert jobs.recall(session, visit, memory, work) is None
    assert visit.paint_job is None and session.pretrain_jobs == [] and jobs.remembered(session, visit) is None


def test_a_job_of_another_kind_is_not_recalled(session, work, visit, asked):
    learned(session, work, visit)
    again = Visit()
    assert jobs.recall(session, again, {"paint": session.fit_job, "pretrained": [session.fit_job]}, work) is None
    assert again.paint_job is None and session.pretrain_jobs == []


def test_the_form_and_its_controls_are_one():
    form = Form("polygon", True, (10.0, 90.0), (5.0, 50.0), 33.0, "floodfill", 4, 9)
    values = synthesize_tab._form_values(form)
    assert synthesize_tab._form(*values) == form
    ui = type("Ui", (), {"data_root": None, "trusted": False, "work": None})()

    async def build() -> None:  # gradio leaves event loops unclosed when it is built while none runs
        with gr.Blocks():
            synthesize_layout.lay_out(ui, ["", "", ""], "")

    asyncio.run(build())
    controls = synthesize_tab._form_inputs(ui)
    assert synthesize_tab._form(*(control.value for control in controls)) == Form()
    assert len(controls) == len(values)


@pytest.mark.slow
def test_from_uploads_to_a_pretrained_classifier(session, work, visit):
    """Real jobs: painting, learning what is normal, pretraining."""
    jobs.paint(visit, Form(each=2), work)
    job = work.get(visit.paint_job)
    assert job.wait(240) == "done", work.reason(job)
    jobs.pretrain(session, visit, Training(), work, trusted=True)
    trained = work.get(visit.pretrain_job)
    assert trained.wait(480) == "done", (jobs.pretraining(visit, work).problem, trained.log_tail())
    known = synthesize_view.pretraining_of(jobs.pretraining(visit, work))
    assert (known["images"], known["pseudo_classes"]) == (96, 48)
