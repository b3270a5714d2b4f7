"""The files of an exported split: an image folder with a table of its metadata, or parquet files."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from anomalyhub.data.export_rows import Part, Row, folder_name, unique
from anomalyhub.data.layouts import METADATA
from anomalyhub.data.tables import OURS
from anomalyhub.protocols import Progress
from anomalyhub.types import GOOD

#: Of one row group, which a reader that streams fetches by turns.
GROUP_BYTES, GROUP_ROWS = 32_000_000, 100
_NORMAL = ("good", "ok", "normal")
_IMAGES = {"image": "image", "mask": "image"}


@dataclass(frozen=True)
class Written:
    """What the card says of a split: patterns of its files, the bytes of its images and masks, its features."""

    files: list[str]
    n_bytes: int
    features: list[dict[str, Any]]


def write_images(one: Part, root: Path, progress: Progress) -> Written:
    """Write a split's images and masks as files below `root`/PRODUCT, and its metadata.parquet."""
    import pyarrow.parquet as pq

    base = "train/" if one.split == "train" and not one.is_both else ""
    places, columns, n_bytes = _places(one), defaultdict(list), 0
    for row, (folder, stem) in zip(one.rows(progress), places, strict=True):
        image = f"{folder}{stem}{row.suffix}"
        mask = None if row.mask is None else f"ground_truth/{folder.removeprefix('test/')}{stem}_mask.png"
        for name, data in ((image, row.image), (mask, row.mask)):
            if name is not None and data is not None:
                _write(root / one.product / name, data)
                n_bytes += len(data)
        columns["id"].append(row.id)
        columns["file_name"].append(image.removeprefix(base))
        columns["mask_file_name"].append(mask)
        _add_truth(columns, row, one)
    table = _table(columns, one, {"file_name": "string", "mask_file_name": "string"})
    pq.write_table(table, root / one.product / base / METADATA)
    return Written(_patterns(one, columns["mask_file_name"]), n_bytes, _features(one, _IMAGES)._to_yaml_list())


def _patterns(one: Part, masks: Sequence[str | None]) -> list[str]:
    """Globs of the table and of the images and masks, which `datasets` has to fetch as well."""
    if one.is_both:
        return [f"{one.product}/**"]
    if one.split == "train":
        return [f"{one.product}/train/**"]
    more = [f"{one.product}/ground_truth/**"] if any(masks) else []
    return [f"{one.product}/{METADATA}", f"{one.product}/{one.split}/**", *more]


def _places(one: Part) -> list[tuple[str, str]]:
    """Folder, with a slash at its end, and file name without suffix, of each image."""
    names = unique(map(folder_name, one.class_names[1:]), _NORMAL)
    defects = {label: f"{name}/" for label, name in zip(one.classes[1:], names, strict=True)}
    folder_of = {None: "", GOOD: "good/", **defects}
    start = "" if one.is_both else f"{one.split}/"
    folders = [start + ("" if one.is_both else folder_of[ref.label]) for ref in one.refs]
    groups: dict[str, list[int]] = defaultdict(list)
    for index, folder in enumerate(folders):
        groups[folder].append(index)
    stems = [""] * len(folders)
    for members in groups.values():
        for index, stem in zip(members, _stems([one.refs[index].id for index in members]), strict=True):
            stems[index] = stem
    return list(zip(folders, stems, strict=True))


def _stems(ids: Sequence[str]) -> list[str]:
    """File names without suffix of images that come into one folder: the folders that not all have, and the name."""
    parts = [[part for part in PurePosixPath(one).parts if part not in ("/", "..")] or ["image"] for one in ids]
    shared = len(os.path.commonprefix([folders[:-1] for folders in parts]))
    stems = [folder_name("_".join([*one[shared:-1], PurePosixPath(one[-1]).stem])) for one in parts]
    # or one would pass for the mask of another
    return unique(f"{stem}_image" if stem.casefold().endswith("_mask") else stem for stem in stems)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)


def write_parquet(one: Part, root: Path, shard_bytes: int, progress: Progress) -> Written:
    """Write a split as `root`/PRODUCT/SPLIT-00000-of-00001.parquet and so on."""
    (root / one.product).mkdir(exist_ok=True)
    writer = _Shards(one, root / one.product, shard_bytes)
    for row in one.rows(progress):
        writer.add(row)
    writer.close()
    return Written([f"{one.product}/{one.split}-*.parquet"], writer.n_bytes, _features(one, _IMAGES)._to_yaml_list())


class _Shards:
    """Rows to parquet files of about `shard_bytes`, in row groups of GROUP_BYTES or GROUP_ROWS."""

    def __init__(self, one: Part, folder: Path, shard_bytes: int):
        self.one, self.folder, self.limit = one, folder, shard_bytes
        self.n_bytes = self._in_shard = self._in_group = self._count = 0
        self._columns: dict[str, list[Any]] = defaultdict(list)
        self._writer: Any = None

    def add(self, row: Row) -> None:
        size = len(row.image) + len(row.mask or b"")
        if self._columns["id"] and self._in_group + size > min(GROUP_BYTES, self.limit):
            self._flush()
        if self._writer is not None and self._in_shard + self._in_group + size > self.limit:
            self._flush()
            self._end_shard()
        name = f"{_stems([row.id])[0]}{row.suffix}"
        self._columns["id"].append(row.id)
        self._columns["image"].append({"bytes": row.image, "path": name})
        self._columns["mask"].append(None if row.mask is None else {"bytes": row.mask, "path": f"{name}_mask.png"})
        _add_truth(self._columns, row, self.one)
        self._in_group += size
        self.n_bytes += size
        if len(self._columns["id"]) == GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow.parquet as pq

        if not self._columns["id"]:
            return
        table = _table(self._columns, self.one, _IMAGES)
        if self._writer is None:
            # images are compressed already, and dictionaries of them only cost memory
            options: dict[str, Any] = {"use_dictionary": False, "write_statistics": ["id", "label"]}
            self._writer = pq.ParquetWriter(self._part(self._count), table.schema, **options)
        self._writer.write_table(table)
        self._in_shard += self._in_group
        self._in_group = 0
        self._columns.clear()

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._in_shard = None, 0
            self._count += 1

    def _part(self, number: int) -> Path:
        return self.folder / f".{self.one.split}-{number:05d}"

    def close(self) -> None:
        """Finish the last file, and name them all, now that their number is known."""
        self._flush()
        self._end_shard()
        for number in range(self._count):
            name = f"{self.one.split}-{number:05d}-of-{self._count:05d}.parquet"
            self._part(number).rename(self.folder / name)


def _add_truth(columns: dict[str, list[Any]], row: Row, one: Part) -> None:
    columns["boxes"].append(None if row.boxes is None else [list(box) for box in row.boxes])
    columns["label"].append(None if row.label is None else one.classes.index(row.label))


def _features(one: Part, files: dict[str, str]) -> Any:
    """`datasets.Features` of a split; `files`: the columns of images, or of their names."""
    import datasets

    kinds = {"image": datasets.Image(), "string": datasets.Value("string")}
    return datasets.Features(
        {
            "id": datasets.Value("string"),
            "label": datasets.ClassLabel(names=one.class_names),
            **{name: kinds[kind] for name, kind in files.items()},
            "boxes": datasets.List(datasets.List(datasets.Value("int32"), length=4)),
        }
    )


def _table(columns: dict[str, list[Any]], one: Part, files: dict[str, str]) -> Any:
    import pyarrow as pa

    schema = _features(one, files).arrow_schema
    about = {"product": one.product, "split": "both" if one.is_both else one.split}
    schema = schema.with_metadata({**(schema.metadata or {}), OURS: json.dumps(about).encode()})
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
