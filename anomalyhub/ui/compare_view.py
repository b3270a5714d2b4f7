"""What the Compare tab shows, as HTML: the best chain, what to improve first, and where errors come from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from html import escape
from typing import Any

from anomalyhub.benchmark.swap import STAGES
from anomalyhub.jobs.store import ACTIVE
from anomalyhub.ui import board_view, compare, views
from anomalyhub.ui.compare import Form, Outcome, Standing, Visit
from anomalyhub.ui.compare_data import chosen_text

TITLES = ("Choose labelled images", "Choose what to try", "Compare")
PARTS = ("detector", "binarizer", "classifier")
_WORDS = {
    "right": "right",
    "verdict": "lost to the verdict",
    "binarization": "lost to the binarization",
    "map": "lost to the map",
    "classifier": "lost to the classifier",
    "rest": "lost, not told to what",
}
_MEANT = {
    "verdict": "good parts called defective, and defective ones called good",
    "binarization": "named wrongly, and rightly where each map is cut at its best threshold",
    "map": "named wrongly even so, and rightly with the true outlines",
    "classifier": "named wrongly even with the true outlines",
}
_ADVICE = {
    "verdict": "Show the detector more normal images, or move its threshold: more false alarms, fewer misses.",
    "binarization": "Cut at the best threshold of each map they would be right: try the other binarizers.",
    "map": "With the true outlines they would be right: try another detector or backbone.",
    "classifier": "They are wrong even with the true outlines: give more examples of each kind, or another classifier.",
    "rest": "Give more examples of each kind first; with masks of the defects it could be told what else is to blame.",
}
_TOLD = {
    "verdict": "to the verdict, good or defective",
    "binarization": "to the binarization",
    "map": "to the detector’s map",
    "classifier": "to the classifier",
    "rest": "after the verdict",
}
_MOST = 60  # chains of a table


def heads(visit: Visit, at: Standing, form: Form) -> list[str]:
    """Head of each of the three steps."""
    images = chosen_text(visit.chosen) if visit.chosen else "Good ones, and defects sorted by kind"
    if visit.chosen is None and at.job is not None:
        images = f"{compare.name_of(at.job)}, as chosen before"
    job = {**views.JOB_WORDS, "": "In the background, as long as it takes", "done": "Compared"}[at.status]
    if at.outcome is not None:
        job = f"{len(at.outcome.summary)} chains: {_percent(at.outcome.summary[0]['accuracy'][0])} right at best"
    texts = (images, compare.plan_text(visit.chosen, form), job)
    ready = visit.chosen is not None or at.job is not None
    return board_view.step_heads((ready, ready, at.outcome is not None), texts, TITLES)


def job_slot(at: Standing) -> str:
    """How far the job is, or why it has no result."""
    now = compare.progress(at.job) if at.status in ACTIVE else None
    return views.job_slot(at.job, at.status, at.problem, "Go on, or change something and compare anew.", now)


def stage(visit: Visit, at: Standing) -> str:
    """The right side while there is no result."""
    pictures = board_view.sample_pictures(visit.chosen.refs) if visit.chosen else ""
    if at.status in ACTIVE:
        text = "You may close this page: it goes on, and the result is here when you return."
        return board_view.empty("Comparing", text, pictures or _PICTOGRAM)
    if at.problem:
        return board_view.empty("That did not work", "Step 3 says why, and lets you try again.", pictures or _PICTOGRAM)
    if visit.chosen is None:
        text = (
            "Choose images whose kinds of defect you know. Every detector is put together with every way to outline "
            "defects and every classifier, and it is told what the errors come from."
        )
        return board_view.empty("What works best on your parts?", text, _PICTOGRAM)
    return board_view.empty(
        "Now press Compare", "Some images of each kind are the examples, all others are the test.", pictures
    )


_PICTOGRAM = (
    '<svg class="ah-pictogram" viewBox="0 0 232 84" role="img" aria-label="parts put together, and their order">'
    + "".join(
        f'<rect x="{4 + 44 * column}" y="{4 + 28 * row}" width="30" height="20" rx="6" class="ah-tile"/>'
        f'<circle cx="{19 + 44 * column}" cy="{14 + 28 * row}" r="5" class="ah-k{(row + column) % 3}"/>'
        for column in range(3)
        for row in range(3)
    )
    + '<path d="M136 42h24m-9-8 9 8-9 8" class="ah-arrow"/>'
    + "".join(
        f'<rect x="170" y="{10 + 24 * row}" width="{width}" height="14" rx="4" class="ah-k{row}"/>'
        for row, width in enumerate((58, 42, 30))
    )
    + "</svg>"
)


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.0f} %"


def chain(row: Mapping[str, Any]) -> str:
    """A chain for people."""
    return " + ".join(compare.title(row[part]) for part in PARTS)


def shares(row: Mapping[str, Any]) -> dict[str, float]:
    """What is right, and what each stage loses, of all test images; "rest" is lost to stages that masks would tell."""
    right, lost = row["accuracy"][0], {stage: value for stage, value in row["lost"].items() if value is not None}
    found = {"right": right, **lost}
    if len(lost) < len(STAGES):
        found["rest"] = 1.0 - right - sum(lost.values())
    return found


def worst(row: Mapping[str, Any]) -> tuple[str, float]:
    """The stage that loses most, "rest" among them, and what it loses."""
    lost = {name: share for name, share in shares(row).items() if name != "right"}
    name = max(lost, key=lambda name: lost[name])
    return name, lost[name]


# The result.


def summary(outcome: Outcome, stale: bool = False) -> str:
    """The best chain, large, and what to improve first. stale: something else has been chosen since."""
    best = outcome.summary[0]
    name, lost = worst(best)
    first = f"<b>Most is lost {_TOLD[name]}</b>: {_percent(lost)} of the images. {_ADVICE[name]}"
    if lost < 0.5 / max(outcome.n_test, 1):
        first = "<b>Nothing is lost</b> on these images: new ones will tell."
    old = '<p class="ah-problem">Something else is chosen since: press Compare again.</p>' if stale else ""
    return (
        f'<div class="ah-summary ah-p-summary" role="status"><p class="ah-verdict">{escape(chain(best))} is right on '
        f"<b>{_percent(best['accuracy'][0])}</b></p>{_bar(best)}<p>{escape(_of(outcome))}</p>"
        f'<p class="ah-p-first">{first}</p>{_matters(outcome)}{old}{views.notice_list(outcome.notices)}</div>'
    )


def _of(outcome: Outcome) -> str:
    best = outcome.summary[0]
    mean, spread = best["accuracy"]
    rounds = "in one round" if spread is None else f"± {100 * spread:.0f} in {best['seeds']} rounds"
    close = mean - max(spread or 0.0, 1.0 / max(outcome.n_test, 1))
    near = sum(row["accuracy"][0] >= close for row in outcome.summary[1:])
    text = (
        f"{100 * mean:.0f} % {rounds}, of {outcome.n_test} test images, with {outcome.shots} examples of each kind. An "
        "image counts as right when a good one is called good and a defective one by its kind."
    )
    if near:
        text += f" {near} other chain{'s are' if near > 1 else ' is'} as good within the spread."
    return text


def effects(outcome: Outcome) -> dict[str, dict[str, float]]:
    """Of each part with a choice: its mean accuracy over all chains that have it, the best first."""
    made = {}
    for part in PARTS:
        names = dict.fromkeys(row[part] for row in outcome.summary)
        means = {
            name: statistics.fmean(row["accuracy"][0] for row in outcome.summary if row[part] == name) for name in names
        }
        if len(means) > 1:
            made[part] = dict(sorted(means.items(), key=lambda one: -one[1]))
    return made


def _matters(outcome: Outcome) -> str:
    """Which choice matters most."""
    found = effects(outcome)
    if not found:
        return ""
    part = max(found, key=lambda part: max(found[part].values()) - min(found[part].values()))
    names = list(found[part])
    gap = 100 * (found[part][names[0]] - found[part][names[-1]])
    if gap < 0.5:
        return "<p>No choice of a part matters here.</p>"
    return (
        f"<p>The choice of the {part} matters most: {escape(compare.title(names[0]))} is {gap:.0f} points above "
        f"{escape(compare.title(names[-1]))} on average.</p>"
    )


def _bar(row: Mapping[str, Any]) -> str:
    found = {name: max(share, 0.0) for name, share in shares(row).items()}
    total = max(sum(found.values()), 1e-9)
    pieces = "".join(
        f'<span class="ah-p-{name}" style="width:{100 * share / total:.2f}%" '
        f'title="{100 * share:.1f} % {_WORDS[name]}"></span>'
        for name, share in found.items()
        if share > 0
    )
    alt = ", ".join(f"{100 * share:.0f} % {_WORDS[name]}" for name, share in found.items() if share > 0)
    return f'<div class="ah-p-bar" role="img" aria-label="{alt}">{pieces}</div>'


def chains(outcome: Outcome) -> str:
    """All chains with what they lose as bars, the best first."""
    names = [name for name in _WORDS if any(shares(row).get(name, 0.0) > 0 for row in outcome.summary)]
    legend = "".join(
        f'<span title="{_MEANT.get(name, "")}"><i class="ah-p-{name}"></i>{_WORDS[name]}</span>' for name in names
    )
    rows = "".join(
        f'<tr><td class="ah-l-rank">{number}</td><th scope="row">{_parts(row)}</th><td>{_bar(row)}</td>'
        f'<td class="ah-l-number">{_figure(row["accuracy"])}</td></tr>'
        for number, row in enumerate(outcome.summary[:_MOST], 1)
    )
    more = len(outcome.summary) - _MOST
    rest = f'<p class="ah-soft">and {more} more: the table (CSV) has all</p>' if more > 0 else ""
    return (
        f'<p class="ah-p-legend">{legend}</p><table class="ah-p-chains"><tbody>{rows}</tbody></table>{rest}'
        f'<details class="ah-l-notes"><summary>What these mean</summary><dl>{_meanings()}</dl></details>'
    )


def _meanings() -> str:
    return "".join(f"<dt>{_WORDS[name].capitalize()}</dt><dd>{text}</dd>" for name, text in _MEANT.items())


def _parts(row: Mapping[str, Any]) -> str:
    return "<i>+</i>".join(f"<span>{escape(compare.title(row[part]))}</span>" for part in PARTS)


def _figure(value: tuple[float | None, float | None]) -> str:
    mean, spread = value
    if mean is None:
        return "n/a"
    return f"{100 * mean + 0.0:.1f}".replace("-0.0", "0.0") + (
        "" if spread is None else f" <small>± {100 * spread:.1f}</small>"
    )


def figures(outcome: Outcome) -> str:
    """The same in figures, percent."""
    head = "".join(f"<th>{name}</th>" for name in (*PARTS, "right", "kinds right", "AUROC"))
    head += "".join(f"<th>{_WORDS[stage]}</th>" for stage in STAGES)
    lines = []
    for row in outcome.summary:
        names = "".join(f"<th scope='row'>{escape(compare.title(row[part]))}</th>" for part in PARTS)
        measured = "".join(f"<td>{_figure(row[name])}</td>" for name in ("accuracy", "kind_accuracy", "image_auroc"))
        lost = "".join(f"<td>{_figure((row['lost'][stage], None))}</td>" for stage in STAGES)
        lines.append(f"<tr>{names}{measured}{lost}</tr>")
    hint = "In percent. A stage may lose less than nothing: a later one can do better with a wrong outline."
    return (
        '<div class="ah-l-scroll"><table class="ah-l-figures ah-p-figures"><thead><tr>'
        f'{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div><p class="ah-soft">{hint}</p>'
    )


def parts(outcome: Outcome) -> str:
    """What each part is worth on average, as bars."""
    found = effects(outcome)
    if not found:
        return '<p class="ah-none">Only one of each part was tried: choose more in step 2.</p>'
    made = []
    for part, means in found.items():
        rows = "".join(
            f'<tr><th scope="row">{escape(compare.title(name))}</th><td><div><span style="width:{100 * mean:.1f}%">'
            f'</span></div></td><td class="ah-l-number">{100 * mean:.1f}</td></tr>'
            for name, mean in means.items()
        )
        made.append(
            f'<section><h3>{part.capitalize()}s</h3><table class="ah-l-bars ah-l-ours"><tbody>{rows}</tbody></table>'
            "</section>"
        )
    hint = "Mean of what is right, in percent, over all chains with this part."
    return f'<div class="ah-p-parts">{"".join(made)}</div><p class="ah-soft">{hint}</p>'


def use(outcome: Outcome) -> str:
    """How the best chain is made, in this app and on the command line."""
    best = outcome.summary[0]
    name, _, options = best["detector"].partition(",")
    fit = [f"anomalyhub fit {name} --data photos --out model"]
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        fit.append(f"--backbone {value}" if key == "backbone" else f"--set {key}={value}")
    head, _, rest = best["classifier"].partition(",")
    learn = f"anomalyhub classify fit --model model --data photos --shots {outcome.shots} --head {head}"
    for option in filter(None, rest.split(",")):
        key, _, value = option.partition("=")
        learn += f" --backbone {value}" if key == "backbone" else f" --set {key}={value}"
    learn += f" --binarizer {best['binarizer']} --out inspector"
    words = [escape(compare.title(best[part])) for part in ("detector", "classifier")]
    return (
        '<details class="ah-l-notes ah-p-use"><summary>Use the best chain</summary>'
        f"<p>Here: learn with {words[0]} on the Detect tab, then choose {words[1]} as the method of the Classify tab. "
        f"On the command line:</p><pre>{escape(' '.join(fit))}\n{escape(learn)}</pre></details>"
    )
