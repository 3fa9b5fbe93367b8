"""A machine that builds hands over whatever it likes: nothing of it is taken but locks and records, by their names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from builder.request import handover
from builder.request.handover import take_over
from registry.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.request.assembled import Assembled

LOCK, RECORD = "models/support/dvc.lock", "models/support/records/final.json"


class Tree:
    """As much of an assembled tree as is looked at."""

    def __init__(self, root: Path) -> None:
        self.root = root


@pytest.fixture
def tree(tmp_path: Path) -> Assembled:
    home = tmp_path / "tree/models/support"
    (home / "records").mkdir(parents=True)
    (home / "model.yaml").write_text("schema: 1\n")
    (home / "dvc.lock").write_text("main's\n")
    (home / "records/gone.json").write_text("main's\n")
    return Tree(tmp_path / "tree")  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in (LOCK, RECORD):
        (tmp_path / "handed" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "handed" / path).write_text("built\n")
    return tmp_path / "handed"


def test_locks_and_records_take_the_place_of_those_that_were_there(tree: Assembled, folder: Path) -> None:
    assert take_over(tree, folder) == (LOCK, RECORD)
    assert (tree.root / LOCK).read_text() == (tree.root / RECORD).read_text() == "built\n"
    assert not (tree.root / "models/support/records/gone.json").exists()


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".dvc/config.local",
        ".varietal/request.json",
        "dvc.yaml",
        "models/support/dvc.yaml",
        "models/support/model.yaml",
        "models/other/dvc.lock",
        "models/support/records/a.json/dvc.lock",
        "models/support/records/.hidden.json",
        "data/rows.jsonl",
        "params.yaml",
    ],
)
def test_what_else_is_handed_over_ends_it(tree: Assembled, folder: Path, path: str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text("bad\n")
    check_refused(tree, folder, "neither a lock nor a record of a variant of this request")


def _link(folder: Path) -> None:
    (folder / RECORD).unlink()
    (folder / RECORD).symlink_to("/etc/hostname")


def _folder_link(folder: Path) -> None:
    (folder / "models/other").symlink_to(folder / "models/support")


def _pipe(folder: Path) -> None:
    (folder / RECORD).unlink()
    os.mkfifo(folder / RECORD)


@pytest.mark.parametrize("spoil", [_link, _folder_link, _pipe])
def test_what_is_no_plain_file_is_refused(tree: Assembled, folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    check_refused(tree, folder, "no plain file")


@pytest.mark.parametrize(
    ("limit", "problem"), [("_MOST_FILES", "more than 1 files"), ("_MOST_BYTES", "more than 1 bytes")]
)
def test_there_is_a_limit(
    tree: Assembled, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, problem: str
) -> None:
    monkeypatch.setattr(handover, limit, 1)
    check_refused(tree, folder, problem)


def test_nothing_is_no_hand_over(tree: Assembled, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(NotFoundError):
            take_over(tree, folder)


def check_refused(tree: Assembled, folder: Path, problem: str) -> None:
    with pytest.raises(InvalidError) as caught:
        take_over(tree, folder)
    assert caught.value.what == problem
    assert (tree.root / LOCK).read_text() == "main's\n"
    assert not (tree.root / RECORD).exists()
