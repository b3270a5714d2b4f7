"""Steps 1 and 2 of the Hub tab: which store, who has logged in, and what is there. Callbacks without gradio.

A token lives in the visitor's Session and in the store that is made for one call, nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from anomalyhub.errors import AnomalyHubError, Cancelled, InvalidArgumentError, StoreError
from anomalyhub.hub import BaseStore, Pushed, RepoInfo, create_store
from anomalyhub.hub.base import reason
from anomalyhub.hub.contents import Listing, checked_repo_id
from anomalyhub.hub.front_matter import read_front_matter
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

#: What is kept in repositories, and how the page says it: one of them, and several.
KINDS = {"model": ("model", "models"), "dataset": ("data set", "data sets")}
HUB = "Hugging Face Hub"
_FILES = 200  # of a repository that is looked at, which are shown
_TOKEN = re.compile(r"[\x21-\x7e]{8,300}")


class Taken(NamedTuple):
    """What was brought into the app.

    what      of it, for people               tabs      (tab, what to do there) where it is to be found
    notices   what was left out, and hints    products  of a data set, if there are several; product: the one in use
    job_id    of its folder                   role      "learn" or "check", of a data set
    """

    repo_id: str
    kind: str
    revision: str
    what: str
    tabs: tuple[tuple[str, str], ...]
    notices: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    product: str = ""
    job_id: str = ""
    role: str = ""


@dataclass(frozen=True)
class Chosen:
    """A repository that is looked at.

    listing  the first of its files; n_files and size (bytes): of all
    card     its README.md         asked  the revision that was asked for, "" the newest
    """

    info: RepoInfo
    listing: Listing
    n_files: int
    size: int
    card: str
    asked: str = ""


@dataclass(eq=False)
class Visit:
    """What a visitor does on this tab.

    kind      of what is looked for       repos   what was found, None before the first look; where: in which store
    chosen    what is looked at           taken   what was brought into the app last
    prepared  what is to be given: its state and its folder; pushing: how many pushes read it now
    draft     the card as it was made, and drafted: of what; empty before
    pushed    what was pushed last, None until then; store: to which, for people
    """

    kind: str = "model"
    repos: tuple[RepoInfo, ...] | None = None
    where: str = ""
    chosen: Chosen | None = None
    taken: Taken | None = None
    prepared: tuple[Any, Path] | None = field(default=None, repr=False)
    pushing: int = 0
    draft: str = field(default="", repr=False)
    drafted: str = ""
    pushed: Pushed | None = None
    store: str = ""


@dataclass(frozen=True)
class Place:
    """Step 1: "hub" or "folder", and which folder: one of `folders`, or with trust any path."""

    place: str = "hub"
    folder: str = ""


# Step 1.


def folders(work: Work, trusted: bool) -> dict[str, str]:
    """The folder stores that the app was started with, by name: visitors from elsewhere see no paths."""
    named: dict[str, str] = {}
    for spec in work.stores:
        path = Path(spec.removeprefix("folder:"))
        name = str(path) if trusted else path.name or "folder"
        named[name if name not in named else f"{name} {len(named) + 1}"] = spec
    return named


def open_store(session: Session, work: Work, trusted: bool, place: Place) -> BaseStore:
    """The store of step 1. On the Hub visitors from elsewhere are who their token says they are, and never who has
    logged in on this machine."""
    if place.place != "folder":
        return create_store("hub", session.token or (None if trusted else False))
    named, text = folders(work, trusted), (place.folder or "").strip()
    if text in named:
        return create_store(named[text])
    if not trusted or not text:
        offered = f"one of {', '.join(named)}" if named else "the Hub"
        raise InvalidArgumentError(f"there is no store {text!r} here: choose {offered}")
    return create_store(f"folder:{text.removeprefix('folder:')}")


def store_name(work: Work, trusted: bool, place: Place) -> str:
    """The store of step 1, for people."""
    if place.place != "folder":
        return HUB
    return f"the folder {place.folder.strip()}" if trusted or place.folder in folders(work, trusted) else "a folder"


def at(where: str) -> str:
    """In a sentence: "on the Hugging Face Hub", or "in the folder …"."""
    return f"on the {where}" if where == HUB else f"in {where}"


@contextmanager
def said_plainly(session: Session, work: Work, trusted: bool) -> Iterator[None]:
    """Errors of stores, without a token and without paths that are nobody's business."""
    try:
        yield
    except Cancelled:
        raise
    except AnomalyHubError as error:
        text = str(error)
        if session.token:
            text = text.replace(session.token, "…")
        hidden = {} if trusted else {spec.removeprefix("folder:"): name for name, spec in folders(work, False).items()}
        hidden |= {str(session.folder): "your folder", str(work.home): "the app's folder"}
        for path, name in hidden.items():
            text = text.replace(f"folder:{path}", name).replace(path, name)
        error.args = (text,)
        raise
    except Exception as error:
        if session.token and session.token in f"{error!r} {error}":  # not into the log either
            raise StoreError(f"the Hub's client failed ({reason(error, session.token)}): try again") from None
        raise


def log_in(session: Session, token: str) -> str:
    """Ask the Hub whose token it is, and keep it until the session ends or the visitor logs out."""
    token = (token or "").strip()
    if not _TOKEN.fullmatch(token):
        raise InvalidArgumentError(
            "that is no access token: make one at huggingface.co/settings/tokens and paste all of it"
        )
    try:
        login = create_store("hub", token).whoami()
    except AnomalyHubError as error:
        raise StoreError(reason(error, token)) from None
    except Exception as error:
        raise StoreError(f"the login failed ({reason(error, token)}): try again") from None
    session.token, session.account = token, login.name
    only = "" if login.can_write else " This token can only read: it is enough to take, but not to give."
    return f"Logged in as {session.account}.{only}"


def log_out(session: Session) -> str:
    """Forget the token."""
    session.token, session.account = None, ""
    return "Logged out: the token is forgotten."


def login_text(session: Session, trusted: bool) -> str:
    """Who asks the Hub, and what that is good for."""
    if session.token:
        return f"Logged in as {session.account}, until you log out or close this page."
    if os.environ.get("SPACE_ID"):
        return "The Space’s own token is never used for visitors: log in to give, or to see what is private."
    if trusted:
        return "Without a token, the login of this machine is used, if it has one (hf auth login)."
    return "A token is needed to give, and to see what is private. It is kept until you log out or close this page."


# Step 2: what is there.


def checked_kind(kind: str) -> str:
    """Raises InvalidArgumentError for what no tab can use."""
    if kind not in KINDS:
        raise InvalidArgumentError(f"nothing of the kind {kind[:40]!r} is taken: choose {' or '.join(KINDS)}")
    return kind


def look(
    visit: Visit, store: BaseStore, where: str, kind: str, words: str = "", tag: str = "", product: str = ""
) -> str:
    """List a store: repositories of a kind with all of the words in their name, product, tags or summary.

    where  the store, for people
    """
    checked_kind(kind)
    found = store.list(kind, tag=tag.strip() or None, product=product.strip() or None)
    wanted = words.casefold().split()
    visit.kind, visit.where = kind, where
    visit.repos = tuple(info for info in found if all(word in _words_of(info) for word in wanted))
    return headline(visit)


def _words_of(info: RepoInfo) -> str:
    return " ".join([info.repo_id, info.product or "", *info.tags, info.summary]).casefold()


def headline(visit: Visit) -> str:
    """How many there are."""
    one, several = KINDS[visit.kind]
    count = len(visit.repos or ())
    return f"{count or 'No'} {one if count == 1 else several} {at(visit.where)}"


def choose(visit: Visit, store: BaseStore, repo_id: str, kind: str, revision: str = "") -> str:
    """Look at a repository: its files and its card. Raises StoreError when there is none."""
    repo_id, revision = checked_repo_id((repo_id or "").strip()), (revision or "").strip()
    listing, card = store.card(repo_id, checked_kind(kind), revision or None)
    info = next((one for one in visit.repos or () if (one.repo_id, one.kind) == (repo_id, kind)), None)
    n_files, size = len(listing.entries), sum(entry.size for entry in listing.entries)
    few = Listing(listing.revision, listing.entries[:_FILES])  # a session lasts, and there may be very many
    visit.chosen = Chosen(info or _info(repo_id, kind, listing, card), few, n_files, size, card, revision)
    return f"{repo_id}: {n_files} files. Next: use it in this app."


def _info(repo_id: str, kind: str, listing: Listing, card: str) -> RepoInfo:
    """What is known of a repository that no list has shown."""
    tags = read_front_matter(card).get("tags")
    tags = tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ()
    return RepoInfo(repo_id, kind, listing.revision, tags, size=sum(entry.size for entry in listing.entries))
