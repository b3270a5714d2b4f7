"""What a discovery found, as a folder can keep it: findings.json, which the app's board is built from.

No ground truth is in it: labels of the data set are for metrics.json only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomalyhub.errors import InvalidModelError
from anomalyhub.state import SCHEMA, read_json, write_json
from anomalyhub.types import Box

FILE, EMBEDDINGS = "findings.json", "embeddings.npy"


@dataclass(frozen=True)
class FoundImage:
    """One image.

    id           the sample's id
    path         the image file, absolute
    size         (H, W) in pixels
    mask         its regions, a PNG of 0 and 255 in the image's frame, below the folder; None if it has no region
    cluster      its kind, or "unknown"
    probability  of its most probable kind
    """

    id: str
    path: str
    size: tuple[int, int]
    mask: str | None
    cluster: str
    probability: float


@dataclass(frozen=True)
class FoundRegion:
    """One sub-image, in the order of the discoverer's embeddings_ and labels_ where it was fitted on them.

    image        index of its FoundImage
    region       index in its image; an image without a region has one sub-image, all of it
    box          half-open pixels x0 y0 x1 y1 of the crop, clipped to the image
    area         pixels of the mask in the crop; 0 for an image without a region
    score        anomaly score in [0, 1]
    weight       share in its image's kind; those of an image sum to 1
    cluster      its kind, or "unknown"
    probability  of its most probable kind
    crop         a picture of at most 192 pixels with the region's outline, a JPEG below the folder
    fitted       its row in the discoverer's embeddings_; None if it was not in the fit
    """

    image: int
    region: int
    box: Box
    area: int
    score: float
    weight: float
    cluster: str
    probability: float
    crop: str
    fitted: int | None


def read_embeddings(folder: Path, count: int) -> np.ndarray:
    """(N, D) float32 of the `count` regions, from embeddings.npy. Raises InvalidModelError."""
    path = Path(folder) / EMBEDDINGS
    try:
        with open(path, "rb") as file:
            embeddings = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a header is a Python literal, which fails in many ways
        reason = " ".join(str(error).split())
        raise InvalidModelError(f"{path} cannot be read ({reason}): copy it again") from error
    if embeddings.ndim != 2 or len(embeddings) != count or embeddings.dtype != np.float32:
        raise InvalidModelError(f"{path} is not of these {count} regions (shape {embeddings.shape}): copy it again")
    if not np.isfinite(embeddings).all():
        raise InvalidModelError(f"{path} holds values that are NaN or infinite: copy it again")
    return embeddings


@dataclass(frozen=True)
class Findings:
    """All of a discovery.

    product  what was inspected, for people
    classes  the kinds' names; the first is the normal one where normal images are among them
    images   in the order of the data set
    regions  image by image
    """

    product: str
    classes: tuple[str, ...]
    images: tuple[FoundImage, ...]
    regions: tuple[FoundRegion, ...]

    def write(self, folder: Path) -> None:
        """Write findings.json into an existing folder."""
        write_json(Path(folder) / FILE, {"schema": SCHEMA, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Findings:
        """What `write` wrote. Raises InvalidModelError for a missing or damaged file."""
        stored = read_json(Path(folder) / FILE)
        try:
            images = tuple(_made(FoundImage, one) for one in stored["images"])
            regions = tuple(_made(FoundRegion, one) for one in stored["regions"])
            if not all(0 <= region.image < len(images) for region in regions):
                raise ValueError("a region without an image")
            return cls(str(stored["product"]), tuple(map(str, stored["classes"])), images, regions)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(
                f"{Path(folder) / FILE} is damaged ({error}): copy the folder again, or discover again"
            ) from error


def _made(kind: type, value: Mapping[str, Any]) -> Any:
    return kind(**{key: tuple(part) if isinstance(part, list) else part for key, part in value.items()})
