"""The YAML at the head of a README.md, which may be a stranger's."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MAX_CHARACTERS, _LARGEST, _DEEPEST = 1 << 17, 1 << 63, 60


def read_front_matter(text: str) -> dict[str, Any]:
    """What a card says of itself; empty where it has no front matter, or one that is damaged, hostile or huge."""
    found = _BLOCK.match(text[: _MAX_CHARACTERS + 1])
    return copy.deepcopy(_read(found[1])) if found else {}


def without_front_matter(text: str) -> str:
    """The rest of a card."""
    found = _BLOCK.match(text[: _MAX_CHARACTERS + 1])
    return text[found.end() :] if found else text


@lru_cache(maxsize=64)
def _read(block: str) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if not _is_plain(yaml.parse(block, loader)):
            return {}
        value = yaml.load(block, loader)
        _check(value)
    except Exception:  # besides its own errors PyYAML lets KeyError, IndexError, ValueError and RecursionError through
        return {}
    return value if isinstance(value, dict) else {}


def _is_plain(events: Iterable[Any]) -> bool:
    """Without references, of which a few lines can stand for more than a machine's memory, and not deeply nested."""
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST or isinstance(event, yaml.AliasEvent):
            return False
    return True


def _check(value: Any) -> None:
    """Raise ValueError for a number so large that Python does not write it."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError("too large a number")
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key)
            _check(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            _check(item)
