"""What the Classify tab does: callbacks without gradio, which change a Visit and return a sentence for the visitor.

Fitting is a job, whose result is an inspector's folder; its config holds the examples, so a page needs its id alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalyhub.data import SampleRef, load_dataset
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidModelError
from anomalyhub.state import read_json
from anomalyhub.ui import discover, sources
from anomalyhub.ui.examples import Shelf
from anomalyhub.ui.session import Session
from anomalyhub.ui.verdicts import Outcome
from anomalyhub.ui.work import Work

if TYPE_CHECKING:
    from anomalyhub import jobs

#: Heads by name, and how the page says them.
HEADS = {
    "prototype": "Prototype: seconds, the best with few examples",
    "contrastive": "Contrastive: trains a network on what differs from normal",
    "relation": "Relation: trains a network that compares pairs",
    "direct": "Direct: the last layer of a network, as a baseline",
}
#: Those that look at pictures through a backbone of the visitor's choice.
_LOOKING = ("prototype", "direct")


@dataclass(frozen=True, eq=False)
class Detector:
    """A fitted detector, and images that came with it.

    name     of the product, for people        how      whose detector it is
    folder   of the model                      lasting  the images stay where they are, as those of a data folder do
    tests    images with labels where known
    """

    name: str
    how: str
    folder: str
    tests: tuple[SampleRef, ...] = ()
    lasting: bool = False


@dataclass(frozen=True)
class Settings:
    """Step 3. pretrained is the id of a job that has pretrained a head, or empty."""

    head: str = "prototype"
    backbone: str = "embedded"
    pretrained: str = ""
    seed: int = 0


@dataclass(eq=False)
class Visit:
    """What a visitor does on this tab.

    detector  of step 1                    shelf   the examples of step 2
    started   what the job was given, of the shelf's `state`
    job_id    of the fitting               fits    sample products to ids of the jobs that learned them
    version   counts renderings of the shelf
    """

    detector: Detector | None = None
    shelf: Shelf = field(default_factory=Shelf)
    started: Any = None
    job_id: str | None = None
    fits: dict[str, str] = field(default_factory=dict)
    version: int = 0


class Standing(NamedTuple):
    """Where a visitor is: the job and its status ("" without one), what came out, and why nothing did."""

    job: jobs.Job | None
    status: str
    outcome: Outcome | None
    problem: str = ""


def standing(visit: Visit, work: Work) -> Standing:
    """Read from disk. Raises nothing that a damaged job could cause."""
    job = work.get(visit.job_id, "classify")
    if job is None:
        return Standing(None, "", None, _GONE if visit.job_id else "")
    status = "done" if job.result is not None else job.status  # its processes take a second to end after the result
    if status != "done":
        return Standing(job, status, None, work.reason(job) if status in ("failed", "interrupted") else "")
    try:
        return Standing(job, status, Outcome.read(job.result))
    except AnomalyHubError as error:
        return Standing(job, status, None, str(error).replace(str(job.folder), f"job {job.id}"))


_OF_DETECT = "learned on the Detect tab"
_GONE = "the folder of this job has been deleted: press Learn the kinds again"


# Step 1.


def use_detect(session: Session, visit: Visit, work: Work) -> str:
    """Take the detector that the Detect tab has learned."""
    folder, source = work.result_of(session.fit_job, "fit"), session.source
    if folder is None or source is None:
        raise InvalidArgumentError(
            "nothing has been learned on the Detect tab yet: press Learn there, or take a sample"
        )
    lasting = source.kind == "dataset"
    return _choose(visit, Detector(source.name, _OF_DETECT, str(folder), source.tests.refs, lasting))


def use_discover(session: Session, visit: Visit, work: Work) -> str:
    """Take the detector that the Discover tab has found its defects with, and its images."""
    job = work.get(session.discover_job, "discover")
    if job is None or job.result is None:
        raise InvalidArgumentError("nothing has been discovered yet: press Discover on the Discover tab")
    config = job.asked["config"]
    if not config.get("model"):
        raise InvalidArgumentError(
            "the Discover tab worked with maps or masks, not with a detector: press Learn on the Detect tab"
        )
    refs = tuple(SampleRef(str(one[0]), Path(one[1]), *one[2:3]) for one in config.get("images") or ())
    name = str(config.get("product") or "your product")
    return _choose(visit, Detector(name, "with which kinds were discovered", config["model"], refs, True))


def use_sample(session: Session, visit: Visit, product: str, work: Work) -> Iterator[tuple[float, str]]:
    """Take a bundled sample, with the Detect tab's detector or one that is learned now; yields how far that is."""
    inner = discover.Visit(fits=visit.fits)
    yield from discover.use_sample(session, inner, product, work)
    chosen = inner.chosen
    _choose(visit, Detector(chosen.name, "learned from its normal images", chosen.about["model"], chosen.refs))


def adopt(session: Session, visit: Visit, work: Work) -> bool:
    """Take what the Detect tab has learned while the visitor has chosen nothing else; whether that changed anything."""
    if visit.job_id or visit.shelf.examples or (visit.detector and visit.detector.how != _OF_DETECT):
        return False
    folder = work.result_of(session.fit_job, "fit")
    if folder is None or session.source is None or (visit.detector and visit.detector.folder == str(folder)):
        return False
    use_detect(session, visit, work)
    return True


def _choose(visit: Visit, detector: Detector) -> str:
    visit.detector = detector
    return f"{detector_text(detector)}. Next: show examples."


def detector_text(detector: Detector) -> str:
    """What step 1 holds."""
    return f"{detector.name}, {detector.how}"


# Step 3.


def pretrained(session: Session, visit: Visit, work: Work) -> list[tuple[str, str]]:
    """(text, job id) of the visitor's pretrainings that are done and belong to this detector."""
    made = []
    for job_id in session.pretrain_jobs:
        if work.result_of(job_id, "pretrain") is None:
            continue
        asked = work.get(job_id, "pretrain").asked
        if visit.detector is not None and _fits(work.result_of(job_id, "pretrain"), visit.detector):
            made.append((f"{asked.get('name') or 'pretraining'} ({head_of(job_id, work)})", job_id))
    return made


def _fits(pretrained: Path, detector: Detector) -> bool:
    """Whether a pretraining saw what this detector sees, as `anomalyhub.pipeline.pretrain.signature` has it."""
    try:
        learned = dict(read_json(pretrained / "config.json")["pretraining"]["features"])
        stored = read_json(Path(detector.folder) / "config.json")
        seen = {"detector": stored["detector"], "weights": (stored["backbone"] or {}).get("fingerprint")}
        return learned == seen | {name: stored["config"].get(name) for name in learned.keys() - seen.keys()}
    except (InvalidModelError, KeyError, TypeError, AttributeError, ValueError):
        return False


def head_of(pretrained: Any, work: Work) -> str:
    """The head that a pretraining is of; empty where there is none."""
    job = work.get(pretrained, "pretrain")
    return "" if job is None else str(job.asked.get("config", {}).get("head", ""))


def start(session: Session, visit: Visit, settings: Settings, work: Work, trusted: bool) -> str:
    """Queue the fitting."""
    detector, shelf = visit.detector, visit.shelf
    if detector is None:
        raise InvalidArgumentError("there is no detector yet: choose one in step 1")
    if not Path(detector.folder).is_dir():
        raise InvalidModelError("the detector's folder has been deleted: learn it again, then choose it in step 1")
    shelf.check()
    config = _settings_config(visit, settings, work, trusted)
    config |= {"model": detector.folder, "product": detector.name, "examples": shelf.lasting(work)}
    config["normals"] = normals_of(detector.folder, work)
    name = f"learning the kinds of {detector.name}"
    job = work.submit("classify", config, name=name, seed=settings.seed, former=visit.job_id)
    visit.job_id, visit.started = job.id, shelf.state
    session.classify_jobs.append(job.id)
    return f"Learning {len(shelf.kinds)} kinds from {len(shelf.examples)} examples."


def normals_of(folder: str, work: Work) -> list[list[str]]:
    """(id, path) of the normal images that a detector was fitted on; none where nobody has said which are normal."""
    job = work.get(Path(folder).parent.name, "fit")
    if job is None or not str(job.asked.get("name", "")).startswith("learning "):
        return []
    return [list(pair) for pair in job.asked["config"].get("images") or () if Path(pair[1]).is_file()]


def _settings_config(visit: Visit, settings: Settings, work: Work, trusted: bool) -> dict[str, Any]:
    if settings.head not in HEADS:
        raise InvalidArgumentError(f"there is no head {settings.head!r}: choose one of {', '.join(HEADS)}")
    config: dict[str, Any] = {"head": settings.head}
    if settings.head in _LOOKING:
        backbone = (settings.backbone or "").strip() or "embedded"
        if not trusted and backbone not in discover.OFFERED:
            offered = ", ".join(discover.OFFERED)
            raise InvalidArgumentError(f"backbone {backbone!r} is not offered here: choose one of {offered}")
        config["backbone"] = backbone
    if settings.pretrained:
        folder = work.result_of(settings.pretrained, "pretrain")
        if folder is None:
            raise InvalidArgumentError("that pretraining is not there any more: choose another, or none")
        if (head := head_of(settings.pretrained, work)) != settings.head:
            raise InvalidArgumentError(
                f"that pretraining is of the head {head}, not {settings.head}: choose that head, or no pretraining"
            )
        if not _fits(folder, visit.detector):
            raise InvalidArgumentError("that pretraining is for other detectors than this: choose no pretraining")
        config["pretrained"] = str(folder)
        config.pop("backbone", None)  # it keeps its own
    return config


def cancel(visit: Visit, work: Work) -> str:
    """Stop the fitting; the examples stay, and it can be resumed."""
    if (job := work.get(visit.job_id, "classify")) is not None:
        job.cancel()
    return "Stopping."


def resume(visit: Visit, work: Work) -> str:
    """Go on with a fitting that failed, was cancelled or interrupted."""
    job = work.get(visit.job_id, "classify")
    if job is None:
        raise InvalidArgumentError("there is nothing to go on with: press Learn the kinds")
    job.resume()
    return "Going on."


def inspector_file(session: Session, visit: Visit, work: Work) -> str:
    """Path of a zip of the inspector: detector, threshold and classifier; `anomalyhub inspect` reads the folder."""
    folder = work.result_of(visit.job_id, "classify")
    if folder is None:
        raise InvalidArgumentError("nothing has been learned yet: press Learn the kinds in step 3")
    downloads = session.folder / "downloads"
    downloads.mkdir(exist_ok=True)
    name = slug(str(work.get(visit.job_id).asked["config"].get("product") or "product"))
    return shutil.make_archive(str(downloads / f"anomalyhub-{name}-inspector"), "zip", folder)


def slug(name: str) -> str:
    """A file name from a product's name."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()[:8])[:60] or "product"


# A page that comes back.


def remembered(visit: Visit) -> dict[str, str] | None:
    """What the browser keeps."""
    return {"job": visit.job_id} if visit.job_id else None


def recall(session: Session, visit: Visit, memory: Any, work: Work) -> bool:
    """Find the fitting again that the browser remembers, which may send anything; whether one was found."""
    job = work.get(memory.get("job"), "classify") if isinstance(memory, dict) else None
    if visit.job_id is not None or job is None:
        return False
    config = job.asked.get("config", {})
    visit.job_id = job.id
    if job.id not in session.classify_jobs:
        session.classify_jobs.append(job.id)
    if not visit.shelf.examples:
        visit.shelf = Shelf.of(config.get("examples") or ())
        visit.started = visit.shelf.state
    if visit.detector is None and config.get("model"):
        visit.detector = detector_of(session, config, work)
    return True


def detector_of(session: Session, config: Mapping[str, Any], work: Work) -> Detector:
    """That of a job, with the images that can still be found."""
    folder, name = str(config["model"]), str(config.get("product") or "your product")
    source = session.source
    if source is not None and str(work.result_of(session.fit_job, "fit")) == folder:
        return Detector(name, _OF_DETECT, folder, source.tests.refs, source.kind == "dataset")
    tests: tuple[SampleRef, ...] = ()
    if product := next((key for key, title in sources.SAMPLES.items() if title == name), ""):
        tests = load_dataset(discover.sample_folder(product) / product).test.refs
    return Detector(name, "as chosen before", folder, tests)
