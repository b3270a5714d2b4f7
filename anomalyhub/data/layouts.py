"""Recognising and reading the folder layouts of inspection data sets; nothing is decoded.

    mvtec    train/good/*, test/CLASS/*, ground_truth/CLASS/* (MVTec AD, MPDD, BTAD, VisA's prepared 1cls tree)
    loco     the same with ground_truth/CLASS/STEM/*.png; validation/ is left out
    mvtec3d  train/good/rgb/*, test/CLASS/rgb/*, test/CLASS/gt/*; validation/ is left out
    aebad    train/good/DOMAIN/*, test/CLASS/DOMAIN/*, ground_truth/CLASS/DOMAIN/*
    visa     Data/Images/{Normal,Anomaly}/*, Data/Masks/Anomaly/*, and ../split_csv/1cls.csv when there
    mtd      MT_CLASS/Imgs/*.jpg with *.png masks, and mtd_train_filenames.txt when there
    classes  CLASS/*, with ground_truth/CLASS/* when there
    flat     images and no folders of images

A folder named good, ok or normal, in any case, holds normal images. Masks are found by their image's name, with or
without `_mask`, whatever their suffix. Where a layout has no split, `split_normals` makes one.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from anomalyhub.data.folders import holds_images, images_below, subfolders
from anomalyhub.data.samples import SampleRef
from anomalyhub.errors import InvalidDatasetError
from anomalyhub.types import GOOD

Refs = list[SampleRef]

#: Part of the normal images that trains where a layout has no split of its own.
TRAIN_SHARE = 0.8
#: The table beside the files of an exported image folder.
METADATA = "metadata.parquet"
MTD_SPLIT = "mtd_train_filenames.txt"
VISA_SPLIT = "split_csv/1cls.csv"

_NORMAL = frozenset({"good", "ok", "normal"})
_PARTS = frozenset({"train", "test", "validation", "ground_truth", "split_csv"})
_AEBAD_DOMAINS = frozenset({"same", "background", "illumination", "view"})


def recognise(folder: Path) -> str | None:
    """The layout of a folder that is certainly one product: it says which of its images are normal."""
    subs = subfolders(folder)
    if "train" in subs and _has_normals(subfolders(subs["train"])):
        return _split_layout(subs)
    if any(name.lower().startswith("mt_") and "Imgs" in subfolders(sub) for name, sub in subs.items()):
        return "mtd"
    if "Data" in subs and "Images" in subfolders(subs["Data"]):
        return "visa"
    if (folder / METADATA).is_file() and holds_images(folder, below=False):  # an exported flat folder
        return "flat"
    return "classes" if _has_normals(subs) else None


def recognise_split(folder: Path) -> str | None:
    """The layout of a folder with train or test images, when nothing says which images are normal."""
    subs = subfolders(folder)
    return _split_layout(subs) if any(part in subs and holds_images(subs[part]) for part in ("train", "test")) else None


def recognise_loose(folder: Path) -> str | None:
    """The layout, classes or flat, of any folder with images in it."""
    if any(holds_images(sub) for name, sub in subfolders(folder).items() if name != "ground_truth"):
        return "classes"
    return "flat" if holds_images(folder, below=False) else None


def products_in(folder: Path) -> tuple[str, ...]:
    """Names of the subfolders that are products, sorted; whatever else lies beside them is ignored."""
    subs = subfolders(folder).items()
    return tuple(name for name, sub in subs if name not in _PARTS and (recognise(sub) or recognise_split(sub)))


def read_layout(folder: Path, layout: str, seed: int) -> tuple[Refs, Refs]:
    """Training images (normal ones; all of a flat folder) and test images, each sorted by id."""
    readers = {"visa": _read_visa, "mtd": _read_mtd, "classes": _read_classes, "flat": _read_flat}
    if layout in readers:
        train, test = readers[layout](folder, seed)
    else:
        train, test = _read_split(folder, layout)
    return sorted(train, key=_by_id), sorted(test, key=_by_id)


def split_normals(refs: Iterable[SampleRef], seed: int) -> tuple[Refs, Refs]:
    """80 % of the normal images, at least one, drawn by `seed`; and all other images."""
    refs = sorted(refs, key=_by_id)
    normals = [ref for ref in refs if ref.label == GOOD]
    drawn = np.random.default_rng(seed).permutation(len(normals))[: max(1, int(TRAIN_SHARE * len(normals)))]
    ids = {normals[i].id for i in drawn}
    return [ref for ref in refs if ref.id in ids], [ref for ref in refs if ref.id not in ids]


def _by_id(ref: SampleRef) -> str:
    return ref.id


def normal_label(name: str) -> str:
    """A class's name; "good" for what means that."""
    return GOOD if name.lower() in _NORMAL else name


def _has_normals(subs: dict[str, Path]) -> bool:
    return any(normal_label(name) == GOOD and holds_images(sub) for name, sub in subs.items())


def _split_layout(subs: dict[str, Path]) -> str:
    """Which of the layouts with train/ and test/ a folder with these subfolders has."""
    parts = [subfolders(subs[part]) for part in ("train", "test") if part in subs]
    classes = {name: sub for part in parts for name, sub in part.items()}
    inner = {name for sub in classes.values() for name in subfolders(sub)}
    if "rgb" in inner:
        return "mvtec3d"
    if {"logical_anomalies", "structural_anomalies"} & classes.keys():
        return "loco"
    return "aebad" if inner & _AEBAD_DOMAINS else "mvtec"


class _Masks:
    """Mask files by the name of the image they belong to."""

    def __init__(self, paths: Iterable[tuple[str, Path]]):
        """(name below the folder of masks, path) of every mask."""
        self._by_stem, self._by_folder = defaultdict(list), defaultdict(list)
        for name, path in paths:
            stem = _stem(name)
            self._by_stem[stem].append(path)
            self._by_folder[stem.rpartition("/")[0]].append(path)

    @classmethod
    def below(cls, folder: Path) -> _Masks:
        return cls((name, folder / name) for name in images_below(folder)) if folder.is_dir() else cls(())

    def of(self, image: str) -> tuple[Path, ...]:
        """CLASS/000.png has CLASS/000_mask.*, or else CLASS/000.*, or else all of CLASS/000/*."""
        stem = _stem(image)
        for index, key in ((self._by_stem, stem + "_mask"), (self._by_stem, stem), (self._by_folder, stem)):
            if key in index:
                return tuple(index[key])
        return ()


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _read_split(folder: Path, layout: str) -> tuple[Refs, Refs]:
    masks, rule = _Masks.below(folder / "ground_truth"), "nonzero" if layout == "loco" else "half"
    names = {part: images_below(folder / part) if (folder / part).is_dir() else [] for part in ("train", "test")}
    if layout == "mvtec3d":
        masks = _Masks((n.replace("/gt/", "/rgb/"), folder / "test" / n) for n in names["test"] if _is_in(n, "gt"))
        names = {part: [n for n in found if _is_in(n, "rgb")] for part, found in names.items()}

    def refs(part: str, loose_label: str | None) -> Iterable[SampleRef]:
        for name in names[part]:
            label = normal_label(name.split("/")[0]) if "/" in name else loose_label
            found = () if label in (GOOD, None) else masks.of(name)
            yield SampleRef(f"{part}/{name}", folder / part / name, label, found, rule)

    return [ref for ref in refs("train", GOOD) if ref.label == GOOD], list(refs("test", None))


def _is_in(name: str, kind: str) -> bool:
    parts = name.split("/")
    return len(parts) > 2 and parts[1] == kind


def _read_visa(folder: Path, seed: int) -> tuple[Refs, Refs]:
    table = folder.parent / VISA_SPLIT
    if table.is_file() and (rows := _visa_rows(table, folder.name)):
        return _read_visa_split(folder, table, rows)
    masks, refs = _Masks.below(folder / "Data" / "Masks"), []
    for name in images_below(folder / "Data" / "Images"):
        label = _visa_label(name.split("/")[0])
        found = () if label == GOOD else masks.of(name)
        refs.append(SampleRef(f"Data/Images/{name}", folder / "Data" / "Images" / name, label, found, "nonzero"))
    return split_normals(refs, seed)


def _visa_label(name: str) -> str:
    return GOOD if name.lower() == "normal" else name.lower()


def _visa_rows(table: Path, product: str) -> list[dict[str, str]]:
    """Rows of VisA's 1cls.csv for one product: object, split, label, image, mask."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.DictReader(file) if row["object"] == product]
    except (KeyError, ValueError, csv.Error) as error:
        raise _not_visa(table, error) from error


def _read_visa_split(folder: Path, table: Path, rows: list[dict[str, str]]) -> tuple[Refs, Refs]:
    """The split of 1cls.csv, whose paths start at the data set's root."""
    split: dict[str, Refs] = {"train": [], "test": []}
    try:
        for row in rows:
            label, image = _visa_label(row["label"]), _below(folder.name, row["image"])
            masks = (folder / _below(folder.name, row["mask"]),) if row["mask"] and label != GOOD else ()
            split[row["split"]].append(SampleRef(image, folder / image, label, masks, "nonzero"))
    except (KeyError, ValueError, AttributeError) as error:  # AttributeError: a row that is cut off
        raise _not_visa(table, error) from error
    present = {f"Data/Images/{name}" for name in images_below(folder / "Data" / "Images")}
    _check_listed(table, [ref.id for part in split.values() for ref in part], present)
    return [ref for ref in split["train"] if ref.label == GOOD], split["test"]


def _not_visa(table: Path, error: Exception) -> InvalidDatasetError:
    return InvalidDatasetError(
        f"{table} is not VisA's split table ({error!r}): restore its columns object,split,label,image,mask"
    )


def _below(product: str, name: str) -> str:
    """The part of a table's path below its product's folder; ValueError when it leaves that folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if ".." in path.parts:
        raise ValueError(f"{name!r} leaves the folder")
    return str(path.relative_to(product))


def _check_listed(table: Path, listed: Iterable[str], present: set[str]) -> None:
    missing = sorted(set(listed) - present)
    if missing:
        raise InvalidDatasetError(
            f"{table} names {len(missing)} images that are not there, such as {missing[0]}: "
            "restore them, or remove that file to draw a split of the images that are"
        )


def _read_mtd(folder: Path, seed: int) -> tuple[Refs, Refs]:
    refs = []
    for name, sub in subfolders(folder).items():
        if not name.lower().startswith("mt_") or not (sub / "Imgs").is_dir():
            continue
        label = GOOD if name.lower() == "mt_free" else name[3:].lower()
        files = [f"{name}/Imgs/{file}" for file in images_below(sub / "Imgs")]
        masks = _Masks((file, folder / file) for file in files if file.lower().endswith(".png"))
        for file in files:
            if not file.lower().endswith(".png"):
                found = () if label == GOOD else masks.of(file)
                refs.append(SampleRef(file, folder / file, label, found))
    table = folder / MTD_SPLIT
    if not table.is_file():
        return split_normals(refs, seed)
    names = {line.strip() for line in table.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()}
    train = [ref for ref in refs if ref.label == GOOD and ref.path.name in names]
    _check_listed(table, names, {ref.path.name for ref in train})
    chosen = {ref.id for ref in train}
    return train, [ref for ref in refs if ref.id not in chosen]


def _read_classes(folder: Path, seed: int) -> tuple[Refs, Refs]:
    masks, refs = _Masks.below(folder / "ground_truth"), []
    for name in images_below(folder):
        first, _, rest = name.partition("/")
        if first == "ground_truth":
            continue
        label = normal_label(first) if rest else None
        found = () if label in (GOOD, None) else masks.of(name)
        refs.append(SampleRef(name, folder / name, label, found))
    return split_normals(refs, seed)


def _read_flat(folder: Path, seed: int) -> tuple[Refs, Refs]:
    refs = [SampleRef(name, folder / name) for name in images_below(folder) if "/" not in name]
    return refs, refs
