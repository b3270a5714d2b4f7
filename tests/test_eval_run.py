"""eval/run.py: its arguments, its exit codes, and two processes that give what one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from benchmark_trees import mvtec

from anomalyhub.hub import create_store

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"resize": 64, "calibration_images": 0}
VALUE = {
    "dataset": "parts",
    "rows": [
        {"task": "detection", "method": "patchcore", "settings": SETTINGS},
        {"task": "detection", "method": "musc", "settings": {"resize": 64}, "shots": [0]},
        {
            "task": "classification",
            "method": "contrastive",
            "detector": {"method": "patchcore", "settings": SETTINGS},
            "settings": {"passes": 2},
            "shots": [2],
        },
    ],
}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "eval"))
    import run

    yield run
    sys.path.remove(str(ROOT / "eval"))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with the config mine.yaml and two products below data/parts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANOMALYHUB_SHARED", str(tmp_path / "nowhere"))
    for name in ("bolt", "nut"):
        mvtec(tmp_path / "data" / "parts" / name)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(VALUE))
    return tmp_path


def records(folder: Path) -> dict[str, tuple]:
    found = {}
    for path in sorted((folder / "units").glob("*.json")):
        value = json.loads(path.read_text())
        for name in ("seconds", "peak_gib", "date", "hardware", "command", "commit"):  # somebody may commit meanwhile
            del value[name]
        found[path.stem] = value, path.with_name(f"{path.stem}.predictions.csv").read_text()
    return found


def test_a_run_is_listed_run_listed_again_and_pushed(script, place, capsys):
    arguments = ["--config", "mine.yaml", "--data-root", "data"]
    assert script.main([*arguments, "--list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 6 units are finished"
    store = f"folder:{place / 'share'}"
    asked = [*arguments, "--only", "patchcore parts nut", "--push-to", "me/results", "--store", store]
    assert script.main(asked) == 0
    said = capsys.readouterr().out
    assert "[1/1] detection patchcore parts nut full seed 0: image_auroc" in said and "1 units are in runs/mine" in said
    assert "pushed to" in said
    pushed = {entry.path for entry in create_store(store).files("me/results", "dataset").entries}
    (path,) = (place / "runs" / "mine" / "units").glob("*.json")
    assert {f"units/{path.name}", f"units/{path.stem}.predictions.csv", "plan.json", "README.md"} <= pushed
    assert not [name for name in pushed if "work" in name or "lock" in name]
    command = json.loads(path.read_text())["command"]
    assert command == "python eval/run.py --config mine.yaml" and str(place) not in path.read_text()
    assert script.main([*arguments, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "finished  detection patchcore parts nut full seed 0" in lines and lines[-1] == "1 of 6 units are finished"


def test_a_unit_that_fails_gives_exit_code_1(script, place, capsys):
    for path in (place / "data" / "parts" / "nut" / "train" / "good").iterdir():
        path.write_bytes(b"not an image")
    assert script.main(["--config", "mine.yaml", "--data-root", "data", "--only", "full"]) == 1
    told = capsys.readouterr()
    assert "FAILED, InvalidImageError" in told.out
    assert "1 units failed: detection-patchcore-parts-nut-full-seed0-" in told.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "quik"], "unknown config 'quik': did you mean 'quick'?"),
        (["--config", "missing.yaml"], "missing.yaml cannot be read"),
        (["--config", "mine.yaml"], "unknown data set 'parts'"),
        (["--config", "mine.yaml", "--data", "parts"], "is not NAME=PATH"),
        (["--config", "mine.yaml", "--data-root", "nowhere"], "--data-root nowhere is no folder"),
        (["--config", "mine.yaml", "--data-root", "data", "--only", "screw"], "no unit has 'screw'"),
        (["--config", "mine.yaml", "--data-root", "data", "--out", "data"], "data is not empty and holds no run"),
        (["--config", "mine.yaml", "--data-root", "data", "--push-to", "results"], "results"),
        (["--config", "mine.yaml", "--data-root", "data", "--push-to", "me/x", "--store", "tape:1"], "tape:1"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_with_exit_code_2(script, place, capsys, arguments, message):
    assert script.main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("eval/run.py: ") and message in line
    assert not (place / "runs" / "mine" / "units").exists()


def test_one_process_where_two_were_wanted_is_refused(script, place, capsys, monkeypatch):
    """As `accelerate launch --cpu --num_processes 2` starts it where there is no MPI."""
    for name, value in (("ACCELERATE_MIXED_PRECISION", "no"), ("MASTER_PORT", "29500"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert script.main(["--config", "mine.yaml", "--data-root", "data"]) == 2
    assert "use torchrun --nproc_per_node 2" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(place):
    """Which product a process has plays no part; one that fails does not end the others."""
    broken = VALUE | {"rows": [*VALUE["rows"], {**VALUE["rows"][0], "shots": [9]}]}  # more than there are
    (place / "mine.yaml").write_text(yaml.safe_dump(broken))
    arguments = [str(ROOT / "eval" / "run.py"), "--config", "mine.yaml", "--data-root", "data", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launchers = {"one": [], "two": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]}
    outputs = {}
    for name, launcher in launchers.items():
        command = [sys.executable, *launcher, *arguments, name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 1, done.stderr[-3000:]
        assert "2 units failed" in done.stderr
        outputs[name] = done.stdout
    assert "[3/4]" in outputs["two"] and "[7/8]" in outputs["one"]
    assert len(records(place / "one")) == 6 and records(place / "two") == records(place / "one")
