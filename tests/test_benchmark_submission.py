"""Submissions: what is refused and why, what predictions give, and what a leaderboard makes of them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from anomalyhub.benchmark.leaderboard import truth_of
from anomalyhub.benchmark.submission import read_submission, submitted_rows
from anomalyhub.errors import InvalidRecordError

KINDS = {"broken_large": 15, "broken_small": 17, "contamination": 16}  # of bottle's test, less five shots of each
HITS = 38


def row(**changes) -> dict:
    """38 of the 48 defective images of bottle that five shots leave."""
    made = {"task": "classification", "dataset": "mvtec_ad", "product": "bottle", "protocol": "few-shot", "shots": 5}
    return {**made, "seeds": 1, "metrics": {"accuracy": 0.7917}, **changes}


def five(**changes) -> dict:
    return row(seeds=5, metrics={"accuracy": 0.8083}, std={"accuracy": 0.0682}, **changes)


def detection(**changes) -> dict:
    made = {"task": "detection", "protocol": "full", "shots": None, "metrics": {"image_auroc": 0.95}}
    return row(**made | changes)


def submission(*rows: dict, **changes) -> dict:
    made = {"schema": 1, "kind": "benchmark-submission", "by": "Ada", "method": "Mine", "rows": list(rows) or [row()]}
    return {**made, **changes}


def write(folder: Path, content: dict | str, name: str = "submission.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder / name


def named(hits: int = HITS, seed: int = 0) -> list[list[str]]:
    """Predictions of bottle's 48 images, of which so many are right."""
    images = [(f"test/{kind}/{number:03}.png", kind) for kind, count in KINDS.items() for number in range(count)]
    right = set(random.Random(seed).sample(range(len(images)), hits))
    return [[image, kind, kind if at in right else "else"] for at, (image, kind) in enumerate(images)]


def write_table(folder: Path, rows: list[list[str]], name: str = "a.csv", third: str = "predicted") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "label", third], *rows])
    return name


@pytest.mark.parametrize(
    "content",
    [
        submission(),
        submission(five(), url="https://example.org/paper", notes="ten crops", variant="large"),
        submission(detection(dataset="MVTec AD", metrics={"image_auroc": 1, "aupro": 0.5})),
        submission(row(product="mean", metrics={"accuracy": 0.44})),  # a mean alone cannot be checked
        submission(row(metrics={"accuracy": 0.79})),  # two digits: 38 of 48
        submission(detection(dataset="visa", product="candle", protocol="zero-shot", shots=0)),
        submission(row(task="discovery", shots=None, protocol="transductive", metrics={"ari": -0.1, "f1": 0.5})),
    ],
)
def test_accepted(tmp_path, content):
    found = read_submission(write(tmp_path, content))
    assert found.by == "Ada" and len(found.id) == 16 and len(found.rows) == len(content["rows"])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "Expecting value"),
        ("[]", "submission is no object"),
        ("[" * 100_000, "refused"),
        (submission(schema=2), '"schema": 1'),
        (submission(kind="benchmark-unit"), "benchmark-submission"),
        (submission(authors="me"), "unknown key of a submission 'authors'"),
        (submission(by=""), "by is empty"),
        (submission(method="a\nb"), "method is no line"),
        (submission(method="x" * 121), "at most 120"),
        (submission(url="javascript:alert(1)"), "begin it with https://"),
        (submission(rows=[]), "rows is no list of 1"),
        (submission(row(metric={})), "row 1: unknown key of a row 'metric': did you mean 'metrics'"),
        (submission(row(), row(task="segmentation", product="cable")), "row 2: unknown task 'segmentation'"),
        (submission(row(dataset="mvtec_add")), "unknown data set 'mvtec_add': did you mean 'mvtec_ad'"),
        (submission(row(product="botle")), "unknown product of mvtec_ad 'botle': did you mean 'bottle'"),
        (submission(row(metrics={"image_auroc": 0.9})), "unknown metric of classification 'image_auroc'"),
        (submission(row(metrics={"accuracy": 79.17})), "it lies between 0 and 1 (a fraction, no percent)"),
        (submission(detection(metrics={"image_auroc": 1.01})), "it lies between 0 and 1"),
        (submission(row(metrics={"accuracy": True})), "it lies between 0 and 1"),
        (submission(row(metrics={"accuracy": "0.5"})), "it lies between 0 and 1"),
        (json.dumps(submission()).replace("0.7917", "NaN"), "NaN, which JSON does not have"),
        (json.dumps(submission()).replace("0.7917", "1e-99999999"), "more than 20 digits"),
        (submission(row(metrics={})), "neither metrics nor predictions"),
        (submission(row(seeds=0)), "seeds is 0"),
        (submission(row(seeds=None)), "seeds is None"),
        (submission(row(std={"accuracy": 0.01})), "one run has no deviation"),
        (submission(five() | {"std": {"balanced_accuracy": 0.1}}), "metrics has not"),
        (submission(five() | {"std": {"accuracy": 0.51}}), "have at most 0.4401"),
        (submission(row(metrics={"accuracy": 0.785})), "no 1 runs on them give that"),  # between 37 and 38 of 48
        (submission(row(shots=4)), "no 1 runs on them give that"),  # 38 of 48 is not one of 51
        (submission(detection(metrics={"image_auroc": 0.9501, "image_f1_max": 0.7})), "image_f1_max is 0.7"),
        (submission(detection(metrics={"image_auroc": 0.99995})), "20 good and 63 defective"),
        (submission(row(shots=None)), "shots is null, which is not few-shot"),
        (submission(detection(shots=4)), "shots is 4, which is not full"),
        (submission(detection(protocol="zero-shot", shots=2)), "shots is 2, which is not zero-shot"),
        (submission(row(protocol="full", shots=None)), "classification has no protocol full"),
        (submission(row(), row()), "row 2: classification of mvtec_ad bottle, few-shot, 5 shots is row 1 too"),
        (submission(row(), row(product="mean", metrics={"accuracy": 0.6})), "its 1 rows give 0.79170"),
        (submission(row(seconds=-1)), "seconds is -1"),
        (submission(row(predictions="a.csv")), "no list of file names"),
        (submission(row(predictions=["../a.csv"])), "name a .csv file beside the JSON"),
        (submission(row(predictions=["a.json"])), "name a .csv file beside the JSON"),
        (submission(row(predictions=["a.csv", "b.csv"])), "2 files and seeds is 1"),
        (submission(row(predictions=["a.csv"])), "predictions a.csv cannot be read"),
        (submission(row(product="mean", metrics={}, predictions=["a.csv"])), "of a product, not of a mean"),
        (submission(notes="x" * 1001), "at most 1000"),
        (submission() | {"notes": "x" * (1 << 20)}, "more than 1048576 bytes"),
    ],
)
def test_refused(tmp_path, content, text):
    with pytest.raises(InvalidRecordError) as caught:
        read_submission(write(tmp_path, content))
    assert text in str(caught.value) and "submission.json is refused" in str(caught.value)


def test_a_mean_that_its_rows_give(tmp_path):
    both = [row(), row(product="cable", metrics={"accuracy": 0.5})]  # 26 of 52
    assert read_submission(write(tmp_path, submission(*both, row(product="mean", metrics={"accuracy": 0.6459}))))
    with pytest.raises(InvalidRecordError, match="its 2 rows give 0.64585"):
        read_submission(write(tmp_path, submission(*both, row(product="mean", metrics={"accuracy": 0.6470}))))


def test_figures_come_from_predictions(tmp_path):
    """38 and 40 of 48: the mean and deviation that are given are theirs, others are filled in."""
    names = [write_table(tmp_path, named(38 + 2 * n, n), f"{n}.csv") for n in range(2)]
    content = row(seeds=2, metrics={"accuracy": 0.8125}, predictions=names)
    found = read_submission(write(tmp_path, submission(content)))
    (shown,) = submitted_rows(found)
    assert shown.value("bottle", "accuracy").mean == 0.8125
    assert shown.value("bottle", "accuracy").std == pytest.approx(2 / 48 / 2**0.5, abs=1e-8)
    assert shown.value("bottle", "balanced_accuracy").mean is not None
    assert shown.checked == "accuracy, balanced_accuracy recomputed, labels as submitted"


def broken_label(rows):
    return [[rows[0][0], "broken_small", rows[0][2]], *rows[1:]]


@pytest.mark.parametrize(
    ("change", "metrics", "text"),
    [
        (lambda rows: rows, {"accuracy": 0.8125}, "accuracy (mean) is 0.8125, and the predictions give 0.791667"),
        (lambda rows: rows[:-1], {}, "has 0 good and 47 defective images, and mvtec_ad bottle has 20 and 63"),
        (lambda rows: [*rows, rows[0]], {}, "has no image, or one twice"),
        (lambda rows: [], {}, "has no image, or one twice"),
        (lambda rows: [line[:2] for line in rows], {}, "line 2 has 2 cells"),
    ],
)
def test_predictions_that_do_not_fit(tmp_path, change, metrics, text):
    write_table(tmp_path, change(named()))
    with pytest.raises(InvalidRecordError) as caught:
        read_submission(write(tmp_path, submission(row(metrics=metrics, predictions=["a.csv"]))))
    assert text in str(caught.value)


def test_predictions_need_their_columns(tmp_path):
    write_table(tmp_path, named(), third="score")
    with pytest.raises(InvalidRecordError, match="no column 'predicted'"):
        read_submission(write(tmp_path, submission(row(predictions=["a.csv"]))))


def test_a_link_is_no_table(tmp_path):
    write_table(tmp_path / "elsewhere", named())
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.csv").symlink_to(tmp_path / "elsewhere" / "a.csv")
    with pytest.raises(InvalidRecordError, match="is a link"):
        read_submission(write(tmp_path / "here", submission(row(predictions=["a.csv"]))))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (None, None),
        (broken_label, "is 'broken_large' in mvtec_ad"),
        (lambda rows: [["test/other/000.png", *rows[0][1:]], *rows[1:]], "which is no test image"),
    ],
)
def test_labels_are_those_of_the_data_set(tmp_path, change, text):
    """Whoever changes a label in the table is found out where the data set is at hand."""
    truth = {f"test/{kind}/{n:03}.png": kind for kind, count in KINDS.items() for n in range(count + 5)}
    truth |= {f"test/good/{n:03}.png": "good" for n in range(20)}
    write_table(tmp_path, named() if change is None else change(named()))
    path = write(tmp_path, submission(row(metrics={}, predictions=["a.csv"])))
    if text is None:
        found = read_submission(path, lambda dataset, product: truth)
        assert found.against == "labels of the data set"
        assert submitted_rows(found)[0].checked.endswith("recomputed, labels of the data set")
    else:
        with pytest.raises(InvalidRecordError, match=text):
            read_submission(path, lambda dataset, product: truth)


def test_detection_of_a_data_set_on_disk(tmp_path):
    """The sample is written, and its own labels are read; AUROC by counting pairs."""
    from anomalyhub.data import load_dataset
    from anomalyhub.data.sample import write_sample

    write_sample(tmp_path / "sample", products="ring", n_train=2, n_test_good=3, n_defect=2, size=64)
    test = load_dataset(tmp_path / "sample", "ring").test
    rng = random.Random(0)
    scores = {ref.id: rng.random() + 0.4 * (ref.label != "good") for ref in test.refs}
    good = [scores[ref.id] for ref in test.refs if ref.label == "good"]
    bad = [scores[ref.id] for ref in test.refs if ref.label != "good"]
    auroc = sum(one > other for one in bad for other in good) / len(bad) / len(good)
    assert 0 < auroc < 1
    write_table(tmp_path, [[ref.id, ref.label, scores[ref.id]] for ref in test.refs], third="score")
    content = detection(
        dataset="sample", product="ring", metrics={"image_auroc": round(auroc, 4)}, predictions=["a.csv"]
    )
    truth = truth_of([f"sample={tmp_path / 'sample'}"])
    found = read_submission(write(tmp_path, submission(content)), truth)
    assert found.rows[0].checked == ("image_auroc", "image_ap", "image_f1_max")
    write_table(tmp_path, [[ref.id, "good", scores[ref.id]] for ref in test.refs], third="score")
    with pytest.raises(InvalidRecordError, match="calls .* 'good', which is"):
        read_submission(tmp_path / "submission.json", truth)


def test_rows_of_a_leaderboard(tmp_path):
    content = submission(five(seconds=2), row(product="cable", metrics={"accuracy": 0.5}), detection(), notes="by hand")
    kinds, found = submitted_rows(read_submission(write(tmp_path, content)))
    assert (kinds.origin, kinds.source, kinds.shots, kinds.checked) == ("submitted", "Ada", 5, "")
    assert kinds.value("bottle", "accuracy").n == 5 and kinds.seconds.mean == 2 and kinds.notes == ("by hand",)
    mean = kinds.value("mean", "accuracy")
    assert mean.mean is None and mean.why.startswith("not over all products: without capsule, carpet")
    assert found.value("bottle", "image_auroc").mean == 0.95


def test_the_mean_of_all_products_is_taken(tmp_path):
    from anomalyhub.benchmark.counts import products_of

    rows = [
        detection(dataset="mpdd", product=name, metrics={"image_auroc": value / 10})
        for value, name in enumerate(products_of("mpdd"), 4)
    ]
    (found,) = submitted_rows(read_submission(write(tmp_path, submission(*rows))))
    assert found.value("mean", "image_auroc").mean == pytest.approx(0.65)


def test_ids_are_those_of_the_content(tmp_path):
    ids = [read_submission(write(tmp_path / str(n), submission(variant=str(n % 2)))).id for n in range(4)]
    assert ids[0] == ids[2] != ids[1] == ids[3]
