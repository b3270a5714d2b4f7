"""The command line on the bundled sample: what each verb writes, prints and returns."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from test_readme import parse

from anomalyhub import __version__, cli
from anomalyhub.cli import support

VERBS = (
    "sample",
    "fit",
    "predict",
    "evaluate",
    "threshold",
    "append",
    "binarize",
    "discover",
    "train",
    "synthesize",
    "inspect",
    "pretrain",
    "classify",
    "demo",
    "backbones",
    "export",
    "leaderboard",
    "pull",
    "push",
    "repos",
    "swap",
    "watch",
)
COLUMNS = ["path", "score", "p_value", "is_anomalous", "label"]
#: SIGINT stops the child even where this test runs in the background of a shell, which ignores it there.
STOPPABLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from anomalyhub.cli import main; main()"
)


def command(arguments: str) -> list[str]:
    return [sys.executable, "-m", "anomalyhub", *shlex.split(arguments)]


def process(arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process of its own."""
    done = subprocess.run(command(arguments), cwd=cwd, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def files(folder: Path) -> dict[str, bytes]:
    """Contents of all files below, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def table(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of predictions.csv by path."""
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return {row["path"]: row for row in reader}


def stored(model: Path) -> dict:
    return json.loads((model / "inspector.json").read_text())["calibration"]


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture that can be decoded."""
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder that holds `data` (the label, which is not square), `model` and `results` of processes of their own."""
    place = tmp_path_factory.mktemp("cli")
    code, out, err = process("sample --out data --product label --train 8 --test 2 --defects 1 --size 64", place)
    assert (code, out, err) == (0, "wrote label to data\n", "")
    code, out, err = process("fit patchcore --data data --out model --seed 3", place)
    assert (code, err) == (0, "")
    plan, fitted, threshold = out.splitlines()
    assert re.search(r"6,272 patches x \d+ -> bank of 627 ", plan)
    assert fitted == "fitted patchcore on 8 normal images of label: model"
    assert re.match(r"threshold \d+\.\d{4} \(normals, 1.00% of normal images, 8 held out, extrapolated", threshold)
    code, out, err = process("predict model --data data --out results --threshold 1", place)
    assert (code, err) == (0, "")
    found = sum(row["is_anomalous"] == "true" for row in table(place / "results").values())
    assert out == f"{found} of 6 images look defective: results/predictions.csv\n" and found > 0
    return place


@pytest.fixture
def here(place, tmp_path, monkeypatch) -> Path:
    """An empty working folder with links to `data` and `results` and a model of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "results"):
        (tmp_path / name).symlink_to(place / name)
    shutil.copytree(place / "model", tmp_path / "model")
    return tmp_path


def run(capfd, arguments: str) -> str:
    """Run in this process, expecting success and a silent standard error; returns standard output."""
    code = cli.run(shlex.split(arguments))
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    return out


# ---------------------------------------------------------------------------------------------------- results


def test_model_folder(place):
    model = place / "model"
    assert sorted(files(model)) == ["config.json", "inspector.json", "state.safetensors"]
    config = json.loads((model / "config.json").read_text())
    assert (config["kind"], config["detector"], config["seed"], config["schema"]) == ("detector", "patchcore", 3, 1)
    assert len({path.stat().st_mode for path in model.iterdir()}) == 1  # who can read one can read all
    assert stored(model) == {"threshold": pytest.approx(1.4, abs=0.7), "false_alarm_rate": 0.01, "method": "normals"}


def test_results_folder(place):
    results, root = place / "results", place / "data" / "label"
    rows = table(results)
    assert list(rows) == sorted(p.relative_to(root).as_posix() for p in (root / "test").rglob("*.png"))
    expected = {"predictions.csv", "regions.coco.json"}
    expected |= {f"maps/{name[:-4]}.npy" for name in rows} | {f"overlays/{name}" for name in rows}
    assert set(files(results)) == expected
    for name, row in rows.items():
        assert size(root / name) == size(results / "overlays" / name) == (80, 64)
        scores = np.load(results / "maps" / f"{name[:-4]}.npy", allow_pickle=False)
        assert scores.shape == (64, 80) and scores.dtype == np.float32 and np.isfinite(scores).all()
        assert row["is_anomalous"] == ("true" if float(row["score"]) > 1 else "false")
        assert row["label"] == ("anomalous" if row["is_anomalous"] == "true" else "good")
        assert 0 < float(row["p_value"]) <= 1


def test_coco_file(place):
    coco = json.loads((place / "results" / "regions.coco.json").read_text())
    rows = table(place / "results")
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    assert list(names.values()) == list(rows)
    assert {(image["height"], image["width"]) for image in coco["images"]} == {(64, 80)}
    assert coco["categories"] == [{"id": 1, "name": "anomalous", "supercategory": "defect"}]
    assert [one["id"] for one in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    marked = {names[one["image_id"]] for one in coco["annotations"]}
    assert marked == {name for name, row in rows.items() if row["is_anomalous"] == "true"}
    for one in coco["annotations"]:
        counts = one["segmentation"]["counts"]
        assert one["segmentation"]["size"] == [64, 80] and sum(counts) == 64 * 80
        values = np.repeat(np.arange(len(counts)) % 2, counts)
        rows_at, columns_at = np.nonzero(values.reshape(80, 64).T)  # run lengths go down the columns
        x, y, width, height = one["bbox"]
        assert (columns_at.min(), rows_at.min()) == (x, y)
        assert (columns_at.max() + 1, rows_at.max() + 1) == (x + width, y + height)
        assert one["area"] == values.sum() > 0
        assert (one["category_id"], one["iscrowd"]) == (1, 0)


def test_same_seed_gives_the_same_bytes_in_another_process(place):
    code, _, err = process("fit patchcore --data data --out again/model --seed 3", place)
    assert (code, err) == (0, "")
    assert files(place / "again" / "model") == files(place / "model")
    code, _, err = process("predict again/model --data data/label --out again/results --threshold 1", place)
    assert (code, err) == (0, "")
    assert files(place / "again" / "results") == files(place / "results")


def test_no_maps(here, capfd):
    run(capfd, "predict model --data data --out r --threshold 1 --no-maps")
    kept = {name: content for name, content in files(Path("results")).items() if not name.startswith("maps/")}
    assert files(Path("r")) == kept and not Path("r/maps").exists()


def test_one_image_equals_the_batch(here, capfd):
    name = next(name for name in table(Path("results")) if "good" not in name)
    run(capfd, f"predict model --data data/label/{name} --out one")
    (row,) = table(Path("one")).values()
    expected = table(Path("results"))[name]
    assert row["path"] == Path(name).name
    assert float(row["score"]) == pytest.approx(float(expected["score"]), rel=1e-4)
    map_of_one = np.load(Path("one/maps", row["path"]).with_suffix(".npy"))
    np.testing.assert_allclose(
        map_of_one, np.load(Path("results/maps", name).with_suffix(".npy")), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(("split", "parts"), [("train", ["train"]), ("test", ["test"]), ("all", ["test", "train"])])
def test_split(here, capfd, split, parts):
    run(capfd, f"predict model --data data --product label --out r --no-maps --split {split}")
    expected = [p for part in parts for p in sorted(Path("data/label", part).rglob("*.png"))]
    assert list(table(Path("r"))) == [p.relative_to("data/label").as_posix() for p in expected]


def test_flat_folder(here, capfd):
    flat = here / "flat"
    flat.mkdir()
    for i, image in enumerate(sorted(Path("data/label/train/good").iterdir())):
        shutil.copy(image, flat / f"photo {i}.png")
    (flat / "notes.txt").write_text("not an image")
    assert "on 8 normal images of flat" in run(capfd, "fit patchcore --data flat --out flat_model --seed 3")
    run(capfd, "predict flat_model --data flat --out r --no-maps")
    assert list(table(Path("r"))) == [f"photo {i}.png" for i in range(8)]
    bank = "state.safetensors"  # the same images under other names, in the same order
    assert (here / "flat_model" / bank).read_bytes() == (here / "model" / bank).read_bytes()


def test_class_folders(here, capfd):
    shutil.copytree("data/label/train/good", "classes/ok")
    shutil.copytree("data/label/test/tear", "classes/tear")
    assert "on 6 normal images of classes" in run(capfd, "fit patchcore --data classes --out m")  # 80 % of 8
    run(capfd, "predict m --data classes --out r --no-maps")
    assert [name.split("/")[0] for name in table(Path("r"))] == ["ok", "ok", "tear"]
    run(capfd, "evaluate m --data classes --json e.json")
    metrics = json.loads(Path("e.json").read_text())
    assert (metrics["n_images"], metrics["n_anomalous"], metrics["config"]["layout"]) == (3, 1, "classes")


def test_a_single_image(here, capfd):
    Path("one").mkdir()
    shutil.copy("data/label/train/good/000.png", "one")
    assert "no threshold" in run(capfd, "fit patchcore --data one --out single")
    assert stored(Path("single")) is None
    assert cli.run("predict single --data data --out r".split()) == 2
    assert "give one (--threshold)" in capfd.readouterr().err and not Path("r").exists()
    run(capfd, "predict single --data data --out r --threshold 1.5")
    rows = table(Path("r")).values()
    assert {row["p_value"] for row in rows} == {""}
    assert [row["is_anomalous"] == "true" for row in rows] == [float(row["score"]) > 1.5 for row in rows]
    assert run(capfd, "threshold single --value 1.5") == "threshold 1.5000 (manual)\n"
    run(capfd, "predict single --data data --out again")
    assert table(Path("again")) == table(Path("r"))
    assert "threshold" in run(capfd, "threshold single --data data --f1-max")
    run(capfd, "evaluate single --data data --json e.json")
    metrics = json.loads(Path("e.json").read_text())
    assert 0.0 <= metrics["image_auroc"] <= 1.0 and metrics["operating_point"]["method"] == "manual"


def test_skip_unreadable(here, capfd):
    shutil.copytree("data/label", "cut")
    Path("cut/train/good/003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("cut/test/good/001.png").write_bytes(b"")
    for arguments, name, said in (
        ("fit patchcore --data cut --out m", "train/good/003.png", "on 7 normal images"),
        ("predict m --data cut --out r", "test/good/001.png", "of 5 images"),
        ("evaluate m --data cut", "test/good/001.png", "5, 4 of them anomalous"),
        ("append m --data cut", "train/good/003.png", "added 7 normal images"),
    ):
        assert cli.run(arguments.split()) == 2
        assert capfd.readouterr().err.count("\n") == 1
        assert cli.run([*arguments.split(), "--skip-unreadable"]) == 0
        out, err = capfd.readouterr()
        assert err.startswith("anomalyhub: skipped: ") and name in err and err.count("\n") == 1
        assert said in out
    assert "test/good/001.png" not in table(Path("r"))


# ---------------------------------------------------------------------------------------------------- evaluate


def test_evaluate(place):
    code, out, err = process("evaluate model --data data --json new/folder/metrics.json", place)
    assert (code, err) == (0, "")
    metrics = json.loads((place / "new" / "folder" / "metrics.json").read_text())
    names = ["image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"]
    assert [line.split()[0] for line in out.splitlines()] == [*names, "images"]
    for name in names:
        assert 0.0 <= metrics[name] <= 1.0
        assert re.search(rf"^{name} +{metrics[name]:.4f}$", out, re.M)
    assert (metrics["n_images"], metrics["n_anomalous"]) == (6, 4)
    assert 0 < metrics["seconds_per_image"] < 60
    assert metrics["config"]["product"] == "label" and metrics["config"]["layout"] == "mvtec"
    assert metrics["config"]["detector"] == "patchcore" and metrics["config"]["config"]["coreset"] == 0.1
    point = metrics["operating_point"]
    assert (point["tp"] + point["fn"], point["fp"] + point["tn"]) == (4, 2)
    assert point["threshold"] == stored(place / "model")["threshold"]
    assert sorted(p.name for p in (place / "new" / "folder").iterdir()) == ["metrics.json"]


def test_evaluate_agrees_with_predict(here, capfd):
    run(capfd, "evaluate model --data data --json e.json")
    rows = table(Path("results"))
    good = [float(row["score"]) for name, row in rows.items() if "/good/" in name]
    bad = [float(row["score"]) for name, row in rows.items() if "/good/" not in name]
    auroc = np.mean([(b > g) + 0.5 * (b == g) for b in bad for g in good])
    assert json.loads(Path("e.json").read_text())["image_auroc"] == pytest.approx(auroc, abs=1e-6)


@pytest.mark.parametrize(
    ("kept", "undefined", "reason"),
    [
        ("good", ("image_auroc", "image_ap", "pixel_auroc", "aupro"), "only good images: a defective one is needed"),
        ("defects", ("image_auroc", "image_f1_max"), "only defective images: a good one is needed"),
        ("unmasked", ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"), "no mask marks a defective pixel"),
    ],
)
def test_undefined_metrics_are_null_with_the_reason(here, capfd, kept, undefined, reason):
    shutil.copytree("data/label", "part")
    for folder in Path("part/test").iterdir():
        if kept != "unmasked" and (folder.name == "good") != (kept == "good"):
            shutil.rmtree(folder)
    if kept == "unmasked":
        shutil.rmtree("part/ground_truth")
    out = run(capfd, "evaluate model --data part --json e.json")
    metrics = json.loads(Path("e.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    for name in undefined:
        assert metrics[name] is None
        assert metrics["why"][name]
        assert re.search(rf"^{name} +n/a +{re.escape(metrics['why'][name])}$", out, re.M)
    assert metrics["why"][undefined[0]] == reason
    assert all(metrics[name] is None for name in metrics["why"])


# ---------------------------------------------------------------------------------------------------- threshold, append


def test_predict_with_a_false_alarm_rate(here, capfd):
    run(capfd, "predict model --data data --out r --false-alarm-rate 0.5 --no-maps")
    from anomalyhub import Inspector

    threshold = Inspector.load(Path("model")).calibration.at_rate(0.5).threshold
    assert threshold < stored(Path("model"))["threshold"]
    verdicts = [row["is_anomalous"] == "true" for row in table(Path("r")).values()]
    assert verdicts == [float(row["score"]) > threshold for row in table(Path("results")).values()]
    assert any(verdicts)
    assert stored(Path("model"))["false_alarm_rate"] == 0.01  # the model keeps its own


def test_threshold_by_each_way(here, capfd):
    before = files(Path("model"))
    Path("model/notes").mkdir()
    Path("model/notes/mine.txt").write_text("the user's")
    scores = scores_of("model")
    best = max(_f1(scores, threshold) for threshold in [0.0, *scores.values()])
    for way, method in (
        ("--false-alarm-rate 0.25", "normals"),
        ("--value 1.25", "manual"),
        ("--data data --f1-max", "f1_max"),
        ("--data data --product label --cost-escape 50 --cost-false-alarm 1", "cost"),
        ("--data data --cost-escape 1 --cost-false-alarm 50", "cost"),
    ):
        out = run(capfd, f"threshold model {way}")
        point = stored(Path("model"))
        assert point["method"] == method
        assert out.startswith(f"threshold {point['threshold']:.4f} ({method.replace('_', '-')}")
        if method == "normals":
            assert point["false_alarm_rate"] == 0.25 and "25.00% of normal images, 8 held out" in out
        if method == "manual":
            assert point["threshold"] == 1.25 and out == "threshold 1.2500 (manual)\n"
        if method == "f1_max":
            assert _f1(scores, point["threshold"]) == pytest.approx(best)
            assert re.search(rf"^f1 +{best:.4f}$", out, re.M)
        if "escape 50" in way:  # no escape is worth it
            assert point["threshold"] < min(score for name, score in scores.items() if "/good/" not in name)
            assert re.search(r"^escape_rate +0.0000$", out, re.M)
        if "alarm 50" in way:  # no false alarm is worth it
            assert point["threshold"] >= max(score for name, score in scores.items() if "/good/" in name)
            assert re.search(r"^false_alarm_rate +0.0000$", out, re.M)
    after = files(Path("model"))
    assert after.pop("notes/mine.txt") == b"the user's"
    assert {**after, "inspector.json": b""} == {**before, "inspector.json": b""}
    run(capfd, "predict model --data data --out r --no-maps")
    chosen = stored(Path("model"))["threshold"]
    assert [row["is_anomalous"] == "true" for row in table(Path("r")).values()] == [s > chosen for s in scores.values()]


def scores_of(model: str) -> dict[str, float]:
    """Image scores of the test split to the last digit, which predictions.csv does not have."""
    from anomalyhub import Inspector, load_dataset

    return {one.id: one.score for one in Inspector.load(Path(model)).inspect(load_dataset("data").test)}


def _f1(scores: dict[str, float], threshold: float) -> float:
    called = [name for name, score in scores.items() if score > threshold]
    hits = sum("/good/" not in name for name in called)
    return 2 * hits / (len(called) + sum("/good/" not in name for name in scores))


def test_threshold_of_a_model_that_we_are_in_and_that_is_a_repository(here, capfd, monkeypatch):
    Path("model/.git").mkdir()
    Path("model/.git/HEAD").write_text("ref")
    monkeypatch.chdir("model")
    assert run(capfd, "threshold . --value 2") == "threshold 2.0000 (manual)\n"
    assert stored(Path("."))["threshold"] == 2.0
    assert sorted(p.name for p in Path(".").iterdir()) == [".git", "config.json", "inspector.json", "state.safetensors"]


def test_append_and_undo(here, capfd):
    before = files(Path("model"))
    Path("model/mine.txt").write_text("the user's")
    Path("more").mkdir()
    for image in Path("data/label/test/good").iterdir():
        shutil.copy(image, "more")
    old_scores = scores_of("model")
    assert run(capfd, "append model --data more") == "added 2 normal images to model\n"
    segments = json.loads(Path("model/config.json").read_text())["segments"]
    assert len(segments) == 2 and segments[1] > 0
    new_scores = scores_of("model")
    assert all(
        new_scores[name] <= old_scores[name] + 1e-5 for name in old_scores
    )  # a larger bank is never farther away
    assert all(new_scores[name] < old_scores[name] for name in old_scores if "/good/" in name)
    assert run(capfd, "append model --undo") == "took the last append back: model\n"
    assert files(Path("model")) == {**before, "mine.txt": b"the user's"}
    assert cli.run("append model --undo".split()) == 2
    assert "no append to undo" in capfd.readouterr().err
    assert files(Path("model")) == {**before, "mine.txt": b"the user's"}


# ---------------------------------------------------------------------------------------------------- outputs


def test_second_run_is_refused_with_one_line(place):
    before = files(place / "model")
    code, out, err = process("fit patchcore --data data --out model", place)
    assert (code, out) == (2, "")
    assert err.startswith("anomalyhub: ") and err.count("\n") == 1 and "--overwrite" in err
    assert files(place / "model") == before


@pytest.mark.parametrize(
    "arguments",
    ["fitt", "fit patchcore --data nowhere --out o", "predict data --data data --out o", "fit patchcore --out o"],
)
def test_no_traceback_from_a_process(place, arguments):
    code, out, err = process(arguments, place)
    assert (code, out) == (2, "")
    assert err.startswith("anomalyhub: ") and err.count("\n") == 1
    assert not (place / "o").exists()


def test_overwrite(here, capfd):
    run(capfd, "predict model --data data --out r --split train")
    Path("r/stale.txt").write_text("of an older run")
    before = files(Path("r"))
    assert cli.run("predict model --data data --out r".split()) == 2
    Path("cut").mkdir()
    Path("cut/a.png").write_bytes(b"no image")
    assert cli.run("predict model --data cut --out r --overwrite".split()) == 2  # fails: the old one stays
    assert files(Path("r")) == before
    capfd.readouterr()
    run(capfd, "predict model --data data --out r --overwrite --threshold 1")
    assert files(Path("r")) == files(Path("results"))
    Path("empty").mkdir()
    run(capfd, "predict model --data data --out empty --threshold 1")  # an empty folder needs no --overwrite
    assert files(Path("empty")) == files(Path("results"))


def test_out_inside_the_model_survives_a_new_threshold(here, capfd):
    run(capfd, "predict model --data data --out model/results --threshold 1")
    run(capfd, "threshold model --value 1.5")
    assert files(Path("model/results")) == files(Path("results"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_stopped_during_fit(place, tmp_path, number, code):
    arguments = ["fit", "patchcore", "--data", str(place / "data"), "--out", "made/model"]
    started = subprocess.Popen(
        [sys.executable, "-c", STOPPABLE, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not list(tmp_path.glob("made/.anomalyhub-*")) and started.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    started.send_signal(number)
    out, err = started.communicate(timeout=60)
    assert started.returncode == code
    assert err.lstrip("\n") == "anomalyhub: stopped; nothing was written\n"  # older parsers end the line of the ^C
    assert "fitted" not in out
    assert list(tmp_path.iterdir()) == []  # neither the hidden sibling nor the parent made for it


def test_a_stop_that_was_lost_counts_at_the_next_progress(here, capfd):
    """As when the interrupt comes while a module is imported: its callbacks swallow exceptions."""
    support.stopping.set()
    try:
        assert cli.run("fit patchcore --data data --out made".split()) == 130
    finally:
        support.stopping.clear()
    assert "stopped; nothing was written" in capfd.readouterr().err and not Path("made").exists()


def test_stopped_append_changes_nothing(here, capfd, monkeypatch):
    from anomalyhub.data import SampleRef

    def stop(_):
        raise KeyboardInterrupt

    before = files(Path("model"))
    monkeypatch.setattr(SampleRef, "load", stop)
    assert cli.run("append model --data data".split()) == 130
    assert capfd.readouterr().err.lstrip("\n") == "anomalyhub: stopped; nothing was written\n"
    assert files(Path("model")) == before and [p.name for p in Path("model").iterdir() if p.is_dir()] == []


def test_full_disk_keeps_the_model(here, capfd, monkeypatch):
    def full(source, _):
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    before = files(Path("model"))
    monkeypatch.setattr(os, "replace", full)
    assert cli.run("threshold model --value 1".split()) == 2
    err = capfd.readouterr().err
    assert "cannot change" in err and "No space left on device; free some space" in err and err.count("\n") == 1
    assert files(Path("model")) == before


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 1, "out of memory: lower byte_budget"),
        (RuntimeError("odd\nthing"), 1, "unexpected RuntimeError: odd thing"),
    ],
)
def test_what_is_not_the_users_fault(here, capfd, monkeypatch, error, code, said):
    def fail(_):
        raise error

    monkeypatch.setattr(cli.verbs, "parse_settings", fail)
    arguments = "fit patchcore --data data --out o".split()
    assert cli.run(arguments) == code
    err = capfd.readouterr().err
    assert said in err and err.count("\n") == 1 and not Path("o").exists()
    monkeypatch.setenv("ANOMALYHUB_DEBUG", "1")
    cli.run(arguments)
    assert ("Traceback" in capfd.readouterr().err) == (not isinstance(error, MemoryError))


def test_unwritable_folder(here, capfd):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere: run as another user")
    Path("locked").mkdir(mode=0o500)
    Path("model").chmod(0o500)
    try:
        for arguments in (
            "fit patchcore --data data --out locked/model",
            "evaluate model --data data --json locked/e.json",
            "threshold model --value 1",
        ):
            assert cli.run(arguments.split()) == 2
            err = capfd.readouterr().err
            assert "Permission denied" in err and err.count("\n") == 1
    finally:
        Path("model").chmod(0o700)


def test_only_the_first_process_predicts(here, capfd, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run(capfd, "predict model --data data --out r") == ""
    assert not Path("r").exists()


# ---------------------------------------------------------------------------------------------------- help, bar, demo


def test_version_and_help(place):
    assert process("--version", place) == (0, f"anomalyhub {__version__}\n", "")
    code, out, err = process("", place)  # alone, it says what there is
    assert (code, err) == (0, "")
    assert set(re.findall(r"^  (\w+) ", out.split("Commands:")[1], re.M)) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_has_an_example_that_parses(capfd, monkeypatch, verb, columns):
    monkeypatch.setenv("COLUMNS", columns)  # an example is one line however narrow the terminal is
    assert cli.run([verb, "--help"]) == 0
    out, err = capfd.readouterr()
    assert err == "" and typer.main.get_command(cli.app).commands[verb].help
    examples = [line.strip() for line in out.split("Example:")[1].splitlines() if line.strip()]
    assert examples and all(f"{line} ".startswith(f"anomalyhub {verb} ") for line in examples)
    for line in examples:
        parse(line.removeprefix("anomalyhub "))


def test_progress_bar_on_a_terminal(tmp_path):
    pty = pytest.importorskip("pty")
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    arguments = command("sample --out s --product ring --train 2 --test 1 --defects 1 --size 64")
    started = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how Linux reports that the other side is closed
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    out, _ = started.communicate(timeout=60)
    assert (started.returncode, out) == (0, b"wrote ring to s\n")
    assert b"sample" in shown and b"0%|" in shown
    assert shown.endswith(b" \r")  # and is wiped at the end


def test_demo_is_a_process_of_its_own(tmp_path, capfd, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert cli.run("demo --port 7999 --no-browser --data-root sets".split()) == 3
    out, err = capfd.readouterr()
    assert out == "-m anomalyhub.ui --host 127.0.0.1 --port 7999 --data-root sets --no-browser\n"
    assert err == ""
