"""Step 3 of the Hub tab: what the visitor has made goes to a store, with a card that was looked at before."""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from anomalyhub.errors import AnomalyHubError, Cancelled, InvalidArgumentError, StoreError
from anomalyhub.hub.contents import checked_repo_id
from anomalyhub.hub.markup import MARKER
from anomalyhub.protocols import Progress, part
from anomalyhub.ui import board, discover, inspect
from anomalyhub.ui.classify import slug
from anomalyhub.ui.hub import Place, Visit, at, open_store, store_name
from anomalyhub.ui.session import Job, Session
from anomalyhub.ui.work import Work

#: Licences by what the Hub calls them; others may be typed.
LICENCES = {
    "": "Not stated",
    "apache-2.0": "Apache 2.0",
    "mit": "MIT",
    "cc-by-4.0": "CC BY 4.0",
    "cc-by-sa-4.0": "CC BY-SA 4.0",
    "cc-by-nc-4.0": "CC BY-NC 4.0",
    "cc0-1.0": "CC0 1.0",
    "other": "Other",
}
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,39}")
_SHOWN = 3  # pretrainings
_READY = 0.3  # share of the progress that making the folder takes


class Offer(NamedTuple):
    """Something that can be given.

    key   for programs           title    for people           kind  "model" or "dataset"
    name  of its repository, as it is proposed
    """

    key: str
    title: str
    kind: str
    name: str


@dataclass(frozen=True)
class Form:
    """Step 3. private is of a new repository, None: as the store has it; card: the text of the page's box."""

    key: str
    repo_id: str
    private: bool | None = None
    licence: str = ""
    message: str = ""
    card: str = ""


# What there is.


def offers(session: Session, work: Work) -> list[Offer]:
    """What this visitor has made or taken, as it is now."""
    made = []
    if session.inspector is not None and session.source is not None:
        name = session.source.name
        made.append(Offer("detector", f"Detector of {name}", "model", f"{slug(name)}-detector"))
    if (job := work.get(inspect.kinds_job(session, work), "classify")) is not None:
        name = str(job.asked["config"].get("product") or "your product")
        made.append(Offer("inspector", f"Inspector of {name}, which names kinds", "model", f"{slug(name)}-inspector"))
    if work.result_of(session.discover_job, "discover") is not None:
        job = work.get(session.discover_job, "discover")
        name = str(job.asked["config"].get("product") or job.asked.get("name") or "your product")
        name = name.removeprefix("kinds of ")
        made.append(Offer("labelled", f"Images of {name}, labelled as on the board", "dataset", f"{slug(name)}-kinds"))
        made.append(Offer("kinds", f"Kinds of {name}, as on the board", "model", f"{slug(name)}-kinds"))
    done = [one for one in session.pretrain_jobs if work.result_of(one, "pretrain") is not None]
    for number, one in enumerate(reversed(done[-_SHOWN:])):
        asked = work.get(one, "pretrain").asked
        head = asked.get("config", {}).get("head")
        name = str(asked.get("name", "")).removeprefix("pretraining on ").rpartition("/")[2] or "your product"
        title = f"Classifier pretrained on {name} ({head})" + f", {number} before" * bool(number)
        made.append(Offer(f"pretrained:{one}", title, "model", f"{slug(name)}-pretrained"))
    if (job := _painting(session, work)) is not None:
        name = str(job.asked.get("config", {}).get("product") or "your product")
        made.append(Offer("synthetic", f"Painted defects of {name}", "dataset", f"{slug(name)}-synthetic"))
    return made


def _painting(session: Session, work: Work):
    """The latest data set of painted defects: the Synthesize tab's, or the one that was pretrained on."""
    ids = [session.paint_job]
    for one in reversed(session.pretrain_jobs):
        job = work.get(one, "pretrain")
        painted = (job.asked.get("config", {}) if job else {}).get("synthetic")
        ids += [Path(str(painted)).parent.name] if painted else []
    return next((work.get(one) for one in ids if work.result_of(one, "synthesize") is not None), None)


def find(session: Session, work: Work, key: str) -> Offer:
    """Raises InvalidArgumentError for what is not there."""
    there = {one.key: one for one in offers(session, work)}
    if key not in there:
        what = "choose one of the list in step 3" if there else "learn, discover or paint something first"
        raise InvalidArgumentError(f"there is nothing {key!r} to give: {what}")
    return there[key]


def proposed(session: Session, offer: Offer, on_hub: bool) -> str:
    """A name for its repository; empty while nobody knows whose it would be."""
    owner = session.account if on_hub else "local"
    return f"{owner}/{offer.name}" if owner else ""


# What would be pushed.


def prepared(session: Session, visit: Visit, work: Work, key: str) -> Path:
    """Its folder, made once while nothing changes."""
    find(session, work, key)
    state = _state(session, work, key)
    if visit.prepared is None or visit.prepared[0] != state or not visit.prepared[1].is_dir():
        _forget(session, visit)
        visit.prepared = state, _folder_of(session, work, key)
    return visit.prepared[1]


def _state(session: Session, work: Work, key: str) -> tuple[Any, ...]:
    if key == "detector":
        return key, session.fit_job, id(session.inspector), session.threshold
    if key in ("kinds", "labelled"):
        opened = board.opened(discover.Visit(job_id=session.discover_job), work)
        return key, session.discover_job, tuple(opened.labels())
    return key, _painting(session, work).id if key == "synthetic" else inspect.kinds_job(session, work)


def _folder_of(session: Session, work: Work, key: str) -> Path:
    from anomalyhub.review import save_labelled, save_model

    if key == "inspector":
        return work.result_of(inspect.kinds_job(session, work), "classify")
    if key == "synthetic":
        return _painting(session, work).result
    if key.startswith("pretrained:"):
        return work.result_of(key.partition(":")[2], "pretrain")
    folder = session.folder / f"give-{uuid.uuid4().hex}"
    if key == "detector":
        inspector = session.inspector
        if session.threshold != inspector.threshold:
            inspector = inspector.with_threshold(session.threshold)
        inspector.save(folder)
        return folder
    opened = board.opened(discover.Visit(job_id=session.discover_job), work)
    (save_model if key == "kinds" else save_labelled)(opened, folder)
    return folder


def _forget(session: Session, visit: Visit) -> None:
    """What was made for a push that is not wanted any more; results of jobs stay."""
    if visit.prepared is not None and visit.prepared[1].parent == session.folder and not visit.pushing:
        shutil.rmtree(visit.prepared[1], ignore_errors=True)
    visit.prepared = None


def preview(session: Session, visit: Visit, place: Place, form: Form, work: Work, trusted: bool) -> str:
    """The card as it would be pushed; also kept as the draft that a push compares the page's box with."""
    from anomalyhub.hub.share import card_of

    if session.busy == "push" or visit.pushing:
        raise InvalidArgumentError("a push still runs: wait for its end, or cancel it")
    offer, repo_id = find(session, work, form.key), checked_repo_id(form.repo_id.strip())
    folder, store = prepared(session, visit, work, form.key), open_store(session, work, trusted, place)
    visit.draft = card_of(folder, repo_id, offer.kind, store=store, license=_licence(form))
    visit.drafted = form.key
    return visit.draft


def _licence(form: Form) -> str | None:
    licence = (form.licence or "").strip().lower()
    if licence and not _LICENCE.fullmatch(licence):
        raise InvalidArgumentError(f"{form.licence!r} is no licence's identifier: write one such as cc-by-4.0")
    return licence or None


# The push.


def give(
    session: Session,
    visit: Visit,
    place: Place,
    form: Form,
    work: Work,
    trusted: bool,
    progress: Progress | None = None,
) -> str:
    """Push it; the repository is as it was, or complete. What was made stays where it is, whatever happens.

    Raises Cancelled, StoreError, InvalidArgumentError, and what making the folder raises.
    """
    from anomalyhub.hub.share import share

    with Job(session, progress) as job:
        job(0.0, "getting it ready")
        offer, repo_id = find(session, work, form.key), checked_repo_id(form.repo_id.strip())
        on_hub, store = place.place != "folder", open_store(session, work, trusted, place)
        if on_hub and not (session.token or trusted):
            raise InvalidArgumentError("the Hub wants to know who gives: log in with an access token in step 1")
        folder, card = prepared(session, visit, work, form.key), _card(visit, form)
        job.check()
        visit.pushing += 1
        try:
            pushed = share(
                folder,
                repo_id,
                offer.kind,
                store=store,
                message=form.message.strip()[:500],
                private=form.private if on_hub else None,
                license=_licence(form) if card is None else None,
                card=card,
                progress=part(job, _READY, 1.0),
            )
        finally:
            visit.pushing -= 1
        visit.pushed, visit.store = pushed, store_name(work, trusted, place)
    return given_text(visit)


def _card(visit: Visit, form: Form) -> str | None:
    """The card that a person has changed; None for any other, which `share` makes itself."""
    text = form.card.replace("\r\n", "\n").strip()
    if not text or visit.drafted != form.key or text == visit.draft.strip():
        return None
    return "\n".join(line for line in text.split("\n") if line.strip() != MARKER) + "\n"  # else it would be made anew


def given_text(visit: Visit) -> str:
    """What the last push did."""
    pushed = visit.pushed
    if not pushed.changed and not pushed.removed:
        return f"Nothing changed: {pushed.repo_id} is {at(visit.store)} already, as it is."
    files = f"{len(pushed.changed)} file{'s' * (len(pushed.changed) != 1)}"
    return f"{pushed.repo_id} is {at(visit.store)}: {files} sent, {pushed.bytes_moved / 1e6:.1f} MB."


def with_advice(error: AnomalyHubError) -> AnomalyHubError:
    """Why a push failed, and what to do now; what the visitor has asked wrongly, or stopped, says it itself."""
    if isinstance(error, (Cancelled, InvalidArgumentError)):
        return error
    return StoreError(f"{error}. The repository is as it was and nothing is lost here: mend that and press Push again.")
