"""`varietal doctor` on a real repository: a good machine passes, what is broken is found and exits with 8."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.team import Team

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Team:
    """A repository that `init` has just made, committed."""
    root = tmp_path_factory.mktemp("doctor") / "team"
    root.mkdir()
    team = Team(root=root)
    team.must("varietal", "init", ".")
    team.commit("Begin")
    return team


def examined(team: Team, *options: str) -> tuple[int, dict[str, tuple[str, str]]]:
    answer = team.call("varietal", "doctor", "--json", *options)
    rows = json.loads(answer.out)["findings"]
    assert all(one["mend"] for one in rows if one["status"] != "ok")
    return answer.code, {one["subject"]: (one["status"], one["said"]) for one in rows}


def test_a_good_machine_passes_and_nothing_is_left_on_the_remote(begun: Team) -> None:
    code, found = examined(begun, "--build")
    assert code == 0, found
    assert found["remote 'storage'"] == ("ok", "an object was written, read and removed")
    assert found["DVC settings"][0] == found["history"][0] == found["recipes"][0] == found["packages"][0] == "ok"
    assert [path for path in (begun.root.parent / "team-remote").rglob("*") if path.is_file()] == []
    assert begun.must("git", "status", "--porcelain").out == ""


def test_what_is_broken_is_found(begun: Team, tmp_path: Path) -> None:
    team = begun.copy(tmp_path / "team")
    (tmp_path / "team-remote").write_text("a file where the remote should be")
    config = team.root / ".dvc/config"
    config.write_text(config.read_text().replace("reflink,hardlink,copy", "symlink").replace("verify = true", ""))
    (team.root / ".varietal").mkdir()
    (team.root / ".varietal/runner.yaml").write_text("device: gpu\n")
    (team.root / "schema/model.json").write_text("{}")
    answer = team.call("varietal", "doctor")
    assert answer.code == 8
    marks = {line.split(": ")[0] for line in answer.out.splitlines() if not line.startswith(" ")}
    assert {
        "FAIL  DVC settings",
        "warn  DVC remote",
        "FAIL  remote 'storage'",
        "FAIL  GPU",
        "warn  schemas",
        "ok    git",
    } <= marks
    assert answer.err.splitlines()[0].endswith("findings stand in the way")


@pytest.mark.slow
@pytest.mark.parametrize(("status", "expected"), [(404, "ok"), (0, "fail")])
def test_a_web_server_is_read_only_or_not_there(begun: Team, tmp_path: Path, status: int, expected: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - names of the library

        def log_message(self, *_: object) -> None:
            pass

    team = begun.copy(tmp_path / "team")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        if not status:
            server.shutdown()
            server.server_close()
        config = team.root / ".dvc/config"
        config.write_text(config.read_text().replace('"../../team-remote"', f"http://127.0.0.1:{port}/bytes"))
        _, found = examined(team)
        server.shutdown()
    assert found["remote 'storage'"][0] == expected


def test_a_shallow_clone_without_an_identity(begun: Team, tmp_path: Path) -> None:
    begun.must("git", "commit", "--quiet", "--allow-empty", "--message", "More")
    begun.must("git", "clone", "--quiet", "--depth=1", f"file://{begun.root}", str(tmp_path / "clone"))
    nobody = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    nobody |= {"GIT_COMMITTER_NAME": "", "GIT_COMMITTER_EMAIL": "", "GIT_AUTHOR_NAME": "", "GIT_AUTHOR_EMAIL": ""}
    answer = Team(root=tmp_path / "clone").call("varietal", "doctor", "--json", **nobody)
    found = {one["subject"]: one["status"] for one in json.loads(answer.out)["findings"]}
    assert answer.code == 8
    assert (found["history"], found["git identity"]) == ("fail", "warn")
