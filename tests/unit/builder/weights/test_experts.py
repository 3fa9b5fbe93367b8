"""Names of experts: one by one on disk, or stacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.weights.experts import Slice, aliases, module_of, one_by_one, stacked
from builder.weights.stream import Stored
from registry.safetensors import TensorInfo

MIXTRAL, QWEN = "model.layers.0.block_sparse_moe.experts", "model.layers.0.mlp.experts"


def disk(**shapes: tuple[int, ...]) -> dict[str, Stored]:
    return {
        name: Stored(path=Path("x"), info=TensorInfo(name=name, dtype="F32", shape=shape, offset=0, size_bytes=0))
        for name, shape in shapes.items()
    }


def single(experts: str, matrices: dict[str, tuple[int, int]], count: int) -> dict[str, tuple[int, ...]]:
    return {f"{experts}.{e}.{name}.weight": shape for e in range(count) for name, shape in matrices.items()}


@pytest.mark.parametrize(
    ("experts", "gate", "up", "down"),
    [(MIXTRAL, "w1", "w3", "w2"), (QWEN, "gate_proj", "up_proj", "down_proj")],
    ids=["mixtral", "qwen"],
)
def test_a_stack_is_made_of_each_experts_matrices_gate_before_up(experts: str, gate: str, up: str, down: str) -> None:
    tensors = disk(**single(experts, {up: (3, 4), gate: (3, 4), down: (4, 3)}, 11))
    found = one_by_one(f"{experts}.gate_up_proj", tensors)
    assert len(found) == 22
    assert found[:2] == (
        Slice(f"{experts}.0.{gate}.weight", 0, slice(0, 3)),
        Slice(f"{experts}.0.{up}.weight", 0, slice(3, 6)),
    )
    assert found[-1] == Slice(f"{experts}.10.{up}.weight", 10, slice(3, 6))
    assert found[-1].in_tall(6) == slice(63, 66)
    assert [one.rows for one in one_by_one(f"{experts}.down_proj", tensors)] == [slice(0, 4)] * 11


@pytest.mark.parametrize(
    "change",
    [
        {f"{QWEN}.1.up_proj.weight": None},
        {f"{QWEN}.1.up_proj.weight": (3, 5)},
        {f"{QWEN}.1.gate_proj.weight": (2, 4)},
        {f"{QWEN}.0.up_proj.weight": None},
        {f"{QWEN}.0.gate_proj.weight": None},
        {f"{QWEN}.0.gate_proj.weight": (12,)},
    ],
    ids=str,
)
def test_experts_that_are_not_all_alike_are_no_stack(change: dict[str, tuple[int, ...] | None]) -> None:
    shapes = single(QWEN, {"gate_proj": (3, 4), "up_proj": (3, 4)}, 3) | change
    tensors = disk(**{name: shape for name, shape in shapes.items() if shape is not None})
    assert one_by_one(f"{QWEN}.gate_up_proj", tensors) == ()


def test_other_names_are_no_stack() -> None:
    tensors = disk(**single(QWEN, {"gate_proj": (3, 4), "up_proj": (3, 4), "other": (3, 4)}, 2))
    assert one_by_one(f"{QWEN}.other", tensors) == ()
    assert one_by_one("gate_up_proj", tensors) == ()


@pytest.mark.parametrize(
    ("matrix", "stack", "rows"),
    [
        ("gate_proj", "gate_up_proj", slice(0, 3)),
        ("up_proj", "gate_up_proj", slice(3, 6)),
        ("w1", "gate_up_proj", slice(0, 3)),
        ("w3", "gate_up_proj", slice(3, 6)),
        ("down_proj", "down_proj", slice(0, 4)),
        ("w2", "down_proj", slice(0, 4)),
    ],
)
def test_an_expert_is_found_in_a_stack(matrix: str, stack: str, rows: slice) -> None:
    tensors = disk(**{f"{QWEN}.gate_up_proj": (5, 6, 4), f"{QWEN}.down_proj": (5, 4, 3)})
    assert stacked(f"{QWEN}.4.{matrix}.weight", tensors) == Slice(f"{QWEN}.{stack}", 4, rows)
    assert stacked(f"{QWEN}.5.{matrix}.weight", tensors) is None


@pytest.mark.parametrize(
    "name", [f"{QWEN}.0.other.weight", f"{QWEN}.gate_proj.weight", f"{QWEN}.0.gate_proj.bias", "gate_proj.weight"]
)
def test_what_is_no_expert_is_in_no_stack(name: str) -> None:
    assert stacked(name, disk(**{f"{QWEN}.gate_up_proj": (5, 6, 4)})) is None


@pytest.mark.parametrize("shape", [(6, 4), (5, 7, 4)], ids=str)
def test_a_tensor_that_cannot_be_taken_apart_is_no_stack(shape: tuple[int, ...]) -> None:
    assert stacked(f"{QWEN}.0.gate_proj.weight", disk(**{f"{QWEN}.gate_up_proj": shape})) is None


def test_mixtrals_module_has_two_names() -> None:
    assert list(aliases("h.mlp.gate.weight")) == ["h.mlp.gate.weight", "h.block_sparse_moe.gate.weight"]
    assert list(aliases("h.block_sparse_moe.gate.weight")) == ["h.block_sparse_moe.gate.weight", "h.mlp.gate.weight"]
    assert list(aliases("lm_head.weight")) == ["lm_head.weight"]


def test_experts_are_one_module() -> None:
    assert module_of(f"{QWEN}.3.gate_proj.weight") == QWEN
    assert module_of(f"{QWEN}.gate_up_proj") == QWEN
    assert module_of("model.norm.weight") == "model.norm"
