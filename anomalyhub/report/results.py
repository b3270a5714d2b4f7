"""A folder of results: predictions.csv, maps, overlays and regions, written one image at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from anomalyhub.report.coco import CocoBuilder
from anomalyhub.report.overlay import overlay
from anomalyhub.report.tables import Prediction, write_predictions_csv
from anomalyhub.types import Inspection, Sample


def write_results(
    folder: Path, results: Iterable[tuple[Sample, Inspection]], map_threshold: float, *, maps: bool = True
) -> list[Prediction]:
    """Write predictions.csv, maps/*.npy (float32), overlays/*.png and regions.coco.json into an existing folder.

    map_threshold  where the overlays' colour scale stands
    maps           False leaves maps/ out, which is most of the bytes
    Files lie under the sample's id with another suffix; where two ids differ only in theirs, the second keeps it.
    """
    rows: list[Prediction] = []
    coco = CocoBuilder()
    taken: set[str] = set()
    for sample, result in results:
        stem = file_stem(result.id, taken)
        if maps:
            np.save(_made(folder / "maps" / f"{stem}.npy"), result.map.scores)
        picture = overlay(sample.image, result.map, map_threshold, mask=united_mask(result))
        Image.fromarray(picture).save(_made(folder / "overlays" / f"{stem}.png"), compress_level=3)
        coco.add(result)
        rows.append(Prediction.of(result))
    write_predictions_csv(folder / "predictions.csv", rows)
    coco.write(folder / "regions.coco.json")
    return rows


def united_mask(result: Inspection) -> np.ndarray:
    """(H, W) bool: the pixels of all regions."""
    mask = np.zeros(result.map.scores.shape, bool)
    for region in result.regions:
        x0, y0, x1, y1 = region.box
        mask[y0:y1, x0:x1] |= region.mask[y0:y1, x0:x1]
    return mask


def file_stem(sample_id: str, taken: set[str]) -> str:
    """A relative path without suffix for a sample's files, below the folder whatever the id says, and not taken yet."""
    parts = [part for part in PurePosixPath(sample_id.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    path = PurePosixPath(*(parts or ["image"]))
    stem = str(path.with_suffix("")) if path.suffix else str(path)
    if stem.lower() in taken:
        stem = str(path)
    number = 2
    while stem.lower() in taken:
        stem, number = f"{path}-{number}", number + 1
    taken.add(stem.lower())
    return stem


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
