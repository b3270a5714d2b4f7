"""Where a benchmark's data sets and weights lie, and what tells them from others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomalyhub.benchmark.config import ALL, Row, canonical
from anomalyhub.benchmark.records import digest
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, UnknownNameError

SAMPLE = "sample"
#: Folders, below the folder of data sets, in which a data set is looked for.
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "mvtec_ad": ("mvtec_ad", "mvtec_anomaly_detection", "mvtec", "MVTec-AD"),
    "mvtec_3d_ad": ("mvtec_3d_ad", "mvtec_3d_anomaly_detection", "mvtec_3d", "mvtec3d"),
    "visa": ("visa", "VisA", "VisA_20220922"),
    "mpdd": ("mpdd", "MPDD"),
    "mtd": ("mtd", "MTD", "Magnetic-Tile-Defect", "magnetic_tile"),
    "aebad_s": ("aebad_s", "AeBAD_S", "AeBAD-S", "AeBAD/AeBAD_S"),
    "dtd": ("dtd", "DTD"),
    "leather": ("leather",),
    "steel": ("steel",),
    "textures": ("textures",),
    SAMPLE: (),
}


@dataclass(frozen=True)
class Sources:
    """What `--data-root`, `--data NAME=PATH` and `--weights` say.

    data_root  the folder of data sets           data  paths of single data sets, by AnomalyHub's names
    weights    where paths after a backbone's @, and of a setting `weights`, start; None: the working folder
    """

    data_root: Path | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    weights: Path | None = None

    def root(self, name: str) -> str:
        """A path for `load_dataset`. Raises UnknownNameError, InvalidDatasetError."""
        if name in self.data:
            return self.data[name]
        if name.startswith("hf:"):
            return name
        below = [] if self.data_root is None else [self.data_root / one for one in FOLDERS.get(name, (name,))]
        for folder in below:
            if folder.is_dir():
                return str(folder)
        if name not in FOLDERS:
            there = [] if self.data_root is None else [path.name for path in _folders(self.data_root)]
            raise UnknownNameError("data set", name, {*FOLDERS, *self.data, *there})
        where = "there is no --data-root" if self.data_root is None else f"{self.data_root} has no {name}"
        raise InvalidDatasetError(f"the data set {name} is not there, as {where}: give --data {name}=FOLDER")

    def products(self, row: Row) -> dict[str, str | None]:
        """The products of a row, by name; the values are what `load_dataset` takes.

        Raises UnknownNameError for one that the data set does not have, InvalidArgumentError where none is left.
        """
        from anomalyhub.data import list_products
        from anomalyhub.data.sample import PRODUCTS

        names = PRODUCTS if row.dataset == SAMPLE else list_products(self.root(row.dataset))
        found: dict[str, str | None] = {name: name for name in names} or {row.dataset: None}
        for name in (*row.products, *row.exclude_products):
            if name != ALL and name not in found:
                raise UnknownNameError(f"product of {row.dataset}", name, found)
        chosen = [name for name in found if ALL in row.products or name in row.products]
        chosen = [name for name in chosen if name not in row.exclude_products]
        if not chosen:
            raise InvalidArgumentError(f"every product of {row.dataset} is left out: exclude fewer")
        return {name: found[name] for name in chosen}

    def spec(self, text: str | None) -> str | None:
        """A backbone's SPEC with the path of its file in the weights folder."""
        name, at, file = (text or "").partition("@")
        return f"{name}@{self.weights_path(file)}" if at else text

    def weights_path(self, text: str) -> str:
        """The path of a weights file or folder."""
        return str((self.weights or Path()) / Path(text).expanduser())

    def weights_digest(self, text: str) -> str:
        """What tells weights from others: of a file its bytes, of a folder those of its small files and all sizes."""
        from anomalyhub.backbones.spec import fingerprint

        path = Path(self.weights_path(text))
        if not path.exists():
            raise InvalidArgumentError(f"weights {path} do not exist: give the folder of {text} with --weights")
        if path.is_file():
            return fingerprint(path)[:16]
        files = sorted(one for one in path.rglob("*") if one.is_file())
        listed = [(one.relative_to(path).as_posix(), one.stat().st_size, one) for one in files]
        return digest([(name, size, fingerprint(one) if size < 1 << 27 else "") for name, size, one in listed])[:16]

    @classmethod
    def of(cls, data_root: str | None, data: list[str], weights: str | None) -> Sources:
        """From texts of a command line. Raises InvalidArgumentError for one of `data` that is not NAME=PATH."""
        named = {}
        for text in data:
            name, equals, path = text.partition("=")
            if not equals or not name.strip() or not path.strip():
                raise InvalidArgumentError(f"--data {text!r} is not NAME=PATH: write for example --data mtd=/data/MTD")
            named[canonical(name.strip())] = os.path.expanduser(path.strip())
        root = None if data_root is None else Path(data_root).expanduser()
        if root is not None and not root.is_dir():
            raise InvalidArgumentError(f"--data-root {data_root} is no folder: give the folder of data sets")
        return cls(root, named, None if weights is None else Path(weights).expanduser())


def data_digest(dataset: Any) -> str:
    """16 hex digits of the list of a product's images: ids, labels, and sizes in bytes of images and masks."""
    parts = []
    for split in (dataset.train, dataset.test):
        files = [(getattr(ref, "path", None), *getattr(ref, "masks", ())) for ref in split.refs]
        parts.append([(ref.id, ref.label, *map(_size, own)) for ref, own in zip(split.refs, files, strict=True)])
    return digest(parts)[:16]


def without_folders(value: Any) -> Any:
    """JSON values whose texts name files of this machine by their last part alone, after a backbone's @ too."""
    if isinstance(value, Mapping):
        return {without_folders(key): without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    name, at, file = value.partition("@")
    if at and os.path.isabs(os.path.expanduser(file)):
        return f"{name}@{os.path.basename(file)}"
    return os.path.basename(value.rstrip("/")) if os.path.isabs(value) or value.startswith("~") else value


def _size(path: Path | None) -> int:
    """0 for an image that is no file of its own, as in a table of a Hub data set."""
    try:
        return 0 if path is None else Path(path).stat().st_size
    except OSError:
        return 0


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
