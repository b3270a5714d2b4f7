"""What happens on the board of the Discover tab, and what it is saved as: callbacks without gradio."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidModelError
from anomalyhub.fsio import atomic_file
from anomalyhub.report.tables import safe_name
from anomalyhub.review import Board, save_labelled, save_model
from anomalyhub.state import read_json
from anomalyhub.ui import board_view
from anomalyhub.ui.discover import Visit, board_of
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work


def opened(visit: Visit, work: Work) -> Board:
    """The visitor's board. Raises InvalidArgumentError when there is none, InvalidModelError when it is damaged."""
    job = work.get(visit.job_id, "discover")
    if job is None or job.result is None:
        raise InvalidArgumentError("there is no board yet: press Discover in step 2")
    return board_of(job)


def act(visit: Visit, work: Work, deeds: str) -> str:
    """Do what the page asks for, in order; returns what was done last.

    deeds  a JSON list of objects, each with "deed" and what belongs to it; see `_DEEDS`
    Raises InvalidArgumentError for the first that cannot be done; those before it are.
    """
    board, said = opened(visit, work), ""
    try:
        wanted = json.loads(deeds or "[]")
        for one in wanted:
            if one["deed"] == "more":
                name = str(one["column"])
                visit.shown[name] = visit.shown.get(name, board_view.PAGE) + board_view.PAGE
            else:
                said = _DEEDS[one["deed"]](board, one)
    except AnomalyHubError as error:
        if str(board.file.parent) not in str(error):
            raise
        raise AnomalyHubError(str(error).replace(str(board.file.parent), f"job {visit.job_id}")) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidArgumentError(f"the page asked for something unknown ({error!r}): load it again") from error
    return said


def _rename(board: Board, asked: Mapping[str, Any]) -> str:
    return f"{asked['column']} is now called {board.rename(asked['column'], str(asked['name']))}"


def _merge(board: Board, asked: Mapping[str, Any]) -> str:
    board.merge([asked["column"]], asked["into"])
    return f"{asked['column']} was merged into {asked['into']}"


def _split(board: Board, asked: Mapping[str, Any]) -> str:
    return f"{asked['column']} was split into {' and '.join(board.split(asked['column']))}"


def _move(board: Board, asked: Mapping[str, Any]) -> str:
    crops = list(asked["crops"])
    to = asked.get("into")
    if to is None:
        to = board.move_to_new(crops)
    else:
        board.move(crops, to)
    return f"{len(crops)} moved to {to}"


def _mark(board: Board, asked: Mapping[str, Any]) -> str:
    mark = asked["mark"] or None
    if "column" in asked:
        board.mark_column(asked["column"], mark)
    else:
        board.mark(list(asked["crops"]), mark)
    return f"marked {mark}" if mark else "marks taken away"


_DEEDS: dict[str, Callable[[Board, Mapping[str, Any]], str]] = {
    "rename": _rename,  # column, name
    "merge": _merge,  # column, into
    "split": _split,  # column
    "move": _move,  # crops, into (a column; a new one without)
    "mark": _mark,  # crops or column, mark (normal, unsure or empty)
    "undo": lambda board, _: "undone" if board.undo() else "there is nothing to undo",
    "redo": lambda board, _: "done again" if board.redo() else "there is nothing to redo",
}


def pictures(work: Work, asked: Any) -> dict[str, str]:
    """Crops to data URLs; asked is {"job": id, "crops": [...]}, and anything else gives nothing."""
    try:
        return board_view.pictures(_asked_board(work, asked), [int(crop) for crop in asked["crops"]])
    except (AnomalyHubError, KeyError, TypeError, ValueError):
        return {}


def look(work: Work, asked: Any) -> str:
    """A dialog: {"job": id, "crop": number} shows a crop in its image, {"job": id, "sheet": column} a contact sheet."""
    try:
        board = _asked_board(work, asked)
        return (
            board_view.sheet(board, str(asked["sheet"]))
            if "sheet" in asked
            else board_view.look(board, int(asked["crop"]))
        )
    except (AnomalyHubError, KeyError, TypeError, ValueError, IndexError, StopIteration):
        return board_view.message("It is not there any more: load the page again.")


def _asked_board(work: Work, asked: Any) -> Board:
    job = work.get(asked["job"], "discover")
    if job is None or job.result is None:
        raise InvalidArgumentError("no such board")
    return board_of(job)


def metrics(board: Board) -> dict[str, Any]:
    """metrics.json; empty without labels."""
    try:
        return read_json(board.result / "metrics.json")
    except InvalidModelError:
        return {}


# What it is saved as.


def labelled_file(session: Session, visit: Visit, work: Work) -> str:
    """Path of a zip of the labelled data set: images, masks, metadata."""
    board = opened(visit, work)
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        save_labelled(board, Path(folder) / "all")
        return _zipped(session, board, Path(folder) / "all", "labelled")


def model_file(session: Session, visit: Visit, work: Work) -> str:
    """Path of a zip of the discovery model with the corrected kinds; `anomalyhub discover --apply` reads the folder."""
    board = opened(visit, work)
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        save_model(board, Path(folder) / "all" / f"{_slug(board)}-kinds")
        return _zipped(session, board, Path(folder) / "all", "kinds-model")


def table_file(session: Session, visit: Visit, work: Work) -> str:
    """Path of assignments.csv after the corrections: a row per image (region and box empty), then one per region."""
    board = opened(visit, work)
    path = _downloads(session) / f"{_slug(board)}-kinds.csv"
    labels, corrected = board.labels(), board.corrected()
    regions = list(zip(board.findings.regions, labels, corrected, strict=True))
    columns = ["path", "region", "x0", "y0", "x1", "y1", "area", "kind", "probability", "corrected"]
    with atomic_file(path) as staged, open(staged, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for index, (image, label) in enumerate(zip(board.findings.images, board.image_labels(), strict=True)):
            own = [one for one in regions if one[0].image == index]
            changed = _yes(any(moved for _, _, moved in own))
            area = sum(region.area for region, _, _ in own)
            writer.writerow([safe_name(image.id), *[""] * 5, area, _cell(label), f"{image.probability:.6g}", changed])
            for region, kind, moved in own:
                row = [region.region, *region.box, region.area, _cell(kind), f"{region.probability:.6g}", _yes(moved)]
                writer.writerow([safe_name(image.id), *row])
    return str(path)


def _cell(label: str | None) -> str:
    """A kind as a cell that no spreadsheet runs as a formula."""
    text = "unsure" if label is None else label
    return f"'{text}" if text != safe_name(text) else text


def _yes(value: bool) -> str:
    return "true" if value else "false"


def _zipped(session: Session, board: Board, folder: Path, what: str) -> str:
    return shutil.make_archive(str(_downloads(session) / f"{_slug(board)}-{what}"), "zip", folder)


def _downloads(session: Session) -> Path:
    folder = session.folder / "downloads"
    folder.mkdir(exist_ok=True)
    return folder


def _slug(board: Board) -> str:
    """A file name from the product's name."""
    letters = "".join(c if c.isalnum() else " " for c in board.findings.product.lower())
    return "anomalyhub-" + "-".join(letters.split()[:8] or ["kinds"])[:60]
