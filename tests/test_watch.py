"""`anomalyhub watch`: every image of a folder gets its result once, whatever happens meanwhile."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from core_helpers import normals, photo, tiny_backbone, tiny_vit
from PIL import Image

from anomalyhub import cli
from anomalyhub.detection import create_detector
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidImageError, OutputError
from anomalyhub.locks import is_locked
from anomalyhub.pipeline import Inspector
from anomalyhub.pipeline import watch as module
from anomalyhub.pipeline.watch import WatchConfig, folder_digest, watch
from anomalyhub.report import beside
from anomalyhub.report.beside import COLUMNS, OVERLAY, RESULT, Results

TESTS = Path(__file__).parent
QUICK = {"settle": 0.0, "poll": 0.01}
ONCE = WatchConfig(**QUICK, once=True)


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    """One that tells the photos with defects from those without."""
    fitted = Inspector.fit("patchcore", normals(8), backbone="embedded")
    good, bad = ([one.score for one in fitted.inspect([photo(n, defect=d) for n in range(12)])] for d in (False, True))
    assert max(good) < min(bad)
    return fitted.with_threshold((max(good) + min(bad)) / 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder that needs no weights but the package's own."""
    folder = tmp_path_factory.mktemp("watch") / "model"
    Inspector.fit("patchcore", normals(6), backbone="embedded").save(folder)
    return folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.05)


@pytest.fixture
def line(tmp_path) -> Path:
    folder = tmp_path / "line"
    folder.mkdir()
    return folder


def deliver(folder: Path, name: str, seed: int = 0, defect: bool = False) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(seed, defect=defect).image).save(path.with_name(f".{path.name}"), format="PNG")
    path.with_name(f".{path.name}").rename(path)
    return path


def result(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}{RESULT}").read_text())


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        assert tuple(reader.fieldnames) == COLUMNS
        return list(reader)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def watching(inspector, folder, **options):
    """A watcher in a thread; yields what it has found, by name, and what it has said."""
    stop, said, found, failed = threading.Event(), [], [], []
    options = {
        "config": WatchConfig(**QUICK),
        "found": lambda name, _: found.append(name),
        "say": said.append,
    } | options

    def run() -> None:
        try:
            watch(inspector, folder, stop=stop, **options)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield SimpleNamespace(found=found, said=said, failed=failed, thread=thread)
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def until(holds, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------------- results


def test_results_are_those_of_the_inspector(inspector, line):
    for number in range(11):  # more than one batch
        deliver(line, f"{number:02}.png", number, defect=number % 2 == 1)
    before = content(line)
    assert watch(inspector, line, config=ONCE, model="models/ring") == 11
    samples = [photo(number, defect=number % 2 == 1) for number in range(11)]
    expected = list(inspector.inspect(samples))
    assert [one.is_anomalous for one in expected] == [number % 2 == 1 for number in range(11)]
    for number, (one, row) in enumerate(zip(expected, rows(line), strict=True)):
        name = f"{number:02}.png"
        stored = result(line, name)
        assert stored["verdict"] == ("defective" if one.is_anomalous else "normal") == row["verdict"]
        assert stored["score"] == pytest.approx(one.score, rel=1e-5) and row["score"] == f"{stored['score']:.6g}"
        assert stored["p_value"] == pytest.approx(one.p_value) and stored["threshold"] == inspector.threshold
        assert [tuple(region["box"]) for region in stored["regions"]] == [region.box for region in one.regions]
        assert [region["area"] for region in stored["regions"]] == [region.area_px for region in one.regions]
        assert stored["kind"] == ("anomalous" if one.is_anomalous else None) and row["n_regions"] == str(
            len(one.regions)
        )
        assert (stored["width"], stored["height"], stored["error"]) == (52, 36, None)
        assert stored["model"]["name"] == "ring" and stored["model"]["detector"] == "patchcore"
        assert (row["path"], row["inspected"], row["error"]) == (name, stored["inspected"], "")
        assert (line / f"{name}{OVERLAY}").exists() == one.is_anomalous == bool(stored["overlay"])
        if one.is_anomalous:
            overlay = np.asarray(Image.open(line / stored["overlay"]))
            assert overlay.shape == (36, 52, 3) and not np.allclose(overlay, samples[number].image, atol=60)
    after = content(line)
    assert {name: after[name] for name in before} == before  # the images stay as they were


def test_only_images_of_the_folder_count(inspector, line):
    deliver(line, "a.PNG")
    deliver(line, "below/b.png")
    deliver(line, ".hidden.png")
    (line / "notes.txt").write_text("x")
    (line / "folder.png").mkdir()
    os.mkfifo(line / "pipe.png")
    assert watch(inspector, line, config=ONCE) == 1
    recursive = WatchConfig(**QUICK, once=True, recursive=True)
    assert watch(inspector, line, config=recursive) == 1  # not the pictures of the first
    assert [row["path"] for row in rows(line)] == ["a.PNG", "below/b.png"]
    assert watch(inspector, line, line / "out", recursive) == 2  # the results lie in the folder, and are no images
    assert watch(inspector, line, line / "out", recursive) == 0


def test_results_elsewhere_leave_the_folder_alone(inspector, line, tmp_path):
    deliver(line, "below/b.png", 3, defect=True)
    before = content(line)
    config = WatchConfig(**QUICK, once=True, recursive=True, overlays=False)
    watch(inspector, line, tmp_path / "new/out", config)
    assert content(line) == before
    assert set(content(tmp_path / "new/out")) == {"results.csv", f"below/b.png{RESULT}", ".anomalyhub-watch.lock"}


def test_what_is_done_is_not_done_again(inspector, line):
    deliver(line, "a.png")
    watch(inspector, line, config=ONCE)
    former = content(line)
    assert watch(inspector, line, config=ONCE) == 0
    assert content(line) == former
    deliver(line, "b.png")
    assert watch(inspector, line, config=ONCE) == 1


def test_an_overwritten_image_is_done_again(inspector, line):
    deliver(line, "a.png", 1, defect=True)
    watch(inspector, line, config=ONCE)
    assert result(line, "a.png")["verdict"] == "defective"
    deliver(line, "a.png", 1)
    assert watch(inspector, line, config=ONCE) == 1
    assert result(line, "a.png")["verdict"] == "normal" and not (line / f"a.png{OVERLAY}").exists()
    assert [row["verdict"] for row in rows(line)] == ["defective", "normal"]


def test_names_that_are_not_text_or_formulas(inspector, line):
    names = ["=cmd.png", "a\nb.png", "ü.png", os.fsdecode(b"\xff.png")]
    for name in names:
        deliver(line, name)
    assert watch(inspector, line, config=ONCE) == len(names)
    assert watch(inspector, line, config=ONCE) == 0
    lines = (line / "results.csv").read_bytes().splitlines()
    assert sorted(line.split(b",")[0] for line in lines[1:]) == [
        b"./=cmd.png",
        b"a?b.png",
        b"\xc3\xbc.png",
        b"\xff.png",
    ]


# ------------------------------------------------------------------------------------------------ as they appear


def test_images_that_appear_are_found(inspector, line):
    with watching(inspector, line) as watcher:
        for number in range(4):
            deliver(line, f"{number}.png", number)
            until(lambda number=number: (line / f"{number}.png{RESULT}").exists())
        assert watcher.found == [f"{number}.png" for number in range(4)]
    assert len(rows(line)) == 4


def test_the_camera_overwrites_an_image_while_watched(inspector, line, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_FULL_LOOKS", 0.05)
    with watching(inspector, line) as watcher:
        deliver(line, "a.png", 1)
        until(lambda: len(watcher.found) == 1)
        deliver(line, "a.png", 2, defect=True)
        until(lambda: len(watcher.found) == 2)
    assert result(line, "a.png")["image"]["bytes"] == (line / "a.png").stat().st_size


def test_a_look_asks_only_for_what_is_new(inspector, line, monkeypatch):
    for number in range(30):
        deliver(line, f"{number}.png")
    watch(inspector, line, config=ONCE)
    asked = []
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_FULL_LOOKS", 600.0)
    plain = module._Watcher._identity
    monkeypatch.setattr(module._Watcher, "_identity", lambda self, name: asked.append(name) or plain(self, name))
    with watching(inspector, line) as watcher:
        until(lambda: len(asked) >= 30)  # the first look
        time.sleep(0.1)
        deliver(line, "new.png")
        until(lambda: watcher.found == ["new.png"])
    assert Counter(asked)["0.png"] == 1 and set(asked[30:]) == {"new.png"}


@pytest.mark.parametrize("pause", [0.1, 1.2])  # shorter than it takes to settle, and longer
def test_a_half_written_file_is_waited_for(inspector, line, tmp_path, pause):
    data = deliver(tmp_path, "whole.png").read_bytes()
    with watching(inspector, line, config=WatchConfig(settle=0.4, poll=0.02)) as watcher:
        with open(line / "a.png", "wb") as file:
            file.write(data[:500])
            file.flush()
            time.sleep(pause)
            assert not watcher.found
            file.write(data[500:])
        until(lambda: watcher.found)
    assert [row["verdict"] for row in rows(line)] == ["normal"]


def test_a_damaged_file_gets_an_error_and_another_look_when_it_changes(inspector, line):
    (line / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing else")
    (line / "empty.png").touch()
    deliver(line, "b.png")
    config = WatchConfig(**QUICK, tries=2, once=True)
    assert watch(inspector, line, config=config) == 3
    assert result(line, "a.png")["verdict"] is None and "a.png is" in result(line, "a.png")["error"]
    assert str(line) not in result(line, "a.png")["error"] and "is empty" in result(line, "empty.png")["error"]
    assert watch(inspector, line, config=config) == 0
    deliver(line, "a.png")
    assert watch(inspector, line, config=config) == 1
    assert [row["verdict"] for row in rows(line) if row["path"] == "a.png"] == ["", "normal"]


def test_a_file_that_vanishes_is_forgotten(inspector, line, monkeypatch):
    deliver(line, "a.png")
    deliver(line, "b.png")
    plain = module.read_image

    def read(path):
        (line / "a.png").unlink(missing_ok=True)
        return plain(path)

    monkeypatch.setattr(module, "read_image", read)
    assert watch(inspector, line, config=ONCE) == 1
    assert [row["path"] for row in rows(line)] == ["b.png"]


def test_a_file_that_changes_while_it_is_read_waits_again(inspector, line, monkeypatch):
    path = deliver(line, "a.png", 1)
    plain, reads = module.read_image, []

    def read(path):
        image = plain(path)
        reads.append(path)
        if len(reads) == 1:
            deliver(line, "a.png", 2, defect=True)
        return image

    monkeypatch.setattr(module, "read_image", read)
    assert watch(inspector, line, config=ONCE) == 1
    assert len(reads) == 2 and result(line, "a.png")["image"]["bytes"] == path.stat().st_size


# ------------------------------------------------------------------------------------------------------- trouble


def broken(errno: int, name: str) -> InvalidImageError:
    error = InvalidImageError(f"{name} cannot be read, {os.strerror(errno)}: check the disk")
    error.__cause__ = OSError(errno, os.strerror(errno))
    return error


def test_a_share_that_fails_is_not_the_images_fault(inspector, line, monkeypatch):
    deliver(line, "a.png")
    plain, reads = module.read_image, []

    def read(path):
        reads.append(path)
        if len(reads) < 4:
            raise broken(5, str(path))
        return plain(path)

    monkeypatch.setattr(module, "read_image", read)
    with watching(inspector, line, config=WatchConfig(**QUICK, tries=1)) as watcher:
        until(lambda: watcher.found)
    assert result(line, "a.png")["verdict"] == "normal"
    assert len(watcher.said) == 1 and "tried again" in watcher.said[0]


def test_once_says_what_could_not_be_opened(inspector, line, monkeypatch):
    deliver(line, "a.png")
    deliver(line, "b.png")
    plain = module.read_image

    def read(path):
        if path.name == "a.png":
            raise broken(13, str(path))
        return plain(path)

    monkeypatch.setattr(module, "read_image", read)
    with pytest.raises(InvalidImageError, match="1 files could not be opened, to begin with .*a.png cannot be read"):
        watch(inspector, line, config=WatchConfig(**QUICK, once=True, tries=1))
    assert [row["path"] for row in rows(line)] == ["b.png"]


def test_a_folder_that_is_away_for_a_while(inspector, line, monkeypatch):
    deliver(line, "a.png")
    with watching(inspector, line) as watcher:
        until(lambda: len(watcher.found) == 1)
        plain, away = os.scandir, threading.Event()

        def scandir(path):
            if away.is_set():
                raise OSError(116, "Stale file handle")
            return plain(path)

        away.set()
        monkeypatch.setattr(os, "scandir", scandir)
        until(lambda: watcher.said)
        deliver(line, "b.png")
        away.clear()
        until(lambda: len(watcher.found) == 2)
    assert watcher.found == ["a.png", "b.png"]
    assert [text.partition(" ")[2] for text in watcher.said] == [
        "cannot be read (Stale file handle): waiting until it is back",
        "is back",
    ]


def test_a_folder_that_is_replaced_is_not_made_again_meanwhile(inspector, line):
    deliver(line, "a.png")
    with watching(inspector, line) as watcher:
        until(lambda: len(watcher.found) == 1)
        line.rename(line.with_name("away"))
        until(lambda: watcher.said)
        assert not line.exists()
        line.with_name("away").rename(line)
        deliver(line, "b.png")
        until(lambda: len(watcher.found) == 2)
    assert watcher.found == ["a.png", "b.png"] and len(rows(line)) == 2


def test_a_full_disk_is_waited_for(inspector, line, monkeypatch):
    plain, tried = Results.write, []

    def write(self, *arguments):
        tried.append(arguments[0])
        if len(tried) < 3:
            raise OutputError("cannot write: No space left on device; free some space")
        plain(self, *arguments)

    monkeypatch.setattr(Results, "write", write)
    deliver(line, "a.png")
    with watching(inspector, line) as watcher:
        until(lambda: watcher.found)
    assert watcher.found == ["a.png"] and tried == ["a.png"] * 3
    assert [text.partition(";")[0] for text in watcher.said] == [
        "cannot write: No space left on device",
        "results can be written again",
    ]
    tried.clear()
    deliver(line, "b.png")
    with pytest.raises(OutputError, match="No space left"):
        watch(inspector, line, config=ONCE)


def test_a_table_that_is_held_open_elsewhere(inspector, line, monkeypatch):
    plain, held = beside.os.open, threading.Event()

    def opening(path, *arguments, **options):
        if held.is_set() and Path(path).name == "results.csv":
            raise PermissionError(13, "Permission denied")
        return plain(path, *arguments, **options)

    monkeypatch.setattr(beside.os, "open", opening)
    monkeypatch.setattr(beside, "_MAX_WAITING", 2)
    deliver(line, "0.png")
    with watching(inspector, line) as watcher:
        until(lambda: len(watcher.found) == 1)
        held.set()
        for number in range(1, 6):  # more than may wait
            deliver(line, f"{number}.png", number)
        until(lambda: len(watcher.found) == 6)
        held.clear()
        deliver(line, "6.png")
        until(lambda: len(watcher.found) == 7)
    assert sorted(row["path"] for row in rows(line)) == [f"{number}.png" for number in range(7)]
    assert len(watcher.said) == 2 and "close it elsewhere" in watcher.said[0]


class Failing:
    """An inspector that fails, in a way nobody foresaw, for images of which `fails` holds."""

    def __init__(self, inspector, fails):
        self.inspector, self.fails = inspector, fails

    def __getattr__(self, name):
        return getattr(self.inspector, name)

    def inspect(self, samples):
        for sample in samples:
            if self.fails(sample):
                raise RuntimeError("device-side assert")
        return self.inspector.inspect(samples)


def test_an_image_that_breaks_the_model_gets_an_error(inspector, line):
    for number in range(5):
        deliver(line, f"{number}.png", number)
    assert watch(Failing(inspector, lambda sample: sample.id == "1.png"), line, config=ONCE) == 5
    assert result(line, "1.png")["error"] == "unexpected RuntimeError: device-side assert"
    assert [row["verdict"] for row in rows(line)].count("normal") == 4


def test_an_image_that_failed_once_and_then_not_has_its_verdict(inspector, line, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.01)
    deliver(line, "0.png")
    failures = iter([True])
    with watching(Failing(inspector, lambda _: next(failures, False)), line):
        until(lambda: (line / f"0.png{RESULT}").exists())
    assert result(line, "0.png")["error"] is None and result(line, "0.png")["verdict"] == "normal"
    assert len(rows(line)) == 1


@pytest.mark.parametrize("count", [1, 5])
def test_a_broken_model_is_not_the_images_fault(inspector, line, count):
    for number in range(count):
        deliver(line, f"{number}.png", number)
    with pytest.raises(RuntimeError, match="device-side"):
        watch(Failing(inspector, lambda _: True), line, config=ONCE)
    assert not list(line.glob(f"*{RESULT}"))
    assert watch(inspector, line, config=ONCE) == count


# ------------------------------------------------------------------------------------------------------ restarts


def test_the_table_is_brought_up_to_date(inspector, line):
    for number in range(4):
        deliver(line, f"{number}.png", number)
    watch(inspector, line, config=ONCE)
    table, whole = line / "results.csv", (line / "results.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    changes = {
        "deleted": None,
        "emptied": b"",
        "half a row": whole[:-7],
        "only half a header": lines[0][:10],
        "rows missing": lines[0] + lines[2],
        "edited": b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"),
    }
    for what, data in changes.items():
        table.unlink() if data is None else table.write_bytes(data)
        assert watch(inspector, line, config=ONCE) == 0, what
        text = table.read_text(encoding="utf-8-sig")
        assert sorted(text.splitlines()[1:]) == sorted(whole.decode().splitlines()[1:]), what
    assert not list(line.glob(".anomalyhub-?????????????"))


def test_a_process_that_ends_between_result_and_row(inspector, line, monkeypatch):
    deliver(line, "a.png", 1, defect=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Results, "tell", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        watch(inspector, line, config=ONCE)
    assert (line / f"a.png{RESULT}").exists() and not (line / "results.csv").exists()
    (line / "a.png").unlink()  # the camera's own clean-up
    assert watch(inspector, line, config=ONCE) == 0
    assert [row["path"] for row in rows(line)] == ["a.png"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"image": 1}', b'{"image": {"bytes": 1}}', b"\xff\x00"])
def test_a_damaged_result_is_made_again(inspector, line, damage):
    deliver(line, "a.png")
    watch(inspector, line, config=ONCE)
    (line / f"a.png{RESULT}").write_bytes(damage)
    assert watch(inspector, line, config=ONCE) == 1
    assert result(line, "a.png")["verdict"] == "normal"


def test_leftovers_of_a_killed_process_are_removed(inspector, line):
    for name in (".anomalyhub-0123456789ab.json", ".anomalyhub-0123456789ab.jpg", ".anomalyhub-mine.json"):
        (line / name).touch()
    watch(inspector, line, config=ONCE)
    assert {path.name for path in line.iterdir()} == {".anomalyhub-mine.json", ".anomalyhub-watch.lock"}


def test_one_watcher_per_folder(inspector, line, tmp_path):
    with watching(inspector, line):
        until(lambda: is_locked(line / ".anomalyhub-watch.lock"))
        with pytest.raises(OutputError, match="gets results from another process"):
            watch(inspector, line, config=ONCE)
        assert watch(inspector, line, tmp_path / "out", ONCE) == 0


def test_killed_at_random_times_while_images_arrive(model, line):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    command = [sys.executable, str(TESTS / "watch_killed.py"), str(model), str(line), "16"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    count = int(done.stdout)
    names = sorted(path.name for path in line.glob("[0-9]*.png"))
    assert len(names) == count > 30
    assert sorted(path.name for path in line.glob(f"*{RESULT}")) == [f"{name}{RESULT}" for name in names]
    assert Counter(row["path"] for row in rows(line)) == dict.fromkeys(names, 1)
    assert {row["path"]: row["inspected"] for row in rows(line)} == {
        name: result(line, name)["inspected"] for name in names
    }
    direct = Inspector.load(model).inspect([photo(number, defect=number % 3 == 0) for number in range(count)])
    for name, one in zip(names, direct, strict=True):
        stored = result(line, name)
        assert stored["error"] is None and stored["score"] == pytest.approx(one.score, rel=1e-4), name
        assert (line / f"{name}{OVERLAY}").exists() == one.is_anomalous
    others = {path.name for path in line.iterdir()} - {
        f"{name}{end}" for name in names for end in ("", RESULT, OVERLAY)
    }
    assert others == {"results.csv", ".anomalyhub-watch.lock"}


# ------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"settle": -1}, InvalidArgumentError, "settle must lie between"),
        ({"settle": float("nan")}, InvalidArgumentError, "settle must lie between"),
        ({"poll": 0}, InvalidArgumentError, "poll must lie between"),
        ({"tries": 0}, InvalidArgumentError, "tries must lie between"),
    ],
)
def test_settings_out_of_range(options, error, reason):
    with pytest.raises(error, match=reason):
        WatchConfig(**options)


def test_what_cannot_be_watched(inspector, line, tmp_path):
    with pytest.raises(InvalidDatasetError, match="is not a folder"):
        watch(inspector, tmp_path / "none", config=ONCE)
    (line / "results.csv").write_text("my,own,table\n1,2,3\n")
    with pytest.raises(OutputError, match="is not a table of results: move it away"):
        watch(inspector, line, config=ONCE)
    assert (line / "results.csv").read_text() == "my,own,table\n1,2,3\n"
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        watch(inspector, line, tmp_path / "file", ONCE)


def test_detectors_that_compare_images_are_refused(line):
    musc = Inspector.fit(create_detector("musc", tiny_vit()), [])
    with pytest.raises(InvalidArgumentError, match="judges images by each other.*reference"):
        watch(musc, line, config=ONCE)
    with pytest.raises(InvalidArgumentError, match="no threshold"):
        watch(Inspector.fit(create_detector("patchcore", tiny_backbone()), normals(1)), line, config=ONCE)


def test_musc_with_a_reference_may_watch(line):
    musc = Inspector.fit(create_detector("musc", tiny_vit()), normals(6))
    deliver(line, "a.png", 50, defect=True)
    assert watch(musc, line, config=ONCE) == 1
    assert result(line, "a.png")["score"] == pytest.approx(next(musc.inspect([photo(50, defect=True)])).score, rel=1e-5)


def test_the_digest_tells_models_apart(model, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert folder_digest(copy) == folder_digest(model) and re.fullmatch("[0-9a-f]{16}", folder_digest(model))
    (copy / "inspector.json").write_text("{}")
    assert folder_digest(copy) != folder_digest(model)


# -------------------------------------------------------------------------------------------------- command line


def test_the_verb_once(model, line, capfd):
    deliver(line, "a.png", 1)
    deliver(line, "b.png", 2, defect=True)
    assert cli.run(shlex.split(f"watch {line} --model {model} --once --settle 0 --threshold 1.2")) == 0
    out, err = capfd.readouterr()
    first, second = (result(line, name) for name in ("a.png", "b.png"))
    assert first["threshold"] == 1.2 and first["model"]["digest"] == folder_digest(model)
    assert out.splitlines() == [
        *(
            f"{one['verdict']:10} {one['score']:>8.4g}  {name}" + f"  {one['kind']}" * bool(one["kind"])
            for name, one in (("a.png", first), ("b.png", second))
        ),
        f"2 images have got a result: {line}",
    ]
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("watch none --model {model} --once", "none is not a folder"),
        ("watch {line} --model {line} --once", "is not a model folder|has no|give"),
        ("watch {line} --model {model} --threshold nan --once", "--threshold must be a finite number"),
        ("watch {line} --model {model} --settle -1 --once", "settle must lie between"),
        ("watch {line}", "Missing option"),
    ],
)
def test_wrong_arguments(model, line, arguments, reason, capfd):
    assert cli.run(shlex.split(arguments.format(model=model, line=line))) == 2
    out, err = capfd.readouterr()
    assert re.search(reason, err) and len(err.splitlines()) == 1 and not list(line.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_after_the_image_at_hand(model, line, number, code):
    # a shell's background ignores SIGINT, which children inherit
    start = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); from anomalyhub.cli import main; main()"
    command = [sys.executable, "-c", start, "watch", str(line), "--model", str(model), "--settle", "0.1"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("watching ")
        deliver(line, "a.png")
        assert process.stdout.readline().split() == ["normal", f"{result(line, 'a.png')['score']:.4g}", "a.png"]
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, f"1 images have got a result: {line}\n", "")
