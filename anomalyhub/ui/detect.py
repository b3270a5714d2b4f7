"""What the Detect tab does: callbacks without gradio, which change a Session and return a sentence for the visitor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from anomalyhub.data import SampleRef, Split
from anomalyhub.errors import InvalidArgumentError, InvalidImageError
from anomalyhub.protocols import Progress
from anomalyhub.report.coco import UNNAMED
from anomalyhub.report.overlay import fit_within
from anomalyhub.report.results import write_results
from anomalyhub.report.tables import Prediction, write_predictions_csv
from anomalyhub.types import GOOD, AnomalyMap, Inspection, Sample
from anomalyhub.ui import gpu, learning, methods, sources
from anomalyhub.ui.session import Checked, Job, Session, Source

#: Longer side in pixels of the pictures and maps that are kept. Maps are smoother than this.
SIDE = 320


def use_sample(
    session: Session, product: str, progress: Progress | None = None, have: str = "many", shots: int = 4
) -> str:
    """Take a bundled sample product.

    have   what the visitor says to have, of `methods.HAVE`; shots: how many normal images "few" are
    """
    return _choose(session, sources.sample_source(product, Job(session, progress), _known(have), shots))


def use_uploads(session: Session, paths: Sequence[str], progress: Progress | None = None, have: str = "many") -> str:
    """Take uploaded images and zips: of normal parts, or with "none" those to be checked."""
    return _choose(session, sources.upload_source(paths, session.folder, Job(session, progress), _known(have)))


def use_dataset(
    session: Session,
    root: Path | None,
    name: str,
    progress: Progress | None = None,
    have: str = "many",
    shots: int = 4,
) -> str:
    """Take a product below the data root; have and shots as those of `use_sample`."""
    if root is None:
        raise InvalidArgumentError("no data folder is open: start the app with --data-root DIR")
    return _choose(session, sources.dataset_source(root, name, Job(session, progress), _known(have), shots))


def _known(have: str) -> str:
    if have not in methods.HAVE:
        raise InvalidArgumentError(f"{have!r} is nothing to have: choose one of {', '.join(methods.HAVE)}")
    return have


def say(session: Session, have: str, method: str) -> None:
    """What the visitor has, and which method is chosen for that, before images are taken."""
    session.have, session.method = _known(have), methods.find(method, have).key


def _choose(session: Session, source: Source) -> str:
    """A new source makes the model and the results of the former one obsolete, and stops work on it."""
    learning.stop(session)
    if session.have != source.have:  # by a client that has not said so before
        say(session, source.have, "")
    session.source, session.inspector, session.fit_job, session.unknown = source, None, None, None
    session.checked, session.notices, session.thumbnails = (), (), {}
    if source.have == "none":
        return f"{len(source.tests)} photos of {source.name} are ready. Next: compare."
    return f"{len(source.normals)} normal images of {source.name} are ready. Next: learn."


def product_word(session: Session) -> str:
    """What to call the parts in the prompts of methods that compare photos with words."""
    source = session.source
    if source is None or source.kind == "upload":
        return "object"
    return source.name.rpartition("/")[2].replace("_", " ").lower()


def take_unknown(session: Session, paths: Sequence[str], progress: Progress | None = None) -> str:
    """Take uploaded images and zips to be checked."""
    unknown, notices = sources.uploaded(paths, session.folder, sources.UNKNOWN, Job(session, progress))
    if not unknown:
        raise sources.no_images(notices)
    session.unknown, session.notices = unknown, tuple(notices)
    return f"{len(unknown)} images are ready. Next: check."


def check(session: Session, which: str, progress: Progress | None = None) -> str:
    """Predict images, keep their maps, and judge them.

    which  "tests": those that came with the source; "uploads": those from `take_unknown`
    """
    with Job(session, progress) as job:
        inspector = session.inspector
        if inspector is None:
            raise InvalidArgumentError("nothing has been learned yet: press Learn in step 2")
        images, notices = _to_check(session, which)
        checked = []
        for sample, result, _ in gpu.explain(inspector, _readable(images, notices, job), session.folder):
            checked.append(_kept(sample, result))
            job.check()
        if not checked:
            raise InvalidImageError("none of the images could be read: upload PNG, JPEG, TIFF, BMP or WebP files")
        session.checked = tuple(sorted(checked, key=lambda one: (-one.map.image_score, one.ref.id)))
        session.notices = tuple(notices)
    return headline(session)


def _kept(sample: Sample, result: Inspection) -> Checked:
    small = AnomalyMap(fit_within(result.map.scores, SIDE), result.score)
    ref = SampleRef(sample.id, sample.path, sample.label)
    return Checked(ref, sample.image.shape[:2], fit_within(sample.image, SIDE), small, result.p_value)


def _to_check(session: Session, which: str) -> tuple[Split, list[str]]:
    source = session.source
    if which == "tests" and source is not None and source.tests:
        tests, notice = sources.some_tests(source.tests) if source.have != "none" else (source.tests, None)
        return tests, [notice] if notice else []
    if which == "uploads" and session.unknown:
        return session.unknown, list(session.notices)
    raise InvalidArgumentError("there are no images to check yet: upload some in step 3")


def _readable(images: Split, notices: list[str], job: Job) -> Iterator[Sample]:
    """Decode one image after the other; one that cannot be read is named in a notice instead."""
    for done, ref in enumerate(images.refs):
        job(done / len(images), f"checking image {done + 1} of {len(images)}")
        try:
            yield ref.load()
        except InvalidImageError as error:
            notices.append(f"left out: {str(error).replace(str(ref.path), ref.id)}")


def judge(session: Session, one: Checked, full: bool = False) -> Inspection:
    """The verdict at the threshold in force; `full` brings map and regions into the image's own frame."""
    result = one.map
    if full and result.scores.shape != one.size:
        scores = cv2.resize(result.scores, one.size[::-1], interpolation=cv2.INTER_LINEAR)
        result = AnomalyMap(scores, result.image_score)
    return _inspector(session).judge(one.ref.id, result, session.threshold)


def _inspector(session: Session):
    if session.inspector is None or not session.checked:
        raise InvalidArgumentError("there are no results yet: check some images in step 3")
    return session.inspector


def is_defective(session: Session, one: Checked) -> bool:
    """The verdict alone."""
    return one.map.image_score > session.threshold


def set_threshold(session: Session, threshold: float) -> None:
    """Judge by another image score from now on."""
    _inspector(session)
    session.threshold = float(threshold)


def set_false_alarm_rate(session: Session, rate: float) -> None:
    """Move the default threshold, and the one in force, to another false-alarm rate in (0, 1)."""
    if session.inspector is not None and session.inspector.calibration is not None:
        calibration = session.inspector.calibration.at_rate(rate)
        session.inspector = type(session.inspector)(session.inspector.detector, calibration, session.inspector.product)
        session.threshold = calibration.threshold


def counts(session: Session) -> tuple[int, int]:
    """(images that look defective, images checked)."""
    return sum(is_defective(session, one) for one in session.checked), len(session.checked)


def headline(session: Session) -> str:
    """The verdict in one line."""
    defective, total = counts(session)
    return f"{defective} of {total} {'looks' if defective == 1 else 'look'} defective"


def table(session: Session) -> list[list[str | float]]:
    """Rows of image, score, p-value, verdict and, where it is known, the true label; highest score first."""
    return [
        [one.ref.id, round(one.map.image_score, 4), p_text(one.p_value), _verdict(session, one), _truth(one)]
        for one in session.checked
    ]


def p_text(p_value: float | None) -> str:
    """A p-value as people read it; empty where there is none."""
    if p_value is None:
        return ""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def _verdict(session: Session, one: Checked) -> str:
    return "defective" if is_defective(session, one) else "normal"


def _truth(one: Checked) -> str:
    return {None: "", GOOD: "normal"}.get(one.ref.label, one.ref.label)


def csv_file(session: Session) -> str:
    """Path of predictions.csv at the threshold in force."""
    _inspector(session)
    path = _downloads(session) / f"{_slug(session)}-results.csv"
    rows = []
    for one in session.checked:
        defective = is_defective(session, one)
        rows.append(Prediction(one.ref.id, one.map.image_score, one.p_value, defective, UNNAMED if defective else GOOD))
    write_predictions_csv(path, rows)
    return str(path)


def overlays_file(session: Session, progress: Progress | None = None) -> str:
    """Path of a zip of full-size overlays, predictions.csv and regions.coco.json at the threshold in force."""
    inspector, job = _inspector(session), Job(session, progress)
    frozen = replace(session)  # the slider may move meanwhile

    def results() -> Iterator[tuple[Sample, Inspection]]:
        for done, one in enumerate(frozen.checked):
            job(done / len(frozen.checked), f"drawing overlay {done + 1} of {len(frozen.checked)}")
            yield one.ref.load(), judge(frozen, one, full=True)

    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        write_results(Path(folder), results(), inspector.map_threshold(frozen.threshold), maps=False)
        return _zipped(session, Path(folder), "overlays")


def model_file(session: Session) -> str:
    """Path of a zip of the model's folder, with the threshold in force; `anomalyhub predict` reads the folder."""
    inspector = session.inspector
    if inspector is None:
        raise InvalidArgumentError("nothing has been learned yet: press Learn in step 2")
    if session.threshold != inspector.threshold:
        inspector = inspector.with_threshold(session.threshold)
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        inspector.save(Path(folder) / f"{_slug(session)}-model")
        return _zipped(session, Path(folder), "model")


def _zipped(session: Session, folder: Path, what: str) -> str:
    target = _downloads(session) / f"{_slug(session)}-{what}"
    return shutil.make_archive(str(target), "zip", folder)


def _downloads(session: Session) -> Path:
    folder = session.folder / "downloads"
    folder.mkdir(exist_ok=True)
    return folder


def _slug(session: Session) -> str:
    """A file name from the product's name."""
    name = session.source.name if session.source else "model"
    return "anomalyhub-" + "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
