"""One detector's chains: what it sees of the defective images, what they are called, and where the errors are from.

    as it is    lost to the verdict         + which images are defective     (the detector's score and its threshold)
                lost to the binarization    + the best threshold of each map (of all, the one nearest to the true mask)
                lost to the map             + the true masks                 (where the detector sees the defect)
                lost to the classifier      what is still wrong

What is lost may be negative: a later stage can do better with a wrong mask. The ground truth is read for these rows and
for the metrics, never for fitting the chain as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from anomalyhub.benchmark.swap import STAGES
from anomalyhub.data import Dataset, Split
from anomalyhub.protocols import Progress, part
from anomalyhub.types import GOOD, UNKNOWN, Sample

#: The masks that tell the stages apart.
CHAIN, BEST, TRUE = "detector", "best-threshold", "ground-truth"
#: Name, SPEC of the backbone if one is asked for, and settings.
Part = tuple[str, str | None, dict[str, Any]]


class Chains:
    """One detector, fitted with one seed, and what it sees of the defective test images."""

    def __init__(
        self,
        parts: Mapping[str, Part],
        heads: Mapping[str, Part],
        dataset: Dataset,
        test: Split,
        detector: str,
        seed: int,
        shots: int,
        false_alarm_rate: float,
    ):
        """`parts` has the detector and the binarizers by their texts, `heads` the classifiers behind this detector."""
        self.parts, self.heads, self.dataset, self.test = parts, heads, dataset, test
        self.false_alarm_rate = false_alarm_rate
        self.detector, self.seed = detector, seed
        labels = np.array(test.labels, object)
        self.defective, self.good = np.flatnonzero(labels != GOOD), np.flatnonzero(labels == GOOD)
        self.labels = labels[self.defective]
        self.examples = _drawn(self.labels, shots, seed)  # bool, over the defective ones

    def rows(self, wanted: Sequence[tuple[str, str]], progress: Progress) -> Iterator[dict[str, Any]]:
        """Yield the rows of some (binarizer, classifier)."""
        from anomalyhub.metrics import image_metrics

        inspector = self._fitted(part(progress, 0.0, 0.3))
        goods = [result.image_score for result in self._predicted(inspector, self.good)]
        samples = [self.test[int(row)] for row in self.defective]
        found = list(self._examined(inspector, samples, part(progress, 0.3, 0.5)))
        scores = np.array([result.image_score for result, *_ in found])
        tested = ~self.examples
        auroc = image_metrics(
            np.concatenate([np.zeros(len(goods), bool), np.ones(tested.sum(), bool)]),
            np.concatenate([goods, scores[tested]]),
        )["image_auroc"]
        verdicts = scores > inspector.threshold
        right_goods = int((np.array(goods) <= inspector.threshold).sum())
        share, shown, oracles = part(progress, 0.5, 1.0), {}, {}
        masks_known = all(sample.mask is not None and sample.mask.any() for sample in samples)
        for number, (binarizer, classifier) in enumerate(wanted):
            share(number / len(wanted), f"{self.detector}, {binarizer}, {classifier}, seed {self.seed}")
            if binarizer not in shown:
                shown[binarizer] = self._evidence(inspector, samples, found, binarizer, CHAIN)
            named = {CHAIN: self._named(shown[binarizer], classifier)}
            for masks in (BEST, TRUE) if masks_known else ():  # no binarizer has a part in these
                if masks not in shown:
                    shown[masks] = self._evidence(inspector, samples, found, binarizer, masks)
                if (classifier, masks) not in oracles:
                    oracles[classifier, masks] = self._named(shown[masks], classifier)
                named[masks] = oracles[classifier, masks]
            right = {masks: names == self.labels[tested] for masks, names in named.items()}
            yield {
                **{"detector": self.detector, "binarizer": binarizer, "classifier": classifier, "seed": self.seed},
                **{"image_auroc": auroc, "n": len(goods) + int(tested.sum()), "n_defective": int(tested.sum())},
                **_attributed(right, verdicts[tested], right_goods, len(goods)),
            }

    def _fitted(self, progress: Progress):
        from anomalyhub.detection import create_detector, detectors
        from anomalyhub.pipeline import Inspector

        name, backbone, settings = self.parts[self.detector]
        made = create_detector(name, backbone, seed=self.seed, settings=settings)
        unlabelled = detectors[name].transductive  # it judges images by each other
        samples = self.test if unlabelled else self.dataset.train
        inspector = Inspector.fit(
            made,
            samples,
            false_alarm_rate=self.false_alarm_rate,
            product=self.dataset.product,
            progress=progress,
        )
        return inspector.for_batch(self.test)

    def _predicted(self, inspector: Any, rows: np.ndarray):
        from anomalyhub.detection.base import batches

        for batch in batches((self.test[int(row)] for row in rows), 8):
            yield from inspector.detector.predict(batch)

    def _examined(self, inspector: Any, samples: Sequence[Sample], progress: Progress):
        from anomalyhub.pipeline.evidence import examined

        for done, one in enumerate(examined(inspector.detector, samples), 1):
            progress(done / len(samples), f"{self.detector}, seed {self.seed}: {done} of {len(samples)} images")
            yield one

    def _evidence(
        self, inspector: Any, samples: Sequence[Sample], found: Sequence, binarizer: str, masks: str
    ) -> list[Any]:
        """What classifiers are shown of the defective images; the binarizer has seen the examples' maps alone."""
        from anomalyhub.pipeline.evidence import fit_binarizer, to_evidence
        from anomalyhub.regions import binarizers

        name, _, settings = self.parts[binarizer]
        made = binarizers[name](**settings)
        fit_binarizer(inspector, made, [found[row][0] for row in np.flatnonzero(self.examples)])
        evidence = []
        for row, (sample, one) in enumerate(zip(samples, found, strict=True)):
            mask = None
            if masks != CHAIN:
                mask = sample.mask if masks == TRUE else best_threshold_mask(one[0].scores, sample.mask)
            label = str(self.labels[row]) if self.examples[row] else None
            evidence.append(to_evidence(inspector, sample, one, made, mask=mask, label=label))
        return evidence

    def _named(self, evidence: Sequence[Any], classifier: str) -> np.ndarray:
        """The kinds, (n,) object, that the defective images are called that are no examples."""
        from anomalyhub.classification import create_classifier

        name, backbone, settings = self.heads[classifier]
        head = create_classifier(name, backbone, seed=self.seed, settings=settings)
        head.fit([evidence[row] for row in np.flatnonzero(self.examples)])
        merged = head.predict([evidence[row] for row in np.flatnonzero(~self.examples)])
        names = np.array(merged.image_probs.classes, object)[merged.image_probs.probs.argmax(axis=1)]
        return np.where(merged.image_unknown, UNKNOWN, names)


def best_threshold_mask(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: of all thresholds of a map, the one whose pixels have the largest IoU with a true mask (H, W)."""
    order = np.argsort(-scores, axis=None, kind="stable")
    hits = np.cumsum(mask.ravel()[order])
    iou = hits / (np.arange(1, order.size + 1) + mask.sum() - hits)
    ends = np.append(np.diff(scores.ravel()[order]) != 0, True)  # pixels of one score go together
    best = int(np.where(ends, iou, -1.0).argmax())
    return scores >= scores.ravel()[order[best]]


def _attributed(
    right: Mapping[str, np.ndarray], verdicts: np.ndarray, right_goods: int, n_goods: int
) -> dict[str, Any]:
    """Accuracies, and what each stage loses, as shares of all test images."""
    total = n_goods + len(verdicts)
    as_it_is = (right_goods + int((right[CHAIN] & verdicts).sum())) / total
    told = {masks: (n_goods + int(names.sum())) / total for masks, names in right.items()}
    lost: dict[str, float | None] = dict.fromkeys(STAGES)
    lost["verdict"] = told[CHAIN] - as_it_is
    if TRUE in told:
        lost |= {
            "binarization": told[BEST] - told[CHAIN],
            "map": told[TRUE] - told[BEST],
            "classifier": 1.0 - told[TRUE],
        }
    return {"accuracy": as_it_is, "kind_accuracy": float(right[CHAIN].mean()), "lost": lost}


def _drawn(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """(n,) bool: which images are examples; a kind keeps at least one for the test."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for name in sorted(set(labels)):
        rows = np.flatnonzero(labels == name)
        chosen[rng.permutation(rows)[: min(shots, len(rows) - 1)]] = True
    return chosen
