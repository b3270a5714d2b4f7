"""Folders of anomaly maps, which any detector may have made: NumPy files, PNG of 8 or 16 bits, TIFF."""

from __future__ import annotations

import operator
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.lib import format as _format
from PIL import UnidentifiedImageError

from anomalyhub.data.folders import is_junk
from anomalyhub.data.images import MAX_PIXELS, _decode, _open
from anomalyhub.errors import InvalidDatasetError, InvalidImageError

#: Suffixes, in lower case, of the files of a folder that are taken for maps.
MAP_SUFFIXES = frozenset(".npy .png .tif .tiff".split())

_MAGIC = b"\x93NUMPY"
_REMEDY = "save each image's scores as one (H, W) array of numbers"


def read_map(path: str | Path) -> np.ndarray:
    """(H, W) raw scores: uint8 where the file has 8 bits or truth values (0 and 255), float32 otherwise.

    The content decides how the file is read, not its suffix. Grey pictures with three equal channels are read as one.

    Raises InvalidImageError for a file that is missing, empty, unreadable or damaged, of another shape, coloured,
    larger than MAX_PIXELS, or with a score that is NaN or infinite.
    """
    path = Path(path)
    with _open(path) as file:
        is_array = file.read(len(_MAGIC)) == _MAGIC
    values = _read_array(path) if is_array else _read_picture(path)
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return values
    with np.errstate(over="ignore"):
        scores = values.astype(np.float32)
    if bad := int(np.count_nonzero(~np.isfinite(scores))):
        raise InvalidImageError(
            f"{path} holds {bad} of {scores.size} scores that are NaN, infinite or beyond 32-bit floats: "
            "make this map again, or leave it out"
        )
    return scores


def _read_array(path: Path) -> np.ndarray:
    try:
        with _open(path) as file:
            version = _format.read_magic(file)
            shape, _, dtype = (_format.read_array_header_1_0 if version == (1, 0) else _format.read_array_header_2_0)(
                file
            )
            _check(path, shape, dtype)  # before anything is allocated
            file.seek(0)
            return np.load(file, allow_pickle=False)
    except InvalidImageError:
        raise
    except Exception as error:  # a header is a Python literal, which fails in many ways
        reason = " ".join(str(error).split())
        raise InvalidImageError(f"{path} is truncated or damaged ({reason}): copy or make the map again") from error


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 2 or 0 in shape:
        raise InvalidImageError(f"{path} has the shape {tuple(shape)}, not (H, W): {_REMEDY}")
    if dtype.kind not in "buif":
        raise InvalidImageError(f"{path} holds values of type {dtype}, not real numbers: {_REMEDY}")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise InvalidImageError(
            f"{path} has {shape[1]} x {shape[0]} pixels, the limit is {MAX_PIXELS / 1e6:g} million: scale it down"
        )


def _read_picture(path: Path) -> np.ndarray:
    try:
        image, _ = _decode(path, MAX_PIXELS)
    except InvalidImageError as error:
        values = _read_wide_tiff(path) if isinstance(error.__cause__, UnidentifiedImageError) else None
        if values is None:
            raise
        return values
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)
    channels = np.asarray(image.convert("RGB"))
    if image.has_transparency_data or (channels != channels[:, :, :1]).any():
        raise InvalidImageError(
            f"{path} is a coloured picture, not an anomaly map: give the raw scores, as .npy or as a grey PNG or TIFF"
        )
    return np.ascontiguousarray(channels[:, :, 0])


def _read_wide_tiff(path: Path) -> np.ndarray | None:
    """TIFF of 64-bit floats, which Pillow does not read; None for anything else."""
    import cv2

    data = path.read_bytes()
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return values if values is not None and values.dtype == np.float64 and values.ndim == 2 else None


class MapFolder(Sequence[np.ndarray]):
    """Maps on disk, read when they are asked for: an int index gives an array as `read_map` does, a slice a MapFolder.

    root   the folder
    files  paths below it, with forward slashes
    names  the same without the last suffix; unique
    """

    def __init__(self, root: Path, files: Iterable[str]):
        self.root, self.files = root, tuple(files)

    @classmethod
    def open(cls, path: str | Path) -> MapFolder:
        """All maps in a folder and below, sorted, or one file.

        Raises InvalidDatasetError when there is none, or two of one name. Nothing is decoded.
        """
        root = Path(os.path.abspath(Path(path).expanduser()))
        if root.is_file():
            return cls(root.parent, [root.name])
        if not root.exists():
            raise InvalidDatasetError(f"{path} does not exist: check the path and its spelling")
        folder = cls(root, sorted(_walk(root)))
        if not folder.files:
            raise InvalidDatasetError(f"{path} holds no anomaly maps: give a folder of .npy, .png or .tiff files")
        name, count = Counter(folder.names).most_common(1)[0]
        if count > 1:
            twins = " and ".join(file for file, its in zip(folder.files, folder.names, strict=True) if its == name)
            raise InvalidDatasetError(f"{path} holds {count} maps of one name, {twins}: keep one of them")
        return folder

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(_without_suffix(file) for file in self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return MapFolder(self.root, self.files[index])
        return read_map(self.root / self.files[operator.index(index)])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (read_map(self.root / file) for file in self.files)  # an IndexError in a decoder is not the end

    def for_images(self, ids: Sequence[str]) -> MapFolder:
        """The maps of images with these ids (relative paths), in their order; further maps are left out.

        A map belongs to an image when their paths are equal up to the suffix (`a/1.npy`, or `a/1.jpg.npy`, for
        `a/1.jpg`); when one path is the end of the other (`1.npy`, or `results/a/1.npy`); or when no other map and no
        other image has its name. Raises InvalidDatasetError for an image without a map and a map of two images.
        """
        matched = match_names(ids, self.names)
        missing = [image for image, index in zip(ids, matched, strict=True) if index is None]
        if missing:
            more = f" and {len(missing) - 1} other images" if len(missing) > 1 else ""
            raise InvalidDatasetError(
                f"{self.root} has no map for {missing[0]}{more}: name each map like its image, with another suffix"
            )
        index, count = Counter(matched).most_common(1)[0] if matched else (None, 0)
        if count > 1:
            twins = " and ".join(image for image, its in zip(ids, matched, strict=True) if its == index)
            raise InvalidDatasetError(
                f"{self.root / self.files[index]} could belong to {twins}: put the maps into folders like the images'"
            )
        return MapFolder(self.root, [self.files[index] for index in matched])


def _walk(root: Path) -> Iterator[str]:
    """Paths of map files below `root`; each real folder is entered once, which cuts loops of links."""
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not is_junk(name))
        for name in [] if real in seen else files:
            if os.path.splitext(name)[1].lower() in MAP_SUFFIXES and not is_junk(name):
                yield Path(folder, name).relative_to(root).as_posix()
        seen.add(real)


def _refuse(error: OSError) -> None:
    raise InvalidDatasetError(
        f"{error.filename} cannot be listed, {error.strerror}: check the path and give yourself read access"
    ) from error


def _without_suffix(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def match_names(ids: Sequence[str], names: Sequence[str], *, lone: bool = True) -> list[int | None]:
    """The index of the name that belongs to each image, or None; the rules of `MapFolder.for_images`.

    ids    images' relative paths
    names  paths without their last suffix
    lone   whether an image may have the only name with its last part, whatever the folders
    """
    place = {name: index for index, name in enumerate(names)}
    matched = [place.get(image, place.get(_without_suffix(image))) for image in ids]
    taken = {index for index in matched if index is not None}
    by_stem = defaultdict(list)
    for index, name in enumerate(names):
        if index not in taken:
            by_stem[PurePosixPath(name).name].append(index)
    stems = Counter(PurePosixPath(image).stem for image in ids)
    for at, image in enumerate(ids):
        if matched[at] is None:
            parts = PurePosixPath(_without_suffix(image)).parts
            candidates = by_stem[parts[-1]]
            common = [_common_end(parts, PurePosixPath(names[index]).parts) for index in candidates]
            ends = [
                (length, index)
                for length, index in zip(common, candidates, strict=True)
                if length == min(len(parts), len(PurePosixPath(names[index]).parts))
            ]
            if ends:
                matched[at] = max(ends)[1]
            elif lone and len(candidates) == 1 and stems[parts[-1]] == 1:
                matched[at] = candidates[0]
    return matched


def _common_end(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length
