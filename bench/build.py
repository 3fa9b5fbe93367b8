"""How `varietal build` compares with DVC alone: independent stages on two workers, and what it adds to each stage.

The stages only sleep; a script stands for `varietal run`, while DVC, git and the build are real. The peers are a plain
`dvc repro` of the same repository, and `dvc repro --single-item` given by hand for one stage after the other.

Runs: python bench/build.py [SECONDS_A_STAGE]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.standin import Standin, make_standin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STAGES: Final = 8
_SECONDS: Final = 20.0
_WORKERS: Final = 2
_FASTER: Final = 1.8
_ADDED_S: Final = 0.5
_ROUNDS: Final = 3

_MANIFEST: Final = (
    "schema: 1\nbase: tiny\ndata: {talks: {path: data/talks.jsonl, format: messages}}\nstages:\n"
    + "".join(
        f"  s{number}: {{kind: sft, from: base, data: talks, adapter: {{rank: 2}}, train: {{seed: {number}}}}}\n"
        for number in range(_STAGES)
    )
    + "release: s0\n"
)


def main() -> int:
    """Time both claims, each beside its peer, and print the result lines."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else _SECONDS
    with tempfile.TemporaryDirectory() as folder:
        standin = make_standin(Path(folder) / "declared", {"many": _MANIFEST})
        standin.must("dvc", "repro", "bases/dvc.yaml")
        added, by_hand, by_build = _added(standin, Path(folder))
        ours, peer = _parallel(standin, Path(folder), seconds)
    print(f"{_STAGES} stages of {seconds:.0f} s, {_WORKERS} at once: {ours:.1f} s; `dvc repro`: {peer:.1f} s")
    print(f"{_STAGES} stages of 0 s, one by one: {by_build:.2f} s; `dvc repro -s` for each: {by_hand:.2f} s")
    print(f"added to a stage: {added * 1000:.0f} ms, median of {_ROUNDS}")
    results = [
        {
            "bench": "build_parallel",
            "ours": round(ours, 2),
            "peer": round(peer, 2),
            "unit": "s",
            "ratio": round(peer / ours, 2),
            "bound": _FASTER,
            "holds": peer >= _FASTER * ours,
        },
        {
            "bench": "build_added_a_stage",
            "ours": round(by_build / (_STAGES + 1), 3),
            "peer": round(by_hand / (_STAGES + 1), 3),
            "unit": "s",
            "ratio": round(by_build / by_hand, 2),
            "bound": _ADDED_S,
            "holds": added <= _ADDED_S,
        },
    ]
    print(json.dumps(results))
    return 0 if all(result["holds"] for result in results) else 1


def _parallel(standin: Standin, folder: Path, seconds: float) -> tuple[float, float]:
    """Seconds of the build and of the plain repro, each on a copy of its own."""
    times = []
    for name, command in (
        ("ours", ("varietal", "build", "--jobs", str(_WORKERS))),
        ("peer", ("dvc", "repro", "models/many/dvc.yaml")),
    ):
        copy = standin.copy(folder / name)
        copy.tell(seconds=str(seconds))
        times.append(_seconds(lambda copy=copy, command=command: copy.must(*command)))  # type: ignore[misc]
        if len(copy.ran) != _STAGES:
            message = f"{name}: {len(copy.ran)} stages ran, expected {_STAGES}"
            raise RuntimeError(message)
    return times[0], times[1]


def _added(standin: Standin, folder: Path) -> tuple[float, float, float]:
    """Seconds that the build adds to each command of DVC that it gives, and both sums; medians."""
    targets = [f"models/many/dvc.yaml:{name}" for name in (*(f"s{number}" for number in range(_STAGES)), "records")]
    rounds = []
    for number in range(_ROUNDS):
        hand, built = (standin.copy(folder / f"{word}-{number}") for word in ("hand", "built"))
        by_hand = _seconds(lambda hand=hand: _each(hand, targets))  # type: ignore[misc]
        by_build = _seconds(lambda built=built: built.must("varietal", "build", "--jobs", "1"))  # type: ignore[misc]
        rounds.append((by_hand, by_build))
    by_hand, by_build = (statistics.median(one[place] for one in rounds) for place in (0, 1))
    added = statistics.median((built - hand) / len(targets) for hand, built in rounds)
    return added, by_hand, by_build


def _each(standin: Standin, targets: Sequence[str]) -> None:
    for target in targets:
        standin.must("dvc", "repro", "--single-item", target)


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
