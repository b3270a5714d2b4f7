"""The verb `watch`: new images of a folder are inspected as they appear."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from anomalyhub.cli.inspect import _inspector
from anomalyhub.cli.verbs import Weights, _example, app
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError


@app.command(
    epilog=_example(
        "anomalyhub watch line1 --model ring_kinds",
        "anomalyhub watch line1 --model ring --out results --recursive --no-overlays",
    )
)
def watch(
    folder: Annotated[Path, typer.Argument(help="The folder that the images are delivered to.")],
    model: Annotated[Path, typer.Option(metavar="INSPECTOR", help="The --out folder of classify fit, or of a fit.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default: beside the images.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Watch the folders below, too.")] = False,
    kinds: Annotated[
        Path | None, typer.Option(help="The model/ of a discovery, whose kinds name what is found.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Image score above which an image is anomalous.")] = None,
    settle: Annotated[float, typer.Option(help="Seconds that a file must not have changed before it is read.")] = 1.0,
    poll: Annotated[float, typer.Option(help="Seconds between two looks at the folder, at least.")] = 0.5,
    no_overlays: Annotated[bool, typer.Option("--no-overlays", help="No pictures of the defective images.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when all images that are there are done.")] = False,
    backbone: Weights = None,
    kinds_backbone: Annotated[
        str | None, typer.Option(help="Where the weights that kinds are seen by are now: NAME@FILE.safetensors.")
    ] = None,
) -> None:
    """Inspect the images of a folder as they appear: IMAGE.anomalyhub.json beside each, and all in results.csv.

    Ctrl-C or SIGTERM ends it after the image at hand; the next call goes on where it was.
    """
    if threshold is not None and not math.isfinite(threshold):
        raise InvalidArgumentError(f"--threshold must be a finite number, got {threshold}: give a score, such as 1.5")
    if not folder.expanduser().is_dir():
        raise InvalidDatasetError(f"{folder} is not a folder: give the folder that the images are delivered to")
    from anomalyhub.pipeline.watch import WatchConfig, check_watchable
    from anomalyhub.pipeline.watch import watch as watch_folder

    config = WatchConfig(settle=settle, poll=poll, recursive=recursive, overlays=not no_overlays, once=once)
    inspector = _inspector(model, kinds, backbone, kinds_backbone)
    inspector = inspector if threshold is None else inspector.with_threshold(threshold)
    check_watchable(inspector)
    if not once:
        typer.echo(f"watching {folder} with {model}, threshold {inspector.threshold:.4g}; Ctrl-C ends it")
    with _until_told() as stop:
        count = watch_folder(
            inspector,
            folder,
            out,
            config,
            model=model,
            stop=stop.event,
            found=_show,
            say=lambda text: typer.echo(f"anomalyhub: {' '.join(text.split())}", err=True),
        )
    typer.echo(f"{count} images have got a result: {out or folder}")
    if stop.number:
        raise SystemExit(128 + stop.number)


def _show(name: str, record: dict[str, Any]) -> None:
    verdict = record["verdict"] or "error"
    score = "" if record.get("score") is None else f"{record['score']:.4g}"
    typer.echo(f"{verdict:10} {score:>8}  {name}{'  ' + record['kind'] if record.get('kind') else ''}")


class _Stop:
    """An event that a signal sets, and the signal's number; 0 for none."""

    def __init__(self):
        self.event, self.number, self.former = threading.Event(), 0, {}

    def __call__(self, number: int, _: Any) -> None:
        self.number = number
        self.event.set()
        signal.signal(number, self.former[number])  # the second one ends it at once


@contextmanager
def _until_told() -> Iterator[_Stop]:
    """SIGTERM and Ctrl-C set an event, in place of what they do to the other verbs."""
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            stop.former[number] = signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in stop.former.items():
            signal.signal(number, handler)
