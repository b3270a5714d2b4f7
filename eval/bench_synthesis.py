"""Synthetic defects per second and core at 256 x 256, where the time goes, and how far from the limit that is.

python eval/bench_synthesis.py
python eval/bench_synthesis.py --limit 40     # few images; nothing is saved
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import save

from anomalyhub import load_dataset
from anomalyhub.data import Split
from anomalyhub.data.sample import write_sample
from anomalyhub.synthesis import (
    SynthesisConfig,
    Synthesizer,
    Textures,
    choose_method,
    foreground,
    load_textures,
    write_synthetic,
)
from anomalyhub.synthesis.generate import MASKS

COMMAND = "OMP_NUM_THREADS=1 python eval/bench_synthesis.py"
PRODUCTS, SOURCES, SIZE, COUNT, REPEATS = ("ring", "weave"), 12, 256, 192, 3


def milliseconds(calls: dict[str, Callable[[int], Any]], count: int) -> dict[str, float]:
    """Processor time of each call per image, the best of some turns over `count` images, the calls in turn.

    The clock counts what this process computes, which other programs on the machine disturb less than the wall's.
    """
    best = dict.fromkeys(calls, np.inf)
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.process_time()
            for index in range(count):
                call(index)
            best[name] = min(best[name], 1e3 * (time.process_time() - start) / count)
    return best


def least_work(synthesizer: Synthesizer) -> Callable[[int], Any]:
    """What no implementation can leave out, with the result known before: OpenCV on the same arrays, and nothing else.

    The texture's piece and the two results are copied, the blend and the masked copy made, and one field of the size
    of the image is written and compared.
    """
    drawn, rng = synthesizer.draw(0), np.random.default_rng(0)
    piece = synthesizer.textures.cut(0, drawn.mask.shape, rng)
    mask, field = drawn.mask.view(np.uint8), rng.random(drawn.mask.shape, np.float32)

    def work(_: int) -> None:
        image, _ = drawn.clean.copy(), drawn.clean.copy()
        cv2.copyTo(cv2.addWeighted(piece.copy(), 0.5, image, 0.5, 0), mask, image)
        cv2.compare(cv2.add(field, 1.0), 0.5, cv2.CMP_GE)

    return work


def moved_bytes() -> int:
    """Bytes read and written by `least_work`: six passes over images of 3 bytes a pixel, two over fields of 4."""
    copies, blend, masked = 3 * 2 * 3, 3 * 3, 2 * 3 + 1
    return SIZE * SIZE * (copies + blend + masked + (4 + 4) + (4 + 1))


def memory_bandwidth() -> float:
    """GB/s, read and written, of copies of one image's bytes, which stay in the cache as an image does."""
    source = np.ones(3 * SIZE * SIZE, np.uint8)
    target = np.empty_like(source)
    best = milliseconds({"copy": lambda _: np.copyto(target, source)}, 2000)["copy"]
    return 2 * source.nbytes / best / 1e6


def drawing(samples: Split, textures: Textures, count: int) -> dict[str, Any]:
    """Per mask: milliseconds and images a second with all sources and textures decoded, and the share of the limit."""
    report = {}
    for mask in MASKS:
        synthesizer = Synthesizer(samples, textures, SynthesisConfig(mask, size=SIZE))
        for index in range(COUNT):  # every source and texture
            synthesizer.draw(index)
        sources = [synthesizer._source(number) for number in range(len(samples))]
        rng, sides = np.random.default_rng(0), 5 if mask == "polygon" else None
        found = milliseconds(
            {
                "all": synthesizer.draw,
                "mask": lambda index, sources=sources, make=synthesizer._mask, rng=rng, sides=sides: make(
                    sources[index % len(sources)], sides, rng
                ),
                "limit": least_work(synthesizer),
            },
            count,
        )
        report[mask] = {
            "milliseconds": found,
            "images_per_second": 1e3 / found["all"],
            "times_the_limit": found["all"] / found["limit"],
        }
    return report


def around(samples: Split, textures: Textures, folder: Path, count: int) -> dict[str, float]:
    """Milliseconds of what comes before and after: decoding and foreground, and a written data set per image."""
    images = [sample.image for sample in samples]
    found = milliseconds(
        {
            "decode_source": lambda index: samples[index % len(samples)],
            "grabcut": lambda index: foreground(images[index % len(images)], "grabcut"),
            "floodfill": lambda index: foreground(images[index % len(images)], "floodfill"),
        },
        len(images),
    )
    start = time.process_time()
    choose_method(images)
    found["choose_method"] = 1e3 * (time.process_time() - start)
    synthesizer = Synthesizer(samples, textures, SynthesisConfig(size=SIZE))
    for index in range(count):
        synthesizer.draw(index)
    start = time.process_time()
    write_synthetic(folder, "product", synthesizer, count)
    found["draw_and_write"] = 1e3 * (time.process_time() - start) / count
    return found


def run(folder: Path, count: int) -> dict[str, Any]:
    cv2.setNumThreads(1)
    write_sample(folder / "sample", products=PRODUCTS, n_train=SOURCES, n_test_good=0, n_defect=0, size=SIZE)
    report: dict[str, Any] = {"size": SIZE, "images": count, "sources": SOURCES, "threads": 1, "products": {}}
    start, textures = time.process_time(), load_textures()
    for index in range(len(textures)):
        textures.image(index)
    report["milliseconds_per_drawn_texture"] = 1e3 * (time.process_time() - start) / len(textures)
    bandwidth = memory_bandwidth()
    for name in PRODUCTS:
        train = load_dataset(folder / "sample", name).train
        (folder / name).mkdir()
        report["products"][name] = {
            "foreground": choose_method([sample.image for sample in train])[0],
            "drawing": drawing(train, textures, count),
            "milliseconds_around": around(train, textures, folder / name, count),
        }
    report["limit"] = {
        "bytes": moved_bytes(),
        "copy_gb_per_second": bandwidth,
        "milliseconds_of_moving_them": moved_bytes() / bandwidth / 1e6,
    }
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anomalyhub-bench-") as temporary:
        found = run(Path(temporary), options.limit or COUNT)
        text = json.dumps(found, indent=1) if options.limit else save("synthesis", COMMAND, found).read_text()
        print(text)
