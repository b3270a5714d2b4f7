"""What the tests of jobs share."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

LONG = 240.0  # a machine may be busy; nothing waits for as long unless it fails


def until(condition, what: str):
    """Wait for a condition and return its value."""
    end = time.monotonic() + LONG
    while not (value := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
    return value


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def tree(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def end_all(store) -> None:
    for job in store.list():
        job.cancel()
    assert all(job.wait(LONG) not in ("queued", "running") for job in store.list())
