"""Adapters whose start is taken out of the weights under them (PiSSA, OLoRA): put on, and written as plain ones.

With the start ``A0, B0`` the weight becomes ``W - s B0 A0``, and training gives ``W - s B0 A0 + s B A``: over the
weight as it was that is the LoRA of factors ``[A; A0]`` and ``[B, -B0]``, of twice the rank.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model, get_peft_model_state_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = ["as_plain", "plain_config", "put_on"]

_DOWN, _UP = ".lora_A.", ".lora_B."


def put_on(model: Any, config: Any, *, seed: int) -> tuple[Any, dict[str, torch.Tensor]]:  # noqa: ANN401 - no types
    """Put the adapter on a model, whose weights change.

    Returns:
        PEFT's wrapper of the model, and the factors at the start.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    # Whoever puts another adapter of this configuration on, as a reference, must not take a start out once more.
    wrapped.peft_config["default"].init_lora_weights = True
    state = get_peft_model_state_dict(wrapped, adapter_name="default", save_embedding_layers=False)
    return wrapped, {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def as_plain(trained: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Factors over the weights as they were; lengths of rows, which DoRA trains, stay as they are."""
    found = dict(trained)
    for name, tensor in trained.items():
        first = start[name].to(tensor.dtype)
        if _DOWN in name:
            found[name] = torch.cat([tensor, first], dim=0)
        elif _UP in name:
            found[name] = torch.cat([tensor, -first], dim=1)
    return found


def plain_config(config: Mapping[str, JSON]) -> dict[str, JSON]:
    """The configuration of those factors: twice the rank at the same scale."""
    scale = math.sqrt(2) if config.get("use_rslora") else 2
    found = dict(config)
    found["r"], found["lora_alpha"] = _times(config["r"], 2), _times(config["lora_alpha"], scale)
    for key, factor in (("rank_pattern", 2), ("alpha_pattern", scale)):
        table = config.get(key)
        found[key] = {name: _times(value, factor) for name, value in table.items()} if isinstance(table, dict) else {}
    return found | {"init_lora_weights": True}


def _times(value: JSON, factor: float) -> JSON:
    """A number of a configuration, multiplied."""
    if not isinstance(value, int | float):
        message = f"{value!r} is no number"
        raise TypeError(message)
    return value * factor
