"""Job kinds for the tests, without torch, and the worker that knows them: `JobStore(root, worker=WORKER)`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError
from anomalyhub.jobs import Context, register_job
from anomalyhub.jobs import files as job_files

WORKER = Path(__file__).resolve()


WORD = "set by the first process"


@dataclass(frozen=True)
class ProbeConfig:
    """mode: what to do; desk: a folder shared with the test; steps: how many, each checkpointed; note: for nobody."""

    mode: str = "count"
    desk: str = ""
    steps: int = 3
    note: str = ""

    def __post_init__(self):
        if self.steps < 0:
            raise InvalidArgumentError(f"steps must be 0 or more, got {self.steps}")


@register_job("probe", ProbeConfig, accelerate=False)
def probe(context: Context) -> None:
    """Does what `mode` says."""
    {
        "count": count,
        "wait": count,
        "deaf": deaf,
        "full": full,
        "refuse": refuse,
        "crash": lambda _: 1 / 0,
        "memory": lambda _: [None] * sys.maxsize,
        "exit": lambda _: sys.exit(7),
        "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    }[context.config.mode](context)


def refuse(_: Context) -> None:
    raise InvalidDatasetError("tray is empty:\nput something in")


def count(context: Context) -> None:
    """A sum that goes on from its checkpoint; mode "wait" stops after the first step until desk/go is there."""
    desk, kept = Path(context.config.desk), context.checkpoints / "sum.json"
    (desk / "pid").write_text(str(os.getpid()))
    done = job_files.read_json(kept) or {"step": 0, "sum": context.seed, "resumed": 0}
    done["resumed"] += done["step"] > 0
    print(f"begins at step {done['step']}")
    for step in range(done["step"], context.config.steps):
        done |= {"step": step + 1, "sum": done["sum"] * 31 + step}
        job_files.write_json(kept, done)
        context.progress((step + 1) / context.config.steps, f"step {step + 1}")
        while context.config.mode == "wait" and not (desk / "go").exists():
            context.progress(0.0, f"waits after step {step + 1}")
            time.sleep(0.01)
    (context.result / "sum.txt").write_text(str(done["sum"]))
    (context.result / "resumed.txt").write_text(str(done["resumed"]))


def deaf(context: Context) -> None:
    """Neither reports nor minds SIGTERM, and has a child that has left the process group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", CHILD], start_new_session=True)
    job_files.write_json(Path(context.config.desk) / "pids.json", {"worker": os.getpid(), "child": child.pid})
    time.sleep(600)


CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def full(context: Context) -> None:
    """A disk that is full for as long as the job's reserve is on it."""
    replace, folder = os.replace, context.checkpoints.parent

    def full_disk(source, target):
        if (folder / "reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    os.replace = full_disk
    for step in range(10**6):
        context.progress(step / 10**6, f"step {step}")
        time.sleep(0.01)


@register_job("ranks", ProbeConfig)
def ranks(context: Context) -> None:
    """Several processes, without torch: the second one fails in mode "refuse", the first waits for desk/go."""
    rank, desk = int(os.environ.get("RANK", "0")), Path(context.config.desk)
    (desk / f"rank-{rank}").write_text(f"{os.getpid()} {context.result is None} {os.environ['OMP_NUM_THREADS']}")
    if rank == 1 and context.config.mode == "refuse":
        raise InvalidDatasetError("the second process found nothing")
    while not (desk / "go").exists():
        context.progress(0.3 + 0.6 * rank, f"rank {rank}")
        time.sleep(0.01)
    if context.result is not None:
        (context.result / "word.txt").write_text(WORD)


if __name__ == "__main__":
    from anomalyhub.jobs.worker import main

    main()
