"""anomalyhub.pipeline.evidence and classification.evidence: what a classifier is shown, and its cache."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
from core_helpers import normals, photo, tiny_backbone, tiny_vit

from anomalyhub.classification.evidence import Evidence, patch_batch, region_coverage
from anomalyhub.detection import create_detector
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, OutputError
from anomalyhub.pipeline import Inspector
from anomalyhub.pipeline import evidence as module
from anomalyhub.pipeline.evidence import defect_mask, evidence_of, examined, fit_binarizer, identity
from anomalyhub.regions import ImageRegions, OtsuThreshold
from anomalyhub.types import AnomalyMap, Sample


@pytest.fixture(scope="module")
def inspector():
    return Inspector.fit("patchcore", normals(12), backbone=tiny_backbone(size=64), false_alarm_rate=0.05)


@pytest.fixture(scope="module")
def defects():
    return [photo(60 + i, (36, 52) if i % 2 else (60, 40), defect=True) for i in range(5)]


def test_residuals_are_patches_minus_their_nearest_bank_entry(inspector, defects):
    bank = inspector.detector.search_.bank_
    plain = inspector.detector.predict(defects)
    for (result, features, residual), expected in zip(examined(inspector.detector, defects), plain, strict=True):
        np.testing.assert_array_equal(result.scores, expected.scores)
        assert features.shape == residual.shape == (16, 16, 16) and features.dtype == residual.dtype == np.float16
        rows = features.astype(np.float32).reshape(16, -1).T
        apart = np.linalg.norm(rows[:, None] - bank[None], axis=2).min(axis=1)
        np.testing.assert_allclose(np.linalg.norm(residual.astype(np.float32), axis=0).ravel(), apart, atol=0.02)


def test_residuals_against_clean_images_are_differences_at_the_same_place(inspector, defects):
    clean = [photo(60 + i, (36, 52) if i % 2 else (60, 40)) for i in range(5)]
    of_defect = list(inspector.detector.examine(defects))
    of_clean = list(inspector.detector.examine(clean))
    found = inspector.detector.examine(defects, (one.image for one in clean))
    for (_, _, residual), (_, painted, _), (_, own, _) in zip(found, of_defect, of_clean, strict=True):
        np.testing.assert_allclose(residual.maps[0], painted.maps[0] - own.maps[0], atol=1e-5)
    itself = inspector.detector.examine(clean, (one.image for one in clean))
    assert all(not residual.maps[0].any() for _, _, residual in itself)


def test_other_detectors_have_no_patches(defects):
    detector = create_detector("musc", tiny_vit()).fit(normals(4))
    found = list(examined(detector, defects))
    assert len(found) == 5 and all(features is None and residual is None for _, features, residual in found)
    one = Evidence("a.png", defects[0].image, ImageRegions.of(defects[0].image, defects[0].mask))
    with pytest.raises(InvalidArgumentError, match=r"a\.png comes without residuals.*prototype"):
        one.patches(True)


def test_evidence_reads_no_ground_truth(inspector, defects):
    blind = [Sample(one.id, one.image) for one in defects]
    seen, unseen = evidence_of(inspector, defects), evidence_of(inspector, blind)
    for one, other in zip(seen, unseen, strict=True):
        np.testing.assert_array_equal(one.regions.mask, other.regions.mask)
        np.testing.assert_array_equal(one.residuals, other.residuals)
        assert one.label is None and one.located and len(one.sub_images) >= 1 and not one.regions.is_empty
    hits = [one.regions.mask[sample.mask].mean() > 0.5 for one, sample in zip(seen, defects, strict=True)]
    assert sum(hits) >= 4


def test_masks_of_the_data_set_and_of_a_person(inspector, defects):
    oracle = evidence_of(inspector, defects, masks="ground-truth", labels=["blot"] * 5)
    for one, sample in zip(oracle, defects, strict=True):
        np.testing.assert_array_equal(one.regions.mask, sample.mask)
        assert one.label == "blot"
    marked = np.zeros(defects[0].image.shape[:2], bool)
    marked[3:9, 20:33] = True
    mixed = evidence_of(inspector, defects[:2], masks=[marked, None])
    np.testing.assert_array_equal(mixed[0].regions.mask, marked)
    np.testing.assert_array_equal(mixed[1].regions.bits, evidence_of(inspector, defects[:2])[1].regions.bits)


@pytest.mark.parametrize(
    "mask, reason",
    [
        (np.zeros((60, 40), bool), "is empty: mark its defect"),
        (np.ones((40, 60), bool), "has 60 x 40 pixels and the image 40 x 60"),  # transposed
    ],
)
def test_masks_that_do_not_fit(inspector, defects, mask, reason):
    with pytest.raises(InvalidDatasetError, match=reason):
        evidence_of(inspector, defects[:1], masks=[mask])


def test_a_mask_of_the_data_set_that_is_empty(inspector, defects):
    empty = Sample("x", defects[0].image, "blot", np.zeros(defects[0].image.shape[:2], bool))
    found, expected = (evidence_of(inspector, [empty], masks=masks)[0] for masks in ("ground-truth", "detector"))
    np.testing.assert_array_equal(found.regions.bits, expected.regions.bits)


def test_a_mask_that_is_missing(inspector, defects):
    with pytest.raises(InvalidDatasetError, match="has no mask: let the detector"):
        evidence_of(inspector, [Sample("x", defects[0].image)], masks="ground-truth")


class TestCache:
    def test_gives_what_a_fresh_look_gives(self, inspector, defects, tmp_path, monkeypatch):
        fresh = evidence_of(inspector, defects)
        first = evidence_of(inspector, defects, cache=tmp_path / "cache")
        monkeypatch.setattr(module, "examined", lambda *_: iter(()))  # the second time nothing is computed
        second = evidence_of(inspector, defects, cache=tmp_path / "cache")
        for one, *others in zip(fresh, first, second, strict=True):
            for other in others:
                np.testing.assert_array_equal(one.residuals, other.residuals)
                np.testing.assert_array_equal(one.features, other.features)
                np.testing.assert_array_equal(one.regions.bits, other.regions.bits)
        assert isinstance(second[0].residuals, np.memmap)

    def test_of_other_images_or_another_detector_is_replaced(self, inspector, defects, tmp_path):
        evidence_of(inspector, defects, cache=tmp_path / "cache")
        other = Inspector.fit("patchcore", normals(8, 30), backbone=tiny_backbone(size=64))
        for who, what in ((inspector, defects[::-1]), (other, defects[::-1])):
            found = evidence_of(who, what, cache=tmp_path / "cache")
            for one, expected in zip(found, evidence_of(who, what), strict=True):
                np.testing.assert_array_equal(one.residuals, expected.residuals)

    def test_that_is_damaged_is_made_again(self, inspector, defects, tmp_path):
        expected = evidence_of(inspector, defects, cache=tmp_path / "cache")
        for name in ("maps.npy", "residuals.npy", "index.json"):
            path = tmp_path / "cache" / name
            path.write_bytes(path.read_bytes()[:-40])
            found = evidence_of(inspector, defects, cache=tmp_path / "cache")
            np.testing.assert_array_equal(found[4].residuals, expected[4].residuals)
            assert json.loads((tmp_path / "cache" / "index.json").read_text())["patches"] is True

    def test_a_folder_of_somebody_else_is_not_replaced(self, inspector, defects, tmp_path):
        (tmp_path / "evidence").mkdir()
        (tmp_path / "evidence" / "photo.png").write_bytes(b"dear")
        with pytest.raises(OutputError, match="is no cache of features and is not replaced"):
            evidence_of(inspector, defects, cache=tmp_path / "evidence")
        assert (tmp_path / "evidence" / "photo.png").read_bytes() == b"dear"

    def test_a_full_disk(self, inspector, defects, tmp_path, monkeypatch):
        """Room is taken before it is written to: a map of a sparse file on a full disk would end the process."""

        def full(descriptor, start, size):
            assert size > 16 * 16 * 16 * 2 * len(defects)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OutputError, match="no room for features .*free some space"):
            evidence_of(inspector, defects, cache=tmp_path / "cache")
        assert list(tmp_path.iterdir()) == []

    def test_identity(self, inspector):
        same = Inspector.fit("patchcore", normals(12), backbone=tiny_backbone(size=64), false_alarm_rate=0.5)
        other = Inspector.fit("patchcore", normals(12), backbone=tiny_backbone(size=64), seed=1)
        assert identity(inspector.detector) == identity(same.detector) != identity(other.detector)


def test_where_nothing_is_found_the_strongest_spot_is_taken(inspector):
    quiet = np.full((30, 50), 0.01, np.float32)
    quiet[4:8, 40:44] = 0.02
    binarizer = OtsuThreshold().fit([np.linspace(5, 9, 1500, dtype=np.float32).reshape(30, 50)])
    mask, count, located = defect_mask(inspector, AnomalyMap(quiet, 0.02), binarizer)
    assert mask.sum() == 16 and mask[4:8, 40:44].all() and count is None and not located
    flat, _, located = defect_mask(inspector, AnomalyMap(np.zeros((30, 50), np.float32), 0.0), binarizer)
    assert flat.all() and not located
    quiet[10:20, 10:30] = inspector.map_threshold() + 1  # above the detector's threshold: it is there
    above, _, located = defect_mask(inspector, AnomalyMap(quiet, inspector.threshold + 1), binarizer)
    assert above[10:20, 10:30].all() and above.sum() == 200 and located


def test_a_binarizer_knows_the_peaks_of_normal_images(inspector):
    high = AnomalyMap(np.linspace(0, 90, 200, dtype=np.float32).reshape(10, 20), 90.0)
    fitted = fit_binarizer(inspector, OtsuThreshold(), [high])
    assert fitted.range_.maximum == 90 and fitted.range_.lowest_peak == inspector.detector.held_out_peaks_.min()


class TestCoverage:
    def evidence(self, shape, boxes, **options):
        mask = np.zeros(shape, bool)
        for x0, y0, x1, y1 in boxes:
            mask[y0:y1, x0:x1] = True
        image = np.zeros((*shape, 3), np.uint8)
        return Evidence("x", image, ImageRegions.of(image, mask), **options)

    def test_share_of_each_patch(self):
        one = self.evidence((40, 80), [(0, 0, 10, 30), (60, 20, 80, 25)])
        covered = region_coverage(one, (4, 8))
        assert covered.shape == (2, 4, 8) and covered.dtype == np.float32
        expected = np.zeros((2, 4, 8))
        expected[0, :3, 0] = 1
        expected[1, 2, 6:] = 0.5
        np.testing.assert_allclose(covered, expected, atol=1e-6)

    def test_only_the_window_counts(self):
        one = self.evidence((40, 80), [(20, 10, 60, 30)], window=(0.25, 0.0, 0.75, 1.0))
        np.testing.assert_allclose(region_coverage(one, (4, 4))[0], [[0] * 4, [1] * 4, [1] * 4, [0] * 4], atol=1e-6)

    def test_window_of_a_centre_crop(self):
        settings = {"resize": 64, "crop": 48}
        detector = create_detector("patchcore", tiny_backbone(size=64), settings=settings)
        # the shorter side becomes 64 of which 48 are seen; the longer one 128
        assert detector.window((40, 80)) == pytest.approx(
            (0.5 - 24 / 128, 0.5 - 24 / 64, 0.5 + 24 / 128, 0.5 + 24 / 64)
        )
        assert create_detector("patchcore", tiny_backbone()).window((40, 80)) == (0, 0, 1, 1)

    def test_batches_of_unequal_shape(self):
        patches = [np.zeros((3, 4, 5), np.float16), np.zeros((3, 5, 4), np.float16)]
        ones = [self.evidence((20, 30), [(1, 1, 9, 9)], residuals=array) for array in patches]
        assert patch_batch(ones[:1], True).shape == (1, 3, 4, 5)
        with pytest.raises(InvalidArgumentError, match="differ in shape"):
            patch_batch(ones, True)
