"""AnomalyNCD's training: resumed runs, the cache, what is drawn when, heads, base classes and several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from discovery_helpers import QUICK, drawn, tiny_transformer
from safetensors.numpy import load_file, save_file

from anomalyhub.discovery import create_discoverer
from anomalyhub.discovery.network import Trunk
from anomalyhub.errors import Cancelled, InvalidArgumentError, InvalidModelError
from anomalyhub.metrics import clustering_metrics

BASE = drawn(2, ("rust", "paint"), start=70)
BASE_LABELS = ["rust", "rust", "dent", "dent"]
CACHED = {"cache_views": 3, "cache_epochs": 2}


def model(seed=0, **changes):
    settings = {**QUICK, "preset": "paper", **changes}
    return create_discoverer("anomalyncd", tiny_transformer(), seed=seed, settings=settings)


def assert_same_model(one, other, folder):
    """Every file of both, bit for bit."""
    for number, fitted in enumerate((one, other)):
        fitted.save(folder / str(number))
    for name in ("config.json", "state.safetensors"):
        assert (folder / "0" / name).read_bytes() == (folder / "1" / name).read_bytes(), name


def stop_after(epochs):
    def progress(share, text):
        if text.startswith(f"epoch {epochs + 1} of"):
            raise Cancelled("stopped")

    return progress


@pytest.mark.parametrize("epochs_done", [1, 3, 4])
@pytest.mark.parametrize("settings", [{}, CACHED, {"train_blocks": 0, "head_init": "kmeans"}, {"preset": "default"}])
def test_a_resumed_run_is_the_undisturbed_one(settings, epochs_done, tmp_path):
    """Also in the middle of a cache generation, and with momentum; 4 is a run that was complete."""
    settings = {**settings, "epochs": 4}
    undisturbed = model(**settings).fit(drawn(2), BASE, BASE_LABELS, 3)
    work = tmp_path / "work"
    if epochs_done < 4:
        with pytest.raises(Cancelled):
            model(**settings).fit(drawn(2), BASE, BASE_LABELS, 3, progress=stop_after(epochs_done), checkpoints=work)
    else:
        model(**settings).fit(drawn(2), BASE, BASE_LABELS, 3, checkpoints=work)
    seen = []
    resumed = model(**settings).fit(
        drawn(2), BASE, BASE_LABELS, 3, progress=lambda share, text: seen.append(text), checkpoints=work
    )
    assert not any(text.startswith(f"epoch {epochs_done} of") for text in seen)
    assert_same_model(undisturbed, resumed, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda: model(lr=0.01),
        lambda: model(seed=1),
        lambda: create_discoverer("anomalyncd", tiny_transformer(1), settings={**QUICK, "preset": "paper"}),
    ],
    ids=["settings", "seed", "weights"],
)
def test_a_checkpoint_of_another_run_is_refused(change, tmp_path):
    model().fit(drawn(2), n_novel=2, checkpoints=tmp_path)
    with pytest.raises(InvalidModelError, match="belongs to a run with other settings, images or processes"):
        change().fit(drawn(2), n_novel=2, checkpoints=tmp_path)
    with pytest.raises(InvalidModelError, match="other settings, images"):
        model().fit(drawn(2, start=1), n_novel=2, checkpoints=tmp_path)
    with pytest.raises(InvalidModelError, match="other settings"):
        model().fit(drawn(2), n_novel=3, checkpoints=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all", "foreign"])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    if damage == "foreign":
        save_file({"x": np.zeros(2)}, file)
    else:
        file.write_bytes(damage)
    with pytest.raises(InvalidModelError, match="is damaged .* remove it, and the run starts anew"):
        model().fit(drawn(2), n_novel=2, checkpoints=tmp_path)


def test_the_record_of_the_losses():
    fitted = model(epochs=3).fit(drawn(2), BASE, BASE_LABELS, 3)
    assert [entry["epoch"] for entry in fitted.history_] == [1, 2, 3]
    weights = {"supervised_contrastive": 0.3, "cross_entropy": 0.3, "info_nce": 0.7, "self_distillation": 0.7}
    for entry in fitted.history_:
        total = sum(weight * entry[name] for name, weight in weights.items()) + 2.8 * entry["mean_entropy"]
        assert entry["loss"] == pytest.approx(total, rel=1e-4)
    assert fitted.base_classes_ == ("dent", "rust") and len(fitted.classes_) == 3
    assert len(fitted.head_losses_) == 2 and fitted.head_ == int(np.argmin(fitted.head_losses_))
    last = fitted.history_[-1]
    mean = last["self_distillation"] + 4 * last["mean_entropy"]
    assert np.mean(fitted.head_losses_) == pytest.approx(mean, rel=1e-4)


def test_progress_names_the_terms():
    seen = []
    model(epochs=2).fit(drawn(2), n_novel=2, progress=lambda share, text: seen.append(text))
    assert any("epoch 2 of 2: loss " in text and "info nce" in text and "mean entropy" in text for text in seen)


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"train_blocks": 1}, True),
        ({"train_blocks": 2}, True),
        ({"train_blocks": 4}, True),
        ({"train_blocks": 0}, False),
    ],
)
def test_which_blocks_train(settings, changes):
    fitted = model(**settings, lr=0.05).fit(drawn(2), n_novel=2)
    count = max(1, settings["train_blocks"])
    assert len(fitted.tail_.blocks) == count
    for block, original in zip(fitted.tail_.blocks, tiny_transformer().module.blocks[-count:], strict=True):
        same = [torch.equal(a, b) for a, b in zip(block.parameters(), original.parameters(), strict=True)]
        assert all(same) != changes and not any(p.requires_grad for p in block.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_tokens": "none"},
        {"mask_tokens": "all"},
        {"mask_layers": 1},
        {"weight_info_nce": 0.0},
        {"weight_mean_entropy": 0.0},
        {"correct_pseudo_labels": False},
        {"temperature_info_nce": 0.07},
        {"use_base": False},
        {"n_heads": 1},
        {"head_init": "kmeans"},
        {"augmentations": None},
        {"balance": 0.0},
        {"descriptor": "salient"},
    ],
    ids=lambda settings: "-".join(f"{key}={value}" for key, value in settings.items()),
)
def test_every_switch_of_the_ablations_changes_the_result(settings):
    plain = model(epochs=1).fit(drawn(2), BASE, BASE_LABELS, 2)
    switched = model(epochs=1, **settings).fit(drawn(2), BASE, BASE_LABELS, 2)
    assert not np.array_equal(plain.embeddings_, switched.embeddings_) or plain.head_losses_ != switched.head_losses_
    assert all(np.isfinite(value) for value in switched.history_[0].values())


def test_the_default_trains_a_map_of_frozen_descriptors():
    """It starts from whitened descriptors and stays near them; without training it is their k-means."""
    subs = drawn(6)
    moved, still = (
        create_discoverer("anomalyncd", tiny_transformer(), settings={**QUICK, "train_blocks": blocks}).fit(
            subs, n_novel=3
        )
        for blocks in (1, 0)
    )
    frozen = create_discoverer("clustering", tiny_transformer()).fit(subs, n_novel=3)
    np.testing.assert_allclose(still.embeddings_, frozen.embeddings_, atol=1e-5)
    assert np.array_equal(still.tail_.weight, np.eye(96)) and not np.array_equal(moved.tail_.weight, np.eye(96))
    np.testing.assert_allclose(moved.whitening_.weight, frozen.whitening_.weight, atol=1e-6)
    assert clustering_metrics(np.repeat(["good", "burn", "paint"], 6), moved.labels_)["f1"] == 1.0
    plain = create_discoverer(
        "anomalyncd", tiny_transformer(), settings={**QUICK, "train_blocks": 0, "whiten_views": 0}
    ).fit(subs, n_novel=3)
    assert plain.whitening_ is None and np.abs(plain.embeddings_ - still.embeddings_).max() > 0.1


def test_without_base_classes_is_use_base_off():
    off = model(use_base=False).fit(drawn(2), BASE, BASE_LABELS, 2)
    none = model(use_base=False).fit(drawn(2), n_novel=2)
    assert np.array_equal(off.embeddings_, none.embeddings_) and off.base_classes_ == ()


@pytest.mark.parametrize(("base", "labels"), [(BASE[:2], ["rust", "rust"]), (BASE[:1], ["rust"])])
def test_one_base_class_is_enough(base, labels):
    fitted = model().fit(drawn(2), base, labels, 2)
    assert fitted.base_classes_ == ("rust",) and np.isfinite(fitted.history_[-1]["loss"])
    assert fitted.predict_proba(drawn(1)).probs.shape == (3, 2)  # of the novel classes alone


@pytest.mark.parametrize(("base", "labels"), [(BASE, BASE_LABELS[:3]), (BASE, None), (None, ["rust"])])
def test_base_and_labels_belong_together(base, labels):
    with pytest.raises(InvalidArgumentError, match="base has . sub-images and base_labels .: give one each"):
        model().fit(drawn(2), base, labels, 2)


def test_normal_sub_images_go_to_the_first_kind():
    """Low scores draw to the first novel class, so that one collects the normal images."""
    subs, truth = drawn(6), np.repeat(["good", "burn", "paint"], 6)
    fitted = model(epochs=12, lr=0.05, batch_size=9, n_heads=3, head_init="kmeans", augmentations="flip,rotate").fit(
        subs, n_novel=3
    )
    assert clustering_metrics(truth, fitted.labels_)["f1"] >= 0.9
    assert set(fitted.labels_[:6].tolist()) == {0} and 0 not in fitted.labels_[6:]
    assert fitted.history_[-1]["loss"] < fitted.history_[0]["loss"]
    new = fitted.predict(drawn(2, start=60), [0, 1, 2, 3, 4, 5])
    assert (
        clustering_metrics(np.repeat(["good", "burn", "paint"], 2), new.image_probs.probs.argmax(axis=1))["f1"] >= 0.8
    )


# the cache


def test_the_cache_spares_the_trunk(monkeypatch):
    """Views that go through the trunk: all of every step without it, those of two generations with it."""
    runs = []
    original = Trunk.__call__
    monkeypatch.setattr(
        Trunk, "__call__", lambda self, subs, keys: runs.append(len(subs)) or original(self, subs, keys)
    )
    subs = drawn(4)
    plain = model(epochs=20).fit(subs, n_novel=2)
    assert sum(runs) == 20 * 12 * 2 == sum(entry["trunk_views"] for entry in plain.history_)
    runs.clear()
    cached = model(epochs=20, cache_views=2, cache_epochs=10).fit(subs, n_novel=2)
    assert sum(runs) == 2 * 12 * 2 + 1  # and one to learn how large a view is
    assert [entry["epoch"] for entry in cached.history_ if entry["trunk_views"]] == [1, 11]


def test_a_small_budget_holds_fewer_sub_images_for_fewer_epochs():
    trunk_bytes = 65 * 48 * 2 + 64
    ticks = []
    fitted = model(epochs=8, cache_views=2, cache_epochs=4, cache_bytes=2 * 6 * trunk_bytes).fit(
        drawn(4), n_novel=2, progress=lambda share, text: ticks.append(text)
    )
    assert [entry["trunk_views"] for entry in fitted.history_] == [12, 0] * 4  # 6 of 12 sub-images for 2 of 4 epochs
    with pytest.raises(InvalidArgumentError, match=r"cache_bytes \(5000\) has no room for two sub-images of 2 views"):
        model(cache_views=2, cache_bytes=5000).fit(drawn(2), n_novel=2)


def test_every_generation_has_its_own_views(monkeypatch):
    keys_seen = []
    original = Trunk.__call__
    monkeypatch.setattr(
        Trunk, "__call__", lambda self, subs, keys: keys_seen.extend(keys) or original(self, subs, keys)
    )
    model(epochs=4, **CACHED).fit(drawn(2), n_novel=2)
    keys = keys_seen[1:]
    assert len(keys) == len(set(keys)) == 2 * 6 * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"temperature_student": 0.0}, "temperature_student must be above 0"),
        ({"weight_info_nce": -1.0}, "weight_info_nce must not be negative"),
        ({"balance": 1.5}, "balance must be between 0 and 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"cache_views": 1}, "cache_views not 1"),
        ({"samples_per_epoch": 0}, "samples_per_epoch must be at least 1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        model(**settings)


def test_more_blocks_than_there_are():
    with pytest.raises(InvalidArgumentError, match="train_blocks is 5 and this transformer has 4 blocks"):
        model(train_blocks=5).fit(drawn(2), n_novel=2)


def test_a_diverged_run_says_so():
    with pytest.raises(InvalidArgumentError, match=r"training diverged in epoch . of|training diverged in epoch"):
        model(lr=1e30, epochs=5).fit(drawn(2), n_novel=2)


# several processes

SCRIPT = """
import json, os, sys
from pathlib import Path
from discovery_helpers import QUICK, drawn, tiny_transformer
from anomalyhub.discovery import create_discoverer
from anomalyhub.errors import Cancelled, InvalidArgumentError

def model(**changes):
    settings = {**QUICK, "preset": "paper", "calibrate": True, "cache_views": 2, "cache_epochs": 2, **changes}
    return create_discoverer("anomalyncd", tiny_transformer(), settings=settings)

folder = Path(sys.argv[1])
base, labels = drawn(2, ("rust", "paint"), start=70), ["rust", "rust", "dent", "dent"]
whole = model().fit(drawn(3)[:7], base, labels, 3)
whole.save(folder / os.environ["RANK"])

def stop(share, text):
    if text.startswith("epoch 2 of"):
        raise Cancelled("stopped")

try:
    model().fit(drawn(3)[:7], base, labels, 3, progress=stop, checkpoints=folder / "work")
except Cancelled:
    pass
model().fit(drawn(3)[:7], base, labels, 3, checkpoints=folder / "work").save(folder / f"resumed{os.environ['RANK']}")
try:
    model().fit(drawn(1)[:1], n_novel=1)
except InvalidArgumentError as error:
    (folder / f"error{os.environ['RANK']}").write_text(str(error))
"""


@pytest.mark.slow
def test_two_processes_end_with_the_same_model(tmp_path):
    """Which is also that of an interrupted run of two processes."""
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, *others = (load_file(tmp_path / name / "state.safetensors") for name in ("0", "1", "resumed0", "resumed1"))
    assert first["embeddings"].shape == (7, 48)
    for other in others:
        assert first.keys() == other.keys() and all(np.array_equal(first[key], other[key]) for key in first)
    for rank in (0, 1):
        assert "1 sub-images do not keep 2 processes busy" in (tmp_path / f"error{rank}").read_text()
