"""Training auxiliary weights on other products, for detectors that take them by their setting `weights`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from anomalyhub.data import Split, list_products, load_dataset
from anomalyhub.detection.provenance import Provenance
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidImageError, UnknownNameError
from anomalyhub.protocols import Progress
from anomalyhub.registry import trainers

ALL = "all"


def training_products(
    sources: Sequence[str | Path], split: str, products: Iterable[str] = (ALL,), exclude: Iterable[str] = ()
) -> dict[str, Split]:
    """What to train on: one split per product of one or several data sets, by the product's name.

    sources   roots of data sets, or folders of single products
    split     "train" (normal images) or "test" (images with labels and masks)
    products  names to take, or "all"; exclude: names to leave out, such as the one that will be measured
    Raises InvalidDatasetError where two sources have a product of one name, UnknownNameError for one that is nowhere.
    """
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        for name in list_products(source) or (load_dataset(source).product,):
            if name in found:
                raise InvalidDatasetError(f"{found[name]} and {source} both hold a product {name}: rename one of them")
            found[name] = source
    wanted, left_out = set(products), set(exclude)
    for name in sorted((wanted - {ALL}) | left_out):
        if name not in found:
            raise UnknownNameError(f"product of {', '.join(map(str, sources))}", name, sorted(found))
    names = [name for name in sorted(found) if (ALL in wanted or name in wanted) and name not in left_out]
    if not names:
        raise InvalidArgumentError("every product is excluded, so there is nothing to train on: exclude fewer")
    chosen = {}
    for name in names:
        dataset = load_dataset(found[name], name if list_products(found[name]) else None)
        chosen[name] = dataset.labelled_test() if split == "test" else dataset.split(split)
    return chosen


def train(
    name: str,
    products: Mapping[str, Split],
    *,
    backbone: Any = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
):
    """A fitted trainer; `save` writes the folder that detectors take as `weights`.

    checkpoints  folder from which an interrupted run goes on to the same weights when it is started again
    """
    trainer = trainers[name].create(backbone, seed=seed, settings=settings or {})
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
    return trainer.fit(products, progress=progress, checkpoints=checkpoints)


def target_warning(products: Mapping[str, Split], target: str | Path, product: str | None = None) -> str | None:
    """What is wrong with measuring weights trained on `products` on another data set, None when nothing is.

    Images that cannot be read are left out. Raises InvalidDatasetError where `target` is no data set.
    """
    provenance, warnings = Provenance.of(products), []
    for name in (product,) if product else list_products(target) or (None,):
        dataset = load_dataset(target, name)
        images = {ref.id: ref for ref in (*dataset.train.refs, *dataset.test.refs)}
        known = 0
        for ref in images.values():
            with suppress(InvalidImageError):
                known += provenance.knows(ref.load().image)
        warnings.append(provenance.overlap(dataset.product, known, len(images)))
    return "; ".join(warning for warning in warnings if warning) or None
