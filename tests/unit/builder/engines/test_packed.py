"""Batches of packed sequences: positions begin again in each part, and what fills a row up is nobody's."""

from __future__ import annotations

import torch

from builder.engines.packed import PackedRows
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
