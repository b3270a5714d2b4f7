"""The worst images of each kind, as small pictures that fit into a page, with why their regions are named so."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from anomalyhub.report.html import picture_url
from anomalyhub.report.kinds import kind_overlay, region_kinds
from anomalyhub.types import Inspection, Sample

LIMIT = 60  #: entries of a gallery, whatever the number of kinds
_PER_KIND, _CLOSEST, _SHOWN_REGIONS = 12, 6, 3
_LONGEST = 360  # longer side of a picture, in pixels


class RegionEvidence(Protocol):
    """Why a region has its name: pictures (h, w, 3) uint8 RGB, None where there is none.

    crop    the region                              normal   a normal patch like it, and normal_id its image
    example a labelled example like it, from the image example_id, of the kind example_label
    """

    crop: np.ndarray
    normal: np.ndarray | None
    normal_id: str | None
    example: np.ndarray | None
    example_id: str | None
    example_label: str | None


@dataclass(frozen=True)
class Shown:
    """Evidence as a page shows it: data URLs of the pictures."""

    crop: str
    normal: str | None
    normal_id: str | None
    example: str | None
    example_id: str | None
    example_label: str | None


@dataclass(frozen=True)
class ShownRegion:
    """One region: its kind, its probability if it was named, and its share of the image's pixels."""

    kind: str
    probability: float | None
    share: float


@dataclass
class Entry:
    """One image.

    row          its place among the inspected      picture   data URL of the overlay
    regions      the largest                        n_regions how many there are
    evidence     of as many regions, or none
    """

    row: int
    id: str
    score: float
    p_value: float | None
    label: str
    probability: float | None
    picture: str
    regions: list[ShownRegion]
    n_regions: int
    evidence: tuple[Shown, ...] = ()


class Gallery:
    """Keeps at most 12 images of a kind, and 60 of all, those with the highest scores; and the closest normal ones.

    With many kinds there are fewer of each, down to one.
    """

    def __init__(self):
        self._worst: dict[str, list[tuple[float, int, Entry]]] = {}
        self._closest: list[tuple[float, int, Entry]] = []

    def add(
        self, row: int, image: np.ndarray, result: Inspection, probability: float | None, kinds: Sequence[str]
    ) -> None:
        """An image that was inspected as the `row`-th; it is drawn only if it is among the worst so far."""
        if not result.is_anomalous:
            heap, limit = self._closest, _CLOSEST
        else:
            known = len(self._worst)
            heap = self._worst.setdefault(result.label, [])
            limit = max(1, min(_PER_KIND, LIMIT // len(self._worst)))
            if len(self._worst) > known:
                for other in self._worst.values():
                    _shrink(other, limit)
        if len(heap) < limit or (result.score, -row) > heap[0][:2]:
            heapq.heappush(heap, (result.score, -row, _entry(row, image, result, probability, kinds)))
            _shrink(heap, limit)

    def worst(self, kind: str) -> list[Entry]:
        """A kind's images, highest score first."""
        return [entry for _, _, entry in sorted(self._worst.get(kind, ()), key=lambda one: one[:2], reverse=True)]

    def closest(self) -> list[Entry]:
        """The normal images with the highest scores, highest first."""
        return [entry for _, _, entry in sorted(self._closest, key=lambda one: one[:2], reverse=True)]

    def kinds(self) -> list[str]:
        """The kinds that are shown: all, or the 60 with the worst images."""
        return sorted(self._worst, key=lambda kind: max(self._worst[kind])[:2], reverse=True)[:LIMIT]

    def rows(self) -> list[int]:
        """Rows of the defective images that are shown, ascending."""
        return sorted(entry.row for kind in self.kinds() for entry in self.worst(kind))

    def explain(self, found: Iterable[tuple[int, tuple[Sample, Inspection, Sequence[RegionEvidence]]]]) -> None:
        """Add evidence to the entries of these rows; where their regions are others now, they stay without."""
        entries = {entry.row: entry for kind in self.kinds() for entry in self.worst(kind)}
        for row, (_, _, evidence) in found:
            if len(evidence) == entries[row].n_regions:
                entries[row].evidence = tuple(_shown(one) for one in evidence[:_SHOWN_REGIONS])


def _shrink(heap: list, limit: int) -> None:
    """Shrink a heap to `limit` items."""
    while len(heap) > limit:
        heapq.heappop(heap)


def _entry(row: int, image: np.ndarray, result: Inspection, probability: float | None, kinds: Sequence[str]) -> Entry:
    pixels = image.shape[0] * image.shape[1]
    regions = [
        ShownRegion(kind, chance, region.area_px / pixels)
        for region, (kind, chance) in zip(result.regions, region_kinds(result), strict=True)
    ]
    numbers = [str(number) for number in range(1, len(regions) + 1)]
    drawn = kind_overlay(image, result, kinds, texts=numbers, longest=_LONGEST)
    return Entry(
        row=row,
        id=result.id,
        score=result.score,
        p_value=result.p_value,
        label=result.label,
        probability=probability,
        picture=picture_url(drawn, 78),
        regions=regions[:_SHOWN_REGIONS],
        n_regions=len(regions),
    )


def _shown(one: RegionEvidence) -> Shown:
    crop, normal, example = (
        None if image is None else picture_url(image, 82) for image in (one.crop, one.normal, one.example)
    )
    return Shown(crop, normal, one.normal_id, example, one.example_id, one.example_label)
