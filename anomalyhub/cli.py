"""The command line: one verb per function, which parses, calls the pipeline and writes.

Exit codes: 0 done; 2 the input or the arguments are wrong, said in one line on standard error; 130 or 143 stopped by
Ctrl-C or SIGTERM; 1 anything else.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from anomalyhub.config import parse_settings
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidDatasetError, OutputError
from anomalyhub.fsio import atomic_file, atomic_folder, updated_folder
from anomalyhub.protocols import Progress

_STOPPED = 130

app = typer.Typer(
    name="anomalyhub",
    help="Find defective images of a product, and where the defects are.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[Path, typer.Option("--data", help="A data set's root, one product's folder, or a folder of images.")]
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

    with _bar("sample") as progress:
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
    )
)
def fit(
    detector: Annotated[str, typer.Argument(help="A detector, such as patchcore.")],
    data: Data,
    out: Out,
    product: Product = None,
    backbone: Annotated[
        str, typer.Option("--backbone", help="embedded, a timm name or hf:OWNER/NAME, then @FILE.safetensors if local.")
    ] = "embedded",
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
    dataset = _dataset(data, product)
    with _output(out, overwrite, data, dataset.root) as staged:
        settings = parse_settings(setting or [])
        samples = _readable(dataset.split("train"), skip_unreadable)
        from anomalyhub.pipeline import Inspector

        with _bar("fit", plan=staged is not None) as progress:
            inspector = Inspector.fit(
                detector,
                samples,
                backbone=backbone,
                false_alarm_rate=false_alarm_rate,
                product=dataset.product,
                seed=seed,
                settings=settings,
                progress=progress,
            )
        if staged is not None:
            inspector.write(staged)
    if staged is not None:
        typer.echo(f"fitted {detector} on {len(samples)} normal images of {dataset.product}: {out}")
        typer.echo(_threshold_text(inspector))


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
    dataset = _dataset(data, product)
    samples = _readable(dataset.split(split), skip_unreadable)
    with _output(out, overwrite, data, dataset.root, model) as staged:
        if staged is None:
            return
        inspector = _load(model, backbone)
        if false_alarm_rate is not None:
            threshold = _calibrated(inspector).at_rate(false_alarm_rate).threshold
        from anomalyhub.report.results import write_results

        with _bar("predict") as progress:
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
    dataset = _dataset(data, product)
    samples = _readable(dataset.labelled_test(), skip_unreadable)
    with atomic_file(json_file) if json_file is not None else nullcontext() as staged:
        inspector = _load(model, backbone)
        from anomalyhub.pipeline import evaluate as run
        from anomalyhub.state import read_json, write_json

        with _bar("evaluate") as progress:
            metrics = run(inspector, samples, progress)
        metrics["config"] = {"product": dataset.product, "layout": dataset.layout, **read_json(model / "config.json")}
        if staged is not None:
            write_json(staged, metrics)
    why = metrics.get("why", {})
    for name in ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"):
        value = metrics[name]
        typer.echo(f"{name:14} {'n/a    ' + why.get(name, '') if value is None else f'{value:.4f}'}")
    typer.echo(f"{'images':14} {metrics['n_images']}, {metrics['n_anomalous']} of them anomalous")


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
    inspector = _load(model, backbone)
    report: dict[str, Any] = {}
    if false_alarm_rate is not None:
        inspector.calibration = _calibrated(inspector).at_rate(false_alarm_rate)
    elif value is not None:
        inspector.calibration = _calibrated(inspector).at_threshold(value)
    else:
        if data is None or (not f1_max and None in costs):
            raise InvalidArgumentError("labelled images are needed: give --data, and for a cost both costs")
        inspector, report = _from_labels(inspector, _dataset(data, product).labelled_test(), costs, f1_max)
    with updated_folder(model) as staged:
        inspector.write(staged)
    typer.echo(_threshold_text(inspector))
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
    samples = None if undo else _readable(_dataset(data, product).split("train"), skip_unreadable)
    inspector = _load(model, backbone)
    if not hasattr(inspector.detector, "append"):
        raise InvalidArgumentError(f"{inspector.detector.name} cannot learn more images: fit again with all of them")
    with updated_folder(model) as staged, _bar("append") as progress:
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
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the browser.")] = False,
) -> None:
    """Open the app."""
    # the app lies above the command line, so it is a process of its own
    command = [sys.executable, "-m", "anomalyhub.ui", "--host", host]
    command += ["--port", str(port)] if port is not None else []
    command += ["--data-root", str(data_root)] if data_root is not None else []
    command += ["--no-browser"] if no_browser else []
    with subprocess.Popen(command) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # how the app is closed; Ctrl-C has reached it too, kill has not
            process.terminate()
            code = 0
    raise typer.Exit(code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; SIGTERM stops it as cleanly as Ctrl-C does."""
    caught: list[int] = []

    def stop(number: int, _: Any) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    code = run(arguments)
    sys.exit(128 + caught[0] if caught and code == _STOPPED else code)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Set ANOMALYHUB_DEBUG=1 for tracebacks."""
    try:
        code = int(app(args=arguments, prog_name="anomalyhub", standalone_mode=False) or 0)
        if code != _STOPPED:  # what the parser makes of Ctrl-C; older ones raise Abort
            return code
        return _fail("stopped; nothing was written", _STOPPED)
    except AnomalyHubError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; nothing was written", _STOPPED)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own errors, whichever module they come from
            return _fail(f"{error.format_message().rstrip('.')}: see anomalyhub {_verb(error)}--help", 2)
        if isinstance(error, MemoryError):
            return _fail("out of memory: lower byte_budget, batch_size or resize with --set", 1)
        if os.environ.get("ANOMALYHUB_DEBUG"):
            traceback.print_exc()
        return _fail(f"unexpected {type(error).__name__}: {error} (ANOMALYHUB_DEBUG=1 shows where)", 1)


def _fail(message: str, code: int) -> int:
    if os.environ.get("ANOMALYHUB_DEBUG") and code == 2:
        traceback.print_exc()
    print("anomalyhub: " + " ".join(message.split()), file=sys.stderr)
    return code


def _verb(error: Any) -> str:
    name = getattr(getattr(error, "ctx", None), "info_name", None)
    return f"{name} " if name and name != "anomalyhub" else ""


@contextmanager
def _bar(title: str, plan: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error; silent where that is not a terminal.

    plan  print the text that comes with 0.0 on standard output: it says what the work will take
    """
    from tqdm import tqdm

    layout = "{desc:<60.60} {percentage:3.0f}%|{bar}| {elapsed}"
    with tqdm(total=1.0, desc=title, bar_format=layout, disable=not sys.stderr.isatty(), leave=False) as bar:

        def progress(fraction: float, text: str) -> None:
            if plan and fraction == 0.0:
                tqdm.write(text)
            bar.set_description_str(f"{title}: {text}", refresh=False)
            bar.update(max(0.0, fraction - bar.n))

        yield progress


@contextmanager
def _output(out: Path, overwrite: bool, data: Path, root: Path, *inputs: Path) -> Iterator[Path | None]:
    """The staged output folder; None in all but the first of several processes, which write nothing."""
    if int(os.environ.get("RANK", "0")) > 0:
        yield None
        return
    from anomalyhub.data import list_products

    kept = (data, root, *inputs, *(data / name for name in list_products(data)))  # whatever --overwrite says
    with atomic_folder(out, overwrite, kept) as staged:
        if not data.expanduser().is_file() and staged.parent.is_relative_to(root.resolve()):
            raise OutputError(f"{out} lies inside {root}, whose images are read: choose an --out outside it")
        yield staged


def _dataset(data: Path, product: str | None):
    from anomalyhub.data import load_dataset

    return load_dataset(data, product)


def _readable(samples: Any, skip: bool):
    """The split, without what cannot be decoded if that is to be skipped."""
    failures = samples.unreadable() if skip else []
    if failures and len(failures) == len(samples):
        raise InvalidDatasetError(f"none of the {len(samples)} images can be read, to begin with {failures[0][1]}")
    for _, reason in failures:
        print(f"anomalyhub: skipped: {reason}", file=sys.stderr)
    return samples.without(name for name, _ in failures)


def _load(model: Path, backbone: str | None):
    from anomalyhub.pipeline import Inspector

    return Inspector.load(model, backbone=backbone)


def _calibrated(inspector: Any):
    if inspector.calibration is None:
        raise InvalidArgumentError(
            "this model has no held-out scores, being fitted on 1 image or with calibration_images=0: "
            "fit on more normal images, or give --threshold when predicting"
        )
    return inspector.calibration


def _from_labels(inspector: Any, samples: Any, costs: tuple[float, float], f1_max: bool):
    from anomalyhub.types import GOOD

    _calibrated(inspector)
    with _bar("threshold") as progress:
        scores = [result.score for result in inspector.inspect(samples, progress=progress)]
    return inspector.choose_threshold(
        [label != GOOD for label in samples.labels], scores, costs=None if f1_max else costs
    )


def _threshold_text(inspector: Any) -> str:
    calibration = inspector.calibration
    if calibration is None:
        return "no threshold, as no normal image could be held out: give --threshold when predicting"
    text = f"threshold {calibration.threshold:.4f} ({calibration.method.replace('_', '-')}"
    if calibration.false_alarm_rate is not None:
        text += f", {calibration.false_alarm_rate:.2%} of normal images, {len(calibration.scores)} held out"
        text += "" if calibration.resolvable else ", extrapolated: more normal images would make it surer"
    return text + ")"
