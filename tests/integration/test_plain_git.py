"""The whole loop on plain git: people ask, runners build and publish, requests are merged, released and rolled back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.forge import Forge
from tests.yard import SUPPORT, WIDE, Yard, became, cast_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.team import Team


def build(yard: Yard, runner: Team, branch: str) -> dict[str, str]:
    """Build a request, publish it, and let the runner fetch; what became of each stage."""
    yard.fetch(runner)
    done = runner.must("varietal", "build", "--request", f"origin/{branch}", "--json")
    runner.must("varietal", "publish", "--request", f"origin/{branch}")
    yard.fetch(runner)
    return became(done)


# Two at once


@pytest.fixture(scope="module")
def merged(begun: Yard, tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """Two people have changed two variants and added two at the same time; both requests are built and merged."""
    yard = begun.copy(tmp_path_factory.mktemp("merged") / "yard")
    yard.ask(
        "ada",
        {
            "models/support/model.yaml": SUPPORT.replace("dtype: float16", "dtype: float16, targets: mlp"),
            "models/bright/model.yaml": cast_of("tiny", "dtype: float16"),
        },
    )
    yard.ask(
        "grace",
        {
            "models/calm/model.yaml": cast_of(WIDE, "dtype: float16, targets: norm"),
            "models/dim/model.yaml": cast_of(WIDE, "dtype: float16"),
        },
    )
    runner = yard.clone("runner")
    assert build(yard, runner, "ada") == {"support:final": "ran", "bright:final": "reused"}
    # The whole model in float16 is what main calls support:final: nothing is computed, whoever changes that one.
    assert build(yard, runner, "grace") == {"calm:final": "ran", "dim:final": "reused"}
    yard.merge("ada")
    yard.fetch(runner)  # the second one is judged once more, on top of the first
    runner.must("varietal", "plan", "--request", "origin/grace", "--check")
    runner.must("varietal", "gate", "--request", "origin/grace")
    yard.merge("grace")
    return yard


def test_the_second_to_merge_needs_no_hand(merged: Yard, tmp_path: Path) -> None:
    yard = merged.copy(tmp_path / "yard")
    main = yard.main("somebody")
    plan = json.loads(main.must("varietal", "plan", "--check", "--json").out)
    assert {one["verdict"] for one in plan["stages"]} == {"keep"}
    assert plan["notes"] == []
    gate = json.loads(main.must("varietal", "gate", "--json").out)
    assert [one["variant"] for one in gate["variants"]] == ["bright", "calm", "dim", "plain", "support"]
    linked = {one: main.record("final", one).reused_from for one in ("bright", "calm", "dim", "support")}
    assert linked == {"bright": "plain:final", "calm": "", "dim": "support:final", "support": ""}
    assert main.must("varietal", "build").out == "nothing to build\n"
    assert not (main.root / "models/dim/artifacts").exists()  # in a clone that has no bytes at all
    promoted = json.loads(main.must("varietal", "publish", "--promote", "--json").out)
    assert promoted["stages"] == ["bright:final", "calm:final", "dim:final", "support:final"]
    main.must("dvc", "pull", "--quiet")
    assert main.must("dvc", "repro").ran == []
    assert main.must("git", "status", "--porcelain").out == ""


def test_a_rollback_of_prod_is_one_command(merged: Yard, tmp_path: Path) -> None:
    yard = merged.copy(tmp_path / "yard")
    main = yard.main("maintainer")
    main.must("varietal", "publish", "--promote")
    main.must("varietal", "release", "support@v1.1.0", "--push")
    main.must("varietal", "promote", "support@v1.1.0", "prod", "--push")

    host = yard.clone("host")

    def pulled(name: str) -> dict[str, bytes]:
        """What `prod` is to a machine that has had nothing so far."""
        store = str(yard.place / f"store of {name}")
        answer = host.call("varietal", "pull", "support#prod", f"../{name}", VARIETAL_STORE=store)
        assert answer.code == 0, answer.err
        return {path.name: path.read_bytes() for path in (yard.place / name).iterdir()}

    newer = pulled("newer")
    answer = main.must("varietal", "rollback", "support#prod", "--push", "--json")
    assert json.loads(answer.out)["tag"] == "support#prod#3"
    assert {"support#prod#1", "support#prod#2", "support#prod#3"} <= yard.tags()
    host.must("git", "fetch", "--quiet", "--tags", "origin")
    older = pulled("older")
    assert older != newer
    host.must("varietal", "verify", "support@v1.0.0", "../older")


# What runs


@pytest.mark.slow
def test_a_shared_prefix_reruns_what_starts_from_it_and_nothing_else(yard: Yard) -> None:
    yard.ask(
        "ada",
        {"models/support/model.yaml": SUPPORT.replace("dtype: float32", "dtype: float32, targets: attention")},
    )
    runner = yard.clone("runner")
    planned = json.loads(runner.must("varietal", "plan", "--request", "origin/ada", "--json").out)
    assert {one["stage"]: one["verdict"] for one in planned["stages"]} == {
        "bases:tiny": "keep",
        "plain:final": "keep",
        "support:wide": "run",
        "support:final": "maybe",
        "calm:final": "maybe",
    }
    assert build(yard, runner, "ada") == {
        "support:wide": "ran",
        "support:final": "ran",
        "calm:final": "ran",
    }
    runner.must("git", "checkout", "--quiet", "origin/ada")
    made = {stage: runner.record(stage) for stage in ("wide", "final")}
    runner.must("git", "checkout", "--quiet", "origin/main")
    before = {stage: runner.record(stage) for stage in ("wide", "final")}
    for stage, record in made.items():
        assert record.reused_from == ""
        assert record.artifact != before[stage].artifact


@pytest.mark.slow
def test_whoever_keeps_to_the_old_prefix_links_it(yard: Yard) -> None:
    """The prefix is built anew in the same request; a new variant has the one that main had."""
    yard.ask(
        "ada",
        {
            "models/support/model.yaml": SUPPORT.replace("dtype: float32", "dtype: float32, targets: attention"),
            "models/keeper/model.yaml": SUPPORT,
        },
    )
    runner = yard.main("runner")
    before = {stage: runner.record(stage).artifact for stage in ("wide", "final")}
    done = build(yard, runner, "ada")
    assert done["support:wide"] == done["support:final"] == done["calm:final"] == "ran"
    assert done["keeper:wide"] == done["keeper:final"] == "reused"
    runner.must("git", "checkout", "--quiet", "origin/ada")
    for stage, artifact in before.items():
        record = runner.record(stage, "keeper")
        assert (record.reused_from, record.artifact) == (f"support:{stage}", artifact)


# What the gate says no to


def test_a_request_whose_gate_fails_cannot_be_released(yard: Yard) -> None:
    """Nothing has to be built for a bound: it is judged by the record that is there."""
    yard.ask("eve", {"models/support/model.yaml": SUPPORT.replace("max: 0.1", "min: 0.5")})
    runner = yard.clone("runner")
    assert build(yard, runner, "eve") == {}
    answer = runner.call("varietal", "gate", "--request", "origin/eve")
    assert answer.code == 1
    assert answer.out == (
        "pass  calm: no checks, on purpose; the lock is fresh\n"
        "FAIL  support: relative_rms of final is 0; it must be at least 0.5\n"
        "look  support: the request changes its checks\n"
    )
    assert answer.err.startswith("the gate says no: support: relative_rms of final is ")
    assert "it must be at least 0.5\n  where: request origin/eve\n  mend: " in answer.err

    before = yard.tags()
    runner.must("git", "checkout", "--quiet", "origin/eve")
    answer = runner.call("varietal", "release", "support@v1.1.0", "--push")
    assert answer.code == 1
    assert "support@v1.1.0 is not released: the commit is not on the main branch" in answer.err
    yard.merge("eve")  # by somebody who looks at no check
    main = yard.main("maintainer")
    answer = main.call("varietal", "release", "support@v1.1.0", "plain@v1.0.0", "--push")
    assert answer.code == 1
    assert answer.err.startswith("support@v1.1.0 is not released: relative_rms of final is ")
    assert yard.tags() == before
    assert main.must("git", "tag", "--list", "*v1.1.0", "plain*").out == ""


# What a stranger gains


EVIL = "stages:\n  evil: {{cmd: touch {pwned}, always_changed: true}}\n"


def test_a_hostile_request_is_built_and_nothing_of_it_runs(yard: Yard) -> None:
    """An honest wish among commands, remotes and modules: the wish is built, by main's configuration."""
    pwned, evil = yard.place / "pwned", EVIL.format(pwned=yard.place / "pwned")
    runner = yard.clone("runner")
    own = {path: (runner.root / path).read_bytes() for path in (".dvc/config", ".git/config", "params.yaml")}
    released = yard.objects("released")
    code = f"open({str(pwned)!r}, 'w')\n"
    request = yard.ask(
        "mallory",
        {
            "models/wish/model.yaml": cast_of("tiny", "dtype: float16"),
            "dvc.yaml": evil,
            "data/dvc.yaml": evil,
            "data/deep/dvc.yaml": evil,
            "bases/dvc.yaml": evil,
            "models/wish/dvc.yaml": evil,
            "models/plain/dvc.yaml": evil,
            "models/plain/dvc.lock": "schema: '2.0'\nstages: {}\n",
            ".dvc/config": f"[core]\n    remote = evil\n['remote \"evil\"']\n    url = {yard.place / 'evil'}\n"
            "['remote \"quarantine\"']\n    url = ../../evil\n",
            ".dvcignore": "models\n",
            ".gitattributes": "* filter=evil\n",
            ".varietal/runner.yaml": "environment: [AWS_SECRET_ACCESS_KEY]\npush: evil\n",
            "sitecustomize.py": code,
            "dvc.py": code,
            "builder/__init__.py": code,
        },
    )
    author = yard.clone("mallory")
    author.must("git", "add", "--force", ".varietal/runner.yaml", "bases/dvc.yaml")
    author.must("git", "commit", "--quiet", "--amend", "--no-edit")
    author.must("git", "push", "--quiet", "--force", "origin", "HEAD:mallory")
    assert build(yard, runner, "mallory") == {"wish:final": "reused"}
    assert not pwned.exists()
    assert not (yard.place / "evil").exists()
    assert yard.objects("released") == released
    assert yard.objects("quarantine")
    assert {path: (runner.root / path).read_bytes() for path in own} == own
    published = runner.must("git", "show", "origin/mallory:dvc.yaml", "origin/mallory:models/plain/dvc.yaml").out
    assert "touch" not in published
    judged = runner.must("varietal", "gate", "--request", "origin/mallory", "--json")
    told = json.loads(judged.out)["request"]
    assert told["unwritten"] == []
    assert {".dvc/config", ".gitattributes", "builder", "data/dvc.yaml", "sitecustomize.py"} <= {*told["left"]}
    assert request not in runner.must("git", "rev-list", "origin/varietal/built/mallory").out


BOMB = "schema: 1\na: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("models/wish/model.yaml", BOMB, "models/wish/model.yaml"),
        ("models/wish/model.yaml", cast_of("{variant: ../../etc, stage: wide}", "dtype: float16"), "models/wish"),
        (
            "models/wish/model.yaml",
            cast_of("tiny", "dtype: float16").replace(
                "stages:", "data: {x: {path: ../../../config, format: text}}\nstages:"
            ),
            "within the repository",
        ),
        ("data/out.jsonl", "-> ../.dvc/config", "data/out.jsonl"),
        ("models/wish", "-> ../../..", "models/wish"),
    ],
    ids=["a bomb", "a variant elsewhere", "a path out", "a link", "a link for a folder"],
)
def test_a_request_that_reaches_out_is_refused_whole(yard: Yard, path: str, text: str, said: str) -> None:
    author, runner = yard.clone("mallory"), yard.clone("runner")
    if text.startswith("-> "):
        (author.root / path).parent.mkdir(exist_ok=True)
        (author.root / path).symlink_to(text.removeprefix("-> "))
        yard.ask("mallory", {})
    else:
        yard.ask("mallory", {path: text})
    yard.fetch(runner)
    here = Forge(origin=runner.root, runner=runner.root, author=runner.root)  # the command in this process
    for verb, code in (("plan", 4), ("build", 4), ("gate", 4), ("publish", 2)):
        answer = here.call(verb, "--request", "origin/mallory")
        assert (answer.returncode, answer.stdout) == (code, ""), answer.stderr
        assert (said in answer.stderr) is (verb != "publish"), answer.stderr
    assert yard.objects("quarantine") == frozenset()
    assert runner.must("git", "for-each-ref", "refs/remotes/origin/varietal").out == ""
