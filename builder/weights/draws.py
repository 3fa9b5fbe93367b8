"""Random numbers that any machine draws again: a function of seed, tensor and row, whatever was drawn before.

The bits of a row are SHAKE-256 of its key, as many as it needs; so rows may be drawn in any order, or alone.
"""

from __future__ import annotations

import hashlib
from statistics import NormalDist

import numpy as np
import torch

from registry.canonical import encode

__all__ = ["normal_row"]

_WORD_BYTES = 8
_KEPT_BITS = 52  # of a word: with the half, a float64 holds the number exactly
_STANDARD = NormalDist()


def normal_row(seed: int, tensor: str, row: int, count: int) -> torch.Tensor:
    """Standard normal numbers: mean 0, standard deviation 1.

    Uniform numbers ``(k + 1/2) / 2**52`` go through the inverse of the normal distribution function (Wichura,
    algorithm AS 241, 1988; relative error below 1e-15).

    Args:
        seed: The stage's.
        tensor: Name of the tensor.
        row: Number of the row in it.
        count: How many numbers.

    Returns:
        float64, shape ``[count]``.
    """
    data = hashlib.shake_256(encode([seed, tensor, row])).digest(count * _WORD_BYTES)
    words = np.frombuffer(data, dtype="<u8") >> (_WORD_BYTES * 8 - _KEPT_BITS)
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-_KEPT_BITS
    return torch.tensor([_STANDARD.inv_cdf(one) for one in uniform.tolist()], dtype=torch.float64)
