"""One image, warm: how the time splits into backbone, search and map, beside the bare backbone's forward pass.

python eval/bench_predict.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import median_seconds, resnet18, save, shared

from anomalyhub.data import load_dataset
from anomalyhub.detection import create_detector
from anomalyhub.detection.patches import patch_features, upsample_scores

REPEATS = 40


def run() -> dict[str, Any]:
    """PatchCore on 100 MTD normals, bank 10 %, ResNet-18 layers 2 and 3 at 224 px."""
    dataset = load_dataset(shared() / "data" / "mtd")
    order = np.random.default_rng(0).permutation(len(dataset.train))[:100]
    train = dataset.train.select(int(i) for i in np.sort(order))
    result: dict[str, Any] = {"n_images": len(train)}
    sample = dataset.test[0]
    for index in ("auto", "flat"):
        detector = create_detector("patchcore", resnet18(), settings={"calibration_images": 0, "index": index})
        detector.fit(train)
        result["bank"] = len(detector.search_.bank_)
        result[index] = _split(detector, sample)
    return result


def _split(detector: Any, sample: Any) -> dict[str, float]:
    backbone = detector.backbone
    batch = backbone.preprocess([sample.image])
    with torch.inference_mode():
        maps = backbone.feature_maps(batch)
        rows = patch_features(maps).flatten(0, 2).numpy()
    distances = detector.search_.query(rows)[0][:, 0]
    grid = distances.reshape(28, 28)

    def search() -> None:
        found = detector.search_.query(rows)[0][:, 0]
        detector.search_.farthest(rows, found)

    def bare() -> None:
        with torch.inference_mode():
            backbone.feature_maps(batch)

    # the two that make the ratio alternate, so that a change of the machine's speed meets both
    pairs = [
        (median_seconds(bare, 10), median_seconds(lambda: detector.predict([sample]), 10)) for _ in range(REPEATS // 10)
    ]
    forward = sorted(pair[0] for pair in pairs)[len(pairs) // 2]
    whole = sorted(pair[1] for pair in pairs)[len(pairs) // 2]
    return {
        "backbone_ms": 1e3 * forward,
        "predict_ms": 1e3 * whole,
        "ratio": float(np.median([pair[1] / pair[0] for pair in pairs])),
        "preprocess_ms": 1e3 * median_seconds(lambda: backbone.preprocess([sample.image]), REPEATS),
        "patches_ms": 1e3 * median_seconds(lambda: patch_features(maps).flatten(0, 2).numpy(), REPEATS),
        "search_ms": 1e3 * median_seconds(search, REPEATS),
        "map_ms": 1e3 * median_seconds(lambda: upsample_scores(grid, sample.image.shape[:2], resize=224), REPEATS),
    }


if __name__ == "__main__":
    outcome = run()
    print(save("predict", "python eval/bench_predict.py", outcome).read_text())
