"""A remote's folder on a loopback web server, with a switch for each thing that a hostile server can do."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Served", "serve"]

_ENDLESS_BLOCK = bytes(1 << 16)


@dataclass
class Served:
    """What the server does; paths are as in the address, without the slash in front.

    Attributes:
        folder: What it serves.
        url: Its address.
        replaced: Bodies that are sent instead of files.
        moved: Paths that are redirected, and where to.
        endless: Paths whose bodies never end.
        longer: Paths whose bodies have one byte too many.
        cut: Paths whose connection breaks after so many bytes; once each.
        gzip: Paths that say that they are compressed.
        drip_s: Seconds before each byte of a body; 0 for all at once.
        login: Header that is asked for; empty for none.
        asked: Every path that was asked for.
        ranges: Every range that was asked for.
        sent_bytes: How many bytes of bodies were sent.
    """

    folder: Path
    url: str = ""
    replaced: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    endless: set[str] = field(default_factory=set)
    longer: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    gzip: set[str] = field(default_factory=set)
    drip_s: float = 0.0
    login: str = ""
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(folder: Path) -> Iterator[Served]:
    """Serve a folder on the loopback until the block ends."""
    served = Served(folder=folder)

    class Handler(_Handler):
        state = served

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        served.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Served
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def do_GET(self) -> None:
        state, path = self.state, self.path.lstrip("/")
        state.asked.append(path)
        if state.login and self.headers.get("Authorization") != state.login:
            self._answer(401, b"")
        elif path in state.moved:
            self.send_response(302)
            self.send_header("Location", state.moved[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path in state.endless:
            self._never_end()
        elif path in state.replaced:
            self._answer(200, state.replaced[path], path)
        elif (state.folder / path).is_file():
            self._answer(200, (state.folder / path).read_bytes() + (b"x" if path in state.longer else b""), path)
        else:
            self._answer(404, b"")

    def _answer(self, status: int, body: bytes, path: str = "") -> None:
        sought = self.headers.get("Range", "")
        start = 0
        if status == 200 and sought:
            self.state.ranges.append(sought)
            start = int(sought.removeprefix("bytes=").removesuffix("-"))
            status = 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if path in self.state.gzip:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", f'"{len(body)}"')
        self.end_headers()
        end = self.state.cut.pop(path, len(body))
        self._send(body[start:end])
        self.close_connection = end < len(body)

    def _never_end(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self._send(_ENDLESS_BLOCK)
        except OSError:
            return

    def _send(self, body: bytes) -> None:
        if not self.state.drip_s:
            self.wfile.write(body)
            self.state.sent_bytes += len(body)
            return
        try:
            for place in range(len(body)):
                if self.state.stopped.wait(self.state.drip_s):
                    return
                self.wfile.write(body[place : place + 1])
        except OSError:
            return
