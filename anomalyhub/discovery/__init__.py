"""Discoverers group defects into kinds that nobody has named. A new one is one file here, imported below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomalyhub.discovery.anomalyncd import AnomalyNCD, AnomalyNCDConfig
from anomalyhub.discovery.base import discoverers
from anomalyhub.discovery.clustering import Clustering, ClusteringConfig
from anomalyhub.discovery.grouping import estimate_n_classes
from anomalyhub.regions.merge import MergedRegions as Discovery
from anomalyhub.regions.merge import merge_regions
from anomalyhub.state import read_name


def create_discoverer(
    name: str, backbone: Any = "embedded", *, seed: int = 0, settings: Mapping[str, Any] | None = None
):
    """An unfitted discoverer.

    name      a registered discoverer: "anomalyncd" or "clustering"
    backbone  a SPEC for `create_backbone`, or a backbone; a transformer with a class token
    settings  "preset" ("default", "paper", …) and fields of the discoverer's config; texts are converted
    Raises UnknownNameError, InvalidArgumentError.
    """
    return discoverers[name].create(backbone, seed=seed, settings=settings or {})


def load_discoverer(folder: Path, backbone: Any = None):
    """A fitted discoverer from the folder that its `save` wrote. Raises InvalidModelError.

    backbone  replaces the stored SPEC, for example when the weights file has moved; the weights must be the same
    """
    return discoverers[read_name(folder, "discoverer", discoverers.names())].load(folder, backbone=backbone)


__all__ = [
    "AnomalyNCD",
    "AnomalyNCDConfig",
    "Clustering",
    "ClusteringConfig",
    "Discovery",
    "create_discoverer",
    "discoverers",
    "estimate_n_classes",
    "load_discoverer",
    "merge_regions",
]
