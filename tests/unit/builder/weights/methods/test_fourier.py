"""FourierFT: a sparse spectrum, transformed row by row; what does not fit is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.weights.methods.fourier import first_of_permutation
from tests.workshop import DOWN, HIDDEN, INNER, Workshop

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = f"{DOWN}.fourierft_spectrum"
TYPE = {"peft_type": "FOURIERFT", "n_frequency": 30}
SPECTRUM = torch.randn(30, generator=torch.Generator().manual_seed(5))


def transformed(spectrum: torch.Tensor, rows: int, columns: int, seed: int) -> torch.Tensor:
    dense = torch.zeros(rows * columns, dtype=torch.float64)
    dense[torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))[: len(spectrum)]] = spectrum
    return torch.fft.ifft2(dense.view(rows, columns)).real


@pytest.mark.parametrize("columns", [INNER, 11])
def test_rows_of_the_transform_are_added(
    take: Callable[..., Any], change: Callable[..., Any], shop: Workshop, columns: int
) -> None:
    model = shop.model({f"{DOWN}.weight": torch.ones(HIDDEN, columns)})
    ((name, applied),) = take({NAME: SPECTRUM}, model=model, **TYPE, random_loc_seed=3, scaling=7.5).items()
    weight = torch.randn(HIDDEN, columns, dtype=torch.float64)
    expected = weight + 7.5 * transformed(SPECTRUM.double(), HIDDEN, columns, 3)
    assert name == f"{DOWN}.weight"
    assert torch.allclose(change(applied.effect, weight), expected, rtol=1e-12, atol=1e-14)
    assert torch.allclose(change(applied.effect, weight, rows=slice(3, 5)), expected[3:5], rtol=1e-12, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(-(2**63), 2**64 - 1), size=st.integers(1, 3000), data=st.data())
def test_the_first_of_a_permutation_are_those_of_torch(seed: int, size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, max(1, size // 8)))
    expected = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]
    assert torch.equal(first_of_permutation(seed, size, count), expected)


@pytest.mark.parametrize("count", [1, 2, 4999, 70000])
def test_the_first_of_a_long_permutation_are_those_of_torch(count: int) -> None:
    expected = torch.randperm(3_000_000, generator=torch.Generator().manual_seed(777))[:count]
    assert torch.equal(first_of_permutation(777, 3_000_000, count), expected)


@pytest.mark.parametrize(
    ("spectrum", "config", "what"),
    [
        (SPECTRUM[:9], {}, f"tensor '{{0}}' is [9], FOURIERFT on {DOWN} needs [30]"),
        (SPECTRUM.view(30, 1), {}, f"tensor '{{0}}' is [30, 1], FOURIERFT on {DOWN} needs [30]"),
        (
            SPECTRUM[:9],
            {"n_frequency_pattern": {"down_proj": 8}},
            f"tensor '{{0}}' is [9], FOURIERFT on {DOWN} needs [30]",
        ),
        (torch.ones(97), {"n_frequency": 97}, f"tensor '{{0}}' holds 97 coefficients, {DOWN} is [8, 12]"),
        (SPECTRUM, {"n_frequency_pattern": [1]}, "n_frequency_pattern is not a table"),
        (SPECTRUM, {"random_loc_seed": "777"}, "random_loc_seed = '777' is no seed"),
        (SPECTRUM, {"random_loc_seed": 2**64}, f"random_loc_seed = {2**64} is no seed"),
        (SPECTRUM, {"scaling": None}, ""),
        (SPECTRUM, {"use_magic": 1}, "use_magic = 1 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused(
    take: Callable[..., Any],
    refusal: Callable[..., str],
    spectrum: torch.Tensor,
    config: dict[str, object],
    what: str,
) -> None:
    if not what:  # PEFT's default holds
        assert take({NAME: spectrum}, **TYPE | config)
        return
    assert refusal({NAME: spectrum}, **TYPE | config) == what.format(f"base_model.model.{NAME}")


def test_a_pattern_may_give_another_number(take: Callable[..., Any]) -> None:
    assert take({NAME: SPECTRUM[:9]}, **TYPE, n_frequency_pattern={"down_proj": 9})
