"""What the benchmarks share: where real data is, what machine this is, results as JSON, memory of a child process."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from anomalyhub.state import jsonable

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "eval" / "results"
PACKAGES = ("torch", "timm", "faiss-cpu", "numpy", "opencv-python-headless")


def shared() -> Path | None:
    """The folder of real images and weights ($ANOMALYHUB_SHARED, or `shared` beside the checkout), or None."""
    folder = Path(os.environ.get("ANOMALYHUB_SHARED") or ROOT.parent / "shared")
    return folder if folder.is_dir() else None


def resnet18() -> str:
    """The SPEC of the ResNet-18 trunk in the shared folder."""
    return f"resnet18@{shared() / 'weights' / 'resnet18_imagenet_l3.safetensors'}"


def machine() -> dict[str, Any]:
    """Cores, processor, memory, versions, git commit and date."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = models[0] if models else cpu
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "commit": commit.stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }


def save(name: str, command: str, result: dict[str, Any]) -> Path:
    """Write eval/results/NAME.json with the command and the machine beside the result."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps(jsonable({"command": command, "machine": machine(), "result": result}), indent=1)
    # no path of this machine in a result
    for folder, name_of_it in ((shared(), "../shared"), (ROOT, ".")):
        text = text.replace(str(folder), name_of_it) if folder else text
    path.write_text(text + "\n", encoding="utf-8")
    return path


def run_cli(*arguments: str) -> dict[str, Any]:
    """Run `anomalyhub …` as a process of its own: wall seconds, peak memory, and what it printed."""
    command = [sys.executable, "-m", "anomalyhub", *map(str, arguments)]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{shlex.join(command)} ended with exit code {code}")
    return {
        "command": "anomalyhub " + shlex.join(command[3:]),
        "seconds": round(seconds, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "output": output.strip().splitlines(),
    }


def peak_gib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def median_seconds(call, repeats: int, warm_up: int = 2) -> float:
    """Median wall time of a call after a warm-up."""
    times = []
    for i in range(warm_up + repeats):
        start = time.perf_counter()
        call()
        if i >= warm_up:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
