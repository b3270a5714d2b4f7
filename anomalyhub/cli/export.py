"""The verb `export`: products as a data set that Hugging Face's `datasets` reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyhub.cli.pushing import pushes
from anomalyhub.cli.support import bar, open_dataset, output, readable
from anomalyhub.cli.verbs import Data, Out, Overwrite, Seed, Skip, _example, app

if TYPE_CHECKING:
    from anomalyhub.data import Dataset


@app.command(
    epilog=_example(
        "anomalyhub export --data sample --product ring --license cc-by-4.0 --out ring_data",
        "anomalyhub export --data sample --format parquet --out sample_data",
    )
)
@pushes("dataset")
def export(
    data: Data,
    out: Out,
    product: Annotated[
        list[str] | None, typer.Option("--product", help="Only this product; may be repeated.  [all]")
    ] = None,
    format: Annotated[
        str, typer.Option(help="imagefolder (files as in MVTec AD) or parquet (for large ones, can be streamed).")
    ] = "imagefolder",
    license: Annotated[
        str | None, typer.Option(help="For the card, as the Hub names it: cc-by-4.0, mit, other …")
    ] = None,
    seed: Seed = 0,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Write products with images, masks, boxes and labels, and a card: one config for each, ready to be pushed."""
    from anomalyhub.data.export import export as run

    datasets = [_readable(open_dataset(data, name, seed), skip_unreadable) for name in product or _products(data)]
    with output(out, overwrite, [one.root for one in datasets], data) as staged:
        if staged is None:
            return
        with bar("export") as progress:
            subsets = run(datasets, staged, format, license=license, progress=progress)
    for one in subsets:
        counts = ", ".join(f"{sum(labels.values())} {split}" for split, labels in one.counts.items())
        typer.echo(f"{one.name}: {counts} images, {sum(one.n_bytes.values()) / 1e6:.1f} MB")
    typer.echo(f"wrote {out}")


def _readable(dataset: Dataset, skip: bool) -> Dataset:
    return replace(dataset, train=readable(dataset.train, skip), test=readable(dataset.test, skip)) if skip else dataset


def _products(data: Path) -> tuple[str | None, ...]:
    from anomalyhub.data import list_products

    return list_products(data) or (None,)
