"""How long `varietal list` takes in this repository, beside a bare `import typer`: the price of one word at the prompt.

Runs: python bench/start_up.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent
_VARIETAL: Final = Path(sysconfig.get_path("scripts")) / "varietal"
_OURS: Final = (str(_VARIETAL), "list")
_PEER: Final = (sys.executable, "-c", "import typer")
_ROUNDS: Final = 15
_BOUND: Final = 3.0


def _seconds(command: tuple[str, ...]) -> float:
    """Wall seconds of one run; its output is thrown away, its failure is not."""
    start = time.perf_counter()
    subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    """Time both in turn, after one unmeasured run of each; print the two medians and the result line."""
    _seconds(_OURS)
    _seconds(_PEER)
    rounds = [(_seconds(_OURS), _seconds(_PEER)) for _ in range(_ROUNDS)]
    ours = statistics.median(first for first, _ in rounds)
    peer = statistics.median(second for _, second in rounds)
    print(f"varietal list            {ours * 1000:6.0f} ms   median of {_ROUNDS}")
    print(f'python -c "import typer" {peer * 1000:6.0f} ms')
    result = {
        "bench": "start_up",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "unit": "s",
        "ratio": round(ours / peer, 2),
        "bound": _BOUND,
        "holds": ours <= _BOUND * peer,
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
