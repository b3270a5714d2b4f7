"""Where things are on the Discover tab: the three steps on the left, the board on the right."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import gradio as gr

from anomalyhub.ui import board, discover, sources
from anomalyhub.ui.theme import HERE

_BINARIZERS = [("MEBin: fits each image", "mebin"), ("Otsu", "otsu"), ("Fixed at half of the range", "fixed")]


def lay_out(ui: SimpleNamespace, heads: Sequence[str], stage: str) -> None:
    """Add the tab's components to `ui`, which has data_root, trusted and work; heads and stage are what shows first."""
    ui.head1, ui.head2, ui.head3 = (_html(head, render=False) for head in heads)
    ui.visit = gr.State(discover.Visit())
    ui.memory = gr.BrowserState(None, storage_key="anomalyhub-discover", secret="anomalyhub")
    ui.timer = gr.Timer(1.0, active=False)
    with gr.Row(equal_height=False, elem_id="ah-discover"):
        with gr.Column(scale=4, min_width=330, elem_id="ah-discover-steps", elem_classes="ah-steps"):
            _images(ui)
            _kinds(ui)
            _save(ui)
        with gr.Column(scale=10, min_width=430, elem_id="ah-discover-stage"):
            ui.stage = _html(stage, elem_id="ah-discover-empty")
            with gr.Column(visible=False) as ui.results:
                _results(ui)


def _html(value: str = "", **options) -> gr.HTML:
    """HTML that brings its own style."""
    return gr.HTML(value, **{"js_on_load": None, "apply_default_css": False, **options})


def _images(ui: SimpleNamespace) -> None:
    choices = [("From Detect", "detect"), ("Sample", "sample"), ("Images + maps", "uploads")]
    choices += [("Folder", "dataset")] * (ui.data_root is not None)
    with gr.Column(elem_classes="ah-step"):
        ui.head1.render()
        ui.kind = gr.Radio(choices, value="detect", show_label=False, container=False, elem_id="ah-d-kind")
        with gr.Column() as ui.by_detect:
            _html('<p class="ah-soft">The images that the Detect tab checked, with the detector that it learned.</p>')
            ui.use_detect = gr.Button("Use these images", variant="primary", elem_id="ah-d-use-detect")
        with gr.Column(visible=False) as ui.by_sample:
            products = [(name.split()[-1].capitalize(), key) for key, name in sources.SAMPLES.items()]
            ui.product = gr.Radio(products, value="weave", label="Product", elem_id="ah-d-product")
            ui.use_sample = gr.Button("Use this sample", variant="primary", elem_id="ah-d-use-sample")
        with gr.Column(visible=False) as ui.by_upload:
            ui.image_files = gr.File(file_count="multiple", label="Images or a zip", height=120, elem_id="ah-d-images")
            ui.map_files = gr.File(
                file_count="multiple",
                label="Their anomaly maps: PNG, NPY, TIFF or a zip",
                height=120,
                elem_id="ah-d-maps",
            )
            _html('<p class="ah-soft">A map has its image’s name. Any program’s maps will do; sizes may differ.</p>')
        with gr.Column(visible=False) as ui.by_dataset:
            ui.dataset = gr.Dropdown([], label="Data set", elem_id="ah-d-dataset")
            ui.defects = gr.Radio(
                [("Its own masks", "masks"), ("Detect tab’s detector", "model")],
                value="masks",
                label="Where the defects are",
                elem_id="ah-d-defects",
            )
            ui.use_dataset = gr.Button("Use this data set", variant="primary", elem_id="ah-d-use-dataset")
        ui.slot1 = _html(elem_classes="ah-slot", elem_id="ah-d-slot1")


def _kinds(ui: SimpleNamespace) -> None:
    hint = "A transformer. embedded comes with the program"
    hint += "; any timm name, or NAME@FILE.safetensors, works too." if ui.trusted else "; others are downloaded once."
    numbers = [("Find out", "auto"), *((str(number), str(number)) for number in range(2, 16))]
    with gr.Column(elem_classes="ah-step"):
        ui.head2.render()
        ui.classes = gr.Dropdown(
            numbers,
            value="auto",
            label="Number of kinds",
            info="Normal counts as one if normal images are there.",
            allow_custom_value=True,
            elem_id="ah-d-classes",
        )
        with gr.Accordion("Settings", open=False, elem_classes="ah-settings"):
            methods = [(text, name) for name, text in discover.METHODS.items()]
            ui.method = gr.Radio(methods, value="clustering", label="Method")
            ui.backbone = gr.Dropdown(
                list(discover.OFFERED), value="embedded", label="Backbone", info=hint, allow_custom_value=ui.trusted
            )
            ui.binarizer = gr.Radio(_BINARIZERS, value="mebin", label="From anomaly maps to regions")
            ui.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        with gr.Row():
            ui.start = gr.Button("Discover", variant="primary", interactive=False, min_width=120, elem_id="ah-d-start")
            ui.resume = gr.Button("Go on", visible=False, min_width=90, elem_id="ah-d-resume")
            ui.stop = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-d-cancel")
        ui.slot2 = _html(elem_classes="ah-slot", elem_id="ah-d-slot2")


def _save(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head3.render()
        with gr.Column(visible=False, elem_classes="ah-saves") as ui.saves:
            ui.labelled = gr.Button("Labelled data set (zip)", variant="primary", elem_id="ah-d-labelled")
            with gr.Row(elem_classes="ah-downloads"):
                ui.model = gr.Button("Model (zip)", size="sm", min_width=90, elem_id="ah-d-model")
                ui.table = gr.Button("Table (CSV)", size="sm", min_width=90, elem_id="ah-d-table")
        ui.slot3 = _html(elem_classes="ah-slot", elem_id="ah-d-slot3")
        ui.file = gr.DownloadButton(visible="hidden", elem_id="ah-d-file")


def _results(ui: SimpleNamespace) -> None:
    def pictures(asked):
        return board.pictures(ui.work, asked)

    def look(asked):
        return board.look(ui.work, asked)

    script = (HERE / "board.js").read_text(encoding="utf-8")
    with gr.Column(elem_classes="ah-panel"):
        ui.summary = _html(elem_id="ah-d-summary")
        with gr.Tabs():
            with gr.Tab("Board"):
                ui.board = _html(js_on_load=script, server_functions=[pictures, look], elem_id="ah-board")
            with gr.Tab("Plots"):
                ui.sizes = _html(elem_id="ah-d-sizes")
                ui.plots = _html(elem_id="ah-d-plots")
    ui.deeds = gr.Textbox("[]", visible="hidden", elem_id="ah-d-deeds")
