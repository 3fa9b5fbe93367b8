"""The linter sees direct imports; these fresh processes see what really gets loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).resolve().parents[2]
_HEAVY: Final = frozenset(
    {"accelerate", "datasets", "dvc", "git", "jsonschema", "numpy", "peft", "ruamel", "torch", "transformers", "trl"}
)
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
        ("log", "counter"),
        ("show", "counter:final"),
        ("lineage", "counter:final"),
        ("find", "sha256:00000000"),
        ("verify", "counter:final"),
        ("gate", "counter"),
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
