"""The Inspect tab: layout, and the wiring of `anomalyhub.ui.inspect` to it."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.errors import AnomalyHubError, Cancelled
from anomalyhub.ui import board_view, hub_take, inspect, inspect_view, seen, views
from anomalyhub.ui.events import AGAIN, LIGHT, QUICK, READ, UNLISTED, WORK, errors_shown, show_after
from anomalyhub.ui.inspect import Visit
from anomalyhub.ui.inspect_layout import lay_out
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

_BAR = gr.Progress()
_TITLES = ("What to inspect with", "Choose new images", "Find and name defects")
_STOPPED = '<p role="status">Stopped. Everything is as it was before.</p>'
_SCROLL = "() => document.querySelector('#ah-i-summary').scrollIntoView({block: 'nearest', behavior: 'smooth'})"


def build_inspect_tab(session: gr.State, data_root: Path | None, trusted: bool, work: Work) -> None:
    """Lay out the tab inside the current gr.Tab and wire it; arguments as those of `build_detect_tab`."""
    ui = SimpleNamespace(session=session, data_root=data_root, trusted=trusted, work=work)
    ui.tab = gr.context.Context.block
    lay_out(ui, _heads(Session(), Visit(), work, 0), _stage(Session(), Visit(), work, 0))
    _wire_steps(ui)
    _wire_inspect(ui)
    _wire_results(ui)


def _controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `_control_values` fills them."""
    steps = [ui.head1, ui.head2, ui.head3, ui.tool, ui.which, ui.by_upload]
    return [*steps, ui.inspect, ui.stop, ui.stage, ui.results]


def _control_values(session: Session, visit: Visit, work: Work) -> list:
    there, busy = inspect.ready(session, work), session.busy
    tests = len(inspect.test_images(session, visit, work)[0]) if visit.tool and there[visit.tool] else 0
    which = inspect.chosen_images(visit, tests)
    count = tests if which == "tests" else len(visit.uploads or ())
    able = bool(visit.tool and there[visit.tool] and count)
    return [
        *_heads(session, visit, work, count),
        gr.Radio(value=visit.tool or None),
        gr.Radio(
            [(f"Test images ({tests})" if tests else "Test images", "tests"), ("My images", "uploads")], value=which
        ),
        gr.Column(visible=which == "uploads"),
        gr.Button(
            "Inspect again" if visit.seen else "Inspect",
            interactive=able and not busy,
            variant="primary" if able and not visit.seen else "secondary",
        ),
        gr.Button(visible=busy == "inspect"),
        gr.HTML("" if visit.seen else _stage(session, visit, work, count), visible=not visit.seen),
        gr.Column(visible=bool(visit.seen)),
    ]


def _heads(session: Session, visit: Visit, work: Work, count: int) -> list[str]:
    able = bool(visit.tool) and inspect.ready(session, work)[visit.tool]
    images = f"{count} images to inspect" if count else "Test images, or your own"
    found = seen.headline(visit.seen) if visit.seen else "Kinds, with evidence for each region"
    texts = (inspect.tool_text(session, visit, work), images, found)
    return board_view.step_heads((able, able and count > 0, bool(visit.seen)), texts, _TITLES)


def _stage(session: Session, visit: Visit, work: Work, count: int) -> str:
    if not visit.tool or not inspect.ready(session, work)[visit.tool]:
        text = (
            "The Detect tab learns what is normal, the Classify tab learns kinds of defect from a few examples. Then "
            "new images are inspected here: where the defects are, which kind each is, and why."
        )
        return board_view.empty("Nothing to inspect with yet", text, _PICTOGRAM)
    if not count:
        return board_view.empty("Now choose new images", "Upload some in step 2.", _PICTOGRAM)
    text = f"{count} images are looked at one after the other. It takes about as long as a check on the Detect tab."
    return board_view.empty("Now press Inspect", text, _PICTOGRAM)


_PICTOGRAM = (
    '<svg class="ah-pictogram" viewBox="0 0 232 84" role="img" aria-label="an image, its defects named, and why">'
    '<rect x="2" y="2" width="92" height="80" rx="10" class="ah-tile"/><circle cx="30" cy="30" r="9" class="ah-k1"/>'
    '<circle cx="66" cy="56" r="9" class="ah-k2"/><path d="M106 42h30m-9-8 9 8-9 8" class="ah-arrow"/>'
    + "".join(
        f'<rect x="150" y="{y}" width="34" height="34" rx="7" class="ah-tile"/><circle cx="167" cy="{y + 17}" r="8" '
        f'class="ah-k{kind}"/><rect x="194" y="{y}" width="34" height="34" rx="7" class="ah-tile"/>'
        f'<circle cx="211" cy="{y + 17}" r="8" class="ah-k{kind}"/>'
        for y, kind in ((4, 1), (46, 2))
    )
    + "</svg>"
)


def _show(ui: SimpleNamespace, event, api_name: str):
    def show(session: Session, visit: Visit):
        return _control_values(session, visit, ui.work)

    return show_after(event, show, [ui.session, ui.visit], _controls(ui), api_name)


def _wire_steps(ui: SimpleNamespace) -> None:
    @errors_shown()
    def enter(session: Session, visit: Visit):
        if inspect.kinds_job(session, ui.work) is None:  # a detector may have been learned for the kinds of the Hub tab
            hub_take.join_kinds(session, ui.work)
        inspect.choose(session, visit, ui.work)
        keep = inspect.remembered(session, visit, ui.work)
        news = keep["classify"] or keep["discover"]  # else the browser may know more, and tells it in a moment
        return [keep if news else gr.skip(), *_control_values(session, visit, ui.work)]

    @errors_shown()
    def recall(session: Session, visit: Visit, memory):
        if not inspect.recall(session, visit, memory, ui.work):
            return [gr.skip()] * len(_controls(ui))
        return _control_values(session, visit, ui.work)

    @errors_shown()
    def choose(session: Session, visit: Visit, tool: str):
        inspect.choose(session, visit, ui.work, str(tool or ""))
        return _control_values(session, visit, ui.work)

    @errors_shown()
    def switch(session: Session, visit: Visit, which: str):
        visit.which = str(which)
        return _control_values(session, visit, ui.work)

    @errors_shown()
    def uploads(session: Session, visit: Visit, paths: list[str] | None, progress=_BAR):
        return visit, views.said(inspect.take_uploads(session, visit, paths or [], progress), visit.left_out)

    both = [ui.session, ui.visit]
    ui.tab.select(enter, both, [ui.memory, *_controls(ui)], api_name="enter_inspect", **UNLISTED)
    ui.memory.change(recall, [*both, ui.memory], _controls(ui), api_name="recall_inspect", **UNLISTED)
    ui.tool.input(choose, [*both, ui.tool], _controls(ui), api_name="inspect_with", **UNLISTED)
    ui.which.input(switch, [*both, ui.which], _controls(ui), api_name="switch_inspected", **UNLISTED)
    for box, name in ((ui.files, "upload_new"), (ui.upload_folder, "upload_new_folder")):
        out = [ui.visit, ui.slot2]
        event = box.upload(uploads, [*both, box], out, api_name=name, show_progress_on=ui.slot2, **READ)
        _show(ui, event, f"{name}_shown")
        if box is ui.files:
            for after, clear in ((event.then, "clear_new"), (event.failure, "clear_new_after_error")):
                after(lambda: None, None, box, api_name=clear, **UNLISTED)


def _wire_inspect(ui: SimpleNamespace) -> None:
    def started(session: Session):
        session.press("inspect")
        return gr.Button(interactive=False), gr.Button(visible=True)

    def run(session: Session, visit: Visit, which: str, progress=_BAR):
        with errors_shown():
            try:
                text = inspect.inspect(session, visit, ui.work, which, progress)
            except Cancelled:
                raise
            except AnomalyHubError as error:  # the message goes away, the reason stays
                yield visit, f'<p class="ah-problem" role="alert">{escape(str(error))}</p>', gr.skip()
                raise
            yield visit, views.said(text), inspect.remembered(session, visit, ui.work)

    @errors_shown()
    def cancel(session: Session, visit: Visit):
        session.cancel()
        return [_STOPPED, *_control_values(session, visit, ui.work)]

    def again(session: Session):
        """The last update of a run cancelled a moment ago may arrive late and hide Cancel."""
        time.sleep(1.0)
        return gr.Button(visible=session.busy == "inspect")

    begun = ui.inspect.click(started, ui.session, [ui.inspect, ui.stop], api_name="inspect_started", **UNLISTED)
    out, heavy = [ui.visit, ui.slot3, ui.memory], {"show_progress_on": ui.slot3, **AGAIN, **WORK}
    event = begun.then(run, [ui.session, ui.visit, ui.which], out, api_name="inspect", **heavy)
    event.success(_fresh, ui.visit, _findings(ui), api_name="inspected", **LIGHT)
    _show(ui, event, "inspect_shown").success(None, js=_SCROLL)
    begun.then(again, ui.session, ui.stop, api_name="inspect_running", **UNLISTED)
    out = [ui.slot3, *_controls(ui)]
    ui.stop.click(cancel, [ui.session, ui.visit], out, api_name="cancel_inspect", cancels=[event], **LIGHT)


def _findings(ui: SimpleNamespace) -> list:
    return [ui.summary, ui.bars, ui.shown, ui.table, ui.gallery, ui.page]


@errors_shown()
def _fresh(visit: Visit) -> list:
    if not visit.seen:
        return [gr.skip()] * 6
    filters = gr.Radio(inspect_view.choices(visit), value="", visible=True)
    tables = [inspect_view.summary(visit), inspect_view.bars(visit), filters, seen.table(visit.seen)]
    return [*tables, *_turned(visit, "", 1)]


def _turned(visit: Visit, kind: str, page: float) -> list:
    pages = inspect_view.n_pages(visit, kind)
    page = min(max(int(page or 1), 1), pages)
    return [
        inspect_view.gallery(visit, kind, page),
        gr.Slider(maximum=max(pages, 2), value=page, visible=pages > 1),
    ]


def _wire_results(ui: SimpleNamespace) -> None:
    @errors_shown()
    def turn(visit: Visit, kind: str, page: float):
        return _turned(visit, str(kind or ""), page)

    @errors_shown()
    def show(visit: Visit, index: float):
        return inspect_view.detail(visit, int(index or 0))

    inputs, out = [ui.visit, ui.shown, ui.page], [ui.gallery, ui.page]
    ui.shown.input(turn, inputs, out, api_name="show_inspected_kind", **LIGHT)
    ui.page.input(turn, inputs, out, api_name="show_inspected_page", **{"trigger_mode": "always_last", **LIGHT})
    picked = "(visit, index) => [visit, window.anomalyhubPicked ?? index]"
    ui.gallery.click(show, [ui.visit, ui.picked], ui.detail, api_name="show_evidence", js=picked, **QUICK)
    for button, what in ((ui.report, "report"), (ui.csv, "csv"), (ui.coco, "coco"), (ui.all, "all")):
        _wire_download(ui, button, what)


def _wire_download(ui: SimpleNamespace, button: gr.Button, what: str) -> None:
    @errors_shown()
    def download(session: Session, visit: Visit):
        return inspect.file_of(session, visit, what)

    options = {"show_progress_on": ui.slot4, **WORK} if what == "all" else QUICK
    event = button.click(download, [ui.session, ui.visit], ui.file, api_name=f"download_inspection_{what}", **options)
    event.success(None, js="() => document.querySelector('#ah-i-file').click()")
