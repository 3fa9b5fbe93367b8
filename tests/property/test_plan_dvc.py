"""Random edits of a repository: DVC runs every stage that the plan says it runs, and none that it says it keeps.

DVC itself judges and runs; what a stage would do is planted in its place, since the subject is the judgement. A stage
whose outputs DVC takes from its run cache counts as run: DVC judged that it changed. The plan is made by the memo of
the edits before, and again from nothing: both must say the same.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from builder.address import Address
from builder.compiled import write_pipelines
from builder.graph import build_graph
from builder.kinds import KINDS
from builder.load import load
from builder.pipeline import RECORDS
from builder.plan.plan import make_plan
from builder.plan.repository import plan_repository
from builder.records import copy_records
from registry.errors import InvalidError
from registry.record import artifact_folder, lock_file, manifest_file
from tests.planted import plant_stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.plan.values import Plan

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what is beneath DVC

_RECIPES = dict.fromkeys(KINDS, 1)


def _first() -> dict[str, Any]:
    """A chain of six stages."""
    return {
        "schema": 1,
        "base": "tiny",
        "data": {
            "talks": {"path": "data/talks.jsonl", "format": "messages"},
            "likes": {"path": "data/likes.jsonl", "format": "preference"},
            "heldout": {"path": "data/heldout.jsonl", "format": "text"},
        },
        "stages": {
            "tone": _sft("base"),
            "toned": {"kind": "fold", "from": "base", "adapters": {"tone": 1.0}},
            "pref": {**_sft("toned"), "kind": "dpo", "data": "likes"},
            "final": {"kind": "fold", "from": "toned", "adapters": {"pref": 1.0}},
            "small": {"kind": "cast", "from": "final", "dtype": "bfloat16"},
            "score": {"kind": "evaluate", "from": "final", "against": "base", "metrics": {"bits_per_byte": "heldout"}},
        },
        "release": "final",
        "checks": [],
    }


def _sft(start: str) -> dict[str, Any]:
    train = {"steps": 2, "batch": 2, "weight_decay": 0.0, "learning_rate": 0.001}
    return {"kind": "sft", "from": start, "data": "talks", "adapter": {"rank": 2}, "train": train}


def _built_on(variant: str, stage: str) -> dict[str, Any]:
    """Four stages on a stage of another variant."""
    return {
        "schema": 1,
        "base": {"variant": variant, "stage": stage},
        "data": {"talks": {"path": "data/talks.jsonl", "format": "messages"}},
        "stages": {
            "voice": _sft("base"),
            "voiced": {"kind": "fold", "from": "base", "adapters": {"voice": 0.5}},
            "mixed": {"kind": "blend", "method": "linear", "models": {"base": 0.5, "voiced": 0.5}},
            "again": _sft("mixed"),
        },
        "release": "mixed",
        "checks": [],
    }


@dataclass
class _Field:
    """A repository under random edits.

    Attributes:
        root: Its root.
        random: Where chance comes from.
        manifests: Documents by variant.
        params: The document of params.yaml.
        history: Manifests as they were, to go back to.
        left: Kinds of edits that are still to come in this round.
    """

    root: Path
    random: random.Random
    manifests: dict[str, dict[str, Any]]
    params: dict[str, Any]
    history: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write what differs, and remove manifests that are gone."""
        for path in self.root.glob("models/*/model.yaml"):
            if path.parent.name not in self.manifests:
                path.unlink()
        for variant, document in self.manifests.items():
            path = self.root / manifest_file(variant)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or yaml.safe_load(path.read_text()) != document:
                path.write_text(yaml.safe_dump(document, sort_keys=False))
        path = self.root / "params.yaml"
        if not path.exists() or yaml.safe_load(path.read_text()) != self.params:
            path.write_text(yaml.safe_dump(self.params, sort_keys=False))

    def commit(self) -> None:
        _git(self.root, "add", "--all")
        _git(self.root, "commit", "--quiet", "--allow-empty", "--message", "edit")

    def repro(self) -> set[Address]:
        """Let DVC judge and run; the stages that it found to have changed."""
        from dvc.repo import Repo  # noqa: PLC0415 - a second, and this file is collected by others

        with Repo(str(self.root)) as repo:
            done = repo.reproduce(allow_missing=True, pull=True)
        commands = [stage.cmd.split(" ") for stage in done if stage.cmd is not None]
        return {Address(variant=words[2], stage=words[3]) for words in commands if words[3] != RECORDS}

    def run(self, command: str) -> None:
        """What `varietal run` is for DVC here."""
        words = command.split(" ")
        variant, stage = words[2], words[3]
        graph = build_graph(load(self.root, only=variant))
        if stage == RECORDS:
            stages = words[4:] or [address.stage for address in graph if address.variant == variant]
            copy_records(self.root, variant, stages, prune=not words[4:])
        else:
            plant_stage(self.root, graph[Address(variant=variant, stage=stage)])

    # Edits

    def edit(self) -> str:
        """Make one edit of some kind; its name."""
        if not self.left:  # each kind comes before any comes again
            self.left = [name for name in dir(self) if name.startswith("edit_")]
            self.random.shuffle(self.left)
        name = self.left.pop()
        variant = self.random.choice(sorted(self.manifests))
        self.history.append((variant, _copy(self.manifests[variant])))
        getattr(self, name)(variant)
        self.write()
        return f"{name.removeprefix('edit_')} {variant}"

    def edit_value(self, variant: str) -> None:
        stage = self._stage(variant, "train")
        if stage is not None:
            key = self.random.choice(["steps", "batch", "learning_rate"])
            stage["train"][key] = self.random.choice([1, 2, 4, 0.001] if key == "learning_rate" else [1, 2, 4])

    def edit_weight(self, variant: str) -> None:
        stage = self._stage(variant, "adapters")
        if stage is not None:
            name = self.random.choice(sorted(stage["adapters"]))
            stage["adapters"][name] = self.random.choice([0.25, 0.5, 1.0])

    def edit_without_effect(self, variant: str) -> None:
        stage = self._stage(variant, "train")
        if stage is not None:
            stage["train"]["weight_decay"] = self.random.choice([0.0, 0.1, 0.2])

    def edit_two_values(self, variant: str) -> None:
        self.edit_without_effect(variant)
        self.edit_weight(variant)

    def edit_comment(self, variant: str) -> None:
        path = self.root / manifest_file(variant)
        path.write_text(f"# {self.random.random()}\n{path.read_text()}")

    def edit_order_and_spelling(self, variant: str) -> None:
        document = self.manifests[variant]
        path = self.root / manifest_file(variant)
        text = yaml.safe_dump(document, sort_keys=True, default_flow_style=self.random.choice([True, False, None]))
        path.write_text(text.replace("0.001", "1.0e-3"))

    def edit_words(self, variant: str) -> None:
        self.manifests[variant]["description"] = f"about {self.random.random()}"

    def edit_data(self, variant: str) -> None:
        del variant
        path = self.root / "data" / self.random.choice(["talks.jsonl", "likes.jsonl", "heldout.jsonl"])
        path.write_text(self.random.choice(["{}\n", "{} \n", f'{{"a": {self.random.random()}}}\n']))

    def edit_new_stage(self, variant: str) -> None:
        stages = self.manifests[variant]["stages"]
        start = self.random.choice([name for name, one in stages.items() if one["kind"] in {"fold", "cast", "blend"}])
        stages[f"more-{len(stages)}"] = {"kind": "cast", "from": start, "dtype": "float16"}

    def edit_removed_stage(self, variant: str) -> None:
        stages = self.manifests[variant]["stages"]
        added = [name for name in stages if name.startswith("more-") or name in {"again", "score"}]
        if added:
            del stages[self.random.choice(added)]

    def edit_new_variant(self, variant: str) -> None:
        self.manifests[f"copy-{len(self.manifests)}"] = _copy(self.manifests[variant])

    def edit_removed_variant(self, variant: str) -> None:
        if variant.startswith("copy-"):
            del self.manifests[variant]

    def edit_renamed_variant(self, variant: str) -> None:
        """With its lock and its records, as `git mv` does; or without."""
        if not variant.startswith("copy-"):
            return
        name = f"{variant}x"
        self.manifests[name] = self.manifests.pop(variant)
        old = (self.root / manifest_file(variant)).parent
        if self.random.random() < 0.5:
            shutil.rmtree(old.with_name(name), ignore_errors=True)
            old.rename(old.with_name(name))

    def edit_start(self, variant: str) -> None:
        """Another stage of another variant to start from."""
        document = self.manifests[variant]
        if isinstance(document.get("base"), dict):
            stage = self.random.choice(["toned", "final", "small"])
            document["base"] = {"variant": "first", "stage": stage}

    def edit_defaults(self, variant: str) -> None:
        del variant
        self.params["defaults"] = {"sft": {"train": {"warmup": self.random.choice([0.0, 0.1])}}}

    def edit_base(self, variant: str) -> None:
        del variant
        self.params["bases"]["tiny"]["sha256"] = self.random.choice(["0", "1", "2"]) * 64

    def edit_back(self, variant: str) -> None:
        """A manifest as it was some edits ago."""
        del variant
        old, document = self.random.choice(self.history)
        if old in self.manifests:
            self.manifests[old] = _copy(document)

    def edit_artifact(self, variant: str) -> None:
        """An artifact changed in place."""
        stage = self.random.choice(sorted(self.manifests[variant]["stages"]))
        path = self.root / artifact_folder(variant, stage) / "config.json"
        if path.exists():
            path.unlink()  # it may be a link into DVC's cache
            path.write_text(f'{{"a": {self.random.random()}}}')

    def edit_gone_artifact(self, variant: str) -> None:
        stage = self.random.choice(sorted(self.manifests[variant]["stages"]))
        shutil.rmtree(self.root / artifact_folder(variant, stage), ignore_errors=True)

    def edit_lock(self, variant: str) -> None:
        """A lock as some commit before had it, or none at all, or without one of its stages."""
        path = self.root / lock_file(variant)
        choice = self.random.randrange(3)
        if choice == 0 and path.exists():
            path.unlink()
        elif choice == 1 and path.exists():
            lock = yaml.safe_load(path.read_text())
            lock["stages"].pop(self.random.choice(sorted(lock["stages"])))
            path.write_text(yaml.safe_dump(lock))
        elif choice == 2:
            _git(self.root, "checkout", "HEAD~3", "--", str(lock_file(variant)), check=False)

    def _stage(self, variant: str, key: str) -> dict[str, Any] | None:
        """Some stage that has a table of this name."""
        stages = [one for one in self.manifests[variant]["stages"].values() if key in one]
        return self.random.choice(stages) if stages else None


def _copy(document: dict[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = yaml.safe_load(yaml.safe_dump(document))
    return copied


def _git(root: Path, *arguments: str, check: bool = True) -> None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr


@pytest.fixture
def make_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], _Field]:
    """Makes a repository of seventeen stages, built by DVC with planted stages."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setattr("builder.plan.digests.TICK_NS", 0)  # what was just written is remembered here, too
    monkeypatch.setattr("builder.plan.unchanged.TICK_NS", 0)
    field_: list[_Field] = []

    def run(stage: Any, dry: bool = False, run_env: object = None) -> None:  # noqa: ANN401, FBT001, FBT002
        del dry, run_env
        field_[0].run(stage.cmd)

    monkeypatch.setattr("dvc.stage.run.cmd_run", run)

    def make(seed: int) -> _Field:
        root = tmp_path / "team"
        (root / "data").mkdir(parents=True)
        for name in ("talks", "likes", "heldout"):
            (root / "data" / f"{name}.jsonl").write_text("{}\n")
        bases = {"tiny": {"path": "sources/tiny", "sha256": "0" * 64}}
        params = {"bases": bases, "recipes": _RECIPES, "defaults": {"sft": {"train": {"warmup": 0.0}}}}
        manifests = {"first": _first(), "second": _built_on("first", "toned"), "third": _built_on("first", "final")}
        chance = random.Random(seed)  # noqa: S311 - edits, nothing secret
        made = _Field(root=root, random=chance, manifests=manifests, params=params)
        field_.append(made)
        for arguments in (("init", "--quiet", "--initial-branch=main"), ("config", "user.name", "T")):
            _git(root, *arguments)
        _git(root, "config", "user.email", "t@example.invalid")
        _git(root, "config", "commit.gpgsign", "false")
        (root / ".gitignore").write_text(
            "/models/*/artifacts/\n/bases/?*\n!/bases/dvc.yaml\n!/bases/dvc.lock\n!/bases/records/\n/.varietal/\n"
        )
        (root / ".dvcignore").write_text("/.varietal/\n")
        (root / ".dvc").mkdir()
        (root / ".dvc" / "config").write_text(
            f"[core]\n    remote = store\n['remote \"store\"']\n    url = {tmp_path / 'remote'}\n"
        )
        (tmp_path / "remote").mkdir()
        (root / "models").mkdir()
        monkeypatch.chdir(root)
        made.write()
        write_pipelines(root)
        made.commit()
        made.repro()
        made.commit()
        return made

    return make


def _check(plan: Plan, ran: set[Address], edits: str) -> None:
    verdicts = {one.address: one.verdict for one in plan.stages}
    surely = {address for address, verdict in verdicts.items() if verdict in {"run", "reuse"}}
    perhaps = {address for address, verdict in verdicts.items() if verdict == "maybe"}
    assert surely - ran == set(), f"{edits}: DVC did not run these\n{plan}"
    assert ran - surely - perhaps == set(), f"{edits}: DVC ran these, too\n{plan}"


def _edit_and_check(made: _Field, count: int) -> dict[str, int]:
    """Edit, plan by memo and from nothing, let DVC run; how often each verdict was given."""
    counts = dict.fromkeys(("run", "reuse", "maybe", "keep"), 0)
    done = 0
    while done < count:
        before = {variant: _copy(document) for variant, document in made.manifests.items()}
        edits = ", ".join(made.edit() for _ in range(made.random.choice([1, 1, 2])))
        try:
            write_pipelines(made.root)
        except InvalidError:  # an edit took away what another variant needs
            made.manifests = before
            made.write()
            continue
        workspace = load(made.root)
        warm, cold = plan_repository(made.root), make_plan(made.root, workspace, build_graph(workspace))
        assert {one.address: one for one in warm.stages} == {one.address: one for one in cold.stages}, edits
        assert warm.notes == cold.notes, edits
        _check(warm, made.repro(), f"edit {done}, {edits}")
        after = plan_repository(made.root)  # the memo now knows of every variant
        assert after.is_empty, f"edit {done}, {edits}: after the build\n{after}"
        made.commit()
        done += 1
        for verdict in counts:
            counts[verdict] += sum(one.verdict == verdict for one in warm.stages)
    return counts


def test_dvc_runs_what_the_plan_says(make_field: Callable[[int], _Field]) -> None:
    counts = _edit_and_check(make_field(1), 20)
    assert min(counts.values()) > 0, counts


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 6))
def test_dvc_runs_what_the_plan_says_of_fifty_edits(make_field: Callable[[int], _Field], seed: int) -> None:
    counts = _edit_and_check(make_field(seed), 50)
    assert min(counts.values()) > 0, counts
