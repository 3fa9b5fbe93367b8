"""Rounding against an exact oracle; streams against whole tensors, for any block size."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.effect import Applied, Changed
from builder.weights.rounding import is_finite, round_once
from builder.weights.stream import Held, Scratch, Stored, one_torch_thread
from registry.errors import InvalidError
from registry.safetensors import TensorSpec, Writer, read_header

if TYPE_CHECKING:
    from pathlib import Path

    from builder.weights.effect import Block, Span
    from builder.weights.stream import Content

# dtype -> bits of precision, lowest and highest exponent
FORMATS: Final = {"BF16": (8, -126, 127), "F16": (11, -14, 15), "F32": (24, -126, 127)}


def rounded(values: torch.Tensor, dtype: str) -> torch.Tensor:
    out = torch.empty(values.numel(), dtype=TORCH_DTYPES[dtype])
    round_once(values.clone(), out, Scratch())
    return out


def exactly(value: float, dtype: str) -> float:
    """Nearest value of the dtype, ties to even, by rational arithmetic."""
    precision, lowest, highest = FORMATS[dtype]
    if value == 0:
        return value
    exponent = max(math.frexp(value)[1] - 1, lowest)
    quantum = Fraction(2) ** (exponent - precision + 1)
    nearest = round(Fraction(value) / quantum) * quantum  # Fraction rounds half to even
    if abs(nearest) >= Fraction(2) ** (highest + 1):
        return math.copysign(math.inf, value)
    return math.copysign(float(abs(nearest)), value)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal values and equal signs, those of zeros too."""
    return bool(torch.equal(found, expected) and torch.equal(found.signbit(), expected.signbit()))


@pytest.mark.parametrize(("dtype", "largest"), [("BF16", 0x7F7F), ("F16", 0x7BFF)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_every_tie_and_its_neighbours_round_to_the_nearest_value(dtype: str, largest: int, sign: float) -> None:
    bits = torch.arange(largest + 1, dtype=torch.int32).to(torch.int16)
    low = bits.view(TORCH_DTYPES[dtype])
    high = (bits + 1).view(TORCH_DTYPES[dtype])
    below, above = low.double(), high.double()
    above[-1] = 2.0 ** (FORMATS[dtype][2] + 1)  # where infinity begins, as rounding sees it
    middle = (below + above) / 2
    even = torch.where(bits % 2 == 0, low, high)
    cases = [
        (below, low),
        (torch.nextafter(below, above), low),
        (torch.nextafter(middle, below), low),
        (middle, even),
        (torch.nextafter(middle, above), high),
        (torch.nextafter(above, below), high),
    ]
    for values, expected in cases:
        assert same(rounded(sign * values, dtype), sign * expected)


@given(st.sampled_from(sorted(FORMATS)), st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
@example("BF16", [2.0**-134, -(2.0**-134), 2.0**-134 * 1.0000001, 2.0**-1074, -0.0])
@example("BF16", [2.0**-126 - 2.0**-134 - 2.0**-160, 2.0**-126 - 2.0**-134, 1.5 * 2.0**-133])
@example("F16", [2.0**-25, 2.0**-25 * (1 + 2.0**-50), 65519.999999999993, 65520.0, 5.9e-8])
@example("F32", [2.0**-149, 1.5 * 2.0**-149, 3.4028235677973366e38])
def test_rounding_is_that_of_rational_arithmetic(dtype: str, values: list[float]) -> None:
    expected = torch.tensor([exactly(value, dtype) for value in values], dtype=torch.float64)
    assert same(rounded(torch.tensor(values, dtype=torch.float64), dtype).double(), expected)


def test_torch_alone_rounds_twice_where_this_rounds_once() -> None:
    value = torch.tensor([1 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
    assert value.to(torch.bfloat16).item() == 1.0
    assert rounded(value, "BF16").item() == 1 + 2.0**-7


def test_rounding_says_when_a_value_does_not_fit() -> None:
    out = torch.empty(2, dtype=torch.float16)
    assert round_once(torch.tensor([1.0, 65519.0], dtype=torch.float64), out, Scratch())
    assert not round_once(torch.tensor([1.0, 65520.0], dtype=torch.float64), out, Scratch())


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_found(dtype: str, value: float) -> None:
    values = torch.ones(9, dtype=TORCH_DTYPES[dtype])
    assert is_finite(values, Scratch())
    values[7] = value
    assert not is_finite(values, Scratch())


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_no_numbers_are_finite_and_fit(dtype: str) -> None:
    nothing = torch.empty(0, dtype=TORCH_DTYPES[dtype])
    assert is_finite(nothing, Scratch())
    assert round_once(torch.empty(0, dtype=torch.float64), nothing, Scratch())


def test_whole_numbers_are_finite() -> None:
    assert is_finite(torch.tensor([-1, 2**40]), Scratch())


# Streams


def store(path: Path, **tensors: torch.Tensor) -> dict[str, Stored]:
    names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    specs = [TensorSpec(name=name, dtype=names[one.dtype], shape=tuple(one.shape)) for name, one in tensors.items()]
    path.unlink(missing_ok=True)
    with Writer(path, specs, {}) as writer:
        for spec in writer.order:
            writer.write(bytes(tensors[spec.name].contiguous().view(-1).view(torch.uint8).tolist()))
        writer.finish()
    return {name: Stored(path=path, info=info) for name, info in read_header(path).tensors.items()}


def taken(content: Content, block_bytes: int = 1 << 20) -> bytes:
    return b"".join(bytes(block) for block in content.blocks(Scratch(block_bytes)))


class Plus:
    """Adds a whole matrix, given as the module sees it."""

    additive = True
    span: Span = "element"

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def load(self, _device: torch.device) -> Plus:
        return self

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        weight.add_(self.matrix[at.rows, at.columns], alpha=scale)


class Rotate(Plus):
    """Multiplies from the left, so that every row depends on all others."""

    additive = False
    span: Span = "whole"

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, _at: Block, _scale: float) -> None:
        weight.copy_(self.matrix @ weight)


class Restore(Plus):
    """Puts the base back and adds its matrix: what only the base as it was can give."""

    additive = False
    span: Span = "row"

    def apply(self, weight: torch.Tensor, base: torch.Tensor, at: Block, _scale: float) -> None:
        weight.copy_(base + self.matrix[at.rows, at.columns])


def summed(base: Stored, *matrices: torch.Tensor) -> Changed:
    return Changed(base=base, effects=tuple(Applied(effect=Plus(matrix)) for matrix in matrices))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block_bytes=st.integers(1, 4096),
    dtype=st.sampled_from(["F16", "BF16", "F32"]),
    seed=st.integers(0, 2**31),
)
def test_a_sum_is_its_float64_reference_rounded_once_for_any_block_size(
    tmp_path_factory: pytest.TempPathFactory, *, rows: int, columns: int, block_bytes: int, dtype: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator).to(TORCH_DTYPES[dtype])
    deltas = [torch.randn(rows, columns, generator=generator, dtype=torch.float64) for _ in range(3)]
    base = store(tmp_path_factory.getbasetemp() / "sum.safetensors", w=weight)["w"]
    found = taken(summed(base, *deltas), block_bytes)
    reference = rounded((weight.double() + deltas[0] + deltas[1] + deltas[2]).view(-1), dtype)
    assert found == bytes(reference.view(torch.uint8).tolist())


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    block_bytes=st.integers(1, 1024),
    transposed=st.booleans(),
    scale=st.sampled_from([1.0, 0.5, -2.0]),
    seed=st.integers(0, 2**31),
)
def test_effects_act_in_their_order_on_the_weight_as_the_module_sees_it(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    rows: int,
    columns: int,
    block_bytes: int,
    transposed: bool,
    scale: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(rows, columns, generator=generator).bfloat16()
    stored = seen.T.contiguous() if transposed else seen
    first, last = (torch.randn(rows, columns, generator=generator, dtype=torch.float64) for _ in range(2))
    turn = torch.randn(rows, rows, generator=generator, dtype=torch.float64)
    base = store(tmp_path_factory.getbasetemp() / "order.safetensors", w=stored)["w"]
    effects = (Applied(effect=Plus(first)), Applied(effect=Rotate(turn), scale=scale), Applied(effect=Restore(last)))
    for used in (effects[:2], effects[1::-1], effects):
        total = seen.double()
        for one in used:
            if isinstance(one.effect, Restore):
                total = seen.double() + last
            elif isinstance(one.effect, Rotate):
                total = total + scale * (turn @ total - total) if scale != 1 else turn @ total
            else:
                total = total + first
        expected = rounded((total.T if transposed else total).reshape(-1), "BF16")
        placed = tuple(replace(one, transposed=transposed) for one in used)
        found = taken(Changed(base=base, effects=placed), block_bytes)
        assert found == bytes(expected.view(torch.uint8).tolist())


@pytest.mark.parametrize("block_bytes", [1, 3, 64, 1 << 20])
def test_a_stored_tensor_is_given_as_it_lies(tmp_path: Path, block_bytes: int) -> None:
    values = torch.arange(50, dtype=torch.int64)
    stored = store(tmp_path / "f.safetensors", first=torch.ones(3), second=values)["second"]
    assert taken(stored, block_bytes) == bytes(values.view(torch.uint8).tolist())
    assert torch.equal(stored.load(), values)


def test_an_empty_tensor_has_no_blocks(tmp_path: Path) -> None:
    stored = store(tmp_path / "f.safetensors", none=torch.empty(0, 4))["none"]
    assert taken(stored) == b""
    assert stored.load().shape == (0, 4)


def test_a_held_tensor_is_rounded_once_and_keeps_its_own_dtype_else() -> None:
    values = torch.tensor([[1 + 2.0**-8 + 2.0**-40, 3.0], [5.0, 7.0]], dtype=torch.float64).T
    narrow = Held(spec=TensorSpec(name="w", dtype="BF16", shape=(2, 2)), tensor=values)
    expected = rounded(values.reshape(-1), "BF16")
    assert taken(narrow, 3) == bytes(expected.view(torch.uint8).tolist())
    whole = torch.tensor([1, 2**40])
    kept = Held(spec=TensorSpec(name="n", dtype="I64", shape=(2,)), tensor=whole)
    assert taken(kept) == bytes(whole.view(torch.uint8).tolist())


def test_a_held_nan_is_refused_by_name() -> None:
    spec = TensorSpec(name="w", dtype="F32", shape=(2,))
    with pytest.raises(InvalidError) as caught:
        taken(Held(spec=spec, tensor=torch.tensor([1.0, math.nan])))
    assert str(caught.value) == (
        "tensor 'w' holds NaN or an infinity\n"
        "  where: weights in memory\n"
        "  mend: use weights that are sound: import the model again, or train with a lower learning rate"
    )


def test_a_nan_in_the_base_of_a_sum_is_refused_by_name(tmp_path: Path) -> None:
    base = store(tmp_path / "f.safetensors", w=torch.tensor([[1.0, math.inf]]))["w"]
    with pytest.raises(InvalidError) as caught:
        taken(summed(base, torch.zeros(1, 2)))
    assert caught.value.what == "tensor 'w' holds NaN or an infinity"
    assert caught.value.where == str(tmp_path / "f.safetensors")


def test_a_sum_beyond_the_dtype_is_refused(tmp_path: Path) -> None:
    base = store(tmp_path / "f.safetensors", w=torch.full((1, 2), 65000.0, dtype=torch.float16))["w"]
    with pytest.raises(InvalidError) as caught:
        taken(summed(base, torch.full((1, 2), 1000.0)))
    assert caught.value.what == "values of 'w' are beyond what F16 can hold"


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    stored = store(tmp_path / "f.safetensors", w=torch.ones(100))["w"]
    with stored.path.open("r+b") as stream:
        stream.truncate(stored.info.offset + 8)
    with pytest.raises(InvalidError) as caught:
        taken(stored)
    assert caught.value.what == "the file ends inside tensor 'w'"


def test_torch_threads_come_back() -> None:
    before = torch.get_num_threads()
    with one_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
