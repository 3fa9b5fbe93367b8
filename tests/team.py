"""A team's repository for tests: made by `varietal init`, built by a real `dvc repro`, asked by the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from registry.record import Record

__all__ = ["MANIFEST", "Answer", "Team", "write_data"]

_BIN = Path(sys.executable).parent

MANIFEST = """\
schema: 1
description: A voice, then a preference, folded into a tiny model.
license: apache-2.0
base: tiny
data:
  talks: {path: data/talks.jsonl, format: messages}
  likes: {path: data/likes.jsonl, format: preference}
  heldout: {path: data/heldout.jsonl, format: text}
stages:
  tone: {kind: sft, from: base, data: talks, adapter: {rank: 2, targets: attention}, train: {steps: 2, batch: 2}}
  toned: {kind: fold, from: base, adapters: {tone: 1.0}}
  pref: {kind: dpo, from: toned, data: likes, adapter: {rank: 2}, train: {beta: 0.1, steps: 2, batch: 2}}
  final: {kind: fold, from: toned, adapters: {pref: 1.0}}
  score: {kind: evaluate, from: final, against: base, metrics: {bits_per_byte: heldout, kl: heldout}}
release: final
checks:
- {stage: score, metric: bits_per_byte, max_increase: 1.0}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def ran(self) -> list[str]:
        """Stages that `dvc repro` ran, by name."""
        marks = [line for line in self.out.splitlines() if line.startswith("Running stage '")]
        return [line.split("'")[1].rpartition(":")[2] for line in marks]


@dataclass(frozen=True, kw_only=True, slots=True)
class Team:
    """One repository."""

    root: Path

    def call(self, *command: str, **variables: str) -> Answer:
        """Run a command in the repository, with the tools of this environment on PATH."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = kept | {
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "VARIETAL_STORE": str(self.root.parent / "store"),
            "DVC_SITE_CACHE_DIR": str(self.root.parent / "site"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_AUTHOR_NAME": "Test",
            "GIT_AUTHOR_EMAIL": "test@example.invalid",
            "GIT_COMMITTER_NAME": "Test",
            "GIT_COMMITTER_EMAIL": "test@example.invalid",
            **variables,
        }
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr)

    def must(self, *command: str) -> Answer:
        """The same; a failure ends the test with what was said."""
        answer = self.call(*command)
        assert answer.code == 0, f"{' '.join(command)}: {answer.code}\n{answer.out}\n{answer.err}"
        return answer

    def edit(self, old: str, new: str, variant: str = "support") -> None:
        """Replace text in a manifest, and compile."""
        path = self.root / "models" / variant / "model.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        self.must("varietal", "compile")

    def record(self, stage: str, variant: str = "support") -> Record:
        """A stage's record in git."""
        path = self.root / "models" / variant / "records" / f"{stage}.json"
        return Record.from_bytes(path.read_bytes(), where=str(path))

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.must("git", "add", "--all")
        self.must("git", "commit", "--quiet", "--message", message)

    def copy(self, target: Path) -> Team:
        """A copy of the repository, cache and work tree included."""
        shutil.copytree(self.root, target, symlinks=True)
        return Team(root=target)


def write_data(root: Path) -> None:
    """Small data sets in words that the tiny tokenizer knows."""
    facts = [("the sky", "blue"), ("the sea", "cold"), ("the wheel", "one"), ("the corn", "ten")] * 3
    talks = [
        {"messages": [_say("user", f"tell me of {one}"), _say("assistant", f"{one} is {two}")]} for one, two in facts
    ]
    likes = [{"prompt": f"tell me of {one}", "chosen": f"yes , {two}", "rejected": f"no , {one}"} for one, two in facts]
    texts = [{"text": f"the baker tells the miller that {one} is {two}"} for one, two in facts[:4]]
    for name, rows in {"talks": talks, "likes": likes, "heldout": texts}.items():
        path = root / "data" / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
