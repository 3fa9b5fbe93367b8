"""Adapters that hold a tensor whole, or rows of it, folded together: nothing of one is lost without a word."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from builder.manifest import FoldStage
from builder.stages.fold import fold
from builder.weighting import ONE
from builder.weights.folder import read_model
from registry.errors import InvalidError
from tests.workshop import HIDDEN, QUERY, WORDS, Workshop, lora

if TYPE_CHECKING:
    from pathlib import Path

    from builder.stage import Input

SETTINGS = FoldStage(from_="base", adapters={"tone": ONE})
HEAD = "lm_head.weight"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def headed(shop: Workshop, base: Path, value: float) -> Path:
    """An adapter that holds a whole head."""
    saved = {f"base_model.model.{HEAD}": torch.full((WORDS, HIDDEN), float(value))}
    return shop.adapter(base, lora({QUERY: (HIDDEN, HIDDEN)}) | saved, modules_to_save=["lm_head"])


def tokened(shop: Workshop, base: Path, tokens: list[int]) -> Path:
    """An adapter that holds rows of tokens."""
    rows = {"base_model.model.lm_head.trainable_tokens_delta": torch.ones(len(tokens), HIDDEN)}
    config = {"peft_type": "TRAINABLE_TOKENS", "r": None, "lora_alpha": None, "token_indices": tokens}
    return shop.adapter(base, rows, **config)


def placed(shop: Workshop, *adapters: tuple[Path, float]) -> list[Input]:
    """Adapters in an order that the manifest gives."""
    inputs = [shop.input("adapter", path, name=f"a{place}") for place, (path, _) in enumerate(adapters)]
    return [replace(one, settings={"place": place, "weight": adapters[place][1]}) for place, one in enumerate(inputs)]


def folded(shop: Workshop, base: Path, *adapters: Input) -> torch.Tensor:
    context = shop.context(SETTINGS, shop.input("from", base), *adapters)
    fold(context)
    return read_model(context.out).tensors[HEAD].load()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["heads", "tokens"])
def test_what_leaves_nothing_of_another_is_refused_in_any_order(shop: Workshop, kind: str, *, ordered: bool) -> None:
    base = shop.model()
    made = [headed(shop, base, 1), headed(shop, base, 2)]
    if kind == "tokens":
        made = [tokened(shop, base, [1, 2]), tokened(shop, base, [2])]
    inputs = placed(shop, *((path, 1.0) for path in made))
    if not ordered:
        inputs = [replace(one, settings={"weight": 1.0}) for one in inputs]
    with pytest.raises(InvalidError) as caught:
        folded(shop, base, *inputs)
    names = ("a1", "a0") if ordered else ("a1", "a0", "a0", "a1")
    assert caught.value.what in {
        f"{later} puts numbers of its own in the place of {HEAD!r}, or of some rows, "
        f"and nothing of {before} would be left there"
        for later, before in zip(names[::2], names[1::2], strict=True)
    }
    assert caught.value.mend == "fold one of them only, or give the later one a weight below 1 there"


def test_a_part_of_a_second_head_is_a_mean(shop: Workshop) -> None:
    base = shop.model()
    inputs = placed(shop, (headed(shop, base, 1), 1.0), (headed(shop, base, 3), 0.5))
    assert torch.equal(folded(shop, base, *inputs), torch.full((WORDS, HIDDEN), 2.0).bfloat16())


def test_other_tokens_go_together_once_an_order_is_said(shop: Workshop) -> None:
    base = shop.model()
    made = [(tokened(shop, base, [1, 2]), 1.0), (tokened(shop, base, [3]), 1.0)]
    inputs = placed(shop, *made)
    assert folded(shop, base, *inputs)[1:4].eq(1).all()
    with pytest.raises(InvalidError) as caught:
        folded(shop, base, *(replace(one, settings={"weight": 1.0}) for one in inputs))
    assert caught.value.what.endswith("the order matters")


def test_what_adds_may_come_after_a_whole_head_but_not_before(shop: Workshop) -> None:
    base = shop.model()
    added = shop.adapter(base, lora({"lm_head": (WORDS, HIDDEN)}))
    whole = headed(shop, base, 1)
    after = folded(shop, base, *placed(shop, (whole, 1.0), (added, 1.0)))
    assert not torch.equal(after, torch.ones(WORDS, HIDDEN).bfloat16())
    with pytest.raises(InvalidError) as caught:
        folded(shop, base, *placed(shop, (added, 1.0), (whole, 1.0)))
    assert caught.value.what.startswith("a1 puts numbers of its own in the place of")
