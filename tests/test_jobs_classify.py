"""Synthesis, pretraining and fine-tuning as jobs: killed at any time, they go on to the very same result."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from job_helpers import LONG, end_all, until

from anomalyhub.data import load_dataset
from anomalyhub.data.sample import write_sample
from anomalyhub.jobs import JobStore
from anomalyhub.pipeline import Inspector
from anomalyhub.pipeline.classify import read_examples
from anomalyhub.state import read_json


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A product and a detector of it with few channels, as a small network has quick episodes."""
    root = tmp_path_factory.mktemp("jobs_classify")
    write_sample(root / "data", products=["ring"], n_train=6, n_test_good=1, n_defect=3, size=96)
    settings = {"resize": 64, "aggregation": "adaptive", "width": 32, "coreset": 0.05}
    Inspector.fit("patchcore", load_dataset(root / "data", "ring").train, settings=settings).save(root / "model")
    return root


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two runs then add up in one order
    store = JobStore(tmp_path / "jobs", outlive=False)
    yield store
    end_all(store)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_and_resumed(store, kind: str, config: dict, evidence_of_work: str):
    """A job whose worker gets SIGKILL once a file of that name is among its checkpoints, and goes on."""
    job = store.submit(kind, config, seed=4)
    until(lambda: list((job.folder / "checkpoints").rglob(evidence_of_work)) or job.status == "done", "work")
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            command = process.cmdline()
            if str(job.folder) in command and "anomalyhub.jobs.supervisor" not in command:
                os.kill(process.pid, signal.SIGKILL)
    assert job.wait(LONG) == "interrupted" and job.result is None, job.log_tail()
    job.resume()
    return job


def test_synthesis_pretraining_and_fine_tuning(store, world):
    asked = {"data": str(world / "data"), "product": "ring", "count": 600, "settings": {"size": 96}}
    synthetic = store.submit("synthesize", asked, seed=4)
    again = killed_and_resumed(store, "synthesize", asked, "*.png")
    assert synthetic.wait(LONG) == again.wait(LONG) == "done", (synthetic.error, again.error, again.log_tail())
    assert contents(synthetic.result) == contents(again.result)

    asked = {
        "synthetic": str(synthetic.result),
        "model": str(world / "model"),
        "head": "contrastive",
        "settings": {"pretrain_accuracy": 1.0, "pretrain_episodes": 120, "passes": 10},
    }
    pretrained = store.submit("pretrain", asked, seed=4)
    again = killed_and_resumed(store, "pretrain", asked, "checkpoint.safetensors")
    assert pretrained.wait(LONG) == again.wait(LONG) == "done", (pretrained.error, again.error, again.log_tail())
    told = read_json(pretrained.result / "config.json")["pretraining"]
    assert told == read_json(again.result / "config.json")["pretraining"] and told["episodes"] > 10
    assert contents(pretrained.result) == contents(again.result)

    asked = {
        "model": str(world / "model"),
        "data": str(world / "data"),
        "product": "ring",
        "shots": 2,
        "head": "contrastive",
        "pretrained": str(pretrained.result),
    }
    fitted = store.submit("classify", asked, seed=4)
    again = killed_and_resumed(store, "classify", asked, "checkpoint.safetensors")
    assert fitted.wait(LONG) == again.wait(LONG) == "done", (fitted.error, again.error, again.log_tail())
    check = read_examples(fitted.result)["leave_one_out"]
    assert check == read_examples(again.result)["leave_one_out"] and check["n"] == 8
    assert contents(fitted.result) == contents(again.result)


def test_what_goes_wrong_is_told(store, world, tmp_path):
    config = {"synthetic": str(tmp_path / "nowhere"), "model": str(world / "model")}
    job = store.submit("pretrain", config)
    assert job.wait(LONG) == "failed" and "nowhere" in job.error and job.result is None
