"""Products as data sets that `datasets` of Hugging Face reads, and AnomalyHub: with pixels and masks exactly as here.

A product is a config. Both formats have for each image

    id     its id here, letters that are no text replaced
    image  the file, byte for byte; a PNG of its pixels where `datasets` would fail on it or see something else
    mask   a PNG in the frame of the upright image, 0 or 255, of all its masks; null for normal images and where unknown
    boxes  of the mask's connected components (8 neighbours): half-open pixels x0, y0, x1, y1; [] for normal images,
           null where there is no mask
    label  ClassLabel with good first; null where unknown

imagefolder  PRODUCT/{train,test,ground_truth}/… as in MVTec AD, and the rest of it in metadata.parquet beside them
parquet      PRODUCT/SPLIT-00000-of-00001.parquet

The images of a flat folder, which are both train and test, are the one split train.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from anomalyhub.data.dataset import Dataset
from anomalyhub.data.export_files import write_images, write_parquet
from anomalyhub.data.export_rows import Part, folder_names
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.hub.dataset_cards import Subset, dataset_card
from anomalyhub.protocols import Progress, part
from anomalyhub.types import GOOD

FORMATS = ("imagefolder", "parquet")
Format = Literal["imagefolder", "parquet"]
README = "README.md"
#: Bytes of images and masks in a parquet file.
SHARD_BYTES = 500_000_000
COLUMNS = {
    "id": "the image's path below the product's folder in the data set that was exported",
    "image": "the image file",
    "mask": "where it is defective: 255, else 0; null for normal images, and where nobody has drawn one",
    "boxes": "of the connected parts of the mask, in half-open pixels `x0, y0, x1, y1`; null where there is no mask",
    "label": "the kind of defect, `good` for normal; null where unknown",
}


def export(
    datasets: Sequence[Dataset],
    folder: Path,
    format: Format = "imagefolder",
    *,
    license: str | None = None,
    title: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> tuple[Subset, ...]:
    """Write products into an empty folder, with a card; returns what the card says of each.

    license      the Hub's identifier, such as cc-by-4.0, for the card
    title        of the card; None: the product's name
    shard_bytes  of one parquet file, of images and masks
    Raises InvalidImageError for an image that cannot be read, InvalidArgumentError.
    """
    if format not in FORMATS:
        raise InvalidArgumentError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")
    if not datasets or shard_bytes < 1:
        raise InvalidArgumentError("there is nothing to export: give at least one product, and files of some bytes")
    names = folder_names([dataset.product for dataset in datasets])
    subsets, total = [], sum(len(split.refs) for one in datasets for split in _splits(one).values()) or 1
    done = 0
    for dataset, name in zip(datasets, names, strict=True):
        subset: dict[str, dict[str, Any]] = {"data_files": {}, "counts": {}, "n_bytes": {}}
        features: list[dict[str, Any]] = []
        for one in _parts(dataset, name):
            share = part(progress, done / total, (done + len(one.refs)) / total)
            if format == "parquet":
                written = write_parquet(one, folder, shard_bytes, share)
            else:
                written = write_images(one, folder, share)
            done += len(one.refs)
            features, counts = written.features, Counter(ref.label or "" for ref in one.refs)
            subset["data_files"][one.split], subset["n_bytes"][one.split] = written.files, written.n_bytes
            subset["counts"][one.split] = dict(sorted(counts.items(), key=lambda pair: (pair[0] != GOOD, pair[0])))
        subsets.append(Subset(name, features=features, default=len(datasets) == 1, **subset))
    title = title or (datasets[0].product if len(datasets) == 1 else f"{len(datasets)} products")
    card = dataset_card(title, subsets, license=license, columns=COLUMNS, tags=[format])
    (folder / README).write_text(card, encoding="utf-8", errors="replace")
    if progress:
        progress(1.0, f"{total} images written")
    return tuple(subsets)


def _splits(dataset: Dataset) -> dict[str, Any]:
    """The splits that have images; one where both are the same images."""
    if dataset.train.refs and dataset.train.refs == dataset.test.refs:
        return {"train": dataset.train}
    return {name: split for name, split in (("train", dataset.train), ("test", dataset.test)) if len(split)}


def _parts(dataset: Dataset, name: str) -> list[Part]:
    splits = _splits(dataset)
    both = dataset.train.refs == dataset.test.refs
    labels = {ref.label for split in splits.values() for ref in split.refs} - {None, GOOD}
    classes = (GOOD, *sorted(labels))
    return [Part(name, split, one.refs, both, classes) for split, one in splits.items()]
