from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator

from builder.adapter_settings import ADAPTERS, AdapterSettings, LoraSettings
from builder.adapter_types.shared import VeraSettings
from builder.edges import plain
from builder.manifest import SftStage, effective, parse_manifest, parse_project
from builder.schema import manifest_schema, params_schema
from builder.tables import Key, restore
from builder.weighting import Weighting
from registry.errors import InvalidError

MANIFEST = Draft202012Validator(manifest_schema())
PARAMS = Draft202012Validator(params_schema())
MATRICES = [(64, 32), (32, 64), (32, 32)]
SHAPES = [*MATRICES, (32,)]


def document(adapter: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - as YAML gives it
    stages = {"s": {"kind": "sft", "from": "base", "data": "d", "adapter": adapter}}
    return {"base": "b", "data": {"d": {"path": "d.jsonl", "format": "text"}}, "stages": stages, "release": "s"} | more


def adapter_of(adapter: dict[str, Any], *, manifest: Any = None, params: Any = None) -> Any:  # noqa: ANN401 - as above
    """The adapter of a stage, with defaults of the manifest and of params.yaml."""
    defaults = {"defaults": {"sft": {"adapter": manifest}}} if manifest is not None else {}
    project = parse_project({"bases": {}, "defaults": {"sft": {"adapter": params}} if params is not None else {}})
    stage = effective(project, parse_manifest("v", document(adapter, **defaults)), "s")
    assert isinstance(stage, SftStage)
    return stage.adapter


def test_without_a_type_it_is_lora() -> None:
    assert adapter_of({}) == LoraSettings()
    assert adapter_of({"rank": 8}) == adapter_of({"type": "lora", "rank": 8.0})


def test_a_default_fills_in_adapters_of_its_own_type() -> None:
    assert adapter_of({}, manifest={"rank": 8}).rank == Weighting.of(8)
    assert adapter_of({"rank": 4}, manifest={"rank": 8}).rank == Weighting.of(4)
    assert adapter_of({"type": "vera"}, manifest={"rank": 8}) == VeraSettings()
    assert adapter_of({"type": "vera"}, manifest={"type": "vera", "rank": 8}) == VeraSettings(rank=8)
    assert adapter_of({}, manifest={"type": "vera", "rank": 8}) == LoraSettings()


def test_layers_of_defaults_are_each_of_a_type() -> None:
    found = adapter_of({"type": "vera"}, manifest={"type": "vera", "rank": 8}, params={"type": "vera", "seed": 3})
    assert found == VeraSettings(rank=8, seed=3)
    found = adapter_of({"type": "vera"}, manifest={"rank": 8}, params={"type": "vera", "seed": 3})
    assert found == VeraSettings(seed=3)


def test_a_default_of_one_type_has_no_keys_of_another() -> None:
    with pytest.raises(InvalidError, match="unknown key 'alpha'"):
        adapter_of({}, params={"type": "vera", "alpha": 3})


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_type_is_in_both_schemas_and_comes_back_from_an_action(name: str) -> None:
    said = {"type": name} | ({"tokens": ["a"]} if name == "trainable_tokens" else {})
    manifest = document(said)
    assert MANIFEST.is_valid(manifest)
    assert PARAMS.is_valid({"bases": {}, "defaults": {"sft": {"adapter": {"type": name}}}})
    assert not MANIFEST.is_valid(document(said | {"nothing": 1}))
    stage = parse_manifest("v", manifest).stages["s"]
    assert isinstance(stage, SftStage)
    if name in {"oft", "boft"}:
        return  # two of their keys exclude each other, and an action has every key
    kept: Any = plain(_Holder(adapter=stage.adapter))
    assert restore(_Holder, kept, "action") == _Holder(adapter=stage.adapter)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Holder:
    """A table with an adapter in it."""

    adapter: Annotated[AdapterSettings | None, Key("An adapter.")] = None


def test_the_schema_takes_a_table_without_a_type_for_lora() -> None:
    assert MANIFEST.is_valid(document({"rank": 3}))
    assert not MANIFEST.is_valid(document({"d_initial": 0.2}))


@pytest.mark.parametrize("name", ADAPTERS)
def test_sizes_are_counted(name: str) -> None:
    table: Any = ADAPTERS[name]
    settings = table(tokens=("a", "b")) if name == "trainable_tokens" else table()
    assert 0 < settings.trained(SHAPES) <= settings.saved(SHAPES)


def test_the_size_of_a_lora_is_that_of_its_factors() -> None:
    sides = sum(map(sum, MATRICES))
    assert LoraSettings().trained(SHAPES) == LoraSettings().saved(SHAPES) == 16 * sides
    assert LoraSettings(dora=True).trained(SHAPES) == 16 * sides + 128
    assert LoraSettings(init="pissa").saved(SHAPES) == 2 * 16 * sides
    assert LoraSettings(rank=Weighting.parse([2, 8], where="rank")).trained(SHAPES) == 8 * sides
