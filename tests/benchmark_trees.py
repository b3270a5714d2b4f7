"""Tiny data sets in the layouts and with the products of the public ones, for the plans of benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from core_helpers import photo
from PIL import Image

from anomalyhub.benchmark.sources import Sources

PRODUCTS = {
    "mvtec_anomaly_detection": ("bottle", "cable", "toothbrush"),
    "mvtec_3d": ("bagel", "tire"),
    "VisA": ("candle", "pcb1"),
    "MPDD": ("connector", "tubes"),
    "leather": (None,),
    "AeBAD_S": (None,),
}
#: Weights that the committed configs read from a file.
WEIGHTS = (
    "resnet18_imagenet_l3.safetensors",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors",
)


def plant(root: Path) -> Sources:
    """All data sets below a folder, and files in place of weights, which nobody opens."""
    for dataset, products in PRODUCTS.items():
        for product in products:
            mvtec(root / "data" / dataset / (product or ""), count=1, rgb="rgb" if "3d" in dataset else "")
    for number, name in enumerate(("MT_Free", "MT_Free", "MT_Crack", "MT_Fray")):
        write(root / "data" / "MTD" / name / "Imgs" / f"{number}.jpg", photo(number).image)
    for name in ("banded", "dotted"):
        write(root / "data" / "dtd" / "images" / name / f"{name}_0001.jpg", photo(0).image)
    (root / "weights").mkdir()
    for name in WEIGHTS:
        (root / "weights" / name).write_bytes(name.encode())
    return Sources(root / "data", {}, root / "weights")


def mvtec(product: Path, count: int = 3, kinds: tuple[str, ...] = ("blot", "stain"), rgb: str = "") -> Path:
    """`count` images in train/good, test/good and of each kind, with masks of the defects."""
    for part, first in (("train/good", 0), ("test/good", 20)):
        for number in range(count):
            write(product / part / rgb / f"{number:03d}.png", photo(first + number).image)
    for place, kind in enumerate(kinds):
        for number in range(count):
            one = photo(40 + 20 * place + number, defect=True)
            image = one.image.copy()
            image[one.mask] = (250, 250, 250) if place == 0 else (20, 20, 120)
            write(product / "test" / kind / rgb / f"{number:03d}.png", image)
            mask = one.mask.astype(np.uint8) * 255
            if rgb:
                write(product / "test" / kind / "gt" / f"{number:03d}.png", mask)
            else:
                write(product / "ground_truth" / kind / f"{number:03d}_mask.png", mask)
    return product


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
