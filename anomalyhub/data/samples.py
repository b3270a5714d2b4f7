"""References to samples on disk, and lazy sequences of them: one image is decoded at a time and none is kept."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from anomalyhub.data.images import Encoded, MaskRule, Source, read_file, read_image, read_mask
from anomalyhub.errors import InvalidImageError
from anomalyhub.types import GOOD, Sample


@dataclass(frozen=True)
class SampleRef:
    """Where a sample is and what is known of it, without its pixels.

    id         unique in its data set: the path below the product's folder, with forward slashes
    label      "good" is normal, None is unknown
    masks      mask files whose union is the ground truth; empty when there is none
    mask_rule  how they are thresholded, see `read_mask`
    """

    id: str
    path: Path
    label: str | None = None
    masks: tuple[Path, ...] = ()
    mask_rule: MaskRule = "half"

    def load(self) -> Sample:
        """Decode the image and its mask: all False for a normal image, None for any other without mask files.

        Raises InvalidImageError as `read_image` and `read_mask` do.
        """
        return self._decoded(self.path, self.masks, self.path)

    def encoded(self) -> Encoded:
        """The image file as it is. Raises InvalidImageError where it cannot be read."""
        return read_file(self.path)

    def encoded_masks(self) -> list[Encoded]:
        """The mask files as they are. Raises InvalidImageError where one cannot be read."""
        return [read_file(path) for path in self.masks]

    def lies_in(self, folder: Path) -> bool:
        """Whether the image file is below a folder, links followed."""
        return self.path.resolve().is_relative_to(folder.resolve())

    def _decoded(self, image: Source, masks: Sequence[Source], path: Path | None) -> Sample:
        pixels = read_image(image)
        mask = None
        if self.label == GOOD:
            mask = np.zeros(pixels.shape[:2], bool)
        elif masks:
            mask = read_mask(masks, pixels.shape[:2], self.mask_rule)
        return Sample(self.id, pixels, self.label, mask, path)


class Split(Sequence[Sample]):
    """A sequence of samples that decodes on access: an int index gives a Sample, a slice a Split.

    refs    what the samples are made from
    ids     their ids; labels: their labels, None where unknown; neither decodes anything
    """

    def __init__(self, refs: Iterable[SampleRef] = ()):
        self.refs = tuple(refs)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(ref.id for ref in self.refs)

    @property
    def labels(self) -> tuple[str | None, ...]:
        return tuple(ref.label for ref in self.refs)

    def __len__(self) -> int:
        return len(self.refs)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Split: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return Split(self.refs[index])
        return self.refs[operator.index(index)].load()

    def __iter__(self) -> Iterator[Sample]:
        return (ref.load() for ref in self.refs)  # the mixin's would take an IndexError in a decoder for the end

    def __repr__(self) -> str:
        counts = sorted(Counter(label or "unlabelled" for label in self.labels).items())
        return f"Split({len(self)} images: {', '.join(f'{n} {label}' for label, n in counts)})"

    def select(self, indices: Iterable[int]) -> Split:
        """The samples at `indices`, in that order."""
        return Split(self.refs[operator.index(i)] for i in indices)

    def without(self, ids: Iterable[str]) -> Split:
        """All samples but those with these ids."""
        ids = frozenset(ids)
        return Split(ref for ref in self.refs if ref.id not in ids)

    def unreadable(self) -> list[tuple[str, str]]:
        """(id, reason) of every sample whose image or mask cannot be decoded; decodes them all."""
        failures = []
        for ref in self.refs:
            try:
                ref.load()
            except InvalidImageError as error:
                failures.append((ref.id, str(error)))
        return failures
