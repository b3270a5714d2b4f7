"""The Leaderboard tab without a browser: rows, filters, order, drill-down, plots, repositories and submissions."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import TOKEN, connected, hub_server

from anomalyhub import cli
from anomalyhub.benchmark.leaderboard import read_board
from anomalyhub.benchmark.publish import publish
from anomalyhub.benchmark.records import Predictions, Record, Unit, write_record
from anomalyhub.errors import (
    AnomalyHubError,
    InvalidArgumentError,
    InvalidRecordError,
    InvalidUploadError,
    StoreError,
    UnsafeRepositoryError,
)
from anomalyhub.hub import create_store
from anomalyhub.hub.share import share
from anomalyhub.ui import (
    build_app,
    hub,
    leaderboard,
    leaderboard_layout,
    leaderboard_plots,
    leaderboard_share,
    leaderboard_tab,
    leaderboard_view,
)
from anomalyhub.ui.hub import Place
from anomalyhub.ui.leaderboard import Filter, Visit
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

NASTY = "<img src=x onerror=alert(1)>"
TABLE_1 = {"source": "liu2024", "table": "Table 1", "method": "Contrastive classifier", "variant": ""}


def write_run(folder: Path, method: str, accuracies: dict[tuple[str, int], float], seconds: float = 3.0, **changes):
    """A run of five-shot classification on MVTec AD: accuracies in percent by product and seed."""
    for (product, seed), percent in accuracies.items():
        unit = Unit("classification", method, changes.get("variant", ""), "mvtec_ad", product, "few-shot", 5, seed)
        table = [(f"{n}.png", "cut", "cut" if n < percent else "dent") for n in range(100)]
        record = Record(
            unit,
            {"backbone": "embedded"},
            {"accuracy": percent / 100},
            100,
            "mine.yaml",
            published=changes.get("published"),
            seconds={"total": seconds},
        )
        write_record(folder / "units", record, Predictions(("id", "label", "predicted"), table))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    both = {("bottle", 0): 60, ("bottle", 1): 70, ("cable", 0): 40, ("cable", 1): 50}
    write_run(folder / "quick", "prototype", both, seconds=2.0, published=TABLE_1)
    write_run(folder / "slow", "relation", {("bottle", 0): 80, ("cable", 0): 60}, seconds=200.0)
    return folder


@pytest.fixture
def work(tmp_path, runs) -> Work:
    return Work(tmp_path / "home", [f"folder:{tmp_path / 'share'}"], [runs])


@pytest.fixture
def session():
    session = Session()
    yield session
    session.close()


@pytest.fixture
def visit(work) -> Visit:
    """All is read, and five-shot classification on MVTec AD is asked for."""
    visit = Visit()
    leaderboard.read(visit, work, True)
    leaderboard.ask(visit, Filter("classification", "mvtec_ad", "5"))
    return visit


@pytest.fixture
def shelf(tmp_path) -> Place:
    return Place("folder", str(tmp_path / "share"))


def names(visit: Visit) -> list[tuple[str, str]]:
    return [(row.origin, row.method) for row in visit.shown]


def submission(folder: Path, *rows: dict, **changes) -> Path:
    """A submission of these rows, each of which is a five-shot classification of a product of MVTec AD."""
    folder.mkdir(parents=True, exist_ok=True)
    base = {"task": "classification", "dataset": "mvtec_ad", "product": "bottle", "protocol": "few-shot", "shots": 5}
    content = {"schema": 1, "kind": "benchmark-submission", "by": "Ada", "method": "Mine"}
    content["rows"] = [base | {"seeds": 1, "metrics": {"accuracy": 0.75}} | row for row in rows or ({},)]
    path = folder / "mine.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


# What there is.


def test_without_results_there_are_published_figures_and_the_way_to_more(tmp_path):
    visit = Visit()
    assert leaderboard.read(visit, Work(tmp_path), True) == "The published figures alone"
    leaderboard.ask(visit, Filter())
    assert {row.origin for row in visit.all} == {"published"} and visit.shown
    page = leaderboard_view.stage(visit)
    assert "accelerate launch eval/run.py" in page and "anomalyhub demo --results" in page
    assert "Measured" not in leaderboard_view.table(visit)


def test_results_of_the_machine_come_first_and_a_folder_without_any_is_a_notice(tmp_path, runs):
    (tmp_path / "empty").mkdir()
    visit, work = Visit(), Work(tmp_path / "home", [], [runs, tmp_path / "empty", tmp_path / "gone"])
    leaderboard.read(visit, work, False)
    assert [row.method for row in visit.all[:2]] == ["prototype", "relation"]
    assert visit.sources == (runs.name,) and len(visit.notices) == 2
    assert any("empty has no results" in text for text in visit.notices)
    assert str(tmp_path) not in " ".join(visit.notices)  # visitors from elsewhere see no paths
    assert leaderboard.where_text(visit) == f"2 rows of {runs.name}"
    assert leaderboard_view.stage(visit).count("<li>") == 2


def test_data_sets_with_own_results_come_first(visit):
    assert leaderboard.datasets(visit.all, "classification") == ["mvtec_ad", "mvtec_3d_ad"]
    names = leaderboard.datasets(visit.all, "detection")
    counts = [sum((row.task, row.dataset) == ("detection", name) for row in visit.all) for name in names]
    assert counts == sorted(counts, reverse=True)
    assert leaderboard.title("mvtec_ad") == "MVTec AD" and leaderboard.title("mine") == "mine"


# What is asked for.


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"origins": ("ours",)}, {("ours", "prototype"), ("ours", "relation")}),
        ({"origins": ()}, set()),
        ({"words": "PROTOTYPE mine.yaml"}, {("ours", "prototype")}),
        ({"words": "no such words"}, set()),
        ({"words": "vanilla", "product": "cable"}, {("published", "Vanilla baseline")}),
        ({"shots": "1", "origins": ("ours",)}, set()),
        ({"dataset": "*", "shots": "5", "origins": ("ours",)}, {("ours", "prototype"), ("ours", "relation")}),
        ({"metric": "balanced_accuracy", "origins": ("ours",)}, {("ours", "prototype"), ("ours", "relation")}),
    ],
)
def test_filters(visit, asked, expected):
    leaderboard.ask(visit, Filter(**{"task": "classification", "dataset": "mvtec_ad", "shots": "5", **asked}))
    assert set(names(visit)) == expected


def test_every_shown_row_is_what_was_asked_for_and_the_best_comes_first(visit):
    assert {(row.task, row.dataset, row.shots) for row in visit.shown} == {("classification", "mvtec_ad", 5)}
    figures = [row.value("mean", "accuracy").mean for row in visit.shown]
    assert figures == sorted(figures, reverse=True)
    assert names(visit)[:2] == [("ours", "relation"), ("ours", "prototype")]
    assert visit.shown[1].value("mean", "accuracy").mean == pytest.approx((0.6 + 0.7 + 0.4 + 0.5) / 4)


def test_what_another_task_does_not_have_is_any_again(visit):
    leaderboard.ask(visit, Filter("discovery", "mvtec_3d_ad", "5", "accuracy", "bottle"))
    asked = visit.asked
    assert (asked.dataset, asked.shots, asked.metric, asked.product) == ("mvtec_ad", "", "", "mean")
    assert visit.shown and {row.task for row in visit.shown} == {"discovery"}
    with pytest.raises(InvalidArgumentError, match="no task 'x'"):
        leaderboard.ask(visit, Filter("x"))


def test_rows_that_compare_parts_are_counted_until_they_are_asked_for(visit):
    leaderboard.ask(visit, Filter("discovery", "mtd"))
    hidden, shown = leaderboard.hidden_parts(visit), len(visit.shown)
    assert hidden > 0 and f"{hidden} more rows compare parts" in leaderboard_view.table(visit)
    leaderboard.ask(visit, Filter("discovery", "mtd", parts=True))
    assert len(visit.shown) == shown + hidden and leaderboard.hidden_parts(visit) == 0


def test_a_column_sorts_and_again_the_other_way_round(visit):
    leaderboard.sort(visit, "accuracy")  # by which it is sorted already
    figures = [row.value("mean", "accuracy").mean for row in visit.shown]
    assert figures == sorted(figures) and visit.asked.sort == "-accuracy"
    assert 'aria-sort="ascending"' in leaderboard_view.table(visit)
    leaderboard.sort(visit, "seconds")
    assert names(visit)[:2] == [("ours", "prototype"), ("ours", "relation")]
    leaderboard.sort(visit, "method")
    order = [row.method.lower() for row in visit.shown]
    assert order == sorted(order)
    leaderboard.ask(visit, Filter("detection", sort=visit.asked.sort))  # another table begins with its best
    assert visit.asked.sort == ""
    with pytest.raises(InvalidArgumentError, match="no column"):
        leaderboard.sort(visit, "__class__")


@pytest.mark.parametrize(
    ("task", "shots", "text"),
    [
        ("detection", "0", "Zero-shot"),
        ("detection", "1", "1 normal image"),
        ("detection", "all", "All normal images"),
        ("classification", "5", "5 examples"),
        ("classification", "all", "Without shots"),
    ],
)
def test_shots_in_words(task, shots, text):
    assert leaderboard.shots_text(task, shots) == text


def test_the_table_marks_origins_with_words_and_escapes_them(visit, session, tmp_path):
    leaderboard_share.check(session, visit, [str(submission(tmp_path, method=NASTY, by=NASTY))], None)
    visit.pulled = tuple(read_board_of(visit.file, tmp_path))
    leaderboard.ask(visit, visit.asked)
    page = leaderboard_view.table(visit)
    for word in ("Measured", "Published", "Submitted"):
        assert f">{word}</em>" in page
    assert NASTY not in page and "&lt;img" in page
    assert NASTY not in leaderboard_view.detail(visit, names(visit).index(("submitted", NASTY)))
    assert "2 seeds" in page and "2 s</td>" in page and "3.33 min" not in page
    assert page.count("mean over 2 of 15 products") == 2  # else a part would stand above the papers' whole
    assert page.count("ah-l-top") == 1  # the best figure of the only column


def read_board_of(file: Path, scratch: Path):
    target = scratch / "submitted" / "submissions" / "x"
    target.mkdir(parents=True)
    (target / "submission.json").write_bytes(file.read_bytes())
    return read_board([scratch / "submitted"], published=False).rows


def test_main_columns_all_columns_and_one(visit):
    for metric, expected in [
        ("", ["Image AUROC", "Pixel AUROC", "AUPRO"]),
        ("image_ap", ["Image AP"]),
        ("*", ["Image AUROC", "Image AP", "Image F1-max", "Pixel AUROC", "Pixel AP", "Pixel F1-max", "AUPRO"]),
    ]:
        leaderboard.ask(visit, Filter("detection", "mvtec_ad", metric=metric))
        page = leaderboard_view.table(visit)
        heads = [text.removesuffix(" ↓") for text in re.findall(r'data-sort="[^"]*">([^<]*)<', page)]
        assert [text for text in heads if text not in ("Method", "Shots", "Time")] == expected


def test_how_figures_were_made_is_said_of_the_sources_that_are_shown(visit):
    page = leaderboard_view.notes(visit)
    assert "<dt>liu2024</dt>" in page and "&quot;combined&quot; classes are kept" in page and "<dt>Measured" in page
    assert "anomalyncd2024" not in page
    leaderboard.ask(visit, Filter("discovery", "mvtec_ad", origins=("published",)))
    page = leaderboard_view.notes(visit)
    assert "&quot;combined&quot; classes are dropped" in page and "Measured" not in page


# One row.


def test_a_row_large_has_each_product_and_the_published_figure_beside(visit):
    page = leaderboard_view.detail(visit, names(visit).index(("ours", "prototype")))
    assert re.findall(r'<th scope="row">(\w+)</th><td><div>', page) == ["bottle", "cable", "mean"]
    assert page.count('<b style="left:') == 3 and "liu2024, Table 1" in page
    assert "80.8 " in page and f"{65 - 80.83:+.1f}" in page  # bottle: 65 here, 80.83 there
    assert "keeps the &quot;combined&quot;" in page or "combined" in page
    published = leaderboard_view.detail(visit, names(visit).index(("published", "Contrastive classifier")))
    assert "Anomaly Multi-classification in Industrial Scenarios" in published and '<b style="left:' not in published


def test_what_is_missing_is_said(tmp_path):
    from anomalyhub.benchmark.units import PLAN, PLAN_KIND

    run = write_run(tmp_path / "run", "prototype", {("bottle", 0): 60, ("cable", 0): 40})
    units = []
    for product in ("bottle", "cable", "wood"):
        unit = Unit("classification", "prototype", "", "mvtec_ad", product, "few-shot", 5, 0)
        units.append({"id": product, "unit": vars(unit)})
    plan = {"schema": 1, "kind": PLAN_KIND, "config": "mine", "rows": [], "units": units}
    (run / PLAN).write_text(json.dumps(plan))
    visit = Visit()
    leaderboard.read(visit, Work(tmp_path / "home", [], [run]), True)
    leaderboard.ask(visit, Filter("classification", "mvtec_ad", origins=("ours",)))
    assert "1 units missing" in leaderboard_view.table(visit) and "n/a" in leaderboard_view.table(visit)
    assert "wood, seed 0" in leaderboard_view.detail(visit, 0)


# Plots.


def test_accuracy_is_drawn_against_time(visit):
    page = leaderboard_plots.times(visit)
    points = re.findall(r'ah-l-point ah-l-(\w+)" data-index="(\d+)" style="left:([\d.]+)%;top:([\d.]+)%"', page)
    assert [(origin, visit.shown[int(index)].method) for origin, index, *_ in points] == [
        ("ours", "relation"),
        ("ours", "prototype"),
    ]
    (slow, high), (quick, low) = [(float(x), float(y)) for *_, x, y in points]
    assert slow > quick and high < low  # later is to the right, better is above
    assert "best published: " in page and "Contrastive" in page
    leaderboard.ask(visit, Filter("classification", "mvtec_ad", origins=("published",)))
    assert "No row here says how long it took" in leaderboard_plots.times(visit)


@pytest.mark.parametrize(("power", "text"), [(-1, "0.1 s"), (1, "10 s"), (1.77815125, "1 min"), (3.5563025, "1 h")])
def test_ticks_of_time(power, text):
    assert leaderboard_plots._tick(power) == text


@pytest.mark.parametrize("values", [[0.5], [0.99, 0.991], [0.1, 0.9], [-0.2, 0.3]])
def test_axes_hold_all_values_and_have_ticks(values):
    low, high, ticks = leaderboard_plots._linear(values)
    assert low < min(values) and max(values) < high
    assert 2 <= len(ticks) <= 7 and all(low <= tick <= high for tick in ticks)
    left, right, marks = leaderboard_plots._decades([10.0**value for value in values])
    assert left < min(values) and max(values) < right and all(left <= mark <= right for mark in marks)


def test_products_of_the_best_of_each_origin(visit):
    page = leaderboard_plots.products(visit)
    keys = re.findall(r'<b class="ah-l-s\d"></b><span>([^<]+)</span><em class="ah-l-pill ah-l-(\w+)"', page)
    assert keys[0] == ("relation, 5 shots", "ours") and len(keys) == 3
    assert {origin for _, origin in keys} == {"ours", "published"} and len({name for name, _ in keys}) == 3
    assert page.count('<th scope="row">') == 15  # 14 products of the published row, and the mean
    leaderboard.ask(visit, Filter("classification", "*"))
    assert "Choose one data set" in leaderboard_plots.products(visit)


# Repositories.


def test_results_of_this_machine_go_to_a_repository_and_come_back(session, visit, work, shelf, tmp_path):
    other = Visit()
    leaderboard.read(other, Work(tmp_path / "elsewhere"), True)
    text = leaderboard_share.push_own(session, visit, shelf, "acme/results", work, True)
    assert text == "The results of this machine are in acme/results: 13 files sent."  # six records, and the card
    assert leaderboard_share.push_own(session, visit, shelf, "acme/results", work, True).endswith("already.")
    assert leaderboard_share.read_repo(session, other, shelf, " acme/results ", work, True).startswith("2 rows")
    leaderboard.ask(other, Filter("classification", "mvtec_ad", "5", origins=("ours",)))
    assert names(other) == [("ours", "relation"), ("ours", "prototype")]
    assert "hf:acme/results" in other.shown[0].source
    assert leaderboard.where_text(other) == "2 rows of acme/results"
    leaderboard_share.read_repo(session, visit, shelf, "acme/results", work, True)
    assert sum(row.origin == "ours" for row in visit.all) == 2  # what is here and there is shown once
    assert [path.name for path in work.store.root.iterdir()] == []  # nothing of it is kept


def test_what_others_have_pushed_stays(session, visit, work, shelf, tmp_path):
    run = write_run(tmp_path / "theirs" / "other", "direct", {("bottle", 0): 30})
    share(run.parent, "acme/results", "dataset", store=f"folder:{shelf.folder}")
    leaderboard_share.push_own(session, visit, shelf, "acme/results", work, True)
    leaderboard_share.read_repo(session, visit, shelf, "acme/results", work, True)
    assert "direct" in {row.method for row in visit.pulled}


def test_a_card_that_a_person_wrote_stays_and_names_are_not_confused(tmp_path, shelf, runs):
    store = f"folder:{shelf.folder}"
    publish([runs], "acme/results", store=store)
    folder = create_store(store).pull("acme/results", "dataset", out=tmp_path / "there").folder
    (folder / "README.md").write_text("# Ours\n")
    share(folder, "acme/results", "dataset", store=store)
    assert publish([runs], "acme/results", store=store).changed == ()
    with pytest.raises(InvalidRecordError, match="would both be quick"):
        publish([runs, write_run(tmp_path / "b" / "quick", "direct", {("bottle", 0): 30}).parent], "a/b", store=store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRecordError, match="has no results"):
        publish([tmp_path / "empty"], "acme/results", store=store)


def test_only_who_runs_the_app_pushes_its_results(session, visit, work, shelf, tmp_path):
    with pytest.raises(InvalidArgumentError, match="not visitors' to push"):
        leaderboard_share.push_own(session, visit, shelf, "acme/results", work, False)
    with pytest.raises(InvalidArgumentError, match="--results FOLDER"):
        leaderboard_share.push_own(session, visit, shelf, "acme/results", Work(tmp_path / "none"), True)


def test_a_repository_that_cannot_be_read_changes_nothing(session, visit, work, shelf, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.csv").write_text("a,b\n")
    share(tmp_path / "photos", "acme/photos", "dataset", store=f"folder:{shelf.folder}")
    for repo, error, words in [
        ("acme/photos", InvalidRecordError, "acme/photos has no results"),
        ("acme/nothing", StoreError, "acme/nothing"),
        ("nothing", AnomalyHubError, "OWNER/NAME"),
    ]:
        with pytest.raises(error, match=words) as caught:
            leaderboard_share.read_repo(session, visit, shelf, repo, work, True)
        assert str(work.home) not in str(caught.value)
    monkeypatch.setattr(leaderboard_share, "MAX_BYTES", 2)
    with pytest.raises(UnsafeRepositoryError, match="acme/photos"):
        leaderboard_share.read_repo(session, visit, shelf, "acme/photos", work, True)
    assert visit.repo == "" and visit.pulled == ()


def test_the_hub_is_asked_as_who_has_logged_in(session, visit, work, runs, tmp_path):
    with hub_server() as server, connected(server, tmp_path):
        share(runs, "me/results", "dataset", token=TOKEN, private=True)
        with pytest.raises(StoreError):
            leaderboard_share.read_repo(session, visit, Place(), "me/results", work, False)
        hub.log_in(session, TOKEN)
        assert leaderboard_share.read_repo(session, visit, Place(), "me/results", work, False).startswith("2 rows")
        leaderboard_share.check(session, visit, [str(submission(tmp_path))], None)
        leaderboard_share.add(session, visit, Place(), "repo", None, work, False)
        assert ("submitted", "Mine") in {(row.origin, row.method) for row in visit.pulled}
        leaderboard_share.check(session, visit, [str(submission(tmp_path, method="Other"))], None)
        hub.log_out(session)
        with pytest.raises(InvalidArgumentError, match="log in"):
            leaderboard_share.add(session, visit, Place(), "repo", None, work, False)


# Submissions.


def test_a_submission_is_checked_then_added_to_this_machine(session, tmp_path):
    work, visit = Work(tmp_path / "home", [], [tmp_path / "results"]), Visit()
    leaderboard.read(visit, work, True)
    assert leaderboard_share.check(session, visit, [str(submission(tmp_path))], None).startswith("Nothing is wrong")
    assert "<b>Mine</b> by Ada: 1 row, 0 recomputed" in leaderboard_view.checked(visit)
    assert leaderboard_share.places(visit, work, True) == [("To results, of this machine", "here")]
    assert leaderboard_share.places(visit, work, False) == []
    with pytest.raises(InvalidArgumentError, match="no place"):
        leaderboard_share.add(session, visit, Place(), "here", None, work, False)
    leaderboard_share.add(session, visit, Place(), "here", None, work, True)
    leaderboard.ask(visit, Filter("classification", "mvtec_ad", origins=("submitted",), product="bottle"))
    assert names(visit) == [("submitted", "Mine")] and visit.checked is None
    assert "Mine is in results" in leaderboard_view.heads(visit)[2]
    leaderboard_share.check(session, visit, [str(submission(tmp_path))], None)
    with pytest.raises(InvalidRecordError, match="there already"):
        leaderboard_share.add(session, visit, Place(), "here", None, work, True)


def test_predictions_that_come_along_are_recomputed(session, visit, tmp_path):
    kinds = ("large", "small", "dirt")
    rows = [(f"{kind}/{n}.png", kind, kind if n % 4 else "other") for kind in kinds for n in range(16)]
    Predictions(("id", "label", "predicted"), rows).write(tmp_path / "bottle.csv")
    path = submission(tmp_path, {"metrics": {"accuracy": 0.75}, "predictions": ["bottle.csv"]})
    files = [str(tmp_path / "bottle.csv"), str(path)]
    leaderboard_share.check(session, visit, files, None)
    assert visit.faults == () and "1 recomputed from predictions" in leaderboard_view.checked(visit)
    submission(tmp_path, {"metrics": {"accuracy": 0.8125}, "predictions": ["bottle.csv"]})
    leaderboard_share.check(session, visit, files, None)
    assert visit.checked is None and "the predictions give 0.75" in visit.faults[0]


def test_labels_are_compared_with_data_sets_that_are_here(session, visit, tmp_path):
    table = [(f"{n}.png", kind, kind) for n, kind in enumerate(["dent", "good"] * 3)]
    Predictions(("id", "label", "predicted"), table).write(tmp_path / "ring.csv")
    row = {"dataset": "sample", "product": "ring", "shots": 1, "metrics": {}, "predictions": ["ring.csv"]}
    files = [str(submission(tmp_path, row)), str(tmp_path / "ring.csv")]
    (tmp_path / "sets").mkdir()
    leaderboard_share.check(session, visit, files, tmp_path / "sets")  # a data root without it
    assert visit.faults == () and visit.checked.against == "labels as submitted"


def test_faults_are_listed_one_by_one(session, visit, tmp_path):
    path = submission(
        tmp_path,
        {"metrics": {"accuracy": 1.2}},
        {"product": "cable", "metrics": {"accuracy": 0.75}},
        {"product": "botle"},
        {"product": "cable"},
        {"product": "wood", "predictions": ["gone.csv"]},
        by="",
    )
    text = leaderboard_share.check(session, visit, [str(path)], None)
    assert text == "mine.json has 5 faults: mend them and upload it again."
    page = leaderboard_view.checked(visit)
    starts = [fault.partition(":")[0] for fault in visit.faults]
    assert starts == ["by is empty", "row 1", "row 3", "row 4", "row 5"]
    assert "is row 2 too" in visit.faults[3] and page.count("<li>") == 5 and "did you mean" in page
    assert "5 faults" in leaderboard_view.heads(visit)[2] and visit.checked is None
    assert str(session.folder) not in page


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "0 JSON files"),
        ({"a.json": "{}", "b.json": "{}"}, "2 JSON files"),
        ({"a.csv": "id,label\n"}, "0 JSON files"),
    ],
)
def test_what_is_no_submission(session, visit, tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidUploadError, match=words):
        leaderboard_share.check(session, visit, [str(tmp_path / name) for name in files], None)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"rows": 3}', '{"rows": [[]]}', "NaN", '{"rows": [{}]}'])
def test_any_json_has_faults_and_breaks_nothing(session, visit, tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    leaderboard_share.check(session, visit, [str(tmp_path / "x.json")], None)
    assert visit.faults and visit.checked is None and leaderboard_view.checked(visit).startswith('<div class="ah-prob')


# The page.


def shown(ui, visit: Visit, *form) -> dict:
    """Values of the controls by name."""
    names = "head1 head2 head3 dataset shots metric product pull adding where hint table times products notes"
    return dict(zip(names.split(), leaderboard_tab._control_values(ui, visit, *form), strict=True))


def test_the_page(work):
    ui, visit = SimpleNamespace(work=work, trusted=True), Visit()
    page = shown(ui, visit, "classification", "", "", "", "mean", ["ours", "published"], "", False)
    assert page["dataset"].value == "mvtec_ad" and ("All data sets", "*") in page["dataset"].choices
    assert ("5 examples", "5") in page["shots"].choices and page["shots"].visible
    assert not page["adding"].visible and "2 rows of" in page["head2"] and page["hint"] == ""
    page = shown(ui, visit, "discovery", "mtd", "", "", "mean", ["published"], "", False)
    assert not page["shots"].visible and "NMI" in page["table"]
    page = shown(ui, visit, "detection", "visa", "", "image_auroc", "candle", ["published"], "", False)
    assert page["product"].value == "candle" and page["metric"].value == "image_auroc"
    page = shown(ui, visit, None, None, None, None, None, None, None, None)  # whatever an API client leaves out
    assert "take a word or a filter away" in page["table"]


def test_the_table_as_a_file(session, visit):
    with open(leaderboard.table_file(session, visit), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ours = {(row["method"], row["product"]): float(row["mean"]) for row in rows if row["origin"] == "ours"}
    assert ours["prototype", "bottle"] == pytest.approx(0.65) and ours["relation", "mean"] == pytest.approx(0.7)
    leaderboard.ask(visit, Filter(words="nothing at all"))
    with pytest.raises(InvalidArgumentError, match="no row is shown"):
        leaderboard.table_file(session, visit)


def test_demo_takes_folders_of_results(tmp_path, capfd, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert cli.run("demo --no-browser --results runs --results more".split()) == 0
    assert capfd.readouterr().out.endswith("--results runs --results more --no-browser\n")


def test_the_form_of_a_submission_is_shown_as_its_reader_has_it():
    form = leaderboard_layout._form()
    assert "benchmark-submission" in form and "&quot;predictions&quot;" in form and "Figures are fractions" in form


def test_every_event_of_both_tabs_has_a_name(tmp_path):
    async def build():  # gradio leaves event loops unclosed when it is built while none runs
        return build_app(home=tmp_path, results=[tmp_path / "runs"])

    app = asyncio.run(build())
    names = [f.api_name for f in app.fns.values() if f.fn is not None]
    assert all(isinstance(name, str) for name in names)
    listed = set(app.get_api_info()["named_endpoints"])
    wanted = {"leaderboard", "leaderboard_read", "leaderboard_check", "leaderboard_add", "download_leaderboard"}
    wanted |= {"compare", "compare_sample", "compare_uploads", "cancel_compare", "resume_compare"}
    assert {f"/{name}" for name in wanted} <= listed
    assert app.work.results == (tmp_path / "runs",)
