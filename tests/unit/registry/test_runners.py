"""Which runners are believed, as params.yaml says."""

from __future__ import annotations

import pytest

from registry.errors import InvalidError
from registry.runners import RunnerRules, read_runner_rules
from registry.ssh_key import PublicKey

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJKLacSRZh2dMO640b1JAkR961bjS6JWsfhBwO1t6Y+R"


def test_without_a_rule_nobody_is() -> None:
    rules = read_runner_rules({"bases": {}, "what a later version knows": 1}, where="params.yaml")
    assert rules == RunnerRules()
    assert (rules.of("requests"), rules.of("branches")) == ({}, {})


def test_each_list_counts_for_its_own_kind_of_build() -> None:
    value = {"runners": {"requests": {"gpu-1": f"{KEY} gpu@home"}}}
    rules = read_runner_rules(value, where="params.yaml")  # type: ignore[arg-type]
    assert rules.of("requests") == {"gpu-1": PublicKey.parse(KEY, where="")}
    assert rules.of("branches") == {}


@pytest.mark.parametrize(
    ("runners", "what"),
    [
        ([], "expected a table, got a list"),
        ({"requests": []}, "expected a table, got a list"),
        ({"requests": {"gpu-1": 1}}, "gpu-1: expected text, got a number"),
        ({"requests": {"gpu-1": "x"}}, "'x' is no SSH public key"),
        ({"main": {}}, "main: expected a key of this schema, got an unknown key"),
    ],
)
def test_rules_that_cannot_be_read_are_an_error(runners: object, what: str) -> None:
    with pytest.raises(InvalidError) as caught:
        read_runner_rules({"runners": runners}, where="params.yaml")  # type: ignore[dict-item]
    assert caught.value.what == what
