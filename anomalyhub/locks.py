"""Locks on files: a `flock`, which the kernel releases when its last holder is gone, however it went.

A process that is started with the descriptor as its output, or inherits it otherwise, holds the lock too.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomalyhub.errors import OutputError


def open_lock(path: Path, seconds: float = 0.0) -> int | None:
    """A file descriptor, open for appending, whose holders hold the file's lock; None when others hold it for longer.

    Raises OutputError when the file cannot be opened, or its file system knows no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
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


def is_locked(path: Path) -> bool:
    """Whether somebody holds the file's lock; not when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _flock(descriptor, fcntl.LOCK_SH, path)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, seconds: float = 60.0) -> Iterator[None]:
    """Wait for the lock of a file and hold it. Raises OutputError when others hold it for longer than `seconds`."""
    descriptor = open_lock(path, seconds)
    if descriptor is None:
        raise OutputError(f"{path} has been locked for {seconds:.0f} seconds: end the process that holds it")
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
            f"{path} lies on a file system without locks ({error.strerror}): use a folder on a local disk"
        ) from error
