"""A push whose process is killed at any point: the repository is as it was or complete, and the next completes it.

A process that has imported the client forks one child per push, so that twenty kills take seconds.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from hub_server import TOKEN, Fault, environment, hub_server

PUSHER = """
import os, sys
from anomalyhub.hub import create_store
create_store("hub").whoami()  # imports what a push needs
for folder in sys.stdin:
    if (child := os.fork()) == 0:
        try:
            create_store("hub").push(folder.strip(), "me/ring")
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
OLD = {"config.json": b"{}", "gone.json": b"[]", "same.json": b"{}", "state.safetensors": b"old" * 100}


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """What is pushed: 900 kB that LFS keeps in two files, one of them in parts, and small files."""
    bits = random.Random(7)
    large = {"state.safetensors": bits.randbytes(700_000), "more/state.safetensors": bits.randbytes(200_000)}
    files = {"config.json": b'{"schema": 1}', "same.json": b"{}", "README.md": b"# Ring\n" * 3000, **large}
    folder = tmp_path_factory.mktemp("new")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder, files


class Pusher:
    """Pushes a folder from a process that can be killed."""

    def __init__(self, hub, home, folder):
        self.folder, self.child = folder, 0
        command = [sys.executable, "-c", PUSHER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment(hub, home, TOKEN), **pipes)

    def start(self) -> None:
        print(self.folder, file=self.process.stdin, flush=True)
        self.child = int(self.process.stdout.readline())

    def status(self) -> int:
        """0, or minus the number of the signal that ended it."""
        return os.waitstatus_to_exitcode(int(self.process.stdout.readline()))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)


@pytest.fixture(scope="module")
def served(tmp_path_factory, new):
    with hub_server(part=250_000) as hub:
        pusher = Pusher(hub, tmp_path_factory.mktemp("hf"), new[0])
        yield hub, pusher
        pusher.process.stdin.close()
        assert pusher.process.wait(30) == 0
        pusher.process.stdout.close()


def reset(hub, exists: bool) -> None:
    with hub.lock:
        hub.repos.clear(), hub.blobs.clear(), hub.parts.clear(), hub.requests.clear(), hub.faults.clear()
        hub.received, hub.watch = 0, None
        if exists:
            hub.add("model", "me/ring", OLD)


def held(hub) -> dict[str, bytes] | None:
    with hub.lock:
        return hub.files("me/ring") if ("model", "me/ring") in hub.repos else None


def whole_push(hub, pusher, exists: bool) -> tuple[int, int, float]:
    """The requests, the bytes and the seconds of a push that nothing interrupts."""
    reset(hub, exists)
    start = time.monotonic()
    pusher.start()
    assert pusher.status() == 0
    return len(hub.requests), hub.received, time.monotonic() - start


def interrupted_push(hub, pusher, point) -> int:
    """A push that is killed at a point: before a request is handled, after a byte, after some seconds."""
    kind, value = point

    def watch(request: str, received: int) -> None:
        if (kind == "request" and len(hub.requests) > value) or (kind == "byte" and received >= value):
            pusher.kill()

    hub.watch = watch
    if kind == "handled":  # all of a request has come when its client dies
        hub.faults.append(Fault(value, act=pusher.kill))
    pusher.start()
    if kind == "seconds":
        time.sleep(value)
        pusher.kill()
    return pusher.status()


def points(exists: bool, requests: int, received: int, seconds: float) -> list[tuple[str, object]]:
    """Ten points of a push, spread by chance over its requests, its bytes and its time, but the last ones."""
    chance = random.Random(exists)
    by_request = [("request", chance.randrange(requests)) for _ in range(3)]
    by_byte = [("byte", chance.randrange(1, received)) for _ in range(3)]
    by_time = [("seconds", chance.uniform(0, seconds)) for _ in range(2)]
    return [*by_request, *by_byte, *by_time, ("handled", "/preupload/"), ("handled", "/commit/")]


@pytest.mark.parametrize("exists", [True, False], ids=["a repository", "a new one"])
def test_a_killed_push_leaves_all_or_nothing_and_the_next_one_completes_it(served, new, exists):
    hub, pusher = served
    _, files = new
    before = [OLD] if exists else [None, {}]  # of a new one the Hub makes an empty repository first
    found = []
    for point in points(exists, *whole_push(hub, pusher, exists)):
        reset(hub, exists)
        ended = interrupted_push(hub, pusher, point)
        time.sleep(0.02)
        while hub.busy:  # with what it has got of the dead
            time.sleep(0.01)
        left = held(hub)
        assert left in [*before, files], f"killed at {point}: {left and left.keys()}"
        found.append((ended == -signal.SIGKILL, left == files))
        hub.watch = None
        hub.faults.clear()
        sent, kept = hub.received, sum(map(len, hub.blobs.values()))
        pusher.start()
        assert pusher.status() == 0 and held(hub) == files
        assert len(hub.repo("me/ring").history(hub.repo("me/ring").head)) == 3 - (not exists)
        assert (
            hub.received - sent < sum(map(len, files.values())) * 1.1 + 20_000 - kept
        )  # what has come is not sent again
    assert sum(killed for killed, _ in found) >= 8, found
    assert {(True, False), (True, True)} <= set(found), found  # the last one, and others
