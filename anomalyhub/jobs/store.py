"""The jobs of an app, as folders below one root; any number of processes may look at them and change them."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalyhub.config import configure
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, OutputError
from anomalyhub.fsio import atomic_folder
from anomalyhub.jobs import files
from anomalyhub.jobs.kinds import kinds
from anomalyhub.locks import open_lock

if TYPE_CHECKING:
    from anomalyhub.protocols import Progress  # which imports numpy

#: States of a job. A job ends in one of ENDED; all of these but "done" can be resumed.
ACTIVE, ENDED = ("queued", "running"), ("done", "failed", "cancelled", "interrupted")
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
_DEVICE = re.compile(r"auto|cpu|cuda:\d+")
_TAIL_BYTES = 65536
#: Seconds that the processes of a job may need to be gone after its status has said that it has ended.
_LAST_BREATH = 15.0
_DELETED = "its folder was deleted: start the job again"
_KILLED = "its processes ended without a word (killed, out of memory, or the machine was switched off): resume it"


class JobProgress(NamedTuple):
    """How far a job is: fraction in [0, 1], which never falls within an attempt, and a text for people."""

    fraction: float
    text: str


class JobStore:
    """Jobs below `root`, which is made when need be and must be on a disk with file locks.

    outlive  jobs go on when this process ends, and are found again; False interrupts them with it, however it ends
    worker   a script that registers further kinds and calls `anomalyhub.jobs.worker.main`
    patience seconds that a cancelled job has to stop by itself; then SIGTERM, and after half as long again SIGKILL

    At most one job of a store runs per device, in the order of submission; "auto" counts as any device.

    >>> store = JobStore("jobs")                                          # doctest: +SKIP
    >>> job = store.submit("fit", {"data": "sample", "product": "ring"})  # doctest: +SKIP
    >>> job.wait(), job.result                                            # doctest: +SKIP
    """

    def __init__(self, root: str | Path, *, outlive: bool = True, worker: Path | None = None, patience: float = 10.0):
        self.root, self.worker, self.patience = Path(root).expanduser().absolute(), worker, patience
        # The reading end of a pipe that is never written to: the supervisors see its end when this process is gone.
        self.lifeline, self._kept_open = (subprocess.DEVNULL, None) if outlive else os.pipe()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot keep jobs in {self.root}: {error.strerror}; choose another folder") from error

    def submit(
        self,
        kind: str,
        config: Mapping[str, Any],
        *,
        name: str = "",
        seed: int = 0,
        device: str = "auto",
        processes: int = 1,
        push_to: str | None = None,
        store: str = "hub",
    ) -> Job:
        """Queue a job; it starts by itself.

        config     fields of the kind's config dataclass; relative paths are below the current folder
        name       for people
        device     "auto" (the GPUs if there are any, else the CPU), "cpu" or "cuda:N"
        processes  how many processes share the work, on the CPU or one per GPU
        push_to    the repository, OWNER/NAME, that the result is pushed to when it is there; store: see `create_store`.
                   The Hub is asked as who has logged in on this machine; see `Job.pushed`
        Raises UnknownNameError, InvalidArgumentError, OutputError.
        """
        from anomalyhub.state import jsonable  # numpy, which the supervisor does without

        known = kinds[kind]
        values = dataclasses.asdict(configure(known.config_class, config))
        _check(seed, device, processes, known.accelerate)
        push = None if push_to is None else _target(push_to, store)
        job, now = self._new(), time.time()
        with atomic_folder(job.folder) as staged:
            asked = {"kind": kind, "name": name, "config": values, "seed": seed, "device": device}
            asked |= {"processes": processes, "accelerate": known.accelerate, "submitted_at": now, "cwd": os.getcwd()}
            asked |= {"push": push}
            files.write_json(staged / files.CONFIG, jsonable(asked))
            (staged / files.CHECKPOINTS).mkdir()
            job._queue(staged, attempt=1)
            lock = open_lock(staged / files.LOG)
        try:
            job._start(lock)
        finally:
            os.close(lock)
        return job

    def adopt(self, kind: str, config: Mapping[str, Any], contents: Mapping[str, Path], *, name: str = "") -> Job:
        """A job that is done and never ran: what was made elsewhere, as its result.

        config    what tells of it, as that of a job of this kind does where others read it
        contents  its files by their names below the result; they get a second name, or are copied
        Raises OutputError.
        """
        from anomalyhub.hub.contents import link_or_copy
        from anomalyhub.state import jsonable

        job, now = self._new(), time.time()
        with atomic_folder(job.folder) as staged:
            asked = {"kind": kind, "name": name, "config": dict(config), "seed": 0, "submitted_at": now}
            asked |= {"adopted": True}
            files.write_json(staged / files.CONFIG, jsonable(asked))
            for inner, path in contents.items():
                link_or_copy(path, staged / files.RESULT / inner)
            state = {"status": "done", "attempt": 0, "error": None, "ended_at": now}
            files.write_json(staged / files.STATUS, state)
            (staged / files.LOG).touch()
        return job

    def _new(self) -> Job:
        """One whose folder is to be made."""
        return Job(self, f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}")

    def get(self, job_id: str) -> Job:
        """Raises InvalidArgumentError when there is no such job."""
        job = Job(self, job_id)
        if not _ID.fullmatch(job_id) or not job.folder.is_dir():
            raise InvalidArgumentError(f"there is no job {job_id!r} in {self.root}: it may have been removed")
        return job

    def list(self) -> list[Job]:
        """All jobs, the newest first."""
        jobs = [Job(self, path.name) for path in self.root.iterdir() if _ID.fullmatch(path.name)]
        return sorted(jobs, key=lambda job: (job.submitted_at, job.id), reverse=True)

    def idle(self) -> list[Job]:
        """Ended jobs that no active one names in its config, first the one that was changed longest ago."""
        jobs = self.list()
        active = {job.id for job in jobs if job.status in ACTIVE}
        needed = "\n".join(str(job.asked.get("config")) for job in jobs if job.id in active)
        idle = [job for job in jobs if job.id not in active and job.id not in needed]
        return sorted(idle, key=lambda job: job.changed_at)


def _target(repo_id: str, store: str) -> dict[str, str]:
    from anomalyhub.hub.base import check_target

    check_target(repo_id, store)
    return {"repo_id": repo_id, "store": store}


def _check(seed: int, device: str, processes: int, accelerate: bool) -> None:
    if seed < 0:
        raise InvalidArgumentError(f"seed must be 0 or more, got {seed}")
    if not _DEVICE.fullmatch(device):
        raise InvalidArgumentError(f"unknown device {device!r}: choose auto, cpu, or cuda:0 and so on")
    if processes < 1:
        raise InvalidArgumentError(f"processes must be at least 1, got {processes}")
    if processes > 1 and (device.startswith("cuda") or not accelerate):
        what = f"{device} serves" if accelerate else "this kind of job has"
        raise InvalidArgumentError(f"{what} one process, got {processes}: leave processes at 1, or device at auto")


class Job:
    """One job. It holds nothing but its folder: every property is read from disk when asked for."""

    def __init__(self, store: JobStore, job_id: str):
        self.store, self.id, self.folder = store, job_id, store.root / job_id

    def __repr__(self) -> str:
        return f"Job({self.id}, {self.kind}, {self.status})"

    @property
    def asked(self) -> dict[str, Any]:
        """What was submitted: kind, name, config, seed, device, processes, submitted_at (seconds since 1970)."""
        return files.read_json(self.folder / files.CONFIG)

    @property
    def kind(self) -> str:
        return self.asked.get("kind", "unknown")

    @property
    def submitted_at(self) -> float:
        """Seconds since 1970."""
        return self.asked.get("submitted_at", 0.0)

    @property
    def changed_at(self) -> float:
        """When an entry of its folder was last written, in seconds since 1970; now if it is gone."""
        try:
            return self.folder.stat().st_mtime
        except OSError:
            return time.time()

    @property
    def state(self) -> dict[str, Any]:
        """status, attempt (from 1), error, error_class, and queued_at, started_at, ended_at in seconds since 1970.

        A job that should be active and has no process left is "interrupted", or "done" if its result is there.
        """
        state = files.read_json(self.folder / files.STATUS)
        if state.get("status") in ENDED:
            return state
        if not self.folder.is_dir():
            return {"status": "interrupted", "error": _DELETED}
        alive = files.is_alive(self.folder)
        state = files.read_json(self.folder / files.STATUS)  # it may have ended between the two looks
        if alive or state.get("status") in ENDED:
            return state
        if (self.folder / files.RESULT).is_dir():
            return state | {"status": "done"}
        return state | {"status": "interrupted", "error": _KILLED}

    @property
    def status(self) -> str:
        """queued, running, done, failed, cancelled or interrupted."""
        return self.state.get("status", "interrupted")

    @property
    def progress(self) -> JobProgress:
        if self.status == "done":
            return JobProgress(1.0, "done")
        stored = files.read_json(self.folder / files.PROGRESS)
        return JobProgress(stored.get("fraction", 0.0), stored.get("text", ""))

    @property
    def error(self) -> str | None:
        """Why the job failed or was interrupted, in one sentence; None otherwise."""
        return self.state.get("error")

    @property
    def result(self) -> Path | None:
        """The folder that the job made; None until it is complete."""
        folder = self.folder / files.RESULT
        return folder if folder.is_dir() else None

    @property
    def pushed(self) -> dict[str, Any] | None:
        """How the push of the result ended: repo_id, store, and url or error, which says how to push again.

        None where no push was asked for, or before its end.
        """
        wish = self.asked.get("push")
        if not wish or self.result is None or self.status in ACTIVE:
            return None
        known = files.read_json(self.folder / files.PUSHED)
        return {**wish, **(known or {"error": f"the push was interrupted; {self._push_again(wish)}"})}

    def _push_again(self, wish: Mapping[str, str]) -> str:
        from anomalyhub.hub.base import push_command

        kind = kinds[self.kind]
        folder = self.folder / files.RESULT / kind.inner
        return f"push it again with: {push_command(folder, wish['repo_id'], kind.makes, wish['store'])}"

    def push(self, progress: Progress | None = None) -> dict[str, Any]:
        """Push the result to where `submit` was told; returns what `pushed` says then. Raises nothing for a failure."""
        from anomalyhub.hub.share import share

        wish, kind = self.asked["push"], kinds[self.kind]
        try:
            folder = self.folder / files.RESULT / kind.inner
            pushed = share(folder, wish["repo_id"], kind.makes, store=wish["store"], progress=progress)
            said = {"url": pushed.url, "revision": pushed.revision}
        except AnomalyHubError as error:
            said = {"error": f"{error}; {self._push_again(wish)}"}
        files.write_json(self.folder / files.PUSHED, said)
        return {**wish, **said}

    def log_tail(self, n: int = 50) -> str:
        """The last lines of what the job's processes have printed; of a progress bar, what it showed last."""
        try:
            with open(self.folder / files.LOG, "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")]
        return "\n".join(lines[-n:])

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop and has not been resumed since."""
        return (self.folder / files.CANCEL).exists()

    def cancel(self) -> None:
        """Ask the job to stop; returns at once. A job that has ended stays as it is, an interrupted one is cancelled.

        A running one stops at its next progress report; after some seconds its processes are ended, then killed.
        """
        status = self.status
        if status in ACTIVE:
            try:
                (self.folder / files.CANCEL).touch()
            except OSError as error:
                raise OutputError(f"cannot write to {self.folder}: {error.strerror}; free some space") from error
        elif status == "interrupted":
            with self._held() as (_, state):
                files.write_last_words(self.folder / files.STATUS, state | {"status": "cancelled", "error": None})

    def resume(self) -> None:
        """Queue a job again that failed, was cancelled or interrupted; it goes on from its checkpoints.

        Raises InvalidArgumentError when it is active or done, OutputError.
        """
        with self._held() as (lock, state):
            (self.folder / files.CANCEL).unlink(missing_ok=True)
            self._queue(self.folder, state.get("attempt", 0) + 1)
            self._start(lock)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the job has ended, at most `timeout` seconds; returns its status."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (status := self.status) in ACTIVE and time.monotonic() < end:
            time.sleep(0.05)
        return status

    def remove(self) -> None:
        """Delete the job and all its files. Raises InvalidArgumentError while it is active."""
        with self._held(done_too=True):
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _held(self, done_too: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
        """The lock and the stored state of a job that no process works on, and none can begin to."""
        ended = self.status in ENDED
        lock = open_lock(self.folder / files.LOG, _LAST_BREATH) if ended else None
        if lock is None:
            raise InvalidArgumentError(f"job {self.id} is {self.status}: cancel it, or wait for its end, first")
        try:
            state = files.read_json(self.folder / files.STATUS)
            if not done_too and (state.get("status") == "done" or self.result):
                raise InvalidArgumentError(f"job {self.id} is done: its result is {self.folder / files.RESULT}")
            yield lock, state
        finally:
            os.close(lock)

    def _queue(self, folder: Path, attempt: int) -> None:
        """Write what makes a job queued. Raises OutputError when there is no room for it and for its last words."""
        files.reserve(folder)
        files.write_json(folder / files.PROGRESS, {"fraction": 0.0, "text": "starting"})
        state = {"status": "queued", "attempt": attempt, "queued_at": time.time(), "error": None}
        files.write_json(folder / files.STATUS, state)

    def _start(self, lock: int) -> None:
        """Start the supervisor, which inherits the lock; from here on the job needs nobody."""
        package_root = str(Path(__file__).resolve().parents[2])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        stdin = self.store.lifeline
        command = [sys.executable, "-m", "anomalyhub.jobs.supervisor", str(self.folder), str(self.store.worker or "")]
        command += ["outlive" if stdin == subprocess.DEVNULL else "", str(self.store.patience)]
        cwd = self.asked.get("cwd")
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=lock,
            stderr=lock,
            cwd=cwd if cwd and os.path.isdir(cwd) else None,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        threading.Thread(target=process.wait, daemon=True).start()  # else it would stay as a zombie
