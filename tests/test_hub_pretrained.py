"""Round trips of everything that is fitted, through both stores: what comes back predicts bit for bit the same."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings

import numpy as np
import pytest
import test_classifier_heads
import test_detector_contract
import test_discovery_contract
import timm
import torch
from anomalib_helpers import fake_anomalib, fake_openvino
from classify_helpers import examples
from clip_helpers import tiny_clip
from core_helpers import normals, photo, tiny_backbone
from hub_server import TOKEN, connected, hub_server
from safetensors.torch import save_file
from siamese_helpers import tiny_products, tiny_stages, tiny_trainer

import anomalyhub
from anomalyhub.classification import BaseClassifier, classifiers, create_classifier
from anomalyhub.detection import create_detector, detectors
from anomalyhub.detection.april_gan_training import AprilGanTrainer
from anomalyhub.detection.base import BackboneDetector
from anomalyhub.detection.patchcore import PatchCore
from anomalyhub.discovery import create_discoverer, discoverers
from anomalyhub.discovery.base import BaseDiscoverer
from anomalyhub.errors import (
    BackboneError,
    InvalidArgumentError,
    InvalidModelError,
    NotFittedError,
    OutputError,
    StoreError,
)
from anomalyhub.hub import create_store
from anomalyhub.hub.pretrained import Pretrained
from anomalyhub.hub.share import share
from anomalyhub.pipeline import Inspector
from anomalyhub.pipeline.evidence import evidence_of
from anomalyhub.regions import binarizers
from anomalyhub.registry import trainers
from anomalyhub.types import Sample

pytestmark = pytest.mark.usefixtures("own_accelerator")

UNKNOWN = [photo(50 + i, shape, defect=i % 2 == 1) for i, shape in enumerate([(36, 52), (60, 40), (25, 70)])]


@pytest.fixture
def hub(tmp_path):
    with hub_server() as server, connected(server, tmp_path / "hub", TOKEN):
        yield server


@pytest.fixture(params=["folder", "hub"])
def store(request, tmp_path):
    if request.param == "folder":
        return create_store(f"folder:{tmp_path / 'share'}")
    request.getfixturevalue("hub")
    return create_store("hub")


def sent_and_back(thing, store, name, **options):
    """What a store gives back, loaded by the class itself; the folder store's bytes hold no path of this machine."""
    pushed = thing.push_to_hub(f"acme/{name}", store=store, commit_message="round trip")
    assert "config.json" in pushed.changed and "README.md" in pushed.changed and "state.safetensors" in pushed.changed
    again = thing.push_to_hub(f"acme/{name}", store=store)
    assert not again.changed and not again.removed and again.revision == pushed.revision
    return type(thing).from_pretrained(f"acme/{name}", store=store, revision=pushed.revision, **options)


def assert_same_maps(results, others):
    assert len(results) == len(others) > 0
    for one, other in zip(results, others, strict=True):
        assert np.array_equal(one.scores, other.scores) and one.image_score == other.image_score


def assert_same_inspections(results, others):
    assert len(results) == len(others) > 0
    for one, other in zip(results, others, strict=True):
        assert_same_maps([one.map], [other.map])
        kept = [
            {**{field.name: getattr(each, field.name) for field in dataclasses.fields(each)}, "map": 0, "regions": 0}
            for each in (one, other)
        ]
        assert kept[0] == kept[1] and len(one.regions) == len(other.regions)
        for region, its in zip(one.regions, other.regions, strict=True):
            assert np.array_equal(region.mask, its.mask) and region.box == its.box and region.peak == its.peak


# Detectors: the ones that need another program, or that stay where they are, apart.


@pytest.fixture(scope="module")
def fitted_detectors():
    made = {}

    def make(name):
        if name not in made:
            made[name] = test_detector_contract.unfitted(name).fit(normals(7))
        return made[name]

    return make


@pytest.mark.parametrize("name", sorted(set(detectors.names()) - {"anomalib", "precomputed"}))
def test_detectors(name, store, fitted_detectors):
    detector = fitted_detectors(name)
    back = sent_and_back(detector, store, name, backbone=test_detector_contract.backbone_of(name))
    assert type(back) is type(detector) and back.seed == detector.seed
    assert_same_maps(back.predict(UNKNOWN), detector.predict(UNKNOWN))
    settings = dataclasses.asdict(detector.config)
    changed = {key for key, value in dataclasses.asdict(back.config).items() if value != settings[key]}
    assert changed <= {"weights"} and all(getattr(back.config, key) is None for key in changed)


def test_a_model_of_anomalib(store, monkeypatch):
    for name, module in {**fake_anomalib(), "openvino": fake_openvino()}.items():
        monkeypatch.setitem(sys.modules, name, module)
    settings = {"model": "Tiny", "epochs": "2", "batch_size": "3"}
    detector = create_detector("anomalib", settings=settings).fit(normals(8))
    assert_same_maps(sent_and_back(detector, store, "anomalib").predict(UNKNOWN), detector.predict(UNKNOWN))


def test_maps_of_this_machine_stay_here(store, tmp_path):
    (tmp_path / "maps").mkdir()
    for sample in normals(3):
        np.save(tmp_path / "maps" / f"{sample.id.replace('/', '_')[:-4]}.npy", np.ones((4, 6), np.float32))
    detector = create_detector("precomputed", settings={"maps": str(tmp_path / "maps")}).fit([])
    with pytest.raises(InvalidModelError, match="maps .*machine"):
        detector.push_to_hub("acme/maps", store=store)
    with pytest.raises(StoreError):
        store.files("acme/maps")


# Discoverers, classifiers, trainers.


@pytest.mark.parametrize("name", discoverers.names())
def test_discoverers(name, store):
    model = test_discovery_contract.unfitted(name).fit(test_discovery_contract.drawn(), n_novel=3)
    new = test_discovery_contract.drawn(2, start=50)
    back = sent_and_back(model, store, name, backbone=test_discovery_contract.tiny_transformer())
    assert type(back) is type(model) and back.classes_ == model.classes_ and back.config == model.config
    assert np.array_equal(back.predict_proba(new).probs, model.predict_proba(new).probs)
    assert np.array_equal(back.novelty(new), model.novelty(new))


@pytest.mark.parametrize("name", classifiers.names())
@pytest.mark.parametrize("state", ["fitted", "pretrained"])
def test_classifiers(name, state, store):
    several, backbone = test_classifier_heads.several, test_classifier_heads.backbone_of
    new = several(2, start=30, label=None)
    model = test_classifier_heads.unfitted(name)
    if state == "fitted":
        model.fit(several(3))
    elif not model.pretrains:
        pytest.skip("this head has no pretraining")
    else:
        model.pretrain(several(4, start=60))
    back = sent_and_back(model, store, f"{name}-{state}", backbone=backbone(name))
    assert type(back) is type(model) and back.config == model.config and back.pretraining_ == model.pretraining_
    if state == "pretrained":
        model, back = model.fit(several(3)), back.fit(several(3))
    assert np.array_equal(back.predict_proba(new).probs, model.predict_proba(new).probs)
    assert np.array_equal(back.nearest_examples(new), model.nearest_examples(new))


def trained(name):
    """A trained trainer, and a detector on its weights."""
    if name == "siamese":
        trainer = tiny_trainer().fit(tiny_products())
        return trainer, lambda weights: create_detector("siamese", tiny_stages(), settings={"weights": weights})
    assert name == "april-gan", f"say here how {name} is trained on next to nothing"
    settings = {"resize": 32, "epochs": 1, "batch_size": 4}
    trainer = AprilGanTrainer.create(tiny_clip(), settings=settings).fit({"wave": examples(2) + normals(2)})
    return trainer, lambda weights: create_detector(
        "april-gan", tiny_clip(), settings={"weights": weights, "resize": 32}
    )


@pytest.mark.parametrize("name", trainers.names())
def test_trainers(name, store, tmp_path):
    """What comes back saves the very folder again, as weights that a detector takes."""
    trainer, detector = trained(name)
    trainer.save_pretrained(tmp_path / "here")
    back = sent_and_back(trainer, store, f"{name}-weights")
    assert type(back) is type(trainer) and back.config == trainer.config and back.history_ == trainer.history_
    assert back.provenance_.products == trainer.provenance_.products
    back.save_pretrained(tmp_path / "there")
    here, there = (tmp_path / at / "state.safetensors" for at in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
    results = [detector(str(path.parent)).fit(normals(4)).predict(UNKNOWN) for path in (here, there)]
    assert_same_maps(*results)
    pulled = store.pull(f"acme/{name}-weights").folder
    assert_same_maps(detector(str(pulled)).fit(normals(4)).predict(UNKNOWN), results[0])


def test_a_trainer_loads_without_its_backbone(tmp_path):
    """Its weights are of use where the backbone is not."""
    trainer, _ = trained("siamese")
    trainer.save(tmp_path)
    loaded = type(trainer).load(tmp_path)
    assert loaded.backbone == "tiny-stages" and loaded.origin_["fingerprint"] == "tiny-stages-0"
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()
    with pytest.raises(InvalidModelError, match="holds weights of 'siamese', not of april-gan"):
        AprilGanTrainer.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "trained": 3}))
    with pytest.raises(InvalidModelError, match="is damaged"):
        type(trainer).load(tmp_path)


# Inspectors: with a threshold, with kinds, with a discovery's kinds.


@pytest.fixture(scope="module")
def inspector():
    return Inspector.fit(
        "patchcore", normals(12), backbone=tiny_backbone(size=64), false_alarm_rate=0.05, product="wave"
    )


def named(inspector):
    evidence = evidence_of(
        inspector,
        [Sample(one.id, one.image) for one in examples(3)],
        binarizer=binarizers["mebin"](),
        masks=[one.mask for one in examples(3)],
        labels=[one.label for one in examples(3)],
    )
    backbone = test_discovery_contract.tiny_transformer()
    classifier = create_classifier("prototype", backbone).fit(evidence)
    return inspector.with_classifier(classifier, binarizers["mebin"]().fit(maps(inspector)), normals(2, start=40))


def discovered(inspector):
    model = test_discovery_contract.unfitted("clustering").fit(test_discovery_contract.drawn(), n_novel=2)
    return inspector.with_discoverer(model, binarizers["mebin"]().fit(maps(inspector)))


def maps(inspector):
    return [one.scores for one in inspector.detector.predict(UNKNOWN + normals(3, start=70))]


VARIANTS = {
    "plain": lambda inspector: inspector,
    "a chosen threshold": lambda inspector: inspector.with_threshold(0.9 * inspector.threshold),
    "kinds of examples": named,
    "kinds of a discovery": discovered,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_inspectors(variant, store, inspector):
    made = VARIANTS[variant](inspector)
    options = {} if made.naming is None else {"crop_backbone": test_discovery_contract.tiny_transformer()}
    back = sent_and_back(made, store, variant.replace(" ", "-"), backbone=tiny_backbone(size=64), **options)
    assert back.threshold == made.threshold and back.operating_point == made.operating_point
    assert back.product == "wave" and back.kinds == made.kinds
    results = list(back.inspect(UNKNOWN))
    assert_same_inspections(results, list(made.inspect(UNKNOWN)))
    assert any(one.is_anomalous for one in results)
    for (_, _, why), (_, _, its) in zip(back.explain(UNKNOWN), made.explain(UNKNOWN), strict=True):
        assert [one.example_id for one in why] == [one.example_id for one in its]
        assert all(
            np.array_equal(one.normal, other.normal)
            for one, other in zip(why, its, strict=True)
            if one.normal is not None
        )


# Weights of a local file, base classes, folders, and what is refused.


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two files of weights of timm's smallest ResNet."""
    folder, files = tmp_path_factory.mktemp("weights of this machine"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        files.append(folder / f"tiny{seed}.safetensors")
        save_file(timm.create_model("test_resnet.r160_in1k", pretrained=False).state_dict(), files[-1])
    return files


def test_weights_of_a_local_file(store, weights):
    """The repository names the network and the file, not its place; elsewhere the file is given, and is checked."""
    spec = f"test_resnet.r160_in1k@{weights[0]}"
    made = Inspector.fit("patchcore", normals(8), backbone=spec, product="wave")
    back = sent_and_back(made, store, "local", backbone=spec)
    assert_same_inspections(list(back.inspect(UNKNOWN)), list(made.inspect(UNKNOWN)))
    pulled = store.pull("acme/local").folder
    backbone = json.loads((pulled / "config.json").read_text())["backbone"]
    assert backbone["spec"] == "test_resnet.r160_in1k" and backbone["file"] == "tiny0.safetensors"
    assert not [
        path for path in pulled.rglob("*") if path.is_file() and str(weights[0].parent).encode() in path.read_bytes()
    ]
    with pytest.raises(InvalidModelError, match="weights of .* are not those .* give the same weights"):
        Inspector.from_pretrained("acme/local", store=store, backbone=f"test_resnet.r160_in1k@{weights[1]}")
    with pytest.raises(BackboneError, match="test_resnet.r160_in1k"):  # the Hub's, which are not here
        Inspector.from_pretrained("acme/local", store=store)


def test_base_classes_find_the_method(store, fitted_detectors, inspector):
    detector = fitted_detectors("patchcore")
    detector.push_to_hub("acme/core", store=store)
    backbone = tiny_backbone(size=64)
    assert type(BackboneDetector.from_pretrained("acme/core", store=store, backbone=backbone)) is PatchCore
    with pytest.raises(InvalidModelError, match="holds a detector 'patchcore', and is not one of Siamese"):
        detectors["siamese"].from_pretrained("acme/core", store=store, backbone=tiny_stages())
    for base in (BaseClassifier, BaseDiscoverer):
        with pytest.raises(InvalidModelError, match="holds a detector 'patchcore'"):
            base.from_pretrained("acme/core", store=store)
    with pytest.raises(InvalidModelError, match=r"no inspector\.json"):
        Inspector.from_pretrained("acme/core", store=store, backbone=backbone)
    inspector.push_to_hub("acme/core", store=store)  # a detector with a threshold is a detector still
    loaded = PatchCore.from_pretrained("acme/core", store=store, backbone=backbone)
    assert_same_maps(loaded.predict(UNKNOWN), inspector.detector.predict(UNKNOWN))


def test_everything_that_is_fitted_has_the_methods():
    classes = [
        registry[name] for registry in (detectors, discoverers, classifiers, trainers) for name in registry.names()
    ]
    assert all(issubclass(cls, Pretrained) for cls in (*classes, Inspector))
    assert anomalyhub.create_store is create_store and anomalyhub.share is share


def test_folders(tmp_path, inspector):
    """Saved ones load by their path; a model is replaced, a folder of something else is not."""
    backbone, folder = tiny_backbone(size=64), tmp_path / "wave"
    assert inspector.save_pretrained(folder) is None
    assert Inspector.from_pretrained(folder, backbone=backbone).threshold == inspector.threshold
    (folder / "README.md").write_text("mine")
    inspector.with_threshold(2.5).save_pretrained(folder)
    assert Inspector.from_pretrained(str(folder), backbone=backbone).threshold == 2.5
    assert (folder / "README.md").read_text() == "mine"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("a")
    with pytest.raises(OutputError, match="is not empty"):
        inspector.save_pretrained(tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.txt"]
    with pytest.raises(InvalidArgumentError, match="has no revisions"):
        Inspector.from_pretrained(folder, revision="main")
    with pytest.raises(InvalidModelError, match="holds no model of AnomalyHub"):
        Inspector.from_pretrained(tmp_path / "photos")
    with pytest.raises(InvalidArgumentError, match="write OWNER/NAME"):
        Inspector.from_pretrained(tmp_path / "nowhere", store=f"folder:{tmp_path}")


def test_a_result_of_a_discovery_is_its_model(tmp_path, store):
    model = test_discovery_contract.unfitted("clustering").fit(test_discovery_contract.drawn(), n_novel=2)
    model.save_pretrained(tmp_path / "result" / "model")
    backbone = test_discovery_contract.tiny_transformer()
    loaded = type(model).from_pretrained(tmp_path / "result", backbone=backbone)
    assert loaded.classes_ == model.classes_


def test_save_and_push_at_once(tmp_path, store, inspector):
    pushed = inspector.save_pretrained(tmp_path / "wave", push_to_hub=True, repo_id="acme/wave-2", store=store)
    assert pushed.repo_id == "acme/wave-2" and (tmp_path / "wave" / "inspector.json").is_file()
    with pytest.raises(InvalidArgumentError, match="give repo_id"):
        inspector.save_pretrained(tmp_path / "wave", push_to_hub=True)
    with pytest.raises(InvalidArgumentError, match="private belongs to a push"):
        inspector.save_pretrained(tmp_path / "wave", private=True)


def test_unfitted_ones_are_not_pushed(store):
    with pytest.raises(NotFittedError):
        create_detector("patchcore", tiny_backbone()).push_to_hub("acme/nothing", store=store)
    with pytest.raises(NotFittedError):
        create_discoverer("clustering", "embedded").push_to_hub("acme/nothing", store=store)
    with pytest.raises(StoreError):
        store.files("acme/nothing")


def test_what_a_pull_leaves_out_is_said(store, tmp_path, inspector):
    inspector.save_pretrained(tmp_path / "odd")
    (tmp_path / "odd" / "weights.bin").write_bytes(b"pickled")
    store.push(tmp_path / "odd", "acme/odd")
    with pytest.warns(UserWarning, match=r"acme/odd: left out .*weights\.bin"):
        Inspector.from_pretrained("acme/odd", store=store, backbone=tiny_backbone(size=64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = store.pull("acme/odd").folder
    assert not (folder / "weights.bin").exists()
