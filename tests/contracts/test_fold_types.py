"""Every type of adapter that PEFT knows is folded, or refused with a reason; every setting of it is known."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType

from builder.weights.method import METHODS, REFUSED, Method, method_of
from builder.weights.peft_config import PeftConfig
from registry.errors import InvalidError

INHERITED = {"ADALORA"}  # it has all of LoRA's settings, and most mean nothing for it: those are refused as unknown


def config(kind: str, **values: bool) -> PeftConfig:
    return PeftConfig(path=Path("adapter_config.json"), values={"peft_type": kind, **values})


def test_every_type_of_peft_is_folded_or_refused_by_name() -> None:
    assert METHODS.keys().isdisjoint(REFUSED)
    assert {*METHODS, *REFUSED} == {kind.value for kind in PeftType}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_refused_with_its_reason(kind: str) -> None:
    with pytest.raises(InvalidError) as caught:
        method_of(config(kind))
    assert caught.value.what == f"adapters of type {kind} cannot be folded: {REFUSED[kind]}"


@pytest.mark.parametrize("kind", sorted(METHODS.keys() - INHERITED))
def test_every_setting_of_peft_is_read_or_silent_or_refused_with_a_reason(kind: str) -> None:
    method = method_of(config(kind))
    assert isinstance(method, Method)
    known = {*method.read, *method.needed, "bias", "trainable_token_indices"}
    settings = {one.name for one in fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)])}
    assert not {name for name in settings if _is_strange(config(kind, **{name: True}), method, known)}


def _is_strange(one: PeftConfig, method: Method, known: set[str]) -> bool:
    try:
        one.check_keys(known, method.silent, method.reasons)
    except InvalidError as error:
        return "does not know" in error.what
    return False
