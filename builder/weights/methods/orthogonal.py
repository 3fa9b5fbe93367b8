"""Rotations of a layer's inputs: OFT (Qiu et al., 2023 and 2025) and BOFT (Liu et al., 2024).

A rotation is block-diagonal; each block is the Cayley transform of a skew-symmetric matrix. It multiplies the weight,
so that several ones in a row depend on the order: the first one given acts on the weight first, as when PEFT merges
them in that order. (Unmerged, PEFT rotates the inputs in the order given, which is the same as merging in reverse.)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.peft_config import PeftConfig
    from builder.weights.stream import Stored

__all__ = ["BOFT", "OFT"]

_NEUMANN_SINCE = (0, 18)  # version of PEFT from which on the Cayley-Neumann series is what it is now
_SHORT_SERIES = 2  # terms; a longer one ends with the third power at the earliest
_LONGEST_SERIES = 1000  # terms; long before that it has converged, or gone beyond all numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class _BlockRotation:
    """OFT: ``weight @ rotation.T``; of an embedding the words' vectors are turned, ``rotation.T @ weight``.

    Attributes:
        entries: What is above the diagonal of each skew-symmetric block, row by row: shape
            ``[blocks, size * (size - 1) / 2]``, or one row that all blocks share.
        size: Of a block.
        terms: Terms of the Cayley-Neumann series; 0 for the Cayley transform itself.
        bound: Greatest norm of all blocks together, where it is constrained (COFT).
        embedding: The module is an embedding.
    """

    additive: ClassVar[bool] = False

    entries: Stored
    size: int
    terms: int
    bound: float | None
    embedding: bool

    @property
    def span(self) -> Span:
        """Whole rows; of an embedding one block of each word."""
        return self.size if self.embedding else "row"

    def load(self, device: torch.device) -> LoadedEffect:
        """Make the rotations.

        Raises:
            InvalidError: The entries hold NaN or an infinity.
            OSError: The file cannot be read.
        """
        skew = _skew(load_float64(self.entries, device), self.size)
        if self.bound is not None:
            longest = self.bound / math.sqrt(len(skew))
            lengths = torch.linalg.matrix_norm(skew, keepdim=True)
            skew = torch.where(lengths <= longest, skew, skew * (longest / lengths))
        return _Rotated(blocks=_cayley_neumann(skew, self.terms) if self.terms else _cayley(skew), rows=self.embedding)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rotated:
    """Rotations as they are; ``rows`` says that they act on rows of ``[out, in]``."""

    blocks: torch.Tensor
    rows: bool

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, _scale: float) -> None:
        if not self.rows:
            weight.copy_(_turned(weight, self.blocks.mT))
            return
        size = self.blocks.shape[-1]
        blocks = self.blocks if len(self.blocks) == 1 else self.blocks[at.rows.start // size : at.rows.stop // size]
        weight.copy_(_turned(weight.T, blocks).T)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ButterflyRotation:
    """BOFT: ``scales * (weight @ rotation.T)``, the rotation a product of block-diagonal ones in shuffled bases.

    Attributes:
        entries: Square matrices of which the skew-symmetric part counts, shape ``[factors, blocks, size, size]``.
        scales: Of each row, shape ``[out, 1]``.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "row"

    entries: Stored
    scales: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Make the rotations.

        Raises:
            InvalidError: A tensor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        entries = load_float64(self.entries, device)
        blocks = _cayley((entries - entries.mT) / 2)
        orders = [_butterfly(index, *entries.shape[:3]).to(device) for index in range(len(entries))]
        returns = [order.argsort() for order in orders]
        scales = load_float64(self.scales, device)
        return _Butterfly(factors=tuple(zip(blocks, orders, returns, strict=True)), scales=scales)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Butterfly:
    """Of each factor the blocks, the order of the inputs in which they act, and the way back."""

    factors: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]
    scales: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, _scale: float) -> None:
        for blocks, order, back in self.factors:
            weight.copy_(_turned(weight[:, back], blocks.mT)[:, order])
        weight.mul_(self.scales[at.rows])


def _turned(weight: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """``weight @ blockdiagonal(blocks)``: ``[rows, columns]`` by ``[columns / size or 1, size, size]``."""
    parts = weight.reshape(len(weight), -1, blocks.shape[-1]).transpose(0, 1)
    return torch.matmul(parts, blocks).transpose(0, 1).reshape(weight.shape)


def _skew(entries: torch.Tensor, size: int) -> torch.Tensor:
    """Skew-symmetric matrices, shape ``[blocks, size, size]``, by what is above their diagonals."""
    rows, columns = torch.triu_indices(size, size, 1, device=entries.device)
    upper = entries.new_zeros(len(entries), size, size)
    upper[:, rows, columns] = entries
    return upper - upper.mT


def _cayley(skew: torch.Tensor) -> torch.Tensor:
    """``(I - skew) @ inverse(I + skew)``, which is orthogonal; shape ``[..., size, size]``."""
    one = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    rotations: torch.Tensor = torch.linalg.solve(one + skew, one - skew, left=False)
    return rotations


def _cayley_neumann(skew: torch.Tensor, terms: int) -> torch.Tensor:
    """``I + 2 skew + 2 skew^2 + ... + skew^last``: near ``(I + skew) @ inverse(I - skew)`` for a small matrix.

    PEFT takes the last power once, not twice, and the other sign than in the exact transform.
    """
    total = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device).repeat(len(skew), 1, 1)
    if terms <= _SHORT_SERIES:
        return total.add_(skew, alpha=2.0 * (terms - 1))
    power = skew
    for _ in range(1, max(terms - 1, _SHORT_SERIES + 1)):
        total.add_(power, alpha=2.0)
        power = power @ skew
    return total.add_(power)


def _butterfly(factor: int, factors: int, blocks: int, size: int) -> torch.Tensor:
    """The inputs in the order in which a factor turns them: halves of blocks, in each group every other one first."""
    inputs = torch.arange(blocks * size)
    if factors == 1:
        return inputs
    return inputs.view(-1, 2**factor, 2, size // 2).transpose(1, 2).reshape(-1)


def _one_of(config: PeftConfig, size: str, number: str) -> str:
    """Which of the two keys for the size and for the number of blocks is set; the other one must be 0.

    Raises:
        InvalidError: Both are.
    """
    if config.values.get(size) and config.values.get(number):
        raise config.refused(f"{size} and {number} are both set", "save the adapter again, with one of them 0")
    return number if config.values.get(number) else size


def _oft_size(config: PeftConfig, inputs: int) -> int:
    """Size of a block; PEFT takes the nearest divisor of the inputs, the smaller of two that are equally near."""
    key = _one_of(config, "oft_block_size", "r")
    wanted = min(config.count(key), inputs)
    divisors = [number for number in range(1, inputs + 1) if inputs % number == 0]
    found = min(divisors, key=lambda number: (abs(number - wanted), number))
    return inputs // found if key == "r" else found


def _oft_terms(config: PeftConfig) -> int:
    """Terms of the Cayley-Neumann series; 0 where it is not used.

    Raises:
        InvalidError: The adapter is of a time when the series was another one, or it is too long.
    """
    if not config.flag("use_cayley_neumann", default=True):
        return 0
    version = config.values.get("peft_version")
    numbers = re.match(r"(\d{1,4})\.(\d{1,4})(?!\d)", version) if isinstance(version, str) else None
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _NEUMANN_SINCE:
        raise config.refused(
            f"use_cayley_neumann with peft_version {version!r} cannot be folded: PEFT 0.18 changed what it means",
            "train it again with a newer PEFT, or with use_cayley_neumann = false",
        )
    terms = config.count("num_cayley_neumann_terms", default=5)
    if terms > _LONGEST_SERIES:
        problem = f"num_cayley_neumann_terms {terms} is more than the {_LONGEST_SERIES} that are summed"
        raise config.refused(problem, "train with use_cayley_neumann = false")
    return terms


def _oft(subject: Subject) -> Mapping[str, Effect]:
    config = subject.config
    inputs = subject.shape[0] if subject.embedding else subject.shape[1]
    size = _oft_size(config, inputs)
    effect = _BlockRotation(
        entries=subject.stored(
            "oft_embedding_R.weight" if subject.embedding else "oft_R.weight",
            1 if config.flag("block_share") else inputs // size,
            size * (size - 1) // 2,
        ),
        size=size,
        terms=_oft_terms(config),
        bound=config.number("eps", default=6e-5) if config.flag("coft") else None,
        embedding=subject.embedding,
    )
    return {"weight": effect}


def _boft(subject: Subject) -> Mapping[str, Effect]:
    config, leaf = subject.config, "boft_R"
    outputs, inputs = subject.shape
    key = _one_of(config, "boft_block_size", "boft_block_num")
    wanted = config.count(key, default=4)
    size = wanted if key == "boft_block_size" else max(1, inputs // wanted)
    # Without its CUDA extension PEFT makes one factor, whatever the configuration says.
    factors = config.count("boft_n_butterfly_factor", default=1)
    if subject.stored(leaf).info.shape[:1] == (1,):
        factors = 1
    entries = subject.stored(leaf, factors, inputs // size, size, size)
    if inputs % (size << (factors - 1)) or (factors > 1 and size % 2):
        problem = f"has blocks of {size}, which {factors} butterfly factors cannot make of {inputs} inputs"
        raise subject.refused(leaf, problem, "fold it into the model that it was trained on")
    return {"weight": _ButterflyRotation(entries=entries, scales=subject.stored("boft_s", outputs, 1))}


OFT = Method(
    leaves=frozenset({"oft_R.weight", "oft_embedding_R.weight"}),
    effects=_oft,
    read=frozenset(
        {
            "block_share",
            "coft",
            "eps",
            "num_cayley_neumann_terms",
            "oft_block_size",
            "r",
            "use_cayley_neumann",
        }
    ),
    silent=frozenset({"fan_in_fan_out", "init_weights", "module_dropout"}),
    on_conv1d=False,
)

BOFT = Method(
    leaves=frozenset({"boft_R", "boft_s"}),
    effects=_boft,
    read=frozenset({"boft_block_num", "boft_block_size", "boft_n_butterfly_factor"}),
    silent=frozenset({"boft_dropout", "fan_in_fan_out", "init_weights"}),
    on_embeddings=False,
    on_conv1d=False,
)
