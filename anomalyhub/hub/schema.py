"""Whether a pulled model may be loaded: its JSON is what this version reads, and names nothing of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomalyhub.errors import InvalidModelError
from anomalyhub.state import SCHEMA, newer, read_json

CONFIG = "config.json"
#: What config.json calls its kind, for `RepoInfo` and cards.
KINDS = ("detector", "discoverer", "classifier", "pretrained")
#: Settings that are a file or folder of the machine that made a model: (kind's name, setting).
_LOCAL = {("precomputed", "maps")}


def check_model(folder: Path) -> None:
    """Raise InvalidModelError unless every config.json below is of a schema and of a kind that this version reads."""
    configs = sorted(folder.rglob(CONFIG))
    if not configs:
        raise InvalidModelError(f"{folder.name} has no {CONFIG}: it is no model of AnomalyHub")
    for path in configs:
        check_config(read_json(path), path.relative_to(folder).as_posix())


def check_config(config: dict[str, Any], name: str) -> None:
    """One config.json; `name` is for the message."""
    schema = config.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise InvalidModelError(f"{name} names no schema: it is no model of AnomalyHub, or damaged")
    if schema > SCHEMA:
        raise InvalidModelError(newer(name, config))
    kind = config.get("kind")
    if kind not in KINDS:
        raise InvalidModelError(f"{name} is of the kind {str(kind)[:60]!r}, and not one of {', '.join(KINDS)}")
    settings = config.get("config")
    if settings is not None and not isinstance(settings, dict):
        raise InvalidModelError(f"{name} has settings that are no object: it is damaged")
    for method, setting in _LOCAL:
        if config.get(kind) == method and (settings or {}).get(setting):
            raise InvalidModelError(
                f"{name} reads {setting} from a folder of the machine that it was made on, and works only there: "
                "fit again here"
            )
