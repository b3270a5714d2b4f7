"""From a unit to its figures: detection, discovery and few-shot classification by the protocols of the literature."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anomalyhub.benchmark.config import GIVEN
from anomalyhub.benchmark.records import METRICS, Predictions
from anomalyhub.benchmark.units import Planned
from anomalyhub.benchmark.work import Work, check_warning, timed
from anomalyhub.errors import InvalidDatasetError
from anomalyhub.types import GOOD


@dataclass(frozen=True)
class Outcome:
    """Metrics by name, None with a reason in `why`; seconds by stage, those of stages shared with other units too."""

    metrics: Mapping[str, float | None]
    seconds: Mapping[str, float]
    predictions: Predictions
    n_images: int
    why: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, planned: Planned, found: Mapping[str, Any], **others: Any) -> Outcome:
        """With those of the metrics found that the row wants. Raises InvalidDatasetError where none is defined."""
        names = [name for name in planned.row.metrics or METRICS[planned.unit.task] if name in found]
        metrics = {name: found[name] for name in names}
        reasons = {name: reason for name, reason in found.get("why", {}).items() if name in names}
        if all(value is None for value in metrics.values()):
            raise InvalidDatasetError(f"{planned.unit.name} has no figure: {'; '.join(sorted(set(reasons.values())))}")
        return cls(metrics, why=reasons, **others)


def measure(planned: Planned, work: Work, *, shared: bool = False) -> Outcome:
    """The figures of a unit.

    shared  other units will ask for the same detector
    """
    return _TASKS[planned.unit.task](planned, work, shared)


def detection(planned: Planned, work: Work, shared: bool) -> Outcome:
    """A detector fitted on normal images, a few, or none, on all test images: see `anomalyhub.pipeline.evaluate`."""
    from anomalyhub.pipeline import evaluate

    fitted = work.detector(planned, stored=shared)
    samples = _test(planned, work)
    rows: list[tuple[str, str, float]] = []
    found, seconds = timed(
        lambda: evaluate(
            fitted.inspector,
            samples,
            work.progress,
            planned.unit.product,
            lambda sample, result: rows.append((sample.id, sample.label, float(result.image_score))),
        )
    )
    check_warning(found, planned)
    predict = found["seconds_per_image"] * len(samples)
    times = {"fit": fitted.seconds, "predict": predict, "metrics": seconds - predict}
    return Outcome.of(
        planned,
        found,
        seconds=times,
        predictions=Predictions(("id", "label", "score"), rows),
        n_images=len(samples),
    )


def discovery(planned: Planned, work: Work, shared: bool) -> Outcome:
    """Kinds among all test images, good ones too, or those of a held-out share that only predict."""
    from anomalyhub.pipeline.discover import GROUND_TRUTH, DiscoverConfig, discover

    row, samples = planned.row, _test(planned, work)
    fitted = work.detector(planned, stored=True) if planned.detector is not None else None
    config = DiscoverConfig(
        data=work.root(planned),
        product=planned.unit.product if planned.root is None else planned.product,
        exclude=_present(planned, work),
        model=None if fitted is None else str(fitted.folder),
        masks=GROUND_TRUTH if fitted is None else None,
        false_alarm_rate=row.false_alarm_rate,
        binarizer=row.binarizer,
        binarizer_settings=row.binarizer_settings,
        classes=len(set(samples.labels)) if row.classes == GIVEN else row.classes,
        discoverer=row.method,
        backbone=work.sources.spec(row.backbone),
        settings=row.settings,
        base=row.base and work.sources.root(row.base),
        holdout=row.holdout,
        detector_backbone=None if fitted is None else work.sources.spec(planned.detector.backbone),
    )
    checkpoints = work.scratch(planned) / f"training-{planned.id[-8:]}"
    found, discoverer, _ = discover(config, seed=planned.unit.seed, progress=work.progress, checkpoints=checkpoints)
    measured = found.metrics()
    level = measured["inductive"] if row.holdout else measured
    counted = ~found.fitted if row.holdout else found.fitted
    merged = {**level["image"], **{f"region_{name}": value for name, value in level["region"].items()}}
    merged["why"] = {
        **level["image"].get("why", {}),
        **{f"region_{name}": reason for name, reason in level["region"].get("why", {}).items()},
    }
    rows = [
        (ref.id, ref.label, found.classes[probs.argmax()], *map(float, probs))
        for ref, probs, counts in zip(found.refs, found.image_probs, counted, strict=True)
        if counts
    ]
    detector = {} if fitted is None else {"detector": fitted.seconds}
    return Outcome.of(
        planned,
        merged,
        seconds={**detector, **found.seconds},
        predictions=Predictions(("id", "label", "predicted", *(f"p:{name}" for name in found.classes)), rows),
        n_images=int(counted.sum()),
    )


def classification(planned: Planned, work: Work, shared: bool) -> Outcome:
    """Kinds of defect from the first images of each class by file name; all others are the test (liu2024).

    Every test image is taken to be defective; the detector says where. The true labels of the test are read last.
    """
    from anomalyhub.metrics import classification_metrics

    samples = _test(planned, work)
    samples = samples.select(sorted(range(len(samples)), key=samples.ids.__getitem__))
    if not planned.row.normal_class:
        samples = samples.select(row for row, label in enumerate(samples.labels) if label != GOOD)
    labels = samples.labels
    support, test = examples(labels, planned.unit.shots)
    if not test:
        raise InvalidDatasetError(f"{planned.unit.name} leaves no image to test: give fewer shots")
    fitted = work.detector(planned, stored=True)
    evidence, looked = work.evidence(planned, fitted, samples, support)
    head, pretrained = work.classifier(planned, fitted)
    shown = [dataclasses.replace(evidence[row], label=labels[row]) for row in support]
    _, fit = timed(lambda: head.fit(shown))
    found, predict = timed(lambda: head.predict([evidence[row] for row in test]).image_probs)
    named = [found.classes[column] for column in found.probs.argmax(axis=1)]
    rows = [
        (samples.ids[row], labels[row], name, *map(float, probs))
        for row, name, probs in zip(test, named, found.probs, strict=True)
    ]
    times = {"detector": fitted.seconds, "features": looked, "pretrain": pretrained, "fit": fit, "predict": predict}
    return Outcome.of(
        planned,
        classification_metrics([labels[row] for row in test], named),
        seconds=times,
        predictions=Predictions(("id", "label", "predicted", *(f"p:{name}" for name in found.classes)), rows),
        n_images=len(test),
    )


def examples(labels: Sequence[str], shots: int) -> tuple[list[int], list[int]]:
    """Rows of the first `shots` of each class, class by class, and all other rows."""
    by_class: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        by_class.setdefault(label, []).append(row)
    support = [row for name in sorted(by_class) for row in by_class[name][:shots]]
    return support, sorted(set(range(len(labels))) - set(support))


_TASKS: Mapping[str, Callable[[Planned, Work, bool], Outcome]] = {
    "detection": detection,
    "discovery": discovery,
    "classification": classification,
}


def _present(planned: Planned, work: Work) -> tuple[str, ...]:
    """The classes to leave out that this product has; not every product has a "combined" one."""
    present = set(work.dataset(planned).test.labels)
    return tuple(name for name in planned.row.exclude_classes if name in present)


def _test(planned: Planned, work: Work) -> Any:
    """The labelled test images without the classes that are left out."""
    test = work.dataset(planned).labelled_test()
    return test.without(ref.id for ref in test.refs if ref.label in planned.row.exclude_classes)
