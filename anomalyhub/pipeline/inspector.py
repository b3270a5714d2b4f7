"""Stages composed: a detector with a threshold, applied to images."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from anomalyhub.detection import create_detector, detectors, load_detector
from anomalyhub.detection.calibration import Calibration, Method
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidModelError, OutputError
from anomalyhub.fsio import atomic_folder
from anomalyhub.metrics import confusion, cost_threshold, detection_metrics, f1_max_threshold
from anomalyhub.protocols import Detector, Progress, part
from anomalyhub.regions import threshold_regions
from anomalyhub.state import SCHEMA, read_json, write_json
from anomalyhub.types import GOOD, AnomalyMap, Inspection, Sample

ANOMALOUS = "anomalous"
_FILE = "inspector.json"
_CHUNK = 8


class Inspector:
    """A fitted detector and its operating point.

    detector     fitted
    calibration  held-out scores and the threshold; None when fitted on fewer than two images: no verdicts then, but by
                 detectors whose scores have a natural threshold, such as a probability
    product      what it inspects, for people
    chosen       the threshold that somebody has chosen where there is no calibration; None: the natural one, if any
    false_alarm_rate  at which a batch that is judged together gets its threshold, see `for_batch`

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
    ):
        self.detector, self.calibration, self.product, self.chosen = detector, calibration, product, chosen
        self.false_alarm_rate = false_alarm_rate

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
        return Inspector(self.detector, calibration, self.product, chosen, self.false_alarm_rate)

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
        made = Inspector(detector, _calibration(detector, self.false_alarm_rate), self.product)
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
        threshold = self.threshold if threshold is None else threshold
        total = len(samples) if isinstance(samples, Sequence) else None
        done = 0
        for chunk in chunks(samples, total, self.detector.transductive):
            for sample, result in zip(chunk, self.detector.predict(chunk), strict=True):
                yield sample, self.judge(sample.id, result, threshold)
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

    @classmethod
    def load(cls, folder: Path, *, backbone: Any = None) -> Inspector:
        """Read a model folder. Raises InvalidModelError, BackboneError.

        backbone  replaces the stored SPEC, for example when the weights file has moved
        """
        folder = Path(folder)
        detector = load_detector(folder, backbone)
        stored = read_json(folder / _FILE)
        try:
            calibration, operating_point = _calibration(detector, 0.01), stored["calibration"]
            if calibration is not None and operating_point is not None:
                calibration = replace(calibration, **operating_point)
            chosen = None if stored.get("threshold") is None else float(stored["threshold"])
            return cls(
                detector, calibration, stored.get("product"), chosen, float(stored.get("false_alarm_rate", 0.01))
            )
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


def evaluate(
    inspector: Inspector, samples: Sequence[Sample], progress: Progress | None = None, product: str | None = None
) -> dict[str, Any]:
    """All detection metrics on labelled samples, as `anomalyhub evaluate` writes them.

    Images without a label are refused; images without a mask count for the image metrics only. Memory: one bit per
    pixel for the masks; the maps go to a temporary folder. Undefined metrics are None, with the reason under "why".
    A detector with weights trained on this `product`, or on some of these images, gives a "warning".
    """
    if not len(samples) or None in getattr(samples, "labels", ()):  # before anything is predicted
        raise _unlabelled()
    provenance = getattr(inspector.detector, "provenance_", None)
    labels, scores, known, start = [], [], 0, time.perf_counter()
    inspector = inspector.for_batch(samples, part(progress, 0.0, 0.5))
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory(prefix="anomalyhub-") as folder:
        maps, masks = MapFiles(Path(folder)), _PackedMasks()
        for chunk in chunks(samples, len(samples), inspector.detector.transductive):
            if any(sample.label is None for sample in chunk):
                raise _unlabelled()
            start = time.perf_counter()
            results = inspector.detector.predict(chunk)
            seconds += time.perf_counter() - start
            for sample, result in zip(chunk, results, strict=True):
                labels.append(sample.label != GOOD)
                scores.append(result.image_score)
                masks.append(sample.mask)
                maps.append(result.scores)
                known += provenance is not None and provenance.knows(sample.image)
            if progress is not None:
                progress(0.5 + 0.3 * len(scores) / len(samples), f"predicted {len(scores)} of {len(samples)} images")
        if progress is not None:
            progress(0.85, "metrics")
        metrics = detection_metrics(np.array(labels), np.array(scores, np.float32), masks, maps)
    metrics |= {"n_images": len(labels), "n_anomalous": int(np.sum(labels)), "seconds_per_image": seconds / len(labels)}
    if provenance is not None and (warning := provenance.overlap(product or inspector.product, known, len(labels))):
        metrics["warning"] = warning
    if (point := inspector.operating_point) is not None:
        point["target_false_alarm_rate"] = point.pop("false_alarm_rate")  # confusion counts the real one
        metrics["operating_point"] = point | confusion(np.array(labels), np.array(scores), inspector.threshold)
    if progress is not None:
        progress(1.0, "done")
    return metrics


def _unlabelled() -> InvalidDatasetError:
    return InvalidDatasetError(
        "evaluation needs labelled images: give a data set with test/CLASS folders, or folders named by class"
    )


class MapFiles(Sequence):
    """Maps on disk, one file each, read when they are asked for."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0

    def append(self, scores: np.ndarray) -> None:
        try:
            np.save(self.folder / f"{self.count}.npy", scores)
        except OSError as error:
            raise OutputError(
                f"no room for the anomaly maps in {self.folder}: {error.strerror}; free some space, or set TMPDIR"
            ) from error
        self.count += 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.load(self.folder / f"{range(self.count)[index]}.npy", allow_pickle=False)


class _PackedMasks(Sequence):
    """Masks at one bit per pixel."""

    def __init__(self):
        self.items: list[tuple[np.ndarray, tuple[int, int]] | None] = []

    def append(self, mask: np.ndarray | None) -> None:
        self.items.append(None if mask is None else (np.packbits(mask), mask.shape))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> np.ndarray | None:
        item = self.items[index]
        if item is None:
            return None
        bits, (height, width) = item
        return np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)


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


__all__ = ["ANOMALOUS", "Inspector", "evaluate"]
