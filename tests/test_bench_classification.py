"""The benchmark of few-shot classifiers: its protocol, its ledger that a killed run goes on from, and its tables."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from anomalyhub.classification import Evidence
from anomalyhub.data.sample import write_sample
from anomalyhub.nn.confidence import Familiarity
from anomalyhub.regions import ImageRegions
from anomalyhub.regions.merge import merge_regions
from anomalyhub.types import ClassProbs, Sample

ROOT = Path(__file__).resolve().parents[1]
LABELS = ("cut", "dent", "cut", "dent", "cut", "dent", "stain", "stain", "stain")
IDS = tuple(f"{label}/{number}.png" for label, number in zip(LABELS, (2, 0, 0, 1, 1, 2, 0, 1, 2), strict=True))


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(ROOT / "eval"))
    import bench_classification
    import classification_cells
    import summary

    yield SimpleNamespace(bench=bench_classification, cells=classification_cells, summary=summary)
    sys.path.remove(str(ROOT / "eval"))


def image_of(row: int) -> np.ndarray:
    return np.full((20, 30, 3), 10 * row, np.uint8)


def evidence_of(row: int) -> Evidence:
    mask = np.zeros((20, 30), bool)
    mask[2:8, 3:12] = True
    return Evidence(IDS[row], image_of(row), ImageRegions.of(image_of(row), mask))


class Nearest:
    """A head that names an image like the example whose grey is nearest, and remembers what it was shown."""

    def fit(self, support):
        self.support = list(support)
        self.classes = tuple(sorted({one.label for one in support}))
        owners = np.array([self.classes.index(one.label) for one in support])
        self.familiarity_ = Familiarity.of(self.embed(support), owners, len(self.classes), 1.0)
        return self

    def embed(self, evidence):
        return np.array([[one.image.mean()] for one in evidence], np.float32)

    def predict(self, evidence):
        self.asked, grey = list(evidence), self.embed(evidence)
        nearest = np.abs(grey - self.embed(self.support).T).argmin(axis=1)
        probs = np.eye(len(self.classes), dtype=np.float32)[
            [self.classes.index(self.support[row].label) for row in nearest]
        ]
        novel, rows = self.familiarity_.novelty(grey) > 1, np.arange(len(evidence))
        return merge_regions(ClassProbs(probs, self.classes), novel, rows, [9] * len(rows), [1.0] * len(rows))


@pytest.fixture
def bench(scripts, tmp_path):
    """Nine grey images of three classes, no detector, and the head above."""
    made = scripts.bench.Bench(tmp_path / "work", tmp_path, tmp_path, "embedded", {})
    samples = [Sample(name, image_of(row), LABELS[row]) for row, name in enumerate(IDS)]
    made.product = lambda name: scripts.bench.Product((), samples, LABELS)
    made.evidence = lambda name, seed, shots, masks: [evidence_of(row) for row in range(len(IDS))]
    made.head = Nearest()
    made.classifier = lambda cell: made.head
    return made


def cell(scripts, **changes):
    known = {"data": "mtd", "head": "prototype", "residual": True, "pretrained": True, "masks": "detector"}
    return scripts.cells.Cell(**{**known, "shots": 5, "seed": 1, **changes})


def entry(accuracy: float, **changes) -> dict:
    known = {"accuracy": accuracy, "confidence": 50.0, "recalls": {"cut": accuracy, "dent": 0.0}, "n_test": 6}
    return {**known, "fit_seconds": 1.0, "predict_seconds": 2.0, **changes}


def test_the_plan_has_every_cell_once_and_the_deciding_ones_first(scripts):
    cells = scripts.cells
    every = cells.plan(cells.HEADS, cells.SHOTS, cells.SEEDS, cells.DATA)
    # 3 heads with and without residuals and pretraining, the oracle, direct; 5 shots, 5 seeds, 2 data sets
    assert len(every) == len(set(every)) == (3 * 4 + 1 + 1) * 5 * 5 * 2
    assert {one.head for one in every if one.head == "direct" and (one.residual or one.pretrained)} == set()
    first = every[:10]
    assert {(one.shots, one.head, one.residual, one.pretrained, one.masks) for one in first} == {
        (5, "prototype", True, True, "detector")
    }
    assert {(one.data, one.seed) for one in first} == {
        (name, seed) for name in ("mtd", "leather") for seed in range(1, 6)
    }
    assert list(dict.fromkeys(one.shots for one in every)) == [5, 1, 3, 2, 4]
    assert list(dict.fromkeys(one.head for one in every if one.shots == 3)) == list(cells.HEADS)


@pytest.mark.parametrize(
    ("shots", "support"),
    [
        (1, ["cut/0.png", "dent/0.png", "stain/0.png"]),
        (2, ["cut/0.png", "cut/1.png", "dent/0.png", "dent/1.png", "stain/0.png", "stain/1.png"]),
    ],
)
def test_examples_are_the_first_by_name_and_the_test_all_others(scripts, shots, support):
    examples, test = scripts.cells.split(IDS, LABELS, shots)
    assert [IDS[row] for row in examples] == support
    assert sorted(examples + test) == list(range(len(IDS)))


def test_the_head_sees_the_examples_labels_and_no_others(scripts, bench):
    found = scripts.bench.measure(cell(scripts, shots=2), bench)
    assert [(one.id, one.label) for one in bench.head.support] == [
        (f"{name}/{number}.png", name) for name in ("cut", "dent", "stain") for number in (0, 1)
    ]
    assert [(one.id, one.label) for one in bench.head.asked] == [
        ("cut/2.png", None),
        ("dent/2.png", None),
        ("stain/2.png", None),
    ]
    # greys are 10 times the row: row 0 (cut) is nearest to 10 (dent), row 5 (dent) to 40 (cut), row 8 (stain) to 70
    assert found["accuracy"] == pytest.approx(100 / 3)
    assert found["recalls"] == {"cut": 0.0, "dent": 0.0, "stain": 100.0}
    assert found["n_test"] == 3


def test_a_class_without_an_example_is_told_by_its_novelty(scripts, bench):
    found = scripts.bench.measure(cell(scripts, shots=2, left_out="stain"), bench)
    assert {one.label for one in bench.head.support} == {"cut", "dent"}
    # examples' greys 10, 20, 30, 40: distances 10 of the known 0 and 50, 40 of the stain 80
    assert found["auroc"] == 1.0
    assert (found["called_unknown"], found["falsely_unknown"]) == (1.0, 0.0)


def test_a_stopped_run_goes_on_with_what_is_missing(scripts, bench, monkeypatch, capsys):
    cells = scripts.cells.plan(["prototype"], [1], [1, 2], ["mtd", "leather"])
    asked = []

    def measure(one, of_bench):
        asked.append(one)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return entry(float(len(asked)))

    monkeypatch.setattr(scripts.bench, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        scripts.bench.run(cells, bench)
    with open(bench.work / "cells.jsonl", "a") as file:
        file.write('{"cell": {"data": "mtd", "he')  # a kill in the middle of a line
    assert scripts.bench.run(cells, bench) == 0
    assert asked == [*cells[:3], *cells[2:]]
    assert set(scripts.cells.read_cells(bench.work)) == set(cells)
    assert scripts.bench.run(cells, bench) == 0 and len(asked) == len(cells) + 1


def test_a_cell_that_fails_is_told_and_passed_over(scripts, bench, monkeypatch, capsys):
    cells = scripts.cells.plan(["direct"], [1], [1, 2], ["mtd"])

    def measure(one, of_bench):
        if one.seed == 1:
            raise ValueError("no such luck")
        return entry(50.0)

    monkeypatch.setattr(scripts.bench, "measure", measure)
    assert scripts.bench.run(cells, bench) == 1
    assert list(scripts.cells.read_cells(bench.work)) == [cells[1]]
    shown = capsys.readouterr()
    assert f"FAILED {cells[0]}" in shown.out and "no such luck" in shown.err


def test_a_crop_is_described_once(scripts, bench):
    seen = []

    def describe(evidence, progress):
        seen.extend(one.id for one in evidence)
        return np.array([[one.image.mean(), area.area_px] for one in evidence for area in one.sub_images], np.float32)

    first, second, other = (
        SimpleNamespace(name=name, _crops=describe) for name in ("prototype", "prototype", "direct")
    )
    evidence = [evidence_of(row) for row in range(4)]
    assert bench.remembering(first)._crops(evidence[2:], None)[:, 0].tolist() == [20.0, 30.0]
    labelled = [dataclasses.replace(one, label="cut") for one in evidence]
    assert bench.remembering(second)._crops(labelled[::-1], None)[:, 0].tolist() == [30.0, 20.0, 10.0, 0.0]
    assert seen == [IDS[row] for row in (2, 3, 1, 0)]
    assert bench.remembering(other)._crops is describe


def test_forgetting_takes_the_cells_and_their_pretraining(scripts, bench):
    one, other = cell(scripts), cell(scripts, head="contrastive")
    for which in (one, other):
        scripts.cells.add_cell(bench.work, which, entry(40.0))
        (bench.pretrained_folder(which) / "kept").mkdir(parents=True)
    scripts.bench.forget(bench, [one])
    assert list(scripts.cells.read_cells(bench.work)) == [other]
    assert not bench.pretrained_folder(one).exists() and bench.pretrained_folder(other).exists()


def test_the_table_has_mean_and_sample_deviation_over_seeds(scripts):
    values = {1: 40.0, 2: 50.0, 3: 63.0}
    found = {cell(scripts, seed=seed): entry(value) for seed, value in values.items()}
    found[cell(scripts, head="contrastive")] = entry(30.0)
    found[cell(scripts, left_out="cut")] = {"auroc": 1.0}
    first, second = scripts.cells.table(found)
    assert (first["head"], second["head"]) == ("prototype", "contrastive")
    of_five = first["shots"]["5"]
    mean = (40 + 50 + 63) / 3
    assert of_five["mean"] == pytest.approx(mean)
    assert of_five["std"] == pytest.approx((((40 - mean) ** 2 + (50 - mean) ** 2 + (63 - mean) ** 2) / 2) ** 0.5)
    assert of_five["seeds"] == [1, 2, 3] and of_five["values"] == [40.0, 50.0, 63.0]
    assert of_five["recalls"] == {"cut": 51.0, "dent": 0.0}
    assert second["shots"]["5"]["std"] is None


def test_the_best_variant_leaves_the_oracle_out(scripts):
    found = {
        cell(scripts): entry(60.0),
        cell(scripts, pretrained=False): entry(70.0),
        cell(scripts, masks="ground-truth"): entry(90.0),
    }
    rows = scripts.cells.table(found)
    assert scripts.cells.best(rows, "mtd", "prototype", 5) == 70.0
    assert scripts.cells.best(rows, "mtd", "relation", 5) is None


def test_unknown_kinds_are_averaged_over_classes_then_seeds(scripts):
    rates = {"called_unknown": 0.5, "falsely_unknown": 0.25}
    aurocs = {("cut", 1): 0.6, ("dent", 1): 0.8, ("cut", 2): 0.9, ("dent", 2): 0.9}
    found = {cell(scripts, left_out=out, seed=seed): {"auroc": value, **rates} for (out, seed), value in aurocs.items()}
    row = scripts.cells.unknown_table(found)["mtd"]
    assert row["auroc"]["mean"] == pytest.approx(0.8)
    assert row["auroc"]["std"] == pytest.approx(statistics.stdev([0.7, 0.9]))
    assert row["classes"] == pytest.approx({"cut": 0.75, "dent": 0.85})
    assert row["called_unknown"] == 0.5


def test_the_report_and_its_rows(scripts, bench, monkeypatch):
    for seed, value in ((1, 60.0), (2, 70.0)):
        scripts.cells.add_cell(bench.work, cell(scripts, seed=seed), entry(value))
    scripts.cells.add_cell(bench.work, cell(scripts, head="contrastive"), entry(35.0))
    scripts.cells.add_cell(bench.work, cell(scripts, masks="ground-truth", shots=1), entry(80.0))
    found = scripts.bench.report(bench)
    assert found["cells"] == {"measured": 4, "of": 700}
    assert found["data"]["mtd"]["classes"] == {"cut": 3, "dent": 3, "stain": 3}
    assert found["data"]["mtd"]["chance"] == pytest.approx(100 / 3)
    assert found["data"]["mtd"]["prototype_above_contrastive_at_5_shots"] == pytest.approx(30.0)
    monkeypatch.setattr(scripts.summary, "result", lambda name: found)
    rows = scripts.summary.classification_rows()
    assert rows[0] == "| data | head | residuals | pretraining | 1 shot | 5 shots |"
    assert "| mtd | prototype | yes | yes |  | 65.0 ± 7.1 (2 seeds) |" in rows
    assert "| mtd | prototype, true masks (oracle) | yes | yes | 80.0 (1 seed) |  |" in rows
    assert rows.index("| mtd | contrastive | yes | yes |  | 35.0 (1 seed) |") > 2


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A sample product, and two textures of one class each with an image that must not be taken."""
    folder = tmp_path_factory.mktemp("drawn")
    write_sample(folder / "images", products="ring", n_train=6, n_test_good=1, n_defect=2, size=64)
    for name, colour in (("dotted", 0), ("lined", 200)):
        (folder / "textures" / name).mkdir(parents=True)
        cv2.imwrite(str(folder / "textures" / name / "0.png"), np.full((32, 40, 3), colour, np.uint8))
        cv2.imwrite(str(folder / "textures" / name / "1.png"), np.full((32, 40, 3), 100, np.uint8))
    return folder


def on_disk(scripts, drawn, work):
    """The benchmark on that product, small."""
    settings = {"coreset": 0.05, "calibration_images": 0, "resize": 96}
    return scripts.bench.Bench(
        work, drawn / "images", drawn / "textures", "embedded", {}, settings, procedural=1, per_class=3
    )


@pytest.fixture(scope="module")
def finished(scripts, drawn, tmp_path_factory):
    """The work folder of one measured cell, the cell and what it gave."""
    work = tmp_path_factory.mktemp("work")
    one = cell(scripts, data="ring", head="contrastive", shots=1)
    return work, one, scripts.bench.measure(one, on_disk(scripts, drawn, work))


def test_the_whole_way_on_a_small_product(scripts, drawn, finished):
    work, one, found = finished
    labels = scripts.bench.Product.read(drawn / "images" / "ring").labels
    assert found["n_test"] == len(labels) - len(set(labels))
    assert set(found["recalls"]) == set(labels) and "good" not in labels
    assert found["accuracy"] == pytest.approx(np.mean(list(found["recalls"].values())))  # one test image of each
    assert len(list((work / "textures").iterdir())) == 3
    assert (cv2.imread(str(work / "textures" / "lined" / "0.png")) == 200).all()
    made = {path.name for path in (work / "ring" / "seed1").iterdir()}
    assert made == {"detector", "evidence", "painted", "pretrained"}
    assert [path.name for path in (work / "ring" / "seed1" / "pretrained").iterdir()] == ["contrastive-residuals"]


def test_what_is_there_is_not_computed_again(scripts, drawn, finished, monkeypatch):
    work, one, found = finished

    def fail(*arguments, **options):
        raise AssertionError("computed again")

    monkeypatch.setattr(scripts.bench.Inspector, "fit", fail)
    monkeypatch.setattr(scripts.bench, "load_textures", fail)
    again = scripts.bench.measure(one, on_disk(scripts, drawn, work))
    assert (again["accuracy"], again["recalls"]) == (found["accuracy"], found["recalls"])


def test_true_masks_are_the_oracles_alone(scripts, drawn, finished):
    work, one, _ = finished
    bench = on_disk(scripts, drawn, work)
    seen, oracle = (bench._evidence("ring", 1, 1, masks) for masks in ("detector", "ground-truth"))
    of_all = bench.product("ring")
    truth = [sample.mask.sum() for sample in of_all.samples]
    assert [one.regions.mask.sum() for one in oracle] == truth != [one.regions.mask.sum() for one in seen]
    blind = dataclasses.replace(of_all, samples=[dataclasses.replace(one, mask=None) for one in of_all.samples])
    bench.product = lambda name: blind
    for before, after in zip(seen, bench._evidence("ring", 1, 1, "detector"), strict=True):
        assert (before.regions.mask == after.regions.mask).all() and before.label is after.label is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heads", "prototypes"], "no prototypes: choose among prototype, contrastive, relation, direct"),
        (["--shots", "1,6"], "no 6: choose among 5, 1, 3, 2, 4"),
        (["--data", "steel"], "no steel: choose among mtd, leather"),
    ],
)
def test_wrong_arguments_are_told(scripts, arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        scripts.bench.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
