"""Detectors, by name. A new one is one file here, imported below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomalyhub.detection import anomalib_models as _anomalib_models  # noqa: F401
from anomalyhub.detection import april_gan as _april_gan  # noqa: F401
from anomalyhub.detection import april_gan_training as _april_gan_training  # noqa: F401
from anomalyhub.detection import musc as _musc  # noqa: F401
from anomalyhub.detection import patchcore as _patchcore  # noqa: F401  (registers itself)
from anomalyhub.detection import precomputed as _precomputed  # noqa: F401
from anomalyhub.detection import siamese as _siamese  # noqa: F401
from anomalyhub.detection import winclip as _winclip  # noqa: F401
from anomalyhub.registry import detectors
from anomalyhub.state import read_name


def create_detector(name: str, backbone: Any = None, *, seed: int = 0, settings: Mapping[str, Any] | None = None):
    """An unfitted detector.

    name      a registered detector, such as "patchcore"
    backbone  a SPEC for `create_backbone`, or a backbone; None: the detector's own choice, "embedded" or "clip"
    settings  fields of the detector's config dataclass; texts are converted
    Raises UnknownNameError, InvalidArgumentError.
    """
    return detectors[name].create(backbone, seed=seed, settings=settings or {})


def load_detector(folder: Path, backbone: Any = None):
    """A fitted detector from the folder that its `save` wrote. Raises InvalidModelError.

    backbone  replaces the stored SPEC, for example when the weights file has moved; the weights must be the same
    """
    return detectors[read_name(folder, "detector", detectors.names())].load(folder, backbone=backbone)


__all__ = ["create_detector", "detectors", "load_detector"]
