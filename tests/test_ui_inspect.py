"""The Inspect tab without a browser: what inspects, which images, what is kept of them, and what the page shows."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from discover_tab_helpers import done_job
from kinds_helpers import SHAPE, examples_json, images, job
from PIL import Image

from anomalyhub.data import SampleRef, Split
from anomalyhub.errors import Cancelled, InvalidArgumentError, InvalidImageError, InvalidModelError
from anomalyhub.pipeline.naming import Explanation
from anomalyhub.types import AnomalyMap, Inspection, Region
from anomalyhub.ui import inspect, inspect_tab, inspect_view, seen
from anomalyhub.ui.inspect import Visit
from anomalyhub.ui.session import Session, Source
from anomalyhub.ui.work import Work

NASTY = "<img src=x onerror=alert(1)>"
#: Boxes of the regions of images that have some: the first is the larger one.
BIG, SMALL = (8, 4, 40, 24), (48, 28, 60, 36)


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path / "home")


@pytest.fixture
def session():
    session = Session()
    yield session
    session.close()


class Fake:
    """An inspector that finds what it is told, by the image's name: (score, ((kind, probability), ...), label)."""

    classifier = SimpleNamespace(
        name="prototype", example_images_=("e1", "e2"), example_labels_=np.array([0, 1]), classes_=("cut", "hole")
    )
    detector = SimpleNamespace(name="patchcore", backbone="embedded")
    discoverer = calibration = None
    product, threshold, kinds = "cloth", 1.0, ("cut", "hole")
    operating_point = {"threshold": 1.0, "method": "manual", "false_alarm_rate": None}  # noqa: RUF012

    def __init__(self, told: dict, between=lambda: None):
        self.told, self.between = told, between

    def explain(self, samples):
        for sample in samples:
            self.between()
            score, labels, label = self.told[sample.id]
            regions = tuple(region(box, score) for box in (BIG, SMALL)[: len(labels)])
            why = tuple(reason(name) for name, _ in labels) if self.kinds else ()
            result = Inspection(
                sample.id, score, 0.002, bool(labels), AnomalyMap(np.full(SHAPE, score, np.float32), score), regions,
                labels if self.kinds else (), label
            )  # fmt: skip
            yield sample, result, why


def region(box, peak: float) -> Region:
    mask = np.zeros(SHAPE, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return Region(mask, box, int(mask.sum()), peak)


def reason(name: str) -> Explanation:
    crop, normal, example = (np.full((96, 96, 3), value, np.uint8) for value in (60, 120, 180))
    nearest = "cut" if name == "unknown" else name
    return Explanation(crop, normal, "train/good/7.png", example, f"test/{nearest}/0.png", nearest)


TOLD = {
    "a.png": (0.5, (), "good"),
    "b.png": (2.0, (("cut", 0.9),), "cut"),
    "c.png": (3.0, (("hole", 0.8), ("cut", 0.6)), "hole"),
    "d.png": (1.5, (("unknown", 0.4),), "unknown"),
    "e.png": (2.5, (("cut", 0.7),), "cut"),
}
TRUTH = {"a.png": "good", "b.png": "cut", "c.png": "hole", "d.png": "hole", "e.png": "hole"}


def uploaded(folder: Path, names=tuple(TOLD), labels=TRUTH) -> Split:
    paths = images(folder, len(names))
    return Split(SampleRef(name, path, labels.get(name)) for name, path in zip(names, paths, strict=True))


@pytest.fixture
def visit(session, work, tmp_path, monkeypatch) -> Visit:
    """One that has inspected the images of TOLD; see ORDER."""
    return inspected(session, work, tmp_path, monkeypatch, TOLD)


def inspected(session, work, tmp_path, monkeypatch, told, **known) -> Visit:
    use(session, work, monkeypatch, Fake(told))
    visit = Visit("classify", "uploads", uploads=uploaded(tmp_path / "images", tuple(told), known.get("labels", TRUTH)))
    inspect.inspect(session, visit, work, "uploads")
    return visit


def use(session: Session, work: Work, monkeypatch, fake: Fake) -> None:
    """The Classify tab has learned what `fake` knows."""
    config = {"product": "Cloth", "examples": [["e1", "gone", "cut"], ["e2", "gone", "hole"]], "model": "gone"}
    session.classify_jobs = [job(work, "classify", config, examples_json([("e1", "cut", "cut", 0.9)]))]
    monkeypatch.setattr(inspect, "_classified", lambda session, work: (id(fake), lambda: fake))


ORDER = ["c.png", "e.png", "b.png", "d.png", "a.png"]


# What inspects.


def test_a_new_visitor(session, work):
    visit = Visit()
    assert inspect.choose(session, visit, work) == "" and not any(inspect.ready(session, work).values())
    assert inspect.tool_text(session, visit, work).startswith("Learn on the Detect tab first")
    with pytest.raises(InvalidArgumentError, match="press Learn on the Detect tab"):
        inspect.inspect(session, visit, work, "tests")
    with pytest.raises(InvalidArgumentError, match="there is no 'magic' to inspect with"):
        inspect.choose(session, visit, work, "magic")
    assert inspect.choose(session, visit, work, "discover") == "discover"
    assert inspect.tool_text(session, visit, work).startswith("No kinds have been discovered yet")
    page = shown(session, visit, work)
    assert "Nothing to inspect with yet" in page["stage"].value and not page["inspect"].interactive


def test_the_best_tool_is_chosen_unless_the_visitor_has_chosen(session, work, tmp_path):
    visit = Visit()
    session.inspector, session.source = Fake({}), Source("cloth", Split(), Split(), "upload")
    assert inspect.choose(session, visit, work) == "detect"
    assert inspect.tool_text(session, visit, work) == "cloth, without kinds"
    session.discover_job = done_job(work, tmp_path / "scratch")
    assert inspect.choose(session, Visit(), work) == "discover" and inspect.choose(session, visit, work) == "detect"
    config = {"product": "Ring", "examples": [["1", "x", "b"], ["2", "x", "a"], ["3", "x", "a"]]}
    session.classify_jobs = [job(work, "classify", config), job(work, "classify", {}, status="failed")]
    visit = Visit()
    assert inspect.choose(session, visit, work) == "classify"  # the former one, as the latest has failed
    assert inspect.tool_text(session, visit, work) == "Ring, 2 kinds"


def test_kinds_from_maps_find_nothing_in_new_images(session, work, tmp_path):
    session.discover_job = done_job(work, tmp_path / "scratch")
    with pytest.raises(InvalidModelError, match="discovered from maps or masks, which new images do not have"):
        inspect.inspect(session, Visit("discover"), work, "tests")


def test_corrections_on_the_board_are_taken_anew(session, work, tmp_path):
    from anomalyhub.ui.discover import board_of

    session.discover_job = done_job(work, tmp_path / "scratch")
    folder = work.get(session.discover_job).folder
    asked = json.loads((folder / "config.json").read_text()) | {"config": {"model": str(tmp_path / "model")}}
    (folder / "config.json").write_text(json.dumps(asked))
    with pytest.raises(InvalidModelError, match="the detector of this discovery has been deleted"):
        inspect._discovered(session, work)
    (tmp_path / "model").mkdir()
    key, _ = inspect._discovered(session, work)
    assert inspect._discovered(session, work)[0] == key
    board_of(work.get(session.discover_job)).rename("kind_1", "scratch")
    assert inspect._discovered(session, work)[0] != key


def test_the_threshold_of_the_detect_tab_is_in_force(session, work):
    session.inspector, session.threshold = Fake({}), 2.0
    Fake.with_threshold = lambda self, threshold: ("moved", threshold)
    try:
        assert inspect._inspector(session, Visit("detect"), work) == ("moved", 2.0)
        session.threshold = 1.0
        assert inspect._inspector(session, Visit("detect"), work) is session.inspector
    finally:
        del Fake.with_threshold


# Which images.


def test_test_images_without_the_examples(session, work, tmp_path):
    tests = uploaded(tmp_path / "tests")
    session.source, session.fit_job = Source("cloth", Split(), tests, "upload"), job(work, "fit", {})
    model = str(work.result_of(session.fit_job, "fit"))
    copy = tmp_path / "copy.png"
    copy.write_bytes(tests.refs[1].path.read_bytes())  # kept elsewhere, under another name
    config = {"model": model, "product": "cloth", "examples": [["x.png", str(copy), "cut"]]}
    session.classify_jobs = [job(work, "classify", config)]
    visit = Visit("classify")
    found, notices = inspect.test_images(session, visit, work)
    assert found.ids == ("a.png", "c.png", "d.png", "e.png")
    assert notices == ["1 of the test images are examples and were left out"]
    assert inspect.test_images(session, visit, work)[0] is found  # looked up once
    visit.tool = "detect"
    assert len(inspect.test_images(session, visit, work)[0]) == 5
    assert inspect.chosen_images(visit, 5) == "tests" and inspect.chosen_images(visit, 0) == "uploads"
    visit.which = "uploads"
    assert inspect.chosen_images(visit, 5) == "uploads"


def test_images_of_a_discovery(session, work, tmp_path):
    pairs = [[one.id, str(one.path), one.label] for one in uploaded(tmp_path / "x").refs]
    session.discover_job = job(work, "discover", {"images": pairs, "model": "x"})
    found, notices = inspect.test_images(session, Visit("discover"), work)
    assert found.labels == tuple(TRUTH.values()) and not notices


def test_uploads(session, work, tmp_path):
    visit, paths = Visit("classify"), images(tmp_path / "new", 3)
    (tmp_path / "broken.png").write_bytes(b"no image")
    text = inspect.take_uploads(session, visit, [*map(str, paths), str(tmp_path / "broken.png")])
    assert text == "3 images are ready. Next: inspect." and visit.which == "uploads"
    assert "broken.png" in visit.left_out[0]


# What is found.


def test_results(visit, session):
    assert [one.ref.id for one in visit.seen] == ORDER  # defective ones first, by score
    assert seen.headline(visit.seen) == "4 of 5 look defective" and visit.product == "Cloth"
    assert seen.counts(visit.seen) == {"cut": 2, "hole": 1, "unknown": 1, "good": 1}
    assert list(seen.counts(visit.seen)) == ["cut", "hole", "unknown", "good"]
    assert seen.shown(visit.seen, "cut") == [0, 1, 2]  # c.png has a region of it
    assert seen.shown(visit.seen, "good") == [4] and seen.shown(visit.seen, "") == [0, 1, 2, 3, 4]
    assert seen.rightly_named(visit.seen, visit.kinds) == (4, 4, 2)
    assert seen.table(visit.seen)[0] == ["c.png", "hole", "80 %", 3.0, "0.002", 2, "hole"]
    assert seen.table(visit.seen)[3][1:3] == ["unknown kind", "40 %"]
    assert seen.table(visit.seen)[4] == ["a.png", "normal", "", 0.5, "0.002", 0, "normal"]
    first = visit.seen[0]
    assert first.size == SHAPE and [one.box for one in first.regions] == [BIG, SMALL]
    numbers = cv2.imdecode(np.frombuffer(first.bits, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert numbers.shape == SHAPE and (numbers[4:24, 8:40] == 1).all() and (numbers[28:36, 48:60] == 2).all()


def test_images_without_labels_say_nothing_of_how_many_are_right(session, work, tmp_path, monkeypatch):
    visit = inspected(session, work, tmp_path, monkeypatch, TOLD, labels={})
    assert seen.rightly_named(visit.seen, visit.kinds) is None
    assert "By the labels" not in inspect_view.summary(visit)


def test_the_files(visit, session):
    path = Path(inspect.file_of(session, visit, "csv"))
    assert path.name == "anomalyhub-cloth-inspection.csv"
    with open(path, newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert rows["c.png"]["label"] == "hole" and rows["c.png"]["n_regions"] == "2" and len(rows) == 5
    coco = json.loads(Path(inspect.file_of(session, visit, "coco")).read_text())
    assert len(coco["annotations"]) == 5 and {one["name"] for one in coco["categories"]} == {"cut", "hole", "unknown"}
    report = Path(inspect.file_of(session, visit, "report"))
    assert report.name == "anomalyhub-cloth-report.html" and report.read_text().count("most similar example") >= 5
    with zipfile.ZipFile(inspect.file_of(session, visit, "all")) as file:
        assert {"report.html", "regions.csv", "predictions.csv", "overlays/c.png"} <= set(file.namelist())
    with pytest.raises(InvalidArgumentError, match="press Inspect in step 3"):
        inspect.file_of(session, Visit(), "csv")


def test_an_image_that_cannot_be_read_is_named(session, work, tmp_path, monkeypatch):
    use(session, work, monkeypatch, Fake(TOLD))
    uploads = uploaded(tmp_path / "images")
    uploads.refs[1].path.write_bytes(b"no image any more")
    visit = Visit("classify", uploads=uploads)
    inspect.inspect(session, visit, work, "uploads")
    assert len(visit.seen) == 4 and "b.png is not an image" in visit.notices[0]
    assert str(tmp_path) not in visit.notices[0]
    for ref in uploads.refs:
        ref.path.write_bytes(b"none")
    former = visit.seen, visit.folder
    with pytest.raises(InvalidImageError, match="none of the images could be read"):
        inspect.inspect(session, visit, work, "uploads")
    assert (visit.seen, visit.folder) == former and list(session.folder.glob("inspection-*")) == [visit.folder]


def test_cancel_leaves_what_was_there(session, work, tmp_path, monkeypatch, visit):
    former, told = (visit.seen, visit.folder), []

    def between():
        told.append(1)
        if len(told) == 3:
            session.cancel()

    use(session, work, monkeypatch, Fake(TOLD, between))
    session.press("inspect")
    with pytest.raises(Cancelled):
        inspect.inspect(session, visit, work, "uploads")
    assert len(told) == 3 and session.busy == ""
    assert (visit.seen, visit.folder) == former and list(session.folder.glob("inspection-*")) == [visit.folder]
    inspect.inspect(session, visit, work, "uploads")  # and it can be done again
    assert list(session.folder.glob("inspection-*")) == [visit.folder] and visit.folder != former[1]


def test_a_damaged_inspector_says_so_without_a_path(session, work, tmp_path):
    session.classify_jobs = [job(work, "classify", {"examples": []}, examples_json([]))]
    visit = Visit("classify", uploads=uploaded(tmp_path / "images"))
    with pytest.raises(InvalidModelError, match="config.json") as caught:
        inspect.inspect(session, visit, work, "uploads")
    assert str(work.home) not in str(caught.value) and session.busy == ""


def test_nothing_to_inspect(session, work, monkeypatch):
    use(session, work, monkeypatch, Fake(TOLD))
    for which in ("tests", "uploads"):
        with pytest.raises(InvalidArgumentError, match="upload some in step 2"):
            inspect.inspect(session, Visit("classify"), work, which)


def test_a_detector_alone(session, work, tmp_path, monkeypatch):
    fake = Fake({"b.png": (2.0, (("anomalous", None),), "anomalous"), "a.png": (0.5, (), "good")})
    fake.kinds, fake.classifier = (), None
    session.inspector, session.threshold, session.source = fake, 1.0, Source("cloth", Split(), Split(), "upload")
    visit = Visit("detect", uploads=uploaded(tmp_path / "images", ("a.png", "b.png"), {}))
    assert inspect.inspect(session, visit, work, "uploads") == "1 of 2 looks defective"
    assert seen.table(visit.seen)[0][1:3] == ["defective", ""]
    html = inspect_view.detail(visit, 0)
    assert "defective" in html and "Nearest" not in html and "640 pixels at 8, 4" in html


# What the page shows.


def test_the_gallery_and_its_filter(visit, monkeypatch):
    assert inspect_view.choices(visit) == [
        ("All 5", ""), ("cut 3", "cut"), ("hole 1", "hole"), ("unknown kind 1", "unknown"), ("normal 1", "good")
    ]  # fmt: skip
    html = inspect_view.gallery(visit)
    assert re.findall(r'data-index="(\d)"', html) == ["0", "1", "2", "3", "4"]
    assert re.findall(r"<b>([^<]*)</b><span>([^<]*)<", html) == [
        ("hole", "80 %"), ("cut", "70 %"), ("cut", "90 %"), ("unknown kind", ""), ("normal", "")
    ]  # fmt: skip
    assert "2 regions" in html and "label hole" in html
    monkeypatch.setattr(inspect_view, "PAGE", 2)
    assert inspect_view.n_pages(visit, "") == 3 and inspect_view.n_pages(visit, "cut") == 2
    assert re.findall(r'data-index="(\d)"', inspect_view.gallery(visit, "cut", 2)) == ["2"]
    assert "No image is golden" in inspect_view.gallery(visit, "golden")


def test_the_evidence(visit):
    html = inspect_view.detail(visit, 0)
    assert html.count('<section class="ah-i-row"') == 2 and html.count("Nearest normal patch") == 4  # alt and caption
    assert "Nearest example: hole" in html and "test/hole/0.png" in html and "train/good/7.png" in html
    assert "80 % sure" in html and "60 % sure" in html and "64 x 40 pixels" in html
    assert "unlike every example; nearest to cut" in inspect_view.detail(visit, 3)
    assert "No region stands out" in inspect_view.detail(visit, 4)
    visit.seen[0].ref.path.unlink()
    with pytest.raises(InvalidImageError):
        inspect_view.detail(visit, 0)


def test_the_picture_of_the_whole_has_each_region_in_its_colour(visit):
    whole = inspect_view._whole(visit, visit.seen[0], np.full((*SHAPE, 3), 100, np.uint8))
    assert whole.shape == (375, 600, 3)  # enlarged
    hole, cut = ((0xFF, 0x6E, 0x3A), (0x00, 0x8D, 0xF9))  # of kinds ("cut", "hole")
    left, right = whole[:, :400].reshape(-1, 3), whole[:, 420:].reshape(-1, 3)
    assert (left == hole).all(1).any() and not (left == cut).all(1).any()
    assert (right == cut).all(1).any() and not (right == hole).all(1).any()


def test_the_summary(visit):
    html = inspect_view.summary(visit)
    assert "<b>4</b> of 5 look defective" in html
    assert "4 of 4 defects of these kinds found, 2 of them named rightly" in html
    assert "An unknown kind is unlike all examples" in html
    rows = re.findall(r"</i>([^<]*)</th>.*?<td>(\d+)</td></tr>", inspect_view.bars(visit))
    assert rows == [("cut", "2"), ("hole", "1"), ("unknown kind", "1"), ("normal", "1")]


def test_names_are_escaped(session, work, tmp_path, monkeypatch):
    told = {f"{NASTY}.png": (2.0, ((NASTY, 0.9),), NASTY)}
    use(session, work, monkeypatch, Fake(told))
    visit = Visit("classify", uploads=uploaded(tmp_path / "images", tuple(told), {f"{NASTY}.png": NASTY}))
    inspect.inspect(session, visit, work, "uploads")
    html = "".join([inspect_view.summary(visit), inspect_view.bars(visit), inspect_view.gallery(visit)])
    html += inspect_view.detail(visit, 0) + inspect_view.gallery(visit, NASTY + "x")
    assert NASTY not in html and html.count("&lt;img src=x onerror=alert(1)&gt;") > 8


def shown(session: Session, visit: Visit, work: Work) -> dict[str, object]:
    """Values of the controls by name."""
    names = "head1 head2 head3 tool which upload inspect stop stage results"
    return dict(zip(names.split(), inspect_tab._control_values(session, visit, work), strict=True))


def test_the_page_on_the_way(session, work, tmp_path, monkeypatch):
    use(session, work, monkeypatch, Fake(TOLD))
    visit = Visit()
    inspect.choose(session, visit, work)
    page = shown(session, visit, work)
    assert "Cloth, 2 kinds" in page["head1"] and "ah-current" in page["head2"] and page["upload"].visible
    assert "Now choose new images" in page["stage"].value and not page["inspect"].interactive
    visit.uploads, visit.which = uploaded(tmp_path / "images"), "uploads"
    page = shown(session, visit, work)
    assert "5 images to inspect" in page["head2"] and page["inspect"].interactive
    assert "Now press Inspect" in page["stage"].value
    session.press("inspect")
    page = shown(session, visit, work)
    assert page["stop"].visible and not page["inspect"].interactive
    inspect.inspect(session, visit, work, "uploads")
    page = shown(session, visit, work)
    assert "4 of 5 look defective" in page["head3"] and page["results"].visible and not page["stage"].visible
    assert page["inspect"].value == "Inspect again" and not page["stop"].visible


@pytest.mark.parametrize("memory", [None, "x", 5, [], {}, {"classify": 7}, {"tool": ["x"]}, {"discover": "../.."}])
def test_a_memory_that_is_none(session, work, memory):
    assert not inspect.recall(session, Visit(), memory, work)


def test_recall(session, work, tmp_path):
    kinds, found = job(work, "classify", {"examples": []}), done_job(work, tmp_path / "scratch", number=77)
    session.classify_jobs, session.discover_job, visit = [kinds], found, Visit("discover")
    memory = inspect.remembered(session, visit, work)
    other, visit = Session(), Visit()
    assert inspect.recall(other, visit, memory, work)
    assert (other.classify_jobs, other.discover_job, visit.tool) == ([kinds], found, "discover")
    assert not inspect.recall(other, visit, memory, work)  # it is there already
    assert not inspect.recall(Session(), Visit(), {"classify": found}, work)  # of another kind


def test_a_large_image_is_kept_small(session, work, tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((900, 1600, 3), np.uint8)).save(path)
    mask = np.zeros((900, 1600), bool)
    mask[100, 100] = True  # a single pixel stays visible
    found = Inspection(
        "large.png", 2.0, None, True, AnomalyMap(np.ones((900, 1600), np.float32), 2.0),
        (Region(mask, (100, 100, 101, 101), 1, 2.0),), (("cut", 0.5),), "cut"
    )  # fmt: skip
    sample = SampleRef("large.png", path).load()
    one = seen.kept(sample, found, (), ("cut",))
    numbers = cv2.imdecode(np.frombuffer(one.bits, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert numbers.shape == (428, 760) and numbers.max() == 1
    picture = cv2.imdecode(np.frombuffer(one.picture, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[:2] == (180, 320) and picture.max() > 100  # its outline


@pytest.mark.slow
def test_kinds_of_a_discovery_in_new_images(session, work, tmp_path):
    """Real jobs on tiny photos: normal ones are learned, spots are discovered, named on the board, and found anew."""
    from ui_helpers import learn, photo, save

    from anomalyhub.ui import board, detect, discover

    rng = np.random.default_rng(0)
    normals = [str(save(tmp_path / f"good{i}.png", photo(rng))) for i in range(6)]
    spots = [str(save(tmp_path / f"spot{i}.png", photo(rng, spot=True))) for i in range(6)]
    detect.use_uploads(session, normals)
    learn(session, work, false_alarm_rate=0.1)
    detect.take_unknown(session, spots[:4])
    detected, visit = discover.Visit(), Visit()
    discover.use_detect(session, detected, work)
    discover.start(detected, discover.Settings(classes="1"), work, trusted=True)
    session.discover_job = detected.job_id
    found = work.get(detected.job_id)
    assert found.wait(240) == "done", work.reason(found)
    for column in board.opened(detected, work).columns():
        if column.crops:
            board.act(detected, work, json.dumps([{"deed": "rename", "column": column.name, "name": "spot"}]))
            break
    assert inspect.choose(session, visit, work) == "discover"
    inspect.take_uploads(session, visit, [*spots[4:], normals[0]])
    assert inspect.inspect(session, visit, work, "uploads") == "2 of 3 look defective"
    assert {one.label for one in visit.seen[:2]} == {"spot"} and visit.seen[2].label == "good"
    why = visit.seen[0].regions[0].why
    assert why.normal is not None and why.normal_id.startswith("good") and why.example is None
