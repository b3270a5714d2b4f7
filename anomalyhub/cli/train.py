"""The verb `train`: auxiliary weights from other products, for detectors that see few images of a new one, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomalyhub.cli.pushing import pushes
from anomalyhub.cli.support import bar, output, readable, warn
from anomalyhub.cli.verbs import Out, Overwrite, Seed, Skip, _example, app
from anomalyhub.config import parse_settings


@app.command(
    epilog=_example(
        "anomalyhub train april-gan --data mvtec --product all --target visa --out april",
        "anomalyhub train siamese --data mvtec --exclude tile --backbone resnet18 --checkpoints run --out siamese",
    )
)
@pushes("model")
def train(
    trainer: Annotated[str, typer.Argument(help="april-gan (test images with masks) or siamese (normal images).")],
    data: Annotated[list[Path], typer.Option("--data", help="The source data set's root; may be repeated.")],
    out: Out,
    product: Annotated[
        list[str] | None, typer.Option("--product", help="all, or a product; may be repeated.  [all]")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A product to leave out, which will be measured; may be repeated.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="The data set that will be measured: said loudly if it shares images.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="april-gan: clip or clip@FOLDER; siamese: embedded, resnet18, …")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as epochs=15; repeatable.")
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Keeps each epoch; the same command goes on from there after a stop.")
    ] = None,
    seed: Seed = 0,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the auxiliary weights of a detector on a source data set, never on the one that is measured."""
    from anomalyhub.data import list_products
    from anomalyhub.pipeline.train import ALL, target_warning, training_products
    from anomalyhub.pipeline.train import train as run
    from anomalyhub.registry import trainers

    settings = parse_settings(setting or [])
    split = trainers[trainer].create(backbone, seed=seed, settings=settings).split
    products = training_products(data, split, product or [ALL], exclude or ())
    products = {name: readable(samples, skip_unreadable) for name, samples in products.items()}
    roots = [root for path in data for root in ([path / name for name in list_products(path)] or [path])]
    with output(out, overwrite, roots, *data, *filter(None, [target])) as staged:
        warning = target_warning(products, target) if target is not None and staged is not None else None
        warn(warning)  # before hours of training, and after them
        with bar("train") as progress:
            made = run(
                trainer,
                products,
                backbone=backbone,
                settings=settings,
                seed=seed,
                checkpoints=checkpoints,
                progress=progress,
            )
        if staged is not None:
            made.save(staged)
    if staged is None:
        return
    first, last = made.history_[0]["loss"], made.history_[-1]["loss"]
    count = sum(map(len, products.values()))
    typer.echo(f"trained {trainer} on {count} images of {', '.join(products)}: {out}")
    typer.echo(f"loss {first:.4f} in epoch 1, {last:.4f} in epoch {len(made.history_)}")
    warn(warning)
