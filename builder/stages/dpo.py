"""``dpo``: training on preferences; whole models, chosen components, new adapters, adapters that go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.preference_rules import SORTED
from builder.stages.data_rows import evaluation_rows, training_rows
from builder.stages.subject import open_subject
from builder.stages.tokens import encode_pairs
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job, start

if TYPE_CHECKING:
    from builder.engines.schedule import Split
    from builder.stage import Context, Outcome
    from builder.stages.subject import Subject
    from builder.stages.tokens import EncodedPairs
    from builder.train_settings import DpoTraining
    from builder.train_stages import DpoStage

__all__ = ["dpo"]


def dpo(context: Context[DpoStage]) -> Outcome:
    """Train on preferences, by direct preference optimisation.

    The reference is what ``from`` names, as it came: the model, or the model with its adapter.

    Raises:
        InvalidError: Rows, selector or chat template do not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, data = context.settings, training_rows(context)
    device = start(context)
    from builder.engines.dpo import train_dpo  # noqa: PLC0415
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set

    with quiet():
        subject = open_subject(context, device)
        limit = stage.train.max_length
        encoded = encode_pairs(subject.tokenizer, data.rows, max_length=limit, where=data.source, places=data.places)
        pairs, longest = encoded.pairs, max(pair.longest(limit) for pair in encoded.pairs)
        check_length(subject.model, longest, data)
        held = _held(context, subject, limit)
        job = make_job(
            context,
            device,
            stage.train,
            rows=len(pairs),
            row_tokens=2 * longest,
            model=subject.model,
            lengths=[pair.longest(limit) for pair in pairs],
        )
        trained = train_dpo(
            job,
            subject.model,
            subject.tokenizer,
            pairs,
            training=stage.train,
            new_adapter=subject.new_adapter,
            evaluation=held.pairs if held else None,
        )
        notes = (
            *data.notes,
            *encoded.notes(),
            *(held.notes("held-out rows") if held else ()),
            *_sorted(stage.train, job.split),
        )
        return finish(context, "dpo", subject, trained, job, notes=notes)


def _held(context: Context[DpoStage], subject: Subject, limit: int) -> EncodedPairs | None:
    """The pairs that are not learnt."""
    rows = evaluation_rows(context)
    if rows is None:
        return None
    found = encode_pairs(subject.tokenizer, rows.rows, max_length=limit, where=rows.source, places=rows.places)
    check_length(subject.model, max(pair.longest(limit) for pair in found.pairs), rows)
    return found


def _sorted(training: DpoTraining, split: Split) -> tuple[str, ...]:
    """Where a loss sorts rows, it sees those that are worked on together, and so the split has a say in it."""
    losses = sorted(SORTED & set(training.loss))
    return (f"{' and '.join(losses)} compared {split.micro_batch} rows at a time",) if losses else ()
