"""How good an inspector is on labelled images."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomalyhub.errors import InvalidDatasetError, OutputError
from anomalyhub.metrics import confusion, detection_metrics
from anomalyhub.pipeline.inspector import Inspector, chunks
from anomalyhub.protocols import Progress, part
from anomalyhub.types import GOOD, AnomalyMap, Sample


def evaluate(
    inspector: Inspector,
    samples: Sequence[Sample],
    progress: Progress | None = None,
    product: str | None = None,
    each: Callable[[Sample, AnomalyMap], None] | None = None,
) -> dict[str, Any]:
    """All detection metrics on labelled samples, as `anomalyhub evaluate` writes them.

    Images without a label are refused; images without a mask count for the image metrics only. Memory: one bit per
    pixel for the masks; the maps go to a temporary folder. Undefined metrics are None, with the reason under "why".
    A detector with weights trained on this `product`, or on some of these images, gives a "warning". `each` is called
    with every image and its map.
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
                if each is not None:
                    each(sample, result)
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
