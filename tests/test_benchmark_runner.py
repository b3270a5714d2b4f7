"""Runs of benchmarks: what they leave, that they go on where they were stopped, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_trees import mvtec

from anomalyhub.benchmark import runner
from anomalyhub.benchmark.config import BenchmarkConfig, parse_config
from anomalyhub.benchmark.records import Predictions, read_record, read_records, recomputed
from anomalyhub.benchmark.runner import read_plan, run
from anomalyhub.benchmark.sources import Sources
from anomalyhub.benchmark.units import make_plan
from anomalyhub.errors import InvalidArgumentError, InvalidRecordError, OutputError
from anomalyhub.locks import locked

SETTINGS = {"resize": 64, "calibration_images": 0}
ROWS = [
    {"task": "detection", "method": "patchcore", "settings": SETTINGS, "shots": [1, 2], "seeds": [0, 1]},
    {"task": "discovery", "method": "clustering", "masks": "ground-truth", "settings": {"whiten_views": 0}},
    {
        "task": "classification",
        "method": "contrastive",
        "detector": {"method": "patchcore", "settings": SETTINGS},
        "settings": {"passes": 2},
        "shots": [1, 2],
    },
]
VALUE = {"dataset": "parts", "rows": ROWS}
CHANGING = ("seconds", "peak_gib", "date", "hardware", "command", "commit")  # somebody may commit meanwhile


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Sources:
    """Two products of 12 images each."""
    root = tmp_path_factory.mktemp("data")
    for name in ("bolt", "nut"):
        mvtec(root / "parts" / name)
    return Sources(root, {}, None)


def config(value: dict = VALUE, name: str = "mine") -> BenchmarkConfig:
    return parse_config(value, name, f"{name}.yaml")


def quiet(*arguments, **options):
    lines: list[str] = []
    return run(*arguments, **options, say=lines.append), lines


def contents(folder: Path) -> dict[str, tuple]:
    """Records without their times, and predictions, by id."""
    found = {}
    for path in sorted((folder / "units").glob("[!.]*.json")):
        value = json.loads(path.read_text())
        predictions = path.with_name(f"{path.stem}.predictions.csv").read_text()
        found[path.stem] = {key: item for key, item in value.items() if key not in CHANGING}, predictions
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, sources) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    report, lines = quiet(config(), folder, sources, command="python eval/run.py --config mine")
    assert report.exit_code == 0 and len(report.finished) == 14 and len(lines) == 14
    return folder


def test_a_run_leaves_a_record_of_each_unit_and_nothing_else(undisturbed, sources):
    plan = make_plan(config(), sources)
    assert sorted(contents(undisturbed)) == sorted(one.id for one in plan)
    assert sorted(path.name for path in undisturbed.iterdir()) == [".lock", ".work", "failed", "plan.json", "units"]
    assert not list((undisturbed / ".work").iterdir()) and not list((undisturbed / "failed").iterdir())
    assert [unit["id"] for unit in read_plan(undisturbed)["units"]] == [one.id for one in plan]
    for record in read_records(undisturbed):
        assert record.config == "mine" and record.command == "python eval/run.py --config mine"
        assert record.seconds["total"] > 0 and record.seconds["wall"] > 0 and 0.05 < record.peak_gib < 50
        assert {"anomalyhub", "python", "torch"} < set(record.versions) and record.hardware["cores"] >= 1
        path = undisturbed / "units" / f"{record.id}.predictions.csv"
        image = recomputed(record.unit.task, Predictions.read(path))
        assert image == {name: record.metrics[name] for name in image}


def test_the_same_seed_gives_the_same_figures_and_finished_units_stay(undisturbed, sources, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in (undisturbed / "units").iterdir()}
    report, lines = quiet(config(), undisturbed, sources)
    assert len(report.before) == 14 and not report.finished and lines == ["14 of 14 units are there already"]
    assert {path: path.read_bytes() for path in (undisturbed / "units").iterdir()} == before
    again, _ = quiet(config(), tmp_path / "again", sources, only="bolt")
    assert len(again.finished) == 7
    there = contents(undisturbed)
    assert contents(tmp_path / "again") == {name: one for name, one in there.items() if "bolt" in name}


def test_a_unit_that_fails_is_recorded_the_others_go_on_and_it_is_tried_again(sources, tmp_path, monkeypatch):
    original = runner.measure

    def failing(planned, work, **options):
        if planned.unit.product == "bolt" and planned.unit.shots == 2:
            raise MemoryError("no room")
        return original(planned, work, **options)

    monkeypatch.setattr(runner, "measure", failing)
    report, lines = quiet(config(), tmp_path / "run", sources)
    assert report.exit_code == 1 and len(report.failed) == 3 and len(report.finished) == 11
    assert sum("FAILED, MemoryError: no room" in line for line in lines) == 3
    failure = json.loads((tmp_path / "run" / "failed" / f"{report.failed[0]}.json").read_text())
    assert failure["reason"] == "MemoryError: no room" and failure["unit"]["product"] == "bolt"
    assert "Traceback" in (tmp_path / "run" / ".work" / "failures" / f"{report.failed[0]}.txt").read_text()
    with pytest.raises(InvalidRecordError, match="it holds a benchmark-failure, not a benchmark-unit"):
        read_record(tmp_path / "run" / "failed" / f"{report.failed[0]}.json")
    monkeypatch.setattr(runner, "measure", original)
    report, _ = quiet(config(), tmp_path / "run", sources)
    assert report.exit_code == 0 and len(report.finished) == 3 and len(report.before) == 11
    assert not list((tmp_path / "run" / "failed").iterdir())


def test_whatever_stops_a_run_the_next_one_goes_on(undisturbed, sources, tmp_path, monkeypatch):
    """Stopped before every unit in turn, and with what a kill leaves half written."""
    original, done = runner.measure, []

    def stopped(planned, work, **options):
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(planned.id)
        return original(planned, work, **options)

    monkeypatch.setattr(runner, "measure", stopped)
    folder = tmp_path / "run"
    for stop in range(15):
        try:
            quiet(config(), folder, sources)
        except KeyboardInterrupt:
            (folder / "units" / ".anomalyhub-0123456789ab.json").write_text("{")
            (folder / ".anomalyhub-0123456789ab.json").write_text("{")
        assert len(contents(folder)) == stop or stop == 14
    assert len(done) == len(set(done)) == 14
    assert contents(folder) == contents(undisturbed)
    assert not list(folder.rglob(".anomalyhub-*"))


def test_another_run_in_the_folder_is_refused(undisturbed, sources, tmp_path):
    other = config({**VALUE, "rows": ROWS[:1]}, "other")
    with pytest.raises(OutputError, match="holds a run of another config, mine: choose another --out"):
        quiet(other, undisturbed, sources)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty and holds no run"):
        quiet(config(), tmp_path, sources)
    with locked(undisturbed / ".lock"), pytest.raises(OutputError, match="another run is writing into"):
        quiet(config(), undisturbed, sources)
    with locked(undisturbed / ".lock-1"), pytest.raises(OutputError, match="another run is writing into"):
        quiet(config(), undisturbed, sources)
    (undisturbed / ".lock-1").unlink()
    quiet(config(), undisturbed, sources)


def test_results_of_other_images_are_refused(sources, tmp_path):
    root = tmp_path / "data" / "parts"
    mvtec(root)
    own = Sources(None, {"parts": str(root)}, None)
    value = {"dataset": "parts", "rows": [{**ROWS[0], "shots": [1], "seeds": [0], "metrics": ["image_auroc"]}]}
    quiet(config(value), tmp_path / "run", own)
    (root / "test" / "blot" / "000.png").unlink()
    with pytest.raises(OutputError, match="holds 1 results, such as detection-patchcore-parts-parts-few-shot-1shots"):
        quiet(config(value), tmp_path / "run", own)


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, True),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),  # one process was asked for
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "WORLD_SIZE": "1"}, False),  # a group of one
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "OMPI_COMM_WORLD_SIZE": "2"}, False),
    ],
)
def test_one_process_in_place_of_several_is_refused(monkeypatch, environment, refused):
    from anomalyhub.benchmark.processes import check_launch

    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if refused:
        with pytest.raises(InvalidArgumentError, match="torchrun --nproc_per_node 2"):
            check_launch()
    else:
        check_launch()


DRIVER = '''
import json, os, random, signal, sys, time
from pathlib import Path

import torch  # before the children, so that none has to load it
import anomalyhub.pipeline.evaluation, anomalyhub.pipeline.discover, anomalyhub.classification, anomalyhub.synthesis
import sklearn.cluster, transformers, faiss
from anomalyhub.benchmark.config import parse_config
from anomalyhub.benchmark import runner
from anomalyhub.benchmark.runner import run
from anomalyhub.benchmark.sources import Sources

measure = runner.measure
runner.measure = lambda *a, **k: time.sleep(0.1) or measure(*a, **k)  # no machine ends before it is killed
value, root, out, kills = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
config, sources = parse_config(value, "mine", "mine.yaml"), Sources(root, {}, None)
rng, seen = random.Random(0), []


def attempt(units=None):
    """Run in a child, and kill it a moment after so many more units are there; None: let it end."""
    child, before = os.fork(), len(finished())
    if child == 0:
        code = 1
        try:
            code = run(config, out, sources, say=lambda line: None).exit_code
        finally:
            os._exit(code)
    if units is not None:
        living = os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        while len(finished()) < before + 2 * units and os.waitid(*living) is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finished():
    return {path.name: [path.stat().st_ino, path.read_text()] for path in (out / "units").glob("[a-z]*")}


codes = []
for kill in range(kills):
    codes.append(attempt(rng.randint(0, 1)))
    seen.append(finished())
codes.append(attempt())
seen.append(finished())
print(json.dumps({"codes": codes, "seen": seen}))
'''


@pytest.mark.slow
def test_ten_kills_lose_and_repeat_no_finished_unit(undisturbed, sources, tmp_path):
    folder = tmp_path / "run"
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"], "PYTHONPATH": str(root)}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        DRIVER,
        json.dumps(VALUE),
        str(sources.data_root),
        str(folder),
        "10",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["codes"][-1] == 0 and told["codes"].count(-9) >= 5, told["codes"]  # the last may find all done
    final = told["seen"][-1]
    for before in told["seen"]:
        stale = {name for name in before if name.endswith(".json") and before[name] != final[name]}
        assert not stale  # neither lost, nor written again
    assert len({len(before) for before in told["seen"]}) >= 4  # the kills came at different points
    assert contents(folder) == contents(undisturbed)
    assert not list(folder.rglob(".anomalyhub-*"))
