"""Which model has judged, where its threshold stands and who put it there: in figures and in sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from anomalyhub.report.html import percent


@dataclass(frozen=True, eq=False)
class ModelIdentity:
    """A fitted model, as a report names it.

    name              of its folder               product   what it inspects, for people
    detector          its registered name         backbone  SPEC, and fingerprint of the weights; None without one
    threshold         image score above which an image is anomalous
    method            how it was chosen: normals, unlabelled, natural, manual, f1_max or cost
    false_alarm_rate  that it was chosen for; None if otherwise
    held_out          (n,) scores of normal images by which thresholds are judged, empty where there are none;
                      estimated: they were not held out but estimated from unlabelled images
    resolvable        whether there are enough of them for the rate, so that no tail had to be assumed
    kinds             names that regions can get; namer: "prototype" or another head, or a discoverer; None without
    discovered        the kinds come from a discovery, not from examples
    examples          labelled images per kind
    checked           how well they were told apart: "accuracy" by leave-one-out of "n" examples; {} if not measured
    """

    name: str
    product: str | None
    detector: str
    threshold: float
    method: str
    backbone: str | None = None
    fingerprint: str | None = None
    false_alarm_rate: float | None = None
    held_out: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    estimated: bool = False
    resolvable: bool = True
    kinds: tuple[str, ...] = ()
    namer: str | None = None
    discovered: bool = False
    examples: Mapping[str, int] = field(default_factory=dict)
    checked: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, inspector: Any, name: str, checked: Mapping[str, Any] | None = None) -> ModelIdentity:
        """Of an `anomalyhub.pipeline.Inspector` with a threshold.

        name     for people, such as its folder's
        checked  "leave_one_out" of its examples.json
        """
        detector, calibration, point = inspector.detector, inspector.calibration, inspector.operating_point
        backbone = getattr(detector, "backbone", None)
        namer = inspector.classifier or inspector.discoverer
        return cls(
            name=name,
            product=inspector.product,
            detector=detector.name,
            threshold=float(inspector.threshold),
            method=point["method"],
            backbone=_without_folders(getattr(backbone, "spec", backbone)),
            fingerprint=getattr(backbone, "fingerprint", None),
            false_alarm_rate=point["false_alarm_rate"],
            held_out=np.zeros(0, np.float32) if calibration is None else np.asarray(calibration.scores),
            estimated=calibration is not None and calibration.source == "unlabelled",
            resolvable=calibration is None or calibration.resolvable,
            kinds=tuple(inspector.kinds),
            namer=None if namer is None else namer.name,
            discovered=inspector.discoverer is not None,
            examples={} if inspector.classifier is None else _examples(inspector.classifier),
            checked={key: checked.get(key) for key in ("accuracy", "n")} if checked and checked.get("n") else {},
        )

    def threshold_json(self) -> dict[str, Any]:
        """What summary.json says of the threshold."""
        return {
            "value": self.threshold,
            "method": self.method,
            "false_alarm_rate": self.false_alarm_rate,
            "held_out_images": len(self.held_out),
            "how": self.threshold_words(),
        }

    def to_json(self) -> dict[str, Any]:
        """What summary.json says of the model."""
        return {
            "name": self.name,
            "product": self.product,
            "detector": self.detector,
            "backbone": self.backbone,
            "fingerprint": self.fingerprint,
            "kinds": self.kinds,
            "named_by": self.namer,
            "examples": dict(self.examples),
            "leave_one_out": dict(self.checked),
        }

    def threshold_words(self) -> str:
        """How the threshold was chosen, in a sentence or two."""
        known = len(self.held_out)
        source = f"{known} normal images that the detector was not fitted on" if known else "no normal image"
        if self.estimated:
            source = f"what most of {known} unlabelled images score, taken to be normal"
        if self.method in ("normals", "unlabelled") and self.false_alarm_rate is not None:
            words = (
                f"Chosen so that about {percent(self.false_alarm_rate)} of normal images lie above it, from {source}."
            )
            if not self.resolvable:
                words += f" They measure rates down to {percent(1 / (known + 1))}; beyond that it is extrapolated."
            return words
        ways = {
            "manual": "Given by a person.",
            "natural": "The detector's own: its scores have a natural scale, and no image of this product set it.",
            "f1_max": "Chosen on labelled images, where it gave the best F1.",
            "cost": "Chosen on labelled images, where it cost least.",
        }
        words = ways.get(self.method, f"Chosen by {self.method}.")
        return words + (f" Of {source}, {percent(self.rate())} lie above it." if known else "")

    def rate(self) -> float:
        """Share of the held-out normal images above the threshold; NaN without any."""
        return float(np.mean(self.held_out > self.threshold)) if len(self.held_out) else math.nan


def _without_folders(spec: Any) -> str | None:
    """resnet18@/home/me/weights.safetensors says too much in a report that is passed on."""
    if spec is None:
        return None
    name, at, file = str(spec).partition("@")
    return name + at + PurePath(file).name


def _examples(classifier: Any) -> dict[str, int]:
    """Labelled images per class."""
    pairs = set(zip(classifier.example_images_, classifier.example_labels_.tolist(), strict=True))
    counts = Counter(label for _, label in pairs)
    return {name: counts[index] for index, name in enumerate(classifier.classes_)}
