"""A camera and a watcher that is killed again and again: `python tests/watch_killed.py MODEL LINE KILLS`.

Every watcher is a fork of this process, which has loaded the model once. The camera keeps delivering meanwhile, whole
files by renaming, and now and then one in two halves. The last watcher is left alone and does what is left.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from core_helpers import photo
from PIL import Image

from anomalyhub.pipeline import Inspector
from anomalyhub.pipeline.watch import WatchConfig, watch


def main(model: Path, line: Path, kills: int) -> None:
    torch.set_num_threads(1)  # a fork has no other threads
    inspector = Inspector.load(model)
    dice, delivered = random.Random(0), 0
    for _ in range(kills):
        watcher = start(inspector, model, line, once=False)
        end = time.monotonic() + dice.uniform(0.05, 0.5)
        while time.monotonic() < end:
            deliver(line, delivered, torn=dice.random() < 0.2)
            delivered += 1
            time.sleep(dice.uniform(0.0, 0.06))
        os.kill(watcher, signal.SIGKILL)
        _, status = os.waitpid(watcher, 0)
        assert os.WIFSIGNALED(status), "the watcher ended by itself"
    _, status = os.waitpid(start(inspector, model, line, once=True), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    print(delivered)


def start(inspector: Inspector, model: Path, line: Path, once: bool) -> int:
    if child := os.fork():
        return child
    try:
        watch(inspector, line, config=WatchConfig(settle=0.05, poll=0.02, once=once), model=model)
        os._exit(0)
    finally:
        os._exit(1)


def deliver(line: Path, number: int, torn: bool) -> None:
    target = line / f"{number:04d}.png"
    hidden = line / f".{target.name}"
    Image.fromarray(photo(number, defect=number % 3 == 0).image).save(hidden)
    if not torn:
        hidden.rename(target)
        return
    data = hidden.read_bytes()
    with open(target, "wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        time.sleep(0.15)  # longer than the watcher waits for a file to settle
        file.write(data[len(data) // 2 :])
    hidden.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
