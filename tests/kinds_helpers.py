"""Jobs of the Classify tab that are done, for tests of it and of the Inspect tab."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalyhub.state import write_json
from anomalyhub.ui.work import Work

#: Height and width of the images.
SHAPE = (40, 64)


def images(folder: Path, count: int = 4, first: int = 0) -> list[Path]:
    """Files of images that all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(90, 140, (*SHAPE, 3), np.uint8)
        paths.append(folder / f"{number:02d}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def examples_json(rows: Sequence[tuple[str, str, str, float]], alone: Sequence[tuple[str, str]] = (), missed: str = ""):
    """examples.json: (id, label, predicted, probability) of the checked examples, (id, label) of the others.

    missed  the id of the one in which the detector finds nothing
    """
    names = sorted({row[1] for row in rows} | {row[2] for row in rows})
    counts = [[sum(row[1:3] == (true, name) for row in rows) for name in names] for true in names]
    region = {"box": [8, 4, 32, 28], "area": 50}
    records = [
        {"id": name, "label": label, "digest": "0", "located": name != missed, "regions": [region]}
        for name, label in (*((row[0], row[1]) for row in rows), *alone)
    ]
    right = sum(row[1] == row[2] for row in rows)
    check = {
        "accuracy": right / len(rows) if rows else None,
        "confusion": {"classes": names, "counts": counts},
        "n": len(rows),
        "rows": [dict(zip(("id", "label", "predicted", "probability"), row, strict=True)) for row in rows],
        "unchecked": sorted({label for _, label in alone}),
    }
    return {"schema": 1, "examples": records, "leave_one_out": check, "notices": []}


def job(
    work: Work, kind: str, config: dict[str, Any], stored: dict[str, Any] | None = None, name: str = "", status="done"
) -> str:
    """The id of a job that has ended; its result holds examples.json where `stored` is given."""
    number = 4096 + len(list(work.store.root.iterdir()))
    folder = work.store.root / f"20260101-000000-{number:08x}"
    folder.mkdir()
    if status == "done":
        (folder / "result").mkdir()
        if stored is not None:
            write_json(folder / "result" / "examples.json", stored)
    (folder / "config.json").write_text(json.dumps({"kind": kind, "name": name, "config": config}))
    (folder / "status.json").write_text(json.dumps({"status": status, "attempt": 1, "error": "out of order"}))
    (folder / "log.txt").touch()
    return folder.name
