"""The Discover tab: layout, and the wiring of `anomalyhub.ui.discover` and `.board` to it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.errors import AnomalyHubError
from anomalyhub.jobs.store import ACTIVE
from anomalyhub.ui import board, board_view, discover, sources, views
from anomalyhub.ui.discover import Standing, Visit
from anomalyhub.ui.discover_layout import lay_out
from anomalyhub.ui.events import FOLLOW, QUICK, READ, UNLISTED, WORK, errors_shown, show_after
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

#: Marks the callbacks that report progress; it holds nothing of any visitor.
_BAR = gr.Progress()
_STAGE = "() => document.querySelector('#ah-discover-stage').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
#: What the page wants done on the board: all that has come together since the last time, in order.
_TAKE = "(visit, deeds) => [visit, JSON.stringify(window.anomalyhubDeeds?.['ah-board']?.splice(0) ?? []) || deeds]"


def build_discover_tab(session: gr.State, data_root: Path | None, trusted: bool, work: Work) -> None:
    """Lay out the tab inside the current gr.Tab and wire it; arguments as those of `build_detect_tab`."""
    ui = SimpleNamespace(session=session, data_root=data_root, trusted=trusted, work=work)
    ui.tab = gr.context.Context.block
    nowhere = Standing(None, "", None)
    lay_out(ui, _heads(Visit(), nowhere), _stage(Visit(), nowhere))
    _wire_images(ui)
    _wire_job(ui)
    _wire_board(ui)
    _wire_saves(ui)


def _controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `_control_values` fills them."""
    steps = [ui.timer, ui.head1, ui.head2, ui.use_detect, ui.use_sample, ui.use_dataset]
    job = [ui.start, ui.resume, ui.stop, ui.slot2, ui.saves, ui.stage, ui.results]
    return [*steps, *job, ui.plots, *_boards(ui)]


def _boards(ui: SimpleNamespace) -> list:
    """What changes with the board; `_board_values` fills them."""
    return [ui.summary, ui.board, ui.sizes, ui.head3]


def _control_values(visit: Visit, work: Work, said: str = "") -> list:
    at = discover.standing(visit, work)
    active, found, chosen = at.status in ACTIVE, at.board is not None, visit.chosen is not None
    can_resume = at.status in ("failed", "cancelled", "interrupted") and visit.chosen is visit.started
    next_is_start = chosen and not active and (not found or visit.chosen is not visit.started)
    first = "secondary" if chosen else "primary"
    return [
        gr.Timer(active=active),
        *_heads(visit, at)[:2],
        *[gr.Button(variant=first)] * 3,
        gr.Button(
            "Discover again" if at.status == "done" else "Discover",
            interactive=chosen and not active,
            variant="primary" if next_is_start and not can_resume else "secondary",
        ),
        gr.Button("Try again" if at.status == "failed" else "Go on", visible=can_resume, variant="primary"),
        gr.Button(visible=active, interactive=active and not at.job.stopping),
        _job_slot(at),
        gr.Column(visible=found),
        gr.HTML("" if found else _stage(visit, at), visible=not found),
        gr.Column(visible=found),
        board_view.plots(at.board.result, board.metrics(at.board)) if found else "",
        *_board_values(visit, at, said),
    ]


def _board_values(visit: Visit, at: Standing, said: str = "") -> list:
    head = _heads(visit, at)[2]
    if at.board is None:
        return ["", "", "", head]
    visit.version += 1
    drawn = board_view.board_html(at.board, at.job.id, visit.shown, said, visit.version)
    return [board_view.summary(at.board), drawn, board_view.sizes(at.board), head]


def _heads(visit: Visit, at: Standing) -> list[str]:
    images = discover.chosen_text(visit.chosen) if visit.chosen else "And how their defects are found"
    kinds = {**views.JOB_WORDS, "": "A minute or two, in the background", "done": "Found"}[at.status]
    if at.board is not None:
        kinds = f"{len(at.board.findings.classes)} found among {len(at.board.findings.regions):,} crops"
    save = "Name, merge and move on the board, then save" if at.board is not None else "On a board of all defects"
    done = (visit.chosen is not None, at.board is not None, False)
    return board_view.step_heads(done, (images, kinds, save))


def _job_slot(at: Standing) -> str:
    return views.job_slot(at.job, at.status, at.problem, "Go on, or change something and press Discover.")


def _stage(visit: Visit, at: Standing) -> str:
    pictures = board_view.sample_pictures(visit.chosen.refs) if visit.chosen else ""
    if at.status in ACTIVE:
        text = "You may close this page: it goes on, and the board is here when you return."
        return board_view.empty("Looking for the kinds of defect", text, pictures)
    if at.status == "failed" or at.problem:
        return board_view.empty("That did not work", "Step 2 says why, and lets you try again.", pictures)
    if visit.chosen is None:
        text = "Choose images on the left. Their defects are cut out and sorted into kinds, which you name and correct."
        return board_view.empty("Which kinds of defect are there?", text)
    return board_view.empty("Now press Discover", "Their defects are cut out and sorted into kinds.", pictures)


def _show(ui: SimpleNamespace, event, api_name: str):
    return show_after(event, lambda visit: _control_values(visit, ui.work), ui.visit, _controls(ui), api_name)


def _wire_images(ui: SimpleNamespace) -> None:
    panels = {"detect": ui.by_detect, "sample": ui.by_sample, "uploads": ui.by_upload, "dataset": ui.by_dataset}

    @errors_shown()
    def switch(kind: str):
        names = sources.dataset_choices(ui.data_root, "test") if kind == "dataset" and ui.data_root else []
        listed = gr.Dropdown(names, value=names[0] if names else None) if kind == "dataset" else gr.skip()
        return [*(gr.Column(visible=kind == name) for name in panels), listed]

    @errors_shown()
    def use_detect(session: Session, visit: Visit):
        return visit, views.said(discover.use_detect(session, visit, ui.work), visit.chosen.notices)

    def use_sample(session: Session, visit: Visit, product: str):
        with errors_shown():
            try:
                for fraction, text in discover.use_sample(session, visit, product, ui.work):
                    yield visit, views.progress_bar(fraction, text)
                yield visit, views.said(discover.chosen_text(visit.chosen))
            except AnomalyHubError as error:  # else the bar would stay
                yield visit, views.problem(str(error))
                raise

    @errors_shown()
    def images(session: Session, visit: Visit, paths: list[str] | None, progress=_BAR):
        text = discover.add_images(session, visit, paths or [], progress)
        return visit, _uploaded(text, visit)

    @errors_shown()
    def maps(session: Session, visit: Visit, paths: list[str] | None, progress=_BAR):
        text = discover.add_maps(session, visit, paths or [], progress)
        return visit, _uploaded(text, visit)

    @errors_shown()
    def dataset(session: Session, visit: Visit, name: str, defects: str):
        text = discover.use_dataset(session, visit, ui.data_root, str(name), defects, ui.work)
        return visit, views.said(text, visit.chosen.notices)

    ui.kind.change(switch, ui.kind, [*panels.values(), ui.dataset], api_name="switch_kinds_source", **UNLISTED)
    both, out = [ui.session, ui.visit], [ui.visit, ui.slot1]
    busy = {"show_progress_on": ui.slot1, **READ}
    named = {
        "kinds_of_checked": ui.use_detect.click(use_detect, both, out, api_name="kinds_of_checked", **busy),
        "kinds_of_sample": ui.use_sample.click(
            use_sample, [*both, ui.product], out, api_name="kinds_of_sample", **FOLLOW
        ),
        "upload_images": ui.image_files.upload(images, [*both, ui.image_files], out, api_name="upload_images", **busy),
        "upload_maps": ui.map_files.upload(maps, [*both, ui.map_files], out, api_name="upload_maps", **busy),
        "kinds_of_dataset": ui.use_dataset.click(
            dataset, [*both, ui.dataset, ui.defects], out, api_name="kinds_of_dataset", **busy
        ),
    }
    for name, event in named.items():
        _show(ui, event, f"{name}_shown")
    for box, name in ((ui.image_files, "upload_images"), (ui.map_files, "upload_maps")):
        for after in (named[name].then, named[name].failure):
            after(lambda: None, None, box, api_name=f"clear_{name}", **UNLISTED)


def _uploaded(text: str, visit: Visit) -> str:
    """What is still missing shows; what is complete is in the step's head."""
    ready = visit.chosen is not None and visit.images is not None and visit.maps is not None
    return views.said(text, visit.chosen.notices) if ready else f'<p role="status">{escape(text)}</p>'


def _wire_job(ui: SimpleNamespace) -> None:
    @errors_shown()
    def start(session: Session, visit: Visit, classes, method, backbone, binarizer, seed):
        settings = discover.Settings(str(classes), method, str(backbone or ""), binarizer, int(seed or 0))
        discover.start(visit, settings, ui.work, ui.trusted)
        session.discover_job = visit.job_id
        return visit, discover.remembered(visit)

    @errors_shown()
    def stop(visit: Visit):
        discover.cancel(visit, ui.work)

    @errors_shown()
    def resume(visit: Visit):
        discover.resume(visit, ui.work)

    @errors_shown()
    def recall(session: Session, visit: Visit, memory):
        before = visit.job_id
        discover.recall(visit, memory, ui.work)
        session.discover_job = visit.job_id
        new = visit.job_id != before
        if not new:
            return [gr.skip()] * (2 + len(_controls(ui)))
        return [visit, discover.remembered(visit), *_control_values(visit, ui.work)]

    @errors_shown()
    def tick(visit: Visit):
        at = discover.standing(visit, ui.work)
        if at.status in ACTIVE:
            changed = {ui.head2: _heads(visit, at)[1], ui.slot2: _job_slot(at)}
            return [changed.get(part, gr.skip()) for part in _controls(ui)]
        return _control_values(visit, ui.work)

    @errors_shown()
    def enter(session: Session, method: str):
        offered = discover.offered_methods(session, ui.work)
        return gr.Radio(offered, value=method if method in dict(offered).values() else "clustering")

    inputs = [ui.session, ui.visit, ui.classes, ui.method, ui.backbone, ui.binarizer, ui.seed]
    begun = ui.start.click(start, inputs, [ui.visit, ui.memory], api_name="discover", show_progress="hidden", **READ)
    _show(ui, begun, "discover_shown").success(None, js=_STAGE)
    stopped = ui.stop.click(stop, ui.visit, None, api_name="cancel_discover", **QUICK)
    _show(ui, stopped, "cancel_discover_shown")
    again = ui.resume.click(resume, ui.visit, None, api_name="resume_discover", **QUICK)
    _show(ui, again, "resume_discover_shown")
    ui.timer.tick(tick, ui.visit, _controls(ui), api_name="discover_progress", **UNLISTED)
    ui.tab.select(enter, [ui.session, ui.method], ui.method, api_name="discover_opened", **UNLISTED)
    page = gr.context.Context.root_block
    both = [ui.visit, ui.memory]
    back = {"inputs": [ui.session, *both], "outputs": [*both, *_controls(ui)], **UNLISTED}
    page.load(recall, **back, api_name="recall_board")
    # a tab that is not in front knows what the browser keeps when it is looked at for the first time
    ui.memory.change(recall, **back, api_name="recall_board_later")


def _wire_board(ui: SimpleNamespace) -> None:
    @errors_shown()
    def act(visit: Visit, deeds: str):
        said = board.act(visit, ui.work, deeds)
        return _board_values(visit, discover.standing(visit, ui.work), said)

    @errors_shown()
    def draw(visit: Visit):
        return _board_values(visit, discover.standing(visit, ui.work))

    # always_last: what comes while a deed is being done waits in the page, and is fetched when it is done
    once = {"trigger_mode": "always_last", **QUICK}
    event = ui.board.click(act, [ui.visit, ui.deeds], _boards(ui), api_name="act", js=_TAKE, **once)
    event.failure(draw, ui.visit, _boards(ui), api_name="board_after_error", **UNLISTED)


def _wire_saves(ui: SimpleNamespace) -> None:
    @errors_shown()
    def labelled(session: Session, visit: Visit, progress=_BAR):
        progress(0.0, "Packing images and masks")
        return board.labelled_file(session, visit, ui.work)

    @errors_shown()
    def model(session: Session, visit: Visit, progress=_BAR):
        progress(0.0, "Packing the model")
        return board.model_file(session, visit, ui.work)

    @errors_shown()
    def table(session: Session, visit: Visit):
        return board.table_file(session, visit, ui.work)

    both, heavy = [ui.session, ui.visit], {"show_progress_on": ui.slot3, **WORK}
    events = [
        ui.labelled.click(labelled, both, ui.file, api_name="download_labelled", **heavy),
        ui.model.click(model, both, ui.file, api_name="download_kinds_model", **heavy),
        ui.table.click(table, both, ui.file, api_name="download_kinds_table", **QUICK),
    ]
    for event in events:
        event.success(None, js="() => document.querySelector('#ah-d-file').click()")
