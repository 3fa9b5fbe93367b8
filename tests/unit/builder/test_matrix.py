from __future__ import annotations

from typing import get_args

import pytest

from builder.kinds import KINDS
from builder.matrix import AXES, Cell, cells, pairs, refusals
from builder.matrix_text import matrix_lines, matrix_markdown
from builder.train_stages import TrainStage


def test_every_kind_that_trains_is_in_it() -> None:
    trained = {stage.__dataclass_fields__["kind"].default for stage in get_args(TrainStage)}
    assert set(AXES["kind"]) == {"pretrain", *trained}
    assert set(AXES["kind"]) <= set(KINDS)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (Cell(kind="sft"), ""),
        (Cell(kind="sft", adapter="lora", base="nf4"), ""),
        (Cell(kind="sft", base="nf4"), "weights in few bits are too coarse to be trained themselves"),
        (Cell(kind="sft", adapter="loha", base="int8"), "PEFT has no layer of this type over weights in few bits"),
        (Cell(kind="sft", adapter="lora", processes="fsdp2"), ""),
        (Cell(kind="sft", adapter="vera", processes="fsdp2"), "only plain LoRA is tried over parts of weights"),
        (
            Cell(kind="sft", adapter="lora", base="nf4", processes="fsdp2"),
            "bitsandbytes holds whole weights, not parts of them",
        ),
    ],
)
def test_a_cell_works_or_says_why_not(cell: Cell, reason: str) -> None:
    assert next((pair.reason for pair in refusals(cell)), "") == reason


def test_a_cell_works_where_each_of_its_pairs_does() -> None:
    refused = {(pair.axes, pair.values) for pair in pairs() if pair.reason}
    some = list(cells(works=False))
    for cell in (*some[::97], *list(cells())[::29]):
        found = {(pair.axes, pair.values) for pair in refusals(cell)}
        values = {axis: getattr(cell, axis) for axis in AXES}
        assert found == {one for one in refused if all(values[axis] == value for axis, value in zip(*one, strict=True))}
    assert len(some) + len(list(cells())) == len(AXES["kind"]) * len(AXES["adapter"]) * 3 * 3


def test_the_tables_say_each_reason_once() -> None:
    lines = matrix_lines()
    assert "adapter and base" in lines
    assert any(line.split() == ["loha", "yes", "no", "2", "no", "2"] for line in lines)
    reasons = {pair.reason for pair in pairs() if pair.reason}
    assert reasons == {line.partition(": ")[2] for line in lines if line[:1].isdigit()}
    assert "| loha | yes | no 2 | no 2 |" in matrix_markdown()
