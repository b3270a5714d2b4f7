"""Model cards: what a saved model is, how to use it, what was measured, what it learned from, and where it ends."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyhub.errors import AnomalyHubError, InvalidModelError
from anomalyhub.hub.base import TAG, BaseStore, create_store
from anomalyhub.hub.contents import checked_repo_id
from anomalyhub.hub.dataset_cards import Subset, dataset_card
from anomalyhub.hub.figures import datasets, measured
from anomalyhub.hub.made import Made
from anomalyhub.hub.markup import (
    MARKER,
    checked_license,
    code,
    front_matter,
    license_sentence,
    markdown,
    plain,
    table,
)
from anomalyhub.hub.portable import split_spec

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_CLIP = "openai/clip-vit-large-patch14-336"  # what the SPEC `clip` stands for
_THRESHOLDS = {
    "f1_max": "It is where F1 was largest on labelled images.",
    "cost": "It is where escapes and false alarms cost least on labelled images.",
    "manual": "A person has set it.",
}


def model_card(
    folder: str | Path,
    repo_id: str,
    *,
    store: str | BaseStore = "hub",
    license: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
) -> str:
    """The README.md of a saved model, from its JSON and the heads of its tensors.

    folder   a detector, inspector, discoverer, classifier or trained weights, or the result of a discovery
    store    where it will be, for the lines that show its use
    license  the Hub's identifier, such as apache-2.0; None: the card says that none was given
    metrics  what `evaluate --json` or `classify predict` wrote; measured figures alone get into the card
    tags     besides those that AnomalyHub gives

    Raises InvalidModelError for a folder that holds no model or a damaged one, InvalidArgumentError for metrics of
    another model.
    """
    made, repo_id, spec = Made.read(folder), checked_repo_id(repo_id), create_store(store).spec
    name, license = repo_id.partition("/")[2], checked_license(license)
    try:
        results = measured(made, metrics)
        parts = [
            [front_matter(_front(made, name, license, results, tags)) + MARKER],
            [f"# {name}"],
            _what(made),
            ["## How to use it", *_use(made, repo_id, spec)],
            _threshold(made),
            ["## Measured", *_measured(results)],
            ["## What it learned from", *_learned(made)],
            ["## Limits", *(f"- {line}" for line in _limits(made, results))],
            ["## Licence", license_sentence(license)],
        ]
    except AnomalyHubError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidModelError(f"{folder} is damaged ({error}): copy the model folder again, or fit again") from error
    return "\n\n".join(_joined(part) for part in parts if part) + "\n"


def _joined(lines: Sequence[str]) -> str:
    """Paragraphs apart, rows of a table and items of a list below each other."""
    text = ""
    for line in lines:
        together = text and line[:2] in ("- ", "| ") and text.rpartition("\n")[2][:2] == line[:2]
        text += ("\n" if together else "\n\n" if text else "") + line
    return text


def _front(
    made: Made, name: str, license: str | None, results: Sequence[EvalResult], tags: Sequence[str]
) -> dict[str, Any]:
    from huggingface_hub import ModelCardData

    kind, product = "inspector" if made.inspector else made.kind, plain(made.product or "")
    ours = [TAG, "anomaly-detection", kind, plain(made.method), plain(made.names_by or "")]
    ours += [f"product:{product}"] if product else []
    bases = [base for base in map(_base_model, made.backbones) if base]
    segments = made.kind in ("detector", "pretrained")
    data = ModelCardData(
        library_name=TAG,
        pipeline_tag="image-segmentation" if segments else "image-classification",
        license=license,
        base_model=bases[0] if len(bases) == 1 else bases or None,
        datasets=datasets(made) or None,
        tags=[tag for tag in (*ours, *map(plain, tags)) if tag],
        model_name=name if results else None,
        eval_results=list(results) or None,
    )
    return {**data.to_dict(), "product": product or None}


def _base_model(backbone: Mapping[str, Any]) -> str | None:
    """The Hub's id of a backbone's weights; None for those of the package or of a local file, which may be others'."""
    name, file = split_spec(str(backbone["spec"]))
    if file or backbone.get("file") or name == "embedded":
        return None
    if name.startswith("hf:"):
        return name[3:]
    if name == "clip":
        return _CLIP
    import timm

    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return known.hf_hub_id if known else None


def _what(made: Made) -> list[str]:
    on = f" of {markdown(made.product)}" if made.product else ""
    by, kinds = _by(made), ", ".join(map(markdown, made.classes))
    if made.kind == "detector":
        lines = [f"Tells which images{on} are defective, and where. The method is {by}."]
        if made.naming:
            learned = made.examples_by_class
            from_examples = f", learned from {sum(learned.values())} examples" if learned else ""
            lines.append(f"It names the kinds of defect it finds, by {code(made.names_by)}{from_examples}: {kinds}.")
        elif made.inspector is None:
            lines.append("It gives anomaly maps and scores; there is no threshold.")
    elif made.kind == "discoverer":
        lines = [f"Sorts defects{on} into kinds that were found without labels, by {by}: {kinds}."]
    elif made.kind == "classifier":
        lines = [f"Names the kinds of defects{on} from a few examples, by {by}."]
        lines += [f"The kinds are: {kinds}."] if made.classes else ["It is pretrained, and knows no kinds yet."]
    else:
        lines = [f"Weights for the detector {code(made.method)}, trained on {_list(made.trained_on)}."]
    return [" ".join(lines)]


def _by(made: Made) -> str:
    backbones = " and ".join(code(split_spec(str(one["spec"]))[0]) for one in made.backbones)
    return code(made.method) + (f" on the backbone {backbones}" if backbones else "")


def _use(made: Made, repo_id: str, store: str) -> list[str]:
    """Three lines of Python, and the verbs that do the same."""
    elsewhere = "" if store == "hub" else f", store={store!r}"
    source, method = f"from_pretrained({repo_id!r}{elsewhere})", plain(made.method)
    if made.inspector is not None:
        lines = [
            "from anomalyhub import Inspector, load_dataset",
            f"inspector = Inspector.{source}",
            'print([(one.id, one.score, one.label) for one in inspector.inspect(load_dataset("photos").test)])',
        ]
    elif made.kind == "pretrained":
        lines = [
            "from anomalyhub import create_detector, create_store",
            f"weights = create_store({store!r}).pull({repo_id!r}).folder",
            f'detector = create_detector({method!r}, {_backbone(made)!r}, settings={{"weights": str(weights)}})',
        ]
    elif made.kind == "detector":
        lines = [
            "from anomalyhub import load_dataset",
            "from anomalyhub.detection import detectors",
            f'maps = detectors[{method!r}].{source}.predict(load_dataset("photos").test)',
        ]
    else:
        package = {"discoverer": "discovery", "classifier": "classification"}[made.kind]
        lines = [
            f"from anomalyhub.{package} import {made.kind}s",
            f"model = {made.kind}s[{method!r}].{source}",
            f"print({'model.classes_' if made.classes else 'model.pretraining_'})",
        ]
    flag = "" if store == "hub" else f" --store {shlex.quote(store)}"
    verbs = [f"anomalyhub pull {repo_id} --out model{flag}", _verb(made)]
    return [_fence("python", lines), "On the command line:", _fence("bash", [verb for verb in verbs if verb])]


def _verb(made: Made) -> str:
    if made.kind == "discoverer":
        return "anomalyhub discover --data photos --model DETECTOR --apply model --out kinds"
    if made.kind == "classifier":
        head = f" --head {shlex.quote(made.method)}"
        return f"anomalyhub classify fit --model DETECTOR --data photos{head} --pretrained model --out named"
    if made.kind == "pretrained":
        backbone = f" --backbone {shlex.quote(name)}" if (name := _backbone(made)) else ""
        return f"anomalyhub fit {shlex.quote(made.method)} --data photos{backbone} --set weights=model --out fitted"
    return "anomalyhub predict model --data photos --out results" if made.inspector is not None else ""


def _backbone(made: Made) -> str | None:
    """The SPEC without a place of this machine."""
    return plain(split_spec(str(made.backbones[0]["spec"]))[0]) if made.backbones else None


def _fence(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _threshold(made: Made) -> list[str]:
    """The operating point and what it means; nothing for what has none."""
    if made.inspector is None:
        return []
    point, lines = made.inspector.get("calibration"), ["## Threshold"]
    scale = "Scores have no unit; a higher one is more abnormal."
    if not isinstance(point, Mapping):
        chosen = made.inspector.get("threshold")
        if isinstance(chosen, (int, float)):
            return [*lines, f"Images that score above {chosen:.6g} are called anomalous. A person has set it. {scale}"]
        rule = (
            "None is stored: the method's own scale gives it, or the images that are judged together, or `--threshold`."
        )
        return [*lines, f"{rule} {scale}"]
    rate, count, above = point.get("false_alarm_rate"), made.rows("scores"), float(point["threshold"])
    if rate is None:
        why = _THRESHOLDS.get(str(point.get("method")), _THRESHOLDS["manual"])
    else:
        images = (
            "unlabelled images, most of which should be normal"
            if point.get("method") == "unlabelled"
            else ("normal images that were held out")
        )
        why = f"About {rate:.2%} of normal images should exceed it, judging by {count} {images}."
        if rate * (count + 1) < 1:
            why += " That is beyond the highest of their scores, and extrapolated."
    return [*lines, f"Images that score above {above:.6g} are called anomalous. {why} {scale}"]


def _measured(results: Sequence[EvalResult]) -> list[str]:
    if not results:
        return ["Nothing was measured on labelled images."]
    rows = [
        (markdown(one.metric_name), f"{one.metric_value:.4f}", markdown(one.dataset_name), markdown(one.dataset_split))
        for one in results
    ]
    return table(("Figure", "Value", "Images", "Split"), rows)


def _learned(made: Made) -> list[str]:
    lines = []
    if made.product:
        lines.append(f"- Product: {markdown(made.product)}.")
    if made.kind == "detector" and (count := made.rows("scores")):
        lines.append(f"- {count} images of the fit were scored without themselves, for the threshold.")
    if made.trained_on:
        count = made.rows("trained_on")
        lines.append(
            f"- Weights trained on {count} images of {_list(made.trained_on)}; "
            f"64-bit digests of their pixels are the tensor {code('trained_on')}, so that an evaluation on them warns."
        )
    if counts := made.examples_by_class:
        each = ", ".join(f"{markdown(label)} {count}" for label, count in counts.items())
        lines.append(f"- Labelled examples: {each}; digests of their pixels are in {code('examples.json')}.")
    if made.kind == "discoverer":
        lines.append(f"- {made.rows('labels')} crops, without labels; those of normal images are whole images.")
    if isinstance(done := made.config.get("pretraining"), Mapping):
        lines.append(f"- Pretrained on {done.get('images')} synthetic defects in {done.get('pseudo_classes')} classes.")
    for one in made.backbones:
        lines.append(f"- Backbone {_weights(one)}.")
    lines.append(
        f"- Method {code(made.method)}, seed {markdown(made.config.get('seed'))}; settings: {code('config.json')}."
    )
    return lines


def _weights(backbone: Mapping[str, Any]) -> str:
    name, file = split_spec(str(backbone["spec"]))
    file, digest = file or backbone.get("file"), code(str(backbone.get("fingerprint"))[:16])
    if not file:
        return f"{code(name)}, weights {digest}"
    return (
        f"{code(name)} with weights of a local file, {code(file)} ({digest}): where the Hub's are others, give the "
        f"same file with {code(f'backbone={name}@FILE')}"
    )


def _limits(made: Made, results: Sequence[EvalResult]) -> list[str]:
    lines = []
    if made.kind == "detector":
        lines.append("A part under another light, camera, background or position than in the fit can look defective.")
        lines.append("It sees what looks unusual, not what it means for the part: have a person look at what it finds.")
    if made.kind == "discoverer":
        lines.append("Kinds group what looks alike, which need not have one cause. Their names are a person's.")
    if counts := made.examples_by_class:
        lines.append(f"Kinds were learned from as few as {min(counts.values())} examples each; all else is unknown.")
    if unchecked := (made.examples.get("leave_one_out") or {}).get("unchecked"):
        lines.append(f"Kinds of one example could not be checked: {_list(unchecked)}.")
    if made.trained_on:
        lines.append("Figures on the products that the weights were trained on say nothing of new ones.")
    if not any(one.dataset_split == "test" for one in results):
        lines.append("How it does on test images is not known: measure it on labelled images before you rely on it.")
    return lines


def _list(names: Sequence[Any]) -> str:
    return ", ".join(map(markdown, names)) or "products that are not named"


__all__ = ["MARKER", "Subset", "dataset_card", "front_matter", "markdown", "model_card"]
