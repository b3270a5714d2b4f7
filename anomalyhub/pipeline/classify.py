"""From a handful of examples to an inspector that names kinds; and what a classifier says of other images."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidModelError
from anomalyhub.protocols import Progress, part
from anomalyhub.state import SCHEMA, read_json, write_json
from anomalyhub.types import GOOD

if TYPE_CHECKING:
    from anomalyhub.classification import BaseClassifier, Evidence
    from anomalyhub.data import SampleRef, Split
    from anomalyhub.pipeline.inspector import Inspector
    from anomalyhub.types import Sample

#: What the examples were and how well they tell their classes apart; beside an inspector's other files.
EXAMPLES = "examples.json"


@dataclass(frozen=True)
class ClassifyConfig:
    """Which examples a classifier learns from, and how. Of `data`, `examples` and `kinds` one is given.

    model            a detector's folder, whose residuals and regions the classifier sees
    data             a path for `load_dataset`: the first `shots` images of each defect class, by file name, are the
                     examples (liu2024); its normal images are kept for explanations
    product          one of the data set's products
    split            which of its images: test, train or all
    shots            examples per class, 1 or more; None takes all
    examples         (id, path, class) of each, or (id, path, class, mask): a PNG of the defect, marked by a person
    normals          with `examples`: (id, path) of normal images for explanations
    kinds            the model/ folder of a discovery, whose kinds are taken: nothing is learned
    classes          the classes that are wanted; None: those that have examples
    exclude          classes that are left out, such as several defects at once
    masks            "detector": regions by the detector; "ground-truth": the data set's own masks, an oracle
    head             a registered classifier; backbone: a SPEC for heads that look at pictures; settings: its config
    pretrained       a folder of `pretrain`
    binarizer        how maps become regions: mebin, otsu or fixed; binarizer_settings: its settings
    detector_backbone  replaces the SPEC stored in `model`, where its weights file has moved
    check            measure by leave-one-out how well the examples are told apart
    """

    model: str
    data: str | None = None
    product: str | None = None
    split: str = "test"
    shots: int | None = 5
    examples: tuple | None = None
    normals: tuple = ()
    kinds: str | None = None
    classes: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    masks: Literal["detector", "ground-truth"] = "detector"
    head: str = "prototype"
    backbone: str | None = None
    pretrained: str | None = None
    settings: dict = field(default_factory=dict)
    binarizer: str = "mebin"
    binarizer_settings: dict = field(default_factory=dict)
    detector_backbone: str | None = None
    check: bool = True

    def __post_init__(self):
        if sum(source is not None for source in (self.data, self.examples, self.kinds)) != 1:
            raise InvalidArgumentError(
                "kinds are learned from one of a data set, a list of examples, and a discovery: give --data or --kinds"
            )
        if self.shots is not None and self.shots < 1:
            raise InvalidArgumentError(f"shots must be at least 1 example per class, got {self.shots}")
        for entry in self.examples or ():
            if not (isinstance(entry, (list, tuple)) and len(entry) in (3, 4)):
                raise InvalidArgumentError(f"examples must be (id, path, class) or with a mask, got {entry!r}")


@dataclass(frozen=True, eq=False)
class Classified:
    """A fitted inspector and what is known of its examples.

    examples  one record per example: id, label, digest of its pixels, located (whether the detector finds it), regions
    check     by leave-one-out: see `classification_metrics`, with "rows" (id, label, predicted, probability) and
              "unchecked", the classes of one example; {} where nothing was checked
    notices   what its user should know, one sentence each
    """

    inspector: Inspector
    examples: tuple[dict[str, Any], ...] = ()
    check: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Write the inspector and examples.json into an existing folder."""
        self.inspector.write(folder)
        stored = {"schema": SCHEMA, "examples": self.examples, "leave_one_out": self.check, "notices": self.notices}
        write_json(folder / EXAMPLES, stored)


def classify(
    config: ClassifyConfig, *, seed: int = 0, progress: Progress | None = None, checkpoints: Path | None = None
) -> Classified:
    """Fit what names kinds to a copy of a fitted detector.

    checkpoints  a folder for what an interrupted training goes on from
    Raises what the stages raise: InvalidDatasetError, InvalidImageError, InvalidModelError, InvalidArgumentError.
    """
    from anomalyhub.pipeline.inspector import Inspector

    part(progress, 0.0, 1.0)(0.0, "loading the detector")
    inspector = Inspector.load(Path(config.model), backbone=config.detector_backbone)
    if config.kinds is not None:
        return Classified(with_kinds(inspector, Path(config.kinds), config.backbone))
    examples, normals, notices = _examples(config)
    classifier = _unfitted(config, inspector, seed)
    from anomalyhub.pipeline.evidence import evidence_of
    from anomalyhub.pipeline.naming import references_of
    from anomalyhub.regions import binarizers

    binarizer = binarizers[config.binarizer](**config.binarizer_settings)
    references, unreadable = references_of(normals)
    notices += unreadable
    evidence = evidence_of(
        inspector,
        [one.sample() for one in examples],
        binarizer=binarizer,
        masks=config.masks if config.examples is None else [one.mask() for one in examples],
        labels=[one.ref.label for one in examples],
        progress=part(progress, 0.0, 0.2),
    )
    notices += [
        f"the detector finds nothing abnormal in {one.id}, an example of {one.label}: its strongest spot is taken; "
        "mark the defect, or give another example"
        for one in evidence
        if not one.located
    ]
    classifier.fit(evidence, part(progress, 0.2, 0.8 if config.check else 1.0), checkpoints)
    check = leave_one_out(classifier, evidence, part(progress, 0.8, 1.0)) if config.check else {}
    made = inspector.with_classifier(classifier, binarizer, references)
    return Classified(made, tuple(map(_record, evidence)), check, tuple(notices))


def classify_to(
    folder: Path | None,
    config: ClassifyConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> Classified:
    """`classify`, and write its result into an existing folder; None in all but the first of several processes."""
    made = classify(config, seed=seed, progress=progress, checkpoints=checkpoints)
    if folder is not None:
        made.write(folder)
    return made


def with_kinds(inspector: Inspector, folder: Path, backbone: Any = None) -> Inspector:
    """An inspector with the kinds of a discovery's model/ folder."""
    from anomalyhub.discovery import load_discoverer
    from anomalyhub.pipeline.naming import BINARIZER
    from anomalyhub.regions import Binarizer

    discoverer = load_discoverer(folder, backbone)
    if not (folder / BINARIZER).exists():
        raise InvalidModelError(
            f"{folder} was discovered with ground-truth masks, so it cannot find regions: discover with --model"
        )
    return inspector.with_discoverer(discoverer, Binarizer.from_json(read_json(folder / BINARIZER)))


def leave_one_out(
    classifier: BaseClassifier, evidence: Sequence[Evidence], progress: Progress | None = None
) -> dict[str, Any]:
    """How well the examples are told apart: each is named by a classifier of the others."""
    from anomalyhub.metrics import classification_metrics

    rows, probs = classifier.leave_one_out(evidence, progress)
    true = [str(evidence[row].label) for row in rows]
    best = probs.probs.argmax(axis=1).tolist() if len(rows) else []
    predicted = [probs.classes[column] for column in best]
    measured = classification_metrics(true, predicted)
    told = zip(rows.tolist(), predicted, best, strict=True)
    measured["rows"] = [
        {
            "id": evidence[row].id,
            "label": str(evidence[row].label),
            "predicted": name,
            "probability": float(probs.probs[number, column]),
        }
        for number, (row, name, column) in enumerate(told)
    ]
    measured["unchecked"] = sorted(set(classifier.classes_) - set(true))
    return measured


def read_examples(folder: Path) -> dict[str, Any]:
    """examples.json of an inspector's folder: examples, leave_one_out and notices. Raises InvalidModelError."""
    return read_json(Path(folder) / EXAMPLES)


def predict_to(
    folder: Path,
    inspector: Inspector,
    samples: Split,
    *,
    known: Iterable[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Name the kind of images that are all taken to be defective: classes.csv, and with labels metrics.json.

    known  digests of the examples' pixels: images that are among them are named and do not count in the metrics
    Returns the metrics; {} without labels. Raises InvalidModelError for an inspector without kinds.
    """
    from anomalyhub.detection.provenance import digest
    from anomalyhub.metrics import classification_metrics
    from anomalyhub.report.tables import safe_label, safe_name

    if not inspector.kinds:
        raise InvalidModelError("this model knows no kinds: give the --out folder of classify fit")
    known, pairs, count = set(known), [], 0
    with open(folder / "classes.csv", "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "probability", *map(safe_label, inspector.kinds)])
        for sample, result in inspector.inspect_with_samples(samples, threshold=-np.inf, progress=progress):
            probs = dict(result.probs)
            best = f"{max(probs.values()):.6g}"
            row = [f"{probs[kind]:.6g}" for kind in inspector.kinds]
            writer.writerow([safe_name(result.id), safe_label(result.label), best, *row])
            if f"{digest(sample.image):016x}" in known:
                count += 1
            elif sample.label is not None:
                pairs.append((sample.label, max(probs, key=probs.get), result.label))
    if not pairs:
        return {}
    true, named, told = zip(*pairs, strict=True)
    metrics = classification_metrics(true, named)
    metrics |= {"n_examples_left_out": count, "n_unknown": sum(label not in inspector.kinds for label in told)}
    write_json(folder / "metrics.json", metrics)
    return metrics


@dataclass(frozen=True)
class _Example:
    """An image of a class, and a file where a person has marked the defect, if any."""

    ref: SampleRef
    marked: Path | None = None

    def sample(self) -> Sample:
        return self.ref.load()

    def mask(self) -> np.ndarray | None:
        from anomalyhub.data import read_image, read_mask

        return None if self.marked is None else read_mask(self.marked, read_image(self.ref.path).shape[:2])


def _examples(config: ClassifyConfig) -> tuple[list[_Example], Sequence[Sample], list[str]]:
    """The examples, normal images for explanations, and notices."""
    from anomalyhub.data import SampleRef, Split, load_dataset

    if config.examples is not None:
        found = [
            _Example(SampleRef(str(name), Path(path), str(label)), *(Path(file) for file in mask if file is not None))
            for name, path, label, *mask in config.examples
        ]
        normals: Sequence[Sample] = Split(SampleRef(str(name), Path(path)) for name, path in config.normals)
    else:
        dataset = load_dataset(config.data, config.product)
        refs = [ref for ref in dataset.split(config.split).refs if ref.label not in (None, GOOD)]
        if not refs:
            raise InvalidDatasetError(
                f"{dataset.root} has no labelled defects: put examples into folders named by their kind"
            )
        found = [_Example(ref) for ref in sorted(refs, key=lambda ref: ref.id)]
        normals = dataset.train if all(label == GOOD for label in dataset.train.labels) else ()
    by_class: dict[str, list[_Example]] = {}
    for one in found:
        by_class.setdefault(one.ref.label, []).append(one)
    wanted = sorted(by_class) if config.classes is None else list(config.classes)
    for name in wanted:
        if name not in by_class:
            raise InvalidDatasetError(f"class {name} has no example: give at least one, or leave the class out")
    wanted = [name for name in wanted if name not in config.exclude]
    shots = config.shots if config.examples is None else None
    notices = [
        f"class {name} has {len(by_class[name])} of the {shots} examples asked for: all are taken"
        for name in wanted
        if shots is not None and len(by_class[name]) < shots
    ]
    return [one for name in wanted for one in by_class[name][:shots]], normals, notices


def _unfitted(config: ClassifyConfig, inspector: Inspector, seed: int) -> BaseClassifier:
    from anomalyhub.classification import create_classifier, load_classifier
    from anomalyhub.pipeline.pretrain import signature

    if config.pretrained is None:
        return create_classifier(config.head, config.backbone, seed=seed, settings=config.settings)
    classifier = load_classifier(Path(config.pretrained), config.backbone)
    if classifier.name != config.head:
        raise InvalidModelError(
            f"{config.pretrained} is a pretrained {classifier.name} head, not {config.head}: "
            f"give --head {classifier.name}"
        )
    if config.settings:
        raise InvalidArgumentError("a pretrained head keeps its settings: leave out --set, or pretrain with them")
    learned = (classifier.pretraining_ or {}).get("features")
    if classifier.reads_patches and learned != signature(inspector.detector):
        raise InvalidModelError(
            f"{config.pretrained} was pretrained on features of another detector ({learned}): pretrain with --model "
            f"{config.model}"
        )
    classifier.seed = seed
    return classifier


def _record(one: Evidence) -> dict[str, Any]:
    from anomalyhub.detection.provenance import digest

    regions = [{"box": list(crop.box), "area": crop.area_px} for crop in one.sub_images]
    identity = f"{digest(one.image):016x}"
    return {"id": one.id, "label": one.label, "digest": identity, "located": one.located, "regions": regions}
