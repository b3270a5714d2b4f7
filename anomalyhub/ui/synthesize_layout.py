"""Where things are on the Synthesize tab: the three steps on the left, what is painted on the right."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import gradio as gr

from anomalyhub.ui import sources, synthesize_jobs
from anomalyhub.ui.synthesize import Form, Visit

_MASKS = [("Clouds (Perlin)", "perlin"), ("Specks (Poisson)", "poisson"), ("Polygons", "polygon")]
_THIRDS = "ah-thirds"  # in style.css: three choices in one row
_FOREGROUNDS = [
    ("Find out", "auto"),
    ("GrabCut", "grabcut"),
    ("Flood fill from the border", "floodfill"),
    ("The whole image", "whole"),
]
_AGAINST = [("The normal patches, as in use", "bank"), ("Each image before it was painted", "clean")]


def lay_out(ui: SimpleNamespace, heads: Sequence[str], stage: str) -> None:
    """Add the tab's components to `ui`, which has data_root, trusted and work; heads and stage are what shows first."""
    ui.head1, ui.head2, ui.head3 = (_html(head, render=False) for head in heads)
    ui.visit = gr.State(Visit())
    ui.memory = gr.BrowserState(None, storage_key="anomalyhub-synthesize", secret="anomalyhub")
    ui.timer = gr.Timer(1.0, active=False)
    with gr.Row(equal_height=False, elem_id="ah-synthesize"):
        with gr.Column(scale=4, min_width=330, elem_id="ah-s-steps", elem_classes="ah-steps"):
            _product(ui)
            _paint(ui)
            _pretrain(ui)
        with gr.Column(scale=9, min_width=430, elem_id="ah-s-stage"):
            ui.stage = _html(stage)
            with gr.Column(visible=False) as ui.results:
                _results(ui)
    ui.file = gr.DownloadButton(visible="hidden", elem_id="ah-s-file")


def _html(value: str = "", **options) -> gr.HTML:
    """HTML that brings its own style."""
    return gr.HTML(value, **{"js_on_load": None, "apply_default_css": False, **options})


def _product(ui: SimpleNamespace) -> None:
    choices = [("From Detect", "detect"), ("Sample", "sample"), ("My images", "upload")]
    choices += [("Folder", "dataset")] * (ui.data_root is not None)
    with gr.Column(elem_classes="ah-step"):
        ui.head1.render()
        ui.kind = gr.Radio(choices, value="sample", show_label=False, container=False, elem_id="ah-s-kind")
        with gr.Column(visible=False) as ui.by_detect:
            _html('<p class="ah-soft">The normal images that the Detect tab has.</p>')
            ui.use_detect = gr.Button("Use these images", variant="primary", elem_id="ah-s-use-detect")
        with gr.Column() as ui.by_sample:
            products = [(name.split()[-1].capitalize(), key) for key, name in sources.SAMPLES.items()]
            ui.product = gr.Radio(products, value="weave", label="Product", elem_id="ah-s-product")
            ui.use_sample = gr.Button("Use this sample", variant="primary", elem_id="ah-s-use-sample")
        with gr.Column(visible=False) as ui.by_upload:
            ui.files = gr.File(
                file_count="multiple", label="Normal images or a zip", height=150, elem_id="ah-s-normal-files"
            )
        with gr.Column(visible=False) as ui.by_dataset:
            ui.dataset = gr.Dropdown([], label="Data set", elem_id="ah-s-dataset")
            ui.use_dataset = gr.Button("Use this data set", variant="primary", elem_id="ah-s-use-dataset")
        ui.slot1 = _html(elem_classes="ah-slot", elem_id="ah-s-slot1")


def _paint(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head2.render()
        ui.mask = gr.Radio(_MASKS, value=Form.mask, label="Shape", elem_id="ah-s-mask", elem_classes=_THIRDS)
        textures = [("Drawn by the program", "drawn"), ("My own", "own")]
        ui.textures = gr.Radio(textures, value="drawn", label="Textures", elem_id="ah-s-textures")
        with gr.Column(visible=False) as ui.by_own:
            ui.texture_files = gr.File(
                file_count="multiple", label="Images, or a zip of folders", height=140, elem_id="ah-s-texture-files"
            )
            _html('<p class="ah-soft">Of each folder the first image is taken. Two kinds are the least.</p>')
            ui.textures_said = _html(elem_classes="ah-slot", elem_id="ah-s-textures-slot")
        _look(ui)
        ui.each = gr.Slider(
            2, 40, value=Form.each, step=1, label="Images of each kind", buttons=[], elem_id="ah-s-each"
        )
        with gr.Row():
            ui.start = gr.Button("Generate", variant="primary", interactive=False, min_width=120, elem_id="ah-s-start")
            ui.resume = gr.Button("Go on", visible=False, min_width=90, elem_id="ah-s-resume")
            ui.stop = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-s-cancel")
        ui.slot2 = _html(elem_classes="ah-slot", elem_id="ah-s-slot2")
        ui.download = gr.Button("Data set (zip)", size="sm", visible=False, elem_id="ah-s-download")


def _look(ui: SimpleNamespace) -> None:
    """How the defects look: the preview follows."""
    with gr.Accordion("Settings", open=False, elem_classes="ah-settings", elem_id="ah-s-settings"):
        bounds = {"minimum": 5, "maximum": 100, "step": 5, "buttons": []}
        ui.weakest = gr.Slider(value=Form.beta[0], label="Weakest paint (%)", **bounds)
        ui.strongest = gr.Slider(value=Form.beta[1], label="Strongest paint (%)", **bounds)
        bounds = {"minimum": 1, "maximum": 90, "step": 1, "buttons": []}
        with gr.Column() as ui.areas:
            ui.smallest = gr.Slider(value=Form.area[0], label="Smallest defect (% of the part)", **bounds)
            ui.largest = gr.Slider(value=Form.area[1], label="Largest defect (% of the part)", **bounds)
        ui.polygon = gr.Slider(value=Form.polygon, label="Size of a polygon (% of the part)", visible=False, **bounds)
        ui.foreground = gr.Radio(
            _FOREGROUNDS, value=Form.foreground, label="Where the part is", elem_id="ah-s-foreground"
        )
        ui.seed = gr.Number(Form.seed, label="Seed", precision=0, minimum=0)


def _pretrain(ui: SimpleNamespace) -> None:
    hint = "A transformer. embedded comes with the program"
    hint += "; any timm name, or NAME@FILE.safetensors, works too." if ui.trusted else "; others are downloaded once."
    with gr.Column(elem_classes="ah-step"):
        ui.head3.render()
        ui.detector = gr.Radio(
            [("The Detect tab’s model", "detect"), ("Learned for this", "own")],
            value="own",
            label="What is normal",
            visible=False,
            elem_id="ah-s-detector",
        )
        heads = [(title, name) for name, title in synthesize_jobs.HEADS.items()]
        ui.head = gr.Radio(heads, value=heads[0][1], label="Classifier", elem_id="ah-s-head", elem_classes=_THIRDS)
        with gr.Accordion("Settings", open=False, elem_classes="ah-settings"):
            ui.backbone = gr.Dropdown(
                list(synthesize_jobs.OFFERED),
                value=synthesize_jobs.OFFERED[0],
                label="Backbone of Prototype",
                info=hint,
                allow_custom_value=ui.trusted,
            )
            ui.against = gr.Radio(_AGAINST, value="bank", label="A defect is what differs from")
        with gr.Row():
            ui.start3 = gr.Button(
                "Pretrain", variant="primary", interactive=False, min_width=120, elem_id="ah-s-pretrain"
            )
            ui.resume3 = gr.Button("Go on", visible=False, min_width=90, elem_id="ah-s-resume3")
            ui.stop3 = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-s-cancel3")
        ui.slot3 = _html(elem_classes="ah-slot", elem_id="ah-s-slot3")
        ui.download3 = gr.Button("Classifier (zip)", size="sm", visible=False, elem_id="ah-s-download3")


def _results(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-panel"):
        ui.summary = _html(visible=False, elem_id="ah-s-summary")
        with gr.Tabs(selected="preview", elem_id="ah-s-tabs") as ui.tabs:
            with gr.Tab("Preview", id="preview"):
                ui.preview = _html(elem_id="ah-s-preview")
                ui.others = gr.Button("Show others", size="sm", elem_id="ah-s-others")
            with gr.Tab("Painted defects", id="painted"):
                ui.gallery = _html(elem_id="ah-s-gallery")
                ui.page = gr.Slider(1, 2, value=1, step=1, label="Page", visible=False, buttons=[], elem_id="ah-s-page")
