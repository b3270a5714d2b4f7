"""The training loop: what it minimises, what a checkpoint restores, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from anomalyhub.errors import Cancelled, InvalidArgumentError, InvalidModelError
from anomalyhub.nn.training import CHECKPOINT, make_accelerator, train_epochs

pytestmark = pytest.mark.usefixtures("own_accelerator")


def batches(epoch):
    rng = np.random.default_rng((5, epoch))
    inputs = [torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32)) for _ in range(6)]
    return [(x, x @ torch.tensor([[1.0], [-2.0], [0.5]])) for x in inputs]


def step(model, batch):
    error = (model(batch[0]) - batch[1]).pow(2).mean()
    return error, {"error": error}


def run(optimizer="adam", epochs=4, folder=None, settings=None, progress=None, batches=batches, step=step, **options):
    torch.manual_seed(1)
    module = torch.nn.Linear(3, 1)
    makers = {
        "adam": lambda: torch.optim.Adam(module.parameters(), 0.05),
        "sgd": lambda: torch.optim.SGD(module.parameters(), 0.05, momentum=0.9),
    }
    history = train_epochs(
        module,
        makers[optimizer](),
        make_accelerator(),
        epochs=epochs,
        batches=batches,
        step=step,
        learning_rate=lambda epoch: 0.05 * (1 - epoch / 8),
        checkpoints=folder,
        settings=settings,
        progress=progress,
        **options,
    )
    return module, history


def test_it_minimises_and_records():
    seen = []
    module, history = run(epochs=8, progress=lambda share, text: seen.append((share, text)))
    assert [entry["epoch"] for entry in history] == list(range(1, 9))
    assert history[-1]["loss"] < 0.2 * history[0]["loss"] and history[2]["lr"] == pytest.approx(0.05 * 0.75)
    assert all(entry["error"] == pytest.approx(entry["loss"]) for entry in history)
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0
    assert seen[-1][1] == f"epoch 8 of 8: loss {history[-1]['loss']:.4f}" and not module.training


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_run_ends_with_the_same_weights(optimizer, tmp_path):
    whole, expected = run(optimizer)

    def stop(share, text):
        if share > 0.6:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        run(optimizer, folder=tmp_path, progress=stop)
    assert (tmp_path / CHECKPOINT).exists()
    resumed, history = run(optimizer, folder=tmp_path)
    assert history == expected
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    again, history = run(optimizer, folder=tmp_path)  # nothing is left to do
    assert history == expected and torch.equal(again.weight, whole.weight)


def test_it_ends_early_and_resumes_there(tmp_path):
    """Checkpoints after every second epoch and after the last, whichever that is."""
    _, expected = run(epochs=8)
    options = {"epochs": 8, "until": lambda entry: entry["epoch"] == 5, "save_every": 2}
    whole, history = run(**options)
    assert history == expected[:5]
    seen = []

    def stop(share, text):
        seen.append(text)
        if len(history_of(tmp_path)) == 4:
            raise Cancelled("stopped")

    def text(epoch, epochs, history):
        return f"{epoch} of {epochs} after {len(history)}"

    with pytest.raises(Cancelled):
        run(folder=tmp_path, progress=stop, text=text, **options)
    assert list(dict.fromkeys(seen)) == [f"{epoch} of 8 after {epoch}" for epoch in range(5)]
    for _ in range(2):  # the second time nothing is left to do
        resumed, again = run(folder=tmp_path, **options)
        assert again == history and torch.equal(resumed.weight, whole.weight)
        assert history_of(tmp_path) == history


def history_of(folder):
    if not (folder / CHECKPOINT).exists():
        return []
    with safe_open(folder / CHECKPOINT, "pt") as opened:
        return json.loads(opened.metadata()["run"])["history"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run(folder=tmp_path, settings={"images": 3})
    with pytest.raises(InvalidModelError, match="belongs to a run with other settings"):
        run(folder=tmp_path, settings={"images": 4})
    with pytest.raises(InvalidModelError, match="belongs to a run with other settings"):
        run(folder=tmp_path, settings={"images": 3}, epochs=9)


@pytest.mark.parametrize("damage", ["cut", "other tensors", "no header"])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    run(folder=tmp_path)
    file = tmp_path / CHECKPOINT
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:50])
    else:
        save_file({"model.weight": torch.zeros(2, 2)}, file, None if damage == "no header" else {"run": "{}"})
    with pytest.raises(InvalidModelError, match="checkpoint.safetensors is damaged .*: remove it"):
        run(folder=tmp_path)


def test_what_cannot_be_trained():
    with pytest.raises(InvalidArgumentError, match="nothing to train on"):
        run(batches=lambda epoch: [])
    with pytest.raises(InvalidArgumentError, match="diverged"):
        run(step=lambda model, batch: (model(batch[0]).sum() * float("inf"), {}))
