"""Weights from the Hub: a server on loopback stands in for it, and the client runs in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import timm
import torch
from core_helpers import normals
from hub_server import Fault, environment, hub_server
from PIL import Image
from safetensors.torch import save

NET = "timm/test_resnet.r160_in1k/model.safetensors"
SHAPES = {"me/net": {"architecture": "test_resnet", "num_classes": 9}}
SHAPES["me/net"]["pretrained_cfg"] = {"input_size": [3, 96, 64], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
SECONDS = 20  # for what must be said in seconds; a busy machine takes 5 to import torch

SCRIPT = """
import json, sys
from anomalyhub import create_backbone
from anomalyhub.errors import BackboneError
for spec in json.loads(sys.argv[1]):
    try:
        backbone = create_backbone(spec, device="cpu")
        print(json.dumps([spec, backbone.size, backbone.data.mean, backbone.fingerprint]))
    except BackboneError as error:
        print(json.dumps([spec, str(error)]))
"""


@pytest.fixture(scope="module")
def files():
    """What the server holds."""
    torch.manual_seed(0)
    weights = save(timm.create_model("test_resnet", pretrained=False).state_dict())
    evil = {"architecture": "test_resnet", "model_args": {"checkpoint_path": "/nowhere/weights.pth", "num_classes": 4}}
    return {
        NET: weights,
        "me/net/model.safetensors": weights,
        "me/net/config.json": json.dumps(SHAPES["me/net"]).encode(),
        "me/evil/model.safetensors": weights,
        "me/evil/config.json": json.dumps(evil).encode(),
        "me/transformer/config.json": b'{"architectures": ["ViTModel"]}',
        "me/list/config.json": b"[]",
        "me/text/config.json": b"nothing of the kind",
        "me/broken/model.safetensors": weights,
        "me/broken/config.json": json.dumps(SHAPES["me/net"]).encode(),
    }


def create(specs, endpoint, home):
    """What `create_backbone` gives or says for each spec, in a fresh process, by spec."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps(specs)]
    done = subprocess.run(command, env=environment(endpoint, home), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return {spec: answer for spec, *answer in map(json.loads, done.stdout.splitlines())}


def test_download_once_then_from_the_cache(files, tmp_path):
    refused = {
        "hf:me/transformer": "me/transformer is not a model that timm .* knows .*: choose a timm model, or upgrade",
        "hf:me/list": "is not a model that timm",
        "hf:me/text": "is not a model that timm",
        "hf:me/nothing": "has no config.json that this login may read: check the name, or log in",
        "test_vit": "timm/test_vit.r160_in1k on http.* has no model.safetensors that this login may read",
        "hf:me/broken": r"downloading model.safetensors of me/broken failed \(peer closed.*: download it once",
    }
    with hub_server(files, faults=[Fault("GET /cdn/models/me/broken", cut=2000)]) as hub:
        online = create(["test_resnet", "hf:me/net", "hf:me/evil", *refused], hub.url, tmp_path)
    size, mean, fingerprint = online["test_resnet"]
    assert (size, mean) == (160, [0.5, 0.5, 0.5])
    assert online["hf:me/net"] == [64, [0.1, 0.2, 0.3], fingerprint]
    assert online["hf:me/evil"][2] == fingerprint  # its checkpoint_path was not looked for
    for spec, message in refused.items():
        (said,) = online[spec]
        assert "\n" not in said
        assert re.search(message, said), said
    downloads = [request for request in hub.requests if request.startswith("GET") and "model.safetensors" in request]
    assert len([request for request in downloads if "me/broken" not in request]) == 3
    start = time.monotonic()
    later = create(["test_resnet", "hf:me/net", "test_vit"], hub.url, tmp_path)  # the server is gone
    assert later["test_resnet"] == online["test_resnet"] and later["hf:me/net"] == online["hf:me/net"]
    assert f"are not in the local cache and {hub.url} cannot be reached: download it once" in later["test_vit"][0]
    assert time.monotonic() - start < SECONDS


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, sample in enumerate(normals(2)):
        Image.fromarray(np.asarray(sample.image)).save(folder / f"{i}.png")
    return folder


def fit(photos, out, endpoint, home, **more):
    """`anomalyhub fit` with a backbone that is not there: the exit code, its standard error, and the seconds."""
    command = [sys.executable, "-m", "anomalyhub", "fit", "patchcore", "--data", str(photos), "--out", str(out)]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "--backbone", "test_resnet"],
        env=environment(endpoint, home, **more),
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.returncode, done.stderr.strip().splitlines(), time.monotonic() - start


def assert_one_sentence(done, out, *parts):
    code, lines, seconds = done
    assert code == 2 and len(lines) == 1, lines
    assert lines[0].startswith(
        "anomalyhub: the weights of 'test_resnet' (timm/test_resnet.r160_in1k) are not in the local"
    )
    for part in (*parts, "pass a local file as test_resnet@FILE.safetensors", "--backbone embedded"):
        assert part in lines[0]
    assert seconds < SECONDS and not out.exists()


def test_a_hub_that_never_answers(files, photos, tmp_path):
    with hub_server(files, faults=[Fault(hang=True)]) as hub:
        done = fit(photos, tmp_path / "out", hub.url, tmp_path)
        assert_one_sentence(done, tmp_path / "out", f"{hub.url} cannot be reached")
    assert len(hub.requests) == 1


def test_offline_by_the_environment(files, photos, tmp_path):
    with hub_server(files) as hub:
        done = fit(photos, tmp_path / "out", hub.url, tmp_path, HF_HUB_OFFLINE="1")
        assert_one_sentence(done, tmp_path / "out", "HF_HUB_OFFLINE is set")
    assert hub.requests == []
