"""Step 2 of the Hub tab: what is pulled is checked and becomes a job that is done, where the other tabs find it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anomalyhub import jobs
from anomalyhub.data import Split, list_products
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, InvalidModelError, UnsafeRepositoryError
from anomalyhub.hub.contents import Listing, checked_repo_id, choose, gather
from anomalyhub.protocols import Progress, part
from anomalyhub.state import read_config, read_json
from anomalyhub.types import GOOD
from anomalyhub.ui import discover, methods, sources
from anomalyhub.ui.hub import Place, Taken, Visit, checked_kind, open_store
from anomalyhub.ui.session import Job, Session, Source
from anomalyhub.ui.work import Work

#: What a data set is taken for.
ROLES = {"learn": "To learn from", "check": "Only to check"}
#: Bytes, and files, that a visitor from elsewhere may bring onto this machine at a time; models are held in memory.
MAX_BYTES: Mapping[str, int] = {"model": 1024**3, "dataset": 4 * 1024**3}
MAX_FILES = 20_000
_INSPECTOR, _EXAMPLES, _BINARIZER, _MODEL = "inspector.json", "examples.json", "binarizer.json", "model"
_NAMING = ("classifier", "discoverer")  # folders of an inspector, of which it has one or none
_OFFERED = {*methods.OFFERED, *methods.CLIP, *discover.OFFERED}
_CHECK = "Choose images in step 3 and press Check"
_PULLED, _LOADING = 0.9, 0.94  # shares of the progress
_KEPT = 8  # jobs of a kind that a browser keeps in mind


@dataclass(frozen=True)
class Wanted:
    """What is to be brought in: a revision ("" the newest) of a repository; role: of a data set, one of ROLES."""

    repo_id: str
    kind: str = "model"
    revision: str = ""
    role: str = "learn"


def take(
    session: Session,
    visit: Visit,
    place: Place,
    wanted: Wanted,
    work: Work,
    trusted: bool,
    progress: Progress | None = None,
) -> str:
    """Pull a repository and hand it to the tabs that can use it; when anything fails, nothing has changed.

    Raises Cancelled, StoreError, UnsafeRepositoryError, InvalidModelError, InvalidDatasetError, InvalidArgumentError.
    """
    with Job(session, progress) as job, work.staging() as folder:
        repo_id, revision = checked_repo_id(wanted.repo_id.strip()), wanted.revision.strip() or None
        kind, store = checked_kind(wanted.kind), open_store(session, work, trusted, place)
        if kind == "dataset" and wanted.role not in ROLES:
            raise InvalidArgumentError(f"there is no use {wanted.role!r} of a data set: choose {' or '.join(ROLES)}")
        job(0.0, f"asking for {repo_id}")
        if not trusted:
            listing = store.files(repo_id, kind, revision)
            _check_size(repo_id, kind, listing)
            revision = listing.revision  # a branch may have moved on by the time of the pull
        pulled = store.pull(repo_id, kind, revision, out=folder, progress=part(job, 0.0, _PULLED))
        job(_PULLED, "checking what it is")
        about = {"repo": repo_id, "revision": pulled.revision, "session": session.folder.name}
        if kind == "model":
            taken = _take_model(session, folder, about, work, trusted, job)
        else:
            taken = _take_dataset(session, folder, about, wanted.role, work, trusted, job)
        visit.taken = taken._replace(notices=(*pulled.notices, *taken.notices))
        if visit.chosen is not None and visit.chosen.info.repo_id != repo_id:
            visit.chosen = None  # the page would show another one
        if not trusted:
            _make_room(session, work)
    return f"{taken.repo_id} is here: {taken.what}. Next: the tab {taken.tabs[0][0]}."


def _check_size(repo_id: str, kind: str, listing: Listing) -> None:
    """Of what a pull would bring."""
    chosen, _ = choose(listing.entries, kind)
    total, most = sum(entry.size for entry in chosen), MAX_BYTES[kind]
    if total > most or len(chosen) > MAX_FILES:
        raise UnsafeRepositoryError(
            f"{repo_id} has {total / 1e9:.1f} GB in {len(chosen):,} files, and this app takes at most "
            f"{most / 1e9:.1f} in {MAX_FILES:,}: run the app on your own computer to take it"
        )


def _make_room(session: Session, work: Work) -> None:
    """Of what this visitor has taken, only the last of each kind and use stays, and what is still in use."""
    kept = set()
    for one in work.store.list():  # the newest first, so that what builds on another goes before it
        config = one.asked.get("config", {})
        if not one.asked.get("adopted") or config.get("session") != session.folder.name:
            continue
        use = one.kind, config.get("role")
        if use in kept and not _in_use(one, session, work):
            _remove([one])
        kept.add(use)


def _in_use(one: jobs.Job, session: Session, work: Work) -> bool:
    """Whether the Detect tab works with it, or another job's config names it."""
    source = session.source
    photos = (*source.normals.refs, *source.tests.refs) if source is not None else ()
    return (
        one.id in (session.fit_job, session.kinds_job)
        or any(ref.path.is_relative_to(one.folder) for ref in photos)
        or any(one.id in str(other.asked.get("config")) for other in work.store.list())
    )


# Models.


def what_is(folder: Path, repo_id: str) -> tuple[str, Path]:
    """ "detector", "discoverer" or "classifier" with the folder that holds it.

    Raises InvalidModelError for what no tab can use, with what can.
    """
    root = folder / _MODEL if not (folder / "config.json").is_file() else folder  # of a whole discovery
    kind = str(read_json(root / "config.json").get("kind"))
    if kind == "detector" and not (root / _INSPECTOR).is_file():
        raise InvalidModelError(
            f"{repo_id} is a detector without a threshold, as it was saved alone: push the folder of a fit, or an "
            "Inspector"
        )
    if kind == "classifier" and not read_config(root, kind).get("pretraining"):
        raise InvalidModelError(f"{repo_id} is a classifier without its detector: push the folder of classify fit")
    if kind not in ("detector", "discoverer", "classifier"):
        raise InvalidModelError(
            f"{repo_id} holds trained weights of another method, which are for the command line: "
            f"anomalyhub pull {repo_id} --out DIR, then fit with --set weights=DIR"
        )
    return kind, root


def _take_model(session: Session, folder: Path, about: Mapping[str, str], work: Work, trusted: bool, job: Job) -> Taken:
    kind, root = what_is(folder, about["repo"])
    if not trusted:
        _check_backbones(root, about["repo"])
    return {"detector": _take_detector, "discoverer": _take_kinds, "classifier": _take_pretrained}[kind](
        session, root, about, work, job
    )


def _check_backbones(root: Path, repo_id: str) -> None:
    """Visitors from elsewhere have nothing downloaded, and name no files of the machine."""
    for path in sorted(root.rglob("config.json")):
        backbone = read_json(path).get("backbone")
        spec = backbone.get("spec") if isinstance(backbone, dict) else None
        if spec is not None and spec not in _OFFERED:
            raise InvalidModelError(
                f"{repo_id} works on the backbone {str(spec)[:80]!r}, which this app does not offer: run the app on "
                "your own computer"
            )


def _take_detector(session: Session, root: Path, about: Mapping[str, str], work: Work, job: Job) -> Taken:
    """A detector, or an inspector that names what it finds: for Detect, and all that builds on it."""
    from anomalyhub.pipeline import Inspector  # torch: seconds that the page need not wait

    contents, config = gather(root), read_config(root, "detector")
    product = str(read_json(root / _INSPECTOR).get("product") or about["repo"])
    own = {name: path for name, path in contents.items() if "/" not in name and name not in (_EXAMPLES, _BINARIZER)}
    told = {"product": product, "images": [], "detector": config.get("detector"), **about}
    made = [work.store.adopt("fit", told, own, name=about["repo"])]
    try:
        job(_LOADING, "loading")
        inspector = Inspector.load(made[0].result)
        threshold = inspector.threshold
        kinds = next((_kinds_of(root / name) for name in _NAMING if (root / name).is_dir()), None)
        if kinds is not None:
            made.append(_adopt_named(made[0], kinds, contents, about, work))
            Inspector.load(made[1].result)
        job.check()
    except BaseException:
        _remove(made)
        raise
    _forget_model(session)
    source = Source(product, Split(), Split(), "hub")
    session.have, session.method = source.have, methods.find("", source.have).key
    session.source, session.unknown, session.inspector, session.threshold = source, None, inspector, threshold
    session.fit_job = made[0].id
    if kinds is not None:
        session.classify_jobs.append(made[1].id)
    else:
        kinds = join_kinds(session, work)
    if kinds is None:
        return _taken(about, f"a detector of {product}", ("Detect", _CHECK), ("Inspect", "Choose Detector alone"))
    what = f"a detector of {product} that knows {len(kinds)} kinds: {_some(kinds)}"
    return _taken(about, what, ("Inspect", "Choose new images and press Inspect"), ("Detect", _CHECK))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + ", …" * (len(names) > 5)


def _taken(about: Mapping[str, str], what: str, *tabs: tuple[str, str], notices: tuple[str, ...] = ()) -> Taken:
    return Taken(about["repo"], "model", about["revision"], what, tabs, notices)


def _remove(made: list[jobs.Job]) -> None:
    for one in made:
        with suppress(AnomalyHubError):
            one.remove()


def _forget_model(session: Session) -> None:
    """What was learned and checked before makes room; a job that still learns is stopped."""
    learning, session.learning = session.learning, None
    if learning is not None:
        learning.cancel()
    session.checked, session.notices, session.thumbnails = (), (), {}


def _kinds_of(folder: Path) -> tuple[str, ...]:
    """The kinds that a classifier or discoverer knows."""
    classes = read_json(folder / "config.json").get("classes")
    return tuple(str(name) for name in classes if name != GOOD) if isinstance(classes, list) else ()


def _adopt_named(
    fit: jobs.Job, kinds: tuple[str, ...], contents: Mapping[str, Path], about: Mapping[str, str], work: Work
) -> jobs.Job:
    """An inspector as the job of the Classify tab that could have made it; its examples' images stayed elsewhere."""
    told = {"model": str(fit.result), "product": fit.asked["config"].get("product"), **about}
    told["examples"] = [["", "", kind] for kind in kinds]
    return work.store.adopt("classify", told, contents, name=about["repo"])


def join_kinds(session: Session, work: Work) -> tuple[str, ...] | None:
    """The kinds that were taken, and the detector that is there now, become an inspector unless they are one already.

    As `anomalyhub classify --kinds` joins them. Returns the kinds; None where there are none, where the detector is
    missing, or where the kinds were found without one and cannot find regions.
    """
    folder, fit = work.result_of(session.kinds_job, "kinds"), work.get(session.fit_job, "fit")
    if folder is None or fit is None or fit.result is None or not (folder / _BINARIZER).is_file():
        return None
    about = {"repo": work.get(session.kinds_job).asked["name"], "kinds": session.kinds_job}
    kinds, about = _kinds_of(folder), about | {"session": session.folder.name}
    for one in session.classify_jobs:
        known = (work.get(one, "classify") or fit).asked["config"]
        if known.get("kinds") == session.kinds_job and known.get("model") == str(fit.result):
            return kinds
    own = {name: path for name, path in gather(fit.result).items() if "/" not in name}
    found = {f"{_NAMING[1]}/{name}": path for name, path in gather(folder).items() if name != _BINARIZER}
    contents = {**own, **found, _BINARIZER: folder / _BINARIZER}
    session.classify_jobs.append(_adopt_named(fit, kinds, contents, about, work).id)
    return kinds


def _take_kinds(session: Session, root: Path, about: Mapping[str, str], work: Work, job: Job) -> Taken:
    """Kinds of a discovery: for Discover, and with the Detect tab's detector for Inspect."""
    from anomalyhub.discovery import load_discoverer

    made = _loaded("kinds", root, about, work, job, load_discoverer)
    session.kinds_job = made.id
    kinds, joined = _kinds_of(root), join_kinds(session, work)
    what = f"{len(kinds)} kinds of defect: {_some(kinds)}"
    use = ("Discover", "Choose these kinds as the method in the settings of step 2")
    if joined is not None:
        return _taken(about, what, ("Inspect", "Choose new images and press Inspect"), use)
    hint = "take or learn a detector as well: then the Inspect tab names what it finds by these kinds"
    return _taken(about, what, use, notices=(hint,))


def _take_pretrained(session: Session, root: Path, about: Mapping[str, str], work: Work, job: Job) -> Taken:
    """A pretrained head: for Classify, where it fits the detector."""
    from anomalyhub.classification import load_classifier

    head = str(read_config(root, "classifier").get("classifier"))
    made = _loaded("pretrain", root, {"head": head, **about}, work, job, load_classifier)
    session.pretrain_jobs.append(made.id)
    return _taken(about, f"a pretrained {head} head", ("Classify", "Choose it under “Pretrained on” in step 3"))


def _loaded(
    kind: str, root: Path, about: Mapping[str, str], work: Work, job: Job, load: Callable[[Path], Any]
) -> jobs.Job:
    """A job of a model that can be loaded; what cannot leaves nothing."""
    made = work.store.adopt(kind, about, gather(root), name=about["repo"])
    try:
        job(_LOADING, "loading")
        load(made.result)
        job.check()
    except BaseException:
        _remove([made])
        raise
    return made


# A page that comes back.


def remembered(session: Session, work: Work) -> dict[str, Any]:
    """What the browser keeps; of the detector and its images the Detect tab's memory tells."""
    jobs = {"classify": session.classify_jobs[-1:], "pretrain": session.pretrain_jobs[-_KEPT:]}
    return {kind: [one for one in ids if work.result_of(one, kind)] for kind, ids in jobs.items()} | {
        "kinds": [session.kinds_job] if session.kinds_job else []
    }


def recall(session: Session, memory: Any, work: Work) -> None:
    """Find again what the browser remembers, which may send anything."""

    def told(kind: str) -> list[str]:
        ids = memory.get(kind) if isinstance(memory, dict) else None
        return [one for one in (ids if isinstance(ids, list) else [])[:_KEPT] if work.result_of(one, kind) is not None]

    for kind, known in (("classify", session.classify_jobs), ("pretrain", session.pretrain_jobs)):
        known[:0] = [one for one in told(kind) if one not in known]
    session.kinds_job = session.kinds_job or next(iter(told("kinds")), None)


# Data sets.


def _take_dataset(
    session: Session, folder: Path, about: Mapping[str, str], role: str, work: Work, trusted: bool, job: Job
) -> Taken:
    told = {"role": role, "limited": not trusted, **about}  # see `sources.pulled_source`
    made = work.store.adopt("dataset", told, gather(folder), name=about["repo"])
    place = str(made.result)
    try:
        products = list_products(made.result)
        taken = Taken(about["repo"], "dataset", about["revision"], "", (), (), products, job_id=made.id)
        job.check()
        return _hand_over(session, taken, products[0] if products else "", role, work)
    except AnomalyHubError as error:
        _remove([made])
        error.args = (str(error).replace(place, about["repo"]),)
        raise


def use_product(session: Session, visit: Visit, product: str, role: str, work: Work) -> str:
    """Of a data set of several products, take another one, or take it for something else."""
    taken = visit.taken
    if taken is None or work.result_of(taken.job_id, "dataset") is None:
        raise InvalidArgumentError("the data set is not here any more: press Use in this app again")
    if taken.products and product not in taken.products:
        raise InvalidArgumentError(f"{taken.repo_id} has no product {product!r}: choose one of the list")
    visit.taken = _hand_over(session, taken, product if taken.products else "", role, work)
    return visit.taken.what


def _hand_over(session: Session, taken: Taken, product: str, role: str, work: Work) -> Taken:
    """A product of a taken data set becomes the source of the Detect tab, from which the others take theirs."""
    job, key = work.get(taken.job_id, "dataset"), f"{taken.job_id}/{product}"
    name = product or taken.repo_id.partition("/")[2]
    taken = taken._replace(product=product, role=role)
    if role == "check":
        return _to_check(session, taken, name, *sources.pulled_tests(job, product), key)
    source = sources.pulled_source(job, product, name, key)
    _forget_model(session)
    session.have, session.method = source.have, methods.find("", source.have).key
    session.source, session.unknown, session.inspector, session.fit_job = source, None, None, None
    if source.have == "none":
        what = f"{len(source.tests)} photos of {name}"
        tabs = (("Detect", "Press Compare in step 2"),)
    else:
        what = f"{len(source.normals)} normal photos of {name} and {len(source.tests)} to check"
        tabs = (("Detect", "Press Learn in step 2"), ("Synthesize & pretrain", "Choose From Detect in step 1"))
    return taken._replace(what=what, tabs=tabs, notices=source.notices)


def _to_check(session: Session, taken: Taken, name: str, tests: Split, notices: tuple[str, ...], key: str) -> Taken:
    if session.source is None or session.inspector is None:
        raise InvalidArgumentError(
            f"there is no detector yet that could check {name}: take or learn one first, or take the data set to learn "
            "from"
        )
    if not tests:
        raise InvalidArgumentError(f"{name} has no images to check: take it to learn from")
    session.source = replace(session.source, tests=tests, kind="hub", key=key)
    session.checked, session.notices = (), ()
    kinds = {label for label in tests.labels if label not in (None, GOOD)}
    tabs = [("Detect", "Choose Test images in step 3 and press Check"), ("Discover", "Choose From Detect in step 1")]
    tabs += [("Classify", "Take examples from its Test images in step 2")] * (len(kinds) > 1)
    what = f"{len(tests)} images of {name} to check" + f", with {len(kinds)} kinds of defect" * bool(kinds)
    return taken._replace(what=what, tabs=tuple(tabs), notices=notices)
