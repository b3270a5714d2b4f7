"""The verb `synthesize`: defects that the program paints on normal images, to pretrain on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from anomalyhub.cli.pushing import pushes
from anomalyhub.cli.support import bar, open_dataset, output
from anomalyhub.cli.verbs import Data, Overwrite, Product, Seed, Skip, _example, app
from anomalyhub.config import configure, parse_settings
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.fsio import atomic_file


@app.command(
    epilog=_example(
        "anomalyhub synthesize --data sample --product ring --mask perlin --count 480 --out painted",
        "anomalyhub synthesize --data photos --textures dtd --mask polygon --set polygon_area=0.1 --out painted",
        "anomalyhub synthesize --data sample --product ring --set foreground=floodfill --preview look.png",
    )
)
@pushes("dataset")
def synthesize(
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; it must not exist yet, or be empty.")
    ] = None,
    product: Product = None,
    textures: Annotated[
        Path | None,
        typer.Option(help="A folder of folders of textures (DTD), or of textures; without it they are drawn."),
    ] = None,
    mask: Annotated[str | None, typer.Option(help="perlin, poisson or polygon.  [perlin]")] = None,
    count: Annotated[int, typer.Option(help="Images in all; each texture is a class of its own.", min=1)] = 480,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="beta, area, polygon_area, foreground or size; may be repeated."
        ),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Only this picture: foreground, mask and result of a few images.")
    ] = None,
    seed: Seed = 0,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Paint defects on the normal images: a data set in the MVTec AD layout, which `datasets` of Hugging Face reads."""
    from anomalyhub.pipeline.synthesize import SynthesizeConfig, synthesize_to

    settings = parse_settings(setting or [])
    if mask is not None and settings.setdefault("mask", mask) != mask:
        raise InvalidArgumentError("the mask is given twice, by --mask and by --set mask=: give it once")
    config = configure(
        SynthesizeConfig,
        {
            "data": str(data),
            "product": product,
            "textures": None if textures is None else str(textures),
            "count": count,
            "settings": settings,
            "skip_unreadable": skip_unreadable,
        },
    )
    if preview is not None:
        _write_preview(preview, config, seed)
        return
    if out is None:
        raise InvalidArgumentError("there is nothing to write: give --out, or --preview for a picture alone")
    root, inputs = open_dataset(data, product).root, [data, *filter(None, [textures])]
    with output(out, overwrite, [root], *inputs) as staged:
        if staged is None:
            return
        with bar("synthesize") as progress:
            made = synthesize_to(staged, config, seed=seed, progress=progress)
    for text in (*made.notices, *(f"skipped: {reason}" for reason in made.skipped)):
        print(f"anomalyhub: {text}", file=sys.stderr)
    found = made.info["foreground"]
    typer.echo(f"{made.info['count']} images of {len(made.info['classes'])} pseudo-classes: {out}")
    typer.echo(f"foreground: {found['method']} ({found['reason']})")


def _write_preview(path: Path, config, seed: int) -> None:
    from PIL import Image

    from anomalyhub.pipeline.synthesize import preview_sheet

    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InvalidArgumentError(f"--preview {path} is no .png or .jpg file: give a name such as look.png")
    with atomic_file(path) as staged:
        Image.fromarray(preview_sheet(config, seed=seed)).save(staged)
    typer.echo(f"foreground, mask and result of a few images: {path}")
