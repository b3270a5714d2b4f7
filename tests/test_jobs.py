"""anomalyhub.jobs with real processes but a light kind: how jobs run, queue, fail, stop and go on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import job_kinds
import psutil
import pytest
from job_helpers import LONG, end_all, gone, tree, until

from anomalyhub.errors import InvalidArgumentError, OutputError, UnknownNameError
from anomalyhub.jobs import JobStore, files


@pytest.fixture
def store(tmp_path):
    """A store whose jobs end with the tests, however these end."""
    store = JobStore(tmp_path / "jobs", outlive=False, worker=job_kinds.WORKER, patience=0.6)
    yield store
    end_all(store)


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "desk").mkdir()
    return tmp_path / "desk"


def submit(store, desk, mode="count", **options):
    return store.submit("probe", {"mode": mode, "desk": str(desk)}, **options)


def waits_after(job, step: int):
    text = f"waits after step {step}"
    until(lambda: job.progress.text == text or job.status not in ("queued", "running"), text)
    assert job.status == "running", (job.error, job.log_tail())


def expected_sum(seed: int = 0) -> str:
    for step in range(3):
        seed = seed * 31 + step
    return str(seed)


def test_a_job_runs_to_its_end(store, desk):
    job = submit(store, desk, "wait", name="a sum", seed=5)
    waits_after(job, 1)
    assert job.status == "running" and job.result is None
    assert job.progress.fraction == pytest.approx(1 / 3)  # the kind reports 0.0 again: it never falls
    (desk / "go").touch()
    assert job.wait(LONG) == "done"
    assert job.progress == (1.0, "done") and job.error is None
    assert (job.result / "sum.txt").read_text() == expected_sum(5)
    assert job.log_tail(1) == "begins at step 0" and "probe, attempt 1" in job.log_tail()
    assert job.asked["name"] == "a sum" and job.kind == "probe"
    state = job.state
    assert state["queued_at"] <= state["started_at"] <= state["ended_at"]
    until(lambda: not files.is_alive(job.folder), "the supervisor's end")
    assert tree(job.folder) == {"config.json", "status.json", "progress.json", "log.txt", "checkpoints", "result"}

    again = JobStore(store.root).get(job.id)  # as after a restart of the app
    assert again.status == "done" and again.result == job.result and again.progress == job.progress
    with pytest.raises(InvalidArgumentError, match="is done: its result is"):
        again.resume()
    again.remove()
    assert store.list() == []


@pytest.mark.parametrize(
    ("mode", "status", "error_class", "message"),
    [
        ("refuse", "failed", "InvalidDatasetError", "tray is empty: put something in"),
        ("crash", "failed", "ZeroDivisionError", "unexpected ZeroDivisionError: division by zero (LOG shows where)"),
        ("memory", "failed", "MemoryError", "out of memory: choose smaller settings"),
        ("full", "failed", "OutputError", "No space left on device; free some space"),
        ("killed", "interrupted", None, "ended without giving a reason (SIGKILL; killed, out of memory?)"),
        ("exit", "interrupted", None, "ended without giving a reason (exit code 7;"),
    ],
)
def test_how_it_ended_is_told(store, desk, mode, status, error_class, message):
    job = submit(store, desk, mode)
    assert job.wait(LONG) == status, job.log_tail()
    assert message.replace("LOG", str(job.folder / "log.txt")) in job.error and "\n" not in job.error
    assert job.state.get("error_class") == error_class
    assert job.result is None
    assert not [name for name in tree(job.folder) if name.startswith(".")]  # nothing half-written
    assert ("Traceback" in job.log_tail()) == (status == "failed")


def test_cancelled_while_running_then_resumed(store, desk):
    job = submit(store, desk, "wait")
    waits_after(job, 1)
    pid = int((desk / "pid").read_text())
    with pytest.raises(InvalidArgumentError, match="is running: cancel it, or wait"):
        job.resume()
    with pytest.raises(InvalidArgumentError, match="is running: cancel it, or wait"):
        job.remove()
    job.cancel()
    assert job.wait(LONG) == "cancelled"
    assert job.error is None and job.result is None and gone(pid)
    assert not [name for name in tree(job.folder) if name.startswith(".")]
    job.cancel()  # which changes nothing
    (desk / "go").touch()
    job.resume()
    assert job.wait(LONG) == "done"
    assert (job.result / "sum.txt").read_text() == expected_sum()
    assert (job.result / "resumed.txt").read_text() == "1" and job.state["attempt"] == 2
    assert "begins at step 0" in job.log_tail() and "begins at step 1" in job.log_tail()


def test_cancel_ends_what_does_not_listen(store, desk):
    """SIGTERM is ignored, and a grandchild is in a session of its own."""
    job = submit(store, desk, "deaf")
    pids = until(lambda: files.read_json(desk / "pids.json"), "the worker")
    job.cancel()
    assert job.wait(LONG) == "cancelled"
    assert gone(pids["worker"]) and gone(pids["child"])


def test_one_at_a_time_in_order(store, tmp_path):
    desks = [tmp_path / name for name in "abcd"]
    for desk in desks:
        desk.mkdir()
    first, second, third = (submit(store, desk, "wait", device="cpu") for desk in desks[:3])
    waits_after(first, 1)
    until(lambda: second.progress.text == "waiting for 1 other job on this device", "second in the queue")
    until(lambda: third.progress.text == "waiting for 2 other jobs on this device", "third in the queue")
    elsewhere = submit(store, desks[3], "wait", device="cuda:1")
    waits_after(elsewhere, 1)
    assert [job.status for job in (first, second, third, elsewhere)] == ["running", "queued", "queued", "running"]
    second.cancel()
    assert second.wait(LONG) == "cancelled" and second.log_tail().count("\n") == 0  # it never began
    until(lambda: third.progress.text == "waiting for 1 other job on this device", "third moves up")
    (desks[0] / "go").touch()
    assert first.wait(LONG) == "done"
    waits_after(third, 1)
    second.resume()  # to the end of the queue
    until(lambda: second.progress.text == "waiting for 1 other job on this device", "second behind third")
    assert second.status == "queued"
    assert [job.id for job in store.list()] == [job.id for job in (elsewhere, third, second, first)]


@pytest.mark.parametrize("victim", ["worker", "supervisor"])
def test_killed_in_the_middle_and_resumed(store, desk, victim):
    job = submit(store, desk, "wait", seed=3)
    waits_after(job, 1)
    worker = psutil.Process(int((desk / "pid").read_text()))
    supervisor = worker.parent()
    assert "anomalyhub.jobs.supervisor" in supervisor.cmdline()
    (worker if victim == "worker" else supervisor).kill()
    assert job.wait(LONG) == "interrupted"
    assert gone(worker.pid)  # with its supervisor it ends itself
    assert "resume it" in job.error and job.result is None
    until(lambda: not files.is_alive(job.folder), "the end of all")
    (desk / "go").touch()
    store.get(job.id).resume()
    assert job.wait(LONG) == "done" and job.error is None
    assert (job.result / "sum.txt").read_text() == expected_sum(3)
    assert (job.result / "resumed.txt").read_text() == "1"


def test_supervisor_told_to_stop(store, desk):
    """As at a shutdown of the machine."""
    job = submit(store, desk, "wait")
    waits_after(job, 1)
    pid = int((desk / "pid").read_text())
    psutil.Process(pid).parent().terminate()
    assert job.wait(LONG) == "interrupted" and "stopped from outside" in job.error and gone(pid)
    job.cancel()
    assert job.status == "cancelled" and job.error is None


APP = """
import sys, time
from pathlib import Path
import job_kinds
from anomalyhub.jobs import JobStore
root, desk, outlive = sys.argv[1:]
store = JobStore(root, outlive=outlive == "outlive", worker=job_kinds.WORKER, patience=0.6)
print(store.submit("probe", {"mode": "wait", "desk": desk}).id, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("outlive", [True, False])
def test_the_app_is_killed(store, desk, outlive):
    command = [sys.executable, "-c", APP, str(store.root), str(desk), "outlive" if outlive else ""]
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as app:
        job = store.get(app.stdout.readline().strip())
        waits_after(job, 1)
        app.kill()
    pid = int((desk / "pid").read_text())
    if outlive:
        (desk / "go").touch()
        assert job.wait(LONG) == "done"
        return
    assert job.wait(LONG) == "interrupted" and "with the app" in job.error and gone(pid)
    (desk / "go").touch()
    job.resume()
    assert job.wait(LONG) == "done" and (job.result / "resumed.txt").read_text() == "1"


def test_only_one_of_two_resumes_counts(store, desk):
    job = submit(store, desk, "refuse")
    assert job.wait(LONG) == "failed"
    refusals = []

    def resume():
        try:
            store.get(job.id).resume()
        except InvalidArgumentError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=resume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert job.wait(LONG) == "failed"
    attempts = job.state["attempt"]
    assert (attempts, len(refusals)) in ((2, 1), (3, 0))  # the second may have come after the first one's end
    assert job.log_tail().count("=== probe") == attempts


@pytest.mark.parametrize(
    ("kind", "config", "options", "error", "message"),
    [
        ("prob", {}, {}, UnknownNameError, "did you mean 'probe'"),
        ("probe", {"step": 1}, {}, UnknownNameError, "unknown setting 'step'"),
        ("probe", {"steps": "many"}, {}, InvalidArgumentError, "steps='many' is not a whole number"),
        ("probe", {"steps": -1}, {}, InvalidArgumentError, "steps must be 0 or more"),
        ("probe", {}, {"device": "gpu"}, InvalidArgumentError, "unknown device 'gpu': choose auto, cpu"),
        ("probe", {}, {"processes": 0}, InvalidArgumentError, "at least 1, got 0"),
        ("probe", {}, {"processes": 2}, InvalidArgumentError, "this kind of job has one process, got 2"),
        ("fit", {"data": "x"}, {"processes": 2, "device": "cuda:0"}, InvalidArgumentError, "cuda:0 serves one"),
        ("probe", {}, {"seed": -1}, InvalidArgumentError, "seed must be 0 or more"),
        ("fit", {}, {}, InvalidArgumentError, "either data (a path) or images"),
        ("fit", {"data": "x", "images": [["a", "b"]]}, {}, InvalidArgumentError, "give one"),
        ("fit", {"images": ["ab"]}, {}, InvalidArgumentError, "pairs of two texts, id and path, got 'ab'"),
    ],
)
def test_bad_submissions_leave_nothing(store, kind, config, options, error, message):
    with pytest.raises(error) as caught:
        store.submit(kind, config, **options)
    assert message in str(caught.value)
    assert tree(store.root) == set()


@pytest.mark.parametrize("job_id", ["", "..", "../jobs", "20260101-000000-00000000", "a/b"])
def test_unknown_jobs(store, job_id):
    with pytest.raises(InvalidArgumentError, match="there is no job"):
        store.get(job_id)


def test_submit_on_a_full_disk(store, desk, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        submit(store, desk)
    assert tree(store.root) == set()


def test_root_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot keep jobs in"):
        JobStore(tmp_path / "file")


def test_damaged_folders_do_not_stop_the_list(store):
    damaged = store.root / "20260101-000000-0123abcd"
    damaged.mkdir()
    (damaged / "status.json").write_text('{"status": "runn')
    (damaged / "config.json").write_text("[]")
    (store.root / "notes").mkdir()
    (job,) = store.list()
    assert (job.status, job.kind, job.progress, job.result) == ("interrupted", "unknown", (0.0, ""), None)
    assert job.log_tail() == "" and "resume it" in job.error
    job.remove()
    assert tree(store.root) == {"notes"}


@pytest.mark.parametrize("mode", ["wait", "deaf"])
def test_a_folder_that_is_deleted_under_a_running_job(store, desk, mode):
    """Its processes end, even those that report nothing, and the folder does not come back."""
    job = submit(store, desk, mode=mode)
    (name,) = {"wait": ["pid"], "deaf": ["pids.json"]}[mode]
    until(lambda: (desk / name).exists() and (desk / name).read_text(), "the worker")
    shutil.rmtree(job.folder)
    pids = files.read_json(desk / name).values() if mode == "deaf" else [int((desk / name).read_text())]
    until(lambda: all(map(gone, pids)), "the end of the processes")
    assert job.status == "interrupted" and job.error == "its folder was deleted: start the job again"
    assert not job.folder.exists() and store.list() == []


def test_done_counts_although_the_supervisor_could_not_say_so(store, desk):
    job = submit(store, desk)
    assert job.wait(LONG) == "done"
    until(lambda: not files.is_alive(job.folder), "the supervisor's end")
    files.write_json(job.folder / "status.json", job.state | {"status": "running"})
    assert job.status == "done" and job.progress.fraction == 1.0


def test_log_tail_of_progress_bars_and_bytes(store, desk):
    job = submit(store, desk)
    assert job.wait(LONG) == "done"
    until(lambda: not files.is_alive(job.folder), "the supervisor's end")
    (job.folder / "log.txt").write_bytes(b"x" * 100_000 + b"\nfirst\r\n 10%|#\r 90%|####\rall\n\xff\xfe\nlast\n\n")
    assert job.log_tail(4) == "first\nall\n\ufffd\ufffd\nlast"
    assert job.log_tail(1) == "last" and len(job.log_tail()) < 70_000
