"""The verb `discover`: which kinds of defect there are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyhub.cli.pushing import pushes
from anomalyhub.cli.support import bar, open_dataset, output
from anomalyhub.cli.verbs import Data, Out, Overwrite, Product, Seed, Skip, _example, app
from anomalyhub.config import configure, parse_settings

if TYPE_CHECKING:
    from anomalyhub.report.discovery import Discovered


@app.command(
    epilog=_example(
        "anomalyhub discover --data sample --product ring --model ring --out kinds",
        "anomalyhub discover --data photos --maps other_tool/maps --classes 5 --out kinds",
        "anomalyhub discover --data mtd --masks ground-truth --method anomalyncd --base steel --out kinds",
        "anomalyhub discover --data new_photos --model ring --apply kinds/model --out new_kinds",
    )
)
@pushes("model", "model")
def discover(
    data: Data,
    out: Out,
    product: Product = None,
    model: Annotated[Path | None, typer.Option(help="A detector's folder: its anomaly maps are taken.")] = None,
    maps: Annotated[Path | None, typer.Option(help="A folder of anomaly maps (.npy, .png, .tiff) of any tool.")] = None,
    masks: Annotated[str | None, typer.Option(help="ground-truth: the data set's own masks.")] = None,
    classes: Annotated[str, typer.Option(metavar="K|auto", help="How many kinds, normal included.")] = "auto",
    base: Annotated[Path | None, typer.Option(help="A labelled data set of other defects, for anomalyncd.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="A class to leave out; may be repeated.")] = None,
    method: Annotated[str, typer.Option(help="A discoverer: clustering or anomalyncd.")] = "clustering",
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="A transformer: embedded, a timm name, then @FILE if local.  [embedded]"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the method, such as preset=paper; may be repeated."
        ),
    ] = None,
    binarizer: Annotated[
        str, typer.Option(metavar="NAME[,KEY=VALUE]…", help="From maps to regions: mebin, otsu or fixed,value=0.5.")
    ] = "mebin",
    false_alarm_rate: Annotated[
        float,
        typer.Option(help="With --model: share of normal images that may have a region; 1: the binarizer decides."),
    ] = 0.1,
    split: Annotated[str, typer.Option(help="Which images of a split data set: test, train or all.")] = "test",
    holdout: Annotated[float, typer.Option(help="Share of the images that only predict: inductive metrics.")] = 0.0,
    apply: Annotated[
        Path | None, typer.Option(help="The model/ of an earlier discovery: assign to its kinds, fit nothing.")
    ] = None,
    detector_backbone: Annotated[
        str | None, typer.Option(help="Where --model's weights are now: NAME@FILE.safetensors.")
    ] = None,
    seed: Seed = 0,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Group the defects into kinds: assignments.csv, clusters/*.png, plots, model/, and metrics.json with labels."""
    from anomalyhub.pipeline.discover import DiscoverConfig, discover_to

    name, *options = binarizer.split(",")
    config = configure(
        DiscoverConfig,
        {
            "data": str(data),
            "product": product,
            "split": split,
            "exclude": tuple(exclude or ()),
            "model": _text(model),
            "maps": _text(maps),
            "masks": masks,
            "false_alarm_rate": false_alarm_rate,
            "binarizer": name,
            "binarizer_settings": parse_settings(options),
            "classes": classes,
            "discoverer": method,
            "backbone": backbone,
            "settings": parse_settings(setting or []),
            "base": _text(base),
            "holdout": holdout,
            "apply": _text(apply),
            "detector_backbone": detector_backbone,
            "skip_unreadable": skip_unreadable,
        },
    )
    inputs = [path for path in (model, maps, base, apply) if path is not None]
    roots = [open_dataset(data, product).root]
    with output(out, overwrite, roots, data, *inputs) as staged, bar("discover") as progress:
        found = discover_to(staged, config, seed=seed, progress=progress)
    for reason in found.skipped:
        print(f"anomalyhub: skipped: {reason}", file=sys.stderr)
    if staged is not None:
        _say(found, out)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _say(found: Discovered, out: Path) -> None:
    clusters = found.image_clusters
    typer.echo(f"{len(found.classes)} kinds among {len(found.sub_images)} crops of {len(clusters)} images: {out}")
    for name in dict.fromkeys((*found.classes, *clusters)):
        typer.echo(f"{name:14} {clusters.count(name)} images")
    metrics: dict[str, Any] = found.metrics()
    for part in ("image", "region"):
        for where, values in (("", metrics), (" of held-out images", metrics.get("inductive") or {})):
            if values.get(part):
                line = "  ".join(f"{key.upper()} {_figure(values[part][key])}" for key in ("nmi", "ari", "f1"))
                typer.echo(f"{part + 's' + where:26} {line}")


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
