"""Workflows, our own and those that `varietal init` writes: least rights, pinned actions, one call a step."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from builder.cli import app
from builder.request.built import BUILT_BRANCHES, tracked_ref
from builder.start.packaged import template
from builder.start.workflows import own_workflows, workflow_texts
from registry import yaml12

_ROOT: Final = Path(__file__).resolve().parents[2]
_TEXTS: Final = {
    **{f"init:{path}": text for path, text in workflow_texts(["github"]).items()},
    **{str(path.relative_to(_ROOT)): path.read_text() for path in sorted((_ROOT / ".github/workflows").glob("*.yml"))},
}
_README: Final = template("README.md")
_GITLAB: Final = workflow_texts(["gitlab"])[".gitlab-ci.yml"]
_RIGHTS: Final = {
    ("check", "check"): {"contents": "read"},
    ("gate", "judge"): {"contents": "read"},
    ("gate", "tell"): {"pull-requests": "write", "statuses": "write"},
    ("check", "merge"): {"contents": "read"},
    ("plan", "plan"): {"contents": "read"},
    ("comment", "comment"): {"actions": "read", "pull-requests": "write"},
    ("build", "build"): {"contents": "read"},
    ("build", "publish"): {"contents": "write"},
    ("build", "gate"): {"actions": "write"},
    ("promote", "promote"): {"actions": "read", "contents": "read"},
    ("retire", "retire"): {"contents": "write"},
    ("tagged", "tagged"): {},
    ("release", "ref"): {},
    ("release", "release"): {"contents": "read"},
    ("renew", "renew"): {"contents": "read"},
}
_SECRETS: Final = {
    ("build", "publish"): {"VARIETAL_TOKEN"},
    ("retire", "retire"): {"VARIETAL_TOKEN"},
    ("release", "release"): {"VARIETAL_RELEASE_KEY"},
    ("renew", "renew"): {"VARIETAL_RELEASE_KEY"},
}
_OURS: Final = {"check", "plan", "comment", "build", "gate", "promote", "retire", "tagged", "release", "renew"}
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
    lines = [line.strip() for line in _TEXTS[path].splitlines() if " uses:" in line]
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
            shown = re.sub(r"'[^']*'", "", step["run"])  # the shell takes nothing from between these
            for word in re.findall(r"\$(\w+)|\$\{(\w+)", shown):
                assert re.search(rf'"[^"]*\$\{{?{"".join(word)}[^"]*"', shown), "a variable without quotes"


@every_workflow
def test_secrets_are_where_nothing_of_a_request_is_built(path: str) -> None:
    found = document(path)
    for name, job in found["jobs"].items():
        text = str(job)
        used = {*re.findall(r"secrets\.(\w+)", text)}
        assert used == _SECRETS.get((found["name"], name), set())
        if used or "write" in job["permissions"].values():
            assert not any(
                re.search(r"(?:^| )varietal (?:build|run|plan) |dvc ", re.sub("<!--.*-->", "", step.get("run", "")))
                for step in job["steps"]
            )
            assert "self-hosted" not in job["runs-on"]


@every_workflow
def test_what_a_request_controls_has_nothing_to_take(path: str) -> None:
    """On `pull_request` the workflow itself is the request's; on `workflow_run` it is main's, and so is what is run."""
    found = document(path)
    if "pull_request" in found["on"]:
        assert "secrets." not in _TEXTS[path]
        assert all("write" not in job["permissions"].values() for job in found["jobs"].values())
        assert all("self-hosted" not in job["runs-on"] for job in found["jobs"].values())
    assert not {"pull_request_target", "pull_request_review", "issue_comment", "create"} & {*found["on"]}
    for _, step in steps(path):
        if "actions/checkout@" in step.get("uses", ""):
            own = {"${{ github.sha }}", "${{ github.event.repository.default_branch }}", "${{ github.base_ref }}"}
            assert step["with"].get("ref", "${{ github.sha }}") in own, "the request is fetched, never checked out"


@every_workflow
def test_what_is_fetched_of_builds_is_what_the_tool_reads(path: str) -> None:
    for _, step in steps(path):
        line = step.get("run", "")
        assert "refs/varietal/" not in line
        if "varietal/built" in line:
            check_fetch(line)


@every_workflow
def test_a_token_is_given_to_one_host_alone(path: str) -> None:
    for _, step in steps(path):
        given = step.get("env", {})
        if "GIT_CONFIG_COUNT" in given:
            assert given["GIT_CONFIG_KEY_0"] == "credential.${{ github.server_url }}.helper"
            assert "$GH_TOKEN" in given["GIT_CONFIG_VALUE_0"]
            assert "TOKEN" not in step["run"]


@every_workflow
def test_events_of_requests_are_those_for_main(path: str) -> None:
    on = document(path)["on"]
    if "pull_request" in on and document(path)["name"] != "check":
        assert on["pull_request"]["branches"] == ["main"]


@every_workflow
def test_a_tag_brings_no_code(path: str) -> None:
    """A push of a tag runs the tag's own copy of a workflow: it must be one that has nothing and does nothing."""
    found = document(path)
    if "tags" in (found["on"].get("push") or {}):
        assert [*found["jobs"]] == ["tagged"]
        assert [*found["jobs"]["tagged"]] == ["runs-on", "timeout-minutes", "permissions", "steps"]
        assert [step["run"] for _, step in steps(path)] == ['echo "$GITHUB_REF_NAME"']


@every_workflow
def test_no_name_is_installed_that_anybody_may_claim(path: str) -> None:
    lines = [step.get("run", "") for _, step in steps(path)]
    for at, line in enumerate(lines):
        if re.search(r"pip install .*(?:^|[ '])varietal\b", line):
            assert lines[at - 1].endswith("pip install --quiet --require-hashes --no-deps -r requirements.txt")
            assert lines[at - 2].startswith("awk '/^varietal/ {found = 1}")
            assert "-c constraints.txt" in line


def test_every_workflow_of_the_loop_is_written_for_a_team() -> None:
    assert {document(path)["name"] for path in _TEXTS if path.startswith("init:")} == _OURS


def job_of(name: str, job: str) -> dict[str, Any]:
    found: dict[str, Any] = document(f"init:.github/workflows/{name}.yml")["jobs"][job]
    return found


def lines_of(name: str, job: str) -> list[str]:
    return [step["run"] for step in job_of(name, job)["steps"] if "run" in step]


def test_what_publishes_shares_nothing_with_what_builds() -> None:
    build, publish = job_of("build", "build"), job_of("build", "publish")
    assert build["runs-on"] == ["self-hosted", "gpu"]
    assert publish["runs-on"] == "ubuntu-24.04"
    first = publish["steps"][0]
    assert (first["uses"].partition("@")[0], first["with"]["ref"]) == ("actions/checkout", "${{ github.sha }}")
    assert ".varietal/tool" not in str(publish["steps"])
    downloads = [step["with"]["path"] for step in publish["steps"] if "download-artifact" in step.get("uses", "")]
    assert downloads == ["${{ runner.temp }}/built"], "what is handed over is never laid over the repository"
    assert publish["if"] == "${{ !cancelled() && needs.build.outputs.built }}"
    (last,) = (step for step in publish["steps"] if "varietal publish" in step.get("run", ""))
    assert '--from "$RUNNER_TEMP/built"' in last["run"]
    assert last["env"]["GIT_CONFIG_KEY_1"] == "remote.origin.pushurl"
    assert last["env"]["GIT_CONFIG_VALUE_1"] == "${{ github.server_url }}/${{ github.repository }}"
    assert [step for step in publish["steps"] if "secrets." in str(step)] == [last]


def test_what_drops_branches_has_nothing_of_the_remotes_and_the_other_way_round() -> None:
    promote, retire, publish = job_of("promote", "promote"), job_of("retire", "retire"), job_of("build", "publish")
    assert (promote["environment"], retire["environment"]) == ("storage", publish["environment"])
    first, last = retire["steps"][0], retire["steps"][-1]
    assert (first["uses"].partition("@")[0], first["with"]["ref"]) == ("actions/checkout", "${{ github.sha }}")
    assert last["run"] == "varietal publish --retire"
    (pushes,) = (step for step in publish["steps"] if "varietal publish" in step.get("run", ""))
    assert last["env"] == pushes["env"], "it is let in by the rule that was made for the other"
    assert [step for step in retire["steps"] if "secrets." in str(step)] == [last]
    assert "GH_TOKEN" not in str(promote["steps"][-1])
    assert "--retire" not in str(gitlab_jobs()), "GitLab lets no push delete a protected branch"
    assert "`varietal publish --retire --dry-run`" in _GITLAB


def test_branches_that_cannot_be_dropped_hold_up_no_promotion() -> None:
    """Promoting begins after its last run that succeeded, as a whole, and no two of its runs go at once."""
    promote, retire = (document(f"init:.github/workflows/{name}.yml") for name in ("promote", "retire"))
    assert [*promote["jobs"]] == ["promote"]
    assert "--workflow promote.yml --branch main --status success" in str(promote["jobs"]["promote"]["steps"])
    assert retire["on"]["workflow_run"] == {"workflows": ["promote"], "types": ["completed"], "branches": ["main"]}
    assert retire["jobs"]["retire"]["if"].endswith("github.event.workflow_run.conclusion == 'success'")
    assert promote["concurrency"]["group"] != retire["concurrency"]["group"]


def test_a_build_sends_its_bytes_to_quarantine_and_asks_for_no_more() -> None:
    lines = lines_of("build", "build")
    assert lines[-1].endswith('varietal build --request "$REQUEST" --push')
    assert lines[-2].endswith("varietal doctor --build --request")
    upload = job_of("build", "build")["steps"][-1]
    assert upload["if"] == "${{ !cancelled() }}"
    paths = upload["with"]["path"].splitlines()
    assert all(path.endswith(("/dvc.lock", "/records/*.json")) for path in paths)


def test_the_gate_is_main_s_and_says_no_to_what_nobody_has_read() -> None:
    found = document("init:.github/workflows/gate.yml")
    assert found["on"]["workflow_run"]["workflows"] == ["check"]
    judge, tell = found["jobs"]["judge"], found["jobs"]["tell"]
    assert "varietal" not in " ".join(
        step.get("run", "").replace("varietal/gate", "").replace("<!-- varietal gate -->", "") for step in tell["steps"]
    )
    assert "context=varietal/gate" in tell["steps"][0]["run"]
    assert tell["steps"][0]["env"]["STATE"] == "${{ needs.judge.outputs.state || 'error' }}"
    assert "steps.gate.outcome == 'success' && (" in judge["outputs"]["state"]
    assert lines_of("build", "gate")[0].startswith("gh workflow run gate.yml ")


def test_comments_are_known_by_a_mark_of_our_own() -> None:
    for name, job in (("comment", "comment"), ("gate", "tell")):
        text = "\n".join(lines_of(name, job))
        assert "--edit-last" not in text
        assert f"<!-- varietal {'plan' if name == 'comment' else 'gate'} -->" in text
        assert "headRefOid == env.REQUEST" in text
        assert "head_branch" not in str(job_of(name, job))


def test_runs_that_wait_for_each_other_are_of_one_channel() -> None:
    assert job_of("release", "release")["concurrency"]["group"] == "release-${{ needs.ref.outputs.ref }}"
    assert lines_of("release", "ref") == ['echo "ref=${TAG%#*}" >> "$GITHUB_OUTPUT"']


def test_conditions_that_no_file_can_give_are_told() -> None:
    for text in (_README, (_ROOT / "docs/operations.md").read_text(), (_ROOT / "docs/security.md").read_text()):
        words = " ".join(text.split())
        assert ".github/workflows/build.yml@refs/heads/main" in words
        assert "approval for all outside collaborators" in words


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
    value: Any = yaml12.load(_GITLAB, ".gitlab-ci.yml").value
    assert isinstance(value, dict)
    settings = {"workflow", "default", "variables"}
    return {name: job for name, job in value.items() if name not in settings and not name.startswith(".")}


def test_gitlab_has_the_same_jobs() -> None:
    jobs = gitlab_jobs()
    assert [*jobs] == ["check", "plan", "merge", "build", "publish", "promote", "release", "renew"]
    for job in jobs.values():
        for line in (*job.get("before_script", ()), *job["script"]):
            if not line.startswith("test -z"):
                check_one_call(line)
            check_call(line)
            if "varietal/built" in line:
                check_fetch(line)


def test_gitlab_runs_what_has_rights_on_protected_refs_alone() -> None:
    jobs = gitlab_jobs()
    for name in ("build", "publish", "promote", "release", "renew"):
        assert [rule["if"].partition(" && ")[0] for rule in jobs[name]["rules"]] == [
            "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"
        ]
    assert "CI_COMMIT_TAG" not in _GITLAB, "a pipeline of a tag runs the tag's own copy of this file"
    for name in ("check", "plan", "merge"):
        assert "TOKEN" not in str(jobs[name])
        assert "tags" not in jobs[name]
    assert "PUBLISH_TOKEN" not in str(jobs["build"])


def test_gitlab_publishes_from_a_clone_of_its_own_with_a_token_that_is_no_argument() -> None:
    publish = gitlab_jobs()["publish"]
    assert "tags" not in publish
    assert publish["variables"]["GIT_STRATEGY"] == "none"
    assert publish["before_script"][:2] == [
        'cd "$(mktemp --directory)"',
        'git clone --quiet --no-tags "$CI_SERVER_URL/$CI_PROJECT_PATH.git" .',
    ]
    assert "TOKEN" not in str([*publish["before_script"], *publish["script"]])
    assert publish["variables"]["GIT_CONFIG_KEY_0"] == "credential.$CI_SERVER_URL.helper"
    assert "$$PUBLISH_TOKEN" in publish["variables"]["GIT_CONFIG_VALUE_0"], "expanded by the helper, not before"
    assert '--from "$CI_PROJECT_DIR/.varietal/requests/$REQUEST"' in publish["script"][0]


def check_one_call(line: str) -> None:
    """One program with its arguments; a file may take what it prints or give what it reads."""
    words = [*shlex.shlex(line, posix=True, punctuation_chars=True)]
    assert not {";", "&&", "||", "|", "&", "\n"} & {*words}, line
    assert "\n" not in line.strip()


def check_fetch(line: str) -> None:
    """Builds are fetched to where the tool looks for them, and those that are gone there go here."""
    assert line.startswith("git fetch ")
    assert " --prune " in line
    assert f'"+refs/heads/{BUILT_BRANCHES}*:{tracked_ref(BUILT_BRANCHES)}*"' in line


def check_call(line: str) -> None:
    """The verb and the options of a call of the tool are there."""
    for call in re.findall(r"(?:^| )varietal ([^|&;']*)", re.sub("awk '[^']*'|<!--.*-->", "", line)):
        verb, *arguments = shlex.split(call.partition(">")[0])
        command = _COMMANDS.commands[verb]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in arguments if word.startswith("--")} <= known, line
