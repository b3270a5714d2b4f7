"""The app in a process of its own, for tests that drive it from outside."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def serve(
    temporary: Path, *options: str, seconds: float = 60, program: Sequence[str] = ("-m", "anomalyhub.ui")
) -> Iterator[str]:
    """The address of a running app whose temporary files lie in `temporary`; its log is checked for tracebacks."""
    log = temporary / "app.log"
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    environment |= {"ANOMALYHUB_HOME": str(temporary / "home")}
    environment.pop("GRADIO_TEMP_DIR", None)
    with open(log, "w+b") as errors:
        command = [sys.executable, *program, "--no-browser", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        try:
            yield _address(process, log, seconds)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
    assert "Traceback" not in log.read_text(), log.read_text()


def _address(process: subprocess.Popen, log: Path, seconds: float) -> str:
    """Wait for the line that names the address."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([process.stdout], [], [], 0.5)[0]:
            if found := re.search(r"http://\S+", process.stdout.readline()):
                return found[0]
    raise RuntimeError(f"the app did not start: {log.read_text()}")


def looks(page, folder: Path, widths: Sequence[int]) -> Iterator[bool]:
    """Screenshots of a page in light and dark at some widths, at which nothing may be cut off; yields whether dark."""
    for dark in (False, True):
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(250)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=folder / f"{'dark' if dark else 'light'}-{width}.png")
        yield dark
        page.click("button[aria-label='light or dark']")
