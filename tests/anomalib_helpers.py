"""As much of openvino, anomalib and lightning as the adapter uses, so that it is tested without them.

`tests/test_anomalib.py` runs the same exported model through the real openvino where that is installed, and trains a
real anomalib model where that is.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torchvision.transforms import v2

#: A graph of anomalib's kind: the map is the distance to mid-grey, the score its maximum, 0.2 the model's threshold.
GREY, THRESHOLD, RANGE = 0.5, 0.2, 0.8


def expected_map(image: np.ndarray, normalised: bool) -> np.ndarray:
    scores = np.abs(image.astype(np.float32) / 255 - GREY).mean(axis=2)
    return ((scores - THRESHOLD) / RANGE + 0.5).clip(0, 1) if normalised else scores


# openvino ------------------------------------------------------------------------------------------------------------


class _Node:
    def __init__(self, kind, *sources, data=None):
        self.kind, self.sources, self.data = kind, sources, data

    def get_type_name(self):
        return self.kind

    def input(self, index):
        return SimpleNamespace(get_source_output=lambda: SimpleNamespace(get_node=lambda: self.sources[index]))


class _Port:
    def __init__(self, name, shape=(), node=None):
        self.name, self.shape, self.node = name, shape, node

    def get_names(self):
        return {self.name}

    def get_partial_shape(self):
        return [SimpleNamespace(is_static=side is not None, get_length=lambda side=side: side) for side in self.shape]

    def get_node(self):
        return _Node("Result", self.node)


def _constant(value):
    return _Node("Constant", data=np.array(value))


class _Model:
    def __init__(self, options):
        self.options = options
        self.inputs = [_Port("input", tuple(shape)) for shape in options["inputs"]]
        scores = _Node("ReduceMax")
        if options["form"] == "select":  # anomalib 2.7; of "raw" it is a choice that is never taken
            scores = _Node("Select", _constant([options["normalised"]]), _Node("Clamp"), scores)
        elif options["form"] == "clamp":
            scores = _Node("Clamp", scores)
        decision = _Node("Greater", scores, _constant([0.5]))
        self.outputs = [
            _Port(name, node=scores if name in ("pred_score", "anomaly_map") else decision)
            for name in options["outputs"]
        ]

    def __call__(self, batch):
        assert batch.dtype == np.float32 and batch.ndim == 4
        shape = self.options["inputs"][0]
        assert all(side in (None, actual) for side, actual in zip(shape, batch.shape, strict=True))
        images = np.round(batch.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        scores = np.stack([expected_map(image, self.options["normalised"]) for image in images])[:, None]
        if self.options["nan"]:
            scores[..., 0, 0] = np.nan
        values = {"anomaly_map": scores, "pred_score": scores.max((2, 3))}
        return {port: values.get(port.name, scores > 0.5) for port in self.outputs}


class _Core:
    def read_model(self, model, weights=None):
        if isinstance(model, bytes):
            assert isinstance(weights, bytes)
            text = model.decode().removeprefix("<net>")
        else:
            assert weights is None and str(model).endswith(".onnx")
            text = Path(model).read_text()
        try:
            return _Model(json.loads(text))
        except ValueError:
            raise RuntimeError("Check 'false' failed at src/core.cpp:1:\nUnable to read the model.\n") from None

    def compile_model(self, model, device, config):
        assert device == "CPU" and config == {"INFERENCE_PRECISION_HINT": "f32"}
        return model


def _save_model(model, path, compress_to_fp16=True):
    assert not compress_to_fp16
    Path(path).write_text("<net>" + json.dumps(model.options))
    Path(path).with_suffix(".bin").write_bytes(b"\0\1")


def fake_openvino() -> ModuleType:
    module = ModuleType("openvino")
    module.Core, module.save_model = _Core, _save_model
    return module


class FakeExports:
    """Writes models that the fake openvino reads."""

    def write(self, folder: Path, *, decisions=True, batch=None, size=(None, None), **options):
        outputs = ["pred_score", "anomaly_map"] + (["pred_label", "pred_mask"] if decisions else [])
        return self.write_any(folder, [[batch, 3, *size]], outputs, **options)

    def write_any(self, folder: Path, inputs, outputs, *, normalised=True, form="select", nan=False, onnx=False):
        folder.mkdir(parents=True, exist_ok=True)
        options = {"inputs": inputs, "outputs": outputs, "normalised": normalised, "form": form, "nan": nan}
        if onnx:
            (folder / "model.onnx").write_text(json.dumps(options))
            return folder / "model.onnx"
        (folder / "model.xml").write_text("<net>" + json.dumps(options))
        (folder / "model.bin").write_bytes(b"\0")
        return folder / "model.xml"


class RealExports:
    """Writes the same models with the real openvino."""

    def write(
        self,
        folder: Path,
        *,
        decisions=True,
        batch=None,
        size=(None, None),
        normalised=True,
        form="select",
        nan=False,
    ):
        import openvino
        from openvino import opset13 as ops

        def number(value):
            return ops.constant(np.float32(value))

        shape = [-1 if side is None else side for side in (batch, 3, *size)]
        image = ops.parameter(openvino.PartialShape(shape), np.float32)
        image.output(0).get_tensor().set_names({"input"})
        scores = ops.reduce_mean(ops.abs(ops.subtract(image, number(GREY))), ops.constant(np.int64(1)), keep_dims=True)
        if nan:
            scores = ops.add(scores, ops.constant(np.float32(np.nan)))
        axes = ops.constant(np.array([2, 3], np.int64))
        outputs = {}
        for label, raw in (("pred_label", ops.reduce_max(scores, axes)), ("pred_mask", scores)):
            scaled = ops.add(ops.divide(ops.subtract(raw, number(THRESHOLD)), number(RANGE)), number(0.5))
            scaled = ops.clamp(scaled, 0.0, 1.0)
            if form == "select":
                final = ops.select(ops.constant(np.array([normalised])), scaled, raw)
            else:
                final = scaled if form == "clamp" else ops.relu(raw)
            outputs["pred_score" if label == "pred_label" else "anomaly_map"] = final
            if decisions:
                outputs[label] = ops.greater(final, number(0.5))
        for name, node in outputs.items():
            node.output(0).get_tensor().set_names({name})
        folder.mkdir(parents=True, exist_ok=True)
        model = openvino.Model([ops.result(node) for node in outputs.values()], [image], "tiny")
        openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
        return folder / "model.xml"


# anomalib and lightning ----------------------------------------------------------------------------------------------


class _Distance(torch.nn.Module):
    """The map is the distance to the mean training image, at a random scale; as in a memory bank, of no fixed shape."""

    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("mean", torch.zeros(0))

    def _load_from_state_dict(self, state, prefix, *rest):
        self.mean = torch.zeros_like(state[prefix + "mean"])
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, batch):
        scores = (batch - self.mean).abs().mean(1, keepdim=True) * self.scale
        return SimpleNamespace(anomaly_map=scores, pred_score=scores.amax((-2, -1)))


class Tiny(torch.nn.Module):
    """An AnomalibModule: the members that the adapter relies on."""

    steps = [v2.Resize((16, 24), antialias=True), v2.Normalize(mean=[0.5] * 3, std=[0.25] * 3)]
    trained_epochs = None

    def __init__(
        self,
        backbone: str = "small",
        pre_trained: bool = True,
        layers=("a",),
        post_processor=True,
        evaluator=True,
        visualizer=True,
    ):
        super().__init__()
        self.hparams = {"backbone": backbone, "pre_trained": pre_trained, "layers": layers}
        self.pre_processor = SimpleNamespace(transform=v2.Compose(self.steps))
        self.post_processor = torch.nn.BatchNorm1d(1) if post_processor else None
        self.model = _Distance(torch.rand(()) + 0.5)
        self.seen: list[torch.Tensor] = []

    @property
    def input_size(self):
        return tuple(self.pre_processor.transform(torch.zeros(1, 3, 1, 1)).shape[-2:])

    @property
    def trainer_arguments(self):
        return {"max_epochs": self.trained_epochs} if self.trained_epochs else {}

    def training_step(self, batch, batch_idx):
        assert len(batch.image) > 1 or batch_idx == 0
        self.seen.append(batch.image)
        Tiny.last = self

    @property
    def count(self):
        return sum(map(len, self.seen))

    def on_train_epoch_end(self):
        self.model.mean = torch.cat(self.seen).mean(0)


class Cropper(Tiny):
    steps = [v2.Resize((32, 32)), v2.CenterCrop((16, 24))]
    trained_epochs = 1


class Scores(Tiny):
    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self.model.forward = lambda batch: SimpleNamespace(anomaly_map=None, pred_score=batch.amax((1, 2, 3)))


class Keeper(Tiny):
    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        mean, forward = self.model.mean, self.model.forward
        self.model.forward = lambda batch: forward(batch - mean)


class Failing(Tiny):
    def training_step(self, batch, batch_idx):
        raise AttributeError("'NoneType' object has no attribute 'val_dataloader'")


class Offline(Tiny):
    def __init__(self, **options):
        raise OSError("Name or service not known")


class Lacking(Tiny):
    def __init__(self, **options):
        raise ImportError("open_clip is required")


class _Batch(SimpleNamespace):
    @classmethod
    def collate(cls, items):
        return cls(**{key: torch.stack([getattr(item, key) for item in items]) for key in vars(items[0])})


class _Callback:
    pass


class _DataModule:
    pass


class _Trainer:
    def __init__(self, max_epochs, callbacks, **options):
        assert options == {
            "devices": 1,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        self.max_epochs, self.callbacks = max_epochs, callbacks

    def fit(self, module, datamodule):
        loader = datamodule.train_dataloader()
        self.num_training_batches = len(loader)
        for epoch in range(self.max_epochs):
            self.current_epoch = epoch
            for index, batch in enumerate(loader):
                batch.image = module.pre_processor.transform(batch.image)
                module.training_step(batch, index)
                for callback in self.callbacks:
                    callback.on_train_batch_end(self, module, None, batch, index)
            module.on_train_epoch_end()


def fake_anomalib() -> dict[str, ModuleType]:
    """Modules by name, for sys.modules."""
    names = ("anomalib", "anomalib.models", "anomalib.data", "lightning", "lightning.pytorch")
    modules = {name: ModuleType(name) for name in names}
    classes = [Tiny, Cropper, Scores, Keeper, Failing, Offline, Lacking]
    modules["anomalib.models"].__all__ = [cls.__name__ for cls in classes] + ["get_model"]
    modules["anomalib.models"].get_model = lambda name: None  # no class
    for cls in classes:
        setattr(modules["anomalib.models"], cls.__name__, cls)
    modules["anomalib"].models, modules["anomalib"].data = modules["anomalib.models"], modules["anomalib.data"]
    modules["anomalib.data"].ImageItem, modules["anomalib.data"].ImageBatch = SimpleNamespace, _Batch
    pytorch = modules["lightning.pytorch"]
    pytorch.Callback, pytorch.LightningDataModule, pytorch.Trainer = _Callback, _DataModule, _Trainer
    modules["lightning"].pytorch = pytorch
    return modules
