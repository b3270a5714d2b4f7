"""Where images come from: the bundled sample, uploads, and folders below the data root."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from anomalyhub.data import Dataset, Limits, SampleRef, Split, check_image, gather_uploads, list_products, load_dataset
from anomalyhub.data.folders import subfolders
from anomalyhub.data.sample import write_sample
from anomalyhub.errors import AnomalyHubError, InvalidDatasetError, InvalidImageError, InvalidUploadError
from anomalyhub.protocols import Progress
from anomalyhub.ui.session import Job, Source

#: The sample products and what they are called.
SAMPLES = {"weave": "Woven fabric", "label": "Printed label", "ring": "Machined ring"}
#: Few enough that learning takes seconds on two cores, enough for a threshold.
_SAMPLE_COUNTS = {"n_train": 24, "n_test_good": 6, "n_defect": 3}

#: What one upload may hold. A check keeps a small picture and map of each image in memory.
NORMALS = Limits(max_files=1000, max_bytes=1024**3, max_file_bytes=50 * 1024**2, max_pixels=40_000_000)
UNKNOWN = dataclasses.replace(NORMALS, max_files=500)
#: Maps may be all zero, which packs as well as anything can.
MAPS = dataclasses.replace(UNKNOWN, max_ratio=1100.0)
#: Test images of a data set that one check looks at.
MAX_TESTS = 200
MIN_NORMALS = 2

_drawing = threading.Lock()


@cache
def _sample_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="anomalyhub-sample-")


def sample_source(product: str, progress: Progress | None = None) -> Source:
    """A sample product, drawn on first use and then shared by all visitors. Raises UnknownNameError."""
    folder = Path(_sample_folder().name) / str(product)
    with _drawing:  # two visitors who ask at once: the second waits a second and finds it drawn
        if product not in SAMPLES or not folder.is_dir():
            write_sample(folder, products=product, progress=progress, **_SAMPLE_COUNTS)
    dataset = load_dataset(folder / product)
    return Source(SAMPLES[product], _images_only(dataset.train), _images_only(dataset.test), "sample", key=product)


def upload_source(paths: Sequence[str | Path], folder: Path, job: Job) -> Source:
    """Uploaded normal images. Raises InvalidUploadError."""
    normals, notices = uploaded(paths, folder, NORMALS, job)
    if len(normals) < MIN_NORMALS:
        raise InvalidUploadError(
            f"{_found(len(normals))}, and at least {MIN_NORMALS} normal images are needed (20 or more work best): "
            f"upload more{_first(notices)}"
        )
    return Source("your product", normals, Split(), "upload", tuple(notices))


def uploaded(
    paths: Sequence[str | Path], folder: Path, limits: Limits, job: Job, maps: bool = False
) -> tuple[Split, list[str]]:
    """The images, or anomaly maps, among uploaded files and zips, and notices on what was left out.

    Raises InvalidUploadError.

    Files are linked into `folder`, so that they last as long as the visitor's session and no longer.
    """
    home = folder / f"upload-{uuid.uuid4().hex[:8]}"
    own = []
    for number, path in enumerate(map(Path, paths)):
        job.check()
        own.append(_link(path, home / f"{number:05d}" / path.name))
    try:
        refs, notices = gather_uploads(own, home, limits, maps=maps, progress=job)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return Split(refs), notices


def no_images(notices: Sequence[str]) -> InvalidUploadError:
    """What to say when an upload to be checked holds no image."""
    return InvalidUploadError(f"{_found(0)}: upload PNG, JPEG, TIFF, BMP or WebP files{_first(notices)}")


def dataset_choices(root: Path, split: str = "train") -> list[str]:
    """Products below `root` with images to learn from ("train") or to look at ("test"), as paths with forward slashes.

    "." is `root` itself.
    """
    if not list_products(root) and _has_images(root, ".", split):
        return ["."]
    candidates = []
    for name, folder in subfolders(root).items():
        try:
            candidates += [f"{name}/{product}" for product in list_products(folder)] or [name]
        except InvalidDatasetError:
            continue
    return [name for name in candidates if _has_images(root, name, split)]


def _has_images(root: Path, name: str, split: str) -> bool:
    try:
        return len(getattr(load_dataset(_below(root, name)), split)) >= MIN_NORMALS
    except InvalidDatasetError:
        return False


def dataset_source(root: Path, name: str, job: Job) -> Source:
    """A product below the data root; files that cannot be read or lie outside it are left out with a notice.

    Raises InvalidDatasetError when `name` is none, climbs out of `root`, or has too few normal images.
    """
    dataset = load_dataset(_below(root, name))
    inside, notices = _inside(root, dataset.train.refs)
    normals: list[SampleRef] = []
    for done, ref in enumerate(inside):
        job(done / len(inside), f"reading image {done + 1} of {len(inside)}")
        try:
            check_image(ref.path)
            normals.append(ref)
        except InvalidImageError as error:
            notices.append(f"left out: {str(error).replace(str(ref.path), ref.id)}")
    if len(normals) < MIN_NORMALS:
        raise InvalidDatasetError(
            f"{name} has {len(normals)} readable normal images and {MIN_NORMALS} are needed: put some into train/good"
        )
    tests, outside = _inside(root, dataset.test.refs)
    title = dataset.product if name == "." else name
    return Source(title, _images_only(normals), _images_only(tests), "dataset", (*notices, *outside), name)


def former_source(kind: str, key: str, config: Mapping[str, Any], root: Path | None) -> Source:
    """The source that a fit with this config had, with the test images that can still be found."""
    normals, tests = Split(SampleRef(name, Path(path)) for name, path in config["images"]), Split()
    with suppress(AnomalyHubError):
        if kind == "sample":
            tests = sample_source(key).tests
        elif kind == "dataset" and root is not None:
            tests = _images_only(_inside(root, load_dataset(_below(root, key)).test.refs)[0])
    return Source(config["product"], normals, tests, kind if tests else "upload", key=key if tests else "")


def labelled_tests(root: Path, name: str) -> tuple[Dataset, list[SampleRef], list[str]]:
    """A product below the data root, its test images with labels and masks, and notices about files outside the root.

    Raises InvalidDatasetError when `name` is none, or climbs out of `root`.
    """
    dataset = load_dataset(_below(root, name))
    return dataset, *_inside(root, dataset.test.refs)


def some_tests(tests: Split) -> tuple[Split, str | None]:
    """At most MAX_TESTS evenly spaced images, and a notice when that left some out."""
    if len(tests) <= MAX_TESTS:
        return tests, None
    chosen = np.linspace(0, len(tests) - 1, MAX_TESTS).round().astype(int)
    notice = f"{MAX_TESTS} of the {len(tests)} test images were checked, evenly spaced; the command line checks all"
    return tests.select(chosen.tolist()), notice


def _below(root: Path, name: str) -> Path:
    """The folder of that name with links followed. Raises InvalidDatasetError when it is not below `root`."""
    root = root.resolve()
    try:
        path = (root / name).resolve()
        if path.is_relative_to(root) and path.is_dir():
            return path
    except (OSError, ValueError, RuntimeError, TypeError):  # a NUL, a loop of links, no text
        pass
    raise InvalidDatasetError(f"{name!r} is no data set below the data folder: choose one of the list")


def _inside(root: Path, refs: Iterable[SampleRef]) -> tuple[list[SampleRef], list[str]]:
    """References whose files lie below `root` with links followed, and a notice about the others."""
    root, refs = root.resolve(), tuple(refs)
    inside = [ref for ref in refs if ref.path.resolve().is_relative_to(root)]
    left_out = len(refs) - len(inside)
    return inside, [f"left out: {left_out} links to files outside the data folder"] if left_out else []


def _images_only(refs: Iterable[SampleRef] | Split) -> Split:
    """The same images without their masks, which the app does not read."""
    refs = refs.refs if isinstance(refs, Split) else refs
    return Split(dataclasses.replace(ref, masks=()) for ref in refs)


def _link(path: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True)
    try:
        os.link(path, target)
    except OSError:  # another file system
        shutil.copyfile(path, target)
    return target


def _found(count: int) -> str:
    return "no image could be read" if count == 0 else f"only {count} image{'s' * (count > 1)} could be read"


def _first(notices: Sequence[str]) -> str:
    return f" ({notices[0]})" if notices else ""
