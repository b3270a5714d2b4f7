"""Where things are on the Leaderboard tab: what is asked for on the left, table and plots on the right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from types import SimpleNamespace

import gradio as gr

from anomalyhub.benchmark import submission
from anomalyhub.benchmark.records import TASKS
from anomalyhub.ui import hub, leaderboard
from anomalyhub.ui.classify_layout import html
from anomalyhub.ui.leaderboard import Filter
from anomalyhub.ui.leaderboard_view import ORIGINS
from anomalyhub.ui.theme import HERE


def lay_out(ui: SimpleNamespace, heads: Sequence[str]) -> None:
    """Add the tab's components to `ui`, which has trusted and work; heads are what shows first."""
    ui.head1, ui.head2, ui.head3 = (html(head, render=False) for head in heads)
    ui.visit = gr.State(leaderboard.Visit())
    with gr.Row(equal_height=False, elem_id="ah-leaderboard"):
        with gr.Column(scale=4, min_width=330, elem_classes="ah-side"):
            _compare(ui)
            _results(ui)
            _submit(ui)
        with gr.Column(scale=11, min_width=430, elem_id="ah-l-stage", elem_classes="ah-main"):
            with gr.Column(elem_classes="ah-panel"):
                ui.hint = html(elem_id="ah-l-hint")
                with gr.Tabs(elem_id="ah-l-tabs"):
                    with gr.Tab("Table"):
                        ui.table = html(js_on_load=_script("leaderboard.js"), elem_id="ah-l-rows")
                    with gr.Tab("Accuracy and time"):
                        ui.times = html(js_on_load=_script("gallery.js"), elem_id="ah-l-times")
                    with gr.Tab("By product"):
                        ui.products = html(js_on_load=_script("gallery.js"), elem_id="ah-l-products")
                ui.notes = html(elem_id="ah-l-notes")
    ui.file = gr.DownloadButton(visible="hidden", elem_id="ah-l-file")
    ui.picked = gr.Number(0, precision=0, visible="hidden", elem_id="ah-l-picked")
    ui.column = gr.Textbox("", visible="hidden", elem_id="ah-l-column")
    ui.detail = html(js_on_load=_script("detail.js"), elem_id="ah-l-detail")


def _script(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _compare(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head1.render()
        tasks = [("Find defects" if task == "detection" else _TASKS[task], task) for task in TASKS]
        ui.task = gr.Radio(
            tasks,
            value=Filter.task,
            show_label=False,
            container=False,
            elem_id="ah-l-task",
            elem_classes="ah-thirds",
        )
        ui.dataset = gr.Dropdown([], label="Data set", elem_id="ah-l-dataset")
        with gr.Row(elem_classes="ah-h-pair"):
            ui.shots = gr.Dropdown([("Any", "")], value="", label="Shots", min_width=110, elem_id="ah-l-shots")
            ui.metric = gr.Dropdown(
                [("The main ones", "")], value="", label="Metric", min_width=110, elem_id="ah-l-metric"
            )
        ui.words = gr.Textbox("", label="Search", placeholder="patchcore resnet", max_length=200, elem_id="ah-l-words")
        origins = [(text, name) for name, text in ORIGINS.items()]
        ui.origins = gr.CheckboxGroup(
            origins,
            value=list(ORIGINS),
            show_label=False,
            container=False,
            elem_id="ah-l-origins",
            elem_classes="ah-thirds",
        )
        with gr.Accordion("More filters", open=False, elem_classes="ah-settings"):
            ui.product = gr.Dropdown(
                [("Mean of all", leaderboard.MEAN)], value=leaderboard.MEAN, label="Product", elem_id="ah-l-product"
            )
            ui.parts = gr.Checkbox(False, label="Rows that compare parts of a method", elem_id="ah-l-parts")
        ui.csv = gr.Button("Table (CSV)", size="sm", elem_id="ah-l-csv")


_TASKS = {"discovery": "Discover kinds", "classification": "Name kinds"}


def _results(ui: SimpleNamespace) -> None:
    folders = list(hub.folders(ui.work, ui.trusted))
    with gr.Column(elem_classes="ah-step"):
        ui.head2.render()
        ui.place = gr.Radio(
            [(hub.HUB, "hub"), ("Folder", "folder")],
            value="hub",
            show_label=False,
            container=False,
            visible=ui.trusted or bool(folders),
            elem_id="ah-l-place",
        )
        with gr.Column(visible=False) as ui.by_folder:
            ui.folder = gr.Dropdown(
                folders,
                value=folders[0] if folders else None,
                label="Folder",
                info="The store, such as a mounted drive." if ui.trusted else None,
                allow_custom_value=ui.trusted,
                elem_id="ah-l-folder",
            )
        ui.repo = gr.Textbox(
            "",
            label="Repository of results",
            placeholder="OWNER/NAME",
            info="The Hub is asked as who has logged in on the Hub tab.",
            max_length=200,
            elem_id="ah-l-repo",
        )
        ui.pull = gr.Button("Read it", variant="primary", elem_id="ah-l-pull")
        own = bool(ui.work.results)
        ui.push = gr.Button(
            "Push the results of this machine there", size="sm", visible=own and ui.trusted, elem_id="ah-l-push"
        )
        ui.again = gr.Button("Read the results of this machine again", size="sm", visible=own, elem_id="ah-l-again")
        ui.slot2 = html(elem_classes="ah-slot", elem_id="ah-l-slot2")


def _submit(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head3.render()
        ui.files = gr.File(
            file_count="multiple",
            file_types=[".json", ".csv"],
            label="JSON, with CSV of predictions",
            height=120,
            elem_id="ah-l-files",
        )
        ui.slot3 = html(elem_classes="ah-slot", elem_id="ah-l-slot3")
        with gr.Column(visible=False) as ui.adding:
            ui.where = gr.Radio([], label="Add it", elem_id="ah-l-where", elem_classes="ah-rows")
            ui.add = gr.Button("Add to the results", variant="primary", elem_id="ah-l-add")
        with gr.Accordion("What a submission looks like", open=False, elem_classes="ah-settings"):
            html(_form())


def _form() -> str:
    """An example of a submission, and what its reader says of it."""
    about = (submission.__doc__ or "").partition("Figures are")
    example = json.dumps(submission.EXAMPLE, indent=1)
    return f'<pre class="ah-l-form">{escape(example)}</pre><p class="ah-soft">{escape("".join(about[1:]))}</p>'
