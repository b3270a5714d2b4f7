"""The Compare tab without a browser: where images come from, what is tried, and what is said of the result."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from discover_tab_helpers import done_job
from PIL import Image

from anomalyhub.benchmark.swap import STAGES, SwapConfig, Swapped
from anomalyhub.data import Split, load_dataset
from anomalyhub.data.sample import DEFECTS, write_sample
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidDatasetError, InvalidModelError
from anomalyhub.ui import compare, compare_data, compare_tab, compare_view, discover
from anomalyhub.ui.compare import Form, Outcome, Standing, Visit
from anomalyhub.ui.session import Session, Source
from anomalyhub.ui.work import Work

NASTY = "<img src=x onerror=alert(1)>"
QUICK = "patchcore,coreset=0.1,resize=64,crop=64,calibration_images=4"
KINDS = {kind: 3 for kind in sorted(DEFECTS["ring"])}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A root with the product ring: six normal images to learn from, three to test, three of each of four kinds."""
    folder = tmp_path_factory.mktemp("compare") / "data"
    write_sample(folder, products="ring", n_train=6, n_test_good=3, n_defect=3, size=64)
    return folder


@pytest.fixture(scope="module")
def measured(data, tmp_path_factory) -> Path:
    """What a bench has written."""
    folder = tmp_path_factory.mktemp("measured")
    config = SwapConfig(str(data / "ring"), None, (QUICK,), ("mebin", "otsu"), ("prototype",), 2, (0, 1))
    rows = [
        {"detector": QUICK, "binarizer": binarizer, "classifier": "prototype", "seed": seed, "image_auroc": 0.9, "n": 7}
        | {"accuracy": accuracy, "kind_accuracy": 0.5, "lost": dict.fromkeys(STAGES, (1.0 - accuracy) / 4)}
        for binarizer, seed, accuracy in (("mebin", 0, 0.6), ("mebin", 1, 0.7), ("otsu", 0, 0.5), ("otsu", 1, 0.9))
    ]
    Swapped(config, tuple(rows), ("dent has one image",)).write(folder)
    return folder


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path / "home")


@pytest.fixture
def session():
    session = Session()
    yield session
    session.close()


@pytest.fixture
def chosen(data):
    return compare_data.of_dataset(data, "ring")


@pytest.fixture
def done(work, measured, data) -> Visit:
    """A visitor whose bench is done."""
    config = json.loads((measured / "swap.json").read_text())["config"] | {"data": str(data / "ring")}
    contents = {path.name: path for path in measured.iterdir()}
    job = work.store.adopt("swap", config, contents, name="comparing chains on Cast ring")
    return Visit(job_id=job.id)


def zipped(folder: Path, target: Path, skip: str = "") -> str:
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            name = path.relative_to(folder).as_posix()
            if not skip or not name.startswith(skip):
                file.write(path, name)
    return str(target)


def asked(work: Work, monkeypatch) -> list[dict]:
    """What would be queued, instead of queuing it."""
    found = []

    def submit(kind, config, *, name="", seed=0, device="auto"):
        found.append({"kind": kind, "config": config, "name": name})
        return work.store.adopt(kind, config, {}, name=name)

    monkeypatch.setattr(work.store, "submit", submit)
    return found


# Step 1.


def test_a_sample_with_masks(work, monkeypatch, tmp_path):
    monkeypatch.setattr(discover, "_SAMPLE_COUNTS", {"n_train": 2, "n_test_good": 1, "n_defect": 2, "size": 64})
    monkeypatch.setattr(discover, "_sample_root", lambda: SimpleNamespace(name=str(tmp_path / "drawn")))
    chosen = compare_data.of_sample("ring", work)
    assert (chosen.name, chosen.n_train, chosen.n_good, chosen.masks) == ("Machined ring", 2, 1, True)
    assert chosen.kinds == {kind: 2 for kind in sorted(DEFECTS["ring"])}
    assert work.holds(Path(chosen.folder))  # it lasts as long as a job names it
    assert compare_data.chosen_text(chosen) == "Machined ring: 8 defects of 4 kinds, 1 good ones to test"
    with pytest.raises(InvalidArgumentError, match="no sample"):
        compare_data.of_sample("../ring", work)


def test_a_data_set_below_the_root(data, chosen):
    assert chosen.kinds == KINDS and chosen.masks and (chosen.n_train, chosen.n_good) == (6, 3)
    assert chosen.folder == str(data / "ring") and {ref.label for ref in chosen.refs} == set(KINDS)
    for root, name, error in [
        (None, "ring", InvalidArgumentError),
        (data, "../etc", InvalidDatasetError),
        (data, "nothing", InvalidDatasetError),
    ]:
        with pytest.raises(error):
            compare_data.of_dataset(root, name)


def test_a_data_set_with_links_out_of_the_root_is_refused(data, tmp_path):
    shutil.copytree(data / "ring", tmp_path / "root" / "ring")
    mask = next((tmp_path / "root" / "ring" / "ground_truth").rglob("*.png"))
    shutil.move(mask, tmp_path / "elsewhere.png")
    mask.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(InvalidDatasetError, match="ring links to files outside the data folder"):
        compare_data.of_dataset(tmp_path / "root", "ring")


def test_a_zip_of_class_folders(session, work, data, tmp_path):
    test = data / "ring" / "test"
    chosen = compare_data.of_uploads(session, [zipped(test, tmp_path / "kinds.zip")], work)
    assert chosen.kinds == KINDS and not chosen.masks
    assert chosen.n_train + chosen.n_good == 3 and chosen.n_train >= 1  # the layout has no split: most are learned from
    assert load_dataset(chosen.folder).classes == ("good", *sorted(KINDS))


def test_a_zip_as_mvtec_ad_has_it_keeps_its_split_and_masks(session, work, data, tmp_path):
    chosen = compare_data.of_uploads(session, [zipped(data, tmp_path / "ring.zip")], work)
    assert (chosen.n_train, chosen.n_good, chosen.masks) == (6, 3, True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("loose", "nobody has said which kind"),
        ("two products", "2 products"),
        ("one kind", "1 kinds of defect with 2 images"),
        ("no image", "no image could be read"),
    ],
)
def test_uploads_that_will_not_do(session, work, data, tmp_path, spoil, words):
    root = tmp_path / "up"
    if spoil == "loose":
        paths = [str(next((data / "ring" / "test").rglob("*.png")))]
    elif spoil == "two products":
        for name in ("a", "b"):
            shutil.copytree(data / "ring" / "test", root / name)
        paths = [zipped(root, tmp_path / "two.zip")]
    elif spoil == "one kind":
        for name in ("good", next(iter(KINDS))):
            shutil.copytree(data / "ring" / "test" / name, root / name)
        paths = [zipped(root, tmp_path / "one.zip")]
    else:
        (tmp_path / "notes.txt").write_text("no image")
        paths = [str(tmp_path / "notes.txt")]
    with pytest.raises(AnomalyHubError, match=words) as caught:
        compare_data.of_uploads(session, paths, work)
    assert str(work.home) not in str(caught.value)


def test_the_kinds_of_the_board(session, work, tmp_path, data):
    with pytest.raises(InvalidArgumentError, match="no board yet"):
        compare_data.of_board(session, work)
    session.discover_job = done_job(work, tmp_path / "found")
    chosen = compare_data.of_board(session, work)
    assert chosen.name == "part" and len(chosen.usable) >= 2 and not chosen.masks
    assert chosen.n_train == 0  # it was made from maps, and nobody has said what is normal


def test_normal_images_of_the_boards_detector_come_along(session, work, tmp_path, data, monkeypatch):
    session.discover_job = done_job(work, tmp_path / "found")
    refs = load_dataset(data, "ring").train.refs
    monkeypatch.setattr(compare_data.classify, "normals_of", lambda folder, work: [[r.id, str(r.path)] for r in refs])

    def save(board, folder):  # two kinds of two
        for kind in ("dent", "scratch"):
            for number in (0, 1):
                path = folder / "part" / "test" / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (72, 48), (number * 40, 9, 9)).save(path)
        (folder / "part" / "ground_truth" / "dent").mkdir(parents=True)
        Image.new("L", (72, 48), 255).save(folder / "part" / "ground_truth" / "dent" / "0_mask.png")

    monkeypatch.setattr(compare_data, "save_labelled", save)
    chosen = compare_data.of_board(session, work)
    assert chosen.kinds == {"dent": 2, "scratch": 2} and (chosen.n_train, chosen.n_good) == (6, 0)
    assert not chosen.masks and "detector’s own" in chosen.notices[0]  # they would judge the detector by itself


def test_the_detect_tabs_product(session, work, data, monkeypatch):
    with pytest.raises(InvalidArgumentError, match="no images yet"):
        compare_data.of_detect(session, work, data)
    none = Split()
    session.source = Source("ring", none, none, "dataset", key="ring")
    assert compare_data.of_detect(session, work, data).kinds == KINDS
    files = {path.relative_to(data).as_posix(): path for path in (data / "ring").rglob("*.png")}
    taken = work.store.adopt("dataset", {}, files)
    session.source = Source("acme/ring", none, none, "hub", key=f"{taken.id}/ring")
    assert compare_data.of_detect(session, work, None).folder.startswith(str(taken.folder))
    session.source = Source("your product", none, none, "upload")
    with pytest.raises(InvalidArgumentError, match="have no labels"):
        compare_data.of_detect(session, work, data)


# Step 2.


def test_further_parts_join_those_of_their_kind():
    form = Form(more=" patchcore, coreset=0.2 \n\nfixed,value=0.4\ndirect,backbone=x\nwinclip\npatchcore")
    assert form.with_more() == {
        "detectors": ("patchcore", "patchcore,coreset=0.2", "winclip"),
        "binarizers": ("mebin", "otsu", "fixed,value=0.4"),
        "classifiers": ("prototype", "direct", "direct,backbone=x"),
    }
    assert form.n_chains == 3 * 3 * 3 * 3


@pytest.mark.parametrize(
    ("changes", "trusted", "words"),
    [
        ({"detectors": ()}, True, "no detector is chosen"),
        ({"classifiers": ()}, True, "no classifier is chosen"),
        ({"shots": 0}, True, "0 examples: choose 1 to 50"),
        ({"seeds": 11}, True, "11 rounds: choose 1 to 10"),
        ({"seeds": 10, "more": "\n".join(f"fixed,value=0.{n}" for n in range(30))}, True, "too many"),
        ({"false_alarm_rate": 0.0}, True, "more than 0"),
        ({"more": "patchcore,backbone=/etc/x"}, False, "'patchcore,backbone=/etc/x' is not offered here"),
        ({"detectors": ("winclip",)}, False, "'winclip' is not offered here: choose one of patchcore"),
        ({"more": "patchcore,backbone=/etc/x"}, True, None),
    ],
)
def test_what_can_be_tried(chosen, changes, trusted, words):
    if words is None:
        return compare.check(chosen, Form(**changes), trusted)
    with pytest.raises(InvalidArgumentError, match=words):
        compare.check(chosen, Form(**changes), trusted)


def test_without_normal_images_only_detectors_that_need_none(data, tmp_path, session, work):
    test = data / "ring" / "test"
    chosen = compare_data.of_uploads(session, [zipped(test, tmp_path / "kinds.zip", skip="good")], work)
    assert chosen.n_train == 0
    with pytest.raises(InvalidArgumentError, match="no normal images to learn from, which PatchCore needs"):
        compare.check(chosen, Form(), True)
    compare.check(chosen, Form(detectors=("musc",)), True)


def test_how_long_it_takes_grows_with_all_that_is_asked_for(chosen):
    base = compare.seconds(chosen, Form())
    for changes in (
        {"seeds": 4},
        {"detectors": ("patchcore", "musc")},
        {"binarizers": ("mebin", "otsu", "fixed")},
        {"classifiers": ("prototype", "direct", "contrastive")},
        {"detectors": ("patchcore,backbone=wide_resnet50_2",)},
    ):
        assert compare.seconds(chosen, Form(**changes)) > base
    assert compare.plan_text(chosen, Form()) == "4 chains, 3 times each: about a minute on two cores"
    assert compare.plan_text(None, Form(binarizers=("mebin",), classifiers=("direct",))) == "1 chain, 3 times each"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "a minute"), (100, "2 minutes"), (1800, "30 minutes"), (7000, "two hours"), (20000, "6 hours")],
)
def test_durations(seconds, text):
    assert compare.duration(seconds) == f"about {text}"


# Step 3.


def test_the_job(work, chosen, monkeypatch):
    visit = Visit()
    with pytest.raises(InvalidArgumentError, match="no labelled images yet"):
        compare.start(visit, Form(), work, True)
    visit.chosen, queued = chosen, asked(work, monkeypatch)
    compare.start(visit, Form(seeds=2, shots=1, false_alarm_rate=5.0, more="fixed,value=0.4"), work, True)
    (one,) = queued
    assert (one["kind"], one["name"]) == ("swap", "comparing chains on ring")
    config = SwapConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in one["config"].items()})
    assert (config.data, config.shots, config.seeds, config.false_alarm_rate) == (chosen.folder, 1, (0, 1), 0.05)
    assert config.binarizers == ("mebin", "otsu", "fixed,value=0.4")
    visit.chosen = compare_data.Chosen("x", "/nothing/there", {}, 0, 0, False, ())
    with pytest.raises(InvalidArgumentError, match="choose them again"):
        compare.start(visit, Form(), work, True)
    assert visit.chosen is None


def test_a_page_that_comes_back_finds_images_form_and_result(work, done, data):
    memory, visit = compare.remembered(done), Visit()
    assert compare.recall(visit, memory, work)
    assert visit.chosen.name == "Cast ring" and visit.chosen.kinds == KINDS
    form = visit.started[1]
    assert (form.detectors, form.more, form.classifiers, form.shots, form.seeds) == ((), QUICK, ("prototype",), 2, 2)
    assert form.with_more()["detectors"] == (QUICK,) and form.false_alarm_rate == 1.0
    assert compare.standing(visit, work).outcome is not None
    assert not compare.recall(visit, memory, work)  # it is known already


@pytest.mark.parametrize("memory", [None, 3, [], {"job": None}, {"job": "../x"}, {"job": "20260101-000000-00000000"}])
def test_any_memory_is_survived(work, memory):
    assert not compare.recall(Visit(), memory, work)


def test_how_a_job_stands(work, done, data):
    job = work.get(done.job_id)
    (job.folder / "result").rename(job.folder / "away")
    reason = f"{data / 'ring'} has fewer than two kinds"
    (job.folder / "status.json").write_text(json.dumps({"status": "failed", "attempt": 1, "error": reason}))
    at = compare.standing(done, work)
    assert (at.status, at.outcome) == ("failed", None) and at.problem == "Cast ring has fewer than two kinds"
    assert "Cast ring has fewer" in compare_view.job_slot(at) and "did not work" in compare_view.stage(done, at)
    (job.folder / "away").rename(job.folder / "result")
    (job.folder / "result" / "swap.json").unlink()  # which has another name elsewhere
    (job.folder / "result" / "swap.json").write_text('{"summary": [{"detector": "x"}]}')
    at = compare.standing(done, work)
    assert at.outcome is None and "damaged" in at.problem and str(work.home) not in at.problem
    shutil.rmtree(job.folder)
    assert "deleted" in compare.standing(done, work).problem


def test_progress_counts_chains(work, done):
    job = work.get(done.job_id)
    (job.folder / "checkpoints").mkdir()
    assert compare.progress(job)[1].startswith("0 of 4 chains measured")
    (job.folder / "checkpoints" / "rows.jsonl").write_text("what was asked for\n{}\n{}\n{ cut off")
    assert compare.progress(job)[1].startswith("2 of 4 chains measured")


# The result.


def row(accuracy=0.6, spread=0.1, lost=(0.1, 0.1, 0.1, 0.1), **names) -> dict:
    made = {"detector": "patchcore", "binarizer": "mebin", "classifier": "prototype", **names}
    made |= {"accuracy": (accuracy, spread), "kind_accuracy": (0.5, 0.0), "image_auroc": (None, None), "seeds": 3}
    return made | {"lost": dict(zip(STAGES, lost, strict=True))}


def outcome(*rows: dict, n_test: int = 50) -> Outcome:
    return Outcome(tuple(rows), (), 3, n_test)


@pytest.mark.parametrize(
    ("accuracy", "lost", "told"),
    [
        (0.6, (0.3, 0.05, 0.0, 0.05), ("to the verdict", "30 %", "more normal images")),
        (0.6, (0.1, 0.2, 0.05, 0.05), ("to the binarization", "20 %", "other binarizers")),
        (0.6, (0.1, -0.05, 0.35, 0.0), ("to the detector’s map", "35 %", "another detector or backbone")),
        (0.6, (0.1, 0.0, 0.0, 0.3), ("to the classifier", "30 %", "more examples of each kind")),
        (0.6, (0.1, None, None, None), ("after the verdict", "30 %", "masks")),
        (0.6, (0.35, None, None, None), ("to the verdict", "35 %", "normal images")),
        (1.0, (0.0, 0.0, 0.0, 0.0), ("Nothing is lost",)),
    ],
)
def test_what_to_improve_first(accuracy, lost, told):
    page = compare_view.summary(outcome(row(accuracy, lost=lost)))
    assert all(text in page for text in told)
    assert f"{100 * accuracy:.0f} %" in page and "of 50 test images" in page


def test_shares_and_bars_add_up():
    found = compare_view.shares(row(0.6, lost=(0.1, 0.1, 0.1, 0.1)))
    assert sum(found.values()) == pytest.approx(1.0) and "rest" not in found
    assert compare_view.shares(row(0.6, lost=(0.1, None, None, None)))["rest"] == pytest.approx(0.3)
    for lost in ((0.1, 0.1, 0.1, 0.1), (0.1, -0.2, 0.4, 0.1), (0.4, None, None, None)):
        page = compare_view.chains(outcome(row(0.6, lost=lost)))
        widths = [float(width) for width in re.findall(r'class="ah-p-\w+" style="width:([\d.]+)%"', page)]
        assert sum(widths) == pytest.approx(100, abs=0.1) and len(widths) == 1 + sum((one or 0) > 0 for one in lost)


def test_which_choice_matters():
    rows = [
        row(0.9),
        row(0.8, classifier="direct"),
        row(0.5, detector="musc"),
        row(0.4, detector="musc", classifier="direct"),
    ]
    found = compare_view.effects(outcome(*rows))
    assert list(found) == ["detector", "classifier"]
    assert found["detector"] == pytest.approx({"patchcore": 0.85, "musc": 0.45})
    assert "choice of the detector matters most: PatchCore is 40 points above MuSc" in compare_view.summary(
        outcome(*rows)
    )
    assert "1 other chain is as good" in compare_view.summary(outcome(*rows))  # 0.8, with a spread of 0.1
    assert compare_view.parts(outcome(*rows)).count('<th scope="row">') == 4
    assert "Only one of each part" in compare_view.parts(outcome(row()))


def test_names_are_escaped_and_what_is_undefined_says_so():
    made = outcome(row(detector=NASTY, binarizer=NASTY, classifier=NASTY))
    pages = [draw(made) for draw in (compare_view.summary, compare_view.chains, compare_view.figures, compare_view.use)]
    assert NASTY not in "".join(pages) and "&lt;img" in pages[0] and "n/a" in pages[2]
    assert "-0.0" not in compare_view.figures(outcome(row(lost=(-1e-9, 0.1, 0.1, 0.2))))


def test_how_to_make_the_best_chain():
    best = row(
        detector="patchcore,backbone=resnet18,coreset=0.2", binarizer="fixed,value=0.4", classifier="direct,backbone=x"
    )
    page = compare_view.use(outcome(best))
    assert "anomalyhub fit patchcore --data photos --out model --backbone resnet18 --set coreset=0.2" in page
    assert "--head direct --backbone x --binarizer fixed,value=0.4 --out inspector" in page


def test_a_real_result_is_read(measured):
    made = Outcome.read(measured)
    assert [one["binarizer"] for one in made.summary] and made.shots == 2 and made.n_test == 7
    assert all(abs(sum(compare_view.shares(one).values()) - 1) < 1e-9 for one in made.summary)
    with pytest.raises(InvalidModelError):
        Outcome.read(measured / "nothing")


def test_files_of_the_result(session, work, done):
    paths = [Path(compare.file_of(session, done, work, what)) for what in ("csv", "json", "png")]
    assert [path.name for path in paths] == [f"anomalyhub-cast-ring-chains.{what}" for what in ("csv", "json", "png")]
    with open(paths[0], newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert json.loads(paths[1].read_text())["kind"] == "swap"
    with Image.open(paths[2]) as picture:
        assert picture.width > 300
    with pytest.raises(InvalidArgumentError, match="nothing has been compared yet"):
        compare.file_of(session, Visit(), work, "csv")


# The page.

_FORM = (["patchcore"], ["mebin", "otsu"], ["prototype"], 3, 3, "", 1.0)


def shown(visit: Visit, work: Work, *form) -> dict:
    """Values of the controls by name."""
    names = "timer head1 head2 head3 sample detect board dataset start resume stop slot saves stage results"
    names += " summary chains parts figures use"
    values = compare_tab._control_values(visit, work, *(form or _FORM))
    return dict(zip(names.split(), values, strict=True))


def test_the_page_on_the_way(work, chosen, done):
    page = shown(Visit(), work)
    assert "What works best" in page["stage"].value and not page["start"].interactive and not page["results"].visible
    page = shown(Visit(chosen), work)
    assert page["start"].interactive and "2 chains, 3 times each: about a minute" in page["head2"]
    page = shown(done, work)
    assert (
        page["results"].visible and page["saves"].visible and "right on" in page["summary"] and not page["timer"].active
    )
    recalled = Visit()
    compare.recall(recalled, compare.remembered(done), work)
    form = recalled.started[1]
    same = (form.detectors, form.binarizers, form.classifiers, form.shots, form.seeds, form.more, form.false_alarm_rate)
    assert "Something else is chosen" not in shown(recalled, work, *same)["summary"]
    page = shown(recalled, work)  # another form
    assert "Something else is chosen" in page["summary"] and page["start"].variant == "primary"
    page = shown(Visit(), work, None, None, None, None, None, None, None)  # whatever an API client leaves out
    assert "0 chains" in page["head2"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("running", {"active": True, "stop": True, "resume": False}),
        ("cancelled", {"active": False, "stop": False, "resume": True}),
        ("interrupted", {"active": False, "stop": False, "resume": True}),
    ],
)
def test_the_page_while_a_job_is_not_done(work, done, monkeypatch, status, expected):
    job = SimpleNamespace(
        asked={"name": "comparing chains on ring", "config": {}},
        folder=work.home,
        stopping=False,
        progress=SimpleNamespace(fraction=0.4, text="patchcore, mebin, prototype, seed 0"),
    )
    monkeypatch.setattr(compare, "standing", lambda visit, work: Standing(job, status, None, ""))
    page = shown(Visit(job_id="x"), work)
    assert page["timer"].active == expected["active"] and page["stop"].visible == expected["stop"]
    assert page["resume"].visible == expected["resume"] and not page["start"].interactive
    assert ("40 %" in page["slot"]) == expected["active"]
