"""``runners:`` of params.yaml: what `varietal lint` lets pass, the registry can read, and the other way round."""

from __future__ import annotations

import pytest

from builder.manifest import parse_project
from registry.errors import InvalidError
from registry.runners import read_runner_rules

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJKLacSRZh2dMO640b1JAkR961bjS6JWsfhBwO1t6Y+R"


@pytest.mark.parametrize(
    ("runners", "good"),
    [
        ({}, True),
        ({"requests": {}}, True),
        ({"requests": {"gpu-1": KEY}}, True),
        ({"branches": {"gpu-1": f"{KEY} gpu@home"}}, True),
        ({"requests": {"a": KEY, "b": KEY}, "branches": {"c": KEY}}, True),
        ({"requests": [KEY]}, False),
        ({"requests": {"gpu-1": "gpu-1"}}, False),
        ({"requests": {"gpu-1": {"key": KEY}}}, False),
        ({"requests": {"gpu-1": KEY[:-1]}}, False),
        ({"requests": {"gpu-1": KEY.replace("ssh-ed25519", "ssh-dss")}}, False),
        ({"requests": {"gpu-1": KEY}, "main": {"gpu-1": KEY}}, False),
        ({"gpu-1": KEY}, False),
        ([], False),
        (None, False),
    ],
)
def test_both_readers_agree(runners: object, *, good: bool) -> None:
    value = {"bases": {}, "runners": runners}
    if good:
        project = parse_project(value)  # type: ignore[arg-type]
        rules = read_runner_rules(value, where="params.yaml")  # type: ignore[arg-type]
        assert {*rules.requests} == {*project.runners.requests}
        assert {*rules.branches} == {*project.runners.branches}
        return
    with pytest.raises(InvalidError):
        parse_project(value)  # type: ignore[arg-type]
    with pytest.raises(InvalidError):
        read_runner_rules(value, where="params.yaml")  # type: ignore[arg-type]
