"""The Detect tab: layout, and the wiring of `anomalyhub.ui.detect` to it. Errors become messages here and only here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.ui import detect, guide, learning, methods, sources, views
from anomalyhub.ui.detect_controls import (
    asked,
    asked_values,
    control_values,
    controls,
    judged,
    judged_values,
    slider,
    variant,
)
from anomalyhub.ui.detect_layout import lay_out
from anomalyhub.ui.events import AGAIN, FOLLOW, LIGHT, QUICK, READ, UNLISTED, WORK, errors_shown, show_after
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

#: Marks the callbacks that report progress; it holds nothing of any visitor.
_BAR = gr.Progress()
_SCROLL = "() => document.querySelector('#ah-summary').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
_STOPPED = '<p role="status">Stopped. Everything is as it was before.</p>'


def build_detect_tab(session: gr.State, data_root: Path | None, trusted: bool, work: Work) -> None:
    """Lay out the tab inside the current gr.Tab and wire it.

    data_root  folder whose data sets may be chosen, None for none
    trusted    whether visitors may name any backbone, and weights files of this machine
    work       the app's jobs
    """
    ui = SimpleNamespace(session=session, data_root=data_root, trusted=trusted, work=work)
    ui.tab = gr.context.Context.block
    lay_out(ui)
    _wire_have(ui)
    _wire_normals(ui)
    _wire_learn(ui)
    _wire_return(ui)
    _wire_check(ui)
    _wire_threshold(ui)
    _wire_gallery(ui)
    _wire_downloads(ui)


def _wire_have(ui: SimpleNamespace) -> None:
    """What the visitor has decides which methods there are, and the method what step 2 asks for."""
    radios = list(ui.methods.values())

    def picked(have: str, keys: tuple) -> str:
        return dict(zip(ui.methods, keys, strict=True)).get(have, "")

    @errors_shown()
    def switch(session: Session, have: str, kind: str, which: str, backbone: str, *keys):
        detect.say(session, have, picked(have, keys))
        files = "Photos, good and bad, or a zip" if have == "none" else "Normal images or a zip"
        names = sources.dataset_choices(ui.data_root, "test" if have == "none" else "train") if ui.data_root else []
        return [
            *(gr.Column(visible=have == name) for name in ui.methods),
            gr.Slider(visible=have == "few" and kind != "upload"),
            gr.File(label=files),
            gr.Dropdown(names, value=names[0] if names else None) if ui.data_root else gr.skip(),
            *asked_values(session, backbone, ui.trusted, methods.RATES[have]),
            *control_values(session, which),
            said(session),
        ]

    def said(session: Session):
        """Why the former method failed is no news any more."""
        return gr.skip() if session.busy else ""

    @errors_shown()
    def choose(session: Session, have: str, which: str, backbone: str, *keys):
        detect.say(session, have, picked(have, keys))
        return [*asked_values(session, backbone, ui.trusted), *control_values(session, which), said(session)]

    def switch_source(kind: str, have: str):
        panels = [gr.Column(visible=kind == name) for name in ("sample", "upload", "dataset")]
        return [*panels, gr.Slider(visible=have == "few" and kind != "upload")]

    inputs = [ui.session, ui.have, ui.kind, ui.which, ui.backbone, *radios]
    out = [*ui.by_method.values(), ui.shots, ui.normal_files, ui.dataset, *asked(ui), *controls(ui), ui.slot2]
    ui.have.change(switch, inputs, out, api_name="switch_have", **UNLISTED)
    for have, radio in ui.methods.items():
        inputs, out = [ui.session, ui.have, ui.which, ui.backbone, *radios], [*asked(ui), *controls(ui), ui.slot2]
        radio.change(choose, inputs, out, api_name=f"choose_{have}", **UNLISTED)
    panels = [ui.by_sample, ui.by_upload, ui.by_dataset, ui.shots]
    ui.kind.change(switch_source, [ui.kind, ui.have], panels, api_name="switch_source", **UNLISTED)


def _wire_normals(ui: SimpleNamespace) -> None:
    @errors_shown()
    def sample(session: Session, product: str, have: str, shots: float, progress=_BAR):
        text = detect.use_sample(session, product, progress, have, int(shots))
        return session, views.said(text, session.source.notices)

    @errors_shown()
    def uploads(session: Session, paths: list[str] | None, have: str, progress=_BAR):
        text = detect.use_uploads(session, paths or [], progress, have)
        return session, views.said(text, session.source.notices)

    @errors_shown()
    def dataset(session: Session, name: str, have: str, shots: float, progress=_BAR):
        text = detect.use_dataset(session, ui.data_root, name, progress, have, int(shots))
        return session, views.said(text, session.source.notices)

    def after(session: Session):
        return learning.remembered(session), detect.product_word(session), ""

    busy = {"show_progress_on": ui.slot1, **READ}
    out, some = [ui.session, ui.slot1], [ui.have, ui.shots]
    files = [(ui.normal_files, "upload_normals"), (ui.normal_folder, "upload_normals_folder")]
    events = [
        ui.use_sample.click(sample, [ui.session, ui.product, *some], out, api_name="use_sample", **busy),
        ui.use_dataset.click(dataset, [ui.session, ui.dataset, *some], out, api_name="use_dataset", **busy),
        *(box.upload(uploads, [ui.session, box, ui.have], out, api_name=name, **busy) for box, name in files),
    ]
    kept = [ui.memory, ui.product_name, ui.slot2]
    names = ["sample_shown", "dataset_shown", "normals_shown", "normals_folder_shown"]
    for event, name in zip(events, names, strict=True):
        _then_show(ui, event, name, which="tests")
        event.success(after, ui.session, kept, api_name=f"{name}_remembered", **UNLISTED)
    _then_clear(events[2], ui.normal_files, "clear_normals")


def _then_show(ui: SimpleNamespace, event, api_name: str, which: str | None = None):
    def show(session: Session, chosen: str):
        return control_values(session, which or chosen)

    return show_after(event, show, [ui.session, ui.which], controls(ui), api_name)


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
        stage = gr.skip() if session.checked else guide.stage(session)
        return gr.Button(interactive=False), gr.Button(visible=True), stage

    def learn(
        session: Session,
        backbone,
        coreset,
        rate,
        seed,
        few_method,
        none_method,
        clip,
        product_name,
        normal_states,
        abnormal_states,
        weights,
    ):
        have = session.source.have if session.source else session.have
        settings = learning.Settings(
            backbone=str(backbone or ""),
            coreset=float(coreset) / 100,
            false_alarm_rate=float(rate) / 100,
            seed=int(seed or 0),
            method={"few": few_method, "none": none_method}.get(have, ""),
            clip=str(clip or ""),
            product=str(product_name or ""),
            normal_states=str(normal_states or ""),
            abnormal_states=str(abnormal_states or ""),
            weights=str(weights or ""),
        )
        yield from _watched(session, learning.learn(session, settings, ui.trusted, ui.work))

    @errors_shown()
    def cancel(session: Session, which: str):
        learning.stop(session)
        return [_STOPPED, learning.remembered(session), *control_values(session, which)]

    out = [ui.learn, ui.stop2, ui.stage]
    begun = ui.learn.click(started, ui.session, out, api_name="learn_started", **UNLISTED)
    inputs = [ui.session, ui.backbone, ui.coreset, ui.rate, ui.seed, ui.methods["few"], ui.methods["none"]]
    inputs += [ui.clip, ui.product_name, ui.normal_states, ui.abnormal_states, ui.weights]
    event = begun.then(learn, inputs, [ui.slot2, ui.memory], api_name="learn", **AGAIN, **FOLLOW)
    _then_show(ui, event, "learn_shown")
    _keep_cancel(ui.session, begun, ui.stop2, "learn")
    out = [ui.slot2, ui.memory, *controls(ui)]
    ui.stop2.click(cancel, [ui.session, ui.which], out, api_name="cancel_learn", cancels=[event], **LIGHT)


def _watched(session: Session, steps: Iterator[tuple[float, str]]) -> Iterator[tuple]:
    """Progress bars for the steps of learning, and what the browser is to remember meanwhile."""
    try:
        with errors_shown():
            for fraction, text in steps:
                yield views.progress_bar(fraction, text), learning.remembered(session)
    except gr.Error as error:  # the message goes away, the reason stays
        yield views.notice_list([unescape(error.message)]) if error.visible else _STOPPED, learning.remembered(session)
        raise
    yield views.said(learning.what_was_learned(session)), learning.remembered(session)


def _wire_return(ui: SimpleNamespace) -> None:
    """A page that is loaded again finds its model, and the job that still learns; the Hub tab may bring another one."""

    @errors_shown()
    def enter(session: Session, which: str):
        which = "tests" if session.source is not None and session.source.kind == "hub" else which
        return [session.have, *control_values(session, which)]

    @errors_shown()
    def recall(session: Session, memory, which: str):
        learning.recall(session, memory, ui.data_root, ui.work)
        if not session.busy:
            return [gr.skip()] * len(out)
        keys = [session.method if have == session.have else gr.skip() for have in ui.methods]
        return [session.have, *keys, detect.product_word(session), *control_values(session, which)]

    def go_on(session: Session):
        if not session.busy:
            yield gr.skip(), gr.skip()
            return
        yield from _watched(session, learning.go_on(session, ui.work))

    entered = [ui.have, *controls(ui)]
    ui.tab.select(enter, [ui.session, ui.which], entered, api_name="detect_opened", **UNLISTED)
    inputs = [ui.session, ui.memory, ui.which]
    page = gr.context.Context.root_block
    out = [ui.have, *ui.methods.values(), ui.product_name, *controls(ui)]
    found = page.load(recall, inputs, out, api_name="recall", **UNLISTED)
    followed = [ui.slot2, ui.memory]
    event = found.then(go_on, ui.session, followed, api_name="go_on", api_visibility="undocumented", **FOLLOW)
    _then_show(ui, event, "return_shown", which="tests")
    ui.stop2.click(None, cancels=[event], api_visibility="private")


def _wire_check(ui: SimpleNamespace) -> None:
    def switch(session: Session, which: str):
        ready = session.inspector is not None and (which == "tests" or bool(session.unknown))
        return gr.Column(visible=which == "uploads"), gr.Button(interactive=ready, variant=variant(ready))

    @errors_shown()
    def uploads(session: Session, paths: list[str] | None, progress=_BAR):
        return session, views.said(detect.take_unknown(session, paths or [], progress), session.notices)

    def started(session: Session):
        session.press("check")
        return gr.Button(interactive=False), gr.Button(visible=True)

    @errors_shown()
    def check(session: Session, which: str, progress=_BAR):
        return session, views.said(detect.check(session, which, progress)), slider(session), detect.table(session)

    def cancel(session: Session, which: str):
        session.cancel()
        return [_STOPPED, *control_values(session, which)]

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
    event.then(judged_values, [ui.session, ui.shown, ui.page], judged(ui), api_name="results", **LIGHT)
    _then_show(ui, event, "check_shown").success(None, js=_SCROLL)
    _keep_cancel(ui.session, begun, ui.stop3, "check")
    out = [ui.slot3, *controls(ui)]
    ui.stop3.click(cancel, [ui.session, ui.which], out, api_name="cancel_check", cancels=[event], **LIGHT)


def _wire_threshold(ui: SimpleNamespace) -> None:
    @errors_shown()
    def move(session: Session, threshold: float, shown: str, page: float):
        detect.set_threshold(session, threshold)
        return [*judged_values(session, shown, page), guide.step_heads(session)[2]]

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
        moved_too = slider(session) if session.checked else gr.skip()
        return [*judged_values(session, shown, page), guide.step_heads(session)[2], moved_too]

    view, out = [ui.shown, ui.page], [*judged(ui), ui.head3]
    latest = {"trigger_mode": "always_last", **LIGHT}
    ui.threshold.input(move, [ui.session, ui.threshold, *view], out, api_name="set_threshold", **latest)
    ui.default.click(reset, [ui.session, *view], [*out, ui.threshold], api_name="reset_threshold", **LIGHT)
    ui.rate.input(set_rate, [ui.session, ui.rate, *view], [*out, ui.threshold], api_name="set_rate", **latest)


def _wire_gallery(ui: SimpleNamespace) -> None:
    @errors_shown()
    def turn(session: Session, shown: str, page: float):
        return judged_values(session, shown, page)[3:5]

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
