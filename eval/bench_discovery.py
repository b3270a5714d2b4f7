"""Which kinds of defect: clustering with ground-truth masks on MTD and leather, image level, three seeds.

The masks serve as an oracle of where the defects are; classes are read by the metrics alone.

python eval/bench_discovery.py
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from bench_backbone import vit_tiny
from common import save, shared

from anomalyhub import create_backbone, create_discoverer, load_dataset
from anomalyhub.metrics import clustering_metrics
from anomalyhub.regions import sub_images
from anomalyhub.types import GOOD, SubImage

COMMAND = "python eval/bench_discovery.py"
SEEDS = 3
METHODS = {
    "clustering": {},
    "clustering, last class token": {"descriptor": "class_token", "centre_crop": "true"},
    "anomaly clustering": {"preset": "anomaly_clustering"},
}


def run() -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, with_good in (("mtd", True), ("leather", True), ("leather", False)):
        subs, ids, labels = crops(name, with_good)
        key = name if with_good else f"{name}, defects only"
        result[key] = {"images": len(labels), "sub_images": len(subs), "classes": len(set(labels.values()))}
        for backbone, spec in {"vit_tiny": vit_tiny(), "embedded": "embedded"}.items():
            for method, settings in METHODS.items():
                result[key][f"{method}, {backbone}"] = score(spec, settings, subs, ids, labels)
    return result


def crops(name: str, with_good: bool) -> tuple[list[SubImage], list[str], dict[str, str]]:
    """Sub-images around all regions of the ground truth, the image of each, and the images' classes."""
    subs, ids, labels = [], [], {}
    for sample in load_dataset(shared() / "data" / name).test:
        if sample.label == GOOD and not with_good:
            continue
        mask = sample.mask if sample.mask is not None else np.zeros(sample.image.shape[:2], bool)
        made = sub_images(sample.image, mask)
        subs += made
        ids += [sample.id] * len(made)
        labels[sample.id] = sample.label
    return subs, ids, labels


def score(spec: str, settings: dict[str, str], subs, ids, labels: dict[str, str]) -> dict[str, float]:
    rows, seconds = [], []
    for seed in range(SEEDS):
        start = time.perf_counter()
        options = {"calibrate": "false", "merge_temperature": "50", **settings}
        discoverer = create_discoverer("clustering", create_backbone(spec), seed=seed, settings=options)
        found = discoverer.fit(subs, n_novel=len(set(labels.values()))).fitted_result(ids)
        seconds.append(time.perf_counter() - start)
        metrics = clustering_metrics([labels[name] for name in found.images], found.image_probs.probs.argmax(1))
        rows.append([metrics["nmi"], metrics["ari"], metrics["f1"]])
    nmi, ari, f1 = np.mean(rows, axis=0)
    return {"nmi": nmi, "ari": ari, "f1": f1, "deviation": np.std(rows, axis=0).max(), "seconds": np.median(seconds)}


if __name__ == "__main__":
    print(save("discovery", COMMAND, run()).read_text())
