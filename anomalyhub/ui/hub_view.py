"""What the Hub tab shows, as HTML. Cards, names and tags are strangers' texts: nothing in them is run or fetched."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

from anomalyhub.hub import RepoInfo
from anomalyhub.hub.base import TAG
from anomalyhub.hub.front_matter import read_front_matter
from anomalyhub.ui import board_view, hub
from anomalyhub.ui.hub import Chosen, Taken, Visit
from anomalyhub.ui.hub_give import Offer, given_text
from anomalyhub.ui.session import Session
from anomalyhub.ui.views import notice_list

TITLES = ("Where it is kept", "Take", "Give")
_MAX_CARD = 30_000  # characters that are drawn: half a second for the worst
_TAGS, _NOTES = 6, 12
_UNTOLD = re.compile(r"Push \d+ files with AnomalyHub")  # a message that says nothing
_FRONT = re.compile(r"\A\s*---[ \t]*\r?\n.*?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
#: Keys of a card's front matter that say something to people.
_TOLD = {
    "license": "Licence",
    "base_model": "Backbone",
    "datasets": "Learned from",
    "pipeline_tag": "Task",
    "library_name": "Made with",
    "size_categories": "Images",
}


def heads(session: Session, visit: Visit, offers: Sequence[Offer], where: str) -> list[str]:
    """Head of each of the three steps."""
    account = f", as {session.account}" if session.account and where == hub.HUB else ""
    taken = f"{visit.taken.repo_id}: {visit.taken.what}" if visit.taken else "A model or a data set, to use it here"
    give = f"{len(offers)} thing{'s' * (len(offers) != 1)} of yours can be given" if offers else "Nothing is made yet"
    if visit.pushed is not None:
        give = f"{visit.pushed.repo_id} is {hub.at(visit.store)}"
    done = (True, visit.taken is not None, visit.pushed is not None)
    made = board_view.step_heads(done, (f"{_capital(where)}{account}", taken, give), TITLES)
    return made if offers else [*made[:2], made[2].replace("ah-current", "ah-todo")]  # there is nothing to do in it


def text(words: str) -> str:
    """Words that may come from outside, for HTML."""
    return escape(words)


def empty() -> str:
    """The right side before anything is shown."""
    text = (
        "Keep models and data sets on the Hugging Face Hub or in a folder of your own, take them into this app on "
        "another day or another machine, or share them. Press Show what is there in step 2."
    )
    return board_view.empty("Keep & share", text, _PICTOGRAM)


def repos(visit: Visit) -> str:
    """What was found, as cards; a click on one asks for it."""
    if visit.repos is None:
        return empty()
    one, several = hub.KINDS[visit.kind]
    if not visit.repos:
        text = (
            f"There is no {one} of AnomalyHub that fits: try other words, or none. Log in to see what is private. A "
            "repository that is not listed can be named in step 2."
        )
        return board_view.empty(f"No {several} found", text, _PICTOGRAM)
    cards = "".join(_repo(number, info) for number, info in enumerate(visit.repos))
    head = f'<h3 class="ah-h-title">{escape(hub.headline(visit))}</h3>'
    return f'{head}<div class="ah-h-repos">{cards}</div>'


def _repo(number: int, info: RepoInfo) -> str:
    owner, _, name = info.repo_id.partition("/")
    facts = [date(info.updated), size(info.size)]
    told = "" if _UNTOLD.fullmatch(info.summary) else info.summary
    return (
        f'<button type="button" class="ah-card ah-h-repo" data-index="{number}" title="{escape(info.repo_id)}">'
        f'<span class="ah-h-name"><i>{escape(owner)}/</i><b>{escape(name)}</b>{_private(info)}</span>'
        f'<span class="ah-h-about">{escape(". ".join(filter(None, (info.product, told))))}</span>{_tags(info.tags)}'
        f'<span class="ah-line2">{" · ".join(fact for fact in facts if fact)}</span></button>'
    )


def _private(info: RepoInfo) -> str:
    return '<em class="ah-h-private">private</em>' if info.private else ""


def _tags(tags: Sequence[str]) -> str:
    shown = [tag for tag in tags if tag != TAG and ":" not in tag]
    more = f"<span>+{len(shown) - _TAGS}</span>" if len(shown) > _TAGS else ""
    chips = "".join(f"<span>{escape(tag[:40])}</span>" for tag in shown[:_TAGS])
    return f'<span class="ah-h-tags">{chips}{more}</span>' if chips else ""


def date(seconds: float | None) -> str:
    """A day as the machine's calendar has it; empty where it is not known."""
    try:
        return "" if seconds is None else time.strftime("%Y-%m-%d", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a store may say anything
        return ""


def size(count: int | None) -> str:
    """Bytes for people; empty where they are not known."""
    if count is None:
        return ""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def chosen(one: Chosen) -> str:
    """A repository: what it is, its files, and its card."""
    info = one.info
    owner, _, name = info.repo_id.partition("/")
    told = [("Revision", f"<code>{escape(one.listing.revision[:12])}</code>"), ("Changed", date(info.updated))]
    told += [("Product", escape(info.product or "")), ("Size", size(one.size))]
    told += _told(one.card)
    rows = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in told if value)
    return (
        f'<article class="ah-h-chosen"><h2><i>{escape(owner)}/</i>{escape(name)}{_private(info)}</h2>{_tags(info.tags)}'
        f'<dl class="ah-h-facts">{rows}</dl>{_files(one)}{card(one.card) or _NO_CARD}</article>'
    )


_NO_CARD = '<p class="ah-none">It has no card.</p>'


def _told(text: str) -> list[tuple[str, str]]:
    """What the front matter of a card says, but for what the list has said."""
    said = read_front_matter(text)
    return [(title, escape(_words(said.get(key)))) for key, title in _TOLD.items() if _words(said.get(key))]


def _words(value: Any) -> str:
    """A text or number, or some of them; anything else is nothing."""
    values = value[:_NOTES] if isinstance(value, list) else [value]
    return ", ".join(str(one)[:120] for one in values if isinstance(one, (str, int, float)) and one is not True)


def _files(one: Chosen) -> str:
    entries = one.listing.entries
    rows = "".join(f"<li>{escape(entry.path)}<span>{size(entry.size)}</span></li>" for entry in entries)
    more = f"<li>and {one.n_files - len(entries)} more</li>" if one.n_files > len(entries) else ""
    return f'<details class="ah-h-files"><summary>{one.n_files} files</summary><ul>{rows}{more}</ul></details>'


def card(text: str) -> str:
    """A card's Markdown without its front matter, as HTML that cannot do anything: no HTML of its own, no pictures,
    which would tell their server who looks, and no links but those to the web."""
    body = _FRONT.sub("", text[:_MAX_CARD], count=1).strip()
    more = '<p class="ah-soft">The rest is not shown.</p>' * (len(text) > _MAX_CARD)
    return f'<div class="ah-h-card">{_rendered(body)}{more}</div>' if body else ""


@lru_cache(maxsize=32)
def _rendered(body: str) -> str:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).disable("image")
    tokens = parser.parse(body)
    for token in tokens:
        for one in (token, *(token.children or ())):
            if one.type in ("html_block", "html_inline"):
                comment = one.content.strip()
                one.type, one.content = "text", "" if comment.startswith("<!--") else one.content
            elif one.type == "link_open":
                href = str(one.attrGet("href") or "")
                web = href.lower().startswith(("https://", "http://"))
                one.attrs = {"href": href, "target": "_blank", "rel": "noopener noreferrer nofollow"} if web else {}
    return parser.renderer.render(tokens, parser.options, {})


def taken(one: Taken) -> str:
    """What was brought in, and where it is now."""
    tabs = "".join(
        f'<li><button type="button" data-tab="{escape(tab)}">{escape(tab)}</button><span>{escape(then)}</span></li>'
        for tab, then in one.tabs
    )
    return (
        f'<div class="ah-h-taken" role="status"><h3>{escape(one.repo_id)} is here</h3>'
        f"<p>{_capital(escape(one.what))}.</p><ul>{tabs}</ul>{notice_list(one.notices)}</div>"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def given(visit: Visit, show_url: bool) -> str:
    """What the last push did, with its address where that is the visitor's business."""
    pushed = visit.pushed
    if pushed is None:
        return ""
    link = ""
    if pushed.url.startswith(("https://", "http://")):
        link = f'<a href="{escape(pushed.url)}" target="_blank" rel="noopener noreferrer">{escape(pushed.url)}</a>'
    elif show_url:
        link = f"<code>{escape(pushed.url)}</code>"
    return f'<div class="ah-h-given" role="status"><p>{escape(given_text(visit))}</p>{link}</div>'


def draft(text: str, repo_id: str) -> str:
    """The card that would be pushed, as the store's page shows it."""
    if not text:
        message = "Choose in step 3 what to give and press Show card. It is drawn here, and can be changed."
        return f'<p class="ah-none">{message}</p>'
    rows = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in _told(text) if value)
    tags = read_front_matter(text).get("tags")
    tags = _tags([one for one in tags if isinstance(one, str)]) if isinstance(tags, list) else ""
    facts = f'<dl class="ah-h-facts">{rows}</dl>' if rows else ""
    return f'<article class="ah-h-chosen"><h2>{escape(repo_id)}</h2>{tags}{facts}{card(text) or _NO_CARD}</article>'


_PICTOGRAM = (
    '<svg class="ah-pictogram" viewBox="0 0 232 84" role="img" aria-label="a folder goes to a store and comes back">'
    '<path d="M4 20a8 8 0 0 1 8-8h20l8 10h36a8 8 0 0 1 8 8v34a8 8 0 0 1-8 8H12a8 8 0 0 1-8-8z" class="ah-tile"/>'
    '<circle cx="44" cy="46" r="12" class="ah-ring"/><circle cx="53" cy="39" r="6" class="ah-spot"/>'
    '<path d="M98 32h36m-9-8 9 8-9 8M134 54H98m9-8-9 8 9 8" class="ah-arrow"/>'
    '<rect x="148" y="6" width="80" height="20" rx="7" class="ah-tile"/>'
    '<rect x="148" y="32" width="80" height="20" rx="7" class="ah-tile"/>'
    '<rect x="148" y="58" width="80" height="20" rx="7" class="ah-tile"/>'
    '<path d="M160 16h34M160 42h46M160 68h26" class="ah-arrow"/></svg>'
)
