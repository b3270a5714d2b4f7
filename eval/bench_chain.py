"""The whole chain without labels: PatchCore (ResNet-18) -> regions -> kinds, on MTD and leather, image level.

Regions are those that MEBin finds in the images which the detector singles out at a false-alarm rate of 10 % (the
default of `discover --model`), or in all images, as in the paper, whose figures for MTD are from PatchCore maps too.

python eval/bench_chain.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench_discovery import CLUSTERING, NCD, Crops, backbones, score
from common import resnet18, save, shared

from anomalyhub import Inspector, MEBin, load_dataset
from anomalyhub.pipeline.regions import regions_of_detector
from anomalyhub.types import GOOD

COMMAND = "python eval/bench_chain.py"
REGIONS = {"detector and MEBin": 0.1, "MEBin alone": 1.0}
PUBLISHED = {"nmi": 0.380, "ari": 0.390, "f1": 0.617, "source": "Huang et al., PatchCore, MTD"}


def run() -> dict[str, Any]:
    result: dict[str, Any] = {"published": PUBLISHED}
    for name in ("mtd", "leather"):
        dataset = load_dataset(shared() / "data" / name)
        with tempfile.TemporaryDirectory(prefix="anomalyhub-bench-") as folder:
            model = Path(folder) / "model"
            Inspector.fit("patchcore", dataset.train, backbone=resnet18()).save(model)
            for regions, rate in REGIONS.items():
                data, counts = found(dataset.test, model, rate)
                result[f"{name}, {regions}"] = counts | kinds(data, both=rate < 1)
                save("chain", COMMAND, result)  # each takes minutes: keep what is there
    return result


def found(samples: Any, model: Path, rate: float) -> tuple[Crops, dict[str, int]]:
    """Crops, the image of each, and the images' classes; and how many images have a region, good ones and others."""
    images = regions_of_detector(samples, model, None, MEBin(), lambda fraction, text: None, rate)
    subs = [crop for one in images for crop in one.sub_images]
    ids = [name for name, one in zip(samples.ids, images, strict=True) for _ in one.sub_images]
    marked, good = np.array([not one.is_empty for one in images]), np.array(samples.labels) == GOOD
    counts = {"images": len(images), "crops": len(subs), "good": int(good.sum())}
    counts |= {"good_with_region": int((marked & good).sum()), "defective_with_region": int((marked & ~good).sum())}
    return (subs, ids, dict(zip(samples.ids, samples.labels, strict=True))), counts


def kinds(data: Crops, both: bool) -> dict[str, Any]:
    result = {}
    for backbone, spec in backbones().items():
        if backbone == "vit_tiny" or both:
            for variant, settings in CLUSTERING.items():
                if "not whitened" not in variant:
                    result[f"{variant}, {backbone}"] = score("clustering", spec, data, settings)
        if backbone == "vit_tiny" and both:
            result[f"anomalyncd, {backbone}"] = score("anomalyncd", spec, data, NCD["anomalyncd"])
    return result


if __name__ == "__main__":
    print(save("chain", COMMAND, run()).read_text())
