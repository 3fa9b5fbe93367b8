"""FRoD: a weight taken apart over a basis that its layers share (2026, https://doi.org/10.1609/aaai.v40i31.39813).

PEFT saves the basis but not the directions ``U`` of each weight over it: when it loads, it makes the basis again from
the base in the dtype it loads that in, takes ``U`` from that one, and only then puts the saved basis in its place. So
what PEFT means depends on that dtype. Here it is the dtype of the saved basis, which is that of the base while the
adapter was trained, and ``U`` is taken from the saved basis: the weight that training saw. So a FRoD adapter is never
stored in another dtype: a training that goes on keeps each tensor's own, and is refused over weights of another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.method import Method, Subject, load_float64, load_indices
from builder.weights.stream import CPU

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["FROD"]

_NOTHING = 1e-12  # shorter directions are taken for zero
_SINGULAR = 1e-6  # where the basis has no inverse, singular values below this share of the largest are zero
_NESTED = 3  # parts of a name like attention.output.dense


@dataclass(frozen=True, kw_only=True, slots=True)
class _JointBasis:
    """Puts ``U @ (sparse + diag(lengths)) @ basis.T`` in place of the base, ``U`` the base's directions over the basis.

    Attributes:
        basis: ``V``, shape ``[in, in]``.
        places: Rows and columns of the sparse matrix's entries, shape ``[2, count]``.
        entries: Shape ``[count]``.
        lengths: Shape ``[in]``.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "whole"

    basis: Stored
    places: Stored
    entries: Stored
    lengths: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the basis and put the matrix over it together.

        Raises:
            InvalidError: A place outside the matrix, or NaN or an infinity.
            OSError: The file cannot be read.
        """
        width = self.basis.info.shape[0]
        basis = load_float64(self.basis, CPU)
        rows, columns = load_indices(self.places, width, width)
        middle = torch.diag(load_float64(self.lengths, CPU))
        middle.index_put_((rows, columns), load_float64(self.entries, CPU), accumulate=True)
        return _Loaded(basis=basis, right=(middle @ basis.T).to(device), dtype=TORCH_DTYPES[self.basis.info.dtype])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    basis: torch.Tensor
    right: torch.Tensor
    dtype: torch.dtype

    def apply(self, weight: torch.Tensor, base: torch.Tensor, _at: Block, _scale: float) -> None:
        directions = self._directions(base.to(CPU)).to(weight.device)
        weight.add_(directions @ self.right - base)

    def _directions(self, base: torch.Tensor) -> torch.Tensor:
        """``U``: of unit length by column, rounded as PEFT rounds it; float64, shape ``[out, in]``."""
        seen = base.to(self.dtype).to(torch.float64)
        over, singular = torch.linalg.solve_ex(self.basis, seen.T)
        over = (torch.linalg.pinv(self.basis, rtol=_SINGULAR) @ seen.T if singular else over).T
        length = torch.linalg.vector_norm(over, dim=0)
        unit = torch.where(length > _NOTHING, over / length, 0)
        return unit.to(torch.float32).to(self.dtype).to(torch.float64)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    width, role = subject.shape[1], _role(subject.module)
    places = subject.common(f"frod_s_indices.{role}")
    count = places.info.shape[-1] if places.info.shape else 0
    sizes = load_indices(subject.common(f"frod_s_size.{role}", 2), width + 1).tolist()
    if sizes != [width, width]:
        problem = f"frod_s_size.{role} says {sizes}, {subject.module} needs {[width, width]}"
        raise subject.config.refused(problem, "fold it into the model that it was trained on")
    return {
        "weight": _JointBasis(
            basis=subject.common(f"frod_V.{role}", width, width),
            places=subject.common(f"frod_s_indices.{role}", 2, count),
            entries=subject.stored("frod_lambda_s_values", count),
            lengths=subject.stored("frod_lambda_l", width),
        )
    }


def _role(module: str) -> str:
    """What modules of different layers must have in common to share a basis: the end of their names."""
    *outer, last = module.split(".")
    if not outer or outer[-1].isdigit():
        return last
    if [*outer[1 - _NESTED :], last] == ["attention", "output", "dense"]:
        return "attention_output"
    return f"{outer[-1]}_{last}"


FROD = Method(
    leaves=frozenset({"frod_lambda_l", "frod_lambda_s_values"}),
    effects=_effects,
    read=frozenset({"fan_in_fan_out"}),
    silent=frozenset(
        {
            "frod_dropout",
            "init_weights",
            "progressbar",
            "projection_prng_key",
            "regularization_alpha",
            "runtime_offload_base_weight",
            "sparse_rate",
        }
    ),
    needed={
        "save_projection": (
            "its basis is not saved, and PEFT makes it from all layers of the base by a decomposition in float32, "
            "which is not the same everywhere"
        )
    },
    shared=frozenset({"frod_V", "frod_s_indices", "frod_s_size"}),
    on_embeddings=False,
    prunes=True,  # the sparse part may have no entries
    decomposes=True,
)
