"""What may lie in a request's tree beside its commit."""

from __future__ import annotations

import pytest

from builder.request.stays import is_kept_whole, stays

TRACKED = frozenset({"data/x.jsonl.dvc", "data/set.dvc", "models/calm/model.yaml"})


@pytest.mark.parametrize(
    "path",
    [
        "models/calm/dvc.lock",
        "models/calm/records/tone.json",
        "models/calm/records/.tone.json.new",
        "models/calm/artifacts/final/model.safetensors",
        "models/calm/artifacts/final.json",
        "bases/dvc.lock",
        "bases/tiny/config.json",
        "bases/tiny.json",
        "data/x.jsonl",
        "data/set/deep/y.jsonl",
        ".dvc/config.local",
    ],
)
def test_what_builds_leave_stays(path: str) -> None:
    assert stays(path, TRACKED, is_link=False)


@pytest.mark.parametrize(
    "path",
    [
        "models/evil/model.yaml",
        "models/calm/deep/dvc.yaml",
        "models/calm/artifacts/final/dvc.yaml",
        "models/calm/artifacts/final/x.DVC",
        "bases/tiny/.dvcignore",
        "bases/dvc.yaml2",
        "data/other.jsonl",
        "data/other.jsonl.dvc",
        "data/set/dvc.lock",
        ".dvc/config",
        ".dvc/plugins/x.py",
        ".gitattributes",
        "sitecustomize.py",
    ],
)
def test_all_else_goes(path: str) -> None:
    assert not stays(path, TRACKED, is_link=False)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("models/calm/dvc.lock", False),
        ("models/calm/records/tone.json", False),
        (".dvc/config.local", False),
        ("data/x.jsonl", True),
        ("models/calm/artifacts/final/model.safetensors", True),
    ],
)
def test_links_stay_where_dvc_makes_them(path: str, kept: bool) -> None:  # noqa: FBT001
    assert stays(path, TRACKED, is_link=True) is kept


def test_whole_folders() -> None:
    assert [one for one in (".git", ".varietal", ".dvc", ".dvc/tmp", "data/.git") if is_kept_whole(one)] == [
        ".git",
        ".varietal",
        ".dvc/tmp",
    ]
