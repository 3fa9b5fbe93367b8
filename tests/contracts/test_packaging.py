from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import registry
from builder.start.packaged import constraints

_ROOT: Final = Path(__file__).resolve().parents[2]
_PROJECT: Final = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_PINS: Final = [line for line in (_ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def _normal(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def test_every_constraint_is_an_exact_pin_and_names_no_host() -> None:
    assert [line for line in _PINS if re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) is None] == []


def test_every_direct_requirement_is_pinned() -> None:
    extras = _PROJECT["optional-dependencies"].values()
    wanted = {_normal(line) for line in [*_PROJECT["dependencies"], *(line for extra in extras for line in extra)]}
    assert wanted - {_normal(pin) for pin in _PINS} == set()


def test_the_base_install_stays_small() -> None:
    assert {_normal(line) for line in _PROJECT["dependencies"]} == {"pyyaml", "typer"}


def test_the_two_places_of_the_version_agree() -> None:
    assert registry.__version__ == _PROJECT["version"]


def test_a_wheel_carries_the_versions_that_the_tool_is_tested_with() -> None:
    wheel = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"constraints.txt": "builder/start/constraints.txt"}
    assert constraints().splitlines()[1:] == _PINS


def test_every_action_is_pinned_by_commit() -> None:
    workflows = sorted((_ROOT / ".github" / "workflows").glob("*.yml"))
    uses = [line.strip() for path in workflows for line in path.read_text().splitlines() if " uses:" in line]
    assert uses != []
    assert [line for line in uses if re.fullmatch(r"- uses: [\w/-]+@[0-9a-f]{40} # v[\d.]+", line) is None] == []


def test_every_workflow_starts_without_rights() -> None:
    for path in sorted((_ROOT / ".github" / "workflows").glob("*.yml")):
        assert "\npermissions: {}\n" in path.read_text(), path.name
