"""The files of a job's folder, and the lock that tells whether the job is alive.

    config.json      what was asked for; never changes        status.json    written by the supervisor alone
    progress.json    fraction and text                        error.json     why the last attempt failed
    log.txt          all that the processes print             cancel         there once the user has cancelled
    checkpoints/     the kind's own                           result/        appears when the job is done
    accelerate.json  for the launcher                         reserve        room for the last words on a full disk

Every process of a job inherits log.txt as its output, and with it an exclusive `flock`, which the kernel releases when
the last of them is gone, however it went: no stale lock, and no other process that got a dead one's number.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalyhub.errors import OutputError
from anomalyhub.fsio import atomic_file

CONFIG, STATUS, PROGRESS, ERROR = "config.json", "status.json", "progress.json", "error.json"
LOG, CANCEL, CHECKPOINTS, RESULT = "log.txt", "cancel", "checkpoints", "result"
_RESERVE, _RESERVED_BYTES = "reserve", 65536


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when the file is missing or damaged, which its reader takes for an interruption."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file, or leave it as it was. Raises OutputError."""
    with atomic_file(path) as staged:
        staged.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_last_words(path: Path, value: Mapping[str, Any]) -> None:
    """`write_json` of what must be said on a full disk too: the room that was reserved is given up for it."""
    try:
        write_json(path, value)
    except OutputError:
        (path.parent / _RESERVE).unlink(missing_ok=True)
        write_json(path, value)


def reserve(folder: Path) -> None:
    """Take room for `write_last_words`. Raises OutputError when there is none."""
    with atomic_file(folder / _RESERVE) as staged:
        staged.write_bytes(os.urandom(_RESERVED_BYTES))  # which no file system compresses


def release_reserve(folder: Path) -> None:
    (folder / _RESERVE).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write."""
    for path in folder.glob(".anomalyhub-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def open_lock(path: Path, seconds: float = 0.0) -> int | None:
    """A file descriptor, open for appending, whose holders hold the file's lock; None when others hold it for longer.

    Raises OutputError when the file cannot be opened, or its file system knows no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"cannot open {path}: {error.strerror}; give yourself write access") from error
    end, got = time.monotonic() + seconds, False
    try:
        while not (got := _flock(descriptor, fcntl.LOCK_EX, path)) and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        if not got:
            os.close(descriptor)
    return descriptor if got else None


def is_alive(folder: Path) -> bool:
    """Whether a process of this job runs, its supervisor included."""
    try:
        descriptor = os.open(folder / LOG, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _flock(descriptor, fcntl.LOCK_SH, folder)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock of a file and hold it."""
    descriptor = open_lock(path, seconds=60.0)
    if descriptor is None:
        raise OutputError(f"{path} has been locked for a minute: end the process that holds it")
    try:
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        raise OutputError(
            f"{path} lies on a file system without locks ({error.strerror}): keep the jobs on a local disk"
        ) from error
