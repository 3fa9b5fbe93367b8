"""Four-bit weights of bitsandbytes, block by block times a scale of its own (Dettmers et al., 2023, arXiv:2305.14314).

Two numbers are in a byte, the first in its high bits; each is an index into a table of 16. A block's scale is its
largest size ``absmax``, float32; quantised again (``nested``), it is a byte's entry in a table of 256, times the scale
of a block of scales, plus an offset. All products and sums are float32, then rounded to the dtype that the weight had
before it was quantised, as bitsandbytes 0.50.2 does. (Its AVX-512 code takes the scale of a wrong block where a row's
length is a multiple of 32 and not of the block; that is not followed.)
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from builder.weights.dtypes import DTYPES_BY_NAME, TORCH_DTYPES
from registry.canonical import decode
from registry.errors import InvalidError
from registry.safetensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.weights.stream import Scratch, Stored
    from registry.canonical import JSON

__all__ = ["BLOCKWISE_PARTS", "Blockwise", "read_blockwise"]

_TABLES: Final[Mapping[str, tuple[float, ...]]] = {
    # Quantiles of the normal distribution.
    "nf4": (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
    # A sign, two bits of exponent and one of mantissa, divided by the largest.
    "fp4": tuple(sign * size / 12 for sign in (1, -1) for size in (0, 0.0625, 8, 12, 4, 6, 2, 3)),
}
_STATE: Final = "quant_state.bitsandbytes__"
BLOCKWISE_PARTS: Final = (
    "absmax",
    "quant_map",
    "nested_absmax",
    "nested_quant_map",
    *(f"{_STATE}{name}" for name in _TABLES),
)
"""What follows the weight's name in the names of the tensors that go with it."""

_BLOCK_SIZES: Final = frozenset({32, 64, 128, 256, 512, 1024, 2048, 4096})
_ENTRIES: Final = 16
_NESTED_ENTRIES: Final = 256
_KEYS: Final = frozenset({"quant_type", "blocksize", "dtype", "shape"})
_NESTED_KEYS: Final = frozenset({"nested_blocksize", "nested_dtype", "nested_offset"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Nested:
    """Scales that are quantised themselves.

    Attributes:
        scales: One for each block of scales, float32.
        table: What a byte stands for, float32, 256 entries.
        block: How many scales share one.
        offset: Is added to every scale.
    """

    scales: Stored
    table: Stored
    block: int
    offset: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Blockwise:
    """A four-bit weight, as the numbers that it stands for.

    Attributes:
        spec: Its name; the dtype and the shape that it had before it was quantised.
        packed: Two numbers a byte.
        table: Name of the table of 16.
        block: How many numbers share a scale.
        scales: One for each block: float32, or bytes where ``nested``.
        nested: What the bytes of ``scales`` mean.
    """

    spec: TensorSpec
    packed: Stored
    table: str
    block: int
    scales: Stored
    nested: Nested | None

    @property
    def where(self) -> str:
        """The file of the weight."""
        return str(self.packed.path)

    def numbers(self, scratch: Scratch) -> Iterator[torch.Tensor]:
        """The numbers in order, in the dtype that the weight had.

        Raises:
            InvalidError: A file ends too early.
            OSError: A file cannot be read.
        """
        total = math.prod(self.spec.shape)
        group = self.block * (self.nested.block if self.nested else 1)
        step = max(1, scratch.block_bytes // (4 * group)) * group  # float32, and whole blocks of scales
        entries = torch.tensor(_TABLES[self.table], dtype=torch.float32)
        pairs = torch.stack([entries.repeat_interleave(_ENTRIES), entries.repeat(_ENTRIES)], dim=1)
        scale_table = torch.ones(1) if self.nested is None else self.nested.table.load()
        with ExitStack() as files:
            parts = [self.packed, self.scales, *([self.nested.scales] if self.nested else [])]
            descriptors = [files.enter_context(part.path.open("rb", buffering=0)).fileno() for part in parts]
            for start in range(0, total, step):
                count = min(step, total - start)
                packed = scratch.bytes("stored", -(-count // 2))
                self.packed.read(descriptors[0], start // 2, packed)
                numbers = pairs[torch.frombuffer(packed, dtype=torch.uint8).int()].view(-1)[:count]
                scales = self._scales(descriptors[1:], start // self.block, -(-count // self.block), scale_table)
                numbers.mul_(scales.repeat_interleave(self.block)[:count])
                yield numbers.to(TORCH_DTYPES[self.spec.dtype])

    def _scales(self, descriptors: list[int], first: int, count: int, table: torch.Tensor) -> torch.Tensor:
        """Scales from one on: float32, shape ``[count]``."""
        if self.nested is None:
            return _read(self.scales, descriptors[0], first, count)
        codes = _read(self.scales, descriptors[0], first, count)
        outer = _read(self.nested.scales, descriptors[1], first // self.nested.block, -(-count // self.nested.block))
        scales = table[codes.int()] * outer.repeat_interleave(self.nested.block)[:count]
        return scales + torch.tensor(self.nested.offset, dtype=torch.float32)


def read_blockwise(weight: Stored, parts: Mapping[str, Stored]) -> Blockwise:
    """Check a four-bit weight with what goes with it.

    Args:
        weight: The packed numbers, in any dtype.
        parts: One of :data:`BLOCKWISE_PARTS` -> the tensor of that name.

    Raises:
        InvalidError: A part is missing or does not fit the others.
        OSError: A file cannot be read.
    """
    name = weight.info.name
    states = {key: stored for key, stored in parts.items() if key.startswith(_STATE)}
    if len(states) != 1 or "absmax" not in parts or "quant_map" not in parts:
        raise _bad(weight, "is quantised, and not all that says how is there")
    key, stored = states.popitem()
    state = _state(stored)
    kind, block, shape = key.removeprefix(_STATE), state.get("blocksize"), state.get("shape")
    dtype = DTYPES_BY_NAME.get(str(state.get("dtype")))
    said = shape if isinstance(shape, list) else [None]
    sizes = [size for size in said if type(size) is int and size >= 0]
    sound = state.get("quant_type") == kind and dtype is not None and len(sizes) == len(said)
    if not sound or type(block) is not int or block not in _BLOCK_SIZES:
        raise _bad(weight, f"has a state that bitsandbytes 0.50.2 does not know: {dict(sorted(state.items()))}")
    count = math.prod(sizes)
    blocks = -(-count // block)
    nested = _nested(weight, parts, state, blocks) if "nested_absmax" in parts else None
    scales = parts["absmax"]
    right = [
        weight.info.size_bytes == -(-count // 2),
        scales.info.dtype == ("F32" if nested is None else "U8"),
        math.prod(scales.info.shape) == blocks,
        parts["quant_map"].info.dtype == "F32",
        _equals(parts["quant_map"], _TABLES[kind]),
    ]
    if not all(right):
        raise _bad(weight, f"does not fit its parts: {kind}, {sizes}, blocks of {block}")
    spec = TensorSpec(name=name, dtype=dtype or "", shape=tuple(sizes))
    return Blockwise(spec=spec, packed=weight, table=kind, block=block, scales=scales, nested=nested)


def _nested(weight: Stored, parts: Mapping[str, Stored], state: Mapping[str, JSON], blocks: int) -> Nested:
    block, offset = state.get("nested_blocksize"), state.get("nested_offset")
    scales, table = parts["nested_absmax"], parts.get("nested_quant_map")
    if type(block) is not int or block <= 0 or not isinstance(offset, int | float) or table is None:
        raise _bad(weight, f"has a state that bitsandbytes 0.50.2 does not know: {dict(sorted(state.items()))}")
    right = [
        state.get("nested_dtype") == "float32",
        (scales.info.dtype, math.prod(scales.info.shape)) == ("F32", -(-blocks // block)),
        (table.info.dtype, math.prod(table.info.shape)) == ("F32", _NESTED_ENTRIES),
    ]
    if not all(right):
        raise _bad(weight, f"does not fit its parts: nested blocks of {block}")
    return Nested(scales=scales, table=table, block=block, offset=float(offset))


def _state(stored: Stored) -> Mapping[str, JSON]:
    """The JSON table that lies in a tensor of bytes."""
    where = f"{stored.path}: {stored.info.name}"
    data = stored.load().numpy().tobytes() if stored.info.dtype == "U8" else b""
    value = decode(data, where=where)
    if not isinstance(value, dict) or not value.keys() <= _KEYS | _NESTED_KEYS:
        raise InvalidError("it is no state of bitsandbytes", where=where, mend="quantise the model again")
    return value


def _equals(stored: Stored, table: tuple[float, ...]) -> bool:
    return torch.equal(stored.load().view(-1), torch.tensor(table, dtype=torch.float32))


def _read(stored: Stored, descriptor: int, first: int, count: int) -> torch.Tensor:
    """Elements of a tensor from one on, shape ``[count]``, its own dtype."""
    dtype = TORCH_DTYPES[stored.info.dtype]
    data = bytearray(count * dtype.itemsize)
    stored.read(descriptor, first * dtype.itemsize, memoryview(data))
    return torch.frombuffer(data, dtype=dtype)


def _bad(weight: Stored, problem: str) -> InvalidError:
    return InvalidError(
        f"{weight.info.name!r} {problem}",
        where=str(weight.path),
        mend="save the quantised model again with bitsandbytes 0.50.2, or start from the 16-bit model",
    )
