"""Which paths of a request count."""

from __future__ import annotations

import pytest

from builder.request.changes import Changed
from builder.request.names import collisions, home_of, part_of, problem_of, shown
from builder.request.plumbing import Entry
from builder.request.taken import MAX_DATA_BYTES, MAX_TAKEN_BYTES, looks_into, size_faults, sort_changes

ONE, TWO = Entry(mode="100644", oid="1" * 40), Entry(mode="100644", oid="2" * 40)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("params.yaml", "project"),
        ("models/support/model.yaml", "manifest"),
        ("data/a.jsonl", "data"),
        ("data/deep/er/a.jsonl", "data"),
        ("data/a.jsonl.dvc", "pointer"),
        ("dvc.yaml", "generated"),
        ("bases/dvc.yaml", "generated"),
        ("bases/dvc.lock", "generated"),
        ("bases/records/tiny.json", "generated"),
        ("models/support/dvc.yaml", "generated"),
        ("models/support/dvc.lock", "generated"),
        ("models/support/records/tone.json", "generated"),
        ("models/Support/dvc.yaml", "left"),
        ("models/support/records/deep/tone.json", "left"),
        ("models/support/deep/model.yaml", "left"),
        ("models/model.yaml", "left"),
        ("model.yaml", "left"),
        ("deep/params.yaml", "left"),
        ("data/params.yaml", "data"),
        ("data", "left"),
        ("data/dvc.yaml", "left"),
        ("data/Dvc.Lock", "left"),
        ("data/dvc.yaml/a.jsonl", "left"),
        ("data/a.dvc/b.jsonl", "left"),
        ("data/dvc.yaml.dvc", "left"),
        ("data/a.dvc.dvc", "left"),
        ("data/.a", "left"),
        ("data/.a/b", "left"),
        ("data/.dvc", "left"),
        ("Data/a.jsonl", "left"),
        ("bases/tiny/config.json", "left"),
        (".dvc/config", "left"),
    ],
)
def test_parts(path: str, part: str) -> None:
    assert part_of(path) == part


def test_homes() -> None:
    assert home_of("models/support/dvc.lock") == "models/support"
    assert home_of("bases/records/tiny.json") == "bases"
    assert [home_of(path) for path in ("models/support/dvc.yaml", "dvc.yaml", "models/support/model.yaml")] == [""] * 3


@pytest.mark.parametrize("path", ["data/a.jsonl", "models/a-1/model.yaml", "data/\u4e00 b,c.jsonl", "data/-x"])
def test_a_sound_name(path: str) -> None:
    assert problem_of(path) == ""


@pytest.mark.parametrize("path", ["data/a\n", "data/../a", "data//a", "data/a*", "models/A/model.yaml", "data/GIT~1. "])
def test_an_unsound_name(path: str) -> None:
    assert problem_of(path)


def test_what_collides() -> None:
    kept = ["data/a", "data/folder/b", "data/B", "data/b"]
    assert collisions(kept, ["data/c"]) == {}
    assert collisions(kept, ["data/A"]) == {"data/A": "data/a"}
    assert collisions(kept, ["data/folder"]) == {"data/folder": "data/folder/b"}
    assert collisions(kept, ["data/a/deep"]) == {"data/a/deep": "data/a"}
    assert collisions([], ["data/x", "data/X"]) == {"data/x": "data/X"}
    assert collisions([], ["data/\ufb01", "data/fi"]) == {"data/\ufb01": "data/fi"}
    assert collisions(kept, ["data/a"]) == {}


def test_a_name_is_shown_harmless() -> None:
    assert shown("data/a b") == "data/a b"
    assert shown("data/\x1b[2J\n\u202e") == r"'data/\x1b[2J\n\u202e'"


def test_what_is_walked() -> None:
    walked = ["data", "data/a/b/c/d", "models", "models/support", "models/support/records", "bases", ".dvc", ".github"]
    assert all(map(looks_into, walked))
    assert not any(map(looks_into, ["docs", "builder", "models/support/records/deep", "Data", ".git"]))


def test_changes_are_sorted() -> None:
    found = sort_changes(
        [
            Changed(path="data/new.jsonl", old=None, new=ONE),
            Changed(path="data/gone.jsonl", old=ONE, new=None),
            Changed(path="data/mode.jsonl", old=ONE, new=Entry(mode="100755", oid=ONE.oid)),
            Changed(path="models/support/model.yaml", old=ONE, new=TWO),
            Changed(path="models/support/dvc.lock", old=ONE, new=TWO),
            Changed(path="docs", old=Entry(mode="040000", oid="3"), new=Entry(mode="040000", oid="4")),
        ]
    )
    assert found.taken == {"data/new.jsonl": ONE.oid, "data/gone.jsonl": None, "models/support/model.yaml": TWO.oid}
    assert found.generated == ("models/support/dvc.lock",)
    assert found.left == ("docs",)
    assert found.faults == ()


def test_what_is_too_large() -> None:
    assert [*size_faults({"data/a": MAX_DATA_BYTES, "data/a.dvc": 1 << 14, "params.yaml": 1 << 20})] == []
    faults = size_faults({"data/a": MAX_DATA_BYTES + 1, "data/a.dvc": (1 << 14) + 1, "params.yaml": (1 << 20) + 1})
    assert [one.file for one in faults] == ["data/a", "data/a.dvc", "params.yaml"]
    many = {f"data/{number}": MAX_DATA_BYTES for number in range(MAX_TAKEN_BYTES // MAX_DATA_BYTES + 1)}
    assert [one.problem for one in size_faults(many)] == [
        f"{sum(many.values())} bytes in all, at most {1 << 30} are taken"
    ]
