"""What a layer keeps for its backward pass, counted tensor by tensor, is what the estimate of memory takes it to be."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import AutoModelForCausalLM, LlamaConfig

from builder.plan.memory import Network
from builder.plan.training_memory import Load, training_memory

_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_SHORT, _LONG, _ROWS = 32, 64, 2


def _network(layers: int, dtype: torch.dtype) -> Network:
    return Network(
        parameters=1, layers=layers, hidden=128, inner=352, keys=64, vocabulary=64, stored_bytes=dtype.itemsize
    )


def _model(layers: int, dtype: torch.dtype, *, is_adapter: bool, dropout: float) -> Any:  # noqa: ANN401 - no types
    network = _network(layers, dtype)
    config = LlamaConfig(
        hidden_size=network.hidden,
        intermediate_size=network.inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=network.vocabulary,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    adapter = LoraConfig(r=2, target_modules=_PROJECTIONS, lora_dropout=dropout)
    return get_peft_model(model, adapter) if is_adapter else model


def _kept_bytes(model: Any, length: int, *, is_mixed: bool) -> int:  # noqa: ANN401 - transformers has no types
    """Bytes of all that one forward pass keeps, the weights left out."""
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    inner = model.base_model.model.model if hasattr(model, "peft_config") else model.model
    with ExitStack() as stack:
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        if is_mixed:
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            if hasattr(model, "peft_config"):
                stack.enter_context(disable_input_dtype_casting(model, active=True))
        held = inner(input_ids=torch.zeros(_ROWS, length, dtype=torch.long), use_cache=False)
    del held
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    ("is_adapter", "dtype", "is_mixed", "dropout"),
    [
        (False, torch.float32, False, 0.0),
        (False, torch.float32, True, 0.0),
        (True, torch.float32, False, 0.0),
        (True, torch.float32, True, 0.0),
        (True, torch.bfloat16, True, 0.0),
        (True, torch.float32, False, 0.1),
        (True, torch.bfloat16, True, 0.1),
    ],
    ids=["full", "full-mixed", "adapter", "adapter-mixed", "adapter-narrow", "dropout", "dropout-narrow"],
)
def test_a_layer_keeps_what_is_counted(*, is_adapter: bool, dtype: torch.dtype, is_mixed: bool, dropout: float) -> None:
    """By differences, since casts of weights and the ends of the network grow with neither tokens nor layers."""
    kept = []
    for layers in (1, 2):
        model = _model(layers, dtype, is_adapter=is_adapter, dropout=dropout)
        kept.append([_kept_bytes(model, length, is_mixed=is_mixed) for length in (_SHORT, _LONG)])
    (short, long), (shorts, longs) = kept
    counted = ((longs - shorts) - (long - short)) / (_ROWS * (_LONG - _SHORT))

    load = Load(
        trained=1,
        is_adapter=is_adapter,
        is_mixed=is_mixed,
        dropout=bool(dropout),
        rows=1,
        length=1,
        is_padded=False,
        head="none",
    )
    said = [training_memory(_network(layers, dtype), load).activations for layers in (1, 2)]
    assert said[1] - said[0] == pytest.approx(counted, rel=0.06)
