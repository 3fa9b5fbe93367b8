"""Workflows, our own and those that `varietal init` writes: least rights, pinned actions, one call a step."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from builder.cli import app
from builder.start.workflows import own_workflows, workflow_texts
from registry import yaml12

_ROOT: Final = Path(__file__).resolve().parents[2]
_TEXTS: Final = {
    **{f"init:{path}": text for path, text in workflow_texts(["github"]).items()},
    **{str(path.relative_to(_ROOT)): path.read_text() for path in sorted((_ROOT / ".github/workflows").glob("*.yml"))},
}
_GITLAB: Final = workflow_texts(["gitlab"])[".gitlab-ci.yml"]
_RIGHTS: Final = {
    ("check", "check"): {"contents": "read"},
    ("check", "merge"): {"contents": "read"},
    ("plan", "plan"): {"contents": "read"},
    ("comment", "comment"): {"actions": "read", "pull-requests": "write"},
    ("build", "build"): {"contents": "read"},
    ("build", "publish"): {"contents": "write"},
    ("promote", "promote"): {"contents": "read"},
    ("release", "release"): {"contents": "read"},
}
_SECRETS: Final = {("build", "publish"): {"VARIETAL_TOKEN"}, ("release", "release"): {"VARIETAL_RELEASE_KEY"}}
_COMMANDS: Final[Any] = typer.main.get_command(app)

every_workflow = pytest.mark.parametrize("path", _TEXTS)


def document(path: str) -> dict[str, Any]:
    value = yaml12.load(_TEXTS[path], path).value
    assert isinstance(value, dict)
    return value


def steps(path: str) -> list[tuple[str, dict[str, Any]]]:
    """Every step with the name of its job."""
    return [(name, step) for name, job in document(path)["jobs"].items() for step in job["steps"]]


def test_those_of_this_repository_are_what_the_templates_say() -> None:
    for path, text in own_workflows().items():
        assert (_ROOT / path).read_text() == text, "run `python -m builder.start.workflows`"


@every_workflow
def test_a_workflow_starts_without_rights_and_each_job_has_the_least(path: str) -> None:
    found = document(path)
    assert found["permissions"] == {}
    for name, job in found["jobs"].items():
        assert job["permissions"] == _RIGHTS[found["name"], name]
        assert job["timeout-minutes"] > 0
    assert found["concurrency"]["group"].startswith(found["name"])


@every_workflow
def test_actions_are_pinned_and_keep_no_token(path: str) -> None:
    lines = [line.strip() for line in _TEXTS[path].splitlines() if "uses:" in line]
    assert [
        line for line in lines if re.fullmatch(r"- uses: actions/[\w-]+@[0-9a-f]{40} # v[\d.]+", line) is None
    ] == []
    for _, step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
            assert step["with"]["fetch-depth"] == 0


@every_workflow
def test_a_step_is_one_call_and_takes_no_word_of_others_into_its_text(path: str) -> None:
    for _, step in steps(path):
        assert ("run" in step) != ("uses" in step)
        if "run" in step:
            check_one_call(step["run"])
            assert "${{" not in step["run"]
            for word in re.findall(r"\$(\w+)|\$\{(\w+)", step["run"]):
                assert re.search(rf'"[^"]*\$\{{?{"".join(word)}[^"]*"', step["run"]), "a variable without quotes"


@every_workflow
def test_secrets_are_where_nothing_of_a_request_is_built(path: str) -> None:
    found = document(path)
    for name, job in found["jobs"].items():
        text = str(job)
        used = {*re.findall(r"secrets\.(\w+)", text)}
        assert used == _SECRETS.get((found["name"], name), set())
        if used or "write" in job["permissions"].values():
            assert not any(
                "actions/checkout@" in step.get("uses", "") and "request" in str(step) for step in job["steps"]
            )
            assert not any(
                re.search(r"varietal (?:build|run|plan)|dvc |pip .*request", step.get("run", ""))
                for step in job["steps"]
            )


@every_workflow
def test_what_a_request_controls_has_nothing_to_take(path: str) -> None:
    """On `pull_request` the workflow itself is the request's; on `workflow_run` it is main's, and so is what is run."""
    found = document(path)
    if "pull_request" in found["on"]:
        assert "secrets." not in _TEXTS[path]
        assert all("write" not in job["permissions"].values() for job in found["jobs"].values())
        assert all("self-hosted" not in job["runs-on"] for job in found["jobs"].values())
    assert "pull_request_target" not in found["on"]
    for _, step in steps(path):
        assert step.get("working-directory") != "request"
        assert not re.search(r"(?:^|[ ./])request/", step.get("run", "").replace("../request ", ""))


@every_workflow
def test_a_runner_of_ours_waits_for_approval(path: str) -> None:
    for name, job in document(path)["jobs"].items():
        if "self-hosted" in job["runs-on"]:
            assert job["environment"] == name


@every_workflow
def test_the_tool_has_every_verb_and_option_that_is_called(path: str) -> None:
    for _, step in steps(path):
        check_call(step.get("run", ""))


def gitlab_jobs() -> dict[str, dict[str, Any]]:
    value = yaml12.load(_GITLAB, ".gitlab-ci.yml").value
    assert isinstance(value, dict)
    settings = {"workflow", "default", "variables"}
    return {name: job for name, job in value.items() if name not in settings and not name.startswith(".")}


def test_gitlab_has_the_same_jobs() -> None:
    jobs = gitlab_jobs()
    assert [*jobs] == ["check", "plan", "merge", "build", "publish", "promote", "release"]
    for job in jobs.values():
        for line in (*job.get("before_script", ()), *job["script"]):
            if "DESCRIPTOR_KEY" not in line:
                check_one_call(line)
            check_call(line)


def test_gitlab_runs_what_has_rights_on_protected_refs_alone() -> None:
    jobs = gitlab_jobs()
    for name in ("build", "publish", "promote"):
        assert [rule["if"].partition(" && ")[0] for rule in jobs[name]["rules"]] == [
            "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"
        ]
    assert [*jobs["release"]["rules"][0]] == ["if"]
    for name in ("check", "plan", "merge"):
        assert "TOKEN" not in str(jobs[name])
        assert "tags" not in jobs[name]
    assert jobs["publish"]["variables"]["GIT_STRATEGY"] == "none"
    assert "PUBLISH_TOKEN" not in str(jobs["build"])


def check_one_call(line: str) -> None:
    """One program with its arguments; a file may take what it prints or give what it reads."""
    words = [*shlex.shlex(line, posix=True, punctuation_chars=True)]
    assert not {";", "&&", "||", "|", "&", "\n"} & {*words}, line
    assert "\n" not in line.strip()


def check_call(line: str) -> None:
    """The verb and the options of a call of the tool are there."""
    for call in re.findall(r"(?:^| )varietal ([^|&;]*)", line):
        verb, *arguments = shlex.split(call.partition(">")[0])
        command = _COMMANDS.commands[verb]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in arguments if word.startswith("--")} <= known, line
