"""How well the Classify tab's examples are told apart: what a fitting wrote, and how the page shows it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path

import cv2
import numpy as np

from anomalyhub.data import read_image
from anomalyhub.errors import InvalidImageError, InvalidModelError
from anomalyhub.report.overlay import fit_within
from anomalyhub.state import read_json
from anomalyhub.types import Box
from anomalyhub.ui.examples import Example, Shelf
from anomalyhub.ui.examples_view import picture
from anomalyhub.ui.views import notice_list, picture_url

FILE = "examples.json"
_SIDE, _BOX = 200, (255, 170, 40)
_DPI = 110
_CARDS = 12  # of a section


@dataclass(frozen=True)
class Named:
    """An example as the others would name it; probability of that in [0, 1]."""

    id: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a fitting says of its examples.

    accuracy   share of the checked examples that the others name rightly; None where none could be checked
    names, counts  the confusion matrix: rows of true, columns of predicted kinds
    checked    every example that could be left out
    unchecked  kinds of one example each
    unlocated  ids of examples in which the detector finds nothing, and the boxes that were taken instead
    n_examples, kinds  of all
    """

    accuracy: float | None
    names: tuple[str, ...]
    counts: np.ndarray
    checked: tuple[Named, ...]
    unchecked: tuple[str, ...]
    unlocated: Mapping[str, tuple[Box, ...]]
    n_examples: int
    kinds: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        """From examples.json of an inspector's folder. Raises InvalidModelError."""
        stored = read_json(folder / FILE)
        try:
            examples, check = stored["examples"], stored["leave_one_out"] or {}
            confusion = check.get("confusion") or {"classes": (), "counts": ()}
            names = tuple(map(str, confusion["classes"]))
            rows = [
                Named(str(r["id"]), str(r["label"]), str(r["predicted"]), float(r["probability"]))
                for r in check.get("rows", ())
            ]
            return cls(
                None if check.get("accuracy") is None else float(check["accuracy"]),
                names,
                np.array(confusion["counts"], np.int64).reshape(len(names), len(names)),
                tuple(rows),
                tuple(map(str, check.get("unchecked", ()))),
                {
                    str(one["id"]): tuple(tuple(map(int, region["box"])) for region in one["regions"])
                    for one in examples
                    if not one["located"]
                },
                len(examples),
                tuple(sorted({str(one["label"]) for one in examples})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidModelError(f"{folder / FILE} is damaged ({error!r}): learn the kinds again") from error

    @property
    def confused(self) -> list[Named]:
        """Examples that the others name wrongly, the surest first."""
        return sorted((one for one in self.checked if one.predicted != one.label), key=lambda one: -one.probability)


def headline(outcome: Outcome) -> str:
    """How well it went, in one line."""
    if outcome.accuracy is None:
        return f"{len(outcome.kinds)} kinds from {outcome.n_examples} examples; none could be checked"
    right = len(outcome.checked) - len(outcome.confused)
    return f"{right} of {len(outcome.checked)} examples named rightly by the others"


def summary(outcome: Outcome, product: str, stale: bool) -> str:
    """The verdict, large, what it means, and what cannot be said.

    stale  the examples have changed since
    """
    right, count = len(outcome.checked) - len(outcome.confused), len(outcome.checked)
    if outcome.accuracy is None:
        verdict = f"<b>{len(outcome.kinds)}</b> kinds of {escape(product)} are known"
        text = "How well they are told apart is not known: give 2 or more examples of each."
    else:
        verdict = f"<b>{right}</b> of {count} examples named rightly"
        text = (
            f"{100 * outcome.accuracy:.0f} % are right: each was named by a classifier that had learned from the "
            f"others alone. With {count} examples that is a hint, not a promise: new images will tell."
        )
    share = 100 * right / count if count else 0
    bar = f'<div class="ah-bar ah-c-share"><span style="width:{share:.1f}%"></span></div>' if count else ""
    old = '<p class="ah-problem">The examples have changed since: press Learn again.</p>' if stale else ""
    return (
        f'<div class="ah-summary ah-c-summary" role="status"><p class="ah-verdict">{verdict}</p>{bar}<p>{text}</p>'
        f"{old}{notice_list(_notices(outcome))}</div>"
    )


def _notices(outcome: Outcome) -> list[str]:
    made = [f"{kind} has one example, so it cannot be checked: give another one" for kind in outcome.unchecked]
    if len(made) > 3:
        made = [f"{len(outcome.unchecked)} kinds have one example each and cannot be checked: give another one of each"]
    return made


def details(outcome: Outcome, shelf: Shelf) -> str:
    """The confusion matrix, the examples that are confused, and those whose defect was not found."""
    parts = _confusion(outcome) + _confused(outcome, shelf) + _unlocated(outcome, shelf)
    return f'<div class="ah-c-details">{parts}</div>' if parts else ""


def _confusion(outcome: Outcome) -> str:
    if not outcome.checked:
        return ""
    counts = tuple(map(tuple, outcome.counts.tolist()))
    light, dark = (_figure_url(outcome.names, counts, dark) for dark in (False, True))
    alt = "; ".join(
        f"{name}: {row[i]} of {row.sum()} right"
        for i, (name, row) in enumerate(zip(outcome.names, outcome.counts, strict=True))
        if row.sum()
    )
    return (
        '<section class="ah-c-confusion"><h3>Which kinds are taken for which</h3><figure>'
        f'<img class="ah-on-light" src="{light}" alt="{escape(alt)}"><img class="ah-on-dark" src="{dark}" '
        f'alt="{escape(alt)}"></figure></section>'
    )


@lru_cache(maxsize=32)  # the page is drawn after each deed
def _figure_url(names: tuple[str, ...], counts: tuple[tuple[int, ...], ...], dark: bool) -> str:
    from anomalyhub.report.plots import confusion_plot

    figure = confusion_plot(np.array(counts), names, names, named=True, dark=dark)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _confused(outcome: Outcome, shelf: Shelf) -> str:
    if not outcome.checked:
        return ""
    if not outcome.confused:
        return _section("Confused examples", "None: the others name every example rightly.", [])
    examples = _by_id(shelf)
    cards = [
        _card(
            examples.get(one.id),
            one.id,
            f"{escape(one.label)}, named <b>{escape(one.predicted)}</b>",
            f"{100 * one.probability:.0f} % sure",
            (),
        )
        for one in outcome.confused
    ]
    hint = "Look whether they are in the right kind, and give more examples of the two kinds."
    return _section("Confused examples", hint, cards)


def _unlocated(outcome: Outcome, shelf: Shelf) -> str:
    if not outcome.unlocated:
        return ""
    examples = _by_id(shelf)
    cards = [
        _card(examples.get(name), name, escape(_label(examples.get(name))), "the box was taken", boxes)
        for name, boxes in outcome.unlocated.items()
    ]
    hint = (
        "The detector sees nothing abnormal in these, so their strongest spot was taken, which may be the wrong one. "
        "Remove them or give examples with a plainer defect, then learn again."
    )
    return _section("Examples whose defect was not found", hint, cards)


def _section(title: str, hint: str, cards: Sequence[str]) -> str:
    shown = f'<div class="ah-c-cards">{"".join(cards[:_CARDS])}</div>' if cards else ""
    more = f'<p class="ah-soft">and {len(cards) - _CARDS} more</p>' if len(cards) > _CARDS else ""
    return f'<section><h3>{title}</h3><p class="ah-soft">{hint}</p>{shown}{more}</section>'


def _by_id(shelf: Shelf) -> dict[str, Example]:
    return {one.ref.id: one for one in shelf.state}


def _label(one: Example | None) -> str:
    return str(one.ref.label) if one is not None else "removed since"


def _card(one: Example | None, name: str, title: str, text: str, boxes: Sequence[Box]) -> str:
    """One example; `title` is HTML whose label is escaped here."""
    image = "" if one is None else f'<img src="{picture_url(_picture(one, boxes))}" alt="{escape(name)}">'
    return (
        f'<figure class="ah-c-card">{image}<figcaption><span>{title}</span><span class="ah-soft">{text}</span>'
        f'<span class="ah-name"><bdi>{escape(name)}</bdi></span></figcaption></figure>'
    )


def _picture(one: Example, boxes: Sequence[Box]) -> np.ndarray:
    if not boxes:
        return picture(one, _SIDE)
    try:
        image = read_image(one.ref.path)
    except InvalidImageError:
        return picture(one, _SIDE)
    shown = np.ascontiguousarray(fit_within(image, _SIDE))
    scale = shown.shape[1] / image.shape[1]
    for x0, y0, x1, y1 in boxes:
        corners = [round(scale * value) for value in (x0, y0, x1 - 1, y1 - 1)]
        shown = cv2.rectangle(shown, tuple(corners[:2]), tuple(corners[2:]), _BOX, 2)
    return shown
