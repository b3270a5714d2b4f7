"""What the verbs share: progress bars, outputs, inputs, and how a threshold is said."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, OutputError
from anomalyhub.fsio import atomic_folder
from anomalyhub.protocols import Progress

#: Set when the user has asked to stop. An exception in an import's or a destructor's callback is lost, this is not.
stopping = threading.Event()


@contextmanager
def bar(title: str, plan: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error; silent where that is not a terminal.

    plan  print the text that comes with 0.0 on standard output: it says what the work will take
    """
    from tqdm import tqdm

    layout = "{desc:<60.60} {percentage:3.0f}%|{bar}| {elapsed}"
    with tqdm(total=1.0, desc=title, bar_format=layout, disable=not sys.stderr.isatty(), leave=False) as bar:

        def progress(fraction: float, text: str) -> None:
            if stopping.is_set():
                raise KeyboardInterrupt
            if plan and fraction == 0.0:
                tqdm.write(text)
            bar.set_description_str(f"{title}: {text}", refresh=False)
            bar.update(max(0.0, fraction - bar.n))

        yield progress


@contextmanager
def output(out: Path, overwrite: bool, roots: Sequence[Path], *inputs: Path) -> Iterator[Path | None]:
    """The staged output folder; None in all but the first of several processes, which write nothing.

    roots   folders of the products whose images are read: nothing is written into one
    inputs  what else is read, such as the data sets' roots, and stays whatever `overwrite` says
    """
    if int(os.environ.get("RANK", "0")) > 0:
        yield None
        return
    from anomalyhub.data import list_products

    kept = (*roots, *inputs, *(path / name for path in inputs if os.path.isdir(path) for name in list_products(path)))
    files = {path.resolve().parent for path in map(Path.expanduser, inputs) if os.path.isfile(path)}  # single images
    with atomic_folder(out, overwrite, kept) as staged:
        for root in roots:
            if root.resolve() not in files and staged.parent.is_relative_to(root.resolve()):
                raise OutputError(f"{out} lies inside {root}, whose images are read: choose an --out outside it")
        yield staged


def open_dataset(data: Path, product: str | None, seed: int = 0):
    from anomalyhub.data import load_dataset

    dataset = load_dataset(data, product, seed=seed)
    for notice in dataset.notices:
        print(f"anomalyhub: notice: {notice}", file=sys.stderr)
    return dataset


def open_named(data: Path | None, product: str | None, detector: str) -> tuple[Any, str | None]:
    """The data set, None for none, and what prompts call its product, None where nothing says.

    For a detector with prompts, --product names the product of a folder that holds but one; a folder of loose images
    may be called anything, such as "good", and names nothing.
    """
    if data is None:
        return None, product
    if product not in (None, data.name) and not _holds(data, product):
        from anomalyhub.pipeline.inspector import is_prompted  # torch: not before it is needed

        if is_prompted(detector):
            return open_dataset(data, None), product
    dataset = open_dataset(data, product)
    return dataset, product or (None if dataset.layout in ("flat", "classes") else dataset.product)


def _holds(data: Path, product: str) -> bool:
    """Whether a root may have the product; what is neither a folder nor on the Hub is another's to refuse."""
    from anomalyhub.data import is_hub, list_products

    if is_hub(data):
        return product in list_products(data)
    folder = data.expanduser()
    return not os.path.isdir(folder) or os.path.isdir(folder / product) or product in list_products(folder)


def words_setting(detector: str, words: str | None) -> dict[str, str]:
    """The setting `product` of a detector with prompts; without words they speak of an object."""
    from anomalyhub.pipeline.inspector import is_prompted

    return {"product": " ".join((words or "object").replace("_", " ").split()) or " "} if is_prompted(detector) else {}


def readable(samples: Any, skip: bool):
    """The split, without what cannot be decoded if that is to be skipped."""
    failures = samples.unreadable() if skip else []
    if failures and len(failures) == len(samples):
        raise InvalidDatasetError(f"none of the {len(samples)} images can be read, to begin with {failures[0][1]}")
    for _, reason in failures:
        print(f"anomalyhub: skipped: {reason}", file=sys.stderr)
    return samples.without(name for name, _ in failures)


def support(dataset: Any, split: str, shots: int | None, number: int, skip: bool) -> Any:
    """The images that a detector is fitted on: a split, or a fixed choice of `shots` of its images."""
    if shots == 0:
        return []
    samples = readable(dataset.split(split), skip)
    if shots is None:
        return samples
    from anomalyhub.data import support_sets

    return samples.select(support_sets(len(samples), shots)[number])


def warn(text: str | None) -> None:
    """Say loudly what makes figures worthless."""
    if text:
        print(f"anomalyhub: WARNING: {text}", file=sys.stderr)


def load(model: Path, backbone: str | None):
    from anomalyhub.pipeline import Inspector

    return Inspector.load(model, backbone=backbone)


def for_batch(inspector: Any, samples: Any):
    """See Inspector.for_batch."""
    with bar("compare") as progress:
        return inspector.for_batch(samples, progress)


def calibrated(inspector: Any):
    if inspector.calibration is None:
        raise InvalidArgumentError(
            "this model has no held-out scores, being fitted on no image or on 1, or with calibration_images=0: "
            "fit on more normal images, or give --threshold when predicting (--value when setting it)"
        )
    return inspector.calibration


def from_labels(inspector: Any, samples: Any, costs: tuple[float, float], f1_max: bool):
    from anomalyhub.types import GOOD

    with bar("threshold") as progress:
        results = inspector.inspect(samples, threshold=math.inf, progress=progress)  # no verdict, no region
        scores = [result.score for result in results]
    return inspector.choose_threshold(
        [label != GOOD for label in samples.labels], scores, costs=None if f1_max else costs
    )


def threshold_text(inspector: Any) -> str:
    calibration, point = inspector.calibration, inspector.operating_point
    if point is None and getattr(inspector.detector, "unlabelled_", False):
        return "the threshold will come from the images that are judged together"
    if point is None:
        return "no threshold, as no normal image could be held out: give --threshold when predicting"
    if calibration is None:
        why = "its scores' own scale; no image set another" if point["method"] == "natural" else "manual"
        return f"threshold {point['threshold']:.4f} ({why})"
    text = f"threshold {calibration.threshold:.4f} ({calibration.method.replace('_', '-')}"
    if calibration.false_alarm_rate is not None:
        text += f", {calibration.false_alarm_rate:.2%} of normal images"
        unlabelled = calibration.source == "unlabelled"
        count = len(calibration.scores)
        text += f", if most of the {count} images are normal" if unlabelled else f", {count} held out"
        text += "" if calibration.resolvable else ", extrapolated: more images would make it surer"
    return text + ")"
