"""The Hub tab: layout, and the wiring of `anomalyhub.ui.hub`, `.hub_take` and `.hub_give` to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from anomalyhub.errors import AnomalyHubError, Cancelled
from anomalyhub.ui import hub, hub_give, hub_take, hub_view, learning, views
from anomalyhub.ui.events import AGAIN, LIGHT, QUICK, UNLISTED, errors_shown, show_after
from anomalyhub.ui.hub import Place, Visit
from anomalyhub.ui.hub_layout import lay_out
from anomalyhub.ui.session import Session
from anomalyhub.ui.work import Work

_BAR = gr.Progress()
_STOPPED = '<p role="status">Stopped. Everything is as it was before.</p>'
_PICKED = "(session, visit, index, ...rest) => [session, visit, window.anomalyhubPicked ?? index, ...rest]"
#: Talking to stores takes the network's time, not the machine's.
_TALK = {"concurrency_id": "talk", "concurrency_limit": 8}
_MOVE = {"concurrency_id": "move", "concurrency_limit": 4}


def build_hub_tab(session: gr.State, data_root: Path | None, trusted: bool, work: Work) -> None:
    """Lay out the tab inside the current gr.Tab and wire it; arguments as those of `build_detect_tab`."""
    ui = SimpleNamespace(session=session, trusted=trusted, work=work)
    ui.tab = gr.context.Context.block
    nobody = Session()
    lay_out(ui, hub_view.heads(nobody, Visit(), [], hub.HUB), hub.login_text(nobody, trusted))
    _wire_where(ui)
    _wire_look(ui)
    _wire_take(ui)
    _wire_card(ui)
    _wire_push(ui)
    _wire_return(ui)


def _inputs(ui: SimpleNamespace) -> list:
    """What `_control_values` wants."""
    return [ui.session, ui.visit, ui.place, ui.folder, ui.kind, ui.offer, ui.target]


def _controls(ui: SimpleNamespace) -> list:
    """What shows where the visitor stands; `_control_values` fills them."""
    where = [ui.head1, ui.head2, ui.head3, ui.by_folder, ui.by_hub, ui.login, ui.out, ui.log_out, ui.private]
    take = [ui.look, ui.role, ui.one, ui.take, ui.stop2, ui.taken, ui.back, ui.chosen, ui.repos]
    return [*where, *take, ui.nothing, ui.by_offer, ui.offer, ui.target, ui.preview, ui.push, ui.stop3, ui.given]


def _control_values(
    ui: SimpleNamespace, session: Session, visit: Visit, place: str, folder: str, kind: str, key: str, target: str
) -> list:
    offers = hub_give.offers(session, ui.work)
    offer = next((one for one in offers if one.key == key), offers[0] if offers else None)
    on_hub, taken, chosen, busy = place != "folder", visit.taken, visit.chosen, session.busy
    drafted = offer is not None and visit.drafted == offer.key
    keep = offer is not None and offer.key == key and target.strip()
    several = taken is not None and len(taken.products) > 1
    where = hub.store_name(ui.work, ui.trusted, _place(place, folder))
    return [
        *hub_view.heads(session, visit, offers, where),
        gr.Column(visible=not on_hub),
        gr.Column(visible=on_hub),
        f'<p class="ah-soft">{hub_view.text(hub.login_text(session, ui.trusted))}</p>',
        gr.Column(visible=not session.token),
        gr.Button(visible=bool(session.token)),
        gr.Radio(visible=on_hub),
        gr.Button(variant="primary" if visit.repos is None else "secondary"),
        gr.Radio(visible=kind == "dataset"),
        gr.Dropdown(list(taken.products), value=taken.product, visible=True) if several else gr.Dropdown(visible=False),
        gr.Button(interactive=not busy, variant="primary" if chosen is not None else "secondary"),
        gr.Button(visible=busy == "take"),
        gr.HTML(hub_view.taken(taken) if taken else "", visible=taken is not None),
        gr.Button(visible=chosen is not None and visit.repos is not None),
        gr.HTML(hub_view.chosen(chosen) if chosen else "", visible=chosen is not None),
        gr.HTML(hub_view.repos(visit), visible=chosen is None),
        gr.HTML(visible=not offers),
        gr.Column(visible=bool(offers)),
        gr.Dropdown([(one.title, one.key) for one in offers], value=offer.key if offer else None),
        gr.skip() if offer is None or keep else hub_give.proposed(session, offer, on_hub),
        gr.Button(variant="secondary" if drafted else "primary", interactive=not busy),
        gr.Button(variant="primary" if drafted else "secondary", interactive=drafted and not busy),
        gr.Button(visible=busy == "push"),
        hub_view.given(visit, ui.trusted),
    ]


def _place(place: str, folder: str) -> Place:
    return Place("folder" if place == "folder" else "hub", str(folder or ""))


def _show(ui: SimpleNamespace, event, api_name: str):
    def show(session: Session, visit: Visit, *form):
        return _control_values(ui, session, visit, *form)

    return show_after(event, show, _inputs(ui), _controls(ui), api_name)


def _wire_where(ui: SimpleNamespace) -> None:
    @errors_shown()
    def enter(session: Session, visit: Visit, *form):
        return _control_values(ui, session, visit, *form)

    @errors_shown()
    def switch(session: Session, visit: Visit, *form):
        visit.repos = visit.chosen = None
        return ["", "", "", *_control_values(ui, session, visit, *form)]

    def log_in(session: Session, token: str):
        """The token goes back as nothing, whatever happens."""
        with errors_shown():
            try:
                text = hub.log_in(session, token)
            except AnomalyHubError as error:
                yield session, "", views.problem(str(error))
                raise
            yield session, "", views.said(text)

    @errors_shown()
    def log_out(session: Session, visit: Visit):
        visit.repos = visit.chosen = None  # which may be private
        return session, visit, views.said(hub.log_out(session))

    ui.tab.select(enter, _inputs(ui), _controls(ui), api_name="hub_opened", **UNLISTED)
    switched = [ui.repo, ui.revision, ui.slot_look, *_controls(ui)]
    for name, control in (("place", ui.place), ("folder", ui.folder), ("kind", ui.kind)):
        control.input(switch, _inputs(ui), switched, **_quiet(f"hub_{name}"))
    out = [ui.session, ui.token, ui.slot1]
    shown = {"show_progress_on": ui.slot1, **_TALK}
    triggers = [ui.log_in.click, ui.token.submit]
    event = gr.on(triggers, log_in, [ui.session, ui.token], out, api_name="hub_log_in", **shown)
    _show(ui, event, "hub_logged_in")
    both = [ui.session, ui.visit]
    event = ui.log_out.click(log_out, both, [*both, ui.slot1], api_name="hub_log_out", **QUICK)
    _show(ui, event, "hub_logged_out")


def _wire_look(ui: SimpleNamespace) -> None:
    def look(session: Session, visit: Visit, place: str, folder: str, kind: str, words: str, product: str, tag: str):
        at = _place(place, folder)

        def ask() -> str:
            store, where = hub.open_store(session, ui.work, ui.trusted, at), hub.store_name(ui.work, ui.trusted, at)
            visit.chosen = None
            return hub.look(visit, store, where, str(kind), str(words or ""), str(tag or ""), str(product or ""))

        yield from _answered(ui, session, visit, ask)

    def choose(session: Session, visit: Visit, index: float, place: str, folder: str):
        repos, index = visit.repos or (), int(index or 0)

        def ask() -> str:
            if not 0 <= index < len(repos):
                raise AnomalyHubError("the list has changed: press Show what is there again")
            store = hub.open_store(session, ui.work, ui.trusted, _place(place, folder))
            return hub.choose(visit, store, repos[index].repo_id, repos[index].kind)

        yield from _answered(ui, session, visit, ask)

    def named(session: Session, visit: Visit, place: str, folder: str, kind: str, repo: str, revision: str):
        def ask() -> str:
            store = hub.open_store(session, ui.work, ui.trusted, _place(place, folder))
            return hub.choose(visit, store, str(repo or ""), str(kind), str(revision or ""))

        yield from _answered(ui, session, visit, ask)

    @errors_shown()
    def back(session: Session, visit: Visit, *form):
        visit.chosen = None
        return _control_values(ui, session, visit, *form)

    @errors_shown()
    def filled(visit: Visit):
        return (visit.chosen.info.repo_id, visit.chosen.asked) if visit.chosen else (gr.skip(), gr.skip())

    both, where, out = [ui.session, ui.visit], [ui.place, ui.folder], [ui.visit, ui.slot_look]
    busy = {"show_progress_on": ui.slot_look, **_TALK}
    inputs = [*both, *where, ui.kind, ui.words, ui.product, ui.tag]
    triggers = [ui.look.click, ui.words.submit, ui.product.submit, ui.tag.submit]
    event = gr.on(triggers, look, inputs, out, api_name="hub_list", **busy)
    shown = _show(ui, event, "hub_listed").success(
        lambda: gr.Tabs(selected="there"), None, ui.tabs, **_quiet("hub_front")
    )
    shown.success(**_scroll("#ah-h-repos h3"))
    inputs = [*both, ui.picked, *where]
    event = ui.repos.click(choose, inputs, out, api_name="hub_show", js=_PICKED, **busy)
    event.success(filled, ui.visit, [ui.repo, ui.revision], **_quiet("hub_filled"))
    _show(ui, event, "hub_shown").success(**_scroll("#ah-h-chosen h2"))
    inputs = [*both, *where, ui.kind, ui.repo, ui.revision]
    event = gr.on([ui.repo.submit, ui.revision.submit], named, inputs, out, api_name="hub_show_named", **busy)
    _show(ui, event, "hub_named_shown").success(**_scroll("#ah-h-chosen h2"))
    ui.back.click(back, _inputs(ui), _controls(ui), **_quiet("hub_back"))


def _scroll(selector: str) -> dict:
    """Bring what is new into sight, which on a narrow page lies below the steps."""
    return {"fn": None, "js": f"() => document.querySelector('{selector}')?.scrollIntoView({{block: 'nearest'}})"}


def _quiet(api_name: str) -> dict:
    return {"api_name": api_name, **UNLISTED}


def _answered(ui: SimpleNamespace, session: Session, visit: Visit, ask: Callable[[], str]) -> Iterator[tuple]:
    """What a store says, or why it does not: the message goes away, the reason stays."""
    with errors_shown():
        try:
            with hub.said_plainly(session, ui.work, ui.trusted):
                text = ask()
        except Cancelled:
            raise
        except AnomalyHubError as error:
            yield visit, views.problem(str(error))
            raise
        yield visit, views.said(text)


def _wire_take(ui: SimpleNamespace) -> None:
    def take(session: Session, visit: Visit, place, folder, kind, repo, revision, role, progress=_BAR):
        wanted = hub_take.Wanted(str(repo or ""), str(kind), str(revision or ""), str(role))

        def ask() -> str:
            return hub_take.take(session, visit, _place(place, folder), wanted, ui.work, ui.trusted, progress)

        for shown in _answered(ui, session, visit, ask):
            yield (*shown, *_memories(session, ui.work))

    @errors_shown()
    def one(session: Session, visit: Visit, product: str, role: str):
        with hub.said_plainly(session, ui.work, ui.trusted):
            text = hub_take.use_product(session, visit, str(product), str(role), ui.work)
        return visit, views.said(text), *_memories(session, ui.work)

    inputs = [ui.session, ui.visit, ui.place, ui.folder, ui.kind, ui.repo, ui.revision, ui.role]
    out = [ui.visit, ui.slot2, ui.memory, ui.detect_memory]
    _wire_long(ui, "take", ui.take, ui.stop2, ui.slot2, take, inputs, out).success(**_scroll("#ah-h-taken"))
    inputs = [ui.session, ui.visit, ui.one, ui.role]
    event = ui.one.input(one, inputs, out, api_name="hub_take_product", show_progress_on=ui.slot2, **_TALK)
    _show(ui, event, "hub_product_shown")


def _memories(session: Session, work: Work) -> tuple:
    """For this tab and for the Detect tab."""
    return hub_take.remembered(session, work), learning.remembered(session)


def _wire_long(ui: SimpleNamespace, work: str, button, stop, slot, run, inputs, out):
    """A button whose work can be cancelled; returns the event after its end."""

    def started(session: Session):
        session.press(work)
        return gr.Button(interactive=False), gr.Button(visible=True)

    @errors_shown()
    def cancel(session: Session, visit: Visit, *form):
        session.cancel()
        return [_STOPPED, *_control_values(ui, session, visit, *form)]

    def again(session: Session):
        """The last update of a run cancelled a moment ago may arrive late and hide Cancel."""
        time.sleep(1.0)
        return gr.Button(visible=session.busy == work)

    begun = button.click(started, ui.session, [button, stop], **_quiet(f"hub_{work}_started"))
    event = begun.then(run, inputs, out, api_name=f"hub_{work}", show_progress_on=slot, **AGAIN, **_MOVE)
    shown = _show(ui, event, f"hub_{work}_shown")
    begun.then(again, ui.session, stop, **_quiet(f"hub_{work}_running"))
    options = {"api_name": f"cancel_hub_{work}", "cancels": [event], **LIGHT}
    stop.click(cancel, _inputs(ui), [slot, *_controls(ui)], **options)
    return shown


def _form(key, target, private, licence, message, text) -> hub_give.Form:
    return hub_give.Form(
        str(key or ""), str(target or ""), private != "public", str(licence or ""), str(message or ""), str(text or "")
    )


def _form_inputs(ui: SimpleNamespace) -> list:
    return [ui.offer, ui.target, ui.private, ui.licence, ui.message, ui.text]


def _wire_card(ui: SimpleNamespace) -> None:
    @errors_shown()
    def offered(session: Session, visit: Visit, place, folder, kind, key, target):
        """Another thing has another name and another card."""
        visit.draft = visit.drafted = ""
        cleared = [hub_view.draft("", ""), "", gr.Accordion(visible=False)]
        return [*cleared, *_control_values(ui, session, visit, place, folder, kind, key, "")]

    def preview(session: Session, visit: Visit, place, folder, *form):
        made = _form(*form)

        def ask() -> str:
            hub_give.preview(session, visit, _place(place, folder), made, ui.work, ui.trusted)
            return "The card is drawn. Next: push."

        for shown in _answered(ui, session, visit, ask):
            yield (*shown, *(gr.skip(),) * 4)
        drawn = hub_view.draft(visit.draft, made.repo_id)
        yield (*shown, drawn, visit.draft, gr.Accordion(visible=True), gr.Tabs(selected="card"))

    @errors_shown()
    def redraw(text: str, target: str):
        return hub_view.draft(str(text or ""), str(target or ""))

    card = [ui.draft, ui.text, ui.by_text]
    ui.offer.input(offered, _inputs(ui), [*card, *_controls(ui)], **_quiet("hub_offer"))
    inputs = [ui.session, ui.visit, ui.place, ui.folder, *_form_inputs(ui)]
    busy = {"show_progress_on": ui.slot3, **_TALK}
    event = ui.preview.click(preview, inputs, [ui.visit, ui.slot3, *card, ui.tabs], api_name="hub_card", **busy)
    _show(ui, event, "hub_card_shown").success(**_scroll("#ah-h-draft h2"))
    ui.redraw.click(redraw, [ui.text, ui.target], ui.draft, api_name="hub_redraw", **QUICK)


def _wire_push(ui: SimpleNamespace) -> None:
    def push(session: Session, visit: Visit, place, folder, *form, progress=_BAR):
        def ask() -> str:
            try:
                at = _place(place, folder)
                return hub_give.give(session, visit, at, _form(*form), ui.work, ui.trusted, progress)
            except AnomalyHubError as error:
                raise hub_give.with_advice(error) from error

        yield from _answered(ui, session, visit, ask)

    inputs = [ui.session, ui.visit, ui.place, ui.folder, *_form_inputs(ui)]
    _wire_long(ui, "push", ui.push, ui.stop3, ui.slot3, push, inputs, [ui.visit, ui.slot3])


def _wire_return(ui: SimpleNamespace) -> None:
    """A page that is loaded again finds what was taken."""

    @errors_shown()
    def recall(session: Session, memory):
        hub_take.recall(session, memory, ui.work)

    back = {"inputs": [ui.session, ui.memory], "outputs": None, **UNLISTED}
    gr.context.Context.root_block.load(recall, **back, api_name="recall_hub")
    ui.memory.change(recall, **back, api_name="recall_hub_later")
