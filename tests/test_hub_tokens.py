"""A token goes to the Hub and nowhere else: not to logs, errors, addresses, files or the folder of a job."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import traceback

import numpy as np
import pytest
from hub_server import OTHER_TOKEN, TOKEN, Fault, connected, environment, hub_server
from job_helpers import LONG, end_all
from safetensors.numpy import save

from anomalyhub.data.sample import write_sample
from anomalyhub.errors import AnomalyHubError
from anomalyhub.hub import create_store
from anomalyhub.hub.base import reason
from anomalyhub.jobs import JobStore

PLAIN = "0123abcd" * 4  # a token of a server that is not huggingface.co need not begin with hf_
ECHO = f"no, {TOKEN} and Bearer {PLAIN} and {PLAIN} may not"  # of a proxy that repeats what it was sent
CONFIG = json.dumps({"schema": 1, "kind": "detector", "detector": "patchcore", "config": {}}).encode()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "state.safetensors").write_bytes(save({"bank": np.ones((30, 40), np.float32)}))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server, of which this process is a client without a login."""
    monkeypatch.setenv("ANOMALYHUB_HOME", str(tmp_path / "cache"))
    with hub_server() as hub, connected(hub, tmp_path / "hf"):
        hub.users[PLAIN] = hub.users[TOKEN]
        yield hub


def leaks(folder, *tokens: str) -> list[str]:
    """Files below a folder, or names of files, that have a token in them."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [str(path) for token in tokens if token.encode() in content or token in str(path)]
    return found


@pytest.mark.parametrize("token", [TOKEN, PLAIN])
def test_the_search_finds_a_token(tmp_path, token):
    (tmp_path / "log").write_text(f"said {token}")
    assert leaks(tmp_path, token) == [str(tmp_path / "log")]


@pytest.mark.parametrize("token", [TOKEN, PLAIN])
def test_a_session_leaves_no_token_behind(hub, model, tmp_path, caplog, capfd, monkeypatch, token):
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging

    monkeypatch.setattr(constants, "HF_DEBUG", True)  # the client logs every request
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_debug()
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    try:
        with caplog.at_level(logging.DEBUG):
            store = create_store("hub", token)
            store.whoami()
            store.push(model, "me/ring", private=True)
            store.list()
            store.pull("me/ring")
            store.pull("me/ring", out=tmp_path / "out")
    finally:
        hub_logging.set_verbosity(before)
    printed = capfd.readouterr()
    assert "curl" in caplog.text and token not in caplog.text + printed.out + printed.err
    assert sum(f"Bearer {token}" in headers for headers in hub.headers) > 5  # it is where it belongs
    assert [request for request in hub.requests if token in request] == []
    assert token not in repr(store) + str(store) + store.spec + store.url("me/ring", "model")
    assert leaks(tmp_path, token) == []


FAULTS = [
    Fault("GET /api", status=401, message=ECHO),
    Fault("GET /api", status=401, message=ECHO, code="RepoNotFound"),
    Fault("GET /api", status=403, message=ECHO, code="GatedRepo"),
    Fault("GET /api", status=400, message=ECHO),
    Fault("GET /api", status=418, message=ECHO),
    Fault("POST", status=403, message=ECHO),
    Fault("POST", status=400, message=ECHO),
    Fault("POST", status=404, message=ECHO, code="EntryNotFound"),
    Fault("/commit/", status=412, message=ECHO),
    Fault("PUT", status=403, message=ECHO),
    Fault("POST", cut=0),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.match} {fault.status or 'cut'} {fault.code}")
@pytest.mark.parametrize("given", [True, False], ids=["given", "of the machine"])
def test_errors_have_no_token(hub, model, caplog, capfd, monkeypatch, fault, given):
    if not given:
        monkeypatch.setenv("HF_TOKEN", PLAIN)
    store = create_store("hub", PLAIN if given else None)
    with caplog.at_level(logging.WARNING), pytest.raises(AnomalyHubError) as caught:
        hub.faults.append(fault)
        store.push(model, "me/ring")
    printed = capfd.readouterr()
    told = "".join(traceback.format_exception(caught.value)) + caplog.text + printed.out + printed.err
    assert TOKEN not in told and PLAIN not in told
    assert str(caught.value).startswith("cannot push me/ring: ")


def test_reason_says_no_token():
    said = reason(ValueError(f"Illegal header value b'Bearer {PLAIN}' and {TOKEN}"), PLAIN)
    assert said == "Illegal header value b'Bearer … and …"
    assert reason(ValueError(f"no {PLAIN} here"), PLAIN) == "no … here"
    assert reason(ValueError("hf_hub_download failed")) == "hf_hub_download failed"  # which is no token


def test_verbs_say_no_token(tmp_path, model):
    """With the login of the environment and the client's own log of every request."""
    with hub_server() as hub:
        hub.faults.append(Fault("/commit/", status=403, message=ECHO))
        more = {"HF_DEBUG": "1", "ANOMALYHUB_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "anomalyhub", "push", str(model), "me/ring"]
        run = {"env": environment(hub, tmp_path / "hf", TOKEN, **more), "capture_output": True, "text": True}
        refused = subprocess.run(command, **run, timeout=LONG)
        assert refused.returncode != 0 and "this login may not do that" in refused.stderr
        assert TOKEN not in refused.stdout + refused.stderr
        hub.faults.clear()
        done = subprocess.run(command, **run, timeout=LONG)
        assert done.returncode == 0 and TOKEN not in done.stdout + done.stderr, done.stderr
        assert "config.json" in hub.files("me/ring")
    assert leaks(tmp_path, TOKEN) == []


def test_a_job_keeps_no_token(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    write_sample(tmp_path / "data", products=["ring"], n_train=4, n_test_good=1, n_defect=1, size=64)
    config = {"data": str(tmp_path / "data"), "settings": {"coreset": "0.1", "resize": "64", "crop": "64"}}
    jobs = JobStore(tmp_path / "jobs", outlive=False)
    try:
        done = jobs.submit("fit", config, push_to="me/ring", store="hub")
        assert done.wait(LONG) == "done" and "error" not in done.pushed, done.log_tail()
        hub.faults.append(Fault("/commit/", status=403, message=ECHO))
        refused = jobs.submit("fit", config, push_to="me/other", store="hub")
        assert refused.wait(LONG) == "done", refused.log_tail()
        assert "this login may not do that" in refused.pushed["error"] and TOKEN not in refused.pushed["error"]
    finally:
        end_all(jobs)
    assert "config.json" in hub.files("me/ring") and hub.files("me/other") == {}
    assert any((tmp_path / "jobs").rglob("*")) and leaks(tmp_path, TOKEN, OTHER_TOKEN) == []
