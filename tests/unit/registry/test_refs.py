"""Refs and tag names: each form, what is refused, what GTO's forms mean."""

from __future__ import annotations

import pytest

from registry.errors import InvalidError
from registry.refs import (
    ByDigest,
    Channel,
    Ref,
    Stage,
    TagName,
    Version,
    check_channel,
    check_variant,
    parse,
    parse_tag,
)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("support@v1.2.0", Version("support", "v1.2.0")),
        ("support@v1.2.0-rc.1", Version("support", "v1.2.0-rc.1")),
        ("support#prod", Channel("support", "prod")),
        ("support:final", Stage("support", "final")),
        ("support:final@main", Stage("support", "final", "main")),
        ("support:final@HEAD~2", Stage("support", "final", "HEAD~2")),
        ("support:final@support@v1.2.0", Stage("support", "final", "support@v1.2.0")),
        ("bases:tiny", Stage("bases", "tiny")),
        ("sha256:0a1b2c3d", ByDigest("0a1b2c3d")),
        ("sha256:" + "ab" * 32, ByDigest("ab" * 32)),
    ],
)
def test_a_ref_is_read_and_printed(text: str, ref: Ref) -> None:
    assert parse(text) == ref
    assert str(ref) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "support",
        "Support@v1.2.0",
        "support@1.2.0",
        "support@v1.2",
        "support@v01.2.0",
        "support@v1.2.0+build",
        "support@v1.2.0!",
        "support#",
        "support#Prod",
        "support#prod#3",
        "support:final@",
        "support:final@--all",
        "support:final@a b",
        "support:final@HEAD:secret",
        "support-:final",
        "sha256:0a1b2c3",
        "sha256:0A1B2C3D",
        "sha256:deadbeefs",
        "sha256:final",
        "support:final\n",
        "../x:final",
        f"{'a' * 65}:final",
        f"support:{'a' * 65}",
        f"support#{'a' * 65}",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse(text)
    assert str(caught.value) == (
        f"{text!r} is not a ref\n"
        "  where: ref\n"
        "  mend: write name@v1.2.0, name#channel, name:stage, name:stage@revision or sha256: and 8 or more digits"
    )


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("support@v1.2.0", TagName(variant="support", version="v1.2.0")),
        ("support@v1.2.0!", TagName(variant="support", version="v1.2.0", withdrawn=True)),
        ("support#prod#3", TagName(variant="support", channel="prod", number=3)),
        ("support#prod!#4", TagName(variant="support", channel="prod", number=4, withdrawn=True)),
    ],
)
def test_a_tag_is_read_and_printed(name: str, tag: TagName) -> None:
    assert parse_tag(name) == tag
    assert str(tag) == name


@pytest.mark.parametrize(
    "name",
    [
        *("v1.2.0", "support", "support#prod", "support#prod#0", "a/b@v1.0.0", "sha256@v1.0.0"),
        *(f"support#prod#{'9' * 5000}", f"support@v{'9' * 5000}.0.0", f"support@v1.0.0-{'9' * 5000}"),
        *(f"{'a' * 65}@v1.0.0", f"support#{'a' * 65}#1"),
    ],
)
def test_a_tag_of_others_is_none_of_ours(name: str) -> None:
    assert parse_tag(name) is None


def test_a_ref_that_would_not_read_back_cannot_be_made() -> None:
    with pytest.raises(InvalidError) as caught:
        Version("support", "1.0.0")
    assert str(caught.value) == (
        "'1.0.0' is not a version\n  where: ref\n  mend: write v1.2.0, or v1.2.0-rc.1 for a pre-release"
    )
    with pytest.raises(InvalidError) as caught:
        Stage("support", "final", "-x")
    assert caught.value.what == "'-x' is not a git revision"
    with pytest.raises(InvalidError) as caught:
        ByDigest("abc")
    assert caught.value.what == "'abc' is not a digest"


def test_names() -> None:
    assert check_variant("support-2") == "support-2"
    with pytest.raises(InvalidError) as caught:
        check_variant("sha256")
    assert caught.value.what == "'sha256' is not a variant"
    with pytest.raises(InvalidError) as caught:
        check_channel("pr od")
    assert caught.value.what == "'pr od' is not a channel"


def test_a_name_has_at_most_64_letters() -> None:
    assert check_channel("a" * 64) == "a" * 64
    with pytest.raises(InvalidError) as caught:
        check_variant("a" * 65)
    assert str(caught.value) == (
        f"'{'a' * 65}' is not a variant\n"
        "  where: ref\n"
        "  mend: write at most 64 lower-case letters, digits and dashes, a letter first"
    )
