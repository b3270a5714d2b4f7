"""The text of cards: YAML front matter and Markdown in which names from outside are names and nothing else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anomalyhub.errors import InvalidArgumentError

#: A line of every card that AnomalyHub wrote: `share` makes such a card anew, and leaves others as they are.
MARKER = "<!-- made by AnomalyHub, anew with every push: take this line out to keep changes of your own -->"
_LONGEST = 300
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")
_SYNTAX = re.compile(r"([\\`*_{}\[\]()<>#|!$~&@:])|(?<=\bwww)\.", re.IGNORECASE)


def plain(text: Any) -> str:
    """One line of a text from outside: no control characters or surrogates, at most 300 characters."""
    kept = "".join(
        " " if letter.isspace() else "?" if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn") else letter
        for letter in str(text)
    )
    kept = " ".join(kept.split())
    return kept if len(kept) <= _LONGEST else kept[: _LONGEST - 1] + "…"


def markdown(text: Any) -> str:
    """A name from outside as one line of Markdown without markup, links, HTML or mentions; for table cells too."""
    return _SYNTAX.sub(lambda found: "\\" + found[0], plain(text))


def code(text: Any) -> str:
    """A name from outside as a span of code; for table cells too."""
    return f"`{plain(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def slug(text: Any) -> str:
    """A name as a part of a tag: lower case, letters and digits, the rest hyphens."""
    return re.sub(r"[^\w.]+", "-", plain(text).lower()).strip("-._")[:80]


def front_matter(values: Mapping[str, Any]) -> str:
    """YAML between two lines of ---, in the order of the keys; None, at any depth, is left out.

    What is read back is what is given, but for surrogates, which become question marks.
    """
    from huggingface_hub.utils import yaml_dump

    return f"---\n{yaml_dump(_safe(values), sort_keys=False, width=120)}---\n"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a table; header and cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def checked_license(license: str | None) -> str | None:
    """Raises InvalidArgumentError for what cannot be one of the Hub's identifiers."""
    if license is not None and not (isinstance(license, str) and _LICENSE.fullmatch(license)):
        raise InvalidArgumentError(
            f"license {license!r} is no identifier of the Hub: write apache-2.0, cc-by-4.0, other or the like"
        )
    return license


def license_sentence(license: str | None) -> str:
    """What a card says of its licence."""
    if license is None:
        return "Its owner has not said under which licence it may be used: ask before you use it."
    return f"{code(license)}, as its owner says."


def _safe(value: Any) -> Any:
    """Plain values that YAML's safe loader gives back."""
    if isinstance(value, Mapping):
        return {_utf8(key): _safe(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_safe(item) for item in value if item is not None]
    if isinstance(value, (bool, int, float)):
        return value
    return _utf8(value)


def _utf8(value: Any) -> str:
    return str(value).encode("utf-8", "replace").decode()
