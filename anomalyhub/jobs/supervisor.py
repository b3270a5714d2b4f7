"""`python -m anomalyhub.jobs.supervisor FOLDER WORKER OUTLIVE PATIENCE`: the small process that sees a job through.

It waits for the job's turn, starts the worker (through `accelerate launch`), ends it when the user cancels, and says
how it went. It alone writes status.json. WORKER is a script or empty; OUTLIVE is empty when the end of the standard
input, the death of the app, is to interrupt the job.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from anomalyhub.jobs import files
from anomalyhub.jobs.store import ACTIVE, Job, JobStore
from anomalyhub.locks import locked

#: Names the attempt in the environment of all its processes, however they came to be.
MARK = "ANOMALYHUB_JOB"
#: Seconds between two looks at the worker and at the queue.
_LOOK = 0.2
#: Seconds after which a process that survives SIGKILL, stuck in the kernel, is given up.
_HOPELESS = 60.0


class _Stop(BaseException):
    """This process was told to end, or its app is gone."""


class Supervisor:
    """One attempt at a job, from its place in the queue to its end."""

    def __init__(self, folder: Path, worker: str, outlive: bool, patience: float):
        self.job = Job(JobStore(folder.parent), folder.name)
        self.folder, self.worker, self.outlive, self.patience = folder, worker, outlive, patience
        self.asked = self.job.asked
        self.state = files.read_json(folder / files.STATUS)
        self.mark = f"{folder.name}-{uuid.uuid4().hex[:8]}"
        self.process: subprocess.Popen | None = None

    def run(self) -> None:
        """See the job through; whatever happens, no process of it is left and its status says how it ended."""
        print(f"=== {self.job.kind}, attempt {self.state.get('attempt')}, {time.ctime()}", flush=True)
        instead: dict[str, Any] = {}
        try:
            if self._wait_for_turn():
                self._attempt()
        except _Stop:
            instead = {"status": "interrupted", "error": "it was stopped from outside, or with the app: resume it"}
        except OSError as error:  # OutputError is one
            instead = {"status": "failed", "error": str(error), "error_class": type(error).__name__}
        _on_signals(signal.SIG_IGN)
        self._end(0.0)
        if not self._deleted():
            files.remove_leftovers(self.folder)
            self._record(**self._outcome(instead))

    def _wait_for_turn(self) -> bool:
        """False when the job is cancelled while it waits."""
        said = 0
        while not self._cancelled():
            with locked(self.folder.parent / ".lock"):
                ahead = self._ahead()
                if ahead == 0:
                    self._record(status="running", started_at=time.time())
            if ahead != said:
                text = f"waiting for {ahead} other job{'s' * (ahead > 1)} on this device" if ahead else "starting"
                files.write_json(self.folder / files.PROGRESS, {"fraction": 0.0, "text": text})
            if ahead == 0:
                return True
            said = ahead
            self._pause(_LOOK)
        return False

    def _ahead(self) -> int:
        """How many jobs on the same device run or have waited for longer."""
        mine, count = (self.state["queued_at"], self.job.id), 0
        for other in self.job.store.list():
            if other.id == self.job.id or not files.is_alive(other.folder):
                continue
            devices, state = {self.asked["device"], other.asked.get("device")}, other.state
            earlier = state.get("status") == "running" or (state.get("queued_at", 0.0), other.id) < mine
            count += state.get("status") in ACTIVE and earlier and (len(devices) == 1 or "auto" in devices)
        return count

    def _attempt(self) -> None:
        """Run the worker until it has ended by itself or has been made to."""
        files.remove_leftovers(self.folder)
        (self.folder / files.ERROR).unlink(missing_ok=True)
        environment = {**os.environ, MARK: self.mark}
        if self.asked["device"] == "cpu":
            environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
        reading, self._lifeline = os.pipe()  # the workers see its end when this process is gone
        try:
            self.process = subprocess.Popen(self._command(), stdin=reading, env=environment, start_new_session=True)
        finally:
            os.close(reading)
        while self.process.poll() is None and not self._cancelled():
            self._pause(_LOOK)
        if self._cancelled():
            self._end(self.patience)

    def _command(self) -> list[str]:
        worker = [self.worker] if self.worker else ["-m", "anomalyhub.jobs.worker"]
        worker = [*worker, str(self.folder)]
        if not self.asked["accelerate"]:
            return [sys.executable, *worker]
        processes, device = self.asked["processes"], self.asked["device"]
        launch = {
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": "MULTI_GPU" if processes > 1 else "NO",  # which serves CPUs too
            "mixed_precision": "no",  # the kind's choice
            "num_processes": processes,
            "gpu_ids": device.removeprefix("cuda:") if device.startswith("cuda") else "all",
            "main_process_port": 0,  # a free one
            "use_cpu": device == "cpu",
        }
        files.write_json(self.folder / "accelerate.json", launch)  # in place of the user's own, which may ask for more
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // processes))
        options = ["--config_file", str(self.folder / "accelerate.json"), "--num_cpu_threads_per_process", threads]
        return [sys.executable, "-m", "accelerate.commands.launch", *options, *worker]

    def _end(self, patience: float) -> None:
        """Wait for the end of all processes of the attempt, then ask for it, then enforce it."""
        if self.process is None:
            return
        for number, seconds in ((None, patience), (signal.SIGTERM, self.patience / 2), (signal.SIGKILL, _HOPELESS)):
            end, told = time.monotonic() + seconds, set()
            while members := self._members():
                for member in members if number else ():
                    if member.pid not in told:
                        told.add(member.pid)
                        _signal(member, number)
                if time.monotonic() >= end:
                    break
                time.sleep(0.1)
            else:
                return

    def _members(self) -> list[Any]:
        """The attempt's processes that are left, by their environment: no group and no parent binds them all."""
        import psutil

        self.process.poll()
        members = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    members.append(process)
            except (psutil.Error, OSError):  # another user's, or gone
                continue
        return members

    def _outcome(self, instead: dict[str, Any]) -> dict[str, Any]:
        """How the attempt ended; `instead` if that is not for the worker to tell."""
        if self.job.result is not None:
            return {"status": "done"}
        if self._cancelled():
            return {"status": "cancelled"}
        if instead:
            return instead
        if error := files.read_json(self.folder / files.ERROR):
            return {"status": "failed", **error}
        code = self.process.returncode
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        error = f"its process ended without giving a reason ({how}; killed, out of memory?): see its log, or resume it"
        return {"status": "interrupted", "error": error}

    def _record(self, **changes: Any) -> None:
        self.state |= changes
        if changes["status"] not in ACTIVE:
            self.state["ended_at"] = time.time()
        files.write_last_words(self.folder / files.STATUS, self.state)
        if changes["status"] not in ACTIVE:
            files.release_reserve(self.folder)

    def _cancelled(self) -> bool:
        return (self.folder / files.CANCEL).exists() or self._deleted()

    def _deleted(self) -> bool:
        """Whether somebody has removed the job's folder: there is nothing left to work for, and nowhere to say so."""
        return not self.folder.is_dir()

    def _pause(self, seconds: float) -> None:
        """Sleep. Raises _Stop when the app is gone and the job is not to outlive it."""
        if self.outlive:
            time.sleep(seconds)
        elif select.select([0], [], [], seconds)[0]:
            raise _Stop


def _signal(process: Any, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _stop(*_: Any) -> None:
    _on_signals(signal.SIG_IGN)
    raise _Stop


def main() -> None:
    """Entry point."""
    _on_signals(_stop)
    folder, worker, outlive, patience = sys.argv[1:]
    Supervisor(Path(folder), worker, bool(outlive), float(patience)).run()


if __name__ == "__main__":
    main()
