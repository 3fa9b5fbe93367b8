"""``dpo``: training on preferences; whole models, chosen components, new adapters, adapters that go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.stages.data_rows import training_rows
from builder.stages.preferences import held_pairs
from builder.stages.subject import open_subject
from builder.stages.tokens import encode_pairs
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job, start

if TYPE_CHECKING:
    from builder.stage import Context, Outcome
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
        held = held_pairs(context, subject, limit)
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
        notes = (*data.notes, *encoded.notes(), *(held.notes("held-out rows") if held else ()))
        return finish(context, "dpo", subject, trained, job, notes=notes)
