"""Saved state: a folder with config.json and state.safetensors, nothing else, nothing pickled."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anomalyhub import __version__
from anomalyhub.errors import InvalidModelError, OutputError

#: Raised when a saved folder's meaning changes; older folders stay readable.
SCHEMA = 1
_CONFIG, _ARRAYS = "config.json", "state.safetensors"
_VERSION = re.compile(r"\d+(\.\d+){0,3}([a-z]+\d*)?(\.dev\d+)?")


def write_state(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write `config` (JSON values) and `arrays` into `folder`, which is made if need be."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _ARRAYS)
    except SafetensorError as error:  # which hides the system's
        raise OutputError(f"cannot write {folder / _ARRAYS} ({error}): free some space") from error
    write_json(folder / _CONFIG, {"schema": SCHEMA, "version": __version__, **config})
    shutil.copymode(folder / _CONFIG, folder / _ARRAYS)  # save_file lets nobody else read it


def read_state(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config and arrays of a saved `kind`. Raises InvalidModelError naming the folder and the remedy."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config = read_config(folder, kind)
    path = Path(folder) / _ARRAYS
    try:
        arrays = load_file(path)
    except FileNotFoundError as error:
        raise InvalidModelError(f"{folder} has no {_ARRAYS}: copy the whole model folder, or fit again") from error
    except (SafetensorError, OSError) as error:
        raise InvalidModelError(f"{path} is damaged ({error}): copy the model folder again, or fit again") from error
    for name, array in arrays.items():
        # a sum takes no memory of the array's size; limits are infinite where nothing lies beyond them
        with np.errstate(invalid="ignore"):
            finite = array.dtype.kind != "f" or np.isfinite(array.sum(dtype=np.float64)) or name.endswith("limits")
        if not finite:
            raise InvalidModelError(f"{path} has no numbers in {name!r}: copy the model folder again, or fit again")
    return config, arrays


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """The config alone, with its kind and schema checked."""
    folder = Path(folder)
    try:
        reason = "" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    except OSError as error:  # a folder above that may not be entered, a name too long
        reason = f"cannot be opened ({error.strerror})"
    if reason:
        raise InvalidModelError(f"model folder {folder} {reason}: give the --out folder of a fit")
    config = read_json(folder / _CONFIG)
    if config.get("kind") != kind:
        found = config.get("kind", "model of unknown kind")
        raise InvalidModelError(f"{folder} holds a {found}, not a {kind}: give the --out folder of a fit")
    if not isinstance(config.get("schema"), int) or config["schema"] > SCHEMA:
        raise InvalidModelError(newer(str(folder), config))
    return config


def newer(name: str, config: Mapping[str, Any]) -> str:
    """What to say of a folder or file of a later schema than this version reads."""
    version = config.get("version")
    known = isinstance(version, str) and version != __version__ and _VERSION.fullmatch(version)
    remedy = f'pip install "anomalyhub>={version}"' if known else "pip install -U anomalyhub"
    schema = str(config.get("schema"))[:20]
    by = f"AnomalyHub {version}" if known else "a newer AnomalyHub"
    return f"{name} was written by {by} (schema {schema}, this one reads up to {SCHEMA}): upgrade with {remedy}"


def read_name(folder: Path, kind: str, valid: Collection[str]) -> str:
    """Which method a saved `kind` is of, one of `valid`. Raises InvalidModelError."""
    name = read_config(folder, kind).get(kind)
    if name not in valid:
        raise InvalidModelError(
            f"{folder} holds a {kind} {name!r}, which this version does not have: "
            "upgrade with pip install -U anomalyhub"
        )
    return name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. Raises InvalidModelError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidModelError(
            f"{path.parent} is not a model folder (no {path.name}): give a fit's --out folder"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModelError(f"{path} is not readable JSON ({error}): copy the model folder again") from error
    if not isinstance(value, dict):
        raise InvalidModelError(f"{path} must hold a JSON object: copy the model folder again")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented UTF-8 JSON; NaN and infinity, which JSON does not have, become null."""
    path.write_text(json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def jsonable(value: Any) -> Any:
    """numpy numbers, tuples and non-finite floats to what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
