"""The lines of the workflows, run as a runner would run them, against a bare origin and remotes that are folders.

Actions are stood in for by git and by copies: a checkout is a clone, an artifact a folder. `gh` is a script that writes
down what it is asked. Expressions are evaluated, from what the event and the steps before say. The tool is not
installed anew; it is this environment's.
"""

from __future__ import annotations

import os
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
  half: {kind: cast, from: base, dtype: float16}
release: final
checks: []
"""
WIDER = """\
  wide: {kind: cast, from: final, dtype: bfloat16}
release: wide"""
TOOL = f"varietal @ https://models.example.org/varietal-0.1.0-py3-none-any.whl#sha256={'0' * 64}"
GH = """\
#!/bin/sh
printf '%s\\n' "$*" >> "$GH_LOG"
case "$1 $2" in
"pr list") echo number=7 ;;
esac
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

    def run(self, workflow: str, job: str, event: Mapping[str, str]) -> dict[str, str]:
        """Run the steps of a job.

        Args:
            workflow: Text of the workflow.
            job: Name of the job.
            event: What expressions are made of, by name; and variables that every step has, by name with a ``$``.

        Returns:
            Outputs of the job by name, and what the steps printed as ``printed``.
        """
        found: Any = yaml12.load(workflow, "workflow").value
        described = found["jobs"][job]
        temporary = self.folder.with_name(f"{self.folder.name}-temp")
        for folder in (self.folder, temporary):
            folder.mkdir(exist_ok=True)
        known = {
            "github.server_url": self.origin.parent.as_uri(),
            "github.repository": self.origin.name,
            "runner.temp": str(temporary),
            **event,
        }
        own = {name: _filled(str(value), known) for name, value in described.get("env", {}).items()}
        known |= {f"env.{name}": value for name, value in own.items()}
        printed = ""
        for step in described["steps"]:
            if not _evaluated(step.get("if", "true").removeprefix("${{").removesuffix("}}"), known):
                continue
            if "uses" in step:
                known |= self._use(step, known)
                continue
            values = own | {name: _filled(str(value), known) for name, value in step.get("env", {}).items()}
            values |= {name.removeprefix("$"): value for name, value in event.items() if name.startswith("$")}
            values |= {"RUNNER_TEMP": str(temporary), "GITHUB_OUTPUT": str(temporary / "output")}
            (temporary / "output").write_text("")
            outcome = "success"
            try:
                printed += self._step(step["run"], values)
            except StepFailedError:
                if not step.get("continue-on-error"):
                    raise
                outcome = "failure"
            rows = [line.partition("=") for line in (temporary / "output").read_text().splitlines()]
            known |= {f"steps.{step.get('id')}.outputs.{name}": value for name, _, value in rows}
            known[f"steps.{step.get('id')}.outcome"] = outcome
        outputs = {name: _filled(value, known) for name, value in described.get("outputs", {}).items()}
        return {**outputs, "printed": printed}

    def _step(self, line: str, values: dict[str, str]) -> str:
        place = Team(root=self.folder)
        if "pip install" in line:
            return ""
        if "-m venv" in line:
            tool = place.root / ".varietal/tool"
            tool.parent.mkdir(exist_ok=True)
            if not tool.is_symlink():
                tool.symlink_to(Path(sys.executable).parent.parent)
            return ""
        gh = self.origin.parent / "bin"
        path = os.pathsep.join([str(gh), str(Path(sys.executable).parent), os.environ["PATH"]])
        answer = place.call("bash", "-e", "-c", line, **{"PATH": path, "GH_LOG": str(gh / "log"), **values})
        if answer.code:
            raise StepFailedError(line, answer.code, answer.out, answer.err)
        return answer.out

    def _use(self, step: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
        """Stand in for an action; what it puts out."""
        options = {name: _filled(str(value), known) for name, value in step["with"].items()}
        kept = self.origin.parent / "artifacts" / options.get("name", "")
        if "actions/checkout@" in step["uses"]:
            self._check_out(options.get("ref") or known["github.sha"], clean=options.get("clean") != "False")
        elif "upload-artifact@" in step["uses"]:
            shutil.rmtree(kept, ignore_errors=True)
            patterns = options["path"].splitlines()
            found = [path for pattern in patterns for path in self.folder.glob(pattern) if path.is_file()]
            # As the action does: from the folder that all patterns have in common, before their first star.
            roots = [str(self.folder / pattern.partition("*")[0].rpartition("/")[0]) for pattern in patterns]
            for path in found:
                target = kept / path.relative_to(os.path.commonpath(roots))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
            return {f"steps.{step.get('id')}.outputs.artifact-id": "1" if found else ""}
        elif "download-artifact@" in step["uses"]:
            shutil.copytree(kept, self.folder / options.get("path", "."), dirs_exist_ok=True)
        return {}

    def _check_out(self, ref: str, *, clean: bool) -> None:
        place = Team(root=self.folder)
        if not (self.folder / ".git").exists():
            place.must("git", "init", "--quiet", ".")
            place.must("git", "remote", "add", "origin", self.origin.as_uri())
        place.must("git", "fetch", "--quiet", "--force", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
        known = place.call("git", "rev-parse", "--verify", "--quiet", f"origin/{ref}").out.strip()
        place.must("git", "checkout", "--quiet", "--force", "--detach", known or ref)
        if clean:
            place.must("git", "clean", "-ffdxq")


class StepFailedError(Exception):
    """A step ended with another exit code than 0."""


def _filled(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{ (.+?) \}\}", lambda match: str(_evaluated(match[1], known)), text)


def _evaluated(text: str, known: Mapping[str, str]) -> object:
    """The value of an expression; its operators mean what Python's do."""
    words = re.sub(r"!(?!=)", " not ", text.strip().replace("&&", " and ").replace("||", " or "))
    parts = re.split(r"('[^']*')", words)
    names = [
        part
        if part.startswith("'")
        else re.sub(r"\b[a-z]+(?:\.[\w-]+)+", lambda match: f"known.get({match[0]!r}, '')", part)
        for part in parts
    ]
    offered = {
        "known": known,
        "cancelled": lambda: False,
        "true": True,
        "format": lambda form, *words: form.format(*words),
    }
    return eval("".join(names).strip(), offered)  # noqa: S307 - text of our own templates


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> Team:
    """A team's repository as `init` makes it, pushed; its remotes, and one for requests, are folders."""
    place = tmp_path_factory.mktemp("workflows")
    root = place / "team"
    shutil.copytree(make_model("llama", dtype="bfloat16", tied=True), root / "sources/tiny")
    team = Team(root=root)
    released = str(place / "released")
    team.must("varietal", "init", ".", "--base", "tiny=sources/tiny", "--remote", released, "--tool", TOOL)
    team.must("dvc", "remote", "add", "--quiet", "quarantine", str(place / "quarantine"))
    team.commit("Begin")
    team.must("git", "init", "--quiet", "--bare", "--initial-branch=main", str(place / "origin.git"))
    team.must("git", "--git-dir", str(place / "origin.git"), "config", "uploadpack.allowAnySHA1InWant", "true")
    # As for a job whose token only reads: what was built for merged requests is not cleared away by it.
    team.must("git", "--git-dir", str(place / "origin.git"), "config", "receive.denyDeletes", "true")
    team.must("git", "remote", "add", "origin", str(place / "origin.git"))
    team.must("git", "push", "--quiet", "origin", "main")
    (place / "bin").mkdir()
    (place / "bin/gh").write_text(GH)
    (place / "bin/gh").chmod(0o755)
    return team


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """A team, its origin, and machines for its workflows."""

    team: Team
    folder: Path

    @property
    def place(self) -> Path:
        return self.team.root.parent

    def text(self, workflow: str) -> str:
        return (self.team.root / f".github/workflows/{workflow}.yml").read_text()

    def hosted(self, workflow: str, job: str, **event: str) -> dict[str, str]:
        """Run a job on a machine that is thrown away after it."""
        folder = self.folder / f"{workflow}-{job}-{len([*self.folder.iterdir()])}"
        return Runner(folder=folder, origin=self.place / "origin.git").run(self.text(workflow), job, event)

    def build(self, event: dict[str, str]) -> dict[str, str]:
        """Run the build on the machine that stays."""
        machine = Runner(folder=self.folder / "machine", origin=self.place / "origin.git")
        return machine.run(self.text("build"), "build", event)

    def asked_of_gh(self) -> list[str]:
        """What was asked since this was last called."""
        lines = (self.place / "bin/log").read_text().splitlines()
        (self.place / "bin/log").unlink()
        return lines

    def head(self) -> str:
        return self.team.must("git", "rev-parse", "HEAD").out.strip()

    def declare(self, branch: str, **texts: str) -> str:
        """Push a request that writes manifests of these variants; its commit."""
        self.team.must("git", "switch", "--quiet", "--create", branch)
        for variant, text in texts.items():
            (self.team.root / f"models/{variant}").mkdir(exist_ok=True)
            (self.team.root / f"models/{variant}/model.yaml").write_text(text)
        self.team.must("varietal", "compile")
        self.team.commit(f"Declare {', '.join(texts)}")
        self.team.must("git", "push", "--quiet", "origin", branch)
        return self.head()

    def build_and_publish(self, request: str, branch: str, main: str) -> str:
        """Let a request be built; the commit that was published."""
        event = {
            **event_of(request, main),
            "github.event.workflow_run.head_repository.full_name": "origin.git",
            "github.event.workflow_run.head_branch": branch,
        }
        assert self.build(event)["built"] == "1"
        published = self.hosted("build", "publish", **event)["commit"]
        self.team.must("git", "pull", "--quiet", "origin", branch)
        assert self.head() == published
        return published


def event_of(request: str, main: str) -> dict[str, str]:
    """What main's workflows are told when a workflow of a request has ended."""
    return {
        "github.sha": main,
        "$GITHUB_SHA": main,
        "$GITHUB_REPOSITORY": "acme/models",
        "github.event.workflow_run.head_sha": request,
        "github.event.workflow_run.event": "pull_request",
    }


def test_a_request_goes_from_plan_to_release(begun: Team, tmp_path: Path) -> None:
    loop = Loop(team=begun, folder=tmp_path)
    main = loop.head()
    request = loop.declare("add-support", support=SUPPORT)
    _plan(loop, request, main)

    published = loop.build_and_publish(request, "add-support", main)
    assert begun.record("final").kind == "cast"
    assert (begun.root / "bases/dvc.lock").is_file()
    assert not [path for path in (loop.place / "released").rglob("*") if path.is_file()]
    _judge(loop, published, main)
    merged = _merge(loop, main)
    _promote(loop, main)
    _release(loop)

    # Another request on what was released, on a machine that has nothing of it; quarantine forgot it, too.
    shutil.rmtree(tmp_path / "machine")
    shutil.rmtree(loop.place / "quarantine")
    request = loop.declare("widen-support", support=SUPPORT.replace("release: final", WIDER))
    published = loop.build_and_publish(request, "widen-support", loop.team.must("git", "rev-parse", "main").out.strip())
    assert merged != published
    assert begun.record("wide").kind == "cast"


def _plan(loop: Loop, request: str, main: str) -> None:
    loop.hosted("check", "check", **{"github.sha": request})
    loop.hosted("plan", "plan", **{"github.base_ref": "main", "github.event.pull_request.head.sha": request})
    plan = (loop.place / "artifacts/plan/plan.md").read_text()
    assert "support:final" in plan or "`final`" in plan, plan
    loop.hosted("comment", "comment", **event_of(request, main))
    asked = loop.asked_of_gh()
    assert asked[0].startswith("pr list --repo acme/models --base main")
    assert asked[-1] == "api --silent --method POST repos/acme/models/issues/7/comments --field body=@comment.md"
    queue = {"github.event.merge_group.base_sha": main}
    with pytest.raises(StepFailedError) as unbuilt:
        loop.hosted("check", "merge", **{"github.sha": request, "$GITHUB_SHA": request, **queue})
    assert unbuilt.value.args[:2] == ("varietal plan --check", 1)
    judged = loop.hosted("gate", "judge", **event_of(request, main))
    assert (judged["state"], judged["words"]) == ("failure", "the gate says no")


def _judge(loop: Loop, published: str, main: str) -> None:
    event = {"needs.publish.outputs.commit": published, "$GITHUB_REPOSITORY": "acme/models"}
    loop.hosted("build", "gate", **event)
    assert loop.asked_of_gh() == [
        f"workflow run gate.yml --repo acme/models --ref main --raw-field request={published}"
    ]
    asked = {**event_of("", main), "inputs.request": published}
    judged = loop.hosted("gate", "judge", **asked)
    assert (judged["state"], judged["words"]) == ("success", "passed")
    told = {f"needs.judge.outputs.{name}": judged[name] for name in ("state", "words")}
    loop.hosted("gate", "tell", **asked, **told)
    first = loop.asked_of_gh()[0]
    assert first.startswith(f"api --silent --method POST repos/acme/models/statuses/{published} ")
    assert "context=varietal/gate --raw-field state=success --raw-field description=passed" in first

    loop.team.must("git", "switch", "--quiet", "--create", "add-workflow")
    (loop.team.root / ".github/workflows/ours.yml").write_text("on: pull_request\n")
    loop.team.commit("A workflow of our own")
    loop.team.must("git", "push", "--quiet", "origin", "add-workflow")
    sly = {**asked, "inputs.request": loop.head()}
    assert loop.hosted("gate", "judge", **sly)["state"] == "failure"
    assert loop.hosted("gate", "judge", **{**sly, "inputs.reviewed": "true"})["state"] == "success"


def _merge(loop: Loop, main: str) -> str:
    """The queue makes a commit of its own, and asks of it what will be main."""
    loop.team.must("git", "switch", "--quiet", "main")
    loop.team.must("git", "merge", "--quiet", "--no-ff", "--message", "Merge", "add-support")
    loop.team.must("git", "push", "--quiet", "origin", "HEAD:refs/heads/queue")
    merged = loop.head()
    queue = {"github.event.merge_group.base_sha": main}
    loop.hosted("check", "merge", **{"github.sha": merged, "$GITHUB_SHA": merged, **queue})
    queued = {
        **event_of(merged, main),
        "github.event.workflow_run.event": "merge_group",
        "github.event.workflow_run.head_branch": f"gh-readonly-queue/main/pr-7-{main}",
    }
    assert loop.hosted("gate", "judge", **queued)["state"] == "success"
    return merged


def _promote(loop: Loop, before: str) -> None:
    """The run of the merge never comes, since another one waits behind it: that one promotes what both name."""
    loop.team.must("git", "rm", "--quiet", "-r", "models/support")
    loop.team.commit("Remove support")
    loop.team.must("git", "push", "--quiet", "origin", "main")
    push = {**event_of("", loop.head()), "github.event.before": before}
    assert "support:final is on the default remote" in loop.hosted("promote", "promote", **push)["printed"]
    origin = ("git", "--git-dir", str(loop.place / "origin.git"))
    kept = (*origin, "for-each-ref", "--format=%(refname)", "refs/heads/varietal")
    assert loop.team.must(*kept).out == "refs/heads/varietal/built/add-support\n"
    loop.team.must(*origin, "config", "receive.denyDeletes", "false")  # the token of that job writes
    assert loop.hosted("retire", "retire", **push)["printed"] == "varietal/built/add-support\n"
    assert loop.team.must(*kept).out == ""
    loop.team.must("git", "revert", "--no-edit", "HEAD")
    loop.team.must("git", "push", "--quiet", "origin", "main")


def _release(loop: Loop) -> None:
    loop.team.must("git", "fetch", "--quiet", "origin")
    loop.team.must("varietal", "release", "support@v1.0.0")
    loop.team.must("varietal", "promote", "support@v1.0.0", "prod")
    loop.team.must("git", "push", "--quiet", "--tags", "origin")
    for tag in ("support@v1.0.0", "support#prod#1"):
        ref = loop.hosted("release", "ref", **{"github.event.workflow_run.head_branch": tag})["ref"]
        assert ref == tag.removesuffix("#1")
        known = {"needs.ref.outputs.ref": ref, "github.event.repository.default_branch": "main"}
        assert "the tag support@v1.0.0 promises this record" in loop.hosted("release", "release", **known)["printed"]
    loop.team.must(
        "varietal", "pull", "support#prod", str(loop.folder / "pulled"), "--repo", str(loop.place / "origin.git")
    )


def test_what_no_file_can_give_is_told_and_nothing_is_installed_before_it_is_said_from_where(
    begun: Team, tmp_path: Path
) -> None:
    team = Team(root=tmp_path)
    said = team.must("varietal", "init", ".", "--ci", "github", "--ci", "gitlab").err
    assert "OWNER/REPOSITORY/.github/workflows/build.yml@refs/heads/main" in said
    assert "require approval for all outside collaborators" in said
    assert "mark it protected" in said
    line = re.findall(r"run: (awk .*)", (tmp_path / ".github/workflows/check.yml").read_text())[0]
    answer = team.call("sh", "-e", "-c", line)
    assert (answer.code, answer.out) == (
        1,
        "write into requirements.txt where varietal comes from, as the comment in it says\n",
    )
    begun.must("sh", "-e", "-c", line)


def test_only_protected_channels_are_renewed(begun: Team, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("channels: {prod: {promoters: {}}}\n")
    (tmp_path / "list.json").write_text('[{"variant": "support", "channels": {"prod": "v1.0.0", "beta": "v1.0.0"}}]')
    (line,) = re.findall(r"run: (python -c .*)", (begun.root / ".github/workflows/renew.yml").read_text())
    Team(root=tmp_path).must("sh", "-e", "-c", line)
    assert (tmp_path / "channels.txt").read_text() == "support#prod\n"
