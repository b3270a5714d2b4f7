"""What every store does, on a plain folder and on a Hub of loopback."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hub_server import TOKEN, connected, hub_server

from anomalyhub.errors import (
    Cancelled,
    InvalidArgumentError,
    InvalidModelError,
    OutputError,
    StoreError,
)
from anomalyhub.hub import BaseStore, create_store

CONFIG = json.dumps({"schema": 1, "kind": "detector", "detector": "patchcore", "config": {}}).encode()
CARD = b"---\ntags: [anomalyhub, patchcore, 'product:ring']\nlibrary_name: anomalyhub\n---\n# Ring\n"
FILES = {
    "config.json": CONFIG,
    "README.md": CARD,
    "state.safetensors": bytes(range(256)) * 40,
    "classifier/config.json": CONFIG,
    "references/a picture.png": b"\x89PNG\r\n\x1a\n\0",
    "references/größe 3.png": b"",
}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["folder", "hub"])
def store(request, tmp_path, monkeypatch) -> BaseStore:
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "cache"))
    if request.param == "folder":
        yield create_store(f"folder:{tmp_path / 'store'}")
    else:
        with hub_server() as hub, connected(hub, tmp_path / "hf", TOKEN):
            monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "cache"))
            yield create_store("hub")


@pytest.fixture
def model(tmp_path) -> Path:
    return written(tmp_path / "model", FILES)


def named(store: BaseStore, revision: str | None = None, kind: str = "model") -> set[str]:
    """The repository's files, without those of the Hub itself."""
    return {entry.path for entry in store.files("acme/ring", kind, revision).entries} - {".gitattributes"}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_was_pushed_comes_back(store, model, tmp_path, kind):
    if kind == "dataset":
        (model / "state.safetensors").rename(model / "part.parquet")
    pushed = store.push(model, "acme/ring", kind, "First one")
    assert (pushed.repo_id, pushed.kind, pushed.removed) == ("acme/ring", kind, ())
    assert set(pushed.changed) == read(model).keys() and pushed.bytes_moved == sum(map(len, FILES.values()))
    pulled = store.pull("acme/ring", kind, out=tmp_path / "out")
    assert (pulled.folder, pulled.revision, pulled.notices) == (tmp_path / "out", pushed.revision, ())
    assert read(pulled.folder) == read(model)


def test_an_unchanged_folder_makes_no_commit(store, model):
    first = store.push(model, "acme/ring")
    again = store.push(model, "acme/ring", message="again")
    assert (again.revision, again.changed, again.removed, again.bytes_moved) == (first.revision, (), (), 0)


def test_only_what_differs_is_pushed_and_older_revisions_stay(store, model, tmp_path):
    first = store.push(model, "acme/ring")
    (model / "state.safetensors").write_bytes(bytes(range(255, -1, -1)) * 40)  # of the same size
    (model / "classifier/config.json").unlink()
    written(model, {"new.json": b"{}"})
    second = store.push(model, "acme/ring")
    assert (second.changed, second.removed) == (("new.json", "state.safetensors"), ("classifier/config.json",))
    assert second.bytes_moved == 256 * 40 + 2 and second.revision != first.revision
    assert named(store) == read(model).keys() and named(store, first.revision) == FILES.keys()
    for number, revision in enumerate([first.revision, first.revision[:10]]):
        pulled = store.pull("acme/ring", revision=revision, out=tmp_path / str(number))
        assert pulled.revision == first.revision and read(pulled.folder) == FILES
    for number, revision in enumerate([None, "main", second.revision]):
        assert read(store.pull("acme/ring", revision=revision, out=tmp_path / f"new{number}").folder) == read(model)
    back = store.push(store.pull("acme/ring", revision=first.revision).folder, "acme/ring")
    assert back.revision not in (first.revision, second.revision) and read(store.pull("acme/ring").folder) == FILES


def test_a_file_takes_the_place_of_a_folder(store, tmp_path):
    for number, name in enumerate(["a.json", "a.json/b.json", "a.json"]):
        store.push(written(tmp_path / str(number), {name: b"{}", "config.json": CONFIG}), "acme/ring")
        assert named(store) == {name, "config.json"}


def test_extra_files_join_or_replace(store, model):
    pushed = store.push(model, "acme/ring", extra={"README.md": CARD + b"more", "b/c.json": b"{}"})
    assert {"README.md", "b/c.json"} <= set(pushed.changed)
    assert read(store.pull("acme/ring").folder) == {**FILES, "README.md": CARD + b"more", "b/c.json": b"{}"}
    assert read(model) == FILES
    assert store.card("acme/ring")[1].encode() == CARD + b"more"


def test_a_pull_is_kept(store, model, monkeypatch):
    store.push(model, "acme/ring")
    first = store.pull("acme/ring")
    monkeypatch.setattr(type(store), "_fetch", None)
    assert store.pull("acme/ring") == first and first.folder.is_relative_to(os.environ["ANOMALYHUB_HOME"])


def test_kinds_are_apart(store, model):
    store.push(model, "acme/ring", "dataset")
    assert [info.kind for info in store.list("dataset")] == ["dataset"] and store.list() == []
    with pytest.raises(StoreError):
        store.pull("acme/ring")
    with pytest.raises(InvalidArgumentError, match="a space, which is code"):
        store.pull("acme/ring", "space")


def test_list(store, model):
    store.push(model, "acme/ring", message="one")
    nut = CARD.replace(b"ring", b"metal nut").replace(b"patchcore", b"musc")
    store.push(model, "acme/nut", extra={"README.md": nut})
    every = store.list()
    assert {info.repo_id for info in every} == {"acme/ring", "acme/nut"} and len(store.list(limit=1)) == 1
    (ring,) = store.list(product="ring", tag="patchcore")
    assert (ring.repo_id, ring.kind, ring.product, ring.private) == ("acme/ring", "model", "ring", False)
    assert {"anomalyhub", "patchcore"} <= set(ring.tags) and ring.revision == store.files("acme/ring").revision
    assert [info.product for info in store.list(tag="musc")] == ["metal nut"]
    assert store.list(product="rin") == store.list(tag="musc", product="ring") == store.list("dataset") == []


@pytest.mark.parametrize(
    ("repo_id", "revision", "message"),
    [
        ("acme/none", None, "acme/none"),
        ("acme/ring", "0" * 40, "revision"),
        ("acme/ring", "../../main", "revision"),
        ("acme/ring", "", "revision|acme/ring"),
        ("acme/ring", "x" * 5000, "revision"),
    ],
)
def test_what_is_not_there(store, model, repo_id, revision, message):
    store.push(model, "acme/ring")
    if revision == "" and store.spec == "hub":
        return  # the client takes it for none
    with pytest.raises(StoreError, match=message) as caught:
        store.pull(repo_id, revision=revision)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "repo_id", ["ring", "acme/ring/x", "../ring", "acme/..", "/ring", "acme/", "a\\b/c", "acme/ring\n", "C:/x", "a/con"]
)
def test_names_that_are_none(store, model, repo_id):
    for call in (store.pull, store.files, lambda repo_id: store.push(model, repo_id)):
        with pytest.raises(InvalidArgumentError, match="write OWNER/NAME"):
            call(repo_id)
    with pytest.raises(InvalidArgumentError, match="kind must be"):
        store.list("models")


def linked_out(folder):
    (folder / "link.json").symlink_to(folder.parent / "secret.json")


def linked_folder(folder):
    (folder / "more").symlink_to(folder.parent)


def piped(folder):
    os.mkfifo(folder / "pipe.json")


@pytest.mark.parametrize("plant", [linked_out, linked_folder, piped])
def test_what_is_not_pushed_at_all(store, model, plant):
    plant(model)
    with pytest.raises(InvalidArgumentError, match="link|regular file"):
        store.push(model, "acme/ring")
    with pytest.raises(StoreError):
        store.files("acme/ring")


def test_hidden_files_stay_here(store, model):
    written(model, {".secret": b"1", ".git/config": b"", "a/.anomalyhub-12/b.json": b"", ".DS_Store": b""})
    store.push(model, "acme/ring")
    assert named(store) == FILES.keys()


@pytest.mark.parametrize("folder", ["missing", "empty", "config.json"])
def test_no_folder_to_push(store, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.json").touch()
    with pytest.raises(InvalidArgumentError, match="give the --out folder of a run"):
        store.push(tmp_path / folder, "acme/ring")


def test_what_could_run_is_left_out(store, model, tmp_path):
    written(model, {"model.py": b"raise SystemExit", "model.bin": b"\x80\x04", "a/weights.pt": b"", "run.sh": b""})
    store.push(model, "acme/ring")
    pulled = store.pull("acme/ring")
    assert read(pulled.folder) == FILES
    (notice,) = pulled.notices
    assert "'a/weights.pt', 'model.bin', 'model.py' and 1 more" in notice and "nothing that could be run" in notice
    assert store.pull("acme/ring").notices == pulled.notices


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"schema": 99, "kind": "detector"}, "newer AnomalyHub"),
        ({"schema": 1, "kind": "spaceship"}, "of the kind 'spaceship'"),
        ([], "must hold a JSON object"),
        ({"schema": 1, "kind": "detector", "detector": "precomputed", "config": {"maps": "/maps"}}, "of the machine"),
    ],
)
def test_models_that_are_not_for_here(store, model, tmp_path, config, message):
    (model / "classifier/config.json").write_text(json.dumps(config))
    store.push(model, "acme/ring")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InvalidModelError, match=message):
        store.pull("acme/ring", out=tmp_path / "out" / "deep")
    made = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert made <= {"hf", "cache"}  # the client's, and ours, in which there is no model
    assert not [path for path in (tmp_path / "cache").rglob("config.json")]


def test_a_pull_replaces_only_when_asked(store, model, tmp_path):
    store.push(model, "acme/ring")
    out = written(tmp_path / "out", {"mine.txt": b"1"})
    with pytest.raises(OutputError, match="is not empty"):
        store.pull("acme/ring", out=out)
    assert read(out) == {"mine.txt": b"1"}
    assert read(store.pull("acme/ring", out=out, overwrite=True).folder) == FILES


def test_progress_rises(store, model):
    def watch(fraction, text):
        seen.append(fraction)
        assert isinstance(text, str) and 0.0 <= fraction <= 1.0

    seen: list[float] = []
    store.push(model, "acme/ring", progress=watch)
    assert seen == sorted(seen) and seen[-1] == 1.0
    seen.clear()
    store.pull("acme/ring", progress=watch)
    assert seen


def test_a_stopped_call_changes_nothing(store, model, tmp_path):
    def stop(fraction, text):
        if fraction > 0.5:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        store.push(model, "acme/ring", progress=stop)
    assert store._head("acme/ring", "model") is None or named(store) == set()
    store.push(model, "acme/ring")
    with pytest.raises(Cancelled):
        store.pull("acme/ring", out=tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".anomalyhub-*"))


def test_a_push_that_compared_with_an_older_state_is_refused(store, model):
    first = store._head("acme/ring", "model")
    store.push(model, "acme/ring")
    head = store._head("acme/ring", "model")
    store.push(model, "acme/ring", extra={"new.json": b"{}"})
    for parent in [head] + ([first] if store.spec != "hub" else []):
        with pytest.raises(StoreError, match="push again"):
            contents = {"config.json": CONFIG + b" "}
            store._commit("acme/ring", "model", contents, ["config.json"], [], parent, "late", None, lambda *_: None)
    assert named(store) == {*FILES, "new.json"}


@pytest.mark.parametrize("spec", ["", "folder:", "folder", "hub:x", "s3://bucket", "HUB"])
def test_unknown_stores(spec):
    with pytest.raises(InvalidArgumentError, match="write hub, or folder:PATH"):
        create_store(spec)


def test_a_store_stays_what_it_is(store):
    assert create_store(store) is store
    assert type(create_store(store.spec)) is type(store) and create_store(store.spec).spec == store.spec
