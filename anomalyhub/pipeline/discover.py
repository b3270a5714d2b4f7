"""From images to kinds of defect: anomaly maps, regions, crops, grouping; and, where labels exist, how well it went."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, UnknownNameError
from anomalyhub.protocols import Progress, part
from anomalyhub.state import read_json, write_json

if TYPE_CHECKING:
    from anomalyhub.data import Split
    from anomalyhub.discovery.base import BaseDiscoverer
    from anomalyhub.regions import Binarizer, ImageRegions
    from anomalyhub.report.discovery import Discovered

#: The masks of the data set in place of anomaly maps: an oracle that tells where the defects are, never which kind.
GROUND_TRUTH = "ground-truth"
BINARIZER, MODEL = "binarizer.json", "model"
_HOLD_OUT = 7  # the first number of its random key


@dataclass(frozen=True)
class DiscoverConfig:
    """What to group, and how. Of `data` and `images` one is given, and of `model`, `maps` and `masks` one.

    data             a path for `load_dataset`; the images of `split` (test, train or all) are taken
    product          one of the data set's products; with `images`, a name for people
    images           (id, path) of each image, or (id, path, label)
    exclude          classes whose images are left out, such as a class of several defects at once
    model            a detector's folder, whose anomaly maps are taken
    maps             a folder of anomaly maps that any program made, matched to the images by `MapFolder.for_images`
    masks            "ground-truth": the data set's own masks, as an oracle of where the defects are
    false_alarm_rate with `model`: the share of normal images that may have a region, in (0, 1]. The detector's scores
                     of held-out normal images decide which images have one, the binarizer where. 1 leaves both to the
                     binarizer, as the paper does
    binarizer        how maps become regions: mebin, otsu or fixed; binarizer_settings: its settings
    classes          the number of kinds, normal being one if normal images are there; or "auto"
    discoverer       a registered discoverer; settings: "preset" and fields of its config
    backbone         a SPEC for `create_backbone`: a transformer; None: embedded, or with `apply` the stored one
    base             a labelled data set of other defects with masks, which AnomalyNCD learns from as well
    holdout          share of the images, drawn by the seed, that only predict, in [0, 1): the inductive figures
    apply            the model/ folder of an earlier discovery: images are assigned to its kinds, nothing is fitted
    detector_backbone  replaces the SPEC stored in `model`, where its weights file has moved
    skip_unreadable  leave damaged images out and name them in `Discovered.skipped`
    """

    data: str | None = None
    product: str | None = None
    split: str = "test"
    images: tuple | None = None
    exclude: tuple[str, ...] = ()
    model: str | None = None
    maps: str | None = None
    masks: str | None = None
    false_alarm_rate: float = 0.1
    binarizer: str = "mebin"
    binarizer_settings: dict = field(default_factory=dict)
    classes: int | Literal["auto"] = "auto"
    discoverer: str = "clustering"
    backbone: str | None = None
    settings: dict = field(default_factory=dict)
    base: str | None = None
    holdout: float = 0.0
    apply: str | None = None
    detector_backbone: str | None = None
    skip_unreadable: bool = False

    def __post_init__(self):
        if (self.data is None) == (self.images is None):
            raise InvalidArgumentError("a discovery needs either data (a path) or images (ids and paths): give one")
        if sum(source is not None for source in (self.model, self.maps, self.masks)) != 1:
            raise InvalidArgumentError(
                "a discovery needs one of a detector's model, a folder of anomaly maps and ground-truth masks: "
                "give --model, --maps, or --masks ground-truth"
            )
        if self.masks not in (None, GROUND_TRUTH):
            raise InvalidArgumentError(f"masks can only be {GROUND_TRUTH!r}, got {self.masks!r}: give that, or --maps")
        for entry in self.images or ():
            if not (isinstance(entry, (list, tuple)) and len(entry) in (2, 3)):
                raise InvalidArgumentError(f"images must be (id, path) or (id, path, label), got {entry!r}")
        if self.classes != "auto" and self.classes < 1:
            raise InvalidArgumentError(f"classes must be 'auto' or a number from 1, got {self.classes}")
        if not 0.0 <= self.holdout < 1.0:
            raise InvalidArgumentError(f"holdout is a share from 0 to below 1, got {self.holdout}")
        if not 0.0 < self.false_alarm_rate <= 1.0:
            raise InvalidArgumentError(
                f"the false-alarm rate must be above 0 and at most 1, got {self.false_alarm_rate}"
            )
        if self.apply is not None and (self.holdout or self.classes != "auto" or self.base or self.settings):
            raise InvalidArgumentError(
                "an earlier discovery is applied as it is: leave out --classes, --base, --holdout and --set, or --apply"
            )


def discover(
    config: DiscoverConfig, *, seed: int = 0, progress: Progress | None = None, checkpoints: Path | None = None
) -> tuple[Discovered, BaseDiscoverer, Binarizer | None]:
    """Group the defects of a product into kinds: the result, the fitted discoverer, and the binarizer if one was used.

    checkpoints  a folder for what an interrupted training goes on from
    Raises what the stages raise: InvalidDatasetError, InvalidImageError, InvalidModelError, InvalidArgumentError.
    """
    from anomalyhub.report.discovery import Discovered

    start = time.perf_counter()
    samples, product, skipped = _samples(config)
    binarizer = _binarizer(config)
    images = _regions(config, samples, binarizer, part(progress, 0.0, 0.45))
    middle = time.perf_counter()
    fitted = np.zeros(len(images), bool) if config.apply else ~_held_out(len(images), config.holdout, seed)
    if all(images[index].is_empty for index in (np.flatnonzero(fitted) if fitted.any() else range(len(images)))):
        raise InvalidDatasetError(
            f"none of the {len(images)} images of {product} has an anomalous region, so there is nothing to group: "
            "give images with defects, raise the false-alarm rate, or choose another binarizer, such as otsu"
        )
    if config.apply:
        from anomalyhub.discovery import load_discoverer

        discoverer = load_discoverer(Path(config.apply), config.backbone)
    else:
        discoverer = _fit(config, images, fitted, seed, part(progress, 0.45, 0.9), checkpoints)
    found = _assigned(discoverer, images, fitted, part(progress, 0.9, 1.0))
    seconds = {"regions": middle - start, "discovery": time.perf_counter() - middle}
    settings = {"seed": seed, "discoverer_config": dataclasses.asdict(discoverer.config)}
    result = Discovered(
        product=product,
        refs=samples.refs,
        images=images,
        fitted=fitted,
        **found,
        curve=discoverer.n_classes_curve_,
        seconds=seconds,
        config=dataclasses.asdict(config) | settings,
        skipped=skipped,
    )
    return result, discoverer, binarizer


def discover_to(
    folder: Path | None,
    config: DiscoverConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> Discovered:
    """`discover`, and write all of it into an existing folder: see `Discovered.write`; the model goes to model/.

    folder  None in all but the first of several processes, which write nothing
    """
    result, discoverer, binarizer = discover(
        config, seed=seed, progress=part(progress, 0.0, 0.9), checkpoints=checkpoints
    )
    if folder is not None:
        result.write(folder, seed=seed, progress=part(progress, 0.9, 1.0))
        (folder / MODEL).mkdir()
        discoverer.save(folder / MODEL)
        if binarizer is not None:
            write_json(folder / MODEL / BINARIZER, binarizer.to_json())
    return result


def _samples(config: DiscoverConfig) -> tuple[Split, str, list[str]]:
    """The images, the product's name, and why images were skipped."""
    from anomalyhub.data import SampleRef, Split, load_dataset

    if config.images is not None:
        samples = Split(SampleRef(str(entry[0]), Path(entry[1]), *entry[2:]) for entry in config.images)
        product = config.product or "images"
    else:
        dataset = load_dataset(config.data, config.product)
        samples, product = dataset.split(config.split), dataset.product
    for name in config.exclude:
        if name not in samples.labels:
            raise UnknownNameError("class to exclude", name, {label for label in samples.labels if label is not None})
    samples = samples.without(ref.id for ref in samples.refs if ref.label in config.exclude)
    failures = samples.unreadable() if config.skip_unreadable else []
    if failures and len(failures) == len(samples):
        raise InvalidDatasetError(f"none of the {len(samples)} images can be read, to begin with {failures[0][1]}")
    samples = samples.without(name for name, _ in failures)
    if not len(samples):
        raise InvalidDatasetError(f"{product} has no images to group: give images, or exclude fewer classes")
    return samples, product, [reason for _, reason in failures]


def _binarizer(config: DiscoverConfig) -> Binarizer | None:
    """Unfitted, or the one of the discovery that is applied, with its range of scores; None for ground-truth masks."""
    from anomalyhub.regions import Binarizer, binarizers

    if config.masks is not None:
        return None
    if config.apply is not None and (Path(config.apply) / BINARIZER).exists():
        return Binarizer.from_json(read_json(Path(config.apply) / BINARIZER))
    return binarizers[config.binarizer](**config.binarizer_settings)


def _regions(
    config: DiscoverConfig, samples: Split, binarizer: Binarizer | None, progress: Progress
) -> list[ImageRegions]:
    from anomalyhub.pipeline import regions

    if config.masks is not None:
        return regions.regions_of_masks(samples, progress)
    if config.maps is not None:
        return regions.regions_of_folder(samples, config.maps, binarizer, progress)
    return regions.regions_of_detector(
        samples, config.model, config.detector_backbone, binarizer, progress, config.false_alarm_rate
    )


def _held_out(count: int, share: float, seed: int) -> np.ndarray:
    """(count,) bool: the images that only predict."""
    chosen = np.random.default_rng((seed, _HOLD_OUT)).permutation(count)[: round(share * count)]
    return np.isin(np.arange(count), chosen)


def _fit(
    config: DiscoverConfig,
    images: Sequence[ImageRegions],
    fitted: np.ndarray,
    seed: int,
    progress: Progress,
    checkpoints: Path | None,
) -> BaseDiscoverer:
    from anomalyhub.data import load_dataset
    from anomalyhub.discovery import create_discoverer
    from anomalyhub.pipeline.regions import regions_of_defects

    discoverer = create_discoverer(
        config.discoverer, config.backbone or "embedded", seed=seed, settings=config.settings
    )
    crops = [crop for one, chosen in zip(images, fitted, strict=True) if chosen for crop in one.sub_images]
    base, labels = None, None
    if config.base is not None:
        base, labels = regions_of_defects(load_dataset(config.base).split("test"), part(progress, 0.0, 0.05))
        if not base:
            raise InvalidDatasetError(f"{config.base} has no labelled defects: give folders named by class")
    return discoverer.fit(
        crops, base, labels, config.classes, progress=part(progress, 0.05, 1.0), checkpoints=checkpoints
    )


def _assigned(
    discoverer: BaseDiscoverer, images: Sequence[ImageRegions], fitted: np.ndarray, progress: Progress
) -> dict[str, Any]:
    """Kinds of all regions and images, of the fit and not, in the order of the images: fields of Discovered."""
    owners = np.array([index for index, one in enumerate(images) for _ in one.sub_images], np.int64)
    crops = [crop for one in images for crop in one.sub_images]
    rows = np.where(fitted[owners], np.cumsum(fitted[owners]) - 1, -1)
    n_classes = len(discoverer.classes_)
    found = {
        "classes": discoverer.classes_,
        "owners": owners,
        "rows": rows,
        "embeddings": np.zeros((len(crops), discoverer.embeddings_.shape[1]), np.float32),
        "probs": np.zeros((len(crops), n_classes), np.float32),
        "unknown": np.zeros(len(crops), bool),
        "weights": np.zeros(len(crops)),
        "image_probs": np.zeros((len(images), n_classes), np.float32),
        "image_unknown": np.zeros(len(images), bool),
    }
    progress(0.0, "assigning")
    for of_fit in (True, False):
        chosen = np.flatnonzero((rows >= 0) == of_fit)
        if not len(chosen):
            continue
        ids = owners[chosen].tolist()
        if of_fit:
            embeddings, one = discoverer.embeddings_, discoverer.fitted_result(ids)
        else:
            new = [crops[index] for index in chosen]
            embeddings = discoverer.embed(new)
            one = discoverer.predict_embedded(embeddings, new, ids)
        found["embeddings"][chosen], found["probs"][chosen] = embeddings, one.regions.probs
        found["unknown"][chosen], found["weights"][chosen] = one.unknown, one.weights
        found["image_probs"][list(one.images)], found["image_unknown"][list(one.images)] = (
            one.image_probs.probs,
            one.image_unknown,
        )
    return found
