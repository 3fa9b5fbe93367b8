"""Refs become proven records, and folders are held against them; each step of the proof fails on its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from registry.artifact import Artifact
from registry.errors import ConflictError, DigestMismatchError, InvalidError, NotFoundError
from registry.published import Published
from registry.record import git_record, lock_file
from registry.refs import ByDigest, Channel, Stage, Version
from registry.releases import promote
from registry.resolve import resolve
from registry.tag_message import Promise, release_message
from registry.verify import prove_folder
from tests.repositories import Team, make_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.record import Record

RELEASE = Version("support", "v1.0.0")
RECORD = git_record("support", "final")


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team.make(tmp_path / "team")


@pytest.fixture
def record(team: Team) -> Record:
    """A stage that was built, committed and released."""
    record = team.build("support:final", {"a": b"12", "b": b"3"})
    team.commit("Build")
    release(team, RELEASE, record)
    return record


def release(team: Team, ref: Version, record: Record) -> None:
    team.repository.create_tag(str(ref), "HEAD", release_message(ref, Promise.of(record)))


def folder(team: Team) -> Path:
    return team.root / "models/support/artifacts/final"


# Refs


def test_all_refs_of_one_artifact(team: Team, record: Record) -> None:
    tag = promote(RELEASE, "prod", Published.read(team.repository.tags(messages=True)))
    team.repository.create_tag(tag.name, tag.commit, tag.message)
    head = team.repository.head()
    refs = (RELEASE, Channel("support", "prod"), Stage("support", "final"), Stage("support", "final", "main"))
    found = [resolve(team.repository, ref) for ref in (*refs, ByDigest(record.artifact.digest.hex[:8]))]
    assert {one.record_bytes for one in found} == {record.to_bytes()}
    assert {one.listing_oid for one in found} == {found[0].listing_oid}
    assert [one.commit for one in found] == [head, head, "", head, ""]
    assert [one.version for one in found] == ["v1.0.0", "v1.0.0", "", "", ""]


def test_the_steps_of_the_proof_are_told(team: Team, record: Record) -> None:
    found = resolve(team.repository, RELEASE)
    at, commit = found.commit[:12], found.commit
    assert found.steps == (
        f"1. support@v1.0.0 is support@v1.0.0, commit {commit}; it is on the main branch",
        f"2. models/support/records/final.json at {at} is the record, {record.digest}",
        f"3. by its content it is of action {record.action.digest} and artifact {record.artifact.digest}",
        "4. it is the record of support:final",
        f"5. models/support/dvc.lock at {at} names these very bytes, and the artifact's folder",
        "6. the tag support@v1.0.0 promises this record, artifact and weights",
    )
    assert len(resolve(team.repository, Stage("support", "final")).steps) == 5


def test_a_release_stays_what_it_was(team: Team, record: Record) -> None:
    team.build("support:final", {"a": b"new"})
    team.commit("Build again")
    assert resolve(team.repository, RELEASE).record.digest == record.digest
    assert resolve(team.repository, Stage("support", "final")).record.digest != record.digest
    assert resolve(team.repository, ByDigest(record.artifact.digest.hex)).commit


def test_a_prefix_that_two_artifacts_share(team: Team, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    other = team.build("support:other", {"a": b"1"})
    both = tuple(sorted((record.artifact.digest, other.artifact.digest)))
    monkeypatch.setattr("registry.index.Index.artifacts", lambda *_: both)
    with pytest.raises(ConflictError) as caught:
        resolve(team.repository, ByDigest("0a1b2c3d"))
    assert str(caught.value) == (
        f"2 artifacts start with sha256:0a1b2c3d\n  where: {both[0]}, {both[1]}\n  mend: write more digits"
    )


def test_a_digest_that_nothing_has(team: Team) -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve(team.repository, ByDigest("0a1b2c3d"))
    assert str(caught.value) == (
        f"there is no artifact sha256:0a1b2c3d\n  where: {team.root}\n  mend: try `varietal find`, or fetch first"
    )


def test_a_stage_that_was_not_built(team: Team) -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve(team.repository, Stage("support", "final"))
    assert str(caught.value) == (
        "there is no such file in the work tree\n"
        "  where: models/support/records/final.json\n"
        "  mend: build the stage with `dvc repro`, or name a revision: NAME:STAGE@REVISION"
    )


# Steps 3 to 6


def test_a_record_that_was_edited(team: Team, record: Record) -> None:
    (team.root / RECORD).write_bytes(record.to_bytes().replace(b'"micro_batch": 0', b'"micro_batch": 8'))
    with pytest.raises(DigestMismatchError) as caught:
        resolve(team.repository, Stage("support", "final"))
    assert caught.value.what.startswith("the record has md5 ")
    assert caught.value.where == str(RECORD)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b'"size_bytes": 2\n', b'"size_bytes": 3\n', "artifact digest is not the digest of its files"),
        (b'"recipe": 1', b'"recipe": 2', "action_digest is not the digest of action"),
        (b'"notes": []', b'"notes":  []', "the record is not in canonical JSON"),
    ],
)
def test_a_record_that_contradicts_itself(team: Team, record: Record, old: bytes, new: bytes, what: str) -> None:
    edited = record.to_bytes().replace(old, new, 1)
    assert edited != record.to_bytes()
    (team.root / RECORD).write_bytes(edited)
    with pytest.raises(InvalidError) as caught:
        resolve(team.repository, Stage("support", "final"))
    assert caught.value.what == what


def test_a_record_that_was_copied_from_another_variant(team: Team, record: Record) -> None:
    path = team.root / git_record("copy", "final")
    path.parent.mkdir(parents=True)
    path.write_bytes(record.to_bytes())
    with pytest.raises(InvalidError) as caught:
        resolve(team.repository, Stage("copy", "final"))
    assert str(caught.value) == (
        "this is the record of support:final\n"
        "  where: models/copy/records/final.json\n"
        "  mend: run `varietal build`, which puts back the record that was built, and commit"
    )


def test_a_lock_that_is_not_there_or_says_a_file(team: Team, record: Record) -> None:
    path = team.root / lock_file("support")
    text = path.read_text()
    path.write_text(text.replace(".dir", ""))
    with pytest.raises(InvalidError) as invalid:
        resolve(team.repository, Stage("support", "final"))
    assert invalid.value.what == "models/support/artifacts/final is not a folder"
    path.unlink()
    with pytest.raises(NotFoundError) as caught:
        resolve(team.repository, Stage("support", "final"))
    assert caught.value.where == "models/support/dvc.lock"
    assert record.stage == "final"


def test_a_tag_that_promises_another_artifact(team: Team, record: Record) -> None:
    other = make_record("support:final")
    release(team, Version("support", "v6.6.6"), other)
    with pytest.raises(DigestMismatchError) as caught:
        resolve(team.repository, Version("support", "v6.6.6"))
    assert str(caught.value) == (
        f"the tag promises {other.artifact.digest}, its commit has {record.artifact.digest}\n"
        f"  where: tag support@v6.6.6 on commit {team.repository.head()[:12]}\n"
        "  mend: do not use this release: its tag was made by hand or moved"
    )


def test_a_tag_that_promises_another_record_of_the_artifact(team: Team, record: Record) -> None:
    again = team.build("support:final", {"a": b"12", "b": b"3"}, notes=("again",))
    team.commit("Build again")
    release(team, Version("support", "v1.0.1"), record)
    with pytest.raises(DigestMismatchError) as caught:
        resolve(team.repository, Version("support", "v1.0.1"))
    assert caught.value.what == f"the tag promises {record.digest}, its commit has {again.digest}"


# Steps 7 to 9


def test_a_folder_that_holds_the_artifact(team: Team, record: Record) -> None:
    assert prove_folder(record, folder(team)) == (
        f"7. artifact.json is the one of the record, {record.artifact.listing}",
        f"8. 2 files, {record.artifact.size_bytes} bytes: every sha256 holds, and there is nothing else",
        f"9. 2 tensors: headers and bytes hold, weights {record.artifact.weights_digest}",
    )


def test_a_listing_that_is_not_the_records(team: Team, record: Record) -> None:
    path = folder(team) / "artifact.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DigestMismatchError) as caught:
        prove_folder(record, folder(team))
    assert caught.value.what.endswith(f"the record says {record.artifact.listing}")
    path.unlink()
    with pytest.raises(NotFoundError) as gone:
        prove_folder(record, folder(team))
    assert gone.value.what == "there is no artifact.json"


def test_a_flipped_byte(team: Team, record: Record) -> None:
    path = folder(team) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatchError, match=r"^model\.safetensors has sha256:"):
        prove_folder(record, folder(team))


def test_a_file_too_few_and_a_file_too_many(team: Team, record: Record) -> None:
    (folder(team) / "more.py").write_text("")
    with pytest.raises(InvalidError) as extra:
        prove_folder(record, folder(team))
    assert extra.value.what == "more.py: not part of the artifact"
    (folder(team) / "more.py").unlink()
    (folder(team) / "config.json").unlink()
    with pytest.raises(NotFoundError) as missing:
        prove_folder(record, folder(team))
    assert missing.value.what == "config.json is missing"


def test_a_listing_that_lies_about_a_tensor(team: Team) -> None:
    """Files and record agree; only the tensor table is wrong, as a faulty tool might have written it."""
    path = folder(team)
    team.build("support:final", {"a": b"12", "b": b"3"})
    listing = json.loads((path / "artifact.json").read_bytes())
    listing["tensors"][0]["digest"] = "sha256:" + "0" * 64
    lying = Artifact.from_bytes(json.dumps(listing).encode(), where="x")
    lying.write(path)
    record = make_record("support:final", lying)
    with pytest.raises(DigestMismatchError) as caught:
        prove_folder(record, path)
    assert caught.value.what == "tensors are not as artifact.json says: a"


def test_a_digest_never_stands_for_another_artifact(team: Team) -> None:
    team.build("other:final", {"a": b"old"})
    copies = [team.root / path for path in (git_record("other", "final"), lock_file("other"))]
    old = [path.read_bytes() for path in copies]
    newer = team.build("other:final", {"a": b"new"})
    for path, data in zip(copies, old, strict=True):
        path.write_bytes(data)
    with pytest.raises(DigestMismatchError) as caught:
        resolve(team.repository, ByDigest(newer.artifact.digest.hex))
    assert caught.value.what == f"the record of other:final is no longer that of sha256:{newer.artifact.digest.hex}"
    assert caught.value.where == "models/other/records/final.json"
    assert caught.value.mend == "run `varietal build`, which puts back the record that was built, or `dvc checkout`"


def test_what_only_looks_like_a_listing(team: Team, record: Record) -> None:
    listing = folder(team) / "artifact.json"
    listing.unlink()
    os.mkfifo(listing)
    with pytest.raises(InvalidError) as caught:
        prove_folder(record, folder(team))
    assert caught.value.what == "this is no plain file"
    assert caught.value.where == str(listing)
    listing.unlink()
    listing.touch()
    os.truncate(listing, 1 << 40)
    with pytest.raises(InvalidError) as caught:
        prove_folder(record, folder(team))
    assert caught.value.what == "more than 67108864 bytes, which no document of ours has"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_only_looks_like_a_record(team: Team, make: Callable[[Path], None]) -> None:
    path = team.root / git_record("support", "odd")
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(InvalidError) as caught:
        resolve(team.repository, Stage("support", "odd"))
    assert caught.value.what == "this is no plain file"
