"""From anomaly maps to regions and crops: numpy and OpenCV only."""

from anomalyhub.regions.binarizer import Binarization, Binarizer, FixedThreshold, OtsuThreshold, binarizers
from anomalyhub.regions.crop import ImageRegions, crop_boxes, sub_images
from anomalyhub.regions.mebin import MEBin
from anomalyhub.regions.threshold import as_scores, threshold_regions

__all__ = [
    "Binarization",
    "Binarizer",
    "FixedThreshold",
    "ImageRegions",
    "MEBin",
    "OtsuThreshold",
    "as_scores",
    "binarizers",
    "crop_boxes",
    "sub_images",
    "threshold_regions",
]
