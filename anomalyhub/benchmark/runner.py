"""A run: the units of a config into a folder, in as many processes as were started, as often as it takes.

RUN/plan.json             the config and its units
RUN/units/ID.json         a record of each finished unit, RUN/units/ID.predictions.csv what its metrics are of
RUN/failed/ID.json        why a unit has failed; it is tried again when the run is started again
RUN/.work                 what units share; a product's part goes when its units are finished
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalyhub.benchmark.config import BenchmarkConfig
from anomalyhub.benchmark.machine import PeakMemory, commit, hardware, versions
from anomalyhub.benchmark.processes import Processes, check_launch
from anomalyhub.benchmark.records import FAILED, FAILURE, SCHEMA, UNITS, Record, write_record
from anomalyhub.benchmark.sources import Sources
from anomalyhub.benchmark.tasks import Outcome, measure
from anomalyhub.benchmark.units import PLAN, PLAN_KIND, Planned, chosen, make_plan, plan_json, product_of
from anomalyhub.benchmark.work import Work
from anomalyhub.errors import InvalidRecordError, OutputError
from anomalyhub.fsio import atomic_file, make_folder
from anomalyhub.state import jsonable

_WORK, _LEFTOVER = ".work", ".anomalyhub-*"
_MAX_COMMAND, _MINUTE = 300, 60.0


@dataclass(frozen=True)
class Report:
    """What a run came to: ids of units that are finished, that were before it began, that failed, and that are missing.

    The last are those of a process that has ended early. `leads` is True in the first of several processes: only its
    exit code tells of failures, as torchrun ends all when one does not exit with 0.
    """

    finished: tuple[str, ...]
    before: tuple[str, ...]
    failed: tuple[str, ...]
    missing: tuple[str, ...]
    leads: bool = True

    @property
    def exit_code(self) -> int:
        return 1 if self.leads and (self.failed or self.missing) else 0


def run(
    config: BenchmarkConfig,
    out: str | Path,
    sources: Sources,
    *,
    only: str | None = None,
    command: str = "",
    keep_work: bool = False,
    say: Callable[[str], None] = print,
) -> Report:
    """Measure the units of a config that `out` has no record of.

    only       see `anomalyhub.benchmark.units.chosen`
    command    for the records: what gives them again
    keep_work  keep what units share
    say        is told a line per unit, in each process, and once a minute what a long one is at
    A unit that raises is recorded as failed, and the others go on. Under torchrun or `accelerate launch` the processes
    share out the products; each returns the report of its own part, but the first, which returns that of the whole run.
    Raises InvalidArgumentError, UnknownNameError and InvalidDatasetError for a config that cannot be run, OutputError
    for a folder of another run.
    """
    check_launch()
    folder = Path(out).expanduser().resolve()
    plan = make_plan(config, sources)
    wanted = chosen(plan, only)
    make_folder(folder)
    processes = Processes(folder)
    try:
        if processes.rank == 0:
            _claim(folder, config, plan)
        processes.together()
        before = finished_ids(folder, plan)
        todo = [one for one in wanted if one.id not in before]
        products = list(dict.fromkeys(product_of(one) for one in todo))
        own = set(processes.share_out(products))
        mine = [one for one in todo if product_of(one) in own]
        if before and processes.rank == 0:
            say(f"{len(before)} of {len(plan)} units are there already")
        _measure_all(mine, plan, folder, Work(folder / _WORK, sources), config.name, command, keep_work, say)
        if processes.rank == 0:
            processes.wait_for_others()
            mine = todo
        done = finished_ids(folder, mine)
        failed = [one.id for one in mine if one.id not in done and _failure(folder, one).exists()]
        missing = [one.id for one in mine if one.id not in done and one.id not in failed]
        leads = processes.rank == 0
        return Report(tuple(sorted(done)), tuple(sorted(before)), tuple(failed), tuple(missing), leads)
    finally:
        processes.end()


def finished_ids(folder: Path, plan: Sequence[Planned]) -> set[str]:
    """Units of which there is a record."""
    return {one.id for one in plan if (folder / UNITS / f"{one.id}.json").is_file()}


def status(folder: Path, planned: Planned) -> str:
    """finished, failed or to do."""
    if (folder / UNITS / f"{planned.id}.json").is_file():
        return "finished"
    return "failed" if _failure(folder, planned).exists() else "to do"


def _claim(folder: Path, config: BenchmarkConfig, plan: Sequence[Planned]) -> None:
    """Make the folder this run's, or see that it is; clear away what a killed process has left half written."""
    path, wanted = folder / PLAN, plan_json(config, list(plan))
    for inner in (folder, folder / UNITS, folder / FAILED):
        for leftover in inner.glob(_LEFTOVER):
            with contextlib.suppress(OSError):
                leftover.unlink()
    if path.exists():
        _check_same(folder, read_plan(folder), wanted)
    elif any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise OutputError(f"{folder} is not empty and holds no run: choose another --out")
    for inner in (UNITS, FAILED):
        make_folder(folder / inner)
    _write(path, wanted)


def _check_same(folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if there.get("digest") != wanted["digest"]:
        raise OutputError(f"{folder} holds a run of another config, {there.get('config')}: choose another --out")
    known = {unit["id"] for unit in wanted["units"]}
    strange = sorted(path.stem for path in (folder / UNITS).glob("[!.]*.json") if path.stem not in known)
    if strange:
        raise OutputError(
            f"{folder} holds {len(strange)} results, such as {strange[0]}, of other images, weights or defaults than "
            "there are now: choose another --out"
        )


def read_plan(folder: str | Path) -> dict[str, Any]:
    """plan.json of a run. Raises InvalidRecordError."""
    path = Path(folder) / PLAN
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRecordError(f"{path} is not readable ({error}): give the --out folder of a run") from error
    if not isinstance(value, dict) or value.get("kind") != PLAN_KIND or value.get("schema") != SCHEMA:
        raise InvalidRecordError(f"{path} is no plan of this version's: give the --out folder of a run")
    return value


def _measure_all(
    mine: Sequence[Planned],
    plan: Sequence[Planned],
    folder: Path,
    work: Work,
    name: str,
    command: str,
    keep_work: bool,
    say: Callable[[str], None],
) -> None:
    users = Counter(one.detector_key for one in plan)
    start = time.perf_counter()
    for number, planned in enumerate(mine, 1):
        work.progress = _Now(f"[{number}/{len(mine)}] {planned.unit.name}", say)
        line = _measured(planned, folder, work, users[planned.detector_key] > 1, name, command)
        pace = (time.perf_counter() - start) / number
        left = f"; about {_duration(pace * (len(mine) - number))} left" if number < len(mine) else ""
        say(f"[{number}/{len(mine)}] {planned.unit.name}: {line}{left}")
        is_last = number == len(mine) or product_of(mine[number]) != product_of(planned)
        of_product = [one for one in plan if product_of(one) == product_of(planned)]
        if is_last and not keep_work and len(finished_ids(folder, of_product)) == len(of_product):
            work.forget(planned)


def _measured(planned: Planned, folder: Path, work: Work, shared: bool, name: str, command: str) -> str:
    """Measure and record a unit; what to say of it."""
    memory, start = PeakMemory(), time.perf_counter()
    try:
        outcome = measure(planned, work, shared=shared)
        wall = time.perf_counter() - start
        record = _record(planned, outcome, wall, memory.gib(), name, command)
        write_record(folder / UNITS, record, outcome.predictions)
        _failure(folder, planned).unlink(missing_ok=True)
    except Exception as error:  # whatever it is, the other units may take days
        reason = f"{type(error).__name__}: {error}"
        _write(
            _failure(folder, planned),
            {
                "schema": SCHEMA,
                "kind": FAILURE,
                "unit": dataclasses.asdict(planned.unit),
                "settings": planned.settings,
                "config": name,
                "reason": reason,
                "date": _now(),
            },
        )
        log = folder / _WORK / "failures" / f"{planned.id}.txt"  # it names files of this machine, and stays here
        make_folder(log.parent)
        log.write_text(traceback.format_exc(), encoding="utf-8")
        return f"FAILED, {reason}"
    shown = [f"{key} {value:.3f}" for key, value in record.metrics.items() if value is not None]
    return f"{', '.join(shown[:3])} ({_duration(wall)})"


class _Now:
    """A Progress that says once a minute what a unit is at."""

    def __init__(self, title: str, say: Callable[[str], None]):
        self.title, self.say, self.last = title, say, time.monotonic()

    def __call__(self, fraction: float, text: str) -> None:
        if fraction < 1 and time.monotonic() - self.last >= _MINUTE:
            self.last = time.monotonic()
            self.say(f"{self.title}: {text} …")


def _record(planned: Planned, outcome: Outcome, wall: float, peak: float, name: str, command: str) -> Record:
    seconds = {key: round(value, 4) for key, value in outcome.seconds.items()}
    published = planned.row.published
    return Record(
        unit=planned.unit,
        settings=planned.settings,
        metrics=outcome.metrics,
        why=outcome.why,
        n_images=outcome.n_images,
        config=name,
        published=None if published is None else dataclasses.asdict(published),
        seconds={"total": round(sum(outcome.seconds.values()), 4), "wall": round(wall, 4), **seconds},
        peak_gib=round(peak, 3),
        commit=commit(),
        versions=versions(),
        hardware=hardware(),
        date=_now(),
        command=command[:_MAX_COMMAND],
    )


def _failure(folder: Path, planned: Planned) -> Path:
    return folder / FAILED / f"{planned.id}.json"


def _write(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_file(path) as staged:
        staged.write_text(json.dumps(jsonable(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
