"""Industrial visual anomaly work: which images are defective, where, and which kind of defect it is."""

from __future__ import annotations

import importlib
import os
from typing import Any

# Threads that wait for each other spin for a moment, then sleep. libgomp's default spins for milliseconds, which makes
# a busy machine many times slower and an idle one no faster. It is read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

# The public names and where they live; loaded on first use, so that importing the package and --help stay quick.
_PUBLIC = {
    "Inspector": "pipeline",
    "evaluate": "pipeline",
    "load_dataset": "data",
    "create_backbone": "backbones",
    "create_detector": "detection",
    "load_detector": "detection",
    "MEBin": "regions",
    "AnomalyNCD": "discovery",
    "create_discoverer": "discovery",
    "load_discoverer": "discovery",
    "create_classifier": "classification",
    "load_classifier": "classification",
    "create_store": "hub",
    "share": "hub.share",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'anomalyhub' has no attribute {name!r}")
    return getattr(importlib.import_module(f"anomalyhub.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
