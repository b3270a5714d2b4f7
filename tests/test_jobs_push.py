"""--push-to of jobs, verbs and benchmarks: the result is pushed when it is there, and stays when that fails."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from job_helpers import LONG, end_all

from anomalyhub import cli
from anomalyhub.data.sample import write_sample
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.hub import create_store
from anomalyhub.jobs import JobStore
from anomalyhub.jobs.kinds import kinds

QUICK = {"coreset": "0.1", "resize": "64", "crop": "64"}
SET = [text for key, value in QUICK.items() for text in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("push") / "data"
    write_sample(folder, products=["ring"], n_train=4, n_test_good=1, n_defect=1, size=64)
    return folder


@pytest.fixture
def jobs(tmp_path):
    store = JobStore(tmp_path / "jobs", outlive=False)
    yield store
    end_all(store)


@pytest.fixture
def share(tmp_path) -> str:
    (tmp_path / "share").mkdir()
    return f"folder:{tmp_path / 'share'}"


def broken(tmp_path: Path) -> str:
    """A store that takes nothing, whoever asks."""
    (tmp_path / "file").write_text("no folder")
    return f"folder:{tmp_path / 'file' / 'inside'}"


def test_a_job_pushes_its_result(jobs, data, share):
    job = jobs.submit("fit", {"data": str(data), "settings": QUICK}, push_to="acme/ring", store=share)
    assert job.wait(LONG) == "done", job.log_tail()
    assert job.pushed["repo_id"] == "acme/ring" and "error" not in job.pushed
    pulled = create_store(share).pull("acme/ring")
    assert (pulled.folder / "state.safetensors").read_bytes() == (job.result / "state.safetensors").read_bytes()
    assert pulled.revision == job.pushed["revision"]


def test_a_job_whose_push_fails_keeps_its_result_and_says_how_to_push_it(jobs, data, tmp_path, share):
    job = jobs.submit("fit", {"data": str(data), "settings": QUICK}, push_to="acme/ring", store=broken(tmp_path))
    assert job.wait(LONG) == "done" and job.error is None
    error = job.pushed["error"]
    assert error.count("anomalyhub push ") == 1
    command = shlex.split(error[error.index("anomalyhub push") :])
    assert command[1:4] == ["push", str(job.result), "acme/ring"]
    assert cli.run([*command[1:-1], share]) == 0  # the same command, to a store that takes it
    assert [info.repo_id for info in create_store(share).list()] == ["acme/ring"]


def test_a_push_that_did_not_end_is_said(jobs, data, share):
    job = jobs.submit("fit", {"data": str(data), "settings": QUICK}, push_to="acme/ring", store=share)
    assert job.wait(LONG) == "done"
    (job.folder / "pushed.json").unlink()  # as a kill leaves it
    assert "interrupted" in job.pushed["error"] and "anomalyhub push" in job.pushed["error"]


def test_jobs_without_a_push_say_nothing(jobs, data):
    job = jobs.submit("fit", {"data": str(data), "settings": QUICK})
    assert job.pushed is None
    assert job.wait(LONG) == "done" and job.pushed is None


@pytest.mark.parametrize(("repo_id", "store"), [("ring", "hub"), ("acme/../ring", "hub"), ("acme/ring", "ftp:there")])
def test_a_target_that_cannot_be_is_refused_before_the_work(jobs, data, repo_id, store):
    with pytest.raises(InvalidArgumentError):
        jobs.submit("fit", {"data": str(data)}, push_to=repo_id, store=store)
    assert jobs.list() == []


def test_every_kind_of_job_says_what_its_result_is():
    assert {
        name: (kinds[name].makes, kinds[name].inner) for name in kinds.names() if name not in ("probe", "ranks")
    } == {
        "fit": ("model", ""),
        "discover": ("model", "model"),
        "synthesize": ("dataset", ""),
        "pretrain": ("model", ""),
        "classify": ("model", ""),
        "swap": ("dataset", ""),
    }


def test_verbs_push_what_they_made(data, tmp_path, share, capsys):
    fit = ["fit", "patchcore", "--data", str(data), *SET, "--out", str(tmp_path / "ring")]
    assert cli.run([*fit, "--push-to", "acme/ring", "--store", share]) == 0
    assert "pushed" in capsys.readouterr().out
    paint = ["synthesize", "--data", str(data), "--count", "4", "--out", str(tmp_path / "made")]
    assert cli.run([*paint, "--push-to", "acme/made", "--store", share]) == 0
    assert [info.repo_id for info in create_store(share).list("dataset")] == ["acme/made"]
    pulled = create_store(share).pull("acme/made", "dataset", out=tmp_path / "pulled").folder
    names = sorted(path.relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*.png"))
    assert names and all((pulled / name).read_bytes() == (tmp_path / "made" / name).read_bytes() for name in names)


def test_a_verb_whose_push_fails_keeps_its_result(data, tmp_path, capsys):
    out = tmp_path / "ring"
    fit = ["fit", "patchcore", "--data", str(data), *SET, "--out", str(out)]
    assert cli.run([*fit, "--push-to", "acme/ring", "--store", broken(tmp_path)]) == 1
    assert (out / "config.json").exists()
    error = capsys.readouterr().err
    assert f"the result is in {out}" in error and f"anomalyhub push {out} acme/ring" in error


def test_a_push_that_is_stopped_does_not_say_that_nothing_was_written(data, tmp_path, share, monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("anomalyhub.hub.share.share", stopped)
    out = tmp_path / "ring"
    fit = ["fit", "patchcore", "--data", str(data), *SET, "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        cli.run([*fit, "--push-to", "acme/ring", "--store", share])
    assert ended.value.code == 130 and (out / "config.json").exists()
    error = capsys.readouterr().err
    assert "nothing was written" not in error and f"anomalyhub push {out} acme/ring" in error


def test_a_verb_refuses_a_target_before_the_work(data, tmp_path, capsys):
    fit = ["fit", "patchcore", "--data", str(data), "--out", str(tmp_path / "ring"), "--push-to", "ring"]
    assert cli.run(fit) == 2
    assert "OWNER/NAME" in capsys.readouterr().err and not (tmp_path / "ring").exists()


def test_push_pull_and_repos(data, tmp_path, share, capsys):
    model, store = tmp_path / "ring", ["--store", share]
    assert cli.run(["fit", "patchcore", "--data", str(data), *SET, "--out", str(model)]) == 0
    assert cli.run(["evaluate", str(model), "--data", str(data), "--json", str(tmp_path / "metrics.json")]) == 0
    capsys.readouterr()
    push = ["push", str(model), "acme/ring", *store, "--metrics", str(tmp_path / "metrics.json"), "--tag", "line-3"]
    assert cli.run([*push, "--card"]) == 0
    card = capsys.readouterr().out
    assert card.startswith("---\n") and "anomalyhub" in card and str(tmp_path / "data") not in card
    assert create_store(share).list() == []  # the card was only printed
    assert cli.run(push) == 0 and "pushed" in capsys.readouterr().out
    assert cli.run(push) == 0 and "already" in capsys.readouterr().out
    assert cli.run(["repos", *store, "--product", "ring", "--json"]) == 0
    (info,) = json.loads(capsys.readouterr().out)
    assert info["repo_id"] == "acme/ring" and "line-3" in info["tags"]
    assert (
        cli.run(["repos", *store, "--tag", "nothing"]) == 0 and "nothing there is like that" in capsys.readouterr().out
    )
    assert cli.run(["pull", "acme/ring", *store, "--out", str(tmp_path / "again")]) == 0
    for command, out in (("predict", "a"), ("predict", "b")):
        source = model if out == "a" else tmp_path / "again"
        assert cli.run([command, str(source), "--data", str(data), "--out", str(tmp_path / out)]) == 0
    tables = [(tmp_path / out / "predictions.csv").read_bytes() for out in "ab"]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["push", "nowhere", "acme/ring"], ["nowhere", "--out"]),
        (["pull", "acme/none", "--out", "x"], ["acme/none"]),
        (["pull", "acme", "--out", "x"], ["OWNER/NAME"]),
        (["repos", "--kind", "cake"], ["model", "dataset"]),
        (["push", ".", "acme/ring", "--metrics", "no.json"], ["no.json", "evaluate --json"]),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path, share, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run([*arguments, "--store", share]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words)
    assert not (tmp_path / "x").exists()


def test_benchmarks_push_their_results(tmp_path, share):
    bench = Path(__file__).parents[1] / "eval" / "bench.py"
    told = subprocess.run(
        [sys.executable, bench, "nope", "--push-to", "acme/results"], capture_output=True, text=True, timeout=LONG
    )
    assert told.returncode == 2 and "nope" in told.stderr
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import bench, common; from pathlib import Path;"
        "bench.RESULTS = Path(sys.argv[2]); bench._run = lambda names: 0; sys.exit(bench.main(sys.argv[3:]))"
    )
    results = tmp_path / "results"
    results.mkdir()
    (results / "coreset.json").write_text("{}")
    command = [sys.executable, "-c", code, bench.parent, results, "coreset", "--push-to", "acme/results", "--store"]
    assert subprocess.run([*command, share], timeout=LONG).returncode == 0
    assert "coreset.json" in create_store(share).files("acme/results", "dataset").by_path
    failed = subprocess.run([*command, broken(tmp_path)], capture_output=True, text=True, timeout=LONG)
    assert failed.returncode == 1 and "anomalyhub push" in failed.stderr


def test_the_cache_loses_what_nobody_asks_for(tmp_path, share, data, monkeypatch):
    import os
    import time

    from anomalyhub.hub.base import prune_cache

    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "home"))
    for name in ("old", "used", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text(name)
        create_store(share).push(tmp_path / name, f"acme/{name}", "dataset")
    folders = {name: create_store(share).pull(f"acme/{name}", "dataset").folder for name in ("old", "used", "new")}
    for name in ("old", "used"):
        os.utime(folders[name], (time.time() - 40 * 86400,) * 2)
    assert create_store(share).pull("acme/used", "dataset").folder == folders["used"]
    prune_cache()
    assert [name for name, folder in folders.items() if folder.is_dir()] == ["used", "new"]
    assert (folders["used"] / "a.csv").read_text() == "used"
