"""Configs of benchmarks: what they mean, what is refused, and that all of eval/configs can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_trees import WEIGHTS, plant

from anomalyhub.benchmark.config import load_config, parse_config
from anomalyhub.benchmark.published import find
from anomalyhub.benchmark.sources import Sources
from anomalyhub.benchmark.units import make_plan
from anomalyhub.errors import InvalidArgumentError

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "eval" / "configs").glob("*.yaml"))
DETECTION = {"task": "detection", "dataset": "mtd", "method": "patchcore"}
DISCOVERY = {"task": "discovery", "dataset": "mtd", "method": "clustering", "masks": "ground-truth"}
CLASSES = {"task": "classification", "dataset": "mtd", "method": "contrastive", "detector": {}, "shots": [1]}


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> Sources:
    """Tiny images in the layouts of the data sets that the configs name, and files in place of weights."""
    return plant(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_config_can_be_planned(trees, path):
    config = load_config(path)
    plan = make_plan(config, trees)
    assert len({one.id for one in plan}) == len(plan) >= len(config.rows)
    for row in config.rows:
        names = [one.unit.product for one in plan if one.row is row]
        assert names and not {"toothbrush"} & set(names if path.stem.startswith("liu2024") else ())
        if row.published is not None:
            figures = find(source=row.published.source, table=row.published.table, variant=row.published.variant)
            figures = [one for one in figures if (one.method, one.dataset) == (row.published.method, row.dataset)]
            shots = {one.shots for one in figures}
            assert figures and (set(row.shots) <= shots or shots == {None}), row


def test_the_configs_name_every_weight_that_they_read(trees):
    named = {text for path in CONFIGS for one in make_plan(load_config(path), trees) for text in _weights(one.settings)}
    assert named == set(WEIGHTS)


def _weights(settings) -> set[str]:
    return {name for part in ("detector", "method") for name in settings.get(part, {}).get("weights", {})}


def test_keys_above_the_rows_are_their_defaults_and_names_of_data_sets_ours():
    rows = [{"shots": [2]}, {"dataset": "mtd", "seeds": [3]}]
    config = parse_config({**DETECTION, "dataset": "MVTec AD", "seeds": [1, 2], "rows": rows}, "two", "two.yaml")
    found = [(row.dataset, row.shots, row.seeds) for row in config.rows]
    assert found == [("mvtec_ad", (2,), (1, 2)), ("mtd", (), (3,))]
    assert parse_config({**DETECTION, "dataset": "hf:Me/Parts"}, "one", "one.yaml").rows[0].dataset == "hf:Me/Parts"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({**DETECTION, "metod": "x"}, "unknown key 'metod': did you mean 'method'?"),
        ({**DETECTION, "method": "patchcor"}, "unknown detector 'patchcor': did you mean 'patchcore'?"),
        ({**DISCOVERY, "method": "clusterin"}, "unknown discoverer 'clusterin': did you mean 'clustering'?"),
        ({**CLASSES, "method": "contrastiv"}, "did you mean 'contrastive'?"),
        ({**CLASSES, "detector": {"metod": "musc"}}, "unknown key 'metod': did you mean 'method'?"),
        ({**CLASSES, "detector": {"method": "must"}}, "did you mean 'musc'?"),
        ({**CLASSES, "detector": None}, "needs a detector"),
        ({**CLASSES, "shots": []}, "give shots, such as [1, 5]"),
        ({**CLASSES, "shots": [0]}, "shots of classification must be at least 1"),
        ({**CLASSES, "pretraining": {"synthesis": {"mask": "circle"}}}, "mask"),
        ({**CLASSES, "pretraining": {"against": "nothing"}}, "against"),
        ({**CLASSES, "holdout": 0.5}, "holdout has no say in classification"),
        ({**DETECTION, "settings": {"coreset": 2}}, "setting coreset is a share in (0, 1]"),
        ({**DETECTION, "settings": {"corset": 0.1}}, "did you mean 'coreset'?"),
        ({**DETECTION, "metrics": ["image_aurok"]}, "did you mean 'image_auroc'?"),
        ({**DETECTION, "metrics": ["nmi"]}, "unknown metric of detection 'nmi'"),
        ({**DETECTION, "seeds": [1, 1]}, "seeds [1, 1] names one twice"),
        ({**DETECTION, "seeds": []}, "seeds must be numbers from 0"),
        ({**DETECTION, "seeds": ["one"]}, "seeds"),
        ({**DETECTION, "shots": 2.5}, "shots"),
        ({**DETECTION, "shots": [-1]}, "shots of detection must be at least 0"),
        ({**DETECTION, "sample": {"size": 64}}, "sample tells how that data set is drawn"),
        ({**DETECTION, "masks": "ground-truth"}, "masks has no say in detection"),
        ({**DETECTION, "auxiliary": {"datasets": ["visa"]}}, "auxiliary has no trainer"),
        ({**DETECTION, "auxiliary": {"trainer": "april", "datasets": ["visa"]}}, "did you mean 'april-gan'?"),
        ({**DETECTION, "published": {"source": "liu2024"}}, "published has no table"),
        ({**DETECTION, "published": {"source": "liu2023", "table": "Table 1", "method": "x"}}, "liu2024"),
        ({**DISCOVERY, "shots": [1]}, "discovery has no shots"),
        ({**DISCOVERY, "detector": {}}, "a discovery of ground-truth masks has no detector"),
        ({**DISCOVERY, "masks": "detector"}, "needs a detector"),
        ({**DISCOVERY, "classes": "many"}, "classes"),
        ({**DISCOVERY, "holdout": 1.0}, "holdout is a share from 0 to below 1"),
        ({**DISCOVERY, "masks": "hand-made"}, "masks"),
        ({"task": "detektion", "dataset": "mtd", "method": "patchcore"}, "task"),
        ({"task": "detection", "method": "patchcore"}, "the row has no dataset"),
        ({"rows": []}, "rows is a list of at least one row"),
        ({"rows": ["patchcore"]}, "rows is a list of at least one row"),
        (["patchcore"], "holds list, not keys and values"),
        (None, "holds NoneType"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_the_row(value, message):
    with pytest.raises(InvalidArgumentError) as error:
        parse_config(value, "mine", "mine.yaml")
    assert str(error.value).startswith("mine.yaml") and message in str(error.value)


def test_the_row_is_numbered():
    with pytest.raises(InvalidArgumentError, match="^mine.yaml, row 2: unknown detector"):
        parse_config({"rows": [DETECTION, {**DETECTION, "method": "patchcor"}]}, "mine", "mine.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("task: [", "is not YAML"), ("a: b: c", "is not YAML"), ("!!python/object:os.system {}", "is not YAML")],
)
def test_what_is_not_yaml_is_refused(tmp_path, text, message):
    path = tmp_path / "one.yaml"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError, match=message):
        load_config(path)
    with pytest.raises(InvalidArgumentError, match="other.yaml cannot be read"):
        load_config(tmp_path / "other.yaml")
