"""Photos and learning, for tests of the app's callbacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from anomalyhub.ui import learning
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work


def photo(rng: np.random.Generator, spot: bool = False) -> np.ndarray:
    """(48, 72, 3) uint8 of a smooth texture, maybe with a dark spot on the right."""
    y, x = np.mgrid[:48, :72]
    image = 128 + 40 * np.sin(x / 4 + rng.uniform(0, 6)) + 30 * np.sin(y / 3) + rng.normal(0, 2, (48, 72))
    if spot:
        image[14:34, 44:64] = 5
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def learn(session: Session, work: Work, trusted: bool = True, **settings) -> list[tuple[float, str]]:
    """Learn to the end; what the visitor saw meanwhile."""
    return list(learning.learn(session, learning.Settings(**settings), trusted, work))
