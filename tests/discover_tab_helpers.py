"""A discovery that is done, as a job's folder; run as a program, an app that shows its board to the first visitor."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from review_helpers import write_embeddings, write_findings

from anomalyhub.state import write_json
from anomalyhub.ui import discover, launch
from anomalyhub.ui.work import Work

EMBEDDINGS = [(0, 0), (0, 0), (5, 5), (0, 0), (9, 0), (3, 3), (3, 3), (5, 6), (1, 1)]


def done_job(work: Work, scratch: Path, number: int = 1, product: str = "part", labels: bool = True) -> str:
    """The id of a finished job of kind discover, with nine crops in three kinds and one that is unknown."""
    result = write_findings(scratch, product)
    write_embeddings(result, EMBEDDINGS)
    (result / "plots").mkdir()
    Image.fromarray(np.full((8, 12, 3), 200, np.uint8)).save(result / "plots" / "tsne.png")
    if labels:
        figures = {"nmi": 0.5, "ari": None, "f1": 0.75}
        write_json(result / "metrics.json", {"image": figures, "region": figures, "why": "one class only"})
    job_id = f"20260101-000000-{number:08x}"
    folder = work.store.root / job_id
    folder.mkdir()
    result.rename(folder / "result")
    images = [[name, str(scratch / "images" / name)] for name in ("a/1.png", "b/1.png")]
    asked = {"kind": "discover", "name": f"kinds of {product}", "config": {"images": images, "maps": "maps"}}
    (folder / "config.json").write_text(json.dumps(asked))
    (folder / "status.json").write_text(json.dumps({"status": "done", "attempt": 1}))
    (folder / "log.txt").touch()
    return job_id


if __name__ == "__main__":  # an app whose first page that remembers nothing gets the board of the job named last
    first, recall = [sys.argv[-1]], discover.recall

    def once(visit, memory, work):
        recall(visit, memory or {"job": first.pop() if first else None}, work)

    discover.recall = once
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    launch()
