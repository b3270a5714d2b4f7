"""The whole chain on warm models beside the detector alone: seconds per image, their ratio, and where they go.

Images are decoded beforehand. Detector and chain take turns, so that a change of the machine's speed meets both.

python eval/bench_inspect.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_backbone import vit_tiny
from common import resnet18, save, shared

from anomalyhub import Inspector, load_dataset
from anomalyhub.data.sample import write_sample
from anomalyhub.pipeline.classify import ClassifyConfig, classify
from anomalyhub.pipeline.evidence import examined, to_evidence
from anomalyhub.pipeline.inspector import chunks
from anomalyhub.types import Sample

COMMAND = "python eval/bench_inspect.py"
IMAGES, ROUNDS, SHOTS = 80, 3, 5


def run() -> dict[str, Any]:
    """MTD's official test split, 80 images evenly spread, and the bundled ring: with normal images, as they are."""
    result = {}
    with tempfile.TemporaryDirectory(prefix="anomalyhub-bench-") as folder:
        write_sample(Path(folder) / "data", products=("ring",))
        cases = {"sample": (Path(folder) / "data" / "ring", "embedded", None)}
        if shared() is not None:
            cases["mtd"] = (shared() / "data" / "mtd", resnet18(), vit_tiny())
        for name, (data, detector, crops) in cases.items():
            inspector = fitted(data, detector, crops, Path(folder) / name)
            test = load_dataset(data).test
            rows = np.unique(np.linspace(0, len(test) - 1, min(IMAGES, len(test))).astype(int))
            result[name] = measured(inspector, [test[row] for row in rows.tolist()])
            result[name] |= {"detector_backbone": detector, "crop_backbone": crops or "embedded", "shots": SHOTS}
    return result


def fitted(data: Path, detector: str, crops: str | None, folder: Path) -> Inspector:
    """PatchCore and a prototype classifier of all classes, from examples of the test split: only time counts here."""
    Inspector.fit("patchcore", load_dataset(data).train, backbone=detector).save(folder)
    config = ClassifyConfig(model=str(folder), data=str(data), shots=SHOTS, backbone=crops, check=False)
    return classify(config).inspector


def measured(inspector: Inspector, samples: Sequence[Sample]) -> dict[str, Any]:
    ways = {
        "detector": lambda: [inspector.detector.predict(chunk) for chunk in chunks(samples, len(samples), False)],
        "inspect": lambda: list(inspector.inspect(samples)),
        "explain": lambda: list(inspector.explain(samples)),
    }
    verdicts = [one.is_anomalous for one in inspector.inspect(samples)]
    defective = [sample for sample, found in zip(samples, verdicts, strict=True) if found]
    list(inspector.explain(samples[:1]))  # the references' patches are looked at once
    rounds = [{name: seconds(way) for name, way in ways.items()} for _ in range(ROUNDS)]
    per_image = {name: float(np.median([one[name] for one in rounds])) / len(samples) for name in ways}
    stages = [staged(inspector, defective) for _ in range(ROUNDS)]
    return {
        "images": len(samples),
        "defective": len(defective),
        "seconds_per_image": per_image,
        "ratio": float(np.median([one["inspect"] / one["detector"] for one in rounds])),
        "ratio_with_explanations": float(np.median([one["explain"] / one["detector"] for one in rounds])),
        # of the defective images alone, as the regions and names of others cost nothing
        "seconds_per_defective_image": {name: float(np.median([one[name] for one in stages])) for name in stages[0]},
    }


def staged(inspector: Inspector, defective: Sequence[Sample]) -> dict[str, float]:
    """Seconds per defective image of the detector when it keeps its patches, and of what follows."""
    found = list(examined(inspector.detector, defective))
    pairs = list(zip(defective, found, strict=True))
    evidence = [to_evidence(inspector, sample, one, inspector.binarizer) for sample, one in pairs]
    per_image = max(len(defective), 1)
    stages = {
        "detector with patches": lambda: list(examined(inspector.detector, defective)),
        "regions": lambda: [to_evidence(inspector, sample, one, inspector.binarizer) for sample, one in pairs],
        "names": lambda: [inspector.naming.name(evidence[start : start + 8]) for start in range(0, len(evidence), 8)],
    }
    return {name: seconds(stage) / per_image for name, stage in stages.items()}


def seconds(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(save("inspect", COMMAND, run()).read_text())
