"""What all stores share: a push is one commit of what has changed, a pull is chosen, copied, checked and then there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, StoreError, UnsafeRepositoryError
from anomalyhub.fsio import atomic_folder
from anomalyhub.hub.contents import (
    Content,
    Entry,
    Listing,
    ahead,
    checked_kind,
    checked_repo_id,
    choose,
    copy_verified,
    gather,
    size_of,
)
from anomalyhub.hub.schema import check_model
from anomalyhub.protocols import Progress, part

#: The tag of everything that AnomalyHub pushes.
TAG = "anomalyhub"
#: How a tag begins that names a product.
PRODUCT_TAG = "product:"
#: Seconds that the cache keeps what nobody asks for.
CACHE_SECONDS = 30 * 86400.0
#: The share of a push's progress that comparing takes.
_COMPARED = 0.1
_LEFTOVER = ".anomalyhub-"
_GOING, _DAY = f"{_LEFTOVER}going-", 86400.0
#: How a folder's name begins that has what a session's login has fetched.
SESSION = f"{_LEFTOVER}session-"
_CARD, _MAX_CARD = "README.md", 1 << 20
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{6,}|(?<=[Bb]earer )\S+")


@dataclass(frozen=True)
class RepoInfo:
    """A repository as a list shows it.

    revision  id of its newest commit      tags     of its card, AnomalyHub's own among them
    product   what it is about, if the card says so
    updated   seconds since 1970, None where unknown      size  bytes, None where unknown
    summary   its last message, or what the card says in a sentence
    """

    repo_id: str
    kind: str
    revision: str
    tags: tuple[str, ...] = ()
    product: str | None = None
    private: bool = False
    updated: float | None = None
    size: int | None = None
    summary: str = ""


@dataclass(frozen=True)
class Pushed:
    """What a push did: `changed` and `removed` are files of the repository; without any there is no new commit.

    revision     id of the repository's newest commit        url  where a person finds it
    bytes_moved  of the files that were sent
    notices      say what of it no pull will take
    """

    repo_id: str
    kind: str
    revision: str
    url: str
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    bytes_moved: int = 0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pulled:
    """A pulled revision: `folder` has what was chosen of it, `notices` say what was left out."""

    folder: Path
    repo_id: str
    kind: str
    revision: str
    notices: tuple[str, ...] = ()


class BaseStore(ABC):
    """Moves folders to repositories and back; see `create_store`.

    A subclass has `spec`, the text that makes it, and implements the methods below that begin with an underscore.
    """

    spec: str

    def push(
        self,
        folder: str | Path,
        repo_id: str,
        kind: str = "model",
        message: str = "",
        *,
        private: bool | None = None,
        extra: Mapping[str, bytes] | None = None,
        progress: Progress | None = None,
    ) -> Pushed:
        """Make the repository hold what the folder holds, in one commit; only what differs is sent.

        A repository that does not exist is made. Whatever interrupts a push, the repository is as it was or complete.

        kind     "model", "dataset" or "space"
        message  of the commit
        private  of a new repository; None: the store's default
        extra    files, by name, that join the folder's or take their place
        Raises InvalidArgumentError for a folder or name that cannot be stored, StoreError.
        """
        repo_id, kind = checked_repo_id(repo_id), checked_kind(kind)
        contents: dict[str, Content] = {**gather(folder), **(extra or {})}
        notices = _pullable(contents, folder, kind)
        head = self._head(repo_id, kind)
        known, changed = ({} if head is None else head.by_path), []
        compare = part(progress, 0.0, _COMPARED)
        names = sorted(contents.keys() & known.keys())
        with closing(ahead(lambda name: known[name].differs(contents[name]), names)) as differing:
            for number, (name, differs) in enumerate(zip(names, differing, strict=True)):
                compare(number / len(names), f"comparing {name}")
                if differs:
                    changed.append(name)
        changed = sorted([*changed, *(contents.keys() - known.keys())])
        removed = sorted(known.keys() - contents.keys() - self._kept)
        if head is not None and not changed and not removed:
            return Pushed(repo_id, kind, head.revision, self.url(repo_id, kind), notices=notices)
        moved = sum(size_of(contents[name]) for name in changed)
        message = message or f"Push {len(changed)} files with AnomalyHub"
        send = part(progress, _COMPARED, 1.0)
        revision = self._commit(repo_id, kind, contents, changed, removed, head, message, private, send)
        if progress is not None:
            progress(1.0, f"pushed {len(changed)} files")
        return Pushed(repo_id, kind, revision, self.url(repo_id, kind), tuple(changed), tuple(removed), moved, notices)

    #: Files of a repository that belong to the store, and that a push leaves as they are.
    _kept: frozenset[str] = frozenset()
    #: Whether `_fetch` gives files of a cache, which nobody changes.
    _is_cached: bool = False

    def pull(
        self,
        repo_id: str,
        kind: str = "model",
        revision: str | None = None,
        *,
        out: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Pulled:
        """Bring a revision here: only safe files, each verified, complete or not at all.

        revision   a commit's id, a branch or a tag; None: the newest
        out        the folder to write; None: a folder of AnomalyHub's cache, which must not be changed
        overwrite  replace `out`
        Raises StoreError when the store or the repository cannot be reached, UnsafeRepositoryError for a repository
        that is refused, InvalidModelError for a model that this version does not read, OutputError.
        """
        repo_id, kind = checked_repo_id(repo_id), checked_kind(kind)
        if kind == "space":
            raise InvalidArgumentError(f"{repo_id} is a space, which is code: clone it with git")
        listing = self._listing(repo_id, kind, revision)
        chosen, notices = choose(listing.entries, kind)
        if not chosen:
            what = f"{repo_id} on {self.spec} has no file that a pull of a {kind} takes"
            raise StoreError(f"{what}: check the name and --kind")
        target = self._cached(repo_id, kind, listing.revision) if out is None else Path(out)
        if out is None and target.is_dir():
            with suppress(OSError):  # a cache that is only to be read
                os.utime(target)  # see `prune_cache`
        else:
            with atomic_folder(target, overwrite or out is None) as staged:
                self._assemble(staged, repo_id, kind, listing.revision, chosen, out is None, progress)
                if kind == "model":
                    check_model(staged)
            prune_cache()
        return Pulled(target, repo_id, kind, listing.revision, tuple(notices))

    def _assemble(
        self,
        staged: Path,
        repo_id: str,
        kind: str,
        revision: str,
        chosen: Sequence[Entry],
        cached: bool,
        progress: Progress | None,
    ) -> None:
        def fetched() -> Iterator[tuple[Path, Entry]]:
            total, done = sum(entry.size for entry in chosen) or 1, 0
            for entry in sorted(chosen, key=lambda entry: -entry.size):
                share = part(progress, done / total, (done + entry.size) / total)
                share(0.0, f"pulling {entry.path}")
                yield self._fetch(repo_id, kind, revision, entry, share), entry
                done += entry.size

        def copy(one: tuple[Path, Entry]) -> None:
            path, entry = one
            copy_verified(path, staged / entry.path, entry, link=cached and self._is_cached)

        for _ in ahead(copy, fetched()):
            pass

    def _cached(self, repo_id: str, kind: str, revision: str) -> Path:
        where = re.sub(r"[^A-Za-z0-9.-]+", "-", self.spec)[-100:]
        return cache_root() / "pulled" / where / f"{kind}s" / repo_id / revision

    def files(self, repo_id: str, kind: str = "model", revision: str | None = None) -> Listing:
        """All files of a revision, those that a pull would leave out as well. Raises StoreError."""
        return self._listing(checked_repo_id(repo_id), checked_kind(kind), revision)

    def exists(self, repo_id: str, kind: str = "model") -> bool:
        """Whether there is such a repository with something in it. Raises StoreError where that cannot be known."""
        return self._head(checked_repo_id(repo_id), checked_kind(kind)) is not None

    def card(self, repo_id: str, kind: str = "model", revision: str | None = None) -> tuple[Listing, str]:
        """All files of a revision, and its README.md; "" where there is none or a huge one. Raises as `pull` does."""
        listing = self.files(repo_id, kind, revision)
        entry = listing.by_path.get(_CARD)
        if entry is None or not 0 <= entry.size <= _MAX_CARD:
            return listing, ""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / _CARD
            fetched = self._fetch(repo_id, kind, listing.revision, entry, lambda *_: None)
            copy_verified(fetched, target, entry)
            return listing, target.read_text(encoding="utf-8", errors="replace")

    @abstractmethod
    def list(
        self, kind: str = "model", *, tag: str | None = None, product: str | None = None, limit: int = 200
    ) -> list[RepoInfo]:
        """Repositories that AnomalyHub has pushed, the newest first; with all of the given properties."""

    @abstractmethod
    def url(self, repo_id: str, kind: str) -> str:
        """Where a person finds a repository."""

    @abstractmethod
    def _head(self, repo_id: str, kind: str) -> Listing | None:
        """The newest revision; None when there is no such repository, or nothing in it. Raises StoreError."""

    @abstractmethod
    def _listing(self, repo_id: str, kind: str, revision: str | None) -> Listing:
        """A revision. Raises StoreError when there is none."""

    @abstractmethod
    def _fetch(self, repo_id: str, kind: str, revision: str, entry: Entry, progress: Progress) -> Path:
        """A local file with an entry's bytes; the caller verifies it. Raises StoreError."""

    @abstractmethod
    def _commit(
        self,
        repo_id: str,
        kind: str,
        contents: Mapping[str, Content],
        changed: Sequence[str],
        removed: Sequence[str],
        parent: Listing | None,
        message: str,
        private: bool | None,
        progress: Progress,
    ) -> str:
        """Make `contents` the newest revision, all or nothing, and return its id; make the repository if need be.

        parent  what `changed` and `removed` were compared with. Raises StoreError when it is not the newest any more.
        """


def create_store(spec: str | BaseStore = "hub", token: str | bool | None = None) -> BaseStore:
    """A store: "hub", the Hugging Face Hub or what HF_ENDPOINT names, or "folder:PATH"; a store stays what it is.

    token  for the hub, kept in memory; None: what `hf auth login` or HF_TOKEN say; False: none
    Raises InvalidArgumentError.
    """
    if isinstance(spec, BaseStore):
        return spec
    name, colon, path = spec.partition(":")
    if name == "hub" and not colon:
        from anomalyhub.hub.remote import HubStore

        return HubStore(token)
    if name == "folder" and path:
        from anomalyhub.hub.folder import FolderStore

        return FolderStore(path)
    raise InvalidArgumentError(f"unknown store {spec!r}: write hub, or folder:PATH such as folder:/share/models")


def check_target(repo_id: str, store: str) -> None:
    """Before long work: raise InvalidArgumentError for a repository or store that cannot be."""
    checked_repo_id(repo_id)
    create_store(store)


def push_command(folder: str | Path, repo_id: str, kind: str, store: str) -> str:
    """What to type to push a folder (again)."""
    return shlex.join(["anomalyhub", "push", str(folder), repo_id, "--kind", kind, "--store", store])


def cache_root() -> Path:
    """Where AnomalyHub keeps what it can get again: $ANOMALYHUB_HOME, else $XDG_CACHE_HOME/anomalyhub or ~/.cache/…"""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "anomalyhub"
    return Path(os.environ.get("ANOMALYHUB_HOME") or cache).expanduser().absolute()


def prune_cache(seconds: float = CACHE_SECONDS) -> None:
    """Remove from the cache what was neither pulled nor written for so long; all of it can be had again."""
    root, now = cache_root(), time.time()
    for folder in (*root.glob("pulled/*/*/*/*/*"), *root.glob("rows/*"), *root.glob(f"{_LEFTOVER}*")):
        with suppress(OSError):  # gone, or another process removes it too
            if folder.name.startswith(_LEFTOVER):
                if now - folder.stat().st_mtime > _DAY:  # of a process that was killed
                    shutil.rmtree(folder, ignore_errors=True)
            elif now - folder.stat().st_mtime > seconds:
                going = root / f"{_GOING}{uuid.uuid4().hex}"  # whatever interrupts this, nothing is there by half
                folder.rename(going)
                shutil.rmtree(going, ignore_errors=True)


def _pullable(contents: Mapping[str, Content], folder: str | Path, kind: str) -> tuple[str, ...]:
    """What of it no pull will take. Raises InvalidArgumentError where every pull would refuse all of it."""
    if kind == "space":
        return ()
    try:
        return tuple(choose([Entry(name, size_of(content)) for name, content in contents.items()], kind)[1])
    except UnsafeRepositoryError as error:
        raise InvalidArgumentError(f"{folder} is not pushed, as nobody could pull it: {error}") from error


def reason(error: BaseException, token: str | bool | None = None) -> str:
    """An error's first line without what must not be shown: tokens."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines and not isinstance(error, AnomalyHubError) else str(error) or type(error).__name__
    if isinstance(token, str) and token:
        text = text.replace(token, "…")
    return _TOKEN.sub("…", text)
