"""What a visitor does in the app, as a process of its own: `python tests/zero_gpu.py PHOTOS NAMED HOME`, prints JSON.

With SPACES_ZERO_GPU the `spaces` that it finds is `fake_spaces`, and a prediction outside of its forks fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from anomalyhub.ui import detect, gpu, inspect, learning  # as the app does, before anything imports torch
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work


def main(photos: Path, named: Path, home: Path) -> None:
    if gpu.ZERO:
        forbid_predictions_here()
    session, work = Session(), Work(home)
    detect.use_uploads(session, [str(path) for path in sorted((photos / "normal").iterdir())])
    list(learning.learn(session, learning.Settings(), False, work))
    detect.take_unknown(session, [str(path) for path in sorted((photos / "new").iterdir())])
    gpu._IMAGES = 2
    shares: list[float] = []
    said = detect.check(session, "uploads", lambda share, _: shares.append(share))
    visit = inspect.Visit(tool="detect")
    inspect.take_uploads(session, visit, [str(path) for path in sorted((photos / "new").iterdir())])
    inspect.inspect(session, visit, work, "uploads")
    print(
        json.dumps(
            {
                "zero": gpu.ZERO,
                "device": work.get(session.fit_job).asked["device"],
                "said": said,
                "checked": [[one.ref.id, one.map.image_score, one.p_value] for one in session.checked],
                "maps": [float(one.map.scores.astype(float).sum()) for one in session.checked],
                "inspected": [[one.ref.id, one.score, len(one.regions)] for one in visit.seen],
                "shares": shares,
                "cancelled": cancelled(session),
                "named": explained(named, photos / "new", session.folder),
                "left": sorted(path.name for path in session.folder.iterdir() if path.name.startswith("tmp")),
                "wrong": wrong(session, photos),
                **fake_facts(),
            }
        )
    )
    session.close()


def forbid_predictions_here() -> None:
    import spaces

    from anomalyhub.backbones.base import TorchBackbone

    plain = TorchBackbone.feature_maps

    def feature_maps(self, *arguments, **options):
        if not spaces.fake.forked:
            raise RuntimeError("a prediction outside of the GPU's process")
        return plain(self, *arguments, **options)

    TorchBackbone.feature_maps = feature_maps


def cancelled(session: Session) -> list:
    """What a cancel during the second call does."""
    former, seen = session.checked, []

    def progress(share: float, _: str) -> None:
        seen.append(share)
        if share >= 0.5:
            session.cancel()

    try:
        detect.check(session, "uploads", progress)
    except detect_errors() as error:
        return [type(error).__name__, session.checked is former]
    return ["not cancelled", len(seen)]


def detect_errors() -> type:
    from anomalyhub.errors import Cancelled

    return Cancelled


def explained(named: Path, folder: Path, home: Path) -> list:
    """Kinds and evidence of a model with kinds."""
    from anomalyhub.data import read_image
    from anomalyhub.pipeline import Inspector
    from anomalyhub.types import Sample

    inspector = Inspector.load(named).with_threshold(0.5)  # so that every image has regions
    samples = (Sample(path.name, read_image(path)) for path in sorted(folder.iterdir()))
    return [
        [sample.id, result.label, round(result.score, 4), len(result.regions), digest(why)]
        for sample, result, why in gpu.explain(inspector, samples, home)
    ]


def digest(why: tuple) -> list:
    return [
        [hashlib.sha256(one.crop.tobytes()).hexdigest()[:8], one.normal_id, one.example_id, one.example_label]
        for one in why
    ]


def wrong(session: Session, photos: Path) -> list[str]:
    """What a visitor hears of an error in the GPU's process."""
    from anomalyhub.data import read_image
    from anomalyhub.errors import AnomalyHubError, InvalidArgumentError
    from anomalyhub.pipeline import Inspector
    from anomalyhub.types import Sample

    def explain(self, samples, **_):
        raise InvalidArgumentError("this model is of another world: learn again")

    plain, Inspector.explain = Inspector.explain, explain
    try:
        sample = Sample("a", read_image(next((photos / "new").iterdir())))
        list(gpu.explain(session.inspector, [sample], session.folder))
    except AnomalyHubError as error:
        return [str(error)]
    finally:
        Inspector.explain = plain
    return []


def fake_facts() -> dict:
    if not gpu.ZERO:
        return {}
    import spaces
    import torch

    return {"durations": spaces.fake.durations, "cuda": torch.cuda.is_available()}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
