"""DVC's lock: what DVC writes is read, what it would never write is refused."""

from __future__ import annotations

import pytest

from registry.errors import InvalidError, NotFoundError
from registry.lock import Lock, LockedFile, content_md5

MD5 = "0123456789abcdef0123456789abcdef"
TEXT = f"""\
schema: '2.0'
stages:
  tone:
    cmd: varietal run support tone
    deps:
    - path: data/tickets.jsonl
      hash: md5
      md5: {MD5}
      size: 12
    params:
      models/support/model.yaml:
        stages.tone:
          train: {{epochs: 2, learning_rate: 1e-4}}
      params.yaml:
        recipes.sft: 1
    outs:
    - path: models/support/artifacts/tone
      hash: md5
      md5: {MD5}.dir
      size: 4000000000
      nfiles: 3
    - path: models/support/artifacts/tone.json
      hash: md5
      md5: {MD5}
      size: 900
"""


def test_a_lock_as_dvc_writes_it() -> None:
    lock = Lock.parse(TEXT, where="dvc.lock")
    stage = lock.stages["tone"]
    assert stage.command == "varietal run support tone"
    assert stage.dependencies == {"data/tickets.jsonl": LockedFile(path="data/tickets.jsonl", md5=MD5, size_bytes=12)}
    assert stage.parameters == {
        "models/support/model.yaml": {"stages.tone": {"train": {"epochs": 2, "learning_rate": 1e-4}}},
        "params.yaml": {"recipes.sft": 1},
    }
    folder = lock.output("models/support/artifacts/tone")
    assert (folder.md5, folder.size_bytes, folder.is_folder) == (f"{MD5}.dir", 4_000_000_000, True)
    assert not lock.output("models/support/artifacts/tone.json").is_folder


def test_an_empty_lock_has_no_stages() -> None:
    assert Lock.parse("", where="x").stages == {}
    assert Lock.parse("schema: '2.0'\nstages: {}\n", where="x").stages == {}


def test_what_no_stage_gives() -> None:
    with pytest.raises(NotFoundError) as caught:
        Lock.parse(TEXT, where="models/support/dvc.lock").output("models/support/artifacts/other")
    assert str(caught.value) == (
        "no stage gives models/support/artifacts/other\n"
        "  where: models/support/dvc.lock\n"
        "  mend: build it with `dvc repro` and commit"
    )


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("'2.0'", "'1.0'", "schema: expected '2.0', got '1.0'"),
        ("size: 12", "size: -1", "stages.tone.deps[0].size: expected a whole number from 0, got -1"),
        ("size: 12", "size: true", "stages.tone.deps[0].size: expected a whole number from 0, got True"),
        ("size: 12", "other: 1", "stages.tone.deps[0].size: expected a whole number from 0, got None"),
        (f"md5: {MD5}\n", "md5: ABC\n", "stages.tone.deps[0].md5: expected 32 hexadecimal digits, got 'ABC'"),
        ("cmd: varietal run support tone", "cmd: [a]", "stages.tone.cmd: expected text, got ['a']"),
        ("- path: data/tickets.jsonl", "- path: 7", "stages.tone.deps[0].path: expected text, got 7"),
    ],
)
def test_a_lock_that_dvc_would_not_write(old: str, new: str, what: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Lock.parse(TEXT.replace(old, new, 1), where="dvc.lock")
    assert str(caught.value) == f"{what}\n  where: dvc.lock\n  mend: restore the lock from git, or run `dvc repro`"


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../b", "a\\b"])
def test_a_path_that_leaves_the_repository_is_refused(path: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Lock.parse(TEXT.replace("data/tickets.jsonl", path), where="dvc.lock")
    assert caught.value.what == f"{path!r} is no plain path inside a folder"
    assert caught.value.where == "dvc.lock: stages.tone.deps[0]"


@pytest.mark.parametrize("text", ["- a", "stages: 7\nschema: '2.0'", "schema: '2.0'\nstages: {a: 7}"])
def test_tables_where_tables_belong(text: str) -> None:
    with pytest.raises(InvalidError, match="expected a table"):
        Lock.parse(text, where="dvc.lock")


def test_dvcs_name_of_content() -> None:
    assert content_md5(b"") == "d41d8cd98f00b204e9800998ecf8427e"
