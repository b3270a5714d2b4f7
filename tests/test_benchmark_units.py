"""Plans of benchmarks: which units there are, in what order, what their ids depend on, and where data is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_trees import mvtec, plant, write
from core_helpers import photo

from anomalyhub.benchmark.config import parse_config
from anomalyhub.benchmark.sources import Sources, data_digest, without_folders
from anomalyhub.benchmark.units import chosen, make_plan, plan_json
from anomalyhub.data import load_dataset
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, UnknownNameError

DETECTION = {"task": "detection", "dataset": "mvtec_ad", "method": "patchcore"}


@pytest.fixture
def sources(tmp_path) -> Sources:
    return plant(tmp_path)


def plan_of(value: dict, sources: Sources) -> list:
    return make_plan(parse_config(value, "mine", "mine.yaml"), sources)


def ids(value: dict, sources: Sources) -> list[str]:
    return [one.id for one in plan_of(value, sources)]


def test_units_of_a_product_follow_each_other_and_share_detectors(sources):
    rows = [
        {"task": "detection", "method": "patchcore", "seeds": [1, 2]},
        {"task": "detection", "method": "patchcore", "shots": [1, 2], "seeds": [1]},
        {"task": "discovery", "method": "clustering", "detector": {"method": "patchcore"}, "seeds": [1, 2]},
        {
            "task": "classification",
            "method": "direct",
            "detector": {"method": "patchcore"},
            "shots": [1, 2],
            "seeds": [2],
        },
        {"task": "discovery", "method": "clustering", "variant": "oracle", "masks": "ground-truth"},
    ]
    plan = plan_of({"dataset": "mvtec_ad", "products": ["cable", "bottle"], "rows": rows}, sources)
    found = [(one.unit.task, one.unit.shots, one.unit.seed) for one in plan if one.unit.product == "bottle"]
    assert found == [
        ("detection", None, 1),
        ("discovery", None, 1),
        ("detection", None, 2),
        ("discovery", None, 2),
        ("classification", 1, 2),
        ("classification", 2, 2),
        ("detection", 1, 1),
        ("detection", 2, 1),
        ("discovery", None, 0),
    ]
    assert [one.unit.product for one in plan] == ["bottle"] * 9 + ["cable"] * 9
    assert len({one.detector_key for one in plan}) == 2 * 4 + 1 and plan[8].detector_key == ""
    assert [one.unit.protocol for one in plan[:9]] == ["full", "transductive"] * 2 + ["few-shot"] * 4 + ["transductive"]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        (
            {"published": {"source": "ejaz2024", "table": "Table 5.5", "method": "PatchCore", "variant": "full data"}},
            True,
        ),
        ({"metrics": ["image_auroc"]}, True),  # what is recorded of a result, not what it depends on
        ({"settings": {"coreset": 0.1}}, True),  # the default
        ({"settings": {"coreset": 0.2}}, False),
        ({"backbone": "resnet18"}, False),
        ({"seeds": [1]}, False),
        ({"shots": [1]}, False),
        ({"exclude_classes": ["combined"]}, False),
        ({"variant": "again"}, False),
    ],
)
def test_an_id_depends_on_all_that_the_result_depends_on(sources, changes, same):
    assert (ids(DETECTION, sources) == ids({**DETECTION, **changes}, sources)) is same


def test_an_id_depends_on_the_images_and_the_weights(sources):
    value = {**DETECTION, "backbone": "resnet18@resnet18_imagenet_l3.safetensors"}
    before = ids(value, sources)
    assert ids(value, sources) == before
    (sources.weights / "resnet18_imagenet_l3.safetensors").write_bytes(b"others")
    after = ids(value, sources)
    assert not set(before) & set(after)
    write(Path(sources.root("mvtec_ad")) / "cable" / "train" / "good" / "900.png", photo(9).image)
    assert [one == other for one, other in zip(after, ids(value, sources), strict=True)] == [True, False, True]


def test_another_texture_or_training_image_gives_other_ids(sources):
    classes = {"task": "classification", "dataset": "mpdd", "method": "contrastive", "detector": {}, "shots": [1]}
    classes["pretraining"] = {"textures": "dtd"}
    trained = {"task": "detection", "dataset": "mpdd", "method": "siamese", "shots": [1]}
    trained["auxiliary"] = {"trainer": "siamese", "datasets": ["mpdd"], "leave_out": True}
    before = ids(classes, sources), ids(trained, sources)
    write(Path(sources.root("dtd")) / "images" / "woven" / "woven_0001.jpg", photo(0).image)
    write(Path(sources.root("mpdd")) / "tubes" / "train" / "good" / "900.png", photo(9).image)
    after = ids(classes, sources), ids(trained, sources)
    assert not set(before[0]) & set(after[0]) and not set(before[1]) & set(after[1])
    products = [one.settings["auxiliary"]["products"]["mpdd"] for one in plan_of(trained, sources)]
    assert [set(one) for one in products] == [{"tubes"}, {"connector"}]  # the measured one is not trained on


def test_products_are_chosen_by_name(sources):
    def products(**keys):
        return [one.unit.product for one in plan_of({**DETECTION, **keys}, sources)]

    assert products() == ["bottle", "cable", "toothbrush"]
    assert products(exclude_products=["toothbrush"]) == ["bottle", "cable"]
    assert products(products=["cable"]) == ["cable"]
    assert products(dataset="mtd") == ["mtd"]  # whose folder is MTD
    assert products(dataset="sample", exclude_products=["ring"]) == ["weave", "label"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": "mvtek_ad"}, UnknownNameError, "unknown data set 'mvtek_ad': did you mean 'mvtec_ad'?"),
        ({"dataset": "steel"}, InvalidDatasetError, "steel is not there.*--data steel=FOLDER"),
        ({"products": ["botle"]}, UnknownNameError, "unknown product of mvtec_ad 'botle': did you mean 'bottle'?"),
        ({"exclude_products": ["tooth"]}, UnknownNameError, "did you mean 'toothbrush'?"),
        ({"products": ["cable"], "exclude_products": ["cable"]}, InvalidArgumentError, "every product .* is left out"),
        ({"backbone": "resnet18@none.safetensors"}, InvalidArgumentError, "none.safetensors do not exist.*--weights"),
        ({"dataset": "sample", "sample": {"n_tain": 3}}, UnknownNameError, "did you mean 'n_train'?"),
        (
            {"rows": [{}, {}]},
            InvalidArgumentError,
            "two rows give the unit detection patchcore mvtec_ad bottle full seed 0",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(sources, changes, error, message):
    with pytest.raises(error, match=message):
        plan_of({**DETECTION, **changes}, sources)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, ["mtd"], None), "--data 'mtd' is not NAME=PATH"),
        ((None, ["=x"], None), "is not NAME=PATH"),
        (("does-not-exist", [], None), "--data-root does-not-exist is no folder"),
    ],
)
def test_sources_that_are_none_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Sources.of(*arguments)


def test_a_single_data_set_has_its_own_path(tmp_path, sources):
    mvtec(tmp_path / "elsewhere" / "part")
    named = Sources.of(str(sources.data_root), [f"MVTec AD={tmp_path / 'elsewhere'}"], None)
    assert [one.unit.product for one in plan_of(DETECTION, named)] == ["part"]
    assert named.root("mtd") == sources.root("mtd") and named.root("hf:me/parts") == "hf:me/parts"
    with pytest.raises(InvalidDatasetError, match="there is no --data-root"):
        Sources().root("visa")


def test_a_pattern_chooses_units(sources):
    plan = plan_of({**DETECTION, "shots": [1, 2]}, sources)
    assert [one.unit.shots for one in chosen(plan, "CABLE")] == [1, 2]
    assert [one.unit.product for one in chosen(plan, "*bottle 2 shots*")] == ["bottle"]
    assert chosen(plan, plan[3].id) == [plan[3]] and chosen(plan, None) == plan
    with pytest.raises(InvalidArgumentError, match="no unit has 'screw' in its name, such as detection patchcore"):
        chosen(plan, "screw")


def test_a_plan_tells_its_units_and_no_folder_of_this_machine(tmp_path, sources):
    weights = str(sources.weights / "resnet18_imagenet_l3.safetensors")
    value = {**DETECTION, "backbone": f"resnet18@{weights}"}
    config = parse_config(value, "mine", "mine.yaml")
    plan = make_plan(config, sources)
    stored = plan_json(config, plan)
    assert [unit["id"] for unit in stored["units"]] == [one.id for one in plan]
    assert str(tmp_path) not in repr(stored) and str(tmp_path) not in repr([one.settings for one in plan])
    assert plan[0].settings["detector"]["backbone"] == "resnet18@resnet18_imagenet_l3.safetensors"
    assert sources.spec(value["backbone"]) == value["backbone"]
    assert without_folders({"a": ["~/b/c", "/d/e/", "f/g", "x@/y/z", 1, None]}) == {
        "a": ["c", "e", "f/g", "x@z", 1, None]
    }


def test_the_digest_of_images_sees_masks_and_labels(tmp_path):
    folder = mvtec(tmp_path / "part", count=1)
    digests = [data_digest(load_dataset(folder))]
    mask = folder / "ground_truth" / "blot" / "000_mask.png"
    mask.write_bytes(mask.read_bytes() + b"more")
    digests.append(data_digest(load_dataset(folder)))
    for part in ("test", "ground_truth"):
        (folder / part / "blot").rename(folder / part / "dent")
    digests.append(data_digest(load_dataset(folder)))
    assert len(set(digests)) == 3
