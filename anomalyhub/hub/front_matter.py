"""The YAML at the head of a README.md, which may be a stranger's."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MAX_CHARACTERS = 1 << 18


def read_front_matter(text: str) -> dict[str, Any]:
    """What a card says of itself; empty where it has no front matter, or one that is damaged, hostile or huge."""
    import yaml

    found = _BLOCK.match(text[: _MAX_CHARACTERS + 1])
    try:
        value = yaml.load(found[1], _loader()) if found else None
    except Exception:  # besides its own errors PyYAML lets KeyError, IndexError, ValueError and RecursionError through
        return {}
    return value if isinstance(value, dict) else {}


@cache
def _loader() -> type:
    import yaml

    class NoAliases(yaml.SafeLoader):
        """A few lines of references to each other can stand for more than a machine's memory."""

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("references are not followed")
            return super().compose_node(parent, index)

    return NoAliases
