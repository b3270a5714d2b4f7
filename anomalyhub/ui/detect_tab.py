"""The Detect tab: layout, and the wiring of `anomalyhub.ui.detect` to it. Errors become messages here and only here."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.errors import AnomalyHubError, Cancelled
from anomalyhub.ui import detect, learning, views
from anomalyhub.ui.detect_layout import lay_out
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

log = logging.getLogger(__name__)

#: Heavy work of all visitors runs one at a time; reading uploads may overlap it.
WORK = {"concurrency_id": "work", "concurrency_limit": 1}
READ = {"concurrency_id": "read", "concurrency_limit": 2}
#: Watching a job, which works elsewhere; more watchers than jobs, as one may be watched from several pages.
FOLLOW = {"concurrency_id": "follow", "concurrency_limit": 24, "show_progress": "hidden"}
#: Light work waits for nobody.
LIGHT = {"queue": False, "show_progress": "hidden"}
#: Light work that may fail: the page shows errors of events in the queue only.
QUICK = {"concurrency_limit": None, "show_progress": "hidden"}
#: Begins although the page has not heard yet that the former run, which was cancelled, has ended.
AGAIN = {"trigger_mode": "multiple"}
#: Only keeps the page up to date.
UNLISTED = {"api_visibility": "undocumented", **LIGHT}
#: Marks the callbacks that report progress; it holds nothing of any visitor.
_BAR = gr.Progress()
_SCROLL = "() => document.querySelector('#ah-summary').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
_STOPPED = '<p role="status">Stopped. Everything is as it was before.</p>'


@contextmanager
def errors_shown() -> Iterator[None]:
    """Turn errors into messages for the visitor; what nobody foresaw goes to the log in full."""
    try:
        yield
    except AnomalyHubError as error:
        known = isinstance(error, Cancelled)  # to the visitor, who has pressed Cancel
        raise gr.Error(str(error), duration=15, visible=not known, print_exception=False) from error
    except Exception as error:
        log.exception("a callback of the app failed")
        message = "Something went wrong, and it is our fault: the log of the app has the details. Please try again."
        raise gr.Error(message, print_exception=False) from error


def build_detect_tab(session: gr.State, data_root: Path | None, trusted: bool, work: Work) -> None:
    """Lay out the tab inside the current gr.Tab and wire it.

    data_root  folder whose data sets may be chosen, None for none
    trusted    whether visitors may name any backbone, and weights files of this machine
    work       the app's jobs
    """
    ui = SimpleNamespace(session=session, data_root=data_root, trusted=trusted, work=work)
    lay_out(ui)
    _wire_normals(ui)
    _wire_learn(ui)
    _wire_return(ui)
    _wire_check(ui)
    _wire_threshold(ui)
    _wire_gallery(ui)
    _wire_downloads(ui)


def _controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `_control_values` fills them."""
    first = [ui.head1, ui.head2, ui.head3, ui.use_sample, ui.use_dataset, ui.learn, ui.stop2]
    return [*first, ui.which, ui.by_unknown, ui.check, ui.stop3, ui.stage, ui.results]


def _control_values(session: Session, which: str) -> list:
    source, learned, busy = session.source, session.inspector is not None, session.busy
    tests = len(source.tests) if source else 0
    which = which if tests else "uploads"
    can_learn = source is not None and not busy
    ready = learned and (which == "tests" or bool(session.unknown))
    choices = [(f"Test images ({tests})", "tests"), ("My images", "uploads")]
    return [
        *views.step_heads(session),
        gr.Button(variant=_variant(source is None)),
        gr.Button(variant=_variant(source is None)),
        gr.Button("Learn again" if learned else "Learn", interactive=can_learn, variant=_variant(not learned)),
        gr.Button(visible=busy == "learn"),
        gr.Radio(choices, value=which, visible=learned and tests > 0),
        gr.Column(visible=learned and which == "uploads"),
        gr.Button(
            "Check again" if session.checked else "Check",
            interactive=ready and not busy,
            variant=_variant(ready and not session.checked),
        ),
        gr.Button(visible=busy == "check"),
        gr.HTML(views.stage(session) if not session.checked else "", visible=not session.checked),
        gr.Column(visible=bool(session.checked)),
    ]


def _variant(next_step: bool) -> str:
    return "primary" if next_step else "secondary"


def _judged(ui: SimpleNamespace) -> list:
    """What changes with the threshold; `_judged_values` fills them."""
    return [ui.summary, ui.histogram, ui.legend, ui.gallery, ui.page, ui.table]


@errors_shown()
def _judged_values(session: Session, shown: str, page: float) -> list:
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


def _slider(session: Session) -> gr.Slider:
    low, high, step = views.slider_range(session)
    return gr.Slider(minimum=low, maximum=high, step=step, value=round(round(session.threshold / step) * step, 10))


def _done(text: str, notices: tuple[str, ...] = ()) -> str:
    """What was done, for screen readers and API clients: the page shows it in the step's head. Notices show."""
    return f'<p class="ah-heard" role="status">{escape(text)}</p>{views.notice_list(notices)}'


def _wire_normals(ui: SimpleNamespace) -> None:
    def switch(kind: str):
        return [gr.Column(visible=kind == name) for name in ("sample", "upload", "dataset")]

    @errors_shown()
    def sample(session: Session, product: str, progress=_BAR):
        return session, _done(detect.use_sample(session, product, progress))

    @errors_shown()
    def uploads(session: Session, paths: list[str] | None, progress=_BAR):
        text = detect.use_uploads(session, paths or [], progress)
        return session, _done(text, session.source.notices)

    @errors_shown()
    def dataset(session: Session, name: str, progress=_BAR):
        text = detect.use_dataset(session, ui.data_root, name, progress)
        return session, _done(text, session.source.notices)

    panels = [ui.by_sample, ui.by_upload, ui.by_dataset]
    ui.kind.change(switch, ui.kind, panels, api_name="switch_source", **UNLISTED)
    busy = {"show_progress_on": ui.slot1, **READ}
    out = [ui.session, ui.slot1]
    files = [(ui.normal_files, "upload_normals"), (ui.normal_folder, "upload_normals_folder")]
    events = [
        ui.use_sample.click(sample, [ui.session, ui.product], out, api_name="use_sample", **busy),
        ui.use_dataset.click(dataset, [ui.session, ui.dataset], out, api_name="use_dataset", **busy),
        *(box.upload(uploads, [ui.session, box], out, api_name=name, **busy) for box, name in files),
    ]
    names = ["sample_shown", "dataset_shown", "normals_shown", "normals_folder_shown"]
    for event, name in zip(events, names, strict=True):
        _then_show(ui, event, name, which="tests")
        event.then(learning.remembered, ui.session, ui.memory, api_name=f"{name}_remembered", **UNLISTED)
    _then_clear(events[2], ui.normal_files, "clear_normals")


def _then_show(ui: SimpleNamespace, event, api_name: str, which: str | None = None):
    """After an event, whether it went well or not: show where the visitor stands."""

    @errors_shown()
    def show(session: Session, chosen: str):
        return _control_values(session, which or chosen)

    options = {"fn": show, "inputs": [ui.session, ui.which], "outputs": _controls(ui), **UNLISTED}
    event.failure(**options, api_name=f"{api_name}_after_error")
    return event.then(**options, api_name=api_name)


def _then_clear(event, box: gr.File, api_name: str) -> None:
    """Empty a drop zone after its upload, so that the next one starts afresh."""
    event.failure(lambda: None, None, box, api_name=f"{api_name}_after_error", **UNLISTED)
    event.then(lambda: None, None, box, api_name=api_name, **UNLISTED)


def _keep_cancel(session: gr.State, begun, stop: gr.Button, work: str) -> None:
    """Show Cancel once more: the last update of a run cancelled a moment ago may arrive late and hide it."""

    def again(session: Session):
        time.sleep(1.0)
        return gr.Button(visible=session.busy == work)

    begun.then(again, session, stop, api_name=f"{work}_running", **UNLISTED)


def _wire_learn(ui: SimpleNamespace) -> None:
    def started(session: Session):
        session.press("learn")
        stage = gr.skip() if session.checked else views.stage(session)
        return gr.Button(interactive=False), gr.Button(visible=True), stage

    def learn(session: Session, backbone, coreset, rate, seed):
        settings = learning.Settings(str(backbone or ""), float(coreset) / 100, float(rate) / 100, int(seed or 0))
        yield from _watched(session, learning.learn(session, settings, ui.trusted, ui.work))

    @errors_shown()
    def cancel(session: Session, which: str):
        learning.stop(session)
        return [_STOPPED, learning.remembered(session), *_control_values(session, which)]

    out = [ui.learn, ui.stop2, ui.stage]
    begun = ui.learn.click(started, ui.session, out, api_name="learn_started", **UNLISTED)
    inputs = [ui.session, ui.backbone, ui.coreset, ui.rate, ui.seed]
    event = begun.then(learn, inputs, [ui.slot2, ui.memory], api_name="learn", **AGAIN, **FOLLOW)
    _then_show(ui, event, "learn_shown")
    _keep_cancel(ui.session, begun, ui.stop2, "learn")
    controls = [ui.slot2, ui.memory, *_controls(ui)]
    ui.stop2.click(cancel, [ui.session, ui.which], controls, api_name="cancel_learn", cancels=[event], **LIGHT)


def _watched(session: Session, steps: Iterator[tuple[float, str]]) -> Iterator[tuple]:
    """Progress bars for the steps of learning, and what the browser is to remember meanwhile."""
    try:
        with errors_shown():
            for fraction, text in steps:
                yield views.progress_bar(fraction, text), learning.remembered(session)
    except gr.Error as error:  # the message goes away, the reason stays
        yield views.notice_list([error.message]) if error.visible else _STOPPED, learning.remembered(session)
        raise
    yield _done(learning.what_was_learned(session)), learning.remembered(session)


def _wire_return(ui: SimpleNamespace) -> None:
    """A page that is loaded again finds its model, and the job that still learns."""

    @errors_shown()
    def recall(session: Session, memory, which: str):
        learning.recall(session, memory, ui.data_root, ui.work)
        return _control_values(session, which) if session.busy else [gr.skip()] * len(_controls(ui))

    def go_on(session: Session):
        if not session.busy:
            yield gr.skip(), gr.skip()
            return
        yield from _watched(session, learning.go_on(session, ui.work))

    inputs = [ui.session, ui.memory, ui.which]
    page = gr.context.Context.root_block
    found = page.load(recall, inputs, _controls(ui), api_name="recall", **UNLISTED)
    out = [ui.slot2, ui.memory]
    event = found.then(go_on, ui.session, out, api_name="go_on", api_visibility="undocumented", **FOLLOW)
    _then_show(ui, event, "return_shown", which="tests")
    ui.stop2.click(None, cancels=[event], api_visibility="private")


def _wire_check(ui: SimpleNamespace) -> None:
    def switch(session: Session, which: str):
        ready = session.inspector is not None and (which == "tests" or bool(session.unknown))
        return gr.Column(visible=which == "uploads"), gr.Button(interactive=ready, variant=_variant(ready))

    @errors_shown()
    def uploads(session: Session, paths: list[str] | None, progress=_BAR):
        return session, _done(detect.take_unknown(session, paths or [], progress), session.notices)

    def started(session: Session):
        session.press("check")
        return gr.Button(interactive=False), gr.Button(visible=True)

    @errors_shown()
    def check(session: Session, which: str, progress=_BAR):
        return session, _done(detect.check(session, which, progress)), _slider(session), detect.table(session)

    def cancel(session: Session, which: str):
        session.cancel()
        return [_STOPPED, *_control_values(session, which)]

    ui.which.input(switch, [ui.session, ui.which], [ui.by_unknown, ui.check], api_name="switch_images", **UNLISTED)
    files = [(ui.unknown_files, "upload_unknown"), (ui.unknown_folder, "upload_unknown_folder")]
    for box, name in files:
        out = [ui.session, ui.slot3]
        event = box.upload(uploads, [ui.session, box], out, api_name=name, show_progress_on=ui.slot3, **READ)
        _then_show(ui, event, f"{name}_shown")
        if box is ui.unknown_files:
            _then_clear(event, box, "clear_unknown")
    begun = ui.check.click(started, ui.session, [ui.check, ui.stop3], api_name="check_started", **UNLISTED)
    out = [ui.session, ui.slot3, ui.threshold, ui.table]
    inputs, heavy = [ui.session, ui.which], {"show_progress_on": ui.slot3, **AGAIN, **WORK}
    event = begun.then(check, inputs, out, api_name="check", **heavy)
    event.then(_judged_values, [ui.session, ui.shown, ui.page], _judged(ui), api_name="results", **LIGHT)
    _then_show(ui, event, "check_shown").success(None, js=_SCROLL)
    _keep_cancel(ui.session, begun, ui.stop3, "check")
    controls = [ui.slot3, *_controls(ui)]
    ui.stop3.click(cancel, [ui.session, ui.which], controls, api_name="cancel_check", cancels=[event], **LIGHT)


def _wire_threshold(ui: SimpleNamespace) -> None:
    @errors_shown()
    def move(session: Session, threshold: float, shown: str, page: float):
        detect.set_threshold(session, threshold)
        return [*_judged_values(session, shown, page), views.step_heads(session)[2]]

    @errors_shown()
    def reset(session: Session, shown: str, page: float):
        if session.checked:
            detect.set_threshold(session, session.inspector.threshold)
        return moved(session, shown, page)

    @errors_shown()
    def set_rate(session: Session, rate: float, shown: str, page: float):
        detect.set_false_alarm_rate(session, float(rate) / 100)
        return moved(session, shown, page)

    def moved(session: Session, shown: str, page: float) -> list:
        slider = _slider(session) if session.checked else gr.skip()
        return [*_judged_values(session, shown, page), views.step_heads(session)[2], slider]

    view, out = [ui.shown, ui.page], [*_judged(ui), ui.head3]
    latest = {"trigger_mode": "always_last", **LIGHT}
    ui.threshold.input(move, [ui.session, ui.threshold, *view], out, api_name="set_threshold", **latest)
    ui.default.click(reset, [ui.session, *view], [*out, ui.threshold], api_name="reset_threshold", **LIGHT)
    ui.rate.input(set_rate, [ui.session, ui.rate, *view], [*out, ui.threshold], api_name="set_rate", **latest)


def _wire_gallery(ui: SimpleNamespace) -> None:
    @errors_shown()
    def turn(session: Session, shown: str, page: float):
        return _judged_values(session, shown, page)[3:5]

    @errors_shown()
    def show(session: Session, index: float):
        return views.detail(session, int(index or 0))

    inputs, out = [ui.session, ui.shown, ui.page], [ui.gallery, ui.page]
    ui.shown.input(turn, inputs, out, api_name="show_kind", **LIGHT)
    ui.page.input(turn, inputs, out, api_name="show_page", **{"trigger_mode": "always_last", **LIGHT})
    picked = "(session, index) => [session, window.anomalyhubPicked ?? index]"
    ui.gallery.click(show, [ui.session, ui.picked], ui.detail, api_name="show_image", js=picked, **QUICK)


def _wire_downloads(ui: SimpleNamespace) -> None:
    @errors_shown()
    def csv(session: Session):
        return detect.csv_file(session)

    @errors_shown()
    def overlays(session: Session, progress=_BAR):
        return detect.overlays_file(session, progress)

    @errors_shown()
    def model(session: Session):
        return detect.model_file(session)

    both = {"show_progress_on": ui.slot4, **WORK}
    events = [
        ui.csv.click(csv, ui.session, ui.file, api_name="download_csv", **QUICK),
        ui.overlays.click(overlays, ui.session, ui.file, api_name="download_overlays", **both),
        ui.model.click(model, ui.session, ui.file, api_name="download_model", **both),
    ]
    for event in events:
        event.success(None, js="() => document.querySelector('#ah-file').click()")
