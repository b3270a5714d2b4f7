"""What a config comes to: units in the order in which they are measured, each with all that its result depends on."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anomalyhub.benchmark.config import BenchmarkConfig, DetectorPart, Row
from anomalyhub.benchmark.records import SCHEMA, Unit, digest
from anomalyhub.benchmark.sources import SAMPLE, Sources, data_digest, without_folders
from anomalyhub.config import configure
from anomalyhub.errors import InvalidArgumentError, UnknownNameError
from anomalyhub.state import jsonable

PLAN, PLAN_KIND = "plan.json", "benchmark-plan"
_DRAWN = ("n_train", "n_test_good", "n_defect", "size", "seed")


@dataclass(frozen=True, eq=False)
class Planned:
    """A unit to be measured.

    settings  everything that its result depends on, as JSON values
    root      of its data set, for `load_dataset`; None: the sample, which is drawn
    product   what `load_dataset` takes with it
    detector  the detector that finds its anomalies; None with ground-truth masks
    """

    unit: Unit
    row: Row
    settings: Mapping[str, Any]
    root: str | None
    product: str | None
    detector: DetectorPart | None

    @cached_property
    def id(self) -> str:
        return self.unit.id(self.settings)

    @property
    def detector_seed(self) -> int:
        return self.unit.seed if self.detector is None or self.detector.seed is None else self.detector.seed

    @property
    def detector_shots(self) -> int | None:
        """Normal images that the detector is fitted on; None: all of them."""
        return self.unit.shots if self.row.task == "detection" or self.detector is None else self.detector.shots

    @cached_property
    def detector_key(self) -> str:
        """Equal where units can share one fitted detector."""
        if self.detector is None:
            return ""
        depends = {key: self.settings.get(key) for key in ("data", "detector", "auxiliary")}
        fit = {"product": product_of(self), "seed": self.detector_seed, "shots": self.detector_shots}
        return digest({**depends, **fit})[:16]


def make_plan(config: BenchmarkConfig, sources: Sources) -> list[Planned]:
    """All units, product after product; within a product, those that share a detector follow each other.

    Reads which images there are, and decodes none. Raises UnknownNameError for a data set or product, and
    InvalidDatasetError or InvalidArgumentError for what is missing, or named twice.
    """
    reader = _Reader(sources)
    units = [one for row in config.rows for one in _units(row, reader)]
    seen: dict[Unit, Planned] = {}
    for one in units:
        if one.unit in seen:
            raise InvalidArgumentError(f"two rows give the unit {one.unit.name}: give one of them another variant")
        seen[one.unit] = one
    first: dict[tuple, int] = {}
    places = []
    for number, one in enumerate(units):
        shared = (product_of(one), one.detector_key, (one.row.masks, one.unit.shots))
        places.append([first.setdefault(shared[:depth], number) for depth in (1, 2, 3)])
    return [units[number] for number in sorted(range(len(units)), key=lambda number: (places[number], number))]


def product_of(planned: Planned) -> tuple[str, str]:
    """What several processes share out among each other; two samples that are drawn differently are two."""
    drawn = planned.settings["data"]["digest"] if planned.root is None else ""
    return f"{planned.unit.dataset}{drawn}", planned.unit.product


def plan_json(config: BenchmarkConfig, plan: list[Planned]) -> dict[str, Any]:
    """What plan.json of a run holds: the config and its units, so that one knows which are missing."""
    units = [{"id": one.id, "unit": dataclasses.asdict(one.unit)} for one in plan]
    rows = without_folders(jsonable(config.to_json()))
    content = {"config": config.name, "digest": digest(rows), "rows": rows, "units": units}
    return {"schema": SCHEMA, "kind": PLAN_KIND, **content}


def _units(row: Row, reader: _Reader) -> list[Planned]:
    found = []
    root = None if row.dataset == SAMPLE else reader.sources.root(row.dataset)
    for name, product in reader.sources.products(row).items():
        settings = _settings(row, name, product, reader)
        for seed in row.seeds:
            for shots in row.shots or (None,):
                unit = Unit(row.task, row.method, row.variant, row.dataset, name, _protocol(row, shots), shots, seed)
                found.append(Planned(unit, row, settings, root, product, _detector_of(row)))
    return found


def _protocol(row: Row, shots: int | None) -> str:
    if row.task == "discovery":
        return "inductive" if row.holdout else "transductive"
    return "full" if shots is None else "few-shot" if shots else "zero-shot"


def _detector_of(row: Row) -> DetectorPart | None:
    return DetectorPart(row.method, row.backbone, row.settings) if row.task == "detection" else row.detector


def _settings(row: Row, name: str, product: str | None, reader: _Reader) -> dict[str, Any]:
    """Everything that the result depends on, but the unit: methods' settings with their defaults, digests of files."""
    settings: dict[str, Any] = {"data": reader.data(row, product), "exclude_classes": sorted(row.exclude_classes)}
    detector = _detector_of(row)
    if detector is not None:
        settings["detector"] = reader.detector(detector, name)
    if row.auxiliary is not None:
        left_out = name if row.auxiliary.leave_out else None
        digests = {one: reader.digests(one, left_out) for one in row.auxiliary.datasets}
        settings["auxiliary"] = {**dataclasses.asdict(row.auxiliary), "products": digests}
    if row.task != "detection":
        settings |= reader.method(row)
        binarizer = {"masks": row.masks, "binarizer": row.binarizer, "binarizer_settings": row.binarizer_settings}
        settings |= binarizer if row.task == "classification" or row.masks == "detector" else {"masks": row.masks}
    if row.task == "discovery":
        settings |= {"false_alarm_rate": row.false_alarm_rate, "classes": row.classes, "holdout": row.holdout}
        settings["base"] = row.base and {"dataset": row.base, **reader.listed(reader.sources.root(row.base), None)}
    if row.task == "classification":
        settings["normal_class"] = row.normal_class
        settings["pretraining"] = row.pretraining and reader.pretraining(row)
    return without_folders(jsonable(settings))


class _Reader:
    """Reads lists of images, each once."""

    def __init__(self, sources: Sources):
        self.sources = sources
        self._digests: dict[tuple[str, str | None], dict[str, Any]] = {}

    def data(self, row: Row, product: str | None) -> dict[str, Any]:
        """What tells the product's images from others."""
        if row.dataset == SAMPLE:
            drawn = drawn_sample(row)
            return {"sample": drawn, "digest": digest(drawn)[:16]}
        return self.listed(self.sources.root(row.dataset), product)

    def listed(self, root: str, product: str | None) -> dict[str, Any]:
        from anomalyhub.data import load_dataset

        if (root, product) not in self._digests:
            dataset = load_dataset(root, product)
            counts = {"n_train": len(dataset.train), "n_test": len(dataset.test)}
            self._digests[root, product] = {"digest": data_digest(dataset), **counts}
        return self._digests[root, product]

    def digests(self, name: str, left_out: str | None) -> dict[str, str]:
        """Of a data set's products, all but one; of the sample none, which its own settings draw."""
        from anomalyhub.data import list_products

        if name == SAMPLE:
            raise InvalidArgumentError("the sample cannot be trained on in a benchmark: name another data set")
        root = self.sources.root(name)
        products = [one for one in list_products(root) or (None,) if one is None or one != left_out]
        return {one or name: self.listed(root, one)["digest"] for one in products}

    def detector(self, part: DetectorPart, product: str) -> dict[str, Any]:
        from anomalyhub.detection import create_detector, detectors
        from anomalyhub.pipeline.inspector import with_product

        settings = with_product(part.method, part.settings, product)
        made = create_detector(part.method, "embedded", seed=0, settings=settings)
        backbone = part.backbone or getattr(detectors[part.method], "default_backbone", None)
        found = {"method": part.method, "backbone": backbone, "settings": dataclasses.asdict(made.config)}
        texts = [(backbone or "").partition("@")[2], part.settings.get("weights")]
        found["shots"] = part.shots
        return found | {"weights": {text: self.sources.weights_digest(text) for text in texts if text}}

    def method(self, row: Row) -> dict[str, Any]:
        """The settings of a discoverer or a classifier head."""
        from anomalyhub.classification import create_classifier
        from anomalyhub.discovery import create_discoverer

        if row.task == "discovery":
            made = create_discoverer(row.method, row.backbone or "embedded", seed=0, settings=row.settings)
        else:
            made = create_classifier(row.method, row.backbone, seed=0, settings=row.settings)
        text = (made.backbone or "").partition("@")[2]
        weights = {text: self.sources.weights_digest(text)} if text else {}
        return {"method": {"backbone": made.backbone, "settings": dataclasses.asdict(made.config), "weights": weights}}

    def pretraining(self, row: Row) -> dict[str, Any]:
        from anomalyhub.synthesis import SynthesisConfig, load_textures

        part = row.pretraining
        textures = load_textures(part.textures and self.sources.root(part.textures))
        synthesis = dataclasses.asdict(configure(SynthesisConfig, part.synthesis))
        return {**dataclasses.asdict(part), "synthesis": synthesis, "texture_names": textures.names}


def drawn_sample(row: Row) -> dict[str, int]:
    """Arguments of `write_sample`, with their defaults. Raises UnknownNameError for another one."""
    from anomalyhub.data.sample import write_sample

    for name in row.sample:
        if name not in _DRAWN:
            raise UnknownNameError("key of sample", name, _DRAWN)
    defaults = inspect.signature(write_sample).parameters
    return {name: row.sample.get(name, defaults[name].default) for name in _DRAWN}


def chosen(plan: list[Planned], pattern: str | None) -> list[Planned]:
    """The units whose id or name holds a text, or matches a pattern with * and ?, whatever the case.

    Raises InvalidArgumentError where there is none.
    """
    import fnmatch

    if pattern is None:
        return plan
    asked = pattern.lower()
    asked = asked if set(asked) & set("*?[") else f"*{asked}*"
    kept = [one for one in plan if any(fnmatch.fnmatchcase(text.lower(), asked) for text in (one.id, one.unit.name))]
    if not kept:
        raise InvalidArgumentError(f"no unit has {pattern!r} in its name, such as {plan[0].unit.name}: see --list")
    return kept


def scratch_name(planned: Planned) -> str:
    """The folder, among a run's scratch, of what the units of a product share."""
    dataset, product = product_of(planned)
    return Path(f"{dataset}--{product}".replace("/", "-").replace(":", "-")).name
