"""Hostile repositories in a folder store: names, manifests that lie, links; and what a hostile repository is.

A `Case` changes a good repository, a saved inspector or a small data set, before and after it is written into a folder
store the way that an attacker would write it, without a push.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomalyhub.hub.contents import name_fault

REVISION = "1" * 40
#: What must come of a case. "refused": by the pull. "unreadable": by the pull or by the loading. "harmless": it loads,
#: without what is hostile. "left out": that, and a notice says so. "any": one of all these.
OUTCOMES = ("refused", "unreadable", "harmless", "left out", "any")


@dataclass
class Repo:
    """A repository that is being made hostile."""

    files: dict[str, bytes]
    entries: dict[str, Any] = field(default_factory=dict)  # what the manifest says instead, by name
    manifest: dict[str, Any] = field(default_factory=dict)  # fields of it instead
    main: bytes | None = None  # all of main.json instead
    after: Callable[[Path, Path], None] | None = None  # called with the version's and the repository's folder

    def json(self, name: str) -> Any:
        return json.loads(self.files[name])

    def put_json(self, name: str, value: Any) -> None:
        self.files[name] = json.dumps(value).encode()


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    make: Callable[[Repo], object]
    outcome: str
    says: str = ""  # a pattern that its error, or notice, must match


def plant(home: Path, files: dict[str, bytes], case: Case) -> None:
    """Write the repository of a case, with names that lead elsewhere written there, below `home.parent`."""
    repo = Repo(dict(files))
    case.make(repo)
    version = home / "versions" / REVISION
    version.mkdir(parents=True)
    for name, content in repo.files.items():
        try:
            path = version / name
            if Path(os.path.normpath(path)).is_relative_to(home.parent) and not name.startswith("/"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        except (OSError, ValueError, RecursionError):
            continue  # a name that no file here can have
    entries = {name: {"size": len(one), "sha256": hashlib.sha256(one).hexdigest()} for name, one in repo.files.items()}
    manifest = {"revision": REVISION, "parent": None, "message": "", "time": 1.7e9, "tags": ["anomalyhub"]}
    manifest |= {"files": {**entries, **repo.entries}, **repo.manifest}
    text = json.dumps(manifest).encode("utf-8", "surrogatepass") if repo.main is None else repo.main
    (home / "main.json").write_bytes(text)
    if repo.after is not None:
        repo.after(version, home)


def serve(hub: Any, repo_id: str, files: dict[str, bytes], case: Case) -> bool:
    """Give a Hub of loopback the repository of a case; False where only a folder store can have it."""
    repo = Repo(dict(files))
    case.make(repo)
    if repo.entries or repo.manifest or repo.main is not None or repo.after is not None:
        return False
    if "README.md" in repo.files:  # which the server reads for its lists, as trusting as can be
        return False
    odd = [name for name in repo.files if name_fault(name)]
    hub.add(case.kind, repo_id, {name: content for name, content in repo.files.items() if name not in odd})
    hub.repo(repo_id, case.kind).planted += [{"type": "file", "path": one, "size": 2, "oid": "0" * 40} for one in odd]
    return True


def adding(name: str, content: bytes = b"{}") -> Callable[[Repo], None]:
    return lambda repo: repo.files.update({name: content})


NAMES = {
    "climbs": "../evil.json",
    "climbs inside": "references/../../evil.json",
    "climbs far": "../" * 30 + "tmp/evil.json",
    "climbs to itself": "../1/config.json",
    "dot": ".",
    "dot dot": "..",
    "dot part": "a/./b.json",
    "empty": "",
    "empty part": "a//b.json",
    "ends with slash": "a.json/",
    "absolute": "/tmp/evil.json",
    "network": "//server/evil.json",
    "drive": "C:/evil.json",
    "drive of one letter": "c:evil.json",
    "backslash": "a\\b.json",
    "backslash climbs": "..\\evil.json",
    "unc": "\\\\server\\evil.json",
    "nul": "config.json\0.png",
    "newline": "a\n.json",
    "escape": "\x1b[2Ja.json",
    "delete": "a\x7f.json",
    "right to left": "a\u202enosj.json",
    "line separator": "a\u2028.json",
    "surrogate": "a\ud800.json",
    "device": "con.json",
    "device in folder": "references/NUL",
    "serial port": "COM1.safetensors",
    "ends with dot": "config.json.",
    "ends with space": "config.json ",
    "home": "~/evil.json",
    "home of another": "~root/evil.json",
    "long": "a" * 300 + ".json",
    "long path": "a/" * 2000 + "a.json",
    "git": ".git/config",
    "git in capitals": ".GIT/hooks/post-checkout.json",
}
COLLISIONS = {
    "capitals": ["CONFIG.JSON"],
    "folder in capitals": ["References/000.png"],
    "normal forms": [unicodedata.normalize(form, "größe.json") for form in ("NFC", "NFD")],
    "long s": ["\u017ftate.safetensors"],
    "sharp s": ["ss.json", "ß.json"],
    "file and folder": ["config.json/a.json"],
    "file where a folder is": ["references"],
}


def _names() -> Iterator[Case]:
    for what, name in NAMES.items():
        yield Case(f"name: {what}", "model", adding(name), "refused", "whose name")
    yield Case("name: deep", "model", adding("a/" * 500 + "a.json"), "any")
    for what in ("climbs", "absolute", "backslash climbs"):
        yield Case(f"name of what is left out: {what}", "model", adding(NAMES[what] + ".exe"), "refused", "whose name")
        yield Case(f"name: {what}", "dataset", adding(NAMES[what]), "refused", "whose name")
    for what, names in COLLISIONS.items():
        yield Case(
            f"collision: {what}",
            "model",
            lambda repo, names=names: repo.files.update(dict.fromkeys(names, b"{}")),
            "refused",
            "one name|where .* has a folder",
        )


def _saying(**said: Any) -> Callable[[Repo], None]:
    """The manifest says something else of the detector's arrays."""

    def make(repo: Repo) -> None:
        content = repo.files["state.safetensors"]
        true = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        repo.entries["state.safetensors"] = true | said

    return make


def _storing(change: Callable[[bytes], bytes]) -> Callable[[Repo], None]:
    """The stored file is another than the manifest says."""

    def make(repo: Repo) -> None:
        def after(version: Path, home: Path) -> None:
            path = version / "state.safetensors"
            path.write_bytes(change(path.read_bytes()))

        repo.after = after

    return make


def _lies() -> Iterator[Case]:
    said = {
        "a byte more": _storing(lambda content: content + b"\0"),
        "a byte less": _storing(lambda content: content[:-1]),
        "half": _storing(lambda content: content[: len(content) // 2]),
        "empty": _storing(lambda content: b""),
        "another bit": _storing(lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        "size 0": _saying(size=0),
        "size + 1": lambda repo: _saying(size=len(repo.files["state.safetensors"]) + 1)(repo),
        "another sha256": _saying(sha256="0" * 64),
        "huge": _saying(size=10**15),
        "beyond 64 bits": _saying(size=10**30),
        "negative": _saying(size=-1),
        "fraction": _saying(size=1.5),
        "text": _saying(size="12"),
        "truth": _saying(size=True),
        "no number": _saying(size=float("nan")),
        "no size": _saying(size=None),
        "short sha256": _saying(sha256="0" * 63),
        "sha256 in capitals": _saying(sha256="A" * 64),
        "sha256 of a number": _saying(sha256=5),
        "no sha256": _saying(sha256=None),
        "entry is a list": lambda repo: repo.entries.update({"state.safetensors": [1, 2]}),
        "entry is nothing": lambda repo: repo.entries.update({"state.safetensors": None}),
        "missing file": lambda repo: repo.entries.update({"more.json": {"size": 2, "sha256": "0" * 64}}),
        "all too large": lambda repo: repo.entries.update(
            {f"{number}.safetensors": {"size": 10**11, "sha256": "0" * 64} for number in range(5)}
        ),
        "too many": lambda repo: repo.entries.update(
            {f"{number:x}.json": {"size": 0, "sha256": "0" * 64} for number in range(200_001)}
        ),
    }
    for what, make in said.items():
        yield Case(f"manifest lies: {what}", "model", make, "refused")
    texts = {
        "empty": b"",
        "garbage": b"\x80\x04\x95garbage",
        "list": b"[]",
        "text": b'"text"',
        "deep": b"[" * 200_000,
        "deep objects": b'{"a":' * 50_000,
        "no UTF-8": b'{"revision": "\xff"}',
        "huge number": b'{"revision": ' + b"9" * 10_000 + b"}",
        "40 MB": b" " * (40 << 20),
        "no files": json.dumps({"revision": REVISION}).encode(),
        "files in a list": json.dumps({"revision": REVISION, "files": ["config.json"]}).encode(),
        "no revision": b'{"files": {}}',
        "revision climbs": b'{"revision": "../../../../../../etc", "files": {}}',
        "revision of a number": b'{"revision": 1111111111111111111111111111111111111111, "files": {}}',
    }
    for what, text in texts.items():
        yield Case(f"main.json: {what}", "model", lambda repo, text=text: setattr(repo, "main", text), "refused")
    harmless = {"time": "yesterday", "tags": {"a": 1}, "message": ["\x1b[2J"], "parent": "../..", "tags ": [[]] * 9}
    for key, value in harmless.items():
        yield Case(
            f"manifest: odd {key}", "model", lambda repo, one={key: value}: repo.manifest.update(one), "harmless"
        )


def _files() -> Iterator[Case]:
    def linked(version: Path, home: Path) -> None:
        target = home.parent / "outside.json"
        (version / "inspector.json").replace(target)
        (version / "inspector.json").symlink_to(target)

    def linked_to_system(version: Path, home: Path) -> None:
        (version / "inspector.json").unlink()
        (version / "inspector.json").symlink_to("/etc/passwd")

    def linked_to_zeros(version: Path, home: Path) -> None:
        (version / "inspector.json").unlink()
        (version / "inspector.json").symlink_to("/dev/zero")

    def linked_folder(version: Path, home: Path) -> None:
        (version / "references").rename(home.parent / "outside")
        (version / "references").symlink_to(home.parent / "outside")

    def linked_version(version: Path, home: Path) -> None:
        version.rename(home.parent / "outside")
        version.symlink_to(home.parent / "outside")

    def linked_versions(version: Path, home: Path) -> None:
        version.parent.rename(home.parent / "outside")
        version.parent.symlink_to(home.parent / "outside")

    def linked_home(version: Path, home: Path) -> None:
        home.rename(home.parent / "outside")
        home.symlink_to(home.parent / "outside")

    def linked_main(version: Path, home: Path) -> None:
        (home / "main.json").rename(home.parent / "outside.json")
        (home / "main.json").symlink_to(home.parent / "outside.json")

    def looping(version: Path, home: Path) -> None:
        (version / "inspector.json").unlink()
        (version / "inspector.json").symlink_to("inspector.json")

    def pipe(version: Path, home: Path) -> None:
        (version / "inspector.json").unlink()
        os.mkfifo(version / "inspector.json")

    def piped_main(version: Path, home: Path) -> None:
        (home / "main.json").unlink()
        os.mkfifo(home / "main.json")

    def folder(version: Path, home: Path) -> None:
        (version / "inspector.json").unlink()
        (version / "inspector.json").mkdir()

    def sparse(version: Path, home: Path) -> None:
        with open(version / "state.safetensors", "r+b") as file:
            file.truncate(10**12)

    def locked_out(version: Path, home: Path) -> None:
        (version / "inspector.json").rename(version / "gone.json")

    for after in (linked, linked_to_system, linked_to_zeros, linked_folder, linked_version, linked_versions,
                  linked_home, linked_main, looping, pipe, piped_main, folder, sparse, locked_out):  # fmt: skip
        name = after.__name__.replace("_", " ")
        yield Case(f"file: {name}", "model", lambda repo, after=after: setattr(repo, "after", after), "refused")


def store_cases() -> list[Case]:
    """Names that lead elsewhere, manifests that lie, files that are none."""
    return [*_names(), *_lies(), *_files()]
