"""Data sets of the Hugging Face Hub: pulled when they are small, read where they are when they are large tables."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

from anomalyhub.data.configs import Files, configs_of
from anomalyhub.data.folders import is_image_name
from anomalyhub.data.rows import Shard
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError
from anomalyhub.hub import create_store
from anomalyhub.hub.contents import Entry, checked_repo_id, choose
from anomalyhub.hub.reach import refusal

#: Bytes above which a data set of tables is streamed, and one of other files not pulled unasked.
STREAM_ABOVE = 2 * 1024**3
_PATH = re.compile(r"hf:/*(?:datasets/)?(?P<repo>[^@]+?)/?(?:@(?P<revision>.+))?")
_BLOCK = 4 * 1024**2


@dataclass(frozen=True)
class HubData:
    """A data set of the Hub: pulled into `folder`, or with `files` that are read there where `folder` is None."""

    name: str
    folder: Path | None
    files: Files
    notices: tuple[str, ...]


def is_hub(path: str | Path) -> bool:
    """Whether a path is "hf:OWNER/NAME"."""
    return str(path).startswith("hf:")


def parse_hub(path: str | Path) -> tuple[str, str | None]:
    """OWNER/NAME and the revision, None for the newest. Raises InvalidArgumentError."""
    found = _PATH.fullmatch(str(path).replace(os.sep, "/"))
    if found is None:
        raise InvalidArgumentError(f"{str(path)!r} names no data set: write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    return checked_repo_id(found["repo"]), found["revision"]


def open_hub(path: str | Path, stream: bool | None = None) -> HubData:
    """Pull a data set, or open it for streaming; see `load_dataset`.

    Raises InvalidArgumentError, StoreError, UnsafeRepositoryError, and InvalidDatasetError for one that is too large to
    be pulled unasked, or that cannot be streamed.
    """
    repo_id, revision = parse_hub(path)
    store = create_store("hub")
    listing = store.files(repo_id, "dataset", revision)
    chosen, notices = choose(listing.entries, "dataset")
    files = _files(str(getattr(store, "endpoint", "")), repo_id, listing.revision, tuple(chosen))
    size, limit = sum(entry.size for entry in chosen), _limit()
    if stream is None and size > limit:
        stream = bool(configs_of(files))
        if not stream:
            raise InvalidDatasetError(
                f"{repo_id} has {size / 1024**3:.1f} GiB of files that cannot be streamed: pull it into a folder with "
                f"anomalyhub pull {repo_id} --kind dataset --out FOLDER, and give that"
            )
    name = repo_id.partition("/")[2]
    if not stream:
        pulled = store.pull(repo_id, "dataset", listing.revision)
        return HubData(name, pulled.folder, files, pulled.notices)
    if not configs_of(files):
        raise InvalidDatasetError(f"{repo_id} has no parquet files, and others cannot be streamed: pull it")
    return HubData(name, None, files, tuple(notices))


def _limit() -> float:
    text = os.environ.get("ANOMALYHUB_STREAM_ABOVE") or str(STREAM_ABOVE)
    try:
        return float(text)
    except ValueError as error:
        raise InvalidArgumentError(
            f"ANOMALYHUB_STREAM_ABOVE is {text!r}, which is no number: give bytes, such as 2e9"
        ) from error


@lru_cache(maxsize=2)
def _files(endpoint: str, repo_id: str, revision: str, entries: tuple[Entry, ...]) -> Files:
    sizes, lock = {entry.path: entry.size for entry in entries}, threading.Lock()

    @cache
    def system() -> Any:
        from huggingface_hub import HfFileSystem

        return HfFileSystem(endpoint=endpoint, skip_instance_cache=True)

    @cache
    def remote(name: str) -> BinaryIO:
        # without its cache: pyarrow asks for what it needs, in large pieces
        path, options = f"datasets/{repo_id}/{name}", {"block_size": _BLOCK, "cache_type": "none"}
        return system().open(path, "rb", revision=revision, **options)

    def fetch(name: str, start: int, end: int) -> bytes:
        try:
            with lock:
                file = remote(name)
                file.seek(start)
                data = file.read(end - start)
            if len(data) != end - start:
                raise ConnectionError(f"{len(data)} of {end - start} bytes have come")
            return data
        except Exception as error:  # the client's own, its HTTP library's, OSError
            raise refusal(error, f"read {name!r} of {repo_id}", endpoint, None) from None

    def opened(name: str) -> RangedFile:
        return RangedFile(partial(fetch, name), sizes[name])

    def shard(name: str) -> Shard:
        return Shard(f"{repo_id}/{name}", lambda: opened(name), f"{endpoint}\n{repo_id}\n{revision}\n{name}")

    def has_images() -> bool:
        return any(is_image_name(name.rpartition("/")[2]) for name in sizes)

    return Files(f"hf:{repo_id}", sorted(sizes), lambda name: opened(name).read(), shard, has_images)


class RangedFile(io.RawIOBase):
    """A file of `size` bytes that is read in ranges: `fetch(start, end)` gives the bytes of one."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int):
        self._fetch, self._size, self._at = fetch, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = self._fetch(self._at, end)
        buffer[: len(data)] = data
        self._at = end
        return len(data)
