"""The Compare tab: layout, and the wiring of `anomalyhub.ui.compare` and `.compare_data` to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.errors import AnomalyHubError
from anomalyhub.jobs.store import ACTIVE
from anomalyhub.ui import compare, compare_data, compare_view, sources, views
from anomalyhub.ui.compare import Form, Standing, Visit, form_of
from anomalyhub.ui.compare_data import Chosen
from anomalyhub.ui.compare_layout import lay_out
from anomalyhub.ui.events import QUICK, READ, UNLISTED, errors_shown, show_after
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

_BAR = gr.Progress()


def build_compare_tab(session: gr.State, data_root: Path | None, trusted: bool, work: Work) -> None:
    """Lay out the tab inside the current gr.Tab and wire it; arguments as those of `build_detect_tab`."""
    ui = SimpleNamespace(session=session, data_root=data_root, trusted=trusted, work=work)
    nowhere = Standing(None, "", None)
    lay_out(ui, compare_view.heads(Visit(), nowhere, Form()), compare_view.stage(Visit(), nowhere))
    _wire_images(ui)
    _wire_form(ui)
    _wire_job(ui)
    _wire_saves(ui)


def _form(ui: SimpleNamespace) -> list:
    """Step 2; `form_of` reads it."""
    return [ui.detectors, ui.binarizers, ui.classifiers, ui.shots, ui.seeds, ui.more, ui.rate]


def _controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `_control_values` fills them."""
    steps = [ui.timer, ui.head1, ui.head2, ui.head3, ui.use_sample, ui.use_detect, ui.use_board, ui.use_dataset]
    job = [ui.start, ui.resume, ui.stop, ui.slot3, ui.saves, ui.stage, ui.results]
    return [*steps, *job, ui.summary, ui.chains, ui.parts, ui.figures, ui.use]


def _control_values(visit: Visit, work: Work, *form) -> list:
    at, asked = compare.standing(visit, work), form_of(*form)
    active, done, chosen = at.status in ACTIVE, at.outcome is not None, visit.chosen is not None
    same = visit.started is None or visit.started == (visit.chosen, asked)
    can_resume = at.status in ("failed", "cancelled", "interrupted") and (same or not chosen)
    first = "secondary" if chosen else "primary"
    shown = ("summary", "chains", "parts", "figures", "use")
    return [
        gr.Timer(active=active),
        *compare_view.heads(visit, at, asked),
        *[gr.Button(variant=first)] * 4,
        gr.Button(
            "Compare again" if done else "Compare",
            interactive=chosen and not active,
            variant="primary" if chosen and not active and not can_resume and not (done and same) else "secondary",
        ),
        gr.Button("Try again" if at.status == "failed" else "Go on", visible=can_resume, variant="primary"),
        gr.Button(visible=active, interactive=active and not at.job.stopping),
        compare_view.job_slot(at),
        gr.Row(visible=done),
        gr.HTML("" if done else compare_view.stage(visit, at), visible=not done),
        gr.Column(visible=done),
        *([_shown(visit, at, asked)[name] for name in shown] if done else [""] * len(shown)),
    ]


def _shown(visit: Visit, at: Standing, asked: Form) -> dict[str, str]:
    outcome = at.outcome
    stale = visit.started is not None and visit.started != (visit.chosen, asked)
    return {
        "summary": compare_view.summary(outcome, stale),
        "chains": compare_view.chains(outcome),
        "parts": compare_view.parts(outcome),
        "figures": compare_view.figures(outcome),
        "use": compare_view.use(outcome),
    }


def _show(ui: SimpleNamespace, event, api_name: str):
    def show(visit: Visit, *form):
        return _control_values(visit, ui.work, *form)

    return show_after(event, show, [ui.visit, *_form(ui)], _controls(ui), api_name)


def _wire_images(ui: SimpleNamespace) -> None:
    panels = {
        "sample": ui.by_sample,
        "upload": ui.by_upload,
        "detect": ui.by_detect,
        "board": ui.by_board,
        "dataset": ui.by_dataset,
    }

    @errors_shown()
    def switch(kind: str):
        names = sources.dataset_choices(ui.data_root, "test") if kind == "dataset" and ui.data_root else []
        listed = gr.Dropdown(names, value=names[0] if names else None) if kind == "dataset" else gr.skip()
        return [*(gr.Column(visible=kind == name) for name in panels), listed]

    def detect(session: Session, visit: Visit):
        yield from _chosen(visit, lambda: compare_data.of_detect(session, ui.work, ui.data_root))

    def sample(visit: Visit, product: str):
        yield from _chosen(visit, lambda: compare_data.of_sample(str(product), ui.work))

    def upload(session: Session, visit: Visit, paths: list[str] | None, progress=_BAR):
        yield from _chosen(visit, lambda: compare_data.of_uploads(session, paths or [], ui.work, progress))

    def board(session: Session, visit: Visit):
        yield from _chosen(visit, lambda: compare_data.of_board(session, ui.work))

    def dataset(visit: Visit, name: str):
        yield from _chosen(visit, lambda: compare_data.of_dataset(ui.data_root, str(name)))

    ui.kind.change(switch, ui.kind, [*panels.values(), ui.dataset], api_name="switch_compared", **UNLISTED)
    both, out, busy = [ui.session, ui.visit], [ui.visit, ui.slot1], {"show_progress_on": ui.slot1, **READ}
    uploaded = ui.files.upload(upload, [*both, ui.files], out, api_name="compare_uploads", **busy)
    events = {
        "compare_detect": ui.use_detect.click(detect, both, out, api_name="compare_detect", **busy),
        "compare_sample": ui.use_sample.click(sample, [ui.visit, ui.product], out, api_name="compare_sample", **busy),
        "compare_board": ui.use_board.click(board, both, out, api_name="compare_board", **busy),
        "compare_dataset": ui.use_dataset.click(
            dataset, [ui.visit, ui.dataset], out, api_name="compare_dataset", **busy
        ),
        "compare_uploads": uploaded,
    }
    for name, event in events.items():
        _show(ui, event, f"{name}_shown")
    for after, name in ((uploaded.then, "clear_compared"), (uploaded.failure, "clear_compared_after_error")):
        after(lambda: None, None, ui.files, api_name=name, **UNLISTED)


def _chosen(visit: Visit, choose: Callable[[], Chosen]) -> Iterator[tuple]:
    """What was chosen, or why not: the message goes away, the reason stays."""
    with errors_shown():
        try:
            chosen = choose()
        except AnomalyHubError as error:
            yield visit, views.problem(str(error))
            raise
        visit.chosen = chosen
        yield visit, views.said(f"{compare_data.chosen_text(chosen)}. Next: press Compare.", chosen.notices)


def _wire_form(ui: SimpleNamespace) -> None:
    @errors_shown()
    def plan(visit: Visit, *form):
        return _control_values(visit, ui.work, *form)

    triggers = [control.change if control is ui.more else control.input for control in _form(ui)]
    options = {"trigger_mode": "always_last", **UNLISTED}
    gr.on(triggers, plan, [ui.visit, *_form(ui)], _controls(ui), api_name="compare_plan", **options)


def _wire_job(ui: SimpleNamespace) -> None:
    @errors_shown()
    def start(visit: Visit, *form):
        compare.start(visit, form_of(*form), ui.work, ui.trusted)
        return visit, compare.remembered(visit)

    @errors_shown()
    def stop(visit: Visit):
        compare.cancel(visit, ui.work)

    @errors_shown()
    def resume(visit: Visit):
        compare.resume(visit, ui.work)

    @errors_shown()
    def recall(visit: Visit, memory):
        if not compare.recall(visit, memory, ui.work):
            return [gr.skip()] * (2 + len(_form(ui)) + len(_controls(ui)))
        form = [list(one) if isinstance(one, tuple) else one for one in dataclasses.astuple(visit.started[1])]
        return [visit, compare.remembered(visit), *form, *_control_values(visit, ui.work, *form)]

    @errors_shown()
    def tick(visit: Visit, *form):
        at = compare.standing(visit, ui.work)
        if at.status in ACTIVE:
            changed = {ui.slot3: compare_view.job_slot(at), ui.head3: compare_view.heads(visit, at, form_of(*form))[2]}
            return [changed.get(part, gr.skip()) for part in _controls(ui)]
        return _control_values(visit, ui.work, *form)

    inputs = [ui.visit, *_form(ui)]
    begun = ui.start.click(start, inputs, [ui.visit, ui.memory], api_name="compare", show_progress="hidden", **READ)
    _show(ui, begun, "compare_shown")
    stopped = ui.stop.click(stop, ui.visit, None, api_name="cancel_compare", **QUICK)
    _show(ui, stopped, "cancel_compare_shown")
    again = ui.resume.click(resume, ui.visit, None, api_name="resume_compare", **QUICK)
    _show(ui, again, "resume_compare_shown")
    ui.timer.tick(tick, inputs, _controls(ui), api_name="compare_progress", **UNLISTED)
    both, page = [ui.visit, ui.memory], gr.context.Context.root_block
    back = {"inputs": both, "outputs": [*both, *_form(ui), *_controls(ui)], **UNLISTED}
    page.load(recall, **back, api_name="recall_compare")
    ui.memory.change(recall, **back, api_name="recall_compare_later")


def _wire_saves(ui: SimpleNamespace) -> None:
    for button, what in ((ui.csv, "csv"), (ui.json, "json"), (ui.png, "png")):
        _wire_download(ui, button, what)


def _wire_download(ui: SimpleNamespace, button: gr.Button, what: str) -> None:
    @errors_shown()
    def download(session: Session, visit: Visit):
        return compare.file_of(session, visit, ui.work, what)

    event = button.click(download, [ui.session, ui.visit], ui.file, api_name=f"download_chains_{what}", **QUICK)
    event.success(None, js="() => document.querySelector('#ah-p-file').click()")
