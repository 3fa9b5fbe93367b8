"""Memory of what makes weights does not grow with the model: models of 400 MB, each stage in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from bench._models import Shape, layers_for, make_model

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path(__file__).parents[2]
_SIZE_BYTES: Final = 400 * 10**6
_SHAPE: Final = Shape(hidden=2048, inner=5632, heads=16, kv_heads=4, words=64_000, tied=True)
_LIMIT_MIB: Final = 250  # above `import torch`: as much as the embedding, which no stage may ever hold whole

# The kernel's figure for this very process: that of `getrusage` starts with what its parent took.
_PROGRAM: Final = """
import json, re, sys
from pathlib import Path

import torch

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

before = peak_mib()
from tests.staged import inputs_of, node_of, run_node

folder, out, stage = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
models = {path.name: path for path in folder.iterdir()}
node = node_of(stage, models=models.keys() - {"base"})
run_node(node, inputs_of(node, models), out, threads=2)
print(json.dumps(peak_mib() - before))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three models of one shape with other numbers."""
    folder = tmp_path_factory.mktemp("models")
    layers = layers_for(_SHAPE, _SIZE_BYTES)
    for seed, name in enumerate(("base", "one", "two")):
        assert make_model(folder / name, _SHAPE, layers=layers, seed=seed, scale=0.02 + 0.001 * seed) >= _SIZE_BYTES
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "stage",
    [
        {"kind": "blend", "method": "linear", "models": {"one": 0.6, "two": 0.4}},
        {
            "kind": "blend",
            "method": "ties",
            "models": {"one": {"weight": 0.6, "density": 0.5}, "two": {"weight": 0.4, "density": 0.5}},
            "against": "base",
        },
        {"kind": "graft", "from": "one", "untie": True, "vocabulary": {"multiple": 65536, "start": "normal"}},
        {"kind": "cast", "from": "one", "dtype": "float32"},
    ],
    ids=["linear", "ties", "graft", "cast"],
)
def test_a_model_of_400_mb_takes_less_than_250_mib(models: Path, tmp_path: Path, stage: dict[str, Any]) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(models), str(tmp_path / "out"), json.dumps(stage)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    shutil.rmtree(tmp_path / "out")
    assert written > _SIZE_BYTES
    assert json.loads(done.stdout) < _LIMIT_MIB
