"""`python -m anomalyhub.ui`: serve the app on this computer."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from anomalyhub.errors import AnomalyHubError


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 0, or 2 when the arguments are wrong."""
    parser = argparse.ArgumentParser(prog="anomalyhub demo", description="Open the app in the browser.")
    parser.add_argument("--port", type=int, help="default: 7860, or the next free one")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this computer only)")
    parser.add_argument("--data-root", metavar="DIR", help="offer the data sets below this folder")
    parser.add_argument(
        "--home", metavar="DIR", help="keep models and discoveries here (default: $ANOMALYHUB_HOME, or the cache)"
    )
    parser.add_argument(
        "--store", metavar="folder:PATH", action="append", default=[], help="let visitors take from it and give to it"
    )
    parser.add_argument(
        "--results", metavar="DIR", action="append", default=[], help="show a benchmark's results on the leaderboard"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that temporary files are removed
    from anomalyhub.ui import launch

    try:
        launch(
            host=options.host,
            port=options.port,
            data_root=options.data_root,
            home=options.home,
            stores=options.store,
            results=options.results,
            browser=not options.no_browser,
        )
    except AnomalyHubError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
