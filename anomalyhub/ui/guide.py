"""What the Detect tab says about the way: heads of the steps, what to do next, and the few photos learned from."""

from __future__ import annotations

from html import escape

import numpy as np

from anomalyhub.data import SampleRef, Split
from anomalyhub.errors import InvalidImageError
from anomalyhub.report.overlay import fit_within
from anomalyhub.ui import detect, methods
from anomalyhub.ui.session import Session
from anomalyhub.ui.views import picture_url

_TITLES = {
    "many": ("Show normal parts", "Learn what is normal", "Check unknown parts"),
    "few": ("Show a few normal parts", "Learn what is normal", "Check unknown parts"),
    "none": ("Show the photos to check", "Compare them", "See which stand out"),
}
_WANTED = {
    "many": "A few dozen photos, no defects",
    "few": "2 to 8 photos, no defects",
    "none": "Good and bad ones together",
}
_PICTURES = 8  # at most so many before there are results
_SUPPORT = 24  # and of the few photos that were learned from
_SIDE = 200


def step_heads(session: Session) -> list[str]:
    """Head of each of the three steps: done, current or still to do, and what it holds."""
    source, have = session.chosen, session.have
    learned, checked = source is not None and session.inspector is not None, source is not None and session.checked
    done = (source is not None, learned, bool(checked))
    model = f"Ready to check {source.name}" if learned else "Takes seconds to minutes"
    if checked:
        results = detect.headline(session)
    elif source and session.unknown:
        results = f"{len(session.unknown)} images to check"
    else:
        results = "See which are defective, and where"
    current = done.index(False) if False in done else -1
    texts = (_photos(session) if source else _WANTED[have], model, results)
    states = ["done" if done[i] else "current" if i == current else "todo" for i in range(3)]
    return [_step_head(i, _TITLES[have][i], states[i], texts[i]) for i in range(3)]


def _photos(session: Session) -> str:
    """What step 1 holds, and whether other photos would do better."""
    source, count = session.source, len(session.source.photos)
    if not count:
        return f"{source.name}, taken on the Hub tab"
    if source.have == "none":
        few = "; 20 or more compare better" if count < 20 and session.method == "musc" else ""
        return f"{count} photos of {source.name}{few}"
    hint = ""
    if source.have == "many" and count < 20:
        hint = "; 20 or more work better"
    elif source.have == "few" and count > methods.MOST:
        hint = f"; so many do better under “{methods.HAVE['many']}”"
    return f"{count} normal images of {source.name}{hint}"


def _step_head(index: int, title: str, state: str, text: str) -> str:
    sign = "✓" if state == "done" else str(index + 1)
    return (
        f'<div class="ah-head ah-{state}"><span class="ah-number">{sign}</span>'
        f"<div><h2>{title}</h2><p>{escape(text)}</p></div></div>"
    )


def stage(session: Session) -> str:
    """The right side before there are results: what there is and what to do next."""
    source = session.chosen
    if source is None:
        return _empty(*_START[session.have], _PICTOGRAM)
    pictures = _pictures(session, source.photos or source.tests, _PICTURES)
    method = methods.find(session.method, session.have)
    verb = method.verb(session.have)
    if session.inspector is None and session.busy:
        title, then = _BUSY[verb]
        return _empty(title, then, pictures)
    if session.inspector is None:
        return _empty(f"Now press {verb}", _NEXT[verb], pictures)
    return _empty("Ready to check unknown parts" if session.have != "none" else "Ready", _ready(session), pictures)


_START = {
    "many": (
        "Start with normal parts",
        "Choose a sample product on the left, or upload photos of parts that are fine. "
        "No photos of defects are needed.",
    ),
    "few": (
        "Start with a few normal parts",
        "Choose a sample product on the left, or upload 2 to 8 photos of parts that are fine, as different as normal "
        "parts are. No photos of defects are needed.",
    ),
    "none": (
        "Start with the photos to check",
        "Choose a sample product on the left, or upload photos of your parts, good and bad ones together. "
        "Nobody has to sort them first.",
    ),
}
_NEXT = {
    "Learn": "These normal images show what the product should look like.",
    "Compare": "The photos are compared with each other: what most of them have is normal, and what only some have "
    "stands out. So most of them should be normal.",
    "Prepare": "Photos are compared with words, such as flawless and damaged: say in step 2 what the parts are called.",
}
_BUSY = {
    "Learn": ("Learning what is normal", "Then it can check unknown parts."),
    "Compare": ("Comparing the photos", "Then it can say which stand out, and where."),
    "Prepare": ("Getting ready", "The first time a large model is downloaded."),
}


def _ready(session: Session) -> str:
    calibration, count = session.inspector.calibration, len(session.source.photos)
    if not count:
        return f"{session.source.name} was taken on the Hub tab. Choose images in step 3 and press Check."
    if calibration is None:
        return f"A photo scores from 0, flawless, to 1, damaged. Press Check in step 3 to see the {count} photos."
    if calibration.source == "unlabelled":
        return (
            f"It compared {count} photos with each other and set its threshold as if most of them were normal. "
            "Press Check in step 3 to see which stand out."
        )
    held_out = len(calibration.scores)
    some = f"{held_out} of them" if held_out < count else "each of them"
    return (
        f"It learned from {count} normal images and set its threshold with {some} held out in turn. "
        "Choose images in step 3 and press Check."
    )


def _empty(title: str, text: str, picture: str) -> str:
    return f'<div class="ah-empty">{picture}<h2>{escape(title)}</h2><p>{escape(text)}</p></div>'


def _pictures(session: Session, split: Split, count: int) -> str:
    if not split:
        return _PICTOGRAM
    chosen = sorted({round(i) for i in np.linspace(0, len(split) - 1, min(count, len(split)))})
    pictures = "".join(_thumbnail(session, split.refs[index]) for index in chosen)
    return f'<div class="ah-normals">{pictures}</div>'


def _thumbnail(session: Session, ref: SampleRef) -> str:
    """A small picture, which is drawn once; empty when its file has gone since it was read."""
    if ref.path not in session.thumbnails:
        try:
            session.thumbnails[ref.path] = picture_url(fit_within(ref.load().image, _SIDE))
        except InvalidImageError:
            return ""
    name = escape(ref.id)
    return f'<img src="{session.thumbnails[ref.path]}" alt="{name}" title="{name}">'


def support(session: Session) -> str:
    """The photos that were learned from, where they are few; empty otherwise."""
    source = session.chosen
    if source is None or source.have != "few" or session.inspector is None:
        return ""
    refs = source.normals.refs
    pictures = "".join(_thumbnail(session, ref) for ref in refs[:_SUPPORT])
    more = f" The first {_SUPPORT}:" if len(refs) > _SUPPORT else ""
    return f'<div class="ah-support"><p>Learned from these {len(refs)} photos.{more}</p><div>{pictures}</div></div>'


_PICTOGRAM = (
    '<svg class="ah-pictogram" viewBox="0 0 232 84" role="img" aria-label="normal parts, a model, a found defect">'
    + "".join(
        f'<rect x="{x}" y="{y}" width="32" height="32" rx="6" class="ah-tile"/>'
        f'<circle cx="{x + 16}" cy="{y + 16}" r="8" class="ah-ring"/>'
        for x in (4, 44)
        for y in (4, 48)
    )
    + '<path d="M92 42h40m-9-8 9 8-9 8" class="ah-arrow"/>'
    '<rect x="148" y="2" width="80" height="80" rx="10" class="ah-tile"/>'
    '<circle cx="188" cy="42" r="22" class="ah-ring"/>'
    '<circle cx="204" cy="29" r="11" class="ah-spot"/></svg>'
)
