"""The rewards of a stage, opened: each rates answers to rows of the data, and is tried before a model is loaded."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from builder.stages.reward_functions import Answers, Limits, RewardProcess
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.stage import Context

__all__ = ["RatedRows", "Reward", "Scorer", "open_functions"]

_TRIED = 2  # rows that a function is tried on
_GIVEN = ("prompts", "completions")


class Scorer(Protocol):
    """Rates answers."""

    def rate(self, answers: Answers) -> list[float]:
        """A finite number for each answer."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """One reward of a stage.

    Attributes:
        label: The manifest's word for it.
        weight: What its number is multiplied by.
        scorer: What rates.
    """

    label: str
    weight: float
    scorer: Scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class RatedRows:
    """The rows that answers are given to.

    Attributes:
        rows: Rows of format ``prompts``.
        places: Where each stands, for messages.
        source: The data sets, for messages.
    """

    rows: Sequence[Mapping[str, Any]]
    places: Sequence[str]
    source: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column beside the prompt that any row has, sorted."""
        return tuple(sorted({name for row in self.rows for name in row} - {"prompt"}))

    def answered(self, numbers: Sequence[int], texts: Sequence[str]) -> Answers:
        """Answers to rows, in the form that the rows have.

        Args:
            numbers: Which row each answer belongs to, from 0.
            texts: The answers.
        """
        rows = [self.rows[number] for number in numbers]
        completions = [
            text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
            for row, text in zip(rows, texts, strict=True)
        ]
        return Answers(
            prompts=[row["prompt"] for row in rows],
            completions=completions,
            columns={name: [row.get(name) for row in rows] for name in self.columns},
            rows=[self.places[number] for number in numbers],
        )


@contextmanager
def open_functions(context: Context[Any], data: RatedRows) -> Iterator[list[Reward]]:
    """The reward functions of a stage, loaded and tried on empty answers to its first rows.

    Args:
        context: The stage.
        data: The rows that are trained on.

    Raises:
        InvalidError: A function cannot be loaded, needs a column that a row lacks, raises, or does not give numbers.
        MachineError: Its process cannot be started.
    """
    codes = context.all("reward")
    with ExitStack() as stack:
        opened: list[Reward] = []
        if codes:
            _check_columns(data)
        for code in codes:
            said = code.settings
            process = stack.enter_context(
                RewardProcess(code, str(said["function"]), Limits(call_s=context.runner.reward_s))
            )
            _check_needs(process, data)
            count = min(_TRIED, len(data.rows))
            process.rate(data.answered(range(count), [""] * count))
            opened.append(Reward(label=str(said["label"]), weight=float(str(said["weight"])), scorer=process))
        yield opened


def _check_columns(data: RatedRows) -> None:
    for name in _GIVEN:
        if name in data.columns:
            raise InvalidError(
                f"a column is called {name!r}, which is what reward functions are given answers under",
                where=data.source,
                mend="rename the column",
            )


def _check_needs(process: RewardProcess, data: RatedRows) -> None:
    if missing := process.missing(data.columns):
        raise InvalidError(
            f"the reward function needs {missing[0]!r}, and no row has such a column",
            where=f"{process.where}, with {data.source}",
            mend=f"add it to the rows, or give the parameter a default; columns: {', '.join(data.columns) or 'none'}",
        )
