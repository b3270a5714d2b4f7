"""Step 1 of the Compare tab: labelled images of one product, as a folder that lasts as long as a job names it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from anomalyhub.data import Dataset, SampleRef, list_products, load_dataset
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidDatasetError
from anomalyhub.protocols import Progress
from anomalyhub.review import save_labelled
from anomalyhub.types import GOOD
from anomalyhub.ui import board, classify, discover, sources
from anomalyhub.ui.session import Job, Session
from anomalyhub.ui.work import Work

if TYPE_CHECKING:
    from anomalyhub import jobs

#: Kinds, and images of each, that can be both learned and tested.
FEWEST_KINDS, FEWEST_IMAGES = 2, 2


@dataclass(frozen=True, eq=False)
class Chosen:
    """Labelled images of a product.

    name     for people                              folder   for `load_dataset`
    kinds    images of each kind of defect           n_good   normal test images, n_train: those to learn from
    masks    whether every defective image has one   refs     the defective images
    """

    name: str
    folder: str
    kinds: dict[str, int]
    n_good: int
    n_train: int
    masks: bool
    refs: tuple[SampleRef, ...]
    notices: tuple[str, ...] = ()

    @property
    def usable(self) -> dict[str, int]:
        """The kinds with images to learn and to test."""
        return {name: count for name, count in self.kinds.items() if count >= FEWEST_IMAGES}


def of_detect(session: Session, work: Work, root: Path | None) -> Chosen:
    """What the Detect tab works with, with the labels that came with it."""
    source = session.source
    if source is None:
        raise InvalidArgumentError("the Detect tab has no images yet: choose some there, or a sample here")
    if source.kind == "sample":
        return of_sample(source.key, work)
    if source.kind == "dataset":
        return of_dataset(root, source.key)
    if source.kind == "hub":
        job_id, _, product = source.key.partition("/")
        folder = work.result_of(job_id, "dataset")
        if folder is not None:
            return _chosen(source.name, load_dataset(folder, product or None))
    raise InvalidArgumentError(
        f"the Detect tab's images of {source.name} have no labels: upload a zip with a folder for each kind here"
    )


def of_sample(product: str, work: Work) -> Chosen:
    """A bundled sample, with masks."""
    if product not in sources.SAMPLES:
        raise InvalidArgumentError(f"there is no sample {product!r}: choose one of {', '.join(sources.SAMPLES)}")
    folder = discover.sample_folder(product)
    files = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*.png"))]
    return _kept(sources.SAMPLES[product], files, work)


def of_dataset(root: Path | None, name: str) -> Chosen:
    """A labelled data set below the data root. Raises InvalidDatasetError for one with links out of it."""
    if root is None:
        raise InvalidArgumentError("no data folder is open: start the app with --data-root DIR")
    dataset, _, _ = sources.labelled_tests(root, name)
    title = dataset.product if name == "." else name
    for ref in (*dataset.train.refs, *dataset.test.refs):
        if not all(_lies_in(root, path) for path in (ref.path, *ref.masks)):
            raise InvalidDatasetError(f"{title} links to files outside the data folder: choose another data set")
    return _chosen(title, dataset)


def _lies_in(root: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def of_uploads(session: Session, paths: Sequence[str], work: Work, progress: Progress | None = None) -> Chosen:
    """Uploaded zips with a folder of normal images and one for each kind, or with folders as MVTec AD has them."""
    found, notices = sources.uploaded(paths, session.folder, sources.NORMALS, Job(session, progress))
    if not found:
        raise sources.no_images(notices)
    loose = [ref.id for ref in found.refs if "/" not in ref.id]
    if loose:
        raise InvalidDatasetError(
            f"nobody has said which kind {loose[0]} is: upload a zip with a folder for each kind, and one named good"
        )
    return _kept("your product", [(ref.id, ref.path) for ref in found.refs], work, notices)


def of_board(session: Session, work: Work) -> Chosen:
    """The images of the Discover board with the kinds that it has, and the normal images of its detector.

    Its masks are left behind: they are the detector's own regions, by which no detector can be judged.
    """
    job = work.get(session.discover_job, "discover")
    if job is None or job.result is None:
        raise InvalidArgumentError("there is no board yet: press Discover on the Discover tab and name its columns")
    opened = board.opened(discover.Visit(job_id=job.id), work)
    normals = classify.normals_of(str(job.asked["config"].get("model") or ""), work)
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        save_labelled(opened, Path(folder) / "all")
        (product,) = (path for path in (Path(folder) / "all").iterdir() if path.is_dir())
        files = [(path.relative_to(product).as_posix(), path) for path in sorted((product / "test").rglob("*.*"))]
        files += [(f"train/good/{n:05d}{Path(path).suffix}", Path(path)) for n, (_, path) in enumerate(normals)]
        about = "the board’s regions are its detector’s own, so where errors come from is told less finely"
        return _kept(_name_of(job), files, work, [about])


def _name_of(job: jobs.Job) -> str:
    return str(job.asked.get("name", "")).removeprefix("kinds of ") or "your product"


def of_job(job: jobs.Job, name: str) -> Chosen | None:
    """The images of a job; None where they have gone."""
    try:
        return _chosen(name, load_dataset(str(job.asked["config"]["data"])))
    except (AnomalyHubError, KeyError, TypeError):
        return None


def _kept(name: str, files: Sequence[tuple[str, Path]], work: Work, notices: Iterable[str] = ()) -> Chosen:
    """Files, by their names below a product's folder, that last as long as a job names them."""
    names = [PurePosixPath(one) for one, _ in files]
    while all(len(one.parts) > 2 for one in names) and len({one.parts[0] for one in names}) == 1:
        names = [PurePosixPath(*one.parts[1:]) for one in names]  # a folder around everything says nothing
    folder = work.keep_maps((f"photos/{one}", path) for one, (_, path) in zip(names, files, strict=True)) / "photos"
    try:
        products = list_products(folder)
        if products:
            raise InvalidDatasetError(
                f"there are {len(products)} products ({', '.join(products[:5])}): upload one at a time"
            )
        return _chosen(name, load_dataset(folder), tuple(notices))
    except AnomalyHubError as error:
        error.args = (str(error).replace(str(folder), name),)
        raise


def _chosen(name: str, dataset: Dataset, notices: tuple[str, ...] = ()) -> Chosen:
    """Raises InvalidDatasetError unless there are two kinds that can be learned and tested."""
    try:
        test = dataset.labelled_test()
    except InvalidDatasetError as error:
        raise InvalidDatasetError(str(error).replace(str(dataset.root), name)) from error
    refs = tuple(ref for ref in test.refs if ref.label != GOOD)
    kinds = dict(sorted(Counter(str(ref.label) for ref in refs).items()))
    chosen = Chosen(
        name,
        str(dataset.root),
        kinds,
        len(test) - len(refs),
        len(dataset.train),
        bool(refs) and all(ref.masks for ref in refs),
        refs,
        (*dataset.notices, *notices),
    )
    if len(chosen.usable) < FEWEST_KINDS:
        raise InvalidDatasetError(
            f"{name} has {len(chosen.usable)} kinds of defect with {FEWEST_IMAGES} images or more, and "
            f"{FEWEST_KINDS} are needed: put the images of each kind into a folder of its name"
        )
    return chosen


def chosen_text(chosen: Chosen) -> str:
    """What step 1 holds."""
    defective = sum(chosen.kinds.values())
    return f"{chosen.name}: {defective} defects of {len(chosen.kinds)} kinds, {chosen.n_good} good ones to test"
