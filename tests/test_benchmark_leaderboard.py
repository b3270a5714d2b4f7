"""The leaderboard: three origins side by side, filters, order, and submissions into folders and stores."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from anomalyhub.benchmark import leaderboard
from anomalyhub.benchmark.leaderboard import ranked, read_board, select, submit, to_csv, to_json
from anomalyhub.benchmark.records import Predictions, Record, Unit, write_record
from anomalyhub.errors import InvalidArgumentError, InvalidRecordError, StoreError, UnknownNameError
from anomalyhub.hub import create_store
from anomalyhub.hub.share import share


def record(method="contrastive", product="bottle", shots=5, accuracy=0.5, seconds=3.0) -> Record:
    unit = Unit("classification", method, "backbone=embedded", "mvtec_ad", product, "few-shot", shots, 1)
    return Record(unit, {}, {"accuracy": accuracy}, 48, "liu2024", seconds={"total": seconds})


def write_run(folder: Path, *records: Record) -> Path:
    for one in records:
        write_record(folder / "units", one, predictions(round(100 * one.metrics["accuracy"])))
    return folder


def predictions(percent: int) -> Predictions:
    """Of a hundred images, of which so many are named rightly."""
    table = [(f"{n}.png", "cut", "cut" if n < percent else "dent") for n in range(100)]
    return Predictions(("id", "label", "predicted"), table)


def write_submission(folder: Path, accuracy=0.7917, **changes) -> Path:
    row = {"task": "classification", "dataset": "mvtec_ad", "product": "bottle", "protocol": "few-shot", "shots": 5}
    row |= {"seeds": 1, "metrics": {"accuracy": accuracy}}
    content = {"schema": 1, "kind": "benchmark-submission", "by": "Ada", "method": "Mine", "rows": [row]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.json").write_text(json.dumps(content | changes), encoding="utf-8")
    return folder / "mine.json"


@pytest.fixture
def results(tmp_path):
    """A run with two methods, and a submission."""
    folder = tmp_path / "results"
    write_run(folder / "liu2024", record(), record("prototype", accuracy=0.75, seconds=1.0), record(shots=2))
    submit(write_submission(tmp_path), folder)
    return folder


def names(rows) -> list[tuple[str, str]]:
    return [(row.origin, row.method) for row in rows]


def test_three_origins_on_one_board(results):
    board = read_board([results])
    assert board.notices == ()
    rows = ranked(select(board.rows, dataset="MVTec AD", shots=5, product="bottle"), "accuracy", "bottle")
    figures = [row.value("bottle", "accuracy").mean for row in rows]
    assert figures == sorted(figures, reverse=True)
    shown = [row for row in rows if row.origin != "published" or row.source == "liu2024, Table 1"]
    assert names(shown) == [
        ("published", "Contrastive classifier"),  # 80.83
        ("submitted", "Mine"),
        ("ours", "prototype"),
        ("ours", "contrastive"),
    ]
    assert [row.value("bottle", "accuracy").mean for row in shown] == [0.8083, 0.7917, 0.75, 0.5]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"origin": "ours"}, {("prototype", 5), ("contrastive", 5), ("contrastive", 2)}),
        ({"origin": "ours", "shots": "2"}, {("contrastive", 2)}),
        ({"origin": "ours", "shots": "all"}, set()),
        ({"origin": "submitted"}, {("Mine", 5)}),
        ({"search": "ADA mine"}, {("Mine", 5)}),
        ({"search": "maml", "shots": 1, "dataset": "mvtec"}, {("Contrastive classifier", 1)}),
        (
            {"task": "discovery", "dataset": "mtd", "search": "GT masks", "metric": "ari"},
            {("AnomalyNCD", None), ("Anomaly Clustering", None)},
        ),
        ({"product": "candle", "shots": 0}, {("APRIL-GAN", 0)}),
        ({"metric": "balanced_accuracy"}, set()),
    ],
)
def test_filters(results, wanted, expected):
    assert {(row.method, row.shots) for row in select(read_board([results]).rows, **wanted)} == expected


def test_ablations_can_be_left_out():
    rows = read_board().rows
    kept = select(rows, ablations=False)
    assert len(select(rows)) == len(rows) and 0 < len(kept) < len(rows)
    assert {row.source for row in rows} - {row.source for row in kept} >= {
        "liu2024, Table 5",
        "anomalyncd2024, Table V",
    }


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"task": "segmentation"}, "unknown task"),
        ({"dataset": "vissa"}, "did you mean 'visa'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"product": "botle"}, "did you mean 'bottle'"),
        ({"origin": "theirs"}, "unknown origin"),
        ({"shots": "few"}, "give a number, or all"),
    ],
)
def test_unknown_filters(wanted, text):
    with pytest.raises(InvalidArgumentError, match=text):
        select(read_board().rows, **wanted)


def test_order(results):
    ours = select(read_board([results], published=False).rows, origin="ours")
    assert names(ranked(ours, "seconds"))[0][1] == "prototype"
    assert [row.shots for row in ranked(ours, "shots")] == [2, 5, 5]
    assert [row.method for row in ranked(ours, "-method")] == ["prototype", "contrastive", "contrastive"]
    assert [row.method for row in ranked(ours, "-accuracy", "bottle")][-1] == "prototype"
    without = ranked(select(read_board([results]).rows, task="classification"), "seconds")
    assert [row.origin for row in without[:3]] == ["ours"] * 3  # the others do not say theirs
    with pytest.raises(UnknownNameError, match="did you mean 'seconds'"):
        ranked(ours, "second")


def test_order_by_default_puts_the_best_of_a_task_and_data_set_first():
    rows = ranked(select(read_board().rows, ablations=False))
    mvtec = [row for row in rows if (row.task, row.dataset) == ("detection", "mvtec_ad")]
    assert (mvtec[0].method, mvtec[0].value("mean", "image_auroc").mean) == ("DiffusionAD", 0.997)
    assert len({(row.task, row.dataset) for row in rows}) == 1 + sum(
        (one.task, one.dataset) != (two.task, two.dataset) for one, two in zip(rows, rows[1:], strict=False)
    )


def test_json_and_csv_have_the_figures(results):
    rows = select(read_board([results]).rows, shots=5, dataset="mvtec_ad", product="bottle")
    for row in rows:
        found = json.loads(json.dumps(to_json(row)))
        assert (
            found["origin"] == row.origin
            and found["products"]["bottle"]["accuracy"]["mean"] == row.value("bottle", "accuracy").mean
        )
    lines = list(csv.DictReader(io.StringIO(to_csv(rows, ("bottle",), "accuracy"))))
    assert [float(line["mean"]) for line in lines] == [row.value("bottle", "accuracy").mean for row in rows]
    assert {line["origin"] for line in lines} == {"ours", "published", "submitted"}
    everything = list(csv.DictReader(io.StringIO(to_csv(rows, None))))
    assert {line["product"] for line in everything} >= {"bottle", "mean", "zipper"}


def test_a_formula_in_a_csv_is_disarmed(tmp_path):
    submit(write_submission(tmp_path, method="=cmd()", notes="+1"), tmp_path / "results")
    (line,) = csv.DictReader(io.StringIO(to_csv(read_board([tmp_path / "results"], published=False).rows)))
    assert line["method"] == "'=cmd()" and line["notes"].startswith("'+1")


def test_submission_lands_with_its_predictions(tmp_path):
    rows = [["id", "label", "predicted"]] + [
        [f"{kind}/{n}", kind, "a"] for kind, count in (("a", 15), ("b", 33)) for n in range(count)
    ]
    path = write_submission(
        tmp_path / "mine",
        rows=[
            {
                "task": "classification",
                "dataset": "mvtec_ad",
                "product": "bottle",
                "protocol": "few-shot",
                "shots": 5,
                "seeds": 1,
                "predictions": ["a.csv"],
            }
        ],
    )
    with open(path.parent / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    submission, where = submit(path, tmp_path / "results")
    assert {one.name for one in Path(where).iterdir()} == {"submission.json", "a.csv"}
    (row,) = read_board([tmp_path / "results"], published=False).rows
    assert row.value("bottle", "accuracy").mean == pytest.approx(15 / 48)
    assert row.checked.startswith("accuracy") and submission.id in where


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "is there already"),
        ({"accuracy": 0.7708}, "has too, of classification mvtec_ad few-shot 5 bottle: tell them apart by variant"),
        ({"accuracy": 0.5, "by": "ada", "method": "MINE"}, "has too"),
    ],
)
def test_submitted_twice(results, tmp_path, changes, text):
    with pytest.raises(InvalidRecordError, match=text):
        submit(write_submission(tmp_path / "again", **changes), results)
    assert len(list((results / "submissions").iterdir())) == 1


def test_another_variant_is_another_submission(results, tmp_path):
    submit(write_submission(tmp_path / "again", variant="large"), results)
    assert len(select(read_board([results]).rows, origin="submitted")) == 2


def test_what_is_no_submission_is_left_out_with_a_notice(results):
    bad = results / "submissions" / "0" / "submission.json"
    bad.parent.mkdir()
    bad.write_text("{}")
    board = read_board([results])
    assert len(select(board.rows, origin="submitted")) == 1
    assert len(board.notices) == 1 and "is refused" in board.notices[0]


def test_two_runs_with_other_settings_are_two_rows(results):
    other = Record(record().unit, {"coreset": 0.5}, {"accuracy": 0.25}, 48, "other")
    write_run(results / "other", other)
    rows = select(read_board([results], published=False).rows, search="contrastive", shots=5)
    assert sorted(row.source for row in rows) == ["liu2024", "other"]


def test_a_folder_without_results_is_refused(tmp_path):
    for path, text in ((tmp_path, "no results and no submissions"), (tmp_path / "none", "is no folder")):
        with pytest.raises(InvalidRecordError, match=text):
            read_board([path])


@pytest.fixture
def store(results, tmp_path):
    """A store with a data set of results."""
    (tmp_path / "store").mkdir()
    share(results, "acme/results", "dataset", store=f"folder:{tmp_path / 'store'}")
    return f"folder:{tmp_path / 'store'}"


def test_results_of_a_store(store, monkeypatch, tmp_path):
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "home"))
    rows = read_board(["hf:acme/results"], published=False, store=store).rows
    assert sorted(names(rows)) == [
        ("ours", "contrastive"),
        ("ours", "contrastive"),
        ("ours", "prototype"),
        ("submitted", "Mine"),
    ]


def test_runs_of_others_are_named_and_computed_again(results, tmp_path, monkeypatch):
    """One run whose figures its predictions do not give, one that is damaged, one that is as it should be."""
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "home"))
    (tmp_path / "store").mkdir()
    store = f"folder:{tmp_path / 'store'}"
    for name, percent in (("honest", 50), ("boasting", 40)):
        write_record(results / name / "units", record(name), predictions(percent))
    write_run(results / "damaged", record("damaged"))
    next((results / "damaged" / "units").glob("*.json")).write_text("{}")
    share(results, "acme/results", "dataset", store=store)
    board = read_board(["hf:acme/results"], published=False, store=store)
    assert [row.source for row in board.rows if row.method == "honest"] == ["liu2024, hf:acme/results"]
    assert not {"boasting", "damaged"} & {row.method for row in board.rows}
    assert len(board.notices) == 2
    assert any("gives accuracy 0.4, and its record has 0.5" in notice for notice in board.notices)
    assert any("is no record of a benchmark" in notice for notice in board.notices)


def test_submission_to_a_store(store, monkeypatch, tmp_path):
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "home"))
    before = {entry.path for entry in create_store(store).files("acme/results", "dataset").entries}
    submit(write_submission(tmp_path / "again", variant="large"), "hf:acme/results", store=store)
    after = {entry.path for entry in create_store(store).files("acme/results", "dataset").entries}
    assert before < after and len(after - before) == 1
    rows = read_board(["hf:acme/results"], published=False, store=store).rows
    assert sorted(row.variant for row in rows if row.origin == "submitted") == ["", "large"]
    with pytest.raises(InvalidRecordError, match="is there already"):
        submit(write_submission(tmp_path / "again", variant="large"), "hf:acme/results", store=store)


def test_nobodys_push_is_lost(store, monkeypatch, tmp_path):
    """Somebody pushes between the pull and the push."""
    add = leaderboard._add

    def overtaken(*arguments):
        write_run(tmp_path / "results" / "new", record("relation"))
        share(tmp_path / "results", "acme/results", "dataset", store=store)
        return add(*arguments)

    monkeypatch.setattr(leaderboard, "_add", overtaken)
    with pytest.raises(StoreError, match="submit again"):
        submit(write_submission(tmp_path / "again", variant="large"), "hf:acme/results", store=store)
    paths = [entry.path for entry in create_store(store).files("acme/results", "dataset").entries]
    assert any("relation" in path for path in paths)


def test_submission_to_no_repository(store, tmp_path):
    with pytest.raises(StoreError, match="no dataset acme/nothing"):
        submit(write_submission(tmp_path / "again"), "hf:acme/nothing", store=store)
