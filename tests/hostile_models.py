"""Hostile models: JSON, arrays, code and settings that no fit has written."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hostile_data import CODE, picture_bombs
from hostile_repos import Case, Repo, adding

BOMBS = {
    "empty": b"",
    "list": b"[]",
    "nothing": b"null",
    "number": b"7",
    "text": b'"text"',
    "no UTF-8": b'{"schema": 1, "kind": "\xff\xfe"}',
    "UTF-16": json.dumps({"schema": 1, "kind": "detector"}).encode("utf-16"),
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "half": b'{"schema": 1, "kind": "detec',
    "huge number": b'{"schema": ' + b"9" * 100_000 + b"}",
    "pickle": pickle.dumps({"schema": 1}),
    "16 MB of lists": b"[" + b"[]," * (5 << 20) + b"0]",
    "100 MB": b'{"schema": 1}' + b" " * (100 << 20),
}
CONFIGS = ("config.json", "inspector.json", "classifier/config.json", "binarizer.json", "references/index.json")


def _jsons() -> Iterator[Case]:
    for number, (what, content) in enumerate(BOMBS.items()):
        for name in CONFIGS if number < 3 else (CONFIGS[0], CONFIGS[1 + number % 4]):
            yield Case(f"{name}: {what}", "model", adding(name, content), "unreadable")
    changed = {
        "newer schema": ({"schema": 2}, "upgrade"),
        "much newer schema": ({"schema": 10**30}, "upgrade"),
        "schema of a text": ({"schema": "1"}, "schema"),
        "schema of a truth": ({"schema": True}, "schema"),
        "no schema": ({"schema": None}, "schema"),
        "unknown kind": ({"kind": "spaceship"}, "kind"),
        "kind of a list": ({"kind": ["detector"]}, "kind"),
        "kind of an object": ({"kind": {"a": 1}}, "kind"),
        "another kind": ({"kind": "classifier"}, ""),
        "unknown method": ({"detector": "magic"}, "magic"),
        "method of a list": ({"detector": []}, ""),
        "another method": ({"detector": "musc"}, ""),
        "settings of a list": ({"config": []}, "settings|damaged"),
        "unknown setting": ({"config": {"shell": "rm -rf /"}}, "shell"),
        "huge seed": ({"seed": 10**400}, ""),
        "no backbone": ({"backbone": None}, ""),
    }
    for what, (change, says) in changed.items():
        outcome = "any" if what == "huge seed" else "unreadable"
        yield Case(f"config.json: {what}", "model", _configured(change), outcome, says)


def _configured(change: dict[str, Any]) -> Callable[[Repo], None]:
    return lambda repo: repo.put_json("config.json", {**repo.json("config.json"), **change})


ODD = (None, True, -1, 0, 1e308, 10**30, "x", "", "../../etc/passwd", "/etc/passwd", "\0", [], {}, [[[]]], [None] * 3)


def _fuzzed(seed: int) -> Callable[[Repo], None]:
    """One value of one JSON file becomes another, or is missing."""
    rng = random.Random(seed)

    def make(repo: Repo) -> None:
        name = rng.choice(CONFIGS)
        value = repo.json(name)
        places = list(_places(value))
        container, key = rng.choice(places)
        if rng.random() < 0.15 and isinstance(container, dict):
            del container[key]
        else:
            container[key] = copy.deepcopy(rng.choice(ODD))
        repo.put_json(name, value)

    return make


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def tensors(header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _with_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Repo], None]:
    def make(repo: Repo) -> None:
        header, data = header_of(repo.files["state.safetensors"])
        change(header)
        repo.files["state.safetensors"] = tensors(header, data)

    return make


def _first(header: dict[str, Any], **change: Any) -> None:
    header[sorted(name for name in header if name != "__metadata__")[0]].update(change)


def _flipped(seed: int) -> Callable[[Repo], None]:
    rng = random.Random(seed)

    def make(repo: Repo) -> None:
        name = rng.choice(["state.safetensors", "classifier/state.safetensors"])
        content = bytearray(repo.files[name])
        for _ in range(rng.choice([1, 1, 4])):
            content[rng.randrange(min(len(content), rng.choice([8, 300, len(content)])))] ^= 1 << rng.randrange(8)
        repo.files[name] = bytes(content)

    return make


def _arrays() -> Iterator[Case]:
    whole = {
        "empty": b"",
        "7 bytes": b"1234567",
        "no header": struct.pack("<Q", 0),
        "length of the universe": struct.pack("<Q", 2**64 - 1) + b"{}",
        "length beyond the file": struct.pack("<Q", 10**9) + b"{}",
        "negative length": struct.pack("<q", -1) + b"{}",
        "no JSON": tensors(b"hello world, no JSON at all", b""),
        "deep header": tensors(b"[" * 100_000, b""),
        "deep objects in header": tensors(b'{"a":' * 100_000, b""),
        "header of a list": tensors(b"[]", b""),
        "header with no UTF-8": tensors(b'{"\xff": 1}', b""),
        "nothing in it": tensors({}, b""),
        "a pickle": pickle.dumps({"a": 1}),
        "an archive": b"PK\x03\x04" + bytes(200),
        "100 MB of header": tensors(b" " * (99 << 20) + b"{}", b""),
        "twice the same": tensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},' * 2 + b'"b":1}', b"1"),
    }
    for what, content in whole.items():
        yield Case(f"arrays: {what}", "model", adding("state.safetensors", content), "unreadable")
    changes = {
        "huge shape": lambda header: _first(header, shape=[2**31, 2**31]),
        "shape beyond 64 bits": lambda header: _first(header, shape=[2**63, 2**63]),
        "negative shape": lambda header: _first(header, shape=[-1, 4]),
        "many axes": lambda header: _first(header, shape=[1] * 100_000),
        "unknown type": lambda header: _first(header, dtype="PICKLE"),
        "bfloat16": lambda header: _first(header, dtype="BF16"),
        "offsets beyond": lambda header: _first(header, data_offsets=[0, 2**62]),
        "offsets backwards": lambda header: _first(header, data_offsets=[8, 0]),
        "offsets of texts": lambda header: _first(header, data_offsets=["0", "8"]),
        "other names": lambda header: header.update({f"x{name}": header.pop(name) for name in list(header)}),
    }
    for what, change in changes.items():
        yield Case(f"arrays: {what}", "model", _with_header(change), "unreadable")
    for what, array in {
        "of no axis": np.float32(1),
        "of an axis more": np.zeros((2, 2, 2), np.float32),
        "without rows": np.zeros((0, 4), np.float32),
        "without columns": np.zeros((4, 0), np.float32),
        "of texts as bytes": np.zeros((4, 4), np.uint8),
        "of wide numbers": np.zeros((235, 384), np.float64),
        "of a row less": np.zeros((234, 384), np.float32),
        "of no numbers": np.full((235, 384), np.nan, np.float32),
        "of infinite numbers": np.full((235, 384), np.inf, np.float32),
    }.items():
        for which in (0, -1):
            yield Case(f"array {which}: {what}", "model", _with_array(which, array), "any")


def _with_array(which: int, array: np.ndarray) -> Callable[[Repo], None]:
    def make(repo: Repo) -> None:
        from safetensors.numpy import load, save

        arrays = load(repo.files["state.safetensors"])
        arrays[sorted(arrays, key=lambda name: arrays[name].size)[which]] = np.asarray(array)
        repo.files["state.safetensors"] = save(arrays)

    return make


class Evil:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return (os.system, ("touch $HOSTILE_MARK",))


def _code() -> Iterator[Case]:
    evil = pickle.dumps(Evil())
    npy = io.BytesIO()
    np.save(npy, np.array([Evil()], object), allow_pickle=True)
    left = {
        "model.bin": evil,
        "pytorch_model.bin": evil,
        "model.pt": evil,
        "weights.pth": evil,
        "model.pkl": evil,
        "model.joblib": evil,
        "last.ckpt": evil,
        "array.npy": npy.getvalue(),
        "arrays.npz": npy.getvalue(),
        "modeling_evil.py": CODE,
        "__init__.py": CODE,
        "conftest.py": CODE,
        "sitecustomize.py": CODE,
        "classifier/__pycache__/base.cpython-311.pyc": CODE,
        "libevil.so": b"\x7fELF",
        "run.sh": b"touch $HOSTILE_MARK",
        "evil.exe": b"MZ",
        "page.html": b"<script>alert(1)</script>",
        "picture.svg": b"<svg onload='alert(1)'/>",
        "model.xml": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><net>&b;</net>',
        "archive.zip": b"PK\x03\x04",
        "model.onnx": b"\x08\x07",
        "run.yaml": b"!!python/object/apply:os.system ['touch $HOSTILE_MARK']",
        "references/.hidden.json.py": CODE,
    }
    for name, content in left.items():
        yield Case(f"left out: {name}", "model", adding(name, content), "left out", "left out")
    for name in ("state.safetensors", "classifier/state.safetensors", "config.json", "inspector.json"):
        yield Case(f"pickle as {name}", "model", adding(name, evil), "unreadable")
    yield Case("pickle as a picture", "model", adding("references/000.png", evil), "unreadable")


def _settings() -> Iterator[Case]:
    for spec in ("resnet18@/etc/passwd", "resnet18@/etc/shadow.safetensors", "clip@/etc", "hf:evil/weights", "hf:../..",
                 "hf:evil/weights@/etc/passwd", "vit_base_patch8_224.dino", "no_such_network", "", "../../evil", "\0",
                 "embedded@/etc/passwd", "hf:evil/weights@../../x.safetensors", 5, ["embedded"]):  # fmt: skip

        def make(repo: Repo, spec: Any = spec) -> None:
            config = repo.json("config.json")
            repo.put_json("config.json", {**config, "backbone": {**config["backbone"], "spec": spec}})

        yield Case(f"backbone {spec!r}", "model", make, "unreadable")
    maps = {"detector": "precomputed", "config": {"maps": "/etc", "scores": "/etc/passwd"}}
    yield Case("maps of this machine", "model", _configured(maps), "unreadable")
    scores = {"detector": "precomputed", "config": {"maps": None, "scores": "/etc/passwd"}}
    yield Case("scores of this machine", "model", _configured(scores), "unreadable")
    for detector in ("siamese", "april-gan"):
        for weights in ("/etc", "/etc/passwd", "../../.."):
            change = {"detector": detector, "config": {"weights": weights}}
            yield Case(f"weights {weights} of {detector}", "model", _configured(change), "unreadable")
    yield Case("exported model", "model", _configured({"detector": "anomalib", "config": {}}), "unreadable")


def _references() -> Iterator[Case]:
    for what, content in picture_bombs().items():
        yield Case(f"reference: {what}", "model", adding("references/000.png", content), "unreadable")
    for name in ("../../../outside.png", "/etc/passwd", "no.png", "\0.png", "..", ""):
        index = json.dumps({"images": {name: "good/000.png"}}).encode()
        yield Case(f"reference {name!r}", "model", adding("references/index.json", index), "any")


def model_cases() -> list[Case]:
    """What is read of a model, changed on purpose and at random."""
    made = [*_jsons(), *_arrays(), *_code(), *_settings(), *_references()]
    made += [Case(f"another value {seed}", "model", _fuzzed(seed), "any") for seed in [*range(60), 186, 223, 388]]
    return made + [Case(f"another bit {seed}", "model", _flipped(seed), "any") for seed in range(20)]
