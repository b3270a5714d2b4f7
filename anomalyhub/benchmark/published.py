"""Figures of the literature, as data: what four documents print in their tables of results.

`published/SOURCE.csv` has one row per printed number, as printed and in the unit of its table: facts, transcribed and
checked (means against their rows, repeated figures against each other); what is odd about a row is in its `note`.
Here all shares are fractions of 1, and names of data sets and products are AnomalyHub's.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from anomalyhub.benchmark.records import METRICS
from anomalyhub.errors import UnknownNameError

#: The product of a row that is the average over the products, or the only figure of a data set.
MEAN = "mean"
_TASK_OF = {metric: task for task, metrics in METRICS.items() for metric in metrics} | {
    "fpr": "discovery",  # of binarization, which the tables of discovery rate
    "fnr": "discovery",
    "precision": "discovery",
    "recall": "discovery",
}
_SCALE = {"percent": Decimal(100), "fraction": Decimal(1), "seconds": Decimal(1), "kWh": Decimal(1)}
_ALIASES = {"mvtec": "mvtec_ad", "mvtec_3d": "mvtec_3d_ad", "mvtec3d": "mvtec_3d_ad", "magnetic_tiles": "mtd"}


@dataclass(frozen=True)
class Source:
    """A document, and what its protocol is.

    shots     what a number of shots counts                spread    what the deviations are over
    combined  whether MVTec AD's "combined" classes count; None where no figure depends on it
    protocol  what else a comparison has to know: of all figures (""), or of those of a task, data set or metric
    """

    key: str
    title: str
    authors: str
    year: int
    shots: str
    spread: str
    combined: bool | None
    protocol: tuple[tuple[str, str], ...] = ()

    def about(self, *scopes: str) -> str:
        """Shots, deviations and protocol in a sentence, for figures of these tasks, data sets and metrics."""
        told = [text for scope, text in self.protocol if not scope or scope in scopes]
        return f"{self.key}: " + "; ".join([f"shots are {self.shots}", f"deviation {self.spread}", *told])


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        source.key: source
        for source in (
            Source(
                "liu2024",
                "Anomaly Multi-classification in Industrial Scenarios: Transferring Few-shot Learning to a New Task",
                "Liu, Wu, Luo, Wu",
                2024,
                "labelled defective images of each class of defect, all others being the test",
                "over the coreset seeds 1 to 5 (sample)",
                True,
                (
                    ("mvtec_ad", 'the "combined" classes are kept'),
                    ("mvtec_ad", "toothbrush, which has one class, is left out: means are over 14 products"),
                    ("", "every test image is taken as defective, but in Table 12, where good ones are a class"),
                ),
            ),
            Source(
                "aprilgan2023",
                "A Zero-/Few-Shot Anomaly Classification and Segmentation Method for CVPR 2023 VAND Workshop "
                "Challenge Tracks 1&2",
                "Chen, Han, Zhang",
                2023,
                "normal images of reference, 0 is zero-shot",
                "over 5 seeds",
                None,
                (("detection", "APRIL-GAN is trained on the other one of MVTec AD and VisA, with masks"),),
            ),
            Source(
                "ejaz2024",
                "A Few-Shot Learning Method for Single-Object Visual Anomaly Detection",
                "Ejaz",
                2024,
                "normal images of reference",
                "not printed",
                None,
                (("detection", "trained on normal images of the other products; ten support sets"),),
            ),
            Source(
                "anomalyncd2024",
                "AnomalyNCD: Towards Novel Anomaly Class Discovery in Industrial Scenarios",
                "Huang et al.",
                2024,
                "none, as no image is labelled",
                "not printed",
                False,
                (
                    ("mvtec_ad", 'the "combined" classes are dropped'),
                    ("discovery", "good images are a class, and the number of classes is given"),
                    ("aupro", "AUPRO is up to a false-positive rate of 30 %"),
                ),
            ),
        )
    }
)


@dataclass(frozen=True)
class Figure:
    """One printed number.

    dataset, product    AnomalyHub's names; `product` is "mean" for the average, or the only figure of a data set
    shots               see Source.shots; None where it does not apply or is not said
    value, std          fractions of 1, seconds or kWh; std is None where none is printed
    step                what the last printed digit stands for, in the unit of `value`
    ablation            whether the table compares parts of a method
    notes               what is odd or particular about it
    """

    source: str
    table: str
    task: str
    method: str
    variant: str
    dataset: str
    product: str
    shots: int | None
    metric: str
    value: float
    std: float | None
    step: float
    ablation: bool
    notes: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, str, str, str, str, int | None, str]:
        """What tells a figure from all others; the arguments of `lookup` in their order."""
        return (
            self.source,
            self.table,
            self.method,
            self.variant,
            self.dataset,
            self.product,
            self.shots,
            self.metric,
        )

    @property
    def where(self) -> str:
        """ "liu2024, Table 1"."""
        return f"{self.source}, {self.table}"


def snake(text: str) -> str:
    """A name as AnomalyHub writes it: "MVTec 3D-AD" is mvtec_3d_ad."""
    return re.sub(r"[^a-z0-9]+", "_", text.strip().lower()).strip("_")


def dataset_name(text: str) -> str:
    """AnomalyHub's name of a data set, whichever way it is written: "MVTec AD", "MVTec-AD" and "mvtec" are mvtec_ad.

    One on the Hub, hf:OWNER/NAME, keeps its name.
    """
    name = text if text.startswith("hf:") else snake(text)
    return _ALIASES.get(name, name)


@lru_cache(maxsize=1)
def load_published() -> tuple[Figure, ...]:
    """All figures, by source, in the order of their documents."""
    folder = resources.files("anomalyhub.benchmark") / "published"
    found = []
    for source in SOURCES:
        text = (folder / f"{source}.csv").read_text(encoding="utf-8")
        found += [_figure(source, row) for row in csv.DictReader(io.StringIO(text))]
    return tuple(found)


def _figure(source: str, row: dict[str, str]) -> Figure:
    printed, scale = Decimal(row["value"]), _SCALE[row["unit"]]
    exponent = printed.as_tuple().exponent
    return Figure(
        source,
        row["table"],
        _TASK_OF.get(row["metric"], "detection"),
        row["method"],
        row["variant"],
        dataset_name(row["dataset"]),
        row["category"],
        int(row["shots"]) if row["shots"] else None,
        row["metric"],
        float(printed / scale),
        float(Decimal(row["std"]) / scale) if row["std"] else None,
        float(Decimal(1).scaleb(int(exponent)) / scale),
        row["task"] == "ablation",
        tuple(note.strip() for note in row["note"].split(";") if note.strip()),
    )


def find(**wanted: Any) -> tuple[Figure, ...]:
    """The figures whose fields have these values, such as find(source="liu2024", shots=2, product="mean").

    Data sets and tables may be written in any way: "MVTec AD", "1" or "Table 1". A field that is None matches figures
    that have none. Raises UnknownNameError for a field that there is not.
    """
    names = [field.name for field in fields(Figure)]
    for name in wanted:
        if name not in names:
            raise UnknownNameError("field of a published figure", name, names)
    if "dataset" in wanted:
        wanted["dataset"] = dataset_name(wanted["dataset"])
    if "table" in wanted:
        wanted["table"] = _table_name(wanted["table"])
    return tuple(one for one in load_published() if all(getattr(one, key) == value for key, value in wanted.items()))


def lookup(
    source: str,
    table: str,
    method: str,
    variant: str | None,
    dataset: str,
    product: str,
    shots: int | None,
    metric: str,
) -> Figure | None:
    """The one figure with this key; None where the document prints none.

    Raises UnknownNameError for a source, table, method or variant that there is not.
    """
    variant, table = variant or "", _table_name(table)
    check_row(source, table, method, variant)
    key = (source, table, method, variant, dataset_name(dataset), product, shots, metric)
    return _by_key().get(key)


def check_row(source: str, table: str, method: str, variant: str | None) -> None:
    """Raise UnknownNameError unless a table has rows of this method and variant."""
    table, rows = _table_name(table), load_published()
    for kind, name, keys in (
        ("source", source, lambda one: one.source),
        (f"table of {source}", table, lambda one: one.table),
        (f"method of {source}, {table}", method, lambda one: one.method),
        (f"variant of {method} in {source}, {table}", variant or "", lambda one: one.variant),
    ):
        rows = _having(rows, keys, name, kind)


def _having(rows: Collection[Figure], key: Any, name: str, kind: str) -> tuple[Figure, ...]:
    kept = tuple(one for one in rows if key(one) == name)
    if not kept:
        raise UnknownNameError(kind, name, {key(one) or '""' for one in rows})
    return kept


@lru_cache(maxsize=1)
def _by_key() -> dict[tuple, Figure]:
    return {one.key: one for one in load_published()}


def _table_name(table: str) -> str:
    return table if table.startswith("Table ") else f"Table {table}"


#: Data of ours that stand for a published product without being it: what they are.
LOOKALIKES: Mapping[tuple[str, str], tuple[str, str, str]] = MappingProxyType(
    {("leather", "leather"): ("mvtec_ad", "leather", "crops of a part of MVTec AD's leather, not the data set itself")}
)
#: Backbones of published rows by source, task, end of the method's name, and variant ("" for any other).
_BACKBONES = (
    ("liu2024", "classification", "", "", "resnet50"),
    ("anomalyncd2024", "discovery", "AnomalyNCD", "", "vit_base_patch8_224.dino"),
    ("aprilgan2023", "detection", "APRIL-GAN", "", "clip-vit-large-patch14-336"),
    ("ejaz2024", "detection", "Ejaz 2024", "ConvNeXt Tiny", "convnext_tiny"),
    ("ejaz2024", "detection", "Ejaz 2024", "", "resnet18"),
)
#: Methods of AnomalyHub that are published under another name.
_NAMES = {
    "contrastive": "Contrastive classifier",
    "relation": "Vanilla baseline",
    "direct": "Direct classification",
    "siamese": "Ejaz 2024",
}


def backbone_of(figure: Figure) -> str | None:
    """The backbone of a figure's row, in timm's or the Hub's naming; None where it is another's figure or not said."""
    for source, task, method, variant, backbone in _BACKBONES:
        if (figure.source, figure.task) == (source, task) and figure.method.endswith(method):
            if variant in ("", figure.variant):
                return backbone
    return None


def is_same_method(name: str, figure: Figure) -> bool:
    """Whether a method of AnomalyHub is the one of a figure; "musc" is that of MuSc+AnomalyNCD's anomaly maps."""
    if name in _NAMES:
        return _NAMES[name] == figure.method
    return snake(name).replace("_", "") in snake(figure.method).replace("_", "")
