"""What the Inspect tab keeps of each inspected image: small pictures, regions, and the evidence for their kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from anomalyhub.data import SampleRef
from anomalyhub.report.coco import UNNAMED
from anomalyhub.report.inspection import label_probability
from anomalyhub.report.kinds import kind_color, kind_masks, region_kinds
from anomalyhub.report.overlay import fit_within, outline
from anomalyhub.types import GOOD, UNKNOWN, Box, Inspection, Sample
from anomalyhub.ui.detect import p_text

if TYPE_CHECKING:
    from anomalyhub.pipeline.naming import Explanation

#: Longer side in pixels of the pictures of the gallery, and of the regions that are kept for the view of one image.
SIDE, LARGE = 320, 760


class Why(NamedTuple):
    """An `Explanation`, its pictures packed as JPEG."""

    crop: bytes
    normal: bytes | None
    normal_id: str | None
    example: bytes | None
    example_id: str | None
    example_label: str | None


class Found(NamedTuple):
    """One region: its kind, or "unknown", and the probability of the nearest kind; None where nothing names regions."""

    kind: str
    probability: float | None
    box: Box
    area: int
    peak: float
    why: Why | None


@dataclass(frozen=True, eq=False)
class Seen:
    """One inspected image.

    label    "good", a kind, "unknown", or "anomalous" without kinds
    picture  JPEG of the image with its regions outlined, at most SIDE pixels
    regions  largest first      bits  PNG of (h, w) region numbers from 1, at most LARGE pixels; 0 is none
    """

    ref: SampleRef
    size: tuple[int, int]
    score: float
    p_value: float | None
    is_anomalous: bool
    label: str
    probability: float | None
    picture: bytes
    regions: tuple[Found, ...]
    bits: bytes


def kept(sample: Sample, result: Inspection, why: Sequence[Explanation], kinds: Sequence[str]) -> Seen:
    numbers = np.zeros(fit_within(result.map.scores, LARGE).shape, np.uint8)
    for number, region in reversed(list(enumerate(result.regions[:255], 1))):
        numbers[fit_within(region.mask.astype(np.float32), LARGE) > 0] = number
    reasons = list(why) or [None] * len(result.regions)
    regions = tuple(
        Found(kind, probability, region.box, region.area_px, region.peak, None if one is None else _packed(one))
        for region, (kind, probability), one in zip(result.regions, region_kinds(result), reasons, strict=True)
    )
    return Seen(
        SampleRef(sample.id, sample.path, sample.label),
        sample.image.shape[:2],
        result.score,
        result.p_value,
        result.is_anomalous,
        result.label,
        label_probability(result),
        _jpeg(_outlined(sample.image, result, kinds)),
        regions,
        cv2.imencode(".png", numbers)[1].tobytes(),
    )


def _outlined(image: np.ndarray, result: Inspection, kinds: Sequence[str]) -> np.ndarray:
    """Small, with regions in the colours of their kinds."""
    picture = fit_within(image, SIDE)
    for kind, mask in kind_masks(result).items():
        picture = outline(picture, fit_within(mask.astype(np.float32), SIDE) > 0, rgb(kind_color(kind, kinds)))
    return picture


def rgb(color: str) -> tuple[int, int, int]:
    """Of "#rrggbb"."""
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def _packed(one: Explanation) -> Why:
    crop, normal, example = (None if image is None else _jpeg(image) for image in (one.crop, one.normal, one.example))
    return Why(crop, normal, one.normal_id, example, one.example_id, one.example_label)


def unpacked(why: Why) -> SimpleNamespace:
    pictures = {
        key: None if data is None else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        for key, data in (("crop", why.crop), ("normal", why.normal), ("example", why.example))
    }
    return SimpleNamespace(**{**why._asdict(), **pictures})


def _jpeg(image: np.ndarray) -> bytes:
    """Of an (h, w, 3) uint8 RGB picture."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 86])[1].tobytes()


def headline(seen: Sequence[Seen]) -> str:
    """The verdict in one line."""
    defective = sum(one.is_anomalous for one in seen)
    return f"{defective} of {len(seen)} {'looks' if defective == 1 else 'look'} defective"


def counts(seen: Sequence[Seen]) -> dict[str, int]:
    """Images by label: the kinds, most frequent first, then "unknown", then "good"."""
    found = Counter(one.label if one.is_anomalous else GOOD for one in seen)
    last = {UNKNOWN: 1, GOOD: 2}
    return dict(sorted(found.items(), key=lambda pair: (last.get(pair[0], 0), -pair[1], pair[0])))


def shown(seen: Sequence[Seen], kind: str) -> list[int]:
    """Positions of the images with a label or a region of this kind; "" shows all."""
    if not kind:
        return list(range(len(seen)))
    return [
        index
        for index, one in enumerate(seen)
        if kind == (one.label if one.is_anomalous else GOOD) or kind in {region.kind for region in one.regions}
    ]


def table(seen: Sequence[Seen]) -> list[list[str | float]]:
    """Rows of image, kind, probability, score, p-value, regions and, where it is known, the label."""
    return [
        [
            one.ref.id,
            kind_text(one.label) if one.is_anomalous else "normal",
            "" if one.probability is None else f"{100 * one.probability:.0f} %",
            round(one.score, 4),
            p_text(one.p_value),
            len(one.regions),
            {None: "", GOOD: "normal"}.get(one.ref.label, one.ref.label),
        ]
        for one in seen
    ]


def kind_text(kind: str) -> str:
    """A kind as the page says it."""
    return {UNKNOWN: "unknown kind", GOOD: "normal", UNNAMED: "defective"}.get(kind, kind)


def rightly_named(seen: Sequence[Seen], kinds: Sequence[str]) -> tuple[int, int, int] | None:
    """(images whose label is a kind, those found, those of them named rightly); None where there is none."""
    known = [one for one in seen if one.ref.label in kinds and one.ref.label != GOOD]
    if not known:
        return None
    found = [one for one in known if one.is_anomalous]
    return len(known), len(found), sum(one.label == one.ref.label for one in found)
