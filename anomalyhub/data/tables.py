"""Tables of images as Hugging Face's `datasets` keeps them: what their columns mean, and the samples in their rows.

Of the columns are used the first that is there of

    image  image, img, picture, photo                                    the encoded file, which is needed
    mask   mask, mask_image, segmentation_mask, anomaly_mask, ground_truth, gt, segmentation, annotation
    label  label, labels, defect, defect_type, anomaly_type, class, class_name
    flag   anomaly, is_anomaly, is_anomalous, anomalous, defective, label_index   where there is no label
    id     id, image_id, file_name, filename, image_path, path

and a label is a name, a number with a name in the schema, or 0 and 1 for normal and anomalous.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from anomalyhub.data.configs import Files, class_names, role
from anomalyhub.data.layouts import normal_label, split_normals
from anomalyhub.data.rows import MAX_ROWS, RowRef, Rows, Shard, shown
from anomalyhub.errors import InvalidDatasetError
from anomalyhub.types import ANOMALOUS, GOOD

#: What our exports say of themselves in the metadata of a schema.
OURS = b"anomalyhub"
_MAX_NAME = 200
#: The names of the numbers of a column of labels, where a card has them.
Names = Callable[[str], "tuple[str, ...]"]

_IMAGES = ("image", "img", "picture", "photo")
_MASKS = "mask mask_image segmentation_mask anomaly_mask ground_truth gt segmentation annotation".split()
_LABELS = "label labels defect defect_type anomaly_type class class_name".split()
_FLAGS = "anomaly is_anomaly is_anomalous anomalous defective label_index".split()
_IDS = "id image_id file_name filename image_path path".split()


@dataclass(frozen=True)
class _Columns:
    """What the columns of a file are; `id` may be a field of the image, such as "image.path"."""

    image: str
    mask: str | None
    label: str | None
    id: str | None
    is_flag: bool  # the label is whether an image is anomalous
    names: tuple[str, ...]  # of the label's numbers
    ours: Mapping[str, Any]


def read_tables(
    files: Files, config: str, splits: Mapping[str, Sequence[str]], seed: int
) -> tuple[list[RowRef], list[RowRef]]:
    """Training images, which are normal, and test images of a config, in the order of their rows.

    Where there is a split to train and another, anomalous images to train are left out, and so is a split to validate
    beside one to test. Without a split to train, or with nothing else, `split_normals` makes one, but not of a split
    called test. Where nothing has a label, all images are both; but in a split to train beside others they are normal
    if there are no masks either.
    Raises InvalidDatasetError.
    """
    parts: dict[str, list[RowRef]] = {}
    columns: list[_Columns] = []
    for split, names in splits.items():
        shards = [files.shard(name) for name in names]
        found, made = _read_split(split, shards, partial(class_names, files.card, config))
        columns.append(found)
        parts.setdefault(role(split) or "other", []).extend(made)
    train = parts.pop("train", [])
    others = [ref for part in ("test", "other") for ref in parts.pop(part, [])] or parts.pop("validation", [])
    said = {one.ours.get("split") for one in columns}  # by an export of ours
    parted = bool(train and others) or set(map(role, splits)) == {"test"}
    _make_unique({"train": train, "test": others})
    everything = [*train, *others]
    unlabelled = all(ref.label is None for ref in everything)
    if "both" in said:
        return everything, everything
    if said <= {"train", "test"}:
        return [ref for ref in train if ref.label == GOOD], others
    if unlabelled and train and others and not any(one.mask for one in columns):
        return [_with(ref, label=GOOD) for ref in train], others
    if unlabelled:
        return everything, everything
    if parted:
        return [ref for ref in train if ref.label == GOOD], others
    chosen = {ref.id for ref in split_normals(everything, seed)[0]}
    return [ref for ref in everything if ref.id in chosen], [ref for ref in everything if ref.id not in chosen]


def _with(ref: RowRef, **changes: str | None) -> RowRef:
    return RowRef(**{"id": ref.id, "label": ref.label, **changes}, rows=ref.rows, at=ref.at)  # type: ignore[arg-type]


def _make_unique(splits: Mapping[str, list[RowRef]]) -> None:
    """Put the split before the ids where both have the same."""
    counts = Counter(ref.id for refs in splits.values() for ref in refs)
    if len(counts) < sum(map(len, splits.values())):
        for split, refs in splits.items():
            refs[:] = [_with(ref, id=f"{split}/{ref.id}") for ref in refs]


def _read_split(split: str, shards: Sequence[Shard], names: Names) -> tuple[_Columns, list[RowRef]]:
    """What the columns are, and the samples of all rows."""
    columns: _Columns | None = None
    found: list[tuple[Any, Any, tuple[int, int]]] = []
    for number, shard in enumerate(shards):
        here = _columns(shard, names)
        if columns is not None and (here.image, here.mask, here.names) != (columns.image, columns.mask, columns.names):
            raise InvalidDatasetError(
                f"{shown(shard.name)} has other columns than {shown(shards[0].name)}: give each its own config"
            )
        columns = columns or here
        wanted = [name for name in (here.id, here.label) if name is not None]
        values = list(shard.texts(wanted)) if wanted else [[]] * shard.starts[-1]
        if len(values) != shard.starts[-1]:
            raise InvalidDatasetError(f"{shown(shard.name)} is damaged (rows are missing): download or export it again")
        if len(found) + len(values) > MAX_ROWS:
            raise InvalidDatasetError(f"the split {shown(split)} has over {MAX_ROWS} rows: give a part of it")
        for row, one in enumerate(values):
            found.append((one[0] if here.id else None, one[-1] if here.label else None, (number, row)))
    if columns is None:
        raise InvalidDatasetError(f"the split {shown(split)} has no files: remove it from the card")
    rows, ids = Rows(shards, columns.image, columns.mask), _ids(split, [one for one, _, _ in found])
    labels = _labels([label for _, label, _ in found], columns, shards[0].name)
    return columns, [
        RowRef(*one, rows=rows, at=at) for *one, at in zip(ids, labels, (at for *_, at in found), strict=True)
    ]


def _ids(split: str, values: Sequence[Any]) -> list[str]:
    """The ids of a table's rows, or their numbers where ids are missing, not unique, or no plain relative paths."""
    ids = [str(value) if isinstance(value, (str, int)) else "" for value in values]
    if len(set(ids)) == len(ids) and all(map(_is_plain, ids)):
        return ids
    digits = max(4, len(str(len(ids))))
    return [f"{split}/{number:0{digits}}" for number in range(len(ids))]


def _is_plain(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return 0 < len(name) <= 1000 and name.isprintable() and ".." not in parts and "" not in parts and "." not in parts


def _labels(values: Sequence[Any], columns: _Columns, where: str) -> list[str | None]:
    """Labels as AnomalyHub has them, None where unknown. Raises InvalidDatasetError for what is no label."""
    numbers = {value for value in values if isinstance(value, int)}
    # -1 is what `datasets` gives images without a label
    flags = columns.is_flag or (not columns.names and numbers <= {-1, 0, 1})
    known = {value: _label(value, columns.names, flags, where) for value in set(values)}
    return [known[value] for value in values]


def _label(value: Any, names: Sequence[str], is_flag: bool, where: str) -> str | None:
    if value is None or value == "" or (value == -1 and isinstance(value, int)):
        return None
    if isinstance(value, int) and names:
        if not 0 <= value < len(names):
            raise InvalidDatasetError(
                f"{shown(where)} has the label {value} and names for {len(names)}: correct its schema"
            )
        value = names[value]
    elif isinstance(value, int) and is_flag:
        value = ANOMALOUS if value else GOOD
    name = str(value)
    if len(name) > _MAX_NAME or not name.isprintable() or not name.strip():
        raise InvalidDatasetError(f"{shown(where)} has the label {shown(name)}, which is no name: rename it")
    return normal_label(name)


def _columns(shard: Shard, names: Names) -> _Columns:
    """What the columns of a file are. Raises InvalidDatasetError when there are no images in it."""
    import pyarrow as pa

    with shard.open() as file:
        schema = file.schema_arrow
    kinds = {name: schema.field(name).type for name in schema.names if schema.names.count(name) == 1}
    pictures = [name for name, kind in kinds.items() if _is_picture(kind)]
    mask = next((name for name in _MASKS if name in pictures), None)
    image = next((name for name in (*_IMAGES, *pictures) if name in pictures and name != mask), None)
    if image is None:
        raise InvalidDatasetError(
            f"{shown(shard.name)} has no column of encoded images, but {shown(', '.join(kinds))}: "
            "store the bytes of the image files in a column named image"
        )
    texts = {name for name, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)}
    numbers = {name for name, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_boolean(kind)}
    label = next((name for name in _LABELS if name in texts | numbers), None)
    flag = next((name for name in _FLAGS if name in numbers), None) if label is None else None
    has_path = pa.types.is_struct(kinds[image]) and kinds[image].get_field_index("path") >= 0
    return _Columns(
        image=image,
        mask=mask,
        label=label or flag,
        id=next((name for name in _IDS if name in texts | numbers), f"{image}.path" if has_path else None),
        is_flag=flag is not None,
        names=label_names(schema, label) or names(label) if label else (),
        ours=ours(schema),
    )


def _is_picture(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        fields = {one.name: one.type for one in kind}
        return "bytes" in fields and _is_bytes(fields["bytes"])
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def ours(schema: Any) -> dict[str, Any]:
    """What an export of ours says of itself in its schema; {} for another's."""
    return _json(schema.metadata, OURS)


def label_names(schema: Any, column: str | None) -> tuple[str, ...]:
    """The names of a column's numbers in a schema that `datasets` wrote, which embeds its features."""
    info = _json(schema.metadata, b"huggingface").get("info")
    features = info.get("features") if isinstance(info, dict) else None
    feature = features.get(column) if isinstance(features, dict) else None
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _json(metadata: Mapping[bytes, bytes] | None, key: bytes) -> dict[str, Any]:
    try:
        value = json.loads((metadata or {})[key])
    except (KeyError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
