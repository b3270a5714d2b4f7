"""What a classifier is shown of one image. Nothing in it comes from ground truth but a label that a person gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.regions import ImageRegions
from anomalyhub.types import SubImage


@dataclass(frozen=True, eq=False)
class Evidence:
    """One image as a detector sees it.

    id         the sample's id
    image      (H, W, 3) uint8 RGB
    regions    where the defects are, with their crops
    features   (D, h, w) float16 patch features of the detector's backbone; None where the detector has none
    residuals  (D, h, w) float16, the features minus the nearest ones of normal images; None likewise
    window     x0 y0 x1 y1 of the grid in the image, as shares of its width and height
    label      the class that a person gave; None in prediction
    located    False where the detector finds nothing abnormal, and the region is but the strongest spot
    """

    id: str
    image: np.ndarray
    regions: ImageRegions
    features: np.ndarray | None = None
    residuals: np.ndarray | None = None
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    label: str | None = None
    located: bool = True

    @property
    def sub_images(self) -> tuple[SubImage, ...]:
        """The regions' crops, largest first; of an image without a region one, all of it with an empty mask."""
        return self.regions.sub_images

    def patches(self, residual: bool) -> np.ndarray:
        """(D, h, w) float16: residuals, or features. Raises InvalidArgumentError where the detector has none."""
        found = self.residuals if residual else self.features
        if found is None:
            raise InvalidArgumentError(
                f"{self.id} comes without {'residuals' if residual else 'features'}, which only PatchCore gives: "
                "choose a PatchCore model, or the head prototype with residual=false"
            )
        return found


def patch_batch(evidence: Sequence[Evidence], residual: bool) -> np.ndarray:
    """(N, D, h, w) float32. Raises InvalidArgumentError where they are missing or differ in shape."""
    patches = [one.patches(residual) for one in evidence]
    if len({array.shape for array in patches}) > 1:
        shapes = sorted({array.shape for array in patches})
        raise InvalidArgumentError(f"patch features differ in shape ({shapes[0]}, {shapes[1]}): use one detector")
    return np.stack(patches).astype(np.float32)


def owners_of(evidence: Sequence[Evidence]) -> np.ndarray:
    """(R,) int64: the image of each region, image by image."""
    return np.repeat(np.arange(len(evidence)), [len(one.sub_images) for one in evidence])


def region_coverage(evidence: Evidence, grid: tuple[int, int]) -> np.ndarray:
    """(R, h, w) float32 in [0, 1]: the share of each patch of the grid that each region covers."""
    height, width = evidence.regions.size
    x0, y0, x1, y1 = evidence.window
    left, top, right, bottom = round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)
    mask = evidence.regions.mask
    covered = np.zeros((len(evidence.sub_images), *grid), np.float32)
    for index, one in enumerate(evidence.sub_images):
        region = np.zeros((height, width), np.float32)
        a, b, c, d = one.box
        region[b:d, a:c] = mask[b:d, a:c]
        covered[index] = cv2.resize(region[top:bottom, left:right], grid[::-1], interpolation=cv2.INTER_AREA)
    return covered
