"""The board on which a person corrects a discovery: kinds are columns of crops, to be named, merged, split and moved.

Crops are indices of Findings.regions. What a person did is a list of steps in one JSON file; the board is the discovery
after the first `done` of them. So undo counts back, a reload counts the same, and the discovery itself never changes.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomalyhub.errors import InvalidArgumentError, InvalidModelError
from anomalyhub.fsio import atomic_file
from anomalyhub.report.findings import Findings, read_embeddings
from anomalyhub.review.steps import MAX_NAME, STEPS, Mark, State, check_column, check_crops, check_free, clean_name, key
from anomalyhub.types import GOOD, UNKNOWN

MODEL = "model"  # the discoverer's folder in a result
_SCHEMA = 1


class Column(NamedTuple):
    """One kind.

    crops        most probable first            mark      the one that all of them have
    probability  their mean, 0 without crops    n_images  that they are from
    """

    name: str
    crops: list[int]
    probability: float
    n_images: int
    mark: Mark | None


class Board:
    """A discovery with a person's corrections, which are written to `file` as they are made.

    result    the folder that the discovery wrote      file  JSON, made by the first correction
    findings  what was discovered                      n_steps  corrections in force

    Operations raise InvalidArgumentError for a column or crop that is not there and for a name that will not do, and
    OutputError when `file` cannot be written; then nothing has changed. One that changes nothing is no step.
    """

    def __init__(
        self, result: Path, file: Path, findings: Findings, steps: Sequence[Sequence[Any]] = (), done: int = 0
    ):
        self.result, self.file, self.findings = Path(result), Path(file), findings
        self._steps, self.n_steps = [list(step) for step in steps], done
        self._fingerprint = _fingerprint(findings)
        self._replayed(len(self._steps))  # those that could be redone too
        self._state = self._replayed(done)

    @classmethod
    def open(cls, result: Path, file: Path) -> Board:
        """The board of a result, with the corrections in `file` where there is one.

        Raises InvalidModelError when the findings are missing, or `file` is damaged or of another discovery.
        """
        findings = Findings.read(Path(result))
        try:
            stored = json.loads(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(result, file, findings)
        except (OSError, ValueError) as error:
            raise _unusable(file, error) from error
        try:
            if stored["schema"] > _SCHEMA:
                raise ValueError("a newer AnomalyHub wrote it")
            if stored["findings"] != _fingerprint(findings):
                raise ValueError("it belongs to another discovery")
            if not 0 <= stored["done"] <= len(stored["steps"]):
                raise ValueError(f"it counts {stored['done']} of {len(stored['steps'])} steps")
            return cls(result, file, findings, stored["steps"], stored["done"])
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(file, error) from error

    # Operations.

    def rename(self, column: str, name: str) -> str:
        """Give a column another name; returns it as it was taken, see `clean_name`. Upper and lower case are one."""
        name = clean_name(name)
        self._do("rename", str(column), name)
        return name

    def merge(self, columns: Sequence[str], into: str) -> None:
        """Put all crops of some columns into another, which stays where it is."""
        self._do("merge", [str(column) for column in columns], str(into))

    def split(self, column: str, parts: int = 2) -> list[str]:
        """Split a column by k-means of its embeddings; returns the parts' names, the largest keeping the column's.

        Raises InvalidArgumentError where fewer than `parts` embeddings differ, and InvalidModelError when they are
        missing.
        """
        check_column(self._state, column)
        if not isinstance(parts, int) or parts < 2:
            raise InvalidArgumentError(f"a column is split into at least 2 parts, got {parts!r}: give a whole number")
        members = self._crops_of(column)
        groups = _groups(self.embeddings()[members], parts)
        if len(groups) < parts:
            raise InvalidArgumentError(
                f"the {len(members)} crops of {column!r} do not differ enough for {parts} parts: give fewer parts, or "
                "move crops by hand"
            )
        names = [column]
        for _ in groups[1:]:
            names.append(self._free_name(f"{column[: MAX_NAME - 4].rstrip()} ", 2, names))
        self._do("split", column, [[members[row] for row in rows] for rows in groups[1:]], names[1:])
        return names

    def move(self, crops: Iterable[int], column: str) -> None:
        """Put crops into a column; a person has decided, so their marks go. A column left without crops goes too."""
        check_column(self._state, column)
        self._do("move", self._checked(crops), column)

    def move_to_new(self, crops: Iterable[int], name: str | None = None) -> str:
        """Put crops into a new column at the end; returns its name, kind_N where none is given."""
        name = self._free_name("kind_", 1) if name is None else clean_name(name)
        check_free(self._state.columns, name)
        self._do("move", self._checked(crops), name)
        return name

    def mark(self, crops: Iterable[int], mark: Mark | None) -> None:
        """Mark crops, which stay in their columns; None takes their marks away."""
        self._do("mark", self._checked(crops), mark)

    def mark_column(self, column: str, mark: Mark | None) -> None:
        """Mark all crops of a column."""
        check_column(self._state, column)
        self.mark(self._crops_of(column), mark)

    def undo(self) -> bool:
        """Take the last step back; False when there is none."""
        return self._go(self.n_steps - 1)

    def redo(self) -> bool:
        """Take the last undo back; False when there is none."""
        return self._go(self.n_steps + 1)

    # Reads.

    @property
    def can_undo(self) -> bool:
        return self.n_steps > 0

    @property
    def can_redo(self) -> bool:
        return self.n_steps < len(self._steps)

    @property
    def marks(self) -> dict[int, Mark]:
        """The crops that are marked."""
        return dict(self._state.marks)

    def columns(self) -> list[Column]:
        """All columns in their order."""
        regions, marks, crops_of = self.findings.regions, self._state.marks, defaultdict(list)
        for crop, name in enumerate(self._state.members):
            crops_of[name].append(crop)
        made = []
        for name in self._state.columns:
            crops = sorted(crops_of[name], key=lambda crop: (-regions[crop].probability, crop))
            mean = float(np.mean([regions[crop].probability for crop in crops])) if crops else 0.0
            common = {marks.get(crop) for crop in crops}
            mark = common.pop() if len(common) == 1 else None
            made.append(Column(name, crops, mean, len({regions[crop].image for crop in crops}), mark))
        return made

    def column_of(self, crop: int) -> str:
        """The name of a crop's column."""
        return self._state.members[self._checked([crop])[0]]

    def labels(self) -> list[str | None]:
        """Per crop: its column's name, "good" where it is marked normal, None where unsure."""
        marked, marks = {"normal": GOOD, "unsure": None}, self._state.marks
        return [marked[marks[crop]] if crop in marks else name for crop, name in enumerate(self._state.members)]

    def image_labels(self) -> list[str | None]:
        """Per image: the label with the largest sum of region weights; None where unsure crops weigh most.

        However much normal regions weigh, an image is "good" only when it has no others. Of equal ones a defect comes
        before unsure.
        """
        totals: list[dict[str | None, float]] = [{} for _ in self.findings.images]
        for region, label in zip(self.findings.regions, self.labels(), strict=True):
            weights = totals[region.image]
            weights[label] = weights.get(label, 0.0) + region.weight
        return [_decided(sums) for sums in totals]

    def corrected(self) -> list[bool]:
        """Per crop: a person gave it another label than the kind that it was discovered in has now."""
        regions = self.findings.regions
        return [label != self.name_of(one.cluster) for one, label in zip(regions, self.labels(), strict=True)]

    def name_of(self, kind: str) -> str:
        """What a discovered kind is called now: the name of the column that it was renamed to or merged into."""
        return self._state.kinds.get(kind, kind)

    def embeddings(self) -> np.ndarray:
        """(N, D) float32 of all crops. Raises InvalidModelError."""
        return read_embeddings(self.result, len(self.findings.regions))

    # Inside.

    def _crops_of(self, column: str) -> list[int]:
        return [crop for crop, name in enumerate(self._state.members) if name == column]

    def _checked(self, crops: Iterable[int]) -> list[int]:
        """Ascending, each once."""
        try:
            found = sorted({operator.index(crop) for crop in crops})
        except TypeError as error:
            raise InvalidArgumentError(f"crops are whole numbers, got {crops!r}: choose crops of the board") from error
        if not found:
            raise InvalidArgumentError("no crop is chosen: choose at least one")
        check_crops(self._state, found)
        return found

    def _free_name(self, stem: str, number: int, also: Iterable[str] = ()) -> str:
        """The stem with the first number from `number` that no column has, nor a kind when it was discovered."""
        taken = {key(name) for name in (*self._state.columns, *self._state.kinds, *also)}
        while key(f"{stem}{number}") in taken:
            number += 1
        return f"{stem}{number}"

    def _do(self, verb: str, *arguments: Any) -> None:
        """Apply, write and record one step."""
        state = STEPS[verb](self._state, *arguments)
        if state == self._state:
            return
        steps = [*self._steps[: self.n_steps], [verb, *arguments]]
        self._write(steps, len(steps))
        self._steps, self.n_steps, self._state = steps, len(steps), state

    def _go(self, done: int) -> bool:
        if not 0 <= done <= len(self._steps):
            return False
        state = self._replayed(done)
        self._write(self._steps, done)
        self.n_steps, self._state = done, state
        return True

    def _replayed(self, done: int) -> State:
        """The discovery after so many steps."""
        clusters = tuple(region.cluster for region in self.findings.regions)
        names = dict.fromkeys((*self.findings.classes, *clusters))
        columns = sorted(names, key=lambda name: name == UNKNOWN)  # that one last
        state = State(tuple(columns), clusters, {}, {name: name for name in columns})
        for verb, *arguments in self._steps[:done]:
            state = STEPS[verb](state, *arguments)
        return state

    def _write(self, steps: Sequence[Sequence[Any]], done: int) -> None:
        stored = {"schema": _SCHEMA, "findings": self._fingerprint, "done": done, "steps": steps}
        with atomic_file(self.file) as staged:
            staged.write_text(json.dumps(stored, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def _decided(weights: dict[str | None, float]) -> str | None:
    others = {label: weight for label, weight in weights.items() if label != GOOD}
    default = GOOD if weights else None  # of an image without crops nobody knows
    return max(others, key=lambda label: (round(others[label], 9), label is not None), default=default)


def _unusable(file: Path, error: Exception) -> InvalidModelError:
    return InvalidModelError(f"{file} is not a board that can be opened ({error}): remove it to begin again")


def _fingerprint(findings: Findings) -> str:
    """Of what the steps refer to."""
    text = json.dumps([findings.classes, [(one.image, one.region, one.cluster) for one in findings.regions]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _groups(embeddings: np.ndarray, parts: int) -> list[np.ndarray]:
    """Rows of each k-means cluster, the largest first; none where fewer rows than parts differ."""
    from sklearn.cluster import KMeans

    if len(np.unique(embeddings, axis=0)) < parts:
        return []
    found = KMeans(parts, n_init=10, random_state=0).fit_predict(embeddings.astype(np.float64))
    groups = [np.flatnonzero(found == part) for part in range(parts)]
    return sorted((rows for rows in groups if len(rows)), key=lambda rows: (-len(rows), rows[0]))
