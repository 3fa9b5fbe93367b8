"""The lines of the workflows, run as a runner would run them, against a bare origin and remotes that are folders.

Actions are stood in for by git: a checkout is a clone, an uploaded file is looked at where it lies. What the steps need
of the event is given by name. The tool is not installed anew; it is this environment's.
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry import yaml12
from tests.team import Team

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.conftest import MakeModel

pytestmark = pytest.mark.slow

SUPPORT = """\
schema: 1
base: tiny
stages:
  final: {kind: cast, from: base, dtype: float32}
release: final
checks: []
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """A machine that runs jobs.

    Attributes:
        folder: Its workspace, which stays from job to job.
        origin: Where it clones from.
    """

    folder: Path
    origin: Path

    def run(self, workflow: str, job: str, event: Mapping[str, str]) -> list[str]:
        """Run the steps of a job; returns what each printed.

        Args:
            workflow: Text of the workflow.
            job: Name of the job.
            event: Value by expression; and of variables that every step has, by name with a ``$``.
        """
        found: Any = yaml12.load(workflow, "workflow").value
        described = found["jobs"][job]
        self.folder.mkdir(exist_ok=True)
        printed = []
        for step in described["steps"]:
            if "uses" in step:
                if "actions/checkout@" in step["uses"]:
                    self._check_out(step["with"], event)
                continue
            if "if" in step:
                assert step["if"] == "vars.VARIETAL_DESCRIBE == 'true'"
                continue
            variables = {**described.get("env", {}), **step.get("env", {})}
            values = {name: _filled(str(value), event) for name, value in variables.items()}
            values |= {name.removeprefix("$"): value for name, value in event.items() if name.startswith("$")}
            place = Team(root=self.folder / step.get("working-directory", "."))
            printed.append(self._step(place, step["run"], values))
        return printed

    def _step(self, place: Team, line: str, values: dict[str, str]) -> str:
        if "pip install" in line:
            return ""
        if "-m venv" in line:
            tool = place.root / ".varietal/tool"
            tool.parent.mkdir(exist_ok=True)
            if not tool.is_symlink():
                tool.symlink_to(Path(sys.executable).parent.parent)
            return ""
        answer = place.call("bash", "-e", "-c", line, **values)
        if answer.code:
            raise StepFailedError(line, answer.code, answer.out, answer.err)
        return answer.out

    def _check_out(self, options: Mapping[str, Any], event: Mapping[str, str]) -> None:
        target = self.folder / str(options.get("path", "."))
        ref = _filled(str(options.get("ref", "${{ github.sha }}")), event)
        place = Team(root=target)
        if not (target / ".git").exists():
            target.mkdir(exist_ok=True)
            place.must("git", "init", "--quiet", ".")
            place.must("git", "remote", "add", "origin", self.origin.as_uri())
        place.must("git", "fetch", "--quiet", "--force", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
        known = place.call("git", "rev-parse", "--verify", "--quiet", f"origin/{ref}").out.strip()
        place.must("git", "checkout", "--quiet", "--force", "--detach", known or ref)
        if options.get("clean", True):
            place.must("git", "clean", "-ffdxq")


class StepFailedError(Exception):
    """A step ended with another exit code than 0."""


def _filled(text: str, event: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{ (.+?) \}\}", lambda match: event[match[1]], text)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> Team:
    """A team's repository as `init` makes it, pushed; its remotes, and one for requests, are folders."""
    place = tmp_path_factory.mktemp("workflows")
    root = place / "team"
    shutil.copytree(make_model("llama", dtype="bfloat16", tied=True), root / "sources/tiny")
    team = Team(root=root)
    team.must("varietal", "init", ".", "--base", "tiny=sources/tiny", "--remote", str(place / "released"))
    team.must("dvc", "remote", "add", "--quiet", "quarantine", str(place / "quarantine"))
    team.commit("Begin")
    team.must("git", "init", "--quiet", "--bare", "--initial-branch=main", str(place / "origin.git"))
    team.must("git", "--git-dir", str(place / "origin.git"), "config", "uploadpack.allowAnySHA1InWant", "true")
    team.must("git", "remote", "add", "origin", str(place / "origin.git"))
    team.must("git", "push", "--quiet", "origin", "main")
    return team


def test_a_request_goes_from_plan_to_release(begun: Team, tmp_path: Path) -> None:
    origin = begun.root.parent / "origin.git"
    workflows = {path.stem: path.read_text() for path in (begun.root / ".github/workflows").glob("*.yml")}
    hosted = {
        name: Runner(folder=tmp_path / name, origin=origin) for name in ("plan", "check", "queue", "promote", "release")
    }
    machine = Runner(folder=tmp_path / "machine", origin=origin)
    token = {"github.token": "", "secrets.VARIETAL_TOKEN || github.token": ""}

    begun.must("git", "switch", "--quiet", "--create", "add-support")
    (begun.root / "models/support").mkdir()
    (begun.root / "models/support/model.yaml").write_text(SUPPORT)
    begun.must("varietal", "compile")
    begun.commit("Declare support")
    begun.must("git", "push", "--quiet", "origin", "add-support")
    request = begun.must("git", "rev-parse", "HEAD").out.strip()

    hosted["check"].run(workflows["check"], "check", {"github.sha": request})
    head = {"github.base_ref": "main", "github.event.pull_request.head.sha": request, **token}
    hosted["plan"].run(workflows["plan"], "plan", head)
    plan = (hosted["plan"].folder / "plan.md").read_text()
    assert "support:final" in plan or "`final`" in plan, plan
    with pytest.raises(StepFailedError) as unbuilt:
        hosted["check"].run(
            workflows["check"],
            "merge",
            {"github.sha": request, "$GITHUB_SHA": request, **_queue(begun, "main"), **token},
        )
    assert unbuilt.value.args[:2] == ("varietal plan --check", 1)

    built = {
        "github.event.repository.default_branch": "main",
        "inputs.request || github.event.workflow_run.head_sha": request,
        _branch_expression(workflows["build"]): "add-support",
        **token,
    }
    machine.run(workflows["build"], "build", built)
    assert not [path for path in (begun.root.parent / "released").rglob("*") if path.is_file()]
    machine.run(workflows["build"], "publish", built)
    begun.must("git", "pull", "--quiet", "origin", "add-support")
    assert begun.record("final").kind == "cast"
    assert (begun.root / "bases/dvc.lock").is_file()

    # The queue makes a commit of its own, and asks of it what will be main.
    begun.must("git", "switch", "--quiet", "main")
    begun.must("git", "merge", "--quiet", "--no-ff", "--message", "Merge", "add-support")
    begun.must("git", "push", "--quiet", "origin", "HEAD:refs/heads/queue")
    merged = begun.must("git", "rev-parse", "HEAD").out.strip()
    queue = {"github.sha": merged, "$GITHUB_SHA": merged, **_queue(begun, "HEAD~"), **token}
    hosted["queue"].run(workflows["check"], "merge", queue)

    begun.must("git", "push", "--quiet", "origin", "main")
    hosted["promote"].run(workflows["promote"], "promote", {"github.sha": merged})
    begun.must("git", "fetch", "--quiet", "origin")
    begun.must("varietal", "release", "support@v1.0.0")
    begun.must("varietal", "promote", "support@v1.0.0", "prod")
    begun.must("git", "push", "--quiet", "--tags", "origin")
    for tag in ("support@v1.0.0", "support#prod#1"):
        printed = hosted["release"].run(workflows["release"], "release", {"github.sha": merged, "github.ref_name": tag})
        assert "the tag support@v1.0.0 promises this record" in printed[-1]
    begun.must("varietal", "pull", "support#prod", str(tmp_path / "pulled"), "--repo", str(origin))


def _queue(team: Team, base: str) -> dict[str, str]:
    return {"github.event.merge_group.base_sha": team.must("git", "rev-parse", base).out.strip()}


def _branch_expression(workflow: str) -> str:
    found = re.search(r"BRANCH: \$\{\{ (.+) \}\}", workflow)
    assert found is not None
    return found[1]
