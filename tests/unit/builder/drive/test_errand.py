"""What the processes of a build are told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.drive.errand import Errand, errand_of
from builder.drive.noting import can_sign
from registry.errors import Error, InvalidError
from registry.progress_note import Scope
from tests.keys import make_key, public_line
from tests.repositories import git

if TYPE_CHECKING:
    from collections.abc import Callable

ERRAND = Errand(
    root=Path("/tree"),
    home=Path("/home"),
    remote="quarantine",
    kind="requests",
    commits=("a", "b"),
    base="c",
    signs=True,
)


def test_an_errand_goes_over_a_command_line() -> None:
    assert Errand.from_text(ERRAND.to_text()) == ERRAND
    assert ERRAND.scopes == (Scope(kind="requests", commit="a"), Scope(kind="requests", commit="b"))
    with pytest.raises(InvalidError):
        Errand.from_text("{}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "team"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    return root


def commit(root: Path, message: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    git(root, "add", "--all")
    git(root, *who, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(root, "rev-parse", "HEAD").strip()


def test_a_branch_goes_on_from_its_own_commits(root: Path) -> None:
    assert errand_of(root, None) == Errand(root=root, home=root)  # nothing is committed yet: there are no notes
    commits = [commit(root, str(number)) for number in range(40)]
    errand = errand_of(root, None)
    assert (errand.kind, errand.base) == ("branches", commits[-1])
    assert errand.commits == tuple(reversed(commits[-32:]))


def test_a_tree_of_a_request_that_is_built_by_hand_is_of_no_known_state(root: Path) -> None:
    commit(root, "Begin")
    (root / ".varietal").mkdir()
    state = (
        '{"schema": "varietal/request/2", "request": "a", "main": "b", "base": "c", "built": null, "commit": "d", '
        '"taken": [], "left": [], "generated": [], "builds": []}'
    )
    (root / ".varietal/request.json").write_text(state)
    assert errand_of(root, None) == Errand(root=root, home=root, kind="requests")


def test_what_was_merged_in_is_no_state_of_the_branch(root: Path) -> None:
    first = commit(root, "Begin")
    git(root, "checkout", "--quiet", "-b", "other")
    other = commit(root, "Elsewhere")
    git(root, "checkout", "--quiet", "main")
    second = commit(root, "Go on")
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    git(root, *who, "merge", "--quiet", "--no-edit", "other")
    errand = errand_of(root, None)
    assert errand.commits == (errand.base, second, first)
    assert other not in errand.commits


def sets(root: Path, key: str) -> None:
    """Write the setting of the runner."""
    (root / ".varietal").mkdir(exist_ok=True)
    (root / ".varietal/runner.yaml").write_text(f"progress_key: {key}\n")


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_key_that_main_names_signs(root: Path, tmp_path: Path, said: list[str]) -> None:
    """By its path from the root of the runner's repository, or any other."""
    key = make_key(root, "gpu")
    (root / "params.yaml").write_text(f"bases: {{}}\nrunners: {{branches: {{gpu-1: {public_line(key)}}}}}\n")
    commit(root, "Begin")
    errand = errand_of(root, None)
    assert not can_sign(errand, said.append)
    for path in ("gpu", str(key)):
        sets(root, path)
        assert can_sign(errand, said.append)
    assert said == []
    sets(root, str(make_key(tmp_path, "other")))
    assert not can_sign(errand, said.append)
    assert len(said) == 1
    assert said[0].startswith(
        "no progress note: runners.branches of params.yaml on the main branch does not name the key of this runner, "
        "SHA256:"
    )


def broken(folder: Path) -> str:
    (folder / "broken").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnothing\n")
    return str(folder / "broken")


def mixed(folder: Path) -> str:
    """Two halves that are not of one key."""
    key, other = make_key(folder, "one"), make_key(folder, "two")
    key.with_name("one.pub").write_text(other.with_name("two.pub").read_text())
    return str(key)


@pytest.mark.parametrize(
    ("make", "code"),
    [(lambda folder: str(folder / "none"), 2), (broken, 7), (mixed, 7)],
    ids=["none", "broken", "mixed"],
)
def test_a_key_that_cannot_sign_is_told_before_anything_is_computed(
    root: Path, tmp_path: Path, make: Callable[[Path], str], code: int
) -> None:
    commit(root, "Begin")
    sets(root, make(tmp_path))
    with pytest.raises(Error) as caught:
        can_sign(errand_of(root, None), lambda _: None)
    assert caught.value.exit_code == code
