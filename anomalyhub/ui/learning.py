"""Learning what is normal, which is a job: it goes on without its page, and a page finds it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyhub.data import Split
from anomalyhub.errors import AnomalyHubError, Cancelled, InvalidArgumentError
from anomalyhub.ui import methods, sources
from anomalyhub.ui.methods import Settings
from anomalyhub.ui.session import Job, Session, plain_words
from anomalyhub.ui.work import Work

if TYPE_CHECKING:
    from anomalyhub import jobs

_DOING = {"Learn": "learning", "Compare": "comparing", "Prepare": "preparing"}


def stop(session: Session) -> None:
    """Stop the work for this visitor, the job that learns included; what was learned and checked before stays."""
    session.cancel()
    job, session.learning = session.learning, None
    if job is not None:
        job.cancel()


def learn(session: Session, settings: Settings, trusted: bool, work: Work) -> Iterator[tuple[float, str]]:
    """Learn from the photos of step 1 in a job of its own; yields how far it is, until the session has the model.

    Raises Cancelled and leaves the former model when the visitor cancels; AnomalyHubError says why the job failed.
    """
    with Job(session) as watch:
        source = session.source
        if source is None or not source.photos:
            raise InvalidArgumentError("there are no normal images yet: choose some in step 1")
        method = methods.find(settings.method, source.have)
        config = method.fit_config(settings, trusted) | {"product": source.name, "images": []}
        read = source.have != "none" or method.compares
        config["images" if read else "kept"] = _lasting(session, work)
        watch.check()
        session.have, session.method = source.have, method.key
        former = session.learning.id if session.learning else None
        name = f"{_DOING[method.verb(source.have)]} {source.name}"
        job = work.submit("fit", config, name=name, seed=settings.seed, former=former)
        session.learning = job
        try:
            watch.check()
        except Cancelled:  # while it was submitted
            session.learning = None
            job.cancel()
            raise
        yield from _followed(session, work, watch)


def _lasting(session: Session, work: Work) -> list[list[str]]:
    """(id, path) of the photos of step 1, in files that outlive the session, as those of a data folder do."""
    source = session.source
    if source.kind == "dataset":
        return [[ref.id, str(ref.path)] for ref in source.photos.refs]
    images = work.keep(source.photos.refs)
    kept = Split(replace(ref, path=Path(path)) for ref, (_, path) in zip(source.photos.refs, images, strict=True))
    session.source = replace(source, **{"tests" if source.have == "none" else "normals": kept})
    return images


def _followed(session: Session, work: Work, watch: Job) -> Iterator[tuple[float, str]]:
    """The job that learns, to its end; then the model is the session's."""
    job = session.learning
    try:
        for progress in work.follow(job):
            watch.check()
            yield progress.fraction, plain_words(progress.text)
        if job.result is None:
            raise _ending(job, work)
        _load(session, job, watch)
    finally:
        if session.learning is job:
            session.learning = None


def _ending(job: jobs.Job, work: Work) -> AnomalyHubError:
    """Why there is no result, and what to do."""
    status, doing = job.status, str(job.asked.get("name", "")).partition(" ")[0]
    verb = {doing: verb for verb, doing in _DOING.items()}.get(doing, "Learn")
    if status == "cancelled":  # on another page
        return Cancelled("stopped: everything is as it was before")
    if status == "interrupted":
        return AnomalyHubError(f"{doing} was interrupted (the machine or its memory gave out): press {verb} again")
    return AnomalyHubError(f"{doing} failed: {work.reason(job)}")


def _load(session: Session, job: jobs.Job, watch: Job) -> None:
    from anomalyhub.pipeline import Inspector  # torch: seconds that the page need not wait

    inspector = Inspector.load(job.result)
    watch.check()
    session.inspector, session.threshold, session.fit_job = inspector, inspector.threshold, job.id
    session.checked, session.notices = (), ()


def what_was_learned(session: Session) -> str:
    """What to say once there is a model."""
    source = session.source
    if source.have == "none":
        return f"{len(source.tests)} photos of {source.name} are ready. Next: check them."
    return f"Learned what {source.name} looks like from {len(source.normals)} normal images. Next: check unknown parts."


def remembered(session: Session) -> dict[str, str | None]:
    """What the browser keeps, so that a page reload finds model and job again; empty when there is neither."""
    source, job = session.source, session.learning
    if source is None or not (session.fit_job or job):
        return {}  # None would not be stored
    chosen = {"kind": source.kind, "key": source.key, "have": source.have, "method": session.method}
    return chosen | {"model": session.fit_job, "learning": job.id if job else None}


def recall(session: Session, memory: Any, root: Path | None, work: Work) -> None:
    """Bring back the source that `remembered` told of, and what is to be loaded or followed by `go_on`.

    The visitor's browser may send anything as `memory`: what is not this app's is ignored.
    """
    if session.source is not None or not isinstance(memory, dict):
        return
    model, learning = (work.get(memory.get(key), "fit") for key in ("model", "learning"))
    if model is not None and model.result is None:
        model = None
    if learning is not None and (learning.stopping or learning.status == "cancelled"):
        learning = None
    job = learning or model
    if job is None or not _is_ours(job, root, work):
        return
    kind, key, have = (str(memory.get(name)) for name in ("kind", "key", "have"))
    session.have = have if have in methods.HAVE else "many"
    session.method = _recalled_method(str(memory.get("method")), session.have)
    if kind == "hub":
        job_id, _, product = key.partition("/")
        tests, _ = sources.pulled_tests(work.get(job_id, "dataset"), product)
    else:
        tests = sources.former_tests(kind, key, root, session.have)
    session.source = sources.former_source(kind, key, job.asked["config"], tests, session.have)
    session.fit_job, session.learning = model.id if model else None, learning
    session.busy = "learn" if learning is not None and learning.result is None else "load"


def _recalled_method(key: str, have: str) -> str:
    try:
        return methods.find(key, have).key
    except InvalidArgumentError:
        return methods.find("", have).key


def _is_ours(job: jobs.Job, root: Path | None, work: Work) -> bool:
    """Whether its images are kept ones, or lie in the data folder that is open now; a model that was taken has none."""
    config = job.asked["config"]
    if job.asked.get("adopted"):
        return True
    paths = [Path(path) for _, path in (*(config.get("images") or ()), *(config.get("kept") or ()))]
    inside = root.resolve() if root is not None else None
    return bool(paths) and all(
        path.is_file() and (work.holds(path) or (inside is not None and path.resolve().is_relative_to(inside)))
        for path in paths
    )


def go_on(session: Session, work: Work) -> Iterator[tuple[float, str]]:
    """Load the model and follow the job that `recall` found; yields and raises as `learn` does."""
    with Job(session) as watch:
        model = work.get(session.fit_job, "fit")
        if model is not None and session.inspector is None:
            yield 1.0, "Bringing back what was learned"
            try:
                _load(session, model, watch)
            except AnomalyHubError:
                session.fit_job = None
                raise
        if session.learning is not None:
            yield from _followed(session, work, watch)
