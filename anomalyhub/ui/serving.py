"""The endpoint `/inspect_images`, for programs: images and a model's id go in, verdicts as JSON come out.

Unlike the events of the tabs it needs no session: any program that knows the id may ask, at any time.
"""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidImageError, InvalidModelError
from anomalyhub.ui import gpu, sources
from anomalyhub.ui.events import WORK, errors_shown
from anomalyhub.ui.session import Job, Session
from anomalyhub.ui.work import Work

if TYPE_CHECKING:
    from anomalyhub.pipeline import Inspector

#: Jobs whose results inspect images.
_KINDS = ("classify", "fit")
#: Models that stay loaded.
_LOADED = 4


class Models:
    """The models of the app's jobs, of which those that were last asked for stay loaded."""

    def __init__(self, work: Work):
        self.work = work
        self._loaded: OrderedDict[Path, Inspector] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, job_id: Any) -> Inspector:
        """Raises InvalidArgumentError where there is no such model, or one that cannot judge an image by itself."""
        folders = (self.work.result_of(job_id, kind) for kind in _KINDS)
        folder = next((folder for folder in folders if folder is not None), None)
        if folder is None:
            raise InvalidArgumentError(
                f"there is no model {str(job_id)[:80]!r} in this app: give the id that /learn answers, or learn again"
            )
        with self._lock:
            found = self._loaded.pop(folder, None) or self._load(folder)
            self._loaded[folder] = found
            while len(self._loaded) > _LOADED:
                self._loaded.popitem(last=False)
            return found

    def _load(self, folder: Path) -> Inspector:
        from anomalyhub.pipeline import Inspector  # torch: seconds that the page need not wait

        try:
            inspector = Inspector.load(folder)
        except AnomalyHubError as error:  # in whose words there may be paths of this machine
            raise InvalidModelError(str(error).replace(str(self.work.home), "the app's folder")) from error
        if inspector.detector.transductive:
            raise InvalidArgumentError(
                f"{inspector.detector.name} judges images by each other: use its tab, or learn with another method"
            )
        return inspector


def inspect_images(models: Models, images: Sequence[str], model: str) -> dict[str, Any]:
    """Verdicts on uploaded images and zips of them.

    model  id of a job that has learned what is normal, or kinds
    Returns "images", one `anomalyhub.report.record.inspection_json` per image with its name as "image" and an "error"
    (None, or why there is no verdict); "left_out", what else was uploaded; "model", see ModelIdentity.
    Raises InvalidArgumentError, InvalidUploadError.
    """
    from anomalyhub.report.identity import ModelIdentity
    from anomalyhub.report.record import inspection_json

    inspector = models[model]
    with tempfile.TemporaryDirectory(prefix="anomalyhub-inspect-") as folder:
        refs, notices = sources.uploaded(images, Path(folder), sources.UNKNOWN, Job(Session()))
        if not refs:
            raise sources.no_images(notices)
        answers: dict[str, dict[str, Any]] = {}

        def readable():
            for ref in refs.refs:
                try:
                    yield ref.load()
                except InvalidImageError as error:
                    text = str(error).replace(str(ref.path), ref.id)
                    answers[ref.id] = {"image": ref.id, "verdict": None, "error": text}

        for sample, result, _ in gpu.explain(inspector, readable(), Path(folder)):
            verdict = inspection_json(result, inspector.threshold)
            answers[sample.id] = {"image": sample.id, **verdict, "error": None}
        about = ModelIdentity.of(inspector, str(model)).to_json()
        return {"images": [answers[ref.id] for ref in refs.refs], "left_out": notices, "model": about}


def add_endpoint(work: Work) -> None:
    """Add it to the current gr.Blocks, where it shows nothing."""
    models = Models(work)

    @errors_shown()
    def answer(images: list[str] | None, model: str) -> dict[str, Any]:
        return inspect_images(models, images or [], model)

    files = gr.File(label="images and zips", file_count="multiple", visible=False)
    name = gr.Textbox(label="id of a model, from /learn", visible=False)
    reply = gr.JSON(label="verdicts", visible=False)
    gr.Button(visible=False).click(answer, [files, name], reply, api_name="inspect_images", **WORK)
