"""Listing folders of images: hidden files, links in a loop and files that are no images are passed over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from anomalyhub.data.images import IMAGE_SUFFIXES
from anomalyhub.errors import InvalidDatasetError

# Left by macOS archives and Synology disks; names with a leading dot are passed over anyway.
_JUNK = frozenset({"__macosx", "@eadir"})


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is never part of a data set."""
    return name.startswith(".") or name.lower() in _JUNK


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_junk(name)


def subfolders(folder: Path) -> dict[str, Path]:
    """Visible folders directly in `folder` by name, sorted. Raises InvalidDatasetError when it cannot be listed."""
    names = sorted(entry.name for entry in _entries(folder) if _is_dir(entry))
    return {name: folder / name for name in names}


def holds_images(folder: Path, *, below: bool = True) -> bool:
    """Whether there is an image in `folder`, or in a folder below; stops at the first."""
    first = next(_walk(folder), None)
    return first is not None and (below or "/" not in first)


def images_below(folder: Path) -> list[str]:
    """Paths below `folder` of all images in it and its folders, with forward slashes, sorted."""
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    """Yield image paths below `folder`, its own first; each real folder is entered once, which cuts loops of links."""
    seen, pending = set(), [("", os.fspath(folder))]
    while pending:
        prefix, path = pending.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        # sorted, so that of two links to one folder the same is entered on every machine
        entries = sorted(_entries(path), key=lambda entry: entry.name)
        folders = []
        for entry in entries:
            if _is_dir(entry):
                folders.append((f"{prefix}{entry.name}/", entry.path))
            elif is_image_name(entry.name):
                yield prefix + entry.name
        pending.extend(reversed(folders))


def _is_dir(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entries(folder: str | Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_junk(entry.name)]
    except OSError as error:
        raise InvalidDatasetError(
            f"{folder} cannot be listed, {error.strerror}: check the path and give yourself read access"
        ) from error
