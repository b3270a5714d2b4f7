"""The Synthesize tab: layout, and the wiring of `anomalyhub.ui.synthesize` and `.synthesize_jobs` to it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.errors import AnomalyHubError
from anomalyhub.ui import sources, synthesize, synthesize_view, views
from anomalyhub.ui import synthesize_jobs as jobs
from anomalyhub.ui.events import QUICK, READ, UNLISTED, WORK, errors_shown, show_after
from anomalyhub.ui.session import Session
from anomalyhub.ui.synthesize import Form, Visit
from anomalyhub.ui.synthesize_jobs import State, Training
from anomalyhub.ui.synthesize_layout import lay_out
from anomalyhub.ui.work import Work

#: Marks the callbacks that report progress; it holds nothing of any visitor.
_BAR = gr.Progress()
_STAGE = "() => document.querySelector('#ah-s-stage').scrollIntoView({block: 'nearest', behavior: 'smooth'})"


def build_synthesize_tab(session: gr.State, data_root: Path | None, trusted: bool, work: Work) -> None:
    """Lay out the tab inside the current gr.Tab and wire it; arguments as those of `build_detect_tab`."""
    ui = SimpleNamespace(session=session, data_root=data_root, trusted=trusted, work=work)
    ui.tab = gr.context.Context.block
    lay_out(ui, synthesize_view.heads(Visit(), State(), State()), synthesize_view.empty())
    _wire_product(ui)
    _wire_look(ui)
    _wire_jobs(ui)
    _wire_return(ui)
    _wire_saves(ui)


def _form_inputs(ui: SimpleNamespace) -> list:
    """What makes up the Form; `_form` and `_form_values` are its two ways."""
    shares = [ui.weakest, ui.strongest, ui.smallest, ui.largest, ui.polygon]
    return [ui.mask, ui.textures, *shares, ui.foreground, ui.each, ui.seed]


def _form(mask, textures, weakest, strongest, smallest, largest, polygon, foreground, each, seed) -> Form:
    beta, area = (float(weakest), float(strongest)), (float(smallest), float(largest))
    own = textures == "own"
    return Form(mask, own, beta, area, float(polygon), foreground, int(each or 0), int(seed or 0))


def _form_values(form: Form) -> list:
    textures = "own" if form.own else "drawn"
    return [form.mask, textures, *form.beta, *form.area, form.polygon, form.foreground, form.each, form.seed]


def _controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `_control_values` fills them."""
    steps = [ui.timer, ui.head1, ui.head2, ui.head3, ui.use_detect, ui.use_sample, ui.use_dataset]
    paint = [ui.start, ui.resume, ui.stop, ui.slot2, ui.download]
    train = [ui.detector, ui.start3, ui.resume3, ui.stop3, ui.slot3, ui.download3]
    return [*steps, *paint, *train, ui.stage, ui.results, ui.summary, ui.tabs, ui.gallery, ui.page]


def _control_values(session: Session, visit: Visit, work: Work, form: Form, front: str | None = None) -> list:
    """front: the tab of the right side to turn to, None to leave it."""
    painted, trained = jobs.painting(visit, work), jobs.pretraining(visit, work)
    chosen, found = visit.chosen is not None, painted.result is not None
    first = "secondary" if chosen else "primary"
    return [
        gr.Timer(active=painted.active or trained.active),
        *synthesize_view.heads(visit, painted, trained, form),
        *[gr.Button(variant=first)] * 3,
        *_job_buttons(painted, "Generate", chosen),
        gr.Button(visible=found),
        _detector(session, visit, work),
        *_job_buttons(trained, "Pretrain", found),
        gr.Button(visible=trained.result is not None),
        gr.HTML(visible=not chosen),
        gr.Column(visible=chosen),
        gr.HTML(synthesize_view.summary(visit, painted, trained) if found else "", visible=found),
        gr.Tabs(selected=front) if front else gr.skip(),
        *_gallery(visit, work, found),
    ]


def _job_buttons(state: State, verb: str, ready: bool) -> list:
    """Start, go on, cancel, and what the slot below says."""
    done = state.result is not None
    return [
        gr.Button(
            f"{verb} again" if done else verb,
            interactive=ready and not state.active,
            variant="primary" if ready and not state.active and not done and not state.resumable else "secondary",
        ),
        gr.Button("Try again" if state.status == "failed" else "Go on", visible=state.resumable, variant="primary"),
        gr.Button(visible=state.active, interactive=state.active and not state.job.stopping),
        synthesize_view.job_slot(state, verb),
    ]


def _detector(session: Session, visit: Visit, work: Work):
    """Offered where the Detect tab has learned these images, and then chosen at first."""
    offered = jobs.detect_model(session, visit.chosen, work) is not None
    if offered == visit.offered:
        return gr.Radio(visible=offered)
    visit.offered = offered
    return gr.Radio(visible=offered, value="detect" if offered else "own")


def _gallery(visit: Visit, work: Work, found: bool) -> list:
    if not found:
        text = "Nothing is painted yet. The preview shows what it would be; press Generate in step 2."
        return [f'<p class="ah-none">{text}</p>', gr.Slider(visible=False)]
    painted = jobs.painted_set(visit, work)
    pages = synthesize_view.n_pages(painted)
    visit.page = min(max(visit.page, 1), pages)
    page = gr.Slider(maximum=max(pages, 2), value=visit.page, visible=pages > 1)
    return [synthesize_view.gallery(painted, visit.page), page]


def _drawn(visit: Visit, form: Form) -> str:
    """The preview, or what is missing."""
    if visit.chosen is None:
        return ""
    try:
        return synthesize_view.preview(synthesize.look(visit, form))
    except AnomalyHubError as error:
        return views.problem(str(error))


def _show(ui: SimpleNamespace, event, api_name: str, front: str | None = None):
    def show(session: Session, visit: Visit, *form):
        return _control_values(session, visit, ui.work, _form(*form), front)

    return show_after(event, show, [ui.session, ui.visit, *_form_inputs(ui)], _controls(ui), api_name)


def _draw_after(ui: SimpleNamespace, event, api_name: str) -> None:
    @errors_shown()
    def draw(visit: Visit, *form):
        return _drawn(visit, _form(*form))

    options = {"show_progress": "hidden", "api_visibility": "undocumented", **READ}
    event.success(draw, [ui.visit, *_form_inputs(ui)], ui.preview, api_name=api_name, **options)


def _wire_product(ui: SimpleNamespace) -> None:
    panels = {"detect": ui.by_detect, "sample": ui.by_sample, "upload": ui.by_upload, "dataset": ui.by_dataset}

    @errors_shown()
    def switch(kind: str):
        names = sources.dataset_choices(ui.data_root) if kind == "dataset" and ui.data_root else []
        listed = gr.Dropdown(names, value=names[0] if names else None) if kind == "dataset" else gr.skip()
        return [*(gr.Column(visible=kind == name) for name in panels), listed]

    @errors_shown()
    def use_detect(session: Session, visit: Visit):
        return chosen(visit, synthesize.use_detect(session, visit))

    @errors_shown()
    def use_sample(session: Session, visit: Visit, product: str, progress=_BAR):
        return chosen(visit, synthesize.use_sample(session, visit, product, progress))

    @errors_shown()
    def uploads(session: Session, visit: Visit, paths: list[str] | None, progress=_BAR):
        return chosen(visit, synthesize.use_uploads(session, visit, paths or [], progress))

    @errors_shown()
    def dataset(session: Session, visit: Visit, name: str, progress=_BAR):
        return chosen(visit, synthesize.use_dataset(session, visit, ui.data_root, str(name), progress))

    def chosen(visit: Visit, text: str):
        return visit, views.said(text, visit.chosen.notices)

    ui.kind.change(switch, ui.kind, [*panels.values(), ui.dataset], api_name="switch_painted_source", **UNLISTED)
    both, out = [ui.session, ui.visit], [ui.visit, ui.slot1]
    busy = {"show_progress_on": ui.slot1, **READ}
    named = {
        "paint_on_detect": ui.use_detect.click(use_detect, both, out, api_name="paint_on_detect", **busy),
        "paint_on_sample": ui.use_sample.click(
            use_sample, [*both, ui.product], out, api_name="paint_on_sample", **busy
        ),
        "paint_on_uploads": ui.files.upload(uploads, [*both, ui.files], out, api_name="paint_on_uploads", **busy),
        "paint_on_dataset": ui.use_dataset.click(
            dataset, [*both, ui.dataset], out, api_name="paint_on_dataset", **busy
        ),
    }
    for name, event in named.items():
        _show(ui, event, f"{name}_shown", "preview")
        _draw_after(ui, event, f"{name}_preview")
    _clear_after(named["paint_on_uploads"], ui.files, "clear_painted_uploads")


def _clear_after(event, box: gr.File, api_name: str) -> None:
    """Empty a drop zone after its upload, so that the next one starts afresh."""
    event.failure(lambda: None, None, box, api_name=f"{api_name}_after_error", **UNLISTED)
    event.then(lambda: None, None, box, api_name=api_name, **UNLISTED)


def _wire_look(ui: SimpleNamespace) -> None:
    """The preview follows the controls."""

    @errors_shown()
    def follow(visit: Visit, *form):
        form, work = _form(*form), ui.work
        heads = synthesize_view.heads(visit, jobs.painting(visit, work), jobs.pretraining(visit, work), form)
        return _drawn(visit, form), heads[1]

    @errors_shown()
    def others(visit: Visit, *form):
        visit.turn += 1
        return _drawn(visit, _form(*form))

    @errors_shown()
    def textures(session: Session, visit: Visit, paths: list[str] | None, progress=_BAR):
        text = synthesize.take_textures(session, visit, paths or [], ui.work, progress)
        return visit, f'<p role="status">{escape(text)}.</p>{views.notice_list(visit.left_out)}'

    def switch_mask(mask: str):
        return gr.Column(visible=mask != "polygon"), gr.Slider(visible=mask == "polygon")

    def switch_textures(kind: str):
        return gr.Column(visible=kind == "own")

    ui.mask.change(switch_mask, ui.mask, [ui.areas, ui.polygon], api_name="switch_mask", **UNLISTED)
    ui.textures.change(switch_textures, ui.textures, ui.by_own, api_name="switch_textures", **UNLISTED)
    form = _form_inputs(ui)
    quiet = {"trigger_mode": "always_last", "show_progress": "hidden", **READ}
    changes, out = [control.change for control in form], [ui.preview, ui.head2]
    gr.on(changes, follow, [ui.visit, *form], out, api_name="preview", **quiet)
    ui.others.click(others, [ui.visit, *form], ui.preview, api_name="preview_others", **quiet)
    busy = {"show_progress_on": ui.textures_said, **READ}
    inputs, out = [ui.session, ui.visit, ui.texture_files], [ui.visit, ui.textures_said]
    event = ui.texture_files.upload(textures, inputs, out, api_name="upload_textures", **busy)
    _draw_after(ui, event, "upload_textures_preview")
    _clear_after(event, ui.texture_files, "clear_textures")


def _wire_jobs(ui: SimpleNamespace) -> None:
    @errors_shown()
    def paint(session: Session, visit: Visit, *form):
        jobs.paint(visit, _form(*form), ui.work)
        session.paint_job = visit.paint_job
        return visit, jobs.remembered(session, visit)

    @errors_shown()
    def pretrain(session: Session, visit: Visit, head, detector, backbone, against, seed):
        form = Training(str(head), str(detector), str(backbone or ""), str(against), int(seed or 0))
        jobs.pretrain(session, visit, form, ui.work, ui.trusted)
        return visit, jobs.remembered(session, visit)

    def acts(deed, step: int):
        @errors_shown()
        def act(visit: Visit):
            deed(visit, ui.work, step)

        return act

    @errors_shown()
    def tick(session: Session, visit: Visit, *form):
        painted, trained = jobs.painting(visit, ui.work), jobs.pretraining(visit, ui.work)
        if not (painted.active or trained.active):
            front = "painted" if painted.result is not None and trained.status == "" else None
            return _control_values(session, visit, ui.work, _form(*form), front)
        heads = synthesize_view.heads(visit, painted, trained, _form(*form))
        changed = {ui.head2: heads[1], ui.head3: heads[2]}
        changed |= {ui.slot2: synthesize_view.job_slot(painted, "Generate")} if painted.active else {}
        changed |= {ui.slot3: synthesize_view.job_slot(trained, "Pretrain")} if trained.active else {}
        return [changed.get(part, gr.skip()) for part in _controls(ui)]

    form, both, out = _form_inputs(ui), [ui.session, ui.visit], [ui.visit, ui.memory]
    begun = ui.start.click(paint, [*both, *form], out, api_name="synthesize", show_progress="hidden", **READ)
    _show(ui, begun, "synthesize_shown").success(None, js=_STAGE)
    inputs = [*both, ui.head, ui.detector, ui.backbone, ui.against, ui.seed]
    begun = ui.start3.click(pretrain, inputs, out, api_name="pretrain", show_progress="hidden", **READ)
    _show(ui, begun, "pretrain_shown")
    deeds = {
        "cancel_synthesize": (ui.stop, jobs.cancel, 2),
        "resume_synthesize": (ui.resume, jobs.resume, 2),
        "cancel_pretrain": (ui.stop3, jobs.cancel, 3),
        "resume_pretrain": (ui.resume3, jobs.resume, 3),
    }
    for name, (button, deed, step) in deeds.items():
        _show(ui, button.click(acts(deed, step), ui.visit, None, api_name=name, **QUICK), f"{name}_shown")
    ui.timer.tick(tick, [*both, *form], _controls(ui), api_name="synthesize_progress", **UNLISTED)


def _wire_return(ui: SimpleNamespace) -> None:
    """A page that is loaded again finds its jobs; a tab that is turned to knows what the others have done."""
    form = _form_inputs(ui)
    out = [ui.visit, ui.memory, *form, *_controls(ui), ui.preview]

    @errors_shown()
    def recall(session: Session, visit: Visit, memory):
        found = jobs.recall(session, visit, memory, ui.work)
        if found is None:
            return [gr.skip()] * len(out)
        session.paint_job = visit.paint_job
        front = "painted" if jobs.painting(visit, ui.work).result is not None else "preview"
        shown = _control_values(session, visit, ui.work, found, front)
        return [visit, jobs.remembered(session, visit), *_form_values(found), *shown, _drawn(visit, found)]

    back = {"inputs": [ui.session, ui.visit, ui.memory], "outputs": out, **UNLISTED}
    gr.context.Context.root_block.load(recall, **back, api_name="recall_painted")
    # a tab that is not in front knows what the browser keeps when it is looked at for the first time
    ui.memory.change(recall, **back, api_name="recall_painted_later")

    @errors_shown()
    def opened(session: Session, visit: Visit):
        return _detector(session, visit, ui.work)

    ui.tab.select(opened, [ui.session, ui.visit], ui.detector, api_name="synthesize_opened", **UNLISTED)


def _wire_saves(ui: SimpleNamespace) -> None:
    @errors_shown()
    def painted(session: Session, visit: Visit, progress=_BAR):
        progress(0.0, "Packing the data set")
        return jobs.painted_file(session, visit, ui.work)

    @errors_shown()
    def pretrained(session: Session, visit: Visit, progress=_BAR):
        progress(0.0, "Packing the classifier")
        return jobs.pretrained_file(session, visit, ui.work)

    @errors_shown()
    def turn(visit: Visit, page: float):
        visit.page = int(page or 1)
        return _gallery(visit, ui.work, True)

    both = [ui.session, ui.visit]
    slot2, slot3 = ({"show_progress_on": slot, **WORK} for slot in (ui.slot2, ui.slot3))
    events = [
        ui.download.click(painted, both, ui.file, api_name="download_painted", **slot2),
        ui.download3.click(pretrained, both, ui.file, api_name="download_pretrained", **slot3),
    ]
    for event in events:
        event.success(None, js="() => document.querySelector('#ah-s-file').click()")
    latest = {"trigger_mode": "always_last", **QUICK}
    ui.page.input(turn, [ui.visit, ui.page], [ui.gallery, ui.page], api_name="painted_page", **latest)
