"""A repository with real git and DVC, a local remote and a web server on this machine; pulls from each."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from registry import transfer
from registry.artifact import Artifact
from registry.errors import DeniedError, DigestMismatchError, InvalidError, MachineError, NotFoundError, TransportError
from registry.history import Repository
from registry.pull import fetch
from registry.refs import Stage, Version
from registry.remote import DvcCache, DvcRemote
from registry.resolve import resolve
from registry.store import Store
from registry.tag_message import Promise, release_message
from tests.simulator import make_artifact, make_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.pull import PullReport
    from registry.remote import Source
    from registry.verify import Found

FOLDER = "models/support/artifacts/final"
SIZE_BYTES = 3_000_000
PIPELINE = """\
stages:
  final:
    wdir: ../..
    cmd: 'true'
    outs:
    - models/support/artifacts/final
    - models/support/artifacts/final.json
"""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A repository whose artifact was built, committed, tagged and pushed."""

    root: Path
    remote: Path
    found: Found

    @property
    def artifact(self) -> Artifact:
        return Artifact.read(self.root / FOLDER)

    def object(self, path: str) -> Path:
        """Where the remote keeps a file of the artifact."""
        with DvcRemote(self.root).open(self.found.listing_oid, 0) as stream:
            listing = stream.read(1 << 20).decode()
        entry = re.search(rf'"md5": "([0-9a-f]{{32}})", "relpath": "{re.escape(path)}"', listing)
        assert entry is not None
        return self.remote / "files" / "md5" / entry[1][:2] / entry[1][2:]


def run(*command: str, root: Path) -> None:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def dvc(*arguments: str, root: Path) -> None:
    run(sys.executable, "-m", "dvc", *arguments, root=root)


@pytest.fixture(scope="module", autouse=True)
def _short_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "_PAUSE_S", 0.0)
        yield


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with git and DVC and nothing in it; do not write into it, copy it."""
    root = tmp_path_factory.mktemp("initialised")
    run("git", "init", "--quiet", "--initial-branch=main", root=root)
    for key, value in {"user.name": "A", "user.email": "a@example.org", "commit.gpgsign": "false"}.items():
        run("git", "config", key, value, root=root)
    dvc("init", "--quiet", root=root)
    return root


@pytest.fixture
def empty(initialised: Path, tmp_path: Path) -> Path:
    """A copy of it of one's own."""
    return Path(shutil.copytree(initialised, tmp_path / "empty"))


@pytest.fixture(scope="module")
def built(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    remote = tmp_path_factory.mktemp("remote")
    root = Path(shutil.copytree(initialised, tmp_path_factory.mktemp("built") / "repository"))
    dvc("remote", "add", "--quiet", "--default", "storage", str(remote), root=root)
    make_artifact(root / FOLDER, size_bytes=SIZE_BYTES)
    record = make_record(Artifact.read(root / FOLDER))
    (root / f"{FOLDER}.json").write_bytes(record.to_bytes())
    (root / "models/support/records").mkdir()
    (root / "models/support/records/final.json").write_bytes(record.to_bytes())
    (root / "models/support/dvc.yaml").write_text(PIPELINE)
    dvc("commit", "--quiet", "--force", root=root)
    dvc("push", "--quiet", root=root)
    run("git", "add", "--all", root=root)
    run("git", "commit", "--quiet", "--message=Build", root=root)
    repository = Repository(root)
    release = Version("support", "v1.0.0")
    repository.create_tag(str(release), "HEAD", release_message(release, Promise.of(record)))
    return Built(root=root, remote=remote, found=resolve(repository, release))


def pull(built: Built, target: Path, *sources: Source, store: Store | None = None) -> PullReport:
    return fetch(
        built.found.record,
        built.found.listing_oid,
        target,
        sources=sources,
        store=store or Store(target.parent / "store"),
        say=lambda _: None,
    )


# Refs


def test_a_release_a_stage_and_the_work_tree_name_the_same_artifact(built: Built) -> None:
    repository = Repository(built.root)
    assert built.found.commit == repository.head()
    assert built.found.listing_oid.endswith(".dir")
    assert built.found.record.artifact.digest == built.artifact.digest
    at_main = resolve(repository, Stage("support", "final", "main"))
    in_tree = resolve(repository, Stage("support", "final"))
    assert (at_main.commit, in_tree.commit) == (repository.head(), "")
    assert at_main.record_bytes == in_tree.record_bytes == built.found.record_bytes
    assert at_main.listing_oid == in_tree.listing_oid == built.found.listing_oid


def test_a_tag_that_promises_another_artifact_is_not_pulled(built: Built, tmp_path: Path) -> None:
    repository = Repository(built.root)
    other = make_record(make_artifact(tmp_path / "other", seed=1))
    release = Version("support", "v6.6.6")
    repository.create_tag(str(release), "HEAD", release_message(release, Promise.of(other)))
    try:
        with pytest.raises(DigestMismatchError) as caught:
            resolve(repository, release)
    finally:
        run("git", "tag", "--delete", str(release), root=built.root)
    assert caught.value.what == (f"the tag promises {other.artifact.digest}, its commit has {built.artifact.digest}")


# Local sources


def test_a_pull_from_the_default_remote(built: Built, tmp_path: Path) -> None:
    remote = DvcRemote(built.root)
    assert remote.name == "the default remote"
    report = pull(built, tmp_path / "model", remote)
    assert remote.name == "remote 'storage'"
    assert list(report.moved_from) == ["remote 'storage'"]
    assert report.had_bytes == 0
    Artifact.read(tmp_path / "model").verify_folder(tmp_path / "model")


def test_a_pull_from_the_cache_needs_no_remote(built: Built, tmp_path: Path) -> None:
    report = pull(built, tmp_path / "model", DvcCache(built.root))
    assert list(report.moved_from) == ["the DVC cache"]
    assert Artifact.read(tmp_path / "model").digest == built.artifact.digest


def test_a_flipped_byte_in_the_cache_is_found_and_taken_from_the_remote(built: Built, tmp_path: Path) -> None:
    in_remote = built.object("model-1.safetensors")
    in_cache = built.root / ".dvc/cache" / in_remote.relative_to(built.remote)
    whole = in_cache.read_bytes()
    in_cache.chmod(0o644)
    in_cache.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        report = pull(built, tmp_path / "model", DvcCache(built.root), DvcRemote(built.root))
    finally:
        in_cache.write_bytes(whole)
        in_cache.chmod(0o444)
    assert len(report.notes) == 1
    assert report.notes[0].startswith("model-1.safetensors should have sha256:")
    oid = in_remote.parent.name + in_remote.name
    assert report.notes[0].endswith(f" (the DVC cache: {oid}); taken from remote 'storage'")
    Artifact.read(tmp_path / "model").verify_folder(tmp_path / "model")


def test_which_objects_the_remote_has(built: Built) -> None:
    oid = built.found.listing_oid
    absent = "0" * 32
    assert DvcRemote(built.root).exists([oid, absent]) == {oid}


def test_the_cache_lies_where_dvc_was_told(built: Built, empty: Path) -> None:
    dvc("config", "cache.dir", "../shared cache", root=empty)
    assert DvcCache(empty).folder.resolve() == (empty.parent / "shared cache").resolve()
    assert DvcCache(built.root).folder == built.root / ".dvc/cache"


# What is not set up


def test_dvc_is_not_initialised(tmp_path: Path) -> None:
    run("git", "init", "--quiet", root=tmp_path)
    with pytest.raises(NotFoundError) as caught:
        DvcRemote(tmp_path).exists([])
    assert str(caught.value) == (
        f"DVC is not initialised here\n  where: {tmp_path}\n  mend: run `dvc init`, then `dvc remote add -d NAME URL`"
    )


def test_there_is_no_default_remote(empty: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        DvcRemote(empty).exists([])
    assert str(caught.value) == (
        f"DVC has no default remote\n  where: {empty}/.dvc/config\n  mend: run `dvc remote add -d NAME URL`"
    )
    (empty / ".dvc/config").write_text("['remote \"storage\"']\n    url = /nowhere\n")
    with pytest.raises(NotFoundError) as caught:
        DvcRemote(empty).exists([])
    assert caught.value.mend == "run `dvc remote default NAME` (of storage)"
    with pytest.raises(NotFoundError) as caught:
        DvcRemote(empty, "other").exists([])
    assert str(caught.value) == (
        "there is no remote 'other'\n"
        f"  where: {empty}/.dvc/config\n"
        "  mend: use one of storage, or add it: `dvc remote add other URL`"
    )
    (empty / ".dvc/config").write_text("[core]\n    nonsense = 1\n")
    with pytest.raises(InvalidError) as caught:
        DvcRemote(empty).exists([])
    assert caught.value.what.startswith("DVC's configuration is wrong: ")


def test_dvc_is_not_installed(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvc.config", None)
    with pytest.raises(MachineError) as caught:
        DvcRemote(built.root).exists([])
    assert str(caught.value) == (
        "DVC is not installed, and a DVC remote is read through it\n"
        f"  where: {built.root}\n"
        "  mend: pip install 'varietal[pull]'"
    )


# A web server


@dataclass
class Server:
    """A plain web server over a folder, with switches.

    Attributes:
        url: Its address.
        folder: What it serves.
        status: Answer everything with this status; 0 for the right one.
        ranges: Whether it understands them.
        encoding: A ``Content-Encoding`` that it claims.
        breaks: After how many bytes it hangs up, for the next answers with a body longer than that.
        stalls_s: Seconds that it waits before a body.
        ranges_asked: ``Range`` headers that came.
    """

    url: str
    folder: Path
    status: int = 0
    ranges: bool = True
    encoding: str = ""
    breaks: list[int] = field(default_factory=list)
    stalls_s: float = 0.0
    ranges_asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ClassVar[Server]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.state.folder / self.path.lstrip("/")
        status = self.state.status or (200 if path.is_file() else 404)
        data, headers = path.read_bytes() if status == 200 else b"", {}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and body:
            self.state.ranges_asked.append(asked[0])
        if asked and self.state.ranges and status == 200:
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        if self.state.encoding:
            headers["Content-Encoding"] = self.state.encoding
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            time.sleep(self.state.stalls_s)
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self.state.breaks and len(data) > self.state.breaks[0]:
            data = data[: self.state.breaks.pop(0)]
            self.close_connection = True
        self.wfile.write(data)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.state = Server(url=f"http://127.0.0.1:{server.server_port}", folder=folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Handler.state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def web(built: Built) -> Iterator[Server]:
    with serving(built.remote) as state:
        settings = f"    url = {state.url}\n    read_timeout = 1\n"
        (built.root / ".dvc/config.local").write_text(f"['remote \"web\"']\n{settings}")
        yield state


@pytest.fixture
def server(web: Server) -> Server:
    """The server with all switches off."""
    for switch in fields(fresh := Server(url=web.url, folder=web.folder)):
        setattr(web, switch.name, getattr(fresh, switch.name))
    return web


def test_a_pull_over_http_is_resumed_where_the_server_hung_up(built: Built, server: Server, tmp_path: Path) -> None:
    server.breaks = [1_000_000]
    report = pull(built, tmp_path / "model", DvcRemote(built.root, "web"))
    assert report.notes == ()
    assert len(server.ranges_asked) == 1
    start = int(server.ranges_asked[0].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 1_000_000
    assert report.moved_bytes < built.artifact.size_bytes + 100_000
    Artifact.read(tmp_path / "model").verify_folder(tmp_path / "model")


def test_a_server_without_ranges_is_read_again_from_its_first_byte(
    built: Built, server: Server, tmp_path: Path
) -> None:
    server.breaks, server.ranges = [1_000_000], False
    pull(built, tmp_path / "model", DvcRemote(built.root, "web"))
    assert len(server.ranges_asked) == 1
    Artifact.read(tmp_path / "model").verify_folder(tmp_path / "model")


@pytest.mark.parametrize(
    ("status", "kind", "what"),
    [
        (403, DeniedError, r"reading is not allowed: 403, .*"),
        (404, NotFoundError, r"there is no such object"),
        (418, TransportError, r"reading failed: 418, .*"),
    ],
)
def test_what_a_status_means(built: Built, server: Server, status: int, kind: type[Exception], what: str) -> None:
    server.status = status
    with pytest.raises(kind) as caught, DvcRemote(built.root, "web").open(built.found.listing_oid, 0):
        pass
    assert re.fullmatch(what, caught.value.what)
    assert caught.value.where == f"remote 'web': {built.found.listing_oid}"


def test_a_server_that_denies_is_not_taken_for_one_that_has_nothing(built: Built, server: Server) -> None:
    assert DvcRemote(built.root, "web").exists([built.found.listing_oid, "0" * 32]) == {built.found.listing_oid}
    server.status = 403
    with pytest.raises(DeniedError):
        DvcRemote(built.root, "web").exists([built.found.listing_oid])


def test_a_compressed_body_is_refused_before_it_is_read(built: Built, server: Server) -> None:
    server.encoding = "gzip"
    with pytest.raises(TransportError) as caught, DvcRemote(built.root, "web").open(built.found.listing_oid, 0):
        pass
    assert caught.value.what == "reading failed: the server sent gzip where plain bytes were asked for"


def test_a_server_that_stalls_is_given_up(built: Built, server: Server) -> None:
    server.stalls_s = 2.5
    started = time.monotonic()
    with DvcRemote(built.root, "web").open(built.found.listing_oid, 0) as stream:
        with pytest.raises(TransportError) as caught:
            stream.read(1)
        assert time.monotonic() - started < 2.4
    assert caught.value.what.startswith("reading failed: ")


# kill -9


SLOW_PULL = """
import sys
from pathlib import Path
from registry.pull import fetch
from registry.artifact import Artifact
from registry.store import Store
from tests.simulator import Simulator, make_record
built, target, store = map(Path, sys.argv[1:])
remote = Simulator(block_bytes=20_000, pause_s=0.02)
record = make_record(Artifact.read(built))
fetch(record, remote.push(built), target, sources=(remote,), store=Store(store), say=print)
"""


def test_a_killed_pull_shows_no_folder_and_the_next_one_resumes(built: Built, tmp_path: Path) -> None:
    target, store = tmp_path / "model", Store(tmp_path / "store")
    script = [sys.executable, "-c", SLOW_PULL, str(built.root / FOLDER), str(target), str(store.folder)]
    process = subprocess.Popen(script, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": "."})
    came = _wait_for_bytes(store, 500_000, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    assert len(list(tmp_path.glob(".model.pull-*"))) == 1
    report = pull(built, target, DvcCache(built.root), store=store)
    assert report.had_bytes >= came
    assert report.moved_bytes <= built.artifact.size_bytes + 10_000 - came
    Artifact.read(target).verify_folder(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "store"]


def _wait_for_bytes(store: Store, count: int, process: subprocess.Popen[bytes]) -> int:
    """Wait until a pull is in the middle; returns the bytes in the store."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        came = sum(path.stat().st_size for path in store.folder.glob("partial/*"))
        if came >= count:
            return came
        time.sleep(0.01)
    pytest.fail("the pull ended before it could be killed")
