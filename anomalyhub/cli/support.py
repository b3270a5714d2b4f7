"""What the verbs share: progress bars, outputs, inputs, and how a threshold is said."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, OutputError
from anomalyhub.fsio import atomic_folder
from anomalyhub.protocols import Progress


@contextmanager
def bar(title: str, plan: bool = False) -> Iterator[Progress]:
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
def output(out: Path, overwrite: bool, data: Path, root: Path, *inputs: Path) -> Iterator[Path | None]:
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


def open_dataset(data: Path, product: str | None):
    from anomalyhub.data import load_dataset

    return load_dataset(data, product)


def readable(samples: Any, skip: bool):
    """The split, without what cannot be decoded if that is to be skipped."""
    failures = samples.unreadable() if skip else []
    if failures and len(failures) == len(samples):
        raise InvalidDatasetError(f"none of the {len(samples)} images can be read, to begin with {failures[0][1]}")
    for _, reason in failures:
        print(f"anomalyhub: skipped: {reason}", file=sys.stderr)
    return samples.without(name for name, _ in failures)


def load(model: Path, backbone: str | None):
    from anomalyhub.pipeline import Inspector

    return Inspector.load(model, backbone=backbone)


def calibrated(inspector: Any):
    if inspector.calibration is None:
        raise InvalidArgumentError(
            "this model has no held-out scores, being fitted on 1 image or with calibration_images=0: "
            "fit on more normal images, or give --threshold when predicting"
        )
    return inspector.calibration


def from_labels(inspector: Any, samples: Any, costs: tuple[float, float], f1_max: bool):
    from anomalyhub.types import GOOD

    calibrated(inspector)
    with bar("threshold") as progress:
        scores = [result.score for result in inspector.inspect(samples, progress=progress)]
    return inspector.choose_threshold(
        [label != GOOD for label in samples.labels], scores, costs=None if f1_max else costs
    )


def threshold_text(inspector: Any) -> str:
    calibration = inspector.calibration
    if calibration is None:
        return "no threshold, as no normal image could be held out: give --threshold when predicting"
    text = f"threshold {calibration.threshold:.4f} ({calibration.method.replace('_', '-')}"
    if calibration.false_alarm_rate is not None:
        text += f", {calibration.false_alarm_rate:.2%} of normal images, {len(calibration.scores)} held out"
        text += "" if calibration.resolvable else ", extrapolated: more normal images would make it surer"
    return text + ")"
