"""Preference training by TRL's DPO, against a reference worked out before the first step, so it never moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from builder.engines.arguments import arguments
from builder.engines.compiling import LENGTHS
from builder.engines.evaluation import measured, measuring
from builder.engines.loop import run
from builder.engines.ranks import shared
from builder.engines.reference import keep_reference, reference_log_probs
from builder.engines.rendered import reader_of
from builder.engines.schedule import by_length, visit_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.engines.job import Job, Trained
    from builder.stages.tokens import Pair
    from builder.train_settings import DpoTraining

__all__ = ["loss_of", "train_dpo"]

_REFERENCE_ROWS = 4  # times as many as in training: nothing is kept for a way back


def train_dpo(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[Pair],
    *,
    training: DpoTraining,
    new_adapter: Any = None,  # noqa: ANN401
    evaluation: Sequence[Pair] | None = None,
) -> Trained:
    """Train on preferences, against a reference fixed before the first step.

    The reference is ``model`` without the new adapter; or, where it is PEFT's wrapper, the adapter as it came; or,
    where its own weights are trained, the model as it came. Its log-probabilities are worked out once for each row.

    Args:
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer.
        pairs: The preferences; of each, some of both answers is within ``max_length``.
        training: The stage's ``train`` table: what is DPO's own.
        new_adapter: PEFT configuration of an adapter to put on ``model``.
        evaluation: Pairs that are not learnt, to measure the loss on.

    Raises:
        InvalidError: The best weights cannot be kept on these devices.
        MachineError: The loss is no number, or the device's memory does not do.
    """
    lengths = [pair.longest(training.max_length) for pair in pairs]
    visits = visit_order(len(pairs), visits=job.steps * training.batch, seed=training.seed)
    stand_in = shared(Dataset.from_list([{"prompt": "-", "chosen": "-", "rejected": "-"}]), job.folder)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            **arguments(job),
            **measuring(job, evaluation),
            **loss_of(training),
            beta=training.beta,
            max_length=training.max_length,
            pad_to_multiple_of=LENGTHS if job.split.compiled else None,
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
    # The reference's pass goes over rows of like lengths, each once, and only those that are trained on.
    used = sorted(set(visits), key=lambda row: -lengths[row])
    rows = [_row(pairs[row], training.max_length) for row in used]
    reference = reference_log_probs(trainer, rows, batch=_REFERENCE_ROWS * job.split.micro_batch)
    trainer.precompute_ref_logps = True
    order = by_length(visits, lengths, batch=training.batch)
    place = {row: number for number, row in enumerate(used)}
    trainer.train_dataset = _table(rows, reference).select([place[row] for row in order])
    if evaluation:
        held = sorted(evaluation, key=lambda pair: -pair.longest(training.max_length))
        rows = [_row(pair, training.max_length) for pair in held]
        trainer.eval_dataset = _table(
            rows, reference_log_probs(trainer, rows, batch=_REFERENCE_ROWS * job.split.micro_batch)
        )
    tokens = [pairs[row].tokens(training.max_length) for row in order]
    numbers = [pairs[row].rows for row in order]
    return run(trainer, job, tokens=tokens, rows=numbers, measured=measured(job, evaluation))


def _table(rows: Sequence[Mapping[str, Any]], reference: Mapping[str, Sequence[float]]) -> Dataset:
    return Dataset.from_dict({**{name: [row[name] for row in rows] for name in rows[0]}, **reference})


def _row(pair: Pair, max_length: int) -> dict[str, tuple[int, ...]]:
    """As TRL's collator takes it; what it would cut off is not carried along."""
    room = max_length - len(pair.prompt)
    return {"prompt_ids": pair.prompt, "chosen_ids": pair.chosen[:room], "rejected_ids": pair.rejected[:room]}


def loss_of(training: DpoTraining) -> dict[str, Any]:
    """TRL's losses, with weights that sum up to what the manifest says.

    For the sigmoid loss label smoothing means conservative DPO, ``(1 - e) S + e S'``, with S the loss of the pair and
    S' that of the pair swapped. TRL has only its robust variant, ``R = ((1 - e) S - e S') / (1 - 2 e)``, from which it
    follows. The losses are summed in the order of their names, whatever order they were written in.
    """
    weights = {str(name): weight for name, weight in sorted(training.loss.items())}
    smoothing = training.label_smoothing
    if smoothing and "sigmoid" in weights:
        plain = weights["sigmoid"]
        weights["sigmoid"] = 2 * (1 - smoothing) * plain
        weights["robust"] = weights.get("robust", 0.0) - (1 - 2 * smoothing) * plain
    return {
        "loss_type": list(weights),
        "loss_weights": list(weights.values()),
        "label_smoothing": smoothing,
        "f_divergence_type": training.f_divergence_type,
        "f_alpha_divergence_coef": training.f_alpha_divergence_coef,
        "discopop_tau": training.discopop_tau,
        "ld_alpha": None if training.ld_alpha == 1.0 else training.ld_alpha,
        "use_weighting": training.use_weighting,
    }
