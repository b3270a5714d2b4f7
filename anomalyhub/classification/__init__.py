"""Classifiers name the kind of a defect from a handful of examples. A new head is one file here, imported below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomalyhub.classification import contrastive, direct, prototype, relation  # noqa: F401
from anomalyhub.classification.base import BaseClassifier, ClassifierConfig, classifiers
from anomalyhub.classification.evidence import Evidence
from anomalyhub.state import read_name


def create_classifier(
    head: str = "prototype", backbone: Any = None, *, seed: int = 0, settings: Mapping[str, Any] | None = None
) -> BaseClassifier:
    """An unfitted classifier.

    head      a registered one: "prototype", "contrastive", "relation" or "direct"
    backbone  a SPEC for `create_backbone`, or a backbone, for heads that look at pictures; None is the head's default
    settings  fields of the head's config; texts are converted
    Raises UnknownNameError, InvalidArgumentError.
    """
    return classifiers[head].create(backbone, seed=seed, settings=settings or {})


def load_classifier(folder: Path, backbone: Any = None) -> BaseClassifier:
    """A classifier, pretrained or fitted, from the folder that its `save` wrote. Raises InvalidModelError.

    backbone  replaces the stored SPEC, for example when the weights file has moved; the weights must be the same
    """
    return classifiers[read_name(folder, "classifier", classifiers.names())].load(folder, backbone=backbone)


__all__ = ["BaseClassifier", "ClassifierConfig", "Evidence", "classifiers", "create_classifier", "load_classifier"]
