"""Settings of a method: a frozen dataclass, filled from `key=value` texts or plain values."""

from __future__ import annotations

import dataclasses
import math
import numbers
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
        values[key] = _convert(key, value, kinds[key]) if isinstance(value, str) else _restore(key, value, kinds[key])
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


def _restore(key: str, value: Any, kind: Any) -> Any:
    """A value that is no text, as it is; JSON has lists where dataclasses have tuples."""
    value = tuple(value) if isinstance(value, list) else value
    if not any(_fits(value, option) for option in _options(kind)):
        raise _refusal(key, value, kind)
    return value


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(part, typing.get_args(kind)[0]) for part in value)
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    return isinstance(value, kind)


def _options(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _refusal(key: str, value: Any, kind: Any) -> InvalidArgumentError:
    return InvalidArgumentError(f"setting {key}={value!r} is not {' or '.join(map(_describe, _options(kind)))}")


def _convert(key: str, text: str, kind: Any) -> Any:
    for option in sorted(_options(kind), key=lambda option: option is not type(None)):  # a str takes any text
        try:
            return _parse(text, option)
        except (ValueError, OverflowError):  # the latter for int(inf)
            continue
    raise _refusal(key, text, kind)


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
