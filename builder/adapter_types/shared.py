"""Adapters whose weights share something that is drawn once: bases, banks of vectors, projections."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the shapes are made from the classes' hints
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from builder.adapter_types.table import Dropout, OnMatrices, Peft, Seed, Shapes, matrices_of
from builder.clash import Clash
from builder.shapes import Number
from builder.tables import Key

__all__ = [
    "FrodSettings",
    "PveraSettings",
    "RandloraSettings",
    "TinyloraSettings",
    "UniloraSettings",
    "VbloraSettings",
    "VeraSettings",
]

_COUNT = Number(minimum=1, maximum=2**16)
_BOUND = Number(above=0, maximum=1e3)
_ALPHA = Number(above=0, maximum=1e6)
_WITH_BASES: Mapping[str, object] = {"save_projection": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class VeraSettings(OnMatrices):
    """A new VeRA adapter: two random factors for all weights, scaled for each."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True
    ALWAYS: ClassVar[Mapping[str, object]] = _WITH_BASES

    type: Annotated[Literal["vera"], Key("Type of the adapter."), Peft("")] = "vera"
    rank: Annotated[int, Key("Rank of the random factors."), _COUNT, Peft("r")] = 256
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("vera_dropout")] = 0.0
    d_initial: Annotated[float, Key("First scale of the ranks."), _BOUND] = 0.1
    seed: Annotated[Seed, Key("Seed of the random factors."), Peft("projection_prng_key")] = 0

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - it scales ranks and outputs
        """A scale for each rank and each output."""
        return self.rank + rows

    def saved(self, shapes: Shapes) -> int:
        """The random factors are saved beside."""
        return self.trained(shapes) + self.rank * _widest(shapes)


@dataclass(frozen=True, kw_only=True, slots=True)
class PveraSettings(OnMatrices):
    """A new PVeRA adapter: VeRA whose scales are drawn around a mean while it trains."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True
    ALWAYS: ClassVar[Mapping[str, object]] = _WITH_BASES

    type: Annotated[Literal["pvera"], Key("Type of the adapter."), Peft("")] = "pvera"
    rank: Annotated[int, Key("Rank of the random factors."), _COUNT, Peft("r")] = 256
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("pvera_dropout")] = 0.0
    d_initial: Annotated[float, Key("First scale of the ranks."), _BOUND] = 0.1
    seed: Annotated[Seed, Key("Seed of the random factors."), Peft("projection_prng_key")] = 0

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - it scales ranks and outputs
        """A mean and a spread for each rank, and a scale for each output."""
        return 2 * self.rank + rows

    def saved(self, shapes: Shapes) -> int:
        """The random factors are saved beside."""
        return self.trained(shapes) + 2 * self.rank * _widest(shapes)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandloraSettings(OnMatrices):
    """A new RandLoRA adapter: a sum, of full rank, of random products, each scaled."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True
    ALWAYS: ClassVar[Mapping[str, object]] = _WITH_BASES

    type: Annotated[Literal["randlora"], Key("Type of the adapter."), Peft("")] = "randlora"
    rank: Annotated[int, Key("Rank of each random product."), _COUNT, Peft("r")] = 32
    alpha: Annotated[
        float, Key("Scale: what it gives is multiplied by alpha / rank."), _ALPHA, Peft("randlora_alpha")
    ] = 640.0
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("randlora_dropout")] = (
        0.0
    )
    sparse: Annotated[bool, Key("Two thirds of the random numbers are 0.")] = False
    very_sparse: Annotated[bool, Key("All but one in the square root of the width are 0.")] = False
    seed: Annotated[Seed, Key("Seed of the random products."), Peft("projection_prng_key")] = 0

    def clash(self) -> Clash | None:
        """One sort of random numbers."""
        if self.sparse and self.very_sparse:
            return Clash(path=("very_sparse",), problem="sparse and very sparse at once", mend="keep one of them")
        return None

    def numbers(self, rows: int, columns: int) -> int:
        """Scales of each product's ranks and columns."""
        products = -(-min(rows, columns) // self.rank)
        return products * (self.rank + min(rows, columns))

    def saved(self, shapes: Shapes) -> int:
        """The random products are saved beside: PEFT saves them once for all, and once more for each weight."""
        matrices = matrices_of(shapes)
        shorter, longer = (max((side(one) for one in matrices), default=0) for side in (min, max))
        products = self.rank * (shorter + -(-shorter // self.rank) * longer)
        return self.trained(shapes) + (len(matrices) + 1) * products


@dataclass(frozen=True, kw_only=True, slots=True)
class VbloraSettings(OnMatrices):
    """A new VB-LoRA adapter: factors put together from one bank of short vectors."""

    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["vblora"], Key("Type of the adapter."), Peft("")] = "vblora"
    rank: Annotated[int, Key("Rank of the two factors."), _COUNT, Peft("r")] = 4
    vectors: Annotated[int, Key("Vectors in the bank."), _COUNT, Peft("num_vectors")] = 256
    vector_length: Annotated[int, Key("Their length; a divisor of both sides of each weight."), _COUNT] = 256
    topk: Annotated[int, Key("Vectors that are mixed into each piece."), _COUNT] = 2
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("vblora_dropout")] = 0.0
    init_bank: Annotated[float, Key("Largest first number of the bank."), _BOUND, Peft("init_vector_bank_bound")] = 0.02
    init_logits: Annotated[float, Key("Spread of the first choices."), _BOUND, Peft("init_logits_std")] = 0.1

    def clash(self) -> Clash | None:
        """A choice is among what is there."""
        if self.topk > self.vectors:
            return Clash(path=("topk",), problem=f"{self.topk} of {self.vectors} vectors", mend="write fewer")
        return None

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """Pieces make up both sides."""
        side = next((side for side in (rows, columns) if side % self.vector_length), 0)
        return ("vector_length", f"{self.vector_length} does not divide {side}") if side else ("", "")

    def numbers(self, rows: int, columns: int) -> int:
        """A number for each piece and vector."""
        return self.rank * self.vectors * -(-(rows + columns) // self.vector_length)

    def trained(self, shapes: Shapes) -> int:
        """The choices of all weights, and the bank."""
        bank = self.vectors * self.vector_length
        return bank + sum(self.numbers(rows, columns) for rows, columns in matrices_of(shapes))


@dataclass(frozen=True, kw_only=True, slots=True)
class UniloraSettings(OnMatrices):
    """A new Uni-LoRA adapter: all factors of all weights take their numbers from one short vector."""

    CONV1D: ClassVar[bool] = True
    ALWAYS: ClassVar[Mapping[str, object]] = {"save_indices": True}

    type: Annotated[Literal["unilora"], Key("Type of the adapter."), Peft("")] = "unilora"
    rank: Annotated[int, Key("Rank of the two factors."), _COUNT, Peft("r")] = 4
    length: Annotated[int, Key("Length of the vector."), Number(minimum=1, maximum=2**24), Peft("theta_d_length")] = 256
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("unilora_dropout")] = (
        0.0
    )
    init_bound: Annotated[float, Key("Largest first number of the vector."), _BOUND, Peft("init_theta_d_bound")] = 0.02
    seed: Annotated[Seed, Key("Seed of who takes which number."), Peft("proj_seed")] = 42

    def numbers(self, rows: int, columns: int) -> int:
        """Places and scales of both factors; they are saved, not trained."""
        return 3 * self.rank * (rows + columns)

    def trained(self, shapes: Shapes) -> int:  # noqa: ARG002 - the same vector for any weights
        """The vector."""
        return self.length

    def saved(self, shapes: Shapes) -> int:
        """The vector, and who takes what of it."""
        return self.length + sum(self.numbers(rows, columns) for rows, columns in matrices_of(shapes))


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyloraSettings(OnMatrices):
    """A new TinyLoRA adapter: a few numbers, projected into the weight's own largest directions."""

    CONV1D: ClassVar[bool] = True
    ALWAYS: ClassVar[Mapping[str, object]] = _WITH_BASES

    type: Annotated[Literal["tinylora"], Key("Type of the adapter."), Peft("")] = "tinylora"
    rank: Annotated[int, Key("Directions of the weight."), _COUNT, Peft("r")] = 2
    u: Annotated[int, Key("Numbers that are trained for each group of weights."), _COUNT] = 64
    weight_tying: Annotated[
        float, Key("How far weights share their numbers: 0 not at all, 1 all of them."), Number(minimum=0, maximum=1)
    ] = 0.0
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("tinylora_dropout")] = (
        0.0
    )
    seed: Annotated[Seed, Key("Seed of the projections."), Peft("projection_seed")] = 42

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:
        """A weight has no more directions than its shorter side."""
        shorter = min(rows, columns)
        return ("rank", f"{self.rank} directions of {shorter}") if self.rank > shorter else ("", "")

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - the same for any weight
        """What one weight has of its own."""
        return self.u

    def saved(self, shapes: Shapes) -> int:
        """Directions and projections are saved beside."""
        beside = sum(self.rank * (rows + columns) + self.u * self.rank**2 for rows, columns in matrices_of(shapes))
        return self.trained(shapes) + beside


@dataclass(frozen=True, kw_only=True, slots=True)
class FrodSettings(OnMatrices):
    """A new FRoD adapter: a basis that all layers share, turned sparsely and scaled for each weight."""

    CONV1D: ClassVar[bool] = True
    ALWAYS: ClassVar[Mapping[str, object]] = {**_WITH_BASES, "progressbar": False}

    type: Annotated[Literal["frod"], Key("Type of the adapter."), Peft("")] = "frod"
    sparse_rate: Annotated[float, Key("Share of the turn's numbers that are trained."), Number(above=0, maximum=1)] = (
        0.01
    )
    regularisation: Annotated[
        float, Key("What is added to each layer's matrix when the basis is made."), _BOUND, Peft("regularization_alpha")
    ] = 0.001
    dropout: Annotated[Dropout, Key("Share of the adapter's inputs that training drops."), Peft("frod_dropout")] = 0.0
    seed: Annotated[Seed, Key("Seed of the places of those numbers."), Peft("projection_prng_key")] = 0

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - it turns inputs
        """A scale for each direction, and the sparse numbers."""
        return columns + int(self.sparse_rate * columns**2) + 1

    def saved(self, shapes: Shapes) -> int:
        """Beside: for each shape a basis, and the places of the sparse numbers, as pairs in 64 bits."""
        places = sum(4 * int(self.sparse_rate * columns**2) + columns for _, columns in matrices_of(shapes))
        return self.trained(shapes) + places + _KINDS * sum({columns**2 for _, columns in matrices_of(shapes)})


_KINDS = 8  # of weights in a layer that may have equal inputs, each with a basis of its own


def _widest(shapes: Shapes) -> int:
    """The most inputs and the most outputs, together."""
    matrices = matrices_of(shapes)
    return max((rows for rows, _ in matrices), default=0) + max((columns for _, columns in matrices), default=0)
