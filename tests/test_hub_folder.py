"""The store that is a plain folder: its layout, killed and concurrent pushes, and file systems that lack something."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from test_hub_contract import CARD, CONFIG, FILES, read, written

from anomalyhub.errors import InvalidArgumentError, OutputError, StoreError, UnsafeRepositoryError
from anomalyhub.hub import contents, create_store, folder
from anomalyhub.hub.folder import FolderStore


@pytest.fixture
def store(tmp_path, monkeypatch) -> FolderStore:
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "cache"))
    return create_store(f"folder:{tmp_path / 'store'}")


@pytest.fixture
def model(tmp_path) -> Path:
    return written(tmp_path / "model", FILES)


def home(store: FolderStore) -> Path:
    return Path(store.url("acme/ring", "model"))


def state(root: Path) -> dict[str, tuple]:
    """Everything that writing would change."""
    found = {}
    for path in [root, *root.rglob("*")]:
        status = os.lstat(path)
        found[str(path)] = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def test_people_find_the_files(store, model):
    first = store.push(model, "acme/ring", message="First\x1b[31m one\n")
    second = store.push(model, "acme/ring", "model", extra={"README.md": CARD + b"more"})
    assert first.url == str(store.root / "models/acme/ring")
    for revision, card in [(first.revision, CARD), (second.revision, CARD + b"more")]:
        assert re.fullmatch(r"[0-9a-f]{40}", revision)
        assert read(home(store) / "versions" / revision) == {**FILES, "README.md": card}
    assert {path.name for path in home(store).iterdir()} == {"main.json", "versions", ".lock"}
    main = json.loads((home(store) / "main.json").read_text())
    assert main == json.loads((home(store) / "versions" / f"{second.revision}.json").read_text())
    assert (main["revision"], main["parent"]) == (second.revision, first.revision)
    assert main["files"]["config.json"] == {"size": len(CONFIG), "sha256": hashlib.sha256(CONFIG).hexdigest()}
    assert json.loads((home(store) / "versions" / f"{first.revision}.json").read_text())["message"] == "First [31m one"


def test_what_did_not_change_is_there_once(store, model):
    first = home(store) / "versions" / store.push(model, "acme/ring").revision
    second = home(store) / "versions" / store.push(model, "acme/ring", extra={"new.json": b"{}"}).revision
    for name in FILES:
        assert os.path.samefile(first / name, second / name) and (second / name).stat().st_mode & 0o222 == 0
    assert not os.path.samefile(model / "config.json", first / "config.json")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP])
def test_a_file_system_without_links(store, model, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    first = store.push(model, "acme/ring").revision
    monkeypatch.setattr(os, "link", refuse)
    second = store.push(model, "acme/ring", extra={"new.json": b"{}"})
    assert second.changed == ("new.json",)
    assert read(store.pull("acme/ring").folder) == {**FILES, "new.json": b"{}"}
    shutil.rmtree(home(store) / "versions" / first)
    assert read(store.pull("acme/ring", revision=second.revision).folder) == {**FILES, "new.json": b"{}"}


def test_reading_writes_nothing_there(store, model, tmp_path):
    store.push(model, "acme/ring")
    before = state(store.root)
    store.pull("acme/ring")
    store.pull("acme/ring", out=tmp_path / "out")
    store.list()
    store.files("acme/ring")
    assert store.push(model, "acme/ring").changed == ()
    assert state(store.root) == before


def test_what_cannot_be_written(model):
    with pytest.raises(OutputError, match="cannot write /proc/anomalyhub"):
        create_store("folder:/proc/anomalyhub").push(model, "acme/ring")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_share(store, model):
    store.push(model, "acme/ring")
    for path in [*store.root.rglob("*"), store.root]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert read(store.pull("acme/ring").folder) == FILES
        with pytest.raises(OutputError, match="write access"):
            store.push(model, "acme/ring", extra={"new.json": b"{}"})
    finally:
        for path in [store.root, *store.root.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.parametrize("what", ["_store", "_tags"])
def test_a_full_disk(store, model, monkeypatch, what):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.push(model, "acme/ring")
    before = read(store.root)
    with monkeypatch.context() as patched:
        patched.setattr(folder, what, full)
        with pytest.raises(OutputError, match="No space left on device; free some space"):
            store.push(model, "acme/ring", extra={"new.json": b"{}"})
    assert read(store.root) == before
    assert store.push(model, "acme/ring", extra={"new.json": b"{}"}).changed == ("new.json",)


def test_a_file_that_changes_while_it_is_pushed(store, model, monkeypatch):
    def growing(file, write, size):
        with open(model / "state.safetensors", "ab") as grown:
            grown.write(b"more")
        return copied(file, write, size)

    copied = folder.copy_hashed
    monkeypatch.setattr(folder, "copy_hashed", growing)
    with pytest.raises(StoreError, match="state.safetensors changed while it was pushed: push again"):
        store.push(model, "acme/ring")
    assert store.list() == [] and store._head("acme/ring", "model") is None


def test_nothing_is_private(store, model):
    with pytest.raises(InvalidArgumentError, match="leave private out, and set the folder's permissions"):
        store.push(model, "acme/ring", private=True)
    assert not store.root.exists()
    assert store.push(model, "acme/ring", private=False).changed


def test_a_share_that_is_not_mounted(store):
    for call in (store.list, lambda: store.pull("acme/ring")):
        with pytest.raises(StoreError, match="is not there: check the path, or mount the share"):
            call()


def test_a_list_of_what_is_whole(store, model):
    store.push(model, "acme/ring")
    for number, text in enumerate(["", "[]", "{}", '{"revision": 3, "files": {}}', "[" * 10_000]):
        damaged = store.root / f"models/acme/damaged{number}"
        damaged.mkdir()
        (damaged / "main.json").write_text(text)
    for name in (".hidden/x", "a b/c", "acme/x y", "acme/empty"):
        (store.root / "models" / name).mkdir(parents=True)
        shutil.copy(home(store) / "main.json", store.root / "models" / name)
    (store.root / "models/acme/empty/main.json").unlink()
    (store.root / "models/file").touch()
    (info,) = store.list()
    assert info.repo_id == "acme/ring" and info.summary == "Push 6 files with AnomalyHub"
    assert info.size == sum(map(len, FILES.values()))


def test_a_revision_by_its_first_digits(store, model):
    first = store.push(model, "acme/ring").revision
    for other in (first[:6] + "f" * 34, first[:6] + "0" * 34):
        manifest = json.loads((home(store) / "main.json").read_text()) | {"revision": other}
        (home(store) / "versions" / f"{other}.json").write_text(json.dumps(manifest))
    assert store.pull("acme/ring", revision=first[:12]).revision == first
    with pytest.raises(StoreError, match=f"3 revisions that begin with '{first[:6]}'"):
        store.pull("acme/ring", revision=first[:6])
    for revision in (first[:3], first[:5] + "?", "*", first + "0"):
        with pytest.raises(StoreError, match="no revision"):
            store.pull("acme/ring", revision=revision)


def test_damage_is_seen_and_what_is_gone_is_pushed_again(store, model, tmp_path):
    revision = store.push(model, "acme/ring").revision
    stored = home(store) / "versions" / revision / "state.safetensors"
    stored.chmod(0o644)
    content = bytearray(stored.read_bytes())
    content[1000] ^= 1
    stored.write_bytes(content)
    with pytest.raises(UnsafeRepositoryError, match=r"'state.safetensors' is not what the repository says it is"):
        store.pull("acme/ring", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    stored.unlink()
    assert store.push(model, "acme/ring").changed == ("state.safetensors",)
    assert read(store.pull("acme/ring").folder) == FILES


def test_an_older_version_that_somebody_has_deleted(store, model):
    first = store.push(model, "acme/ring").revision
    store.push(model, "acme/ring", extra={"new.json": b"{}"})
    shutil.rmtree(home(store) / "versions" / first)
    with pytest.raises(UnsafeRepositoryError, match="cannot be read"):
        store.pull("acme/ring", revision=first)
    store.push(model, "acme/ring")
    assert read(store.pull("acme/ring").folder) == FILES


_KILLED = """
import itertools, os, signal, sys
from anomalyhub.hub import create_store
store, folder, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
count = itertools.count(1)
def look(event, arguments):  # before each file that is opened, made, linked, renamed or removed
    if event in ("open", "os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir", "fcntl.flock", "os.chmod"):
        if next(count) == after:
            os.kill(os.getpid(), signal.SIGKILL)
store = create_store(store)
import anomalyhub.hub.folder, anomalyhub.hub.front_matter, concurrent.futures.thread, yaml
sys.addaudithook(look)
store.push(folder, "acme/ring")
print(next(count) - 1)
"""


def push_in_a_process(store: FolderStore, folder: Path, after: int = -1) -> subprocess.CompletedProcess:
    """Push, and be killed just before the n-th step that changes or reads something."""
    command = [sys.executable, "-c", _KILLED, store.spec, str(folder), str(after)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("begun", [True, False])
def test_a_push_that_is_killed_leaves_the_repository_as_it_was_or_complete(tmp_path, store, begun):
    """At 20 points, drawn at random among all steps, and at the last ones."""
    old = {**FILES, **{f"images/{number}.png": b"%d" % number for number in range(12)}}
    new = {**old, "state.safetensors": b"other", "more.json": b"{}", "images/3.png": b"x"}
    del new["images/4.png"]
    written(tmp_path / "old", old), written(tmp_path / "new", new)
    if begun:
        store.push(tmp_path / "old", "acme/ring")
    kept = shutil.copytree(store.root, tmp_path / "kept") if begun else tmp_path / "kept"
    steps = int(push_in_a_process(store, tmp_path / "new").stdout)
    points = sorted(random.Random(5).sample(range(1, steps - 4), 16 if begun else 4))
    points += range(steps - 4, steps + 1)
    outcomes = []
    for number, point in enumerate(points):
        shutil.rmtree(store.root, ignore_errors=True)
        if begun:
            shutil.copytree(kept, store.root)
        killed = push_in_a_process(store, tmp_path / "new", point)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        head = store._head("acme/ring", "model") if store.root.exists() else None
        outcomes.append(None if head is None else head.by_path.keys() == new.keys())
        if head is None:
            assert not begun and (not store.root.exists() or store.list() == [])
        else:
            expected = new if outcomes[-1] else old
            assert begun or outcomes[-1]
            assert read(store.pull("acme/ring", out=tmp_path / f"out{number}").folder) == expected
        if begun:
            (first,) = FolderStore(kept).list()
            assert read(store.pull("acme/ring", revision=first.revision, out=tmp_path / f"first{number}").folder) == old
        store.push(tmp_path / "new", "acme/ring")
        assert read(store.pull("acme/ring", out=tmp_path / f"then{number}").folder) == new
        revisions = {store.files("acme/ring").revision} | ({first.revision} if begun else set())
        versions = {path.name for path in (home(store) / "versions").iterdir()}
        if outcomes[-1]:  # the next push had nothing to do, and so did not tidy up
            store.push(tmp_path / "old", "acme/ring")
            revisions.add(store.files("acme/ring").revision)
            versions = {path.name for path in (home(store) / "versions").iterdir()}
        assert versions == {*revisions, *(f"{one}.json" for one in revisions)}
        assert not list(store.root.rglob(".anomalyhub-*"))
    assert outcomes[0] is (False if begun else None) and outcomes[-1] is True


def test_pushes_at_the_same_time_follow_each_other(store, tmp_path):
    folders = [written(tmp_path / str(n), {**FILES, "which.json": b"%d" % n, f"{n}.json": b"{}"}) for n in range(4)]
    start, pushed = threading.Barrier(len(folders)), []

    def push(folder):
        start.wait()
        pushed.append(FolderStore(store.root).push(folder, "acme/ring"))

    threads = [threading.Thread(target=push, args=[folder]) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain = [store.files("acme/ring").revision]
    while parent := json.loads((home(store) / "versions" / f"{chain[-1]}.json").read_text())["parent"]:
        chain.append(parent)
    assert sorted(chain) == sorted(one.revision for one in pushed) and len(chain) == len(folders)
    by_revision = {one.revision: one for one in pushed}
    for newer, older in itertools.pairwise(chain):
        number = int((home(store) / "versions" / older / "which.json").read_bytes())
        assert by_revision[newer].removed == (f"{number}.json",)  # it has seen the one before
    for revision in chain:
        assert read(store.pull("acme/ring", revision=revision).folder).keys() > FILES.keys()


def test_two_processes_push_at_the_same_time(store, tmp_path):
    folders = [written(tmp_path / str(n), {**FILES, f"{n}.json": b"{}"}) for n in range(2)]
    command = [sys.executable, "-c", _KILLED, store.spec]
    pushing = [
        subprocess.Popen([*command, str(one), "-1"], stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
        for one in folders
    ]
    assert [process.wait() for process in pushing] == [0, 0]
    assert len(list((home(store) / "versions").glob("*.json"))) == 2
    last = read(store.pull("acme/ring").folder)
    assert last in [{**FILES, f"{n}.json": b"{}"} for n in range(2)]


def test_large_files(store, model, monkeypatch, tmp_path):
    """Their digest is worked out beside the copying, from buffers that are used again."""
    content = random.Random(3).randbytes(100_003)
    (model / "state.safetensors").write_bytes(content)
    monkeypatch.setattr(contents, "_LARGE", 50_000)
    monkeypatch.setattr(contents, "_CHUNK", 1000)
    revision = store.push(model, "acme/ring").revision
    assert store.files("acme/ring").by_path["state.safetensors"].sha256 == hashlib.sha256(content).hexdigest()
    assert read(store.pull("acme/ring").folder) == read(model)
    stored = home(store) / "versions" / revision / "state.safetensors"
    stored.chmod(0o644)
    for damaged in (content[:-1], content + b"x", content[:-1] + b"x"):
        stored.write_bytes(damaged)
        with pytest.raises(UnsafeRepositoryError, match="size or checksum"):
            store.pull("acme/ring", out=tmp_path / "out")


def test_work_goes_ahead_in_order_and_stops_when_it_is_left():
    done: list[int] = []

    def work(item):
        if item == 40:
            raise ZeroDivisionError
        time.sleep(0.001 * (item % 3))
        done.append(item)
        return -item

    assert list(contents.ahead(work, range(30))) == [-item for item in range(30)] and sorted(done) == list(range(30))
    assert list(contents.ahead(work, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(contents.ahead(work, range(10_000)))
    assert len(done) < 9000
    del done[:]
    with closing(contents.ahead(work, range(41, 10_000))) as results:
        assert next(results) == -41
    count = len(done)
    time.sleep(0.05)
    assert len(done) == count < 9000


def test_a_push_that_is_always_overtaken_gives_up(store, model, monkeypatch):
    def overtaken(*_):
        raise folder._OvertakenError("somebody else has pushed meanwhile: push again")

    monkeypatch.setattr(FolderStore, "_commit", overtaken)
    with pytest.raises(StoreError, match="push again"):
        store.push(model, "acme/ring")
