"""Experts of a mixture: each a tensor of its own on disk, or all stacked in one as in transformers' module tree.

    experts.{e}.gate_proj.weight  [inner, width]   experts.gate_up_proj  [experts, 2 * inner, width]
    experts.{e}.up_proj.weight    [inner, width]
    experts.{e}.down_proj.weight  [width, inner]   experts.down_proj     [experts, width, inner]

Mixtral calls them w1, w3 and w2, and what they are in ``block_sparse_moe``. An adapter may name either form, whichever
its base has. Names alone are looked at, and the shapes that they have.
"""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.weights.stream import Stored

__all__ = ["NESTED", "Slice", "aliases", "module_of", "one_by_one", "stacked"]

_MATRIX, _STACK = 2, 3

# Matrices of one expert, by their names on disk, in the order in which their rows lie in a stack's.
_STACKS = (
    ("gate_up_proj", ("gate_proj", "up_proj")),
    ("gate_up_proj", ("w1", "w3")),
    ("down_proj", ("down_proj",)),
    ("down_proj", ("w2",)),
)
_ONE = re.compile(r"(?P<experts>.+\.experts)\.(?P<expert>\d{1,5})\.(?P<matrix>\w+)\.weight")
_MODULES = (".mlp.", ".block_sparse_moe.")

NESTED = ("weight", "gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
"""Parameters of one module as transformers registers them: PEFT wraps them in this order, the last one outermost."""


class Slice(NamedTuple):
    """Rows of one expert's matrix.

    Attributes:
        name: The tensor on disk.
        expert: Which expert, counted from 0.
        rows: Which rows of its matrix in the stack.
    """

    name: str
    expert: int
    rows: slice

    def in_tall(self, outs: int) -> slice:
        """The same rows of the stack as one tall matrix, in which each expert has ``outs`` rows."""
        start = self.expert * outs
        return slice(start + self.rows.start, start + self.rows.stop)


def aliases(name: str) -> Iterator[str]:
    """Names that a tensor of the module tree may have on disk, its own first."""
    yield name
    for one, other in (_MODULES, _MODULES[::-1]):
        if one in name:
            yield name.replace(one, other, 1)


def module_of(name: str) -> str:
    """The module that a tensor on disk belongs to in transformers' module tree, where experts are one module."""
    found = _ONE.fullmatch(name)
    return found["experts"] if found else name.rpartition(".")[0]


def one_by_one(parameter: str, tensors: Mapping[str, Stored]) -> tuple[Slice, ...]:
    """The tensors on disk that make up a stacked parameter; none where they are not there, or not all alike.

    Args:
        parameter: Such as ``model.layers.0.mlp.experts.gate_up_proj``.
        tensors: What lies on disk, by name.
    """
    experts, _, stack = parameter.rpartition(".")
    for name, matrices in _STACKS:
        if name != stack:
            continue
        firsts = {matrix: _shape(f"{experts}.0.{matrix}.weight", tensors) for matrix in matrices}
        total = next(expert for expert in count() if f"{experts}.{expert}.{matrices[0]}.weight" not in tensors)
        found: list[Slice] = []
        for expert in range(total):
            start = 0
            for matrix, shape in firsts.items():
                tensor = f"{experts}.{expert}.{matrix}.weight"
                if len(shape) != _MATRIX or _shape(tensor, tensors) != shape:
                    return ()
                found.append(Slice(tensor, expert, slice(start, start + shape[0])))
                start += shape[0]
        if found:
            return tuple(found)
    return ()


def _shape(name: str, tensors: Mapping[str, Stored]) -> tuple[int, ...]:
    """Shape of a tensor; empty where there is none."""
    return tensors[name].info.shape if name in tensors else ()


def stacked(weight: str, tensors: Mapping[str, Stored]) -> Slice | None:
    """Where in a stack on disk the weight of one expert lies; ``None`` where there is no such stack.

    Args:
        weight: Such as ``model.layers.0.mlp.experts.3.gate_proj.weight``.
        tensors: What lies on disk, by name.
    """
    found = _ONE.fullmatch(weight)
    for stack, matrices in _STACKS:
        if found is None or found["matrix"] not in matrices:
            continue
        name, expert = f"{found['experts']}.{stack}", int(found["expert"])
        shape = _shape(name, tensors)
        if len(shape) == _STACK and expert < shape[0] and shape[1] % len(matrices) == 0:
            count = shape[1] // len(matrices)
            start = count * matrices.index(found["matrix"])
            return Slice(name, expert, slice(start, start + count))
    return None
