"""A team on plain git: a bare origin, a default remote and a quarantine that are folders, and clones of everybody.

Everything in it is named by paths relative to each other, so a copy of the whole yard is a yard of its own. Stages are
casts of a tiny model: real ones, that take a second and need no training.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models

from builder.graph import build_graph
from builder.load import load
from builder.pipeline import RECORDS
from builder.plan.judge import in_order
from registry.artifact import LISTING
from registry.record import BASES
from tests.forked import Commands
from tests.team import Answer, Team
from tests.workshop import HIDDEN, INNER, Workshop, llama

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["SUPPORT", "WIDE", "Yard", "became", "begin", "cast_of"]

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "max_position_embeddings": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 16,
}
_REMOTES = """\
[core]
    analytics = false
    remote = released
[cache]
    type = "reflink,hardlink,copy"
['remote "released"']
    url = ../../released
    verify = true
['remote "quarantine"']
    url = ../../quarantine
    verify = true
"""
SUPPORT = """\
schema: 1
base: tiny
stages:
  wide: {kind: cast, from: base, dtype: float32}
  final: {kind: cast, from: wide, dtype: float16}
release: final
checks:
- {stage: final, metric: relative_rms, max: 0.1}
"""
WIDE = "{variant: support, stage: wide}"


def cast_of(base: str, how: str) -> str:
    """A manifest of one cast, released without checks."""
    return (
        f"schema: 1\nbase: {base}\nstages: {{final: {{kind: cast, from: base, {how}}}}}\nrelease: final\nchecks: []\n"
    )


def became(answer: Answer) -> dict[str, str]:
    """What `varietal build --json` says of each stage; copies of records are left out."""
    rows = json.loads(answer.out)["stages"]
    return {one["stage"]: one["became"] for one in rows if ":records" not in one["stage"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Yard:
    """The places.

    Attributes:
        place: Folder of everything.
    """

    place: Path

    @property
    def origin(self) -> Path:
        """The bare repository."""
        return self.place / "origin.git"

    def clone(self, name: str, *options: str) -> Team:
        """Somebody's clone, made where it is not there; it knows what runners pushed."""
        team = Team(root=self.place / name)
        if not team.root.exists():
            Team(root=self.place).must("git", "clone", "--quiet", *options, "origin.git", name)
            team.must("git", "remote", "set-url", "origin", "../origin.git")
        self.fetch(team)
        return team

    def fetch(self, team: Team) -> None:
        """Fetch as a workflow does."""
        team.must("git", "fetch", "--quiet", "--prune", "origin", "+refs/heads/*:refs/remotes/origin/*")

    def ask(self, who: str, files: Mapping[str, str | None]) -> str:
        """Commit files on a branch of somebody's name and push it; ``None`` removes one. The id of the commit."""
        author = self.clone(who)
        if author.must("git", "branch", "--show-current").out.strip() != who:
            author.must("git", "checkout", "--quiet", "-b", who, "origin/main")
        for path, text in files.items():
            full = author.root / path
            if text is None:
                full.unlink()
                continue
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_text(text)
        author.commit(f"A wish of {who}")
        author.must("git", "push", "--quiet", "origin", f"HEAD:{who}")
        return author.must("git", "rev-parse", "HEAD").out.strip()

    def merge(self, branch: str) -> Answer:
        """Merge a branch into main, as a server's button does, and push it."""
        maintainer = self.clone("maintainer")
        maintainer.must("git", "checkout", "--quiet", "-B", "main", "origin/main")
        answer = maintainer.must("git", "merge", "--no-ff", "--message", f"Merge {branch}", f"origin/{branch}")
        maintainer.must("git", "push", "--quiet", "origin", "main")
        return answer

    def main(self, name: str) -> Team:
        """Somebody's clone with main of this hour checked out."""
        team = self.clone(name)
        team.must("git", "checkout", "--quiet", "-B", "main", "origin/main")
        return team

    def objects(self, remote: str) -> frozenset[str]:
        """Names of the objects on a remote, `released` or `quarantine`."""
        root = self.place / remote / "files/md5"
        return frozenset(path.parent.name + path.name for path in root.glob("*/*"))

    def tags(self) -> frozenset[str]:
        """Tags of the origin."""
        out = Team(root=self.place).must("git", "ls-remote", "--tags", "--refs", "origin.git").out
        return frozenset(line.split("refs/tags/")[1] for line in out.splitlines())

    def copy(self, place: Path) -> Yard:
        """All of it once more."""
        shutil.copytree(self.place, place, symlinks=True)
        return Yard(place=place)


def begin(place: Path) -> Yard:
    """A yard whose main has three variants, built; one is released, and `prod` is at that release."""
    manifests = {
        "support": SUPPORT,
        "calm": cast_of(WIDE, "dtype: float16, targets: attention"),
        "plain": cast_of("tiny", "dtype: float16"),
    }
    yard = _make(place, manifests)
    maintainer = yard.main("maintainer")
    maintainer.must("varietal", "release", "support@v1.0.0", "--push")
    maintainer.must("varietal", "promote", "support@v1.0.0", "prod", "--push")
    return yard


def _make(place: Path, manifests: Mapping[str, str]) -> Yard:
    """A yard whose main has one base and these variants, built, its bytes on the remote named `released`."""
    place.mkdir(parents=True)
    shop, team = Workshop(root=place / "shop"), Team(root=place / "seed")
    base = shop.model(llama(dtype=torch.bfloat16), **_CONFIG)
    letters = {letter: number for number, letter in enumerate("abcdefgequrn")}
    Tokenizer(models.BPE(vocab=letters, merges=[])).save(str(base / "tokenizer.json"))
    shutil.copytree(base, team.root / "sources/tiny", ignore=shutil.ignore_patterns(LISTING))
    team.must("varietal", "init", ".", "--base", "tiny=sources/tiny", "--ci", "none", "--remote", "/nowhere")
    (team.root / ".dvc/config").write_text(_REMOTES)
    for variant, text in manifests.items():
        (team.root / "models" / variant).mkdir(parents=True)
        (team.root / "models" / variant / "model.yaml").write_text(text)
    _build(team)
    team.must("dvc", "push", "--quiet")
    team.commit("Build")
    team.must("git", "clone", "--quiet", "--bare", ".", "../origin.git")
    shutil.rmtree(shop.root)
    shutil.rmtree(team.root)
    return Yard(place=place)


def _build(team: Team) -> None:
    """As `dvc repro` would, and every stage by the real command; but torch is loaded once, for all of them."""
    with Commands() as commands:
        commands.must(team.root, "compile")
        graph = build_graph(load(team.root))
        for address in in_order(graph):
            commands.must(team.root, "run", address.variant, address.stage)
        for variant in sorted({address.variant for address in graph}):
            names = [address.stage for address in graph if address.variant == BASES == variant]
            commands.must(team.root, "run", variant, RECORDS, *names)
    team.must("dvc", "commit", "--quiet", "--force")
