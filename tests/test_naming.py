"""anomalyhub.pipeline.naming and classification.base: named regions, unknown kinds, explanations, saved inspectors."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from classify_helpers import MeanHead, dark, examples, registered, tiny_inspector
from core_helpers import normals, photo, tiny_backbone

from anomalyhub.errors import InvalidDatasetError, InvalidModelError, NotFittedError
from anomalyhub.pipeline import ANOMALOUS, Inspector
from anomalyhub.pipeline.evidence import evidence_of
from anomalyhub.pipeline.naming import Explanation, _without_good, references_of
from anomalyhub.regions import MEBin
from anomalyhub.types import GOOD, Sample


@pytest.fixture(scope="module")
def detector():
    return tiny_inspector(product="tile")


@pytest.fixture(scope="module")
def support(detector):
    samples = examples(4)
    binarizer = MEBin(kernel=2)
    return evidence_of(detector, samples, binarizer=binarizer, labels=[one.label for one in samples]), binarizer


@pytest.fixture(scope="module")
def inspector(detector, support):
    evidence, binarizer = support
    return detector.with_classifier(MeanHead().fit(evidence), binarizer, references_of(normals(12))[0])


@pytest.fixture(scope="module")
def unseen():
    return [
        photo(300 + i, defect=True) if i % 3 == 0 else dark(300 + i) if i % 3 == 1 else photo(300 + i) for i in range(9)
    ]


def test_regions_and_images_get_kinds(inspector, unseen):
    results = list(inspector.inspect(unseen))
    assert inspector.kinds == ("blot", "dark")
    for sample, result in zip(unseen, results, strict=True):
        assert result.id == sample.id and result.map.scores.shape == sample.image.shape[:2]
        assert len(result.labels) == len(result.regions) and result.is_anomalous == (result.score > inspector.threshold)
        if not result.is_anomalous:
            assert result.label == GOOD and result.regions == () and result.probs == ()
            continue
        assert dict(result.probs).keys() == {"blot", "dark"} and sum(p for _, p in result.probs) == pytest.approx(1)
        for region, (name, probability) in zip(result.regions, result.labels, strict=True):
            x0, y0, x1, y1 = region.box
            inside = region.mask[y0:y1, x0:x1]
            assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all() and inside.sum() == region.area_px
            assert not region.mask.sum() - inside.sum() and region.peak == result.map.scores[region.mask].max()
            assert name in ("blot", "dark", "unknown") and 0.5 <= probability <= 1
    defective = [(s, r) for s, r in zip(unseen, results, strict=True) if s.label != GOOD]
    right = [max(dict(r.probs), key=dict(r.probs).get) == s.label for s, r in defective if r.is_anomalous]
    assert len(right) >= 5 and all(right)


def test_one_image_equals_the_batch(inspector, unseen):
    together = list(inspector.inspect(unseen))
    for sample, expected in zip(unseen, together, strict=True):
        (alone,) = inspector.inspect([sample])
        assert alone.label == expected.label and len(alone.regions) == len(expected.regions)
        np.testing.assert_allclose(dict(alone.probs).get("dark", 0), dict(expected.probs).get("dark", 0), atol=1e-5)


def test_without_a_classifier_regions_have_no_kind(detector, unseen):
    results = list(detector.inspect(unseen))
    assert detector.kinds == () and detector.classifier is detector.binarizer is None
    assert {one.label for one in results} == {GOOD, ANOMALOUS} and not any(one.labels or one.probs for one in results)
    assert [why for _, _, why in detector.explain(unseen)] == [()] * len(unseen)


def test_what_is_unlike_all_examples_is_unknown(inspector):
    strange = photo(500)
    image = strange.image.copy()
    image[8:30, 10:44] = np.random.default_rng(0).integers(0, 2, (22, 34, 3)) * 255
    (result,) = inspector.inspect([Sample("noise.png", image)])
    assert result.is_anomalous and result.label == "unknown" and {name for name, _ in result.labels} == {"unknown"}


def test_explanations_show_the_nearest_normal_patch_and_example(inspector, unseen):
    explained = list(inspector.explain(unseen))
    assert [one.id for one, _, _ in explained] == [one.id for one in unseen]
    for sample, result, why in explained:
        assert len(why) == len(result.regions)
        for one, (name, _) in zip(why, result.labels, strict=True):
            assert one.crop.shape == one.normal.shape == one.example.shape == (96, 96, 3)
            assert one.normal_id.startswith("good/") and one.example_id.split("/")[0] == one.example_label
            if name not in ("unknown",):
                assert one.example_label == sample.label
    assert sum(len(why) for _, _, why in explained) >= 5


def test_the_nearest_normal_patch_of_a_copy_is_at_its_own_place(detector, support):
    """A reference with a defect painted over everything but its patches' neighbourhood finds itself."""
    evidence, binarizer = support
    clean = [photo(700 + i) for i in range(5)]
    one = detector.with_classifier(MeanHead().fit(evidence), binarizer, clean)
    painted = clean[3].image.copy()
    painted[20:24, 30:34] = 255
    (_, result, why), *_ = one.explain([Sample("x", painted)], threshold=-np.inf)
    assert why[0].normal.shape == (96, 96, 3) and why[0].normal_id in [sample.id for sample in clean]


def test_saved_and_loaded(inspector, unseen, tmp_path):
    before = list(inspector.explain(unseen))
    with registered(MeanHead):
        inspector.save(tmp_path / "model")
        loaded = Inspector.load(tmp_path / "model", backbone=tiny_backbone(size=64))
    for (_, one, why), (_, other, same) in zip(before, loaded.explain(unseen), strict=True):
        assert one.labels == other.labels and one.label == other.label and one.probs == other.probs
        for first, second in zip(why, same, strict=True):
            np.testing.assert_array_equal(first.example, second.example)
            np.testing.assert_array_equal(first.normal, second.normal)
    assert loaded.product == "tile" and loaded.kinds == inspector.kinds and len(loaded.naming.references) == 12


@pytest.mark.parametrize(
    "harm, reason",
    [
        (lambda folder: (folder / "binarizer.json").unlink(), "is not a model folder"),
        (lambda folder: (folder / "binarizer.json").write_text("{}"), "binarization is damaged"),
        (lambda folder: (folder / "classifier" / "state.safetensors").write_bytes(b"no"), "is damaged"),
        (lambda folder: (folder / "references" / "index.json").write_text('{"images": 3}'), "is damaged"),
        (lambda folder: (folder / "references" / "003.png").unlink(), "003.png"),
        (lambda folder: _rename_class(folder / "classifier" / "config.json"), "is not fitted"),
    ],
)
def test_damaged_folders(inspector, tmp_path, harm, reason):
    with registered(MeanHead):
        inspector.save(tmp_path / "model")
        harm(tmp_path / "model")
        with pytest.raises((InvalidModelError, ValueError), match=reason):
            Inspector.load(tmp_path / "model", backbone=tiny_backbone(size=64))


def _rename_class(path):
    stored = json.loads(path.read_text())
    del stored["classes"]
    path.write_text(json.dumps(stored))


def test_references_below_another_folder_are_not_read(inspector, tmp_path):
    with registered(MeanHead):
        inspector.save(tmp_path / "model")
        shutil.copy(tmp_path / "model" / "references" / "000.png", tmp_path / "secret.png")
        index = tmp_path / "model" / "references" / "index.json"
        index.write_text('{"images": {"../../secret.png": "a", "001.png": "b"}}')
        loaded = Inspector.load(tmp_path / "model", backbone=tiny_backbone(size=64))
    assert [sample.id for sample in loaded.naming.references] == ["b"]


def test_references_are_few_and_small():
    big = Sample("big.png", np.zeros((700, 1400, 3), np.uint8))
    kept, notices = references_of([big, *normals(60)])
    assert len(kept) == 16 and kept[0].image.shape == (256, 512, 3) and kept[0].mask is None
    assert notices == [] and references_of([]) == ((), [])


class TestHead:
    def test_before_it_is_fitted(self, support, tmp_path):
        head = MeanHead()
        for call in (head.predict, head.embed, head.predict_proba, head.nearest_examples):
            with pytest.raises(NotFittedError, match="call fit"):
                call(support[0])
        with pytest.raises(NotFittedError, match=r"fit\(\) or pretrain\(\)"):
            head.save(tmp_path / "x")

    def test_leave_one_out_never_sees_the_example(self, support):
        evidence = support[0]
        head = MeanHead().fit(evidence)
        rows, probs = head.leave_one_out(evidence)
        assert rows.tolist() == list(range(8)) and probs.classes == ("blot", "dark")
        for pair in range(4):  # one of each kind is left out at a time
            others = [one for index, one in enumerate(evidence) if index // 2 != pair]
            expected = MeanHead().fit(others)._image_logits(evidence[2 * pair : 2 * pair + 2])
            np.testing.assert_array_equal(probs.probs[2 * pair : 2 * pair + 2].argmax(1), expected.argmax(1))
        only = [one for one in evidence if one.label == "dark"][:1] + [one for one in evidence if one.label == "blot"]
        rows, probs = MeanHead().fit(only).leave_one_out(only)
        assert rows.tolist() == [1, 2, 3, 4] and probs.probs.shape == (4, 2)

    def test_pretrained_alone(self, support, tmp_path):
        head = MeanHead().pretrain(support[0])
        assert head.pretraining_ == {"images": 8, "pseudo_classes": 2, "episodes": 1}
        head.save(tmp_path / "p")
        loaded = MeanHead.load(tmp_path / "p")
        assert loaded.pretraining_ == head.pretraining_ and not hasattr(loaded, "classes_")
        np.testing.assert_array_equal(loaded.centre_, head.centre_)

    def test_examples_that_cannot_be_learned_from(self, support):
        evidence = support[0]
        one = evidence[0]
        unlabelled = type(one)(one.id, one.image, one.regions, one.features, one.residuals)
        twin = type(one)("copy.png", one.image, one.regions, one.features, one.residuals, label="dark")
        for given, reason in (
            ([], "of 0 classes"),
            ([one, evidence[2]], "of 1 class and telling kinds apart takes 2"),
            ([*evidence, unlabelled], r"blot/000\.png has no class"),
            ([*evidence, twin], r"blot/000\.png and copy\.png are the same image and examples of both blot and dark"),
        ):
            with pytest.raises(InvalidDatasetError, match=reason):
                MeanHead().fit(given)


class NamedGood:
    """A discovery's kinds, one of which a person has called normal; it names by the brightness of the crop."""

    classes_ = (GOOD, "dark")

    def embed(self, sub_images):
        return np.array([[one.image[one.mask].mean()] for one in sub_images], np.float32)

    def predict_embedded(self, embeddings, sub_images, images):
        from anomalyhub.regions.merge import merge_regions
        from anomalyhub.types import ClassProbs

        bright = (embeddings[:, 0] > 100).astype(np.float32)
        probs = ClassProbs(np.stack([bright, 1 - bright], axis=1), self.classes_)
        areas, scores = [one.area_px for one in sub_images], [one.score for one in sub_images]
        return merge_regions(probs, np.zeros(len(areas), bool), images, areas, scores)


def test_regions_that_a_person_has_called_normal_are_no_defects(detector, support):
    samples = [photo(821, defect=True), dark(822)]
    named = detector.with_discoverer(NamedGood(), support[1])
    (_, good, none), (_, bad, why) = named.explain(samples)
    assert (good.label, good.is_anomalous, good.regions, good.labels, none) == (GOOD, False, (), (), ())
    assert bad.label == "dark" and bad.is_anomalous and len(bad.regions) == len(bad.labels) == len(why) >= 1


def test_an_image_with_a_defect_beside_what_is_normal_is_defective(inspector):
    (one,) = inspector.inspect([photo(830, defect=True)])
    region, why = one.regions[0], tuple(Explanation(np.full((96, 96, 3), value, np.uint8)) for value in (1, 2, 3))
    labels = ((GOOD, 0.9), ("dark", 0.8), ("blot", 0.7))
    mixed = replace(one, regions=(region,) * 3, labels=labels, label=GOOD)
    made, kept = _without_good(mixed, why)
    assert made.is_anomalous and made.label == "dark" and made.labels == labels[1:] and len(made.regions) == 2
    assert [int(explanation.crop[0, 0, 0]) for explanation in kept] == [2, 3]
    assert _without_good(replace(mixed, label="blot"), why)[0].label == "blot"
    made, kept = _without_good(replace(mixed, labels=((GOOD, 0.9),) * 3, label="unknown"), ())
    assert (made.is_anomalous, made.label, made.regions, kept) == (False, GOOD, (), ())


def test_a_class_may_not_be_called_what_others_are_called(support):
    for name in ("unknown", "anomalous"):
        renamed = [
            type(one)(one.id, one.image, one.regions, one.features, one.residuals, label=name) for one in support[0][:2]
        ]
        with pytest.raises(InvalidDatasetError, match=f"a class cannot be called '{name}'.*rename it"):
            MeanHead().fit([*renamed, *support[0][2:]])


def test_examples_of_several_regions_are_not_near_themselves(detector):
    """Regions of one image that share an embedding would make the limit of what is known 0."""
    samples = [photo(900 + i, defect=True) if i % 2 else dark(900 + i) for i in range(6)]
    masks = []
    for one in samples:
        mask = one.mask.copy()
        mask[:5, :5] = mask[-5:, -5:] = True
        masks.append(mask)
    labels = [one.label for one in samples]
    head = MeanHead().fit(evidence_of(detector, samples, masks=masks, labels=labels))
    assert len(head.example_labels_) > 6 and (head.familiarity_.limits > 0.01).all()
    found = head.predict(evidence_of(detector, samples, masks=masks))
    assert not found.unknown.any()


def test_two_small_temperatures_of_the_merge_do_not_make_nothing_of_a_number(support):
    config = MeanHead.config_class(merge_temperature=1e-3)
    _, probs = MeanHead(config=config).fit(support[0]).leave_one_out(support[0])
    assert np.isfinite(probs.probs).all()
