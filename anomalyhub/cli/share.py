"""The verbs `push`, `pull` and `repos`: folders to a store and back."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from anomalyhub.cli.pushing import Store, tell
from anomalyhub.cli.support import bar
from anomalyhub.cli.verbs import Out, Overwrite, _example, app
from anomalyhub.errors import InvalidArgumentError

Kind = Annotated[str, typer.Option("--kind", help="model or dataset.")]
Repository = Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME.")]


@app.command(
    epilog=_example(
        "anomalyhub push ring acme/ring --metrics metrics.json --license apache-2.0",
        "anomalyhub push ring acme/ring --store folder:/share/models",
        "anomalyhub push ring_data acme/ring-data --kind dataset --private",
        "anomalyhub push ring acme/ring --card",
    )
)
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What a verb wrote: its --out folder.")],
    repository: Repository,
    kind: Kind = "model",
    store: Store = "hub",
    message: Annotated[str, typer.Option("--message", "-m", help="Of the commit.")] = "",
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who sees a new repository.  [the store's default]")
    ] = None,
    license: Annotated[str | None, typer.Option(help="For the card, such as apache-2.0 or cc-by-4.0.")] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="What `evaluate --json` wrote: measured figures for the card.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag for the card; may be repeated.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Only print the card that would be pushed.")] = False,
) -> None:
    """Push a folder to a repository, in one commit of what has changed; a card comes with it."""
    from anomalyhub.hub.share import card_of, share

    measured = None if metrics is None else _metrics(metrics)
    described = {"license": license, "metrics": measured, "tags": tuple(tag or ())}
    if card:
        typer.echo(card_of(folder, repository, kind, store=store, ask=True, **described))
        return
    with bar("push") as progress:
        pushed = share(
            folder, repository, kind, store=store, message=message, private=private, progress=progress, **described
        )
    tell(pushed)


@app.command(
    epilog=_example(
        "anomalyhub pull acme/ring --out ring",
        "anomalyhub pull acme/ring-data --kind dataset --revision v1 --out ring_data",
        "anomalyhub pull acme/ring --store folder:/share/models --out ring",
    )
)
def pull(
    repository: Repository,
    out: Out,
    kind: Kind = "model",
    store: Store = "hub",
    revision: Annotated[str | None, typer.Option(help="A commit's id, a branch or a tag.  [the newest]")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Pull a repository into a folder: safetensors, JSON, tables and pictures, each verified; nothing that runs."""
    from anomalyhub.hub import create_store

    with bar("pull") as progress:
        pulled = create_store(store).pull(repository, kind, revision, out=out, overwrite=overwrite, progress=progress)
    for notice in pulled.notices:
        print(f"anomalyhub: notice: {notice}", file=sys.stderr)
    typer.echo(f"pulled {repository} at {pulled.revision[:12]}: {out}")


@app.command(
    epilog=_example(
        "anomalyhub repos --product ring",
        "anomalyhub repos --kind dataset --store folder:/share/models --json",
    )
)
def repos(
    kind: Kind = "model",
    store: Store = "hub",
    tag: Annotated[str | None, typer.Option(help="Only those whose card has this tag, such as patchcore.")] = None,
    product: Annotated[str | None, typer.Option("--product", help="Only those of this product.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
) -> None:
    """List what AnomalyHub has pushed to a store, the newest first."""
    from anomalyhub.hub import create_store

    found = create_store(store).list(kind, tag=tag, product=product)
    if as_json:
        typer.echo(json.dumps([asdict(info) for info in found], indent=1))
        return
    for info in found:
        day = "" if info.updated is None else time.strftime("%Y-%m-%d", time.localtime(info.updated))
        size = "" if info.size is None else f"{info.size / 1e6:.1f} MB"
        mark = "private" if info.private else ""
        typer.echo(f"{info.repo_id:40} {day:10} {size:>10} {mark:7} {info.revision[:12]:12} {' '.join(info.tags)}")
    if not found and (tag or product):
        typer.echo("nothing there is like that: leave out --tag and --product to see all")
    elif not found:
        typer.echo(f"nothing there: push something with anomalyhub push DIR OWNER/NAME --store {shlex.quote(store)}")


def _metrics(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(
            f"--metrics {path} cannot be read ({error}): give what evaluate --json wrote"
        ) from error
    if not isinstance(found, dict):
        raise InvalidArgumentError(f"--metrics {path} holds no JSON object: give what evaluate --json wrote")
    return found
