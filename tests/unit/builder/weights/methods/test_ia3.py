"""(IA)^3: factors of rows and of the bias, or of columns; what does not fit is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.workshop import DOWN, HIDDEN, INNER, Workshop, llama

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = f"{DOWN}.ia3_l"
TYPE = {"peft_type": "IA3"}


@pytest.mark.parametrize("shape", [(HIDDEN, 1), (1, INNER)])
def test_rows_or_columns_are_multiplied(
    take: Callable[..., Any], change: Callable[..., Any], shape: tuple[int, int]
) -> None:
    factors = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    ((name, applied),) = take({NAME: factors}, **TYPE).items()
    weight = torch.randn(HIDDEN, INNER, dtype=torch.float64)
    expected = weight * factors.double()
    assert (name, applied.effect.additive) == (f"{DOWN}.weight", False)
    assert torch.equal(change(applied.effect, weight), expected)
    assert torch.equal(change(applied.effect, weight, rows=slice(2, 5), columns=slice(1, 7)), expected[2:5, 1:7])


def test_the_bias_is_multiplied_with_the_rows_and_left_alone_with_columns(
    take: Callable[..., Any], change: Callable[..., Any], shop: Workshop
) -> None:
    model = shop.model(llama() | {f"{DOWN}.bias": torch.ones(HIDDEN)})
    factors = torch.randn(HIDDEN, 1)
    found = take({NAME: factors}, model=model, **TYPE)
    assert found.keys() == {f"{DOWN}.weight", f"{DOWN}.bias"}
    bias = torch.randn(1, HIDDEN, dtype=torch.float64)
    assert torch.equal(change(found[f"{DOWN}.bias"].effect, bias), bias * factors.double().T)
    assert take({NAME: torch.ones(1, INNER)}, model=model, **TYPE).keys() == {f"{DOWN}.weight"}


@pytest.mark.parametrize(
    ("leaves", "config", "what"),
    [
        ({NAME: torch.ones(INNER, 1)}, {}, f"tensor '{{0}}{NAME}' is [12, 1], IA3 on {DOWN} needs [8, 1]"),
        ({NAME: torch.ones(1, HIDDEN)}, {}, f"tensor '{{0}}{NAME}' is [1, 8], IA3 on {DOWN} needs [8, 1]"),
        ({NAME: torch.ones(HIDDEN)}, {}, f"tensor '{{0}}{NAME}' is [8], IA3 on {DOWN} needs [8, 1]"),
        (
            {"model.embed_tokens.ia3_l": torch.ones(HIDDEN, 1)},
            {},
            "tensor '{0}model.embed_tokens.ia3_l' is on model.embed_tokens, an embedding; PEFT has no IA3 for those",
        ),
        ({f"{DOWN}.ia3_m": torch.ones(HIDDEN, 1)}, {}, f"tensor '{{0}}{DOWN}.ia3_m' is no part of a IA3 adapter"),
        ({NAME: torch.ones(HIDDEN, 1)}, {"r": 4}, "r = 4 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused(
    refusal: Callable[..., str], leaves: dict[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    assert refusal(leaves, **TYPE | config) == what.format("base_model.model.")
