"""report.html: what an inspection found, for people; one file that can be read, printed and passed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyhub.report.coco import UNNAMED
from anomalyhub.report.gallery import Entry, Shown, ShownRegion
from anomalyhub.report.html import (
    Bar,
    Lane,
    bullets,
    definitions,
    details,
    histogram,
    page,
    pareto,
    percent,
    picture,
    section,
    table,
    text,
)
from anomalyhub.report.kinds import kind_color
from anomalyhub.types import GOOD, UNKNOWN

if TYPE_CHECKING:
    from anomalyhub.report.inspection import InspectionBook

_BARS, _MAPS, _ROWS, _SKIPPED = 12, 11, 24, 40


def inspection_page(book: InspectionBook, summary: Mapping[str, Any]) -> str:
    """The page of a finished book; `summary` is what summary.json holds."""
    subject = summary["model"]["product"] or summary["data"] or "images"
    parts = [
        f'<header><h1>Inspection of {text(subject)}</h1><p class="soft">{text(_when(summary))}</p></header>',
        _headline(book, summary),
        _kinds(book),
        _scores(book),
        _positions(book),
        _gallery(book),
        _closest(book),
        _model(book, summary),
        _skipped(summary["skipped"]),
        section("How to read this", bullets(_limits(book))),
    ]
    return page(f"Inspection of {subject}", "".join(parts))


def _when(summary: Mapping[str, Any]) -> str:
    parts = [_date(summary)]
    parts += [f"images of {summary['data']}"] if summary["data"] else []
    return ", ".join([*parts, f"model {summary['model']['name']}"])


def _date(summary: Mapping[str, Any]) -> str:
    return f"{summary['date'][:16].replace('T', ' ')} UTC{summary['date'][16:].replace('+00:00', '')}"


def _headline(book: InspectionBook, summary: Mapping[str, Any]) -> str:
    share = summary["share_defective"]
    facts = [("inspected", f"{book.n_images:,}", ""), ("defective", f"{book.n_defective:,}", "bad")]
    facts.append(("share", "n/a" if share is None else percent(share), ""))
    if summary["skipped"]:
        facts.append(("skipped", f"{len(summary['skipped']):,}", ""))
    items = "".join(f'<div class="{kind}"><dt>{name}</dt><dd>{value}</dd></div>' for name, value, kind in facts)
    bar = f'<div class="share" aria-hidden="true"><span style="width:{100 * (share or 0):.1f}%"></span></div>'
    return (
        f'\n<section aria-label="Result"><dl class="headline">{items}</dl>{bar}'
        f"<p>Threshold {book.identity.threshold:.4g}. {text(book.identity.threshold_words(), 600)}</p>"
        f'<p class="soft">{text(_expected_alarms(book), 400)}</p></section>'
    )


def _expected_alarms(book: InspectionBook) -> str:
    rate, good = book.identity.false_alarm_rate, book.n_images - book.n_defective
    if rate is None:
        return "How many of the defective ones are false alarms cannot be said from the images alone."
    return (
        f"At that rate, about {_count(rate * book.n_images)} of {book.n_images:,} images would be called defective if "
        f"all were normal; {good:,} passed."
    )


def _count(expected: float) -> str:
    return f"{expected:.1f}" if expected < 10 else f"{expected:,.0f}"


def _swatch(kind: str, book: InspectionBook) -> str:
    return f'<span class="swatch" style="background:{kind_color(kind, book.identity.kinds)}"></span>'


def _title(kind: str) -> str:
    return {UNNAMED: "defective, kind not named", UNKNOWN: "unknown: unlike all known kinds"}.get(kind, kind)


def _kinds(book: InspectionBook) -> str:
    found = book.by_frequency()
    if not found:
        return section("Kinds of defect", '<p class="soft">No image looks defective at this threshold.</p>')
    rows = [
        [
            _swatch(kind, book) + text(_title(kind)),
            f"{book.images[kind]:,}",
            percent(book.images[kind] / max(book.n_defective, 1)),
            f"{book.regions[kind]:,}",
        ]
        for kind in found
    ]
    head = ["Kind", "Images", "Of the defective", "Regions"]
    counts = table(head, rows[:_ROWS])
    if rows[_ROWS:]:
        counts += details(f"and {len(rows) - _ROWS} more kinds", table(head, rows[_ROWS:]))
    absent = [kind for kind in book.identity.kinds if kind not in found]
    if absent:
        names = ", ".join(absent[:_ROWS]) + (f" and {len(absent) - _ROWS} more" if len(absent) > _ROWS else "")
        counts += f'<p class="soft small">Known to the model and not found: {text(names, 1200)}.</p>'
    return section("Kinds of defect", f'<div class="columns"><div>{counts}</div><div>{_pareto(book)}</div></div>')


def _pareto(book: InspectionBook) -> str:
    ordered = sorted((kind for kind in book.images), key=lambda kind: -book.images[kind])
    bars = [Bar(_title(kind), book.images[kind], kind_color(kind, book.identity.kinds)) for kind in ordered[:_BARS]]
    rest = ordered[_BARS:]
    if rest:
        bars.append(Bar(f"{len(rest)} other kinds", sum(book.images[kind] for kind in rest), "var(--reference)"))
    return pareto(bars, book.n_defective, "defective images")


def _scores(book: InspectionBook) -> str:
    if not book.rows:
        return section("Scores", '<p class="soft">No image was inspected.</p>')
    scores = np.array([row.score for row in book.rows], np.float64)
    held_out = book.identity.held_out
    name = "normal ones, as estimated" if book.identity.estimated else "held-out normal images"
    lanes = [
        Lane(f"{name} ({len(held_out):,})", held_out, "fill-reference", "fill-reference"),
        Lane(f"inspected images ({len(scores):,})", scores, "fill-normal", "fill-defect"),
    ]
    shown = [lane for lane in lanes if len(lane.values)]
    spread = {"lowest": 0, "lower quarter": 0.25, "median": 0.5, "upper quarter": 0.75, "highest": 1}
    rows = [[name, *(f"{np.quantile(lane.values, share):.4g}" for lane in shown)] for name, share in spread.items()]
    above = [int(np.sum(lane.values > book.identity.threshold)) for lane in shown]
    rows.append(["above the threshold", *(f"{count:,}" for count in above)])
    legend = (
        '<p class="legend"><span><span class="swatch fill-normal"></span>passed</span>'
        '<span><span class="swatch fill-defect"></span>defective</span>'
        '<span><span class="swatch line"></span>threshold</span></p>'
    )
    figures = table(["Score", *(lane.name for lane in shown)], rows)
    chart = histogram(lanes, book.identity.threshold) + legend
    return section("Scores", f'<div class="columns"><div>{chart}</div><div>{figures}</div></div>')


def _positions(book: InspectionBook) -> str:
    kinds = [kind for kind in book.by_frequency() if book.regions[kind]]
    everything = book.positions.of()
    if everything is None:
        return ""
    named = [("all kinds", everything)] if len(kinds) != 1 else []
    named += [(_title(kind), book.positions.of(kind)) for kind in kinds[:_MAPS]]
    figures, rows = [], []
    for name, one in named:
        x, y, top = one.peak
        where = f"{percent(x)} from the left, {percent(y)} from the top"
        alt = f"Heat map of where {name} lies on the part, most often {where}"
        figures.append(
            f"<figure>{picture(one.picture, alt)}<figcaption><b>{text(name)}</b><br>"
            f"{one.images:,} image{'s' if one.images != 1 else ''}; red: {percent(top)} of them</figcaption></figure>"
        )
        rows.append([text(name), f"{one.images:,}", text(where), percent(top), percent(one.covered)])
    head = ["Kind", "Images", "Most often", "Of its images there", "Of the image covered"]
    said = (
        "Regions averaged over the images that have them, drawn over the mean picture, in shares of width and height."
    )
    if book.positions.sizes_differ:
        said += " The images differ in size and are stretched over one another."
    if len(kinds) > _MAPS:
        said += f" The {_MAPS} most frequent of {len(kinds)} kinds."
    return section(
        "Where defects lie",
        f'<p class="soft small">{said}</p><div class="positions">{"".join(figures)}</div>'
        + details("In figures", table(head, rows)),
    )


def _gallery(book: InspectionBook) -> str:
    shown = book.gallery.kinds()
    kinds = [kind for kind in book.by_frequency() if kind in shown]
    if not kinds:
        return ""
    parts = []
    for kind in kinds:
        entries = book.gallery.worst(kind)
        of = f"the {len(entries)} with the highest scores of {book.images[kind]:,}"
        count = of if len(entries) < book.images[kind] else f"{len(entries)}, highest scores first"
        parts.append(
            f'<h3 class="kind">{_swatch(kind, book)}{text(_title(kind))} <span class="soft">({count})</span></h3>'
            f'<div class="gallery">{"".join(_card(entry, book) for entry in entries)}</div>'
        )
    more = len([kind for kind in book.images if kind not in shown])
    if more:
        parts.append(f'<p class="soft">{more} more kinds are in inspections.csv.</p>')
    return section("Defective images", "".join(parts))


def _closest(book: InspectionBook) -> str:
    entries = book.gallery.closest()
    if not entries:
        return ""
    cards = "".join(_card(entry, book) for entry in entries)
    return section("Closest calls among those that passed", f'<div class="gallery">{cards}</div>')


def _card(entry: Entry, book: InspectionBook) -> str:
    facts = [f"score {entry.score:.4g}"]
    if entry.p_value is not None:
        facts.append(f"p {entry.p_value:.2g}" if entry.p_value >= 0.001 else "p below 0.001")
    facts += [f"probability {entry.probability:.2f}"] if entry.probability is not None else []
    found = "passed" if entry.label == GOOD else _title(entry.label)
    items = []
    for number, region in enumerate(entry.regions):
        evidence = entry.evidence[number] if number < len(entry.evidence) else None
        items.append(f"<li>{_region(number + 1, region, book)}{_evidence(evidence, entry.id)}</li>")
    if entry.n_regions > len(entry.regions):
        items.append(f'<li class="soft">and {entry.n_regions - len(entry.regions)} smaller regions</li>')
    return (
        f'<article class="card">{picture(entry.picture, f"{entry.id}, {found}, regions outlined")}'
        f'<div class="text"><div class="name"><bdi>{text(entry.id, 90)}</bdi></div>'
        f'<div class="facts">{" · ".join(facts)}</div><ol class="regions">{"".join(items)}</ol></div></article>'
    )


def _path(name: str | None) -> str:
    """A path that breaks after its slashes."""
    return text(name, 48).replace("/", "/<wbr>")


def _region(number: int, region: ShownRegion, book: InspectionBook) -> str:
    chance = "" if region.probability is None else f", probability {region.probability:.2f}"
    return (
        f"{_swatch(region.kind, book)}<b>{number}</b> {text(region.kind)}"
        f'<span class="soft">{chance}, {percent(region.share)} of the image</span>'
    )


def _evidence(shown: Shown | None, own: str) -> str:
    if shown is None or (shown.normal is None and shown.example is None):
        return ""
    figures = [(shown.crop, "this region", "this region")]
    if shown.normal is not None:
        said = f"most similar normal patch, of {_path(shown.normal_id)}"
        figures.append((shown.normal, "the most similar normal patch", said))
    if shown.example is not None:
        itself = " (itself)" if shown.example_id == own else ""
        said = f"most similar example: <b>{text(shown.example_label, 40)}</b>, {_path(shown.example_id)}{itself}"
        figures.append((shown.example, f"the most similar example, {shown.example_label}", said))
    return '<div class="evidence">' + "".join(
        f"<figure>{picture(url, alt)}<figcaption>{said}</figcaption></figure>" for url, alt, said in figures
    ) + "</div>"  # fmt: skip


def _model(book: InspectionBook, summary: Mapping[str, Any]) -> str:
    one = book.identity
    rows = [("Name", one.name), ("Product", one.product or "not said"), ("Detector", one.detector)]
    rows += [("Backbone", one.backbone)] if one.backbone else []
    rows += [("Weights", one.fingerprint)] if one.fingerprint else []
    rows += [("Threshold", f"{one.threshold:.6g} ({one.method})")]
    if one.namer:
        rows.append(("Named by", f"{one.namer}, {'kinds of a discovery' if one.discovered else 'from examples'}"))
        kinds = [f"{kind} ({one.examples[kind]} examples)" if kind in one.examples else kind for kind in one.kinds]
        rows.append(("Kinds", ", ".join(kinds[:_ROWS]) + (f" and {len(kinds) - _ROWS} more" if kinds[_ROWS:] else "")))
    rows.append(("Versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())))
    rows.append(("Date", _date(summary)))
    if summary["seconds_per_image"] is not None:
        rows.append(("Time", f"{1e3 * summary['seconds_per_image']:.0f} ms per image, decoding included"))
    return section("Model", definitions(rows))


def _skipped(skipped: list[str]) -> str:
    if not skipped:
        return ""
    more = [f"and {len(skipped) - _SKIPPED} more"] if len(skipped) > _SKIPPED else []
    return section("Left out", bullets([*skipped[:_SKIPPED], *more]))


def _limits(book: InspectionBook) -> list[str]:
    one = book.identity
    lines = [
        "A score says how unlike the normal images an image is. It does not say how harmful a defect is.",
        "No label of these images was read: which verdicts are right is not known here.",
    ]
    if len(one.held_out):
        lines.append(
            "p is the share of normal images that would score at least as high, if today's normal images are like "
            f"the {len(one.held_out)} by which it was measured."
        )
    lines.append("Outlines follow the anomaly map, which is coarser than the picture: areas are approximate.")
    if one.namer is None:
        lines.append("This model finds defects and does not name them: classify fit or discover gives it kinds.")
        return lines
    if one.discovered:
        lines.append("Kinds were discovered without labels: their names are numbers, or what a person called them.")
    else:
        fewest = min(one.examples.values(), default=0)
        lines.append(
            f"Kinds were learned from few examples, {fewest} of the rarest: a kind that varies more than its examples "
            "show will be missed."
        )
    if one.checked:
        lines.append(
            f"{percent(one.checked['accuracy'])} of the {one.checked['n']} examples were named rightly by a model of "
            "the others (leave-one-out). New images may differ from the examples."
        )
    lines.append(
        "Probabilities compare the kinds that the model knows with each other. They are estimates from those few "
        "images, not measured rates: of regions with a probability of 0.9, more or fewer than 90 % may be right."
    )
    lines.append(
        f'"{UNKNOWN}" is a region unlike all that the model was shown; the probability beside it is that of the '
        "nearest kind."
    )
    return lines
