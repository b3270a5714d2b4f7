"""The examples of the Classify tab: images that a person puts into kinds, from uploads, test images or a board."""

from __future__ import annotations

import hashlib
import json
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from anomalyhub.data import Limits, SampleRef, read_mask
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidImageError, InvalidUploadError
from anomalyhub.review import Board
from anomalyhub.review.export import mask_of_regions
from anomalyhub.review.steps import clean_name, key
from anomalyhub.types import GOOD, UNKNOWN
from anomalyhub.ui.work import Work

#: Examples of all kinds together; a few per kind are enough.
MOST = 200
#: What one upload of examples may hold.
LIMITS = Limits(max_files=MOST, max_bytes=1024**3, max_file_bytes=50 * 1024**2, max_pixels=40_000_000)


class Example(NamedTuple):
    """One image as an example of a kind.

    number   its name on the page, never given twice
    ref      the image; ref.label is the kind, ref.masks where a board has marked the defect
    digest   of the image's bytes and the mask's: an image is an example once
    lasting  whether the file stays where it is, as those of a data folder do
    """

    number: int
    ref: SampleRef
    digest: str
    lasting: bool


class Shelf:
    """The examples in their kinds, and all former states, which undo brings back.

    Deeds raise InvalidArgumentError for a kind or example that is not there and for a name that will not do.
    """

    def __init__(self, examples: Iterable[Example] = ()):
        self._states: list[tuple[Example, ...]] = [tuple(examples)]
        self._at, self._next, self._token = 0, len(self._states[0]), ""

    @classmethod
    def of(cls, entries: Iterable[Sequence[str]]) -> Shelf:
        """The examples of a job's config, whose files last: (id, path, label) or (id, path, label, mask)."""
        made = []
        for number, (name, path, label, *mask) in enumerate(entries):
            ref = SampleRef(name, Path(path), label, tuple(Path(one) for one in mask if one))
            try:
                made.append(Example(number, ref, _digest(ref), True))
            except OSError:  # it has gone
                continue
        return cls(made)

    @property
    def state(self) -> tuple[Example, ...]:
        """All examples; equal where nothing has changed."""
        return self._states[self._at]

    examples = state

    @property
    def kinds(self) -> dict[str, list[Example]]:
        """The kinds in the order in which they came, with their examples."""
        found: dict[str, list[Example]] = {}
        for one in self.state:
            found.setdefault(str(one.ref.label), []).append(one)
        return found

    @property
    def can_undo(self) -> bool:
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        return self._at < len(self._states) - 1

    @property
    def token(self) -> str:
        """What the page asks for this shelf's pictures by; nobody else knows it."""
        if not self._token:
            self._token = uuid.uuid4().hex
            _shelves[self._token] = self
        return self._token

    def find(self, number: int) -> Example:
        for one in self.state:
            if one.number == number:
                return one
        raise InvalidArgumentError(f"example {number} is not there any more: load the page again")

    def add(self, refs: Iterable[SampleRef], lasting: bool = False) -> tuple[int, list[str]]:
        """Put labelled images onto the shelf; how many, and notices about those that are examples already.

        Raises InvalidDatasetError when none is new, or there would be more than MOST.
        """
        made, notices, known = list(self.state), [], {one.digest: one for one in self.state}
        for ref in refs:
            ref = replace(ref, label=kind_name(ref.label))
            digest = _digest(ref)
            if (other := known.get(digest)) is not None:
                again = "already" if other.ref.label == ref.label else f"of {other.ref.label}: one image, one kind"
                notices.append(f"left out: {ref.id} is an example {again}")
                continue
            ref = replace(ref, id=_unique(ref.id, {one.ref.id for one in made}))
            known[digest] = Example(self._next, ref, digest, lasting)
            made.append(known[digest])
            self._next += 1
        new = len(made) - len(self.state)
        if not new:
            raise InvalidDatasetError("no new example: " + (notices[0] if notices else "there is no labelled image"))
        if len(made) > MOST:
            raise InvalidDatasetError(f"{len(made)} examples are more than {MOST}: take 1 to 5 of each kind")
        self._do(made)
        return new, notices

    def check(self) -> None:
        """Raise InvalidArgumentError unless there are examples of 2 kinds."""
        kinds = self.kinds
        if len(kinds) < 2:
            there = f"all {len(self.state)} examples are of {next(iter(kinds))}" if kinds else "there are no examples"
            raise InvalidArgumentError(f"{there}, and telling kinds apart takes 2: add examples of another kind")

    def lasting(self, work: Work) -> list[list[str]]:
        """(id, path, label) or (id, path, label, mask) of all, in files that last as long as the job that is begun."""
        files = [(one, path) for one in self.state for path in (one.ref.path, *one.ref.masks)]
        passing = [path for one, path in files if not one.lasting and not work.holds(path)]
        kept = work.keep(SampleRef(str(number), path) for number, path in enumerate(passing)) if passing else []
        place = dict(zip(passing, (path for _, path in kept), strict=True))
        return [
            [one.ref.id, str(place.get(one.ref.path, one.ref.path)), str(one.ref.label)]
            + [str(place.get(path, path)) for path in one.ref.masks]
            for one in self.state
        ]

    # Deeds of the page.

    def act(self, deeds: str) -> str:
        """Do what the page asks for, in order; returns what was done last.

        deeds  a JSON list of objects, each with "deed" and what belongs to it; see `_DEEDS`
        """
        said = ""
        try:
            for one in json.loads(deeds or "[]"):
                said = _DEEDS[one["deed"]](self, one)
        except InvalidArgumentError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidArgumentError(f"the page asked for something unknown ({error!r}): load it again") from error
        return said

    def rename(self, kind: str, name: str) -> str:
        self._has(kind)
        name = kind_name(name)
        if any(key(other) == key(name) for other in self.kinds if other != kind):
            raise InvalidArgumentError(f"there is a kind {name!r} already: merge with it, or give another name")
        self._relabel({one.number for one in self.kinds[kind]}, name)
        return f"{kind} is now called {name}"

    def merge(self, kind: str, into: str) -> str:
        self._has(kind)
        self._has(into)
        self._relabel({one.number for one in self.kinds[kind]}, into)
        return f"{kind} was merged into {into}"

    def move(self, numbers: Iterable[int], into: str | None) -> str:
        """To another kind, or to a new one."""
        chosen = self._chosen(numbers)
        if into is None:
            taken, number = {key(kind) for kind in self.kinds}, 1
            while key(f"kind_{number}") in taken:
                number += 1
            into = f"kind_{number}"
        else:
            self._has(into)
        self._relabel(chosen, into)
        return f"{len(chosen)} moved to {into}"

    def remove(self, numbers: Iterable[int]) -> str:
        chosen = self._chosen(numbers)
        self._do(one for one in self.state if one.number not in chosen)
        return f"{len(chosen)} removed"

    def go(self, steps: int) -> bool:
        """Undo (-1) or redo (1); False when there is nothing to."""
        if not 0 <= self._at + steps < len(self._states):
            return False
        self._at += steps
        return True

    def _has(self, kind: str) -> None:
        if kind not in self.kinds:
            raise InvalidArgumentError(f"there is no kind {str(kind)!r}: load the page again")

    def _chosen(self, numbers: Iterable[int]) -> set[int]:
        chosen = {self.find(int(number)).number for number in numbers}
        if not chosen:
            raise InvalidArgumentError("no example is chosen: choose at least one")
        return chosen

    def _relabel(self, numbers: set[int], kind: str) -> None:
        self._do(one._replace(ref=replace(one.ref, label=kind)) if one.number in numbers else one for one in self.state)

    def _do(self, examples: Iterable[Example]) -> None:
        made = tuple(examples)
        if made != self.state:
            self._states, self._at = [*self._states[: self._at + 1], made], self._at + 1


_shelves: weakref.WeakValueDictionary[str, Shelf] = weakref.WeakValueDictionary()


def shelf_of(token: Any) -> Shelf | None:
    """The shelf that a page asks for."""
    return _shelves.get(token) if isinstance(token, str) else None


def _mark(shelf: Shelf, asked: Mapping[str, Any]) -> str:
    """The board's marks are one here: away with it."""
    if asked["mark"] != "remove":
        raise InvalidArgumentError(f"examples cannot be marked {asked['mark']!r}: load the page again")
    if "column" in asked:
        shelf._has(asked["column"])
        return shelf.remove([one.number for one in shelf.kinds[asked["column"]]])
    return shelf.remove(asked["crops"])


_DEEDS: dict[str, Callable[[Shelf, Mapping[str, Any]], str]] = {
    "rename": lambda shelf, asked: shelf.rename(asked["column"], str(asked["name"])),
    "merge": lambda shelf, asked: shelf.merge(asked["column"], asked["into"]),
    "move": lambda shelf, asked: shelf.move(asked["crops"], asked.get("into")),
    "mark": _mark,  # crops or column
    "undo": lambda shelf, _: "undone" if shelf.go(-1) else "there is nothing to undo",
    "redo": lambda shelf, _: "done again" if shelf.go(1) else "there is nothing to redo",
}


def kind_name(name: Any) -> str:
    """A kind's name as it is used. Raises InvalidArgumentError for one that will not do."""
    made = clean_name(str(name or ""))
    if made == GOOD:
        raise InvalidArgumentError(f"{name} is for normal parts, which the detector knows: name a kind of defect")
    if made == UNKNOWN:
        raise InvalidArgumentError("unknown is what a defect unlike all kinds is called: give another name")
    return made


def _digest(ref: SampleRef) -> str:
    """Raises OSError."""
    hashed = hashlib.blake2b(digest_size=16)
    for path in (ref.path, *ref.masks):
        hashed.update(path.read_bytes() + b"\0")
    return hashed.hexdigest()


def _unique(name: str, taken: set[str]) -> str:
    """The name, or with -2, -3, ... before its suffix."""
    path, unique, number = PurePosixPath(name), name, 1
    while unique in taken:
        number += 1
        unique = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
    return unique


# Where examples come from.


def of_uploads(refs: Sequence[SampleRef], kind: str) -> tuple[list[SampleRef], list[str]]:
    """Uploaded images as examples of one kind, or with an empty name of the kinds that their folders are named by.

    Folders of normal images are left out with a notice. Raises InvalidUploadError for an image in no folder.
    """
    if kind.strip():
        name = kind_name(kind)
        return [replace(ref, label=name) for ref in refs], []
    folders = [PurePosixPath(ref.id).parent.name for ref in refs]
    loose = [ref.id for ref, folder in zip(refs, folders, strict=True) if not folder]
    if loose:
        raise InvalidUploadError(
            f"nobody has said which kind {loose[0]} is: write the kind's name first, or upload a zip with a folder "
            "for each kind"
        )
    normal = [clean_name(folder) == GOOD for folder in folders]
    made = [replace(ref, label=folder) for ref, folder, skip in zip(refs, folders, normal, strict=True) if not skip]
    notices = [f"left out: {sum(normal)} images of normal parts, which are no kind of defect"] if any(normal) else []
    return made, notices


def of_tests(tests: Sequence[SampleRef], per_kind: int) -> list[SampleRef]:
    """The first images of each labelled kind of defect by name, without their masks: where the defect is, the detector
    says. Raises InvalidDatasetError when none has a label."""
    counts: Counter[str] = Counter()
    made = []
    for ref in sorted(tests, key=lambda ref: ref.id):
        if ref.label in (None, GOOD) or counts[ref.label] >= per_kind:
            continue
        counts[ref.label] += 1
        made.append(replace(ref, masks=()))
    if not made:
        raise InvalidDatasetError(
            "no test image of this detector has a kind: upload examples, or name kinds on the Discover tab"
        )
    return made


def of_board(board: Board, per_kind: int, folder: Path) -> list[SampleRef]:
    """Crops of a board as examples of its columns: those that a person has moved first, then the most probable.

    An image is taken once per kind. What is marked normal or unsure, is unknown, or has no region is no example. Masks
    of single regions are written into `folder`. Raises InvalidDatasetError when nothing is left.
    """
    findings, labels, corrected = board.findings, board.labels(), board.corrected()
    order = sorted(
        range(len(labels)), key=lambda crop: (not corrected[crop], -findings.regions[crop].probability, crop)
    )
    counts: Counter[str] = Counter()
    taken: set[tuple[str, int]] = set()
    made = []
    folder.mkdir(parents=True, exist_ok=True)
    for crop in order:
        region, label = findings.regions[crop], labels[crop]
        image = findings.images[region.image]
        if label in (None, GOOD, UNKNOWN) or not region.area or image.mask is None:
            continue
        if counts[label] >= per_kind or (label, region.image) in taken:
            continue
        counts[label] += 1
        taken.add((label, region.image))
        mask = folder / f"{uuid.uuid4().hex}.png"
        Image.fromarray(_region_mask(board, crop).astype(np.uint8) * 255).save(mask)
        made.append(SampleRef(image.id, Path(image.path), label, (mask,)))
    if not made:
        raise InvalidDatasetError("no column of the board has a crop with a defect: discover kinds of defect first")
    columns = {column.name: place for place, column in enumerate(board.columns())}
    return sorted(made, key=lambda ref: columns[str(ref.label)])


def _region_mask(board: Board, crop: int) -> np.ndarray:
    """(H, W) bool of one region in its image."""
    findings = board.findings
    region = findings.regions[crop]
    image = findings.images[region.image]
    mask = read_mask([board.result / image.mask], image.size, "nonzero")
    own = [index for index, one in enumerate(findings.regions) if one.image == region.image]
    alone = mask_of_regions(mask, [findings.regions[index].box for index in own], [index == crop for index in own])
    x0, y0, x1, y1 = region.box
    inside = np.zeros_like(alone)
    inside[y0:y1, x0:x1] = alone[y0:y1, x0:x1]
    if not inside.any():
        raise InvalidImageError(f"the mask of {image.id} does not fit its regions: discover again")
    return inside
