"""What the settings of a training on preferences must keep together, each clash with its key. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from builder.adapter_types.table import dropouts
from builder.clash import Clash

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.train_settings import CpoTraining, DpoTraining, KtoTraining

__all__ = ["SORTED", "cpo_clashes", "dpo_clashes", "dropout_clashes", "kto_clashes", "likelihood_weight"]

SORTED: Final = frozenset({"aot", "aot_unpaired"})
"""Losses of DPO that compare the rows of a batch with each other, in the order of their margins."""

_SMOOTHED: Final = frozenset({"sigmoid", "robust", "exo_pair"}) | SORTED
_DIFFERENCES: Final = frozenset({"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"})
_TAU: Final = 0.05
_ALPHA: Final = 0.5
_GAMMA: Final = 0.5
_MEANS: Final = ("simpo", "ipo")


def dropout_clashes(kind: str, adapter: object) -> Iterator[Clash]:
    """A dropout: answers are compared by what the whole model finds of them.

    Args:
        kind: Kind of the stage.
        adapter: Its ``adapter`` table; ``None`` without one.
    """
    for key in dropouts(adapter):
        yield Clash(
            path=("adapter", key),
            problem=f"{kind} compares answers by the whole model, without dropout",
            mend="take it out",
        )


def dpo_clashes(training: DpoTraining) -> Iterator[Clash]:
    """Settings of DPO's losses that contradict each other, or that nothing reads.

    Args:
        training: The stage's ``train`` table, defaults filled in.
    """
    losses: set[str] = set(training.loss)
    named = " and ".join(sorted(losses))
    if training.label_smoothing and not losses & _SMOOTHED:
        yield Clash(
            path=("train", "label_smoothing"),
            problem=f"no label smoothing is known to {named}",
            mend="write 0, or `loss: sigmoid`",
        )
    for loss in sorted(losses & {"robust", "exo_pair"}):
        if not training.label_smoothing:
            yield Clash(
                path=("train", "loss"),
                problem=f"{loss} is for pairs labelled the wrong way round, and label_smoothing is 0",
                mend="write `label_smoothing: 0.1` for robust, 0.001 for exo_pair, or `loss: sigmoid`",
            )
    if training.f_divergence_type != "reverse_kl" and (others := sorted(losses - _DIFFERENCES)):
        yield Clash(
            path=("train", "f_divergence_type"),
            problem=f"{' and '.join(others)} cannot be had with {training.f_divergence_type}",
            mend=f"write `reverse_kl`; others go with {', '.join(sorted(_DIFFERENCES))}",
        )
    if training.use_weighting and losses & SORTED:
        yield Clash(
            path=("train", "use_weighting"),
            problem=f"{' and '.join(sorted(losses & SORTED))} puts the rows of a batch into another order",
            mend="take `use_weighting` out, or take another loss",
        )
    if losses & SORTED and training.batch == 1:
        yield Clash(
            path=("train", "batch"),
            problem=f"{' and '.join(sorted(losses & SORTED))} compares the rows of a batch, and there is one",
            mend="write a larger batch",
        )
    yield from _unread(training, losses)


def _unread(training: DpoTraining, losses: set[str]) -> Iterator[Clash]:
    """Settings that another one switches off."""
    if training.discopop_tau != _TAU and "discopop" not in losses:
        yield Clash(
            path=("train", "discopop_tau"),
            problem="it belongs to the loss discopop, which is not among the losses",
            mend="take it out, or write `loss: discopop`",
        )
    if training.f_alpha_divergence_coef != _ALPHA and training.f_divergence_type != "alpha_divergence":
        yield Clash(
            path=("train", "f_alpha_divergence_coef"),
            problem=f"it belongs to alpha_divergence, not to {training.f_divergence_type}",
            mend="take it out, or write `f_divergence_type: alpha_divergence`",
        )


def kto_clashes(training: KtoTraining) -> Iterator[Clash]:
    """Settings of KTO that contradict each other.

    Args:
        training: The stage's ``train`` table, defaults filled in.
    """
    if training.loss == "kto" and training.batch == 1:
        yield Clash(
            path=("train", "batch"),
            problem="the loss kto compares rows with their neighbours, and a batch has one",
            mend="write a larger batch, or `loss: apo_zero_unpaired`",
        )
    if not training.desirable_weight and not training.undesirable_weight:
        yield Clash(
            path=("train", "undesirable_weight"),
            problem="neither good answers nor others weigh anything",
            mend="write a weight above 0 for one of them",
        )


def cpo_clashes(training: CpoTraining) -> Iterator[Clash]:
    """Settings of CPO's losses that contradict each other, or that nothing reads.

    Args:
        training: The stage's ``train`` table, defaults filled in.
    """
    if training.label_smoothing and training.loss in {"hinge", "ipo"}:
        yield Clash(
            path=("train", "label_smoothing"),
            problem=f"no label smoothing is known to {training.loss}",
            mend="write 0, or `loss: sigmoid`",
        )
    if training.simpo_gamma != _GAMMA and training.loss != "simpo":
        yield Clash(
            path=("train", "simpo_gamma"),
            problem=f"it belongs to the loss simpo, not to {training.loss}",
            mend="take it out, or write `loss: simpo`",
        )
    if training.alpha and training.loss not in _MEANS:
        yield Clash(
            path=("train", "alpha"),
            problem=f"AlphaPO shapes the probability of a mean token; {training.loss} takes that of the whole answer",
            mend="write 0, or `loss: simpo`",
        )


def likelihood_weight(training: CpoTraining) -> float:
    """Weight of the likelihood of the better answer: as written, else that of the loss as its paper has it.

    Args:
        training: The stage's ``train`` table of a ``cpo``.
    """
    if training.cpo_alpha is not None:
        return training.cpo_alpha
    return 0.0 if training.loss == "simpo" else 1.0
