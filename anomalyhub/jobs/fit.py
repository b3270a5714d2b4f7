"""Fitting as a job; its result is the model folder that `anomalyhub fit` writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError
from anomalyhub.jobs.kinds import Context, register_job


@dataclass(frozen=True)
class FitConfig:
    """What to fit, and on which images: those of a data set, or a list.

    Most detectors want normal images; some take a few, none (an empty list), or unlabelled ones.

    data             a path for `load_dataset`; its train split is taken
    product          one of the data set's products; with `images`, the name that the model gets
    images           (id, path) of each image
    detector         a registered detector
    backbone         a SPEC for `create_backbone`
    settings         fields of the detector's config
    false_alarm_rate share of normal images that may be called anomalous, in (0, 1)
    skip_unreadable  leave damaged images out and name them in the log
    kept             (id, path) of images that the fit does not read, such as those that its model will check: whoever
                     keeps files for jobs keeps these as well
    """

    data: str | None = None
    product: str | None = None
    images: tuple | None = None
    detector: str = "patchcore"
    backbone: str = "embedded"
    settings: dict = field(default_factory=dict)
    false_alarm_rate: float = 0.01
    skip_unreadable: bool = False
    kept: tuple = ()

    def __post_init__(self):
        if (self.data is None) == (self.images is None):
            raise InvalidArgumentError("a fit needs either data (a path) or images (pairs of id and path): give one")
        for pair in (*(self.images or ()), *self.kept):
            if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
                raise InvalidArgumentError(f"images must be pairs of two texts, id and path, got {pair!r}")


@register_job("fit", FitConfig)
def run(context: Context) -> None:
    """Fit and write the model."""
    context.progress(0.0, "loading")
    from anomalyhub.data import SampleRef, Split, load_dataset
    from anomalyhub.pipeline import Inspector

    config, product = context.config, context.config.product
    if config.images is not None:
        samples = Split(SampleRef(name, Path(path)) for name, path in config.images)
    else:
        dataset = load_dataset(config.data, product)
        samples, product = dataset.split("train"), dataset.product
    failures = samples.unreadable() if config.skip_unreadable else []
    for _, reason in failures:
        print(f"skipped: {reason}")
    if failures and len(failures) == len(samples):
        raise InvalidDatasetError(f"none of the {len(samples)} images can be read, to begin with {failures[0][1]}")
    inspector = Inspector.fit(
        config.detector,
        samples.without(name for name, _ in failures),
        backbone=config.backbone,
        false_alarm_rate=config.false_alarm_rate,
        product=product,
        seed=context.seed,
        settings=config.settings,
        progress=context.progress,
    )
    if context.result is not None:
        inspector.write(context.result)
