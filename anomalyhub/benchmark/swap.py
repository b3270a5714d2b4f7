"""The swap bench: on one's own labelled images every detector with every binarizer and every classifier, and which of
them the errors come from.

For each seed some defective images of each kind, drawn at random, are the examples; all other test images are the test.
An image counts as right when a good one is called good and a defective one by its kind; `benchmark.chains` says how the
errors are attributed to the stages.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyhub.config import parse_settings
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError
from anomalyhub.protocols import Progress, part
from anomalyhub.state import SCHEMA, jsonable, write_json
from anomalyhub.types import GOOD

if TYPE_CHECKING:
    from anomalyhub.benchmark.chains import Part
    from anomalyhub.data import Dataset, Split

#: Stages that errors are attributed to, in this order.
STAGES = ("verdict", "binarization", "map", "classifier")
RESULT, TABLE = "swap.json", "swap.csv"


@dataclass(frozen=True)
class SwapConfig:
    """What is put together. A part is a text, NAME or NAME,key=value,…; a key `backbone` is its SPEC.

    data              a path for `load_dataset` with labelled defects, and normal images if a detector needs them
    product           one of its products
    detectors, binarizers, classifiers  parts, each of which is combined with all of the other two
    shots             examples per kind, drawn by the seed; a kind keeps at least one image for the test
    seeds             one chain per seed: of detectors, examples and classifiers
    exclude           kinds to leave out
    false_alarm_rate  of the detectors' thresholds
    """

    data: str
    product: str | None = None
    detectors: tuple[str, ...] = ("patchcore",)
    binarizers: tuple[str, ...] = ("mebin", "otsu")
    classifiers: tuple[str, ...] = ("prototype", "direct", "contrastive")
    shots: int = 3
    seeds: tuple[int, ...] = (0, 1, 2)
    exclude: tuple[str, ...] = ()
    false_alarm_rate: float = 0.01

    def __post_init__(self):
        if self.shots < 1:
            raise InvalidArgumentError(f"shots must be at least 1 example per kind, got {self.shots}")
        for name in ("detectors", "binarizers", "classifiers", "seeds"):
            if not getattr(self, name):
                raise InvalidArgumentError(f"{name} is empty: give at least one")
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InvalidArgumentError(f"{name} names one twice: give each once")
        if min(self.seeds) < 0:
            raise InvalidArgumentError(f"seeds must be 0 or more, got {min(self.seeds)}")


@dataclass(frozen=True, eq=False)
class Swapped:
    """What came out of it.

    rows     one per detector, binarizer, classifier and seed: their texts, image_auroc of the detector, accuracy of all
             test images, kind_accuracy of the defective ones, lost (a share per stage of STAGES; None without masks), n
    notices  what its user should know, one sentence each
    """

    config: SwapConfig
    rows: tuple[dict[str, Any], ...]
    notices: tuple[str, ...] = ()

    def summary(self) -> list[dict[str, Any]]:
        """One row per combination, the best first: mean and sample standard deviation over the seeds."""
        made = []
        key = ("detector", "binarizer", "classifier")
        for names in dict.fromkeys(tuple(row[name] for name in key) for row in self.rows):
            rows = [row for row in self.rows if tuple(row[name] for name in key) == names]
            values = {
                name: _mean_and_spread([row[name] for row in rows])
                for name in ("accuracy", "kind_accuracy", "image_auroc")
            }
            lost = {stage: _mean_and_spread([row["lost"][stage] for row in rows])[0] for stage in STAGES}
            made.append({**dict(zip(key, names, strict=True)), **values, "lost": lost, "seeds": len(rows)})
        return sorted(made, key=lambda row: -row["accuracy"][0])

    def write(self, folder: Path) -> None:
        """Write swap.json, swap.csv and lost.png into an existing folder."""
        from anomalyhub.hub.portable import without_paths
        from anomalyhub.report.swap import write_lost

        told = {"config": asdict(self.config), "rows": self.rows, "summary": self.summary(), "notices": self.notices}
        told = without_paths(jsonable(told))  # it may be shared
        write_json(folder / RESULT, {"schema": SCHEMA, "kind": "swap", **told})
        _write_table(folder / TABLE, told["summary"])
        write_lost(told["summary"], folder / "lost.png")


def swap(config: SwapConfig, *, progress: Progress | None = None, checkpoints: Path | None = None) -> Swapped:
    """Fit and measure every combination.

    checkpoints  a folder that keeps each row; an interrupted call goes on behind them
    Raises InvalidDatasetError for a data set without two kinds of two labelled images each, UnknownNameError,
    InvalidArgumentError.
    """
    from anomalyhub.benchmark.chains import Chains
    from anomalyhub.data import load_dataset

    dataset = load_dataset(config.data, config.product)
    test, notices = _kinds(dataset, config)
    parts = _checked(config)
    heads, left_out = _possible(config, parts)
    notices += left_out
    rows = _Rows(None if checkpoints is None else checkpoints / "rows.jsonl", config)
    pairs = list(itertools.product(config.detectors, config.seeds))
    for number, (detector, seed) in enumerate(pairs):
        wanted = [
            (binarizer, classifier)
            for binarizer, classifier in itertools.product(config.binarizers, config.classifiers)
            if (detector, classifier) in heads and (detector, binarizer, classifier, seed) not in rows.done
        ]
        if wanted:
            mine = {classifier: head for (name, classifier), head in heads.items() if name == detector}
            rate = config.false_alarm_rate
            bench = Chains(parts, mine, dataset, test, detector, seed, config.shots, rate)
            share = part(progress, number / len(pairs), (number + 1) / len(pairs))
            for row in bench.rows(wanted, share):
                rows.add(row)
    order = itertools.product(config.detectors, config.binarizers, config.classifiers, config.seeds)
    made = tuple(rows.done[key] for key in order if (key[0], key[2]) in heads)
    return Swapped(config, made, tuple(notices))


def swap_to(
    folder: Path, config: SwapConfig, *, progress: Progress | None = None, checkpoints: Path | None = None
) -> Swapped:
    """`swap`, and write its result into an existing folder."""
    made = swap(config, progress=progress, checkpoints=checkpoints)
    made.write(folder)
    return made


def _kinds(dataset: Dataset, config: SwapConfig) -> tuple[Split, list[str]]:
    """The test images of kinds that can be both learned and tested, and notices."""
    test = dataset.labelled_test()
    test = test.without(ref.id for ref in test.refs if ref.label in config.exclude)
    labels = list(test.labels)
    counts = {name: labels.count(name) for name in sorted(set(labels) - {GOOD})}
    single = [name for name, count in counts.items() if count < 2]
    if len(counts) - len(single) < 2:
        raise InvalidDatasetError(
            f"{dataset.root} has fewer than two kinds of defect with two labelled images each: "
            "put more images into folders named by kind"
        )
    notices = [f"{name} has one image, which cannot be both an example and a test: it is left out" for name in single]
    notices += [
        f"{name} has {count} images, so only {count - 1} of them are examples"
        for name, count in counts.items()
        if 2 <= count <= config.shots
    ]
    return test.without(ref.id for ref in test.refs if ref.label in single), notices


def _checked(config: SwapConfig) -> dict[str, Part]:
    """Each part's name and settings, made once so that a wrong one is said before the work."""
    from anomalyhub.classification import create_classifier
    from anomalyhub.detection import create_detector
    from anomalyhub.regions import binarizers

    parts = {}
    for text in (*config.detectors, *config.binarizers, *config.classifiers):
        name, *options = text.split(",")
        settings = parse_settings(options)
        parts[text] = name, settings.pop("backbone", None), settings
    for text, create in (
        *((text, create_detector) for text in config.detectors),
        *((text, create_classifier) for text in config.classifiers),
    ):
        name, backbone, settings = parts[text]
        create(name, backbone, settings=settings)
    for text in config.binarizers:
        binarizers[parts[text][0]](**parts[text][2])
    return parts


def _possible(config: SwapConfig, parts: Mapping[str, Part]) -> tuple[dict[tuple[str, str], Part], list[str]]:
    """What each (detector, classifier) is made of, and notices; only some detectors show classifiers their patches.

    Raises InvalidArgumentError when nothing is possible.
    """
    from anomalyhub.classification import create_classifier
    from anomalyhub.detection import detectors

    heads, notices = {}, []
    for detector, classifier in itertools.product(config.detectors, config.classifiers):
        name, backbone, settings = parts[classifier]
        head = create_classifier(name, backbone, settings=settings)
        if not head.reads_patches or hasattr(detectors[parts[detector][0]], "examine"):
            heads[detector, classifier] = name, backbone, settings
        elif hasattr(head.config, "residual") and hasattr(head.config, "crop_weight"):  # it can do without
            heads[detector, classifier] = name, backbone, {**settings, "residual": "false"}
            notices.append(f"{detector} has no residuals, so {classifier} looks at the crops alone behind it")
        else:
            notices.append(f"{classifier} needs residuals, which {detector} does not have: left out")
    if not heads:
        raise InvalidArgumentError(f"{notices[0]}, and nothing else is asked for: choose patchcore")
    return heads, notices


class _Rows:
    """Finished rows by (detector, binarizer, classifier, seed), in a file that an interrupted call leaves."""

    def __init__(self, path: Path | None, config: SwapConfig):
        self.path, self.done = path, {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"shots": config.shots, "exclude": config.exclude, "data": config.data, **_rest(config)})
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        if not lines or lines[0].rstrip("\n") != head:
            path.write_text(head + "\n", encoding="utf-8")
            return
        whole = [line for line in lines[1:] if line.endswith("\n")]
        path.write_text("".join([lines[0], *whole]), encoding="utf-8")
        for row in map(json.loads, whole):
            self.done[self._key(row)] = row

    def add(self, row: dict[str, Any]) -> None:
        self.done[self._key(row)] = row
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    @staticmethod
    def _key(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
        return row["detector"], row["binarizer"], row["classifier"], row["seed"]


def _rest(config: SwapConfig) -> dict[str, Any]:
    return {"product": config.product, "false_alarm_rate": config.false_alarm_rate}


def _mean_and_spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there is nothing to compute them from."""
    if any(value is None for value in values):
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _write_table(path: Path, summary: Sequence[Mapping[str, Any]]) -> None:
    import csv

    measured = ("accuracy", "kind_accuracy", "image_auroc")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["detector", "binarizer", "classifier", "seeds"]
            + [column for name in measured for column in (name, f"{name}_std")]
            + [f"lost_to_{stage}" for stage in STAGES]
        )
        for row in summary:
            values = [value for name in measured for value in row[name]] + [row["lost"][stage] for stage in STAGES]
            shown = ["" if value is None else f"{value:.6g}" for value in values]
            writer.writerow([row["detector"], row["binarizer"], row["classifier"], row["seeds"], *shown])
