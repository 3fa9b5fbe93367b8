"""The linter sees direct imports; these fresh processes see what really gets loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from builder.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOT: Final = Path(__file__).resolve().parents[2]
_HEAVY: Final = frozenset(
    {"accelerate", "datasets", "dvc", "git", "jsonschema", "numpy", "peft", "ruamel", "torch", "transformers", "trl"}
)
_TRAINING: Final = frozenset({"accelerate", "datasets", "peft", "transformers", "trl"})
_PRINT_MODULES: Final = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
_RUN_VERB: Final = f"""
import atexit, io, sys
names = {_PRINT_MODULES!r}
atexit.register(lambda: exec(names, {{}}))
atexit.register(setattr, sys, "stdout", sys.stdout)
from builder.cli import main
sys.argv = ["varietal", *sys.argv[1:]]
sys.stdout = io.StringIO()
sys.exit(main())
"""


def _loaded_by(program: str, *arguments: str) -> frozenset[str]:
    """Top-level modules that a fresh Python holds after it ran the program, whatever the exit code."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("["), done.stderr
    return frozenset(json.loads(done.stdout))


def _base_install() -> frozenset[str]:
    """Distributions that `pip install varietal` brings, without extras: the closure of what they require."""
    found: set[str] = set()
    open_names = ["varietal"]
    while open_names:
        name = _normal(open_names.pop())
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        open_names += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requirements if "extra ==" not in line]
    return frozenset(found)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("package", ["registry", "builder"])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    assert not _loaded_by(f"import {package}\n{_PRINT_MODULES}") & _HEAVY


def test_the_registry_stands_without_the_builder() -> None:
    loaded = _loaded_by(f"import registry.cli\n{_PRINT_MODULES}")
    assert "builder" not in loaded
    assert not loaded & _HEAVY


def test_the_whole_command_loads_nothing_heavy() -> None:
    assert not _loaded_by(f"import builder.cli\n{_PRINT_MODULES}") & _HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("list",),
        ("list", "--json"),
        ("lint",),
        ("compile", "--check"),
        ("upgrade", "--check"),
        ("doctor",),
        ("log", "counter"),
        ("changelog", "counter"),
        ("show", "counter:final"),
        ("lineage", "counter:final"),
        ("find", "sha256:00000000"),
        ("verify", "counter:final"),
        ("gate", "counter"),
        ("matrix", "--json"),
        ("plan",),
        ("plan", "--json"),
        ("plan", "--markdown", "--against", "HEAD"),
    ],
    ids=" ".join,
)
def test_a_light_verb_loads_only_the_base_install(arguments: tuple[str, ...]) -> None:
    loaded = _loaded_by(_RUN_VERB, *arguments)
    allowed = _base_install()
    owners = packages_distributions()
    strangers = {name for name in loaded if name in owners and not {_normal(owner) for owner in owners[name]} & allowed}
    assert not strangers - _brought_by_the_environment()


def _brought_by_the_environment() -> frozenset[str]:
    """What a bare Python of this environment holds already, through `.pth` files."""
    return _loaded_by(_PRINT_MODULES)


# Each stage that makes weights, in a process of its own that has loaded torch and no more: a fork of the one that made
# the models. Its models, with their tokenizers, come from this test; the word `wordy` is of one with other tokens.
_RUN_STAGES: Final = """
import json, os, sys, traceback
from pathlib import Path

from registry.artifact import Artifact
from tests.staged import inputs_of, node_of, run_node
from tests.workshop import HIDDEN, QUERY, Workshop, llama, lora

root, stages = Path(sys.argv[1]), json.loads(sys.argv[2])
shop = Workshop(root=root)
config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "vocab_size": 16, "initializer_range": 0.02}
folders = {}
for name, letters, tensors in (
    ("base", "abcdefghijkmnpxy", llama()),
    ("one", "abcdefghijkmnpxy", {key: value * 2 for key, value in llama().items()}),
    ("wordy", "bacdefghijkmnpxz", {key: value * 3 for key, value in llama().items()}),
):
    folders[name] = shop.model(tensors, **config)
    table = {"type": "BPE", "vocab": {letter: number for number, letter in enumerate(letters)}, "merges": []}
    parts = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    (folders[name] / "tokenizer.json").write_text(json.dumps({"added_tokens": [], **parts, "model": table}))
    (folders[name] / "artifact.json").unlink()
    Artifact.from_folder(folders[name], "model").write(folders[name])
for seed, name in enumerate(("tone", "voice")):
    folders[name] = shop.adapter(folders["base"], lora({QUERY: (HIDDEN, HIDDEN)}, seed=seed))
models, adapters = ("one", "wordy"), ("tone", "voice")
sys.stdout.flush()
for name, stage in stages.items():
    child = os.fork()
    if not child:
        code = 1
        try:
            node = node_of(stage, models=models, adapters=adapters)
            run_node(node, inputs_of(node, folders), root / f"out {name}")
            print(json.dumps([name, sorted({module.split(".")[0] for module in sys.modules})]), flush=True)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, name
"""
_WEIGHTS_STAGES: Final[dict[str, dict[str, Any]]] = {
    "fold": {"kind": "fold", "from": "base", "adapters": {"tone": 1.0, "voice": 0.5}},
    "fuse": {"kind": "fuse", "adapters": {"tone": 1.0, "voice": 0.5}, "method": "ties", "rank": 2},
    "blend": {"kind": "blend", "method": "ties", "models": {"one": 1.0}, "against": "base"},
    "blend union": {"kind": "blend", "method": "linear", "models": {"one": 1.0, "wordy": 1.0}, "tokenizer": "union"},
    "extract": {"kind": "extract", "from": "one", "against": "base", "rank": 2, "rest": "save"},
    "graft": {"kind": "graft", "from": "base", "vocabulary": {"tokens": ["abx"]}, "layers": ["0", "0-1"]},
    "graft head": {"kind": "graft", "from": "base", "head": {"type": "reward", "pad": "a"}},
    "cast": {"kind": "cast", "from": "base", "dtype": "float32"},
}


@pytest.fixture(scope="module")
def loaded_by_stage(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, frozenset[str]]:
    """Top-level modules that a process holds after it ran one stage."""
    arguments = [sys.executable, "-c", _RUN_STAGES, str(tmp_path_factory.mktemp("stages")), json.dumps(_WEIGHTS_STAGES)]
    done = subprocess.run(arguments, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: frozenset(modules) for name, modules in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("stage", _WEIGHTS_STAGES)
def test_a_stage_that_makes_weights_loads_torch_and_nothing_of_the_training_stack(
    loaded_by_stage: Mapping[str, frozenset[str]], stage: str
) -> None:
    assert "torch" in loaded_by_stage[stage]
    assert not loaded_by_stage[stage] & _TRAINING


def test_every_kind_that_makes_weights_is_asked() -> None:
    assert {stage["kind"] for stage in _WEIGHTS_STAGES.values()} == {name for name, one in KINDS.items() if one.weights}
