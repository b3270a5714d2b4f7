"""What AnomalyHub made goes to a store with a card, and without what only this machine knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalyhub.errors import InvalidArgumentError
from anomalyhub.hub.base import BaseStore, Pushed, create_store
from anomalyhub.hub.cards import model_card
from anomalyhub.hub.contents import checked_kind, checked_repo_id, gather
from anomalyhub.hub.dataset_cards import RESULTS, addressed, dataset_card, results_card
from anomalyhub.hub.front_matter import read_front_matter, without_front_matter
from anomalyhub.hub.made import Made
from anomalyhub.hub.markup import MARKER
from anomalyhub.hub.portable import portable
from anomalyhub.protocols import Progress

README = "README.md"
_DATA = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".parquet", ".jsonl"})


def share(
    folder: str | Path,
    repo_id: str,
    kind: str = "model",
    *,
    store: str | BaseStore = "hub",
    message: str = "",
    private: bool | None = None,
    license: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    card: str | None = None,
    token: str | bool | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Push a folder in one commit, with a card; a model without paths of this machine, see `portable`.

    folder   of a discovery's result, its model/ is pushed
    kind     "model", "dataset", or "space", which brings its own README.md
    license, metrics, tags  for the card, see `model_card`; figures are not remembered: give them with each push
    card     what README.md is to be; None: see `card_of`
    token    for the hub, kept in memory; see `create_store`
    Raises InvalidModelError for a folder that holds no model, InvalidArgumentError, StoreError.
    """
    store, folder = create_store(store, token), Path(folder)
    extra: dict[str, bytes] = {}
    if checked_kind(kind) == "model":
        folder = Made.read(folder).folder
        extra = portable(folder)
    if kind != "space" or card is not None:
        text, described = card, {"license": license, "metrics": metrics, "tags": tags}
        if text is None:
            text = card_of(folder, repo_id, kind, store=store, ask=True, **described)
        if card is not None or _own_card(folder) is None:
            extra[README] = text.encode("utf-8", "replace")
    return store.push(folder, repo_id, kind, message, private=private, extra=extra, progress=progress)


def card_of(
    folder: str | Path,
    repo_id: str,
    kind: str = "model",
    *,
    store: str | BaseStore = "hub",
    license: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    ask: bool = False,
) -> str:
    """The README.md that `share` pushes: the folder's own where a person wrote it, else one that is made here.

    A licence that an earlier card names is kept where none is given.

    ask  look into the repository as well: a card that a person wrote there stays
    Raises InvalidArgumentError where licence, metrics or tags would have to go into a card of a person's; StoreError.
    """
    folder, repo_id = Path(folder), checked_repo_id(repo_id)
    if checked_kind(kind) == "model":
        folder = Made.read(folder).folder
    own = _own_card(folder)
    if own is not None:
        if license is not None or metrics is not None or tags:
            raise InvalidArgumentError(
                f"{folder / README} is a card that somebody wrote, and is pushed as it is: write licence, tags and "
                "figures into it, or move it away to have one made"
            )
        return own
    theirs = _theirs(create_store(store), repo_id, kind) if ask else ""
    if _body(theirs) and MARKER not in theirs.splitlines():
        if license is not None or metrics is not None or tags:
            raise InvalidArgumentError(
                f"{repo_id} has a card that somebody wrote there: write licence, tags and figures into it, or put the "
                f"line {MARKER} into it to have it made anew"
            )
        return theirs
    if kind == "space":
        raise InvalidArgumentError(f"{folder} has no {README}, which says how a space is started: write one")
    if kind == "dataset":
        if metrics is not None:
            raise InvalidArgumentError("figures belong to a model: leave the metrics out for a data set")
    former, name = _read_card(folder), repo_id.partition("/")[2]
    if license is None:
        license = read_front_matter(former or theirs).get("license")
    if kind == "model":
        return model_card(folder, repo_id, store=store, license=license, metrics=metrics, tags=tags)
    if RESULTS in (former or "").splitlines() or (former is None and not _is_data(folder)):
        return results_card(name, repo_id=repo_id, store=store, license=license, tags=tags)
    if former is None:
        return dataset_card(name, repo_id=repo_id, store=store, license=license, tags=tags)
    return addressed(former, repo_id, store, license, tags)


def _is_data(folder: Path) -> bool:
    """Whether most files are pictures or parquet, rather than results about them."""
    names = list(gather(folder))
    return 2 * sum(Path(name).suffix.lower() in _DATA for name in names) > len(names)


def _theirs(store: BaseStore, repo_id: str, kind: str) -> str:
    """The text of the repository's README.md; "" where there is none. Raises StoreError where that cannot be known."""
    return store.card(repo_id, kind)[1] if store.exists(repo_id, kind) else ""


def _body(card: str) -> str:
    """What a card says below its front matter; the Hub's page makes cards of front matter alone."""
    return without_front_matter(card).strip()


def _own_card(folder: Path) -> str | None:
    """The text of a README.md that AnomalyHub did not make."""
    text = _read_card(folder)
    return None if text is None or MARKER in text.splitlines() else text


def _read_card(folder: Path) -> str | None:
    path = folder / README
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
