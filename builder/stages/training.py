"""What every training stage shares: the machine is fixed, the job settled, the figures told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.engines.checkpoints import any_checkpoint
from builder.engines.job import Job
from builder.engines.schedule import choose_split, keep_split, kept_split, steps_of
from builder.environment import prepare
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.engines.job import Trained
    from builder.engines.schedule import Split
    from builder.environment import Device
    from builder.stage import Context, Input
    from builder.train_settings import Training

__all__ = ["check_length", "figures", "make_job", "remarks", "start"]

_CPU_ROOM_TOKENS = 16_384
_GPU_SHARE = 0.6
_ACTIVATION_BYTES = 34  # of a layer per token and hidden unit, in 16-bit arithmetic (Korthikanti et al. 2022)


def start(context: Context[Any]) -> Device:
    """Fix the machine, before anything of the training stack is imported; a resume keeps its number of threads."""
    kept = _split_to_keep(context)
    return prepare(context.runner, threads=kept.threads if kept else 0)


def make_job(
    context: Context[Any],
    device: Device,
    training: Training,
    *,
    rows: int,
    row_tokens: int,
    model: Any,  # noqa: ANN401 - transformers has no types
) -> Job:
    """Settle steps and split, and remember the split before the first step.

    Args:
        context: The stage.
        device: Where the arithmetic happens.
        training: The stage's ``train`` table.
        rows: Rows, or packed sequences.
        row_tokens: Tokens of the longest; both sequences of a preference.
        model: For the size of its activations.

    Raises:
        InvalidError: The batch cannot be split as the runner asks.
    """
    split = _split_to_keep(context) or choose_split(
        batch=training.batch,
        wanted=context.runner.micro_batch,
        row_tokens=row_tokens,
        room_tokens=_room_tokens(device, training, model),
        threads=device.threads,
    )
    keep_split(context.work, split)
    steps = steps_of(training, rows)
    context.say(
        f"{rows} rows, {steps} steps of {training.batch} rows "
        f"({split.accumulation} x {split.micro_batch}) on {device.name}, {split.threads} threads"
    )
    return Job(
        training=training,
        steps=steps,
        split=split,
        checkpoint_steps=context.runner.checkpoint_steps,
        folder=context.work,
        device=device,
        say=context.say,
    )


def check_length(model: Any, longest: int, data: Input) -> None:  # noqa: ANN401 - transformers has no types
    """Refuse rows that the model cannot read: they would fail, or teach it nothing, in the middle of the training.

    Args:
        model: A transformers model, or PEFT's wrapper of one.
        longest: Tokens of the longest row.
        data: The data set.

    Raises:
        InvalidError: The longest row is longer than the model's positions.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and longest > context:
        raise InvalidError(
            f"the longest row has {longest} tokens within max_length, the model reads at most {context}",
            where=f"train.max_length, with {data.source}",
            mend=f"write `train: {{max_length: {context}}}` or less",
        )


def figures(trained: Trained) -> dict[str, dict[str, float]]:
    """The training's own metrics: means over the last tenth of its steps, and counts.

    Only what the same machine gives again is in it; speed is a note.
    """
    tail = trained.history[-max(1, len(trained.history) // 10) :]
    names = {
        "loss": "train_loss",
        "rewards/accuracies": "train_reward_accuracy",
        "rewards/margins": "train_reward_margin",
    }
    means = {
        label: sum(float(entry[name]) for entry in tail) / len(tail)
        for name, label in names.items()
        if name in tail[-1]
    }
    counts = {"steps": float(len(trained.history)), "tokens": float(trained.tokens)}
    return {label: {"value": value} for label, value in (means | counts).items()}


def remarks(trained: Trained, job: Job) -> tuple[str, ...]:
    """What a reader of the record should know of the run itself."""
    done = job.steps - trained.resumed_from
    share = trained.tokens * done / job.steps
    speed = f"{share / max(trained.duration_s, 1e-9):.0f} tokens a second in training"
    resumed = (f"resumed from the checkpoint of step {trained.resumed_from}",) if trained.resumed_from else ()
    return (speed, *resumed)


def _split_to_keep(context: Context[Any]) -> Split | None:
    """The split of a training that has come as far as a checkpoint; an earlier one may still follow the runner."""
    return kept_split(context.work) if any_checkpoint(context.work) else None


def _room_tokens(device: Device, training: Training, model: Any) -> int:  # noqa: ANN401 - transformers has no types
    """Tokens whose activations fit the device, roughly; a runner's ``micro_batch:`` overrules it."""
    if device.kind == "cpu":
        return _CPU_ROOM_TOKENS
    import torch  # noqa: PLC0415 - GPU only

    free_bytes, _ = torch.cuda.mem_get_info()
    config = model.config.get_text_config()
    width = 2 if training.precision == "float32" else 1
    token_bytes = config.num_hidden_layers * config.hidden_size * _ACTIVATION_BYTES * width
    return int(free_bytes * _GPU_SHARE / token_bytes)
