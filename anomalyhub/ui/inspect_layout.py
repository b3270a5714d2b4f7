"""Where things are on the Inspect tab: the three steps on the left, what was found on the right."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import gradio as gr

from anomalyhub.ui import inspect
from anomalyhub.ui.classify_layout import html
from anomalyhub.ui.theme import HERE

_COLUMNS = ["image", "kind", "probability", "score", "p-value", "regions", "label"]


def lay_out(ui: SimpleNamespace, heads: Sequence[str], stage: str) -> None:
    """Add the tab's components to `ui`; heads and stage are what shows first."""
    ui.head1, ui.head2, ui.head3 = (html(head, render=False) for head in heads)
    ui.visit = gr.State(inspect.Visit())
    ui.memory = gr.BrowserState(None, storage_key="anomalyhub-inspect", secret="anomalyhub")
    with gr.Row(equal_height=False, elem_id="ah-inspect"):
        with gr.Column(scale=4, min_width=330, elem_classes="ah-side"):
            _tool(ui)
            _images(ui)
            _inspect(ui)
        with gr.Column(scale=10, min_width=430, elem_id="ah-i-stage", elem_classes="ah-main"):
            ui.stage = html(stage, elem_id="ah-i-empty")
            with gr.Column(visible=False) as ui.results:
                _results(ui)


def _tool(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head1.render()
        choices = [(text, name) for name, text in inspect.TOOLS.items()]
        ui.tool = gr.Radio(
            choices, value=None, show_label=False, container=False, elem_id="ah-i-tool", elem_classes="ah-thirds"
        )
        ui.slot1 = html(elem_classes="ah-slot", elem_id="ah-i-slot1")


def _images(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head2.render()
        choices = [("Test images", "tests"), ("My images", "uploads")]
        ui.which = gr.Radio(choices, value="tests", show_label=False, container=False, elem_id="ah-i-which")
        with gr.Column(visible=False) as ui.by_upload:
            ui.files = gr.File(file_count="multiple", label="New images or a zip", height=130, elem_id="ah-i-files")
            ui.upload_folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm")
        ui.slot2 = html(elem_classes="ah-slot", elem_id="ah-i-slot2")


def _inspect(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head3.render()
        with gr.Row():
            ui.inspect = gr.Button("Inspect", variant="primary", interactive=False, min_width=120, elem_id="ah-i-start")
            ui.stop = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-i-cancel")
        ui.slot3 = html(elem_classes="ah-slot", elem_id="ah-i-slot3")


def _results(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-panel"):
        with gr.Row():
            with gr.Column(scale=5, min_width=280):
                ui.summary = html(elem_id="ah-i-summary")
                with gr.Row(elem_classes="ah-downloads"):
                    ui.report = gr.Button("Report", size="sm", min_width=90, elem_id="ah-i-report")
                    ui.csv = gr.Button("Table (CSV)", size="sm", min_width=90, elem_id="ah-i-csv")
                    ui.coco = gr.Button("COCO", size="sm", min_width=70, elem_id="ah-i-coco")
                    ui.all = gr.Button("All (zip)", size="sm", min_width=70, elem_id="ah-i-all")
                ui.slot4 = html(elem_classes="ah-slot")
            with gr.Column(scale=6, min_width=300):
                ui.bars = html(elem_id="ah-i-bars")
    with gr.Column(elem_classes="ah-panel"):
        with gr.Tabs():
            with gr.Tab("Pictures"):
                ui.shown = gr.Radio(
                    [("All", "")],
                    value="",
                    show_label=False,
                    container=False,
                    elem_id="ah-i-shown",
                    elem_classes="ah-chips",
                )
                ui.gallery = html(js_on_load=_script("gallery.js"), elem_id="ah-i-gallery")
                ui.page = gr.Slider(1, 2, value=1, step=1, label="Page", visible=False, buttons=[], elem_id="ah-i-page")
            with gr.Tab("Table"):
                ui.table = gr.Dataframe(
                    headers=_COLUMNS,
                    datatype=["str", "str", "str", "number", "str", "number", "str"],
                    buttons=[],
                    interactive=False,
                    show_label=False,
                    elem_id="ah-i-table",
                    elem_classes="ah-table",
                )
    ui.file = gr.DownloadButton(visible="hidden", elem_id="ah-i-file")
    ui.picked = gr.Number(0, precision=0, visible="hidden", elem_id="ah-i-picked")
    ui.detail = html(js_on_load=_script("detail.js"), elem_id="ah-i-detail")


def _script(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
