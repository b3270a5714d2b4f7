"""One inspection as JSON values: what `watch` writes beside an image, and what the app's API answers."""

from __future__ import annotations

from typing import Any

from anomalyhub.report.inspection import label_probability
from anomalyhub.report.kinds import region_kinds
from anomalyhub.types import Inspection

NORMAL, DEFECTIVE = "normal", "defective"


def inspection_json(result: Inspection, threshold: float) -> dict[str, Any]:
    """The verdict on an image.

    verdict      "normal" or "defective"
    score        raw, higher is worse, beside the threshold; p_value: in (0, 1], None if uncalibrated
    kind         of the image, "anomalous" where nothing names it, None for a normal one; probability: of the kind, or
                 None
    regions      largest first: box (half-open pixels x0 y0 x1 y1), area in pixels, peak score, kind, probability
    width, height  of the image, in pixels
    """
    height, width = result.map.scores.shape
    return {
        "verdict": DEFECTIVE if result.is_anomalous else NORMAL,
        "score": float(result.score),
        "threshold": float(threshold),
        "p_value": None if result.p_value is None else float(result.p_value),
        "kind": result.label if result.is_anomalous else None,
        "probability": label_probability(result),
        "regions": [
            {
                "box": [int(value) for value in region.box],
                "area": int(region.area_px),
                "peak": float(region.peak),
                "kind": kind,
                "probability": probability,
            }
            for region, (kind, probability) in zip(result.regions, region_kinds(result), strict=True)
        ],
        "width": width,
        "height": height,
    }
