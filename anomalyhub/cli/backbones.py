"""The verb `backbones`: what there is to choose from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from anomalyhub.cli.verbs import _example, app


@app.command(
    epilog=_example(
        "anomalyhub backbones",
        "anomalyhub backbones --json",
    )
)
def backbones(as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False) -> None:
    """List recommended backbones: SPEC, size, licence, the Hub's id, what each is good for, whether it is here.

    Any timm name and any hf:OWNER/NAME of a timm model or a CLIP can be given to --backbone as well.
    """
    from anomalyhub.backbones.catalogue import CATALOGUE

    if as_json:
        typer.echo(json.dumps([one.to_json() for one in CATALOGUE], indent=1))
        return
    typer.echo(f"{'SPEC':31} {'MB':>6} {'here':4} {'licence':12} Hub id")
    for one in CATALOGUE:
        here = "yes" if one.cached else "no"
        size = f"{one.size / 1e6:.0f}"
        typer.echo(f"{one.spec:31} {size:>6} {here:4} {one.license:12} {one.repo_id or 'in the package'}")
        typer.echo(f"    {one.good_for}; {one.parameters / 1e6:.1f} M parameters")
