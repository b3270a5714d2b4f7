"""Push and pull of a gigabyte with a folder store, against `shutil.copytree` of the same folder.

    python eval/bench_stores.py [--work FOLDER] [--rounds N]

The folder is one file of 600 MB, 20 of 10 MB and 4,000 of 20 to 80 KB, all of random bytes, in the page cache. In each
round the folder is copied, pushed to a new repository, pushed again as it is, and pulled, each after a `sync`. A time
is until the call returns, and beside it until the data is on the disk as well. Ratios are the medians of the rounds'.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import save

from anomalyhub.hub import create_store

COMMAND = "python eval/bench_stores.py"
FILES = {"state.safetensors": 600_000_000, **{f"layers/{n:02}.safetensors": 10_000_000 for n in range(20)}}


def make_folder(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write the folder; how many files and bytes it has."""
    rng = np.random.default_rng(seed)
    sizes = FILES | {f"references/{n % 20:02}/{n:04}.png": int(rng.integers(20_000, 80_000)) for n in range(4000)}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(rng.bytes(size))
    (folder / "config.json").write_text('{"schema": 1, "kind": "detector"}')
    return {"files": len(sizes) + 1, "bytes": sum(sizes.values())}


def timed(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds until the call returns, and until what it wrote is on the disk; bytes that it wrote."""
    os.sync()
    written, start = _written(), time.perf_counter()
    call()
    returned, written = time.perf_counter() - start, _written() - written
    os.sync()
    return {"seconds": returned, "seconds_to_disk": time.perf_counter() - start, "bytes_written": written}


def _written() -> int:
    """Bytes that this process has given to the system to write, and those that it let the system copy."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


def one_round(work: Path) -> dict[str, dict[str, float]]:
    store, folder = create_store(f"folder:{work / 'store'}"), work / "folder"
    ways = {
        "copytree": lambda: shutil.copytree(folder, work / "copy"),
        "push": lambda: store.push(folder, "acme/ring"),
        "push_again": lambda: store.push(folder, "acme/ring"),
        "pull": lambda: store.pull("acme/ring", out=work / "out"),
    }
    times = {}
    for name, way in ways.items():
        times[name] = timed(way)
        shutil.rmtree(work / "copy", ignore_errors=True)
    for name in ("store", "out"):
        shutil.rmtree(work / name)
    return times


def run(work: Path, rounds: int) -> dict[str, Any]:
    made = make_folder(work / "folder")
    one_round(work)  # imports, and the page cache
    times = [one_round(work) for _ in range(rounds)]
    ways = {
        name: {key: float(np.median([one[name][key] for one in times])) for key in times[0][name]} for name in times[0]
    }

    def ratios(name: str, key: str) -> float:
        return float(np.median([one[name][key] / one["copytree"][key] for one in times]))

    return {
        **made,
        "rounds": rounds,
        **ways,
        "ratio": {name: ratios(name, "seconds_to_disk") for name in ("push", "push_again", "pull")},
        "ratio_until_it_returns": {name: ratios(name, "seconds") for name in ("push", "push_again", "pull")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="a folder of the disk to measure; the system's one for such files")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anomalyhub-bench-", dir=arguments.work) as folder:
        print(save("stores", COMMAND, run(Path(folder), arguments.rounds)).read_text())


if __name__ == "__main__":
    main()
