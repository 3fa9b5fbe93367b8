"""Progress notes when their work is published: those of all its commits go, and no others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.request.forget import forget_notes
from registry.progress_note import Scope, scope_folder
from tests.forge import Forge
from tests.keys import make_key, public_line
from tests.repositories import git

if TYPE_CHECKING:
    from pathlib import Path

    from registry.runners import BuildKind


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    """Main names a runner of either kind."""
    forge = Forge.make(tmp_path)
    key = public_line(make_key(tmp_path, "gpu-1"))
    rules = json.dumps({kind: {"gpu-1": key} for kind in ("requests", "branches")})
    forge.main({"params.yaml": (forge.runner / "params.yaml").read_text() + f"runners: {rules}\n"})
    git(forge.author, "pull", "--quiet", "--rebase", "origin", "main")
    return forge


def lay(forge: Forge, remote: str, kind: BuildKind, *commits: str) -> None:
    for commit in commits:
        folder = forge.runner.parent / remote / scope_folder(Scope(kind=kind, commit=commit))
        folder.mkdir(parents=True)
        (folder / f"{'0' * 64}.json").write_text("a note")


def left(forge: Forge, remote: str, kind: BuildKind) -> set[str]:
    place = forge.runner.parent / remote / scope_folder(Scope(kind=kind, commit=""))
    return {path.parent.name for path in place.glob("*/*.json")}


def forget(forge: Forge, remote: str, kind: BuildKind, commit: str) -> list[str]:
    said: list[str] = []
    forget_notes(forge.repository, remote, Scope(kind=kind, commit=commit), said.append)
    return said


def test_those_of_earlier_states_of_a_request_go_too(forge: Forge) -> None:
    main = forge.repository.resolve("origin/main")
    commits = [forge.ask({"data/x.jsonl": "{}\n" * number}) for number in range(1, 4)]
    git(forge.author, "checkout", "--quiet", "-B", "wish", "origin/main")
    other = forge.ask({"data/y.jsonl": "{}\n"})
    lay(forge, "quarantine", "requests", *commits, other, main)
    lay(forge, "quarantine", "branches", commits[0])
    assert forget(forge, "quarantine", "requests", commits[1]) == []
    assert left(forge, "quarantine", "requests") == {commits[2], other, main}
    assert left(forge, "quarantine", "branches") == {commits[0]}


def test_those_of_a_branch_lie_where_its_runner_sends_to(forge: Forge) -> None:
    """`publish` sends to the default remote, the build before it sent to the one of `push:`."""
    git(forge.runner, "pull", "--quiet")
    local = forge.runner / ".dvc/config.local"
    local.write_text(f"['remote \"fast\"']\n    url = {forge.runner.parent / 'fast'}\n")
    (forge.runner / ".varietal").mkdir(exist_ok=True)
    (forge.runner / ".varietal/runner.yaml").write_text("push: fast\n")
    before, head = (git(forge.runner, "rev-parse", one).strip() for one in ("HEAD~", "HEAD"))
    branch = forge.ask({"data/x.jsonl": "{}\n"})
    for remote in ("store", "fast"):
        lay(forge, remote, "branches", before, head, branch)
    assert forget(forge, "", "branches", branch) == []
    for remote in ("store", "fast"):
        assert left(forge, remote, "branches") == {before, head}, "main may be in the middle of its build"
    assert forget(forge, "", "branches", head) == []
    for remote in ("store", "fast"):
        assert left(forge, remote, "branches") == set()


def test_a_remote_that_refuses_is_told_and_the_other_is_cleared(forge: Forge) -> None:
    git(forge.runner, "pull", "--quiet")
    (forge.runner / ".varietal").mkdir(exist_ok=True)
    (forge.runner / ".varietal/runner.yaml").write_text("push: store\n")
    head = git(forge.runner, "rev-parse", "HEAD").strip()
    lay(forge, "store", "branches", head)
    (said,) = forget(forge, "nowhere", "branches", head)
    assert said.startswith(f"progress notes of commit {head[:12]} and before stay: ")
    assert left(forge, "store", "branches") == set()
