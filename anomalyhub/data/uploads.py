"""Gathering what a user uploads: image files, folders and zips, from people one does not know."""

from __future__ import annotations

import io
import re
import stat
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from anomalyhub.data.folders import images_below, is_image_name, is_junk
from anomalyhub.data.images import MAX_PIXELS, check_image
from anomalyhub.data.maps import MAP_SUFFIXES, read_map
from anomalyhub.data.samples import SampleRef
from anomalyhub.errors import InvalidArgumentError, InvalidImageError, InvalidUploadError
from anomalyhub.fsio import atomic_folder
from anomalyhub.protocols import Progress

_CHUNK = 1024**2
_ARCHIVES = frozenset(".zip .7z .rar .tar .gz .tgz .bz2 .xz".split())
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_AGAIN = "zip the plain image files again"


@dataclass(frozen=True)
class Limits:
    """What one call accepts.

    max_files       images in all
    max_bytes       bytes in all, after unpacking
    max_file_bytes  bytes of one image, after unpacking
    max_pixels      pixels of one image
    max_ratio       unpacked to packed bytes, for what unpacks to more than 1 MiB
    """

    max_files: int = 2000
    max_bytes: int = 2 * 1024**3
    max_file_bytes: int = 100 * 1024**2
    max_pixels: int = MAX_PIXELS
    max_ratio: float = 200.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise InvalidArgumentError(f"{name} must be above 0, got {value}")


_LIMITS = Limits()


def gather_uploads(
    paths: Iterable[str | Path],
    folder: str | Path,
    limits: Limits = _LIMITS,
    *,
    maps: bool = False,
    progress: Progress | None = None,
) -> tuple[list[SampleRef], list[str]]:
    """Unlabelled samples from uploaded image files, folders and zips, sorted by id; and notices for the user.

    Files and folders are read where they are; the images of zips are unpacked into a new folder below `folder`. Ids are
    the names as uploaded, in a zip or folder the path below it, made unique. Whatever is no readable image is left out
    and named in a notice, one sentence each. With `maps`, anomaly maps are taken instead of images: see `read_map`.

    Raises InvalidUploadError for what is too large, too many or hostile, and then leaves nothing behind; OutputError
    when `folder` cannot be written.
    """
    files, zips = _sorted_out([Path(path) for path in paths])
    intake = _Intake(limits, progress, len(files) + len(zips), maps)
    for path, name in files:
        intake.add_file(path, name)
    if zips:
        home = Path(folder) / f"unpacked-{uuid.uuid4().hex[:8]}"
        with atomic_folder(home) as staged:
            for index, path in enumerate(zips):
                intake.add_zip(path, staged, home, f"{index:03d}")
    return sorted(intake.refs, key=lambda ref: ref.id), intake.notices


def _sorted_out(paths: list[Path]) -> tuple[list[tuple[Path, str]], list[Path]]:
    """(path, name) of the files, also those in folders; and the zips."""
    files, zips = [], []
    for path in paths:
        if path.is_dir():
            files.extend((path / name, f"{path.name}/{name}") for name in images_below(path))
        elif path.suffix.lower() == ".zip":
            zips.append(path)
        elif not is_junk(path.name):
            files.append((path, path.name))
    return files, zips


class _Intake:
    """The samples gathered so far, counted against the limits. Progress counts a zip like a file."""

    def __init__(self, limits: Limits, progress: Progress | None, total: int, maps: bool):
        self.limits, self._progress, self._total, self._maps = limits, progress, total, maps
        self.refs: list[SampleRef] = []
        self.notices: list[str] = []
        self._ids: set[str] = set()
        self._files = self._bytes = self._done = 0

    def add_file(self, path: Path, name: str) -> None:
        self._report(name)
        self._count_file(name)
        try:
            size = path.stat().st_size
        except OSError:
            size = 0  # check_image says why it cannot be read
        self._count_bytes(name, size, size)
        self._add_readable(path, path, name, name)
        self._done += 1

    def add_zip(self, path: Path, staged: Path, home: Path, prefix: str) -> None:
        """Unpack the images of a zip to `staged`, under numbers instead of their names; refer to them in `home`."""
        with _CappedFile(path, self.limits.max_files) as file, _open_zip(file, path.name) as archive:
            members = _members(archive, path.name, self.notices, self._maps)
            self._check_declared(members, path.name)
            packed = path.stat().st_size
            for number, member in enumerate(members):
                name = str(PurePosixPath(member.filename))
                file_name = f"{prefix}-{number:05d}{PurePosixPath(name).suffix.lower()}"
                self._report(f"{path.name}: {name}", number / len(members))
                self._unpack(archive, member, staged / file_name, path.name, packed)
                if not self._add_readable(staged / file_name, home / file_name, name, f"{path.name}: {name}"):
                    (staged / file_name).unlink()
        self._done += 1

    def _report(self, shown: str, part: float = 0.0) -> None:
        if self._progress:
            self._progress((self._done + part) / self._total, f"reading {shown}")

    def _unpack(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, name: str, packed: int) -> None:
        """Write one member, counting the bytes that come out, whatever the headers say."""
        where, written = f"{name}: {member.filename!r}", 0
        with target.open("xb") as sink:
            for chunk in _chunks(archive, member, where):
                written += len(chunk)
                self._count_bytes(where, written, len(chunk))
                self._check_ratio(where, written, min(member.compress_size, packed))
                sink.write(chunk)

    def _add_readable(self, path: Path, final: Path, name: str, shown: str) -> bool:
        """Refer to the image at `path` by its `final` place; or say in a notice why it cannot be read."""
        try:
            if self._maps:
                read_map(path)
            else:
                check_image(path, max_pixels=self.limits.max_pixels)
        except InvalidImageError as error:
            self.notices.append(f"left out: {str(error).replace(str(path), shown)}")
            return False
        self.refs.append(SampleRef(self._unique(name), final))
        return True

    def _unique(self, name: str) -> str:
        """`name`, or with -2, -3, ... before its suffix."""
        path, unique, number = PurePosixPath(name), name, 1
        while unique in self._ids:
            number += 1
            unique = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
        self._ids.add(unique)
        return unique

    def _check_declared(self, members: list[zipfile.ZipInfo], name: str) -> None:
        """Refuse early what the headers admit to; what they hide is found while unpacking."""
        total = self._bytes
        for member in members:
            where = f"{name}: {member.filename!r}"
            self._count_file(where)
            self._check_size(where, member.file_size)
            self._check_ratio(where, member.file_size, member.compress_size)
            total += member.file_size
            self._check_total(where, total)

    def _count_file(self, where: str) -> None:
        self._files += 1
        if self._files > self.limits.max_files:
            raise InvalidUploadError(
                f"{where} is one image too many, the limit is {self.limits.max_files}: upload fewer at a time"
            )

    def _count_bytes(self, where: str, size: int, more: int) -> None:
        self._bytes += more
        self._check_size(where, size)
        self._check_total(where, self._bytes)

    def _check_size(self, where: str, size: int) -> None:
        if size > self.limits.max_file_bytes:
            raise InvalidUploadError(
                f"{where} is too large, the limit is {_mib(self.limits.max_file_bytes)} an image: scale it down"
            )

    def _check_total(self, where: str, total: int) -> None:
        if total > self.limits.max_bytes:
            raise InvalidUploadError(
                f"{where} exceeds the limit of {_mib(self.limits.max_bytes)} in all: upload fewer at a time"
            )

    def _check_ratio(self, where: str, size: int, packed: int) -> None:
        if size > 1024**2 and size > self.limits.max_ratio * packed:
            raise InvalidUploadError(
                f"{where} unpacks to over {self.limits.max_ratio:g} times its packed size, like a zip bomb: "
                "upload the image itself"
            )


class _CappedFile(io.FileIO):
    """A file that refuses single reads larger than a sane directory of a zip, which zipfile reads at once."""

    def __init__(self, path: Path, max_files: int):
        try:
            super().__init__(path)
        except OSError as error:
            raise InvalidUploadError(f"{path.name} cannot be read, {error.strerror}: upload it again") from error
        self._path, self._cap = path, 1024**2 + 1024 * max_files

    def read(self, size: int = -1) -> bytes:
        if size > self._cap:
            raise InvalidUploadError(f"{self._path.name} lists too many files: upload fewer at a time")
        return super().read(size)


def _open_zip(file: BinaryIO, name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except InvalidUploadError:
        raise
    except Exception as error:  # besides BadZipFile also struct.error, ValueError, OSError and others
        raise InvalidUploadError(f"{name} is not a zip or is damaged ({error}): {_AGAIN}") from error


def _members(archive: zipfile.ZipFile, name: str, notices: list[str], maps: bool) -> list[zipfile.ZipInfo]:
    """The images, or maps, of a zip by name. Raises InvalidUploadError when any member, wanted or not, is hostile."""
    images, others, what = [], [], "maps" if maps else "images"
    for member in archive.infolist():
        _check_member(member, f"{name}: {member.orig_filename!r}")
        parts = PurePosixPath(member.filename).parts
        if not parts or member.filename.endswith("/") or any(is_junk(part) for part in parts):
            continue
        suffix = PurePosixPath(member.filename).suffix.lower()
        if suffix in MAP_SUFFIXES if maps else is_image_name(parts[-1]):
            images.append(member)
        elif suffix in _ARCHIVES:
            notices.append(f"left out: {name}: {member.filename} is an archive in an archive; upload it by itself")
        else:
            others.append(member.filename)
    if others:
        notices.append(f"left out: {name}: {len(others)} files that are no {what}, such as {others[0]}")
    if not images:
        notices.append(f"{name} holds no {what}")
    return sorted(images, key=lambda member: member.filename)


def _check_member(member: zipfile.ZipInfo, where: str) -> None:
    """Refuse a name that could leave the folder, and anything but a plain file or folder."""
    reason = None
    for name in (member.filename, member.orig_filename):
        if "\\" in name or "\0" in name:
            reason = "has a backslash or NUL in its name"
        elif name.startswith("/") or re.match("[A-Za-z]:", name):
            reason = "has an absolute path"
        elif ".." in name.split("/"):
            reason = "has a path that climbs out of the zip"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        reason = "is a link"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        reason = "is a device or pipe"
    elif member.flag_bits & 0x1:
        reason = "is encrypted"
    elif member.compress_type not in _METHODS:
        reason = f"is packed by method {member.compress_type}, not deflate"
    if reason:
        raise InvalidUploadError(f"{where} {reason}: {_AGAIN}")


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Iterator[bytes]:
    try:
        with archive.open(member) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except InvalidUploadError:
        raise
    except Exception as error:  # zipfile raises BadZipFile, zlib.error, EOFError, OSError and others on damage
        raise InvalidUploadError(f"{where} is damaged ({str(error) or type(error).__name__}): {_AGAIN}") from error


def _mib(size: int) -> str:
    return f"{size / 1024**2:.3g} MiB" if size < 1024**3 else f"{size / 1024**3:.3g} GiB"
