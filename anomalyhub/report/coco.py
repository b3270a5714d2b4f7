"""Regions in COCO's detection format (https://cocodataset.org/#format-data), for labelling tools and trainers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomalyhub.fsio import atomic_file
from anomalyhub.types import ANOMALOUS, Inspection, Region

#: Category of regions that no classifier has named.
UNNAMED = ANOMALOUS


class CocoBuilder:
    """Collects inspections one at a time and keeps only their records, so that maps need not stay in memory.

    categories  names in the order of their ids; None: the names that occur, sorted
    """

    def __init__(self, categories: Sequence[str] | None = None):
        self.categories = categories
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, one: Inspection) -> None:
        """Append an image and its regions; image and annotation ids count from 1."""
        height, width = one.map.scores.shape
        self._images.append({"id": len(self._images) + 1, "file_name": one.id, "width": width, "height": height})
        labels = one.labels or ((UNNAMED, None),) * len(one.regions)
        for region, (name, probability) in zip(one.regions, labels, strict=True):
            record = {"id": len(self._annotations) + 1, "image_id": len(self._images), "category_id": name}
            record |= _shape(region)
            if probability is not None:
                record["probability"] = float(probability)
            self._annotations.append(record)

    def to_json(self) -> dict[str, Any]:
        """The whole file, JSON-serialisable."""
        found = sorted({record["category_id"] for record in self._annotations})
        category_id = {name: i for i, name in enumerate(found if self.categories is None else self.categories, 1)}
        return {
            "info": {"description": "Anomalous regions found by AnomalyHub"},
            "images": self._images,
            "annotations": [{**one, "category_id": category_id[one["category_id"]]} for one in self._annotations],
            "categories": [{"id": i, "name": name, "supercategory": "defect"} for name, i in category_id.items()],
        }

    def write(self, path: str | Path) -> None:
        """Write `to_json` to a file, replacing it. Raises OutputError when `path` cannot be written."""
        with atomic_file(path) as staged:
            staged.write_text(json.dumps(self.to_json(), allow_nan=False), encoding="utf-8")


def coco_json(inspections: Iterable[Inspection], categories: Sequence[str] | None = None) -> dict[str, Any]:
    """Images and regions of inspections; JSON-serialisable, ids count from 1 in the order given.

    categories  names in the order of their ids; default: the names that occur, sorted

    An image's file_name is the inspection's id. An annotation has bbox as x, y, width, height in pixels, area in
    pixels, segmentation as uncompressed run lengths (column-major, beginning with zeros), score (the region's peak,
    raw) and, with a classifier, probability.
    """
    builder = CocoBuilder(categories)
    for one in inspections:
        builder.add(one)
    return builder.to_json()


def write_coco(path: str | Path, inspections: Iterable[Inspection], categories: Sequence[str] | None = None) -> None:
    """Write `coco_json` to a file, replacing it. Raises OutputError when `path` cannot be written."""
    builder = CocoBuilder(categories)
    for one in inspections:
        builder.add(one)
    builder.write(path)


def rle_counts(mask: np.ndarray) -> list[int]:
    """Run lengths of an (H, W) bool mask in column-major order: zeros first (maybe 0 of them), then alternating."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(ends, prepend=0, append=flat.size).tolist()
    return [0, *runs] if flat[0] else runs


def _shape(region: Region) -> dict[str, Any]:
    x0, y0, x1, y1 = region.box
    return {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": region.area_px,
        "segmentation": {"size": list(region.mask.shape), "counts": rle_counts(region.mask)},
        "iscrowd": 0,
        "score": region.peak,
    }
