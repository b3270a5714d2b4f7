"""Hundreds of hostile or broken repositories: no code runs, no file lies elsewhere, and each gets a clear answer.

`make test` takes every second one, `make test-all` all of them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_run import cases

HERE = Path(__file__).parent
#: What a case may come to, by what is expected of it.
CAME = {
    "refused": {"refused"},
    "unreadable": {"refused", "unreadable"},
    "harmless": {"loaded"},
    "left out": {"loaded"},
    "any": {"refused", "unreadable", "loaded"},
}
#: MiB that a case may take, and seconds on a busy machine.
MIB, SECONDS = 400, 25
CASES = cases()


def run(folder: Path, step: int, hub_step: int) -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(HERE / "hostile_run.py"), str(folder), str(step), str(hub_step)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def some(tmp_path_factory) -> dict[str, dict[str, Any]]:
    return run(tmp_path_factory.mktemp("hostile"), 2, 10)


def faults(case: Any, came: dict[str, Any]) -> list[str]:
    """What is wrong with how a case went."""
    said = " ".join([came["message"], *came["notices"]])
    found = [f"did {deed}" for deed in came["seen"]] + [f"left {path}" for path in came["stray"]]
    if came["came"] not in CAME[case.outcome]:
        found.append(f"{came['came']} where {case.outcome} was expected: {came['error']} {said}")
    if came["marked"]:
        found.append("ran code")
    if came["came"] == "refused" and came["kept"]:
        found.append(f"kept {came['kept']}")
    if came["came"] != "loaded" and not 20 < len(came["message"]) < 700:
        found.append(f"said {len(said)} characters")
    if any(not letter.isprintable() for letter in said):
        found.append(f"said {said!r}")
    if case.outcome == "left out" and not came["notices"]:
        found.append("said nothing of what it left out")
    if case.says and not re.search(case.says, said):
        found.append(f"said {said!r} and nothing of {case.says!r}")
    if came["mib"] > MIB or came["seconds"] > SECONDS:
        found.append(f"took {came['mib']} MiB and {came['seconds']} seconds")
    return found


def test_there_are_many_and_what_they_might_do_would_be_seen(some):
    assert len({case.name for case in CASES}) == len(CASES) and len(CASES[::2]) >= 200
    seen = " ".join(some["misdeeds"]["seen"])
    deeds = ("pickle.find_class", "os.system", "read /etc/passwd", "os.mkdir", "open /", "os.remove", "socket.connect")
    assert [deed for deed in deeds if deed not in seen] == []
    assert "a.txt" in seen and some["misdeeds"]["marked"]
    for kind in ("model", "dataset"):
        good = some[f"good {kind}"]
        assert good["came"] == "loaded" and not good["seen"] and good["kept"], good


@pytest.mark.parametrize("case", CASES[::2], ids=lambda case: ascii(case.name))
def test_a_hostile_repository(some, case):
    assert faults(case, some[case.name]) == []


def on_a_hub(chosen: list[Any], came: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"hub: {case.name}": case for case in chosen if f"hub: {case.name}" in came}


def test_hostile_repositories_on_a_hub(some):
    there = on_a_hub(CASES[::10], some)
    assert len(there) >= 25
    assert {name: found for name, case in there.items() if (found := faults(case, some[name]))} == {}


@pytest.mark.slow
def test_all_hostile_repositories(tmp_path):
    every = run(tmp_path, 1, 2)
    there = {case.name: case for case in CASES} | on_a_hub(CASES[::2], every)
    assert len(there) > len(CASES) + 150
    assert {name: found for name, case in there.items() if (found := faults(case, every[name]))} == {}
