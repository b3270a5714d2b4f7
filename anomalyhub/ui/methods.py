"""The methods that the Detect tab offers, by what the visitor has. A new one is a row of METHODS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomalyhub.errors import InvalidArgumentError

#: What a visitor may have, and how the page says it.
HAVE = {"none": "No normal photos", "few": "2 to 8 normal photos", "many": "Many normal photos"}
#: How many photos "few" are; of a data set that has more, so many are drawn.
FEWEST, MOST = 2, 8
#: False alarms accepted at first, in percent: a handful of held-out photos can measure no smaller share.
RATES = {"none": 1.0, "few": 10.0, "many": 1.0}

#: Backbones that visitors from elsewhere may choose: nobody may fill the disk or name files of the machine.
OFFERED = ("embedded", "resnet18", "wide_resnet50_2", "vit_small_patch16_224.dino")
_TRANSFORMERS = ("embedded", "vit_small_patch16_224.dino", "vit_tiny_patch16_224.augreg_in21k_ft_in1k")
CLIP = ("clip",)

#: The descriptions that prompts begin with, as `anomalyhub.detection.prompts` has them, which imports torch.
NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ABNORMAL_STATES = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")


@dataclass(frozen=True)
class Settings:
    """Step 2. coreset is a share in (0, 1], false_alarm_rate in (0, 1).

    method    key of a row of METHODS; empty: the first one for what the visitor has
    backbone  a SPEC; clip: that of the methods that compare photos with words
    product   what the parts are called; *_states: one description per line, in which {} stands for that
    weights   path of weights that were trained on other products
    """

    backbone: str = "embedded"
    coreset: float = 0.1
    false_alarm_rate: float = 0.01
    seed: int = 0
    method: str = ""
    clip: str = "clip"
    product: str = ""
    normal_states: str = "\n".join(NORMAL_STATES)
    abnormal_states: str = "\n".join(ABNORMAL_STATES)
    weights: str = ""


@dataclass(frozen=True)
class Method:
    """One row of the table.

    key        for programs, title: for people; needs: one line on what it wants and how long it takes
    detector   its registered name
    have       for whom it is offered, of HAVE
    takes      what of step 2 it uses: "coreset", "words" (the product's name and its states), "weights"
    fixed      settings of the detector that make it this method
    backbones  those offered, the default first; CLIP where it compares photos with words
    compares   without normal photos it compares the photos with each other: they are its reference
    trained    it cannot do without trained weights, which are files of the machine that the app runs on
    """

    key: str
    title: str
    needs: str
    detector: str
    have: tuple[str, ...]
    takes: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    backbones: tuple[str, ...] = OFFERED
    compares: bool = False
    trained: bool = False

    def calibrated(self, have: str) -> bool:
        """Whether there are images whose scores set the threshold, so that a false-alarm rate means something."""
        return have != "none" or self.compares

    def verb(self, have: str) -> str:
        """What the button of step 2 says."""
        return "Learn" if have != "none" else "Compare" if self.compares else "Prepare"

    def fit_config(self, form: Settings, trusted: bool) -> dict[str, Any]:
        """Fields of `anomalyhub.jobs.fit.FitConfig`, but for the images and their product.

        Raises InvalidArgumentError for what visitors from elsewhere may not name, and for weights that are missing.
        """
        if form.weights.strip() and "weights" in self.takes and not trusted:
            raise InvalidArgumentError("weights are files of this machine: run the app yourself to name some")
        if self.trained and not form.weights.strip():
            remedy = "run the app yourself" if not trusted else f"give what `anomalyhub train {self.detector}` wrote"
            raise InvalidArgumentError(f"{self.title} needs trained weights: {remedy}, or choose another method")
        settings = dict(self.fixed)
        for name in self.takes:
            settings |= _TAKEN[name](form)
        return {
            "detector": self.detector,
            "backbone": self._backbone(form, trusted),
            "settings": settings,
            "false_alarm_rate": form.false_alarm_rate,
        }

    def _backbone(self, form: Settings, trusted: bool) -> str:
        asked = form.clip if self.backbones == CLIP else form.backbone
        asked = (asked or "").strip() or self.backbones[0]
        if not trusted and asked not in self.backbones:
            offered = ", ".join(self.backbones)
            raise InvalidArgumentError(
                f"backbone {asked!r} is not offered here: choose one of {offered}, or run the app yourself"
            )
        return asked


def _words(form: Settings) -> dict[str, Any]:
    """Blank lists leave the detector its own."""
    lists = {"normal_states": form.normal_states, "abnormal_states": form.abnormal_states}
    lines = {name: [line.strip() for line in text.splitlines() if line.strip()] for name, text in lists.items()}
    return {"product": form.product.strip() or "object"} | {name: one for name, one in lines.items() if one}


def _weights(form: Settings) -> dict[str, Any]:
    return {"weights": str(Path(form.weights.strip()).expanduser())} if form.weights.strip() else {}


_TAKEN: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "coreset": lambda form: {"coreset": form.coreset},
    "words": _words,
    "weights": _weights,
}

METHODS = (
    Method("patchcore", "PatchCore", "No download. Seconds to minutes.", "patchcore", ("many",), ("coreset",)),
    Method(
        "patchcore-few",
        "PatchCore with varied copies",
        "No download. Also learns from turned, shifted and brighter copies of the photos. Under a minute.",
        "patchcore",
        ("few",),
        ("coreset",),
        {"augment": True},
    ),
    Method(
        "siamese",
        "Category-agnostic",
        "No download. Weights trained on other products are optional. Under a minute.",
        "siamese",
        ("few",),
        ("coreset", "weights"),
    ),
    Method(
        "musc",
        "MuSc",
        "No download. Compares the photos with each other: best 20 or more, most of them normal. "
        "Under a minute for 40 photos, four times as long for twice as many.",
        "musc",
        ("none",),
        backbones=_TRANSFORMERS,
        compares=True,
    ),
    Method(
        "winclip",
        "WinCLIP",
        "Wants the product’s name. Downloads CLIP once (1.7 GB). Many times slower than the others.",
        "winclip",
        ("few", "none"),
        ("words",),
        backbones=CLIP,
    ),
    Method(
        "april-gan",
        "APRIL-GAN",
        "Needs trained weights and the product’s name. Downloads CLIP once (1.7 GB). Slower than the others.",
        "april-gan",
        ("few", "none"),
        ("words", "weights"),
        backbones=CLIP,
        trained=True,
    ),
)


def offered(have: str, trusted: bool) -> list[Method]:
    """The methods for what a visitor has, the default first."""
    return [one for one in METHODS if have in one.have and (trusted or not one.trained)]


def find(key: str, have: str) -> Method:
    """The method of that key, or the default where it is empty. Raises InvalidArgumentError for what does not fit."""
    rows = {one.key: one for one in METHODS if have in one.have}
    if not key:
        return next(iter(rows.values()))
    if key not in rows:
        titles = ", ".join(rows)
        raise InvalidArgumentError(f"method {key!r} is not for {HAVE[have].lower()}: choose one of {titles}")
    return rows[key]
