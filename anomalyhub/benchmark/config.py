"""Configs of benchmarks: YAML files of rows, each one method by one protocol on one data set.

    published: {source: aprilgan2023, table: Table 3, method: PatchCore, variant: ""}
    task: detection
    dataset: mvtec_ad
    method: patchcore
    backbone: wide_resnet50_2
    shots: [1, 2, 4]
    seeds: [0, 1, 2, 3, 4]

A file holds the keys of one row, see `Row`, or a list of them under `rows`, for which its other keys are defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anomalyhub.benchmark.published import check_row, dataset_name
from anomalyhub.benchmark.records import METRICS, TASKS
from anomalyhub.config import configure
from anomalyhub.errors import InvalidArgumentError, UnknownNameError

ALL = "all"
#: Classes of a discovery: as many as the test images have.
GIVEN = "given"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class DetectorPart:
    """The detector whose maps a discovery groups, and whose features and regions a classifier sees.

    shots  normal images that it is fitted on; None: all; 0 for one that needs none, such as MuSc
    seed   of its fit; None: the unit's
    """

    method: str = "patchcore"
    backbone: str | None = None
    settings: dict = field(default_factory=dict)
    shots: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Pretraining:
    """Synthetic defects that a classifier is pretrained on, painted on the product's own normal images.

    textures  a data set's name, such as dtd; None: textures that the package draws
    count     synthetic defects; synthesis: fields of SynthesisConfig
    seed      of the pictures, the same for all seeds of the classifier
    against, masks  as in `anomalyhub.pipeline.pretrain.PretrainConfig`
    """

    textures: str | None = None
    count: int = 470  # 10 of each of 47 textures
    synthesis: dict = field(default_factory=dict)
    seed: int = 0
    against: Literal["bank", "clean"] = "bank"
    masks: Literal["detector", "painted"] = "detector"


@dataclass(frozen=True)
class Auxiliary:
    """Weights that a detector is given by its setting `weights`, trained on other products.

    trainer   april-gan or siamese         datasets  where its products come from
    leave_out the measured product is left out, and the weights are trained for each product
    seed      of the training, the same for all seeds of the row; settings: the trainer's
    """

    trainer: str
    datasets: tuple[str, ...]
    leave_out: bool = False
    settings: dict = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Published:
    """A row of a table in the literature."""

    source: str
    table: str
    method: str
    variant: str = ""


@dataclass(frozen=True)
class Row:
    """One method by one protocol on one data set.

    products        names, or all; exclude_products: names to leave out
    method          a detector, discoverer or classifier head; variant: what tells this row from others of the method
    backbone        a SPEC; the path after its @ starts at the weights folder; None: the method's own
    settings        of the method
    shots           normal images of a detector (0: zero-shot) or examples of each class; empty: all, or none at all
    seeds           one unit for each; of few-shot detection a seed is also the number of the support set
    exclude_classes classes whose test images are left out
    metrics         those that are recorded; empty: all of the task
    published       the row of a paper beside which this one stands
    sample          of the data set `sample`: arguments of `anomalyhub.data.sample.write_sample`
    detector        of discovery and classification
    masks           where regions come from: the detector, or the data set's own masks, an oracle
    binarizer       how maps become regions, with binarizer_settings
    false_alarm_rate  of discovery: below 1 the detector decides which images have regions, see DiscoverConfig
    classes         of discovery: their number, "given" for the true one (the papers' protocol), or "auto"
    base            of discovery: a labelled data set for base classes
    holdout         of discovery: the share of images that only predict, whose figures are then recorded
    normal_class    of classification: normal test images are a class as well
    pretraining     of classification         auxiliary  of detection
    """

    task: Literal["detection", "discovery", "classification"]
    dataset: str
    method: str
    variant: str = ""
    products: tuple[str, ...] = (ALL,)
    exclude_products: tuple[str, ...] = ()
    backbone: str | None = None
    settings: dict = field(default_factory=dict)
    shots: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    exclude_classes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    published: Published | None = None
    sample: dict = field(default_factory=dict)
    detector: DetectorPart | None = None
    masks: Literal["detector", "ground-truth"] = "detector"
    binarizer: str = "mebin"
    binarizer_settings: dict = field(default_factory=dict)
    false_alarm_rate: float = 1.0
    classes: int | Literal["given", "auto"] = GIVEN
    base: str | None = None
    holdout: float = 0.0
    normal_class: bool = False
    pretraining: Pretraining | None = None
    auxiliary: Auxiliary | None = None

    def __post_init__(self):
        for name in ("shots", "seeds", "products"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise InvalidArgumentError(f"{name} {list(values)} names one twice: name it once")
        if not self.seeds or min(self.seeds) < 0:
            raise InvalidArgumentError(f"seeds must be numbers from 0, and at least one, got {list(self.seeds)}")
        lowest = 1 if self.task == "classification" else 0
        if min(self.shots, default=lowest) < lowest:
            raise InvalidArgumentError(f"shots of {self.task} must be at least {lowest}, got {list(self.shots)}")
        if self.task == "classification" and not self.shots:
            raise InvalidArgumentError("a classifier learns from examples: give shots, such as [1, 5]")
        for name in self.metrics:
            if name not in METRICS[self.task]:
                raise UnknownNameError(f"metric of {self.task}", name, METRICS[self.task])
        if self.sample and self.dataset != "sample":
            raise InvalidArgumentError(f"sample tells how that data set is drawn, and this row is of {self.dataset}")
        if not 0.0 <= self.holdout < 1.0:
            raise InvalidArgumentError(f"holdout is a share from 0 to below 1, got {self.holdout}")
        self._check_task()

    def _check_task(self) -> None:
        """Refuse what another task would read: a setting without effect hides a mistake."""
        needs_detector = self.task == "classification" or (self.task == "discovery" and self.masks == "detector")
        if needs_detector and self.detector is None:
            raise InvalidArgumentError(f"{self.task} by the detector's regions needs a detector: give its method")
        if self.task == "discovery" and self.shots:
            raise InvalidArgumentError("discovery has no shots: leave them out")
        if self.task == "discovery" and self.masks != "detector" and self.detector is not None:
            raise InvalidArgumentError("a discovery of ground-truth masks has no detector: leave one of them out")
        own = {
            "detection": {"auxiliary"},
            "discovery": {"detector", "masks", "binarizer", "binarizer_settings", "false_alarm_rate", "classes"}
            | {"base", "holdout"},
            "classification": {"detector", "masks", "binarizer", "binarizer_settings", "normal_class", "pretraining"},
        }
        defaults = {one.name: _default(one) for one in dataclasses.fields(self)}
        for name in sorted(set().union(*own.values()) - own[self.task]):
            if getattr(self, name) != defaults[name]:
                raise InvalidArgumentError(f"{name} has no say in {self.task}: leave it out")


@dataclass(frozen=True)
class BenchmarkConfig:
    """A file's name without its suffix, and its rows."""

    name: str
    rows: tuple[Row, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """The rows with all of their defaults."""
        return [dataclasses.asdict(row) for row in self.rows]


def load_config(path: str | Path) -> BenchmarkConfig:
    """Read and check a YAML file. Raises InvalidArgumentError, which names the file and the row.

    Names of data sets become AnomalyHub's ("MVTec AD" is mvtec_ad); whether they are there is seen by `make_plan`.
    """
    import yaml

    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidArgumentError(f"{path} is no config, as it has more than {_MAX_BYTES} bytes: give a YAML file")
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read ({error.strerror}): check the path of the config") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InvalidArgumentError(f"{path} is not YAML ({reason}): check its indents and colons") from error
    return parse_config(value, path.stem, str(path))


def parse_config(value: Any, name: str, where: str) -> BenchmarkConfig:
    """`load_config` of what YAML gave; `where` begins the messages."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{where} holds {type(value).__name__}, not keys and values: see eval/configs")
    defaults = {key: item for key, item in value.items() if key != "rows"}
    rows = value.get("rows", [{}])
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise InvalidArgumentError(f"{where}: rows is a list of at least one row, each of them keys and values")
    made = []
    for number, row in enumerate(rows, 1):
        at = f"{where}, row {number}" if "rows" in value else where
        made.append(_row({**defaults, **row}, at))
    return BenchmarkConfig(name, tuple(made))


_PARTS = {"detector": DetectorPart, "pretraining": Pretraining, "auxiliary": Auxiliary, "published": Published}


def _row(value: Mapping[str, Any], where: str) -> Row:
    values = {str(key): item for key, item in value.items()}
    try:
        for name, part in _PARTS.items():
            if values.get(name) is not None:
                values[name] = _filled(part, values[name], name)
        for name in ("dataset", "base"):
            if isinstance(values.get(name), str):
                values[name] = canonical(values[name])
        row = _filled(Row, values, "the row")
        _check_names(row)
        return row
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{where}: {_as_key(str(error))}") from error


def canonical(name: str) -> str:
    """AnomalyHub's name of a data set; that of one on the Hub stays as it is."""
    return name if name.startswith("hf:") else dataset_name(name)


def _filled(cls: type, values: Any, where: str) -> Any:
    """A part of a row from its keys. Raises InvalidArgumentError for a missing one too."""
    if not isinstance(values, Mapping):
        raise InvalidArgumentError(f"{where} is {values!r}: give keys and values")
    values = {str(key): value for key, value in values.items() if value is not None}
    for one in dataclasses.fields(cls):
        if _default(one) is dataclasses.MISSING and one.name not in values:
            raise InvalidArgumentError(f"{where} has no {one.name}: add it")
    return configure(cls, values)


def _default(one: dataclasses.Field) -> Any:
    return one.default if one.default_factory is dataclasses.MISSING else one.default_factory()


def _as_key(text: str) -> str:
    """What `configure` says, in a config's words."""
    return text.replace("unknown setting ", "unknown key ", 1)


def _check_names(row: Row) -> None:
    """Methods, binarizers and trainers exist, and take these settings; nothing is made or loaded."""
    from anomalyhub.classification import create_classifier
    from anomalyhub.detection import create_detector
    from anomalyhub.discovery import create_discoverer
    from anomalyhub.regions import binarizers
    from anomalyhub.registry import trainers
    from anomalyhub.synthesis import SynthesisConfig

    create = {"detection": create_detector, "discovery": create_discoverer, "classification": create_classifier}
    create[row.task](row.method, "embedded", seed=0, settings=row.settings)
    if row.detector is not None:
        create_detector(row.detector.method, "embedded", seed=0, settings=row.detector.settings)
    binarizers[row.binarizer](**row.binarizer_settings)
    if row.auxiliary is not None:
        trainers[row.auxiliary.trainer].create(None, seed=0, settings=row.auxiliary.settings)
    if row.pretraining is not None:
        configure(SynthesisConfig, row.pretraining.synthesis)
    if row.published is not None:
        check_row(*dataclasses.astuple(row.published))


__all__ = ["ALL", "TASKS", "GIVEN", "Auxiliary", "BenchmarkConfig", "DetectorPart", "Pretraining", "Published", "Row"]
__all__ += ["canonical", "load_config", "parse_config"]
