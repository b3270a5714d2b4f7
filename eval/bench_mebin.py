"""MEBin on PatchCore's maps of MTD: same results as one threshold after another, how much faster, and box-level errors.

python eval/bench_mebin.py
python eval/bench_mebin.py --maps FOLDER --limit 8     # maps that are there already, few of them; nothing is saved
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import resnet18, run_cli, save, shared

from anomalyhub import MEBin, load_dataset
from anomalyhub.data import Split
from anomalyhub.data.maps import MapFolder
from anomalyhub.metrics.boxes import box_rates
from anomalyhub.regions import Binarizer, FixedThreshold, OtsuThreshold, threshold_regions
from anomalyhub.regions.binarizer import MapRange
from anomalyhub.types import GOOD

COMMAND = "python eval/bench_mebin.py"
SIZE, N_TIMED, BATCH, REPEATS = 518, 60, 20, 7
SQUARE = np.ones((6, 6), np.uint8)
LEVELS = range(255, 0, -4)


def predicted_maps(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """maps/ of MTD's test images through the command line, and what was run."""
    data, model, results = shared() / "data" / "mtd", folder / "model", folder / "results"
    steps = [
        run_cli("fit", "patchcore", "--data", data, "--backbone", resnet18(), "--out", model),
        run_cli("predict", model, "--data", data, "--out", results),
    ]
    for step in steps:
        step["command"] = step["command"].replace(str(folder), "out")
        step["output"] = [line.replace(str(folder), "out") for line in step["output"]]
    return results / "maps", steps


class EightBit:
    """8-bit maps of a folder, quantised over the set; resized to a square before that if `size` is given."""

    def __init__(self, maps: Sequence[np.ndarray], size: int | None = None):
        self.maps, self.size = maps, size
        self.range = MapRange.of(self._sized(m) for m in maps)

    def _sized(self, scores: np.ndarray) -> np.ndarray:
        return scores if self.size is None else cv2.resize(scores, (self.size, self.size))

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.range.quantise(self._sized(self.maps[index]))

    def __iter__(self):
        return (self[index] for index in range(len(self)))


def masks_of(scores: np.ndarray, low: int, high: int) -> list[np.ndarray]:
    """The 64 masks, before erosion."""
    pixels = scores.astype(np.float64)
    normalised = np.where(pixels < low, 0, (pixels - low) / (high - low) * 255)
    return [(normalised > level).astype(np.uint8) for level in LEVELS]


def erode_and_label(masks: list[np.ndarray]) -> list[int]:
    """64 erosions and 64 labelings."""
    return [cv2.connectedComponents(cv2.erode(mask, SQUARE), connectivity=8)[0] - 1 for mask in masks]


def one_after_another(scores: np.ndarray, low: int, high: int) -> tuple[np.ndarray, int, int]:
    """Mask, threshold and number of regions by the published algorithm."""
    runs: dict[int, list[tuple[int, int]]] = {}
    start, counts = 0, erode_and_label(masks_of(scores, low, high))
    for index, count in enumerate(counts):
        if index + 1 == len(counts) or counts[index + 1] != count:
            if count and index - start + 1 >= 4:
                runs.setdefault(count, []).append((start, index))
            start = index + 1
    if not runs:
        return np.zeros(scores.shape, bool), 255, 0
    longest = {count: max(end - start for start, end in found) for count, found in runs.items()}
    count = max(longest, key=longest.get)
    end = [end for start, end in runs[count] if end - start == longest[count]][-1]
    threshold = int(LEVELS[end] * (high - low) / 255 + low)
    return cv2.erode((scores > threshold).astype(np.uint8), SQUARE).astype(bool), threshold, count


def identity(maps: EightBit) -> dict[str, Any]:
    """On how many maps mask, threshold and count are equal to the published algorithm's."""
    mebin = MEBin().fit(maps)
    low, high = int(mebin.range_.lowest_peak), int(mebin.range_.maximum)
    same = {"masks": 0, "thresholds": 0, "counts": 0}
    regions = []
    for scores in maps:
        found, (mask, threshold, count) = mebin.binarize(scores), one_after_another(scores, low, high)
        same["masks"] += np.array_equal(found.mask, mask)
        same["thresholds"] += found.threshold == threshold
        same["counts"] += found.n_regions == count
        regions.append(count)
    histogram = {str(count): int(times) for count, times in enumerate(np.bincount(regions)) if times}
    return {"maps": len(maps), "equal": same, "maps_by_number_of_regions": histogram}


def speed(maps: EightBit, threads: int) -> dict[str, Any]:
    """Time per map over some maps in turn, the best of some turns; `full` makes the 64 masks too.

    On one thread it is the processor's time, which other programs on the machine disturb less than the clock's.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    cv2.setNumThreads(threads)
    mebin = MEBin().fit(maps)
    low, high = int(mebin.range_.lowest_peak), int(mebin.range_.maximum)
    rows = []
    for first in range(0, len(maps), BATCH):
        batch = [maps[index] for index in range(first, min(first + BATCH, len(maps)))]
        masks = [masks_of(scores, low, high) for scores in batch]
        turns = {
            "ours": lambda batch=batch: [mebin.binarize(scores) for scores in batch],
            "erode_and_label": lambda masks=masks: [erode_and_label(of_map) for of_map in masks],
            "full": lambda batch=batch: [one_after_another(scores, low, high) for scores in batch],
        }
        best = dict.fromkeys(turns, np.inf)
        for _ in range(REPEATS):
            for name, turn in turns.items():
                start = clock()
                turn()
                best[name] = min(best[name], (clock() - start) / len(batch))
        rows.append(best)
    cv2.setNumThreads(-1)
    ratios = np.array([row["erode_and_label"] / row["ours"] for row in rows])
    return {
        "maps": len(maps),
        "size": maps.size,
        "threads": threads,
        "milliseconds": {name: 1e3 * float(np.mean([row[name] for row in rows])) for name in rows[0]},
        "ratio": float(np.median(ratios)),
        "lowest_ratio": float(ratios.min()),
        "ratio_full": float(np.median([row["full"] / row["ours"] for row in rows])),
    }


def boxes_of(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    return [region.box for region in threshold_regions(mask.astype(np.float32), 0.5)[1]]


def box_errors(maps: MapFolder, test: Split) -> dict[str, dict[str, Any]]:
    """FPR and FNR on boxes (IoU above 0.1) against the masks of MTD, per method; kernel 1 is without erosion."""
    methods: dict[str, Binarizer] = {"mebin": MEBin()}
    for kernel in (6, 1):
        methods[f"otsu, kernel {kernel}"] = OtsuThreshold(kernel=kernel)
        for value in (0.1, 0.3, 0.5, 0.7, 0.9):
            methods[f"fixed {value}, kernel {kernel}"] = FixedThreshold(value=value, kernel=kernel)
    for method in methods.values():
        method.fit(maps)
    true: list[list] = []
    found: dict[str, list[list]] = {name: [] for name in methods}
    for scores, sample in zip(maps, test, strict=True):
        true.append(boxes_of(sample.mask))
        for name, method in methods.items():
            found[name].append(boxes_of(method.binarize(scores).mask))
    good = np.array([label == GOOD for label in test.labels])
    report = {}
    for name, boxes in found.items():
        marked = np.array([len(of_image) > 0 for of_image in boxes])
        shares = {"good_images_marked": marked[good], "defective_images_marked": marked[~good]}
        shares = {key: float(values.mean()) if len(values) else None for key, values in shares.items()}
        report[name] = {**box_rates(true, boxes), **shares}
    return report


def run(maps: Path, limit: int | None = None) -> dict[str, Any]:
    """All three measurements on a folder of maps of MTD's test images."""
    test = load_dataset(shared() / "data" / "mtd").test
    if limit is not None:
        test = test.select(np.linspace(0, len(test) - 1, limit).astype(int))
    folder = MapFolder.open(maps).for_images(test.ids)
    timed = [folder[int(i)] for i in np.unique(np.linspace(0, len(folder) - 1, N_TIMED).astype(int))]
    square = EightBit(timed, SIZE)
    return {
        "identity": identity(EightBit(folder)),
        "identity_518": identity(square),
        "speed": [speed(square, threads) for threads in sorted({1, cv2.getNumThreads()})],
        "boxes": box_errors(folder, test),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=Path)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    if options.maps is not None:
        print(json.dumps(run(options.maps, options.limit), indent=1))
    else:
        with tempfile.TemporaryDirectory(prefix="anomalyhub-bench-") as temporary:
            made, steps = predicted_maps(Path(temporary))
            print(save("mebin", COMMAND, {"steps": steps, **run(made, options.limit)}).read_text())
