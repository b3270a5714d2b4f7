"""What a figure was measured on: processor, memory, versions, commit; and the peak memory of a unit."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from anomalyhub import __version__

_PACKAGES = (
    "torch",
    "timm",
    "transformers",
    "faiss-cpu",
    "numpy",
    "scikit-learn",
    "opencv-python-headless",
    "accelerate",
)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of AnomalyHub, Python and the packages that compute."""
    found = {"anomalyhub": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, its threads, memory in GiB, and the GPU, None without one."""
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": cpu,
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@lru_cache(maxsize=1)
def commit() -> str:
    """Of the git checkout that this package lies in, with "-dirty" where it has changed; "" for an installed one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


class PeakMemory:
    """The largest resident memory since it was made; of the whole process where the kernel cannot start anew."""

    def __init__(self):
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass

    def gib(self) -> float:
        try:
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
        except (OSError, StopIteration, ValueError, IndexError):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak / (2**30 if sys.platform == "darwin" else 2**20)
