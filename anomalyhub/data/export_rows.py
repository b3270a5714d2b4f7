"""What is exported of an image, and the names of files and folders that any system and store takes."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from anomalyhub.data.folders import is_image_name
from anomalyhub.data.rows import suffix_of
from anomalyhub.data.samples import SampleRef
from anomalyhub.hub.contents import is_device
from anomalyhub.protocols import Progress
from anomalyhub.types import GOOD, Box

_LONGEST = 100
_TAKEN = frozenset({"train", "test", "validation", "ground_truth", "split_csv", "data", "good", "ok", "normal"})


@dataclass(frozen=True)
class Row:
    """One image as it is exported: its file's bytes and suffix, and its mask as a PNG."""

    id: str
    label: str | None
    image: bytes
    suffix: str
    mask: bytes | None
    boxes: tuple[Box, ...] | None


@dataclass(frozen=True)
class Part:
    """A split of a product, with what to call the product and its classes in files and configs."""

    product: str
    split: str  # "train" or "test"
    refs: tuple[SampleRef, ...]
    is_both: bool
    classes: tuple[str, ...]  # "good" first

    @property
    def class_names(self) -> list[str]:
        """The classes as text, all different."""
        return unique(map(_text, self.classes))

    def rows(self, progress: Progress) -> Iterator[Row]:
        for done, (ref, name) in enumerate(zip(self.refs, _ids(self.refs), strict=True)):
            progress(done / len(self.refs), f"{self.product}: {name}")
            yield make_row(ref, name)


def make_row(ref: SampleRef, name: str) -> Row:
    """What is exported of an image. Raises InvalidImageError."""
    sample, encoded = ref.load(), ref.encoded()
    data = encoded.data
    if not _reads_alike(data, sample.image):
        data = png(sample.image)
    mask, boxes = None, None
    if sample.label == GOOD:
        boxes = ()
    elif sample.mask is not None:
        mask, boxes = _mask_file(ref, sample.mask), _boxes(sample.mask)
    suffix = suffix_of(data) if data is not encoded.data else _suffix(encoded.name, data)
    return Row(name, sample.label, data, suffix, mask, boxes)


def _reads_alike(data: bytes, image: np.ndarray) -> bool:
    """Whether `datasets` decodes a file, and upright as here."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            if opened.getexif().get(0x0112) is not None:  # the orientation
                opened = ImageOps.exif_transpose(opened)
            return opened.size == image.shape[1::-1]
    except Exception:  # whatever Pillow raises, such as for damaged metadata
        return False


def _suffix(name: str, data: bytes) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if is_image_name(f"x{suffix}") else suffix_of(data)


def png(array: np.ndarray) -> bytes:
    """A PNG file of (H, W, 3) uint8 RGB, or (H, W) uint8."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", compress_level=3)
    return file.getvalue()


def _mask_file(ref: SampleRef, mask: np.ndarray) -> bytes:
    """The mask's own file where that is one and the same, else a new one."""
    values, own = mask.astype(np.uint8) * 255, ref.encoded_masks()
    if len(own) == 1:
        # what is wrong with its metadata, the new one does not have
        with suppress(Exception), Image.open(io.BytesIO(own[0].data)) as opened:
            if opened.format == "PNG" and opened.mode == "L" and not opened.getexif():
                if np.array_equal(np.asarray(opened), values):
                    return own[0].data
    return png(values)


def _boxes(mask: np.ndarray) -> tuple[Box, ...]:
    """Half-open boxes of a mask's connected components, 8 neighbours, in the order of their first pixels."""
    import cv2

    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return tuple((int(x), int(y), int(x + w), int(y + h)) for x, y, w, h, _ in stats[1:])


def _ids(refs: Iterable[SampleRef]) -> list[str]:
    """Ids that are text, all different."""
    return unique(_text(ref.id) for ref in refs)


def _text(name: str) -> str:
    return "".join(one if one.isprintable() else "_" for one in name)


def unique(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """The names, with -2, -3 … behind those that are there already, whatever their case."""
    seen, found = {one.casefold() for one in taken}, []
    for name in names:
        one, number = name, 2
        while one.casefold() in seen:
            one, number = f"{name}-{number}", number + 1
        seen.add(one.casefold())
        found.append(one)
    return found


def folder_name(name: str) -> str:
    """A name as a file's or folder's on any system and in any store, at most 100 bytes."""
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    name = re.sub(r"[^\w .()+=,-]+", "_", name)
    while len(name.encode()) > _LONGEST:
        name = name[1:]
    name = re.sub("^_+", "_", name.strip(" .")) or "_"  # `datasets` passes folders over that begin with two
    return f"_{name}" if is_device(name) else name


def folder_names(products: Iterable[str]) -> list[str]:
    """Folders of products, all different, which no layout takes for a part of a data set."""
    names = map(folder_name, products)
    return unique(f"{name}_product" if name.casefold() in _TAKEN else name for name in names)
