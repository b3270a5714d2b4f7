"""`python -m anomalyhub.jobs.worker FOLDER`: runs the kind's function. One process per rank, started by the supervisor.

A script that registers kinds of its own and then calls `main` can take its place (`JobStore(root, worker=SCRIPT)`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from anomalyhub.config import configure
from anomalyhub.errors import AnomalyHubError, Cancelled
from anomalyhub.fsio import atomic_folder
from anomalyhub.jobs import files
from anomalyhub.jobs.kinds import Context, kinds
from anomalyhub.jobs.store import Job, JobStore

#: Seconds between two writes of the progress, and between two looks for the user's wish to cancel.
_INTERVAL = 0.25
_GRACE = 5.0


class Reporter:
    """The progress callback: it costs microseconds, as a thread writes the latest report and looks for `cancel`.

    writes  False in all but the first of several processes
    """

    def __init__(self, folder: Path, writes: bool = True):
        self._folder, self._writes = folder, writes
        self._latest: tuple[float, str] = (0.0, "starting")
        self._written = self._latest
        self._failure: Exception | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._closed.set()
        self._thread.join()
        self._look()
        if kind is None and self._failure is not None:
            raise self._failure

    def __call__(self, fraction: float, text: str) -> None:
        """Fractions that fall are held at the highest so far. Raises Cancelled, OutputError."""
        if self._failure is not None:
            raise self._failure
        highest = self._latest[0]
        self._latest = (min(fraction, 1.0) if fraction > highest else highest, text)

    def _loop(self) -> None:
        while not self._closed.wait(_INTERVAL):
            self._look()

    def _look(self) -> None:
        if (self._folder / files.CANCEL).exists():
            self._failure = Cancelled("stopped by its user: resume it to go on")
        elif not self._folder.is_dir():
            self._failure = Cancelled(f"{self._folder} was deleted while its job ran: start the job again")
            return
        latest = self._latest
        if self._writes and latest != self._written:
            try:
                files.write_json(self._folder / files.PROGRESS, {"fraction": latest[0], "text": latest[1]})
                self._written = latest
            except OSError as error:  # OutputError is one
                self._failure = error


def run(folder: Path) -> int:
    """Run the job of a folder in this process; returns the exit code, 0 if how it ended is on disk."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        asked = files.read_json(folder / files.CONFIG)
        kind = kinds[asked.get("kind", "unknown")]
        config = configure(kind.config_class, asked["config"])
        checkpoints = folder / files.CHECKPOINTS
        with atomic_folder(folder / files.RESULT) if rank == 0 else nullcontext() as result:
            with Reporter(folder, writes=rank == 0) as progress:
                kind.run(Context(config, asked["seed"], checkpoints, result, progress))
        if rank == 0 and asked.get("push"):
            _push(folder)
        return 0
    except KeyboardInterrupt:
        return 143
    except Exception as error:
        with suppress(OSError):  # the log of a full disk
            traceback.print_exc()
        if folder.is_dir() and not (folder / files.ERROR).exists():  # of several processes, the first to fail knows why
            files.write_last_words(folder / files.ERROR, _reason(error, folder))
        return 0 if size == 1 else 1  # which ends the other processes


def _push(folder: Path) -> None:
    """Push the result, which stays whatever comes of it."""
    job = Job(JobStore(folder.parent), folder.name)
    print(f"pushing to {job.asked['push']['repo_id']}", flush=True)
    try:
        with Reporter(folder) as progress:
            said = job.push(progress)
        print(said.get("url") or said["error"])
    except Exception:  # the result is there, and `Job.pushed` says that the push was interrupted
        traceback.print_exc()


def _reason(error: Exception, folder: Path) -> dict[str, str]:
    if isinstance(error, AnomalyHubError):
        message = str(error)
    elif isinstance(error, MemoryError):
        message = "out of memory: choose smaller settings or images, or a machine with more memory"
    else:
        first_line = str(error).partition("\n")[0]
        message = f"unexpected {type(error).__name__}: {first_line} ({folder / files.LOG} shows where)"
    return {"error": " ".join(message.split()), "error_class": type(error).__name__}


def _end_with_supervisor() -> None:
    """Wait for the end of the standard input, a pipe that the supervisor holds; then end this process."""
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    sys.exit(run(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
