"""Jobs through `accelerate launch`: fitting, and several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import job_kinds
import psutil
import pytest
from job_helpers import LONG, end_all, gone, tree, until

from anomalyhub import cli
from anomalyhub.config import configure
from anomalyhub.data.sample import write_sample
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.jobs import JobStore, files
from anomalyhub.jobs.fit import FitConfig

QUICK = {"coreset": "0.1", "resize": "64", "crop": "64"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "data"
    write_sample(folder, products=["ring"], n_train=4, n_test_good=1, n_defect=1, size=64)
    return folder


@pytest.fixture
def fits(tmp_path):
    store = JobStore(tmp_path / "jobs", outlive=False)
    yield store
    end_all(store)


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "jobs", outlive=False, worker=job_kinds.WORKER)
    yield store
    end_all(store)


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "desk").mkdir()
    return tmp_path / "desk"


@pytest.fixture
def foreign_accelerate_config(tmp_path, monkeypatch):
    """The user's own `accelerate config`, which asks for something else."""
    home = tmp_path / "hf"
    (home / "accelerate").mkdir(parents=True)
    text = "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: 3\nuse_cpu: false\n"
    (home / "accelerate" / "default_config.yaml").write_text(text)
    monkeypatch.setenv("HF_HOME", str(home))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "either data"),
        ({"data": "data", "images": []}, "either data"),  # both, although one is empty
        ({"images": [["a.png"]]}, "pairs of two texts"),
        ({"images": [], "kept": [["a.png", 1]]}, "pairs of two texts"),
        ({"images": ["ab"]}, "pairs of two texts"),
    ],
)
def test_what_a_fit_refuses(config, message):
    with pytest.raises(InvalidArgumentError, match=message):
        configure(FitConfig, config)


def test_a_fit_may_have_no_images_and_keep_some():
    """For detectors that want none; what the model will check is named so that it is kept."""
    config = configure(FitConfig, {"images": [], "kept": [["a.png", "/there/a.png"]], "detector": "winclip"})
    assert config.images == () and len(config.kept) == 1


def test_a_fit_is_what_the_command_line_writes(fits, data, tmp_path, monkeypatch, foreign_accelerate_config):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which both pass on, and then they add up in one order
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[2]))
    monkeypatch.chdir(data.parent)
    job = fits.submit("fit", {"data": "data", "product": "ring", "settings": QUICK}, seed=3)
    monkeypatch.chdir(tmp_path)  # a relative path is below the folder that it was submitted from
    options = [f"--set={key}={value}" for key, value in QUICK.items()]
    command = ["fit", "patchcore", "--data", str(data), "--product", "ring", "--out", "model", "--seed", "3"]
    subprocess.run([sys.executable, "-m", "anomalyhub", *command, *options], check=True, capture_output=True)
    assert job.wait(LONG) == "done", (job.error, job.log_tail())
    assert contents(job.result) == contents(tmp_path / "model")
    assert "Traceback" not in job.log_tail()


def test_what_goes_wrong_in_a_fit_is_told(fits, data, tmp_path):
    """Without the launcher's own traceback after the worker's."""
    (tmp_path / "damaged.png").write_bytes(b"no image")
    images = [["damaged.png", str(tmp_path / "damaged.png")]]
    job = fits.submit("fit", {"images": images, "skip_unreadable": True}, device="cpu")
    assert job.wait(LONG) == "failed"
    assert job.state["error_class"] == "InvalidDatasetError" and "none of the 1 images can be read" in job.error
    assert "skipped: " in job.log_tail() and "CalledProcessError" not in job.log_tail()


@pytest.mark.slow
def test_a_fit_on_listed_images_by_two_processes(fits, data, foreign_accelerate_config):
    images = [[path.name, str(path)] for path in sorted((data / "ring/train/good").iterdir())]
    config = {"images": images, "product": "Machined ring", "settings": QUICK}
    job = fits.submit("fit", config, device="cpu", processes=2)
    assert job.wait(LONG) == "done", (job.error, job.log_tail())
    from anomalyhub import Inspector

    assert Inspector.load(job.result).product == "Machined ring"


@pytest.mark.slow
def test_only_the_first_of_two_processes_writes(store, desk):
    job = store.submit("ranks", {"desk": str(desk)}, device="cpu", processes=2)
    until(lambda: {"rank-0", "rank-1"} <= tree(desk), "both processes")
    until(lambda: job.progress.text == "rank 0", "a report of the first")
    assert job.progress.fraction == pytest.approx(0.3)
    (desk / "go").touch()
    assert job.wait(LONG) == "done", job.log_tail()
    assert (job.result / "word.txt").read_text() == job_kinds.WORD
    assert [(desk / f"rank-{rank}").read_text().split()[1] for rank in (0, 1)] == ["False", "True"]


@pytest.mark.slow
def test_the_second_process_fails(store, desk):
    job = store.submit("ranks", {"desk": str(desk), "mode": "refuse"}, device="cpu", processes=2)
    assert job.wait(LONG) == "failed"
    assert job.error == "the second process found nothing"
    assert gone(int((desk / "rank-0").read_text().split()[0]))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_launcher_is_killed(store, desk, processes):
    """Its workers are in sessions of their own when there are two."""
    job = store.submit("ranks", {"desk": str(desk)}, device="cpu", processes=processes)
    names = [f"rank-{rank}" for rank in range(processes)]
    until(lambda: set(names) <= tree(desk) or job.status == "failed", "all processes")
    until(lambda: job.progress.text == "rank 0" or job.status == "failed", "a report")
    assert job.status == "running", job.error
    pids = [int((desk / name).read_text().split()[0]) for name in names]
    launcher = psutil.Process(pids[0]).parent()
    assert "accelerate.commands.launch" in launcher.cmdline()
    launcher.kill()
    assert job.wait(LONG) == "interrupted" and "SIGKILL" in job.error
    assert all(gone(pid) for pid in pids)
    (desk / "go").touch()
    job.resume()
    assert job.wait(LONG) == "done", job.log_tail()


@pytest.mark.slow
def test_cancelled_before_the_worker_is_there(store, desk):
    job = store.submit("ranks", {"desk": str(desk)}, device="cpu")
    until(lambda: job.status == "running", "the launcher")
    job.cancel()
    assert job.wait(LONG) == "cancelled"
    until(lambda: not files.is_alive(job.folder), "the end of all")
    assert not [p for p in psutil.process_iter() if str(job.folder) in " ".join(_cmdline(p))]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.pid != os.getpid() else []
    except psutil.Error:
        return []
