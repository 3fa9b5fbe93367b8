"""A repository laid out where git and DVC are already; nothing of theirs is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.init import init
from registry.errors import ConflictError

if TYPE_CHECKING:
    from pathlib import Path

GITIGNORE = """\
# Bytes are kept by DVC; git keeps manifests, pipelines, locks and records.
/models/*/artifacts/
# `?*`, since DVC takes `/bases/*` for the folder itself, and then sees no pipeline in it.
/bases/?*
!/bases/dvc.yaml
!/bases/dvc.lock
!/bases/records/
/.varietal/
"""
DVCIGNORE = """\
# Work folders hold nothing of DVC's, and it would walk them at every command.
/.varietal/
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that git and DVC know, so that neither is called."""
    for name in (".git", ".dvc"):
        (tmp_path / "team" / name).mkdir(parents=True)
    return tmp_path / "team"


def test_what_is_ignored_is_written(root: Path) -> None:
    assert init(root, {})[-2:] == (".gitignore", ".dvcignore")
    assert (root / ".gitignore").read_text() == GITIGNORE
    assert (root / ".dvcignore").read_text() == DVCIGNORE


@pytest.mark.parametrize("own", ["*.pyc\n", "*.pyc"], ids=["whole line", "no newline"])
def test_what_is_ignored_already_stays(root: Path, own: str) -> None:
    (root / ".gitignore").write_text(own)
    (root / ".dvcignore").write_text(own)
    init(root, {})
    assert (root / ".gitignore").read_text() == f"*.pyc\n\n{GITIGNORE}"
    assert (root / ".dvcignore").read_text() == f"*.pyc\n\n{DVCIGNORE}"


def test_what_is_ignored_is_added_once(root: Path) -> None:
    (root / ".gitignore").write_text(f"*.pyc\n\n{GITIGNORE}*.log\n")
    (root / ".dvcignore").write_text(DVCIGNORE)
    assert init(root, {}) == ("params.yaml", "dvc.yaml", "bases/dvc.yaml", "models/README.md", "data/README.md")
    assert (root / ".gitignore").read_text() == f"*.pyc\n\n{GITIGNORE}*.log\n"
    assert (root / ".dvcignore").read_text() == DVCIGNORE


def test_a_file_that_is_there_is_a_conflict(root: Path) -> None:
    (root / "params.yaml").write_text("bases: {}\n")
    (root / ".gitignore").symlink_to("elsewhere")
    with pytest.raises(ConflictError) as caught:
        init(root, {})
    assert str(caught.value) == (
        "params.yaml, .gitignore: there already\n"
        f"  where: {root}\n"
        "  mend: take an empty folder, or remove them; nothing was written"
    )
    assert not (root / "dvc.yaml").exists()
    assert not (root / "elsewhere").exists()


def test_a_folder_within_a_git_repository_is_refused(root: Path) -> None:
    with pytest.raises(ConflictError) as caught:
        init(root / "models/team", {})
    assert str(caught.value) == (
        f"the folder is within the git repository {root}\n"
        f"  where: {root}/models/team\n"
        "  mend: run `varietal init` at its root, or take a folder outside of it; nothing was written"
    )
    assert not (root / "models").exists()
