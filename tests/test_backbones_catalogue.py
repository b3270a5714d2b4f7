"""The recommended backbones are what they are said to be: names, ids, licences, sizes, and whether they are here."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from huggingface_hub import constants

from anomalyhub.backbones import create_backbone
from anomalyhub.backbones.catalogue import CATALOGUE
from anomalyhub.backbones.clip_files import CLIP_REPO
from anomalyhub.cli import run
from anomalyhub.errors import BackboneError

TIMM = [one for one in CATALOGUE if one.spec not in ("embedded", "clip")]
BY_SPEC = {one.spec: one for one in CATALOGUE}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache, repo_id, *names):
    home = cache / f"models--{repo_id.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text("0" * 40)
    for name in names:
        (home / "snapshots" / ("0" * 40)).mkdir(parents=True, exist_ok=True)
        (home / "snapshots" / ("0" * 40) / name).write_bytes(b"x")


def test_it_has_what_the_methods_ask_for():
    architectures = [one.spec.partition(".")[0] for one in CATALOGUE]
    assert sorted(architectures) == sorted(
        ["embedded", "clip", "vit_base_patch8_224", "vit_small_patch8_224", "vit_base_patch14_dinov2"]
        + ["wide_resnet50_2", "resnet50", "resnet18", "convnext_tiny"]
    )
    assert all(one.good_for for one in CATALOGUE)


@pytest.mark.parametrize("one", TIMM, ids=lambda one: one.spec)
def test_timm_agrees(one):
    known = timm.get_pretrained_cfg(one.spec)
    assert known.hf_hub_id == one.repo_id and known.license == one.license
    with torch.device("meta"):  # shapes without numbers
        module = timm.create_model(one.spec)
    assert sum(value.numel() for value in module.parameters()) == one.parameters
    assert sum(value.numel() * value.element_size() for value in module.state_dict().values()) == one.size


@pytest.mark.parametrize("one", [one for one in CATALOGUE if one.repo_id], ids=lambda one: one.spec)
def test_every_spec_asks_for_its_repository(one):
    with torch.device("meta"), pytest.raises(BackboneError, match="not in the local cache") as refused:
        create_backbone(one.spec, device="cpu")
    assert f"({one.repo_id})" in str(refused.value)


def test_the_clip():
    from transformers import CLIPConfig, CLIPModel

    one = BY_SPEC["clip"]
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision |= {"image_size": 336, "patch_size": 14, "projection_dim": 768}
    with torch.device("meta"):  # ViT-L/14 at 336 pixels, table 20 of Radford et al., 2021
        module = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))
    assert one.repo_id == CLIP_REPO and sum(value.numel() for value in module.parameters()) == one.parameters
    assert one.size == 4 * one.parameters


def test_the_one_in_the_package():
    one, module = BY_SPEC["embedded"], create_backbone("embedded").module
    assert sum(value.numel() for value in module.parameters()) == one.parameters
    assert one.size == 2 * one.parameters and one.repo_id is None and one.cached  # float16


def test_what_is_here(cache):
    assert [one.spec for one in CATALOGUE if one.cached] == ["embedded"]
    put(cache, "timm/resnet18.tv_in1k", "model.safetensors")
    put(cache, "timm/resnet50.tv_in1k", "config.json")
    put(cache, CLIP_REPO, "model.safetensors", "config.json")
    assert {one.spec for one in CATALOGUE if one.cached} == {"embedded", "resnet18.tv_in1k"}
    put(cache, CLIP_REPO, "tokenizer.json")
    assert BY_SPEC["clip"].cached


def test_the_verb(cache, capsys):
    put(cache, "timm/resnet18.tv_in1k", "model.safetensors")
    assert run(["backbones"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(CATALOGUE)
    (row,) = (line.split() for line in lines if line.startswith("resnet18"))
    assert row == ["resnet18.tv_in1k", "47", "yes", "bsd-3-clause", "timm/resnet18.tv_in1k"]
    assert run(["backbones", "--json"]) == 0
    rows = {one["spec"]: one for one in json.loads(capsys.readouterr().out)}
    assert rows["clip"]["cached"] is False and rows["resnet18.tv_in1k"]["cached"] is True
    assert rows["embedded"]["repo_id"] is None and rows["clip"]["parameters"] == 427_944_193
    assert set(rows["clip"]) == {"spec", "repo_id", "license", "parameters", "size", "good_for", "files", "cached"}
