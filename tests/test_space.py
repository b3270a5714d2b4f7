"""What `spaces_config/deploy.py` makes runs as a Hugging Face Space would run it, with and without a GPU to be lent."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import READ_TOKEN, TOKEN, Fault, environment, hub_server
from packaging.requirements import Requirement
from ui_helpers import photo, save

from anomalyhub import cli
from anomalyhub.ui import gpu, work

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "spaces_config" / "deploy.py"
#: A folder that cannot be made, not even by root.
NOWHERE = "/dev/null/home"


def deploy(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEPLOY), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "tree"
    done = deploy("me/space", "--dry-run", str(folder))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folder


def front_matter(folder: Path) -> dict:
    _, matter, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert text.strip().startswith("# AnomalyHub")
    return yaml.safe_load(matter)


# ------------------------------------------------------------------------------------------------------ the tree


def test_the_tree_holds_the_app_and_nothing_else(tree):
    names = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "anomalyhub"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert names == {"README.md", "LICENSE", "app.py", "packages.txt", "requirements.txt", *listed}
    assert all((tree / name).read_bytes() == (ROOT / name).read_bytes() for name in ("app.py", "LICENSE", *listed))


def test_front_matter(tree):
    values = front_matter(tree)
    assert values["sdk"] == "gradio" and values["sdk_version"] == metadata.version("gradio")
    assert values["python_version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert (tree / values["app_file"]).is_file() and values["license"] == "apache-2.0"
    assert len(values["short_description"]) <= 60 and "anomalyhub" in values["tags"]
    assert re.fullmatch(r"\d+[smh]", values["startup_duration_timeout"])
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {values["colorFrom"], values["colorTo"]} <= colors
    # the file as it is in the checkout is a valid one too
    assert front_matter(ROOT / "spaces_config").keys() == values.keys()


def test_requirements_are_pinned_to_what_is_installed(tree):
    pins = [Requirement(line) for line in (tree / "requirements.txt").read_text().splitlines()]
    versions = {pin.name: next(iter(pin.specifier)) for pin in pins}
    assert all(version.operator == "==" for version in versions.values()) and len(versions) == len(pins)
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            version = versions[wanted.name.lower().replace("_", "-")].version
            assert wanted.specifier.contains(version), line
            assert metadata.version(wanted.name).split("+")[0] == version
    assert "starlette" in versions and "pytest" not in versions and "anomalyhub" not in versions
    assert not (tree / "packages.txt").read_text().strip()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("space", "is not a repository"),
        ("me/space --pin torch", "--pin takes NAME==VERSION"),
        ("me/space --pin torch>=2", "--pin takes NAME==VERSION"),
        ("me/space --pin numppy==2.0", "--pin numppy is nothing that AnomalyHub needs"),
        (f"me/space --dry-run {ROOT / 'tests'}", "is not empty"),
    ],
)
def test_wrong_arguments(arguments, reason, tmp_path):
    words = shlex.split(arguments)
    done = deploy(*words, *([] if "--dry-run" in words else ["--dry-run", str(tmp_path / "out")]))
    assert done.returncode == 2 and reason in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_other_versions_and_hardware(tmp_path):
    pins = ["--pin", "torch==2.9.1", "--pin", "TorchVision==0.24.1"]
    done = deploy("me/space", *pins, "--hardware", "zero-a10g", "--dry-run", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out/requirements.txt").read_text().splitlines()
    assert {"torch==2.9.1", "torchvision==0.24.1"} <= set(lines)
    assert front_matter(tmp_path / "out")["suggested_hardware"] == "zero-a10g"


# -------------------------------------------------------------------------------------------------------- pushed


def test_deployed_to_a_hub(tmp_path, tree):
    with hub_server() as hub:
        mine, reader = (environment(hub, tmp_path / token, token) for token in (TOKEN, READ_TOKEN))
        first = deploy("me/space", "--private", "--message", "First", environment=mine)
        assert first.returncode == 0, first.stderr
        pushed = hub.files("me/space", "space")
        built = {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
        assert pushed == built and hub.repo("me/space", "space").private
        assert re.search(rf"/spaces/me/space: {len(built)} files changed", first.stdout)
        commits = len(hub.repo("me/space", "space").commits)
        second = deploy("me/space", environment=mine)
        assert second.returncode == 0 and "nothing changed" in second.stdout
        assert len(hub.repo("me/space", "space").commits) == commits
        refused = deploy("me/other", environment=reader)
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
        assert READ_TOKEN not in refused.stderr + refused.stdout
        hub.faults.append(Fault("/hardware", status=402))
        paid = deploy("me/space", "--hardware", "t4-small", environment=mine)
        assert paid.returncode == 2 and "me/space is deployed, but not on t4-small" in paid.stderr
        assert len(paid.stderr.splitlines()) == 1 and TOKEN not in paid.stderr


# ------------------------------------------------------------------------------------------------------- running


@contextmanager
def running(tree: Path, folder: Path, **variables: str) -> Iterator[str]:
    """app.py of a tree, started as a Space starts it; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ANOMALYHUB", "GRADIO"))
    }
    space = {
        "SPACE_ID": "me/space",
        "SYSTEM": "spaces",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
    }
    space |= {
        "HOME": NOWHERE,
        "TMPDIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for name in ("XDG_CACHE_HOME", "HF_HOME"):
        kept.pop(name, None)
    with open(folder / "log.txt", "w+b") as log:
        command = [sys.executable, "app.py"]
        process = subprocess.Popen(command, cwd=tree, env=kept | space | variables, stdout=log, stderr=log)
        try:
            yield _when_up(f"http://127.0.0.1:{port}", process, folder / "log.txt")
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    # gradio misses the package `spaces`, which every Space has, in a thread of its own
    log = re.sub(
        r"(?s)Exception in thread \S+\nTraceback.*? hot-reloading in Spaces\n", "", (folder / "log.txt").read_text()
    )
    assert "Traceback" not in log, log


def _when_up(address: str, process: subprocess.Popen, log: Path) -> str:
    import httpx

    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(address, trust_env=False).status_code == 200:
                return address
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"the Space did not start: {log.read_text()}")


def test_the_tree_runs_as_a_space(tree, tmp_path):
    from gradio_client import Client

    page = tree / "anomalyhub/ui/__init__.py"
    former = page.read_text()
    page.write_text(former.replace('title="AnomalyHub"', 'title="The tree"'))  # not the checkout's
    try:
        with running(tree, tmp_path) as address:
            client = Client(address, verbose=False)
            assert client.config["title"] == "The tree"
            assert "24 normal images" in client.predict("ring", api_name="/use_sample")
            text, learned = client.predict(api_name="/learn")  # a process of its own, which finds the tree's package
            assert "Learned" in text and learned["model"]
            assert "nothing can be kept in" in (tmp_path / "log.txt").read_text()
    finally:
        page.write_text(former)


@pytest.mark.parametrize(
    ("space", "there", "expected"),
    [("me/space", True, True), ("me/space", False, False), ("", True, False)],
)
def test_a_space_with_storage_keeps_its_work_there(tmp_path, monkeypatch, space, there, expected):
    monkeypatch.delenv("ANOMALYHUB_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SPACE_ID", space)
    monkeypatch.setattr(work, "_SPACE_STORAGE", tmp_path / "data")
    if there:
        (tmp_path / "data").mkdir()
    assert work.Work().home == (tmp_path / "data/anomalyhub" if expected else tmp_path / "cache/anomalyhub")
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "mine"))
    assert work.Work().home == tmp_path / "mine"


# ------------------------------------------------------------------------------------------------------- ZeroGPU


@pytest.fixture(scope="module")
def visited(tmp_path_factory) -> dict[bool, dict]:
    """What a visitor finds without and with ZeroGPU."""
    place = tmp_path_factory.mktemp("zero")
    rng = np.random.default_rng(0)
    for number in range(8):
        save(place / f"normal/{number}.png", photo(rng))
    for number in range(5):
        save(place / f"new/{number}.png", photo(rng, spot=number % 2 == 1))
    for command in (
        f"sample --out {place}/data --product label --train 6 --test 1 --defects 3 --size 64",
        f"fit patchcore --data {place}/data --out {place}/model",
        f"threshold {place}/model --value 1.2",
        f"classify fit --model {place}/model --data {place}/data --shots 2 --out {place}/named",
    ):
        assert cli.run(shlex.split(command)) == 0
    (place / "lib/spaces").mkdir(parents=True)
    (place / "lib/spaces/__init__.py").write_text("import fake_spaces as fake\nfrom fake_spaces import GPU\n")
    results = {}
    for zero in (False, True):
        paths = [str(ROOT), str(ROOT / "tests"), str(place / "lib")]
        variables = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        variables |= {"SPACES_ZERO_GPU": "true"} if zero else {}
        command = [sys.executable, str(ROOT / "tests/zero_gpu.py"), place, place / "named", place / f"home{zero}"]
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        results[zero] = json.loads(done.stdout.splitlines()[-1])
    return results


def test_zero_gpu_gives_the_same_results(visited):
    plain, zero = visited[False], visited[True]
    assert (plain["zero"], zero["zero"]) == (False, True)
    for what in ("said", "named", "wrong", "inspected"):
        assert zero[what] == plain[what] != []
    assert [row[0] for row in zero["checked"]] == [row[0] for row in plain["checked"]]
    for key in ("checked", "maps"):
        for one, other in zip(zero[key], plain[key], strict=True):
            one, other = (value[1:] if isinstance(value, list) else value for value in (one, other))
            assert one == pytest.approx(other, rel=1e-5)
    assert zero["said"].startswith("2 of 5") and all(len(row[4]) == row[3] > 0 for row in zero["named"])
    assert zero["wrong"] == ["this model is of another world: learn again"]


def test_zero_gpu_keeps_progress_and_cancel(visited):
    plain, zero = visited[False], visited[True]
    assert zero["shares"] == plain["shares"] == sorted(zero["shares"]) and len(zero["shares"]) == 5
    assert zero["cancelled"] == plain["cancelled"] == ["Cancelled", True]
    assert zero["left"] == plain["left"]  # the models that were handed over are gone


def test_zero_gpu_asks_for_little_and_jobs_run_on_the_cpu(visited):
    zero = visited[True]
    assert zero["cuda"]  # which is what "auto" would have believed
    assert (visited[False]["device"], zero["device"]) == ("auto", "cpu")
    assert max(zero["durations"]) <= 30 + 5 and zero["durations"][:3] == [32, 32, 31]  # two, two and one image


def test_without_the_package_nothing_changes():
    assert not gpu.ZERO and gpu._on_gpu is gpu._predict


def test_the_script_is_importable_without_running():
    names = runpy.run_path(str(DEPLOY), run_name="deploy")
    assert callable(names["main"]) and "torch" in names["pinned"]({})
