"""Where things are on the Compare tab: the three steps on the left, the chains on the right."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import gradio as gr

from anomalyhub.ui import compare, sources
from anomalyhub.ui.classify_layout import html
from anomalyhub.ui.compare import Form


def lay_out(ui: SimpleNamespace, heads: Sequence[str], stage: str) -> None:
    """Add the tab's components to `ui`, which has data_root and trusted; heads and stage are what shows first."""
    ui.head1, ui.head2, ui.head3 = (html(head, render=False) for head in heads)
    ui.visit = gr.State(compare.Visit())
    ui.memory = gr.BrowserState(None, storage_key="anomalyhub-compare", secret="anomalyhub")
    ui.timer = gr.Timer(1.0, active=False)
    with gr.Row(equal_height=False, elem_id="ah-compare"):
        with gr.Column(scale=4, min_width=330, elem_classes="ah-side"):
            _images(ui)
            _parts(ui)
            _job(ui)
        with gr.Column(scale=10, min_width=430, elem_id="ah-p-stage", elem_classes="ah-main"):
            ui.stage = html(stage, elem_id="ah-p-empty")
            with gr.Column(visible=False) as ui.results:
                with gr.Column(elem_classes="ah-panel"):
                    ui.summary = html(elem_id="ah-p-summary")
                with gr.Column(elem_classes="ah-panel"):
                    with gr.Tabs(elem_id="ah-p-tabs"):
                        with gr.Tab("Chains"):
                            ui.chains = html(elem_id="ah-p-chains")
                        with gr.Tab("Parts"):
                            ui.parts = html(elem_id="ah-p-parts")
                        with gr.Tab("Figures"):
                            ui.figures = html(elem_id="ah-p-figures")
                    ui.use = html(elem_id="ah-p-use")
    ui.file = gr.DownloadButton(visible="hidden", elem_id="ah-p-file")


def _images(ui: SimpleNamespace) -> None:
    choices = [("Sample", "sample"), ("My images", "upload"), ("From Detect", "detect"), ("Discover board", "board")]
    choices += [("Folder", "dataset")] * (ui.data_root is not None)
    with gr.Column(elem_classes="ah-step"):
        ui.head1.render()
        ui.kind = gr.Radio(choices, value="sample", show_label=False, container=False, elem_id="ah-p-kind")
        with gr.Column() as ui.by_sample:
            products = [(name.split()[-1].capitalize(), key) for key, name in sources.SAMPLES.items()]
            ui.product = gr.Radio(products, value="weave", label="Product", elem_id="ah-p-product")
            ui.use_sample = gr.Button("Use this sample", variant="primary", elem_id="ah-p-use-sample")
        with gr.Column(visible=False) as ui.by_upload:
            ui.files = gr.File(file_count="multiple", label="A zip of folders", height=120, elem_id="ah-p-files")
            html(
                '<p class="ah-soft">A folder for each kind of defect, and one named good. Masks in ground_truth, as in '
                "MVTec AD, tell more.</p>"
            )
        with gr.Column(visible=False) as ui.by_detect:
            html('<p class="ah-soft">The product of the Detect tab, with the labels that came with it.</p>')
            ui.use_detect = gr.Button("Use these images", variant="primary", elem_id="ah-p-use-detect")
        with gr.Column(visible=False) as ui.by_board:
            html('<p class="ah-soft">The images of the Discover board, with the kinds that you named there.</p>')
            ui.use_board = gr.Button("Use the board", variant="primary", elem_id="ah-p-use-board")
        with gr.Column(visible=False) as ui.by_dataset:
            ui.dataset = gr.Dropdown([], label="Data set", elem_id="ah-p-dataset")
            ui.use_dataset = gr.Button("Use this data set", variant="primary", elem_id="ah-p-use-dataset")
        ui.slot1 = html(elem_classes="ah-slot", elem_id="ah-p-slot1")


def _parts(ui: SimpleNamespace) -> None:
    def boxes(names: dict[str, str], value: Sequence[str], label: str, name: str) -> gr.CheckboxGroup:
        return gr.CheckboxGroup(
            [(text, key) for key, text in names.items()], value=list(value), label=label, elem_id=f"ah-p-{name}"
        )

    with gr.Column(elem_classes="ah-step"):
        ui.head2.render()
        ui.detectors = boxes(compare.DETECTORS, Form.detectors, "Detectors", "detectors")
        ui.binarizers = boxes(compare.BINARIZERS, Form.binarizers, "From maps to outlines", "binarizers")
        ui.classifiers = boxes(compare.CLASSIFIERS, Form.classifiers, "Classifiers", "classifiers")
        html('<p class="ah-soft">Contrastive and Relation train a network each time; the ResNets are downloaded.</p>')
        with gr.Accordion("Settings", open=False, elem_classes="ah-settings"):
            ui.shots = gr.Slider(1, 20, value=Form.shots, step=1, label="Examples of each kind", buttons=[])
            ui.seeds = gr.Slider(
                1,
                10,
                value=Form.seeds,
                step=1,
                label="Rounds, each with other examples",
                buttons=[],
                elem_id="ah-p-seeds",
            )
            ui.rate = gr.Slider(
                0.1, 20, value=Form.false_alarm_rate, step=0.1, label="False alarms of the detector (%)", buttons=[]
            )
            ui.more = gr.Textbox(
                "",
                label="Further parts, one per line",
                placeholder="patchcore,backbone=resnet18@weights.safetensors\nfixed,value=0.4",
                info="NAME,KEY=VALUE as anomalyhub swap takes them.",
                lines=2,
                max_length=2000,
                visible=ui.trusted,
                elem_id="ah-p-more",
            )


def _job(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head3.render()
        with gr.Row():
            ui.start = gr.Button("Compare", variant="primary", interactive=False, min_width=120, elem_id="ah-p-start")
            ui.resume = gr.Button("Go on", visible=False, min_width=90, elem_id="ah-p-resume")
            ui.stop = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-p-cancel")
        ui.slot3 = html(elem_classes="ah-slot", elem_id="ah-p-slot3")
        with gr.Row(visible=False, elem_classes="ah-downloads") as ui.saves:
            ui.csv = gr.Button("Table (CSV)", size="sm", min_width=90, elem_id="ah-p-csv")
            ui.json = gr.Button("JSON", size="sm", min_width=60, elem_id="ah-p-json")
            ui.png = gr.Button("Bars (PNG)", size="sm", min_width=90, elem_id="ah-p-png")
