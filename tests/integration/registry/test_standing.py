"""What a manifest says of its variant's standing, in a work tree and in a bare copy; a broken one says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from registry.history import Repository
from registry.standing import Standing, read_standing, standing
from tests.repositories import Team, git

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schema: 1\n", Standing()),
        ("deprecated: use other\n", Standing(deprecated="use other")),
        ("formerly: [one, two]\n", Standing(formerly=("one", "two"))),
        ("formerly: [one, ../two, 3, sha256]\ndeprecated: [x]\n", Standing(formerly=("one",))),
        ("deprecated: x\ndeprecated: y\n", Standing()),  # a key twice
        ("- deprecated\n", Standing()),
        ("deprecated: [\n", Standing()),
        ("# deprecated\nschema: 1\n", Standing()),
    ],
)
def test_what_a_manifest_says(text: str, expected: Standing) -> None:
    assert read_standing(text.encode()) == expected


def test_a_bare_copy_reads_its_main_branch(tmp_path: Path) -> None:
    team = Team.make(tmp_path / "team")
    path = team.root / "models/support/model.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("schema: 1\n")
    team.commit("Declare")
    path.write_text("schema: 1\ndeprecated: use other\n")
    assert standing(team.repository, "support").deprecated == "use other"
    git(tmp_path, "clone", "--quiet", "--bare", str(team.root), str(tmp_path / "bare"))
    bare = Repository(tmp_path / "bare", bare=True)
    assert standing(bare, "support") == Standing()
    team.commit("Deprecate")
    git(tmp_path / "bare", "fetch", "--quiet", "origin", "main:main")
    assert standing(bare, "support").deprecated == "use other"
    assert standing(bare, "gone") == Standing()
