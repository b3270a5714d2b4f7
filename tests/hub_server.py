"""A Hub-compatible server on loopback for tests, written against the real huggingface_hub client; it can misbehave.

    with hub_server({"me/net/config.json": b"{}"}) as hub:        # models, at main
        hub.add("dataset", "me/rings", {"README.md": b"..."})
        subprocess.run(command, env=environment(hub, tmp_path))   # a client in a process of its own
        with connected(hub, tmp_path):                            # or in this one
            ...

`python tests/hub_server.py --root DIR --port 0` serves DIR/models/OWNER/NAME/FILE, DIR/datasets/... until it is killed.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from hub_repos import KINDS, File, HubError, Repo, is_lfs
from hub_routes import Ask, Reply, answer

TOKEN = "hf_" + "loopbackLOOPBACK1234567890"  # of the user "me", who may write to me/ and acme/
READ_TOKEN = "hf_" + "readonlyREADONLY1234567890"  # of the same user, who may only read with it
OTHER_TOKEN = "hf_" + "strangerSTRANGER1234567890"  # of the user "stranger"
_CHUNK = 1 << 16


@dataclass(frozen=True)
class User:
    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"

    def may_read(self, repo: Repo) -> bool:
        return repo.owner in (self.name, *self.orgs)

    def may_write(self, owner: str) -> bool:
        return self.role == "write" and owner in (self.name, *self.orgs)


USERS = {
    TOKEN: User("me", ("acme",)),
    READ_TOKEN: User("me", ("acme",), "read"),
    OTHER_TOKEN: User("stranger"),
}


@dataclass
class Fault:
    """What happens to requests whose "METHOD /path?query" has `match` in it, after `skip` of them, `times` times.

    hang        no answer        status, code, message   this answer instead, such as 503
    cut         the connection breaks after so many bytes of the answer
    cut_upload  the connection breaks after so many bytes of the request's body
    act         called before the request is handled
    """

    match: str = ""
    hang: bool = False
    cut: int | None = None
    cut_upload: int | None = None
    status: int = 0
    code: str = ""
    message: str = "on request of the test"
    act: Callable[[], None] | None = None
    skip: int = 0
    times: int | None = None

    def strikes(self, request: str) -> bool:
        if self.match not in request or self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times = None if self.times is None else self.times - 1
        return True


@dataclass
class Hub:
    """A running server.

    requests  "METHOD /path?query" in their order        received, sent  bytes of bodies
    watch     called with a request and the number of bytes received of all, as they come
    page      entries of a tree's or list's page         part  bytes above which an upload has several parts
    busy      requests that are being handled
    """

    url: str = ""
    users: dict[str, User] = field(default_factory=lambda: dict(USERS))
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    received: int = 0
    sent: int = 0
    busy: int = 0
    page: int = 1000
    part: int = 5 * 10**9
    watch: Callable[[str, int], None] | None = None
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, kind: str, repo_id: str, files: Mapping[str, bytes], *, private: bool = False) -> Repo:
        """Commit files to a repository, which is made if need be."""
        with self.lock:
            repo = self.repos.setdefault((kind, repo_id), Repo(kind, repo_id, private))
            added = {path: File(content, is_lfs(kind, path, len(content))) for path, content in files.items()}
            self.blobs |= {file.sha256: file.content for file in added.values() if file.lfs}
            repo.commit(added, message="added by the test")
            return repo

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        return self.repos[kind, repo_id]

    def files(self, repo_id: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """What a repository holds, without the Hub's own .gitattributes."""
        files = self.repo(repo_id, kind).at(revision).files
        return {path: file.content for path, file in files.items() if path != ".gitattributes"}

    @property
    def cdn(self) -> str:
        """Where large files are, which is another host to the client: no token may get there."""
        return self.url.replace("127.0.0.1", "localhost")


class _Dropped(Exception):
    """The connection is to break."""


class _Handler(BaseHTTPRequestHandler):
    """One connection, which lives on as the client wishes."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        hub, name = self.server.hub, f"{self.command} {self.path}"
        with hub.lock:
            hub.requests.append(name)
            hub.headers.append(str(self.headers))
            hub.busy += 1
            fault = next((fault for fault in hub.faults if fault.strikes(name)), Fault())
        try:
            if hub.watch:
                hub.watch(name, hub.received)
            if fault.hang:
                hub.released.wait(60)
                raise _Dropped
            body = self.body(name, fault.cut_upload)
            if fault.act:
                fault.act()
            self.reply(self.answer(fault, body), fault.cut)
        except (_Dropped, OSError):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            with hub.lock:
                hub.busy -= 1

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self, fault: Fault, body: bytes) -> Reply:
        try:
            if fault.status:
                raise HubError(fault.status, fault.message, fault.code)
            with self.server.hub.lock:
                ask = Ask(self.server.hub, self.command, self.path, self.headers, body)
                return answer(ask, urlsplit(self.path).path)
        except HubError as error:
            said = {"X-Error-Message": error.message, **({"X-Error-Code": error.code} if error.code else {})}
            return Reply.json({"error": error.message}, error.status, **said)

    def body(self, name: str, cut: int | None) -> bytes:
        """The request's body, of which `cut` bytes are read before the connection breaks."""
        hub, taken = self.server.hub, []
        for chunk in self.chunks(cut):
            taken.append(chunk)
            with hub.lock:
                hub.received += len(chunk)
            if hub.watch:
                hub.watch(name, hub.received)
        if cut is not None:
            raise _Dropped
        return b"".join(taken)

    def chunks(self, cut: int | None) -> Iterator[bytes]:
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        left = 0 if chunked else int(self.headers.get("Content-Length") or 0)
        budget = cut if cut is not None else sys.maxsize
        while budget > 0:
            if chunked and left == 0 and (left := int(self.rfile.readline(100).split(b";")[0], 16)) == 0:
                self.rfile.readline(100)
                return
            if not left:
                return
            chunk = self.rfile.read(min(left, budget, _CHUNK))
            if not chunk:  # the client is gone
                raise _Dropped
            left, budget = left - len(chunk), budget - len(chunk)
            yield chunk
            if chunked and left == 0:
                self.rfile.readline(100)

    def reply(self, reply: Reply, cut: int | None) -> None:
        self.send_response(reply.status)
        for key, value in reply.headers.items():
            self.send_header(key, value.encode("latin-1", "replace").decode("latin-1"))
        self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        if self.command != "HEAD":
            content = reply.content if cut is None else reply.content[:cut]
            self.wfile.write(content)
            with self.server.hub.lock:
                self.server.hub.sent += len(content)
            if cut is not None:
                self.wfile.flush()
                raise _Dropped

    def log_message(self, *arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    """Knows its connections, so that none outlives it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: Hub, port: int):
        super().__init__(("127.0.0.1", port), _Handler)
        self.hub, self.open = hub, set()
        hub.url = f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: socket.socket, address: object) -> None:
        self.open.add(request)
        super().process_request(request, address)

    def shutdown_request(self, request: socket.socket) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # clients come and go
            super().handle_error(request, address)

    def server_close(self) -> None:
        super().server_close()
        for request in list(self.open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


@contextmanager
def hub_server(files: Mapping[str, bytes] | None = None, *, port: int = 0, **fields: object) -> Iterator[Hub]:
    """A server for the time of the block, with models from {"OWNER/NAME/FILE": content}; `fields` are Hub's."""
    hub = Hub(**fields)
    models: dict[str, dict[str, bytes]] = {}
    for name, content in (files or {}).items():
        owner, model, path = name.split("/", 2)
        models.setdefault(f"{owner}/{model}", {})[path] = content
    for repo_id, contents in models.items():
        hub.add("model", repo_id, contents)
    server = _Server(hub, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _is_ours(name: str) -> bool:
    return name.startswith(("HF_", "HUGGINGFACE_")) or name.lower().endswith("_proxy") or name == "TRANSFORMERS_OFFLINE"


def environment(hub: Hub | str, home: str | Path, token: str | None = None, **more: str) -> dict[str, str]:
    """Environment of a client in a process of its own: of this server, with its caches and login below `home`."""
    kept = {name: value for name, value in os.environ.items() if not _is_ours(name)}
    made = {"HF_ENDPOINT": hub if isinstance(hub, str) else hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    made |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    return {**kept, **made, **({"HF_TOKEN": token} if token else {}), **more}


@contextmanager
def connected(hub: Hub | str, home: str | Path, token: str | None = None) -> Iterator[None]:
    """Make this process, in which the tests are offline, a client of the server, with `token` for its login.

    `datasets` reads its settings once: load data sets with it in a process of its own.
    """
    from huggingface_hub import close_session, constants, hf_api

    url, home = hub if isinstance(hub, str) else hub.url, Path(home)
    changed = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": frozenset({"127.0.0.1"}),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    }
    settings, variables, api = (
        {name: getattr(constants, name) for name in changed},
        dict(os.environ),
        hf_api.api.endpoint,
    )
    try:
        made = environment(hub, home, token)
        os.environ.clear()
        os.environ.update(made)
        for name, value in changed.items():
            setattr(constants, name, value)
        hf_api.api.endpoint = url
        close_session()
        with warnings.catch_warnings():  # the client says data= to httpx, which prefers content=
            warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
            yield
    finally:
        close_session()
        hf_api.api.endpoint = api
        for name, value in settings.items():
            setattr(constants, name, value)
        os.environ.clear()
        os.environ.update(variables)


def main() -> None:
    parser = argparse.ArgumentParser(description="A Hub-compatible server on loopback, for tests.")
    parser.add_argument("--root", type=Path, help="folder with models/OWNER/NAME/FILE, datasets/..., spaces/...")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with hub_server(port=options.port) as hub:
        for kind in KINDS if options.root else ():
            for folder in sorted((options.root / f"{kind}s").glob("*/*")):
                paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
                repo_id = folder.relative_to(options.root / f"{kind}s").as_posix()
                hub.add(kind, repo_id, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
