"""Downloads by the huggingface_hub client, several at a time: their progress, their end, and their limits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from anomalyhub.errors import Cancelled, UnsafeRepositoryError
from anomalyhub.hub.contents import Entry
from anomalyhub.protocols import Progress

_WORKERS = 8


def download_all(entries: Sequence[Entry], download: Callable[..., Path], progress: Progress | None) -> None:
    """Call download(entry, count=count) for all entries, with several threads.

    The progress is told in the caller's thread only, where it may raise; then, or when a download fails, all end.
    """
    total, count = sum(entry.size for entry in entries) or 1, Count()
    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            waiting = {pool.submit(download, entry, count=count) for entry in entries}
            while waiting:
                done, waiting = wait(waiting, 0.2, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if progress is not None:
                    said = f"pulled {len(entries) - len(waiting)} of {len(entries)} files"
                    progress(min(1.0, count.value / total) if waiting else 1.0, said)
        except BaseException:
            count.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


class Count:
    """Bytes that have come, counted by several threads, which stop when they are told to."""

    def __init__(self) -> None:
        self.value, self.stopped, self._lock = 0, threading.Event(), threading.Lock()

    def add(self, size: int) -> None:
        if self.stopped.is_set():
            raise Cancelled("the pull was stopped")
        with self._lock:
            self.value += size


class Bar:
    """What the client takes for tqdm: counts, and ends a download that is longer than the repository says."""

    entry: Entry
    count: Count

    def __init__(self, *_: Any, total: float | None = None, **__: Any):
        self.total, self.n = total, 0
        self.format_dict: dict[str, Any] = {}
        self._check(total or 0)

    def _check(self, size: float) -> None:
        if size > self.entry.size:
            raise UnsafeRepositoryError(
                f"{self.entry.path!r} has more than the {self.entry.size} bytes that the repository says: it is not "
                "pulled"
            )

    def update(self, size: float = 1) -> None:
        self.n += int(size)
        self._check(self.n)
        self.count.add(int(size))

    def update_transfer(self, size: float) -> None:
        """Bytes of the network, which are others than those of the file where Xet compresses."""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


def bar_class(entry: Entry, count: Count) -> type[Bar]:
    """What the client makes its bars from."""
    return type("EntryBar", (Bar,), {"entry": entry, "count": count})
