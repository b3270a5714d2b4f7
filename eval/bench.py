"""All benchmarks, one JSON each in eval/results: `make bench`, or `python eval/bench.py coreset predict`.

With `--push-to OWNER/NAME` (and `--store folder:PATH`) the results are pushed as a data set at the end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common import RESULTS, shared

from anomalyhub.errors import AnomalyHubError, UnknownNameError
from anomalyhub.hub.base import check_target, push_command

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
    "swap",
    "stores",
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
    "swap",
)


def main(arguments: list[str] | None = None) -> int:
    """Run each in a process of its own, so that none sees another's memory; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(ALL)}")
    parser.add_argument("--push-to", metavar="REPO_ID")
    parser.add_argument("--store", default="hub", metavar="STORE")
    asked = parser.parse_args(arguments)
    try:
        unknown = set(asked.names) - set(ALL)
        if unknown:
            raise UnknownNameError("benchmark", sorted(unknown)[0], ALL)
        if asked.push_to is not None:
            check_target(asked.push_to, asked.store)
    except AnomalyHubError as error:
        print(error, file=sys.stderr)
        return 2
    code = _run(asked.names or ALL)
    return max(code, _push(asked.push_to, asked.store)) if asked.push_to else code


def _run(names: Sequence[str]) -> int:
    failed = []
    for name in names:
        if name in NEEDS_SHARED and shared() is None:
            print(f"{name}: skipped, it needs the real images and weights (set ANOMALYHUB_SHARED)")
            continue
        print(f"== {name}", flush=True)
        failed += [name] if subprocess.call([sys.executable, HERE / f"bench_{name}.py"]) else []
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _push(repo_id: str, store: str) -> int:
    from anomalyhub.hub.share import share

    try:
        print(f"pushed to {share(RESULTS, repo_id, 'dataset', store=store, tags=['benchmark']).url}")
    except AnomalyHubError as error:
        again = push_command(RESULTS, repo_id, "dataset", store)
        print(
            f"the results are in {RESULTS}, but were not pushed: {error}; push them again with: {again}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
