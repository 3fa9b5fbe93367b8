"""Memory of a fold does not grow with the model: 1 GB is folded, in a process of its own, in less than half of that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_LIMIT_MIB = 500

_MAKE = """
import sys
from pathlib import Path

from bench.fold_lora import make_adapter
from bench._models import SMALL, layers_for, make_model

folder = Path(sys.argv[1])
print(make_model(folder / "base", SMALL, layers=layers_for(SMALL, 10**9)))
make_adapter(folder / "adapter", folder / "base")
"""

_FOLD = """
import json
import resource
import sys
from pathlib import Path

from bench.fold_lora import fold_context
from builder.stages.fold import fold

folder = Path(sys.argv[1])
outcome = fold(fold_context(folder / "base", [folder / "adapter"], folder / "out", threads=2))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
strangers = sorted({"transformers", "peft"} & set(sys.modules))
print(json.dumps({"peak_mib": peak, "written": len(outcome.written), "strangers": strangers}))
"""


def _run(program: str, folder: Path) -> str:
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_a_model_of_1_gb_is_folded_in_less_than_500_mib(tmp_path: Path) -> None:
    assert int(_run(_MAKE, tmp_path)) >= 10**9
    found = json.loads(_run(_FOLD, tmp_path))
    assert found["peak_mib"] < _LIMIT_MIB
    assert found["strangers"] == []
    assert found["written"] > 0
