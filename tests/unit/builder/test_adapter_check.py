from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from builder.adapter_check import check_adapter
from builder.adapter_settings import ADAPTERS, LoraSettings
from builder.environment import Device
from builder.shapes import Reading
from builder.stages.adapter_config import adapter_config
from builder.stages.models import open_model
from builder.tables import read
from builder.train_settings import SftTraining
from builder.train_stages import SftStage
from registry.errors import InvalidError
from tests.integration.training import model_input

if TYPE_CHECKING:
    from pathlib import Path

    from builder.adapter_settings import AdapterSettings

STAGE = "models/v/model.yaml: stages.tone"


def table(**said: Any) -> AdapterSettings:  # noqa: ANN401 - as YAML gives it
    """A table as a manifest would have it."""
    reading = Reading(file="model.yaml")
    found = cast("AdapterSettings", read(ADAPTERS[said.get("type", "lora")], said, reading))
    assert not reading.faults
    return found


def check(base: Path, adapter: AdapterSettings | None) -> None:
    stage = SftStage(from_="base", data={"d": 1.0}, adapter=adapter, train=SftTraining())
    check_adapter(stage, [model_input("from", base)], stage=STAGE)


@pytest.mark.parametrize(
    ("said", "key", "problem"),
    [
        ({"targets": "router"}, 'targets: ["router"]', "router matches nothing"),
        (
            {"targets": "norm"},
            'targets: ["norm"]',
            "none of the 5 tensors selected is a matrix that LoRA can be put on",
        ),
        (
            {"targets": ["attention", "head"]},
            'targets: ["attention","head"]',
            "an adapter cannot go on lm_head: the trainer multiplies by the head's weight itself",
        ),
        (
            {"type": "loha", "targets": "embedding"},
            'targets: ["embedding"]',
            "PEFT puts no loha adapter on model.embed_tokens, an embedding",
        ),
        (
            {"type": "oft", "block_size": 24},
            "block_size",
            "it does not go with model.layers.0.mlp.down_proj, which is [32, 64]: 24 does not divide 64",
        ),
        (
            {"type": "c3a"},
            "block_size",
            "it does not go with model.layers.0.mlp.down_proj, which is [32, 64]: 256 does not divide 32",
        ),
        (
            {"type": "vblora"},
            "vector_length",
            "it does not go with model.layers.0.mlp.down_proj, which is [32, 64]: 256 does not divide 32",
        ),
        (
            {"type": "fourierft", "frequencies": 5000},
            "frequencies",
            "it does not go with model.layers.0.mlp.down_proj, which is [32, 64]: 5000 of 2048",
        ),
        (
            {"type": "shira"},
            "rank",
            "it does not go with model.layers.0.mlp.down_proj, which is [32, 64]: 3072 numbers of 2048",
        ),
        (
            {"init": "pissa", "rank": 40},
            "rank",
            "it does not go with model.layers.0.mlp.down_proj, which is [32, 64]: pissa finds 32 directions at most",
        ),
        (
            {"rank": [{"on": "mlp", "value": 4}]},
            "rank",
            "no entry means model.layers.0.self_attn.k_proj, which gets the adapter",
        ),
        ({"alpha": [{"value": 4}, {"on": "router", "value": 4}]}, "alpha", "router matches nothing"),
        (
            {"type": "ln_tuning", "targets": "mlp"},
            'targets: ["mlp"]',
            "model.layers.0.mlp.down_proj.weight is no vector, and ln_tuning holds norms",
        ),
    ],
)
def test_what_does_not_go_on_the_model_is_told_by_file_and_key(
    said: dict[str, Any], key: str, problem: str, tiny_llama: Path
) -> None:
    with pytest.raises(InvalidError) as caught:
        check(tiny_llama, table(**said))
    assert (caught.value.what, caught.value.where) == (problem, f"{STAGE}.adapter.{key}")


def test_what_goes_on_it_passes(tiny_llama: Path, tiny_gpt2: Path) -> None:
    check(tiny_llama, None)
    for said in ({}, {"type": "oft"}, {"type": "ln_tuning"}, {"type": "prompt_tuning"}, {"type": "miss", "rank": 8}):
        check(tiny_llama, table(**said))
    check(tiny_gpt2, table(type="vera"))


def test_layers_of_gpt2_are_seen_the_right_way_round_and_only_some_types_go_on_them(tiny_gpt2: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        check(tiny_gpt2, table(type="oft", targets="mlp.down", block_size=32))
    assert caught.value.what == "PEFT puts no oft adapter on transformer.h.0.mlp.c_proj, a layer of GPT-2's own kind"
    with pytest.raises(InvalidError) as caught:
        check(tiny_gpt2, table(type="gralora", targets="attention.fused", rank=9, blocks=3))
    assert caught.value.what == (
        "it does not go with transformer.h.0.attn.c_attn, which is [96, 32]: 3 does not divide 32"
    )


def test_rank_and_alpha_by_component_become_patterns(tiny_llama: Path) -> None:
    model = open_model(tiny_llama, Device(kind="cpu", name="cpu", threads=1))
    adapter = table(
        rank=[{"value": 2}, {"on": "mlp", "value": [4, 8]}], alpha=[{"value": 2}, {"on": "mlp", "value": 6}]
    )
    assert isinstance(adapter, LoraSettings)
    config = adapter_config(model, None, adapter)
    mlp = [f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 1) for name in ("down", "gate", "up")]
    assert config.r == 2
    assert config.rank_pattern == dict.fromkeys(mlp[:3], 4) | dict.fromkeys(mlp[3:], 8)
    assert (config.lora_alpha, config.alpha_pattern) == (2.0, dict.fromkeys(("down_proj", "gate_proj", "up_proj"), 6.0))
    assert json.loads(json.dumps(config.rank_pattern)) == config.rank_pattern
