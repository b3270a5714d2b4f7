"""The app's jobs: where they are kept, what they may ask for, how they are found again, and what goes when."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import time
from pathlib import Path

import job_kinds
import pytest
from job_helpers import LONG, end_all, tree, until

from anomalyhub.data import SampleRef
from anomalyhub.errors import InvalidArgumentError, InvalidUploadError, OutputError
from anomalyhub.jobs import JobStore, files
from anomalyhub.ui import work as work_module
from anomalyhub.ui.work import KEPT, Work


@pytest.fixture
def work(tmp_path):
    """Jobs of the light kinds, which end with the test."""
    work = Work(tmp_path / "home")
    work.store = JobStore(work.home / "jobs", outlive=False, worker=job_kinds.WORKER, patience=0.6)
    yield work
    end_all(work.store)


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "desk").mkdir()
    return tmp_path / "desk"


@pytest.fixture
def refs(tmp_path) -> list[SampleRef]:
    """Two files of the visitor's, whose names say nothing good."""
    (tmp_path / "uploads").mkdir()
    for name in ("a.PNG", "b c.jpg"):
        (tmp_path / "uploads" / name).write_bytes(name.encode())
    return [SampleRef(f"sub/{path.name}", path) for path in sorted((tmp_path / "uploads").iterdir())]


def submit(work, desk, mode="count", former=None, **config):
    return work.submit("probe", {"mode": mode, "desk": str(desk), **config}, name=f"a {mode}", former=former)


def ended(work, desk, **config):
    """A job that is done and whose processes are gone."""
    job = submit(work, desk, **config)
    assert job.wait(LONG) == "done", job.log_tail()
    until(lambda: not files.is_alive(job.folder), "the supervisor's end")
    return job


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize(
    ("given", "variables", "expected"),
    [
        ("given", {"ANOMALYHUB_HOME": "named"}, "given"),
        (None, {"ANOMALYHUB_HOME": "named", "XDG_CACHE_HOME": "cache"}, "named"),
        (None, {"ANOMALYHUB_HOME": "", "XDG_CACHE_HOME": "cache"}, "cache/anomalyhub"),
        (None, {"ANOMALYHUB_HOME": "", "XDG_CACHE_HOME": "", "HOME": "me"}, "me/.cache/anomalyhub"),
    ],
)
def test_where_it_is_kept(tmp_path, monkeypatch, given, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value) if value else "")
    work = Work(tmp_path / given if given else None)
    assert work.home == tmp_path / expected and work.notice == ""
    assert tree(work.home) == {"jobs", "inputs"} and tree(tmp_path) == {expected.split("/")[0]}


def test_where_nothing_can_be_written(tmp_path, refs):
    (tmp_path / "file").touch()
    work = Work(tmp_path / "file" / "home")
    assert str(tmp_path / "file" / "home") in work.notice and "ANOMALYHUB_HOME" in work.notice
    home, store = work.home, work.store
    assert len(work.keep(refs)) == 2 and home.is_dir()
    assert store.lifeline != JobStore(tmp_path / "jobs").lifeline  # such jobs end with the app
    del work
    gc.collect()
    assert not home.exists()


@pytest.mark.parametrize("linked", [True, False])
def test_kept_images_outlive_the_upload(work, refs, monkeypatch, linked):
    if not linked:

        def elsewhere(*_, **__):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", elsewhere)
    images = work.keep(refs)
    assert [name for name, _ in images] == ["sub/a.PNG", "sub/b c.jpg"]
    assert [Path(path).name for _, path in images] == ["00000.png", "00001.jpg"]
    assert os.path.samefile(images[0][1], refs[0].path) == linked
    shutil.rmtree(refs[0].path.parent)
    assert [Path(path).read_bytes() for _, path in images] == [b"a.PNG", b"b c.jpg"]
    again = [SampleRef(name, Path(path)) for name, path in images]
    assert work.keep(again) == images and len(tree(work.home / "inputs")) == 1
    assert all(work.holds(Path(path)) for _, path in images) and not work.holds(work.home / "jobs")


def test_a_link_is_kept_as_what_it_leads_to(work, refs, tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(refs[0].path)
    ((_, path),) = work.keep([SampleRef("link.png", link)])
    assert not os.path.islink(path) and Path(path).read_bytes() == b"a.PNG"


def test_keeping_on_a_full_disk(work, refs, monkeypatch):
    def full(source, target, **_):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        work.keep(refs)
    assert tree(work.home / "inputs") == set()


def test_kept_maps_have_their_names(work, refs):
    folder = work.keep_maps([("test/spot/0.npy", refs[0].path), ("1.tiff", refs[1].path)])
    assert (folder / "test" / "spot" / "0.npy").read_bytes() == b"a.PNG"
    assert (folder / "1.tiff").read_bytes() == b"b c.jpg"


@pytest.mark.parametrize("name", ["", ".", "../up.npy", "a/../../up.npy", "/etc/up.npy", "a\0.npy"])
def test_names_that_are_none(work, refs, name):
    with pytest.raises(InvalidUploadError, match="is no name for a map"):
        work.keep_maps([("fine.npy", refs[0].path), (name, refs[1].path)])
    assert tree(work.home / "inputs") == set()


def test_two_maps_of_one_name(work, refs):
    with pytest.raises(InvalidUploadError, match=r"two files are called a\.npy"):
        work.keep_maps([("a.npy", ref.path) for ref in refs])
    assert tree(work.home / "inputs") == set()


def test_one_job_of_a_kind_for_each_visitor(work, desk):
    first = submit(work, desk, "wait")
    until(lambda: first.progress.text == "waits after step 1", "the first")
    with pytest.raises(InvalidArgumentError, match="a wait still runs: wait for its end, or cancel it"):
        submit(work, desk, former=first.id)
    other = submit(work, desk, "wait", former=None)  # another visitor's
    first.cancel()
    again = submit(work, desk, "wait", former=first.id)  # although the first still stops
    assert len({first.id, other.id, again.id}) == 3
    assert first.wait(LONG) == "cancelled"


def test_only_so_many_jobs_in_all(work, desk, monkeypatch):
    monkeypatch.setattr(work_module, "MAX_ACTIVE", 2)
    jobs = [submit(work, desk, "wait") for _ in range(2)]
    with pytest.raises(InvalidArgumentError, match="2 jobs are waiting already: try again in some minutes"):
        submit(work, desk)
    jobs[0].cancel()
    submit(work, desk)


@pytest.mark.parametrize("job_id", [None, 7, ["a"], {}, "", "..", "../jobs", "20260101-000000-00000000"])
def test_what_is_no_job(work, job_id):
    assert work.get(job_id) is None


def test_found_again_after_a_restart_of_the_app(work, desk):
    job = ended(work, desk)
    again = Work(work.home).get(job.id, "probe")
    assert again.result == job.result and again.status == "done"
    assert work.get(job.id).id == job.id and work.get(job.id, "fit") is None


def test_followed_to_its_result(work, desk):
    job = submit(work, desk, "wait")
    seen = []
    for progress in work.follow(job, poll=0.01):
        seen.append(progress)
        if progress.text == "waits after step 1":
            (desk / "go").touch()
    assert job.result is not None
    assert seen[0].text == "starting" and "waits after step 1" in [text for _, text in seen]
    assert list(work.follow(job)) == []


@pytest.mark.parametrize(("mode", "status"), [("refuse", "failed"), ("killed", "interrupted")])
def test_followed_to_its_failure(work, desk, mode, status):
    job = submit(work, desk, mode)
    assert [p for p in work.follow(job, poll=0.05) if p.text != "starting"] == []
    assert job.result is None and job.status == status


def test_reasons_name_no_path_of_the_machine(work, refs):
    images = work.keep(refs)
    job = work.store.submit("fit", {"images": images})
    job.cancel()
    assert job.wait(LONG) == "cancelled"
    for error, expected in [
        (f"{images[1][1]} is not an image: remove it", "sub/b c.jpg is not an image: remove it"),
        (f"unexpected E: x ({job.folder}/log.txt shows where)", f"unexpected E: x (job {job.id}/log.txt shows where)"),
        (f"cannot write {work.home}/x: full", "cannot write the app's folder/x: full"),
        (None, "it ended without a reason: try again"),
    ]:
        files.write_json(job.folder / "status.json", {"status": "failed", "error": error})
        assert work.reason(job) == expected


def test_what_nobody_needs_goes(work, desk, refs):
    old_inputs, new_inputs, orphans, fresh = (work.keep_maps([("a.npy", refs[0].path)]) for _ in range(4))
    old, new = (ended(work, desk, note=str(inputs)) for inputs in (old_inputs, new_inputs))
    waiting = submit(work, desk, "wait", note=str(work.store.root / "x"))
    until(lambda: waiting.progress.text == "waits after step 1", "the active one")
    leftover = work.store.root / ".anomalyhub-0123"
    leftover.mkdir()
    for path in (leftover, old.folder, waiting.folder):
        age(path, KEPT + 60)
    for path in (old_inputs, new_inputs, orphans):
        age(path, 2 * 3600)
    work.prune()
    assert {job.id for job in work.store.list()} == {new.id, waiting.id}
    assert tree(work.home / "inputs") == {new_inputs.name, fresh.name}  # the latter's job may be about to come
    assert not leftover.exists() and waiting.status == "running"


def test_what_an_active_job_builds_on_stays(work, desk):
    model = ended(work, desk)
    waiting = submit(work, desk, "wait", note=str(model.result))
    until(lambda: waiting.progress.text == "waits after step 1", "the active one")
    age(model.folder, KEPT + 60)
    work.prune()
    assert work.get(model.id) is not None
    waiting.cancel()
    assert waiting.wait(LONG) == "cancelled"
    work.prune()
    assert work.get(model.id) is None and work.get(waiting.id) is not None


def test_the_oldest_go_when_there_is_too_much(work, desk, refs, monkeypatch):
    jobs = [ended(work, desk) for _ in range(3)]
    for number, job in enumerate(jobs):
        (job.result / "large").write_bytes(bytes(100_000))
        age(job.folder, 600 - number)
    monkeypatch.setattr(work_module, "MAX_BYTES", 250_000)
    work.prune()
    assert {job.id for job in work.store.list()} == {job.id for job in jobs[1:]}
    work.prune()
    assert len(work.store.list()) == 2


def test_what_can_be_taken_again_goes_first(work, desk, monkeypatch):
    (desk / "large").write_bytes(bytes(100_000))
    learned = ended(work, desk)
    (learned.result / "large").write_bytes(bytes(100_000))
    taken = [work.store.adopt("fit", {}, {"large": desk / "large"}) for _ in range(2)]
    for number, job in enumerate((learned, *taken)):
        age(job.folder, 600 - number)
    monkeypatch.setattr(work_module, "MAX_BYTES", 250_000)
    work.prune()
    assert {job.id for job in work.store.list()} == {learned.id, taken[1].id}
    age(learned.folder, KEPT + 60)  # what is too old goes all the same, and before
    monkeypatch.setattr(work_module, "MAX_BYTES", 150_000)
    work.prune()
    assert {job.id for job in work.store.list()} == {taken[1].id}


def test_a_home_that_is_gone(work):
    shutil.rmtree(work.home)
    work.prune()
    assert not work.home.exists(), "it is not made again behind the user's back"
    work.store.root.mkdir(parents=True)  # for the end of the test
