"""What `varietal pin` prints: the digest of a folder, the commit behind a branch of a Hub on loopback."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from builder.sources import folder_pin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.team import Team

COMMIT = "89abcdef" * 5


class _Hub(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        known = self.path.startswith(("/api/models/acme/tiny/revision/v1", "/api/models/acme/tiny?"))
        known = known or self.path in {"/api/models/acme/tiny", "/api/models/acme/tiny/revision/main"}
        status = 200 if known else 503 if "broken" in self.path else 404
        data = json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": []}).encode() if known else b"{}"
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_folder_is_pinned_by_its_digest(fresh: Team) -> None:
    answer = fresh.must("varietal", "pin", "sources/tiny")
    assert answer.out == f'path: sources/tiny\nsha256: "{folder_pin(fresh.root / "sources/tiny").hex}"\n'


@pytest.mark.parametrize("revision", ["", "@main", "@v1"])
def test_a_branch_is_pinned_by_its_commit(fresh: Team, endpoint: str, revision: str) -> None:
    answer = fresh.call("varietal", "pin", f"hub:acme/tiny{revision}", "--json", HF_ENDPOINT=endpoint)
    assert json.loads(answer.out) == {"hub": "acme/tiny", "revision": COMMIT}


@pytest.mark.parametrize(
    ("source", "code", "what"),
    [
        ("hub:acme/gone", 2, "no such repository or revision, or it is not open to you"),
        ("hub:acme/broken", 6, "the Hub answered 503"),
        ("hub:a/b/c", 4, "'a/b/c' is no repository's name"),
        ("sources/gone", 2, "there is no such folder"),
        ("..", 4, "the folder is outside of the repository"),
    ],
)
def test_what_cannot_be_pinned(fresh: Team, endpoint: str, source: str, code: int, what: str) -> None:
    answer = fresh.call("varietal", "pin", source, HF_ENDPOINT=endpoint)
    assert answer.err.splitlines()[0] == what
    assert answer.code == code


def test_a_hub_that_is_not_there(fresh: Team) -> None:
    answer = fresh.call("varietal", "pin", "hub:acme/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert answer.code == 6
    assert answer.err.startswith("the Hub does not answer: ")
