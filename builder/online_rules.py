"""What the settings of trainings on sampled answers must keep together, each clash with its key. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.adapter_types.lora import LoraSettings
from builder.adapter_types.table import dropouts
from builder.clash import Clash
from builder.online_settings import DistillTraining, GrpoTraining, RatedTraining, RlooTraining

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.online_settings import SampledTraining

__all__ = ["distill_clashes", "rated_clashes", "sampled_clashes"]

_ENDS = 2  # of a range
_SAMPLING = ("max_completion_length", "top_p", "top_k", "min_p", "repetition_penalty")


def sampled_clashes(training: SampledTraining, adapter: object) -> Iterator[Clash]:
    """Settings of a training on sampled answers that contradict each other.

    Args:
        training: The stage's ``train`` table, defaults filled in.
        adapter: Its ``adapter`` table; ``None`` where it has none.
    """
    if training.max_completion_length >= training.max_length:
        yield _train(
            "max_completion_length",
            f"answers of {training.max_completion_length} tokens leave no room for a prompt in {training.max_length}",
            "lower it, or raise `max_length`, which holds prompt and answer",
        )
    yield from _dropout_clashes(adapter)


def distill_clashes(training: DistillTraining, adapter: object, data_format: str) -> Iterator[Clash]:
    """Settings of a distillation that contradict each other, or the data.

    Args:
        training: The stage's ``train`` table, defaults filled in.
        adapter: Its ``adapter`` table; ``None`` where it has none.
        data_format: Format of its data; empty where it is not known.
    """
    if data_format == "prompts":
        yield from sampled_clashes(training, adapter)
        return
    yield from _dropout_clashes(adapter)
    if data_format == "text" and training.loss_on == "assistant":
        yield _train("loss_on", "rows of text have no assistant's turns to learn", "write `loss_on: all`")
    plain = DistillTraining()
    for key in _SAMPLING if data_format else ():
        if getattr(training, key) != getattr(plain, key):
            yield _train(key, f"rows of {data_format} are learnt as they are, nothing is sampled", "take it out")


def _dropout_clashes(adapter: object) -> Iterator[Clash]:
    for key in dropouts(adapter):
        yield Clash(
            path=("adapter", key),
            problem="answers that are learnt from are not sampled through a dropout",
            mend="write 0",
        )


def rated_clashes(training: RatedTraining, rewards: Mapping[str, Any], adapter: object) -> Iterator[Clash]:
    """Settings of a training on rated answers that contradict each other.

    Args:
        training: The stage's ``train`` table, defaults filled in.
        rewards: Its ``rewards`` table.
        adapter: Its ``adapter`` table; ``None`` where it has none.
    """
    if training.batch % training.num_generations:
        yield _train(
            "batch",
            f"{training.batch} answers are no whole groups of {training.num_generations}",
            f"write a multiple of `num_generations`, such as {_next(training.batch, training.num_generations)}",
        )
    if rewards and not any(one.weight for one in rewards.values()):
        yield Clash(path=("rewards",), problem="every weight is 0, so all answers are alike", mend="weigh one of them")
    if training.beta and isinstance(adapter, LoraSettings) and adapter.bias != "none":
        yield Clash(
            path=("adapter", "bias"),
            problem="biases are the model's own, so the reference that `beta` holds answers to would move with them",
            mend="write `bias: none`, or `train: {beta: 0}`",
        )
    if isinstance(training, GrpoTraining):
        yield from _grpo_clashes(training, len(rewards))
    if isinstance(training, RlooTraining) and training.reward_clip_range:
        ends = training.reward_clip_range
        if len(ends) != _ENDS or ends[0] >= ends[1]:
            yield _train("reward_clip_range", "no lowest and highest reward", "write two numbers, the lower first")


def _grpo_clashes(training: GrpoTraining, rewards: int) -> Iterator[Clash]:
    loss = training.loss_type
    if loss == "cispo" and not training.epsilon_high:
        yield _train("epsilon_high", "cispo bounds weights by it, and it is not set", "write it; its paper has 5.0")
    if loss == "luspo" and training.importance_sampling_level != "sequence":
        yield _train("importance_sampling_level", "luspo weighs sequences", "write `sequence`")
    if loss in {"sapo", "cispo"} and training.delta:
        yield _train("delta", f"{loss} has no bound of that kind", "take it out, or choose another `loss_type`")
    if loss == "sapo" and training.epsilon_high:
        yield _train("epsilon_high", "sapo clips nothing", "take it out, or choose another `loss_type`")
    if training.multi_objective_aggregation == "normalize_then_sum":
        if training.scale_rewards != "group":
            yield _train("scale_rewards", "normalize_then_sum scales in its own way", "take it out")
        if rewards == 1:
            yield _train("multi_objective_aggregation", "there is one reward, and nothing to sum", "take it out")


def _next(count: int, of: int) -> int:
    return -(-count // of) * of


def _train(key: str, problem: str, mend: str) -> Clash:
    return Clash(path=("train", key), problem=problem, mend=mend)
