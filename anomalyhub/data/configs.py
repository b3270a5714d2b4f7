"""Which parquet files of a data set are which split of which config, as `datasets` of Hugging Face has it.

The front matter of README.md says so, or else the names of the files do. A config is a product.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
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
_MAX_CARD, _MAX_SHARDS, _MAX_CONFIGS, _MAX_STARS = 1024**2, 20_000, 2000, 8
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
    listed = files.card.get("configs")
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
            matches = [_matcher(base + glob) for glob in globs]
            found = [name for name in shards if any(match(name) for match in matches)]
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


def _matcher(glob: str) -> Callable[[str], Any]:
    """Whether a name matches: * within a folder, ** across them, ? and [...] for one character."""
    glob = glob.removeprefix("./")
    parts = re.split(r"(\*\*/|\*+|\?|\[[^\]/]+\])", glob)
    if sum(part.startswith("*") for part in parts) > _MAX_STARS:  # matching would take for ever
        raise InvalidDatasetError(
            f"the card has the pattern {shown(glob)} of more than {_MAX_STARS} stars: write fewer"
        )
    regex = ""
    for part in parts:
        if part == "**/":
            regex += "(?:.*/)?"
        elif part.startswith("*"):
            regex += ".*" if len(part) > 1 else "[^/]*"
        elif part == "?":
            regex += "[^/]"
        elif len(part) > 2 and part[0] == "[":
            negated = part[1] in "!^"
            regex += f"[{'^' * negated}{re.escape(part[1 + negated : -1]).replace(chr(92) + '-', '-')}]"
        else:
            regex += re.escape(part)
    try:
        return re.compile(regex).fullmatch
    except re.error:  # [z-a]
        return re.compile(re.escape(glob)).fullmatch


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
