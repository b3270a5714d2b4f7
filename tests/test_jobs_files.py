"""The files and locks of jobs, and the progress callback, in one process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time

import pytest
from job_helpers import tree, until

from anomalyhub import locks
from anomalyhub.errors import Cancelled, OutputError
from anomalyhub.jobs import files
from anomalyhub.jobs.worker import Reporter


@pytest.fixture
def full_disk(tmp_path, monkeypatch):
    """A disk without room as long as the reserve is on it; a function makes it full for good."""
    replace, always = os.replace, []

    def full(source, target):
        if always or (tmp_path / "reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    files.reserve(tmp_path)
    monkeypatch.setattr(os, "replace", full)
    return lambda: always.append(True)


def test_last_words_on_a_full_disk(tmp_path, full_disk):
    path = tmp_path / "status.json"
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        files.write_json(path, {"status": "failed"})
    assert tree(tmp_path) == {"reserve"}
    files.write_last_words(path, {"status": "failed"})
    assert files.read_json(path) == {"status": "failed"} and tree(tmp_path) == {"status.json"}
    full_disk()
    with pytest.raises(OutputError):
        files.write_last_words(path, {"status": "done"})
    assert files.read_json(path) == {"status": "failed"} and tree(tmp_path) == {"status.json"}


def test_a_reserve_takes_room(tmp_path):
    files.reserve(tmp_path)
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 65536
    files.release_reserve(tmp_path)
    files.release_reserve(tmp_path)
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_damaged_json_is_empty(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    assert files.read_json(tmp_path / "a.json") == {} == files.read_json(tmp_path / "none.json")


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    for name in (".anomalyhub-1", "checkpoints", "result"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").touch()
    (tmp_path / ".anomalyhub-2.json").touch()
    (tmp_path / "config.json").touch()
    files.remove_leftovers(tmp_path)
    assert tree(tmp_path) == {"checkpoints", "result", "config.json"}


def test_the_lock_belongs_to_those_who_inherit_it(tmp_path):
    """It goes with the last of them, not with the one who took it: no number of a process can be mistaken."""
    assert not files.is_alive(tmp_path)
    lock = locks.open_lock(tmp_path / "log.txt")
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=lock)
    assert files.is_alive(tmp_path)
    os.close(lock)
    try:
        assert files.is_alive(tmp_path) and locks.open_lock(tmp_path / "log.txt", 0.05) is None
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
    assert not files.is_alive(tmp_path)
    os.close(locks.open_lock(tmp_path / "log.txt"))


def test_locked_lets_one_in_at_a_time(tmp_path):
    inside, seen = [], []

    def enter():
        for _ in range(5):
            with locks.locked(tmp_path / ".lock"):
                inside.append(1)
                time.sleep(0.001)
                seen.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 20


def test_a_file_that_cannot_be_locked(tmp_path):
    with pytest.raises(OutputError, match="cannot open .*: No such file or directory"):
        locks.open_lock(tmp_path / "missing" / "log.txt")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    (tmp_path / "log.txt").touch()
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    for look in (lambda: files.is_alive(tmp_path), lambda: locks.open_lock(tmp_path / "log.txt")):
        with pytest.raises(OutputError, match="file system without locks .*: use a folder on a local disk"):
            look()


def stored(folder) -> tuple[float, str]:
    value = files.read_json(folder / "progress.json")
    return value.get("fraction"), value.get("text")


def test_progress_never_falls_and_its_text_is_the_latest(tmp_path):
    with Reporter(tmp_path) as progress:
        for fraction, text in [(0.2, "a"), (0.1, "b"), (float("nan"), "c"), (-1.0, "d")]:
            progress(fraction, text)
        until(lambda: stored(tmp_path) == (0.2, "d"), "the report, which nothing follows")
        progress(7.0, "e")
    assert stored(tmp_path) == (1.0, "e")


def test_reports_are_written_a_few_times_a_second(tmp_path, monkeypatch):
    writes = []
    monkeypatch.setattr(files, "write_json", lambda path, value: writes.append(value["fraction"]))
    begin = time.monotonic()
    with Reporter(tmp_path) as progress:
        for step in range(20_000):
            progress(step / 20_000, f"step {step}")
    assert 1 <= len(writes) <= 2 + (time.monotonic() - begin) / 0.25
    assert writes == sorted(writes) and writes[-1] == 19_999 / 20_000


def test_only_the_first_process_writes_and_all_are_cancelled(tmp_path):
    with pytest.raises(Cancelled, match="stopped by its user"), Reporter(tmp_path, writes=False) as progress:
        progress(0.5, "half")
        (tmp_path / "cancel").touch()

        def stopped():
            progress(0.6, "more")

        until(stopped, "Cancelled")
    assert tree(tmp_path) == {"cancel"}


def test_cancelled_in_the_last_moment(tmp_path):
    with pytest.raises(Cancelled), Reporter(tmp_path):
        (tmp_path / "cancel").touch()


def test_progress_on_a_full_disk(tmp_path, full_disk):
    with pytest.raises(OutputError, match="No space left"), Reporter(tmp_path) as progress:
        until(lambda: progress(0.5, "half"), "OutputError")
    with pytest.raises(OutputError, match="No space left"), Reporter(tmp_path) as progress:
        progress(0.5, "nothing follows")


def test_an_error_inside_is_not_hidden(tmp_path, full_disk):
    with pytest.raises(ZeroDivisionError), Reporter(tmp_path) as progress:
        progress(0.5, "half")
        raise ZeroDivisionError
