"""From anomaly maps to regions: numpy and OpenCV only."""

from anomalyhub.regions.threshold import as_scores, threshold_regions

__all__ = ["as_scores", "threshold_regions"]
