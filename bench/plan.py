"""How long `varietal plan` takes on 500 and on 10,000 stages, beside `dvc status` on the same tree.

Every stage stands as a build leaves it: artifact, record, lock, and DVC's cache, all small and planted. Both commands
run as whole processes. "First" is without the memo, as in a fresh clone; the others are as on every later day.

Runs: python -m bench.plan [--variants 100 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from builder.compiled import write_pipelines
from builder.graph import build_graph
from builder.kinds import KINDS
from builder.load import load
from tests.planted import plant_all
from tests.team import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCRIPTS: Final = Path(sysconfig.get_path("scripts"))
_ROUNDS: Final = 5
_SETTLE_S: Final = 2.5  # what is younger than this is not remembered
_BOUNDS: Final = {"no-op, 500": 0.5, "no-op, 10000": 6.0, "one edit, 10000": 2.0, "ratio": 15.0}
_STAGES: Final = 5


class _Taken(NamedTuple):
    """How long one run took; the second tells more where others use the machine too."""

    wall_s: float
    cpu_s: float

    def __str__(self) -> str:
        """For people."""
        return f"{self.wall_s:6.2f} s (CPU {self.cpu_s:5.2f} s)"


def _make(root: Path, variants: int) -> None:
    """A repository of that many variants of five stages each, built and committed."""
    (root / "data").mkdir(parents=True)
    for name in ("talks", "likes", "heldout"):
        (root / "data" / f"{name}.jsonl").write_text("{}\n")
    recipes = ", ".join(f"{kind}: 1" for kind in KINDS)
    base = f'{{path: sources/tiny, sha256: "{"0" * 64}"}}'
    (root / "params.yaml").write_text(f"bases: {{tiny: {base}}}\nrecipes: {{{recipes}}}\ndefaults: {{}}\n")
    for number in range(variants):
        folder = root / "models" / f"v{number:05}"
        folder.mkdir(parents=True)
        (folder / "model.yaml").write_text(MANIFEST.replace("beta: 0.1", f"beta: 0.1{number + 1:05}"))
    (root / ".gitignore").write_text(
        "/models/*/artifacts/\n/bases/*\n!/bases/*.*\n/.varietal/\n/.dvc/cache/\n/.dvc/tmp/\n"
    )
    (root / ".dvcignore").write_text("/.varietal/\n")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("config", "user.name", "Bench"),
        ("config", "user.email", "bench@example.invalid"),
        ("config", "commit.gpgsign", "false"),
    ):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    write_pipelines(root)
    workspace = load(root)
    plant_all(root, workspace, build_graph(workspace))
    subprocess.run(["git", "add", "--all"], cwd=root, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "Build"], cwd=root, check=True)
    time.sleep(_SETTLE_S)


def _seconds(root: Path, *command: str, says: str) -> _Taken:
    """Wall and CPU seconds of one run, which must say what it should."""
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(root.parent / "site"), "DVC_NO_ANALYTICS": "1"}
    words = [str(_SCRIPTS / command[0]), *command[1:]]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, cwd=root, env=environment, check=True, capture_output=True, text=True)
    wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if says not in done.stdout:
        message = f"{' '.join(command)} said {done.stdout[-300:]}"
        raise RuntimeError(message)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _Taken(wall_s=wall_s, cpu_s=cpu_s)


def _median(taken: Sequence[_Taken]) -> _Taken:
    return _Taken(
        wall_s=statistics.median(one.wall_s for one in taken), cpu_s=statistics.median(one.cpu_s for one in taken)
    )


def _row(name: str, ours: float, peer: float, bound: float, *, holds: bool) -> dict[str, object]:
    return {
        "bench": f"plan/{name}",
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "unit": "s",
        "ratio": round(peer / ours, 1),
        "bound": bound,
        "holds": holds,
    }


def _measure(root: Path, variants: int) -> list[dict[str, object]]:
    """Rows of one size: the plan with nothing to do, by memo; with one edit, where there are many stages."""
    count = variants * _STAGES
    nothing = f"nothing to do: {count + 1} stages"
    first = _seconds(root, "varietal", "plan", says=nothing)
    later = _median([_seconds(root, "varietal", "plan", says=nothing) for _ in range(_ROUNDS)])
    print(f"{count} stages: varietal plan   first {first}   later {later}, median of {_ROUNDS}")
    rows: list[dict[str, object]] = []
    if f"no-op, {count}" in _BOUNDS:
        bound = _BOUNDS[f"no-op, {count}"]
        rows.append(_row(f"no-op, {count}", later.wall_s, bound, bound, holds=later.wall_s <= bound))
        if count > 1000:  # noqa: PLR2004 - at 500 a first plan is half start-up and half reading
            rows.append(_row(f"no-op, {count}, first", first.wall_s, bound, bound, holds=first.wall_s <= bound))
    if count <= 1000:  # noqa: PLR2004 - DVC takes minutes for more
        _seconds(root, "dvc", "status", says="up to date")  # it remembers hashes, too
        peer = _seconds(root, "dvc", "status", says="up to date")
        print(f"{count} stages: dvc status      later {peer}, once its hashes are remembered")
        least, name = _BOUNDS["ratio"], f"no-op, {count}, beside dvc status"
        rows.append(_row(name, later.wall_s, peer.wall_s, least, holds=peer.wall_s / later.wall_s >= least))
    rows += _measure_edit(root, count)
    return rows


def _measure_edit(root: Path, count: int) -> list[dict[str, object]]:
    """Another value in one manifest each time, so that one variant is looked at and asked of the history."""
    path = root / "models/v00007/model.yaml"
    text = path.read_text()
    taken: list[_Taken] = []
    for round_ in range(_ROUNDS + 1):
        path.write_text(text.replace("steps: 2, batch: 2}}\n  toned", f"steps: {round_ + 3}, batch: 2}}}}\n  toned"))
        taken.append(_seconds(root, "varietal", "plan", says="1 run, 4 maybe"))
    later = _median(taken[1:])
    print(f"{count} stages: one edit        first {taken[0]}   later {later}, median of {_ROUNDS}")
    path.write_text(text)
    name = f"one edit, {count}"
    if name not in _BOUNDS:
        return []
    return [_row(name, later.wall_s, _BOUNDS[name], _BOUNDS[name], holds=later.wall_s <= _BOUNDS[name])]


def main() -> int:
    """Measure each size; print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, nargs="+", default=[100, 2000], help="variants, of five stages each")
    chosen = parser.parse_args()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    rows: list[dict[str, object]] = []
    for variants in chosen.variants:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "team"
            _make(root, variants)
            rows += _measure(root, variants)
    print(json.dumps(rows))
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
