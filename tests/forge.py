"""An origin with a main branch, a runner's clone of it, and people who ask for merges: real git, no DVC command.

What a build leaves behind (artifacts, records, locks, objects in DVC's cache) is written by hand, as DVC writes it.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli import main
from builder.compiled import write_pipelines
from builder.kinds import KINDS
from builder.request.assemble import assemble
from builder.request.assembled import request_folder
from registry.history import Repository
from registry.lock import content_md5
from registry.record import BASES, Record, artifact_folder, artifact_record, git_record, lock_file
from registry.remote import DvcCache
from tests.repositories import git, input_from, make_artifact, make_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.request.assembled import Assembled

__all__ = ["MANIFEST", "Answer", "Forge", "commit", "write_built"]

MANIFEST = """\
schema: 1
base: tiny
data: {talks: {path: data/talks.jsonl, format: messages}}
stages:
  tone: {kind: sft, from: base, data: talks, adapter: {rank: 2}, train: {steps: 2}}
  final: {kind: fold, from: base, adapters: {tone: 1.0}}
release: final
checks: []
"""
TALK = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def commit(root: Path, message: str = "Change") -> str:
    """Commit everything, whatever it is."""
    git(root, "add", "--all", "--force")
    git(root, "commit", "--quiet", "--allow-empty", f"--message={message}")
    return git(root, "rev-parse", "HEAD").strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the command said."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Forge:
    """The places.

    Attributes:
        origin: Bare repository.
        runner: The runner's clone.
        author: A clone with a branch ``wish`` checked out, on which a request is made.
    """

    origin: Path
    runner: Path
    author: Path

    @classmethod
    def make(cls, place: Path) -> Forge:
        """One base, one variant, a default remote and a quarantine."""
        seed = place / "seed"
        seed.mkdir(parents=True)
        git(seed, "init", "--quiet", "--initial-branch=main")
        _name(seed)
        recipes = json.dumps({name: kind.recipe for name, kind in KINDS.items()})
        write(
            seed,
            {
                "params.yaml": f'bases:\n  tiny: {{path: sources/tiny, sha256: "{"0" * 64}"}}\n'
                f"recipes: {recipes}\ndefaults: {{}}\n",
                "models/support/model.yaml": MANIFEST,
                "data/talks.jsonl": TALK,
                ".gitignore": "/models/*/artifacts/\n/bases/?*\n!/bases/dvc.yaml\n!/bases/dvc.lock\n!/bases/records/\n"
                "/.varietal/\n",
                ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
                ".dvcignore": "/.varietal/\n",
                ".dvc/config": "[core]\n    remote = store\n    analytics = false\n"
                f"['remote \"store\"']\n    url = {place / 'store'}\n"
                f"['remote \"quarantine\"']\n    url = {place / 'quarantine'}\n",
            },
        )
        write_pipelines(seed)
        commit(seed, "Begin")
        git(place, "clone", "--quiet", "--bare", str(seed), "origin.git")
        for name in ("runner", "author"):
            git(place, "clone", "--quiet", str(place / "origin.git"), name)
            _name(place / name)
        git(place / "author", "checkout", "--quiet", "-b", "wish")
        return cls(origin=place / "origin.git", runner=place / "runner", author=place / "author")

    @property
    def repository(self) -> Repository:
        """The runner's."""
        return Repository(self.runner)

    def ask(self, files: Mapping[str, str | bytes | None] = {}, message: str = "Wish") -> str:
        """Commit files on the author's branch, push it, and let the runner fetch; the id of the commit."""
        write(self.author, files)
        made = commit(self.author, message)
        self.send()
        return made

    def send(self) -> None:
        """Push the author's branch and let the runner fetch everything."""
        git(self.author, "push", "--quiet", "--force", "origin", "wish")
        self.fetch()

    def fetch(self) -> None:
        """Let the runner fetch, as its workflow does."""
        git(self.runner, "fetch", "--quiet", "--prune", "origin", "+refs/heads/*:refs/remotes/origin/*")

    def assemble(self, request: str = "origin/wish") -> Assembled:
        """Assemble a request in the runner's repository."""
        commit_id = self.repository.resolve(request)
        return assemble(self.repository, commit_id, request_folder(self.runner, commit_id), main="origin/main")

    def main(self, files: Mapping[str, str | bytes | None]) -> str:
        """Commit to main at the origin, and let the runner fetch."""
        git(self.runner, "fetch", "--quiet", "origin")
        place = self.runner.parent / "maintainer"
        if not place.exists():
            git(place.parent, "clone", "--quiet", str(self.origin), place.name)
            _name(place)
        git(place, "pull", "--quiet")
        write(place, files)
        write_pipelines(place)
        made = commit(place, "On main")
        git(place, "push", "--quiet", "origin", "main")
        self.fetch()
        return made

    def call(self, *arguments: str, at: Path | None = None) -> Answer:
        """Run the command itself, in this process: a new one takes seconds to load DVC."""
        place = self.runner.parent
        variables = {"VARIETAL_STORE": str(place / "content"), "DVC_SITE_CACHE_DIR": str(place / "site")}
        out, err, before, argv = io.StringIO(), io.StringIO(), Path.cwd(), sys.argv
        os.environ.update({**variables, "DVC_NO_ANALYTICS": "1"})  # the test's end puts them back
        os.chdir(at or self.runner)
        sys.argv = ["varietal", *arguments]
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = argv
            os.chdir(before)
        return Answer(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def write(root: Path, files: Mapping[str, str | bytes | None]) -> None:
    """Write files; ``None`` removes one."""
    for path, content in files.items():
        full = root / path
        if content is None:
            full.unlink()
            continue
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(content.encode() if isinstance(content, str) else content)


def write_built(root: Path, variant: str, stages: Mapping[str, bytes]) -> dict[str, Record]:
    """What a build of a variant leaves: one artifact a stage, of one tensor with these bytes."""
    records: dict[str, Record] = {}
    lines = ["schema: '2.0'", "stages:"]
    for stage, tensor in stages.items():
        folder = root / artifact_folder(variant, stage)
        artifact = make_artifact(folder, {"w": tensor})
        before = list(records.values())[-1:]
        record = make_record(f"{variant}:{stage}", artifact, inputs=[input_from(one) for one in before])
        records[stage] = record
        data = record.to_bytes()
        for path in (artifact_record(variant, stage), git_record(variant, stage)):
            write(root, {str(path): data})
        name = f"base@{stage}" if variant == BASES else stage
        outs = {
            str(artifact_folder(variant, stage)): _cache_folder(root, folder),
            str(artifact_record(variant, stage)): data,
        }
        lines += [f"  {name}:", f"    cmd: varietal run {variant} {stage}", "    outs:"]
        for path, content in outs.items():
            oid = content if isinstance(content, str) else _cache(root, content)
            lines += [f"    - path: {path}", "      hash: md5", f"      md5: {oid}", "      size: 1"]
    write(root, {str(lock_file(variant)): "\n".join(lines) + "\n"})
    return records


def _cache_folder(root: Path, folder: Path) -> str:
    entries = [{"md5": _cache(root, path.read_bytes()), "relpath": path.name} for path in sorted(folder.iterdir())]
    return _cache(root, json.dumps(entries, sort_keys=True).encode(), ".dir")


def _cache(root: Path, data: bytes, suffix: str = "") -> str:
    oid = content_md5(data) + suffix
    path = DvcCache(root).folder / "files" / "md5" / oid[:2] / oid[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return oid


def _name(root: Path) -> None:
    for key, value in {"user.name": "A", "user.email": "a@example.org", "commit.gpgsign": "false"}.items():
        git(root, "config", key, value)
