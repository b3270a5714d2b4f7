"""Training of the category-agnostic detector's network: loss, what is trained, pairs, resuming, what is saved."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from core_helpers import normals
from siamese_helpers import tiny_products, tiny_stages, tiny_trainer

from anomalyhub.detection.siamese_training import SiameseTrainer, SiameseTrainingConfig, Trained, _Images, _Pairs
from anomalyhub.detection.support import augmented
from anomalyhub.errors import Cancelled, InvalidArgumentError, InvalidDatasetError, InvalidModelError, NotFittedError
from anomalyhub.nn.siamese import SiameseNetwork
from anomalyhub.registry import trainers


def unit(x):
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-8)


def moved(network):
    """A network whose zero layers are no longer zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


def test_the_loss_is_simsiams_per_position_without_gradient_to_the_target():
    network = moved(SiameseNetwork(tiny_stages()).train())
    network.predictors.eval()  # so that one pass over both images gives what a pass over each gives
    torch.manual_seed(2)
    query, support = torch.randn(3, 3, 64, 64), torch.randn(3, 3, 64, 64)
    loss, spread = network(query, support)
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    network.zero_grad()
    ours, theirs = network.encode(query)[0], network.encode(support)[0]
    terms, spreads = [], []
    for level, predictor in enumerate(network.predictors):
        for z, target in ((ours[level], theirs[level]), (theirs[level], ours[level])):
            cosine = (unit(predictor(z)) * unit(target.detach())).sum(1)  # (B, h, w)
            terms.append(-cosine.mean() / 2)
        directions = unit(torch.cat([ours[level], theirs[level]])).detach().permute(1, 0, 2, 3).flatten(1)
        spreads.append((directions - directions.mean(1, keepdim=True)).square().mean(1).sum().sqrt())
    expected = sum(terms) / 3
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert spread.item() == pytest.approx(torch.stack(spreads).mean().item(), abs=1e-5)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_everything_is_trained_but_the_statistics_and_not_the_backbone():
    backbone = tiny_stages()
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    trainer = tiny_trainer(epochs=4, backbone=backbone).fit(tiny_products())
    untrained = SiameseNetwork(backbone).state_dict()
    same = [name for name, value in trainer.trained_.tensors.items() if np.array_equal(value, untrained[name].numpy())]
    assert same == []  # nor by chance: initial weights of the added parts follow from another seed
    assert all(torch.equal(value, before[name]) for name, value in backbone.module.state_dict().items())
    assert all(not parameter.requires_grad for parameter in backbone.module.parameters())

    batch_norm = torch.nn.BatchNorm2d(4)
    network = SiameseNetwork(backbone)
    network.stages[0].append(batch_norm)
    network.train()
    assert not batch_norm.training and network.encoders.training and network.transformers.training


def test_training_brings_normals_together():
    history = tiny_trainer(epochs=12).fit(tiny_products()).history_
    assert [entry["epoch"] for entry in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"] and history[-1]["spread"] > 0.05
    rates = [entry["lr"] for entry in history]
    np.testing.assert_allclose(rates, 0.005 * (1 + np.cos(np.pi * np.arange(12) / 12)), rtol=1e-6)


def test_defaults_are_those_of_the_paper():
    config = SiameseTrainingConfig()
    assert (config.epochs, config.batch_size, config.lr, config.size) == (50, 32, 1e-4, 224)
    assert trainers["siamese"] is SiameseTrainer and SiameseTrainer.split == "train"


# pairs


def pairs_of(images, epoch=0, rank=0, world=1, batch_size=4):
    return _Pairs(images, batch_size, 7, epoch, rank, world)


def test_pairs_are_of_one_product_and_every_image_is_asked_for_once():
    products = tiny_products()
    images = _Images(products, 64)
    assert len(images) == 9
    resized = [images[i].tobytes() for i in range(9)]
    product = [0] * 5 + [1] * 4
    views = {view.tobytes(): i for i in range(9) for view in augmented(images[i])[1:]}
    seen = []
    for epoch in range(3):
        batches = list(pairs_of(images, epoch))
        assert [len(queries) for queries, _ in batches] == [4, 4, 1] and len(pairs_of(images)) == 3
        queries = [resized.index(image.tobytes()) for batch, _ in batches for image in batch]
        supports = [views[image.tobytes()] for _, batch in batches for image in batch]
        assert sorted(queries) == list(range(9)) and queries != supports
        assert all(product[q] == product[s] and q != s for q, s in zip(queries, supports, strict=True))
        seen.append((queries, supports))
    assert seen[0] != seen[1] != seen[2]
    again = [[image.tobytes() for image in both] for batch in pairs_of(images, 1) for both in batch]
    assert again == [[image.tobytes() for image in both] for batch in pairs_of(images, 1) for both in batch]


def test_processes_share_the_images_evenly():
    images = _Images(tiny_products(), 64)
    resized = [images[i].tobytes() for i in range(9)]
    own = []
    for rank in (0, 1):
        pairs = pairs_of(images, rank=rank, world=2)
        batches = list(pairs)
        assert [len(queries) for queries, _ in batches] == [2, 2] and len(pairs) == 2
        own.append({resized.index(image.tobytes()) for queries, _ in batches for image in queries})
    assert len(own[0]) == len(own[1]) == 4 and not own[0] & own[1]


def test_images_beyond_the_budget_are_read_again(monkeypatch):
    monkeypatch.setattr("anomalyhub.detection.siamese_training._CACHE_BYTES", 2 * 3 * 64 * 64)
    images = _Images(tiny_products(), 64)
    first = [images[i] for i in range(9)]
    assert len(images.kept) == 2 and all(np.array_equal(images[i], first[i]) for i in range(9))


# the same result


def test_the_seed_fixes_the_weights():
    one, again, other = (tiny_trainer(seed).fit(tiny_products()).trained_.tensors for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_an_interrupted_training_ends_with_the_very_same_weights(tmp_path):
    def stop(share, text):
        if "epoch 3 of 4" in text:
            raise Cancelled("stopped; nothing was changed")

    with pytest.raises(Cancelled):
        tiny_trainer(epochs=4).fit(tiny_products(), stop, tmp_path)
    torch.manual_seed(99)  # whatever else has happened in between
    resumed = tiny_trainer(epochs=4).fit(tiny_products(), checkpoints=tmp_path)
    undisturbed = tiny_trainer(epochs=4).fit(tiny_products())
    assert resumed.history_ == undisturbed.history_
    assert all(np.array_equal(value, undisturbed.trained_.tensors[n]) for n, value in resumed.trained_.tensors.items())
    for changed in ({"transform": "scale"}, {"lr": 0.02}, {"seed": 1}):
        with pytest.raises(InvalidModelError, match="belongs to a run with other settings"):
            tiny_trainer(**{"epochs": 4, **changed}).fit(tiny_products(), checkpoints=tmp_path)
    with pytest.raises(InvalidModelError, match="belongs to a run with other settings"):
        tiny_trainer(epochs=4).fit({"wave": normals(5), "other": normals(4, start=31)}, checkpoints=tmp_path)


def test_the_caller_s_random_numbers_are_left_alone():
    trainer = tiny_trainer(epochs=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.fit(tiny_products())
    assert torch.equal(torch.rand(3), expected)


# errors and folders


@pytest.mark.parametrize(
    ("products", "message"),
    [
        ({}, "no product to train on"),
        ({"one": normals(1), "two": normals(3)}, "one has 1 normal images and pairs need 2"),
    ],
)
def test_too_little_to_train_on(products, message):
    with pytest.raises(InvalidDatasetError, match=message):
        tiny_trainer().fit(products)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be between 1"),
        ({"batch_size": 0}, "batch_size must be between 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"momentum": 1.0}, "momentum must be between 0"),
        ({"size": 16}, "size must be between 32"),
        ({"transform": "shear"}, "transform='shear' is not"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        tiny_trainer(**settings)


def test_saved_weights(tmp_path):
    with pytest.raises(NotFittedError, match=r"not trained: call fit\(\) first"):
        tiny_trainer().save(tmp_path)
    trainer = tiny_trainer().fit(tiny_products())
    trainer.save(tmp_path / "weights")
    config = json.loads((tmp_path / "weights" / "config.json").read_text())
    assert config["kind"] == "pretrained" and config["trainer"] == "siamese" and config["config"]["epochs"] == 2
    assert config["backbone"] == {"spec": "tiny-stages", "fingerprint": "tiny-stages-0", "layers": [1, 2, 3]}
    assert config["history"] == trainer.history_ and config["trained"]["trained_on"] == ["other", "wave"]
    read = Trained.read(tmp_path / "weights", "tiny-stages-0")
    assert (read.transform, read.size) == ("affine", 64) and read.provenance.knows(normals(1)[0].image)
    assert not [name for name in read.tensors if name.startswith("predictors.")]
    network = read.network(tiny_stages())
    assert not network.training
    state = network.state_dict()
    assert all(np.array_equal(state[name].numpy(), value) for name, value in trainer.trained_.tensors.items())
