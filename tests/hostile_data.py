"""Hostile data sets, and cards of both kinds: pictures, tables and YAML that no export has written."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from hostile_repos import Case, Repo, adding
from PIL import Image

CODE = b"import os, pathlib; pathlib.Path(os.environ['HOSTILE_MARK']).touch()\n"


def png(width: int, height: int, rows: int | None = None) -> bytes:
    """A white PNG, of which only some rows are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = height if rows is None else rows
    packer, packed = zlib.compressobj(9), b""
    for _ in range(rows):
        packed += packer.compress(b"\0" + b"\xff" * (width * 3))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed + packer.flush()) + chunk(b"IEND", b"")


def picture_bombs() -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.new("RGB", (52, 36)).save(buffer, "JPEG")
    return {
        "900 million pixels": png(30_000, 30_000, 10),
        "4 billion pixels wide": png(2**31 - 1, 1, 0),
        "no rows": png(52, 36, 0),
        "half": png(52, 36)[:60],
        "no picture": b"this is text",
        "empty": b"",
        "half a JPEG": buffer.getvalue()[:300],
        "a script": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch $HOSTILE_MARK) (w) file\n",
    }


def _nested(line: str) -> str:
    return "".join(line.format(n=n, nine=", ".join([f"*b{n - 1}"] * 9)) for n in range(1, 30))


YAML = {
    "code": "a: !!python/object/apply:os.system ['touch $HOSTILE_MARK']",
    "code by name": "a: !!python/name:os.system",
    "new object": "a: !!python/object/new:os.system ['touch $HOSTILE_MARK']",
    "bomb": "b0: &b0 [x]\n" + _nested("b{n}: &b{n} [{nine}]\n"),
    "merged bomb": "b0: &b0 {x: 1}\n" + _nested("b{n}: &b{n} {{<<: [{nine}]}}\n"),
    "deep": "a: " + "[" * 20_000,
    "no YAML": "\t: : [",
    "tags of numbers": "tags: [1, [2], {a: b}, null]\nlicense: [1]\nconfigs: 5\ndataset_info: [[]]",
    "huge": "a: " + "x" * (2 << 20),
}


def _cards() -> Iterator[Case]:
    for what, text in YAML.items():
        content = f"---\n{text}\n---\n# Card\n".encode()
        for kind in ("model", "dataset"):
            yield Case(f"card of a {kind}: {what}", kind, adding("README.md", content), "harmless")
    yield Case("card: no UTF-8", "model", adding("README.md", b"---\ntags: [\xff]\n---\n"), "harmless")


def _data_sets() -> Iterator[Case]:
    for what, content in picture_bombs().items():
        yield Case(f"image: {what}", "dataset", adding("part/test/cut/000.png", content), "unreadable")
    for what in ("900 million pixels", "no picture", "empty"):
        mask = adding("part/ground_truth/cut/000_mask.png", picture_bombs()[what])
        yield Case(f"mask: {what}", "dataset", mask, "unreadable")
    tables = {
        "climbs": "file_name,label\n../../../outside.png,good\n",
        "absolute": "file_name,label\n/etc/passwd,good\n",
        "no table": "\0\0\0",
        "huge field": "file_name,label\n" + "a" * 200_000 + ",good\n",
        "no UTF-8": "file_name\n\udcff\n",
    }
    for what, table in tables.items():
        content = table.encode("utf-8", "surrogateescape")
        yield Case(f"metadata.csv: {what}", "dataset", adding("part/train/metadata.csv", content), "any")
        yield Case(f"split.csv: {what}", "dataset", _only({"split_csv/1cls.csv": content}), "any")
        yield Case(f"mtd_train_filenames.txt: {what}", "dataset", adding("mtd_train_filenames.txt", content), "any")
    lines = {
        "climbs": b'{"file_name": "../../../outside.png"}\n',
        "deep": b"[" * 100_000 + b"\n",
        "no object": b"5\nnull\n",
    }
    for what, content in lines.items():
        yield Case(f"metadata.jsonl: {what}", "dataset", adding("part/train/metadata.jsonl", content), "any")
    shards = {
        "garbage": b"PAR1" + b"\xff" * 100 + b"PAR1",
        "empty": b"",
        "footer beyond the file": b"PAR1" + struct.pack("<I", 2**31) + b"PAR1",
        "a pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x13touch $HOSTILE_MARK\x85R.",
    }
    for what, content in shards.items():
        yield Case(f"shard: {what}", "dataset", _only({"data/train-00000-of-00001.parquet": content}), "unreadable")
    for what, table in _tables().items():
        outcome = "any" if what == "another byte" else "unreadable"
        yield Case(f"shard: {what}", "dataset", _only({"data/train-00000-of-00001.parquet": table}), outcome)
    card = "---\nconfigs:\n- config_name: {}\n  data_files: {}\n---\n"
    configs = (("a", '"../../**"'), ("a", '"/etc/*"'), ('"../x"', '"**"'), ("a", "{split: 5}"), ("[a]", "[5]"))
    for name, files in configs:
        content = card.format(name, files).encode()
        yield Case(f"config {name} of {files}", "dataset", adding("README.md", content), "any")
    for name in ("part/run.py", "part/part.py", "part/train/good/x.pkl"):
        yield Case(f"left out: {name}", "dataset", adding(name, CODE), "left out", "left out")


def _only(files: dict[str, bytes]) -> Callable[[Repo], None]:
    def make(repo: Repo) -> None:
        repo.files.clear()
        repo.files.update(files)

    return make


def _tables() -> dict[str, bytes]:
    import pyarrow
    from pyarrow import parquet

    def table(**columns: Any) -> bytes:
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), buffer)
        return buffer.getvalue()

    image = [{"bytes": png(52, 36), "path": None}]
    bomb = [{"bytes": png(30_000, 30_000, 10), "path": None}]
    good = table(image=image, label=["good"])
    return {
        "no images": table(text=["a"], label=["good"]),
        "image is a number": table(image=[5], label=["good"]),
        "image is a path": table(image=[{"bytes": None, "path": "/etc/passwd"}], label=["good"]),
        "image climbs": table(image=[{"bytes": None, "path": "../../../outside.png"}], label=["good"]),
        "image is a bomb": table(image=bomb, label=["good"]),
        "no rows": table(image=pyarrow.array([], pyarrow.binary()), label=pyarrow.array([], pyarrow.string())),
        "half": good[: len(good) // 2],
        "another byte": good[:200] + b"\xff" * 40 + good[240:],
    }


def data_cases() -> list[Case]:
    """What is read of a data set, and of the card of any repository."""
    return [*_cards(), *_data_sets()]
