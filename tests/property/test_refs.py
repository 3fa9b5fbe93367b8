"""Refs and tags: what is printed reads back, and what reads prints back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidError
from registry.published import version_order
from registry.refs import ByDigest, Channel, Ref, Stage, TagName, Version, parse, parse_tag

NAMES = st.from_regex(r"[a-z](?:[a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "sha256")
PARTS = st.one_of(st.integers(0, 99).map(str), st.from_regex(r"[a-zA-Z][0-9a-zA-Z-]{0,5}", fullmatch=True))
VERSIONS = st.builds(
    lambda numbers, parts: f"v{'.'.join(map(str, numbers))}" + (f"-{'.'.join(parts)}" if parts else ""),
    st.tuples(*[st.integers(0, 99)] * 3),
    st.lists(PARTS, max_size=3),
)
REVISIONS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), max_size=12).filter(
    lambda text: not text.startswith("-")
)
REFS = st.one_of(
    st.builds(Version, NAMES, VERSIONS),
    st.builds(Channel, NAMES, NAMES),
    st.builds(Stage, NAMES, NAMES, REVISIONS),
    st.builds(ByDigest, st.text("0123456789abcdef", min_size=8, max_size=64)),
)
TAGS = st.one_of(
    st.builds(TagName, variant=NAMES, version=VERSIONS, withdrawn=st.booleans()),
    st.builds(TagName, variant=NAMES, channel=NAMES, number=st.integers(1, 10**6), withdrawn=st.booleans()),
)


@given(REFS)
def test_a_ref_reads_back(ref: Ref) -> None:
    assert parse(str(ref)) == ref


@given(st.one_of(st.text(max_size=30), st.builds("{}{}{}".format, NAMES, st.sampled_from("@#:"), st.text(max_size=9))))
def test_what_reads_prints_back(text: str) -> None:
    try:
        ref = parse(text)
    except InvalidError:
        return
    assert str(ref) == text


@given(TAGS)
def test_a_tag_reads_back(tag: TagName) -> None:
    assert parse_tag(str(tag)) == tag


@given(st.lists(VERSIONS, unique=True, max_size=8))
def test_versions_are_in_one_order_however_they_come(versions: list[str]) -> None:
    ordered = sorted(versions, key=version_order)
    backwards = versions[::-1]
    backwards.sort(key=version_order)
    assert ordered == backwards
    assert len({version_order(version) for version in versions}) == len(versions)
