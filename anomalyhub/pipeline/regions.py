"""Where the defects of a data set are: from a detector, from maps that any program made, or from its own masks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomalyhub.data.maps import MapFolder
from anomalyhub.errors import InvalidDatasetError
from anomalyhub.protocols import Progress, part
from anomalyhub.regions import Binarizer, ImageRegions
from anomalyhub.report.results import united_mask
from anomalyhub.types import GOOD, AnomalyMap, Inspection, Sample, SubImage


def regions_of_masks(samples: Sequence[Sample], progress: Progress) -> list[ImageRegions]:
    """Ground-truth masks as regions. Raises InvalidDatasetError for an image that may be defective and has none."""
    images = []
    for index, sample in enumerate(samples):
        mask = sample.mask
        if mask is None and sample.label != GOOD:
            raise InvalidDatasetError(f"{sample.path or sample.id} has no ground-truth mask: give --model or --maps")
        images.append(ImageRegions.of(sample.image, np.zeros(sample.image.shape[:2], bool) if mask is None else mask))
        progress((index + 1) / len(samples), f"{index + 1} of {len(samples)} masks")
    return images


def regions_of_maps(
    samples: Sequence[Sample],
    maps: Sequence[np.ndarray],
    binarizer: Binarizer,
    progress: Progress,
    judge: Callable[[int, np.ndarray], Inspection] | None = None,
) -> list[ImageRegions]:
    """Maps, one per sample and of any size, as regions by a fitted binarizer.

    judge  a detector's verdict on the index-th map: a normal image has no region, and an anomalous one in which the
           binarizer finds none has those above the detector's threshold
    """
    images = []
    for index, sample in enumerate(samples):
        scores = maps[index]
        found = binarizer.binarize(scores)
        mask, n_regions = found.mask, found.n_regions
        if judge is not None:
            verdict = judge(index, scores)
            if not verdict.is_anomalous or not n_regions:
                mask, n_regions = united_mask(verdict), None
        images.append(ImageRegions.of(sample.image, mask, n_regions, binarizer.normalise(scores)))
        progress((index + 1) / len(samples), f"regions of {index + 1} of {len(samples)} images")
    return images


def regions_of_folder(samples: Any, folder: str | Path, binarizer: Binarizer, progress: Progress) -> list[ImageRegions]:
    """Maps of a folder as regions; an unfitted binarizer is fitted on them. Raises as `MapFolder.for_images` does."""
    maps = MapFolder.open(folder).for_images(samples.ids)
    _fit(binarizer, maps, part(progress, 0.0, 0.3))
    return regions_of_maps(samples, maps, binarizer, part(progress, 0.3, 1.0))


def regions_of_detector(
    samples: Sequence[Sample],
    model: str | Path,
    backbone: Any,
    binarizer: Binarizer,
    progress: Progress,
    false_alarm_rate: float,
) -> list[ImageRegions]:
    """The maps of a fitted detector as regions; they wait in a temporary folder until all their scores are known.

    false_alarm_rate  of the threshold by which the detector decides which images have a region, see `regions_of_maps`;
                      at 1, and where no normal image was held out, the binarizer alone decides: images to be grouped
                      are mostly defective, and a threshold from unlabelled ones takes most of them for normal
    """
    from anomalyhub.pipeline.evaluation import MapFiles
    from anomalyhub.pipeline.inspector import Inspector, chunks

    progress(0.0, "loading the detector")
    inspector = Inspector.load(Path(model), backbone=backbone).for_batch(samples, part(progress, 0.0, 0.3))
    gate = inspector.calibration if false_alarm_rate < 1 else None
    gate = None if gate is not None and gate.source == "unlabelled" else gate
    threshold = None if gate is None else gate.at_rate(false_alarm_rate).threshold
    image_scores: list[float] = []

    def judge(index: int, scores: np.ndarray) -> Inspection:
        return inspector.judge(str(index), AnomalyMap(scores, image_scores[index]), threshold)

    with tempfile.TemporaryDirectory(prefix="anomalyhub-") as folder:
        maps = MapFiles(Path(folder))
        for chunk in chunks(samples, len(samples), inspector.detector.transductive):
            for result in inspector.detector.predict(chunk):
                maps.append(result.scores)
                image_scores.append(result.image_score)
            progress(0.3 + 0.4 * len(maps) / len(samples), f"anomaly maps of {len(maps)} of {len(samples)} images")
        _fit(binarizer, maps, part(progress, 0.7, 0.8))
        judged = None if threshold is None else judge
        return regions_of_maps(samples, maps, binarizer, part(progress, 0.8, 1.0), judged)


def regions_of_defects(samples: Iterable[Sample], progress: Progress) -> tuple[list[SubImage], list[str]]:
    """Crops of a labelled data set's defects and their classes; a defect without a mask is all of its image."""
    crops, labels = [], []
    for sample in samples:
        if sample.label not in (None, GOOD):
            mask = np.ones(sample.image.shape[:2], bool) if sample.mask is None else sample.mask
            made = ImageRegions.of(sample.image, mask).sub_images
            crops += made
            labels += [sample.label] * len(made)
            progress(0.5, f"{len(crops)} regions of known defects")
    return crops, labels


def _fit(binarizer: Binarizer, maps: Sequence[np.ndarray], progress: Progress) -> None:
    if not hasattr(binarizer, "range_"):
        binarizer.fit(maps, progress)
