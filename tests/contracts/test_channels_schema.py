"""``channels:`` of params.yaml: what `varietal lint` lets pass, the registry can read, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.load import load
from builder.manifest import parse_project
from registry.channels import read_rules
from registry.errors import InvalidError

if TYPE_CHECKING:
    from pathlib import Path

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJKLacSRZh2dMO640b1JAkR961bjS6JWsfhBwO1t6Y+R"


@pytest.mark.parametrize(
    ("channels", "good"),
    [
        ({}, True),
        ({"prod": {"promoters": {"ada": KEY}}}, True),
        ({"prod": {"promoters": {"ada": f"{KEY} ada@home", "grace": KEY}}, "staging": {"promoters": {"b": KEY}}}, True),
        ({"prod": {}}, False),
        ({"prod": {"promoters": {}}}, False),
        ({"prod": {"promoters": [KEY]}}, False),
        ({"prod": {"promoters": {"ada": "ada"}}}, False),
        ({"prod": {"promoters": {"ada": KEY.replace("ssh-ed25519", "ssh-dss")}}}, False),
        ({"prod": {"promoters": {"ada": KEY[:-1]}}}, False),
        ({"prod": {"promoters": {"ada": KEY.replace("AAAAC3", "AAAAC4")}}}, False),
        ({"prod": {"promoters": {"ada": f"{KEY[:40]}"}}}, False),
        ({"prod": {"promoters": {"ada": KEY}, "require": "signed"}}, False),
        ({"Prod": {"promoters": {"ada": KEY}}}, False),
        ({"prod-": {"promoters": {"ada": KEY}}}, False),
        ([], False),
    ],
)
def test_both_readers_agree(channels: object, *, good: bool) -> None:
    value = {"bases": {}, "channels": channels}
    if good:
        project = parse_project(value)
        rules = read_rules(value, where="params.yaml")
        assert {name: set(rule.promoters) for name, rule in rules.items()} == {
            name: set(channel.promoters) for name, channel in project.channels.items()
        }
        return
    with pytest.raises(InvalidError):
        parse_project(value)
    with pytest.raises(InvalidError):
        read_rules(value, where="params.yaml")


def test_a_key_that_is_none_inside_is_a_fault_with_its_line(tmp_path: Path) -> None:
    """Its form is right, so no schema finds it; found by nobody, it would end every reading of the channel."""
    rule = f"bases: {{}}\nchannels:\n  prod:\n    promoters:\n      ada: {KEY}\n      grace: {KEY[:-1]}\n"
    (tmp_path / "params.yaml").write_text(rule)
    with pytest.raises(InvalidError) as caught:
        load(tmp_path)
    (fault,) = caught.value.faults
    assert (fault.file, fault.line, fault.key) == ("params.yaml", 6, "channels.prod.promoters.grace")
    assert fault.problem.startswith("expected an SSH public key, got text 'ssh-ed25519 AAAA")
