"""Synthetic defects on disk: a product in the MVTec AD layout that Hugging Face's `datasets` reads as well.

    PRODUCT/train/good/0003.png              clean images that defects were painted on, at most `size` pixels
    PRODUCT/test/CLASS/000.png               synthetic defects of each pseudo-class
    PRODUCT/ground_truth/CLASS/000_mask.png  their masks, 0 or 255
    metadata.jsonl                           a line per defect: its three files, label and parameters
    synthetic.json                           settings, seed, textures, counts         README.md   the card

A defect's own clean image is the file in train/good that its line names, so that none is stored twice.
"""

from __future__ import annotations

import json
import operator
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, overload

import cv2
import numpy as np

from anomalyhub import __version__
from anomalyhub.data.images import read_image, read_mask
from anomalyhub.data.samples import Split
from anomalyhub.errors import InvalidDatasetError, OutputError
from anomalyhub.hub.dataset_cards import Subset, dataset_card
from anomalyhub.hub.markup import code, markdown
from anomalyhub.protocols import Progress
from anomalyhub.state import write_json
from anomalyhub.synthesis.generate import Synthesizer, SyntheticSample
from anomalyhub.synthesis.names import safe_name

METADATA, INFO, README = "metadata.jsonl", "synthetic.json", "README.md"
#: Raised when the meaning of the files changes.
SCHEMA = 1
_DONE, _PLAN, _IMAGES = "done.jsonl", "plan.json", "images"
_COLUMNS = {
    "image": "the image with a defect painted on",
    "mask": "where that is: 255, else 0",
    "clean": "the image without it",
    "label": "the pseudo-class, which is the texture",
    "parameters": "how it was drawn",
}
#: On photographs twice as fast as the default strategy, and a tenth smaller.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


@dataclass(frozen=True)
class SyntheticRef:
    """Where a synthetic defect is on disk, without its pixels; `label` and `parameters` as in SyntheticSample."""

    id: str
    label: str
    image: Path
    clean: Path
    mask: Path
    parameters: dict[str, Any]

    def load(self) -> SyntheticSample:
        """Decode the three files. Raises InvalidImageError."""
        image = read_image(self.image)
        mask = read_mask(self.mask, image.shape[:2])
        return SyntheticSample(image, mask, read_image(self.clean), self.label, self.parameters)


class SyntheticSet(Sequence[SyntheticSample]):
    """A sequence of synthetic defects that decodes on access: an int index gives a sample, a slice a SyntheticSet.

    folder  where it lies        info     synthetic.json: product, seed, config, textures, classes, foreground
    refs    one per defect       labels   their pseudo-classes        classes  the different ones, sorted
    """

    def __init__(self, folder: Path, info: dict[str, Any], refs: Iterable[SyntheticRef]):
        self.folder, self.info, self.refs = folder, info, tuple(refs)

    @property
    def product(self) -> str:
        return str(self.info.get("product", ""))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(ref.label for ref in self.refs)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels)))

    def __len__(self) -> int:
        return len(self.refs)

    @overload
    def __getitem__(self, index: int) -> SyntheticSample: ...
    @overload
    def __getitem__(self, index: slice) -> SyntheticSet: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return SyntheticSet(self.folder, self.info, self.refs[index])
        return self.refs[operator.index(index)].load()

    def __iter__(self) -> Iterator[SyntheticSample]:
        return (ref.load() for ref in self.refs)

    def select(self, indices: Iterable[int]) -> SyntheticSet:
        """Those at `indices`, in that order."""
        return SyntheticSet(self.folder, self.info, (self.refs[operator.index(i)] for i in indices))


def read_synthetic(folder: str | Path) -> SyntheticSet:
    """A data set that `write_synthetic` wrote; nothing is decoded.

    Raises InvalidDatasetError when `folder` is not one, is damaged, names files outside of itself, or is newer.
    """
    folder = Path(folder).expanduser()
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        lines = (folder / METADATA).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "damaged"
        name = Path(getattr(error, "filename", None) or INFO).name
        raise InvalidDatasetError(
            f"{folder} is not a synthetic data set ({name}: {reason}): give the --out folder of anomalyhub synthesize"
        ) from error
    if not isinstance(info, dict) or not isinstance(info.get("schema"), int) or info["schema"] > SCHEMA:
        raise InvalidDatasetError(
            f"{folder / INFO} is damaged, or of a newer AnomalyHub: upgrade with pip install -U anomalyhub"
        )
    return SyntheticSet(folder, info, [_ref(folder, number, line) for number, line in enumerate(lines, start=1)])


def _ref(folder: Path, number: int, line: str) -> SyntheticRef:
    try:
        entry = json.loads(line)
        names = [PurePosixPath(entry[key]) for key in ("file_name", "clean_file_name", "mask_file_name")]
        if any(name.is_absolute() or ".." in name.parts or "\\" in str(name) for name in names):
            raise ValueError("a path that leaves the folder")
        return SyntheticRef(
            str(names[0]), str(entry["label"]), *(folder / name for name in names), dict(entry["parameters"])
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidDatasetError(
            f"line {number} of {folder / METADATA} is damaged ({error!r}): copy the folder again, or synthesize again"
        ) from error


def write_synthetic(
    folder: Path,
    product: str,
    synthesizer: Synthesizer,
    count: int,
    *,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> dict[str, Any]:
    """Draw numbers 0 to `count` - 1 into an empty folder; returns what synthetic.json says.

    checkpoints  a folder in which images are made, and stay when the call is interrupted: the next call with the same
                 arguments goes on behind them and ends with the same bytes
    """
    plan = _plan(product, synthesizer, count)
    entries = {} if checkpoints is None else _resume(checkpoints, plan, synthesizer)
    made = _Images(folder if checkpoints is None else checkpoints / _IMAGES, product, synthesizer, count)
    made.clean = {entry["clean_file_name"] for entry in entries.values()}
    for index in range(count):
        if index not in entries:
            try:
                entries[index] = made.write(index)
                if checkpoints is not None:
                    _append(checkpoints / _DONE, entries[index])
            except FileNotFoundError as error:
                raise OutputError(
                    f"{error.filename} was not written, as somebody removed its folder meanwhile: start again"
                ) from error
        if progress:
            progress(0.99 * (index + 1) / count, f"{index + 1} of {count} images")
    ordered = [entries[index] for index in range(count)]
    if checkpoints is not None:
        for name in sorted({entry[key] for entry in ordered for key in entry if key.endswith("file_name")}):
            _link(made.folder / name, folder / name)
    info = {"schema": SCHEMA, "kind": "synthetic", "version": __version__, **_summary(plan, ordered, synthesizer)}
    (folder / METADATA).write_text("".join(map(_line, ordered)), encoding="utf-8")
    (folder / README).write_text(_card(info), encoding="utf-8")
    write_json(folder / INFO, info)
    if progress:
        progress(1.0, f"{count} images written")
    return info


class _Images:
    """Writes single images below a folder."""

    def __init__(self, folder: Path, product: str, synthesizer: Synthesizer, count: int):
        self.folder, self.product, self.synthesizer = folder, safe_name(product), synthesizer
        self.digits = max(3, len(str((count - 1) // len(synthesizer.classes))))
        self.clean_digits = max(3, len(str(len(synthesizer.samples) - 1)))
        self.clean: set[str] = set()
        for label in synthesizer.classes[:count]:  # not later: a folder that is removed meanwhile must not come back
            for part in ("test", "ground_truth"):
                (folder / self.product / part / label).mkdir(parents=True, exist_ok=True)
        (folder / self.product / "train" / "good").mkdir(parents=True, exist_ok=True)

    def write(self, index: int) -> dict[str, Any]:
        """Write one defect, and its clean image where that is not there yet; returns its line of metadata.jsonl."""
        sample, source = self.synthesizer.draw(index), self.synthesizer.source_of(index)
        number = f"{index // len(self.synthesizer.classes):0{self.digits}}"
        entry = {
            "file_name": f"{self.product}/test/{sample.label}/{number}.png",
            "mask_file_name": f"{self.product}/ground_truth/{sample.label}/{number}_mask.png",
            "clean_file_name": f"{self.product}/train/good/{source:0{self.clean_digits}}.png",
            "label": sample.label,
            "parameters": sample.parameters,
        }
        _write_png(self.folder / entry["file_name"], sample.image[..., ::-1])
        _write_png(self.folder / entry["mask_file_name"], sample.mask.astype(np.uint8) * 255)
        if entry["clean_file_name"] not in self.clean:
            _write_png(self.folder / entry["clean_file_name"], sample.clean[..., ::-1])
            self.clean.add(entry["clean_file_name"])
        return entry


def _write_png(path: Path, array: np.ndarray) -> None:
    _, data = cv2.imencode(".png", array, _PNG)
    path.write_bytes(data.tobytes())


def _append(path: Path, entry: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(_line(entry))


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links, or another one
        shutil.copyfile(source, target)


def _plan(product: str, synthesizer: Synthesizer, count: int) -> dict[str, Any]:
    return {
        "product": product,
        "count": count,
        "seed": synthesizer.seed,
        "config": asdict(synthesizer.config),
        "textures": {"source": synthesizer.textures.source, "names": list(synthesizer.textures.names)},
    }


def _resume(checkpoints: Path, plan: dict[str, Any], synthesizer: Synthesizer) -> dict[int, dict[str, Any]]:
    """Lines of the images that an earlier call with the same plan has finished; without one, nothing is kept."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    samples = synthesizer.samples
    sources = samples.ids if isinstance(samples, Split) else len(samples)
    text = json.dumps({**plan, "sources": sources}, ensure_ascii=False, indent=1)
    plan_file, done = checkpoints / _PLAN, checkpoints / _DONE
    if not plan_file.is_file() or plan_file.read_text(encoding="utf-8") != text:
        done.unlink(missing_ok=True)
        shutil.rmtree(checkpoints / _IMAGES, ignore_errors=True)
        plan_file.write_text(text, encoding="utf-8")
    entries, kept = {}, b""
    for line in done.read_bytes().splitlines(keepends=True) if done.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # it was interrupted while it was written
            break
        if not line.endswith(b"\n"):
            break
        entries[entry["parameters"]["index"]] = entry
        kept += line
    if done.is_file():
        os.truncate(done, len(kept))
    return entries


def _summary(plan: dict[str, Any], entries: Sequence[dict[str, Any]], synthesizer: Synthesizer) -> dict[str, Any]:
    method, reason = synthesizer.choice
    used = {entry["clean_file_name"]: entry["parameters"]["foreground"] for entry in entries}
    fallbacks = sum(name != method for name in used.values())
    return {
        **plan,
        "classes": dict(sorted(Counter(entry["label"] for entry in entries).items())),
        "foreground": {"method": method, "reason": reason, "clean_images": len(used), "not_found_in": fallbacks},
    }


def _card(info: dict[str, Any]) -> str:
    product, config, found = safe_name(info["product"]), info["config"], info["foreground"]
    without = f", not found in {found['not_found_in']}" if found["not_found_in"] else ""
    # the table alone, and `datasets` would not fetch the files from the Hub; the folders alone, and it would pass the
    # table over
    files = [METADATA, "*/test/**", "*/ground_truth/**", "*/train/**"]
    subset = Subset("default", {"train": files}, counts={"train": info["classes"]}, default=True)
    notes = [
        f"{info['count']} synthetic defects of {len(info['classes'])} pseudo-classes, painted by AnomalyHub"
        f" {__version__} with seed {info['seed']}\n"
        f"on {found['clean_images']} normal images: textures ({markdown(info['textures']['source'])}) blended into\n"
        f"{config['mask']} masks on the product (foreground: {found['method']}{without}).",
        f"Images are in {code(f'{product}/test/CLASS')}, masks in {code(f'{product}/ground_truth/CLASS')} and the clean"
        f" images in\n{code(f'{product}/train/good')}, as in MVTec AD; {code(INFO)} has all settings.",
    ]
    tags = ["synthetic", f"product:{info['product']}"]
    return dataset_card(f"{info['product']}: synthetic defects", [subset], tags=tags, columns=_COLUMNS, notes=notes)
