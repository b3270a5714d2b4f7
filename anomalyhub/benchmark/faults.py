"""All that is wrong with a submission, for people who want to mend it at once."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from anomalyhub.benchmark.recheck import Truth
from anomalyhub.benchmark.submission import KIND, SCHEMA, _parse, read_submission
from anomalyhub.errors import AnomalyHubError, InvalidRecordError

#: Faults that are looked for: each takes another reading.
MOST = 20
_HEADER = {"schema": SCHEMA, "kind": KIND, "by": "anybody", "method": "any"}
_ROW, _OTHER = re.compile(r"row (\d+): "), re.compile(r"is row (\d+) too")


def submission_faults(path: str | Path, truth: Truth | None = None) -> list[str]:
    """A sentence for each fault: the first of what stands above the rows, of each row, and of the means; at most MOST.

    truth  as of `read_submission`, which reads it where this is empty
    """
    path = Path(path)
    try:
        read_submission(path, truth)
        return []
    except InvalidRecordError as error:
        first = str(error).removeprefix(f"{path} is refused: ")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        rows = list(enumerate(content["rows"], 1))
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return [first]
    return _faults({key: value for key, value in content.items() if key != "rows"}, rows, path.parent, truth) or [first]


def _faults(header: Any, rows: list[tuple[int, Any]], folder: Path, truth: Truth | None) -> list[str]:
    """Row after row is taken away once its fault is known; a header with a fault is replaced."""
    found: list[str] = []
    count = len(rows)
    while rows and len(found) < MOST:
        try:
            _parse({**header, "rows": [value for _, value in rows]}, folder, truth)
            break
        except (AnomalyHubError, ValueError, RecursionError, OSError) as error:
            text = str(error)
        if match := _ROW.match(text):
            if other := _OTHER.search(text):
                text = _OTHER.sub(f"is row {rows[int(other[1]) - 1][0]} too", text)
            number, _ = rows.pop(int(match[1]) - 1)
            found.append(f"row {number}: {text[match.end() :]}")
        elif header is not _HEADER:
            found.append(text)
            header = _HEADER
        else:  # a mean that its rows do not give, which may have lost some of them here
            found += [text] if len(rows) == count and text not in found else []
            break
    return found
