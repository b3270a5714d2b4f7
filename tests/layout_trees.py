"""Tiny data sets of every layout, written for the tests: one product each, named "part"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SHAPE = (6, 9)  # height, width

#: The block that `write_mask` marks.
BLOCK = np.zeros(SHAPE, bool)
BLOCK[1:3, 2:7] = True


def write_image(path: Path, value: int = 120, shape: tuple[int, int] = SHAPE) -> Path:
    """A uniform grey RGB image, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", shape[::-1], (value,) * 3).save(path)
    return path


#: The block with two class numbers, of which thresholding at half of the maximum would lose one.
LABELS = BLOCK * np.where(np.arange(SHAPE[1]) < 4, 1, 3)


def write_mask(path: Path, value: int = 255, block: np.ndarray = BLOCK) -> Path:
    """A grey image that is `value` times the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((block * value).astype(np.uint8)).save(path)
    return path


def mvtec(root: Path) -> Path:
    product = root / "part"
    for part in ("train/good", "test/cut"):
        for number in range(2):
            write_image(product / part / f"00{number}.png")
    write_image(product / "test/good/000.png")
    write_mask(product / "ground_truth/cut/000_mask.png")
    write_mask(product / "ground_truth/cut/001_mask.png")
    return product


def visa_1cls(root: Path) -> Path:
    """VisA as its preparation script writes it: JPEG images, masks of the same stem."""
    product = root / "part"
    for name in ("train/good/0000.JPG", "test/good/0001.JPG", "test/bad/000.JPG"):
        write_image(product / name)
    write_mask(product / "ground_truth/bad/000.png")
    return product


def btad(root: Path) -> Path:
    """BTAD: ok and ko for good and bad, masks of another suffix."""
    product = root / "part"
    for name in ("train/ok/0.bmp", "test/ok/1.bmp", "test/ko/2.bmp"):
        write_image(product / name)
    write_mask(product / "ground_truth/ko/2.png")
    return product


def loco(root: Path) -> Path:
    product = root / "part"
    for name in (
        "train/good/000.png",
        "validation/good/000.png",
        "test/good/000.png",
        "test/logical_anomalies/000.png",
        "test/structural_anomalies/000.png",
    ):
        write_image(product / name)
    write_mask(product / "ground_truth/logical_anomalies/000/000.png", 205)
    write_mask(product / "ground_truth/logical_anomalies/000/001.png", 3, np.roll(BLOCK, 2, axis=0))
    write_mask(product / "ground_truth/structural_anomalies/000/000.png", 1, LABELS)
    return product


def mvtec3d(root: Path) -> Path:
    product = root / "part"
    for part in ("train/good", "validation/good", "test/good", "test/hole"):
        write_image(product / part / "rgb/000.png")
        Image.fromarray(np.zeros(SHAPE, np.float32)).save(_parent(product / part / "xyz/000.tiff"))
        write_mask(product / part / "gt/000.png", 255 if part == "test/hole" else 0)
    return product


def aebad(root: Path) -> Path:
    product = root / "part"
    for domain in ("same", "view"):
        for part in ("train/good", "test/good", "test/groove"):
            write_image(product / part / domain / "0.png")
    write_mask(product / "ground_truth/groove/same/0.png")
    write_mask(product / "ground_truth/groove/view/0.png", block=np.roll(BLOCK, 1, axis=0))
    return product


def visa(root: Path, table: bool = True) -> Path:
    """VisA as downloaded; the split table stands beside the products and its masks hold class numbers."""
    product = root / "part"
    for name in ("Normal/000.JPG", "Normal/001.JPG", "Anomaly/000.JPG"):
        write_image(product / "Data/Images" / name)
    write_mask(product / "Data/Masks/Anomaly/000.png", 1, LABELS)
    if table:
        rows = (
            "object,split,label,image,mask",
            "part,train,normal,part/Data/Images/Normal/001.JPG,",
            "part,test,normal,part/Data/Images/Normal/000.JPG,",
            "part,test,anomaly,part/Data/Images/Anomaly/000.JPG,part/Data/Masks/Anomaly/000.png",
            "other,train,normal,other/Data/Images/Normal/000.JPG,",
        )
        (root / "split_csv").mkdir()
        (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return product


def mtd(root: Path, table: bool = True) -> Path:
    product = root / "part"
    for name in ("MT_Free/Imgs/a", "MT_Free/Imgs/b", "MT_Free/Imgs/c", "MT_Crack/Imgs/a"):
        write_image(product / f"{name}.jpg")
        write_mask(product / f"{name}.png", 255 if "Crack" in name else 0)
    write_image(product / "dataset.jpg")
    if table:
        (product / "mtd_train_filenames.txt").write_text("c.jpg\na.jpg\n\n", encoding="utf-8")
    return product


def classes(root: Path) -> Path:
    product = root / "part"
    for number in range(5):
        write_image(product / f"OK/{number}.png")
    for name in ("dent/a.png", "dent/deep/a.png", "rust/a.jpeg"):
        write_image(product / name)
    return product


def unnamed_classes(root: Path) -> Path:
    product = root / "part"
    for name in ("dent/a.png", "rust/a.png", "rust/b.png"):
        write_image(product / name)
    return product


def flat(root: Path) -> Path:
    product = root / "part"
    for name in ("b.png", "a.jpg", "c.bmp", "d.tif"):
        write_image(product / name)
    return product


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
