"""The Leaderboard tab: layout, and the wiring of `anomalyhub.ui.leaderboard` and `.leaderboard_share` to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.benchmark.published import MEAN
from anomalyhub.benchmark.table import title as metric_title
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError
from anomalyhub.ui import hub, leaderboard, leaderboard_plots, leaderboard_share, leaderboard_view, views
from anomalyhub.ui.events import QUICK, UNLISTED, errors_shown, show_after
from anomalyhub.ui.hub import Place
from anomalyhub.ui.leaderboard import Filter, Visit
from anomalyhub.ui.leaderboard_layout import lay_out
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

_BAR = gr.Progress()
_PICKED = "(visit, index) => [visit, window.anomalyhubPicked ?? index]"
_SORTED = "(visit, column, ...rest) => [visit, window.anomalyhubSort ?? column, ...rest]"
_STAGE = "() => document.querySelector('#ah-l-stage').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
#: Talking to stores takes the network's time, not the machine's; as the Hub tab has it.
_TALK = {"concurrency_id": "talk", "concurrency_limit": 8}


def build_leaderboard_tab(session: gr.State, data_root: Path | None, trusted: bool, work: Work) -> None:
    """Lay out the tab inside the current gr.Tab and wire it; arguments as those of `build_detect_tab`."""
    ui = SimpleNamespace(session=session, data_root=data_root, trusted=trusted, work=work)
    ui.tab = gr.context.Context.block
    lay_out(ui, leaderboard_view.heads(Visit()))
    _wire_table(ui)
    _wire_results(ui)
    _wire_submit(ui)


def _form(ui: SimpleNamespace) -> list:
    """Step 1; `_asked` reads it."""
    return [ui.task, ui.dataset, ui.shots, ui.metric, ui.product, ui.origins, ui.words, ui.parts]


def _controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `_control_values` fills them."""
    heads = [ui.head1, ui.head2, ui.head3, ui.dataset, ui.shots, ui.metric, ui.product]
    return [*heads, ui.pull, ui.adding, ui.where, *_boards(ui)]


def _boards(ui: SimpleNamespace) -> list:
    return [ui.hint, ui.table, ui.times, ui.products, ui.notes]


def _asked(visit: Visit, task, dataset, shots, metric, product, origins, words, parts) -> Filter:
    return Filter(
        str(task or Filter.task),
        str(dataset or ""),
        str(shots or ""),
        str(metric or ""),
        str(product or MEAN),
        tuple(map(str, origins or ())),
        str(words or ""),
        bool(parts),
        visit.asked.sort,
    )


def _control_values(ui: SimpleNamespace, visit: Visit, *form) -> list:
    if visit.rows is None:
        leaderboard.read(visit, ui.work, ui.trusted)
    leaderboard.ask(visit, _asked(visit, *form))
    asked = visit.asked
    of_task = [row for row in visit.all if row.task == asked.task]
    rows = [row for row in of_task if asked.dataset in ("*", row.dataset)]
    names = [(leaderboard.title(name), name) for name in leaderboard.datasets(of_task, asked.task)]
    shots = [(leaderboard.shots_text(asked.task, one), one) for one in leaderboard.shots(rows)]
    metrics = [(metric_title(name), name) for name in leaderboard.metrics(rows, asked.task, asked.product)]
    products = [] if asked.dataset == "*" else [name for name in leaderboard.products(rows) if name != MEAN]
    places = leaderboard_share.places(visit, ui.work, ui.trusted)
    return [
        *leaderboard_view.heads(visit),
        gr.Dropdown([*names, ("All data sets", "*")], value=asked.dataset),
        gr.Dropdown([("Any", ""), *shots], value=asked.shots, visible=asked.task != "discovery"),
        gr.Dropdown([("Main", ""), ("All", "*"), *metrics], value=asked.metric),
        gr.Dropdown([("Mean of all", MEAN), *((name, name) for name in products)], value=asked.product),
        gr.Button(variant="secondary" if visit.repo else "primary"),
        gr.Column(visible=visit.checked is not None),
        gr.Radio(places, value=places[0][1] if places else None, visible=bool(places)),
        *_board_values(visit),
    ]


def _board_values(visit: Visit) -> list:
    return [
        leaderboard_view.stage(visit),
        leaderboard_view.table(visit),
        leaderboard_plots.times(visit),
        leaderboard_plots.products(visit),
        leaderboard_view.notes(visit),
    ]


def _show(ui: SimpleNamespace, event, api_name: str):
    def show(visit: Visit, *form):
        return _control_values(ui, visit, *form)

    return show_after(event, show, [ui.visit, *_form(ui)], _controls(ui), api_name)


def _wire_table(ui: SimpleNamespace) -> None:
    @errors_shown()
    def show(visit: Visit, *form):
        return _control_values(ui, visit, *form)

    @errors_shown()
    def sort(visit: Visit, column: str):
        leaderboard.sort(visit, column)
        return _board_values(visit)

    @errors_shown()
    def detail(visit: Visit, index: float):
        index = int(index or 0)
        if not 0 <= index < len(visit.shown):
            raise InvalidArgumentError("that row is not shown any more: choose another")
        return leaderboard_view.detail(visit, index)

    @errors_shown()
    def csv(session: Session, visit: Visit):
        return leaderboard.table_file(session, visit)

    inputs, options = [ui.visit, *_form(ui)], {"trigger_mode": "always_last", **QUICK}
    # one event, so that of two that follow each other quickly the last one shows
    triggers = [ui.tab.select, *(control.input for control in _form(ui) if control is not ui.words)]
    triggers.append(ui.words.change)  # which pasting and clearing fire, too
    gr.on(triggers, show, inputs, _controls(ui), api_name="leaderboard", **options)
    ui.table.select(sort, [ui.visit, ui.column], _boards(ui), api_name="leaderboard_sort", js=_SORTED, **options)
    for name, board in (("row", ui.table), ("point", ui.times), ("series", ui.products)):
        board.click(detail, [ui.visit, ui.picked], ui.detail, api_name=f"leaderboard_{name}", js=_PICKED, **QUICK)
    event = ui.csv.click(csv, [ui.session, ui.visit], ui.file, api_name="download_leaderboard", **QUICK)
    event.success(None, js="() => document.querySelector('#ah-l-file').click()")


def _answered(ui: SimpleNamespace, session: Session, visit: Visit, ask: Callable[[], str]) -> Iterator[tuple]:
    """What was done, or why it was not: the message goes away, the reason stays."""
    with errors_shown():
        try:
            with hub.said_plainly(session, ui.work, ui.trusted):
                text = ask()
        except AnomalyHubError as error:
            yield visit, views.problem(str(error))
            raise
        yield visit, views.said(text)


def _place(place: str, folder: str) -> Place:
    return Place("folder" if place == "folder" else "hub", str(folder or ""))


def _wire_results(ui: SimpleNamespace) -> None:
    def switch(place: str):
        return gr.Column(visible=place == "folder")

    def pull(session: Session, visit: Visit, place: str, folder: str, repo: str, progress=_BAR):
        def ask() -> str:
            at = _place(place, folder)
            return leaderboard_share.read_repo(session, visit, at, str(repo or ""), ui.work, ui.trusted, progress)

        yield from _answered(ui, session, visit, ask)

    def push(session: Session, visit: Visit, place: str, folder: str, repo: str, progress=_BAR):
        def ask() -> str:
            at = _place(place, folder)
            return leaderboard_share.push_own(session, visit, at, str(repo or ""), ui.work, ui.trusted, progress)

        yield from _answered(ui, session, visit, ask)

    def again(session: Session, visit: Visit):
        yield from _answered(ui, session, visit, lambda: leaderboard.read(visit, ui.work, ui.trusted))

    ui.place.input(switch, ui.place, ui.by_folder, api_name="leaderboard_place", **UNLISTED)
    inputs = [ui.session, ui.visit, ui.place, ui.folder, ui.repo]
    out, busy = [ui.visit, ui.slot2], {"show_progress_on": ui.slot2, **_TALK}
    triggers = [ui.pull.click, ui.repo.submit]
    event = gr.on(triggers, pull, inputs, out, api_name="leaderboard_read", **busy)
    _show(ui, event, "leaderboard_was_read").success(None, js=_STAGE)
    event = ui.push.click(push, inputs, out, api_name="leaderboard_push", **busy)
    _show(ui, event, "leaderboard_was_pushed")
    event = ui.again.click(again, inputs[:2], out, api_name="leaderboard_again", **busy)
    _show(ui, event, "leaderboard_was_read_again")


def _wire_submit(ui: SimpleNamespace) -> None:
    def check(session: Session, visit: Visit, paths: list[str] | None, progress=_BAR):
        def ask() -> str:
            return leaderboard_share.check(session, visit, paths or [], ui.data_root, progress)

        for _, text in _answered(ui, session, visit, ask):
            yield visit, leaderboard_view.checked(visit) or text

    def add(session: Session, visit: Visit, place: str, folder: str, where: str, progress=_BAR):
        def ask() -> str:
            at = _place(place, folder)
            return leaderboard_share.add(
                session, visit, at, str(where or ""), ui.data_root, ui.work, ui.trusted, progress
            )

        yield from _answered(ui, session, visit, ask)

    out, busy = [ui.visit, ui.slot3], {"show_progress_on": ui.slot3, **_TALK}
    event = ui.files.upload(check, [ui.session, ui.visit, ui.files], out, api_name="leaderboard_check", **busy)
    _show(ui, event, "leaderboard_checked")
    for after, name in ((event.then, "clear_submission"), (event.failure, "clear_submission_after_error")):
        after(lambda: None, None, ui.files, api_name=name, **UNLISTED)
    inputs = [ui.session, ui.visit, ui.place, ui.folder, ui.where]
    event = ui.add.click(add, inputs, out, api_name="leaderboard_add", **busy)
    _show(ui, event, "leaderboard_added").success(None, js=_STAGE)
