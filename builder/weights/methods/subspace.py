"""OSF: the weak singular directions of a weight, trained while the strong ones stay (Nayak et al., 2025).

The adapter holds the trained weak part; what it takes the place of is found by decomposing the base again, as PEFT
does whenever it loads one. PEFT does so in float32 and rounds to the dtype that the model is loaded in, we do so in
float64. The weak part as a whole does not depend on the signs of singular vectors, or on which ones a decomposition
picks among equal values, as long as the last strong value and the first weak one differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["OSF"]

_LEAST_GAP = 1e-8  # between two singular values, as a share of the largest, that tells them apart


@dataclass(frozen=True, kw_only=True, slots=True)
class _WeakPart:
    """Adds ``left * values @ right`` less the same of the base: its weakest directions, as many.

    Attributes:
        left: Trained left vectors, shape ``[out, weak]``.
        values: Trained values, shape ``[weak]``.
        right: Trained right vectors, shape ``[weak, in]``.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "whole"

    left: Stored
    values: Stored
    right: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the trained part.

        Raises:
            InvalidError: A tensor of it holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _Trained(
            left=load_float64(self.left, device) * load_float64(self.values, device),
            right=load_float64(self.right, device),
            stored=self.left,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trained:
    left: torch.Tensor
    right: torch.Tensor
    stored: Stored

    def apply(self, weight: torch.Tensor, base: torch.Tensor, _at: Block, _scale: float) -> None:
        left, values, right = torch.linalg.svd(base, full_matrices=False)
        strong = len(values) - len(self.right)
        if not values[strong - 1] - values[strong] > _LEAST_GAP * values[0]:
            raise InvalidError(
                f"tensor {self.stored.info.name!r} is on a weight whose singular values {strong} and {strong + 1} are "
                "equal: what it takes the place of is not determined",
                where=str(self.stored.path),
                mend="fold it into the model that it was trained on",
            )
        weight.addmm_(left[:, strong:] * values[strong:], right[strong:], alpha=-1.0).addmm_(self.left, self.right)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    rows, columns = subject.shape
    # The tensors say the rank: the configuration's may be a share, or by patterns that PEFT searches in names.
    values = subject.stored("osf_svd_params.S_low")
    weak = values.info.shape[0] if len(values.info.shape) == 1 else 0
    if not 1 <= weak < min(rows, columns):
        problem = f"is {list(values.info.shape)}, OSF on {subject.module} needs fewer than {min(rows, columns)} values"
        raise subject.refused("osf_svd_params.S_low", problem, "fold it into the model that it was trained on")
    effect = _WeakPart(
        left=subject.stored("osf_svd_params.U_low", rows, weak),
        values=values,
        right=subject.stored("osf_svd_params.V_low", weak, columns),
    )
    return {"weight": effect}


OSF = Method(
    leaves=frozenset({"osf_svd_params.U_low", "osf_svd_params.S_low", "osf_svd_params.V_low"}),
    effects=_effects,
    silent=frozenset({"effective_rank", "init_weights", "rank_pattern", "target_svd_config"}),
    on_embeddings=False,
    on_conv1d=False,
    decomposes=True,
)
