"""Anomaly maps that another tool has written: decoding, listing, matching to images."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalyhub.data import images
from anomalyhub.data.maps import MapFolder, read_map
from anomalyhub.errors import InvalidDatasetError, InvalidImageError

RAW = np.linspace(-3, 5, 35, dtype=np.float32).reshape(5, 7)  # not square
EIGHT = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
DEEP = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800


def npy(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def picture(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(array: np.ndarray, kind: str, **options) -> bytes:
    return picture(Image.fromarray(array), kind, **options)


def tiff64(array: np.ndarray) -> bytes:
    return cv2.imencode(".tiff", array.astype(np.float64))[1].tobytes()


GREY_AS_RGB = np.repeat(EIGHT[:, :, None], 3, axis=2)
COLOURED = GREY_AS_RGB + np.array([0, 0, 9], np.uint8)
BAD = RAW.copy()
BAD[1, 2], BAD[4, 6] = np.nan, np.inf
HEADER = npy(RAW)[:128]  # of 5 x 7 float32


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.npy", npy(RAW), RAW),
        ("a.npy", npy(np.asfortranarray(RAW)), RAW),
        ("a.npy", npy(RAW.astype(">f8")), RAW),
        ("a.npy", npy(RAW.astype(np.float16)), RAW.astype(np.float16).astype(np.float32)),
        ("a.npy", npy(EIGHT), EIGHT),  # 8 bits stay 8 bits
        ("a.npy", npy(DEEP), DEEP.astype(np.float32)),
        ("a.npy", npy(EIGHT > 100), np.where(EIGHT > 100, 255, 0).astype(np.uint8)),
        ("a.npy", npy(EIGHT.astype(np.int64) - 100), EIGHT.astype(np.float32) - 100),
        ("a.png", grey(EIGHT, "PNG"), EIGHT),
        ("a.png", grey(DEEP, "PNG"), DEEP.astype(np.float32)),
        ("a.png", grey(GREY_AS_RGB, "PNG"), EIGHT),  # as cv2.imwrite makes of a grey image read as colour
        ("a.png", picture(Image.fromarray(EIGHT > 100), "PNG"), np.where(EIGHT > 100, 255, 0).astype(np.uint8)),
        ("a.tiff", grey(RAW, "TIFF"), RAW),
        ("a.TIF", grey(RAW, "TIFF", compression="tiff_lzw"), RAW),
        ("a.tiff", grey(DEEP, "TIFF"), DEEP.astype(np.float32)),
        ("a.tiff", grey(EIGHT, "TIFF"), EIGHT),
        ("a.tiff", tiff64(RAW), RAW),
        ("a.png", npy(RAW), RAW),  # the content decides
        ("a.npy", grey(EIGHT, "PNG"), EIGHT),
    ],
)
def test_what_is_read(tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    scores = read_map(tmp_path / name)
    assert scores.dtype == expected.dtype and scores.dtype in (np.uint8, np.float32)
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.npy", b"", "a.npy is empty"),
        ("a.npy", None, "a.npy does not exist"),
        ("a.npy", npy(BAD), "a.npy holds 2 of 35 scores that are NaN, infinite or beyond.*leave it out"),
        ("a.tiff", grey(BAD, "TIFF"), "a.tiff holds 2 of 35 scores that are NaN"),
        ("a.npy", npy(RAW.astype(np.float64) * 1e300), "35 of 35 scores.*beyond 32-bit floats"),
        ("a.npy", npy(np.zeros((3, 5, 7))), r"the shape \(3, 5, 7\), not \(H, W\): save each image's"),
        ("a.npy", npy(np.zeros(7)), r"the shape \(7,\), not \(H, W\)"),
        ("a.npy", npy(np.zeros((0, 7))), r"the shape \(0, 7\)"),
        ("a.npy", npy(RAW.astype(complex)), "type complex128, not real numbers"),
        ("a.npy", npy(np.array([["a", "b"]])), "type <U1, not real numbers"),
        ("a.npy", npy(np.array([[None]]), allow_pickle=True), "type object, not real numbers"),  # nothing is unpickled
        ("a.npy", npy(RAW)[:-5], "a.npy is truncated or damaged"),
        ("a.npy", HEADER[:20], "a.npy is truncated or damaged"),
        ("a.npy", HEADER.replace(b"(5, 7)", b"(5, x)"), "a.npy is truncated or damaged"),
        ("a.npy", HEADER.replace(b"(5, 7)", b"(((((("), "a.npy is truncated or damaged"),
        ("a.npy", HEADER.replace(b"(5, 7), }  ", b"(99999, 9999), }"), "9999 x 99999 pixels, the limit is 100 million"),
        ("a.png", b"no picture", "a.png is not an image of a supported kind"),
        ("a.png", grey(EIGHT, "PNG")[:50], "a.png is truncated or damaged"),
        ("a.tiff", tiff64(RAW)[:40], "a.tiff is truncated or damaged"),
        ("a.png", grey(COLOURED, "PNG"), "a.png is a coloured picture, not an anomaly map: give the raw scores"),
        ("a.png", picture(Image.fromarray(EIGHT).convert("LA"), "PNG"), "a.png is a coloured picture"),
    ],
)
def test_what_is_refused(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidImageError, match=message):
        read_map(tmp_path / name)


def test_a_map_that_is_too_large(tmp_path, monkeypatch):
    from anomalyhub.data import maps

    monkeypatch.setattr(maps, "MAX_PIXELS", 34)
    monkeypatch.setattr(images, "MAX_PIXELS", 34)
    for name, data in (("a.npy", npy(RAW)), ("a.png", grey(EIGHT, "PNG"))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidImageError, match="7 x 5 pixels, the limit is 3.4e-05 million: scale it down"):
            read_map(tmp_path / name)


# ---------------------------------------------------------------------------------------------------- folders


def fill(folder, *files: str) -> MapFolder:
    for value, file in enumerate(files):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(npy(RAW + value) if path.suffix == ".npy" else grey(EIGHT, "PNG"))
    return MapFolder.open(folder)


def test_a_folder_is_a_lazy_sequence(tmp_path):
    maps = fill(tmp_path, "b/1.npy", "b/2.TIFF", "a.b.npy", ".hidden.npy", "__MACOSX/x.npy", "notes.txt", "b/0.npy")
    assert maps.files == ("a.b.npy", "b/0.npy", "b/1.npy", "b/2.TIFF")
    assert maps.names == ("a.b", "b/0", "b/1", "b/2")
    assert len(maps) == 4 and np.array_equal(maps[0], RAW + 2) and np.array_equal(maps[-1], EIGHT)
    assert maps[1:3].names == ("b/0", "b/1") and [m.dtype for m in maps[2:]] == [np.float32, np.uint8]
    (tmp_path / "b/0.npy").write_bytes(b"")  # found out when it is asked for
    with pytest.raises(InvalidImageError, match="0.npy is empty"):
        list(maps)


def test_links_in_a_loop_and_a_single_file(tmp_path):
    fill(tmp_path / "maps", "a/1.npy")
    (tmp_path / "maps/a/again").symlink_to(tmp_path / "maps", target_is_directory=True)
    assert MapFolder.open(tmp_path / "maps").names == ("a/1",)
    one = MapFolder.open(tmp_path / "maps/a/1.npy")
    assert one.files == ("1.npy",) and np.array_equal(one[0], RAW)


@pytest.mark.parametrize(
    ("files", "ids", "expected"),
    [
        # equal paths, as predict writes them
        (["x/1.npy", "y/1.npy"], ["y/1.png", "x/1.jpg"], ["y/1.npy", "x/1.npy"]),
        (["a.npy", "a.png.npy"], ["a.jpg", "a.png"], ["a.npy", "a.png.npy"]),
        (["a.jpg.png"], ["a.jpg"], ["a.jpg.png"]),
        # one path ends like the other
        (["bent/1.npy", "good/1.npy"], ["test/good/1.png", "test/bent/1.png"], ["good/1.npy", "bent/1.npy"]),
        (["out/bent/1.npy", "out/good/1.npy"], ["good/1.png", "bent/1.png"], ["out/good/1.npy", "out/bent/1.npy"]),
        (["1.npy", "bent/1.npy"], ["test/bent/1.png", "test/good/1.png"], ["bent/1.npy", "1.npy"]),
        # no other of its name
        (["scores/7.npy", "scores/8.npy"], ["test/bent/8.png"], ["scores/8.npy"]),
        ([], [], []),
    ],
)
def test_matching(tmp_path, files, ids, expected):
    maps = fill(tmp_path, "unused.npy", *files)
    matched = maps.for_images(ids).files
    assert matched == tuple(expected)


@pytest.mark.parametrize(
    ("files", "ids", "message"),
    [
        (["a.npy"], ["b.png", "c.png", "d.png"], "no map for b.png and 2 other images: name each map like its image"),
        (["a.npy"], ["b.png"], "no map for b.png: name"),
        (["bent/1.npy"], ["test/good/1.png", "test/bent/1.png"], "no map for test/good/1.png: name"),  # not another's
        (["x/1.npy", "y/1.npy"], ["z/1.png"], "no map for z/1.png"),  # either could be meant
        (["1.npy"], ["bent/1.png", "good/1.png"], "1.npy could belong to bent/1.png and good/1.png: put the maps"),
    ],
)
def test_images_without_a_map_of_their_own(tmp_path, files, ids, message):
    maps = fill(tmp_path, *files)
    with pytest.raises(InvalidDatasetError, match=message):
        maps.for_images(ids)


def test_folders_that_hold_no_maps(tmp_path):
    with pytest.raises(InvalidDatasetError, match="nowhere does not exist: check"):
        MapFolder.open(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no map")
    with pytest.raises(InvalidDatasetError, match="holds no anomaly maps: give a folder of .npy, .png or .tiff"):
        MapFolder.open(tmp_path)
    with pytest.raises(InvalidDatasetError, match="2 maps of one name, a/1.npy and a/1.png: keep one"):
        fill(tmp_path, "a/1.npy", "a/1.png", "a/2.png")
