"""The tables of new adapters against PEFT's configurations: every type, every key, every default."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType

from builder.adapter_settings import ADAPTERS, UNTRAINED
from builder.stages.adapter_config import peft_marks
from builder.weighting import Weighting

if TYPE_CHECKING:
    from builder.adapter_settings import AdapterSettings

OURS: dict[tuple[str, str], str] = {
    ("lora", "r"): "16: what most people train",
    ("lora", "lora_alpha"): "32: twice the rank",
    ("shira", "random_seed"): "0: without a seed no run gives the same bytes",
    ("prompt_tuning", "num_virtual_tokens"): "20: PEFT has none",
    ("prefix_tuning", "num_virtual_tokens"): "20: PEFT has none",
}
"""Defaults of ours that are not PEFT's, each with its reason."""


def default_of(name: str) -> AdapterSettings:
    table: Any = ADAPTERS[name]
    made: AdapterSettings = table(tokens=("a",)) if name == "trainable_tokens" else table()
    return made


def test_every_type_of_peft_is_trained_or_refused_by_name() -> None:
    assert not ADAPTERS.keys() & UNTRAINED.keys()
    known = {kind.value.lower() for kind in PeftType}
    assert {*ADAPTERS, *UNTRAINED} - {"bone"} == known  # Bone is MiSS by now


@pytest.mark.parametrize("name", ADAPTERS)
def test_keys_and_defaults_are_those_of_peft(name: str) -> None:
    settings = default_of(name)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(settings.peft_type)]
    known = {one.name: one for one in dataclasses.fields(config)}
    marks = peft_marks(settings)
    for attribute, (mark, _) in marks.items():
        assert {mark.key, mark.patterns} - {""} <= known.keys()
        if not mark.key or (name, mark.key) in OURS:
            continue
        ours = getattr(settings, attribute)
        assert (ours.constant if isinstance(ours, Weighting) else ours) == known[mark.key].default
    told = settings.told()
    assert told.keys() <= known.keys()
    assert told.keys().isdisjoint({mark.key for mark, _ in marks.values()})


def test_no_reason_is_left_over() -> None:
    keys = {(name, mark.key) for name in ADAPTERS for mark, _ in peft_marks(default_of(name)).values()}
    assert keys >= OURS.keys()
