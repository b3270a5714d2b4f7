"""Outputs that are complete or absent: written beside their place under a hidden name, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anomalyhub.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@contextmanager
def atomic_folder(out: str | Path, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `out`; when the block ends well it becomes `out`, when it fails it is removed.

    out        made with its missing parents; an existing folder must be empty unless `overwrite`
    overwrite  replace what is there; it stays in place until the new folder is complete
    inputs     paths that this run reads: `out` must not be, or hold, one of them

    Raises OutputError on entering when `out` cannot be written or must not be replaced, and when the disk is full.
    """
    out = _resolve(out)
    _check_replaceable(out, overwrite, inputs)
    with _staged(out, "") as staged:
        staged.mkdir()
        yield staged
        _check_replaceable(out, overwrite, inputs)
        _swap_in(staged, out)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` with its suffix; the file that the block writes there replaces `path` at its end.

    Missing parents are made, and nothing is left when the block fails. Raises OutputError when `path` cannot be
    written or is not a file.
    """
    path = _resolve(path)
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a file: choose another output path")
    with _staged(path, path.suffix) as staged:
        yield staged
        os.replace(staged, path)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


@contextmanager
def updated_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder inside `folder`; at the end, what was written there replaces what has the same name.

    All else stays, and nothing changes when the block or the exchange fails. Raises OutputError when `folder` cannot be
    written.
    """
    folder = _resolve(folder)
    staged = folder / f".anomalyhub-{uuid.uuid4().hex[:12]}"
    former = staged.with_name(staged.name + ".old")
    try:
        staged.mkdir()
        yield staged
        _exchange(staged, folder, former)
    except OSError as error:
        if error.errno in _FULL or _names(error, folder):
            reason = error.strerror or str(error)
            remedy = "free some space" if error.errno in _FULL else "give yourself write access"
            raise OutputError(f"cannot change {folder}: {reason}; {remedy}, or change a copy of it") from error
        raise
    finally:
        _remove(staged)
        _remove(former)


def _exchange(staged: Path, folder: Path, former: Path) -> None:
    """Move the entries of `staged` into `folder`, those that were there into `former`; all of them or none."""
    former.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for path in sorted(staged.iterdir()):
            at = folder / path.name
            for source, target in ((at, former / path.name), (path, at)):
                if os.path.lexists(source):
                    os.replace(source, target)
                    moved.append((source, target))
    except BaseException:
        for source, target in reversed(moved):
            os.replace(target, source)
        raise


def _resolve(path: str | Path) -> Path:
    """The absolute path with links followed, so that a link to an output stays a link."""
    try:
        path = Path(path).expanduser()
        path.exists()
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, ~nobody
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {str(path)!r}: {reason}; choose another output path") from error


@contextmanager
def _staged(out: Path, suffix: str) -> Iterator[Path]:
    """A fresh hidden name beside `out`; if the block fails it is removed, and so are the parents made for it."""
    missing = [parent for parent in out.parents if not parent.exists()]
    above = out.parents[len(missing)]
    if not above.is_dir():
        raise OutputError(f"cannot write {out}: {above} is a file, not a folder; choose another output path")
    staged = out.parent / f".anomalyhub-{uuid.uuid4().hex[:12]}{suffix}"
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            # a folder's write bit is not enough (read-only mounts, quotas): try
            staged.touch()
            staged.unlink()
        except OSError as error:
            raise _cannot_write(out, error) from error
        try:
            yield staged
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            if error.errno in _FULL or _names(error, staged):
                raise _cannot_write(out, error) from error
            raise
    except BaseException:
        _remove(staged)
        for parent in missing:
            try:
                parent.rmdir()
            except OSError:
                break
        raise


def _names(error: OSError, path: Path) -> bool:
    """Whether the failing path is `path` or lies inside it."""
    return isinstance(error.filename, (str, os.PathLike)) and Path(error.filename).is_relative_to(path)


def _cannot_write(out: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    remedy = "free some space or choose another output path" if error.errno in _FULL else "choose another output path"
    return OutputError(f"cannot write {out}: {reason}; {remedy}")


def _check_replaceable(out: Path, overwrite: bool, inputs: Iterable[str | Path]) -> None:
    try:
        if not os.path.lexists(out):
            return
        if not out.is_dir():
            raise OutputError(f"{out} is a file: choose another --out")
        if any(
            Path(os.path.realpath(at)).is_relative_to(out) for at in (".", os.path.expanduser("~"))
        ) or os.path.ismount(out):
            raise OutputError(f"{out} is a working, home or system folder: choose a folder inside it with --out")
        for path in map(_resolve, inputs):
            if path.is_relative_to(out):
                raise OutputError(f"{out} holds {path}, which this run reads: choose another --out")
        if not overwrite and any(out.iterdir()):
            raise OutputError(f"{out} is not empty: choose another --out or pass --overwrite")
        if (out / ".git").exists():
            raise OutputError(f"{out} is a git repository and is not replaced: choose another --out")
    except PermissionError as error:
        raise _cannot_write(out, error) from error


def _swap_in(staged: Path, out: Path) -> None:
    """Rename `staged` to `out`; what was there is put back if that fails, removed if not."""
    if not out.exists():
        os.rename(staged, out)
        return
    old = staged.with_name(staged.name + ".old")
    os.rename(out, old)
    try:
        os.rename(staged, out)
    except BaseException:
        os.rename(old, out)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    """Remove a file or folder, quietly: what cannot be removed must not hide the error that led here."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
