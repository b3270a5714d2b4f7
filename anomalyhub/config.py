"""Settings of a method: a frozen dataclass, filled from `key=value` texts or plain values."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from anomalyhub.errors import InvalidArgumentError, UnknownNameError

C = TypeVar("C")


def configure(config_class: type[C], settings: Mapping[str, Any]) -> C:
    """An instance of a config dataclass with some fields set; texts are converted to the field's type.

    Raises UnknownNameError for a field that does not exist and InvalidArgumentError for a value of another type; the
    dataclass's own checks raise InvalidArgumentError too.
    """
    kinds = typing.get_type_hints(config_class)
    fields = [field.name for field in dataclasses.fields(config_class)]  # type: ignore[arg-type]
    values = {}
    for key, value in settings.items():
        if key not in fields:
            raise UnknownNameError("setting", key, fields)
        values[key] = _convert(key, value, kinds[key]) if isinstance(value, str) else _restore(value, kinds[key])
    return config_class(**values)


def parse_settings(texts: list[str]) -> dict[str, str]:
    """`["key=value", …]` to a dict. Raises InvalidArgumentError for a text without "=" or a key given twice."""
    settings: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InvalidArgumentError(f"setting {text!r} is not of the form key=value: write for example coreset=0.1")
        if key.strip() in settings:
            raise InvalidArgumentError(f"setting {key.strip()!r} is given twice: give it once")
        settings[key.strip()] = value.strip()
    return settings


def _restore(value: Any, kind: Any) -> Any:
    """JSON has lists where dataclasses have tuples."""
    return tuple(value) if isinstance(value, list) else value


def _convert(key: str, text: str, kind: Any) -> Any:
    options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    for option in options:
        try:
            return _parse(text, option)
        except (ValueError, OverflowError):  # the latter for int(inf)
            continue
    names = " or ".join(_describe(option) for option in options)
    raise InvalidArgumentError(f"setting {key}={text!r} is not {names}")


def _parse(text: str, kind: Any) -> Any:
    if kind is type(None):
        if text.lower() in ("none", ""):
            return None
        raise ValueError
    if kind is bool:
        if text.lower() in ("true", "yes", "1", "on"):
            return True
        if text.lower() in ("false", "no", "0", "off"):
            return False
        raise ValueError
    if typing.get_origin(kind) is tuple:
        return tuple(_parse(part.strip(), typing.get_args(kind)[0]) for part in text.replace("+", ",").split(","))
    if typing.get_origin(kind) is typing.Literal:
        if text in typing.get_args(kind):
            return text
        raise ValueError
    if kind is int:
        number = float(text)
        if number != int(number):
            raise ValueError
        return int(number)
    if kind is float and not math.isfinite(float(text)):
        raise ValueError
    return kind(text)


def _describe(kind: Any) -> str:
    if kind is type(None):
        return "none"
    if typing.get_origin(kind) is tuple:
        return f"a list of {typing.get_args(kind)[0].__name__} such as 2,3"
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, kind.__name__)
