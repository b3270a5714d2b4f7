"""Views of support images, against their formulas; PatchCore's bank of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from core_helpers import normals, photo, tiny_backbone

from anomalyhub.detection import create_detector
from anomalyhub.detection.support import (
    VIEWS,
    augmented,
    brightened,
    contrasted,
    grey,
    one_augmented,
    rotated,
    translated,
    view_batches,
)
from anomalyhub.types import Sample


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)


def test_every_view_has_the_shape_and_the_first_is_the_image_itself(image):
    image.setflags(write=False)
    views = augmented(image)
    assert len(views) == len(VIEWS) == 16 and np.array_equal(views[0], image)
    assert all(view.shape == image.shape and view.dtype == np.uint8 for view in views)
    assert len({view.tobytes() for view in views}) == 16


def test_all_the_published_transformations_are_there(image):
    views = {view.tobytes() for view in augmented(image)}
    expected = [grey(image), image[:, ::-1], image[::-1], translated(image, 0.1, 0), translated(image, 0, -0.1)]
    expected += [rotated(image, 22.5), rotated(image, -11.25), brightened(image, 1.2), contrasted(image, 0.8)]
    assert all(np.ascontiguousarray(view).tobytes() in views for view in expected)


def test_grey_is_rec_601_luma(image):
    luma = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
    result = grey(image)
    np.testing.assert_allclose(result[..., 0], luma, atol=0.51)
    assert np.array_equal(result[..., 0], result[..., 1]) and np.array_equal(result[..., 0], result[..., 2])


def test_translations_move_by_shares_and_mirror_the_border(image):
    right, down = translated(image, 0.1, 0.0), translated(image, 0.0, 0.1)  # 3 and 2 pixels
    assert np.array_equal(right[:, 3:], image[:, :-3]) and np.array_equal(right[:, :3], image[:, 3:0:-1])
    assert np.array_equal(down[2:], image[:-2]) and np.array_equal(down[:2], image[2:0:-1])
    assert np.array_equal(translated(image, -0.1, 0.0)[:, :-3], image[:, 3:])


def test_rotations_turn_counter_clockwise_about_the_centre(image):
    square = image[:, :20]
    assert np.array_equal(rotated(square, 90), np.rot90(square))
    assert np.array_equal(rotated(image, 180), image[::-1, ::-1])


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_brightness_and_contrast_follow_their_formulas(image, factor):
    values = image.astype(np.float64)
    np.testing.assert_allclose(brightened(image, factor), (values * factor).clip(0, 255), atol=0.51)
    expected = ((values - values.mean()) * factor + values.mean()).clip(0, 255)
    np.testing.assert_allclose(contrasted(image, factor), expected, atol=0.51)


def test_one_view_is_drawn_but_never_the_image_itself(image):
    views = [view.tobytes() for view in augmented(image)]
    drawn = [views.index(one_augmented(image, np.random.default_rng(seed)).tobytes()) for seed in range(200)]
    assert set(drawn) == set(range(1, 16))
    again = one_augmented(image, np.random.default_rng(3))
    assert np.array_equal(again, one_augmented(image, np.random.default_rng(3)))


@pytest.mark.parametrize("augment", [False, True])
def test_batches_of_views_are_full_in_order_and_read_as_they_are_asked_for(augment):
    samples, read = normals(3), []
    stream = view_batches((read.append(i) or sample for i, sample in enumerate(samples)), 5, augment)
    if augment:
        next(stream)
        assert read == [0]
        stream = view_batches(samples, 5, augment)
    images, numbers = [], []
    for batch, of in stream:
        assert 1 <= len(batch) == len(of) <= 5
        images, numbers = images + batch, numbers + of
    per_image = 16 if augment else 1
    assert numbers == [i for i in range(3) for _ in range(per_image)]
    expected = [view for sample in samples for view in augmented(sample.image)[:per_image]]
    assert all(np.array_equal(one, other) for one, other in zip(images, expected, strict=True))
    assert list(view_batches([], 5, augment)) == []


def patchcore(**settings):
    return create_detector("patchcore", tiny_backbone(), settings={"coreset": 0.2, **settings})


def as_samples(samples):
    """Every view as an image of its own."""
    return [Sample(f"{s.id}-{i}", view) for s in samples for i, view in enumerate(augmented(s.image))]


def test_patchcore_takes_every_view_into_its_bank():
    few = normals(3)
    plain = patchcore(calibration_images=0).fit(as_samples(few))
    for batch_size in (3, 8, 64):
        bank = patchcore(augment=True, calibration_images=0, batch_size=batch_size).fit(few).search_.bank_
        np.testing.assert_allclose(bank, plain.search_.bank_, atol=1e-5)
    fitted = patchcore(augment=True).fit(few)
    assert fitted.plan_.n_patches == 3 * 16 * 64 and len(fitted.search_.bank_) == fitted.plan_.n_bank
    stream = patchcore(augment=True).fit(iter(few))
    assert np.array_equal(stream.search_.bank_, fitted.search_.bank_)


def test_patchcore_holds_an_image_out_with_all_its_views_and_scores_it_as_it_is():
    few = normals(3)
    fitted = patchcore(augment=True).fit(few)
    expected = [
        patchcore(augment=True, calibration_images=0).fit(few[:i] + few[i + 1 :]).predict([few[i]])[0].image_score
        for i in range(3)
    ]
    np.testing.assert_allclose(sorted(fitted.held_out_scores_), sorted(expected), rtol=1e-4)


def test_patchcore_appends_every_view():
    few, new = normals(2), photo(40)
    plain = patchcore(calibration_images=0).fit(as_samples(few)).append(as_samples([new]))
    fitted = patchcore(augment=True, calibration_images=0).fit(few).append([new])
    assert fitted.segments_ == plain.segments_
    np.testing.assert_allclose(fitted.search_.bank_, plain.search_.bank_, atol=1e-5)


RANKS = """
import json, os, sys
from pathlib import Path
from core_helpers import normals, tiny_backbone
from anomalyhub.detection import create_detector

fitted = create_detector("patchcore", tiny_backbone(), settings={"coreset": 0.2, "augment": True}).fit(normals(5))
fitted.save(Path(sys.argv[1]) / os.environ["RANK"])
"""


@pytest.mark.slow
def test_patchcore_takes_every_view_in_several_processes(tmp_path):
    from safetensors.numpy import load_file

    script = tmp_path / "fit.py"
    script.write_text(RANKS)
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    saved = [load_file(tmp_path / rank / "state.safetensors") for rank in "01"]
    assert all(np.array_equal(saved[0][name], saved[1][name]) for name in saved[0])
    assert len(saved[0]["scores"]) == 5
    config = json.loads((tmp_path / "0" / "config.json").read_text())
    assert config["segments"] == [round(0.2 * 5 * 16 * 64)]
    alone = patchcore(augment=True)
    every = np.concatenate([alone._patches([view]).reshape(-1, 16) for s in normals(5) for view in augmented(s.image)])
    nearest = np.abs(saved[0]["bank"][:, None, :4] - every[None, :, :4]).max(-1).min(1)
    assert nearest.max() < 1e-5
