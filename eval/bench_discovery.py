"""Which kinds of defect, from ground-truth masks: clustering and AnomalyNCD on MTD, leather and steel, image level.

The masks serve as an oracle of where the defects are; classes are read by the metrics alone. Base classes of AnomalyNCD
are steel's. A part that is not run keeps its last results.

python eval/bench_discovery.py [clustering] [ncd] [inductive] [auto] [cache]
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from bench_backbone import vit_tiny
from common import RESULTS, machine, save, shared

from anomalyhub import create_backbone, create_discoverer, load_dataset
from anomalyhub.metrics import clustering_metrics
from anomalyhub.regions import sub_images
from anomalyhub.types import GOOD, SubImage

COMMAND = "python eval/bench_discovery.py"
SEEDS = 3
SETS = {
    "mtd": ("mtd", True),
    "leather": ("leather", True),
    "leather, defects only": ("leather", False),
    "steel": ("steel", True),
}
CLUSTERING = {
    "clustering": {},
    "clustering, not whitened": {"whiten_views": "0"},
    "clustering, last class token": {"descriptor": "class_token", "centre_crop": "true", "whiten_views": "0"},
    "anomaly clustering": {"preset": "anomaly_clustering"},
}
NCD = {"anomalyncd": {}, "anomalyncd, nothing trained": {"train_blocks": "0", "epochs": "1"}}
Crops = tuple[list[SubImage], list[str], dict[str, str]]


def backbones() -> dict[str, str]:
    return {"vit_tiny": vit_tiny(), "embedded": "embedded"}


def crops(name: str, with_good: bool) -> Crops:
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


def fit(method: str, spec: str, data: Crops, seed: int, settings: dict[str, str], n_novel: int | str | None = None):
    """A fitted discoverer and the seconds that it took; AnomalyNCD has steel for its base classes."""
    subs, _, labels = data
    options = {"calibrate": "false", "merge_temperature": "50", **settings}
    discoverer = create_discoverer(method, create_backbone(spec), seed=seed, settings=options)
    base, base_labels = None, None
    if method == "anomalyncd":
        base, images, classes = crops("steel", True)
        base_labels = [classes[image] for image in images]
    start = time.perf_counter()
    discoverer.fit(subs, base, base_labels, n_novel or len(set(labels.values())))
    return discoverer, time.perf_counter() - start


def image_level(found, labels: dict[str, str]) -> list[float]:
    metrics = clustering_metrics([labels[name] for name in found.images], found.image_probs.probs.argmax(1))
    return [metrics[key] for key in ("nmi", "ari", "f1")]


def summary(rows: list[list[float]], seconds: list[float]) -> dict[str, float]:
    nmi, ari, f1 = np.mean(rows, axis=0)
    deviation = np.std(rows, axis=0).max()
    return {"nmi": nmi, "ari": ari, "f1": f1, "deviation": deviation, "seconds": np.median(seconds)}


def score(method: str, spec: str, data: Crops, settings: dict[str, str]) -> dict[str, float]:
    rows, seconds = [], []
    for seed in range(SEEDS):
        discoverer, took = fit(method, spec, data, seed, settings)
        rows.append(image_level(discoverer.fitted_result(data[1]), data[2]))
        seconds.append(took)
    return summary(rows, seconds)


def transductive(
    method: str, variants: dict[str, dict[str, str]], names: tuple[str, ...], specs: dict[str, str]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in names:
        data = crops(*SETS[name])
        result[name] = {"images": len(data[2]), "sub_images": len(data[0]), "classes": len(set(data[2].values()))}
        for backbone, spec in specs.items():
            for variant, settings in variants.items():
                result[name][f"{variant}, {backbone}"] = score(method, spec, data, settings)
    return result


def clustering() -> dict[str, Any]:
    return transductive("clustering", CLUSTERING, tuple(SETS), backbones())


def ncd() -> dict[str, Any]:
    return transductive("anomalyncd", NCD, ("mtd", "leather"), {"vit_tiny": vit_tiny()})


def inductive() -> dict[str, Any]:
    """Fitted on a random half of MTD's test images: how it does on that half, and on the other, which it never saw."""
    subs, ids, labels = crops("mtd", True)
    result: dict[str, Any] = {}
    for method in ("clustering", "anomalyncd"):
        for backbone, spec in backbones().items():
            if method == "anomalyncd" and backbone != "vit_tiny":
                continue
            rows: dict[str, list] = {"fitted half": [], "other half": []}
            seconds = []
            for seed in range(SEEDS):
                names = np.random.default_rng(seed).permutation(sorted(labels))
                halves = set(names[: len(names) // 2]), set(names[len(names) // 2 :])
                parts = [[i for i, image in enumerate(ids) if image in half] for half in halves]
                (own, own_ids), (other, other_ids) = (([subs[i] for i in p], [ids[i] for i in p]) for p in parts)
                data = own, own_ids, {name: labels[name] for name in own_ids}
                discoverer, took = fit(method, spec, data, seed, {})
                seconds.append(took)
                rows["fitted half"].append(image_level(discoverer.fitted_result(own_ids), labels))
                rows["other half"].append(image_level(discoverer.predict(other, other_ids), labels))
            result[f"{method}, {backbone}"] = {half: summary(found, seconds) for half, found in rows.items()}
    return result


def auto() -> dict[str, Any]:
    """How many kinds `auto` counts, with three seeds, beside how many there are."""
    result: dict[str, Any] = {}
    for name, which in SETS.items():
        data = crops(*which)
        result[name] = {"classes": len(set(data[2].values()))}
        for backbone, spec in backbones().items():
            found = [fit("clustering", spec, data, seed, {}, "auto")[0] for seed in range(SEEDS)]
            result[name][backbone] = [len(discoverer.classes_) for discoverer in found]
    return result


def cache(count: int = 64) -> dict[str, float]:
    """The published recipe with and without its trunk's outputs kept (6 views for 25 epochs), in one run.

    Seconds per epoch: of 2 epochs without, of one whole generation of 25 with it, its filling among them.
    """
    subs, ids, labels = crops("mtd", True)
    chosen = np.random.default_rng(0).permutation(len(subs))[:count]
    data = [subs[i] for i in chosen], [ids[i] for i in chosen], labels
    result: dict[str, float] = {"sub_images": count}
    for name, epochs, views in (("without", 2, 0), ("with", 25, 6)):
        settings = {"preset": "paper", "epochs": str(epochs), "cache_views": str(views), "use_base": "false"}
        discoverer, seconds = fit("anomalyncd", vit_tiny(), data, 0, settings)
        start = time.perf_counter()
        discoverer.embed(data[0])  # which both do once at their end
        result[f"seconds_per_epoch_{name}"] = (seconds - (time.perf_counter() - start)) / epochs
    result["ratio"] = result["seconds_per_epoch_without"] / result["seconds_per_epoch_with"]
    return result


PARTS = {part.__name__: part for part in (clustering, ncd, inductive, auto, cache)}

if __name__ == "__main__":
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        raise SystemExit(f"no part {', '.join(sorted(unknown))}: choose among {', '.join(PARTS)}")
    file = RESULTS / "discovery.json"
    before = json.loads(file.read_text())["result"] if file.exists() else {}
    kept = {name: before[name] for name in PARTS if name in before}
    for name in wanted:
        kept[name] = PARTS[name]() | {"measured": machine()}
        save("discovery", COMMAND, kept)
    print(file.read_text())
