"""The options --push-to and --store of the verbs that make something."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from anomalyhub.cli.support import bar
from anomalyhub.errors import AnomalyHubError

PushTo = Annotated[
    str | None, typer.Option("--push-to", metavar="REPO_ID", help="Push the result when it is done: OWNER/NAME.")
]
Store = Annotated[str, typer.Option("--store", metavar="STORE", help="hub, or folder:PATH such as a share.")]


def pushes(kind: str, inner: str = "") -> Callable[[Callable], Callable]:
    """Decorator of a verb with an option --out: gives it --push-to and --store, and pushes what it made.

    kind   of the repository: "model" or "dataset"
    inner  the folder of the result that is pushed; "": all of it
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def run(*arguments: Any, push_to: str | None = None, store: str = "hub", **options: Any) -> None:
            if push_to is not None:
                from anomalyhub.hub.base import check_target

                check_target(push_to, store)  # before the work, not after it
            verb(*arguments, **options)
            if push_to is not None and options["out"] is not None and int(os.environ.get("RANK", "0")) == 0:
                push_made(options["out"] / inner, push_to, kind, store)

        added = {"push_to": (PushTo, None), "store": (Store, "hub")}
        known = inspect.signature(verb, eval_str=True)  # the parser takes them as they stand
        extra = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in added.items()
        ]
        run.__signature__ = known.replace(parameters=[*known.parameters.values(), *extra])
        run.__annotations__ = {name: one.annotation for name, one in run.__signature__.parameters.items()}
        return run

    return decorate


def push_made(folder: Path, repo_id: str, kind: str, store: str) -> None:
    """Push a result that is there to stay; when that fails or is stopped say how to push it again, and exit."""
    from anomalyhub.hub.base import push_command
    from anomalyhub.hub.share import share

    try:
        with bar("push") as progress:
            pushed = share(folder, repo_id, kind, store=store, progress=progress)
    except (AnomalyHubError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        reason = "it was stopped" if stopped else error
        print(f"anomalyhub: the result is in {folder}, but was not pushed: {reason}", file=sys.stderr)
        print(f"anomalyhub: push it again with: {push_command(folder, repo_id, kind, store)}", file=sys.stderr)
        raise SystemExit(130) if stopped else typer.Exit(1) from error
    tell(pushed)


def tell(pushed: Any) -> None:
    """Say what a push did, in a line, and what of it no pull will take."""
    for notice in pushed.notices:
        print(f"anomalyhub: notice: {notice}", file=sys.stderr)
    typer.echo(_said(pushed))


def _said(pushed: Any) -> str:
    if not pushed.changed and not pushed.removed:
        return f"{pushed.repo_id} holds all of it already: {pushed.url}"
    removed = f", removed {len(pushed.removed)}" if pushed.removed else ""
    size = f"{len(pushed.changed)} files, {pushed.bytes_moved / 1e6:.1f} MB{removed}"
    return f"pushed {size} to {pushed.url} (revision {pushed.revision[:12]})"
