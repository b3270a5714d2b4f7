"""Every error that AnomalyHub raises on purpose.

    AnomalyHubError
    ├── InvalidArgumentError (ValueError)     a value outside its range, an unknown option
    │   └── UnknownNameError                  a name that is not registered; lists the valid ones
    ├── InvalidImageError (ValueError)        a file that is not a readable image, a mask that does not fit
    ├── InvalidDatasetError (ValueError)      a folder that is not a data set, or lacks what is asked of it
    ├── InvalidModelError (ValueError)        a folder that is not a saved model, or one of a newer schema
    ├── InvalidUploadError (ValueError)       an upload that is too large, too many or hostile
    ├── InvalidRecordError (ValueError)       a result of a benchmark that is damaged, of another schema, or impossible
    ├── OutputError (OSError)                 an output that cannot be written or would overwrite something
    ├── BackboneError (RuntimeError)          weights that cannot be found, downloaded or that do not fit
    ├── NotFittedError (RuntimeError)         predict before fit
    ├── StoreError (RuntimeError)             a store that cannot be reached, refuses the login, or lacks what is asked
    ├── UnsafeRepositoryError (ValueError)    a repository that is hostile, damaged or too large to be pulled
    └── Cancelled (RuntimeError)              the user stopped a long call

Each message is one sentence, or two, that names the file or value, the reason and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AnomalyHubError(Exception):
    """Base of all errors below: catch it to catch whatever AnomalyHub raises on purpose."""


class InvalidArgumentError(AnomalyHubError, ValueError):
    """A value is outside its range or an option does not exist."""


class UnknownNameError(InvalidArgumentError):
    """A name is not registered; the message lists the valid names and the nearest match."""

    def __init__(self, kind: str, name: str, valid: Iterable[str]):
        names = sorted(valid)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}choose one of {', '.join(names)}")


class InvalidImageError(AnomalyHubError, ValueError):
    """A file is not a readable image, or a mask does not belong to its image."""


class InvalidDatasetError(AnomalyHubError, ValueError):
    """A folder is not a data set of a known layout, or lacks what is asked of it."""


class InvalidModelError(AnomalyHubError, ValueError):
    """A folder is not a saved model, is damaged, or was written by a newer version."""


class InvalidUploadError(AnomalyHubError, ValueError):
    """An upload is too large, has too many files, or is hostile."""


class InvalidRecordError(AnomalyHubError, ValueError):
    """A result of a benchmark is damaged, was written with another schema, or holds figures that cannot be."""


class OutputError(AnomalyHubError, OSError):
    """An output cannot be written, or writing it would overwrite something."""


class BackboneError(AnomalyHubError, RuntimeError):
    """A backbone's weights cannot be found or downloaded, or do not fit its architecture."""


class NotFittedError(AnomalyHubError, RuntimeError):
    """An object is used before ``fit``."""


class StoreError(AnomalyHubError, RuntimeError):
    """A store cannot be reached, refuses the login, lacks the repository, or was changed meanwhile."""


class UnsafeRepositoryError(AnomalyHubError, ValueError):
    """What a repository holds is hostile, damaged or too large; nothing of it was kept."""


class Cancelled(AnomalyHubError, RuntimeError):
    """A long call was stopped by its user; nothing was changed."""
