"""What a detector was trained on, so that nobody measures it on its own training images without being told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anomalyhub.types import Sample


def digest(image: np.ndarray) -> int:
    """64 bits that identify the pixels of an (H, W, 3) uint8 image, whatever file they came from."""
    hashed = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
    hashed.update(np.ascontiguousarray(image))
    return int.from_bytes(hashed.digest(), "little")


@dataclass(frozen=True, eq=False)
class Provenance:
    """The training images of auxiliary weights.

    products  their names, sorted
    digests   (n,) uint64, sorted, one per image
    """

    products: tuple[str, ...]
    digests: np.ndarray
    _known: frozenset = field(default=frozenset(), init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "_known", frozenset(self.digests.tolist()))

    @classmethod
    def of(cls, products: Mapping[str, Iterable[Sample]]) -> Provenance:
        """Decodes every image once."""
        digests = {digest(sample.image) for samples in products.values() for sample in samples}
        return cls(tuple(sorted(products)), np.array(sorted(digests), np.uint64))

    def knows(self, image: np.ndarray) -> bool:
        """Whether an (H, W, 3) uint8 image was among them."""
        return digest(image) in self._known

    def overlap(self, product: str | None, n_known: int, n_images: int) -> str | None:
        """The warning where a measured product or some of its images were trained on, else None."""
        if n_known:
            return (
                f"{n_known} of the {n_images} images were among the training images of these weights "
                f"({', '.join(self.products)}): the figures say nothing about a new product"
            )
        if product in self.products:
            return f"these weights were trained on a product named {product}: make sure that it is another one"
        return None

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON values and arrays for a saved folder."""
        return {"trained_on": list(self.products)}, {"trained_on": self.digests}

    @classmethod
    def restore(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Provenance | None:
        """From what `state` gave; None where there is none."""
        if "trained_on" not in arrays:
            return None
        return cls(tuple(map(str, config["trained_on"])), arrays["trained_on"].astype(np.uint64))
