"""anomalyhub.fsio: outputs are complete or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from anomalyhub.errors import OutputError
from anomalyhub.fsio import atomic_file, atomic_folder, updated_folder


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def old_output(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "old.txt").write_text("old")
    return folder


def test_folder_appears_when_the_block_ends(tmp_path):
    out = tmp_path / "new" / "parents" / "out"
    with atomic_folder(out) as staged:
        (staged / "sub").mkdir()
        (staged / "sub" / "a.txt").write_text("a")
        assert not out.exists()
        assert staged.parent == out.parent and staged.name.startswith(".")  # one file system, hidden
    assert tree(tmp_path / "new") == ["parents", "parents/out", "parents/out/sub", "parents/out/sub/a.txt"]


def test_folder_has_the_permissions_of_any_new_folder(tmp_path):
    (tmp_path / "plain").mkdir()
    with atomic_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error), atomic_folder(tmp_path / "made" / "out") as staged:
        (staged / "half.txt").write_text("half")
        raise error("stop")
    assert tree(tmp_path) == []  # the parent made for it is gone too
    with pytest.raises(error), atomic_file(tmp_path / "made" / "out.csv") as staged:
        staged.write_text("half")
        raise error("stop")
    assert tree(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_output(tmp_path, error):
    out = old_output(tmp_path / "out")
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(error), atomic_folder(out, overwrite=True) as staged:
        (staged / "half.txt").write_text("half")
        raise error("stop")
    with pytest.raises(error), atomic_file(tmp_path / "out.csv") as staged:
        staged.write_text("half")
        raise error("stop")
    assert tree(tmp_path) == ["out", "out.csv", "out/old.txt"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_overwrite_replaces_the_whole_folder_at_the_end(tmp_path):
    out = old_output(tmp_path / "out")
    with atomic_folder(out, overwrite=True) as staged:
        (staged / "new.txt").write_text("new")
        assert tree(out) == ["old.txt"]
    assert tree(tmp_path) == ["out", "out/new.txt"]


def test_failed_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    out = old_output(tmp_path / "out")
    rename = os.rename

    def refuse_the_new_one(source, target):
        if Path(target) == out and not Path(source).name.endswith(".old"):
            raise OSError(errno.EBUSY, "Device or resource busy", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_the_new_one)
    with pytest.raises(OutputError, match="busy"), atomic_folder(out, overwrite=True):
        pass
    assert tree(tmp_path) == ["out", "out/old.txt"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as staged:
        (staged / "new.txt").write_text("new")
    assert tree(tmp_path) == ["out", "out/new.txt"]


def test_a_folder_filled_by_another_run_meanwhile_is_kept(tmp_path):
    with pytest.raises(OutputError, match="not empty"), atomic_folder(tmp_path / "out"):
        old_output(tmp_path / "out")
    assert tree(tmp_path) == ["out", "out/old.txt"]


def test_a_link_stays_a_link(tmp_path):
    old_output(tmp_path / "disk")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with atomic_folder(tmp_path / "out", overwrite=True) as staged:
        (staged / "new.txt").write_text("new")
    assert (tmp_path / "out").is_symlink()
    assert tree(tmp_path / "disk") == ["new.txt"]


REFUSED = [  # what `out` is, overwrite, the message
    ("full", False, "is not empty: choose another --out or pass --overwrite"),
    ("file", False, "is a file: choose another --out"),
    ("file", True, "is a file: choose another --out"),
    ("repo", True, "is a git repository"),
    ("repo/sub/..", True, "is a git repository"),
    ("here", True, "is a working, home or system folder"),  # the working directory's parent
    ("here/cwd", False, "is a working, home or system folder"),  # the shell would stand in a deleted folder
    ("/", True, "is a working, home or system folder"),
    ("~", True, "is a working, home or system folder"),
    ("data", True, "which this run reads"),
    ("file/below", False, "file is a file, not a folder"),
    ("x" * 300, False, "cannot write .*too long"),
    ("~no such user/out", False, "cannot write .*home directory"),
    ("nul\0", False, "cannot write .*null"),
]


@pytest.mark.parametrize(("name", "overwrite", "message"), REFUSED)
def test_refused_folders(tmp_path, monkeypatch, name, overwrite, message):
    old_output(tmp_path / "full")
    old_output(tmp_path / "repo" / ".git")
    (tmp_path / "repo" / "sub").mkdir()
    old_output(tmp_path / "data" / "product")
    (tmp_path / "file").write_text("x")
    (tmp_path / "here" / "cwd").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "cwd")
    before = tree(tmp_path)
    out = name if name[0] in "/~" else tmp_path / name
    with pytest.raises(OutputError, match=message):
        with atomic_folder(out, overwrite, inputs=[tmp_path / "data" / "product"]):
            pytest.fail("the block must not run")
    assert tree(tmp_path) == before


def test_file_keeps_its_suffix_and_replaces(tmp_path):
    path = tmp_path / "made" / "scores.npy"
    for text in ("first", "second"):
        with atomic_file(path) as staged:
            assert staged.suffix == ".npy"  # numpy and Pillow choose by it
            staged.write_text(text)
        assert path.read_text() == text
    assert tree(tmp_path) == ["made", "made/scores.npy"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "is not a file"),
        ("/dev/null", "is not a file"),  # a rename would replace the device itself
        ("file/below.csv", "file is a file, not a folder"),
        ("x" * 300, "too long"),
    ],
)
def test_refused_files(tmp_path, name, message):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=message), atomic_file(tmp_path / name):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions stop")
def test_unwritable_parent(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied; choose"), atomic_folder(tmp_path / "locked" / "out"):
        pytest.fail("the block must not run")


def test_full_disk_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No space left on device; free some space"), atomic_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_unreadable_input_is_not_called_an_output_error(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_folder(tmp_path / "out"):
        open(tmp_path / "absent")
    assert not isinstance(caught.value, OutputError)


def test_an_update_replaces_files_and_folders_and_keeps_the_rest(tmp_path):
    folder = old_output(tmp_path / "model")
    (folder / "part").mkdir()
    (folder / "part" / "gone.txt").write_text("of the former part")
    with updated_folder(folder) as staged:
        (staged / "part").mkdir()
        (staged / "part" / "new.txt").write_text("new")
        (staged / "more.txt").write_text("more")
        assert (folder / "part" / "gone.txt").exists()
    assert tree(folder) == ["more.txt", "old.txt", "part", "part/new.txt"]


def test_an_update_that_fails_halfway_changes_nothing(tmp_path, monkeypatch):
    folder = old_output(tmp_path / "model")
    (folder / "z").mkdir()
    (folder / "z" / "kept.txt").write_text("kept")
    replace, calls = os.replace, []

    def third_fails(source, target):
        calls.append(source)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", third_fails)
    with pytest.raises(OutputError, match="cannot change .*free some space"), updated_folder(folder) as staged:
        (staged / "old.txt").write_text("changed")
        (staged / "z").mkdir()
    assert tree(folder) == ["old.txt", "z", "z/kept.txt"] and (folder / "old.txt").read_text() == "old"
