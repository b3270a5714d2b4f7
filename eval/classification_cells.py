"""The cells of bench_classification.py: which there are and in what order, their ledger on disk, the tables of them."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalyhub.fsio import atomic_file
from anomalyhub.state import jsonable

DATA = ("mtd", "leather")
SEEDS = (1, 2, 3, 4, 5)
SHOTS = (5, 1, 3, 2, 4)  # here and below what matters most comes first, should a run be stopped
HEADS = ("prototype", "contrastive", "relation", "direct")
DETECTED, ORACLE = "detector", "ground-truth"
LEDGER = "cells.jsonl"


@dataclass(frozen=True)
class Cell:
    """One fitted classifier.

    left_out  a class that has no example here: does the head call it unknown? "" in the table of accuracies
    """

    data: str
    head: str
    residual: bool
    pretrained: bool
    masks: str
    shots: int
    seed: int
    left_out: str = ""

    def __str__(self) -> str:
        words = [self.data, self.head, "residuals" if self.residual else "features"]
        words += ["pretrained" if self.pretrained else "not pretrained", self.masks, f"{self.shots} shots"]
        return ", ".join([*words, f"seed {self.seed}", *([f"without {self.left_out}"] if self.left_out else [])])


def variants(head: str) -> list[tuple[bool, bool, str]]:
    """(residual, pretrained, masks) of a head, its default first; `direct` reads pictures and cannot be pretrained."""
    if head == "direct":
        return [(False, False, DETECTED)]
    made = [(residual, pretrained, DETECTED) for residual in (True, False) for pretrained in (True, False)]
    return made + ([(True, True, ORACLE)] if head == "prototype" else [])


def plan(heads: Sequence[str], shots: Sequence[int], seeds: Sequence[int], data: Sequence[str]) -> list[Cell]:
    """All cells of the table of accuracies, those that matter most first."""
    return [
        Cell(name, head, *variant, count, seed)
        for count in sorted(shots, key=SHOTS.index)
        for head in sorted(heads, key=HEADS.index)
        for variant in variants(head)
        for seed in seeds
        for name in data
    ]


def unknown_plan(seeds: Sequence[int], data: Mapping[str, Sequence[str]]) -> list[Cell]:
    """The default head at 5 shots, each of a data set's classes left out of the examples in turn."""
    head, variant, shots = HEADS[0], variants(HEADS[0])[0], SHOTS[0]
    return [Cell(name, head, *variant, shots, seed, out) for seed in seeds for name in data for out in data[name]]


def split(ids: Sequence[str], labels: Sequence[str], shots: int) -> tuple[list[int], list[int]]:
    """Rows of the examples, the first of each class by id, and of the test, all others."""
    order = sorted(range(len(ids)), key=ids.__getitem__)
    classes = sorted(set(labels))
    support = [row for name in classes for row in [row for row in order if labels[row] == name][:shots]]
    return support, sorted(set(order) - set(support))


def read_cells(work: Path) -> dict[Cell, dict[str, Any]]:
    """Finished cells; a line that a kill has cut short is not one, and of two lines of a cell the last counts."""
    return dict(pair for line in _lines(work) if (pair := _parse(line)) is not None)


def add_cell(work: Path, cell: Cell, entry: Mapping[str, Any]) -> None:
    """One more line."""
    line = json.dumps(jsonable({"cell": dataclasses.asdict(cell), **entry}))
    work.mkdir(parents=True, exist_ok=True)
    with open(work / LEDGER, "a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")  # the first line feed ends what a kill may have cut short


def drop_cells(work: Path, gone: Collection[Cell]) -> None:
    """Rewrite the ledger without these."""
    kept = [line for line in _lines(work) if (cell := _parse(line)) is not None and cell[0] not in gone]
    if (work / LEDGER).exists():
        with atomic_file(work / LEDGER) as file:
            file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _lines(work: Path) -> list[str]:
    return (work / LEDGER).read_text(encoding="utf-8").splitlines() if (work / LEDGER).exists() else []


def _parse(line: str) -> tuple[Cell, dict[str, Any]] | None:
    try:
        entry = json.loads(line)
        return Cell(**entry.pop("cell")), entry
    except (json.JSONDecodeError, TypeError, KeyError):
        return None


def table(found: Mapping[Cell, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one head's variant each: by shots the mean and sample standard deviation of the accuracy over seeds."""
    rows: dict[tuple, dict[int, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for cell in sorted((cell for cell in found if not cell.left_out), key=lambda cell: cell.seed):
        key = (cell.data, cell.head, cell.residual, cell.pretrained, cell.masks)
        rows[key][cell.shots].append({"seed": cell.seed, **found[cell]})
    order = [(name, head, *variant) for name in DATA for head in HEADS for variant in variants(head)]
    made = []
    for key in sorted(rows, key=lambda key: (order.index(key) if key in order else len(order), key)):
        names = dict(zip(("data", "head", "residual", "pretrained", "masks"), key, strict=True))
        shots = {str(count): _summary(rows[key][count]) for count in sorted(rows[key])}
        made.append({**names, "shots": shots})
    return made


def _summary(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [entry["accuracy"] for entry in entries]
    recalls = {name: statistics.mean(entry["recalls"][name] for entry in entries) for name in entries[0]["recalls"]}
    return {
        **_spread(values),
        "seeds": [entry["seed"] for entry in entries],
        "values": [round(value, 2) for value in values],
        "recalls": {name: round(value, 1) for name, value in recalls.items()},
        "confidence": round(statistics.mean(entry["confidence"] for entry in entries), 1),
        "n_test": entries[0]["n_test"],
    }


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": deviation}


def unknown_table(found: Mapping[Cell, Mapping[str, Any]]) -> dict[str, Any]:
    """By data set: mean over classes, then mean and deviation over seeds; and each class's mean."""
    result: dict[str, Any] = {}
    cells = sorted((cell for cell in found if cell.left_out), key=lambda cell: (cell.data, cell.seed, cell.left_out))
    for name in sorted({cell.data for cell in cells}):
        own = [cell for cell in cells if cell.data == name]
        of_seeds, of_classes = defaultdict(list), defaultdict(list)
        for cell in own:
            of_seeds[cell.seed].append(found[cell]["auroc"])
            of_classes[cell.left_out].append(found[cell]["auroc"])
        result[name] = {
            "head": own[0].head,
            "shots": own[0].shots,
            "auroc": _spread([statistics.mean(values) for values in of_seeds.values()]),
            "classes": {out: statistics.mean(values) for out, values in of_classes.items()},
            **{key: statistics.mean(found[cell][key] for cell in own) for key in ("called_unknown", "falsely_unknown")},
        }
    return result


def best(rows: Sequence[Mapping[str, Any]], name: str, head: str, shots: int) -> float | None:
    """The highest mean of a head's variants, the oracle's apart."""
    own = [row for row in rows if (row["data"], row["head"], row["masks"]) == (name, head, DETECTED)]
    return max((row["shots"][str(shots)]["mean"] for row in own if str(shots) in row["shots"]), default=None)
