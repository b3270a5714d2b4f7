"""The backbone that ships in the package: its file, its features, and the script that trains it, at toy size."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from anomalyhub import create_backbone
from anomalyhub.backbones import embedded
from anomalyhub.backbones.embedded_net import EmbeddedNet
from anomalyhub.data.sample import DEFECTS, draw
from anomalyhub.errors import BackboneError, InvalidArgumentError

ROOT = Path(__file__).resolve().parents[1]
STORED = Path(__file__).parent / "embedded_features.json"  # python tests/test_embedded.py writes it anew


@pytest.fixture(scope="module")
def backbone():
    return create_backbone("embedded", (1, 2, 3, 4, 5, 6), "cpu")


def fixed_image() -> np.ndarray:
    """A smooth colour wave with a dark bar, the same on every machine."""
    y, x = np.mgrid[:240, :200].astype(np.float64)
    channels = [128 + 90 * np.sin(x / (9 + 3 * c) + y / (17 - 4 * c) + c) for c in range(3)]
    image = np.stack(channels, -1).round().astype(np.uint8)
    image[100:110, 30:160] = 20
    return image


def summary(features) -> dict[str, list[float]]:
    """A few numbers of every layer and of the class token."""
    rows = {}
    for number, level in enumerate(features.maps, 1):
        flat = level.reshape(-1)
        picked = flat[:: max(1, flat.size // 7)][:7]
        rows[f"layer {number}"] = [flat.mean(), flat.std(), *picked]
    rows["class token"] = [features.cls.mean(), features.cls.std(), *features.cls[::28]]
    return {key: [float(value) for value in values] for key, values in rows.items()}


def test_features_of_a_fixed_image_are_the_stored_ones(backbone):
    stored = json.loads(STORED.read_text())
    assert stored["fingerprint"] == backbone.fingerprint
    found = summary(backbone.extract([fixed_image()])[0])
    assert found.keys() == stored["features"].keys() and len(found) == 7
    for name, values in stored["features"].items():
        scale = abs(values[1])  # deviation of the layer
        np.testing.assert_allclose(found[name], values, atol=2e-3 * scale, err_msg=name)


def test_the_file_is_small_float16_and_what_the_code_expects():
    with resources.as_file(resources.files("anomalyhub.backbones") / "embedded.safetensors") as file:
        assert file.stat().st_size <= 10_000_000
        state = load_file(file)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert state.keys() == EmbeddedNet().state_dict().keys()
    assert all(torch.isfinite(value).all() for value in state.values())


def test_it_loads_without_network_timm_or_torchvision():
    """In a fresh process; timm alone would take two seconds."""
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise OSError('no network here')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from anomalyhub import create_backbone\n"
        "print(create_backbone().fingerprint, *(name in sys.modules for name in ('timm', 'torchvision', 'gradio')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == [create_backbone().fingerprint, "False", "False", "False"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_refused(damage, monkeypatch, tmp_path):
    data = bytearray((resources.files("anomalyhub.backbones") / "embedded.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    if damage != "missing":
        (tmp_path / "embedded.safetensors").write_bytes(data if damage == "flipped" else data[:-100])
    monkeypatch.setattr(embedded.resources, "files", lambda package: tmp_path)
    with pytest.raises(BackboneError, match=r"embedded\.safetensors .*install anomalyhub again"):
        create_backbone("embedded")


def test_layers(backbone):
    assert backbone.layers == (1, 2, 3, 4, 5, 6) and backbone.strides == (8, 16, 16, 16, 16, 16)
    assert backbone.channels == (128, 256, 192, 192, 192, 192)
    image = fixed_image()
    every = backbone.extract([image], 96)[0]
    for layers in ((1, 2), (2, 5), (3,), (6, 4)):
        part = create_backbone("embedded", layers, "cpu").extract([image], 96)[0]
        for layer, level in zip(sorted(layers), part.maps, strict=True):
            np.testing.assert_allclose(level, every.maps[layer - 1], atol=1e-4)
        np.testing.assert_allclose(part.cls, every.cls, atol=1e-4)  # the whole network, whatever is tapped
    whole = backbone.module(backbone.preprocess([image], 96))
    np.testing.assert_allclose(whole[0, 0], every.cls, atol=1e-4)
    np.testing.assert_allclose(
        backbone.module.norm(torch.from_numpy(every.maps[5]).flatten(1).T), whole[0, 1:], atol=1e-4
    )
    for layers in ((0,), (7,), (1, 1), ()):
        with pytest.raises(InvalidArgumentError, match="embedded"):
            create_backbone("embedded", layers)


def test_maps_run_no_transformer_block(backbone):
    calls = []
    trunk = create_backbone("embedded")
    handle = trunk.module.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    batch = trunk.preprocess([fixed_image()])
    trunk.feature_maps(batch)
    assert calls == []
    trunk.extract([fixed_image()])
    assert calls == [1]
    handle.remove()


def test_a_drawn_defect_moves_the_features_where_it_is(backbone):
    """On a product that the network has not seen: defective patches lie farther off than good ones do."""
    good = [draw("label", seed=seed)[0] for seed in range(6)]
    normal = np.concatenate([level_of(backbone, image) for image in good[:5]])
    held_out = nearest(level_of(backbone, good[5]), normal)
    image, mask = draw("label", DEFECTS["label"][0], seed=9)
    inside = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((28, 28), Image.Resampling.BOX)) > 127
    assert inside.any()
    distances = nearest(level_of(backbone, image), normal).reshape(28, 28)
    assert np.median(distances[inside]) > 1.5 * np.median(held_out)


def level_of(backbone, image: np.ndarray) -> np.ndarray:
    return backbone.extract([image])[0].maps[0].reshape(128, -1).T


def nearest(rows: np.ndarray, bank: np.ndarray) -> np.ndarray:
    return torch.cdist(torch.from_numpy(rows), torch.from_numpy(bank)).min(1).values.numpy()


# -- the training script ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "eval"))
    import distill_backbone

    yield distill_backbone
    sys.path.remove(str(ROOT / "eval"))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Teachers with random weights and 24 small pictures."""
    folder = tmp_path_factory.mktemp("distill")
    torch.manual_seed(0)
    for name in ("resnet18", "vit_tiny_patch16_224"):
        save_file(timm.create_model(name, pretrained=False).state_dict(), folder / f"{name}.safetensors")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for index in range(24):
        cells = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
        Image.fromarray(cells).resize((80, 96), Image.Resampling.BICUBIC).save(folder / "pictures" / f"{index}.png")
    teachers = [str(folder / f"{name}.safetensors") for name in ("resnet18", "vit_tiny_patch16_224")]
    return [
        "--data",
        str(folder / "pictures"),
        "--teachers",
        *teachers,
        "--steps",
        "3",
        "--batch",
        "2",
        "--save-every",
        "2",
    ]


def test_training_resumes_to_the_same_result(script, arguments, tmp_path, own_accelerator):
    script.main([*arguments, "--out", str(tmp_path / "whole")])
    script.main([*arguments, "--out", str(tmp_path / "parts"), "--stop-after", "2"])
    assert not (tmp_path / "parts" / "embedded.safetensors").exists()
    script.main([*arguments, "--out", str(tmp_path / "parts")])
    whole, parts = (load_file(tmp_path / name / "embedded.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    net = EmbeddedNet()
    net.load_state_dict({key: value.float() for key, value in whole.items()})
    history = json.loads((tmp_path / "parts" / "history.json").read_text())
    assert [row["step"] for row in history["history"]] == [2, 3] and history["settings"]["seed"] == 0
    with Image.open(tmp_path / "parts" / "loss.png") as picture:
        assert picture.width > 500
    with pytest.raises(SystemExit, match="belongs to a run with other arguments"):
        script.main([*arguments, "--seed", "1", "--out", str(tmp_path / "parts")])


def test_folding_batch_norm_keeps_the_network(script):
    net = script.create_student(0)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    images = torch.randn(1, 3, 64, 96, generator=generator)
    with torch.no_grad():
        expected, found = net.eval()(images), script.folded(net)(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_views_follow_from_their_key(script):
    pool = torch.randint(0, 256, (5, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    chances = np.array([0.2, 0.2, 0.6, 0.0, 0.0])
    one, again, other = (script.draw_views(pool, chances, 8, (0, key)) for key in (3, 3, 4))
    for name in ("images", "defects", "masks"):
        assert torch.equal(getattr(one, name), getattr(again, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
        assert 0 <= getattr(one, name).min() and getattr(one, name).max() <= 1
    assert one.images.shape == (8, 3, 224, 224) and one.masks.shape == one.defects.shape == (8, 1, 224, 224)


def test_losses_are_relative_to_the_targets_variance(script):
    """1 for the targets' mean; while blocks are forced, 1 for blocks that add only the mean."""
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: 3 + 2 * torch.randn(*shape, generator=generator)  # noqa: E731
    target = ([random(8, c, side, side) for c, side in ((8, 56), (16, 28), (32, 14))], [random(64, 50, 24)])
    for _ in range(4):
        target[1].append(target[1][-1] + random(64, 50, 24))
    losses = script.Losses([target])
    defects = torch.zeros(8, 1, 224, 224)
    for forced in (False, True):
        exact = losses(target, target, defects, forced)
        assert {name: float(value) for name, value in exact.items()} == dict.fromkeys(script.TERMS, 0.0)
    maps = [torch.full_like(level, 3.0) for level in target[0]]
    means = [torch.full_like(level, 3.0 * number) for number, level in enumerate(target[1], 1)]
    found = losses((maps, means), target, defects, False)
    for name in ("stride4", "stride8", "stride16"):
        assert float(found[name]) == pytest.approx((1 + 1 / 9) / 2, rel=0.1)  # noise, and its 3x3 means
    for name in ("patches", "blocks", "class_token"):
        assert float(found[name]) == pytest.approx(1.0, rel=0.1)
    added = [means[0], *(level + 3.0 for level in target[1][:-1])]
    assert float(losses((maps, added), target, defects, True)["blocks"]) == pytest.approx(1.0, rel=0.1)


def test_forced_blocks_start_from_the_teachers_tokens(script):
    student = script.Student(script.create_student(0)).eval()
    images, masks = torch.rand(2, 3, 64, 96), torch.ones(2, 1, 64, 96)
    with torch.no_grad():
        _, own = student(images, masks, 3)
        _, same = student(images, masks, 3, own)
        _, other = student(images, masks, 3, [torch.zeros_like(level) for level in own])
    assert len(own) == 5
    for mine, forced, zero in zip(own, same, other, strict=True):
        torch.testing.assert_close(mine, forced)
        assert torch.equal(mine, zero) == (mine is own[0])


def test_calibration_centres_and_scales_the_class_token(script):
    net = script.create_student(0).eval()
    views = [(torch.rand(16, 3, 64, 64), torch.ones(16, 1, 64, 64)) for _ in range(3)]
    script.calibrate(net, views)
    tokens = torch.cat([net(script._normalise(images, script.IMAGENET))[:, 0] for images, _ in views]).detach()
    assert tokens.mean(0).abs().max() < 0.05
    assert tokens.std(0).max() < 1.05  # less only where a channel hardly moves
    images = torch.rand(4, 3, 64, 64)
    uncalibrated = script.create_student(0).eval()(script._normalise(images, script.IMAGENET))[:, 0]
    assert uncalibrated.mean(0).abs().max() > 0.5


if __name__ == "__main__":
    shipped = create_backbone("embedded", (1, 2, 3, 4, 5, 6), "cpu")
    features = summary(shipped.extract([fixed_image()])[0])
    rounded = {key: [round(value, 5) for value in values] for key, values in features.items()}
    STORED.write_text(json.dumps({"fingerprint": shipped.fingerprint, "features": rounded}, indent=1) + "\n")
