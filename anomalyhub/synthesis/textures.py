"""Textures for synthetic defects: one image per class, from a folder or drawn by the package."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from anomalyhub.data.folders import holds_images, images_below, subfolders
from anomalyhub.data.images import read_image
from anomalyhub.errors import InvalidDatasetError
from anomalyhub.synthesis import procedural
from anomalyhub.synthesis.names import safe_names

PROCEDURAL = "procedural"
#: Larger textures are cut to their middle: it bounds the memory of the cache.
_LARGEST = 1024


class Textures:
    """Named images, decoded on first use and kept.

    names   one class each, all different, fit for folders
    source  "procedural", or the name of the folder
    """

    def __init__(self, names: Sequence[str], read: Callable[[int], np.ndarray], source: str, seamless: bool = False):
        """read: the image (h, w, 3) uint8 of an index; seamless: it repeats without a seam."""
        self.names, self.source = tuple(names), source
        self._read, self._seamless = lru_cache(maxsize=None)(read), seamless

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 as it is. Raises InvalidImageError."""
        return self._read(index)

    def cut(self, index: int, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """A piece (*shape, 3) uint8 from a random place, repeated where the texture is smaller.

        Nothing else is changed: liu2024 removes DRAEM's augmentation of textures, to preserve them.
        """
        texture = self.image(index)
        for axis, length in enumerate(shape):
            known = texture.shape[axis]
            start = int(rng.integers(known if self._seamless else max(known - length, 0) + 1))
            ends = [*range(known, start + length, known), start + length]  # of each repetition's part
            starts = [start, *ends[:-1]]
            parts = [slice(a % known, (b - 1) % known + 1) for a, b in zip(starts, ends, strict=True)]
            pieces = [texture[part] if axis == 0 else texture[:, part] for part in parts]
            texture = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis)
        return texture


def load_textures(folder: str | Path | None = None) -> Textures:
    """Textures of a folder: the first image by name of each of its folders, as in DTD, or each image of a flat folder.

    folder  may also be the folder above, such as DTD's own; None: 48 textures that the package draws
    Raises InvalidDatasetError for a folder that is not there or holds no images; images are read later.
    """
    if folder is None:
        return Textures(procedural.NAMES, procedural.draw_texture, PROCEDURAL, seamless=True)
    root = Path(folder).expanduser()
    try:
        is_there = root.is_dir()
    except (OSError, ValueError):  # a name too long, a NUL
        is_there = False
    if not is_there:
        raise InvalidDatasetError(f"textures folder {folder} does not exist, or is a file: {_REMEDY}")
    found = _classes(root)
    if not found:
        raise InvalidDatasetError(f"textures folder {folder} holds no images: {_REMEDY}")
    paths = [found[name] for name in found]
    return Textures(safe_names(found), lambda index: _middle(read_image(paths[index])), root.resolve().name)


_REMEDY = (
    "give a folder of folders of images (such as DTD's), or a folder of images, or leave it out to have textures drawn"
)


def _classes(folder: Path) -> dict[str, Path]:
    """The image of each class by the class's name, sorted."""
    if holds_images(folder, below=False):
        files = sorted(name for name in images_below(folder) if "/" not in name)
        stems = [os.path.splitext(name)[0] for name in files]
        return {
            (stem if stems.count(stem) == 1 else file): folder / file for stem, file in zip(stems, files, strict=True)
        }
    subs = {name: sub for name, sub in subfolders(folder).items() if holds_images(sub)}
    if len(subs) == 1:
        (only,) = subs.values()
        if not holds_images(only, below=False):  # dtd/images/CLASS
            return _classes(only)
    return {name: sub / images_below(sub)[0] for name, sub in subs.items()}


def _middle(image: np.ndarray) -> np.ndarray:
    top, left = (max(0, side - _LARGEST) // 2 for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + _LARGEST, left : left + _LARGEST])
