"""anomalyhub.config and anomalyhub.state: settings from texts and JSON, saved folders."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from anomalyhub import __version__
from anomalyhub.config import configure, parse_settings
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidModelError, UnknownNameError
from anomalyhub.state import SCHEMA, jsonable, read_config, read_json, read_state, write_json, write_state


@dataclass(frozen=True)
class Config:
    count: int = 3
    share: float = 0.5
    on: bool = False
    way: Literal["near", "far"] = "near"
    name: str = "a"
    size: int | None = None
    layers: tuple[int, ...] | None = None
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        if self.count < 0:
            raise InvalidArgumentError(f"setting count must not be negative, got {self.count}")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("count", "7", 7),
        ("count", "1e3", 1000),
        ("count", "2.0", 2),
        ("share", "1", 1.0),
        ("share", "1e-3", 0.001),
        ("on", "true", True),
        ("on", "YES", True),
        ("on", "0", False),
        ("on", "off", False),
        ("way", "far", "far"),
        ("name", "none", "none"),  # a text stays a text
        ("name", "", ""),
        ("size", "none", None),
        ("size", "", None),
        ("size", "64", 64),
        ("layers", "2,3", (2, 3)),
        ("layers", "2+3", (2, 3)),  # a comma may mean something else to the caller
        ("layers", " 4 ", (4,)),
        ("layers", "None", None),
        ("weights", "0.5, 1", (0.5, 1.0)),
    ],
)
def test_texts_become_values(key, text, value):
    result = getattr(configure(Config, {key: text}), key)
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("count", 7),
        ("count", np.int64(7)),
        ("share", 1),
        ("on", True),
        ("way", "far"),
        ("size", None),
        ("layers", (2, 3)),
    ],
)
def test_values_stay(key, value):
    assert getattr(configure(Config, {key: value}), key) is value


def test_json_lists_become_tuples():
    assert configure(Config, {"layers": [2, 3], "weights": [1, 0.5]}) == Config(layers=(2, 3), weights=(1, 0.5))
    assert configure(Config, {}) == Config()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", "2.5", "setting count='2.5' is not a whole number$"),
        ("count", "many", "is not a whole number"),
        ("count", "inf", "is not a whole number"),
        ("count", "nan", "is not a whole number"),
        ("count", 2.5, "setting count=2.5 is not a whole number"),
        ("count", True, "setting count=True is not a whole number"),
        ("count", None, "setting count=None is not a whole number"),
        ("count", "-1", "must not be negative, got -1"),  # the dataclass's own check
        ("share", "half", "setting share='half' is not a number"),
        ("share", "nan", "is not a number"),
        ("share", [1], r"setting share=\(1,\) is not a number"),
        ("on", "2", "is not true or false"),
        ("on", 1, "setting on=1 is not true or false"),
        ("way", "Far", "setting way='Far' is not one of near, far"),
        ("way", None, "is not one of near, far"),
        ("name", 3, "setting name=3 is not"),
        ("size", "x", "setting size='x' is not a whole number or none"),
        ("layers", "2,x", "setting layers='2,x' is not a list of int such as 2,3 or none"),
        ("layers", "2,,3", "is not a list of int"),
        ("layers", 3, "setting layers=3 is not a list of int"),
        ("layers", [2, "x"], "is not a list of int"),
        ("cuont", "3", "unknown setting 'cuont': did you mean 'count'.*choose one of count, layers, name"),
    ],
)
def test_what_does_not_fit_is_refused(key, value, message):
    with pytest.raises(InvalidArgumentError, match=message):
        configure(Config, {key: value})
    with pytest.raises(UnknownNameError if key == "cuont" else InvalidArgumentError):
        configure(Config, {"share": 0.1, key: value})


def test_parsing_settings():
    assert parse_settings(["a=1", " b = x=y ", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert parse_settings([]) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["coreset"], "setting 'coreset' is not of the form key=value: write for example coreset=0.1"),
        (["=3"], "not of the form"),
        (["  =3"], "not of the form"),
        ([""], "not of the form"),
        (["a=1", " a=2"], "setting 'a' is given twice"),
    ],
)
def test_settings_that_cannot_be_parsed(texts, message):
    with pytest.raises(InvalidArgumentError, match=message):
        parse_settings(texts)


ARRAYS = {
    "bank": np.arange(12, dtype=np.float32).reshape(4, 3),
    "half": np.ones((2, 2), np.float16),
    "empty": np.empty((0,), np.float32),
    "slice": np.arange(20, dtype=np.int64).reshape(4, 5)[:, ::2],  # not contiguous
}


def test_state_comes_back_as_it_was(tmp_path):
    folder = tmp_path / "deep" / "model"
    write_state(folder, {"kind": "detector", "seed": 3, "layers": (2, 3), "name": "Maß"}, ARRAYS)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "state.safetensors"]
    config, arrays = read_state(folder, "detector")
    stored = {"kind": "detector", "seed": 3, "layers": [2, 3], "name": "Maß"}
    assert config == {"schema": SCHEMA, "version": __version__, **stored}
    assert read_config(folder, "detector") == config
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)
    modes = {(folder / name).stat().st_mode for name in ("config.json", "state.safetensors")}
    assert len(modes) == 1  # who may read the one may read the other


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"is not a model folder \(no config.json\)"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not readable JSON .*copy the model folder again"),
        (lambda folder: (folder / "config.json").write_text("3"), "must hold a JSON object"),
        (
            lambda folder: write_json(folder / "config.json", {"schema": 1}),
            "of unknown kind, not a detector",
        ),
        (lambda folder: write_json(folder / "config.json", {"kind": "dataset"}), "holds a dataset, not a detector"),
        (
            lambda folder: write_json(folder / "config.json", {"kind": "detector"}),
            r"schema None, this one reads up to 1",
        ),
        (
            lambda folder: write_json(folder / "config.json", {"kind": "detector", "schema": SCHEMA + 1}),
            "upgrade with pip",
        ),
        (
            lambda folder: (folder / "state.safetensors").unlink(),
            "has no state.safetensors: copy the whole model folder",
        ),
        (lambda folder: (folder / "state.safetensors").write_bytes(b""), "state.safetensors is damaged"),
    ],
)
def test_damaged_state(damage, message, tmp_path):
    write_state(tmp_path, {"kind": "detector"}, ARRAYS)
    damage(tmp_path)
    with pytest.raises(InvalidModelError, match=message) as caught:
        read_state(tmp_path, "detector")
    assert str(tmp_path) in str(caught.value)


def test_folders_that_are_none(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InvalidModelError, match=f"{path.name} (does not exist|is a file)") as caught:
            read_state(path, "detector")
        assert isinstance(caught.value, AnomalyHubError)
    with pytest.raises(InvalidModelError, match="is not readable JSON"):
        read_json(tmp_path)  # a folder


def test_what_json_does_not_have(tmp_path):
    value = {
        "float": np.float32(0.5),
        "int": np.int64(3),
        "flag": np.bool_(True),
        "nan": math.nan,
        "infinity": np.float64(np.inf),
        "path": Path("a") / "b",
        "nested": ({"x": (1, math.nan)}, [None, "ü"]),
        1: "key",
    }
    expected = {"float": 0.5, "int": 3, "flag": True, "nan": None, "infinity": None, "path": "a/b"}
    expected |= {"nested": [{"x": [1, None]}, [None, "ü"]], "1": "key"}
    assert jsonable(value) == expected
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == expected == read_json(tmp_path / "x.json")
    assert "ü" in text and text.endswith("}\n")
