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
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyhub.data import Dataset, Limits, SampleRef, Split, check_image, gather_uploads, list_products, load_dataset
from anomalyhub.data.folders import subfolders
from anomalyhub.data.sample import write_sample
from anomalyhub.data.support import support_sets
from anomalyhub.errors import AnomalyHubError, InvalidDatasetError, InvalidImageError, InvalidUploadError
from anomalyhub.protocols import Progress
from anomalyhub.ui import methods
from anomalyhub.ui.session import Job, Source

if TYPE_CHECKING:
    from anomalyhub import jobs

#: The sample products and what they are called.
SAMPLES = {"weave": "Woven fabric", "label": "Printed label", "ring": "Machined ring"}
#: Few enough that learning takes seconds on two cores, enough for a threshold.
_SAMPLE_COUNTS = {"n_train": 24, "n_test_good": 6, "n_defect": 3}
#: Of unlabelled photos most are normal, as on a line.
_MIXED_COUNTS = {"n_train": 0, "n_test_good": 32, "n_defect": 2}

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


def sample_source(product: str, progress: Progress | None = None, have: str = "many", shots: int = 4) -> Source:
    """A sample product, drawn on first use and then shared by all visitors. Raises UnknownNameError.

    have   what the visitor says to have, see `Source`; shots: how many normal images "few" are
    """
    counts = _MIXED_COUNTS if have == "none" else _SAMPLE_COUNTS
    folder = Path(_sample_folder().name) / ("mixed" if have == "none" else "split") / str(product)
    with _drawing:  # two visitors who ask at once: the second waits a second and finds it drawn
        if product not in SAMPLES or not folder.is_dir():
            write_sample(folder, products=product, progress=progress, **counts)
    dataset = load_dataset(folder / product)
    normals, notices = _few(dataset.train.refs, have, shots)
    tests = _images_only(dataset.test)
    return Source(SAMPLES[product], _images_only(normals), tests, "sample", notices, product, have)


def _few(refs: Sequence[SampleRef], have: str, shots: int) -> tuple[Sequence[SampleRef], tuple[str, ...]]:
    """As many normal images as the visitor says to have, always the same ones, and a notice when there are fewer."""
    if have != "few":
        return refs if have == "many" else (), ()
    shots = min(max(int(shots), methods.FEWEST), methods.MOST)
    if len(refs) <= shots:
        return refs, (f"only {len(refs)} normal images are there",) * (len(refs) < shots)
    return [refs[index] for index in sorted(support_sets(len(refs), shots, 1)[0])], ()


def upload_source(paths: Sequence[str | Path], folder: Path, job: Job, have: str = "many") -> Source:
    """Uploaded images: normal ones, or where there are none, those to be checked. Raises InvalidUploadError."""
    photos, notices = uploaded(paths, folder, UNKNOWN if have == "none" else NORMALS, job)
    if len(photos) < MIN_NORMALS:
        what, best = {
            "none": ("photos", " (20 or more work best)"),
            "few": ("normal images", ""),
            "many": ("normal images", " (20 or more work best)"),
        }[have]
        raise InvalidUploadError(
            f"{_found(len(photos))}, and at least {MIN_NORMALS} {what} are needed{best}: upload more{_first(notices)}"
        )
    normals, tests = (Split(), photos) if have == "none" else (photos, Split())
    return Source("your product", normals, tests, "upload", tuple(notices), have=have)


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


def dataset_source(root: Path, name: str, job: Job, have: str = "many", shots: int = 4) -> Source:
    """A product below the data root; files that cannot be read or lie outside it are left out with a notice.

    have, shots  as those of `sample_source`; with "none" its test images are all there is
    Raises InvalidDatasetError when `name` is none, climbs out of `root`, or has too few images.
    """
    dataset = load_dataset(_below(root, name))
    title = dataset.product if name == "." else name
    tests, outside = _inside(root, dataset.test.refs)
    if have == "none":
        tests, some = some_tests(Split(tests))
        photos, notices = _readable(tests.refs, job)
        if len(photos) < MIN_NORMALS:
            raise InvalidDatasetError(f"{name} has {len(photos)} readable test images and {MIN_NORMALS} are needed")
        notices = (*notices, *outside, *([some] if some else []))
        return Source(title, Split(), _images_only(photos), "dataset", notices, name, have)
    inside, notices = _inside(root, dataset.train.refs)
    normals, damaged = _readable(inside, job)
    if len(normals) < MIN_NORMALS:
        raise InvalidDatasetError(
            f"{name} has {len(normals)} readable normal images and {MIN_NORMALS} are needed: put some into train/good"
        )
    normals, fewer = _few(normals, have, shots)
    notices = (*notices, *damaged, *outside, *fewer)
    return Source(title, _images_only(normals), _images_only(tests), "dataset", notices, name, have)


def _readable(refs: Sequence[SampleRef], job: Job) -> tuple[list[SampleRef], list[str]]:
    """The images that can be read, and a notice about each of the others."""
    readable, notices = [], []
    for done, ref in enumerate(refs):
        job(done / len(refs), f"reading image {done + 1} of {len(refs)}")
        try:
            check_image(ref.path)
            readable.append(ref)
        except InvalidImageError as error:
            notices.append(f"left out: {str(error).replace(str(ref.path), ref.id)}")
    return readable, notices


def pulled_source(taken: jobs.Job, product: str, name: str, key: str) -> Source:
    """A data set that was taken on the Hub tab. Where too few of its images are known to be normal, all are to be
    compared with each other.

    taken    its job; "limited" in its config: no more of its images than may be uploaded, evenly spaced
    product  one of its products, "" where it has but one; name: what to call that
    Raises InvalidDatasetError.
    """
    folder = taken.result
    dataset = load_dataset(folder, product or None)
    (normals, outside), (tests, more) = _inside(folder, dataset.train.refs), _inside(folder, dataset.test.refs)
    notices = (*outside, *more)
    if len(normals) >= MIN_NORMALS:
        normals, fewer = _limited(taken, normals, NORMALS, "normal photos")
        tests, some = _limited(taken, tests, UNKNOWN, "images to check")
        return Source(name, normals, tests, "hub", (*notices, *fewer, *some), key)
    photos, some = some_tests(_images_only({ref.id: ref for ref in (*normals, *tests)}.values()))
    if len(photos) < MIN_NORMALS:
        raise InvalidDatasetError(
            f"{name} has {len(photos)} images and {MIN_NORMALS} are needed: take another data set"
        )
    notices += ("no normal photos came along, so these are compared with each other", *([some] if some else []))
    return Source(name, Split(), photos, "hub", notices, key, "none")


def pulled_tests(taken: jobs.Job | None, product: str) -> tuple[Split, tuple[str, ...]]:
    """Test images of a data set that was taken, and notices; none where it has gone. Arguments as `pulled_source`."""
    folder = taken.result if taken is not None else None
    with suppress(AnomalyHubError):
        if folder is not None:
            refs, _ = _inside(folder, load_dataset(folder, product or None).test.refs)
            return _limited(taken, refs, UNKNOWN, "images to check")
    return Split(), ()


def _limited(taken: jobs.Job, refs: Sequence[SampleRef], limits: Limits, what: str) -> tuple[Split, tuple[str, ...]]:
    most = limits.max_files if taken.asked["config"].get("limited") else len(refs)
    if len(refs) <= most:
        return _images_only(refs), ()
    notice = f"{most} of the {len(refs)} {what} are used, evenly spaced: run the app on your own computer to use all"
    return _spaced(_images_only(refs), most), (notice,)


def _spaced(images: Split, count: int) -> Split:
    return images.select(np.linspace(0, len(images) - 1, count).round().astype(int).tolist())


def former_tests(kind: str, key: str, root: Path | None, have: str = "many") -> Split:
    """Test images of a source that can still be found."""
    with suppress(AnomalyHubError):
        if kind == "sample":
            return sample_source(key, have=have).tests
        if kind == "dataset" and root is not None:
            return _images_only(_inside(root, load_dataset(_below(root, key)).test.refs)[0])
    return Split()


def former_source(kind: str, key: str, config: Mapping[str, Any], tests: Split, have: str = "many") -> Source:
    """The source that a fit with this config had, with the test images that were found again."""
    pairs = (*(config.get("images") or ()), *(config.get("kept") or ()))
    photos = Split(SampleRef(name, Path(path)) for name, path in pairs)
    if have == "none":  # what was compared, with the labels that are known
        known = {ref.id: ref for ref in tests.refs}
        tests = Split(
            dataclasses.replace(ref, label=known[ref.id].label) if ref.id in known else ref for ref in photos.refs
        )
        kind, key = (kind, key) if known else ("upload", "")
        return Source(config["product"], Split(), tests, kind, key=key, have=have)
    kind, key = (kind, key) if tests or kind == "hub" else ("upload", "")
    return Source(config["product"], photos, tests, kind, key=key, have=have)


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
    notice = f"{MAX_TESTS} of the {len(tests)} test images were checked, evenly spaced; the command line checks all"
    return _spaced(tests, MAX_TESTS), notice


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
    refs = tuple(refs)
    inside = [ref for ref in refs if ref.lies_in(root)]
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
