"""Metrics of detection, classification and clustering, and operating points.

Undefined values are None with a reason, never 0 or 1.
"""

from anomalyhub.metrics.classification import classification_metrics
from anomalyhub.metrics.clustering import clustering_metrics
from anomalyhub.metrics.detection import aupro, detection_metrics, image_metrics, pixel_metrics
from anomalyhub.metrics.thresholds import confusion, cost_threshold, f1_max_threshold

__all__ = [
    "aupro",
    "classification_metrics",
    "clustering_metrics",
    "confusion",
    "cost_threshold",
    "detection_metrics",
    "f1_max_threshold",
    "image_metrics",
    "pixel_metrics",
]
