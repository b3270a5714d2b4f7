"""Data sets on disk, recognised by their layout and read lazily."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from anomalyhub.data.configs import DEFAULT, Files, configs_of, files_of
from anomalyhub.data.folders import holds_images, is_image_name, subfolders
from anomalyhub.data.hf import is_hub, open_hub
from anomalyhub.data.layouts import products_in, read_layout, recognise, recognise_loose, recognise_split
from anomalyhub.data.named import named
from anomalyhub.data.rows import shown
from anomalyhub.data.samples import SampleRef, Split
from anomalyhub.data.tables import read_tables
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, UnknownNameError
from anomalyhub.types import GOOD

__all__ = ["Dataset", "SampleRef", "Split", "list_products", "load_dataset"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One product's images.

    root     the product's folder; ids of samples are paths below it
    product  its name
    layout   which layout it was read as, see `anomalyhub.data.layouts`; "parquet" for tables of images
    train    normal images to fit on
    test     all other images with their labels and masks
    notices  what the user should know of the reading, one sentence each
    """

    root: Path
    product: str
    layout: str
    train: Split
    test: Split
    notices: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels in the test split: "good" first when there, then the defect classes, sorted."""
        labels = {label for label in self.test.labels if label is not None}
        return tuple(sorted(labels, key=lambda label: (label != GOOD, label)))

    def split(self, name: str) -> Split:
        """The split called train or test, or all images, sorted by id; those of tables in the order of their rows.

        Raises InvalidArgumentError for another name and InvalidDatasetError when there is no image in it.
        """
        if name not in ("train", "test", "all"):
            raise InvalidArgumentError(f"split must be train, test or all, got {name!r}: choose one of them")
        both = {ref.id: ref for ref in (*self.train.refs, *self.test.refs)}  # a flat folder's images are in both
        order = both if self.layout == "parquet" else sorted(both)
        chosen = Split(both[key] for key in order) if name == "all" else getattr(self, name)
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


def load_dataset(path: str | Path, product: str | None = None, *, seed: int = 0, stream: bool | None = None) -> Dataset:
    """Read a data set's root (then `product` names one of its products) or one product's own folder.

    path    a folder, or "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION", a data set of the Hugging Face Hub. Besides the
            layouts of `anomalyhub.data.layouts`, tables of images in parquet files are read, see
            `anomalyhub.data.tables`; then a product is one of the data set's configs
    stream  of a data set of the Hub: leave the tables there and fetch images when they are asked for; None: if the data
            set is larger than 2 GiB, or the bytes that $ANOMALYHUB_STREAM_ABOVE says. Read such a split in its order

    Nothing is decoded. Where the layout has no split of its own, 80 % of the normal images, drawn by `seed`, train and
    the others are tested with the defective ones. A flat folder (or one image file) has no labels; all its images are
    both train and test. Class folders without a normal class have an empty train split.

    Raises InvalidDatasetError when `path` is no data set, or holds several products and `product` is None;
    UnknownNameError when it does not hold `product`; StoreError and UnsafeRepositoryError as a pull does.
    """
    if is_hub(path):
        hub = open_hub(path, stream)
        if hub.folder is None:
            return replace(_load_streamed(hub.files, Path(path), hub.name, product, seed), notices=hub.notices)
        inner = None if product == hub.name and hub.name not in list_products(hub.folder) else product
        dataset = load_dataset(hub.folder, inner, seed=seed)
        name = hub.name if dataset.product == hub.folder.name else dataset.product
        return replace(dataset, product=name, notices=hub.notices)
    folder = _existing(path)
    if not folder.is_dir():
        return _load_file(folder, product)
    layout = recognise(folder)
    products = () if layout else products_in(folder)
    if not products and not layout and configs_of(files := files_of(folder)):
        return _load_tables(files, folder, folder.name, product, seed)
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
    if is_hub(path):
        hub = open_hub(path)
        return list_products(hub.folder) if hub.folder is not None else _configs(hub.files)
    folder = _existing(path)
    if not folder.is_dir() or recognise(folder):
        return ()
    return products_in(folder) or _configs(files_of(folder))


def _existing(path: str | Path) -> Path:
    try:
        folder = Path(os.path.abspath(Path(path).expanduser()))
        exists = folder.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL, an unknown ~user
        raise InvalidDatasetError(f"{str(path)!r} cannot be opened ({error}): check the path") from error
    if not exists:
        raise InvalidDatasetError(f"{path} does not exist: check the path and its spelling")
    return folder


def _configs(files: Files) -> tuple[str, ...]:
    return tuple(name for name in sorted(configs_of(files)) if name != DEFAULT)


def _load_tables(files: Files, root: Path, name: str, product: str | None, seed: int) -> Dataset:
    """A config of tables; the one called default goes by the data set's name."""
    configs = configs_of(files)
    chosen = product
    if product is None and len(configs) == 1:
        chosen = next(iter(configs))
    elif product is None or (product == name and product not in configs and DEFAULT in configs):
        chosen = DEFAULT
    if chosen not in configs:
        names = ", ".join(map(shown, sorted(configs)))
        if product is None:
            raise InvalidDatasetError(f"{root} holds {len(configs)} products: name one of {names} with --product")
        raise UnknownNameError(f"product of {root}", product, map(shown, configs))
    train, test = read_tables(files, chosen, configs[chosen], seed)
    if not train and not test:
        raise InvalidDatasetError(f"{root} has tables without rows: export it again")
    return Dataset(root, name if chosen == DEFAULT else chosen, "parquet", Split(train), Split(test))


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


#: The labels of a streamed data set take many requests, and a verb opens its data more than once.
_load_streamed = lru_cache(maxsize=1)(_load_tables)


def _load(folder: Path, layout: str, seed: int) -> Dataset:
    train, test = (named(folder, refs) for refs in read_layout(folder, layout, seed))
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
