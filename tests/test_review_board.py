"""The board: what each operation does, what is refused, and that undo and a reload lose nothing."""

from __future__ import annotations

import copy
import errno
import io
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_helpers import write_embeddings, write_findings

from anomalyhub.data.layouts import _NORMAL as NORMAL_OF_LAYOUTS
from anomalyhub.errors import InvalidArgumentError, InvalidModelError, OutputError, UnknownNameError
from anomalyhub.report.findings import Findings
from anomalyhub.review import Board
from anomalyhub.review.steps import _NORMAL, clean_name, folder_name

START = {"kind_1": [0, 1, 3], "kind_2": [2, 4, 7], "kind_3": [6, 5], "unknown": [8]}
#: Two far apart groups in kind_2, 2 and 7 against 4, which 8 is like; the crops of the other kinds are alike.
EMBEDDINGS = [(0, 0), (0, 0), (5, 5), (0, 0), (9, 0), (3, 3), (3, 3), (5, 6), (9, 1)]


@pytest.fixture
def board(tmp_path):
    return Board.open(write_findings(tmp_path), tmp_path / "job" / "board.json")


def held(board: Board) -> dict[str, list[int]]:
    return {column.name: column.crops for column in board.columns()}


def everything(board: Board):
    return (
        board.columns(),
        board.marks,
        board.labels(),
        board.image_labels(),
        board.corrected(),
        board.name_of("kind_2"),
    )


def reopened(board: Board) -> Board:
    return Board.open(board.result, board.file)


def test_it_starts_from_what_was_discovered(board):
    assert held(board) == START  # most probable first, "unknown" last
    first = board.columns()[0]
    assert first.probability == pytest.approx((0.9 + 0.8 + 0.6) / 3) and first.n_images == 3 and first.mark is None
    assert board.labels() == ["kind_1", "kind_1", "kind_2", "kind_1", "kind_2", "kind_3", "kind_3", "kind_2", "unknown"]
    assert not any(board.corrected()) and not board.can_undo and not board.can_redo and board.n_steps == 0
    assert not board.file.exists() and not board.undo() and not board.redo() and not board.file.exists()


def test_a_kind_without_crops_is_a_column(tmp_path):
    result = write_findings(tmp_path)
    stored = json.loads((result / "findings.json").read_text())
    stored["classes"] = ["scratch", *stored["classes"]]
    (result / "findings.json").write_text(json.dumps(stored))
    board = Board.open(result, tmp_path / "board.json")
    column = board.columns()[0]
    assert (column.name, column.crops, column.probability, column.n_images, column.mark) == ("scratch", [], 0, 0, None)
    board.move([8], "scratch")
    board.move([8], "kind_1")
    assert "scratch" not in held(board)


def test_rename(board):
    assert board.rename("kind_2", "  deep   scratch ") == "deep scratch"
    assert list(held(board)) == ["kind_1", "deep scratch", "kind_3", "unknown"]
    assert held(board)["deep scratch"] == [2, 4, 7] and board.name_of("kind_2") == "deep scratch"
    assert not any(board.corrected())  # a name is not a correction
    board.rename("deep scratch", "Deep Scratch")  # its own name in other letters is free
    assert board.rename("kind_1", "Normal") == "good"
    assert board.labels()[:4] == ["good", "good", "Deep Scratch", "good"]


def test_merge(board):
    board.merge(["kind_3", "kind_1", "kind_2"], "kind_2")
    assert held(board) == {"kind_2": [6, 2, 0, 1, 4, 5, 3, 7], "unknown": [8]}
    assert board.name_of("kind_3") == "kind_2" and not any(board.corrected())


def test_move(board):
    board.move([3, 0, 3], "kind_3")
    assert held(board) == {"kind_1": [1], "kind_2": [2, 4, 7], "kind_3": [6, 0, 5, 3], "unknown": [8]}
    assert [crop for crop, changed in enumerate(board.corrected()) if changed] == [0, 3]
    assert board.column_of(0) == "kind_3"
    board.move([8], "kind_1")
    assert "unknown" not in held(board)  # a column that is left empty goes
    assert board.move_to_new([2, 1]) == "kind_4"
    assert list(held(board).items())[-1] == ("kind_4", [2, 1])
    assert board.move_to_new([4], "dent") == "dent" and list(held(board))[-1] == "dent"


def test_a_new_column_never_takes_the_name_of_a_discovered_kind(board):
    board.merge(["kind_3"], "kind_2")
    assert board.move_to_new([0]) == "kind_4"


def test_marks(board):
    board.mark([2, 7], "normal")
    board.mark([3], "unsure")
    assert board.marks == {2: "normal", 7: "normal", 3: "unsure"} and held(board) == START
    assert board.labels() == ["kind_1", "kind_1", "good", None, "kind_2", "kind_3", "kind_3", "good", "unknown"]
    assert [crop for crop, changed in enumerate(board.corrected()) if changed] == [2, 3, 7]
    board.mark([7], None)
    assert board.marks == {2: "normal", 3: "unsure"}
    board.move([2], "kind_3")  # the person has decided
    assert board.marks == {3: "unsure"} and board.labels()[2] == "kind_3"
    board.mark_column("kind_3", "normal")
    assert [column.mark for column in board.columns()] == [None, None, "normal", None]
    board.merge(["kind_3"], "kind_2")  # keeps them
    assert {board.labels()[crop] for crop in (2, 5, 6)} == {"good"}


@pytest.mark.parametrize(
    ("normal", "unsure", "labels"),
    [
        ([], [], ("kind_2", "kind_2")),  # b/2.jpg has regions 2 and 3 of .7 and .3, b/3.png 4 and 5 of .5 each
        ([2], [], ("kind_1", "kind_2")),  # normal regions never outvote a defect
        ([2, 3], [], ("good", "kind_2")),
        ([3], [2], (None, "kind_2")),
        ([], [3], ("kind_2", "kind_2")),
        ([2], [3], (None, "kind_2")),  # nor an unsure region, which may be one
        ([], [2], (None, "kind_2")),
        ([4], [], ("kind_2", "kind_3")),
        ([], [4], ("kind_2", "kind_3")),  # of equals a defect wins over unsure
        ([5], [4], ("kind_2", None)),
        ([], [4, 5], ("kind_2", None)),
        ([4, 5], [], ("kind_2", "good")),
    ],
)
def test_image_labels(board, normal, unsure, labels):
    for crops, mark in ((normal, "normal"), (unsure, "unsure")):
        if crops:
            board.mark(crops, mark)
    assert board.image_labels() == ["kind_1", "kind_1", *labels, "kind_3", "kind_2", "unknown"]


def test_a_defect_is_never_outvoted_by_normal_regions(tmp_path):
    """Whether the normal ones were marked, or are of a kind that was named so; b/2.jpg has the crops 2 and 3."""
    result = write_findings(tmp_path)
    stored = json.loads((result / "findings.json").read_text())
    stored["regions"][2]["weight"], stored["regions"][3]["weight"] = 0.01, 0.99
    (result / "findings.json").write_text(json.dumps(stored))
    board = Board.open(result, tmp_path / "board.json")
    assert board.image_labels()[2] == "kind_1"  # kinds do outvote each other
    board.rename("kind_1", "normal")
    assert board.image_labels()[:3] == ["good", "good", "kind_2"]
    board.undo()
    board.mark([3], "normal")
    assert board.image_labels()[2] == "kind_2"
    board.mark([3], "unsure")
    assert board.image_labels()[2] is None
    board.move([2, 3], "kind_3")
    board.mark([2, 3], "normal")
    assert board.image_labels()[2] == "good"


def test_two_small_regions_of_a_kind_outweigh_a_larger_one_of_another(tmp_path):
    result = write_findings(tmp_path)
    stored = json.loads((result / "findings.json").read_text())
    stored["regions"][7]["image"], stored["regions"][6]["image"] = 2, 2
    for row, weight in ((2, 0.4), (3, 0.1), (6, 0.25), (7, 0.25)):
        stored["regions"][row]["weight"] = weight
    (result / "findings.json").write_text(json.dumps(stored))
    board = Board.open(result, tmp_path / "board.json")
    assert board.image_labels()[2] == "kind_2"
    board.move([7], "kind_3")
    assert board.image_labels()[2] == "kind_3" and board.image_labels()[4:6] == [None, None]  # images of no crop


def test_split(board):
    write_embeddings(board.result, EMBEDDINGS)
    board.mark([4], "unsure")
    assert board.split("kind_2") == ["kind_2", "kind_2 2"]
    assert held(board) == {"kind_1": [0, 1, 3], "kind_2": [2, 7], "kind_2 2": [4], "kind_3": [6, 5], "unknown": [8]}
    assert board.marks == {4: "unsure"} and board.corrected()[4] and not board.corrected()[2]
    assert reopened(board).columns() == board.columns()
    board.undo()
    assert held(board) == START
    board.move([8], "kind_2")  # it was not in the fit, and goes where it belongs all the same
    assert board.split("kind_2") == ["kind_2", "kind_2 2"]
    assert held(board)["kind_2"] == [2, 7] and held(board)["kind_2 2"] == [4, 8]
    assert board.split("kind_2 2") == ["kind_2 2", "kind_2 2 2"]
    assert (held(board)["kind_2 2"], held(board)["kind_2 2 2"]) == ([4], [8])


def test_split_of_crops_that_were_not_in_the_fit(tmp_path):
    """All of an applied discovery, and of images that were left out."""
    result = write_findings(tmp_path, applied=True)
    write_embeddings(result, EMBEDDINGS)
    board = Board.open(result, tmp_path / "board.json")
    assert {region.fitted for region in board.findings.regions} == {None}
    assert board.split("kind_2", 3) == ["kind_2", "kind_2 2", "kind_2 3"]
    assert [held(board)[name] for name in ("kind_2", "kind_2 2", "kind_2 3")] == [[2], [4], [7]]
    assert reopened(board).columns() == board.columns() and not (result / "model").exists()


def test_split_keeps_names_short_and_apart(board):
    write_embeddings(board.result, EMBEDDINGS)
    long = board.rename("kind_2", "x" * 60)
    assert board.split(long) == [long, "x" * 56 + " 2"]
    board.merge([long], "x" * 56 + " 2")
    assert board.split("x" * 56 + " 2")[1] == "x" * 56 + " 3"


@pytest.mark.parametrize(
    ("column", "parts", "message"),
    [
        ("kind_9", 2, "unknown column 'kind_9': did you mean 'kind_"),
        ("kind_2", 1, "at least 2 parts, got 1"),
        ("kind_2", 2.0, "at least 2 parts, got 2.0"),
        (
            "kind_2",
            4,
            "the 3 crops of 'kind_2' do not differ enough for 4 parts: give fewer parts, or move crops by hand",
        ),
        ("kind_1", 2, "the 3 crops of 'kind_1' do not differ enough for 2 parts"),  # all embeddings are the same
        ("unknown", 2, "the 1 crops of 'unknown' do not differ"),
    ],
)
def test_a_split_that_cannot_be(board, column, parts, message):
    write_embeddings(board.result, EMBEDDINGS)
    with pytest.raises(InvalidArgumentError, match=message):
        board.split(column, parts)
    assert held(board) == START and not board.can_undo


def huge(kept: bytes) -> bytes:
    return kept.replace(b"(9, 2), }           ", b"(99999999999999, 2)}")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda kept: None, r"cannot be read \(.*No such file or directory"),
        (lambda kept: b"", "cannot be read"),
        (lambda kept: kept[:-3], "cannot be read"),
        (lambda kept: kept[:40], "cannot be read"),
        (lambda kept: b"PK\x03\x04" + kept[4:], "cannot be read"),  # would be an archive
        (lambda kept: kept.replace(b"2), }", b"27, }"), "cannot be read"),  # no Python literal any more
        (huge, "cannot be read"),  # 728 TiB
        (lambda kept: saved(np.array([None])), "cannot be read .*allow_pickle=False"),
        (lambda kept: saved(np.array(EMBEDDINGS[:8], np.float32)), r"not of these 9 regions \(shape \(8, 2\)\)"),
        (lambda kept: saved(np.array(EMBEDDINGS[0] * 9, np.float32)), r"not of these 9 regions \(shape \(18,\)\)"),
        (lambda kept: saved(np.array(EMBEDDINGS, np.float64)), "not of these 9 regions"),
        (lambda kept: saved(np.array([*EMBEDDINGS[:8], (9, np.nan)], np.float32)), "NaN or infinite"),
    ],
)
def test_a_split_with_damaged_embeddings(board, damage, reason):
    write_embeddings(board.result, EMBEDDINGS)
    file = board.result / "embeddings.npy"
    data = damage(file.read_bytes())
    assert data != file.read_bytes()
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InvalidModelError, match=f"embeddings.npy .*{reason}.*: copy it again"):
        board.split("kind_2")
    assert held(board) == START and not board.can_undo and not board.file.exists()


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("dent", "dent"),
        ("  deep \t\n scratch ", "deep scratch"),
        ("Öl/Fett: alt?", "Öl_Fett_ alt_"),
        ("O\u0308l", "\u00d6l"),  # composed
        ("../../etc", "_.._etc"),
        ("a\x00b\ud800", "a_b_"),
        ("ok", "good"),
        ("GOOD.", "good"),
        ("Unknown", "unknown"),
        ("con", "_con"),
        ("Nul.txt", "_Nul.txt"),
        ("__MACOSX", "___MACOSX"),
        ("划痕", "划痕"),
        ("x" * 60, "x" * 60),
        (7, "7"),
    ],
)
def test_names_are_made_fit_for_folders(tmp_path, typed, name):
    assert clean_name(typed) == name == folder_name(name)
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("typed", ["", "  ", "...", ". .", "x" * 61])
def test_names_that_will_not_do(board, typed):
    for operation in (lambda: board.rename("kind_1", typed), lambda: board.move_to_new([0], typed)):
        with pytest.raises(InvalidArgumentError, match="a name has 1 to 60 characters"):
            operation()
    assert held(board) == START


def test_the_names_of_normal_folders_are_those_of_the_layouts():
    assert _NORMAL == NORMAL_OF_LAYOUTS


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda board: board.rename("kind_9", "dent"), "unknown column 'kind_9'"),
        (lambda board: board.rename("kind_1", "KIND_2"), "there is a column 'kind_2' already: merge with it"),
        (lambda board: board.rename("kind_1", "unknown"), "there is a column 'unknown' already"),
        (lambda board: board.merge(["kind_1", "dent"], "kind_2"), "unknown column 'dent'"),
        (lambda board: board.merge(["kind_1"], "dent"), "unknown column 'dent'"),
        (lambda board: board.move([0], "dent"), "unknown column 'dent'"),
        (lambda board: board.move([0], None), "unknown column 'None'"),
        (lambda board: board.move([], "kind_2"), "no crop is chosen: choose at least one"),
        (lambda board: board.move([0, 9], "kind_2"), "crop 9 is not one of this board's 9"),
        (lambda board: board.move([-1], "kind_2"), "crop -1 is not one"),
        (lambda board: board.move(["0"], "kind_2"), "crops are whole numbers"),
        (lambda board: board.move([1.0], "kind_2"), "crops are whole numbers"),
        (lambda board: board.move(None, "kind_2"), "crops are whole numbers"),
        (lambda board: board.move_to_new([0], "Kind_2"), "there is a column 'kind_2' already"),
        (lambda board: board.move_to_new([99]), "crop 99 is not one"),
        (lambda board: board.mark([99], "normal"), "crop 99 is not one"),
        (lambda board: board.mark([0], "bad"), "a mark is normal, unsure or None, got 'bad'"),
        (lambda board: board.mark_column("dent", "normal"), "unknown column 'dent'"),
        (lambda board: board.column_of(9), "crop 9 is not one"),
    ],
)
def test_what_is_refused_changes_nothing(board, operation, message):
    with pytest.raises(InvalidArgumentError, match=message):
        operation(board)
    assert held(board) == START and not board.can_undo and not board.file.exists()


def test_what_changes_nothing_is_no_step(board):
    board.rename("kind_1", "dent")
    board.undo()
    board.merge(["kind_2"], "kind_2")
    board.rename("kind_2", "kind_2")
    board.move([0, 1], "kind_1")
    board.mark([0], None)
    assert not board.can_undo and board.can_redo  # and what was undone can still be redone
    assert board.redo() and "dent" in held(board)


def test_a_new_step_replaces_what_was_undone(board):
    board.rename("kind_1", "dent")
    board.rename("dent", "hole")
    assert board.undo() and board.undo() and not board.undo()
    board.mark([0], "normal")
    assert board.n_steps == 1 and not board.redo() and list(held(board)) == list(START)


OPERATIONS = st.one_of(
    st.tuples(st.just("rename"), st.integers(0, 9), st.sampled_from(["dent", "Normal", "kind_2", "a/b", ""])),
    st.tuples(st.just("merge"), st.lists(st.integers(0, 9), max_size=3), st.integers(0, 9)),
    st.tuples(st.just("split"), st.integers(0, 9), st.integers(1, 3)),
    st.tuples(st.just("move"), st.lists(st.integers(-1, 9), max_size=4), st.integers(0, 9)),
    st.tuples(
        st.just("move_to_new"), st.lists(st.integers(0, 8), max_size=4), st.sampled_from([None, "crack", "good"])
    ),
    st.tuples(st.just("mark"), st.lists(st.integers(0, 8), max_size=4), st.sampled_from(["normal", "unsure", None])),
    st.tuples(st.just("mark_column"), st.integers(0, 9), st.sampled_from(["normal", "unsure", None])),
    st.tuples(st.just("undo")),
    st.tuples(st.just("redo")),
)


def perform(board: Board, verb: str, *arguments) -> None:
    """One operation with columns by their number; those that are refused are part of the game."""
    names = [column.name for column in board.columns()]

    def name(number: int) -> str:
        return names[number % len(names)]

    if verb in ("rename", "split", "mark_column"):
        arguments = (name(arguments[0]), *arguments[1:])
    elif verb == "merge":
        arguments = ([name(number) for number in arguments[0]], name(arguments[1]))
    elif verb == "move":
        arguments = (arguments[0], name(arguments[1]))
    try:
        getattr(board, verb)(*arguments)
    except InvalidArgumentError:
        pass


@settings(max_examples=50)
@given(operations=st.lists(OPERATIONS, max_size=12))
def test_undo_leads_back_and_a_reload_changes_nothing(tmp_path_factory, operations):
    folder = tmp_path_factory.mktemp("job")
    result = write_findings(folder)
    write_embeddings(result, EMBEDDINGS)
    board = Board.open(result, folder / "board.json")
    start, seen = everything(board), []
    for operation in operations:
        before, steps = everything(board), board.n_steps
        perform(board, *operation)
        assert everything(reopened(board)) == everything(board)
        if operation[0] not in ("undo", "redo") and board.n_steps > steps:
            seen = [*seen[:steps], before]
        assert sorted(crop for column in board.columns() for crop in column.crops) == list(range(9))
        names = [column.name.casefold() for column in board.columns()]
        assert len(set(names)) == len(names)
    end, steps = everything(board), board.n_steps
    board = reopened(board)
    for expected in reversed(seen[:steps]):
        assert board.undo() and everything(board) == expected
    assert not board.undo() and everything(board) == start == everything(reopened(board))
    for _ in range(steps):
        assert reopened(board).can_redo and board.redo()
    assert everything(board) == end


def test_two_tabs(board):
    """The last one to write wins, and neither ever finds a board that it cannot open or undo."""
    other = reopened(board)
    board.rename("kind_1", "dent")
    board.rename("dent", "hole")
    other.mark([0], "normal")
    assert reopened(board).labels() == other.labels()
    assert board.undo() and board.undo() and not board.undo()
    assert other.undo() and not other.undo() and held(reopened(board)) == START
    assert board.redo() and held(reopened(board)) == held(board)


def test_a_full_disk_changes_nothing(board, monkeypatch):
    board.rename("kind_1", "dent")
    before, kept = copy.deepcopy(everything(board)), board.file.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for operation in (lambda: board.mark([0], "normal"), board.undo):
        with pytest.raises(OutputError, match="board.json: No space left on device; free some space"):
            operation()
        assert everything(board) == before and board.file.read_bytes() == kept and board.n_steps == 1
    assert os.listdir(board.file.parent) == ["board.json"]


DAMAGE = [
    (lambda stored: stored.clear(), "'schema'"),
    (lambda stored: stored.update(schema=2), "a newer AnomalyHub wrote it"),
    (lambda stored: stored.update(findings="0" * 16), "it belongs to another discovery"),
    (lambda stored: stored.update(done=3), "it counts 3 of 1 steps"),
    (lambda stored: stored.update(done="1"), "not supported between"),
    (lambda stored: stored.update(steps=[["explode"]]), "'explode'"),
    (lambda stored: stored.update(steps=[[]]), "not enough values"),
    (lambda stored: stored.update(steps=[["rename", "kind_9", "dent"]]), "unknown column"),
    (lambda stored: stored.update(steps=[["move", [77], "kind_1"]], done=0), "crop 77"),  # a redo would find it
    (lambda stored: stored.update(steps=[["move", [0.5], "kind_1"]]), "list indices"),
    (lambda stored: stored.update(steps=[["rename", "kind_1", 5]]), "expected string"),
]


@pytest.mark.parametrize(("change", "reason"), DAMAGE)
def test_a_damaged_file_is_named(board, change, reason):
    board.rename("kind_1", "dent")
    stored = json.loads(board.file.read_text())
    change(stored)
    board.file.write_text(json.dumps(stored))
    with pytest.raises(
        InvalidModelError, match=rf"board.json is not a board that can be opened \(.*{reason}.*remove it"
    ):
        reopened(board)


def test_what_is_no_board(board, tmp_path):
    for text in (b"{", b"[]", b"\xff\xfe"):
        (tmp_path / "board.json").write_bytes(text)
        with pytest.raises(InvalidModelError, match="board.json is not a board that can be opened"):
            Board.open(board.result, tmp_path / "board.json")
    with pytest.raises(InvalidModelError, match="is not a board that can be opened"):
        Board.open(board.result, tmp_path)
    with pytest.raises(InvalidModelError, match="no findings.json"):
        Board.open(tmp_path, tmp_path / "none.json")


def test_a_board_of_thousands_stays_small_and_quick(tmp_path):
    result = write_findings(tmp_path)
    found = Findings.read(result)
    many = Findings("part", found.classes, found.images, found.regions * 400)
    many.write(result)
    board = Board.open(result, tmp_path / "board.json")
    for crop in range(100):
        board.move([crop], "kind_3" if crop % 2 else "kind_2")
    assert board.file.stat().st_size < 4_000
    again = reopened(board)
    while again.undo():
        pass
    assert again.labels() == [region.cluster for region in many.regions]


def test_an_unknown_column_names_the_nearest(board):
    with pytest.raises(UnknownNameError, match="did you mean 'kind_1'"):
        board.move([0], "kind1")
