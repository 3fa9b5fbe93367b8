"""Digest values and streaming hashes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from registry.digest import Digest, Hasher, digest_bytes, digest_file
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_digest_prints_its_algorithm() -> None:
    assert str(digest_bytes(b"abc")) == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"


def test_parse_is_the_inverse_of_str() -> None:
    digest = digest_bytes(b"abc")
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    "text", ["", "sha256:", "md5:" + "0" * 32, "0" * 64, "sha256:" + "A" * 64, "sha256:" + "0" * 63, 7, None]
)
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(InvalidError, match="is not a digest"):
        Digest.parse(text)


def test_the_error_names_the_place() -> None:
    with pytest.raises(InvalidError) as caught:
        Digest.parse("nonsense", where="models/a/records/b.json: digest")
    assert str(caught.value) == (
        "'nonsense' is not a digest\n"
        "  where: models/a/records/b.json: digest\n"
        "  mend: write sha256: and 64 lower-case hexadecimal digits"
    )


def test_a_stream_and_a_file_hash_like_their_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # over one block
    hasher = Hasher()
    for start in range(0, len(data), 777):
        hasher.update(memoryview(data)[start : start + 777])
    path = tmp_path / "file"
    path.write_bytes(data)
    assert hasher.digest() == digest_file(path) == digest_bytes(data)
