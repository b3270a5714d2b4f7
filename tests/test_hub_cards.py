"""Cards: what the Hub parses, what is measured, lines that run, names that are only names, and no local paths."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import test_classifier_heads
from core_helpers import normals, photo
from discovery_helpers import drawn
from hub_server import TOKEN, connected, environment, hub_server
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from PIL import Image
from siamese_helpers import tiny_products, tiny_trainer
from test_readme import commands, parse

from anomalyhub.classification import create_classifier
from anomalyhub.detection import create_detector
from anomalyhub.discovery import create_discoverer
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidModelError
from anomalyhub.hub import create_store
from anomalyhub.hub.cards import MARKER, Subset, dataset_card, front_matter, markdown, model_card
from anomalyhub.hub.contents import gather
from anomalyhub.hub.dataset_cards import addressed
from anomalyhub.hub.front_matter import read_front_matter
from anomalyhub.hub.portable import portable
from anomalyhub.hub.share import card_of, share
from anomalyhub.pipeline import Inspector, evaluate
from anomalyhub.pipeline.classify import Classified, leave_one_out
from anomalyhub.pipeline.evidence import evidence_of
from anomalyhub.regions import binarizers
from anomalyhub.state import read_json, write_json

pytestmark = pytest.mark.usefixtures("own_accelerator")

TEST = [photo(60 + i, (48, 64), defect=i % 2 == 1) for i in range(6)]


def write_inspector(folder):
    made = Inspector.fit("patchcore", normals(9), product="metal ring", settings={"resize": "64"})
    made.save(folder)
    metrics = evaluate(made, TEST, product="metal ring")
    return {**metrics, "config": {"product": "metal ring", "layout": "mvtec", **read_json(folder / "config.json")}}


def write_named(folder):
    inspector = Inspector.fit("patchcore", normals(9), product="metal ring", settings={"resize": "64"})
    samples = test_classifier_heads.several(3, kinds=("burn", "paint"))
    evidence = evidence_of(
        inspector,
        [photo(70 + i, defect=True) for i in range(6)],
        binarizer=binarizers["mebin"](),
        labels=[one.label for one in samples],
    )
    classifier = create_classifier("prototype").fit(evidence)
    found = [one.scores for one in inspector.detector.predict(normals(4, start=30))]
    made = inspector.with_classifier(classifier, binarizers["mebin"]().fit(found), normals(2, start=40))
    records = [{"id": one.id, "label": one.label, "digest": f"{i:016x}"} for i, one in enumerate(samples)]
    folder.mkdir()
    Classified(made, tuple(records), leave_one_out(classifier, evidence)).write(folder)


def write_kinds(folder):
    settings = {"whiten_views": "0", "calibrate": "false"}
    model = create_discoverer("clustering", "embedded", settings=settings).fit(drawn(), n_novel=3)
    model.save(folder / "model")
    write_json(
        folder / "metrics.json",
        {
            "image": {"nmi": 0.5, "ari": -0.25, "f1": None},
            "region": {"nmi": 0.75, "ari": 0.5, "f1": 1.0},
            "n_images": 12,
            "n_classes": 3,
            "config": {"data": "hf:acme/rings@v1", "product": "metal ring", "split": "test", "model": str(folder)},
        },
    )


def write_head(folder):
    test_classifier_heads.unfitted("contrastive").pretrain(test_classifier_heads.several(4, start=60)).save(folder)


def write_detector(folder):
    create_detector("patchcore", settings={"resize": "64"}).fit(normals(5)).save(folder)


def write_siamese(folder):
    tiny_trainer().fit(tiny_products()).save(folder)


MAKERS = {
    "inspector": write_inspector,
    "named": write_named,
    "kinds": write_kinds,
    "head": write_head,
    "detector": write_detector,
    "siamese": write_siamese,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of each, and the metrics of the inspector under "metrics"."""
    home, found = tmp_path_factory.mktemp("this machine"), {}
    for name, make in MAKERS.items():
        metrics = make(home / name)
        found[name] = home / name
        if metrics:
            found["metrics"] = json.loads(json.dumps(metrics))
    return found


def front_of(card, tmp_path):
    """The front matter as huggingface_hub reads it."""
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    loaded = ModelCard.load(tmp_path / "README.md")
    values = metadata_load(tmp_path / "README.md")
    assert loaded.data.to_dict() == {key: value for key, value in values.items() if value is not None}
    assert read_front_matter(card) == values
    return values


FRONT = {
    "inspector": ("image-segmentation", ["inspector", "patchcore", "product:metal ring"]),
    "named": ("image-segmentation", ["inspector", "patchcore", "prototype", "product:metal ring"]),
    "kinds": ("image-classification", ["discoverer", "clustering", "product:metal ring"]),
    "head": ("image-classification", ["classifier", "contrastive"]),
    "detector": ("image-segmentation", ["detector", "patchcore"]),
    "siamese": ("image-segmentation", ["pretrained", "siamese"]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_front_matter(name, made, tmp_path):
    card = model_card(made[name], "acme/ring-1", license="apache-2.0", tags=["mine", "mine"])
    front, (task, tags) = front_of(card, tmp_path), FRONT[name]
    assert front["library_name"] == "anomalyhub" and front["pipeline_tag"] == task and front["license"] == "apache-2.0"
    assert front["tags"] == ["anomalyhub", "anomaly-detection", *tags, "mine"]
    assert front.get("product") == ("metal ring" if "product:metal ring" in tags else None)
    assert "base_model" not in front  # that of the package, or of nowhere
    assert ("model-index" in front) == (name in ("named", "kinds"))  # what was measured, and nothing else
    assert front.get("datasets") == (["acme/rings"] if name == "kinds" else None)
    assert "license" not in front_of(model_card(made[name], "acme/ring-1"), tmp_path)
    assert "has not said under which licence" in model_card(made[name], "acme/ring-1")
    assert MARKER in card.splitlines() and str(made[name].parent) not in card


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("embedded", None),
        ("resnet18", "timm/resnet18.a1_in1k"),
        ("wide_resnet50_2.tv_in1k", "timm/wide_resnet50_2.tv_in1k"),
        ("hf:acme/net", "acme/net"),
        ("clip", "openai/clip-vit-large-patch14-336"),
        ("resnet18@/home/me/w.safetensors", None),  # whose weights these are, nobody knows
        ("clip@/home/me/clip", None),
        ("hf:acme/net@C:\\w.safetensors", None),
        ("no_such_net", None),
    ],
)
def test_base_model(spec, expected, made, tmp_path):
    config = read_json(made["detector"] / "config.json")
    folder = copied(made["detector"], tmp_path / "model")
    write_json(folder / "config.json", {**config, "backbone": {**config["backbone"], "spec": spec}})
    card = model_card(folder, "acme/ring")
    assert front_of(card, tmp_path).get("base_model") == expected
    assert "/home/" not in card and "C:" not in card
    assert ("weights of a local file" in card) == ("@" in spec)


def copied(source, target):
    for name, path in gather(source).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(path.read_bytes())
    return target


# Figures.


def results_of(card, tmp_path):
    name, results = model_index_to_eval_results(front_of(card, tmp_path)["model-index"])
    assert name == "ring"
    return {(one.metric_name, one.dataset_split): one for one in results}


def test_measured_figures(made, tmp_path):
    metrics = made["metrics"]
    results = results_of(model_card(made["inspector"], "acme/ring", metrics=metrics), tmp_path)
    auroc, aupro = results["Image AUROC", "test"], results["AUPRO (false-positive rate up to 0.3)", "test"]
    assert auroc.metric_type == "roc_auc" and auroc.task_type == "image-classification"
    assert auroc.metric_value == round(metrics["image_auroc"], 4) and auroc.dataset_name == "metal ring, 6 images"
    assert aupro.task_type == "image-segmentation" and aupro.metric_value == round(metrics["aupro"], 4)
    assert len(results) == 7
    undefined = {**metrics, "aupro": None, "why": {"aupro": "no masks"}}
    assert len(results_of(model_card(made["inspector"], "acme/ring", metrics=undefined), tmp_path)) == 6


def test_figures_that_are_stored_with_a_model(made, tmp_path):
    results = results_of(model_card(made["named"], "acme/ring"), tmp_path)
    check = read_json(made["named"] / "examples.json")["leave_one_out"]
    assert results["Accuracy", "leave-one-out"].metric_value == round(check["accuracy"], 4)
    assert results["Accuracy", "leave-one-out"].dataset_name == f"metal ring: examples, {check['n']} images"
    results = results_of(model_card(made["kinds"], "acme/ring"), tmp_path)
    values = {name: one.metric_value for (name, _), one in results.items()}
    expected = {"NMI of images": 0.5, "ARI of images": -0.25, "NMI of regions": 0.75, "ARI of regions": 0.5}
    assert values == {**expected, "F1 of regions": 1.0}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"config": {"kind": "detector", "detector": "musc"}}, "of another model"),
        (lambda one: {**one, "config": {**one["config"], "seed": 3}}, "its seed is 3 there, 0 here"),
        (lambda one: {**one, "config": {**one["config"], "segments": [7]}}, "its segments"),
        (lambda one: {**one, "config": {**one["config"], "config": {"resize": 99}}}, "of another model"),
        (lambda one: {**one, "config": {**one["config"], "backbone": {"fingerprint": "x"}}}, "its backbone"),
        ({"loss": 0.5}, "have none of image_auroc"),
        ({"image_auroc": "0.9"}, "image_auroc must be a number"),
        ({"image_auroc": 93.0}, "image_auroc must be a number"),
        ({"image_auroc": float("nan")}, "image_auroc must be a number"),
        ({"image_auroc": True}, "image_auroc must be a number"),
    ],
)
def test_figures_of_something_else_are_refused(change, reason, made):
    metrics = change(made["metrics"]) if callable(change) else change
    with pytest.raises(InvalidArgumentError, match=re.escape(reason)):
        model_card(made["inspector"], "acme/ring", metrics=metrics)


def test_figures_measured_elsewhere_count(made):
    """Of the same model after a pull: another version, and no place of the weights."""
    config = {**made["metrics"]["config"], "version": "9.9"}
    config["backbone"] = {**config["backbone"], "spec": "somewhere@else.safetensors"}
    assert "Image AUROC" in model_card(made["inspector"], "acme/ring", metrics={**made["metrics"], "config": config})


THRESHOLDS = [
    (
        {"threshold": 1.25, "false_alarm_rate": 0.01, "method": "normals"},
        "above 1.25 .* 1.00% .* 9 normal .* extrapolated",
    ),
    ({"threshold": 1.25, "false_alarm_rate": 0.2, "method": "normals"}, "20.00% of normal images should exceed it"),
    ({"threshold": 1.25, "false_alarm_rate": 0.2, "method": "unlabelled"}, "9 unlabelled images, most of which"),
    ({"threshold": 1.25, "false_alarm_rate": None, "method": "f1_max"}, "where F1 was largest"),
    ({"threshold": 1.25, "false_alarm_rate": None, "method": "cost"}, "cost least"),
    ({"threshold": 1.25, "false_alarm_rate": None, "method": "manual"}, "A person has set it"),
    (None, "None is stored"),
]


@pytest.mark.parametrize("point, expected", THRESHOLDS)
def test_the_threshold_is_explained(point, expected, made, tmp_path):
    folder = copied(made["inspector"], tmp_path / "model")
    write_json(folder / "inspector.json", {"schema": 1, "product": None, "calibration": point, "threshold": None})
    assert re.search(expected, model_card(folder, "acme/ring"))
    if point is None:
        write_json(folder / "inspector.json", {"schema": 1, "product": None, "calibration": None, "threshold": 0.5})
        assert "above 0.5 are called anomalous. A person has set it" in model_card(folder, "acme/ring")


def test_what_it_learned_from(made):
    card = model_card(made["named"], "acme/ring")
    assert "9 images of the fit were scored" in card and "Labelled examples: burn 3, paint 3; digests" in card
    card = model_card(made["siamese"], "acme/weights")
    assert "Weights trained on 9 images of other, wave" in card and "64-bit digests" in card
    assert "12 crops" in model_card(made["kinds"], "acme/kinds")
    assert "16 synthetic defects" not in card and "synthetic defects in 3 classes" in model_card(
        made["head"], "acme/head"
    )


# The lines of use.


def python_of(card):
    (lines,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert len(lines.splitlines()) == 3
    return lines


def test_the_lines_of_a_card_run(made, tmp_path):
    """Three lines of Python from each card, from a folder store and from the Hub, in a process of their own."""
    (tmp_path / "photos").mkdir()
    for number, sample in enumerate(TEST[:2]):
        Image.fromarray(sample.image).save(tmp_path / "photos" / f"{number}.png")
    share_store, lines = f"folder:{tmp_path / 'the share'}", []
    with hub_server() as hub:
        with connected(hub, tmp_path / "client", TOKEN):
            for name in MAKERS:
                for store in (share_store, "hub"):
                    share(made[name], f"acme/{name}", store=store)
                    card = (create_store(store).pull(f"acme/{name}").folder / "README.md").read_text(encoding="utf-8")
                    lines.append(python_of(card))
        script = tmp_path / "lines.py"
        script.write_text("\n".join([*lines, "print('all of them')"]), encoding="utf-8")
        settings = environment(hub, tmp_path / "other", TOKEN)
        settings |= {"ANOMALYHUB_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-W", "error", str(script)]
        done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all of them"
    verdicts = [line for line in done.stdout.splitlines() if line.startswith("[(")]
    assert len(verdicts) == 4 and all("'0.png'" in line and "'1.png'" in line for line in verdicts)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("store", ["hub", "folder:a share with spaces"])
def test_the_verbs_of_a_card_exist(name, store, made):
    found = commands(model_card(made[name], "acme/ring", store=store))
    assert len(found) == (1 if name == "detector" else 2) and found[0].startswith("pull acme/ring --out model")
    for command in found:
        parse(command)


# Names from outside.

HOSTILE = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1)) ![x](https://evil.example/x.png)",
    "a\n---\n# Title\n\n```python\nimport os",
    "a | b | c `code` *bold* _it_ ~~no~~ $x$",
    "!!python/object/apply:os.system ['x']",
    "&a [*a, *a]",
    "key: value # comment",
    "'\"}{%@ \\ <!-- -->",
    "https://evil.example www.evil.example me@evil.example @me #1",
    "\u202egnp.\u200bexe\x1b[31m\x00",
    "- item\n1. item",
    "ünïcödé 日本 🙂",
    "null",
    "x" * 5000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_names(name, made, tmp_path):
    """A product's name is one text of the front matter, and no markup of the page."""
    folder = copied(made["named"], tmp_path / "model")
    write_json(folder / "inspector.json", {**read_json(folder / "inspector.json"), "product": name})
    config = read_json(folder / "classifier" / "config.json")
    write_json(folder / "classifier" / "config.json", {**config, "classes": ["burn", name]})
    harmless = model_card(made["named"], "acme/ring", tags=["mine"])
    card = model_card(folder, "acme/ring", tags=[name, "mine"])
    front = front_of(card, tmp_path)
    shown = front["product"]
    assert f"product:{shown}" in front["tags"] and "mine" in front["tags"]
    assert len(shown) <= 300 and shown.isprintable() and shown.split() == shown.replace("\n", " ").split()
    assert set(front) == set(front_of(harmless, tmp_path))
    html, plain_html = (
        MarkdownIt("gfm-like", {"linkify": False}).render(text.partition(MARKER)[2]) for text in (card, harmless)
    )
    tags = re.compile(r"<(\w+)")
    assert sorted(tags.findall(html)) == sorted(tags.findall(plain_html))
    assert html.count("<td") == plain_html.count("<td") and "href" not in html and "<img" not in html


def test_front_matter_is_exact(tmp_path):
    """What is read is what was given, for any text that is UTF-8."""
    values = {
        "names": {"0": "good", "1": "null", "2": "a: b", "3": "x\n---\ny", "4": " two  spaces ", "5": "\x1b🙂\u2028"},
        "list": ["yes", "1.0", 1.0, True, 3, "'", '"', "#", "- a", "*a", "&a", "!!x", "%", "@", "`", "a" * 400],
        "same": [{"a": [1]}, {"a": [1]}],
        "none": None,
    }
    same = {"shared": values["same"]}
    text = front_matter({**values, "one": same, "two": same}) + "\n# text\n---\n"
    (tmp_path / "README.md").write_text(text, encoding="utf-8", newline="")
    del values["none"]
    assert read_front_matter(text) == {**values, "one": same, "two": same}  # which follows no anchors: there are none
    assert ModelCard(text).data.to_dict()["names"] == values["names"]


@pytest.mark.parametrize("text, expected", [("a_b", "a\\_b"), ("a|b", "a\\|b"), ("1. x", "1. x"), ("a\n\tb", "a b")])
def test_markdown(text, expected):
    assert markdown(text) == expected


# Paths of this machine.

PATHS = [
    ({"backbone": {"spec": "resnet18@/home/me/w 1.safetensors", "fingerprint": "f"}},
     {"backbone": {"spec": "resnet18", "file": "w 1.safetensors", "fingerprint": "f"}}),
    ({"backbone": {"spec": "clip@C:\\clips\\large", "fingerprint": "f"}},
     {"backbone": {"spec": "clip", "file": "large", "fingerprint": "f"}}),
    ({"backbone": {"spec": "hf:acme/net", "fingerprint": "f"}}, None),
    ({"kind": "detector", "config": {"weights": "april", "size": 518}},
     {"kind": "detector", "config": {"weights": None, "size": 518}}),
    ({"kind": "discoverer", "config": {"weights": "mask"}}, None),
    ({"kind": "detector", "config": {"exported": "/x/m.xml"}}, {"kind": "detector", "config": {"exported": None}}),
    ({"kind": "classifier", "config": {"folder": "~/x"}}, {"kind": "classifier", "config": {"folder": None}}),
    ({"config": {"templates": ["a photo of a/an {}", "/ {} /"]}}, None),
    ({"images": ["test/a.png", "/data/me/b.png", "\\\\server\\share\\c.png"]},
     {"images": ["test/a.png", "b.png", "c.png"]}),
    ({"notices": ["nothing in /home/me/a b/c.png, an example"]}, {"notices": ["nothing in a b/c.png, an example"]}),
    ({"text": "see https://acme.example/a/b and 1/2"}, None),
    ({"classes": ["/odd/name"], "product": "/ring"}, None),
]  # fmt: skip


@pytest.mark.parametrize("before, after", PATHS)
def test_paths_become_names(before, after, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "config.json").write_text(json.dumps(before))
    (tmp_path / ".hidden.json").write_text('{"path": "/home/me"}')
    changed = portable(tmp_path)
    assert {name: json.loads(text) for name, text in changed.items()} == ({"inner/config.json": after} if after else {})


def test_a_setting_that_needs_this_machine_is_refused(tmp_path):
    arguments = json.dumps({"weights": str(tmp_path / "w.ckpt")})
    (tmp_path / "config.json").write_text(json.dumps({"kind": "detector", "config": {"arguments": arguments}}))
    with pytest.raises(InvalidModelError, match="setting arguments that names"):
        portable(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InvalidModelError, match="not readable JSON"):
        portable(tmp_path)


def test_nothing_of_this_machine_is_pushed(made, tmp_path):
    home = str(made["inspector"].parent).encode()
    for name in MAKERS:
        folder = copied(made[name], tmp_path / name)
        if name == "kinds":
            assert home in (folder / "metrics.json").read_bytes()
        inner = folder / "model" if name == "kinds" else folder
        config = read_json(inner / "config.json")
        spec = f"resnet18@{made[name]}/w.safetensors"
        write_json(
            inner / "config.json",
            {**config, "backbone": {**(config["backbone"] or {}), "spec": spec, "fingerprint": "f"}},
        )
        share(folder, f"acme/{name}", store=f"folder:{tmp_path / 'share'}")
        pulled = create_store(f"folder:{tmp_path / 'share'}").pull(f"acme/{name}").folder
        assert all(home not in path.read_bytes() for path in gather(pulled).values())


DAMAGE = [
    ("inspector.json", {"schema": 1, "calibration": {"method": "normals"}}),
    ("inspector.json", {"schema": 1, "calibration": {"threshold": "high", "false_alarm_rate": 0.1}}),
    ("examples.json", {"examples": 3}),
    ("examples.json", {"leave_one_out": [1]}),
    ("classifier/config.json", {"schema": 1, "kind": "classifier", "classifier": "x", "classes": 3}),
    ("config.json", {"schema": 1, "kind": "detector", "detector": "x", "trained_on": 7}),
]


@pytest.mark.parametrize("name, content", DAMAGE)
def test_damaged_models_are_said_to_be(name, content, made, tmp_path):
    folder = copied(made["named"], tmp_path / "model")
    write_json(folder / name, content)
    with pytest.raises(InvalidModelError, match="is damaged"):
        model_card(folder, "acme/ring")


# Sharing.


@pytest.fixture
def store(tmp_path):
    return create_store(f"folder:{tmp_path / 'share'}")


def test_a_card_of_ones_own_stays(made, store, tmp_path):
    folder = copied(made["inspector"], tmp_path / "model")
    (folder / "README.md").write_bytes(b"---\nlicense: mit\n---\nMine, with \xff bytes")
    share(folder, "acme/ring", store=store)
    pulled = store.pull("acme/ring").folder
    assert (pulled / "README.md").read_bytes() == b"---\nlicense: mit\n---\nMine, with \xff bytes"
    for options in ({"license": "mit"}, {"tags": ["x"]}, {"metrics": made["metrics"]}):
        with pytest.raises(InvalidArgumentError, match=r"README\.md is a card that somebody wrote"):
            share(folder, "acme/ring", store=store, **options)
    share(folder, "acme/ring", store=store, card="Another")
    assert (store.pull("acme/ring").folder / "README.md").read_text() == "Another"


def test_a_card_of_ours_is_made_anew(made, store, tmp_path):
    """With another place and other figures; the licence stays until another is given."""
    share(made["inspector"], "acme/ring", store=store, license="mit", metrics=made["metrics"], message="first")
    folder = copied(store.pull("acme/ring").folder, tmp_path / "pulled")
    assert "Image AUROC" in (folder / "README.md").read_text()
    share(folder, "acme/other", store=store)
    card = (store.pull("acme/other").folder / "README.md").read_text()
    assert "'acme/other'" in card and "acme/ring" not in card and "`mit`" in card and "Image AUROC" not in card
    assert (
        card
        == card_of(folder, "acme/other", store=store)
        == card_of(made["inspector"], "acme/other", store=store, license="mit")
    )
    assert store.list(product="metal ring", tag="patchcore")[0].repo_id in ("acme/ring", "acme/other")


def test_an_unchanged_folder_makes_no_commit(made, store):
    first = share(made["named"], "acme/named", store=store)
    again = share(made["named"], "acme/named", store=store)
    assert first.changed and not again.changed and again.revision == first.revision


def test_a_discovery_gives_its_model(made, store):
    pushed = share(made["kinds"], "acme/kinds", store=store)
    assert set(pushed.changed) == {"README.md", "config.json", "state.safetensors"}


@pytest.mark.parametrize(
    "files, kind, options, reason",
    [
        ({"a.txt": "x"}, "model", {}, "holds no model of AnomalyHub"),
        ({"config.json": "{}"}, "model", {}, "names no schema"),
        ({"config.json": '{"schema": 99, "kind": "detector"}'}, "model", {}, "schema 99"),
        ({"config.json": '{"schema": 1, "kind": "detector", "detector": "x"}'}, "model", {}, "damaged or missing"),
        ({"a.png": "x"}, "dataset", {"metrics": {"aupro": 1}}, "figures belong to a model"),
        ({"a.png": "x"}, "dataset", {"license": "My Licence"}, "is no identifier of the Hub"),
        ({"app.py": "x"}, "space", {}, r"has no README\.md"),
        ({"a.png": "x"}, "nothing", {}, "kind must be"),
    ],
)
def test_what_cannot_be_shared(files, kind, options, reason, store, tmp_path):
    (tmp_path / "made").mkdir()
    for name, text in files.items():
        (tmp_path / "made" / name).write_text(text)
    with pytest.raises(AnomalyHubError, match=reason):
        card_of(tmp_path / "made", "acme/x", kind, store=store, **options)
    if kind != "space":
        with pytest.raises(AnomalyHubError, match=reason):
            share(tmp_path / "made", "acme/x", kind, store=store, **options)


# Data sets.

FEATURES = [
    {"name": "image", "dtype": "image"},
    {"name": "mask", "dtype": "image"},
    {"name": "label", "dtype": {"class_label": {"names": {"0": "good", "1": "bad: very", "2": "a  b"}}}},
]
SUBSETS = [
    Subset(
        name,
        {"train": f"{name}/train/**", "test": [f"{name}/test/good/**", f"{name}/test/bad/**"]},
        FEATURES,
        {"train": {"good": 40}, "test": {"good": 10, "bad: very": 8, "": 2}},
        {"train": 4000, "test": 2000},
        default=number == 0,
    )
    for number, name in enumerate(["ring", "metal nut"])
]


def test_data_set_cards_as_datasets_reads_them(tmp_path):
    import datasets
    from datasets.utils.metadata import MetadataConfigs

    card = DatasetCard(dataset_card("Rings & <nuts>", SUBSETS, license="cc-by-4.0", columns={"mask": "or null | none"}))
    assert card.data.license == "cc-by-4.0" and card.data.size_categories == ["n<1K"]
    assert card.data.tags[:4] == ["anomalyhub", "anomaly-detection", "product:ring", "product:metal nut"]
    configs = MetadataConfigs.from_dataset_card_data(card.data)
    assert list(configs) == ["ring", "metal nut"] and configs.get_default_config_name() == "ring"
    assert configs["ring"]["data_files"][1]["path"] == ["ring/test/good/**", "ring/test/bad/**"]
    info = datasets.info.DatasetInfosDict.from_dataset_card_data(card.data)["metal nut"]
    assert info.features["label"].names == ["good", "bad: very", "a  b"] and info.dataset_size == 6000
    assert info.splits["test"].num_examples == 20 and isinstance(info.features["mask"], datasets.Image)
    assert "| ring | test | no label | 2 |" in card.text and "or null | none" in card.text and "\\<nuts" in card.text


def test_a_data_set_card_gets_its_address(store):
    card = dataset_card("Rings", SUBSETS, notes=["A note on `'FOLDER'`."])
    assert "load_dataset('FOLDER', 'ring')" in card and "has not said under which licence" in card
    there = addressed(card, "acme/rings", "hub", "cc-by-4.0", ["mine"])
    assert "anomalyhub.load_dataset('hf:acme/rings', 'ring')" in there and "\nmaking" not in there
    assert "datasets.load_dataset('acme/rings', 'ring')" in there and "A note on `'FOLDER'`." in there
    front = read_front_matter(there)
    assert front["license"] == "cc-by-4.0" and "`cc-by-4.0`, as its owner says." in there and "mine" in front["tags"]
    assert {**front, "license": 0, "tags": 0} == {**read_front_matter(card), "license": 0, "tags": 0}
    elsewhere = addressed(there, "acme/nuts", store)
    assert f"create_store({store.spec!r}).pull('acme/nuts', 'dataset')" in elsewhere and "acme/rings" not in elsewhere
    assert read_front_matter(elsewhere)["license"] == "cc-by-4.0"
    assert addressed(elsewhere, "acme/rings", "hub") == there


def test_other_cards_of_ours_get_a_licence_and_tags(store):
    """Those that are written without `dataset_card` need the marker alone."""
    card = front_matter({"configs": [{"config_name": "default"}]}) + f"{MARKER}\n# Painted\n\nText.\n"
    there = addressed(card, "acme/painted", store, "cc0-1.0")
    assert read_front_matter(there)["tags"] == ["anomalyhub", "anomaly-detection"]
    assert there.endswith(f"{MARKER}\n# Painted\n\nText.\n\n## Licence\n\n`cc0-1.0`, as its owner says.\n")
    assert addressed(there, "acme/painted", store, "cc0-1.0") == there
    assert addressed("no front matter", "acme/painted", store) == "no front matter"


def test_data_sets_are_shared(store, tmp_path):
    folder = tmp_path / "rings"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    share(folder, "acme/plain", "dataset", store=store, license="mit", tags=["mine"])
    card = store.pull("acme/plain", "dataset").folder / "README.md"
    assert (
        metadata_load(card)["tags"] == ["anomalyhub", "anomaly-detection", "mine"]
        and metadata_load(card)["license"] == "mit"
    )
    (folder / "README.md").write_text(dataset_card("Rings", SUBSETS))
    share(folder, "acme/rings", "dataset", store=store)
    card = (store.pull("acme/rings", "dataset").folder / "README.md").read_text()
    assert ".pull('acme/rings', 'dataset')" in card and "FOLDER" not in card
    assert [info.repo_id for info in store.list("dataset", tag="product:ring")] == ["acme/rings"]
    assert Path(folder / "README.md").read_text() == dataset_card("Rings", SUBSETS)


def test_results_are_no_data_set(store, tmp_path):
    for name in ("a.json", "b.json", "plot.png"):
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / name).write_text("{}")
    share(tmp_path / "results", "acme/bench", "dataset", store=store, tags=["benchmark"])
    card = (store.pull("acme/bench", "dataset").folder / "README.md").read_text()
    assert read_front_matter(card)["tags"] == ["anomalyhub", "benchmark"] and "load_dataset" not in card
    for command in commands(card):
        parse(command)
    again = copied(store.pull("acme/bench", "dataset").folder, tmp_path / "pulled")
    assert "anomalyhub pull acme/other --kind" in card_of(again, "acme/other", "dataset", store=store)
    assert len(commands(card)) == 1 and f"--store '{store.spec}'" in card or f"--store {store.spec}" in card


@pytest.mark.parametrize("license", ["MIT", "a b", "", "-x", "x\ny", "a" * 99])
def test_licences_are_identifiers(license, made):
    for make in (
        lambda: dataset_card("x", license=license),
        lambda: model_card(made["head"], "acme/x", license=license),
    ):
        with pytest.raises(InvalidArgumentError, match="is no identifier"):
            make()
