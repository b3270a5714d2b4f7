"""Synthesis as a job: the command line's result, also after SIGKILL, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from job_helpers import LONG, end_all, until
from PIL import Image
from synthesis_helpers import disc

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.jobs import JobStore
from anomalyhub.pipeline.synthesize import SynthesizeConfig, synthesize_to


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[list[str]]:
    folder = tmp_path_factory.mktemp("discs")
    for number in range(3):
        Image.fromarray(disc(number, (96, 128))[0]).save(folder / f"{number}.png")
    return [[path.name, str(path)] for path in sorted(folder.iterdir())]


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "jobs", outlive=False, patience=3.0)
    yield store
    end_all(store)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def worker_of(job) -> psutil.Process:
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "anomalyhub.jobs.worker" in words and job.id in " ".join(words):
            return process
    raise AssertionError("there is no worker")


def test_a_job_that_is_killed_ends_with_the_same_bytes(store, images, tmp_path):
    count = 400  # a second of work and more, so that it can be killed in the middle
    config = {"images": images, "product": "disc", "count": count, "settings": {"mask": "poisson"}}
    job = store.submit("synthesize", config, seed=4)
    done = job.folder / "checkpoints" / "done.jsonl"

    def n_done() -> int:
        return done.read_bytes().count(b"\n") if done.is_file() else 0

    until(lambda: n_done() >= 20 or job.status not in ("queued", "running"), "some images")
    assert job.status == "running", (job.error, job.log_tail())
    worker_of(job).kill()
    assert job.wait(LONG) == "interrupted" and "resume it" in job.error, (job.status, job.log_tail())
    before = n_done()
    kept = {path: path.stat().st_mtime_ns for path in (job.folder / "checkpoints/images/disc/test").rglob("*.png")}
    assert 20 <= before < count and before <= len(kept) <= before + 1 and job.result is None

    job.resume()
    assert job.wait(LONG) == "done", (job.error, job.log_tail())
    again = [path for path, written in kept.items() if path.stat().st_mtime_ns != written]
    assert len(again) <= 1  # the one that it was at
    expected = tmp_path / "expected"
    expected.mkdir()
    synthesize_to(expected, SynthesizeConfig(**job.asked["config"]), seed=4)
    ours, theirs = contents(job.result), contents(expected)
    assert ours.keys() == theirs.keys() and [name for name in ours if ours[name] != theirs[name]] == []
    assert len(ours) == 2 * count + 3 + 3  # images and masks, clean images, three texts


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"images": None}, "either data"), ({"settings": {"beta": 3.0}}, "beta"), ({"count": -1}, "count must be")],
)
def test_bad_submissions_leave_nothing(store, images, changes, message):
    with pytest.raises(InvalidArgumentError, match=message):
        store.submit("synthesize", {"images": images, **changes})
    assert store.list() == []


def test_why_it_failed_is_told(store, images, tmp_path):
    (tmp_path / "textures").mkdir()
    job = store.submit("synthesize", {"images": images, "textures": str(tmp_path / "textures")})
    assert job.wait(LONG) == "failed"
    assert "holds no images: give a folder" in job.error and "\n" not in job.error and job.result is None


def test_no_torch_is_loaded():
    """A job that needs none starts in a tenth of the time."""
    code = "import sys; import anomalyhub.synthesis, anomalyhub.pipeline.synthesize, anomalyhub.jobs; "
    code += "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=LONG).returncode == 0
