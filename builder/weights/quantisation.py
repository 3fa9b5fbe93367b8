"""By which method a checkpoint is quantised, as its configuration says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = ["DEQUANTISED", "quantisation"]

DEQUANTISED = frozenset({"bitsandbytes"})
"""Methods whose weights ``cast`` can bring back to 16 bits."""


def quantisation(config: Mapping[str, JSON]) -> str:
    """The method, such as ``gptq``; empty for a model that is not quantised, ``unknown`` where it has no name."""
    said = config.get("quantization_config")
    if said is None:
        return ""
    method = said.get("quant_method") if isinstance(said, dict) else None
    if isinstance(method, str) and method:
        return method
    bits = isinstance(said, dict) and (said.get("load_in_4bit") is True or said.get("load_in_8bit") is True)
    return "bitsandbytes" if bits else "unknown"
