"""One repository built for all integration tests; a test that changes something takes a copy."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.team import MANIFEST, Team, write_data
from tests.yard import Yard, begin

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeModel


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> Team:
    """A repository with one base and one variant, committed and not yet built."""
    root = tmp_path_factory.mktemp("fresh") / "team"
    source = root / "sources" / "tiny"
    source.parent.mkdir(parents=True)
    shutil.copytree(make_model("llama", dtype="bfloat16", tied=True), source)
    team = Team(root=root)
    team.must("varietal", "init", ".", "--base", "tiny=sources/tiny")
    write_data(root)
    (root / "models" / "support").mkdir()
    (root / "models" / "support" / "model.yaml").write_text(MANIFEST)
    team.must("varietal", "compile")
    team.commit("Declare a variant")
    return team


@pytest.fixture(scope="session")
def built(fresh: Team, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """The same, built by a plain `dvc repro`, committed, its bytes on a local remote."""
    place = tmp_path_factory.mktemp("built")
    team = fresh.copy(place / "team")
    team.must("dvc", "remote", "add", "--quiet", "--default", "store", str(place / "remote"))
    team.must("dvc", "remote", "modify", "--quiet", "store", "verify", "true")
    team.must("dvc", "repro")
    team.commit("Build")
    team.must("dvc", "push", "--quiet", "--run-cache")
    return team


@pytest.fixture
def team(built: Team, tmp_path: Path) -> Team:
    """A copy of the built repository to change at will; the remote is shared."""
    return built.copy(tmp_path / "team")


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """An origin, its remotes and clones on plain git: main is built and released. Copy it."""
    return begin(tmp_path_factory.mktemp("begun") / "yard")


@pytest.fixture
def yard(begun: Yard, tmp_path: Path) -> Yard:
    """A copy of that to change at will."""
    return begun.copy(tmp_path / "yard")
