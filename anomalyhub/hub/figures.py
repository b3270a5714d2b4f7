"""Measured figures of a model as the Hub's model-index takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.hub.made import Made
from anomalyhub.hub.markup import plain, slug
from anomalyhub.hub.portable import portable_settings

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_IMAGES, _PIXELS = "image-classification", "image-segmentation"
#: Figures of `evaluate --json` and of `classify predict`: task, id of the metric as the Hub has it, name.
_MEASURED = {
    "image_auroc": (_IMAGES, "roc_auc", "Image AUROC"),
    "image_ap": (_IMAGES, "average_precision", "Image AP"),
    "image_f1_max": (_IMAGES, "f1", "Image F1-max"),
    "pixel_auroc": (_PIXELS, "roc_auc", "Pixel AUROC"),
    "pixel_ap": (_PIXELS, "average_precision", "Pixel AP"),
    "pixel_f1_max": (_PIXELS, "f1", "Pixel F1-max"),
    "aupro": (_PIXELS, "aupro", "AUPRO (false-positive rate up to 0.3)"),
    "accuracy": (_IMAGES, "accuracy", "Accuracy"),
    "balanced_accuracy": (_IMAGES, "balanced_accuracy", "Balanced accuracy"),
}
#: Figures of a discovery, of images and of regions.
_GROUPED = {"nmi": "NMI", "ari": "ARI", "f1": "F1"}
_DIGITS = 4
#: Keys of config.json that may differ between a model and the same one elsewhere.
_UNLIKE = frozenset({"version", "backbone", "config", "plan"})


def measured(made: Made, metrics: Mapping[str, Any] | None = None) -> list[EvalResult]:
    """What was measured of a model: `metrics`, leave-one-out of its examples, metrics.json of its discovery.

    metrics  what `evaluate --json` or `classify predict` wrote
    Undefined figures, null there, are left out. Raises InvalidArgumentError for metrics that hold no figure or are of
    another model.
    """
    found = []
    product = made.product or "unnamed product"
    if metrics is not None:
        _check_model(made, metrics)
        settings = metrics.get("config")
        name = settings.get("product") if isinstance(settings, Mapping) else None
        found += _results(metrics, _dataset(name or product, metrics.get("n_images", metrics.get("n"))), "test")
        if not found:
            raise InvalidArgumentError(
                f"the metrics have none of {', '.join(_MEASURED)}: give what evaluate --json wrote"
            )
    check = made.examples.get("leave_one_out")
    if isinstance(check, Mapping) and check.get("n"):
        found += _results(check, _dataset(f"{product}: examples", check["n"]), "leave-one-out")
    if made.found:
        found += _grouping(made.found, _dataset(product, made.found.get("n_images")))
    return found


def datasets(made: Made) -> list[str]:
    """Ids of the Hub's data sets that its JSON names."""
    source = (made.found.get("config") or {}).get("data")
    if not isinstance(source, str) or not source.startswith("hf:"):
        return []
    return [source[3:].partition("@")[0]]


def _dataset(name: str, count: Any) -> dict[str, str]:
    images = f", {count} images" if isinstance(count, int) and not isinstance(count, bool) else ""
    return {"dataset_type": slug(name) or "product", "dataset_name": plain(name) + images}


def _results(metrics: Mapping[str, Any], dataset: Mapping[str, str], split: str) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=task,
            metric_type=metric,
            metric_name=name,
            metric_value=_value(key, metrics[key]),
            dataset_split=split,
            **dataset,
        )
        for key, (task, metric, name) in _MEASURED.items()
        if metrics.get(key) is not None
    ]


def _grouping(found: Mapping[str, Any], dataset: Mapping[str, str]) -> list[EvalResult]:
    """Agreement of a discovery with the labels that the data set had; empty where it had none."""
    from huggingface_hub import EvalResult

    split = (found.get("config") or {}).get("split") or "test"
    return [
        EvalResult(
            task_type=task,
            metric_type=key,
            metric_name=f"{name} of {part}s",
            metric_value=_value(key, found[part][key]),
            dataset_split=plain(split),
            **dataset,
        )
        for part, task in (("image", _IMAGES), ("region", _PIXELS))
        for key, name in _GROUPED.items()
        if isinstance(found.get(part), Mapping) and found[part].get(key) is not None
    ]


def _value(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1.0 <= value <= 1.0:
        raise InvalidArgumentError(f"metric {key} must be a number up to 1, got {value!r}: give what evaluate wrote")
    return round(float(value), _DIGITS)


def _check_model(made: Made, metrics: Mapping[str, Any]) -> None:
    """Raise InvalidArgumentError where the metrics say that another model was measured."""
    settings = metrics.get("config")
    if not isinstance(settings, Mapping) or "kind" not in settings:
        return
    theirs, ours = (one.get("backbone") or {} for one in (settings, made.config))
    if theirs.get("fingerprint") != ours.get("fingerprint"):
        raise _other("backbone", theirs.get("spec"), ours.get("spec"))
    parts = ((settings, made.config), (portable_settings(settings), portable_settings(made.config)))
    for theirs, ours in parts:
        for key in sorted(ours.keys() - _UNLIKE):
            if theirs.get(key) != ours[key]:
                raise _other(key, theirs.get(key), ours[key])


def _other(what: str, theirs: Any, ours: Any) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the metrics are of another model (its {what} is {plain(theirs)} there, {plain(ours)} here): evaluate this one"
    )
