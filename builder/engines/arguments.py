"""What every TRL trainer is told; the defaults of TRL and transformers differ, so nothing that matters is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.engines.sharded import sharding_arguments

if TYPE_CHECKING:
    from builder.engines.job import Job

__all__ = ["arguments"]

_SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def arguments(job: Job) -> dict[str, Any]:
    """Arguments of transformers' trainer for a job, as keywords of any TRL configuration."""
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
        # Buckets keep their first layout then, also over a resume; and what a batch does not use is let be.
        "ddp_find_unused_parameters": True,
        "ddp_broadcast_buffers": False,
        "dataloader_pin_memory": job.device.kind == "cuda",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [*job.report_to] or "none",
        "run_name": job.run,
        "disable_tqdm": True,
        "save_strategy": "steps" if job.steps > job.checkpoint_steps else "no",
        "save_steps": job.checkpoint_steps,
        "save_total_limit": 2,  # the last sealed one stays while the next is written
        **sharding_arguments(job),
    }
