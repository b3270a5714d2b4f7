"""From images to what a classifier is shown of them, with a cache on disk: a detector looks at each image once."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anomalyhub.classification.evidence import Evidence
from anomalyhub.detection.base import batches
from anomalyhub.detection.provenance import digest
from anomalyhub.errors import InvalidDatasetError, InvalidModelError, OutputError
from anomalyhub.fsio import atomic_folder
from anomalyhub.protocols import Detector, Progress, part
from anomalyhub.regions import Binarizer, ImageRegions, MEBin
from anomalyhub.state import read_json, write_json
from anomalyhub.types import AnomalyMap, Sample

if TYPE_CHECKING:
    from anomalyhub.pipeline.inspector import Inspector

#: Where the regions of examples come from: the detector, or the samples' own masks, as an oracle.
Masks = Literal["detector", "ground-truth"]
#: A map, and the patches that led to it: features and residuals (D, h, w) float16, None where the detector has none.
Examined = tuple[AnomalyMap, "np.ndarray | None", "np.ndarray | None"]
_INDEX, _MAPS, _PATCHES = "index.json", "maps.npy", ("features.npy", "residuals.npy")
_BATCH = 8


def examined(
    detector: Detector, samples: Iterable[Sample], clean: Iterable[np.ndarray] | None = None
) -> Iterator[Examined]:
    """What a detector sees of each sample, in one pass; `clean` as in PatchCore.examine.

    Patches are rounded to float16, so that a cache gives what a fresh look gives.
    """
    if hasattr(detector, "examine"):
        for result, *levels in detector.examine(samples, clean):
            yield result, *(level.maps[0].astype(np.float16) for level in levels)
    elif detector.transductive:
        yield from ((result, None, None) for result in detector.predict(list(samples)))
    else:
        for batch in batches(samples, _BATCH):
            yield from ((result, None, None) for result in detector.predict(batch))


def fit_binarizer(inspector: Inspector, binarizer: Binarizer, maps: Iterable[AnomalyMap]) -> Binarizer:
    """A binarizer fitted on maps of defective images, and on what is known of normal ones: their highest scores."""
    peaks = getattr(inspector.detector, "held_out_peaks_", ())
    return binarizer.fit(itertools.chain(maps, (np.full((1, 1), peak, np.float32) for peak in peaks)))


def evidence_of(
    inspector: Inspector,
    samples: Sequence[Sample],
    *,
    binarizer: Binarizer | None = None,
    masks: Masks | Sequence[np.ndarray | None] = "detector",
    labels: Sequence[str | None] | None = None,
    clean: Iterable[np.ndarray] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Evidence]:
    """Samples that are taken to be defective, each with at least one region.

    binarizer  one that is not fitted is fitted here, on these samples' own maps; see `fit_binarizer`. None is MEBin
    masks      "ground-truth" takes the samples' own masks, an oracle, and the detector's regions where one is empty; a
               sequence has one (H, W) bool mask per sample that a person or a board has given, or None where the
               detector's regions serve
    labels     one per sample, from a person; the samples' own labels are not read
    clean      per sample the image that it was made from: residuals against that, see `PatchCore.examine`
    cache      a folder that keeps maps, features and residuals, memory-mapped; one of other images or another detector
               is replaced
    Raises InvalidDatasetError for a mask that is missing or empty, OutputError for a cache that cannot be written.
    """
    seen = list(samples)
    found = _cached(inspector, seen, clean, cache, part(progress, 0.0, 0.8))
    binarizer = MEBin() if binarizer is None else binarizer
    if not hasattr(binarizer, "range_"):
        fit_binarizer(inspector, binarizer, (result for result, _, _ in found))
    made = []
    for index, (sample, one) in enumerate(zip(seen, found, strict=True)):
        given = None
        if masks == "ground-truth":
            given = sample.mask
            if given is None:
                raise InvalidDatasetError(f"{sample.path or sample.id} has no mask: let the detector find the regions")
            given = given if given.any() else None  # some defects of public data sets have an empty one
        elif masks != "detector":
            given = masks[index]
        mask = _given_mask(sample, given)
        label = None if labels is None else labels[index]
        made.append(to_evidence(inspector, sample, one, binarizer, mask=mask, label=label))
        part(progress, 0.8, 1.0)((index + 1) / len(seen), f"regions of {index + 1} of {len(seen)} images")
    return made


def to_evidence(
    inspector: Inspector,
    sample: Sample,
    found: Examined,
    binarizer: Binarizer | None,
    *,
    mask: np.ndarray | None = None,
    label: str | None = None,
) -> Evidence:
    """One defective image; its regions are those of `mask`, else the binarizer's, else its strongest spot."""
    result, features, residuals = found
    located, n_regions = True, None
    if mask is None:
        mask, n_regions, located = defect_mask(inspector, result, binarizer)
    scores = None if binarizer is None else binarizer.normalise(result)
    window = getattr(inspector.detector, "window", lambda shape: (0.0, 0.0, 1.0, 1.0))(sample.image.shape)
    regions = ImageRegions.of(sample.image, mask, n_regions, scores)
    return Evidence(sample.id, sample.image, regions, features, residuals, window, label, located)


def defect_mask(inspector: Inspector, result: AnomalyMap, binarizer: Binarizer) -> tuple[np.ndarray, int | None, bool]:
    """(H, W) bool, never empty; the number of regions that the binarizer saw; whether anything abnormal is there.

    Where the binarizer finds no region: what lies above the detector's threshold, or else around the highest score.
    """
    found = binarizer.binarize(result)
    if found.n_regions and found.mask.any():
        return found.mask, found.n_regions, True
    level, located = 0.9 * float(result.scores.max()), False
    if inspector.operating_point is not None:
        level = min(inspector.map_threshold(), level)
        located = result.image_score > inspector.threshold
    mask = result.scores > level
    return (mask if mask.any() else np.ones_like(mask)), None, located


def identity(detector: Detector) -> str:
    """A digest of all that a fitted detector is saved as: who has the same sees the same."""
    hashed = hashlib.blake2b(digest_size=16)
    with tempfile.TemporaryDirectory(prefix="anomalyhub-") as folder:
        detector.save(Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                hashed.update(path.name.encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


def _given_mask(sample: Sample, mask: np.ndarray | None) -> np.ndarray | None:
    """A mask that somebody gave, checked."""
    if mask is None:
        return None
    where = sample.path or sample.id
    if mask.shape != sample.image.shape[:2]:
        raise InvalidDatasetError(
            f"the mask of {where} has {mask.shape[1]} x {mask.shape[0]} pixels and the image "
            f"{sample.image.shape[1]} x {sample.image.shape[0]}: give one of the image's size"
        )
    if not mask.any():
        raise InvalidDatasetError(f"the mask of {where} is empty: mark its defect, or leave the example out")
    return mask


def _cached(
    inspector: Inspector,
    samples: Sequence[Sample],
    clean: Iterable[np.ndarray] | None,
    cache: Path | None,
    progress: Progress,
) -> Sequence[Examined]:
    clean = None if clean is None else list(clean)
    fresh = _told(examined(inspector.detector, samples, clean), len(samples), progress)
    if cache is None:
        return list(fresh)
    images = [f"{digest(image):016x}" for image in [sample.image for sample in samples] + (clean or [])]
    asked = {"detector": identity(inspector.detector), "images": images}
    cache = _of_this_process(cache)
    if (stored := _Stored.open(cache, asked)) is not None:
        return stored
    if cache.exists() and not (cache / _INDEX).is_file():
        raise OutputError(f"{cache} is no cache of features and is not replaced: choose another --checkpoints folder")
    with atomic_folder(cache, overwrite=True) as staged:
        _write(staged, fresh, len(samples), asked)
    if (stored := _Stored.open(cache, asked)) is None:
        raise OutputError(f"{cache} was changed while it was written: run it again")
    return stored


def _of_this_process(cache: Path) -> Path:
    """Each of several processes keeps a cache of its own."""
    rank = int(os.environ.get("RANK", "0"))
    return cache.with_name(f"{cache.name}-{rank}") if rank else cache


def _told(found: Iterator[Examined], total: int, progress: Progress) -> Iterator[Examined]:
    for done, one in enumerate(found, 1):
        yield one
        progress(done / total, f"features of {done} of {total} images")


def _write(folder: Path, found: Iterator[Examined], count: int, asked: Mapping[str, Any]) -> None:
    shapes, scores, arrays = [], [], None
    try:
        with open(folder / _MAPS, "wb") as maps:
            for row, (result, *patches) in enumerate(found):
                if arrays is None and patches[0] is not None:
                    shape = (count, *patches[0].shape)
                    arrays = [_allocated(folder / name, shape) for name in _PATCHES]
                for array, level in zip(arrays or (), patches, strict=False):
                    array[row] = level
                shapes.append(result.scores.shape)
                scores.append(result.image_score)
                maps.write(result.scores.tobytes())
        for array in arrays or ():
            array.flush()
    except OSError as error:
        raise OutputError(f"no room for features in {folder.parent}: {error.strerror}; free some space") from error
    write_json(folder / _INDEX, {**asked, "shapes": shapes, "scores": scores, "patches": arrays is not None})


def _allocated(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped float16 array whose room on the disk is taken: without it, a full disk kills the process."""
    array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


class _Stored(Sequence):
    """What was examined before, memory-mapped."""

    def __init__(self, folder: Path, index: Mapping[str, Any]):
        self.shapes, self.scores = [tuple(shape) for shape in index["shapes"]], index["scores"]
        self.maps = np.memmap(folder / _MAPS, np.float32, "r")
        self.starts = np.cumsum([0, *(height * width for height, width in self.shapes)])
        names = _PATCHES if index["patches"] else ()
        self.patches = [np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in names]
        if len(self.maps) != self.starts[-1] or any(len(array) != len(self.scores) for array in self.patches):
            raise ValueError("files of different sizes")

    @classmethod
    def open(cls, folder: Path, asked: Mapping[str, Any]) -> _Stored | None:
        """None where there is nothing, or something else."""
        try:
            index = read_json(folder / _INDEX)
            return cls(folder, index) if all(index.get(key) == value for key, value in asked.items()) else None
        except (InvalidModelError, OSError, ValueError, KeyError, TypeError):
            return None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int) -> Examined:
        row = range(len(self))[index]
        scores = np.array(self.maps[self.starts[row] : self.starts[row + 1]]).reshape(self.shapes[row])
        patches = [array[row] for array in self.patches] or [None, None]
        return AnomalyMap(scores, float(self.scores[row])), *patches
