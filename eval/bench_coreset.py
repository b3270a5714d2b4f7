"""Greedy k-center against one distance update per pick, on real patch features; growth with N; blockwise budgets.

python eval/bench_coreset.py
"""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import torch
from common import resnet18, save, shared

from anomalyhub.backbones import create_backbone
from anomalyhub.data import load_dataset
from anomalyhub.detection.patches import patch_features
from anomalyhub.search import StreamingCoreset, covering_radius, k_center_greedy

FRACTION = 0.1
PROJECTION = 128


def features(n_images: int, seed: int = 0) -> np.ndarray:
    """(784 n, 384) float32 patch features of MTD's training normals: ResNet-18, layers 2 and 3, 224 px."""
    backbone = create_backbone(resnet18(), (2, 3))
    train = load_dataset(shared() / "data" / "mtd").train
    order = np.sort(np.random.default_rng(seed).permutation(len(train))[:n_images])
    rows = []
    for start in range(0, n_images, 8):
        images = [train[int(i)].image for i in order[start : start + 8]]
        with torch.inference_mode():
            rows.append(patch_features(backbone.feature_maps(backbone.preprocess(images))).flatten(0, 2).numpy())
    return np.concatenate(rows)


def one_update_per_pick(points: np.ndarray, n_select: int, first: int) -> np.ndarray:
    """Plain greedy k-center: after every pick, every point's distance to it."""
    points = torch.from_numpy(points - points.mean(0))
    norms = points.square().sum(1)
    distances = torch.full((len(points),), float("inf"))
    picks = []
    pick = first
    for _ in range(n_select):
        picks.append(pick)
        torch.minimum(distances, norms + norms[pick] - 2 * (points @ points[pick]), out=distances)
        distances[pick] = -1.0
        pick = int(distances.argmax())
    return np.array(picks)


def timed(call) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def run() -> dict[str, Any]:
    """The comparison at 78,400 patches, and the growth at 20k, 80k and 320k."""
    everything = features(409)
    matrix = np.random.default_rng(0).standard_normal((everything.shape[1], PROJECTION), dtype=np.float32)
    projected = everything @ (matrix / np.sqrt(PROJECTION, dtype=np.float32))
    points, narrow = everything[:78_400], projected[:78_400]
    n_select = round(FRACTION * len(points))
    k_center_greedy(narrow[:4000], 400)  # warm up
    result: dict[str, Any] = {"n": len(points), "dim": points.shape[1], "n_select": n_select}
    for name, space in (("projected_128", narrow), ("full_384", points)):
        runs = [timed(lambda space=space: k_center_greedy(space, n_select)) for _ in range(3)]
        ours, seconds = sorted(runs, key=lambda run: run[1])[1]
        plain, plain_seconds = timed(lambda space=space, first=ours[0]: one_update_per_pick(space, n_select, first))
        result[name] = {
            "seconds": seconds,
            "plain_seconds": plain_seconds,
            "ratio": plain_seconds / seconds,
            "same_picks": len(np.intersect1d(ours, plain)) / n_select,
            "radius_ratio": covering_radius(space, space[ours]) / covering_radius(space, space[plain]),
            "radius_ratio_full_width": covering_radius(points, points[ours]) / covering_radius(points, points[plain]),
            # limit: every point against every pick once, at this machine's own matrix-product rate
            "limit_seconds": n_select * len(points) * space.shape[1] / _multiply_adds_per_second(space.shape[1]),
        }
    result["growth"] = []
    for n in (20_000, 80_000, 320_000):
        picks, seconds = timed(lambda n=n: k_center_greedy(projected[:n], round(FRACTION * n)))
        result["growth"].append({"n": n, "n_select": len(picks), "seconds": seconds})
    result["budgets"] = [_with_budget(points, 2**20 * mib) for mib in (1024, 128, 96, 64)]
    return result


def _multiply_adds_per_second(width: int) -> float:
    rows, picks = torch.randn(2048, width), torch.randn(width, 1024)
    _, seconds = timed(lambda: [rows @ picks for _ in range(50)])
    return 50 * 2048 * 1024 * width / seconds


def _with_budget(points: np.ndarray, budget: int) -> dict[str, Any]:
    def stream() -> tuple[StreamingCoreset, np.ndarray]:
        coreset = StreamingCoreset(points.shape[1], fraction=FRACTION, byte_budget=budget, projection=PROJECTION)
        coreset.reserve(len(points))
        for image in range(0, len(points), 784):
            coreset.add(points[image : image + 784])
        return coreset, coreset.select()

    (coreset, bank), seconds = timed(stream)
    radius = covering_radius(points, bank)
    tracemalloc.start()  # sees numpy's arrays: buffer, projections, bank; a second pass, because it costs time
    stream()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "budget_mib": budget // 2**20,
        "peak_mib": peak / 2**20,
        "blockwise": coreset.blockwise,
        "seconds": seconds,
        "radius": radius,
    }


if __name__ == "__main__":
    outcome = run()
    print(save("coreset", "python eval/bench_coreset.py", outcome).read_text())
