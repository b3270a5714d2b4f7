"""A Hub-compatible server on loopback, for tests of what downloads: it serves a few files, or misbehaves on request."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A running server: its address, the requests that it got, and how it misbehaves.

    hang  requests of these methods, such as "HEAD GET", are never answered
    cut   (part of a path, n): of such a file only the first n bytes come
    """

    url: str = ""
    hang: str = ""
    cut: tuple[str, int] = ("", 0)
    requests: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def hub_server(files: Mapping[str, bytes], **behaviour) -> Iterator[Hub]:
    """Serve {"OWNER/NAME/FILE": content} at /OWNER/NAME/resolve/main/FILE."""
    hub = Hub(**behaviour)
    repositories = {name.rsplit("/", 1)[0] for name in files}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            hub.requests.append(f"{self.command} {self.path}")
            if self.command in hub.hang:
                hub.released.wait(60)
                return
            if self.path == "/":
                return self.respond(200, b"a hub")
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            content = files.get(f"{repository}/{rest.partition('/')[2]}")
            if content is not None:
                self.respond(200, content)
            elif repository in repositories:
                self.respond(404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                self.respond(404, b"", {"X-Error-Code": "RepoNotFound"})

        def respond(self, status, content, headers=None):
            self.send_response(status)
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            for key, value in {"ETag": etag, "X-Repo-Commit": COMMIT, **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                part, end = hub.cut
                self.wfile.write(content[:end] if part and part in self.path else content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
