"""The files of a job's folder, and what tells whether the job is alive.

    config.json      what was asked for; never changes        status.json    written by the supervisor alone
    progress.json    fraction and text                        error.json     why the last attempt failed
    log.txt          all that the processes print             cancel         there once the user has cancelled
    checkpoints/     the kind's own                           result/        appears when the job is done
    accelerate.json  for the launcher                         reserve        room for the last words on a full disk
    pushed.json      how the push of the result ended

Every process of a job inherits log.txt as its output, and with it an exclusive `flock`, which the kernel releases when
the last of them is gone, however it went: no stale lock, and no other process that got a dead one's number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomalyhub.errors import OutputError
from anomalyhub.fsio import atomic_file
from anomalyhub.locks import is_locked

CONFIG, STATUS, PROGRESS, ERROR = "config.json", "status.json", "progress.json", "error.json"
LOG, CANCEL, CHECKPOINTS, RESULT, PUSHED = "log.txt", "cancel", "checkpoints", "result", "pushed.json"
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


def is_alive(folder: Path) -> bool:
    """Whether a process of this job runs, its supervisor included."""
    return is_locked(folder / LOG)
