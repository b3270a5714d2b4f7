"""A saved model without what only the machine that made it knows: where files lay there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from anomalyhub.errors import InvalidModelError
from anomalyhub.hub.schema import CONFIG

#: Settings of detectors that name files, which a saved model does not need any more: what was in them is saved with it.
_FILES = frozenset({"weights", "exported", "maps", "scores"})
#: Values that are words of a person, whatever they look like.
_WORDS = frozenset({"classes", "label", "predicted", "product"})
_ROOT = r"(?:~[\w.-]*|[A-Za-z]:|file:/{0,2})?[/\\]{1,2}"
_LOCAL = re.compile(rf"{_ROOT}[^\s/\\].*|~[\w.-]*[/\\].*", re.DOTALL)
#: A path inside a sentence, up to its last separator.
_WITHIN = re.compile(rf"(?<![^\s\"'(=,@]){_ROOT}(?:[^\s/\\\"'()<>|]+[/\\])+")


def portable(folder: str | Path) -> dict[str, bytes]:
    """The JSON files of a model folder that name places on this machine, without them: new bytes by relative name.

    A backbone's `NAME@/path/FILE.safetensors` becomes NAME, and "file" beside it keeps the file's own name. Its
    fingerprint stays, so that elsewhere the model loads with `backbone="NAME@FILE"` of the same weights, or with the
    Hub's NAME where these are the same, and says so otherwise. Settings that named files which the model has taken over
    become null. In ids and sentences, a path becomes the name of its file. Predictions are those of the model.

    Raises InvalidModelError for a model that cannot do without a file of this machine.
    """
    folder, changed = Path(folder), {}
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        before = _read(path)
        after = without_paths(before)
        if path.name == CONFIG and isinstance(before, dict) and isinstance(before.get("config"), dict):
            after["config"] = _settings(before, name.as_posix())
        if after != before:
            text = json.dumps(after, indent=2, ensure_ascii=False) + "\n"
            changed[name.as_posix()] = text.encode("utf-8", "replace")
    return changed


def split_spec(spec: str) -> tuple[str, str | None]:
    """A backbone's SPEC without the place of its weights, and the name of that file or folder if it has one."""
    name, at, file = spec.partition("@")
    return name, _file_name(file) if at else None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModelError(f"{path} is not readable JSON ({error}): copy the model folder again") from error


def is_local(text: str) -> bool:
    """Whether a text is an absolute path of some system, or one below a home folder."""
    return bool(_LOCAL.fullmatch(text))


def without_paths(value: Any) -> Any:
    """A JSON value in whose texts, but for a person's own words, paths of a machine are the names of their files."""
    if isinstance(value, dict):
        kept = {key: item if key in _WORDS else without_paths(item) for key, item in value.items()}
        return _backbone(value, kept) if "spec" in value and "fingerprint" in value else kept
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str):
        return _file_name(value) if is_local(value) else _WITHIN.sub("", value)
    return value


def _backbone(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """A SPEC without the file or folder after its @."""
    name, file = split_spec(str(before["spec"]))
    return {**after, "spec": name, "file": file} if file else {**after, "spec": before["spec"]}


def _settings(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings as they are but for files; prompts and numbers make the predictions."""
    kept = portable_settings(config)
    for key, value in kept.items():
        if isinstance(value, str) and (found := _there(value)):
            raise InvalidModelError(
                f"{name} has a setting {key} that names {found} on this machine, which is nowhere else: "
                "fit again with what can be had everywhere"
            )
    return kept


def portable_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config.json with null for those that name files."""
    settings = config.get("config")
    if not isinstance(settings, Mapping):
        return {}
    files = _FILES if config.get("kind") == "detector" else frozenset()  # elsewhere, words that mean something else
    named = {key for key, value in settings.items() if isinstance(value, str) and (key in files or is_local(value))}
    return {key: None if key in named else value for key, value in settings.items()}


def _there(text: str) -> str | None:
    """A path inside a setting whose first folder exists here: not everything with a slash is one."""
    for found in _WITHIN.findall(text):
        top = Path(os.path.expanduser(found)).parts[:2]
        if len(top) == 2 and Path(*top).is_dir():
            return found
    return None


def _file_name(path: str) -> str:
    kind: Callable[[str], Any] = PureWindowsPath if "\\" in path or re.match(r"[A-Za-z]:", path) else PurePosixPath
    return kind(path).name or "file"
