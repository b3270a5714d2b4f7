"""Images in the rows of parquet files: read on demand, each row group once in a pass, little of it held at a time.

The files are a stranger's. Whatever is wrong with one is an InvalidDatasetError on opening or an InvalidImageError on
reading, and a path that is stored beside the bytes of an image is a name, never a place to read from.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from anomalyhub.data.images import Encoded
from anomalyhub.data.samples import SampleRef
from anomalyhub.errors import InvalidDatasetError, InvalidImageError, StoreError
from anomalyhub.fsio import atomic_file
from anomalyhub.hub.base import cache_root
from anomalyhub.types import GOOD, Sample

if TYPE_CHECKING:
    import pyarrow.parquet as pq

#: Bytes of encoded images that stay in memory per split, and the most that one image may have.
WINDOW, MAX_IMAGE_BYTES = 256 * 1024**2, 256 * 1024**2
MAX_ROWS = 5_000_000
_BUFFER = 4 * 1024**2  # of one read: far less than the row groups that others write
_TEXT_ROWS, _FIELD_ROWS, _MAX_TEXT = 1024, 8, 4096
_SHOWN = 120
#: What a cell holds: bytes, None for nothing, or the number of bytes where there are too many.
Cell = bytes | int | None
#: The cells of an image and of its mask.
Pair = tuple[Cell, Cell]

_SIGNATURES = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"BM", ".bmp"),
    (b"RIFF", ".webp"),
    (b"P5", ".pgm"),
    (b"P6", ".ppm"),
)


def shown(text: object) -> str:
    """A stranger's text for a message: short, on one line, without letters that move the cursor."""
    text = str(text)
    return ascii(text if len(text) <= _SHOWN else "..." + text[-_SHOWN:])[1:-1]


@dataclass(eq=False)
class Shard:
    """One parquet file.

    name      for messages; path: where it is, or a function that opens it for reading at any place
    identity  another one for another content
    """

    name: str
    path: Path | Callable[[], BinaryIO]
    identity: str
    _footer: Any = field(default=None, repr=False)

    def open(self, **options: Any) -> pq.ParquetFile:
        """Raises InvalidDatasetError, and StoreError for one that is elsewhere."""
        import pyarrow.parquet as pq

        try:
            source = self.path if isinstance(self.path, Path) else self.path()
            file = pq.ParquetFile(source, metadata=self._footer, **options)
            self._footer = file.metadata
            return file
        except StoreError:
            raise
        except Exception as error:  # pyarrow raises its own, OSError, ValueError, MemoryError and others
            raise InvalidDatasetError(
                f"{shown(self.name)} is not a parquet file or is damaged ({_why(error)}): download or export it again"
            ) from error

    @cached_property
    def starts(self) -> list[int]:
        """The first row of each row group, and the number of rows."""
        if self._footer is None:
            self.open().close()
        groups = range(self._footer.num_row_groups)
        starts = [0, *accumulate(self._footer.row_group(group).num_rows for group in groups)]
        if min(map(int.__sub__, starts[1:], starts), default=0) < 0 or starts[-1] > MAX_ROWS:
            raise InvalidDatasetError(
                f"{shown(self.name)} says that it has {starts[-1]} rows, and at most {MAX_ROWS} are read: split it up"
            )
        return starts

    def texts(self, columns: Sequence[str]) -> Iterator[list[Any]]:
        """For each row, the values of these columns; "image.path" is a field of a column. No other column is read."""
        flat = [column for column in columns if "." not in column]
        # a field cannot be read as a dictionary, so that few rows at a time may repeat a long text
        rows = _TEXT_ROWS if len(flat) == len(columns) else _FIELD_ROWS
        with self.open(read_dictionary=flat, pre_buffer=True) as file:
            try:
                for batch in file.iter_batches(rows, columns=list(columns), use_threads=False):
                    yield from map(list, zip(*(_values(_leaf(batch, column)) for column in columns), strict=True))
            except (InvalidDatasetError, StoreError):
                raise
            except Exception as error:
                raise InvalidDatasetError(
                    f"{shown(self.name)} cannot be read ({_why(error)}): download or export it again"
                ) from error


def _leaf(batch: Any, column: str) -> Any:
    """A column, or for "image.bytes" the field of a struct, which is meant even where a column has that very name."""
    import pyarrow as pa
    import pyarrow.compute as pc

    name, _, inner = column.rpartition(".")
    if name in batch.schema.names and pa.types.is_struct(batch.schema.field(name).type):
        return pc.struct_field(batch.column(name), [inner])
    return batch.column(column)


def _values(array: Any) -> list[Any]:
    """Python values of an array, checked before long ones are multiplied."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = array.dictionary if pa.types.is_dictionary(array.type) else array
    if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
        longest = pc.max(pc.binary_length(texts)).as_py() or 0
        if longest > _MAX_TEXT:
            raise ValueError(f"a text of {longest} bytes where a name is expected")
    return array.to_pylist()


def _why(error: BaseException) -> str:
    return shown(str(error).strip().partition("\n")[0] or type(error).__name__)


@dataclass
class _Pass:
    """A reading of one row group: the shard and group, the row that comes next, and the rest of the rows."""

    where: tuple[int, int]
    next: int
    rows: Iterator[Pair]


class Rows:
    """The image and mask bytes of rows of shards, which are one after the other.

    Rows that are asked for in order come from one pass over the file. What was read last stays in memory, up to
    WINDOW bytes; a row from further back begins its row group anew.
    """

    def __init__(self, shards: Sequence[Shard], image: str, mask: str | None = None):
        """image, mask  their columns: the bytes themselves, or structs with a field "bytes"."""
        self.shards, self.image, self.mask = list(shards), image, mask
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], Pair] = OrderedDict()
        self._kept_bytes = 0
        self._pass: _Pass | None = None

    def read(self, shard: int, row: int) -> Pair:
        """The cells of an image and of its mask. Raises InvalidImageError, StoreError."""
        with self._lock:
            if (shard, row) in self._kept:
                self._kept.move_to_end((shard, row))
                return self._kept[shard, row]
            try:
                return self._read(shard, row)
            except BaseException as error:
                self._pass = None
                if isinstance(error, (InvalidImageError, InvalidDatasetError, StoreError)) or not isinstance(
                    error, Exception
                ):
                    raise
                raise InvalidImageError(
                    f"{self._name(shard, row)} cannot be read ({_why(error)}): download or export the file again"
                ) from error

    def file(self, shard: int, row: int, part: int) -> Path:
        """A file with the bytes of the image (part 0) or mask (1), in AnomalyHub's cache; written if need be."""
        key = hashlib.sha256(f"{self.shards[shard].identity}\n{self.image}\n{self.mask}".encode()).hexdigest()[:24]
        folder = cache_root() / "rows" / key
        stem = f"{row:07d}{'-mask' * part}"
        for suffix in dict.fromkeys(suffix for _, suffix in _SIGNATURES):
            if (folder / (stem + suffix)).is_file():
                return folder / (stem + suffix)
        data = self.encoded(shard, row, part).data
        path = folder / (stem + suffix_of(data))
        with atomic_file(path) as staged:
            staged.write_bytes(data)
        return path

    def encoded(self, shard: int, row: int, part: int) -> Encoded:
        """The image (part 0) or mask (1). Raises InvalidImageError where there is none."""
        data = self.read(shard, row)[part]
        if data is None:
            raise InvalidImageError(
                f"{self._name(shard, row)} has no bytes, only a name or nothing: store the images in the table"
            )
        if isinstance(data, int):
            raise InvalidImageError(
                f"{self._name(shard, row)} has {data / 1024**2:.0f} MiB, the limit is {MAX_IMAGE_BYTES // 1024**2}: "
                "store a smaller image"
            )
        return Encoded(f"{self._name(shard, row)}{' (mask)' * part}", data)

    def _name(self, shard: int, row: int) -> str:
        return f"row {row} of {shown(self.shards[shard].name)}"

    def _read(self, shard: int, row: int) -> Pair:
        starts = self.shards[shard].starts
        group = bisect_right(starts, row) - 1
        at = self._pass
        if at is None or at.where != (shard, group) or at.next > row:
            at = self._pass = _Pass((shard, group), starts[group], self._iterate(shard, group))
        while at.next <= row:
            data = next(at.rows, None)
            if data is None:
                raise InvalidImageError(f"{self._name(shard, row)} is missing: download or export the file again")
            self._keep((shard, at.next), data)
            at.next += 1
        return data

    def _keep(self, key: tuple[int, int], data: Pair) -> None:
        self._kept_bytes += _size(data) - _size(self._kept.pop(key, (None, None)))
        self._kept[key] = data
        while self._kept_bytes > WINDOW and len(self._kept) > 1:
            self._kept_bytes -= _size(self._kept.popitem(last=False)[1])

    def _iterate(self, shard: int, group: int) -> Iterator[Pair]:
        """One row at a time: a small file can hold a large image once and name it in a million rows."""
        with self.shards[shard].open(pre_buffer=False, buffer_size=_BUFFER) as file:
            leaves = [_bytes_column(file, name) for name in (self.image, self.mask) if name is not None]
            for batch in file.iter_batches(1, row_groups=[group], columns=leaves, use_threads=False):
                cells = [_cell(_leaf(batch, leaf)[0]) for leaf in leaves]
                yield cells[0], cells[1] if len(cells) > 1 else None


def _cell(value: Any) -> Cell:
    if not value.is_valid:
        return None
    size = value.as_buffer().size
    return size if size > MAX_IMAGE_BYTES else value.as_py()


def _size(data: Pair) -> int:
    return sum(len(cell) for cell in data if isinstance(cell, bytes))


def _bytes_column(file: pq.ParquetFile, name: str) -> str:
    import pyarrow as pa

    return f"{name}.bytes" if pa.types.is_struct(file.schema_arrow.field(name).type) else name


def suffix_of(data: bytes) -> str:
    """The suffix of an image file by its first bytes; .png where they say nothing."""
    return next((suffix for start, suffix in _SIGNATURES if data.startswith(start)), ".png")


class RowRef(SampleRef):
    """A sample in a row of a table: `load` reads the row, `path` and `masks` write files for those who need one.

    `dataclasses.replace` gives a plain SampleRef of those files.
    """

    rows: Rows
    at: tuple[int, int]

    def __new__(cls, *fields: Any, rows: Rows | None = None, at: tuple[int, int] = (0, 0), **named: Any) -> SampleRef:
        if rows is None:
            return SampleRef(*fields, **named)
        return super().__new__(cls)

    def __init__(self, id: str, label: str | None = None, *, rows: Rows, at: tuple[int, int]):
        for name, value in (("id", id), ("label", label), ("mask_rule", "half"), ("rows", rows), ("at", at)):
            object.__setattr__(self, name, value)

    @property
    def path(self) -> Path:  # type: ignore[override]
        return self.rows.file(*self.at, 0)

    @property
    def masks(self) -> tuple[Path, ...]:  # type: ignore[override]
        return (self.rows.file(*self.at, 1),) if self._has_mask() else ()

    def load(self) -> Sample:
        return self._decoded(self.encoded(), self.encoded_masks(), None)

    def encoded(self) -> Encoded:
        return self.rows.encoded(*self.at, 0)

    def encoded_masks(self) -> list[Encoded]:
        return [self.rows.encoded(*self.at, 1)] if self._has_mask() else []

    def lies_in(self, folder: Path) -> bool:
        path = self.rows.shards[self.at[0]].path
        return isinstance(path, Path) and path.resolve().is_relative_to(folder.resolve())

    def _has_mask(self) -> bool:
        return self.label != GOOD and self.rows.mask is not None and self.rows.read(*self.at)[1] is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowRef) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"RowRef({self.id!r}, label={self.label!r}, at={self.at})"

    def _key(self) -> tuple[Any, ...]:
        return self.id, self.label, id(self.rows), self.at
