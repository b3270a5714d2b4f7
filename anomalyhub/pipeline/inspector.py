"""Stages composed: a detector with a threshold, and what names the regions it finds, applied to images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyhub.detection import create_detector, detectors, load_detector
from anomalyhub.detection.calibration import Calibration, Method
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidModelError
from anomalyhub.fsio import atomic_folder
from anomalyhub.hub.pretrained import Pretrained
from anomalyhub.metrics import confusion, cost_threshold, f1_max_threshold
from anomalyhub.pipeline.naming import Explanation, Naming
from anomalyhub.protocols import Detector, Progress
from anomalyhub.regions import Binarizer, threshold_regions
from anomalyhub.state import SCHEMA, read_json, write_json
from anomalyhub.types import ANOMALOUS, GOOD, AnomalyMap, Inspection, Sample

if TYPE_CHECKING:
    from anomalyhub.classification import BaseClassifier
    from anomalyhub.discovery.base import BaseDiscoverer

_FILE = "inspector.json"
_CHUNK = 8


class Inspector(Pretrained):
    """A fitted detector and its operating point.

    detector     fitted
    calibration  held-out scores and the threshold; None when fitted on fewer than two images: no verdicts then, but by
                 detectors whose scores have a natural threshold, such as a probability
    product      what it inspects, for people
    chosen       the threshold that somebody has chosen where there is no calibration; None: the natural one, if any
    false_alarm_rate  at which a batch that is judged together gets its threshold, see `for_batch`
    naming       what gives regions their kinds; None: they are "anomalous"

    >>> inspector = Inspector.fit("patchcore", dataset.train)            # doctest: +SKIP
    >>> for result in inspector.inspect(dataset.test): print(result.id, result.score, result.is_anomalous)
    """

    def __init__(
        self,
        detector: Detector,
        calibration: Calibration | None = None,
        product: str | None = None,
        chosen: float | None = None,
        false_alarm_rate: float = 0.01,
        naming: Naming | None = None,
    ):
        self.detector, self.calibration, self.product, self.chosen = detector, calibration, product, chosen
        self.false_alarm_rate, self.naming = false_alarm_rate, naming

    @classmethod
    def fit(
        cls,
        detector: str | Detector,
        samples: Sequence[Sample],
        *,
        backbone: Any = None,
        false_alarm_rate: float = 0.01,
        product: str | None = None,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Inspector:
        """Fit a detector (or a name for `create_detector`) and set its threshold from the same images alone.

        samples           normal images; detectors that need none take none, or a few, or (MuSc) unlabelled ones
        false_alarm_rate  share of normal images that may be called anomalous, in (0, 1)
        product           where the detector has a setting `product`, that is this one unless it is given
        Raises InvalidDatasetError when there are no images and the detector needs some.
        """
        if not 0.0 < false_alarm_rate < 1.0:
            raise InvalidArgumentError(
                f"the false-alarm rate must lie between 0 and 1, got {false_alarm_rate}: 0.01 is 1 %"
            )
        if isinstance(detector, str):
            settings = with_product(detector, settings or {}, product)
            detector = create_detector(detector, backbone, seed=seed, settings=settings)
        if len(samples) == 0 and detector.needs == "normals":
            raise InvalidDatasetError(
                "there are no normal images to fit on: put them into train/good, or into a folder named good"
            )
        detector.fit(samples, progress)
        return cls(detector, _calibration(detector, false_alarm_rate), product, None, false_alarm_rate)

    @property
    def threshold(self) -> float:
        """The image score above which an image is anomalous. Raises InvalidArgumentError when there is none."""
        point = self.operating_point
        if point is None and self._judges_batches:
            raise InvalidArgumentError(
                "this model judges images by each other and gets its threshold from them: "
                "take for_batch(images) of it, or fit on a reference of 2 images or more"
            )
        if point is None:
            raise InvalidArgumentError(
                "this model has no threshold, as no normal image could be held out when it was fitted: "
                "give one (--threshold), or fit on at least 2 normal images"
            )
        return point["threshold"]

    @property
    def operating_point(self) -> dict[str, Any] | None:
        """The threshold with the false_alarm_rate and method that it was chosen by; None where there is none."""
        if self.calibration is not None:
            return self.calibration.to_json()
        natural = None if self._natural is None else self._natural[0]
        threshold, method = (natural, "natural") if self.chosen is None else (self.chosen, "manual")
        return None if threshold is None else {"threshold": threshold, "false_alarm_rate": None, "method": method}

    def with_threshold(self, threshold: float, method: Method = "manual") -> Inspector:
        """This inspector with a threshold that was chosen otherwise."""
        calibration = self.calibration and self.calibration.at_threshold(threshold, method)
        chosen = None if calibration else float(threshold)
        return Inspector(self.detector, calibration, self.product, chosen, self.false_alarm_rate, self.naming)

    def with_classifier(
        self, classifier: BaseClassifier, binarizer: Binarizer, references: Sequence[Sample] = ()
    ) -> Inspector:
        """This inspector with a fitted classifier and binarizer; references are normal images for explanations."""
        return self._named(Naming(binarizer, classifier, references=tuple(references)))

    def with_discoverer(
        self, discoverer: BaseDiscoverer, binarizer: Binarizer, references: Sequence[Sample] = ()
    ) -> Inspector:
        """This inspector with the kinds of a discovery, whose model folder has both."""
        return self._named(Naming(binarizer, None, discoverer, tuple(references)))

    def _named(self, naming: Naming | None) -> Inspector:
        return Inspector(self.detector, self.calibration, self.product, self.chosen, self.false_alarm_rate, naming)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names that regions can get, besides "unknown"; empty where nothing names them."""
        return () if self.naming is None else self.naming.kinds

    @property
    def classifier(self) -> BaseClassifier | None:
        return None if self.naming is None else self.naming.classifier

    @property
    def discoverer(self) -> BaseDiscoverer | None:
        return None if self.naming is None else self.naming.discoverer

    @property
    def binarizer(self) -> Binarizer | None:
        return None if self.naming is None else self.naming.binarizer

    @property
    def _natural(self) -> tuple[float, float] | None:
        """(image score, map value) above which a detector's own scale says "anomalous"."""
        return getattr(self.detector, "natural_thresholds_", None)

    def for_batch(self, samples: Sequence[Sample], progress: Progress | None = None) -> Inspector:
        """This inspector with a threshold for images that can only be judged together; itself for any other.

        A detector that scores unlabelled images by each other, and was fitted on none, takes these as its reference.
        """
        if not self._judges_batches:
            return self
        former = self.detector
        detector = type(former)(former.backbone, former.config, former.seed).fit(samples, progress)
        calibration = _calibration(detector, self.false_alarm_rate)
        made = Inspector(detector, calibration, self.product, naming=self.naming)
        return made if self.chosen is None else made.with_threshold(self.chosen)

    @property
    def _judges_batches(self) -> bool:
        return self.detector.transductive and getattr(self.detector, "unlabelled_", False)

    def map_threshold(self, threshold: float | None = None) -> float:
        """The map value above which a pixel is anomalous, for an image threshold (default: the one in force)."""
        threshold = self.threshold if threshold is None else threshold
        slope = getattr(self.detector, "map_slope_", None)
        if self.calibration is not None:
            return self.calibration.map_threshold(threshold, slope)
        if self._natural is None:
            return threshold
        score, value = self._natural
        return threshold * value / score if slope is None else value + slope * (threshold - score)

    def inspect(
        self, samples: Iterable[Sample], *, threshold: float | None = None, progress: Progress | None = None
    ) -> Iterator[Inspection]:
        """One Inspection per sample, in order, computed as they are asked for."""
        return (result for _, result in self.inspect_with_samples(samples, threshold=threshold, progress=progress))

    def inspect_with_samples(
        self, samples: Iterable[Sample], *, threshold: float | None = None, progress: Progress | None = None
    ) -> Iterator[tuple[Sample, Inspection]]:
        """`inspect`, with the decoded sample beside each result."""
        return ((sample, result) for sample, result, _ in self._chain(samples, threshold, progress, False))

    def explain(
        self, samples: Iterable[Sample], *, threshold: float | None = None, progress: Progress | None = None
    ) -> Iterator[tuple[Sample, Inspection, tuple[Explanation, ...]]]:
        """`inspect_with_samples`, with why each region has its name; without a naming there are no explanations."""
        return self._chain(samples, threshold, progress, True)

    def _chain(
        self, samples: Iterable[Sample], threshold: float | None, progress: Progress | None, explain: bool
    ) -> Iterator[tuple[Sample, Inspection, tuple[Explanation, ...]]]:
        threshold = self.threshold if threshold is None else threshold
        total = len(samples) if isinstance(samples, Sequence) else None
        done = 0
        for chunk in chunks(samples, total, self.detector.transductive):
            if self.naming is None:
                maps = self.detector.predict(chunk)
                results = [self.judge(sample.id, one, threshold) for sample, one in zip(chunk, maps, strict=True)]
                yield from zip(chunk, results, itertools.repeat(()))
            else:
                results, explanations = self.naming.inspections(self, chunk, threshold, explain)
                yield from zip(chunk, results, explanations, strict=True)
            done += len(chunk)
            if progress is not None:
                progress(done / total if total else 0.5, f"{done}" + (f" of {total} images" if total else " images"))

    def judge(self, sample_id: str, result: AnomalyMap, threshold: float | None = None) -> Inspection:
        """The verdict on a map that is there already: moving the threshold costs no prediction.

        An anomalous image has at least one region: where its smoothed map stays below the map threshold, the
        surroundings of its peak.
        """
        threshold = self.threshold if threshold is None else threshold
        is_anomalous = result.image_score > threshold
        regions = ()
        if is_anomalous:
            level = min(self.map_threshold(threshold), 0.9 * float(result.scores.max()))
            regions = tuple(threshold_regions(result, level)[1])
        return Inspection(
            id=sample_id,
            score=result.image_score,
            p_value=self.calibration.p_value(result.image_score) if self.calibration else None,
            is_anomalous=is_anomalous,
            map=result,
            regions=regions,
            label=ANOMALOUS if is_anomalous else GOOD,
        )

    def save(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write a model folder, complete or not at all. Raises OutputError."""
        with atomic_folder(folder, overwrite) as staged:
            self.write(staged)

    def write(self, folder: Path) -> None:
        """Write into an existing folder."""
        self.detector.save(folder)
        calibration = self.calibration.to_json() if self.calibration else None
        stored = {"schema": SCHEMA, "product": self.product, "calibration": calibration}
        if calibration is None:
            stored |= {"threshold": self.chosen, "false_alarm_rate": self.false_alarm_rate}
        write_json(Path(folder) / _FILE, stored)
        if self.naming is not None:
            self.naming.save(Path(folder))

    @classmethod
    def load(cls, folder: Path, *, backbone: Any = None, crop_backbone: Any = None) -> Inspector:
        """Read a model folder. Raises InvalidModelError, BackboneError.

        backbone, crop_backbone  replace the stored SPECs of the detector, and of what names regions, for example when
                                 a weights file has moved
        """
        folder = Path(folder)
        detector = load_detector(folder, backbone)
        stored = read_json(folder / _FILE)
        naming = Naming.load(folder, crop_backbone)
        try:
            calibration, operating_point = _calibration(detector, 0.01), stored["calibration"]
            if calibration is not None and operating_point is not None:
                calibration = replace(calibration, **operating_point)
            chosen = None if stored.get("threshold") is None else float(stored["threshold"])
            rate = float(stored.get("false_alarm_rate", 0.01))
            return cls(detector, calibration, stored.get("product"), chosen, rate, naming)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(f"{folder / _FILE} is damaged ({error}): copy the model folder again") from error

    def choose_threshold(
        self, labels: Sequence[bool], scores: Sequence[float], *, costs: tuple[float, float] | None = None
    ) -> tuple[Inspector, dict[str, Any]]:
        """This inspector at the operating point that is best on labelled images, and what it achieves there.

        costs  (cost of an escape, cost of a false alarm) minimises the cost; None maximises F1
        """
        if costs is None:
            threshold, value = f1_max_threshold(labels, scores)
            method, name = "f1_max", "f1"
        else:
            threshold, value = cost_threshold(labels, scores, *costs)
            method, name = "cost", "cost"
        report = {"threshold": threshold, "method": method, name: value, **confusion(labels, scores, threshold)}
        return self.with_threshold(threshold, method), report


def chunks(samples: Iterable[Sample], total: int | None, whole: bool) -> Iterator[list[Sample]]:
    """Lists of a few samples; a transductive detector needs all of them at once."""
    iterator = iter(samples)
    while chunk := list(itertools.islice(iterator, max(total or 2**31, 1) if whole else _CHUNK)):
        yield chunk


def _calibration(detector: Detector, false_alarm_rate: float) -> Calibration | None:
    scores = getattr(detector, "held_out_scores_", None)
    if scores is None or len(scores) < 2:
        return None
    unlabelled = getattr(detector, "unlabelled_", False)
    make = Calibration.from_unlabelled if unlabelled else Calibration.from_normals
    return make(scores, detector.held_out_peaks_, false_alarm_rate)


def is_prompted(detector: str) -> bool:
    """Whether a detector has a setting `product`, which its prompts speak of."""
    config = getattr(detectors[detector], "config_class", None)
    return config is not None and "product" in {field.name for field in fields(config)}


def with_product(detector: str, settings: Mapping[str, Any], product: str | None) -> dict[str, Any]:
    """Settings with the product's name where the detector asks for one and none is given: its prompts name it."""
    named = is_prompted(detector)
    words = " ".join((product or "").replace("_", " ").split())
    return {**({"product": words} if named and words else {}), **settings}


__all__ = ["ANOMALOUS", "Inspector"]
