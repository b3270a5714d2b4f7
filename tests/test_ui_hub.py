"""The Hub tab without a browser: where, who, what is taken, given and refused, and that nobody learns a token."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from classify_helpers import MeanHead, registered
from hub_server import OTHER_TOKEN, READ_TOKEN, TOKEN, connected, hub_server

from anomalyhub.config import configure
from anomalyhub.data import load_dataset
from anomalyhub.data.export import export
from anomalyhub.data.sample import write_sample
from anomalyhub.errors import (
    AnomalyHubError,
    Cancelled,
    InvalidArgumentError,
    InvalidDatasetError,
    InvalidModelError,
    StoreError,
    UnsafeRepositoryError,
)
from anomalyhub.hub import RepoInfo, create_store
from anomalyhub.hub.share import share
from anomalyhub.jobs import JobStore
from anomalyhub.pipeline import Inspector
from anomalyhub.pipeline.classify import ClassifyConfig, classify_to
from anomalyhub.pipeline.discover import DiscoverConfig, discover_to
from anomalyhub.pipeline.pretrain import PretrainConfig, pretrain_to
from anomalyhub.pipeline.synthesize import SynthesizeConfig, synthesize_to
from anomalyhub.state import write_json
from anomalyhub.ui import (
    build_app,
    classify,
    detect,
    discover,
    guide,
    hub,
    hub_give,
    hub_tab,
    hub_take,
    hub_view,
    inspect,
    learning,
    sources,
    synthesize,
)
from anomalyhub.ui.events import errors_shown
from anomalyhub.ui.hub import Place, Visit
from anomalyhub.ui.hub_give import Form
from anomalyhub.ui.hub_take import Wanted
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import KEPT, Work

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", autouse=True)
def mean_head():
    with registered(MeanHead):
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A product on disk and what can be made of it: model, inspector, found (a discovery), synthetic, pretrained."""
    root = tmp_path_factory.mktemp("world")
    write_sample(root / "data", products=["ring"], n_train=8, n_test_good=2, n_defect=2, size=96, seed=3)
    dataset = load_dataset(root / "data", "ring")
    Inspector.fit("patchcore", dataset.train, product="ring", settings={"coreset": 0.05}).save(root / "model")
    about = {"model": str(root / "model"), "data": str(root / "data"), "product": "ring"}
    for name in ("inspector", "found", "synthetic", "pretrained"):
        (root / name).mkdir()
    classify_to(root / "inspector", configure(ClassifyConfig, {**about, "shots": 2, "head": "mean"}))
    discover_to(root / "found", configure(DiscoverConfig, {**about, "classes": 3}))
    drawn = SynthesizeConfig(data=about["data"], product="ring", count=8, settings={"size": 96})
    synthesize_to(root / "synthetic", drawn, seed=1)
    pretrain_to(root / "pretrained", PretrainConfig(str(root / "synthetic"), about["model"], "mean"))
    return root


@pytest.fixture(scope="module")
def shelf(world) -> Place:
    """A folder store that has all of it."""
    place = Place("folder", str(world / "shelf"))
    for repo_id, name, kind in [
        ("acme/ring", "model", "model"),
        ("acme/ring-inspector", "inspector", "model"),
        ("acme/ring-kinds", "found", "model"),
        ("acme/ring-pretrained", "pretrained", "model"),
        ("acme/ring-photos", "data", "dataset"),
        ("acme/ring-painted", "synthetic", "dataset"),
    ]:
        share(world / name, repo_id, kind, store=f"folder:{place.folder}", tags=["plant-7"] if name == "model" else ())
    return place


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path / "home")


@pytest.fixture
def session():
    session = Session()
    yield session
    session.close()


@pytest.fixture
def visit() -> Visit:
    return Visit()


def built(**options):
    """An app; gradio leaves event loops unclosed when it is built while none runs."""

    async def build():
        return build_app(**options)

    return asyncio.run(build())


def take(session, visit, place, work, repo_id, kind="model", role="learn", trusted=True, **more) -> str:
    return hub_take.take(session, visit, place, Wanted(repo_id, kind, role=role), work, trusted, **more)


def foreign(work: Work, place: Place) -> Place:
    """A folder store as visitors from elsewhere name it."""
    work.stores = (f"folder:{place.folder}",)
    return Place("folder", Path(place.folder).name)


def photos_of(world: Path):
    return load_dataset(world / "data", "ring").test


def leftovers(work: Work) -> list[str]:
    return sorted(path.name for path in work.store.root.iterdir())


# Step 1.


def test_folders_have_names_and_no_paths(tmp_path):
    work = Work(tmp_path / "home", ["folder:/plant/models", "folder:/other/models", "folder:/"])
    assert hub.folders(work, True) == {name: f"folder:{name}" for name in ("/plant/models", "/other/models", "/")}
    assert hub.folders(work, False) == {
        "models": "folder:/plant/models", "models 2": "folder:/other/models", "folder": "folder:/"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("trusted", "place", "expected"),
    [
        (True, Place(), "hub"),
        (True, Place("folder", " /plant/models "), "folder:/plant/models"),
        (True, Place("folder", "folder:/anywhere"), "folder:/anywhere"),
        (True, Place("folder", ""), "choose one of /plant/models"),
        (False, Place("folder", "models"), "folder:/plant/models"),
        (False, Place("folder", "/plant/models"), "there is no store '/plant/models' here: choose one of models"),
        (False, Place("folder", "/etc"), "there is no store '/etc' here"),
    ],
)
def test_which_store(session, tmp_path, trusted, place, expected):
    work = Work(tmp_path / "home", ["folder:/plant/models"])
    if expected.startswith(("hub", "folder:")):
        assert hub.open_store(session, work, trusted, place).spec == expected
    else:
        with pytest.raises(InvalidArgumentError, match=expected):
            hub.open_store(session, work, trusted, place)


@pytest.mark.parametrize("spec", ["hub", "/plant", "ftp:x", "folder:"])
def test_stores_of_the_app_are_folders(spec, tmp_path):
    with pytest.raises(InvalidArgumentError, match=spec):
        built(home=tmp_path, stores=[spec])


def test_visitors_from_elsewhere_never_use_the_login_of_the_machine(session, work, tmp_path):
    with hub_server() as server, connected(server, tmp_path, TOKEN):  # the machine has logged in
        server.add("model", "me/secret", {"README.md": b"---\ntags: [anomalyhub]\n---\nhidden"}, private=True)
        assert [one.repo_id for one in hub.open_store(session, work, True, Place()).list()] == ["me/secret"]
        assert hub.open_store(session, work, False, Place()).list() == []
        with pytest.raises(StoreError):
            hub.choose(Visit(), hub.open_store(session, work, False, Place()), "me/secret", "model")
        hub.log_in(session, OTHER_TOKEN)  # nor does a stranger see it
        assert hub.open_store(session, work, True, Place()).list() == []
        hub.log_in(session, TOKEN)
        visit = Visit()
        hub.choose(visit, hub.open_store(session, work, False, Place()), "me/secret", "model")
        assert "hidden" in visit.chosen.card


def test_log_in_and_out(session, tmp_path):
    with hub_server() as server, connected(server, tmp_path):
        assert hub.log_in(session, f" {TOKEN}\n") == "Logged in as me."
        assert session.account == "me" and TOKEN not in repr(session)
        assert TOKEN not in hub.login_text(session, False) and "Logged in as me" in hub.login_text(session, False)
        assert "enough to take, but not to give" in hub.log_in(session, READ_TOKEN)
        hub.log_out(session)
        assert (session.token, session.account) == (None, "")
        for end in (session.leave, session.close):  # the page is closed, the session ends
            hub.log_in(session, TOKEN)
            end()
            assert (session.token, session.account) == (None, "")


@pytest.mark.parametrize("token", ["", "short", "hf_" + "x" * 20, "hf_line\r\nbreak" * 3, "hf_ümlaut" * 3, "x" * 4000])
def test_a_login_that_fails_says_no_token(session, tmp_path, token, caplog):
    with hub_server() as server, connected(server, tmp_path), pytest.raises(AnomalyHubError) as caught:
        hub.log_in(session, token)
    assert session.token is None
    if len(token) > 8:
        assert token not in str(caught.value) + caplog.text and token.strip() not in repr(caught.value)


def test_a_hub_that_is_not_there(session, visit, work, tmp_path, monkeypatch):
    with hub_server() as server:
        gone = server.url
    with connected(gone, tmp_path):
        for deed in (
            lambda: hub.log_in(session, TOKEN),
            lambda: hub.look(visit, hub.open_store(session, work, True, Place()), hub.HUB, "model"),
            lambda: take(session, visit, Place(), work, "acme/ring"),
        ):
            with pytest.raises(StoreError, match="cannot be reached|connection|network|offline"):
                deed()
    assert leftovers(work) == [] and session.busy == ""


def test_where_to_log_in(session, monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert "login of this machine" in hub.login_text(session, True)
    assert "needed to give" in hub.login_text(session, False)
    monkeypatch.setenv("SPACE_ID", "me/app")
    assert "Space’s own token is never used for visitors" in hub.login_text(session, False)


def test_errors_are_said_without_token_and_paths(session, tmp_path, caplog):
    work = Work(tmp_path / "home", ["folder:/plant/models"])
    session.token = TOKEN
    text = f"{TOKEN} in folder:/plant/models/x and {work.home}/jobs/1 and {session.folder}/give"
    with pytest.raises(AnomalyHubError) as caught, hub.said_plainly(session, work, False):
        raise InvalidModelError(text)
    assert type(caught.value) is InvalidModelError
    assert str(caught.value) == "… in models/x and the app's folder/jobs/1 and your folder/give"
    with pytest.raises(StoreError) as caught, hub.said_plainly(session, work, False):
        raise RuntimeError(f"Illegal header value b'Bearer {TOKEN}'")
    assert TOKEN not in str(caught.value) and caught.value.__suppress_context__
    with pytest.raises(RuntimeError), hub.said_plainly(session, work, False):
        raise RuntimeError("another")
    with pytest.raises(Cancelled), hub.said_plainly(session, work, False):
        raise Cancelled("stopped")
    with pytest.raises(StoreError, match="/plant/models"), hub.said_plainly(session, work, True):
        raise StoreError("the store /plant/models is not there")  # one's own machine


# What is there.


@pytest.mark.parametrize(
    ("kind", "filters", "expected"),
    [
        ("model", {}, {"ring", "ring-inspector", "ring-kinds", "ring-pretrained"}),
        ("model", {"words": "ACME ring-insp"}, {"ring-inspector"}),
        ("model", {"tag": "plant-7"}, {"ring"}),
        ("model", {"product": "ring", "words": "ring-k"}, {"ring-kinds"}),
        ("model", {"words": "nothing of the kind"}, set()),
        ("dataset", {}, {"ring-photos", "ring-painted"}),
    ],
)
def test_look(shelf, session, visit, work, kind, filters, expected):
    store = hub.open_store(session, work, True, shelf)
    text = hub.look(visit, store, "the folder shelf", kind, **filters)
    assert {one.repo_id for one in visit.repos} == {f"acme/{name}" for name in expected}
    assert text.startswith(f"{len(expected) or 'No'} ") and text.endswith("in the folder shelf")
    html = hub_view.repos(visit)
    assert html.count('class="ah-card ah-h-repo"') == len(expected) and ("ah-empty" in html) == (not expected)


def test_choose(shelf, session, visit, work, world):
    store = hub.open_store(session, work, True, shelf)
    assert hub.choose(visit, store, " acme/ring ", "model").startswith("acme/ring: 4 files")  # with its card
    assert visit.chosen.info.tags and visit.chosen.info.size and "## How to use it" in visit.chosen.card
    html = hub_view.chosen(visit.chosen)
    assert visit.chosen.listing.revision[:12] in html and "state.safetensors" in html and "patchcore" in html
    hub.look(visit, store, "x", "model")
    hub.choose(visit, store, "acme/ring", "model", visit.chosen.listing.revision[:8])
    assert visit.chosen.info.product == "ring" and visit.chosen.info.updated
    for repo_id, error in [("acme/none", StoreError), ("../x", InvalidArgumentError), ("", InvalidArgumentError)]:
        with pytest.raises(error):
            hub.choose(visit, store, repo_id, "model")


def test_kinds_that_no_tab_can_use(shelf, session, visit, work):
    store = hub.open_store(session, work, True, shelf)
    hub.look(visit, store, "x", "dataset")
    for kind in ("space", "", "models"):
        with pytest.raises(InvalidArgumentError, match="choose model or dataset"):
            hub.look(visit, store, "x", kind)
        with pytest.raises(InvalidArgumentError, match="choose model or dataset"):
            hub.choose(visit, store, "acme/ring", kind)
    assert visit.kind == "dataset" and hub.headline(visit).startswith("2 data sets") and visit.chosen is None


def test_of_many_files_the_first_are_remembered(session, visit, work, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(230):
        (tmp_path / "many" / f"{number:03d}.txt").write_text("four")
    store = create_store(f"folder:{tmp_path / 'shelf'}")
    store.push(tmp_path / "many", "acme/many", "dataset")
    assert hub.choose(visit, store, "acme/many", "dataset").startswith("acme/many: 230 files")
    assert len(visit.chosen.listing.entries) == 200 and (visit.chosen.n_files, visit.chosen.size) == (230, 920)
    html = hub_view.chosen(visit.chosen)
    assert "230 files" in html and "and 30 more" in html and "920 bytes" in html and "200.txt" not in html


# Taking models.


def test_a_detector_goes_to_detect_and_inspect(shelf, session, visit, work, world, tmp_path):
    session.have = "none"
    assert take(session, visit, shelf, work, "acme/ring").endswith("Next: the tab Detect.")
    expected = [(one.score, one.is_anomalous) for one in Inspector.load(world / "model").inspect(photos_of(world))]
    assert [(one.score, one.is_anomalous) for one in session.inspector.inspect(photos_of(world))] == expected
    assert work.get(session.fit_job, "fit").status == "done" and session.have == "many" and not session.busy
    assert "ring, taken on the Hub tab" in guide.step_heads(session)[0]
    assert "taken on the Hub tab" in guide.stage(session)
    paths = [str(ref.path) for ref in photos_of(world).refs]
    detect.take_unknown(session, paths)
    assert detect.check(session, "uploads").endswith("defective")
    assert inspect.choose(session, inspect.Visit(), work) == "detect"
    assert [tab for tab, _ in visit.taken.tabs] == ["Detect", "Inspect"] and "acme/ring is here" in hub_view.taken(
        visit.taken
    )
    with pytest.raises(InvalidArgumentError, match="no normal images"):
        list(learning.learn(session, learning.Settings(), True, work))

    again = Session()  # the page is loaded again
    learning.recall(again, learning.remembered(session), None, work)
    list(learning.go_on(again, work))
    assert again.threshold == session.threshold and again.source.name == "ring" and again.fit_job == session.fit_job
    again.close()


def test_an_inspector_goes_to_inspect(shelf, session, visit, work, world):
    take(session, visit, shelf, work, "acme/ring-inspector")
    kinds = Inspector.load(world / "inspector").kinds
    assert all(kind in visit.taken.what for kind in kinds[:5])
    assert session.inspector.kinds == ()  # Detect has the detector alone
    asked = inspect.Visit()
    assert inspect.choose(session, asked, work) == "classify"
    assert inspect.tool_text(session, asked, work) == f"ring, {len(kinds)} kinds"
    inspect.take_uploads(session, asked, [str(ref.path) for ref in photos_of(world).refs])
    inspect.inspect(session, asked, work, "uploads")
    wanted = {
        one.id.rpartition("/")[2]: one.label for one in Inspector.load(world / "inspector").inspect(photos_of(world))
    }
    seen = {one.ref.id: one.label for one in asked.seen}
    assert len(seen) == len(photos_of(world)) and sorted(seen.values()) == sorted(
        one.label for one in Inspector.load(world / "inspector").inspect(photos_of(world))
    ), wanted
    learned = classify.Visit()
    assert "ring, learned on the Detect tab" in classify.use_detect(
        session, learned, work
    )  # its detector, for new kinds


@pytest.mark.parametrize("first", ["kinds", "detector"])
def test_kinds_go_to_discover_and_with_a_detector_to_inspect(shelf, session, visit, work, world, first):
    order = ["acme/ring-kinds", "acme/ring"]
    for repo_id in order if first == "kinds" else reversed(order):
        take(session, visit, shelf, work, repo_id)
        if repo_id == "acme/ring-kinds" and first == "kinds":
            assert "take or learn a detector as well" in visit.taken.notices[0]
            assert not session.classify_jobs
    assert visit.taken.tabs[0][0] == "Inspect"
    named = Inspector.load(work.result_of(session.classify_jobs[-1], "classify"))
    found = json.loads((world / "found" / "model" / "config.json").read_text())["classes"]
    assert list(named.kinds) == found
    jobs = list(session.classify_jobs)
    assert hub_take.join_kinds(session, work) == named.kinds and session.classify_jobs == jobs  # once
    offered = discover.offered_methods(session, work)
    assert offered[-1] == ("The kinds of acme/ring-kinds", session.kinds_job)
    asked = discover.Visit()
    refs = photos_of(world).refs
    asked.chosen = discover.Chosen("ring", "", refs, {"model": str(world / "model")}, lasting=True)
    submitted = []
    work.submit = lambda kind, config, **_: submitted.append(config) or SimpleNamespace(id="x")
    discover.start(asked, discover.Settings("7", session.kinds_job, "embedded"), work, True)
    result = discover_to(None, configure(DiscoverConfig, submitted[0]))
    assert set(result.classes) == set(found)


def test_a_pretrained_head_goes_to_classify(shelf, session, visit, work, world):
    take(session, visit, shelf, work, "acme/ring")
    take(session, visit, shelf, work, "acme/ring-pretrained")
    asked = classify.Visit()
    classify.use_detect(session, asked, work)
    assert classify.pretrained(session, asked, work) == [("acme/ring-pretrained (mean)", session.pretrain_jobs[0])]


def test_what_was_taken_is_found_after_a_reload(shelf, session, visit, work):
    for repo_id in ("acme/ring-kinds", "acme/ring-pretrained", "acme/ring-inspector"):
        take(session, visit, shelf, work, repo_id)
    memory, other = json.loads(json.dumps(hub_take.remembered(session, work))), Session()
    hub_take.recall(other, memory, work)
    assert (other.kinds_job, other.pretrain_jobs, other.classify_jobs) == (
        session.kinds_job, session.pretrain_jobs, session.classify_jobs[-1:]
    )  # fmt: skip
    hub_take.recall(other, memory, work)
    assert len(other.pretrain_jobs) == 1


@pytest.mark.parametrize(
    "memory", [None, 7, [], "x", {}, {"kinds": 5}, {"kinds": ["../.."]}, {"pretrain": [{}]}, {"classify": {"a": 1}}]
)
def test_a_memory_that_is_none(session, work, memory):
    hub_take.recall(session, memory, work)
    assert not (session.kinds_job or session.pretrain_jobs or session.classify_jobs)


# What is refused changes nothing.


def planted(world: Path, name: str, change) -> Path:
    """A copy of a model that was changed by hand."""
    folder = world / "planted" / name
    if not folder.is_dir():
        shutil.copytree(world / "model", folder)
        change(folder)
    return folder


def edit(**changes):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | changes)

    return change


def alone(folder: Path) -> None:
    (folder / "inspector.json").unlink()


@pytest.mark.parametrize(
    ("name", "change", "trusted", "error", "match"),
    [
        ("alone", alone, True, InvalidModelError, "a detector without a threshold"),
        ("head", edit(kind="classifier", pretraining=None), True, InvalidModelError, "without its detector"),
        ("layers", edit(kind="pretrained"), True, InvalidModelError, "--set weights=DIR"),
        ("newer", edit(schema=99), True, InvalidModelError, "newer AnomalyHub|upgrade|install"),
        ("odd", edit(kind="virus"), True, InvalidModelError, "kind 'virus'"),
        ("huge", edit(backbone={"spec": "vit_giant", "fingerprint": "0"}), False, InvalidModelError, "does not offer"),
        ("local", edit(backbone={"spec": "resnet18@/etc/passwd"}), False, InvalidModelError, "offer"),
        ("broken", lambda folder: (folder / "state.safetensors").write_bytes(b"x"), True, InvalidModelError, "damaged"),
    ],
)  # fmt: skip
def test_models_that_are_refused(session, visit, work, world, name, change, trusted, error, match):
    place = Place("folder", str(world / "planted-shelf"))
    create_store(f"folder:{place.folder}").push(planted(world, name, change), f"bad/{name}")
    work.stores = (f"folder:{place.folder}",)
    before = session.source, session.inspector, session.fit_job
    at = place if trusted else Place("folder", "planted-shelf")
    with pytest.raises(error, match=match) as caught, hub.said_plainly(session, work, trusted):
        take(session, visit, at, work, f"bad/{name}", trusted=trusted)
    assert str(work.home) not in str(caught.value)
    assert leftovers(work) == [] and visit.taken is None and session.busy == ""
    assert (session.source, session.inspector, session.fit_job) == before


def test_visitors_from_elsewhere_take_no_more_than_so_much(shelf, session, visit, work, monkeypatch):
    place = foreign(work, shelf)
    monkeypatch.setattr(hub_take, "MAX_BYTES", hub_take.MAX_BYTES | {"model": 1000})
    with pytest.raises(UnsafeRepositoryError, match="this app takes at most"):
        take(session, visit, place, work, "acme/ring", trusted=False)
    take(session, visit, place, work, "acme/ring-photos", "dataset", trusted=False)
    monkeypatch.setattr(hub_take, "MAX_FILES", 3)
    with pytest.raises(UnsafeRepositoryError, match="files, and this app takes at most"):
        take(session, visit, place, work, "acme/ring-photos", "dataset", trusted=False)
    for repo_id, kind in (("acme/ring", "model"), ("acme/ring-photos", "dataset")):
        take(session, visit, shelf, work, repo_id, kind)  # one's own machine


def test_visitors_from_elsewhere_use_no_more_images_than_they_may_upload(shelf, session, visit, work, monkeypatch):
    place = foreign(work, shelf)
    monkeypatch.setattr(sources, "NORMALS", dataclasses.replace(sources.NORMALS, max_files=5))
    monkeypatch.setattr(sources, "UNKNOWN", dataclasses.replace(sources.UNKNOWN, max_files=3))
    take(session, visit, shelf, work, "acme/ring-photos", "dataset")  # one's own machine
    every = session.source
    assert len(every.normals) == 8 and len(every.tests) > 3 and visit.taken.notices == ()
    n_tests = len(every.tests)
    take(session, visit, place, work, "acme/ring-photos", "dataset", trusted=False)
    assert (len(session.source.normals), len(session.source.tests)) == (5, 3)
    assert session.source.tests.ids == tuple(every.tests.ids[i] for i in (0, round((n_tests - 1) / 2), n_tests - 1))
    assert "5 of the 8 normal photos" in visit.taken.notices[0]
    assert f"3 of the {n_tests} images to check" in visit.taken.notices[1]
    hub_take.use_product(session, visit, "ring", "learn", work)  # not by another way either
    assert (len(session.source.normals), len(session.source.tests)) == (5, 3)

    take(session, visit, place, work, "acme/ring", trusted=False)
    take(session, visit, place, work, "acme/ring-photos", "dataset", "check", trusted=False)
    assert len(session.source.tests) == 3 and f"3 of the {n_tests} images" in visit.taken.notices[0]
    again = Session()  # nor after a reload
    learning.recall(again, learning.remembered(session), None, work)
    assert len(again.source.tests) == 3
    again.close()


def test_what_is_never_pulled_does_not_count(world, session, visit, work, tmp_path, monkeypatch):
    folder, place = tmp_path / "made", Place("folder", str(tmp_path / "shelf"))
    shutil.copytree(world / "model", folder)
    total = sum(path.stat().st_size for path in folder.iterdir())
    (folder / "pytorch_model.bin").write_bytes(bytes(total))
    create_store(f"folder:{place.folder}").push(folder, "acme/ring")
    monkeypatch.setattr(hub_take, "MAX_BYTES", {"model": total})
    assert "is here" in take(session, visit, foreign(work, place), work, "acme/ring", trusted=False)


def test_what_was_checked_is_what_is_pulled(shelf, world, session, visit, work, tmp_path, monkeypatch):
    """The owner pushes something larger between the look at its size and the pull."""
    place = Place("folder", str(tmp_path / "shelf"))
    store, check = create_store(f"folder:{place.folder}"), hub_take._check_size
    first = store.push(world / "model", "acme/ring").revision

    def checked(repo_id, kind, listing):
        check(repo_id, kind, listing)
        store.push(world / "inspector", "acme/ring")

    monkeypatch.setattr(hub_take, "_check_size", checked)
    take(session, visit, foreign(work, place), work, "acme/ring", trusted=False)
    assert visit.taken.revision == first != store.files("acme/ring").revision
    assert not session.classify_jobs and not (work.get(session.fit_job).result / "examples.json").exists()


def kept(work: Work) -> Counter:
    """Jobs by their kind and use."""
    return Counter((job.kind, job.asked["config"].get("role")) for job in work.store.list())


def test_the_last_of_each_kind_and_use_is_kept(shelf, session, visit, work, world):
    place, other = foreign(work, shelf), Session()
    for one in (other, other, session):
        take(one, Visit(), place, work, "acme/ring", trusted=False)
    theirs = other.fit_job
    assert kept(work) == {("fit", None): 2} and theirs != session.fit_job
    for repo_id in ("ring-kinds", "ring", "ring-kinds", "ring-pretrained", "ring-pretrained"):
        take(session, visit, place, work, f"acme/{repo_id}", trusted=False)
    made = {("fit", None): 2, ("kinds", None): 1, ("classify", None): 1, ("pretrain", None): 1}
    assert kept(work) == made
    take(session, visit, place, work, "acme/ring-inspector", trusted=False)
    assert kept(work) == made and work.result_of(theirs, "fit") is not None  # another visitor's stays
    assert inspect.kinds_job(session, work) == session.classify_jobs[-1] and session.inspector.threshold

    memory = {"kinds": [other.kinds_job], "classify": [theirs], "pretrain": session.pretrain_jobs}
    thief = Session()  # who knows another's ids does not get rid of them
    hub_take.recall(thief, memory, work)
    for _ in range(2):
        take(thief, Visit(), place, work, "acme/ring-pretrained", trusted=False)
    assert kept(work)["pretrain", None] == 2 and work.result_of(session.pretrain_jobs[-1], "pretrain") is not None
    for one in (other, thief):
        one.close()


def test_what_is_in_use_is_kept(shelf, session, visit, work, world):
    place = foreign(work, shelf)

    def taken(role: str) -> str:
        take(session, visit, place, work, "acme/ring-photos", "dataset", role, trusted=False)
        return visit.taken.job_id

    first, second = taken("learn"), taken("learn")
    assert work.get(first) is None and kept(work) == {("dataset", "learn"): 1}
    naming = work.store.adopt("swap", {"data": str(work.result_of(second, "dataset"))}, {})
    third = taken("learn")
    assert work.get(second) is not None  # a comparison reads it
    naming.remove()
    take(session, visit, place, work, "acme/ring", trusted=False)
    assert work.get(second) is None and work.get(third) is not None

    fourth = taken("check")
    hub_take.use_product(session, visit, "ring", "learn", work)
    session.inspector = Inspector.load(world / "model")  # as if it had learned from them
    fifth = taken("check")
    assert session.source.normals and all(Path(ref.path).is_file() for ref in session.source.normals.refs)
    assert {job.id for job in work.store.list() if job.kind == "dataset"} == {third, fourth, fifth}


def test_on_ones_own_machine_all_that_was_taken_is_kept(shelf, session, visit, work):
    for _ in range(2):
        take(session, visit, shelf, work, "acme/ring-pretrained")
    assert kept(work) == {("pretrain", None): 2}


@pytest.mark.parametrize(
    ("wanted", "error", "match"),
    [
        (Wanted("acme"), InvalidArgumentError, "write OWNER/NAME"),
        (Wanted("acme/none"), StoreError, "acme/none"),
        (Wanted("acme/ring", "space"), InvalidArgumentError, "space"),
        (Wanted("acme/ring", revision="beefbeef"), StoreError, "beefbeef"),
        (Wanted("acme/ring-photos", "dataset", role="sell"), InvalidArgumentError, "choose learn or check"),
        (Wanted("acme/ring-photos", "dataset", role="check"), InvalidArgumentError, "there is no detector yet"),
    ],
)
def test_what_cannot_be_taken(shelf, session, visit, work, wanted, error, match):
    with pytest.raises(error, match=match):
        hub_take.take(session, visit, shelf, wanted, work, True)
    assert leftovers(work) == [] and session.source is None and visit.taken is None and session.busy == ""


@pytest.mark.parametrize(("repo_id", "kind"), [("acme/ring-inspector", "model"), ("acme/ring-photos", "dataset")])
@pytest.mark.parametrize("at", [0.0, 0.4, 0.9])
def test_cancel_changes_nothing(shelf, session, visit, work, repo_id, kind, at):
    def stop(fraction: float, _text: str) -> None:
        if fraction >= at:
            session.cancel()

    session.press("take")
    with pytest.raises(Cancelled):
        take(session, visit, shelf, work, repo_id, kind, progress=stop)
    assert leftovers(work) == [] and session.source is None and not session.classify_jobs and visit.taken is None
    session.press("take")
    take(session, visit, shelf, work, repo_id, kind)
    assert session.source is not None and session.busy == ""


# Data sets.


def test_a_data_set_to_learn_from(shelf, session, visit, work, world):
    text = take(session, visit, shelf, work, "acme/ring-photos", "dataset")
    assert "8 normal photos of ring" in text and visit.taken.products == ("ring",)
    assert len(session.source.normals) == 8 and len(session.source.tests) == len(photos_of(world))
    assert session.source.tests.labels == photos_of(world).labels
    painted = synthesize.Visit()
    assert synthesize.use_detect(session, painted).startswith("8 normal images of ring")
    kept = work.keep(session.source.normals.refs)  # as learning does
    assert len(kept) == 8 and all(Path(path).is_file() for _, path in kept)

    memory = {"kind": "hub", "key": session.source.key, "have": "many", "method": "patchcore"}
    config = {"product": "ring", "images": kept, "detector": "patchcore", "backbone": "embedded"}
    contents = {path.name: path for path in (world / "model").iterdir()}
    fit = work.store.adopt("fit", config, contents, name="learning ring")
    again = Session()
    learning.recall(again, memory | {"model": fit.id, "learning": None}, None, work)
    assert len(again.source.normals) == 8 and again.source.tests.ids == session.source.tests.ids
    again.close()


def test_a_data_set_to_check(shelf, session, visit, work, world):
    take(session, visit, shelf, work, "acme/ring")
    take(session, visit, shelf, work, "acme/ring-photos", "dataset", role="check")
    assert session.inspector is not None and detect.check(session, "tests").endswith("defective")
    assert len(session.checked) == len(photos_of(world))
    asked = discover.Visit()
    assert f"{len(photos_of(world))} images of ring" in discover.use_detect(session, asked, work)
    learned = classify.Visit()
    classify.use_detect(session, learned, work)
    assert {ref.label for ref in learned.detector.tests} == set(photos_of(world).labels)
    assert [tab for tab, _ in visit.taken.tabs] == ["Detect", "Discover", "Classify"]
    again = Session()
    learning.recall(again, learning.remembered(session), None, work)
    assert again.source.tests.ids == session.source.tests.ids
    again.close()


def test_products_of_a_data_set(session, visit, work, world, tmp_path):
    write_sample(tmp_path / "two", products=["label", "weave"], n_train=3, n_test_good=1, n_defect=1, size=64)
    place = Place("folder", str(tmp_path / "shelf"))
    share(tmp_path / "two", "acme/two", "dataset", store=f"folder:{place.folder}")
    take(session, visit, place, work, "acme/two", "dataset")
    assert visit.taken.products == ("label", "weave") and session.source.name == "label"
    assert "3 normal photos of weave" in hub_take.use_product(session, visit, "weave", "learn", work)
    assert session.source.name == "weave" and session.source.key.endswith("/weave")
    for product, role in (("ring", "learn"), ("../label", "learn"), ("label", "check")):
        with pytest.raises(InvalidArgumentError):
            hub_take.use_product(session, visit, product, role, work)
    shutil.rmtree(work.store.root)
    with pytest.raises(InvalidArgumentError, match="press Use in this app again"):
        hub_take.use_product(session, visit, "label", "learn", work)


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_a_data_set_as_others_store_it(session, visit, work, world, tmp_path, form):
    (tmp_path / form).mkdir()
    export([load_dataset(world / "data", "ring")], tmp_path / form, form)
    place = Place("folder", str(tmp_path / "shelf"))
    share(tmp_path / form, "acme/photos", "dataset", store=f"folder:{place.folder}")
    take(session, visit, place, work, "acme/photos", "dataset")
    assert len(session.source.normals) == 8 and sorted(session.source.tests.labels) == sorted(photos_of(world).labels)
    assert len(work.keep(session.source.normals.refs)) == 8
    pixels = {ref.load().image.tobytes() for ref in session.source.tests.refs}
    assert pixels == {sample.image.tobytes() for sample in photos_of(world)}


def test_a_data_set_without_normal_photos_is_compared(session, visit, work, world, tmp_path):
    shutil.copytree(world / "data" / "ring", tmp_path / "kinds" / "ring")
    shutil.rmtree(tmp_path / "kinds" / "ring" / "train")
    place = Place("folder", str(tmp_path / "shelf"))
    share(tmp_path / "kinds", "acme/kinds", "dataset", store=f"folder:{place.folder}")
    take(session, visit, place, work, "acme/kinds", "dataset")
    assert session.have == session.source.have == "none" and session.method == "musc"
    assert len(session.source.photos) == len(photos_of(world)) and "compared" in visit.taken.notices[0]


@pytest.mark.parametrize("files", [{"notes.txt": "x"}, {"a.png": "no image"}, {"split.csv": "a,b"}])
def test_data_sets_that_are_none(session, visit, work, tmp_path, files):
    for name, text in files.items():
        (tmp_path / "junk").mkdir(exist_ok=True)
        (tmp_path / "junk" / name).write_text(text)
    place = Place("folder", str(tmp_path / "shelf"))
    create_store(f"folder:{place.folder}").push(tmp_path / "junk", "acme/junk", "dataset")
    with pytest.raises(InvalidDatasetError) as caught:
        take(session, visit, place, work, "acme/junk", "dataset")
    assert str(work.home) not in str(caught.value)
    assert leftovers(work) == [] and session.source is None


def test_a_table_that_names_files_of_the_machine(session, visit, work, tmp_path, world):
    """The layout of VisA names images in a table, which may say anything."""
    root, outside = tmp_path / "visa", tmp_path / "secret.png"
    shutil.copyfile(photos_of(world).refs[0].path, outside)
    (root / "part" / "Data" / "Images" / "Normal").mkdir(parents=True)
    rows = ["object,split,label,image,mask"]
    for number in range(3):
        image = f"part/Data/Images/Normal/{number}.png"
        shutil.copyfile(outside, root / image)
        rows.append(f"part,train,normal,{image},")
    rows += [f"part,train,normal,../../../../../../..{outside},", f"part,test,normal,{outside},"]
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n")
    place = Place("folder", str(tmp_path / "shelf"))
    create_store(f"folder:{place.folder}").push(root, "acme/visa", "dataset")
    try:
        take(session, visit, place, work, "acme/visa", "dataset")
    except InvalidDatasetError:
        assert session.source is None
        return
    assert all(ref.path.is_relative_to(work.home) for ref in (*session.source.normals.refs, *session.source.tests.refs))


# Giving.


@pytest.fixture
def full(session, work, world) -> Session:
    """A visitor who has made everything."""

    def adopted(kind: str, name: str, **config) -> str:
        contents = {
            path.relative_to(world / name).as_posix(): path for path in (world / name).rglob("*") if path.is_file()
        }
        return work.store.adopt(kind, {"product": "ring", **config}, contents, name=f"{kind} of ring").id

    session.fit_job = adopted("fit", "model", images=[])
    session.inspector = Inspector.load(work.result_of(session.fit_job, "fit"))
    session.threshold = session.inspector.threshold
    dataset = load_dataset(world / "data", "ring")
    session.source = detect.Source("Machined ring", dataset.train, dataset.test, "dataset")
    session.classify_jobs = [adopted("classify", "inspector", examples=[], model=str(world / "model"))]
    session.discover_job = adopted("discover", "found", images=[])
    session.paint_job = adopted("synthesize", "synthetic", count=8)
    session.pretrain_jobs = [adopted("pretrain", "pretrained", head="mean", synthetic=str(world / "synthetic"))]
    return session


def test_nothing_to_give(session, work):
    assert hub_give.offers(session, work) == []
    with pytest.raises(InvalidArgumentError, match="learn, discover or paint something first"):
        hub_give.find(session, work, "detector")


def test_all_that_can_be_given_comes_back(full, visit, work, tmp_path, world):
    place = Place("folder", str(tmp_path / "shelf"))
    offers = hub_give.offers(full, work)
    assert [one.key.partition(":")[0] for one in offers] == [
        "detector", "inspector", "labelled", "kinds", "pretrained", "synthetic"
    ]  # fmt: skip
    assert [one.kind for one in offers] == ["model", "model", "dataset", "model", "model", "dataset"]
    for number, offer in enumerate(offers):
        repo_id = f"{hub_give.proposed(full, offer, on_hub=False)}-{number}"
        form = Form(offer.key, repo_id, private=True, licence="CC-BY-4.0", message="first")
        card = hub_give.preview(full, visit, place, form, work, True)
        assert "cc-by-4.0" in card and repo_id.partition("/")[2] in card
        text = hub_give.give(full, visit, place, form, work, True)
        assert text.startswith(f"{repo_id} is in the folder") and visit.pushed.changed
        assert "Nothing changed" in hub_give.give(full, visit, place, form, work, True)  # the very same, by content
        other, seen = Session(), Visit()
        hub.choose(seen, hub.open_store(other, work, True, place), repo_id, offer.kind)
        assert seen.chosen.card == card
        if offer.key == "labelled":  # it has no normal photos, and belongs to a detector
            other.source, other.inspector = full.source, full.inspector
        assert "Next" in take(
            other, seen, place, work, repo_id, offer.kind, "check" if offer.key == "labelled" else "learn"
        )
        other.close()


def test_the_threshold_in_force_is_given(full, visit, work, tmp_path):
    place = Place("folder", str(tmp_path / "shelf"))
    full.threshold = 0.123
    hub_give.give(full, visit, place, Form("detector", "acme/strict"), work, True)
    other = Session()
    take(other, Visit(), place, work, "acme/strict")
    assert other.threshold == 0.123
    other.close()


def test_names_of_the_board_are_given(full, visit, work, tmp_path):
    from anomalyhub.ui import board

    place, opened = Place("folder", str(tmp_path / "shelf")), discover.Visit(job_id=full.discover_job)
    hub_give.give(full, visit, place, Form("kinds", "acme/kinds"), work, True)
    columns = [one.name for one in board.opened(opened, work).columns() if one.crops]
    board.act(opened, work, json.dumps([{"deed": "rename", "column": columns[0], "name": "Kratzer"}]))
    hub_give.give(full, visit, place, Form("kinds", "acme/kinds"), work, True)
    hub_give.give(full, visit, place, Form("labelled", "acme/labelled"), work, True)
    listing = hub.open_store(full, work, True, place).files("acme/labelled", "dataset")
    assert any("Kratzer" in entry.path for entry in listing.entries)
    other = Session()
    take(other, visit, place, work, "acme/kinds")
    assert "Kratzer" in visit.taken.what
    other.close()


def test_the_data_set_that_was_painted_last_is_given(full, visit, work, world):
    first = work.get(full.paint_job)
    contents = {"a.json": world / "model" / "config.json"}
    full.paint_job = None
    full.pretrain_jobs = []
    for painted in (first, work.store.adopt("synthesize", {"count": 4}, contents)):
        head = {"head": "mean", "synthetic": str(painted.result)}
        full.pretrain_jobs.append(work.store.adopt("pretrain", head, contents).id)
        assert hub_give.prepared(full, visit, work, "synthetic") == painted.result


def test_a_push_is_left_alone(full, visit, work, tmp_path):
    place, form, seen = Place("folder", str(tmp_path / "shelf")), Form("detector", "acme/ring"), []

    def meanwhile(fraction: float, _text: str) -> None:
        if fraction <= 0.3 or seen:
            return
        folder = visit.prepared[1]
        with pytest.raises(InvalidArgumentError, match="a push still runs"):
            hub_give.preview(full, visit, place, Form("kinds", "acme/kinds"), work, True)
        hub_give.prepared(full, visit, work, "kinds")  # for another push
        seen.append(folder.is_dir() and visit.prepared[1] != folder)

    hub_give.give(full, visit, place, form, work, True, meanwhile)
    assert seen == [True] and visit.pushed.changed and visit.pushing == 0
    full.press("push")  # which is about to begin
    with pytest.raises(InvalidArgumentError, match="a push still runs"):
        hub_give.preview(full, visit, place, form, work, True)
    full.cancel()
    assert hub_give.preview(full, visit, place, form, work, True) == visit.draft


def test_a_changed_card_is_given_as_it_is(full, visit, work, tmp_path):
    place = Place("folder", str(tmp_path / "shelf"))
    form = Form("detector", "acme/ring", licence="mit")
    text = hub_give.preview(full, visit, place, form, work, True).replace("\n## Limits", "\n## Our own words\r\n")
    hub_give.give(full, visit, place, Form("detector", "acme/ring", licence="mit", card=text), work, True)
    store = hub.open_store(full, work, True, place)
    card = store.card("acme/ring")[1]
    assert "## Our own words\n" in card and "\r" not in card and "license: mit" in card
    assert "made by AnomalyHub" not in card  # a person's now: whoever takes it and gives it again keeps it
    hub_give.give(full, visit, place, Form("inspector", "acme/other", card=text), work, True)
    assert "Our own words" not in store.card("acme/other")[1]  # which was about something else


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"key": "nothing"}, InvalidArgumentError, "there is nothing 'nothing' to give"),
        ({"key": "pretrained:20200101-000000-00000000"}, InvalidArgumentError, "there is nothing"),
        ({"repo_id": "ring"}, InvalidArgumentError, "OWNER/NAME"),
        ({"repo_id": "../../etc"}, InvalidArgumentError, "OWNER/NAME"),
        ({"licence": "do what you want"}, InvalidArgumentError, "licence"),
    ],
)
def test_what_cannot_be_given(full, visit, work, tmp_path, change, error, match):
    place, form = Place("folder", str(tmp_path / "shelf")), {"key": "detector", "repo_id": "acme/ring"}
    with pytest.raises(error, match=match):
        hub_give.give(full, visit, place, Form(**form | change), work, True)
    assert not (tmp_path / "shelf").exists() and visit.pushed is None and full.busy == ""


def test_a_failed_push_says_how_to_go_on(full, visit, work, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AnomalyHubError) as caught:
        hub_give.give(
            full, visit, Place("folder", str(tmp_path / "file" / "x")), Form("detector", "acme/ring"), work, True
        )
    advised = str(hub_give.with_advice(caught.value))
    assert advised.startswith(str(caught.value)) and "press Push again" in advised
    assert hub_give.with_advice(Cancelled("stopped")).args == ("stopped",)
    assert visit.pushed is None and hub_give.find(full, work, "detector")


def test_the_hub_wants_to_know_who_gives(full, visit, work, tmp_path):
    with hub_server() as server, connected(server, tmp_path, TOKEN):
        with pytest.raises(InvalidArgumentError, match="log in with an access token in step 1"):
            hub_give.give(full, visit, Place(), Form("detector", "me/ring"), work, False)
        hub.log_in(full, OTHER_TOKEN)
        with pytest.raises(StoreError):
            hub_give.give(full, visit, Place(), Form("detector", "me/ring"), work, False)
        hub.log_in(full, TOKEN)
        assert hub_give.proposed(full, hub_give.find(full, work, "detector"), True) == "me/machined-ring-detector"
        hub_give.give(full, visit, Place(), Form("detector", "me/ring", private=True), work, False)
        assert server.repo("me/ring").private and "state.safetensors" in server.files("me/ring")
        assert f'href="{visit.pushed.url}"' in hub_view.given(visit, False) and TOKEN not in visit.pushed.url
        other = Session()
        hub.log_in(other, READ_TOKEN)
        take(other, Visit(), Place(), work, "me/ring", trusted=False)
        assert other.threshold == full.threshold
        other.close()
        said = "\n".join(path.read_text(errors="replace") for path in work.home.rglob("*.json"))
        said += "".join(path.read_text(errors="replace") for path in full.folder.rglob("*.json"))
    assert TOKEN not in said and READ_TOKEN not in said and not any(TOKEN in one for one in server.requests)


def test_cancel_a_push(full, visit, work, tmp_path):
    place = Place("folder", str(tmp_path / "shelf"))

    def stop(fraction: float, _text: str) -> None:
        if fraction > 0.5:
            full.cancel()

    full.press("push")
    with pytest.raises(Cancelled):
        hub_give.give(full, visit, place, Form("detector", "acme/ring"), work, True, stop)
    with pytest.raises(StoreError):
        hub.open_store(full, work, True, place).files("acme/ring")
    hub_give.give(full, visit, place, Form("detector", "acme/ring"), work, True)
    assert visit.pushed.changed and full.busy == ""


# Jobs that never ran.


def test_an_adopted_job_is_like_any_other(work, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.json").write_text("{}")
    config = {"product": "ring", "n": np.int64(3), "folder": tmp_path}
    job = work.store.adopt("fit", config, {"a.json": tmp_path / "made" / "a.json", "x/b": tmp_path / "made" / "a.json"})
    shutil.rmtree(tmp_path / "made")
    assert (job.result / "a.json").read_text() == (job.result / "x" / "b").read_text() == "{}"
    assert job.status == "done" and job.progress == (1.0, "done") and job.error is None and not job.stopping
    assert job.asked["config"] == {"product": "ring", "n": 3, "folder": str(tmp_path)} and job.kind == "fit"
    assert [one.id for one in JobStore(work.store.root).list()] == [job.id]
    with pytest.raises(InvalidArgumentError, match="is done"):
        job.resume()
    os.utime(job.folder, (time.time() - KEPT - 60,) * 2)
    work.prune()
    assert work.get(job.id) is None


def test_adopting_what_is_gone_leaves_nothing(work, tmp_path):
    with pytest.raises(AnomalyHubError):
        work.store.adopt("fit", {}, {"a.json": tmp_path / "gone.json"})
    assert leftovers(work) == []


def test_staging_leaves_nothing(work):
    with pytest.raises(KeyError), work.staging() as folder:
        (folder / "sub").mkdir(parents=True)
        assert work.store.list() == []
        raise KeyError
    assert leftovers(work) == []


# What the page shows.


def test_names_in_messages_are_no_html():
    """Gradio shows a message as HTML, and would fetch pictures in it."""
    with pytest.raises(gr.Error) as caught, errors_shown():
        raise StoreError(f"the repository has a file {NASTY} & more")
    assert caught.value.message == "the repository has a file &lt;img src=x onerror=alert(1)&gt; &amp; more"


CARD = """---
license: mit
base_model: &a [timm/x, 7, {b: c}]
tags: [anomalyhub, one, two]
---
# Title <script>alert(1)</script>

<img src=x onerror=alert(1)> ![picture](https://evil.example/track.png) [go](javascript:alert(1)) [web](https://ok.example)
[data](data:text/html,x) [up](../../file) <https://auto.example> <!-- hidden -->

| a | b |
|---|---|
| `<b>` | 2 |

```html
<script>alert(2)</script>
```
"""


def test_a_card_cannot_do_anything():
    html = hub_view.card(CARD)
    assert "<script" not in html and "<img" not in html and "onerror=alert(1)&gt;" in html
    assert "javascript:" not in html.replace("(javascript:alert(1))", "") and 'href="data:' not in html
    assert 'href="https://ok.example" target="_blank" rel="noopener noreferrer nofollow"' in html
    assert 'href="../../file"' not in html and "hidden" not in html and "license" not in html
    assert "<table>" in html and "&lt;script&gt;alert(2)" in html and 'src="https://evil' not in html
    assert dict(hub_view._told(CARD)) == {"Licence": "mit", "Backbone": "timm/x, 7"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\na: b\n---\n",
        "---\n: : :\n---\n",
        "---\n" + "a: [" * 5000 + "\n---\n",
        "> " * 5000,
        "[" * 20000,
        "\0\x1b[2J",
    ],
)
def test_cards_that_are_odd(text):
    assert "<script" not in hub_view.card(text)
    assert isinstance(hub_view.draft(text, NASTY), str) and NASTY not in hub_view.draft(text, NASTY)


def test_names_from_outside_are_escaped(visit):
    info = RepoInfo(f"a/{NASTY}", "model", NASTY, (NASTY,), NASTY, True, 1e99, 5, NASTY)
    visit.repos, visit.where = (info,), NASTY
    visit.chosen = hub.Chosen(
        info, SimpleNamespace(revision=NASTY, entries=[SimpleNamespace(path=NASTY, size=1)]), 1, 1, NASTY
    )
    visit.taken = hub.Taken(NASTY, "model", "0", NASTY, ((NASTY, NASTY),), (NASTY,))
    html = hub_view.repos(visit) + hub_view.chosen(visit.chosen) + hub_view.taken(visit.taken)
    assert NASTY not in html and "private" in html


@pytest.mark.parametrize(
    ("count", "text"), [(None, ""), (0, "0 bytes"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (3e9, "3.0 GB")]
)
def test_sizes(count, text):
    assert hub_view.size(count) == text


def shown(session, visit, work, *, trusted=True, place="hub", folder="", kind="model", key="", target="") -> dict:
    """Values of the controls by name."""
    ui = SimpleNamespace(work=work, trusted=trusted)
    names = (
        "head1 head2 head3 by_folder by_hub login out log_out private look role one take stop2 taken back chosen repos"
    )
    names += " nothing by_offer offer target preview push stop3 given"
    values = hub_tab._control_values(ui, session, visit, place, folder, kind, key, target)
    return dict(zip(names.split(), values, strict=True))


def test_the_page_at_first(session, visit, work):
    page = shown(session, visit, work)
    assert "Keep &amp; share" in page["repos"].value and page["repos"].visible and page["nothing"].visible
    assert "Nothing is made yet" in page["head3"] and not page["by_offer"].visible and page["out"].visible
    assert page["by_hub"].visible and not page["by_folder"].visible and not page["log_out"].visible


def test_the_page_on_the_way(full, visit, work, shelf, tmp_path):
    full.token, full.account = TOKEN, "me"
    page = shown(full, visit, work)
    assert TOKEN not in str([getattr(value, "value", value) for value in page.values()])
    assert "as me" in page["head1"] and page["log_out"].visible and not page["out"].visible
    assert page["target"] == "me/machined-ring-detector" and page["offer"].value == "detector"
    assert not page["push"].interactive and page["preview"].variant == "primary"
    place = Place("folder", str(tmp_path / "shelf"))
    hub_give.preview(full, visit, place, Form("detector", "acme/x"), work, True)
    page = shown(full, visit, work, key="detector", target="acme/x")
    assert page["push"].interactive and page["push"].variant == "primary" and isinstance(page["target"], dict)
    page = shown(full, visit, work, key="kinds")
    assert not page["push"].interactive and page["target"] == "me/ring-kinds"
    full.press("take")
    page = shown(full, visit, work)
    assert page["stop2"].visible and not page["take"].interactive and not page["preview"].interactive
    full.cancel()
    hub.look(visit, hub.open_store(full, work, True, shelf), "x", "model")
    hub.choose(visit, hub.open_store(full, work, True, shelf), "acme/ring", "model")
    page = shown(full, visit, work, place="folder", folder=shelf.folder)
    assert page["chosen"].visible and page["back"].visible and not page["repos"].visible
    assert page["take"].variant == "primary" and not page["private"].visible


def test_visitors_from_elsewhere_see_no_path(session, visit, tmp_path):
    work = Work(tmp_path / "home", [f"folder:{tmp_path / 'plant'}"])
    page = shown(session, visit, work, trusted=False, place="folder", folder="plant")
    assert "The folder plant" in page["head1"] and str(tmp_path) not in str(page["head1"])
    assert "A folder" in shown(session, visit, work, trusted=False, place="folder", folder="/etc")["head1"]
    visit.pushed, visit.store = (
        hub.Pushed("a/b", "model", "0", f"{tmp_path}/plant/models/a/b", ("x",)),
        "the folder plant",
    )
    assert str(tmp_path) not in hub_view.given(visit, False) and str(tmp_path) in hub_view.given(visit, True)


def test_every_event_of_the_tab_has_a_name(tmp_path):
    app = built(home=tmp_path, stores=[f"folder:{tmp_path}"])
    info = app.get_api_info()["named_endpoints"]
    wanted = {"hub_log_in", "hub_log_out", "hub_list", "hub_show_named", "hub_take", "hub_card", "hub_push"}
    assert {f"/{name}" for name in wanted} <= set(info)
