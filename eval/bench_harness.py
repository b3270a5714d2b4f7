"""What eval/run.py adds to the methods' own time: all of a run's seconds beside those inside the package's stages.

python eval/bench_harness.py

One run of the rows of eval/configs/quick.yaml on one drawn product. Own time is what the run spends in fitting
detectors, in `evaluate` and `discover`, in looking at images for a classifier, and in fitting and asking it. The rest
is planning, saving and loading what units share, and records. Drawing the sample is told apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import ROOT, save

from anomalyhub import pipeline
from anomalyhub.benchmark.config import BenchmarkConfig, load_config
from anomalyhub.benchmark.runner import run
from anomalyhub.benchmark.sources import Sources
from anomalyhub.classification.base import BaseClassifier
from anomalyhub.data import sample
from anomalyhub.pipeline import discover, evaluation, evidence
from anomalyhub.pipeline.inspector import Inspector

COMMAND = "python eval/bench_harness.py"
PRODUCT, DRAWING = "ring", "drawing the sample"


@contextlib.contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Seconds inside each stage while the block runs."""
    seconds: dict[str, float] = defaultdict(float)
    fit = Inspector.__dict__["fit"]

    def watched(stage: str, call: Callable) -> Callable:
        @functools.wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                seconds[stage] += time.perf_counter() - start

        return timed

    places = [
        (pipeline, "evaluate", "evaluate"),
        (evaluation, "evaluate", "evaluate"),
        (discover, "discover", "discover"),
        (evidence, "evidence_of", "features and regions"),
        (evidence, "fit_binarizer", "features and regions"),
        (BaseClassifier, "fit", "classifiers"),
        (BaseClassifier, "predict", "classifiers"),
        (sample, "write_sample", DRAWING),
    ]
    former = [(place, name, getattr(place, name)) for place, name, _ in places]
    for (place, name, stage), (_, _, call) in zip(places, former, strict=True):
        setattr(place, name, watched(stage, call))
    Inspector.fit = classmethod(watched("detectors", fit.__func__))
    try:
        yield seconds
    finally:
        Inspector.fit = fit
        for place, name, call in former:
            setattr(place, name, call)


def small(config: BenchmarkConfig) -> BenchmarkConfig:
    """The same rows on a few tiny pictures: whatever has to be loaded is loaded then."""
    drawn = {"n_train": 4, "n_test_good": 2, "n_defect": 5, "size": 64}
    return BenchmarkConfig("small", tuple(dataclasses.replace(row, sample=drawn) for row in config.rows))


def main() -> dict[str, Any]:
    config = load_config(ROOT / "eval" / "configs" / "quick.yaml")
    rows = tuple(dataclasses.replace(row, products=(PRODUCT,)) for row in config.rows)
    config = BenchmarkConfig(config.name, rows)
    with tempfile.TemporaryDirectory(prefix="anomalyhub-bench-") as folder:
        run(small(config), Path(folder) / "small", Sources(), say=lambda line: None)
        with stopwatch() as seconds:
            start = time.perf_counter()
            report = run(config, Path(folder) / "run", Sources())
            total = time.perf_counter() - start
    drawing = seconds.pop(DRAWING)
    own = sum(seconds.values())
    return {
        "units": len(report.finished),
        "failed": len(report.failed),
        "run_seconds": total,
        "drawing_seconds": drawing,
        "own_seconds": own,
        "seconds": dict(seconds),
        "overhead": (total - drawing - own) / own,
    }


if __name__ == "__main__":
    print(save("harness", COMMAND, main()).read_text())
