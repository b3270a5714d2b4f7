"""A store that is a plain folder, such as a share of a plant without internet.

    ROOT/models|datasets|spaces/OWNER/NAME/
        main.json         the newest revision's manifest: replacing this file is the commit
        versions/ID/      a revision's files, of use as they are; what did not change is a hard link to the one before
        versions/ID.json  its manifest
        .lock             held by who pushes

A manifest is {"revision", "parent", "message", "time", "tags", "files": {name: {"size", "sha256"}}}. Who may
write to a share may write anything there, so what is read is checked like any stranger's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, OutputError, StoreError, UnsafeRepositoryError
from anomalyhub.fsio import atomic_file, make_folder
from anomalyhub.hub.base import PRODUCT_TAG, BaseStore, Pushed, RepoInfo
from anomalyhub.hub.contents import (
    MAX_FILES,
    Content,
    Entry,
    Listing,
    ahead,
    checked_kind,
    checked_repo_id,
    copy_hashed,
    open_regular,
    size_of,
)
from anomalyhub.hub.front_matter import read_front_matter
from anomalyhub.locks import locked
from anomalyhub.protocols import Progress

MAIN, VERSIONS, LOCK = "main.json", "versions", ".lock"
_LEFTOVER = ".anomalyhub-"
_ID, _PREFIX, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{4,40}"), re.compile(r"[0-9a-f]{64}")
#: Bytes that a manifest may have: a third more than that of MAX_FILES files with names as they are.
_MAX_MANIFEST = 32 << 20
#: Seconds that a push waits for another one of the same repository; how often it begins again when overtaken.
_PATIENCE, _RETRIES = 600.0, 10
_MAX_TEXT, _MAX_TAGS, _MAX_SIZE = 300, 100, 1 << 60


class _OvertakenError(StoreError):
    """Somebody else has pushed since the repository was read."""


class FolderStore(BaseStore):
    """Repositories below a folder; pushing makes it, and pulling writes nothing there.

    None of them is private: who may read them and who may push is a matter of the folder's permissions.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser().absolute()
        self.spec = f"folder:{self.root}"

    def push(self, folder: str | Path, repo_id: str, kind: str = "model", message: str = "", **options: Any) -> Pushed:
        """As `BaseStore.push`; when another push comes first, this one is compared with that and follows it.

        Raises InvalidArgumentError for private=True too, which a folder cannot promise.
        """
        if options.get("private"):
            raise InvalidArgumentError(
                f"{self.spec} has no private repositories: leave private out, and set the folder's permissions"
            )
        if self.root.resolve().is_relative_to(Path(folder).expanduser().resolve()):
            raise InvalidArgumentError(f"{folder} holds the store {self.root} itself: push a folder beside it")
        for _ in range(_RETRIES):
            with suppress(_OvertakenError):
                return super().push(folder, repo_id, kind, message, **options)
        return super().push(folder, repo_id, kind, message, **options)

    def list(
        self, kind: str = "model", *, tag: str | None = None, product: str | None = None, limit: int = 200
    ) -> list[RepoInfo]:
        """As `BaseStore.list`; a damaged repository is left out. Raises StoreError when the root is not there."""
        found, wanted = [], {*([tag] if tag else ()), *([PRODUCT_TAG + product] if product else ())}
        for repo_id in self._repo_ids(checked_kind(kind)):
            try:
                manifest = self._manifest(repo_id, kind)
            except AnomalyHubError:
                continue
            if wanted <= set(manifest["tags"]):
                found.append(_info(repo_id, kind, manifest))
        return sorted(found, key=lambda info: (-(info.updated or 0.0), info.repo_id))[:limit]

    def url(self, repo_id: str, kind: str) -> str:
        return str(self._home(repo_id, kind))

    def _home(self, repo_id: str, kind: str) -> Path:
        return self.root / f"{kind}s" / repo_id

    def _repo_ids(self, kind: str) -> Iterator[str]:
        self._check_root()
        for owner in _folders(self.root / f"{kind}s"):
            for home in _folders(owner):
                with suppress(InvalidArgumentError):
                    yield checked_repo_id(f"{owner.name}/{home.name}")

    def _check_root(self) -> None:
        if not self.root.is_dir():
            raise StoreError(f"the store {self.root} is not there: check the path, or mount the share")

    def _head(self, repo_id: str, kind: str) -> Listing | None:
        if not os.path.lexists(self._home(repo_id, kind) / MAIN):
            return None
        listing = _listed(self._manifest(repo_id, kind))
        version = self._home(repo_id, kind) / VERSIONS / listing.revision
        return Listing(listing.revision, tuple(entry for entry in listing.entries if _is_whole(version, entry)))

    def _listing(self, repo_id: str, kind: str, revision: str | None) -> Listing:
        return _listed(self._manifest(repo_id, kind, revision))

    def _manifest(self, repo_id: str, kind: str, revision: str | None = None) -> dict[str, Any]:
        """The manifest of the newest revision (None or "main"), or of that with an id, or its first digits."""
        home = self._home(repo_id, kind)
        self._check_root()
        if not os.path.lexists(home / MAIN):
            raise StoreError(f"{self.spec} has no {kind} {repo_id}: check the name, or list what is there")
        self._check_links(home / VERSIONS)
        newest = _read_manifest(home / MAIN)
        if revision in (None, "main"):
            return newest
        known = {newest["revision"], *(path.stem for path in (home / VERSIONS).glob("*.json"))}
        asked = bool(_PREFIX.fullmatch(revision))
        named = [one for one in known if asked and _ID.fullmatch(one) and one.startswith(revision)]
        if len(named) != 1:
            what = f"{len(named)} revisions that begin with" if named else "no revision"
            raise StoreError(f"{repo_id} in {self.spec} has {what} {revision[:60]!r}: give a commit's id, or none")
        return newest if named[0] == newest["revision"] else _read_manifest(home / VERSIONS / f"{named[0]}.json")

    def _check_links(self, folder: Path) -> None:
        """Raise UnsafeRepositoryError where a folder between the root and this one is a link."""
        inside = folder.relative_to(self.root)
        if os.path.realpath(folder) != os.path.join(os.path.realpath(self.root), inside):
            raise UnsafeRepositoryError(f"{inside} in {self.spec} lies behind a link: put the files themselves there")

    def _fetch(self, repo_id: str, kind: str, revision: str, entry: Entry, progress: Progress) -> Path:
        path = self._home(repo_id, kind) / VERSIONS / revision  # `_manifest` has checked what is above
        for name in entry.path.split("/"):
            if path.is_symlink():
                raise UnsafeRepositoryError(f"{entry.path} in {repo_id} lies behind a link: it is not pulled")
            path = path / name
        return path

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
        if len(contents) > MAX_FILES:
            raise InvalidArgumentError(f"{len(contents)} files are too many for {repo_id}: push at most {MAX_FILES}")
        home = self._home(repo_id, kind)
        make_folder(home / VERSIONS)
        self._check_links(home / VERSIONS)
        with locked(home / LOCK, _PATIENCE):
            head = self._head(repo_id, kind)
            if (head and head.revision) != (parent and parent.revision):
                raise _OvertakenError(f"somebody else has pushed {repo_id} to {self.spec} meanwhile: push again")
            staged = home / VERSIONS / f"{_LEFTOVER}{uuid.uuid4().hex[:12]}"
            try:
                _tidy(home)
                staged.mkdir()
                former = home / VERSIONS / head.revision if head else None
                kept = {} if head is None else {name: head.by_path[name] for name in contents.keys() - set(changed)}
                files = _fill(staged, contents, former, kept, progress)
                return _publish(home, staged, files, head.revision if head else None, message)
            except OSError as error:
                if isinstance(error, OutputError):
                    raise
                at = f" ({error.filename})" if error.filename else ""
                raise OutputError(
                    f"cannot push to {home}: {error.strerror or error}{at}; free some space, or get write access"
                ) from error
            finally:
                shutil.rmtree(staged, ignore_errors=True)


def _fill(
    staged: Path,
    contents: Mapping[str, Content],
    former: Path | None,
    kept: Mapping[str, Entry],
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Write all files of a revision; those of `kept` are linked to the `former` revision's where that can be."""

    def write(name: str) -> dict[str, Any]:
        if name in kept and _link(former, staged, kept[name]):
            return {"size": kept[name].size, "sha256": kept[name].sha256}
        return _store(contents[name], staged / name)

    for folder in {os.path.dirname(name) for name in contents}:
        (staged / folder).mkdir(parents=True, exist_ok=True)
    names, files = sorted(contents, key=lambda name: (-size_of(contents[name]), name)), {}
    with closing(ahead(write, names)) as records:
        for number, (name, record) in enumerate(zip(names, records, strict=True)):
            progress(number / len(names), f"pushing {name}")
            files[name] = record
    return dict(sorted(files.items()))


def _is_whole(version: Path, entry: Entry) -> bool:
    """Whether a stored file seems to be there; one that is not is pushed anew. Its bytes are compared by a pull."""
    try:
        status = os.lstat(version / entry.path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == entry.size


def _link(version: Path, target: Path, entry: Entry) -> bool:
    """Give a stored file another name; False where the file system has no links, or no more of them."""
    try:
        os.link(version / entry.path, target / entry.path, follow_symlinks=False)
        return True
    except OSError:
        return False


def _store(content: Content, target: Path) -> dict[str, Any]:
    """Write a new file, which all later revisions will share: nobody is to change it, so it is read-only."""
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as copied:
        if isinstance(content, bytes):
            copied.write(content)
            return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        with open(content, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            found = copy_hashed(file, copied.write, size)
    if found is None:
        raise StoreError(f"{content} changed while it was pushed: push again when nothing writes to it")
    return {"size": size, **found}


def _publish(home: Path, staged: Path, files: dict[str, Any], parent: str | None, message: str) -> str:
    """Make a complete folder the newest revision."""
    manifest = {"parent": parent, "message": _plain(message), "time": time.time(), "tags": _tags(staged)}
    text = json.dumps(manifest | {"files": files}, sort_keys=True)
    revision = hashlib.sha1(text.encode()).hexdigest()
    manifest = {"revision": revision, **manifest, "files": files}
    if len(text) > _MAX_MANIFEST - 1000:
        raise InvalidArgumentError(f"{len(files)} files with such long names are too many: push fewer, or shorter ones")
    os.rename(staged, home / VERSIONS / revision)
    _write(home / MAIN, manifest)
    with suppress(OutputError):  # it is committed, and the next push makes up for this
        _write(home / VERSIONS / f"{revision}.json", manifest)
    return revision


def _tags(folder: Path) -> list[str]:
    """What the card says."""
    try:
        with open(folder / "README.md", encoding="utf-8", errors="replace") as file:
            return _plain_tags(read_front_matter(file.read(1 << 20)).get("tags"))
    except OSError:
        return []


def _tidy(home: Path) -> None:
    """Complete what a killed push had committed, and remove what others had only begun."""
    versions, newest = home / VERSIONS, None
    if os.path.lexists(home / MAIN):
        manifest = _read_manifest(home / MAIN)
        newest = manifest["revision"]
        if not os.path.lexists(versions / f"{newest}.json"):
            _write(versions / f"{newest}.json", manifest)
    for path in [*home.glob(f"{_LEFTOVER}*"), *versions.iterdir()]:
        begun = _ID.fullmatch(path.name) and path.name != newest and not os.path.lexists(f"{path}.json")
        if begun or path.name.startswith(_LEFTOVER):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _write(path: Path, manifest: Mapping[str, Any]) -> None:
    with atomic_file(path) as staged:
        staged.write_text(json.dumps(manifest), encoding="utf-8")


def _read_manifest(path: Path) -> dict[str, Any]:
    """A manifest of the form that `_publish` writes; what is there for people is made harmless. Raises StoreError."""
    try:
        with io.BufferedReader(open_regular(path)) as file:
            text = file.read(_MAX_MANIFEST + 1)
        if len(text) > _MAX_MANIFEST:
            raise ValueError("too large")
        manifest = json.loads(text)
        named, files = manifest["revision"], manifest["files"]
        whole = isinstance(named, str) and _ID.fullmatch(named) and path.stem in ("main", named)
        if not whole or not isinstance(files, dict) or not all(map(_is_recorded, files.values())):
            raise ValueError("not what a push writes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsafeRepositoryError(
            f"{path} is damaged ({str(error)[:80] or type(error).__name__}): pull another revision, or push again"
        ) from error
    when = manifest.get("time")
    return {
        **manifest,
        "message": _plain(manifest.get("message")),
        "time": float(when) if isinstance(when, (int, float)) and 0 < when < 1e11 else None,
        "tags": _plain_tags(manifest.get("tags")),
    }


def _is_recorded(record: Any) -> bool:
    size, sha256 = record["size"], record["sha256"]
    return type(size) is int and 0 <= size < _MAX_SIZE and isinstance(sha256, str) and bool(_SHA256.fullmatch(sha256))


def _listed(manifest: Mapping[str, Any]) -> Listing:
    files = manifest["files"].items()
    return Listing(manifest["revision"], tuple(Entry(name, one["size"], one["sha256"]) for name, one in files))


def _info(repo_id: str, kind: str, manifest: Mapping[str, Any]) -> RepoInfo:
    tags = tuple(manifest["tags"])
    products = [tag.removeprefix(PRODUCT_TAG) for tag in tags if tag.startswith(PRODUCT_TAG)]
    return RepoInfo(
        repo_id,
        kind,
        manifest["revision"],
        tags,
        products[0] if products else None,
        updated=manifest["time"],
        size=sum(one["size"] for one in manifest["files"].values()),
        summary=manifest["message"],
    )


def _plain_tags(tags: Any) -> list[str]:
    tags = tags[:_MAX_TAGS] if isinstance(tags, list) else []
    return [_plain(tag) for tag in tags if isinstance(tag, str)]


def _plain(text: Any) -> str:
    """A text for people on one line, without letters that move the cursor."""
    text = text[:_MAX_TEXT] if isinstance(text, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError:
        return []
