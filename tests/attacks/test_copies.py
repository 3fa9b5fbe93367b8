"""What stages leave in the place of git's copies of records: nothing of it is run, followed or waited for."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from builder.drive.copies import put_back, with_copies
from builder.drive.errand import Errand, errand_of
from builder.drive.outcome import Outcome, Report
from builder.edges import Address
from builder.places import beside_of, copy_of
from builder.request.assembled import STATE_FILE
from registry.lock import content_md5
from registry.record import Record, curve_file
from tests.forge import Forge, write_built

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TONE = Address(variant="support", stage="tone")
COPY = copy_of(TONE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Errand:
    """A request that has been built, as the build knew it."""
    forge = Forge.make(tmp_path_factory.mktemp("copies"))
    forge.ask({"data/x.jsonl": "{}\n"})
    assembled = forge.assemble()
    write_built(assembled.root, "support", {"tone": b"one"})
    return errand_of(assembled.root, assembled)


@pytest.fixture
def errand(built: Errand, tmp_path: Path) -> Errand:
    """The same in a tree of its own."""
    shutil.copytree(built.root, tmp_path / "tree", symlinks=True)
    return replace(built, root=tmp_path / "tree")


def back(errand: Errand) -> tuple[list[tuple[str, int]], list[str]]:
    """What became of the copies, and what was said."""
    said: list[str] = []
    found = put_back(errand, [TONE], say=said.append)
    return [(one.became, one.exit_code) for one in found], said


def test_no_git_is_run_in_a_tree_that_says_it_is_no_request_s(
    errand: Errand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone that lacks objects fetches them, by a command that its own configuration names."""
    (tmp_path / "run").write_text(f'#!/bin/sh\necho "$BUILD_SECRET" > {tmp_path / "stolen"}\nexit 1\n')
    (tmp_path / "run").chmod(0o755)
    monkeypatch.setenv("BUILD_SECRET", "secret")
    root = errand.root
    (root / STATE_FILE).unlink()
    shutil.rmtree(root / ".git")
    (root / ".git/objects").mkdir(parents=True)
    (root / ".git/refs/heads").mkdir(parents=True)
    (root / ".git/HEAD").write_text("1" * 40 + "\n")
    (root / ".git/config").write_text(
        f"[core]\n\trepositoryformatversion = 1\n\tbare = false\n\tsshCommand = {tmp_path / 'run'}\n"
        '[extensions]\n\tpartialClone = evil\n[remote "evil"]\n\turl = ssh://x/y\n\tpromisor = true\n'
    )
    (root / COPY).unlink()
    (root / beside_of(TONE)).unlink()
    assert back(errand) == ([("restored", 0)], [f"{COPY} is put back, from the DVC cache"])
    assert not (tmp_path / "stolen").exists()


def pipe(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(outside / "file")


def with_pipe_to_write(path: Path, _: Path) -> None:
    path.write_bytes(b"")
    os.mkfifo(path.with_name(f".{path.name}.new"))


@pytest.mark.parametrize("lay", [pipe, link, with_pipe_to_write])
def test_what_is_no_plain_file_is_replaced(errand: Errand, tmp_path: Path, lay: Callable[[Path, Path], None]) -> None:
    path, outside = errand.root / COPY, tmp_path / "outside"
    outside.mkdir()
    right = path.read_bytes()
    (outside / "file").write_bytes(b"other")
    lay(path, outside)
    assert back(errand)[0] == [("restored", 0)]
    assert (path.is_symlink(), path.read_bytes()) == (False, right)
    assert (outside / "file").read_bytes() == b"other"


def folder(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


def file_above(path: Path, _: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"")


def link_above(path: Path, outside: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.symlink_to(outside)


def lock_pipe(path: Path, _: Path) -> None:
    lock = path.parent.parent / "dvc.lock"
    lock.unlink()
    os.mkfifo(lock)


@pytest.mark.parametrize("lay", [folder, file_above, link_above, lock_pipe])
def test_what_cannot_be_put_back_is_an_outcome_beside_the_others(
    errand: Errand, tmp_path: Path, lay: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    lay(errand.root / COPY, outside)
    ran = Outcome(address=TONE, became="ran")
    report = with_copies(errand, [TONE], Report(outcomes=(ran,), pushed=3), say=lambda _: None)
    assert (report.outcomes[0], report.pushed, report.exit_code) == (ran, 3, 4)
    assert [one.became for one in report.outcomes] == ["ran", "failed"]
    assert [*outside.iterdir()] == []


def test_a_full_disk_is_an_outcome_too(errand: Errand, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (errand.root / COPY).write_bytes(b"")
    monkeypatch.setattr("builder.drive.copies.write_file", full)
    (outcome,) = put_back(errand, [TONE], say=lambda _: None)
    assert (outcome.became, outcome.exit_code) == ("failed", 8)
    assert f"{COPY} cannot be put back: No space left on device" in outcome.reason


@pytest.mark.parametrize("with_copy", [True, False])
def test_a_torn_curve_is_made_anew_from_its_record(errand: Errand, *, with_copy: bool) -> None:
    root = errand.root
    before = (root / COPY).read_bytes()
    record = replace(Record.from_bytes(before, where=COPY), curve=("step\tloss", "1\t2.5"))
    lock = root / "models/support/dvc.lock"
    lock.write_text(lock.read_text().replace(content_md5(before), content_md5(record.to_bytes())))
    for path in (COPY, beside_of(TONE)):
        (root / path).write_bytes(record.to_bytes())
    curve = root / curve_file("support", "tone")
    for torn in ("<<<<<<< HEAD\n", None):
        if torn is None:
            curve.unlink()
        else:
            curve.write_text(torn)
        if not with_copy:
            (root / COPY).unlink()
        assert back(errand)[0] == [("restored", 0)]
        assert curve.read_text() == "step\tloss\n1\t2.5\n"
        assert (root / COPY).read_bytes() == record.to_bytes()
    assert back(errand) == ([], [])


def test_a_curve_of_no_record_goes(errand: Errand) -> None:
    path = errand.root / curve_file("support", "tone")
    path.write_bytes(b"<<<<<<< HEAD\n")
    assert back(errand) == ([("restored", 0)], [f"{curve_file('support', 'tone')} is put right, by {COPY}"])
    assert not path.exists()
    assert back(errand) == ([], [])
