"""Bad input on the command line: exit code 2, one line on standard error that helps, and nothing written."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from anomalyhub import cli


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with a data set of two products, a model of one, and every kind of damage."""
    world = tmp_path_factory.mktemp("around") / "world"  # what lies beside it is nobody else's
    world.mkdir()
    here = Path.cwd()
    os.chdir(world)
    try:
        _make_data(world)
        _make_models(world)
    finally:
        os.chdir(here)
    return world


def _make_data(world: Path) -> None:
    sample = "sample --out data --product ring --product label --train 3 --test 1 --defects 1 --size 64"
    assert cli.run(sample.split()) == 0
    images = sorted(Path("data/ring/train/good").iterdir())
    for folder in ("empty", "notes", "full", "cut", "zero", "text", "flat", "defects/bent", "one", "home/.git"):
        Path(folder).mkdir(parents=True)
    for i, image in enumerate(images):
        shutil.copy(image, f"flat/{i}.png")
        shutil.copy(image, f"defects/bent/{i}.png")
        shutil.copy(image, f"cut/{i}.png")
    shutil.copy(images[0], "one/0.png")
    Path("cut/1.png").write_bytes(images[1].read_bytes()[:2000])
    Path("zero/0.png").touch()
    Path("text/0.png").write_text("not an image")
    Path("notes/a.txt").write_text("no image here")
    Path("full/keep.txt").write_text("mine")
    Path("file.txt").write_text("a file")
    Path("data.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    Path("trained").mkdir()
    shutil.copytree("data/ring/train", "trained/train")
    shutil.copytree("data/ring", "masked/ring")
    mask = next(Path("masked/ring/ground_truth").rglob("*.png"))
    Image.fromarray(np.zeros((40, 96), np.uint8)).save(mask)
    Path("weights.pth").write_bytes(b"pickle")
    Path("bad.safetensors").write_bytes(b"\xff" * 100)
    save_file({"other.weight": np.zeros((2, 2), np.float32)}, "other.safetensors")


def _make_models(world: Path) -> None:
    assert cli.run("fit patchcore --data data --product ring --out model".split()) == 0
    assert cli.run("fit patchcore --data one --out single".split()) == 0
    for name in ("no_config", "no_state", "no_inspector", "bad_json", "bad_state", "list", "bad_point", "no_point"):
        shutil.copytree("model", name)
    for folder, change in {
        "newer": {"schema": 99},
        "kind": {"kind": "classifier"},
        "stranger": {"detector": "patchkore"},
        "short": {"segments": [1]},
        "odd": {"config": {"colour": 1}},
        "blank": {"segments": None},
    }.items():
        shutil.copytree("model", folder)
        path = Path(folder, "config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    Path("no_config/config.json").unlink()
    Path("no_state/state.safetensors").unlink()
    Path("no_inspector/inspector.json").unlink()
    Path("bad_json/config.json").write_text('{"schema": 1,')
    Path("list/config.json").write_text("[]")
    Path("bad_point/inspector.json").write_text('{"calibration": {"threshold": "low"}}')
    Path("no_point/inspector.json").write_text("{}")
    state = Path("bad_state/state.safetensors")
    state.write_bytes(state.read_bytes()[:-1000])


FIT, PREDICT, EVALUATE = "fit patchcore --out o", "predict model --out o", "evaluate model --json o.json"
RING = "--data data --product ring"
OFFLINE = ["not in the local cache", "HF_HUB_OFFLINE is set", "@FILE.safetensors", "--backbone embedded"]

#: (what is wrong, command, what the message must contain: the file or value, the reason, the remedy)
BAD_INPUT = [
    # ---- the parser
    ("unknown verb", "fitt", ["'fitt'", "No such command", "anomalyhub --help"]),
    ("unknown option", f"{FIT} {RING} --speed 3", ["--speed", "No such option", "anomalyhub fit --help"]),
    ("missing option", f"predict m {RING}", ["--out", "Missing option", "anomalyhub predict --help"]),
    ("no images to fit on", "fit patchcore --out o", ["no images to learn from", "give --data, or --shots 0"]),
    ("needs normal images", f"{FIT} {RING} --shots 0", ["no normal images to fit on"]),
    ("more shots than images", f"{FIT} {RING} --shots 500", ["500 support images", "there are", "lower the shots"]),
    ("no support set of that number", f"{FIT} {RING} --shots 2 --support-set 10", ["--support-set", "--help"]),
    ("unknown trainer", f"train siam {RING} --out o", ["trainer 'siam'", "siamese"]),
    ("nothing left to train on", f"train siamese {RING} --exclude ring --out o", ["every product is excluded"]),
    ("unknown product to train on", f"train siamese {RING} --product rig --out o", ["'rig'", "ring"]),
    ("missing argument", f"predict {RING} --out o", ["Missing argument", "anomalyhub predict --help"]),
    ("an option without its value", "sample --out", ["--out", "requires an argument", "--help"]),
    ("negative seed", f"{FIT} {RING} --seed -1", ["--seed", "anomalyhub fit --help"]),
    ("a seed that is no number", f"{FIT} {RING} --seed x", ["--seed", "anomalyhub fit --help"]),
    ("a word as threshold", f"{PREDICT} {RING} --threshold low", ["--threshold", "anomalyhub predict --help"]),
    ("one argument too many", f"{PREDICT} {RING} more", ["more", "unexpected extra argument", "predict --help"]),
    # ---- data sets
    ("missing data", f"{FIT} --data nowhere", ["nowhere", "does not exist", "check the path"]),
    ("empty folder", f"{FIT} --data empty", ["empty", "holds no images", "give a folder of images"]),
    ("folder without images", f"{FIT} --data notes", ["notes", "holds no images", "give a folder of images"]),
    ("text file as data", f"{FIT} --data file.txt", ["file.txt", "neither a folder nor an image", "give a folder"]),
    ("zip file as data", f"{FIT} --data data.zip", ["data.zip", "neither a folder nor an image", "unpack it"]),
    ("Hub unreachable, data set", f"{FIT} --data hf:someone/data", ["dataset someone/data", "HF_HUB_OFFLINE is set"]),
    ("not a data set of the Hub", f"{FIT} --data hf:data", ["'data'", "not a repository", "OWNER/NAME"]),
    ("wrong product", f"{FIT} --data data --product rong", ["'rong'", "did you mean 'ring'", "label, ring"]),
    ("product missing on a root of two", f"{FIT} --data data", ["2 products", "label, ring", "--product"]),
    ("root of a root", f"{FIT} --data .. --product ring", ["not a data set", "give that folder"]),
    ("product of a product", f"{FIT} --data data/ring --product label", ["'label'", "itself one product", "leave"]),
    ("no normal images", f"{FIT} --data defects", ["defects", "no normal images", "folder named good"]),
    ("no test images", f"{PREDICT} --data trained", ["trained", "no test images", "give other images"]),
    ("wrong split", f"{PREDICT} {RING} --split valid", ["'valid'", "train, test or all", "choose"]),
    # ---- images
    ("truncated image", f"{FIT} --data cut", ["1.png", "truncated", "copy or export the image again"]),
    ("empty image", f"{FIT} --data zero", ["0.png", "is empty", "copy the image again"]),
    ("text as .png", f"{FIT} --data text", ["0.png", "not an image of a supported kind", "export it as PNG"]),
    ("nothing left to skip to", f"{FIT} --data text --skip-unreadable", ["0.png", "none of the 1 images", "export it"]),
    ("truncated image in predict", f"{PREDICT} --data cut", ["1.png", "truncated", "copy or export the image again"]),
    ("mask of other size", f"{EVALUATE} --data masked", ["_mask.png", "96 x 40 pixels", "remove or replace it"]),
    ("append of a damaged image", "append model --data zero", ["0.png", "is empty", "copy the image again"]),
    # ---- settings
    ("unknown setting", f"{FIT} {RING} --set coreset_=1", ["'coreset_'", "did you mean 'coreset'", "choose one of"]),
    ("setting of another type", f"{FIT} {RING} --set resize=big", ["resize='big'", "not", "a whole number or none"]),
    ("infinite whole number", f"{FIT} {RING} --set batch_size=inf", ["batch_size='inf'", "not", "a whole number"]),
    ("setting not in the list", f"{FIT} {RING} --set index=tree", ["index='tree'", "not", "one of auto, flat, ivf"]),
    ("setting without =", f"{FIT} {RING} --set coreset", ["'coreset'", "not of the form key=value", "coreset=0.1"]),
    ("setting given twice", f"{FIT} {RING} --set crop=1 --set crop=2", ["'crop'", "given twice", "give it once"]),
    ("coreset 0", f"{FIT} {RING} --set coreset=0", ["coreset", "(0, 1]", "got 0.0", "0.1 keeps 10 %"]),
    ("coreset 2", f"{FIT} {RING} --set coreset=2", ["coreset", "(0, 1]", "got 2.0", "0.1 keeps 10 %"]),
    ("coreset nan", f"{FIT} {RING} --set coreset=nan", ["coreset='nan'", "is not a number"]),
    ("infinite sigma", f"{FIT} {RING} --set sigma=inf", ["sigma='inf'", "is not a number"]),
    ("even neighbourhood", f"{FIT} {RING} --set neighbourhood=2", ["neighbourhood", "must be odd", "got 2"]),
    ("crop above resize", f"{FIT} {RING} --set resize=64 --set crop=96", ["crop (96)", "must not exceed resize (64)"]),
    (
        "budget too small",
        f"{FIT} {RING} --set byte_budget=1000",
        ["byte budget of 1000", "holds 0 patches", "give at least"],
    ),
    ("no such layers", f"{FIT} {RING} --set layers=2,99", ["[2, 99]", "do not exist in embedded", "choose"]),
    (
        "unknown detector",
        f"fit pachcore {RING} --out o",
        ["'pachcore'", "unknown detector", "did you mean 'patchcore'"],
    ),
    ("false-alarm rate 0", f"{FIT} {RING} --false-alarm-rate 0", ["got 0.0", "between 0 and 1", "0.01 is 1 %"]),
    ("false-alarm rate 1.5", f"{FIT} {RING} --false-alarm-rate 1.5", ["got 1.5", "between 0 and 1", "0.01 is 1 %"]),
    ("false-alarm rate nan", f"{FIT} {RING} --false-alarm-rate nan", ["got nan", "between 0 and 1", "0.01 is 1 %"]),
    # ---- backbones
    ("unknown backbone", f"{FIT} {RING} --backbone resnet81", ["'resnet81'", "did you mean", "choose one of embedded"]),
    ("unknown weights tag", f"{FIT} {RING} --backbone resnet18.nope", ["'resnet18.nope'", "choose one of resnet18."]),
    (
        "no backbone name",
        f"{FIT} {RING} --backbone @w.safetensors",
        ["'@w.safetensors'", "has no name", "give embedded"],
    ),
    (
        "no weights file",
        f"{FIT} {RING} --backbone resnet18@gone.safetensors",
        ["gone.safetensors", "does not exist", "@"],
    ),
    (
        "pickled weights",
        f"{FIT} {RING} --backbone resnet18@weights.pth",
        ["weights.pth", "not a .safetensors", "convert"],
    ),
    (
        "damaged weights",
        f"{FIT} {RING} --backbone resnet18@bad.safetensors",
        ["bad.safetensors", "not a readable", "again"],
    ),
    (
        "other architecture",
        f"{FIT} {RING} --backbone resnet18@other.safetensors",
        ["other.safetensors", "lacks", "give"],
    ),
    (
        "embedded with a file",
        f"{FIT} {RING} --backbone embedded@other.safetensors",
        ["embedded", "its own", "leave out"],
    ),
    ("Hub unreachable, timm name", f"{FIT} {RING} --backbone resnet18", ["'resnet18'", *OFFLINE]),
    ("Hub unreachable, Hub id", f"{FIT} {RING} --backbone hf:someone/net", ["someone/net", *OFFLINE]),
    ("not a Hub id", f"{FIT} {RING} --backbone hf:net", ["'hf:net'", "not a Hub id", "hf:OWNER/NAME"]),
    ("impossible Hub id", f"{FIT} {RING} --backbone 'hf:some one/net'", ["some one/net", "hf:OWNER/NAME"]),
    # ---- outputs
    ("out is not empty", f"fit patchcore {RING} --out full", ["full", "is not empty", "--overwrite"]),
    ("out is a file", f"fit patchcore {RING} --out file.txt --overwrite", ["file.txt", "is a file", "another --out"]),
    ("out below a file", f"fit patchcore {RING} --out file.txt/o", ["file.txt", "is a file", "another output path"]),
    ("out is the data", f"fit patchcore {RING} --out data/ring --overwrite", ["data", "which this run reads", "--out"]),
    ("out is another product", f"fit patchcore {RING} --out data/label --overwrite", ["data/label", "reads", "--out"]),
    ("out holds the data", f"fit patchcore {RING} --out data --overwrite", ["data", "which this run reads", "--out"]),
    (
        "out inside the data",
        "predict model --data flat --out flat/results",
        ["flat/results", "inside", "choose an --out"],
    ),
    ("out is the model", f"predict model {RING} --out model --overwrite", ["model", "which this run reads", "--out"]),
    (
        "out is where we are",
        f"fit patchcore {RING} --out . --overwrite",
        ["working", "choose a folder inside", "--out"],
    ),
    (
        "out is a repository",
        f"fit patchcore {RING} --out home --overwrite",
        ["home", "git repository", "another --out"],
    ),
    (
        "out's name too long",
        f"fit patchcore {RING} --out {'x' * 300}",
        ["xxx", "too long", "choose another output path"],
    ),
    ("sample onto a folder", "sample --out full --train 1", ["full", "is not empty", "--overwrite"]),
    (
        "json is a folder",
        f"evaluate model {RING} --json empty",
        ["empty", "is not a file", "choose another output path"],
    ),
    ("json below a file", f"evaluate model {RING} --json file.txt/e", ["file.txt", "is a file", "another output path"]),
    # ---- models
    ("no model", f"predict gone {RING} --out o", ["gone", "does not exist", "--out folder of a fit"]),
    ("model's name too long", f"predict {'x' * 300} {RING} --out o", ["xxx", "too long", "--out folder of a fit"]),
    ("model is a file", f"predict file.txt {RING} --out o", ["file.txt", "is a file", "--out folder of a fit"]),
    ("no config.json", f"predict no_config {RING} --out o", ["no_config", "no config.json", "a fit's --out folder"]),
    ("no inspector.json", f"predict no_inspector {RING} --out o", ["no inspector.json", "a fit's --out folder"]),
    ("no arrays", f"predict no_state {RING} --out o", ["no_state", "no state.safetensors", "fit again"]),
    ("damaged JSON", f"predict bad_json {RING} --out o", ["bad_json/config.json", "not readable JSON", "copy"]),
    ("damaged arrays", f"predict bad_state {RING} --out o", ["bad_state/state.safetensors", "damaged", "fit again"]),
    ("newer schema", f"predict newer {RING} --out o", ["newer", "schema 99", "upgrade"]),
    (
        "another kind of model",
        f"predict kind {RING} --out o",
        ["kind", "holds a classifier", "not a detector", "--out folder of a fit"],
    ),
    (
        "detector of a newer version",
        f"predict stranger {RING} --out o",
        ["stranger", "'patchkore'", "does not have", "upgrade"],
    ),
    ("arrays and config differ", f"predict short {RING} --out o", ["short", "damaged", "copy the model folder again"]),
    ("arrays' place taken by a list", f"predict list {RING} --out o", ["list/config.json", "JSON object", "copy"]),
    ("setting of another version", f"predict odd {RING} --out o", ["odd", "'colour'", "copy the model folder again"]),
    ("no segments", f"predict blank {RING} --out o", ["blank", "damaged", "copy the model folder again"]),
    ("damaged threshold", f"predict bad_point {RING} --out o", ["bad_point/inspector.json", "damaged", "copy"]),
    ("no threshold in the file", f"predict no_point {RING} --out o", ["no_point/inspector.json", "damaged", "copy"]),
    ("other weights than the model's", f"{PREDICT} {RING} --backbone resnet18", ["'resnet18'", *OFFLINE]),
    # ---- predict
    (
        "two thresholds",
        f"{PREDICT} {RING} --threshold 1 --false-alarm-rate 0.1",
        ["--threshold", "exclude", "one of them"],
    ),
    ("threshold nan", f"{PREDICT} {RING} --threshold nan", ["--threshold", "finite number", "got nan"]),
    ("threshold inf", f"{PREDICT} {RING} --threshold inf", ["--threshold", "finite number", "got inf"]),
    ("rate 0", f"{PREDICT} {RING} --false-alarm-rate 0", ["got 0.0", "between 0 and 1", "0.01 is 1 %"]),
    (
        "model without threshold",
        f"predict single {RING} --out o",
        ["no threshold", "at least 2 normal images", "--threshold"],
    ),
    ("its false-alarm rate", f"predict single {RING} --out o --false-alarm-rate 0.1", ["no held-out", "--threshold"]),
    # ---- evaluate
    ("unlabelled images", f"{EVALUATE} --data flat", ["flat", "without a label", "0.png", "test/CLASS"]),
    ("nothing to evaluate on", f"{EVALUATE} --data trained", ["trained", "no test images"]),
    # ---- threshold
    ("no way", "threshold model", ["choose one way", "--false-alarm-rate", "--value", "--f1-max", "--cost-escape"]),
    ("two ways", "threshold model --value 1 --f1-max", ["choose one way", "--value", "--f1-max"]),
    ("value nan", "threshold model --value nan", ["finite number", "got nan"]),
    ("rate 2", "threshold model --false-alarm-rate 2", ["got 2.0", "between 0 and 1", "0.01 is 1 %"]),
    ("F1 without data", "threshold model --f1-max", ["labelled images are needed", "--data"]),
    ("one cost only", f"threshold model {RING} --cost-escape 5", ["labelled images are needed", "both costs"]),
    ("negative cost", f"threshold model {RING} --cost-escape -5 --cost-false-alarm 1", ["costs", "at least 0", "-5.0"]),
    ("F1 on unlabelled images", "threshold model --f1-max --data flat", ["flat", "without a label", "test/CLASS"]),
    (
        "F1 on defects only",
        "threshold model --f1-max --data defects",
        ["0 good and 3 defective", "add labelled images"],
    ),
    ("a value that is none", "threshold model --value nan", ["--value must be a finite number"]),
    # ---- append
    ("append of nothing", "append model", ["--data", "--undo", "give either"]),
    ("append and undo", "append model --data one --undo", ["--data", "--undo", "give either"]),
    ("undo without append", "append model --undo", ["no append to undo", "as it was fitted"]),
    ("append of defects", "append model --data defects", ["defects", "no normal images", "folder named good"]),
    # ---- sample
    (
        "unknown sample product",
        "sample --out o --product nut",
        ["'nut'", "unknown sample product", "label, ring, weave"],
    ),
    ("sample too small", "sample --out o --size 8", ["size", "at least 64", "got 8"]),
]


@pytest.mark.parametrize(("what", "command", "fragments"), BAD_INPUT, ids=[row[0] for row in BAD_INPUT])
def test_bad_input(world, monkeypatch, capfd, what, command, fragments):
    monkeypatch.chdir(world)
    shutil.rmtree(world / "o", ignore_errors=True)  # of a row that failed
    before = snapshot(world)
    code = cli.run(shlex.split(command))
    out, err = capfd.readouterr()
    assert code == 2, err
    assert err.startswith("anomalyhub: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert "Traceback" not in err, err
    assert not [fragment for fragment in fragments if fragment not in err], err
    assert out == ""
    assert snapshot(world) == before


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all files and folders below, hidden ones too."""
    found = {}
    for path in folder.rglob("*"):
        status = path.stat()
        found[path.relative_to(folder).as_posix()] = (0 if path.is_dir() else status.st_size, status.st_mtime_ns)
    return {name: value for name, value in found.items() if not (folder / name).is_dir()} | dict.fromkeys(
        (name for name in found if (folder / name).is_dir()), (0, 0)
    )


def test_the_table_is_what_it_says():
    assert len(BAD_INPUT) >= 40
    assert len({what for what, _, _ in BAD_INPUT}) == len(BAD_INPUT)
