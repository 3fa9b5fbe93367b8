"""Batches of packed sequences: positions begin again in each part, and what fills a row up is nobody's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from builder.engines.packed import PackedRows, keeps_parts_apart
from builder.stages.tokens import IGNORED

TWO_PARTS = {"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "seq_lengths": [2, 3]}
ONE_PART = {"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7], "seq_lengths": [3]}


def test_positions_begin_again_in_every_part() -> None:
    batch = PackedRows(pad_token_id=0)([TWO_PARTS, ONE_PART])
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 1]]
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]]


def test_the_first_token_of_a_part_and_what_fills_up_are_not_learnt() -> None:
    batch = PackedRows(pad_token_id=0)([TWO_PARTS, ONE_PART])
    assert batch["labels"].tolist() == [[IGNORED, 6, IGNORED, 8, 9], [IGNORED, 6, 7, IGNORED, IGNORED]]


def test_there_is_no_mask_so_that_parts_are_told_by_their_positions() -> None:
    assert sorted(PackedRows(pad_token_id=0)([ONE_PART])) == ["input_ids", "labels", "position_ids"]


def test_rows_are_filled_up_to_a_multiple() -> None:
    batch = PackedRows(pad_token_id=0, multiple=8)([TWO_PARTS])
    assert {tensor.shape for tensor in batch.values()} == {torch.Size([1, 8])}
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 1, 2]]


def tiny(family: str) -> Any:  # noqa: ANN401 - transformers has no types
    """A model of random weights, with dropout where its family has it."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "max_position_embeddings": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        match family:
            case "llama":
                return LlamaForCausalLM(LlamaConfig(**sizes, **heads, intermediate_size=64))
            case "opt":
                return OPTForCausalLM(OPTConfig(**sizes, **heads, ffn_dim=64, word_embed_proj_dim=32, dropout=0.1))
            case "bloom":
                return BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4))
            case _:
                return MambaForCausalLM(MambaConfig(**sizes, state_size=4))


@pytest.mark.parametrize(
    ("family", "dtype", "apart"),
    [
        ("llama", torch.float32, True),
        ("llama", torch.bfloat16, True),
        ("opt", torch.float32, False),
        ("opt", torch.bfloat16, False),
        ("bloom", torch.float32, False),
        ("mamba", torch.float32, False),
    ],
)
def test_whether_a_model_keeps_parts_apart_is_tried(family: str, dtype: torch.dtype, apart: bool) -> None:  # noqa: FBT001
    model = tiny(family).to(dtype).train()
    assert keeps_parts_apart(model) is apart
    assert model.training
