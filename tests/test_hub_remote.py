"""The Hub as a store: pushed and pulled through the real client, from a server on loopback that can misbehave."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_repos import git_oid
from hub_server import OTHER_TOKEN, READ_TOKEN, TOKEN, Fault, connected, hub_server

from anomalyhub.errors import Cancelled, InvalidArgumentError, StoreError, UnsafeRepositoryError
from anomalyhub.hub import create_store
from anomalyhub.hub.contents import Entry
from anomalyhub.hub.downloads import Count, bar_class
from anomalyhub.hub.remote import HubStore, Login

CONFIG = json.dumps({"schema": 1, "kind": "detector", "detector": "patchcore", "config": {}}).encode()
CARD = b"---\ntags: [anomalyhub, patchcore, 'product:ring']\nlicense: mit\n---\n# Ring\n"
SECONDS = 15  # for what must be said in seconds


def noise(rng, size: int) -> bytes:
    return rng.integers(0, 256, size, dtype="uint8").tobytes()


@pytest.fixture
def files(rng) -> dict[str, bytes]:
    """A model: small files that the Hub keeps in git, and two that it keeps by LFS."""
    large = {"state.safetensors": noise(rng, 300_000), "classifier/state.safetensors": noise(rng, 70_001)}
    return {"config.json": CONFIG, "README.md": CARD, "classifier/config.json": CONFIG, **large}


def written(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def read(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def model(tmp_path, files):
    return written(tmp_path / "model", files)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server, of which this process is a client, with a machine's login and an empty cache."""
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "cache"))
    with hub_server() as hub, connected(hub, tmp_path / "hf", TOKEN):
        yield hub


@pytest.fixture
def hasty(monkeypatch):
    """The client waits between its attempts; not here."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))


def asked(hub, start: int, text: str) -> list[str]:
    return [request for request in hub.requests[start:] if text in request]


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_push_is_one_commit_and_a_pull_gives_every_bit_back(hub, model, files, tmp_path, kind):
    hub.page, hub.part = 2, 100_000  # lists in pages, and the large file in three parts
    store = create_store("hub")
    pushed = store.push(model, "acme/ring", kind, "First one", private=True)
    repo = hub.repo("acme/ring", kind)
    assert hub.files("acme/ring", kind) == files
    assert repo.private and [commit.message for commit in repo.history(repo.head)] == ["First one", "initial commit"]
    assert (pushed.revision, pushed.removed) == (repo.head.id, ())
    assert pushed.url == f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}acme/ring"
    assert set(pushed.changed) == files.keys() and pushed.bytes_moved == sum(map(len, files.values()))
    assert asked(hub, 0, "/upload/") and {file.lfs for file in repo.head.files.values()} == {True, False}
    pulled = store.pull("acme/ring", kind)
    left = {name for name in files if kind == "dataset" and name.endswith(".safetensors")}  # are of no use there
    assert read(pulled.folder) == {name: content for name, content in files.items() if name not in left}
    assert pulled.revision == repo.head.id and bool(pulled.notices) == bool(left)
    assert read(store.pull("acme/ring", kind, out=tmp_path / "out").folder) == read(pulled.folder)
    assert store.card("acme/ring", kind)[1].encode() == CARD


def test_only_what_differs_is_sent_and_what_is_gone_is_removed(hub, model, files, rng):
    store = create_store("hub")
    first = store.push(model, "me/ring")
    received, commits = hub.received, len(hub.repo("me/ring").commits)
    again = store.push(model, "me/ring")
    assert again == type(again)("me/ring", "model", first.revision, first.url)
    assert (hub.received, len(hub.repo("me/ring").commits)) == (received, commits)  # no byte, no commit
    changed = {**files, "state.safetensors": noise(rng, 50_000), "new.json": b"{}"}
    del changed["classifier/config.json"]
    (model / "classifier/config.json").unlink()
    written(model, changed)
    second = store.push(model, "me/ring")
    assert (second.changed, second.removed) == (("new.json", "state.safetensors"), ("classifier/config.json",))
    assert 50_000 < hub.received - received < 55_000
    assert hub.files("me/ring") == changed and ".gitattributes" in hub.repo("me/ring").head.files
    assert hub.files("me/ring", revision=first.revision) == files


def test_a_file_takes_the_place_of_a_folder_and_back(hub, tmp_path):
    store = create_store("hub")
    for number, name in enumerate(["a", "a/b.json", "a"]):
        store.push(written(tmp_path / str(number), {name: b"{}", "config.json": CONFIG}), "me/ring")
        assert hub.files("me/ring") == {name: b"{}", "config.json": CONFIG}


def test_revisions(hub, model, files, tmp_path):
    from huggingface_hub import HfApi

    store = create_store("hub")
    first = store.push(model, "me/ring").revision
    HfApi().create_tag("me/ring", tag="v1.0")
    HfApi().create_branch("me/ring", branch="line/2")
    (model / "README.md").write_bytes(b"---\n---\nnewer\n")
    second = store.push(model, "me/ring").revision
    assert first != second
    for revision, expected in [(None, second), ("main", second), (first, first), (first[:9], first), ("v1.0", first)]:
        assert store.pull("me/ring", revision=revision).revision == expected
    assert read(store.pull("me/ring", revision="line/2", out=tmp_path / "out").folder) == files
    assert store.files("me/ring", revision="v1.0").by_path["config.json"].git_oid == git_oid(CONFIG)
    for revision in ("v2.0", "../../main", "0" * 40):
        with pytest.raises(StoreError, match="it has no such revision; give a branch, a tag or a commit's id"):
            store.pull("me/ring", revision=revision)


def test_list(hub, model):
    store, other = create_store("hub"), create_store("hub", OTHER_TOKEN)
    hub.add("model", "someone/else", {"README.md": b"---\ntags: [patchcore]\n---\n"})
    hub.add("model", "someone/odd", {"README.md": b"---\ntags: {anomalyhub: 3}\nself: 1\n---\n"})
    hub.page = 1
    store.push(model, "me/secret", private=True, extra={"README.md": CARD.replace(b"ring", b"metal nut")})
    store.push(model, "me/ring")
    store.push(model, "me/set", "dataset")
    assert [info.repo_id for info in store.list()] == ["me/ring", "me/secret"]
    (info,) = store.list(product="ring", tag="patchcore")
    assert info.tags[:3] == ("anomalyhub", "patchcore", "product:ring") and not info.private
    assert (info.kind, info.product, info.revision) == ("model", "ring", hub.repo("me/ring").head.id)
    assert abs(info.updated - time.time()) < 100 and info.size == 370_001
    assert [(info.repo_id, info.private) for info in store.list(product="metal nut")] == [("me/secret", True)]
    assert [info.repo_id for info in store.list("dataset")] == ["me/set"] and store.list("space") == []
    assert [info.repo_id for info in other.list()] == ["me/ring"] and store.list(tag="musc") == []
    assert len(store.list(limit=1)) == 1


def test_a_space_is_pushed_and_not_pulled(hub, tmp_path):
    store = create_store("hub")
    card = b"---\nsdk: gradio\nsdk_version: 6.31.0\n---\n"
    pushed = store.push(written(tmp_path / "space", {"README.md": card, "app.py": b"pass"}), "me/app", "space")
    assert hub.files("me/app", "space") == {"README.md": card, "app.py": b"pass"}
    assert pushed.url == f"{hub.url}/spaces/me/app"
    with pytest.raises(InvalidArgumentError, match="is a space, which is code"):
        store.pull("me/app", "space")


def test_who_is_logged_in(hub):
    assert create_store("hub").whoami() == Login("me", ("acme",), True)
    assert create_store("hub", READ_TOKEN).whoami() == Login("me", ("acme",), False)
    with pytest.raises(StoreError, match="nobody is logged in"):
        create_store("hub", False).whoami()
    for token in ("", "  ", "hf_a b", "hf_\u00e4", "hf_a\nhf_b"):
        with pytest.raises(InvalidArgumentError, match="the token is empty or has letters that no token has"):
            create_store("hub", token)


REFUSED = [  # token, what is done, on which repository, what is said
    (False, "push", "me/ring", "cannot push me/ring: nobody is logged in; log in with `hf auth login`"),
    (False, "push", "me/secret", "nobody is logged in"),
    (False, "pull", "me/secret", "no such repository that this login may read; check the name and the kind, or log in"),
    (OTHER_TOKEN, "pull", "me/secret", "no such repository that this login may read"),
    (OTHER_TOKEN, "push", "me/ring", "this login may not do that; use a token with the write role, and an owner"),
    (OTHER_TOKEN, "push", "me/secret", "this login may not do that"),
    (READ_TOKEN, "push", "me/ring", "this login may not do that"),
    (READ_TOKEN, "push", "me/new", "this login may not do that"),
    (TOKEN, "push", "someone/new", "this login may not do that"),
    ("hf_unknownUNKNOWN", "push", "me/ring", "the login is refused; log in again"),
    ("hf_unknownUNKNOWN", "pull", "me/ring", "the login is refused"),
    (TOKEN, "pull", "me/none", "cannot read model me/none: http.* has no such repository that this login may read"),
]


@pytest.mark.parametrize(("token", "what", "repo_id", "said"), REFUSED)
def test_who_may_do_what(hub, model, tmp_path, token, what, repo_id, said):
    hub.add("model", "me/ring", {"config.json": CONFIG})
    hub.add("model", "me/secret", {"config.json": CONFIG}, private=True)
    before = {repo.id: repo.head.id for repo in hub.repos.values()}
    store = create_store("hub", token)
    with pytest.raises(StoreError, match=said) as caught:
        store.push(model, repo_id) if what == "push" else store.pull(repo_id, out=tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    assert {repo.id: repo.head.id for repo in hub.repos.values()} == before and hub.blobs == {}


ANSWERS = [  # an answer that the Hub may give to a push, and what is said of it
    ("/commit/", 412, "A commit has happened since", "somebody else has changed it meanwhile; push again"),
    ("/repos/create", 409, "You already created it", "somebody else has changed it meanwhile; push again"),
    ("/commit/", 403, "Private repository storage limit reached", "too large for the account; .*storage limit"),
    ("/preupload/", 413, "", "it is too large for the account; free some space"),
    ("/batch", 402, "", "has no room for it, or needs another plan"),
    ("/preupload/", 429, "", "too many requests in a short time; wait some minutes"),
    ("/upload/", 500, "", r"is in trouble \(500\); try again later"),
    ("/validate-yaml", 400, "", "Invalid metadata in README.md"),
    ("/commit/", 400, "Your push was rejected", "Your push was rejected; put that right"),
]


@pytest.mark.parametrize(("match", "status", "message", "said"), ANSWERS)
def test_answers_to_a_push(hub, hasty, model, match, status, message, said):
    hub.faults.append(Fault(match, status=status, message=message))
    with pytest.raises(StoreError, match=f"^cannot push me/ring: .*{said}") as caught:
        create_store("hub").push(model, "me/ring")
    assert "\n" not in str(caught.value)
    assert not hub.repos or hub.files("me/ring") == {}


def test_nothing_private_gets_into_a_public_repository(hub, model):
    hub.add("model", "me/ring", {"config.json": b"{}"})
    with pytest.raises(StoreError, match="me/ring on .* is public, and nothing was pushed"):
        create_store("hub").push(model, "me/ring", private=True)
    assert hub.files("me/ring") == {"config.json": b"{}"} and hub.blobs == {}


def test_somebody_else_pushes_meanwhile(hub, model, files):
    hub.add("model", "me/ring", {"config.json": CONFIG})
    theirs = {"config.json": CONFIG, "theirs.json": b"{}"}
    hub.faults.append(Fault("/preupload/", act=lambda: hub.add("model", "me/ring", theirs), times=1))
    store = create_store("hub")
    with pytest.raises(StoreError, match="somebody else has changed it meanwhile; push again"):
        store.push(model, "me/ring")
    assert hub.files("me/ring") == theirs
    received = hub.received
    assert store.push(model, "me/ring").removed == ("theirs.json",)
    assert hub.files("me/ring") == files and hub.received - received < 10_000  # the large files are there already


def test_a_connection_that_breaks_in_an_upload_goes_on(hub, hasty, model, files):
    hub.faults.append(Fault("PUT /upload", cut_upload=100_000, times=1))
    create_store("hub").push(model, "me/ring")
    assert hub.files("me/ring") == files and len(asked(hub, 0, "PUT /upload")) == 3


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        (Fault("PUT /upload", cut_upload=60_000), False),
        (Fault("/preupload/", cut_upload=40), False),
        (Fault("POST /api/models/me/ring/commit", cut_upload=200), False),
        (Fault("POST /api/models/me/ring/commit", cut=0), True),  # it was done, and nobody was told
        (Fault("POST /verify", hang=True, times=0), True),
    ],
)
def test_a_push_whose_connection_breaks_is_all_or_nothing(hub, hasty, model, files, fault, done):
    hub.add("model", "me/ring", {"old.json": b"{}"})
    hub.faults.append(fault)
    store = create_store("hub")
    if fault.times != 0:
        with pytest.raises(StoreError, match="cannot push me/ring: the connection to http.* broke .*; try again"):
            store.push(model, "me/ring")
        assert hub.files("me/ring") == (files if done else {"old.json": b"{}"})
    hub.faults.clear()
    assert (store.push(model, "me/ring").changed == ()) == (done and fault.times != 0)
    assert hub.files("me/ring") == files


def test_a_connection_that_breaks_in_a_download_goes_on_where_it_was(hub, hasty, files, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what has come is kept by chunks of 10 MB
    hub.add("model", "me/ring", files)
    hub.faults.append(Fault("GET /cdn", cut=50_000, times=4))
    pulled = create_store("hub").pull("me/ring")
    assert read(pulled.folder) == files
    assert any("range: bytes=50000-" in headers.lower() for headers in hub.headers)
    assert hub.sent < sum(map(len, files.values())) + 20_000  # no part came twice


def test_a_pull_that_fails_leaves_nothing_and_the_next_fetches_the_rest(hub, hasty, files, tmp_path):
    hub.add("model", "me/ring", files)
    hub.faults.append(Fault("/classifier/state.safetensors", cut=0))
    store = create_store("hub")
    with pytest.raises(StoreError, match="cannot pull 'classifier/state.safetensors' of me/ring: the connection to"):
        store.pull("me/ring", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    hub.faults.clear()
    start = len(hub.requests)
    assert read(store.pull("me/ring", out=tmp_path / "out").folder) == files
    assert len(asked(hub, start, "GET /cdn")) == 1


def test_a_pull_is_cancelled(hub, model, tmp_path):
    store = create_store("hub")
    store.push(model, "me/ring")

    def stop(fraction, text):
        raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        store.pull("me/ring", out=tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
    with pytest.raises(Cancelled, match="enough"):
        store.push(model, "me/other", progress=stop)
    assert ("model", "me/other") not in hub.repos


def test_progress_rises_to_one(hub, model, tmp_path):
    store, told = create_store("hub"), []
    store.push(model, "me/ring", progress=lambda fraction, text: told.append((fraction, text)))
    assert told[-1] == (1.0, "pushed 5 files") and [fraction for fraction, _ in told] == sorted(f for f, _ in told)
    told.clear()
    store.pull("me/ring", progress=lambda fraction, text: told.append((fraction, text)))
    assert told[-1] == (1.0, "pulled 5 of 5 files") and all(0 <= fraction <= 1 for fraction, _ in told)


def test_what_was_pulled_is_pulled_again_without_a_connection(tmp_path, monkeypatch, files):
    from huggingface_hub import constants

    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "cache"))
    with hub_server() as hub:
        hub.add("model", "me/ring", files)
        hub.add("model", "me/other", files)
        first = hub.repo("me/ring").head.id
        with connected(hub, tmp_path / "hf", TOKEN):
            create_store("hub").pull("me/ring")
            create_store("hub").files("me/other")  # seen, and nothing of it fetched
            hub.add("model", "me/ring", {"README.md": b"newer"})
            with monkeypatch.context() as patch:
                patch.setattr(constants, "HF_HUB_OFFLINE", True)
                start = len(hub.requests)
                assert read(create_store("hub").pull("me/ring").folder) == files
                assert read(create_store("hub").pull("me/ring", revision=first, out=tmp_path / "a").folder) == files
                for repo_id in ("me/other", "me/none"):
                    with pytest.raises(StoreError, match="HF_HUB_OFFLINE is set; unset it on a connected machine"):
                        create_store("hub").pull(repo_id)
                with pytest.raises(StoreError, match="HF_HUB_OFFLINE"):
                    create_store("hub").list()
                assert len(hub.requests) == start
            for token in (TOKEN, False):  # a visitor of the app gets nothing that another one has fetched
                hub.faults[:] = [Fault(status=503)]
                with pytest.raises(StoreError, match=r"is in trouble \(503\); try again later"):
                    create_store("hub", token).pull("me/ring")
            url = hub.url
    with connected(url, tmp_path / "hf", TOKEN):  # the server is gone
        start = time.monotonic()
        assert read(create_store("hub").pull("me/ring", out=tmp_path / "b").folder) == files
        with pytest.raises(StoreError, match=f"cannot read model me/none: {url} cannot be reached; check the conn"):
            create_store("hub").pull("me/none")
        with pytest.raises(StoreError, match="cannot push me/ring: .* cannot be reached"):
            create_store("hub").push(tmp_path / "b", "me/ring")
        assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ("HEAD", "cannot be reached"),
        ("/tree/", "the connection to .* broke .no answer within 1 seconds"),
        ("expand", ""),
    ],
)
def test_a_server_that_does_not_answer(hub, files, monkeypatch, match, said):
    monkeypatch.setattr("anomalyhub.hub.reach.CONNECT_SECONDS", 1.0)
    monkeypatch.setattr("anomalyhub.hub.remote._TREE_SECONDS", 1.0)
    hub.add("model", "me/ring", files)
    hub.faults.append(Fault(match, hang=True))
    start = time.monotonic()
    with pytest.raises(StoreError, match=f"cannot read model me/ring: .*{said}"):
        create_store("hub").pull("me/ring")
    assert time.monotonic() - start < SECONDS


def test_a_damaged_cache_is_mended(hub, files, tmp_path):
    hub.add("model", "me/ring", files)
    store = create_store("hub")
    store.pull("me/ring", out=tmp_path / "first")
    for blob in (tmp_path / "hf" / "hub").rglob("blobs/*"):
        blob.write_bytes(b"?" * blob.stat().st_size)
    assert read(store.pull("me/ring", out=tmp_path / "second").folder) == files


def lfs(size, oid="0" * 64):
    return {"lfs": {"oid": oid, "size": size, "pointerSize": 134}, "size": size}


DISHONEST = [  # what the tree says of state.safetensors, and what the pull says of it
    (lfs(300_000), "is not what the repository says it is"),
    (lfs(10), "has more than the 10 bytes that the repository says"),
    (lfs(300_001), "its length is not what it is said to be"),
    (lfs(10**15), "is said to have"),
    (lfs(-1), "is said to have"),
    (lfs("many"), "is said to have"),
    ({"lfs": {}}, r"lists its files in a form that is none \(KeyError\)"),
    ({"path": "../../state.safetensors"}, "climbs out of its folder"),
    ({"path": None}, "whose name is empty|lists its files"),
]


@pytest.mark.parametrize(("said", "message"), DISHONEST)
def test_a_repository_that_lies_is_refused(hub, hasty, files, tmp_path, said, message):
    hub.add("model", "me/ring", files).said["state.safetensors"] = said
    before = read(tmp_path)
    with pytest.raises((StoreError, UnsafeRepositoryError), match=message) as caught:
        create_store("hub").pull("me/ring", out=tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    new = read(tmp_path).keys() - before.keys()
    assert all(name.startswith(("hf/", "cache/")) for name in new), new


def test_a_revision_that_is_no_commit_is_refused(hub, files, tmp_path):
    repo = hub.add("model", "me/ring", files)
    repo.commits["../../../up"] = replace(repo.head, id="../../../up")
    repo.branches["main"] = "../../../up"
    with pytest.raises(UnsafeRepositoryError, match="is at '../../../up', which is no commit's id"):
        create_store("hub").pull("me/ring")
    assert not (tmp_path / "cache").exists()


def test_no_login_gets_to_where_the_large_files_are(hub, model):
    create_store("hub").push(model, "me/ring", private=True)
    create_store("hub").pull("me/ring")
    pairs = list(zip(hub.requests, hub.headers, strict=True))
    elsewhere = [headers for request, headers in pairs if re.search(r" /(upload|cdn)/", request)]
    assert len(elsewhere) == 4 and not any("authorization" in headers.lower() for headers in elsewhere)
    assert sum("authorization" in headers.lower() for _, headers in pairs) > 10


def test_the_endpoint_can_be_given(hub, model):
    store = HubStore(TOKEN, hub.url)
    assert (store.endpoint, store.spec) == (hub.url, "hub")
    store.push(model, "me/ring")
    assert [info.repo_id for info in store.list()] == ["me/ring"]


def test_a_server_in_a_process_of_its_own(tmp_path, model, files):
    (tmp_path / "models" / "me").mkdir(parents=True)
    (tmp_path / "model").rename(tmp_path / "models" / "me" / "ring")
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py")), "--root", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            with connected(url, tmp_path / "hf"):
                assert read(create_store("hub").pull("me/ring", out=tmp_path / "out").folder) == files
        finally:
            process.kill()


def test_bytes_of_the_network_are_not_taken_for_those_of_the_file():
    """Where the Hub keeps a file by Xet, the client reports both; more may come than the file has."""
    reporting = pytest.importorskip("huggingface_hub.utils._xet_progress_reporting")
    count = Count()
    bar = bar_class(Entry("state.safetensors", 100), count)
    with reporting.XetDownloadProgressReporter(
        reconstruction_desc="", total=100, log_level=0, tqdm_class=bar
    ) as reporter:
        told = {"total_bytes": 100, "total_bytes_completion_rate": 1.0, "total_transfer_bytes_completion_rate": 1.0}
        reporter.update_progress(SimpleNamespace(total_bytes_completed=60, total_transfer_bytes_completed=500, **told))
        reporter.update_progress(SimpleNamespace(total_bytes_completed=100, total_transfer_bytes_completed=900, **told))
    assert count.value == 100
