"""What the Detect tab shows, as HTML. Every name that comes from outside is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from anomalyhub.jobs.store import ACTIVE, Job
from anomalyhub.report.overlay import fit_within, overlay, scale_legend
from anomalyhub.report.results import united_mask
from anomalyhub.types import GOOD
from anomalyhub.ui import detect
from anomalyhub.ui.session import Checked, Session, plain_words

PAGE = 60  #: pictures on one page of the gallery
SHOWN = ("all", "defective", "normal")
_LARGE = 760  # longer side in pixels of the pictures in the detail view
_BINS = 44
_MAX_NOTICES = 4


def picture_url(image: np.ndarray, quality: int = 85) -> str:
    """An (H, W, 3) uint8 RGB image as a data URL, so that no file has to be kept for the page."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def notice_list(notices: Sequence[str]) -> str:
    """Sentences about what was left out; empty when there are none."""
    if not notices:
        return ""
    items = [f"<li>{escape(text[:600])}</li>" for text in notices[:_MAX_NOTICES]]
    if len(notices) > _MAX_NOTICES:
        items.append(f"<li>and {len(notices) - _MAX_NOTICES} more</li>")
    return f'<ul class="ah-notices" role="status">{"".join(items)}</ul>'


def said(text: str, notices: Sequence[str] = ()) -> str:
    """What was done, for screen readers and API clients: the page shows it in the step's head. Notices show."""
    return f'<p class="ah-heard" role="status">{escape(text)}</p>{notice_list(notices)}'


def problem(text: str) -> str:
    """A sentence that stays until it is dealt with."""
    return f'<p class="ah-problem" role="alert">{escape(text)}</p>'


#: How a job stands, by its status.
JOB_WORDS = {
    "queued": "Waiting for its turn",
    "running": "Working in the background",
    "failed": "It failed",
    "cancelled": "Stopped",
    "interrupted": "It was interrupted",
}


def job_slot(job: Job | None, status: str, trouble: str, advice: str, progress: tuple[float, str] | None = None) -> str:
    """Progress of a job, or why it has no result, or after a stop what to do.

    progress  fraction in [0, 1] and text; None: the job's own
    """
    if status in ACTIVE and job.stopping:
        return '<p role="status">Stopping: a few seconds.</p>'
    if status in ACTIVE:
        return progress_bar(*(progress or (job.progress.fraction, plain_words(job.progress.text))))
    if trouble:
        return problem(trouble)
    return f'<p role="status">Stopped. {escape(advice)}</p>' * (status == "cancelled")


def progress_bar(fraction: float, text: str) -> str:
    """How far a job is; fraction in [0, 1]."""
    percent = round(100 * fraction)
    return (
        f'<div class="ah-progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
        f'aria-label="{escape(text)}"><p>{escape(text)}<span>{percent} %</span></p>'
        f'<div class="ah-bar"><span style="width:{percent}%"></span></div>'
        "<p>It goes on if you close this page, and you find it here when you return.</p></div>"
    )


def summary(session: Session) -> str:
    """The verdict, large, with the share of defective images as a bar and what the threshold means."""
    defective, total = detect.counts(session)
    share = 100 * defective / max(total, 1)
    return (
        f'<div class="ah-summary" role="status"><p class="ah-verdict"><b>{defective}</b> of {total} '
        f"{'looks' if defective == 1 else 'look'} defective</p>"
        f'<div class="ah-bar"><span style="width:{share:.1f}%"></span></div>'
        f"<p>{escape(_meaning(session))}</p>{_found_of_labelled(session)}{notice_list(session.notices)}</div>"
    )


def _meaning(session: Session) -> str:
    calibration = session.inspector.calibration
    if calibration is None:
        return (
            "No normal part has set this threshold, so how many of them it calls defective is not known: move it until "
            "the pictures look right."
        )
    rate, held_out = calibration.p_value(session.threshold), len(calibration.scores)
    text = f"At this threshold about {_percent(rate)} of normal parts would be called defective"
    if calibration.source == "unlabelled":
        return f"{text}, if most of the photos that were compared are normal."
    if rate < 0.9 / (held_out + 1):
        text += f" (an extrapolation: {held_out} held-out images measure rates down to {_percent(1 / (held_out + 1))})"
    return text + "."


def _percent(rate: float) -> str:
    if rate < 1e-4:
        return "less than 0.01 %"
    return f"{100 * rate:.2g} %" if rate < 0.995 else "all"


def _found_of_labelled(session: Session) -> str:
    known = [one for one in session.checked if one.ref.label is not None]
    if not known:
        return ""
    wrong = [detect.is_defective(session, one) for one in known if one.ref.label == GOOD]
    right = [detect.is_defective(session, one) for one in known if one.ref.label != GOOD]
    parts = [f"{sum(right)} of {len(right)} defects found"] * bool(right)
    parts += [f"{sum(wrong)} of {len(wrong)} normal parts called defective"] * bool(wrong)
    return f'<p class="ah-soft">By the labels of these images: {", ".join(parts)}.</p>'


def slider_range(session: Session) -> tuple[float, float, float]:
    """(lowest, highest, step) of the threshold slider: all scores, the default threshold, and a margin."""
    scores = [one.map.image_score for one in session.checked]
    scores += [session.inspector.threshold, session.threshold, *_reference(session).tolist()]
    low, high = min(scores), max(scores)
    pad = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10((high - low + 2 * pad) / 200))
    return max(0.0, math.floor((low - pad) / step) * step), math.ceil((high + pad) / step) * step, step


def _reference(session: Session) -> np.ndarray:
    """(n,) scores that normal images have; none where no image has set the threshold."""
    calibration = session.inspector.calibration
    return calibration.scores if calibration is not None else np.zeros(0, np.float32)


def histogram(session: Session) -> str:
    """Scores of held-out normal images over those of the checked ones, on the slider's axis, as an SVG."""
    low, high, _ = slider_range(session)
    edges = np.linspace(low, high, _BINS + 1)
    calibration, held_out = session.inspector.calibration, _reference(session)
    scores = np.array([one.map.image_score for one in session.checked])
    estimated = calibration is not None and calibration.source == "unlabelled"
    name = "normal ones, as estimated" if estimated else f"{len(held_out)} held-out normal"
    groups = [(name, held_out, "ah-normal")] if len(held_out) else []
    groups += [(f"{len(scores)} checked", scores, "ah-checked")]
    height, width = 104.0 / len(groups), 1000.0
    rows, legend = [], []
    for number, (name, values, kind) in enumerate(groups):
        bars, _ = np.histogram(values, edges)
        base = height * (number + 1)
        for i in np.flatnonzero(bars):
            tall = max(2.0, (height - 8) * bars[i] / bars.max())
            x, wide = width * i / _BINS, width / _BINS - 2
            over = (
                " ah-over" if kind == "ah-checked" and edges[i] + (edges[1] - edges[0]) / 2 > session.threshold else ""
            )
            rows.append(
                f'<rect x="{x:.1f}" y="{base - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}" class="{kind}{over}"/>'
            )
        rows.append(f'<path d="M0 {base:g}H{width:g}" class="ah-axis"/>')
        legend.append(f'<span><i class="{kind}"></i>{name}</span>')
    for value, kind in ((session.inspector.threshold, "ah-default"), (session.threshold, "ah-line")):
        x = width * (value - low) / (high - low)
        rows.append(f'<path d="M{x:.1f} 0V104" class="{kind}"/>')
    legend.append(f'<span><i class="ah-line"></i>threshold {session.threshold:.4g}</span>')
    legend.append('<span><i class="ah-default"></i>default</span>')
    return (
        f'<figure class="ah-histogram"><svg viewBox="0 0 {width:g} 104" preserveAspectRatio="none" '
        f'role="img" aria-label="how the scores spread">{"".join(rows)}</svg>'
        f"<figcaption>{''.join(legend)}</figcaption></figure>"
    )


def legend(session: Session) -> str:
    """The colour scale, for a light and for a dark page."""
    level = session.inspector.map_threshold(session.threshold)
    pictures = "".join(
        f'<img class="ah-on-{mode}" alt="colour scale: blue is normal, yellow to red is anomalous" '
        f'src="{_png_url(scale_legend(level, 960, dark=mode == "dark"))}">'
        for mode in ("light", "dark")
    )
    return f'<div class="ah-legend">{pictures}<p>Colour of a spot by its own score, fixed at the threshold</p></div>'


def _png_url(image: np.ndarray) -> str:
    _, data = cv2.imencode(".png", image[..., ::-1])
    return "data:image/png;base64," + base64.b64encode(data).decode()


def gallery(session: Session, shown: str = "all", page: int = 1) -> str:
    """A page of pictures with heat map, outline, verdict, score and p-value; a click asks for the detail view.

    shown  one of SHOWN; page counts from 1
    """
    indices = shown_indices(session, shown)
    first = PAGE * (min(max(page, 1), n_pages(session, shown)) - 1)
    cards = [_card(session, index) for index in indices[first : first + PAGE]]
    if not cards:
        return f'<p class="ah-none">No image looks {escape(shown)} at this threshold.</p>'
    return f'<div class="ah-gallery">{"".join(cards)}</div>'


def shown_indices(session: Session, shown: str) -> list[int]:
    """Positions in `session.checked` of the images to show."""
    wanted = {"defective": (True,), "normal": (False,)}.get(shown, (True, False))
    return [i for i, one in enumerate(session.checked) if detect.is_defective(session, one) in wanted]


def n_pages(session: Session, shown: str) -> int:
    """Pages of the gallery, at least 1."""
    return max(1, math.ceil(len(shown_indices(session, shown)) / PAGE))


def _overlay(session: Session, one: Checked) -> np.ndarray:
    result = detect.judge(session, one)
    level = session.inspector.map_threshold(session.threshold)
    return overlay(one.picture, result.map, level, mask=united_mask(result))


def _card(session: Session, index: int) -> str:
    one = session.checked[index]
    kind = "defective" if detect.is_defective(session, one) else "normal"
    name = escape(one.ref.id)
    facts = [f"p {escape(detect.p_text(one.p_value))}"] if one.p_value is not None else []
    facts += [f"label {escape(_label(one))}"] if one.ref.label is not None else []
    return (
        f'<button type="button" class="ah-card ah-is-{kind}" data-index="{index}" title="{name}">'
        f'<img src="{picture_url(_overlay(session, one))}" alt="heat map over {name}">'
        f'<span class="ah-line1"><b>{kind}</b><span>{one.map.image_score:.3f}</span></span>'
        f'<span class="ah-name"><bdi>{name}</bdi></span>'
        f'<span class="ah-line2">{" · ".join(facts)}</span></button>'
    )


def _label(one: Checked) -> str:
    return "normal" if one.ref.label == GOOD else str(one.ref.label)


def detail(session: Session, index: int) -> str:
    """One image large beside its overlay, with score, p-value and regions. Raises InvalidImageError."""
    one = session.checked[index]
    image = one.ref.load().image
    result = detect.judge(session, one, full=True)
    level = session.inspector.map_threshold(session.threshold)
    heat = overlay(image, result.map, level, mask=united_mask(result), longest=_LARGE)
    kind = "defective" if result.is_anomalous else "normal"
    height, width = one.size
    facts = [("Score", f"{result.score:.4f} (threshold {session.threshold:.4g})")]
    if one.p_value is not None:
        share = "the share of normal parts that would score as high"
        facts.append(("p-value", f"{escape(detect.p_text(one.p_value))}: {share}"))
    facts.append(("Image", f"{width} x {height} pixels"))
    if one.ref.label is not None:
        facts.append(("Label", escape(_label(one))))
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts)
    return (
        f'<div class="ah-veil" data-index="{index}"><div class="ah-detail" role="dialog" aria-modal="true" '
        f'aria-label="{escape(one.ref.id)}"><header><b class="ah-is-{kind}">{kind}</b><h2>{escape(one.ref.id)}</h2>'
        '<button type="button" data-go="-1" aria-label="previous">‹</button>'
        '<button type="button" data-go="1" aria-label="next">›</button>'
        '<button type="button" data-close aria-label="close">✕</button></header>'
        f'<div class="ah-pair"><figure><img src="{picture_url(fit_within(image, _LARGE), 90)}" alt="original">'
        f'<figcaption>Original</figcaption></figure><figure><img src="{picture_url(heat, 90)}" alt="overlay">'
        f"<figcaption>What stands out</figcaption></figure></div>"
        f'<div class="ah-facts"><dl>{rows}</dl>{_regions(result)}</div></div></div>'
    )


def _regions(result) -> str:
    if not result.regions:
        return '<p class="ah-soft">No region stands out.</p>'
    rows = [
        f"<tr><td>{number}</td><td>{x0}, {y0}</td><td>{x1 - x0} x {y1 - y0}</td><td>{region.area_px:,}</td>"
        f"<td>{region.peak:.3f}</td></tr>"
        for number, region in enumerate(result.regions[:8], 1)
        for x0, y0, x1, y1 in [region.box]
    ]
    more = f"<caption>and {len(result.regions) - 8} smaller ones</caption>" if len(result.regions) > 8 else ""
    head = "<tr><th>Region</th><th>Left, top</th><th>Width x height</th><th>Pixels</th><th>Peak</th></tr>"
    return f"<table>{more}<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
