"""Classifiers pretrained on synthetic defects of a product."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress, part

if TYPE_CHECKING:
    from anomalyhub.classification import BaseClassifier

_CACHE = "evidence"


@dataclass(frozen=True)
class PretrainConfig:
    """What a head is pretrained on.

    synthetic        a folder of `synthesize`
    model            a detector's folder, whose residuals and regions the head sees
    head             a registered classifier; backbone: a SPEC for heads that look at pictures; settings: its config
    against          what residuals are taken against: "bank", what the test sees, or the sample's own "clean" image, as
                     published code of liu2024 does
    masks            "detector": regions as the test sees them; "painted": the masks that the defects were painted by
    binarizer        how maps become regions: mebin, otsu or fixed; binarizer_settings: its settings
    detector_backbone  replaces the SPEC stored in `model`, where its weights file has moved
    """

    synthetic: str
    model: str
    head: str = "prototype"
    backbone: str | None = None
    settings: dict = field(default_factory=dict)
    against: Literal["bank", "clean"] = "bank"
    masks: Literal["detector", "painted"] = "detector"
    binarizer: str = "mebin"
    binarizer_settings: dict = field(default_factory=dict)
    detector_backbone: str | None = None


def pretrain(
    config: PretrainConfig, *, seed: int = 0, progress: Progress | None = None, checkpoints: Path | None = None
) -> BaseClassifier:
    """A pretrained classifier.

    checkpoints  a folder for the features, which are computed once, and for what an interrupted training goes on from
    Raises InvalidDatasetError, InvalidModelError, InvalidArgumentError, OutputError.
    """
    from anomalyhub.classification import create_classifier
    from anomalyhub.pipeline.evidence import evidence_of
    from anomalyhub.pipeline.inspector import Inspector
    from anomalyhub.regions import binarizers
    from anomalyhub.synthesis import read_synthetic
    from anomalyhub.types import Sample

    tick = part(progress, 0.0, 1.0)
    tick(0.0, "loading")
    synthetic = read_synthetic(Path(config.synthetic))
    inspector = Inspector.load(Path(config.model), backbone=config.detector_backbone)
    classifier = create_classifier(config.head, config.backbone, seed=seed, settings=config.settings)
    if not classifier.pretrains:
        raise InvalidArgumentError(f"the head {config.head} learns nothing from synthetic defects: choose another head")
    if config.against == "clean" and not hasattr(inspector.detector, "examine"):
        raise InvalidArgumentError(f"{config.model} has no residuals to take against clean images: use --against bank")
    drawn = [one for one in synthetic]
    samples = [Sample(ref.id, one.image, one.label, one.mask) for ref, one in zip(synthetic.refs, drawn, strict=True)]
    with _cache_in(checkpoints) as cache:
        evidence = evidence_of(
            inspector,
            samples,
            binarizer=binarizers[config.binarizer](**config.binarizer_settings),
            masks="ground-truth" if config.masks == "painted" else "detector",
            labels=[sample.label for sample in samples],
            clean=[one.clean for one in drawn] if config.against == "clean" else None,
            cache=cache,
            progress=part(progress, 0.0, 0.4),
        )
        classifier.pretrain(evidence, part(progress, 0.4, 1.0), checkpoints)
    classifier.pretraining_ |= {
        "features": signature(inspector.detector),
        "product": synthetic.product,
        "against": config.against,
        "masks": config.masks,
    }
    return classifier


@contextmanager
def _cache_in(checkpoints: Path | None) -> Iterator[Path]:
    """Where features are kept and mapped into memory from: with the checkpoints, or for as long as it takes."""
    if checkpoints is not None:
        yield checkpoints / _CACHE
        return
    with tempfile.TemporaryDirectory(prefix="anomalyhub-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / _CACHE


def pretrain_to(
    folder: Path | None,
    config: PretrainConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> BaseClassifier:
    """`pretrain`, and write its result into an existing folder; None in all but the first of several processes."""
    made = pretrain(config, seed=seed, progress=progress, checkpoints=checkpoints)
    if folder is not None:
        made.save(folder)
    return made


def signature(detector: Any) -> dict[str, Any]:
    """What must agree between the detectors of a pretraining and of its use, as JSON values."""
    backbone = getattr(detector, "backbone", None)
    config = getattr(detector, "config", None)
    names = ("layers", "resize", "crop", "aggregation", "width", "neighbourhood")
    kept = {name: getattr(config, name, None) for name in names}
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
    return {"detector": detector.name, "weights": getattr(backbone, "fingerprint", str(backbone)), **kept}
