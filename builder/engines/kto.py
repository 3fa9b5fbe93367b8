"""Training on answers that are good or not, by TRL's KTO, against a reference worked out before the first step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from builder.engines.arguments import arguments
from builder.engines.evaluation import measured, measuring
from builder.engines.loop import run
from builder.engines.ranks import shared, spread
from builder.engines.reference import keep_reference
from builder.engines.rendered import reader_of
from builder.engines.schedule import by_length, visit_order
from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.engines.job import Job, Trained
    from builder.stages.answers import Answer
    from builder.train_settings import KtoTraining

__all__ = ["train_kto"]

_MISMATCHED = 2  # an answer is paired with its neighbour's prompt


def train_kto(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    answers: Sequence[Answer],
    *,
    training: KtoTraining,
    new_adapter: Any = None,  # noqa: ANN401
    evaluation: Sequence[Answer] | None = None,
) -> Trained:
    """Train on answers with labels, against a reference fixed before the first step.

    The reference is ``model`` without the new adapter; or, where it is PEFT's wrapper, the adapter as it came; or,
    where its own weights are trained, the model as it came. How far the model has moved from it is measured on the
    rows that are worked on at once, each with the answer of the one before it.

    Args:
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer.
        answers: The rows; of each, some of the answer is within ``max_length``.
        training: The stage's ``train`` table: what is KTO's own.
        new_adapter: PEFT configuration of an adapter to put on ``model``.
        evaluation: Answers that are not learnt, to measure the loss on.

    Raises:
        InvalidError: The best weights cannot be kept on these devices.
        MachineError: The loss is no number, or the device's memory does not do.
    """
    if training.loss == "kto" and job.split.micro_batch < _MISMATCHED:
        raise MachineError(
            "the loss kto compares rows with their neighbours, and one is worked on at a time",
            where=job.device.name,
            mend="write `micro_batch: 2` or more into .varietal/runner.yaml, lower train.max_length, or write "
            "`loss: apo_zero_unpaired`",
        )
    lengths = [answer.tokens(training.max_length) for answer in answers]
    visits = visit_order(len(answers), visits=job.steps * training.batch, seed=training.seed)
    order = by_length(visits, lengths, batch=training.batch)
    stand_in = shared(Dataset.from_list([{"prompt": "-", "completion": "-", "label": True}]), job.folder)
    trainer = KTOTrainer(
        model=model,
        args=KTOConfig(
            **arguments(job),
            **measuring(job, evaluation),
            loss_type=training.loss,
            beta=training.beta,
            desirable_weight=training.desirable_weight,
            undesirable_weight=training.undesirable_weight,
            max_length=training.max_length,
            # Where there is no adapter to put aside, TRL would keep a second model in memory.
            precompute_ref_log_probs=not (new_adapter or hasattr(model, "peft_config")),
        ),
        # The rows come below, as the token ids that they were checked and counted by.
        train_dataset=stand_in,
        eval_dataset=stand_in if evaluation else None,
        processing_class=reader_of(tokenizer),
        peft_config=new_adapter,
    )
    keep_reference(trainer.model)
    trainer.precompute_ref_logps = True
    trainer.train_dataset = _table(trainer, job, [answers[row] for row in order])
    if evaluation:
        held = sorted(evaluation, key=lambda one: -one.tokens(training.max_length))
        trainer.eval_dataset = _table(trainer, job, held)
    rows = [answers[row].rows for row in order]
    return run(trainer, job, tokens=[lengths[row] for row in order], rows=rows, measured=measured(job, evaluation))


def _table(trainer: Any, job: Job, answers: Sequence[Answer]) -> Dataset:  # noqa: ANN401 - TRL has no types
    """Rows as TRL's collator takes them, with the log-probabilities of both answers under the reference.

    Every visit is a row of its own: its neighbour in the micro-batch is part of what is worked out.
    """
    size = job.split.micro_batch
    parts = [answers[start : start + size] for start in range(0, len(answers), size)]
    rows = [_rows(part, job.training.max_length, pairs=trainer.calculate_KL) for part in parts]
    found = [pair for part in spread(rows, partial(_reference, trainer)) for pair in part]
    table = {name: [row[name] for part in rows for row in part] for name in rows[0][0]}
    table["ref_logps"] = [own for own, _ in found]
    if trainer.calculate_KL:
        table["ref_KL_logps"] = [other for _, other in found]
    return Dataset.from_dict(table)


def _rows(answers: Sequence[Answer], max_length: int, *, pairs: bool) -> list[dict[str, Any]]:
    """Rows that are worked on at once; with ``pairs``, each also has the answer of the one before it."""
    rows: list[dict[str, Any]] = []
    for one, before in zip(answers, [*answers[-1:], *answers[:-1]], strict=True):
        room = max_length - len(one.prompt)
        row = {"prompt_ids": one.prompt, "completion_ids": one.completion[:room], "label": one.label}
        rows.append(row | ({"KL_completion_ids": before.completion[:room]} if pairs else {}))
    return rows


def _reference(trainer: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:  # noqa: ANN401
    """Log-probabilities of each row's answer, and of the other one after its prompt, in nats."""
    tensors = {name: tensor.to(trainer.args.device) for name, tensor in trainer.data_collator(rows).items()}
    own, others = trainer.compute_ref_log_probs(trainer.model, tensors)
    return list(zip(own.tolist(), [0.0] * len(rows) if others is None else others.tolist(), strict=True))
