"""MiSS: one shard repeated, or in the variant bat one for each row of blocks; all else is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.workshop import DOWN, HIDDEN, INNER, Workshop

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = f"{DOWN}.miss_block"
TYPE = {"peft_type": "MISS", "r": 5}


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("start", "width"), [(True, HIDDEN), (False, HIDDEN), ("mini", 4), ("mini", 1)], ids=["true", "false", "4", "1"]
)
def test_a_shard_is_repeated(
    take: Callable[..., Any], change: Callable[..., Any], *, start: bool | str, width: int
) -> None:
    shard = draw(5, width)
    ((name, applied),) = take({NAME: shard}, **TYPE, init_weights=start, mini_r=width).items()
    weight = torch.randn(HIDDEN, INNER, dtype=torch.float64)
    expected = weight + shard.double().repeat(3, HIDDEN // width).T[:, :INNER]
    assert (name, applied.effect.additive) == (f"{DOWN}.weight", True)
    assert torch.equal(change(applied.effect, weight), expected)
    assert torch.equal(change(applied.effect, weight, rows=slice(3, 6), columns=slice(4, 12)), expected[3:6, 4:12])


def test_bat_multiplies_every_block(take: Callable[..., Any], change: Callable[..., Any]) -> None:
    shards = draw(HIDDEN // 4, 4, 4)
    (applied,) = take({NAME: shards}, **TYPE | {"r": 4}, init_weights="bat").values()
    weight = torch.randn(HIDDEN, INNER, dtype=torch.float64)
    expected = weight.clone()
    for i in range(2):
        for j in range(3):
            block = weight[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            expected[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] += block @ shards[i].double() + shards[i].double()
    assert not applied.effect.additive
    assert torch.allclose(change(applied.effect, weight), expected, rtol=1e-13)
    assert torch.allclose(change(applied.effect, weight, rows=slice(3, 6)), expected[3:6], rtol=1e-13)


@pytest.mark.parametrize(
    ("shard", "config", "what"),
    [
        (draw(4, HIDDEN), {}, f"tensor '{{0}}' is [4, 8], MISS on {DOWN} needs [5, 8]"),
        (draw(5, INNER), {}, f"tensor '{{0}}' is [5, 12], MISS on {DOWN} needs [5, 8]"),
        (draw(5, HIDDEN), {"init_weights": "mini"}, f"tensor '{{0}}' is [5, 8], MISS on {DOWN} needs [5, 1]"),
        (
            draw(5, 3),
            {"init_weights": "mini", "mini_r": 3},
            f"mini_r = 3 does not divide the 8 rows of {DOWN}",
        ),
        (
            draw(5, HIDDEN),
            {"init_weights": "bat"},
            f"r = 5 does not divide [8, 12] of {DOWN}, as bat needs it",
        ),
        (
            draw(2, HIDDEN),
            {"init_weights": "bat", "r": 2},
            f"tensor '{{0}}' is [2, 8], MISS on {DOWN} needs [4, 2, 2]",
        ),
        (draw(5, HIDDEN), {"init_weights": "magic"}, "init_weights = 'magic' is not known"),
        (draw(5, HIDDEN), {"init_weights": ["bat"]}, "init_weights = ['bat'] is not known"),
        (draw(5, HIDDEN), {"use_magic": 1}, "use_magic = 1 cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused(
    refusal: Callable[..., str], shard: torch.Tensor, config: dict[str, object], what: str
) -> None:
    assert refusal({NAME: shard}, **TYPE | config) == what.format(f"base_model.model.{NAME}")


def test_conv1d_is_refused(refusal: Callable[..., str], shop: Workshop) -> None:
    module = "transformer.h.0.mlp.c_proj"
    tensors = {"transformer.wte.weight": torch.ones(16, HIDDEN), f"{module}.weight": torch.ones(INNER, HIDDEN)}
    model = shop.model(tensors, model_type="gpt2")
    assert refusal({f"{module}.miss_block": draw(5, HIDDEN)}, model=model, **TYPE) == (
        f"tensor 'base_model.model.{module}.miss_block' is on {module}, a Conv1D; PEFT has no MISS for those"
    )
