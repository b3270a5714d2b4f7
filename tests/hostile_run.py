"""`python tests/hostile_run.py FOLDER [STEP [HUB_STEP]]`: pull and load hostile repositories, one JSON line for each.

Every STEPth comes from a folder store, every HUB_STEPth from a Hub of loopback. They are tried in a process of its own:
what a case may not do is watched by an audit hook, which nothing can take out again, and one that takes the process
down takes no other test with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Seconds that a case may take.
_SECONDS = 120
_RUNS = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class"}
_CONNECTS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}
#: Which of an event's arguments are paths that it changes, and which one says relative to what folder they are.
_CHANGES = {
    **{"os.rename": {0: 2, 1: 3}, "os.link": {1: 3}, "os.symlink": {1: 2}, "os.mkdir": {0: 2}, "os.remove": {0: 1}},
    **{"os.rmdir": {0: 1}, "os.chmod": {0: 2}, "os.truncate": {0: None}, "os.chown": {0: 3}, "os.utime": {0: 3}},
}


class Watch:
    """What a case must not do: run anything, connect, write outside `allowed`, read from `forbidden`."""

    def __init__(self, allowed: list[Path], forbidden: list[Path]):
        self.allowed, self.forbidden = [os.path.realpath(path) for path in allowed], [str(path) for path in forbidden]
        self.seen: list[str] = []
        self.active, self.connects = False, True
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.active:
            return
        if event in _RUNS or (self.connects and event in _CONNECTS):
            self.seen.append(f"{event} {arguments[:2]!r}")
        elif event == "open":
            self._opened(*arguments)
        for index, folder in _CHANGES.get(event, {}).items():
            if isinstance(arguments[index], (str, bytes, os.PathLike)):
                at = arguments[folder] if folder is not None and folder < len(arguments) else -1
                within = os.readlink(f"/proc/self/fd/{at}") if at != -1 else ""
                self._changed(event, os.path.join(within, os.fsdecode(arguments[index])))

    def _opened(self, path: Any, mode: Any, flags: int) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(path))
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                self._changed("open", path)
            elif any(path == one or path.startswith(one + os.sep) for one in self.forbidden):
                self.seen.append(f"read {path}")

    def _changed(self, event: str, path: str) -> None:
        parent, name = os.path.split(os.path.abspath(path))
        real = os.path.join(os.path.realpath(parent), name)
        if real != os.devnull and not any(real == one or real.startswith(one + os.sep) for one in self.allowed):
            self.seen.append(f"{event} {real}")

    @contextmanager
    def watching(self):
        self.seen = []
        self.active = True
        try:
            yield self.seen
        finally:
            self.active = False


def cases() -> list[Any]:
    """All of them, with names that are unique."""
    from dataclasses import replace

    from hostile_data import data_cases
    from hostile_models import model_cases
    from hostile_repos import store_cases

    made = [*store_cases(), *model_cases(), *data_cases()]
    return [replace(one, name=f"{one.kind}: {one.name}") for one in made]


def saved_inspector(folder: Path) -> dict[str, bytes]:
    """A detector, a classifier of two kinds, and three references, on the embedded backbone."""
    from classify_helpers import examples
    from core_helpers import normals

    from anomalyhub.classification import classifiers
    from anomalyhub.pipeline import Inspector
    from anomalyhub.pipeline.evidence import evidence_of
    from anomalyhub.pipeline.naming import references_of
    from anomalyhub.regions import MEBin

    inspector = Inspector.fit("patchcore", normals(6), settings={"coreset": 0.05}, product="tile")
    samples, binarizer = examples(3), MEBin(kernel=2)
    evidence = evidence_of(inspector, samples, binarizer=binarizer, labels=[one.label for one in samples])
    classifier = classifiers["prototype"]().fit(evidence)
    inspector.with_classifier(classifier, binarizer, references_of(normals(3))[0]).save(folder)
    return read(folder)


def small_data_set(folder: Path) -> dict[str, bytes]:
    from layout_trees import mvtec

    mvtec(folder)
    return read(folder)


def read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load(folder: Path, kind: str) -> None:
    """Do with a pulled repository what its user does."""
    from core_helpers import photo

    from anomalyhub.data import list_products, load_dataset
    from anomalyhub.pipeline import Inspector

    if kind == "model":
        list(Inspector.load(folder).explain([photo(9, defect=True)]))
        return
    for product in list_products(folder) or [None]:
        dataset = load_dataset(folder, product)
        for split in (dataset.train, dataset.test):
            for sample in split:
                assert sample.image.ndim == 3


def attempt(store: Any, repo_id: str, out: Path, case: Any) -> dict[str, Any]:
    """How far a case comes: "refused" by the pull, "unreadable" by the loading, or "loaded"; or it is a "crash"."""
    from anomalyhub.errors import AnomalyHubError
    from anomalyhub.hub.front_matter import read_front_matter

    came = {"came": "refused", "notices": [], "error": "", "message": ""}
    try:
        store.list(case.kind)
        pulled = store.pull(repo_id, case.kind, out=out)
        came |= {"came": "unreadable", "notices": list(pulled.notices)}
        read_front_matter(store.card(repo_id, case.kind)[1])
        load(pulled.folder, case.kind)
        came["came"] = "loaded"
    except AnomalyHubError as error:
        came |= {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:
        came |= {"came": "crash", "error": type(error).__name__, "message": "".join(traceback.format_exc()[-2500:])}
    return came


def peak_mib() -> float:
    """Most memory that this process has held since the last `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def misdeeds(work: Path) -> None:
    """What the watch must see."""
    import pickle
    import socket

    from hostile_models import Evil

    pickle.loads(pickle.dumps(Evil()))
    Path("/etc/passwd").read_bytes()
    (work / "stray").mkdir()
    (work / "stray" / "a.txt").write_text("a")
    shutil.rmtree(work / "stray")
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", 9))


class Run:
    """A folder in which cases are tried, one after the other."""

    def __init__(self, work: Path):
        self.work, self.target, self.share, self.mark = work, work / "target", work / "share", work / "mark"
        allowed = [self.target, work / "cache", work / "tmp", work / "hf"]
        self.watch = Watch(allowed, [Path("/etc/passwd"), Path("/etc/shadow"), self.share / "outside"])
        self.good = {"model": saved_inspector(work / "model"), "dataset": small_data_set(work / "dataset")}

    def control(self) -> None:
        """The watch sees what it is there to see."""
        with self.watch.watching() as seen:
            misdeeds(self.work)
        print(json.dumps({"name": "misdeeds", "seen": seen, "marked": self.mark.exists()}), flush=True)
        self.mark.unlink()

    def in_folder(self, case: Any) -> None:
        """From a folder store that an attacker has written."""
        from hostile_repos import plant

        from anomalyhub.hub import create_store

        shutil.rmtree(self.share, ignore_errors=True)
        plant(self.share / f"{case.kind}s" / "evil" / "repo", self.good[case.kind], case)
        self.one(create_store(f"folder:{self.share}"), "evil/repo", case, case.name)

    def one(self, store: Any, repo_id: str, case: Any, name: str) -> None:
        """Try it, and print what came of it."""
        for folder in (self.target, self.work / "cache"):
            shutil.rmtree(folder, ignore_errors=True)
        self.target.mkdir()
        out, before, start = self.target / "out", set(_names(self.work)), time.process_time()
        forget_peak()
        held = peak_mib()
        with self.watch.watching() as seen:
            signal.alarm(_SECONDS)
            came = attempt(store, repo_id, out, case)
            signal.alarm(0)
        come = [path.relative_to(self.work) for path in set(_names(self.work)) - before if not path.is_relative_to(out)]
        stray = [str(path) for path in come if path.parts[0] not in ("cache", "tmp", "hf")]
        kept = sorted(read(out)) if out.is_dir() else []
        came |= {"name": name, "seen": seen, "stray": stray, "kept": kept, "marked": self.mark.exists()}
        self.mark.unlink(missing_ok=True)
        came |= {"seconds": round(time.process_time() - start, 2), "mib": round(peak_mib() - held)}
        print(json.dumps(came), flush=True)

    def on_a_hub(self, chosen: list[Any]) -> None:
        """From a Hub of loopback, as far as it can have such repositories."""
        from hostile_repos import serve
        from hub_server import TOKEN, connected, hub_server

        from anomalyhub.hub import create_store

        self.watch.connects = False
        with hub_server() as hub, connected(hub, self.work / "hf", TOKEN):
            for number, case in enumerate(chosen):
                if serve(hub, f"evil/repo{number}", self.good[case.kind], case):
                    self.one(create_store("hub"), f"evil/repo{number}", case, f"hub: {case.name}")


def main(work: Path, step: int = 1, hub_step: int = 10) -> None:
    places = {"ANOMALYHUB_HOME": "cache", "HOME": "home", "HF_HOME": "home/hf", "TMPDIR": "tmp", "HOSTILE_MARK": "mark"}
    places["TORCHINDUCTOR_CACHE_DIR"] = "tmp/inductor"  # which torch makes when it is imported
    os.environ |= {"HF_HUB_OFFLINE": "1", **{name: str(work / place) for name, place in places.items()}}
    (work / "tmp").mkdir(parents=True)
    signal.signal(signal.SIGALRM, _late)
    from hostile_repos import Case

    run = Run(work)
    run.in_folder(Case("warm-up", "model", lambda repo: None, "harmless"))
    run.control()
    for case in [Case(f"good {kind}", kind, lambda repo: None, "harmless") for kind in run.good] + cases()[::step]:
        run.in_folder(case)
    run.on_a_hub(cases()[::hub_step])


def _names(folder: Path) -> list[Path]:
    return [Path(at, name) for at, folders, files in os.walk(folder) for name in folders + files]


def _late(*_: Any) -> None:
    raise TimeoutError(f"not done in {_SECONDS} seconds")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:]))
