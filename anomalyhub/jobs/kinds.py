"""Kinds of jobs, by name. A new one is a config dataclass and one function `run(context)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyhub.registry import Registry

if TYPE_CHECKING:
    from anomalyhub.protocols import Progress  # which imports numpy


@dataclass(frozen=True, eq=False)
class Context:
    """What a running job is given.

    config       an instance of the kind's config dataclass
    seed         fixes everything random
    checkpoints  a folder that outlives an interruption; empty at first, as the last attempt left it when resumed
    result       an empty folder to write into; it becomes the job's result when `run` returns, and is removed when
                 `run` raises. None in all but the first of several processes, which write nothing
    progress     to be called often: raises Cancelled once the job's user has cancelled, OutputError on a full disk
    """

    config: Any
    seed: int
    checkpoints: Path
    result: Path | None
    progress: Progress


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of job, see `register_job`."""

    name: str
    config_class: type
    run: Callable[[Context], None]
    accelerate: bool
    makes: str
    inner: str


kinds: Registry = Registry("job kind")


def register_job(
    name: str, config_class: type, *, accelerate: bool = True, makes: str = "model", inner: str = ""
) -> Callable:
    """Decorator of a function `run(context)`.

    config_class  a frozen dataclass with a field per option, which are filled by `anomalyhub.config.configure`
    accelerate    start it with `accelerate launch`; False for what needs no torch, which then starts in a tenth of the
                  time and always in one process
    makes         what a push of the result is to a store: "model" or "dataset"; inner: the folder of it that is pushed
    """

    def register(run: Callable[[Context], None]) -> Callable[[Context], None]:
        kinds.register(Kind(name, config_class, run, accelerate, makes, inner))
        return run

    return register
