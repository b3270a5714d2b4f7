"""The verbs `pretrain`, `classify fit` and `classify predict`: kinds of defect from a handful of examples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from anomalyhub.cli.pushing import pushes
from anomalyhub.cli.support import bar, open_dataset, output, readable
from anomalyhub.cli.verbs import Data, Out, Overwrite, Product, Seed, Skip, _example, app
from anomalyhub.config import configure, parse_settings
from anomalyhub.errors import InvalidArgumentError

classify = typer.Typer(
    name="classify",
    help="Name the kind of a defect from a handful of examples.",
    epilog=_example(
        "anomalyhub classify fit --model ring --data sample --product ring --shots 3 --out ring_kinds",
        "anomalyhub classify predict ring_kinds --data defective_photos --out named",
    ),
)
app.add_typer(classify)

Head = Annotated[str, typer.Option(help="A classifier head: prototype, contrastive, relation or direct.")]
Backbone = Annotated[
    str | None, typer.Option("--backbone", help="What a head that looks at pictures sees them by.  [the head's own]")
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the head; may be repeated.")
]
Binarizer = Annotated[
    str, typer.Option(metavar="NAME[,KEY=VALUE]…", help="From maps to regions: mebin, otsu or fixed,value=0.5.")
]
DetectorBackbone = Annotated[
    str | None, typer.Option(help="Where the detector's weights are now: NAME@FILE.safetensors.")
]
Checkpoints = Annotated[
    Path | None, typer.Option(help="Keeps features and training; the same command goes on from there after a stop.")
]


@app.command(
    epilog=_example(
        "anomalyhub pretrain --synthetic synthetic --model ring --out pretrained",
        "anomalyhub pretrain --synthetic synthetic --model ring --head contrastive --checkpoints run --out pretrained",
    )
)
@pushes("model")
def pretrain(
    synthetic: Annotated[Path, typer.Option(help="The --out folder of synthesize.")],
    model: Annotated[Path, typer.Option(help="The --out folder of a fit: its residuals and regions are seen.")],
    out: Out,
    head: Head = "prototype",
    backbone: Backbone = None,
    setting: Setting = None,
    against: Annotated[
        str, typer.Option(help="Residuals against the model's bank, or the sample's own clean image.")
    ] = "bank",
    masks: Annotated[str, typer.Option(help="Regions by the detector, or as they were painted.")] = "detector",
    binarizer: Binarizer = "mebin",
    detector_backbone: DetectorBackbone = None,
    checkpoints: Checkpoints = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Pretrain a classifier on synthetic defects, so that it learns real ones from fewer examples."""
    from anomalyhub.pipeline.pretrain import PretrainConfig
    from anomalyhub.pipeline.pretrain import pretrain as run

    config = configure(
        PretrainConfig,
        {
            "synthetic": str(synthetic),
            "model": str(model),
            "head": head,
            "backbone": backbone,
            "settings": parse_settings(setting or []),
            "against": against,
            "masks": masks,
            **_binarizer(binarizer),
            "detector_backbone": detector_backbone,
        },
    )
    with output(out, overwrite, [], synthetic, model) as staged, bar("pretrain") as progress:
        made = run(config, seed=seed, progress=progress, checkpoints=checkpoints)
        if staged is not None:
            made.save(staged)
    if staged is not None:
        done = made.pretraining_
        typer.echo(f"pretrained {head} on {done['images']} images of {done['pseudo_classes']} pseudo-classes: {out}")


@classify.command(
    epilog=_example(
        "anomalyhub classify fit --model ring --data sample --product ring --shots 3 --out ring_kinds",
        "anomalyhub classify fit --model ring --data examples --shots 5 --pretrained pretrained --out ring_kinds",
        "anomalyhub classify fit --model ring --data sample --product ring --head contrastive --out ring_contrastive",
        "anomalyhub classify fit --model ring --kinds kinds/model --out ring_kinds",
    )
)
@pushes("model")
def fit(
    model: Annotated[Path, typer.Option(help="The --out folder of a fit: its residuals and regions are seen.")],
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Labelled defects: folders named by kind, or a data set with labelled images."),
    ] = None,
    product: Product = None,
    split: Annotated[str, typer.Option(help="Which images of a split data set: test, train or all.")] = "test",
    shots: Annotated[
        str, typer.Option(metavar="K|all", help="The first K images of each kind by name are the examples.")
    ] = "5",
    kinds: Annotated[Path | None, typer.Option(help="The model/ of a discovery, in place of examples.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--class", help="A class that is wanted; may be repeated.  [all]")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="A class to leave out; may be repeated.")] = None,
    masks: Annotated[
        str, typer.Option(help="Regions by the detector, or ground-truth: the data set's own masks.")
    ] = "detector",
    head: Head = "prototype",
    backbone: Backbone = None,
    pretrained: Annotated[Path | None, typer.Option(help="The --out folder of pretrain.")] = None,
    setting: Setting = None,
    binarizer: Binarizer = "mebin",
    detector_backbone: DetectorBackbone = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Measure by leave-one-out.")] = True,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Keeps training; the same command goes on from there after a stop.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Learn kinds of defect from a few examples: writes an inspector, which finds defects and names them."""
    from anomalyhub.pipeline.classify import ClassifyConfig, classify_to

    config = configure(
        ClassifyConfig,
        {
            "model": str(model),
            "data": None if data is None else str(data),
            "product": product,
            "split": split,
            "shots": None if shots == "all" else shots,
            "kinds": None if kinds is None else str(kinds),
            "classes": None if kind is None else tuple(kind),
            "exclude": tuple(exclude or ()),
            "masks": masks,
            "head": head,
            "backbone": backbone,
            "pretrained": None if pretrained is None else str(pretrained),
            "settings": parse_settings(setting or []),
            **_binarizer(binarizer),
            "detector_backbone": detector_backbone,
            "check": check,
        },
    )
    inputs = [path for path in (data, model, kinds, pretrained) if path is not None]
    roots = [] if data is None else [open_dataset(data, product).root]
    with output(out, overwrite, roots, *inputs) as staged, bar("classify") as progress:
        made = classify_to(staged, config, seed=seed, progress=progress, checkpoints=checkpoints)
    for notice in made.notices:
        print(f"anomalyhub: notice: {notice}", file=sys.stderr)
    if staged is not None:
        _say_fit(made, out)


@classify.command(
    epilog=_example(
        "anomalyhub classify predict ring_kinds --data sample --product ring --out named",
        "anomalyhub classify predict ring_kinds --data defective_photos --out named",
    )
)
def predict(
    classifier: Annotated[Path, typer.Argument(help="The --out folder of classify fit.")],
    data: Data,
    out: Out,
    product: Product = None,
    split: Annotated[str, typer.Option(help="Which images of a split data set: test, train or all.")] = "test",
    exclude: Annotated[list[str] | None, typer.Option(help="A class to leave out; may be repeated.")] = None,
    with_normal: Annotated[
        bool, typer.Option("--with-normal", help="Name images that are labelled good as well.")
    ] = False,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Where the classifier's weights are now: NAME@FILE.safetensors.")
    ] = None,
    detector_backbone: DetectorBackbone = None,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
) -> None:
    """Name the kind of images that are all taken to be defective: classes.csv, and metrics.json with labels."""
    from anomalyhub.pipeline import Inspector
    from anomalyhub.pipeline.classify import EXAMPLES, predict_to, read_examples
    from anomalyhub.types import GOOD

    inspector = Inspector.load(classifier, backbone=detector_backbone, crop_backbone=backbone)
    dataset = open_dataset(data, product)
    left_out = {*(exclude or ()), *(() if with_normal else (GOOD,))}
    samples = dataset.split(split)
    samples = samples.without(ref.id for ref in samples.refs if ref.label in left_out)
    samples = readable(samples, skip_unreadable)
    if not len(samples):
        raise InvalidArgumentError(f"{data} has no defective images to name: give --with-normal, or other images")
    known = read_examples(classifier)["examples"] if (classifier / EXAMPLES).exists() else ()
    with output(out, overwrite, [dataset.root], data, classifier) as staged, bar("classify") as progress:
        if staged is None:
            return
        digests = [str(one["digest"]) for one in known]
        metrics = predict_to(staged, inspector, samples, known=digests, progress=progress)
    typer.echo(f"named {len(samples)} images: {out}")
    if metrics:
        recalls = ", ".join(f"{name} {value:.0%}" for name, value in metrics["recall"].items())
        typer.echo(f"accuracy {metrics['accuracy']:.1%} on {metrics['n']} images that were no examples ({recalls})")


def _binarizer(text: str) -> dict[str, Any]:
    name, *options = text.split(",")
    return {"binarizer": name, "binarizer_settings": parse_settings(options)}


def _say_fit(made: Any, out: Path) -> None:
    count = len(made.examples)
    source = f"from {count} examples" if count else "of a discovery"
    typer.echo(f"{len(made.inspector.kinds)} kinds {source} ({', '.join(made.inspector.kinds)}): {out}")
    if made.check and made.check["n"]:
        typer.echo(f"leave-one-out accuracy {made.check['accuracy']:.0%} on {made.check['n']} examples")
    for name in made.check.get("unchecked", ()):
        typer.echo(f"{name} has one example and could not be checked: give another")
