"""What the Inspect tab shows, as HTML. Every name that comes from outside is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from anomalyhub.report.kinds import kind_color
from anomalyhub.report.overlay import fit_within, outline
from anomalyhub.types import GOOD, UNKNOWN
from anomalyhub.ui.detect import p_text
from anomalyhub.ui.inspect import Visit
from anomalyhub.ui.seen import LARGE, Found, Seen, counts, kind_text, rgb, rightly_named, shown
from anomalyhub.ui.views import notice_list, picture_url

PAGE = 60  #: pictures on one page of the gallery
_REGIONS = 8  # of an image, with their evidence
_SMALL = 600  # an image below is enlarged, longer side in pixels


def summary(visit: Visit) -> str:
    """The verdict, large, and how many images there are of each kind."""
    defective, total = sum(one.is_anomalous for one in visit.seen), len(visit.seen)
    share = 100 * defective / max(total, 1)
    return (
        f'<div class="ah-summary" role="status"><p class="ah-verdict"><b>{defective}</b> of {total} '
        f"{'looks' if defective == 1 else 'look'} defective</p>"
        f'<div class="ah-bar"><span style="width:{share:.1f}%"></span></div>{_right(visit)}'
        f"{_unknown(visit)}{notice_list(visit.notices)}</div>"
    )


def _right(visit: Visit) -> str:
    if (found := rightly_named(visit.seen, visit.kinds)) is None:
        return ""
    text = f"By the labels of these images: {found[1]} of {found[0]} defects of these kinds found, {found[2]} of them "
    text += "named rightly."
    return f'<p class="ah-soft">{text}</p>'


def _unknown(visit: Visit) -> str:
    if not any(one.label == UNKNOWN for one in visit.seen):
        return ""
    return (
        "<p>An unknown kind is unlike all examples: give examples of it on the Classify tab, or let the Discover tab "
        "look for new kinds.</p>"
    )


def bars(visit: Visit) -> str:
    """Images by kind, as bars in the kinds' colours."""
    found = counts(visit.seen)
    largest = max(found.values(), default=0) or 1
    rows = "".join(
        f'<tr><th scope="row"><i class="ah-dot" style="{_ground(kind, visit)}"></i>{escape(kind_text(kind))}</th><td>'
        f'<span style="width:{100 * count / largest:.1f}%;{_ground(kind, visit)}"></span></td><td>{count}</td></tr>'
        for kind, count in found.items()
    )
    return f'<h3>Images of each kind</h3><table class="ah-sizes ah-i-bars"><tbody>{rows}</tbody></table>'


def _ground(kind: str, visit: Visit) -> str:
    color = "var(--ah-normal)" if kind == GOOD else kind_color(kind, visit.kinds)
    return f"background:{color};border-color:{color}"


def choices(visit: Visit) -> list[tuple[str, str]]:
    """(text, value) of the filter by kind."""
    kinds = dict.fromkeys(counts(visit.seen))
    kinds |= dict.fromkeys(region.kind for one in visit.seen for region in one.regions)
    made = [(f"All {len(visit.seen)}", "")]
    return made + [(f"{kind_text(kind)} {len(shown(visit.seen, kind))}", kind) for kind in kinds]


def n_pages(visit: Visit, kind: str) -> int:
    """Pages of the gallery, at least 1."""
    return max(1, math.ceil(len(shown(visit.seen, kind)) / PAGE))


def gallery(visit: Visit, kind: str = "", page: int = 1) -> str:
    """A page of pictures with outlined regions, kind and probability; a click asks for the evidence."""
    indices = shown(visit.seen, kind)
    first = PAGE * (min(max(page, 1), n_pages(visit, kind)) - 1)
    cards = [_card(visit, index) for index in indices[first : first + PAGE]]
    if not cards:
        return f'<p class="ah-none">No image is {escape(kind_text(kind))}.</p>'
    return f'<div class="ah-gallery">{"".join(cards)}</div>'


def _card(visit: Visit, index: int) -> str:
    one = visit.seen[index]
    name, verdict = escape(one.ref.id), "defective" if one.is_anomalous else "normal"
    kind = kind_text(one.label) if one.is_anomalous else "normal"
    sure = "" if one.probability is None or one.label == UNKNOWN else f"{100 * one.probability:.0f} %"
    facts = [f"score {one.score:.3g}"]
    facts += [f"{len(one.regions)} regions"] if len(one.regions) > 1 else []
    facts += [f"label {escape(_truth(one))}"] if one.ref.label is not None else []
    edge = f' style="border-bottom-color:{kind_color(one.label, visit.kinds)}"' if one.is_anomalous else ""
    return (
        f'<button type="button" class="ah-card ah-i-card ah-is-{verdict}" data-index="{index}" title="{name}">'
        f'<img src="{_url(one.picture)}" alt="{escape(kind)}: {name}"{edge}>'
        f'<span class="ah-line1"><b>{escape(kind)}</b><span>{sure}</span></span>'
        f'<span class="ah-name"><bdi>{name}</bdi></span><span class="ah-line2">{" · ".join(facts)}</span></button>'
    )


def _truth(one: Seen) -> str:
    return "normal" if one.ref.label == GOOD else str(one.ref.label)


def _url(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def detail(visit: Visit, index: int) -> str:
    """One image large, and each region beside its nearest normal patch and example. Raises InvalidImageError."""
    one = visit.seen[index]
    image = one.ref.load().image
    kind, verdict = (
        kind_text(one.label) if one.is_anomalous else "normal",
        "defective" if one.is_anomalous else "normal",
    )
    facts = [("Score", f"{one.score:.4g}")]
    if one.p_value is not None:
        facts.append(("p-value", f"{escape(p_text(one.p_value))}: the share of normal parts that would score as high"))
    facts.append(("Image", f"{one.size[1]} x {one.size[0]} pixels"))
    if one.ref.label is not None:
        facts.append(("Label", escape(_truth(one))))
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts)
    return (
        f'<div class="ah-veil" data-index="{index}"><div class="ah-detail ah-i-detail" role="dialog" aria-modal="true" '
        f'aria-label="{escape(one.ref.id)}"><header><b class="ah-is-{verdict}">{escape(kind)}</b>'
        f"<h2>{escape(one.ref.id)}</h2>"
        '<button type="button" data-go="-1" aria-label="previous">‹</button>'
        '<button type="button" data-go="1" aria-label="next">›</button>'
        '<button type="button" data-close aria-label="close">✕</button></header>'
        f'<div class="ah-i-view"><figure class="ah-i-whole"><img src="{picture_url(_whole(visit, one, image), 90)}" '
        f'alt="{escape(one.ref.id)} with its regions"></figure>'
        f'<div class="ah-facts"><dl>{rows}</dl></div>{_evidence(visit, one)}</div></div></div>'
    )


def _whole(visit: Visit, one: Seen, image: np.ndarray) -> np.ndarray:
    """The image with its regions outlined and numbered."""
    picture = fit_within(image, LARGE)
    if (grown := _SMALL / max(picture.shape)) > 1:  # else lines and numbers would be coarse
        size = (round(grown * picture.shape[1]), round(grown * picture.shape[0]))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    numbers = cv2.imdecode(np.frombuffer(one.bits, np.uint8), cv2.IMREAD_GRAYSCALE)
    scale = picture.shape[1] / one.size[1]
    for number, region in enumerate(one.regions, 1):
        mask = cv2.resize((numbers == number).astype(np.float32), picture.shape[1::-1]) > 0.5
        picture = outline(picture, mask, rgb(kind_color(region.kind, visit.kinds)))
    for number, region in reversed(list(enumerate(one.regions[:_REGIONS], 1))):
        _tag(picture, str(number), region.box, scale)
    return picture


def _tag(picture: np.ndarray, text: str, box: Sequence[int], scale: float) -> None:
    """A number in a dark square above the box, or inside it where there is no room."""
    size = max(picture.shape) / 1500 + 0.2
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    pad = max(3, height // 2)
    x = min(max(round(scale * box[0]), 0), picture.shape[1] - width - 2 * pad)
    y = round(scale * box[1]) - height - 2 * pad - 2
    y = y if y >= 0 else min(round(scale * box[1]), picture.shape[0] - height - 2 * pad)
    cv2.rectangle(picture, (x, y), (x + width + 2 * pad, y + height + 2 * pad), (20, 20, 24), -1)
    cv2.putText(
        picture, text, (x + pad, y + pad + height), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA
    )


def _evidence(visit: Visit, one: Seen) -> str:
    if not one.regions:
        return '<p class="ah-soft ah-i-rows">No region stands out.</p>'
    rows = "".join(_row(visit, number, region) for number, region in enumerate(one.regions[:_REGIONS], 1))
    more = len(one.regions) - _REGIONS
    rest = f'<p class="ah-soft">and {more} smaller regions</p>' if more > 0 else ""
    return f'<div class="ah-i-rows">{rows}{rest}</div>'


def _row(visit: Visit, number: int, region: Found) -> str:
    color = kind_color(region.kind, visit.kinds)
    facts = f"{region.area:,} pixels at {region.box[0]}, {region.box[1]}; peak {region.peak:.3g}"
    return (
        f'<section class="ah-i-row" style="--kind:{color}"><header><span class="ah-i-number">{number}</span>'
        f"<b>{escape(kind_text(region.kind))}</b><span>{_sure(region)}</span></header>"
        f'{_figures(region)}<p class="ah-soft">{facts}</p></section>'
    )


def _sure(region: Found) -> str:
    if region.probability is None:
        return ""
    if region.kind == UNKNOWN:
        nearest = region.why.example_label if region.why and region.why.example_label else "a known kind"
        return f"unlike every example; nearest to {escape(nearest)}"
    return f"{100 * region.probability:.0f} % sure"


def _figures(region: Found) -> str:
    why = region.why
    if why is None:
        return ""
    made = [_figure(why.crop, "This region", "")]
    if why.normal is not None:
        made.append(_figure(why.normal, "Nearest normal patch", why.normal_id or ""))
    if why.example is not None:
        made.append(_figure(why.example, f"Nearest example: {why.example_label}", why.example_id or ""))
    return f'<div class="ah-i-why">{"".join(made)}</div>'


def _figure(data: bytes, title: str, name: str) -> str:
    return (
        f'<figure><img src="{_url(data)}" alt="{escape(title)}"><figcaption>{escape(title)}'
        f'<span class="ah-name" title="{escape(name)}"><bdi>{escape(name)}</bdi></span></figcaption></figure>'
    )
