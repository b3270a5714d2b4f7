"""The bundled sample data set: images, masks and the folder it writes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalyhub.data import list_products, load_dataset
from anomalyhub.data.sample import DEFECTS, PRODUCTS, draw, write_sample
from anomalyhub.errors import Cancelled, InvalidArgumentError, OutputError, UnknownNameError

CASES = [(product, kind) for product in PRODUCTS for kind in DEFECTS[product]]
TINY = {"n_train": 2, "n_test_good": 1, "n_defect": 1, "size": 64}


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_products_and_kinds():
    assert len(PRODUCTS) >= 3
    assert all(len(set(DEFECTS[product])) == 4 and "good" not in DEFECTS[product] for product in PRODUCTS)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("size", [64, 97])
def test_image_and_mask_arrays(product, size):
    image, mask = draw(product, "good", 1, size=size)
    width = round(size * 1.25) if product == "label" else size
    assert image.shape == (size, width, 3) and image.dtype == np.uint8
    assert mask.shape == (size, width) and mask.dtype == np.bool_ and not mask.any()
    assert np.mean((image == 0) | (image == 255)) < 0.01  # exposed like a photograph: hardly a pixel is clipped


@pytest.mark.parametrize(("product", "kind"), CASES)
def test_mask_marks_the_changed_pixels(product, kind):
    """The good twin of a seed shares pose, light and noise: what differs is the defect, and the mask says where."""
    for seed in range(3):
        good, _ = draw(product, "good", seed, size=128)
        image, mask = draw(product, kind, seed, size=128)
        change = np.abs(image.astype(int) - good).max(axis=2)
        assert 0.001 <= mask.mean() < 0.25
        assert change[~mask].max() <= 14
        assert change[mask].max() > 12
        assert np.mean(change[mask] > 3) > 0.6
        assert change[mask].mean() > 10 * change[~mask].mean()


@pytest.mark.parametrize(("product", "kind"), CASES)
def test_defects_vary_in_place_and_size(product, kind):
    masks = [draw(product, kind, seed, size=64)[1] for seed in range(8)]
    centres = np.array([np.argwhere(mask).mean(axis=0) for mask in masks])
    areas = np.array([mask.sum() for mask in masks])
    assert centres.std(axis=0).max() > 5
    assert areas.max() > 1.5 * areas.min()


@pytest.mark.parametrize("product", PRODUCTS)
def test_normals_vary_in_pose_light_and_noise(product):
    images = [draw(product, "good", seed, size=64)[0].astype(float) for seed in range(10)]
    levels = np.array([image.mean() for image in images])
    warmth = np.array([image[..., 0].mean() / image[..., 2].mean() for image in images])
    tilt = np.array([image[:, :20].mean() / image[:, -20:].mean() for image in images])
    assert levels.std() / levels.mean() > 0.02
    assert warmth.std() > 0.01
    assert tilt.std() > 0.01
    pairs = [np.abs(a - b).mean() for a, b in zip(images[:-1], images[1:], strict=True)]
    assert min(pairs) > 2


def test_pose_moves_the_product():
    centres = []
    for seed in range(10):
        image = draw("ring", "good", seed, size=128)[0].mean(axis=2)
        centres.append(np.argwhere(image > 0.6 * image.max()).mean(axis=0))
    assert np.std(centres, axis=0).min() > 0.7


@pytest.mark.parametrize(("product", "kind"), [("weave", "good"), ("label", "tear"), ("ring", "rust")])
def test_one_seed_gives_one_image(product, kind):
    first, again, other = (draw(product, kind, seed, size=64) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_a_larger_image_shows_the_same_lamp_and_pose():
    small, large = (draw("ring", "good", 3, size=size)[0] for size in (64, 256))
    shrunk = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.95


def test_barcode_on_the_label_can_be_read():
    detector = cv2.barcode.BarcodeDetector()
    read = {detector.detectAndDecode(draw("label", "good", seed, size=384)[0])[0] for seed in range(4)}
    assert "2047920006154" in read  # the reader does not find every one; it checks the check digit of those it finds


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("weaves",), UnknownNameError, "did you mean 'weave'"),
        (("ring", "rusty"), UnknownNameError, "did you mean 'rust'"),
        (("ring", "cut"), UnknownNameError, "scratch"),  # a kind of another product
        (("ring", "good", -1), InvalidArgumentError, "seed must be 0 or more, got -1"),
        (("ring", "good", 0.5), InvalidArgumentError, "seed must be a whole number, got 0.5"),
        (("ring", "good", 0, 63), InvalidArgumentError, "at least 64 pixels, got 63"),
        (("ring", "good", 0, None), InvalidArgumentError, "size must be a whole number"),
    ],
)
def test_bad_arguments_of_draw(arguments, error, says):
    options = {"size": arguments[3]} if len(arguments) > 3 else {}
    with pytest.raises(error, match=says):
        draw(*arguments[:3], **options)


def test_layout_on_disk(tmp_path):
    steps = []
    out = write_sample(tmp_path / "sample", **TINY, progress=lambda done, text: steps.append((done, text)))
    assert out == tmp_path / "sample"
    expected = set()
    for product in PRODUCTS:
        expected |= {f"{product}/train/good/000.png", f"{product}/train/good/001.png", f"{product}/test/good/000.png"}
        for kind in DEFECTS[product]:
            expected |= {f"{product}/test/{kind}/000.png", f"{product}/ground_truth/{kind}/000_mask.png"}
    assert set(files(out)) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["sample"]  # nothing temporary is left
    shares = [done for done, _ in steps]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0

    image = cv2.imread(str(out / "label/test/tear/000.png"))
    mask = cv2.imread(str(out / "label/ground_truth/tear/000_mask.png"), cv2.IMREAD_UNCHANGED)
    assert image.shape == (64, 80, 3) and mask.shape == (64, 80)
    assert set(np.unique(mask)) == {0, 255}
    teal = image[12, 35].astype(int)  # the header's colour, in OpenCV's blue, green, red
    assert teal[0] > teal[2] + 30


def test_the_data_module_reads_it(tmp_path):
    out = write_sample(tmp_path / "sample", **TINY)
    assert list_products(out) == tuple(sorted(PRODUCTS))
    dataset = load_dataset(out, "label")
    assert dataset.layout == "mvtec" and len(dataset.train) == 2 and len(dataset.test) == 5
    assert dataset.classes == ("good", *sorted(DEFECTS["label"]))
    for sample in dataset.test:
        assert sample.mask.any() == (sample.label != "good")


def test_images_depend_on_the_seed_and_their_number_only(tmp_path):
    small = files(write_sample(tmp_path / "a", products="label", **TINY))
    again = files(write_sample(tmp_path / "b", products=["label"], **TINY))
    larger = files(write_sample(tmp_path / "c", products=("label",), **{**TINY, "n_train": 3, "n_defect": 2}))
    other = files(write_sample(tmp_path / "d", products="label", **TINY, seed=1))
    assert small == again
    assert small.items() <= larger.items() and len(larger) == len(small) + 1 + 2 * 4
    assert small.keys() == other.keys()
    assert all(small[name] != other[name] for name in small)
    assert len(set(small.values())) == len(small)


def test_refuses_to_overwrite(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        write_sample(tmp_path, **TINY)
    assert files(tmp_path) == {"keep.txt": b"mine"}


def test_empty_folder_is_filled_and_overwrite_replaces(tmp_path):
    out = tmp_path / "sample"
    out.mkdir()
    write_sample(out, products="ring", **TINY)
    (out / "old.txt").write_text("old")
    write_sample(out, products="ring", **TINY, overwrite=True)
    assert {name.split("/")[0] for name in files(out)} == {"ring"}


def test_cancelling_leaves_nothing(tmp_path):
    def stop(done: float, text: str) -> None:
        if done > 0.2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        write_sample(tmp_path / "sample", products="ring", **TINY, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"products": ["ring", "bolt"]}, UnknownNameError, "unknown sample product 'bolt'"),
        ({"products": []}, InvalidArgumentError, "nothing to draw"),
        ({"n_train": 0, "n_test_good": 0, "n_defect": 0}, InvalidArgumentError, "nothing to draw"),
        ({"n_train": -1}, InvalidArgumentError, "n_train must be 0 or more, got -1"),
        ({"n_defect": "8"}, InvalidArgumentError, "n_defect must be a whole number, got '8'"),
        ({"seed": -3}, InvalidArgumentError, "seed must be 0 or more"),
        ({"size": 10}, InvalidArgumentError, "at least 64 pixels, got 10"),
    ],
)
def test_bad_arguments_of_write_sample(tmp_path, options, error, says):
    with pytest.raises(error, match=says):
        write_sample(tmp_path / "sample", **{**TINY, **options})
    assert not list(tmp_path.iterdir())
