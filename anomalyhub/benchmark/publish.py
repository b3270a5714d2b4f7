"""Runs of the benchmark into a repository of results, beside what is there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from anomalyhub.benchmark.leaderboard import SUBMISSION, SUBMISSIONS
from anomalyhub.benchmark.records import FAILED, UNITS
from anomalyhub.benchmark.units import PLAN
from anomalyhub.errors import InvalidRecordError, StoreError
from anomalyhub.hub import BaseStore, Pushed, create_store
from anomalyhub.hub.markup import MARKER
from anomalyhub.hub.share import share
from anomalyhub.protocols import Progress, part


def publish(
    folders: Sequence[str | Path], repo_id: str, *, store: str | BaseStore = "hub", progress: Progress | None = None
) -> Pushed:
    """Push runs, and submissions, into a repository of results, which is made if need be; what is there stays.

    folders  of a run each, or of several; a run's folder has the same name there, and takes the place of a former one
    Raises InvalidRecordError for folders without results, StoreError.
    """
    kept = create_store(store)
    runs: dict[str, Path] = {}
    for name, path in (item for folder in map(Path, folders) for item in _runs(folder).items()):
        if name in runs:
            raise InvalidRecordError(f"{runs[name]} and {path} would both be {name} there: rename one of them")
        runs[name] = path
    if not runs:
        raise InvalidRecordError(f"{', '.join(map(str, folders))} has no results: give the --out folder of eval/run.py")
    with tempfile.TemporaryDirectory() as scratch:
        folder, before = Path(scratch) / "results", None
        folder.mkdir()
        if kept.exists(repo_id, "dataset"):
            pulled = kept.pull(repo_id, "dataset", out=folder, overwrite=True, progress=part(progress, 0.0, 0.4))
            before = pulled.revision
            if pulled.notices:
                raise StoreError(
                    f"{repo_id} has files that are no results, which a push would remove ({pulled.notices[0]}): name "
                    "another repository"
                )
        for name, path in runs.items():
            shutil.rmtree(folder / name, ignore_errors=True)
            _copy(path, folder / name)
        if before is not None and kept.files(repo_id, "dataset").revision != before:
            raise StoreError(f"somebody else has pushed to {repo_id} meanwhile: push again")
        message, rest = f"Results of {len(runs)} runs", part(progress, 0.4, 1.0)
        return share(folder, repo_id, "dataset", store=kept, message=message, tags=_tags(folder), progress=rest)


def _tags(folder: Path) -> list[str]:
    """Of the card; none where a person wrote that, who has tagged it."""
    card = folder / "README.md"
    own = card.is_file() and MARKER not in card.read_text(encoding="utf-8", errors="replace").splitlines()
    return [] if own else ["benchmark"]


def _runs(folder: Path) -> dict[str, Path]:
    """Runs and submissions below a folder, by the names that they have in a repository."""
    own = {path.parent for path in folder.rglob(UNITS) if path.is_dir()}
    own |= {path.parent for path in folder.glob(f"**/{SUBMISSIONS}/*/{SUBMISSION}")}
    named = {path: path.relative_to(folder).as_posix() for path in sorted(own)}
    return {folder.name if name == "." else name: path for path, name in named.items()}


def _copy(source: Path, target: Path) -> None:
    """What a run or a submission is made of, without its scratch folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (UNITS, FAILED):
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
    for path in source.iterdir():
        if path.is_file() and (path.name in (PLAN, SUBMISSION) or path.suffix == ".csv"):
            shutil.copyfile(path, target / path.name)
