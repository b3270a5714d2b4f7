"""`save_pretrained`, `push_to_hub` and `from_pretrained` for whatever is saved as a folder."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidModelError
from anomalyhub.fsio import atomic_folder
from anomalyhub.hub.base import BaseStore, Pushed, create_store
from anomalyhub.hub.made import Made

#: What a saved model may consist of.
_PARTS = frozenset(
    {
        *("config.json", "state.safetensors", "inspector.json", "binarizer.json", "examples.json"),
        *("classifier", "discoverer", "references"),
    }
)


class Pretrained:
    """A mixin for classes with `save(folder)`, or `write(folder)`, and a classmethod `load(folder, **options)`."""

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **options: Any
    ) -> Pushed | None:
        """Write a model folder, complete or not at all; a model that is there is replaced, other folders are not.

        push_to_hub, repo_id  push it as well; `options` are those of `push_to_hub`
        Raises OutputError, NotFittedError.
        """
        if push_to_hub and repo_id is None:
            raise InvalidArgumentError("push_to_hub needs a repository: give repo_id, OWNER/NAME")
        if options and not push_to_hub:
            raise InvalidArgumentError(f"{', '.join(options)} belongs to a push: give push_to_hub=True as well")
        folder = Path(save_directory)
        with atomic_folder(folder, overwrite=_is_model(folder)) as staged:
            _write(self, staged)
            for path in folder.iterdir() if folder.is_dir() else ():  # what is not a model's, such as a card, stays
                if path.name not in _PARTS and not (staged / path.name).exists():
                    copy = shutil.copytree if path.is_dir() else shutil.copy2
                    copy(path, staged / path.name)
        return _share(folder, str(repo_id), **options) if push_to_hub else None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "",
        private: bool | None = None,
        token: str | bool | None = None,
        store: str | BaseStore = "hub",
        license: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> Pushed:
        """Push it to the Hugging Face Hub, or another store, with a card; see `anomalyhub.hub.share.share`.

        store    "hub" or "folder:PATH"
        license, metrics, tags  for the card
        Raises NotFittedError, StoreError.
        """
        with tempfile.TemporaryDirectory(prefix="anomalyhub-") as folder:
            _write(self, Path(folder))
            described = {"license": license, "metrics": metrics, "tags": tags}
            return _share(
                folder, repo_id, commit_message=commit_message, private=private, token=token, store=store, **described
            )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        store: str | BaseStore = "hub",
        **options: Any,
    ):
        """Load from a folder, or from a repository OWNER/NAME of a store; of a base class, the method that was saved.

        revision  a commit's id, a branch or a tag; None: the newest
        options   of `load`, such as backbone="resnet18@weights.safetensors" where the weights are a local file
        Raises StoreError, UnsafeRepositoryError, InvalidModelError, BackboneError.
        """
        folder = Path(pretrained_model_name_or_path).expanduser()
        if not folder.is_dir():
            pulled = create_store(store, token).pull(str(pretrained_model_name_or_path), "model", revision)
            for notice in pulled.notices:
                warnings.warn(f"{pulled.repo_id}: {notice}", stacklevel=2)
            folder = pulled.folder
        elif revision is not None:
            raise InvalidArgumentError(f"{folder} is a folder, which has no revisions: leave revision out")
        made = Made.read(folder)
        return _class_of(cls, made).load(made.folder, **options)


def _write(thing: Any, folder: Path) -> None:
    """Into an existing folder."""
    getattr(thing, "write", thing.save)(folder)


def _share(folder: str | Path, repo_id: str, *, commit_message: str = "", **options: Any) -> Pushed:
    from anomalyhub.hub.share import share

    return share(folder, repo_id, message=commit_message, **options)


def _is_model(folder: Path) -> bool:
    try:
        return (folder / "config.json").is_file() and Made.read(folder).folder == folder
    except AnomalyHubError:
        return False


def _class_of(cls: type, made: Made) -> type:
    """The class itself, or the one of its subclasses that has the saved method's name. Raises InvalidModelError."""
    if not hasattr(cls, "name"):  # no method but what surrounds one: an inspector, or a base class
        if not inspect.isabstract(cls):
            return cls
        for other in _subclasses(cls):
            if getattr(other, "name", None) == made.method and not inspect.isabstract(other):
                return other
    elif made.method == cls.name:
        return cls
    raise InvalidModelError(f"{made.folder} holds a {made.kind} {made.method!r}, and is not one of {cls.__name__}")


def _subclasses(cls: type) -> Iterator[type]:
    for other in cls.__subclasses__():
        yield other
        yield from _subclasses(other)
