"""Step 2 of the Classify tab: examples from uploads, from labelled test images, and from the Discover board."""

from __future__ import annotations

from collections.abc import Sequence

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress
from anomalyhub.ui import board, discover, examples, sources
from anomalyhub.ui.classify import Visit
from anomalyhub.ui.session import Job, Session
from anomalyhub.ui.work import Work


def add_uploads(
    session: Session, visit: Visit, paths: Sequence[str], kind: str, progress: Progress | None = None
) -> tuple[str, list[str]]:
    """Take uploaded images and zips as examples of a kind, or of the kinds that the folders in zips are named by."""
    images, notices = sources.uploaded(paths, session.folder, examples.LIMITS, Job(session, progress))
    if not images:
        raise sources.no_images(notices)
    refs, more = examples.of_uploads(images.refs, kind)
    count, known = visit.shelf.add(refs)
    return _added(visit, count), [*notices, *more, *known]


def add_tests(visit: Visit, per_kind: int) -> tuple[str, list[str]]:
    """Take the first labelled test images of each kind."""
    if visit.detector is None:
        raise InvalidArgumentError("there is no detector yet, whose test images these are: choose one in step 1")
    count, known = visit.shelf.add(examples.of_tests(visit.detector.tests, per_kind), visit.detector.lasting)
    return _added(visit, count), known


def add_board(session: Session, visit: Visit, work: Work, per_kind: int) -> tuple[str, list[str]]:
    """Take crops of the columns of the visitor's Discover board."""
    if work.result_of(session.discover_job, "discover") is None:
        raise InvalidArgumentError("there is no board yet: press Discover on the Discover tab and name its columns")
    opened = board.opened(discover.Visit(job_id=session.discover_job), work)
    refs = examples.of_board(opened, per_kind, session.folder / "masks")
    count, known = visit.shelf.add(refs)
    return _added(visit, count), known


def _added(visit: Visit, count: int) -> str:
    kinds = len(visit.shelf.kinds)
    then = "Next: learn the kinds." if kinds > 1 else "Next: examples of another kind."
    return f"{count} examples added: {len(visit.shelf.state)} of {kinds} kinds. {then}"
