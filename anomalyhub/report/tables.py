"""predictions.csv: one row per image."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from anomalyhub.errors import InvalidDatasetError
from anomalyhub.fsio import atomic_file
from anomalyhub.types import Inspection

#: What a spreadsheet takes for a formula at the start of a cell.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Prediction(NamedTuple):
    """One row of predictions.csv; the fields are those of Inspection, `path` is its id."""

    path: str
    score: float
    p_value: float | None
    is_anomalous: bool
    label: str

    @classmethod
    def of(cls, one: Inspection) -> Prediction:
        """The row of an inspection."""
        return cls(one.id, one.score, one.p_value, one.is_anomalous, one.label)


def safe_name(path: str) -> str:
    """A relative path as a cell: one that a spreadsheet would run as a formula gets a leading "./"."""
    return "./" + path if path.startswith(_FORMULA) else path


def safe_label(label: str) -> str:
    """A label as a cell: one that a spreadsheet would run as a formula gets a leading apostrophe."""
    return "'" + label if label.startswith((*_FORMULA, "'")) else label


def write_predictions_csv(path: str | Path, rows: Iterable[Prediction | Inspection]) -> None:
    """Write the columns path, score, p_value, is_anomalous, label in UTF-8; replaces an existing file.

    Numbers have 6 significant digits, p_value is empty when uncalibrated, is_anomalous is true or false. A cell that a
    spreadsheet would run as a formula is disarmed: a path by a leading "./", which names the same file, a label
    by a leading apostrophe. Raises OutputError when `path` cannot be written.
    """
    # file names that are not UTF-8 keep their bytes
    with atomic_file(path) as staged, open(staged, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Prediction._fields)
        for row in rows:
            one = row if isinstance(row, Prediction) else Prediction.of(row)
            p_value = "" if one.p_value is None else f"{one.p_value:.6g}"
            verdict = "true" if one.is_anomalous else "false"
            writer.writerow([safe_name(one.path), f"{one.score:.6g}", p_value, verdict, safe_label(one.label)])


def read_predictions_csv(path: str | Path) -> list[Prediction]:
    """Read what `write_predictions_csv` wrote, paths and labels as they were; further columns are ignored.

    Raises InvalidDatasetError naming the file and the line when it is not such a table.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in Prediction._fields if name not in (reader.fieldnames or ())]
            if missing:
                raise InvalidDatasetError(
                    f"{path} is not a table of predictions: column {missing[0]!r} is missing; "
                    "choose a predictions.csv that AnomalyHub wrote"
                )
            return [_prediction(path, reader.line_num, row) for row in reader]
    except (OSError, csv.Error) as error:
        raise InvalidDatasetError(f"{path} cannot be read as a table of predictions: {error}") from error


def _prediction(path: str | Path, line: int, row: dict[str, str]) -> Prediction:
    try:
        name, label = row["path"], row["label"]
        numbers = float(row["score"]), float(row["p_value"] or 0)
        if not all(map(math.isfinite, numbers)) or row["is_anomalous"] not in ("true", "false"):
            raise ValueError
        return Prediction(
            path=name[2:] if name.startswith("./") and name[2:].startswith(_FORMULA) else name,
            score=numbers[0],
            p_value=numbers[1] if row["p_value"] else None,
            is_anomalous=row["is_anomalous"] == "true",
            label=label[1:] if label.startswith("'") else label,
        )
    except (ValueError, TypeError, AttributeError) as error:  # a cell that is no number, or is absent
        raise InvalidDatasetError(
            f"{path} line {line} is not a prediction: score and p_value must be finite numbers, "
            f"is_anomalous true or false, got {list(row.values())}; write the file again"
        ) from error
