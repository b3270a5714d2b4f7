"""Where things are on the Hub tab: the three steps on the left, what is there and the card to push on the right."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import gradio as gr

from anomalyhub.ui import hub, hub_give, hub_take, hub_view
from anomalyhub.ui.classify_layout import html
from anomalyhub.ui.theme import HERE

#: A click on a tab's name in what was brought in turns to that tab.
_GO = """element.addEventListener('click', (event) => {
  const asked = event.target.closest('[data-tab]')?.dataset.tab;
  const tabs = [...document.querySelectorAll('button[role=tab]')];
  tabs.find((tab) => asked && tab.innerText.trim() === asked)?.click();
});"""


def lay_out(ui: SimpleNamespace, heads: Sequence[str], login: str) -> None:
    """Add the tab's components to `ui`, which has trusted and work; heads and login are what shows first."""
    ui.head1, ui.head2, ui.head3 = (html(head, render=False) for head in heads)
    ui.visit = gr.State(hub.Visit())
    ui.memory = gr.BrowserState(None, storage_key="anomalyhub-hub", secret="anomalyhub")
    # the Detect tab's: it finds its detector again, although it was taken here
    ui.detect_memory = gr.BrowserState(None, storage_key="anomalyhub-detect", secret="anomalyhub")
    with gr.Row(equal_height=False, elem_id="ah-hub"):
        with gr.Column(scale=4, min_width=330, elem_classes="ah-side"):
            _where(ui, login)
            _take(ui)
            _give(ui)
        with gr.Column(scale=10, min_width=430, elem_id="ah-h-stage", elem_classes="ah-main"):
            ui.taken = html(visible=False, js_on_load=_GO, elem_id="ah-h-taken")
            with gr.Column(elem_classes="ah-panel"):
                with gr.Tabs(selected="there", elem_id="ah-h-tabs") as ui.tabs:
                    with gr.Tab("What is there", id="there"):
                        _there(ui)
                    with gr.Tab("Card to push", id="card"):
                        _card(ui)


def _where(ui: SimpleNamespace, login: str) -> None:
    folders = list(hub.folders(ui.work, ui.trusted))
    with gr.Column(elem_classes="ah-step"):
        ui.head1.render()
        ui.place = gr.Radio(
            [(hub.HUB, "hub"), ("Folder", "folder")],
            value="hub",
            show_label=False,
            container=False,
            visible=ui.trusted or bool(folders),
            elem_id="ah-h-place",
        )
        with gr.Column(visible=False) as ui.by_folder:
            hint = "A folder that all who share can reach, such as a mounted drive." if ui.trusted else None
            ui.folder = gr.Dropdown(
                folders,
                value=folders[0] if folders else None,
                label="Folder",
                info=hint,
                allow_custom_value=ui.trusted,
                elem_id="ah-h-folder",
            )
        with gr.Column() as ui.by_hub:
            ui.login = html(f'<p class="ah-soft">{login}</p>', elem_id="ah-h-login")
            with gr.Column() as ui.out:
                ui.token = gr.Textbox(
                    "",
                    label="Access token",
                    type="password",
                    placeholder="hf_…",
                    max_length=300,
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
                    elem_id="ah-h-token",
                )
                ui.log_in = gr.Button("Log in", elem_id="ah-h-log-in")
            ui.log_out = gr.Button("Log out", visible=False, size="sm", elem_id="ah-h-log-out")
        ui.slot1 = html(elem_classes="ah-slot", elem_id="ah-h-slot1")


def _take(ui: SimpleNamespace) -> None:
    kinds = [(several.capitalize(), kind) for kind, (_, several) in hub.KINDS.items()]
    with gr.Column(elem_classes="ah-step"):
        ui.head2.render()
        ui.kind = gr.Radio(kinds, value="model", show_label=False, container=False, elem_id="ah-h-kind")
        ui.words = gr.Textbox("", label="Search", placeholder="words of its name or tags", elem_id="ah-h-words")
        with gr.Accordion("More filters", open=False, elem_classes="ah-settings"):
            ui.product = gr.Textbox("", label="Product", max_length=200, elem_id="ah-h-product")
            ui.tag = gr.Textbox("", label="Tag", placeholder="patchcore", max_length=100, elem_id="ah-h-tag")
        ui.look = gr.Button("Show what is there", variant="primary", elem_id="ah-h-look")
        ui.slot_look = html(elem_classes="ah-slot", elem_id="ah-h-look-slot")
        with gr.Row(elem_classes="ah-h-pair"):
            named = {"max_length": 200, "max_lines": 1}
            ui.repo = gr.Textbox(
                "", label="Repository", placeholder="OWNER/NAME", scale=5, min_width=150, elem_id="ah-h-repo", **named
            )
            ui.revision = gr.Textbox(
                "", label="Revision", placeholder="newest", scale=3, min_width=90, elem_id="ah-h-revision", **named
            )
        roles = [(text, name) for name, text in hub_take.ROLES.items()]
        ui.role = gr.Radio(roles, value="learn", label="What for", visible=False, elem_id="ah-h-role")
        ui.one = gr.Dropdown([], label="Product", visible=False, elem_id="ah-h-one")
        with gr.Row():
            ui.take = gr.Button("Use in this app", min_width=170, elem_id="ah-h-take")
            ui.stop2 = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-h-cancel-take")
        ui.slot2 = html(elem_classes="ah-slot", elem_id="ah-h-slot2")


def _give(ui: SimpleNamespace) -> None:
    licences = [(text, name) for name, text in hub_give.LICENCES.items()]
    with gr.Column(elem_classes="ah-step"):
        ui.head3.render()
        ui.nothing = html(
            '<p class="ah-soft">What you learn, discover, classify or paint on the other tabs can be given here.</p>'
        )
        with gr.Column(visible=False) as ui.by_offer:
            ui.offer = gr.Dropdown([], label="What", elem_id="ah-h-offer")
            ui.target = gr.Textbox(
                "", label="Repository", placeholder="OWNER/NAME", max_length=200, elem_id="ah-h-target"
            )
            ui.private = gr.Radio(
                [("Private", "private"), ("Public", "public")],
                value="private",
                label="Who sees a new repository",
                elem_id="ah-h-private",
            )
            with gr.Accordion("Licence and message", open=False, elem_classes="ah-settings"):
                ui.licence = gr.Dropdown(
                    licences, value="", label="Licence", allow_custom_value=True, elem_id="ah-h-licence"
                )
                ui.message = gr.Textbox("", label="What is new in it", max_length=500, elem_id="ah-h-message")
            with gr.Row():
                ui.preview = gr.Button("Show card", variant="primary", min_width=120, elem_id="ah-h-preview")
                ui.push = gr.Button("Push", interactive=False, min_width=90, elem_id="ah-h-push")
                ui.stop3 = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-h-cancel-push")
        ui.slot3 = html(elem_classes="ah-slot", elem_id="ah-h-slot3")
        ui.given = html(elem_classes="ah-slot", elem_id="ah-h-given")


def _there(ui: SimpleNamespace) -> None:
    ui.back = gr.Button("‹ All that is there", size="sm", visible=False, elem_id="ah-h-back")
    ui.chosen = html(visible=False, elem_id="ah-h-chosen")
    script = (HERE / "gallery.js").read_text(encoding="utf-8")
    ui.repos = html(hub_view.empty(), js_on_load=script, elem_id="ah-h-repos")
    ui.picked = gr.Number(0, precision=0, visible="hidden", elem_id="ah-h-picked")


def _card(ui: SimpleNamespace) -> None:
    ui.draft = html(hub_view.draft("", ""), elem_id="ah-h-draft")
    with gr.Accordion("Change its text", open=False, visible=False, elem_classes="ah-settings") as ui.by_text:
        ui.text = gr.Textbox(
            "",
            label="Text of the card",
            info="Markdown; what is here is pushed.",
            lines=16,
            max_lines=40,
            max_length=200_000,
            elem_id="ah-h-text",
        )
        ui.redraw = gr.Button("Draw it again", size="sm", elem_id="ah-h-redraw")
