"""Names of classes and products as names of folders."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 80
# What data sets' layouts call normal images, and parts of a data set.
_TAKEN = frozenset({"good", "ok", "normal", "train", "test", "validation", "ground_truth", "split_csv"})


def safe_name(name: str) -> str:
    """A name as a folder's on any system, which no layout of data sets takes for something else."""
    name = re.sub(r"[^\w .()+=-]+", "_", name).strip(" .")[:_LONGEST].rstrip(" .") or "_"
    return f"{name}_" if name.lower() in _TAKEN else name


def safe_names(names: Iterable[str]) -> tuple[str, ...]:
    """`safe_name` of each, with a number where two would be one folder."""
    found, taken = [], set()
    for name in map(safe_name, names):
        unique, number = name, 2
        while unique.casefold() in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique.casefold())
        found.append(unique)
    return tuple(found)
