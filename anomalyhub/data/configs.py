"""Which parquet files of a data set are which split of which config, as `datasets` of Hugging Face has it.

The front matter of README.md says so, or else the names of the files do. A config is a product.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from anomalyhub.data.folders import holds_images, is_junk
from anomalyhub.data.layouts import METADATA
from anomalyhub.data.rows import Shard, shown
from anomalyhub.errors import InvalidDatasetError
from anomalyhub.hub.front_matter import read_front_matter

#: The config of a data set that names none.
DEFAULT = "default"
README = "README.md"
_MAX_CARD, _MAX_SHARDS, _MAX_CONFIGS, _MAX_GLOB = 1024**2, 20_000, 2000, 300
_MAX_COMPARED = 10_000_000  # letters of names times those of patterns
_ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_WORDS = re.compile(r"[-._ 0-9]+")


@dataclass(frozen=True, eq=False)
class Files:
    """The files of a data set, in a folder or on the Hub.

    where   for messages
    names   below its root, with forward slashes
    read    the bytes of a small one
    shard   one with rows
    has_images  whether there are image files among them
    """

    where: str
    names: Sequence[str]
    read: Callable[[str], bytes]
    shard: Callable[[str], Shard]
    has_images: Callable[[], bool]

    @cached_property
    def card(self) -> dict[str, Any]:
        """The front matter of README.md; {} where there is none."""
        return read_front_matter(self.read(README)[:_MAX_CARD].decode("utf-8", "replace")) if self.has_card else {}

    @property
    def has_card(self) -> bool:
        return README in self.names


#: Config -> split -> names of parquet files.
Configs = Mapping[str, Mapping[str, Sequence[str]]]


def configs_of(files: Files) -> Configs:
    """The configs that have parquet files, as the card or else as their names say; empty when there are none.

    Names do not count beside images, where a table may be anything.
    """
    shards = sorted(
        name
        for name in files.names
        if name.lower().endswith(".parquet")
        and PurePosixPath(name).name != METADATA
        and not any(part.startswith((".", "__")) for part in name.split("/"))
    )
    if len(shards) > _MAX_SHARDS:
        raise InvalidDatasetError(f"{files.where} has {len(shards)} parquet files: give a folder of fewer")
    if not shards:
        return {}
    return _by_card(files, shards) or ({} if files.has_images() else _by_name(shards))


def role(text: str) -> str | None:
    """train, validation or test, where one of the words of a name says so."""
    return next((_ROLES[word] for word in _WORDS.split(text.lower()) if word in _ROLES), None)


def _by_name(shards: Sequence[str]) -> Configs:
    """PRODUCT/train-00000-of-00001.parquet, data/train-…, PRODUCT/train/0000.parquet, train.parquet …"""
    configs: dict[str, dict[str, list[str]]] = {}
    for name in shards:
        *folders, file = name.split("/")
        split = next(filter(None, map(role, (file.rpartition(".")[0], *reversed(folders)))), "train")
        named = [folder for folder in folders if folder != "data" and role(folder) is None]
        configs.setdefault(named[-1] if named else DEFAULT, {}).setdefault(split, []).append(name)
    return configs


def _by_card(files: Files, shards: Sequence[str]) -> Configs:
    configs: dict[str, dict[str, list[str]]] = {}
    listed, matching = files.card.get("configs"), _Matching()
    for entry in listed[:_MAX_CONFIGS] if isinstance(listed, list) else ():
        if not isinstance(entry, dict):
            continue
        folder, splits = entry.get("data_dir"), {}
        patterns = _patterns(entry.get("data_files"))
        if not patterns and isinstance(folder, str):
            inside = [name for name in shards if name.startswith(folder.strip("/") + "/")]
            splits = next(iter(_by_name(inside).values()), {}) if inside else {}
        for split, globs in patterns:
            base = f"{folder.strip('/')}/" if isinstance(folder, str) else ""
            found = matching([base + glob for glob in globs], shards)
            if found:
                splits.setdefault(split, []).extend(found)
        if splits:
            configs[str(entry.get("config_name", DEFAULT))] = splits
    return configs


def class_names(card: Mapping[str, Any], config: str, column: str) -> tuple[str, ...]:
    """The names that a card's dataset_info gives to the numbers of a column of labels; empty where it does not."""
    infos = card.get("dataset_info")
    for info in infos if isinstance(infos, list) else [infos]:
        if not isinstance(info, dict) or info.get("config_name", config) != config:
            continue
        features = info.get("features")
        for feature in features if isinstance(features, list) else ():
            if isinstance(feature, dict) and feature.get("name") == column:
                kind = feature.get("dtype")
                names = kind["class_label"].get("names") if _holds(kind, "class_label") else None
                names = list(names.values()) if isinstance(names, dict) else names
                return tuple(map(str, names)) if isinstance(names, list) else ()
    return ()


def _holds(value: Any, key: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(key), dict)


def _patterns(value: Any) -> list[tuple[str, list[str]]]:
    """(split, globs) of what a card's data_files may be: a glob, a list of them, or a list of splits."""
    if isinstance(value, str):
        return [("train", [value])]
    if not isinstance(value, list):
        return []
    globs = [one for one in value if isinstance(one, str)]
    found = [("train", globs)] if globs else []
    for one in value:
        if isinstance(one, dict) and isinstance(path := one.get("path"), (str, list)):
            globs = [path] if isinstance(path, str) else [glob for glob in path if isinstance(glob, str)]
            found.append((str(one.get("split", "train")), globs))
    return found


class _Matching:
    """Names that globs stand for, as long as a stranger's patterns do not take too long for all of a card."""

    def __init__(self):
        self.left = _MAX_COMPARED

    def __call__(self, globs: Sequence[str], names: Sequence[str]) -> list[str]:
        """Those of `names`, in their order, that one of `globs` stands for. Raises InvalidDatasetError."""
        found: set[str] = set()
        for glob in globs:
            glob = glob.removeprefix("./")
            start, match = re.split(r"[*?\[]", glob, maxsplit=1)[0], _matcher(glob)
            likely = [name for name in names if name.startswith(start)]
            self.left -= len(names) + len(glob) * sum(map(len, likely))
            if self.left < 0:
                raise InvalidDatasetError("the card has too many patterns for so many files: name folders, not files")
            found.update(filter(match, likely))
        return [name for name in names if name in found]


def _matcher(glob: str) -> Callable[[str], bool]:
    """Whether a name matches: * within a folder, ** across them, ? and [...] for one character.

    All that may match so far goes on side by side, so that no pattern of a stranger takes longer than its length.
    """
    if len(glob) > _MAX_GLOB:
        raise InvalidDatasetError(
            f"the card has the pattern {shown(glob)} of more than {_MAX_GLOB} letters: shorten it"
        )
    steps: list[str] = []
    for part in re.split(r"(\*\*/|\*+|\?|\[[^\]/]+\])", glob):
        special = part in ("**/", "?") or part.startswith("*") or (len(part) > 2 and part[0] == "[")
        steps += (["**/", "…/"] if part == "**/" else [part[:2]] if part[:1] == "*" else [part]) if special else part
    return lambda name: _fits(steps, name)


def _fits(steps: Sequence[str], name: str) -> bool:
    def entered(places: Iterable[int]) -> set[int]:
        """These places, and those behind steps that may stand for nothing."""
        found, todo = set(), list(places)
        while todo:
            if (place := todo.pop()) in found:
                continue
            found.add(place)
            if place < len(steps):
                todo += {"*": [place + 1], "**": [place + 1], "**/": [place + 1, place + 2]}.get(steps[place], [])
        return found

    places = entered([0])
    for letter in name:
        after: list[int] = []
        for place in places:
            step = steps[place] if place < len(steps) else ""
            if step in ("**", "…/") or (step == "*" and letter != "/"):
                after.append(place)
            if (step == "…/" and letter == "/") or step == letter or _is_one(step, letter):
                after.append(place + 1)
        places = entered(after)
    return len(steps) in places


def _is_one(step: str, letter: str) -> bool:
    """Whether ? or [...] stands for a letter."""
    if letter == "/" or step[:1] not in ("?", "[") or (len(step) < 3 and step != "?"):
        return False
    if step == "?":
        return True
    inner, negated = step[1:-1], step[1] in "!^"
    inner = inner[negated:]
    ranges = re.findall(r"(.)-(.)", inner)
    alone = re.sub(r".-.", "", inner)
    return (letter in alone or any(low <= letter <= high for low, high in ranges)) != negated


def files_of(folder: Path) -> Files:
    """The parquet files and the card below a folder; links to folders are not followed."""
    names = []
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        found = [name for name in files if name.lower().endswith(".parquet") or (name == README and at == str(folder))]
        names += [Path(at, name).relative_to(folder).as_posix() for name in found]
    return Files(
        str(folder),
        sorted(names),
        lambda name: _read(folder / name),
        lambda name: _shard(folder / name),
        lambda: holds_images(folder),
    )


def _read(path: Path) -> bytes:
    _status(path)
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_CARD)
    except OSError as error:
        raise _unreadable(path, error) from error


def _shard(path: Path) -> Shard:
    status = _status(path)
    return Shard(str(path), path, f"{path.absolute()}\n{status.st_size}\n{status.st_mtime_ns}")


def _status(path: Path) -> os.stat_result:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise InvalidDatasetError(f"{path} is not a regular file: copy the data set again")
    return status


def _unreadable(path: Path, error: OSError) -> InvalidDatasetError:
    return InvalidDatasetError(f"{path} cannot be read, {error.strerror}: give yourself read access, or copy it again")
