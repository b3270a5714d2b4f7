"""anomalyhub.backbones: the shipped network, timm models from local files, preprocessing, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from core_helpers import tiny_backbone
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from anomalyhub.backbones import DEFAULT_BACKBONE, create_backbone
from anomalyhub.errors import AnomalyHubError, BackboneError, InvalidArgumentError, UnknownNameError
from anomalyhub.protocols import Backbone


def random_weights(name, seed=0):
    """A state dict of timm's own initialisation, with batch statistics that differ from 0 and 1."""
    torch.manual_seed(seed)
    state = timm.create_model(name, pretrained=False, num_classes=5).state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            state[key] = 0.1 * torch.randn_like(value)
        if key.endswith("running_var"):
            state[key] = 0.5 + torch.rand_like(value)
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weight files by architecture: {"test_resnet": path, "test_vit": path}."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: folder / f"{name}.safetensors" for name in ("test_resnet", "test_vit")}
    for name, path in paths.items():
        save_file(random_weights(name), path)
    return paths


@pytest.fixture
def images(rng):
    return [
        rng.integers(0, 256, (height, width, 3)).astype(np.uint8) for height, width in ((36, 52), (70, 41), (48, 48))
    ]


def make(kind, files, layers=None):
    return create_backbone(kind if kind == "embedded" else f"{kind}@{files[kind]}", layers, "cpu")


KINDS = ["embedded", "test_resnet", "test_vit"]


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind, files, images):
    backbone = make(kind, files)
    assert isinstance(backbone, Backbone)
    assert len(backbone.layers) == len(backbone.channels) == len(backbone.strides) > 1
    assert not backbone.module.training and not any(p.requires_grad for p in backbone.module.parameters())
    features = backbone.extract(images, resize=96)
    assert len(features) == 3
    for one in features:
        for level, channels, stride in zip(one.maps, backbone.channels, backbone.strides, strict=True):
            assert level.shape == (channels, 96 // stride, 96 // stride) and level.dtype == np.float32
            assert np.isfinite(level).all() and level.std() > 0
            assert level.base is None or level.base.nbytes == level.nbytes  # keeps no batch alive
    assert [f.cls is not None for f in features] == [kind != "test_resnet"] * 3
    assert backbone.extract([]) == []
    with torch.enable_grad():
        maps = backbone.feature_maps(backbone.preprocess(images, 96))
    assert not any(level.requires_grad for level in maps)
    for level, index in zip(maps, range(len(maps)), strict=True):
        assert np.array_equal(level[1].numpy(), features[1].maps[index])


@pytest.mark.parametrize("kind", KINDS)
def test_same_images_same_features(kind, files, images):
    """Twice, in another instance, and alone or in a batch."""
    backbone, other = make(kind, files), make(kind, files)
    batch, again, elsewhere = (b.extract(images, resize=64) for b in (backbone, backbone, other))
    for i, image in enumerate(images):
        alone = backbone.extract([image], resize=64)[0]
        for j, level in enumerate(batch[i].maps):
            assert np.array_equal(level, again[i].maps[j])
            assert np.array_equal(level, elsewhere[i].maps[j])
            np.testing.assert_allclose(level, alone.maps[j], atol=1e-5)
    assert backbone.fingerprint == other.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_rows_stay_rows(kind, files):
    """A batch that is not square, and a bright spot at the top right."""
    backbone = make(kind, files)
    batch = torch.zeros(2, 3, 64, 128)
    plain = backbone.feature_maps(batch)
    batch[:, :, 4:12, 112:120] = 2.0
    for before, after, stride in zip(plain, backbone.feature_maps(batch), backbone.strides, strict=True):
        assert after.shape[2:] == (64 // stride, 128 // stride)
        change = (after - before).abs().sum(1)[0]
        row, column = divmod(int(change.argmax()), change.shape[1])
        assert row < change.shape[0] / 2 and column >= change.shape[1] / 2


def test_embedded_needs_nothing_and_sees_texture_and_colour():
    assert DEFAULT_BACKBONE == "embedded"
    backbone = create_backbone()
    assert (backbone.spec, backbone.layers, backbone.strides, backbone.size) == ("embedded", (1, 2), (8, 16), 224)
    flat = np.full((64, 96, 3), 128, np.uint8)
    stripes, red = flat.copy(), flat.copy()
    stripes[::8], red[..., 0] = 180, 160
    grey, striped, coloured = (f.maps[0] for f in backbone.extract([flat, stripes, red], 64))
    spread = grey[:, 3:-3, 3:-3].std()
    assert np.abs(striped - grey).max() > 0.2 * spread and np.abs(coloured - grey).max() > 0.2 * spread
    assert create_backbone("embedded", [2]).strides == (16,)


@pytest.mark.parametrize("size", [1, 7, 8, 17, 100])
def test_embedded_takes_any_size(size, images):
    for one in create_backbone().extract(images, size):
        assert [level.shape[1:] for level in one.maps] == [(-(-size // 8),) * 2, (-(-size // 16),) * 2]


def test_cnn_layers_are_those_of_timm(files, images):
    backbone = make("test_resnet", files)
    assert (backbone.layers, backbone.strides, backbone.channels) == ((2, 3), (8, 16), (48, 192))
    wanted = make("test_resnet", files, [4, 1])  # any order: taps are ascending
    assert (wanted.layers, wanted.strides, wanted.channels) == ((1, 4), (4, 32), (32, 96))
    model = timm.create_model("test_resnet", pretrained=False, features_only=True, out_indices=(1, 2, 3, 4))
    model.load_state_dict(load_file(files["test_resnet"]), strict=False)
    batch = backbone.preprocess(images, 96)
    with torch.inference_mode():
        expected = dict(zip((1, 2, 3, 4), model.eval()(batch), strict=True))
    for network in (backbone, wanted):
        for layer, level in zip(network.layers, network.feature_maps(batch), strict=True):
            torch.testing.assert_close(level, expected[layer], atol=1e-4, rtol=1e-4)


def test_vit_blocks_are_those_of_timm(files, images):
    backbone = make("test_vit", files)
    assert backbone.layers == (2, 3, 4, 6) and backbone.channels == (64,) * 4 and backbone.strides == (16,) * 4
    model = timm.create_model("test_vit", pretrained=False, num_classes=5)
    model.load_state_dict(load_file(files["test_vit"]))
    tokens = {}
    for number, block in enumerate(model.blocks, 1):
        block.register_forward_hook(lambda module, args, out, number=number: tokens.update({number: out}))
    batch = backbone.preprocess(images)
    assert batch.shape[2:] == (160, 160)
    with torch.inference_mode():
        final = model.eval().forward_features(batch)
    for layer, level in zip(backbone.layers, backbone.feature_maps(batch), strict=True):
        grid = tokens[layer][:, model.num_prefix_tokens :].reshape(3, 10, 10, 64).permute(0, 3, 1, 2)
        torch.testing.assert_close(level, grid, atol=1e-4, rtol=1e-4)
    cls = np.stack([one.cls for one in backbone.extract(images)])
    np.testing.assert_allclose(cls, final[:, 0].numpy(), atol=1e-4)


def test_taps_drop_what_lies_behind_them(files):
    few, many = make("test_vit", files, [1]), make("test_vit", files)
    assert len(few.module.blocks) == 1 < len(many.module.blocks)
    assert make("test_resnet", files, [1]).feature_maps(torch.zeros(1, 3, 64, 64))[0].shape == (1, 32, 16, 16)


def saved(path, state):
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def test_a_trunk_is_enough(files, tmp_path, images):
    state = load_file(files["test_resnet"])
    trunk = saved(
        tmp_path / "trunk.safetensors", {k: v for k, v in state.items() if k[:2] not in ("fc", "la") or k < "layer4"}
    )
    assert len(load_file(trunk)) < len(state)
    part, whole = create_backbone(f"test_resnet@{trunk}"), make("test_resnet", files)
    assert np.array_equal(part.extract(images)[0].maps[1], whole.extract(images)[0].maps[1])
    assert part.fingerprint != whole.fingerprint
    with pytest.raises(
        BackboneError, match=r"trunk.safetensors lacks \d+ tensors that the tapped layers of test_resnet"
    ):
        create_backbone(f"test_resnet@{trunk}", [2, 4])
    state = load_file(files["test_vit"])
    drop = ("head.", "norm.", "fc_norm.", *(f"blocks.{i}." for i in range(3, 6)))
    trunk = saved(tmp_path / "vit.safetensors", {k: v for k, v in state.items() if not k.startswith(drop)})
    part, whole = create_backbone(f"test_vit@{trunk}", [3]), make("test_vit", files, [3])
    assert np.array_equal(part.extract(images)[0].maps[0], whole.extract(images)[0].maps[0])
    with pytest.raises(BackboneError, match="lacks"):
        create_backbone(f"test_vit@{trunk}", [4])


def test_half_precision_weights_give_float32(files, tmp_path, images):
    half = saved(tmp_path / "half.safetensors", {k: v.half() for k, v in load_file(files["test_resnet"]).items()})
    one, other = (
        create_backbone(f"test_resnet@{half}").extract(images)[0],
        make("test_resnet", files).extract(images)[0],
    )
    assert one.maps[0].dtype == np.float32
    np.testing.assert_allclose(one.maps[0], other.maps[0], atol=0.05)


def test_the_fingerprint_is_that_of_the_content(files, tmp_path):
    state = load_file(files["test_resnet"])
    path = saved(tmp_path / "w.safetensors", state)
    first = create_backbone(f"test_resnet@{path}").fingerprint
    assert first == create_backbone(f"test_resnet@{path}", [1]).fingerprint  # whatever is tapped
    state["conv1.0.weight"] = state["conv1.0.weight"] + 1e-3
    assert create_backbone(f"test_resnet@{saved(path, state)}").fingerprint != first  # the very same path


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_vit.r160_in1k"])
def test_data_config_is_the_models_own(name, files):
    kind = name.partition(".")[0]
    backbone = create_backbone(f"{name}@{files[kind]}")
    expected = timm.get_pretrained_cfg(name)
    assert (backbone.data.mean, backbone.data.std) == (expected.mean, expected.std)
    assert backbone.data.interpolation == expected.interpolation and backbone.size == expected.input_size[-1] == 160
    assert backbone.spec == f"{name}@{files[kind]}"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preprocessing_equals_torchvision(files, images, interpolation):
    backbone = make("test_resnet" if interpolation == "bilinear" else "test_vit", files)
    assert backbone.data.interpolation == interpolation
    mode = InterpolationMode(interpolation)
    finish = [transforms.ToTensor(), transforms.Normalize(backbone.data.mean, backbone.data.std)]
    square = transforms.Compose([transforms.Resize((96, 96), mode), *finish])
    batch = backbone.preprocess(images, 96)
    assert batch.shape == (3, 3, 96, 96) and batch.dtype == torch.float32
    for image, got in zip(images, batch, strict=True):
        torch.testing.assert_close(got, square(Image.fromarray(image)), atol=1e-5, rtol=1e-5)
    crop = transforms.Compose([transforms.Resize(128, mode), transforms.CenterCrop(112), *finish])
    images = [images[0][:34, :51], images[1][:60, :40], images[2][:, :32]]  # 2:3 and 3:2: nothing to round
    for image, got in zip(images, backbone.preprocess(images, 128, 112), strict=True):
        torch.testing.assert_close(got, crop(Image.fromarray(image)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "resize", "crop", "size"),
    [
        ((300, 500), 256, 224, (224, 224)),  # the paper's protocol
        ((500, 300), 256, 224, (224, 224)),
        ((40, 1000), 64, 64, (64, 64)),  # crop as large as the shorter edge
        ((30, 30), 17, None, (17, 17)),
        ((30, 50), None, None, (32, 32)),  # the model's own size
    ],
)
def test_frame_sizes(shape, resize, crop, size):
    image = np.zeros((*shape, 3), np.uint8)
    assert tiny_backbone().preprocess([image], resize, crop).shape[2:] == size


def test_centre_crop_keeps_the_centre():
    """Shorter edge 256, centre 224: of the shorter edge 16 of 256 are cut at either end, of the longer more."""
    image = np.zeros((512, 1024, 3), np.uint8)
    image[256:, 512:, 0] = 200  # the lower right quarter
    image[:32], image[:, :288] = 90, 90  # what the crop cuts: 16/256 of 512, (512 - 224)/2/512 of 1024
    batch = tiny_backbone().preprocess([image], 256, 224)[0] * 0.25 + 0.5
    assert batch[0, 115:, 115:].min() > 0.75 and batch[0, :109].max() < 0.1 and batch[0, :, :109].max() < 0.1


def test_an_image_of_the_right_size_is_not_resampled(rng):
    image = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    batch = tiny_backbone().preprocess([image])[0] * (0.25 * 255) + 0.5 * 255
    np.testing.assert_allclose(batch.permute(1, 2, 0), image, atol=1e-3)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("", InvalidArgumentError, "has no name: give embedded, a timm name"),
        ("@{vit}", InvalidArgumentError, "has no name"),
        ("test_vit@", InvalidArgumentError, "names no file after the @"),
        ("embedded@{vit}", InvalidArgumentError, "embedded brings its own weights"),
        ("hf:name", InvalidArgumentError, "is not a Hub id: write hf:OWNER/NAME"),
        ("hf:owner/", InvalidArgumentError, "is not a Hub id"),
        ("hf:a/b/c", InvalidArgumentError, "is not a Hub id"),
        ("hf:two words/name", BackboneError, "is not a Hub id"),
        ("embeded", UnknownNameError, "unknown backbone 'embeded': did you mean 'embedded'"),
        ("resnet81", UnknownNameError, "unknown backbone 'resnet81'.*resnet18"),
        ("qqqqqqqq", UnknownNameError, "choose one of embedded, resnet18, wide_resnet50_2"),
        ("resnet18.nosuchtag", UnknownNameError, "resnet18.nosuchtag.*resnet18.tv_in1k"),
        ("test_vit@none.safetensors", BackboneError, "none.safetensors does not exist: check the path after the @"),
        ("test_vit@{folder}/w.pth", BackboneError, r"w.pth is not a .safetensors file.*pickled checkpoints"),
        ("test_vit@{folder}", BackboneError, "is not a .safetensors file"),
        ("test_vit@{folder}/garbage.safetensors", BackboneError, "is not a readable safetensors file"),
        ("test_vit@{folder}/cut.safetensors", BackboneError, "is not a readable safetensors file"),
        ("test_vit@{folder}/empty.safetensors", BackboneError, "lacks"),
        ("test_vit@{resnet}", BackboneError, r"lacks \d+ tensors that the tapped layers of test_vit need, first"),
        (
            "test_resnet@{folder}/wide.safetensors",
            BackboneError,
            "wide.safetensors does not fit test_resnet .*size mismatch",
        ),
    ],
)
def test_refused_specs(spec, error, message, files, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02")
    (tmp_path / "garbage.safetensors").write_bytes(b"not at all")
    (tmp_path / "cut.safetensors").write_bytes(files["test_vit"].read_bytes()[:-100])
    save_file({}, tmp_path / "empty.safetensors")
    save_file(
        {k: v.repeat(2, *[1] * (v.ndim - 1)) if v.ndim else v for k, v in load_file(files["test_resnet"]).items()},
        tmp_path / "wide.safetensors",
    )
    spec = spec.format(vit=files["test_vit"], resnet=files["test_resnet"], folder=tmp_path)
    with pytest.raises(error, match=message) as caught:
        create_backbone(spec)
    assert isinstance(caught.value, AnomalyHubError) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("embedded", [7]),
        ("embedded", [0, 1]),
        ("embedded", []),
        ("test_resnet", [5]),
        ("test_resnet", [2, 2]),
        ("test_vit", [0]),  # blocks count from 1
        ("test_vit", [7]),
    ],
)
def test_layers_that_do_not_exist(kind, layers, files):
    with pytest.raises(InvalidArgumentError, match=rf"do not exist in {kind}: choose different ones from \d to \d"):
        make(kind, files, layers)


@pytest.mark.parametrize(
    ("file", "spec", "layers"),
    [
        ("resnet18_imagenet_l3.safetensors", "resnet18.tv_in1k", (2, 3)),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors", "vit_tiny_patch16_224", (6, 12)),
    ],
)
def test_real_weights_give_timms_features(shared, file, spec, layers, rng):
    path = shared / "weights" / file
    if not path.is_file():
        pytest.skip(f"no {path}")
    image = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    backbone = create_backbone(f"{spec}@{path}", layers, "cpu")
    model = timm.create_model(spec, pretrained=False)
    absent = model.load_state_dict(load_file(path), strict=False).missing_keys
    assert not [key for key in absent if not key.startswith(("layer4.", "fc."))]
    config = timm.data.resolve_data_config({"crop_pct": 1.0, "crop_mode": "squash"}, model=model)
    batch = timm.data.create_transform(**config)(Image.fromarray(image))[None]
    with torch.inference_mode():
        expected = model.eval().forward_intermediates(batch, indices=[i - (spec[0] == "v") for i in layers])[1]
    for level, wanted in zip(backbone.extract([image])[0].maps, expected, strict=True):
        np.testing.assert_allclose(level, wanted[0].numpy(), atol=2e-4, rtol=1e-3)
