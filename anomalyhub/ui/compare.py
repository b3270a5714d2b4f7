"""Steps 2 and 3 of the Compare tab: which parts are tried, and the job that tries them. Callbacks without gradio."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalyhub.benchmark.swap import RESULT, STAGES, TABLE
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidModelError
from anomalyhub.jobs.files import CHECKPOINTS
from anomalyhub.state import read_json
from anomalyhub.ui import classify
from anomalyhub.ui.compare_data import Chosen, of_job
from anomalyhub.ui.session import Session, plain_words
from anomalyhub.ui.work import Work

if TYPE_CHECKING:
    from anomalyhub import jobs

#: Parts that are offered, as `SwapConfig` writes them, and how the page says them.
DETECTORS = {
    "patchcore": "PatchCore",
    "musc": "MuSc",
    "patchcore,backbone=resnet18": "PatchCore on ResNet-18",
    "patchcore,backbone=wide_resnet50_2": "PatchCore on Wide ResNet-50",
}
BINARIZERS = {"mebin": "MEBin", "otsu": "Otsu", "fixed": "Fixed"}
CLASSIFIERS = {"prototype": "Prototype", "direct": "Direct", "contrastive": "Contrastive", "relation": "Relation"}
#: Detectors that compare the test images with each other, and want no normal ones.
_UNLABELLED = ("musc",)
#: Seconds on two cores, measured on the bundled sample: of a detector for each normal image and for each test image;
#: of a classifier's training, and of an image that it is shown.
_FIT, _LOOK, _SHOWN = 0.25, 0.08, 0.07
_TRAIN = {"contrastive": 18.0, "relation": 32.0}
_SLOWER = {"resnet18": 2.0, "wide_resnet50_2": 6.0}
_FILES = {"csv": TABLE, "json": RESULT, "png": "lost.png"}
_MOST_SEEDS, _MOST_SHOTS, _MOST_CHAINS = 10, 50, 500


@dataclass(frozen=True)
class Form:
    """Step 2. more: further parts, one per line; false_alarm_rate in percent."""

    detectors: tuple[str, ...] = ("patchcore",)
    binarizers: tuple[str, ...] = ("mebin", "otsu")
    classifiers: tuple[str, ...] = ("prototype", "direct")
    shots: int = 3
    seeds: int = 3
    more: str = ""
    false_alarm_rate: float = 1.0

    def with_more(self) -> dict[str, tuple[str, ...]]:
        """The parts by the fields of SwapConfig, those that were typed among them."""
        parts = {"detectors": self.detectors, "binarizers": self.binarizers, "classifiers": self.classifiers}
        for line in self.more.split("\n"):
            text = ",".join(piece.strip() for piece in line.split(",") if piece.strip())
            if text:
                name = text.partition(",")[0]
                kind = "classifiers" if name in CLASSIFIERS else "binarizers" if name in BINARIZERS else "detectors"
                parts[kind] = tuple(dict.fromkeys((*parts[kind], text)))
        return parts

    @property
    def n_chains(self) -> int:
        """Chains with all seeds."""
        return math.prod(map(len, self.with_more().values())) * self.seeds


@dataclass(eq=False)
class Visit:
    """What a visitor does on this tab: chosen in step 1; started: what the job was given, with form; job_id: of it."""

    chosen: Chosen | None = None
    started: tuple[Chosen | None, Form] | None = None
    job_id: str | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came out: `summary` as `Swapped.summary` gives it, the best chain first."""

    summary: tuple[Mapping[str, Any], ...]
    notices: tuple[str, ...]
    shots: int
    n_test: int

    @classmethod
    def read(cls, folder: Path) -> Outcome:
        """From the folder that a swap bench has written. Raises InvalidModelError."""
        stored = read_json(folder / RESULT)
        try:
            summary = tuple(_checked(row) for row in stored["summary"])
            counts = [int(row["n"]) for row in stored["rows"]]
            return cls(summary, tuple(map(str, stored["notices"])), int(stored["config"]["shots"]), max(counts))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InvalidModelError(f"{folder / RESULT} is damaged ({error!r}): compare again") from error


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {name: str(row[name]) for name in ("detector", "binarizer", "classifier")}
    for name in ("accuracy", "kind_accuracy", "image_auroc"):
        mean, spread = row[name]
        made[name] = (None if mean is None else float(mean), None if spread is None else float(spread))
    if made["accuracy"][0] is None:
        raise ValueError("a chain without accuracy")
    lost = {stage: row["lost"][stage] for stage in STAGES}
    made["lost"] = {stage: None if value is None else float(value) for stage, value in lost.items()}
    return made | {"seeds": int(row["seeds"])}


class Standing(NamedTuple):
    """Where a visitor is: the job and its status ("" without one), what came out, and why nothing did."""

    job: jobs.Job | None
    status: str
    outcome: Outcome | None
    problem: str = ""


def standing(visit: Visit, work: Work) -> Standing:
    """Read from disk. Raises nothing that a damaged job could cause."""
    job = work.get(visit.job_id, "swap")
    if job is None:
        return Standing(None, "", None, _GONE if visit.job_id else "")
    status = "done" if job.result is not None else job.status  # its processes take a second to end after the result
    if status != "done":
        reason = ""
        if status in ("failed", "interrupted"):
            reason = work.reason(job).replace(str(job.asked.get("config", {}).get("data")), name_of(job))
        return Standing(job, status, None, reason)
    try:
        return Standing(job, status, Outcome.read(job.result))
    except AnomalyHubError as error:
        return Standing(job, status, None, str(error).replace(str(job.folder), f"job {job.id}"))


_GONE = "the folder of this job has been deleted: press Compare again"
_NAME = "comparing chains on "


def name_of(job: jobs.Job) -> str:
    """The product of a job."""
    return str(job.asked.get("name", "")).removeprefix(_NAME) or "your product"


def progress(job: jobs.Job) -> tuple[float, str]:
    """How far a job is, with the chains that are measured."""
    config, now = job.asked.get("config", {}), job.progress
    total = math.prod(len(config.get(name) or ()) for name in ("detectors", "binarizers", "classifiers", "seeds"))
    try:
        lines = (job.folder / CHECKPOINTS / "rows.jsonl").read_bytes().count(b"\n")
    except OSError:
        lines = 0
    done = f"{max(lines - 1, 0)} of {total} chains measured: " if total else ""
    return now.fraction, done + plain_words(now.text)


# Step 2.


def title(part: str) -> str:
    """A part for people; one that was typed as it was."""
    return {**DETECTORS, **BINARIZERS, **CLASSIFIERS}.get(part, part)


def check(chosen: Chosen | None, form: Form, trusted: bool) -> None:
    """Raises InvalidArgumentError for a form that cannot be, and says what to change."""
    parts = form.with_more()
    if not trusted:
        offered = {"detectors": DETECTORS, "binarizers": BINARIZERS, "classifiers": CLASSIFIERS}
        for kind, names in parts.items():
            if other := [name for name in names if name not in offered[kind]]:
                raise InvalidArgumentError(
                    f"{other[0]!r} is not offered here: choose one of {', '.join(offered[kind])}"
                )
    for kind, names in parts.items():
        if not names:
            raise InvalidArgumentError(f"no {kind.removesuffix('s')} is chosen: choose at least one in step 2")
    for text, value, most in (("examples", form.shots, _MOST_SHOTS), ("rounds", form.seeds, _MOST_SEEDS)):
        if not 1 <= value <= most:
            raise InvalidArgumentError(f"there are {value} {text}: choose 1 to {most}")
    if form.n_chains > _MOST_CHAINS:
        raise InvalidArgumentError(f"{form.n_chains} chains are too many for one job: choose {_MOST_CHAINS} at most")
    if not 0.0 < form.false_alarm_rate < 100.0:
        raise InvalidArgumentError(f"false alarms are {form.false_alarm_rate} %: choose more than 0 and less than 100")
    wanting = [name for name in parts["detectors"] if name.partition(",")[0] not in _UNLABELLED]
    if chosen is not None and not chosen.n_train and wanting:
        raise InvalidArgumentError(
            f"{chosen.name} has no normal images to learn from, which {title(wanting[0])} needs: add a folder named "
            "good, or choose MuSc alone"
        )


def seconds(chosen: Chosen, form: Form) -> float:
    """About how long it takes on two cores, from the counts of images and of chains."""
    parts, defective = form.with_more(), sum(chosen.usable.values())
    images = defective + chosen.n_good
    shown = len(parts["binarizers"]) + (2 if chosen.masks else 0)  # with the masks that tell the stages apart
    named = sum(shown * (_TRAIN.get(name.partition(",")[0], 0.0) + _SHOWN * defective) for name in parts["classifiers"])
    total = 0.0
    for text in parts["detectors"]:
        slower = max((factor for backbone, factor in _SLOWER.items() if backbone in text), default=1.0)
        name = text.partition(",")[0]
        fit = 0.002 * images**2 if name in _UNLABELLED else _FIT * chosen.n_train
        total += 2.0 + slower * (fit + _LOOK * images) + named
    return form.seeds * total


def duration(estimate: float) -> str:
    """Seconds, roughly, for people."""
    if estimate < 90:
        return "about a minute"
    if estimate < 5400:
        return f"about {round(estimate / 60)} minutes"
    return f"about {round(estimate / 3600)} hours" if estimate >= 9000 else "about two hours"


def plan_text(chosen: Chosen | None, form: Form) -> str:
    """What would be done, and how long it would take."""
    chains = form.n_chains // max(form.seeds, 1)
    what = f"{chains} chain{'s' * (chains != 1)}, {form.seeds} times each"
    return f"{what}: {duration(seconds(chosen, form))} on two cores" if chosen is not None else what


# Step 3: the job.


def start(visit: Visit, form: Form, work: Work, trusted: bool) -> str:
    """Queue the bench."""
    chosen = visit.chosen
    if chosen is None:
        raise InvalidArgumentError("there are no labelled images yet: choose some in step 1")
    if not Path(chosen.folder).is_dir():
        visit.chosen = None
        raise InvalidArgumentError("the images were removed, as nothing used them for an hour: choose them again")
    check(chosen, form, trusted)
    config = {
        "data": chosen.folder,
        **{name: list(texts) for name, texts in form.with_more().items()},
        "shots": form.shots,
        "seeds": list(range(form.seeds)),
        "false_alarm_rate": form.false_alarm_rate / 100,
    }
    job = work.submit("swap", config, name=f"{_NAME}{chosen.name}", former=visit.job_id)
    visit.job_id, visit.started = job.id, (chosen, form)
    return f"Comparing {form.n_chains} chains on {chosen.name}."


def cancel(visit: Visit, work: Work) -> str:
    """Stop the bench; the chains that are measured are kept for when it goes on."""
    if (job := work.get(visit.job_id, "swap")) is not None:
        job.cancel()
    return "Stopping."


def resume(visit: Visit, work: Work) -> str:
    """Go on behind the chains that are measured."""
    job = work.get(visit.job_id, "swap")
    if job is None:
        raise InvalidArgumentError("there is nothing to go on with: press Compare")
    job.resume()
    return "Going on."


def remembered(visit: Visit) -> dict[str, str] | None:
    """What the browser keeps."""
    return {"job": visit.job_id} if visit.job_id else None


def recall(visit: Visit, memory: Any, work: Work) -> bool:
    """Find the bench again that the browser remembers, which may send anything; whether one was found."""
    job = work.get(memory.get("job"), "swap") if isinstance(memory, dict) else None
    if visit.job_id is not None or job is None:
        return False
    visit.job_id = job.id
    visit.chosen = visit.chosen or of_job(job, name_of(job))
    visit.started = (visit.chosen, _form_of_job(job))
    return True


def _form_of_job(job: jobs.Job) -> Form:
    """What a job tries; parts that are not offered are further ones."""
    config = job.asked.get("config", {})
    offered = {"detectors": DETECTORS, "binarizers": BINARIZERS, "classifiers": CLASSIFIERS}
    parts = {kind: tuple(name for name in config.get(kind) or () if name in offered[kind]) for kind in offered}
    more = [name for kind in offered for name in config.get(kind) or () if name not in offered[kind]]
    counts = {"shots": int(config.get("shots", Form.shots)), "seeds": len(config.get("seeds") or ())}
    rate = round(100 * float(config.get("false_alarm_rate", 0.01)), 6)
    return Form(**parts, **counts, more="\n".join(more), false_alarm_rate=rate)


def file_of(session: Session, visit: Visit, work: Work, what: str) -> str:
    """Path of what came out as "csv", "json" or "png"."""
    job = work.get(visit.job_id, "swap")
    if job is None or job.result is None:
        raise InvalidArgumentError("nothing has been compared yet: press Compare in step 3")
    downloads = session.folder / "downloads"
    downloads.mkdir(exist_ok=True)
    target = downloads / f"anomalyhub-{classify.slug(name_of(job))}-chains.{what}"
    shutil.copyfile(job.result / _FILES[what], target)
    return str(target)


def form_of(
    detectors: Sequence[str] | None,
    binarizers: Sequence[str] | None,
    classifiers: Sequence[str] | None,
    shots: Any,
    seeds: Any,
    more: Any,
    rate: Any,
) -> Form:
    """Step 2 as the page sends it."""
    parts = (tuple(map(str, names or ())) for names in (detectors, binarizers, classifiers))
    return Form(*parts, int(shots or 0), int(seeds or 0), str(more or ""), float(rate or 0.0))
