"""A data set that the package draws itself, so that everything can be tried with no download.

Three products are rendered with their geometry, materials, light and camera: a twill fabric (`weave`), a printed box
label (`label`) and a turned steel ring (`ring`). Normal photographs vary in pose, light, material and noise; each
product has four kinds of defects with masks. Real photographs are what a method is judged on; this set shows how the
tools work.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from anomalyhub.data.sample import label, ring, weave
from anomalyhub.data.sample.studio import UNITS, Shot, expose, sense
from anomalyhub.errors import InvalidArgumentError, UnknownNameError
from anomalyhub.fsio import atomic_folder
from anomalyhub.protocols import Progress
from anomalyhub.types import GOOD

_DRAWN = {"weave": weave, "label": label, "ring": ring}
#: Names of the products.
PRODUCTS = tuple(_DRAWN)
#: The four kinds of defects of each product.
DEFECTS = {name: tuple(product.DEFECTS) for name, product in _DRAWN.items()}
#: Smallest image height in pixels that still shows every defect.
MIN_SIZE = 64
#: A pixel is defective when a channel changed by more than this many of 255 levels, about twice the sensor's noise,
#: in a spot where one pixel changed by more than `_CLEAR`.
_VISIBLE, _CLEAR = 6.0, 12.0
#: A defect that covers less than this share of the image is drawn again elsewhere.
_MIN_SHARE = 1e-3


def draw(product: str, kind: str = GOOD, seed: int = 0, *, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Photograph one product.

    kind   "good" or one of DEFECTS[product]
    seed   fixes the image; one seed's good and defective images share pose, light, material and noise
    size   image height in pixels, at least 64; the label is a quarter wider than high

    Returns the image (H, W, 3) uint8 RGB and the mask (H, W) bool of the pixels that the defect visibly changed, holes
    of up to two pixels closed; all False for "good". Raises UnknownNameError and InvalidArgumentError.
    """
    if product not in _DRAWN:
        raise UnknownNameError("sample product", product, PRODUCTS)
    if kind not in (GOOD, *DEFECTS[product]):
        raise UnknownNameError(f"kind of {product}", kind, (GOOD, *DEFECTS[product]))
    if _integer("size", size) < MIN_SIZE:
        raise InvalidArgumentError(f"size must be at least {MIN_SIZE} pixels, got {size}")
    drawn, number = _DRAWN[product], PRODUCTS.index(product)
    _check_count("seed", seed)
    pose_rng, build_rng, sensor_rng, defect_rngs = np.random.SeedSequence([seed, number]).spawn(4)
    shot = _compose(drawn, size, np.random.default_rng(pose_rng))
    surface = drawn.build(shot, np.random.default_rng(build_rng))
    values = expose(drawn.shade(surface, shot), shot)
    mask = np.zeros(shot.shape, bool)
    if kind != GOOD:
        stream = defect_rngs.spawn(len(DEFECTS[product]))[DEFECTS[product].index(kind)]
        values, mask = _damage(drawn, kind, surface, shot, values, np.random.default_rng(stream))
    return sense(values, np.random.default_rng(sensor_rng)), mask


def _compose(drawn, size: int, rng: np.random.Generator) -> Shot:
    """Choose the pose and the light."""
    shift, turn, zoom = drawn.POSE
    warmth = rng.normal(0.0, 0.035)
    return Shot(
        shape=(size, round(size * drawn.ASPECT)),
        scale=size / UNITS,
        shift=(rng.uniform(-shift, shift), rng.uniform(-shift, shift)),
        angle=rng.uniform(-turn, turn),
        zoom=1.0 + rng.uniform(-zoom, zoom),
        azimuth=math.radians(-125.0 + rng.uniform(-32.0, 32.0)),
        height=math.radians(rng.uniform(42.0, 60.0)),
        exposure=math.exp(rng.normal(0.0, 0.085)),
        tint=(1.0 + warmth, 1.0, 1.0 - warmth),
        falloff=rng.uniform(0.05, 0.38),
    )


def _damage(drawn, kind: str, surface, shot: Shot, before: np.ndarray, rng: np.random.Generator):
    """Apply a defect: camera values (H, W, 3) and the mask (H, W) of what it visibly changed from `before`."""
    for _ in range(16):
        damaged = copy.deepcopy(surface)
        drawn.DEFECTS[kind](damaged, shot, rng)
        values = expose(drawn.shade(damaged, shot), shot)
        mask = _visible_change(before, values)
        if mask.mean() >= _MIN_SHARE:
            break
    return values, mask


def _visible_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(H, W) bool: where two (H, W, 3) camera values differ visibly, in parts that hold a clear difference."""
    levels = np.abs(after - before).max(axis=2) * 255.0
    closed = cv2.morphologyEx((levels > _VISIBLE).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, parts = cv2.connectedComponents(closed)
    keep = np.zeros(count, bool)
    keep[parts[levels > _CLEAR]] = True
    return keep[parts]


def write_sample(
    out: str | Path,
    *,
    products: str | Iterable[str] = PRODUCTS,
    n_train: int = 40,
    n_test_good: int = 10,
    n_defect: int = 8,
    size: int = 256,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the sample data set in the MVTec AD layout; returns `out`.

    PRODUCT/train/good/000.png, PRODUCT/test/KIND/000.png and PRODUCT/ground_truth/KIND/000_mask.png (0 or 255).

    n_train, n_test_good   normal images per product      n_defect   images per kind of defect
    size                   image height in pixels         seed       equal seeds give equal bytes

    An image depends only on the seed, its kind and its number, so a larger set holds the smaller one. `out` appears
    when all is written. Raises OutputError when `out` is not empty (unless `overwrite`) or cannot be written,
    UnknownNameError and InvalidArgumentError.
    """
    products = dict.fromkeys((products,) if isinstance(products, str) else products)
    for name in products:
        if name not in _DRAWN:
            raise UnknownNameError("sample product", name, PRODUCTS)
    counts = {"n_train": n_train, "n_test_good": n_test_good, "n_defect": n_defect, "seed": seed}
    for name, count in counts.items():
        _check_count(name, count)
    plan = []
    for product in products:
        kinds = [("train", GOOD, n_train), ("test", GOOD, n_test_good)]
        kinds += [("test", kind, n_defect) for kind in DEFECTS[product]]
        plan += [(product, *kind[:2], (group, i)) for group, kind in enumerate(kinds) for i in range(kind[2])]
    if not plan:
        raise InvalidArgumentError("there is nothing to draw: name a product and ask for at least one image")
    with atomic_folder(out, overwrite=overwrite) as folder:
        for done, (product, split, kind, key) in enumerate(plan):
            if progress:
                progress(done / len(plan), f"drawing {product}: {kind}")
            image_seed = int(np.random.SeedSequence([seed, *key]).generate_state(1)[0])
            image, mask = draw(product, kind, image_seed, size=size)
            _write_png(folder / product / split / kind / f"{key[1]:03d}.png", image[..., ::-1])
            if kind != GOOD:
                path = folder / product / "ground_truth" / kind / f"{key[1]:03d}_mask.png"
                _write_png(path, mask.astype(np.uint8) * 255)
    if progress:
        progress(1.0, f"{len(plan)} images written")
    return Path(out)


def _write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    path.write_bytes(data.tobytes())


def _integer(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise InvalidArgumentError(f"{name} must be a whole number, got {value!r}") from error


def _check_count(name: str, value: int) -> None:
    if _integer(name, value) < 0:
        raise InvalidArgumentError(f"{name} must be 0 or more, got {value}")
