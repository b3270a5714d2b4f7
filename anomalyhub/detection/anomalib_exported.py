"""A model that anomalib has exported, run by OpenVINO."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalyhub.errors import InvalidArgumentError, InvalidModelError

MISSING = 'this needs a program that is not installed ({}): pip install "anomalyhub[anomalib]"'

_PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_MAP, _SCORE, _DECISIONS = "anomaly_map", "pred_score", ("pred_label", "pred_mask")


class ExportedModel:
    """An OpenVINO model, kept as bytes so that a saved detector needs no other file; runs on the CPU in 32 bits.

    xml, weights  contents of the .xml and .bin file

    thresholds    (image score, map value) that the model decides by, usually (0.5, 0.5); None where its scores are not
                  normalised, as anomalib then puts the same number beside scores of another scale
    Raises InvalidModelError for bytes that are no model, or one that takes no image or gives no anomaly map.
    """

    def __init__(self, xml: bytes, weights: bytes):
        self.xml, self.weights = xml, weights
        core = _openvino().Core()
        if b"<net" not in xml[:4096]:  # OpenVINO would otherwise try what other formats it knows
            raise InvalidModelError("the exported model is not an OpenVINO .xml file: export it again")
        try:
            model = core.read_model(model=xml, weights=weights)
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise InvalidModelError(f"the exported model is damaged ({_last_line(error)}): export it again") from error
        names = {name for port in model.outputs for name in port.get_names()}
        if _MAP not in names:
            raise InvalidModelError(
                f"the exported model gives {', '.join(sorted(names)) or 'nothing'} and no {_MAP}: "
                "export one of anomalib's models that locate defects"
            )
        shape = model.inputs[0].get_partial_shape() if len(model.inputs) == 1 else ()
        sides = [side.get_length() if side.is_static else None for side in shape]
        if len(sides) != 4 or sides[1] != 3:
            inputs = ", ".join(str(port.get_partial_shape()) for port in model.inputs)
            raise InvalidModelError(
                f"the exported model takes {inputs or 'nothing'} and not one image [1,3,H,W]: export it with anomalib"
            )
        self.size = None if None in sides[2:] else (sides[2], sides[3])
        self._copies = sides[0] or 1  # anomalib 2.7 exports Patchcore for two images at a time
        self.thresholds = _thresholds({name: port for port in model.outputs for name in port.get_names()})
        self._compiled = compiled

    @classmethod
    def read(cls, path: Path) -> ExportedModel:
        """From an .xml file with its .bin beside it, or an .onnx file.

        Raises InvalidArgumentError for another file, InvalidModelError for a damaged one.
        """
        if path.suffix.lower() in _PICKLED:
            raise InvalidArgumentError(
                f"{path} is a pickled file, which could run any program if it were opened: export the model with "
                "`anomalib export --model CLASS --ckpt_path FILE.ckpt --export_type openvino` and give its model.xml"
            )
        if path.suffix.lower() not in (".xml", ".bin", ".onnx"):
            raise InvalidArgumentError(f"{path} is no exported model: give an OpenVINO .xml or an .onnx file")
        xml, weights = path.with_suffix(".xml"), path.with_suffix(".bin")
        for needed in [path] if path.suffix.lower() == ".onnx" else [xml, weights]:
            if not needed.is_file():
                raise InvalidArgumentError(f"{needed} does not exist: check the path and give both .xml and .bin")
        if path.suffix.lower() != ".onnx":
            return cls(xml.read_bytes(), weights.read_bytes())
        openvino = _openvino()
        with tempfile.TemporaryDirectory(prefix="anomalyhub-") as folder:
            try:
                model = openvino.Core().read_model(os.fspath(path))
                openvino.save_model(model, os.path.join(folder, "model.xml"), compress_to_fp16=False)
            except RuntimeError as error:
                raise InvalidModelError(f"{path} cannot be read ({_last_line(error)}): export it again") from error
            return cls(Path(folder, "model.xml").read_bytes(), Path(folder, "model.bin").read_bytes())

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """(H, W, 3) uint8 to an (h, w) float32 map of the whole image and its score."""
        if self.size is not None and image.shape[:2] != self.size:
            image = np.asarray(Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BILINEAR))
        batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        result = self._compiled(np.repeat(batch, self._copies, axis=0))
        values = {name: value[0] for port, value in result.items() for name in port.get_names()}
        scores = np.array(values[_MAP], np.float32).reshape(values[_MAP].shape[-2:])
        return scores, float(np.ravel(values[_SCORE])[0]) if _SCORE in values else float(scores.max())

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON values and arrays that `restore` takes."""
        return {}, {"xml": np.frombuffer(self.xml, np.uint8), "weights": np.frombuffer(self.weights, np.uint8)}

    @classmethod
    def restore(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ExportedModel:
        return cls(arrays["xml"].tobytes(), arrays["weights"].tobytes())


def _openvino() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import openvino
    except ImportError as error:
        raise InvalidArgumentError(MISSING.format("openvino")) from error
    return openvino


def _thresholds(outputs: Mapping[str, Any]) -> tuple[float, float] | None:
    """What the decisions are taken at: each is `score > constant` where the graph normalises its scores."""
    values = []
    for name in _DECISIONS:
        decision = _source(outputs.get(name))
        if decision is None or decision.get_type_name() != "Greater" or not _is_normalised(_source(decision.input(0))):
            return None
        constant = _source(decision.input(1))
        if constant.get_type_name() != "Constant" or np.size(constant.data) != 1:
            return None
        values.append(float(np.ravel(constant.data)[0]))
    return (values[0], values[1]) if min(values) > 0 else None


def _is_normalised(node: Any) -> bool:
    """anomalib ends in a clamp to 0 and 1, or in a choice between that and the raw scores by a constant."""
    if node.get_type_name() == "Select":
        choice = _source(node.input(0))
        return choice.get_type_name() == "Constant" and bool(np.all(choice.data))
    return node.get_type_name() == "Clamp"


def _source(port: Any) -> Any:
    """The node whose output an input, or a model's output, is fed from."""
    if port is None:
        return None
    return (port if hasattr(port, "get_source_output") else port.get_node().input(0)).get_source_output().get_node()


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
