"""All benchmarks, one JSON each in eval/results: `make bench`, or `python eval/bench.py coreset predict`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common import shared

HERE = Path(__file__).parent
ALL = (
    "metrics",
    "coreset",
    "predict",
    "backbone",
    "detection",
    "musc",
    "mebin",
    "synthesis",
    "discovery",
    "chain",
    "fewshot",
    "inspect",
    "app",
    "classification",
)
NEEDS_SHARED = (
    "coreset",
    "predict",
    "backbone",
    "detection",
    "musc",
    "mebin",
    "discovery",
    "chain",
    "fewshot",
    "classification",
)


def main(names: list[str]) -> int:
    """Run each in a process of its own, so that none sees another's memory; returns the exit code."""
    unknown = set(names) - set(ALL)
    if unknown:
        print(f"unknown benchmark {sorted(unknown)[0]!r}: choose from {', '.join(ALL)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or ALL:
        if name in NEEDS_SHARED and shared() is None:
            print(f"{name}: skipped, it needs the real images and weights (set ANOMALYHUB_SHARED)")
            continue
        print(f"== {name}", flush=True)
        failed += [name] if subprocess.call([sys.executable, HERE / f"bench_{name}.py"]) else []
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
