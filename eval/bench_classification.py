"""Kinds of defect from 1 to 5 examples each: all heads on MTD and leather, with and without residuals and pretraining.

python eval/bench_classification.py                            # hours on two cores; a run that was stopped goes on
python eval/bench_classification.py --heads prototype --shots 5 --seeds 1,2 --data mtd      # a part of the cells
python eval/bench_classification.py --redo --heads prototype   # forget a head's cells and pretraining, then as above
python eval/bench_classification.py --unknown                  # only: is a kind without an example called unknown?
python eval/bench_classification.py --report                   # compute nothing, write and print what is there

Protocol of liu2024: every test image is taken as defective; the first n images of each class by file name are the
examples, all other defective ones are the test. The seeds are those of PatchCore's coreset (ResNet-18, layers 2 and 3,
224 px: 384 channels on a 28 x 28 grid), of pretraining and of the head. Regions are those of MEBin, fitted on the
examples' maps and on the maxima of held-out normal maps. Ground truth is read by the metric alone, but in the oracle's
rows: there the regions are the true masks.

Pretraining is on defects that the package paints on the product's own normal images: the first image of each of 10 DTD
classes and 37 procedural textures, 10 pictures of each.

A cell is one fitted classifier, a line of cells.jsonl in --work (.bench/classification), where fitted detectors,
patches and pretrained heads are kept too, about 15 GB.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shutil
import sys
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from bench_backbone import vit_tiny
from classification_cells import (
    DATA,
    HEADS,
    SEEDS,
    SHOTS,
    Cell,
    add_cell,
    best,
    drop_cells,
    plan,
    read_cells,
    split,
    table,
    unknown_plan,
    unknown_table,
)
from common import ROOT, resnet18, save, shared
from summary import classification_rows

from anomalyhub import Inspector, MEBin, create_backbone, load_dataset
from anomalyhub.classification import BaseClassifier, Evidence, create_classifier, load_classifier
from anomalyhub.fsio import atomic_folder
from anomalyhub.metrics import image_metrics
from anomalyhub.pipeline.evidence import evidence_of, fit_binarizer
from anomalyhub.synthesis import Synthesizer, load_textures
from anomalyhub.types import GOOD, Sample

COMMAND = "python eval/bench_classification.py"
WORK = ROOT / ".bench" / "classification"
PROCEDURAL, PER_CLASS = 37, 10


@dataclass(frozen=True, eq=False)
class Product:
    """A data set's normal images, and its defective ones with their true classes, in the order of their ids."""

    normals: Sequence[Sample]
    samples: Sequence[Sample]
    labels: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Product:
        data = load_dataset(folder)
        defective = [row for row, label in enumerate(data.test.labels) if label != GOOD]
        test = data.test.select(sorted(defective, key=data.test.ids.__getitem__))
        return cls(data.train, list(test), test.labels)

    @property
    def ids(self) -> list[str]:
        return [sample.id for sample in self.samples]


@dataclass(eq=False)
class Bench:
    """What the cells share, computed once and kept in `work`.

    images     one folder per data set        textures  folders of textures, one per class
    detector   SPEC of PatchCore's backbone   settings  of PatchCore
    backbones  SPEC by head; a head that is not named takes its own
    """

    work: Path
    images: Path
    textures: Path
    detector: str
    backbones: Mapping[str, str]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    procedural: int = PROCEDURAL
    per_class: int = PER_CLASS

    def __post_init__(self):
        self.product = functools.cache(lambda name: Product.read(self.images / name))
        self.backbone = functools.cache(create_backbone)
        self.inspector = functools.lru_cache(2)(self._inspector)
        self.evidence = functools.lru_cache(len(DATA) * len(SEEDS))(self._evidence)
        self.painted = functools.lru_cache(1)(self._painted)
        self.crops: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def classifier(self, cell: Cell) -> BaseClassifier:
        """An unfitted one, pretrained where the cell says so."""
        spec, folder = self.backbones.get(cell.head), self.pretrained_folder(cell)
        backbone = spec and self.backbone(spec)
        if cell.pretrained and folder.exists():
            return self.remembering(load_classifier(folder, backbone))
        settings = {} if cell.head == "direct" else {"residual": cell.residual}
        made = self.remembering(create_classifier(cell.head, backbone, seed=cell.seed, settings=settings))
        if cell.pretrained:
            start = time.perf_counter()
            made.pretrain(self.painted(cell.data, cell.seed), None, checkpoints_of(folder))
            with atomic_folder(folder) as staged:
                made.save(staged)
            shutil.rmtree(checkpoints_of(folder), ignore_errors=True)
            print(f"pretrained in {time.perf_counter() - start:.0f} s: {cell}: {made.pretraining_}", flush=True)
        return made

    def remembering(self, head: BaseClassifier) -> BaseClassifier:
        """The prototype head describes a crop by a frozen network: once for all cells that see it."""
        if head.name != "prototype":
            return head
        describe = head._crops

        def remembered(evidence: Sequence[Evidence], progress: Any) -> np.ndarray:
            new = [one for one in evidence if one.regions not in self.crops]
            if new:
                ends = np.cumsum([len(one.sub_images) for one in new])
                for one, rows in zip(new, np.split(describe(new, progress), ends[:-1]), strict=True):
                    self.crops[one.regions] = rows
            return np.concatenate([self.crops[one.regions] for one in evidence])

        head._crops = remembered
        return head

    def pretrained_folder(self, cell: Cell) -> Path:
        of_seed = self._folder(cell.data, cell.seed)
        return of_seed / "pretrained" / f"{cell.head}-{'residuals' if cell.residual else 'features'}"

    def textures_of(self) -> Path:
        """Folders of the textures: the first of each class of `textures`, and procedural ones."""
        folder = self.work / "textures"
        if not folder.exists():
            with atomic_folder(folder) as staged:
                for source, count in ((self.textures, None), (None, self.procedural)):
                    textures = load_textures(source)
                    for index, name in list(enumerate(textures.names))[:count]:
                        (staged / name).mkdir()
                        cv2.imwrite(str(staged / name / "0.png"), textures.image(index)[..., ::-1])
        return folder

    def _folder(self, name: str, seed: int) -> Path:
        return self.work / name / f"seed{seed}"

    def _inspector(self, name: str, seed: int) -> Inspector:
        folder, backbone = self._folder(name, seed) / "detector", self.backbone(self.detector)
        if not folder.exists():
            options = {"seed": seed, "product": name, "settings": dict(self.settings)}
            Inspector.fit("patchcore", self.product(name).normals, backbone=backbone, **options).save(folder)
        return Inspector.load(folder, backbone=backbone)

    def _evidence(self, name: str, seed: int, shots: int, masks: str) -> list[Evidence]:
        """All defective images, without labels; the binarizer is fitted on those of the examples."""
        inspector, of_all = self.inspector(name, seed), self.product(name)
        support, _ = split(of_all.ids, of_all.labels, shots)
        maps = inspector.detector.predict([of_all.samples[row] for row in support])
        binarizer = fit_binarizer(inspector, MEBin(), maps)
        cache = self._folder(name, seed) / "evidence"
        return evidence_of(inspector, of_all.samples, binarizer=binarizer, masks=masks, cache=cache)

    def _painted(self, name: str, seed: int) -> list[Evidence]:
        """Painted defects, the same for all seeds, as this seed's detector sees them; their textures are the labels."""
        textures = load_textures(self.textures_of())
        painter = Synthesizer(self.product(name).normals, textures, seed=0)
        drawn = [painter.draw(index) for index in range(len(textures) * self.per_class)]
        samples = [Sample(f"{index}", one.image, one.label, one.mask) for index, one in enumerate(drawn)]
        cache, labels = self._folder(name, seed) / "painted", [one.label for one in drawn]
        return evidence_of(self.inspector(name, seed), samples, labels=labels, cache=cache)


def checkpoints_of(folder: Path) -> Path:
    """Where an interrupted pretraining into `folder` goes on."""
    return folder.with_name(f"{folder.name}-checkpoints")


def measure(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Fit on the cell's examples and name all other images. Ground truth is read from here on, by the metrics."""
    of_all = bench.product(cell.data)
    evidence = bench.evidence(cell.data, cell.seed, cell.shots, cell.masks)
    support, test = split(of_all.ids, of_all.labels, cell.shots)
    support = [row for row in support if of_all.labels[row] != cell.left_out]
    head = bench.classifier(cell)
    start = time.perf_counter()
    head.fit([dataclasses.replace(evidence[row], label=of_all.labels[row]) for row in support])
    fitted = time.perf_counter()
    asked, truth = [evidence[row] for row in test], [of_all.labels[row] for row in test]
    found = novelties(head, asked, truth, cell.left_out) if cell.left_out else accuracies(head, asked, truth)
    seconds = {"fit_seconds": fitted - start, "predict_seconds": time.perf_counter() - fitted}
    return {"n_test": len(test), **found, **seconds}


def accuracies(head: BaseClassifier, evidence: Sequence[Evidence], truth: Sequence[str]) -> dict[str, Any]:
    """Percentages: of all images that are named rightly, and of each class's."""
    probs = head.predict(evidence).image_probs
    right = np.array([probs.classes[index] for index in probs.probs.argmax(axis=1)]) == np.array(truth)
    recalls = {name: 100 * right[np.array(truth) == name].mean() for name in sorted(set(truth))}
    confidence = 100 * probs.probs.max(axis=1).mean()
    return {"accuracy": 100 * right.mean(), "confidence": confidence, "recalls": recalls}


def novelties(
    head: BaseClassifier, evidence: Sequence[Evidence], truth: Sequence[str], left_out: str
) -> dict[str, Any]:
    """How well novelty, the regions' weighted mean, tells the class that was left out, and whom the verdict finds."""
    found = head.predict(evidence)
    owners = np.repeat(np.arange(len(evidence)), [len(one.sub_images) for one in evidence])
    novelty = found.weights * head.familiarity_.novelty(head.embed(evidence))
    scores, new = np.bincount(owners, novelty, len(evidence)), np.array(truth) == left_out
    named = {"called_unknown": found.image_unknown[new].mean(), "falsely_unknown": found.image_unknown[~new].mean()}
    return {"auroc": image_metrics(new, scores)["image_auroc"], **named}


def forget(bench: Bench, cells: Sequence[Cell]) -> None:
    """Take cells out of the ledger, and their pretraining out of the work folder."""
    drop_cells(bench.work, set(cells))
    for folder in {bench.pretrained_folder(cell) for cell in cells if cell.pretrained}:
        for path in (folder, checkpoints_of(folder)):
            shutil.rmtree(path, ignore_errors=True)


def run(cells: Sequence[Cell], bench: Bench) -> int:
    """Measure what is not in the ledger; a cell that fails is told and passed over. The number of failures."""
    failures, start, fresh = 0, time.perf_counter(), 0
    for number, cell in enumerate(cells, 1):
        if cell in read_cells(bench.work):
            continue
        try:
            entry = measure(cell, bench)
        except Exception:  # whatever it is, the other cells take hours
            traceback.print_exc()
            print(f"FAILED {cell}", flush=True)
            failures += 1
            continue
        add_cell(bench.work, cell, entry)
        fresh += 1
        what = next(f"{key} {entry[key]:.3g}" for key in ("accuracy", "auroc") if key in entry)
        took = f"fit {entry['fit_seconds']:.1f} s, predict {entry['predict_seconds']:.1f} s"
        pace = (time.perf_counter() - start) / fresh
        print(f"{number}/{len(cells)} {cell}: {what} ({took}; {pace:.1f} s per cell)", flush=True)
    return failures


def report(bench: Bench) -> dict[str, Any]:
    """The result that the ledger gives so far."""
    found = read_cells(bench.work)
    rows, data = table(found), {}
    for name in sorted({cell.data for cell in found}):
        of_all = bench.product(name)
        counts = Counter(of_all.labels)
        heads = {head: best(rows, name, head, SHOTS[0]) for head in HEADS}
        lead = None if None in (heads["prototype"], heads["contrastive"]) else heads["prototype"] - heads["contrastive"]
        data[name] = {
            "normals": len(of_all.normals),
            "classes": dict(sorted(counts.items())),
            "chance": 100 / len(counts),
            "largest_class": 100 * max(counts.values()) / len(of_all.labels),
            "best_variant_at_5_shots": heads,
            "prototype_above_contrastive_at_5_shots": lead,
        }
    every = plan(HEADS, SHOTS, SEEDS, DATA)
    textures = f"10 of DTD (the first image of each class), {PROCEDURAL} procedural"
    pretraining = {"textures": textures, "pictures_of_each": PER_CLASS}
    return {
        "detector": "patchcore, resnet18, layers 2 and 3, 224 px, coreset 10 %",
        "backbones": bench.backbones,
        "pretraining": {**pretraining, "mask": "perlin", "residuals": "against the bank", "seed_of_pictures": 0},
        "cells": {"measured": sum(cell in found for cell in every), "of": len(every)},
        "data": data,
        "table": rows,
        "unknown": unknown_table(found),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, write eval/results/classification.json and print its table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, options in (("heads", HEADS), ("seeds", SEEDS), ("shots", SHOTS), ("data", DATA)):
        parser.add_argument(f"--{name}", type=_listed(options), default=options, help=",".join(map(str, options)))
    parser.add_argument("--work", type=Path, default=WORK)
    for name in ("redo", "unknown", "report"):
        parser.add_argument(f"--{name}", action="store_true")
    asked = parser.parse_args(arguments)
    if shared() is None:
        parser.error("it needs the real images and weights: set ANOMALYHUB_SHARED")
    folder = shared() / "data"
    # direct: the published baseline tunes the last layer of the detector's own network
    backbones = {"prototype": vit_tiny(), "direct": resnet18()}
    bench = Bench(asked.work, folder, folder / "textures", resnet18(), backbones)
    cells = plan(asked.heads, asked.shots, asked.seeds, asked.data)
    if asked.unknown:
        cells = unknown_plan(asked.seeds, {name: sorted(set(bench.product(name).labels)) for name in asked.data})
    if asked.redo:
        forget(bench, cells)
    failures = 0 if asked.report else run(cells, bench)
    save("classification", COMMAND, report(bench))
    print("\n".join(classification_rows()))
    return 1 if failures else 0


def _listed(options: Sequence[Any]) -> Callable[[str], tuple]:
    """A parser of "a,b", in the order of the options."""

    def parse(text: str) -> tuple:
        names = text.split(",")
        if unknown := set(names) - set(map(str, options)):
            raise argparse.ArgumentTypeError(f"no {min(unknown)}: choose among {', '.join(map(str, options))}")
        return tuple(option for option in options if str(option) in names)

    return parse


if __name__ == "__main__":
    sys.exit(main())
