"""Several processes that share out products: each measures on its own, and nothing inside a unit knows of the others.

A method that sees a process group computes together with it, and what it computes then depends on the group's size. So
the group is left as soon as the products are shared out, and who has ended is seen by locks, which the kernel releases.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from anomalyhub.errors import InvalidArgumentError, OutputError
from anomalyhub.locks import is_locked, open_lock

T = TypeVar("T")

_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
_POLL = 0.1


def check_launch() -> None:
    """Raise InvalidArgumentError where `accelerate launch` was to start several processes and has started one.

    On CPUs it does so without MPI, and says nothing: such a process has the address of a group and no rank in it.
    """
    environment = os.environ
    launched = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment
    if launched and "WORLD_SIZE" not in environment and not _mpi(environment):
        raise InvalidArgumentError(
            "accelerate launch was asked for several processes and has started one, as it does on CPUs without MPI: "
            f"use torchrun --nproc_per_node 2 {sys.argv[0]} with the same arguments"
        )


def world_size() -> int:
    """Processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Processes:
    """This process among those that were started together, in one run folder.

    rank  0 leads: it writes what belongs to the whole run
    """

    def __init__(self, folder: Path):
        """Take part, and hold a lock of the folder while this object lives. Raises OutputError where others hold it."""
        self.folder, self.size = folder, world_size()
        self._state = None
        if self.size > 1 or _mpi(os.environ):
            from accelerate import PartialState

            self._state = PartialState(cpu=True)  # it only waits and shares out, so that two may have the same GPU
        self.rank = self._state.process_index if self._state else 0
        self.size = self._state.num_processes if self._state else 1
        self._lock: int | None = open_lock(self._path(self.rank))
        if self._lock is None or any(is_locked(path) for path in self._beyond()):
            self.end()
            raise OutputError(f"another run is writing into {folder}: wait for it, or choose another --out")

    def together(self) -> None:
        """Wait until all have come here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def share_out(self, items: Sequence[T]) -> list[T]:
        """This process's part of the items; all get the same list in. Afterwards this process is one of its own."""
        if self._state is None:
            return list(items)
        with self._state.split_between_processes(list(range(len(items)))) as mine:
            numbers = list(mine)
        self.together()
        _leave(self._state.local_process_index)
        self._state = None
        return [items[number] for number in numbers]

    def wait_for_others(self) -> None:
        """Return when every other process has ended its part, or its life."""
        for rank in range(self.size):
            while rank != self.rank and is_locked(self._path(rank)):
                time.sleep(_POLL)

    def end(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _beyond(self) -> list[Path]:
        """Locks of ranks that this group does not have: a process of a larger one may have outlived the others."""
        found = self.folder.glob(".lock-*")
        return [path for path in found if path.name[6:].isdigit() and int(path.name[6:]) >= self.size]

    def _path(self, rank: int) -> Path:
        return self.folder / (f".lock-{rank}" if rank else ".lock")


def _mpi(environment: object) -> bool:
    """Whether MPI has started this process with others."""
    sizes = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
    return any(int(environment.get(name, "1")) > 1 for name in sizes)


def _leave(local_rank: int) -> None:
    """Leave the process group, forget that there was one, and take the GPU of this process's number if there is one."""
    import torch
    from accelerate.state import AcceleratorState

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in _RANKS:
        os.environ.pop(name, None)
    if torch.cuda.is_available():
        number = local_rank % torch.cuda.device_count()
        torch.cuda.set_device(number)
        os.environ.setdefault("ANOMALYHUB_DEVICE", f"cuda:{number}")  # of backbones, which have gone by LOCAL_RANK
