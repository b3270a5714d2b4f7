"""What shows on the Detect tab where the visitor stands: lists of components, and the values that fill them."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr

from anomalyhub.ui import detect, guide, methods, views
from anomalyhub.ui.events import errors_shown
from anomalyhub.ui.session import Session


def controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `control_values` fills them."""
    first = [ui.head1, ui.head2, ui.head3, ui.use_sample, ui.use_dataset, ui.learn, ui.stop2, ui.support]
    return [*first, ui.which, ui.by_unknown, ui.check, ui.stop3, ui.stage, ui.results]


def control_values(session: Session, which: str) -> list:
    source, busy = session.chosen, session.busy
    learned, checked = source is not None and session.inspector is not None, bool(source and session.checked)
    tests = len(source.tests) if source else 0
    which = which if tests else "uploads"
    can_learn = bool(source and source.photos) and not busy
    ready = learned and (which == "tests" or bool(session.unknown))
    these = "Test images" if session.have != "none" else "These photos"
    choices = [(f"{these} ({tests})", "tests"), ("My images" if session.have != "none" else "Others", "uploads")]
    verb = methods.find(session.method, session.have).verb(session.have)
    return [
        *guide.step_heads(session),
        gr.Button(variant=variant(source is None)),
        gr.Button(variant=variant(source is None)),
        gr.Button(f"{verb} again" if learned else verb, interactive=can_learn, variant=variant(not learned)),
        gr.Button(visible=busy == "learn"),
        guide.support(session),
        gr.Radio(choices, value=which, visible=learned and tests > 0),
        gr.Column(visible=learned and which == "uploads"),
        gr.Button(
            "Check again" if checked else "Check",
            interactive=ready and not busy,
            variant=variant(ready and not checked),
        ),
        gr.Button(visible=busy == "check"),
        gr.HTML(guide.stage(session) if not checked else "", visible=not checked),
        gr.Column(visible=checked),
    ]


def variant(next_step: bool) -> str:
    return "primary" if next_step else "secondary"


def judged(ui: SimpleNamespace) -> list:
    """What changes with the threshold; `judged_values` fills them."""
    return [ui.summary, ui.histogram, ui.legend, ui.gallery, ui.page, ui.table]


@errors_shown()
def judged_values(session: Session, shown: str, page: float) -> list:
    if not session.checked:
        return [gr.skip()] * 6
    pages = views.n_pages(session, shown)
    page = min(max(int(page or 1), 1), pages)
    return [
        views.summary(session),
        views.histogram(session),
        views.legend(session),
        views.gallery(session, shown, page),
        gr.Slider(maximum=max(pages, 2), value=page, visible=pages > 1),
        detect.table(session),
    ]


def slider(session: Session) -> gr.Slider:
    low, high, step = views.slider_range(session)
    return gr.Slider(minimum=low, maximum=high, step=step, value=round(round(session.threshold / step) * step, 10))


def asked(ui: SimpleNamespace) -> list:
    """What step 2 asks for, which depends on the method; `asked_values` fills them."""
    return [ui.words, ui.weights, ui.backbone, ui.clip, ui.coreset, ui.rate]


def asked_values(session: Session, backbone: str, trusted: bool, rate: float | None = None) -> list:
    """rate: of false alarms in percent, which the slider begins with; None leaves it where it is."""
    method = methods.find(session.method, session.have)
    words = method.backbones == methods.CLIP
    value = backbone if trusted or words or backbone in method.backbones else method.backbones[0]
    backbone = gr.Dropdown(visible=False)
    if not words:
        backbone = gr.Dropdown(list(method.backbones), value=value, allow_custom_value=trusted, visible=True)
    return [
        gr.Column(visible="words" in method.takes),
        gr.Textbox(visible=trusted and "weights" in method.takes),
        backbone,
        gr.Dropdown(visible=words),
        gr.Slider(visible="coreset" in method.takes),
        gr.Slider(visible=method.calibrated(session.have), **({} if rate is None else {"value": rate})),
    ]
