"""The verbs `leaderboard` and `leaderboard submit`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from anomalyhub.benchmark.records import Predictions, Record, Unit, write_record
from anomalyhub.cli import run


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder: a run, and a submission beside it."""
    monkeypatch.chdir(tmp_path)
    for product, values in {"bottle": (0.7, 0.8), "cable": (0.3, None)}.items():
        for seed, value in enumerate(values):
            unit = Unit("classification", "prototype", "", "mvtec_ad", product, "few-shot", 5, seed)
            why = {} if value else {"accuracy": "no picture"}
            one = Record(unit, {}, {"accuracy": value}, 48, "mine", why=why, seconds={"total": 2.0})
            write_record(tmp_path / "run" / "units", one, Predictions(("id", "label", "predicted"), []))
    row = {"task": "classification", "dataset": "mvtec_ad", "product": "bottle", "protocol": "few-shot", "shots": 5}
    row |= {"seeds": 1, "metrics": {"accuracy": 0.7917}}
    content = {"schema": 1, "kind": "benchmark-submission", "by": "Ada", "method": "Mine", "rows": [row]}
    Path("mine.json").write_text(json.dumps(content))
    return tmp_path


def shown(capsys, *arguments: str) -> str:
    assert run(["leaderboard", *arguments]) == 0
    return capsys.readouterr().out


def test_table(folder, capsys):
    """The order is that of the figures, and the names of their origins stand before them."""
    text = shown(capsys, "--results", "run", "--dataset", "mvtec_ad", "--shots", "5", "--product", "bottle")
    head, _, _, *lines = text.splitlines()
    assert head == "classification of mvtec_ad, bottle, %"
    (ours,) = [line for line in lines if line.startswith("ours")]
    (printed,) = [line for line in lines if line.endswith("liu2024, Table 1")]
    assert printed.split()[:4] == ["published", "Contrastive", "classifier", "5"] and "80.8 ± 6.8" in printed
    assert ours.split()[:3] == ["ours", "prototype", "5"] and "75.0 ± 7.1" in ours and ours.endswith("2.0  mine")
    assert lines.index(printed) < lines.index(ours)


def test_details_say_what_is_undefined(folder, capsys):
    text = shown(capsys, "--results", "run", "--origin", "ours", "--detail")
    assert "n/a" in text and "cable, seed 1: no picture" in text
    assert [line.split()[0] for line in text.splitlines()[4:6]] == ["bottle", "cable"]


def test_top_and_ablations(capsys):
    few = shown(capsys, "--task", "classification", "--dataset", "mvtec_ad", "--top", "3")
    assert few.count("published") == 3 and "more: --top" in few
    ablations = ["--task", "classification", "--dataset", "mvtec_ad", "--top", "999"]
    assert shown(capsys, *ablations).count("Table 5") == 0
    assert shown(capsys, *ablations, "--ablations").count("Table 5") > 0


def test_json_and_csv(folder, capsys):
    found = json.loads(shown(capsys, "--results", "run", "--shots", "5", "--json"))
    (ours,) = [row for row in found if row["origin"] == "ours"]
    assert ours["products"]["bottle"]["accuracy"]["mean"] == pytest.approx(0.75)
    assert ours["products"]["mean"]["accuracy"] == {
        "mean": None,
        "std": None,
        "seeds": None,
        "why": "cable, seed 1: no picture",
    }
    text = shown(capsys, "--dataset", "visa", "--product", "candle", "--metric", "image_auroc", "--csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    figures = [float(line["mean"]) for line in lines]
    assert {line["product"] for line in lines} == {"candle"} and figures == sorted(figures, reverse=True)
    everything = list(csv.DictReader(io.StringIO(shown(capsys, "--search", "MAML", "--csv", "--detail"))))
    assert len(everything) == 75


def test_nothing_is_found(capsys):
    assert shown(capsys, "--search", "nobody's method") == "no row: choose less\n"


def test_submit(folder, capsys):
    assert run(["leaderboard", "submit", "mine.json"]) == 0
    assert "1 rows, 0 of them recomputed from predictions: nothing is wrong with it" in capsys.readouterr().out
    assert run(["leaderboard", "submit", "mine.json", "--results", "run"]) == 0
    assert "Mine by Ada" in capsys.readouterr().out
    text = shown(capsys, "--results", "run", "--product", "bottle", "--shots", "5", "--task", "classification")
    assert "submitted" in text and text.index("Contrastive") < text.index("Mine") < text.index("prototype")


def test_the_form_that_is_printed_is_one_that_is_accepted(folder, capsys):
    """But for its predictions, which nobody has."""
    form = json.loads(shown(capsys, "submit", "--form"))
    del form["rows"][1]["predictions"]
    Path("form.json").write_text(json.dumps(form))
    assert run(["leaderboard", "submit", "form.json"]) == 0
    assert "My method by Ada Lovelace: 2 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--task", "detections"], "did you mean 'detection'"),
        (["--sort", "acc"], "unknown column 'acc'"),
        (["--shots", "many"], "give a number, or all"),
        (["--results", "nowhere"], "nowhere is no folder"),
        (["--results", "."], "cannot"),
        (["--json", "--csv"], "give one of them"),
        (["--data", "mtd"], "is not NAME=PATH"),
        (["--results", "hf:acme/x", "--store", "folder:none"], "is not there"),
        (["submit"], "there is no FILE"),
        (["submit", "nothing.json"], "nothing.json is refused: No such file"),
        (["submit", "mine.json", "--data-root", "nowhere"], "is no folder"),
        (["submit", "percent.json", "--results", "run"], "a fraction, no percent"),
    ],
)
def test_bad_input(folder, capsys, arguments, text):
    Path("percent.json").write_text(Path("mine.json").read_text().replace("0.7917", "79.17"))
    if arguments == ["--results", "."]:
        (folder / "run" / "units" / "broken.json").write_text("{}")
        text = "broken.json is no record of a benchmark"
    assert run(["leaderboard", *arguments]) == 2
    captured = capsys.readouterr()
    assert text in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (folder / "run" / "submissions").exists()
