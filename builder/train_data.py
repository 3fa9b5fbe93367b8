"""What a training learns from and is held against: data sets by weight, rows held out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from builder.compound import Either
from builder.names import Name
from builder.shapes import Number
from builder.tables import Filled, Key, Lone, Rules

__all__ = ["Evaluation", "EvaluationSetting", "Mixture", "data_names", "data_references", "data_settings", "held_out"]

Mixture: TypeAlias = Annotated[
    Mapping[Name, Annotated[float, Number(above=0, maximum=10**6)]],
    Key(
        "The data set to learn from; or several, each with its weight: its part of an epoch's rows among all weights.",
        own=True,
    ),
    Filled(),
    Lone(1.0),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Rows that are not learnt, on which the loss is measured during the training."""

    RULES: ClassVar[Rules] = Rules(
        shorthand="data",
        either=(
            Either(groups=(("data",), ("share",)), needed=True, mend="keep one: a data set of its own, or a share"),
        ),
    )

    data: Annotated[Name, Key("A data set, none of whose rows may be among those that are learnt.")] = ""
    share: Annotated[
        float | None,
        Key("Share of the rows to hold out; which ones is told by a hash of each, so more rows move none."),
        Number(above=0, maximum=0.5),
    ] = None


EvaluationSetting: TypeAlias = Annotated[
    Evaluation | None, Key("What to measure the loss on during the training; absent: nothing.", name="eval", own=True)
]


def data_names(data: str | Mapping[str, float]) -> tuple[str, ...]:
    """The data sets that a stage learns from, in the manifest's order."""
    return (data,) if isinstance(data, str) else tuple(data)


def data_settings(data: str | Mapping[str, float], evaluation: Evaluation | None) -> dict[str, dict[str, float]]:
    """What a stage says on each of its data sets alone: its weight among several, the share of it that is held out."""
    weights = {} if isinstance(data, str) or len(data) == 1 else data
    share = {} if evaluation is None or evaluation.share is None else {"held_out": evaluation.share}
    return {name: ({"weight": weights[name]} if weights else {}) | share for name in data_names(data)}


def data_references(data: str | Mapping[str, float], evaluation: Evaluation | None = None) -> list[tuple[str, str]]:
    """The data sets of a stage as pairs of a role, ``data`` or ``eval``, and a name of the manifest."""
    held = [] if evaluation is None or not evaluation.data else [("eval", evaluation.data)]
    return [*(("data", name) for name in data_names(data)), *held]


def held_out(stage: object) -> Evaluation | None:
    """What a stage holds out; ``None`` also for kinds that measure nothing while they train."""
    found = getattr(stage, "evaluation", None)
    return found if isinstance(found, Evaluation) else None
