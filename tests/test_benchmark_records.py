"""Records of benchmarks: what they hold, what is refused, and that predictions give the metrics again."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from anomalyhub.benchmark.records import (
    METRICS,
    Predictions,
    Record,
    Unit,
    read_record,
    read_records,
    recomputed,
    write_record,
)
from anomalyhub.errors import InvalidRecordError

UNIT = Unit("detection", "patchcore", "backbone=resnet18", "mvtec_ad", "metal_nut", "few-shot", 2, 1)
ROWS = Predictions(("id", "label", "score"), [("test/good/0.png", "good", 0.1), ("test/cut/0.png", "cut", 0.30000001)])


def record(**changes) -> Record:
    known = {"settings": {"coreset": 0.1}, "metrics": {"image_auroc": 1.0}, "n_images": 2, "config": "patchcore-mvtec"}
    return Record(unit=UNIT, **{**known, **changes})


def stored(**changes) -> dict:
    """A record as JSON with some of its values changed; "unit.x" is a value of the unit; None takes a key away."""
    value = json.loads(json.dumps(record(seconds={"total": 1.5}, date="2026-01-31T12:00:00+00:00").to_json()))
    for name, item in changes.items():
        holder, key = (value["unit"], name[5:]) if name.startswith("unit_") else (value, name)
        holder[key] = item
    return value


def test_an_id_is_readable_and_tells_units_and_settings_apart():
    assert UNIT.id({}).startswith("detection-patchcore-backbone-resnet18-mvtec_ad-metal_nut-few-shot-2shots-seed1-")
    others = [
        dataclasses.replace(UNIT, **{key: value}) for key, value in (("seed", 2), ("shots", None), ("variant", ""))
    ]
    ids = {one.id(settings) for one in (UNIT, *others) for settings in ({}, {"coreset": 0.1}, {"coreset": 0.2})}
    assert len(ids) == 12 and all(len(name.rpartition("-")[2]) == 8 for name in ids)
    assert UNIT.id({"a": 1, "b": (2, 3)}) == UNIT.id({"b": [2, 3], "a": 1})  # JSON has no order and no tuples
    long = dataclasses.replace(UNIT, variant="x" * 250)
    assert len(f"{long.id({})}.predictions.csv") < 240


def test_a_record_is_read_as_it_was_written(tmp_path):
    made = record(
        metrics={"image_auroc": 0.123456789012345, "aupro": None},
        why={"aupro": "there are no masks"},
        published={"source": "ejaz2024", "table": "Table 5.5", "method": "PatchCore", "variant": ""},
        seconds={"total": 1.5, "fit": 1.0},
        peak_gib=0.5,
        hardware={"cores": 2, "gpu": None},
        date="2026-01-31T12:00:00+00:00",
    )
    path = write_record(tmp_path / "units", made, ROWS)
    assert path.name == f"{made.id}.json"
    assert read_record(path) == made and read_records(tmp_path) == [made] and read_records(tmp_path / "units") == [made]
    (tmp_path / "units" / ".anomalyhub-0123.json").write_text("{")  # being written
    assert read_records(tmp_path) == [made]
    (tmp_path / "units" / ".anomalyhub-0123.json").unlink()
    assert Predictions.read(path.with_name(f"{made.id}.predictions.csv")).column("score") == ["0.1", "0.30000001"]
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{made.id}.predictions.csv"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "model"}, "it holds a model, not a benchmark-unit"),
        ({"schema": 2}, "its schema is 2 and this version reads 1"),
        ({"schema": True}, "its schema is True"),
        ({"unit_task": "detektion"}, "unknown task 'detektion': did you mean 'detection'?"),
        ({"unit_protocol": "one-shot"}, "unknown protocol 'one-shot'"),
        ({"unit_seed": -1}, "unit.seed is -1"),
        ({"unit_seed": 1.5}, "unit.seed is 1.5"),
        ({"unit_shots": "two"}, "unit.shots is 'two'"),
        ({"unit_product": " "}, "unit.product is empty"),
        ({"unit_product": "a\nb"}, "product of unit is"),
        ({"unit_method": "m" * 400}, "method of unit is"),
        ({"unit_color": "red"}, "unknown key 'color'"),
        ({"unit": None}, "its unit is None"),
        ({"metrics": {}}, "it has no metrics"),
        ({"metrics": {"image_auroc": 1.2}}, "image_auroc is 1.2: it lies between 0 and 1"),
        ({"metrics": {"image_auroc": 97.6}}, "give fractions, not percent"),
        ({"metrics": {"image_auroc": "0.9"}}, "image_auroc is '0.9'"),
        ({"metrics": {"image_auroc": True}}, "image_auroc is True"),
        ({"metrics": {"image_aurok": 0.9}}, "did you mean 'image_auroc'?"),
        ({"metrics": {"nmi": 0.9}}, "unknown metric of detection 'nmi'"),
        ({"metrics": {"aupro": None}}, "aupro is null and why says nothing of it"),
        ({"metrics": [0.9]}, "metrics is [0.9]: it is an object"),
        ({"n_images": 0}, "n_images is 0"),
        ({"seconds": {"total": -1}}, "total is -1: it is a number from 0"),
        ({"peak_gib": "much"}, "peak_gib is 'much'"),
        ({"date": "yesterday"}, "date is 'yesterday'"),
        ({"published": {"source": "a", "page": "3"}}, "unknown key of published 'page'"),
        ({"score": 1}, "unknown key 'score'"),
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path, changes, message):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(stored(**changes)))
    with pytest.raises(InvalidRecordError) as error:
        read_record(path)
    assert str(path) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no record of a benchmark"),
        ("[]", "it holds a list"),
        (json.dumps(stored()).replace("1.0}", "NaN}", 1), "it holds NaN, which JSON does not have"),
        ("[" * 100_000, "is no record of a benchmark"),
        (" " * (1 << 20) + "{}", "more than"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path, text, message):
    path = tmp_path / "one.json"
    path.write_text(text)
    with pytest.raises(InvalidRecordError, match=message):
        read_record(path)


def test_an_incomplete_record_is_refused(tmp_path):
    value = stored()
    del value["n_images"]
    path = tmp_path / "one.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InvalidRecordError, match="it is not complete .*n_images"):
        read_record(path)
    with pytest.raises(InvalidRecordError, match="does-not-exist"):
        read_records(tmp_path / "does-not-exist")


def test_a_metric_cannot_be_infinite():
    for value in (math.nan, math.inf):
        with pytest.raises(InvalidRecordError, match="image_auroc"):
            record(metrics={"image_auroc": value})
    adjusted = record()
    unit = dataclasses.replace(adjusted.unit, task="discovery", protocol="transductive", shots=None)
    assert dataclasses.replace(adjusted, unit=unit, metrics={"ari": -0.4}).metrics == {"ari": -0.4}


def test_predictions_give_the_metrics_again(tmp_path, rng):
    labels = ["good" if index % 3 else "cut" for index in range(40)]
    scores = rng.random(40)
    path = tmp_path / "p.csv"
    rows = list(zip(map(str, range(40)), labels, scores.tolist(), strict=True))
    Predictions(("id", "label", "score"), rows).write(path)
    found = recomputed("detection", Predictions.read(path))
    cut = np.array(labels) == "cut"
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[cut] for b in scores[~cut]]
    assert found["image_auroc"] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert set(found) == {"image_auroc", "image_ap", "image_f1_max"}
    named = Predictions(("id", "label", "predicted"), [("a", "cut", "cut"), ("b", "dent", "cut"), ("c", "cut", "cut")])
    assert recomputed("classification", named) == {"accuracy": 2 / 3, "balanced_accuracy": 0.5}
    assert recomputed("discovery", named)["f1"] == 2 / 3
    assert set(recomputed("discovery", named)) <= set(METRICS["discovery"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,good\n", "no column 'score'"),
        ("id,label,score\na,good\n", "line 2 has 2 cells, not 3"),
        ("id,label,score\na,good,high\n", "a score is not a number"),
        ("", "is no table of predictions"),
    ],
)
def test_predictions_that_are_none_are_refused(tmp_path, text, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InvalidRecordError, match=message):
        recomputed("detection", Predictions.read(path))
