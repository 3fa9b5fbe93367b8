"""Adapters that train vectors: scales, norms, biases, rows of single tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from builder.adapter_types.table import AdapterTable, OnMatrices, Peft
from builder.clash import Clash
from builder.tables import Key
from registry.selector import Selector

if TYPE_CHECKING:
    from builder.adapter_types.table import Shapes

__all__ = ["BeftSettings", "Ia3Settings", "LnTuningSettings", "TrainableTokensSettings"]


def _scaled() -> Selector:
    return Selector.parse(["attention.key", "attention.value", "mlp.down"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Ia3Settings(OnMatrices):
    """A new IA3 adapter: a scale for each output, or input, of a weight."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["ia3"], Key("Type of the adapter."), Peft("")] = "ia3"
    targets: Annotated[Selector, Key("Weights that get the adapter; a selector."), Peft("")] = field(
        default_factory=_scaled
    )
    scale_inputs: Annotated[
        Selector, Key("Which of them have their inputs scaled, rather than their outputs."), Peft("")
    ] = field(default_factory=lambda: Selector.parse("mlp.down"))

    def numbers(self, rows: int, columns: int) -> int:
        """One for each."""
        return max(rows, columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class LnTuningSettings(AdapterTable):
    """A new adapter that holds whole norms."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["ln_tuning"], Key("Type of the adapter."), Peft("")] = "ln_tuning"
    targets: Annotated[Selector, Key("Norms that are trained; a selector."), Peft("")] = field(
        default_factory=lambda: Selector.parse("norm")
    )

    def trained(self, shapes: Shapes) -> int:
        """Every vector at most."""
        return sum(shape[0] for shape in shapes if len(shape) == 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class BeftSettings(OnMatrices):
    """A new BEFT adapter: a bias for each output."""

    type: Annotated[Literal["beft"], Key("Type of the adapter."), Peft("")] = "beft"

    def numbers(self, rows: int, columns: int) -> int:  # noqa: ARG002 - one for each output
        """One for each output."""
        return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainableTokensSettings(AdapterTable):
    """A new adapter that holds the rows of chosen tokens in the embedding."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["trainable_tokens"], Key("Type of the adapter."), Peft("")] = "trainable_tokens"
    tokens: Annotated[tuple[str, ...], Key("The tokens, each as the tokenizer spells it."), Peft("")]

    def clash(self) -> Clash | None:
        """Something to train."""
        return None if self.tokens else Clash(path=("tokens",), problem="it names no token", mend="name one or more")

    def trained(self, shapes: Shapes) -> int:
        """A row for each token; the shorter side of the widest embedding is its width."""
        return len(self.tokens) * max((min(shape) for shape in shapes), default=0)
