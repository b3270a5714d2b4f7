"""A corrected discovery as a labelled data set, and as a model that knows the corrected kinds."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from anomalyhub import __version__
from anomalyhub.data.images import read_mask
from anomalyhub.errors import InvalidArgumentError, InvalidImageError, InvalidModelError
from anomalyhub.fsio import atomic_folder
from anomalyhub.hub.dataset_cards import Subset, dataset_card
from anomalyhub.hub.markup import code, markdown
from anomalyhub.report.findings import FoundImage, FoundRegion
from anomalyhub.review.board import MODEL, Board
from anomalyhub.review.steps import clean_name, folder_name
from anomalyhub.state import read_config
from anomalyhub.types import GOOD, UNKNOWN, Box

METADATA, README = "metadata.jsonl", "README.md"
_BINARIZER = "binarizer.json"
_LONGEST = 200  # bytes of a file name without its suffix
# Product folders of these names would be read as a part of a data set, or its images as normal ones.
_TAKEN = frozenset({GOOD, "train", "test", "validation", "ground_truth", "split_csv"})
# The table alone, and `datasets` would not fetch the files from the Hub; the folders alone, and it would pass the table
# over.
_FILES = (METADATA, "*/test/**", "*/ground_truth/**")
_COLUMNS = {
    "image": "the original file",
    "mask": "where it is defective: 255, else 0; null without a region",
    "label": "the kind, `good` for normal",
    "corrected": "whether a person changed the kind of one of its regions",
    "source": "its id",
    "regions": "of each region the box in half-open pixels `x0, y0, x1, y1`, the label, the area, and its probability",
}


class ClassCount(NamedTuple):
    """How many images and crops have a label; None are the unsure ones, which are not saved."""

    label: str | None
    images: int
    crops: int


def class_counts(board: Board) -> list[ClassCount]:
    """All labels in use: "good", the kinds by name, and None."""
    images, crops = Counter(board.image_labels()), Counter(board.labels())
    labels = sorted(images | crops, key=lambda label: (label is None, label != GOOD, label or ""))
    return [ClassCount(label, images[label], crops[label]) for label in labels]


def save_labelled(board: Board, folder: Path) -> list[ClassCount]:
    """Write the images that have a label into a new or empty folder, and return `class_counts`.

    PRODUCT/test/CLASS/* and PRODUCT/ground_truth/CLASS/*_mask.png as in MVTec AD, which `load_dataset` reads; there is
    no train/good, as nobody has said which images to learn from. The images are the original files. A mask holds the
    regions that are neither normal nor unsure. metadata.jsonl has for each image file_name, mask_file_name or null,
    label, corrected (a person changed the kind of one of its regions), source (its id), and regions: box, label, area,
    probability of each that is not unsure. The names are those of Hugging Face's imagefolder, so that `image` and
    `mask` become images there.

    Raises InvalidArgumentError when no image has a label, InvalidImageError for an image that is no longer there, and
    OutputError; then there is no folder.
    """
    counts, images, labels = class_counts(board), board.findings.images, board.image_labels()
    if not any(count.images for count in counts if count.label is not None):
        raise InvalidArgumentError("every image is unsure, so there is nothing to save: take some of the marks away")
    crops_of: dict[int, list[_Crop]] = defaultdict(list)
    for crop in zip(board.findings.regions, board.labels(), board.corrected(), strict=True):
        crops_of[crop[0].image].append(_Crop(*crop))
    product, stems = _product(board.findings.product), _stems([image.id for image in images])
    with atomic_folder(folder, inputs=[board.result]) as staged:
        entries = [
            _save_image(staged / product, board.result, image, crops_of[index], label, stem)
            for index, (image, label, stem) in enumerate(zip(images, labels, stems, strict=True))
            if label is not None
        ]
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
        (staged / METADATA).write_text("".join(lines), encoding="utf-8")
        (staged / README).write_text(_readme(board, product, counts, entries), encoding="utf-8")
    return counts


def save_model(board: Board, folder: Path, backbone: Any = None) -> tuple[str, ...]:
    """Write the discoverer with the kinds of the board into a new or empty folder, and return their names.

    It is the one of the result, `relabelled`. Left out are crops that are unsure or "unknown", and defects that only a
    person saw, as an empty mask shows none. Crops that were not in the fit teach as well, and replace the fit's where
    they are the same. The fit's sub-images that are not on the board go by what their kind is called now. With the
    binarizer, which comes along, `discover --apply` takes the folder.

    backbone  replaces the stored SPEC, where its weights file has moved
    Raises InvalidModelError, BackboneError, OutputError, and InvalidArgumentError when no crop of the fit has a kind.
    """
    from anomalyhub.discovery import load_discoverer  # torch: seconds

    source = board.result / MODEL
    model = load_discoverer(source, backbone)
    embeddings, in_fit = board.embeddings(), range(len(model.labels_))
    strange = any(one.fitted is not None and one.fitted not in in_fit for one in board.findings.regions)
    if strange or embeddings.shape[1] != model.embeddings_.shape[1]:
        raise InvalidModelError(f"{source} is not the model of these findings: copy the whole result again")
    labels: list[str | None] = [board.name_of(model.classes_[label]) for label in model.labels_]
    new: list[int] = []
    for crop, (region, label, corrected) in enumerate(
        zip(board.findings.regions, board.labels(), board.corrected(), strict=True)
    ):
        missed = corrected and not region.area and label != GOOD
        label = None if missed else label
        if region.fitted is None:
            new.append(crop)
            labels.append(label)
        else:
            labels[region.fitted] = label
    regions = [board.findings.regions[crop] for crop in new]
    more = embeddings[new], [one.area for one in regions], [one.score for one in regions]
    changed = model.relabelled([None if label == UNKNOWN else label for label in labels], more)
    with atomic_folder(folder, inputs=[board.result]) as staged:
        changed.save(staged)
        if (source / _BINARIZER).exists():
            shutil.copyfile(source / _BINARIZER, staged / _BINARIZER)
    return changed.classes_


class _Crop(NamedTuple):
    region: FoundRegion
    label: str | None
    corrected: bool


def _save_image(
    product: Path, result: Path, image: FoundImage, crops: Sequence[_Crop], label: str, stem: str
) -> dict[str, Any]:
    """Write one image and its mask below the product's folder; returns its line of metadata.jsonl."""
    root, kind, mask_file = product.parent, folder_name(label), None
    file = product / "test" / kind / f"{stem}{Path(image.path).suffix}"
    _copy(Path(image.path), file)
    if label != GOOD and image.mask is not None:
        defective = [crop.label not in (None, GOOD) for crop in crops]
        mask = read_mask(result / image.mask, image.size, "nonzero")
        mask = mask_of_regions(mask, [crop.region.box for crop in crops], defective)
        if mask.any():
            mask_file = product / "ground_truth" / kind / f"{stem}_mask.png"
            mask_file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(mask_file)
    return {
        "file_name": file.relative_to(root).as_posix(),
        "mask_file_name": mask_file and mask_file.relative_to(root).as_posix(),
        "label": label,
        "corrected": any(crop.corrected for crop in crops),
        "source": image.id,
        "regions": [
            {"box": list(one.box), "label": label, "area": one.area, "probability": one.probability}
            for one, label, _ in crops
            if one.area and label is not None
        ],
    }


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = open(source, "rb")
    except OSError as error:
        raise InvalidImageError(
            f"{source} is not there any more ({error.strerror}): put it back, or discover again without it"
        ) from error
    with file, open(target, "wb") as copied:
        shutil.copyfileobj(file, copied)


def mask_of_regions(mask: np.ndarray, boxes: Sequence[Box], chosen: Sequence[bool]) -> np.ndarray:
    """A mask (H, W) without the connected parts of the regions that are not chosen.

    A part belongs to the region in whose box it lies, and with several to the one with the nearest centre, which it was
    drawn around; a part in no box stays.
    """
    if all(chosen):
        return mask
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    stays = np.ones(len(stats), bool)
    corners = np.array(boxes)
    for part, (left, top, width, height, _) in enumerate(stats[1:], start=1):
        own = np.array([left, top, left + width, top + height])
        inside = (corners[:, :2] <= own[:2]).all(axis=1) & (own[2:] <= corners[:, 2:]).all(axis=1)
        apart = np.abs(corners[:, :2] + corners[:, 2:] - own[:2] - own[2:]).sum(axis=1)
        if inside.any():
            stays[part] = chosen[np.where(inside, apart, np.inf).argmin()]
    return mask & stays[parts]


def _stems(ids: Sequence[str]) -> list[str]:
    """File names without suffix, all different: each id's folders, but for those that all have, and its name."""
    parts = [[part for part in PurePosixPath(one.replace("\\", "/")).parts if part not in ("/", "..")] for one in ids]
    shared = len(os.path.commonprefix([folders[:-1] for folders in parts]))
    stems, taken = [], set()
    for one in parts:
        stem = folder_name(PurePosixPath("_".join(one[shared:])).stem) or "image"
        if stem.lower().endswith("_mask"):  # or it would pass for the mask of another image
            stem += "_image"
        while len(stem.encode()) > _LONGEST:
            stem = stem[1:].lstrip(" .")
        unique, number = stem, 2
        while unique.casefold() in taken:
            unique, number = f"{stem}-{number}", number + 1
        taken.add(unique.casefold())
        stems.append(unique)
    return stems


def _product(name: str) -> str:
    try:
        folder = folder_name(clean_name(Path(name).name))
    except InvalidArgumentError:  # of no or of too many characters: it is for people
        return "product"
    return f"{folder}_product" if folder.casefold() in _TAKEN else folder


def _readme(board: Board, product: str, counts: Sequence[ClassCount], entries: Sequence[dict[str, Any]]) -> str:
    method, rows = "", []
    with suppress(InvalidModelError, KeyError, TypeError):  # the findings tell enough without their model
        config = read_config(board.result / MODEL, "discoverer")
        method = f" ({config['discoverer']}, backbone {config['backbone']['spec']})"
    for label, images, crops in counts:
        if images and label is not None:
            rows.append(f"| {markdown(folder_name(label))} | {images} | {crops} |")
    changed, left = sum(entry["corrected"] for entry in entries), len(board.findings.images) - len(entries)
    notes = [
        f"{len(entries)} images in kinds that AnomalyHub {__version__} discovered without labels{method}.\n"
        f"{changed} of them have regions that a person put into another kind, and {left} more images are left out\n"
        "because the person was unsure of them.",
        "\n".join(["| kind | images | crops |", "|---|---|---|", *rows]),
        f"Images are in {code(f'{product}/test/KIND')} and masks in {code(f'{product}/ground_truth/KIND')}, as in\n"
        f"MVTec AD. There is no {code(f'{product}/train/good')}: put images of normal parts there to fit a detector.",
    ]
    subset, tags = Subset("default", {"test": _FILES}, default=True), [f"product:{product}"]
    return dataset_card(f"{product}: kinds of defect", [subset], tags=tags, columns=_COLUMNS, notes=notes)
