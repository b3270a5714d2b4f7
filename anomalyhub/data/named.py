"""What an exported image folder says of its files beside their names: ids, labels and masks, in metadata.parquet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from anomalyhub.data.layouts import METADATA
from anomalyhub.data.rows import Shard, shown
from anomalyhub.data.samples import SampleRef
from anomalyhub.data.tables import label_names, ours
from anomalyhub.errors import InvalidDatasetError
from anomalyhub.types import GOOD

_COLUMNS = ["file_name", "id", "mask_file_name", "label"]


def named(folder: Path, refs: Iterable[SampleRef]) -> list[SampleRef]:
    """The samples with what the export knew of them; those that came later stay as their names have them.

    Raises InvalidDatasetError for a table that is damaged or names files outside of the folder.
    """
    refs = list(refs)
    known = {}
    for part in ("", "train/"):
        if (folder / part / METADATA).is_file():
            known.update(_read(folder, part))
    found = sorted((_named(folder, ref, known) for ref in refs), key=lambda ref: ref.id)
    return found if len({ref.id for ref in found}) == len(found) else refs


def _named(folder: Path, ref: SampleRef, known: dict[str, tuple[str, str | None, str | None]]) -> SampleRef:
    if ref.id not in known:
        return ref
    name, label, mask = known[ref.id]
    label = ref.label if GOOD in (ref.label, label) else label  # which images are normal, the folders say
    return replace(ref, id=name, label=label, masks=(folder / mask,) if mask else ref.masks)


def _read(folder: Path, part: str) -> dict[str, tuple[str, str | None, str | None]]:
    """File -> (id, label, mask file), all below the folder; nothing from a table that is not ours."""
    path = folder / part / METADATA
    shard, found = Shard(str(path), path, str(path)), {}
    with shard.open() as file:
        schema = file.schema_arrow
    if not ours(schema) or not set(_COLUMNS) <= set(schema.names):
        return {}
    names = label_names(schema, "label")
    for image, name, mask, label in shard.texts(_COLUMNS):
        files = [part + one for one in (image, mask) if isinstance(one, str)]
        if not isinstance(name, str) or not files or not all(map(_is_inside, files)):
            raise InvalidDatasetError(f"{path} names {shown(files or name)}, which is no file below it: export again")
        if label is not None and not (isinstance(label, int) and 0 <= label < len(names)):
            raise InvalidDatasetError(f"{path} has the label {shown(label)}, which has no name: export again")
        found[files[0]] = (name, None if label is None else names[label], files[1] if len(files) > 1 else None)
    return found


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name
