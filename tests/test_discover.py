"""From images to kinds of defect: `anomalyhub.pipeline.discover` and the verb `discover`, with what they write."""

from __future__ import annotations

import csv
import errno
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from test_readme import parse

from anomalyhub import cli, load_dataset, load_discoverer
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidDatasetError, UnknownNameError
from anomalyhub.pipeline import Inspector
from anomalyhub.pipeline.discover import DiscoverConfig, discover, discover_to
from anomalyhub.report.discovery import COLUMNS
from anomalyhub.report.findings import Findings
from anomalyhub.types import UNKNOWN

SHAPE = (66, 90)
KINDS = {"burn": (20, 5, 10), "paint": (250, 60, 10)}


def tile(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of wavy grey and its mask: burns are upright and dark, paint lies and is red."""
    rng = np.random.default_rng((len(kind), seed))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = 120 + 10 * np.sin((x + 2 * y) / 5 + rng.uniform(0, 6))[..., None] + rng.normal(0, 3, (*SHAPE, 3))
    mask = np.zeros(SHAPE, bool)
    if kind != "good":
        top, left = rng.integers(4, 22), rng.integers(4, 40)
        height, width = (34, 14) if kind == "burn" else (16, 40)
        mask[top : top + height, left : left + width] = True
        image[mask] = KINDS[kind]
    return image.clip(0, 255).astype(np.uint8), mask


def scores(mask: np.ndarray, seed: int) -> np.ndarray:
    """An anomaly map at another size than the image's: 1 on the defect, small slopes elsewhere."""
    inside = np.asarray(
        Image.fromarray(mask.view(np.uint8) * np.uint8(255)).resize((60, 44), Image.Resampling.BILINEAR)
    )
    return (inside / 255 + 0.02 * np.random.default_rng(seed).random((44, 60))).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """tiles/ in the MVTec AD layout, maps/ by the same names, and other/: two classes of other defects with masks."""
    root = tmp_path_factory.mktemp("discover")
    for kind, count in {"good": 5, "burn": 5, "paint": 6}.items():
        for number in range(count):
            image, mask = tile(kind, number)
            name = f"{kind}/{number:02}"
            for folder in ("tiles/test", "maps/test", "tiles/ground_truth"):
                (root / folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / f"tiles/test/{name}.png")
            np.save(root / f"maps/test/{name}.npy", scores(mask, number))
            if mask.any():
                Image.fromarray(mask).save(root / f"tiles/ground_truth/{name}_mask.png")
    (root / "tiles/ground_truth/good").rmdir()
    (root / "tiles/train/good").mkdir(parents=True)
    for number in range(6):
        Image.fromarray(tile("good", 100 + number)[0]).save(root / f"tiles/train/good/{number}.png")
    for kind in KINDS:
        for number in range(3):
            (root / "other" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(tile(kind, 50 + number)[0]).save(root / f"other/{kind}/{number}.png")
    return root


@pytest.fixture(scope="module")
def config(root) -> DiscoverConfig:
    return DiscoverConfig(data=str(root / "tiles"), maps=str(root / "maps"), classes=3)


@pytest.fixture(scope="module")
def found(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    return discover_to(folder, config), folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "assignments.csv", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == COLUMNS
        return list(reader)


def test_maps_of_another_size_become_kinds_that_agree_with_the_classes(found):
    result, folder = found
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["image"] == {"nmi": pytest.approx(1), "ari": 1, "f1": 1}
    assert metrics["region"] == metrics["image"]
    assert (metrics["n_classes"], metrics["n_images"], metrics["n_regions"]) == (3, 16, 11)
    assert metrics["seconds"] > 0 and metrics["config"]["seed"] == 0 and metrics["config"]["classes"] == 3
    assert result.image_clusters.count("kind_1") == 5, "the first kind is the normal one"


def test_assignments_hold_images_and_their_regions(found):
    result, folder = found
    rows = rows_of(folder)
    images = [row for row in rows if not row["region"]]
    regions = [row for row in rows if row["region"]]
    assert [row["path"] for row in images] == list(load_dataset(result.config["data"]).test.ids)
    assert [row["path"] for row in regions] == [row["path"] for row in images], "each image has one region here"
    assert all(row["x0"] == row["x1"] == "" for row in images)
    for row in regions:
        x0, y0, x1, y1 = (int(row[key]) for key in ("x0", "y0", "x1", "y1"))
        assert 0 <= x0 < x1 <= SHAPE[1] and 0 <= y0 < y1 <= SHAPE[0], "boxes end at the image"
        kind = row["path"].split("/")[1]
        assert (int(row["area"]) == 0) == (kind == "good")
        assert 0 < float(row["probability"]) <= 1
        if kind != "good":
            _, mask = tile(kind, int(row["path"][-6:-4]))
            assert mask[y0:y1, x0:x1].sum() > 0.9 * mask.sum(), "the crop holds the defect"


def test_findings_are_what_the_table_says_and_hold_no_ground_truth(found):
    result, folder = found
    findings = Findings.read(folder)
    assert findings.classes == result.classes and len(findings.regions) == len(result.sub_images)
    regions = [row for row in rows_of(folder) if row["region"]]
    for region, row in zip(findings.regions, regions, strict=True):
        image = findings.images[region.image]
        assert (image.id, region.cluster, region.area) == (row["path"], row["cluster"], int(row["area"]))
        assert image.size == SHAPE and Path(image.path).is_file()
        with Image.open(folder / region.crop) as crop:
            assert 90 <= max(crop.size) <= 192
        if region.area:
            assert np.asarray(Image.open(folder / image.mask)).shape == SHAPE
        else:
            assert image.mask is None
    assert [region.fitted for region in findings.regions] == list(range(16))
    assert "label" not in (folder / "findings.json").read_text()


def test_pictures_are_there(found):
    _, folder = found
    assert sorted(path.name for path in (folder / "clusters").iterdir()) == ["kind_1.png", "kind_2.png", "kind_3.png"]
    assert sorted(path.stem for path in (folder / "plots").iterdir()) == ["confusion_image", "confusion_region", "tsne"]
    for path in (folder / "clusters").iterdir():
        assert np.asarray(Image.open(path)).std() > 5


def test_the_same_seed_gives_the_same_files(config, found, tmp_path):
    discover_to(tmp_path, config)
    for name in ("assignments.csv", "findings.json", "model/state.safetensors", "crops/00003.jpg"):
        assert (tmp_path / name).read_bytes() == (found[1] / name).read_bytes(), name


def test_ground_truth_masks_and_labels_of_excluded_classes(config):
    masks = replace(config, maps=None, masks="ground-truth", exclude=("good",), classes=2)
    result, _, binarizer = discover(masks)
    assert binarizer is None
    assert result.metrics()["image"]["f1"] == 1 and len(result.images) == 11
    np.testing.assert_array_equal(result.images[0].mask, tile("burn", 0)[1])


def test_labels_are_read_by_the_metrics_alone(config, found, root):
    """The same images without labels give the same kinds, and no metrics."""
    refs = load_dataset(root / "tiles").test.refs
    unlabelled = replace(config, data=None, images=tuple((ref.id, str(ref.path)) for ref in refs))
    result, _, _ = discover(unlabelled)
    assert result.metrics() == {} and result.image_clusters == found[0].image_clusters
    np.testing.assert_array_equal(result.probs, found[0].probs)


def test_held_out_images_only_predict(config):
    result, discoverer, _ = discover(replace(config, holdout=0.5), seed=3)
    assert len(discoverer.labels_) == result.fitted.sum() == 8
    metrics = result.metrics()
    assert metrics["inductive"]["n_images"] == 8 and metrics["inductive"]["image"]["f1"] > 0.8
    assert (result.rows >= 0).sum() == 8
    other, _, _ = discover(replace(config, holdout=0.5), seed=4)
    assert (other.fitted != result.fitted).any(), "the seed draws the held-out images"


def test_an_earlier_discovery_is_applied_to_new_images(config, found, root, tmp_path):
    _, folder = found
    one = root / "tiles/test/paint/03.png"
    apply = DiscoverConfig(
        images=(("03.png", str(one)),), maps=str(root / "maps/test/paint"), apply=str(folder / "model")
    )
    result = discover_to(tmp_path, apply)
    of_fit = {image.id: image.cluster for image in Findings.read(folder).images}
    assert result.image_clusters == [of_fit["test/paint/03.png"]], "one image alone, by the stored range of scores"
    assert Findings.read(tmp_path).regions[0].fitted is None
    assert not (tmp_path / "metrics.json").exists()


def test_what_is_unlike_all_is_unknown(config, found, root, tmp_path):
    image = np.zeros((*SHAPE, 3), np.uint8)
    image[::4] = (0, 255, 0)
    Image.fromarray(image).save(tmp_path / "odd.png")
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/odd.npy", scores(tile("burn", 0)[1], 0))
    apply = DiscoverConfig(
        images=(("odd.png", str(tmp_path / "odd.png")),), maps=str(tmp_path / "maps"), apply=str(found[1] / "model")
    )
    assert discover(apply)[0].image_clusters == [UNKNOWN]


def test_anomalyncd_learns_from_base_classes(config, root):
    quick = {"epochs": 1, "batch_size": 4, "projection_hidden": 8, "projection_out": 4, "cache_views": 2}
    result, discoverer, _ = discover(
        replace(config, discoverer="anomalyncd", settings=quick, base=str(root / "other"), holdout=0.5)
    )
    assert discoverer.base_classes_ == ("burn", "paint") and len(result.classes) == 3


@pytest.fixture(scope="module")
def model(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiles"
    Inspector.fit("patchcore", load_dataset(root / "tiles").train, settings={"coreset": 0.2}).save(folder)
    return folder


def test_a_detectors_verdict_decides_which_images_have_regions(config, model):
    by_model = replace(config, maps=None, model=str(model))
    result, _, _ = discover(by_model)
    inspector = Inspector.load(model)
    threshold = inspector.calibration.at_rate(0.1).threshold
    verdicts = [one.is_anomalous for one in inspector.inspect(load_dataset(config.data).test, threshold=threshold)]
    assert [not image.is_empty for image in result.images] == verdicts and 5 < sum(verdicts) < 16
    alone, _, binarizer = discover(replace(by_model, false_alarm_rate=1.0))
    maps = [one.map for one in inspector.inspect(load_dataset(config.data).test)]
    assert [not image.is_empty for image in alone.images] == [bool(binarizer.binarize(one).n_regions) for one in maps]


def test_a_threshold_from_unlabelled_images_decides_nothing(config, tmp_path):
    """Images to be grouped are mostly defective, which that threshold does not allow: MEBin alone has the say."""
    test = load_dataset(config.data).test
    Inspector.fit("musc", test).save(tmp_path / "musc")
    by_model = replace(config, maps=None, model=str(tmp_path / "musc"))
    result, _, binarizer = discover(by_model)
    maps = [one.map for one in Inspector.load(tmp_path / "musc").inspect(test)]
    assert [not image.is_empty for image in result.images] == [bool(binarizer.binarize(one).n_regions) for one in maps]
    assert any(not image.is_empty for image in result.images)


CONFIGS = [  # (changes, error, words of its message)
    ({"maps": None}, InvalidArgumentError, "--masks ground-truth"),
    ({"masks": "ground-truth"}, InvalidArgumentError, "one of a detector's model"),
    ({"images": (("a", "b"),)}, InvalidArgumentError, "give one"),
    ({"classes": 0}, InvalidArgumentError, "classes must be"),
    ({"holdout": 1.0}, InvalidArgumentError, "holdout is a share"),
    ({"false_alarm_rate": 0.0}, InvalidArgumentError, "false-alarm rate must be above 0"),
    ({"maps": None, "masks": "mine"}, InvalidArgumentError, "masks can only be"),
    ({"data": None, "images": (("a",),)}, InvalidArgumentError, "images must be"),
    ({"apply": "x", "holdout": 0.5}, InvalidArgumentError, "leave out"),
]


@pytest.mark.parametrize(("changes", "error", "words"), CONFIGS)
def test_settings_that_exclude_each_other(config, changes, error, words):
    with pytest.raises(error, match=words):
        replace(config, **changes)


def flat(level: float):
    return lambda scores: np.full_like(scores, level)


def spoiled(scores):
    scores[0, 0] = np.nan
    return scores


BAD = [  # what is changed: (settings, of the maps, error, words)
    ({"exclude": ("brun",)}, None, UnknownNameError, "did you mean 'burn'"),
    ({"classes": 17}, None, InvalidArgumentError, "17 classes were asked for and there are only 16"),
    ({"exclude": ("good", "burn", "paint")}, None, InvalidDatasetError, "no images to group"),
    ({"binarizer": "otsuu"}, None, UnknownNameError, "did you mean 'otsu'"),
    ({"discoverer": "clusterin"}, None, UnknownNameError, "did you mean 'clustering'"),
    ({"backbone": "resnet18"}, None, AnomalyHubError, "resnet18"),
    ({}, flat(0.5), InvalidArgumentError, "every score of the maps is 0.5"),
    ({}, spoiled, AnomalyHubError, r"burn.00.npy holds 1 of 2640 scores that are NaN"),
    ({"binarizer": "fixed", "binarizer_settings": {"value": 1.0}}, None, InvalidDatasetError, "nothing to group"),
    (
        {"maps": None, "masks": "ground-truth", "exclude": ("burn", "paint")},
        None,
        InvalidDatasetError,
        "nothing to group",
    ),
]


@pytest.mark.parametrize(("changes", "of_maps", "error", "words"), BAD)
def test_bad_input(config, root, tmp_path, changes, of_maps, error, words):
    maps = root / "maps"
    if of_maps is not None:
        maps = shutil.copytree(maps, tmp_path / "maps")
        for path in maps.rglob("*.npy"):
            np.save(path, of_maps(np.load(path)))
    changes = {"maps": str(maps), **changes}
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(error, match=words):
        discover_to(out, replace(config, **changes))
    assert not list(out.iterdir())


def test_masks_that_are_all_full_are_crops_like_any_other(config, root, tmp_path):
    tiles = shutil.copytree(root / "tiles", tmp_path / "tiles")
    for path in (tiles / "ground_truth").rglob("*.png"):
        Image.fromarray(np.full(SHAPE, True)).save(path)
    full = replace(config, data=str(tiles), maps=None, masks="ground-truth", exclude=("good",), classes=2)
    result, _, _ = discover(full)
    assert all(one.mask.all() for one in result.images)
    assert len(result.sub_images) == 11 and result.metrics()["image"]["f1"] == 1


def test_a_base_set_of_one_class_is_enough(config, root, tmp_path):
    shutil.copytree(root / "other/burn", tmp_path / "base/burn")
    quick = {"epochs": 1, "batch_size": 4, "projection_hidden": 8, "projection_out": 4, "cache_views": 2}
    ncd = replace(config, discoverer="anomalyncd", settings=quick, base=str(tmp_path / "base"))
    _, discoverer, _ = discover(ncd)
    assert discoverer.base_classes_ == ("burn",)


def test_a_damaged_image_is_named_and_can_be_skipped(config, root, tmp_path):
    tiles = shutil.copytree(root / "tiles", tmp_path / "tiles")
    (tiles / "test/paint/05.png").write_bytes(b"no image")
    damaged = replace(config, data=str(tiles))
    with pytest.raises(AnomalyHubError, match=r"05\.png"):
        discover(damaged)
    result, _, _ = discover(replace(damaged, skip_unreadable=True))
    assert len(result.images) == 15 and "05.png" in result.skipped[0]


# the verb


def run(arguments: str) -> int:
    return cli.run(shlex.split(arguments))


def test_the_verb_writes_a_folder_and_says_what_it_found(root, found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert run(f"discover --data tiles --maps maps --classes 3 --out {tmp_path}/kinds") == 0
    text = capsys.readouterr().out
    assert "3 kinds among 16 crops of 16 images" in text and "NMI 1.000  ARI 1.000  F1 1.000" in text
    assert (tmp_path / "kinds/assignments.csv").read_bytes() == (found[1] / "assignments.csv").read_bytes()
    assert load_discoverer(tmp_path / "kinds/model").classes_ == ("kind_1", "kind_2", "kind_3")


def test_auto_finds_the_number_and_the_model_can_be_applied(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert run(f"discover --data tiles --masks ground-truth --out {tmp_path}/kinds") == 0
    assert capsys.readouterr().out.startswith("3 kinds")
    metrics = json.loads((tmp_path / "kinds/metrics.json").read_text())
    assert metrics["n_classes"] == 3 and set(metrics["curve"]) == {"3"}
    apply = f"--data tiles --masks ground-truth --apply {tmp_path}/kinds/model --out {tmp_path}/again"
    assert run(f"discover {apply}") == 0
    assert json.loads((tmp_path / "again/metrics.json").read_text())["inductive"]["image"]["f1"] == 1


WRONG = [  # (arguments, words of the one line)
    ("--data tiles --out out", "--masks ground-truth"),
    ("--data tiles --maps maps --classes many --out out", "classes"),
    ("--data tiles --maps maps --binarizer otsu,level=3 --out out", "level"),
    ("--data tiles --maps nowhere --out out", "nowhere does not exist"),
    ("--data tiles --maps maps --out tiles/out", "tiles"),
    ("--data tiles --maps maps --out maps --overwrite", "maps"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_wrong_arguments_are_one_line_and_leave_nothing(root, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(root)
    before = sorted(root.rglob("*"))
    assert run(f"discover {arguments}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error
    assert sorted(root.rglob("*")) == before


def test_a_full_disk_is_said_and_leaves_nothing(root, tmp_path, monkeypatch, capsys):
    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    assert run(f"discover --data {root}/tiles --maps {root}/maps --classes 3 --out {tmp_path}/kinds") == 2
    assert "No space left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_examples_of_the_help_parse():
    command = typer.main.get_command(cli.app).commands["discover"]
    examples = [line.strip() for line in command.epilog.splitlines() if line.strip().startswith("anomalyhub ")]
    assert len(examples) == 4
    for example in examples:
        parse(example.removeprefix("anomalyhub "))
