"""AdaLoRA: three factors, ranks that training pruned; all else is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.workshop import HIDDEN, QUERY

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATOR = torch.Generator().manual_seed(5)
LEAVES = {
    f"{QUERY}.lora_A": torch.randn(3, HIDDEN, generator=GENERATOR),
    f"{QUERY}.lora_E": torch.randn(3, 1, generator=GENERATOR),
    f"{QUERY}.lora_B": torch.randn(HIDDEN, 3, generator=GENERATOR),
}
TYPE = {"peft_type": "ADALORA", "init_r": 3}
NAME = f"{QUERY}.lora_E"


def test_a_part_of_the_product_is_added(take: Callable[..., Any], change: Callable[..., Any]) -> None:
    ((name, applied),) = take(LEAVES, **TYPE, lora_alpha=6).items()
    weight = torch.randn(HIDDEN, HIDDEN, dtype=torch.float64)
    down, values, up = (tensor.double() for tensor in LEAVES.values())
    expected = weight + 6 / (3 + 1e-5) * up @ (down * values)
    assert name == f"{QUERY}.weight"
    assert torch.allclose(change(applied.effect, weight), expected, rtol=1e-14)
    part = change(applied.effect, weight, rows=slice(2, 5), columns=slice(1, 7))
    assert torch.allclose(part, expected[2:5, 1:7], rtol=1e-14)


@pytest.mark.parametrize(
    ("change", "config", "what"),
    [
        ({"lora_E": None}, {}, "tensor '{0}A' has no lora_E beside it"),
        ({"lora_B": torch.ones(HIDDEN, 4)}, {}, f"tensor '{{0}}B' is [8, 4], ADALORA on {QUERY} needs [8, 3]"),
        ({"lora_E": torch.ones(3)}, {}, f"tensor '{{0}}E' is [3], ADALORA on {QUERY} needs [3, 1]"),
        ({}, {"init_r": 4}, f"tensor '{{0}}A' is [3, 8], ADALORA on {QUERY} needs [4, 8]"),
        (
            {},
            {"rank_pattern": {NAME: [True, False, True]}},
            f"tensor '{{0}}A' is [3, 8], ADALORA on {QUERY} needs [2, 8]",
        ),
        ({}, {"rank_pattern": {NAME: [True]}}, f"rank_pattern of {NAME} is no list of 3 truth values"),
        ({}, {"rank_pattern": {NAME: [1, 0, 1]}}, f"rank_pattern of {NAME} is no list of 3 truth values"),
        ({}, {"rank_pattern": [NAME]}, "rank_pattern is not a table"),
        (
            {},
            {"layer_replication": [[0, 2]]},
            "layer_replication = [[0, 2]] cannot be folded: it needs a model with other layers",
        ),
        ({}, {"use_dora": True}, "use_dora = True cannot be folded: this tool does not know what it means"),
    ],
)
def test_what_does_not_fit_is_refused(
    refusal: Callable[..., str], change: dict[str, torch.Tensor | None], config: dict[str, object], what: str
) -> None:
    leaves = LEAVES | {f"{QUERY}.{leaf}": tensor for leaf, tensor in change.items()}
    assert refusal(leaves, **TYPE | config) == what.format(f"base_model.model.{QUERY}.lora_")


@pytest.mark.parametrize("key", [NAME, f"{NAME}.default"])
def test_a_module_that_was_pruned_away_changes_nothing(take: Callable[..., Any], key: str) -> None:
    gone = {f"{QUERY}.lora_A": torch.ones(0, HIDDEN), NAME: torch.ones(0, 1), f"{QUERY}.lora_B": torch.ones(HIDDEN, 0)}
    assert take(gone, **TYPE, rank_pattern={key: [False] * 3}) == {}


def test_pruning_and_an_alpha_of_nothing_are_refused_together(refusal: Callable[..., str]) -> None:
    two = {name: tensor[:, :2] if name.endswith("B") else tensor[:2] for name, tensor in LEAVES.items()}
    assert refusal(two, **TYPE, lora_alpha=0, rank_pattern={NAME: [True, True, False]}) == (
        f"lora_alpha = 0 cannot be folded: PEFT scales {QUERY}, which was pruned, "
        "otherwise in training than when it is loaded"
    )


def test_embeddings_are_refused(refusal: Callable[..., str]) -> None:
    leaves = {name.replace(QUERY, "model.embed_tokens"): tensor for name, tensor in LEAVES.items()}
    leaves["model.embed_tokens.lora_A"] = torch.ones(3, 16)
    assert refusal(leaves, **TYPE) == (
        "tensor 'base_model.model.model.embed_tokens.lora_A' is on model.embed_tokens, an embedding; "
        "PEFT has no ADALORA for those"
    )
