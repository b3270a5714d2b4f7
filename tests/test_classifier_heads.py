"""What holds for every registered head: a new one is held to it by being registered."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from core_helpers import tiny_backbone
from discovery_helpers import sub_image, tiny_transformer

from anomalyhub.classification import (
    ClassifierConfig,
    Evidence,
    classifiers,
    create_classifier,
    episodic,
    load_classifier,
)
from anomalyhub.config import configure
from anomalyhub.errors import Cancelled, InvalidArgumentError, InvalidDatasetError, InvalidModelError, NotFittedError
from anomalyhub.nn.training import CHECKPOINT
from anomalyhub.protocols import Classifier
from anomalyhub.regions import ImageRegions
from anomalyhub.state import jsonable

pytestmark = pytest.mark.usefixtures("own_accelerator")

KINDS = ("burn", "paint", "rust")
# What makes each quick, and variants that are to keep the contract too.
EPISODIC = {"passes": 6, "pretrain_episodes": 12, "pretrain_accuracy": 1.0, "lr": 1e-3}
SETTINGS = {
    "contrastive": EPISODIC,
    "contrastive maml": {**EPISODIC, "maml": True, "residual": False},
    "relation": {**EPISODIC, "queries_per_step": 2},
    "relation maml": {**EPISODIC, "maml": True},
    "direct": {"passes": 60, "lr": 1e-2},
    "prototype": {},
    "prototype without residuals": {"residual": False},
}
CANNOT_PRETRAIN = {name for name in classifiers.names() if not classifiers[name].pretrains}


def backbone_of(head):
    """A tiny one that suits the head; None for those that see patches alone."""
    if classifiers[head].default_backbone is None:
        return None
    return tiny_backbone() if head == "direct" else tiny_transformer()


def unfitted(name, seed=0, **changes):
    head = name.split()[0]
    return create_classifier(head, backbone_of(head), seed=seed, settings={**SETTINGS.get(name, {}), **changes})


def evidence(kind: str, seed: int, label: str | None = "", grid=(3, 5), channels: int = 4) -> Evidence:
    """One image of 48 x 64 pixels with a bar of its kind, every third with a spot too; its patches are of the kind."""
    rng = np.random.default_rng((KINDS.index(kind), seed))
    drawn = sub_image(kind, seed)
    image, mask = np.full((48, 64, 3), 110, np.uint8), np.zeros((48, 64), bool)
    image[:, :48], mask[:, :48] = drawn.image, drawn.mask
    if seed % 3 == 0:
        image[30:38, 54:60], mask[30:38, 54:60] = 240, True
    of_kind = np.random.default_rng(KINDS.index(kind)).normal(size=(channels, *grid))
    residuals = (of_kind + rng.normal(0, 0.3, of_kind.shape)).astype(np.float16)
    features = (residuals + np.float16(2)).astype(np.float16)
    regions = ImageRegions.of(image, mask)
    label = kind if label == "" else label
    return Evidence(f"{kind}/{seed:03}.png", image, regions, features, residuals, label=label)


def several(count: int, start: int = 0, kinds=KINDS, **options) -> list[Evidence]:
    return [evidence(kind, start + i, **options) for i in range(count) for kind in kinds]


def same_arrays(one, other) -> bool:
    arrays, others = one._state()[1], other._state()[1]
    return arrays.keys() == others.keys() and all(np.array_equal(arrays[key], others[key]) for key in arrays)


@pytest.fixture(scope="module", params=sorted({*classifiers.names(), *SETTINGS}))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name):
    return unfitted(name).fit(several(3))


@pytest.fixture(scope="module")
def pretrained(name):
    if name.split()[0] in CANNOT_PRETRAIN:
        pytest.skip("this head has no pretraining")
    return unfitted(name).pretrain(several(4, start=60))


@pytest.fixture(scope="module")
def new():
    return several(4, start=30, label=None)


def test_it_has_the_members_of_the_protocol(name):
    model = unfitted(name)
    assert isinstance(model, Classifier) and model.name == name.split()[0] and model.title
    assert isinstance(model.config, ClassifierConfig)


def test_the_constructor_only_stores(name):
    model = classifiers[name.split()[0]].create("no_such_backbone", seed=7, settings={})
    assert model.backbone == "no_such_backbone" and model.seed == 7 and model.pretraining_ is None
    assert [key for key in vars(model) if key.endswith("_")] == ["pretraining_"]


def test_unfitted_raises(name, new, tmp_path):
    model = unfitted(name)
    calls = (model.embed, model.predict, model.predict_proba, model.nearest_examples)
    for call in calls:
        with pytest.raises(NotFittedError, match=r"is not fitted: call fit\(\) first"):
            call(new)
    with pytest.raises(NotFittedError, match=r"is not fitted: call fit\(\) or pretrain\(\) first"):
        model.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_fit_returns_self_and_reports_progress(name):
    seen, model = [], unfitted(name)
    assert model.fit(several(2), progress=lambda share, text: seen.append((share, text))) is model
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and 0 <= shares[0] and shares[-1] <= 1
    assert all(isinstance(text, str) and text for _, text in seen)


def test_shapes_names_and_sums(fitted, new):
    result = fitted.predict(new)
    owners = [row for row, one in enumerate(new) for _ in one.sub_images]
    assert len(owners) > len(new) and result.regions.probs.shape == (len(owners), 3)
    assert result.regions.classes == fitted.classes_ == KINDS and result.images == tuple(range(len(new)))
    np.testing.assert_allclose(result.image_probs.probs.sum(axis=1), 1, atol=1e-5)
    embeddings = fitted.embed(new)
    assert embeddings.dtype == np.float32 and len(embeddings) == len(owners) and np.isfinite(embeddings).all()
    assert fitted.temperature_ > 0 and fitted.nearest_examples(new).shape == (len(owners),)
    examples = several(3)  # each is its own nearest, or one that looks the same
    bank, own = fitted.familiarity_.bank, fitted.nearest_examples(examples)
    np.testing.assert_allclose(bank[own], fitted.embed(examples), atol=1e-3)
    assert len(set(own.tolist())) > len(examples) / 2


def test_it_learns(name, fitted, new):
    """Kinds that differ plainly, in pictures as in patches."""
    found = fitted.predict_proba(new).probs.argmax(axis=1)
    truth = [KINDS.index(one.id.split("/")[0]) for one in new]
    assert (found == truth).mean() >= 0.9
    assert fitted.predict(several(3)).unknown.mean() <= 0.2


def test_order_and_batches_do_not_matter(fitted, new):
    together = fitted.predict_proba(new).probs
    np.testing.assert_allclose(fitted.predict_proba(new[::-1]).probs[::-1], together, atol=1e-5)
    for one, row in zip(new, together, strict=True):
        np.testing.assert_allclose(fitted.predict_proba([one]).probs[0], row, atol=1e-5)


def test_order_of_the_examples_names_the_classes_alike(name, new):
    model = unfitted(name).fit(several(3)[::-1])
    assert model.classes_ == KINDS
    truth = [KINDS.index(one.id.split("/")[0]) for one in new]
    assert (model.predict_proba(new).probs.argmax(axis=1) == truth).mean() >= 0.9


def test_twice_gives_the_very_same(name, fitted, new):
    probs = fitted.predict_proba(new).probs
    assert np.array_equal(fitted.predict_proba(new).probs, probs)
    model = unfitted(name).fit(several(3))
    assert np.array_equal(model.predict_proba(new).probs, probs)
    model.fit(several(2, start=9, kinds=KINDS[:2]))
    assert np.array_equal(model.fit(several(3)).predict_proba(new).probs, probs)


def test_nothing_gives_nothing(fitted):
    assert fitted.predict_proba([]).probs.shape == (0, 3) and fitted.predict([]).images == ()
    assert len(fitted.embed([])) == 0 and fitted.nearest_examples([]).shape == (0,)


def test_save_then_load_gives_the_same(name, fitted, new, tmp_path):
    fitted.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "state.safetensors"]
    loaded = load_classifier(tmp_path / "model", backbone_of(fitted.name))
    assert type(loaded) is type(fitted) and loaded.config == fitted.config and loaded.seed == fitted.seed
    one, other = fitted.predict(new), loaded.predict(new)
    assert np.array_equal(one.regions.probs, other.regions.probs) and np.array_equal(one.unknown, other.unknown)
    assert np.array_equal(fitted.nearest_examples(new), loaded.nearest_examples(new))
    assert loaded.example_images_ == fitted.example_images_ and loaded.pretraining_ is None
    loaded.save(tmp_path / "again")
    for path in (tmp_path / "model").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert np.array_equal(loaded.fit(several(3)).predict_proba(new).probs, one.image_probs.probs)


def test_a_pretrained_one_goes_on_from_its_folder(name, pretrained, new, tmp_path):
    assert pretrained.pretraining_["images"] == 12 and pretrained.pretraining_["pseudo_classes"] == 3
    pretrained.save(tmp_path / "pretrained")
    loaded = load_classifier(tmp_path / "pretrained", backbone_of(pretrained.name))
    with pytest.raises(NotFittedError):
        loaded.predict(new)
    assert same_arrays(loaded, pretrained) and loaded.pretraining_ == jsonable(pretrained.pretraining_)
    model = unfitted(name).pretrain(several(4, start=60)).fit(several(2))
    loaded.fit(several(2))
    assert np.array_equal(loaded.predict_proba(new).probs, model.predict_proba(new).probs)
    loaded.save(tmp_path / "fitted")
    again = load_classifier(tmp_path / "fitted", backbone_of(pretrained.name))
    assert np.array_equal(again.predict_proba(new).probs, model.predict_proba(new).probs)
    again.fit(several(1)).fit(several(2))  # fitting leaves what was pretrained as it was
    assert np.array_equal(again.predict_proba(new).probs, model.predict_proba(new).probs)
    plain = unfitted(name).fit(several(2))
    assert not np.array_equal(plain.predict_proba(new).probs, model.predict_proba(new).probs)


@pytest.mark.parametrize("task", ["pretrain", "fit"])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_an_interrupted_run_ends_as_an_undisturbed_one(name, task, share, tmp_path, monkeypatch):
    monkeypatch.setattr(episodic, "_SAVE_EPISODES", 3)
    monkeypatch.setattr(episodic, "_SAVE_PASSES", 2)
    if task == "pretrain" and name.split()[0] in CANNOT_PRETRAIN:
        pytest.skip("this head has no pretraining")

    def stop(done, text):
        if done > share:
            raise Cancelled("stopped")

    def run(progress=None):
        model = unfitted(name)
        getattr(model, task)(several(3), progress=progress, checkpoints=tmp_path)
        return model

    with pytest.raises(Cancelled):
        run(stop)
        pytest.skip("this head is done before it can be stopped")
    resumed, whole = run(), getattr(unfitted(name), task)(several(3))
    assert same_arrays(resumed, whole) and resumed.pretraining_ == whole.pretraining_


def test_a_cancelled_fit_leaves_the_old_one(name, fitted, new):
    before = fitted.predict_proba(new).probs

    def stop(share, text):
        raise Cancelled("stopped")

    for model in (fitted, unfitted(name)):
        try:
            model.fit(several(2, start=9, kinds=KINDS[:2]), progress=stop)
        except Cancelled:
            continue
        pytest.skip("this head is done before it can be stopped")
    with pytest.raises(NotFittedError):
        model.predict(new)
    assert fitted.classes_ == KINDS and np.array_equal(fitted.predict_proba(new).probs, before)


def test_leave_one_out(name, fitted, new):
    examples = [*several(3), evidence("burn", 20, "lone")]
    before = fitted.predict_proba(new).probs
    rows, probs = fitted.leave_one_out(examples)
    assert rows.tolist() == list(range(9)) and probs.probs.shape == (9, 4)
    assert probs.classes == ("burn", "lone", "paint", "rust")
    right = probs.probs[:, [0, 2, 3]].argmax(axis=1) == [KINDS.index(examples[row].label) for row in rows]
    assert right.mean() >= 0.6 and np.array_equal(fitted.predict_proba(new).probs, before)
    rows, probs = fitted.leave_one_out(several(1))
    assert rows.tolist() == [] and probs.probs.shape == (0, 3)


_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_classifier_heads import several, unfitted
from anomalyhub.classification import episodic
episodic._SAVE_PASSES = 1
folder = Path({folder!r})
model = unfitted({name!r}, passes=200).fit(several(3), checkpoints=folder / "checkpoints")
model.save(folder / "model")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive", "relation"])
def test_a_killed_fit_ends_as_an_undisturbed_one(name, tmp_path):
    """SIGKILL, at a moment that nobody chose."""
    tests = str(Path(__file__).parent)
    script = _RUN.format(tests=tests, folder=str(tmp_path), name=name)
    checkpoint = tmp_path / "checkpoints" / "fit" / CHECKPOINT
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.02)
        process.kill()
    assert process.returncode == -9 and checkpoint.exists() and not (tmp_path / "model").exists()
    subprocess.run([sys.executable, "-c", script], check=True)
    whole = unfitted(name, passes=200).fit(several(3))
    whole.save(tmp_path / "whole")
    for file in ("config.json", "state.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


def test_one_example_of_each_class(name, new):
    probs = unfitted(name).fit(several(1)).predict_proba(new).probs
    assert probs.shape == (12, 3) and np.isfinite(probs).all()
    assert np.array_equal(unfitted(name).fit(several(1)).predict_proba(new).probs, probs)


def test_as_many_examples_as_there_are_of_each(name, new):
    examples = [*several(2), *several(2, start=5, kinds=KINDS[:1]), *several(1, start=9, kinds=KINDS[:2])]
    truth = [KINDS.index(one.id.split("/")[0]) for one in new]
    assert (unfitted(name).fit(examples).predict_proba(new).probs.argmax(axis=1) == truth).mean() >= 0.7


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "there are examples of 0 classes and telling kinds apart takes 2"),
        (several(2, kinds=("burn",)), "there are examples of 1 class and telling kinds apart takes 2"),
        ([*several(1), evidence("burn", 4, None)], "burn/004.png has no class: give each of the examples one"),
        ([*several(1), evidence("burn", 0, "paint")], "are the same image and examples of both burn and paint"),
        ([*several(1), evidence("burn", 0)], "are the same image and examples of burn twice"),
    ],
)
def test_bad_examples(name, examples, message):
    model = unfitted(name)
    with pytest.raises(InvalidDatasetError, match=message):
        model.fit(examples)
    assert not hasattr(model, "classes_")


def test_bad_pretraining(name):
    if name.split()[0] in CANNOT_PRETRAIN:
        with pytest.raises(InvalidArgumentError, match="pretrain relation, contrastive or prototype"):
            unfitted(name).pretrain(several(2))
        return
    with pytest.raises(InvalidDatasetError, match="synthetic defects of 1 pseudo-class"):
        unfitted(name).pretrain(several(2, kinds=("burn",)))


def test_patches_that_are_missing_or_of_another_detector_are_named(name, fitted):
    bare = [dataclasses.replace(one, features=None, residuals=None) for one in several(2)]
    if not fitted.reads_patches:
        assert unfitted(name).fit(bare).predict(bare).images == tuple(range(6))
        return
    with pytest.raises(InvalidArgumentError, match="burn/000.png comes without .*, which only PatchCore gives"):
        unfitted(name).fit(bare)
    with pytest.raises(InvalidArgumentError, match="patch features differ in shape"):
        unfitted(name).fit([*several(2), *several(1, start=7, channels=7)])
    with pytest.raises(InvalidArgumentError, match="channels"):
        fitted.predict(several(1, channels=7))


@pytest.mark.parametrize("damage", ["weights", "config", "name"])
def test_a_damaged_folder_is_named(fitted, tmp_path, damage):
    fitted.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if damage == "weights":
        (tmp_path / "state.safetensors").write_bytes((tmp_path / "state.safetensors").read_bytes()[:70])
    elif damage == "config":
        del config["temperature"]
    else:
        config["classifier"] = "oracle"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidModelError, match="is damaged|which this version does not have"):
        load_classifier(tmp_path, backbone_of(fitted.name))


def test_config_is_frozen_and_goes_through_json(name):
    config = unfitted(name).config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.residual = False
    texts = json.loads(json.dumps(jsonable(dataclasses.asdict(config))))
    assert configure(type(config), texts) == config
