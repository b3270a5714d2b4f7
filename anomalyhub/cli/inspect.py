"""The verb `inspect`: the whole chain on images, and a report of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from anomalyhub.cli.support import bar, for_batch, open_dataset, output, readable
from anomalyhub.cli.verbs import Data, Out, Overwrite, Product, Skip, Weights, _example, app
from anomalyhub.errors import InvalidArgumentError


@app.command(
    epilog=_example(
        "anomalyhub inspect ring_kinds --data sample --product ring --out inspection",
        "anomalyhub inspect ring --data sample --product ring --kinds kinds/model --out inspection",
    )
)
def inspect(
    model: Annotated[Path, typer.Argument(metavar="INSPECTOR", help="The --out folder of classify fit, or of a fit.")],
    data: Data,
    out: Out,
    product: Product = None,
    split: Annotated[str, typer.Option(help="Which images of a split data set: test, train or all.")] = "test",
    kinds: Annotated[
        Path | None, typer.Option(help="The model/ of a discovery, whose kinds name what is found.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Image score above which an image is anomalous.")] = None,
    no_maps: Annotated[bool, typer.Option("--no-maps", help="Do not write maps/, most of the bytes.")] = False,
    backbone: Weights = None,
    kinds_backbone: Annotated[
        str | None, typer.Option(help="Where the weights that kinds are seen by are now: NAME@FILE.safetensors.")
    ] = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Find defects, name them, and say why: tables, overlays, regions.coco.json and report.html for people."""
    if threshold is not None and not math.isfinite(threshold):
        raise InvalidArgumentError(f"--threshold must be a finite number, got {threshold}: give a score, such as 1.5")
    dataset = open_dataset(data, product)
    everything = dataset.split(split)
    samples = readable(everything, skip_unreadable)
    with output(out, overwrite, [dataset.root], *(path for path in (data, model, kinds) if path is not None)) as staged:
        if staged is None:
            return
        inspector = for_batch(_inspector(model, kinds, backbone, kinds_backbone), samples)
        inspector = inspector if threshold is None else inspector.with_threshold(threshold)
        from anomalyhub.report.identity import ModelIdentity
        from anomalyhub.report.inspection import write_inspections

        def explain(rows: Sequence[int]) -> Any:
            return inspector.explain(samples.select(rows))

        with bar("inspect") as progress:
            summary = write_inspections(
                staged,
                inspector.inspect_with_samples(samples, progress=progress),
                ModelIdentity.of(inspector, model.resolve().name, _check(model) if kinds is None else {}),
                data=dataset.product,
                maps=not no_maps,
                skipped=[reason for _, reason in everything.without(samples.ids).unreadable()],
                # those that judge images by each other see others in the few that are explained
                explain=explain if inspector.kinds and not inspector.detector.transductive else None,
            )
    _say(summary, out)


def _inspector(model: Path, kinds: Path | None, backbone: str | None, kinds_backbone: str | None) -> Any:
    from anomalyhub.pipeline import Inspector
    from anomalyhub.pipeline.classify import with_kinds

    if kinds is None:
        return Inspector.load(model, backbone=backbone, crop_backbone=kinds_backbone)
    folder = kinds if (kinds / "config.json").exists() else kinds / "model"  # a discovery's --out will do as well
    return with_kinds(Inspector.load(model, backbone=backbone), folder if folder.is_dir() else kinds, kinds_backbone)


def _check(model: Path) -> dict[str, Any]:
    """How well the examples were told apart when the kinds were learned, if that was measured."""
    from anomalyhub.pipeline.classify import EXAMPLES, read_examples

    return read_examples(model).get("leave_one_out") or {} if (model / EXAMPLES).exists() else {}


def _say(summary: dict[str, Any], out: Path) -> None:
    found, total = summary["n_defective"], summary["n_images"]
    typer.echo(f"{found} of {total} images look defective: {out / 'report.html'}")
    for kind, counts in summary["kinds"].items():
        if counts["images"] or counts["regions"]:
            typer.echo(f"{kind:14} {counts['images']} images, {counts['regions']} regions")
