"""Whether compiling a network's layers pays within a training. Values only, no torch.

Compiled layers do the same arithmetic in fewer passes over memory. What that saves grows with tokens, layers and width;
what it costs is paid once for each length of sequence that occurs. Both were measured on an H100 (docs/performance.md).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.runner import Compiling

__all__ = ["LENGTHS", "is_compiled", "pays_after"]

LENGTHS = 128
"""Sequences are padded to a multiple of this under compiled layers, so that few lengths occur."""

_SAVED_S = 1.5e-10  # seconds for each token, layer and unit of width
_COMPILE_S = 20.0  # the first step of one length, nothing compiled on the machine before


def pays_after(*, layers: int, width: int, step_tokens: float, lengths: Iterable[int]) -> int:
    """Steps after which compiling has cost less time than it saved.

    Args:
        layers: Layers of the network.
        width: Width of its residual stream.
        step_tokens: Tokens in an optimiser step.
        lengths: Tokens of each row's sequence, the longer one of a preference.
    """
    padded = {math.ceil(length / LENGTHS) for length in lengths}
    return math.ceil(_COMPILE_S * len(padded) / (_SAVED_S * layers * width * step_tokens))


def is_compiled(wanted: Compiling, *, able: bool, steps: int, pays: int) -> bool:
    """Whether a training compiles its layers.

    Args:
        wanted: What the runner says.
        able: Whether device, arithmetic and model are such that it helps.
        steps: Steps of the training.
        pays: From :func:`pays_after`.
    """
    return able and (wanted == "always" or (wanted == "auto" and steps > pays))
