"""The metrics of the ``evaluate`` kind, as figures over sums of nats. No torch.

==================== ==================== ==========================================================================
metric               data                 value
==================== ==================== ==========================================================================
bits_per_byte        text                 bits to predict the texts, over their UTF-8 bytes
loss                 text, messages       nats, mean over the tokens that count
preference_accuracy  preference           share of pairs whose chosen answer is the likelier one
preference_margin    preference           nats, mean of log p(chosen) - log p(rejected)
reward_accuracy      preference           share of pairs whose chosen answer gained more over ``against``
reward_margin        preference           nats, mean difference of those gains (DPO logs it times beta)
kl                   text, messages       nats, KL(from || against), mean over the tokens that count
top1_agreement       text, messages       share of tokens for which both find the same next token likeliest
pair_accuracy        preference           share of pairs whose chosen answer a model that scores rates higher
pair_margin          preference           score of the chosen answer less that of the other, mean
==================== ==================== ==========================================================================

An answer's log-probability is the sum over its tokens; a tie is no win. Which tokens count is said in
``builder.stages.sequences``. The first four and the last two are measured on ``against`` too, each artifact with its
own tokenizer; the others compare token by token, so both must have one tokenizer. All is float32, summed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builder.stages.sequences import Sequences

__all__ = ["METRICS", "Measured", "Metric", "Side"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One artifact on one data set: its sequences, and what they cost, one figure a sequence.

    That is in nats; of a model that scores it is minus the score.
    """

    sequences: Sequences
    nats: tuple[float, ...]

    def margins(self) -> list[float]:
        """The log-probability, or score, of the chosen answer less that of the rejected one, of every pair."""
        return [rejected - chosen for chosen, rejected in zip(self.nats[::2], self.nats[1::2], strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One data set measured.

    Attributes:
        subject: The artifact under ``from``.
        against: The other; ``None`` without one.
        divergence: KL(subject || against), in nats, one figure a sequence.
        agreed: Tokens that both predict alike.
    """

    subject: Side
    against: Side | None
    divergence: tuple[float, ...]
    agreed: int

    @property
    def other(self) -> Side:
        """The artifact under ``against``, where a metric cannot do without it.

        Raises:
            ValueError: There is none.
        """
        if self.against is None:
            message = "measured without `against`"
            raise ValueError(message)
        return self.against


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """How a metric is reckoned.

    Attributes:
        formats: Formats of data that it can be measured on.
        of_one: The figure of one artifact.
        of_two: The figure of both artifacts together; a metric has this one or the other.
        rates: Whether it is one of models that score, rather than of those that write.
    """

    formats: tuple[str, ...]
    of_one: Callable[[Side], float] | None = None
    of_two: Callable[[Measured], float] | None = None
    rates: bool = False


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _rewards(measured: Measured) -> list[float]:
    """How much more the chosen answer gained over ``against`` than the rejected one, in nats."""
    pairs = zip(measured.subject.margins(), measured.other.margins(), strict=True)
    return [subject - against for subject, against in pairs]


METRICS: Mapping[str, Metric] = {
    "bits_per_byte": Metric(
        formats=("text",), of_one=lambda side: math.fsum(side.nats) / math.log(2) / side.sequences.size_bytes
    ),
    "loss": Metric(formats=("messages", "text"), of_one=lambda side: math.fsum(side.nats) / side.sequences.tokens),
    "preference_accuracy": Metric(
        formats=("preference",), of_one=lambda side: _mean([margin > 0 for margin in side.margins()])
    ),
    "preference_margin": Metric(formats=("preference",), of_one=lambda side: _mean(side.margins())),
    "reward_accuracy": Metric(
        formats=("preference",), of_two=lambda both: _mean([reward > 0 for reward in _rewards(both)])
    ),
    "reward_margin": Metric(formats=("preference",), of_two=lambda both: _mean(_rewards(both))),
    "kl": Metric(
        formats=("messages", "text"), of_two=lambda both: math.fsum(both.divergence) / both.subject.sequences.tokens
    ),
    "top1_agreement": Metric(
        formats=("messages", "text"), of_two=lambda both: both.agreed / both.subject.sequences.tokens
    ),
    "pair_accuracy": Metric(
        formats=("preference",), of_one=lambda side: _mean([margin > 0 for margin in side.margins()]), rates=True
    ),
    "pair_margin": Metric(formats=("preference",), of_one=lambda side: _mean(side.margins()), rates=True),
}
