"""What the Inspect tab does: the whole chain on new images, with evidence. Callbacks without gradio.

What an inspection writes (tables, report.html) is written while it runs, into the visitor's own folder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from anomalyhub.data import SampleRef, Split
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidImageError, InvalidModelError
from anomalyhub.protocols import Progress
from anomalyhub.types import Inspection, Sample
from anomalyhub.ui import board, classify, discover, gpu, sources
from anomalyhub.ui.seen import Seen, headline, kept, unpacked
from anomalyhub.ui.session import Job, Session
from anomalyhub.ui.work import Work

if TYPE_CHECKING:
    from anomalyhub.pipeline import Inspector

#: What inspects, and how the page says it.
TOOLS = {"classify": "Learned kinds", "discover": "Discovered kinds", "detect": "Detector alone"}
_WAYS = {
    "classify": "no kinds have been learned yet: press Learn the kinds on the Classify tab, or open it after a reload",
    "discover": "no kinds have been discovered yet: press Discover on the Discover tab, or open it after a reload",
    "detect": "nothing has been learned yet: press Learn on the Detect tab",
}


@dataclass(eq=False)
class Visit:
    """What a visitor does on this tab.

    tool      of TOOLS; "" until something is there      loaded    what was last loaded: its key and the inspector
    uploads   images of the visitor                      left_out  why some were not taken
    seen      results, defective ones first, by score    kinds     of the inspector that gave them
    notices   what was left out of them                  folder    what the inspection wrote
    product   what was inspected last, for people
    which     "tests" or "uploads", once the visitor has said so
    tests     what `test_images` has found, and for what
    """

    tool: str = ""
    which: str = ""
    loaded: tuple[Any, Inspector] | None = None
    uploads: Split | None = None
    left_out: tuple[str, ...] = ()
    product: str = ""
    seen: tuple[Seen, ...] = ()
    kinds: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    folder: Path | None = field(default=None, repr=False)
    tests: tuple[Any, Split, list[str]] | None = field(default=None, repr=False)


# Step 1.


def ready(session: Session, work: Work) -> dict[str, bool]:
    """Which tools there are."""
    return {
        "classify": kinds_job(session, work) is not None,
        "discover": work.result_of(session.discover_job, "discover") is not None,
        "detect": session.inspector is not None,
    }


def kinds_job(session: Session, work: Work) -> str | None:
    """Id of the latest job that has learned kinds: the former one while another is running."""
    done = (job for job in reversed(session.classify_jobs) if work.result_of(job, "classify") is not None)
    return next(done, None)


def choose(session: Session, visit: Visit, work: Work, tool: str = "") -> str:
    """Inspect with this tool from now on; empty: with the first one that is there, unless one was chosen before."""
    there = ready(session, work)
    if tool and tool not in TOOLS:
        raise InvalidArgumentError(f"there is no {tool!r} to inspect with: choose one of {', '.join(TOOLS)}")
    visit.tool = tool or (visit.tool if there.get(visit.tool) else next((one for one in TOOLS if there[one]), ""))
    return visit.tool


def tool_text(session: Session, visit: Visit, work: Work) -> str:
    """What step 1 holds, or what is missing."""
    if not visit.tool:
        return "Learn on the Detect tab first, then kinds on the Classify tab"
    if not ready(session, work)[visit.tool]:
        return _WAYS[visit.tool].capitalize()
    name, kinds = _about(session, visit.tool, work)
    return f"{name}, {len(kinds)} kinds" if kinds else f"{name}, without kinds" if visit.tool == "detect" else name


def _about(session: Session, tool: str, work: Work) -> tuple[str, Sequence[str]]:
    if tool == "detect":
        return session.source.name if session.source else "your product", ()
    if tool == "discover":
        job = work.get(session.discover_job, "discover")
        return str(job.asked["config"].get("product") or job.asked.get("name") or "your product"), ()
    config = work.get(kinds_job(session, work), "classify").asked["config"]
    return str(config.get("product") or "your product"), sorted({str(one[2]) for one in config.get("examples") or ()})


def _inspector(session: Session, visit: Visit, work: Work) -> Inspector:
    """Loaded once. Raises InvalidArgumentError while there is none, InvalidModelError for one that is damaged."""
    if not visit.tool or not ready(session, work)[visit.tool]:
        raise InvalidArgumentError(_WAYS[visit.tool or "detect"])
    if visit.tool == "detect":
        inspector = session.inspector
        return inspector if session.threshold == inspector.threshold else inspector.with_threshold(session.threshold)
    make = {"classify": _classified, "discover": _discovered}[visit.tool]
    key, load = make(session, work)
    if visit.loaded is None or visit.loaded[0] != key:
        try:
            visit.loaded = key, load()
        except AnomalyHubError as error:  # in whose words there may be paths of this machine
            text = str(error).replace(str(session.folder), "your folder").replace(str(work.home), "the app's folder")
            raise InvalidModelError(text) from error
    return visit.loaded[1]


def _classified(session: Session, work: Work):
    from anomalyhub.pipeline import Inspector  # torch: seconds that the page need not wait

    folder = work.result_of(kinds_job(session, work), "classify")
    return str(folder), lambda: Inspector.load(folder)


def _discovered(session: Session, work: Work):
    """The kinds as they are on the board now, corrections included, on the detector that they were found with."""
    job = work.get(session.discover_job, "discover")
    model = job.asked["config"].get("model")
    if not model:
        raise InvalidModelError(
            "these kinds were discovered from maps or masks, which new images do not have: discover them again with "
            "the Detect tab's detector"
        )
    if not Path(model).is_dir():
        raise InvalidModelError("the detector of this discovery has been deleted: learn and discover again")
    opened = board.opened(discover.Visit(job_id=job.id), work)

    def load() -> Inspector:
        from anomalyhub.pipeline import Inspector
        from anomalyhub.pipeline.classify import with_kinds
        from anomalyhub.pipeline.naming import references_of
        from anomalyhub.review import save_model

        normals = Split(SampleRef(name, Path(path)) for name, path in classify.normals_of(str(model), work))
        with tempfile.TemporaryDirectory(dir=session.folder) as folder:
            save_model(opened, Path(folder) / "kinds")
            named = with_kinds(Inspector.load(Path(model)), Path(folder) / "kinds")
        return named.with_discoverer(named.discoverer, named.binarizer, references_of(normals)[0])

    return (job.id, str(model), tuple(opened.labels())), load


# Step 2.


def take_uploads(session: Session, visit: Visit, paths: Sequence[str], progress: Progress | None = None) -> str:
    """Take uploaded images and zips to be inspected."""
    images, notices = sources.uploaded(paths, session.folder, sources.UNKNOWN, Job(session, progress))
    if not images:
        raise sources.no_images(notices)
    visit.uploads, visit.left_out, visit.which = images, tuple(notices), "uploads"
    return f"{len(images)} images are ready. Next: inspect."


def test_images(session: Session, visit: Visit, work: Work) -> tuple[Split, list[str]]:
    """Images that came with the data of step 1, without the examples; and notices about what was left out."""
    source = session.source
    key = (visit.tool, kinds_job(session, work), session.discover_job, session.fit_job, source and source.tests.ids)
    if visit.tests is None or visit.tests[0] != key:
        visit.tests = key, *_found_tests(session, visit.tool, work)
    return visit.tests[1], list(visit.tests[2])


def _found_tests(session: Session, tool: str, work: Work) -> tuple[Split, list[str]]:
    refs: Sequence[SampleRef] = ()
    examples: Sequence[Sequence[str]] = ()
    if tool == "classify" and (job := work.get(kinds_job(session, work), "classify")) is not None:
        config = job.asked["config"]
        refs, examples = classify.detector_of(session, config, work).tests, config.get("examples") or ()
    elif tool == "discover" and (job := work.get(session.discover_job, "discover")) is not None:
        refs = [SampleRef(str(one[0]), Path(one[1]), *one[2:3]) for one in job.asked["config"].get("images") or ()]
    elif session.source is not None:
        refs = session.source.tests.refs
    new = _without(refs, [Path(one[1]) for one in examples])
    tests, notice = sources.some_tests(Split(new))
    notices = [notice.replace("checked", "inspected")] if notice else []
    if len(new) < len(refs):
        notices.append(f"{len(refs) - len(new)} of the test images are examples and were left out")
    return tests, notices


def chosen_images(visit: Visit, tests: int) -> str:
    """ "tests" or "uploads": what the visitor has said, or else what there is."""
    return visit.which if visit.which and (tests or visit.which == "uploads") else "tests" if tests else "uploads"


def _without(refs: Sequence[SampleRef], examples: Sequence[Path]) -> list[SampleRef]:
    """Those whose files are none of the examples'."""
    known: dict[int, set[bytes]] = {}
    for path in examples:
        if path.is_file():
            known.setdefault(path.stat().st_size, set()).add(path.read_bytes())
    return [
        ref for ref in refs if ref.path.is_file() and not _is_among(ref.path, known.get(ref.path.stat().st_size, set()))
    ]


def _is_among(path: Path, known: set[bytes]) -> bool:
    return bool(known) and path.read_bytes() in known


# Step 3.


def inspect(session: Session, visit: Visit, work: Work, which: str, progress: Progress | None = None) -> str:
    """Find defects, name them and say why, for the images of step 2; the former results stay when it is cancelled.

    which  "tests": those that came with the data; "uploads": those from `take_uploads`
    """
    with Job(session, progress) as job:
        job(0.0, "loading")
        inspector = _inspector(session, visit, work)
        images, notices = _images(session, visit, work, which)
        name = _about(session, visit.tool, work)[0]
        folder = Path(tempfile.mkdtemp(prefix="inspection-", dir=session.folder))
        try:
            seen = _written(
                folder, inspector, _readable(images, notices, job), notices, name, _check(session, visit, work)
            )
            job.check()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        former, visit.folder = visit.folder, folder
        if former is not None:
            shutil.rmtree(former, ignore_errors=True)
        visit.seen = tuple(sorted(seen, key=lambda one: (not one.is_anomalous, -one.score, one.ref.id)))
        visit.kinds, visit.notices, visit.product = inspector.kinds, tuple(notices), name
    return headline(visit.seen)


def _images(session: Session, visit: Visit, work: Work, which: str) -> tuple[Split, list[str]]:
    images, notices = visit.uploads or Split(), list(visit.left_out)
    if which != "uploads":
        images, notices = test_images(session, visit, work)
    if not images:
        raise InvalidArgumentError("there are no images to inspect yet: upload some in step 2")
    return images, notices


def _readable(images: Split, notices: list[str], job: Job) -> Iterator[Sample]:
    """Decode one image after the other; one that cannot be read is named in a notice instead."""
    for done, ref in enumerate(images.refs):
        job(done / len(images), f"inspecting image {done + 1} of {len(images)}")
        try:
            yield ref.load()
        except InvalidImageError as error:
            notices.append(f"left out: {str(error).replace(str(ref.path), ref.id)}")


def _check(session: Session, visit: Visit, work: Work) -> dict[str, Any] | None:
    """How well the examples were told apart, for the report."""
    folder = work.result_of(kinds_job(session, work), "classify")
    if visit.tool != "classify" or folder is None:
        return None
    try:
        return json.loads((folder / "examples.json").read_text(encoding="utf-8")).get("leave_one_out")
    except (OSError, ValueError, AttributeError):
        return None


def _written(
    folder: Path, inspector: Inspector, samples: Iterator[Sample], notices: Sequence[str], name: str, check: Any
) -> list[Seen]:
    """What was seen of each image, while tables and report are written."""
    from anomalyhub.report.identity import ModelIdentity
    from anomalyhub.report.inspection import write_inspections

    seen: list[Seen] = []

    def results() -> Iterator[tuple[Sample, Inspection]]:
        for sample, result, why in gpu.explain(inspector, samples, folder.parent):
            seen.append(kept(sample, result, why, inspector.kinds))
            yield sample, result

    def explain(rows: Sequence[int]) -> Iterator[tuple[None, None, list[SimpleNamespace]]]:
        for row in rows:
            yield None, None, [unpacked(one.why) for one in seen[row].regions if one.why is not None]

    identity = ModelIdentity.of(inspector, name, check)
    write_inspections(folder, results(), identity, data=name, maps=False, skipped=notices, explain=explain)
    if not seen:
        raise InvalidImageError("none of the images could be read: upload PNG, JPEG, TIFF, BMP or WebP files")
    return seen


# Results.


_FILES = {
    "csv": ("inspections.csv", "inspection.csv"),
    "coco": ("regions.coco.json", "regions.coco.json"),
    "report": ("report.html", "report.html"),
}


def file_of(session: Session, visit: Visit, what: str) -> str:
    """Path of a download: "csv", "coco", "report", or "all" for a zip of everything."""
    if visit.folder is None or not visit.folder.is_dir():
        raise InvalidArgumentError("there are no results yet: press Inspect in step 3")
    downloads = session.folder / "downloads"
    downloads.mkdir(exist_ok=True)
    stem = f"anomalyhub-{classify.slug(visit.product)}"
    if what == "all":
        return shutil.make_archive(str(downloads / f"{stem}-inspection"), "zip", visit.folder)
    source, name = _FILES[what]
    return str(shutil.copyfile(visit.folder / source, downloads / f"{stem}-{name}"))


# A page that comes back.


def remembered(session: Session, visit: Visit, work: Work) -> dict[str, str | None]:
    """What the browser keeps."""
    return {"tool": visit.tool, "classify": kinds_job(session, work), "discover": session.discover_job}


def recall(session: Session, visit: Visit, memory: Any, work: Work) -> bool:
    """Find the tools again that the browser remembers, which may send anything; whether there is news."""
    if not isinstance(memory, dict):
        return False
    before = tuple(session.classify_jobs), session.discover_job, visit.tool
    if not session.classify_jobs and work.result_of(memory.get("classify"), "classify") is not None:
        session.classify_jobs.append(memory["classify"])
    if session.discover_job is None and work.result_of(memory.get("discover"), "discover") is not None:
        session.discover_job = memory["discover"]
    tool = memory.get("tool")
    choose(session, visit, work, tool if not visit.tool and isinstance(tool, str) and tool in TOOLS else "")
    return (tuple(session.classify_jobs), session.discover_job, visit.tool) != before
