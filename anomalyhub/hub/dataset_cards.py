"""Data set cards: configs, features, sizes and licence, as `datasets` and the Hub's viewer read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anomalyhub.hub.base import TAG, BaseStore, create_store
from anomalyhub.hub.contents import checked_repo_id
from anomalyhub.hub.front_matter import read_front_matter
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

#: What stands for the repository in the lines of a card that belongs to none yet.
FOLDER = "FOLDER"
#: A line of the cards of results.
RESULTS = "Results that AnomalyHub wrote."
_TASK, _TERMS = "anomaly-detection", "## Licence"  # the last section
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))


@dataclass(frozen=True)
class Subset:
    """One config of a data set: a product.

    name        of the config
    data_files  split to a path pattern, or several, relative to the repository's root; {}: as `datasets` finds them
    features    `dataset_info.features` as `datasets.Features(…)._to_yaml_list()` gives them; (): not said
    counts      split to {label: number of images}; "" is no label
    n_bytes     split to the bytes of its files
    """

    name: str
    data_files: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    features: Sequence[Mapping[str, Any]] = ()
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    n_bytes: Mapping[str, int] = field(default_factory=dict)
    default: bool = False

    @property
    def n_images(self) -> int:
        return sum(sum(labels.values()) for labels in self.counts.values())


def dataset_card(
    title: str,
    subsets: Sequence[Subset] = (),
    *,
    repo_id: str | None = None,
    store: str | BaseStore = "hub",
    license: str | None = None,
    tags: Sequence[str] = (),
    task_categories: Sequence[str] = ("image-segmentation", "image-classification"),
    columns: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    pretty_name: str | None = None,
) -> str:
    """The README.md of a data set.

    title    of the page, any text
    repo_id  and store: where it will be, for the lines that show its use; None: "FOLDER", which `share` replaces
    license  the Hub's identifier, such as cc-by-4.0; None: the card says that none was given
    columns  name to what it holds, in Markdown
    notes    further paragraphs, in Markdown
    Raises InvalidArgumentError for a license or repository that cannot be.
    """
    front = _front(subsets, checked_license(license), tags, task_categories, pretty_name or title)
    source = FOLDER if repo_id is None else checked_repo_id(repo_id)
    parts = [
        front_matter(front) + MARKER,
        f"# {markdown(title)}",
        _counted(subsets),
        "## How to use it",
        _use(source, front["configs"] or (), "hub" if repo_id is None else create_store(store).spec),
    ]
    if any(subset.counts for subset in subsets):
        parts += ["## Images", "\n".join(_images(subsets))]
    if columns:
        rows = ((code(name), " ".join(text.split())) for name, text in columns.items())
        parts += ["## Columns", "\n".join(table(("Column", "Holds"), rows))]
    parts += [*notes, _TERMS, license_sentence(license)]
    return "\n\n".join(part for part in parts if part) + "\n"


def results_card(
    title: str,
    *,
    repo_id: str,
    store: str | BaseStore = "hub",
    license: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """The README.md of tables and figures, such as a benchmark's; parameters as for `dataset_card`."""
    spec = create_store(store).spec
    flag = "" if spec == "hub" else f" --store {shlex.quote(spec)}"
    front = {"license": checked_license(license), "pretty_name": plain(title), "tags": [TAG, *map(plain, tags)]}
    parts = [
        front_matter(front) + MARKER,
        f"# {markdown(title)}",
        RESULTS,
        f"```bash\nanomalyhub pull {checked_repo_id(repo_id)} --kind dataset --out results{flag}\n```",
        _TERMS,
        license_sentence(license),
    ]
    return "\n\n".join(parts) + "\n"


def addressed(
    card: str, repo_id: str, store: str | BaseStore = "hub", license: str | None = None, tags: Sequence[str] = ()
) -> str:
    """A card of AnomalyHub's for a repository: with its id in the lines of use, a licence and further tags."""
    front, spec = read_front_matter(card), create_store(store).spec
    if not front:
        return card
    configs = [one for one in front.get("configs") or () if isinstance(one, dict)]
    body = card[card.index("\n---", 3) + 4 :].lstrip("\n")
    lines = _use(checked_repo_id(repo_id), configs, spec)
    body = re.sub(r"```python\n.*?\n```", lambda _: lines, body, count=1, flags=re.DOTALL)
    if checked_license(license) is not None:
        front["license"] = license
        body = body.partition(_TERMS)[0].rstrip("\n") + f"\n\n{_TERMS}\n\n{license_sentence(license)}\n"
    former = front.get("tags")
    tags = [TAG, _TASK, *(former if isinstance(former, list) else ()), *filter(None, map(plain, tags))]
    front["tags"] = list(dict.fromkeys(tags))
    return front_matter(front) + body


def _use(source: str, configs: Sequence[Mapping[str, Any]], store: str) -> str:
    """Lines that read it: from the Hub by AnomalyHub and by `datasets`, from another store after a pull."""
    first = configs[0] if configs else {}
    named = len(configs) > 1 or (configs and not first.get("default") and first.get("config_name") != "default")
    config = f", {str(first.get('config_name'))!r}" if named else ""
    lines, ours, theirs = [], repr(source if source == FOLDER else f"hf:{source}"), repr(source)
    if store != "hub":
        lines = [f"path = anomalyhub.create_store({store!r}).pull({source!r}, 'dataset').folder"]
        ours, theirs = "path", "str(path)"
    return "\n".join(
        [
            "```python",
            "import anomalyhub, datasets",
            *lines,
            f"product = anomalyhub.load_dataset({ours}{config})",
            f"table = datasets.load_dataset({theirs}{config})",
            "```",
        ]
    )


def _front(
    subsets: Sequence[Subset],
    license: str | None,
    tags: Sequence[str],
    task_categories: Sequence[str],
    pretty_name: str,
) -> dict[str, Any]:
    count = sum(subset.n_images for subset in subsets)
    products = [f"product:{plain(subset.name)}" for subset in subsets if subset.name != "default"]
    files = [subset for subset in subsets if subset.data_files]
    infos = [_info(subset) for subset in subsets if subset.features]
    return {
        "license": license,
        "pretty_name": plain(pretty_name),
        "tags": list(dict.fromkeys((TAG, _TASK, *products, *filter(None, map(plain, tags))))),
        "task_categories": list(task_categories) or None,
        "size_categories": [_size(count)] if count else None,
        "configs": [_config(subset) for subset in files] or None,
        "dataset_info": (infos[0] if len(infos) == 1 else infos) or None,
        "product": plain(subsets[0].name) if len(subsets) == 1 and products else None,
    }


def _config(subset: Subset) -> dict[str, Any]:
    files = [
        {"split": split, "path": path if isinstance(path, str) else list(path)}
        for split, path in subset.data_files.items()
    ]
    return {"config_name": subset.name, "data_files": files, "default": True if subset.default else None}


def _info(subset: Subset) -> dict[str, Any]:
    splits = [
        {"name": split, "num_bytes": subset.n_bytes.get(split, 0), "num_examples": sum(labels.values())}
        for split, labels in subset.counts.items()
    ]
    size = sum(subset.n_bytes.values())
    info: dict[str, Any] = {"config_name": subset.name, "features": list(subset.features)}
    if splits:
        info |= {"splits": splits, "download_size": size, "dataset_size": size}
    return info


def _size(count: int) -> str:
    return next((name for limit, name in _SIZES if count < limit), "10M<n<100M")


def _counted(subsets: Sequence[Subset]) -> str:
    count = sum(subset.n_images for subset in subsets)
    if not count:
        return "Images of products, for the detection of anomalies."
    names = ", ".join(markdown(subset.name) for subset in subsets)
    return f"{count} images for the detection of anomalies: {names}."


def _images(subsets: Sequence[Subset]) -> list[str]:
    rows = [
        (markdown(subset.name), markdown(split), markdown(label) if label else "no label", count)
        for subset in subsets
        for split, labels in subset.counts.items()
        for label, count in labels.items()
    ]
    return table(("Product", "Split", "Label", "Images"), rows)
