"""Descriptors as values: what is written reads back, and what breaks the schema is refused by its key."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from registry.canonical import encode
from registry.descriptor import (
    ChannelDescriptor,
    DescribedFile,
    ReleaseDescriptor,
    Sighting,
    channel_path,
    check_newer,
    object_key,
    release_path,
)
from registry.digest import digest_bytes
from registry.errors import ConflictError, DeniedError, Error, InvalidError
from registry.refs import Channel, Version

REF, PROD = Version("support", "v1.0.0"), Channel("support", "prod")
DIGEST, OTHER = digest_bytes(b"one"), digest_bytes(b"other")
FILE = DescribedFile(path="config.json", size_bytes=2, digest=DIGEST, oid="0123456789abcdef0123456789abcdef")
RELEASE = ReleaseDescriptor(
    ref=REF,
    commit="ab" * 20,
    stage="final",
    type="model",
    artifact_digest=DIGEST,
    weights_digest=OTHER,
    record=replace(FILE, path="final.json"),
    files=(replace(FILE, path="artifact.json"), FILE),
)
CHANNEL = ChannelDescriptor(
    ref=PROD,
    sequence=3,
    version="v1.0.0",
    release=RELEASE.digest,
    artifact_digest=DIGEST,
    issued=datetime(2026, 1, 1, tzinfo=UTC),
    valid_until=datetime(2026, 1, 31, 12, 0, 1, tzinfo=UTC),
)


def test_places_on_a_remote() -> None:
    assert release_path(REF) == "varietal/support/releases/v1.0.0.json"
    assert channel_path(PROD) == "varietal/support/channels/prod.json"
    assert object_key("ab" + "0" * 30) == "files/md5/ab/" + "0" * 30


def test_what_is_written_reads_back() -> None:
    assert ReleaseDescriptor.from_bytes(RELEASE.to_bytes(), REF, where="x") == RELEASE
    assert ChannelDescriptor.from_bytes(CHANNEL.to_bytes(), PROD, where="x") == CHANNEL
    report = replace(RELEASE, type="report", weights_digest=None)
    assert ReleaseDescriptor.from_bytes(report.to_bytes(), REF, where="x") == report


def test_the_bytes_are_those_of_the_format() -> None:
    """A host of another version must read them: a change here is a new schema."""
    assert (
        CHANNEL.to_bytes()
        == (
            f'{{"artifact_digest":"{DIGEST}","channel":"prod","issued":"2026-01-01T00:00:00Z","release":"{RELEASE.digest}",'
            '"schema":"varietal/descriptor/channel/1","sequence":3,"valid_until":"2026-01-31T12:00:01Z",'
            '"variant":"support","version":"v1.0.0"}'
        ).encode()
    )
    assert json.loads(RELEASE.to_bytes())["files"][1] == {
        "digest": str(DIGEST),
        "key": "files/md5/01/23456789abcdef0123456789abcdef",
        "path": "config.json",
        "size_bytes": 2,
    }


@pytest.mark.parametrize(
    ("key", "value", "kind", "what"),
    [
        ("schema", "varietal/descriptor/channel/2", InvalidError, "schema: expected 'varietal/descriptor/channel/1'"),
        ("variant", "other", DeniedError, "this describes other#prod, asked for was support#prod"),
        ("channel", "staging", DeniedError, "this describes support#staging, asked for was support#prod"),
        ("sequence", -1, InvalidError, "sequence: expected a whole number from 0"),
        ("sequence", True, InvalidError, "sequence: expected a whole number from 0"),
        ("version", "../v1", InvalidError, "'../v1' is not a version"),
        ("release", "abc", InvalidError, "'abc' is not a digest"),
        ("valid_until", "2026-01-31", InvalidError, "valid_until: '2026-01-31' is no time"),
        ("valid_until", "2026-02-31T00:00:00Z", InvalidError, "valid_until: '2026-02-31T00:00:00Z' is no time"),
        ("valid_until", None, InvalidError, "valid_until: expected text, got null"),
        ("more", 1, InvalidError, "more: expected a key of this schema, got an unknown key"),
    ],
)
def test_a_channel_that_breaks_the_schema(key: str, value: object, kind: type[Error], what: str) -> None:
    table = json.loads(CHANNEL.to_bytes()) | {key: value}
    with pytest.raises(kind) as caught:
        ChannelDescriptor.from_bytes(encode(table), PROD, where="x")
    assert caught.value.what.startswith(what)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("version", "v1.0.1", DeniedError),
        ("variant", "other", DeniedError),
        ("commit", "HEAD", InvalidError),
        ("type", "pickle", InvalidError),
        ("files", [{"path": "a"}], InvalidError),
        (
            "record",
            {"path": "a", "size_bytes": 1 << 40, "digest": str(DIGEST), "key": object_key("0" * 32)},
            InvalidError,
        ),
    ],
)
def test_a_release_that_breaks_the_schema(key: str, value: object, kind: type[Error]) -> None:
    table = json.loads(RELEASE.to_bytes()) | {key: value}
    with pytest.raises(kind):
        ReleaseDescriptor.from_bytes(encode(table), REF, where="x")


def test_only_canonical_json_is_read() -> None:
    for payload in (CHANNEL.to_bytes() + b"\n", CHANNEL.to_bytes().replace(b":3", b": 3")):
        with pytest.raises(InvalidError, match="not in canonical JSON"):
            ChannelDescriptor.from_bytes(payload, PROD, where="x")


def test_it_is_good_until_its_last_second() -> None:
    CHANNEL.check_valid(CHANNEL.valid_until, where="x")
    with pytest.raises(DeniedError) as caught:
        CHANNEL.check_valid(datetime(2026, 2, 1, tzinfo=UTC), where="x")
    assert caught.value.what == "support#prod was good until 2026-01-31T12:00:01Z, and it is 2026-02-01T00:00:00Z now"


def test_a_sequence_number_only_rises() -> None:
    check_newer(CHANNEL, [], where="x")
    check_newer(
        CHANNEL, [Sighting(sequence=3, artifact_digest=DIGEST), Sighting(sequence=1, artifact_digest=OTHER)], where="x"
    )
    with pytest.raises(DeniedError, match="sequence number 3, and 4 was seen here before"):
        check_newer(CHANNEL, [Sighting(sequence=4, artifact_digest=DIGEST)], where="x")
    with pytest.raises(ConflictError, match="sequence number 3 of support#prod stood for"):
        check_newer(CHANNEL, [Sighting(sequence=3, artifact_digest=OTHER)], where="x")
