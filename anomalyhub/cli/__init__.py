"""The command line: `main` runs it, `verbs` has one function per verb.

Exit codes: 0 done; 2 the input or the arguments are wrong, said in one line on standard error; 130 or 143 stopped by
Ctrl-C or SIGTERM; 1 anything else.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Any

import typer

import anomalyhub.cli.backbones
import anomalyhub.cli.binarize
import anomalyhub.cli.classify
import anomalyhub.cli.discover
import anomalyhub.cli.export
import anomalyhub.cli.inspect
import anomalyhub.cli.leaderboard
import anomalyhub.cli.share
import anomalyhub.cli.swap
import anomalyhub.cli.synthesize
import anomalyhub.cli.train
import anomalyhub.cli.watch  # noqa: F401  (these register their verbs)
from anomalyhub.cli import support
from anomalyhub.cli.verbs import app
from anomalyhub.errors import AnomalyHubError

_STOPPED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; SIGTERM stops it as cleanly as Ctrl-C does."""
    caught: list[int] = []

    def stop(number: int, _: Any) -> None:
        caught.append(number)
        support.stopping.set()
        raise KeyboardInterrupt

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's alphabet lacks must not end anything
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, stop)
    try:
        code = run(arguments)
    except SystemExit as ended:  # of a verb that has said itself what was stopped
        code = ended.code
    sys.exit(128 + caught[0] if caught and code == _STOPPED else code)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Set ANOMALYHUB_DEBUG=1 for tracebacks."""
    try:
        code = int(app(args=arguments, prog_name="anomalyhub", standalone_mode=False) or 0)
        if code != _STOPPED:  # what the parser makes of Ctrl-C; older ones raise Abort
            return code
        return _fail("stopped; nothing was written", _STOPPED)
    except AnomalyHubError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; nothing was written", _STOPPED)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own errors, whichever module they come from
            return _fail(f"{error.format_message().rstrip('.')}: see anomalyhub {_verb(error)}--help", 2)
        if isinstance(error, MemoryError):
            return _fail("out of memory: lower byte_budget, batch_size or resize with --set", 1)
        if os.environ.get("ANOMALYHUB_DEBUG"):
            traceback.print_exc()
        return _fail(f"unexpected {type(error).__name__}: {error} (ANOMALYHUB_DEBUG=1 shows where)", 1)


def _fail(message: str, code: int) -> int:
    if os.environ.get("ANOMALYHUB_DEBUG") and code == 2:
        traceback.print_exc()
    print("anomalyhub: " + " ".join(message.split()), file=sys.stderr)
    return code


def _verb(error: Any) -> str:
    """The verb that an error of the parser is about, such as "classify fit ", with a space; empty for none."""
    path = getattr(getattr(error, "ctx", None), "command_path", "").partition(" ")[2]
    return f"{path} " if path else ""


__all__ = ["app", "main", "run"]
