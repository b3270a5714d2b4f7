"""The Detect tab's methods by what a visitor has: the table, and each way from photos to verdicts without a browser."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_helpers import tiny_clip_folder
from job_helpers import end_all
from ui_helpers import learn, photo, save

from anomalyhub.config import configure
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidDatasetError, InvalidUploadError
from anomalyhub.ui import detect, discover, guide, learning, methods, sources, views
from anomalyhub.ui.detect_controls import asked_values, control_values
from anomalyhub.ui.methods import METHODS, Settings
from anomalyhub.ui.session import Job, Session, plain_words
from anomalyhub.ui.work import Work

GIVEN = Settings(weights="trained", product="metal bolt", normal_states="{}\n\n good {} ", abnormal_states="bad {}")
ROWS = [(method, have) for method in METHODS for have in method.have]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = Work(tmp_path_factory.mktemp("home"))
    yield work
    end_all(work.store)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Eight photos, of which the last two have a spot."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    return [save(folder / f"{'spot' if i > 5 else 'fine'} {i}.png", photo(rng, spot=i > 5)) for i in range(8)]


@pytest.fixture
def root(tmp_path) -> Path:
    """A data root with one product: twelve normal images, of the test images one damaged."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    for i in range(12):
        save(folder / "cloth" / "train" / "good" / f"{i:02d}.png", photo(rng))
    for i in range(3):
        save(folder / "cloth" / "test" / "good" / f"{i}.png", photo(rng))
    save(folder / "cloth" / "test" / "spot" / "0.png", photo(rng, spot=True))
    (folder / "cloth" / "test" / "spot" / "damaged.png").write_bytes(b"no image")
    return folder


def ids(method) -> str:
    return method.key if isinstance(method, methods.Method) else str(method)


# The table.


@pytest.mark.parametrize(("method", "have"), ROWS, ids=ids)
def test_a_row_fits_its_detector(method, have):
    """What the form gives is what the detector's config takes, and what the row says of the detector is so."""
    from anomalyhub.detection import detectors

    detector = detectors[method.detector]
    asked = method.fit_config(GIVEN, trusted=True)
    config = configure(detector.config_class, asked["settings"])
    assert asked["detector"] == method.detector and asked["backbone"] in method.backbones
    fields = detector.config_class.__dataclass_fields__
    assert ("weights" in method.takes) == ("weights" in fields)
    assert ("words" in method.takes) == ("product" in fields) == (method.backbones == methods.CLIP)
    assert ("coreset" in method.takes) == ("coreset" in fields)
    assert have != "none" or detector.needs != "normals"
    if "words" in method.takes:
        assert (config.product, config.normal_states, config.abnormal_states) == (
            "metal bolt",
            ("{}", "good {}"),
            ("bad {}",),
        )


def test_the_lists_that_prompts_begin_with_are_the_detectors():
    from anomalyhub.detection import prompts

    assert (methods.NORMAL_STATES, methods.ABNORMAL_STATES) == (prompts.NORMAL_STATES, prompts.ABNORMAL_STATES)


def test_every_visitor_is_offered_something():
    assert len({method.key for method in METHODS}) == len(METHODS)
    for have in methods.HAVE:
        anybody = methods.offered(have, trusted=False)
        assert anybody[0] == methods.offered(have, trusted=True)[0] == methods.find("", have)  # one default for all
        assert "weights" not in anybody[0].takes or not anybody[0].trained
        assert {method.key for method in methods.offered(have, True)} == {m.key for m in METHODS if have in m.have}
    assert [method.key for method in methods.offered("none", False)] == ["musc", "winclip"]
    assert [(m.key, m.fixed) for m in methods.offered("few", False)][0] == ("patchcore-few", {"augment": True})


REFUSED = [
    # method, have, what the form says, trusted, the message
    ("april-gan", "none", {}, True, "needs trained weights: give what `anomalyhub train april-gan` wrote"),
    ("april-gan", "few", {"weights": " "}, False, "needs trained weights: run the app yourself"),
    ("april-gan", "few", {"weights": "/etc"}, False, "files of this machine"),
    ("siamese", "few", {"weights": "/etc"}, False, "files of this machine"),
    ("winclip", "none", {"clip": "clip@/etc"}, False, "is not offered here: choose one of clip"),
    ("musc", "none", {"backbone": "resnet18"}, False, "is not offered here: choose one of embedded"),
    ("patchcore-few", "few", {"backbone": "hf:a/b"}, False, "is not offered here"),
]


@pytest.mark.parametrize(("key", "have", "form", "trusted", "message"), REFUSED)
def test_what_a_method_refuses(key, have, form, trusted, message):
    with pytest.raises(InvalidArgumentError, match=message):
        methods.find(key, have).fit_config(Settings(**form), trusted)


@pytest.mark.parametrize(("key", "have"), [("musc", "few"), ("patchcore", "none"), ("nothing", "many")])
def test_a_method_for_something_else(key, have):
    with pytest.raises(InvalidArgumentError, match="choose one of"):
        methods.find(key, have)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("patch distances between all pairs of images", "Comparing the photos with each other"),
        ("support image 2 of 4", "Looking at photos: 2 of 4"),
        ("reference 3", "Looking at photos: 3"),
        ("features of 5 references", "Looking at photos: 5"),
        ("threshold: reference 2 of 4", "Setting the threshold with parts held out: round 2"),
        ("texts", "Reading the words"),
        ("reference of 40 images", "Done: 40 photos compared"),
        ("texts alone", "Done"),
    ],
)
def test_plain_words(text, words):
    assert plain_words(text) == words


# Photos.


def test_a_few_of_the_sample():
    sessions = [Session(), Session(), Session()]
    for session, shots in zip(sessions, (4, 4, 2), strict=True):
        text = detect.use_sample(session, "ring", have="few", shots=shots)
        assert text.startswith(f"{shots} normal images of Machined ring")
    one, same, fewer = (session.source.normals.ids for session in sessions)
    assert one == same and set(fewer) < set(one) and len(set(one)) == 4
    assert len(sessions[0].source.tests) == 18 and sessions[0].method == "patchcore-few"


def test_photos_of_the_sample_of_which_most_are_normal():
    session = Session()
    assert detect.use_sample(session, "ring", have="none") == "40 photos of Machined ring are ready. Next: compare."
    labels = session.source.tests.labels
    assert len(session.source.normals) == 0 and labels.count("good") == 32 and session.method == "musc"


@pytest.mark.parametrize(("shots", "taken"), [(3, 3), (8, 8), (99, 8), (-1, 2)])
def test_a_few_of_a_data_set(root, shots, taken):
    source = sources.dataset_source(root, "cloth", Job(Session()), "few", shots)
    assert len(source.normals) == taken and len(source.tests) == 5 and source.notices == ()


def test_fewer_than_asked_for(root):
    for path in sorted((root / "cloth/train/good").iterdir())[3:]:
        path.unlink()
    source = sources.dataset_source(root, "cloth", Job(Session()), "few", 8)
    assert len(source.normals) == 3 and source.notices == ("only 3 normal images are there",)


def test_the_test_images_of_a_data_set(root):
    source = sources.dataset_source(root, "cloth", Job(Session()), "none")
    assert len(source.normals) == 0 and source.tests.labels.count("good") == 3 and len(source.tests) == 4
    assert len(source.notices) == 1 and "test/spot/damaged.png is not an image" in source.notices[0]
    for path in (root / "cloth/test/good").iterdir():
        path.unlink()
    with pytest.raises(InvalidDatasetError, match="cloth has 1 readable test images and 2 are needed"):
        sources.dataset_source(root, "cloth", Job(Session()), "none")


def test_uploads(files):
    session = Session()
    assert detect.use_uploads(session, files, have="none").startswith("8 photos of your product")
    assert "20 or more compare better" in guide.step_heads(session)[0]
    with pytest.raises(InvalidUploadError, match="only 1 image could be read, and at least 2 photos are needed"):
        detect.use_uploads(session, files[:1], have="none")
    detect.use_uploads(session, [*files, *files[:1]], have="few")  # more than a few: all are taken
    assert "9 normal images" in guide.step_heads(session)[0] and "Many normal photos" in guide.step_heads(session)[0]
    with pytest.raises(InvalidArgumentError, match="'some' is nothing to have: choose one of none, few, many"):
        detect.use_uploads(session, files, have="some")
    assert detect.product_word(session) == "object"


def test_what_the_parts_are_called(root):
    session = Session()
    assert detect.product_word(session) == "object"
    detect.use_sample(session, "weave")
    assert detect.product_word(session) == "woven fabric"
    session.source = replace(session.source, name="set/metal_nut", kind="dataset")
    assert detect.product_word(session) == "metal nut"


def test_empty_states_say_what_to_do():
    for have, text in (("none", "good and bad ones together"), ("few", "upload 2 to 8 photos"), ("many", "are fine")):
        session = Session()
        detect.say(session, have, "")
        assert text in guide.stage(session) and "ah-current" in guide.step_heads(session)[0]


# From photos to verdicts.


@pytest.fixture(scope="module")
def compared(files, work) -> Session:
    """Eight photos that were compared with each other and checked; not to be changed."""
    session = Session()
    detect.use_uploads(session, files, have="none")
    assert "Now press Compare" in guide.stage(session)
    learn(session, work)
    assert "as if most of them were normal" in guide.stage(session)
    detect.check(session, "tests")
    return session


def test_no_normal_photos(compared, work, tmp_path):
    config = work.get(compared.fit_job, "fit").asked["config"]
    assert (config["detector"], config["settings"], len(config["images"])) == ("musc", {}, 8)
    top = [one.ref.id for one in compared.checked[:2]]
    assert sorted(top) == ["spot 6.png", "spot 7.png"]  # they stand out
    calibration, detector = compared.inspector.calibration, compared.inspector.detector
    assert calibration.source == "unlabelled" and calibration.method == "unlabelled"
    scores = {one.ref.id: one.map.image_score for one in compared.checked}
    assert [scores[name] for name in compared.source.tests.ids] == pytest.approx(detector.held_out_scores_, abs=1e-5)
    page = views.summary(compared)
    assert "if most of the photos that were compared are normal" in page and "held-out" not in page
    assert "as estimated" in views.histogram(compared) and guide.support(compared) == ""
    assert all(0 < one.p_value <= 1 for one in compared.checked)
    detect.take_unknown(compared, [save(tmp_path / "new.png", photo(np.random.default_rng(9), spot=True))])
    unknown = Session(
        **{name: getattr(compared, name) for name in ("source", "inspector", "unknown", "have", "method")}
    )
    detect.check(unknown, "uploads")  # a photo that was not compared
    assert unknown.checked[0].map.image_score > np.median(list(scores.values()))
    compared.unknown = None


def test_compared_photos_come_back(compared, work):
    memory = json.loads(json.dumps(learning.remembered(compared)))
    assert (memory["have"], memory["method"], memory["kind"]) == ("none", "musc", "upload")
    session = Session()
    learning.recall(session, memory, None, work)
    assert (session.have, session.method, session.busy) == ("none", "musc", "load")
    list(learning.go_on(session, work))
    assert session.source.tests.ids == compared.source.tests.ids and len(session.source.normals) == 0
    detect.check(session, "tests")
    assert detect.table(session) == detect.table(compared)


@pytest.mark.parametrize(
    "chosen", [{"have": "lots"}, {"have": 3, "method": None}, {}, {"have": "few", "method": "musc"}]
)
def test_what_else_a_browser_may_say_to_have(compared, work, chosen):
    memory = {key: value for key, value in learning.remembered(compared).items() if key not in ("have", "method")}
    session = Session()
    learning.recall(session, memory | chosen, None, work)
    assert session.have == ("few" if chosen.get("have") == "few" else "many")
    assert methods.find(session.method, session.have) == methods.find("", session.have)
    assert len(session.source.normals) == 8 and session.busy == "load"


def test_the_discover_tab_takes_what_was_compared(compared, work):
    visit = discover.Visit()
    text = discover.use_detect(compared, visit, work)
    assert text.startswith("8 images of your product; defects found by the Detect tab's detector")
    assert visit.chosen.about["model"] == str(work.get(compared.fit_job, "fit").result)


def test_who_says_to_have_something_else_sees_its_methods(compared):
    session = replace(compared)
    detect.say(session, "none", "musc")

    def shown() -> tuple[bool, bool]:
        values = control_values(session, "tests")
        return values[5].interactive, values[-1].visible  # Learn, the results

    assert shown() == (True, True) and "Compare again" in control_values(session, "tests")[5].value
    detect.say(session, "few", "siamese")
    assert shown() == (False, False) and "Start with a few normal parts" in guide.stage(session)
    assert "ah-current" in guide.step_heads(session)[0]
    detect.say(session, "none", "winclip")  # another method for the same photos: the results stay
    assert shown() == (True, True) and "Prepare again" in control_values(session, "tests")[5].value


def test_step_2_asks_for_what_the_method_takes():
    expected = {  # words, weights, backbone, clip, coreset, false alarms; on one's own machine
        ("many", "patchcore"): (False, False, True, False, True, True),
        ("few", "siamese"): (False, True, True, False, True, True),
        ("few", "winclip"): (True, False, False, True, False, True),
        ("none", "winclip"): (True, False, False, True, False, False),
        ("none", "april-gan"): (True, True, False, True, False, False),
        ("none", "musc"): (False, False, True, False, False, True),
    }
    for (have, key), visible in expected.items():
        session = Session()
        detect.say(session, have, key)
        assert tuple(part.visible for part in asked_values(session, "embedded", True)) == visible, key
        assert not asked_values(session, "embedded", False)[1].visible  # weights are files of the machine
    detect.say(session, "none", "musc")
    assert asked_values(session, "resnet18", False)[2].value == "embedded"  # no transformer
    assert asked_values(session, "vit_tiny@mine.safetensors", True)[2].value == "vit_tiny@mine.safetensors"


def test_a_few_normal_photos(files, work):
    session = Session()
    detect.use_uploads(session, files[:4], have="few")
    learn(session, work, false_alarm_rate=0.1)
    config = work.get(session.fit_job, "fit").asked["config"]
    assert (config["detector"], config["settings"]) == ("patchcore", {"coreset": 0.1, "augment": True})
    assert len(session.inspector.calibration.scores) == 4 and session.inspector.calibration.source == "normals"
    page = guide.support(session)
    assert page.count("<img") == 4 and "Learned from these 4 photos" in page
    assert all(f'title="fine {i}.png"' in page for i in range(4))
    assert "with each of them held out in turn" in guide.stage(session)
    detect.take_unknown(session, files[4:])
    detect.check(session, "uploads")
    assert sorted(one.ref.id for one in session.checked[:2]) == ["spot 6.png", "spot 7.png"]
    later = Session()
    learning.recall(later, learning.remembered(session), None, work)
    assert (later.have, later.method, later.source.normals.ids) == ("few", "patchcore-few", session.source.normals.ids)


def test_words_alone(files, work, tmp_path, monkeypatch):
    """No photo is read while it learns, none has set the threshold, and yet all is shown."""
    small = [replace(row, fixed={"resize": 48}) if row.key == "winclip" else row for row in METHODS]
    monkeypatch.setattr(methods, "METHODS", small)
    session, clip = Session(), f"clip@{tiny_clip_folder(tmp_path / 'clip')}"
    detect.use_uploads(session, files[:3], have="none")
    detect.say(session, "none", "winclip")
    assert "Now press Prepare" in guide.stage(session)
    learn(session, work, method="winclip", clip=clip, product="bolt")
    config = work.get(session.fit_job, "fit").asked["config"]
    assert (config["images"], len(config["kept"]), config["settings"]["product"]) == ([], 3, "bolt")
    assert session.inspector.calibration is None and session.threshold == 0.5
    assert "from 0, flawless, to 1, damaged" in guide.stage(session)
    detect.check(session, "tests")
    assert [one.p_value for one in session.checked] == [None] * 3
    assert all(0 <= one.map.image_score <= 1 for one in session.checked)
    before = session.threshold
    detect.set_false_alarm_rate(session, 0.2)
    assert session.threshold == before
    middle = (session.checked[0].map.image_score + session.checked[1].map.image_score) / 2
    detect.set_threshold(session, middle)
    assert detect.counts(session) == (1, 3)
    assert "how many of them it calls defective is not known" in views.summary(session)
    assert "held-out" not in views.histogram(session) and "3 checked" in views.histogram(session)
    low, high, step = views.slider_range(session)
    assert low <= middle <= high and low <= 0.5 <= high and step > 0
    assert [row[2] for row in detect.table(session)] == [""] * 3
    assert '<span class="ah-line2"></span>' in views.gallery(session) and "p-value" not in views.detail(session, 0)
    with open(detect.csv_file(session), newline="", encoding="utf-8") as file:
        assert [row["p_value"] for row in csv.DictReader(file)] == [""] * 3
    with zipfile.ZipFile(detect.model_file(session)) as archive:
        assert any(name.endswith("inspector.json") for name in archive.namelist())
    later = Session()
    learning.recall(later, learning.remembered(session), None, work)
    assert (later.have, later.method, later.source.tests.ids) == ("none", "winclip", session.source.tests.ids)


def test_a_clip_that_cannot_be_had(files, work, tmp_path, monkeypatch):
    """Offered although the Hub may be out of reach: the job says so, and the former model stays."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    session = Session()
    detect.use_uploads(session, files[:3], have="few")
    with pytest.raises(AnomalyHubError, match="^learning failed: .*clip.*HF_HUB_OFFLINE"):
        learn(session, work, method="winclip")
    assert (session.inspector, session.busy, session.learning, session.method) == (None, "", None, "winclip")
