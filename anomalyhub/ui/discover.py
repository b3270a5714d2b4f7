"""What the Discover tab does: callbacks without gradio, which change a Visit and return a sentence for the visitor.

A discovery is a job, and the corrections of its board lie in the job's folder: a page needs to know the job's id alone.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalyhub.data import SampleRef, Split, load_dataset
from anomalyhub.data.maps import MapFolder
from anomalyhub.data.sample import write_sample
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidDatasetError, InvalidModelError
from anomalyhub.protocols import Progress
from anomalyhub.review import Board
from anomalyhub.ui import sources
from anomalyhub.ui.session import Job, Session, plain_words
from anomalyhub.ui.work import Work

if TYPE_CHECKING:
    from anomalyhub import jobs

#: Transformers that visitors from elsewhere may choose.
OFFERED = ("embedded", "vit_small_patch16_224.dino", "vit_tiny_patch16_224.augreg_in21k_ft_in1k")
METHODS = {"clustering": "Clustering: about a minute", "anomalyncd": "AnomalyNCD: trains a network, takes longer"}
#: More defects than the Detect tab's sample has: kinds want examples.
_SAMPLE_COUNTS = {"n_train": 24, "n_test_good": 8, "n_defect": 8}
_FEW = 3  # images that can be grouped at all
#: What of a job's config says which images it is about.
_ABOUT = ("data", "product", "split", "model", "maps", "masks")
_drawing = threading.Lock()


@dataclass(frozen=True, eq=False)
class Chosen:
    """Images, and how their defects are found.

    name    for people                            how    the same, of the defects
    refs    the images with labels where known; empty when `about` names a data set
    about   those fields of DiscoverConfig that say where data and defects are
    maps    (name, path) of anomaly maps          count  of images, None when unknown
    lasting whether the images stay where they are, as those of a data folder do
    """

    name: str
    how: str
    refs: tuple[SampleRef, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    maps: tuple[tuple[str, Path], ...] = ()
    count: int | None = None
    notices: tuple[str, ...] = ()
    lasting: bool = False


@dataclass(frozen=True)
class Settings:
    """Step 2. classes is "auto" or a number of kinds; binarizer is mebin, otsu or fixed.

    method  of METHODS, or the id of a job whose kinds are applied
    """

    classes: str = "auto"
    method: str = "clustering"
    backbone: str = "embedded"
    binarizer: str = "mebin"
    seed: int = 0


@dataclass(eq=False)
class Visit:
    """What a visitor does on this tab.

    chosen   by step 1                      images, maps  uploaded so far
    started  what was chosen at the start of the discovery, whose job is job_id
    shown    crops shown of a column, where "Show more" was pressed
    fits     sample products to ids of the jobs that learned them
    version  counts renderings of the board
    """

    chosen: Chosen | None = None
    started: Chosen | None = None
    images: Split | None = None
    maps: Split | None = None
    job_id: str | None = None
    shown: dict[str, int] = field(default_factory=dict)
    fits: dict[str, str] = field(default_factory=dict)
    version: int = 0


class Standing(NamedTuple):
    """Where a visitor is: the discovery's job and its status ("" without one), its board, and why there is none."""

    job: jobs.Job | None
    status: str
    board: Board | None
    problem: str = ""


def standing(visit: Visit, work: Work) -> Standing:
    """Read from disk. Raises nothing that a damaged job could cause."""
    job = work.get(visit.job_id, "discover")
    if job is None:
        return Standing(None, "", None)
    status = "done" if job.result is not None else job.status  # its processes take a second to end after the result
    if status != "done":
        return Standing(job, status, None, work.reason(job) if status in ("failed", "interrupted") else "")
    try:
        return Standing(job, status, board_of(job))
    except AnomalyHubError as error:
        return Standing(job, status, None, _without_paths(error, job))


def board_of(job: jobs.Job) -> Board:
    return Board.open(job.result, job.folder / "board.json")


def _without_paths(error: Exception, job: jobs.Job) -> str:
    return str(error).replace(str(job.folder), f"job {job.id}")


# Step 1.


def use_detect(session: Session, visit: Visit, work: Work) -> str:
    """Take the images that the Detect tab checked, or would check, and the detector that it learned."""
    model, source = _learned(session, work), session.source
    if model is None or source is None:
        raise InvalidArgumentError("nothing has been learned on the Detect tab yet: press Learn there, then come back")
    refs = tuple(one.ref for one in session.checked) or tuple((session.unknown or source.tests).refs)
    lasting = source.kind == "dataset" and set(refs) <= set(source.tests.refs)
    how = "found by the Detect tab's detector"
    return _choose(visit, Chosen(source.name, how, refs, {"model": model}, lasting=lasting))


def _learned(session: Session, work: Work) -> str | None:
    """The folder of the model that the Detect tab works with."""
    return _model_of(work, session.fit_job)


def use_sample(session: Session, visit: Visit, product: str, work: Work) -> Iterator[tuple[float, str]]:
    """Take a bundled sample, with the Detect tab's detector or one that is learned now; yields how far that is."""
    if product not in sources.SAMPLES:
        raise InvalidArgumentError(f"there is no sample {product!r}: choose one of {', '.join(sources.SAMPLES)}")
    watch = Job(session)
    yield 0.0, "Drawing the sample"
    dataset = load_dataset(sample_folder(product) / product)
    watch.check()
    source = session.source
    same = source is not None and (source.kind, source.key, source.have) == ("sample", product, "many")
    model = (_learned(session, work) if same else None) or _model_of(work, visit.fits.get(product))
    if model is None:
        config = {"product": sources.SAMPLES[product], "images": work.keep(dataset.train.refs)}
        former = next(reversed(visit.fits.values()), None)
        job = work.submit("fit", config, name=f"learning {sources.SAMPLES[product]}", former=former)
        visit.fits[product] = job.id
        for progress in work.follow(job):
            watch.check()
            yield progress.fraction, plain_words(progress.text)
        model = _model_of(work, job.id)
        if model is None:
            raise InvalidModelError(f"the sample was not learned: {work.reason(job)}")
    refs = dataset.test.refs
    _choose(visit, Chosen(sources.SAMPLES[product], "found by a detector of normal parts", refs, {"model": model}))


def _model_of(work: Work, job_id: str | None) -> str | None:
    job = work.get(job_id, "fit")
    return str(job.result) if job is not None and job.result is not None else None


@cache
def _sample_root() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="anomalyhub-kinds-")


def sample_folder(product: str) -> Path:
    folder = Path(_sample_root().name) / product
    with _drawing:
        if not folder.is_dir():
            write_sample(folder, products=product, **_SAMPLE_COUNTS)
    return folder


def add_images(session: Session, visit: Visit, paths: Sequence[str], progress: Progress | None = None) -> str:
    """Take uploaded images and zips to be grouped, in place of those before."""
    images, notices = sources.uploaded(paths, session.folder, sources.UNKNOWN, Job(session, progress))
    if not images:
        raise sources.no_images(notices)
    visit.images = images
    return _choose_uploads(visit, notices)


def add_maps(session: Session, visit: Visit, paths: Sequence[str], progress: Progress | None = None) -> str:
    """Take uploaded anomaly maps and zips of them, in place of those before."""
    maps, notices = sources.uploaded(paths, session.folder, sources.MAPS, Job(session, progress), maps=True)
    if not maps:
        raise InvalidDatasetError(
            "none of these is an anomaly map: " + (notices[0] if notices else "upload PNG, NPY or TIFF")
        )
    visit.maps = maps
    return _choose_uploads(visit, notices)


def _choose_uploads(visit: Visit, notices: Sequence[str]) -> str:
    """Both uploads together, once both are there and fit."""
    images, maps = visit.images, visit.maps
    if images is None or maps is None:
        here, missing = (f"{len(images)} images are", "anomaly maps") if images else (f"{len(maps)} maps are", "images")
        return f"{here} here. Next: their {missing}."
    files = tuple((ref.id, ref.path) for ref in maps.refs)
    MapFolder(Path("your upload"), [name for name, _ in files]).for_images(images.ids)  # says which image has none
    return _choose(
        visit, Chosen("your product", "found by your anomaly maps", images.refs, {}, files, None, tuple(notices))
    )


def use_dataset(session: Session, visit: Visit, root: Path | None, name: str, defects: str, work: Work) -> str:
    """Take a labelled data set below the data root.

    defects  "masks": where its own masks say; "model": where the Detect tab's detector finds them
    """
    if root is None:
        raise InvalidArgumentError("no data folder is open: start the app with --data-root DIR")
    dataset, refs, notices = sources.labelled_tests(root, name)
    title = dataset.product if name == "." else name
    if defects == "masks":
        if not any(ref.masks for ref in refs):
            raise InvalidDatasetError(f"{title} has no masks: learn it on the Detect tab and choose that detector here")
        if notices or not all(path.resolve().is_relative_to(root.resolve()) for ref in refs for path in ref.masks):
            raise InvalidDatasetError(f"{title} links to files outside the data folder: choose a detector here")
        about = {"data": str(dataset.root), "masks": "ground-truth"}
        return _choose(visit, Chosen(title, "where its own masks say", (), about, (), len(refs)))
    model = _learned(session, work)
    if model is None or session.source is None or session.source.name != title:
        raise InvalidArgumentError(f"the Detect tab has not learned {title} yet: choose it and press Learn there")
    how = "found by the Detect tab's detector"
    return _choose(visit, Chosen(title, how, tuple(refs), {"model": model}, notices=tuple(notices), lasting=True))


def _choose(visit: Visit, chosen: Chosen) -> str:
    count = chosen.count if chosen.count is not None else len(chosen.refs)
    if count < _FEW:
        raise InvalidDatasetError(f"{count} images cannot be grouped into kinds: choose {_FEW} or more")
    visit.chosen = chosen
    return f"{chosen_text(chosen)}. Next: discover."


def chosen_text(chosen: Chosen) -> str:
    """What step 1 holds."""
    count = chosen.count if chosen.count is not None else len(chosen.refs)
    return f"{f'{count} images of ' if count else ''}{chosen.name}; defects {chosen.how}"


# Step 2.


def start(visit: Visit, settings: Settings, work: Work, trusted: bool) -> str:
    """Queue the discovery."""
    chosen, known = visit.chosen, work.result_of(settings.method, "kinds")
    if chosen is None:
        raise InvalidArgumentError("there are no images yet: choose some in step 1")
    backbone = (settings.backbone or "").strip() or "embedded"
    if not trusted and backbone not in OFFERED:
        raise InvalidArgumentError(f"backbone {backbone!r} is not offered here: choose one of {', '.join(OFFERED)}")
    config = {
        **chosen.about,
        "classes": _number_of_kinds(settings.classes),
        "discoverer": settings.method,
        "backbone": backbone,
        "binarizer": settings.binarizer,
        "skip_unreadable": True,
    }
    if known is not None:  # they have their own number, method and backbone
        config |= {"apply": str(known), "classes": "auto", "discoverer": "clustering", "backbone": None}
    if "data" not in chosen.about:
        kept = [[ref.id, str(ref.path)] for ref in chosen.refs] if chosen.lasting else work.keep(chosen.refs)
        labels = [[ref.label] if ref.label is not None else [] for ref in chosen.refs]
        config |= {
            "product": chosen.name,
            "images": [[*pair, *label] for pair, label in zip(kept, labels, strict=True)],
        }
    if chosen.maps:
        config["maps"] = str(work.keep_maps(chosen.maps))
    job = work.submit("discover", config, name=f"kinds of {chosen.name}", seed=settings.seed, former=visit.job_id)
    visit.job_id, visit.started, visit.shown = job.id, chosen, {}
    return f"Looking for the kinds of defect in {chosen.name}."


def offered_methods(session: Session, work: Work) -> list[tuple[str, str]]:
    """(text, value) of the methods, and of the kinds that the Hub tab has taken: images are assigned to those."""
    made = [(text, name) for name, text in METHODS.items()]
    if work.result_of(session.kinds_job, "kinds") is not None:
        made.append((f"The kinds of {work.get(session.kinds_job).asked.get('name')}", session.kinds_job))
    return made


def _number_of_kinds(text: Any) -> int | str:
    text = str(text or "auto").strip().lower()
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise InvalidArgumentError(f"the number of kinds must be auto or a whole number from 1, got {text!r}")
    return int(text)


def cancel(visit: Visit, work: Work) -> str:
    """Stop the discovery; its images stay chosen, and it can be resumed."""
    if (job := work.get(visit.job_id, "discover")) is not None:
        job.cancel()
    return "Stopping."


def resume(visit: Visit, work: Work) -> str:
    """Go on with a discovery that failed, was cancelled or interrupted, from its checkpoints."""
    job = work.get(visit.job_id, "discover")
    if job is None:
        raise InvalidArgumentError("there is nothing to go on with: press Discover")
    job.resume()
    return "Going on."


def recall(visit: Visit, memory: Any, work: Work) -> None:
    """Find the discovery again that the browser remembers; what it sends may be anything."""
    job = work.get(memory.get("job"), "discover") if isinstance(memory, dict) else None
    if visit.job_id is None and job is not None:
        visit.job_id, visit.chosen = job.id, _chosen_of(job)
        visit.started = visit.chosen


def remembered(visit: Visit) -> dict[str, str] | None:
    """What the browser keeps."""
    return {"job": visit.job_id} if visit.job_id else None


def _chosen_of(job: jobs.Job) -> Chosen:
    """What a job was about."""
    config = job.asked.get("config", {})
    images = config.get("images") or ()
    refs = tuple(SampleRef(str(one[0]), Path(one[1]), *one[2:3]) for one in images)
    about = {key: config[key] for key in _ABOUT if config.get(key) is not None}
    how = "found by your anomaly maps" if "maps" in about else "where its own masks say"
    how = "found by a detector of normal parts" if "model" in about else how
    return Chosen(str(job.asked.get("name", "")).removeprefix("kinds of "), how, refs, about, lasting=True)
