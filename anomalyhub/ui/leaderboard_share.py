"""Steps 2 and 3 of the Leaderboard tab: results in repositories, and what visitors submit. Callbacks without gradio."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from anomalyhub.benchmark.faults import submission_faults
from anomalyhub.benchmark.leaderboard import read_results, submit, truth_of
from anomalyhub.benchmark.publish import publish
from anomalyhub.benchmark.recheck import Truth
from anomalyhub.benchmark.submission import read_submission
from anomalyhub.errors import InvalidArgumentError, InvalidUploadError, UnsafeRepositoryError
from anomalyhub.hub.contents import checked_repo_id
from anomalyhub.protocols import Progress, part
from anomalyhub.ui.hub import Place, open_store, store_name
from anomalyhub.ui.leaderboard import Visit, named_folders, read
from anomalyhub.ui.session import Job, Session
from anomalyhub.ui.work import Work

#: Bytes of a repository of results that is read, and files of one submission.
MAX_BYTES, MAX_FILES = 256 * 1024**2, 200
HERE = "here"


# Repositories of results.


def read_repo(
    session: Session,
    visit: Visit,
    place: Place,
    repo: str,
    work: Work,
    trusted: bool,
    progress: Progress | None = None,
) -> str:
    """Read a repository of results; its rows join those that are there, in place of another repository's."""
    job = Job(session, progress)
    repo = checked_repo_id((repo or "").strip())
    store = open_store(session, work, trusted, place)
    with work.staging() as folder:
        total = sum(entry.size for entry in store.files(repo, "dataset").entries)
        if total > MAX_BYTES:
            raise UnsafeRepositoryError(
                f"{repo} has {total / 1e6:.0f} MB, and results have {MAX_BYTES / 1e6:.0f} at most: name another"
            )
        pulled = store.pull(repo, "dataset", out=folder, progress=part(job, 0.0, 0.8))
        job(0.8, "reading the results")
        try:
            rows, notices = read_results(folder, f"hf:{repo}")
        except Exception as error:
            error.args = (str(error).replace(str(folder), repo),)
            raise
    visit.pulled, visit.repo, visit.at = tuple(rows), repo, store_name(work, trusted, place)
    told = (*pulled.notices, *(text.replace(str(folder), repo) for text in notices))
    visit.notices = tuple(dict.fromkeys((*visit.notices, *told)))
    return f"{len(rows)} rows of {repo} are on the board."


def push_own(
    session: Session,
    visit: Visit,
    place: Place,
    repo: str,
    work: Work,
    trusted: bool,
    progress: Progress | None = None,
) -> str:
    """Push the results of this machine into a repository, beside what is there."""
    if not trusted:
        raise InvalidArgumentError("results of this machine are not visitors' to push: run the app yourself")
    folders = list(named_folders(work, trusted).values())
    if not folders:
        raise InvalidArgumentError("there are no results of this machine: start the app with --results FOLDER")
    repo = checked_repo_id((repo or "").strip())
    store = open_store(session, work, trusted, place)
    pushed = publish(folders, repo, store=store, progress=Job(session, progress))
    if not pushed.changed and not pushed.removed:
        return f"{repo} has the results of this machine already."
    return f"The results of this machine are in {repo}: {len(pushed.changed)} files sent."


# Submissions.


def check(
    session: Session, visit: Visit, paths: Sequence[str], data_root: Path | None, progress: Progress | None = None
) -> str:
    """Take an uploaded submission, with the predictions beside it, and find all that is wrong with it.

    data_root  its data sets have the labels that predictions are compared with
    Raises InvalidUploadError for what is no submission at all.
    """
    job = Job(session, progress)
    files = [Path(path) for path in paths]
    jsons = [path for path in files if path.suffix.lower() == ".json"]
    if len(jsons) != 1:
        raise InvalidUploadError(
            f"{len(jsons)} JSON files were uploaded: give one submission at a time, with the CSV files of its "
            "predictions"
        )
    if len(files) > MAX_FILES:
        raise InvalidUploadError(f"{len(files)} files were uploaded, and {MAX_FILES} are the most: leave some out")
    forget(visit)
    visit.name = jsons[0].name
    folder = session.folder / f"submission-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    for path in files:
        job.check()
        _link(path, folder / path.name)
    file, truth = folder / jsons[0].name, _truth(data_root)
    job(0.2, "checking the submission")
    visit.faults = tuple(text.replace(str(folder), "your upload") for text in submission_faults(file, truth))
    if visit.faults:
        shutil.rmtree(folder, ignore_errors=True)
        return f"{visit.name} has {len(visit.faults)} faults: mend them and upload it again."
    visit.checked, visit.file = read_submission(file, truth), file
    return f"Nothing is wrong with {visit.name}. Next: add it."


def _truth(data_root: Path | None) -> Truth | None:
    return None if data_root is None else truth_of([], data_root)


def _link(path: Path, target: Path) -> None:
    if target.exists():
        raise InvalidUploadError(f"two files are called {target.name}: rename one of them")
    try:
        os.link(path, target)
    except OSError:  # another file system
        shutil.copyfile(path, target)


def forget(visit: Visit) -> None:
    """Begin with another submission."""
    visit.checked, visit.file, visit.name, visit.faults, visit.added = None, None, "", (), ""


def places(visit: Visit, work: Work, trusted: bool) -> list[tuple[str, str]]:
    """(text, value) of where a submission can be added: the repository of step 2, or a folder of this machine."""
    offered = [(f"To {visit.repo}, in {visit.at}", "repo")] if visit.repo else []
    first = next(iter(named_folders(work, trusted)), None)
    return offered + ([(f"To {Path(first).name}, of this machine", HERE)] if trusted and first else [])


def add(
    session: Session,
    visit: Visit,
    place: Place,
    where: str,
    data_root: Path | None,
    work: Work,
    trusted: bool,
    progress: Progress | None = None,
) -> str:
    """Add the submission that was checked to the repository of step 2, or to the results of this machine."""
    if visit.checked is None or visit.file is None:
        raise InvalidArgumentError("there is no submission that could be added: upload one in step 3")
    if where not in dict((value, text) for text, value in places(visit, work, trusted)):
        raise InvalidArgumentError("there is no place for it: read a repository of results in step 2 first")
    job, truth, name = Job(session, progress), _truth(data_root), visit.checked.method
    if where == HERE:
        folder = next(iter(named_folders(work, trusted).values()))
        submit(visit.file, folder, truth=truth, progress=job)
        read(visit, work, trusted)
        added = f"{name} is in {folder.name}, of this machine"
    else:
        if place.place != "folder" and not (session.token or trusted):
            raise InvalidArgumentError("the Hub wants to know who gives: log in with an access token on the Hub tab")
        store = open_store(session, work, trusted, place)
        submit(visit.file, f"hf:{visit.repo}", store=store, truth=truth, progress=part(job, 0.0, 0.8))
        read_repo(session, visit, place, visit.repo, work, trusted)
        added = f"{name} is in {visit.repo}"
    forget(visit)
    visit.added = added
    return f"{added}."
