"""The verb `binarize`: masks from a folder of anomaly maps, whichever detector made them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyhub.cli.support import bar
from anomalyhub.cli.verbs import Out, Overwrite, _example, app
from anomalyhub.errors import InvalidArgumentError, OutputError
from anomalyhub.fsio import atomic_folder

if TYPE_CHECKING:
    from anomalyhub.data.maps import MapFolder
    from anomalyhub.regions import Binarizer

FITTED = "binarizer.json"
COLUMNS = ("path", "threshold", "n_regions", "interval_low", "interval_high", "area_px")


@app.command(
    epilog=_example(
        "anomalyhub binarize results/maps --out masks",
        "anomalyhub binarize results/maps --out masks --method fixed --value 0.5",
        "anomalyhub binarize new_maps --fitted masks --out new_masks",
    )
)
def binarize(
    maps: Annotated[
        Path,
        typer.Argument(metavar="MAPS_DIR", help="Folder of .npy, .png or .tiff files, such as the maps/ of predict."),
    ],
    out: Out,
    method: Annotated[str | None, typer.Option(help="mebin, otsu or fixed.  [default: mebin]")] = None,
    kernel: Annotated[
        int | None, typer.Option(help="Side of the square that erodes the masks, in pixels of the map; 1: none.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="mebin: distance of the thresholds that are tried, of 255.")] = None,
    min_interval: Annotated[
        int | None, typer.Option(help="mebin: thresholds in a row that must agree on the number of regions.")
    ] = None,
    value: Annotated[float | None, typer.Option(help="fixed: the threshold, from 0 to 1 of the maps' range.")] = None,
    fitted: Annotated[
        Path | None, typer.Option(help="An earlier --out folder, whose method and range of scores are used.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find the anomalous regions of maps: masks/*.png (0 and 255) and thresholds.csv."""
    given = {"kernel": kernel, "step": step, "min_interval": min_interval, "value": value}
    settings = {key: setting for key, setting in given.items() if setting is not None}
    if fitted is not None and (settings or method is not None):
        raise InvalidArgumentError("--fitted brings its own method and settings: leave out the other options, or it")
    from anomalyhub.data.maps import MapFolder

    folder = MapFolder.open(maps)
    with atomic_folder(out, overwrite, [path for path in (maps, fitted) if path is not None]) as staged:
        if maps.is_dir() and staged.parent.is_relative_to(folder.root.resolve()):
            raise OutputError(f"{out} lies inside {maps}, whose files are read as maps: choose an --out outside it")
        with bar("binarize") as progress:
            binarizer = _load(fitted) if fitted is not None else _fit(method or "mebin", settings, folder, progress)
            n_found = _write(staged, folder, binarizer, progress)
    typer.echo(f"{n_found} of {len(folder)} maps have anomalous regions: {out / 'thresholds.csv'}")


def _fit(method: str, settings: dict, folder: MapFolder, progress) -> Binarizer:
    from anomalyhub.regions import binarizers

    return binarizers[method](**settings).fit(folder, lambda done, text: progress(0.4 * done, text))


def _load(fitted: Path) -> Binarizer:
    from anomalyhub.regions import Binarizer
    from anomalyhub.state import read_json

    return Binarizer.from_json(read_json(fitted / FITTED))


def _write(staged: Path, folder: MapFolder, binarizer: Binarizer, progress) -> int:
    """Write masks, table and fitted binarizer; returns how many maps have a region."""
    import numpy as np
    from PIL import Image

    from anomalyhub.report.tables import safe_name
    from anomalyhub.state import write_json

    n_found = 0
    with open(staged / "thresholds.csv", "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index, (path, name) in enumerate(zip(folder.files, folder.names, strict=True)):
            found = binarizer.binarize(folder[index])
            mask = staged / "masks" / f"{name}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(found.mask.view(np.uint8) * np.uint8(255)).save(mask, compress_level=3)
            interval = ["", ""] if found.interval is None else [f"{end:.9g}" for end in found.interval]
            area = int(np.count_nonzero(found.mask))
            writer.writerow([safe_name(path), f"{found.threshold:.9g}", found.n_regions, *interval, area])
            n_found += found.n_regions > 0
            progress(0.4 + 0.6 * (index + 1) / len(folder), f"{index + 1} of {len(folder)} maps")
    write_json(staged / FITTED, binarizer.to_json())
    return n_found
