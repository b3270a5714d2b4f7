"""Decoding of image and mask files: the content of a file decides how it is read, never its suffix."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from anomalyhub.errors import InvalidArgumentError, InvalidImageError

MaskRule = Literal["half", "nonzero"]

#: Larger images are refused from their header, before anything is decoded.
MAX_PIXELS = 100_000_000

#: Suffixes, in lower case, of the files of a folder that are taken for images.
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .tif .tiff .bmp .webp .pgm .ppm".split())

#: A mask may differ from its image's aspect ratio by this much, not more.
ASPECT_TOLERANCE = 0.05

# Naming the formats keeps Pillow away from those that run programs or have no pixels (EPS, WMF, ...).
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF")
_EXIF_ORIENTATION = 0x0112

# Pillow's own guard warns at 89 million pixels; ours is the one limit of this process, and an error.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Encoded:
    """An image file that is part of another file, such as a row of a table.

    name  what messages call it, fit for a terminal     data  its bytes
    """

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


#: Where an image's bytes are.
Source = str | Path | Encoded


def read_image(path: Source, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file to (H, W, 3) uint8 RGB, upright.

    The orientation of EXIF or XMP is applied, alpha is composited on white, and the first page or frame is taken.
    16-bit grey and RGB keep their high byte: the full 16-bit range maps to 0..255, never the single image's own range,
    so that images stay comparable. Float pixels must lie in [0, 1]. Colour profiles are not applied.

    Raises InvalidImageError for a file that is missing, empty, unreadable, truncated, no image, larger than
    `max_pixels` (at most MAX_PIXELS), or of pixels without a known range (32-bit integers, floats outside [0, 1]).
    """
    array, orientation = _rgb(_source(path), max_pixels)
    return _upright(array, orientation)


def check_image(path: Source, *, max_pixels: int = MAX_PIXELS) -> None:
    """Raise the InvalidImageError that `read_image` would raise; several times quicker on JPEG files."""
    _rgb(_source(path), max_pixels, quick=True)


def read_mask(paths: Source | Iterable[Source], shape: tuple[int, int], rule: MaskRule = "half") -> np.ndarray:
    """Decode one or several mask files to their union, (H, W) bool in the frame of an image of `shape` (H, W).

    rule  "half": above half of the file's own maximum, for anti-aliased masks; a file of zeros is an empty mask.
          "nonzero": any value above 0, for label masks; in a palette file the value is the index.

    A mask of another size is fitted to `shape` by nearest neighbour, after thresholding. Raises InvalidImageError as
    `read_image` does, and when the aspect ratios differ by more than 5 %.
    """
    if rule not in ("half", "nonzero"):
        raise InvalidArgumentError(f"unknown mask rule {rule!r}: choose one of half, nonzero")
    union = np.zeros(shape, bool)
    for path in map(_source, [paths] if isinstance(paths, (str, Path, Encoded)) else paths):
        image, orientation = _decode(path, MAX_PIXELS)
        values = _upright(_to_values(image, rule), orientation)
        mask = values > (values.max() / 2 if rule == "half" else 0)
        union |= _fitted(mask, shape, path)
    return union


def read_file(path: str | Path) -> Encoded:
    """An image file's bytes, undecoded. Raises InvalidImageError where it cannot be read."""
    with _open(Path(path)) as file:
        return Encoded(str(path), file.read())


def _source(path: Source) -> Path | Encoded:
    return path if isinstance(path, Encoded) else Path(path)


def _decode(path: Path | Encoded, max_pixels: int, quick: bool = False) -> tuple[Image.Image, int]:
    """A loaded image in the file's own mode, and the EXIF orientation (1 to 8) still to be applied."""
    max_pixels = min(max_pixels, MAX_PIXELS)
    with _open(path) as file:
        try:
            image = Image.open(file, formats=_FORMATS)
            if image.width * image.height > max_pixels:
                raise _too_large(path, max_pixels, f"{image.width} x {image.height} pixels")
            if quick and image.format in ("JPEG", "MPO"):
                image.draft(None, (1, 1))  # decodes the whole stream, at an eighth of the size
            image.load()
        except InvalidImageError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(path, max_pixels, "too many pixels") from error
        except UnidentifiedImageError as error:
            raise InvalidImageError(
                f"{path} is not an image of a supported kind: export it as PNG, JPEG, TIFF, BMP or WebP"
            ) from error
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and others on damaged files
            raise _damaged(path, error) from error
        return image, _orientation(image)


def _open(path: Path | Encoded) -> BinaryIO:
    """Open a regular file that holds at least one byte."""
    if isinstance(path, Encoded):
        if not path.data:
            raise InvalidImageError(f"{path} is empty: store the image again or leave it out")
        return io.BytesIO(path.data)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InvalidImageError(f"{path} is a folder, not an image: give one of its files")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise InvalidImageError(f"{path} is not a regular file: give an image file")
        if status.st_size == 0:
            raise InvalidImageError(f"{path} is empty: copy the image again or remove the file")
        return open(path, "rb")
    except InvalidImageError:  # which is a ValueError
        raise
    except FileNotFoundError as error:
        raise InvalidImageError(f"{path} does not exist: check the path and its spelling") from error
    except PermissionError as error:
        raise InvalidImageError(f"{path} cannot be read, permission denied: give yourself read access") from error
    except (OSError, ValueError) as error:  # the latter for a NUL in a name
        reason = getattr(error, "strerror", None) or error
        raise InvalidImageError(f"{path} cannot be read, {reason}: check the path and the disk") from error


def _too_large(path: Path | Encoded, max_pixels: int, what: str) -> InvalidImageError:
    limit = f"{max_pixels / 1e6:g} million"
    return InvalidImageError(f"{path} has {what}, the limit is {limit}: scale it down or cut it up")


def _damaged(path: Path | Encoded, error: Exception) -> InvalidImageError:
    reason = str(error).strip() or type(error).__name__
    return InvalidImageError(f"{path} is truncated or damaged ({reason}): copy or export the image again")


def _orientation(image: Image.Image) -> int:
    try:  # after loading: PNG may carry it behind the pixels, and TIFF files are already upright then
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata does not spoil the pixels
        return 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to (H, W, ...); values other than 2 to 8 change nothing."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def _rgb(path: Path | Encoded, max_pixels: int, quick: bool = False) -> tuple[np.ndarray, int]:
    """(H, W, 3) uint8 as stored and the orientation still to be applied; `quick` may shrink the image."""
    image, orientation = _decode(path, max_pixels, quick)
    try:
        return _to_rgb(image, path), orientation
    except InvalidImageError:
        raise
    except (ValueError, OSError) as error:  # colour spaces that Pillow cannot convert, such as LAB
        raise _damaged(path, error) from error


def _to_rgb(image: Image.Image, path: Path | Encoded) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.repeat(_grey_to_8_bit(image, path)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _grey_to_8_bit(image: Image.Image, path: Path | Encoded) -> np.ndarray:
    """(H, W) uint8 of single-channel pixels of more than 8 bits."""
    values = np.asarray(image)
    if image.mode == "F":
        if not ((values >= 0) & (values <= 1)).all():  # also false for NaN
            raise InvalidImageError(
                f"{path} has float pixels outside [0, 1], from {values.min():g} to {values.max():g}: "
                "scale all images by one common factor, or export them as 16-bit"
            )
        return np.rint(values * 255).astype(np.uint8)
    # Pillow gives 16-bit PNG (before 11.3) and PGM as mode I; in a TIFF that mode means 32-bit or signed pixels
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise InvalidImageError(f"{path} has 32-bit or signed pixels of unknown range: export it as 16-bit unsigned")
    return (values >> 8).astype(np.uint8)


def _to_values(image: Image.Image, rule: MaskRule) -> np.ndarray:
    """(H, W) values of a mask image in the file's own depth; the brightest channel of a colour image."""
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16") or (image.mode == "P" and rule == "nonzero"):
        return np.nan_to_num(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return np.asarray(image.convert("RGB")).max(axis=2)


def _fitted(mask: np.ndarray, shape: tuple[int, int], path: Path | Encoded) -> np.ndarray:
    """`mask` at `shape` by nearest neighbour."""
    if mask.shape == tuple(shape):
        return mask
    (height, width), (image_height, image_width) = mask.shape, shape
    stretch = (width / height) / (image_width / image_height)
    if max(stretch, 1 / stretch) > 1 + ASPECT_TOLERANCE:
        raise InvalidImageError(
            f"{path} is {width} x {height} pixels, its image {image_width} x {image_height}: another aspect ratio, "
            "so it is not the mask of this image; remove or replace it"
        )
    small = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(small.resize((image_width, image_height), Image.Resampling.NEAREST)).astype(bool)
