"""Distillation by TRL: the student comes closer to a teacher's distribution of the next token, token by token.

TRL's trainer has the student sample the sequences. Where they are those of a data set instead, the one method that
samples is replaced; all else, the divergence above all, is TRL's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer

from builder.engines.arguments import arguments
from builder.engines.loop import run
from builder.engines.nucleus import sampling_trainer
from builder.engines.rollouts import listener_of, prompt_set, sampling, train_sampled
from builder.stages.prompts import Prompt
from builder.stages.tokens import IGNORED
from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.engines.job import Job, Trained
    from builder.online_settings import DistillTraining
    from builder.stages.tokens import Example

__all__ = ["parted", "train_on_answers", "train_on_rows"]

_SAMPLES = "_generate"  # TRL's method that samples


def train_on_answers(
    job: Job,
    prompts: Sequence[Prompt],
    *,
    model: Any,  # noqa: ANN401 - TRL has no types
    teacher: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    training: DistillTraining,
    new_adapter: Any,  # noqa: ANN401
) -> Trained:
    """Distil on answers that the student samples.

    Args:
        job: Settings and place.
        prompts: What is asked.
        model: The student, a causal model or PEFT's wrapper of one; what requires gradients is trained, in place.
        teacher: A causal model over the same tokens, which never changes.
        tokenizer: Their tokenizer.
        training: The stage's ``train`` table.
        new_adapter: PEFT configuration of an adapter to put on ``model``.

    Raises:
        MachineError: The loss is no number, or the device's memory does not do.
    """
    asked = prompt_set(prompts, visits=job.steps * training.batch, job=job)
    trainer = sampling_trainer(DistillationTrainer, job, training)(
        model=model,
        teacher_model=teacher,
        args=_configuration(job, training),
        train_dataset=asked,
        processing_class=listener_of(tokenizer),
        peft_config=new_adapter,
    )
    return train_sampled(trainer, job, [(row + 1,) for row in asked["row"]])


def train_on_rows(
    job: Job,
    examples: Sequence[Example],
    *,
    model: Any,  # noqa: ANN401 - TRL has no types
    teacher: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    training: DistillTraining,
    new_adapter: Any,  # noqa: ANN401
) -> Trained:
    """Distil on labelled sequences of a data set; arguments and errors as of :func:`train_on_answers`.

    Raises:
        MachineError: The installed TRL samples in another way than is known here.
    """
    if not hasattr(DistillationTrainer, _SAMPLES):
        raise MachineError(
            "the installed TRL samples in another way, so rows of a data set cannot be put in its place",
            where="trl.DistillationTrainer",
            mend="install trl 1.16, or distil on data of format prompts",
        )
    numbered = [Prompt(row=number, asked=str(number), length=0) for number in range(len(examples))]
    visits = prompt_set(numbered, visits=job.steps * training.batch, job=job)
    reader: Any = type(DistillationTrainer.__name__, (DistillationTrainer,), {_SAMPLES: _from(examples)})
    trainer = reader(
        model=model,
        teacher_model=teacher,
        args=_configuration(job, training),
        train_dataset=visits,
        processing_class=listener_of(tokenizer),
        peft_config=new_adapter,
    )
    order: list[int] = list(visits["row"])
    tokens = [len(examples[number].input_ids) for number in order]
    return run(trainer, job, tokens=tokens, rows=[examples[number].rows for number in order])


def parted(example: Example) -> tuple[list[int], list[int], list[int]]:
    """A sequence as TRL has a sampled one: what was asked, what followed, and 1 for each token that is learnt."""
    start = next(at for at, label in enumerate(example.labels) if at and label != IGNORED)
    mask = [int(label != IGNORED) for label in example.labels[start:]]
    return list(example.input_ids[:start]), list(example.input_ids[start:]), mask


def _from(examples: Sequence[Example]) -> Callable[..., Any]:
    parts = [parted(one) for one in examples]

    def generate(_: object, prompts: Sequence[str]) -> tuple[Any, ...]:
        asked, followed, masks = zip(*(parts[int(number)] for number in prompts), strict=True)
        return list(asked), list(followed), list(masks), None, []

    return generate


def _configuration(job: Job, training: DistillTraining) -> Any:  # noqa: ANN401 - TRL has no types
    return DistillationConfig(**arguments(job), **sampling(training), beta=training.beta)
