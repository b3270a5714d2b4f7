"""Textures: those of a folder as they are, one per class; those that are drawn differ, and repeat without a seam."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from anomalyhub.errors import InvalidDatasetError, InvalidImageError
from anomalyhub.synthesis import load_textures
from anomalyhub.synthesis.names import safe_names


@pytest.fixture(scope="module")
def drawn():
    return load_textures()


def flat(path, colour, size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_at_least_47_are_drawn(drawn):
    assert len(drawn) == len(set(drawn.names)) >= 47 and drawn.source == "procedural"
    again = load_textures()
    for index in range(len(drawn)):
        image = drawn.image(index)
        assert image.dtype == np.uint8 and image.shape == (256, 256, 3)
        assert np.array_equal(image, again.image(index)) and image.std(axis=(0, 1)).max() > 8


def spectrum(image: np.ndarray) -> np.ndarray:
    """How fine and in which direction the pattern is, without its colours: the power in 9 x 8 boxes of frequencies."""
    grey = image.astype(np.float64) @ (0.3, 0.6, 0.1)
    window = np.outer(*[np.hanning(len(grey))] * 2)
    power = np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) / (grey.std() + 1e-9) * window)))
    y, x = np.mgrid[: len(grey), : len(grey)] - len(grey) // 2
    ring = np.digitize(np.hypot(y, x), 2.0 ** np.arange(1, 6, 0.6))
    ray = ((np.arctan2(y, x) % np.pi) / np.pi * 8).astype(int).clip(0, 7)
    boxes = np.bincount((ring * 8 + ray).ravel(), power.ravel(), 80) / np.bincount(
        (ring * 8 + ray).ravel(), None, 80
    ).clip(1)
    return np.log(boxes + 1)


def colours(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image.mean(axis=(0, 1)), image.std(axis=(0, 1))]) / 64


@pytest.mark.parametrize(("described", "accuracy"), [(colours, 0.9), (spectrum, 0.8)])
def test_the_drawn_ones_can_be_told_apart(drawn, described, accuracy):
    """A piece of each is nearest to another piece of its own; by colour as well as by pattern, where chance is 2 %."""
    rng = np.random.default_rng(0)
    pieces = [[described(drawn.cut(i, (128, 128), rng)) for i in range(len(drawn))] for _ in range(3)]
    known = np.array([np.mean(pair, axis=0) for pair in zip(pieces[0], pieces[1], strict=True)])
    nearest = [int(np.linalg.norm(known - one, axis=1).argmin()) for one in pieces[2]]
    assert np.mean(np.array(nearest) == np.arange(len(drawn))) >= accuracy


def test_the_drawn_ones_repeat_without_a_seam(drawn):
    """Across the edge pixels differ as much as they do inside."""
    for index in range(len(drawn)):
        image = drawn.image(index).astype(np.float64)
        for axis in (0, 1):
            steps = np.abs(np.roll(image, 1, axis) - image).mean(axis=(1 - axis, 2))
            inside = steps[1:].max() if steps[1:].max() > 2 * np.median(steps) else 2 * np.median(steps)
            assert steps[0] <= 1.2 * inside, drawn.names[index]


def test_a_cut_is_a_piece_of_the_texture(drawn):
    rng = np.random.default_rng(3)
    doubled = np.tile(drawn.image(9), (2, 3, 1))
    starts = set()
    for _ in range(4):
        piece = drawn.cut(9, (200, 300), rng)
        assert piece.shape == (200, 300, 3)
        found = [(r, c) for r in range(256) for c in range(256) if np.array_equal(doubled[r, c : c + 9], piece[0, :9])]
        assert any(np.array_equal(doubled[r : r + 200, c : c + 300], piece) for r, c in found)
        starts.update(found)
    assert len(starts) == 4


def test_a_folder_of_classes_gives_the_first_image_of_each(tmp_path):
    for name, colours_ in {"banded": ("red", "blue"), "Woven": ("lime",), "good": ("white",)}.items():
        for number, colour in enumerate(colours_, start=1):
            flat(tmp_path / "dtd" / "images" / name / f"{name}_000{number}.png", colour)
    (tmp_path / "dtd" / "images" / "empty").mkdir()
    (tmp_path / "dtd" / "labels").mkdir()
    (tmp_path / "dtd" / "labels" / "split.txt").write_text("banded_0001.png")
    for folder in ("dtd/images", "dtd"):  # DTD as it is unpacked
        textures = load_textures(tmp_path / folder)
        assert textures.names == ("Woven", "banded", "good_")  # a class "good" would be read as normal
        assert [tuple(textures.image(i)[0, 0]) for i in range(3)] == [(0, 255, 0), (255, 0, 0), (255, 255, 255)]


def test_a_flat_folder_gives_a_class_per_image(tmp_path):
    for name in ("a.png", "b.png", "b.jpg", ".hidden.png"):
        flat(tmp_path / name, "red")
    (tmp_path / "notes.txt").write_text("")
    assert load_textures(tmp_path).names == ("a", "b.jpg", "b.png")


@pytest.mark.parametrize("size", [(30, 20), (64, 48), (100, 10), (1500, 1300)])
def test_pieces_of_any_texture_have_the_size_and_only_its_pixels(tmp_path, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "one.png")
    textures, places = load_textures(tmp_path), set()
    for _ in range(6):
        piece = textures.cut(0, (48, 64), rng)
        assert piece.shape == (48, 64, 3)
        rows, columns = np.nonzero((image == piece[0, 0]).all(axis=-1))
        tiled = [
            np.take(np.take(image, range(r, r + 48), 0, mode="wrap"), range(c, c + 64), 1, mode="wrap")
            for r, c in zip(rows, columns, strict=True)
        ]
        assert any(np.array_equal(one, piece) for one in tiled)
        places.add((int(rows[0]), int(columns[0])))
    assert (len(places) > 1) == (size[0] > 64 or size[1] > 48)  # no seam where none is needed


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("", "does not exist"),
        ("empty/", "holds no images: give a folder"),
        ("empty/deeper/", "holds no images"),
        ("file.png", "is a file"),
        ("x" * 300, "does not exist"),
        ("nul\0", "does not exist"),
    ],
)
def test_no_textures_are_an_error_that_says_what_to_do(tmp_path, made, message):
    if made.endswith("/"):
        (tmp_path / made).mkdir(parents=True)
    elif made == "file.png":
        flat(tmp_path / made, "red")
    with pytest.raises(InvalidDatasetError, match=message):
        load_textures(tmp_path / (made.split("/")[0] or "missing"))


def test_a_damaged_texture_is_named_when_it_is_used(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    textures = load_textures(tmp_path)
    with pytest.raises(InvalidImageError, match="torn.png"):
        textures.image(0)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "A", "a"], ("a", "A-2", "a-3")),
        (["Good", "ok", "train", "ground_truth"], ("Good_", "ok_", "train_", "ground_truth_")),
        (["a/b", "..", " x. ", "", "naïve=1"], ("a_b", "_", "x", "_-2", "naïve=1")),
        (["y" * 100], ("y" * 80,)),
    ],
)
def test_names_are_fit_for_folders(names, expected):
    assert safe_names(names) == expected
