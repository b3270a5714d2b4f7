"""anomalib's models as a detector: one that it exported, or one of its classes that it trains here."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset

from anomalyhub.detection.adapter import Adapter, in_frame, score_table
from anomalyhub.detection.anomalib_exported import ExportedModel
from anomalyhub.detection.anomalib_trained import TrainedModel
from anomalyhub.detection.base import check_range, report
from anomalyhub.errors import InvalidArgumentError, InvalidModelError
from anomalyhub.protocols import Progress, part
from anomalyhub.registry import register_detector
from anomalyhub.types import AnomalyMap, Sample

_TRAINED = 0.9  # where the progress bar stands when the training is over
_FEWEST = 4  # normal images, so that two can be held out


@dataclass(frozen=True)
class AnomalibConfig:
    """Either `exported` or `model`; the rest concerns the training of `model`."""

    exported: str | None = None  # .xml (its .bin beside it) or .onnx of `anomalib export`; becomes absolute
    model: str | None = None  # one of anomalib's classes, such as Padim
    arguments: str = "{}"  # of that class, as a JSON object: {"backbone": "resnet18"}
    epochs: int = 100  # anomalib's own number for STFPM; classes that ask for another, such as PaDiM for 1, get that
    batch_size: int = 32  # anomalib's default
    hold_out: float = 0.2  # share of the normal images that is kept out of the training, for the threshold; 0: none

    def __post_init__(self):
        if self.exported and self.model:
            raise InvalidArgumentError(
                f"settings exported={self.exported} and model={self.model} exclude each other: give one of them"
            )
        if self.exported:
            object.__setattr__(self, "exported", os.path.abspath(os.path.expanduser(self.exported)))
        check_range("epochs", self.epochs, 1, 100_000)
        check_range("batch_size", self.batch_size, 1, 4096)
        check_range("hold_out", self.hold_out, 0.0, 0.5)
        self.keywords()

    def keywords(self) -> dict[str, Any]:
        """`arguments`, parsed."""
        try:
            values = json.loads(self.arguments)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise InvalidArgumentError(
                f"setting arguments={self.arguments} is not a JSON object: write for example "
                'arguments={"backbone": "resnet18"}'
            )
        return values


@register_detector
class AnomalibDetector(Adapter):
    """A model of anomalib (the extra `anomalyhub[anomalib]`), with AnomalyHub's thresholds, regions and reports.

    backbone  is ignored
    config    see AnomalibConfig
    seed      fixes the training and which images are held out

    An exported model is copied into the saved detector and gives the scores that anomalib gives: from 0 to 1 and cut
    off there where it was validated on labelled images, raw otherwise. A model trained here gives raw scores. Pickled
    checkpoints are refused; whoever has a module in Python wraps it with `from_model`.

    Fitted: model_, held_out_scores_ and held_out_peaks_ (n,) float32, natural_thresholds_ (image score, map value) or
    None. Held out are normal images that were kept out of the training. Of an exported model they are all normal images
    that are given, as what it was trained on is unknown: where it was trained on them, a threshold from them lets more
    false alarms through than it says.
    """

    name = "anomalib"
    title = "anomalib model"
    config_class = AnomalibConfig
    needs = "nothing"
    transductive = False

    def __init__(self, backbone: Any = "embedded", config: AnomalibConfig | None = None, seed: int = 0):
        super().__init__(backbone, config, seed)
        if self.config.model:
            self.needs = "normals"

    @classmethod
    def from_model(cls, module: Any, held_out: Iterable[Sample] = (), seed: int = 0) -> AnomalibDetector:
        """A fitted detector around a trained `AnomalibModule`, with its raw scores.

        held_out  normal images that it was not trained on, for the threshold; none: no threshold
        Raises InvalidArgumentError for a module whose pre-processor does not see the whole image.
        """
        model = TrainedModel.wrap(module)
        self = cls(
            config=AnomalibConfig(model=type(module).__name__, arguments=json.dumps(model.arguments or {})), seed=seed
        )
        self._set(model, _predicted(model, held_out))
        return self

    def fit(self, samples: Iterable[Sample], progress: Progress | None = None) -> AnomalibDetector:
        """Read the exported model and score the normal images, if any; or train the class on them.

        Raises InvalidArgumentError: no model named, anomalib or OpenVINO not installed, no normal images to train on,
        or a training that fails. Raises InvalidModelError for an export that is damaged or gives no anomaly map.
        """
        if self.config.exported:
            report(progress, 0.0, "reading the exported model")
            model: ExportedModel | TrainedModel = ExportedModel.read(Path(self.config.exported))
            held_out: Iterable[Sample] = samples
        elif self.config.model:
            model, held_out = self._train(list(samples) if isinstance(samples, Iterator) else samples, progress)
        else:
            raise InvalidArgumentError(
                "neither setting exported nor setting model is given: "
                "write --set exported=model.xml, or --set model=Padim to train one of anomalib's classes"
            )
        report(progress, _TRAINED, "scores of normal images for the threshold")
        self._set(model, _predicted(model, held_out))
        report(progress, 1.0, f"threshold from {len(self.held_out_scores_)} normal images")
        return self

    def predict(self, samples: Iterable[Sample]) -> list[AnomalyMap]:
        """One map per sample in its own frame (bilinear), one image at a time. Raises InvalidModelError for NaN."""
        self._fitted()
        return _predicted(self.model_, samples)

    def _train(self, samples: Sequence[Sample], progress: Progress | None) -> tuple[TrainedModel, Iterable[Sample]]:
        count = len(samples)
        if not count:
            raise InvalidArgumentError(
                f"anomalib's {self.config.model} needs normal images and got none: give at least 2"
            )
        n_held = max(2, round(self.config.hold_out * count)) if self.config.hold_out and count >= _FEWEST else 0
        order = np.random.default_rng(self.seed).permutation(count)
        held, kept = np.sort(order[:n_held]).tolist(), np.sort(order[n_held:]).tolist()
        report(progress, 0.0, f"training {self.config.model} on {len(kept)} images")
        model = TrainedModel.train(
            self.config.model,
            self.config.keywords(),
            Subset(samples, kept),
            epochs=self.config.epochs,
            batch_size=self.config.batch_size,
            seed=self.seed,
            progress=part(progress, 0.0, _TRAINED),
        )
        return model, (samples[index] for index in held)

    def _set(self, model: ExportedModel | TrainedModel, held_out: list[AnomalyMap]) -> None:
        self.model_ = model
        self.held_out_scores_, self.held_out_peaks_ = score_table(held_out)
        self.natural_thresholds_ = model.thresholds if isinstance(model, ExportedModel) else None

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        config, arrays = self.model_.state()
        source = "exported" if isinstance(self.model_, ExportedModel) else "trained"
        scores = {"scores": self.held_out_scores_, "peaks": self.held_out_peaks_}
        return {"source": source, "anomalib": config}, {**arrays, **scores}

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        kind = {"exported": ExportedModel, "trained": TrainedModel}[config["source"]]
        self._set(kind.restore(config["anomalib"], arrays), [])
        self.held_out_scores_, self.held_out_peaks_ = arrays["scores"], arrays["peaks"]


def _predicted(model: ExportedModel | TrainedModel, samples: Iterable[Sample]) -> list[AnomalyMap]:
    results = []
    for sample in samples:
        scores, score = model(sample.image)
        scores = in_frame(scores, sample.image.shape[:2])
        if not (np.isfinite(scores).all() and math.isfinite(score)):
            raise InvalidModelError(
                f"this anomalib model gives {sample.id} scores that are NaN or infinite: train it on more images"
            )
        results.append(AnomalyMap(scores, score))
    return results
