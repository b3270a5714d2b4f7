"""A folder that a camera fills: its new images are inspected as they appear, see `watch`.

The folder is looked through again and again, because shares do not tell of changes. Looking costs at most a tenth of
the time: names alone nearly always, and every few seconds size and time of change of what has a result already, so
that an image which the camera has overwritten is inspected again.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyhub.data import IMAGE_SUFFIXES, read_image
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidDatasetError, InvalidImageError, OutputError
from anomalyhub.report.beside import Identity, Results, is_own
from anomalyhub.report.identity import ModelIdentity
from anomalyhub.report.kinds import kind_overlay
from anomalyhub.report.record import DEFECTIVE, inspection_json
from anomalyhub.types import Inspection, Sample

if TYPE_CHECKING:
    from anomalyhub.pipeline.inspector import Inspector

#: Images that are predicted together, and the pixels beyond which it is fewer.
_BATCH, _BATCH_PIXELS = 8, 40_000_000
#: Looks at the names take at most this share of the time, looks at sizes and times of change a fifth of that.
_SHARE, _SECONDS_BETWEEN_FULL_LOOKS = 0.1, 10.0
#: First and longest pause in seconds between two tries of what fails for reasons outside of an image.
_PAUSE, _LONGEST_PAUSE = 2.0, 60.0
#: Images in a row that fail in ways nobody foresaw, before it is taken for the model's or the machine's fault.
_MAX_SUSPECTS = 3


@dataclass(frozen=True)
class WatchConfig:
    """How a folder is watched.

    settle     seconds that size and time of change of a file must have stood still before it is read
    poll       seconds between two looks, at least
    recursive  whether folders below count
    overlays   whether a defective image gets a picture with its regions outlined
    once       end when every image that is there has its result
    tries      how often a file that cannot be decoded is read before its result says so
    """

    settle: float = 1.0
    poll: float = 0.5
    recursive: bool = False
    overlays: bool = True
    once: bool = False
    tries: int = 4

    def __post_init__(self):
        for name, low in (("settle", 0.0), ("poll", 0.01), ("tries", 1)):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= 3600):
                raise InvalidArgumentError(f"{name} must lie between {low} and 3600, got {value}")


@dataclass(frozen=True)
class _Waiting:
    """A file without a result: what it was like since when, how often it has failed, and when it may be read."""

    identity: Identity
    since: float
    tries: int = 0
    after: float = 0.0


def watch(
    inspector: Inspector,
    folder: str | Path,
    out: str | Path | None = None,
    config: WatchConfig | None = None,
    *,
    model: str | Path = "",
    stop: threading.Event | None = None,
    found: Callable[[str, dict[str, Any]], None] = lambda name, record: None,
    say: Callable[[str], None] = lambda text: None,
) -> int:
    """Inspect the images of a folder, those that are there and those that appear, and write results beside them.

    inspector  with a threshold, and of a detector that judges every image alone
    out        folder of the results, which mirrors `folder`; None: beside the images. See `anomalyhub.report.beside`
    model      the model's folder, of which the results tell name and digest
    stop       set it to end after the image at hand
    found      is called with the path below `folder` and the result of every image
    say        is called with what an operator should know: a folder that is gone, a full disk, an unreadable file

    An image is its path, size and time of change: one that is overwritten is inspected again. One that cannot be
    decoded gets a result with "error", and is read again only when it has changed. Whatever fails for other reasons, a
    share that is away, a full disk, missing permissions, is tried again until it works.

    Returns the number of images that got a result. Raises InvalidArgumentError for such a detector and without a
    threshold, InvalidDatasetError when there is no such folder, OutputError when no result can be written at the
    beginning; with `once` also later, and InvalidImageError when files could not be opened.
    """
    config = config or WatchConfig()
    folder = Path(folder).expanduser()
    check_watchable(inspector)
    if not folder.is_dir():
        raise InvalidDatasetError(f"{folder} is not a folder: give the folder that the images are delivered to")
    about = ModelIdentity.of(inspector, Path(model).resolve().name).to_json()
    about["digest"] = folder_digest(Path(model)) if model and Path(model).is_dir() else None
    with Results(Path(out).expanduser() if out else folder, config.recursive) as results:
        stop = stop or threading.Event()
        return _Watcher(inspector, about, folder.resolve(), results, config, stop, found, say).run()


def check_watchable(inspector: Inspector) -> None:
    """Raise InvalidArgumentError for an inspector that cannot judge images one by one, or has no threshold."""
    if inspector.detector.transductive:
        raise InvalidArgumentError(
            f"{inspector.detector.name} judges images by each other, and a camera delivers them one by one: fit it on "
            "a reference of some images, or take another detector"
        )
    inspector.threshold  # noqa: B018  (raises)


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of all files of a model folder, its first 16 digits."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode("utf-8", "surrogateescape") + b"\0")
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


class _Watcher:
    """One call of `watch`.

    waiting   files without a result, by name          queue  those of them that may be read now, oldest first
    suspects  files that have failed in a way nobody foresaw, and how: they are to blame once another one succeeds
    left      files that `once` could not open, and why
    troubles  what has been said and is not over
    """

    def __init__(self, inspector, about, folder, results, config, stop, found, say):
        self.inspector, self.about, self.folder, self.results = inspector, about, folder, results
        self.config, self.stop, self.found, self.say = config, stop, found, say
        self.out = os.path.realpath(results.folder)
        self.waiting: dict[str, _Waiting] = {}
        self.queue: deque[str] = deque()
        self.suspects: dict[str, Exception] = {}
        self.left: dict[str, str] = {}
        self.count = 0
        self.next_look = self.next_full_look = 0.0
        self.troubles: set[str] = set()

    def run(self) -> int:
        while not self.stop.is_set():
            if not self.queue:
                self._look()
                if self.config.once and self.waiting.keys() <= self.suspects.keys():
                    break
                self.queue = self._ready()
            if self.queue:
                self._inspect()
            else:
                self._tell()
                self.stop.wait(max(self.config.poll, self.next_look - time.monotonic()))
        self._tell()
        if not self.stop.is_set():
            self._end_of_once()
        return self.count

    def _end_of_once(self) -> None:
        if self.suspects and not self.count:
            raise next(iter(self.suspects.values()))
        self._blame_suspects()
        if self.left:
            first = next(iter(self.left.values()))
            raise InvalidImageError(f"{len(self.left)} files could not be opened, to begin with {first}")

    # What is there.

    def _look(self) -> None:
        """Note new and changed files, and forget those that are gone."""
        started = time.monotonic()
        if started < self.next_look:
            return
        full = started >= self.next_full_look or self.config.once
        try:
            names = set(self._names("")) if full else None
            for name in self._names("") if names is None else names:
                if full or name not in self.results.known:
                    self._consider(name, started)
        except OSError as error:  # the folder itself: a share that is away
            if self.config.once:
                raise InvalidDatasetError(f"{self.folder} cannot be read ({error.strerror}): try again") from error
            self._trouble("folder", f"{self.folder} cannot be read ({error.strerror}): waiting until it is back")
            self.next_look = time.monotonic() + _PAUSE
            return
        if self._over("folder", f"{self.folder} is back"):
            self.results.lock()  # the former file may be one of a folder that is no more
        if names is not None:
            for known in (self.results.known, self.waiting):
                for name in known.keys() - names:
                    del known[name]
        took = time.monotonic() - started
        if full:
            self.next_full_look = started + max(_SECONDS_BETWEEN_FULL_LOOKS, took * 5 / _SHARE)
        else:
            self.next_look = started + took / _SHARE

    def _names(self, below: str) -> Iterator[str]:
        """Paths of the images, as names below the folder; `below` ends with a slash or is empty."""
        folders = []
        with os.scandir(self.folder / below) as entries:
            for entry in entries:
                if entry.name.startswith(".") or is_own(entry.name):
                    continue
                if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                    yield below + entry.name
                elif self.config.recursive and entry.is_dir(follow_symlinks=False) and entry.path != self.out:
                    folders.append(f"{below}{entry.name}/")
        for name in folders:
            with suppress(OSError):  # gone, or not for us
                yield from self._names(name)

    def _consider(self, name: str, now: float) -> None:
        identity = self._identity(name)
        former = self.waiting.get(name)
        if former is not None and former.identity == identity:
            return
        if identity is None or self.results.is_done(name, identity):
            self.waiting.pop(name, None)
        elif name not in self.left:
            self.waiting[name] = _Waiting(identity, now)

    def _identity(self, name: str) -> Identity | None:
        """Of a regular file; None where there is none."""
        try:
            status = os.stat(self.folder / name)
        except OSError:
            return None
        return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None

    def _ready(self) -> deque[str]:
        """Names of files that have settled, the oldest first."""
        now = time.monotonic()
        settled = now - self.config.settle
        ready = [name for name, one in self.waiting.items() if one.since <= settled and one.after <= now]
        return deque(sorted(ready, key=lambda name: (self.waiting[name].identity[1], name)))

    # What is in it.

    def _inspect(self) -> None:
        """Read some images, predict them together, and write their results."""
        samples, pixels = [], 0
        while self.queue and len(samples) < _BATCH and pixels < _BATCH_PIXELS and not self.stop.is_set():
            name = self.queue.popleft()
            if name in self.waiting and (sample := self._read(name)) is not None:
                samples.append(sample)
                pixels += sample.image.shape[0] * sample.image.shape[1]
        started = time.monotonic()
        predicted = list(self._predicted(samples))
        seconds = (time.monotonic() - started) / max(len(predicted), 1)
        for sample, result in predicted:
            if self.stop.is_set():
                return
            overlay = None
            record = inspection_json(result, self.inspector.threshold) | {"error": None, "seconds": seconds}
            if self.config.overlays and record["verdict"] == DEFECTIVE:
                overlay = kind_overlay(sample.image, result, self.inspector.kinds)
            self._write(sample.id, record, overlay)

    def _read(self, name: str) -> Sample | None:
        """The image of a settled file; None when it has to wait, is gone, or has its result now, an error."""
        one = self.waiting[name]
        try:
            if self._identity(name) == one.identity:
                sample = Sample(name, read_image(self.folder / name))
                if self._identity(name) == one.identity:
                    return sample
        except InvalidImageError as error:
            self._failed(name, one, error)
            return None
        self._consider(name, time.monotonic())  # it has changed meanwhile, or is gone
        return None

    def _failed(self, name: str, one: _Waiting, error: InvalidImageError) -> None:
        """An image that could not be read: try again later, for as long as it may be for other reasons than itself."""
        outside = getattr(error.__cause__, "errno", None) is not None
        if isinstance(error.__cause__, FileNotFoundError) or self._identity(name) is None:
            del self.waiting[name]
        elif one.tries + 1 < self.config.tries or (outside and not self.config.once):
            if one.tries == 0 and outside:
                self.say(f"{error}; it is tried again until it works")
            pause = min(max(self.config.settle, 0.5) * 2**one.tries, _LONGEST_PAUSE)
            self.waiting[name] = replace(one, tries=min(one.tries + 1, 20), after=time.monotonic() + pause)
        elif outside:
            self.left[name] = str(error)
            del self.waiting[name]
        else:
            self._write_error(name, str(error).replace(str(self.folder / name), name))

    def _predicted(self, samples: list[Sample]) -> Iterator[tuple[Sample, Inspection]]:
        """Results of those that can be predicted; others get an error for a result, or are suspects."""
        if not samples:
            return
        try:
            results = list(self.inspector.inspect(samples))
        except Exception as error:
            if len(samples) > 1:
                for sample in samples:
                    yield from self._predicted([sample])
            elif isinstance(error, AnomalyHubError):
                self._write_error(samples[0].id, str(error))
            else:
                self._suspect(samples[0].id, error)
            return
        for sample in samples:  # it was the machine, or the memory of the moment
            self.suspects.pop(sample.id, None)
        self._blame_suspects()
        yield from zip(samples, results, strict=True)

    def _suspect(self, name: str, error: Exception) -> None:
        """The file is to blame or, if several fail in a row, the model or the machine: then nothing is written."""
        self.suspects[name] = error
        if len(self.suspects) >= _MAX_SUSPECTS:
            raise error
        self.waiting[name] = replace(self.waiting[name], after=time.monotonic() + _LONGEST_PAUSE)

    def _blame_suspects(self) -> None:
        suspects, self.suspects = self.suspects, {}
        for name, error in suspects.items():
            if name in self.waiting:
                self._write_error(name, f"unexpected {type(error).__name__}: {error}")

    def _write_error(self, name: str, text: str) -> None:
        self.say(f"no verdict: {text}")
        self._write(name, {"verdict": None, "error": text}, None)

    def _write(self, name: str, record: dict[str, Any], overlay: Any) -> None:
        """The result of an image, as soon as it can be written."""
        one, pause = self.waiting[name], _PAUSE
        now = datetime.datetime.now().astimezone()
        record = {**record, "inspected": now.isoformat(timespec="microseconds"), "model": self.about}
        while (self.folder / name).parent.is_dir():  # else the share is away, and the image comes back with it
            try:
                self.results.write(name, one.identity, record, overlay)
                break
            except OutputError as error:
                if self.config.once:
                    raise
                self._trouble("disk", f"{error}; it is tried again until it works")
            if self.stop.wait(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            del self.waiting[name]
            return
        self._over("disk", "results can be written again")
        del self.waiting[name]
        self.count += 1
        self.found(name, record)
        self._tell()

    def _tell(self) -> None:
        try:
            self.results.tell()
            self._over("table", "the table is written again")
        except OutputError as error:  # somebody holds it: the results are there, the rows follow
            self._trouble("table", f"{error}; the rows are added as soon as that works")

    def _trouble(self, what: str, text: str) -> None:
        """Say it once."""
        if what not in self.troubles:
            self.troubles.add(what)
            self.say(text)

    def _over(self, what: str, text: str) -> bool:
        """Whether there was such trouble until now."""
        if what not in self.troubles:
            return False
        self.troubles.discard(what)
        self.say(text)
        return True
