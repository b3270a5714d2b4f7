"""A folder of what a discovery found: assignments.csv, findings.json, pictures, and metrics.json where labels exist."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalyhub.data import SampleRef
from anomalyhub.metrics import clustering_metrics
from anomalyhub.protocols import Progress, part
from anomalyhub.regions import ImageRegions
from anomalyhub.report.findings import EMBEDDINGS, Findings, FoundImage, FoundRegion
from anomalyhub.report.results import file_stem
from anomalyhub.report.tables import safe_label, safe_name
from anomalyhub.state import write_json
from anomalyhub.types import UNKNOWN, Box, SubImage

COLUMNS = ("path", "region", "x0", "y0", "x1", "y1", "area", "cluster", "probability")


@dataclass(frozen=True, eq=False)
class Discovered:
    """M images with N regions and their K kinds; an image without a region has one, of area 0, that is all of it.

    product      what was inspected, for people
    refs         M references to the images; their labels are for `metrics` alone
    images       M images' regions                        fitted         (M,) bool: in the fit; the others predict only
    classes      K names                                  owners         (N,) int64: the image of each region
    rows         (N,) int64: the region's row in the discoverer's embeddings_; -1 if it was not in the fit
    embeddings   (N, D) float32                           probs          (N, K) float32
    unknown      (N,) bool: unlike every known kind       weights        (N,): share in its image's kind
    image_probs  (M, K) float32                           image_unknown  (M,) bool
    curve        the score of each number of classes that "auto" tried; empty otherwise
    seconds      per stage                                config         everything that the result depends on
    skipped      why images were left out, one sentence each
    """

    product: str
    refs: tuple[SampleRef, ...]
    images: Sequence[ImageRegions]
    fitted: np.ndarray
    classes: tuple[str, ...]
    owners: np.ndarray
    rows: np.ndarray
    embeddings: np.ndarray
    probs: np.ndarray
    unknown: np.ndarray
    weights: np.ndarray
    image_probs: np.ndarray
    image_unknown: np.ndarray
    curve: Mapping[int, float]
    seconds: Mapping[str, float]
    config: Mapping[str, Any]
    skipped: Sequence[str] = ()

    @property
    def sub_images(self) -> list[SubImage]:
        """All N crops, image by image."""
        return [crop for one in self.images for crop in one.sub_images]

    @property
    def clusters(self) -> list[str]:
        """The kind of each region, or "unknown"."""
        return self._names(self.probs, self.unknown)

    @property
    def image_clusters(self) -> list[str]:
        """The kind of each image, or "unknown"."""
        return self._names(self.image_probs, self.image_unknown)

    def _names(self, probs: np.ndarray, unknown: np.ndarray) -> list[str]:
        best = probs.argmax(axis=1).tolist()
        return [UNKNOWN if new else self.classes[index] for index, new in zip(best, unknown.tolist(), strict=True)]

    def metrics(self) -> dict[str, Any]:
        """metrics.json: NMI, ARI and F1 of the images and of the regions with a label; None unless there are any.

        "image" and "region" are of the fit's own (transductive), "inductive" of those that only predicted. The most
        probable kind counts, whether or not it is called unknown. A region has its image's label.
        """
        if not self._labelled.any():
            return {}
        of_fit, others = (self._agreement(self._labelled & chosen) for chosen in (self.fitted, ~self.fitted))
        result = dict(of_fit or {"image": None, "region": None, "why": "every image was only predicted: see inductive"})
        if others:
            result["inductive"] = others
        counts = {"n_images": len(self.images), "n_regions": int(sum(crop.area_px > 0 for crop in self.sub_images))}
        counts |= {"n_unknown": int(self.image_unknown.sum())}
        curve = {"curve": self.curve} if self.curve else {}
        times = {"seconds": sum(self.seconds.values()), "seconds_per_stage": dict(self.seconds)}
        return {**result, "n_classes": len(self.classes), **curve, **counts, **times, "config": dict(self.config)}

    @property
    def _labels(self) -> np.ndarray:
        return np.array([ref.label or "" for ref in self.refs])

    @property
    def _labelled(self) -> np.ndarray:
        return self._labels != ""

    def _agreement(self, chosen: np.ndarray) -> dict[str, Any] | None:
        if not chosen.any():
            return None
        regions = chosen[self.owners]
        labels = self._labels
        return {
            "image": clustering_metrics(labels[chosen], self.image_probs[chosen].argmax(1)),
            "region": clustering_metrics(labels[self.owners[regions]], self.probs[regions].argmax(1)),
            "n_images": int(chosen.sum()),
        }

    def write(self, folder: Path, *, seed: int = 0, progress: Progress | None = None) -> None:
        """Write all but the model into an existing folder.

        assignments.csv  a row per image (region and box empty), then one per region; box and area in pixels
        findings.json    the same for programs, see `Findings`; crops/, masks/ and embeddings.npy belong to it
        clusters/        a contact sheet per kind         plots/  t-SNE, and confusion where labels exist
        metrics.json     where labels exist
        """
        findings = self._write_findings(folder, part(progress, 0.0, 0.6))
        self._write_assignments(folder / "assignments.csv", findings)
        self._write_sheets(folder, findings, part(progress, 0.6, 0.7))
        part(progress, 0.7, 1.0)(0.0, "plots")
        self._write_plots(folder / "plots", seed)
        if metrics := self.metrics():
            write_json(folder / "metrics.json", metrics)

    def _write_findings(self, folder: Path, progress: Progress) -> Findings:
        from anomalyhub.report.clusters import crop_picture

        (folder / "crops").mkdir()
        taken: set[str] = set()
        images, regions = [], []
        tables = zip(self.image_clusters, self.image_probs.max(axis=1, initial=0.0).tolist(), strict=True)
        for index, (ref, one, (cluster, probability)) in enumerate(zip(self.refs, self.images, tables, strict=True)):
            mask = None if one.is_empty else f"masks/{file_stem(ref.id, taken)}.png"
            if mask is not None:
                (folder / mask).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(one.mask.view(np.uint8) * np.uint8(255)).save(folder / mask, compress_level=3)
            images.append(FoundImage(ref.id, str(ref.path.absolute()), one.size, mask, cluster, probability))
            for crop in one.sub_images:
                name = f"crops/{len(regions):05d}.jpg"
                Image.fromarray(crop_picture(crop, one.size)).save(folder / name, quality=88)
                regions.append(self._found(len(regions), index, crop, one.size, name))
            progress((index + 1) / len(self.images), f"pictures of {index + 1} of {len(self.images)} images")
        findings = Findings(self.product, self.classes, tuple(images), tuple(regions))
        findings.write(folder)
        np.save(folder / EMBEDDINGS, self.embeddings)
        return findings

    def _found(self, row: int, image: int, crop: SubImage, size: tuple[int, int], name: str) -> FoundRegion:
        best = int(self.probs[row].argmax())
        return FoundRegion(
            image=image,
            region=crop.region,
            box=_clipped(crop.box, size),
            area=crop.area_px,
            score=crop.score,
            weight=float(self.weights[row]),
            cluster=UNKNOWN if self.unknown[row] else self.classes[best],
            probability=float(self.probs[row, best]),
            crop=name,
            fitted=None if self.rows[row] < 0 else int(self.rows[row]),
        )

    def _write_assignments(self, file: Path, findings: Findings) -> None:
        with open(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as opened:
            writer = csv.writer(opened, lineterminator="\n")
            writer.writerow(COLUMNS)
            regions = iter(findings.regions)
            for image, one in zip(findings.images, self.images, strict=True):
                path = safe_name(image.id)
                area = int(np.count_nonzero(one.mask))
                writer.writerow([path, "", "", "", "", "", area, safe_label(image.cluster), f"{image.probability:.6g}"])
                for _, region in zip(one.sub_images, regions, strict=False):  # in this order, or zip takes one too many
                    kind = [safe_label(region.cluster), f"{region.probability:.6g}"]
                    writer.writerow([path, region.region, *region.box, region.area, *kind])

    def _write_sheets(self, folder: Path, findings: Findings, progress: Progress) -> None:
        from anomalyhub.report.clusters import cluster_sheet

        (folder / "clusters").mkdir()
        names = [*self.classes, *([UNKNOWN] if self.unknown.any() else [])]
        for done, name in enumerate(names):
            members = [region for region in findings.regions if region.cluster == name]
            members.sort(key=lambda region: -region.probability)
            owners = len({region.image for region in members})
            pictures = [np.asarray(Image.open(folder / region.crop)) for region in members[:48]]
            sheet = cluster_sheet(
                pictures,
                [f"{findings.images[region.image].id} {region.probability:.2f}" for region in members[:48]],
                f"{name}: {len(members)} crops of {owners} images",
                total=len(members),
            )
            Image.fromarray(sheet).save(folder / "clusters" / f"{name}.png", compress_level=3)
            progress((done + 1) / len(names), f"contact sheet {done + 1} of {len(names)}")

    def _write_plots(self, folder: Path, seed: int) -> None:
        from anomalyhub.report.plots import tsne_plot

        folder.mkdir()
        labelled = self._labelled[self.owners].all()
        labels = self._labels[self.owners] if labelled else None
        figures = {"tsne": tsne_plot(self.embeddings, self.clusters, labels, seed=seed, facecolor="white")}
        figures.update(self._confusions())
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=110)

    def _confusions(self) -> Iterator[tuple[str, Any]]:
        from anomalyhub.report.plots import confusion_plot

        chosen = self._labelled
        if not chosen.any():
            return
        regions = chosen[self.owners]
        levels = {
            "image": (self._labels[chosen], self.image_probs[chosen]),
            "region": (self._labels[self.owners[regions]], self.probs[regions]),
        }
        for level, (labels, probs) in levels.items():
            true, rows = np.unique(labels, return_inverse=True)
            table = np.zeros((len(true), len(self.classes)), np.int64)
            np.add.at(table, (rows, probs.argmax(axis=1)), 1)
            title = f"{len(labels)} {level}s: true kind (rows) and discovered kind"
            yield (
                f"confusion_{level}",
                confusion_plot(table, true.tolist(), self.classes, title=title, facecolor="white"),
            )


def _clipped(box: Box, size: tuple[int, int]) -> Box:
    height, width = size
    return box[0], box[1], min(box[2], width), min(box[3], height)
