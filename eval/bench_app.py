"""From starting the app to a fitted sample product, as a visitor meets it: page, choose, learn, check.

python eval/bench_app.py
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from typing import Any

from common import save
from gradio_client import Client

DEADLINE = 180.0


def run() -> dict[str, Any]:
    """Seconds since the start of the process until each step is done."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "anomalyhub", "demo", "--no-browser"]
    app = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = next(line for line in app.stdout if "http://" in line).split("at ", 1)[1].split()[0]
        with urllib.request.urlopen(url, timeout=DEADLINE) as page:
            assert page.status == 200
        result: dict[str, Any] = {"page_seconds": time.perf_counter() - start}
        client = Client(url, verbose=False)
        client.predict("ring", api_name="/use_sample")
        result["sample_drawn_seconds"] = time.perf_counter() - start
        client.predict("embedded", 10, 1, 0, api_name="/learn")
        result["fitted_seconds"] = time.perf_counter() - start
        client.predict("tests", api_name="/check")
        result["checked_seconds"] = time.perf_counter() - start
        return result
    finally:
        app.terminate()
        app.wait(30)


if __name__ == "__main__":
    outcome = run()
    print(save("app", "python eval/bench_app.py", outcome).read_text())
