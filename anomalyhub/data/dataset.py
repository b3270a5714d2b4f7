"""Data sets on disk, recognised by their layout and read lazily."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from anomalyhub.data.folders import holds_images, is_image_name, subfolders
from anomalyhub.data.layouts import products_in, read_layout, recognise, recognise_loose, recognise_split
from anomalyhub.data.samples import SampleRef, Split
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, UnknownNameError
from anomalyhub.types import GOOD

__all__ = ["Dataset", "SampleRef", "Split", "list_products", "load_dataset"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One product's images.

    root     the product's folder; ids of samples are paths below it
    product  its name
    layout   which layout it was read as, see `anomalyhub.data.layouts`
    train    normal images to fit on
    test     all other images with their labels and masks
    """

    root: Path
    product: str
    layout: str
    train: Split
    test: Split

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels in the test split: "good" first when there, then the defect classes, sorted."""
        labels = {label for label in self.test.labels if label is not None}
        return tuple(sorted(labels, key=lambda label: (label != GOOD, label)))

    def split(self, name: str) -> Split:
        """The split called train or test, or all images, sorted by id.

        Raises InvalidArgumentError for another name and InvalidDatasetError when there is no image in it.
        """
        if name not in ("train", "test", "all"):
            raise InvalidArgumentError(f"split must be train, test or all, got {name!r}: choose one of them")
        both = {ref.id: ref for ref in (*self.train.refs, *self.test.refs)}  # a flat folder's images are in both
        chosen = Split(both[key] for key in sorted(both)) if name == "all" else getattr(self, name)
        if not len(chosen):
            remedy = "put them into train/good, or into a folder named good" if name == "train" else "give other images"
            raise InvalidDatasetError(f"{self.root} has no {'normal' if name == 'train' else name} images: {remedy}")
        return chosen

    def labelled_test(self) -> Split:
        """The test split, for what needs labels. Raises InvalidDatasetError unless each of its images has one."""
        test = self.split("test")
        if None in test.labels:
            missing = test.ids[test.labels.index(None)]
            raise InvalidDatasetError(
                f"{self.root} has images without a label, such as {missing}: "
                "put images into test/CLASS, or into folders named by class, with the normal ones in good"
            )
        return test


def load_dataset(path: str | Path, product: str | None = None, *, seed: int = 0) -> Dataset:
    """Read a data set's root (then `product` names one of its products) or one product's own folder.

    Nothing is decoded. Where the layout has no split of its own, 80 % of the normal images, drawn by `seed`, train and
    the others are tested with the defective ones. A flat folder (or one image file) has no labels; all its images are
    both train and test. Class folders without a normal class have an empty train split.

    Raises InvalidDatasetError when `path` is no data set, or holds several products and `product` is None;
    UnknownNameError when it does not hold `product`.
    """
    folder = _existing(path)
    if not folder.is_dir():
        return _load_file(folder, product)
    layout = recognise(folder)
    products = () if layout else products_in(folder)
    if not products:
        layout = layout or recognise_split(folder) or _recognise_loose(folder, product)
    if layout and product in (None, folder.name):
        return _load(folder, layout, seed)
    if layout and (layout != "classes" or recognise(folder)):
        raise InvalidDatasetError(
            f"{folder} is itself one product ({layout} layout), not a root that holds {product!r}: "
            "leave the product out, or give the folder above"
        )
    return load_dataset(folder / _choose(folder, product, products), seed=seed)


def list_products(path: str | Path) -> tuple[str, ...]:
    """Names of the products below a data set's root, sorted; empty when `path` is itself one product.

    Raises InvalidDatasetError when `path` does not exist.
    """
    folder = _existing(path)
    return () if not folder.is_dir() or recognise(folder) else products_in(folder)


def _existing(path: str | Path) -> Path:
    if str(path).startswith("hf:"):
        raise InvalidDatasetError(
            f"{path} is on the Hub, and Hub data sets come in a later version: download it and give its folder"
        )
    try:
        folder = Path(os.path.abspath(Path(path).expanduser()))
        exists = folder.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL, an unknown ~user
        raise InvalidDatasetError(f"{str(path)!r} cannot be opened ({error}): check the path") from error
    if not exists:
        raise InvalidDatasetError(f"{path} does not exist: check the path and its spelling")
    return folder


def _recognise_loose(folder: Path, product: str | None) -> str:
    for name, sub in subfolders(folder).items():
        if name != product and not recognise(sub) and (products := products_in(sub)):
            raise InvalidDatasetError(
                f"{folder} is not a data set, but {sub} holds the products {', '.join(products)}: give that folder"
            )
    layout = recognise_loose(folder)
    if layout is None:
        raise InvalidDatasetError(f"{folder} holds no images: give a folder of images (PNG, JPEG, TIFF, BMP, WebP)")
    return layout


def _choose(folder: Path, product: str | None, products: tuple[str, ...]) -> str:
    """The product to read below a root; with a name, any subfolder of images will do."""
    if product is None:
        if len(products) == 1:
            return products[0]
        raise InvalidDatasetError(
            f"{folder} holds {len(products)} products: name one of {', '.join(products)} with --product"
        )
    subs = subfolders(folder)
    if product in products or (product in subs and holds_images(subs[product])):
        return product
    raise UnknownNameError(f"product of {folder}", product, products or subs)


def _load(folder: Path, layout: str, seed: int) -> Dataset:
    train, test = read_layout(folder, layout, seed)
    if not train and not test:
        raise InvalidDatasetError(f"{folder} looks like the {layout} layout but holds no images: add some")
    return Dataset(folder, folder.name, layout, Split(train), Split(test))


def _load_file(path: Path, product: str | None) -> Dataset:
    if not is_image_name(path.name):
        remedy = "unpack it and give the folder" if path.suffix.lower() == ".zip" else "give a folder of images"
        raise InvalidDatasetError(f"{path} is a file, neither a folder nor an image: {remedy}")
    if product not in (None, path.stem):
        raise InvalidDatasetError(f"{path} is one image, which holds no product {product!r}: leave the product out")
    split = Split([SampleRef(path.name, path)])
    return Dataset(path.parent, path.stem, "flat", split, split)
