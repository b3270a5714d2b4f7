"""What may travel: which files of a folder are pushed, which of a repository are pulled, and whether they are whole.

Nothing of a repository is trusted: its names, sizes and bytes are a stranger's.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from anomalyhub.errors import InvalidArgumentError, OutputError, UnsafeRepositoryError

KINDS = ("model", "dataset", "space")
#: What a folder's or a repository's file is: its path there, or its bytes.
Content = Path | bytes

_PICTURES = frozenset({".png", ".jpg", ".jpeg"})
_TEXTS = frozenset({".json", ".md", ".txt", ".csv"})
#: Suffixes that are pulled; all else stays where it is. A space is only ever pushed.
_PULLED: Mapping[str, frozenset[str]] = {
    "model": frozenset({".json", ".safetensors", ".md"}) | _PICTURES,
    "dataset": _TEXTS
    | _PICTURES
    | frozenset(".jpe .jfif .tif .tiff .bmp .webp .pgm .ppm .jsonl .parquet .yaml .svg .html".split()),
    "space": frozenset(),
}
_NAMED = frozenset({"LICENSE", "LICENCE", "NOTICE"})
#: Files that a Hub or a person's computer adds, and that nobody has to be told about.
_SILENT = frozenset({".gitattributes", ".gitignore", ".DS_Store", "Thumbs.db"})
#: Limits of what is pulled: files, bytes of all and of one, of one text.
MAX_FILES, MAX_BYTES, MAX_TEXT_BYTES = 200_000, 200 * 1024**3, 256 * 1024**2
#: Of a model's JSON and card, which are read whole: lists in lists take twenty times as much memory as text.
_MAX_JSON_BYTES = 8 * 1024**2
_MAX_NAME, _MAX_PART = 1024, 240  # bytes
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³])\s*(\..*)?", re.IGNORECASE)
_CONTROL, _BIDI = frozenset({"Cc", "Cs", "Zl", "Zp"}), "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"
#: Bytes of a read, and of a file from which on its digest is worked out beside its copying.
_CHUNK, _LARGE = 1 << 18, 32 << 20
#: Threads of `ahead`, and items that they may be ahead; chunks that a digest may be behind.
_THREADS, _AHEAD, _BEHIND = 2, 4096, 4
_SHOWN = 3

T, R = TypeVar("T"), TypeVar("R")


@dataclass(frozen=True)
class Entry:
    """A file of a repository: its name with forward slashes, its bytes, and a digest where the store knows one.

    git_oid  of files that the Hub keeps in git: the sha1 of b"blob SIZE\\0" and the bytes
    """

    path: str
    size: int
    sha256: str | None = None
    git_oid: str | None = None

    def differs(self, content: Content) -> bool:
        """Whether a file is another one than this, by size, then by digest."""
        if size_of(content) != self.size:
            return True
        return not _matches(self, digests(content, sha256=self.sha256 is not None, git=self.sha256 is None))


@dataclass(frozen=True)
class Listing:
    """The files of one revision of a repository."""

    revision: str
    entries: tuple[Entry, ...]

    @property
    def by_path(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.entries}


def size_of(content: Content) -> int:
    """Bytes."""
    return len(content) if isinstance(content, bytes) else os.stat(content).st_size


def checked_repo_id(text: str) -> str:
    """OWNER/NAME as the Hub takes it. Raises InvalidArgumentError."""
    parts = text.split("/")
    odd = any(part.endswith((".", "-", ".git")) or ".." in part or "--" in part for part in parts)
    if not _REPO_ID.fullmatch(text) or odd or len(text) > 96 or any(map(is_device, parts)):
        raise InvalidArgumentError(
            f"{_shown(text)} is not a repository: write OWNER/NAME in letters, digits, -, _ and ., such as acme/ring"
        )
    return text


def is_device(name: str) -> bool:
    """Whether Windows takes a file's name for a device."""
    return bool(_DEVICES.fullmatch(name))


def checked_kind(kind: str) -> str:
    if kind not in KINDS:
        raise InvalidArgumentError(f"kind must be model or dataset, got {kind!r}: choose one of them")
    return kind


def gather(folder: str | Path) -> dict[str, Path]:
    """The files below a folder, by their names with forward slashes, sorted; hidden ones are left out.

    Links to files are followed where they stay inside. Raises InvalidArgumentError for a folder that does not exist or
    has no files, for a link to a folder or out of it, for a file that cannot be read, and for a name that no store
    takes.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InvalidArgumentError(f"{folder} is not a folder: give the --out folder of a run")
    found: dict[str, Path] = {}
    for at, folders, names in os.walk(root, followlinks=False):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
        inner = os.path.relpath(at, root).replace(os.sep, "/")
        above = "" if inner == "." else f"{inner}/"
        for name in folders:
            _check_link(os.path.join(at, name), root)
        for name in sorted(names):
            path = os.path.join(at, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                _check_link(path, root)
            if name.startswith(".") or name in _SILENT:
                continue
            if not os.access(path, os.R_OK):  # nor can a link to nothing
                raise InvalidArgumentError(f"{path} cannot be read: give yourself read access, or take it out")
            if not stat.S_ISREG(os.stat(path).st_mode if stat.S_ISLNK(mode) else mode):
                raise InvalidArgumentError(f"{path} is no regular file: take it out of the folder")
            if reason := name_fault(above + name):
                raise InvalidArgumentError(f"{path} cannot be stored, as its name {reason}: rename it")
            found[above + name] = Path(path)
    if not found:
        raise InvalidArgumentError(f"{folder} has no files: give the --out folder of a run")
    return found


def _check_link(path: str, root: Path) -> None:
    """Raise InvalidArgumentError for a link to a folder, or out of the folder."""
    if os.path.islink(path) and (os.path.isdir(path) or not Path(path).resolve().is_relative_to(root.resolve())):
        raise InvalidArgumentError(
            f"{path} is a link to {os.path.realpath(path)}: put the files themselves into the folder"
        )


def name_fault(name: str) -> str | None:
    """What is wrong with a file's name in a repository, which goes on "as its name"; None when nothing is."""
    if not isinstance(name, str) or not name:
        return "is empty"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is no UTF-8"
    parts = name.split("/")
    if size > _MAX_NAME or any(len(part.encode()) > _MAX_PART for part in parts):
        return "is too long"
    plain = name.isascii() and name.isprintable()
    if not plain and any(unicodedata.category(letter) in _CONTROL or letter in _BIDI for letter in name):
        return "has control characters"
    if name.startswith("/") or "\\" in name or any(re.match(r"[A-Za-z]:", part) for part in parts):
        return "is an absolute path or has a \\"
    if any(part in ("", ".", "..") for part in parts):
        return "climbs out of its folder"
    if any(part.endswith((" ", ".")) or is_device(part) or part.startswith("~") for part in parts):
        return "means something else to some systems"
    if any(part.lower() == ".git" for part in parts):
        return "is git's own"
    return None


def choose(entries: Iterable[Entry], kind: str) -> tuple[list[Entry], list[str]]:
    """The files to pull, and a sentence about those that are not.

    Left out are types of file that AnomalyHub does not read, hidden files included. Raises UnsafeRepositoryError for
    names that could end up elsewhere or collide, even of files that would be left out, and for sizes beyond the limits.
    """
    entries = list(entries)
    if len(entries) > MAX_FILES:
        raise UnsafeRepositoryError(f"the repository has {len(entries)} files, more than {MAX_FILES}: it is not pulled")
    for entry in entries:
        if reason := name_fault(entry.path):
            raise UnsafeRepositoryError(
                f"the repository has a file {_shown(entry.path)} whose name {reason}: it is not pulled, tell its owner"
            )
    _check_collisions([entry.path for entry in entries])
    chosen = [entry for entry in entries if _is_pulled(entry.path, kind)]
    for entry in chosen:
        _check_size(entry, kind)
    total = sum(entry.size for entry in chosen)
    if total > MAX_BYTES:
        raise UnsafeRepositoryError(
            f"the repository has {total / 1e9:.0f} GB, more than {MAX_BYTES / 1e9:.0f}: it is not pulled"
        )
    taken = {entry.path for entry in chosen}
    return chosen, _left_out([entry.path for entry in entries if entry.path not in taken])


def _is_pulled(name: str, kind: str) -> bool:
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts):
        return False
    return path.suffix.lower() in _PULLED[kind] or path.name in _NAMED


def _left_out(names: Sequence[str]) -> list[str]:
    names = [name for name in names if PurePosixPath(name).name not in _SILENT]
    if not names:
        return []
    shown = ", ".join(map(_shown, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return [f"left out {shown}: a pull takes safetensors, JSON, tables and pictures, and nothing that could be run"]


def _check_size(entry: Entry, kind: str) -> None:
    limit = MAX_BYTES
    if PurePosixPath(entry.path).suffix.lower() in (".json", ".md", ".txt", ".yaml"):
        limit = _MAX_JSON_BYTES if kind == "model" else MAX_TEXT_BYTES
    if not isinstance(entry.size, int) or isinstance(entry.size, bool) or not 0 <= entry.size <= limit:
        raise UnsafeRepositoryError(
            f"{_shown(entry.path)} is said to have {_shown(str(entry.size))} bytes, and at most {limit} are taken: "
            "it is not pulled"
        )


def _check_collisions(names: Sequence[str]) -> None:
    """Two files that one name on disk would mean, or a file where another's folder is."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFC", name).casefold()
        if plain in seen:
            raise UnsafeRepositoryError(
                f"the repository has both {_shown(seen[plain])} and {_shown(name)}, which is one name on some systems: "
                "it is not pulled"
            )
        seen[plain] = name
        parts = plain.split("/")
        folders.update({"/".join(parts[:depth]): name for depth in range(1, len(parts))})
    for plain in seen.keys() & folders.keys():
        raise UnsafeRepositoryError(
            f"the repository has a file {_shown(seen[plain])} where {_shown(folders[plain])} has a folder: "
            "it is not pulled"
        )


def copy_verified(source: Path, target: Path, entry: Entry, link: bool = False) -> None:
    """Copy a pulled file and compare size and digest with what the repository says of it.

    link  give the file a second name in place of a copy, where nobody will change it
    Raises UnsafeRepositoryError when they differ, and for anything but a regular file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        link = link_or_copy(source, target)
    with open_regular(target if link else source) as file, open(os.devnull if link else target, "wb") as copied:
        found = copy_hashed(file, copied.write, entry.size, git=entry.sha256 is None and entry.git_oid is not None)
    if found is None or not _matches(entry, found):
        raise UnsafeRepositoryError(
            f"{_shown(entry.path)} is not what the repository says it is (size or checksum): pull again; if that "
            "does not help, its owner removes the file from the repository and pushes again"
        )


def open_regular(path: Path) -> BinaryIO:
    """A file for reading that is no link, device or pipe. Raises UnsafeRepositoryError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise UnsafeRepositoryError(f"{path.name} cannot be read ({error.strerror}): it is not pulled") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafeRepositoryError(f"{path.name} is no regular file: it is not pulled")
    return os.fdopen(descriptor, "rb", buffering=0)


def copy_hashed(
    source: BinaryIO, write: Callable[[memoryview], object], size: int, *, git: bool = False
) -> dict[str, str] | None:
    """Pass on `size` bytes and return their digest as `digests` does; None when there are more or fewer."""
    digest = hashlib.sha1(b"blob %d\0" % size) if git else hashlib.sha256()
    # buffers that are used again: fresh ones make the kernel map and unmap memory, for which threads wait
    large = size > _LARGE
    buffers = [memoryview(bytearray(min(_CHUNK, size + 1))) for _ in range(_BEHIND if large else 1)]
    left, behind, turn = size, deque[Future](), 0
    with ThreadPoolExecutor(1) if large else nullcontext() as beside:
        while count := source.readinto(buffers[turn]):
            chunk, turn = buffers[turn][:count], (turn + 1) % len(buffers)
            left -= count
            if left < 0:
                return None
            if beside is None:
                digest.update(chunk)
            else:
                behind.append(beside.submit(digest.update, chunk))
            write(chunk)
            if len(behind) == len(buffers):
                behind.popleft().result()  # its buffer is the next
    return {"git_oid" if git else "sha256": digest.hexdigest()} if left == 0 else None


def ahead(call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`call(item)` of each item, in order, by threads that go ahead: reading, hashing and writing run side by side."""
    pending = deque[Future]()
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            for item in items:
                pending.append(threads.submit(call, item))
                while pending[0].done() or len(pending) > _AHEAD:
                    yield pending.popleft().result()
                    if not pending:
                        break
            while pending:
                yield pending.popleft().result()
        finally:
            for one in pending:
                one.cancel()


def digests(content: Content, *, sha256: bool = True, git: bool = False) -> dict[str, str]:
    """{"sha256": hex} and, or, {"git_oid": hex} of a file."""
    size = size_of(content)
    made = {"sha256": hashlib.sha256()} if sha256 else {}
    if git:
        made["git_oid"] = hashlib.sha1(b"blob %d\0" % size)
    if isinstance(content, bytes):
        for digest in made.values():
            digest.update(content)
    else:
        buffer = memoryview(bytearray(min(_CHUNK, size + 1)))
        with open(content, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                for digest in made.values():
                    digest.update(buffer[:count])
    return {name: digest.hexdigest() for name, digest in made.items()}


def _matches(entry: Entry, found: Mapping[str, str]) -> bool:
    return all(getattr(entry, name) in (None, value) for name, value in found.items())


def link_or_copy(source: Path, target: Path) -> bool:
    """Give a file a second name, or copy it where that cannot be; True when no data was moved. Raises OutputError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
        return True
    except OSError as error:
        try:
            with open_regular(source) as file, open(target, "wb") as copied:
                while chunk := file.read(_CHUNK):
                    copied.write(chunk)
        except OSError as failed:
            raise OutputError(f"cannot write {target} ({failed.strerror}): free some space") from error
        return False


def _shown(text: str) -> str:
    """A stranger's text for a message: short, and without letters that move the cursor."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
