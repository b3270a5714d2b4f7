"""Names to classes, for everything that is chosen by name. A method is one file and one registration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from anomalyhub.errors import UnknownNameError

T = TypeVar("T", bound=type)


class Registry(Generic[T]):
    """Classes by their `name` attribute.

    >>> detectors = Registry("detector")
    >>> @detectors.register
    ... class Mine:
    ...     name = "mine"
    >>> detectors["mine"] is Mine
    True
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, T] = {}

    def register(self, cls: T) -> T:
        """Class decorator. Raises ValueError when the name is taken by another class."""
        taken = self._classes.setdefault(cls.name, cls)
        if taken is not cls:
            raise ValueError(
                f"{self.kind} {cls.name!r} is registered twice: by {taken.__module__} and {cls.__module__}"
            )
        return cls

    def __getitem__(self, name: str) -> T:
        """Raises UnknownNameError, which lists the valid names and the nearest match."""
        if name not in self._classes:
            raise UnknownNameError(self.kind, name, self._classes)
        return self._classes[name]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._classes))


detectors: Registry = Registry("detector")
register_detector: Callable = detectors.register
#: Trainers of auxiliary weights, which detectors take by their setting `weights`.
trainers: Registry = Registry("trainer")
