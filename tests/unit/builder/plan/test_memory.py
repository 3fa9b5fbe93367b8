"""The formulas, held against what was counted or measured of real networks."""

from __future__ import annotations

import pytest

from builder.adapter_settings import LoraSettings
from builder.plan.memory import (
    Network,
    adapter_parameters,
    evaluation_mib,
    new_network,
    read_network,
)
from builder.settings import NetworkSettings

_LLAMA_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}


def _llama_8b() -> Network:
    network = read_network(_LLAMA_8B, 8_030_261_248 * 2)
    assert network is not None
    return network


def test_a_llama_of_8b() -> None:
    network = _llama_8b()
    assert network.parameters == 8_030_261_248
    assert adapter_parameters(network, LoraSettings()) == 41_943_040  # as PEFT counts it, on all linear layers


def test_an_evaluation_holds_both_networks() -> None:
    network = _llama_8b()
    one, two = evaluation_mib([network], rows=1, length=8), evaluation_mib([network] * 2, rows=1, length=8)
    assert two - one == pytest.approx(network.parameters * 4 * 1.1 / (1 << 20), rel=0.01)


def test_a_new_network() -> None:
    network = new_network(NetworkSettings(layers=2, hidden_size=128, heads=4), 768)
    assert network.parameters == 2 * (4 * 128 * 128 + 3 * 128 * 384) + 768 * 128
    gpt2 = new_network(
        NetworkSettings(architecture="gpt2", layers=1, hidden_size=64, heads=4, tie_embeddings=False), 300
    )
    assert gpt2.parameters == 4 * 64 * 64 + 2 * 64 * 256 + 2 * 300 * 64


@pytest.mark.parametrize(
    "config", [{}, {"hidden_size": "a"}, {"hidden_size": True, "num_hidden_layers": 1, "vocab_size": 5}, _LLAMA_8B]
)
def test_a_configuration_that_says_too_little(config: dict[str, object]) -> None:
    assert read_network(config, 0) is None


def test_words_of_gpt2_and_of_a_text_part() -> None:
    gpt2 = read_network({"n_embd": 32, "n_layer": 2, "vocab_size": 300, "n_head": 4, "dtype": "float16"}, 1000)
    nested = read_network({"text_config": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 300}}, 1000)
    assert gpt2 is not None
    assert nested is not None
    assert (gpt2.parameters, gpt2.inner, nested.parameters) == (500, 128, 250)
