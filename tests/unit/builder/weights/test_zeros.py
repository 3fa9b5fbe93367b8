"""A tensor of zeros, whatever the buffer held before."""

from __future__ import annotations

import pytest

from builder.weights.stream import Scratch
from builder.weights.zeros import Zeros
from registry.safetensors import TensorSpec


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_every_byte_is_zero(count: int) -> None:
    scratch = Scratch(block_bytes=8)
    scratch.host("out", "U8", 64).fill_(7)
    blocks = [bytes(one) for one in Zeros(spec=TensorSpec(name="x", dtype="BF16", shape=(count,))).blocks(scratch)]
    assert b"".join(blocks) == bytes(2 * count)
    assert all(len(block) <= 8 for block in blocks)
