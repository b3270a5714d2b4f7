"""Time and memory of the pixel metrics against threshold-by-threshold evaluation, on synthetic maps.

    python eval/bench_metrics.py

The comparison is a plain numpy loop over 200 thresholds, as published evaluation code has it, but kinder to it:
connected components are found once and not again at each threshold. It counts, per threshold, the recall of each
component, the false positives and the true positives, from which AUPRO and average precision follow. The reference for
both is a plain sort of all pixels together, which visits every threshold.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from common import save
from scipy import ndimage

from anomalyhub.metrics import aupro, detection_metrics

MAX_FPR = 0.3


def make_scenes(n: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n masks (size, size) with one to three elliptic blobs in two thirds, and smooth float32 maps that see most."""
    rng = np.random.default_rng(seed)
    masks, maps = np.zeros((n, size, size), bool), np.empty((n, size, size), np.float32)
    rows, columns = np.ogrid[:size, :size]
    for mask, scores in zip(masks, maps, strict=True):
        if rng.random() < 2 / 3:
            for _ in range(rng.integers(1, 4)):
                (y, x), (a, b) = rng.integers(size, size=2), rng.integers(4, size // 8, size=2)
                mask |= ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1
        scores[:] = ndimage.zoom(rng.normal(size=(size // 8, size // 8)).astype(np.float32), 8, order=1)
        scores += 1.5 * mask
    return masks, maps


def loop_over_thresholds(masks: np.ndarray, maps: np.ndarray, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Mean recall per component, false positives and true positives of "score > t", one threshold after another."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [(index, *np.nonzero(labels == component)) for component in range(1, count + 1)]
    good, binary = ~masks, np.empty(maps.shape, bool)
    recall, false, true = (np.zeros(len(thresholds)) for _ in range(3))
    for step, threshold in enumerate(thresholds):
        np.greater(maps, np.float32(threshold), out=binary)
        recall[step] = np.mean([binary[region].mean() for region in regions])
        false[step] = np.logical_and(binary, good).sum()
        true[step] = binary.sum() - false[step]
    return {"recall": recall, "rate": false / good.sum(), "true": true, "false": false, "n": masks.sum()}


def sort_all_pixels(masks: np.ndarray, maps: np.ndarray) -> dict[str, np.ndarray]:
    """The same counts at every distinct score, from one sort of all pixels in float64."""
    weight, n_components = np.zeros(maps.shape), 0
    for mask, share in zip(masks, weight, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        share[mask] = (1 / np.maximum(np.bincount(labels.ravel()), 1))[labels[mask]]
        n_components += count
    order = np.argsort(maps, axis=None)[::-1]
    scores, hit = maps.ravel()[order], masks.ravel()[order]
    last = np.append(scores[1:] != scores[:-1], True)
    recall = np.cumsum(weight.ravel()[order])[last] / n_components
    true, false = np.cumsum(hit)[last], np.cumsum(~hit)[last]
    curve = {"recall": recall, "rate": false / false[-1], "true": true, "false": false}
    return {**{key: values[::-1] for key, values in curve.items()}, "n": true[-1]}


def aupro_of(curve: dict, rescale: bool) -> float:
    """Area under recall over rate: rescaled as in published code, or up to the interpolated point at MAX_FPR."""
    rate, recall = curve["rate"][::-1], curve["recall"][::-1]
    if rescale:
        kept = rate < MAX_FPR
        rate, recall = rate[kept], recall[kept]
        width = rate[-1] - rate[0]
    else:
        end = np.interp(MAX_FPR, rate, recall)
        kept = rate < MAX_FPR
        rate, recall = np.concatenate(([0], rate[kept], [MAX_FPR])), np.concatenate(([0], recall[kept], [end]))
        width = MAX_FPR
    return float(np.diff(rate) @ (recall[1:] + recall[:-1]) / 2 / width)


def ap_of(curve: dict) -> float:
    """Sum of precision times the growth of recall, from the highest threshold down."""
    true, false = curve["true"][::-1], curve["false"][::-1]
    return float(np.diff(true, prepend=0) @ (true / np.maximum(true + false, 1)) / curve["n"])


def even_thresholds(maps: np.ndarray, steps: int) -> np.ndarray:
    low, high = maps.min(), maps.max()
    return np.arange(low, high, (high - low) / steps)


def evaluate(masks, maps, **options) -> dict:
    """The image metrics come along: `evaluate` asks for everything in one call."""
    labels = np.arange(len(masks)) % 2 == 0
    return detection_metrics(labels, np.arange(len(masks)), masks, maps, max_fpr=MAX_FPR, **options)


def seconds(call: Callable, repeats: int = 1) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def peak_mib(call: Callable) -> float:
    """Most memory that the call allocates at a time, on top of its input."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def compare_speed(n: int = 583, size: int = 256, steps: int = 200) -> dict:
    """Everything `evaluate` reports, against AUPRO and average precision from the loop, on the same arrays."""
    masks, maps = make_scenes(n, size)
    evaluate(masks[:8], maps[:8])  # imports
    thresholds = even_thresholds(maps, steps)
    loop: dict = {}
    every: dict = {}
    ours_seconds = seconds(lambda: evaluate(masks, maps), repeats=3)
    loop_seconds = seconds(lambda: loop.update(loop_over_thresholds(masks, maps, thresholds)))
    sort_seconds = seconds(lambda: every.update(sort_all_pixels(masks, maps)))
    exact = evaluate(masks, maps)
    sampled = aupro(masks, maps, steps=steps)
    return {
        "maps": n,
        "size": size,
        "steps": steps,
        "defective_share": float(masks.mean()),
        "scores_mib": maps.nbytes / 2**20,
        "aupro": exact["aupro"],
        "pixel_ap": exact["pixel_ap"],
        "ratio": loop_seconds / ours_seconds,
        "ours": {
            "seconds": ours_seconds,
            "peak_mib": peak_mib(lambda: evaluate(masks, maps)),
            "aupro_error": abs(exact["aupro"] - aupro_of(every, rescale=False)),
            "ap_error": abs(exact["pixel_ap"] - ap_of(every)),
        },
        "loop": {
            "seconds": loop_seconds,
            "peak_mib": peak_mib(lambda: loop_over_thresholds(masks, maps, thresholds[:2])),
            "aupro_error": abs(aupro_of(loop, rescale=False) - aupro_of(every, rescale=False)),
            "ap_error": abs(ap_of(loop) - ap_of(every)),
        },
        "sort": {"seconds": sort_seconds, "peak_mib": peak_mib(lambda: sort_all_pixels(masks, maps))},
        "steps_seconds": seconds(lambda: aupro(masks, maps, steps=steps)),
        "steps_difference": abs(sampled - aupro_of(loop, rescale=True)),
    }


class Lazy:
    """n items made when asked for, from a few: a test set that is not held in memory."""

    def __init__(self, n: int, make: Callable[[int], np.ndarray]):
        self.n, self.make = n, make

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> np.ndarray:
        return self.make(index)


def grow(n: int, byte_budget: int, size: int = 1024, n_distinct: int = 4) -> tuple[dict, dict]:
    """One row of the growth table, and the metrics; the maps differ in a factor, so that ties are rare."""
    masks, maps = make_scenes(n_distinct, size, seed=2)
    lazy_masks = Lazy(n, lambda i: masks[i % n_distinct])
    lazy_maps = Lazy(n, lambda i: maps[i % n_distinct] * np.float32(1 + i / 1000))
    report: dict = {}

    def call() -> None:
        report.update(evaluate(lazy_masks, lazy_maps, byte_budget=byte_budget))

    row = {"maps": n, "size": size, "budget_mib": byte_budget / 2**20, "scores_mib": n * size * size * 4 / 2**20}
    row["seconds"] = seconds(lambda: row.update(peak_mib=peak_mib(call)))
    row["error_bound"] = max(report.get("error_bound", {"": 0.0}).values())
    return row, report


def growth_table() -> list[dict]:
    """Exact within the default budget, the histogram within 64 MiB, and its true error."""
    rows = []
    for n in (50, 200):
        row, exact = grow(n, 2**30)
        coarse_row, coarse = grow(n, 64 * 2**20)
        coarse_row["error"] = max(abs(exact[key] - coarse[key]) for key in coarse["error_bound"])
        rows += [row, coarse_row]
    return rows


def run() -> dict:
    """All measurements as one JSON-serialisable dict."""
    return {"speed": compare_speed(), "growth": growth_table()}


def show(results: dict) -> None:
    speed = results["speed"]
    print(f"{speed['maps']} maps of {speed['size']} x {speed['size']}, {speed['scores_mib']:.0f} MiB of scores")
    print(f"{'':34}{'seconds':>9}{'peak MiB':>10}{'AUPRO error':>13}{'AP error':>10}")
    names = {"ours": "all metrics, exact", "loop": f"loop, {speed['steps']} thresholds", "sort": "all pixels sorted"}
    for key, name in names.items():
        row = speed[key]
        errors = f"{row['aupro_error']:13.1e}{row['ap_error']:10.1e}" if "ap_error" in row else f"{'reference':>13}"
        print(f"{name:34}{row['seconds']:9.2f}{row['peak_mib']:10.0f}{errors}")
    print(
        f"loop / exact: {speed['ratio']:.0f} times; aupro(steps={speed['steps']}): {speed['steps_seconds']:.2f} s, "
        f"differs from the loop by {speed['steps_difference']:.1e}"
    )
    print(f"\n{'maps':>6}{'scores MiB':>12}{'budget MiB':>12}{'peak MiB':>10}{'seconds':>9}{'bound':>10}{'error':>10}")
    for row in results["growth"]:
        print(
            f"{row['maps']:6}{row['scores_mib']:12.0f}{row['budget_mib']:12.0f}{row['peak_mib']:10.0f}"
            f"{row['seconds']:9.1f}{row['error_bound']:10.1e}{row.get('error', 0.0):10.1e}"
        )


if __name__ == "__main__":
    outcome = run()
    show(outcome)
    save("metrics", "python eval/bench_metrics.py", outcome)
