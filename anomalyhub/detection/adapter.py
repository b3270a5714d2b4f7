"""What detectors of other programs share: the protocol's constructor and saved folder, without a backbone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalyhub.config import configure
from anomalyhub.detection.base import BackboneDetector
from anomalyhub.errors import InvalidModelError
from anomalyhub.state import read_state, write_state
from anomalyhub.types import AnomalyMap


class Adapter(BackboneDetector):
    """A detector behind which another program stands: a backbone may be given, and is neither loaded nor kept."""

    def save(self, folder: Path) -> None:
        """Write config.json and state.safetensors into `folder`."""
        self._fitted()
        extra, arrays = self._state()
        config = {
            "kind": "detector",
            "detector": self.name,
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            **extra,
        }
        write_state(folder, config, arrays)

    @classmethod
    def load(cls, folder: Path, backbone: Any = None):
        """A fitted detector that gives the very maps of the saved one. Raises InvalidModelError.

        backbone  is ignored
        """
        config, arrays = read_state(folder, "detector")
        try:
            self = cls(config=configure(cls.config_class, config["config"]), seed=int(config["seed"]))
            self._restore(config, arrays)
        except InvalidModelError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(
                f"{folder} is damaged ({error}): copy the model folder again, or fit again"
            ) from error
        return self


def in_frame(scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) scores of a whole image as (H, W) float32 in its own frame, bilinear."""
    scores = np.ascontiguousarray(scores, np.float32)
    if scores.shape != shape:
        scores = cv2.resize(scores, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return scores


def score_table(results: list[AnomalyMap]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) image scores and (n,) map maxima, float32; empty for fewer than two, which calibrate nothing."""
    results = results if len(results) > 1 else []
    scores = np.array([result.image_score for result in results], np.float32)
    return scores, np.array([result.scores.max() for result in results], np.float32)
