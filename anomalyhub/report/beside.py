"""Results beside the images that they are of, as they come: for IMAGE.png a IMAGE.png.anomalyhub.json, for a defective
one a IMAGE.png.anomalyhub.jpg with its regions outlined, and for all of them rows of results.csv.

An image is done when its result file is there, which is written last and at once complete, and says the size and time
of change of the image that it is of. The row in the table follows; what a killed process has not added, the next one
adds when it opens the folder. So a table that somebody has deleted is made again from the result files.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalyhub.errors import OutputError
from anomalyhub.fsio import atomic_file, make_folder
from anomalyhub.locks import open_lock
from anomalyhub.report.tables import safe_label, safe_name
from anomalyhub.state import SCHEMA, jsonable

RESULT, OVERLAY, TABLE = ".anomalyhub.json", ".anomalyhub.jpg", "results.csv"
COLUMNS = ("path", "verdict", "score", "p_value", "kind", "probability", "n_regions", "inspected", "error")
_LOCK = ".anomalyhub-watch.lock"
_LEFTOVER = re.compile(r"\.anomalyhub-[0-9a-f]{12}\.(json|jpg)")
#: Rows that wait in memory while somebody holds the table; beyond, they are found again in the result files.
_MAX_WAITING = 10_000

#: Size in bytes and time of change in ns: what tells a file from another of the same name.
Identity = tuple[int, int]


def is_own(name: str) -> bool:
    """Whether a file is one of those that are written beside images."""
    return name.endswith((RESULT, OVERLAY))


class Results:
    """The results below a folder, by the images' paths relative to it (with forward slashes).

    As a context it holds the folder's lock, so that nobody else writes results there, and brings the table up to date.
    Raises OutputError when another process holds it, when the folder cannot be written, and for a results.csv that is
    something else.

    recursive  whether there may be results in folders below
    known      (size, time of change) of the images that have a result
    waiting    rows that the table lacks so far, because it cannot be written
    """

    def __init__(self, folder: Path, recursive: bool = False):
        self.folder, self.recursive = folder, recursive
        self.known: dict[str, Identity] = {}
        self.waiting: list[dict[str, Any]] = []
        self._behind = False
        self._lock: int | None = None

    def __enter__(self) -> Results:
        self.lock()
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def lock(self) -> None:
        """Take the lock, again where the folder was taken away and is back."""
        self.close()
        make_folder(self.folder)
        self._lock = open_lock(self.folder / _LOCK)
        if self._lock is None:
            raise OutputError(f"{self.folder} gets results from another process: end that one, or choose another --out")

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> None:
        """Remove what a killed process had begun, read what is done, and add the rows that are missing."""
        there = _keys(self.folder / TABLE)
        missing = []
        for name, record in self._stored():
            self.known[name] = _identity(record)
            if _key(row := _row(name, record)) not in there:
                missing.append(row)
        _append(self.folder / TABLE, sorted(missing, key=lambda row: row["inspected"]))

    def _stored(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for at, folders, files in os.walk(self.folder):
            if not self.recursive:
                folders.clear()
            for file in files:
                if _LEFTOVER.fullmatch(file):
                    with suppress(OSError):
                        os.unlink(os.path.join(at, file))
                elif file.endswith(RESULT):
                    name = os.path.relpath(os.path.join(at, file), self.folder).replace(os.sep, "/")[: -len(RESULT)]
                    if (record := self.read(name)) is not None:
                        yield name, record

    def read(self, name: str) -> dict[str, Any] | None:
        """The result of an image; None where there is none, or a damaged one."""
        try:
            record = json.loads((self.folder / (name + RESULT)).read_bytes())
            return record if _identity(record) and _row(name, record) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def is_done(self, name: str, identity: Identity) -> bool:
        """Whether an image as it is now has its result."""
        if name not in self.known and (record := self.read(name)) is not None:
            self.known[name] = _identity(record)
        return self.known.get(name) == identity

    def write(self, name: str, identity: Identity, record: Mapping[str, Any], overlay: np.ndarray | None) -> None:
        """Write the result of an image, complete or not at all. Raises OutputError.

        record   JSON values with at least "inspected", a time as text
        overlay  (H, W, 3) uint8, or None for none; a former one is removed
        """
        picture = self.folder / (name + OVERLAY)
        if overlay is not None:
            with atomic_file(picture) as staged:
                Image.fromarray(overlay).save(staged, quality=90)
        else:
            with suppress(OSError):
                picture.unlink()
        about = {"path": name, "bytes": identity[0], "mtime_ns": identity[1]}
        stored = {"schema": SCHEMA, "image": about, **record, "overlay": overlay is not None and picture.name or None}
        with atomic_file(self.folder / (name + RESULT)) as staged:
            staged.write_text(json.dumps(jsonable(stored), indent=1) + "\n", encoding="ascii")
        self.known[name] = identity
        self.waiting.append(_row(name, stored))

    def tell(self) -> None:
        """Add the rows that wait to the table. Raises OutputError; they go on waiting."""
        if self._behind:  # too many have waited
            os.close(_opened(self.folder / TABLE))
            self.waiting = []
            self._open()
            self._behind = False
        try:
            _append(self.folder / TABLE, self.waiting)
            self.waiting = []
        except OutputError:
            if len(self.waiting) > _MAX_WAITING:
                self.waiting, self._behind = [], True
            raise


def _identity(record: Mapping[str, Any]) -> Identity:
    return int(record["image"]["bytes"]), int(record["image"]["mtime_ns"])


def _row(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    def number(key: str) -> str:
        return "" if record.get(key) is None else f"{record[key]:.6g}"

    line = safe_name(name).translate({10: "?", 13: "?"})  # every row is a line of its own
    return {
        "path": line,
        "verdict": record.get("verdict") or "",
        **{key: number(key) for key in ("score", "p_value", "probability")},
        "kind": safe_label(record.get("kind") or ""),
        "n_regions": "" if record.get("error") else len(record.get("regions") or ()),
        "inspected": str(record["inspected"]),
        "error": safe_label(" ".join((record.get("error") or "").split())),
    }


def _key(row: Mapping[str, Any]) -> int:
    return hash((row["path"], row["inspected"]))


def _keys(path: Path) -> set[int]:
    """Of the rows that the table has; half a row at its end is cut off. Raises OutputError for another table."""
    try:
        with open(path, "r+b") as file:
            _cut_half_row(file)
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is not None and tuple(reader.fieldnames) != COLUMNS:
                raise OutputError(f"{path} is not a table of results: move it away, or choose another --out")
            return {_key(row) for row in reader}
    except FileNotFoundError:
        return set()
    except (OSError, csv.Error) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{path} cannot be read and changed ({error}): close it elsewhere, or move it away"
        ) from error


def _cut_half_row(file: Any) -> None:
    end = at = file.seek(0, os.SEEK_END)
    while at:
        step = min(at, 65536)
        file.seek(at - step)
        found = file.read(step).rfind(b"\n")
        if found >= 0:
            at = at - step + found + 1
            break
        at -= step
    if at < end:
        file.truncate(at)


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows, all of them or none. Raises OutputError."""
    if not rows:
        return
    descriptor = _opened(path)
    try:
        size = os.fstat(descriptor).st_size
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        if size == 0:
            writer.writeheader()
        elif os.pread(descriptor, 1, size - 1) != b"\n":  # somebody has edited it
            text.write("\n")
        writer.writerows(rows)
        data = text.getvalue().encode("utf-8", "surrogateescape")
        if os.write(descriptor, data) != len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; free some space") from error
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise OutputError(f"cannot open {path}: {error.strerror}; close it elsewhere, or move it away") from error
