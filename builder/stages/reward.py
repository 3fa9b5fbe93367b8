"""``reward``: a model that scores answers, from preferences; whole models, components and adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.stages.data_rows import evaluation_rows, training_rows
from builder.stages.subject import open_subject
from builder.stages.tokens import encode_pairs
from builder.stages.trained import finish
from builder.stages.training import check_length, make_job, start
from registry.components import Network
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.environment import Device
    from builder.stage import Context, Outcome
    from builder.stages.data_rows import DataRows
    from builder.stages.subject import Subject
    from builder.stages.tokens import Pair
    from builder.train_stages import RewardStage

__all__ = ["reward"]


def reward(context: Context[RewardStage]) -> Outcome:
    """Train a score for answers: of each preference, the better one is to score higher.

    A language model gets a new head that gives one number; a model that has such a head keeps it and goes on.

    Raises:
        InvalidError: Rows, selector, head or chat template do not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, data = context.settings, training_rows(context)
    device = start(context)
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set
    from builder.engines.reward import train_reward  # noqa: PLC0415
    from builder.stages.scoring import component_changes  # noqa: PLC0415 - needs torch

    with quiet():
        subject, is_new = _open(context, device)
        limit = stage.train.max_length
        encoded = encode_pairs(subject.tokenizer, data.rows, max_length=limit, where=data.source, places=data.places)
        pairs = _whole(encoded.pairs, limit, data)
        longest = max(pair.longest(limit) for pair in pairs)
        check_length(subject.model, longest, data)
        job = make_job(context, device, stage.train, rows=len(pairs), row_tokens=2 * longest, model=subject.model)
        held = _held(context, subject, limit)
        trained = train_reward(
            job,
            subject.model,
            subject.tokenizer,
            pairs,
            training=stage.train,
            new_adapter=subject.new_adapter,
            evaluation=held,
        )
        cut = len(data.rows) - len(pairs)
        left = (f"{cut} rows were left out: longer than max_length, and a score is read at the end",) if cut else ()
        outcome = finish(context, "reward", subject, trained, job, notes=(*data.notes, *left))
        changes = component_changes(outcome.components, context.one("from").path, is_new=is_new)
        return replace(outcome, components=changes)


def _open(context: Context[RewardStage], device: Device) -> tuple[Subject, bool]:
    """What is trained, and whether it has a new head."""
    from builder.stages.models import is_scorer  # noqa: PLC0415 - transformers reads what start() has set
    from builder.stages.scoring import with_head  # noqa: PLC0415 - needs torch

    source = context.one("from")
    is_adapter = source.artifact is not None and source.artifact.type == "adapter"
    if is_adapter or is_scorer(source.path):
        return open_subject(context, device, scores=True), False
    if context.settings.adapter is not None:
        raise InvalidError(
            "an adapter is asked for, and the model has no head that gives one number",
            where=f"adapter, with from: {source.name}",
            mend="give it one first, in a stage of kind graft with `head: {type: reward}`, and start from that; "
            "or take `adapter` out",
        )
    headed = with_head(context)
    inputs = tuple(headed if one is source else one for one in context.inputs)
    subject = open_subject(replace(context, inputs=inputs), device, scores=True)
    trained = {name for name, one in subject.model.named_parameters() if one.requires_grad}
    places = Network.from_modules(subject.model).places
    if not any(places[name].component == "head" for name in trained & places.keys()):
        raise InvalidError(
            "the model's new head is random, and is not among the `targets`",
            where=f"targets: {context.settings.targets}",
            mend="name `head` in it, too",
        )
    return subject, True


def _held(context: Context[RewardStage], subject: Subject, limit: int) -> tuple[Pair, ...] | None:
    """The pairs that are not learnt."""
    rows = evaluation_rows(context)
    if rows is None:
        return None
    encoded = encode_pairs(subject.tokenizer, rows.rows, max_length=limit, where=rows.source, places=rows.places)
    pairs = _whole(encoded.pairs, limit, rows)
    check_length(subject.model, max(pair.longest(limit) for pair in pairs), rows)
    return pairs


def _whole(pairs: Sequence[Pair], limit: int, data: DataRows) -> tuple[Pair, ...]:
    """Those with both answers within the length; a score that is read in the middle of an answer says nothing of it."""
    found = tuple(pair for pair in pairs if len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) <= limit)
    if not found:
        raise InvalidError(
            f"every pair is longer than {limit} tokens, and a score is read at the end of an answer",
            where=data.source,
            mend="raise train.max_length",
        )
    return found
