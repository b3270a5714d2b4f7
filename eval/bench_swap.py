"""Chains of detector, binarizer and classifier on MTD and leather, and the stages that their errors come from.

python eval/bench_swap.py            # an hour on two cores; a run that was stopped goes on
python eval/bench_swap.py leather    # one of the data sets

`anomalyhub swap` does the same for one folder. Five examples of each kind are drawn by each of three seeds; all other
test images, good ones among them, are the test. PatchCore with `embedded` and with the ResNet-18 trunk.
"""

from __future__ import annotations

import shutil
import sys

from common import ROOT, resnet18, save, shared

from anomalyhub.benchmark.swap import SwapConfig, swap

COMMAND = "python eval/bench_swap.py"
WORK = ROOT / ".bench" / "swap"
DATA = ("leather", "mtd")
CLASSIFIERS = ("prototype", "direct", "contrastive")


def main(names: list[str]) -> None:
    detectors = ("patchcore", f"patchcore,backbone={resnet18()}")
    result = {}
    for name in DATA:
        if names and name not in names:
            continue
        config = SwapConfig(
            str(shared() / "data" / name), detectors=detectors, classifiers=CLASSIFIERS, shots=5, seeds=(0, 1, 2)
        )
        made = swap(config, progress=told, checkpoints=WORK / name)
        result[name] = {"summary": made.summary(), "notices": made.notices, "rows": made.rows}
        for row in made.summary():
            print(name, row["detector"][-40:], row["binarizer"], row["classifier"], row["accuracy"], row["lost"])
    if not names:
        print(save("swap", COMMAND, {"shots": 5, "seeds": 3, **result}))
        shutil.rmtree(WORK)


def told(fraction: float, text: str) -> None:
    print(f"\r{fraction:6.1%} {text:70.70}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
