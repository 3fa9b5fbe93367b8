"""Rows as a training sees them: tokens in runs that are learnt and runs that are not. Needs transformers' tokenizers.

Each kind's rows are encoded by the function that the stage itself calls, so what is shown is what is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.stages.answers import encode_answers, split_pairs
from builder.stages.data_rows import evaluation_rows, training_rows
from builder.stages.packing import join_texts
from builder.stages.prompts import encode_prompts
from builder.stages.supervised import encode_supervised
from builder.stages.tokens import IGNORED, encode_pairs, has_marks
from builder.stages.training_tokenizer import open_training_tokenizer
from builder.train_settings import SftTraining
from registry.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.stage import Context
    from builder.stages.data_rows import DataRows
    from registry.canonical import JSON

__all__ = ["Run", "Sample", "Samples", "take_samples"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Tokens beside each other of which all are learnt, or none.

    Attributes:
        text: What they say.
        tokens: How many they are.
        learnt: Whether the loss is taken on them.
    """

    text: str
    tokens: int
    learnt: bool

    def to_json(self) -> JSON:
        """As ``--json`` prints it."""
        return {"text": self.text, "tokens": self.tokens, "learnt": self.learnt}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sequence.

    Attributes:
        places: Where the rows stand that it is made of.
        part: Which answer of a row it has: ``chosen``, ``rejected``, ``good``, ``bad``; empty where there is one only.
        runs: Its tokens.
    """

    places: tuple[str, ...]
    part: str
    runs: tuple[Run, ...]

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return sum(run.tokens for run in self.runs)

    @property
    def learnt(self) -> int:
        """How many of them are learnt."""
        return sum(run.tokens for run in self.runs if run.learnt)

    def to_json(self) -> JSON:
        """As ``--json`` prints it."""
        return {
            "places": [*self.places],
            "part": self.part,
            "tokens": self.tokens,
            "learnt": self.learnt,
            "runs": [run.to_json() for run in self.runs],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Some rows of a stage, and what becomes of all of them.

    Attributes:
        rows: Rows of an epoch, or that are held out.
        sequences: Sequences that they become.
        format: Their format.
        template: The chat template; empty where there is none.
        has_marks: Whether it marks what the assistant says.
        notes: How sets were drawn, how many rows were cut or left out.
        samples: The first sequences.
    """

    rows: int
    sequences: int
    format: str
    template: str
    has_marks: bool
    notes: tuple[str, ...]
    samples: tuple[Sample, ...]


def take_samples(context: Context[Any], folder: Path, *, count: int, held_out: bool = False) -> Samples:
    """Encode the rows of a stage as it would, and show the first of them.

    Args:
        context: The stage, with its inputs of data.
        folder: The model whose tokenizer it has.
        count: How many rows or packed sequences to show.
        held_out: Whether to take the rows that the loss is measured on.

    Raises:
        InvalidError: A row is faulty, the chat template does not do, or nothing is left to learn from.
        NotFoundError: The stage holds no rows out.
        MachineError: The process that renders could not be started, or was killed from outside.
    """
    data = evaluation_rows(context) if held_out else training_rows(context)
    if data is None:
        raise NotFoundError(
            "the stage holds no rows out", where="--held-out", mend="add `eval:` to the stage, or leave --held-out out"
        )
    tokenizer = open_training_tokenizer(folder)
    sequences, samples, notes = _ENCODERS[context.settings.kind](tokenizer, data, context.settings.train, count)
    templated = tokenizer.chat_template is not None
    return Samples(
        rows=len(data.rows),
        sequences=sequences,
        format=data.format,
        template=tokenizer.get_chat_template() if templated else "",
        has_marks=templated and has_marks(tokenizer),
        notes=(*data.notes, *notes),
        samples=tuple(samples),
    )


def _supervised(tokenizer: Any, data: DataRows, training: Any, count: int) -> tuple[int, list[Sample], tuple[str, ...]]:  # noqa: ANN401
    encoded = encode_supervised(tokenizer, data, training)
    samples = [
        Sample(
            places=tuple(data.places[row - 1] for row in example.rows),
            part="",
            runs=_runs(tokenizer, example.input_ids, [label != IGNORED for label in example.labels]),
        )
        for example in encoded.examples[:count]
    ]
    return len(encoded.examples), samples, encoded.notes()


def _pairs(tokenizer: Any, data: DataRows, training: Any, count: int) -> tuple[int, list[Sample], tuple[str, ...]]:  # noqa: ANN401
    limit = training.max_length
    encoded = encode_pairs(tokenizer, data.rows, max_length=limit, where=data.source, places=data.places)
    samples = [
        Sample(
            places=tuple(data.places[row - 1] for row in pair.rows),
            part=part,
            runs=_answered(tokenizer, pair.prompt, answer, limit),
        )
        for pair in encoded.pairs[:count]
        for part, answer in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]
    return 2 * len(encoded.pairs), samples, encoded.notes()


def _answers(tokenizer: Any, data: DataRows, training: Any, count: int) -> tuple[int, list[Sample], tuple[str, ...]]:  # noqa: ANN401
    rows, places = data.rows, data.places
    if data.format == "preference":
        rows, places = split_pairs(data.rows, data.places)
    limit = training.max_length
    encoded = encode_answers(tokenizer, rows, places, max_length=limit, where=data.source)
    samples = [
        Sample(
            places=tuple(places[row - 1] for row in answer.rows),
            part="good" if answer.label else "bad",
            runs=_answered(tokenizer, answer.prompt, answer.completion, limit),
        )
        for answer in encoded.answers[:count]
    ]
    return len(encoded.answers), samples, encoded.notes()


def _prompts(tokenizer: Any, data: DataRows, training: Any, count: int) -> tuple[int, list[Sample], tuple[str, ...]]:  # noqa: ANN401
    room = training.max_length - training.max_completion_length
    encoded = encode_prompts(tokenizer, data.rows, room=room, where=data.source, places=data.places)
    samples = []
    for prompt in encoded.prompts[:count]:
        text = prompt.asked if isinstance(prompt.asked, str) else prompt.asked[0]["content"]
        runs = (Run(text=text, tokens=prompt.length, learnt=False),)
        samples.append(Sample(places=(data.places[prompt.row],), part="", runs=runs))
    return len(encoded.prompts), samples, encoded.notes()


def _distilled(tokenizer: Any, data: DataRows, training: Any, count: int) -> tuple[int, list[Sample], tuple[str, ...]]:  # noqa: ANN401
    """Prompts that the student answers, or sequences as they are."""
    if data.format == "prompts":
        return _prompts(tokenizer, data, training, count)
    supervised = SftTraining(max_length=training.max_length, loss_on=training.loss_on)
    return _supervised(tokenizer, data, supervised, count)


def _joined(tokenizer: Any, data: DataRows, training: Any, count: int) -> tuple[int, list[Sample], tuple[str, ...]]:  # noqa: ANN401
    """Texts laid end to end; all of them are learnt."""
    texts = [str(row["text"]) for row in data.rows]
    encoded = join_texts(tokenizer, texts, max_length=training.max_length, where=data.source)
    samples = [
        Sample(
            places=tuple(data.places[row - 1] for row in example.rows),
            part="",
            runs=_runs(tokenizer, example.input_ids, [True] * len(example.input_ids)),
        )
        for example in encoded.examples[:count]
    ]
    return len(encoded.examples), samples, encoded.notes()


_ENCODERS: Mapping[str, Callable[[Any, DataRows, Any, int], tuple[int, list[Sample], tuple[str, ...]]]] = {
    "sft": _supervised,
    "dpo": _pairs,
    "orpo": _pairs,
    "cpo": _pairs,
    "reward": _pairs,
    "kto": _answers,
    "grpo": _prompts,
    "rloo": _prompts,
    "distill": _distilled,
    "pretrain": _joined,
}
"""How the rows of each kind are encoded."""


def _answered(tokenizer: Any, prompt: Sequence[int], answer: Sequence[int], limit: int) -> tuple[Run, ...]:  # noqa: ANN401
    ids = [*prompt, *answer][:limit]
    return _runs(tokenizer, ids, [place >= len(prompt) for place in range(len(ids))])


def _runs(tokenizer: Any, ids: Sequence[int], learnt: Sequence[bool]) -> tuple[Run, ...]:  # noqa: ANN401
    def cut() -> Iterator[Run]:
        start = 0
        for end in range(1, len(ids) + 1):
            if end == len(ids) or learnt[end] != learnt[start]:
                text = tokenizer.decode(list(ids[start:end]), clean_up_tokenization_spaces=False)
                yield Run(text=text, tokens=end - start, learnt=learnt[start])
                start = end

    return tuple(cut())
