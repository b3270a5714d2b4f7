"""The jobs of the Synthesize tab: painting defects, learning what is normal, pretraining; and what comes of them.

All that is known about them is on disk: a page needs to know their ids alone.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from anomalyhub.config import configure
from anomalyhub.data import SampleRef
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, OutputError
from anomalyhub.jobs import Job
from anomalyhub.jobs.store import ACTIVE
from anomalyhub.synthesis import SynthesisConfig, SyntheticSet, read_synthetic
from anomalyhub.ui.session import Session, plain_words
from anomalyhub.ui.synthesize import Chosen, Form, Visit, n_kinds
from anomalyhub.ui.work import Work

#: Heads that can be pretrained, the default first, as people read them.
HEADS = {"prototype": "Prototype", "contrastive": "Contrastive", "relation": "Relation"}
#: Backbones that visitors from elsewhere may choose.
OFFERED = ("embedded", "vit_small_patch16_224.dino", "vit_tiny_patch16_224.augreg_in21k_ft_in1k")
MAX_COUNT = 10_000
#: The share of the progress that learning what is normal takes, where pretraining waits for it.
_LEARNING = 0.3
#: Pretrainings that the browser keeps in mind for the Classify tab.
_REMEMBERED = 8


@dataclass(frozen=True)
class Training:
    """Step 3. detector is "detect", the Detect tab's model, or "own", one that is learned for this.

    against  what residuals are taken against: "bank", the normal patches, or "clean", each image before it was painted
    backbone of a head that looks at pictures
    """

    head: str = "prototype"
    detector: str = "own"
    backbone: str = "embedded"
    against: str = "bank"
    seed: int = 0


class State(NamedTuple):
    """Where a piece of work is.

    status   of its job; "" without one, "gone" when its folder has been deleted
    problem  why there is no result; empty while there may be one
    """

    job: Job | None = None
    status: str = ""
    fraction: float = 0.0
    text: str = ""
    result: Path | None = None
    problem: str = ""

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def resumable(self) -> bool:
        return self.status in ("failed", "cancelled", "interrupted")


# What is asked for.


def paint(visit: Visit, form: Form, work: Work) -> str:
    """Queue the painting of a data set."""
    chosen = visit.chosen
    if chosen is None:
        raise InvalidArgumentError("there are no normal images yet: choose some in step 1")
    configure(SynthesisConfig, form.settings)
    kinds = n_kinds(visit, form)
    count = form.each * kinds
    if form.each < 2 or count > MAX_COUNT:
        raise InvalidArgumentError(
            f"{form.each} images of each of {kinds} kinds are {count:,}: choose 2 or more of each, and at most "
            f"{MAX_COUNT:,} in all"
        )
    with _disk_full_said(work):
        chosen = visit.chosen = _lasting(chosen, work)
        config = {"images": _listed(chosen), "product": chosen.name, "count": count, "skip_unreadable": True}
        config |= {"settings": form.settings, "textures": str(visit.textures) if form.own else None}
        name = f"painting defects on {chosen.name}"
        job = work.submit("synthesize", config, name=name, seed=form.seed, former=visit.paint_job)
    if not pretraining(visit, work).active:
        visit.pretrain_job = visit.fit_job = None  # on what was painted before; the Classify tab has it still
    visit.paint_job, visit.started, visit.page = job.id, chosen, 1
    return f"Painting {count:,} defects on {chosen.name}."


def _lasting(chosen: Chosen, work: Work) -> Chosen:
    """The same images in files that jobs can read for as long as they need."""
    if chosen.lasting:
        return chosen
    refs = [SampleRef(name, Path(path)) for name, path in work.keep(chosen.refs)]
    return replace(chosen, refs=tuple(refs), lasting=True)


def _listed(chosen: Chosen) -> list[list[str]]:
    return [[ref.id, str(ref.path)] for ref in chosen.refs]


@contextmanager
def _disk_full_said(work: Work) -> Iterator[None]:
    """An output that cannot be written is said without paths of the machine."""
    try:
        yield
    except OutputError as error:
        reason = getattr(error.__cause__, "strerror", None) or str(error).replace(str(work.home), "the app's folder")
        raise OutputError(f"the app cannot keep what it needs ({reason}): free some space on its machine") from error


def detect_model(session: Session, chosen: Chosen | None, work: Work) -> Path | None:
    """The Detect tab's model, where it is a PatchCore of these images; None otherwise."""
    source, job = session.source, work.get(session.fit_job, "fit")
    if chosen is None or source is None or job is None:
        return None
    is_patchcore = job.asked.get("config", {}).get("detector") == "patchcore"
    return job.result if is_patchcore and _same_images(source.normals.refs, chosen.refs) else None


def _same_images(ones: Sequence[SampleRef], others: Sequence[SampleRef]) -> bool:
    """By their ids and sizes, and the first by its content: either may be copies of the visitor's files."""
    if [one.id for one in ones] != [other.id for other in others]:
        return False
    try:
        pairs = [(one.path, other.path) for one, other in zip(ones, others, strict=True)]
        sizes = all(one.stat().st_size == other.stat().st_size for one, other in pairs)
        return sizes and all(filecmp.cmp(*pair, shallow=False) for pair in pairs[:1])
    except OSError:
        return False


def pretrain(session: Session, visit: Visit, form: Training, work: Work, trusted: bool) -> str:
    """Queue a pretraining on what was painted; and before it, where need be, the learning of what is normal."""
    painted = painting(visit, work).result
    if painted is None:
        raise InvalidArgumentError("there is nothing to pretrain on yet: press Generate in step 2")
    if form.head not in HEADS:
        raise InvalidArgumentError(f"there is no head {form.head!r}: choose one of {', '.join(HEADS)}")
    backbone = (form.backbone or "").strip() or OFFERED[0]
    if not trusted and backbone not in OFFERED:
        raise InvalidArgumentError(f"backbone {backbone!r} is not offered here: choose one of {', '.join(OFFERED)}")
    if (state := pretraining(visit, work)).active and not state.job.stopping:
        raise InvalidArgumentError(f"{state.job.asked.get('name')} still runs: wait for its end, or cancel it")
    with _disk_full_said(work):
        model, fit_job = _model(session, visit, form, work)
        config = {"synthetic": str(painted), "model": str(model), "head": form.head, "against": form.against}
        if form.head == "prototype":
            config["backbone"] = backbone
        name = f"pretraining on {visit.started.name}"
        job = work.submit("pretrain", config, name=name, seed=form.seed, former=visit.pretrain_job)
    visit.pretrain_job, visit.fit_job = job.id, fit_job
    session.pretrain_jobs.append(job.id)
    return f"Pretraining on {visit.started.name}."


def _model(session: Session, visit: Visit, form: Training, work: Work) -> tuple[Path, str | None]:
    """The model's folder, and the job that makes it if it is not the Detect tab's.

    A job that is queued after that one finds its result: jobs run in the order of their submission.
    """
    chosen = visit.started
    if form.detector == "detect":
        if (model := detect_model(session, chosen, work)) is None:
            raise InvalidArgumentError(
                "the Detect tab has no PatchCore of these images: press Learn there, or let this tab learn them"
            )
        return model, None
    images = tuple(ref.path for ref in chosen.refs)
    job = work.get(visit.fits.get(images), "fit")
    if job is None or job.result is None:
        config = {"product": chosen.name, "images": _listed(chosen), "skip_unreadable": True}
        job = work.submit("fit", config, name=f"learning {chosen.name}", former=job.id if job else None)
        visit.fits[images] = job.id
    return job.folder / "result", job.id


def cancel(visit: Visit, work: Work, step: int) -> str:
    """Stop what step 2 or 3 has begun; it can be resumed."""
    for job in _jobs(visit, work, step):
        job.cancel()
    return "Stopping."


def resume(visit: Visit, work: Work, step: int) -> str:
    """Go on with what failed, was cancelled or interrupted."""
    jobs = _jobs(visit, work, step)
    if not jobs:
        raise InvalidArgumentError("there is nothing to go on with: start again")
    for job in jobs:
        if job.status not in ACTIVE:
            job.resume()
    return "Going on."


def _jobs(visit: Visit, work: Work, step: int) -> list[Job]:
    """Those of a step that have no result, in their order."""
    ids = {"synthesize": visit.paint_job} if step == 2 else {"fit": visit.fit_job, "pretrain": visit.pretrain_job}
    jobs = [work.get(job_id, kind) for kind, job_id in ids.items()]
    return [job for job in jobs if job is not None and job.result is None]


# Where it stands.


def painting(visit: Visit, work: Work) -> State:
    """Of step 2. Raises nothing that a damaged job could cause."""
    state = _state(visit.paint_job, "synthesize", work)
    if not state.active and visit.started is not visit.chosen:  # those of another product
        return State()
    if state.result is not None:
        try:
            read_synthetic(state.result)
        except AnomalyHubError as error:
            problem = str(error).replace(str(state.job.folder), f"job {state.job.id}")
            return state._replace(status="damaged", result=None, problem=f"{problem}; or press Generate again")
    return state


def pretraining(visit: Visit, work: Work) -> State:
    """Of step 3, with the learning that it waits for."""
    state = _state(visit.pretrain_job, "pretrain", work)
    if not state.active and (visit.started is not visit.chosen or not _on_what_is_painted(visit, state, work)):
        return State()
    learning = _state(visit.fit_job, "fit", work)
    if learning.status == "":
        return state
    if learning.problem and not state.active and state.result is None:
        return state._replace(problem=f"what is normal could not be learned: {learning.problem}")
    if learning.active and state.active:
        return state._replace(fraction=_LEARNING * learning.fraction, text=learning.text)
    return state._replace(fraction=_LEARNING + (1 - _LEARNING) * state.fraction)


def _on_what_is_painted(visit: Visit, state: State, work: Work) -> bool:
    """Whether a pretraining was on what step 2 holds now; its own folder or that of step 2 may be gone."""
    painted = work.get(visit.paint_job, "synthesize")
    if state.job is None or painted is None:
        return painted is not None
    return state.job.asked.get("config", {}).get("synthetic") == str(painted.folder / "result")


def _state(job_id: str | None, kind: str, work: Work) -> State:
    if job_id is None:
        return State()
    if (job := work.get(job_id, kind)) is None:
        return State(status="gone", problem="the folder in which it worked has been deleted: start it again")
    status = "done" if job.result is not None else job.status  # its processes take a second to end after the result
    problem = work.reason(job) if status in ("failed", "interrupted") else ""
    fraction, text = job.progress
    text = f"painted {text}" if kind == "synthesize" and text[:1].isdigit() else text or "starting"
    return State(job, status, fraction, plain_words(text), job.result, problem)


# What comes of it.


def painted_set(visit: Visit, work: Work) -> SyntheticSet:
    """Raises InvalidArgumentError when there is none."""
    if (result := painting(visit, work).result) is None:
        raise InvalidArgumentError("there are no painted defects yet: press Generate in step 2")
    return read_synthetic(result)


def painted_file(session: Session, visit: Visit, work: Work) -> str:
    """Path of a zip of the data set, which `anomalyhub` reads by its path and `datasets.load_dataset` as well."""
    return _zipped(session, painted_set(visit, work).folder, f"{_slug(visit)}-synthetic")


def pretrained_file(session: Session, visit: Visit, work: Work) -> str:
    """Path of a zip of the pretrained classifier; `anomalyhub classify fit --pretrained` reads the folder."""
    if (result := pretraining(visit, work).result) is None:
        raise InvalidArgumentError("there is no pretrained classifier yet: press Pretrain in step 3")
    return _zipped(session, result, f"{_slug(visit)}-pretrained")


def _zipped(session: Session, folder: Path, name: str) -> str:
    target = session.folder / "downloads" / name
    try:
        target.parent.mkdir(exist_ok=True)
        return shutil.make_archive(str(target), "zip", folder)
    except OSError as error:
        with suppress(OSError):
            target.with_name(f"{name}.zip").unlink()
        raise OutputError(
            f"the zip cannot be written ({error.strerror}): free some space on the app's machine"
        ) from error


def _slug(visit: Visit) -> str:
    """A file name from the product's name."""
    letters = "".join(c if c.isalnum() else " " for c in visit.started.name.lower())
    return "anomalyhub-" + "-".join(letters.split()[:8] or ["product"])[:60]


# The page comes back.


def remembered(session: Session, visit: Visit) -> dict[str, Any] | None:
    """What the browser keeps; None while there is nothing."""
    if visit.paint_job is None:
        return None
    jobs = {"paint": visit.paint_job, "fit": visit.fit_job, "pretrain": visit.pretrain_job}
    return {**jobs, "kind": visit.started.kind, "pretrained": session.pretrain_jobs[-_REMEMBERED:]}


def recall(session: Session, visit: Visit, memory: Any, work: Work) -> Form | None:
    """Find the jobs again that the browser remembers, and the form as it was; what it sends may be anything."""
    if visit.chosen is not None or not isinstance(memory, dict):
        return None
    former = memory.get("pretrained")
    for job_id in former if isinstance(former, list) else ():
        if work.get(job_id, "pretrain") is not None and job_id not in session.pretrain_jobs:
            session.pretrain_jobs.append(job_id)
    job = work.get(memory.get("paint"), "synthesize")
    if job is None:
        return None
    config = job.asked.get("config", {})
    refs = tuple(SampleRef(str(name), Path(path)) for name, path in config.get("images") or ())
    kind = str(memory.get("kind"))
    visit.chosen = visit.started = Chosen(str(config.get("product")), refs, kind, lasting=True)
    visit.textures = Path(config["textures"]) if config.get("textures") else None
    visit.paint_job = job.id
    if (fit := work.get(memory.get("fit"), "fit")) is not None:
        visit.fit_job = visit.fits[tuple(ref.path for ref in refs)] = fit.id
    if (trained := work.get(memory.get("pretrain"), "pretrain")) is not None:
        visit.pretrain_job = trained.id
    return _form_of(visit, config, int(job.asked.get("seed", 0)))


def _form_of(visit: Visit, config: Mapping[str, Any], seed: int) -> Form:
    """The form that a job was started with."""
    settings = config.get("settings") or {}
    form = Form(
        mask=settings.get("mask", Form.mask),
        own=visit.textures is not None,
        beta=_percent(settings.get("beta"), Form.beta),
        area=_percent(settings.get("area"), Form.area),
        polygon=100 * settings.get("polygon_area", Form.polygon / 100),
        foreground=settings.get("foreground", Form.foreground),
        seed=seed,
    )
    with suppress(AnomalyHubError):  # its textures are gone
        return replace(form, each=max(2, round(config.get("count", 0) / n_kinds(visit, form))))
    return form


def _percent(shares: Any, default: tuple[float, float]) -> tuple[float, float]:
    return (round(100 * shares[0]), round(100 * shares[-1])) if shares else default
