"""One verb per function: it parses, calls the pipeline and writes."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from anomalyhub.cli.pushing import pushes
from anomalyhub.cli.support import (
    bar,
    calibrated,
    for_batch,
    from_labels,
    load,
    open_dataset,
    open_named,
    output,
    readable,
    support,
    threshold_text,
    warn,
    words_setting,
)
from anomalyhub.config import parse_settings
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.fsio import atomic_file, updated_folder

app = typer.Typer(
    name="anomalyhub",
    help="Find defective images of a product, and where the defects are.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[
    Path,
    typer.Option("--data", help="A data set's root, one product's folder, a folder of images, or hf:OWNER/NAME."),
]
Product = Annotated[str | None, typer.Option("--product", help="One of the products of the data set's root.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist yet, or be empty.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the --out folder.")]
Model = Annotated[Path, typer.Argument(help="The --out folder of a fit.")]
Seed = Annotated[int, typer.Option("--seed", help="Fixes everything random.", min=0)]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Leave damaged images out, and name them.")]
Weights = Annotated[str | None, typer.Option("--backbone", help="Where the weights are now: NAME@FILE.safetensors.")]


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)  # \b: lines that can be copied are not wrapped


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from anomalyhub import __version__

        typer.echo(f"anomalyhub {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    epilog=_example("anomalyhub sample --out sample", "anomalyhub sample --product ring --train 80 --out rings")
)
def sample(
    out: Out,
    product: Annotated[list[str] | None, typer.Option("--product", help="Only this product; may be repeated.")] = None,
    train: Annotated[int, typer.Option(help="Normal images to fit on, per product.", min=1)] = 40,
    test: Annotated[int, typer.Option(help="Normal images to test, per product.", min=0)] = 10,
    defects: Annotated[int, typer.Option(help="Images of each kind of defect.", min=0)] = 8,
    size: Annotated[int, typer.Option(help="Height of the images in pixels.")] = 256,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw the bundled sample data set: three products in the MVTec AD layout."""
    from anomalyhub.data.sample import PRODUCTS, write_sample

    with bar("sample") as progress:
        write_sample(
            out,
            products=product or PRODUCTS,
            n_train=train,
            n_test_good=test,
            n_defect=defects,
            size=size,
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(f"wrote {', '.join(product or PRODUCTS)} to {out}")


@app.command(
    epilog=_example(
        "anomalyhub fit patchcore --data sample --product ring --out ring",
        "anomalyhub fit patchcore --data photos --backbone resnet18@weights.safetensors --set layers=2,3 --out model",
        "anomalyhub fit patchcore --data sample --product ring --shots 4 --set augment=true --out few",
        "anomalyhub fit musc --data sample --product ring --split test --out ring_without_normals",
        "anomalyhub fit winclip --shots 0 --product 'metal ring' --out ring_by_its_name",
        "anomalyhub fit siamese --data photos --shots 4 --backbone resnet18 --set weights=siamese --out model",
    )
)
@pushes("model")
def fit(
    detector: Annotated[str, typer.Argument(help="A detector, such as patchcore.")],
    out: Out,
    data: Annotated[
        Path | None, typer.Option("--data", help="As for predict; needless where a detector learns from no image.")
    ] = None,
    product: Product = None,
    split: Annotated[
        str, typer.Option(help="The images: train (normal ones); test or all for musc, which needs no labels.")
    ] = "train",
    shots: Annotated[
        int | None, typer.Option(help="Only so many of them, a fixed choice; 0: none, with a name or with weights.")
    ] = None,
    support_set: Annotated[int, typer.Option(help="Which of the fixed choices.", min=0, max=9)] = 0,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="embedded, a timm name, hf:OWNER/NAME or clip; then @FILE if local."),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the detector; may be repeated.")
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of normal images that the threshold may call anomalous.")
    ] = 0.01,
    seed: Seed = 0,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Learn what is normal from the product's normal images; sets the threshold from them alone."""
    if data is None and shots != 0:
        raise InvalidArgumentError("there are no images to learn from: give --data, or --shots 0 to learn from none")
    dataset, words = open_named(data, product, detector)
    name = words if dataset is None else dataset.product
    roots, inputs = ([], []) if dataset is None else ([dataset.root], [data])
    with output(out, overwrite, roots, *inputs) as staged:
        settings = {**words_setting(detector, words), **parse_settings(setting or [])}
        samples = support(dataset, split, shots, support_set, skip_unreadable)
        from anomalyhub.pipeline import Inspector
        from anomalyhub.registry import detectors

        plans = getattr(detectors[detector], "plans", False)
        with bar("fit", plan=plans and staged is not None) as progress:
            inspector = Inspector.fit(
                detector,
                samples,
                backbone=backbone,
                false_alarm_rate=false_alarm_rate,
                product=name,
                seed=seed,
                settings=settings,
                progress=progress,
            )
        if staged is not None:
            inspector.write(staged)
    if staged is not None:
        what = "normal images" if split == "train" else f"{split} images"
        typer.echo(f"fitted {detector} on {len(samples)} {what} of {name or 'any product'}: {out}")
        typer.echo(threshold_text(inspector))


@app.command(epilog=_example("anomalyhub predict ring --data sample --product ring --out results"))
def predict(
    model: Model,
    data: Data,
    out: Out,
    product: Product = None,
    split: Annotated[str, typer.Option(help="Which images of a split data set: test, train or all.")] = "test",
    threshold: Annotated[float | None, typer.Option(help="Image score above which an image is anomalous.")] = None,
    false_alarm_rate: Annotated[float | None, typer.Option(help="Set it for this share of normals.")] = None,
    no_maps: Annotated[bool, typer.Option("--no-maps", help="Do not write maps/, most of the bytes.")] = False,
    backbone: Weights = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Judge images: predictions.csv, maps/*.npy, overlays/*.png and regions.coco.json."""
    if threshold is not None and false_alarm_rate is not None:
        raise InvalidArgumentError("--threshold and --false-alarm-rate exclude each other: give one of them")
    if threshold is not None and not math.isfinite(threshold):
        raise InvalidArgumentError(f"--threshold must be a finite number, got {threshold}: give a score, such as 1.5")
    dataset = open_dataset(data, product)
    samples = readable(dataset.split(split), skip_unreadable)
    with output(out, overwrite, [dataset.root], data, model) as staged:
        if staged is None:
            return
        inspector = for_batch(load(model, backbone), samples)
        if false_alarm_rate is not None:
            threshold = calibrated(inspector).at_rate(false_alarm_rate).threshold
        from anomalyhub.report.results import write_results

        with bar("predict") as progress:
            pairs = inspector.inspect_with_samples(samples, threshold=threshold, progress=progress)
            rows = write_results(staged, pairs, inspector.map_threshold(threshold), maps=not no_maps)
    found = sum(row.is_anomalous for row in rows)
    typer.echo(f"{found} of {len(rows)} images look defective: {out / 'predictions.csv'}")


@app.command(epilog=_example("anomalyhub evaluate ring --data sample --product ring --json metrics.json"))
def evaluate(
    model: Model,
    data: Data,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the metrics to this file as well.")] = None,
    product: Product = None,
    backbone: Weights = None,
    skip_unreadable: Skip = False,
) -> None:
    """Measure a model on labelled images: image and pixel AUROC, AP, F1-max, and AUPRO."""
    dataset = open_dataset(data, product)
    samples = readable(dataset.labelled_test(), skip_unreadable)
    with atomic_file(json_file) if json_file is not None else nullcontext() as staged:
        inspector = load(model, backbone)
        from anomalyhub.pipeline import evaluate as run
        from anomalyhub.state import read_json, write_json

        with bar("evaluate") as progress:
            metrics = run(inspector, samples, progress, dataset.product)
        metrics["config"] = {"product": dataset.product, "layout": dataset.layout, **read_json(model / "config.json")}
        if staged is not None:
            write_json(staged, metrics)
    why = metrics.get("why", {})
    for name in ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"):
        value = metrics[name]
        typer.echo(f"{name:14} {'n/a    ' + why.get(name, '') if value is None else f'{value:.4f}'}")
    typer.echo(f"{'images':14} {metrics['n_images']}, {metrics['n_anomalous']} of them anomalous")
    warn(metrics.get("warning"))


@app.command(
    epilog=_example(
        "anomalyhub threshold ring --false-alarm-rate 0.02",
        "anomalyhub threshold ring --data sample --product ring --f1-max",
        "anomalyhub threshold ring --data sample --product ring --cost-escape 50 --cost-false-alarm 1",
    )
)
def threshold(
    model: Model,
    data: Annotated[Path | None, typer.Option("--data", help="Labelled images, for --f1-max and the costs.")] = None,
    product: Product = None,
    false_alarm_rate: Annotated[float | None, typer.Option(help="From the held-out normal images alone.")] = None,
    value: Annotated[float | None, typer.Option("--value", help="This very threshold.")] = None,
    f1_max: Annotated[bool, typer.Option("--f1-max", help="Best F1 on labelled images.")] = False,
    cost_escape: Annotated[float | None, typer.Option(help="Cost of a defective part that passes.")] = None,
    cost_false_alarm: Annotated[float | None, typer.Option(help="Cost of a good part that is stopped.")] = None,
    backbone: Weights = None,
) -> None:
    """Set a model's threshold, and keep it in the model."""
    costs = (cost_escape, cost_false_alarm)
    ways = [false_alarm_rate is not None, value is not None, f1_max, any(cost is not None for cost in costs)]
    if sum(ways) != 1:
        raise InvalidArgumentError(
            "choose one way to set the threshold: --false-alarm-rate, --value, --f1-max, "
            "or --cost-escape with --cost-false-alarm"
        )
    inspector = load(model, backbone)
    report: dict[str, Any] = {}
    if false_alarm_rate is not None:
        inspector.calibration = calibrated(inspector).at_rate(false_alarm_rate)
    elif value is not None:
        if not math.isfinite(value):
            raise InvalidArgumentError(f"--value must be a finite number, got {value}: give a score, such as 1.5")
        inspector = inspector.with_threshold(value)
    else:
        if data is None or (not f1_max and None in costs):
            raise InvalidArgumentError("labelled images are needed: give --data, and for a cost both costs")
        inspector, report = from_labels(inspector, open_dataset(data, product).labelled_test(), costs, f1_max)
    with updated_folder(model) as staged:
        inspector.write(staged)
    typer.echo(threshold_text(inspector))
    for key in ("f1", "cost", "escape_rate", "false_alarm_rate"):
        if report.get(key) is not None:
            typer.echo(f"{key:16} {report[key]:.4f}")


@app.command(epilog=_example("anomalyhub append ring --data new_photos", "anomalyhub append ring --undo"))
def append(
    model: Model,
    data: Annotated[Path | None, typer.Option("--data", help="More normal images.")] = None,
    product: Product = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last append back.")] = False,
    backbone: Weights = None,
    skip_unreadable: Skip = False,
) -> None:
    """Teach a fitted model more normal images, or take the last ones back."""
    if undo == (data is not None):
        raise InvalidArgumentError("give either --data with more normal images, or --undo")
    samples = None if undo else readable(open_dataset(data, product).split("train"), skip_unreadable)
    inspector = load(model, backbone)
    if not hasattr(inspector.detector, "append"):
        raise InvalidArgumentError(f"{inspector.detector.name} cannot learn more images: fit again with all of them")
    with updated_folder(model) as staged, bar("append") as progress:
        if undo:
            inspector.detector.undo_append()
        else:
            inspector.detector.append(samples, progress)
        inspector.write(staged)
    typer.echo(f"took the last append back: {model}" if undo else f"added {len(samples)} normal images to {model}")


@app.command(epilog=_example("anomalyhub demo --port 7860", "anomalyhub demo --data-root datasets"))
def demo(
    port: Annotated[int | None, typer.Option(help="Port of the app; default 7860, or the next that is free.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    data_root: Annotated[Path | None, typer.Option(help="Lets the app offer the data sets below this folder.")] = None,
    home: Annotated[Path | None, typer.Option(help="Keeps models and discoveries; default $ANOMALYHUB_HOME.")] = None,
    store: Annotated[list[str] | None, typer.Option(help="folder:PATH that visitors may use; repeatable.")] = None,
    results: Annotated[list[Path] | None, typer.Option(help="Of a benchmark, for the leaderboard; repeatable.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the browser.")] = False,
) -> None:
    """Open the app."""
    # the app lies above the command line, so it is a process of its own
    command = [sys.executable, "-m", "anomalyhub.ui", "--host", host]
    command += ["--port", str(port)] if port is not None else []
    command += ["--data-root", str(data_root)] if data_root is not None else []
    command += ["--home", str(home)] if home is not None else []
    command += [part for spec in store or () for part in ("--store", spec)]
    command += [part for folder in results or () for part in ("--results", str(folder))]
    command += ["--no-browser"] if no_browser else []
    with subprocess.Popen(command) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # how the app is closed; Ctrl-C has reached it too, kill has not
            process.terminate()
            code = 0
    raise typer.Exit(code)
