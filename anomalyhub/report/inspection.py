"""A folder of inspections, written one image at a time: tables, overlays, COCO regions, summary.json and report.html.

    identity = ModelIdentity.of(inspector, "ring")
    write_inspections(folder, inspector.inspect_with_samples(samples), identity)

No ground truth is read: labels and masks of the samples are left alone.
"""

from __future__ import annotations

import csv
import datetime
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalyhub import __version__
from anomalyhub.report.coco import CocoBuilder
from anomalyhub.report.gallery import Gallery, RegionEvidence
from anomalyhub.report.identity import ModelIdentity
from anomalyhub.report.kinds import kind_masks, kind_overlay, region_kinds
from anomalyhub.report.positions import PositionMaps
from anomalyhub.report.results import file_stem
from anomalyhub.report.tables import Prediction, safe_label, safe_name, write_predictions_csv
from anomalyhub.state import jsonable, write_json
from anomalyhub.types import UNKNOWN, Inspection, Sample

IMAGE_COLUMNS = ("path", "score", "p_value", "is_anomalous", "label", "probability", "n_regions")
REGION_COLUMNS = ("path", "region", "x0", "y0", "x1", "y1", "area", "peak", "kind", "probability")
_PACKAGES = ("torch", "numpy", "opencv-python-headless")

#: For rows of the gallery, in order: what `Inspector.explain` gives for these images.
Explain = Callable[[Sequence[int]], Iterable[tuple[Sample, Inspection, Sequence[RegionEvidence]]]]


def write_inspections(
    folder: Path,
    results: Iterable[tuple[Sample, Inspection]],
    identity: ModelIdentity,
    *,
    data: str = "",
    maps: bool = True,
    skipped: Sequence[str] = (),
    explain: Explain | None = None,
) -> dict[str, Any]:
    """Write an inspection into an existing folder, and return what summary.json holds.

    results   as `Inspector.inspect_with_samples` gives them; one image is held at a time
    data      what was inspected, for people
    maps      False leaves maps/*.npy out, which is most of the bytes
    skipped   why images were left out, one sentence each
    explain   for the rows of `results` that it is given, at most 60 of the worst: the same again with a RegionEvidence
              per region, as `Inspector.explain` does; None leaves the evidence out

    predictions.csv   path, score, p_value, is_anomalous, label: as `predict` writes it
    inspections.csv   the same with the label's probability and n_regions
    regions.csv       one row per region, largest first: box and area in pixels, peak score, kind, probability
    regions.coco.json COCO annotations; the categories are the kinds
    overlays/*.png    the images with their regions outlined and named
    maps/*.npy        (H, W) float32 scores
    report.html       one page for people that needs no other file
    """
    from anomalyhub.report.inspection_page import inspection_page

    book = InspectionBook(identity)
    timed = _Timed(results)
    started = time.perf_counter()
    with ExitStack() as stack:
        tables = [
            stack.enter_context(open(folder / name, "w", encoding="utf-8", errors="surrogateescape", newline=""))
            for name in ("inspections.csv", "regions.csv")
        ]
        images, regions = (csv.writer(table, lineterminator="\n") for table in tables)
        images.writerow(IMAGE_COLUMNS)
        regions.writerow(REGION_COLUMNS)
        taken: set[str] = set()
        for sample, result in timed:
            stem = file_stem(result.id, taken)
            if maps:
                np.save(_made(folder / "maps" / f"{stem}.npy"), result.map.scores)
            picture = kind_overlay(sample.image, result, identity.kinds)
            Image.fromarray(picture).save(_made(folder / "overlays" / f"{stem}.png"), compress_level=3)
            images.writerow(_image_row(result))
            regions.writerows(_region_rows(result))
            book.add(sample, result)
    write_predictions_csv(folder / "predictions.csv", book.rows)
    book.coco.categories = book.kinds_seen()
    book.coco.write(folder / "regions.coco.json")
    if explain is not None and (chosen := book.gallery.rows()):
        book.gallery.explain(zip(chosen, explain(chosen), strict=True))
    writing = time.perf_counter() - started - timed.seconds
    summary = _as_json(book.summary() | _circumstances(data, skipped, book.n_images, timed.seconds, writing))
    write_json(folder / "summary.json", summary)
    page = inspection_page(book, summary)
    (folder / "report.html").write_text(page, encoding="utf-8", errors="replace")
    return summary


class InspectionBook:
    """What is kept of inspected images: counts, a row each, one small map per kind, and the worst of each kind.

    rows       one Prediction per image          gallery    pictures of the worst
    positions  where regions lie                 coco       records of all regions
    images     images by label, normal ones left out        regions    regions by kind
    """

    def __init__(self, identity: ModelIdentity):
        self.identity = identity
        self.rows: list[Prediction] = []
        self.gallery, self.positions, self.coco = Gallery(), PositionMaps(), CocoBuilder()
        self.images: Counter[str] = Counter()
        self.regions: Counter[str] = Counter()

    def add(self, sample: Sample, result: Inspection) -> None:
        """One image and what was found in it."""
        self.positions.add(sample.image, result.is_anomalous, kind_masks(result))
        self.gallery.add(len(self.rows), sample.image, result, label_probability(result), self.identity.kinds)
        self.coco.add(result)
        self.rows.append(Prediction.of(result))
        self.images.update([result.label] if result.is_anomalous else [])
        self.regions.update(kind for kind, _ in region_kinds(result))

    @property
    def n_images(self) -> int:
        return len(self.rows)

    @property
    def n_defective(self) -> int:
        return sum(row.is_anomalous for row in self.rows)

    def kinds_seen(self) -> list[str]:
        """All names: the model's kinds in its order, then others that came up, "unknown" last."""
        others = sorted((set(self.images) | set(self.regions)) - set(self.identity.kinds) - {UNKNOWN})
        return [*self.identity.kinds, *others, *([UNKNOWN] if UNKNOWN in self.regions | self.images else [])]

    def by_frequency(self) -> list[str]:
        """The kinds that were found, most images first; "unknown" last."""
        found = [kind for kind in self.kinds_seen() if self.images[kind] or self.regions[kind]]
        return sorted(found, key=lambda kind: (kind == UNKNOWN, -self.images[kind], -self.regions[kind]))

    def summary(self) -> dict[str, Any]:
        """Counts, the threshold and the model."""
        kinds = {kind: {"images": self.images[kind], "regions": self.regions[kind]} for kind in self.kinds_seen()}
        return {
            "n_images": self.n_images,
            "n_defective": self.n_defective,
            "share_defective": self.n_defective / self.n_images if self.n_images else None,
            "n_regions": sum(self.regions.values()),
            "kinds": kinds,
            "threshold": self.identity.threshold_json(),
            "model": self.identity.to_json(),
        }


def label_probability(result: Inspection) -> float | None:
    """The probability of the image's label; of "unknown", that of the nearest kind; None where nothing was named.

    Where only the regions have any, it is that of the largest one with the image's label.
    """
    probs = dict(result.probs)
    if probs:
        return probs.get(result.label, max(probs.values()))
    return next((probability for name, probability in result.labels if name == result.label), None)


def _named(result: Inspection) -> Iterable[tuple[Any, tuple[str, float | None]]]:
    return zip(result.regions, region_kinds(result), strict=True)


def _image_row(result: Inspection) -> list[Any]:
    one, probability = Prediction.of(result), label_probability(result)
    verdict = "true" if one.is_anomalous else "false"
    values = [_number(one.score), _number(one.p_value), verdict, safe_label(one.label), _number(probability)]
    return [safe_name(one.path), *values, len(result.regions)]


def _region_rows(result: Inspection) -> Iterator[list[Any]]:
    for number, (region, (kind, probability)) in enumerate(_named(result)):
        facts = [*region.box, region.area_px, _number(region.peak), safe_label(kind), _number(probability)]
        yield [safe_name(result.id), number, *facts]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


class _Timed:
    """An iterable that counts the seconds which its items take to come."""

    def __init__(self, items: Iterable[Any]):
        self.items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator[Any]:
        iterator, end = iter(self.items), object()
        while True:
            start = time.perf_counter()
            item = next(iterator, end)
            self.seconds += time.perf_counter() - start
            if item is end:
                return
            yield item


def _circumstances(data: str, skipped: Sequence[str], count: int, seconds: float, writing: float) -> dict[str, Any]:
    """When, with what, how fast; `seconds` includes the decoding of the images."""
    versions = {"anomalyhub": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # another build of it, such as opencv-python
            continue
    return {
        "data": data,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "versions": versions,
        "seconds_per_image": seconds / count if count else None,
        "seconds_per_image_of_writing": writing / count if count else None,
        "skipped": list(skipped),
    }


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """What reading it back from a file gives; names may hold bytes that are not text, which become "?"."""
    return json.loads(json.dumps(jsonable(value), ensure_ascii=False).encode("utf-8", "replace"))


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
