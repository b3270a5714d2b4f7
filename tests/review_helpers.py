"""A small result of a discovery, drawn and written for the tests of the board."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from anomalyhub.regions import crop_boxes
from anomalyhub.report.findings import EMBEDDINGS, Findings, FoundImage, FoundRegion
from anomalyhub.types import UNKNOWN

SHAPE = (60, 96)  # height, width
CLASSES = ("kind_1", "kind_2", "kind_3")
#: x0, y0, x1, y1 of what is wrong, in two corners that are too far apart for one crop.
LEFT, RIGHT = (6, 8, 18, 16), (70, 40, 84, 52)
#: Per image: its id, and per region what is wrong, its kind, probability and weight.
IMAGES = (
    ("a/1.png", [(None, "kind_1", 0.9, 1.0)]),
    ("b/1.png", [(None, "kind_1", 0.8, 1.0)]),
    ("b/2.jpg", [(LEFT, "kind_2", 0.95, 0.7), (RIGHT, "kind_1", 0.6, 0.3)]),
    ("b/3.png", [(LEFT, "kind_2", 0.7, 0.5), (RIGHT, "kind_3", 0.7, 0.5)]),
    ("b/4.png", [(RIGHT, "kind_3", 0.99, 1.0)]),
    ("b/5.png", [(LEFT, "kind_2", 0.5, 1.0)]),
    ("b/6.png", [(RIGHT, UNKNOWN, 0.4, 1.0)]),
)


def mask_of(*boxes: tuple[int, int, int, int] | None) -> np.ndarray:
    """(H, W) bool, True in the boxes."""
    mask = np.zeros(SHAPE, bool)
    for x0, y0, x1, y1 in filter(None, boxes):
        mask[y0:y1, x0:x1] = True
    return mask


def pixels(index: int) -> np.ndarray:
    """(H, W, 3) uint8 of one of IMAGES."""
    rng = np.random.default_rng(index)
    image = rng.integers(100, 120, (*SHAPE, 3), np.uint8)
    for box, *_ in IMAGES[index][1]:
        image[mask_of(box)] = (250, 40 * index, 10)
    return image


def write_findings(folder: Path, product: str = "part", applied: bool = False) -> Path:
    """The result's images, masks, crops and findings.json, without a model; returns the result's folder.

    applied  no crop was in the fit; else all but the unknown one were
    """
    result, images, regions = folder / "result", [], []
    for index, (name, found) in enumerate(IMAGES):
        file, boxes = folder / "images" / name, [one[0] for one in found]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(index)).save(file)
        mask, mask_name = mask_of(*boxes), None
        if mask.any():
            mask_name = f"masks/{index}.png"
            (result / "masks").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(result / mask_name)
        images.append(FoundImage(name, str(file), SHAPE, mask_name, found[0][1], found[0][2]))
        for region, (box, kind, probability, weight) in enumerate(found):
            alone = mask_of(box)
            x0, y0, x1, y1 = crop_boxes(alone, SHAPE)[0] if box else (0, 0, SHAPE[1], SHAPE[0])
            crop, fitted = f"crops/{len(regions)}.jpg", None if applied or kind == UNKNOWN else len(regions)
            (result / "crops").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(index)[y0:y1, x0:x1]).save(result / crop)
            area = int(alone.sum())
            regions.append(
                FoundRegion(index, region, (x0, y0, x1, y1), area, 0.5, weight, kind, probability, crop, fitted)
            )
    Findings(product, CLASSES, tuple(images), tuple(regions)).write(result)
    return result


def write_embeddings(result: Path, rows: Sequence[Sequence[float]] | np.ndarray) -> None:
    """embeddings.npy, with a row per crop."""
    np.save(result / EMBEDDINGS, np.array(rows, np.float32))
