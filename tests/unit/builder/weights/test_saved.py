"""Whole parameters and rows of tokens, put in the place of the model's block by block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from builder.weights.effect import Applied, Block, Changed
from builder.weights.folder import read_model
from builder.weights.rounding import round_once
from builder.weights.saved import Replaced, Rows, leaves_nothing
from builder.weights.stream import CPU, Scratch, Stored, first_difference
from registry.errors import InvalidError
from registry.safetensors import read_header
from tests.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def stored(shop: Workshop, tensor: torch.Tensor, name: str = "saved") -> Stored:
    path = shop.folder() / "file.safetensors"
    save_file({name: tensor.contiguous()}, path)
    return Stored(path=path, info=read_header(path).tensors[name])


def base(shop: Workshop, tensor: torch.Tensor) -> Stored:
    return read_model(shop.model({"model.embed_tokens.weight": tensor})).tensors["model.embed_tokens.weight"]


def streamed(content: Changed, block_bytes: int) -> torch.Tensor:
    data = bytearray(b"".join(map(bytes, content.blocks(Scratch(block_bytes)))))
    return torch.frombuffer(data, dtype=torch.bfloat16).view(content.spec.shape)


def rounded(values: torch.Tensor) -> torch.Tensor:
    out = torch.empty(values.numel(), dtype=torch.bfloat16)
    round_once(values.double().reshape(-1).clone(), out, Scratch())
    return out.view(values.shape)


@pytest.mark.parametrize("shape", [(7, 5), (5,), (1,), (3, 4, 5), (1, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("block_bytes", [1, 10, 24, 1 << 20])
def test_a_whole_parameter_comes_out_rounded_once(
    shop: Workshop, shape: tuple[int, ...], dtype: torch.dtype, block_bytes: int
) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    content = Changed(
        base=base(shop, torch.zeros(shape, dtype=torch.bfloat16)),
        effects=(Applied(effect=Replaced(stored=stored(shop, values))),),
    )
    assert torch.equal(streamed(content, block_bytes), rounded(values))


@pytest.mark.parametrize("block_bytes", [1, 30, 1 << 20])
def test_rows_of_a_stack_take_the_place_of_a_matrix(shop: Workshop, block_bytes: int) -> None:
    values = torch.randn(3, 4, 5)
    part = stored(shop, values).part(slice(5, 8))
    assert part.info.shape == (3, 5)
    content = Changed(
        base=base(shop, torch.zeros(3, 5, dtype=torch.bfloat16)), effects=(Applied(effect=Replaced(stored=part)),)
    )
    assert torch.equal(streamed(content, block_bytes), rounded(values.view(12, 5)[5:8]))


@pytest.mark.parametrize("block_bytes", [1, 10, 25, 40, 1 << 20])
@pytest.mark.parametrize("tokens", [(0,), (6,), (2, 3), (6, 0, 3), (0, 1, 2, 3, 4, 5, 6)], ids=str)
def test_rows_of_tokens_come_out_wherever_a_block_ends(
    shop: Workshop, tokens: tuple[int, ...], block_bytes: int
) -> None:
    weight = torch.randn(7, 5).bfloat16()
    values = torch.randn(len(tokens), 5)
    content = Changed(
        base=base(shop, weight), effects=(Applied(effect=Rows(stored=stored(shop, values), tokens=tokens)),)
    )
    expected = weight.clone()
    expected[list(tokens)] = rounded(values)
    assert torch.equal(streamed(content, block_bytes), expected)


@pytest.mark.parametrize("block_bytes", [10, 1 << 20])
def test_half_of_a_replacement_is_the_mean(shop: Workshop, block_bytes: int) -> None:
    weight, values = torch.randn(7, 5).bfloat16(), torch.randn(7, 5)
    effect = Applied(effect=Replaced(stored=stored(shop, values)), scale=0.5)
    content = Changed(base=base(shop, weight), effects=(effect,))
    expected = weight.double() + 0.5 * (values.double() - weight.double())
    assert torch.equal(streamed(content, block_bytes), rounded(expected))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 34])
def test_numbers_that_are_none_are_laid_to_the_adapter(shop: Workshop, value: float, place: int) -> None:
    values = torch.ones(7, 5)
    values.view(-1)[place] = value
    saved = stored(shop, values, "the.adapters.own")
    for effect in (Replaced(stored=saved), Rows(stored=saved, tokens=tuple(range(7)))):
        content = Changed(base=base(shop, torch.ones(7, 5).bfloat16()), effects=(Applied(effect=effect),))
        with pytest.raises(InvalidError) as caught:
            streamed(content, 10)
        assert caught.value.what == "tensor 'the.adapters.own' holds NaN or an infinity"
        assert caught.value.where == str(saved.path)


def test_a_file_that_ends_too_early_is_said(shop: Workshop) -> None:
    saved = stored(shop, torch.ones(7, 5))
    saved.path.write_bytes(saved.path.read_bytes()[:-1])
    weight = torch.ones(7, 5, dtype=torch.float64)
    with pytest.raises(InvalidError) as caught:
        Replaced(stored=saved).load(CPU).apply(weight, weight, Block(slice(0, 7), slice(0, 5)), 1.0)
    assert caught.value.what == "the file ends inside tensor 'saved'"


@pytest.mark.parametrize("row", [0, 1, 40, 99])
def test_the_first_row_that_differs_is_found_in_any_block(shop: Workshop, row: int) -> None:
    one = torch.randn(100, 3000).bfloat16()  # more than one block
    other = one.float()
    other[row:, 2999] += 1
    assert first_difference(stored(shop, one), stored(shop, other)) == row
    assert first_difference(stored(shop, other), stored(shop, one)) == row


def test_equal_numbers_are_equal_in_any_dtype_and_nan_is_unlike_itself(shop: Workshop) -> None:
    one = torch.randn(3, 4).bfloat16()
    assert first_difference(stored(shop, one), stored(shop, one.double())) is None
    assert first_difference(stored(shop, one[0]), stored(shop, one[0].float())) is None
    one[2, 0] = float("nan")
    assert first_difference(stored(shop, one), stored(shop, one)) == 2


def test_a_later_effect_leaves_nothing_where_it_covers_all_at_full_weight(shop: Workshop) -> None:
    saved = stored(shop, torch.ones(3, 4))
    whole = Applied(effect=Replaced(stored=saved))
    rows, same, others = (Applied(effect=Rows(stored=saved, tokens=tokens)) for tokens in ((1, 2), (2,), (3, 4)))
    assert leaves_nothing(whole, rows)
    assert leaves_nothing(whole, whole)
    assert not leaves_nothing(replace(whole, scale=0.9), whole)
    assert leaves_nothing(same, rows)
    assert not leaves_nothing(others, rows)
    assert not leaves_nothing(rows, whole)
    assert not leaves_nothing(replace(same, scale=0.5), rows)
