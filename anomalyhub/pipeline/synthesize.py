"""A data set of synthetic defects from a product's normal images, for pretraining; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyhub.config import configure
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError
from anomalyhub.protocols import Progress

if TYPE_CHECKING:
    from anomalyhub.data import Split
    from anomalyhub.synthesis import Synthesizer

_CELL = 192


@dataclass(frozen=True)
class SynthesizeConfig:
    """What to paint defects on, and how. Of `data` and `images` one is given.

    data             a path for `load_dataset`; its train split is taken, never an image of its test split
    product          one of the data set's products; with `images`, the name that the product gets
    images           (id, path) of each image, all of them normal
    textures         a folder for `load_textures`; None: those that the package draws
    count            synthetic defects in all, shared out evenly among the pseudo-classes
    settings         fields of SynthesisConfig
    skip_unreadable  leave damaged images out and name them in `Synthesized.skipped`
    """

    data: str | None = None
    product: str | None = None
    images: tuple | None = None
    textures: str | None = None
    count: int = 480
    settings: dict = field(default_factory=dict)
    skip_unreadable: bool = False

    def __post_init__(self):
        if (self.data is None) == (self.images is None):
            raise InvalidArgumentError(
                "synthesis needs either data (a path) or images (pairs of id and path): give one"
            )
        for pair in self.images or ():
            if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
                raise InvalidArgumentError(f"images must be pairs of two texts, id and path, got {pair!r}")
        if self.count < 1:
            raise InvalidArgumentError(f"count must be at least 1, got {self.count}")
        from anomalyhub.synthesis import SynthesisConfig  # OpenCV, which the processes around a job do without

        configure(SynthesisConfig, self.settings)


@dataclass(frozen=True)
class Synthesized:
    """What `synthesize_to` has written.

    info     synthetic.json
    notices  sentences for people: that no foreground was found in some images
    skipped  why images were left out
    """

    info: dict[str, Any]
    notices: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def synthesize_to(
    folder: Path,
    config: SynthesizeConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> Synthesized:
    """Write the data set into an empty folder, see `anomalyhub.synthesis.dataset`.

    checkpoints  a folder that outlives an interruption: finished images are kept there and not made again
    Raises InvalidDatasetError, InvalidImageError, InvalidArgumentError; OSError when the disk is full.
    """
    from anomalyhub.synthesis import write_synthetic

    if progress:
        progress(0.0, "loading")
    synthesizer, product, skipped = _synthesizer(config, seed)
    info = write_synthetic(folder, product, synthesizer, config.count, progress=progress, checkpoints=checkpoints)
    found, notices = info["foreground"], ()
    if found["not_found_in"]:
        notices = (
            f"{found['method']} found no foreground in {found['not_found_in']} of {found['clean_images']} images, of "
            "which the whole is taken: choose another foreground method if that is wrong",
        )
    return Synthesized(info, notices, tuple(skipped))


def preview_sheet(config: SynthesizeConfig, *, seed: int = 0, columns: int = 6) -> np.ndarray:
    """The first synthetic defects side by side, (H, W, 3) uint8: above the foreground, below it mask and result."""
    from anomalyhub.synthesis.foregrounds import Foreground, preview

    synthesizer, _, _ = _synthesizer(config, seed)
    sheet = []
    for index in range(min(columns, config.count)):
        clean, foreground, notice = synthesizer.foreground_of(synthesizer.source_of(index))
        drawn = synthesizer.draw(index)
        method = drawn.parameters["foreground"]
        mask = np.repeat(drawn.mask[..., None].astype(np.uint8) * 255, 3, axis=2)
        shown = (preview(clean, Foreground(foreground, method, notice)), mask, drawn.image)
        sheet.append(np.vstack([_cell(image) for image in shown]))
    return np.hstack(sheet)


def _synthesizer(config: SynthesizeConfig, seed: int) -> tuple[Synthesizer, str, list[str]]:
    """The synthesizer, the product's name, and why images were skipped."""
    from anomalyhub.synthesis import SynthesisConfig, Synthesizer, load_textures

    samples, product = _samples(config)
    failures = samples.unreadable() if config.skip_unreadable else []
    if failures and len(failures) == len(samples):
        raise InvalidDatasetError(f"none of the {len(samples)} images can be read, to begin with {failures[0][1]}")
    samples = samples.without(name for name, _ in failures)
    if not len(samples):
        raise InvalidDatasetError(f"{product} has no normal images to paint defects on: give at least one")
    textures, settings = load_textures(config.textures), configure(SynthesisConfig, config.settings)
    return Synthesizer(samples, textures, settings, seed), product, [reason for _, reason in failures]


def _samples(config: SynthesizeConfig) -> tuple[Split, str]:
    from anomalyhub.data import SampleRef, Split, load_dataset

    if config.images is not None:
        return Split(SampleRef(name, Path(path)) for name, path in config.images), config.product or "product"
    dataset = load_dataset(config.data, config.product)
    return dataset.split("train"), dataset.product


def _cell(image: np.ndarray) -> np.ndarray:
    """The image fitted into a white square."""
    import cv2

    scale = (_CELL - 4) / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    cell = np.full((_CELL, _CELL, 3), 255, np.uint8)
    top, left = (_CELL - small.shape[0]) // 2, (_CELL - small.shape[1]) // 2
    cell[top : top + small.shape[0], left : left + small.shape[1]] = small
    return cell
