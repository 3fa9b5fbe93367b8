"""A repository whose stages take no time: `varietal run` is played by a shell script, DVC, git and the build are real.

The script stands before `varietal` on the PATH and hands every other verb to the real one. Files beside the repository
tell it what to do: ``seconds`` how long a stage takes; ``fail`` which stages fail, ``variant:stage code`` a line;
``together`` how many stages of a variant have to have started before one ends, ``variant count`` a line. It leaves
``ran``, a line for each start and end of a stage, and ``environment``, what the last stage saw.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.compiled import write_pipelines
from builder.kinds import KINDS
from tests.team import Answer, Team

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Standin", "make_standin"]

_BIN = Path(sys.executable).parent

_SCRIPT = """\
#!/bin/sh
[ "$1" = run ] || exec REAL "$@"
v=$2 s=$3 made=models/$2/artifacts copies=models/$2/records
[ "$v" = bases ] && made=bases copies=bases/records
if [ "$s" = records ]; then
  mkdir -p $copies
  cp $made/*.json $copies/
  exit
fi
echo "start $v:$s $$" >> ../ran
env > ../environment
code=$(sed -n "s/^$v:$s //p" ../fail 2> /dev/null)
if [ -n "$code" ]; then
  echo "it cannot be done" >&2
  echo "  where: $v:$s" >&2
  echo "  mend: nothing" >&2
  exit $code
fi
sleep $(cat ../seconds 2> /dev/null || echo 0)
count=$(sed -n "s/^$v //p" ../together 2> /dev/null)
while [ "$(grep -c "^start $v:" ../ran)" -lt "${count:-0}" ]; do sleep 0.05; done
rm -rf $made/$s $made/$s.json
mkdir -p $made/$s
{ echo "$v:$s"; cat models/$v/model.yaml 2> /dev/null | cksum; } > $made/$s/config.json
echo "{\\"stage\\": \\"$v:$s\\"}" > $made/$s.json
echo "end $v:$s" >> ../ran
"""

_IGNORED = """\
/models/*/artifacts/
/bases/?*
!/bases/dvc.yaml
!/bases/dvc.lock
!/bases/records/
/.varietal/
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standin:
    """One such repository.

    Attributes:
        root: Its root.
    """

    root: Path

    @property
    def beside(self) -> Path:
        """The folder that it lies in, with what the script reads and writes."""
        return self.root.parent

    @property
    def ran(self) -> list[str]:
        """Stages that were started, in that order."""
        path = self.beside / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1] for line in lines if line.startswith("start ")]

    def most_at_once(self) -> int:
        """How many stages ran beside each other at most."""
        running, most = 0, 0
        for line in (self.beside / "ran").read_text().splitlines():
            running += 1 if line.startswith("start ") else -1
            most = max(most, running)
        return most

    def call(self, *command: str, **variables: str) -> Answer:
        """Run a command in the repository."""
        return Team(root=self.root).call(*command, **{"PATH": self._path(), **variables})

    def must(self, *command: str, **variables: str) -> Answer:
        """The same; a failure ends the test with what was said."""
        answer = self.call(*command, **variables)
        assert answer.code == 0, f"{' '.join(command)}: {answer.code}\n{answer.out}\n{answer.err}"
        return answer

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command and go on; its signals are as at a terminal."""
        environment = {**os.environ, "PATH": self._path(), "DVC_SITE_CACHE_DIR": str(self.beside / "site")}
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )

    def tell(self, **files: str) -> None:
        """Write the files that the script reads."""
        for name, text in files.items():
            (self.beside / name).write_text(text)

    def declare(self, manifests: Mapping[str, str]) -> None:
        """Write manifests, and their pipelines."""
        for variant, text in manifests.items():
            (self.root / "models" / variant).mkdir(parents=True, exist_ok=True)
            (self.root / "models" / variant / "model.yaml").write_text(text)
        write_pipelines(self.root)

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.must("git", "add", "--all")
        self.must("git", "commit", "--quiet", "--message", message)

    def copy(self, beside: Path) -> Standin:
        """A copy of the repository in another folder, with a script and a log of its own."""
        beside.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.root, beside / self.root.name, symlinks=True)
        other = Standin(root=beside / self.root.name)
        other.write_script()
        return other

    def write_script(self) -> None:
        """Put the script beside the repository."""
        script = self.beside / "bin" / "varietal"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(_SCRIPT.replace("REAL", str(_BIN / "varietal")))
        script.chmod(0o755)

    def _path(self) -> str:
        return os.pathsep.join((str(self.beside / "bin"), str(_BIN), os.environ["PATH"]))


def make_standin(beside: Path, manifests: Mapping[str, str]) -> Standin:
    """A repository with one base and some variants, committed and not yet built."""
    root = beside / "team"
    for folder in ("sources/tiny", "data", "models", "bases"):
        (root / folder).mkdir(parents=True)
    standin = Standin(root=root)
    standin.write_script()
    (root / "sources/tiny/config.json").write_text("{}")
    (root / "data/talks.jsonl").write_text('{"messages": []}\n')
    recipes = ", ".join(f"{name}: {kind.recipe}" for name, kind in KINDS.items())
    pin = f'bases: {{tiny: {{path: sources/tiny, sha256: "{"0" * 64}"}}}}'
    (root / "params.yaml").write_text(f"{pin}\nrecipes: {{{recipes}}}\ndefaults: {{}}\n")
    (root / ".gitignore").write_text(_IGNORED)
    (root / ".dvcignore").write_text("/.varietal/\n")
    standin.must("git", "init", "--quiet", "--initial-branch=main")
    standin.must("dvc", "init", "--quiet")
    standin.must("dvc", "config", "cache.type", "reflink,hardlink,copy")
    standin.declare(manifests)
    standin.commit("Declare")
    return standin
