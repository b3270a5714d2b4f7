"""The app. A tab is one file with a `build_…_tab(session, data_root, trusted, work)` and one line in TABS."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError

# Before gradio is imported: it reads them once, and the app talks to nobody but its visitors.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr  # noqa: E402

from anomalyhub.hub import create_store  # noqa: E402
from anomalyhub.ui.classify_tab import build_classify_tab  # noqa: E402
from anomalyhub.ui.compare_tab import build_compare_tab  # noqa: E402
from anomalyhub.ui.detect_tab import build_detect_tab  # noqa: E402
from anomalyhub.ui.discover_tab import build_discover_tab  # noqa: E402
from anomalyhub.ui.hub_tab import build_hub_tab  # noqa: E402
from anomalyhub.ui.inspect_tab import build_inspect_tab  # noqa: E402
from anomalyhub.ui.leaderboard_tab import build_leaderboard_tab  # noqa: E402
from anomalyhub.ui.serving import add_endpoint  # noqa: E402
from anomalyhub.ui.session import Session  # noqa: E402
from anomalyhub.ui.sources import NORMALS  # noqa: E402
from anomalyhub.ui.synthesize_tab import build_synthesize_tab  # noqa: E402
from anomalyhub.ui.theme import CSS, LOGO, theme  # noqa: E402
from anomalyhub.ui.work import Work  # noqa: E402

TABS = [
    ("Detect", build_detect_tab),
    ("Discover", build_discover_tab),
    ("Synthesize & pretrain", build_synthesize_tab),
    ("Classify", build_classify_tab),
    ("Inspect", build_inspect_tab),
    ("Compare", build_compare_tab),
    ("Hub", build_hub_tab),
    ("Leaderboard", build_leaderboard_tab),
]

DEFAULT_PORT = 7860
_PURPOSE = "Show it normal parts. It finds the defective ones, where the defects are, and which kinds there are."
_TOGGLE = "element.querySelector('button').addEventListener('click', () => document.body.classList.toggle('dark'));"
_HOUR = 3600


def build_app(
    data_root: str | Path | None = None,
    *,
    trusted: bool = False,
    home: str | Path | None = None,
    stores: Sequence[str] = (),
    results: Sequence[str | Path] = (),
) -> gr.Blocks:
    """The app, not yet running.

    data_root  a folder whose data sets visitors may choose; nothing outside it can be reached
    trusted    visitors may name any backbone and weights files of this machine, as on one's own computer
    home       where jobs and their images are kept, see `anomalyhub.ui.work.Work`
    stores     folder:PATH of folders that visitors may take models and data sets from, and give theirs to
    results    folders of a benchmark's results, which the Leaderboard tab shows beside the published figures
    Raises InvalidDatasetError when `data_root` is no folder, InvalidArgumentError for a store that is none.
    """
    root = Path(data_root).expanduser() if data_root else None
    if root is not None and not root.is_dir():
        raise InvalidDatasetError(f"the data root {data_root} is not a folder: give the folder that holds data sets")
    work = Work(home, _folder_stores(stores), results)
    with gr.Blocks(title="AnomalyHub", analytics_enabled=False, delete_cache=(600, _HOUR)) as app:
        session = gr.State(Session(), delete_callback=Session.close)
        gr.HTML(_header(), js_on_load=_TOGGLE, apply_default_css=False)
        with gr.Tabs():
            for name, build in TABS:
                with gr.Tab(name):
                    build(session, root, trusted, work)
        add_endpoint(work)
        _stop_work_of_those_who_leave(app, session)
    app.work = work
    return app.queue(max_size=64)


def _folder_stores(specs: Sequence[str]) -> list[str]:
    """The same with absolute paths. Raises InvalidArgumentError."""
    for spec in specs:
        if not spec.startswith("folder:"):
            raise InvalidArgumentError(f"{spec!r} is no folder store: write folder:PATH; the Hub is always offered")
    return [create_store(spec).spec for spec in specs]


def launch(
    app: gr.Blocks | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    data_root: str | Path | None = None,
    home: str | Path | None = None,
    stores: Sequence[str] = (),
    results: Sequence[str | Path] = (),
    browser: bool = False,
) -> None:
    """Serve the app until interrupted.

    app   what `build_app` made; default: made here, trusting visitors when only this computer can reach it
    host  address to listen on; default: $GRADIO_SERVER_NAME, else this computer only
    port  default: 7860, or the next free one; one that is taken raises InvalidArgumentError
    """
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    _check_address(host, port)
    if app is not None:
        _serve(app, host, port, browser)
        return
    with tempfile.TemporaryDirectory(prefix="anomalyhub-uploads-", ignore_cleanup_errors=True) as folder:
        with _environment(GRADIO_TEMP_DIR=os.environ.get("GRADIO_TEMP_DIR", folder)):
            trusted = _is_loopback(host)
            app = build_app(data_root, trusted=trusted, home=home, stores=stores, results=results)
            _serve(app, host, port, browser)


def _check_address(host: str, port: int | None) -> None:
    """Say at once, and in one sentence, what gradio would try a hundred ports for."""
    if port is not None and not 0 < port < 65536:
        raise InvalidArgumentError(f"port {port} does not exist: give --port a number from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        if port is not None and error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise InvalidArgumentError(f"port {port} is taken or not allowed: give another --port") from error
        raise InvalidArgumentError(f"{host} is no address of this computer ({error}): leave --host out") from error


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _serve(app: gr.Blocks, host: str, port: int | None, browser: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks itself whether it is up, which a proxy would answer wrongly
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost", "127.0.0.1", "0.0.0.0", "::1"]))
    try:
        _, url, _ = app.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            run_history=False,  # it would fill the browser's small storage with pictures
            state_session_capacity=200,
            max_file_size=NORMALS.max_bytes,
            theme=theme(),
            css_paths=CSS,
            favicon_path=LOGO,
        )
    except OSError as error:
        raise InvalidArgumentError(f"the app cannot listen on {host} ({error}): give another --port") from error
    print(f"AnomalyHub is at {url} (Ctrl+C stops it)", flush=True)
    if app.work.notice:
        print(app.work.notice, file=sys.stderr, flush=True)
    threading.Thread(target=_warm_up, daemon=True).start()
    threading.Thread(target=_keep_house, args=(app,), daemon=True).start()
    try:
        while app.is_running:
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("stopping")
    finally:
        app.close(verbose=False)


def _warm_up() -> None:
    """Load what the first check needs, after the page is there."""
    import anomalyhub.pipeline.inspector  # noqa: F401


def _keep_house(app: gr.Blocks) -> None:
    """At the start and once an hour: what nobody needs goes."""
    while app.is_running:
        app.work.prune()
        time.sleep(_HOUR)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _header() -> str:
    return (
        f'<div class="ah-header">{LOGO.read_text(encoding="utf-8")}<div><h1>AnomalyHub</h1><p>{_PURPOSE}</p></div>'
        '<button type="button" aria-label="light or dark" title="light or dark">◐</button></div>'
    )


def _stop_work_of_those_who_leave(app: gr.Blocks, session: gr.State) -> None:
    """A closed tab must not keep the queue busy, only jobs go on; its state stays for an hour, for a return."""
    present: weakref.WeakValueDictionary[str, Session] = weakref.WeakValueDictionary()

    def arrived(state: Session, request: gr.Request) -> Session:
        present[request.session_hash] = state
        return state

    def left(request: gr.Request) -> None:
        if state := present.get(request.session_hash):
            state.leave()

    app.load(arrived, session, session, api_name="arrived", queue=False, show_progress="hidden")
    app.unload(left)


__all__ = ["DEFAULT_PORT", "TABS", "build_app", "launch"]
