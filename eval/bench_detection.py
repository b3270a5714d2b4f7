"""PatchCore on real images through the command line: fit, predict and evaluate, with time, memory and metrics.

python eval/bench_detection.py              # or one of mtd and leather alone, which keeps the other's last result
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, resnet18, run_cli, save, shared

from anomalyhub import Inspector, load_dataset
from anomalyhub.metrics import image_metrics
from anomalyhub.types import GOOD

RATES = (0.01, 0.05, 0.1)
COMMAND = "python eval/bench_detection.py"


def run(names: list[str]) -> dict[str, Any]:
    """MTD (official split) and leather with ResNet-18 and embedded; exact search beside the default index on MTD."""
    stored = RESULTS / "detection.json"
    result: dict[str, Any] = json.loads(stored.read_text())["result"] if names and stored.exists() else {}
    for name in names or ("mtd", "leather"):
        data = shared() / "data" / name
        for backbone in (resnet18(), "embedded"):
            key = f"{name}_{backbone.partition('@')[0]}"
            result[key] = _through_the_command_line(data, backbone, with_exact=name == "mtd" and "@" in backbone)
            save("detection", COMMAND, result)  # each takes minutes: keep what is there
    return result


def _through_the_command_line(data: Path, backbone: str, with_exact: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="anomalyhub-bench-") as folder:
        model, metrics = Path(folder) / "model", Path(folder) / "metrics.json"
        row: dict[str, Any] = {
            "fit": run_cli("fit", "patchcore", "--data", data, "--backbone", backbone, "--out", model),
            "predict": run_cli("predict", model, "--data", data, "--out", Path(folder) / "results"),
            "evaluate": run_cli("evaluate", model, "--data", data, "--json", metrics),
        }
        for step in row.values():
            step["command"] = step["command"].replace(folder, "out")
            step["output"] = [line.replace(folder, "out") for line in step["output"]]
        row["metrics"] = {k: v for k, v in json.loads(metrics.read_text()).items() if k != "config"}
        inspector = Inspector.load(model)
        row["plan"] = str(inspector.detector.plan_)
        row["false_alarms"], scores, labels = _false_alarms(inspector, data)
        if with_exact:
            row["exact_search"] = _exact(inspector, data, scores, labels)
        return row


def _false_alarms(inspector: Inspector, data: Path) -> tuple[list[dict[str, float]], np.ndarray, np.ndarray]:
    """Chosen and real false-alarm rate, and the share of defects that escape."""
    test = load_dataset(data).test
    labels = np.array([label != GOOD for label in test.labels])
    scores = np.array([result.score for result in inspector.inspect(test)])
    rows = []
    for rate in RATES:
        threshold = inspector.calibration.at_rate(rate).threshold
        rows.append(
            {
                "chosen": rate,
                "false_alarm_rate": float((scores[~labels] > threshold).mean()),
                "escape_rate": float((scores[labels] <= threshold).mean()),
            }
        )
    return rows, scores, labels


def _exact(inspector: Inspector, data: Path, scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The same bank searched exactly: image AUROC of both, and the largest difference of a score."""
    from anomalyhub.search import NearestNeighbours

    detector = inspector.detector
    detector.search_ = NearestNeighbours("flat").fit(detector.search_.bank_)
    exact = np.array([result.score for result in inspector.inspect(load_dataset(data).test)])
    return {
        "image_auroc": image_metrics(labels, scores)["image_auroc"],
        "image_auroc_exact": image_metrics(labels, exact)["image_auroc"],
        "largest_relative_score_difference": float(np.abs(scores / exact - 1).max()),
    }


if __name__ == "__main__":
    print(save("detection", COMMAND, run(sys.argv[1:])).read_text())
