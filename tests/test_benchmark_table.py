"""Rows over seeds and products, what stands beside them, and tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from anomalyhub.benchmark.records import Predictions, Record, Unit, write_record
from anomalyhub.benchmark.rows import aggregate, published_beside, published_rows
from anomalyhub.benchmark.table import load, main, rendered, title
from anomalyhub.errors import InvalidArgumentError, InvalidRecordError

ROOT = Path(__file__).resolve().parents[1]
CONTRASTIVE = {"source": "liu2024", "table": "Table 1", "method": "Contrastive classifier", "variant": ""}
ACCURACY = {"bottle": (0.70, 0.72, 0.80), "cable": (0.30, 0.36, 0.27)}


def record(product="bottle", seed=1, accuracy=0.5, shots=5, **changes) -> Record:
    changes = {"settings": {"detector": {"backbone": "resnet50@w.safetensors"}, "exclude_classes": []}} | changes
    unit = {"task": "classification", "method": "contrastive", "variant": "", "dataset": "mvtec_ad"}
    unit = Unit(**(unit | changes.pop("unit", {})), product=product, protocol="few-shot", shots=shots, seed=seed)
    metrics = changes.pop("metrics", {"accuracy": accuracy})
    return Record(unit, metrics=metrics, n_images=48, seconds={"total": 2.0 * seed}, published=CONTRASTIVE, **changes)


def run_of_two(**changes) -> list[Record]:
    return [
        record(product, seed, value, **changes)
        for product, values in ACCURACY.items()
        for seed, value in enumerate(values, 1)
    ]


def detection(seed=0, **metrics) -> Record:
    unit = Unit("detection", "patchcore", "backbone=embedded", "sample", "ring", "full", None, seed)
    why = {name: "no mask" for name, value in metrics.items() if value is None}
    return Record(unit, {"detector": {"backbone": "embedded"}}, metrics, 20, why=why, config="quick")


def write(folder: Path, records: list[Record]) -> Path:
    for one in records:
        write_record(folder / "units", one, Predictions(("id", "label", "score"), []))
    return folder


def parsed(markdown: str) -> list[list[list[str]]]:
    """Cells of each table, the head first."""
    tables = re.findall(r"(?:^\|.*\n?)+", markdown, re.M)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in t.splitlines()] for t in tables]
    return [[lines[0], *lines[2:]] for lines in rows]


def test_means_and_deviations():
    """Written out: over seeds per product; over products per seed, then over seeds."""
    (row,) = aggregate(run_of_two())
    for product, values in ACCURACY.items():
        found = row.value(product, "accuracy")
        assert (found.mean, found.std, found.n) == (statistics.fmean(values), statistics.stdev(values), 3)
    macro = [(one + two) / 2 for one, two in zip(*ACCURACY.values(), strict=True)]
    found = row.value("mean", "accuracy")
    assert found.mean == pytest.approx(statistics.fmean(macro))
    assert found.std == pytest.approx(statistics.stdev(macro))
    assert row.seconds.mean == pytest.approx(4.0) and row.seeds == (1, 2, 3)


def test_one_seed_has_no_deviation():
    (row,) = aggregate([record()])
    assert row.value("bottle", "accuracy").std is None and row.value("mean", "accuracy").mean == 0.5


def test_a_missing_unit_is_said_and_its_seed_is_in_no_mean():
    (row,) = aggregate([one for one in run_of_two() if (one.unit.product, one.unit.seed) != ("cable", 2)])
    assert row.missing == ("cable, seed 2",)
    macro = [(0.70 + 0.30) / 2, (0.80 + 0.27) / 2]
    found = row.value("mean", "accuracy")
    assert found.mean == pytest.approx(statistics.fmean(macro)) and found.n == 2
    assert row.value("cable", "accuracy").n == 2 and row.value("bottle", "accuracy").n == 3


def test_no_seed_with_all_products_has_no_mean():
    (row,) = aggregate([record("bottle", 1), record("cable", 2)])
    assert row.value("mean", "accuracy").mean is None
    assert row.value("mean", "accuracy").why == "no seed has all 2 products"


def test_undefined_figures_say_why_and_make_the_mean_undefined():
    records = [detection(0, image_auroc=0.9, aupro=None), detection(1, image_auroc=0.8, aupro=0.7)]
    (row,) = aggregate(records)
    assert row.value("ring", "aupro").why == "ring, seed 0: no mask"
    assert row.value("mean", "aupro").mean is None
    assert row.value("mean", "image_auroc").mean == pytest.approx(0.85)


def test_copies_of_a_unit_count_once():
    (row,) = aggregate([*run_of_two(), *run_of_two()])
    assert row.value("bottle", "accuracy").n == 3


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"accuracy": 0.6}, "different figures"),
        ({"seed": 2, "settings": {"detector": {"backbone": "resnet18"}}}, r"different settings \(detector, exclude"),
    ],
)
def test_two_runs_in_one_row_are_refused(other, text):
    with pytest.raises(InvalidArgumentError, match=text):
        aggregate([record(), record(**other)])


def test_rows_are_told_apart_by_variant_shots_and_data_set():
    rows = aggregate([record(), record(shots=2), record(unit={"variant": "MAML"}), record(unit={"dataset": "mpdd"})])
    assert len(rows) == 4


def test_published_figure_of_a_product():
    (row,) = aggregate(run_of_two())
    found = published_beside(row, "bottle", "accuracy")
    assert (found.value, found.std, found.where) == (0.8083, 0.0682, "liu2024, Table 1")
    assert found.difference == pytest.approx(statistics.fmean(ACCURACY["bottle"]) - 0.8083)
    (note,) = found.notes  # nothing but the protocol
    assert "labelled defective images of each class" in note and '"combined" classes are kept' in note
    assert published_beside(row, "bottle", "balanced_accuracy") is None


def test_published_mean_is_over_the_same_products():
    (row,) = aggregate(run_of_two())
    found = published_beside(row, "mean", "accuracy")
    assert found.value == pytest.approx((0.8083 + 0.4269) / 2) and found.std is None
    assert "liu2024, Table 1: mean of the 2 of its 14 products that are here" in found.notes


def test_difference_of_means_is_over_the_products_of_both():
    (row,) = aggregate([*run_of_two(), *(record("toothbrush", seed, 1.0) for seed in (1, 2, 3))])
    found = published_beside(row, "mean", "accuracy")
    ours = statistics.fmean(statistics.fmean(values) for values in ACCURACY.values())
    assert found.difference == pytest.approx(ours - (0.8083 + 0.4269) / 2)
    assert "ours is also over toothbrush: the difference is over the others" in found.notes


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"settings": {"detector": {"backbone": "wide_resnet50_2"}}}, "other backbone: resnet50 in liu2024, Table 1,"),
        ({"settings": {"masks": "ground-truth"}}, "regions are the true masks here, an oracle, and not in liu2024"),
        ({"unit": {"method": "prototype"}}, "other method: Contrastive classifier in liu2024, Table 1"),
        ({"settings": {"exclude_classes": ["combined"]}}, 'keeps the "combined" classes, this run drops them'),
        ({"product": "leather", "unit": {"dataset": "leather"}}, "other data: crops of a part of MVTec AD's leather"),
    ],
)
def test_differences_of_protocol_are_said(changes, note):
    (row,) = aggregate([record(**changes)])
    product = changes.get("product", "bottle")
    assert any(note in text for text in published_beside(row, product, "accuracy").notes)
    if product == "leather":  # of one product, whose mean stands beside the product's figure
        assert published_beside(row, "mean", "accuracy").value == 0.3851


def test_the_same_backbone_is_no_difference():
    settings = {"detector": {"backbone": "clip"}, "exclude_classes": []}
    published = {"source": "aprilgan2023", "table": "Table 5", "method": "APRIL-GAN", "variant": ""}
    unit = Unit("detection", "april-gan", "", "mvtec_ad", "bottle", "zero-shot", 0, 0)
    (row,) = aggregate([Record(unit, settings, {"image_auroc": 0.9}, 83, published=published)])
    found = published_beside(row, "bottle", "image_auroc")
    assert found.value > 0.5 and not any("backbone" in note for note in found.notes)


@pytest.mark.parametrize(
    ("row", "metric", "unit"),
    [
        (("anomalyncd2024", "II", "MuSc+AnomalyNCD", ""), "aupro", ("detection", "musc", "mtd", "zero-shot", 0)),
        (("anomalyncd2024", "I", "PatchCore+AnomalyNCD", ""), "aupro", ("detection", "patchcore", "mtd", "full", None)),
        (
            ("liu2024", "7", "Vanilla baseline", ""),
            "accuracy",
            ("classification", "relation", "mvtec_ad", "few-shot", 1),
        ),
        (("ejaz2024", "5.10", "Ejaz 2024", ""), "image_auroc", ("detection", "siamese", "visa", "few-shot", 8)),
    ],
)
def test_published_rows_of_our_methods(row, metric, unit):
    """Found for the mean over products, and neither another method nor, as nothing is said here, another backbone."""
    task, method, dataset, protocol, shots = unit
    beside = dict(zip(("source", "table", "method", "variant"), row, strict=True))
    one = Record(Unit(task, method, "", dataset, "a", protocol, shots, 0), {}, {metric: 0.5}, 9, published=beside)
    notes = published_beside(aggregate([one])[0], "mean", metric).notes
    assert not any(note.startswith("other") for note in notes)


def test_every_published_row_stands_beside_itself():
    """What is printed, as if it were ours: no difference but rounding, for each figure of each table."""
    seen = 0
    for row in published_rows():
        source, _, table = row.source.partition(", ")
        names = {"source": source, "table": table, "method": row.method, "variant": row.variant}
        mirrored = dataclasses.replace(row, beside=names)
        for product, figures in row.products.items():
            for metric, value in figures.items():
                found = published_beside(mirrored, product, metric)
                assert found.value == pytest.approx(value.mean, abs=1e-12), (row, product, metric)
                assert found.difference == pytest.approx(0, abs=1e-12)
                seen += 1
    assert seen == 2161 - 6  # seconds are no metric


def test_markdown():
    rows = aggregate([*run_of_two(), *run_of_two(shots=2), detection(0, image_auroc=0.9, aupro=None)])
    detector, overview, products = parsed(rendered(rows))
    head = ["method", "products", "seeds", "accuracy, 2 shots", "published", "difference", "accuracy, 5 shots"]
    assert overview[0] == [*head, "published", "difference", "seconds"]
    macro = [(one + two) / 2 for one, two in zip(*ACCURACY.values(), strict=True)]
    cell = f"{100 * statistics.fmean(macro):.1f} ± {100 * statistics.stdev(macro):.1f}"
    assert overview[1][:4] == ["contrastive", "2", "3", cell] and overview[1][-1] == "4.0"
    assert [line[0] for line in products[1:]] == ["bottle", "cable", "mean"]
    bottle = products[1]
    assert bottle[4] == f"{74.0} ± {100 * statistics.stdev(ACCURACY['bottle']):.1f}"
    assert bottle[5].startswith("80.8 ± 6.8<sup>") and bottle[6] == "-6.8"
    assert detector[0] == ["method", "products", "seeds", "image AUROC", "AUPRO", "seconds"]
    assert detector[1][3:] == ["90.0", "n/a<sup>1</sup>", ""]
    assert "\n1. n/a: ring, seed 0: no mask" in rendered(rows)


def test_fewer_seeds_and_missing_units_are_in_the_table():
    units = [*run_of_two(), *(one for one in run_of_two(shots=2) if one.unit.seed < 3)]
    text = rendered(aggregate([one for one in units if (one.unit.product, one.unit.seed) != ("cable", 2)]))
    assert "Missing of contrastive, 2 shots: cable, seed 2." in text
    assert "Missing of contrastive, 5 shots: cable, seed 2." in text
    assert "(n = 1)" in text and "(n = 2)" in text


def test_digits_are_not_invented():
    """A figure printed with three digits of a fraction has one decimal in percent, whatever is asked for."""
    published = {"source": "anomalyncd2024", "table": "Table X", "method": "AnomalyNCD", "variant": "GT masks"}
    unit = Unit("discovery", "anomalyncd", "", "mtd", "mtd", "transductive", None, 0)
    (row,) = aggregate([Record(unit, {}, {"nmi": 0.81234}, 583, published=published)])
    ((_, line),) = parsed(rendered([row], decimals=3))
    assert line[3] == "81.234" and line[4].startswith("82.9<sup>") and line[5] == "-1.666"


def test_latex_has_whole_lines_and_no_letter_of_its_own():
    text = rendered(aggregate([*run_of_two(), detection(0, image_auroc=0.9)]), "latex")
    bodies = re.findall(r"\\begin\{tabular\}\{(l\w*)\}(.*?)\\end\{tabular\}", text, re.S)
    assert len(bodies) == 3
    for columns, body in bodies:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) > 1 and all(line.count(" & ") == len(columns) - 1 for line in lines)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    assert r"mvtec\_ad" in text and r"$\pm$" in text
    assert not re.search(r"(?<!\\)[_%#]|[^\x00-\x7f]", text)


def test_csv_has_every_figure():
    rows = aggregate([*run_of_two(metrics={"accuracy": 0.5, "balanced_accuracy": 0.4}), detection(0, aupro=None)])
    found = list(csv.DictReader(io.StringIO(rendered(rows, "csv"))))
    assert len(found) == 3 * 2 + 2 * 1
    first = found[0]
    assert (first["product"], first["mean"], first["published"], first["seeds"]) == ("bottle", "0.5", "0.8083", "3")
    assert float(first["difference"]) == pytest.approx(0.5 - 0.8083)
    assert found[-1]["mean"] == "" and "no mask" in found[-1]["notes"]


def test_runs_in_one_folder_with_what_is_missing_of_their_plan(tmp_path):
    run = write(tmp_path / "a", run_of_two())
    write(tmp_path / "b", [detection(0, image_auroc=0.9)])
    planned = [one.unit for one in [*run_of_two(), record("wood", 1), record("wood", 2), record(shots=1)]]
    units = [{"id": f"unit-{number}", "unit": dataclasses.asdict(unit)} for number, unit in enumerate(planned)]
    (run / "plan.json").write_text(json.dumps({"units": units}))
    (run / "failed").mkdir()
    (run / "failed" / "unit-6.json").write_text(json.dumps({"reason": "no disk"}))
    five, detected, none = load([tmp_path])
    assert five.missing[:2] == ("wood, seed 1 (failed: no disk)", "wood, seed 2")
    assert five.value("mean", "accuracy").mean is None
    assert none.shots == 1 and none.missing == ("bottle, seed 1",) and detected.task == "detection"
    assert "failed: no disk" in rendered([five, detected, none])


@pytest.mark.parametrize(
    "plan",
    [
        "{",
        "[]",
        '{"units": [{"id": "a"}]}',
        '{"units": [{"id": "a", "unit": {"task": "x"}}]}',
        json.dumps({"units": [{"id": "a", "unit": dataclasses.asdict(record().unit) | {"seed": [1]}}]}),
        json.dumps({"units": [{"id": "a", "unit": dataclasses.asdict(record().unit) | {"task": "unknown"}}]}),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path, plan):
    run = write(tmp_path / "run", [record()])
    (run / "plan.json").write_text(plan)
    with pytest.raises(InvalidRecordError, match="plan.json is no plan"):
        load([run])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["."], "no record of a benchmark"),
        (["run", "--metrics", "aurocc"], "unknown metric 'aurocc'"),
        (["run", "--dataset", "mvtec_3d"], "unknown data set of these runs"),
        (["run", "broken"], "is no record of a benchmark"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run" / "inner", run_of_two())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.json").write_text("{}")
    if arguments == ["."]:
        (tmp_path / "run" / "inner").rename(tmp_path / "away")
        monkeypatch.chdir(tmp_path / "run")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_door_of_eval(tmp_path):
    run = write(tmp_path / "run", run_of_two())
    out = tmp_path / "table.md"
    command = [sys.executable, ROOT / "eval" / "table.py", run, "--task", "classification", "--out", out, "--overview"]
    subprocess.run(command, check=True, cwd=tmp_path)
    ((_, line),) = parsed(out.read_text(encoding="utf-8"))
    assert line[0] == "contrastive"


@pytest.mark.parametrize(
    ("metric", "written"),
    [("image_auroc", "image AUROC"), ("pixel_f1_max", "pixel F1-max"), ("region_nmi", "region NMI"), ("f1", "F1")],
)
def test_titles(metric, written):
    assert title(metric) == written
