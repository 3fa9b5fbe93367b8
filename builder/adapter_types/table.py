"""What every table of a new adapter has: its type, what it goes on, what its settings are called in PEFT. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping  # noqa: TC003 - the shapes are made from the classes' hints
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from builder.shapes import Number
from builder.tables import Key
from registry.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.clash import Clash

__all__ = ["AdapterTable", "Base", "Dropout", "OnMatrices", "Peft", "Seed", "Shapes", "dropouts", "matrices_of"]

Shapes: TypeAlias = "Sequence[tuple[int, ...]]"
"""Shapes of weights as their modules see them: ``(out, in)`` of a matrix, ``(length,)`` of a vector."""

Base: TypeAlias = Literal["stored", "int8", "nf4"]

_MATRIX = 2


@dataclass(frozen=True, slots=True)
class Peft:
    """What a setting is in PEFT's configuration.

    Attributes:
        key: Its key there; empty for one that PEFT is not told.
        patterns: Key of PEFT's table of exceptions, where the setting may differ from weight to weight.
    """

    key: str
    patterns: str = ""


Dropout: TypeAlias = Annotated[float, Number(minimum=0, below=1)]
Seed: TypeAlias = Annotated[int, Number(minimum=0, maximum=2**32 - 1)]


def dropouts(adapter: object) -> tuple[str, ...]:
    """Keys of the dropouts that are on: of inputs, of rows of the change, of whole weights.

    Args:
        adapter: The table of an adapter; ``None`` without one.
    """
    keys = [one.name for one in fields(adapter)] if is_dataclass(adapter) else []
    return tuple(key for key in keys if key.endswith("dropout") and getattr(adapter, key))


def matrices_of(shapes: Shapes) -> list[tuple[int, int]]:
    """The matrices among some weights."""
    return [(shape[0], shape[1]) for shape in shapes if len(shape) == _MATRIX]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterTable(ABC):
    """What every type of adapter has.

    Attributes:
        QUANTISED: Whether PEFT puts it on weights that are held in 8 or 4 bits.
        CONV1D: Whether PEFT puts it on GPT-2's own kind of layer.
        ALWAYS: What PEFT is told whatever the settings say.
    """

    QUANTISED: ClassVar[bool] = False
    CONV1D: ClassVar[bool] = False
    ALWAYS: ClassVar[Mapping[str, object]] = {}

    type: Annotated[str, Key("Type of the adapter."), Peft("")]
    base: Annotated[
        Base,
        Key(
            "How the frozen model under it is held while it trains: as it is `stored`, or in 8 or 4 bits by "
            "bitsandbytes. The adapter belongs to the stored model."
        ),
        Peft(""),
    ] = "stored"

    @property
    def peft_type(self) -> str:
        """PEFT's name of the type."""
        return self.type.upper()

    @property
    def changes_base(self) -> bool:
        """Whether its start takes something out of the weights under it, which is put back when it is written."""
        return False

    def told(self) -> Mapping[str, object]:
        """What PEFT is told beside the settings under their names, and in place of them."""
        return self.ALWAYS

    def clash(self) -> Clash | None:
        """A setting that contradicts another one, by its key within the table."""
        return None

    def unfit(self, rows: int, columns: int) -> tuple[str, str]:  # noqa: ARG002 - most types take any
        """Why it cannot go on a matrix ``[rows, columns]``.

        Returns:
            Key of the setting and the problem; both empty where it can.
        """
        return "", ""

    @abstractmethod
    def trained(self, shapes: Shapes) -> int:
        """Numbers that it trains over some weights, at most."""

    def saved(self, shapes: Shapes) -> int:
        """Numbers that its files hold, at most."""
        return self.trained(shapes)


def _whole_network() -> Selector:
    return Selector.parse(["attention", "mlp"])


@dataclass(frozen=True, kw_only=True, slots=True)
class OnMatrices(AdapterTable):
    """What every type has that goes on matrices."""

    targets: Annotated[Selector, Key("Weights that get the adapter; a selector."), Peft("")] = field(
        default_factory=_whole_network
    )

    def trained(self, shapes: Shapes) -> int:
        """Numbers that it trains over some weights, at most."""
        return sum(self.numbers(rows, columns) for rows, columns in matrices_of(shapes))

    @abstractmethod
    def numbers(self, rows: int, columns: int) -> int:
        """Numbers that it trains for one matrix ``[rows, columns]``, at most."""
