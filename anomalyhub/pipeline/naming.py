"""Which kind a found defect is: regions by a binarizer, kinds by a classifier or by a discovery; and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from anomalyhub.classification import BaseClassifier, Evidence, load_classifier
from anomalyhub.classification.base import thumbnail
from anomalyhub.classification.evidence import region_coverage
from anomalyhub.errors import InvalidImageError, InvalidModelError
from anomalyhub.hub.contents import name_fault
from anomalyhub.pipeline.evidence import examined, to_evidence
from anomalyhub.regions import Binarizer
from anomalyhub.regions.merge import MergedRegions
from anomalyhub.state import read_json, write_json
from anomalyhub.types import GOOD, UNKNOWN, AnomalyMap, Box, Inspection, Region, Sample

if TYPE_CHECKING:
    from anomalyhub.discovery.base import BaseDiscoverer
    from anomalyhub.pipeline.inspector import Inspector

BINARIZER, CLASSIFIER, DISCOVERER, REFERENCES = "binarizer.json", "classifier", "discoverer", "references"
#: Normal pictures that are kept to show what a region should look like, and their longer side in pixels.
N_REFERENCES, _LONGEST = 16, 512


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a region has its name.

    crop           (96, 96, 3) uint8: the region
    normal         the same for the most similar normal patch of the kept references, and normal_id its image; None
                   without references or patches
    example        the same for the most similar labelled example, example_id and example_label; None without a
                   classifier
    """

    crop: np.ndarray
    normal: np.ndarray | None = None
    normal_id: str | None = None
    example: np.ndarray | None = None
    example_id: str | None = None
    example_label: str | None = None


@dataclass(eq=False)
class Naming:
    """What turns anomaly maps into named regions.

    binarizer    fitted
    classifier   fitted, or None
    discoverer   fitted, or None; of the two there is one
    references   normal images at most 512 pixels wide, as samples, for explanations; may be empty
    """

    binarizer: Binarizer
    classifier: BaseClassifier | None = None
    discoverer: BaseDiscoverer | None = None
    references: tuple[Sample, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names that regions can get, besides "unknown"."""
        return tuple((self.classifier or self.discoverer).classes_)

    def name(self, evidence: Sequence[Evidence]) -> tuple[MergedRegions, np.ndarray]:
        """Kinds of all regions, image by image, images numbered from 0; and the regions' embeddings (R, E)."""
        if self.classifier is not None:
            embeddings = self.classifier.embed(evidence)
            return self.classifier.predict(evidence, embeddings), embeddings
        crops = [crop for one in evidence for crop in one.sub_images]
        owners = [row for row, one in enumerate(evidence) for _ in one.sub_images]
        embeddings = self.discoverer.embed(crops)
        return self.discoverer.predict_embedded(embeddings, crops, owners), embeddings

    def save(self, folder: Path) -> None:
        """Write into an existing folder, beside a detector."""
        write_json(folder / BINARIZER, self.binarizer.to_json())
        if self.classifier is not None:
            self.classifier.save(folder / CLASSIFIER)
        if self.discoverer is not None:
            self.discoverer.save(folder / DISCOVERER)
        if self.references:
            (folder / REFERENCES).mkdir()
            names = [f"{number:03d}.png" for number in range(len(self.references))]
            for name, sample in zip(names, self.references, strict=True):
                Image.fromarray(sample.image).save(folder / REFERENCES / name)
            write_json(
                folder / REFERENCES / "index.json",
                {"images": dict(zip(names, (sample.id for sample in self.references), strict=True))},
            )

    @classmethod
    def load(cls, folder: Path, backbone: Any = None) -> Naming | None:
        """What `save` wrote; None where nothing was. Raises InvalidModelError, BackboneError.

        backbone  replaces the stored SPEC of the classifier or discoverer
        """
        classifier = discoverer = None
        if (folder / CLASSIFIER).is_dir():
            classifier = load_classifier(folder / CLASSIFIER, backbone)
        elif (folder / DISCOVERER).is_dir():
            from anomalyhub.discovery import load_discoverer

            discoverer = load_discoverer(folder / DISCOVERER, backbone)
        else:
            return None
        if not hasattr(classifier or discoverer, "classes_"):
            raise InvalidModelError(f"{folder} holds a classifier that is not fitted: run classify fit again")
        return cls(Binarizer.from_json(read_json(folder / BINARIZER)), classifier, discoverer, _references(folder))

    def inspections(
        self, inspector: Inspector, samples: Sequence[Sample], threshold: float, explain: bool
    ) -> tuple[list[Inspection], list[tuple[Explanation, ...]]]:
        """Verdicts on some images, with the kinds of the regions of those that are anomalous, and why."""
        judged, evidence, rows = [], [], []
        for row, (sample, found) in enumerate(zip(samples, examined(inspector.detector, samples), strict=True)):
            verdict = inspector.judge(sample.id, found[0], threshold)
            judged.append(verdict)
            if verdict.is_anomalous:
                rows.append(row)
                evidence.append(to_evidence(inspector, sample, found, self.binarizer))
        explanations: list[tuple[Explanation, ...]] = [()] * len(judged)
        if not rows:
            return judged, explanations
        (merged, embeddings), first = self.name(evidence), 0
        for image, (row, one) in enumerate(zip(rows, evidence, strict=True)):
            regions, labels, label = named_regions(one, judged[row].map, merged, first, image)
            probs = tuple(zip(merged.image_probs.classes, merged.image_probs.probs[image].tolist(), strict=True))
            named = replace(judged[row], regions=regions, labels=labels, label=label, probs=probs)
            judged[row], first = named, first + len(regions)
        if explain:
            for row, why in zip(rows, self.explain(inspector, evidence, embeddings), strict=True):
                explanations[row] = why
        if GOOD in self.kinds:
            for row in rows:
                judged[row], explanations[row] = _without_good(judged[row], explanations[row])
        return judged, explanations

    def explain(
        self, inspector: Inspector, evidence: Sequence[Evidence], embeddings: np.ndarray
    ) -> list[tuple[Explanation, ...]]:
        """Per image one Explanation per region: its nearest normal patch and its nearest example.

        embeddings  of the regions, as `name` gives them
        """
        rows = [] if self.classifier is None else self.classifier.nearest_examples(evidence, embeddings).tolist()
        normals = self._normals(inspector)
        made, done = [], 0
        for one in evidence:
            explained = []
            for index, crop in enumerate(one.sub_images):
                parts: dict[str, Any] = {"crop": thumbnail(crop.image)}
                if normals is not None and one.features is not None:
                    parts |= normals.nearest(one, index)
                if rows:
                    row, known = rows[done], self.classifier
                    parts |= {
                        "example": known.example_pictures_[row],
                        "example_id": known.example_images_[row],
                        "example_label": known.classes_[known.example_labels_[row]],
                    }
                explained.append(Explanation(**parts))
                done += 1
            made.append(tuple(explained))
        return made

    def _normals(self, inspector: Inspector) -> _Normals | None:
        if not self.references or not hasattr(inspector.detector, "examine"):
            return None
        if getattr(self, "_known", None) is None:
            self._known = _Normals(inspector, self.references)
        return self._known


class _Normals:
    """Patch features of the references."""

    def __init__(self, inspector: Inspector, references: Sequence[Sample]):
        self.references = references
        self.features = np.stack([features for _, features, _ in examined(inspector.detector, references)])
        self.windows = [inspector.detector.window(sample.image.shape) for sample in references]

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """All patches (N * h * w, D) float32 and their squared norms."""
        rows = self.features.astype(np.float32).transpose(0, 2, 3, 1).reshape(-1, self.features.shape[1])
        return rows, (rows**2).sum(1)

    def nearest(self, one: Evidence, region: int) -> dict[str, Any]:
        """The normal patch nearest to the region's most abnormal one, with as much around it as the region's crop."""
        grid = one.features.shape[1:]
        weights = region_coverage(one, grid)[region] * np.linalg.norm(one.residuals.astype(np.float32), axis=0)
        if not weights.any():  # all of it lies where the network does not look
            return {}
        row, column = np.unravel_index(int(weights.argmax()), grid)
        rows, squares = self.rows
        patch = one.features[:, row, column].astype(np.float32)
        found, place = divmod(int((squares - 2 * rows @ patch).argmin()), grid[0] * grid[1])
        sample, (x0, y0, x1, y1) = self.references[found], self.windows[found]
        height, width = sample.image.shape[:2]
        centre_y = height * (y0 + (y1 - y0) * (place // grid[1] + 0.5) / grid[0])
        centre_x = width * (x0 + (x1 - x0) * (place % grid[1] + 0.5) / grid[1])
        box, scale = one.sub_images[region].box, max(sample.image.shape) / max(one.image.shape)
        side = min(max(8, round((box[2] - box[0]) * scale)), height, width)
        top = min(max(0, round(centre_y - side / 2)), height - side)
        left = min(max(0, round(centre_x - side / 2)), width - side)
        return {"normal": thumbnail(sample.image[top : top + side, left : left + side]), "normal_id": sample.id}


def references_of(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], list[str]]:
    """At most 16 normal images, spread evenly and reduced, to be kept for explanations; and why some were left out."""
    rows = np.unique(np.linspace(0, len(samples) - 1, min(N_REFERENCES, len(samples))).round().astype(int))
    kept, notices = [], []
    for row in rows.tolist():
        try:
            sample = samples[row]
        except InvalidImageError as error:
            notices.append(f"a normal image is left out of the explanations: {error}")
            continue
        scale = _LONGEST / max(sample.image.shape[:2])
        image = sample.image
        if scale < 1:
            size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        kept.append(Sample(sample.id, image))
    return tuple(kept), notices


def _references(folder: Path) -> tuple[Sample, ...]:
    index = folder / REFERENCES / "index.json"
    if not index.exists():
        return ()
    from anomalyhub.data import read_image

    images = read_json(index).get("images")
    if not isinstance(images, dict):
        raise InvalidModelError(f"{index} is damaged: copy the model folder again")
    names = [(name, str(identity)) for name, identity in images.items() if "/" not in name and not name_fault(name)]
    return tuple(Sample(identity, read_image(folder / REFERENCES / name)) for name, identity in names)


def _without_good(one: Inspection, why: tuple[Explanation, ...]) -> tuple[Inspection, tuple[Explanation, ...]]:
    """What a person has called normal, on the Discover board, is no defect; an image of such regions alone is good."""
    kept = [row for row, (name, _) in enumerate(one.labels) if name != GOOD]
    regions, labels = (tuple(values[row] for row in kept) for values in (one.regions, one.labels))
    label = one.label if not kept or one.label != GOOD else labels[0][0]
    made = replace(one, regions=regions, labels=labels, label=label if kept else GOOD, is_anomalous=bool(kept))
    return made, tuple(why[row] for row in kept) if why else ()


def named_regions(
    one: Evidence, result: AnomalyMap, merged: MergedRegions, first: int, image: int
) -> tuple[tuple[Region, ...], tuple[tuple[str, float], ...], str]:
    """An image's regions, (name, probability) of each, and the image's label.

    first  row of its first region in `merged`      image  its row among the images
    """
    mask, regions, labels = one.regions.mask, [], []
    classes = merged.regions.classes
    for row, crop in enumerate(one.sub_images, first):
        probs = merged.regions.probs[row]
        best = int(probs.argmax())
        regions.append(_region(mask, result, crop.box))
        labels.append((UNKNOWN if merged.unknown[row] else classes[best], float(probs[best])))
    best = int(merged.image_probs.probs[image].argmax())
    return tuple(regions), tuple(labels), UNKNOWN if merged.image_unknown[image] else classes[best]


def _region(mask: np.ndarray, result: AnomalyMap, box: Box) -> Region:
    """The part of an image's mask in a crop's box; all of the box where the crop has an empty mask."""
    inside = np.zeros_like(mask)
    x0, y0, x1, y1 = box
    inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    if not inside.any():
        inside[y0:y1, x0:x1] = True
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    tight = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Region(inside, tight, int(inside.sum()), float(result.scores[inside].max()))
