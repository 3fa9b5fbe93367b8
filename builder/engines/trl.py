"""TRL as the engine of supervised and preference training: one process, public arguments only.

What TRL and transformers leave open is settled here. Rows come in an order of our own, so it does not hang on their
samplers. Nothing is reported anywhere. A checkpoint counts only when it is sealed. A loss that is no number ends the
training. DPO's reference is worked out before the first step, so it is the model as it came and nothing that moves.
"""

from __future__ import annotations

import math
import time
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from builder.engines import checkpoints
from builder.engines.schedule import by_length, visit_order
from registry.errors import InvalidError, MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.engines.schedule import Split
    from builder.environment import Device
    from builder.settings import DpoTraining, Training
    from builder.stages.tokens import Example, Pair

__all__ = ["Job", "Trained", "train_dpo", "train_sft"]

_SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
_REPORTS = 10
_AS_RENDERED = "{{ messages[-1]['content'] }}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What both trainers need.

    Attributes:
        training: The stage's ``train`` table.
        steps: Optimiser steps.
        split: How a batch is computed.
        checkpoint_steps: Optimiser steps between two checkpoints.
        folder: Where the checkpoints are.
        device: Where the arithmetic happens.
        say: Tells the person at the terminal.
    """

    training: Training
    steps: int
    split: Split
    checkpoint_steps: int
    folder: Path
    device: Device
    say: Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A model after its training.

    Attributes:
        model: The module tree that was trained; with an adapter, PEFT's wrapper of it.
        history: What was logged of each optimiser step, from the first one on, also over a resume.
        tokens: Tokens that went through the model in training, padding left out.
        resumed_from: Step of the checkpoint that this process began at; 0 for the beginning.
        duration_s: Seconds of training in this process, set-up left out.
    """

    model: Any
    history: tuple[Mapping[str, float], ...]
    tokens: int
    resumed_from: int
    duration_s: float


def train_sft(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    examples: Sequence[Example],
    *,
    packed: bool = False,
    new_adapter: Any = None,  # noqa: ANN401
) -> Trained:
    """Train on labelled sequences.

    Args:
        job: Settings and place.
        model: A causal model, or PEFT's wrapper of one; what requires gradients is trained, in place.
        tokenizer: Its tokenizer, for the padding.
        examples: Sequences with labels.
        packed: Whether an example may hold several rows, which must not see each other.
        new_adapter: PEFT configuration of an adapter to put on ``model``.

    Raises:
        MachineError: The loss is no number, or the device's memory does not do.
    """
    from trl.trainer.sft_config import SFTConfig  # noqa: PLC0415 - this trainer alone
    from trl.trainer.sft_trainer import SFTTrainer  # noqa: PLC0415

    lengths = [len(example.input_ids) for example in examples]
    visits = visit_order(len(examples), visits=job.steps * job.training.batch, seed=job.training.seed)
    order = by_length(visits, lengths, batch=job.training.batch)
    columns = {
        "input_ids": [example.input_ids for example in examples],
        "labels": [example.labels for example in examples],
    }
    if packed:
        columns["seq_lengths"] = [example.lengths for example in examples]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **_arguments(job), packing=packed, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}
        ),
        train_dataset=Dataset.from_dict(columns).select(order),
        processing_class=tokenizer,
        peft_config=new_adapter,
    )
    return _run(trainer, job, tokens=sum(lengths[row] for row in order))


def train_dpo(
    job: Job,
    model: Any,  # noqa: ANN401 - TRL has no types
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[Pair],
    *,
    training: DpoTraining,
    new_adapter: Any = None,  # noqa: ANN401
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

    Raises:
        InvalidError: The loss cannot be had with that label smoothing.
        MachineError: The loss is no number, or the device's memory does not do.
    """
    from trl.trainer.dpo_config import DPOConfig  # noqa: PLC0415 - this trainer alone
    from trl.trainer.dpo_trainer import DPOTrainer  # noqa: PLC0415

    lengths = [pair.longest(training.max_length) for pair in pairs]
    visits = visit_order(len(pairs), visits=job.steps * training.batch, seed=training.seed)
    # The reference's pass goes over rows of like lengths, each once, and only those that are trained on.
    used = sorted(set(visits), key=lambda row: -lengths[row])
    place = {row: number for number, row in enumerate(used)}
    columns = {part: [pairs[row].text[part] for row in used] for part in ("prompt", "chosen", "rejected")}
    # Messages come rendered, in the last message of each part; the base's own template runs in no trainer.
    reader = copy(tokenizer)
    reader.chat_template = _AS_RENDERED
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            **_arguments(job),
            **_loss(training),
            beta=training.beta,
            max_length=training.max_length,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=job.split.micro_batch,
        ),
        train_dataset=Dataset.from_dict(columns),
        processing_class=reader,
        peft_config=new_adapter,
    )
    if len(trainer.train_dataset) != len(used):
        raise MachineError(
            f"the trainer keeps {len(trainer.train_dataset)} of {len(used)} pairs, so rows cannot be told apart",
            where="TRL",
            mend="lower train.max_length a little and tell us; the tokenizer cuts these prompts in another place",
        )
    order = by_length(visits, lengths, batch=training.batch)
    trainer.train_dataset = trainer.train_dataset.select([place[row] for row in order])
    return _run(trainer, job, tokens=sum(pairs[row].tokens(training.max_length) for row in order))


def _arguments(job: Job) -> dict[str, Any]:
    """What both trainers are told; the defaults of TRL and transformers differ, so nothing that matters is left out."""
    training = job.training
    return {
        "output_dir": str(job.folder),
        "max_steps": job.steps,
        "per_device_train_batch_size": job.split.micro_batch,
        "gradient_accumulation_steps": job.split.accumulation,
        "train_sampling_strategy": "sequential",
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": _SCHEDULES[training.schedule],
        "warmup_steps": round(training.warmup * job.steps),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_gradient_norm,
        "seed": training.seed,
        "data_seed": training.seed,
        "bf16": training.precision == "mixed-bfloat16",
        "use_cpu": job.device.kind == "cpu",
        "activation_checkpointing": False,
        "dataloader_pin_memory": job.device.kind == "cuda",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps" if job.steps > job.checkpoint_steps else "no",
        "save_steps": job.checkpoint_steps,
        "save_total_limit": 2,  # the last sealed one stays while the next is written
    }


def _loss(training: DpoTraining) -> dict[str, Any]:
    """TRL's loss with label smoothing.

    For the sigmoid loss that is conservative DPO, ``(1 - e) S + e S'``, with S the loss of the pair and S' that of the
    pair swapped. TRL has only its robust variant, ``R = ((1 - e) S - e S') / (1 - 2 e)``, from which it follows.

    Raises:
        InvalidError: The loss has no label smoothing.
    """
    smoothing = training.label_smoothing
    if not smoothing:
        return {"loss_type": [training.loss]}
    if training.loss != "sigmoid":
        raise InvalidError(
            f"the {training.loss} loss has no label smoothing",
            where="train.label_smoothing",
            mend="write 0, or `loss: sigmoid`",
        )
    return {
        "loss_type": ["sigmoid", "robust"],
        "loss_weights": [2 * (1 - smoothing), -(1 - 2 * smoothing)],
        "label_smoothing": smoothing,
    }


class _Watch(TrainerCallback):  # type: ignore[misc] # transformers has no types
    """Reports, stops at a loss that is no number, and seals checkpoints."""

    def __init__(self, job: Job) -> None:
        """Keep the job."""
        self._job = job

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:  # noqa: ANN401, ARG002
        """Look at the loss of each step, before a checkpoint of that step is written."""
        if "loss" not in logs:
            return
        step, steps = state.global_step, self._job.steps
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise _diverged(name, logs[name], step, self._job.folder)
        if step == steps or step % max(1, steps // _REPORTS) == 0:
            self._job.say(f"step {step} of {steps}, loss {logs['loss']:.4f}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002
        """Seal the checkpoint just written."""
        checkpoints.seal(self._job.folder / f"checkpoint-{state.global_step}")


def _run(trainer: Any, job: Job, *, tokens: int) -> Trained:  # noqa: ANN401 - TRL has no types
    """Train from the last sealed checkpoint, or from the beginning."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Watch(job))
    checkpoint = checkpoints.latest(job.folder)
    if checkpoint is not None:
        job.say(f"resuming from the checkpoint of step {checkpoints.step_of(checkpoint)}")
    began = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the device's memory is too small for micro-batches of {job.split.micro_batch} rows",
            where=job.device.name,
            mend="write a smaller `micro_batch:` into .varietal/runner.yaml, or lower train.max_length; "
            f"a training with a checkpoint keeps its own: remove {job.folder} first",
        ) from error
    history = tuple(entry for entry in trainer.state.log_history if "loss" in entry)
    return Trained(
        model=trainer.model,
        history=history,
        tokens=tokens,
        resumed_from=0 if checkpoint is None else checkpoints.step_of(checkpoint),
        duration_s=time.monotonic() - began,
    )


def _diverged(name: str, value: float, step: int, folder: Path) -> MachineError:
    good = checkpoints.latest(folder)
    last = f"the last good checkpoint is of step {checkpoints.step_of(good)}" if good else "there is no checkpoint yet"
    return MachineError(
        f"{name} is {value} at step {step}; {last}",
        where="training",
        mend="lower train.learning_rate, raise train.warmup, or look for broken rows",
    )
