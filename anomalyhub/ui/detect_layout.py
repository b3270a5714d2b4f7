"""Where things are on the Detect tab: the three steps on the left, what there is to see on the right."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr

from anomalyhub.ui import guide, methods, sources
from anomalyhub.ui.session import Session
from anomalyhub.ui.theme import HERE

_COLUMNS = ["image", "score", "p-value", "verdict", "label"]


def lay_out(ui: SimpleNamespace) -> None:
    """Add the tab's components to `ui`, which has data_root and trusted."""
    ui.memory = gr.BrowserState(None, storage_key="anomalyhub-detect", secret="anomalyhub")  # fixed: an app may restart
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=330, elem_id="ah-steps"):
            _normals(ui)
            _learn(ui)
            _check(ui)
        with gr.Column(scale=9, min_width=430, elem_id="ah-stage"):
            ui.stage = _html(guide.stage(Session()))
            with gr.Column(visible=False) as ui.results:
                _results(ui)


def _html(value: str = "", js: str | None = None, **options) -> gr.HTML:
    """HTML that brings its own style; `js` names a file beside this one."""
    script = (HERE / js).read_text(encoding="utf-8") if js else None
    return gr.HTML(value, js_on_load=script, apply_default_css=False, **options)


def _normals(ui: SimpleNamespace) -> None:
    choices = [("Sample", "sample"), ("My images", "upload")]
    choices += [("Folder", "dataset")] * (ui.data_root is not None)
    with gr.Column(elem_classes="ah-step"):
        ui.head1 = _html(guide.step_heads(Session())[0])
        have = [(text, name) for name, text in methods.HAVE.items()]
        ui.have = gr.Radio(have, value="many", label="What do you have?", elem_id="ah-have")
        ui.kind = gr.Radio(choices, value="sample", show_label=False, container=False, elem_id="ah-kind")
        ui.shots = gr.Slider(
            methods.FEWEST,
            methods.MOST,
            value=4,
            step=1,
            label="Normal photos to learn from",
            visible=False,
            buttons=[],
            elem_id="ah-shots",
        )
        with gr.Column() as ui.by_sample:
            products = [(name.split()[-1].capitalize(), key) for key, name in sources.SAMPLES.items()]
            ui.product = gr.Radio(products, value="weave", label="Product", elem_id="ah-product")
            ui.use_sample = gr.Button("Use this sample", variant="primary", elem_id="ah-use-sample")
        with gr.Column(visible=False) as ui.by_upload:
            ui.normal_files = gr.File(
                file_count="multiple", label="Normal images or a zip", height=150, elem_id="ah-normal-files"
            )
            ui.normal_folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm")
        with gr.Column(visible=False) as ui.by_dataset:
            names = sources.dataset_choices(ui.data_root) if ui.data_root else []
            ui.dataset = gr.Dropdown(names, label="Data set", value=names[0] if names else None, elem_id="ah-dataset")
            ui.use_dataset = gr.Button("Use this data set", variant="primary", elem_id="ah-use-dataset")
        ui.slot1 = _html(elem_classes="ah-slot")


def _learn(ui: SimpleNamespace) -> None:
    hint = "embedded needs no download: a small trained network that comes with the program. "
    hint += "Any timm name, or NAME@FILE.safetensors, works too." if ui.trusted else "The others are downloaded once."
    with gr.Column(elem_classes="ah-step"):
        ui.head2 = _html(guide.step_heads(Session())[1])
        _methods(ui)
        with gr.Accordion("Settings", open=False, elem_classes="ah-settings"):
            ui.backbone = gr.Dropdown(
                list(methods.OFFERED), value="embedded", label="Backbone", info=hint, allow_custom_value=ui.trusted
            )
            ui.clip = gr.Dropdown(
                list(methods.CLIP),
                value=methods.CLIP[0],
                label="CLIP",
                info="Downloaded once, 1.7 GB." + " clip@FOLDER takes one of this machine." * ui.trusted,
                allow_custom_value=ui.trusted,
                visible=False,
                elem_id="ah-clip",
            )
            ui.coreset = gr.Slider(1, 50, value=10, step=1, label="Details remembered (%)", buttons=[])
            ui.rate = gr.Slider(0.1, 10, value=1, step=0.1, label="False alarms accepted (%)", buttons=[])
            ui.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        with gr.Row():
            ui.learn = gr.Button("Learn", variant="primary", interactive=False, min_width=120, elem_id="ah-learn")
            ui.stop2 = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-cancel-learn")
        ui.slot2 = _html(elem_classes="ah-slot", elem_id="ah-learn-slot")
        ui.support = _html(elem_classes="ah-slot", elem_id="ah-support")


def _methods(ui: SimpleNamespace) -> None:
    """The methods for what the visitor has, where there is more than one, and what they ask for."""
    ui.methods, ui.by_method = {}, {}
    for have in ("few", "none"):
        rows = methods.offered(have, ui.trusted)
        with gr.Column(visible=False) as ui.by_method[have]:
            ui.methods[have] = gr.Radio(
                [(f"{one.title}\n{one.needs}", one.key) for one in rows],
                value=rows[0].key,
                label="Method",
                elem_id=f"ah-method-{have}",
                elem_classes="ah-methods",
            )
            missing = [one.title for one in methods.METHODS if have in one.have and one not in rows]
            if missing:
                text = f"{', '.join(missing)} needs weights that were trained before: run the app yourself to use it."
                _html(f'<p class="ah-soft">{text}</p>')
    with gr.Column(visible=False) as ui.words:
        ui.product_name = gr.Textbox(
            "object",
            label="What are the parts called?",
            info="In English and singular, such as metal bolt",
            max_length=200,
            elem_id="ah-product-name",
        )
        with gr.Accordion("Words for good and bad", open=False, elem_classes="ah-settings"):
            hint = "One per line; {} stands for the name"
            ui.normal_states = gr.Textbox("\n".join(methods.NORMAL_STATES), label="Good", info=hint, lines=7)
            ui.abnormal_states = gr.Textbox("\n".join(methods.ABNORMAL_STATES), label="Bad", info=hint, lines=5)
    ui.weights = gr.Textbox(
        "",
        label="Trained weights",
        info="A folder that `anomalyhub train` wrote on this machine",
        visible=False,
        elem_id="ah-weights",
    )


def _check(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-step"):
        ui.head3 = _html(guide.step_heads(Session())[2])
        choices = [("Test images", "tests"), ("My images", "uploads")]
        ui.which = gr.Radio(
            choices, value="tests", show_label=False, container=False, visible=False, elem_id="ah-which"
        )
        with gr.Column(visible=False) as ui.by_unknown:
            ui.unknown_files = gr.File(
                file_count="multiple", label="Unknown images or a zip", height=150, elem_id="ah-unknown-files"
            )
            ui.unknown_folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm")
        with gr.Row():
            ui.check = gr.Button("Check", variant="primary", interactive=False, min_width=120, elem_id="ah-check")
            ui.stop3 = gr.Button("Cancel", visible=False, min_width=90, elem_id="ah-cancel-check")
        ui.slot3 = _html(elem_classes="ah-slot", elem_id="ah-check-slot")


def _results(ui: SimpleNamespace) -> None:
    with gr.Column(elem_classes="ah-panel"):
        with gr.Row():
            with gr.Column(scale=5, min_width=280):
                ui.summary = _html(elem_id="ah-summary")
                with gr.Row(elem_classes="ah-downloads"):
                    ui.csv = gr.Button("Table (CSV)", size="sm", min_width=90, elem_id="ah-csv")
                    ui.overlays = gr.Button("Overlays (zip)", size="sm", min_width=90, elem_id="ah-overlays")
                    ui.model = gr.Button("Model (zip)", size="sm", min_width=90, elem_id="ah-model")
                ui.slot4 = _html(elem_classes="ah-slot")
            with gr.Column(scale=6, min_width=320):
                ui.histogram = _html(elem_id="ah-histogram")
                ui.threshold = gr.Slider(0, 1, value=0.5, label="Threshold", buttons=[], elem_id="ah-threshold")
                ui.default = gr.Button("Back to the default", size="sm", elem_id="ah-default")
    with gr.Column(elem_classes="ah-panel"):
        with gr.Tabs():
            with gr.Tab("Pictures"):
                with gr.Row(elem_classes="ah-tools"):
                    ui.shown = gr.Radio(
                        [("All", "all"), ("Defective", "defective"), ("Normal", "normal")],
                        value="all",
                        show_label=False,
                        container=False,
                        elem_id="ah-shown",
                    )
                    ui.legend = _html(elem_id="ah-legend")
                ui.gallery = _html(js="gallery.js", elem_id="ah-gallery")
                ui.page = gr.Slider(1, 2, value=1, step=1, label="Page", visible=False, buttons=[], elem_id="ah-page")
            with gr.Tab("Table"):
                ui.table = gr.Dataframe(
                    headers=_COLUMNS,
                    datatype=["str", "number", "str", "str", "str"],
                    buttons=[],
                    interactive=False,
                    show_label=False,
                    elem_id="ah-table",
                )
    ui.file = gr.DownloadButton(visible="hidden", elem_id="ah-file")
    ui.picked = gr.Number(0, precision=0, visible="hidden", elem_id="ah-picked")
    ui.detail = _html(js="detail.js", elem_id="ah-detail")
