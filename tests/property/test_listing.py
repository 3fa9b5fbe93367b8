"""No listing, however made, names a file outside of its folder or two files in one place."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from registry.artifact import LISTING, Artifact, FileEntry
from registry.digest import digest_bytes
from registry.errors import InvalidError
from registry.listing import check_paths, most_bytes, read_listing
from tests.simulator import make_record, md5

NAMES = st.text(st.sampled_from("aAbB.-_ \\:~é漢\u202e\0"), min_size=0, max_size=4)
PATHS = st.lists(st.one_of(NAMES, st.sampled_from(["..", ".", ""])), min_size=1, max_size=4).map("/".join)


@given(st.lists(PATHS, max_size=6))
def test_paths_that_pass_stay_inside_and_apart(paths: list[str]) -> None:
    try:
        check_paths(paths, where="listing")
    except InvalidError:
        return
    root = PurePosixPath("/root/folder")
    assert all((root / path).is_relative_to(root) and ".." not in path.split("/") for path in paths)
    assert len({path.casefold() for path in paths}) == len(paths)
    folders = {str(parent).casefold() for path in paths for parent in Path(path).parents}
    assert not folders & {path.casefold() for path in paths}


@given(st.dictionaries(st.text(min_size=1, max_size=40), st.integers(0, 9), max_size=6), st.booleans())
def test_an_honest_listing_is_read_back_within_its_limit(sizes: dict[str, int], escaped: bool) -> None:  # noqa: FBT001
    files = tuple(
        FileEntry(path=path, size_bytes=size, digest=digest_bytes(path.encode("utf-8", "replace")))
        for path, size in sorted(sizes.items())
    )
    record = make_record(Artifact(type="model", files=files, tensors=()))
    entries = {path: md5(path.encode("utf-8", "replace")) for path in (*sizes, LISTING)}
    rows = [{"md5": oid, "relpath": path} for path, oid in entries.items()]
    data = json.dumps(rows, ensure_ascii=escaped).encode("utf-8", "replace")
    try:
        check_paths(list(entries), where="listing")
    except InvalidError:
        return
    assert len(data) <= most_bytes(record)
    assert read_listing(data, f"{md5(data)}.dir", record, origin="here") == entries
