"""Decoding of images and masks: pixel formats, orientation, damage, and the fit of masks to images."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from anomalyhub.data import check_image, images, read_image, read_mask
from anomalyhub.errors import InvalidArgumentError, InvalidImageError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def quadrants() -> np.ndarray:
    """(4, 6, 3): red, green over blue, white, so that every flip and transpose shows."""
    array = np.zeros((4, 6, 3), np.uint8)
    array[:2, :3], array[:2, 3:], array[2:, :3], array[2:, 3:] = RED, GREEN, BLUE, WHITE
    return array


def png_16_bit_rgb(array: np.ndarray) -> bytes:
    """(H, W, 3) uint16 as PNG, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def save(image: Image.Image | np.ndarray, path, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp", "gif"])
def test_lossless_formats_are_read_exactly_whatever_the_suffix_says(tmp_path, quadrants, suffix):
    formats = {"tif": "TIFF", "ppm": "PPM"}
    path = save(quadrants, tmp_path / "odd.jpeg", format=formats.get(suffix, suffix), **{"lossless": True})
    image = read_image(path)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, quadrants)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_gives_the_upright_image(tmp_path, quadrants, orientation, suffix):
    # what the camera stores: the inverse of what the viewer must do
    stored = {
        1: quadrants,
        2: quadrants[:, ::-1],
        3: quadrants[::-1, ::-1],
        4: quadrants[::-1],
        5: quadrants.swapaxes(0, 1),
        6: np.rot90(quadrants, 1),
        7: np.rot90(quadrants.swapaxes(0, 1), 2),
        8: np.rot90(quadrants, -1),
    }[orientation]
    big = np.ascontiguousarray(stored.repeat(16, 0).repeat(16, 1))  # JPEG is exact on uniform blocks
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    image = read_image(save(big, tmp_path / f"x.{suffix}", exif=exif, **options))
    expected = quadrants.repeat(16, 0).repeat(16, 1)
    assert image.shape == expected.shape == (64, 96, 3)
    np.testing.assert_allclose(image.astype(int), expected, atol=3)


def test_damaged_exif_does_not_spoil_the_pixels(tmp_path, quadrants):
    path = save(quadrants, tmp_path / "x.webp", lossless=True, exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    np.testing.assert_array_equal(read_image(path), quadrants)


GREYS_16 = np.array([[0, 255, 256, 32768, 65280, 65535]] * 4, np.uint16)
GREYS_8 = np.array([[0, 0, 1, 128, 255, 255]] * 4, np.uint8)
FLOATS = np.linspace(0, 1, 6, dtype=np.float32)[None].repeat(4, 0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # 16-bit keeps the high byte, in every container and for colour as for grey
        (lambda p: save(GREYS_16, p / "x.png"), GREYS_8),
        (lambda p: save(GREYS_16, p / "x.tif"), GREYS_8),
        (lambda p: save(GREYS_16, p / "x.tif", compression="tiff_lzw"), GREYS_8),
        (lambda p: save(Image.fromarray(GREYS_16.astype(np.int32)), p / "x.pgm"), GREYS_8),
        # never the image's own maximum: a dark 16-bit image stays dark
        (lambda p: save(np.full((4, 6), 512, np.uint16), p / "x.png"), np.full((4, 6), 2)),
        # float in [0, 1]
        (lambda p: save(FLOATS, p / "x.tif"), np.rint(FLOATS * 255)),
        # bilevel, and grey with and without alpha; half transparent black on white is middle grey
        (lambda p: save(Image.fromarray(GREYS_8 > 100), p / "x.png"), (GREYS_8 > 100) * 255),
        (lambda p: save(GREYS_8, p / "x.png"), GREYS_8),
        (lambda p: save(Image.new("LA", (6, 4), (0, 128)), p / "x.png"), np.full((4, 6), 127)),
        # a colour key
        (lambda p: save(Image.new("L", (6, 4), 7), p / "x.png", transparency=7), np.full((4, 6), 255)),
    ],
)
def test_grey_images_become_three_equal_channels(tmp_path, make, expected):
    image = read_image(make(tmp_path))
    assert image.shape == (4, 6, 3)
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel], expected)


def test_16_bit_rgb_keeps_the_high_byte_of_each_channel(tmp_path):
    array = np.zeros((2, 3, 3), np.uint16)
    array[..., 0], array[..., 1], array[0, 0, 2] = 65535, 256, 0x8040
    (tmp_path / "x.png").write_bytes(png_16_bit_rgb(array))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), (array >> 8).astype(np.uint8))


def test_alpha_and_palettes_are_composited_on_white(tmp_path):
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0, 0], rgba[0, 1], rgba[1, 2] = (255, 0, 0, 255), (0, 0, 255, 128), (9, 9, 9, 0)
    expected = np.full((2, 3, 3), 255, np.uint8)
    expected[0, 0], expected[0, 1] = RED, (127, 127, 255)
    np.testing.assert_array_equal(read_image(save(rgba, tmp_path / "rgba.png")), expected)

    palette = Image.new("P", (3, 2), 0)
    palette.putpalette([*GREEN, *RED])
    palette.putpixel((2, 0), 1)
    opaque = np.full((2, 3, 3), GREEN, np.uint8)
    opaque[0, 2] = RED
    np.testing.assert_array_equal(read_image(save(palette, tmp_path / "p.png")), opaque)
    np.testing.assert_array_equal(read_image(save(palette, tmp_path / "pt.png", transparency=b"\0\xff"))[0, 0], WHITE)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_not_inverted(tmp_path, suffix):
    """JPEG holds inverted CMYK with Adobe's marker, TIFF plain CMYK: both are this orange."""
    path = save(Image.new("CMYK", (24, 16), (0, 128, 255, 0)), tmp_path / f"x.{suffix}")
    assert suffix == "tif" or b"Adobe" in path.read_bytes()
    image = read_image(path)
    assert image.shape == (16, 24, 3)
    np.testing.assert_allclose(image.reshape(-1, 3).astype(int), [[255, 127, 0]] * 384, atol=4)


def test_first_page_of_several_is_taken(tmp_path, quadrants):
    other = Image.new("RGB", (9, 9))
    path = save(quadrants, tmp_path / "x.tif", save_all=True, append_images=[other])
    np.testing.assert_array_equal(read_image(path), quadrants)


def truncated(path, share=0.6):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    save(noise, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def written(path, data: bytes):
    path.write_bytes(data)
    return path


def huge_png(path, width, height):
    """Only the header says how large it is."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return written(path, bytes(data))


def linked(path, target):
    path.symlink_to(target)
    return path


def pipe(path):
    os.mkfifo(path)
    return path


BAD_IMAGES = [
    # case, maker, fragment of the message
    ("missing file", lambda p: p / "no.png", "no.png does not exist"),
    ("empty file", lambda p: written(p / "x.png", b""), "x.png is empty"),
    ("a folder", lambda p: p, "is a folder"),
    ("text", lambda p: written(p / "x.png", b"hello, world" * 9), "x.png is not an image of a supported kind"),
    ("only a signature", lambda p: written(p / "x.png", b"\x89PNG\r\n\x1a\n"), "is not an image of a supported kind"),
    ("a program that PIL would run", lambda p: written(p / "x.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n"), "supported kind"),
    ("truncated PNG", lambda p: truncated(p / "x.png"), "x.png is truncated or damaged"),
    ("truncated JPEG", lambda p: truncated(p / "x.jpg"), "x.jpg is truncated or damaged"),
    ("truncated TIFF", lambda p: truncated(p / "x.tif"), "x.tif is truncated or damaged"),
    ("truncated BMP", lambda p: truncated(p / "x.bmp"), "x.bmp is truncated or damaged"),
    ("truncated WebP", lambda p: truncated(p / "x.webp"), "x.webp is"),
    ("101 million pixels", lambda p: huge_png(p / "x.png", 10100, 10000), "the limit is 100 million"),
    ("10 billion pixels", lambda p: huge_png(p / "x.png", 100000, 100000), "the limit is 100 million"),
    ("float above 1", lambda p: save(FLOATS * 255, p / "x.tif"), "float pixels outside [0, 1], from 0 to 255"),
    ("float below 0", lambda p: save(FLOATS - 0.5, p / "x.tif"), "outside [0, 1], from -0.5 to 0.5"),
    ("float with NaN", lambda p: save(FLOATS * np.nan, p / "x.tif"), "float pixels outside [0, 1]"),
    ("32-bit integers", lambda p: save(GREYS_16.astype(np.int32), p / "x.tif"), "32-bit or signed pixels"),
    ("a link to nothing", lambda p: linked(p / "x.png", "no.png"), "x.png does not exist"),
    ("a link to itself", lambda p: linked(p / "x.png", "x.png"), "x.png cannot be read"),
    ("a pipe", lambda p: pipe(p / "x.png"), "x.png is not a regular file"),
]


@pytest.mark.parametrize(("make", "fragment"), [row[1:] for row in BAD_IMAGES], ids=[row[0] for row in BAD_IMAGES])
def test_bad_images_name_the_file_the_reason_and_the_remedy(tmp_path, make, fragment):
    path = make(tmp_path)
    for read in (read_image, check_image):
        with pytest.raises(InvalidImageError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(str(path)) and fragment in message
        assert ": " in message and "\n" not in message


def test_permission_denied_is_said(tmp_path, quadrants, monkeypatch):
    path = save(quadrants, tmp_path / "x.png")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(images, "open", refuse, raising=False)  # root may read anything, so chmod would not do
    with pytest.raises(InvalidImageError, match="x.png cannot be read, permission denied"):
        read_image(path)


def test_the_pixel_limit_is_the_callers_and_inclusive(tmp_path, quadrants):
    path = save(quadrants, tmp_path / "x.png")
    assert read_image(path, max_pixels=24).shape == (4, 6, 3)
    with pytest.raises(InvalidImageError, match="6 x 4 pixels"):
        read_image(path, max_pixels=23)


def test_check_image_accepts_what_read_image_reads(tmp_path, quadrants):
    save(quadrants.repeat(20, 0).repeat(20, 1), tmp_path / "x.jpg")
    save(Image.new("CMYK", (24, 16)), tmp_path / "c.jpg")
    save(GREYS_16, tmp_path / "x.png")
    for name in ("x.jpg", "c.jpg", "x.png"):
        assert check_image(tmp_path / name) is None


# --- masks ---


def mask_file(path, values, **options):
    return save(values if isinstance(values, Image.Image) else np.array(values, np.uint8), path, **options)


@pytest.mark.parametrize(
    ("values", "rule", "expected"),
    [
        # half of the file's own maximum, above it and not at it
        ([[0, 100, 127, 128, 200, 255]], "half", [0, 0, 0, 1, 1, 1]),
        ([[0, 1, 0, 1, 0, 1]], "half", [0, 1, 0, 1, 0, 1]),
        ([[0, 50, 100, 100, 51, 49]], "half", [0, 0, 1, 1, 1, 0]),
        ([[0, 0, 0, 0, 0, 0]], "half", [0, 0, 0, 0, 0, 0]),
        ([[9, 9, 9, 9, 9, 9]], "half", [1, 1, 1, 1, 1, 1]),
        # label masks: small numbers beside large ones
        ([[0, 1, 2, 3, 255, 0]], "nonzero", [0, 1, 1, 1, 1, 0]),
        ([[0, 0, 0, 0, 0, 0]], "nonzero", [0, 0, 0, 0, 0, 0]),
    ],
)
def test_mask_rules(tmp_path, values, rule, expected):
    mask = read_mask(mask_file(tmp_path / "m.png", values), (1, 6), rule)
    assert mask.dtype == bool and mask.shape == (1, 6)
    np.testing.assert_array_equal(mask[0], np.array(expected, bool))


def test_masks_in_other_pixel_formats(tmp_path):
    truth = np.zeros((4, 6), bool)
    truth[1, 2:5] = True
    grey = (truth * 255).astype(np.uint8)
    blue = np.zeros((4, 6, 3), np.uint8)
    blue[truth] = BLUE
    painted = np.dstack([np.full((4, 6, 3), 255, np.uint8), grey])  # white paint on nothing
    inverted = Image.fromarray((~truth).astype(np.uint8)).convert("P")
    inverted.putpalette([*WHITE, 0, 0, 0])  # index 0 is white: the colours count, not the numbers
    files = {
        "bilevel": Image.fromarray(truth),
        "16 bit": Image.fromarray((truth * 60000).astype(np.uint16)),
        "colour": Image.fromarray(blue),
        "alpha": Image.fromarray(painted),
        "palette": inverted,
    }
    for name, image in files.items():
        mask = read_mask(save(image, tmp_path / f"{name}.png"), (4, 6))
        np.testing.assert_array_equal(mask, truth, err_msg=name)
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png", (4, 6), "nonzero"), ~truth)


def test_several_masks_are_united_each_by_its_own_maximum(tmp_path):
    first = mask_file(tmp_path / "0.png", [[0, 255, 100]])
    second = mask_file(tmp_path / "1.png", [[4, 0, 1]])
    np.testing.assert_array_equal(read_mask([first, second], (1, 3)), [[True, True, False]])
    np.testing.assert_array_equal(read_mask([], (1, 3)), [[False] * 3])


def test_a_mask_of_another_size_is_fitted_after_thresholding(tmp_path):
    values = np.zeros((4, 6), np.uint8)
    values[:2, :3], values[2, 0] = 255, 120  # 120 is below the threshold, and must not come back by interpolation
    mask = read_mask(mask_file(tmp_path / "m.png", values), (8, 12))
    expected = np.zeros((8, 12), bool)
    expected[:4, :6] = True
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (2, 3)), [[True, False, False], [False] * 3])


def test_a_mask_of_another_aspect_ratio_is_refused(tmp_path):
    path = mask_file(tmp_path / "m.png", np.zeros((40, 60)))
    assert read_mask(path, (80, 116)).shape == (80, 116)  # 3.4 % off
    for shape in ((80, 112), (80, 130), (60, 40)):  # 7 %, 8 %, transposed
        with pytest.raises(InvalidImageError, match=r"m.png is 60 x 40 pixels, its image .* another aspect ratio"):
            read_mask(path, shape)


def test_the_orientation_of_a_mask_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = mask_file(tmp_path / "m.png", [[255, 0, 0], [0, 0, 0]], exif=exif)
    np.testing.assert_array_equal(read_mask(path, (3, 2)), [[False, True], [False, False], [False, False]])


def test_an_unknown_rule_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="unknown mask rule 'otsu': choose one of half, nonzero"):
        read_mask([], (1, 1), "otsu")
