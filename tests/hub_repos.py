"""What the test Hub holds: repositories with commits, branches and tags, whose large files are kept as LFS does."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import PurePosixPath

import yaml

from anomalyhub.hub.front_matter import read_front_matter

KINDS = ("model", "dataset", "space")
#: What the Hub's own .gitattributes names, and for data sets pictures too.
LFS_SUFFIXES = {".safetensors", ".parquet", ".npy", ".bin", ".zip", ".onnx", ".faiss", ".xml.bin"}
PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
LFS_BYTES = 10 * 1024**2


class HubError(Exception):
    """An answer other than 200: its status, the Hub's code for it, and its words."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def git_oid(content: bytes, kind: str = "blob") -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def is_lfs(kind: str, path: str, size: int) -> bool:
    suffix = PurePosixPath(path).suffix.lower()
    return suffix in LFS_SUFFIXES or size > LFS_BYTES or (kind == "dataset" and suffix in PICTURES)


@dataclass(frozen=True)
class File:
    """A version of a file."""

    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        lines = ["version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(self.content)}"]
        return "\n".join([*lines, ""]).encode()

    @cached_property
    def oid(self) -> str:
        return git_oid(self.pointer if self.lfs else self.content)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict:
        """As the Hub's tree has it."""
        entry = {"type": "file", "oid": self.oid, "size": len(self.content), "path": path}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


@dataclass(frozen=True)
class Commit:
    """A revision: every file of it by path."""

    id: str
    parent: str | None
    message: str
    files: Mapping[str, File]
    when: float

    @property
    def date(self) -> str:
        return datetime.fromtimestamp(self.when, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass
class Repo:
    """A repository.

    said     {path: fields of its entry in the tree that are told otherwise}, such as {"size": 3}
    planted  entries that the tree has besides, whatever they say
    """

    kind: str
    id: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    said: dict[str, dict] = field(default_factory=dict)
    planted: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.commits:
            self.commit({".gitattributes": File(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)})

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def head(self) -> Commit:
        return self.commits[self.branches["main"]]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag, or the first digits of its id name."""
        for named in (self.branches, self.tags):
            if revision in named:
                return self.commits[named[revision]]
        found = [commit for id, commit in self.commits.items() if len(revision) >= 7 and id.startswith(revision)]
        if len(found) == 1:
            return found[0]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(
        self,
        added: Mapping[str, File],
        removed: Iterable[str] = (),
        message: str = "initial commit",
        branch: str = "main",
        parent: str | None = None,
    ) -> Commit:
        """One more commit on a branch; nothing happens where it cannot be made."""
        if branch not in self.branches and self.commits:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = self.commits.get(self.branches.get(branch, ""))
        if parent and (head is None or not head.id.startswith(parent)):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files) if head else {}
        for path in removed:
            inner = [path] if path in files else [name for name in files if name.startswith(path.rstrip("/") + "/")]
            if not inner:
                raise HubError(404, f'A file with this name doesn\'t exist: "{path}"', "EntryNotFound")
            for name in inner:
                del files[name]
        files |= added
        when = time.time()
        tree = "\n".join(f"{file.oid} {path}" for path, file in sorted(files.items()))
        id = git_oid(f"{head.id if head else None} {when!r} {len(self.commits)} {message}\n{tree}".encode(), "commit")
        self.commits[id] = Commit(id, head.id if head else None, message, files, when)
        self.branches[branch] = id
        return self.commits[id]

    def history(self, commit: Commit) -> list[Commit]:
        made = [commit]
        while made[-1].parent:
            made.append(self.commits[made[-1].parent])
        return made

    def tree(self, commit: Commit, folder: str, recursive: bool) -> list[dict]:
        """The entries below a folder, folders first."""
        prefix = folder.rstrip("/") + "/" if folder else ""
        inside = [path for path in sorted(commit.files) if path.startswith(prefix)]
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist on {commit.id}", "EntryNotFound")
        folders, entries = set(), []
        for path in inside:
            parts = path[len(prefix) :].split("/")
            depth = len(parts) if recursive else 2
            folders.update(prefix + "/".join(parts[:end]) for end in range(1, min(depth, len(parts))))
            if recursive or len(parts) == 1:
                entries.append(self.entry(commit, path))
        trees = [
            {"type": "directory", "oid": git_oid(name.encode(), "tree"), "size": 0, "path": name} for name in folders
        ]
        return sorted(trees, key=lambda entry: entry["path"]) + entries + ([] if folder else self.planted)

    def entry(self, commit: Commit, path: str) -> dict:
        return {**commit.files[path].entry(path), **self.said.get(path, {})}

    def card(self, commit: Commit) -> dict:
        """The front matter of README.md; {} where there is none, or no mapping."""
        readme = commit.files.get("README.md")
        return read_front_matter(readme.content.decode(errors="replace")) if readme else {}

    def hub_tags(self, commit: Commit) -> list[str]:
        """What a repository is found by: its card's tags, and those that the Hub makes of other fields."""
        card = self.card(commit)
        found = [str(tag) for tag in _listed(card.get("tags"))]
        found += [str(card[key]) for key in ("library_name", "pipeline_tag") if card.get(key)]
        for key, name in (("license", "license"), ("base_model", "base_model"), ("datasets", "dataset")):
            found += [f"{name}:{value}" for value in _listed(card.get(key))]
        return list(dict.fromkeys([*found, "region:us"]))

    def info(self, commit: Commit, *, blobs: bool = False) -> dict:
        """All that the Hub says of a repository."""
        siblings = []
        for path in sorted(commit.files):
            entry = self.entry(commit, path)
            lfs = {"lfs": {**entry["lfs"], "sha256": entry["lfs"].get("oid")}} if "lfs" in entry else {}
            more = {"size": entry["size"], "blobId": entry["oid"], **lfs} if blobs else {}
            siblings.append({"rfilename": path, **more})
        card = self.card(commit)
        info = {
            "_id": git_oid(self.id.encode())[:24],
            "id": self.id,
            "author": self.owner,
            "sha": commit.id,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": self.hub_tags(commit),
            "createdAt": min(self.commits.values(), key=lambda made: made.when).date,
            "lastModified": commit.date,
            "siblings": siblings,
            "usedStorage": sum(len(file.content) for file in commit.files.values() if file.lfs),
            **({"cardData": card} if card else {}),
        }
        if self.kind == "model":
            info |= {"modelId": self.id, **{key: card[key] for key in ("library_name", "pipeline_tag") if key in card}}
        return info


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def front_matter(text: str) -> object:
    """What stands between the first two lines of ---, read as YAML; {} without them."""
    parts = text.replace("\r\n", "\n").split("---\n", 2)
    return yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
