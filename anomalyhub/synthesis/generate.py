"""Synthetic defects: a texture blended into a normal image inside a random mask on the product (liu2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.protocols import Progress
from anomalyhub.synthesis import masks
from anomalyhub.synthesis.foregrounds import AUTO, METHODS, Method, choose_method, foreground, reduced
from anomalyhub.synthesis.textures import Textures, load_textures
from anomalyhub.types import Sample

MASKS = ("perlin", "poisson", "polygon")
SIDES = (3, 4, 5, 6)
#: Clean images that are kept decoded: 100 MB at 256 pixels.
_KEPT = 512


@dataclass(frozen=True)
class SynthesisConfig:
    """What synthetic defects look like; the defaults are those of liu2024's text and published code.

    mask          "perlin" (published code), "poisson" (the text) or "polygon" (appendix: class = texture x shape)
    beta          share of the texture in the blend inside the mask, in (0, 1]: one value, or lowest and highest.
                  DRAEM (Zavrtanik et al., ICCV 2021), which the method follows, draws the image's share from 0 to 0.8
    area          least and most share of the foreground that a Perlin or Poisson mask covers, in (0, 1]
    polygon_area  share of the foreground that a polygon covers, in (0, 1): all have one size
    foreground    "grabcut", "floodfill", "whole", or "auto": what suits the product
    size          longer side in pixels above which images are reduced, from 16
    """

    mask: Literal["perlin", "poisson", "polygon"] = "perlin"
    beta: tuple[float, ...] = (0.2, 1.0)
    area: tuple[float, ...] = (0.1, 0.4)
    polygon_area: float = 0.15
    foreground: Literal["auto", "grabcut", "floodfill", "whole"] = "auto"
    size: int = 256

    def __post_init__(self):
        if self.mask not in MASKS:
            raise InvalidArgumentError(f"unknown mask {self.mask!r}: choose one of {', '.join(MASKS)}")
        if self.foreground not in (AUTO, *METHODS):
            choices = ", ".join((AUTO, *METHODS))
            raise InvalidArgumentError(f"unknown foreground {self.foreground!r}: choose one of {choices}")
        if not 1 <= len(self.beta) <= 2 or not 0 < self.beta[0] <= self.beta[-1] <= 1:
            raise InvalidArgumentError(
                f"beta must be one share above 0 and up to 1, or the lowest and the highest, got {self.beta}"
            )
        if len(self.area) != 2 or not 0 < self.area[0] <= self.area[1] <= 1:
            raise InvalidArgumentError(
                f"area must be the lowest and the highest share, above 0 and up to 1, got {self.area}: try 0.1,0.4"
            )
        if not 0 < self.polygon_area < 1:
            raise InvalidArgumentError(f"polygon_area must be above 0 and below 1, got {self.polygon_area}")
        if self.size < 16:
            raise InvalidArgumentError(f"size must be at least 16 pixels, got {self.size}")


@dataclass(frozen=True, eq=False)
class SyntheticSample:
    """A synthetic defect with all that is known of it.

    image, clean  (H, W, 3) uint8 with and without the defect, equal outside of the mask
    mask          (H, W) bool, True where the texture was blended in
    label         the pseudo-class
    parameters    index, seed, source (id of the clean image), texture, sides (None but for polygons), beta, area (share
                  of the foreground), foreground (the method that found it)
    """

    image: np.ndarray
    mask: np.ndarray
    clean: np.ndarray
    label: str
    parameters: dict[str, Any]

    def __post_init__(self):
        if self.image.shape != self.clean.shape or self.mask.shape != self.image.shape[:2]:
            raise ValueError(
                f"image, clean and mask must be of one size, got {self.image.shape}, {self.clean.shape} and "
                f"{self.mask.shape}"
            )


class _Source(NamedTuple):
    """A clean image (H, W, 3) with its foreground (H, W), how that was found, and the distance to its edge."""

    id: str
    image: np.ndarray
    foreground: np.ndarray
    method: Method
    notice: str
    room: np.ndarray | None


class Synthesizer:
    """Draws synthetic defects by their number: number i depends on the seed and i alone, whatever was drawn before.

    samples   normal images, decoded when they are needed
    textures  by default those that the package draws
    classes   the pseudo-classes: names of textures, with polygons TEXTURE_x_SIDES; number i is of class i modulo their
              number, so that all have as many
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        textures: Textures | None = None,
        config: SynthesisConfig | None = None,
        seed: int = 0,
    ):
        if not len(samples):
            raise InvalidArgumentError("there are no normal images to paint defects on: give at least one")
        if seed < 0:
            raise InvalidArgumentError(f"seed must be 0 or more, got {seed}")
        self.samples, self.seed = samples, seed
        self.textures = load_textures() if textures is None else textures
        self.config = config or SynthesisConfig()
        self._source = lru_cache(maxsize=_KEPT)(self._read)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        names = self.textures.names
        return tuple(f"{name}_x_{n}" for name in names for n in SIDES) if self.config.mask == "polygon" else names

    @cached_property
    def choice(self) -> tuple[Method, str]:
        """The product's foreground method and why it was chosen; decodes a few images where it is "auto"."""
        if self.config.foreground != AUTO:
            return self.config.foreground, "as asked for"
        few = np.unique(np.linspace(0, len(self.samples) - 1, 8).astype(int))
        return choose_method([self.samples[int(index)].image for index in few])

    def source_of(self, index: int) -> int:
        """Which of the samples number `index` is painted on."""
        return int(self._rng(index).integers(len(self.samples)))

    def foreground_of(self, source: int) -> tuple[np.ndarray, np.ndarray, str]:
        """A sample's image as it is used (H, W, 3), its foreground (H, W) bool, and a notice where none was found."""
        found = self._source(source)
        return found.image.copy(), found.foreground.copy(), found.notice

    def draw(self, index: int) -> SyntheticSample:
        """Number `index`, from 0. Raises InvalidImageError where its image or texture cannot be read."""
        if index < 0:
            raise InvalidArgumentError(f"synthetic defects are numbered from 0, got {index}")
        config, rng = self.config, self._rng(index)
        source = self._source(int(rng.integers(len(self.samples))))
        kind = index % len(self.classes)
        texture, sides = (kind // len(SIDES), SIDES[kind % len(SIDES)]) if config.mask == "polygon" else (kind, None)
        beta = config.beta[0] if len(config.beta) == 1 else float(rng.uniform(*config.beta))
        mask = self._mask(source, sides, rng)
        piece = self.textures.cut(texture, mask.shape, rng)
        image = source.image.copy()
        cv2.copyTo(cv2.addWeighted(piece, beta, image, 1 - beta, 0), mask.view(np.uint8), image)
        parameters = {
            "index": index,
            "seed": self.seed,
            "source": source.id,
            "texture": self.textures.names[texture],
            "sides": sides,
            "beta": beta,
            "area": float(np.count_nonzero(mask) / np.count_nonzero(source.foreground)),
            "foreground": source.method,
        }
        return SyntheticSample(image, mask, source.image.copy(), self.classes[kind], parameters)

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, index))

    def _mask(self, source: _Source, sides: int | None, rng: np.random.Generator) -> np.ndarray:
        config, shape = self.config, source.foreground.shape
        if source.room is not None and sides is not None:
            pixels = config.polygon_area * np.count_nonzero(source.foreground)
            field = masks.polygon_field(source.room, masks.circumradius(pixels, sides), sides, rng)
            return masks.highest(field, source.foreground, (config.polygon_area,) * 2, None, rng)
        if config.mask == "poisson":
            return masks.highest(masks.poisson_field(shape, rng), source.foreground, config.area, None, rng)
        field = masks.perlin_field(shape, rng)
        return masks.highest(field, source.foreground, config.area, masks.PERLIN_THRESHOLD, rng)

    def _read(self, source: int) -> _Source:
        sample, config = self.samples[source], self.config
        image = reduced(sample.image, config.size)
        found = foreground(image, self.choice[0])
        room = masks.room_in(found.mask) if config.mask == "polygon" else None
        return _Source(sample.id, image, found.mask, found.method, found.notice, room)


def synthesize(
    samples: Sequence[Sample],
    textures: Textures | None = None,
    config: SynthesisConfig | None = None,
    count: int = 480,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[SyntheticSample]:
    """Draw `count` synthetic defects on normal images, one after the other, see `Synthesizer`."""
    synthesizer = Synthesizer(samples, textures, config, seed)
    for index in range(count):
        yield synthesizer.draw(index)
        if progress:
            progress((index + 1) / count, f"{index + 1} of {count} images")
