"""Hosts without git pull by signed descriptors from a plain web server: what a hostile one can try, one by one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry import transfer, web
from registry.canonical import encode
from registry.describe import Publisher, describe
from registry.described import resolve_described
from registry.descriptor import ChannelDescriptor, ReleaseDescriptor, channel_path, object_key, release_path
from registry.envelope import seal
from registry.errors import (
    ConflictError,
    DeniedError,
    DigestMismatchError,
    Error,
    InvalidError,
    NotFoundError,
    RefusedError,
    TransportError,
)
from registry.published import Published
from registry.pull import fetch
from registry.refs import Channel, Version
from registry.releases import promote, rollback
from registry.remote import DvcRemote
from registry.remote_files import RemoteFiles
from registry.seen import Seen
from registry.ssh_key import PublicKey
from registry.store import Store
from registry.tag_message import Promise, release_message
from registry.web import WebSource
from tests.keys import make_key, public_line
from tests.repositories import Team, git
from tests.served import Served, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NOW = datetime.now(UTC).replace(microsecond=0)
PROD = Channel("support", "prod")
ONE, TWO = Version("support", "v1.0.0"), Version("support", "v1.1.0")
DATA = bytes(range(256)) * 8000


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """A repository whose releases are described on a remote, and who signs."""

    team: Team
    remote: Path
    keys: dict[str, Path]

    def publisher(self, *names: str, days: int = 30) -> Publisher:
        return Publisher(
            source=DvcRemote(self.team.root),
            files=RemoteFiles(self.team.root),
            store=Store(self.team.root.parent / "store"),
            keys=[self.keys[name] for name in names or ("ada",)],
            valid_days=days,
            say=lambda _: None,
        )

    def describe(self, ref: Version | Channel, *names: str, now: datetime = NOW, days: int = 30) -> tuple[str, ...]:
        return describe(self.team.repository, ref, self.publisher(*names, days=days), now)

    def promote(self, ref: Version, channel: str = "prod") -> None:
        published = Published.read(self.team.repository.tags(messages=True))
        tag = promote(ref, channel, published)
        self.team.repository.create_tag(tag.name, tag.commit, tag.message)

    def copy(self, target: Path) -> Publishing:
        """The same, to be changed at will."""
        root = shutil.copytree(self.team.root, target / "team", symlinks=True)
        remote = shutil.copytree(self.remote, target / "remote")
        (root / ".dvc" / "config").write_text(config(remote))
        return replace(self, team=Team(root), remote=remote)


def config(remote: Path) -> str:
    return f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {remote}\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Publishing:
    """v1.0.0 and v1.1.0 of support and v1.0.0 of other; prod of both is v1.0.0, and described; read only."""
    place = tmp_path_factory.mktemp("described")
    team, remote = Team.make(place / "team"), place / "remote"
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=team.root, check=True, capture_output=True)
    (team.root / ".dvc" / "config").write_text(config(remote))
    keys = {name: make_key(place, name) for name in ("ada", "grace", "eve")}
    for ref in (ONE, TWO, Version("other", "v1.0.0")):
        record = team.build(f"{ref.variant}:final", {"a": str(ref).encode(), "b": DATA})
        team.commit(f"Build {ref}")
        team.repository.create_tag(str(ref), "HEAD", release_message(ref, Promise.of(record)))
    shutil.copytree(team.root / ".dvc" / "cache", remote)
    publishing = Publishing(team=team, remote=remote, keys=keys)
    publishing.promote(ONE)
    publishing.promote(Version("other", "v1.0.0"))
    publishing.describe(PROD)
    publishing.describe(Channel("other", "prod"))
    return publishing


@pytest.fixture
def publishing(made: Publishing, tmp_path: Path) -> Publishing:
    return made.copy(tmp_path)


@pytest.fixture
def served(made: Publishing) -> Iterator[Served]:
    """The remote as it was described; a test that changes files serves a copy."""
    with serve(made.remote) as state:
        yield state


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PAUSE_S", 0.0)


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host that pulls: its cache, and the keys that it trusts."""

    folder: Path
    trusted: tuple[PublicKey, ...]

    @classmethod
    def trusting(cls, folder: Path, *keys: Path) -> Host:
        return cls(folder=folder, trusted=tuple(PublicKey.parse(public_line(key), where="") for key in keys))

    def pull(self, ref: Version | Channel, url: str, *, now: datetime = NOW, target: str = "model") -> Path:
        source = WebSource(url)
        described = resolve_described(ref, source, self.trusted, Seen(self.folder / "channels"), now)
        report = fetch(
            described.found.record,
            described.objects,
            self.folder / target,
            sources=[source],
            store=Store(self.folder),
            say=lambda _: None,
            force=True,
        )
        return report.target


@pytest.fixture
def host(made: Publishing, tmp_path: Path) -> Host:
    return Host.trusting(tmp_path / "host", made.keys["ada"])


def refused(host: Host, ref: Version | Channel, url: str, kind: type[Error], now: datetime = NOW) -> str:
    """What the pull ended with; it showed no folder."""
    with pytest.raises(kind) as caught:
        host.pull(ref, url, now=now)
    assert not (host.folder / "model").exists()
    return caught.value.what


def listing(served: Served, path: str) -> dict[str, Any]:
    """An envelope on the server, its payload read."""
    envelope = json.loads((served.folder / path).read_bytes())
    return envelope | {"payload": json.loads(envelope["payload"])}


def channel_of(served: Served, ref: Channel = PROD) -> ChannelDescriptor:
    payload = encode(listing(served, channel_path(ref))["payload"])
    return ChannelDescriptor.from_bytes(payload, ref, where="")


def release_of(served: Served, ref: Version = ONE) -> ReleaseDescriptor:
    return ReleaseDescriptor.from_bytes(encode(listing(served, release_path(ref))["payload"]), ref, where="")


# What should work


def test_a_channel_is_pulled_without_git_and_without_dvc(made: Publishing, served: Served, host: Host) -> None:
    program = (
        "import sys; from builder.cli import main; sys.argv[0] = 'varietal'; code = 0\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        "heavy = {'dvc', 'fsspec', 'aiohttp', 'requests', 'torch'} & {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(code or (99 if heavy else 0))\n"
    )
    trust = host.folder.parent / "trusted"
    trust.write_text(f"# the team's key\n{public_line(made.keys['ada'])} ada\n")
    tools = host.folder.parent / "bin"
    tools.mkdir()
    (tools / "ssh-keygen").symlink_to(str(shutil.which("ssh-keygen")))
    done = subprocess.run(
        [sys.executable, "-c", program, "pull", "support#prod", "model", "--from", served.url, "--trust", str(trust)],
        cwd=host.folder.parent,
        env={"PATH": str(tools), "VARIETAL_STORE": str(host.folder), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"support#prod pulled: model {release_of(served).artifact_digest} in " in done.stdout
    assert (host.folder.parent / "model" / "model.safetensors").is_file()


def test_a_release_is_pulled_by_its_version(served: Served, host: Host) -> None:
    folder = host.pull(ONE, served.url)
    assert {path.name for path in folder.iterdir()} == {"artifact.json", "config.json", "model.safetensors"}
    refused(replace(host, folder=host.folder / "x"), TWO, served.url, NotFoundError)


def test_a_pull_is_resumed_where_the_server_hung_up(served: Served, host: Host) -> None:
    big = next(file for file in release_of(served).files if file.path == "model.safetensors")
    served.cut[object_key(big.oid)] = 1_500_000
    host.pull(PROD, served.url)
    assert served.ranges == ["bytes=1500000-"]


def test_a_rollback_is_followed_and_a_renewal_too(publishing: Publishing, host: Host) -> None:
    with serve(publishing.remote) as served:
        host.pull(PROD, served.url)
        publishing.promote(TWO)
        publishing.describe(PROD)
        assert channel_of(served).version == "v1.1.0"
        host.pull(PROD, served.url)
        tag = rollback(PROD, Published.read(publishing.team.repository.tags(messages=True)))
        publishing.team.repository.create_tag(tag.name, tag.commit, tag.message)
        assert publishing.describe(PROD) == ("varietal/support/channels/prod.json",)
        assert (channel_of(served).version, channel_of(served).sequence) == ("v1.0.0", 3)
        host.pull(PROD, served.url)
        publishing.describe(PROD, now=NOW + timedelta(days=25))
        host.pull(PROD, served.url, now=NOW + timedelta(days=40))


def test_keys_are_changed_while_hosts_trust_the_old_or_the_new_one(
    publishing: Publishing, made: Publishing, host: Host
) -> None:
    new = Host.trusting(host.folder.parent / "new", made.keys["grace"])
    both = Host.trusting(host.folder.parent / "both", made.keys["ada"], made.keys["grace"])
    with serve(publishing.remote) as served:
        refused(new, PROD, served.url, DeniedError)
        publishing.promote(TWO)
        publishing.describe(PROD, "ada", "grace")
        for one in (host, new, both):
            one.pull(PROD, served.url)
        old = publishing.remote / channel_path(PROD)
        kept = old.read_bytes()
        publishing.promote(ONE)
        publishing.describe(PROD, "grace")
        both.pull(PROD, served.url)
        assert "no trusted key signed this" in refused(
            replace(host, folder=host.folder / "later"), PROD, served.url, DeniedError
        )
        old.write_bytes(kept)  # an old state, signed by both: what was seen under the new key is remembered
        later = Host.trusting(both.folder, made.keys["grace"])
        with pytest.raises(DeniedError, match="has sequence number 2, and 3 was seen here before"):
            later.pull(PROD, served.url)


def test_a_login_is_sent_to_the_server_and_shown_to_nobody(served: Served, host: Host) -> None:
    served.login = "Basic YWRhOnMzY3JldA=="
    assert refused(host, PROD, served.url, DeniedError) == "reading is not allowed: 401"
    url = served.url.replace("http://", "http://ada:s3cret@")
    host.pull(PROD, url)
    served.login = "another"
    with pytest.raises(DeniedError) as caught:
        host.pull(PROD, url)
    assert "s3cret" not in str(caught.value)


# Attacks on the descriptors


@pytest.mark.parametrize("path", [channel_path(PROD), release_path(ONE)])
def test_a_flipped_byte_in_a_descriptor(served: Served, host: Host, path: str) -> None:
    data = (served.folder / path).read_bytes()
    served.replaced[path] = data.replace(b"v1.0.0", b"v1.0.1")
    assert "does not hold" in refused(host, PROD, served.url, DeniedError)


def test_an_older_sequence_number(publishing: Publishing, host: Host) -> None:
    with serve(publishing.remote) as served:
        old = (publishing.remote / channel_path(PROD)).read_bytes()
        publishing.promote(TWO)
        publishing.describe(PROD)
        host.pull(PROD, served.url, target="first")
        served.replaced[channel_path(PROD)] = old
        assert refused(host, PROD, served.url, DeniedError) == (
            "support#prod has sequence number 1, and 2 was seen here before"
        )


def test_an_older_sequence_number_is_remembered_of_a_pull_that_failed(publishing: Publishing, host: Host) -> None:
    with serve(publishing.remote) as served:
        old = (publishing.remote / channel_path(PROD)).read_bytes()
        publishing.promote(TWO)
        publishing.describe(PROD)
        served.replaced[release_path(TWO)] = b"{}"
        refused(host, PROD, served.url, InvalidError)
        served.replaced[channel_path(PROD)] = old
        refused(host, PROD, served.url, DeniedError)


def test_one_sequence_number_for_two_artifacts(publishing: Publishing, served: Served, host: Host) -> None:
    host.pull(PROD, served.url, target="first")
    publishing.describe(TWO)
    with serve(publishing.remote) as other:
        two = release_of(other, TWO)
        forged = replace(channel_of(other), version="v1.1.0", release=two.digest, artifact_digest=two.artifact_digest)
        other.replaced[channel_path(PROD)] = seal(forged.to_bytes(), [publishing.keys["ada"]])
        assert refused(host, PROD, other.url, ConflictError).startswith("sequence number 1 of support#prod stood for ")


def test_an_expired_descriptor(served: Served, host: Host) -> None:
    end, late = NOW + timedelta(days=30), NOW + timedelta(days=30, seconds=1)
    assert refused(host, PROD, served.url, DeniedError, now=late) == (
        f"support#prod was good until {end:%Y-%m-%dT%H:%M:%S}Z, and it is {late:%Y-%m-%dT%H:%M:%S}Z now"
    )
    host.pull(PROD, served.url, now=end)


def test_an_unknown_key(made: Publishing, served: Served, host: Host) -> None:
    eve = PublicKey.parse(public_line(made.keys["eve"]), where="")
    served.replaced[channel_path(PROD)] = seal(channel_of(served).to_bytes(), [made.keys["eve"]])
    assert refused(host, PROD, served.url, DeniedError) == f"no trusted key signed this; {eve.fingerprint} did"


def test_an_unknown_key_that_says_it_is_the_trusted_one(made: Publishing, served: Served, host: Host) -> None:
    envelope = json.loads(seal(channel_of(served).to_bytes(), [made.keys["eve"]]))
    envelope["signatures"][0]["key"] = host.trusted[0].fingerprint
    served.replaced[channel_path(PROD)] = encode(envelope)
    assert "does not hold" in refused(host, PROD, served.url, DeniedError)


def test_a_signature_of_the_trusted_key_for_another_purpose(made: Publishing, served: Served, host: Host) -> None:
    """What the key signed for git, say, is good for no descriptor."""
    payload = channel_of(served).to_bytes()
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(made.keys["ada"])]
    signature = subprocess.run(command, input=payload, capture_output=True, check=True).stdout.decode()
    rows = [{"key": host.trusted[0].fingerprint, "signature": signature}]
    served.replaced[channel_path(PROD)] = encode(
        {"schema": "varietal/signed/1", "payload": payload.decode(), "signatures": rows}
    )
    assert "does not hold" in refused(host, PROD, served.url, DeniedError)


@pytest.mark.parametrize(
    ("asked", "given", "what"),
    [
        (
            channel_path(PROD),
            channel_path(Channel("other", "prod")),
            "this describes other#prod, asked for was support#prod",
        ),
        (release_path(ONE), release_path(Version("other", "v1.0.0")), "the release's descriptor has sha256:"),
        (channel_path(PROD), release_path(ONE), "artifact_digest, channel"),
    ],
)
def test_the_descriptor_of_something_else(served: Served, host: Host, asked: str, given: str, what: str) -> None:
    served.replaced[asked] = (served.folder / given).read_bytes()
    got = refused(host, PROD, served.url, Error)
    assert got.startswith(what) or "unknown key" in got


def test_another_release_for_the_one_that_is_asked_for(publishing: Publishing, host: Host) -> None:
    publishing.describe(TWO)
    with serve(publishing.remote) as served:
        served.replaced[release_path(TWO)] = (publishing.remote / release_path(ONE)).read_bytes()
        assert refused(host, TWO, served.url, DeniedError) == (
            "this describes support@v1.0.0, asked for was support@v1.1.0"
        )


@pytest.mark.parametrize("path", ["../../outside", "/etc/passwd", "a/../../b", "a\\b", "artifact.json/x"])
def test_a_file_name_that_leaves_the_folder(made: Publishing, served: Served, host: Host, path: str) -> None:
    """Signed by the trusted key even: a publisher that was broken into still cannot write elsewhere."""
    release = release_of(served)
    files = (*release.files[:-1], replace(release.files[-1], path=path))
    forge(made, served, replace(release, files=files))
    refused(host, PROD, served.url, InvalidError)
    assert not (host.folder.parent / "outside").exists()


@pytest.mark.parametrize(
    "key", ["http://elsewhere/x", "../secret", "files/md5/zz/" + "0" * 30, "files/md5/00/" + "0" * 31]
)
def test_an_object_that_is_none_of_the_remote(made: Publishing, served: Served, host: Host, key: str) -> None:
    payload = listing(served, release_path(ONE))["payload"]
    payload["files"][0]["key"] = key
    sealed(made, served, encode(payload))
    assert refused(host, PROD, served.url, InvalidError) == f"{key!r} is no key of an object"


def test_a_descriptor_that_is_not_what_the_record_says(made: Publishing, served: Served, host: Host) -> None:
    release = release_of(served)
    other = release_of(served, Version("other", "v1.0.0"))
    for forged in (
        replace(release, files=release.files[1:]),
        replace(release, files=(*release.files, release.files[0])),
        replace(release, artifact_digest=other.artifact_digest),
        replace(release, stage="other"),
        replace(release, files=other.files),
        replace(release, record=other.record),
    ):
        forge(made, served, forged)
        assert refused(host, PROD, served.url, InvalidError) == "the descriptor and the record contradict each other"


def forge(made: Publishing, served: Served, release: ReleaseDescriptor) -> None:
    sealed(made, served, release.to_bytes())


def sealed(made: Publishing, served: Served, payload: bytes) -> None:
    """Serve a release's payload, and a channel that points at it, both signed by the trusted key."""
    from registry.digest import digest_bytes  # noqa: PLC0415 - of this function alone

    served.replaced[release_path(ONE)] = seal(payload, [made.keys["ada"]])
    channel = replace(channel_of(served), release=digest_bytes(payload))
    served.replaced[channel_path(PROD)] = seal(channel.to_bytes(), [made.keys["ada"]])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"schema": "varietal/signed/1", "payload": 1, "signatures": []}',
        b'{"schema": "varietal/signed/1", "payload": "{}", "payload": "{}", "signatures": []}',
        b'{"schema": "varietal/signed/1", "payload": "{}", "signatures": ['
        + b'{"key": "x", "signature": "y"},' * 16
        + b'{"key": "x", "signature": "y"}]}',
        b"\xff\xfe",
        b"<html>not found</html>",
    ],
)
def test_what_is_no_descriptor(served: Served, host: Host, body: bytes) -> None:
    served.replaced[channel_path(PROD)] = body
    refused(host, PROD, served.url, InvalidError)


# Attacks on the bytes and on the connection


def test_a_flipped_byte_in_a_file(publishing: Publishing, host: Host) -> None:
    with serve(publishing.remote) as served:
        for file in release_of(served).files:
            path = object_key(file.oid)
            data = (publishing.remote / path).read_bytes()
            served.replaced = {path: data[:-1] + bytes([data[-1] ^ 1])}
            fresh = replace(host, folder=host.folder / file.path)
            assert str(file.digest) in refused(fresh, PROD, served.url, DigestMismatchError)


def test_a_flipped_byte_in_the_record(served: Served, host: Host) -> None:
    path = object_key(release_of(served).record.oid)
    served.replaced[path] = (served.folder / path).read_bytes().replace(b"cpu", b"gpu")
    assert refused(host, PROD, served.url, DigestMismatchError).startswith("the record has sha256:")


def test_a_file_that_is_longer_than_it_is_said_to_be(served: Served, host: Host) -> None:
    release = release_of(served)
    for file in (release.record, *release.files):
        served.longer = {object_key(file.oid)}
        refused(replace(host, folder=host.folder / file.path), PROD, served.url, Error)


def test_a_body_that_never_ends(served: Served, host: Host) -> None:
    release = release_of(served)
    big = next(file for file in release.files if file.path == "model.safetensors")
    for path in (channel_path(PROD), release_path(ONE), object_key(release.record.oid), object_key(big.oid)):
        served.endless, served.sent_bytes = {path}, 0
        refused(replace(host, folder=host.folder / path), PROD, served.url, Error)
        assert served.sent_bytes < 48 << 20


def test_an_object_that_is_missing(publishing: Publishing, host: Host) -> None:
    with serve(publishing.remote) as served:
        release = release_of(served)
        for file in (release.record, *release.files):
            path = publishing.remote / object_key(file.oid)
            data = path.read_bytes()
            path.unlink()
            refused(replace(host, folder=host.folder / file.path), PROD, served.url, NotFoundError)
            path.write_bytes(data)


@pytest.mark.parametrize(
    "where", ["http://127.0.0.1:1/x", "https://elsewhere.invalid/x", "file:///etc/passwd", "//elsewhere/x"]
)
def test_a_redirect_to_another_server(served: Served, host: Host, where: str) -> None:
    served.moved[channel_path(PROD)] = where
    assert refused(host, PROD, served.url, DeniedError).startswith("the server sends us to ")


def test_a_redirect_that_stays_is_followed_and_one_in_a_circle_is_not(served: Served, host: Host) -> None:
    served.moved["here"] = f"/{channel_path(PROD)}"
    assert WebSource(served.url).read("here", 1 << 20) == (served.folder / channel_path(PROD)).read_bytes()
    served.moved["round"] = "/round"
    with pytest.raises(DeniedError, match="an address that is not followed"):
        WebSource(served.url).read("round", 10)
    del host


def test_a_compressed_body(served: Served, host: Host) -> None:
    served.gzip.add(channel_path(PROD))
    assert refused(host, PROD, served.url, TransportError) == ("the server sent gzip where plain bytes were asked for")


def test_a_server_that_drips(served: Served, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps no host for ever."""
    monkeypatch.setattr(web, "_SMALL_S", 0.2)
    monkeypatch.setattr(web, "_SLOWEST_BYTES_A_SECOND", 1 << 30)
    served.drip_s = 0.05
    assert " bytes in 0 s" in refused(host, PROD, served.url, TransportError)


def test_a_server_that_says_nothing(served: Served, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_STALL_S", 0.2)
    served.drip_s = 5.0
    assert refused(host, PROD, served.url, TransportError).startswith("reading failed: ")


@pytest.mark.parametrize(
    "url",
    ["", "ftp://host/x", "file:///etc", "host/x", "http://", "http://host/x?y=1", "http://host/ x", "http://host:x/"],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidError, match="is no address of a folder"):
        WebSource(url)


def test_a_memory_that_cannot_be_read_is_not_forgotten(served: Served, host: Host) -> None:
    host.pull(PROD, served.url)
    path = host.folder / "channels" / "support" / "prod.json"
    path.write_bytes(b"{}")
    with pytest.raises(InvalidError, match="what was seen of this channel cannot be read"):
        host.pull(PROD, served.url)


# What the publisher refuses


def test_nothing_is_described_whose_bytes_are_not_on_the_remote(publishing: Publishing) -> None:
    big = next(file for file in release_of(Served(publishing.remote)).files if file.path == "model.safetensors")
    (publishing.remote / object_key(big.oid)).unlink()
    with pytest.raises(RefusedError) as caught:
        publishing.describe(ONE)
    assert caught.value.what == "support@v1.0.0 is not described: the remote lacks model.safetensors"


def test_a_clone_without_the_newest_tags_publishes_no_older_state(publishing: Publishing) -> None:
    publishing.promote(TWO)
    publishing.describe(PROD)
    newest = Published.read(publishing.team.repository.tags(messages=True)).current(PROD)
    assert newest is not None
    publishing.team.repository.remove_tag(newest.ref)
    with pytest.raises(ConflictError) as caught:
        publishing.describe(PROD)
    assert caught.value.what == "support#prod was described with sequence number 2, its tags here say 1"


class Beside(RemoteFiles):
    """Named files of the remote, with something that happens right before or after each write of the channel's."""

    def __init__(
        self, root: Path, *, before: Callable[[], object] | None = None, after: Callable[[], object] | None = None
    ) -> None:
        super().__init__(root)
        self.before, self.after = before, after
        self.writes = 0

    def write(self, path: str, data: bytes) -> None:
        if path != channel_path(PROD):
            super().write(path, data)
            return
        self.writes += 1
        act, self.before = self.before, None
        if act is not None:
            act()
        super().write(path, data)
        if self.after is not None:
            self.after()


def racing(publishing: Publishing, **acts: Callable[[], object]) -> tuple[Publisher, Beside]:
    files = Beside(publishing.team.root, **acts)
    return replace(publishing.publisher(), files=files), files


def test_one_with_an_older_state_writes_at_the_same_time(publishing: Publishing) -> None:
    """It looked before we wrote, and writes after: what hosts have seen must come to stand again."""
    path = publishing.remote / channel_path(PROD)
    old, overwritten = path.read_bytes(), []

    def overwrite() -> None:
        if not overwritten:
            overwritten.append(path.write_bytes(old))

    publishing.promote(TWO)
    publisher, files = racing(publishing, after=overwrite)
    assert describe(publishing.team.repository, PROD, publisher, NOW)[-1] == channel_path(PROD)
    assert (channel_of(Served(publishing.remote)).sequence, files.writes) == (2, 2)


def test_one_with_an_older_state_that_never_ends_to_write(publishing: Publishing) -> None:
    path = publishing.remote / channel_path(PROD)
    old = path.read_bytes()
    publishing.promote(TWO)
    publisher, _ = racing(publishing, after=lambda: path.write_bytes(old))
    with pytest.raises(ConflictError) as caught:
        describe(publishing.team.repository, PROD, publisher, NOW)
    assert caught.value.what == "the descriptor of support#prod was overwritten 3 times while it was written"


def test_one_with_a_newer_state_wrote_between_our_look_and_our_write(publishing: Publishing) -> None:
    """The newer one ended well, and ours is there now: we must not end well, too."""

    def overtake() -> None:
        publishing.promote(ONE)
        publishing.describe(PROD)
        assert channel_of(Served(publishing.remote)).sequence == 3

    publishing.promote(TWO)
    publisher, _ = racing(publishing, before=overtake)
    with pytest.raises(ConflictError) as caught:
        describe(publishing.team.repository, PROD, publisher, NOW)
    assert caught.value.what == "support#prod was moved in the meantime: support#prod#3 is its newest tag"
    assert caught.value.mend == (
        "varietal/support/channels/prod.json says the older state until then: "
        "`git fetch --tags` and `varietal describe 'support#prod'` again"
    )
    publishing.describe(PROD)
    assert channel_of(Served(publishing.remote)).sequence == 3


def test_one_with_a_newer_state_wrote_right_after_us(publishing: Publishing) -> None:
    """By another clone: its tag is not here."""
    path = publishing.remote / channel_path(PROD)
    newer = replace(channel_of(Served(publishing.remote)), sequence=5)
    data = seal(newer.to_bytes(), [publishing.keys["ada"]])
    publishing.promote(TWO)
    publisher, _ = racing(publishing, after=lambda: path.write_bytes(data))
    with pytest.raises(ConflictError) as caught:
        describe(publishing.team.repository, PROD, publisher, NOW)
    assert caught.value.what == "support#prod was described with sequence number 5, its tags here say 2"
    assert path.read_bytes() == data


class Moving(DvcRemote):
    """The objects of the remote; while they are looked for, the channel moves."""

    act: Callable[[], object]

    def exists(self, oids: Iterable[str]) -> frozenset[str]:
        self.act()
        return super().exists(oids)


def test_the_number_that_is_signed_is_the_newest(publishing: Publishing) -> None:
    """Looking for thousands of objects takes minutes."""
    path = publishing.remote / channel_path(PROD)
    before = path.read_bytes()
    source = Moving(publishing.team.root)
    source.act = lambda: publishing.promote(ONE)
    publishing.promote(TWO)
    with pytest.raises(ConflictError) as caught:
        describe(publishing.team.repository, PROD, replace(publishing.publisher(), source=source), NOW)
    assert caught.value.what == "support#prod was moved in the meantime: support#prod#3 is its newest tag"
    assert caught.value.mend.endswith("; nothing was written of it")
    assert path.read_bytes() == before


@pytest.mark.parametrize("when", ["sooner", "later"])
def test_the_origin_has_a_newer_assignment(publishing: Publishing, when: str) -> None:
    """Of another clone, before we sign, or while we write; its tag was never here."""
    root = publishing.team.root
    git(root, "init", "--quiet", "--bare", "--initial-branch=main", "../origin.git")
    git(root, "remote", "add", "origin", "../origin.git")
    publishing.promote(TWO)
    git(root, "push", "--quiet", "--tags", "origin", "main")
    git(root, "fetch", "--quiet", "origin")
    git(root, "tag", "--annotate", "--message=x", "support#prod#3", "HEAD")

    git(root, "update-ref", "refs/kept", "refs/tags/support#prod#3")
    git(root, "tag", "--delete", "support#prod#3")

    def move() -> None:
        git(root, "push", "--quiet", "origin", "refs/kept:refs/tags/support#prod#3")

    acts: dict[str, Callable[[], object]] = {"before": move} if when == "later" else {}
    if when == "sooner":
        move()
    publisher, files = racing(publishing, **acts)
    with pytest.raises(ConflictError) as caught:
        describe(publishing.team.repository, PROD, publisher, NOW)
    assert caught.value.what == "the origin has tags that are not here: support#prod#3"
    assert files.writes == (1 if when == "later" else 0)
    assert ("says the older state until then" in caught.value.mend) is (when == "later")


def test_garbage_of_others_on_the_remote_is_replaced(publishing: Publishing, host: Host) -> None:
    for body in (b"garbage", seal(b"{}", [publishing.keys["eve"]])):
        (publishing.remote / channel_path(PROD)).write_bytes(body)
        publishing.describe(PROD)
    with serve(publishing.remote) as served:
        host.pull(PROD, served.url)


def test_describing_twice_changes_no_release(publishing: Publishing) -> None:
    path = publishing.remote / release_path(ONE)
    before = path.read_bytes()
    assert publishing.describe(ONE) == ()
    assert path.read_bytes() == before
    assert publishing.describe(ONE, "ada", "grace") == (release_path(ONE),)
