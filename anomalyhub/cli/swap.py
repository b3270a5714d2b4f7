"""The verb `swap`: every detector, binarizer and classifier on one's own labelled images, and whose the errors are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from anomalyhub.cli.pushing import pushes
from anomalyhub.cli.support import bar, open_dataset, output
from anomalyhub.cli.verbs import Data, Out, Overwrite, Product, _example, app
from anomalyhub.config import configure
from anomalyhub.errors import InvalidArgumentError

_PART = "NAME[,KEY=VALUE]…"


@app.command(
    epilog=_example(
        "anomalyhub swap --data sample --product ring --out swapped",
        "anomalyhub swap --data photos --detector patchcore --detector patchcore,backbone=resnet18 --detector musc "
        "--out swapped",
        "anomalyhub swap --data photos --binarizer fixed,value=0.5 --classifier relation --out swapped",
    )
)
@pushes("dataset")
def swap(
    data: Data,
    out: Out,
    product: Product = None,
    detector: Annotated[
        list[str] | None, typer.Option(metavar=_PART, help="May be repeated; backbone=SPEC too.  [patchcore]")
    ] = None,
    binarizer: Annotated[
        list[str] | None, typer.Option(metavar=_PART, help="May be repeated.  [mebin and otsu]")
    ] = None,
    classifier: Annotated[
        list[str] | None, typer.Option(metavar=_PART, help="May be repeated.  [prototype, direct, contrastive]")
    ] = None,
    shots: Annotated[int, typer.Option(help="Examples per kind, drawn at random.", min=1)] = 3,
    seeds: Annotated[int, typer.Option(help="How often each chain is made, with other examples.", min=1)] = 3,
    exclude: Annotated[list[str] | None, typer.Option(help="A kind to leave out; may be repeated.")] = None,
    false_alarm_rate: Annotated[float, typer.Option(help="Of the detectors' thresholds.")] = 0.01,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Keeps each row; the same command goes on from there after a stop.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Try every chain of detector, binarizer and classifier on labelled images: which is best, and where errors arise.

    Writes swap.csv, swap.json and lost.png: what is lost to the verdict, the binarization, the map and the classifier.
    """
    if not 0.0 < false_alarm_rate < 1.0:
        raise InvalidArgumentError(f"--false-alarm-rate must lie between 0 and 1, got {false_alarm_rate}: 0.01 is 1 %")
    from anomalyhub.benchmark.swap import SwapConfig, swap_to

    chosen = {"detectors": detector, "binarizers": binarizer, "classifiers": classifier}
    config = configure(
        SwapConfig,
        {
            "data": str(data),
            "product": product,
            **{name: tuple(texts) for name, texts in chosen.items() if texts},
            "shots": shots,
            "seeds": tuple(range(seeds)),
            "exclude": tuple(exclude or ()),
            "false_alarm_rate": false_alarm_rate,
        },
    )
    with output(out, overwrite, [open_dataset(data, product).root], data) as staged, bar("swap") as progress:
        if staged is None:
            return
        made = swap_to(staged, config, progress=progress, checkpoints=checkpoints)
    for notice in made.notices:
        print(f"anomalyhub: notice: {notice}", file=sys.stderr)
    for row in made.summary():
        chain = " + ".join(row[name] for name in ("detector", "binarizer", "classifier"))
        parts = (f"{stage} {100 * share:.1f}" for stage, share in row["lost"].items() if share is not None)
        typer.echo(f"{100 * row['accuracy'][0]:5.1f} % right  {chain}  (lost to {', '.join(parts)})")
    typer.echo(f"where the errors are from: {out / 'lost.png'}")
