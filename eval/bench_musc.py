"""MuSc on MTD's test images, none of which has a label: quality, time, memory, growth with the number of images.

python eval/bench_musc.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from bench_backbone import vit_tiny
from common import RESULTS, ROOT, peak_gib, save, shared

from anomalyhub.data import load_dataset
from anomalyhub.detection import create_detector
from anomalyhub.metrics import detection_metrics, image_metrics
from anomalyhub.state import jsonable
from anomalyhub.types import GOOD

COUNTS = (100, 200, 400)
REFERENCE = 100
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "aupro")
COMMAND = "python eval/bench_musc.py"


def run() -> dict[str, Any]:
    """Each part in a process of its own, so that none sees another's memory; what is there is kept as it comes."""
    result: dict[str, Any] = {"multiply_adds_per_second": multiply_adds_per_second()}
    for part in ("vit_tiny", "embedded", "growth", "reference"):
        command = [sys.executable, __file__, part]
        output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        result[part] = json.loads(output.strip().splitlines()[-1])
        if part in ("vit_tiny", "embedded"):
            limit = result[part]["multiply_adds"] / result["multiply_adds_per_second"]
            result[part] |= {"limit_seconds": limit, "share_of_limit": limit / result[part]["pair_seconds"]}
        save("musc", COMMAND, result | {"patchcore": patchcore()})
    return result | {"patchcore": patchcore()}


def patchcore() -> dict[str, Any]:
    """What PatchCore reaches on the same images, fitted on 761 normal ones (bench_detection.py)."""
    found = json.loads((RESULTS / "detection.json").read_text(encoding="utf-8"))["result"]
    return {
        name: {key: found[f"mtd_{name}"]["metrics"][key] for key in METRICS}
        | {"fit_seconds": found[f"mtd_{name}"]["fit"]["seconds"], "peak_gib": found[f"mtd_{name}"]["fit"]["peak_gib"]}
        for name in ("resnet18", "embedded")
    }


def multiply_adds_per_second() -> float:
    """This machine's rate of large float32 products, the best of five."""
    one, other = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(one, other)
        seconds.append(time.perf_counter() - start)
    return 2048**3 / min(seconds)


def among_each_other(spec: str) -> dict[str, Any]:
    """All 583 test images at once: metrics with and without RsCIN, seconds, and this process's peak memory."""
    test = load_dataset(shared() / "data" / "mtd").test
    labels = np.array([label != GOOD for label in test.labels])
    results, detector, times = predicted(spec, test)
    scores = np.array([one.image_score for one in results])
    row: dict[str, Any] = {"n_images": len(test), **times, "peak_gib": peak_gib()}
    peaks = np.array([one.scores.max() for one in results])
    row["image_auroc_without_rscin"] = image_metrics(labels, peaks)["image_auroc"]
    masks, maps = [sample.mask for sample in test], [one.scores for one in results]
    found = detection_metrics(labels, scores, masks, maps)
    row["metrics"] = {key: found[key] for key in METRICS}
    n, patches = len(test), (detector.backbone.size // detector.backbone.strides[0]) ** 2
    per_pair = patches**2 * sum(detector.backbone.channels) * len(detector.config.r_list)
    return row | {"multiply_adds": n * (n - 1) / 2 * per_pair}


def predicted(spec: str, samples: Any) -> tuple[list, Any, dict[str, float]]:
    """Maps, detector, and how the time splits into features and pairs."""
    from anomalyhub.detection import musc

    detector, original, seconds = create_detector("musc", spec).fit([]), musc.mutual_means, []

    def timed(*arguments):
        start = time.perf_counter()
        scores = original(*arguments)
        seconds.append(time.perf_counter() - start)
        return scores

    musc.mutual_means = timed
    start = time.perf_counter()
    results = detector.predict(samples)
    total = time.perf_counter() - start
    musc.mutual_means = original
    return results, detector, {"seconds": total, "pair_seconds": seconds[0]}


def growth(spec: str) -> dict[str, Any]:
    """Seconds for 100, 200 and 400 images, and the exponent of a power law through them."""
    test = load_dataset(shared() / "data" / "mtd").test
    order = np.random.default_rng(0).permutation(len(test))
    predicted(spec, [test[int(i)] for i in order[:10]])  # warm up
    rows = []
    for count in COUNTS:
        samples = [test[int(i)] for i in order[:count]]
        rows.append({"n": count, **predicted(spec, samples)[2]})
    logs = np.log([[row["n"], row["seconds"], row["pair_seconds"]] for row in rows]).T
    exponents = {name: float(np.polyfit(logs[0], logs[i], 1)[0]) for i, name in ((1, "seconds"), (2, "pair_seconds"))}
    return {"rows": rows, "exponents": exponents}


def reference(spec: str) -> dict[str, Any]:
    """Test images judged one by one against 100 kept ones: normal ones, and unlabelled ones of the test split."""
    data = load_dataset(shared() / "data" / "mtd")
    labels = np.array([label != GOOD for label in data.test.labels])
    order = np.random.default_rng(0).permutation(len(data.test))
    unlabelled, rest = order[:REFERENCE], np.sort(order[REFERENCE:])
    table: dict[str, Any] = {}
    for name, kept in (("normals", data.train), ("unlabelled", [data.test[int(i)] for i in unlabelled])):
        detector = create_detector("musc", spec, settings={"max_reference": REFERENCE}).fit(kept)
        detector.predict([data.test[0]])  # the reference's neighbourhoods are made on first use
        start = time.perf_counter()
        scores = [detector.predict([data.test[int(i)]])[0].image_score for i in rest]
        table[name] = {
            "n_reference": REFERENCE,
            "n_images": len(rest),
            "seconds_per_image": (time.perf_counter() - start) / len(rest),
            "image_auroc": image_metrics(labels[rest], np.array(scores))["image_auroc"],
        }
    return table


PARTS = {
    "vit_tiny": lambda: among_each_other(vit_tiny()),
    "embedded": lambda: among_each_other("embedded"),
    "growth": lambda: growth(vit_tiny()),
    "reference": lambda: reference(vit_tiny()),
}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(jsonable(PARTS[sys.argv[1]]())))
    else:
        run()
        print((RESULTS / "musc.json").read_text())
