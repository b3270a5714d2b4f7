"""Discovery as a job: the result is the command line's, and a killed training ends as an undisturbed one."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import psutil
import pytest
from discovery_helpers import QUICK
from job_helpers import LONG, end_all, until
from PIL import Image
from test_discover import scores, tile

from anomalyhub.errors import InvalidArgumentError, OutputError
from anomalyhub.jobs import JobStore, files
from anomalyhub.jobs.kinds import Context, kinds
from anomalyhub.pipeline.discover import DiscoverConfig, discover_to
from anomalyhub.report.findings import Findings

TRAINING = {**QUICK, "epochs": 8, "batch_size": 8, "cache_views": 2, "cache_epochs": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """images/KIND-NUMBER.png with maps/ of the same names."""
    root = tmp_path_factory.mktemp("discover")
    for folder in ("images", "maps"):
        (root / folder).mkdir()
    for kind, count in {"good": 4, "burn": 4, "paint": 5}.items():
        for number in range(count):
            image, mask = tile(kind, number)
            Image.fromarray(image).save(root / f"images/{kind}-{number}.png")
            np.save(root / f"maps/{kind}-{number}.npy", scores(mask, number))
    return root


def config(root: Path, labelled: bool = False, **changes) -> dict:
    """Of the listed images: by their maps, in three kinds."""
    images = [[path.stem, str(path)] for path in sorted((root / "images").iterdir())]
    images = [[*pair, pair[0].partition("-")[0]] if labelled else pair for pair in images]
    return {"images": images, "product": "tiles", "maps": str(root / "maps"), "classes": 3, **changes}


def training(root: Path) -> dict:
    return config(root, labelled=True, discoverer="anomalyncd", settings=TRAINING)


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "jobs", outlive=False, patience=3.0)
    yield store
    end_all(store)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_result_is_what_the_command_line_writes(store, root, tmp_path):
    job = store.submit("discover", config(root), name="kinds of tiles", seed=2)
    expected = tmp_path / "expected"
    expected.mkdir()
    discover_to(expected, DiscoverConfig(**job.asked["config"]), seed=2)
    assert job.wait(LONG) == "done", (job.error, job.log_tail())
    found = Findings.read(job.result)
    assert (found.product, len(found.classes), len(found.images)) == ("tiles", 3, 13)
    assert [image.id for image in found.images] == [name for name, _ in config(root)["images"]]
    assert {image.id[:4]: image.cluster for image in found.images} == {
        "good": found.classes[0],
        "burn": found.images[0].cluster,
        "pain": found.images[-1].cluster,
    }
    assert contents(job.result) == contents(expected)
    assert (job.result / "model").is_dir() and not (job.result / "metrics.json").exists()


def worker_of(job) -> psutil.Process:
    """The process that computes: the one below the launcher."""
    below = [p for p in psutil.process_iter() if job.id in " ".join(_cmdline(p))]
    (worker,) = (p for p in below if "anomalyhub.jobs.worker" in _cmdline(p) and not p.children())
    return worker


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
def test_a_training_that_is_killed_ends_like_an_undisturbed_one(store, root, tmp_path):
    job = store.submit("discover", training(root), seed=1)
    checkpoint = job.folder / "checkpoints" / "checkpoint.safetensors"
    until(lambda: checkpoint.exists() or job.status not in ("queued", "running"), "a checkpoint")
    assert job.status == "running", (job.error, job.log_tail())
    worker = worker_of(job)
    worker.kill()
    assert job.wait(LONG) == "interrupted" and "resume it" in job.error, (job.status, job.log_tail())
    assert job.result is None and [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]

    done, seen = epochs_done(checkpoint), set()
    assert 0 < done < TRAINING["epochs"]
    job.resume()
    until(lambda: seen.add(job.progress.text) or job.status not in ("queued", "running"), "its end")
    assert job.status == "done", (job.error, job.log_tail())
    epochs = [int(match[1]) for text in seen if (match := re.search(r"epoch (\d+)", text))]
    assert epochs and min(epochs) > done  # it went on, and did not begin anew

    expected = tmp_path / "expected"
    expected.mkdir()
    discover_to(expected, DiscoverConfig(**job.asked["config"]), seed=1)
    ours, theirs = contents(job.result), contents(expected)
    assert ours.keys() == theirs.keys()
    assert measured(ours.pop("metrics.json")) == measured(theirs.pop("metrics.json"))
    assert [name for name in ours if ours[name] != theirs[name]] == []


def epochs_done(checkpoint: Path) -> int:
    from safetensors import safe_open

    with safe_open(checkpoint, "pt") as opened:
        return json.loads(opened.metadata()["run"])["epoch"]


def measured(text: bytes) -> dict:
    """All but the times, which no seed fixes."""
    return {key: value for key, value in json.loads(text).items() if "seconds" not in key}


@pytest.mark.slow
def test_cancelled_in_the_middle_of_a_training(store, root):
    job = store.submit("discover", training(root) | {"settings": TRAINING | {"epochs": 500}})
    until(lambda: "epoch" in job.progress.text or job.status not in ("queued", "running"), "the training")
    assert job.status == "running", (job.error, job.log_tail())
    job.cancel()
    assert job.wait(LONG) == "cancelled"
    assert job.result is None and not list(job.folder.glob(".anomalyhub-*"))
    until(lambda: not files.is_alive(job.folder), "the end of its processes")


def test_why_it_failed_is_told(store, root, tmp_path):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "another.npy", np.zeros((4, 6), np.float32))
    job = store.submit("discover", config(root, maps=str(tmp_path / "maps")))
    assert job.wait(LONG) == "failed"
    assert job.state["error_class"] == "InvalidDatasetError" and "burn-0" in job.error and "\n" not in job.error
    assert job.result is None and "Traceback" in job.log_tail()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": None}, "needs one of"),
        ({"images": None}, "either data"),
        ({"images": ["a"]}, "must be"),
        ({"classes": "many"}, "classes='many' is not"),
        ({"classes": 0}, "classes must be"),
        ({"holdout": 1.0}, "holdout is a share"),
    ],
)
def test_bad_submissions_leave_nothing(store, root, changes, message):
    with pytest.raises(InvalidArgumentError, match=message):
        store.submit("discover", config(root, **changes))
    assert store.list() == []


def test_a_full_disk_in_the_middle_of_the_result(root, tmp_path, monkeypatch):
    """The worker's own part of a job, in this process: the result is all there or not at all."""
    from anomalyhub.jobs import worker

    store = JobStore(tmp_path / "jobs", outlive=False)
    monkeypatch.setattr("anomalyhub.jobs.store.Job._start", lambda *_: None)  # no process of its own
    job = store.submit("discover", config(root))
    write = Findings.write

    def full(self, folder):
        write(self, folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(Path(folder) / "findings.json"))

    monkeypatch.setattr(Findings, "write", full)
    assert worker.run(job.folder) == 0
    reason = files.read_json(job.folder / files.ERROR)
    assert (
        reason["error_class"] == OutputError.__name__ and "No space left on device; free some space" in reason["error"]
    )
    assert job.result is None and not list(job.folder.glob(".anomalyhub-*"))


def test_the_other_processes_write_nothing(root, tmp_path):
    kind = kinds["discover"]
    kind.run(Context(kind.config_class(**config(root)), 0, tmp_path, None, lambda *_: None))
    assert list(tmp_path.iterdir()) == []
