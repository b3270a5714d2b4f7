"""The app's jobs and what belongs to them: one folder that outlives pages, sessions and the app itself."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from anomalyhub.data import SampleRef
from anomalyhub.errors import InvalidArgumentError, InvalidUploadError, OutputError
from anomalyhub.fsio import atomic_folder
from anomalyhub.hub.base import prune_cache
from anomalyhub.jobs import Job, JobProgress, JobStore
from anomalyhub.jobs.store import ACTIVE
from anomalyhub.ui import gpu

#: Where a Space has its storage, if it has any.
_SPACE_STORAGE = Path("/data")
#: Jobs of all visitors that may run or wait at one time; each visitor has at most one of a kind.
MAX_ACTIVE = 12
#: Seconds that an ended job is kept after its last change.
KEPT = 7 * 86400
#: Bytes of jobs and images beyond which ended jobs go earlier: what can be taken again, then the oldest.
MAX_BYTES = 20 * 1024**3
#: Seconds that images wait for the job that they were kept for.
_SOON = 3600


class Work:
    """The jobs below `home`, and the images that they need.

        jobs/ID/          see anomalyhub.jobs
        inputs/TOKEN/     images or maps of one visitor, for as long as a job names them

    home    default: $ANOMALYHUB_HOME, else a Space's storage, else $XDG_CACHE_HOME/anomalyhub or ~/.cache/anomalyhub;
            where nothing can be written, a temporary folder, whose jobs end with the app
    stores  specs of the stores that visitors may choose besides the Hub
    results folders of a benchmark's results for the Leaderboard tab
    notice  says so; empty otherwise
    """

    def __init__(self, home: str | Path | None = None, stores: Iterable[str] = (), results: Iterable[str | Path] = ()):
        self.notice, self.stores = "", tuple(stores)
        self.results = tuple(Path(one).expanduser().absolute() for one in results)
        self.home = _home(home)
        try:
            self.store = self._opened(outlive=True)
        except OSError as error:  # OutputError is one
            reason = error.strerror or str(error)
            temporary = tempfile.mkdtemp(prefix="anomalyhub-home-")
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
            self.notice = (
                f"nothing can be kept in {self.home} ({reason}): models and discoveries last until the app is closed; "
                "set ANOMALYHUB_HOME to a folder that can be written"
            )
            self.home = Path(temporary)
            self.store = self._opened(outlive=False)
        self._submitting = threading.Lock()

    def _opened(self, outlive: bool) -> JobStore:
        store = JobStore(self.home / "jobs", outlive=outlive)
        self._inputs.mkdir(parents=True, exist_ok=True)
        for folder in (store.root, self._inputs):
            with tempfile.TemporaryFile(dir=folder):
                pass
        return store

    @property
    def _inputs(self) -> Path:
        return self.home / "inputs"

    def keep(self, refs: Iterable[SampleRef]) -> list[list[str]]:
        """[[id, path], …] of images that last as long as a job names them: linked, or copied, into `home`.

        To be called right before `submit`; images that are kept already come back as they are. Raises OutputError.
        """
        refs = list(refs)
        if all(self.holds(ref.path) for ref in refs):
            return [[ref.id, str(ref.path)] for ref in refs]
        names = [f"{number:05d}{ref.path.suffix.lower()}" for number, ref in enumerate(refs)]
        folder = self._taken(zip(names, (ref.path for ref in refs), strict=True))
        return [[ref.id, str(folder / name)] for ref, name in zip(refs, names, strict=True)]

    def holds(self, path: Path) -> bool:
        """Whether a file is one of those that are kept."""
        return path.is_relative_to(self._inputs)

    def keep_maps(self, files: Iterable[tuple[str, Path]]) -> Path:
        """The same for (name, path) of maps, as a folder; names may have folders and stay as they are.

        Raises InvalidUploadError for a name that climbs out of the folder, OutputError.
        """
        files = list(files)
        for name, _ in files:
            parts = PurePosixPath(name)
            if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\0" in name:
                raise InvalidUploadError(f"{name!r} is no name for a map: rename it to letters and digits")
        return self._taken(files)

    def _taken(self, files: Iterable[tuple[str, Path]]) -> Path:
        folder = self._inputs / uuid.uuid4().hex
        with atomic_folder(folder) as staged:
            for name, path in files:
                target = staged / name
                if target.exists():
                    raise InvalidUploadError(f"two files are called {name}: rename one of them")
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path.resolve(), target)
                except OSError:  # another file system, or one without links
                    shutil.copyfile(path, target)
        return folder

    def submit(
        self, kind: str, config: Mapping[str, Any], *, name: str = "", seed: int = 0, former: str | None = None
    ) -> Job:
        """Queue a job, see JobStore.submit.

        former  id of this visitor's latest job of that kind
        Raises InvalidArgumentError while that one is active, and when MAX_ACTIVE jobs are.
        """
        with self._submitting:
            latest = self.get(former, kind)
            if latest is not None and latest.status in ACTIVE and not latest.stopping:
                title = latest.asked.get("name") or kind
                raise InvalidArgumentError(f"{title} still runs: wait for its end, or cancel it")
            if sum(job.status in ACTIVE and not job.stopping for job in self.store.list()) >= MAX_ACTIVE:
                raise InvalidArgumentError(f"{MAX_ACTIVE} jobs are waiting already: try again in some minutes")
            where = {"device": "cpu"} if gpu.ZERO else {}  # there jobs have no GPU
            return self.store.submit(kind, config, name=name, seed=seed, **where)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A name for what is being fetched, on the disk of the jobs; removed at the end, or when killed by `prune`."""
        folder = self.store.root / f".anomalyhub-{uuid.uuid4().hex}"
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def get(self, job_id: Any, kind: str | None = None) -> Job | None:
        """The job of that id and kind; None for anything else, for ids come from the browser."""
        if not isinstance(job_id, str):
            return None
        try:
            job = self.store.get(job_id)
        except InvalidArgumentError:
            return None
        return job if kind in (None, job.kind) else None

    def result_of(self, job_id: Any, kind: str) -> Path | None:
        """The folder that a job of that id and kind made; None until it is complete, and as `get` gives it."""
        job = self.get(job_id, kind)
        return job.result if job is not None else None

    def follow(self, job: Job, poll: float = 0.5) -> Iterator[JobProgress]:
        """Its progress, at once and then every `poll` seconds, until it has its result or has ended without one."""
        while job.result is None and job.status in ACTIVE:  # its processes take a second to end after the result
            yield job.progress
            time.sleep(poll)

    def reason(self, job: Job) -> str:
        """Why a job failed or was interrupted, in one sentence without a path of this machine."""
        text = job.error or "it ended without a reason: try again"
        config = job.asked.get("config", {})
        for name, path, *_ in (*(config.get("images") or ()), *(config.get("examples") or ())):
            text = text.replace(path, name)
        return text.replace(str(job.folder), f"job {job.id}").replace(str(self.home), "the app's folder")

    def prune(self) -> None:
        """Remove what nobody needs: jobs unchanged for KEPT seconds, more of them to stay below MAX_BYTES, images
        that no job names, and what the cache has kept in vain. Raises nothing."""
        prune_cache()
        with suppress(OSError):  # another app changes the same folder: next time
            for path in self.store.root.glob(".anomalyhub-*"):  # begun by a process that was killed
                if _age(path) > KEPT:
                    shutil.rmtree(path, ignore_errors=True)
            self._remove_inputs_nobody_needs()
            for job in sorted(self.store.idle(), key=lambda job: (_is_young(job), not job.asked.get("adopted"))):
                if _is_young(job) and self._bytes() <= MAX_BYTES:
                    break
                with suppress(InvalidArgumentError):  # resumed meanwhile
                    job.remove()
                self._remove_inputs_nobody_needs()

    def _bytes(self) -> int:
        return _size(self.store.root) + _size(self._inputs)

    def _remove_inputs_nobody_needs(self) -> None:
        needed = "\n".join(str(job.asked.get("config")) for job in self.store.list())
        for folder in self._inputs.iterdir():
            if folder.name not in needed and _age(folder) > _SOON:
                shutil.rmtree(folder, ignore_errors=True)


def _home(home: str | Path | None) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "anomalyhub"
    path = Path(home or os.environ.get("ANOMALYHUB_HOME") or _kept_by_space() or cache)
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # a user without a home
        raise OutputError(f"{path} has no place: set ANOMALYHUB_HOME to a folder") from error


def _kept_by_space() -> Path | None:
    """Where a Hugging Face Space keeps what is to outlive a restart; None elsewhere, and without such storage."""
    there = os.environ.get("SPACE_ID") and _SPACE_STORAGE.is_dir() and os.access(_SPACE_STORAGE, os.W_OK)
    return _SPACE_STORAGE / "anomalyhub" if there else None


def _is_young(job: Job) -> bool:
    return time.time() - job.changed_at <= KEPT


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _size(folder: Path) -> int:
    """Bytes of all files below."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(at, name)).st_size
            except OSError:
                continue
    return total
