"""The Detect tab: layout, and the wiring of `anomalyhub.ui.detect` to it. Errors become messages here and only here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.errors import AnomalyHubError
from anomalyhub.ui import detect, sources, views
from anomalyhub.ui.session import Session
from anomalyhub.ui.theme import HERE

log = logging.getLogger(__name__)

#: Heavy work of all visitors runs one at a time; reading uploads may overlap it.
WORK = {"concurrency_id": "work", "concurrency_limit": 1}
READ = {"concurrency_id": "read", "concurrency_limit": 2}
#: Light work waits for nobody.
LIGHT = {"queue": False, "show_progress": "hidden"}
#: Marks the callbacks that report progress; it holds nothing of any visitor.
_BAR = gr.Progress()
_SCROLL = "() => document.querySelector('#ah-summary').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
_STOPPED = '<p role="status">Stopped. Everything is as it was before.</p>'
_COLUMNS = ["image", "score", "p-value", "verdict", "label"]


@contextmanager
def errors_shown() -> Iterator[None]:
    """Turn errors into messages for the visitor; what nobody foresaw goes to the log in full."""
    try:
        yield
    except AnomalyHubError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        log.exception("a callback of the app failed")
        message = "Something went wrong, and it is our fault: the log of the app has the details. Please try again."
        raise gr.Error(message, print_exception=False) from error


def _html(value: str = "", js: str | None = None, **options) -> gr.HTML:
    """HTML that brings its own style; `js` names a file beside this one."""
    script = (HERE / js).read_text(encoding="utf-8") if js else None
    return gr.HTML(value, js_on_load=script, apply_default_css=False, **options)


def build_detect_tab(session: gr.State, data_root: Path | None, trusted: bool) -> None:
    """Lay out the tab inside the current gr.Tab and wire it.

    data_root  folder whose data sets may be chosen, None for none
    trusted    whether visitors may name any backbone, and weights files of this machine
    """
    ui = SimpleNamespace(session=session, data_root=data_root, trusted=trusted)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=330, elem_id="ah-steps"):
            _layout_normals(ui)
            _layout_learn(ui)
            _layout_check(ui)
        with gr.Column(scale=9, min_width=430, elem_id="ah-stage"):
            ui.stage = _html(views.stage(Session()))
            with gr.Column(visible=False) as ui.results:
                _layout_results(ui)
    _wire_normals(ui)
    _wire_learn(ui)
    _wire_check(ui)
    _wire_threshold(ui)
    _wire_gallery(ui)
    _wire_downloads(ui)


def _layout_normals(ui: SimpleNamespace) -> None:
    choices = [("Sample", "sample"), ("My images", "upload")]
    choices += [("Folder", "dataset")] * (ui.data_root is not None)
    with gr.Column(elem_classes="ah-step"):
        ui.head1 = _html(views.step_heads(Session())[0])
        ui.kind = gr.Radio(choices, value="sample", show_label=False, container=False, elem_id="ah-kind")
        with gr.Column() as ui.by_sample:
            products = [(name.split()[-1].capitalize(), key) for key, name in sources.SAMPLES.items()]
            ui.product = gr.Radio(products, value="weave", label="Product", elem_id="ah-product")
            ui.use_sample = gr.Button("Use this sample", variant="primary", elem_id="ah-use-sample")
        with gr.Column(visible=False) as ui.by_upload:
            ui.normal_files = gr.File(
                file_count="multiple", label="Normal images or a zip", height=150, elem_id="ah-normal-files"
            )
            ui.normal_folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm")
        with gr.Column(visible=False) as ui.by_dataset:
            names = sources.dataset_choices(ui.data_root) if ui.data_root else []
            ui.dataset = gr.Dropdown(names, label="Data set", value=names[0] if names else None, elem_id="ah-dataset")
            ui.use_dataset = gr.Button("Use this data set", variant="primary", elem_id="ah-use-dataset")
        ui.slot1 = _html(elem_classes="ah-slot")


def _layout_learn(ui: SimpleNamespace) -> None:
    hint = "embedded needs no download: a small network with fixed filters, until the trained one ships. "
    hint += "Any timm name, or NAME@FILE.safetensors, works too." if ui.trusted else "The others are downloaded once."
    with gr.Column(elem_classes="ah-step"):
        ui.head2 = _html(views.step_heads(Session())[1])
        with gr.Accordion("Settings", open=False, elem_classes="ah-settings"):
            ui.backbone = gr.Dropdown(
                list(detect.OFFERED), value="embedded", label="Backbone", info=hint, allow_custom_value=ui.trusted
            )
            ui.coreset = gr.Slider(1, 50, value=10, step=1, label="Details remembered (%)")
            ui.rate = gr.Slider(
                0.1, 10, value=1, step=0.1, label="Accepted false alarms (%)", info="normal parts called defective"
            )
            ui.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        with gr.Row():
            ui.learn = gr.Button("Learn", variant="primary", interactive=False, min_width=120, elem_id="ah-learn")
            ui.stop2 = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-cancel-learn")
        ui.slot2 = _html(elem_classes="ah-slot", elem_id="ah-learn-slot")


def _layout_check(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head3 = _html(views.step_heads(Session())[2])
        choices = [("Test images", "tests"), ("My images", "uploads")]
        ui.which = gr.Radio(
            choices, value="tests", show_label=False, container=False, visible=False, elem_id="ah-which"
        )
        with gr.Column(visible=False) as ui.by_unknown:
            ui.unknown_files = gr.File(
                file_count="multiple", label="Unknown images or a zip", height=150, elem_id="ah-unknown-files"
            )
            ui.unknown_folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm")
        with gr.Row():
            ui.check = gr.Button("Check", variant="primary", interactive=False, min_width=120, elem_id="ah-check")
            ui.stop3 = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-cancel-check")
        ui.slot3 = _html(elem_classes="ah-slot", elem_id="ah-check-slot")


def _layout_results(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-panel"):
        with gr.Row():
            with gr.Column(scale=5, min_width=280):
                ui.summary = _html(elem_id="ah-summary")
            with gr.Column(scale=6, min_width=320):
                ui.histogram = _html(elem_id="ah-histogram")
                ui.threshold = gr.Slider(0, 1, value=0.5, label="Threshold", buttons=[], elem_id="ah-threshold")
                ui.default = gr.Button("Back to the default", size="sm", elem_id="ah-default")
    with gr.Column(elem_classes="ah-panel"):
        with gr.Tabs():
            with gr.Tab("Pictures"):
                with gr.Row(elem_classes="ah-tools"):
                    ui.shown = gr.Radio(
                        [("All", "all"), ("Defective", "defective"), ("Normal", "normal")],
                        value="all",
                        show_label=False,
                        container=False,
                        elem_id="ah-shown",
                    )
                    ui.legend = _html(elem_id="ah-legend")
                ui.gallery = _html(js="gallery.js", elem_id="ah-gallery")
                ui.page = gr.Slider(1, 2, value=1, step=1, label="Page", visible=False, elem_id="ah-page")
            with gr.Tab("Table"):
                ui.table = gr.Dataframe(
                    headers=_COLUMNS,
                    datatype=["str", "number", "str", "str", "str"],
                    buttons=[],
                    interactive=False,
                    show_label=False,
                    elem_id="ah-table",
                )
        with gr.Row():
            ui.csv = gr.Button("Table as CSV", size="sm", elem_id="ah-csv")
            ui.overlays = gr.Button("Overlays as zip", size="sm", elem_id="ah-overlays")
            ui.model = gr.Button("Model as zip", size="sm", elem_id="ah-model")
        ui.slot4 = _html(elem_classes="ah-slot")
    ui.file = gr.DownloadButton(visible="hidden", elem_id="ah-file")
    ui.picked = gr.Number(0, precision=0, visible="hidden")
    ui.detail = _html(js="detail.js", elem_id="ah-detail")


def _controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `_control_values` fills them."""
    first = [ui.head1, ui.head2, ui.head3, ui.use_sample, ui.use_dataset, ui.learn, ui.stop2]
    return [*first, ui.which, ui.by_unknown, ui.check, ui.stop3, ui.stage, ui.results]


def _control_values(session: Session, which: str) -> list:
    source, learned = session.source, session.inspector is not None
    tests = len(source.tests) if source else 0
    which = which if tests else "uploads"
    ready = learned and (which == "tests" or bool(session.unknown))
    choices = [(f"Test images ({tests})", "tests"), ("My images", "uploads")]
    return [
        *views.step_heads(session),
        gr.Button(variant=_variant(source is None)),
        gr.Button(variant=_variant(source is None)),
        gr.Button("Learn again" if learned else "Learn", interactive=source is not None, variant=_variant(not learned)),
        gr.Button(visible=False),
        gr.Radio(choices, value=which, visible=learned and tests > 0),
        gr.Column(visible=learned and which == "uploads"),
        gr.Button(
            "Check again" if session.checked else "Check",
            interactive=ready,
            variant=_variant(ready and not session.checked),
        ),
        gr.Button(visible=False),
        gr.HTML(views.stage(session) if not session.checked else "", visible=not session.checked),
        gr.Column(visible=bool(session.checked)),
    ]


def _variant(next_step: bool) -> str:
    return "primary" if next_step else "secondary"


def _judged(ui: SimpleNamespace) -> list:
    """What changes with the threshold; `_judged_values` fills them."""
    return [ui.summary, ui.histogram, ui.legend, ui.gallery, ui.page, ui.table]


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

    def sample(session: Session, product: str, progress=_BAR):
        with errors_shown():
            return session, _done(detect.use_sample(session, product, progress))

    def uploads(session: Session, paths: list[str] | None, progress=_BAR):
        with errors_shown():
            text = detect.use_uploads(session, paths or [], progress)
            return session, _done(text, session.source.notices), None

    def dataset(session: Session, name: str, progress=_BAR):
        with errors_shown():
            text = detect.use_dataset(session, ui.data_root, name, progress)
            return session, _done(text, session.source.notices)

    panels = [ui.by_sample, ui.by_upload, ui.by_dataset]
    ui.kind.change(switch, ui.kind, panels, api_name="switch_source", **LIGHT)
    busy = {"show_progress_on": ui.slot1, **READ}
    out = [ui.session, ui.slot1]
    files = [(ui.normal_files, "upload_normals"), (ui.normal_folder, "upload_normals_folder")]
    events = [
        ui.use_sample.click(sample, [ui.session, ui.product], out, api_name="use_sample", **busy),
        ui.use_dataset.click(dataset, [ui.session, ui.dataset], out, api_name="use_dataset", **busy),
        *(box.upload(uploads, [ui.session, box], [*out, box], api_name=name, **busy) for box, name in files),
    ]
    names = ["sample_shown", "dataset_shown", "normals_shown", "normals_folder_shown"]
    for event, name in zip(events, names, strict=True):
        _then_show(ui, event, name, which="tests")


def _then_show(ui: SimpleNamespace, event, api_name: str, which: str | None = None):
    """After an event, whether it went well or not: show where the visitor stands."""

    def show(session: Session, chosen: str):
        with errors_shown():
            return _control_values(session, which or chosen)

    return event.then(show, [ui.session, ui.which], _controls(ui), api_name=api_name, **LIGHT)


def _wire_learn(ui: SimpleNamespace) -> None:
    def started():
        return gr.Button(interactive=False), gr.Button(visible=True)

    def learn(session: Session, backbone, coreset, rate, seed, progress=_BAR):
        with errors_shown():
            settings = detect.Settings(str(backbone or ""), float(coreset) / 100, float(rate) / 100, int(seed or 0))
            return session, _done(detect.learn(session, settings, ui.trusted, progress))

    def cancel(session: Session, which: str):
        session.cancel()
        return [_STOPPED, *_control_values(session, which)]

    begun = ui.learn.click(started, None, [ui.learn, ui.stop2], api_name="learn_started", **LIGHT)
    inputs = [ui.session, ui.backbone, ui.coreset, ui.rate, ui.seed]
    event = begun.then(learn, inputs, [ui.session, ui.slot2], api_name="learn", show_progress_on=ui.slot2, **WORK)
    _then_show(ui, event, "learn_shown")
    controls = [ui.slot2, *_controls(ui)]
    ui.stop2.click(cancel, [ui.session, ui.which], controls, api_name="cancel_learn", cancels=[event], **LIGHT)


def _wire_check(ui: SimpleNamespace) -> None:
    def switch(session: Session, which: str):
        ready = session.inspector is not None and (which == "tests" or bool(session.unknown))
        return gr.Column(visible=which == "uploads"), gr.Button(interactive=ready, variant=_variant(ready))

    def uploads(session: Session, paths: list[str] | None, progress=_BAR):
        with errors_shown():
            return session, _done(detect.take_unknown(session, paths or [], progress), session.notices), None

    def started():
        return gr.Button(interactive=False), gr.Button(visible=True)

    def check(session: Session, which: str, progress=_BAR):
        with errors_shown():
            return session, _done(detect.check(session, which, progress)), _slider(session), detect.table(session)

    def cancel(session: Session, which: str):
        session.cancel()
        return [_STOPPED, *_control_values(session, which)]

    ui.which.input(switch, [ui.session, ui.which], [ui.by_unknown, ui.check], api_name="switch_images", **LIGHT)
    files = [(ui.unknown_files, "upload_unknown"), (ui.unknown_folder, "upload_unknown_folder")]
    for box, name in files:
        out = [ui.session, ui.slot3, box]
        event = box.upload(uploads, [ui.session, box], out, api_name=name, show_progress_on=ui.slot3, **READ)
        _then_show(ui, event, f"{name}_shown")
    begun = ui.check.click(started, None, [ui.check, ui.stop3], api_name="check_started", **LIGHT)
    out = [ui.session, ui.slot3, ui.threshold, ui.table]
    event = begun.then(check, [ui.session, ui.which], out, api_name="check", show_progress_on=ui.slot3, **WORK)
    judged = event.then(_judged_values, [ui.session, ui.shown, ui.page], _judged(ui), api_name="results", **LIGHT)
    _then_show(ui, judged, "check_shown").success(None, js=_SCROLL)
    controls = [ui.slot3, *_controls(ui)]
    ui.stop3.click(cancel, [ui.session, ui.which], controls, api_name="cancel_check", cancels=[event], **LIGHT)


def _wire_threshold(ui: SimpleNamespace) -> None:
    def move(session: Session, threshold: float, shown: str, page: float):
        with errors_shown():
            detect.set_threshold(session, threshold)
            return [*_judged_values(session, shown, page), views.step_heads(session)[2]]

    def reset(session: Session, shown: str, page: float):
        with errors_shown():
            if session.checked:
                detect.set_threshold(session, session.inspector.threshold)
            return [*moved(session, shown, page)]

    def set_rate(session: Session, rate: float, shown: str, page: float):
        with errors_shown():
            detect.set_false_alarm_rate(session, float(rate) / 100)
            return moved(session, shown, page)

    def moved(session: Session, shown: str, page: float) -> list:
        slider = _slider(session) if session.checked else gr.skip()
        return [*_judged_values(session, shown, page), views.step_heads(session)[2], slider]

    view, out = [ui.shown, ui.page], [*_judged(ui), ui.head3]
    latest = {"trigger_mode": "always_last", **LIGHT}
    ui.threshold.input(move, [ui.session, ui.threshold, *view], out, api_name="set_threshold", **latest)
    ui.default.click(reset, [ui.session, *view], [*out, ui.threshold], api_name="reset_threshold", **LIGHT)
    ui.rate.release(set_rate, [ui.session, ui.rate, *view], [*out, ui.threshold], api_name="set_rate", **latest)


def _wire_gallery(ui: SimpleNamespace) -> None:
    def turn(session: Session, shown: str, page: float):
        with errors_shown():
            return _judged_values(session, shown, page)[3:5]

    def show(session: Session, index: float):
        with errors_shown():
            return views.detail(session, int(index or 0))

    inputs, out = [ui.session, ui.shown, ui.page], [ui.gallery, ui.page]
    ui.shown.input(turn, inputs, out, api_name="show_kind", **LIGHT)
    ui.page.input(turn, inputs, out, api_name="show_page", **{"trigger_mode": "always_last", **LIGHT})
    picked = "(session, index) => [session, window.anomalyhubPicked ?? index]"
    ui.gallery.click(show, [ui.session, ui.picked], ui.detail, api_name="show_image", js=picked, **LIGHT)


def _wire_downloads(ui: SimpleNamespace) -> None:
    def csv(session: Session):
        with errors_shown():
            return detect.csv_file(session)

    def overlays(session: Session, progress=_BAR):
        with errors_shown():
            return detect.overlays_file(session, progress)

    def model(session: Session):
        with errors_shown():
            return detect.model_file(session)

    both = {"show_progress_on": ui.slot4, **WORK}
    events = [
        ui.csv.click(csv, ui.session, ui.file, api_name="download_csv", **LIGHT),
        ui.overlays.click(overlays, ui.session, ui.file, api_name="download_overlays", **both),
        ui.model.click(model, ui.session, ui.file, api_name="download_model", **both),
    ]
    for event in events:
        event.success(None, js="() => document.querySelector('#ah-file').click()")
