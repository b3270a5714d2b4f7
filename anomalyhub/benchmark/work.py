"""What units share: drawn samples, fitted detectors, features of images, trained and pretrained weights.

All of it lies in a run's scratch folder, complete or not at all, so that a run that was killed goes on from there; the
seconds that it took lie beside it, so that a unit's time does not depend on who came first. It is computed from images
and, where a method learns from them, from the labels of examples or of other data sets. No unit leaves anything there
that it found by the labels or masks of its own test images.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyhub.benchmark.records import digest
from anomalyhub.benchmark.sources import Sources
from anomalyhub.benchmark.units import Planned, drawn_sample, scratch_name
from anomalyhub.errors import InvalidArgumentError
from anomalyhub.fsio import atomic_file, atomic_folder, make_folder
from anomalyhub.locks import locked
from anomalyhub.protocols import Progress, part

if TYPE_CHECKING:
    from anomalyhub.classification import BaseClassifier, Evidence
    from anomalyhub.data import Dataset
    from anomalyhub.pipeline import Inspector
    from anomalyhub.types import Sample

_FOREVER = 30 * 24 * 3600.0
_SECONDS = "seconds.json"


@dataclass(frozen=True, eq=False)
class Fitted:
    """A detector: `folder` where it is saved, None where it is not; the seconds that it took."""

    inspector: Inspector
    folder: Path | None
    seconds: float


@dataclass(eq=False)
class Work:
    """The scratch folder of a run, with the last detector and evidence held in memory."""

    folder: Path
    sources: Sources
    progress: Progress | None = None
    _detectors: dict[str, Fitted] = field(default_factory=dict)
    _evidence: dict[str, tuple[list[Evidence], float]] = field(default_factory=dict)

    def scratch(self, planned: Planned) -> Path:
        """The folder of what a product's units share."""
        return self.folder / scratch_name(planned)

    def forget(self, planned: Planned) -> None:
        """Remove what a product's units have shared; they are all measured."""
        self._detectors.clear()
        self._evidence.clear()
        shutil.rmtree(self.scratch(planned), ignore_errors=True)

    def root(self, planned: Planned) -> str:
        """The data set's path; that of a sample once it is drawn."""
        if planned.root is not None:
            return planned.root
        from anomalyhub.data.sample import write_sample

        name, folder = planned.unit.product, self.scratch(planned) / "drawn"
        if not folder.is_dir():
            write_sample(folder, products=name, **drawn_sample(planned.row))
        return str(folder)

    def dataset(self, planned: Planned) -> Dataset:
        from anomalyhub.data import load_dataset

        root = self.root(planned)
        return load_dataset(root, planned.unit.product if planned.root is None else planned.product)

    def detector(self, planned: Planned, *, stored: bool) -> Fitted:
        """The fitted detector of a unit.

        stored  keep it in the scratch folder: other units, or a later run, take it from there
        """
        key = planned.detector_key
        folder = self.scratch(planned) / f"detector-{key}"
        made = self._detectors.get(key)
        if made is None:
            self._detectors.clear()  # one at a time: banks and features of a whole data set take their room
            self._evidence.clear()
            made = self._stored(planned, folder) if folder.is_dir() else self._fit(planned)
        if stored and made.folder is None:
            with atomic_folder(folder) as staged:
                made.inspector.write(staged)
                _write_seconds(staged, made.seconds)
            made = dataclasses.replace(made, folder=folder)
        self._detectors[key] = made
        return made

    def _stored(self, planned: Planned, folder: Path) -> Fitted:
        from anomalyhub.pipeline.inspector import Inspector

        spec = self.sources.spec(planned.detector.backbone)
        return Fitted(Inspector.load(folder, backbone=spec), folder, _read_seconds(folder))

    def _fit(self, planned: Planned) -> Fitted:
        from anomalyhub.pipeline.inspector import Inspector

        wanted, settings = planned.detector, dict(planned.detector.settings)
        if settings.get("weights"):
            settings["weights"] = self.sources.weights_path(settings["weights"])
        if planned.row.auxiliary is not None:
            settings["weights"] = str(self.auxiliary(planned))
        samples = self._normals(planned)
        start = time.perf_counter()
        inspector = Inspector.fit(
            wanted.method,
            samples,
            backbone=self.sources.spec(wanted.backbone),
            product=planned.unit.product,
            seed=planned.detector_seed,
            settings=settings,
            progress=self.progress,
        )
        return Fitted(inspector, None, time.perf_counter() - start)

    def _normals(self, planned: Planned) -> Sequence[Sample]:
        """The normal images that a detector is fitted on: all, none, or the support set of the seed's number."""
        from anomalyhub.data import support_sets
        from anomalyhub.data.support import SUPPORT_SETS

        shots, seed = planned.detector_shots, planned.detector_seed
        if shots == 0:
            return []
        normals = self.dataset(planned).split("train")
        if shots is None:
            return normals
        return normals.select(support_sets(len(normals), shots, max(SUPPORT_SETS, seed + 1))[seed])

    def auxiliary(self, planned: Planned) -> Path:
        """The folder of weights trained on other products; one process trains them, the others wait."""
        from anomalyhub.pipeline.train import train, training_products
        from anomalyhub.registry import trainers

        wanted = planned.row.auxiliary
        key = digest({**planned.settings["auxiliary"], "backbone": planned.settings["detector"]["backbone"]})[:16]
        folder = self.folder / "auxiliary" / f"{wanted.trainer}-{key}"
        make_folder(folder.parent)
        with locked(folder.with_suffix(".lock"), _FOREVER):
            if not folder.is_dir():
                sources = [self.sources.root(name) for name in wanted.datasets]
                left_out = [planned.unit.product] if wanted.leave_out else []
                made = train(
                    wanted.trainer,
                    training_products(sources, trainers[wanted.trainer].split, exclude=left_out),
                    backbone=self.sources.spec(planned.row.backbone),
                    settings=wanted.settings,
                    seed=wanted.seed,
                    checkpoints=folder.with_suffix(".checkpoints"),
                    progress=self.progress,
                )
                with atomic_folder(folder) as staged:
                    made.save(staged)
                shutil.rmtree(folder.with_suffix(".checkpoints"), ignore_errors=True)
        return folder

    def evidence(
        self, planned: Planned, fitted: Fitted, samples: Any, support: Sequence[int]
    ) -> tuple[list[Evidence], float]:
        """What a classifier is shown of the samples, without their labels, and the seconds that it takes.

        support  rows of the examples, on whose maps the binarizer is fitted
        """
        from anomalyhub.pipeline.evidence import evidence_of, fit_binarizer
        from anomalyhub.regions import binarizers

        row = planned.row
        regions = [row.masks, row.binarizer, row.binarizer_settings, samples.ids, list(support)]
        key = digest([planned.detector_key, *regions])
        if key not in self._evidence:
            self._evidence.clear()
            cache = self.scratch(planned) / f"evidence-{planned.detector_key}-{digest(samples.ids)[:8]}"
            is_new = not cache.is_dir()
            start = time.perf_counter()
            binarizer = binarizers[row.binarizer](**row.binarizer_settings)
            fit_binarizer(fitted.inspector, binarizer, fitted.inspector.detector.predict([samples[i] for i in support]))
            found = evidence_of(
                fitted.inspector,
                samples,
                binarizer=binarizer,
                masks=row.masks,
                cache=cache,
                progress=self.progress,
            )
            seconds = time.perf_counter() - start
            if is_new:
                _write_seconds(cache, seconds)
            self._evidence[key] = found, _read_seconds(cache)
        return self._evidence[key]

    def classifier(self, planned: Planned, fitted: Fitted) -> tuple[BaseClassifier, float]:
        """An unfitted head, pretrained where the row says so, and the seconds of its pretraining."""
        from anomalyhub.classification import create_classifier, load_classifier

        row, spec = planned.row, self.sources.spec(planned.row.backbone)
        if row.pretraining is None:
            return create_classifier(row.method, spec, seed=planned.unit.seed, settings=row.settings), 0.0
        folder = self._pretrained(planned, fitted, spec)
        made = load_classifier(folder, spec)
        made.seed = planned.unit.seed
        return made, _read_seconds(folder)

    def _pretrained(self, planned: Planned, fitted: Fitted, spec: str | None) -> Path:
        from anomalyhub.pipeline.pretrain import PretrainConfig, pretrain

        row, seed = planned.row, planned.unit.seed
        depends = {key: planned.settings[key] for key in ("pretraining", "method", "binarizer", "binarizer_settings")}
        key = digest({**depends, "head": row.method, "detector": planned.detector_key, "seed": seed})[:16]
        folder = self.scratch(planned) / f"pretrained-{key}"
        if folder.is_dir():
            return folder
        config = PretrainConfig(
            synthetic=str(self._synthetic(planned)),
            model=str(fitted.folder),
            head=row.method,
            backbone=spec,
            settings=row.settings,
            against=row.pretraining.against,
            masks=row.pretraining.masks,
            binarizer=row.binarizer,
            binarizer_settings=row.binarizer_settings,
            detector_backbone=self.sources.spec(planned.detector.backbone),
        )
        checkpoints = self.scratch(planned) / f"pretraining-{key}"
        make_folder(checkpoints)
        start = time.perf_counter()
        made = pretrain(config, seed=seed, progress=self.progress, checkpoints=checkpoints)
        with atomic_folder(folder) as staged:
            made.save(staged)
            _write_seconds(staged, time.perf_counter() - start)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return folder

    def _synthetic(self, planned: Planned) -> Path:
        """Defects painted on the product's normal images: the same for all of its heads and seeds."""
        from anomalyhub.pipeline.synthesize import SynthesizeConfig, synthesize_to

        wanted = planned.row.pretraining
        folder = self.scratch(planned) / f"synthetic-{digest(planned.settings['pretraining'])[:16]}"
        if not folder.is_dir():
            config = SynthesizeConfig(
                data=self.root(planned),
                product=planned.unit.product if planned.root is None else planned.product,
                textures=wanted.textures and self.sources.root(wanted.textures),
                count=wanted.count,
                settings=wanted.synthesis,
            )
            with atomic_folder(folder) as staged:
                synthesize_to(staged, config, seed=wanted.seed, progress=part(self.progress, 0.0, 1.0))
        return folder


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its seconds."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def check_warning(found: dict[str, Any], planned: Planned) -> None:
    """Refuse figures of weights that have seen what they are measured on."""
    if found.get("warning"):
        raise InvalidArgumentError(f"{planned.unit.name}: {found['warning']}; take weights trained on other products")


def _write_seconds(folder: Path, seconds: float) -> None:
    with atomic_file(folder / _SECONDS) as staged:
        staged.write_text(json.dumps(seconds), encoding="utf-8")


def _read_seconds(folder: Path) -> float:
    """0 where a run was killed before it could say."""
    try:
        return float(json.loads((folder / _SECONDS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return 0.0
