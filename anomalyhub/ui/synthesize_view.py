"""What the Synthesize tab shows, as HTML. Every name that comes from outside is escaped."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from anomalyhub.data import read_image
from anomalyhub.errors import AnomalyHubError, InvalidImageError
from anomalyhub.report.overlay import fit_within
from anomalyhub.state import read_config
from anomalyhub.synthesis import SyntheticRef, SyntheticSet
from anomalyhub.ui import board_view, views
from anomalyhub.ui.synthesize import Form, Preview, Visit, chosen_text, n_kinds
from anomalyhub.ui.synthesize_jobs import State

#: Pseudo-classes on one page of the gallery, and pictures of each.
PAGE, _EACH = 16, 4
_SIDE, _SMALL = 320, 160  # longer sides in pixels
_TITLES = ("Choose the product", "Paint defects", "Pretrain on them")
_METHODS = {"grabcut": "GrabCut", "floodfill": "a flood fill from the border", "whole": "taking the whole image"}
_WORDS = {**views.JOB_WORDS, "gone": "It is gone"}


def heads(visit: Visit, painted: State, trained: State, form: Form | None = None) -> list[str]:
    """Head of each of the three steps."""
    product = chosen_text(visit.chosen) if visit.chosen else "Its normal photos are what is painted on"
    paint = {**_WORDS, "damaged": "They cannot be read"}.get(painted.status, _would_be(visit, form))
    if painted.result is not None:
        config = painted.job.asked.get("config", {})
        paint = f"{config.get('count', 0):,} painted defects of {visit.chosen.name}"
    train = _WORDS.get(trained.status, "A classifier that has seen many kinds of change")
    if trained.result is not None:
        train = f"Ready: the Classify tab offers it for {visit.chosen.name}"
    done = (visit.chosen is not None, painted.result is not None, trained.result is not None)
    return board_view.step_heads(done, (product, paint, train), _TITLES)


def _would_be(visit: Visit, form: Form | None) -> str:
    if visit.chosen is None or form is None:
        return "With textures, in random places"
    try:
        kinds = n_kinds(visit, form)
    except AnomalyHubError:
        return "With textures, in random places"
    return f"{form.each} of each of {kinds} kinds: {form.each * kinds:,} images"


def job_slot(state: State, button: str) -> str:
    """Progress, or why there is no result; `button` is what begins anew."""
    advice = f"Go on, or change something and press {button}."
    return views.job_slot(state.job, state.status, state.problem, advice, (state.fraction, state.text))


def empty() -> str:
    """The right side before a product is chosen."""
    text = (
        "Choose normal photos on the left. The program paints made-up defects on them, hundreds in a minute, and a "
        "classifier practises on those before it sees a real one."
    )
    return board_view.empty("Practice defects, painted for you", text, _PICTOGRAM)


def preview(shown: Preview) -> str:
    """Where the product is, and six defects with their pseudo-classes."""
    parts = "".join(
        f'<img src="{views.picture_url(_large(picture))}" alt="the part is bright, what is around it dimmed">'
        for picture in shown.foregrounds
    )
    cards = "".join(
        f'<figure class="ah-s-defect"><img src="{views.picture_url(_large(one.image))}" '
        f'alt="painted defect of the kind {escape(one.label)}"><figcaption>{escape(_title(one.label))}</figcaption>'
        "</figure>"
        for one in shown.painted
    )
    return (
        f'<div class="ah-s-preview"><section><h3>Where the part is</h3><div class="ah-s-parts">{parts}</div>'
        f"<p>{escape(_found_by(shown))}</p>{_lost(shown)}</section>"
        f'<section><h3>{len(shown.painted)} of {shown.kinds} kinds</h3><div class="ah-s-defects">{cards}</div>'
        "</section></div>"
    )


def _found_by(shown: Preview) -> str:
    if shown.reason:
        reason = shown.reason.replace("grabcut", "GrabCut").replace("floodfill", "flood fill")
        return f"{reason[:1].upper()}{reason[1:]}."
    if shown.method == "whole":
        return "Defects may lie anywhere in the image."
    return f"Found by {_METHODS[shown.method]}. Defects lie inside the green line."


def _lost(shown: Preview) -> str:
    if not shown.lost:
        return ""
    where = "" if shown.lost == shown.looked else f" in {shown.lost} of the {shown.looked} images that were looked at"
    remedy = "If that is wrong, choose another way in the settings of step 2."
    return views.notice_list([f"Foreground not found{where}: the whole image is used. {remedy}"])


def _large(picture: np.ndarray) -> np.ndarray:
    return fit_within(picture, _SIDE)


def _title(label: str) -> str:
    """A pseudo-class as people read it."""
    texture, _, sides = label.rpartition("_x_")
    shape = {"3": "triangle", "4": "square", "5": "pentagon", "6": "hexagon"}.get(sides)
    return f"{texture.replace('_', ' ')}, {shape}" if texture and shape else label.replace("_", " ")


def n_pages(painted: SyntheticSet) -> int:
    """Pages of the gallery, at least 1."""
    return max(1, math.ceil(len(painted.classes) / PAGE))


def gallery(painted: SyntheticSet, page: int = 1) -> str:
    """Some of the painted images of each pseudo-class; page counts from 1."""
    by_class: dict[str, list[SyntheticRef]] = defaultdict(list)
    for ref in painted.refs:
        by_class[ref.label].append(ref)
    first = PAGE * (min(max(page, 1), n_pages(painted)) - 1)
    groups = [_group(name, by_class[name]) for name in sorted(by_class)[first : first + PAGE]]
    return f'<div class="ah-s-kinds">{"".join(groups)}</div>'


def _group(name: str, refs: Sequence[SyntheticRef]) -> str:
    pictures = "".join(filter(None, (_thumbnail(ref) for ref in refs[:_EACH])))
    return f'<figure class="ah-s-kind"><div>{pictures}</div><figcaption>{escape(_title(name))}<b>{len(refs)}</b>' + (
        "</figcaption></figure>"
    )


def _thumbnail(ref: SyntheticRef) -> str:
    """Empty when its file has gone."""
    try:
        picture = fit_within(read_image(ref.image), _SMALL)
    except InvalidImageError:
        return ""
    return f'<img src="{views.picture_url(picture, 80)}" alt="{escape(ref.id)}" title="{escape(ref.id)}">'


def summary(visit: Visit, painted: State, trained: State) -> str:
    """What there is now, large, and what to do with it."""
    count = painted.job.asked.get("config", {}).get("count", 0)
    line = f"<b>{count:,}</b> painted defects of {escape(visit.chosen.name)}"
    then = "Next: press Pretrain in step 3. Or download them: they are a data set in the layout of MVTec AD."
    if trained.active:
        then = "A classifier practises on them now."
    if trained.result is not None:
        then = "Next: open the Classify tab, give it a few real examples, and choose this under “Pretrained on”."
    return (
        f'<div class="ah-summary ah-s-summary" role="status"><p class="ah-verdict">{line}</p><p>{then}</p>'
        f"{_practised(trained)}</div>"
    )


def _practised(trained: State) -> str:
    """How the pretraining went, in figures."""
    if trained.result is None:
        return ""
    known = pretraining_of(trained)
    words = {"pseudo_classes": "kinds", "images": "images", "episodes": "rounds"}
    facts = [f"{known[key]:,} {word}" for key, word in words.items() if key in known]
    accuracy = known.get("accuracy")
    if isinstance(accuracy, (int, float)):
        facts.append(f"{100 * accuracy:.0f} % right in the last round")
    return f'<p class="ah-soft">Practised on {", ".join(facts)}.</p>' if facts else ""


def pretraining_of(trained: State) -> Mapping[str, Any]:
    """What the classifier's folder says of its pretraining; empty where it cannot be read."""
    try:
        return read_config(trained.result, "classifier").get("pretraining") or {}
    except AnomalyHubError:
        return {}


_PICTOGRAM = (
    '<svg class="ah-pictogram" viewBox="0 0 232 84" role="img" aria-label="a normal part, and painted defects on it">'
    '<rect x="2" y="2" width="80" height="80" rx="10" class="ah-tile"/><circle cx="42" cy="42" r="22" class="ah-ring"/>'
    '<path d="M96 42h34m-9-8 9 8-9 8" class="ah-arrow"/>'
    + "".join(
        f'<rect x="{x}" y="{y}" width="36" height="36" rx="7" class="ah-tile"/>'
        f'<circle cx="{x + 18}" cy="{y + 18}" r="9" class="ah-ring"/>'
        f'<circle cx="{x + 18 + dx}" cy="{y + 18 + dy}" r="6.5" class="ah-k{kind}"/>'
        for x, y, dx, dy, kind in ((148, 2, 7, -6, 0), (192, 2, -8, 4, 1), (148, 46, -3, 8, 2), (192, 46, 6, 7, 3))
    )
    + "</svg>"
)
