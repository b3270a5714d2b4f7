"""The state of a board, and the steps that lead from one to the next, with values that JSON keeps.

A step raises InvalidArgumentError for a column or crop that is not there and for a name that will not do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from anomalyhub.data.folders import is_junk
from anomalyhub.errors import InvalidArgumentError, UnknownNameError
from anomalyhub.hub.contents import is_device
from anomalyhub.types import GOOD, UNKNOWN

#: "normal": no defect after all. "unsure": kept out of what is saved.
Mark = Literal["normal", "unsure"]
MAX_NAME = 60  # characters: at most 240 bytes, of the 255 that file systems take

_NORMAL = frozenset({"good", "ok", "normal"})  # folders whose images are read as normal ones
_NOT_IN_FOLDERS = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]')


@dataclass(frozen=True)
class State:
    """columns in their order, the column of each crop, marked crops, and the present name of each discovered kind."""

    columns: tuple[str, ...]
    members: tuple[str, ...]
    marks: Mapping[int, Mark]
    kinds: Mapping[str, str]


def folder_name(name: str) -> str:
    """A name as a folder's on any system: forbidden characters become "_"; empty where nothing is left."""
    folder = _NOT_IN_FOLDERS.sub("_", name).strip(" .")
    return f"_{folder}" if is_junk(folder) or is_device(folder) else folder


def key(name: str) -> str:
    """What two names have in common that would be one folder."""
    return folder_name(name).casefold()


def clean_name(name: str) -> str:
    """A typed name as it is used: tidy, fit for a folder, and "good" for "OK" and "Normal" in any case.

    Raises InvalidArgumentError unless 1 to 60 characters are left.
    """
    name = folder_name(unicodedata.normalize("NFC", " ".join(str(name).split())))
    if not 1 <= len(name) <= MAX_NAME:
        raise InvalidArgumentError(
            f"a name has 1 to {MAX_NAME} characters that a folder's may have, got {len(name)}: give another name"
        )
    return GOOD if key(name) in _NORMAL else UNKNOWN if key(name) == UNKNOWN else name


def check_column(state: State, name: str) -> None:
    """Raise UnknownNameError unless there is such a column."""
    if name not in state.columns:
        raise UnknownNameError("column", str(name), state.columns)


def check_free(columns: Iterable[str], name: str) -> None:
    """Raise InvalidArgumentError when a column has this name, or one that would be the same folder."""
    for other in columns:
        if key(other) == key(name):
            raise InvalidArgumentError(f"there is a column {other!r} already: merge with it, or give another name")


def check_crops(state: State, crops: Sequence[int]) -> None:
    """Raise InvalidArgumentError for a crop that is not on the board."""
    for crop in crops:
        if not 0 <= crop < len(state.members):
            raise InvalidArgumentError(f"crop {crop} is not one of this board's {len(state.members)}: open it again")


def rename(state: State, column: str, name: str) -> State:
    check_column(state, column)
    check_free((other for other in state.columns if other != column), name)
    return _called(state, {column: name}, state.columns)


def merge(state: State, columns: Sequence[str], into: str) -> State:
    for name in (*columns, into):
        check_column(state, name)
    gone = set(columns) - {into}
    return _called(state, dict.fromkeys(gone, into), [name for name in state.columns if name not in gone])


def split(state: State, column: str, parts: Sequence[Sequence[int]], names: Sequence[str]) -> State:
    """Crops of a column to new ones of these names beside it; their marks stay."""
    check_column(state, column)
    place = state.columns.index(column) + 1
    for crops, name in zip(parts, names, strict=True):
        check_free(state.columns, name)
        columns = (*state.columns[:place], name, *state.columns[place:])
        state, place = replace(state, columns=columns, members=_placed(state, crops, name)), place + 1
    return state


def move(state: State, crops: Sequence[int], column: str) -> State:
    """Crops to a column, a new one if need be; their marks go, and columns that they leave empty."""
    columns = state.columns
    if column not in columns:
        check_free(columns, column)
        columns = (*columns, column)
    members = _placed(state, crops, column)
    emptied = {state.members[crop] for crop in crops} - set(members)
    marks = _unmarked(state, crops)
    return replace(state, columns=tuple(name for name in columns if name not in emptied), members=members, marks=marks)


def mark(state: State, crops: Sequence[int], mark: Mark | None) -> State:
    if mark is not None and mark not in get_args(Mark):
        raise InvalidArgumentError(f"a mark is normal, unsure or None, got {mark!r}: choose one of them")
    check_crops(state, crops)
    return replace(state, marks=_unmarked(state, crops) | ({} if mark is None else dict.fromkeys(crops, mark)))


#: By the names that the file keeps.
STEPS: dict[str, Callable[..., State]] = {"rename": rename, "merge": merge, "split": split, "move": move, "mark": mark}


def _called(state: State, names: Mapping[str, str], columns: Sequence[str]) -> State:
    """The state with other names for some columns; `columns` are those that stay, by their old names."""
    return replace(
        state,
        columns=tuple(names.get(name, name) for name in columns),
        members=tuple(names.get(name, name) for name in state.members),
        kinds={kind: names.get(name, name) for kind, name in state.kinds.items()},
    )


def _placed(state: State, crops: Sequence[int], column: str) -> tuple[str, ...]:
    check_crops(state, crops)
    members = list(state.members)
    for crop in crops:
        members[crop] = column
    return tuple(members)


def _unmarked(state: State, crops: Sequence[int]) -> dict[int, Mark]:
    chosen = set(crops)
    return {crop: mark for crop, mark in state.marks.items() if crop not in chosen}
