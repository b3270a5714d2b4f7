"""anomalyhub.backbones.clip: the numbers of transformers' own forward, any size, and every file that can be bad."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from clip_helpers import CONTEXT, DIM, PATCH, WIDTH, tiny_clip, tiny_clip_folder, tiny_tokenizer
from hub_server import hub_server
from safetensors.torch import load_file, save_file
from test_hub_weights import create

from anomalyhub.backbones import create_backbone
from anomalyhub.backbones.clip import ClipBackbone, require_clip
from anomalyhub.backbones.spec import parse_spec
from anomalyhub.errors import AnomalyHubError, BackboneError, InvalidArgumentError
from anomalyhub.protocols import Backbone

TEXTS = ["an object with flaw", "obscene", "a", "ö 12 – it's"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip_folder(tmp_path_factory.mktemp("clip"), layers=6)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def images(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in ((36, 52), (300, 41), (9, 200))]


def test_it_is_a_backbone(folder):
    backbone = create_backbone(f"clip@{folder}", device="cpu")
    assert isinstance(backbone, ClipBackbone) and isinstance(backbone, Backbone)
    assert backbone.layers == (2, 3, 4, 6) and backbone.channels == (WIDTH,) * 4 and backbone.strides == (PATCH,) * 4
    assert (backbone.size, backbone.depth, backbone.embed_dim, backbone.patch_size) == (32, 6, DIM, PATCH)
    assert backbone.spec == f"clip@{folder.resolve()}" and not backbone.module.training
    assert not any(value.requires_grad or value.is_meta for value in backbone.module.parameters())
    features = backbone.extract(images())
    assert [level.shape for level in features[1].maps] == [(WIDTH, 4, 4)] * 4 and features[1].cls.shape == (DIM,)
    maps, embeddings = backbone.encode(backbone.preprocess(images()))
    for level, own, plain in zip(
        maps, features[1].maps, backbone.feature_maps(backbone.preprocess(images())), strict=True
    ):
        assert np.array_equal(level[1], own) and torch.equal(level, plain)
    assert np.array_equal(embeddings[1], features[1].cls)
    alone = backbone.extract(images()[1:2])[0]
    np.testing.assert_allclose(alone.maps[3], features[1].maps[3], atol=1e-5)
    assert backbone.extract([]) == []


@pytest.mark.parametrize("height, width", [(32, 32), (24, 40), (16, 16), (8, 61)])
def test_images_as_transformers_reads_them(folder, height, width):
    """Own size, other grids (interpolated positions), and an edge that does not fill a patch."""
    backbone = create_backbone(f"clip@{folder}", [1, 5, 6], device="cpu")
    batch = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model = backbone.module
        own = model.vision_model(batch, output_hidden_states=True, interpolate_pos_encoding=(height, width) != (32, 32))
        maps, embeddings = backbone.encode(batch)
        for layer, level in zip(backbone.layers, maps, strict=True):
            grid = own.hidden_states[layer][:, 1:].reshape(2, height // PATCH, width // PATCH, WIDTH)
            torch.testing.assert_close(level, grid.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(embeddings, model.visual_projection(own.pooler_output), atol=1e-5, rtol=1e-5)


def test_texts_as_transformers_reads_them(folder):
    backbone = create_backbone(f"clip@{folder}", device="cpu")
    tokens = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        pooled = backbone.module.text_model(**tokens).pooler_output
        expected = backbone.module.text_projection(pooled)
    found = backbone.encode_text(TEXTS)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.std(0).min() > 0.01  # they do differ
    many = backbone.encode_text([TEXTS[i % 4] for i in range(131)])  # several batches, padded to other lengths
    torch.testing.assert_close(many, expected[torch.arange(131) % 4], atol=1e-5, rtol=1e-5)
    assert backbone.encode_text([]).shape == (0, DIM)


@pytest.mark.parametrize("text", ["", "  \n ", "x " * 300, "x " * (CONTEXT - 1)])
def test_texts_that_are_refused(folder, text):
    backbone = create_backbone(f"clip@{folder}", device="cpu")
    reason = (
        f"has {len(text.split()) + 2} tokens and clip@.* reads {CONTEXT}: shorten it" if text.strip() else "write a"
    )
    with pytest.raises(InvalidArgumentError, match=f"the text '.*{reason}"):
        backbone.encode_text(["fine", text])
    assert backbone.encode_text(["x " * (CONTEXT - 2)]).shape == (1, DIM)  # the longest


def test_layers_that_do_not_exist(folder):
    for layers in ([0], [7], [2, 2], []):
        with pytest.raises(InvalidArgumentError, match="do not exist in .*: choose different ones from 1 to 6"):
            create_backbone(f"clip@{folder}", layers)
    assert len(create_backbone(f"clip@{folder}", [3]).feature_maps(torch.zeros(1, 3, 16, 24))) == 1


def test_what_lies_behind_the_last_tap_does_not_run(folder):
    backbone, ran = create_backbone(f"clip@{folder}", [1, 2], device="cpu"), []
    for number, block in enumerate(backbone.module.vision_model.encoder.layers, 1):
        block.mlp.register_forward_hook(lambda module, args, out, number=number: ran.append(number))
    backbone.feature_maps(torch.zeros(1, 3, 16, 24))
    assert ran == [1, 2]
    backbone.encode(torch.zeros(1, 3, 16, 24))
    assert ran[2:] == [1, 2, 3, 4, 5, 6]


def test_an_image_smaller_than_a_patch():
    with pytest.raises(
        InvalidArgumentError, match="images of 7 x 7 pixels are smaller than a patch of clip@.*: resize to 8"
    ):
        tiny_clip().extract(images(), resize=7)
    assert tiny_clip().extract(images(), resize=8)[0].maps[0].shape == (WIDTH, 1, 1)


def test_maps_feed_layers_that_are_trained():
    """A linear layer on `encode` gets gradients; those of feature_maps are inference tensors."""
    maps, _ = tiny_clip().encode(torch.zeros(1, 3, 16, 24))
    layer = torch.nn.Linear(WIDTH, 2)
    layer(maps[0].permute(0, 2, 3, 1)).sum().backward()
    assert layer.weight.grad is not None and not maps[0].requires_grad


def test_preprocessing_is_the_models_own(copied):
    """A square, bicubic, with CLIP's statistics or those of preprocessor_config.json."""
    plain = create_backbone(f"clip@{copied}", device="cpu")
    white = np.full((20, 30, 3), 255, np.uint8)
    expected = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    torch.testing.assert_close(plain.preprocess([white])[0, :, 31, 0], expected, atol=1e-6, rtol=1e-6)
    assert plain.data.interpolation == "bicubic" and plain.preprocess([white]).shape == (1, 3, 32, 32)
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 0.5, 0.25], "size": 999}
    (copied / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")
    other = create_backbone(f"clip@{copied}", device="cpu")
    assert (other.data.mean, other.data.std, other.size) == ((0.1, 0.2, 0.3), (1.0, 0.5, 0.25), 32)


def test_half_precision_weights_give_float32(copied):
    file, plain = copied / "model.safetensors", create_backbone(f"clip@{copied}", device="cpu")
    save_file({key: value.half() for key, value in load_file(file).items()}, file)
    half = create_backbone(f"clip@{copied}", device="cpu")
    assert half.encode_text(TEXTS).dtype == half.feature_maps(torch.zeros(1, 3, 16, 16))[0].dtype == torch.float32
    torch.testing.assert_close(half.encode_text(TEXTS), plain.encode_text(TEXTS), atol=0.02, rtol=0.02)
    assert half.fingerprint != plain.fingerprint


def test_a_file_that_changes_later_changes_nothing(copied):
    backbone = create_backbone(f"clip@{copied}", device="cpu")
    before = backbone.encode_text(TEXTS)
    (copied / "model.safetensors").write_bytes(b"\0" * (copied / "model.safetensors").stat().st_size)
    assert torch.equal(backbone.encode_text(TEXTS), before)


def edit_config(path, **changes):
    values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        part, _, name = key.partition("__")
        target = values[part] if name else values
        target[name or part] = value
    (path / "config.json").write_text(json.dumps(values), encoding="utf-8")


def without(path, *prefixes):
    file = path / "model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if not key.startswith(prefixes)}, file)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def only_a_pickle(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


DAMAGE = [
    # what is done to the folder, what is said
    (
        lambda path: (path / "tokenizer.json").unlink(),
        "has no tokenizer.json: make a folder once with transf",
    ),
    (lambda path: (path / "config.json").unlink(), r"has no config.json: make a folder once .*CLIPTokenizerFast"),
    (only_a_pickle, r"has no model.safetensors: make a folder once .* and give clip@FOLDER"),
    (lambda path: truncate(path / "model.safetensors"), "model.safetensors is not a readable safetensors file"),
    (lambda path: truncate(path / "tokenizer.json"), "tokenizer.json is not a readable tokenizer .*: copy it again"),
    (lambda path: truncate(path / "config.json"), "config.json is not readable JSON"),
    (lambda path: (path / "preprocessor_config.json").write_text("{"), "preprocessor_config.json is not readable JSON"),
    (lambda path: edit_config(path, model_type="siglip"), r"is not of a CLIP \(its model_type is 'siglip'\)"),
    (lambda path: edit_config(path, vision_config="none"), "config.json describes no CLIP"),
    (
        lambda path: edit_config(path, vision_config__hidden_size=25),
        "describes no CLIP|does not fit its config",
    ),
    (lambda path: edit_config(path, vision_config__patch_size=0), "config.json describes no CLIP .sizes must be whole"),
    (
        lambda path: edit_config(path, vision_config__num_hidden_layers=7),
        "lacks 16 tensors of its config.json, first 'v",
    ),
    (lambda path: edit_config(path, vision_config__image_size=64), "does not fit its config.json .*position_embedding"),
    (lambda path: edit_config(path, projection_dim=10**7), "does not fit its config.json .*projection"),
    (lambda path: without(path, "text_model"), "lacks .* tensors of its config.json, first 'text_model"),
    (lambda path: without(path, "vision_model.post_layernorm"), "lacks 2 tensors .*post_layernorm"),
    (
        lambda path: (path / "preprocessor_config.json").write_text('{"image_std": [0, 1, 1]}'),
        "config.json is damaged",
    ),
    (
        lambda path: (path / "preprocessor_config.json").write_text('{"image_mean": 3}'),
        "config.json is damaged",
    ),
    (lambda path: shutil.rmtree(path), r"is not a folder: give clip@FOLDER, a folder with"),
]


@pytest.mark.parametrize("damage, message", DAMAGE)
def test_a_damaged_folder(copied, damage, message):
    damage(copied)
    with pytest.raises(BackboneError, match=message) as caught:
        create_backbone(f"clip@{copied}")
    assert str(copied) in str(caught.value) and "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model(copied):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(copied)
    backbone = create_backbone(f"clip@{copied}", device="cpu")
    with pytest.raises(BackboneError, match="tokenizer.json of clip@.* belongs to another model"):
        backbone.encode_text(["a zebra"])


def test_spec():
    assert parse_spec("clip").folder is None and parse_spec("clip").repo_id is None
    with pytest.raises(InvalidArgumentError, match="names no file after the @"):
        parse_spec("clip@")
    with pytest.raises(AnomalyHubError, match="is not a folder"):
        parse_spec(f"clip@{__file__}")


def test_a_backbone_that_reads_no_texts():
    with pytest.raises(InvalidArgumentError, match="Mine compares .* embedded reads no texts: give --backbone clip"):
        require_clip(create_backbone("embedded"), "Mine")
    assert isinstance(require_clip(tiny_clip(), "Mine"), ClipBackbone)


def test_from_a_hub(folder, tmp_path):
    """Downloaded once, then from the cache; a repository without safetensors gets the way out."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    statistics = json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}).encode()
    served = {f"me/clip/{name}": content for name, content in files.items()}
    served |= {f"me/own/{name}": content for name, content in files.items()}
    served["me/own/preprocessor_config.json"] = statistics
    served |= {f"me/pickled/{name}": content for name, content in files.items() if name != "model.safetensors"}
    served["me/pickled/pytorch_model.bin"] = b"a pickle"
    local = f"hf:me/pickled@{folder / 'model.safetensors'}"
    specs = ["hf:me/clip", "hf:me/own", local]
    refused = {
        "hf:me/pickled": "me/pickled has no model.safetensors on its main branch: make a folder once with transformers"
        r", CLIPModel.from_pretrained\('me/pickled'\).save_pretrained\(FOLDER\) and .*, and give clip@FOLDER",
        "hf:me/nothing": "has no config.json that this login may read",
    }
    with hub_server(served) as hub:
        online = create([*specs, *refused], hub.url, tmp_path)
    fingerprint = create_backbone(f"clip@{folder}", device="cpu").fingerprint
    assert [online[spec][::2] for spec in specs] == [[32, fingerprint]] * 3
    assert online["hf:me/own"][1] == [0.1, 0.2, 0.3] and online["hf:me/clip"][1][0] == 0.48145466
    for spec, message in refused.items():
        assert re.search(message, online[spec][0]) and "\n" not in online[spec][0], online[spec]
    assert not [request for request in hub.requests if ".bin" in request]
    later = create([*specs, "clip"], hub.url, tmp_path)  # the server is gone
    assert [later[spec] for spec in specs] == [online[spec] for spec in specs]
    assert "the weights of 'clip' (openai/clip-vit-large-patch14-336) are not in the local cache" in later["clip"][0]
    assert (
        "cannot be reached: download it once on a connected machine, or pass a folder as clip@FOLDER"
        in later["clip"][0]
    )
