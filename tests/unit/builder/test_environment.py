"""In a fresh process each, since what is tested is what happens before and after torch comes in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def run(code: str) -> Any:  # noqa: ANN401 - JSON
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_versions_come_without_torch() -> None:
    found = run(
        "import json, sys\n"
        "from builder.environment import environment\n"
        "print(json.dumps([environment(), 'torch' in sys.modules]))"
    )
    facts, loaded = found
    assert not loaded
    assert set(facts) >= {"python", "platform", "torch", "transformers", "trl", "peft"}
    assert "threads" not in facts
    assert all("/" not in fact for fact in facts.values())


def test_preparing_settles_threads_and_determinism() -> None:
    variables, device, facts, deterministic = run(
        "import json, os, sys\n"
        "from builder.environment import environment, prepare\n"
        "from builder.runner import Runner\n"
        "device = prepare(Runner(device='cpu', threads=1))\n"
        "import torch\n"
        "names = ('HF_HUB_OFFLINE', 'HF_HUB_DISABLE_TELEMETRY', 'CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS')\n"
        "print(json.dumps([[os.environ[name] for name in names], [device.kind, device.threads], environment(),"
        " torch.are_deterministic_algorithms_enabled()]))"
    )
    assert variables == ["1", "1", "", "1"]
    assert device == ["cpu", 1]
    assert facts["threads"] == "1"
    assert facts["cpu_capability"]
    assert deterministic


def test_the_runner_asks_for_a_gpu_that_is_not_there() -> None:
    message = run(
        "import json, os\n"
        "os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "from builder.environment import prepare\n"
        "from builder.runner import Runner\n"
        "from registry.errors import MachineError\n"
        "try:\n"
        "    prepare(Runner(device='cuda'))\n"
        "except MachineError as error:\n"
        "    print(json.dumps(str(error)))"
    )
    assert message == (
        "no CUDA device is available\n"
        "  where: .varietal/runner.yaml: device\n"
        "  mend: write `device: auto`, or run on a machine with a GPU and a CUDA build of torch"
    )


def test_a_stage_that_gains_little_from_a_gpu_takes_one_only_when_asked() -> None:
    found = run(
        "import json\n"
        "import torch\n"
        "from builder.environment import prepare\n"
        "from builder.runner import Runner\n"
        "torch.cuda.is_available = lambda: True\n"
        "torch.cuda.get_device_name = lambda: 'card'\n"
        "table = {(device, gain): prepare(Runner(device=device), gain=gain).kind\n"
        "    for device in ('auto', 'cpu', 'cuda') for gain in ('much', 'little', 'none')}\n"
        "print(json.dumps([[*key, kind] for key, kind in table.items()]))"
    )
    assert {(device, gain) for device, gain, kind in found if kind == "cuda"} == {
        ("auto", "much"),
        ("cuda", "much"),
        ("cuda", "little"),
    }


def test_a_stage_that_names_its_device_itself_hides_no_gpu_from_the_next_one() -> None:
    hidden = run(
        "import json, os\n"
        "os.environ.pop('CUDA_VISIBLE_DEVICES', None)\n"
        "from builder.environment import prepare\n"
        "from builder.runner import Runner\n"
        "found = []\n"
        "for gain in ('none', 'little', 'much'):\n"
        "    prepare(Runner(device='cpu'), gain=gain)\n"
        "    found.append(os.environ.get('CUDA_VISIBLE_DEVICES') == '')\n"
        "print(json.dumps(found))"
    )
    assert hidden == [False, False, True]
