"""Figures that stand beside the published tables: a config of eval/configs, or of your own, into a folder of records.

    accelerate launch eval/run.py --config quick                  # the bundled sample, all three tasks, no download
    accelerate launch eval/run.py --config patchcore-mvtec --data-root /data
    torchrun --nproc_per_node 2 eval/run.py --config quick        # two processes on CPUs share out the products
    python eval/run.py --config quick --list                      # what there is to do, and what is done

A run that was stopped goes on when it is started again. Exit codes: 0 done, 1 some unit has failed, 2 the config, the
data or the folder is wrong.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common import shared

from anomalyhub.benchmark.config import BenchmarkConfig, load_config
from anomalyhub.benchmark.sources import Sources
from anomalyhub.errors import AnomalyHubError, UnknownNameError

CONFIGS = Path(__file__).resolve().parent / "configs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, or list, what is asked for; the exit code."""
    asked = _parser().parse_args(arguments)
    leads = int(os.environ.get("RANK", "0")) == 0  # of several processes that were started together
    try:
        config = load_config(_config_path(asked.config))
        folder = asked.data_root or (str(shared() / "data") if shared() else None)
        sources = Sources.of(folder, asked.data, asked.weights or (str(shared() / "weights") if shared() else None))
        out = Path(asked.out or Path("runs") / config.name)
        if asked.list:
            return _list(config, sources, out, asked.only)
        if asked.push_to is not None:
            from anomalyhub.hub.base import check_target

            check_target(asked.push_to, asked.store)  # before the work, not after it
        code = _run(config, sources, out, asked)
    except AnomalyHubError as error:
        print(f"eval/run.py: {error}", file=sys.stderr)
        return 2
    return max(code, _push(out, asked.push_to, asked.store)) if asked.push_to and leads else code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="a YAML file, or the name of one in eval/configs"
    )
    parser.add_argument("--out", metavar="FOLDER", help="of this run; default: runs/NAME")
    parser.add_argument("--data-root", metavar="FOLDER", help="the folder of data sets")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH", help="a data set; repeatable")
    parser.add_argument("--weights", metavar="FOLDER", help="where paths after the @ of a backbone start")
    parser.add_argument("--only", metavar="TEXT", help="units with this in their name; * and ? are wildcards")
    parser.add_argument("--list", action="store_true", help="print the units and what is done, and compute nothing")
    parser.add_argument("--keep-work", action="store_true", help="keep fitted detectors and features when all is done")
    parser.add_argument("--push-to", metavar="REPO_ID", help="push the results as a data set at the end: OWNER/NAME")
    parser.add_argument("--store", default="hub", metavar="STORE", help="hub, or folder:PATH such as a share")
    return parser


def _config_path(text: str) -> Path:
    """The file of that path, or of that name in eval/configs."""
    path = Path(text).expanduser()
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    if not (CONFIGS / f"{text}.yaml").is_file():
        raise UnknownNameError("config", text, [file.stem for file in CONFIGS.glob("*.yaml")])
    return CONFIGS / f"{text}.yaml"


def _run(config: BenchmarkConfig, sources: Sources, out: Path, asked: argparse.Namespace) -> int:
    from anomalyhub.benchmark.runner import run

    file = _config_path(asked.config)
    words = ["python", "eval/run.py", "--config", file.stem if file.parent == CONFIGS else file.name]
    report = run(
        config,
        out,
        sources,
        only=asked.only,
        command=shlex.join(words),
        keep_work=asked.keep_work,
        say=lambda line: print(line, flush=True),
    )
    if report.leads:
        print(f"{len(report.finished) + len(report.before)} units are in {out}", flush=True)
        for what, ids in (("failed", report.failed), ("were not reached", report.missing)):
            if ids:
                names = ", ".join(ids[:3]) + (" …" if len(ids) > 3 else "")
                print(f"eval/run.py: {len(ids)} units {what}: {names}; see {out / 'failed'}", file=sys.stderr)
    return report.exit_code


def _list(config: BenchmarkConfig, sources: Sources, out: Path, only: str | None) -> int:
    from anomalyhub.benchmark.runner import status
    from anomalyhub.benchmark.units import chosen, make_plan

    plan = chosen(make_plan(config, sources), only)
    states = [status(out, planned) for planned in plan]
    for planned, state in zip(plan, states, strict=True):
        print(f"{state:8}  {planned.unit.name}")
    print(f"{states.count('finished')} of {len(plan)} units are finished")
    return 0


def _push(out: Path, repo_id: str, store: str) -> int:
    from anomalyhub.hub.base import push_command
    from anomalyhub.hub.share import share

    try:
        print(f"pushed to {share(out, repo_id, 'dataset', store=store, tags=['benchmark']).url}")
    except AnomalyHubError as error:
        again = push_command(out, repo_id, "dataset", store)
        print(f"the results are in {out}, but were not pushed: {error}; push them with: {again}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
