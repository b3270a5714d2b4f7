"""Where things are on the Classify tab: the three steps on the left, results and examples on the right."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import gradio as gr

from anomalyhub.ui import classify, discover, examples_view, sources
from anomalyhub.ui.theme import HERE


def html(value: str = "", **options) -> gr.HTML:
    """HTML that brings its own style."""
    return gr.HTML(value, **{"js_on_load": None, "apply_default_css": False, **options})


def lay_out(ui: SimpleNamespace, heads: Sequence[str], stage: str) -> None:
    """Add the tab's components to `ui`, which has trusted and work; heads and stage are what shows first."""
    ui.head1, ui.head2, ui.head3 = (html(head, render=False) for head in heads)
    ui.visit = gr.State(classify.Visit())
    ui.memory = gr.BrowserState(None, storage_key="anomalyhub-classify", secret="anomalyhub")
    ui.timer = gr.Timer(1.0, active=False)
    with gr.Row(equal_height=False, elem_id="ah-classify"):
        with gr.Column(scale=4, min_width=330, elem_classes="ah-side"):
            _detector(ui)
            _examples(ui)
            _learn(ui)
        with gr.Column(scale=10, min_width=430, elem_id="ah-c-stage", elem_classes="ah-main"):
            ui.stage = html(stage, elem_id="ah-c-empty")
            with gr.Column(visible=False, elem_classes="ah-panel") as ui.results:
                ui.summary = html(elem_id="ah-c-summary")
                ui.details = html(elem_id="ah-c-details")
            with gr.Column(visible=False, elem_classes="ah-panel") as ui.shelf_panel:
                html('<h3 class="ah-c-title">Examples of each kind</h3>')
                _shelf(ui)


def _detector(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head1.render()
        choices = [("From Detect", "detect"), ("From Discover", "discover"), ("Sample", "sample")]
        ui.kind = gr.Radio(
            choices, value="detect", show_label=False, container=False, elem_id="ah-c-kind", elem_classes="ah-thirds"
        )
        with gr.Column() as ui.by_detect:
            html('<p class="ah-soft">What the Detect tab has learned finds the defects that are to be named.</p>')
            ui.use_detect = gr.Button("Use this detector", variant="primary", elem_id="ah-c-use-detect")
        with gr.Column(visible=False) as ui.by_discover:
            html('<p class="ah-soft">The detector that the Discover tab found its defects with.</p>')
            ui.use_discover = gr.Button("Use this detector", variant="primary", elem_id="ah-c-use-discover")
        with gr.Column(visible=False) as ui.by_sample:
            products = [(name.split()[-1].capitalize(), key) for key, name in sources.SAMPLES.items()]
            ui.product = gr.Radio(products, value="weave", label="Product", elem_id="ah-c-product")
            ui.use_sample = gr.Button("Use this sample", variant="primary", elem_id="ah-c-use-sample")
        ui.slot1 = html(elem_classes="ah-slot", elem_id="ah-c-slot1")


def _examples(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head2.render()
        choices = [("My images", "uploads"), ("Test images", "tests"), ("Discover board", "board")]
        ui.source = gr.Radio(
            choices, value="uploads", show_label=False, container=False, elem_id="ah-c-source", elem_classes="ah-thirds"
        )
        with gr.Column() as ui.by_upload:
            ui.name = gr.Textbox(
                "",
                label="Kind of defect",
                placeholder="scratch",
                info="Leave it empty for a zip that has a folder for each kind.",
                max_length=60,
                elem_id="ah-c-name",
            )
            ui.files = gr.File(
                file_count="multiple", label="Images of this kind, or a zip", height=120, elem_id="ah-c-files"
            )
        with gr.Column(visible=False) as ui.by_count:
            ui.per_kind = gr.Slider(
                1, 10, value=5, step=1, label="Examples of each kind", buttons=[], elem_id="ah-c-per"
            )
        with gr.Column(visible=False) as ui.by_tests:
            html('<p class="ah-soft">The first images of each kind, by the labels that came with the data.</p>')
            ui.use_tests = gr.Button("Take these", variant="primary", elem_id="ah-c-use-tests")
        with gr.Column(visible=False) as ui.by_board:
            html('<p class="ah-soft">Crops of each named column: those you moved first, then the surest.</p>')
            ui.use_board = gr.Button("Take these", variant="primary", elem_id="ah-c-use-board")
        ui.slot2 = html(elem_classes="ah-slot", elem_id="ah-c-slot2")


def _learn(ui: SimpleNamespace) -> None:
    hint = "A transformer. embedded comes with the program"
    hint += "; any timm name, or NAME@FILE.safetensors, works too." if ui.trusted else "; others are downloaded once."
    with gr.Column(elem_classes="ah-step"):
        ui.head3.render()
        with gr.Accordion("Settings", open=False, elem_classes="ah-settings"):
            heads = [(text, name) for name, text in classify.HEADS.items()]
            ui.head = gr.Radio(heads, value="prototype", label="Method", elem_id="ah-c-head", elem_classes="ah-rows")
            ui.pretrained = gr.Dropdown(
                [("Nothing", "")],
                value="",
                label="Pretrained on",
                info="Painted defects, see Synthesize & pretrain; for the same detector and method.",
                elem_id="ah-c-pretrained",
            )
            ui.backbone = gr.Dropdown(
                list(discover.OFFERED), value="embedded", label="Backbone", info=hint, allow_custom_value=ui.trusted
            )
            ui.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        with gr.Row():
            ui.start = gr.Button(
                "Learn the kinds", variant="primary", interactive=False, min_width=120, elem_id="ah-c-start"
            )
            ui.resume = gr.Button("Go on", visible=False, min_width=90, elem_id="ah-c-resume")
            ui.stop = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-c-cancel")
        ui.slot3 = html(elem_classes="ah-slot", elem_id="ah-c-slot3")
        with gr.Column(visible=False, elem_classes="ah-saves") as ui.saves:
            html('<p class="ah-soft">Next: the Inspect tab names the defects of new images.</p>')
            ui.download = gr.Button("Inspector (zip)", size="sm", elem_id="ah-c-download")
            ui.slot4 = html(elem_classes="ah-slot")
        ui.file = gr.DownloadButton(visible="hidden", elem_id="ah-c-file")


def _shelf(ui: SimpleNamespace) -> None:
    def pictures(asked):
        return examples_view.pictures(asked)

    def look(asked):
        return examples_view.look(asked)

    script = (HERE / "board.js").read_text(encoding="utf-8")
    ui.shelf = html(js_on_load=script, server_functions=[pictures, look], elem_id="ah-c-shelf")
    ui.deeds = gr.Textbox("[]", visible="hidden", elem_id="ah-c-deeds")
