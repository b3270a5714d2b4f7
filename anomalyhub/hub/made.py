"""What a folder that AnomalyHub made holds, as far as its JSON and the heads of its tensors tell."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anomalyhub.errors import InvalidModelError
from anomalyhub.hub.schema import CONFIG, check_config
from anomalyhub.state import read_json

_STATE, _INSPECTOR, _EXAMPLES = "state.safetensors", "inspector.json", "examples.json"
_METRICS, _MODEL, _NAMING = "metrics.json", "model", ("classifier", "discoverer")


@dataclass(frozen=True)
class Made:
    """A saved detector, inspector, discoverer, classifier or trained weights; see `read`.

    folder     has config.json
    config     that file
    inspector  inspector.json, None without one: a detector alone, or no detector
    examples   examples.json, what a classifier learned from; {} without it
    naming     config.json of what gives an inspector's regions their kinds, {} without it
    found      metrics.json of the discovery whose model/ this is, {} without it
    """

    folder: Path
    config: dict[str, Any]
    inspector: dict[str, Any] | None
    examples: dict[str, Any]
    naming: dict[str, Any]
    found: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Made:
        """From a model folder, or the result of a discovery, which has its model in model/.

        Raises InvalidModelError for anything else.
        """
        given = folder = Path(folder)
        if not (folder / CONFIG).is_file() and (folder / _MODEL / CONFIG).is_file():
            folder = folder / _MODEL
        if not (folder / CONFIG).is_file():
            raise InvalidModelError(
                f"{given} holds no model of AnomalyHub (no {CONFIG}): give the --out folder of a fit, or push it as a "
                "data set with --kind dataset"
            )
        for path in sorted(folder.rglob(CONFIG)):
            check_config(read_json(path), str(path))
        naming = [folder / name / CONFIG for name in _NAMING if (folder / name / CONFIG).is_file()]
        return cls(
            folder,
            read_json(folder / CONFIG),
            _json(folder / _INSPECTOR) or None,
            _json(folder / _EXAMPLES),
            read_json(naming[0]) if naming else {},
            _discovery(folder),
        )

    @property
    def kind(self) -> str:
        """ "detector", "discoverer", "classifier" or "pretrained"."""
        return str(self.config["kind"])

    @property
    def method(self) -> str:
        return _method(self.config)

    @property
    def names_by(self) -> str | None:
        """The method that gives an inspector's regions their kinds, if any."""
        return _method(self.naming) if self.naming else None

    @property
    def product(self) -> str | None:
        """What it inspects or was made of, None where nothing says."""
        settings = self.found.get("config")
        pretraining = self.config.get("pretraining")
        for source in (self.inspector, settings, pretraining):
            if isinstance(source, dict) and source.get("product"):
                return str(source["product"])
        return None

    @property
    def classes(self) -> tuple[str, ...]:
        """Kinds that it tells apart."""
        return tuple(map(str, (self.naming or self.config).get("classes") or ()))

    @property
    def backbones(self) -> list[dict[str, Any]]:
        """Those of its config.json files that name one: spec, fingerprint and maybe file, each once."""
        found: list[dict[str, Any]] = []
        for config in (self.config, self.naming):
            one = config.get("backbone")
            if isinstance(one, dict) and one.get("spec") and one["spec"] not in [other["spec"] for other in found]:
                found.append(one)
        return found

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Products whose images auxiliary weights were trained on."""
        inner = self.config.get("trained")
        names = self.config.get("trained_on") or (inner.get("trained_on") if isinstance(inner, dict) else None)
        return tuple(map(str, names or ()))

    @property
    def examples_by_class(self) -> dict[str, int]:
        records = self.examples.get("examples") or ()
        return dict(sorted(Counter(str(one.get("label")) for one in records if isinstance(one, dict)).items()))

    def rows(self, tensor: str) -> int:
        """The first length of a tensor of state.safetensors; 0 where it is not there."""
        return (self._shapes.get(tensor) or (0,))[0]

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.folder / _STATE, framework="numpy") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise InvalidModelError(
                f"{self.folder / _STATE} is damaged or missing ({error}): copy the whole model folder, or fit again"
            ) from error


def _method(config: dict[str, Any]) -> str:
    return str(config.get("trainer" if config["kind"] == "pretrained" else config["kind"]))


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _discovery(folder: Path) -> dict[str, Any]:
    """metrics.json beside model/; another one has no "n_classes" and "config"."""
    path = folder.resolve().parent / _METRICS
    if folder.resolve().name != _MODEL or not path.is_file():
        return {}
    found = read_json(path)
    return found if "n_classes" in found and isinstance(found.get("config"), dict) else {}
