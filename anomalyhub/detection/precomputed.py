"""Anomaly maps that any program has written, as a detector: with a threshold, regions, metrics and overlays."""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from anomalyhub.data.maps import MapFolder, match_names
from anomalyhub.detection.adapter import Adapter, in_frame, score_table
from anomalyhub.detection.base import report
from anomalyhub.detection.provenance import digest
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidModelError
from anomalyhub.protocols import Progress
from anomalyhub.registry import register_detector
from anomalyhub.types import AnomalyMap, Sample

_Given = dict[str, tuple[str, int]]  # a map's file to the image that it was given to: id, digest of the pixels


@dataclass(frozen=True)
class PrecomputedConfig:
    """Where the maps are, and how an image's score follows from them. Paths become absolute."""

    maps: str | None = None  # folder of .npy, .png or .tiff maps named like the images
    scores: str | None = None  # CSV with the columns path and score; None: from the maps, by `score`
    score: Literal["max", "mean-top"] = "max"  # what most published methods take of their maps
    top: float = 0.01  # share of the pixels that "mean-top" averages: steadier where single pixels are noisy

    def __post_init__(self):
        if not 0.0 < self.top <= 1.0:
            raise InvalidArgumentError(f"setting top is a share in (0, 1], got {self.top}: 0.01 is 1 % of the pixels")
        for name in ("maps", "scores"):
            if path := getattr(self, name):
                object.__setattr__(self, name, os.path.abspath(os.path.expanduser(path)))


@register_detector
class Precomputed(Adapter):
    """Gives each image the map that a folder holds for it; `MapFolder.for_images` says which one that is.

    backbone, seed  are ignored
    config          see PrecomputedConfig

    The model folder names the maps and does not hold them: it is of use on this machine while they stay as they are.

    Fitted: maps_ (MapFolder), held_out_scores_ and held_out_peaks_ (n,) float32: image scores and map maxima of the
    normal images that have a map. Whether these were held out is known to the program that made the maps: where it was
    trained on them, a threshold from them lets more false alarms through than it says.
    """

    name = "precomputed"
    title = "Precomputed maps"
    config_class = PrecomputedConfig
    needs = "nothing"
    transductive = False

    def fit(self, samples: Iterable[Sample], progress: Progress | None = None) -> Precomputed:
        """List the maps, and read those of the normal images `samples`; images without a map, or none, are fine.

        Raises InvalidArgumentError without a folder, InvalidDatasetError for one that is missing or holds no maps.
        """
        if not self.config.maps:
            raise InvalidArgumentError("setting maps names no folder: give one with --set maps=FOLDER")
        maps = MapFolder.open(self.config.maps)
        table = _read_scores(Path(self.config.scores)) if self.config.scores else {}
        report(progress, 0.0, f"{len(maps)} maps")
        given: _Given = {}
        total = len(samples) if isinstance(samples, Sized) else 0
        results = []
        for done, sample in enumerate(samples, 1):
            (index,) = match_names([sample.id], maps.names, lone=False)
            if index is not None:
                results.append(self._map(sample, maps[index : index + 1], table, given))
            report(progress, done / total if total else 0.5, f"maps of {len(results)} of {done} normal images")
        report(progress, 1.0, f"{len(maps)} maps, {len(results)} of them of normal images")
        self.maps_, self._table, self._fingerprint = maps, table, _fingerprint(maps, self.config.scores)
        self._normals, self._given = given, dict(given)
        self.held_out_scores_, self.held_out_peaks_ = score_table(results)
        return self

    def predict(self, samples: Iterable[Sample]) -> list[AnomalyMap]:
        """The map of each sample, in its frame (bilinear where the map has another size).

        Raises InvalidDatasetError for an image without a map, and for a map of two different images: also of images of
        earlier calls, as a name alone, such as 000.npy, may fit each image of a data set when it comes alone.
        """
        self._fitted()
        return [self._map(one, self.maps_.for_images([one.id]), self._table, self._given) for one in samples]

    def _map(self, sample: Sample, found: MapFolder, table: Mapping[str, float], given: _Given) -> AnomalyMap:
        """The only map of `found`, which is noted in `given` as this sample's."""
        (file,), pixels = found.files, digest(sample.image)
        other, its_pixels = given.setdefault(file, (sample.id, pixels))
        if other != sample.id and pixels != its_pixels:
            raise InvalidDatasetError(
                f"{found.root / file} could belong to {other} and {sample.id}: "
                "put the maps into folders like the images'"
            )
        values = found[0].astype(np.float32)
        score = self._listed(sample.id, table) if self.config.scores else self._image_score(values)
        return AnomalyMap(in_frame(values, sample.image.shape[:2]), score)

    def _image_score(self, values: np.ndarray) -> float:
        """The score by setting `score`, of the map as it was saved."""
        if self.config.score == "max":
            return float(values.max())
        count = math.ceil(self.config.top * values.size)
        return float(np.partition(values, values.size - count, axis=None)[-count:].mean(dtype=np.float64))

    def _listed(self, image: str, table: Mapping[str, float]) -> float:
        names = list(table)
        (index,) = match_names([image], names)
        if index is None:
            raise InvalidDatasetError(f"{self.config.scores} has no score for {image}: add a row with its path")
        return table[names[index]]

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"fingerprint": self._fingerprint, "normals": self._normals}, {
            "scores": self.held_out_scores_,
            "peaks": self.held_out_peaks_,
        }

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        try:
            maps = MapFolder.open(self.config.maps)
            table = _read_scores(Path(self.config.scores)) if self.config.scores else {}
        except InvalidDatasetError as error:
            raise InvalidModelError(
                f"the maps of this model are gone ({error}): put them back, or fit again"
            ) from error
        self._fingerprint = _fingerprint(maps, self.config.scores)
        if self._fingerprint != config["fingerprint"]:
            raise InvalidModelError(f"{self.config.maps} has changed since this model was fitted on it: fit again")
        self.maps_, self._table = maps, table
        self._normals: _Given = {file: (str(image), int(pixels)) for file, (image, pixels) in config["normals"].items()}
        self._given = dict(self._normals)
        self.held_out_scores_, self.held_out_peaks_ = arrays["scores"], arrays["peaks"]


def _fingerprint(maps: MapFolder, scores: str | None) -> str:
    """Changes with the files' names, sizes or times of change; reading all of them would take as long as predicting."""
    hashed = hashlib.blake2b(digest_size=16)
    for path in [maps.root / file for file in maps.files] + ([Path(scores)] if scores else []):
        status = path.stat()
        hashed.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return hashed.hexdigest()


def _read_scores(path: Path) -> dict[str, float]:
    """Scores by image path without its suffix. Raises InvalidDatasetError naming the file, the line and the remedy."""
    remedy = "write a CSV with a row per image and the columns path and score"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"path", "score"} - set(reader.fieldnames or ())
            rows = [] if missing else [(reader.line_num, row["path"], row["score"]) for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise InvalidDatasetError(f"{path} is not a readable table of scores ({error}): {remedy}") from error
    if missing:
        raise InvalidDatasetError(f"{path} has no column {' and no column '.join(sorted(missing))}: {remedy}")
    for line, image, score in rows:
        if not image or not PurePosixPath(image).name or not _is_finite(score):
            raise InvalidDatasetError(f"{path} has the path {image!r} and the score {score!r} in line {line}: {remedy}")
    names = [str(PurePosixPath(image.replace("\\", "/")).with_suffix("")) for _, image, _ in rows]
    name, count = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise InvalidDatasetError(f"{path} has {count} rows for {name}: keep one of them")
    return {name: float(score) for name, (_, _, score) in zip(names, rows, strict=True)}


def _is_finite(text: str | None) -> bool:
    try:
        return math.isfinite(float(text or ""))
    except ValueError:
        return False
