"""Training of APRIL-GAN's linear layers: losses, mosaics, resume, several processes, and what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_helpers import tiny_clip
from core_helpers import normals, photo, tiny_backbone
from safetensors.numpy import load_file

from anomalyhub.data.sample import DEFECTS, draw
from anomalyhub.detection import create_detector
from anomalyhub.detection.april_gan_layers import margins
from anomalyhub.detection.april_gan_training import AprilGanTrainer, mosaic, objective, resized_mask
from anomalyhub.errors import Cancelled, InvalidArgumentError, InvalidDatasetError, InvalidModelError, NotFittedError
from anomalyhub.metrics import image_metrics, pixel_metrics
from anomalyhub.nn.losses import dice, focal
from anomalyhub.registry import trainers
from anomalyhub.types import Sample

pytestmark = pytest.mark.usefixtures("own_accelerator")

SIDE = 64
QUICK = {"resize": SIDE, "batch_size": 4, "epochs": 3, "templates": ("a photo of a {}.", "the {}.")}


def drawn(product, count=5):
    """Good and defective pictures of the package's own sample."""
    samples = []
    for kind in ("good", *DEFECTS[product]):
        for seed in range(count if kind == "good" else 2):
            image, mask = draw(product, kind, seed, size=SIDE)
            samples.append(Sample(f"{kind}/{seed:03}.png", image, kind, mask))
    return samples


def trainer(seed=0, **settings):
    return AprilGanTrainer.create(tiny_clip(), seed=seed, settings={**QUICK, **settings})


@pytest.fixture(scope="module")
def products():
    return {"weave": drawn("weave"), "label": drawn("label")}


# losses


def test_focal_is_its_formula():
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(2, 3, 4), torch.rand(2, 3, 4) < 0.3
    total = 0.0
    for z, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        of_target = p if target else 1 - p
        total += (1 - of_target) ** 2 * -math.log(of_target)
    assert focal(logits, targets).item() == pytest.approx(total / 24, rel=1e-5)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.float())
    assert focal(logits, targets, gamma=0.0).item() == pytest.approx(plain.item(), rel=1e-5)


def test_dice_is_its_formula():
    torch.manual_seed(1)
    probs, targets = torch.rand(3, 4, 5), torch.rand(3, 4, 5) < 0.4
    targets[2] = False
    values = []
    for image in range(3):
        p, t = probs[image].flatten().tolist(), targets[image].flatten().tolist()
        overlap = sum(a * b for a, b in zip(p, t, strict=True))
        values.append(1 - (2 * overlap + 1) / (sum(p) + sum(t) + 1))
    assert dice(probs, targets).item() == pytest.approx(sum(values) / 3, rel=1e-5)
    assert dice(targets.float(), targets).item() == pytest.approx(0.0, abs=1e-6)


def test_losses_bear_extremes():
    """Certain and wrong, an empty batch: finite values and gradients."""
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = focal(logits, torch.tensor([[False, True]]))
    loss.backward()
    assert loss.item() == pytest.approx(200.0) and torch.isfinite(logits.grad).all() and (logits.grad != 0).all()
    empty = torch.zeros(0, 2, 3, requires_grad=True)
    (focal(empty, empty > 0) + dice(empty, empty > 0)).backward()
    assert empty.grad.shape == (0, 2, 3)


def test_the_objective_sums_both_losses_over_layers_at_the_masks_size():
    torch.manual_seed(2)
    margins, masks = [torch.randn(2, 3, 4) for _ in range(3)], torch.rand(2, 9, 10) < 0.3
    loss, terms = objective(margins, masks)
    up = [
        torch.nn.functional.interpolate(level[:, None], (9, 10), mode="bilinear", align_corners=True)[:, 0]
        for level in margins
    ]
    assert terms["focal"].item() == pytest.approx(sum(focal(level, masks).item() for level in up), rel=1e-5)
    assert terms["dice"].item() == pytest.approx(sum(dice(level.sigmoid(), masks).item() for level in up), rel=1e-5)
    assert loss.item() == pytest.approx(terms["focal"].item() + terms["dice"].item(), rel=1e-5)


def test_margins_keep_their_precision_under_autocast():
    """100 times a cosine: bfloat16 would be off by a tenth and more."""
    torch.manual_seed(3)
    vectors = torch.randn(2, 5, 20)
    text = torch.nn.functional.normalize(torch.randn(2, 20, 2), dim=1)  # of each image
    with torch.autocast("cpu", torch.bfloat16):
        found = margins(vectors, text)
    expected = torch.stack(
        [100 * torch.nn.functional.normalize(v, dim=1) @ t for v, t in zip(vectors, text, strict=True)]
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected[..., 1] - expected[..., 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(margins(vectors[0], text[0]), found[0], atol=1e-4, rtol=0)


# mosaics


def test_a_mosaic_is_four_images_row_by_row():
    shapes, levels = [(8, 12), (30, 20), (15, 15), (7, 9)], [10, 80, 160, 240]
    images = [np.full((*shape, 3), level, np.uint8) for shape, level in zip(shapes, levels, strict=True)]
    masks = [np.zeros(shape, bool) for shape in shapes]
    masks[1][:, 10:] = True  # the right half of the second
    masks[2][:] = True
    image, mask = mosaic(images, masks, 17)  # odd: tiles of 8 and 9 pixels
    assert image.shape == (17, 17, 3) and image.dtype == np.uint8 and mask.shape == (17, 17)
    for tile, level in zip((image[:8, :8], image[:8, 8:], image[8:, :8], image[8:, 8:]), levels, strict=True):
        assert (tile == level).all()
    expected = np.zeros((17, 17), bool)
    expected[:8, 13:] = expected[8:, :8] = True  # from the middle of the 9 columns at 8
    expected[:8, 12] = mask[0, 12]  # the column in the middle may be either
    assert np.array_equal(mask, expected)


def test_masks_keep_their_place():
    mask = np.zeros((30, 60), bool)
    mask[20:, :30] = True  # the lower third of the left half
    small = resized_mask(mask, 12, 9)
    expected = np.zeros((9, 12), bool)
    expected[6:, :6] = True
    assert small.dtype == bool and np.array_equal(small, expected)


def test_every_image_is_drawn_once_per_epoch_and_mosaics_take_three_more(products):
    class Watched(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    counts = {}
    for share in (0.0, 1.0):
        read = []
        trainer(epochs=2, mosaic=share).fit({"weave": Watched(products["weave"])})
        counts[share] = np.bincount(read, minlength=len(products["weave"]))
    assert (counts[0.0] == 2).all()
    assert counts[1.0].sum() == 4 * counts[0.0].sum() and (counts[1.0] >= 2).all()


# training


@pytest.fixture(scope="module")
def trained(products, tmp_path_factory):
    """A trainer after six epochs, its backbone's weights before, and the folder it saved."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    one = trainer(epochs=6)
    before = {name: value.clone() for name, value in one.backbone.module.state_dict().items()}
    seen = []
    assert one.fit(products, progress=lambda share, text: seen.append((share, text))) is one
    folder = tmp_path_factory.mktemp("trained") / "weights"
    one.save(folder)
    return one, before, folder, seen


def test_the_loss_falls(trained):
    one, _, _, seen = trained
    assert [entry["epoch"] for entry in one.history_] == [1, 2, 3, 4, 5, 6]
    first, last = one.history_[0], one.history_[-1]
    assert last["loss"] < 0.8 * first["loss"] and last["dice"] < first["dice"] and last["focal"] < first["focal"]
    assert all(entry["loss"] == pytest.approx(entry["focal"] + entry["dice"], rel=1e-5) for entry in one.history_)
    assert all(entry["lr"] == 1e-3 for entry in one.history_)
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[0] >= 0.0 and shares[-1] == 1.0


def test_only_the_linear_layers_train(trained):
    one, before, _, _ = trained
    after = one.backbone.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert set(one.tensors_) == {f"fc.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}


def test_it_is_evaluated_on_another_product(trained, products):
    one, _, folder, _ = trained
    settings = {"weights": str(folder), "resize": SIDE, "templates": QUICK["templates"], "product": "ring"}
    detector, samples = create_detector("april-gan", tiny_clip(), settings=settings).fit([]), drawn("ring")
    results = detector.predict(samples)
    labels, scores = [s.label != "good" for s in samples], [r.image_score for r in results]
    figures = image_metrics(np.array(labels), np.array(scores))
    figures |= pixel_metrics([s.mask for s in samples], [r.scores for r in results])
    assert len(figures) == 6 and all(0 <= figure <= 1 for figure in figures.values())
    assert detector.provenance_.products == ("label", "weave")
    assert all(detector.provenance_.knows(sample.image) for sample in products["label"])
    assert not any(detector.provenance_.knows(sample.image) for sample in samples)


def test_it_learns_where_defects_are(tmp_path):
    """Unseen images; the words stay, as those of random weights have nothing in common from product to product."""
    quick = {"resize": 48, "epochs": 12, "lr": 0.01}
    trainer(**quick).fit({"nut": [photo(i, defect=i % 2 == 1) for i in range(16)]}).save(tmp_path)
    settings = {"weights": str(tmp_path), "resize": 48, "templates": QUICK["templates"], "product": "nut"}
    samples = [photo(100 + i, (50, 38), defect=True) for i in range(6)]
    results = create_detector("april-gan", tiny_clip(), settings=settings).fit([]).predict(samples)
    assert pixel_metrics([s.mask for s in samples], [r.scores for r in results])["pixel_auroc"] > 0.9


def test_the_saved_folder_says_what_it_is(trained):
    one, _, folder, _ = trained
    config = json.loads((folder / "config.json").read_text())
    assert config["kind"] == "pretrained" and config["trainer"] == "april-gan" and config["left_out"] == []
    assert config["trained_on"] == ["label", "weave"] and config["config"]["lr"] == 1e-3
    assert config["backbone"]["fingerprint"] == tiny_clip().fingerprint
    assert [entry["loss"] for entry in config["history"]] == [entry["loss"] for entry in one.history_]


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def test_the_seed_fixes_the_result(products):
    results = [trainer(seed=seed, epochs=1, mosaic=0.5).fit(products).tensors_ for seed in (0, 0, 1)]
    assert same(results[0], results[1]) and not same(results[0], results[2])


def test_a_cancelled_training_resumes_to_the_same_weights(products, tmp_path):
    whole = trainer(mosaic=0.5).fit(products)

    def stop(share, text):
        if text.startswith("epoch 3 of 3"):
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        trainer(mosaic=0.5).fit(products, progress=stop, checkpoints=tmp_path)
    resumed = trainer(mosaic=0.5).fit(products, checkpoints=tmp_path)
    assert same(resumed.tensors_, whole.tensors_) and resumed.history_ == whole.history_
    changed = [Sample(s.id, s.image, s.label, ~s.mask) for s in products["weave"]]
    for other in (
        lambda: trainer(mosaic=0.4).fit(products, checkpoints=tmp_path),
        lambda: trainer(seed=1, mosaic=0.5).fit(products, checkpoints=tmp_path),
        lambda: trainer(mosaic=0.5).fit({"weave": products["weave"]}, checkpoints=tmp_path),
        lambda: trainer(mosaic=0.5).fit({**products, "weave": changed}, checkpoints=tmp_path),
    ):
        with pytest.raises(InvalidModelError, match="belongs to a run with other settings, images or processes"):
            other()


# images that cannot be learned from


def test_defects_without_a_mask_are_left_out():
    defect = photo(3, defect=True)
    samples = [
        *normals(3),
        Sample("good/bare.png", photo(9).image, "good"),  # a good image needs no mask
        Sample("crack/bare.png", photo(4, defect=True).image, "crack"),
        Sample("unknown.png", photo(5).image),
        Sample("masked.png", defect.image, None, defect.mask),  # a mask says enough
    ]
    seen = []
    one = trainer(epochs=1).fit({"metal_nut": samples}, progress=lambda share, text: seen.append(text))
    assert one.left_out_ == ["metal_nut/crack/bare.png", "metal_nut/unknown.png"]
    assert any("2 without a mask left out" in text for text in seen)
    assert len(one.provenance_.digests) == 5 and one.provenance_.knows(defect.image)
    assert not one.provenance_.knows(samples[4].image)


def test_the_prompts_name_the_product(monkeypatch):
    from anomalyhub.detection import april_gan_training

    named, original = [], april_gan_training.text_features

    def text_features(backbone, product, *states):
        named.append(product)
        return original(backbone, product, *states)

    monkeypatch.setattr(april_gan_training, "text_features", text_features)
    both = [photo(0), photo(1, defect=True)]
    results = [trainer(epochs=1).fit({name: both}).tensors_ for name in ("metal_nut", "screw")]
    assert named == ["metal nut", "screw"] and not same(*results)


@pytest.mark.parametrize(
    ("products", "error", "message"),
    [
        ({}, InvalidDatasetError, "has a defect with a mask: train on products with ground-truth masks"),
        ({"nut": []}, InvalidDatasetError, "none of the 0 images of nut has a defect"),
        ({"nut": normals(3)}, InvalidDatasetError, "none of the 3 images of nut has a defect with a mask"),
        ({"nut": [Sample("a", photo(1).image, "crack")]}, InvalidDatasetError, "none of the 1 images"),
        ({" ": [photo(1, defect=True)]}, InvalidArgumentError, "setting product is ' '"),
        ({"nut " * 300: [photo(1, defect=True)]}, InvalidArgumentError, "tokens and clip.* reads 120: shorten it"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(products, error, message):
    one = trainer()
    with pytest.raises(error, match=message):
        one.fit(products)
    assert not [name for name in vars(one) if name.endswith("_")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": "0"}, "setting epochs must be between 1"),
        ({"batch_size": "0"}, "setting batch_size must be between 1"),
        ({"mosaic": "1.5"}, "setting mosaic must be between 0.0 and 1.0"),
        ({"resize": "1"}, "setting resize must be between 2"),
        ({"lr": "0"}, "setting lr must be above 0"),
        ({"templates": "a photo"}, "has no {}"),
        ({"layers": "1,9"}, r"setting layers is \[1, 9\] and this backbone taps \[1, 2, 3, 4\]"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(InvalidArgumentError, match=message):
        trainer(**settings).fit({"nut": [photo(1, defect=True)]})


def test_it_is_registered_and_refuses_what_is_no_clip(tmp_path):
    assert trainers["april-gan"] is AprilGanTrainer and AprilGanTrainer.split == "test"
    one = AprilGanTrainer(tiny_backbone())
    with pytest.raises(InvalidArgumentError, match="APRIL-GAN compares images with texts and tiny reads no texts"):
        one.fit({"nut": [photo(1, defect=True)]})
    with pytest.raises(NotFittedError, match=r"not trained: call fit\(\) first"):
        one.save(tmp_path)


# several processes

SCRIPT = """
import json, os, sys
from pathlib import Path
from clip_helpers import tiny_clip
from core_helpers import normals, photo
from anomalyhub.detection.april_gan_layers import margins
from anomalyhub.detection.april_gan_training import AprilGanTrainer
from anomalyhub.errors import InvalidArgumentError

folder = Path(sys.argv[1])
read = []

class Watched(list):
    def __getitem__(self, index):
        read.append(index)
        return super().__getitem__(index)

samples = Watched([*normals(5), *(photo(20 + i, defect=True) for i in range(6))])

def trainer(**settings):
    quick = {"resize": 32, "epochs": 2, "batch_size": 4, "mosaic": 0.0, "templates": ("a {}.",), **settings}
    return AprilGanTrainer.create(tiny_clip(), seed=0, settings=quick)

fitted = trainer().fit({"nut": samples}, checkpoints=folder / "checkpoints")
own = folder / os.environ["RANK"]
fitted.save(own)
try:
    trainer(batch_size=1).fit({"nut": samples})
    error = ""
except InvalidArgumentError as refused:
    error = str(refused)
(own / "report.json").write_text(json.dumps({"read": read, "history": fitted.history_, "error": error}))
"""


@pytest.mark.slow
def test_two_processes_share_the_images_and_end_with_the_same_weights(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    here = Path(__file__).resolve().parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    done = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    weights = [load_file(tmp_path / rank / "state.safetensors") for rank in "01"]
    reports = [json.loads((tmp_path / rank / "report.json").read_text()) for rank in "01"]
    assert same(*weights) and reports[0]["history"] == reports[1]["history"]
    shares = [report["read"] for report in reports]
    assert sorted(shares[0] + shares[1]) == sorted([*range(11), *range(11)])  # each image once per epoch, of two
    assert set(shares[0]) and set(shares[1]) and shares[0] != shares[1]
    assert all("do not keep 2 processes busy: raise batch_size" in report["error"] for report in reports)
