"""What an adapter adds to one weight, as a matrix by itself: ``f(W) - W``, or the factors that it is made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from builder.weights.blend.rows import matrix_shape
from builder.weights.low_rank import Factors
from builder.weights.methods.lora import Product
from builder.weights.stream import BLOCK_BYTES, not_finite
from registry.safetensors import DTYPE_BYTES

if TYPE_CHECKING:
    from builder.weights.effect import Applied
    from builder.weights.stream import Stored

__all__ = ["delta_between", "delta_of", "factors_of"]


def factors_of(applied: Applied, device: torch.device) -> Factors | None:
    """The factors of what is added, scaled; ``None`` for an effect that is no product of two.

    Raises:
        InvalidError: A tensor of the adapter holds NaN or an infinity.
        OSError: A file cannot be read.
    """
    loaded = applied.effect.load(device) if applied.effect.additive else None
    if not isinstance(loaded, Product):
        return None
    return Factors(up=loaded.up * applied.scale, down=loaded.down)


def delta_of(applied: Applied, base: Stored, device: torch.device) -> torch.Tensor:
    """All that is added, scaled, as the module sees it.

    Args:
        applied: The effect. One that is no sum is applied to the weight by itself, whatever else acts on it.
        base: The weight, shape ``[rows, columns]``.
        device: Where the sums are made.

    Returns:
        float64, shape ``[out, in]``: that of ``base``, or the other way round where the file has it transposed.

    Raises:
        InvalidError: The weight or a tensor of the adapter holds NaN or an infinity, or the result does.
        OSError: A file cannot be read.
    """
    loaded = applied.effect.load(device)
    if applied.effect.additive:
        total = torch.zeros(base.info.shape, dtype=torch.float64, device=device)
        applied.apply(loaded, total, total, 0)
    else:
        before = base.load().to(device, torch.float64)
        total = before.clone()
        applied.apply(loaded, total, before, 0)
        total.sub_(before)
    if not _is_finite(total):
        raise not_finite(base.spec, where=str(base.path), fits=False)
    return total.T if applied.transposed else total


def delta_between(changed: Stored, base: Stored, device: torch.device) -> torch.Tensor:
    """What was added to ``base`` to make ``changed``; float64, the shape of both.

    Raises:
        InvalidError: One of them holds NaN or an infinity, or a file ends too early.
        OSError: A file cannot be read.
    """
    rows, columns = matrix_shape(base.info.shape)
    total = torch.empty(rows, columns, dtype=torch.float64, device=device)
    step = max(1, BLOCK_BYTES // max(1, columns * DTYPE_BYTES["F64"]))
    for start in range(0, rows, step):  # so that only the difference is whole in memory
        part = slice(start, min(start + step, rows))
        total[part] = changed.part(part).load().to(device)
        total[part] -= base.part(part).load().to(device)
    total = total.view(base.info.shape)
    if not _is_finite(total):
        wrong = base if bool(torch.isfinite(changed.load()).all()) else changed
        raise not_finite(wrong.spec, where=str(wrong.path), fits=False)
    return total


def _is_finite(matrix: torch.Tensor) -> bool:
    """Whether no element is NaN or an infinity; ``torch.isfinite`` would need as much memory again."""
    return not matrix.numel() or all(math.isfinite(one) for one in torch.aminmax(matrix))  # NaN comes through
