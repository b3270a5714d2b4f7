"""From figures of single units to rows: over seeds, over products, beside what is published."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from anomalyhub.benchmark.counts import products_of
from anomalyhub.benchmark.published import (
    LOOKALIKES,
    MEAN,
    SOURCES,
    Figure,
    backbone_of,
    dataset_name,
    find,
    is_same_method,
    load_published,
    lookup,
)
from anomalyhub.benchmark.records import METRICS, Record, Unit
from anomalyhub.errors import InvalidArgumentError

OURS, PUBLISHED, SUBMITTED = "ours", "published", "submitted"
#: Note of a published row whose table compares parts of a method.
ABLATION = "compares parts of a method"


@dataclass(frozen=True)
class Value:
    """A figure over seeds: fractions of 1 or seconds; `std` is the sample deviation, None for one seed.

    mean is None where the figure is undefined or incomplete, and `why` says which. n is 0 where nobody says it.
    """

    mean: float | None
    std: float | None = None
    n: int = 0
    why: str = ""

    @classmethod
    def over(cls, values: Sequence[float]) -> Value:
        """The mean and sample deviation of one value per seed."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Row:
    """What a method does on a data set, under one protocol and with one number of shots.

    origin    "ours", "published" or "submitted"
    products  metrics by product; "mean" among them is the macro mean over products
    seeds     of ours; () where they are not said
    seconds   of a product and seed, fitting and prediction
    source    where it is from: configs, a document's table, who has submitted it
    notes     what has to be known to compare it      missing  units that are not there, "PRODUCT, seed 3: reason"
    beside    the published row that it stands beside: source, table, method, variant
    settings  what it depends on, of its first unit   checked  of a submission: what was recomputed
    """

    origin: str
    task: str
    dataset: str
    protocol: str
    method: str
    variant: str
    shots: int | None
    products: Mapping[str, Mapping[str, Value]]
    seeds: tuple[int, ...] = ()
    seconds: Value = Value(None)
    source: str = ""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    beside: Mapping[str, str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    checked: str = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of all products, those of the task first."""
        found = {metric for table in self.products.values() for metric in table}
        known = METRICS.get(self.task, ())
        return (*(metric for metric in known if metric in found), *sorted(found - set(known)))

    def value(self, product: str, metric: str) -> Value:
        """A figure; Value(None) where there is none."""
        return self.products.get(product, {}).get(metric, Value(None))


@dataclass(frozen=True)
class Beside:
    """A published figure for one of ours, and what makes the two differ besides the methods.

    step        what its last printed digit stands for        where  source and table
    difference  ours less the published one, over the products that both have; None where ours is undefined
    """

    value: float
    std: float | None
    step: float
    difference: float | None
    where: str
    notes: tuple[str, ...]


def aggregate(records: Iterable[Record], planned: Mapping[Unit, str] = MappingProxyType({})) -> list[Row]:
    """Rows of units, in the order of their first unit.

    planned  further units that were to be measured, and why they are not there: "" is not yet

    A product's figure is over the seeds that were run. The macro mean is taken for each seed that has all products of
    the row, then over seeds; what is missing is listed, never left out of a mean silently. An undefined metric of a
    product makes its mean undefined.

    Raises InvalidArgumentError where one row's units have different settings.
    """
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        groups[row_key(record.unit)].append(record)
    reasons: dict[tuple, dict[tuple[str, int], str]] = defaultdict(dict)
    for unit, reason in planned.items():
        reasons[row_key(unit)][unit.product, unit.seed] = reason
    return [_row(key, groups.get(key, []), reasons.get(key, {})) for key in {**groups, **reasons}]


def row_key(unit: Unit) -> tuple[str, str, str, str, str, int | None]:
    """What the units of a row have in common."""
    return unit.task, dataset_name(unit.dataset), unit.protocol, unit.method, unit.variant, unit.shots


def _row(key: tuple, records: list[Record], planned: Mapping[tuple[str, int], str]) -> Row:
    task, dataset, protocol, method, variant, shots = key
    by_unit = _by_unit(records)
    products = list(dict.fromkeys(product for product, _ in (*by_unit, *planned)))
    seeds = sorted({seed for _, seed in (*by_unit, *planned)})
    missing = []
    for product in products:
        for seed in seeds:
            if (product, seed) not in by_unit:
                reason = planned.get((product, seed))
                missing.append(f"{product}, seed {seed}" + (f" ({reason})" if reason else ""))
    figures = {
        product: {metric: _value(by_unit, [product], seeds, metric) for metric in _names(by_unit, product)}
        for product in products
    }
    names = list(dict.fromkeys(metric for table in figures.values() for metric in table))
    whole = [seed for seed in seeds if all((product, seed) in by_unit for product in products)]
    figures[MEAN] = {metric: _value(by_unit, products, whole, metric) for metric in names}
    seconds = [float(record.seconds["total"]) for record in by_unit.values() if record.seconds.get("total") is not None]
    first = next(iter(by_unit.values()), None)
    return Row(
        OURS,
        task,
        dataset,
        protocol,
        method,
        variant,
        shots,
        figures,
        tuple(seeds),
        Value(statistics.fmean(seconds), None, len(seeds)) if seconds else Value(None),
        ", ".join(dict.fromkeys(record.config for record in by_unit.values() if record.config)),
        missing=tuple(missing),
        beside=first and first.published,
        settings=first.settings if first else {},
    )


def _by_unit(records: list[Record]) -> dict[tuple[str, int], Record]:
    """Records by product and seed; copies of one unit count once."""
    found: dict[tuple[str, int], Record] = {}
    first: dict[str, Record] = {}
    for record in records:
        product, seed = record.unit.product, record.unit.seed
        other = found.setdefault((product, seed), record)
        if other is not record and other.metrics != record.metrics:
            _refuse(other, record, "figures")
        other = first.setdefault(product, record)
        if differing := sorted(_unlike(other.settings, record.settings)):
            _refuse(other, record, f"settings ({', '.join(differing)})")
    return found


def _unlike(one: Mapping[str, Any], two: Mapping[str, Any]) -> set[str]:
    return {key for key in {*one, *two} if one.get(key) != two.get(key)}


def _refuse(one: Record, two: Record, what: str) -> None:
    raise InvalidArgumentError(
        f"{one.id} and {two.id} are of one row but have different {what}: "
        "give the folder of one run, or tell the rows apart by `variant` in the config"
    )


def _names(by_unit: Mapping[tuple[str, int], Record], product: str) -> list[str]:
    """Metrics of a product's units: numbers, and those that are undefined."""
    found: dict[str, None] = {}
    for (name, _), record in by_unit.items():
        if name == product:
            found |= dict.fromkeys(record.metrics)
    return list(found)


def _value(
    by_unit: Mapping[tuple[str, int], Record], products: Sequence[str], seeds: Sequence[int], metric: str
) -> Value:
    """A metric's mean over products, over those seeds that are there."""
    per_seed = []
    for seed in seeds:
        units = [record for product in products if (record := by_unit.get((product, seed)))]
        for record in units:
            if record.metrics.get(metric) is None:
                why = record.why.get(metric, "not measured")
                return Value(None, None, 0, f"{record.unit.product}, seed {seed}: {why}")
        if units:
            per_seed.append(statistics.fmean(record.metrics[metric] for record in units))
    if not per_seed:
        return Value(None, None, 0, f"no seed has all {len(products)} products")
    return Value.over(per_seed)


def published_rows() -> list[Row]:
    """Every row of the published tables, one per number of shots."""
    groups: dict[tuple, list[Figure]] = defaultdict(list)
    for one in load_published():
        groups[one.source, one.table, one.method, one.variant, one.task, one.dataset, one.shots].append(one)
    rows = []
    for (source, _, method, variant, task, dataset, shots), figures in groups.items():
        products: dict[str, dict[str, Value]] = defaultdict(dict)
        for one in figures:
            products[one.product][one.metric] = Value(one.value, one.std)
        notes = [note for one in figures for note in one.notes]
        if figures[0].ablation:
            notes.append(ABLATION)
        protocol = _protocol(figures[0], notes)
        seconds = products.get(MEAN, {}).pop("seconds", Value(None))
        where, notes = (
            figures[0].where,
            [*dict.fromkeys(notes), SOURCES[source].about(task, dataset, *products.get(MEAN, {}))],
        )
        rows.append(
            Row(
                PUBLISHED,
                task,
                dataset,
                protocol,
                method,
                variant,
                shots,
                products,
                seconds=seconds,
                source=where,
                notes=tuple(notes),
            )
        )
    return rows


def _protocol(figure: Figure, notes: Sequence[str]) -> str:
    if figure.task != "detection":
        return "few-shot" if figure.task == "classification" else "transductive"
    if figure.shots is not None:
        return "few-shot" if figure.shots else "zero-shot"
    if figure.method.startswith("MuSc"):
        return "zero-shot"
    return "few-shot" if any(note.startswith("few-shot track") for note in notes) else "full"


def published_beside(row: Row, product: str, metric: str) -> Beside | None:
    """The published figure for a figure of ours, with everything that tells the two apart; None where there is none.

    The mean over some of the published products is recomputed over these.
    """
    if row.beside is None:
        return None
    likeness = LOOKALIKES.get((row.dataset, product)) or next(
        (entry for (dataset, _), entry in LOOKALIKES.items() if dataset == row.dataset), None
    )
    dataset, asked, notes = row.dataset, product, []
    if likeness:
        dataset, asked, note = likeness
        notes.append(f"other data: {note}")
    names = {key: row.beside.get(key) or "" for key in ("source", "table", "method", "variant")}
    counts = (0, None) if row.protocol == "zero-shot" else (row.shots,)  # of a zero-shot method, not all print a number
    found = (lookup(**names, dataset=dataset, product=asked, shots=shots, metric=metric) for shots in counts)
    figure = next((one for one in found if one), None)
    if figure is None:
        return None
    value, std, common = figure.value, figure.std, ()
    if asked == MEAN:
        value, std, common, more = _mean_over(row, figure)
        notes += more
    ours = row.value(product, metric).mean
    if common and ours is not None:
        ours = statistics.fmean(row.products[name][metric].mean for name in common)
    difference = None if ours is None else ours - value
    notes += [f"{figure.where}: {note}" for note in figure.notes]
    return Beside(value, std, figure.step, difference, figure.where, (*notes, *_differences(row, figure)))


def _mean_over(row: Row, figure: Figure) -> tuple[float, float | None, tuple[str, ...], list[str]]:
    """A published mean over the products that ours is over; the products of both where ours has more."""
    ours = {product for product in row.products if product != MEAN}
    keys = ("source", "table", "method", "variant", "dataset", "shots", "metric")
    same_row = find(**{key: getattr(figure, key) for key in keys})
    theirs = {one.product: one.value for one in same_row if one.product != MEAN}
    if not theirs:
        lacking = sorted(set(products_of(row.dataset)) - ours)
        notes = [f"ours is without {', '.join(lacking)}"] if lacking else []
        return figure.value, figure.std, (), notes
    common, more = tuple(sorted(ours & theirs.keys())), sorted(ours - theirs.keys())
    if not common:
        return figure.value, figure.std, (), [f"ours is over {', '.join(more)}, which {figure.where} has not"]
    notes = [f"ours is also over {', '.join(more)}: the difference is over the others"] if more else []
    if len(common) == len(theirs):
        return figure.value, figure.std, common if more else (), notes
    notes.append(f"{figure.where}: mean of the {len(common)} of its {len(theirs)} products that are here")
    return statistics.fmean(theirs[product] for product in common), None, common if more else (), notes


def _differences(row: Row, figure: Figure) -> Iterator[str]:
    """What differs between a row of ours and a published one, as far as both say it."""
    source, expected = SOURCES[figure.source], backbone_of(figure)
    if not is_same_method(row.method, figure):
        yield f"other method: {figure.method} in {figure.where}"
    if row.settings.get("masks") == "ground-truth" and figure.variant != "GT masks":
        yield f"regions are the true masks here, an oracle, and not in {figure.where}"
    found = sorted(set(_backbones(row.settings)))
    if expected and found and not any(_is(name, expected) for name in found):
        yield f"other backbone: {expected} in {figure.where}, {', '.join(found)} here"
    if row.dataset == "mvtec_ad" and source.combined is not None:
        ours = "combined" not in (row.settings.get("exclude_classes") or ())
        if ours != source.combined:
            words = {True: "keeps", False: "drops"}
            yield f'{source.key} {words[source.combined]} the "combined" classes, this run {words[ours]} them'
    yield source.about(figure.task, figure.dataset, figure.metric)


def _is(name: str, expected: str) -> bool:
    name = "clip-vit-large-patch14-336" if name == "clip" else name
    return name == expected or name.startswith(f"{expected}.") or name.endswith(f"/{expected}")


def _backbones(settings: Any) -> Iterator[str]:
    """Names of backbones anywhere in the settings, without local files."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key.endswith("backbone") and isinstance(value, str):
                yield value.partition("@")[0]
            else:
                yield from _backbones(value)
