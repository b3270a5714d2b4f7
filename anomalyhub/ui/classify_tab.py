"""The Classify tab: layout, and the wiring of `anomalyhub.ui.classify` to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.errors import AnomalyHubError
from anomalyhub.jobs.store import ACTIVE
from anomalyhub.ui import board_view, classify, examples_view, gathering, verdicts, views
from anomalyhub.ui.classify import Standing, Visit
from anomalyhub.ui.classify_layout import lay_out
from anomalyhub.ui.events import FOLLOW, QUICK, READ, UNLISTED, WORK, errors_shown, show_after
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

_BAR = gr.Progress()
_TITLES = ("Choose the detector", "Show a few of each kind", "Learn the kinds")
#: What the page wants done with the examples: all that has come together since the last time, in order.
_TAKE = """(session, visit, chosen, deeds) => [
    session, visit, chosen, JSON.stringify(window.anomalyhubDeeds?.['ah-c-shelf']?.splice(0) ?? []) || deeds]"""


def build_classify_tab(session: gr.State, data_root: Path | None, trusted: bool, work: Work) -> None:
    """Lay out the tab inside the current gr.Tab and wire it; arguments as those of `build_detect_tab`."""
    ui = SimpleNamespace(session=session, data_root=data_root, trusted=trusted, work=work)
    ui.tab = gr.context.Context.block
    nowhere = Standing(None, "", None)
    lay_out(ui, _heads(Visit(), nowhere), _stage(Visit(), nowhere))
    _wire_detector(ui)
    _wire_examples(ui)
    _wire_job(ui)
    _wire_shelf(ui)
    _wire_download(ui)


def _controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `_control_values` fills them."""
    steps = [ui.timer, ui.use_detect, ui.use_discover, ui.use_sample, ui.use_tests, ui.use_board, ui.pretrained]
    job = [ui.start, ui.resume, ui.stop, ui.slot3, ui.saves, ui.stage, ui.results, ui.details, ui.shelf_panel]
    return [*steps, *job, *_shelves(ui)]


def _shelves(ui: SimpleNamespace) -> list:
    """What changes with the examples; `_shelf_values` fills them."""
    return [ui.head1, ui.head2, ui.head3, ui.summary, ui.shelf]


def _control_values(session: Session, visit: Visit, work: Work, chosen: str = "", said: str = "") -> list:
    at = classify.standing(visit, work)
    active, done = at.status in ACTIVE, at.outcome is not None
    ready = visit.detector is not None and len(visit.shelf.kinds) > 1
    can_resume = at.status in ("failed", "cancelled", "interrupted") and visit.started == visit.shelf.state
    next_is_start = ready and not active and not can_resume and (not done or visit.started != visit.shelf.state)
    first = "secondary" if visit.detector else "primary"
    second = "primary" if visit.detector and not ready else "secondary"
    offered = [("Nothing", ""), *classify.pretrained(session, visit, work)]
    return [
        gr.Timer(active=active),
        *[gr.Button(variant=first)] * 3,
        *[gr.Button(variant=second)] * 2,
        gr.Dropdown(offered, value=chosen if chosen in dict(offered).values() else "", interactive=len(offered) > 1),
        gr.Button(
            "Learn again" if done else "Learn the kinds",
            interactive=ready and not active,
            variant="primary" if next_is_start else "secondary",
        ),
        gr.Button("Try again" if at.status == "failed" else "Go on", visible=can_resume, variant="primary"),
        gr.Button(visible=active, interactive=active and not at.job.stopping),
        _job_slot(at),
        gr.Column(visible=done),
        gr.HTML("" if visit.shelf.state else _stage(visit, at), visible=not visit.shelf.state),
        gr.Column(visible=done),
        verdicts.details(at.outcome, visit.shelf) if done else "",
        gr.Column(visible=bool(visit.shelf.state)),
        *_shelf_values(visit, at, said),
    ]


def _shelf_values(visit: Visit, at: Standing, said: str = "") -> list:
    visit.version += 1
    stale = visit.started is not None and visit.started != visit.shelf.state
    name = visit.detector.name if visit.detector else "the product"
    summary = verdicts.summary(at.outcome, name, stale) if at.outcome is not None else ""
    drawn = examples_view.shelf_html(visit.shelf, said, visit.version) if visit.shelf.state else ""
    return [*_heads(visit, at), summary, drawn]


def _heads(visit: Visit, at: Standing) -> list[str]:
    kinds, count = visit.shelf.kinds, len(visit.shelf.state)
    shown = f"{count} examples of {len(kinds)} kinds" if count else "1 to 5 images of each kind of defect"
    if len(kinds) == 1:
        shown = f"{count} of {next(iter(kinds))}: another kind is needed"
    if len(kinds) > 1 and (alone := [kind for kind, found in kinds.items() if len(found) == 1]):
        shown += f"; {len(alone)} with one example cannot be checked"
    learned = {**views.JOB_WORDS, "": "Seconds to minutes, in the background", "done": "Learned"}[at.status]
    if at.outcome is not None:
        learned = verdicts.headline(at.outcome)
    done = (visit.detector is not None, len(kinds) > 1, at.outcome is not None and visit.started == visit.shelf.state)
    first = classify.detector_text(visit.detector) if visit.detector else "It says where the defects are"
    return board_view.step_heads(done, (first, shown, learned), _TITLES)


def _job_slot(at: Standing) -> str:
    return views.job_slot(at.job, at.status, at.problem, "Go on, or change something and learn anew.")


def _stage(visit: Visit, at: Standing) -> str:
    if visit.detector is None:
        text = (
            "Choose a detector on the left, then show 1 to 5 images of each kind of defect: from a zip, from test "
            "images, or from the columns that you named on the Discover board."
        )
        return board_view.empty("Which kind of defect is it?", text, _PICTOGRAM)
    pictures = board_view.sample_pictures([ref for ref in visit.detector.tests if ref.label != "good"])
    return board_view.empty("Now show a few of each kind", "Upload them, or take them from where they are.", pictures)


_PICTOGRAM = (
    '<svg class="ah-pictogram" viewBox="0 0 232 84" role="img" aria-label="a few of each kind, a new defect named">'
    + "".join(
        f'<rect x="{4 + 40 * column}" y="{4 + 40 * row}" width="34" height="34" rx="7" class="ah-tile"/>'
        f'<circle cx="{21 + 40 * column}" cy="{21 + 40 * row}" r="8" class="ah-k{row}"/>'
        for column in range(2)
        for row in range(2)
    )
    + '<path d="M92 42h34m-9-8 9 8-9 8" class="ah-arrow"/>'
    '<rect x="142" y="10" width="86" height="64" rx="10" class="ah-tile"/>'
    '<circle cx="168" cy="42" r="12" class="ah-k1"/>'
    '<path d="M190 34h28M190 50h18" class="ah-arrow"/></svg>'
)


def _show(ui: SimpleNamespace, event, api_name: str):
    def show(session: Session, visit: Visit, chosen: str):
        return _control_values(session, visit, ui.work, chosen)

    return show_after(event, show, [ui.session, ui.visit, ui.pretrained], _controls(ui), api_name)


def _wire_detector(ui: SimpleNamespace) -> None:
    panels = {"detect": ui.by_detect, "discover": ui.by_discover, "sample": ui.by_sample}

    def switch(kind: str):
        return [gr.Column(visible=kind == name) for name in panels]

    @errors_shown()
    def use_detect(session: Session, visit: Visit):
        return visit, views.said(classify.use_detect(session, visit, ui.work))

    @errors_shown()
    def use_discover(session: Session, visit: Visit):
        return visit, views.said(classify.use_discover(session, visit, ui.work))

    def use_sample(session: Session, visit: Visit, product: str):
        with errors_shown():
            try:
                for fraction, text in classify.use_sample(session, visit, product, ui.work):
                    yield visit, views.progress_bar(fraction, text)
                yield visit, views.said(classify.detector_text(visit.detector))
            except AnomalyHubError as error:  # else the bar would stay
                yield visit, views.problem(str(error))
                raise

    @errors_shown()
    def enter(session: Session, visit: Visit, chosen: str):
        classify.adopt(session, visit, ui.work)
        return _control_values(session, visit, ui.work, chosen)

    ui.kind.change(switch, ui.kind, list(panels.values()), api_name="switch_classify_detector", **UNLISTED)
    both, out, busy = [ui.session, ui.visit], [ui.visit, ui.slot1], {"show_progress_on": ui.slot1, **READ}
    events = {
        "classify_with_detect": ui.use_detect.click(use_detect, both, out, api_name="classify_with_detect", **busy),
        "classify_with_discover": ui.use_discover.click(
            use_discover, both, out, api_name="classify_with_discover", **busy
        ),
        "classify_with_sample": ui.use_sample.click(
            use_sample, [*both, ui.product], out, api_name="classify_with_sample", **FOLLOW
        ),
    }
    for name, event in events.items():
        _show(ui, event, f"{name}_shown")
    inputs = [ui.session, ui.visit, ui.pretrained]
    ui.tab.select(enter, inputs, _controls(ui), api_name="enter_classify", **UNLISTED)


def _wire_examples(ui: SimpleNamespace) -> None:
    def switch(source: str):
        shown = {"uploads": (True, False, False, False), "tests": (False, True, True, False)}
        return [gr.Column(visible=one) for one in shown.get(source, (False, True, False, True))]

    @errors_shown()
    def upload(session: Session, visit: Visit, paths: list[str] | None, name: str, progress=_BAR):
        text, notices = gathering.add_uploads(session, visit, paths or [], str(name or ""), progress)
        return visit, views.said(text, notices), ""

    @errors_shown()
    def tests(session: Session, visit: Visit, per_kind: float):
        return visit, views.said(*gathering.add_tests(visit, int(per_kind or 1)))

    @errors_shown()
    def board(session: Session, visit: Visit, per_kind: float):
        return visit, views.said(*gathering.add_board(session, visit, ui.work, int(per_kind or 1)))

    panels = [ui.by_upload, ui.by_count, ui.by_tests, ui.by_board]
    ui.source.change(switch, ui.source, panels, api_name="switch_examples_source", **UNLISTED)
    both, out, busy = [ui.session, ui.visit], [ui.visit, ui.slot2], {"show_progress_on": ui.slot2, **READ}
    inputs = [*both, ui.files, ui.name]
    uploaded = ui.files.upload(upload, inputs, [*out, ui.name], api_name="add_examples", **busy)
    counted = [*both, ui.per_kind]
    events = {
        "add_examples": uploaded,
        "examples_of_tests": ui.use_tests.click(tests, counted, out, api_name="examples_of_tests", **busy),
        "examples_of_board": ui.use_board.click(board, counted, out, api_name="examples_of_board", **busy),
    }
    for name, event in events.items():
        _show(ui, event, f"{name}_shown")
    for after, name in ((uploaded.then, "clear_examples"), (uploaded.failure, "clear_examples_after_error")):
        after(lambda: None, None, ui.files, api_name=name, **UNLISTED)


def _wire_job(ui: SimpleNamespace) -> None:
    @errors_shown()
    def start(session: Session, visit: Visit, head: str, backbone: str, pretrained: str, seed: float):
        settings = classify.Settings(str(head), str(backbone or ""), str(pretrained or ""), int(seed or 0))
        classify.start(session, visit, settings, ui.work, ui.trusted)
        return visit, classify.remembered(visit)

    @errors_shown()
    def stop(visit: Visit):
        classify.cancel(visit, ui.work)

    @errors_shown()
    def resume(visit: Visit):
        classify.resume(visit, ui.work)

    @errors_shown()
    def recall(session: Session, visit: Visit, memory):
        if not classify.recall(session, visit, memory, ui.work):
            return [gr.skip()] * (2 + len(_controls(ui)))
        return [visit, classify.remembered(visit), *_control_values(session, visit, ui.work)]

    @errors_shown()
    def tick(session: Session, visit: Visit, chosen: str):
        at = classify.standing(visit, ui.work)
        if at.status in ACTIVE:
            changed = {ui.head3: _heads(visit, at)[2], ui.slot3: _job_slot(at)}
            return [changed.get(part, gr.skip()) for part in _controls(ui)]
        return _control_values(session, visit, ui.work, chosen)

    def follow(pretrained: str):
        return classify.head_of(pretrained, ui.work) or gr.skip()

    ui.pretrained.input(follow, ui.pretrained, ui.head, api_name="choose_pretrained", **UNLISTED)
    inputs = [ui.session, ui.visit, ui.head, ui.backbone, ui.pretrained, ui.seed]
    begun = ui.start.click(start, inputs, [ui.visit, ui.memory], api_name="classify", show_progress="hidden", **READ)
    _show(ui, begun, "classify_shown")
    stopped = ui.stop.click(stop, ui.visit, None, api_name="cancel_classify", **QUICK)
    _show(ui, stopped, "cancel_classify_shown")
    again = ui.resume.click(resume, ui.visit, None, api_name="resume_classify", **QUICK)
    _show(ui, again, "resume_classify_shown")
    watched = [ui.session, ui.visit, ui.pretrained]
    ui.timer.tick(tick, watched, _controls(ui), api_name="classify_progress", **UNLISTED)
    both, page = [ui.visit, ui.memory], gr.context.Context.root_block
    back = {"inputs": [ui.session, *both], "outputs": [*both, *_controls(ui)], **UNLISTED}
    page.load(recall, **back, api_name="recall_classify")
    ui.memory.change(recall, **back, api_name="recall_classify_later")


def _wire_shelf(ui: SimpleNamespace) -> None:
    @errors_shown()
    def act(session: Session, visit: Visit, chosen: str, deeds: str):
        return _control_values(session, visit, ui.work, chosen, visit.shelf.act(deeds))

    @errors_shown()
    def draw(session: Session, visit: Visit, chosen: str):
        return _control_values(session, visit, ui.work, chosen)

    # always_last: what comes while a deed is being done waits in the page, and is fetched when it is done
    once = {"trigger_mode": "always_last", **QUICK}
    inputs = [ui.session, ui.visit, ui.pretrained]
    event = ui.shelf.click(act, [*inputs, ui.deeds], _controls(ui), api_name="sort_examples", js=_TAKE, **once)
    event.failure(draw, inputs, _controls(ui), api_name="examples_after_error", **UNLISTED)


def _wire_download(ui: SimpleNamespace) -> None:
    @errors_shown()
    def inspector(session: Session, visit: Visit, progress=_BAR):
        progress(0.0, "Packing the inspector")
        return classify.inspector_file(session, visit, ui.work)

    heavy = {"show_progress_on": ui.slot4, **WORK}
    event = ui.download.click(inspector, [ui.session, ui.visit], ui.file, api_name="download_inspector", **heavy)
    event.success(None, js="() => document.querySelector('#ah-c-file').click()")
