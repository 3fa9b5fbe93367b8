"""Adapters that put learnt vectors before every sequence; no weight can hold them, so they cannot be folded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from builder.adapter_types.table import AdapterTable, Peft, matrices_of
from builder.shapes import Number
from builder.tables import Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.adapter_types.table import Shapes

__all__ = ["PrefixTuningSettings", "PromptTuningSettings"]

_VIRTUAL = Number(minimum=1, maximum=4096)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTuningSettings(AdapterTable):
    """A new prompt: learnt vectors in place of the embeddings of tokens."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["prompt_tuning"], Key("Type of the adapter."), Peft("")] = "prompt_tuning"
    virtual_tokens: Annotated[int, Key("Length of the prompt."), _VIRTUAL, Peft("num_virtual_tokens")] = 20
    init: Annotated[Literal["random", "vocabulary"], Key("What it starts as: noise, or random tokens."), Peft("")] = (
        "vocabulary"
    )

    def told(self) -> Mapping[str, object]:
        """PEFT's word for the start."""
        return {"prompt_tuning_init": "RANDOM" if self.init == "random" else "SAMPLE_VOCAB"}

    def trained(self, shapes: Shapes) -> int:
        """A vector for each token."""
        return self.virtual_tokens * max((min(shape) for shape in shapes), default=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixTuningSettings(AdapterTable):
    """A new prefix: learnt keys and values in every layer."""

    QUANTISED: ClassVar[bool] = True
    CONV1D: ClassVar[bool] = True

    type: Annotated[Literal["prefix_tuning"], Key("Type of the adapter."), Peft("")] = "prefix_tuning"
    virtual_tokens: Annotated[int, Key("Length of the prefix."), _VIRTUAL, Peft("num_virtual_tokens")] = 20

    def trained(self, shapes: Shapes) -> int:
        """A key and a value for each token and layer; a layer has two matrices at least."""
        matrices = matrices_of(shapes)
        return self.virtual_tokens * sum(min(rows, columns) for rows, columns in matrices)
