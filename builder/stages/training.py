"""What every training stage shares: the machine is fixed, the job settled, the figures told."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder.engines.checkpoints import any_checkpoint
from builder.engines.compiling import is_compiled, pays_after
from builder.engines.job import Job
from builder.engines.ranks import agreed, count, is_first, join
from builder.engines.schedule import choose_split, keep_split, kept_split, steps_of
from builder.environment import prepare
from builder.room import artifact_bytes
from builder.stages.data_rows import training_rows
from builder.stages.room import room_of
from builder.trackers import check_trackers, tracker_environment
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.engines.job import Trained
    from builder.engines.schedule import Split
    from builder.environment import Device
    from builder.stage import Context, Input
    from builder.stages.data_rows import DataRows
    from builder.train_settings import Training

__all__ = ["check_length", "figures", "make_job", "positions", "remarks", "start"]

_FIGURES = {
    "loss": "train_loss",
    "rewards/accuracies": "train_reward_accuracy",
    "rewards/margins": "train_reward_margin",
    "rewards/chosen": "train_reward_chosen",
    "rewards/rejected": "train_reward_rejected",
    "accuracy": "train_reward_accuracy",  # of a model that scores
    "margin": "train_reward_margin",
    "kl": "train_kl",
}
"""What TRL logs of a step, and what a record calls it."""


def start(context: Context[Any]) -> Device:
    """Fix the machine, before anything of the training stack is imported; a resume keeps its number of threads."""
    check_trackers(context.runner.report_to)
    for name, value in tracker_environment(context.runner.report_to, context.root, _run_name(context)).items():
        os.environ.setdefault(name, value)
    kept = _split_to_keep(context)
    device = prepare(context.runner, threads=kept.threads if kept else 0)
    join(device)
    return replace(device, shares=count() > 1 and context.runner.sharding != "none")


def make_job(
    context: Context[Any],
    device: Device,
    training: Training,
    *,
    rows: int,
    row_tokens: int,
    model: Any,  # noqa: ANN401 - transformers has no types
    lengths: Sequence[int] = (),
) -> Job:
    """Settle steps and split, and remember the split before the first step.

    Args:
        context: The stage.
        device: Where the arithmetic happens.
        training: The stage's ``train`` table.
        rows: Rows, or packed sequences.
        row_tokens: Tokens of the longest; both sequences of a preference.
        model: For the size of its activations.
        lengths: Tokens of each row's longer sequence, where the engine pads them for compiled layers; else empty.

    Raises:
        InvalidError: The batch cannot be split as the runner asks.
    """
    steps = steps_of(training, rows)
    room = room_of(
        context,
        device,
        model,
        row_tokens=row_tokens,
        share=max(1, training.batch // count()),
        shares=count() if device.shares else 1,
    )
    split = _split_to_keep(context) or choose_split(
        batch=training.batch,
        wanted=context.runner.micro_batch,
        fits=room.fits,
        threads=device.threads,
        devices=count(),
    )
    split = replace(split, sharding=context.runner.sharding) if count() > 1 else split
    split = agreed(
        replace(
            split,
            compiled=_is_compiled(context, device, training, split=split, model=model, steps=steps, lengths=lengths),
        )
    )
    if is_first():
        keep_split(context.work, split)
    context.say(
        f"{rows} rows, {steps} steps of {training.batch} rows "
        f"({split.accumulation} x {split.micro_batch}) on {_place(device, split)}, {split.threads} threads"
    )
    return Job(
        training=training,
        steps=steps,
        split=split,
        checkpoint_steps=context.runner.checkpoint_steps,
        folder=context.work,
        device=device,
        say=context.say,
        data=", ".join(one.source for one in context.all("data")),
        places=lambda: training_rows(context).places,
        artifact_bytes=artifact_bytes(context.settings, context.inputs, context.root),
        memory=room.memory(),
        smaller=room.smaller(),
        report_to=context.runner.report_to,
        run=_run_name(context),
    )


def check_length(model: Any, longest: int, data: Input | DataRows) -> None:  # noqa: ANN401 - transformers has no types
    """Refuse rows that the model cannot read: they would fail, or teach it nothing, in the middle of the training.

    Args:
        model: A transformers model, or PEFT's wrapper of one.
        longest: Tokens of the longest row.
        data: The data set.

    Raises:
        InvalidError: The longest row is longer than the model's positions.
    """
    context = positions(model)
    if context is not None and longest > context:
        raise InvalidError(
            f"the longest row has {longest} tokens within max_length, the model reads at most {context}",
            where=f"train.max_length, with {data.source}",
            mend=f"write `train: {{max_length: {context}}}` or less",
        )


def positions(model: Any) -> int | None:  # noqa: ANN401 - transformers has no types
    """Most tokens that a model reads; ``None`` where it names no bound.

    Args:
        model: A transformers model, or PEFT's wrapper of one.
    """
    found: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found


def figures(trained: Trained) -> dict[str, dict[str, float]]:
    """The training's own metrics: means over the last tenth of its steps, and counts.

    Only what the same machine gives again is in it; speed is a note.
    """
    tail = trained.history[-max(1, len(trained.history) // 10) :]
    # A step's batch may lack what a figure is about, such as an answer that is not good.
    logged = {name: [float(entry[name]) for entry in tail if name in entry] for name in _FIGURES}
    means = {_FIGURES[name]: sum(values) / len(values) for name, values in logged.items() if values}
    if losses := dict(trained.measured):
        means["eval_loss"] = losses[trained.kept_step or max(losses)]
    counts = {"steps": float(len(trained.history)), "tokens": float(trained.tokens)}
    return {label: {"value": value} for label, value in (means | counts).items()}


def remarks(trained: Trained, job: Job) -> tuple[str, ...]:
    """What a reader of the record should know of the run itself."""
    steps = len(trained.history)
    share = trained.tokens * (steps - trained.resumed_from) / max(1, steps)
    speed = f"{share / max(trained.duration_s, 1e-9):.0f} tokens a second in training"
    resumed = (f"resumed from the checkpoint of step {trained.resumed_from}",) if trained.resumed_from else ()
    tried = ", then ".join(map(str, job.split.halved))
    halved = (f"micro-batch {job.split.micro_batch}: the device's memory was too small for {tried}",) if tried else ()
    compiled = ("the layers were compiled",) if job.split.compiled else ()
    return (speed, *resumed, *halved, *compiled, *_measured(trained, job))


def _measured(trained: Trained, job: Job) -> tuple[str, ...]:
    """What the loss on held-out rows led to."""
    steps = len(trained.history)
    early = f"ended after step {steps} of {job.steps}: the loss on held-out rows found no new low"
    kept = f"the weights are those of step {trained.kept_step}, the lowest loss on held-out rows"
    return (*((early,) if steps < job.steps else ()), *((kept,) if trained.kept_step else ()))


def _run_name(context: Context[Any]) -> str:
    """What trackers call this training: the same for every try of the same action."""
    return f"{context.settings.kind}-{context.work.parent.name[:12]}"


def _split_to_keep(context: Context[Any]) -> Split | None:
    """The split of a training with a checkpoint, or of one that was halved; any other may still follow the runner."""
    kept = kept_split(context.work)
    return kept if kept is not None and (kept.halved or any_checkpoint(context.work)) else None


def _place(device: Device, split: Split) -> str:
    """Where it is computed, in words."""
    sharded = ", sharded" if split.sharding != "none" else ""
    return f"each of {split.processes} x {device.name}{sharded}" if split.processes > 1 else device.name


def _is_compiled(
    context: Context[Any],
    device: Device,
    training: Training,
    *,
    split: Split,
    model: Any,  # noqa: ANN401 - transformers has no types
    steps: int,
    lengths: Sequence[int],
) -> bool:
    """Whether the layers are compiled; a resumed training does as it began."""
    if _split_to_keep(context) is not None:
        return split.compiled
    able = bool(
        lengths
        and device.kind == "cuda"
        and training.precision == "mixed-bfloat16"
        and split.sharding == "none"
        and getattr(model, "_no_split_modules", None)
        and not getattr(model, "is_quantized", False)
    )
    if not able:
        return False
    config = model.config.get_text_config()
    sequences = getattr(context.settings, "SEQUENCES", 1)
    pays = pays_after(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        step_tokens=sequences * training.batch * sum(lengths) / len(lengths) / split.processes,
        lengths=lengths,
    )
    compiled = is_compiled(context.runner.compile, able=able, steps=steps, pays=pays)
    context.say(f"layers are {'' if compiled else 'not '}compiled: that pays after {pays} steps, of {steps}")
    return compiled
